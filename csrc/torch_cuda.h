// The ops on CUDA: what they check, and their kernels on a GPU of torch's.
#pragma once
#include "cuda/device.h"
#include "fields.h"
#include "torch_device.h"

namespace tracin {

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
