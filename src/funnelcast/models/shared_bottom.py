"""Shared-Bottom."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from funnelcast.heads import Head, first_logits, to_prediction
from funnelcast.layers import MLP, FeatureEmbedding, FunnelModel, Tower, check_widths
from funnelcast.prediction import Prediction
from funnelcast.registry import MODELS
from funnelcast.schema import Schema
from funnelcast.space import Choice, SearchSpace

__all__ = ["SharedBottom"]


@MODELS.register
class SharedBottom(FunnelModel):
    """Shared-Bottom. Caruana 1997, "Multitask learning", Machine Learning 28.

    h = MLP_shared(flatten(E[x])),  p_i = sigmoid(tower_i(h))

    One reach head a step, over the entire space; the heads share the embedding and the bottom.

    Idea: one network below, one tower a step.

    Args:
        schema: the fields and the funnel.
        width: D >= 1, embedding width.
        bottom: widths of the shared layers.
        tower: widths of each step's own layers.
        head: what the logits stand for: `reach`, `transition` or `monotone` (`funnelcast.heads`).

    Shapes: ids [B, W] -> embedding [B, F, D] -> bottom [B, bottom[-1]] -> logits [B, S].

    Raises:
        ConfigError: the width or a layer is not a whole number >= 1.
            The same for an unknown head.

    Example:
        >>> from funnelcast.schema import Field, Step
        >>> steps = (Step(name="click", reach_rate=0.1, transition_rate=0.1),)
        >>> schema = Schema(dataset="shop", fields=(Field(name="item", size=10),), steps=steps)
        >>> SharedBottom(schema, bottom=(8,), tower=())(torch.tensor([[2], [3]])).reach.shape
        torch.Size([2, 1])
    """

    search_space: ClassVar[SearchSpace] = {
        "bottom": Choice((64,), (128, 64), (256, 128), (512, 256)),
        "tower": Choice((), (32,), (64,)),
    }

    def __init__(
        self,
        schema: Schema,
        *,
        width: int = 18,
        bottom: tuple[int, ...] = (256, 128),
        tower: tuple[int, ...] = (64,),
        head: Head = "reach",
    ) -> None:
        super().__init__(schema)
        self.head = head
        check_widths(bottom=bottom, tower=tower)
        self.embedding = FeatureEmbedding(schema, width)
        self.bottom = MLP(self.embedding.n_outputs, bottom)
        self.towers = nn.ModuleList(
            Tower(self.bottom.n_outputs, tower, start=start) for start in first_logits(schema, head)
        )

    def forward(self, ids: Tensor) -> Prediction:
        """Predict from ids [B, W]."""
        shared = self.bottom(self.embedding(ids).flatten(1))  # [B, H]
        return to_prediction(self.head, torch.stack([tower(shared) for tower in self.towers], dim=1))
