// The influence of one training triple on one test triple from factors that are kept, as exactly as is asked for.
#pragma once
#include <cmath>
#include <limits>
#include <vector>

#include "loops.h"

namespace tracin::cpu {

// Ids and rows that a test and a training triple have in common.
struct Shared {
  bool head, relation, tail, head_is_tail, tail_is_head;  // head_is_tail: the training triple's head, the test's tail

  Shared(const int64_t* train, const int64_t* test)
      : head(train[0] == test[0]),
        relation(train[1] == test[1]),
        tail(train[2] == test[2]),
        head_is_tail(train[0] == test[2]),
        tail_is_head(train[2] == test[0]) {}
  bool entity() const { return head || tail || head_is_tail || tail_is_head; }
};

// A test triple that meets training triples one by one.
template <typename T>
class Question {
 public:
  Question(const PairModel<T>* models, int64_t checkpoints) : models_(models), checkpoints_(checkpoints) {
    sides_.resize(checkpoints);
  }

  void ask(int64_t test) {
    test_ = test;
    triple_ = models_[0].tests.triples + 3 * test;
    for (int64_t c = 0; c < checkpoints_; ++c) {
      const PairModel<T>& m = models_[c];
      const Factors<T>& x = m.tests;
      const int64_t pair = x.pair[test];
      Side& side = sides_[c];
      side.w = x.w[test];
      side.z = x.z + pair * m.D;
      side.norms = x.norms + test * norm_parts;
      side.relation_gram = m.relation_gram ? m.relation_gram + triple_[1] * m.relations : nullptr;
      side.middle_v = x.middle_v + pair * x.middle_columns;
      side.middle_squares = x.middle_squares[pair];
      side.head_v = x.head_v ? x.head_v + x.pair_head[pair] * x.head_columns : nullptr;
      side.head_squares = x.head_v ? x.head_squares[x.pair_head[pair]] : T(0);
      for (auto* e : {&side.e, &side.e_scaled, &side.e_un}) e->resize(m.D);
      const T* entity = m.entity + triple_[2] * m.D;
      for (int64_t d = 0; d < m.D; ++d) {
        side.e[d] = side.z[d] <= 0 ? T(0) : entity[d];
        side.e_scaled[d] = side.e[d] * m.delta_scale[d] * m.delta_scale[d];
        side.e_un[d] = side.e[d] * x.un[pair * m.D + d];
      }
    }
  }

  const int64_t* triple() const { return triple_; }
  const int64_t* ids(int64_t row) const { return models_[0].train.triples + 3 * row; }
  Shared shared(int64_t row) const { return {ids(row), triple_}; }

  // What `bound` reads, and what `score` reads first.
  void prefetch_row(int64_t row) const {
    __builtin_prefetch(ids(row));
    for (int64_t c = 0; c < checkpoints_; ++c) {
      __builtin_prefetch(models_[c].train.norms + row * norm_parts);
      __builtin_prefetch(models_[c].train.pair + row);
      __builtin_prefetch(models_[c].train.w + row);
    }
  }
  void prefetch_pair(int64_t row) const {
    constexpr int64_t line = 64 / sizeof(T);
    for (int64_t c = 0; c < checkpoints_; ++c) {
      const PairModel<T>& m = models_[c];
      const int64_t pair = m.train.pair[row];
      __builtin_prefetch(signs(c, pair));
      __builtin_prefetch(m.train.middle_squares + pair);
      __builtin_prefetch(m.train.pair_head + pair);
      for (int64_t d = 0; d < m.D; d += line) __builtin_prefetch(m.entity + ids(row)[2] * m.D + d);
    }
  }

  // The most that the absolute influence of a training triple may be.
  T bound(int64_t row, const Shared& shared) const {
    T sum = 0;
    for (int64_t c = 0; c < checkpoints_; ++c) {
      const T *x = models_[c].train.norms + row * norm_parts, *y = sides_[c].norms;
      T part = 0;
      for (int64_t p = 0; p < dense_parts; ++p) part += x[p] * y[p];
      if (shared.relation) part += x[part_relation] * y[part_relation];
      if (shared.head) part += x[part_head] * y[part_head];
      if (shared.tail) part += x[part_tail] * y[part_tail] + x[part_bias] * y[part_bias];
      if (shared.head_is_tail) part += x[part_head] * y[part_tail];
      if (shared.tail_is_head) part += x[part_tail] * y[part_head];
      sum += std::fabs(models_[c].rate) * part;
    }
    return sum;
  }

  // Norms of the test's parts for a list: `parts` of each checkpoint, weighted by its rate; and their total.
  T list_norms(int64_t parts, std::vector<T>& norms) const {
    norms.clear();
    double total = 0;
    for (int64_t c = 0; c < checkpoints_; ++c) {
      const double rate = std::fabs(static_cast<double>(models_[c].rate));
      for (int64_t p = 0; p < parts; ++p) {
        const T norm = sides_[c].norms[p];
        norms.push_back(static_cast<T>(rate) * norm);
        total = std::hypot(total, std::sqrt(rate) * norm);  // no square vanishes
      }
    }
    return static_cast<T>(total * (1 + 4 * static_cast<double>(std::numeric_limits<T>::epsilon())));
  }

  // The influence of a training triple; `within(low, high)` tells from its bounds whether it is still wanted, and is
  // asked whenever they have come closer. False: it is not.
  template <typename Within>
  bool score(int64_t row, const Shared& shared, const Within& within, T* score) {
    double known = 0, open = 0;
    for (int64_t c = 0; c < checkpoints_; ++c) begin(c, row, shared, &known, &open);
    numbers_ += checkpoints_ * models_[0].D;
    if (!within(low(known, open), high(known, open))) return false;
    for (int64_t c = 0; c < checkpoints_; ++c) {
      const PairModel<T>& m = models_[c];
      if (!m.on.bn2_weight) continue;
      const int64_t pair = m.train.pair[row];
      open -= sides_[c].open_un;
      known += sides_[c].rate_ww * loops<T>().pair_un(m.entity + ids(row)[2] * m.D, signs(c, pair),
                                                      m.train.un + pair * m.D, sides_[c].e_un.data(), m.D);
      numbers_ += m.D;
    }
    if (!within(low(known, open), high(known, open))) return false;
    for (int64_t c = 0; c < checkpoints_; ++c) {
      const PairModel<T>& m = models_[c];
      if (!m.train.S) continue;
      open -= sides_[c].open_S;
      known += static_cast<double>(m.rate) *
               loops<T>().dot(m.train.S + row * m.size_S, m.tests.S + test_ * m.size_S, m.size_S);
      numbers_ += m.size_S;
    }
    if (!within(low(known, open), high(known, open))) return false;
    for (int64_t c = 0; c < checkpoints_; ++c) middle_gram(c, row);
    if (!within(low(known, open), high(known, open))) return false;
    for (int64_t c = 0; c < checkpoints_; ++c) head_gram(c, row);
    *score = static_cast<T>(low(known, open));
    return true;
  }

  int64_t numbers() const { return numbers_; }  // read for scores so far
  void restart() { numbers_ = 0; }

 private:
  // What does not change while a test is asked about, and what is known of its pair with the current triple:
  // fc (gram + [0, open_gram]), where gram = v . v' as far as it is known.
  struct Side {
    T w, middle_squares, head_squares;
    const T *z, *norms, *relation_gram, *middle_v, *head_v;
    std::vector<T> e, e_scaled, e_un;
    double rate_ww, fc, gram, open_un, open_S, open_middle, open_head;
  };

  const int32_t* signs(int64_t c, int64_t pair) const {
    return models_[c].train.signs + pair * round_up(models_[c].D, 32) / 32;
  }

  double low(double known, double open) const {
    double sum = known - open;
    for (int64_t c = 0; c < checkpoints_; ++c) {
      const Side& s = sides_[c];
      sum += s.fc * s.gram + std::fmin(0.0, s.fc * (s.open_middle + s.open_head));
    }
    return sum;
  }
  double high(double known, double open) const {
    double sum = known + open;
    for (int64_t c = 0; c < checkpoints_; ++c) {
      const Side& s = sides_[c];
      sum += s.fc * s.gram + std::fmax(0.0, s.fc * (s.open_middle + s.open_head));
    }
    return sum;
  }

  void begin(int64_t c, int64_t row, const Shared& shared, double* known, double* open) {
    const auto dot = loops<T>().dot;
    const PairModel<T>& m = models_[c];
    const Factors<T>&x = m.train, &y = m.tests;
    Side& s = sides_[c];
    const int64_t D = m.D, pair = x.pair[row], *ids = x.triples + 3 * row;
    const T *z = x.z + pair * D, w = x.w[row];
    const double rate = m.rate, ww = static_cast<double>(w) * s.w;
    T sums[2];
    loops<T>().pair_sums(m.entity + ids[2] * D, signs(c, pair), s.e.data(), s.e_scaled.data(), D, sums);
    double sum = m.on.bn2_bias ? ww * sums[0] : 0.0;
    if (shared.tail && m.on.bias) sum += ww;
    if (x.q && shared.relation) sum += dot(x.q + row * D, y.q + test_ * D, D);
    if (x.c) {
      if (shared.head) sum += dot(x.c + row * D, y.c + test_ * D, D);
      if (shared.tail) sum += ww * dot(z, s.z, D);
      if (shared.head_is_tail) sum += static_cast<double>(s.w) * dot(x.c + row * D, s.z, D);
      if (shared.tail_is_head) sum += static_cast<double>(w) * dot(z, y.c + test_ * D, D);
    }
    *known += rate * sum;
    s.open_S = x.S ? std::fabs(rate) * x.norms[row * norm_parts + part_S] * s.norms[part_S] : 0.0;
    s.open_un = std::fabs(rate) * x.norms[row * norm_parts + part_e_un] * s.norms[part_e_un];
    *open += s.open_S + s.open_un;
    s.rate_ww = rate * ww;
    s.fc = m.on.fc ? rate * ww * sums[1] : 0.0;
    s.gram = m.on.fc_bias + (s.relation_gram ? s.relation_gram[ids[1]] : T(0));
    s.open_middle = std::sqrt(static_cast<double>(x.middle_squares[pair]) * s.middle_squares);
    s.open_head = 0;
    if (!s.head_v) return;
    if (shared.head)
      s.gram += s.head_squares;
    else
      s.open_head = std::sqrt(static_cast<double>(x.head_squares[x.pair_head[pair]]) * s.head_squares);
  }

  void middle_gram(int64_t c, int64_t row) {
    const Factors<T>& x = models_[c].train;
    Side& s = sides_[c];
    if (s.fc != 0 && s.open_middle != 0) {
      s.gram += loops<T>().dot(x.middle_v + x.pair[row] * x.middle_columns, s.middle_v, x.middle_columns);
      numbers_ += x.middle_columns;
    }
    s.open_middle = 0;
  }

  void head_gram(int64_t c, int64_t row) {
    const Factors<T>& x = models_[c].train;
    Side& s = sides_[c];
    if (s.fc != 0 && s.open_head != 0) {
      s.gram += loops<T>().dot(x.head_v + x.pair_head[x.pair[row]] * x.head_columns, s.head_v, x.head_columns);
      numbers_ += x.head_columns;
    }
    s.open_head = 0;
  }

  const PairModel<T>* models_;
  int64_t checkpoints_, test_ = 0, numbers_ = 0;
  const int64_t* triple_ = nullptr;
  std::vector<Side> sides_;
};

}  // namespace tracin::cpu
