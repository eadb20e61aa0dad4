"""Squared error of the drop between two steps from the rows of the local space alone, weighted."""

from __future__ import annotations

import torch
from torch import Tensor

from funnelcast.batch import Batch
from funnelcast.losses._local_weights import LocalWeights
from funnelcast.losses._propensity import known_transitions
from funnelcast.objective import StepLoss, per_step, require_chain
from funnelcast.prediction import Prediction
from funnelcast.registry import LOSSES
from funnelcast.schema import Schema

__all__ = ["WeightedDependence"]


@LOSSES.register
class WeightedDependence:
    """Squared error of p_{i-1} - p_i over the local space with the weights of the APEM paper's theorem 3.1.

    L = sum_{i>=2} sigma_{i-1} / N_i sum_{j: o_{i-1,j} = 1} v_ij [ (o_{i-1,j} - o_ij) - (p_{i-1,j} - p_ij) ]^2

    v = 1 where o_i = 0 (a drop of 1) and sg((1 - p_{i-1} + p_i) / p_i) where o_i = 1 (a drop of 0): the rows that went
    on stand for all those that never came to step i-1, whose drop is 0 as well. With the true p in v the mean of L is
    that of `dependence` over all rows. v is taken from the model's own prediction, without a gradient, as 1 + (1 -
    p_{i-1}) / p_i in log space. N_i counts the rows on which steps i-1 and i are observed, as in `weighted_local`.

    v grows like 1 / p_i on the few rows that reached step i, so the variance of L is large wherever that step is rare;
    `dependence` over all rows has none of it. The theorem needs p_i > 0; `cap` bounds v and biases the loss,
    `clipped_share` tells on how many rows.

    Args:
        schema: the funnel.
        sigma: weight >= 0 of each of the S-1 pairs of neighbouring steps, one number or a list; 1 by default.
        cap: largest v >= 1, one number or one for each of those pairs; `inf` caps nothing.

    Raises:
        ConfigError: the number of weights or caps is not S-1, or one is out of range.

    Source: APEM paper, section 3.3, theorem 3.1. The paper trains on the entire space; the cap is ours.

    Example:
        >>> from funnelcast.schema import Field, Step
        >>> steps = tuple(Step(name=name, reach_rate=0.1, transition_rate=0.5) for name in ("click", "buy"))
        >>> schema = Schema(dataset="shop", fields=(Field(name="item", size=10),), steps=steps)
        >>> batch = Batch.of(torch.zeros(1, 1, dtype=torch.int32), torch.tensor([[1, 1]]))
        >>> loss = WeightedDependence(schema)(Prediction.from_transitions(torch.zeros(1, 2)), batch)
        >>> round(loss.value[0, 1].item(), 4)  # 3 * (0 - 1/4)^2, as 3 = (1 - 1/2 + 1/4) / (1/4)
        0.1875
    """

    def __init__(
        self,
        schema: Schema,
        *,
        sigma: tuple[float, ...] | float | None = None,
        cap: tuple[float, ...] | float = 100.0,
    ) -> None:
        require_chain(schema, "weighted_dependence")
        self.step_weights: Tensor = torch.cat([torch.zeros(1), per_step("sigma", sigma, schema.n_steps - 1)])  # [S]
        self.local_weights = LocalWeights(schema, cap)

    def __call__(self, prediction: Prediction, batch: Batch) -> StepLoss:
        """Compute the loss of each row and pair; it is 0 outside the local space and stands with the later step."""
        known, labels, reach = known_transitions(batch), batch.labels, prediction.reach
        local = known & batch.local
        weights = self.local_weights.weights(prediction, prediction.log_reach)
        former = torch.cat([torch.ones_like(reach[:, :1]), reach[:, :-1]], dim=1)
        error = ((1 - labels) - (former - reach)).square()  # [B, S]; o_{i-1} = 1 on local rows
        value = torch.where(local, torch.where(labels > 0.5, weights, 1.0) * error, torch.zeros_like(error))
        return StepLoss(value, local, known, self.step_weights)

    def clipped_share(self, prediction: Prediction, batch: Batch) -> Tensor:
        """Return [S] the share of the known rows of each local space whose weight is capped.

        Args:
            prediction: the model's output for the batch.
            batch: B rows.
        """
        return self.local_weights.clipped_share(prediction, batch, prediction.log_reach, batch.labels > 0.5)
