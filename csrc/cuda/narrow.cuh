// out[i] = x[i] rounded to the nearest bfloat16, ties to even.

__global__ void narrow_kernel(const float* x,              // [n]
                              int64_t n, uint16_t* out) {  // [n], written
  const int64_t i = global_thread();
  if (i >= n) return;
  const uint32_t bits = __float_as_uint(x[i]);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16;
  out[i] = static_cast<uint16_t>(x[i] == x[i] ? rounded : 0x7fc0u);
}
