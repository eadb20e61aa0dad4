// One layer of APEM's representation generator on the CPU, forward and backward: funnelcast.native.asrg says what it computes.
//
// A row at a time stays in the first-level cache: W inducing points of one head are scored against all tokens, turned into
// attention and used, then forgotten; backward computes them again. Lanes are inducing points where a sum runs over tokens,
// and tokens where it runs over inducing points, so that no sum runs across lanes.
//
// Legend: B rows, n tokens, D width, K inducing points, M heads, W lanes of a vector. "T" ends the name of a transposed array.
// Compiled without torch's headers; written in the vector extensions of GCC and Clang, so one source serves every machine.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <thread>
#include <utility>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int W = 16;
#elif defined(__AVX__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif

typedef float Vector __attribute__((vector_size(W * 4)));
typedef float Unaligned __attribute__((vector_size(W * 4), aligned(4), may_alias));
typedef int32_t Bits __attribute__((vector_size(W * 4)));

inline Vector load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }
inline void store(float* p, Vector v) { *reinterpret_cast<Unaligned*>(p) = v; }
inline Vector set(float x) { return x - Vector{}; }
inline Vector largest(Vector a, Vector b) { return a > b ? a : b; }
inline int up(int n) { return (n + W - 1) / W * W; }

// 2^x for x <= 0 to 3e-7 of its value; below -126 it is 2^-126.
inline Vector power_of_two(Vector x) {
  x = largest(x, set(-126.0f));
  const Vector shifted = x + 12582912.0f;  // 1.5 * 2^23: leaves the whole part in the low bits
  const Vector r = x - (shifted - 12582912.0f);
  Vector p = r * 1.33952879e-3f + 9.67459287e-3f;
  p = p * r + 5.55057004e-2f;
  p = p * r + 2.40222633e-1f;
  p = p * r + 6.93147182e-1f;
  p = p * r + 1.0f;
  return (Vector)((Bits)p + ((Bits)shifted << 23));
}

// Zeroed memory on a cache line.
class Buffer {
 public:
  explicit Buffer(size_t size) : size_(size) {
    data_ = static_cast<float*>(std::aligned_alloc(64, (size * 4 + 63) / 64 * 64 + 64));
    if (!data_) throw std::bad_alloc();
    std::memset(data_, 0, size * 4);
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(data_); }
  operator float*() const { return data_; }
  size_t size() const { return size_; }

 private:
  float* data_;
  size_t size_;
};

// c[r] (+)= sum_i a(i, r) * b[i] for R rows r, a vector wide. a(i, r) is a[i * stride + r] where Side, else a[r * stride + i].
template <int R, bool Side, bool Add>
inline void product_rows(float* c, int c_stride, const float* a, int a_stride, const float* b, int b_stride, int count) {
  Vector sum[R];
  for (int r = 0; r < R; ++r) sum[r] = Add ? load(c + r * c_stride) : Vector{};
  for (int i = 0; i < count; ++i) {
    const Vector right = load(b + i * b_stride);
    for (int r = 0; r < R; ++r) sum[r] += (Side ? a[i * a_stride + r] : a[r * a_stride + i]) * right;
  }
  for (int r = 0; r < R; ++r) store(c + r * c_stride, sum[r]);
}

// The same for any number of rows, in blocks of nearly equal size: at most 9 sums, so that 16 registers hold them.
template <bool Side, bool Add>
inline void product(float* c, int c_stride, const float* a, int a_stride, const float* b, int b_stride, int rows, int count) {
  const int blocks = (rows + 8) / 9;
  for (int block = 0, r = 0; block < blocks; ++block) {
    const int size = (rows - r + blocks - block - 1) / (blocks - block);
    const float* left = a + (Side ? r : r * a_stride);
    float* out = c + r * c_stride;
    switch (size) {
#define ROWS(R) \
  case R: product_rows<R, Side, Add>(out, c_stride, left, a_stride, b, b_stride, count); break
      ROWS(1); ROWS(2); ROWS(3); ROWS(4); ROWS(5); ROWS(6); ROWS(7); ROWS(8); ROWS(9);
#undef ROWS
    }
    r += size;
  }
}

#if defined(__clang__)
inline void transpose(const float* in, float* out, int out_stride) {
  for (int i = 0; i < W; ++i)
    for (int j = 0; j < W; ++j) out[j * out_stride + i] = in[i * W + j];
}
#else
// One stage: swap the off-diagonal H x H blocks of every 2H x 2H block.
template <int H>
inline void swap_blocks(Vector (&row)[W]) {
  Bits low, high;
  for (int l = 0; l < W; ++l) {
    low[l] = l & H ? W + l - H : l;
    high[l] = l & H ? W + l : l + H;
  }
  for (int i = 0; i < W; ++i)
    if (!(i & H)) {
      const Vector a = row[i], b = row[i + H];
      row[i] = __builtin_shuffle(a, b, low);
      row[i + H] = __builtin_shuffle(a, b, high);
    }
}

// in [W][W] -> out, whose rows are out_stride apart.
inline void transpose(const float* in, float* out, int out_stride) {
  Vector row[W];
  for (int i = 0; i < W; ++i) row[i] = load(in + i * W);
  swap_blocks<1>(row);
  swap_blocks<2>(row);
  if constexpr (W > 4) swap_blocks<4>(row);
  if constexpr (W > 8) swap_blocks<8>(row);
  for (int i = 0; i < W; ++i) store(out + i * out_stride, row[i]);
}
#endif

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
  const float factor;                                 // of the scores, in powers of two
  Buffer xT, keyT, valueT, gate, query, attention;    // [D][np] three times, [Kp], [E][W], [np][W]

  Row(const Sizes& s, const Weights& w)
      : s(s), w(w), factor(1.44269504088896341f / std::sqrt(float(s.E))), xT(size_t(s.D) * s.np),
        keyT(size_t(s.D) * s.np), valueT(size_t(s.D) * s.np), gate(s.Kp), query(size_t(s.E) * W),
        attention(size_t(s.np) * W) {}

  // Take a row: transpose its tokens x [n][D] and project them to keys and values.
  void take(const float* x, const float* gates) {
    for (int i = 0; i < s.n; ++i)
      for (int d = 0; d < s.D; ++d) xT[d * s.np + i] = x[i * s.D + d];
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
    Vector top = load(attention), total = {};
    for (int i = 1; i < s.n; ++i) top = largest(top, load(attention + i * W));
    for (int i = 0; i < s.n; ++i) {
      const Vector power = power_of_two(load(attention + i * W) - top);
      store(attention + i * W, power);
      total += power;
    }
    return 1.0f / total;
  }

  // head [E][W] = sum over tokens of attention times value.
  void read(int m, Vector inverse, float* head) const {
    product<false, false>(head, W, values(m), s.np, attention, W, s.E, s.n);
    for (int e = 0; e < s.E; ++e) store(head + e * W, load(head + e * W) * inverse);
  }
};

// y = LN(attention + residual) for the rows begin..end-1; keeps what backward needs where normed is not null.
void forward_rows(const Sizes& s, const Weights& w, const float* x, const float* gate, float* y, float* normed, float* rstd,
                  int64_t begin, int64_t end) {
  Row row(s, w);
  Buffer out(size_t(s.D) * W), head(size_t(s.E) * W);
  for (int64_t b = begin; b < end; ++b) {
    row.take(x + b * s.n * s.D, gate ? gate + b * s.K : nullptr);
    for (int k = 0; k < s.Kp; k += W) {
      const Vector z = load(row.gate + k);
      for (int d = 0; d < s.D; ++d) {
        const Vector query = load(w.queryT + d * s.Kp + k);
        const Vector start = s.residual == kTokens   ? load(row.xT + d * s.np + k)
                             : s.residual == kShared ? query
                             : s.residual == kGated  ? query * z
                                                     : Vector{};
        store(out + d * W, start);
      }
      for (int m = 0; m < s.M; ++m) {
        row.read(m, row.attend(m, k), head);
        product<true, true>(out, W, w.output + size_t(m) * s.E * s.D, s.D, head, W, s.D, s.E);
      }
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
      for (int d = 0; d < s.D; ++d) {
        const Vector value = (load(out + d * W) - mean) * scale;
        store(out + d * W, value * w.scale[d] + w.shift[d]);
        if (normed) store(normed + (size_t(b) * s.D + d) * s.Kp + k, value);
      }
      if (normed) store(rstd + size_t(b) * s.Kp + k, scale);
      const int lanes = std::min(W, s.K - k);
      float* target = y + (size_t(b) * s.K + k) * s.D;
      for (int l = 0; l < lanes; ++l)
        for (int d = 0; d < s.D; ++d) target[l * s.D + d] = out[d * W + l];
    }
  }
}

// Sums over the rows of one thread; a last index of W is added up at the end.
struct Sums {
  Buffer query, key, value, output, scale, shift;  // [D][Kp], [D][D][W] three times, [D][W] twice
  explicit Sums(const Sizes& s)
      : query(size_t(s.D) * s.Kp), key(size_t(s.D) * s.D * W), value(size_t(s.D) * s.D * W),
        output(size_t(s.D) * s.D * W), scale(size_t(s.D) * W), shift(size_t(s.D) * W) {}
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
      : s(s), w(w), sums(sums), row(s, w), doutT(size_t(s.D) * s.Kp), dxT(size_t(s.D) * s.np), dkeyT(size_t(s.D) * s.np),
        dvalueT(size_t(s.D) * s.np), dscore(size_t(s.np) * W), attentionT(size_t(W) * s.np), dscoreT(size_t(W) * s.np),
        head(size_t(s.E) * W), dhead(size_t(s.E) * W), dquery(size_t(s.E) * W), dgate(s.Kp) {}

  // Gradients of one row: dy [K][D] -> dx [n][D], dz [K] or null, and the sums.
  void run(const float* x, const float* gate, const float* dy, const float* normed, const float* rstd, float* dx, float* dz) {
    row.take(x, gate);
    for (Buffer* buffer : {&dxT, &dkeyT, &dvalueT}) std::memset(*buffer, 0, buffer->size() * 4);
    through_norm(dy, normed, rstd);
    for (int m = 0; m < s.M; ++m)
      for (int k = 0; k < s.Kp; k += W) through_attention(m, k);
    through_projections();
    for (int i = 0; i < s.n; ++i)
      for (int d = 0; d < s.D; ++d) dx[i * s.D + d] = dxT[d * s.np + i];
    if (dz) std::memcpy(dz, dgate, s.K * 4);
  }

 private:
  // LayerNorm and residual: dy -> doutT, and the residual's share of dxT, dgate and the sums.
  void through_norm(const float* dy, const float* normed, const float* rstd) {
    for (int k = 0; k < s.K; ++k)
      for (int d = 0; d < s.D; ++d) doutT[d * s.Kp + k] = dy[k * s.D + d];
    for (int k = 0; k < s.Kp; k += W) {
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
      const Vector scale = load(rstd + k), z = load(row.gate + k);
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

  // W inducing points of head m: doutT -> dkeyT and dvalueT, dgate, and the sums for query and output matrix.
  void through_attention(int m, int k) {
    const float* output = w.output + size_t(m) * s.E * s.D;
    const Vector inverse = row.attend(m, k);
    row.read(m, inverse, head);
    product<false, false>(dhead, W, output, s.D, doutT + k, s.Kp, s.E, s.D);
    Vector mean = {};  // over tokens of attention times its gradient
    for (int e = 0; e < s.E; ++e) {
      const Vector h = load(head + e * W);
      mean += h * load(dhead + e * W);
      float* place = sums.output + size_t(m * s.E + e) * s.D * W;
      for (int d = 0; d < s.D; ++d) add(place + d * W, h * load(doutT + d * s.Kp + k));
    }
    product<true, false>(dscore, W, row.values(m), s.np, dhead, W, s.n, s.E);
    for (int i = 0; i < s.n; ++i) {
      const Vector p = load(row.attention + i * W) * inverse;
      store(row.attention + i * W, p);
      store(dscore + i * W, p * (load(dscore + i * W) - mean));
    }
    for (int i = s.n; i < s.np; ++i) {  // tokens that fill up the last vector count nothing
      store(row.attention + i * W, Vector{});
      store(dscore + i * W, Vector{});
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
      transpose(row.attention + i * W, attentionT + i, s.np);
      transpose(dscore + i * W, dscoreT + i, s.np);
    }
    const size_t place = size_t(m) * s.E * s.np;
    for (int i = 0; i < s.np; i += W) {
      product<false, true>(dvalueT + place + i, s.np, dhead, W, attentionT + i, s.np, s.E, W);
      product<false, true>(dkeyT + place + i, s.np, row.query, W, dscoreT + i, s.np, s.E, W);
    }
  }

  // Keys and values of all heads: their share of dxT, and the sums for their matrices.
  void through_projections() {
    for (int i = 0; i < s.np; i += W) {
      product<false, true>(dxT + i, s.np, w.key, s.D, dkeyT + i, s.np, s.D, s.D);
      product<false, true>(dxT + i, s.np, w.value, s.D, dvalueT + i, s.np, s.D, s.D);
    }
    for (int d = 0; d < s.D; ++d)
      for (int f = 0; f < s.D; ++f) {
        Vector key = {}, value = {};
        for (int i = 0; i < s.np; i += W) {
          const Vector token = load(row.xT + d * s.np + i);
          key += token * load(dkeyT + f * s.np + i);
          value += token * load(dvalueT + f * s.np + i);
        }
        add(sums.key + (size_t(d) * s.D + f) * W, key);
        add(sums.value + (size_t(d) * s.D + f) * W, value);
      }
  }

  static void add(float* place, Vector v) { store(place, load(place) + v); }

  const Sizes& s;
  const Weights& w;
  Sums& sums;
  Row row;
  Buffer doutT, dxT, dkeyT, dvalueT, dscore, attentionT, dscoreT, head, dhead, dquery, dgate;
};

// Split rows over threads in equal parts, always the same ones, so that sums do not depend on timing.
template <typename Work>
void in_parallel(int64_t rows, int threads, Work work) {
  const int used = int(std::max<int64_t>(1, std::min<int64_t>(threads, rows)));
  std::vector<std::thread> others;
  for (int t = 1; t < used; ++t) others.emplace_back(work, t, rows * t / used, rows * (t + 1) / used);
  work(0, int64_t(0), rows / used);
  for (auto& other : others) other.join();
}

float sum_lanes(const float* p) {
  float total = 0.0f;
  for (int l = 0; l < W; ++l) total += p[l];
  return total;
}

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

// sizes: B, n, D, K, M, residual, threads. gate, normed and rstd may be null.
void funnelcast_asrg_forward(const int64_t* sizes, const float* x, const float* gate, const float* query, const float* key,
                             const float* value, const float* output, const float* scale, const float* shift, float eps,
                             float* y, float* normed, float* rstd) {
  const Sizes s = make_sizes(sizes);
  const Weights w(s, query, key, value, output, scale, shift, eps);
  in_parallel(sizes[0], int(sizes[6]), [&](int, int64_t begin, int64_t end) {
    forward_rows(s, w, x, gate, y, normed, rstd, begin, end);
  });
}

void funnelcast_asrg_backward(const int64_t* sizes, const float* x, const float* gate, const float* query, const float* key,
                              const float* value, const float* output, const float* scale, const float* normed,
                              const float* rstd, const float* dy, float* dx, float* dgate, float* dquery, float* dkey,
                              float* dvalue, float* doutput, float* dscale, float* dshift) {
  const Sizes s = make_sizes(sizes);
  const Weights w(s, query, key, value, output, scale, nullptr, 0.0f);
  const int threads = int(std::max<int64_t>(1, std::min(sizes[6], sizes[0])));
  std::vector<std::unique_ptr<Sums>> sums;
  for (int t = 0; t < threads; ++t) sums.push_back(std::make_unique<Sums>(s));
  in_parallel(sizes[0], threads, [&](int t, int64_t begin, int64_t end) {
    Backward backward(s, w, *sums[t]);
    for (int64_t b = begin; b < end; ++b)
      backward.run(x + b * s.n * s.D, gate ? gate + b * s.K : nullptr, dy + b * s.K * s.D, normed + b * s.D * s.Kp,
                   rstd + b * s.Kp, dx + b * s.n * s.D, dgate ? dgate + b * s.K : nullptr);
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
