// scores[q, b] += rate * K(q, b), K as in the README's "How it works":
//
//   K = (delta . delta')(v . v' + 1) + e . e' + (e un) . (e' un') + S^T M S'          dense: products over a tile
//     + [r = r'] q . q' + [h = h'] c . c' + [h = t'] c . w'z'                         sparse: joins on ids
//     + [t = t'] w w' (z . z' + 1) + [t = h'] w z . c'
//
// Cost per triple: 2 F D per distinct pair, 2 F D per triple, 2 F G / Q per distinct pair and test, 2 (3 D + S) per test.
#include <algorithm>
#include <vector>

#include "tile.h"

namespace tracin {
namespace {

using cpu::Tile;

constexpr int64_t test_rows = 256;  // tests multiplied at a time: their scores for one tile stay in cache

// (id, sample) sorted by id, to find the samples that share an id with a test.
using Index = std::vector<std::pair<int64_t, int32_t>>;

void index_by(const int64_t* ids, int64_t n, Index& index) {
  index.resize(n);
  for (int64_t i = 0; i < n; ++i) index[i] = {ids[i], static_cast<int32_t>(i)};
  std::sort(index.begin(), index.end());
}

template <typename Visit>
void matching(const Index& index, int64_t id, const Visit& visit) {
  for (auto it = std::lower_bound(index.begin(), index.end(), std::pair<int64_t, int32_t>{id, 0});
       it != index.end() && it->first == id; ++it)
    visit(it->second);
}

template <typename T>
struct Joins {
  Index heads, relations, tails;

  void build(const Tile<T>& t) {
    index_by(t.sample_heads.data(), t.n, heads);
    index_by(t.sample_relations.data(), t.n, relations);
    index_by(t.tails.data(), t.n, tails);
  }

  // Adds the terms of test q that need a coinciding id.
  void add(const Model<T>& m, const Tests<T>& tests, const Tile<T>& t, int64_t q, T rate, T* scores) const {
    const auto dot = cpu::loops<T>().dot;
    const int64_t D = m.D, head = tests.triples[3 * q], relation = tests.triples[3 * q + 1],
                  tail = tests.triples[3 * q + 2];
    const T* pixels = t.pixel_rows.data();
    const auto z = [&](int32_t i) { return t.z.data() + t.group.data()[i] * D; };
    const T* w = t.w.data();
    if (tests.relation)
      matching(relations, relation, [&](int32_t i) {
        scores[i] += rate * dot(pixels + (2 * i + 1) * D, tests.relation + q * D, D);
      });
    if (tests.head) {
      matching(heads, head, [&](int32_t i) { scores[i] += rate * dot(pixels + 2 * i * D, tests.head + q * D, D); });
      matching(heads, tail, [&](int32_t i) { scores[i] += rate * dot(pixels + 2 * i * D, tests.pull + q * D, D); });
      matching(tails, tail, [&](int32_t i) { scores[i] += rate * w[i] * dot(z(i), tests.pull + q * D, D); });
      matching(tails, head, [&](int32_t i) { scores[i] += rate * w[i] * dot(z(i), tests.head + q * D, D); });
    }
    if (tests.residual) matching(tails, tail, [&](int32_t i) { scores[i] += rate * w[i] * tests.residual[q]; });
  }
};

template <typename T>
struct Workspace {
  Tile<T> tile;
  Joins<T> joins;
  cpu::Buffer<T> gram, dots, linear;
};

template <typename T>
void influence_tile(const Model<T>& m, const Tests<T>& tests, const int64_t* triples, int64_t n, T rate, T* scores,
                    int64_t stride, Product<T> product, Workspace<T>& space) {
  const auto& loop = cpu::loops<T>();
  const int64_t D = m.D, columns = 2 * D + m.statistics();
  Tile<T>& t = space.tile;
  compute_tile(m, triples, n, tests.statistics, tests.head || tests.relation, product, t);
  space.joins.build(t);
  const int64_t lanes = t.lanes;
  T* gram = nullptr;
  if (tests.features) {
    gram = space.gram.sized(tests.G * t.pair_lanes);
    product(tests.features, t.v.data(), gram, tests.G, t.pair_lanes, m.features());
  }
  T* dots = tests.delta ? space.dots.sized(test_rows * lanes) : nullptr;
  T* linear = space.linear.sized(test_rows * lanes);
  const int64_t width = tests.statistics ? columns : 2 * D;
  for (int64_t q0 = 0; q0 < tests.Q; q0 += test_rows) {
    const int64_t rows = std::min(test_rows, tests.Q - q0);
    if (dots) product(tests.delta + q0 * D, t.linear.data(), dots, rows, lanes, D);
    product(tests.linear + q0 * width, t.linear.data(), linear, rows, lanes, width);
    for (int64_t q = q0; q < q0 + rows; ++q) {
      T* row = scores + q * stride;
      loop.combine(dots ? dots + (q - q0) * lanes : nullptr, gram ? gram + tests.group[q] * t.pair_lanes : nullptr,
                   t.group.data(), linear + (q - q0) * lanes, n, rate, tests.fc_bias, row);
      space.joins.add(m, tests, t, q, rate, row);
    }
  }
}

}  // namespace

template <typename T>
void influence_block(const Model<T>& m, const Tests<T>& tests, const int64_t* triples, int64_t B, T rate, T* scores,
                     int64_t tile, Product<T> product, const Parallel& parallel) {
  parallel((B + tile - 1) / tile, [&](int64_t i) {
    thread_local Workspace<T> space;
    const int64_t start = i * tile;
    influence_tile(m, tests, triples + 3 * start, std::min(tile, B - start), rate, scores + start, B, product, space);
  });
}

template void influence_block(const Model<float>&, const Tests<float>&, const int64_t*, int64_t, float, float*,
                              int64_t, Product<float>, const Parallel&);
template void influence_block(const Model<double>&, const Tests<double>&, const int64_t*, int64_t, double, double*,
                              int64_t, Product<double>, const Parallel&);

}  // namespace tracin
