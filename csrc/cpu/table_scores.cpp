// Inner products of samples' gradients at the embeddings with those of functionals: 3 dot products of length D for each
// sample and functional, 6 D FLOPs. Two passes, so that the rows of a table that neighbours need stay in the cache: in
// the order of heads, then in that of tails.
#include <algorithm>

#include "loops.h"

namespace tracin {

template <typename T>
void table_scores(const SampleGradients<T>& x, const Tables<T>& tables, T* scores, const Parallel& parallel) {
  constexpr int64_t together = 256;  // samples of one thread
  const auto dot = cpu::loops<T>().dot;
  const int64_t Q = tables.Q, D = x.D;
  const auto for_each = [&](const auto& sample) {
    parallel((x.n + together - 1) / together, [&](int64_t item) {
      for (int64_t i = item * together; i < std::min(x.n, (item + 1) * together); ++i) sample(i);
    });
  };
  for_each([&](int64_t i) {
    const T* entity = tables.entity ? tables.entity + x.triples[3 * i] * Q * D : nullptr;
    const T* relation = tables.relation ? tables.relation + x.triples[3 * i + 1] * Q * D : nullptr;
    for (int64_t q = 0; q < Q; ++q) {
      T sum = 0;
      if (entity) sum += dot(x.c + i * D, entity + q * D, D);
      if (relation) sum += dot(x.q + i * D, relation + q * D, D);
      scores[i * Q + q] = sum;
    }
  });
  for_each([&](int64_t place) {
    const int64_t i = x.by_tail[place], tail = x.triples[3 * i + 2];
    const T *z = x.z + x.pair[i] * D, w = x.w[i];
    for (int64_t q = 0; q < Q; ++q) {
      T at_tail = tables.bias ? tables.bias[tail * Q + q] : T(0);
      if (tables.entity) at_tail += dot(z, tables.entity + (tail * Q + q) * D, D);
      scores[i * Q + q] += w * at_tail;
    }
  });
}

template void table_scores(const SampleGradients<float>&, const Tables<float>&, float*, const Parallel&);
template void table_scores(const SampleGradients<double>&, const Tables<double>&, double*, const Parallel&);

}  // namespace tracin
