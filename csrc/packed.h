// The lists of tensors and numbers of tracin_ext.ops, in its order, as the structures that kernels read.
#pragma once
#include "fields.h"
#include "kernels.h"

namespace tracin {

struct ModelSizes {
  int64_t relation_step, relations, head_half_step, middle_step, relation_half_step, height;

  explicit ModelSizes(const Integers& integers) {
    Numbers n("model_sizes", integers);
    relation_step = n.take("relation_step", 1);
    relations = n.take("relations", 0);
    head_half_step = n.take("head_half_step", 1);
    middle_step = n.take("middle_step", 1);
    relation_half_step = n.take("relation_half_step", 1);
    height = n.take("height", 0);
    n.end();
  }
};

struct TestSizes {
  int64_t heads;
  bool has_S, fc_bias;

  explicit TestSizes(const Integers& integers) {
    Numbers n("test_sizes", integers);
    heads = n.take("heads", 0);
    has_S = n.flag("has_S");
    fc_bias = n.flag("fc_bias");
    n.end();
  }
};

// Indices in device memory are not read: that would wait for the device.
template <typename Index>
void check_indices(const Place& place, const Index* x, int64_t n, int64_t from, int64_t below,
                   const std::string& message) {
  for (int64_t i = 0; place.host && i < n; ++i) check(x[i] >= from && x[i] < below, message);
}

// Head, relation and tail of n triples [n, 3] in memory of the host.
template <typename T>
void check_ids(const Model<T>& m, const int64_t* triples, int64_t n, const char* name) {
  for (int64_t i = 0; i < 3 * n; ++i)
    if (triples[i] < 0 || triples[i] >= (i % 3 == 1 ? m.relations : m.entities))
      check(false, std::string(name) + ": id " + std::to_string(triples[i]) + " exceeds the model");
}

// How often `each` columns of a matrix [rows, C P] come for each channel: a sum over its chunks of `step` channels.
template <typename Each>
int64_t over_chunks(int64_t C, int64_t step, const Each& each) {
  const int64_t chunks = (C + step - 1) / step;
  return product({chunks - 1, each(step)}) + each(C - (chunks - 1) * step);
}

inline int64_t even(int64_t k) { return round_up(k, 2); }

// The part's windows see the image's pixels `from` .. `below` at most.
template <typename T>
Segment<T> take_segment(Fields& f, const std::string& part, const Model<T>& m, int64_t step, int64_t from,
                        int64_t below, const Place& place) {
  Segment<T> s = {};
  check(step <= m.C, "model_sizes: " + part + "_step is " + std::to_string(step) + ", must be at most the " +
                         std::to_string(m.C) + " channels");
  s.step = step;
  s.pixels = f.take<int32_t>(part + ".pixels", {&s.X});
  s.taps = f.take<int32_t>(part + ".taps", {&s.P, m.J});
  const int64_t rows = over_chunks(m.C, step, [&](int64_t channels) { return padded(channels * s.P, place.height); });
  s.forward = f.take<T>(part + ".forward", {product({padded(m.D, place.height), m.C, s.P})});
  s.backward = f.take<T>(part + ".backward", {product({rows, m.D})});
  s.narrow_backward = f.take_narrow<T>(part + ".narrow_backward", product({rows, even(m.D)}), rows * m.D);
  check_indices(place, s.pixels, s.X, from, below, part + ".pixels: outside its part of the image");
  check_indices(place, s.taps, s.P * m.J, 0, s.X, part + ".taps: outside the segment");
  return s;
}

// tracin_ext.ops.ModelTensors
template <typename T>
Model<T> model_of(const Tensors& tensors, const ModelSizes& sizes, const Place& place) {
  Fields f("model", tensors, place);
  Model<T> m = {};
  int64_t rows = 0;
  m.relations = sizes.relations, m.relation_step = sizes.relation_step;
  m.entity = f.take<T>("entity", {&m.entities, &m.D});
  m.relation = f.take<T>("relation", {&rows, m.D});
  check(product({m.relations, m.relation_step}) <= rows, "model_sizes: more relations than rows");
  m.bias = f.take_optional<T>("bias", {m.entities});
  m.pixel_mean = f.take<T>("pixel", {2, 2 * m.D}), m.pixel_rstd = m.pixel_mean + 2 * m.D;
  m.kernel = f.take<T>("kernel", {&m.C, &m.J});
  check(m.D && m.C && m.J, "model: no dimension, no channel or no tap");
  m.shift = f.take<T>("shift", {m.C});
  m.pixel_kernel = f.take<T>("pixel_kernel", {m.C, m.J});
  m.scale = f.take<T>("hidden", {5, m.D}), m.offset = m.scale + m.D, m.norm_scale = m.offset + m.D;
  m.norm_offset = m.norm_scale + m.D, m.delta_scale = m.norm_offset + m.D;
  m.head_half = take_segment(f, "head_half", m, sizes.head_half_step, 0, m.D, place);
  m.middle = take_segment(f, "middle", m, sizes.middle_step, 0, 2 * m.D, place);
  m.relation_half = take_segment(f, "relation_half", m, sizes.relation_half_step, m.D, 2 * m.D, place);
  m.relation_u = f.take_optional<T>("relation_u", {m.relations, m.D});
  const int64_t panels = round_up(m.size_S(), lanes) / lanes;
  m.jacobians = f.take_optional<T>("jacobians", {m.relations, panels, m.D, lanes});
  m.head_positions = f.take_optional<int32_t>("head_positions", {&m.head_P});
  m.both_positions = f.take_optional<int32_t>("both_positions", {&m.both_P});
  m.taps = f.take<int32_t>("taps", {&m.P, m.J});
  m.fc = f.take<T>("fc", {m.D, m.C * m.P});
  m.exact_pixel = f.take_optional<double>("exact_pixel", {2, 2 * m.D});
  m.exact_kernel = f.take_optional<double>("exact_kernel", {m.C, m.J});
  m.exact_shift = f.take_optional<double>("exact_shift", {m.C});
  m.exact_hidden = f.take_optional<double>("exact_hidden", {2, m.D});
  m.exact_kink = f.take_optional<double>("exact_kink", {m.D});
  f.end();
  check((m.head_half.P == 0) == (m.relation_half.P == 0), "model: one half of the image is missing");
  check(!(place.host && (m.head_positions || m.both_positions)), "head_positions and both_positions are for CUDA");
  check(m.head_P + m.both_P <= m.middle.P, "head_positions and both_positions: more than all positions");
  check_indices(place, m.taps, m.P * m.J, 0, 2 * m.D, "taps: outside the image");
  check(!m.exact_kink || (m.exact_pixel && m.exact_kernel && m.exact_shift && m.exact_hidden),
        "exact_kink needs exact_pixel, exact_kernel, exact_shift and exact_hidden");
  return m;
}

// tracin_ext.ops.TestTensors
template <typename T>
Tests<T> tests_of(const Model<T>& m, const Tensors& tensors, const TestSizes& sizes, const Place& place) {
  Fields f("tests", tensors, place);
  const int64_t D = m.D, width = D + m.middle.X, columns = 2 * D + (sizes.has_S ? m.size_S() : 0);
  const auto high = [&](int64_t rows) { return padded(rows, place.height); };
  const auto narrow_columns = [&](const Segment<T>& s) {  // chunks are filled up to whole pairs
    return over_chunks(m.C, s.step, [&](int64_t channels) { return even(channels * s.P); });
  };
  Tests<T> t = {};
  t.heads = sizes.heads, t.has_S = sizes.has_S, t.fc_bias = T(sizes.fc_bias);
  t.triples = f.take<int64_t>("triples", {&t.Q, 3});
  t.pair = f.take<int64_t>("pair", {t.Q});
  t.pair_head = f.take<int64_t>("pair_head", {&t.pairs});
  t.pair_relation = f.take<int64_t>("pair_relation", {t.pairs});
  check(t.heads <= t.pairs, "test_sizes: heads is " + std::to_string(t.heads) + ", must be at most the " +
                                std::to_string(t.pairs) + " pairs");
  const int64_t head_columns = m.head_columns(), middle_columns = m.middle_columns();
  t.head_half_v = f.take_optional<T>("head_half_v", {product({high(t.heads), head_columns})});
  t.narrow_head_half_v = f.take_narrow<T>("narrow_head_half_v", product({high(t.heads), narrow_columns(m.head_half)}),
                                          high(t.heads) * head_columns);
  t.middle_v = f.take_optional<T>("middle_v", {product({high(t.pairs), middle_columns})});
  t.narrow_middle_v = f.take_narrow<T>("narrow_middle_v", product({high(t.pairs), narrow_columns(m.middle)}),
                                       high(t.pairs) * middle_columns);
  t.relation_gram = f.take_optional<T>("relation_gram", {&t.relations, m.relations});
  t.delta = f.take_optional<T>("delta", {high(t.Q) * D});
  t.narrow_delta = f.take_narrow<T>("narrow_delta", high(t.Q) * even(D), high(t.Q) * D);
  t.linear = f.take<T>("linear", {product({high(t.Q), columns})});
  t.narrow_linear = f.take_narrow<T>("narrow_linear", product({high(t.Q), even(columns)}), high(t.Q) * columns);
  t.w = f.take_optional<T>("w", {t.Q});
  t.wz = f.take_optional<T>("wz", {t.Q, D});
  t.c = f.take_optional<T>("c", {t.Q, D});
  t.along_c = f.take_optional<T>("along_c", {t.Q, width});
  t.along_wz = f.take_optional<T>("along_wz", {t.Q, width});
  t.along_q = f.take_optional<T>("along_q", {t.Q, width});
  f.end();
  if (place.host) check_ids(m, t.triples, t.Q, "tests: triples");
  check_indices(place, t.pair, t.Q, 0, t.pairs, "pair: out of range");
  check_indices(place, t.pair_head, t.pairs, 0, t.heads, "pair_head: out of range");
  if (t.relation_gram) check_indices(place, t.pair_relation, t.pairs, 0, t.relations, "pair_relation: out of range");
  check(!t.delta || t.middle_v || !middle_columns, "delta needs middle_v");
  check(!t.delta || !head_columns || (t.head_half_v && t.relation_gram), "delta needs head_half_v and relation_gram");
  check(!t.narrow_linear || !t.delta ||
            (t.narrow_delta &&
             (place.host || ((t.narrow_middle_v || !middle_columns) && (t.narrow_head_half_v || !head_columns)))),
        "narrow_linear needs narrow_delta, and on CUDA narrow_middle_v and narrow_head_half_v");
  check(!t.along_c || (t.wz && t.c && t.along_wz), "along_c needs wz, c and along_wz");
  check(place.host || !t.c == !t.wz, "c needs wz, and wz needs c");
  return t;
}

// fc of a half by position, as Halves has it.
template <typename T>
int64_t fc_size(const Model<T>& m, const Segment<T>& s) {
  return product({s.P, m.C, round_up(m.D, 16)});
}

// tracin_ext.ops.HalfTensors
template <typename T>
Halves<T> halves_of(const Model<T>& m, const Tensors& tensors, const Place& place) {
  Fields f("halves", tensors, place);
  Halves<T> halves = {};
  halves.head_fc = f.take_optional<T>("head_fc", {fc_size(m, m.head_half)});
  halves.relation_fc = f.take_optional<T>("relation_fc", {fc_size(m, m.relation_half)});
  halves.relation_squares = f.take_optional<T>("relation_squares", {m.relations});
  const int64_t panels = round_up(m.relation_half.X, lanes) / lanes;
  halves.relation_pixels = f.take_optional<T>("relation_pixels", {m.relations, panels, m.D, lanes});
  f.end();
  const bool whole = m.head_half.P == 0;
  check(whole || (halves.head_fc && halves.relation_fc), "halves: head_fc or relation_fc is missing");
  check(whole || halves.relation_squares || !m.relations, "halves: relation_squares is missing");
  return halves;
}

template <typename T>
void take_flags(Numbers& n, Tracked<T>* on) {
  on->fc = n.flag("fc"), on->fc_bias = n.flag("fc_bias");
  on->bn2_weight = n.flag("bn2_weight"), on->bn2_bias = n.flag("bn2_bias");
  on->entity = n.flag("entity"), on->relation = n.flag("relation"), on->bias = n.flag("bias");
}

// Which gradients count: tracin_ext.ops.Tracked.
template <typename T>
Tracked<T> tracked_of(const Integers& integers) {
  Tracked<T> on = {};
  Numbers n("tracked", integers);
  take_flags(n, &on);
  n.end();
  return on;
}

template <typename T>
Tracked<T> tracked_of(const Model<T>& m, const Tensor& M, const Integers& integers, const Place& place) {
  const int64_t size_S = m.size_S();
  Tracked<T> on = tracked_of<T>(integers);
  on.M = optional<const T>("M", M, place, {product({padded(size_S, place.height), size_S})});
  return on;
}

// tracin_ext.ops.FormTensors
template <typename T>
Form<T> form_of(const Model<T>& m, const Tensors& tensors, double slack, const Place& place) {
  check(slack >= 0, "S_slack must not be negative");
  Fields f("form", tensors, place);
  Form<T> form = {};
  form.slack = slack;
  form.blocks = f.take_optional<T>("blocks", {m.C, m.J + 1, m.J + 1});
  form.rows = f.take_optional<T>("rows", {&form.count, m.size_S()});
  f.end();
  if (!form.rows) form.count = 0;
  check(form.blocks || !form.rows, "form: rows need blocks");
  return form;
}

}  // namespace tracin
