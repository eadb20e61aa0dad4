// What readers find in given tokens, where no compiled layer computes them.

#include "pattern.h"

namespace {

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
    Buffer yT(size_t(s.D) * s.Kp);
    for (int64_t b = begin; b < end; ++b) {
      transpose(y + b * s.K * s.D, s.D, s.K, s.D, yT, s.Kp);
      read.attend(yT, a);
      read.means(yT, means + b * s.Q * s.D);
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
    Buffer yT(size_t(s.D) * s.Kp), dyT(size_t(s.D) * s.Kp);
    for (int64_t b = begin; b < end; ++b) {
      transpose(y + b * s.K * s.D, s.D, s.K, s.D, yT, s.Kp);
      std::memset(dyT, 0, dyT.size() * 4);
      parts[t]->run(yT, a, dmeans + b * s.Q * s.D, dyT);
      transpose(dyT, s.Kp, s.D, s.K, dy + b * s.K * s.D, s.D);
    }
  });
  for (int t = 1; t < threads; ++t) parts[0]->add(*parts[t]);
  parts[0]->gradient(da);
}

}  // extern "C"
