// The factors of a block of triples, kept by row, and the norms of their gradients' parts. No pairs.
#include <algorithm>
#include <cmath>
#include <limits>

#include "factors.h"
#include "operands.h"

namespace tracin {
namespace {

using cpu::Block;
using cpu::Panels;
using cpu::Range;

// scale^2 a . b, summed in double.
template <typename T>
double inner(const T* a, const T* b, int64_t n, double scale = 1) {
  constexpr int64_t width = 8;
  double sums[width] = {};
  int64_t i = 0;
  for (; i + width <= n; i += width)
    for (int64_t l = 0; l < width; ++l) sums[l] += (scale * a[i + l]) * (scale * b[i + l]);
  for (; i < n; ++i) sums[0] += (scale * a[i]) * (scale * b[i]);
  double sum = 0;
  for (const double part : sums) sum += part;
  return sum;
}

// A sample's gradient is a multiple of its w: norms are those of gradient / |w|, whose squares neither vanish nor
// overflow where a score saturates the loss, times |w|.
constexpr double least_w = 1e-300;

template <typename T>
T root_rounded_up(double square, double w) {
  const double root = std::sqrt(square) * w * (1 + 4 * static_cast<double>(std::numeric_limits<T>::epsilon()));
  const T rounded = static_cast<T>(root);
  return rounded > 0 || !(root > 0) ? rounded : std::numeric_limits<T>::denorm_min();
}

template <typename T>
struct Scratch {
  cpu::Buffer<T> MS, rows;
};

// Squared norms of the parts of sample i over w^2, but for that of S.
template <typename T>
void squares_of(const Model<T>& m, const Tracked<T>& on, const Block<T>& b, const Factors<T>& to, int64_t pair,
                int64_t i, double w, double* squares) {
  const int64_t D = m.D;
  const T *z = to.z + pair * D, *un = to.un + pair * D, *entity = m.entity + b.tails[i] * D, *delta = b.delta(i);
  const double own = b.w.data()[i] / w, scale = 1 / w;  // own: -1, or 0
  double e = 0, e_un = 0;
  for (int64_t d = 0; d < D; ++d) {
    const double value = passes(z[d]) ? own * entity[d] : 0;
    e += value * value;
    e_un += value * un[d] * value * un[d];
  }
  const double v = b.squares.data()[b.pair[i]];
  squares[part_fc] = on.fc ? inner(delta, delta, D, scale) * (v + on.fc_bias) : 0;
  squares[part_e] = on.bn2_bias ? e : 0;
  squares[part_e_un] = on.bn2_weight ? e_un : 0;
  squares[part_relation] = on.relation ? inner(b.q(i), b.q(i), D, scale) : 0;
  squares[part_head] = on.entity ? inner(b.c(i), b.c(i), D, scale) : 0;
  squares[part_tail] = on.entity ? own * own * inner(z, z, D) : 0;
  squares[part_bias] = on.bias ? own * own : 0;
}

// Rows of a panel's samples.
template <typename T>
void keep_panel(const Model<T>& m, const Tracked<T>& on, const Block<T>& b, Range r, int64_t first, double S_slack,
                const Factors<T>& to, const Products<T>& products) {
  thread_local Scratch<T> space;
  const int64_t D = m.D, size_S = m.size_S();
  const T* MS = nullptr;
  if (on.M) {
    const Panels<T> S = b.S(r), product = cpu::panels_in(space.MS, size_S, r.n, products.padded(size_S));
    cpu::multiply(products, products.operand(on.M, size_S, size_S), S, false, product);
    S.scatter([&](int64_t i) { return to.S + (first + r.first + i) * size_S; });
    T* rows = space.rows.sized(r.n * size_S);
    product.scatter([&](int64_t i) { return rows + i * size_S; });
    MS = rows;
  }
  for (int64_t i = r.first; i < r.first + r.n; ++i) {
    const int64_t row = first + i;
    const double w = std::fmax(std::fabs(static_cast<double>(b.w.data()[i])), least_w);
    double squares[norm_parts] = {};
    squares_of(m, on, b, to, to.pair[row], i, w, squares);
    if (MS) {
      const T* S = to.S + row * size_S;
      squares[part_S] =
          std::max(0.0, inner(S, MS + (i - r.first) * size_S, size_S, 1 / w)) + S_slack * inner(S, S, size_S, 1 / w);
    }
    for (int64_t p = 0; p < norm_parts; ++p) to.norms[row * norm_parts + p] = root_rounded_up<T>(squares[p], w);
    to.w[row] = b.w.data()[i];
    if (to.c) std::copy_n(b.c(i), D, to.c + row * D);
    if (to.q) std::copy_n(b.q(i), D, to.q + row * D);
  }
}

}  // namespace

template <typename T>
void factor_block(const Model<T>& m, const Tracked<T>& on, int64_t first, int64_t B, double S_slack,
                  const Factors<T>& to, const Products<T>& products, const Parallel& parallel) {
  thread_local Block<T> block;
  Block<T>& b = block;
  const bool image = on.entity || on.relation;
  const cpu::Kept<T> kept = {to, to.pair + first};
  const cpu::Wanted<T> wanted = {nullptr, on.M != nullptr, image, true, image, &on.halves, &kept};
  cpu::compute_factors(m, wanted, to.triples + 3 * first, B, products, parallel, b);
  parallel(cpu::panels(B), [&](int64_t g) {
    keep_panel(m, on, b, {g * lanes, std::min(lanes, B - g * lanes)}, first, S_slack, to, products);
  });
}

template void factor_block(const Model<float>&, const Tracked<float>&, int64_t, int64_t, double, const Factors<float>&,
                           const Products<float>&, const Parallel&);
template void factor_block(const Model<double>&, const Tracked<double>&, int64_t, int64_t, double,
                           const Factors<double>&, const Products<double>&, const Parallel&);

}  // namespace tracin
