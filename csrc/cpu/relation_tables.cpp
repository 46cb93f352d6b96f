// What the relation's half of the image gives, once per relation: u, v, and J = dS/d delta. Cost per relation:
// 2 F' D for u and 2 F' (J + 1) D for the Jacobian, F' the features of the half.
#include <algorithm>

#include "factors.h"

namespace tracin {

template <typename T>
void relation_tables(const Model<T>& m, T* u, T* v, T* jacobians, const Products<T>& products,
                     const Parallel& parallel) {
  const int64_t together = std::max<int64_t>(1, lanes / (m.J + 1)), D = m.D, F = m.C * m.tail.P;
  const int64_t size = cpu::round_up(m.statistics(), lanes) * D;
  parallel((m.relations + together - 1) / together, [&](int64_t item) {
    thread_local cpu::Buffer<T> image, panel, out;
    thread_local cpu::Buffer<cpu::Word<T>> mask;
    const auto& loop = cpu::loops<T>();
    const int64_t first = item * together, n = std::min(together, m.relations - first);
    int64_t ids[lanes] = {};
    T *rows[lanes] = {}, *tables[lanes] = {};
    for (int64_t i = 0; i < n; ++i) {
      ids[i] = first + i;
      rows[i] = u + (first + i) * D;
      tables[i] = jacobians ? jacobians + (first + i) * size : nullptr;
    }
    const int64_t no_heads[lanes] = {};
    loop.gather_images(m, m.tail, no_heads, ids, n, image.sized(m.tail.X * lanes));
    for (int64_t c0 = 0; c0 < m.C; c0 += m.tail.step) {
      const int64_t c1 = std::min(m.C, c0 + m.tail.step), k = (c1 - c0) * m.tail.P;
      T* features = panel.sized(m.tail.step * m.tail.P * lanes);
      loop.convolve(m, m.tail, image.data(), cpu::active_lanes(n), c0, c1, features,
                    mask.sized(m.C * cpu::mask_words(m.tail.P) * lanes));
      products.multiply(cpu::chunk_operand(m.tail, m.tail.forward, D, c0, c1, products.height), 0, D, 0, k, features, 0,
                        1, cpu::active_lanes(n), c0 > 0, out.sized(cpu::padded(D, products.height) * lanes), 0);
      for (int64_t f = 0; f < k; ++f)
        for (int64_t i = 0; i < n; ++i) v[(first + i) * F + c0 * m.tail.P + f] = features[f * lanes + i];
    }
    loop.to_rows(out.data(), D, n, false, rows);
    if (jacobians) cpu::half_jacobians(m, m.tail, no_heads, ids, n, products, tables);
  });
}

template void relation_tables(const Model<float>&, float*, float*, float*, const Products<float>&, const Parallel&);
template void relation_tables(const Model<double>&, double*, double*, double*, const Products<double>&,
                              const Parallel&);

}  // namespace tracin
