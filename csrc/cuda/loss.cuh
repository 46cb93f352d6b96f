// Per sample: score = z . E[t] + b[t], w = dloss/dscore, e = w E[t] [z > 0], e un, delta = delta_scale e.
// A warp per sample. FLOPs: 5 D; bytes: 6 D numbers.

template <typename T>
__global__ void loss_kernel(Model<T> m, Samples samples,
                            const T* un,      // [G, D]
                            const T* z,       // [G, D]
                            int64_t columns,  // of `linear`
                            T* w,             // [B], written
                            T* linear,        // [B, columns], the first 2 D written: e, e un
                            T* delta) {       // [B, D], written
  const int64_t b = global_warp();
  if (b >= samples.B) return;
  const int64_t tail = samples.tail[b];
  const T* t = m.entity + tail * m.D;
  z += samples.pair[b] * m.D, un += samples.pair[b] * m.D;
  T *e = linear + b * columns, *e_un = e + m.D;
  const T score = warp_dot(z, t, m.D) + (m.bias ? m.bias[tail] : T(0));
  const T residual = w_of(score);
  if (lane_id() == 0) w[b] = residual;
  for (int64_t d = lane_id(); d < m.D; d += warp) {
    const T value = passes(z[d]) ? residual * t[d] : T(0);
    e[d] = value;
    e_un[d] = value * un[d];
    delta[b * m.D + d] = value * m.delta_scale[d];
  }
}
