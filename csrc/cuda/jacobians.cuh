// jacobians[r, s / 32, d, s % 32] = dS_s / d delta_d of the relation's half: with s = c (J + 1) + j,
// sum over p with v[r, c P + p] > 0 of fc[d, c P + p] xn[taps[p, j]], or of fc alone for j = J.
// A block per relation and statistic, a thread per d. FLOPs: 2 F' (J + 1) D a relation.

template <typename T>
__global__ void __launch_bounds__(threads) jacobians_kernel(Model<T> m, Segment<T> s,
                                                            const T* v,  // [relations, C P]
                                                            T* out) {    // [relations, ceil(S / 32), D, 32], written
  const int64_t S = m.C * (m.J + 1), panels = (S + lanes - 1) / lanes;
  const int64_t r = blockIdx.x / (panels * lanes), i = blockIdx.x % (panels * lanes), c = i / (m.J + 1),
                j = i % (m.J + 1);
  T* column = out + ((r * panels + i / lanes) * m.D) * lanes + i % lanes;
  for (int64_t d = threadIdx.x; d < m.D; d += blockDim.x) {
    T sum = 0;
    for (int64_t p = 0; i < S && p < s.P; ++p) {
      const int64_t f = c * s.P + p;
      if (!passes(v[r * m.C * s.P + f])) continue;
      const T x = j < m.J ? normalised_pixel(m, 0, r, s.pixels[s.taps[p * m.J + j]]) : T(1);
      sum += s.forward[f * m.D + d] * x;
    }
    column[d * lanes] = sum;
  }
}
