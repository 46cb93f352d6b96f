// Each test's best k training triples from bounds: a test is one thread's work, and waits for no other.
//
//   1 entities   triples that share an entity with the test, largest bound first, until a bound is below the k-th best
//   2 relation   the others of its relation, by the norm of their parts, until norm norm' is below it
//   3 all        the rest, likewise
//   4 zeros      where the k-th best is 0 or worse: triples whose bound is 0, lowest index first
#include <algorithm>

#include "pairs.h"
#include "ranking.h"

namespace tracin {
namespace {

using cpu::Entry;
using cpu::Shared;

constexpr int64_t stretch = 256;  // entries of a list whose bounds are computed together

template <typename T>
struct Candidate {
  T bound;
  int32_t row;
  bool operator<(const Candidate& other) const { return bound < other.bound; }
};

template <typename T>
class Search {
 public:
  Search(const PairModel<T>* models, int64_t checkpoints, const PairLists<T>& lists, int64_t k, Order order, T slack,
         int64_t budget)
      : lists_(lists),
        n_(models[0].train.n),
        checkpoints_(checkpoints),
        k_(k),
        budget_(budget),
        order_(order),
        slack_(slack),
        question_(models, checkpoints) {}

  void find(int64_t test, T* best, int64_t* best_index, int64_t* work) {
    question_.ask(test);
    question_.restart();
    best_.clear();
    outcome_ = found;
    scored_ = compared_ = 0;
    entities();
    const int64_t relation = question_.triple()[1], from = lists_.relation_from[relation];
    list(lists_.relation_rows + from, lists_.relation_totals + from, lists_.relation_norms + from,
         lists_.relation_from[relation + 1] - from, dense_parts + 1, true);
    list(lists_.rows, lists_.totals, lists_.norms, n_, dense_parts, false);
    zeros();
    std::sort_heap(best_.begin(), best_.end());
    for (std::size_t i = 0; i < best_.size(); ++i) best[i] = best_[i].score, best_index[i] = best_[i].index;
    work[0] = outcome_, work[1] = scored_, work[2] = compared_, work[3] = question_.numbers();
  }

 private:
  bool full() const { return static_cast<int64_t>(best_.size()) == k_; }
  bool reaches(T bound) const {  // not below what the list needs; NaN is not
    return !full() || !(bound + slack_ * bound < best_.front().key);
  }

  void offer(T score, int64_t row) {
    const Entry<T> entry = {cpu::key_of(score, order_), score, lists_.index[row]};
    if (full()) {
      if (!(entry < best_.front())) return;
      std::pop_heap(best_.begin(), best_.end());
      best_.back() = entry;
    } else {
      best_.push_back(entry);
    }
    std::push_heap(best_.begin(), best_.end());  // the worst is in front
  }

  void evaluate(int64_t row, T bound, const Shared& shared) {
    const double rounding = static_cast<double>(slack_) * bound;
    const auto within = [&](double low, double high) {
      const double key = order_ == Order::absolute     ? std::fmax(std::fabs(low), std::fabs(high))
                         : order_ == Order::proponents ? high
                                                       : -low;
      return !full() || !(key + rounding < best_.front().key);
    };
    T score = 0;
    ++scored_;
    if (question_.score(row, shared, within, &score)) {
      if (!std::isfinite(score)) outcome_ = not_finite;
      offer(score, row);
    }
    if (question_.numbers() > budget_ && outcome_ == found) outcome_ = too_many;
  }

  // Rows of `entity` as head, then as tail.
  template <typename Visit>
  void rows_of(int64_t entity, const Visit& visit) {
    for (int64_t row = lists_.head_from[entity]; row < lists_.head_from[entity + 1]; ++row) visit(row);
    for (int64_t i = lists_.tail_from[entity]; i < lists_.tail_from[entity + 1]; ++i)
      if (question_.ids(lists_.tail_rows[i])[0] != entity) visit(lists_.tail_rows[i]);
  }

  void entities() {
    candidates_.clear();
    const int64_t head = question_.triple()[0], tail = question_.triple()[2];
    const auto add = [&](int64_t row) {
      ++compared_;
      const T bound = question_.bound(row, question_.shared(row));
      if (bound != 0) candidates_.push_back({bound, static_cast<int32_t>(row)});
    };
    rows_of(head, add);
    if (tail != head)
      rows_of(tail, [&](int64_t row) {
        const int64_t* ids = question_.ids(row);
        if (ids[0] != head && ids[2] != head) add(row);
      });
    std::make_heap(candidates_.begin(), candidates_.end());
    while (!candidates_.empty() && reaches(candidates_.front().bound) && outcome_ == found) {
      const Candidate<T> next = candidates_.front();
      std::pop_heap(candidates_.begin(), candidates_.end());
      candidates_.pop_back();
      evaluate(next.row, next.bound, question_.shared(next.row));
    }
  }

  // A list whose totals fall; of triples that share no entity, and those of the test's relation alone or without them.
  void list(const int32_t* rows, const T* totals, const T* norms, int64_t n, int64_t parts, bool of_relation) {
    const T total = question_.list_norms(parts, test_norms_);
    T bounds[stretch];
    for (int64_t first = 0; first < n && outcome_ == found && reaches(totals[first] * total); first += stretch) {
      if (total == 0 || totals[first] == 0) return;
      const int64_t count = std::min(stretch, n - first);
      compared_ += count;
      cpu::loops<T>().bounds(norms + first, n_, checkpoints_ * parts, test_norms_.data(), count, bounds);
      int64_t reaching[stretch], m = 0;
      for (int64_t i = 0; i < count; ++i) {
        reaching[m] = rows[first + i];
        m += reaches(bounds[i]);
      }
      for (int64_t i = 0; i < m && outcome_ == found; ++i) {
        if (i + 8 < m) question_.prefetch_row(reaching[i + 8]);
        if (i + 2 < m) question_.prefetch_pair(reaching[i + 2]);
        const Shared shared = question_.shared(reaching[i]);
        if (shared.entity() || shared.relation != of_relation) continue;
        const T bound = question_.bound(reaching[i], shared);
        if (bound != 0 && reaches(bound)) evaluate(reaching[i], bound, shared);
      }
    }
  }

  void zeros() {
    if (full() && best_.front().key > 0) return;
    int64_t offered = 0;
    for (int64_t i = 0; i < n_ && offered < k_ && outcome_ == found; ++i) {
      const int64_t row = lists_.row_of[i];
      ++compared_;
      if (question_.bound(row, question_.shared(row)) != 0) continue;
      offer(T(0), row);
      ++offered;
    }
  }

  const PairLists<T>& lists_;
  const int64_t n_, checkpoints_, k_, budget_;
  const Order order_;
  const T slack_;
  cpu::Question<T> question_;
  std::vector<Entry<T>> best_;
  std::vector<Candidate<T>> candidates_;
  std::vector<T> test_norms_;
  Outcome outcome_ = found;
  int64_t scored_ = 0, compared_ = 0;
};

}  // namespace

template <typename T>
void bounded_top_k(const PairModel<T>* models, int64_t checkpoints, const PairLists<T>& lists, int64_t k, Order order,
                   T slack, int64_t budget, T* best, int64_t* best_index, int64_t* work, const Parallel& parallel) {
  parallel(models[0].tests.n, [&](int64_t test) {
    Search<T> search(models, checkpoints, lists, k, order, slack, budget);
    search.find(test, best + test * k, best_index + test * k, work + work_columns * test);
  });
}

template void bounded_top_k(const PairModel<float>*, int64_t, const PairLists<float>&, int64_t, Order, float, int64_t,
                            float*, int64_t*, int64_t*, const Parallel&);
template void bounded_top_k(const PairModel<double>*, int64_t, const PairLists<double>&, int64_t, Order, double,
                            int64_t, double*, int64_t*, int64_t*, const Parallel&);

}  // namespace tracin
