// The CPU kernels without torch, on two threads, against their definitions in double: the kernel K(q, b) of
// influence_block.cpp from factors computed triple by triple.
#include <atomic>
#include <string>
#include <thread>

#include "cpu/products.h"
#include "factors_by_definition.h"

namespace {

using tracin::lanes;

void on_two_threads(int64_t n, void (*work)(void*, int64_t), void* context) {
  std::atomic<int64_t> next{0};
  const auto take = [&] {
    for (int64_t i; (i = next++) < n;) work(context, i);
  };
  std::thread other(take);
  take();
  other.join();
}
const tracin::Parallel parallel{&on_two_threads};

// The kernel's own product, or one without panels as torch's.
template <typename T>
tracin::Products<T> products_of(int64_t height) {
  return height ? tracin::cpu::own_products<T>() : tracin::Products<T>{0, &plain_multiply<T>};
}

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
  std::vector<T> head_features, middle_features, tail_gram, delta, linear, residual, pull, head;
  std::vector<T> same_head, head_is_tail, same_relation;
  tracin::Tests<T> tests{};

  TestSide(const TestSide&) = delete;
  TestSide(const RandomModel<T>& random, const PackedModel<T>& packed, const RelationTables& tables,
           const std::vector<Factors>& factors, const Numbers& form, const Layers& on, int64_t height) {
    const auto Q = static_cast<int64_t>(factors.size());
    index(factors);
    for (const Factors& x : factors) add(random, packed, x, form, on);
    features(random, packed, tables, factors, height);
    const int64_t columns = 2 * random.D + (on.statistics ? random.S : 0);
    delta = pack(delta, Q, random.D, height), linear = pack(linear, Q, columns, height);
    tests = {Q, triples.data(), pair.data(), static_cast<int64_t>(pair_head.size()),
             static_cast<int64_t>(heads.size()), static_cast<int64_t>(relations.size()), pair_head.data(),
             pair_relation.data(), nullptr, nullptr, nullptr, nullptr, linear.data(), on.statistics, T(1), nullptr,
             nullptr, nullptr, nullptr, nullptr, nullptr};
    if (on.fc) tests.delta = delta.data(), tests.middle_features = middle_features.data();
    if (on.fc && packed.model.head.P) tests.head_features = head_features.data(), tests.tail_gram = tail_gram.data();
    if (on.bias) tests.residual = residual.data();
    if (on.relation) tests.same_relation = same_relation.data();
    if (!on.entity) return;
    tests.pull = pull.data(), tests.head = head.data();
    tests.same_head = same_head.data(), tests.head_is_tail = head_is_tail.data();
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

  void add(const RandomModel<T>& random, const PackedModel<T>& packed, const Factors& x, const Numbers& form,
           const Layers& on) {
    const int64_t D = random.D;
    const auto append = [](std::vector<T>& to, const Numbers& from, double factor = 1) {
      for (const double value : from) to.push_back(static_cast<T>(factor * value));
    };
    for (int64_t d = 0; d < D; ++d) delta.push_back(static_cast<T>(x.delta[d] * random.hidden[4 * D + d]));
    append(linear, x.e);
    append(linear, x.e_un);
    if (on.statistics) append(linear, times(form, x.S));
    residual.push_back(static_cast<T>(x.w));
    append(pull, x.z, x.w);
    append(head, x.c);
    Factors swapped{};
    swapped.head = x.tail, swapped.relation = x.relation;
    forward(random, swapped);
    Numbers at_head = x.c, at_tail = x.z, at_relation(D);
    for (double& value : at_tail) value *= x.w;
    at_relation.insert(at_relation.end(), x.q.begin(), x.q.end());
    at_head.resize(2 * D), at_tail.resize(2 * D);
    append(same_head, response(random, packed, 0, x.v, at_head));
    append(head_is_tail, response(random, packed, 0, swapped.v, at_tail));
    append(same_relation, response(random, packed, 2, x.v, at_relation));
  }

  // What (delta, gradient at the middle's pixels) is multiplied by for the gradient along `pixels` [2 D] through the
  // half `part`, whose mask has the signs of v, and through the middle.
  static Numbers response(const RandomModel<T>& m, const PackedModel<T>& packed, int64_t part, const Numbers& v,
                          const Numbers& pixels) {
    Numbers result(m.D);
    if (packed.model.head.P)
      for (const int64_t f : m.features_of(part)) {
        double change = 0;
        for (int64_t j = 0; j < m.J && v[f] > 0; ++j)
          change += m.pull[f / m.P * m.J + j] * pixels[m.taps[f % m.P * m.J + j]];
        for (int64_t d = 0; d < m.D; ++d) result[d] += m.fc[d * m.F + f] * change;
      }
    for (const int32_t pixel : packed.parts[1].pixels) result.push_back(pixels[pixel]);
    return result;
  }

  void features(const RandomModel<T>& random, const PackedModel<T>& packed, const RelationTables& tables,
                const std::vector<Factors>& factors, int64_t height) {
    Numbers of_heads(heads.size() * random.F), of_pairs(pair_head.size() * random.F);
    for (size_t q = 0; q < factors.size(); ++q) {
      std::copy(factors[q].v.begin(), factors[q].v.end(), of_pairs.begin() + pair[q] * random.F);
      std::copy(factors[q].v.begin(), factors[q].v.end(), of_heads.begin() + pair_head[pair[q]] * random.F);
    }
    const auto put = [&](const Numbers& v, int64_t rows, int64_t part, const tracin::Segment<T>& s) {
      const auto columns = columns_of<T>(v, random.F, packed.parts[part].features);
      return pack_chunks(columns, rows, random.C, s.P, s.step, height);
    };
    middle_features = put(of_pairs, static_cast<int64_t>(pair_head.size()), 1, packed.model.middle);
    if (!packed.model.head.P) return;
    head_features = put(of_heads, static_cast<int64_t>(heads.size()), 0, packed.model.head);
    const auto width = static_cast<int64_t>(tables.v.size()) / random.R;
    const auto row = [&](int64_t r) { return Numbers(&tables.v[r * width], &tables.v[r * width] + width); };
    for (const int64_t relation : relations)
      for (int64_t r = 0; r < random.R; ++r) tail_gram.push_back(static_cast<T>(dot(row(relation), row(r))));
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
  Numbers form = normal<double>(random.S * random.S, 1.0 / random.S);
  std::vector<Factors> left, right;
  RelationTables tables{random};
  std::string where;

  BlockTest(const RandomModel<T>& m, const Layers& layers, const std::vector<int64_t>& samples,
            const std::vector<int64_t>& tests)
      : random(m), on(layers), triples(samples) {
    for (int64_t i = 0; i < m.S * m.S; ++i)
      form[i] = i / m.S <= i % m.S ? form[i] : form[i % m.S * m.S + i / m.S];
    for (size_t i = 0; i < tests.size(); i += 3) left.push_back(factors_of(m, &tests[i]));
    for (size_t i = 0; i < triples.size(); i += 3) right.push_back(factors_of(m, &triples[i]));
    where = "D=" + std::to_string(m.D) + " B=" + std::to_string(B) + " Q=" + std::to_string(left.size()) +
            " layers=" + std::to_string(on.fc) + std::to_string(on.statistics) + std::to_string(on.entity);
  }

  void compare(const std::string& how, const char* op, const std::vector<T>& scores, const Numbers& expected) const {
    double largest = 0;
    for (const double value : expected) largest = std::max(largest, std::abs(value));
    expect_close((where + " " + how).c_str(), op, scores, expected, largest);
  }

  void influence() const {
    Numbers expected;
    for (const Factors& q : left) {
      const Numbers form_S = times(form, q.S);
      for (const Factors& b : right) expected.push_back(0.5 * kernel_of(q, form_S, b, on));
    }
    const std::vector<T> u = rounded<T>(tables.u), jacobians = rounded<T>(tables.jacobians);
    for (const int64_t height : {tracin::cpu::operand_height, int64_t(0)})
      for (const int halves : {0, 1, 2}) {  // none, without Jacobians of the relations, with
        PackedModel<T> packed(random, height, halves > 0);
        packed.model.relation_u = halves ? u.data() : nullptr;
        packed.model.jacobians = halves == 2 ? jacobians.data() : nullptr;
        const TestSide<T> side(random, packed, tables, left, form, on, height);
        std::vector<T> scores(expected.size(), T(1));
        tracin::influence_block<T>(packed.model, side.tests, triples.data(), B, T(0.5), scores.data(),
                                   products_of<T>(height), parallel);
        compare("height=" + std::to_string(height) + " halves=" + std::to_string(halves), "influence_block", scores,
                expected);
      }
  }

  void self_influence() const {
    Numbers expected;
    for (const Factors& b : right) expected.push_back(0.5 * kernel_of(b, times(form, b.S), b, on));
    for (const int64_t height : {tracin::cpu::operand_height, int64_t(0)}) {
      const PackedModel<T> packed(random, height, false);
      const std::vector<T> operand = pack(rounded<T>(form), random.S, random.S, height);
      const tracin::Tracked<T> tracked{on.statistics ? operand.data() : nullptr, on.fc, on.fc, true, true, on.entity,
                                       on.relation, on.bias};
      std::vector<T> scores(B, T(1));
      tracin::self_influence_block<T>(packed.model, tracked, triples.data(), B, T(0.5), scores.data(),
                                      products_of<T>(height), parallel);
      compare("height=" + std::to_string(height), "self_influence_block", scores, expected);
    }
  }
};

template <typename T>
void test_relation_tables(const RandomModel<T>& random) {
  const RelationTables tables(random);
  for (const int64_t height : {tracin::cpu::operand_height, int64_t(0)})
    for (const bool jacobians : {true, false}) {
      const PackedModel<T> packed(random, height, true);
      std::vector<T> u(tables.u.size(), T(NAN)), v(tables.v.size(), T(NAN)), j(tables.jacobians.size(), T(NAN));
      tracin::relation_tables<T>(packed.model, u.data(), v.data(), jacobians ? j.data() : nullptr,
                                 products_of<T>(height), parallel);
      expect_close("", "relation_tables (u)", u, tables.u);
      expect_close("", "relation_tables (v)", v, tables.v);
      if (jacobians) expect_close("", "relation_tables (Jacobians)", j, tables.jacobians);
    }
}

template <typename T>
void test_blocks(const RandomModel<T>& random, const Layers& on, int64_t B, int64_t Q, bool skewed = true) {
  const BlockTest<T> test(random, on, random_triples(random, B, skewed), random_triples(random, Q, false));
  test.influence();
  test.self_influence();
}

template <typename T>
void test() {
  constexpr Layers all{true, true, true, true, true}, fc{true, false, false, false, false},
      statistics{false, true, false, true, false}, entity{false, false, true, false, true};
  RandomModel<T> odd({19, 13, 7, 9, {5, 33, 2}, {3, 2, 7}}), even({9, 12, 5, 12, {2, 3, 33}, {2, 8, 1}}),
      many_taps({9, 6, 3, 33, {3, 2, 2}, {1, 2, 3}}), many_heads({300, 5, 2, 4, {3, 3, 3}, {2, 1, 2}});
  for (const RandomModel<T>* random : {&odd, &even, &many_taps, &many_heads}) {
    test_relation_tables(*random);
    test_blocks(*random, all, 70, 5);
  }
  for (const int64_t B : {1, 31, 32, 33, 255, 256, 257}) test_blocks(odd, all, B, 3);
  for (const int64_t Q : {95, 96, 97}) test_blocks(even, all, 65, Q);
  for (const Layers& on : {fc, statistics, entity}) test_blocks(odd, on, 270, 3);
  test_blocks(even, all, 600, 97);
  test_blocks(many_heads, all, 600, 5, false);
  const std::vector<int64_t> one{3, 1, 2};
  put_at_kink(odd, one.data());
  BlockTest<T>(odd, all, one, {4, 1, 2}).influence();
}

}  // namespace

int main() {
  test<float>();
  test<double>();
  return failures ? 1 : 0;
}
