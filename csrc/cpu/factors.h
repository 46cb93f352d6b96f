// The factors of a block of samples: forward pass once per distinct head and pair, backward pass per sample.
#pragma once
#include <vector>

#include "panels.h"

namespace tracin::cpu {

constexpr int64_t head_panels = 4;     // panels of heads that go through the forward pass together
constexpr int64_t tile_samples = 256;  // that one thread takes through both passes; their panels stay in the L2 cache
constexpr int64_t jacobian_from = 12;  // samples of a head that repay its Jacobian

// B samples over H distinct heads. A tile's samples are adjacent, and so are the slots of its distinct pairs:
// sample i has the pair in slot `pair[i]`, and a tile's first slot is its first sample.
template <typename T>
struct Block {
  int64_t B, H, D, size_S, width;                             // width: D + middle.X
  std::vector<int64_t> heads, head_ids, relations, tails;     // [B], [H], [B], [B]
  std::vector<int32_t> head, pair, pair_head, pair_relation;  // [B] row of head_ids, [B] slot, [B] by slot
  std::vector<int32_t> head_row;                              // [H] where heads are kept (if they are)
  std::vector<int64_t> pairs;                                 // [tiles] pairs of a tile
  std::vector<char> by_jacobian;                              // [H] whether S of the head's half comes from one
  Buffer<T> head_u;                                           // [H, D]
  Buffer<Word<T>> head_mask;                                  // [panels(H)][C][words][32]
  Buffer<T> head_gram;                                        // [panels(H)][padded tests.heads][32]
  Buffer<T> gram;                                             // [tiles][padded tests.pairs][tile_samples] v . v'
  Buffer<T> head_squares, squares;                            // [H], [B] by slot, |v|^2 (if wanted)
  Buffer<T> z, w;                                             // [B, D] by slot, [B]
  Buffer<T> delta_pixels;                                     // [B, width] delta, gradient at the middle's pixels
  Buffer<T> half_S;                                           // [B, size_S] of the halves
  Buffer<T> image;                                            // [B, 2 D] c, q: gradient at all pixels (if wanted)
  Buffer<T> linear;  // [panels(B)][2 D + size_S][32] e, e un, S of the middle (then of all)

  int64_t columns() const { return 2 * D + size_S; }
  int64_t tiles() const { return static_cast<int64_t>(pairs.size()); }
  Range tile(int64_t t) const { return {t * tile_samples, std::min(tile_samples, B - t * tile_samples)}; }
  T* delta(int64_t i) const { return delta_pixels.data() + i * width; }
  T* pixels(int64_t i) const { return delta(i) + D; }
  T* c(int64_t i) const { return image.data() + i * 2 * D; }
  T* q(int64_t i) const { return c(i) + D; }

  // Of samples from the beginning of a panel on.
  Panels<T> linear_terms(Range r) const { return part(r, 0, columns()); }
  Panels<T> e(Range r) const { return part(r, 0, D); }
  Panels<T> e_un(Range r) const { return part(r, D, D); }
  Panels<T> S(Range r) const { return part(r, 2 * D, size_S); }

 private:
  Panels<T> part(Range r, int64_t from, int64_t rows) const {
    return {linear.data() + (r.first / lanes * columns() + from) * lanes, rows, r.n, columns() * lanes};
  }
};

// Where the rows of a block's distinct heads and pairs are kept, and which rows are its samples'.
template <typename T>
struct Kept {
  const Factors<T>& to;
  const int32_t* pair;  // [B]

  int64_t head(int64_t i) const { return to.pair_head[pair[i]]; }
  bool new_pair(int64_t i) const { return !i || pair[i] != pair[i - 1]; }
};

// Bits of z [D], a word for 32: whether ReLU let through.
template <typename T>
void signs_of(const T* z, int64_t D, int32_t* signs) {
  std::fill_n(signs, round_up(D, 32) / 32, 0);
  for (int64_t d = 0; d < D; ++d) signs[d / 32] |= static_cast<int32_t>(uint32_t(passes(z[d])) << (d % 32));
}

// What of the factors is needed.
template <typename T>
struct Wanted {
  const Tests<T>* gram;  // the tests of v . v', or null
  bool has_S, pixels, squares;
  bool image = false;                 // c and q, which need the pixels
  const Halves<T>* halves = nullptr;  // for c, q and squares of an image that has halves
  const Kept<T>* kept = nullptr;

  // Whether the relation's half of S, c and q comes from tables, and not from passes of its own.
  bool by_tables(const Model<T>& m) const { return (!has_S || m.jacobians) && (!image || halves->relation_pixels); }
};

// Fills a block from triples whose equal heads are adjacent.
template <typename T>
void compute_factors(const Model<T>&, const Wanted<T>&, const int64_t* triples, int64_t B, const Products<T>&,
                     const Parallel&, Block<T>&);

}  // namespace tracin::cpu
