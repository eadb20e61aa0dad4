"""The kernels of `funnelcast::asrg` on a GPU, in Triton, whose compiler takes no other annotations.

A program takes one row of a batch after the other; its scores live in registers and are computed again by backward.
Backward has two kernels: the norm with the residual, then the attention, one head after the other. Gradients of weights
are added up by each program for its own rows and over programs afterwards, always in the same order.

Legend: n tokens, D width, K inducing points, E width of a head; BN, BD, BK, BE: the same, rounded up to a power of two
(BK: the points of a block). What lies beyond n, D, K and E is 0 in every tile.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["attention_backward_kernel", "forward_kernel", "norm_backward_kernel"]


@triton.jit
def load_tile(start, rows, columns, stride: tl.constexpr, n_rows, n_columns):
    """Read a part of a matrix, with 0 beyond its ends."""
    inside = (rows[:, None] < n_rows) & (columns[None, :] < n_columns)
    return tl.load(start + rows[:, None] * stride + columns[None, :], mask=inside, other=0.0)


@triton.jit
def store_tile(start, tile, rows, columns, stride: tl.constexpr, n_rows, n_columns):
    """Write a part of a matrix."""
    inside = (rows[:, None] < n_rows) & (columns[None, :] < n_columns)
    tl.store(start + rows[:, None] * stride + columns[None, :], tile, mask=inside)


@triton.jit
def product(left, right, number: tl.constexpr, precision: tl.constexpr):
    """Multiply two tiles as numbers of a type, and add up in float32."""
    return tl.dot(left.to(number), right.to(number), input_precision=precision)


@triton.jit
def load_gates(gate, row, point, K: tl.constexpr):
    """Read a row's gates [BK]; 1 where there are none."""
    if gate is None:
        return tl.where(point < K, 1.0, 0.0)
    return tl.load(gate + row * K + point, mask=point < K, other=0.0)


@triton.jit
def residual_of(
    x, inducing, z, row, point, column, residual: tl.constexpr, n: tl.constexpr,
    D: tl.constexpr,
):  # fmt: skip
    """What the norm adds to the attention [BK, BD]; numbered as in funnelcast.native.asrg."""
    if residual == 1:
        return load_tile(x + row * n * D, point, column, D, n, D)
    if residual == 2:
        return inducing
    return inducing * z[:, None] if residual == 3 else tl.zeros_like(inducing)


@triton.jit
def normalise(out, column, eps, D: tl.constexpr):
    """Return LayerNorm before scale and shift [BK, BD], and 1 / deviation [BK]."""
    gap = tl.where(column[None, :] < D, out - (tl.sum(out, 1) / D)[:, None], 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(gap * gap, 1) / D + eps)
    return gap * inverse[:, None], inverse


@triton.jit
def attend(asked, keys, token, n: tl.constexpr, number: tl.constexpr, precision: tl.constexpr):
    """Return 2^(score - largest score) [BK, BN] and its sum over tokens [BK]."""
    scores = product(asked, tl.trans(keys), number, precision)
    scores = tl.where(token[None, :] < n, scores, float("-inf"))
    powers = tl.exp2(scores - tl.max(scores, 1)[:, None])
    return powers, tl.sum(powers, 1)


@triton.jit(do_not_specialize=["rows"])
def forward_kernel(
    x, gate, query, key, value, output, scale, shift, y, kept,
    rows, eps, factor: tl.constexpr, n: tl.constexpr, D: tl.constexpr, K: tl.constexpr, heads: tl.constexpr,
    residual: tl.constexpr, precision: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BK: tl.constexpr,
    BE: tl.constexpr,
):  # fmt: skip
    """Compute y [B, K, D], and keep what the heads read, [B, K, D] too, where there is room for it."""
    E: tl.constexpr = D // heads
    number: tl.constexpr = key.dtype.element_ty
    token, column, part = tl.arange(0, BN), tl.arange(0, BD), tl.arange(0, BE)
    point = tl.program_id(1) * BK + tl.arange(0, BK)
    first, programs = tl.program_id(0).to(tl.int64), tl.num_programs(0)
    inducing = load_tile(query, point, column, D, K, D)
    for step in range(tl.cdiv(rows - first, programs)):
        row = first + step * programs
        tokens = load_tile(x + row * n * D, token, column, D, n, D)
        z = load_gates(gate, row, point, K)
        out = residual_of(x, inducing, z, row, point, column, residual, n, D)
        for m in tl.static_range(heads):
            keys = product(tokens, load_tile(key + m * E, column, part, D, D, E), number, precision)
            values = product(tokens, load_tile(value + m * E, column, part, D, D, E), number, precision)
            asked = load_tile(query + m * E, point, part, D, K, E) * (z * factor)[:, None]
            powers, total = attend(asked, keys, token, n, number, precision)
            read = product(powers, values, number, precision) / total[:, None]
            if kept is not None:
                store_tile(kept + row * K * D + m * E, read, point, part, D, K, E)
            out += product(read, load_tile(output + m * E * D, part, column, D, E, D), number, precision)
        normed, _ = normalise(out, column, eps, D)
        scaled = normed * tl.load(scale + column, mask=column < D, other=0.0)[None, :]
        scaled += tl.load(shift + column, mask=column < D, other=0.0)[None, :]
        store_tile(y + row * K * D, scaled, point, column, D, K, D)


@triton.jit(do_not_specialize=["rows"])
def norm_backward_kernel(
    dy, x, gate, query, output, scale, kept, dout, dgate, sums,
    rows, eps, n: tl.constexpr, D: tl.constexpr, K: tl.constexpr, residual: tl.constexpr,
    precision: tl.constexpr, BD: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """From dy to the gradient of the norm's input, dout [B, K, D], with the residual's shares of dgate and dquery."""
    number: tl.constexpr = output.dtype.element_ty
    column = tl.arange(0, BD)
    place = tl.arange(0, BK)
    point = tl.program_id(1) * BK + place
    first, programs = tl.program_id(0).to(tl.int64), tl.num_programs(0)
    inducing = load_tile(query, point, column, D, K, D)
    weight = tl.load(scale + column, mask=column < D, other=0.0)
    matrix = load_tile(output, column, column, D, D, D)
    sum_scale, sum_shift = tl.zeros([BD], tl.float32), tl.zeros([BD], tl.float32)
    sum_output, sum_query = tl.zeros([BD, BD], tl.float32), tl.zeros([BK, BD], tl.float32)
    for step in range(tl.cdiv(rows - first, programs)):
        row = first + step * programs
        z = load_gates(gate, row, point, K)
        read = load_tile(kept + row * K * D, point, column, D, K, D)
        out = residual_of(x, inducing, z, row, point, column, residual, n, D)
        normed, inverse = normalise(out + product(read, matrix, number, precision), column, eps, D)
        seen = load_tile(dy + row * K * D, point, column, D, K, D)
        sum_scale += tl.sum(seen * normed, 0)
        sum_shift += tl.sum(seen, 0)
        scaled = seen * weight[None, :]
        slope = scaled - (tl.sum(scaled, 1) / D)[:, None] - normed * (tl.sum(scaled * normed, 1) / D)[:, None]
        slope = tl.where(column[None, :] < D, slope * inverse[:, None], 0.0)
        store_tile(dout + row * K * D, slope, point, column, D, K, D)
        sum_output += product(tl.trans(read), slope, number, precision)
        if residual == 2:
            sum_query += slope
        if residual == 3:
            sum_query += slope * z[:, None]
        if gate is not None:
            share = tl.sum(slope * inducing, 1) if residual == 3 else tl.zeros([BK], tl.float32)
            tl.store(dgate + row * K + point, share, mask=point < K)
    size: tl.constexpr = 3 * D * D + 2 * D + 2 * BK * D
    own = sums + (first * tl.num_programs(1) + tl.program_id(1)) * size
    store_tile(own + 2 * D * D, sum_output, column, column, D, D, D)
    tl.store(own + 3 * D * D + column, sum_scale, mask=column < D)
    tl.store(own + 3 * D * D + D + column, sum_shift, mask=column < D)
    store_tile(own + 3 * D * D + 2 * D, sum_query, place, column, D, BK, D)


@triton.jit(do_not_specialize=["rows"])
def attention_backward_kernel(
    x, gate, query, key, value, output, dout, dx, dgate, sums,
    rows, factor: tl.constexpr, n: tl.constexpr, D: tl.constexpr, K: tl.constexpr, heads: tl.constexpr,
    residual: tl.constexpr, precision: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr, BK: tl.constexpr,
    BE: tl.constexpr,
):  # fmt: skip
    """From dout to dx and dgate, to which each head and block of points adds its share, and to the sums."""
    E: tl.constexpr = D // heads
    number: tl.constexpr = key.dtype.element_ty
    blocks: tl.constexpr = (K + BK - 1) // BK
    size: tl.constexpr = 3 * D * D + 2 * D + 2 * BK * D
    token, column, part, place = tl.arange(0, BN), tl.arange(0, BD), tl.arange(0, BE), tl.arange(0, BK)
    first, programs = tl.program_id(0).to(tl.int64), tl.num_programs(0)
    for turn in range(heads * blocks):
        m, block = turn // blocks, turn % blocks
        point = block * BK + place
        of_key = load_tile(key + m * E, column, part, D, D, E)  # [BD, BE]
        of_value = load_tile(value + m * E, column, part, D, D, E)
        of_output = load_tile(output + m * E * D, part, column, D, E, D)  # [BE, BD]
        points = load_tile(query + m * E, point, part, D, K, E)
        sum_key, sum_value = tl.zeros([BD, BE], tl.float32), tl.zeros([BD, BE], tl.float32)
        sum_query = tl.zeros([BK, BE], tl.float32)
        for step in range(tl.cdiv(rows - first, programs)):
            row = first + step * programs
            tokens = load_tile(x + row * n * D, token, column, D, n, D)
            z = load_gates(gate, row, point, K)
            keys = product(tokens, of_key, number, precision)
            values = product(tokens, of_value, number, precision)
            asked = points * (z * factor)[:, None]
            powers, total = attend(asked, keys, token, n, number, precision)
            attention = powers / total[:, None]  # [BK, BN]
            slope = load_tile(dout + row * K * D, point, column, D, K, D)
            dread = product(slope, tl.trans(of_output), number, precision)  # [BK, BE]
            dattention = product(dread, tl.trans(values), number, precision)
            dvalues = product(tl.trans(attention), dread, number, precision)  # [BN, BE]
            mean = tl.sum(attention * dattention, 1)
            # Scores are in powers of two, hence ln 2: d score = d (score / ln 2) * ln 2.
            dscores = attention * (dattention - mean[:, None]) * 0.6931471805599453
            dkeys = product(tl.trans(dscores), asked, number, precision)  # [BN, BE]
            dasked = product(dscores, keys, number, precision) * factor  # [BK, BE]
            sum_query += dasked * z[:, None]
            sum_key += product(tl.trans(tokens), dkeys, number, precision)
            sum_value += product(tl.trans(tokens), dvalues, number, precision)
            if gate is not None:
                before = tl.load(dgate + row * K + point, mask=point < K, other=0.0)
                tl.store(dgate + row * K + point, before + tl.sum(dasked * points, 1), mask=point < K)
            dtokens = product(dkeys, tl.trans(of_key), number, precision)
            dtokens += product(dvalues, tl.trans(of_value), number, precision)
            if turn > 0:
                dtokens += load_tile(dx + row * n * D, token, column, D, n, D)
            elif residual == 1:
                dtokens += load_tile(dout + row * n * D, token, column, D, n, D)
            store_tile(dx + row * n * D, dtokens, token, column, D, n, D)
        own = sums + (first * blocks + block) * size
        store_tile(own + m * E, sum_key, column, part, D, D, E)
        store_tile(own + D * D + m * E, sum_value, column, part, D, D, E)
        store_tile(own + 3 * D * D + 2 * D + BK * D + m * E, sum_query, place, part, D, BK, E)
        tl.debug_barrier()  # the next turn reads what other threads of this program wrote to dx and dgate
