"""A layer of APEM's generator in PyTorch alone: a few rows at a time, and a backward that computes them again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from funnelcast.native import KernelResidual, LayerWeights
from funnelcast.threads import rows_in_parallel

__all__ = ["asrg_in_chunks"]

# Scores and attention of so many bytes stay in a core's cache between the products.
_CHUNK_BYTES = 1 << 20
# Up to this size the attention of a layer is kept for backward, which then need not compute it again.
_KEPT_BYTES = 128 << 20


def asrg_in_chunks(
    x: Tensor,
    gate: Tensor | None,
    weights: LayerWeights,
    eps: float,
    heads: int,
    residual: KernelResidual,
    *,
    rows: int | None = None,
) -> Tensor:
    """Compute a layer, Y = LN(MHA(z * I, X, X) + R), as `funnelcast.native.asrg` does, on any type of number.

    All products have the long dimension last, since a matrix of 9 columns is written at a third of the speed of one of
    9 rows. Of what lies between X and Y, what the heads read is kept, of Y's size, and the attention where the batch is
    so small that it takes no more than 128 MiB and a gradient is wanted; else backward computes it again.

    Args:
        x: [B, n, D] tokens.
        gate: as for `funnelcast.native.asrg`, and so the next four.
        weights: the layer's own.
        eps: of the LayerNorm.
        heads: M.
        residual: R.
        rows: rows of a chunk; None chooses as many as stay in the cache.

    Returns:
        Y [B, K, D].

    Source: APEM paper, equations 14 to 17.
    """
    if rows is None:
        rows = max(1, _CHUNK_BYTES // max(1, _attention_bytes(x, weights.query, heads) // max(1, len(x))))
    derive = torch.is_grad_enabled()
    y = _Layer.apply(x, gate, *weights, eps, heads, residual, rows, derive)  # type: ignore[no-untyped-call]
    return cast(Tensor, y)


def _attention_bytes(x: Tensor, query: Tensor, heads: int) -> int:
    return x.shape[0] * heads * len(query) * x.shape[1] * x.element_size()


class _Chunk:
    """What forward and backward both compute of c rows, with the scale of the scores in the key matrix.

    "T" ends the name of an array whose last dimension runs over tokens or inducing points.
    """

    def __init__(
        self, x: Tensor, gate: Tensor | None, weights: tuple[Tensor, ...], eps: float, heads: int, residual: str
    ) -> None:
        self.query, self.key, self.value, self.output, self.scale, self.shift = weights
        self.z = None if gate is None else gate[:, None, :]  # [c, 1, K]
        self.eps, self.heads, self.residual = eps, heads, residual
        (K, D), c = self.query.shape, len(x)
        self.sizes = c * heads, D // heads  # c*M, E
        self.tokensT = x.transpose(1, 2)  # [c, D, n]
        self.keyT, self.valueT = (
            self._times(weight.t(), self.tokensT).view(*self.sizes, -1) for weight in weights[1:3]
        )
        queryT = self.query.t() if self.z is None else self.query.t() * self.z  # [D, K] or [c, D, K]
        self.queryT = queryT.expand(c, D, K).reshape(*self.sizes, K)
        self.attention = torch.bmm(self.queryT.transpose(1, 2), self.keyT)  # [c*M, K, n]
        torch.softmax(self.attention, -1, out=self.attention)

    @staticmethod
    def _times(weight: Tensor, xT: Tensor) -> Tensor:
        return torch.bmm(weight.expand(len(xT), *weight.shape), xT)

    def normalise(self, headT: Tensor) -> tuple[Tensor, Tensor]:
        """Return LayerNorm before its scale and shift [c, D, K], and 1 / deviations [c, 1, K]."""
        outT = self._times(self.output.t(), headT)
        if self.residual == "tokens":
            outT += self.tokensT
        elif self.residual == "gated" and self.z is not None:
            outT += self.query.t() * self.z
        elif self.residual != "none":
            outT += self.query.t()
        outT -= outT.mean(1, keepdim=True)
        inverse = outT.square().mean(1, keepdim=True).add_(self.eps).rsqrt_()
        return outT.mul_(inverse), inverse

    def through_norm(self, headT: Tensor, dyT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradient before the norm [c, D, K], and those of scale and shift [D]."""
        normed, inverse = self.normalise(headT)
        dscale, dshift = (dyT * normed).sum(2).sum(0), dyT.sum(2).sum(0)
        scaled = dyT * self.scale[:, None]
        mixed = (scaled * normed).mean(1, keepdim=True)
        doutT = scaled.sub_(scaled.mean(1, keepdim=True)).sub_(normed.mul_(mixed)).mul_(inverse)
        return doutT, dscale, dshift

    def through_attention(self, headT: Tensor, dheadT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of gated queries [c, D, K], keys and values [c, D, n]."""
        c, D, K = headT.shape
        seen = dheadT.view(*self.sizes, K)
        mean = (headT.view(*self.sizes, K) * seen).sum(1)  # [c*M, K]: over tokens of attention times its gradient
        dvalueT = torch.bmm(seen, self.attention)
        slopes = torch.bmm(seen.transpose(1, 2), self.valueT).sub_(mean[:, :, None]).mul_(self.attention)
        dkeyT = torch.bmm(self.queryT, slopes)
        dqueryT = torch.bmm(self.keyT, slopes.transpose(1, 2))
        return dqueryT.view(c, D, K), dkeyT.view(c, D, -1), dvalueT.view(c, D, -1)

    def backward(self, headT: Tensor, dyT: Tensor) -> Iterator[Tensor]:
        """Yield the gradients of X [c, n, D] and z [c, K] (empty without), then those of the weights."""
        doutT, dscale, dshift = self.through_norm(headT, dyT)
        dqueryT, dkeyT, dvalueT = self.through_attention(headT, self._times(self.output, doutT))
        if self.residual == "gated":
            dqueryT += doutT
        dxT = self._times(self.key, dkeyT) + self._times(self.value, dvalueT)
        yield (dxT.add_(doutT) if self.residual == "tokens" else dxT).transpose(1, 2)
        yield dxT.new_empty(0) if self.z is None else (dqueryT * self.query.t()).sum(1)
        dquery = (dqueryT if self.z is None else dqueryT.mul_(self.z)).sum(0)
        yield (dquery + doutT.sum(0) if self.residual == "shared" else dquery).t()
        yield torch.bmm(self.tokensT, dkeyT.transpose(1, 2)).sum(0)
        yield torch.bmm(self.tokensT, dvalueT.transpose(1, 2)).sum(0)
        yield torch.bmm(headT, doutT.transpose(1, 2)).sum(0)
        yield dscale
        yield dshift


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor | None, *rest: Any) -> Tensor:
        *weights, ctx.eps, ctx.heads, ctx.residual, ctx.rows, derive = rest
        (K, D), B = weights[0].shape, len(x)
        y, headT = x.new_empty(B, K, D), x.new_empty(B, D, K)
        keep = derive and any(ctx.needs_input_grad) and _attention_bytes(x, weights[0], ctx.heads) <= _KEPT_BYTES

        def some_rows(begin: int, end: int) -> list[tuple[slice, _Chunk]]:
            kept = []
            for part, chunk in _chunks(ctx, x, gate, weights, begin, end):
                torch.bmm(chunk.valueT, chunk.attention.transpose(1, 2), out=headT[part].view(*chunk.sizes, K))
                normed, _ = chunk.normalise(headT[part])
                y[part] = normed.mul_(chunk.scale[:, None]).add_(chunk.shift[:, None]).transpose(1, 2)
                if keep:
                    kept.append((part, chunk))
            return kept

        ctx.chunks = rows_in_parallel(B, some_rows)  # by thread
        ctx.save_for_backward(x, gate, *weights, headT)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, gate, *weights, headT = ctx.saved_tensors
        dx, dgate = torch.empty_like(x), x.new_empty(0) if gate is None else torch.empty_like(gate)
        chunks, ctx.chunks = {kept[0][0].start: kept for kept in ctx.chunks if kept}, []  # a second backward has none

        def some_rows(begin: int, end: int) -> list[Tensor]:
            sums = [torch.zeros_like(weight) for weight in weights]
            for part, chunk in chunks.get(begin) or _chunks(ctx, x, gate, weights, begin, end):
                z_part = slice(0, 0) if gate is None else part
                dx[part], dgate[z_part], *others = chunk.backward(headT[part], dy[part].transpose(1, 2).contiguous())
                for total, gradient in zip(sums, others, strict=True):
                    total += gradient
            return sums

        sums = [torch.stack(parts).sum(0) for parts in zip(*rows_in_parallel(len(x), some_rows), strict=True)]
        sums[1] /= math.sqrt(weights[1].shape[0] // ctx.heads)  # backward saw the scaled key matrix
        return dx, None if gate is None else dgate, *sums, None, None, None, None, None


def _chunks(
    ctx: Any, x: Tensor, gate: Tensor | None, weights: Sequence[Tensor], begin: int, end: int
) -> Iterator[tuple[slice, _Chunk]]:
    """Cut some of a layer's rows into chunks."""
    query, key, *others = weights
    scaled = (query, key / math.sqrt(key.shape[0] // ctx.heads), *others)
    for start in range(begin, end, ctx.rows):
        part = slice(start, min(start + ctx.rows, end))
        yield part, _Chunk(x[part], None if gate is None else gate[part], scaled, ctx.eps, ctx.heads, ctx.residual)
