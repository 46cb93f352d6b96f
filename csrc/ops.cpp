// The ops of torch.ops.tracin_ext: schemas and checks once, the device as a template argument.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "packed_pairs.h"
#include "torch_cpu.h"
#ifdef TRACIN_CUDA
#include "torch_cuda.h"
#endif

namespace tracin {
namespace {

// Triples lie on the CPU for every device: there they are checked and grouped without waiting for a GPU.
template <typename T>
const int64_t* triples_of(const Model<T>& m, const Tensor& x, int64_t* B) {
  check(x.is_cpu(), "triples must be on the CPU");
  const int64_t* triples = data<const int64_t>("triples", x, Cpu(x), {B, 3});
  check_ids(m, triples, *B, "triples");
  return triples;
}

// Calls run(T()) for the type of `example`.
template <typename Run>
void by_type(const Tensor& example, const Run& run) {
  if (example.scalar_type() == ScalarType::Double)
    run(0.0);
  else
    run(0.0f);
}

template <typename Device>
void influence_block(const Tensors& model, const Integers& model_sizes, const Tensors& tests,
                     const Integers& test_sizes,
                     const Tensor& triples,  // [B, 3]
                     double rate,
                     const Tensor& scores) {  // [Q, B], written
  const ModelSizes sizes(model_sizes);
  const Device device(scores, sizes.height);
  by_type(scores, [&](auto zero) {
    using T = decltype(zero);
    const Model<T> m = model_of<T>(model, sizes, device);
    int64_t B = 0;
    const int64_t* ids = triples_of(m, triples, &B);
    const Tests<T> t = tests_of(m, tests, TestSizes(test_sizes), device);
    T* out = data<T>("scores", scores, device, {t.Q, B});
    check(!m.head_half.P || m.relation_u, "model: relation_u is missing");
    if (B && t.Q) device.influence_block(m, t, ids, B, static_cast<T>(rate), out);
  });
}

template <typename Device>
void self_influence_block(const Tensors& model, const Integers& model_sizes,
                          const Tensor& M,  // [size_S, size_S] packed, or empty if no layer below fc is tracked
                          const Integers& tracked, const Tensors& halves,
                          const Tensor& triples,  // [B, 3]
                          double rate,
                          const Tensor& scores) {  // [B], written
  const ModelSizes sizes(model_sizes);
  const Device device(scores, sizes.height);
  by_type(scores, [&](auto zero) {
    using T = decltype(zero);
    const Model<T> m = model_of<T>(model, sizes, device);
    int64_t B = 0;
    const int64_t* ids = triples_of(m, triples, &B);
    Tracked<T> on = tracked_of(m, M, tracked, device);
    on.halves = halves_of(m, halves, device);
    check(m.head_half.P || m.middle.X == 2 * m.D, "self_influence_block: the image must have halves or be taken whole");
    check(!m.head_half.P || m.relation_u, "model: relation_u is missing");
    T* out = data<T>("scores", scores, device, {B});
    if (B) device.self_influence_block(m, on, ids, B, static_cast<T>(rate), out);
  });
}

// On the CPU alone: CUDA takes the image whole.
void relation_tables(const Tensors& model, const Integers& model_sizes,
                     const Tensor& u,            // [relations, D], changed
                     const Tensor& v,            // [relations, C P of the relation's half], changed
                     const Tensor& jacobians) {  // [relations, ceil(size_S / 32), D, 32] or empty, changed
  const ModelSizes sizes(model_sizes);
  const Cpu device(u, sizes.height);
  by_type(u, [&](auto zero) {
    using T = decltype(zero);
    const Model<T> m = model_of<T>(model, sizes, device);
    const int64_t panels = round_up(m.size_S(), lanes) / lanes;
    T* out_u = data<T>("u", u, device, {m.relations, m.D});
    T* out_v = data<T>("v", v, device, {m.relations, m.C * m.relation_half.P});
    T* out = optional<T>("jacobians", jacobians, device, {m.relations, panels, m.D, lanes});
    if (m.relations && m.relation_half.P) device.relation_tables(m, out_u, out_v, out);
  });
}

#ifdef TRACIN_CUDA
// The distinct (head, relation) of n triples [n, 3], equal ones adjacent.
int64_t count_pairs(const int64_t* triples, int64_t n) {
  int64_t pairs = n > 0;
  for (int64_t i = 3; i < 3 * n; i += 3) pairs += triples[i] != triples[i - 3] || triples[i + 1] != triples[i - 2];
  return pairs;
}

// On CUDA alone: the CPU's kernels hold factors in panels.
void sample_factors(const Tensors& model, const Integers& model_sizes,
                    const Tensor& triples,  // [B, 3]
                    const Tensor& v,        // [G, C P], all written
                    const Tensor& z,        // [G, D]
                    const Tensor& w,        // [B]
                    const Tensor& linear,   // [B, 2 D + size_S] or [B, 2 D]
                    const Tensor& delta,    // [B, D]
                    const Tensor& cq) {     // [B, 2 D], or empty if not wanted
  const ModelSizes sizes(model_sizes);
  const Cuda device(v, sizes.height);
  by_type(v, [&](auto zero) {
    using T = decltype(zero);
    const Model<T> m = model_of<T>(model, sizes, device);
    int64_t B = 0, columns = 0;
    const int64_t* ids = triples_of(m, triples, &B);
    const int64_t G = count_pairs(ids, B);
    cuda::FactorArrays<T> out = {};
    out.v = data<T>("v", v, device, {G, m.C * m.middle.P});
    out.z = data<T>("z", z, device, {G, m.D});
    out.w = data<T>("w", w, device, {B});
    out.linear = data<T>("linear", linear, device, {B, &columns});
    check(columns == 2 * m.D || columns == 2 * m.D + m.size_S(), "linear has the wrong shape");
    out.delta = data<T>("delta", delta, device, {B, m.D});
    out.cq = optional<T>("cq", cq, device, {B, 2 * m.D});
    if (B) device.sample_factors(m, ids, B, columns > 2 * m.D, out);
  });
}
#endif

// On the CPU alone, like all that follow but merge_top_k.
void relation_pixels(const Tensors& model, const Integers& model_sizes,
                     const Tensor& relation_fc,  // [relation_half.P, C, round_up(D, 16)]
                     const Tensor& pixels) {     // [relations, ceil(relation_half.X / 32), D, 32], changed
  const ModelSizes sizes(model_sizes);
  const Cpu device(pixels, sizes.height);
  by_type(pixels, [&](auto zero) {
    using T = decltype(zero);
    const Model<T> m = model_of<T>(model, sizes, device);
    const T* fc = data<const T>("relation_fc", relation_fc, device, {fc_size(m, m.relation_half)});
    const int64_t panels = round_up(m.relation_half.X, lanes) / lanes;
    T* out = data<T>("pixels", pixels, device, {m.relations, panels, m.D, lanes});
    if (m.relations && m.relation_half.P) device.relation_pixels(m, fc, out);
  });
}

// Rows write to their pair's and head's, which must count what is distinct, in order.
template <typename T>
void check_order(const Factors<T>& x, int64_t first, int64_t count) {
  for (int64_t i = first; i < first + count; ++i) {
    const int64_t *triple = x.triples + 3 * i, pair = x.pair[i];
    const bool other_head = !i || triple[0] != triple[-3], other = other_head || triple[1] != triple[-2];
    check(pair == (i ? x.pair[i - 1] + other : 0), "factors: pair: does not count the distinct (head, relation)");
    if (x.head_v && other)
      check(x.pair_head[pair] == (i ? x.pair_head[pair - 1] + other_head : 0),
            "factors: pair_head: does not count the distinct heads");
  }
}

// The flags and halves that factors and norms take.
template <typename T>
Tracked<T> tracked_with_halves(const char* op, const Model<T>& m, const Integers& tracked, const Tensors& halves,
                               const Place& place) {
  Tracked<T> on = tracked_of<T>(tracked);
  on.halves = halves_of(m, halves, place);
  check(m.head_half.P || m.middle.X == 2 * m.D, std::string(op) + ": the image must have halves or be taken whole");
  check(!m.head_half.P || m.relation_u, "model: relation_u is missing");
  return on;
}

void factor_block(const Tensors& model, const Integers& model_sizes, const Tensors& form, const Integers& tracked,
                  const Tensors& halves,
                  const Tensors& factors,  // changed: rows first .. first + count, and their pairs and heads
                  int64_t first, int64_t count, double S_slack) {
  const ModelSizes sizes(model_sizes);
  check(factors.size() == 15, "factors: wrong number of tensors (" + std::to_string(factors.size()) + ")");
  const Cpu device(factors.back(), sizes.height);
  by_type(factors.back(), [&](auto zero) {
    using T = decltype(zero);
    const Model<T> m = model_of<T>(model, sizes, device);
    const Tracked<T> on = tracked_with_halves("factor_block", m, tracked, halves, device);
    const Form<T> by = form_of(m, form, S_slack, device);
    Fields f("factors", factors, device);
    const Factors<T> to = factors_of<T>(f, device, m.D, m.entities);
    f.end();
    check_ids(m, to.triples, to.n, "factors: triples");
    check(first >= 0 && count >= 0 && first <= to.n && count <= to.n - first, "factor_block: rows are out of range");
    check_order(to, first, count);
    if (!count) return;
    check(!by.blocks == !to.S && (!to.S || to.size_S == m.size_S()), "factors: S has the wrong shape");
    check(!(on.entity && !to.c) && !(on.relation && !to.q), "factors: c or q is missing");
    const int64_t middle = m.C * m.middle.P, head = m.C * m.head_half.P;
    check((!middle || to.middle_columns == middle) && (!head || to.head_columns == head),
          "factors: middle_v or head_v has the wrong shape");
    device.factor_block(m, on, by, first, count, to);
  });
}

void norm_block(const Tensors& model, const Integers& model_sizes, const Tensors& form, const Integers& tracked,
                const Tensors& halves,
                const Tensor& basis,    // [size_S, sketch_parts], or empty
                const Tensor& triples,  // [B, 3]
                double S_slack,
                const Tensor& norms,       // [B, norm_parts], written
                const Tensor& signs,       // [B, ceil(D / 32)], written
                const Tensor& sketches) {  // [B, sketch_parts + 1], written; empty without a basis
  const ModelSizes sizes(model_sizes);
  const Cpu device(norms, sizes.height);
  by_type(norms, [&](auto zero) {
    using T = decltype(zero);
    const Model<T> m = model_of<T>(model, sizes, device);
    int64_t B = 0;
    const int64_t* ids = triples_of(m, triples, &B);
    const Tracked<T> on = tracked_with_halves("norm_block", m, tracked, halves, device);
    const Form<T> by = form_of(m, form, S_slack, device);
    const double* along = optional<const double>("basis", basis, device, {m.size_S(), sketch_parts});
    check(!along || by.blocks, "basis: no layer below fc is tracked");
    Norms<T> to = {};
    to.norms = data<T>("norms", norms, device, {B, norm_parts});
    to.signs = data<int32_t>("signs", signs, device, {B, round_up(m.D, 32) / 32});
    to.sketches = data<int8_t>("sketches", sketches, device, {along ? B : 0, sketch_parts + 1});
    if (B) device.norm_block(m, on, by, along, ids, B, to);
  });
}

void pair_scores(const Tensors& models, const Integers& tracked, const Tensor& rates,
                 const Tensor& pairs,     // [n, 2] rows of tests and of training triples
                 const Tensor& scores) {  // [n], written
  const Cpu device(scores);
  by_type(scores, [&](auto zero) {
    using T = decltype(zero);
    const std::vector<PairModel<T>> all = pair_models_of<T>(models, tracked, rates, device);
    int64_t n = 0;
    const int64_t* rows = data<const int64_t>("pairs", pairs, device, {&n, 2});
    for (int64_t i = 0; i < n; ++i)
      check(
          rows[2 * i] >= 0 && rows[2 * i] < all[0].tests.n && rows[2 * i + 1] >= 0 && rows[2 * i + 1] < all[0].train.n,
          "pairs: a row is out of range");
    T* out = data<T>("scores", scores, device, {n});
    tracin::pair_scores<T>(all.data(), static_cast<int64_t>(all.size()), rows, n, out, on_own_threads);
  });
}

void bounded_top_k(const Tensors& models, const Integers& tracked, const Tensor& rates, const Tensors& lists,
                   int64_t order, double slack, int64_t budget,
                   const Tensor& best,        // [Q, k], written
                   const Tensor& best_index,  // [Q, k], written
                   const Tensor& work) {      // [Q, work_columns], written
  check(order >= 0 && order <= 2, "bounded_top_k: order must be 0 (absolute), 1 (proponents) or 2 (opponents)");
  check(slack >= 0 && slack < 1, "bounded_top_k: slack must be from 0 to 1");
  const Cpu device(best);
  by_type(best, [&](auto zero) {
    using T = decltype(zero);
    const std::vector<PairModel<T>> all = pair_models_of<T>(models, tracked, rates, device);
    const PairLists<T> in = pair_lists_of(all, lists, device);
    int64_t k = 0;
    T* out = data<T>("best", best, device, {all[0].tests.n, &k});
    check(k <= all[0].train.n, "best: more than there are training triples");
    int64_t* out_index = data<int64_t>("best_index", best_index, device, {all[0].tests.n, k});
    int64_t* told = data<int64_t>("work", work, device, {all[0].tests.n, work_columns});
    if (k)
      tracin::bounded_top_k<T>(all.data(), static_cast<int64_t>(all.size()), in, k, static_cast<Order>(order),
                               static_cast<T>(slack), budget, out, out_index, told, on_own_threads);
  });
}

void rows_in_reach(const Tensors& checkpoints,  // of each, eight: tracin_ext.ops.RowTensors
                   const Tensor& triples,       // [n, 3] int32
                   const Tensor& rows,          // [m] int32
                   const Tensor& test,          // [3]
                   int64_t which, double threshold, double slack,
                   const Tensor& reached,  // [m] int32, its beginning written
                   const Tensor& bounds,   // [m], its beginning written
                   const Tensor& count) {  // [1], written
  check(which >= 0 && which <= 2, "rows_in_reach: which must be 0 (all), 1 (of the relation) or 2 (of others)");
  check(slack >= 0 && slack < 1, "rows_in_reach: slack must be from 0 to 1");
  check(!std::isnan(threshold), "rows_in_reach: threshold is no number");
  check(!checkpoints.empty(), "checkpoints: wrong number of tensors (0)");
  const Cpu device(bounds);
  by_type(bounds, [&](auto zero) {
    using T = decltype(zero);
    int64_t n = 0;
    RowsOf in = {};
    in.triples = data<const int32_t>("triples", triples, device, {&n, 3});
    in.rows = data<const int32_t>("rows", rows, device, {&in.m});
    const int64_t* ids = data<const int64_t>("test", test, device, {3});
    in.head = ids[0], in.relation = ids[1], in.tail = ids[2], in.which = static_cast<Which>(which);
    Fields f("checkpoints", checkpoints, device);
    std::vector<RowBounds<T>> of((checkpoints.size() + 7) / 8);
    for (RowBounds<T>& one : of) {
      int64_t D = 0, entities = 0;
      one.norms = f.take<T>("norms", {n, norm_parts});
      one.entity = f.take<T>("entity", {&entities, &D});
      one.signs = f.take<int32_t>("signs", {n, round_up(D, 32) / 32});
      one.sketches = f.take_optional<int8_t>("sketches", {n, sketch_parts + 1});
      one.test = f.take<T>("test", {norm_parts});
      one.sketch = f.take<T>("sketch", {sketch_parts + 2});
      one.scaled = f.take<T>("scaled", {2, D});
      one.squares = f.take<T>("squares", {2, D});
      check(&one == of.data() || (D == in.D && entities == in.entities), "entity: checkpoints have different sizes");
      in.D = D, in.entities = entities;
    }
    f.end();
    check_indices(device, in.rows, in.m, 0, n, "rows: out of range");
    int32_t* out = data<int32_t>("reached", reached, device, {in.m});
    T* out_bounds = data<T>("bounds", bounds, device, {in.m});
    *data<int64_t>("count", count, device, {1}) =
        tracin::rows_in_reach<T>(of.data(), static_cast<int64_t>(of.size()), in, static_cast<T>(threshold),
                                 static_cast<T>(slack), out, out_bounds, on_own_threads);
  });
}

void table_scores(const Tensors& samples, const Tensors& tables,
                  const Tensor& scores) {  // [n, Q], written
  const Cpu device(scores);
  by_type(scores, [&](auto zero) {
    using T = decltype(zero);
    SampleGradients<T> x = {};
    Fields f("samples", samples, device);
    x.triples = f.take<int64_t>("triples", {&x.n, 3});
    x.pair = f.take<int32_t>("pair", {x.n});
    x.w = f.take<T>("w", {x.n});
    x.z = f.take<T>("z", {&x.G, &x.D});
    x.c = f.take_optional<T>("c", {x.n, x.D});
    x.q = f.take_optional<T>("q", {x.n, x.D});
    x.by_tail = f.take<int32_t>("by_tail", {x.n});
    f.end();
    check_indices(device, x.pair, x.n, 0, x.G, "samples: pair: out of range");
    check_indices(device, x.by_tail, x.n, 0, x.n, "samples: by_tail: a row is out of range");
    Tables<T> to = {};
    T* out = data<T>("scores", scores, device, {x.n, &to.Q});
    Fields g("tables", tables, device);
    int64_t entities = largest_size, with_bias = largest_size, relations = largest_size;
    to.entity = g.take_optional<T>("entity", {&entities, to.Q, x.D});
    to.bias = g.take_optional<T>("bias", {&with_bias, to.Q});
    to.relation = g.take_optional<T>("relation", {&relations, to.Q, x.D});
    g.end();
    if (!x.n || !to.Q) return;
    entities = std::min(entities, with_bias);
    for (int64_t i = 0; i < x.n; ++i) {
      const int64_t* triple = x.triples + 3 * i;
      check(triple[0] >= 0 && triple[0] < entities && triple[2] >= 0 && triple[2] < entities && triple[1] >= 0 &&
                triple[1] < relations,
            "samples: triples: an id exceeds the tables");
    }
    std::vector<bool> met(x.n);
    for (int64_t i = 0; i < x.n; ++i) {
      check(!met[x.by_tail[i]], "samples: by_tail: a row is there twice");
      met[x.by_tail[i]] = true;
    }
    check((!to.entity || x.c) && (!to.relation || x.q), "samples: c or q is missing");
    tracin::table_scores<T>(x, to, out, on_own_threads);
  });
}

template <typename Device>
void merge_top_k(const Tensor& scores,  // [Q, B]
                 const Tensor& index,   // [B]
                 int64_t order,
                 const Tensor& best,          // [Q, k], changed
                 const Tensor& best_index) {  // [Q, k], changed
  check(scores.dim() == 2 && best.dim() == 2, "merge_top_k: scores and best must be matrices");
  check(order >= 0 && order <= 2, "merge_top_k: order must be 0 (absolute), 1 (proponents) or 2 (opponents)");
  const Device device(best);
  by_type(scores, [&](auto zero) {
    using T = decltype(zero);
    int64_t Q = 0, B = 0, k = 0;
    const T* values = data<const T>("scores", scores, device, {&Q, &B});
    const int64_t* numbers = data<const int64_t>("index", index, device, {B});
    T* kept = data<T>("best", best, device, {Q, &k});
    check_indices(device, numbers, B, 0, std::numeric_limits<int64_t>::max(), "index: a number is negative");
    int64_t* kept_index = data<int64_t>("best_index", best_index, device, {Q, k});
    if (Q && B && k) device.merge_top_k(values, numbers, Q, B, k, static_cast<Order>(order), kept, kept_index);
  });
}

template <typename Device>
void implement(torch::stable::detail::StableLibrary& m) {
  m.impl("influence_block", TORCH_BOX((&influence_block<Device>)));
  m.impl("self_influence_block", TORCH_BOX((&self_influence_block<Device>)));
  m.impl("merge_top_k", TORCH_BOX((&merge_top_k<Device>)));
}

void implement_on_cpu(torch::stable::detail::StableLibrary& m) {
  implement<Cpu>(m);
  m.impl("relation_tables", TORCH_BOX(&relation_tables));
  m.impl("relation_pixels", TORCH_BOX(&relation_pixels));
  m.impl("factor_block", TORCH_BOX(&factor_block));
  m.impl("norm_block", TORCH_BOX(&norm_block));
  m.impl("pair_scores", TORCH_BOX(&pair_scores));
  m.impl("bounded_top_k", TORCH_BOX(&bounded_top_k));
  m.impl("rows_in_reach", TORCH_BOX(&rows_in_reach));
  m.impl("table_scores", TORCH_BOX(&table_scores));
}

#ifdef TRACIN_CUDA
void implement_on_cuda(torch::stable::detail::StableLibrary& m) {
  implement<Cuda>(m);
  m.impl("sample_factors", TORCH_BOX(&sample_factors));
}
#endif

}  // namespace
}  // namespace tracin

STABLE_TORCH_LIBRARY(tracin_ext, m) {
  m.def(
      "influence_block(Tensor[] model, int[] model_sizes, Tensor[] tests, int[] test_sizes, Tensor triples, "
      "float rate, Tensor(a!) scores) -> ()");
  m.def(
      "self_influence_block(Tensor[] model, int[] model_sizes, Tensor M, int[] tracked, Tensor[] halves, "
      "Tensor triples, float rate, Tensor(a!) scores) -> ()");
  m.def(
      "sample_factors(Tensor[] model, int[] model_sizes, Tensor triples, Tensor(a!) v, Tensor(b!) z, Tensor(c!) w, "
      "Tensor(d!) linear, Tensor(e!) delta, Tensor(f!) cq) -> ()");
  m.def("relation_tables(Tensor[] model, int[] model_sizes, Tensor(a!) u, Tensor(b!) v, Tensor(c!) jacobians) -> ()");
  m.def("relation_pixels(Tensor[] model, int[] model_sizes, Tensor relation_fc, Tensor(a!) pixels) -> ()");
  m.def(
      "factor_block(Tensor[] model, int[] model_sizes, Tensor[] form, int[] tracked, Tensor[] halves, "
      "Tensor(a!)[] factors, int first, int count, float S_slack) -> ()");
  m.def(
      "norm_block(Tensor[] model, int[] model_sizes, Tensor[] form, int[] tracked, Tensor[] halves, Tensor basis, "
      "Tensor triples, float S_slack, Tensor(a!) norms, Tensor(b!) signs, Tensor(c!) sketches) -> ()");
  m.def("pair_scores(Tensor[] models, int[] tracked, Tensor rates, Tensor pairs, Tensor(a!) scores) -> ()");
  m.def(
      "bounded_top_k(Tensor[] models, int[] tracked, Tensor rates, Tensor[] lists, int order, float slack, int budget, "
      "Tensor(a!) best, Tensor(b!) best_index, Tensor(c!) work) -> ()");
  m.def(
      "rows_in_reach(Tensor[] checkpoints, Tensor triples, Tensor rows, Tensor test, int which, float threshold, "
      "float slack, Tensor(a!) reached, Tensor(b!) bounds, Tensor(c!) count) -> ()");
  m.def("table_scores(Tensor[] samples, Tensor[] tables, Tensor(a!) scores) -> ()");
  m.def("merge_top_k(Tensor scores, Tensor index, int order, Tensor(a!) best, Tensor(b!) best_index) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(tracin_ext, CPU, m) { tracin::implement_on_cpu(m); }

#ifdef TRACIN_CUDA
STABLE_TORCH_LIBRARY_IMPL(tracin_ext, CUDA, m) { tracin::implement_on_cuda(m); }
#endif
