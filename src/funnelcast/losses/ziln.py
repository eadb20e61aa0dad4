"""Likelihood of a lognormal value, on the rows that have one."""

from __future__ import annotations

import math
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from funnelcast.batch import Batch
from funnelcast.errors import ConfigError, choices
from funnelcast.objective import StepLoss, per_step
from funnelcast.prediction import Prediction
from funnelcast.registry import LOSSES
from funnelcast.schema import Schema

__all__ = ["Ziln"]

Normalise = Literal["rows", "space"]


@LOSSES.register
class Ziln:
    """Negative log-likelihood of the lognormal part of a zero-inflated lognormal value (ZILN).

    L = w / N sum_{j: v_j > 0} [ log(v_j sigma_j sqrt(2 pi)) + (log v_j - mu_j)^2 / (2 sigma_j^2) ]

    The zero part, whether there is a value at all, is the cross-entropy of the last step, so another loss has to train
    it: with `reach_bce` and w = 1 the sum of both is the whole ZILN likelihood of that step. The loss stands in the
    last step's column.

    By default N counts the rows whose last label is observed, as in that likelihood; `space` divides by the rows with
    a value instead, the mean over them.

    Args:
        schema: a funnel that ends in a value step.
        weight: w >= 0.
        normalise: `rows` divides by the observed rows, `space` by the rows with a value.

    Raises:
        ConfigError: the funnel has no value step, the weight is negative, or `normalise` is unknown.

    Source: Wang, Liu and Miao 2019, "A deep probabilistic model for customer lifetime value prediction",
    arXiv 1912.07753 (the idea by its abstract; formula and denominator by the authors' code, google/lifetime_value).

    Example:
        >>> from funnelcast.schema import Field, Step, StepValue
        >>> value = StepValue(mean=1.0, log_mean=0.0, log_std=1.0)
        >>> step = Step(name="spend", reach_rate=0.5, transition_rate=0.5, value=value)
        >>> schema = Schema(dataset="shop", fields=(Field(name="item", size=10),), steps=(step,))
        >>> batch = Batch(torch.zeros(1, 1, dtype=torch.int32), torch.ones(1, 1), torch.ones(1, 1, dtype=torch.bool),
        ...               torch.ones(1), value=torch.ones(1))
        >>> p = Prediction.from_reach(torch.zeros(1, 1))
        >>> p = Prediction(p.log_reach, p.log_not_reach, p.log_transition, p.log_not_transition,
        ...                value_location=torch.zeros(1), value_scale=torch.ones(1))
        >>> round(Ziln(schema)(p, batch).value.item(), 4)  # log(2 pi) / 2
        0.9189
    """

    traits: ClassVar[frozenset[str]] = frozenset({"signed"})  # a density may exceed 1
    trains_value: ClassVar[bool] = True

    def __init__(self, schema: Schema, *, weight: float = 1.0, normalise: Normalise = "rows") -> None:
        if schema.value_step is None:
            raise ConfigError(
                f"loss 'ziln' needs a funnel whose last step has the kind 'value', received '{schema.steps[-1].name}' "
                f"of kind '{schema.steps[-1].kind}'"
            )
        if normalise not in get_args(Normalise):
            known = choices(get_args(Normalise), str(normalise))
            raise ConfigError(f"option 'normalise' should be a known word, received {normalise!r}; {known}")
        self.step_weights: Tensor = torch.cat([torch.zeros(schema.n_steps - 1), per_step("weight", weight, 1)])  # [S]
        self.normalise = normalise

    def __call__(self, prediction: Prediction, batch: Batch) -> StepLoss:
        """Compute the loss of each row; rows without a value, and unobserved ones, are masked."""
        location, scale, value = prediction.value_location, prediction.value_scale, batch.value
        if location is None or scale is None or value is None:
            missing = "model with a value head" if location is None or scale is None else "batch with values"
            raise ConfigError(f"loss 'ziln' needs a {missing}; see funnelcast.value_head.add_value_head")
        last = torch.arange(batch.labels.shape[1], device=value.device) == batch.labels.shape[1] - 1  # [S]
        observed = batch.observed & last  # [B, S]
        happened = observed & (batch.labels > 0.5)
        log_value = torch.where(happened.any(1), value, torch.ones_like(value)).log()  # [B], finite on every row
        density = log_value + scale.log() + 0.5 * math.log(2 * math.pi) + 0.5 * ((log_value - location) / scale) ** 2
        denominator = observed if self.normalise == "rows" else happened
        return StepLoss(density[:, None] * last, happened, denominator, self.step_weights)
