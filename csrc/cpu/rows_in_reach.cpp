// Bounds of training triples that lie anywhere in long tables. Most of the time is memory's: a row's norms and sketch
// are two cache lines; only for rows that these leave, its triple, signs and tail's embedding are read as well.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "loops.h"

namespace tracin {
namespace {

constexpr int64_t together = 4096;  // rows that a thread takes
constexpr int64_t some = 256;       // of them that go from step to step
constexpr int64_t ahead = 16;       // rows that are on their way from memory

// A row that is still in reach.
template <typename T>
struct Candidate {
  int32_t row;
  T bound;
};

template <typename T>
struct Search {
  const RowBounds<T>* of;
  int64_t checkpoints;
  const RowsOf& in;
  T threshold, slack;
  T least = static_cast<T>(std::pow(static_cast<double>(std::numeric_limits<T>::min()), 0.8));  // of a square

  const int32_t* triple(int64_t row) const { return in.triples + 3 * row; }
  const T* norms(int64_t k, int64_t row) const { return of[k].norms + row * norm_parts; }
  bool reaches(T bound) const { return !(bound + slack * bound < threshold); }

  // From norms alone.
  T bound_of(int64_t row) const {
    const int64_t parts = in.which == Which::of_others ? dense_parts : dense_parts + 1;
    T bound = 0;
    for (int64_t k = 0; k < checkpoints; ++k) {
      const T *x = norms(k, row), *y = of[k].test;
      if (in.which == Which::all) {
        const int32_t* ids = triple(row);
        for (int64_t p = 0; p < dense_parts; ++p) bound += x[p] * y[p];
        if (ids[1] == in.relation) bound += x[part_relation] * y[part_relation];
        if (ids[0] == in.head) bound += x[part_head] * y[part_head];
        if (ids[2] == in.tail) bound += x[part_tail] * y[part_tail] + x[part_bias] * y[part_bias];
        if (ids[0] == in.tail) bound += x[part_head] * y[part_tail];
        if (ids[2] == in.head) bound += x[part_tail] * y[part_head];
      } else {
        for (int64_t p = 0; p < parts; ++p) bound += x[p] * y[p];
      }
    }
    return bound;
  }

  // What sketches of S take from it.
  T excess_of_S(int64_t row) const {
    T excess = 0;
    for (int64_t k = 0; k < checkpoints; ++k) {
      if (!of[k].sketches) continue;
      const T* test = of[k].sketch;
      const T share =
          cpu::loops<T>().sketch_share(of[k].sketches + row * (sketch_parts + 1), test) + test[sketch_parts + 1];
      excess += std::max(T(0), 1 - slack - share) * norms(k, row)[part_S] * of[k].test[part_S];
    }
    return excess;
  }

  // What angles between delta, and between e, take from it: 8 D FLOPs.
  T excess_of_hidden(int64_t row) const {
    const int64_t words = round_up(in.D, 32) / 32, tail = triple(row)[2];
    T excess = 0;
    if (tail < 0 || tail >= in.entities) return excess;  // nothing is known
    for (int64_t k = 0; k < checkpoints; ++k) {
      const T *x = norms(k, row), *y = of[k].test;
      T sums[4];
      cpu::loops<T>().angle_sums(of[k].entity + tail * in.D, of[k].signs + row * words, of[k].scaled, of[k].squares,
                                 in.D, sums);
      const auto left_out = [&](int64_t i) {
        const T square = sums[2 + i];
        if (!(square > least && square < 1 / least)) return T(0);
        return std::max(T(0), 1 - slack - std::fabs(sums[i]) / std::sqrt(square));
      };
      excess += left_out(0) * x[part_fc] * y[part_fc] + left_out(1) * x[part_e] * y[part_e];
    }
    return excess;
  }

  bool wanted(int64_t row) const {
    if (in.which == Which::all) return true;
    const int32_t* ids = triple(row);
    const bool shares = ids[0] == in.head || ids[0] == in.tail || ids[2] == in.head || ids[2] == in.tail;
    return !shares && (ids[1] == in.relation) == (in.which == Which::of_relation);
  }

  void fetch(int64_t row) const {
    if (in.which == Which::all) __builtin_prefetch(triple(row));
    for (int64_t k = 0; k < checkpoints; ++k) {
      __builtin_prefetch(norms(k, row));
      if (of[k].sketches) __builtin_prefetch(of[k].sketches + row * (sketch_parts + 1));
    }
  }
  void fetch_hidden(int64_t row) const {
    const int64_t words = round_up(in.D, 32) / 32;
    for (int64_t k = 0; k < checkpoints; ++k) {
      __builtin_prefetch(of[k].signs + row * words);
      for (int64_t d = 0; d < in.D; d += cpu::chunk<T>) __builtin_prefetch(of[k].entity + triple(row)[2] * in.D + d);
    }
  }

  // Of the rows from `first` on, those in reach.
  int64_t find(int64_t first, int64_t n, Candidate<T>* found) const {
    int64_t count = 0;
    for (int64_t i = first; i < first + n; ++i) {
      if (i + ahead < in.m) fetch(in.rows[i + ahead]);
      T bound = bound_of(in.rows[i]);
      if (bound == 0 || !reaches(bound) || !reaches(bound -= excess_of_S(in.rows[i]))) continue;
      found[count++] = {in.rows[i], bound};
      __builtin_prefetch(triple(in.rows[i]));
    }
    int64_t left = 0;
    for (int64_t i = 0; i < count; ++i) {
      if (!wanted(found[i].row)) continue;
      found[left++] = found[i];
      fetch_hidden(found[left - 1].row);
    }
    count = left, left = 0;
    for (int64_t i = 0; i < count; ++i) {
      found[i].bound -= excess_of_hidden(found[i].row);
      if (reaches(found[i].bound)) found[left++] = found[i];
    }
    return left;
  }
};

}  // namespace

template <typename T>
int64_t rows_in_reach(const RowBounds<T>* of, int64_t checkpoints, const RowsOf& in, T threshold, T slack,
                      int32_t* reached, T* bounds, const Parallel& parallel) {
  const Search<T> search = {of, checkpoints, in, threshold, slack};
  const int64_t items = (in.m + together - 1) / together;
  std::vector<int64_t> counts(items);
  parallel(items, [&](int64_t item) {
    Candidate<T> found[some];
    const int64_t first = item * together, end = std::min(in.m, first + together);
    int64_t to = first;
    for (int64_t from = first; from < end; from += some) {
      const int64_t count = search.find(from, std::min(some, end - from), found);
      for (int64_t i = 0; i < count; ++i, ++to) reached[to] = found[i].row, bounds[to] = found[i].bound;
    }
    counts[item] = to - first;
  });
  int64_t count = 0;
  for (int64_t item = 0; item < items; ++item) {
    std::copy_n(reached + item * together, counts[item], reached + count);
    std::copy_n(bounds + item * together, counts[item], bounds + count);
    count += counts[item];
  }
  return count;
}

template int64_t rows_in_reach(const RowBounds<float>*, int64_t, const RowsOf&, float, float, int32_t*, float*,
                               const Parallel&);
template int64_t rows_in_reach(const RowBounds<double>*, int64_t, const RowsOf&, double, double, int32_t*, double*,
                               const Parallel&);

}  // namespace tracin
