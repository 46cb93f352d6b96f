// Keeps each test's best k of all scores seen so far; a block per test. Scores that reach the k-th best go to a list in
// shared memory, which is sorted and cut to k when it may overflow, and at the end. The order is total (ties go to the
// smaller index), so the result does not depend on the order in which threads append.
// Bytes: one read a score.

constexpr int64_t list_size = 2048;    // entries, a power of two for the sort
constexpr int64_t scores_a_round = 4;  // of a thread, between two barriers
static_assert(list_size >= most_kept + threads * scores_a_round, "a round must fit behind what is kept");

template <typename T>
struct List {
  int64_t* index;  // [list_size], negative: empty
  T* score;        // [list_size]
  int* count;
  Order order;
  T worst;  // minus infinity

  // NaN is worse than any number.
  __device__ T key(T x) const {
    if (x != x) return worst;
    return order == Order::absolute ? fabs(x) : order == Order::proponents ? x : -x;
  }
  __device__ bool before(int64_t a, int64_t b) const {
    if ((index[a] < 0) != (index[b] < 0)) return index[b] < 0;
    const T x = key(score[a]), y = key(score[b]);
    return x != y ? x > y : index[a] < index[b];
  }
  __device__ void exchange(int64_t a, int64_t b) {
    const T x = score[a];
    score[a] = score[b], score[b] = x;
    const int64_t i = index[a];
    index[a] = index[b], index[b] = i;
  }
};

// Bitonic sort of the list's first `count` entries, best first, by the whole block.
template <typename T>
__device__ void sort_list(List<T>& list, int64_t count) {
  int64_t size = 1;
  while (size < count) size *= 2;
  for (int64_t i = count + threadIdx.x; i < size; i += blockDim.x) list.index[i] = -1, list.score[i] = 0;
  __syncthreads();
  for (int64_t run = 2; run <= size; run *= 2)
    for (int64_t distance = run / 2; distance; distance /= 2) {
      for (int64_t i = threadIdx.x; i < size / 2; i += blockDim.x) {
        const int64_t a = 2 * i - i % distance, b = a + distance;
        if (a & run ? list.before(a, b) : list.before(b, a)) list.exchange(a, b);
      }
      __syncthreads();  // before the next distance
    }
}

template <typename T>
__global__ void __launch_bounds__(threads) merge_top_k_kernel(const T* scores,       // [Q, B]
                                                              const int64_t* index,  // [B]
                                                              int64_t B, int64_t k, Order order, T worst,
                                                              T* best,                // [Q, k], changed
                                                              int64_t* best_index) {  // [Q, k], changed
  int64_t* memory = shared_memory<int64_t>();
  T* score = reinterpret_cast<T*>(memory + list_size);
  List<T> list = {memory, score, reinterpret_cast<int*>(score + list_size), order, worst};
  const int64_t q = blockIdx.x;
  scores += q * B, best += q * k, best_index += q * k;
  if (threadIdx.x == 0) *list.count = 0;
  __syncthreads();
  for (int64_t i = threadIdx.x; i < k; i += blockDim.x) {
    list.index[i] = best_index[i], list.score[i] = best[i];
    if (best_index[i] >= 0) atomicAdd(list.count, 1);
  }
  __syncthreads();
  const int64_t held = *list.count;
  __syncthreads();  // before it is counted on
  int64_t count = held;
  bool bounded = count == k;  // the list's first k are the best so far, in order
  for (int64_t b0 = 0; b0 < B; b0 += blockDim.x * scores_a_round) {
    if (count + blockDim.x * scores_a_round > list_size) {
      sort_list(list, count);
      count = k, bounded = true;
      if (threadIdx.x == 0) *list.count = static_cast<int>(count);
      __syncthreads();
    }
    const T threshold = bounded ? list.key(list.score[k - 1]) : worst;
    T mine[scores_a_round];  // all on their way before the first is looked at
    for (int64_t i = 0; i < scores_a_round; ++i) {
      const int64_t b = b0 + i * blockDim.x + threadIdx.x;
      mine[i] = b < B ? scores[b] : T(0);
    }
    for (int64_t i = 0; i < scores_a_round; ++i) {
      const int64_t b = b0 + i * blockDim.x + threadIdx.x;
      if (b >= B || list.key(mine[i]) < threshold) continue;
      const int slot = atomicAdd(list.count, 1);
      list.index[slot] = index[b], list.score[slot] = mine[i];
    }
    __syncthreads();
    count = *list.count;
    __syncthreads();
  }
  if (count == held) return;
  sort_list(list, count);
  for (int64_t i = threadIdx.x; i < k && i < count; i += blockDim.x)
    best[i] = list.score[i], best_index[i] = list.index[i];
}
