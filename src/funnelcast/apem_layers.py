"""The layers of APEM: gates, adaptive representation, pattern selector, and the self-attention of its ablation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from funnelcast.asrg_chunks import asrg_in_chunks
from funnelcast.layers import MLP, full_precision, smooth_step
from funnelcast.native import KernelResidual, LayerWeights, asrg, attention_usable, read_patterns

__all__ = ["Asrg", "Gates", "PatternSelector", "Residual", "SelectorInput", "SelfAttention", "matrix", "read"]

Residual = Literal["inducing", "gated", "none", "mean", "learned"]
SelectorInput = Literal["former", "pooled", "fields", "shared"]


def matrix(*shape: int) -> nn.Parameter:
    """Make a parameter whose last two dimensions are a Xavier-uniform matrix."""
    bound = math.sqrt(6.0 / (shape[-2] + shape[-1]))
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))


def hide(scores: Tensor, closed: Tensor | None) -> Tensor:
    """Take closed keys, broadcast to the scores, out of a softmax; a row without an open key attends to all alike."""
    return scores if closed is None else scores.masked_fill(closed, torch.finfo(scores.dtype).min)


class Gates(nn.Module):
    """The dynamic activation layer, equations 11 to 13: z_l = f_D(MLP_l(.); gamma), one gate a row and inducing point.

    gamma is saved with the weights, since a model that is loaded with another gamma is another model. The last bias of
    MLP_l starts at 0, so that gates start half open.
    """

    gamma: Tensor

    def __init__(self, sees: SelectorInput, inputs: Sequence[int], hidden: Sequence[int], points: int) -> None:
        super().__init__()
        self.sees = sees
        self.register_buffer("gamma", torch.ones(()))
        self.bodies = nn.ModuleList(MLP(n, hidden) for n in inputs)
        self.scores = nn.ModuleList(nn.Linear(hidden[-1] if hidden else n, points) for n in inputs)
        for parameter in self.scores.parameters():
            nn.init.xavier_uniform_(parameter) if parameter.dim() > 1 else nn.init.zeros_(parameter)

    def forward(self, layer: int, fields: Tensor, x: Tensor) -> Tensor:
        """Return the gates [B, K] of a layer from the fields [B, F, D] and the layer's tokens x [B, n, D]."""
        number = layer % len(self.bodies)  # one selector may serve all layers
        seen = x if self.sees in ("former", "pooled") else fields
        seen = seen.mean(1) if self.sees == "pooled" else seen.flatten(1)
        return smooth_step(full_precision(self.scores[number](self.bodies[number](seen))), self.gamma)


class Asrg(nn.Module):
    """One layer of the Adaptive Sample-wise Representation Generator, equations 14 to 17.

    Three forms of the same, equal up to rounding; the first that can is taken:

    - `funnelcast.native.asrg`, one compiled operator, where there is one for the device and the type;
    - `funnelcast.asrg_chunks`, on a CPU without it;
    - folded, for every option, and what compilers and exporters see: the inducing points are no function of the row, so
      A = W^K I and U = W^V W^O are multiplied first; scores of all heads are one product, (z A) X, and tokens are
      averaged before they are projected.
    """

    def __init__(self, tokens: int, width: int, inducing_points: int, heads: int, residual: Residual | None) -> None:
        super().__init__()
        self.heads, self.residual = heads, residual
        self.inducing = matrix(inducing_points, width)  # I
        self.key, self.value, self.output = matrix(width, width), matrix(width, width), matrix(width, width)
        self.norm = nn.LayerNorm(width)
        if residual == "learned":
            self.mix = matrix(inducing_points, tokens)

    def forward(
        self,
        x: Tensor,
        query_gate: Tensor | None,
        output_gate: Tensor | None,
        closed: Tensor | None,
        readers: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Map tokens x [B, n, D] with gates [B, K] and closed tokens [B, n] to Y [B, K, D].

        Where the layer is compiled for a CPU, what `readers` [D, Q] find in Y comes with it, see `read`; else None.
        """
        (K, D), M, norm = self.inducing.shape, self.heads, self.norm
        plain = output_gate is None and closed is None and self.residual not in ("mean", "learned")
        weights = LayerWeights(self.inducing, self.key, self.value, self.output, norm.weight, norm.bias)
        if plain and attention_usable(x):
            readers = None if x.is_cuda else readers  # a GPU reads in a kernel of its own
            y, means = asrg(x, query_gate, weights, norm.eps, M, self._kernel_residual(), readers)
            return y, None if readers is None else means
        if plain and x.device.type == "cpu" and not (torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu")):
            return asrg_in_chunks(x, query_gate, weights, norm.eps, M, self._kernel_residual()), None
        key, value, output = self.key.view(D, M, -1), self.value.view(D, M, -1), self.output.view(M, -1, D)
        a = torch.einsum("dme,kme->kmd", key, self.inducing.view(K, M, -1)) / math.sqrt(D // M)
        u = torch.einsum("dme,mef->mdf", value, output).reshape(M * D, D)
        B = x.shape[0]
        # The gate scales A (K*M*D numbers a row), not the scores (K*M*n): less to write and to keep for the gradient.
        gated = a.expand(B, K, M, D) if query_gate is None else a * query_gate[:, :, None, None]
        # Tokens last: a softmax over the last dimension is several times faster, in ONNX Runtime as well.
        scores = torch.bmm(gated.reshape(B, K * M, D), x.transpose(1, 2))  # [B, K*M, n]
        attention = hide(full_precision(scores), None if closed is None else closed[:, None, :]).softmax(dim=-1)
        out = torch.bmm(attention, x).view(B, K, M * D) @ u  # [B, K, D]
        out = out if output_gate is None else out * output_gate[:, :, None]
        return norm(self._add_residual(out, x, query_gate)), None

    def _kernel_residual(self) -> KernelResidual:
        """Name the residual as the compiled layer does."""
        known: dict[str | None, KernelResidual] = {None: "tokens", "inducing": "shared", "gated": "gated"}
        return known.get(self.residual, "none")

    def _add_residual(self, out: Tensor, x: Tensor, gate: Tensor | None) -> Tensor:
        """Add the residual to the attention's output [B, K, D]; None stands for the former layer's tokens."""
        if self.residual is None:
            return out + x
        if self.residual == "inducing":
            return out + self.inducing
        if self.residual == "gated":
            return out + (self.inducing if gate is None else gate[:, :, None] * self.inducing)
        if self.residual == "mean":
            return out + x.mean(dim=1, keepdim=True)
        return out + self.mix @ x if self.residual == "learned" else out


def read(y: Tensor, readers: Tensor, closed: Tensor | None) -> Tensor:
    """Average tokens y [B, K, D] by attention to readers [D, Q], without closed ones [B, K], to [B, Q, D]."""
    if closed is None and attention_usable(y, readers.shape[1]):
        return read_patterns(y, readers)
    # Tokens last: a softmax over the last dimension is several times faster, and so is a product that writes long rows.
    scores = full_precision(torch.bmm(readers.t().expand(y.shape[0], -1, -1), y.transpose(1, 2)))  # [B, Q, K]
    return torch.bmm(hide(scores, None if closed is None else closed[:, None]).softmax(dim=-1), y)


class PatternSelector(nn.Module):
    """Attention of one task indicator a step over a layer's tokens, equations 18 and 19, for all steps at once.

    Folded: tokens are averaged first and projected after. `groups` is S for own weights a step, 1 for shared ones.
    """

    def __init__(self, groups: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.key, self.value = matrix(groups, width, width), matrix(groups, width, width)
        self.output = matrix(groups, width, width)
        self.scale, self.shift = nn.Parameter(torch.ones(groups, width)), nn.Parameter(torch.zeros(groups, width))

    def readers(self, indicator: Tensor) -> Tensor:
        """Return the queries [D, S*M] of the indicators [S, D], times the key matrices and the scale of the scores."""
        (S, D), M = indicator.shape, self.heads
        key = self.key.expand(S, D, D).reshape(S, D, M, -1)
        a = torch.einsum("sdme,sme->dsm", key, indicator.view(S, M, -1)) / math.sqrt(D // M)
        return full_precision(a.reshape(D, S * M))

    def forward(self, means: Tensor, former: Tensor | None) -> Tensor:
        """Map what the readers found [B, S*M, D] and the former layer's T [B, S, D] to this layer's T [B, S, D]."""
        B, queries, D = means.shape
        M, S = self.heads, queries // self.heads
        value, output = (weight.expand(S, D, D) for weight in (self.value, self.output))
        u = torch.einsum("sdme,smef->smdf", value.reshape(S, D, M, -1), output.reshape(S, M, -1, D))
        pattern = torch.einsum("bsd,sdf->bsf", means.view(B, S, M * D), u.reshape(S, M * D, D))
        pattern = pattern if former is None else pattern + former
        return nn.functional.layer_norm(full_precision(pattern), (D,)) * self.scale + self.shift


class SelfAttention(nn.Module):
    """Standard self-attention, in "APEM without ASRG" in place of the generator: X_l = LN(X + MHA(X W^Q, X, X)).

    Shapes: tokens [B, F, D] -> [B, F, D].
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key = matrix(width, width), matrix(width, width)
        self.value, self.output = matrix(width, width), matrix(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens [B, F, D] to tokens [B, F, D]."""
        B, F, D = x.shape
        query, key, value = (
            (x @ weight).view(B, F, self.heads, -1).transpose(1, 2) for weight in (self.query, self.key, self.value)
        )  # each [B, M, F, D/M]
        out = nn.functional.scaled_dot_product_attention(query, key, value)
        y: Tensor = self.norm(x + out.transpose(1, 2).reshape(B, F, D) @ self.output)
        return y
