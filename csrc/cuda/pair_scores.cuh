// scores[q, b] = rate * (dots[q, b] (gram[pair q, pair b] + fc_bias) + scores[q, b] + joins), where the products have
// left the linear terms in `scores`, and the joins are the terms that need a coinciding id:
//   [r = r'] q . q' + [h = h'] c . c' + [h = t'] c . w'z' + [t = t'] w (z . w'z' + w') + [t = h'] w z . c'
// A thread per pair; the few inner products of the joins are done by the whole warp, one after the other.
// Bytes: three reads and a write a pair.

constexpr int64_t tests_at_once = 8;  // tests that a thread takes one sample through

// What a block of training triples gives, as far as pair_scores_kernel reads it.
template <typename T>
struct PairSide {
  const T* w;     // [B]
  const T* z;     // [G, D]
  const T* cq;    // [B, 2 D] or null
  const T* dots;  // [Q, B] or null
  const T* gram;  // [test pairs, G] or null
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
  const int64_t B = samples.B, columns = (B + blockDim.x - 1) / blockDim.x;
  const int64_t b = blockIdx.x % columns * blockDim.x + threadIdx.x, q0 = blockIdx.x / columns * tests_at_once;
  const bool active = b < B;
  const int64_t at = active ? b : 0;
  const int32_t head = samples.head[at], relation = samples.relation[at], tail = samples.tail[at],
                pair = samples.pair[at];
  const T w = side.w[at], *z = side.z + pair * D, *cq = side.cq ? side.cq + at * 2 * D : nullptr;
  for (int64_t q = q0; q < q0 + tests_at_once && q < tests.Q; ++q) {
    const int64_t *other = tests.triples + 3 * q, i = q * B + at;
    T sum = active ? scores[i] : T(0);  // an idle lane shares its index with one that writes
    if (side.dots) sum += side.dots[i] * (side.gram[tests.pair[q] * samples.G + pair] + tests.fc_bias);
    if (tests.along_q) sum += join(active && relation == other[1], cq + D, tests.along_q + (3 * q + 2) * D, D);  // q'
    if (tests.along_c) {
      sum += join(active && head == other[0], cq, tests.c + q * D, D);
      sum += join(active && head == other[2], cq, tests.wz + q * D, D);
      sum += w * join(active && tail == other[2], z, tests.wz + q * D, D);
      sum += w * join(active && tail == other[0], z, tests.c + q * D, D);
    }
    if (tests.w && tail == other[2]) sum += w * tests.w[q];
    if (active) scores[i] = rate * sum;
  }
}
