// scores[q, b] = rate * (dots[q, b] (v . v' + fc_bias) + scores[q, b] + joins), where the products have left the linear
// terms in `scores`, v . v' is the sum of its parts, and the joins are the terms that need a coinciding id:
//   [r = r'] q . q' + [h = h'] c . c' + [h = t'] c . w'z' + [t = t'] w (z . w'z' + w') + [t = h'] w z . c'
// A thread takes one sample through a block's tests, a few at once: first it loads what all of those need, so that no
// load waits for another, then come the joins, by the whole warp. Nine in ten joins are of relations: the tests come
// in the order of their relation, so that a sample's q is loaded once for all of them.
// Bytes: two reads and a write a pair, and what the caches do not hold of the grams; a join reads one row of D for as
// many tests as are taken at once.

template <typename T>
constexpr int tests_at_once = sizeof(T) == 4 ? 8 : 4;  // what they load must fit in registers
constexpr int tests_a_block = 32;   // their ids are three loads that wait for each other: once for so many
constexpr int numbers_at_once = 7;  // of a row, on their way to a lane before the first is used: all of D = 200

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

// A test's ids and rows: 64-bit products once a block, and not for every pair.
template <typename T>
struct TestRow {
  T* scores;                                         // [B]
  const T *dots, *gram, *head_gram, *relation_gram;  // [B], [G], [H], [relations]; null where there are none
  const T *q, *c, *wz;                               // [D], likewise
  T w;
  int32_t head, relation, tail;
};

// `side` and `tests` have the same parts for all of a launch: what is null here is null for every test.
template <typename T>
__device__ const T* row_of(const T* rows, int64_t row, int64_t width) {
  return rows ? rows + row * width : nullptr;
}

template <typename T>
__device__ TestRow<T> test_row(const Tests<T>& tests, int64_t D, const Samples& samples, const PairSide<T>& side,
                               int64_t q, T* scores) {
  const int64_t pair = tests.pair[q], *triple = tests.triples + 3 * q;
  return {scores + q * samples.B,
          row_of(side.dots, q, samples.B),
          row_of(side.gram, pair, samples.G),
          row_of(side.head_gram, tests.pair_head[pair], samples.H),
          row_of(tests.relation_gram, tests.pair_relation[pair], side.relations),
          row_of(tests.along_q, 3 * q + 2, D),
          row_of(tests.c, q, D),
          row_of(tests.wz, q, D),
          tests.w ? tests.w[q] : T(0),
          static_cast<int32_t>(triple[0]),
          static_cast<int32_t>(triple[1]),
          static_cast<int32_t>(triple[2])};
}

// row . of(k)[0 .. n] for k < count, by a whole warp; every lane gets them.
template <int count, typename T, typename Of>
__device__ __forceinline__ void row_dots(const T* row, const Of& of, int n, T* dots) {
  for (int k = 0; k < count; ++k) dots[k] = 0;
  for (int first = lane_id(); first < n; first += numbers_at_once * static_cast<int>(warp)) {
    T x[numbers_at_once];
    for (int i = 0; i < numbers_at_once; ++i) {
      const int at = first + i * static_cast<int>(warp);
      x[i] = at < n ? row[at] : T(0);
    }
    for (int k = 0; k < count; ++k) {
      const T* other = of(k);
      for (int i = 0; i < numbers_at_once; ++i) {
        const int at = first + i * static_cast<int>(warp);
        dots[k] += x[i] * (at < n ? other[at] : T(0));
      }
    }
  }
  for (int k = 0; k < count; ++k) dots[k] = warp_sum(dots[k]);
}

// The address that a lane holds, for the whole warp.
template <typename T>
__device__ const T* address_of(const T* row, int lane) {
  return reinterpret_cast<const T*>(__shfl_sync(all_lanes, reinterpret_cast<unsigned long long>(row), lane));
}

// Adds q . q' to the scores of the tests of the sample's relation, q [D] of this lane's. All lanes must call it.
template <typename T>
__device__ void join_relations(bool active, int at, int32_t relation, const T* q, const TestRow<T>* rows, int count,
                               int n, T rate) {
  constexpr int each = tests_at_once<T>;
  for (int first = 0, last = 0; first < count; first = last) {
    const int32_t other = rows[first].relation;
    while (last < count && rows[last].relation == other) ++last;
    for (unsigned left = __ballot_sync(all_lanes, active && relation == other); left; left &= left - 1) {
      const int lane = __ffs(static_cast<int>(left)) - 1;
      const T* row = address_of(q, lane);
      for (int k = first; k < last; k += each) {
        const auto test = [&](int i) -> const TestRow<T>& { return rows[k + i < last ? k + i : last - 1]; };
        T dots[each], old[each] = {};
        row_dots<each>(row, [&](int i) { return test(i).q; }, n, dots);
        if (lane_id() != lane) continue;
        for (int i = 0; i < each; ++i) old[i] = test(i).scores[at];  // all on their way before the first is written
        for (int i = 0; i < each; ++i)
          if (k + i < last) rows[k + i].scores[at] = old[i] + rate * dots[i];
      }
    }
  }
}

// Where `coincide`, the inner product of this lane's row with the test's; 0 elsewhere. All lanes must call it.
template <typename T>
__device__ T join(bool coincide, const T* row, const T* test, int n) {
  T result = 0;
  for (unsigned left = __ballot_sync(all_lanes, coincide); left; left &= left - 1) {
    const int lane = __ffs(static_cast<int>(left)) - 1;
    T dot;
    row_dots<1>(address_of(row, lane), [&](int) { return test; }, n, &dot);
    if (lane_id() == lane) result = dot;
  }
  return result;
}

// Adds what tests add that have the sample's head or tail. All lanes must call it.
template <typename T>
__device__ void join_entities(bool active, int at, const Samples& samples, const PairSide<T>& side, int64_t D,
                              const TestRow<T>* rows, int count, T rate) {
  const int n = static_cast<int>(D);
  const int32_t head = samples.head[at], tail = samples.tail[at];
  const T w = side.w[at], *z = side.z + samples.pair[at] * D, *c = row_of(side.cq, at, 2 * D);
  for (int k = 0; k < count; ++k) {
    const TestRow<T>& test = rows[k];
    const bool meets = active && (head == test.head || head == test.tail || tail == test.head || tail == test.tail);
    if (!__ballot_sync(all_lanes, meets)) continue;
    T more = tail == test.tail ? w * test.w : T(0);
    if (test.c) {
      more += join(active && head == test.head, c, test.c, n);
      more += join(active && head == test.tail, c, test.wz, n);
      more += w * join(active && tail == test.tail, z, test.wz, n);
      more += w * join(active && tail == test.head, z, test.c, n);
    }
    if (meets) test.scores[at] += rate * more;
  }
}

// Without the joins, which the same thread adds: a score's place in memory takes no register while they are computed.
template <typename T>
__device__ void dense_scores(bool active, int at, const Samples& samples, const PairSide<T>& side, T fc_bias,
                             const TestRow<T>* rows, int count, T rate) {
  constexpr int each = tests_at_once<T>;
  const int32_t relation = samples.relation[at], pair = samples.pair[at], head_row = samples.head_row[pair];
  for (int first = 0; first < count; first += each, rows += each) {
    // One array after the other, and no use of a load before the last is under way.
    T linear[each], dots[each] = {}, gram[each] = {}, head_gram[each] = {}, relation_gram[each] = {};
    for (int k = 0; k < each; ++k)  // what others write is not read
      linear[k] = active && first + k < count ? rows[k].scores[at] : T(0);
    if (side.dots)
      for (int k = 0; k < each; ++k) dots[k] = rows[k].dots[at];
    if (side.gram)
      for (int k = 0; k < each; ++k) gram[k] = rows[k].gram[pair];
    if (side.head_gram)
      for (int k = 0; k < each; ++k) head_gram[k] = rows[k].head_gram[head_row];
    if (side.head_gram)
      for (int k = 0; k < each; ++k) relation_gram[k] = rows[k].relation_gram[relation];
    for (int k = 0; k < each; ++k)
      if (active && first + k < count)
        rows[k].scores[at] = rate * (linear[k] + dots[k] * (gram[k] + head_gram[k] + relation_gram[k] + fc_bias));
  }
}

// Four blocks a multiprocessor: half of its threads, each with 64 registers, which hold what a round loads.
template <typename T>
__global__ void __launch_bounds__(threads, 4)
    pair_scores_kernel(int64_t D, Tests<T> tests, Samples samples, PairSide<T> side, T rate,
                       T* scores) {  // [Q, B], changed
  TestRow<T>* const rows = shared_memory<TestRow<T>>();
  const unsigned columns = static_cast<unsigned>((samples.B + threads - 1) / threads);
  const int64_t q0 = static_cast<int64_t>(blockIdx.x / columns) * tests_a_block;
  const int count = static_cast<int>(tests.Q - q0 < tests_a_block ? tests.Q - q0 : tests_a_block);
  if (threadIdx.x < tests_a_block) {  // behind the last: that one once more, which is not written
    const int64_t i = q0 + (static_cast<int>(threadIdx.x) < count ? static_cast<int>(threadIdx.x) : count - 1);
    rows[threadIdx.x] = test_row(tests, D, samples, side, tests.by_relation ? tests.by_relation[i] : i, scores);
  }
  __syncthreads();  // the rows are there
  const int64_t b = static_cast<int64_t>(blockIdx.x % columns) * threads + threadIdx.x;
  const bool active = b < samples.B;
  const int at = active ? static_cast<int>(b) : 0;
  dense_scores(active, at, samples, side, tests.fc_bias, rows, count, rate);
  if (tests.along_q)
    join_relations(active, at, samples.relation[at], row_of(side.cq, 2 * int64_t(at) + 1, D), rows, count,
                   static_cast<int>(D), rate);
  if (tests.c || tests.w) join_entities(active, at, samples, side, D, rows, count, rate);
}
