// scores[q, b] = rate * K(q, b), K as in the README's "How it works":
//
//   K = (delta . delta')(v . v' + 1) + e . e' + (e un) . (e' un') + S^T M S'          dense: products
//     + [r = r'] q . q' + [h = h'] c . c' + [h = t'] c . w'z'                         sparse: joins on ids
//     + [t = t'] w w' (z . z' + 1) + [t = h'] w z . c'
//
// FLOPs per triple: 2 F D forward (less what heads and relations share), 2 F D backward (less the halves that come from
// Jacobians), 2 F per distinct pair and test for v . v' (less the halves), 2 (3 D + S) per test.
#include <algorithm>
#include <utility>
#include <vector>

#include "factors.h"

namespace tracin {
namespace {

using cpu::Block;
using cpu::padded;
using cpu::panels;

constexpr int64_t test_rows = 96;    // tests multiplied at a time, a multiple of the operands' height
constexpr int64_t group_panels = 8;  // panels of samples that meet them

// (id, sample) sorted by id, to find the samples that share an id with a test.
using Index = std::vector<std::pair<int64_t, int32_t>>;

void index_by(const std::vector<int64_t>& ids, Index& index) {
  index.resize(ids.size());
  for (std::size_t i = 0; i < ids.size(); ++i) index[i] = {ids[i], static_cast<int32_t>(i)};
  std::sort(index.begin(), index.end());
}

template <typename Visit>
void matching(const Index& index, int64_t id, const Visit& visit) {
  for (auto it = std::lower_bound(index.begin(), index.end(), std::pair<int64_t, int32_t>{id, 0});
       it != index.end() && it->first == id; ++it)
    visit(it->second);
}

struct Joins {
  Index heads, relations, tails;

  template <typename T>
  void build(const Block<T>& b, const Parallel& parallel) {
    parallel(3, [&](int64_t i) {
      index_by(i == 0 ? b.heads : i == 1 ? b.relations : b.tails, i == 0 ? heads : i == 1 ? relations : tails);
    });
  }

  // Adds the terms of test q that need a coinciding id.
  template <typename T>
  void add(const Model<T>& m, const Tests<T>& tests, const Block<T>& b, int64_t q, T rate, T* scores) const {
    const auto dot = cpu::loops<T>().dot;
    const int64_t D = m.D, head = tests.triples[3 * q], relation = tests.triples[3 * q + 1],
                  tail = tests.triples[3 * q + 2];
    const T *rows = b.rows.data(), *w = b.w.data();
    const auto through_image = [&](const Index& index, int64_t id, const T* test) {
      matching(index, id, [&](int32_t i) { scores[i] += rate * dot(rows + i * b.width, test + q * b.width, b.width); });
    };
    const auto through_tail = [&](int64_t id, const T* test) {
      matching(tails, id,
               [&](int32_t i) { scores[i] += rate * w[i] * dot(b.z.data() + b.pair[i] * D, test + q * D, D); });
    };
    if (tests.same_relation) through_image(relations, relation, tests.same_relation);
    if (tests.same_head) {
      through_image(heads, head, tests.same_head);
      through_image(heads, tail, tests.head_is_tail);
      through_tail(tail, tests.pull);
      through_tail(head, tests.head);
    }
    if (tests.residual) matching(tails, tail, [&](int32_t i) { scores[i] += rate * w[i] * tests.residual[q]; });
  }
};

template <typename T>
struct Workspace {
  Block<T> block;
  cpu::Buffer<uint16_t> narrow;  // [panels(B)][used columns, even][32]
  Joins joins;
};

template <typename T>
struct Scratch {
  cpu::Buffer<T> dots, linear;
};

// Dense terms of tests q0 .. q0 + rows with panels g0 .. g1 of samples.
template <typename T>
void dense_terms(const Model<T>& m, const Tests<T>& tests, const Block<T>& b, const uint16_t* narrow, int64_t q0,
                 int64_t rows, int64_t g0, int64_t g1, T rate, T* scores, const Products<T>& products) {
  thread_local Scratch<T> space;
  const auto& loop = cpu::loops<T>();
  const int64_t height = products.height ? products.height : tests.Q,
                stride = padded(test_rows, products.height) * lanes;
  const int64_t used = tests.statistics ? b.columns : 2 * m.D, panel = b.columns * lanes;
  const int64_t active = g1 * lanes < b.B ? lanes : cpu::active_lanes(b.B);
  const T* x = b.linear.data() + g0 * panel;
  T* linear = space.linear.sized(group_panels * stride);
  T* dots = tests.delta ? space.dots.sized(group_panels * stride) : nullptr;
  if (narrow) {
    const int64_t narrow_panel = cpu::round_up(used, 2) * lanes;
    const auto multiply = [&](const uint16_t* a, int64_t k, T* out) {
      cpu::narrow_multiply(products, {a, tests.Q, cpu::round_up(k, 2), height}, q0, rows, narrow + g0 * narrow_panel,
                           narrow_panel, g1 - g0, active, false, out, stride);
    };
    multiply(tests.narrow_linear, used, linear);
    if (dots) multiply(tests.narrow_delta, m.D, dots);
  } else {
    products.multiply({tests.linear, tests.Q, used, height}, q0, rows, 0, used, x, panel, g1 - g0, active, false,
                      linear, stride);
    if (dots)
      products.multiply({tests.delta, tests.Q, m.D, height}, q0, rows, 0, m.D, x, panel, g1 - g0, active, false, dots,
                        stride);
  }
  const int64_t gram_rows = padded(tests.pairs, products.height);
  for (int64_t q = q0; q < q0 + rows; ++q)
    for (int64_t g = g0; g < g1; ++g) {
      const int64_t first = g * lanes, at = (g - g0) * stride + (q - q0) * lanes, tile = first / cpu::tile;
      const T* gram =
          dots ? b.gram.data() + (tile * gram_rows + tests.pair[q]) * cpu::tile - tile * cpu::tile : nullptr;
      loop.combine(dots ? dots + at : nullptr, gram, b.pair.data() + first, linear + at, std::min(lanes, b.B - first),
                   rate, tests.fc_bias, scores + q * b.B + first);
    }
}

}  // namespace

template <typename T>
void influence_block(const Model<T>& m, const Tests<T>& tests, const int64_t* triples, int64_t B, T rate, T* scores,
                     const Products<T>& products, const Parallel& parallel) {
  thread_local Workspace<T> space;  // of the calling thread: blocks follow one another
  Block<T>& b = space.block;
  Joins& joins = space.joins;
  const cpu::Gram<T> gram = {tests.pairs,         tests.heads,         tests.relations,       tests.pair_head,
                             tests.pair_relation, tests.head_features, tests.middle_features, tests.tail_gram,
                             tests.narrow_head,   tests.narrow_middle};
  const cpu::Wanted<T> wanted = {tests.delta ? &gram : nullptr, tests.statistics,
                                 tests.same_head != nullptr || tests.same_relation != nullptr, false};
  cpu::compute_factors(m, wanted, triples, B, products, parallel, b);
  uint16_t* narrow = nullptr;
  if (tests.narrow_linear) {
    const int64_t used = tests.statistics ? b.columns : 2 * m.D, size = cpu::round_up(used, 2) * lanes;
    narrow = space.narrow.sized(panels(B) * size);
    parallel(panels(B), [&](int64_t g) {
      cpu::narrow_panels(products, b.linear.data() + g * b.columns * lanes, 0, used, 1, narrow + g * size);
    });
  }
  const int64_t chunks = (tests.Q + test_rows - 1) / test_rows, groups = (panels(B) + group_panels - 1) / group_panels;
  parallel(chunks * groups, [&](int64_t i) {
    const int64_t q0 = i / groups * test_rows, g0 = i % groups * group_panels;
    dense_terms(m, tests, b, narrow, q0, std::min(test_rows, tests.Q - q0), g0, std::min(panels(B), g0 + group_panels),
                rate, scores, products);
  });
  joins.build(b, parallel);
  parallel(chunks, [&](int64_t i) {
    for (int64_t q = i * test_rows; q < std::min(tests.Q, (i + 1) * test_rows); ++q)
      joins.add(m, tests, b, q, rate, scores + q * B);
  });
}

template void influence_block(const Model<float>&, const Tests<float>&, const int64_t*, int64_t, float, float*,
                              const Products<float>&, const Parallel&);
template void influence_block(const Model<double>&, const Tests<double>&, const int64_t*, int64_t, double, double*,
                              const Products<double>&, const Parallel&);

}  // namespace tracin
