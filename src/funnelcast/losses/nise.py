"""NISE: transitions trained on both sides of the local space, with their own forecast as the label outside it."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from funnelcast.batch import Batch
from funnelcast.errors import ConfigError
from funnelcast.layers import check_choice
from funnelcast.losses._propensity import known_transitions, transition_error, transition_weights
from funnelcast.objective import StepLoss, check_weights, require_chain
from funnelcast.prediction import Prediction
from funnelcast.registry import LOSSES
from funnelcast.schema import Schema

__all__ = ["Nise"]

Normalise = Literal["rows", "sides"]


@LOSSES.register
class Nise:
    """Semi-supervised cross-entropy of transitions over the entire space.

    L = sum_{i>=2} w_i b_i L_i,  L_i = sum_O e(o_i, c_i) / n_O + sum_N e(c_i, c_i) / n_N

    e(y, c) = -y log c - (1 - y) log(1 - c)

    b_i = alpha min(sg(L_1 / L_i), beta),  L_1 = mean over all rows of e(o_1, p_1);  sg stops the gradient

    O are the rows of the local space, N the known rows outside it, on which nobody can see whether step i would have
    happened: the forecast stands in for the label there, so the second mean is the entropy of the forecast and makes
    it decided. b_i keeps the term of a step as large as the first step's, which `reach_bce` trains and this loss only
    measures. The first step is not counted. With `normalise = "rows"` n_O = n_N is the number of known rows, so that
    every row counts alike; with `sides` each side is divided by its own number of rows. Rows of a batch see each other.

    With `detach` the stand-in label is fixed, e(sg(c), c). Its gradient in the logit is c - sg(c) = 0 on every row: the
    rows outside the local space then teach nothing, and only the weight b_i differs from the local space's own loss.

    Args:
        schema: the funnel.
        step_weights: w_i >= 0 of each of the S-1 transitions from step 2 on, one number or a list; 1 by default.
        alpha: size >= 0 of each term beside the first step's.
        beta: largest ratio > 0 of the first step's loss to a later one's.
        detach: whether the stand-in label is fixed.
        normalise: `rows` or `sides`.

    Raises:
        ConfigError: a number is out of range, there are not S-1 weights, or `normalise` is unknown.

    Source: "Utilizing Non-click Samples via Semi-supervised Learning for Conversion Rate Prediction", RecSys 2024
        (NISE). Its public code (Hjh233/NISE, mtl_trainer.py) was read: it divides both sums by the number of rows, does
        not fix the label, and balances as here; the text was not verified.

    Example:
        >>> from funnelcast.schema import Field, Step
        >>> steps = tuple(Step(name=name, reach_rate=0.1, transition_rate=0.5) for name in ("click", "buy"))
        >>> schema = Schema(dataset="shop", fields=(Field(name="item", size=10),), steps=steps)
        >>> batch = Batch.of(torch.zeros(2, 1, dtype=torch.int32), torch.tensor([[1, 1], [0, 0]]))
        >>> loss = Nise(schema)(Prediction.from_transitions(torch.zeros(2, 2)), batch)
        >>> round(loss.total(batch.weight).item(), 4)  # log 2 * (log 2 / log 2)
        0.6931
    """

    traits: ClassVar[frozenset[str]] = frozenset({"batch_wide"})

    def __init__(
        self,
        schema: Schema,
        *,
        step_weights: tuple[float, ...] | float | None = None,
        alpha: float = 1.0,
        beta: float = 50.0,
        detach: bool = False,
        normalise: Normalise = "rows",
    ) -> None:
        require_chain(schema, "nise")
        check_choice("normalise", normalise, Normalise)
        check_weights(alpha=alpha)
        if not beta > 0.0:
            raise ConfigError(f"option 'beta' should be a number > 0, received {beta!r}")
        self.step_weights: Tensor = transition_weights(schema, step_weights)
        self.alpha, self.beta, self.detach, self.normalise = alpha, beta, detach, normalise

    def __call__(self, prediction: Prediction, batch: Batch) -> StepLoss:
        """Compute the loss of each row and step; a side without rows adds 0."""
        known = known_transitions(batch)
        inside, outside = known & batch.local, known & ~batch.local
        likely, unlikely = prediction.transition, prediction.log_not_transition.exp()
        if self.detach:
            likely, unlikely = likely.detach(), unlikely.detach()
        entropy = -(likely * prediction.log_transition + unlikely * prediction.log_not_transition)
        rows = batch.weight[:, None]
        n_known, n_inside, n_outside = ((space * rows).sum(0) for space in (known, inside, outside))  # [S]
        if self.normalise == "rows":
            n_inside = n_outside = n_known
        value = transition_error(prediction, batch) * _ratio(n_known, n_inside)
        value = torch.where(outside, entropy * _ratio(n_known, n_outside), value)  # [B, S]
        own = _ratio((torch.where(known, value, torch.zeros_like(value)) * rows).sum(0), n_known).detach()  # L_i
        ratio = torch.where(own > 0, _ratio(self._first(prediction, batch), own), torch.full_like(own, self.beta))
        value = value * self.alpha * ratio.clamp(max=self.beta)
        return StepLoss(value, known, known, self.step_weights)

    def _first(self, prediction: Prediction, batch: Batch) -> Tensor:
        """Return [] L_1, without a gradient; 0 in a batch whose first labels are all unobserved."""
        label, seen = batch.labels[:, 0], batch.observed[:, 0]
        error = -(label * prediction.log_reach[:, 0] + (1 - label) * prediction.log_not_reach[:, 0]).detach()
        return _ratio(
            (torch.where(seen, error, torch.zeros_like(error)) * batch.weight).sum(), (seen * batch.weight).sum()
        )


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """Return a / b, and 0 where b is 0."""
    return torch.where(b > 0, a / b.clamp(min=torch.finfo(b.dtype).tiny), torch.zeros_like(b))
