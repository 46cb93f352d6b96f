// Rows in reach, by the definition of their bounds in double: more rows than go together, tails outside the table.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>
#include <vector>

#include "kernels.h"

namespace {

using tracin::norm_parts, tracin::sketch_parts, tracin::Which;

int failures = 0;

const tracin::Parallel parallel{[](int64_t n, void (*work)(void*, int64_t), void* context) {
  for (int64_t i = 0; i < n; ++i) work(context, i);
}};

template <typename T>
struct Checkpoint {
  std::vector<T> norms, entity, test, sketch, scaled, squares;
  std::vector<int32_t> signs;
  std::vector<int8_t> sketches;

  Checkpoint(std::mt19937& random, int64_t n, int64_t N, int64_t D, bool sketched) {
    std::uniform_real_distribution<double> uniform;
    const auto fill = [&](std::vector<T>& x, int64_t size, double low) {
      x.resize(size);
      for (T& value : x) value = static_cast<T>(low + (1 - low) * uniform(random));
    };
    fill(norms, n * norm_parts, 0), fill(entity, N * D, -1), fill(test, norm_parts, 0), fill(scaled, 2 * D, -1);
    fill(sketch, sketch_parts + 2, -1), fill(squares, 2 * D, 0);
    for (T& value : sketch) value /= T(sketch_parts * 127);
    sketch[sketch_parts] = T(0.5) / 127, sketch[sketch_parts + 1] = T(0.02);
    signs.resize(n * (tracin::round_up(D, 32) / 32));
    for (int32_t& word : signs) word = static_cast<int32_t>(random());
    sketches.resize(sketched ? n * (sketch_parts + 1) : 0);
    for (int8_t& value : sketches) value = static_cast<int8_t>(random() % 255 - 127);
    for (std::size_t i = sketch_parts; i < sketches.size(); i += sketch_parts + 1) sketches[i] = 100;
  }

  tracin::RowBounds<T> view() const {
    return {norms.data(),  signs.data(),  sketches.empty() ? nullptr : sketches.data(),
            entity.data(), test.data(),   sketch.data(),
            scaled.data(), squares.data()};
  }

  double bound(const int32_t* ids, const tracin::RowsOf& in, int64_t row, double slack) const {
    const T *x = &norms[row * norm_parts], *y = test.data();
    double result = 0, whole[norm_parts];
    for (int64_t p = 0; p < norm_parts; ++p) whole[p] = static_cast<double>(x[p]) * y[p];
    for (int64_t p = 0; p < tracin::dense_parts; ++p) result += whole[p];
    if (ids[1] == in.relation) result += whole[tracin::part_relation];
    if (ids[0] == in.head) result += whole[tracin::part_head];
    if (ids[2] == in.tail) result += whole[tracin::part_tail] + whole[tracin::part_bias];
    if (ids[0] == in.tail) result += static_cast<double>(x[tracin::part_head]) * y[tracin::part_tail];
    if (ids[2] == in.head) result += static_cast<double>(x[tracin::part_tail]) * y[tracin::part_head];
    if (!sketches.empty()) {
      double sum = 0;
      const int8_t* own = &sketches[row * (sketch_parts + 1)];
      for (int64_t p = 0; p < sketch_parts; ++p) sum += own[p] * static_cast<double>(sketch[p]);
      const double share = std::fabs(sum) + own[sketch_parts] * static_cast<double>(sketch[sketch_parts]);
      result -= whole[tracin::part_S] * std::max(0.0, 1 - slack - share - sketch[sketch_parts + 1]);
    }
    if (ids[2] < 0 || ids[2] >= in.entities) return result;
    const int64_t words = tracin::round_up(in.D, 32) / 32;
    for (int64_t i = 0; i < 2; ++i) {
      double sum = 0, square = 0;
      for (int64_t d = 0; d < in.D; ++d) {
        const double value = entity[ids[2] * in.D + d];
        if (!(static_cast<uint32_t>(signs[row * words + d / 32]) >> (d % 32) & 1)) continue;
        sum += value * scaled[i * in.D + d], square += value * value * squares[i * in.D + d];
      }
      const double cosine = square > 0 ? std::fabs(sum) / std::sqrt(square) : 1;
      result -= whole[i ? tracin::part_e : tracin::part_fc] * std::max(0.0, 1 - slack - cosine);
    }
    return result;
  }
};

template <typename T>
void test(int64_t m, int64_t D, bool sketched, Which which) {
  constexpr int64_t n = 300, N = 6, R = 3;
  std::mt19937 random(static_cast<unsigned>(m + 31 * D + sketched));
  const Checkpoint<T> checkpoints[] = {{random, n, N, D, sketched}, {random, n, N, D, true}};
  const tracin::RowBounds<T> of[] = {checkpoints[0].view(), checkpoints[1].view()};
  std::vector<int32_t> triples(3 * n), rows(m), reached(m);
  for (int64_t i = 0; i < 3 * n; ++i) triples[i] = static_cast<int32_t>(random() % (i % 3 == 1 ? R : N));
  triples[3 * 7 + 2] = std::numeric_limits<int32_t>::max(), triples[3 * 8 + 2] = -1;
  for (int32_t& row : rows) row = static_cast<int32_t>(random() % n);
  std::vector<T> bounds(m);
  const tracin::RowsOf in = {triples.data(), rows.data(), m, D, N, 1, 2, 3, which};
  const double slack = 1e-3, error = 1e-4;
  for (const double threshold : {-std::numeric_limits<double>::infinity(), 1.5, 2.0, 1e9}) {
    const int64_t count = tracin::rows_in_reach<T>(of, 2, in, static_cast<T>(threshold), static_cast<T>(slack),
                                                   reached.data(), bounds.data(), parallel);
    int64_t at = 0;
    for (const int32_t row : rows) {
      const int32_t* ids = &triples[3 * row];
      const bool shares = ids[0] == 1 || ids[0] == 3 || ids[2] == 1 || ids[2] == 3;
      const bool wanted = which == Which::all || (!shares && (ids[1] == 2) == (which == Which::of_relation));
      const double bound = checkpoints[0].bound(ids, in, row, slack) + checkpoints[1].bound(ids, in, row, slack);
      const double beyond = bound * (1 + slack) - threshold;
      const bool found = at < count && reached[at] == row && std::fabs(bounds[at] - bound) <= error;
      if (found && wanted && beyond >= -error)
        ++at;
      else if (wanted && beyond >= error)
        std::printf("FAILED row %d: bound %g of threshold %g is not there\n", row, bound, threshold), ++failures;
    }
    if (at != count) std::printf("FAILED %ld rows found, %ld of them expected\n", long(count), long(at)), ++failures;
  }
}

}  // namespace

int main() {
  for (const int64_t m : {0, 1, 17, 255, 256, 257, 4096, 4097, 9001})
    for (const int64_t D : {1, 16, 33, 64})
      for (const Which which : {Which::all, Which::of_relation, Which::of_others}) {
        test<float>(m, D, m % 2, which);
        test<double>(m, D, m % 2, which);
      }
  std::printf("%d failures\n", failures);
  return failures ? 1 : 0;
}
