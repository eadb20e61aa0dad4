"""Behavioral Expectation Calibrator: what reach may cost where it rises along the funnel."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from funnelcast.batch import Batch
from funnelcast.objective import StepLoss, per_step, require_chain
from funnelcast.prediction import Prediction
from funnelcast.registry import LOSSES
from funnelcast.schema import Schema

__all__ = ["Calibrator"]


@LOSSES.register
class Calibrator:
    """Mean rise of reach from one step to the next, the Behavioral Expectation Calibrator of AITM.

    L_C = sum_{i>=2} alpha_{i-1} / M sum_j max(p_ij - p_{i-1,j}, 0)

    No row can reach more of the later step, so every rise is an error whatever the labels say: the loss reads none. It
    counts the M rows of which at least one label is observed, since a row without any label is in no other loss
    either. Where reach does not rise, the loss and its gradient are exactly 0, so it teaches nothing but the order:
    use it beside another loss. The loss of a pair stands in the column of its later step; the first column is 0 and
    never counted, so a funnel of one step has the loss 0.

    Args:
        schema: the funnel.
        alpha: weight >= 0 of each of the S-1 pairs of neighbouring steps, one number or a list.

    Raises:
        ConfigError: the number of weights is not S-1, or one is negative.

    Source: Xi et al. 2021 (AITM), the term that the paper's own code (xidongbo/AITM) adds to its loss: the mean over
        the rows of a batch, times 0.6 in the code for two steps and 0.3 in the one for four. The equation in the paper
        was not verified.

    Example:
        >>> from funnelcast.schema import Field, Step
        >>> steps = tuple(Step(name=name, reach_rate=0.1, transition_rate=0.5) for name in ("click", "buy"))
        >>> schema = Schema(dataset="shop", fields=(Field(name="item", size=10),), steps=steps)
        >>> batch = Batch.of(torch.zeros(2, 1, dtype=torch.int32), torch.tensor([[1, 0], [0, 0]]))
        >>> rising = Prediction.from_reach(torch.tensor([[0.0, 1.0986123], [0.0, -1.0]]))
        >>> round(Calibrator(schema)(rising, batch).total(batch.weight).item(), 4)  # 0.6 * (0.75 - 0.5) / 2
        0.075
    """

    traits: ClassVar[frozenset[str]] = frozenset({"zero_when_monotone"})

    def __init__(self, schema: Schema, *, alpha: tuple[float, ...] | float = 0.6) -> None:
        require_chain(schema, "calibrator")
        pairs = per_step("alpha", alpha, schema.n_steps - 1)
        self.step_weights: Tensor = torch.cat([torch.zeros(1), pairs])  # [S]

    def __call__(self, prediction: Prediction, batch: Batch) -> StepLoss:
        """Compute the loss of each row and pair."""
        reach = prediction.reach
        # relu and not clamp: its gradient is 0 also where both steps have the same reach.
        value = torch.cat([0.0 * reach[:, :1], reach.diff(dim=1).relu()], dim=1)  # [B, S]
        counted = batch.observed.any(dim=1, keepdim=True).repeat(1, reach.shape[1])
        counted[:, 0] = False
        return StepLoss(value, counted, counted, self.step_weights)
