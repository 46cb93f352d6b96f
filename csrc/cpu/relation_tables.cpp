// What the relation's half of the image gives, once per relation: u, v, and J = dS/d delta. Cost per relation:
// 2 F' D for u and 2 F' (J + 1) D for the Jacobian, F' the features of the half.
#include <algorithm>

#include "passes.h"

namespace tracin {
namespace {

// Relations first .. first + n, at most one panel.
template <typename T>
void tables_of(const Model<T>& m, int64_t first, int64_t n, T* u, T* v, T* jacobians, const Products<T>& products) {
  const Segment<T>& s = m.relation_half;
  const int64_t D = m.D, F = m.C * s.P, size = round_up(m.size_S(), lanes) * D;
  const int64_t no_heads[lanes] = {};
  int64_t ids[lanes] = {};
  for (int64_t i = 0; i < n; ++i) ids[i] = first + i;
  const cpu::Pass<T> pass = {m, s, products, no_heads, ids, n};
  cpu::Scratch<T>& space = cpu::scratch<T>();
  const cpu::Panels<T> image = pass.images(), panel = cpu::panels_in(space.v, s.step * s.P, n);
  const cpu::Panels<T> sum = cpu::panels_in(space.u, D, n, products.padded(D));
  cpu::Word<T>* mask = space.mask.sized(cpu::mask_size(m, s));
  for (int64_t c0 = 0; c0 < m.C; c0 += s.step) {
    const int64_t c1 = std::min(m.C, c0 + s.step), k = (c1 - c0) * s.P;
    cpu::loops<T>().convolve(m, s, image.data, panel.active(0), c0, c1, panel.data, mask);
    cpu::multiply(products, cpu::chunk_operand(products, s, s.forward, D, c0, c1), panel, c0 > 0, sum);
    for (int64_t f = 0; f < k; ++f)
      for (int64_t i = 0; i < n; ++i) v[(first + i) * F + c0 * s.P + f] = panel.data[f * lanes + i];
  }
  sum.scatter([&](int64_t i) { return u + (first + i) * D; });
  if (!jacobians) return;
  T* tables[lanes] = {};
  for (int64_t i = 0; i < n; ++i) tables[i] = jacobians + (first + i) * size;
  cpu::half_jacobians(pass, tables);
}

}  // namespace

template <typename T>
void relation_tables(const Model<T>& m, T* u, T* v, T* jacobians, const Products<T>& products,
                     const Parallel& parallel) {
  const int64_t together = std::max<int64_t>(1, lanes / (m.J + 1));
  parallel((m.relations + together - 1) / together, [&](int64_t item) {
    const int64_t first = item * together;
    tables_of(m, first, std::min(together, m.relations - first), u, v, jacobians, products);
  });
}

template void relation_tables(const Model<float>&, float*, float*, float*, const Products<float>&, const Parallel&);
template void relation_tables(const Model<double>&, double*, double*, double*, const Products<double>&,
                              const Parallel&);

}  // namespace tracin
