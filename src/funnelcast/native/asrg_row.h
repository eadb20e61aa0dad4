// The weights of a layer of APEM's generator, and what forward and backward both compute of a row:
// funnelcast.native.asrg says what the layer computes.
//
// Legend: B rows, n tokens, D width, K inducing points, M heads, Q queries of readers, W lanes. "T" ends the name of a
// transposed array.

#pragma once

#include "common.h"

namespace {

constexpr float kLog2 = 0.693147180559945309f;  // natural logarithm of 2

enum Residual { kNone = 0, kTokens = 1, kShared = 2, kGated = 3 };

struct Sizes {
  int n, D, K, M, residual, Q;
  int E, np, Kp;                                      // width of a head; n and K, rounded up to whole vectors
  size_t kept() const { return size_t(D + M) * Kp; }  // numbers a row that forward leaves to backward
};

// The layer's weights: query I [K][D], key, value and output matrices [D][D], LayerNorm.
struct Weights {
  Buffer queryT;  // [D][Kp], 0 behind K
  const float *key, *value, *output, *scale, *shift;
  float eps;

  Weights(const Sizes& s, const float* query, const float* key, const float* value, const float* output,
          const float* scale, const float* shift, float eps)
      : queryT(size_t(s.D) * s.Kp), key(key), value(value), output(output), scale(scale), shift(shift), eps(eps) {
    for (int k = 0; k < s.K; ++k)
      for (int d = 0; d < s.D; ++d) queryT[d * s.Kp + k] = query[k * s.D + d];
  }
};

// What one thread needs for the row at hand.
struct Row {
  const Sizes& s;
  const Weights& w;
  const float factor;                                            // of the scores, in powers of two
  Buffer xT, keyT, valueT, gate, query, attention, key_squares;  // [D][np] three times, [Kp], [E][W], [np][W], [M]

  Row(const Sizes& s, const Weights& w)
      : s(s),
        w(w),
        factor(1.0f / kLog2 / std::sqrt(float(s.E))),
        xT(size_t(s.D) * s.np),
        keyT(size_t(s.D) * s.np),
        valueT(size_t(s.D) * s.np),
        gate(s.Kp),
        query(size_t(s.E) * W),
        attention(size_t(s.np) * W),
        key_squares(s.M) {}

  // Take a row: transpose its tokens x [n][D] and project them to keys and values.
  void take(const float* x, const float* gates) {
    transpose(x, s.D, s.n, s.D, xT, s.np);
    for (int k = 0; k < s.K; ++k) gate[k] = gates ? gates[k] : 1.0f;
    for (int i = 0; i < s.np; i += W) {
      product<true, false>(keyT + i, s.np, w.key, s.D, xT + i, s.np, s.D, s.D);
      product<true, false>(valueT + i, s.np, w.value, s.D, xT + i, s.np, s.D, s.D);
    }
    for (int m = 0; m < s.M; ++m) {
      Vector square = {};
      for (int i = 0; i < s.np; i += W) square = largest(square, square_length(keys(m) + i, s.np));
      key_squares[m] = largest_lane(square);
    }
  }

  const float* keys(int m) const { return keyT + size_t(m) * s.E * s.np; }
  const float* values(int m) const { return valueT + size_t(m) * s.E * s.np; }

  // attention [n][W] = 2^(score - shift) of W inducing points of head m for all tokens; returns the shift and the sum.
  // The shift, the largest score, is spared where no score can be so large that a power or their sum overflows.
  std::pair<Vector, Vector> attend(int m, int k) {
    scale_query(m, k);
    Vector shift = {}, total = {};
    if (!small_scores(m)) {
      shift = set(-INFINITY);
      weighted_sums<true>(
          keys(m), s.np, query, W, s.n, s.E, [](int) { return Vector{}; },
          [&](int, Vector score) { shift = largest(shift, score); });
    }
    float* const out = attention;
    weighted_sums<true>(
        keys(m), s.np, query, W, s.n, s.E, [=](int) { return -shift; },
        [&](int i, Vector score) {
          const Vector power = power_of_two(score);
          store(out + i * W, power);
          total += power;
        });
    return {shift, total};
  }

  // query [E][W] = the gated queries of W inducing points, such that scores come in powers of two.
  void scale_query(int m, int k) {
    const Vector z = load(gate + k) * factor;
    for (int e = 0; e < s.E; ++e) store(query + e * W, load(w.queryT + size_t(m * s.E + e) * s.Kp + k) * z);
  }

  // Whether all scores of the present queries lie within +-60, by the lengths of queries and keys.
  bool small_scores(int m) const {
    const Vector longest = square_length(query, W);
    return largest_lane(longest) * key_squares[m] <= 3600.0f;
  }

  Vector square_length(const float* vectors, int stride) const {
    Vector sum = {};
    for (int e = 0; e < s.E; ++e) sum += load(vectors + e * stride) * load(vectors + e * stride);
    return sum;
  }

  // head [E][W], rows Kp apart, = sum over tokens of attention times value.
  void read(int m, Vector inverse, float* head) const {
    const float* const shares = attention;
    weighted_sums<false>(
        values(m), s.np, shares, W, s.E, s.n, [](int) { return Vector{}; },
        [&](int e, Vector sum) { store(head + e * s.Kp, sum * inverse); });
  }

  // out [D][Kp] = LayerNorm, before its scale and shift, of headT [D][Kp] times the output matrix plus the residual,
  // for W inducing points; returns 1 / their deviations.
  Vector normalise(int k, const float* headT, float* out) const {
    out += k;
    const Vector z = load(gate + k);
    for (int d = 0; d < s.D; ++d) {
      const Vector query = load(w.queryT + d * s.Kp + k);
      const Vector start = s.residual == kTokens   ? load(xT + d * s.np + k)
                           : s.residual == kShared ? query
                           : s.residual == kGated  ? query * z
                                                   : Vector{};
      store(out + d * s.Kp, start);
    }
    product<true, true>(out, s.Kp, w.output, s.D, headT + k, s.Kp, s.D, s.D);
    Vector mean = {}, variance = {};
    for (int d = 0; d < s.D; ++d) mean += load(out + d * s.Kp);
    mean *= 1.0f / s.D;
    for (int d = 0; d < s.D; ++d) {
      const Vector gap = load(out + d * s.Kp) - mean;
      variance += gap * gap;
    }
    variance = variance * (1.0f / s.D) + w.eps;
    const Vector scale = inverse_root(variance);
    for (int d = 0; d < s.D; ++d) store(out + d * s.Kp, (load(out + d * s.Kp) - mean) * scale);
    return scale;
  }

  // to [D][Kp] = LayerNorm's scale and shift on `from`, for W inducing points.
  void affine(int k, const float* from, float* to) const {
    for (int d = 0; d < s.D; ++d) store(to + d * s.Kp + k, load(from + d * s.Kp + k) * w.scale[d] + w.shift[d]);
  }
};

}  // namespace
