// One layer of APEM's representation generator on the CPU, forward and backward: funnelcast.native.asrg says what it
// computes.
//
// A row at a time stays in the first-level cache: W inducing points of one head are scored against all tokens, turned
// into attention and used, then forgotten; backward computes them again. Lanes are inducing points where a sum runs
// over tokens, and tokens where it runs over inducing points, so that no sum runs across lanes.
//
// Legend: B rows, n tokens, D width, K inducing points, M heads, W lanes. "T" ends the name of a transposed array.

#include "common.h"

namespace {

constexpr float kLog2 = 0.693147180559945309f;  // natural logarithm of 2

enum Residual { kNone = 0, kTokens = 1, kShared = 2, kGated = 3 };

struct Sizes {
  int n, D, K, M, residual;
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
  Buffer xT, keyT, valueT, gate, query, attention, key_squares;  // [D][np] three times, [Kp], [E][W], [np][W], [M][W]

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
        key_squares(size_t(s.M) * W) {}

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
      store(key_squares + m * W, square);
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
    float query_square = 0.0f, key_square = 0.0f;
    for (int l = 0; l < W; ++l) query_square = std::max(query_square, longest[l]);
    for (int l = 0; l < W; ++l) key_square = std::max(key_square, key_squares[m * W + l]);
    return query_square * key_square <= 3600.0f;
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

  // out [D][W] = LayerNorm, before its scale and shift, of headT [D][Kp] times the output matrix plus the residual, for
  // W inducing points; returns 1 / their deviations.
  Vector normalise(int k, const float* headT, float* out) const {
    const Vector z = load(gate + k);
    for (int d = 0; d < s.D; ++d) {
      const Vector query = load(w.queryT + d * s.Kp + k);
      const Vector start = s.residual == kTokens   ? load(xT + d * s.np + k)
                           : s.residual == kShared ? query
                           : s.residual == kGated  ? query * z
                                                   : Vector{};
      store(out + d * W, start);
    }
    product<true, true>(out, W, w.output, s.D, headT + k, s.Kp, s.D, s.D);
    Vector mean = {}, variance = {};
    for (int d = 0; d < s.D; ++d) mean += load(out + d * W);
    mean *= 1.0f / s.D;
    for (int d = 0; d < s.D; ++d) {
      const Vector gap = load(out + d * W) - mean;
      variance += gap * gap;
    }
    variance = variance * (1.0f / s.D) + w.eps;
    const Vector scale = inverse_root(variance);
    for (int d = 0; d < s.D; ++d) store(out + d * W, (load(out + d * W) - mean) * scale);
    return scale;
  }
};

// y = LN(attention + residual) for the rows begin..end-1. kept [B][D + M][Kp], what the heads read and below it the
// logarithm of the sum of each head's powers, may be null.
void forward_rows(const Sizes& s, const Weights& w, const float* x, const float* gate, float* y, float* kept,
                  int64_t begin, int64_t end) {
  Row row(s, w);
  Buffer out(size_t(s.D) * W), heads(s.kept());
  for (int64_t b = begin; b < end; ++b) {
    row.take(x + b * s.n * s.D, gate ? gate + b * s.K : nullptr);
    float* const headT = kept ? kept + b * s.kept() : heads;
    for (int k = 0; k < s.Kp; k += W) {
      for (int m = 0; m < s.M; ++m) {
        const auto [shift, total] = row.attend(m, k);
        row.read(m, 1.0f / total, headT + size_t(m) * s.E * s.Kp + k);
        store(headT + size_t(s.D + m) * s.Kp + k, shift + log2_of(total));
      }
      row.normalise(k, headT, out);
      for (int d = 0; d < s.D; ++d) store(out + d * W, load(out + d * W) * w.scale[d] + w.shift[d]);
      transpose(out, W, s.D, std::min(W, s.K - k), y + (size_t(b) * s.K + k) * s.D, s.D);
    }
  }
}

// Sums over the rows of one thread; lanes and parts are added up at the end.
struct Sums {
  Buffer query, key, value, output, scale, shift;  // [D][Kp], [D] of lane_dots three times, [D][W] twice
  explicit Sums(const Sizes& s)
      : query(size_t(s.D) * s.Kp),
        key(s.D * dots_size(s.D)),
        value(s.D * dots_size(s.D)),
        output(s.D * dots_size(s.D)),
        scale(size_t(s.D) * W),
        shift(size_t(s.D) * W) {}
  void add(const Sums& other) {
    const std::pair<const Buffer*, const Buffer*> pairs[] = {{&query, &other.query}, {&key, &other.key},
                                                             {&value, &other.value}, {&output, &other.output},
                                                             {&scale, &other.scale}, {&shift, &other.shift}};
    for (const auto& [mine, theirs] : pairs)
      for (size_t i = 0; i < mine->size(); ++i) (*mine)[i] += (*theirs)[i];
  }
};

class Backward {
 public:
  Backward(const Sizes& s, const Weights& w, Sums& sums)
      : s(s),
        w(w),
        sums(sums),
        row(s, w),
        doutT(size_t(s.D) * s.Kp),
        dxT(size_t(s.D) * s.np),
        dkeyT(size_t(s.D) * s.np),
        dvalueT(size_t(s.D) * s.np),
        dscore(size_t(s.np) * W),
        attentionT(size_t(W) * s.np),
        dscoreT(size_t(W) * s.np),
        normed(size_t(s.D) * W),
        dhead(size_t(s.E) * W),
        dquery(size_t(s.E) * W),
        dgate(s.Kp),
        mean(W) {}

  // Gradients of one row: dy [K][D] and headT [D][Kp] of forward -> dx [n][D], dz [K] or null, and the sums.
  void run(const float* x, const float* gate, const float* dy, const float* headT, float* dx, float* dz) {
    row.take(x, gate);
    for (Buffer* buffer : {&dxT, &dkeyT, &dvalueT}) std::memset(*buffer, 0, buffer->size() * 4);
    through_norm(dy, headT);
    for (int m = 0; m < s.M; ++m)
      for (int k = 0; k < s.Kp; k += W) through_attention(m, k, headT);
    through_projections(headT);
    transpose(dxT, s.np, s.D, s.n, dx, s.D);
    if (dz) std::memcpy(dz, dgate, s.K * 4);
  }

 private:
  // LayerNorm and residual: dy -> doutT, and the residual's share of dxT, dgate and the sums.
  void through_norm(const float* dy, const float* headT) {
    transpose(dy, s.D, s.K, s.D, doutT, s.Kp);
    for (int k = 0; k < s.Kp; k += W) {
      const Vector scale = row.normalise(k, headT, normed);
      Vector mean = {}, mixed = {};
      for (int d = 0; d < s.D; ++d) {
        const Vector g = load(doutT + d * s.Kp + k), value = load(normed + d * W);
        add(sums.scale + d * W, g * value);
        add(sums.shift + d * W, g);
        const Vector scaled = g * w.scale[d];
        mean += scaled;
        mixed += scaled * value;
      }
      mean *= 1.0f / s.D;
      mixed *= 1.0f / s.D;
      const Vector z = load(row.gate + k);
      Vector dz = {};
      for (int d = 0; d < s.D; ++d) {
        const Vector value = load(normed + d * W);
        const Vector g = (load(doutT + d * s.Kp + k) * w.scale[d] - mean - value * mixed) * scale;
        store(doutT + d * s.Kp + k, g);
        if (s.residual == kTokens) store(dxT + d * s.np + k, g);
        if (s.residual == kShared) add(sums.query + d * s.Kp + k, g);
        if (s.residual == kGated) {
          add(sums.query + d * s.Kp + k, g * z);
          dz += g * load(w.queryT + d * s.Kp + k);
        }
      }
      store(dgate + k, dz);
    }
  }

  // W inducing points of head m: doutT -> dkeyT and dvalueT, dgate, and the sum for the query. Of a score's power,
  // start is minus the logarithm of the sum, so that it is the attention.
  void through_attention(int m, int k, const float* headT) {
    const float* head = headT + size_t(m) * s.E * s.Kp + k;
    product<false, false>(dhead, W, w.output + size_t(m) * s.E * s.D, s.D, doutT + k, s.Kp, s.E, s.D);
    Vector mixed = {};  // over tokens of attention times its gradient
    for (int e = 0; e < s.E; ++e) mixed += load(head + e * s.Kp) * load(dhead + e * W);
    store(mean, mixed);
    row.scale_query(m, k);
    slopes_by_token(m, headT + size_t(s.D + m) * s.Kp + k);
    const size_t place = size_t(m) * s.E * s.np;
    for (int i = 0; i < s.np; i += W) {
      product<false, true>(dvalueT + place + i, s.np, dhead, W, attentionT + i, s.np, s.E, W);
      product<false, true>(dkeyT + place + i, s.np, row.query, W, dscoreT + i, s.np, s.E, W);
      transpose(dscoreT + i, s.np, dscore + i * W, W);
    }
    through_query(m, k);
  }

  // attentionT and dscoreT [W][np], lanes being tokens.
  void slopes_by_token(int m, const float* logarithm) {
    float *const shares = attentionT, *const slopes = dscoreT;
    const float* const means = mean;
    const int np = s.np;
    for (int i = 0; i < np; i += W) {
      weighted_sums<true>(
          row.query, W, row.keys(m) + i, np, W, s.E, [=](int k) { return set(-logarithm[k]); },
          [=](int k, Vector score) { store(shares + k * np + i, power_of_two(score)); });
      if (i + W > s.n)  // tokens that fill up the last vector count nothing
        for (int k = 0; k < W; ++k) std::memset(shares + k * np + s.n, 0, (np - s.n) * 4);
      weighted_sums<true>(
          dhead, W, row.values(m) + i, np, W, s.E, [=](int k) { return set(-means[k]); },
          [=](int k, Vector slope) { store(slopes + k * np + i, load(shares + k * np + i) * slope); });
    }
  }

  // dscore [n][W] -> dgate and the sum for the query.
  void through_query(int m, int k) {
    product<false, false>(dquery, W, row.keys(m), s.np, dscore, W, s.E, s.n);
    const float factor = row.factor * kLog2;
    const Vector z = load(row.gate + k) * factor;
    Vector dz = {};
    for (int e = 0; e < s.E; ++e) {
      const size_t place = size_t(m * s.E + e) * s.Kp + k;
      const Vector g = load(dquery + e * W);
      add(sums.query + place, g * z);
      dz += g * load(w.queryT + place);
    }
    add(dgate + k, dz * factor);
  }

  // All heads together: the share of keys and values in dxT, and the sums for the three matrices.
  void through_projections(const float* headT) {
    for (size_t i = 0; i < dkeyT.size(); i += W)
      store(dkeyT + i, load(dkeyT + i) * kLog2);  // queries had powers of two
    for (int i = 0; i < s.np; i += W) {
      product<false, true>(dxT + i, s.np, w.key, s.D, dkeyT + i, s.np, s.D, s.D);
      product<false, true>(dxT + i, s.np, w.value, s.D, dvalueT + i, s.np, s.D, s.D);
    }
    for (int d = 0; d < s.D; ++d) {
      const size_t place = d * dots_size(s.D);
      lane_dots(sums.output + place, headT + d * s.Kp, doutT, s.Kp, s.D, s.Kp);
      lane_dots(sums.key + place, row.xT + d * s.np, dkeyT, s.np, s.D, s.np);
      lane_dots(sums.value + place, row.xT + d * s.np, dvalueT, s.np, s.D, s.np);
    }
  }

  static void add(float* place, Vector v) { store(place, load(place) + v); }

  const Sizes& s;
  const Weights& w;
  Sums& sums;
  Row row;
  Buffer doutT, dxT, dkeyT, dvalueT, dscore, attentionT, dscoreT, normed, dhead, dquery, dgate, mean;
};

Sizes make_sizes(const int64_t* sizes) {
  Sizes s{int(sizes[1]), int(sizes[2]), int(sizes[3]), int(sizes[4]), int(sizes[5]), 0, 0, 0};
  s.E = s.D / s.M;
  s.np = up(s.n);
  s.Kp = up(s.K);
  return s;
}

}  // namespace

extern "C" {

int funnelcast_lanes() { return W; }

// sizes: B, n, D, K, M, residual, threads. gate and kept may be null.
void funnelcast_asrg_forward(const int64_t* sizes, const float* x, const float* gate, const float* query,
                             const float* key, const float* value, const float* output, const float* scale,
                             const float* shift, float eps, float* y, float* kept) {
  const Sizes s = make_sizes(sizes);
  const Weights w(s, query, key, value, output, scale, shift, eps);
  in_parallel(sizes[0], int(sizes[6]),
              [&](int, int64_t begin, int64_t end) { forward_rows(s, w, x, gate, y, kept, begin, end); });
}

void funnelcast_asrg_backward(const int64_t* sizes, const float* x, const float* gate, const float* query,
                              const float* key, const float* value, const float* output, const float* scale,
                              const float* kept, const float* dy, float eps, float* dx, float* dgate, float* dquery,
                              float* dkey, float* dvalue, float* doutput, float* dscale, float* dshift) {
  const Sizes s = make_sizes(sizes);
  const Weights w(s, query, key, value, output, scale, nullptr, eps);
  const int threads = int(std::max<int64_t>(1, std::min(sizes[6], sizes[0])));
  std::vector<std::unique_ptr<Sums>> sums;
  for (int t = 0; t < threads; ++t) sums.push_back(std::make_unique<Sums>(s));
  in_parallel(sizes[0], threads, [&](int t, int64_t begin, int64_t end) {
    Backward backward(s, w, *sums[t]);
    for (int64_t b = begin; b < end; ++b)
      backward.run(x + b * s.n * s.D, gate ? gate + b * s.K : nullptr, dy + b * s.K * s.D, kept + b * s.kept(),
                   dx + b * s.n * s.D, dgate ? dgate + b * s.K : nullptr);
  });
  Sums& total = *sums[0];
  for (int t = 1; t < threads; ++t) total.add(*sums[t]);
  for (int d = 0; d < s.D; ++d) {
    for (int f = 0; f < s.D; ++f) {
      const size_t place = size_t(d) * s.D + f, parts = d * dots_size(s.D) + f * kParts;
      dkey[place] = sum_of(total.key + parts, kParts);
      dvalue[place] = sum_of(total.value + parts, kParts);
      doutput[place] = sum_of(total.output + parts, kParts);
    }
    for (int k = 0; k < s.K; ++k) dquery[k * s.D + d] = total.query[d * s.Kp + k];
    dscale[d] = sum_of(total.scale + d * W, W);
    dshift[d] = sum_of(total.shift + d * W, W);
  }
}

}  // extern "C"
