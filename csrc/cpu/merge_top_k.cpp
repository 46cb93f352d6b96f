// Keeps each test's best k of all scores seen so far. Cost: one comparison a score, and a sort of the few that enter.
#include <algorithm>
#include <vector>

#include "ranking.h"

namespace tracin {
namespace {

using cpu::Entry;
using cpu::key_of;

template <typename T>
void keep_best(std::vector<Entry<T>>& entries, int64_t k) {
  if (static_cast<int64_t>(entries.size()) > k) {
    std::nth_element(entries.begin(), entries.begin() + (k - 1), entries.end());
    entries.resize(k);
  }
}

template <typename T>
void merge_row(const T* scores, const int64_t* index, int64_t B, int64_t k, Order order, T* best, int64_t* best_index) {
  thread_local std::vector<Entry<T>> entries;
  entries.clear();
  for (int64_t i = 0; i < k && best_index[i] >= 0; ++i)
    entries.push_back({key_of(best[i], order), best[i], best_index[i]});
  const auto held = entries.size();
  const bool full = static_cast<int64_t>(held) == k;
  T threshold = full ? entries.back().key : T(0);
  bool bounded = full;
  const std::size_t limit = 2 * k + 1024;
  for (int64_t b = 0; b < B; ++b) {
    const T key = key_of(scores[b], order);
    if (bounded && key < threshold) continue;
    entries.push_back({key, scores[b], index[b]});
    if (entries.size() < limit) continue;
    keep_best(entries, k);
    threshold = entries[k - 1].key;
    bounded = true;
  }
  if (entries.size() == held) return;
  keep_best(entries, k);
  std::sort(entries.begin(), entries.end());
  for (std::size_t i = 0; i < entries.size(); ++i) {
    best[i] = entries[i].score;
    best_index[i] = entries[i].index;
  }
}

}  // namespace

template <typename T>
void merge_top_k(const T* scores, const int64_t* index, int64_t Q, int64_t B, int64_t k, Order order, T* best,
                 int64_t* best_index, const Parallel& parallel) {
  parallel(Q, [&](int64_t q) { merge_row(scores + q * B, index, B, k, order, best + q * k, best_index + q * k); });
}

template void merge_top_k(const float*, const int64_t*, int64_t, int64_t, int64_t, Order, float*, int64_t*,
                          const Parallel&);
template void merge_top_k(const double*, const int64_t*, int64_t, int64_t, int64_t, Order, double*, int64_t*,
                          const Parallel&);

}  // namespace tracin
