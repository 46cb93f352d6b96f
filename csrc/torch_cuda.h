// The ops on CUDA: their kernels with torch's allocator, stream and products.
#pragma once
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <vector>

#include "cuda/device.h"
#include "fields.h"

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

// The ops on one GPU.
struct Cuda : Place {
  // `result`: what an op writes; everything else must lie where it does.
  explicit Cuda(const Tensor& result, int64_t panel_height = 0)
      : Place{false, result.get_device_index(), panel_height, ""} {
    check(height == 0, "model_sizes: on CUDA, height must be 0");  // matrices as torch's products read them
    check(!result.is_cpu(), "tensors lie on different devices; all but `triples` must be on the GPU");
  }

  template <typename T>
  void influence_block(const Model<T>& m, const Tests<T>& t, const int64_t* triples, int64_t B, T rate,
                       T* scores) const {
    check_whole(m);
    TorchDevice device(gpu);
    cuda::influence_block<T>(m, t, triples, B, rate, scores, device);
  }
  template <typename T>
  void self_influence_block(const Model<T>& m, const Tracked<T>& on, const int64_t* triples, int64_t B, T rate,
                            T* scores) const {
    check_whole(m);
    TorchDevice device(gpu);
    cuda::self_influence_block<T>(m, on, triples, B, rate, scores, device);
  }
  template <typename T>
  void sample_factors(const Model<T>& m, const int64_t* triples, int64_t B, bool has_S,
                      const cuda::FactorArrays<T>& out) const {
    check_whole(m);
    TorchDevice device(gpu);
    cuda::sample_factors<T>(m, triples, B, has_S, out, device);
  }
  template <typename T>
  void merge_top_k(const T* scores, const int64_t* index, int64_t Q, int64_t B, int64_t k, Order order, T* best,
                   int64_t* best_index) const {
    check(k <= cuda::most_kept, "merge_top_k: on CUDA, k must be at most " + std::to_string(cuda::most_kept));
    TorchDevice device(gpu);
    cuda::merge_top_k<T>(scores, index, Q, B, k, order, best, best_index, device);
  }

 private:
  template <typename T>
  static void check_whole(const Model<T>& m) {
    check(m.head_half.P == 0 && m.middle.X == 2 * m.D, "model: on CUDA, the image must be taken whole");
    check(m.middle.step >= m.C, "model_sizes: on CUDA, middle_step must be all channels");
  }
};

}  // namespace tracin
