"""Cross-entropy on reach over the entire space."""

from __future__ import annotations

from torch import Tensor

from funnelcast.batch import Batch
from funnelcast.objective import StepLoss, per_step
from funnelcast.prediction import Prediction
from funnelcast.registry import LOSSES
from funnelcast.schema import Schema

__all__ = ["ReachBce"]


@LOSSES.register
class ReachBce:
    """Binary cross-entropy of every step's reach over all rows, the paper's L_M.

    L_M = sum_i w_i / M sum_j [ -o_ij log p_ij - (1 - o_ij) log(1 - p_ij) ]

    Args:
        schema: the funnel.
        step_weights: w_i >= 0, one number or one a step; 1 by default.

    Raises:
        ConfigError: the number of weights is not the number of steps.

    Source: APEM paper, section 3.3, equation 20.
    """

    def __init__(self, schema: Schema, *, step_weights: tuple[float, ...] | float | None = None) -> None:
        self.step_weights: Tensor = per_step("step_weights", step_weights, schema.n_steps)

    def __call__(self, prediction: Prediction, batch: Batch) -> StepLoss:
        """Compute the loss of each row and step; unobserved labels are masked."""
        value = -(batch.labels * prediction.log_reach + (1 - batch.labels) * prediction.log_not_reach)  # [B, S]
        return StepLoss(value, batch.observed, batch.observed, self.step_weights)
