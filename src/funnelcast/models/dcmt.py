"""DCMT."""

from __future__ import annotations

from typing import ClassVar, Literal

from funnelcast.config import Component
from funnelcast.heads import Head
from funnelcast.layers import log_odds
from funnelcast.models._debiased import check_debiasing
from funnelcast.registry import MODELS
from funnelcast.schema import Schema
from funnelcast.space import CLIP, HIDDEN, LogUniform, SearchSpace
from funnelcast.transition_towers import TransitionTowers

__all__ = ["Dcmt"]


@MODELS.register
class Dcmt(TransitionTowers):
    """DCMT, twin towers of a transition, for what happened and for what did not. Zhu et al., ICDE 2023.

    Title: "DCMT: A Direct Entire-Space Causal Multi-Task Framework for Post-Click Conversion Estimation".

    c_i = sigmoid(tower_i(x)),  c*_i = sigmoid(other_i(x)),  p_i = c_1 * ... * c_i,  x = flatten(E[x])

    L = sum_i e(o_i, p_i) over the entire space + the loss `counterfactual` of every transition from step 2 on

    The counterfactual twin c* is trained on the rows outside the local space and tied to 1 - c, so that these rows
    reach c as well. It is not used when scoring. The towers share the embedding alone.

    NOTE[paper]: two steps there. Wide and deep parts of the paper's towers are left out: every model here reads the
    fields through one embedding. The text was not verified.

    Idea: a counterfactual twin of each transition, tied to it, learns outside the local space.

    Args:
        schema: the fields and the funnel.
        width: D >= 1, embedding width.
        hidden: widths of each tower's layers, those of the twins too.
        clip: smallest propensity in [0, 1] on either side, one number or one for each transition from step 2 on.
        lam: weight >= 0 of the tie between the twins.
        normalise: `self` divides by the sum of the weights of a side, `rows` by the number of rows.
        head: what the logits stand for: `transition`, `reach` or `monotone` (`funnelcast.heads`).

    Shapes: ids [B, W] -> embedding [B, F, D] -> transition logits [B, S], companion [B, S] (logits of c*).

    Raises:
        ConfigError: a width is not a whole number >= 1, the clip is out of range, or `normalise` is unknown.

    Example:
        >>> from funnelcast.schema import Field, Step
        >>> steps = tuple(Step(name=name, reach_rate=0.1, transition_rate=0.5) for name in ("click", "buy"))
        >>> schema = Schema(dataset="shop", fields=(Field(name="item", size=10),), steps=steps)
        >>> [loss.name for loss in Dcmt(schema, hidden=(8,)).default_losses()]
        ['reach_bce', 'counterfactual']
    """

    search_space: ClassVar[SearchSpace] = {
        "hidden": HIDDEN,
        "lam": LogUniform(1e-4, 0.1, grid=(1e-4, 1e-3, 1e-2, 0.1)),
        "clip": CLIP,
    }

    def __init__(
        self,
        schema: Schema,
        *,
        width: int = 18,
        hidden: tuple[int, ...] = (256, 128, 64),
        clip: tuple[float, ...] | float = 0.01,
        lam: float = 1e-3,
        normalise: Literal["self", "rows"] = "self",
        head: Head = "transition",
    ) -> None:
        check_debiasing(schema, clip, lam=lam)
        # The twin starts at one minus TRAIN's transition.
        starts = [-log_odds(step.transition_rate) for step in schema.steps[1:]]
        super().__init__(schema, width=width, hidden=hidden, head=head, companion=starts)
        self.clip, self.lam, self.normalise = clip, lam, normalise

    def default_losses(self) -> tuple[Component, ...]:
        """Return the cross-entropy of every reach and the debiased twins."""
        options = {"clip": self.clip, "lam": self.lam, "normalise": self.normalise}
        later = [Component(name="counterfactual", options=options)] if self.schema.n_steps > 1 else []
        return (Component(name="reach_bce"), *later)
