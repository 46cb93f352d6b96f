// From y = W^T delta [B, F] of every sample, masked by its pair's v > 0:
//   S[b, c, j] = sum_p y[c, p] xn[taps[p, j]],  S[b, c, J] = sum_p y[c, p]              statistics_kernel
//   t[b, j, p] = sum_c y[c, p] pixel_kernel[c, j]                                       tap_gradients_kernel
//   cq[b, x] = sum of t[b, j, p] over the windows with taps[p, j] = x                   pixel_gradients_kernel
// FLOPs: 2 (J + 1) F for S, 2 J F for t; both read y and v once.

constexpr int columns_at_once = 10;  // of S: a 3 x 3 filter's nine pixels and the sum of y are one round
// Channels of a warp, so that one load of a pixel serves as many; their sums must fit in registers.
template <typename T>
constexpr int rows_at_once = sizeof(T) == 4 ? 4 : 2;

// y where v passes. Both are arguments, so that neither load waits for the other.
template <typename T>
__device__ __forceinline__ T masked_by(T v, T y) {
  return passes(v) ? y : T(0);
}

template <typename T>
__global__ void __launch_bounds__(threads, 2) statistics_kernel(Model<T> m, Segment<T> s, Samples samples,
                                                                const int32_t* by_tap,  // [J, P]
                                                                const T* v,             // [G, F]
                                                                const T* y,             // [B, F]
                                                                int64_t columns,        // of `linear`
                                                                T* linear) {            // [B, columns], S written
  T* image = shared_memory<T>();
  const int64_t b = blockIdx.x, F = m.C * s.P;
  load_image(m, s, samples.head[b], samples.relation[b], image);
  __syncthreads();
  const T *mask = v + samples.pair[b] * F, *value = y + b * F;
  T* S = linear + b * columns + 2 * m.D;
  // int: 64-bit indices would take the registers of the sums.
  constexpr int rows = rows_at_once<T>;
  const int C = static_cast<int>(m.C), J = static_cast<int>(m.J), P = static_cast<int>(s.P);
  for (int c0 = static_cast<int>(threadIdx.x / warp) * rows; c0 < C; c0 += warps * rows) {
    const auto load = [&](int p, T* masked) {
      for (int i = 0; i < rows; ++i) {
        const bool there = p < P && c0 + i < C;
        const int f = (c0 + i) * P + p;
        masked[i] = masked_by(there ? mask[f] : T(0), there ? value[f] : T(0));
      }
    };
    for (int j0 = 0; j0 <= J; j0 += columns_at_once) {
      T sum[rows][columns_at_once] = {}, next[rows];
      load(lane_id(), next);
      for (int p = lane_id(); p < P; p += warp) {
        T masked[rows];
        for (int i = 0; i < rows; ++i) masked[i] = next[i];
        load(p + warp, next);  // on their way while these are used
        for (int j = 0; j < columns_at_once; ++j) {
          const T x = j0 + j < J ? image[by_tap[(j0 + j) * P + p]] : T(j0 + j == J);
          for (int i = 0; i < rows; ++i) sum[i][j] += masked[i] * x;
        }
      }
      for (int i = 0; i < rows; ++i)
        for (int j = 0; j < columns_at_once; ++j) {
          const T total = warp_sum(sum[i][j]);
          if (lane_id() == 0 && c0 + i < C && j0 + j <= J) S[(c0 + i) * (J + 1) + j0 + j] = total;
        }
    }
  }
}

constexpr int taps_at_once = 9;

template <typename T>
__global__ void __launch_bounds__(threads, 5) tap_gradients_kernel(Model<T> m, Segment<T> s, Samples samples,
                                                                   const T* v,  // [G, F]
                                                                   const T* y,  // [B, F]
                                                                   T* t) {      // [B, J P], written
  const int64_t i = global_thread();
  if (i >= samples.B * s.P) return;
  const int64_t b = i / s.P, p = i % s.P, F = m.C * s.P;
  const T *mask = v + samples.pair[b] * F + p, *value = y + b * F + p;
  for (int64_t j0 = 0; j0 < m.J; j0 += taps_at_once) {
    T sum[taps_at_once] = {};
    for (int64_t c = 0; c < m.C; ++c) {
      const T masked = masked_by(mask[c * s.P], value[c * s.P]);
      for (int j = 0; j < taps_at_once; ++j)
        if (j0 + j < m.J) sum[j] += masked * m.pixel_kernel[c * m.J + j0 + j];
    }
    for (int j = 0; j < taps_at_once; ++j)
      if (j0 + j < m.J) t[(b * m.J + j0 + j) * s.P + p] = sum[j];
  }
}

template <typename T>
__global__ void pixel_gradients_kernel(Segment<T> s, int64_t J, int64_t B,
                                       const int32_t* first,    // [X + 1]
                                       const int32_t* entries,  // [J P]
                                       const T* t,              // [B, J P]
                                       T* cq) {                 // [B, X], written: c, q
  const int64_t i = global_thread();
  if (i >= B * s.X) return;
  const int64_t x = i % s.X;
  const T* row = t + i / s.X * J * s.P;
  T sum = 0;
  for (int32_t k = first[x]; k < first[x + 1]; ++k) sum += row[entries[k]];
  cq[i] = sum;
}
