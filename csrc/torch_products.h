// torch's tensors and matrix products on raw pointers, for the ops of every device.
#pragma once
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <cstdint>

namespace tracin {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <typename T>
constexpr ScalarType scalar = ScalarType::Undefined;
template <>
constexpr ScalarType scalar<float> = ScalarType::Float;
template <>
constexpr ScalarType scalar<double> = ScalarType::Double;
template <>
constexpr ScalarType scalar<int64_t> = ScalarType::Long;
template <>
constexpr ScalarType scalar<int32_t> = ScalarType::Int;
template <>
constexpr ScalarType scalar<uint16_t> = ScalarType::BFloat16;  // as the kernels hold it

template <typename T>
Tensor view_of(const T* data, int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride,
               const torch::stable::Device& device) {
  const std::array<int64_t, 2> sizes{rows, columns}, strides{row_stride, column_stride};
  return torch::stable::from_blob(const_cast<T*>(data), {sizes.data(), 2}, {strides.data(), 2}, device, scalar<T>);
}

// c = a b, in c's memory.
inline void multiply_out(const Tensor& a, const Tensor& b, const Tensor& c) {
  using torch::stable::detail::from;
  if (a.scalar_type() == c.scalar_type()) {
    std::array<StableIValue, 3> stack{from(a), from(b), from(c)};
    STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::mm", "out", stack.data(), TORCH_ABI_VERSION));
    torch::stable::detail::to<Tensor>(stack[0]);
  } else {
    std::array<StableIValue, 4> stack{from(a), from(b), from(c.scalar_type()), from(c)};
    STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::mm", "dtype_out", stack.data(), TORCH_ABI_VERSION));
    torch::stable::detail::to<Tensor>(stack[0]);
  }
}

}  // namespace tracin
