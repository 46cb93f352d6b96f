// scores[b] += rate * K(b, b): the squared norm of each triple's gradient; no pairs.
#include <algorithm>

#include "tile.h"

namespace tracin {
namespace {

template <typename T>
struct Workspace {
  cpu::Tile<T> tile;
  cpu::Buffer<T> squares, image;  // |v|^2 [pair_lanes]; M S [S][lanes]
};

template <typename T>
T self_score(const Model<T>& m, const Tracked<T>& on, const cpu::Tile<T>& t, int64_t i, T v_squared) {
  const auto dot = cpu::loops<T>().dot;
  const int64_t D = m.D, g = t.group.data()[i];
  const T* error = t.error.data() + i * D;
  const T* normalised = t.normalised.data() + i * D;
  const T* z = t.z.data() + g * D;
  const T w = t.w.data()[i];
  T score = 0;
  if (on.fc) {
    T delta = 0;
    for (int64_t d = 0; d < D; ++d) delta += error[d] * m.delta_scale[d] * error[d] * m.delta_scale[d];
    score += delta * (v_squared + T(on.fc_bias));
  }
  if (on.bn2_bias) score += dot(error, error, D);
  if (on.bn2_weight) score += dot(normalised, normalised, D);
  if (on.bias) score += w * w;
  if (on.entity) {
    const T* c = t.pixel_rows.data() + 2 * i * D;
    score += dot(c, c, D) + w * w * dot(z, z, D);
    if (t.sample_heads.data()[i] == t.tails.data()[i]) score += 2 * w * dot(c, z, D);
  }
  if (on.relation) {
    const T* q = t.pixel_rows.data() + (2 * i + 1) * D;
    score += dot(q, q, D);
  }
  return score;
}

template <typename T>
void self_influence_tile(const Model<T>& m, const Tracked<T>& on, const int64_t* triples, int64_t n, T rate, T* scores,
                         Product<T> product, Workspace<T>& space) {
  cpu::Tile<T>& t = space.tile;
  compute_tile(m, triples, n, on.form != nullptr, on.entity || on.relation, product, t);
  T* squares = space.squares.sized(t.pair_lanes);
  std::fill(squares, squares + t.pair_lanes, T(0));
  for (int64_t f = 0; on.fc && f < m.features(); ++f) {
    const T* row = t.v.data() + f * t.pair_lanes;
    for (int64_t g = 0; g < t.G; ++g) squares[g] += row[g] * row[g];
  }
  for (int64_t i = 0; i < n; ++i) scores[i] += rate * self_score(m, on, t, i, squares[t.group.data()[i]]);
  if (!on.form) return;
  const int64_t S = m.statistics();
  const T* statistics = t.linear.data() + 2 * m.D * t.lanes;
  T* image = space.image.sized(S * t.lanes);
  product(on.form, statistics, image, S, t.lanes, S);
  for (int64_t s = 0; s < S; ++s)
    for (int64_t i = 0; i < n; ++i) scores[i] += rate * statistics[s * t.lanes + i] * image[s * t.lanes + i];
}

}  // namespace

template <typename T>
void self_influence_block(const Model<T>& m, const Tracked<T>& on, const int64_t* triples, int64_t B, T rate,
                          T* scores, int64_t tile, Product<T> product, const Parallel& parallel) {
  parallel((B + tile - 1) / tile, [&](int64_t i) {
    thread_local Workspace<T> space;
    const int64_t start = i * tile;
    self_influence_tile(m, on, triples + 3 * start, std::min(tile, B - start), rate, scores + start, product, space);
  });
}

template void self_influence_block(const Model<float>&, const Tracked<float>&, const int64_t*, int64_t, float, float*,
                                   int64_t, Product<float>, const Parallel&);
template void self_influence_block(const Model<double>&, const Tracked<double>&, const int64_t*, int64_t, double,
                                   double*, int64_t, Product<double>, const Parallel&);

}  // namespace tracin
