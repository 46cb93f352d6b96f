// Loops of the factored form. Included once per instruction set with TRACIN_ISA naming the namespace.
// One sample per lane: no horizontal sums, and nothing depends on the number of channels. No std templates here: the
// linker would share them with code that must run on the lowest CPU.
#include <math.h>
#include <string.h>

#include "loops.h"

namespace tracin::cpu::TRACIN_ISA {
namespace {

template <typename T>
struct Types;
template <>
struct Types<float> {
  typedef float Vec __attribute__((vector_size(64), aligned(4), may_alias));
  typedef int32_t Int __attribute__((vector_size(64), aligned(4), may_alias));
};
template <>
struct Types<double> {
  typedef double Vec __attribute__((vector_size(64), aligned(8), may_alias));
  typedef int64_t Int __attribute__((vector_size(64), aligned(8), may_alias));
};
template <typename T>
using Vec = typename Types<T>::Vec;
template <typename T>
using Int = typename Types<T>::Int;
template <typename T>
constexpr int64_t L = chunk_lanes<T>;

template <typename T>
inline Vec<T>& at(T* p) {
  return *reinterpret_cast<Vec<T>*>(p);
}
template <typename T>
inline const Vec<T>& at(const T* p) {
  return *reinterpret_cast<const Vec<T>*>(p);
}
template <typename T>
inline Word<T> bit(int64_t p) {
  return static_cast<Word<T>>(uint32_t(1) << (p & 31));
}

template <typename T>
void gather_images(const Model<T>& m, const int64_t* heads, const int64_t* relations, int64_t n, T* image) {
  const int64_t D = m.D, X = 2 * D;
  for (int64_t start = 0; start < n; start += L<T>, image += X * L<T>) {
    const int64_t count = n - start < L<T> ? n - start : L<T>;
    if (count < L<T>) memset(image, 0, X * L<T> * sizeof(T));
    for (int64_t i = 0; i < count; ++i) {
      const T* head = m.entity + heads[start + i] * D;
      const T* relation = m.relation + relations[start + i] * m.relation_step * D;
      for (int64_t d = 0; d < D; ++d) image[d * L<T> + i] = (head[d] - m.pixel_mean[d]) * m.pixel_rstd[d];
      for (int64_t d = 0; d < D; ++d)
        image[(D + d) * L<T> + i] = (relation[d] - m.pixel_mean[D + d]) * m.pixel_rstd[D + d];
    }
  }
}

// `width` channels at once: one load of a pixel serves several filters.
template <typename T, int width>
void convolve_channels(const Model<T>& m, const T* image, int64_t lanes, int64_t c, T* v, Word<T>* mask) {
  const int64_t words = mask_words(m.P);
  for (int64_t word = 0; word < words; ++word) {
    Int<T> bits[width] = {};
    const int64_t end = m.P < (word + 1) * 32 ? m.P : (word + 1) * 32;
    for (int64_t p = word * 32; p < end; ++p) {
      const int32_t* taps = m.taps + p * m.J;
      Vec<T> sum[width];
      for (int i = 0; i < width; ++i) sum[i] = Vec<T>{} + m.shift[c + i];
      for (int64_t j = 0; j < m.J; ++j) {
        const Vec<T> x = at(image + taps[j] * L<T>);
        for (int i = 0; i < width; ++i) sum[i] += x * m.kernel[(c + i) * m.J + j];
      }
      for (int i = 0; i < width; ++i) {
        const Int<T> positive = sum[i] > 0;
        at(v + ((c + i) * m.P + p) * lanes) = positive ? sum[i] : Vec<T>{};
        bits[i] |= positive & bit<T>(p);
      }
    }
    for (int i = 0; i < width; ++i)
      *reinterpret_cast<Int<T>*>(mask + ((c + i) * words + word) * lanes) = bits[i];
  }
}

template <typename T>
void convolve(const Model<T>& m, const T* image, int64_t lanes, T* v, Word<T>* mask) {
  for (int64_t lane = 0; lane < lanes; lane += L<T>, image += 2 * m.D * L<T>) {
    int64_t c = 0;
    for (; c + 4 <= m.C; c += 4) convolve_channels<T, 4>(m, image, lanes, c, v + lane, mask + lane);
    for (; c < m.C; ++c) convolve_channels<T, 1>(m, image, lanes, c, v + lane, mask + lane);
  }
}

template <typename T>
void to_rows(const T* panel, int64_t width, int64_t lanes, int64_t n, T* rows) {
  for (int64_t i0 = 0; i0 < n; i0 += L<T>) {
    const int64_t end = n < i0 + L<T> ? n : i0 + L<T>;
    for (int64_t d = 0; d < width; ++d)
      for (int64_t i = i0; i < end; ++i) rows[i * width + d] = panel[d * lanes + i];
  }
}

template <typename T>
void to_panel(const T* rows, int64_t width, int64_t lanes, int64_t n, const T* scale, T* panel) {
  for (int64_t i0 = 0; i0 < lanes; i0 += L<T>) {
    const int64_t end = n < i0 + L<T> ? n : i0 + L<T>;
    for (int64_t d = 0; d < width; ++d) {
      const T factor = scale ? scale[d] : T(1);
      int64_t i = i0;
      for (; i < end; ++i) panel[d * lanes + i] = rows[i * width + d] * factor;
      for (; i < i0 + L<T>; ++i) panel[d * lanes + i] = 0;
    }
  }
}

template <typename T>
void normalise(const Model<T>& m, int64_t G, T* u, T* z) {
  for (int64_t g = 0; g < G; ++g, u += m.D, z += m.D)
    for (int64_t d = 0; d < m.D; ++d) {
      z[d] = m.scale[d] * u[d] + m.offset[d];
      u[d] = m.norm_scale[d] * u[d] + m.norm_offset[d];
    }
}

template <typename T>
T dot(const T* a, const T* b, int64_t n) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

template <typename T>
void residuals(const Model<T>& m, const int32_t* group, const int64_t* tails, int64_t n, const T* un, const T* z, T* w,
               T* error, T* normalised) {
  for (int64_t i = 0; i < n; ++i) {
    const T* tail = m.entity + tails[i] * m.D;
    const T* zi = z + group[i] * m.D;
    const T* ui = un + group[i] * m.D;
    const T score = dot(zi, tail, m.D) + (m.bias ? m.bias[tails[i]] : T(0));
    const T wi = static_cast<T>(-1.0 / (1.0 + exp(static_cast<double>(score))));
    w[i] = wi;
    T* e = error + i * m.D;
    T* f = normalised + i * m.D;
    for (int64_t d = 0; d < m.D; ++d) {
      e[d] = zi[d] > 0 ? wi * tail[d] : T(0);
      f[d] = e[d] * ui[d];
    }
  }
}

// taps = 9: the statistics of one filter stay in registers. taps = 0: any number, in memory.
template <typename T, int taps>
void channel_statistics(const Model<T>& m, const T* image, const Word<T>* mask, int64_t mask_lanes,
                        const int32_t* group, int64_t lanes, int64_t c, T* y, T* statistics) {
  const int64_t J = taps ? taps : m.J, words = mask_words(m.P);
  T* out = statistics + c * (J + 1) * lanes;
  Vec<T> total = {}, sum[taps ? taps : 1] = {};
  if (!taps)
    for (int64_t j = 0; j < J; ++j) at(out + j * lanes) = Vec<T>{};
  for (int64_t word = 0; word < words; ++word) {
    Word<T> gathered[L<T>];
    const Word<T>* row = mask + (c * words + word) * mask_lanes;
    for (int64_t i = 0; i < L<T>; ++i) gathered[i] = row[group[i]];
    const Int<T> bits = *reinterpret_cast<const Int<T>*>(gathered);
    const int64_t end = m.P < (word + 1) * 32 ? m.P : (word + 1) * 32;
    for (int64_t p = word * 32; p < end; ++p) {
      T* place = y + (c * m.P + p) * lanes;
      const Vec<T> value = (bits & bit<T>(p)) != 0 ? at(place) : Vec<T>{};
      at(place) = value;
      total += value;
      const int32_t* tap = m.taps + p * J;
      for (int64_t j = 0; j < J; ++j) {
        const Vec<T> product = value * at(image + tap[j] * L<T>);
        if (taps)
          sum[taps ? j : 0] += product;
        else
          at(out + j * lanes) += product;
      }
    }
  }
  for (int64_t j = 0; j < taps; ++j) at(out + j * lanes) = sum[j];
  at(out + J * lanes) = total;
}

template <typename T>
void statistics(const Model<T>& m, const T* image, const Word<T>* mask, int64_t mask_lanes, const int32_t* group,
                int64_t lanes, T* y, T* statistics) {
  const auto channel = m.J == 9 ? channel_statistics<T, 9> : channel_statistics<T, 0>;
  for (int64_t lane = 0; lane < lanes; lane += L<T>, image += 2 * m.D * L<T>)
    for (int64_t c = 0; c < m.C; ++c)
      channel(m, image, mask, mask_lanes, group + lane, lanes, c, y + lane, statistics + lane);
}

template <typename T>
void pull_back(const Model<T>& m, const T* y, int64_t lanes, T* pixels) {
  memset(pixels, 0, 2 * m.D * lanes * sizeof(T));
  for (int64_t lane = 0; lane < lanes; lane += L<T>)
    for (int64_t c = 0; c < m.C; ++c)
      for (int64_t p = 0; p < m.P; ++p) {
        const Vec<T> value = at(y + (c * m.P + p) * lanes + lane);
        for (int64_t j = 0; j < m.J; ++j) at(pixels + m.taps[p * m.J + j] * lanes + lane) += value * m.pull[c * m.J + j];
      }
}

template <typename T>
void combine(const T* dots, const T* gram, const int32_t* group, const T* linear, int64_t n, T rate, T fc_bias,
             T* scores) {
  if (!dots) {
    for (int64_t i = 0; i < n; ++i) scores[i] += rate * linear[i];
    return;
  }
  for (int64_t i = 0; i < n; ++i) scores[i] += rate * (dots[i] * (gram[group[i]] + fc_bias) + linear[i]);
}

template <typename T>
constexpr Loops<T> table = {gather_images<T>, convolve<T>,   to_rows<T>,   to_panel<T>, normalise<T>, residuals<T>,
                            statistics<T>,    pull_back<T>, combine<T>,   dot<T>};
}  // namespace

extern const Loops<float> float_loops;
extern const Loops<double> double_loops;
const Loops<float> float_loops = table<float>;
const Loops<double> double_loops = table<double>;

}  // namespace tracin::cpu::TRACIN_ISA
