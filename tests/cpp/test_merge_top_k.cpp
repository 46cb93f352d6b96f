#include "merge_inputs.h"

namespace {

const tracin::Parallel parallel{[](int64_t n, void (*work)(void*, int64_t), void* context) {
  for (int64_t i = 0; i < n; ++i) work(context, i);
}};

template <typename T>
void test() {
  using tracin::Order;
  const auto merge = [](auto... arguments) { tracin::merge_top_k<T>(arguments..., parallel); };
  for (const int64_t k : {1, 3, 40, 2000})
    for (const Order order : {Order::absolute, Order::proponents, Order::opponents})
      for (const int64_t B : {1, 16, 1000, 3000})
        for (const bool with_nan : {false, true}) test_merge_top_k<T>(B, k, order, with_nan, merge);
}

}  // namespace

int main() {
  test<float>();
  test<double>();
  return failures ? 1 : 0;
}
