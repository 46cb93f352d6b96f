// Which of two scores comes first in a list, on the CPU.
#pragma once
#include <cmath>
#include <limits>

#include "../kernels.h"

namespace tracin::cpu {

// The larger the better; NaN is worse than any number.
template <typename T>
T key_of(T score, Order order) {
  if (std::isnan(score)) return -std::numeric_limits<T>::infinity();
  return order == Order::absolute ? std::fabs(score) : order == Order::proponents ? score : -score;
}

// Best first; ties go to the smaller index.
template <typename T>
struct Entry {
  T key, score;
  int64_t index;
  bool operator<(const Entry& other) const { return key != other.key ? key > other.key : index < other.index; }
};

}  // namespace tracin::cpu
