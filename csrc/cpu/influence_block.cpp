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
#include "operands.h"

namespace tracin {
namespace {

using cpu::Block;
using cpu::Panels;
using cpu::Range;

constexpr int64_t tests_at_once = 96;  // that meet a tile of samples, a multiple of the operands' height

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
    const T* w = b.w.data();
    const auto through_image = [&](const Index& index, int64_t id, const T* test) {
      matching(index, id, [&](int32_t i) { scores[i] += rate * dot(b.delta(i), test + q * b.width, b.width); });
    };
    const auto through_tail = [&](int64_t id, const T* test) {
      matching(tails, id,
               [&](int32_t i) { scores[i] += rate * w[i] * dot(b.z.data() + b.pair[i] * D, test + q * D, D); });
    };
    if (tests.along_q) through_image(relations, relation, tests.along_q);
    if (tests.along_c) {
      through_image(heads, head, tests.along_c);
      through_image(heads, tail, tests.along_wz);
      through_tail(tail, tests.wz);
      through_tail(head, tests.c);
    }
    if (tests.w) matching(tails, tail, [&](int32_t i) { scores[i] += rate * w[i] * tests.w[q]; });
  }
};

template <typename T>
struct Workspace {
  Block<T> block;
  cpu::Buffer<uint16_t> narrow;  // of what the tests' linear is multiplied by
  Joins joins;
};

template <typename T>
struct Scratch {
  cpu::Buffer<T> dots, linear;
};

// Dense terms of tests q0 .. q0 + n with a tile of samples. `linear`: e, e un, S if the tests have it; `narrow`: the
// same in bfloat16, unless its data is null.
template <typename T>
void dense_terms(const Tests<T>& tests, const Block<T>& b, const Panels<T>& linear, const Panels<uint16_t>& narrow,
                 int64_t q0, int64_t n, int64_t tile, T rate, T* scores, const Products<T>& products) {
  thread_local Scratch<T> space;
  const auto& loop = cpu::loops<T>();
  const Range samples = b.tile(tile);
  const int64_t high = products.padded(tests_at_once), gram_rows = products.padded(tests.pairs);
  const Panels<T> sums = cpu::panels_in(space.linear, n, samples.n, high);
  const Panels<T> dots = tests.delta ? cpu::panels_in(space.dots, n, samples.n, high) : Panels<T>{};
  const auto multiply = [&](const T* a, const uint16_t* narrow_a, int64_t k, const Panels<T>& out) {
    if (narrow.data)
      cpu::multiply_narrow(products, cpu::narrow_operand(narrow_a, tests.Q, k), q0, n, narrow.of(samples), false, out);
    else
      cpu::multiply(products, products.operand(a, tests.Q, k), q0, n, linear.of(samples), false, out);
  };
  multiply(tests.linear, tests.narrow_linear, linear.rows, sums);
  if (dots.data) multiply(tests.delta, tests.narrow_delta, b.D, dots);
  const T* gram =
      dots.data ? b.gram.data() + tile * gram_rows * cpu::tile_samples - samples.first : nullptr;  // by slot
  for (int64_t q = q0; q < q0 + n; ++q)
    for (int64_t g = 0; g < sums.count(); ++g) {
      const int64_t first = samples.first + g * lanes, row = (q - q0) * lanes;
      loop.combine(gram ? dots.panel(g) + row : nullptr, gram ? gram + tests.pair[q] * cpu::tile_samples : nullptr,
                   b.pair.data() + first, sums.panel(g) + row, sums.used(g), rate, tests.fc_bias,
                   scores + q * b.B + first);
    }
}

}  // namespace

template <typename T>
void influence_block(const Model<T>& m, const Tests<T>& tests, const int64_t* triples, int64_t B, T rate, T* scores,
                     const Products<T>& products, const Parallel& parallel) {
  thread_local Workspace<T> space;  // of the calling thread: blocks follow one another
  Block<T>& b = space.block;
  Joins& joins = space.joins;
  cpu::compute_factors<T>(m, {tests.delta ? &tests : nullptr, tests.has_S, tests.along_c || tests.along_q, false},
                          triples, B, products, parallel, b);
  const Panels<T> linear = b.linear_terms({0, B}).top(tests.has_S ? b.columns() : 2 * m.D);
  Panels<uint16_t> narrow = {};
  if (tests.narrow_linear) {
    narrow = cpu::narrow_panels_in(space.narrow, linear.rows, B);
    parallel(narrow.count(), [&](int64_t g) { cpu::narrow(products, linear.only(g), narrow.only(g)); });
  }
  const int64_t chunks = (tests.Q + tests_at_once - 1) / tests_at_once, tiles = b.tiles();
  parallel(chunks * tiles, [&](int64_t i) {
    const int64_t q0 = i / tiles * tests_at_once;
    dense_terms(tests, b, linear, narrow, q0, std::min(tests_at_once, tests.Q - q0), i % tiles, rate, scores, products);
  });
  joins.build(b, parallel);
  parallel(chunks, [&](int64_t i) {
    for (int64_t q = i * tests_at_once; q < std::min(tests.Q, (i + 1) * tests_at_once); ++q)
      joins.add(m, tests, b, q, rate, scores + q * B);
  });
}

template void influence_block(const Model<float>&, const Tests<float>&, const int64_t*, int64_t, float, float*,
                              const Products<float>&, const Parallel&);
template void influence_block(const Model<double>&, const Tests<double>&, const int64_t*, int64_t, double, double*,
                              const Products<double>&, const Parallel&);

}  // namespace tracin
