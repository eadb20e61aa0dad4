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

enum Residual { kNone = 0, kTokens = 1, kShared = 2, kGated = 3 };

struct Sizes {
  int n, D, K, M, residual;
  int E, np, Kp;  // width of a head; n and K, rounded up to whole vectors
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
  const float factor;                               // of the scores, in powers of two
  Buffer xT, keyT, valueT, gate, query, attention;  // [D][np] three times, [Kp], [E][W], [np][W]

  Row(const Sizes& s, const Weights& w)
      : s(s),
        w(w),
        factor(1.44269504088896341f / std::sqrt(float(s.E))),
        xT(size_t(s.D) * s.np),
        keyT(size_t(s.D) * s.np),
        valueT(size_t(s.D) * s.np),
        gate(s.Kp),
        query(size_t(s.E) * W),
        attention(size_t(s.np) * W) {}

  // Take a row: transpose its tokens x [n][D] and project them to keys and values.
  void take(const float* x, const float* gates) {
    transpose(x, s.D, s.n, s.D, xT, s.np);
    for (int k = 0; k < s.K; ++k) gate[k] = gates ? gates[k] : 1.0f;
    for (int i = 0; i < s.np; i += W) {
      product<true, false>(keyT + i, s.np, w.key, s.D, xT + i, s.np, s.D, s.D);
      product<true, false>(valueT + i, s.np, w.value, s.D, xT + i, s.np, s.D, s.D);
    }
  }

  const float* keys(int m) const { return keyT + size_t(m) * s.E * s.np; }
  const float* values(int m) const { return valueT + size_t(m) * s.E * s.np; }

  // Compute 2^(score - largest score) of W inducing points of head m for all tokens; returns 1 / their sum.
  Vector attend(int m, int k) {
    const Vector z = load(gate + k) * factor;
    for (int e = 0; e < s.E; ++e) store(query + e * W, load(w.queryT + size_t(m * s.E + e) * s.Kp + k) * z);
    product<true, false>(attention, W, keys(m), s.np, query, W, s.n, s.E);
    float* const scores = attention;  // a local name: the compiler need not fear that a store moves it
    const int n = s.n;
    Vector top = load(scores), total = {};
    for (int i = 1; i < n; ++i) top = largest(top, load(scores + i * W));
    for (int i = 0; i < n; ++i) {
      const Vector power = power_of_two(load(scores + i * W) - top);
      store(scores + i * W, power);
      total += power;
    }
    return 1.0f / total;
  }

  // head [E][W], rows Kp apart, = sum over tokens of attention times value.
  void read(int m, Vector inverse, float* head) const {
    product<false, false>(head, s.Kp, values(m), s.np, attention, W, s.E, s.n);
    for (int e = 0; e < s.E; ++e) store(head + e * s.Kp, load(head + e * s.Kp) * inverse);
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
    Vector scale = {};
    for (int l = 0; l < W; ++l) scale[l] = 1.0f / std::sqrt(variance[l]);
    for (int d = 0; d < s.D; ++d) store(out + d * W, (load(out + d * W) - mean) * scale);
    return scale;
  }
};

// y = LN(attention + residual) for the rows begin..end-1. kept [B][D][Kp], what the heads read, may be null.
void forward_rows(const Sizes& s, const Weights& w, const float* x, const float* gate, float* y, float* kept,
                  int64_t begin, int64_t end) {
  Row row(s, w);
  Buffer out(size_t(s.D) * W), heads(size_t(s.D) * s.Kp);
  for (int64_t b = begin; b < end; ++b) {
    row.take(x + b * s.n * s.D, gate ? gate + b * s.K : nullptr);
    float* const headT = kept ? kept + b * s.D * s.Kp : heads;
    for (int k = 0; k < s.Kp; k += W) {
      for (int m = 0; m < s.M; ++m) row.read(m, row.attend(m, k), headT + size_t(m) * s.E * s.Kp + k);
      row.normalise(k, headT, out);
      for (int d = 0; d < s.D; ++d) store(out + d * W, load(out + d * W) * w.scale[d] + w.shift[d]);
      transpose(out, W, s.D, std::min(W, s.K - k), y + (size_t(b) * s.K + k) * s.D, s.D);
    }
  }
}

// Sums over the rows of one thread; a last index of W is added up at the end.
struct Sums {
  Buffer query, key, value, output, scale, shift;  // [D][Kp], [D][D][W] three times, [D][W] twice
  explicit Sums(const Sizes& s)
      : query(size_t(s.D) * s.Kp),
        key(size_t(s.D) * s.D * W),
        value(size_t(s.D) * s.D * W),
        output(size_t(s.D) * s.D * W),
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
        dgate(s.Kp) {}

  // Gradients of one row: dy [K][D] and headT [D][Kp] of forward -> dx [n][D], dz [K] or null, and the sums.
  void run(const float* x, const float* gate, const float* dy, const float* headT, float* dx, float* dz) {
    row.take(x, gate);
    for (Buffer* buffer : {&dxT, &dkeyT, &dvalueT}) std::memset(*buffer, 0, buffer->size() * 4);
    through_norm(dy, headT);
    for (int m = 0; m < s.M; ++m)
      for (int k = 0; k < s.Kp; k += W) through_attention(m, k, headT + size_t(m) * s.E * s.Kp + k);
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

  // W inducing points of head m: doutT -> dkeyT and dvalueT, dgate, and the sum for the query.
  void through_attention(int m, int k, const float* head) {
    const float* output = w.output + size_t(m) * s.E * s.D;
    const Vector inverse = row.attend(m, k);
    product<false, false>(dhead, W, output, s.D, doutT + k, s.Kp, s.E, s.D);
    Vector mean = {};  // over tokens of attention times its gradient
    for (int e = 0; e < s.E; ++e) mean += load(head + e * s.Kp) * load(dhead + e * W);
    product<true, false>(dscore, W, row.values(m), s.np, dhead, W, s.n, s.E);
    float *const shares = row.attention, *const slopes = dscore;
    for (int i = 0, n = s.n; i < n; ++i) {
      const Vector p = load(shares + i * W) * inverse;
      store(shares + i * W, p);
      store(slopes + i * W, p * (load(slopes + i * W) - mean));
    }
    for (int i = s.n; i < s.np; ++i) {  // tokens that fill up the last vector count nothing
      store(shares + i * W, Vector{});
      store(slopes + i * W, Vector{});
    }
    product<false, false>(dquery, W, row.keys(m), s.np, dscore, W, s.E, s.n);
    const float factor = row.factor * 0.693147180559945309f;
    const Vector z = load(row.gate + k) * factor;
    Vector dz = {};
    for (int e = 0; e < s.E; ++e) {
      const size_t place = size_t(m * s.E + e) * s.Kp + k;
      const Vector g = load(dquery + e * W), query = load(w.queryT + place);
      add(sums.query + place, g * z);
      dz += g * query;
      store(row.query + e * W, query * z);
    }
    add(dgate + k, dz * factor);
    for (int i = 0; i < s.np; i += W) {
      transpose(row.attention + i * W, W, attentionT + i, s.np);
      transpose(dscore + i * W, W, dscoreT + i, s.np);
    }
    const size_t place = size_t(m) * s.E * s.np;
    for (int i = 0; i < s.np; i += W) {
      product<false, true>(dvalueT + place + i, s.np, dhead, W, attentionT + i, s.np, s.E, W);
      product<false, true>(dkeyT + place + i, s.np, row.query, W, dscoreT + i, s.np, s.E, W);
    }
  }

  // All heads together: the share of keys and values in dxT, and the sums for the three matrices.
  void through_projections(const float* headT) {
    for (int i = 0; i < s.np; i += W) {
      product<false, true>(dxT + i, s.np, w.key, s.D, dkeyT + i, s.np, s.D, s.D);
      product<false, true>(dxT + i, s.np, w.value, s.D, dvalueT + i, s.np, s.D, s.D);
    }
    for (int d = 0; d < s.D; ++d) {
      lane_dots(sums.output + size_t(d) * s.D * W, headT + d * s.Kp, doutT, s.Kp, s.D, s.Kp);
      lane_dots(sums.key + size_t(d) * s.D * W, row.xT + d * s.np, dkeyT, s.np, s.D, s.np);
      lane_dots(sums.value + size_t(d) * s.D * W, row.xT + d * s.np, dvalueT, s.np, s.D, s.np);
    }
  }

  static void add(float* place, Vector v) { store(place, load(place) + v); }

  const Sizes& s;
  const Weights& w;
  Sums& sums;
  Row row;
  Buffer doutT, dxT, dkeyT, dvalueT, dscore, attentionT, dscoreT, normed, dhead, dquery, dgate;
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
      backward.run(x + b * s.n * s.D, gate ? gate + b * s.K : nullptr, dy + b * s.K * s.D, kept + b * s.D * s.Kp,
                   dx + b * s.n * s.D, dgate ? dgate + b * s.K : nullptr);
  });
  Sums& total = *sums[0];
  for (int t = 1; t < threads; ++t) total.add(*sums[t]);
  for (int d = 0; d < s.D; ++d) {
    for (int f = 0; f < s.D; ++f) {
      const size_t place = size_t(d) * s.D + f;
      dkey[place] = sum_lanes(total.key + place * W);
      dvalue[place] = sum_lanes(total.value + place * W);
      doutput[place] = sum_lanes(total.output + place * W);
    }
    for (int k = 0; k < s.K; ++k) dquery[k * s.D + d] = total.query[d * s.Kp + k];
    dscale[d] = sum_lanes(total.scale + d * W);
    dshift[d] = sum_lanes(total.shift + d * W);
  }
}

}  // extern "C"
