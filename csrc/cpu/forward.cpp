// Forward passes: v of a part of the image, u = W v, v . v' with the tests, and the signs of v that the backward pass
// needs. FLOPs: 2 F D for u, 2 F a test for v . v', F the features of the part.
#include <cstring>

#include "kink.h"
#include "passes.h"

namespace tracin::cpu {
namespace {

// v of the tests in one part of the image, in T or in bfloat16; no rows: not wanted.
template <typename T>
struct TestV {
  const T* v;
  const uint16_t* narrow_v;
  int64_t rows;
};

// u, v . v' and |v|^2 add up over chunks of channels, so that v need not leave the cache. `rows` [n]: where each one's
// v is kept, or null.
template <typename T>
void forward(const Pass<T>& pass, const TestV<T>& tests, Word<T>* mask, const Panels<T>& u, const Panels<T>& gram,
             T* squares, T* const* rows) {
  const Loops<T>& loop = loops<T>();
  Scratch<T>& space = scratch<T>();
  const Model<T>& m = pass.m;
  const Segment<T>& s = pass.s;
  const Panels<T> image = pass.images(), v = panels_in(space.v, s.step * s.P, pass.n);
  for (int64_t c0 = 0; c0 < m.C; c0 += s.step) {
    const int64_t c1 = std::min(m.C, c0 + s.step), k = (c1 - c0) * s.P;
    for (int64_t g = 0; g < v.count(); ++g) {
      loop.convolve(m, s, image.panel(g), v.active(g), c0, c1, v.panel(g), mask + g * mask_size(m, s));
      if (squares) loop.add_squares(v.panel(g), k, squares + g * lanes);
      if (rows) {
        T* to[lanes];
        for (int64_t i = 0; i < v.used(g); ++i) to[i] = rows[g * lanes + i] + c0 * s.P;
        loop.to_rows(v.panel(g), k, v.used(g), false, to);
      }
    }
    multiply(pass.products, chunk_operand(pass.products, s, s.forward, m.D, c0, c1), v, c0 > 0, u);
    if (!tests.rows) continue;
    if (tests.narrow_v)
      multiply_narrow(pass.products, narrow_chunk(s, tests.narrow_v, tests.rows, c0, c1),
                      narrowed(pass.products, v.top(k), space.narrow), c0 > 0, gram);
    else
      multiply(pass.products, chunk_operand(pass.products, s, tests.v, tests.rows, c0, c1), v, c0 > 0, gram);
  }
}

// v . v' of a tile's pairs [padded tests.pairs][tile_samples]: the middle's, and what the halves add.
template <typename T>
void assemble_gram(const Model<T>& m, const Tests<T>& tests, const Products<T>& products, const Block<T>& b,
                   int64_t first, const Panels<T>& middle, T* gram) {
  const int64_t n = middle.samples, head_panel = products.padded(tests.heads) * lanes;
  int32_t place[tile_samples];
  for (int64_t i = 0; i < n; ++i) {
    const int64_t head = b.pair_head[first + i];
    place[i] = static_cast<int32_t>(head / lanes * head_panel + head % lanes);
  }
  for (int64_t q = 0; q < tests.pairs; ++q) {
    T* row = gram + q * tile_samples;
    for (int64_t g = 0; g < middle.count(); ++g)
      std::memcpy(row + g * lanes, middle.panel(g) + q * lanes, lanes * sizeof(T));
    const T* head = m.head_half.P ? b.head_gram.data() + tests.pair_head[q] * lanes : nullptr;
    const T* relation = m.relation_half.P ? tests.relation_gram + tests.pair_relation[q] * m.relations : nullptr;
    loops<T>().add_halves(head, place, relation, b.pair_relation.data() + first, n, row);
  }
}

// Where the v of a tile's pairs is kept. A pair that began in the tile before is kept there: here its row is scratch.
template <typename T>
void rows_of_pairs(const Kept<T>& kept, const Block<T>& b, Range r, T** rows) {
  const int64_t columns = kept.to.middle_columns;
  T* unused = scratch<T>().rows.sized(columns);
  for (int64_t i = r.first + r.n - 1; i >= r.first; --i)
    rows[b.pair[i] - r.first] = kept.new_pair(i) ? kept.to.middle_v + kept.pair[i] * columns : unused;
}

// Keeps what is known of a tile's pairs, from `un` and the squares of the middle.
template <typename T>
void keep_pairs(const Kept<T>& kept, const Block<T>& b, Range r, const T* un, const T* middle_squares) {
  for (int64_t i = r.first; i < r.first + r.n; ++i) {
    if (!kept.new_pair(i)) continue;
    const int64_t slot = b.pair[i], row = kept.pair[i];
    std::copy_n(un + (slot - r.first) * b.D, b.D, kept.to.un + row * b.D);
    const T* z = std::copy_n(b.z.data() + slot * b.D, b.D, kept.to.z + row * b.D) - b.D;
    signs_of(z, b.D, kept.to.signs + row * round_up(b.D, 32) / 32);
    kept.to.middle_squares[row] = middle_squares[slot - r.first];
  }
}

}  // namespace

template <typename T>
void forward_heads(const Model<T>& m, const Wanted<T>& wanted, const Products<T>& products, Range r, Block<T>& b) {
  const int64_t* heads = b.head_ids.data() + r.first;
  const Panels<T> u = panels_in(scratch<T>().u, m.D, r.n, products.padded(m.D));
  TestV<T> tests = {};
  Panels<T> gram = {};
  if (wanted.gram) {
    tests = {wanted.gram->head_half_v, wanted.gram->narrow_head_half_v, wanted.gram->heads};
    const int64_t stride = products.padded(tests.rows) * lanes;
    gram = {b.head_gram.data() + r.first / lanes * stride, tests.rows, r.n, stride};
  }
  T* rows[head_panels * lanes];
  for (int64_t i = 0; wanted.kept && i < r.n; ++i)
    rows[i] = wanted.kept->to.head_v + b.head_row[r.first + i] * m.C * m.head_half.P;
  T* squares = wanted.squares ? b.head_squares.data() + r.first : nullptr;
  if (squares) std::fill(squares, squares + round_up(r.n, lanes), T(0));
  forward({m, m.head_half, products, heads, heads, r.n}, tests,
          b.head_mask.data() + r.first / lanes * mask_size(m, m.head_half), u, gram, squares,
          wanted.kept ? rows : nullptr);
  u.scatter([&](int64_t i) { return b.head_u.data() + (r.first + i) * m.D; });
  for (int64_t i = 0; wanted.kept && i < r.n; ++i) wanted.kept->to.head_squares[b.head_row[r.first + i]] = squares[i];
}

template <typename T>
void forward_pairs(const Model<T>& m, const Wanted<T>& wanted, const Products<T>& products, int64_t tile, Block<T>& b,
                   T* un) {
  Scratch<T>& space = scratch<T>();
  const int64_t first = b.tile(tile).first, n = b.pairs[tile], D = m.D;
  int64_t heads[tile_samples], relations[tile_samples];
  for (int64_t i = 0; i < n; ++i) {
    heads[i] = b.head_ids[b.pair_head[first + i]];
    relations[i] = b.pair_relation[first + i];
  }
  const Panels<T> u = panels_in(space.u, D, n, products.padded(D));
  TestV<T> tests = {};
  Panels<T> gram = {};
  if (wanted.gram) {
    tests = {wanted.gram->middle_v, wanted.gram->narrow_middle_v, wanted.gram->pairs};
    gram = panels_in(space.gram, tests.rows, n, products.padded(tests.rows));
  }
  T* squares = wanted.squares ? b.squares.data() + first : nullptr;
  if (squares) std::fill(squares, squares + round_up(n, lanes), T(0));
  T *rows[tile_samples], middle_squares[tile_samples];
  if (wanted.kept) rows_of_pairs(*wanted.kept, b, b.tile(tile), rows);
  forward({m, m.middle, products, heads, relations, n}, tests, space.mask.sized(panels(n) * mask_size(m, m.middle)), u,
          gram, squares, wanted.kept ? rows : nullptr);
  if (wanted.kept) std::copy_n(squares, n, middle_squares);
  if (wanted.gram)
    assemble_gram(m, *wanted.gram, products, b, first, gram,
                  b.gram.data() + tile * products.padded(tests.rows) * tile_samples);
  u.scatter([&](int64_t i) { return un + i * D; });
  for (int64_t i = 0; squares && m.head_half.P && i < n; ++i)
    squares[i] +=
        b.head_squares.data()[b.pair_head[first + i]] + wanted.halves->relation_squares[b.pair_relation[first + i]];
  for (int64_t i = 0; i < n; ++i) {
    T* row = un + i * D;
    T* z = b.z.data() + (first + i) * D;
    if (m.head_half.P) {
      const T* head = b.head_u.data() + b.pair_head[first + i] * D;
      const T* relation = m.relation_u + b.pair_relation[first + i] * D;
      for (int64_t d = 0; d < D; ++d) row[d] += head[d] + relation[d];
    }
    loops<T>().normalise(m, row, z);
    settle_kinks(m, heads[i], relations[i], z);
    for (int64_t d = 0; d < D; ++d) z[d] = passes(z[d]) ? z[d] : T(0);
  }
  if (wanted.kept) keep_pairs(*wanted.kept, b, b.tile(tile), un, middle_squares);
}

template void forward_heads(const Model<float>&, const Wanted<float>&, const Products<float>&, Range, Block<float>&);
template void forward_heads(const Model<double>&, const Wanted<double>&, const Products<double>&, Range,
                            Block<double>&);
template void forward_pairs(const Model<float>&, const Wanted<float>&, const Products<float>&, int64_t, Block<float>&,
                            float*);
template void forward_pairs(const Model<double>&, const Wanted<double>&, const Products<double>&, int64_t,
                            Block<double>&, double*);

}  // namespace tracin::cpu
