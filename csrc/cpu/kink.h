// ReLU's kink: float32 must take float64's side of it, as one unit on the wrong side moves a score by percents.
#pragma once
#include <cmath>
#include <memory>
#include <vector>

#include "../kernels.h"

namespace tracin::cpu {

// BN2's pre-activations of one pair, in double.
template <typename T>
class ExactPair {
 public:
  ExactPair(const Model<T>& m, int64_t head, int64_t relation) : m_(m), v_(m.C * m.P) {
    const int64_t D = m.D;
    const T* h = m.entity + head * D;
    const T* r = m.relation + relation * m.relation_step * D;
    std::vector<double> xn(2 * D);
    for (int64_t d = 0; d < 2 * D; ++d)
      xn[d] = (static_cast<double>(d < D ? h[d] : r[d - D]) - m.exact_pixel[d]) * m.exact_pixel[2 * D + d];
    for (int64_t c = 0; c < m.C; ++c)
      for (int64_t p = 0; p < m.P; ++p) {
        double sum = m.exact_shift[c];
        for (int64_t j = 0; j < m.J; ++j) sum += m.exact_kernel[c * m.J + j] * xn[m.taps[p * m.J + j]];
        v_[c * m.P + p] = passes(sum) ? sum : 0;
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

// Computes the pre-activations z [D] that lie at the kink again, in double, if the model has its parameters in double.
template <typename T>
void settle_kinks(const Model<T>& m, int64_t head, int64_t relation, T* z) {
  if (!m.exact_kink) return;
  std::unique_ptr<ExactPair<T>> exact;
  for (int64_t d = 0; d < m.D; ++d) {
    if (!(std::fabs(z[d]) < m.exact_kink[d])) continue;
    if (!exact) exact = std::make_unique<ExactPair<T>>(m, head, relation);
    z[d] = exact->pre_activation(d);
  }
}

}  // namespace tracin::cpu
