"""MRAN: attention between steps, between fields, and from every step to the fields."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from funnelcast.errors import ConfigError
from funnelcast.experts import Experts
from funnelcast.heads import Head, first_logits, to_prediction
from funnelcast.layers import FeatureEmbedding, FunnelModel, Tower, check_at_least, check_widths, full_precision
from funnelcast.prediction import Prediction
from funnelcast.registry import MODELS
from funnelcast.schema import Schema
from funnelcast.space import Choice, SearchSpace

__all__ = ["Mran", "SelfAttention"]


def _matrix(width: int) -> nn.Linear:
    """Make a square matrix without bias, Xavier-uniform."""
    linear = nn.Linear(width, width, bias=False)
    nn.init.xavier_uniform_(linear.weight)
    return linear


class SelfAttention(nn.Module):
    """Tokens attend to each other: LN(t + concat_m(softmax(Q_m K_m^T / sqrt(D / M)) V_m) O).

    Shapes: [B, n, D] -> [B, n, D].
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.output = (_matrix(width) for _ in range(4))
        self.norm = nn.LayerNorm(width)

    def shares(self, tokens: Tensor) -> Tensor:
        """Return how much every token takes from every other one: [B, M, n, n], whose last dimension sums to 1."""
        query, key = self._split(self.query(tokens)), self._split(self.key(tokens))  # [B, M, n, D/M]
        shares: Tensor = full_precision(query @ key.transpose(2, 3) / math.sqrt(query.shape[3])).softmax(dim=3)
        return shares

    def forward(self, tokens: Tensor) -> Tensor:
        """Mix tokens [B, n, D]."""
        mixed = self.shares(tokens) @ self._split(self.value(tokens))  # [B, M, n, D/M]
        out: Tensor = self.norm(tokens + self.output(mixed.transpose(1, 2).flatten(2)))
        return out

    def _split(self, tokens: Tensor) -> Tensor:
        """Cut [B, n, D] into heads [B, M, n, D/M]."""
        B, n, D = tokens.shape
        return tokens.reshape(B, n, self.heads, D // self.heads).transpose(1, 2)


@MODELS.register
class Mran(FunnelModel):
    """MRAN. Zhao, Du, Sun et al. (Beihang), KDD 2019, "Multiple relational attention network for multi-task learning".

    E = E[x] [F, D];  fields: U = SelfAttention(E);  steps: r_i = relu(V_i flatten(E) + b_i), R = SelfAttention(r)

    a_if = softmax_f(<Q R_i, K U_f> / sqrt(D)),  g_i = LN(flatten_f((1 + a_if) U_f)),  p_i = sigmoid(tower_i(g_i))

    The first line relates fields to fields and steps to steps; the second one relates every step to the fields: each
    step weighs all fields by its own attention. One reach head a step, over the entire space.

    NOTE[paper]: after the description. The paper was not at hand, only its abstract and a reader's public notes, in
    which the formulas are missing; the three attentions, their order, the weighting of the fields followed by a
    residual and a norm, and two ReLU layers a step come from there, everything else is ours.
    NOTE[paper]: by those notes the paper's steps attend to each other's labels while it trains, and a prediction uses
    what was learned of them. A model never sees labels here, so a step is represented by r_i, read from the row.
    NOTE[paper]: layer norm here, batch norm there; the paper's penalty on its attention matrices is left out.

    Idea: attention between steps, between fields, and from every step to the fields.

    Args:
        schema: the fields and the funnel.
        width: D >= 1, embedding width, a multiple of `heads`.
        heads: M >= 1, heads of the attention between fields and of that between steps.
        tower_hidden: widths of each step's own layers.
        head: what the logits stand for: `reach`, `transition` or `monotone` (`funnelcast.heads`).

    Shapes: ids [B, W] -> E, U [B, F, D] -> r, R [B, S, D] -> a [B, S, F] -> g [B, S, F*D] -> logits [B, S].

    Raises:
        ConfigError: a width or a number is not a whole number >= 1, or `width` is no multiple of `heads`.
            The same for an unknown head.

    Source: the abstract; section and equation numbers were not verified.

    Example:
        >>> from funnelcast.schema import Field, Step
        >>> fields = (Field(name="item", size=10), Field(name="page", size=5))
        >>> steps = tuple(Step(name=name, reach_rate=0.1, transition_rate=0.1) for name in ("click", "buy"))
        >>> model = Mran(Schema(dataset="shop", fields=fields, steps=steps), width=6, heads=3, tower_hidden=())
        >>> model(torch.tensor([[2, 3], [3, 1], [4, 4]])).reach.shape
        torch.Size([3, 2])
    """

    search_space: ClassVar[SearchSpace] = {
        "heads": Choice(1, 2),
        "tower_hidden": Choice((), (32,), (64, 32), (128, 64)),
    }

    def __init__(
        self,
        schema: Schema,
        *,
        width: int = 18,
        heads: int = 2,
        tower_hidden: tuple[int, ...] = (64, 32),
        head: Head = "reach",
    ) -> None:
        super().__init__(schema)
        self.head = head
        check_at_least(1, width=width, heads=heads)
        check_widths(tower_hidden=tower_hidden)
        if width % heads:
            raise ConfigError(f"option 'width' should be a multiple of heads={heads}, received {width}")
        self.embedding = FeatureEmbedding(schema, width)
        inputs = self.embedding.n_outputs
        self.between_fields = SelfAttention(width, heads)
        self.views = Experts(schema.n_steps, inputs, (width,))
        # A list of one or none: a single step has no other one to attend to.
        self.between_steps = nn.ModuleList(SelfAttention(width, heads) for _ in range(min(schema.n_steps - 1, 1)))
        self.query, self.key = _matrix(width), _matrix(width)
        self.towers = nn.ModuleList(Tower(inputs, tower_hidden, start=start) for start in first_logits(schema, head))

    def field_shares(self, ids: Tensor) -> Tensor:
        """Return how much each step looks at each field, for ids [B, W]: [B, S, F], whose last dimension sums to 1."""
        return self._weigh(ids)[1]

    def forward(self, ids: Tensor) -> Prediction:
        """Predict from ids [B, W]."""
        fields, shares = self._weigh(ids)
        weighed = ((1.0 + shares)[:, :, :, None] * fields[:, None]).flatten(2)  # [B, S, F*D]
        # Over all fields at once: a norm of each field would undo its weight.
        patterns = nn.functional.layer_norm(weighed, weighed.shape[2:])
        logits = [tower(pattern) for tower, pattern in zip(self.towers, patterns.unbind(1), strict=True)]
        return to_prediction(self.head, torch.stack(logits, dim=1))

    def _weigh(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the fields U [B, F, D] and each step's attention to them [B, S, F]."""
        embedded = self.embedding(ids)
        fields = self.between_fields(embedded)
        steps = self.views(embedded.flatten(1)).transpose(0, 1)  # [B, S, D]
        for attention in self.between_steps:
            steps = attention(steps)
        scores = self.query(steps) @ self.key(fields).transpose(1, 2) / math.sqrt(steps.shape[2])
        return fields, full_precision(scores).softmax(dim=2)
