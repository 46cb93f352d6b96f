// Random numbers, a random model and the comparison that the C++ tests share.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <type_traits>
#include <vector>

#include "kernels.h"

inline std::mt19937 generator(1);
inline int failures = 0;

template <typename T>
std::vector<T> normal(int64_t N) {
  std::normal_distribution<double> distribution;
  std::vector<T> values(N);
  for (T& value : values) value = static_cast<T>(distribution(generator));
  return values;
}

template <typename T>
std::vector<T> integers(int64_t N, int64_t below) {
  std::uniform_int_distribution<int64_t> distribution(0, below - 1);
  std::vector<T> values(N);
  for (T& value : values) value = static_cast<T>(distribution(generator));
  return values;
}

// |got - expected| <= tolerance (size + |expected|) for every element; reports the first that is not.
template <typename T>
void expect_close(const char* isa, const char* what, const std::vector<T>& got, const std::vector<double>& expected,
                  double size = 1) {
  const double tolerance = std::is_same_v<T, float> ? 3e-5 : 1e-12;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double value = static_cast<double>(got[i]);
    if (std::abs(value - expected[i]) <= tolerance * (size + std::abs(expected[i]))) continue;
    std::printf("FAIL %s %s<%s>: element %zu of %zu is %.17g, expected %.17g\n", isa, what,
                std::is_same_v<T, float> ? "float" : "double", i, expected.size(), value, expected[i]);
    ++failures;
    return;
  }
}

// A model of random numbers; the vectors own what the struct points to.
template <typename T>
struct RandomModel {
  static constexpr int64_t N = 11, R = 3, D = 12, X = 2 * D, P = 40, step = 2;
  int64_t C, J, F, S;
  std::vector<T> entity = normal<T>(N * D), relation = normal<T>(R * step * D), bias = normal<T>(N);
  std::vector<T> pixel = normal<T>(2 * X);   // mean, 1/sigma
  std::vector<T> hidden = normal<T>(5 * D);  // scale, offset, norm_scale, norm_offset, delta_scale
  std::vector<T> shift, kernel, pull, fc, fc_t;
  std::vector<int32_t> taps;
  std::vector<double> exact_pixel{pixel.begin(), pixel.end()}, exact_hidden{hidden.begin(), hidden.begin() + 2 * D};
  std::vector<double> exact_kernel, exact_shift;
  tracin::Model<T> model{};

  RandomModel(const RandomModel&) = delete;
  RandomModel(int64_t channels, int64_t taps_per_filter)
      : C(channels), J(taps_per_filter), F(C * P), S(C * (J + 1)), shift(normal<T>(C)), kernel(normal<T>(C * J)),
        pull(normal<T>(C * J)), fc(normal<T>(D * F)), fc_t(F * D), taps(integers<int32_t>(P * J, X)),
        exact_kernel(kernel.begin(), kernel.end()), exact_shift(shift.begin(), shift.end()) {
    for (int64_t i = 0; i < D * F; ++i) fc_t[i % F * D + i / F] = fc[i];
    model.D = D, model.C = C, model.J = J, model.P = P, model.relation_step = step;
    model.entity = entity.data(), model.relation = relation.data(), model.bias = bias.data();
    model.taps = taps.data(), model.pixel_mean = pixel.data(), model.pixel_rstd = pixel.data() + X;
    model.kernel = kernel.data(), model.shift = shift.data(), model.pull = pull.data();
    model.fc = fc.data(), model.fc_t = fc_t.data();
    model.scale = hidden.data(), model.offset = hidden.data() + D, model.norm_scale = hidden.data() + 2 * D;
    model.norm_offset = hidden.data() + 3 * D, model.delta_scale = hidden.data() + 4 * D;
    if (std::is_same_v<T, double>) return;
    model.exact_pixel = exact_pixel.data(), model.exact_hidden = exact_hidden.data();
    model.exact_kernel = exact_kernel.data(), model.exact_shift = exact_shift.data();
  }
};
