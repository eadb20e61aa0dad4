"""DR-JL."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from funnelcast.config import Component
from funnelcast.heads import Head
from funnelcast.layers import check_choice, log_odds
from funnelcast.models._debiased import check_debiasing, first_step_loss
from funnelcast.registry import MODELS
from funnelcast.schema import Schema
from funnelcast.space import CLIP, HIDDEN, WEIGHT, SearchSpace
from funnelcast.transition_towers import TransitionTowers

__all__ = ["DrJl"]

Imputation = Literal["dr_jl", "mrdr"]


@MODELS.register
class DrJl(TransitionTowers):
    """DR-JL, doubly robust joint learning of transitions and imputed labels. Wang et al., ICML 2019.

    c_i = sigmoid(tower_i(x)),  r_i = sigmoid(other_i(x)),  p_i = c_1 * ... * c_i,  x = flatten(E[x])

    L = e(o_1, p_1) + the loss `joint_learning` of every transition from step 2 on

    r_i is the imputed label of a row that never came to step i. The towers share the embedding alone; r_i is not used
    when scoring. Variant `mrdr` is MRDR (Guo et al., SIGIR 2021): the same with a weight on the imputation's error that
    aims at a small variance.

    NOTE[paper]: made for ratings missing not at random; a transition is such a rating, seen on the rows with the former
    step. Propensities are learned beside the rest instead of in advance. See the loss for the rest.

    Idea: an imputed label completes the loss, and learns from its own error; the sum is right if either part is.

    Args:
        schema: the fields and the funnel.
        width: D >= 1, embedding width.
        hidden: widths of each tower's layers, those of the imputation towers too.
        imputation: `dr_jl` or `mrdr`.
        imputation_weight: weight >= 0 of the imputation's error.
        clip: smallest propensity in [0, 1], one number or one for each transition from step 2 on.
        head: what the logits stand for: `transition`, `reach` or `monotone` (`funnelcast.heads`).

    Shapes: ids [B, W] -> embedding [B, F, D] -> transition logits [B, S], companion [B, S] (logits of r).

    Raises:
        ConfigError: a width is not a whole number >= 1, a weight or the clip is out of range, or `imputation` is
            unknown.

    Example:
        >>> from funnelcast.schema import Field, Step
        >>> steps = tuple(Step(name=name, reach_rate=0.1, transition_rate=0.5) for name in ("click", "buy"))
        >>> schema = Schema(dataset="shop", fields=(Field(name="item", size=10),), steps=steps)
        >>> [loss.name for loss in DrJl(schema, hidden=(8,)).default_losses()]
        ['reach_bce', 'joint_learning']
    """

    variants: ClassVar[dict[str, dict[str, Any]]] = {"mrdr": {"imputation": "mrdr"}}

    search_space: ClassVar[SearchSpace] = {
        "hidden": HIDDEN,
        "imputation_weight": WEIGHT,
        "clip": CLIP,
    }

    def __init__(
        self,
        schema: Schema,
        *,
        width: int = 18,
        hidden: tuple[int, ...] = (256, 128, 64),
        imputation: Imputation = "dr_jl",
        imputation_weight: float = 1.0,
        clip: tuple[float, ...] | float = 0.01,
        head: Head = "transition",
    ) -> None:
        check_choice("imputation", imputation, Imputation)
        check_debiasing(schema, clip, imputation_weight=imputation_weight)
        starts = [log_odds(step.transition_rate) for step in schema.steps[1:]]
        super().__init__(schema, width=width, hidden=hidden, head=head, companion=starts)
        self.imputation, self.imputation_weight, self.clip = imputation, imputation_weight, clip

    def default_losses(self) -> tuple[Component, ...]:
        """Return the first step's cross-entropy and the doubly robust loss of every later transition."""
        options = {"imputation": self.imputation, "imputation_weight": self.imputation_weight, "clip": self.clip}
        later = [Component(name="joint_learning", options=options)] if self.schema.n_steps > 1 else []
        return (first_step_loss(self.schema), *later)
