// What the kernels share: vectors, small products and transpositions in registers, and rows split over threads.
//
// Written in the vector extensions of GCC and Clang, without intrinsics and without torch's headers, so that one source
// serves every machine and compiles in seconds. W is the number of lanes of a vector.

#pragma once

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
#if defined(__AVX512DQ__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int W = 16;
#elif defined(__AVX__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif

// For small loops of known size, which the compiler's own estimate keeps as calls.
#define INLINE inline __attribute__((always_inline))

typedef float Vector __attribute__((vector_size(W * 4)));
typedef float Unaligned __attribute__((vector_size(W * 4), aligned(4), may_alias));
typedef int32_t Bits __attribute__((vector_size(W * 4)));

inline Vector load(const float* p) { return *reinterpret_cast<const Unaligned*>(p); }
inline void store(float* p, Vector v) { *reinterpret_cast<Unaligned*>(p) = v; }
inline Vector set(float x) { return x - Vector{}; }
inline Vector largest(Vector a, Vector b) { return a > b ? a : b; }
// Lanes of a, by their number, or of b, by W more.
inline Vector pick(Vector a, Vector b, Bits from) {
#if defined(__clang__)
  Vector picked;
  for (int l = 0; l < W; ++l) picked[l] = from[l] < W ? a[from[l]] : b[from[l] - W];
  return picked;
#else
  return __builtin_shuffle(a, b, from);
#endif
}
inline float largest_lane(Vector v) {
  for (int step = W / 2; step > 0; step /= 2) {
    Bits other;
    for (int l = 0; l < W; ++l) other[l] = l ^ step;
    v = largest(v, pick(v, v, other));
  }
  return v[0];
}
inline float sum_lanes(Vector v) {
  for (int step = W / 2; step > 0; step /= 2) {
    Bits other;
    for (int l = 0; l < W; ++l) other[l] = l ^ step;
    v += pick(v, v, other);
  }
  return v[0];
}
inline int up(int n) { return (n + W - 1) / W * W; }

// 2^x to 3e-7 of its value for -126 <= x < 128; what lies below counts as -126 or comes out as 0.
#if defined(__AVX512DQ__)
inline Vector power_of_two(Vector x) {
  const Vector r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF);  // x less its floor
  Vector p = r * 1.87757669e-3f + 8.98933969e-3f;
  p = p * r + 5.58263175e-2f;
  p = p * r + 2.40153611e-1f;
  p = p * r + 6.93153083e-1f;
  p = p * r + 9.99999940e-1f;
  return _mm512_scalef_ps(p, x);
}
#else
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
#endif

// log2(x) to 3e-7 for x > 0.
inline Vector log2_of(Vector x) {
  const Bits exponent = ((Bits)x - 0x3f3504f3) >> 23;  // of x over sqrt(1/2), so that the rest lies around 1
  const Vector rest = (Vector)((Bits)x - (exponent << 23));
  const Vector t = (rest - 1.0f) / (rest + 1.0f), square = t * t;
  Vector p = square * 0.320598898f + 0.412198584f;
  p = p * square + 0.577078016f;
  p = p * square + 0.961796694f;
  p = p * square + 2.88539008f;
  return __builtin_convertvector(exponent, Vector) + p * t;
}

// 1 / sqrt(x), rounded as the machine's root and division round.
inline Vector inverse_root(Vector x) {
  float root[W];
  store(root, x);
  for (int l = 0; l < W; ++l) root[l] = std::sqrt(root[l]);
  return 1.0f / load(root);
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

// finish(r, start(r) + sum_i a(i, r) * b[i]) for R rows r, a vector wide. a(i, r) is a[i * stride + r] where Side, else
// a[r * stride + i].
template <int R, bool Side, typename Start, typename Finish>
INLINE void weighted_sums_of(int first, const float* a, int a_stride, const float* b, int b_stride, int count,
                             Start start, Finish finish) {
  a += Side ? first : first * a_stride;
  Vector sum[R];
  for (int r = 0; r < R; ++r) sum[r] = start(first + r);
  for (int i = 0; i < count; ++i) {
    const Vector right = load(b + i * b_stride);
    for (int r = 0; r < R; ++r) sum[r] += (Side ? a[i * a_stride + r] : a[r * a_stride + i]) * right;
  }
  for (int r = 0; r < R; ++r) finish(first + r, sum[r]);
}

// The same for any number of rows, in blocks of nearly equal size: at most 9 sums, so that 16 registers hold them.
template <bool Side, typename Start, typename Finish>
inline void weighted_sums(const float* a, int a_stride, const float* b, int b_stride, int rows, int count, Start start,
                          Finish finish) {
  const int blocks = (rows + 8) / 9;
  for (int block = 0, r = 0; block < blocks; ++block) {
    const int size = (rows - r + blocks - block - 1) / (blocks - block);
    switch (size) {
#define ROWS(R)                                                                   \
  case R:                                                                         \
    weighted_sums_of<R, Side>(r, a, a_stride, b, b_stride, count, start, finish); \
    break
      ROWS(1);
      ROWS(2);
      ROWS(3);
      ROWS(4);
      ROWS(5);
      ROWS(6);
      ROWS(7);
      ROWS(8);
      ROWS(9);
#undef ROWS
    }
    r += size;
  }
}

// c[r] (+)= sum_i a(i, r) * b[i].
template <bool Side, bool Add>
inline void product(float* c, int c_stride, const float* a, int a_stride, const float* b, int b_stride, int rows,
                    int count) {
  weighted_sums<Side>(
      a, a_stride, b, b_stride, rows, count, [=](int r) { return Add ? load(c + r * c_stride) : Vector{}; },
      [=](int r, Vector sum) { store(c + r * c_stride, sum); });
}

#if defined(__clang__)
INLINE void transpose(const float* in, int in_stride, float* out, int out_stride) {
  for (int i = 0; i < W; ++i)
    for (int j = 0; j < W; ++j) out[j * out_stride + i] = in[i * in_stride + j];
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
      row[i] = pick(a, b, low);
      row[i + H] = pick(a, b, high);
    }
}

// W x W numbers, with rows in_stride and out_stride apart.
INLINE void transpose(const float* in, int in_stride, float* out, int out_stride) {
  Vector row[W];
  for (int i = 0; i < W; ++i) row[i] = load(in + i * in_stride);
  swap_blocks<1>(row);
  swap_blocks<2>(row);
  if constexpr (W > 4) swap_blocks<4>(row);
  if constexpr (W > 8) swap_blocks<8>(row);
  for (int i = 0; i < W; ++i) store(out + i * out_stride, row[i]);
}
#endif

// in [rows][columns] -> out [columns][rows] of any size, whole blocks in registers and the edges one by one.
inline void transpose(const float* in, int in_stride, int rows, int columns, float* out, int out_stride) {
  const int whole_rows = rows / W * W, whole_columns = columns / W * W;
  for (int i = 0; i < whole_rows; i += W)
    for (int j = 0; j < whole_columns; j += W)
      transpose(in + i * in_stride + j, in_stride, out + j * out_stride + i, out_stride);
  for (int i = 0; i < rows; ++i)
    for (int j = i < whole_rows ? whole_columns : 0; j < columns; ++j) out[j * out_stride + i] = in[i * in_stride + j];
}

// Add up the halves of every part of so many lanes: in each pair of parts, first a's sum, then b's.
template <int Part>
inline Vector add_halves(Vector a, Vector b) {
  Bits low, high;
  for (int l = 0; l < W; ++l) {
    low[l] = (l % (W / 2)) / (Part / 2) * Part + l % (Part / 2) + (l < W / 2 ? 0 : W);
    high[l] = low[l] + Part / 2;
  }
  return pick(a, b, low) + pick(a, b, high);
}

// Four vectors' sums by lane in one, a quarter of the lanes for each.
inline Vector fold(Vector a, Vector b, Vector c, Vector d) {
  return add_halves<W / 2>(add_halves<W>(a, b), add_halves<W>(c, d));
}

// Lanes in which a sum of lane_dots is kept apart.
constexpr int kParts = W / 4;
// Numbers that lane_dots wants for so many rows.
inline size_t dots_size(int rows) { return size_t(rows + 3) / 4 * W; }

// c[r][kParts] += sum_i a[i] * b[r][i], for vectors i and rows r.
template <int R>
INLINE void lane_dots(float* c, const float* a, const float* b, int b_stride, int size) {
  constexpr int padded = (R + 3) / 4 * 4;
  Vector sum[padded];
  for (int r = 0; r < padded; ++r) sum[r] = Vector{};
  for (int i = 0; i < size; i += W) {
    const Vector left = load(a + i);
    for (int r = 0; r < R; ++r) sum[r] += left * load(b + r * b_stride + i);
  }
  for (int r = 0; r < padded; r += 4)
    store(c + r * kParts, load(c + r * kParts) + fold(sum[r], sum[r + 1], sum[r + 2], sum[r + 3]));
}

inline void lane_dots(float* c, const float* a, const float* b, int b_stride, int rows, int size) {
  int r = 0;
  for (; r + 8 <= rows; r += 8) lane_dots<8>(c + r * kParts, a, b + r * b_stride, b_stride, size);
  for (; r + 4 <= rows; r += 4) lane_dots<4>(c + r * kParts, a, b + r * b_stride, b_stride, size);
  if (rows - r == 3) lane_dots<3>(c + r * kParts, a, b + r * b_stride, b_stride, size);
  if (rows - r == 2) lane_dots<2>(c + r * kParts, a, b + r * b_stride, b_stride, size);
  if (rows - r == 1) lane_dots<1>(c + r * kParts, a, b + r * b_stride, b_stride, size);
}

// Fetch what the next row reads or writes.
template <int Write>
inline void prefetch(const float* p, size_t size) {
  for (size_t i = 0; i < size; i += 16) __builtin_prefetch(p + i, Write, 2);
}

// Split rows over threads in equal parts, always the same ones, so that sums do not depend on timing.
template <typename Work>
void in_parallel(int64_t rows, int threads, Work work) {
  const int used = int(std::max<int64_t>(1, std::min<int64_t>(threads, rows)));
  std::vector<std::thread> others;
  for (int t = 1; t < used; ++t) others.emplace_back(work, t, rows * t / used, rows * (t + 1) / used);
  work(0, int64_t(0), rows / used);
  for (auto& other : others) other.join();
}

inline float sum_of(const float* p, int count) {
  float total = 0.0f;
  for (int i = 0; i < count; ++i) total += p[i];
  return total;
}

}  // namespace
