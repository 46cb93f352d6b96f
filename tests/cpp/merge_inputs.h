// merge_top_k against a full sort of everything seen, NaN last.
#pragma once
#include <limits>

#include "random_model.h"

using Numbers = std::vector<double>;

constexpr double nan_stand_in = 1000;  // NaN equals nothing

struct Seen {
  double key, score;
  int64_t index;
};

inline double key_of(double score, tracin::Order order) {
  if (std::isnan(score)) return -std::numeric_limits<double>::infinity();
  return order == tracin::Order::absolute ? std::abs(score) : order == tracin::Order::proponents ? score : -score;
}

// Three blocks of B scores of three tests, merged by merge(scores, index, Q, B, k, order, best, best_index).
template <typename T, typename Merge>
void test_merge_top_k(int64_t B, int64_t k, tracin::Order order, bool with_nan, const Merge& merge) {
  constexpr int64_t Q = 3, blocks = 3;
  std::vector<T> best(Q * k, T(0));
  std::vector<int64_t> best_index(Q * k, -1);
  std::vector<std::vector<Seen>> seen(Q);
  for (int64_t block = 0; block < blocks; ++block) {
    auto scores = integers<T>(Q * B, 25, -24);
    for (T& score : scores)
      if (with_nan && score > -8) score = std::numeric_limits<T>::quiet_NaN();
    std::vector<int64_t> index(B);
    for (int64_t b = 0; b < B; ++b) index[b] = (block + 1) * B - b - 1;
    merge(scores.data(), index.data(), Q, B, k, order, best.data(), best_index.data());
    for (int64_t i = 0; i < Q * B; ++i) seen[i / B].push_back({key_of(scores[i], order), scores[i], index[i % B]});
  }
  Numbers expected(Q * k, 0.0), expected_index(Q * k, -1.0);
  for (int64_t q = 0; q < Q; ++q) {
    std::sort(seen[q].begin(), seen[q].end(),
              [](const Seen& x, const Seen& y) { return x.key != y.key ? x.key > y.key : x.index < y.index; });
    for (int64_t i = 0; i < std::min(k, blocks * B); ++i) {
      expected[q * k + i] = seen[q][i].score;
      expected_index[q * k + i] = static_cast<double>(seen[q][i].index);
    }
  }
  for (T& value : best) value = std::isnan(value) ? T(nan_stand_in) : value;
  for (double& value : expected) value = std::isnan(value) ? nan_stand_in : value;
  const char* where = with_nan ? "with NaN" : "";
  expect_close(where, "merge_top_k", best, expected);
  expect_close(where, "merge_top_k (index)", Numbers(best_index.begin(), best_index.end()), expected_index);
}
