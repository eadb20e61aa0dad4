// Sparse gradients of embedding tables: one sum a row, and the update of lazy Adam. funnelcast.native.rows says what it
// computes.

#include "common.h"

extern "C" {

// Give every distinct row of rows [n] a place in order of appearance: places [n], unique [<= n]; returns how many.
// `seen` holds one number a row of the table, -1 before and after.
int64_t funnelcast_unique_rows(int64_t n, const int64_t* rows, int32_t* seen, int32_t* places, int64_t* unique) {
  int64_t count = 0;
  for (int64_t i = 0; i < n; ++i) {
    int32_t& place = seen[rows[i]];
    if (place < 0) {
      place = int32_t(count);
      unique[count++] = rows[i];
    }
    places[i] = place;
  }
  for (int64_t i = 0; i < count; ++i) seen[unique[i]] = -1;
  return count;
}

// sums [count][D] = the sum of values [n][D] by place.
void funnelcast_sum_rows(int64_t n, int64_t count, int64_t D, const float* values, const int32_t* places, float* sums) {
  std::memset(sums, 0, size_t(count) * D * 4);
  for (int64_t i = 0; i < n; ++i) {
    float* const sum = sums + places[i] * D;
    const float* const value = values + i * D;
    for (int64_t d = 0; d < D; ++d) sum[d] += value[d];
  }
}

// Adam on the rows of a table: rows [n] distinct, gradient [n][D].
void funnelcast_lazy_adam(int64_t n, int64_t D, const int64_t* rows, const float* gradient, float* table, float* first,
                          float* second, double beta1, double beta2, float step_size, float root_scale, float eps,
                          float decay, int64_t threads) {
  const float gain1 = float(1.0 - beta1), keep2 = float(beta2), gain2 = float(1.0 - beta2);
  in_parallel(n, int(threads), [&](int, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (i + 8 < end) {
        const int64_t next = rows[i + 8] * D;
        __builtin_prefetch(table + next, 1);
        __builtin_prefetch(first + next, 1);
        __builtin_prefetch(second + next, 1);
      }
      float* const w = table + rows[i] * D;
      float* const m = first + rows[i] * D;
      float* const v = second + rows[i] * D;
      const float* const given = gradient + i * D;
      for (int64_t d = 0; d < D; ++d) {
        const float g = given[d] + decay * w[d];
        m[d] += gain1 * (g - m[d]);
        v[d] = keep2 * v[d] + gain2 * g * g;
        w[d] -= step_size * m[d] / (std::sqrt(v[d]) * root_scale + eps);
      }
    }
  });
}

// Bring rows [n], possibly repeated, of a table to step `present`. last [n_ids] is the step that each row has seen;
// sums [steps][4] hold for each such step the weights of the steps since, and the same times d, its square and its
// cube.
void funnelcast_catch_up(int64_t n, int64_t D, const int64_t* rows, int64_t present, int32_t* last, const double* sums,
                         double beta1, double beta2, float eps, float* table, float* first, float* second) {
  for (int64_t i = 0; i < n; ++i) {
    if (i + 8 < n) {
      const int64_t next = rows[i + 8];
      __builtin_prefetch(last + next, 1);
      __builtin_prefetch(table + next * D, 1);
      __builtin_prefetch(first + next * D, 1);
      __builtin_prefetch(second + next * D, 1);
    }
    const int64_t since = last[rows[i]];
    if (since >= present) continue;
    last[rows[i]] = int32_t(present);
    if (since == 0) continue;  // never had a gradient
    const double* const sum = sums + since * 4;
    const double mean = sum[1] / sum[0], variance = std::max(0.0, sum[2] / sum[0] - mean * mean);
    const double spread = std::max(1e-9, std::sqrt(variance)),
                 cube = sum[3] / sum[0] - mean * (3 * variance + mean * mean);
    const double skew = variance > 1e-12 ? cube / (spread * spread * spread) : 0.0;
    const double half = std::sqrt(skew * skew / 4 + 1), share = (skew / 2 + half) / (2 * half);
    const float low = float(mean + spread * (skew / 2 - half)), high = float(mean + spread * (skew / 2 + half));
    const float low_weight = float(sum[0] * share), high_weight = float(sum[0] * (1 - share));
    const float correction = float(1.0 / std::sqrt(1.0 - std::pow(beta2, double(since))));
    const float fade1 = float(std::pow(beta1, double(present - since)));
    const float fade2 = float(std::pow(beta2, double(present - since)));
    float* const w = table + rows[i] * D;
    float* const m = first + rows[i] * D;
    float* const v = second + rows[i] * D;
    for (int64_t d = 0; d < D; ++d) {
      const float root = std::sqrt(v[d]) * correction;
      w[d] -= m[d] * (low_weight / (root * low + eps) + high_weight / (root * high + eps));
      m[d] *= fade1;
      v[d] *= fade2;
    }
  }
}

}  // extern "C"
