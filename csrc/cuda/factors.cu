#include <type_traits>
#include <vector>

#include "factors.h"
#include "launch.cuh"

namespace tracin::cuda {
namespace {
#include "warp.cuh"

#include "features.cuh"
#include "gradients.cuh"
#include "hidden.cuh"
#include "loss.cuh"
#include "narrow.cuh"
#include "taps.cuh"

Samples index_samples(const int64_t* triples, int64_t B, Device& device) {
  std::vector<int32_t> ids(8 * B);
  int32_t *head = ids.data(), *relation = head + B, *tail = relation + B, *pair = tail + B, *pair_head = pair + B,
          *pair_relation = pair_head + B, *head_row = pair_relation + B, *head_pair = head_row + B;
  int64_t G = 0, H = 0;
  for (int64_t i = 0; i < B; ++i) {
    head[i] = static_cast<int32_t>(triples[3 * i]);
    relation[i] = static_cast<int32_t>(triples[3 * i + 1]);
    tail[i] = static_cast<int32_t>(triples[3 * i + 2]);
    if (!i || head[i] != head[i - 1]) head_pair[H++] = static_cast<int32_t>(G);
    if (!i || head[i] != head[i - 1] || relation[i] != relation[i - 1]) {
      pair_head[G] = head[i];
      head_row[G] = static_cast<int32_t>(H - 1);
      pair_relation[G++] = relation[i];
    }
    pair[i] = static_cast<int32_t>(G - 1);
  }
  const int32_t* at = device.upload(ids.data(), 8 * B);
  return {B, G, H, at, at + B, at + 2 * B, at + 3 * B, at + 4 * B, at + 5 * B, at + 6 * B, at + 7 * B};
}

// The array given, or a new one of n numbers.
template <typename T>
T* array_or(T* given, int64_t n, Device& device) {
  return given ? given : device.array<T>(n);
}

// y [B, F] = delta W.
template <typename T>
void backward_product(const Segment<T>& s, const T* delta, int64_t B, int64_t D, int64_t F, T* y, Device& device) {
  if constexpr (std::is_same_v<T, float>)
    if (s.narrow_backward) {
      device.multiply(row_major(narrowed(delta, B * D, device), B, D), row_major(s.narrow_backward, D, F),
                      row_major(y, B, F));
      return;
    }
  device.multiply(row_major(delta, B, D), row_major(s.backward, D, F), row_major(y, B, F));
}

}  // namespace

template <typename T>
Taps index_taps(const Segment<T>& s, int64_t J, Device& device) {
  auto *by_tap = device.array<int32_t>(s.P * J), *first = device.array<int32_t>(s.X + 1),
       *entries = device.array<int32_t>(s.P * J);
  run("taps", taps_kernel<T>, launch_warps("taps", s.X), device.stream(), s, J, by_tap, first, entries);
  return {by_tap, first, entries};
}

template <typename T>
void features(const Model<T>& m, const Segment<T>& s, const int32_t* by_tap, const int32_t* pair_head,
              const int32_t* pair_relation, int64_t G, T* v, Device& device) {
  run("features", features_kernel<T>, launch("features", G, s.X * static_cast<int64_t>(sizeof(T))), device.stream(), m,
      s, by_tap, pair_head, pair_relation, v);
}

const uint16_t* narrowed(const float* x, int64_t n, Device& device) {
  auto* out = device.array<uint16_t>(n);
  run("narrow", narrow_kernel, launch_threads("narrow", n), device.stream(), x, n, out);
  return out;
}

template <typename To, typename T>
const To* columns_of(const T* v, const int32_t* rows, int64_t n, int64_t C, int64_t P, const int32_t* positions,
                     int64_t count, Device& device) {
  auto* out = device.array<To>(n * C * count);
  if (count)
    run("columns", columns_kernel<To, T>, launch("columns", n), device.stream(), v, rows, C, P, positions, count, out);
  return out;
}

template <typename T>
Factors<T> compute_factors(const Model<T>& m, bool has_S, bool has_cq, const int64_t* triples, int64_t B,
                           Device& device, const FactorArrays<T>& into) {
  const Segment<T>& s = m.middle;
  const int64_t D = m.D, F = m.C * s.P, columns = 2 * D + (has_S ? m.size_S() : 0);
  const Samples samples = index_samples(triples, B, device);
  const int64_t G = samples.G;
  const Taps taps = index_taps(s, m.J, device);

  T* v = array_or(into.v, G * F, device);
  features(m, s, taps.by_tap, samples.pair_head, samples.pair_relation, G, v, device);
  T *u = device.array<T>(G * D), *z = array_or(into.z, G * D, device);
  device.multiply(row_major<const T>(v, G, F), row_major(s.forward, F, D), row_major(u, G, D));
  run("hidden", hidden_kernel<T>, launch("hidden", G, warps * (sizeof(double) + sizeof(unsigned))), device.stream(), m,
      samples.pair_head, samples.pair_relation, u, z);

  T *w = array_or(into.w, B, device), *linear = array_or(into.linear, B * columns, device),
    *delta = array_or(into.delta, B * D, device);
  run("loss", loss_kernel<T>, launch_warps("loss", B), device.stream(), m, samples, u, z, columns, w, linear, delta);
  Factors<T> factors = {samples, columns, v, z, w, linear, delta, nullptr};
  if (!has_S && !has_cq) return factors;

  T* y = device.array<T>(B * F);
  backward_product<T>(s, delta, B, D, F, y, device);
  if (has_S)
    run("statistics", statistics_kernel<T>, launch("statistics", B, s.X * static_cast<int64_t>(sizeof(T))),
        device.stream(), m, s, samples, taps.by_tap, v, y, columns, linear);
  if (has_cq) {
    T *t = device.array<T>(B * s.P * m.J), *cq = array_or(into.cq, B * s.X, device);
    run("tap_gradients", tap_gradients_kernel<T>, launch_threads("tap_gradients", B * s.P), device.stream(), m, s,
        samples, v, y, t);
    run("pixel_gradients", pixel_gradients_kernel<T>, launch_threads("pixel_gradients", B * s.X), device.stream(), s,
        m.J, B, taps.first, taps.entries, t, cq);
    factors.cq = cq;
  }
  return factors;
}

template <typename T>
void sample_factors(const Model<T>& m, const int64_t* triples, int64_t B, bool has_S, const FactorArrays<T>& out,
                    Device& device) {
  compute_factors(m, has_S, out.cq != nullptr, triples, B, device, out);
}

template Taps index_taps(const Segment<float>&, int64_t, Device&);
template Taps index_taps(const Segment<double>&, int64_t, Device&);
template void features(const Model<float>&, const Segment<float>&, const int32_t*, const int32_t*, const int32_t*,
                       int64_t, float*, Device&);
template void features(const Model<double>&, const Segment<double>&, const int32_t*, const int32_t*, const int32_t*,
                       int64_t, double*, Device&);
template Factors<float> compute_factors(const Model<float>&, bool, bool, const int64_t*, int64_t, Device&,
                                        const FactorArrays<float>&);
template Factors<double> compute_factors(const Model<double>&, bool, bool, const int64_t*, int64_t, Device&,
                                         const FactorArrays<double>&);
template void sample_factors(const Model<float>&, const int64_t*, int64_t, bool, const FactorArrays<float>&, Device&);
template void sample_factors(const Model<double>&, const int64_t*, int64_t, bool, const FactorArrays<double>&, Device&);
template const float* columns_of(const float*, const int32_t*, int64_t, int64_t, int64_t, const int32_t*, int64_t,
                                 Device&);
template const double* columns_of(const double*, const int32_t*, int64_t, int64_t, int64_t, const int32_t*, int64_t,
                                  Device&);
template const uint16_t* columns_of(const float*, const int32_t*, int64_t, int64_t, int64_t, const int32_t*, int64_t,
                                    Device&);

}  // namespace tracin::cuda
