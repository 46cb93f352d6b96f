// The kernel of pair scores, emulated, at the borders of its tiles and in every order of the tests.
#include <numeric>

#include "cpp/block_inputs.h"
#include "cuda/device.h"
#include "host_device.h"

namespace {

#ifdef __SANITIZE_THREAD__
constexpr bool few = true;  // threads take ten times as long as fibers
#else
constexpr bool few = false;
#endif

// The tests in the order of their relation, as Python gives it.
std::vector<int64_t> by_relation(const tracin::Tests<float>& tests) {
  std::vector<int64_t> order(tests.Q);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return tests.triples[3 * a + 1] < tests.triples[3 * b + 1]; });
  return order;
}

void scores_in_every_order(const RandomModel<float>& random, const Layers& on, int64_t B, int64_t Q) {
  const BlockTest<float> test(random, on, random_triples(random, B, true), random_triples(random, Q, false));
  const Numbers expected = test.influences();
  const PackedModel<float> packed(random, 0, false, random.shape.has_halves());
  TestSide<float> side(random, packed, test.tables, test.left, test.M, test.on, as_rows);
  std::vector<int64_t> order = by_relation(side.tests);
  for (const char* how : {"as they come", "by relation", "by relation, backwards"}) {
    side.tests.by_relation = how[0] == 'a' ? nullptr : order.data();
    std::vector<float> scores(expected.size(), NAN);
    HostDevice device;
    tracin::cuda::influence_block<float>(packed.model, side.tests, test.triples.data(), B, float(test.rate),
                                         scores.data(), device);
    test.compare(how, "influence_block", scores, expected);
    if (side.tests.by_relation) std::reverse(order.begin(), order.end());
  }
}

}  // namespace

int main() {
  constexpr Layers all{true, true, true, true, true}, joins{false, false, true, true, true},
      relation{false, false, false, true, false}, bias{false, false, false, false, true};
  const RandomModel<float> odd({19, 13, 7, 9, {5, 33, 2}, {7, 7, 7}}), one_each({1, 1, 1, 1, {1, 0, 1}, {1, 1, 1}, 1}),
      wide({9, 300, 5, 4, {3, 2, 2}, {5, 5, 5}});  // a row of 300 is more than a round
  scores_in_every_order(wide, joins, 9, 11);
  scores_in_every_order(one_each, all, 5, 33);  // everything coincides
  scores_in_every_order(odd, all, few ? 9 : 33, 33);
  if (few || failures) return failures ? 1 : 0;
  for (const int64_t Q : {1, 8, 9, 32, 65}) scores_in_every_order(odd, joins, 9, Q);
  scores_in_every_order(odd, all, 257, 9);
  scores_in_every_order(odd, relation, 5, 33);
  scores_in_every_order(odd, bias, 5, 33);
  return failures ? 1 : 0;
}
