// Backward passes of a tile's samples: y = W^T delta where v > 0, and from it the statistics S and the gradient at the
// pixels. FLOPs of a sample: 2 F D for y, 2 (J + 1) F for S, F the features of the part.
#include "passes.h"

namespace tracin::cpu {
namespace {

// Adds to S, and to `pixels` unless their data is null, what the samples of a pass give in one part of the image.
// Sample i's signs of v are in the column of the mask that starts at place[i].
template <typename T>
void backward(const Pass<T>& pass, const Panels<T>& delta, const Word<T>* mask, const int32_t* place,
              const Panels<T>& S, const Panels<T>& pixels) {
  const Loops<T>& loop = loops<T>();
  Scratch<T>& space = scratch<T>();
  const Model<T>& m = pass.m;
  const Segment<T>& s = pass.s;
  const Panels<T> image = pass.images();
  const Panels<uint16_t> narrow = s.narrow_backward ? narrowed(pass.products, delta, space.narrow) : Panels<uint16_t>{};
  const int64_t high = pass.products.padded(s.step * s.P);
  for (int64_t c0 = 0; c0 < m.C; c0 += s.step) {
    const int64_t c1 = std::min(m.C, c0 + s.step), rows = (c1 - c0) * s.P, before = c0 / s.step * high;
    for (int64_t g = 0; g < delta.count(); ++g) {
      const Panels<T> y = panels_in(space.y, rows, delta.used(g), high);
      if (s.narrow_backward)
        multiply_narrow(pass.products, narrow_operand(s.narrow_backward + before * round_up(m.D, 2), rows, m.D),
                        narrow.only(g), false, y);
      else
        multiply(pass.products, pass.products.operand(s.backward + before * m.D, rows, m.D), delta.only(g), false, y);
      loop.statistics(m, s, image.panel(g), mask, place + g * lanes, delta.active(g), c0, c1, y.data, S.panel(g));
      if (pixels.data) loop.pixel_gradients(m, s, y.data, delta.active(g), c0, c1, pixels.panel(g));
    }
  }
}

// Where the mask columns of samples start: column `index` of panels of `size` words.
void place_masks(const int32_t* index, int64_t n, int64_t size, int32_t* place) {
  for (int64_t i = 0; i < n; ++i) place[i] = static_cast<int32_t>(index[i] / lanes * size + index[i] % lanes);
  for (int64_t i = n; i < round_up(n, lanes); ++i) place[i] = 0;
}

// image [B, 2 D] of samples += gradients at a segment's pixels [X]: row(i) has those of the i-th.
template <typename T, typename Row>
void add_pixels(const Segment<T>& s, const int32_t* samples, int64_t n, const Row& row, const Block<T>& b) {
  for (int64_t i = 0; i < n; ++i) {
    const T* from = row(i);
    T* to = b.c(samples[i]);
    for (int64_t x = 0; x < s.X; ++x) to[s.pixels[x]] += from[x];
  }
}

// half_S [B, size_S] of n samples of a tile (+)= what one half of the image gives; their image likewise, which is added
// to. `column` [n]: theirs in the mask.
template <typename T>
void backward_half(const Model<T>& m, const Wanted<T>& wanted, const Segment<T>& s, const Products<T>& products,
                   const Word<T>* mask, const int32_t* samples, const int32_t* column, int64_t n, bool accumulate,
                   const Block<T>& b) {
  if (!n) return;
  Scratch<T>& space = scratch<T>();
  int32_t place[tile_samples];
  int64_t heads[tile_samples], relations[tile_samples];
  place_masks(column, n, mask_size(m, s), place);
  for (int64_t i = 0; i < n; ++i) {
    heads[i] = b.heads[samples[i]];
    relations[i] = b.relations[samples[i]];
  }
  const Panels<T> delta = panels_in(space.delta, m.D, n), S = panels_in(space.S, m.size_S(), n);
  delta.gather([&](int64_t i) { return b.delta(samples[i]); });
  S.clear();
  const Pass<T> pass = {m, s, products, heads, relations, n};
  if (wanted.image) {
    const Panels<T> pixels = panels_in(space.pixels, s.X, n);
    pixels.clear();
    backward(pass, delta, mask, place, S, pixels);
    T* rows = space.rows.sized(n * s.X);
    pixels.scatter([&](int64_t i) { return rows + i * s.X; });
    add_pixels(s, samples, n, [&](int64_t i) { return rows + i * s.X; }, b);
  } else {
    backward<T>(pass, delta, mask, place, S, {});
  }
  if (wanted.has_S) S.scatter([&](int64_t i) { return b.half_S.data() + samples[i] * m.size_S(); }, accumulate);
}

// The relation's half without Jacobians: forward for the signs of v, then backward.
template <typename T>
void backward_relation_half(const Model<T>& m, const Wanted<T>& wanted, const Products<T>& products, Range r,
                            Block<T>& b) {
  const Segment<T>& s = m.relation_half;
  Scratch<T>& space = scratch<T>();
  const Pass<T> pass = {m, s, products, b.heads.data() + r.first, b.relations.data() + r.first, r.n};
  const Panels<T> image = pass.images();
  Word<T>* mask = space.mask.sized(panels(r.n) * mask_size(m, s));
  T* v = space.v.sized(s.step * s.P * lanes);
  for (int64_t g = 0; g < image.count(); ++g)
    for (int64_t c0 = 0; c0 < m.C; c0 += s.step)
      loops<T>().convolve(m, s, image.panel(g), image.active(g), c0, std::min(m.C, c0 + s.step), v,
                          mask + g * mask_size(m, s));
  int32_t samples[tile_samples], column[tile_samples];
  for (int64_t i = 0; i < r.n; ++i) {
    samples[i] = static_cast<int32_t>(r.first + i);
    column[i] = static_cast<int32_t>(i);
  }
  backward_half(m, wanted, s, products, mask, samples, column, r.n, true, b);
}

}  // namespace

template <typename T>
void backward_middle(const Model<T>& m, const Wanted<T>& wanted, const Products<T>& products, int64_t tile,
                     const Panels<T>& delta, Block<T>& b) {
  Scratch<T>& space = scratch<T>();
  const Range r = b.tile(tile);
  int32_t index[tile_samples], place[tile_samples];
  for (int64_t i = 0; i < r.n; ++i) index[i] = b.pair[r.first + i] - static_cast<int32_t>(r.first);
  place_masks(index, r.n, mask_size(m, m.middle), place);
  const Pass<T> pass = {m, m.middle, products, b.heads.data() + r.first, b.relations.data() + r.first, r.n};
  if (!wanted.pixels) return backward<T>(pass, delta, space.mask.data(), place, b.S(r), {});
  const Panels<T> pixels = panels_in(space.pixels, m.middle.X, r.n);
  pixels.clear();
  backward(pass, delta, space.mask.data(), place, b.S(r), pixels);
  pixels.scatter([&](int64_t i) { return b.pixels(r.first + i); });
  if (!wanted.image) return;
  int32_t samples[tile_samples];
  for (int64_t i = 0; i < r.n; ++i) samples[i] = static_cast<int32_t>(r.first + i);
  std::fill_n(b.c(r.first), r.n * 2 * m.D, T(0));
  add_pixels(m.middle, samples, r.n, [&](int64_t i) { return b.pixels(r.first + i); }, b);
}

template <typename T>
void backward_halves(const Model<T>& m, const Wanted<T>& wanted, const Products<T>& products, int64_t tile,
                     Block<T>& b) {
  const Range r = b.tile(tile);
  int32_t samples[tile_samples], column[tile_samples];
  int64_t n = 0;
  for (int64_t i = r.first; i < r.first + r.n; ++i) {
    if (b.by_jacobian[b.head[i]]) {
      if (wanted.has_S) std::fill_n(b.half_S.data() + i * m.size_S(), m.size_S(), T(0));
      continue;
    }
    samples[n] = static_cast<int32_t>(i);
    column[n++] = b.head[i];
  }
  backward_half(m, wanted, m.head_half, products, b.head_mask.data(), samples, column, n, false, b);
  if (!wanted.by_tables(m)) backward_relation_half(m, wanted, products, r, b);
}

template void backward_middle(const Model<float>&, const Wanted<float>&, const Products<float>&, int64_t,
                              const Panels<float>&, Block<float>&);
template void backward_middle(const Model<double>&, const Wanted<double>&, const Products<double>&, int64_t,
                              const Panels<double>&, Block<double>&);
template void backward_halves(const Model<float>&, const Wanted<float>&, const Products<float>&, int64_t,
                              Block<float>&);
template void backward_halves(const Model<double>&, const Wanted<double>&, const Products<double>&, int64_t,
                              Block<double>&);

}  // namespace tracin::cpu
