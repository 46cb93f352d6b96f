// The loops that are compiled once per instruction set (loops.inl), and the table that dispatch.cpp fills.
#pragma once
#include <cstdint>

#include "../kernels.h"

namespace tracin::cpu {

// Samples in one chunk of an image: 64 bytes, whatever the instruction set.
template <typename T>
constexpr int64_t chunk_lanes = 64 / sizeof(T);

// Sign bits of 32 positions of a feature map, one word per sample; as wide as T, so that it masks T's lanes.
template <typename T>
struct MaskWord;
template <>
struct MaskWord<float> {
  using type = int32_t;
};
template <>
struct MaskWord<double> {
  using type = int64_t;
};
template <typename T>
using Word = typename MaskWord<T>::type;

static constexpr int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }
static constexpr int64_t mask_words(int64_t positions) { return (positions + 31) / 32; }

template <typename T>
struct Loops {
  // Normalised pixels [chunk][X][chunk_lanes] of n samples; further lanes of the last chunk are zero.
  void (*gather_images)(const Model<T>&, const int64_t* heads, const int64_t* relations, int64_t n, T* image);
  // v [F][lanes] and its positive bits [C][mask_words(P)][lanes].
  void (*convolve)(const Model<T>&, const T* image, int64_t lanes, T* v, Word<T>* mask);
  // rows [n][width] <- panel [width][lanes]
  void (*to_rows)(const T* panel, int64_t width, int64_t lanes, int64_t n, T* rows);
  // panel [width][lanes] <- rows [n][width], times scale[width] if given; further lanes are zero.
  void (*to_panel)(const T* rows, int64_t width, int64_t lanes, int64_t n, const T* scale, T* panel);
  // u [G][D] becomes un; z [G][D] holds BN2's output before ReLU.
  void (*normalise)(const Model<T>&, int64_t G, T* u, T* z);
  // z = relu(z); residuals w [n]; rows e, e un [n][D], of samples whose pairs are given by group.
  void (*residuals)(const Model<T>&, const int32_t* group, const int64_t* tails, int64_t n, const T* un, const T* z,
                    T* w, T* error, T* normalised);
  // y [F][lanes] becomes 0 where the bit of its pair (group [lanes]) is 0; statistics [S][lanes] of what remains.
  void (*statistics)(const Model<T>&, const T* image, const Word<T>* mask, int64_t mask_lanes, const int32_t* group,
                     int64_t lanes, T* y, T* statistics);
  // Gradient at the raw pixels [X][lanes] from the masked y.
  void (*pull_back)(const Model<T>&, const T* y, int64_t lanes, T* pixels);
  // scores[b] += rate * (dots[b] (gram[group[b]] + fc_bias) + linear[b]); dots and gram may be null.
  void (*combine)(const T* dots, const T* gram, const int32_t* group, const T* linear, int64_t n, T rate, T fc_bias,
                  T* scores);
  T (*dot)(const T* a, const T* b, int64_t n);
};

// The variant in use: the CPU's best, or the one TRACIN_CPU names.
template <typename T>
const Loops<T>& loops();
template <>
const Loops<float>& loops();
template <>
const Loops<double>& loops();

}  // namespace tracin::cpu
