"""Single-Task."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from funnelcast.config import Component
from funnelcast.heads import Head, first_logits, to_prediction
from funnelcast.layers import (
    FeatureEmbedding,
    FunnelModel,
    Tower,
    check_choice,
)
from funnelcast.prediction import Prediction
from funnelcast.registry import MODELS
from funnelcast.schema import Schema
from funnelcast.space import HIDDEN, SearchSpace

__all__ = ["SingleTask"]

Space = Literal["entire", "local"]


@MODELS.register
class SingleTask(FunnelModel):
    """Single-Task, an own network a step. Row "Single-Task" of the APEM paper, section 4.1.2.

    y_i = sigmoid(MLP_i(flatten(E_i[x]))) with p_i = y_i in the entire space, c_i = y_i in the local space

    Nothing is shared, not even the embedding, so that each step is learned as if it were alone.

    Idea: one network a step, on all rows or on the former step's rows.

    Args:
        schema: the fields and the funnel.
        width: D >= 1, embedding width.
        hidden: widths of each step's layers.
        space: `entire` trains reach heads on all rows (`reach_bce`); `local` trains transition heads, each on the rows
            with the former step (`transition_bce`), and multiplies them to the reach.
        head: what the logits stand for: `reach`, `transition` or `monotone` (`funnelcast.heads`); none means `reach` in
            the entire space and `transition` in the local one.

    Shapes: ids [B, W] -> S embeddings [B, F, D] -> logits [B, S].

    Raises:
        ConfigError: a width is not a whole number >= 1, or the space is unknown.

    Example:
        >>> from funnelcast.schema import Field, Step
        >>> steps = (Step(name="click", reach_rate=0.1, transition_rate=0.1),)
        >>> schema = Schema(dataset="shop", fields=(Field(name="item", size=10),), steps=steps)
        >>> [loss.name for loss in SingleTask(schema, hidden=(8,), space="local").default_losses()]
        ['transition_bce']
    """

    variants: ClassVar[dict[str, dict[str, Any]]] = {"single_task_local": {"space": "local"}}

    search_space: ClassVar[SearchSpace] = {"hidden": HIDDEN}

    def __init__(
        self,
        schema: Schema,
        *,
        width: int = 18,
        hidden: tuple[int, ...] = (256, 128, 64),
        space: Space = "entire",
        head: Head | None = None,
    ) -> None:
        super().__init__(schema)
        check_choice("space", space, Space)
        self.space = space
        self.head: Head = head or ("reach" if space == "entire" else "transition")
        starts = first_logits(schema, self.head)
        self.embeddings = nn.ModuleList(FeatureEmbedding(schema, width) for _ in schema.steps)
        self.towers = nn.ModuleList(Tower(schema.n_fields * width, hidden, start=start) for start in starts)

    def forward(self, ids: Tensor) -> Prediction:
        """Predict from ids [B, W]."""
        pairs = zip(self.embeddings, self.towers, strict=True)
        logits = torch.stack([tower(embedding(ids).flatten(1)) for embedding, tower in pairs], dim=1)  # [B, S]
        return to_prediction(self.head, logits)

    def default_losses(self) -> tuple[Component, ...]:
        """Return the cross-entropy of the space that the model is trained in."""
        return (Component(name="reach_bce" if self.space == "entire" else "transition_bce"),)
