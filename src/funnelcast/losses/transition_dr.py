"""Doubly robust error of transitions: imputed on all rows, corrected on the local space."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch.nn.functional import softplus

from funnelcast.batch import Batch
from funnelcast.layers import check_choice
from funnelcast.losses._propensity import WeightedTransitions, known_transitions, transition_error
from funnelcast.objective import StepLoss, check_weights
from funnelcast.prediction import Prediction
from funnelcast.registry import LOSSES
from funnelcast.schema import Schema

__all__ = ["TransitionDr"]

Gradients = Literal["joint", "split"]


@LOSSES.register
class TransitionDr(WeightedTransitions):
    """Doubly robust (DR): an imputed error on every row, corrected where the true one is known.

    L = sum_{i>=2} w_i / N_i sum_j { d_ij + o_{i-1,j} (e_ij - d_ij) / q_ij + a o_{i-1,j} (e_ij - d_ij)^2 / q_ij }

    e_ij = e(o_ij, c_ij) = -log P(o_ij | c_ij),  d_ij = softplus(companion_ij),  q_ij = sg(max(p_{i-1,j}, clip))

    The first two terms are the error over all rows if either q is the true p_{i-1} (unclipped) or d is the true mean of
    e; the third one, with the weight a, teaches d. d >= 0 has no upper bound, as a cross-entropy has none. The
    propensity is the model's own reach of the former step, detached. N_i counts the rows on which steps i-1 and i are
    observed. The first step is not counted. Values may be below 0.

    NOTE[paper]: one sum is reported to be lowered jointly there (ESCM2, Multi-DR), so d also learns from the first two
    terms and c from the third: `gradients = "joint"`. The first two terms are linear in d, and a head that remembers
    single rows can make them small by d = 0 outside the local space and d > e inside it, where c then learns with the
    weight 1 instead of 1 / q: the debiasing is gone. `split` is the division of labour of DR-JL (Wang et al., ICML
    2019): d is fixed in the first two terms, e in the third. Values are equal.
    NOTE[paper]: two steps there; here each transition from step 2 on, with the reach of its former step as propensity.

    Args:
        schema: the funnel.
        step_weights: w_i >= 0 of each of the S-1 transitions from step 2 on, one number or a list; 1 by default.
        clip: smallest propensity in [0, 1], one number or one for each of those transitions; 0 clips nothing.
        imputation: a >= 0, weight of the squared error of the imputed error.
        gradients: `joint` or `split`, see above.

    Raises:
        ConfigError: the number of weights or clips is not S-1, one is out of range, or `gradients` is unknown; when
            called, the model has no companion head.

    Source: Wang et al., ICML 2019 (DR-JL); Zhang et al., WWW 2020 (Multi-DR); Wang et al., SIGIR 2022 (ESCM2-DR).
    Formulas as they are usually reported; the text of the papers was not verified.

    Example:
        >>> from dataclasses import replace
        >>> from funnelcast.schema import Field, Step
        >>> steps = tuple(Step(name=name, reach_rate=0.1, transition_rate=0.5) for name in ("click", "buy"))
        >>> schema = Schema(dataset="shop", fields=(Field(name="item", size=10),), steps=steps)
        >>> batch = Batch.of(torch.zeros(2, 1, dtype=torch.int32), torch.tensor([[1, 1], [0, 0]]))
        >>> prediction = replace(Prediction.from_transitions(torch.zeros(2, 2)), companion=torch.zeros(2, 2))
        >>> loss = TransitionDr(schema)(prediction, batch)
        >>> round(loss.total(batch.weight).item(), 4)  # the imputed error, log 2, is the true one
        0.6931
    """

    traits: ClassVar[frozenset[str]] = frozenset({"signed"})

    def __init__(
        self,
        schema: Schema,
        *,
        step_weights: tuple[float, ...] | float | None = None,
        clip: tuple[float, ...] | float = 0.01,
        imputation: float = 1.0,
        gradients: Gradients = "joint",
    ) -> None:
        super().__init__(schema, step_weights, clip)
        check_choice("gradients", gradients, Gradients)
        check_weights(imputation=imputation)
        self.imputation, self.gradients = imputation, gradients

    def __call__(self, prediction: Prediction, batch: Batch) -> StepLoss:
        """Compute the loss of each row and step; outside the local space it is the imputed error."""
        companion = self.companion(
            prediction, "the imputed error", "models 'escm2' and 'multi_ipw' have it with the option estimator = 'dr'"
        )
        known = known_transitions(batch)
        imputed, error = softplus(companion), transition_error(prediction, batch)  # [B, S]
        split = self.gradients == "split"
        fixed_imputed, fixed_error = (imputed.detach(), error.detach()) if split else (imputed, error)
        weights = torch.where(known & batch.local, self.propensity.weights(prediction), torch.zeros_like(error))
        value = fixed_imputed + weights * (error - fixed_imputed)
        value = value + self.imputation * weights * (fixed_error - imputed).square()
        return StepLoss(value, known, known, self.step_weights)
