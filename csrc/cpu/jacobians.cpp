// Statistics of a half of the image as J delta: one matrix J = dS/d delta [S, D] per head or relation serves all of its
// samples. Building one costs (J + 1) times a sample's backward pass through the half, applying it 2 S D. The gradient
// at the half's pixels likewise, by the matrices of pixel_jacobians.cpp.
#include <algorithm>

#include "passes.h"

namespace tracin::cpu {
namespace {

// Buffers of one thread, kept from block to block.
template <typename T>
struct JacobianScratch {
  Buffer<T> windows, out;                 // of half_jacobians
  Buffer<T> operand, product, jacobians;  // of apply_jacobian and its callers
};

template <typename T>
JacobianScratch<T>& jacobian_scratch() {
  thread_local JacobianScratch<T> space;
  return space;
}

// Samples of one relation, or of one head: where their part of S comes from a Jacobian.
struct Run {
  int64_t id;
  const int32_t* samples;
  int64_t n;
};

// Calls add(sample, from, count, numbers [count]) with jacobian [ceil(columns / 32)][D][32] delta of the run's samples,
// some columns at a time.
template <typename T, typename Add>
void apply_jacobian(const T* jacobian, int64_t columns, const Run& run, const Products<T>& products, const Block<T>& b,
                    const Add& add) {
  JacobianScratch<T>& space = jacobian_scratch<T>();
  const int64_t D = b.D, rows = products.padded(run.n);
  T* packed = space.operand.sized(rows * D);
  const Operand<T> a = products.operand(packed, run.n, D);
  for (int64_t i = 0; i < rows; ++i) {
    const T* delta = i < run.n ? b.delta(run.samples[i]) : nullptr;
    T* to = packed + i / a.height * D * a.height + i % a.height;
    for (int64_t d = 0; d < D; ++d) to[d * a.height] = delta ? delta[d] : T(0);
  }
  T* out = space.product.sized(rows * lanes);
  for (int64_t s = 0; s < columns; s += lanes) {
    const int64_t count = std::min(lanes, columns - s);
    products.multiply(a, 0, run.n, 0, D, jacobian + s * D, 0, 1, round_up(count, 16), false, out, 0);
    for (int64_t i = 0; i < run.n; ++i) add(run.samples[i], s, count, out + i * lanes);
  }
}

// half_S of the run's samples, or their image at a segment's pixels, += jacobian delta
template <typename T>
void add_S(const T* jacobian, const Run& run, const Products<T>& products, const Block<T>& b) {
  apply_jacobian(jacobian, b.size_S, run, products, b, [&](int64_t i, int64_t s, int64_t count, const T* from) {
    loops<T>().add(from, count, b.half_S.data() + i * b.size_S + s);
  });
}
template <typename T>
void add_image(const T* jacobian, const Segment<T>& s, const Run& run, const Products<T>& products, const Block<T>& b) {
  apply_jacobian(jacobian, s.X, run, products, b, [&](int64_t i, int64_t x, int64_t count, const T* from) {
    for (int64_t l = 0; l < count; ++l) b.c(i)[s.pixels[x + l]] += from[l];
  });
}

// Runs of adjacent samples with one id.
inline std::vector<Run> runs_of(const std::vector<int32_t>& order, const std::vector<int32_t>& ids) {
  std::vector<Run> runs;
  const auto n = static_cast<int64_t>(order.size());
  for (int64_t i = 0, start = 0; i < n; ++i)
    if (i + 1 == n || ids[order[i + 1]] != ids[order[i]]) {
      runs.push_back({ids[order[i]], order.data() + start, i + 1 - start});
      start = i + 1;
    }
  return runs;
}

}  // namespace

template <typename T>
void add_by_jacobians(const Model<T>& m, const Wanted<T>& wanted, const Products<T>& products, const Parallel& parallel,
                      Block<T>& b) {
  const int64_t size_S = round_up(m.size_S(), lanes) * m.D, size_X = round_up(m.head_half.X, lanes) * m.D;
  std::vector<int32_t> order;
  for (int64_t i = 0; i < b.B; ++i)
    if (b.by_jacobian[b.head[i]]) order.push_back(static_cast<int32_t>(i));
  const std::vector<Run> heads = runs_of(order, b.head);
  const int64_t together = std::max<int64_t>(1, lanes / (m.J + 1));
  const auto count = static_cast<int64_t>(heads.size());
  parallel((count + together - 1) / together, [&](int64_t item) {
    const int64_t first = item * together, n = std::min(together, count - first);
    T *jacobians[lanes] = {}, *pixels[lanes] = {};
    int64_t ids[lanes] = {};
    T* memory = jacobian_scratch<T>().jacobians.sized(together * (size_S + size_X));
    for (int64_t i = 0; i < n; ++i) {
      jacobians[i] = memory + i * (size_S + size_X);
      pixels[i] = jacobians[i] + size_S;
      ids[i] = b.head_ids[heads[first + i].id];
    }
    const Pass<T> pass = {m, m.head_half, products, ids, ids, n};
    if (wanted.has_S) half_jacobians(pass, jacobians);
    if (wanted.image) half_pixel_jacobians(pass, wanted.halves->head_fc, pixels);
    for (int64_t i = 0; i < n; ++i) {
      if (wanted.has_S) add_S(jacobians[i], heads[first + i], products, b);
      if (wanted.image) add_image(pixels[i], m.head_half, heads[first + i], products, b);
    }
  });
  if (!wanted.by_tables(m)) return;
  std::vector<int32_t> relation(b.B), by_relation(b.B);
  for (int64_t i = 0; i < b.B; ++i) {
    relation[i] = static_cast<int32_t>(b.relations[i]);
    by_relation[i] = static_cast<int32_t>(i);
  }
  std::stable_sort(by_relation.begin(), by_relation.end(),
                   [&](int32_t x, int32_t y) { return relation[x] < relation[y]; });
  std::vector<Run> relations = runs_of(by_relation, relation);
  std::stable_sort(relations.begin(), relations.end(), [](const Run& x, const Run& y) { return x.n > y.n; });
  const int64_t size_R = round_up(m.relation_half.X, lanes) * m.D;
  parallel(static_cast<int64_t>(relations.size()), [&](int64_t i) {
    const Run& run = relations[i];
    if (wanted.has_S) add_S(m.jacobians + run.id * size_S, run, products, b);
    if (wanted.image) add_image(wanted.halves->relation_pixels + run.id * size_R, m.relation_half, run, products, b);
  });
}

template <typename T>
void half_jacobians(const Pass<T>& pass, T* const* jacobians) {
  const Loops<T>& loop = loops<T>();
  JacobianScratch<T>& space = jacobian_scratch<T>();
  const Model<T>& m = pass.m;
  const Segment<T>& s = pass.s;
  const int64_t L = chunk<T>, J = m.J, words = mask_words(s.P), n = pass.n;
  const T* image = pass.images().data;
  T* v = scratch<T>().v.sized(s.step * s.P * lanes);
  Word<T>* mask = scratch<T>().mask.sized(mask_size(m, s));
  T* windows = space.windows.sized(s.P * lanes);  // m patch(xn) and m of each entity, J + 1 lanes each
  T* out = space.out.sized(pass.products.padded(m.D) * lanes);
  for (int64_t c0 = 0; c0 < m.C; c0 += s.step)
    loop.convolve(m, s, image, round_up(n, 16), c0, std::min(m.C, c0 + s.step), v, mask);
  for (int64_t i = 0; i < n; ++i) std::fill_n(jacobians[i], round_up(m.size_S(), lanes) * m.D, T(0));
  const int64_t together = std::max<int64_t>(1, lanes / (J + 1));
  for (int64_t c = 0; c < m.C; ++c) {
    const int64_t c0 = c / s.step * s.step, c1 = std::min(m.C, c0 + s.step);
    const Operand<T> a = chunk_operand(pass.products, s, s.forward, m.D, c0, c1);
    for (int64_t e0 = 0; e0 < n; e0 += together)
      for (int64_t j0 = 0; j0 <= J; j0 += lanes) {  // more than one round only if a filter has over 31 taps
        const int64_t entities = std::min(together, n - e0), taps = std::min(lanes, J + 1 - j0);
        std::fill(windows, windows + s.P * lanes, T(0));
        for (int64_t e = e0; e < e0 + entities; ++e)
          for (int64_t p = 0; p < s.P; ++p) {
            const auto bits = static_cast<uint32_t>(mask[(c * words + p / 32) * lanes + e]);
            if (!(bits >> (p % 32) & 1)) continue;
            T* to = windows + p * lanes + (e - e0) * taps;
            for (int64_t j = j0; j < j0 + taps; ++j)
              to[j - j0] = j < J ? image[e / L * s.X * L + s.taps[p * J + j] * L + e % L] : T(1);
          }
        pass.products.multiply(a, 0, m.D, (c - c0) * s.P, s.P, windows, 0, 1, round_up(entities * taps, 16), false, out,
                               0);
        for (int64_t e = e0; e < e0 + entities; ++e)
          for (int64_t j = j0; j < j0 + taps; ++j) {
            const int64_t column = c * (J + 1) + j;
            T* to = jacobians[e] + column / lanes * m.D * lanes + column % lanes;
            const T* from = out + (e - e0) * taps + (j - j0);
            for (int64_t d = 0; d < m.D; ++d) to[d * lanes] = from[d * lanes];
          }
      }
  }
}

template void add_by_jacobians(const Model<float>&, const Wanted<float>&, const Products<float>&, const Parallel&,
                               Block<float>&);
template void add_by_jacobians(const Model<double>&, const Wanted<double>&, const Products<double>&, const Parallel&,
                               Block<double>&);
template void half_jacobians(const Pass<float>&, float* const*);
template void half_jacobians(const Pass<double>&, double* const*);

}  // namespace tracin::cpu
