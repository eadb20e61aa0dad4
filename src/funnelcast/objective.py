"""From a loss per row and step to the one number that training lowers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from funnelcast.batch import Batch
from funnelcast.errors import ConfigError
from funnelcast.prediction import Prediction
from funnelcast.schema import Schema

__all__ = ["Loss", "StepLoss", "check_weights", "objective", "per_step", "require_chain"]


@dataclass(frozen=True)
class StepLoss:
    """An unreduced loss with its mask.

    Args:
        value: [B, S] loss of each row and step, finite everywhere.
        mask: [B, S] bool, rows that the loss counts.
        denominator: [B, S] bool, rows by whose weight the sum is divided.
        step_weights: [S] weight of each step, on any device.
    """

    value: Tensor
    mask: Tensor
    denominator: Tensor
    step_weights: Tensor

    def total(self, weight: Tensor) -> Tensor:
        """Reduce to sum_i w_i * sum_j(weight_j mask_ji value_ji) / sum_j(weight_j denominator_ji).

        A step without any row in the denominator contributes 0.

        Args:
            weight: [B] sample weights.
        """
        rows = weight[:, None]
        sums = (torch.where(self.mask, self.value, torch.zeros_like(self.value)) * rows).sum(0)  # [S]
        counts = (self.denominator * rows).sum(0)  # [S]
        means = torch.where(counts > 0, sums / counts.clamp(min=torch.finfo(counts.dtype).tiny), 0.0)
        # A GPU need not be waited for to get these few numbers.
        return (means * self.step_weights.to(means.device, non_blocking=True)).sum()


class Loss(Protocol):
    """A loss maps a prediction and its batch to an unreduced `StepLoss`.

    A class may state in `traits: ClassVar[frozenset[str]]` which law of the conformance suite it does not follow:
    `signed` (values below 0), `batch_wide` (a row's value depends on the other rows), `zero_when_monotone` (nothing to
    lose where reach does not rise along the funnel).
    """

    def __call__(self, prediction: Prediction, batch: Batch) -> StepLoss:
        """Compute the loss of each row and step."""
        ...


def objective(losses: Sequence[Loss], prediction: Prediction, batch: Batch) -> Tensor:
    """Add up what training lowers: every loss, and the model's penalty where it has one.

    Args:
        losses: at least one.
        prediction: the model's output for the batch.
        batch: B rows.

    Returns:
        [] the sum.
    """
    totals = [loss(prediction, batch).total(batch.weight) for loss in losses]
    if prediction.penalty is not None:
        totals.append(prediction.penalty)
    return torch.stack(totals).sum()


def require_chain(schema: Schema, loss: str) -> None:
    """Refuse a graph: a loss that compares neighbouring columns has a meaning in a chain alone.

    Args:
        schema: the funnel.
        loss: what asks, for the message.

    Raises:
        ConfigError: the steps form a graph.
    """
    if not schema.graph.is_chain:
        raise ConfigError(
            f"loss '{loss}' should get a chain of steps, received a graph: it ties each step to the one before it in "
            "the list; 'reach_bce' and 'transition_bce' know graphs"
        )


def check_weights(**weights: float) -> None:
    """Refuse a weight below 0 or one that is not a number.

    Args:
        **weights: values by the option's name.

    Raises:
        ConfigError: a value is out of range.

    Example:
        >>> check_weights(lam=-1.0)
        Traceback (most recent call last):
        funnelcast.errors.ConfigError: option 'lam' should be a number >= 0, received -1.0
    """
    for option, value in weights.items():
        if not value >= 0.0:
            raise ConfigError(f"option '{option}' should be a number >= 0, received {value!r}")


def per_step(name: str, values: tuple[float, ...] | float | None, count: int, default: float = 1.0) -> Tensor:
    """Turn an option that may be one number or a list into one non-negative number a step (or pair of steps).

    Args:
        name: the option's name, for the error message.
        values: one number for all, a list of `count` numbers, or None for the default.
        count: numbers needed.
        default: the number used for None.

    Raises:
        ConfigError: a list of another length, or a negative number.

    Example:
        >>> per_step("sigma", (1.0, 0.5), 2).tolist()
        [1.0, 0.5]
    """
    if values is None:
        values = default
    numbers = [float(values)] * count if isinstance(values, int | float) else [float(v) for v in values]
    if len(numbers) != count:
        raise ConfigError(f"option '{name}' should be one number or a list of {count}, received {len(numbers)} numbers")
    if any(not number >= 0.0 for number in numbers):
        raise ConfigError(f"option '{name}' should hold numbers >= 0, received {numbers}")
    return torch.tensor(numbers)
