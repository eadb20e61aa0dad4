"""DCMT: a factual and a counterfactual transition, each weighted by the propensity of its side."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from funnelcast.batch import Batch
from funnelcast.layers import check_choice
from funnelcast.losses._propensity import WeightedTransitions, known_transitions, transition_error
from funnelcast.objective import StepLoss, check_weights
from funnelcast.prediction import Prediction
from funnelcast.registry import LOSSES
from funnelcast.schema import Schema

__all__ = ["Counterfactual"]

Normalise = Literal["self", "rows"]


@LOSSES.register
class Counterfactual(WeightedTransitions):
    """Cross-entropy of the transition inside its local space and of its counterfactual twin outside, both weighted.

    L = sum_{i>=2} w_i { A_O[ e(o_i, c_i) ; 1 / q ] + A_N[ -log c*_i ; 1 / q' ] + lam mean |1 - c_i - c*_i| }

    q = sg(max(p_{i-1}, clip)),  q' = sg(max(1 - p_{i-1}, clip)),  c*_i = sigmoid(companion_i)

    O are the rows of the local space, N the known rows outside it. There the step did not happen, so the counterfactual
    label 1 - o_i is 1. The last term ties the twins: what did not happen is what would have happened, turned around.
    A[x; v] is sum(v x) / sum(v) over its side of the batch with `normalise = "self"`, and sum(v x) over the number of
    known rows with `rows`, the plain inverse propensity estimate. Propensities are the model's own reach, detached.
    The first step is not counted.

    NOTE[paper]: two steps there; here each transition from step 2 on, with the reach of its former step as propensity.

    Args:
        schema: the funnel.
        step_weights: w_i >= 0 of each of the S-1 transitions from step 2 on, one number or a list; 1 by default.
        clip: smallest propensity in [0, 1] on either side, one number or one for each of those transitions.
        lam: weight >= 0 of the tie between the twins.
        normalise: `self` or `rows`.

    Raises:
        ConfigError: a number is out of range, there are not S-1 of them, or `normalise` is unknown; when called, the
            model has no companion head.

    Source: Zhu et al., ICDE 2023, "DCMT: A direct entire-space causal multi-task framework for post-click conversion
        estimation", as usually reported, with lam = 1e-3; the text was not verified.

    Example:
        >>> from dataclasses import replace
        >>> from funnelcast.schema import Field, Step
        >>> steps = tuple(Step(name=name, reach_rate=0.1, transition_rate=0.5) for name in ("click", "buy"))
        >>> schema = Schema(dataset="shop", fields=(Field(name="item", size=10),), steps=steps)
        >>> batch = Batch.of(torch.zeros(2, 1, dtype=torch.int32), torch.tensor([[1, 1], [0, 0]]))
        >>> prediction = replace(Prediction.from_transitions(torch.zeros(2, 2)), companion=torch.zeros(2, 2))
        >>> round(Counterfactual(schema)(prediction, batch).total(batch.weight).item(), 4)  # log 2 on either side
        1.3863
    """

    traits: ClassVar[frozenset[str]] = frozenset({"batch_wide"})

    def __init__(
        self,
        schema: Schema,
        *,
        step_weights: tuple[float, ...] | float | None = None,
        clip: tuple[float, ...] | float = 0.01,
        lam: float = 1e-3,
        normalise: Normalise = "self",
    ) -> None:
        super().__init__(schema, step_weights, clip)
        check_choice("normalise", normalise, Normalise)
        check_weights(lam=lam)
        self.lam, self.normalise = lam, normalise

    def __call__(self, prediction: Prediction, batch: Batch) -> StepLoss:
        """Compute the loss of each row and step; a side without rows adds 0."""
        companion = self.companion(prediction, "the counterfactual transition", "model 'dcmt' has it")
        known = known_transitions(batch)
        inside, outside = known & batch.local, known & ~batch.local
        factual = self._weights(inside, known, self.propensity.weights(prediction), batch)
        counter = self._weights(outside, known, self.propensity.weights_outside(prediction), batch)
        value = factual * transition_error(prediction, batch) + counter * softplus(-companion)
        tie = (prediction.log_not_transition.exp() - torch.sigmoid(companion)).abs()  # |1 - c - c*|
        return StepLoss(value + self.lam * tie, known, known, self.step_weights)

    def _weights(self, side: Tensor, known: Tensor, weights: Tensor, batch: Batch) -> Tensor:
        """Return [B, S] weights by which a row counts among the known rows; 0 off its side."""
        weights = torch.where(side, weights, torch.zeros_like(weights))
        if self.normalise == "rows":
            return weights
        rows = batch.weight[:, None]
        total = (weights * rows).sum(0)  # [S]
        return weights * (known * rows).sum(0) / total.clamp(min=torch.finfo(total.dtype).tiny)
