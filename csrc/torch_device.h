// A GPU as torch has it: its allocator, stream and products, for the CUDA ops.
#pragma once
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <vector>

#include "cuda/device.h"
#include "torch_products.h"

namespace tracin {

// torch's current stream on a GPU. What tells it lies in libtorch_cuda, to which nothing here is linked, so that this
// library loads without CUDA as well: torch has loaded it by now.
inline void* current_stream(int32_t gpu) {
  using Current = AOTITorchError (*)(int32_t, void**);
  static const auto current = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return reinterpret_cast<Current>(library ? dlsym(library, "aoti_torch_get_current_cuda_stream") : nullptr);
  }();
  if (!current) throw std::runtime_error("this torch has no libtorch_cuda.so, or one that does not tell its streams");
  void* stream = nullptr;
  told("torch does not tell its current CUDA stream", [&] { TORCH_ERROR_CODE_CHECK(current(gpu, &stream)); });
  return stream;
}

// Makes a device the current one while it lives, on torch's current stream. Memory goes back to the caching allocator
// at the end, which hands it on in the order of the stream.
class TorchDevice final : public cuda::Device {
 public:
  explicit TorchDevice(int32_t index)
      : guard_(index), device_(torch::headeronly::DeviceType::CUDA, index), stream_(current_stream(index)) {}

  void* stream() override { return stream_; }

  void* allocate(int64_t bytes) override { return keep(empty(bytes, ScalarType::Byte, device_, false)); }

  // From pinned memory, which torch keeps until the copy is done.
  const int32_t* upload(const int32_t* numbers, int64_t n) override {
    const torch::stable::Device cpu(torch::headeronly::DeviceType::CPU);
    const Tensor pinned = empty(n, ScalarType::Int, cpu, true);
    std::copy_n(numbers, n, pinned.mutable_data_ptr<int32_t>());
    Tensor copy = empty(n, ScalarType::Int, device_, false);
    told("torch cannot copy indices to the GPU", [&] { torch::stable::copy_(copy, pinned, true); });
    return static_cast<const int32_t*>(keep(copy));
  }

  void multiply(const cuda::Matrix<const float>& a, const cuda::Matrix<const float>& b,
                const cuda::Matrix<float>& c) override {
    multiply_out(view(a), view(b), view(c));
  }
  void multiply(const cuda::Matrix<const double>& a, const cuda::Matrix<const double>& b,
                const cuda::Matrix<double>& c) override {
    multiply_out(view(a), view(b), view(c));
  }
  void multiply(const cuda::Matrix<const uint16_t>& a, const cuda::Matrix<const uint16_t>& b,
                const cuda::Matrix<float>& c) override {
    multiply_out(view(a), view(b), view(c));
  }

 private:
  static Tensor empty(int64_t n, ScalarType type, const torch::stable::Device& device, bool pinned) {
    return told(pinned ? "out of memory: can't allocate pinned memory; take smaller blocks"
                       : "out of memory on the GPU: can't allocate the arrays of a block; take smaller blocks",
                [&] { return torch::stable::empty({&n, 1}, type, std::nullopt, device, pinned); });
  }
  void* keep(const Tensor& tensor) {
    kept_.push_back(tensor);
    return tensor.mutable_data_ptr();
  }
  template <typename T>
  Tensor view(const cuda::Matrix<T>& m) const {
    const std::remove_const_t<T>* data = m.data;
    return view_of(data, m.rows, m.columns, m.row_stride, m.column_stride, device_);
  }

  torch::stable::accelerator::DeviceGuard guard_;
  torch::stable::Device device_;
  void* stream_;
  std::vector<Tensor> kept_;
};

}  // namespace tracin
