// What compute_factors is made of (factors.cpp tells the story): the forward and backward passes of a block's parts.
#pragma once
#include "factors.h"
#include "operands.h"

namespace tracin::cpu {

// Buffers of one thread, kept from block to block.
template <typename T>
struct Scratch {
  Buffer<T> image, v, u, un, y, delta, e, e_un, pixels, rows, S, gram;
  Buffer<uint16_t> narrow;
  Buffer<Word<T>> mask;  // of the middle at a tile's pairs, then of the relation's half at its samples
};

template <typename T>
Scratch<T>& scratch() {
  thread_local Scratch<T> space;
  return space;
}

template <typename T>
int64_t mask_size(const Model<T>& m, const Segment<T>& s) {
  return m.C * mask_words(s.P) * lanes;
}

// One part of the image at n heads, pairs or samples: what its forward and its backward pass share.
template <typename T>
struct Pass {
  const Model<T>& m;
  const Segment<T>& s;
  const Products<T>& products;
  const int64_t *heads, *relations;  // [n]
  int64_t n;

  // Normalised pixels, laid out as Loops has them.
  Panels<T> images() const {
    const Panels<T> image = panels_in(scratch<T>().image, s.X, n);
    for (int64_t g = 0; g < image.count(); ++g)
      loops<T>().gather_images(m, s, heads + g * lanes, relations + g * lanes, image.used(g), image.panel(g));
    return image;
  }
};

// The head's half of `r` distinct heads: b.head_u, head_mask, head_gram.
template <typename T>
void forward_heads(const Model<T>&, const Wanted<T>&, const Products<T>&, Range r, Block<T>& b);

// The middle of a tile's distinct pairs, and what the halves left: b.z, gram, squares by slot, the middle's mask in
// scratch, and un [pairs, D].
template <typename T>
void forward_pairs(const Model<T>&, const Wanted<T>&, const Products<T>&, int64_t tile, Block<T>& b, T* un);

// The middle of a tile's samples, whose delta is also here in panels: b.S, and b.pixels and b.image where wanted.
template <typename T>
void backward_middle(const Model<T>&, const Wanted<T>&, const Products<T>&, int64_t tile, const Panels<T>& delta,
                     Block<T>& b);

// The halves of a tile's samples, as far as no Jacobian gives them: b.half_S, and b.image.
template <typename T>
void backward_halves(const Model<T>&, const Wanted<T>&, const Products<T>&, int64_t tile, Block<T>& b);

// Adds to half_S, and to image, the J delta of the heads marked by_jacobian, and of the relations if there are tables.
template <typename T>
void add_by_jacobians(const Model<T>&, const Wanted<T>&, const Products<T>&, const Parallel&, Block<T>& b);

// jacobians[i] [ceil(size_S / 32)][D][32] of a half at up to 32 heads or relations: dS/d delta.
template <typename T>
void half_jacobians(const Pass<T>&, T* const* jacobians);

// tables[i] [ceil(X / 32)][D][32] of a half at up to 32 heads or relations: d(gradient at its pixels)/d delta, from
// fc [P, C, round_up(D, 16)].
template <typename T>
void half_pixel_jacobians(const Pass<T>&, const T* fc, T* const* tables);

}  // namespace tracin::cpu
