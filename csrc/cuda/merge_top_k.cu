#include <limits>

#include "device.h"
#include "launch.cuh"

namespace tracin::cuda {
namespace {
#include "merge_top_k.cuh"
}  // namespace

template <typename T>
void merge_top_k(const T* scores, const int64_t* index, int64_t Q, int64_t B, int64_t k, Order order, T* best,
                 int64_t* best_index, Device& device) {
  constexpr int64_t shared = list_size * (sizeof(int64_t) + sizeof(T)) + sizeof(int);
  run("merge_top_k", merge_top_k_kernel<T>, launch("merge_top_k", Q, shared), device.stream(), scores, index, B, k,
      order, -std::numeric_limits<T>::infinity(), best, best_index);
}

template void merge_top_k(const float*, const int64_t*, int64_t, int64_t, int64_t, Order, float*, int64_t*, Device&);
template void merge_top_k(const double*, const int64_t*, int64_t, int64_t, int64_t, Order, double*, int64_t*, Device&);

}  // namespace tracin::cuda
