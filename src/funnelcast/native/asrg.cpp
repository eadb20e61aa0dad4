// One layer of APEM's representation generator on the CPU, forward and backward: funnelcast.native.asrg says what it
// computes.
//
// A row at a time stays in the first-level cache: W inducing points of one head are scored against all tokens, turned
// into attention and used, then forgotten; backward computes them again. Lanes are inducing points where a sum runs
// over tokens, and tokens where it runs over inducing points, so that no sum runs across lanes.
//
// Legend: B rows, n tokens, D width, K inducing points, M heads, W lanes. "T" ends the name of a transposed array.

#include "asrg_row.h"
#include "pattern.h"

namespace {

// Where forward writes: y [B][K][D], means [B][Q][D], and, unless null, kept [B][D + M][Kp], what the heads read and
// below it the logarithm of the sum of each head's powers.
struct Outputs {
  float *y, *means, *kept;
};

// y = LN(attention + residual), and what readers [D][Q] find in it, for the rows begin..end-1.
void forward_rows(const Sizes& s, const Weights& w, const float* x, const float* gate, const float* readers, Outputs to,
                  int64_t begin, int64_t end) {
  Row row(s, w);
  const Shape shape{s.K, s.D, s.Q, s.Kp};
  Read read(shape);
  Buffer yT(size_t(s.D) * s.Kp), heads(s.kept());
  for (int64_t b = begin; b < end; ++b) {
    if (b + 1 < end) {
      prefetch<0>(x + (b + 1) * s.n * s.D, s.n * s.D);
      prefetch<1>(to.y + (b + 1) * s.K * s.D, s.K * s.D);
      if (to.kept) prefetch<1>(to.kept + (b + 1) * s.kept(), s.kept());
    }
    row.take(x + b * s.n * s.D, gate ? gate + b * s.K : nullptr);
    float* const headT = to.kept ? to.kept + b * s.kept() : heads;
    for (int k = 0; k < s.Kp; k += W) {
      for (int m = 0; m < s.M; ++m) {
        const auto [shift, total] = row.attend(m, k);
        row.read(m, 1.0f / total, headT + size_t(m) * s.E * s.Kp + k);
        store(headT + size_t(s.D + m) * s.Kp + k, shift + log2_of(total));
      }
      row.normalise(k, headT, yT);
      row.affine(k, yT, yT);
    }
    transpose(yT, s.Kp, s.D, s.K, to.y + b * s.K * s.D, s.D);
    if (s.Q) {
      read.attend(yT, readers);
      read.means(yT, to.means + b * s.Q * s.D);
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
  Sums sums;
  const Shape shape;
  ReadBackward reading;

  Backward(const Sizes& s, const Weights& w)
      : sums(s),
        shape{s.K, s.D, s.Q, s.Kp},
        reading(shape),
        s(s),
        w(w),
        row(s, w),
        doutT(size_t(s.D) * s.Kp),
        dxT(size_t(s.D) * s.np),
        dkeyT(size_t(s.D) * s.np),
        dvalueT(size_t(s.D) * s.np),
        dscore(size_t(s.np) * W),
        attentionT(size_t(W) * s.np),
        dscoreT(size_t(W) * s.np),
        normed(size_t(s.D) * s.Kp),
        dhead(size_t(s.E) * W),
        dquery(size_t(s.E) * W),
        dgate(s.Kp),
        mean(W),
        deviation(s.Kp),
        yT(size_t(s.D) * s.Kp) {}

  // Gradients of one row: dy [K][D] or null, dmeans [Q][D] and headT [D][Kp] of forward -> dx [n][D], dz [K] or null,
  // and the sums.
  void run(const float* x, const float* gate, const float* readers, const float* dy, const float* dmeans,
           const float* headT, float* dx, float* dz) {
    row.take(x, gate);
    for (Buffer* buffer : {&dxT, &dkeyT, &dvalueT}) std::memset(*buffer, 0, buffer->size() * 4);
    for (int k = 0; k < s.Kp; k += W) store(deviation + k, row.normalise(k, headT, normed));
    if (dy)
      transpose(dy, s.D, s.K, s.D, doutT, s.Kp);
    else
      std::memset(doutT, 0, doutT.size() * 4);
    if (dmeans) {
      for (int k = 0; k < s.Kp; k += W) row.affine(k, normed, yT);
      reading.run(yT, readers, dmeans, doutT);
    }
    through_norm();
    for (int m = 0; m < s.M; ++m)
      for (int k = 0; k < s.Kp; k += W) through_attention(m, k, headT);
    through_projections(headT);
    transpose(dxT, s.np, s.D, s.n, dx, s.D);
    if (dz) std::memcpy(dz, dgate, s.K * 4);
  }

 private:
  // LayerNorm and residual: doutT -> doutT, and the residual's share of dxT, dgate and the sums.
  void through_norm() {
    for (int k = 0; k < s.Kp; k += W) {
      const Vector scale = load(deviation + k);
      Vector mean = {}, mixed = {};
      for (int d = 0; d < s.D; ++d) {
        const Vector g = load(doutT + d * s.Kp + k), value = load(normed + d * s.Kp + k);
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
        const Vector value = load(normed + d * s.Kp + k);
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
  Row row;
  Buffer doutT, dxT, dkeyT, dvalueT, dscore, attentionT, dscoreT, normed, dhead, dquery, dgate, mean, deviation, yT;
};

Sizes make_sizes(const int64_t* sizes) {
  Sizes s{int(sizes[1]), int(sizes[2]), int(sizes[3]), int(sizes[4]), int(sizes[5]), int(sizes[6]), 0, 0, 0};
  s.E = s.D / s.M;
  s.np = up(s.n);
  s.Kp = up(s.K);
  return s;
}

}  // namespace

extern "C" {

int funnelcast_lanes() { return W; }

// sizes: B, n, D, K, M, residual, Q, threads. gate, readers (Q = 0) and kept may be null.
void funnelcast_asrg_forward(const int64_t* sizes, const float* x, const float* gate, const float* query,
                             const float* key, const float* value, const float* output, const float* scale,
                             const float* shift, const float* readers, float eps, float* y, float* means, float* kept) {
  const Sizes s = make_sizes(sizes);
  const Weights w(s, query, key, value, output, scale, shift, eps);
  in_parallel(sizes[0], int(sizes[7]), [&](int, int64_t begin, int64_t end) {
    forward_rows(s, w, x, gate, readers, {y, means, kept}, begin, end);
  });
}

// Either of dy and dmeans may be null, and dreaders where readers is.
void funnelcast_asrg_backward(const int64_t* sizes, const float* x, const float* gate, const float* query,
                              const float* key, const float* value, const float* output, const float* scale,
                              const float* shift, const float* readers, const float* kept, const float* dy,
                              const float* dmeans, float eps, float* dx, float* dgate, float* dquery, float* dkey,
                              float* dvalue, float* doutput, float* dscale, float* dshift, float* dreaders) {
  const Sizes s = make_sizes(sizes);
  const Weights w(s, query, key, value, output, scale, shift, eps);
  const int threads = int(std::max<int64_t>(1, std::min(sizes[7], sizes[0])));
  std::vector<std::unique_ptr<Backward>> parts;
  for (int t = 0; t < threads; ++t) parts.push_back(std::make_unique<Backward>(s, w));
  in_parallel(sizes[0], threads, [&](int t, int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      if (b + 1 < end) {
        prefetch<0>(x + (b + 1) * s.n * s.D, s.n * s.D);
        prefetch<0>(kept + (b + 1) * s.kept(), s.kept());
        if (dy) prefetch<0>(dy + (b + 1) * s.K * s.D, s.K * s.D);
        prefetch<1>(dx + (b + 1) * s.n * s.D, s.n * s.D);
      }
      parts[t]->run(x + b * s.n * s.D, gate ? gate + b * s.K : nullptr, readers, dy ? dy + b * s.K * s.D : nullptr,
                    dmeans ? dmeans + b * s.Q * s.D : nullptr, kept + b * s.kept(), dx + b * s.n * s.D,
                    dgate ? dgate + b * s.K : nullptr);
    }
  });
  for (int t = 1; t < threads; ++t) parts[0]->sums.add(parts[t]->sums);
  if (dreaders) {
    for (int t = 1; t < threads; ++t) parts[0]->reading.add(parts[t]->reading);
    parts[0]->reading.gradient(dreaders);
  }
  const Sums& total = parts[0]->sums;
  for (int d = 0; d < s.D; ++d) {
    for (int f = 0; f < s.D; ++f) {
      const size_t place = size_t(d) * s.D + f, from = d * dots_size(s.D) + f * kParts;
      dkey[place] = sum_of(total.key + from, kParts);
      dvalue[place] = sum_of(total.value + from, kParts);
      doutput[place] = sum_of(total.output + from, kParts);
    }
    for (int k = 0; k < s.K; ++k) dquery[k * s.D + d] = total.query[d * s.Kp + k];
    dscale[d] = sum_of(total.scale + d * W, W);
    dshift[d] = sum_of(total.shift + d * W, W);
  }
}

}  // extern "C"
