"""DSelect-k: MMoE whose gates choose at most k experts, smoothly."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from funnelcast.errors import ConfigError
from funnelcast.experts import Experts, expert_gates
from funnelcast.gates import GateLayer
from funnelcast.heads import Head, first_logits, to_prediction
from funnelcast.layers import (
    FeatureEmbedding,
    FunnelModel,
    Tower,
    check_at_least,
    check_choice,
    check_widths,
    full_precision,
    smooth_step,
)
from funnelcast.prediction import Prediction
from funnelcast.registry import MODELS
from funnelcast.schema import Schema
from funnelcast.space import Choice, IntegerRange, LogUniform, SearchSpace

__all__ = ["DselectK"]

Gate = Literal["row", "static"]

_IN_LOG = 1e-6  # added inside the entropy's logarithm, as in the official code
_SMALLEST_MASS = 1e-2  # below it 1 / mass goes on as its tangent


@MODELS.register
class DselectK(FunnelModel):
    """DSelect-k. Hazimeh, Zhao, Chowdhery et al. (Google), NeurIPS 2021, "DSelect-k: differentiable selection".

    p_i = sigmoid(tower_i(sum_e q_ie f_e(x))),  q_i = sum_k softmax(w_i)_k r(s_ik),  x = flatten(E[x])

    r(s)_e = prod_b (S(s_b) if bit b of e is 1, else 1 - S(s_b)),  S = smooth-step of width gamma,  e = 0..n-1

    A selector with all |s_b| >= gamma/2 names one expert exactly, so that k selectors leave at most k weights above 0.
    With n a power of 2 the weights sum to 1. Else a selector may name experts that do not exist; its weights then sum
    to the mass M(s) = sum_{e<n} r(s)_e, which the second term of the penalty keeps up:

    penalty = mean over rows of sum_ik [entropy * (-sum_e r_e log r_e) + mass / M]   (no M if n is a power of 2)

    NOTE[paper]: the official code sums the penalty over rows; here it is their mean, which no batch size changes.
    NOTE[paper]: 1/M is infinite for a selector that names no expert; here it goes on as its tangent below M = 0.01.

    Idea: experts mixed by one gate a step that ends up choosing at most k of them.

    Args:
        schema: the fields and the funnel.
        width: D >= 1, embedding width.
        experts: n >= 2, number of experts.
        selectors: k in 1..n, the largest number of experts that a gate is left with.
        expert: widths of each expert's layers, at least one.
        tower: widths of each step's own layers.
        gate: s and w are linear in x (`row`), or the same for every row (`static`).
        gamma: width > 0 of the part of the smooth-step that is neither 0 nor 1.
        entropy: weight >= 0 of the entropy of each selector.
        mass: weight >= 0 of 1/M.
        head: what the logits stand for: `reach`, `transition` or `monotone` (`funnelcast.heads`).

    Shapes: ids [B, W] -> x [B, F*D] -> s [B, S, k, bits], w [B, S, k] (B = 1 if static) -> r [B, S, k, n] -> q
        [B, S, n] -> mixtures [B, S, H] -> logits [B, S].

    Raises:
        ConfigError: a width or number is out of its range, `expert` is empty, or a word is unknown.

    Source: the paper's own code, google-research/google-research: dselect_k_moe/dselect_k_moe.py; the paper's
        equations were not verified.

    Example:
        >>> from funnelcast.schema import Field, Step
        >>> steps = (Step(name="click", reach_rate=0.1, transition_rate=0.1),)
        >>> schema = Schema(dataset="shop", fields=(Field(name="item", size=10),), steps=steps)
        >>> DselectK(schema, experts=3, expert=(8,), tower=())(torch.tensor([[2], [3]])).reach.shape
        torch.Size([2, 1])
    """

    gamma: Tensor
    codes: Tensor

    search_space: ClassVar[SearchSpace] = {
        "experts": Choice(4, 8),
        "selectors": IntegerRange(1, 4),
        "expert": Choice((64,), (128,), (128, 64), (256, 128)),
        "entropy": LogUniform(1e-4, 0.1, grid=(1e-4, 1e-3, 1e-2, 0.1)),
    }

    def __init__(
        self,
        schema: Schema,
        *,
        width: int = 18,
        experts: int = 4,
        selectors: int = 2,
        expert: tuple[int, ...] = (256, 128),
        tower: tuple[int, ...] = (64,),
        gate: Gate = "row",
        gamma: float = 1.0,
        entropy: float = 1e-3,
        mass: float = 1.0,
        head: Head = "reach",
    ) -> None:
        super().__init__(schema)
        check_at_least(2, experts=experts)
        check_at_least(1, selectors=selectors)
        check_widths(expert=expert, tower=tower)
        check_choice("gate", gate, Gate)
        if not expert:
            raise ConfigError("option 'expert' should name at least one layer, received none")
        if selectors > experts:
            raise ConfigError(f"option 'selectors' should be <= experts={experts}, received {selectors}")
        if not gamma > 0.0 or not entropy >= 0.0 or not mass >= 0.0:
            numbers = f"{gamma}, {entropy} and {mass}"
            raise ConfigError(f"options 'gamma', 'entropy' and 'mass' should be > 0, >= 0 and >= 0, received {numbers}")
        self.head, self.entropy = head, entropy
        bits = (experts - 1).bit_length()
        self.mass = mass if experts < 2**bits else 0.0
        codes = [[bool(e >> b & 1) for e in range(experts)] for b in range(bits)]
        self.register_buffer("codes", torch.tensor(codes), persistent=False)  # [bits, n]
        self.register_buffer("gamma", torch.tensor(gamma), persistent=False)
        self.embedding = FeatureEmbedding(schema, width)
        self.experts = Experts(experts, self.embedding.n_outputs, expert)
        inputs = self.embedding.n_outputs if gate == "row" else 0
        self.choices = _Scores(inputs, (schema.n_steps, selectors, bits), gamma / 100)  # s
        # A single selector always has the share 1.
        shares = [_Scores(inputs, (schema.n_steps, selectors), 0.05)] if selectors > 1 else []
        self.shares = nn.ModuleList(shares)  # w
        self.towers = nn.ModuleList(Tower(expert[-1], tower, start=start) for start in first_logits(schema, head))

    def forward(self, ids: Tensor) -> Prediction:
        """Predict from ids [B, W]."""
        x = self.embedding(ids).flatten(1)  # [B, F*D]
        chosen = self.selected(x)
        outputs = self.experts(x)  # [n, B, H]
        mixtures = torch.einsum("bse,ebh->bsh", self._weights(x, chosen), outputs)
        logits = [tower(mixture) for tower, mixture in zip(self.towers, mixtures.unbind(1), strict=True)]
        prediction = to_prediction(self.head, torch.stack(logits, dim=1))
        return replace(prediction, penalty=self.penalty(chosen)) if self.entropy or self.mass else prediction

    def selected(self, x: Tensor) -> Tensor:
        """Return r, how much each selector asks for each expert: [B, S, k, n], with B = 1 for static gates."""
        steps = smooth_step(full_precision(self.choices(x)), self.gamma)[..., None]  # [B, S, k, bits, 1]
        chosen = torch.ones_like(steps[..., 0, :])
        for bit, code in enumerate(self.codes):
            chosen = chosen * torch.where(code, steps[..., bit, :], 1.0 - steps[..., bit, :])
        return chosen

    def _weights(self, x: Tensor, chosen: Tensor) -> Tensor:
        """Return q [B, S, n] from x [B, F*D] and r."""
        weights = chosen.mean(2)  # of a single selector; [B, S, n]
        for shares in self.shares:
            weights = (full_precision(shares(x)).softmax(dim=2)[..., None] * chosen).sum(2)
        return weights.expand(x.shape[0], -1, -1)

    def gate_layers(self, ids: Tensor) -> tuple[GateLayer, ...]:
        """Return q, each step's weights of the experts [B, n], for ids [B, W]."""
        x = self.embedding(ids).flatten(1)  # [B, F*D]
        return expert_gates(self.schema, self._weights(x, self.selected(x)))

    def penalty(self, chosen: Tensor) -> Tensor:
        """Return [], the weighted penalty of r [B, S, k, n]."""
        total = self.entropy * -(chosen * (chosen + _IN_LOG).log()).sum(3)  # [B, S, k]
        if self.mass:
            mass = chosen.sum(3)
            kept = mass.clamp(min=_SMALLEST_MASS)
            total = total + self.mass * (1.0 / kept + (kept - mass) / _SMALLEST_MASS**2)
        return total.sum((1, 2)).mean()


class _Scores(nn.Module):
    """Numbers that are linear in the row, or without inputs the same for every row; all start in U(-bound, bound)."""

    def __init__(self, n_inputs: int, shape: tuple[int, ...], bound: float) -> None:
        super().__init__()
        n, self.shape = math.prod(shape), shape
        self.weight = nn.Parameter(torch.empty(n, n_inputs).uniform_(-bound, bound)) if n_inputs else None
        self.bias = nn.Parameter(torch.empty(n).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """Map rows [B, n_inputs] to [B, *shape], or [1, *shape]."""
        scores = self.bias if self.weight is None else nn.functional.linear(x, self.weight, self.bias)
        return scores.view(-1, *self.shape)
