// v[g, c P + p] = relu(sum_j kernel[c, j] xn[taps[p, j]] + shift[c]), once per distinct pair g.
// FLOPs: 2 J a feature; bytes: one store a feature.

constexpr int64_t channels_at_once = 8;  // sums of a thread: one load of a pixel serves as many filters

template <typename T>
__global__ void __launch_bounds__(threads) features_kernel(Model<T> m, Segment<T> s,
                                                           const int32_t* by_tap,         // [J, P]
                                                           const int32_t* pair_head,      // [G]
                                                           const int32_t* pair_relation,  // [G]
                                                           T* v) {                        // [G, C P], written
  T* image = shared_memory<T>();
  const int64_t g = blockIdx.x;
  load_image(m, s, pair_head[g], pair_relation[g], image);
  __syncthreads();
  T* row = v + g * m.C * s.P;
  const int64_t chunks = (m.C + channels_at_once - 1) / channels_at_once;
  for (int64_t i = threadIdx.x; i < s.P * chunks; i += blockDim.x) {
    const int64_t p = i % s.P, c0 = i / s.P * channels_at_once;
    T sum[channels_at_once];
    for (int64_t k = 0; k < channels_at_once; ++k) sum[k] = c0 + k < m.C ? m.shift[c0 + k] : T(0);
    for (int64_t j = 0; j < m.J; ++j) {
      const T x = image[by_tap[j * s.P + p]];
      for (int64_t k = 0; k < channels_at_once; ++k)
        if (c0 + k < m.C) sum[k] += m.kernel[(c0 + k) * m.J + j] * x;
    }
    for (int64_t k = 0; k < channels_at_once; ++k)
      if (c0 + k < m.C) row[(c0 + k) * s.P + p] = passes(sum[k]) ? sum[k] : T(0);
  }
}
