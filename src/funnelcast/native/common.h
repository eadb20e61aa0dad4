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

// c[r] (+)= sum_i a(i, r) * b[i] for R rows r, a vector wide. a(i, r) is a[i * stride + r] where Side, else a[r *
// stride + i].
template <int R, bool Side, bool Add>
inline void product_rows(float* c, int c_stride, const float* a, int a_stride, const float* b, int b_stride,
                         int count) {
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
inline void product(float* c, int c_stride, const float* a, int a_stride, const float* b, int b_stride, int rows,
                    int count) {
  const int blocks = (rows + 8) / 9;
  for (int block = 0, r = 0; block < blocks; ++block) {
    const int size = (rows - r + blocks - block - 1) / (blocks - block);
    const float* left = a + (Side ? r : r * a_stride);
    float* out = c + r * c_stride;
    switch (size) {
#define ROWS(R)                                                                    \
  case R:                                                                          \
    product_rows<R, Side, Add>(out, c_stride, left, a_stride, b, b_stride, count); \
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

#if defined(__clang__)
inline void transpose(const float* in, int in_stride, float* out, int out_stride) {
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
      row[i] = __builtin_shuffle(a, b, low);
      row[i + H] = __builtin_shuffle(a, b, high);
    }
}

// W x W numbers, with rows in_stride and out_stride apart.
inline void transpose(const float* in, int in_stride, float* out, int out_stride) {
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

// c[r][W] += sum_i a[i] * b[r][i], kept apart by lane, for vectors i and rows r.
template <int R>
inline void lane_dots(float* c, const float* a, const float* b, int b_stride, int size) {
  Vector sum[R];
  for (int r = 0; r < R; ++r) sum[r] = load(c + r * W);
  for (int i = 0; i < size; i += W) {
    const Vector left = load(a + i);
    for (int r = 0; r < R; ++r) sum[r] += left * load(b + r * b_stride + i);
  }
  for (int r = 0; r < R; ++r) store(c + r * W, sum[r]);
}

inline void lane_dots(float* c, const float* a, const float* b, int b_stride, int rows, int size) {
  int r = 0;
  for (; r + 6 <= rows; r += 6) lane_dots<6>(c + r * W, a, b + r * b_stride, b_stride, size);
  for (; r < rows; ++r) lane_dots<1>(c + r * W, a, b + r * b_stride, b_stride, size);
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

float sum_lanes(const float* p) {
  float total = 0.0f;
  for (int l = 0; l < W; ++l) total += p[l];
  return total;
}

}  // namespace
