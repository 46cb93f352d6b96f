// The loops that are compiled once per instruction set (loops.inl), and the table that dispatch.cpp fills.
#pragma once
#include <cstdint>

#include "products.h"

namespace tracin::cpu {

// Samples in one chunk of an image: 64 bytes, whatever the instruction set.
template <typename T>
constexpr int64_t chunk = 64 / sizeof(T);

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

static constexpr int64_t mask_words(int64_t positions) { return (positions + 31) / 32; }

// Images of a panel are [32 / chunk][X][chunk]; `active` is the number of its lanes in use, rounded up to 16.
// Channels c0 .. c1 are done at a time; v and y are [(c1 - c0) P][32], masks [C][mask_words(P)][32].
template <typename T>
struct Loops {
  Multiply<T> multiply;
  // Normalised pixels of n <= 32 samples; further lanes are zero.
  void (*gather_images)(const Model<T>&, const Segment<T>&, const int64_t* heads, const int64_t* relations, int64_t n,
                        T* image);
  void (*convolve)(const Model<T>&, const Segment<T>&, const T* image, int64_t active, int64_t c0, int64_t c1, T* v,
                   Word<T>* mask);
  // squares[lane] += |v|^2
  void (*add_squares)(const T* v, int64_t rows, T* squares);
  // Masks y by the bits at mask[(c words + word) 32 + place[lane]], then adds to the statistics S [size_S][32].
  void (*statistics)(const Model<T>&, const Segment<T>&, const T* image, const Word<T>* mask, const int32_t* place,
                     int64_t active, int64_t c0, int64_t c1, T* y, T* S);
  // Adds the gradient at the raw pixels [X][32] of masked y.
  void (*pixel_gradients)(const Model<T>&, const Segment<T>&, const T* y, int64_t active, int64_t c0, int64_t c1,
                          T* pixels);
  // Adds to the rows [X][width] of a table, width a multiple of 16, what the n channels that a window's signs let
  // through give: table[taps[j]] += sum over the channels of fc[channel] kernel[channel][j]. fc is [C][width].
  void (*pixel_jacobian)(const Model<T>&, const int32_t* taps, const int32_t* channels, int64_t n, const T* fc,
                         int64_t width, T* table);
  // rows[i][0 .. width) (+)= panel[.][i] for i < n; rows lie `stride` apart.
  void (*to_rows)(const T* panel, int64_t width, int64_t n, bool accumulate, T* const* rows);
  // panel[.][i] (+)= rows[i][0 .. width); lanes from n on are set to zero unless accumulating.
  void (*to_panel)(const T* const* rows, int64_t width, int64_t n, bool accumulate, T* panel);
  // to[i] += from[i] for i < n
  void (*add)(const T* from, int64_t n, T* to);
  // From u [D] of a pair: un in its place, BN2's output before ReLU in z.
  void (*normalise)(const Model<T>&, T* u, T* z);
  // w of a sample; e, e un and delta [D].
  T (*loss)(const Model<T>&, const T* un, const T* z, int64_t tail, T* e, T* e_un, T* delta);
  // gram[i] += head[head_of[i]] + relation[relation_of[i]] for i < n; head or relation may be null.
  void (*add_halves)(const T* head, const int32_t* head_of, const T* relation, const int32_t* relation_of, int64_t n,
                     T* gram);
  // scores[i] = rate * (dots[i] (gram[pair[i]] + fc_bias) + linear[i]) for i < n; dots and gram may be null.
  void (*combine)(const T* dots, const T* gram, const int32_t* pair, const T* linear, int64_t n, T rate, T fc_bias,
                  T* scores);
  T (*dot)(const T* a, const T* b, int64_t n);
  // sums[0] and sums[1] = sum over d whose bit in `signs` is set of entity[d] times e[d] and e_scaled[d].
  void (*pair_sums)(const T* entity, const int32_t* signs, const T* e, const T* e_scaled, int64_t D, T* sums);
  // sum over d whose bit is set of entity[d] un[d] e_un[d]
  T (*pair_un)(const T* entity, const int32_t* signs, const T* un, const T* e_un, int64_t D);
  // Of an entity's numbers whose bit is set: sums[i] of their products with row i of scaled [2, D], sums[2 + i] of
  // their squares' with row i of squares [2, D].
  void (*angle_sums)(const T* entity, const int32_t* signs, const T* scaled, const T* squares, int64_t D, T* sums);
  // squares[lane] += the sum of (scale[lane] x)^2 over the rows of a panel, in double
  void (*scaled_squares)(const T* panel, int64_t rows, const double* scale, double* squares);
  // The same of S^T M S + slack |S|^2; space [2 (J + 1)][32].
  void (*form_squares)(const Form<T>&, int64_t C, int64_t J, const T* S, const double* scale, double* space,
                       double* squares);
  // out[part][lane] = the sum over the rows of basis[row][part] scale[lane] panel[row][lane], in double
  void (*along_basis)(const T* panel, int64_t rows, const double* scale, const double* basis, double* out);
  // |sketch . test| over the sketch_parts, plus the product of what is left of both.
  T (*sketch_share)(const int8_t* sketch, const T* test);
  // (scale a)^2 summed over a row, in double
  double (*row_square)(const T* a, int64_t n, double scale);
  // out[i] = sum over the parts of test[part] norms[part stride + i] for i < n.
  void (*bounds)(const T* norms, int64_t stride, int64_t parts, const T* test, int64_t n, T* out);
};

// The variant in use: the CPU's best, or the one TRACIN_CPU names.
template <typename T>
const Loops<T>& loops();
template <>
const Loops<float>& loops();
template <>
const Loops<double>& loops();

}  // namespace tracin::cpu
