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
#include <new>
#include <thread>
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

// exp(x) for x <= 0 to about 2 units in the last place; below -87 it is e^-87.
inline Vector exponential(Vector x) {
  x = largest(x, set(-87.0f));
  const Vector shifted = x * 1.44269504088896341f + 12582912.0f;  // 1.5 * 2^23: rounds to a whole number in the low bits
  const Vector whole = shifted - 12582912.0f;
  const Vector r = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
  Vector p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
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
  int np, Kp;  // n and K, rounded up to whole vectors
};

// What the layer's weights look like in the kernel.
struct Weights {
  Buffer aT;        // [M][D][Kp], 0 behind K
  Buffer sharedT;   // [D][Kp], the residual that all rows have in common
  const float* u;   // [D][M*D]
  const float* scale;
  const float* shift;
  float eps;

  Weights(const Sizes& s, const float* a, const float* u_, const float* shared, const float* scale_, const float* shift_,
          float eps_)
      : aT(size_t(s.M) * s.D * s.Kp), sharedT(size_t(s.D) * s.Kp), u(u_), scale(scale_), shift(shift_), eps(eps_) {
    for (int d = 0; d < s.D; ++d)
      for (int m = 0; m < s.M; ++m)
        std::memcpy(aT + (size_t(m) * s.D + d) * s.Kp, a + (size_t(d) * s.M + m) * s.K, s.K * 4);
    if (shared)
      for (int k = 0; k < s.K; ++k)
        for (int d = 0; d < s.D; ++d) sharedT[d * s.Kp + k] = shared[k * s.D + d];
  }
};

// What one thread needs for the row at hand.
struct Row {
  Buffer xT, vT, gate, ga, attention;  // [D][np], [M*D][np], [Kp], [D][W], [np][W]
  const float* x = nullptr;            // [n][D]

  explicit Row(const Sizes& s)
      : xT(size_t(s.D) * s.np), vT(size_t(s.M) * s.D * s.np), gate(s.Kp), ga(size_t(s.D) * W), attention(size_t(s.np) * W) {}

  // Take a row: transpose its tokens and project them to the values of all heads.
  void take(const Sizes& s, const Weights& w, const float* tokens, const float* gates) {
    x = tokens;
    for (int i = 0; i < s.n; ++i)
      for (int d = 0; d < s.D; ++d) xT[d * s.np + i] = x[i * s.D + d];
    for (int k = 0; k < s.K; ++k) gate[k] = gates ? gates[k] : 1.0f;
    for (int i = 0; i < s.np; i += W)
      product<true, false>(vT + i, s.np, w.u, s.M * s.D, xT + i, s.np, s.M * s.D, s.D);
  }

  // Compute exp(score - largest score) of W inducing points of head m for all tokens; returns 1 / their sum.
  Vector attend(const Sizes& s, const Weights& w, int m, int k) {
    const Vector z = load(gate + k);
    for (int d = 0; d < s.D; ++d) store(ga + d * W, load(w.aT + (size_t(m) * s.D + d) * s.Kp + k) * z);
    product<false, false>(attention, W, x, s.D, ga, W, s.n, s.D);
    Vector top = load(attention), total = {};
    for (int i = 1; i < s.n; ++i) top = largest(top, load(attention + i * W));
    for (int i = 0; i < s.n; ++i) {
      const Vector e = exponential(load(attention + i * W) - top);
      store(attention + i * W, e);
      total += e;
    }
    return 1.0f / total;
  }
};

// y = LN(attention + residual) for the rows begin..end-1; keeps what backward needs where normed is not null.
void forward_rows(const Sizes& s, const Weights& w, const float* x, const float* gate, float* y, float* normed, float* rstd,
                  int64_t begin, int64_t end) {
  Row row(s);
  Buffer out(size_t(s.D) * W), head(size_t(s.D) * W), yT(size_t(s.D) * W);
  for (int64_t b = begin; b < end; ++b) {
    row.take(s, w, x + b * s.n * s.D, gate ? gate + b * s.K : nullptr);
    for (int k = 0; k < s.Kp; k += W) {
      const Vector z = load(row.gate + k);
      for (int d = 0; d < s.D; ++d) {
        const Vector shared = load(w.sharedT + d * s.Kp + k);
        const Vector start = s.residual == kTokens   ? load(row.xT + d * s.np + k)
                             : s.residual == kShared ? shared
                             : s.residual == kGated  ? shared * z
                                                     : Vector{};
        store(out + d * W, start);
      }
      for (int m = 0; m < s.M; ++m) {
        const Vector inverse = row.attend(s, w, m, k);
        product<false, false>(head, W, row.vT + size_t(m) * s.D * s.np, s.np, row.attention, W, s.D, s.n);
        for (int d = 0; d < s.D; ++d) store(out + d * W, load(out + d * W) + load(head + d * W) * inverse);
      }
      Vector mean = {}, variance = {};
      for (int d = 0; d < s.D; ++d) mean += load(out + d * W);
      mean *= 1.0f / s.D;
      for (int d = 0; d < s.D; ++d) {
        const Vector gap = load(out + d * W) - mean;
        variance += gap * gap;
      }
      variance = variance * (1.0f / s.D) + w.eps;
      Vector scale;
      for (int l = 0; l < W; ++l) scale[l] = 1.0f / std::sqrt(variance[l]);
      for (int d = 0; d < s.D; ++d) {
        const Vector value = (load(out + d * W) - mean) * scale;
        store(yT + d * W, value * w.scale[d] + w.shift[d]);
        if (normed) store(normed + (size_t(b) * s.D + d) * s.Kp + k, value);
      }
      if (normed) store(rstd + size_t(b) * s.Kp + k, scale);
      const int lanes = std::min(W, s.K - k);
      float* target = y + (size_t(b) * s.K + k) * s.D;
      for (int l = 0; l < lanes; ++l)
        for (int d = 0; d < s.D; ++d) target[l * s.D + d] = yT[d * W + l];
    }
  }
}

// Sums over the rows of one thread.
struct Sums {
  Buffer a, u, shared, scale, shift;  // [M][D][Kp], [D*M*D][W], [D][Kp], [D][W], [D][W]
  explicit Sums(const Sizes& s)
      : a(size_t(s.M) * s.D * s.Kp), u(size_t(s.D) * s.M * s.D * W), shared(size_t(s.D) * s.Kp), scale(size_t(s.D) * W),
        shift(size_t(s.D) * W) {}
  void add(const Sums& other) {
    const std::pair<const Buffer*, const Buffer*> pairs[] = {
        {&a, &other.a}, {&u, &other.u}, {&shared, &other.shared}, {&scale, &other.scale}, {&shift, &other.shift}};
    for (const auto& [mine, theirs] : pairs)
      for (size_t i = 0; i < mine->size(); ++i) (*mine)[i] += (*theirs)[i];
  }
};

class Backward {
 public:
  Backward(const Sizes& s, const Weights& w, Sums& sums)
      : s(s), w(w), sums(sums), row(s), doutT(size_t(s.D) * s.Kp), dxT(size_t(s.D) * s.np), dvT(size_t(s.M) * s.D * s.np),
        dscore(size_t(s.np) * W), attentionT(size_t(W) * s.np), dscoreT(size_t(W) * s.np), dga(size_t(s.D) * W),
        dgate(s.Kp) {}

  // Gradients of one row: dy [K][D] -> dx [n][D], dz [K] or null, and the sums.
  void run(const float* x, const float* gate, const float* dy, const float* normed, const float* rstd, float* dx, float* dz) {
    row.take(s, w, x, gate);
    std::memset(dxT, 0, dxT.size() * 4);
    std::memset(dvT, 0, dvT.size() * 4);
    std::memset(dgate, 0, dgate.size() * 4);
    through_norm(dy, normed, rstd);
    for (int m = 0; m < s.M; ++m)
      for (int k = 0; k < s.Kp; k += W) through_attention(m, k);
    through_values();
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
        store(sums.scale + d * W, load(sums.scale + d * W) + g * value);
        store(sums.shift + d * W, load(sums.shift + d * W) + g);
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
        float* shared = sums.shared + d * s.Kp + k;
        if (s.residual == kTokens) store(dxT + d * s.np + k, g);
        if (s.residual == kShared) store(shared, load(shared) + g);
        if (s.residual == kGated) {
          store(shared, load(shared) + g * z);
          dz += g * load(w.sharedT + d * s.Kp + k);
        }
      }
      store(dgate + k, dz);
    }
  }

  // W inducing points of head m: doutT -> dvT, the scores' share of dxT, dgate and the sum of da.
  void through_attention(int m, int k) {
    const float* vT = row.vT + size_t(m) * s.D * s.np;
    const Vector inverse = row.attend(s, w, m, k);
    product<true, false>(dscore, W, vT, s.np, doutT + k, s.Kp, s.n, s.D);  // d attention
    Vector mean = {};
    for (int i = 0; i < s.n; ++i) {
      const Vector p = load(row.attention + i * W) * inverse;
      store(row.attention + i * W, p);
      mean += p * load(dscore + i * W);
    }
    for (int i = 0; i < s.n; ++i)
      store(dscore + i * W, load(row.attention + i * W) * (load(dscore + i * W) - mean));
    for (int i = s.n; i < s.np; ++i) {  // tokens that fill up the last vector count nothing
      store(row.attention + i * W, Vector{});
      store(dscore + i * W, Vector{});
    }
    product<true, false>(dga, W, row.x, s.D, dscore, W, s.D, s.n);
    const Vector z = load(row.gate + k);
    Vector dz = load(dgate + k);
    for (int d = 0; d < s.D; ++d) {
      const size_t place = (size_t(m) * s.D + d) * s.Kp + k;
      const Vector g = load(dga + d * W);
      store(sums.a + place, load(sums.a + place) + g * z);
      dz += g * load(w.aT + place);
    }
    store(dgate + k, dz);
    for (int i = 0; i < s.np; i += W) {
      transpose(row.attention + i * W, attentionT + i, s.np);
      transpose(dscore + i * W, dscoreT + i, s.np);
    }
    for (int i = 0; i < s.np; i += W) {
      product<false, true>(dvT + size_t(m) * s.D * s.np + i, s.np, doutT + k, s.Kp, attentionT + i, s.np, s.D, W);
      product<false, true>(dxT + i, s.np, row.ga, W, dscoreT + i, s.np, s.D, W);
    }
  }

  // Values of all heads: dvT -> their share of dxT, and the sum of du.
  void through_values() {
    const int MD = s.M * s.D;
    for (int i = 0; i < s.np; i += W) product<false, true>(dxT + i, s.np, w.u, MD, dvT + i, s.np, s.D, MD);
    for (int d = 0; d < s.D; ++d)
      for (int f = 0; f < MD; ++f) {
        float* place = sums.u + (size_t(d) * MD + f) * W;
        Vector total = load(place);
        for (int i = 0; i < s.np; i += W) total += load(row.xT + d * s.np + i) * load(dvT + f * s.np + i);
        store(place, total);
      }
  }

  const Sizes& s;
  const Weights& w;
  Sums& sums;
  Row row;
  Buffer doutT, dxT, dvT, dscore, attentionT, dscoreT, dga, dgate;
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
  Sizes s{int(sizes[1]), int(sizes[2]), int(sizes[3]), int(sizes[4]), int(sizes[5]), 0, 0};
  s.np = up(s.n);
  s.Kp = up(s.K);
  return s;
}

}  // namespace

extern "C" {

int funnelcast_lanes() { return W; }

// sizes: B, n, D, K, M, residual, threads. gate, shared, normed and rstd may be null.
void funnelcast_asrg_forward(const int64_t* sizes, const float* x, const float* gate, const float* a, const float* u,
                             const float* shared, const float* scale, const float* shift, float eps, float* y,
                             float* normed, float* rstd) {
  const Sizes s = make_sizes(sizes);
  const Weights w(s, a, u, shared, scale, shift, eps);
  in_parallel(sizes[0], int(sizes[6]), [&](int, int64_t begin, int64_t end) {
    forward_rows(s, w, x, gate, y, normed, rstd, begin, end);
  });
}

void funnelcast_asrg_backward(const int64_t* sizes, const float* x, const float* gate, const float* a, const float* u,
                              const float* shared, const float* scale, const float* normed, const float* rstd,
                              const float* dy, float* dx, float* dgate, float* da, float* du, float* dshared,
                              float* dscale, float* dshift) {
  const Sizes s = make_sizes(sizes);
  const Weights w(s, a, u, shared, scale, nullptr, 0.0f);
  const int threads = int(std::max<int64_t>(1, std::min(sizes[6], sizes[0])));
  std::vector<Sums*> sums;
  for (int t = 0; t < threads; ++t) sums.push_back(new Sums(s));
  in_parallel(sizes[0], threads, [&](int t, int64_t begin, int64_t end) {
    Backward backward(s, w, *sums[t]);
    for (int64_t b = begin; b < end; ++b)
      backward.run(x + b * s.n * s.D, gate ? gate + b * s.K : nullptr, dy + b * s.K * s.D, normed + b * s.D * s.Kp,
                   rstd + b * s.Kp, dx + b * s.n * s.D, dgate ? dgate + b * s.K : nullptr);
  });
  Sums& total = *sums[0];
  for (int t = 1; t < threads; ++t) total.add(*sums[t]);
  for (int d = 0; d < s.D; ++d) {
    for (int m = 0; m < s.M; ++m)
      std::memcpy(da + (size_t(d) * s.M + m) * s.K, total.a + (size_t(m) * s.D + d) * s.Kp, s.K * 4);
    for (int f = 0; f < s.M * s.D; ++f) du[d * s.M * s.D + f] = sum_lanes(total.u + (size_t(d) * s.M * s.D + f) * W);
    dscale[d] = sum_lanes(total.scale + d * W);
    dshift[d] = sum_lanes(total.shift + d * W);
    if (dshared)
      for (int k = 0; k < s.K; ++k) dshared[k * s.D + d] = total.shared[d * s.Kp + k];
  }
  for (Sums* part : sums) delete part;
}

}  // extern "C"
