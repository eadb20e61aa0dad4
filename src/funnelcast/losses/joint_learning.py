"""Doubly robust joint learning: an imputed label completes the loss, and is itself learned by its error."""

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

__all__ = ["JointLearning"]

Imputation = Literal["dr_jl", "mrdr"]


@LOSSES.register
class JointLearning(WeightedTransitions):
    """Doubly robust loss of transitions with an imputed label, DR-JL or MRDR.

    L = sum_{i>=2} w_i / N_i sum_j (P_ij + a I_ij),  e(y, c) = -y log c - (1 - y) log(1 - c)

    P = d + o_{i-1} (e(o_i, c_i) - d) / q,  d = e(sg(r_i), c_i),  r_i = sigmoid(companion_i)

    I = o_{i-1} v (e(o_i, sg(c_i)) - e(r_i, sg(c_i)))^2,  v = 1 / q for `dr_jl`, (1 - q) / q^2 for `mrdr`

    q = sg(max(p_{i-1}, clip)), the model's own reach of the former step; sg stops the gradient

    P trains the transition alone: the imputed label r is fixed in it. I trains the imputed label alone: the transition
    is fixed. MRDR's weight aims at a small variance of P, DR-JL's at a small bias. N_i counts the rows on which steps
    i-1 and i are observed. The first step is not counted. Values may be below 0.

    NOTE[paper]: both papers alternate two optimizers and train propensities in advance; here both parts run in one step
    with stopped gradients, and the propensity is learned beside them. In the authors' public code of MRDR the
    imputation is a cross-entropy with the same weight and starts as a copy of the prediction model, and its DR-JL
    imputes the error; here both use the squared gap. Steps: two there, here every transition from step 2 on.

    Args:
        schema: the funnel.
        step_weights: w_i >= 0 of each of the S-1 transitions from step 2 on, one number or a list; 1 by default.
        clip: smallest propensity in [0, 1], one number or one for each of those transitions; 0 clips nothing.
        imputation: `dr_jl` or `mrdr`, the weight in I.
        imputation_weight: a >= 0.

    Raises:
        ConfigError: a number is out of range, there are not S-1 of them, or `imputation` is unknown; when called, the
            model has no companion head.

    Source: Wang et al., ICML 2019, "Doubly robust joint learning for recommendation on data missing not at random";
        Guo et al., SIGIR 2021, "Enhanced doubly robust learning for debiasing post-click conversion rate estimation"
        (MRDR). Formulas as usually reported; the texts were not verified.

    Example:
        >>> from dataclasses import replace
        >>> from funnelcast.schema import Field, Step
        >>> steps = tuple(Step(name=name, reach_rate=0.1, transition_rate=0.5) for name in ("click", "buy"))
        >>> schema = Schema(dataset="shop", fields=(Field(name="item", size=10),), steps=steps)
        >>> batch = Batch.of(torch.zeros(2, 1, dtype=torch.int32), torch.tensor([[1, 1], [0, 0]]))
        >>> prediction = replace(Prediction.from_transitions(torch.zeros(2, 2)), companion=torch.zeros(2, 2))
        >>> round(JointLearning(schema)(prediction, batch).total(batch.weight).item(), 4)  # e = d = log 2 on every row
        0.6931
    """

    traits: ClassVar[frozenset[str]] = frozenset({"signed"})

    def __init__(
        self,
        schema: Schema,
        *,
        step_weights: tuple[float, ...] | float | None = None,
        clip: tuple[float, ...] | float = 0.01,
        imputation: Imputation = "dr_jl",
        imputation_weight: float = 1.0,
    ) -> None:
        super().__init__(schema, step_weights, clip)
        check_choice("imputation", imputation, Imputation)
        check_weights(imputation_weight=imputation_weight)
        self.imputation, self.imputation_weight = imputation, imputation_weight

    def __call__(self, prediction: Prediction, batch: Batch) -> StepLoss:
        """Compute the loss of each row and step; outside the local space it is the imputed error."""
        companion = self.companion(prediction, "the imputed label", "models 'dr_jl' and 'mrdr' have it")
        known = known_transitions(batch)
        inside = known & batch.local
        error = transition_error(prediction, batch)  # [B, S], 0 outside
        imputed = _imputed_error(companion.detach(), prediction.log_transition, prediction.log_not_transition)
        inverse = torch.where(inside, self.propensity.weights(prediction), torch.zeros_like(error))
        value = imputed + inverse * (error - imputed)
        fixed = prediction.log_transition.detach(), prediction.log_not_transition.detach()
        gap = torch.where(inside, error.detach() - _imputed_error(companion, *fixed), torch.zeros_like(error))
        # (1 - q) / q^2 = (1 / q - 1) / q
        weight = inverse if self.imputation == "dr_jl" else inverse * (inverse - 1).clamp(min=0.0)
        value = value + self.imputation_weight * weight * gap.square()
        return StepLoss(value, known, known, self.step_weights)


def _imputed_error(companion: Tensor, log_transition: Tensor, log_not_transition: Tensor) -> Tensor:
    """Return e(r, c) with r = sigmoid(companion); a label of 0 times an infinite error would not be a number."""
    likely, unlikely = torch.exp(-softplus(-companion)), torch.exp(-softplus(companion))
    return -(likely * log_transition + unlikely * log_not_transition)
