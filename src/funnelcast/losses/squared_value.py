"""Squared error of the value of the last step."""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from funnelcast.batch import Batch
from funnelcast.errors import ConfigError, choices
from funnelcast.objective import StepLoss, per_step
from funnelcast.prediction import Prediction
from funnelcast.registry import LOSSES
from funnelcast.schema import Schema

__all__ = ["SquaredValue"]

Space = Literal["reached", "entire"]


@LOSSES.register
class SquaredValue:
    """Squared error of the expected value, in units of TRAIN's mean value m.

    `reached`: L = w / N sum_{j: v_j > 0} [ (E[v_j | T_S = 1, x_j] - v_j) / m ]^2

    `entire`:  L = w / N sum_j [ (p_Sj E[v_j | T_S = 1, x_j] - v_j) / m ]^2,  v_j = 0 where the last step did not happen

    N counts the rows whose last label is observed. `reached` trains the value alone; `entire` trains the product, so
    its gradient reaches the last step's p_S, too. Only the mean exp(mu + sigma^2 / 2) of the value head is trained:
    mu and sigma no longer describe a distribution of their own. The loss stands in the last step's column.

    NOTE[paper]: the APEM paper allows o in R for a regression task and gives no formula; the division by m, which
    keeps values of any currency from drowning the other losses, is ours.

    Args:
        schema: a funnel that ends in a value step.
        weight: w >= 0.
        space: `reached`, the rows that reached the last step, or `entire`, all observed rows.

    Raises:
        ConfigError: the funnel has no value step, the weight is negative, or the space is unknown.

    Source: APEM paper, section 2.1 (regression tasks); Wang, Liu and Miao 2019, arXiv 1912.07753, abstract, on its
    weakness for very large values.

    Example:
        >>> from funnelcast.schema import Field, Step, StepValue
        >>> value = StepValue(mean=2.0, log_mean=0.0, log_std=1.0)
        >>> step = Step(name="spend", reach_rate=0.5, transition_rate=0.5, value=value)
        >>> schema = Schema(dataset="shop", fields=(Field(name="item", size=10),), steps=(step,))
        >>> SquaredValue(schema, space="entire", weight=3.0).step_weights.tolist()
        [3.0]
    """

    trains_value: ClassVar[bool] = True

    def __init__(self, schema: Schema, *, weight: float = 1.0, space: Space = "reached") -> None:
        step = schema.value_step
        if step is None or step.value is None:
            raise ConfigError(
                f"loss 'squared_value' needs a funnel whose last step has the kind 'value', received "
                f"'{schema.steps[-1].name}' of kind '{schema.steps[-1].kind}'"
            )
        if space not in get_args(Space):
            known = choices(get_args(Space), str(space))
            raise ConfigError(f"option 'space' should be a known word, received {space!r}; {known}")
        self.step_weights: Tensor = torch.cat([torch.zeros(schema.n_steps - 1), per_step("weight", weight, 1)])  # [S]
        self.mean, self.space = step.value.mean, space

    def __call__(self, prediction: Prediction, batch: Batch) -> StepLoss:
        """Compute the loss of each row; rows outside the space, and unobserved ones, are masked."""
        if prediction.value_location is None or batch.value is None:
            missing = "model with a value head" if prediction.value_location is None else "batch with values"
            raise ConfigError(f"loss 'squared_value' needs a {missing}; see funnelcast.value_head.add_value_head")
        last = torch.arange(batch.labels.shape[1], device=batch.value.device) == batch.labels.shape[1] - 1  # [S]
        observed = batch.observed & last  # [B, S]
        happened = observed & (batch.labels > 0.5)
        entire = self.space == "entire"
        value = prediction.expected_value if entire else prediction.log_mean_value.exp()  # [B]
        error = (value - torch.where(happened.any(1), batch.value, torch.zeros_like(value))) / self.mean
        mask = observed if entire else happened
        return StepLoss(error.square()[:, None] * last, mask, observed, self.step_weights)
