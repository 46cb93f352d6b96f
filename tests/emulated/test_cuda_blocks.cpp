// The CUDA ops on blocks of triples, emulated, against their definitions in double.
#include "cpp/block_inputs.h"
#include "cuda/factors.h"
#include "host_device.h"

namespace {

constexpr bool few =  // threads take ten times as long as fibers, and see the same in every type
#ifdef __SANITIZE_THREAD__
    true;
#else
    false;
#endif

// Rounded to nearest, ties to even.
template <typename T>
std::vector<uint16_t> in_bfloat16(const T* x, int64_t n) {
  std::vector<uint16_t> narrow(n);
  for (int64_t i = 0; i < n; ++i) {
    const float rounded = static_cast<float>(x[i]);
    uint32_t bits;
    std::memcpy(&bits, &rounded, sizeof(bits));
    narrow[i] = static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
  }
  return narrow;
}

template <typename T>
void influence(const BlockTest<T>& test) {
  const Numbers expected = test.influences();
  for (const bool told_apart : {false, true}) {
    if (told_apart && !test.random.shape.has_halves()) continue;
    const PackedModel<T> packed(test.random, 0, false, told_apart);
    const TestSide<T> side(test.random, packed, test.tables, test.left, test.M, test.on, as_rows);
    std::vector<T> scores(expected.size(), T(NAN));
    HostDevice device;
    tracin::cuda::influence_block<T>(packed.model, side.tests, test.triples.data(), test.B, T(test.rate), scores.data(),
                                     device);
    test.compare(told_apart ? "halves told apart" : "", "influence_block", scores, expected);
  }
}

// Operands in bfloat16 keep 8 bits: the scores as a whole must be within 1%, and not those of float32.
void mixed_influence(const BlockTest<float>& test, bool told_apart) {
  PackedModel<float> packed(test.random, 0, false, told_apart);
  TestSide<float> side(test.random, packed, test.tables, test.left, test.M, test.on, as_rows);
  const auto half = in_bfloat16(side.head_half_v.data(), side.head_half_v.size());
  side.tests.narrow_head_half_v = half.data();
  const auto backward = in_bfloat16(packed.model.middle.backward, test.random.D * test.random.F),
             v = in_bfloat16(side.middle_v.data(), side.middle_v.size()),
             delta = in_bfloat16(side.delta.data(), side.delta.size()),
             linear = in_bfloat16(side.linear.data(), side.linear.size());
  packed.model.middle.narrow_backward = backward.data();
  side.tests.narrow_middle_v = v.data(), side.tests.narrow_delta = delta.data();
  side.tests.narrow_linear = linear.data();
  const Numbers expected = test.influences();
  std::vector<float> scores(expected.size(), NAN);
  HostDevice device;
  tracin::cuda::influence_block<float>(packed.model, side.tests, test.triples.data(), test.B, float(test.rate),
                                       scores.data(), device);
  double difference = 0, size = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    difference += std::pow(scores[i] - expected[i], 2);
    size += std::pow(expected[i], 2);
  }
  const double error = std::sqrt(difference / size);
  if (!(error > 1e-5 && error < 1e-2))
    std::printf("FAIL %s influence_block in bfloat16: relative error %g\n", test.where.c_str(), error), ++failures;
}

template <typename T>
void self_influence(const BlockTest<T>& test) {
  const PackedModel<T> packed(test.random, 0, false);
  const Layers& on = test.on;
  const std::vector<T> M = rounded<T>(test.M);
  const tracin::Tracked<T> tracked{
      on.S ? M.data() : nullptr, on.fc, on.fc, true, true, on.entity, on.relation, on.bias};
  std::vector<T> scores(test.B, T(NAN));
  HostDevice device;
  tracin::cuda::self_influence_block<T>(packed.model, tracked, test.triples.data(), test.B, T(test.rate), scores.data(),
                                        device);
  test.compare("", "self_influence_block", scores, test.self_influences());
}

// What sample_factors writes for every sample, beside the definition.
template <typename T>
void sample_factors(const BlockTest<T>& test, bool has_S, bool has_cq) {
  const RandomModel<T>& m = test.random;
  const PackedModel<T> packed(m, 0, false);
  const int64_t columns = 2 * m.D + (has_S ? m.S : 0);
  std::vector<const Factors*> pairs;  // the first sample of each
  for (const Factors& x : test.right)
    if (pairs.empty() || pairs.back()->head != x.head || pairs.back()->relation != x.relation) pairs.push_back(&x);
  const auto G = static_cast<int64_t>(pairs.size());
  std::vector<T> v(G * m.F, T(NAN)), z(G * m.D, T(NAN)), w(test.B, T(NAN)), linear(test.B * columns, T(NAN)),
      delta(test.B * m.D, T(NAN)), cq(test.B * 2 * m.D, T(NAN));
  HostDevice device;
  tracin::cuda::sample_factors<T>(
      packed.model, test.triples.data(), test.B, has_S,
      {v.data(), z.data(), w.data(), linear.data(), delta.data(), has_cq ? cq.data() : nullptr}, device);
  Numbers of[6];  // v, z, w, linear, delta, cq
  const auto append = [](Numbers& to, const Numbers& from) { to.insert(to.end(), from.begin(), from.end()); };
  for (const Factors* x : pairs) append(of[0], x->v), append(of[1], x->z);
  for (const Factors& x : test.right) {
    of[2].push_back(x.w);
    append(of[3], x.e), append(of[3], x.e_un);
    if (has_S) append(of[3], x.S);
    append(of[4], x.delta), append(of[5], x.c), append(of[5], x.q);
  }
  const std::vector<T>* got[] = {&v, &z, &w, &linear, &delta, &cq};
  for (int i = 0; i < (has_cq ? 6 : 5); ++i) test.compare(std::to_string(i), "sample_factors", *got[i], of[i]);
}

// Every window of every pixel once, in the order of its entry.
void test_taps(const RandomModel<float>& random) {
  const PackedModel<float> packed(random, 0, false);
  const tracin::Segment<float>& s = packed.model.middle;
  HostDevice device;
  const tracin::cuda::Taps taps = tracin::cuda::index_taps(s, random.J, device);
  int32_t at = 0;
  for (int64_t x = 0; x < s.X; ++x) {
    failures += taps.first[x] != at;
    for (int64_t i = 0; i < s.P * random.J; ++i)
      if (s.taps[i] == x) failures += taps.entries[at++] != i % random.J * s.P + i / random.J;
  }
  failures += taps.first[s.X] != at;
  for (int64_t i = 0; i < s.P * random.J; ++i) failures += taps.by_tap[i % random.J * s.P + i / random.J] != s.taps[i];
  if (failures) std::printf("FAIL taps: J=%d\n", static_cast<int>(random.J));
}

void test_narrow() {
  std::vector<float> x = normal<float>(300);
  x[0] = 0, x[1] = -0.0f, x[2] = INFINITY, x[3] = 1.00390625f, x[4] = 1.01171875f;  // the last two are ties
  HostDevice device;
  const uint16_t* narrow = tracin::cuda::narrowed(x.data(), 300, device);
  const std::vector<uint16_t> expected = in_bfloat16(x.data(), 300);
  for (int i = 0; i < 300; ++i)
    if (narrow[i] != expected[i]) std::printf("FAIL narrow: element %d\n", i), ++failures;
  if (expected[3] != 0x3f80 || expected[4] != 0x3f82) std::printf("FAIL narrow: ties go to even\n"), ++failures;
  const float nan = NAN;
  if (*tracin::cuda::narrowed(&nan, 1, device) != 0x7fc0) std::printf("FAIL narrow: NaN\n"), ++failures;
}

template <typename T>
void test_blocks(const RandomModel<T>& random, const Layers& on, int64_t B, int64_t Q) {
  const BlockTest<T> test(random, on, random_triples(random, B, true), random_triples(random, Q, false));
  influence(test);
  self_influence(test);
  sample_factors(test, on.S, on.entity || on.relation);
}

// An image without a middle, without halves, and with one of everything.
template <typename T>
void test_edges(const Layers& on) {
  RandomModel<T> no_middle({19, 13, 7, 9, {5, 0, 4}, {7, 7, 7}}), pixels({9, 12, 1, 1, {3, 0, 3}, {1, 1, 1}}),
      no_halves({9, 12, 3, 4, {0, 7, 0}, {3, 3, 3}}), one_position({9, 4, 1, 8, {0, 1, 0}, {1, 1, 1}}),
      one_each({1, 1, 1, 1, {1, 0, 1}, {1, 1, 1}, 1});
  for (const RandomModel<T>* random : {&no_middle, &pixels, &no_halves, &one_position, &one_each}) {
    test_blocks(*random, on, 3, 2);
  }
}

template <typename T>
void test() {
  constexpr Layers all{true, true, true, true, true}, fc{true, false, false, false, false},
      S{false, true, false, true, false}, entity{false, false, true, false, true};
  RandomModel<T> odd({19, 13, 7, 9, {5, 33, 2}, {7, 7, 7}}), many_taps({9, 6, 3, 33, {3, 2, 2}, {3, 3, 3}}),
      wide({9, 300, 5, 4, {3, 2, 2}, {5, 5, 5}});
  test_blocks(odd, all, 4, 3);
  const std::vector<int64_t> one{3, 1, 2};
  if (!few) {
    for (const auto* random : {&many_taps, &wide}) {
      test_blocks(*random, all, 5, 9);
    }
    for (const int64_t B : {1, 33}) test_blocks(odd, all, B, 3);
    test_blocks(odd, entity, 257, 9);
    test_blocks(odd, fc, 3, 2);
    test_blocks(odd, S, 5, 2);
    test_blocks(many_taps, entity, 5, 2);
  }
  test_edges<T>(all);
  put_at_kink(odd, one.data());
  influence(BlockTest<T>(odd, all, one, {4, 1, 2}));
}

}  // namespace

int main() {
  test_narrow();
  const RandomModel<float> odd({19, 13, 7, 9, {5, 33, 2}, {7, 7, 7}}), many_taps({9, 6, 3, 33, {3, 2, 2}, {3, 3, 3}});
  test_taps(odd);
  test_taps(many_taps);
  constexpr Layers all{true, true, true, true, true};
  const BlockTest<float> mixed(odd, all, random_triples(odd, few ? 3 : 40, true), random_triples(odd, 3, false));
  for (const bool told_apart : {false, true}) mixed_influence(mixed, told_apart);
  test<float>();
  if (!few) test<double>();
  return failures ? 1 : 0;
}
