// Every loop of every instruction-set variant, in float and double, against its plain definition in double.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include "cpu/dispatch.h"
#include "factors_by_definition.h"

namespace {

using tracin::lanes;
using tracin::Model;
using tracin::round_up;
using tracin::Segment;
using tracin::sketch_parts;
using tracin::cpu::chunk;
using tracin::cpu::Loops;
using tracin::cpu::mask_words;
using tracin::cpu::operand_height;
using tracin::cpu::Word;

template <typename T>
std::vector<double> doubles(const std::vector<T>& values) {
  return {values.begin(), values.end()};
}

// Rows `row` .. and columns `from` .. of an operand; what lies behind a group's last panel must stay.
template <typename T>
void test_multiply(const char* isa, const Loops<T>& loops, int64_t rows, int64_t k, int64_t row, int64_t from,
                   int64_t groups, int64_t active, bool accumulate) {
  const int64_t part = std::min(rows - row, 2 * operand_height), depth = k - from - from / 2;
  const int64_t written = round_up(part, operand_height), b_stride = (depth + 1) * lanes, c_rows = written + 1;
  const std::vector<T> matrix = normal<T>(rows * k), packed = pack(matrix, rows, k, operand_height);
  const std::vector<T> b = normal<T>(groups * b_stride), before = normal<T>(groups * c_rows * lanes);
  std::vector<T> c = before, got;
  loops.multiply({packed.data(), rows, k, operand_height}, row, part, from, depth, b.data(), b_stride, groups, active,
                 accumulate, c.data(), c_rows * lanes);
  std::vector<double> expected;
  for (int64_t at = 0; at < groups * c_rows * lanes; ++at) {
    const int64_t g = at / (c_rows * lanes), i = at / lanes % c_rows, lane = at % lanes;
    if ((i >= part && i < written) || (g + 1 == groups && lane >= active)) continue;
    double sum = i >= part || accumulate ? before[at] : 0;
    for (int64_t l = 0; i < part && l < depth; ++l)
      sum += static_cast<double>(matrix[(row + i) * k + from + l]) * b[g * b_stride + l * lanes + lane];
    expected.push_back(sum);
    got.push_back(c[at]);
  }
  expect_close(isa, "multiply", got, expected, std::sqrt(k));
}

template <typename T>
void test_multiplies(const char* isa, const Loops<T>& loops, int64_t rows, int64_t k) {
  for (int64_t row = 0; row < rows; row += operand_height)
    for (const int64_t from : {int64_t(0), k / 3})
      for (const int64_t groups : {1, 3})
        for (const int64_t active : {16, 32})
          for (const bool accumulate : {false, true})
            test_multiply(isa, loops, rows, k, row, from, groups, active, accumulate);
}

// To bfloat16, the nearer one, and in a tie the even one.
uint16_t rounded(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

float widened(uint16_t value) {
  const uint32_t bits = uint32_t(value) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

// Products in bfloat16: neighbours in k lie in pairs.
void test_narrow(const tracin::Narrow& narrow, int64_t rows, int64_t k, int64_t groups, int64_t active,
                 bool accumulate) {
  const int64_t even = round_up(k, 2), high = round_up(rows, operand_height);
  const auto matrix = normal<float>(rows * k), b = normal<float>(groups * k * lanes);
  const auto before = normal<float>(groups * high * lanes);
  std::vector<uint16_t> operand(high * even, 0), panels(groups * even * lanes, 1);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t l = 0; l < k; ++l)
      operand[(r / operand_height * even + l / 2 * 2) * operand_height + r % operand_height * 2 + l % 2] =
          rounded(matrix[r * k + l]);
  for (int64_t g = 0; g < groups; ++g) narrow.narrow(&b[g * k * lanes], k, &panels[g * even * lanes]);
  std::vector<float> c = before;
  const int64_t row = rows > operand_height ? operand_height : 0, part = rows - row;
  narrow.multiply({operand.data(), rows, even, operand_height}, row, part, panels.data(), even * lanes, groups, active,
                  accumulate, c.data(), high * lanes);
  std::vector<float> got;
  std::vector<double> expected;
  for (int64_t g = 0; g < groups; ++g)
    for (int64_t i = 0; i < part; ++i)
      for (int64_t lane = 0; lane < (g + 1 < groups ? lanes : active); ++lane) {
        const int64_t at = (g * high + i) * lanes + lane;
        double sum = accumulate ? before[at] : 0;
        for (int64_t l = 0; l < k; ++l)
          sum += static_cast<double>(widened(rounded(matrix[(row + i) * k + l]))) *
                 widened(rounded(b[(g * k + l) * lanes + lane]));
        expected.push_back(sum);
        got.push_back(c[at]);
      }
  expect_close("bfloat16", "multiply", got, expected, std::sqrt(k));
}

// Channels c0 .. c1 of n samples: the loops that start from an image.
template <typename T>
struct ImageTest {
  const char* isa;
  const Loops<T>& loops;
  const Model<T>& m;
  const Segment<T>& s;
  int64_t entities, n, active = round_up(n, 16), words = mask_words(s.P);
  std::vector<int64_t> heads = integers<int64_t>(n, entities), relations = integers<int64_t>(n, m.relations);
  std::vector<T> image = std::vector<T>(lanes * s.X, T(0));
  std::vector<Word<T>> mask = std::vector<Word<T>>(2 * m.C * words * lanes, 0);

  int64_t pixel(int64_t i, int64_t x) const { return (i / chunk<T> * s.X + x) * chunk<T> + i % chunk<T>; }

  void gather() {
    std::fill(image.begin(), image.begin() + active * s.X, T(NAN));
    loops.gather_images(m, s, heads.data(), relations.data(), n, image.data());
    std::vector<double> expected(active * s.X, 0.0);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t x = 0; x < s.X; ++x) {
        const int64_t at = s.pixels[x];
        const T raw =
            at < m.D ? m.entity[heads[i] * m.D + at] : m.relation[relations[i] * m.relation_step * m.D + at - m.D];
        expected[pixel(i, x)] = (static_cast<double>(raw) - m.pixel_mean[at]) * m.pixel_rstd[at];
      }
    expect_close(isa, "gather_images", image, expected);
  }

  // Masks of two panels: the second is the first once more, so that a sample's column may lie in either.
  void convolve(int64_t c0, int64_t c1) {
    const int64_t rows = (c1 - c0) * s.P;
    std::vector<T> v(rows * lanes, T(NAN)), got;
    loops.convolve(m, s, image.data(), active, c0, c1, v.data(), mask.data());
    std::vector<double> expected, bits, signs;
    for (int64_t f = 0; f < rows; ++f)
      for (int64_t i = 0; i < active; ++i) {
        const int64_t c = c0 + f / s.P, p = f % s.P;
        double sum = m.shift[c];
        for (int64_t j = 0; j < m.J; ++j)
          sum += static_cast<double>(image[pixel(i, s.taps[p * m.J + j])]) * m.kernel[c * m.J + j];
        got.push_back(v[f * lanes + i]);
        expected.push_back(std::fmax(sum, 0));
        bits.push_back(mask[(c * words + p / 32) * lanes + i] >> (p % 32) & 1);
        signs.push_back(got.back() > 0);
      }
    expect_close(isa, "convolve", got, expected);
    expect_close(isa, "convolve (mask)", bits, signs);
    std::copy_n(mask.begin(), m.C * words * lanes, mask.begin() + m.C * words * lanes);
  }

  void backward(int64_t c0, int64_t c1) {
    const int64_t rows = (c1 - c0) * s.P, S = m.size_S(), panel = m.C * words * lanes;
    const auto column = integers<int32_t>(lanes, active);
    std::vector<int32_t> place = column;
    for (int64_t i = 0; i < lanes; i += 3) place[i] += static_cast<int32_t>(panel);
    std::vector<T> y = normal<T>(rows * lanes), sums = normal<T>(S * lanes), pulled = normal<T>(s.X * lanes);
    auto masked = doubles(y), expected_sums = doubles(sums), expected_pulled = doubles(pulled);
    for (int64_t f = 0; f < rows; ++f)
      for (int64_t i = 0; i < active; ++i) {
        const int64_t c = c0 + f / s.P, p = f % s.P;
        if (!(mask[(c * words + p / 32) * lanes + column[i]] >> (p % 32) & 1)) masked[f * lanes + i] = 0;
        const double value = masked[f * lanes + i];
        expected_sums[(c * (m.J + 1) + m.J) * lanes + i] += value;
        for (int64_t j = 0; j < m.J; ++j) {
          const int64_t x = s.taps[p * m.J + j];
          expected_sums[(c * (m.J + 1) + j) * lanes + i] += value * image[pixel(i, x)];
          expected_pulled[x * lanes + i] += value * m.pixel_kernel[c * m.J + j];
        }
      }
    loops.statistics(m, s, image.data(), mask.data(), place.data(), active, c0, c1, y.data(), sums.data());
    expect_close(isa, "statistics (y)", y, masked);
    expect_close(isa, "statistics", sums, expected_sums);
    loops.pixel_gradients(m, s, y.data(), active, c0, c1, pulled.data());
    expect_close(isa, "pixel_gradients", pulled, expected_pulled);
  }
};

template <typename T>
void test_images(const char* isa, const Loops<T>& loops, const RandomModel<T>& random, int64_t n) {
  for (const bool halves : {true, false}) {
    const PackedModel<T> packed(random, operand_height, halves);
    for (const Segment<T>* s : {&packed.model.head_half, &packed.model.middle, &packed.model.relation_half}) {
      if (!s->P) continue;
      ImageTest<T> test{isa, loops, packed.model, *s, random.N, n};
      test.gather();
      for (int64_t c0 = 0; c0 < random.C; c0 += s->step) test.convolve(c0, std::min(random.C, c0 + s->step));
      for (int64_t c0 = 0; c0 < random.C; c0 += s->step) test.backward(c0, std::min(random.C, c0 + s->step));
    }
  }
}

template <typename T>
void test_panels(const char* isa, const Loops<T>& loops, int64_t n, int64_t width) {
  const int64_t stride = width + 3;
  const std::vector<T> rows = normal<T>(n * stride), panel = normal<T>(width * lanes);
  for (const bool accumulate : {false, true}) {
    std::vector<T> to_rows = rows, to_panel = panel;
    std::vector<double> expected_rows = doubles(rows), expected_panel = doubles(panel);
    std::vector<T*> targets(n);
    std::vector<const T*> sources(n);
    for (int64_t i = 0; i < n; ++i) targets[i] = &to_rows[i * stride], sources[i] = &rows[i * stride];
    for (int64_t d = 0; d < width; ++d)
      for (int64_t i = 0; i < lanes; ++i) {
        const double in_panel = panel[d * lanes + i], in_row = i < n ? rows[i * stride + d] : 0;
        expected_panel[d * lanes + i] = in_row + (accumulate ? in_panel : 0);
        if (i < n) expected_rows[i * stride + d] = in_panel + (accumulate ? in_row : 0);
      }
    loops.to_panel(sources.data(), width, n, accumulate, to_panel.data());
    expect_close(isa, "to_panel", to_panel, expected_panel);
    loops.to_rows(panel.data(), width, n, accumulate, targets.data());
    expect_close(isa, "to_rows", to_rows, expected_rows);
  }
}

template <typename T>
void test_rows(const char* isa, const Loops<T>& loops, const Model<T>& m, int64_t tail) {
  const int64_t D = m.D;
  const std::vector<T> u = normal<T>(D);
  std::vector<T> un = u, z(D, T(NAN));
  std::vector<double> un_expected(D), z_expected(D);
  for (int64_t d = 0; d < D; ++d) {
    z_expected[d] = static_cast<double>(m.scale[d]) * u[d] + m.offset[d];
    un_expected[d] = static_cast<double>(m.norm_scale[d]) * u[d] + m.norm_offset[d];
  }
  loops.normalise(m, un.data(), z.data());
  expect_close(isa, "normalise (z)", z, z_expected);
  expect_close(isa, "normalise (un)", un, un_expected);

  for (T& value : z) value = value > 0 ? value : 0;
  double score = m.bias ? m.bias[tail] : 0;
  for (int64_t d = 0; d < D; ++d) score += static_cast<double>(z[d]) * m.entity[tail * D + d];
  const double w = w_by_definition(score);
  std::vector<T> e(D, T(NAN)), e_un(D, T(NAN)), delta(D, T(NAN));
  std::vector<double> e_expected(D), e_un_expected(D), delta_expected(D);
  for (int64_t d = 0; d < D; ++d) {
    e_expected[d] = z[d] > 0 ? w * m.entity[tail * D + d] : 0;
    e_un_expected[d] = e_expected[d] * un[d];
    delta_expected[d] = e_expected[d] * m.delta_scale[d];
  }
  const T got = loops.loss(m, un.data(), z.data(), tail, e.data(), e_un.data(), delta.data());
  expect_close(isa, "loss (w)", std::vector<T>{got}, {w});
  expect_close(isa, "loss (e)", e, e_expected);
  expect_close(isa, "loss (e un)", e_un, e_un_expected);
  expect_close(isa, "loss (delta)", delta, delta_expected);
}

template <typename T>
void test_pairs(const char* isa, const Loops<T>& loops, int64_t n) {
  const auto entity = normal<T>(n), un = normal<T>(n), e = normal<T>(n), e_scaled = normal<T>(n), e_un = normal<T>(n);
  std::vector<int32_t> signs(round_up(n, 32) / 32, 0);
  std::vector<T> sums(3, T(NAN));
  std::vector<double> expected(3, 0.0);
  for (int64_t d = 0; d < n; ++d) {
    if (entity[d] * un[d] < 0) continue;
    signs[d / 32] |= static_cast<int32_t>(uint32_t(1) << (d % 32));
    expected[0] += static_cast<double>(entity[d]) * e[d];
    expected[1] += static_cast<double>(entity[d]) * e_scaled[d];
    expected[2] += static_cast<double>(entity[d]) * un[d] * e_un[d];
  }
  loops.pair_sums(entity.data(), signs.data(), e.data(), e_scaled.data(), n, sums.data());
  sums[2] = loops.pair_un(entity.data(), signs.data(), un.data(), e_un.data(), n);
  expect_close(isa, "pair_sums", sums, expected, std::sqrt(n));

  constexpr int64_t parts = 5;
  const int64_t stride = n + 3;
  const auto norms = normal<T>(parts * stride), test = normal<T>(parts);
  std::vector<T> got(n, T(NAN));
  std::vector<double> wanted(n, 0.0);
  for (int64_t p = 0; p < parts; ++p)
    for (int64_t i = 0; i < n; ++i) wanted[i] += static_cast<double>(test[p]) * norms[p * stride + i];
  loops.bounds(norms.data(), stride, parts, test.data(), n, got.data());
  expect_close(isa, "bounds", got, wanted);

  const int64_t J = n % 2 ? 9 : 11, C = 6, width = 32;  // one round of nine taps, and more
  Model<T> m = {};
  const auto kernel = normal<T>(C * J), fc = normal<T>(C * width), before = normal<T>(J * width);
  m.J = J, m.pixel_kernel = kernel.data();
  const std::vector<int32_t> channels = {1, 2, 5};
  std::vector<int32_t> taps(J);
  for (int64_t j = 0; j < J; ++j) taps[j] = static_cast<int32_t>(J - 1 - j);
  std::vector<T> table = before;
  std::vector<double> sum = doubles(before);
  for (const int32_t c : channels)
    for (int64_t j = 0; j < J; ++j)
      for (int64_t d = 0; d < width; ++d)
        sum[taps[j] * width + d] += static_cast<double>(fc[c * width + d]) * kernel[c * J + j];
  loops.pixel_jacobian(m, taps.data(), channels.data(), 3, fc.data(), width, table.data());
  expect_close(isa, "pixel_jacobian", table, sum);
}

template <typename T>
void test_scores(const char* isa, const Loops<T>& loops, int64_t n) {
  const auto dots = normal<T>(n), gram = normal<T>(n), linear = normal<T>(n), before = normal<T>(n);
  const auto pair = integers<int32_t>(n, n), other = integers<int32_t>(n, n);
  const T rate = T(0.5), fc_bias = T(1);
  for (const bool with_fc : {true, false}) {
    std::vector<T> scores = before;
    std::vector<double> expected(n);
    for (int64_t i = 0; i < n; ++i) {
      const double fc = with_fc ? static_cast<double>(dots[i]) * (static_cast<double>(gram[pair[i]]) + fc_bias) : 0;
      expected[i] = rate * (fc + linear[i]);
    }
    loops.combine(with_fc ? dots.data() : nullptr, with_fc ? gram.data() : nullptr, pair.data(), linear.data(), n, rate,
                  fc_bias, scores.data());
    expect_close(isa, "combine", scores, expected);
  }
  for (const int halves : {0, 1, 2, 3}) {
    const T *head = halves & 1 ? dots.data() : nullptr, *relation = halves & 2 ? linear.data() : nullptr;
    std::vector<T> sums = before;
    std::vector<double> expected = doubles(before);
    for (int64_t i = 0; i < n; ++i) expected[i] += (head ? head[pair[i]] : 0.0) + (relation ? relation[other[i]] : 0.0);
    loops.add_halves(head, pair.data(), relation, other.data(), n, sums.data());
    expect_close(isa, "add_halves", sums, expected);
  }
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(dots[i]) * linear[i];
  expect_close(isa, "dot", std::vector<T>{loops.dot(dots.data(), linear.data(), n)}, {sum}, std::sqrt(n));
}

template <typename T>
void test_add_squares(const char* isa, const Loops<T>& loops, int64_t rows) {
  const std::vector<T> v = normal<T>(rows * lanes);
  std::vector<T> squares = normal<T>(lanes);
  std::vector<double> expected = doubles(squares);
  for (int64_t i = 0; i < rows * lanes; ++i) expected[i % lanes] += static_cast<double>(v[i]) * v[i];
  loops.add_squares(v.data(), rows, squares.data());
  expect_close(isa, "add_squares", squares, expected);
}

template <typename T>
void test_sketches(const char* isa, const Loops<T>& loops, int64_t rows) {
  const std::vector<T> panel = normal<T>(rows * lanes), test = normal<T>(sketch_parts + 1);
  const std::vector<double> basis = doubles(normal<T>(rows * sketch_parts)), scale = doubles(normal<T>(lanes));
  std::vector<double> along(sketch_parts * lanes, 7), expected(sketch_parts * lanes);
  for (int64_t s = 0; s < rows; ++s)
    for (int64_t p = 0; p < sketch_parts; ++p)
      for (int64_t l = 0; l < lanes; ++l)
        expected[p * lanes + l] += basis[s * sketch_parts + p] * scale[l] * panel[s * lanes + l];
  loops.along_basis(panel.data(), rows, scale.data(), basis.data(), along.data());
  expect_close(isa, "along_basis", along, expected);
  std::vector<int8_t> sketch(sketch_parts + 1);
  double sum = 0;
  for (int64_t p = 0; p <= sketch_parts; ++p) sketch[p] = static_cast<int8_t>((p * 37 + rows * 11) % 255 - 127);
  for (int64_t p = 0; p < sketch_parts; ++p) sum += static_cast<double>(sketch[p]) * test[p];
  const double share = std::fabs(sum) + static_cast<double>(sketch[sketch_parts]) * test[sketch_parts];
  expect_close(isa, "sketch_share", std::vector<T>{loops.sketch_share(sketch.data(), test.data())}, {share},
               127 * std::sqrt(sketch_parts));
}

template <typename T>
void test(const char* isa, const Loops<T>& loops) {
  const RandomModel<T> models[] = {RandomModel<T>({11, 13, 7, 9, {33, 40, 5}, {3, 2, 7}}),
                                   RandomModel<T>({5, 17, 5, 12, {4, 7, 64}, {5, 4, 1}}),
                                   RandomModel<T>({5, 6, 4, 33, {3, 2, 1}, {4, 3, 4}})};
  for (const RandomModel<T>& random : models) {
    for (const int64_t n : {1, 7, 15, 16, 17, 31, 32}) test_images(isa, loops, random, n);
    PackedModel<T> packed(random, 0, false);
    Model<T>& model = packed.model;
    test_rows(isa, loops, model, random.N - 1);
    model.bias = nullptr;
    test_rows(isa, loops, model, 0);
  }
  for (const int64_t n : {1, 15, 16, 17, 31, 32})
    for (const int64_t width : {1, 15, 16, 17, 40}) test_panels(isa, loops, n, width);
  for (const int64_t rows : {1, 11, 12, 13, 25, 36})
    for (const int64_t k : {1, 3, 12, 41}) test_multiplies(isa, loops, rows, k);
  for (const int64_t n : {1, 7, 31, 32, 33, 100})
    test_scores(isa, loops, n), test_add_squares(isa, loops, n), test_pairs(isa, loops, n),
        test_sketches(isa, loops, n);
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
  if (const tracin::Narrow* narrow = tracin::cpu::narrow_products()) {
    for (const int64_t rows : {1, 12, 13, 36})
      for (const int64_t k : {1, 2, 7, 40})
        for (const int64_t active : {16, 32})
          for (const bool accumulate : {false, true}) test_narrow(*narrow, rows, k, active / 8, active, accumulate);
  } else {
    std::printf("SKIP bfloat16: this processor has no products in it\n");
  }
  return failures ? 1 : 0;
}
