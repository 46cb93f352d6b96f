// How a block of samples becomes factors, in three rounds over threads. Equal heads are adjacent, equal (head,
// relation) pairs too:
//
//   block    h h h h h h h h h h h h | h h h h h ...          B samples of H distinct heads
//   1 heads  [-- h --] [--- h ---] ...                        head_half forward, 4 panels of heads a thread:
//                                                             u, v . v' and the signs of v
//   2 tiles  [------- 256 samples -------] [------ ...        a thread takes a tile through both passes:
//     pairs   (h r) (h r)  (h r) ...                          middle forward, once per distinct pair; u of the two
//                                                             halves is added: un, z; v . v' likewise
//     samples  t t t  t     t t  ...                          w, e, e un, delta; backward through the middle: S
//                                                             and pixels;
//                                                             through a half where no Jacobian gives its S
//   3 runs   samples of one head (>= 12), of one relation     S, c, q of a half as J delta (jacobians.cpp)
//
// Everything a product touches lies in panels of 32 samples (panels.h). Of v, only a chunk of channels exists at a
// time; what stays is its signs, a bit a feature.
#include "factors.h"

#include "passes.h"

namespace tracin::cpu {
namespace {

template <typename T>
void index_samples(const Model<T>& m, const int64_t* triples, int64_t B, Block<T>& b) {
  b.B = B, b.D = m.D, b.size_S = m.size_S();
  b.width = m.D + m.middle.X;
  for (auto* ids : {&b.heads, &b.relations, &b.tails, &b.head_ids}) ids->resize(B);
  for (auto* rows : {&b.head, &b.pair, &b.pair_head, &b.pair_relation}) rows->resize(B);
  b.pairs.assign((B + tile_samples - 1) / tile_samples, 0);
  b.H = 0;
  for (int64_t i = 0; i < B; ++i) {
    b.heads[i] = triples[3 * i], b.relations[i] = triples[3 * i + 1], b.tails[i] = triples[3 * i + 2];
    if (!b.H || b.head_ids[b.H - 1] != b.heads[i]) b.head_ids[b.H++] = b.heads[i];
    b.head[i] = static_cast<int32_t>(b.H - 1);
    int64_t& pairs = b.pairs[i / tile_samples];
    const int64_t first = i / tile_samples * tile_samples;
    if (!pairs || b.heads[i] != b.heads[i - 1] || b.relations[i] != b.relations[i - 1]) {
      b.pair_head[first + pairs] = b.head[i];
      b.pair_relation[first + pairs++] = static_cast<int32_t>(b.relations[i]);
    }
    b.pair[i] = static_cast<int32_t>(first + pairs - 1);
  }
  std::vector<int32_t> counts(b.H, 0);
  for (int64_t i = 0; i < B; ++i) ++counts[b.head[i]];
  b.by_jacobian.resize(b.H);
  for (int64_t h = 0; h < b.H; ++h) b.by_jacobian[h] = counts[h] >= jacobian_from;
}

// Memory that threads fill, each its part.
template <typename T>
void allocate(const Model<T>& m, const Wanted<T>& wanted, const Products<T>& products, Block<T>& b) {
  const int64_t slots = b.tiles() * tile_samples;
  b.z.sized(b.B * b.D);
  b.w.sized(b.B);
  b.delta_pixels.sized(b.B * b.width);
  b.linear.sized(panels(b.B) * b.columns() * lanes);
  if (wanted.squares) b.squares.sized(slots);
  if (wanted.image) b.image.sized(b.B * 2 * b.D);
  if (wanted.gram) b.gram.sized(products.padded(wanted.gram->pairs) * slots);
  if (!m.head_half.P) return;
  b.head_u.sized(b.H * b.D);
  b.head_mask.sized(panels(b.H) * mask_size(m, m.head_half));
  if (wanted.squares) b.head_squares.sized(panels(b.H) * lanes);
  if (wanted.gram) b.head_gram.sized(panels(b.H) * products.padded(wanted.gram->heads) * lanes);
  if (wanted.has_S) b.half_S.sized(b.B * b.size_S);
}

// w, e, e un and delta of a tile's samples; delta also in panels, for the backward pass.
template <typename T>
Panels<T> losses(const Model<T>& m, Range r, const T* un, Block<T>& b) {  // un [pairs, D]
  Scratch<T>& space = scratch<T>();
  T *e = space.e.sized(r.n * m.D), *e_un = space.e_un.sized(r.n * m.D);
  constexpr int64_t ahead = 8;  // samples: tails lie anywhere in a table that no cache holds
  for (int64_t i = 0; i < r.n; ++i) {
    const int64_t slot = b.pair[r.first + i];
    if (i + ahead < r.n)
      for (int64_t d = 0; d < m.D; d += chunk<T>) __builtin_prefetch(m.entity + b.tails[r.first + i + ahead] * m.D + d);
    b.w.data()[r.first + i] = loops<T>().loss(m, un + (slot - r.first) * m.D, b.z.data() + slot * m.D,
                                              b.tails[r.first + i], e + i * m.D, e_un + i * m.D, b.delta(r.first + i));
  }
  b.e(r).gather([&](int64_t i) { return e + i * m.D; });
  b.e_un(r).gather([&](int64_t i) { return e_un + i * m.D; });
  b.S(r).clear();
  const Panels<T> delta = panels_in(space.delta, m.D, r.n);
  delta.gather([&](int64_t i) { return b.delta(r.first + i); });
  return delta;
}

// Both passes of a tile; what Jacobians give is added later.
template <typename T>
void compute_tile(const Model<T>& m, const Wanted<T>& wanted, const Products<T>& products, int64_t tile, Block<T>& b) {
  T* un = scratch<T>().un.sized(tile_samples * m.D);
  forward_pairs(m, wanted, products, tile, b, un);
  const Panels<T> delta = losses(m, b.tile(tile), un, b);
  if (wanted.has_S || wanted.pixels) backward_middle(m, wanted, products, tile, delta, b);
  if ((wanted.has_S || wanted.image) && m.head_half.P) backward_halves(m, wanted, products, tile, b);
}

}  // namespace

template <typename T>
void compute_factors(const Model<T>& m, const Wanted<T>& wanted, const int64_t* triples, int64_t B,
                     const Products<T>& products, const Parallel& parallel, Block<T>& b) {
  index_samples(m, triples, B, b);
  if (wanted.kept) {
    b.head_row.resize(b.H);
    for (int64_t i = 0; i < B; ++i) b.head_row[b.head[i]] = static_cast<int32_t>(wanted.kept->head(i));
  }
  allocate(m, wanted, products, b);
  constexpr int64_t heads = head_panels * lanes;
  if (m.head_half.P)
    parallel((b.H + heads - 1) / heads,
             [&](int64_t i) { forward_heads(m, wanted, products, {i * heads, std::min(heads, b.H - i * heads)}, b); });
  parallel(b.tiles(), [&](int64_t tile) { compute_tile(m, wanted, products, tile, b); });
  if (!(wanted.has_S || wanted.image) || !m.head_half.P) return;
  add_by_jacobians(m, wanted, products, parallel, b);
  if (!wanted.has_S) return;
  parallel(panels(B), [&](int64_t g) {
    const Range r = {g * lanes, std::min(lanes, B - g * lanes)};
    b.S(r).gather([&](int64_t i) { return b.half_S.data() + (r.first + i) * b.size_S; }, true);
  });
}

template void compute_factors(const Model<float>&, const Wanted<float>&, const int64_t*, int64_t,
                              const Products<float>&, const Parallel&, Block<float>&);
template void compute_factors(const Model<double>&, const Wanted<double>&, const int64_t*, int64_t,
                              const Products<double>&, const Parallel&, Block<double>&);

}  // namespace tracin::cpu
