// scores[q, b] = rate * K(q, b): the products by the device's library, everything else in kernels.
// FLOPs per block: 2 F D (G + B) for forward and backward pass, 2 (3 D + S) B Q, and for v . v' 2 F G per test pair, or
// where the halves of the image are told apart 2 C head_P H per test head and 2 C both_P G per test pair.
#include <type_traits>

#include "factors.h"
#include "launch.cuh"

namespace tracin::cuda {
namespace {
#include "warp.cuh"

#include "pair_scores.cuh"

// Operands of the products, T or bfloat16.
template <typename Operand>
struct Operands {
  const Operand *linear, *delta, *head_half_v, *middle_v;
};

// c [rows, n] = a b^T, of rows of k numbers, those of b `stride` apart.
template <typename Operand, typename T>
const T* dots_of(const Operand* a, int64_t rows, const Operand* b, int64_t n, int64_t k, int64_t stride, T* c,
                 Device& device) {
  device.multiply(row_major(a, rows, k), transposed(row_major(b, n, k, stride)), row_major(c, rows, n));
  return c;
}

// The dense products: linear terms into `scores` [Q, B], the rest as PairSide has them.
template <typename Operand, typename T>
void products(const Model<T>& m, const Tests<T>& tests, const Factors<T>& f, const Operands<Operand>& test,
              const Operand* linear, T* scores, PairSide<T>* side, Device& device) {
  const Samples& s = f.samples;
  const int64_t Q = tests.Q, D = m.D, P = m.middle.P;
  dots_of(test.linear, Q, linear, s.B, f.columns, f.columns, scores, device);
  if (!test.delta) return;
  side->dots = dots_of(test.delta, Q, linear, s.B, D, f.columns, device.array<T>(Q * s.B), device);
  const int64_t head = m.head_columns(), middle = m.middle_columns();
  T* gram = device.array<T>(tests.pairs * s.G);
  if (!m.head_positions) {
    const Operand* v = nullptr;
    if constexpr (std::is_same_v<Operand, T>)
      v = f.v;
    else
      v = narrowed(f.v, s.G * middle, device);
    side->gram = dots_of(test.middle_v, tests.pairs, v, s.G, middle, middle, gram, device);
    return;
  }
  if (middle) {
    const Operand* v = columns_of<Operand>(f.v, nullptr, s.G, m.C, P, m.both_positions, m.both_P, device);
    side->gram = dots_of(test.middle_v, tests.pairs, v, s.G, middle, middle, gram, device);
  }
  const Operand* v = columns_of<Operand>(f.v, s.head_pair, s.H, m.C, P, m.head_positions, m.head_P, device);
  side->head_gram =
      dots_of(test.head_half_v, tests.heads, v, s.H, head, head, device.array<T>(tests.heads * s.H), device);
}

}  // namespace

template <typename T>
void influence_block(const Model<T>& m, const Tests<T>& tests, const int64_t* triples, int64_t B, T rate, T* scores,
                     Device& device) {
  const Factors<T> f = compute_factors(m, tests.has_S, tests.c || tests.along_q, triples, B, device);
  PairSide<T> side = {f.w, f.z, f.cq, nullptr, nullptr, nullptr, m.relations};
  if (!tests.narrow_linear)
    products(m, tests, f, Operands<T>{tests.linear, tests.delta, tests.head_half_v, tests.middle_v}, f.linear, scores,
             &side, device);
  else if constexpr (std::is_same_v<T, float>)  // double has no narrow operands
    products(
        m, tests, f,
        Operands<uint16_t>{tests.narrow_linear, tests.narrow_delta, tests.narrow_head_half_v, tests.narrow_middle_v},
        narrowed(f.linear, B * f.columns, device), scores, &side, device);
  run("pair_scores", pair_scores_kernel<T>,
      launch("pair_scores", ceil_div(B, threads) * ceil_div(tests.Q, tests_a_block),
             tests_a_block * static_cast<int64_t>(sizeof(TestRow<T>))),
      device.stream(), m.D, tests, f.samples, side, rate, scores);
}

template void influence_block(const Model<float>&, const Tests<float>&, const int64_t*, int64_t, float, float*,
                              Device&);
template void influence_block(const Model<double>&, const Tests<double>&, const int64_t*, int64_t, double, double*,
                              Device&);

}  // namespace tracin::cuda
