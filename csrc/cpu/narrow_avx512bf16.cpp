// Products of bfloat16 operands with float32 accumulation, for processors with AVX512-BF16. A pair of neighbours in k
// lies together: operands [k / 2][12][2], panels [k / 2][32][2]. No std templates here (see loops.inl).
#include <immintrin.h>
#include <string.h>

#include "loops.h"

namespace tracin::cpu {
namespace {

template <int vectors>
inline void product_tile(const uint16_t* a, const uint16_t* b, int64_t pairs, bool accumulate, float* c) {
  constexpr int height = operand_height;
  __m512 sum[height][vectors];
  for (int i = 0; i < height; ++i)
    for (int v = 0; v < vectors; ++v)
      sum[i][v] = accumulate ? _mm512_loadu_ps(c + i * lanes + v * 16) : _mm512_setzero_ps();
  for (int64_t l = 0; l < pairs; ++l, a += 2 * height, b += 2 * lanes) {
    __m512bh x[vectors];
    for (int v = 0; v < vectors; ++v) x[v] = (__m512bh)_mm512_loadu_si512(b + v * 32);
    for (int i = 0; i < height; ++i) {
      int pair;
      memcpy(&pair, a + 2 * i, sizeof pair);
      for (int v = 0; v < vectors; ++v)
        sum[i][v] = _mm512_dpbf16_ps(sum[i][v], (__m512bh)_mm512_set1_epi32(pair), x[v]);
    }
  }
  for (int i = 0; i < height; ++i)
    for (int v = 0; v < vectors; ++v) _mm512_storeu_ps(c + i * lanes + v * 16, sum[i][v]);
}

void multiply(const Operand<uint16_t>& a, int64_t row, int64_t rows, const uint16_t* b, int64_t b_stride,
              int64_t groups, int64_t active, bool accumulate, float* c, int64_t c_stride) {
  const uint16_t* panel = a.data + row * a.k;
  for (int64_t i = 0; i < rows; i += operand_height, panel += a.k * operand_height)
    for (int64_t g = 0; g < groups; ++g) {
      float* tile = c + g * c_stride + i * lanes;
      if (g + 1 < groups || active > 16)
        product_tile<2>(panel, b + g * b_stride, a.k / 2, accumulate, tile);
      else
        product_tile<1>(panel, b + g * b_stride, a.k / 2, accumulate, tile);
    }
}

void narrow(const float* panel, int64_t k, uint16_t* out) {
  for (int64_t l = 0; l < k; l += 2, out += 2 * lanes)
    for (int64_t lane = 0; lane < lanes; lane += 16) {
      const __m512 first = _mm512_loadu_ps(panel + l * lanes + lane);
      const __m512 second = l + 1 < k ? _mm512_loadu_ps(panel + (l + 1) * lanes + lane) : _mm512_setzero_ps();
      const __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(first));
      const __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(second));
      _mm512_storeu_si512(out + 2 * lane, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
    }
}

}  // namespace

extern const Narrow narrow_avx512bf16;
const Narrow narrow_avx512bf16 = {multiply, narrow};

}  // namespace tracin::cpu
