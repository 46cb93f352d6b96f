// torch's tensors and matrix products on raw pointers, for the ops of every device.
#pragma once
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <dlfcn.h>

#include <array>
#include <cstdint>
#include <stdexcept>
#include <string>

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
constexpr ScalarType scalar<int8_t> = ScalarType::Char;
template <>
constexpr ScalarType scalar<uint16_t> = ScalarType::BFloat16;  // as the kernels hold it

// The result of `call`, which calls torch. Of what fails there, torch's C interface gives a number alone; its text can
// be asked for from torch 2.13 on, which is newer than what this is compiled for. Before, it is `otherwise`.
template <typename Call>
auto told(const char* otherwise, const Call& call) {
  try {
    return call();
  } catch (const std::runtime_error&) {
    using What = const char* (*)();
    static const auto what = reinterpret_cast<What>(dlsym(RTLD_DEFAULT, "torch_exception_get_what_without_backtrace"));
    throw std::runtime_error(what ? what() : otherwise);
  }
}

template <typename T>
Tensor view_of(const T* data, int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride,
               const torch::stable::Device& device) {
  const std::array<int64_t, 2> sizes{rows, columns}, strides{row_stride, column_stride};
  return torch::stable::from_blob(const_cast<T*>(data), {sizes.data(), 2}, {strides.data(), 2}, device, scalar<T>);
}

inline void call_dispatcher(const char* name, const char* overload, StableIValue* stack) {
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name, overload, stack, TORCH_ABI_VERSION));
}

// c = a b, in c's memory.
inline void multiply_out(const Tensor& a, const Tensor& b, const Tensor& c) {
  using torch::stable::detail::from;
  told("a matrix product of torch failed", [&] {
    if (a.scalar_type() == c.scalar_type()) {
      std::array<StableIValue, 3> stack{from(a), from(b), from(c)};
      call_dispatcher("aten::mm", "out", stack.data());
      torch::stable::detail::to<Tensor>(stack[0]);
    } else {
      std::array<StableIValue, 4> stack{from(a), from(b), from(c.scalar_type()), from(c)};
      call_dispatcher("aten::mm", "dtype_out", stack.data());
      torch::stable::detail::to<Tensor>(stack[0]);
    }
  });
}

}  // namespace tracin
