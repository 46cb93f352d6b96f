// Every loop of every instruction-set variant, in float and double, against its plain definition in double.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "cpu/dispatch.h"
#include "random_model.h"

namespace {

using tracin::Model;
using tracin::cpu::Loops;
using tracin::cpu::Word;
using tracin::cpu::chunk_lanes;
using tracin::cpu::mask_words;
using tracin::cpu::round_up;

// n samples of a model in panels of `lanes`, and the loops that start from an image.
template <typename T>
void test_image_loops(const char* isa, const Loops<T>& loops, const RandomModel<T>& random, int64_t n) {
  const Model<T>& m = random.model;
  const int64_t X = random.X, C = random.C, J = random.J, P = random.P, D = random.D, F = random.F, S = random.S;
  const int64_t L = chunk_lanes<T>, lanes = round_up(n, L), words = mask_words(P);
  const auto heads = integers<int64_t>(n, random.N), relations = integers<int64_t>(n, random.R);

  std::vector<T> image(lanes * X, NAN);
  loops.gather_images(m, heads.data(), relations.data(), n, image.data());
  std::vector<double> pixels(lanes * X, 0.0);
  const auto pixel = [&](int64_t i, int64_t x) { return (i / L * X + x) * L + i % L; };
  for (int64_t i = 0; i < n; ++i)
    for (int64_t x = 0; x < X; ++x) {
      const T raw = x < D ? m.entity[heads[i] * D + x] : m.relation[relations[i] * m.relation_step * D + x - D];
      pixels[pixel(i, x)] = (static_cast<double>(raw) - m.pixel_mean[x]) * m.pixel_rstd[x];
    }
  expect_close(isa, "gather_images", image, pixels);

  std::vector<T> v(F * lanes, NAN);
  std::vector<Word<T>> mask(C * words * lanes);
  loops.convolve(m, image.data(), lanes, v.data(), mask.data());
  std::vector<double> features(F * lanes), bits(F * lanes), signs(F * lanes);
  for (int64_t f = 0; f < F; ++f)
    for (int64_t i = 0; i < lanes; ++i) {
      double sum = m.shift[f / P];
      for (int64_t j = 0; j < J; ++j) sum += pixels[pixel(i, m.taps[f % P * J + j])] * m.kernel[f / P * J + j];
      features[f * lanes + i] = sum > 0 ? sum : 0;
      bits[f * lanes + i] = mask[(f / P * words + f % P / 32) * lanes + i] >> (f % P % 32) & 1;
      signs[f * lanes + i] = v[f * lanes + i] > 0;
    }
  expect_close(isa, "convolve", v, features);
  expect_close(isa, "convolve (mask)", bits, signs);

  // As many triples as pairs, each pointing at a random pair.
  const auto group = integers<int32_t>(lanes, lanes);
  auto y = normal<T>(F * lanes);
  std::vector<T> sums(S * lanes, NAN);
  std::vector<double> masked(F * lanes), expected(S * lanes, 0.0), pulled(X * lanes, 0.0);
  for (int64_t f = 0; f < F; ++f)
    for (int64_t i = 0; i < lanes; ++i) {
      const double value = bits[f * lanes + group[i]] * y[f * lanes + i];
      const int64_t c = f / P;
      masked[f * lanes + i] = value;
      expected[(c * (J + 1) + J) * lanes + i] += value;
      for (int64_t j = 0; j < J; ++j) {
        const int64_t x = m.taps[f % P * J + j];
        expected[(c * (J + 1) + j) * lanes + i] += value * image[pixel(i, x)];
        pulled[x * lanes + i] += value * m.pull[c * J + j];
      }
    }
  loops.statistics(m, image.data(), mask.data(), lanes, group.data(), lanes, y.data(), sums.data());
  expect_close(isa, "statistics (y)", y, masked);
  expect_close(isa, "statistics", sums, expected);
  std::vector<T> at_pixels(X * lanes, NAN);
  loops.pull_back(m, y.data(), lanes, at_pixels.data());
  expect_close(isa, "pull_back", at_pixels, pulled);
}

template <typename T>
void test_panels(const char* isa, const Loops<T>& loops, int64_t n) {
  const int64_t width = 7, lanes = round_up(n, chunk_lanes<T>);
  const auto rows = normal<T>(n * width), scale = normal<T>(width);
  for (const T* factor : {scale.data(), static_cast<const T*>(nullptr)}) {
    std::vector<T> panel(width * lanes, NAN), back(n * width, NAN);
    std::vector<double> expected(width * lanes, 0.0), expected_back(n * width);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t d = 0; d < width; ++d)
        expected[d * lanes + i] = expected_back[i * width + d] =
            static_cast<double>(rows[i * width + d]) * (factor ? factor[d] : 1);
    loops.to_panel(rows.data(), width, lanes, n, factor, panel.data());
    expect_close(isa, "to_panel", panel, expected);
    loops.to_rows(panel.data(), width, lanes, n, back.data());
    expect_close(isa, "to_rows", back, expected_back);
  }
}

template <typename T>
void test_row_loops(const char* isa, const Loops<T>& loops, RandomModel<T>& random, int64_t n) {
  const Model<T>& m = random.model;
  const int64_t D = random.D;
  const auto u = normal<T>(n * D);
  std::vector<T> un = u, z(n * D, NAN);
  std::vector<double> un_expected(n * D), z_expected(n * D);
  for (int64_t i = 0; i < n * D; ++i) {
    z_expected[i] = static_cast<double>(m.scale[i % D]) * u[i] + m.offset[i % D];
    un_expected[i] = static_cast<double>(m.norm_scale[i % D]) * u[i] + m.norm_offset[i % D];
  }
  loops.normalise(m, n, un.data(), z.data());
  expect_close(isa, "normalise (z)", z, z_expected);
  expect_close(isa, "normalise (un)", un, un_expected);

  for (T& value : z) value = value > 0 ? value : 0;
  const auto group = integers<int32_t>(n, n);
  const auto tails = integers<int64_t>(n, random.N);
  std::vector<T> w(n, NAN), e(n * D, NAN), e_un(n * D, NAN);
  std::vector<double> w_expected(n), e_expected(n * D), e_un_expected(n * D);
  for (int64_t i = 0; i < n; ++i) {
    double score = m.bias ? m.bias[tails[i]] : 0;
    for (int64_t d = 0; d < D; ++d) score += static_cast<double>(z[group[i] * D + d]) * m.entity[tails[i] * D + d];
    w_expected[i] = -1 / (1 + std::exp(score));
    for (int64_t d = 0; d < D; ++d) {
      const double error = z[group[i] * D + d] > 0 ? w_expected[i] * m.entity[tails[i] * D + d] : 0;
      e_expected[i * D + d] = error;
      e_un_expected[i * D + d] = error * un[group[i] * D + d];
    }
  }
  loops.residuals(m, group.data(), tails.data(), n, un.data(), z.data(), w.data(), e.data(), e_un.data());
  expect_close(isa, "residuals (w)", w, w_expected);
  expect_close(isa, "residuals (e)", e, e_expected);
  expect_close(isa, "residuals (e un)", e_un, e_un_expected);
}

template <typename T>
void test_scores(const char* isa, const Loops<T>& loops, int64_t n) {
  const auto dots = normal<T>(n), gram = normal<T>(n), linear = normal<T>(n), before = normal<T>(n);
  const auto group = integers<int32_t>(n, n);
  const T rate = T(0.5), fc_bias = T(1);
  for (bool with_fc : {true, false}) {
    std::vector<T> scores = before;
    std::vector<double> expected(n);
    for (int64_t i = 0; i < n; ++i) {
      const double fc = with_fc ? static_cast<double>(dots[i]) * (static_cast<double>(gram[group[i]]) + fc_bias) : 0;
      expected[i] = before[i] + rate * (fc + linear[i]);
    }
    loops.combine(with_fc ? dots.data() : nullptr, with_fc ? gram.data() : nullptr, group.data(), linear.data(), n, rate,
                  fc_bias, scores.data());
    expect_close(isa, "combine", scores, expected);
  }
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(dots[i]) * linear[i];
  expect_close(isa, "dot", std::vector<T>{loops.dot(dots.data(), linear.data(), n)}, {sum});
}

template <typename T>
void test(const char* isa, const Loops<T>& loops) {
  RandomModel<T> models[] = {{5, 9}, {4, 12}, {1, 6}};
  models[1].model.bias = nullptr;
  const int64_t L = chunk_lanes<T>;
  for (int64_t n : {int64_t(1), int64_t(7), L - 1, L, L + 1, 3 * L + 5}) {
    for (RandomModel<T>& random : models) {
      test_image_loops(isa, loops, random, n);
      test_row_loops(isa, loops, random, n);
    }
    test_panels(isa, loops, n);
    test_scores(isa, loops, n);
  }
}

}  // namespace

int main() {
  for (const tracin::cpu::Variant& variant : tracin::cpu::variants()) {
    if (!variant.supported) {
      std::printf("SKIP %s: this processor cannot run it\n", variant.isa);
      continue;
    }
    test(variant.isa, *variant.float_loops);
    test(variant.isa, *variant.double_loops);
    std::printf("%s: %d failures so far\n", variant.isa, failures);
  }
  return failures ? 1 : 0;
}
