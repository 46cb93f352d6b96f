// The factors of a block of samples in device memory: forward pass once per distinct pair, backward pass per sample.
#pragma once
#include "device.h"

namespace tracin::cuda {

// B samples over G distinct (head, relation), equal ones adjacent.
struct Samples {
  int64_t B, G, H;                                      // H: stretches of equal heads
  const int32_t *head, *relation, *tail, *pair;         // [B]
  const int32_t *pair_head, *pair_relation, *head_row;  // [G], head_row: the pair's stretch
  const int32_t* head_pair;                             // [H] its first pair
};

template <typename T>
struct Factors {
  Samples samples;
  int64_t columns;  // of `linear`: 2 D, and S's if wanted
  const T* v;       // [G, F]
  const T* z;       // [G, D]
  const T* w;       // [B]
  const T* linear;  // [B, columns] e, e un, S
  const T* delta;   // [B, D]
  const T* cq;      // [B, 2 D] gradient at the raw pixels: c, q; null if not wanted
};

// Fills a block from triples on the host, in the arrays given, or where they are null in new ones.
template <typename T>
Factors<T> compute_factors(const Model<T>&, bool has_S, bool has_cq, const int64_t* triples, int64_t B, Device&,
                           const FactorArrays<T>& into = {});

// v [G, C P] of one part of the image at G distinct pairs.
template <typename T>
void features(const Model<T>&, const Segment<T>&, const int32_t* by_tap, const int32_t* pair_head,
              const int32_t* pair_relation, int64_t G, T* v, Device&);

// Two forms of a segment's taps, as taps.cuh describes them.
struct Taps {
  const int32_t *by_tap, *first, *entries;
};
template <typename T>
Taps index_taps(const Segment<T>&, int64_t J, Device&);

// A copy of n numbers in bfloat16.
const uint16_t* narrowed(const float* x, int64_t n, Device&);

// The columns of `count` positions of v, compact [n, C count], of rows[0 .. n], or of the first n rows without; To is
// T or bfloat16.
template <typename To, typename T>
const To* columns_of(const T* v, const int32_t* rows, int64_t n, int64_t C, int64_t P, const int32_t* positions,
                     int64_t count, Device&);

}  // namespace tracin::cuda
