"""The kernels of `funnelcast::read_patterns` on a GPU, in Triton, whose compiler takes no other annotations.

Legend: K tokens, D width, Q queries; BK, BD, BQ: the same, rounded up to a power of two.
"""

import triton
import triton.language as tl

from funnelcast.native.asrg_kernels import load_tile, product, store_tile

__all__ = ["pattern_backward_kernel", "pattern_forward_kernel"]


@triton.jit
def attention_of(tokens, questions, point, K: tl.constexpr, precision: tl.constexpr):
    """Attention over tokens [BK, BQ]."""
    scores = product(tokens, questions, tl.float32, precision)
    scores = tl.where(point[:, None] < K, scores, float("-inf"))
    powers = tl.exp(scores - tl.max(scores, 0)[None, :])
    return powers / tl.sum(powers, 0)[None, :]


@triton.jit(do_not_specialize=["rows"])
def pattern_forward_kernel(
    y, a, means, rows, K: tl.constexpr, D: tl.constexpr, Q: tl.constexpr, precision: tl.constexpr, BK: tl.constexpr,
    BD: tl.constexpr, BQ: tl.constexpr,
):  # fmt: skip
    """Compute means [B, Q, D]."""
    point, column, question = tl.arange(0, BK), tl.arange(0, BD), tl.arange(0, BQ)
    first, programs = tl.program_id(0).to(tl.int64), tl.num_programs(0)
    questions = load_tile(a, column, question, Q, D, Q)  # [BD, BQ]
    for step in range(tl.cdiv(rows - first, programs)):
        row = first + step * programs
        tokens = load_tile(y + row * K * D, point, column, D, K, D)
        attention = attention_of(tokens, questions, point, K, precision)
        found = product(tl.trans(attention), tokens, tl.float32, precision)
        store_tile(means + row * Q * D, found, question, column, D, Q, D)


@triton.jit(do_not_specialize=["rows"])
def pattern_backward_kernel(
    dmeans, y, a, dy, sums, rows, K: tl.constexpr, D: tl.constexpr, Q: tl.constexpr, precision: tl.constexpr,
    BK: tl.constexpr, BD: tl.constexpr, BQ: tl.constexpr,
):  # fmt: skip
    """Compute dy [B, K, D], and da [D, Q] over the rows of each program."""
    point, column, question = tl.arange(0, BK), tl.arange(0, BD), tl.arange(0, BQ)
    first, programs = tl.program_id(0).to(tl.int64), tl.num_programs(0)
    questions = load_tile(a, column, question, Q, D, Q)  # [BD, BQ]
    sum_a = tl.zeros([BD, BQ], tl.float32)
    for step in range(tl.cdiv(rows - first, programs)):
        row = first + step * programs
        tokens = load_tile(y + row * K * D, point, column, D, K, D)
        attention = attention_of(tokens, questions, point, K, precision)
        seen = load_tile(dmeans + row * Q * D, question, column, D, Q, D)  # [BQ, BD]
        dattention = product(tokens, tl.trans(seen), tl.float32, precision)
        dscores = attention * (dattention - tl.sum(attention * dattention, 0)[None, :])
        dtokens = product(attention, seen, tl.float32, precision)
        dtokens += product(dscores, tl.trans(questions), tl.float32, precision)
        store_tile(dy + row * K * D, dtokens, point, column, D, K, D)
        sum_a += product(tl.trans(tokens), dscores, tl.float32, precision)
    store_tile(sums + first * D * Q, sum_a, column, question, Q, D, Q)
