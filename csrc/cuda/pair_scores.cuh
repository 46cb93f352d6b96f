// scores[q, b] = rate * (dots[q, b] (v . v' + fc_bias) + scores[q, b] + joins), where the products have left the linear
// terms in `scores`, v . v' is the sum of its parts, and the joins are the terms that need a coinciding id:
//   [r = r'] q . q' + [h = h'] c . c' + [h = t'] c . w'z' + [t = t'] w (z . w'z' + w') + [t = h'] w z . c'
// A thread takes one sample through several tests: first it loads what all of them need, so that no load waits for
// another, then come the joins, whose few inner products are done by the whole warp, one after the other.
// Bytes: two reads and a write a pair, and what the caches do not hold of the grams.

template <typename T>
constexpr int tests_at_once = sizeof(T) == 4 ? 8 : 4;  // what they load must fit in registers

// What a block of training triples gives, as far as pair_scores_kernel reads it.
template <typename T>
struct PairSide {
  const T* w;          // [B]
  const T* z;          // [G, D]
  const T* cq;         // [B, 2 D] or null
  const T* dots;       // [Q, B] or null
  const T* gram;       // [test pairs, G] or null: of the middle, or of all of v
  const T* head_gram;  // [test heads, H] or null: of the head's half; that of the relation's comes with the tests
  int64_t relations;   // columns of their relation_gram
};

struct TestIds {
  int32_t head, relation, tail, pair, pair_head, pair_relation;
};

// Where `coincide`, the inner product of this lane's row with the test's; 0 elsewhere. All lanes must call it.
template <typename T>
__device__ __forceinline__ T join(bool coincide, const T* row, const T* test, int64_t n) {
  T result = 0;
  for (unsigned left = __ballot_sync(all_lanes, coincide); left; left &= left - 1) {
    const int lane = __ffs(static_cast<int>(left)) - 1;
    const auto address = __shfl_sync(all_lanes, reinterpret_cast<unsigned long long>(row), lane);
    const T sum = warp_dot(reinterpret_cast<const T*>(address), test, n);
    if (lane_id() == lane) result = sum;
  }
  return result;
}

// Three blocks a multiprocessor: left to itself the compiler takes 64 registers, for four, and spills.
template <typename T>
__global__ void __launch_bounds__(threads, 3)
    pair_scores_kernel(int64_t D, Tests<T> tests, Samples samples, PairSide<T> side, T rate,
                       T* scores) {  // [Q, B], changed
  TestIds* ids = shared_memory<TestIds>();
  constexpr int each = tests_at_once<T>;
  const int64_t B = samples.B, columns = (B + blockDim.x - 1) / blockDim.x;
  const int64_t b = blockIdx.x % columns * blockDim.x + threadIdx.x, q0 = blockIdx.x / columns * each;
  const int count = static_cast<int>(tests.Q - q0 < each ? tests.Q - q0 : each);
  if (static_cast<int>(threadIdx.x) < count) {
    const int64_t q = q0 + threadIdx.x, *triple = tests.triples + 3 * q, pair = tests.pair[q];
    ids[threadIdx.x] = {static_cast<int32_t>(triple[0]),
                        static_cast<int32_t>(triple[1]),
                        static_cast<int32_t>(triple[2]),
                        static_cast<int32_t>(pair),
                        static_cast<int32_t>(tests.pair_head[pair]),
                        static_cast<int32_t>(tests.pair_relation[pair])};
  }
  __syncthreads();
  const bool active = b < B;
  const int64_t at = active ? b : 0;  // an idle lane shares its index with one that writes
  const int32_t head = samples.head[at], relation = samples.relation[at], tail = samples.tail[at],
                pair = samples.pair[at], head_row = samples.head_row[pair];
  const T w = side.w[at], *z = side.z + pair * D, *cq = side.cq ? side.cq + at * 2 * D : nullptr;

  // One array after the other, and no use of a load before the last is under way.
  T linear[each], dots[each] = {}, gram[each] = {}, head_gram[each] = {}, relation_gram[each] = {}, sum[each];
  for (int k = 0; k < each; ++k) linear[k] = active && k < count ? scores[(q0 + k) * B + at] : T(0);
  if (side.dots)
    for (int k = 0; k < each; ++k) dots[k] = k < count ? side.dots[(q0 + k) * B + at] : T(0);
  if (side.gram)
    for (int k = 0; k < each; ++k) gram[k] = k < count ? side.gram[ids[k].pair * samples.G + pair] : T(0);
  if (side.head_gram)
    for (int k = 0; k < each; ++k)
      head_gram[k] = k < count ? side.head_gram[ids[k].pair_head * samples.H + head_row] : T(0);
  if (side.head_gram)
    for (int k = 0; k < each; ++k)
      relation_gram[k] = k < count ? tests.relation_gram[ids[k].pair_relation * side.relations + relation] : T(0);
  for (int k = 0; k < each; ++k)
    sum[k] = linear[k] + dots[k] * (gram[k] + head_gram[k] + relation_gram[k] + tests.fc_bias);
  for (int k = 0; k < count; ++k) {
    const TestIds& other = ids[k];
    const int64_t q = q0 + k;
    T more = 0;
    if (tests.along_q) more += join(active && relation == other.relation, cq + D, tests.along_q + (3 * q + 2) * D, D);
    if (tests.c) {
      more += join(active && head == other.head, cq, tests.c + q * D, D);
      more += join(active && head == other.tail, cq, tests.wz + q * D, D);
      more += w * join(active && tail == other.tail, z, tests.wz + q * D, D);
      more += w * join(active && tail == other.head, z, tests.c + q * D, D);
    }
    if (tests.w && tail == other.tail) more += w * tests.w[q];
    if (active) scores[q * B + at] = rate * (sum[k] + more);
  }
}
