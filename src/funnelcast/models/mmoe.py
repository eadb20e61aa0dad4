"""MMoE."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from funnelcast.errors import ConfigError
from funnelcast.layers import FeatureEmbedding, FunnelModel, Tower, check_at_least, check_widths, reach_log_odds
from funnelcast.prediction import Prediction
from funnelcast.registry import MODELS
from funnelcast.schema import Schema

__all__ = ["Mmoe"]


class Experts(nn.Module):
    """E parallel MLPs with ReLU as batched products, one weight tensor [E, inputs, outputs] a layer.

    Each expert's weights are drawn on their own (Kaiming-uniform): equal first weights would stay equal for ever.

    Shapes: [B, n_inputs] -> [E, B, hidden[-1]].
    """

    def __init__(self, experts: int, n_inputs: int, hidden: Sequence[int]) -> None:
        super().__init__()
        shapes = list(pairwise([n_inputs, *hidden]))
        self.weights = nn.ParameterList(torch.empty(experts, n, m) for n, m in shapes)
        self.biases = nn.ParameterList(torch.zeros(experts, 1, m) for _, m in shapes)
        for weight, (n, _) in zip(self.weights, shapes, strict=True):
            nn.init.uniform_(weight, -math.sqrt(6 / n), math.sqrt(6 / n))

    def forward(self, x: Tensor) -> Tensor:
        """Map rows [B, n_inputs] to [E, B, H]."""
        h = x.expand(self.weights[0].shape[0], *x.shape)
        for weight, bias in zip(self.weights, self.biases, strict=True):
            h = torch.relu(torch.baddbmm(bias, h, weight))
        return h


@MODELS.register
class Mmoe(FunnelModel):
    """MMoE, "Modeling task relationships [...] with multi-gate mixture-of-experts". Ma et al., KDD 2018.

    p_i = sigmoid(tower_i(sum_e softmax(W_i x)_e f_e(x))),  x = flatten(E[x])

    One reach head a step, over the entire space; each step mixes the shared experts by its own linear gate. The
    softmax runs over the experts.

    Args:
        schema: the fields and the funnel.
        width: D >= 1, embedding width.
        experts: E >= 1, number of experts; 4 to 8 are usual.
        expert: widths of each expert's layers, at least one.
        tower: widths of each step's own layers.

    Shapes: ids [B, W] -> x [B, F*D] -> experts [E, B, H], gates [B, S, E] -> mixtures [B, S, H] -> logits [B, S].

    Raises:
        ConfigError: a width or the number of experts is not a whole number >= 1, or `expert` is empty.

    Example:
        >>> from funnelcast.schema import Field, Step
        >>> steps = (Step(name="click", reach_rate=0.1, transition_rate=0.1),)
        >>> schema = Schema(dataset="shop", fields=(Field(name="item", size=10),), steps=steps)
        >>> Mmoe(schema, experts=3, expert=(8,), tower=())(torch.tensor([[2], [3]])).reach.shape
        torch.Size([2, 1])
    """

    def __init__(
        self,
        schema: Schema,
        *,
        width: int = 18,
        experts: int = 4,
        expert: tuple[int, ...] = (256, 128),
        tower: tuple[int, ...] = (64,),
    ) -> None:
        super().__init__(schema)
        check_at_least(1, experts=experts)
        check_widths(expert=expert, tower=tower)
        if not expert:
            raise ConfigError("option 'expert' should name at least one layer, received none")
        self.embedding = FeatureEmbedding(schema, width)
        self.experts = Experts(experts, self.embedding.n_outputs, expert)
        self.gates = nn.Linear(self.embedding.n_outputs, schema.n_steps * experts, bias=False)
        nn.init.xavier_uniform_(self.gates.weight)
        self.towers = nn.ModuleList(Tower(expert[-1], tower, start=start) for start in reach_log_odds(schema))

    def forward(self, ids: Tensor) -> Prediction:
        """Predict from ids [B, W]."""
        x = self.embedding(ids).flatten(1)  # [B, F*D]
        gates = self.gates(x).view(len(ids), self.schema.n_steps, -1).softmax(dim=2)  # [B, S, E]
        mixtures = torch.einsum("bse,ebh->bsh", gates, self.experts(x))  # [B, S, H]
        logits = [tower(mixture) for tower, mixture in zip(self.towers, mixtures.unbind(1), strict=True)]
        return Prediction.from_reach(torch.stack(logits, dim=1))
