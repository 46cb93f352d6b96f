// scores[b] = rate * |gradient of triple b|^2, the diagonal of K; a warp per sample. `MS` is M S.

// out[i] = |rows[i]|^2, a warp per row. FLOPs: 2 n a row.
template <typename T>
__global__ void squares_kernel(const T* rows,  // [count, n]
                               int64_t count, int64_t n,
                               T* out) {  // [count], written
  const int64_t i = global_warp();
  if (i >= count) return;
  const T square = warp_dot(rows + i * n, rows + i * n, n);
  if (lane_id() == 0) out[i] = square;
}

template <typename T>
__global__ void __launch_bounds__(threads) self_scores_kernel(int64_t D, int64_t size_S, Tracked<T> on, Samples samples,
                                                              const T* squares,  // [G] |v|^2, or null
                                                              const T* w,        // [B]
                                                              const T* z,        // [G, D]
                                                              const T* linear,   // [B, columns] e, e un, S
                                                              int64_t columns,
                                                              const T* delta,  // [B, D]
                                                              const T* cq,     // [B, 2 D] c, q, or null
                                                              const T* MS,     // [B, S] or null
                                                              T rate,
                                                              T* scores) {  // [B], written
  const int64_t b = global_warp();
  if (b >= samples.B) return;
  const auto square = [&](const T* x) { return warp_dot(x, x, D); };
  const T *e = linear + b * columns, *e_un = e + D, *S = e_un + D;
  const T *c = cq ? cq + b * 2 * D : nullptr, *q = c + D;
  z += samples.pair[b] * D;
  T sum = 0;
  if (on.fc) sum += square(delta + b * D) * (squares[samples.pair[b]] + T(on.fc_bias));
  if (on.bn2_bias) sum += square(e);
  if (on.bn2_weight) sum += square(e_un);
  if (MS) sum += warp_dot(S, MS + b * size_S, size_S);
  if (on.bias) sum += w[b] * w[b];
  if (on.entity) {
    sum += square(c) + w[b] * w[b] * square(z);
    if (samples.head[b] == samples.tail[b]) sum += 2 * w[b] * warp_dot(c, z, D);
  }
  if (on.relation) sum += square(q);
  if (lane_id() == 0) scores[b] = rate * sum;
}
