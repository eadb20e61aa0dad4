"""APEM as one writes it down from the paper: a table a field, heads and steps one after the other, nothing folded.

The reference of the speed tables and, in the tests, of the numbers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from funnelcast.apem_layers import Asrg, PatternSelector
from funnelcast.layers import FunnelModel, smooth_step
from funnelcast.models.apem import Apem
from funnelcast.prediction import Prediction


def attention(query: Tensor, tokens: Tensor, key: Tensor, value: Tensor, output: Tensor, heads: int) -> Tensor:
    """Attend with queries [B, K, D] or [K, D] to tokens [B, n, D], head by head (equations 15 and 16)."""
    size = key.shape[1] // heads
    keys, values = tokens @ key, tokens @ value
    found = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores = query[..., part] @ keys[..., part].transpose(1, 2) / math.sqrt(size)
        found.append(scores.softmax(dim=-1) @ values[..., part])
    return torch.cat(found, dim=-1) @ output


class Straightforward(FunnelModel):
    """The default APEM with the weights of `model`, in single-valued fields."""

    def __init__(self, model: Apem) -> None:
        super().__init__(model.schema)
        sizes = [field.size for field in model.schema.fields]
        parts = model.embedding.table.detach().split(sizes)
        self.tables = nn.ModuleList(nn.Embedding.from_pretrained(part.clone(), freeze=False) for part in parts)
        self.gates, self.layers, self.indicators = model.gates, model.layers, model.indicators
        self.patterns, self.towers = model.patterns, model.towers

    def forward(self, ids: Tensor) -> Prediction:
        """Predict from ids [B, F]."""
        x = torch.stack([table(ids[:, number]) for number, table in enumerate(self.tables)], dim=1)  # [B, F, D]
        former: list[Tensor | None] = [None] * self.schema.n_steps
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, Asrg)
            body, scores = self.gates.bodies[number], self.gates.scores[number]
            z = smooth_step(scores(body(x.flatten(1))), self.gates.gamma)  # [B, K]
            query = layer.inducing * z[:, :, None]
            out = attention(query, x, layer.key, layer.value, layer.output, layer.heads)
            x = layer.norm(out + (layer.inducing if layer.residual == "inducing" else x))
            selector = self.patterns[number]
            assert isinstance(selector, PatternSelector)
            former = [self.pattern(selector, step, self.indicators[number][step], x, former[step])
                      for step in range(self.schema.n_steps)]  # fmt: skip
        logits = [tower(pattern) for tower, pattern in zip(self.towers, former, strict=True)]
        return Prediction.from_reach(torch.stack(logits, dim=1))

    @staticmethod
    def pattern(selector: PatternSelector, step: int, indicator: Tensor, y: Tensor, former: Tensor | None) -> Tensor:
        """Read a layer's tokens for one step (equations 18 and 19)."""
        weights = (selector.key[step], selector.value[step], selector.output[step])
        found = attention(indicator[None], y, *weights, selector.heads)[:, 0]  # [B, D]
        found = found if former is None else found + former
        return nn.functional.layer_norm(found, found.shape[1:], selector.scale[step], selector.shift[step])
