"""DCN-PLE-ESMM: products of fields, then experts a step, then the product form."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from funnelcast.dense_path import Cross
from funnelcast.errors import ConfigError
from funnelcast.experts import CgcLevel, own_counts
from funnelcast.heads import Head, first_logits, to_prediction
from funnelcast.layers import (
    FeatureEmbedding,
    FunnelModel,
    Tower,
    check_at_least,
    check_widths,
)
from funnelcast.prediction import Prediction
from funnelcast.registry import MODELS
from funnelcast.schema import Schema
from funnelcast.space import Choice, IntegerRange, SearchSpace

__all__ = ["DcnPleEsmm"]


@MODELS.register
class DcnPleEsmm(FunnelModel):
    """DCN-PLE-ESMM, a strong baseline after public code: DCN-V2 (2021) below PLE (2020) below ESMM (2018).

    x_0 = flatten(E[x]),  x_l = x_0 * (W_l x_{l-1} + b_l) + x_{l-1} for l = 1..C   (* element by element)

    g_1, ..., g_S = PLE levels on x_C,  c_i = sigmoid(tower_i(g_i)),  p_i = c_1 * ... * c_i

    Every cross layer multiplies fields with each other once more, which neither PLE nor an attention over fields does.
    The levels are those of `ple`, and only the products are compared with labels, over the entire space, as in `esmm`.

    NOTE[paper]: there is no paper of this combination; two steps, three cross layers, one level with two shared experts
    and one of each step are reported for the public code that the row is named after, whose text was not verified.

    Idea: cross layers multiply the fields, then experts a step, then the product of transitions.

    Args:
        schema: the fields and the funnel.
        width: D >= 1, embedding width.
        cross_layers: C >= 0, number of cross layers.
        cross_rank: rank of each W_l, >= 0; 0 is the full matrix with (F*D)^2 weights.
        levels: levels of experts, >= 1.
        shared_experts: shared experts a level, >= 1.
        own_experts: own experts a step and level, >= 1: one number for every step, or S numbers in the funnel's order.
        expert_hidden: widths of each expert's layers, at least one.
        tower_hidden: widths of each step's own layers.
        head: what the logits stand for: `transition`, `reach` or `monotone` (`funnelcast.heads`).

    Shapes: ids [B, W] -> x_0 .. x_C [B, F*D] -> S streams [B, H] -> transition logits [B, S].

    Raises:
        ConfigError: a width or a number is no whole number in its range, `own_experts` names another number of steps
            than the funnel has, or `expert_hidden` is empty.

    Source: Wang et al., WWW 2021, "DCN V2" (the cross layer, full and of low rank); the papers of `ple` and `esmm`.

    Example:
        >>> from funnelcast.schema import Field, Step
        >>> steps = tuple(Step(name=name, reach_rate=0.1, transition_rate=0.1) for name in ("click", "buy"))
        >>> schema = Schema(dataset="shop", fields=(Field(name="item", size=10),), steps=steps)
        >>> DcnPleEsmm(schema, expert_hidden=(8,), tower_hidden=())(torch.tensor([[2], [3], [4]])).reach.shape
        torch.Size([3, 2])
    """

    search_space: ClassVar[SearchSpace] = {
        "cross_layers": IntegerRange(1, 4),
        "cross_rank": Choice(0, 16, 64),
        "shared_experts": IntegerRange(1, 4),
        "own_experts": IntegerRange(1, 3),
        "expert_hidden": Choice((64,), (128,), (128, 64), (256, 128)),
    }

    def __init__(
        self,
        schema: Schema,
        *,
        width: int = 18,
        cross_layers: int = 3,
        cross_rank: int = 0,
        levels: int = 1,
        shared_experts: int = 2,
        own_experts: int | tuple[int, ...] = 1,
        expert_hidden: tuple[int, ...] = (256, 128),
        tower_hidden: tuple[int, ...] = (64,),
        head: Head = "transition",
    ) -> None:
        super().__init__(schema)
        self.head = head
        check_at_least(0, cross_layers=cross_layers, cross_rank=cross_rank)
        check_at_least(1, levels=levels, shared_experts=shared_experts)
        check_widths(expert_hidden=expert_hidden, tower_hidden=tower_hidden)
        if not expert_hidden:
            raise ConfigError("option 'expert_hidden' should name at least one layer, received none")
        counts = [*own_counts(own_experts, schema.n_steps), shared_experts]
        self.embedding = FeatureEmbedding(schema, width)
        n_inputs = self.embedding.n_outputs
        self.crosses = nn.ModuleList(Cross(n_inputs, cross_rank) for _ in range(cross_layers))
        inputs = [n_inputs] + [expert_hidden[-1]] * (levels - 1)
        self.levels = nn.ModuleList(
            CgcLevel(n, counts, expert_hidden, top=level == levels) for level, n in enumerate(inputs, 1)
        )
        starts = first_logits(schema, head)
        self.towers = nn.ModuleList(Tower(expert_hidden[-1], tower_hidden, start=start) for start in starts)

    def forward(self, ids: Tensor) -> Prediction:
        """Predict from ids [B, W]."""
        first = self.embedding(ids).flatten(1)  # [B, F*D]
        x = first
        for cross in self.crosses:
            x = cross(first, x)
        streams = [x] * (self.schema.n_steps + 1)
        for level in self.levels:
            streams = level(streams)
        logits = [tower(stream) for tower, stream in zip(self.towers, streams, strict=True)]
        return to_prediction(self.head, torch.stack(logits, dim=1))
