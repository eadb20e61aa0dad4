"""ESMM."""

from __future__ import annotations

from typing import ClassVar

from funnelcast.heads import Head
from funnelcast.registry import MODELS
from funnelcast.schema import Schema
from funnelcast.space import HIDDEN, SearchSpace
from funnelcast.transition_towers import TransitionTowers

__all__ = ["Esmm"]


@MODELS.register
class Esmm(TransitionTowers):
    """ESMM, the entire-space product of transitions. Ma et al., SIGIR 2018, arXiv:1804.07931.

    c_i = sigmoid(tower_i(flatten(E[x]))),  p_i = c_1 * ... * c_i

    The towers share the embedding alone, and each has its own last bias. Only the products are compared with labels,
    over the entire space, so no transition is trained on the local space. Products are taken in log space.

    NOTE[paper]: two steps there, any number here. The default layers are those of Single-Task, for equal capacity; the
    paper is reported to use (360, 200, 80), which could not be verified.

    Idea: product of transitions, trained on all rows.

    Args:
        schema: the fields and the funnel.
        width: D >= 1, embedding width; 18 in the paper.
        hidden: widths of each tower's layers.
        head: what the logits stand for: `transition`, `reach` or `monotone` (`funnelcast.heads`).

    Shapes: ids [B, W] -> embedding [B, F, D] -> transition logits [B, S].

    Raises:
        ConfigError: a width is not a whole number >= 1.

    Example:
        >>> import torch
        >>> from funnelcast.schema import Field, Step
        >>> steps = tuple(Step(name=name, reach_rate=0.1, transition_rate=0.5) for name in ("click", "buy"))
        >>> schema = Schema(dataset="shop", fields=(Field(name="item", size=10),), steps=steps)
        >>> reach = Esmm(schema, hidden=(8,))(torch.tensor([[2], [3]])).reach
        >>> bool((reach[:, 1] < reach[:, 0]).all())
        True
    """

    search_space: ClassVar[SearchSpace] = {"hidden": HIDDEN}

    def __init__(
        self,
        schema: Schema,
        *,
        width: int = 18,
        hidden: tuple[int, ...] = (256, 128, 64),
        head: Head = "transition",
    ) -> None:
        super().__init__(schema, width=width, hidden=hidden, head=head)
