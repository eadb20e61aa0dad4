// What readers, the Pattern Selectors, find in a row's tokens, forward and backward: funnelcast.native.pattern says
// what that is.
//
// Legend: B rows, K tokens, D width, Q queries (steps times heads), W lanes. "T" ends the name of a transposed array.

#pragma once

#include "common.h"

namespace {

struct Shape {
  int K, D, Q, Kp;  // Kp: K, rounded up to whole vectors
};

// The attention of one row.
struct Read {
  const Shape& s;
  Buffer attention, parts;  // [Q][Kp], 0 behind K; of lane_dots

  explicit Read(const Shape& s) : s(s), attention(size_t(s.Q) * s.Kp), parts(dots_size(s.D)) {}

  // attention [Q][Kp] = softmax over tokens of y a, with yT [D][Kp] and a [D][Q].
  void attend(const float* yT, const float* a) {
    for (int k = 0; k < s.Kp; k += W) product<true, false>(attention + k, s.Kp, a, s.Q, yT + k, s.Kp, s.Q, s.D);
    for (int q = 0; q < s.Q; ++q) {
      float* const p = attention + size_t(q) * s.Kp;
      for (int k = s.K; k < s.Kp; ++k) p[k] = p[0];  // not the largest
      Vector top = load(p), total = {};
      for (int k = W; k < s.Kp; k += W) top = largest(top, load(p + k));
      const float shift = largest_lane(top);
      for (int k = 0; k < s.Kp; k += W) store(p + k, power_of_two((load(p + k) - shift) * 1.44269504088896341f));
      for (int k = s.K; k < s.Kp; ++k) p[k] = 0.0f;
      for (int k = 0; k < s.Kp; k += W) total += load(p + k);
      const float inverse = 1.0f / sum_lanes(total);
      for (int k = 0; k < s.Kp; k += W) store(p + k, load(p + k) * inverse);
    }
  }

  // found [Q][D] = sum over tokens of attention times y.
  void means(const float* yT, float* found) const {
    for (int q = 0; q < s.Q; ++q) {
      std::memset(parts, 0, parts.size() * 4);
      lane_dots(parts, attention + size_t(q) * s.Kp, yT, s.Kp, s.D, s.Kp);
      for (int d = 0; d < s.D; ++d) found[q * s.D + d] = sum_of(parts + d * kParts, kParts);
    }
  }
};

class ReadBackward {
 public:
  explicit ReadBackward(const Shape& s) : s(s), read(s), dscore(size_t(s.Q) * s.Kp), sum_a(s.Q * dots_size(s.D)) {}

  // dmeans [Q][D] -> its share of dyT [D][Kp], added, and the sum of da.
  void run(const float* yT, const float* a, const float* dmeans, float* dyT) {
    read.attend(yT, a);
    for (int k = 0; k < s.Kp; k += W) product<false, false>(dscore + k, s.Kp, dmeans, s.D, yT + k, s.Kp, s.Q, s.D);
    for (int q = 0; q < s.Q; ++q) {
      const float* const p = read.attention + size_t(q) * s.Kp;
      float* const slopes = dscore + size_t(q) * s.Kp;
      Vector total = {};
      for (int k = 0; k < s.Kp; k += W) total += load(p + k) * load(slopes + k);
      const float mean = sum_lanes(total);
      for (int k = 0; k < s.Kp; k += W) store(slopes + k, load(p + k) * (load(slopes + k) - mean));
    }
    for (int k = 0; k < s.Kp; k += W) {
      product<true, true>(dyT + k, s.Kp, dmeans, s.D, read.attention + k, s.Kp, s.D, s.Q);
      product<false, true>(dyT + k, s.Kp, a, s.Q, dscore + k, s.Kp, s.D, s.Q);
    }
    for (int q = 0; q < s.Q; ++q) lane_dots(sum_a + q * dots_size(s.D), dscore + size_t(q) * s.Kp, yT, s.Kp, s.D, s.Kp);
  }

  void add(const ReadBackward& other) {
    for (size_t i = 0; i < sum_a.size(); ++i) sum_a[i] += other.sum_a[i];
  }

  // da [D][Q], of all rows that were run.
  void gradient(float* da) const {
    for (int q = 0; q < s.Q; ++q)
      for (int d = 0; d < s.D; ++d) da[d * s.Q + q] = sum_of(sum_a + q * dots_size(s.D) + d * kParts, kParts);
  }

 private:
  const Shape& s;
  Read read;
  Buffer dscore, sum_a;  // [Q][Kp]; [Q] of lane_dots
};

}  // namespace
