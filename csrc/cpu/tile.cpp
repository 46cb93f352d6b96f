#include "tile.h"

#include <cmath>
#include <vector>

namespace tracin::cpu {
namespace {

constexpr double kink = 1e-5;  // pre-activations this close to ReLU's kink are settled in double

template <typename T>
void group_samples(const int64_t* triples, int64_t n, Tile<T>& t) {
  const int64_t L = chunk_lanes<T>;
  t.n = n;
  t.lanes = round_up(n, L);
  int64_t* heads = t.heads.sized(n);
  int64_t* relations = t.relations.sized(n);
  int64_t* sample_heads = t.sample_heads.sized(n);
  int64_t* sample_relations = t.sample_relations.sized(n);
  int64_t* tails = t.tails.sized(n);
  int32_t* group = t.group.sized(t.lanes);
  t.G = 0;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t h = triples[3 * i], r = triples[3 * i + 1];
    if (!t.G || heads[t.G - 1] != h || relations[t.G - 1] != r) {
      heads[t.G] = h;
      relations[t.G++] = r;
    }
    group[i] = static_cast<int32_t>(t.G - 1);
    sample_heads[i] = h;
    sample_relations[i] = r;
    tails[i] = triples[3 * i + 2];
  }
  for (int64_t i = n; i < t.lanes; ++i) group[i] = 0;
  t.pair_lanes = round_up(t.G, L);
}

// BN2's pre-activation d of one pair, in double. `v` [F] is filled at the first call for the pair.
template <typename T>
class ExactPair {
 public:
  ExactPair(const Model<T>& m, int64_t head, int64_t relation) : m_(m), v_(m.features()) {
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
  double pre_activation(int64_t d) const {
    double u = 0;
    for (int64_t f = 0; f < m_.features(); ++f) u += static_cast<double>(m_.fc[d * m_.features() + f]) * v_[f];
    return m_.exact_hidden[d] * u + m_.exact_hidden[m_.D + d];
  }

 private:
  const Model<T>& m_;
  std::vector<double> v_;
};

// Float32 must take float64's side of ReLU's kink: one unit on the wrong side moves a score by percents.
template <typename T>
void settle_kinks(const Model<T>& m, Tile<T>& t) {
  for (int64_t g = 0; g < t.G; ++g) {
    T* z = t.z.data() + g * m.D;
    ExactPair<T>* exact = nullptr;
    for (int64_t d = 0; d < m.D; ++d) {
      if (std::fabs(z[d]) >= kink * std::fmax(1.0, std::fabs(m.scale[d]))) continue;
      if (!exact) exact = new ExactPair<T>(m, t.heads.data()[g], t.relations.data()[g]);
      z[d] = static_cast<T>(exact->pre_activation(d));
    }
    delete exact;
  }
}

}  // namespace

template <typename T>
void compute_tile(const Model<T>& m, const int64_t* triples, int64_t n, bool below_fc, bool pixels, Product<T> product,
                  Tile<T>& t) {
  const Loops<T>& loop = loops<T>();
  const int64_t D = m.D, F = m.features();
  group_samples(triples, n, t);
  const int64_t G = t.G, lanes = t.lanes, pair_lanes = t.pair_lanes;

  T* image = t.image.sized(2 * D * lanes);
  loop.gather_images(m, t.heads.data(), t.relations.data(), G, image);
  T* v = t.v.sized(F * pair_lanes);
  Word<T>* mask = t.mask.sized(m.C * mask_words(m.P) * pair_lanes);
  loop.convolve(m, image, pair_lanes, v, mask);
  T* u_panel = t.u_panel.sized(D * pair_lanes);
  product(m.fc, v, u_panel, D, pair_lanes, F);
  T* un = t.un.sized(G * D);
  T* z = t.z.sized(G * D);
  loop.to_rows(u_panel, D, pair_lanes, G, un);
  loop.normalise(m, G, un, z);
  if (m.exact_pixel) settle_kinks(m, t);
  for (int64_t i = 0; i < G * D; ++i) z[i] = z[i] > 0 ? z[i] : T(0);

  T* error = t.error.sized(n * D);
  T* normalised = t.normalised.sized(n * D);
  loop.residuals(m, t.group.data(), t.tails.data(), n, un, z, t.w.sized(n), error, normalised);
  T* linear = t.linear.sized((2 * D + m.statistics()) * lanes);
  loop.to_panel(error, D, lanes, n, nullptr, linear);
  loop.to_panel(normalised, D, lanes, n, nullptr, linear + D * lanes);
  if (!below_fc && !pixels) return;

  T* delta = t.delta.sized(D * lanes);
  loop.to_panel(error, D, lanes, n, m.delta_scale, delta);
  T* y = t.y.sized(F * lanes);
  product(m.fc_t, delta, y, F, lanes, D);
  if (G != n) loop.gather_images(m, t.sample_heads.data(), t.sample_relations.data(), n, image);
  loop.statistics(m, image, mask, pair_lanes, t.group.data(), lanes, y, linear + 2 * D * lanes);
  if (!pixels) return;
  T* panel = t.pixels.sized(2 * D * lanes);
  loop.pull_back(m, y, lanes, panel);
  loop.to_rows(panel, 2 * D, lanes, n, t.pixel_rows.sized(n * 2 * D));
}

template void compute_tile(const Model<float>&, const int64_t*, int64_t, bool, bool, Product<float>, Tile<float>&);
template void compute_tile(const Model<double>&, const int64_t*, int64_t, bool, bool, Product<double>, Tile<double>&);

}  // namespace tracin::cpu
