// The ops of torch.ops.tracin_ext: schemas and checks once, the device's kernel as a template argument.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <atomic>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.h"

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Tensors = std::vector<Tensor>;

namespace tracin {
namespace {

[[noreturn]] void fail(const std::string& message) { throw std::invalid_argument(message); }

void check(bool holds, const std::string& message) {
  if (!holds) fail(message);
}

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

// Data of a contiguous tensor of the given shape; null for an empty one where that is allowed.
template <typename T>
const T* data(const char* name, const Tensor& x, std::initializer_list<int64_t> shape, bool optional = false) {
  if (optional && x.numel() == 0) return nullptr;
  check(x.scalar_type() == scalar<T>, std::string(name) + " has the wrong dtype");
  check(x.is_contiguous(), std::string(name) + " is not contiguous");
  bool fits = x.dim() == static_cast<int64_t>(shape.size());
  int64_t axis = 0;
  for (const int64_t size : shape) fits = fits && x.size(axis++) == size;
  check(fits, std::string(name) + " has the wrong shape");
  return x.const_data_ptr<T>();
}

// The tensors of a checkpoint, in the order of tracin_ext.ops.ModelTensors.
template <typename T>
Model<T> model_of(const Tensors& x, int64_t relation_step) {
  check(x.size() == 15, "model: expected 15 tensors");
  check(x[0].dim() == 2 && x[1].dim() == 2 && x[3].dim() == 2 && x[5].dim() == 2, "model: tables must be matrices");
  const int64_t N = x[0].size(0), D = x[0].size(1), P = x[3].size(0), J = x[3].size(1), C = x[5].size(0);
  const T* pixel = data<T>("pixel", x[4], {2, 2 * D});
  const T* hidden = data<T>("hidden", x[10], {5, D});
  const bool exact = x[11].numel() != 0;
  return {
      D, C, J, P, relation_step,
      data<T>("entity", x[0], {N, D}), data<T>("relation", x[1], {x[1].size(0), D}), data<T>("bias", x[2], {N}, true),
      data<int32_t>("taps", x[3], {P, J}), pixel, pixel + 2 * D, data<T>("kernel", x[5], {C, J}),
      data<T>("shift", x[6], {C}), data<T>("pull", x[7], {C, J}), data<T>("fc", x[8], {D, C * P}),
      data<T>("fc_t", x[9], {C * P, D}), hidden, hidden + D, hidden + 2 * D, hidden + 3 * D, hidden + 4 * D,
      exact ? data<double>("exact_pixel", x[11], {2, 2 * D}) : nullptr,
      exact ? data<double>("exact_kernel", x[12], {C, J}) : nullptr,
      exact ? data<double>("exact_shift", x[13], {C}) : nullptr,
      exact ? data<double>("exact_hidden", x[14], {2, D}) : nullptr,
  };
}

// The test side, in the order of tracin_ext.ops.TestTensors.
template <typename T>
Tests<T> tests_of(const Model<T>& m, const Tensors& x, bool fc_bias) {
  check(x.size() == 9, "tests: expected 9 tensors");
  check(x[4].dim() == 2 && x[2].dim() == 2, "tests: features and linear must be matrices");
  const int64_t Q = x[4].size(0), G = x[2].size(0), D = m.D;
  const bool statistics = x[4].size(1) != 2 * D;
  return {
      Q, G, data<int64_t>("triples", x[0], {Q, 3}), data<int64_t>("group", x[1], {Q}),
      data<T>("features", x[2], {G, m.features()}, true), data<T>("delta", x[3], {Q, D}, true),
      data<T>("linear", x[4], {Q, 2 * D + (statistics ? m.statistics() : 0)}), data<T>("residual", x[5], {Q}, true),
      data<T>("pull", x[6], {Q, D}, true), data<T>("head", x[7], {Q, D}, true),
      data<T>("relation", x[8], {Q, D}, true), T(fc_bias), statistics,
  };
}

void check_ids(const Tensors& model, int64_t relation_step, const int64_t* triples, int64_t B) {
  const int64_t entities = model[0].size(0), rows = model[1].size(0);
  for (int64_t i = 0; i < 3 * B; ++i) {
    const int64_t bound = i % 3 == 1 ? rows / relation_step : entities;
    if (triples[i] < 0 || triples[i] >= bound) fail("triples: id " + std::to_string(triples[i]) + " exceeds the model");
  }
}

template <auto kernel_float, auto kernel_double>
void influence_block(const Tensors& model, int64_t relation_step, const Tensors& tests, bool fc_bias,
                     const Tensor& triples,  // [B, 3]
                     double rate,
                     const Tensor& scores,  // [Q, B], added to
                     int64_t tile) {
  check(model.size() == 15 && tests.size() == 9, "influence_block: expected 15 model and 9 test tensors");
  check(tile > 0 && relation_step > 0, "influence_block: tile and relation_step must be positive");
  const int64_t B = triples.size(0);
  const int64_t* ids = data<int64_t>("triples", triples, {B, 3});
  check_ids(model, relation_step, ids, B);
  const auto run = [&](auto zero, auto kernel) {
    using T = decltype(zero);
    const Model<T> m = model_of<T>(model, relation_step);
    const Tests<T> t = tests_of<T>(m, tests, fc_bias);
    data<T>("scores", scores, {t.Q, B});
    if (B && t.Q) kernel(m, t, ids, B, static_cast<T>(rate), scores.mutable_data_ptr<T>(), tile);
  };
  if (scores.scalar_type() == ScalarType::Double)
    run(0.0, kernel_double);
  else
    run(0.0f, kernel_float);
}

template <auto kernel_float, auto kernel_double>
void self_influence_block(const Tensors& model, int64_t relation_step,
                          const Tensor& form,  // [S, S], or empty if no layer below fc is tracked
                          int64_t tracked,     // bits: fc, fc.bias, bn2.weight, bn2.bias, entity, relation, bias
                          const Tensor& triples,  // [B, 3]
                          double rate,
                          const Tensor& scores,  // [B], added to
                          int64_t tile) {
  check(model.size() == 15, "self_influence_block: expected 15 model tensors");
  check(tile > 0 && relation_step > 0, "self_influence_block: tile and relation_step must be positive");
  const int64_t B = triples.size(0);
  const int64_t* ids = data<int64_t>("triples", triples, {B, 3});
  check_ids(model, relation_step, ids, B);
  const auto on = [&](int bit) { return ((tracked >> bit) & 1) != 0; };
  const auto run = [&](auto zero, auto kernel) {
    using T = decltype(zero);
    const Model<T> m = model_of<T>(model, relation_step);
    const int64_t S = m.statistics();
    const Tracked<T> t = {data<T>("form", form, {S, S}, true), on(0), on(1), on(2), on(3), on(4), on(5), on(6)};
    data<T>("scores", scores, {B});
    if (B) kernel(m, t, ids, B, static_cast<T>(rate), scores.mutable_data_ptr<T>(), tile);
  };
  if (scores.scalar_type() == ScalarType::Double)
    run(0.0, kernel_double);
  else
    run(0.0f, kernel_float);
}

template <auto kernel_float, auto kernel_double>
void merge_top_k(const Tensor& scores,   // [Q, B]
                 const Tensor& columns,  // [B]
                 int64_t order,
                 const Tensor& best,          // [Q, k], changed
                 const Tensor& best_index) {  // [Q, k], changed
  check(scores.dim() == 2 && best.dim() == 2, "merge_top_k: scores and best must be matrices");
  check(order >= 0 && order <= 2, "merge_top_k: order must be 0 (absolute), 1 (proponents) or 2 (opponents)");
  const int64_t Q = scores.size(0), B = scores.size(1), k = best.size(1);
  const int64_t* index = data<int64_t>("columns", columns, {B});
  data<int64_t>("best_index", best_index, {Q, k});
  const auto run = [&](auto zero, auto kernel) {
    using T = decltype(zero);
    const T* values = data<T>("scores", scores, {Q, B});
    data<T>("best", best, {Q, k});
    if (Q && B && k)
      kernel(values, index, Q, B, k, static_cast<Order>(order), best.mutable_data_ptr<T>(),
             best_index.mutable_data_ptr<int64_t>());
  };
  if (scores.scalar_type() == ScalarType::Double)
    run(0.0, kernel_double);
  else
    run(0.0f, kernel_float);
}

// The CPU's threads and products.
void on_threads(int64_t n, void (*work)(void*, int64_t), void* context) {
  std::atomic<bool> failed{false};
  torch::stable::parallel_for(0, n, 1, [&](int64_t begin, int64_t end) {
    try {
      for (int64_t i = begin; i < end && !failed; ++i) work(context, i);
    } catch (const std::exception&) {  // must not leave a parallel region; what can fail is an allocation
      failed = true;
    }
  });
  if (failed) throw std::runtime_error("out of memory: can't allocate the buffers of a tile; take smaller blocks");
}

template <typename T>
Tensor view_of(const T* data, int64_t rows, int64_t columns) {
  const std::array<int64_t, 2> sizes{rows, columns}, strides{columns, 1};
  return torch::stable::from_blob(const_cast<T*>(data), {sizes.data(), 2}, {strides.data(), 2},
                                  torch::stable::Device(torch::headeronly::DeviceType::CPU), scalar<T>);
}

template <typename T>
void torch_product(const T* a, const T* b, T* c, int64_t m, int64_t n, int64_t k) {
  std::array<StableIValue, 3> stack{torch::stable::detail::from(view_of(a, m, k)),
                                    torch::stable::detail::from(view_of(b, k, n)),
                                    torch::stable::detail::from(view_of(c, m, n))};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::mm", "out", stack.data(), TORCH_ABI_VERSION));
  torch::stable::detail::to<Tensor>(stack[0]);
}

const Parallel parallel{&on_threads};

template <typename T>
void influence_block_cpu(const Model<T>& m, const Tests<T>& t, const int64_t* ids, int64_t B, T rate, T* scores,
                         int64_t tile) {
  influence_block<T>(m, t, ids, B, rate, scores, tile, &torch_product<T>, parallel);
}
template <typename T>
void self_influence_block_cpu(const Model<T>& m, const Tracked<T>& t, const int64_t* ids, int64_t B, T rate, T* scores,
                              int64_t tile) {
  self_influence_block<T>(m, t, ids, B, rate, scores, tile, &torch_product<T>, parallel);
}
template <typename T>
void merge_top_k_cpu(const T* scores, const int64_t* columns, int64_t Q, int64_t B, int64_t k, Order order, T* best,
                     int64_t* best_index) {
  merge_top_k<T>(scores, columns, Q, B, k, order, best, best_index, parallel);
}

}  // namespace
}  // namespace tracin

STABLE_TORCH_LIBRARY(tracin_ext, m) {
  m.def(
      "influence_block(Tensor[] model, int relation_step, Tensor[] tests, bool fc_bias, Tensor triples, float rate, "
      "Tensor(a!) scores, int tile) -> ()");
  m.def(
      "self_influence_block(Tensor[] model, int relation_step, Tensor form, int tracked, Tensor triples, float rate, "
      "Tensor(a!) scores, int tile) -> ()");
  m.def("merge_top_k(Tensor scores, Tensor columns, int order, Tensor(a!) best, Tensor(b!) best_index) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(tracin_ext, CPU, m) {
  using namespace tracin;
  m.impl("influence_block", TORCH_BOX((&influence_block<influence_block_cpu<float>, influence_block_cpu<double>>)));
  m.impl("self_influence_block",
         TORCH_BOX((&self_influence_block<self_influence_block_cpu<float>, self_influence_block_cpu<double>>)));
  m.impl("merge_top_k", TORCH_BOX((&merge_top_k<merge_top_k_cpu<float>, merge_top_k_cpu<double>>)));
}
