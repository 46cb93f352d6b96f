// Inner products with functionals, by their definition in double; odd sizes, missing tables, rows in any order.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "kernels.h"

namespace {

int failures = 0;

const tracin::Parallel parallel{[](int64_t n, void (*work)(void*, int64_t), void* context) {
  for (int64_t i = 0; i < n; ++i) work(context, i);
}};

template <typename T>
std::vector<T> draw(std::mt19937& random, int64_t size) {
  std::normal_distribution<double> normal;
  std::vector<T> values(size);
  for (T& value : values) value = static_cast<T>(normal(random));
  return values;
}

template <typename T>
double dot(const T* a, const T* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

// tables: bit 0 entity, 1 bias, 2 relation
template <typename T>
void test(int64_t n, int64_t Q, int64_t D, int tables) {
  constexpr int64_t N = 5, R = 3;
  std::mt19937 random(static_cast<unsigned>(n + 7 * Q + 31 * D + tables));
  const int64_t G = (n + 1) / 2;
  std::vector<int64_t> triples(3 * n);
  std::vector<int32_t> pair(n), by_tail(n);
  for (int64_t i = 0; i < n; ++i) {
    triples[3 * i] = random() % N, triples[3 * i + 1] = random() % R, triples[3 * i + 2] = random() % N;
    pair[i] = static_cast<int32_t>(i / 2);
  }
  std::iota(by_tail.begin(), by_tail.end(), 0);
  std::shuffle(by_tail.begin(), by_tail.end(), random);
  const auto w = draw<T>(random, n), z = draw<T>(random, G * D), c = draw<T>(random, n * D), q = draw<T>(random, n * D);
  const auto entity = draw<T>(random, N * Q * D), bias = draw<T>(random, N * Q), relation = draw<T>(random, R * Q * D);
  const tracin::SampleGradients<T> samples = {n,        G,        D,        triples.data(), pair.data(),
                                              w.data(), z.data(), c.data(), q.data(),       by_tail.data()};
  const tracin::Tables<T> to = {Q, tables & 1 ? entity.data() : nullptr, tables & 2 ? bias.data() : nullptr,
                                tables & 4 ? relation.data() : nullptr};
  std::vector<T> scores(n * Q, std::nan(""));
  tracin::table_scores<T>(samples, to, scores.data(), parallel);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t k = 0; k < Q; ++k) {
      const int64_t h = triples[3 * i] * Q + k, r = triples[3 * i + 1] * Q + k, t = triples[3 * i + 2] * Q + k;
      double expected = 0, size = 1;
      const auto add = [&](double term) { expected += term, size += std::fabs(term); };
      if (to.entity) add(dot(&c[i * D], &entity[h * D], D));
      if (to.entity) add(w[i] * dot(&z[pair[i] * D], &entity[t * D], D));
      if (to.bias) add(static_cast<double>(w[i]) * bias[t]);
      if (to.relation) add(dot(&q[i * D], &relation[r * D], D));
      const double error = std::fabs(scores[i * Q + k] - expected);
      if (!(error <= 4 * static_cast<double>(D) * std::numeric_limits<T>::epsilon() * size)) {
        std::printf("n %lld, Q %lld, D %lld, tables %d: sample %lld, functional %lld is off by %g\n",
                    static_cast<long long>(n), static_cast<long long>(Q), static_cast<long long>(D), tables,
                    static_cast<long long>(i), static_cast<long long>(k), error);
        ++failures;
        return;
      }
    }
}

}  // namespace

int main() {
  for (const int64_t n : {0, 1, 7, 256, 257})
    for (const int64_t Q : {1, 3})
      for (const int64_t D : {1, 16, 33, 200})
        for (int tables = 0; tables < 8; ++tables) {
          test<float>(n, Q, D, tables);
          test<double>(n, Q, D, tables);
        }
  return failures ? 1 : 0;
}
