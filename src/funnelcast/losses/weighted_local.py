"""Cross-entropy of reach from the rows of the local space alone, weighted to stand for the entire space."""

from __future__ import annotations

import torch
from torch import Tensor

from funnelcast.batch import Batch
from funnelcast.losses._local_weights import LocalWeights
from funnelcast.losses._propensity import known_transitions, transition_weights
from funnelcast.objective import StepLoss, require_chain
from funnelcast.prediction import Prediction
from funnelcast.registry import LOSSES
from funnelcast.schema import Schema

__all__ = ["WeightedLocal"]


@LOSSES.register
class WeightedLocal:
    """Cross-entropy of reach over the local space with the weights of the APEM paper's theorem 2.1.

    L = sum_{i>=2} w_i / N_i sum_{j: o_{i-1,j} = 1} v_ij [ -o_ij log p_ij - (1 - o_ij) log(1 - p_ij) ]

    v = 1 where o_i = 1 and sg((1 - p_i) / (p_{i-1} - p_i)) where o_i = 0: the rows that stopped at step i-1 stand for
    all those that never came to it, of which L sees none. With the true p in v the mean of L is that of `reach_bce`
    over all rows. v is taken from the model's own prediction, without a gradient, as 1 + (1 - p_{i-1}) / (p_{i-1} (1 -
    c_i)) in log space. The first step's local space is the entire space: train it with `reach_bce` and its step_weights
    [1, 0, ...]. These are not the weights of `transition_ips`, which serve c_i and not p_i.

    N_i counts the rows on which steps i-1 and i are observed, inside the local space or not. The theorem's weights are
    pi v with pi = P(T_{i-1} = 1) and a mean over the local rows; dividing by all rows puts the batch's own share in the
    place of pi, so that no estimate of it is needed and a batch without local rows has the loss 0.

    The theorem needs 0 < p_i < p_{i-1}. Predictions near or beyond that border get the weight `cap`, which pushes p_i
    down again; the cap biases the loss, and `clipped_share` tells on how many rows it binds.

    Args:
        schema: the funnel.
        step_weights: w_i >= 0 of each of the S-1 steps from step 2 on, one number or a list; 1 by default.
        cap: largest v >= 1, one number or one for each of those steps; `inf` caps nothing.

    Raises:
        ConfigError: the number of weights or caps is not S-1, or one is out of range.

    Source: APEM paper, section 2.2, theorem 2.1. The paper trains on the entire space; the cap is ours.

    Example:
        >>> from funnelcast.schema import Field, Step
        >>> steps = tuple(Step(name=name, reach_rate=0.1, transition_rate=0.5) for name in ("click", "buy"))
        >>> schema = Schema(dataset="shop", fields=(Field(name="item", size=10),), steps=steps)
        >>> batch = Batch.of(torch.zeros(2, 1, dtype=torch.int32), torch.tensor([[1, 0], [0, 0]]))
        >>> loss = WeightedLocal(schema)(Prediction.from_transitions(torch.zeros(2, 2)), batch)
        >>> round(loss.value[0, 1].item(), 4)  # 3 * log(4/3), as 3 = (1 - 1/4) / (1/2 - 1/4)
        0.863
    """

    def __init__(
        self,
        schema: Schema,
        *,
        step_weights: tuple[float, ...] | float | None = None,
        cap: tuple[float, ...] | float = 100.0,
    ) -> None:
        require_chain(schema, "weighted_local")
        self.step_weights: Tensor = transition_weights(schema, step_weights)
        self.local_weights = LocalWeights(schema, cap)

    def __call__(self, prediction: Prediction, batch: Batch) -> StepLoss:
        """Compute the loss of each row and step; it is 0 outside the local space."""
        known, labels = known_transitions(batch), batch.labels
        local = known & batch.local
        weights = self.local_weights.weights(prediction, self._log_stopped(prediction))
        error = -(labels * prediction.log_reach + (1 - labels) * weights * prediction.log_not_reach)
        value = torch.where(local, error, torch.zeros_like(error))  # [B, S]
        return StepLoss(value, local, known, self.step_weights)

    def clipped_share(self, prediction: Prediction, batch: Batch) -> Tensor:
        """Return [S] the share of the known rows of each local space whose weight is capped.

        Args:
            prediction: the model's output for the batch.
            batch: B rows.
        """
        return self.local_weights.clipped_share(prediction, batch, self._log_stopped(prediction), batch.labels < 0.5)

    def _log_stopped(self, prediction: Prediction) -> Tensor:
        """[B, S] log of p_{i-1} - p_i = p_{i-1} (1 - c_i)."""
        return self.local_weights.former(prediction.log_reach) + prediction.log_not_transition
