// The CUDA op merge_top_k, emulated, against a full sort.
#include "cpp/merge_inputs.h"
#include "host_device.h"

namespace {

template <typename T>
void test() {
  using tracin::Order;
  HostDevice device;
  const auto merge = [&](auto... arguments) { tracin::cuda::merge_top_k<T>(arguments..., device); };
  test_merge_top_k<T>(37, 3, Order::absolute, true, merge);
#ifndef __SANITIZE_THREAD__  // threads have no time for more
  for (const Order order : {Order::proponents, Order::opponents}) test_merge_top_k<T>(37, 3, order, true, merge);
  test_merge_top_k<T>(1, 1, Order::absolute, false, merge);
  for (const int64_t k : {40, 1024})
    for (const int64_t B : {257, 2500}) test_merge_top_k<T>(B, k, Order::absolute, true, merge);
#endif
}

}  // namespace

int main() {
  test<float>();
  test<double>();
  return failures ? 1 : 0;
}
