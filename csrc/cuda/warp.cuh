// What several kernels share: where a thread stands, sums over a warp, a pixel of the image.

constexpr unsigned all_lanes = 0xffffffffu;

__device__ inline int64_t global_thread() { return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ inline int64_t global_warp() { return global_thread() / warp; }
__device__ inline int lane_id() { return static_cast<int>(threadIdx.x % warp); }

// Every lane gets the sum; all lanes of the warp must call it.
template <typename T>
__device__ T warp_sum(T x) {
  for (int distance = warp / 2; distance; distance /= 2) x += __shfl_xor_sync(all_lanes, x, distance);
  return x;
}

// a . b over n numbers, by a whole warp; every lane gets it.
template <typename T>
__device__ T warp_dot(const T* a, const T* b, int64_t n) {
  T sum = 0;
  for (int64_t i = lane_id(); i < n; i += warp) sum += a[i] * b[i];
  return warp_sum(sum);
}

// xn at a pixel of the image, head's D first.
template <typename T>
__device__ T normalised_pixel(const Model<T>& m, int64_t head, int64_t relation, int64_t pixel) {
  const T raw = pixel < m.D ? m.entity[head * m.D + pixel] : m.relation[relation * m.relation_step * m.D + pixel - m.D];
  return (raw - m.pixel_mean[pixel]) * m.pixel_rstd[pixel];
}

// The whole block puts a segment's X pixels into `image`; a barrier must follow.
template <typename T>
__device__ void load_image(const Model<T>& m, const Segment<T>& s, int64_t head, int64_t relation, T* image) {
  for (int64_t x = threadIdx.x; x < s.X; x += blockDim.x) image[x] = normalised_pixel(m, head, relation, s.pixels[x]);
}
