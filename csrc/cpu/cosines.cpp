// Angles between a test's and training triples' gradients at the hidden layer: 8 D FLOPs each, and a row of the entity
// table, which lies anywhere in memory.
#include <algorithm>
#include <cmath>
#include <limits>

#include "loops.h"

namespace tracin {

template <typename T>
void cosines(const Directions<T>& to, const int32_t* rows, const int32_t* signs, int64_t n, T* cosines,
             const Parallel& parallel) {
  constexpr int64_t together = 4096, ahead = 8;
  const int64_t words = round_up(to.D, 32) / 32;
  const T least = static_cast<T>(std::pow(static_cast<double>(std::numeric_limits<T>::min()), 0.8));
  parallel((n + together - 1) / together, [&](int64_t item) {
    const int64_t end = std::min(n, (item + 1) * together);
    for (int64_t l = item * together; l < end; ++l) {
      if (l + ahead < end)
        for (int64_t d = 0; d < to.D; d += cpu::chunk<T>)
          __builtin_prefetch(to.entity + int64_t(rows[l + ahead]) * to.D + d);
      T sums[4];
      cpu::loops<T>().angle_sums(to.entity + int64_t(rows[l]) * to.D, signs + l * words, to.scaled, to.squares, to.D,
                                 sums);
      for (int64_t i = 0; i < 2; ++i) {
        const T square = sums[2 + i];
        cosines[i * n + l] = square > least && square < 1 / least ? std::fabs(sums[i]) / std::sqrt(square) : T(1);
      }
    }
  });
}

template void cosines(const Directions<float>&, const int32_t*, const int32_t*, int64_t, float*, const Parallel&);
template void cosines(const Directions<double>&, const int32_t*, const int32_t*, int64_t, double*, const Parallel&);

}  // namespace tracin
