// The factors of a block of triples, kept by row, and the norms of their gradients' parts. No pairs.
#include <algorithm>
#include <cmath>
#include <limits>

#include "factors.h"

namespace tracin {
namespace {

using cpu::Block;
using cpu::Range;

// A sample's gradient is a multiple of its w: norms are those of gradient / |w|, whose squares neither vanish nor
// overflow where a score saturates the loss, times |w|.
constexpr double least_w = 1e-300;

template <typename T>
T root_rounded_up(double square, double w) {
  const double root = std::sqrt(square) * w * (1 + 4 * static_cast<double>(std::numeric_limits<T>::epsilon()));
  const T rounded = static_cast<T>(root);
  return rounded > 0 || !(root > 0) ? rounded : std::numeric_limits<T>::denorm_min();
}

// From the parts of S along a basis, `lanes` apart, and its squared norm, in any common scale.
void write_sketch(const double* along, double square, int8_t* sketch) {
  const bool known = square > 0 && std::isfinite(square);
  const double length = std::sqrt(square);
  double left = 1;
  for (int64_t p = 0; p < sketch_parts; ++p) {
    const double share = known ? std::clamp(along[p * lanes] / length, -1.0, 1.0) : 0;
    sketch[p] = static_cast<int8_t>(sketch_steps * share + (share < 0 ? -0.5 : 0.5));
    left -= share * share;
  }
  constexpr double rounding = 1e-9;  // of the squares
  const double rest = std::ceil(sketch_steps * std::sqrt(std::max(left, 0.0) + rounding));
  sketch[sketch_parts] = static_cast<int8_t>(std::min<double>(rest, sketch_steps));
}

// Norms of a panel's samples, [r.n, norm_parts], and their sketches if there is a basis.
template <typename T>
void norms_of(const Model<T>& m, const Tracked<T>& on, const Form<T>& form, const Block<T>& b, Range r, T* norms,
              const double* basis = nullptr, int8_t* sketches = nullptr) {
  thread_local cpu::Buffer<double> space;
  const cpu::Loops<T>& loop = cpu::loops<T>();
  const int64_t D = m.D;
  double w[lanes] = {}, scale[lanes] = {}, e[lanes] = {}, e_un[lanes] = {}, S[lanes] = {};
  for (int64_t l = 0; l < r.n; ++l) {
    w[l] = std::fmax(std::fabs(static_cast<double>(b.w.data()[r.first + l])), least_w);
    scale[l] = 1 / w[l];
  }
  if (on.bn2_bias) loop.scaled_squares(b.e(r).data, D, scale, e);
  if (on.bn2_weight) loop.scaled_squares(b.e_un(r).data, D, scale, e_un);
  if (form.blocks) loop.form_squares(form, m.C, m.J, b.S(r).data, scale, space.sized((m.J + 1) * lanes), S);
  if (basis) {
    double* along = space.sized(sketch_parts * lanes);
    loop.along_basis(b.S(r).data, m.size_S(), scale, basis, along);
    for (int64_t l = 0; l < r.n; ++l) write_sketch(along + l, S[l], sketches + l * (sketch_parts + 1));
  }
  for (int64_t l = 0; l < r.n; ++l) {
    const int64_t i = r.first + l, slot = b.pair[i];
    const double own = b.w.data()[i] / w[l];  // -1, or 0
    double squares[norm_parts] = {};
    squares[part_S] = S[l], squares[part_e] = e[l], squares[part_e_un] = e_un[l];
    if (on.fc)
      squares[part_fc] =
          loop.row_square(b.delta(i), D, scale[l]) * (static_cast<double>(b.squares.data()[slot]) + on.fc_bias);
    if (on.relation) squares[part_relation] = loop.row_square(b.q(i), D, scale[l]);
    if (on.entity) {
      squares[part_head] = loop.row_square(b.c(i), D, scale[l]);
      squares[part_tail] = own * own * loop.row_square(b.z.data() + slot * D, D, 1);
    }
    if (on.bias) squares[part_bias] = own * own;
    for (int64_t p = 0; p < norm_parts; ++p) norms[l * norm_parts + p] = root_rounded_up<T>(squares[p], w[l]);
  }
}

// Rows of a panel's samples.
template <typename T>
void keep_panel(const Model<T>& m, const Block<T>& b, Range r, int64_t first, const Factors<T>& to) {
  const int64_t D = m.D, size_S = m.size_S();
  if (to.S) b.S(r).scatter([&](int64_t i) { return to.S + (first + r.first + i) * size_S; });
  for (int64_t i = r.first; i < r.first + r.n; ++i) {
    const int64_t row = first + i;
    to.w[row] = b.w.data()[i];
    if (to.c) std::copy_n(b.c(i), D, to.c + row * D);
    if (to.q) std::copy_n(b.q(i), D, to.q + row * D);
  }
}

// What the norms need of a block's factors, and what is kept of them beside.
template <typename T>
void compute(const Model<T>& m, const Tracked<T>& on, const Form<T>& form, const cpu::Kept<T>* kept,
             const int64_t* triples, int64_t B, const Products<T>& products, const Parallel& parallel, Block<T>& b) {
  const bool image = on.entity || on.relation;
  const cpu::Wanted<T> wanted = {nullptr, form.blocks != nullptr, image, true, image, &on.halves, kept};
  cpu::compute_factors(m, wanted, triples, B, products, parallel, b);
}

}  // namespace

template <typename T>
void factor_block(const Model<T>& m, const Tracked<T>& on, const Form<T>& form, int64_t first, int64_t B,
                  const Factors<T>& to, const Products<T>& products, const Parallel& parallel) {
  thread_local Block<T> block;
  Block<T>& b = block;
  const cpu::Kept<T> kept = {to, to.pair + first};
  compute(m, on, form, &kept, to.triples + 3 * first, B, products, parallel, b);
  parallel(cpu::panels(B), [&](int64_t g) {
    const Range r = {g * lanes, std::min(lanes, B - g * lanes)};
    norms_of(m, on, form, b, r, to.norms + (first + r.first) * norm_parts);
    keep_panel(m, b, r, first, to);
  });
}

template <typename T>
void norm_block(const Model<T>& m, const Tracked<T>& on, const Form<T>& form, const double* basis,
                const int64_t* triples, int64_t B, const Norms<T>& to, const Products<T>& products,
                const Parallel& parallel) {
  thread_local Block<T> block;
  Block<T>& b = block;
  const int64_t words = round_up(m.D, 32) / 32;
  compute<T>(m, on, form, nullptr, triples, B, products, parallel, b);
  parallel(cpu::panels(B), [&](int64_t g) {
    const Range r = {g * lanes, std::min(lanes, B - g * lanes)};
    norms_of(m, on, form, b, r, to.norms + r.first * norm_parts, basis,
             basis ? to.sketches + r.first * (sketch_parts + 1) : nullptr);
    for (int64_t i = r.first; i < r.first + r.n; ++i)
      if (i > r.first && b.pair[i] == b.pair[i - 1])
        std::copy_n(to.signs + (i - 1) * words, words, to.signs + i * words);
      else
        cpu::signs_of(b.z.data() + b.pair[i] * m.D, m.D, to.signs + i * words);
  });
}

#define TRACIN_FOR(T)                                                                                                  \
  template void factor_block(const Model<T>&, const Tracked<T>&, const Form<T>&, int64_t, int64_t, const Factors<T>&,  \
                             const Products<T>&, const Parallel&);                                                     \
  template void norm_block(const Model<T>&, const Tracked<T>&, const Form<T>&, const double*, const int64_t*, int64_t, \
                           const Norms<T>&, const Products<T>&, const Parallel&);
TRACIN_FOR(float)
TRACIN_FOR(double)
#undef TRACIN_FOR

}  // namespace tracin
