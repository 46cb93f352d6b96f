#include "factors.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

namespace tracin::cpu {
namespace {

constexpr double kink = 1e-5;          // pre-activations this close to ReLU's kink are settled in double
constexpr int64_t head_panels = 4;     // panels of heads that go through the forward pass together
constexpr int64_t jacobian_from = 12;  // samples of a head that repay its Jacobian; bench/limits.py counts with it

// Buffers of one thread, kept from block to block.
template <typename T>
struct Scratch {
  Buffer<T> image, v, u, un, y, delta, error, normalised, pixels, statistics;
  Buffer<uint16_t> narrow;
  Buffer<Word<T>> mask;
  Buffer<T> gram;
  std::vector<int64_t> heads, relations;
  std::vector<int32_t> samples;
  std::vector<T*> pointers;
};

template <typename T>
Scratch<T>& scratch() {
  thread_local Scratch<T> space;
  return space;
}

// One part of the image for up to a few panels of heads or pairs: u and v . v' add up over chunks of channels, so that
// v never leaves the cache.
template <typename T>
void forward(const Model<T>& m, const Segment<T>& s, const int64_t* heads, const int64_t* relations, int64_t n,
             const T* features, const uint16_t* narrow_features, int64_t tests, const Products<T>& products,
             Scratch<T>& space, Word<T>* mask, T* u, T* gram, int64_t gram_stride, T* squares) {
  const Loops<T>& loop = loops<T>();
  const int64_t groups = panels(n), active = active_lanes(n), image_size = s.X * lanes;
  const int64_t u_stride = padded(m.D, products.height) * lanes, v_stride = s.step * s.P * lanes;
  T* image = space.image.sized(groups * image_size);
  T* v = space.v.sized(groups * v_stride);
  for (int64_t g = 0; g < groups; ++g)
    loop.gather_images(m, s, heads + g * lanes, relations + g * lanes, std::min(lanes, n - g * lanes),
                       image + g * image_size);
  for (int64_t c0 = 0; c0 < m.C; c0 += s.step) {
    const int64_t c1 = std::min(m.C, c0 + s.step), k = (c1 - c0) * s.P;
    for (int64_t g = 0; g < groups; ++g) {
      loop.convolve(m, s, image + g * image_size, g + 1 < groups ? lanes : active, c0, c1, v + g * v_stride,
                    mask + g * mask_size(m, s));
      if (squares) loop.add_squares(v + g * v_stride, k, squares + g * lanes);
    }
    products.multiply(chunk_operand(s, s.forward, m.D, c0, c1, products.height), 0, m.D, 0, k, v, v_stride, groups,
                      active, c0 > 0, u, u_stride);
    if (narrow_features) {
      const int64_t narrow_stride = round_up(k, 2) * lanes;
      uint16_t* narrow = space.narrow.sized(groups * narrow_stride);
      narrow_panels(products, v, v_stride, k, groups, narrow);
      narrow_multiply(products, narrow_chunk(s, narrow_features, tests, c0, c1), 0, tests, narrow, narrow_stride,
                      groups, active, c0 > 0, gram, gram_stride);
    } else if (features)
      products.multiply(chunk_operand(s, features, tests, c0, c1, products.height), 0, tests, 0, k, v, v_stride, groups,
                        active, c0 > 0, gram, gram_stride);
  }
}

// Statistics (and, for the middle, pixel gradients) of up to `tile` samples through one part of the image.
// `place` [n]: where a sample's column of the mask starts, from `mask`.
template <typename T>
void backward(const Model<T>& m, const Segment<T>& s, const int64_t* heads, const int64_t* relations, int64_t n,
              const T* delta, const Word<T>* mask, const int32_t* place, const Products<T>& products, Scratch<T>& space,
              T* statistics, int64_t statistics_stride, T* pixels) {
  const Loops<T>& loop = loops<T>();
  const int64_t groups = panels(n), image_size = s.X * lanes;
  T* image = space.image.sized(groups * image_size);
  for (int64_t g = 0; g < groups; ++g)
    loop.gather_images(m, s, heads + g * lanes, relations + g * lanes, std::min(lanes, n - g * lanes),
                       image + g * image_size);
  const int64_t high = padded(s.step * s.P, products.height);
  T* y = space.y.sized(high * lanes);
  const int64_t narrow_k = round_up(m.D, 2);
  uint16_t* narrow = nullptr;
  if (s.narrow_backward) {
    narrow = space.narrow.sized(groups * narrow_k * lanes);
    narrow_panels(products, delta, m.D * lanes, m.D, groups, narrow);
  }
  for (int64_t c0 = 0, i = 0; c0 < m.C; c0 += s.step, ++i) {
    const int64_t c1 = std::min(m.C, c0 + s.step), rows = (c1 - c0) * s.P;
    const Operand<T> a = {s.backward + i * high * m.D, rows, m.D, products.height ? products.height : rows};
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t active = g + 1 < groups ? lanes : active_lanes(n);
      if (narrow)
        narrow_multiply(products, {s.narrow_backward + i * high * narrow_k, rows, narrow_k, operand_height}, 0, rows,
                        narrow + g * narrow_k * lanes, 0, 1, active, false, y, 0);
      else
        products.multiply(a, 0, rows, 0, m.D, delta + g * m.D * lanes, 0, 1, active, false, y, 0);
      loop.statistics(m, s, image + g * image_size, mask, place + g * lanes, active, c0, c1, y,
                      statistics + g * statistics_stride);
      if (pixels) loop.pull_back(m, s, y, active, c0, c1, pixels + g * s.X * lanes);
    }
  }
}

// BN2's pre-activations of one pair, in double.
template <typename T>
class ExactPair {
 public:
  ExactPair(const Model<T>& m, int64_t head, int64_t relation) : m_(m), v_(m.C * m.P) {
    const int64_t D = m.D;
    const T* h = m.entity + head * D;
    const T* r = m.relation + relation * m.relation_step * D;
    std::vector<double> x(2 * D);
    for (int64_t d = 0; d < 2 * D; ++d)
      x[d] = (static_cast<double>(d < D ? h[d] : r[d - D]) - m.exact_pixel[d]) * m.exact_pixel[2 * D + d];
    for (int64_t c = 0; c < m.C; ++c)
      for (int64_t p = 0; p < m.P; ++p) {
        double sum = m.exact_shift[c];
        for (int64_t j = 0; j < m.J; ++j) sum += m.exact_kernel[c * m.J + j] * x[m.taps[p * m.J + j]];
        v_[c * m.P + p] = sum > 0 ? sum : 0;
      }
  }
  T pre_activation(int64_t d) const {
    double u = 0;
    for (int64_t f = 0; f < m_.C * m_.P; ++f) u += static_cast<double>(m_.fc[d * m_.C * m_.P + f]) * v_[f];
    return static_cast<T>(m_.exact_hidden[d] * u + m_.exact_hidden[m_.D + d]);
  }

 private:
  const Model<T>& m_;
  std::vector<double> v_;
};

// Float32 must take float64's side of ReLU's kink: one unit on the wrong side moves a score by percents.
template <typename T>
void settle_kinks(const Model<T>& m, int64_t head, int64_t relation, T* z) {
  std::unique_ptr<ExactPair<T>> exact;
  for (int64_t d = 0; d < m.D; ++d) {
    if (std::fabs(z[d]) >= kink * std::fmax(1.0, std::fabs(m.scale[d]))) continue;
    if (!exact) exact = std::make_unique<ExactPair<T>>(m, head, relation);
    z[d] = exact->pre_activation(d);
  }
}

template <typename T>
void index_samples(const Model<T>& m, const int64_t* triples, int64_t B, Block<T>& b) {
  b.B = B;
  b.width = m.D + m.middle.X;
  b.columns = 2 * m.D + m.statistics();
  for (auto* ids : {&b.heads, &b.relations, &b.tails, &b.head_ids}) ids->resize(B);
  for (auto* rows : {&b.head, &b.pair, &b.pair_head, &b.pair_relation}) rows->resize(B);
  b.pairs.assign((B + tile - 1) / tile, 0);
  b.H = 0;
  for (int64_t i = 0; i < B; ++i) {
    b.heads[i] = triples[3 * i], b.relations[i] = triples[3 * i + 1], b.tails[i] = triples[3 * i + 2];
    if (!b.H || b.head_ids[b.H - 1] != b.heads[i]) b.head_ids[b.H++] = b.heads[i];
    b.head[i] = static_cast<int32_t>(b.H - 1);
    int64_t& pairs = b.pairs[i / tile];
    const int64_t first = i / tile * tile;
    if (!pairs || b.heads[i] != b.heads[i - 1] || b.relations[i] != b.relations[i - 1]) {
      b.pair_head[first + pairs] = b.head[i];
      b.pair_relation[first + pairs++] = static_cast<int32_t>(b.relations[i]);
    }
    b.pair[i] = static_cast<int32_t>(first + pairs - 1);
  }
}

// The head's half, once per distinct head.
template <typename T>
void forward_heads(const Model<T>& m, const Gram<T>* gram, const Products<T>& products, Block<T>& b, int64_t item) {
  Scratch<T>& space = scratch<T>();
  const Loops<T>& loop = loops<T>();
  const int64_t first = item * head_panels * lanes, n = std::min(b.H - first, head_panels * lanes);
  const int64_t u_stride = padded(m.D, products.height) * lanes;
  T* u = space.u.sized(head_panels * u_stride);
  const int64_t gram_stride = gram ? padded(gram->heads, products.height) * lanes : 0;
  const int64_t* heads = b.head_ids.data() + first;
  forward(m, m.head, heads, heads, n, gram ? gram->head_features : nullptr, gram ? gram->narrow_head : nullptr,
          gram ? gram->heads : 0, products, space, b.head_mask.data() + first / lanes * mask_size(m, m.head), u,
          gram ? b.head_gram.data() + first / lanes * gram_stride : nullptr, gram_stride, static_cast<T*>(nullptr));
  T* rows[lanes];
  for (int64_t g = 0; g < panels(n); ++g) {
    const int64_t count = std::min(lanes, n - g * lanes);
    for (int64_t i = 0; i < count; ++i) rows[i] = b.head_u.data() + (first + g * lanes + i) * m.D;
    loop.to_rows(u + g * u_stride, m.D, count, false, rows);
  }
}

// Adds the halves to v . v' of a tile's pairs [padded tests][tile].
template <typename T>
void assemble_gram(const Model<T>& m, const Gram<T>& gram, const Products<T>& products, const Block<T>& b,
                   int64_t first, int64_t n, const T* middle, int64_t middle_stride, T* out) {
  const Loops<T>& loop = loops<T>();
  const int64_t head_stride = padded(gram.heads, products.height) * lanes;
  int32_t place[tile];
  for (int64_t i = 0; i < n; ++i) {
    const int64_t head = b.pair_head[first + i];
    place[i] = static_cast<int32_t>(head / lanes * head_stride + head % lanes);
  }
  for (int64_t q = 0; q < gram.pairs; ++q) {
    T* row = out + q * tile;
    for (int64_t g = 0; g < panels(n); ++g)
      std::memcpy(row + g * lanes, middle + g * middle_stride + q * lanes, lanes * sizeof(T));
    const T* head = m.head.P ? b.head_gram.data() + gram.pair_head[q] * lanes : nullptr;
    const T* tail = m.tail.P ? gram.tail_gram + gram.pair_relation[q] * m.relations : nullptr;
    loop.add_halves(head, place, tail, b.pair_relation.data() + first, n, row);
  }
}

// Forward pass of a tile's pairs: the middle, and what the halves left; z and un by slot.
template <typename T>
void forward_pairs(const Model<T>& m, const Wanted<T>& wanted, const Products<T>& products, Scratch<T>& space,
                   Block<T>& b, int64_t item, T* un) {
  const Loops<T>& loop = loops<T>();
  const int64_t first = item * tile, n = b.pairs[item], D = m.D, u_stride = padded(D, products.height) * lanes;
  space.heads.resize(tile);
  space.relations.resize(tile);
  for (int64_t i = 0; i < n; ++i) {
    space.heads[i] = b.head_ids[b.pair_head[first + i]];
    space.relations[i] = b.pair_relation[first + i];
  }
  T* u = space.u.sized(panels(tile) * u_stride);
  const int64_t gram_stride = wanted.gram ? padded(wanted.gram->pairs, products.height) * lanes : 0;
  T* gram = wanted.gram ? space.gram.sized(panels(tile) * gram_stride) : nullptr;
  T* squares = wanted.squares ? b.squares.data() + first : nullptr;
  if (squares) std::fill(squares, squares + round_up(n, lanes), T(0));
  Word<T>* mask = space.mask.sized(panels(tile) * mask_size(m, m.middle));
  forward(m, m.middle, space.heads.data(), space.relations.data(), n,
          wanted.gram ? wanted.gram->middle_features : nullptr, wanted.gram ? wanted.gram->narrow_middle : nullptr,
          wanted.gram ? wanted.gram->pairs : 0, products, space, mask, u, gram, gram_stride, squares);
  if (wanted.gram)
    assemble_gram(m, *wanted.gram, products, b, first, n, gram, gram_stride,
                  b.gram.data() + item * padded(wanted.gram->pairs, products.height) * tile);
  T* rows[lanes];
  for (int64_t g = 0; g < panels(n); ++g) {
    const int64_t count = std::min(lanes, n - g * lanes);
    for (int64_t i = 0; i < count; ++i) rows[i] = un + (g * lanes + i) * D;
    loop.to_rows(u + g * u_stride, D, count, false, rows);
  }
  for (int64_t i = 0; i < n; ++i) {
    T* row = un + i * D;
    T* z = b.z.data() + (first + i) * D;
    if (m.head.P) {
      const T* head = b.head_u.data() + b.pair_head[first + i] * D;
      const T* tail = m.relation_u + b.pair_relation[first + i] * D;
      for (int64_t d = 0; d < D; ++d) row[d] += head[d] + tail[d];
    }
    loop.normalise(m, row, z);
    if (m.exact_pixel) settle_kinks(m, space.heads[i], space.relations[i], z);
    for (int64_t d = 0; d < D; ++d) z[d] = z[d] > 0 ? z[d] : T(0);
  }
}

// Where the mask columns of samples start: column `index` of panels of `size` words.
inline void place_masks(const int32_t* index, int64_t n, int64_t size, int32_t* place) {
  for (int64_t i = 0; i < n; ++i) place[i] = static_cast<int32_t>(index[i] / lanes * size + index[i] % lanes);
  for (int64_t i = n; i < round_up(n, lanes); ++i) place[i] = 0;
}

// The half's statistics of the samples in `samples` of a tile, without a Jacobian.
template <typename T>
void backward_half(const Model<T>& m, const Segment<T>& s, const Word<T>* mask, const std::vector<int32_t>& samples,
                   const std::vector<int32_t>& columns, bool accumulate, const Products<T>& products, Scratch<T>& space,
                   Block<T>& b) {
  const Loops<T>& loop = loops<T>();
  const int64_t n = static_cast<int64_t>(samples.size()), S = m.statistics();
  if (!n) return;
  int32_t place[tile];
  place_masks(columns.data(), n, mask_size(m, s), place);
  T* delta = space.delta.sized(panels(tile) * m.D * lanes);
  const T* sources[lanes];
  for (int64_t i = 0; i < n; ++i) {
    space.heads[i] = b.heads[samples[i]];
    space.relations[i] = b.relations[samples[i]];
  }
  for (int64_t g = 0; g < panels(n); ++g) {
    const int64_t count = std::min(lanes, n - g * lanes);
    for (int64_t i = 0; i < count; ++i) sources[i] = b.rows.data() + samples[g * lanes + i] * b.width;
    loop.to_panel(sources, m.D, count, false, delta + g * m.D * lanes);
  }
  T* out = space.statistics.sized(panels(tile) * S * lanes);
  std::fill(out, out + panels(n) * S * lanes, T(0));
  backward(m, s, space.heads.data(), space.relations.data(), n, delta, mask, place, products, space, out, S * lanes,
           static_cast<T*>(nullptr));
  T* rows[lanes];
  for (int64_t g = 0; g < panels(n); ++g) {
    const int64_t count = std::min(lanes, n - g * lanes);
    for (int64_t i = 0; i < count; ++i) rows[i] = b.half_statistics.data() + samples[g * lanes + i] * S;
    loop.to_rows(out + g * S * lanes, S, count, accumulate, rows);
  }
}

// A relation's half without Jacobians: forward for the masks, then backward.
template <typename T>
void backward_tail(const Model<T>& m, const std::vector<int32_t>& samples, const Products<T>& products,
                   Scratch<T>& space, Block<T>& b) {
  const Loops<T>& loop = loops<T>();
  const int64_t n = static_cast<int64_t>(samples.size());
  Word<T>* mask = space.mask.sized(panels(tile) * mask_size(m, m.tail));
  T* image = space.image.sized(m.tail.X * lanes);
  T* v = space.v.sized(m.tail.step * m.tail.P * lanes);
  std::vector<int32_t> columns(n);
  for (int64_t i = 0; i < n; ++i) columns[i] = static_cast<int32_t>(i);
  for (int64_t g = 0; g < panels(n); ++g) {
    const int64_t count = std::min(lanes, n - g * lanes);
    const int64_t* relations = b.relations.data() + samples[g * lanes];
    loop.gather_images(m, m.tail, b.heads.data() + samples[g * lanes], relations, count, image);
    for (int64_t c0 = 0; c0 < m.C; c0 += m.tail.step)
      loop.convolve(m, m.tail, image, round_up(count, 16), c0, std::min(m.C, c0 + m.tail.step), v,
                    mask + g * mask_size(m, m.tail));
  }
  backward_half(m, m.tail, mask, samples, columns, true, products, space, b);
}

// Both passes of one tile; S of the halves by Jacobian is added later.
template <typename T>
void compute_tile(const Model<T>& m, const Wanted<T>& wanted, const Products<T>& products, Block<T>& b, int64_t item) {
  Scratch<T>& space = scratch<T>();
  const Loops<T>& loop = loops<T>();
  const int64_t first = item * tile, n = std::min(tile, b.B - first), D = m.D, S = m.statistics();
  T* un = space.un.sized(tile * D);
  forward_pairs(m, wanted, products, space, b, item, un);

  T* error = space.error.sized(tile * D);
  T* normalised = space.normalised.sized(tile * D);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t slot = b.pair[first + i];
    b.w.data()[first + i] = loop.residual(m, un + (slot - first) * D, b.z.data() + slot * D, b.tails[first + i],
                                          error + i * D, normalised + i * D, b.rows.data() + (first + i) * b.width);
  }
  const T* sources[lanes];
  T* rows[lanes];
  const int64_t panel = b.columns * lanes;
  T* linear = b.linear.data() + first / lanes * panel;
  T* delta = space.delta.sized(panels(tile) * D * lanes);
  for (int64_t g = 0; g < panels(n); ++g) {
    const int64_t count = std::min(lanes, n - g * lanes);
    const auto put = [&](const T* from, int64_t stride, T* to) {
      for (int64_t i = 0; i < count; ++i) sources[i] = from + (g * lanes + i) * stride;
      loop.to_panel(sources, D, count, false, to);
    };
    put(error, D, linear + g * panel);
    put(normalised, D, linear + g * panel + D * lanes);
    put(b.rows.data() + first * b.width, b.width, delta + g * D * lanes);
    std::fill(linear + g * panel + 2 * D * lanes, linear + (g + 1) * panel, T(0));
  }
  if (!wanted.statistics && !wanted.pixels) return;

  int32_t index[tile], place[tile];
  for (int64_t i = 0; i < n; ++i) index[i] = b.pair[first + i] - static_cast<int32_t>(first);
  place_masks(index, n, mask_size(m, m.middle), place);
  T* pixels = wanted.pixels ? space.pixels.sized(panels(tile) * m.middle.X * lanes) : nullptr;
  if (pixels) std::fill(pixels, pixels + panels(n) * m.middle.X * lanes, T(0));
  backward(m, m.middle, b.heads.data() + first, b.relations.data() + first, n, delta, space.mask.data(), place,
           products, space, linear + 2 * D * lanes, panel, pixels);
  for (int64_t g = 0; pixels && g < panels(n); ++g) {
    const int64_t count = std::min(lanes, n - g * lanes);
    for (int64_t i = 0; i < count; ++i) rows[i] = b.rows.data() + (first + g * lanes + i) * b.width + D;
    loop.to_rows(pixels + g * m.middle.X * lanes, m.middle.X, count, false, rows);
  }
  if (!wanted.statistics || !m.head.P) return;

  space.samples.clear();
  std::vector<int32_t> columns;
  for (int64_t i = first; i < first + n; ++i) {
    if (b.by_jacobian[b.head[i]]) {
      std::fill(b.half_statistics.data() + i * S, b.half_statistics.data() + (i + 1) * S, T(0));
      continue;
    }
    space.samples.push_back(static_cast<int32_t>(i));
    columns.push_back(b.head[i]);
  }
  backward_half(m, m.head, b.head_mask.data(), space.samples, columns, false, products, space, b);
  if (m.jacobians) return;
  space.samples.resize(n);
  for (int64_t i = 0; i < n; ++i) space.samples[i] = static_cast<int32_t>(first + i);
  backward_tail(m, space.samples, products, space, b);
}

}  // namespace

template <typename T>
void compute_factors(const Model<T>& m, const Wanted<T>& wanted, const int64_t* triples, int64_t B,
                     const Products<T>& products, const Parallel& parallel, Block<T>& b) {
  index_samples(m, triples, B, b);
  const int64_t tiles = static_cast<int64_t>(b.pairs.size()), D = m.D, S = m.statistics();
  b.z.sized(B * D);
  b.w.sized(B);
  b.rows.sized(B * b.width);
  b.linear.sized(panels(B) * b.columns * lanes);
  if (wanted.squares) b.squares.sized(tiles * tile);
  if (wanted.gram) b.gram.sized(tiles * padded(wanted.gram->pairs, products.height) * tile);
  b.by_jacobian.assign(b.H, 0);
  if (m.head.P) {
    b.head_u.sized(b.H * D);
    b.head_mask.sized(panels(b.H) * mask_size(m, m.head));
    if (wanted.gram) b.head_gram.sized(panels(b.H) * padded(wanted.gram->heads, products.height) * lanes);
    if (wanted.statistics) {
      b.half_statistics.sized(B * S);
      std::vector<int32_t> counts(b.H, 0);
      for (int64_t i = 0; i < B; ++i) ++counts[b.head[i]];
      for (int64_t h = 0; h < b.H; ++h) b.by_jacobian[h] = counts[h] >= jacobian_from;
    }
    parallel((panels(b.H) + head_panels - 1) / head_panels,
             [&](int64_t item) { forward_heads(m, wanted.gram, products, b, item); });
  }
  parallel(tiles, [&](int64_t item) { compute_tile(m, wanted, products, b, item); });
  if (!wanted.statistics || !m.head.P) return;
  statistics_by_jacobians(m, products, parallel, b);
  parallel(panels(B), [&](int64_t g) {
    const T* rows[lanes];
    const int64_t n = std::min(lanes, B - g * lanes);
    for (int64_t i = 0; i < n; ++i) rows[i] = b.half_statistics.data() + (g * lanes + i) * S;
    loops<T>().to_panel(rows, S, n, true, b.linear.data() + (g * b.columns + 2 * D) * lanes);
  });
}

template void compute_factors(const Model<float>&, const Wanted<float>&, const int64_t*, int64_t,
                              const Products<float>&, const Parallel&, Block<float>&);
template void compute_factors(const Model<double>&, const Wanted<double>&, const int64_t*, int64_t,
                              const Products<double>&, const Parallel&, Block<double>&);
}  // namespace tracin::cpu
