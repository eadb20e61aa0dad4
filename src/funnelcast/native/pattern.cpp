// What the Pattern Selectors read from a layer's tokens, forward and backward: funnelcast.native.pattern says what it
// computes.
//
// Legend: B rows, K tokens, D width, Q queries (steps times heads), W lanes. "T" ends the name of a transposed array.

#include "common.h"

namespace {

struct Shape {
  int K, D, Q, Kp;  // Kp: K, rounded up to whole vectors
};

// The attention of one row.
struct Read {
  const Shape& s;
  Buffer yT, attention;  // [D][Kp], [Q][Kp], 0 behind K

  explicit Read(const Shape& s) : s(s), yT(size_t(s.D) * s.Kp), attention(size_t(s.Q) * s.Kp) {}

  // attention [Q][Kp] = softmax over tokens of y a, with a [D][Q].
  void attend(const float* y, const float* a) {
    transpose(y, s.D, s.K, s.D, yT, s.Kp);
    for (int k = 0; k < s.Kp; k += W) product<true, false>(attention + k, s.Kp, a, s.Q, yT + k, s.Kp, s.Q, s.D);
    for (int q = 0; q < s.Q; ++q) {
      float* const p = attention + size_t(q) * s.Kp;
      for (int k = s.K; k < s.Kp; ++k) p[k] = p[0];  // neither the largest nor, below, a part of the sum
      const float top = max_lanes(p, s.Kp);
      Vector total = {};
      for (int k = 0; k < s.Kp; k += W) {
        const Vector power = power_of_two((load(p + k) - top) * 1.44269504088896341f);
        store(p + k, power);
        total += power;
      }
      float sum = 0.0f;
      for (int l = 0; l < W; ++l) sum += total[l];
      for (int k = s.K; k < s.Kp; ++k) {
        sum -= p[k];
        p[k] = 0.0f;
      }
      const float inverse = 1.0f / sum;
      for (int k = 0; k < s.Kp; k += W) store(p + k, load(p + k) * inverse);
    }
  }

  static float max_lanes(const float* p, int size) {
    Vector top = load(p);
    for (int k = W; k < size; k += W) top = largest(top, load(p + k));
    float found = top[0];
    for (int l = 1; l < W; ++l) found = std::max(found, top[l]);
    return found;
  }
};

class ReadBackward {
 public:
  explicit ReadBackward(const Shape& s)
      : sum_a(s.D * dots_size(s.Q)), s(s), read(s), dscore(size_t(s.Q) * s.Kp), dyT(size_t(s.D) * s.Kp) {}

  // dmeans [Q][D] -> dy [K][D] and the sum of da.
  void run(const float* y, const float* a, const float* dmeans, float* dy) {
    read.attend(y, a);
    for (int k = 0; k < s.Kp; k += W) product<false, false>(dscore + k, s.Kp, dmeans, s.D, read.yT + k, s.Kp, s.Q, s.D);
    for (int q = 0; q < s.Q; ++q) {
      const float* const p = read.attention + size_t(q) * s.Kp;
      float* const slopes = dscore + size_t(q) * s.Kp;
      Vector total = {};
      for (int k = 0; k < s.Kp; k += W) total += load(p + k) * load(slopes + k);
      float mean = 0.0f;
      for (int l = 0; l < W; ++l) mean += total[l];
      for (int k = 0; k < s.Kp; k += W) store(slopes + k, load(p + k) * (load(slopes + k) - mean));
    }
    for (int k = 0; k < s.Kp; k += W) {
      product<true, false>(dyT + k, s.Kp, dmeans, s.D, read.attention + k, s.Kp, s.D, s.Q);
      product<false, true>(dyT + k, s.Kp, a, s.Q, dscore + k, s.Kp, s.D, s.Q);
    }
    for (int d = 0; d < s.D; ++d) lane_dots(sum_a + d * dots_size(s.Q), read.yT + d * s.Kp, dscore, s.Kp, s.Q, s.Kp);
    transpose(dyT, s.Kp, s.D, s.K, dy, s.D);
  }

  Buffer sum_a;  // [D] of lane_dots

 private:
  const Shape& s;
  Read read;
  Buffer dscore, dyT;
};

Shape make_shape(const int64_t* sizes) {
  const int K = int(sizes[1]);
  return Shape{K, int(sizes[2]), int(sizes[3]), up(K)};
}

}  // namespace

extern "C" {

// sizes: B, K, D, Q, threads.
void funnelcast_pattern_forward(const int64_t* sizes, const float* y, const float* a, float* means) {
  const Shape s = make_shape(sizes);
  in_parallel(sizes[0], int(sizes[4]), [&](int, int64_t begin, int64_t end) {
    Read read(s);
    // Whole vectors along D read beyond a token, and at the last token beyond the row: hence a copy with room behind
    // it.
    const int Dp = up(s.D);
    Buffer row(size_t(s.K) * s.D + W), found(size_t(s.Q) * Dp);
    for (int64_t b = begin; b < end; ++b) {
      std::memcpy(row, y + b * s.K * s.D, size_t(s.K) * s.D * 4);
      read.attend(row, a);
      for (int d = 0; d < s.D; d += W)
        product<false, false>(found + d, Dp, read.attention, s.Kp, row + d, s.D, s.Q, s.K);
      for (int q = 0; q < s.Q; ++q) std::memcpy(means + (b * s.Q + q) * s.D, found + q * Dp, s.D * 4);
    }
  });
}

void funnelcast_pattern_backward(const int64_t* sizes, const float* y, const float* a, const float* dmeans, float* dy,
                                 float* da) {
  const Shape s = make_shape(sizes);
  const int threads = int(std::max<int64_t>(1, std::min(sizes[4], sizes[0])));
  std::vector<std::unique_ptr<ReadBackward>> parts;
  for (int t = 0; t < threads; ++t) parts.push_back(std::make_unique<ReadBackward>(s));
  in_parallel(sizes[0], threads, [&](int t, int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b)
      parts[t]->run(y + b * s.K * s.D, a, dmeans + b * s.Q * s.D, dy + b * s.K * s.D);
  });
  for (int d = 0; d < s.D; ++d)
    for (int q = 0; q < s.Q; ++q) {
      da[d * s.Q + q] = 0.0f;
      for (const auto& part : parts) da[d * s.Q + q] += sum_of(part->sum_a + d * dots_size(s.Q) + q * kParts, kParts);
    }
}

}  // extern "C"
