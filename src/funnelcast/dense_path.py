"""Layers below a logit that multiply and mix the whole input: crosses, MLPs with dropout, and a path of both."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from funnelcast.errors import ConfigError
from funnelcast.layers import MLP, check_at_least, check_widths

__all__ = ["Cross", "DensePath", "check_shares", "dropped_mlp"]


class Cross(nn.Module):
    """One cross layer of DCN-V2: x_l = x_0 * (W x_{l-1} + b) + x_{l-1}, with W = U V of a given rank or full.

    Args:
        width: N, numbers a row.
        rank: that of W, >= 0; 0 is the full matrix.

    Shapes: x_0 and x_{l-1} [B, N] -> [B, N].

    Source: Wang et al., WWW 2021, "DCN V2".
    """

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, rank, bias=False) if rank else nn.Identity()  # V
        self.outer = nn.Linear(rank or width, width)  # U, or the whole W
        for module in (self.inner, self.outer):
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, first: Tensor, x: Tensor) -> Tensor:
        """Cross the layer's input x [B, N] with the embedding `first` [B, N]."""
        crossed: Tensor = first * self.outer(self.inner(x)) + x
        return crossed


def check_shares(**options: float) -> None:
    """Refuse a share outside [0, 1).

    Args:
        **options: values by the option's name.

    Raises:
        ConfigError: a value is out of range.

    Example:
        >>> check_shares(dropout=1.0)
        Traceback (most recent call last):
        funnelcast.errors.ConfigError: option 'dropout' should be a number in [0, 1), received 1.0
    """
    for option, value in options.items():
        if not 0.0 <= value < 1.0:
            raise ConfigError(f"option '{option}' should be a number in [0, 1), received {value!r}")


def dropped_mlp(n_inputs: int, hidden: Sequence[int], rates: Sequence[float]) -> nn.Sequential:
    """Make an MLP with dropout after each of its layers.

    Args:
        n_inputs: numbers a row.
        hidden: widths of the layers.
        rates: share of the units that are dropped in training, one a layer, in [0, 1).
    """
    layers: list[nn.Module] = []
    for width, rate in zip(hidden, rates, strict=True):
        layers += [MLP(n_inputs, (width,)), nn.Dropout(rate)]
        n_inputs = width
    return nn.Sequential(*layers)


class DensePath(nn.Module):
    """Cross layers, then an MLP, with a linear path beside them: y = V MLP(x_C) + W x_0 + b.

    Args:
        n_inputs: N, numbers a row.
        crosses: C >= 0, number of cross layers.
        rank: that of their matrices, >= 0; 0 is the full matrix.
        hidden: widths of the MLP's layers.
        dropout: share of units dropped after each of them, in [0, 1).
        starts: first values of the n biases b, as log-odds.

    Shapes: x_0 [B, N] -> y [B, n]. W starts at 0, V Xavier-uniform.

    Raises:
        ConfigError: a number or width is out of its range.

    Example:
        >>> DensePath(3, crosses=1, rank=0, hidden=(), dropout=0.0, starts=[-2.0])(torch.zeros(1, 3)).tolist()
        [[-2.0]]
    """

    def __init__(
        self,
        n_inputs: int,
        *,
        crosses: int,
        rank: int,
        hidden: Sequence[int],
        dropout: float,
        starts: Sequence[float],
    ) -> None:
        super().__init__()
        check_at_least(0, cross_layers=crosses, cross_rank=rank)
        check_widths(hidden=hidden)
        check_shares(dropout=dropout)
        self.crosses = nn.ModuleList(Cross(n_inputs, rank) for _ in range(crosses))
        self.body = dropped_mlp(n_inputs, hidden, [dropout] * len(hidden))
        self.output = nn.Linear(hidden[-1] if hidden else n_inputs, len(starts))
        self.linear = nn.Linear(n_inputs, len(starts), bias=False)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.linear.weight)
        with torch.no_grad():
            self.output.bias.copy_(torch.tensor(starts))

    def forward(self, first: Tensor) -> Tensor:
        """Map rows [B, N] to logits [B, n]."""
        x = first
        for cross in self.crosses:
            x = cross(first, x)
        logits: Tensor = self.output(self.body(x)) + self.linear(first)
        return logits
