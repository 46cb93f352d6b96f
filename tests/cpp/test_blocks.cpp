// The CPU kernels without torch, on two threads, against their definitions in double: the kernel K(q, b) of
// influence_block.cpp from factors computed triple by triple.
#include <atomic>
#include <thread>

#include "block_inputs.h"
#include "cpu/panels.h"

namespace {

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

// What the gradients at whole embeddings need of an image that has halves; nothing if it is taken whole.
template <typename T>
struct HalfSide {
  std::vector<T> head_fc, relation_fc, squares, pixels;
  tracin::Halves<T> halves = {};

  HalfSide(const RandomModel<T>& m, const PackedModel<T>& packed, const RelationTables& tables, bool with_pixels) {
    const tracin::Segment<T>& s = packed.model.relation_half;
    if (!s.P) return;
    head_fc = by_position(m, 0), relation_fc = by_position(m, 2);
    const int64_t F = m.C * s.P;
    for (int64_t r = 0; r < m.R; ++r) {
      double sum = 0;
      for (int64_t f = 0; f < F; ++f) sum += tables.v[r * F + f] * tables.v[r * F + f];
      squares.push_back(static_cast<T>(sum));
    }
    pixels.assign(m.R * tracin::round_up(s.X, tracin::lanes) * m.D, T(NAN));
    tracin::relation_pixels(packed.model, relation_fc.data(), pixels.data(), parallel);
    halves = {head_fc.data(), relation_fc.data(), squares.data(), with_pixels ? pixels.data() : nullptr};
  }

 private:
  static std::vector<T> by_position(const RandomModel<T>& m, int64_t part) {
    const std::vector<int64_t> features = m.features_of(part);
    const int64_t P = static_cast<int64_t>(features.size()) / m.C, width = tracin::round_up(m.D, 16);
    std::vector<T> fc(P * m.C * width, T(0));
    for (int64_t f = 0; f < m.C * P; ++f)
      for (int64_t d = 0; d < m.D; ++d) fc[(f % P * m.C + f / P) * width + d] = m.fc[d * m.F + features[f]];
    return fc;
  }
};

template <typename T>
void influence(const BlockTest<T>& test) {
  const Numbers expected = test.influences();
  const std::vector<T> u = rounded<T>(test.tables.u), jacobians = rounded<T>(test.tables.jacobians);
  for (const int64_t height : {tracin::cpu::operand_height, int64_t(0)})
    for (const int halves : {0, 1, 2}) {  // none, without Jacobians of the relations, with
      if (halves && !test.random.shape.has_halves()) continue;
      PackedModel<T> packed(test.random, height, halves > 0);
      packed.model.relation_u = halves ? u.data() : nullptr;
      packed.model.jacobians = halves == 2 ? jacobians.data() : nullptr;
      const TestSide<T> side(test.random, packed, test.tables, test.left, test.M, test.on, height);
      std::vector<T> scores(expected.size(), T(1));
      tracin::influence_block<T>(packed.model, side.tests, test.triples.data(), test.B, T(test.rate), scores.data(),
                                 products_of<T>(height), parallel);
      test.compare("height=" + std::to_string(height) + " halves=" + std::to_string(halves), "influence_block", scores,
                   expected);
    }
}

template <typename T>
void self_influence(const BlockTest<T>& test) {
  const Numbers expected = test.self_influences();
  const std::vector<T> u = rounded<T>(test.tables.u), jacobians = rounded<T>(test.tables.jacobians);
  for (const int64_t height : {tracin::cpu::operand_height, int64_t(0)})
    for (const int halves : {0, 1, 2}) {  // none, without tables of the relations, with
      if (halves && !test.random.shape.has_halves()) continue;
      PackedModel<T> packed(test.random, height, halves > 0);
      packed.model.relation_u = halves ? u.data() : nullptr;
      packed.model.jacobians = halves == 2 ? jacobians.data() : nullptr;
      const HalfSide<T> side(test.random, packed, test.tables, halves == 2);
      const Layers& on = test.on;
      const std::vector<T> M = pack(rounded<T>(test.M), test.random.S, test.random.S, height);
      const tracin::Tracked<T> tracked{
          on.S ? M.data() : nullptr, on.fc, on.fc, true, true, on.entity, on.relation, on.bias, side.halves};
      std::vector<T> scores(test.B, T(1));
      tracin::self_influence_block<T>(packed.model, tracked, test.triples.data(), test.B, T(test.rate), scores.data(),
                                      products_of<T>(height), parallel);
      test.compare("height=" + std::to_string(height) + " halves=" + std::to_string(halves), "self_influence_block",
                   scores, expected);
    }
}

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

void test_buffers_are_filled() {
  tracin::cpu::Buffer<float> buffer;
  buffer.sized(5)[4] = 1;
  if (!std::isnan(buffer.sized(5)[4])) std::printf("FAIL buffers are not filled with NaN\n"), ++failures;
}

template <typename T>
void test_blocks(const RandomModel<T>& random, const Layers& on, int64_t B, int64_t Q, bool skewed = true) {
  const BlockTest<T> test(random, on, random_triples(random, B, skewed), random_triples(random, Q, false));
  influence(test);
  self_influence(test);
}

// An image without a middle, without halves, and with one of everything.
template <typename T>
void test_edges(const Layers& on) {
  RandomModel<T> no_middle({19, 13, 7, 9, {5, 0, 4}, {3, 2, 2}}), pixels({9, 12, 1, 1, {33, 0, 33}, {1, 1, 1}}),
      no_halves({9, 12, 3, 4, {0, 7, 0}, {1, 2, 1}}), one_position({9, 4, 1, 8, {0, 1, 0}, {1, 1, 1}}),
      one_each({1, 1, 1, 1, {1, 0, 1}, {1, 1, 1}, 1});
  for (const RandomModel<T>* random : {&no_middle, &pixels, &no_halves, &one_position, &one_each}) {
    if (random->shape.has_halves()) test_relation_tables(*random);
    for (const int64_t B : {1, 70}) test_blocks(*random, on, B, 5);
  }
}

template <typename T>
void test() {
  constexpr Layers all{true, true, true, true, true}, fc{true, false, false, false, false},
      S{false, true, false, true, false}, entity{false, false, true, false, true};
  RandomModel<T> odd({19, 13, 7, 9, {5, 33, 2}, {3, 2, 7}}), even({9, 12, 5, 12, {2, 3, 33}, {2, 8, 1}}),
      many_taps({9, 6, 3, 33, {3, 2, 2}, {1, 2, 3}}), many_heads({300, 5, 2, 4, {3, 3, 3}, {2, 1, 2}}),
      no_middle({9, 6, 3, 4, {3, 0, 2}, {1, 3, 2}});
  for (const RandomModel<T>* random : {&odd, &even, &many_taps, &many_heads, &no_middle}) {
    test_relation_tables(*random);
    test_blocks(*random, all, 70, 5);
  }
  for (const int64_t B : {1, 31, 32, 33, 255, 256, 257}) test_blocks(odd, all, B, 3);
  for (const int64_t Q : {95, 96, 97}) test_blocks(even, all, 65, Q);
  for (const Layers& on : {fc, S, entity}) test_blocks(odd, on, 270, 3);
  test_blocks(even, all, 600, 97);
  test_blocks(many_heads, all, 600, 5, false);
  for (const Layers& on : {all, fc}) test_edges<T>(on);
  const std::vector<int64_t> one{3, 1, 2};
  put_at_kink(odd, one.data());
  influence(BlockTest<T>(odd, all, one, {4, 1, 2}));
}

}  // namespace

int main() {
  test_buffers_are_filled();
  test<float>();
  test<double>();
  return failures ? 1 : 0;
}
