"""Cross-entropy on transitions, weighted by inverse propensity to stand for the entire space."""

from __future__ import annotations

from typing import Literal

import torch

from funnelcast.batch import Batch
from funnelcast.layers import check_choice
from funnelcast.losses._propensity import WeightedTransitions, known_transitions, transition_error
from funnelcast.objective import StepLoss
from funnelcast.prediction import Prediction
from funnelcast.registry import LOSSES
from funnelcast.schema import Schema

__all__ = ["TransitionIps"]

Normalise = Literal["rows", "self"]


@LOSSES.register
class TransitionIps(WeightedTransitions):
    """Inverse propensity scoring (IPS): the transition's error over all rows, estimated from its local space.

    L = sum_{i>=2} w_i / N_i sum_j o_{i-1,j} e(o_ij, c_ij) / sg(max(p_{i-1,j}, clip)),  e(o, c) = -log P(o | c)

    With the true p_{i-1} and no clip, its mean is that of e over all rows, as if every row had been given the chance of
    step i. The propensity is the model's own reach of the former step, through which no gradient runs: p_{i-1} would
    otherwise grow to make the loss small. N_i counts the rows on which steps i-1 and i are observed, inside the local
    space or not (or sample weights): never the local space, by which the weights would be too large by 1 / P(local).
    The first step is not counted: its propensity is 1, and its reach is trained by `reach_bce`.

    The clip keeps weights at or below 1 / clip. It biases the loss downwards on rows where p_{i-1} < clip;
    `clipped_share` tells how many. 0.01, weights up to 100, hardly touches a first step that some percent of rows take;
    a transition far down the funnel needs a smaller number of its own.

    NOTE[paper]: two steps there; here each transition from step 2 on, with the reach of its former step, a product of
    transitions, as propensity. `normalise = "self"` (self-normalised, Swaminathan and Joachims 2015) divides by the sum
    of the weights in the batch instead of N_i: it lowers the variance for a small bias, and rows then see each other.

    Args:
        schema: the funnel.
        step_weights: w_i >= 0 of each of the S-1 transitions from step 2 on, one number or a list; 1 by default.
        clip: smallest propensity in [0, 1], one number or one for each of those transitions; 0 clips nothing.
        normalise: `rows` divides by N_i, `self` by the sum of the weights.

    Raises:
        ConfigError: the number of weights or clips is not S-1, one is out of range, or `normalise` is unknown.

    Source: Schnabel et al., ICML 2016 (the estimator); Zhang et al., WWW 2020, and Wang et al., SIGIR 2022 (ESCM2), for
    transitions. Formulas as they are usually reported; the text of the papers was not verified.

    Example:
        >>> from funnelcast.schema import Field, Step
        >>> steps = tuple(Step(name=name, reach_rate=0.1, transition_rate=0.5) for name in ("click", "buy"))
        >>> schema = Schema(dataset="shop", fields=(Field(name="item", size=10),), steps=steps)
        >>> batch = Batch.of(torch.zeros(2, 1, dtype=torch.int32), torch.tensor([[1, 1], [0, 0]]))
        >>> loss = TransitionIps(schema)(Prediction.from_transitions(torch.zeros(2, 2)), batch)
        >>> round(loss.total(batch.weight).item(), 4)  # log 2 / 0.5 on one of two rows
        0.6931
    """

    def __init__(
        self,
        schema: Schema,
        *,
        step_weights: tuple[float, ...] | float | None = None,
        clip: tuple[float, ...] | float = 0.01,
        normalise: Normalise = "rows",
    ) -> None:
        super().__init__(schema, step_weights, clip)
        check_choice("normalise", normalise, Normalise)
        self.normalise = normalise

    def __call__(self, prediction: Prediction, batch: Batch) -> StepLoss:
        """Compute the loss of each row and step; it is 0 outside the local space."""
        weights, known = self.propensity.weights(prediction), known_transitions(batch)
        local = known & batch.local
        if self.normalise == "self":
            rows = batch.weight[:, None]
            total = (local * weights * rows).sum(0)  # [S]
            weights = weights * (known * rows).sum(0) / total.clamp(min=torch.finfo(total.dtype).tiny)
            weights = torch.where(local, weights, torch.zeros_like(weights))  # a batch without the former step: 0
        value = weights * transition_error(prediction, batch)  # [B, S]
        return StepLoss(value, local, known, self.step_weights)
