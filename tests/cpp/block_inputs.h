// What tests of the block ops share: the test side as the kernels take it, triples, and the expected scores.
#pragma once
#include <string>

#include "factors_by_definition.h"

using tracin::lanes;

template <typename T>
std::vector<T> rounded(const Numbers& numbers) {
  return {numbers.begin(), numbers.end()};
}

// u, v and Jacobians of the relations' half.
struct RelationTables {
  Numbers u, v, jacobians;

  template <typename T>
  explicit RelationTables(const RandomModel<T>& m) {
    const std::vector<int64_t> features = m.features_of(2);
    const int64_t D = m.D, J = m.J, size = (m.S + lanes - 1) / lanes * D * lanes;
    u.resize(m.R * D), jacobians.resize(m.R * size);
    for (int64_t r = 0; r < m.R; ++r) {
      Factors x{};
      x.relation = r;
      forward(m, x);
      for (const int64_t f : features) {
        v.push_back(x.v[f]);
        if (x.v[f] <= 0) continue;
        for (int64_t d = 0; d < D; ++d) u[r * D + d] += m.fc[d * m.F + f] * x.v[f];
        for (int64_t j = 0; j <= J; ++j) {
          const int64_t s = f / m.P * (J + 1) + j;
          const double pixel = j < J ? x.image[m.taps[f % m.P * J + j]] : 1;
          for (int64_t d = 0; d < D; ++d)
            jacobians[r * size + (s / lanes * D + d) * lanes + s % lanes] += m.fc[d * m.F + f] * pixel;
        }
      }
    }
  }
};

// Row of `id` in `ids`, added if it is new.
template <typename Id>
int64_t row_of(std::vector<Id>& ids, const Id& id) {
  const auto it = std::find(ids.begin(), ids.end(), id);
  if (it != ids.end()) return it - ids.begin();
  ids.push_back(id);
  return static_cast<int64_t>(ids.size()) - 1;
}

// The test side as the kernels take it.
template <typename T>
struct TestSide {
  std::vector<int64_t> triples, pair, pair_head, pair_relation, heads, relations;
  std::vector<T> head_half_v, middle_v, relation_gram, delta, linear, w, wz, c;
  std::vector<T> along_c, along_wz, along_q;
  tracin::Tests<T> tests{};

  TestSide(const TestSide&) = delete;
  TestSide(const RandomModel<T>& random, const PackedModel<T>& packed, const RelationTables& tables,
           const std::vector<Factors>& factors, const Numbers& M, const Layers& on, int64_t height) {
    const auto Q = static_cast<int64_t>(factors.size());
    index(factors);
    for (const Factors& x : factors) add(random, packed, x, M, on);
    put_v(random, packed, tables, factors, height);
    const int64_t columns = 2 * random.D + (on.S ? random.S : 0);
    delta = pack(delta, Q, random.D, height), linear = pack(linear, Q, columns, height);
    tests.Q = Q, tests.triples = triples.data(), tests.pair = pair.data();
    tests.pairs = static_cast<int64_t>(pair_head.size()), tests.heads = static_cast<int64_t>(heads.size());
    tests.relations = static_cast<int64_t>(relations.size());
    tests.pair_head = pair_head.data(), tests.pair_relation = pair_relation.data();
    tests.linear = linear.data(), tests.has_S = on.S, tests.fc_bias = T(1);
    if (on.fc) tests.delta = delta.data(), tests.middle_v = middle_v.data();
    if (on.fc && packed.model.head_columns())
      tests.head_half_v = head_half_v.data(), tests.relation_gram = relation_gram.data();
    if (on.bias) tests.w = w.data();
    if (on.relation) tests.along_q = along_q.data();
    if (!on.entity) return;
    tests.wz = wz.data(), tests.c = c.data();
    tests.along_c = along_c.data(), tests.along_wz = along_wz.data();
  }

 private:
  void index(const std::vector<Factors>& factors) {
    std::vector<std::pair<int64_t, int64_t>> pairs;
    for (const Factors& x : factors) {
      triples.insert(triples.end(), {x.head, x.relation, x.tail});
      pair.push_back(row_of(pairs, {x.head, x.relation}));
      if (pairs.size() == pair_head.size()) continue;
      pair_head.push_back(row_of(heads, x.head));
      pair_relation.push_back(row_of(relations, x.relation));
    }
  }

  void add(const RandomModel<T>& random, const PackedModel<T>& packed, const Factors& x, const Numbers& M,
           const Layers& on) {
    const int64_t D = random.D;
    const auto append = [](std::vector<T>& to, const Numbers& from, double factor = 1) {
      for (const double value : from) to.push_back(static_cast<T>(factor * value));
    };
    for (int64_t d = 0; d < D; ++d) delta.push_back(static_cast<T>(x.delta[d] * random.hidden[4 * D + d]));
    append(linear, x.e);
    append(linear, x.e_un);
    if (on.S) append(linear, times(M, x.S));
    w.push_back(static_cast<T>(x.w));
    append(wz, x.z, x.w);
    append(c, x.c);
    Factors swapped{};
    swapped.head = x.tail, swapped.relation = x.relation;
    forward(random, swapped);
    Numbers along_head = x.c, along_tail = x.z, along_relation(D);
    for (double& value : along_tail) value *= x.w;
    along_relation.insert(along_relation.end(), x.q.begin(), x.q.end());
    along_head.resize(2 * D), along_tail.resize(2 * D);
    append(along_c, response(random, packed, 0, x.v, along_head));
    append(along_wz, response(random, packed, 0, swapped.v, along_tail));
    append(along_q, response(random, packed, 2, x.v, along_relation));
  }

  // What (delta, gradient at the middle's pixels) is multiplied by for the gradient along `pixels` [2 D] through the
  // half `part`, whose mask has the signs of v, and through the middle.
  static Numbers response(const RandomModel<T>& m, const PackedModel<T>& packed, int64_t part, const Numbers& v,
                          const Numbers& pixels) {
    Numbers result(m.D);
    if (packed.model.head_half.P)
      for (const int64_t f : m.features_of(part)) {
        double change = 0;
        for (int64_t j = 0; j < m.J && v[f] > 0; ++j)
          change += m.pixel_kernel[f / m.P * m.J + j] * pixels[m.taps[f % m.P * m.J + j]];
        for (int64_t d = 0; d < m.D; ++d) result[d] += m.fc[d * m.F + f] * change;
      }
    for (const int32_t pixel : packed.parts[1].pixels) result.push_back(pixels[pixel]);
    return result;
  }

  void put_v(const RandomModel<T>& random, const PackedModel<T>& packed, const RelationTables& tables,
             const std::vector<Factors>& factors, int64_t height) {
    Numbers of_heads(heads.size() * random.F), of_pairs(pair_head.size() * random.F);
    for (size_t q = 0; q < factors.size(); ++q) {
      std::copy(factors[q].v.begin(), factors[q].v.end(), of_pairs.begin() + pair[q] * random.F);
      std::copy(factors[q].v.begin(), factors[q].v.end(), of_heads.begin() + pair_head[pair[q]] * random.F);
    }
    const auto put = [&](const Numbers& v, int64_t rows, int64_t part, int64_t step) {
      const bool whole = part == 1 && !packed.model.head_columns();
      const std::vector<int64_t> features = random.features_of(whole ? 3 : part);
      const auto columns = columns_of<T>(v, random.F, features);
      if (height == as_rows) return columns;
      return pack_chunks(columns, rows, random.C, static_cast<int64_t>(features.size()) / random.C, step, height);
    };
    middle_v = put(of_pairs, static_cast<int64_t>(pair_head.size()), 1, packed.model.middle.step);
    if (!packed.model.head_columns()) return;
    head_half_v = put(of_heads, static_cast<int64_t>(heads.size()), 0, packed.model.head_half.step);
    const auto width = static_cast<int64_t>(tables.v.size()) / random.R;
    const auto row = [&](int64_t r) { return Numbers(&tables.v[r * width], &tables.v[r * width] + width); };
    for (const int64_t relation : relations)
      for (int64_t r = 0; r < random.R; ++r) relation_gram.push_back(static_cast<T>(dot(row(relation), row(r))));
  }
};

// Triples with coinciding heads, relations and tails, and self-loops. Skewed: some heads have many samples.
template <typename T>
std::vector<int64_t> random_triples(const RandomModel<T>& m, int64_t n, bool skewed) {
  std::vector<int64_t> heads = integers<int64_t>(n, m.N), triples;
  const std::vector<int64_t> other = integers<int64_t>(n, m.N);
  for (int64_t i = 0; i < n && skewed; ++i) heads[i] = std::min(heads[i], other[i]);
  std::sort(heads.begin(), heads.end());
  for (const int64_t head : heads) {
    const int64_t tail = integers<int64_t>(1, m.N)[0], relation = integers<int64_t>(1, m.R)[0];
    triples.insert(triples.end(), {head, relation, tail % 5 ? tail : head});
  }
  return triples;
}

// Puts every unit of a triple's hidden layer so close to ReLU's kink that only double arithmetic finds the side.
template <typename T>
void put_at_kink(RandomModel<T>& m, const int64_t* triple) {
  const Factors x = factors_of(m, triple);
  for (int64_t d = 0; d < m.D; ++d) {
    m.exact_hidden[m.D + d] = (d % 2 ? 1e-8 : -1e-8) - m.exact_hidden[d] * x.u[d];
    m.hidden[m.D + d] = static_cast<T>(m.exact_hidden[m.D + d]);
  }
}

template <typename T>
struct BlockTest {
  const RandomModel<T>& random;
  Layers on;
  std::vector<int64_t> triples;
  int64_t B = static_cast<int64_t>(triples.size()) / 3;
  Numbers M = normal<double>(random.S * random.S, 1.0 / random.S);
  std::vector<Factors> left, right;
  RelationTables tables{random};
  std::string where;

  BlockTest(const RandomModel<T>& m, const Layers& layers, const std::vector<int64_t>& samples,
            const std::vector<int64_t>& tests)
      : random(m), on(layers), triples(samples) {
    for (int64_t i = 0; i < m.S * m.S; ++i) M[i] = i / m.S <= i % m.S ? M[i] : M[i % m.S * m.S + i / m.S];
    for (size_t i = 0; i < tests.size(); i += 3) left.push_back(factors_of(m, &tests[i]));
    for (size_t i = 0; i < triples.size(); i += 3) right.push_back(factors_of(m, &triples[i]));
    where = "D=" + std::to_string(m.D) + " B=" + std::to_string(B) + " Q=" + std::to_string(left.size()) +
            " layers=" + std::to_string(on.fc) + std::to_string(on.S) + std::to_string(on.entity);
  }

  // rate * K of every test with every sample; of every sample with itself.
  static constexpr double rate = 0.5;
  Numbers influences() const {
    Numbers scores;
    for (const Factors& q : left) {
      const Numbers MS = times(M, q.S);
      for (const Factors& b : right) scores.push_back(rate * kernel_of(q, MS, b, on));
    }
    return scores;
  }
  Numbers self_influences() const {
    Numbers scores;
    for (const Factors& b : right) scores.push_back(rate * kernel_of(b, times(M, b.S), b, on));
    return scores;
  }

  void compare(const std::string& how, const char* op, const std::vector<T>& scores, const Numbers& expected) const {
    double largest = 0;
    for (const double value : expected) largest = std::max(largest, std::abs(value));
    expect_close((where + " " + how).c_str(), op, scores, expected, largest);
  }
};
