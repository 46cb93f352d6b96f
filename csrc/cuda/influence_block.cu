// scores[q, b] = rate * K(q, b): the products by the device's library, everything else in kernels.
// FLOPs per block: 2 F D (G + B) for forward and backward pass, 2 F G per test pair, 2 (3 D + S) B Q.
#include <type_traits>

#include "factors.h"
#include "launch.cuh"

namespace tracin::cuda {
namespace {
#include "warp.cuh"

#include "pair_scores.cuh"

// The dense products: linear terms into `scores` [Q, B]; dots [Q, B] and gram [test pairs, G], unless null.
template <typename T, typename Operand>
void products(const Tests<T>& tests, const Samples& samples, int64_t D, int64_t F, int64_t columns,
              const Operand* test_linear, const Operand* test_delta, const Operand* test_v, const Operand* linear,
              const Operand* v, T* scores, T* dots, T* gram, Device& device) {
  const int64_t Q = tests.Q, B = samples.B, G = samples.G;
  const auto all = row_major(linear, B, columns), e = row_major(linear, B, D, columns);
  device.multiply(transposed(row_major(test_linear, columns, Q)), transposed(all), row_major(scores, Q, B));
  if (!dots) return;
  device.multiply(transposed(row_major(test_delta, D, Q)), transposed(e), row_major(dots, Q, B));
  device.multiply(transposed(row_major(test_v, F, tests.pairs)), transposed(row_major(v, G, F)),
                  row_major(gram, tests.pairs, G));
}

}  // namespace

template <typename T>
void influence_block(const Model<T>& m, const Tests<T>& tests, const int64_t* triples, int64_t B, T rate, T* scores,
                     Device& device) {
  const Factors<T> f = compute_factors(m, tests.has_S, tests.along_c || tests.along_q, triples, B, device);
  const int64_t D = m.D, F = m.C * m.middle.P, G = f.samples.G, columns = f.columns;
  T* dots = tests.delta ? device.array<T>(tests.Q * B) : nullptr;
  T* gram = tests.delta ? device.array<T>(tests.pairs * G) : nullptr;
  const auto multiply = [&](auto* test_linear, auto* test_delta, auto* test_v, auto* linear, auto* v) {
    products(tests, f.samples, D, F, columns, test_linear, test_delta, test_v, linear, v, scores, dots, gram, device);
  };
  if (!tests.narrow_linear)
    multiply(tests.linear, tests.delta, tests.middle_v, f.linear, f.v);
  else if constexpr (std::is_same_v<T, float>)  // double has no narrow operands
    multiply(tests.narrow_linear, tests.narrow_delta, tests.narrow_middle_v, narrowed(f.linear, B * columns, device),
             dots ? narrowed(f.v, G * F, device) : nullptr);
  const PairSide<T> side = {f.w, f.z, f.cq, dots, gram};
  run("pair_scores", pair_scores_kernel<T>,
      launch("pair_scores", ceil_div(B, threads) * ceil_div(tests.Q, tests_at_once)), device.stream(), D, tests,
      f.samples, side, rate, scores);
}

template void influence_block(const Model<float>&, const Tests<float>&, const int64_t*, int64_t, float, float*,
                              Device&);
template void influence_block(const Model<double>&, const Tests<double>&, const int64_t*, int64_t, double, double*,
                              Device&);

}  // namespace tracin::cuda
