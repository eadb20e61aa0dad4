"""Multi-IPW and Multi-DR."""

from __future__ import annotations

from typing import Any, ClassVar

from funnelcast.config import Component
from funnelcast.heads import Head
from funnelcast.layers import check_choice
from funnelcast.models._debiased import (
    Estimator,
    Gradients,
    check_debiasing,
    estimator_losses,
    first_imputed_errors,
    first_step_loss,
)
from funnelcast.registry import MODELS
from funnelcast.schema import Schema
from funnelcast.space import CLIP, HIDDEN, WEIGHT, SearchSpace
from funnelcast.transition_towers import TransitionTowers

__all__ = ["MultiIpw"]


@MODELS.register
class MultiIpw(TransitionTowers):
    """Multi-IPW and Multi-DR: transitions debiased by the model's own reach. Zhang et al., WWW 2020, arXiv:1910.09337.

    c_i = sigmoid(tower_i(x)),  p_i = c_1 * ... * c_i,  and for Multi-DR  d_i = softplus(other_i(x)),  x = flatten(E[x])

    The first step is trained over the entire space, each later transition over its local space, weighted by 1 / p_{i-1}
    (`transition_ips`), or by a doubly robust error with the imputed error d_i (`transition_dr`). No product of
    transitions is compared with labels. The towers share the embedding alone. One step has nothing to debias.

    NOTE[paper]: two steps there. Here every transition from step 2 on has a term of its own, whose propensity is the
    detached product of the former transitions.

    Idea: each transition weighted by the inverse of the reach before it.

    Args:
        schema: the fields and the funnel.
        width: D >= 1, embedding width.
        hidden: widths of each tower's layers, those of the imputation towers too.
        estimator: `ips` (Multi-IPW) or `dr` (Multi-DR).
        transition_weight: weight >= 0 of each transition's term; the first step weighs 1.
        clip: smallest propensity in [0, 1], one number or one for each transition from step 2 on.
        gradients: with `dr`, who learns from what: `joint` as reported for the paper, or `split`, where the imputed
            error learns from its own term alone (see `transition_dr`).
        head: what the logits stand for: `transition`, `reach` or `monotone` (`funnelcast.heads`).

    Shapes: ids [B, W] -> embedding [B, F, D] -> transition logits [B, S], with `dr` a companion [B, S].

    Raises:
        ConfigError: a width is not a whole number >= 1, a weight or the clip is out of range, or the estimator is
            unknown.

    Source: the multi-task estimators as they are usually reported; the paper's text was not verified.

    Example:
        >>> from funnelcast.schema import Field, Step
        >>> steps = tuple(Step(name=name, reach_rate=0.1, transition_rate=0.5) for name in ("click", "buy"))
        >>> schema = Schema(dataset="shop", fields=(Field(name="item", size=10),), steps=steps)
        >>> [loss.name for loss in MultiIpw(schema, estimator="dr").default_losses()]
        ['reach_bce', 'transition_dr']
    """

    variants: ClassVar[dict[str, dict[str, Any]]] = {"multi_dr": {"estimator": "dr"}}

    search_space: ClassVar[SearchSpace] = {
        "hidden": HIDDEN,
        "transition_weight": WEIGHT,
        "clip": CLIP,
    }

    def __init__(
        self,
        schema: Schema,
        *,
        width: int = 18,
        hidden: tuple[int, ...] = (256, 128, 64),
        estimator: Estimator = "ips",
        transition_weight: float = 1.0,
        clip: tuple[float, ...] | float = 0.01,
        gradients: Gradients = "joint",
        head: Head = "transition",
    ) -> None:
        check_choice("estimator", estimator, Estimator)
        check_choice("gradients", gradients, Gradients)
        check_debiasing(schema, clip, transition_weight=transition_weight)
        companion = first_imputed_errors(schema) if estimator == "dr" else None
        super().__init__(schema, width=width, hidden=hidden, head=head, companion=companion)
        self.estimator, self.transition_weight, self.clip = estimator, transition_weight, clip
        self.gradients: Gradients = gradients

    def default_losses(self) -> tuple[Component, ...]:
        """Return the first step's cross-entropy and the debiased transitions."""
        return (
            first_step_loss(self.schema),
            *estimator_losses(
                self.schema, self.estimator, weight=self.transition_weight, clip=self.clip, gradients=self.gradients
            ),
        )
