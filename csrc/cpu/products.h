// The CPU's own product kernel, for the ops that choose between it and torch's.
#pragma once
#include "../kernels.h"

namespace tracin::cpu {

constexpr int64_t operand_height = 12;  // rows of a packed panel: 12 x 2 accumulators of the product kernel

// In the variant that dispatch.h chooses.
template <typename T>
Products<T> own_products();
template <>
Products<float> own_products();
template <>
Products<double> own_products();

}  // namespace tracin::cpu
