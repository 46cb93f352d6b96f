// Copies as operands of products: as they are, or rounded to the nearest bfloat16, ties to even.

template <typename To, typename T>
__device__ To operand(T x) {
  if constexpr (sizeof(To) == sizeof(T)) {
    return x;
  } else {
    const uint32_t bits = __float_as_uint(x);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16;
    return static_cast<To>(x == x ? rounded : 0x7fc0u);
  }
}

__global__ void narrow_kernel(const float* x,              // [n]
                              int64_t n, uint16_t* out) {  // [n], written
  const int64_t i = global_thread();
  if (i < n) out[i] = operand<uint16_t>(x[i]);
}

// out[i, c count + p] = v[rows[i], c P + positions[p]]; a block per row. Bytes: a read and a write an element.
template <typename To, typename T>
__global__ void columns_kernel(const T* v,           // [.., C P]
                               const int32_t* rows,  // [n] or null: as they come
                               int64_t C, int64_t P,
                               const int32_t* positions,  // [count]
                               int64_t count, To* out) {  // [n, C count], written
  const int64_t i = blockIdx.x, row = rows ? rows[i] : i;
  const int width = static_cast<int>(C * count), each = static_cast<int>(count);
  for (int f = static_cast<int>(threadIdx.x); f < width; f += static_cast<int>(blockDim.x))
    out[i * width + f] = operand<To>(v[row * C * P + f / each * P + positions[f % each]]);
}
