// The ops of torch.ops.tracin_ext: schemas and checks once, the device's kernel as a template argument.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "kernels.h"
#include "torch_cpu.h"
#include "torch_products.h"
#ifdef TRACIN_CUDA
#include "torch_cuda.h"
#endif

namespace tracin {
namespace {

using Tensors = std::vector<Tensor>;

[[noreturn]] void fail(const std::string& message) { throw std::invalid_argument(message); }

void check(bool holds, const std::string& message) {
  if (!holds) fail(message);
}

// Where an op runs, and the rows of its packed panels.
struct Place {
  bool host;
  int32_t device;  // index among GPUs
  int64_t height;
};

// The place of the tensor that an op writes; everything else must lie there too.
Place place_of(const Tensor& written, int64_t height, std::initializer_list<const Tensor*> tensors,
               std::initializer_list<const Tensors*> lists) {
  const Place place = {written.is_cpu(), written.is_cpu() ? 0 : written.get_device_index(), height};
  const auto check_one = [&](const Tensor& x) {
    const bool there = x.is_cpu() == place.host && (place.host || x.get_device_index() == place.device);
    check(there || x.numel() == 0, "tensors lie on different devices; all but `triples` must be where the result is");
  };
  for (const Tensor* x : tensors) check_one(*x);
  for (const Tensors* list : lists)
    for (const Tensor& x : *list) check_one(x);
  return place;
}

// Data of a contiguous tensor of the given shape (-1: any size); null for an empty one where that is allowed.
template <typename T>
const T* data(const char* name, const Tensor& x, std::initializer_list<int64_t> shape, bool optional = false) {
  if (optional && x.numel() == 0) return nullptr;
  check(x.scalar_type() == scalar<T>, std::string(name) + " has the wrong dtype");
  check(x.is_contiguous(), std::string(name) + " is not contiguous");
  bool fits = x.dim() == static_cast<int64_t>(shape.size());
  int64_t axis = 0;
  for (const int64_t size : shape) fits = fits && (x.size(axis) == size || size < 0), ++axis;
  check(fits, std::string(name) + " has the wrong shape");
  return x.const_data_ptr<T>();
}

int64_t padded(int64_t rows, int64_t height) { return height ? (rows + height - 1) / height * height : rows; }

// Packed operand of `rows` x `k`: one panel after the other.
template <typename T>
const T* packed(const char* name, const Tensor& x, int64_t rows, int64_t k, int64_t height, bool optional = false) {
  return data<T>(name, x, {padded(rows, height) * k}, optional);
}

// Numbers that come with the tensors of a checkpoint, in the order of tracin_ext.ops.ModelSizes.
struct Sizes {
  int64_t relation_step, relations, head_step, middle_step, tail_step, height;
};

Sizes sizes_of(const std::vector<int64_t>& x) {
  check(x.size() == 6, "sizes: expected 6 numbers");
  check(x[0] > 0 && x[1] >= 0 && x[2] > 0 && x[3] > 0 && x[4] > 0, "sizes: steps must be positive");
  check(x[5] == 0 || x[5] == cpu::operand_height, "sizes: height must be 0 or the product kernel's");
  return {x[0], x[1], x[2], x[3], x[4], x[5]};
}

template <typename T>
Segment<T> segment_of(const Tensor* x, int64_t D, int64_t C, int64_t J, int64_t step, const Place& place) {
  const int64_t height = place.height;
  const int64_t X = x[0].numel(), P = x[1].size(0);
  const int64_t chunks = (C + step - 1) / step, last = C - (chunks - 1) * step;
  const int64_t rows = (chunks - 1) * padded(step * P, height) + padded(last * P, height);
  Segment<T> s = {P,
                  X,
                  step,
                  data<int32_t>("pixels", x[0], {X}),
                  data<int32_t>("taps", x[1], {P, J}),
                  packed<T>("forward", x[2], D, C * P, height),
                  data<T>("backward", x[3], {rows * D})};
  if (!place.host) return s;  // reading the indices would wait for the device
  for (int64_t i = 0; i < X; ++i) check(s.pixels[i] >= 0 && s.pixels[i] < 2 * D, "pixels: outside the image");
  for (int64_t i = 0; i < P * J; ++i) check(s.taps[i] >= 0 && s.taps[i] < X, "taps: outside the segment");
  return s;
}

constexpr std::size_t model_tensors = 31, test_tensors = 19;

// Operand in bfloat16: `size` numbers as the CPU's product packs them, on a GPU those of `wide`; null for an empty one.
template <typename T>
const uint16_t* narrow(const char* name, const Tensor& x, int64_t size, const Tensor& wide, const Place& place) {
  if (x.numel() == 0) return nullptr;
  check(x.scalar_type() == ScalarType::BFloat16 && x.is_contiguous(), std::string(name) + " is not bfloat16");
  check(x.numel() == (place.host ? size : wide.numel()), std::string(name) + " has the wrong shape");
  check(std::is_same_v<T, float> && (place.height || !place.host),
        std::string(name) + " needs float32" + (place.host ? " and the extension's own products" : ""));
  check(!place.host || cpu::own_products<float>().narrow, "this processor has no products in bfloat16");
  return static_cast<const uint16_t*>(x.const_data_ptr());
}

int64_t even(int64_t k) { return k + k % 2; }

// Columns of an operand in bfloat16 whose chunks are filled up to whole pairs.
template <typename T>
int64_t narrow_columns(const Segment<T>& s, int64_t C) {
  const int64_t chunks = (C + s.step - 1) / s.step;
  return (chunks - 1) * even(s.step * s.P) + even((C - (chunks - 1) * s.step) * s.P);
}

// The tensors of a checkpoint, in the order of tracin_ext.ops.ModelTensors.
template <typename T>
Model<T> model_of(const Tensors& x, const Sizes& sizes, const Place& place) {
  check(x[0].dim() == 2 && x[1].dim() == 2 && x[4].dim() == 2, "model: tables must be matrices");
  for (const int i : {9, 13, 17, 22}) check(x[i].dim() == 2, "model: taps must be matrices");
  const int64_t N = x[0].size(0), D = x[0].size(1), C = x[4].size(0), J = x[4].size(1), P = x[22].size(0);
  const int64_t S = C * (J + 1);
  check(N <= INT32_MAX, "model: more than 2^31 - 1 entities");
  check(sizes.relations * sizes.relation_step <= x[1].size(0), "sizes: more relations than rows");
  const T* pixel = data<T>("pixel", x[3], {2, 2 * D});
  const T* hidden = data<T>("hidden", x[7], {5, D});
  Model<T> m = {};
  m.D = D, m.C = C, m.J = J, m.relations = sizes.relations, m.relation_step = sizes.relation_step;
  m.entity = data<T>("entity", x[0], {N, D});
  m.relation = data<T>("relation", x[1], {-1, D});
  m.bias = data<T>("bias", x[2], {N}, true);
  m.pixel_mean = pixel, m.pixel_rstd = pixel + 2 * D;
  m.kernel = data<T>("kernel", x[4], {C, J});
  m.shift = data<T>("shift", x[5], {C});
  m.pull = data<T>("pull", x[6], {C, J});
  m.scale = hidden, m.offset = hidden + D, m.norm_scale = hidden + 2 * D, m.norm_offset = hidden + 3 * D;
  m.delta_scale = hidden + 4 * D;
  m.head = segment_of<T>(&x[8], D, C, J, sizes.head_step, place);
  m.middle = segment_of<T>(&x[12], D, C, J, sizes.middle_step, place);
  m.tail = segment_of<T>(&x[16], D, C, J, sizes.tail_step, place);
  check((m.head.P == 0) == (m.tail.P == 0), "model: one half of the image is missing");
  m.relation_u = data<T>("relation_u", x[20], {sizes.relations, D}, true);
  m.jacobians = data<T>("jacobians", x[21], {sizes.relations, (S + lanes - 1) / lanes, D, lanes}, true);
  m.P = P;
  m.taps = data<int32_t>("taps", x[22], {P, J});
  for (int64_t i = 0; place.host && i < P * J; ++i)
    check(m.taps[i] >= 0 && m.taps[i] < 2 * D, "taps: outside the image");
  m.fc = data<T>("fc", x[23], {D, C * P});
  Segment<T>* segments[] = {&m.head, &m.middle, &m.tail};
  for (int i = 0; i < 3; ++i)
    segments[i]->narrow_backward = narrow<T>(
        "narrow_backward", x[28 + i], x[11 + 4 * i].numel() / std::max<int64_t>(1, D) * even(D), x[11 + 4 * i], place);
  if (x[24].numel() == 0) return m;
  m.exact_pixel = data<double>("exact_pixel", x[24], {2, 2 * D});
  m.exact_kernel = data<double>("exact_kernel", x[25], {C, J});
  m.exact_shift = data<double>("exact_shift", x[26], {C});
  m.exact_hidden = data<double>("exact_hidden", x[27], {2, D});
  return m;
}

// The test side, in the order of tracin_ext.ops.TestTensors.
template <typename T>
Tests<T> tests_of(const Model<T>& m, const Tensors& x, int64_t heads, bool statistics, bool fc_bias,
                  const Place& place) {
  const int64_t height = place.height;
  const int64_t Q = x[0].size(0), pairs = x[2].numel(), D = m.D, width = D + m.middle.X;
  Tests<T> t = {};
  t.Q = Q, t.pairs = pairs, t.heads = heads, t.relations = x[6].dim() == 2 ? x[6].size(0) : 0;
  t.triples = data<int64_t>("triples", x[0], {Q, 3});
  t.pair = data<int64_t>("pair", x[1], {Q});
  t.pair_head = data<int64_t>("pair_head", x[2], {pairs});
  t.pair_relation = data<int64_t>("pair_relation", x[3], {pairs});
  for (int64_t q = 0; place.host && q < Q; ++q) check(t.pair[q] >= 0 && t.pair[q] < pairs, "pair: out of range");
  t.delta = packed<T>("delta", x[7], Q, D, height, true);
  if (t.delta) {
    t.middle_features = packed<T>("middle_features", x[5], pairs, m.C * m.middle.P, height);
    if (m.head.P) {
      t.head_features = packed<T>("head_features", x[4], heads, m.C * m.head.P, height);
      t.tail_gram = data<T>("tail_gram", x[6], {t.relations, m.relations});
      for (int64_t p = 0; place.host && p < pairs; ++p)
        check(t.pair_head[p] >= 0 && t.pair_head[p] < heads && t.pair_relation[p] >= 0 &&
                  t.pair_relation[p] < t.relations,
              "pair_head or pair_relation: out of range");
    }
  }
  t.statistics = statistics, t.fc_bias = T(fc_bias);
  t.linear = packed<T>("linear", x[8], Q, 2 * D + (statistics ? m.statistics() : 0), height);
  t.residual = data<T>("residual", x[9], {Q}, true);
  t.pull = data<T>("pull", x[10], {Q, D}, true);
  t.head = data<T>("head", x[11], {Q, D}, true);
  t.same_head = data<T>("same_head", x[12], {Q, width}, true);
  t.head_is_tail = data<T>("head_is_tail", x[13], {Q, width}, true);
  t.same_relation = data<T>("same_relation", x[14], {Q, width}, true);
  const int64_t high = padded(Q, height), columns = 2 * D + (statistics ? m.statistics() : 0);
  t.narrow_head = narrow<T>("narrow_head", x[15], padded(heads, height) * narrow_columns(m.head, m.C), x[4], place);
  t.narrow_middle =
      narrow<T>("narrow_middle", x[16], padded(pairs, height) * narrow_columns(m.middle, m.C), x[5], place);
  t.narrow_delta = narrow<T>("narrow_delta", x[17], high * even(D), x[7], place);
  t.narrow_linear = narrow<T>("narrow_linear", x[18], high * even(columns), x[8], place);
  check(!t.narrow_linear || !t.delta || (t.narrow_delta && (place.host || t.narrow_middle)),
        "narrow_linear needs narrow_delta and narrow_middle");
  check(!t.same_head || (t.pull && t.head && t.head_is_tail), "same_head needs pull, head and head_is_tail");
  return t;
}

// Triples lie on the CPU for every device: there they are checked and grouped without waiting for a GPU.
const int64_t* triples_of(const Tensors& model, const Sizes& sizes, const Tensor& x) {
  check(x.is_cpu(), "triples must be on the CPU");
  const int64_t B = x.size(0), *triples = data<int64_t>("triples", x, {B, 3});
  for (int64_t i = 0; i < 3 * B; ++i)
    if (triples[i] < 0 || triples[i] >= (i % 3 == 1 ? sizes.relations : model[0].size(0)))
      fail("triples: id " + std::to_string(triples[i]) + " exceeds the model");
  return triples;
}

// Calls run(T(), kernel of T) for the type of `example`.
template <auto kernel_float, auto kernel_double, typename Run>
void by_type(const Tensor& example, const Run& run) {
  if (example.scalar_type() == ScalarType::Double)
    run(0.0, kernel_double);
  else
    run(0.0f, kernel_float);
}

template <auto kernel_float, auto kernel_double>
void influence_block(const Tensors& model, const std::vector<int64_t>& numbers, const Tensors& tests, int64_t heads,
                     bool statistics, bool fc_bias,
                     const Tensor& triples,  // [B, 3]
                     double rate,
                     const Tensor& scores) {  // [Q, B], written
  check(model.size() == model_tensors && tests.size() == test_tensors, "influence_block: wrong number of tensors");
  const Sizes sizes = sizes_of(numbers);
  const int64_t B = triples.size(0);
  const int64_t* ids = triples_of(model, sizes, triples);
  const Place place = place_of(scores, sizes.height, {}, {&model, &tests});
  by_type<kernel_float, kernel_double>(scores, [&](auto zero, auto kernel) {
    using T = decltype(zero);
    const Model<T> m = model_of<T>(model, sizes, place);
    const Tests<T> t = tests_of<T>(m, tests, heads, statistics, fc_bias, place);
    data<T>("scores", scores, {t.Q, B});
    check(!m.head.P || m.relation_u, "model: relation_u is missing");
    if (B && t.Q) kernel(m, t, ids, B, static_cast<T>(rate), scores.mutable_data_ptr<T>(), place);
  });
}

template <auto kernel_float, auto kernel_double>
void self_influence_block(const Tensors& model, const std::vector<int64_t>& numbers,
                          const Tensor& form,     // [S, S] packed, or empty if no layer below fc is tracked
                          int64_t tracked,        // bits: fc, fc.bias, bn2.weight, bn2.bias, entity, relation, bias
                          const Tensor& triples,  // [B, 3]
                          double rate,
                          const Tensor& scores) {  // [B], written
  check(model.size() == model_tensors, "self_influence_block: wrong number of tensors");
  const Sizes sizes = sizes_of(numbers);
  const int64_t B = triples.size(0);
  const int64_t* ids = triples_of(model, sizes, triples);
  const Place place = place_of(scores, sizes.height, {&form}, {&model});
  const auto on = [&](int bit) { return ((tracked >> bit) & 1) != 0; };
  by_type<kernel_float, kernel_double>(scores, [&](auto zero, auto kernel) {
    using T = decltype(zero);
    const Model<T> m = model_of<T>(model, sizes, place);
    check(m.head.P == 0 && m.middle.X == 2 * m.D, "self_influence_block: the image must be taken whole");
    const int64_t S = m.statistics();
    const Tracked<T> t = {
        packed<T>("form", form, S, S, sizes.height, true), on(0), on(1), on(2), on(3), on(4), on(5), on(6)};
    data<T>("scores", scores, {B});
    if (B) kernel(m, t, ids, B, static_cast<T>(rate), scores.mutable_data_ptr<T>(), place);
  });
}

template <auto kernel_float, auto kernel_double>
void relation_tables(const Tensors& model, const std::vector<int64_t>& numbers,
                     const Tensor& u,            // [relations, D], changed
                     const Tensor& v,            // [relations, C P of the tail segment], changed
                     const Tensor& jacobians) {  // [relations, ceil(S / 32), D, 32] or empty, changed
  check(model.size() == model_tensors, "relation_tables: wrong number of tensors");
  const Sizes sizes = sizes_of(numbers);
  const Place place = place_of(u, sizes.height, {&v, &jacobians}, {&model});
  by_type<kernel_float, kernel_double>(u, [&](auto zero, auto kernel) {
    using T = decltype(zero);
    const Model<T> m = model_of<T>(model, sizes, place);
    data<T>("u", u, {sizes.relations, m.D});
    data<T>("v", v, {sizes.relations, m.C * m.tail.P});
    const bool wanted = data<T>("jacobians", jacobians,
                                {sizes.relations, (m.statistics() + lanes - 1) / lanes, m.D, lanes}, true) != nullptr;
    if (sizes.relations && m.tail.P)
      kernel(m, u.mutable_data_ptr<T>(), v.mutable_data_ptr<T>(), wanted ? jacobians.mutable_data_ptr<T>() : nullptr,
             place);
  });
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
  const Place place = place_of(best, 0, {&scores, &columns, &best_index}, {});
  const int64_t* index = data<int64_t>("columns", columns, {B});
  data<int64_t>("best_index", best_index, {Q, k});
  by_type<kernel_float, kernel_double>(scores, [&](auto zero, auto kernel) {
    using T = decltype(zero);
    const T* values = data<T>("scores", scores, {Q, B});
    data<T>("best", best, {Q, k});
    if (Q && B && k)
      kernel(values, index, Q, B, k, static_cast<Order>(order), best.mutable_data_ptr<T>(),
             best_index.mutable_data_ptr<int64_t>(), place);
  });
}

template <typename T>
void influence_block_cpu(const Model<T>& m, const Tests<T>& t, const int64_t* ids, int64_t B, T rate, T* scores,
                         const Place& place) {
  influence_block<T>(m, t, ids, B, rate, scores, products<T>(place.height), parallel);
}
template <typename T>
void self_influence_block_cpu(const Model<T>& m, const Tracked<T>& t, const int64_t* ids, int64_t B, T rate, T* scores,
                              const Place& place) {
  self_influence_block<T>(m, t, ids, B, rate, scores, products<T>(place.height), parallel);
}
template <typename T>
void relation_tables_cpu(const Model<T>& m, T* u, T* v, T* jacobians, const Place& place) {
  relation_tables<T>(m, u, v, jacobians, products<T>(place.height), parallel);
}
template <typename T>
void merge_top_k_cpu(const T* scores, const int64_t* columns, int64_t Q, int64_t B, int64_t k, Order order, T* best,
                     int64_t* best_index, const Place&) {
  merge_top_k<T>(scores, columns, Q, B, k, order, best, best_index, parallel);
}

#ifdef TRACIN_CUDA
// What the CUDA ops ask of a packed model.
template <typename T>
void check_packing(const Model<T>& m, const Place& place) {
  check(place.height == 0, "sizes: on CUDA, height must be 0");
  check(m.head.P == 0 && m.middle.X == 2 * m.D, "model: on CUDA, the image must be taken whole");
  check(m.middle.step >= m.C, "sizes: on CUDA, middle_step must be all channels");
}
template <typename T>
void influence_block_cuda(const Model<T>& m, const Tests<T>& t, const int64_t* ids, int64_t B, T rate, T* scores,
                          const Place& place) {
  check_packing(m, place);
  TorchDevice device(place.device);
  cuda::influence_block<T>(m, t, ids, B, rate, scores, device);
}
template <typename T>
void self_influence_block_cuda(const Model<T>& m, const Tracked<T>& t, const int64_t* ids, int64_t B, T rate, T* scores,
                               const Place& place) {
  check_packing(m, place);
  TorchDevice device(place.device);
  cuda::self_influence_block<T>(m, t, ids, B, rate, scores, device);
}
template <typename T>
void relation_tables_cuda(const Model<T>& m, T* u, T* v, T* jacobians, const Place& place) {
  check(place.height == 0, "sizes: on CUDA, height must be 0");
  TorchDevice device(place.device);
  cuda::relation_tables<T>(m, u, v, jacobians, device);
}
template <typename T>
void merge_top_k_cuda(const T* scores, const int64_t* columns, int64_t Q, int64_t B, int64_t k, Order order, T* best,
                      int64_t* best_index, const Place& place) {
  check(k <= cuda::most_kept, "merge_top_k: on CUDA, k must be at most " + std::to_string(cuda::most_kept));
  TorchDevice device(place.device);
  cuda::merge_top_k<T>(scores, columns, Q, B, k, order, best, best_index, device);
}
#endif

}  // namespace
}  // namespace tracin

STABLE_TORCH_LIBRARY(tracin_ext, m) {
  m.def(
      "influence_block(Tensor[] model, int[] sizes, Tensor[] tests, int heads, bool statistics, bool fc_bias, "
      "Tensor triples, float rate, Tensor(a!) scores) -> ()");
  m.def(
      "self_influence_block(Tensor[] model, int[] sizes, Tensor form, int tracked, Tensor triples, float rate, "
      "Tensor(a!) scores) -> ()");
  m.def("relation_tables(Tensor[] model, int[] sizes, Tensor(a!) u, Tensor(b!) v, Tensor(c!) jacobians) -> ()");
  m.def("merge_top_k(Tensor scores, Tensor columns, int order, Tensor(a!) best, Tensor(b!) best_index) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(tracin_ext, CPU, m) {
  using namespace tracin;
  m.impl("influence_block", TORCH_BOX((&influence_block<influence_block_cpu<float>, influence_block_cpu<double>>)));
  m.impl("self_influence_block",
         TORCH_BOX((&self_influence_block<self_influence_block_cpu<float>, self_influence_block_cpu<double>>)));
  m.impl("relation_tables", TORCH_BOX((&relation_tables<relation_tables_cpu<float>, relation_tables_cpu<double>>)));
  m.impl("merge_top_k", TORCH_BOX((&merge_top_k<merge_top_k_cpu<float>, merge_top_k_cpu<double>>)));
}

#ifdef TRACIN_CUDA
STABLE_TORCH_LIBRARY_IMPL(tracin_ext, CUDA, m) {
  using namespace tracin;
  m.impl("influence_block", TORCH_BOX((&influence_block<influence_block_cuda<float>, influence_block_cuda<double>>)));
  m.impl("self_influence_block",
         TORCH_BOX((&self_influence_block<self_influence_block_cuda<float>, self_influence_block_cuda<double>>)));
  m.impl("relation_tables", TORCH_BOX((&relation_tables<relation_tables_cuda<float>, relation_tables_cuda<double>>)));
  m.impl("merge_top_k", TORCH_BOX((&merge_top_k<merge_top_k_cuda<float>, merge_top_k_cuda<double>>)));
}
#endif
