// Per distinct pair: un = norm_scale u + norm_offset, z = relu(scale u + offset). A block per pair. Pre-activations at
// ReLU's kink are computed again in double, by the whole block: float32 must take float64's side.

// Every thread gets the sum of the block's x; `partial` [warps] is shared memory.
__device__ inline double block_sum(double x, double* partial) {
  x = warp_sum(x);
  if (lane_id() == 0) partial[threadIdx.x / warp] = x;
  __syncthreads();
  double sum = 0;
  for (int64_t i = 0; i < blockDim.x / warp; ++i) sum += partial[i];
  __syncthreads();
  return sum;
}

// BN2's pre-activation of one unit, from the tables in double, by the whole block.
template <typename T>
__device__ double exact_pre_activation(const Model<T>& m, int64_t head, int64_t relation, int64_t d, double* partial) {
  const double *mean = m.exact_pixel, *rstd = mean + 2 * m.D;
  const T* h = m.entity + head * m.D;
  const T* r = m.relation + relation * m.relation_step * m.D - m.D;
  double u = 0;
  for (int64_t f = threadIdx.x; f < m.C * m.P; f += blockDim.x) {
    const int64_t c = f / m.P;
    const int32_t* taps = m.taps + f % m.P * m.J;
    double sum = m.exact_shift[c];
    for (int64_t j = 0; j < m.J; ++j) {
      const int64_t x = taps[j];
      sum += m.exact_kernel[c * m.J + j] * ((static_cast<double>((x < m.D ? h : r)[x]) - mean[x]) * rstd[x]);
    }
    if (passes(sum)) u += static_cast<double>(m.fc[d * m.C * m.P + f]) * sum;
  }
  return m.exact_hidden[d] * block_sum(u, partial) + m.exact_hidden[m.D + d];
}

template <typename T>
__global__ void __launch_bounds__(threads) hidden_kernel(Model<T> m,
                                                         const int32_t* pair_head,      // [G]
                                                         const int32_t* pair_relation,  // [G]
                                                         T* u,                          // [G, D], becomes un
                                                         T* z) {                        // [G, D], written
  double* partial = shared_memory<double>();                                            // [warps]
  unsigned* near = reinterpret_cast<unsigned*>(partial + blockDim.x / warp);            // [warps] lanes to settle
  const int64_t g = blockIdx.x;
  for (int64_t d0 = 0; d0 < m.D; d0 += blockDim.x) {
    const int64_t d = d0 + threadIdx.x;
    T pre = 0;
    bool settle = false;
    if (d < m.D) {
      T& value = u[g * m.D + d];
      pre = m.scale[d] * value + m.offset[d];
      value = m.norm_scale[d] * value + m.norm_offset[d];
      settle = m.exact_kink && fabs(pre) < m.exact_kink[d];
    }
    const unsigned settling = __ballot_sync(all_lanes, settle);
    if (lane_id() == 0) near[threadIdx.x / warp] = settling;
    __syncthreads();
    for (int64_t w = 0; w < blockDim.x / warp; ++w)
      for (unsigned left = near[w]; left; left &= left - 1) {
        const int64_t i = w * warp + __ffs(static_cast<int>(left)) - 1;
        const double exact = exact_pre_activation(m, pair_head[g], pair_relation[g], d0 + i, partial);
        if (threadIdx.x == i) pre = static_cast<T>(exact);
      }
    if (d < m.D) z[g * m.D + d] = passes(pre) ? pre : T(0);
    __syncthreads();  // the next round writes near
  }
}
