"""Logistic regression: what the fields say one by one."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from funnelcast.heads import Head, first_logits, to_prediction
from funnelcast.layers import FeatureEmbedding, FunnelModel
from funnelcast.prediction import Prediction
from funnelcast.registry import MODELS
from funnelcast.schema import Schema
from funnelcast.space import Choice, SearchSpace

__all__ = ["Logistic"]


@MODELS.register
class Logistic(FunnelModel):
    """Logistic regression of every step. Cox 1958, "The regression analysis of binary sequences".

    logit_i = b_i + sum_f w_i[f, x_f]

    One weight an id and step, and no interaction of fields: a model that does not beat it has learned none. A
    multi-valued field counts with the mean of its weights.

    Idea: one weight an id and step, no interactions; the yardstick for what interactions bring.

    Args:
        schema: the fields and the funnel.
        head: what the logits stand for: `reach`, `transition` or `monotone` (`funnelcast.heads`).

    Shapes: ids [B, W] -> weights [B, F, S] -> logits [B, S].

    Raises:
        ConfigError: the head is unknown.

    Example:
        >>> from funnelcast.schema import Field, Step
        >>> steps = (Step(name="click", reach_rate=0.1, transition_rate=0.1),)
        >>> schema = Schema(dataset="shop", fields=(Field(name="item", size=10),), steps=steps)
        >>> Logistic(schema)(torch.tensor([[2], [3]])).reach.shape
        torch.Size([2, 1])
    """

    search_space: ClassVar[SearchSpace] = {"head": Choice("reach", "transition", "monotone")}

    def __init__(self, schema: Schema, *, head: Head = "reach") -> None:
        super().__init__(schema)
        self.head = head
        self.weights = FeatureEmbedding(schema, schema.n_steps)
        self.bias = nn.Parameter(torch.tensor(first_logits(schema, head)))

    def forward(self, ids: Tensor) -> Prediction:
        """Predict from ids [B, W]."""
        return to_prediction(self.head, self.weights(ids).sum(dim=1) + self.bias)
