// scores[b] = rate * K(b, b): the squared norm of each triple's gradient; no pairs.
#include <algorithm>

#include "factors.h"
#include "operands.h"

namespace tracin {
namespace {

template <typename T>
T self_score(const Model<T>& m, const Tracked<T>& on, const cpu::Block<T>& b, int64_t i) {
  const auto dot = cpu::loops<T>().dot;
  const int64_t D = m.D, slot = b.pair[i];
  const T *delta = b.delta(i), *z = b.z.data() + slot * D;
  const T w = b.w.data()[i];
  T score = 0;
  if (on.fc) score += dot(delta, delta, D) * (b.squares.data()[slot] + T(on.fc_bias));
  if (on.bias) score += w * w;
  if (on.entity) {
    score += dot(b.c(i), b.c(i), D) + w * w * dot(z, z, D);
    if (b.heads[i] == b.tails[i]) score += 2 * w * dot(b.c(i), z, D);
  }
  if (on.relation) score += dot(b.q(i), b.q(i), D);
  return score;
}

// Adds the squares of a panel's rows to its samples' scores: e, e un, and S^T M S.
template <typename T>
void add_panel(const Model<T>& m, const Tracked<T>& on, const cpu::Block<T>& b, cpu::Range r, T rate, T* scores,
               const Products<T>& products) {
  thread_local cpu::Buffer<T> buffer;
  const auto add = [&](const cpu::Panels<T>& x, const cpu::Panels<T>& y) {
    for (int64_t d = 0; d < x.rows; ++d)
      for (int64_t i = 0; i < r.n; ++i) scores[i] += rate * x.data[d * lanes + i] * y.data[d * lanes + i];
  };
  const cpu::Panels<T> e = b.e(r), e_un = b.e_un(r), S = b.S(r);
  if (on.bn2_bias) add(e, e);
  if (on.bn2_weight) add(e_un, e_un);
  if (!on.M) return;
  const int64_t size_S = m.size_S();
  const cpu::Panels<T> MS = cpu::panels_in(buffer, size_S, r.n, products.padded(size_S));
  cpu::multiply(products, products.operand(on.M, size_S, size_S), S, false, MS);
  add(S, MS);
}

}  // namespace

template <typename T>
void self_influence_block(const Model<T>& m, const Tracked<T>& on, const int64_t* triples, int64_t B, T rate, T* scores,
                          const Products<T>& products, const Parallel& parallel) {
  thread_local cpu::Block<T> block;
  cpu::Block<T>& b = block;
  const bool image = on.entity || on.relation;
  const cpu::Wanted<T> wanted = {nullptr, on.M != nullptr, image, on.fc, image, &on.halves};
  cpu::compute_factors(m, wanted, triples, B, products, parallel, b);
  parallel(cpu::panels(B), [&](int64_t g) {
    const cpu::Range r = {g * lanes, std::min(lanes, B - g * lanes)};
    for (int64_t i = r.first; i < r.first + r.n; ++i) scores[i] = rate * self_score(m, on, b, i);
    add_panel(m, on, b, r, rate, scores + r.first, products);
  });
}

template void self_influence_block(const Model<float>&, const Tracked<float>&, const int64_t*, int64_t, float, float*,
                                   const Products<float>&, const Parallel&);
template void self_influence_block(const Model<double>&, const Tracked<double>&, const int64_t*, int64_t, double,
                                   double*, const Products<double>&, const Parallel&);

}  // namespace tracin
