"""MMoE."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from funnelcast.errors import ConfigError
from funnelcast.experts import Experts, expert_gates
from funnelcast.gates import GateLayer
from funnelcast.heads import Head, first_logits, to_prediction
from funnelcast.layers import FeatureEmbedding, FunnelModel, Tower, check_at_least, check_widths, full_precision
from funnelcast.prediction import Prediction
from funnelcast.registry import MODELS
from funnelcast.schema import Schema
from funnelcast.space import Choice, SearchSpace

__all__ = ["Mmoe"]


@MODELS.register
class Mmoe(FunnelModel):
    """MMoE, "Modeling task relationships [...] with multi-gate mixture-of-experts". Ma et al., KDD 2018.

    p_i = sigmoid(tower_i(sum_e softmax(W_i x)_e f_e(x))),  x = flatten(E[x])

    One reach head a step, over the entire space; each step mixes the shared experts by its own linear gate. The
    softmax runs over the experts.

    Idea: experts mixed by one gate a step.

    Args:
        schema: the fields and the funnel.
        width: D >= 1, embedding width.
        experts: E >= 1, number of experts; 4 to 8 are usual.
        expert: widths of each expert's layers, at least one.
        tower: widths of each step's own layers.
        head: what the logits stand for: `reach`, `transition` or `monotone` (`funnelcast.heads`).

    Shapes: ids [B, W] -> x [B, F*D] -> experts [E, B, H], gates [B, S, E] -> mixtures [B, S, H] -> logits [B, S].

    Raises:
        ConfigError: a width or the number of experts is not a whole number >= 1, or `expert` is empty.
            The same for an unknown head.

    Example:
        >>> from funnelcast.schema import Field, Step
        >>> steps = (Step(name="click", reach_rate=0.1, transition_rate=0.1),)
        >>> schema = Schema(dataset="shop", fields=(Field(name="item", size=10),), steps=steps)
        >>> Mmoe(schema, experts=3, expert=(8,), tower=())(torch.tensor([[2], [3]])).reach.shape
        torch.Size([2, 1])
    """

    search_space: ClassVar[SearchSpace] = {
        "experts": Choice(2, 4, 8),
        "expert": Choice((64,), (128,), (128, 64), (256, 128)),
        "tower": Choice((), (32,), (64,)),
    }

    def __init__(
        self,
        schema: Schema,
        *,
        width: int = 18,
        experts: int = 4,
        expert: tuple[int, ...] = (256, 128),
        tower: tuple[int, ...] = (64,),
        head: Head = "reach",
    ) -> None:
        super().__init__(schema)
        self.head = head
        check_at_least(1, experts=experts)
        check_widths(expert=expert, tower=tower)
        if not expert:
            raise ConfigError("option 'expert' should name at least one layer, received none")
        self.embedding = FeatureEmbedding(schema, width)
        self.experts = Experts(experts, self.embedding.n_outputs, expert)
        self.gates = nn.Linear(self.embedding.n_outputs, schema.n_steps * experts, bias=False)
        nn.init.xavier_uniform_(self.gates.weight)
        self.towers = nn.ModuleList(Tower(expert[-1], tower, start=start) for start in first_logits(schema, head))

    def forward(self, ids: Tensor) -> Prediction:
        """Predict from ids [B, W]."""
        x = self.embedding(ids).flatten(1)  # [B, F*D]
        mixtures = torch.einsum("bse,ebh->bsh", self._weights(x), self.experts(x))  # [B, S, H]
        logits = [tower(mixture) for tower, mixture in zip(self.towers, mixtures.unbind(1), strict=True)]
        return to_prediction(self.head, torch.stack(logits, dim=1))

    def _weights(self, x: Tensor) -> Tensor:
        """Return each step's weights of the experts [B, S, E] from x [B, F*D]."""
        return full_precision(self.gates(x)).view(x.shape[0], self.schema.n_steps, -1).softmax(dim=2)

    def gate_layers(self, ids: Tensor) -> tuple[GateLayer, ...]:
        """Return each step's weights of the experts [B, E] for ids [B, W]."""
        return expert_gates(self.schema, self._weights(self.embedding(ids).flatten(1)))
