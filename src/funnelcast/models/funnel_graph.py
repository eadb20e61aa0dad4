"""Funnel graph."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from funnelcast.graph_head import compose
from funnelcast.layers import FeatureEmbedding, FunnelModel, Tower, log_odds
from funnelcast.prediction import Prediction
from funnelcast.registry import MODELS
from funnelcast.schema import Schema
from funnelcast.space import HIDDEN, SearchSpace

__all__ = ["FunnelGraph"]


@MODELS.register
class FunnelGraph(FunnelModel):
    """Funnel graph, exact composition over parents; generalises ESMM (2018), ESM2 (2020) and HM3 (2021).

    p_v = sum over parents u of P(u) c_uv,  c_uv = sigmoid(tower_uv(flatten(E[x]))), softmax in an exclusive group

    The steps' parents and groups stand in the schema. Parents of a step exclude each other, so masses add up; branches
    may also be "not:a", where a's parent happened and a did not. A chain is ESMM. There is no option `head`: the graph
    is the head.

    Idea: one transition an edge of a declared funnel graph, composed exactly.

    Args:
        schema: the fields and the funnel.
        width: D >= 1, embedding width.
        hidden: widths of each tower's layers.

    Shapes: ids [B, W] -> embedding [B, F, D] -> one logit an edge -> reach and transition [B, S].

    Raises:
        ConfigError: a width is not a whole number >= 1.

    Source: Wen et al., SIGIR 2020 (ESM2) and Wen et al., SIGIR 2021 (HM3), whose formulas it generalises, as they are
        usually reported; the texts were not verified.

    Example:
        >>> from funnelcast.schema import Field, Step
        >>> click = Step(name="click", reach_rate=0.2, transition_rate=0.2)
        >>> ways = [Step(name=n, reach_rate=0.1, transition_rate=0.5, parents=("click",)) for n in ("cart", "wish")]
        >>> schema = Schema(dataset="shop", fields=(Field(name="item", size=10),), steps=(click, *ways))
        >>> reach = FunnelGraph(schema, hidden=(8,))(torch.tensor([[2], [3]])).reach
        >>> bool((reach[:, 1:] < reach[:, :1]).all())
        True
    """

    takes_graph: ClassVar[bool] = True

    search_space: ClassVar[SearchSpace] = {"hidden": HIDDEN}

    def __init__(self, schema: Schema, *, width: int = 18, hidden: tuple[int, ...] = (256, 128, 64)) -> None:
        super().__init__(schema)
        self.embedding = FeatureEmbedding(schema, width)
        starts = []
        for v, parents in enumerate(schema.graph.edges):
            unit = schema.graph.unit(v)
            rates = [schema.steps[u].transition_rate for u in unit]
            start = log_odds(rates[0])
            if len(unit) > 1:  # softmax against `none`: log(rate / share of none)
                rate = torch.tensor([schema.steps[v].transition_rate, max(1.0 - sum(rates), 1e-6)]).log()
                start = float(rate[0] - rate[1])
            starts += [start] * len(parents)
        self.towers = nn.ModuleList(Tower(self.embedding.n_outputs, hidden, start=start) for start in starts)

    def forward(self, ids: Tensor) -> Prediction:
        """Predict from ids [B, W]."""
        x = self.embedding(ids).flatten(1)  # [B, F*D]
        return compose(self.schema.graph, torch.stack([tower(x) for tower in self.towers], dim=1))
