// The lists of tensors of pair scores, in the order of tracin_ext.ops, as the structures that kernels read.
#pragma once
#include <utility>

#include "packed.h"

namespace tracin {

// tracin_ext.ops.FactorTensors of n triples. `size_S`, D: of the model; 0 columns where there is no such part.
template <typename T>
Factors<T> factors_of(Fields& f, const Place& place, int64_t D, int64_t entities) {
  Factors<T> x = {};
  int64_t size_S = 0;
  const auto take = [&](const char* name, Shape shape) { return const_cast<T*>(f.take_optional<T>(name, shape)); };
  x.triples = f.take<int64_t>("triples", {&x.n, 3});
  x.pair = f.take<int32_t>("pair", {x.n});
  x.pair_head = f.take<int32_t>("pair_head", {&x.G});
  x.w = take("w", {x.n});
  x.S = take("S", {x.n, &size_S});
  x.size_S = size_S;
  x.c = take("c", {x.n, D});
  x.q = take("q", {x.n, D});
  x.z = take("z", {x.G, D});
  x.un = take("un", {x.G, D});
  x.signs = const_cast<int32_t*>(f.take_optional<int32_t>("signs", {x.G, round_up(D, 32) / 32}));
  x.middle_v = take("middle_v", {x.G, &x.middle_columns});
  x.middle_squares = take("middle_squares", {x.G});
  x.head_v = take("head_v", {&x.H, &x.head_columns});
  x.head_squares = take("head_squares", {x.H});
  x.norms = take("norms", {x.n, norm_parts});
  check(!x.n || (x.w && x.z && x.un && x.signs && x.middle_squares && x.norms),
        "factors: w, z, un, signs, middle_squares or norms is missing");
  check(!x.head_v || x.head_squares, "factors: head_v needs head_squares");
  check_indices(place, x.pair, x.n, 0, x.G, "factors: pair: out of range");
  if (x.head_v) check_indices(place, x.pair_head, x.G, 0, x.H, "factors: pair_head: out of range");
  for (int64_t i = 0; i < x.n; ++i)
    check(x.triples[3 * i] >= 0 && x.triples[3 * i] < entities && x.triples[3 * i + 2] >= 0 &&
              x.triples[3 * i + 2] < entities && x.triples[3 * i + 1] >= 0,
          "factors: triples: an id exceeds the model");
  return x;
}

// tracin_ext.ops.PairTensors of each checkpoint.
template <typename T>
std::vector<PairModel<T>> pair_models_of(const Tensors& tensors, const Integers& tracked, const Tensor& rates,
                                         const Place& place) {
  int64_t checkpoints = 0;
  const double* rate = data<const double>("rates", rates, place, {&checkpoints});
  check(checkpoints > 0, "rates: no checkpoint");
  Fields f("models", tensors, place);
  Numbers flags("tracked", tracked);
  std::vector<PairModel<T>> models;
  for (int64_t i = 0; i < checkpoints; ++i) {
    PairModel<T> m = {};
    m.rate = static_cast<T>(rate[i]);
    m.entity = f.take<T>("entity", {&m.entities, &m.D});
    m.delta_scale = f.take<T>("delta_scale", {m.D});
    m.relation_gram = f.take_optional<T>("relation_gram", {&m.relations, &m.relations});
    take_flags(flags, &m.on);
    m.train = factors_of<T>(f, place, m.D, m.entities);
    m.tests = factors_of<T>(f, place, m.D, m.entities);
    m.size_S = m.train.size_S;
    const auto alike = [](const Factors<T>& x, const Factors<T>& y) {
      return x.middle_columns == y.middle_columns && x.head_columns == y.head_columns && !x.S == !y.S && !x.c == !y.c &&
             !x.q == !y.q && !x.head_v == !y.head_v && x.size_S == y.size_S;
    };
    check(!m.train.n || !m.tests.n || alike(m.train, m.tests), "models: the factors of tests have other parts");
    check(m.train.n == (i ? models[0].train.n : m.train.n) && m.tests.n == (i ? models[0].tests.n : m.tests.n),
          "models: checkpoints have different triples");
    for (const Factors<T>* x : {&m.train, &m.tests})
      for (int64_t row = 0; m.relation_gram && row < x->n; ++row)
        check(x->triples[3 * row + 1] < m.relations, "factors: triples: an id exceeds the model");
    models.push_back(m);
  }
  f.end();
  flags.end();
  return models;
}

// tracin_ext.ops.ListTensors
template <typename T>
PairLists<T> pair_lists_of(const std::vector<PairModel<T>>& models, const Tensors& tensors, const Place& place) {
  Fields f("lists", tensors, place);
  const int64_t n = models[0].train.n, entities = models[0].entities, checkpoints = static_cast<int64_t>(models.size());
  int64_t starts = 0;
  PairLists<T> lists = {};
  lists.index = f.take<int64_t>("numbers", {n});
  lists.row_of = f.take<int32_t>("row_of", {n});
  lists.head_from = f.take<int64_t>("head_from", {entities + 1});
  lists.tail_from = f.take<int64_t>("tail_from", {entities + 1});
  lists.tail_rows = f.take<int32_t>("tail_rows", {n});
  lists.relation_from = f.take<int64_t>("relation_from", {&starts});
  lists.relation_rows = f.take<int32_t>("relation_rows", {n});
  lists.relation_totals = f.take<T>("relation_totals", {n});
  lists.relation_norms = f.take<T>("relation_norms", {checkpoints * (dense_parts + 1), n});
  lists.rows = f.take<int32_t>("rows", {n});
  lists.totals = f.take<T>("totals", {n});
  lists.norms = f.take<T>("norms", {checkpoints * dense_parts, n});
  f.end();
  check_indices(place, lists.index, n, 0, std::numeric_limits<int64_t>::max(), "lists: numbers: a number is negative");
  for (const int32_t* rows : {lists.row_of, lists.tail_rows, lists.relation_rows, lists.rows})
    check_indices(place, rows, n, 0, n, "lists: a row is out of range");
  const std::pair<const int64_t*, int64_t> all[] = {
      {lists.head_from, entities + 1}, {lists.tail_from, entities + 1}, {lists.relation_from, starts}};
  for (const auto& [from, size] : all)
    for (int64_t i = 0; i < size; ++i)
      check(from[i] >= (i ? from[i - 1] : 0) && from[i] <= n, "lists: a start is out of range");
  for (int64_t i = 0; i < models[0].tests.n; ++i)
    check(models[0].tests.triples[3 * i + 1] + 1 < starts, "lists: relation_from has too few relations");
  return lists;
}

}  // namespace tracin
