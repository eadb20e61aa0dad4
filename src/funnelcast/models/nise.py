"""NISE."""

from __future__ import annotations

from typing import ClassVar, Literal

from funnelcast.config import Component
from funnelcast.heads import Head
from funnelcast.models._debiased import first_step_loss
from funnelcast.registry import MODELS
from funnelcast.schema import Schema
from funnelcast.space import HIDDEN, WEIGHT, LogUniform, SearchSpace
from funnelcast.transition_towers import TransitionTowers

__all__ = ["NiseModel"]


@MODELS.register
class NiseModel(TransitionTowers):
    """NISE, transitions that also learn from rows outside their local space. RecSys 2024.

    Title: "Utilizing Non-click Samples via Semi-supervised Learning for Conversion Rate Prediction".

    c_i = sigmoid(tower_i(flatten(E[x]))),  p_i = c_1 * ... * c_i,  L = e(o_1, p_1) + sum_{i>=2} b_i L_i  (loss `nise`)

    The towers share the embedding alone. Rows outside a step's local space count with the forecast in place of the
    label they do not have.

    NOTE[paper]: two steps there. The paper's network (towers on shared embeddings) is taken to be ESMM's; its loss is
    its own and works with any model. The text was not verified.

    Idea: the forecast stands in for the label where no one could see it.

    Args:
        schema: the fields and the funnel.
        width: D >= 1, embedding width.
        hidden: widths of each tower's layers.
        alpha: size >= 0 of each later step's term beside the first step's.
        beta: largest ratio > 0 between the first step's loss and a later one's.
        detach: whether the stand-in label is fixed, which leaves those rows without a gradient.
        normalise: `rows` divides by the number of rows, `sides` divides each side by its own.
        head: what the logits stand for: `transition`, `reach` or `monotone` (`funnelcast.heads`).

    Shapes: ids [B, W] -> embedding [B, F, D] -> transition logits [B, S].

    Raises:
        ConfigError: a width is not a whole number >= 1.

    Example:
        >>> from funnelcast.schema import Field, Step
        >>> steps = tuple(Step(name=name, reach_rate=0.1, transition_rate=0.5) for name in ("click", "buy"))
        >>> schema = Schema(dataset="shop", fields=(Field(name="item", size=10),), steps=steps)
        >>> [loss.name for loss in NiseModel(schema, hidden=(8,)).default_losses()]
        ['reach_bce', 'nise']
    """

    search_space: ClassVar[SearchSpace] = {
        "hidden": HIDDEN,
        "alpha": WEIGHT,
        "beta": LogUniform(1.0, 100.0, grid=(1.0, 10.0, 50.0, 100.0)),
    }

    def __init__(
        self,
        schema: Schema,
        *,
        width: int = 18,
        hidden: tuple[int, ...] = (256, 128, 64),
        alpha: float = 1.0,
        beta: float = 50.0,
        detach: bool = False,
        normalise: Literal["rows", "sides"] = "rows",
        head: Head = "transition",
    ) -> None:
        super().__init__(schema, width=width, hidden=hidden, head=head)
        self.alpha, self.beta, self.detach, self.normalise = alpha, beta, detach, normalise

    def default_losses(self) -> tuple[Component, ...]:
        """Return the first step's cross-entropy and NISE's term of every later step."""
        options = {"alpha": self.alpha, "beta": self.beta, "detach": self.detach, "normalise": self.normalise}
        later = [Component(name="nise", options=options)] if self.schema.n_steps > 1 else []
        return (first_step_loss(self.schema), *later)
