// The gradient at a half's pixels as a linear map of delta: one matrix [X, D] per head or relation serves all of its
// samples. Building one costs J times a sample's backward pass through the half, less the features whose sign is
// negative; applying it 2 X D.
#include <algorithm>

#include "passes.h"

namespace tracin {
namespace cpu {
namespace {

// Buffers of one thread, kept from block to block.
template <typename T>
struct PixelScratch {
  Buffer<T> rows;
  std::vector<int32_t> channels;
};

template <typename T>
PixelScratch<T>& pixel_scratch() {
  thread_local PixelScratch<T> space;
  return space;
}

}  // namespace

template <typename T>
void half_pixel_jacobians(const Pass<T>& pass, const T* fc, T* const* tables) {
  const Loops<T>& loop = loops<T>();
  PixelScratch<T>& space = pixel_scratch<T>();
  const Model<T>& m = pass.m;
  const Segment<T>& s = pass.s;
  const int64_t words = mask_words(s.P), width = round_up(m.D, 16), n = pass.n;
  const T* image = pass.images().data;
  T* v = scratch<T>().v.sized(s.step * s.P * lanes);
  Word<T>* mask = scratch<T>().mask.sized(mask_size(m, s));
  for (int64_t c0 = 0; c0 < m.C; c0 += s.step)
    loop.convolve(m, s, image, round_up(n, 16), c0, std::min(m.C, c0 + s.step), v, mask);
  T* rows = space.rows.sized(n * s.X * width);
  std::fill_n(rows, n * s.X * width, T(0));
  space.channels.resize(m.C);
  int32_t* channels = space.channels.data();
  for (int64_t p = 0; p < s.P; ++p)
    for (int64_t i = 0; i < n; ++i) {
      int64_t passing = 0;
      for (int64_t c = 0; c < m.C; ++c) {
        const auto bits = static_cast<uint32_t>(mask[(c * words + p / 32) * lanes + i]);
        channels[passing] = static_cast<int32_t>(c);
        passing += bits >> (p % 32) & 1;
      }
      loop.pixel_jacobian(m, s.taps + p * m.J, channels, passing, fc + p * m.C * width, width, rows + i * s.X * width);
    }
  for (int64_t i = 0; i < n; ++i) {
    const T* of = rows + i * s.X * width;
    const Panels<T> table = {tables[i], m.D, s.X, m.D * lanes};
    table.gather([&](int64_t x) { return of + x * width; });
  }
}

template void half_pixel_jacobians(const Pass<float>&, const float*, float* const*);
template void half_pixel_jacobians(const Pass<double>&, const double*, double* const*);

}  // namespace cpu

template <typename T>
void relation_pixels(const Model<T>& m, const T* relation_fc, T* pixels, const Parallel& parallel) {
  constexpr int64_t together = 4;  // relations that share what is read of fc
  const Segment<T>& s = m.relation_half;
  const int64_t size = round_up(s.X, lanes) * m.D;
  parallel((m.relations + together - 1) / together, [&](int64_t item) {
    const int64_t first = item * together, n = std::min(together, m.relations - first);
    const int64_t no_heads[lanes] = {};
    int64_t ids[lanes] = {};
    T* tables[lanes] = {};
    for (int64_t i = 0; i < n; ++i) {
      ids[i] = first + i;
      tables[i] = pixels + (first + i) * size;
    }
    cpu::half_pixel_jacobians<T>({m, s, Products<T>{}, no_heads, ids, n}, relation_fc, tables);
  });
}

template void relation_pixels(const Model<float>&, const float*, float*, const Parallel&);
template void relation_pixels(const Model<double>&, const double*, double*, const Parallel&);

}  // namespace tracin
