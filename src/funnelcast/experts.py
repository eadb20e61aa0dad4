"""Experts that several models mix: parallel MLPs, and the levels of PLE."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from funnelcast.errors import ConfigError
from funnelcast.gates import GateLayer
from funnelcast.layers import check_at_least, check_widths, full_precision
from funnelcast.schema import Schema

__all__ = ["CgcLevel", "Experts", "expert_gates", "own_counts"]


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


class CgcLevel(nn.Module):
    """One level of customized gate control (CGC): every stream's own experts, and gates that mix them.

    The experts of one stream are batched products. A step's gate chooses among its own and the shared experts, the
    shared gate among all of them; the top level has no shared gate, since no one would read what it mixes.

    Shapes: S + 1 streams [B, n_inputs], the shared one last -> S + 1 streams [B, hidden[-1]], at the top S.
    """

    def __init__(self, n_inputs: int, counts: Sequence[int], hidden: Sequence[int], *, top: bool) -> None:
        super().__init__()
        self.top = top
        self.experts = nn.ModuleList(Experts(count, n_inputs, hidden) for count in counts)
        *own, shared = counts
        selected = [count + shared for count in own] + ([] if top else [sum(counts)])
        gates = [nn.Linear(n_inputs, n, bias=False) for n in selected]
        for gate in gates:
            nn.init.xavier_uniform_(gate.weight)
        self.gates = nn.ModuleList(gates)

    def gate_weights(self, streams: Sequence[Tensor]) -> list[Tensor]:
        """Return each gate's weights [B, experts it chooses among], which sum to 1."""
        return [
            full_precision(gate(x)).softmax(dim=1)
            for gate, x in zip(self.gates, streams[: len(self.gates)], strict=True)
        ]

    def forward(self, streams: Sequence[Tensor]) -> list[Tensor]:
        """Mix streams [B, n_inputs] into streams [B, H]."""
        outputs = [experts(x) for experts, x in zip(self.experts, streams, strict=True)]  # S + 1 times [m, B, H]
        selected = [torch.cat([own, outputs[-1]]) for own in outputs[:-1]]
        if not self.top:
            selected.append(torch.cat(outputs))
        weights = self.gate_weights(streams)
        return [torch.einsum("be,ebh->bh", w, chosen) for w, chosen in zip(weights, selected, strict=True)]


def expert_gates(schema: Schema, weights: Tensor) -> tuple[GateLayer, ...]:
    """Name the weights that each step gives to the same experts.

    Args:
        schema: S steps.
        weights: [B, S, E] weights of E experts, which sum to 1.
    """
    return tuple(
        GateLayer(f"step {name}", shares, "share")
        for name, shares in zip(schema.step_names, weights.unbind(1), strict=True)
    )


def own_counts(own_experts: int | tuple[int, ...], n_steps: int) -> tuple[int, ...]:
    """Return how many experts each step owns.

    Args:
        own_experts: one number >= 1 for every step, or one each.
        n_steps: S.

    Raises:
        ConfigError: another number of steps, or a number below 1.

    Example:
        >>> own_counts(2, 3), own_counts((1, 2), 2)
        ((2, 2, 2), (1, 2))
    """
    if isinstance(own_experts, int):
        check_at_least(1, own_experts=own_experts)
        return (own_experts,) * n_steps
    check_widths(own_experts=own_experts)
    if len(own_experts) != n_steps:
        raise ConfigError(
            f"option 'own_experts' should be one whole number or one for each of the {n_steps} steps, "
            f"received {len(own_experts)}: {own_experts!r}"
        )
    return tuple(own_experts)
