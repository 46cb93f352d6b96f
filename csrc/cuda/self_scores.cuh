// scores[b] = rate * |gradient of triple b|^2, the diagonal of K; a warp per sample. `image` is M S.

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
__global__ void __launch_bounds__(threads) self_scores_kernel(int64_t D, int64_t S, Tracked<T> on, Samples samples,
                                                              const T* squares,  // [G] |v|^2, or null
                                                              const T* w,        // [B]
                                                              const T* z,        // [G, D]
                                                              const T* linear,   // [B, columns] e, e un, S
                                                              int64_t columns,
                                                              const T* delta,   // [B, D]
                                                              const T* pixels,  // [B, 2 D] c, q, or null
                                                              const T* image,   // [B, S] or null
                                                              T rate,
                                                              T* scores) {  // [B], written
  const int64_t b = global_warp();
  if (b >= samples.B) return;
  const auto square = [&](const T* x) { return warp_dot(x, x, D); };
  const T *e = linear + b * columns, *hidden = z + samples.pair[b] * D, *c = pixels ? pixels + b * 2 * D : nullptr;
  T sum = 0;
  if (on.fc) sum += square(delta + b * D) * (squares[samples.pair[b]] + T(on.fc_bias));
  if (on.bn2_bias) sum += square(e);
  if (on.bn2_weight) sum += square(e + D);
  if (image) sum += warp_dot(e + 2 * D, image + b * S, S);
  if (on.bias) sum += w[b] * w[b];
  if (on.entity) {
    sum += square(c) + w[b] * w[b] * square(hidden);
    if (samples.head[b] == samples.tail[b]) sum += 2 * w[b] * warp_dot(c, hidden, D);
  }
  if (on.relation) sum += square(c + D);
  if (lane_id() == 0) scores[b] = rate * sum;
}
