"""Cross-entropy on transitions over the local space."""

from __future__ import annotations

from typing import Literal, get_args

from torch import Tensor

from funnelcast.batch import Batch
from funnelcast.errors import ConfigError, choices
from funnelcast.objective import StepLoss, per_step
from funnelcast.prediction import Prediction
from funnelcast.registry import LOSSES
from funnelcast.schema import Schema

__all__ = ["TransitionBce"]

Normalise = Literal["rows", "space"]


@LOSSES.register
class TransitionBce:
    """Binary cross-entropy of every step's transition over its local space, the rows with the former step.

    L = sum_i w_i / N_i sum_{j: o_{i-1,j} = 1} [ -o_ij log c_ij - (1 - o_ij) log(1 - c_ij) ]

    By default N_i counts the rows on which step i is observed, inside the local space or not. Then L with w_i = 1 is
    the negative log-likelihood of the whole chain o_1, ..., o_S a row, the product of P(o_i | o_{i-1} = 1, x) over the
    steps with o_{i-1} = 1 (the continuation-ratio model): each row of each step counts once. Dividing by the rows of
    the local space instead makes the mean of a step, in which one row of a rare late step outweighs many rows of the
    first one.

    Args:
        schema: the funnel.
        step_weights: w_i >= 0, one number or one a step; 1 by default.
        normalise: `rows` divides by the observed rows, `space` by the observed rows of the local space.

    Raises:
        ConfigError: the number of weights is not the number of steps, or `normalise` is unknown.

    Source: Agresti 2002, "Categorical data analysis" (continuation-ratio logits); the local space of the
    APEM paper, section 2.2, equation 8.

    Example:
        >>> import torch
        >>> from funnelcast.schema import Field, Step
        >>> steps = tuple(Step(name=name, reach_rate=0.1, transition_rate=0.5) for name in ("click", "buy"))
        >>> schema = Schema(dataset="shop", fields=(Field(name="item", size=10),), steps=steps)
        >>> batch = Batch.of(torch.zeros(2, 1, dtype=torch.int32), torch.tensor([[0, 0], [1, 1]]))
        >>> TransitionBce(schema)(Prediction.from_transitions(torch.zeros(2, 2)), batch).mask.tolist()
        [[True, False], [True, True]]
    """

    def __init__(
        self,
        schema: Schema,
        *,
        step_weights: tuple[float, ...] | float | None = None,
        normalise: Normalise = "rows",
    ) -> None:
        if normalise not in get_args(Normalise):
            known = choices(get_args(Normalise), str(normalise))
            raise ConfigError(f"option 'normalise' should be a known word, received {normalise!r}; {known}")
        self.step_weights: Tensor = per_step("step_weights", step_weights, schema.n_steps)
        self.normalise = normalise

    def __call__(self, prediction: Prediction, batch: Batch) -> StepLoss:
        """Compute the loss of each row and step; rows outside the local space and unobserved labels are masked."""
        labels, local = batch.labels, batch.local
        value = -(labels * prediction.log_transition + (1 - labels) * prediction.log_not_transition)  # [B, S]
        denominator = batch.observed if self.normalise == "rows" else local
        return StepLoss(value, local, denominator, self.step_weights)
