// scores[b] = rate * K(b, b): the squared norm of each triple's gradient; no pairs. The image is taken whole, because
// the gradients at the embeddings are needed in full.
#include <algorithm>

#include "factors.h"

namespace tracin {
namespace {

template <typename T>
T self_score(const Model<T>& m, const Tracked<T>& on, const cpu::Block<T>& b, int64_t i) {
  const auto dot = cpu::loops<T>().dot;
  const int64_t D = m.D, slot = b.pair[i];
  const T *delta = b.rows.data() + i * b.width, *pixels = delta + D, *z = b.z.data() + slot * D;
  const T w = b.w.data()[i];
  T score = 0;
  if (on.fc) score += dot(delta, delta, D) * (b.squares.data()[slot] + T(on.fc_bias));
  if (on.bias) score += w * w;
  if (on.entity) {
    score += dot(pixels, pixels, D) + w * w * dot(z, z, D);
    if (b.heads[i] == b.tails[i]) score += 2 * w * dot(pixels, z, D);
  }
  if (on.relation) score += dot(pixels + D, pixels + D, D);
  return score;
}

// Adds the squares of a panel's rows to its lanes: e, e un, and S^T M S.
template <typename T>
void add_panel(const Model<T>& m, const Tracked<T>& on, const cpu::Block<T>& b, int64_t g, T rate, T* scores,
               const Products<T>& products) {
  thread_local cpu::Buffer<T> image;
  const int64_t D = m.D, S = m.statistics(), n = std::min(lanes, b.B - g * lanes);
  const T* panel = b.linear.data() + g * b.columns * lanes;
  const auto add = [&](const T* x, const T* y, int64_t rows) {
    for (int64_t d = 0; d < rows; ++d)
      for (int64_t i = 0; i < n; ++i) scores[i] += rate * x[d * lanes + i] * y[d * lanes + i];
  };
  if (on.bn2_bias) add(panel, panel, D);
  if (on.bn2_weight) add(panel + D * lanes, panel + D * lanes, D);
  if (!on.form) return;
  const T* statistics = panel + 2 * D * lanes;
  T* out = image.sized(cpu::padded(S, products.height) * lanes);
  products.multiply({on.form, S, S, products.height ? products.height : S}, 0, S, 0, S, statistics, 0, 1, lanes, false,
                    out, 0);
  add(statistics, out, S);
}

}  // namespace

template <typename T>
void self_influence_block(const Model<T>& m, const Tracked<T>& on, const int64_t* triples, int64_t B, T rate, T* scores,
                          const Products<T>& products, const Parallel& parallel) {
  thread_local cpu::Block<T> block;
  cpu::Block<T>& b = block;
  const cpu::Wanted<T> wanted = {nullptr, on.form != nullptr, on.entity || on.relation, on.fc};
  cpu::compute_factors(m, wanted, triples, B, products, parallel, b);
  parallel(cpu::panels(B), [&](int64_t g) {
    for (int64_t i = g * lanes; i < std::min(B, (g + 1) * lanes); ++i) scores[i] = rate * self_score(m, on, b, i);
    add_panel(m, on, b, g, rate, scores + g * lanes, products);
  });
}

template void self_influence_block(const Model<float>&, const Tracked<float>&, const int64_t*, int64_t, float, float*,
                                   const Products<float>&, const Parallel&);
template void self_influence_block(const Model<double>&, const Tracked<double>&, const int64_t*, int64_t, double,
                                   double*, const Products<double>&, const Parallel&);

}  // namespace tracin
