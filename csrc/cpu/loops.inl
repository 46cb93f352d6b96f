// Loops of the factored form. Included once per instruction set, with TRACIN_ISA naming the namespace and
// TRACIN_VECTOR_BYTES the width of a register. One sample per lane: no horizontal sums, and nothing depends on the
// number of channels. No std templates here: the linker would share them with code that must run on the lowest CPU.
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
  typedef float Register __attribute__((vector_size(TRACIN_VECTOR_BYTES), aligned(4), may_alias));
};
template <>
struct Types<double> {
  typedef double Vec __attribute__((vector_size(64), aligned(8), may_alias));
  typedef int64_t Int __attribute__((vector_size(64), aligned(8), may_alias));
  typedef double Register __attribute__((vector_size(TRACIN_VECTOR_BYTES), aligned(8), may_alias));
};
template <typename T>
using Vec = typename Types<T>::Vec;
template <typename T>
using Int = typename Types<T>::Int;
template <typename T>
using Register = typename Types<T>::Register;
template <typename T>
constexpr int64_t L = chunk<T>;

// Vectors in memory, which are aligned as their numbers are. Packed: Clang takes a reference to be aligned as a vector.
template <typename T>
struct __attribute__((packed, may_alias)) VecAt {
  Vec<T> value;
};
template <typename T>
struct __attribute__((packed, may_alias)) IntAt {
  Int<T> value;
};
template <typename T>
struct __attribute__((packed, may_alias)) RegisterAt {
  Register<T> value;
};

template <typename T>
inline VecAt<T>& at(T* p) {
  return *reinterpret_cast<VecAt<T>*>(p);
}
template <typename T>
inline const VecAt<T>& at(const T* p) {
  return *reinterpret_cast<const VecAt<T>*>(p);
}
template <typename T>
inline IntAt<T>& bits_at(Word<T>* p) {
  return *reinterpret_cast<IntAt<T>*>(p);
}
template <typename T>
inline RegisterAt<T>& register_at(T* p) {
  return *reinterpret_cast<RegisterAt<T>*>(p);
}
template <typename T>
inline const RegisterAt<T>& register_at(const T* p) {
  return *reinterpret_cast<const RegisterAt<T>*>(p);
}
template <typename T>
inline Word<T> bit(int64_t p) {
  return static_cast<Word<T>>(uint32_t(1) << (p & 31));
}

// c[height][vectors] (+)= a[k][12] b[k][32]: height x vectors accumulators stay in registers. They begin with zero: of
// a sum over chunks of k, each chunk is summed by itself, which loses less than one long sum does.
template <typename T, int height, int vectors>
inline void product_tile(const T* a, const T* b, int64_t k, bool accumulate, T* c) {
  using V = Register<T>;
  constexpr int64_t width = sizeof(V) / sizeof(T);
  V sum[height][vectors];
  for (int i = 0; i < height; ++i)
    for (int v = 0; v < vectors; ++v) sum[i][v] = V{};
  for (int64_t l = 0; l < k; ++l, a += operand_height, b += lanes) {
    V x[vectors];
    for (int v = 0; v < vectors; ++v) x[v] = register_at(b + v * width).value;
    for (int i = 0; i < height; ++i)
      for (int v = 0; v < vectors; ++v) sum[i][v] += a[i] * x[v];
  }
  for (int i = 0; i < height; ++i)
    for (int v = 0; v < vectors; ++v) {
      RegisterAt<T>& out = register_at(c + i * lanes + v * width);
      out.value = accumulate ? out.value + sum[i][v] : sum[i][v];
    }
}

// 12 x 2 accumulators need 32 registers; with 16 there is room for 6 x 2.
constexpr int tile_height = TRACIN_VECTOR_BYTES == 64 ? 12 : 6;

template <typename T>
void multiply(const Operand<T>& a, int64_t row, int64_t rows, int64_t from, int64_t k, const T* b, int64_t b_stride,
              int64_t groups, int64_t active, bool accumulate, T* c, int64_t c_stride) {
  constexpr int64_t width = sizeof(Register<T>) / sizeof(T);
  const T* panel = a.data + row * a.k + from * operand_height;
  for (int64_t i = 0; i < rows; i += operand_height, panel += a.k * operand_height)
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t end = g + 1 < groups ? lanes : active;
      for (int64_t part = 0; part < operand_height; part += tile_height) {
        T* tile = c + g * c_stride + (i + part) * lanes;
        int64_t lane = 0;
        for (; lane + 2 * width <= end; lane += 2 * width)
          product_tile<T, tile_height, 2>(panel + part, b + g * b_stride + lane, k, accumulate, tile + lane);
        for (; lane < end; lane += width)
          product_tile<T, tile_height, 1>(panel + part, b + g * b_stride + lane, k, accumulate, tile + lane);
      }
    }
}

template <typename T>
void gather_images(const Model<T>& m, const Segment<T>& s, const int64_t* heads, const int64_t* relations, int64_t n,
                   T* image) {
  const int64_t active = round_up(n, 16);
  if (n < active && s.X) memset(image, 0, active * s.X * sizeof(T));
  for (int64_t i = 0; i < n; ++i) {
    const T* head = m.entity + heads[i] * m.D;
    const T* relation = m.relation + relations[i] * m.relation_step * m.D - m.D;
    T* lane = image + i / L<T> * s.X * L<T> + i % L<T>;
    for (int64_t x = 0; x < s.X; ++x) {
      const int64_t pixel = s.pixels[x];
      lane[x * L<T>] = ((pixel < m.D ? head : relation)[pixel] - m.pixel_mean[pixel]) * m.pixel_rstd[pixel];
    }
  }
}

// `width` channels at once: one load of a pixel serves several filters.
template <typename T, int width>
void convolve_channels(const Model<T>& m, const Segment<T>& s, const T* image, int64_t c, T* v, Word<T>* mask) {
  const int64_t words = mask_words(s.P);
  for (int64_t word = 0; word < words; ++word) {
    Int<T> bits[width] = {};
    const int64_t end = s.P < (word + 1) * 32 ? s.P : (word + 1) * 32;
    for (int64_t p = word * 32; p < end; ++p) {
      const int32_t* taps = s.taps + p * m.J;
      Vec<T> sum[width];
      for (int i = 0; i < width; ++i) sum[i] = Vec<T>{} + m.shift[c + i];
      for (int64_t j = 0; j < m.J; ++j) {
        const Vec<T> x = at(image + taps[j] * L<T>).value;
        for (int i = 0; i < width; ++i) sum[i] += x * m.kernel[(c + i) * m.J + j];
      }
      for (int i = 0; i < width; ++i) {
        const Int<T> passing = ~(sum[i] <= 0);  // as `passes`
        at(v + (i * s.P + p) * lanes).value = passing ? sum[i] : Vec<T>{};
        bits[i] |= passing & bit<T>(p);
      }
    }
    for (int i = 0; i < width; ++i) bits_at<T>(mask + ((c + i) * words + word) * lanes).value = bits[i];
  }
}

template <typename T>
void convolve(const Model<T>& m, const Segment<T>& s, const T* image, int64_t active, int64_t c0, int64_t c1, T* v,
              Word<T>* mask) {
  for (int64_t lane = 0; lane < active; lane += L<T>, image += s.X * L<T>) {
    int64_t c = c0;
    for (; c + 4 <= c1; c += 4) convolve_channels<T, 4>(m, s, image, c, v + (c - c0) * s.P * lanes + lane, mask + lane);
    for (; c < c1; ++c) convolve_channels<T, 1>(m, s, image, c, v + (c - c0) * s.P * lanes + lane, mask + lane);
  }
}

template <typename T>
void add_squares(const T* v, int64_t rows, T* squares) {
  for (int64_t lane = 0; lane < lanes; lane += L<T>) {
    Vec<T> sum = {};
    for (int64_t f = 0; f < rows; ++f) sum += at(v + f * lanes + lane).value * at(v + f * lanes + lane).value;
    at(squares + lane).value += sum;
  }
}

// taps = 9: the statistics of one filter stay in registers. taps = 0: any number, in memory.
template <typename T, int taps>
void channel_statistics(const Model<T>& m, const Segment<T>& s, const T* image, const Word<T>* mask,
                        const int32_t* place, T* y, T* out) {
  const int64_t J = taps ? taps : m.J;
  Vec<T> total = {}, sum[taps ? taps : 1] = {};
  for (int64_t word = 0; word < mask_words(s.P); ++word) {
    Word<T> gathered[L<T>];
    for (int64_t i = 0; i < L<T>; ++i) gathered[i] = mask[word * lanes + place[i]];
    const Int<T> bits = bits_at<T>(gathered).value;
    const int64_t end = s.P < (word + 1) * 32 ? s.P : (word + 1) * 32;
    for (int64_t p = word * 32; p < end; ++p) {
      const Vec<T> value = (bits & bit<T>(p)) != 0 ? at(y + p * lanes).value : Vec<T>{};
      at(y + p * lanes).value = value;
      total += value;
      const int32_t* tap = s.taps + p * J;
      for (int64_t j = 0; j < J; ++j) {
        const Vec<T> product = value * at(image + tap[j] * L<T>).value;
        if (taps)
          sum[taps ? j : 0] += product;
        else
          at(out + j * lanes).value += product;
      }
    }
  }
  for (int64_t j = 0; j < taps; ++j) at(out + j * lanes).value += sum[j];
  at(out + J * lanes).value += total;
}

template <typename T>
void statistics(const Model<T>& m, const Segment<T>& s, const T* image, const Word<T>* mask, const int32_t* place,
                int64_t active, int64_t c0, int64_t c1, T* y, T* S) {
  const auto channel = m.J == 9 ? channel_statistics<T, 9> : channel_statistics<T, 0>;
  for (int64_t lane = 0; lane < active; lane += L<T>, image += s.X * L<T>)
    for (int64_t c = c0; c < c1; ++c)
      channel(m, s, image, mask + c * mask_words(s.P) * lanes, place + lane, y + (c - c0) * s.P * lanes + lane,
              S + c * (m.J + 1) * lanes + lane);
}

// `taps` of the windows at once, from j0 on: a window's sums over the channels stay in registers.
template <typename T, int taps>
void pixel_gradients_of(const Model<T>& m, const Segment<T>& s, const T* y, int64_t j0, int64_t c0, int64_t c1,
                        T* pixels) {
  for (int64_t p = 0; p < s.P; ++p) {
    const T* kernel = m.pixel_kernel + c0 * m.J + j0;
    Vec<T> sum[taps] = {};
    for (int64_t c = c0; c < c1; ++c, kernel += m.J) {
      const Vec<T> value = at(y + ((c - c0) * s.P + p) * lanes).value;
      for (int j = 0; j < taps; ++j) sum[j] += value * kernel[j];
    }
    for (int j = 0; j < taps; ++j) at(pixels + s.taps[p * m.J + j0 + j] * lanes).value += sum[j];
  }
}

template <typename T>
void pixel_gradients(const Model<T>& m, const Segment<T>& s, const T* y, int64_t active, int64_t c0, int64_t c1,
                     T* pixels) {
  for (int64_t lane = 0; lane < active; lane += L<T>) {
    int64_t j = 0;
    for (; j + 9 <= m.J; j += 9) pixel_gradients_of<T, 9>(m, s, y + lane, j, c0, c1, pixels + lane);
    for (; j < m.J; ++j) pixel_gradients_of<T, 1>(m, s, y + lane, j, c0, c1, pixels + lane);
  }
}

// `taps` of a window at once, from j0 on: their sums over the channels stay in registers.
template <typename T, int taps>
void pixel_jacobian_of(const Model<T>& m, const int32_t* tap, int64_t j0, const int32_t* channels, int64_t n,
                       const T* fc, int64_t width, T* table) {
  const T* kernel = m.pixel_kernel + j0;
  for (int64_t d = 0; d < width; d += L<T>) {
    Vec<T> sum[taps] = {};
    for (int64_t i = 0; i < n; ++i) {
      const Vec<T> x = at(fc + channels[i] * width + d).value;
      for (int j = 0; j < taps; ++j) sum[j] += x * kernel[channels[i] * m.J + j];
    }
    for (int j = 0; j < taps; ++j) at(table + tap[j0 + j] * width + d).value += sum[j];
  }
}

template <typename T>
void pixel_jacobian(const Model<T>& m, const int32_t* taps, const int32_t* channels, int64_t n, const T* fc,
                    int64_t width, T* table) {
  int64_t j = 0;
  for (; j + 9 <= m.J; j += 9) pixel_jacobian_of<T, 9>(m, taps, j, channels, n, fc, width, table);
  for (; j < m.J; ++j) pixel_jacobian_of<T, 1>(m, taps, j, channels, n, fc, width, table);
}

// 16 rows of 16 numbers become its columns, in four rounds of swaps between rows that are 1, 2, 4 and 8 apart.
constexpr int64_t side = 16;
#if TRACIN_VECTOR_BYTES == 64 && defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define TRACIN_LEFT(l, step) ((l) & (step) ? side + (l) - (step) : (l))
#define TRACIN_RIGHT(l, step) ((l) & (step) ? side + (l) : (l) + (step))
#define TRACIN_LANES(each, step)                                                                                   \
  each(0, step), each(1, step), each(2, step), each(3, step), each(4, step), each(5, step), each(6, step),         \
      each(7, step), each(8, step), each(9, step), each(10, step), each(11, step), each(12, step), each(13, step), \
      each(14, step), each(15, step)
template <int step>
inline void swap_apart(Vec<float>* rows) {
  for (int i = 0; i < side; ++i) {
    if (i & step) continue;
    const Vec<float> a = rows[i], b = rows[i + step];
    rows[i] = __builtin_shufflevector(a, b, TRACIN_LANES(TRACIN_LEFT, step));
    rows[i + step] = __builtin_shufflevector(a, b, TRACIN_LANES(TRACIN_RIGHT, step));
  }
}
inline bool transposed(Vec<float>* rows) {
  swap_apart<1>(rows);
  swap_apart<2>(rows);
  swap_apart<4>(rows);
  swap_apart<8>(rows);
  return true;
}
#define TRACIN_TRANSPOSES
#undef TRACIN_LEFT
#undef TRACIN_RIGHT
#undef TRACIN_LANES
#endif
#endif

// Whether a whole square of a panel, 16 samples by 16 numbers from d on, went to its rows, or the other way.
template <typename T>
inline bool square_to_rows(const T*, int64_t, int64_t, bool, T* const*) {
  return false;
}
template <typename T>
inline bool square_to_panel(const T* const*, int64_t, int64_t, bool, T*) {
  return false;
}
#ifdef TRACIN_TRANSPOSES
template <>
inline bool square_to_rows(const float* panel, int64_t lane, int64_t d, bool accumulate, float* const* rows) {
  Vec<float> square[side];
  for (int i = 0; i < side; ++i) square[i] = at(panel + (d + i) * lanes + lane).value;
  transposed(square);
  for (int i = 0; i < side; ++i) {
    VecAt<float>& out = at(rows[lane + i] + d);
    out.value = accumulate ? out.value + square[i] : square[i];
  }
  return true;
}
template <>
inline bool square_to_panel(const float* const* rows, int64_t lane, int64_t d, bool accumulate, float* panel) {
  Vec<float> square[side];
  for (int i = 0; i < side; ++i) square[i] = at(rows[lane + i] + d).value;
  transposed(square);
  for (int i = 0; i < side; ++i) {
    VecAt<float>& out = at(panel + (d + i) * lanes + lane);
    out.value = accumulate ? out.value + square[i] : square[i];
  }
  return true;
}
#endif

template <typename T>
void to_rows(const T* panel, int64_t width, int64_t n, bool accumulate, T* const* rows) {
  for (int64_t lane = 0; lane < n; lane += side)
    for (int64_t d0 = 0; d0 < width; d0 += side) {
      if (lane + side <= n && d0 + side <= width && square_to_rows(panel, lane, d0, accumulate, rows)) continue;
      const int64_t end = width < d0 + side ? width : d0 + side, last = n < lane + side ? n : lane + side;
      for (int64_t i = lane; i < last; ++i)
        for (int64_t d = d0; d < end; ++d) {
          const T value = panel[d * lanes + i];
          rows[i][d] = accumulate ? rows[i][d] + value : value;
        }
    }
}

template <typename T>
void to_panel(const T* const* rows, int64_t width, int64_t n, bool accumulate, T* panel) {
  if (!accumulate && n < lanes) memset(panel, 0, width * lanes * sizeof(T));
  for (int64_t lane = 0; lane < n; lane += side)
    for (int64_t d0 = 0; d0 < width; d0 += side) {
      if (lane + side <= n && d0 + side <= width && square_to_panel(rows, lane, d0, accumulate, panel)) continue;
      const int64_t end = width < d0 + side ? width : d0 + side, last = n < lane + side ? n : lane + side;
      for (int64_t i = lane; i < last; ++i)
        for (int64_t d = d0; d < end; ++d) {
          const T value = rows[i][d];
          panel[d * lanes + i] = accumulate ? panel[d * lanes + i] + value : value;
        }
    }
}

template <typename T>
void add(const T* from, int64_t n, T* to) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] += from[i];
}

template <typename T>
void normalise(const Model<T>& m, T* u, T* z) {
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
T loss(const Model<T>& m, const T* un, const T* z, int64_t tail, T* e, T* e_un, T* delta) {
  const T* t = m.entity + tail * m.D;
  double score = m.bias ? m.bias[tail] : T(0);  // rounded, it would change the residual by as much
#pragma omp simd reduction(+ : score)
  for (int64_t d = 0; d < m.D; ++d) score += static_cast<double>(z[d]) * t[d];
  const T w = static_cast<T>(w_of(score));
  for (int64_t d = 0; d < m.D; ++d) {
    const T value = passes(z[d]) ? w * t[d] : T(0);
    e[d] = value;
    e_un[d] = value * un[d];
    delta[d] = value * m.delta_scale[d];
  }
  return w;
}

template <typename T>
void add_halves(const T* head, const int32_t* head_of, const T* relation, const int32_t* relation_of, int64_t n,
                T* gram) {
  if (head)
    for (int64_t i = 0; i < n; ++i) gram[i] += head[head_of[i]];
  if (relation)
    for (int64_t i = 0; i < n; ++i) gram[i] += relation[relation_of[i]];
}

template <typename T>
void combine(const T* dots, const T* gram, const int32_t* pair, const T* linear, int64_t n, T rate, T fc_bias,
             T* scores) {
  if (!dots) {
    for (int64_t i = 0; i < n; ++i) scores[i] = rate * linear[i];
    return;
  }
  for (int64_t i = 0; i < n; ++i) scores[i] = rate * (dots[i] * (gram[pair[i]] + fc_bias) + linear[i]);
}

// The numbers from d on whose bits are set, others zero.
template <typename T>
inline Vec<T> chosen(const T* numbers, const int32_t* signs, int64_t d) {
  Int<T> each;
  for (int64_t l = 0; l < L<T>; ++l) each[l] = Word<T>(1) << l;
  const auto bits = static_cast<Word<T>>(static_cast<uint32_t>(signs[d / 32]) >> (d % 32) & ((1u << L<T>)-1));
  return ((each & bits) != 0) ? at(numbers + d).value : Vec<T>{};
}
template <typename T>
inline T chosen_one(const T* numbers, const int32_t* signs, int64_t d) {
  return static_cast<uint32_t>(signs[d / 32]) >> (d % 32) & 1 ? numbers[d] : T(0);
}

template <typename T>
void pair_sums(const T* entity, const int32_t* signs, const T* e, const T* e_scaled, int64_t D, T* sums) {
  Vec<T> sum[2] = {};
  int64_t d = 0;
  for (; d + L<T> <= D; d += L<T>) {
    const Vec<T> x = chosen(entity, signs, d);
    sum[0] += x * at(e + d).value;
    sum[1] += x * at(e_scaled + d).value;
  }
  for (int i = 0; i < 2; ++i) {
    sums[i] = 0;
    for (int64_t l = 0; l < L<T>; ++l) sums[i] += sum[i][l];
  }
  for (; d < D; ++d) {
    const T x = chosen_one(entity, signs, d);
    sums[0] += x * e[d];
    sums[1] += x * e_scaled[d];
  }
}

template <typename T>
T pair_un(const T* entity, const int32_t* signs, const T* un, const T* e_un, int64_t D) {
  Vec<T> sums = {};
  int64_t d = 0;
  for (; d + L<T> <= D; d += L<T>) sums += chosen(entity, signs, d) * at(un + d).value * at(e_un + d).value;
  T sum = 0;
  for (int64_t l = 0; l < L<T>; ++l) sum += sums[l];
  for (; d < D; ++d) sum += chosen_one(entity, signs, d) * un[d] * e_un[d];
  return sum;
}

template <typename T>
void angle_sums(const T* entity, const int32_t* signs, const T* scaled, const T* squares, int64_t D, T* sums) {
  Vec<T> sum[4] = {};
  int64_t d = 0;
  for (; d + L<T> <= D; d += L<T>) {
    const Vec<T> x = chosen(entity, signs, d);
    for (int i = 0; i < 2; ++i) {
      sum[i] += x * at(scaled + i * D + d).value;
      sum[2 + i] += x * x * at(squares + i * D + d).value;
    }
  }
  for (int i = 0; i < 4; ++i) {
    sums[i] = 0;
    for (int64_t l = 0; l < L<T>; ++l) sums[i] += sum[i][l];
  }
  for (; d < D; ++d) {
    const T x = chosen_one(entity, signs, d);
    for (int i = 0; i < 2; ++i) {
      sums[i] += x * scaled[i * D + d];
      sums[2 + i] += x * x * squares[i * D + d];
    }
  }
}

template <typename T>
void scaled_squares(const T* panel, int64_t rows, const double* scale, double* squares) {
  double sum[lanes] = {};
  for (int64_t d = 0; d < rows; ++d)
#pragma omp simd
    for (int64_t l = 0; l < lanes; ++l) {
      const double x = scale[l] * panel[d * lanes + l];
      sum[l] += x * x;
    }
  for (int64_t l = 0; l < lanes; ++l) squares[l] += sum[l];
}

// Of each channel, half of the symmetric block and the diagonal: x_k (B_kk x_k + 2 sum over l < k of B_kl x_l).
template <typename T>
void form_squares(const Form<T>& form, int64_t C, int64_t J, const T* S, const double* scale, double* space,
                  double* squares) {
  const int64_t n = J + 1;
  double sum[lanes] = {};
  for (int64_t c = 0; c < C; ++c) {
    const T *block = form.blocks + c * n * n, *panel = S + c * n * lanes;
    for (int64_t k = 0; k < n; ++k) {
      double *x = space + k * lanes, row[lanes];
      const double own = block[k * n + k] + form.slack;
#pragma omp simd
      for (int64_t l = 0; l < lanes; ++l) {
        x[l] = scale[l] * panel[k * lanes + l];
        row[l] = own * x[l];
      }
      for (int64_t j = 0; j < k; ++j) {
        const double twice = 2 * static_cast<double>(block[k * n + j]), *other = space + j * lanes;
#pragma omp simd
        for (int64_t l = 0; l < lanes; ++l) row[l] += twice * other[l];
      }
#pragma omp simd
      for (int64_t l = 0; l < lanes; ++l) sum[l] += row[l] * x[l];
    }
  }
  for (int64_t i = 0; i < form.count; ++i) {
    double row[lanes] = {};
    for (int64_t s = 0; s < C * n; ++s) {
      const double x = form.rows[i * C * n + s];
#pragma omp simd
      for (int64_t l = 0; l < lanes; ++l) row[l] += x * S[s * lanes + l];
    }
    for (int64_t l = 0; l < lanes; ++l) sum[l] += scale[l] * row[l] * scale[l] * row[l];
  }
  for (int64_t l = 0; l < lanes; ++l) squares[l] += sum[l] > 0 ? sum[l] : 0 * sum[l];  // NaN stays
}

template <typename T>
void along_basis(const T* panel, int64_t rows, const double* scale, const double* basis, double* out) {
  constexpr int64_t some = 8;  // lanes whose sums stay in registers
  for (int64_t from = 0; from < lanes; from += some) {
    double sums[sketch_parts][some] = {};
    for (int64_t s = 0; s < rows; ++s) {
      double x[some];
#pragma omp simd
      for (int64_t l = 0; l < some; ++l) x[l] = scale[from + l] * panel[s * lanes + from + l];
      for (int64_t p = 0; p < sketch_parts; ++p)
#pragma omp simd
        for (int64_t l = 0; l < some; ++l) sums[p][l] += basis[s * sketch_parts + p] * x[l];
    }
    for (int64_t p = 0; p < sketch_parts; ++p)
      for (int64_t l = 0; l < some; ++l) out[p * lanes + from + l] = sums[p][l];
  }
}

template <typename T>
T sketch_share(const int8_t* sketch, const T* test) {
  T products[sketch_parts + 1], sum = 0;
#pragma omp simd
  for (int64_t p = 0; p <= sketch_parts; ++p) products[p] = static_cast<T>(sketch[p]) * test[p];
  const T left = products[sketch_parts];
  products[sketch_parts] = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t p = 0; p <= sketch_parts; ++p) sum += products[p];
  return (sum < 0 ? -sum : sum) + left;
}

template <typename T>
double row_square(const T* a, int64_t n, double scale) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += (scale * a[i]) * (scale * a[i]);
  return sum;
}

template <typename T>
void bounds(const T* norms, int64_t stride, int64_t parts, const T* test, int64_t n, T* out) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) out[i] = test[0] * norms[i];
  for (int64_t part = 1; part < parts; ++part) {
    const T x = test[part], *row = norms + part * stride;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) out[i] += x * row[i];
  }
}

template <typename T>
constexpr Loops<T> table = {multiply<T>,        gather_images<T>,  convolve<T>,   add_squares<T>,    statistics<T>,
                            pixel_gradients<T>, pixel_jacobian<T>, to_rows<T>,    to_panel<T>,       add<T>,
                            normalise<T>,       loss<T>,           add_halves<T>, combine<T>,        dot<T>,
                            pair_sums<T>,       pair_un<T>,        angle_sums<T>, scaled_squares<T>, form_squares<T>,
                            along_basis<T>,     sketch_share<T>,   row_square<T>, bounds<T>};
}  // namespace

extern const Loops<float> float_loops;
extern const Loops<double> double_loops;
const Loops<float> float_loops = table<float>;
const Loops<double> double_loops = table<double>;

}  // namespace tracin::cpu::TRACIN_ISA
