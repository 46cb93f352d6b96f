// The three CPU kernels without torch, against their definitions in double: the kernel K(q, b) of influence_block.cpp
// from factors computed triple by triple, and a full sort. Tiles run on two threads.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <thread>
#include <vector>

#include "random_model.h"

namespace {

using Numbers = std::vector<double>;

double dot(const Numbers& a, const Numbers& b) { return std::inner_product(a.begin(), a.end(), b.begin(), 0.0); }

// One triple's factors by the formulas of the model: forward, then backward.
struct Factors {
  int64_t head, relation, tail;
  double w;
  Numbers v, z, e, e_un, delta, S, c, q;  // [F], [D], [D], [D], [D], [S], [D], [D]
};

template <typename T>
Factors factors_of(const RandomModel<T>& random, const int64_t* triple) {
  const tracin::Model<T>& m = random.model;
  const int64_t D = m.D, F = m.features(), X = 2 * D;
  Factors x{triple[0], triple[1], triple[2], 0, Numbers(F), Numbers(D), Numbers(D), Numbers(D), Numbers(D),
            Numbers(m.statistics()), Numbers(D), Numbers(D)};
  Numbers image(X), un(D);
  for (int64_t i = 0; i < X; ++i) {
    const T raw = i < D ? m.entity[x.head * D + i] : m.relation[x.relation * m.relation_step * D + i - D];
    image[i] = (static_cast<double>(raw) - m.pixel_mean[i]) * m.pixel_rstd[i];
  }
  for (int64_t f = 0; f < F; ++f) {
    double sum = m.shift[f / m.P];
    for (int64_t j = 0; j < m.J; ++j) sum += m.kernel[f / m.P * m.J + j] * image[m.taps[f % m.P * m.J + j]];
    x.v[f] = std::max(sum, 0.0);
  }
  double score = m.bias[x.tail];
  for (int64_t d = 0; d < D; ++d) {
    double u = 0;
    for (int64_t f = 0; f < F; ++f) u += m.fc[d * F + f] * x.v[f];
    un[d] = m.norm_scale[d] * u + m.norm_offset[d];
    x.z[d] = std::max(m.scale[d] * u + m.offset[d], 0.0);
    score += x.z[d] * m.entity[x.tail * D + d];
  }
  x.w = -1 / (1 + std::exp(score));
  for (int64_t d = 0; d < D; ++d) {
    x.e[d] = x.z[d] > 0 ? x.w * m.entity[x.tail * D + d] : 0;
    x.e_un[d] = x.e[d] * un[d];
    x.delta[d] = x.e[d] * m.delta_scale[d];
  }
  for (int64_t f = 0; f < F; ++f) {
    double y = 0;
    for (int64_t d = 0; d < D && x.v[f] > 0; ++d) y += m.fc[d * F + f] * x.delta[d];
    const int64_t c = f / m.P;
    x.S[c * (m.J + 1) + m.J] += y;
    for (int64_t j = 0; j < m.J; ++j) {
      const int64_t pixel = m.taps[f % m.P * m.J + j];
      x.S[c * (m.J + 1) + j] += y * image[pixel];
      (pixel < D ? x.c[pixel] : x.q[pixel - D]) += y * m.pull[c * m.J + j];
    }
  }
  return x;
}

Numbers times(const Numbers& form, const Numbers& x) {  // [S, S] [S] -> [S]
  Numbers result(x.size());
  for (size_t i = 0; i < x.size(); ++i)
    result[i] = std::inner_product(x.begin(), x.end(), form.begin() + i * x.size(), 0.0);
  return result;
}

double kernel_of(const Factors& a, const Factors& b, const Numbers& form) {
  double sum = dot(a.delta, b.delta) * (1 + dot(a.v, b.v)) + dot(a.e, b.e) + dot(a.e_un, b.e_un);
  sum += dot(a.S, times(form, b.S));
  if (a.relation == b.relation) sum += dot(a.q, b.q);
  if (a.head == b.head) sum += dot(a.c, b.c);
  if (a.tail == b.tail) sum += a.w * b.w * (dot(a.z, b.z) + 1);
  if (a.head == b.tail) sum += b.w * dot(a.c, b.z);
  if (a.tail == b.head) sum += a.w * dot(a.z, b.c);
  return sum;
}

// The test side as the kernels take it; every test has its own row of features.
template <typename T>
struct TestSide {
  std::vector<int64_t> triples, group;
  std::vector<T> features, delta, linear, residual, pull, head, relation;

  TestSide(const RandomModel<T>& random, const std::vector<Factors>& tests, const Numbers& form) {
    const auto append = [](std::vector<T>& to, const Numbers& from, double factor = 1) {
      for (double value : from) to.push_back(static_cast<T>(factor * value));
    };
    for (const Factors& x : tests) {
      triples.insert(triples.end(), {x.head, x.relation, x.tail});
      group.push_back(static_cast<int64_t>(group.size()));
      append(features, x.v);
      for (int64_t d = 0; d < random.D; ++d) delta.push_back(static_cast<T>(x.delta[d] * random.model.delta_scale[d]));
      append(linear, x.e);
      append(linear, x.e_un);
      append(linear, times(form, x.S));
      residual.push_back(static_cast<T>(x.w));
      append(pull, x.z, x.w);
      append(head, x.c);
      append(relation, x.q);
    }
  }

  tracin::Tests<T> tests() const {
    const auto Q = static_cast<int64_t>(group.size());
    return {Q, Q, triples.data(), group.data(), features.data(), delta.data(), linear.data(), residual.data(),
            pull.data(), head.data(), relation.data(), T(1), true};
  }
};

template <typename T>
void product(const T* a, const T* b, T* c, int64_t m, int64_t n, int64_t k) {
  std::fill(c, c + m * n, T(0));
  for (int64_t i = 0; i < m; ++i)
    for (int64_t l = 0; l < k; ++l)
      for (int64_t j = 0; j < n; ++j) c[i * n + j] += a[i * k + l] * b[l * n + j];
}

void on_two_threads(int64_t n, void (*work)(void*, int64_t), void* context) {
  std::thread odd([=] {
    for (int64_t i = 1; i < n; i += 2) work(context, i);
  });
  for (int64_t i = 0; i < n; i += 2) work(context, i);
  odd.join();
}
const tracin::Parallel parallel{&on_two_threads};

template <typename T>
void test_blocks(int64_t channels, int64_t taps, int64_t B) {
  constexpr int64_t Q = 5;
  RandomModel<T> random(channels, taps);
  const int64_t S = random.S;
  Numbers form = normal<double>(S * S);
  for (int64_t i = 0; i < S * S; ++i) form[i] = i / S <= i % S ? form[i] : form[i % S * S + i / S];
  const std::vector<T> rounded(form.begin(), form.end());

  // Few entities, so that heads and tails coincide; runs of equal pairs; a self-loop among the tests.
  std::vector<int64_t> triples(3 * B), tests(3 * Q);
  for (int64_t i = 0; i < 3 * B; ++i)
    triples[i] = i >= 3 && i % 3 < 2 && i % 4 ? triples[i - 3] : integers<int64_t>(1, i % 3 == 1 ? random.R : random.N)[0];
  for (int64_t i = 0; i < 3 * Q; ++i) tests[i] = integers<int64_t>(1, i % 3 == 1 ? random.R : random.N)[0];
  tests[2] = tests[0];

  std::vector<Factors> left, right;
  for (int64_t q = 0; q < Q; ++q) left.push_back(factors_of(random, &tests[3 * q]));
  for (int64_t b = 0; b < B; ++b) right.push_back(factors_of(random, &triples[3 * b]));
  const TestSide<T> side(random, left, form);
  const tracin::Tracked<T> all{rounded.data(), true, true, true, true, true, true, true};

  Numbers expected, expected_self;
  double largest = 0;
  for (const Factors& q : left)
    for (const Factors& b : right) expected.push_back(1 + 0.5 * kernel_of(q, b, form));
  for (const Factors& b : right) expected_self.push_back(1 + 0.5 * kernel_of(b, b, form));
  for (const Numbers* numbers : {&expected, &expected_self})
    for (double value : *numbers) largest = std::max(largest, std::abs(value));
  for (int64_t tile : {int64_t(1), int64_t(7), int64_t(16), B + 1}) {
    std::vector<T> scores(Q * B, T(1)), own(B, T(1));
    influence_block<T>(random.model, side.tests(), triples.data(), B, T(0.5), scores.data(), tile, &product<T>, parallel);
    self_influence_block<T>(random.model, all, triples.data(), B, T(0.5), own.data(), tile, &product<T>, parallel);
    expect_close("", "influence_block", scores, expected, largest);
    expect_close("", "self_influence_block", own, expected_self, largest);
  }
}

template <typename T>
void test_merge_top_k(int64_t B, int64_t k, tracin::Order order) {
  constexpr int64_t Q = 3, blocks = 3;
  std::vector<T> best(Q * k, T(0));
  std::vector<int64_t> best_index(Q * k, -1);
  std::vector<std::vector<std::pair<double, int64_t>>> seen(Q);  // (-key, column)
  for (int64_t block = 0; block < blocks; ++block) {
    const auto scores = integers<T>(Q * B, 50);
    std::vector<int64_t> columns(B);
    for (int64_t b = 0; b < B; ++b) columns[b] = (block + 1) * B - b - 1;
    merge_top_k<T>(scores.data(), columns.data(), Q, B, k, order, best.data(), best_index.data(), parallel);
    for (int64_t i = 0; i < Q * B; ++i)
      seen[i / B].emplace_back(order == tracin::Order::opponents ? scores[i] : -scores[i], columns[i % B]);
  }
  Numbers expected(Q * k, 0.0), expected_index(Q * k, -1.0);
  for (int64_t q = 0; q < Q; ++q) {
    std::sort(seen[q].begin(), seen[q].end());
    for (int64_t i = 0; i < std::min(k, blocks * B); ++i) {
      expected[q * k + i] = std::abs(seen[q][i].first);
      expected_index[q * k + i] = static_cast<double>(seen[q][i].second);
    }
  }
  expect_close("", "merge_top_k", best, expected);
  expect_close("", "merge_top_k (index)", Numbers(best_index.begin(), best_index.end()), expected_index);
}

template <typename T>
void test() {
  for (int64_t B : {1, 7, 15, 16, 17, 50}) {
    test_blocks<T>(5, 9, B);
    test_blocks<T>(2, 12, B);
  }
  for (int64_t k : {1, 3, 40, 2000})
    for (const auto order : {tracin::Order::absolute, tracin::Order::proponents, tracin::Order::opponents})
      for (int64_t B : {1, 16, 1000}) test_merge_top_k<T>(B, k, order);
}

}  // namespace

int main() {
  test<float>();
  test<double>();
  return failures ? 1 : 0;
}
