"""AITM: each step attends to its own view of the row and to what the former step hands on."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from funnelcast.config import Component
from funnelcast.dense_path import dropped_mlp
from funnelcast.errors import ConfigError
from funnelcast.heads import Head, first_logits, to_prediction
from funnelcast.layers import FeatureEmbedding, FunnelModel, Tower, check_widths, full_precision
from funnelcast.objective import per_step
from funnelcast.prediction import Prediction
from funnelcast.registry import MODELS
from funnelcast.schema import Schema
from funnelcast.space import Choice, SearchSpace

__all__ = ["Ait", "Aitm"]


class Ait(nn.Module):
    """Adaptive information transfer: attention over two slots {p, q}, with one set of weights for all steps.

    a_u = softmax_u(<h2(u), h3(u)> / sqrt(H)),  z = sum_u a_u h1(u);  h1, h2, h3 are matrices without bias, and each
    slot is scored by itself: no slot asks the other one.

    Shapes: p and q [B, H] -> z [B, H]. The matrices start as N(0, 0.01^2).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.h1, self.h2, self.h3 = (nn.Linear(width, width, bias=False) for _ in range(3))
        for linear in (self.h1, self.h2, self.h3):
            nn.init.normal_(linear.weight, std=0.01)

    def shares(self, slots: Tensor) -> Tensor:
        """Return how much each slot [B, 2, H] counts: [B, 2], which sums to 1."""
        scores = (self.h2(slots) * self.h3(slots)).sum(dim=2) / math.sqrt(slots.shape[2])
        shares: Tensor = full_precision(scores).softmax(dim=1)
        return shares

    def forward(self, p: Tensor, q: Tensor) -> Tensor:
        """Mix what is handed on, p, and the step's own view, q."""
        slots = torch.stack([p, q], dim=1)  # [B, 2, H]
        z: Tensor = (self.shares(slots)[:, :, None] * self.h1(slots)).sum(dim=1)
        return z


@MODELS.register
class Aitm(FunnelModel):
    """AITM. Xi, Chen, Yan et al. (Meituan), KDD 2021, "Modeling the sequential dependence among audience conversions".

    Full title: "Modeling the Sequential Dependence among Audience Multi-step Conversions with Multi-task Learning in
    Targeted Display Advertising".

    q_i = MLP_i(flatten(E[x])),  z_1 = q_1,  p_{i-1} = g_i(z_{i-1}),  z_i = AIT({p_{i-1}, q_i}) for i >= 2

    reach of step i = sigmoid(w_i . z_i + b_i), over the entire space. g_i is one layer with ReLU; every layer of MLP_i
    and g_i is followed by dropout. What is handed on comes from z_{i-1}, which already holds the steps before it, and
    not from q_{i-1}. The loss is `reach_bce` plus `calibrator` with alpha 0.6.

    NOTE[paper]: layers start Kaiming-uniform here; in the official code only h1, h2, h3 and the embedding start as
    N(0, 0.01^2), as they do here, and the layers keep their framework's own start.
    NOTE[paper]: the official code for several steps (AITM_standard.py) has batch norm and feeds every layer of MLP_i
    with the embedding, so that only its last layer counts; here the layers are stacked, without batch norm, as in the
    official code for two steps (AITM.py).

    Idea: each step attends to its own view of the row and to what the former step hands on.

    Args:
        schema: the fields and the funnel.
        width: D >= 1, embedding width.
        hidden: widths of the layers of every MLP_i, at least one; the last one is H.
        dropout: share of units dropped after each layer, in [0, 1): one number, or one a layer; g_i uses the last one.
        head: what the logits stand for: `reach`, `transition` or `monotone` (`funnelcast.heads`).

    Shapes: ids [B, W] -> x [B, F*D] -> q_i, p_i, z_i [B, H] -> logits [B, S].

    Raises:
        ConfigError: a width is not a whole number >= 1, `hidden` is empty, a share is outside [0, 1) or there are not
            as many as layers.
            The same for an unknown head.

    Source: the paper's own code, xidongbo/AITM: AITM.py (sizes, start, loss) and AITM_standard.py (more than two
        steps); the paper's equations were not verified one by one.

    Example:
        >>> from funnelcast.schema import Field, Step
        >>> steps = tuple(Step(name=name, reach_rate=0.1, transition_rate=0.1) for name in ("click", "buy"))
        >>> schema = Schema(dataset="shop", fields=(Field(name="item", size=10),), steps=steps)
        >>> model = Aitm(schema, hidden=(8, 4), dropout=0.1)
        >>> model(torch.tensor([[2], [3], [4]])).reach.shape
        torch.Size([3, 2])
    """

    search_space: ClassVar[SearchSpace] = {
        "hidden": Choice((64, 32, 16), (128, 64, 32), (256, 128, 64)),
        "dropout": Choice((0.1, 0.3, 0.3), 0.0, 0.1, 0.3),
    }

    def __init__(
        self,
        schema: Schema,
        *,
        width: int = 18,
        hidden: tuple[int, ...] = (128, 64, 32),
        dropout: tuple[float, ...] | float = (0.1, 0.3, 0.3),
        head: Head = "reach",
    ) -> None:
        super().__init__(schema)
        self.head = head
        check_widths(hidden=hidden)
        if not hidden:
            raise ConfigError("option 'hidden' should name at least one layer, received none")
        rates = per_step("dropout", dropout, len(hidden)).tolist()
        if max(rates) >= 1.0:
            raise ConfigError(f"option 'dropout' should hold numbers < 1, received {dropout}")
        self.embedding = FeatureEmbedding(schema, width)
        later, H = range(schema.n_steps - 1), hidden[-1]
        self.bodies = nn.ModuleList(dropped_mlp(self.embedding.n_outputs, hidden, rates) for _ in range(schema.n_steps))
        self.transfers = nn.ModuleList(dropped_mlp(H, hidden[-1:], rates[-1:]) for _ in later)
        # A list of one or none: a funnel of one step hands nothing on and must not carry weights that nothing trains.
        self.ait = nn.ModuleList(Ait(H) for _ in later[:1])
        self.towers = nn.ModuleList(Tower(H, (), start=start) for start in first_logits(schema, head))

    def forward(self, ids: Tensor) -> Prediction:
        """Predict from ids [B, W]."""
        x = self.embedding(ids).flatten(1)  # [B, F*D]
        first, *others = [body(x) for body in self.bodies]  # q_i [B, H]
        z = [first]
        for transfer, q in zip(self.transfers, others, strict=True):
            z.append(self.ait[0](transfer(z[-1]), q))
        logits = [tower(h) for tower, h in zip(self.towers, z, strict=True)]
        return to_prediction(self.head, torch.stack(logits, dim=1))

    def default_losses(self) -> tuple[Component, ...]:
        """Return the paper's cross-entropies and its calibrator."""
        return (Component(name="reach_bce"), Component(name="calibrator", options={"alpha": 0.6}))
