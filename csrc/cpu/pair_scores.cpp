// Scores of single pairs: five dot products each, where a block's scores are matrix products.
#include <algorithm>

#include "pairs.h"

namespace tracin {

template <typename T>
void pair_scores(const PairModel<T>* models, int64_t checkpoints, const int64_t* pairs, int64_t n, T* scores,
                 const Parallel& parallel) {
  constexpr int64_t together = 256;  // pairs of one thread; those of one test should be adjacent
  parallel((n + together - 1) / together, [&](int64_t item) {
    cpu::Question<T> question(models, checkpoints);
    const auto wanted = [](double, double) { return true; };
    for (int64_t i = item * together, asked = -1; i < std::min(n, (item + 1) * together); ++i) {
      if (pairs[2 * i] != asked) question.ask(asked = pairs[2 * i]);
      question.score(pairs[2 * i + 1], question.shared(pairs[2 * i + 1]), wanted, scores + i);
    }
  });
}

template void pair_scores(const PairModel<float>*, int64_t, const int64_t*, int64_t, float*, const Parallel&);
template void pair_scores(const PairModel<double>*, int64_t, const int64_t*, int64_t, double*, const Parallel&);

}  // namespace tracin
