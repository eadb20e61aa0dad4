"""PLE: own and shared experts a step, level upon level."""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from funnelcast.errors import ConfigError
from funnelcast.experts import CgcLevel, own_counts
from funnelcast.gates import GateLayer
from funnelcast.heads import Head, first_logits, to_prediction
from funnelcast.layers import FeatureEmbedding, FunnelModel, Tower, check_at_least, check_widths
from funnelcast.prediction import Prediction
from funnelcast.registry import MODELS
from funnelcast.schema import Schema
from funnelcast.space import Choice, IntegerRange, SearchSpace

__all__ = ["Ple"]


@MODELS.register
class Ple(FunnelModel):
    """PLE. Tang et al. (Tencent), RecSys 2020, "Progressive layered extraction (PLE)".

    Full title: "Progressive Layered Extraction (PLE): A Novel Multi-Task Learning (MTL) Model for Personalized
    Recommendations".

    g_k0 = g_s0 = x = flatten(E[x]),  p_k = sigmoid(tower_k(g_kL)), and on every level l = 1..L

    g_kl = sum_e softmax(W_kl g_k,l-1)_e f_e   over step k's own experts f(g_k,l-1) and the shared experts f(g_s,l-1)

    g_sl = sum_e softmax(W_sl g_s,l-1)_e f_e   over the experts of all steps and the shared ones, for l < L

    One reach head a step, over the entire space. `levels = 1` is the paper's CGC.

    NOTE[paper]: each task is trained there on a sample space of its own, with loss weights that change while training;
    losses are not part of a model here, and the default is `reach_bce` with equal weights on every observed row.

    Idea: own and shared experts a step, level upon level.

    Args:
        schema: the fields and the funnel.
        width: D >= 1, embedding width.
        levels: L >= 1, levels of experts.
        shared_experts: shared experts a level, >= 1.
        own_experts: own experts a step and level, >= 1: one number for every step, or S numbers in the funnel's order.
        expert_hidden: widths of each expert's layers, at least one, the same on every level.
        tower_hidden: widths of each step's own layers.
        head: what the logits stand for: `reach`, `transition` or `monotone` (`funnelcast.heads`).

    Shapes: ids [B, W] -> x [B, F*D] -> a level: experts [m, B, H] of each stream, gates [B, m + shared] -> S + 1
    streams [B, H], S at the top -> logits [B, S].

    Raises:
        ConfigError: a width or a number is not a whole number >= 1, `own_experts` names another number of steps than
            the funnel has, or `expert_hidden` is empty.
            The same for an unknown head.

    Source: sections 4.1 (CGC) and 4.2 (PLE).

    Example:
        >>> from funnelcast.schema import Field, Step
        >>> steps = tuple(Step(name=name, reach_rate=0.1, transition_rate=0.1) for name in ("click", "buy"))
        >>> schema = Schema(dataset="shop", fields=(Field(name="item", size=10),), steps=steps)
        >>> model = Ple(schema, shared_experts=3, own_experts=(1, 2), expert_hidden=(8,), tower_hidden=())
        >>> model(torch.tensor([[2], [3], [4]])).reach.shape
        torch.Size([3, 2])
    """

    search_space: ClassVar[SearchSpace] = {
        "levels": IntegerRange(1, 3),
        "shared_experts": IntegerRange(1, 4),
        "own_experts": IntegerRange(1, 4),
        "expert_hidden": Choice((64,), (128,), (128, 64), (256, 128)),
        "tower_hidden": Choice((), (32,), (64,)),
    }

    def __init__(
        self,
        schema: Schema,
        *,
        width: int = 18,
        levels: int = 2,
        shared_experts: int = 2,
        own_experts: int | tuple[int, ...] = 2,
        expert_hidden: tuple[int, ...] = (128,),
        tower_hidden: tuple[int, ...] = (64,),
        head: Head = "reach",
    ) -> None:
        super().__init__(schema)
        self.head = head
        check_at_least(1, levels=levels, shared_experts=shared_experts)
        check_widths(expert_hidden=expert_hidden, tower_hidden=tower_hidden)
        if not expert_hidden:
            raise ConfigError("option 'expert_hidden' should name at least one layer, received none")
        counts = [*own_counts(own_experts, schema.n_steps), shared_experts]
        self.embedding = FeatureEmbedding(schema, width)
        inputs = [self.embedding.n_outputs] + [expert_hidden[-1]] * (levels - 1)
        self.levels = nn.ModuleList(
            CgcLevel(n_inputs, counts, expert_hidden, top=level == levels) for level, n_inputs in enumerate(inputs, 1)
        )
        starts = first_logits(schema, head)
        self.towers = nn.ModuleList(Tower(expert_hidden[-1], tower_hidden, start=start) for start in starts)

    def forward(self, ids: Tensor) -> Prediction:
        """Predict from ids [B, W]."""
        x = self.embedding(ids).flatten(1)  # [B, F*D]
        streams = [x] * (self.schema.n_steps + 1)
        for level in self.levels:
            streams = level(streams)
        logits = [tower(stream) for tower, stream in zip(self.towers, streams, strict=True)]
        return to_prediction(self.head, torch.stack(logits, dim=1))

    def gate_layers(self, ids: Tensor) -> tuple[GateLayer, ...]:
        """Return every gate's weights of the experts it chooses among for ids [B, W]: a step's own, then the shared."""
        found: list[GateLayer] = []
        x = self.embedding(ids).flatten(1)  # [B, F*D]
        streams, names = [x] * (self.schema.n_steps + 1), [*(f"step {n}" for n in self.schema.step_names), "shared"]
        for number, level in enumerate(self.levels, 1):
            weights = cast(CgcLevel, level).gate_weights(streams)  # none for the shared stream at the top
            found += [GateLayer(f"level {number}, {name}", w, "share") for name, w in zip(names, weights, strict=False)]
            streams = level(streams)
        return tuple(found)
