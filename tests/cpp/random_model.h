// Random numbers, a random model, its packed form and the comparison that the C++ tests share.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <type_traits>
#include <vector>

#include "kernels.h"

inline std::mt19937 generator(1);
inline int failures = 0;
inline const int filled = setenv("TRACIN_FILL", "nan", 1);  // what buffers hold before it is written

template <typename T>
std::vector<T> normal(int64_t N, double sigma = 1) {
  std::normal_distribution<double> distribution(0, sigma);
  std::vector<T> values(N);
  for (T& value : values) value = static_cast<T>(distribution(generator));
  return values;
}

template <typename T>
std::vector<T> integers(int64_t N, int64_t below, int64_t from = 0) {
  std::uniform_int_distribution<int64_t> distribution(from, below - 1);
  std::vector<T> values(N);
  for (T& value : values) value = static_cast<T>(distribution(generator));
  return values;
}

// |got - expected| <= tolerance (size + |expected|) for every element; reports the first that is not.
template <typename T>
void expect_close(const char* where, const char* what, const std::vector<T>& got, const std::vector<double>& expected,
                  double size = 1) {
  const double tolerance = std::is_same_v<T, float> ? 3e-5 : 1e-12;
  if (got.size() < expected.size()) std::printf("FAIL %s %s: too few elements\n", where, what), ++failures;
  for (size_t i = 0; i < std::min(got.size(), expected.size()); ++i) {
    const double value = static_cast<double>(got[i]);
    if (std::abs(value - expected[i]) <= tolerance * (size + std::abs(expected[i]))) continue;
    std::printf("FAIL %s %s<%s>: element %zu of %zu is %.17g, expected %.17g\n", where, what,
                std::is_same_v<T, float> ? "float" : "double", i, expected.size(), value, expected[i]);
    ++failures;
    return;
  }
}

constexpr int64_t as_rows = -1;  // a height: the matrix as it is, as the CUDA ops take the test side

// [rows, k] -> panels [ceil(rows / height)][k][height], the last filled up with zeros; height 0: one of all rows.
template <typename T>
std::vector<T> pack(const std::vector<T>& matrix, int64_t rows, int64_t k, int64_t height) {
  if (height == as_rows) return matrix;
  if (!height) height = std::max<int64_t>(rows, 1);
  std::vector<T> packed((rows + height - 1) / height * height * k, T(0));
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t l = 0; l < k; ++l) packed[(r / height * k + l) * height + r % height] = matrix[r * k + l];
  return packed;
}

// The columns of each chunk of `step` channels of [rows, C P], packed; or their transposes.
template <typename T>
std::vector<T> pack_chunks(const std::vector<T>& matrix, int64_t rows, int64_t C, int64_t P, int64_t step,
                           int64_t height, bool transposed = false) {
  std::vector<T> packed;
  for (int64_t c0 = 0; c0 < C; c0 += step) {
    const int64_t k = (std::min(C, c0 + step) - c0) * P;
    std::vector<T> chunk(rows * k);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t l = 0; l < k; ++l) chunk[transposed ? l * rows + r : r * k + l] = matrix[(r * C + c0) * P + l];
    const std::vector<T> panels = transposed ? pack(chunk, k, rows, height) : pack(chunk, rows, k, height);
    packed.insert(packed.end(), panels.begin(), panels.end());
  }
  return packed;
}

struct Shape {
  int64_t N, D, C, J;
  int64_t positions[3], steps[3];  // of the head's half, the middle, the relation's half
  int64_t relations = 3;

  bool has_halves() const { return positions[0] && positions[2]; }
};

// Parameters at random, the image's positions in any order. `exact_*` are the same numbers in double.
template <typename T>
struct RandomModel {
  static constexpr int64_t relation_step = 2;
  Shape shape;
  int64_t R = shape.relations, N = shape.N, D = shape.D, C = shape.C, J = shape.J;
  int64_t P = shape.positions[0] + shape.positions[1] + shape.positions[2], F = C * P, S = C * (J + 1);
  std::vector<T> entity = normal<T>(N * D), relation = normal<T>(R * relation_step * D), bias = normal<T>(N);
  std::vector<T> pixel = normal<T>(4 * D);   // [2, 2 D] mean, 1/sigma
  std::vector<T> hidden = normal<T>(5 * D);  // scale, offset, norm_scale, norm_offset, delta_scale
  std::vector<T> shift = normal<T>(C), kernel = normal<T>(C * J, std::pow(J, -0.5)),
                 pixel_kernel = normal<T>(C * J, std::pow(J, -0.5)), fc = normal<T>(D * F, std::pow(F, -0.5));
  std::vector<double> exact_pixel{pixel.begin(), pixel.end()}, exact_hidden{hidden.begin(), hidden.begin() + 2 * D},
      exact_kernel{kernel.begin(), kernel.end()}, exact_shift{shift.begin(), shift.end()},
      exact_kink = std::vector<double>(D, 1e-5);
  std::vector<int32_t> taps;     // [P, J]
  std::vector<int64_t> part_of;  // [P] 0: head's half, 1: middle, 2: relation's half

  RandomModel(const RandomModel&) = delete;
  explicit RandomModel(const Shape& s) : shape(s) {
    for (int64_t part = 0; part < 3; ++part) part_of.insert(part_of.end(), s.positions[part], part);
    std::shuffle(part_of.begin(), part_of.end(), generator);
    for (const int64_t part : part_of)
      for (const int32_t pixel : integers<int32_t>(J, part == 0 ? D : 2 * D, part == 2 ? D : 0)) taps.push_back(pixel);
  }

  // Which of the features [C P] belong to a part of the image (3: to any), in its order.
  std::vector<int64_t> features_of(int64_t part) const {
    std::vector<int64_t> features;
    for (int64_t f = 0; f < F; ++f)
      if (part == 3 || part_of[f % P] == part) features.push_back(f);
    return features;
  }
};

// The columns [rows, columns] of a matrix with `width` columns.
template <typename To, typename From>
std::vector<To> columns_of(const std::vector<From>& matrix, int64_t width, const std::vector<int64_t>& columns) {
  std::vector<To> chosen;
  for (size_t row = 0; row < matrix.size(); row += width)
    for (const int64_t column : columns) chosen.push_back(static_cast<To>(matrix[row + column]));
  return chosen;
}

template <typename T>
struct PackedSegment {
  std::vector<int64_t> features;
  std::vector<int32_t> pixels, taps;
  std::vector<T> forward, backward;

  // Part 3 is the image taken whole, with all its pixels in order; otherwise those under a tap, shuffled.
  tracin::Segment<T> fill(const RandomModel<T>& m, int64_t part, int64_t step, int64_t height) {
    features = m.features_of(part);
    const int64_t P = static_cast<int64_t>(features.size()) / m.C;
    std::vector<int32_t> place(2 * m.D, part == 3 ? 0 : -1);
    for (int64_t i = 0; i < P * m.J; ++i) place[m.taps[features[i / m.J] * m.J + i % m.J]] = 0;
    for (int32_t x = 0; x < 2 * m.D; ++x)
      if (place[x] == 0) pixels.push_back(x);
    if (part != 3) std::shuffle(pixels.begin(), pixels.end(), generator);
    for (size_t x = 0; x < pixels.size(); ++x) place[pixels[x]] = static_cast<int32_t>(x);
    for (int64_t i = 0; i < P * m.J; ++i) taps.push_back(place[m.taps[features[i / m.J] * m.J + i % m.J]]);
    const auto fc = columns_of<T>(m.fc, m.F, features);
    forward = pack_chunks(fc, m.D, m.C, P, step, height);
    backward = pack_chunks(fc, m.D, m.C, P, step, height, true);
    return {P, static_cast<int64_t>(pixels.size()), step, pixels.data(), taps.data(), forward.data(), backward.data()};
  }
};

// What the kernels read; the model of random numbers must outlive it.
template <typename T>
struct PackedModel {
  PackedSegment<T> parts[3];
  std::vector<int32_t> head_positions, both_positions;
  tracin::Model<T> model{};

  PackedModel(const PackedModel&) = delete;
  // `told_apart`: positions of the whole image, as on CUDA.
  PackedModel(const RandomModel<T>& m, int64_t height, bool halves, bool told_apart = false) {
    for (int32_t p = 0; told_apart && p < m.P; ++p)
      if (m.part_of[p] < 2) (m.part_of[p] ? both_positions : head_positions).push_back(p);
    if (!head_positions.empty()) {
      model.head_positions = head_positions.data(), model.head_P = static_cast<int64_t>(head_positions.size());
      model.both_positions = both_positions.data(), model.both_P = static_cast<int64_t>(both_positions.size());
    }
    const int64_t D = m.D;
    model.D = D, model.C = m.C, model.J = m.J, model.entities = m.N;
    model.relations = m.R, model.relation_step = m.relation_step;
    model.entity = m.entity.data(), model.relation = m.relation.data(), model.bias = m.bias.data();
    model.pixel_mean = m.pixel.data(), model.pixel_rstd = m.pixel.data() + 2 * D;
    model.kernel = m.kernel.data(), model.shift = m.shift.data(), model.pixel_kernel = m.pixel_kernel.data();
    model.scale = m.hidden.data(), model.offset = m.hidden.data() + D, model.norm_scale = m.hidden.data() + 2 * D;
    model.norm_offset = m.hidden.data() + 3 * D, model.delta_scale = m.hidden.data() + 4 * D;
    model.head_half.step = model.relation_half.step = 1;
    if (halves) model.head_half = parts[0].fill(m, 0, m.shape.steps[0], height);
    model.middle = parts[1].fill(m, halves ? 1 : 3, m.shape.steps[1], height);
    if (halves) model.relation_half = parts[2].fill(m, 2, m.shape.steps[2], height);
    model.P = m.P, model.taps = m.taps.data(), model.fc = m.fc.data();
    if (std::is_same_v<T, double>) return;
    model.exact_pixel = m.exact_pixel.data(), model.exact_hidden = m.exact_hidden.data();
    model.exact_kernel = m.exact_kernel.data(), model.exact_shift = m.exact_shift.data();
    model.exact_kink = m.exact_kink.data();
  }
};

// A Multiply by its definition, in any height. What nobody may read is NaN.
template <typename T>
void plain_multiply(const tracin::Operand<T>& a, int64_t row, int64_t rows, int64_t from, int64_t k, const T* b,
                    int64_t b_stride, int64_t groups, int64_t active, bool accumulate, T* c, int64_t c_stride) {
  for (int64_t g = 0; g < groups; ++g)
    for (int64_t r = row; r < row + rows; ++r)
      for (int64_t lane = 0; lane < tracin::lanes; ++lane) {
        T& out = c[g * c_stride + (r - row) * tracin::lanes + lane];
        if (g + 1 == groups && lane >= active) {
          out = T(NAN);
          continue;
        }
        T sum = accumulate ? out : T(0);
        for (int64_t l = 0; l < k; ++l)
          sum += a.data[(r / a.height * a.k + from + l) * a.height + r % a.height] *
                 b[g * b_stride + l * tracin::lanes + lane];
        out = sum;
      }
}
