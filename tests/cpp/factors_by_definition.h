// One triple's factors, and the kernel of two triples, from the formulas of the model in double.
#pragma once
#include "random_model.h"

using Numbers = std::vector<double>;

inline double dot(const Numbers& a, const Numbers& b) { return std::inner_product(a.begin(), a.end(), b.begin(), 0.0); }

// dloss/dscore of softplus(-score).
inline double w_by_definition(double score) { return -1 / (1 + std::exp(score)); }

struct Factors {
  int64_t head, relation, tail;
  double w;
  Numbers image, v, u, z, e, e_un, delta, S, c, q;  // [2 D], [F], 5 x [D], [S], [D], [D]
};

template <typename T>
void forward(const RandomModel<T>& m, Factors& x) {
  const int64_t D = m.D;
  x.image.resize(2 * D), x.v.resize(m.F), x.u.resize(D);
  for (int64_t i = 0; i < 2 * D; ++i) {
    const double raw = i < D ? m.entity[x.head * D + i] : m.relation[x.relation * m.relation_step * D + i - D];
    x.image[i] = (raw - m.exact_pixel[i]) * m.exact_pixel[2 * D + i];
  }
  for (int64_t f = 0; f < m.F; ++f) {
    double sum = m.exact_shift[f / m.P];
    for (int64_t j = 0; j < m.J; ++j) sum += m.exact_kernel[f / m.P * m.J + j] * x.image[m.taps[f % m.P * m.J + j]];
    x.v[f] = std::max(sum, 0.0);
    for (int64_t d = 0; d < D; ++d) x.u[d] += m.fc[d * m.F + f] * x.v[f];
  }
}

template <typename T>
Factors factors_of(const RandomModel<T>& m, const int64_t* triple) {
  const int64_t D = m.D;
  Factors x{};
  x.head = triple[0], x.relation = triple[1], x.tail = triple[2];
  forward(m, x);
  for (Numbers* numbers : {&x.z, &x.e, &x.e_un, &x.delta, &x.c, &x.q}) numbers->resize(D);
  x.S.resize(m.S);
  double score = m.bias[x.tail];
  for (int64_t d = 0; d < D; ++d) {
    x.z[d] = std::max(m.exact_hidden[d] * x.u[d] + m.exact_hidden[D + d], 0.0);
    score += x.z[d] * m.entity[x.tail * D + d];
  }
  x.w = w_by_definition(score);
  for (int64_t d = 0; d < D; ++d) {
    x.e[d] = x.z[d] > 0 ? x.w * m.entity[x.tail * D + d] : 0;
    x.e_un[d] = x.e[d] * (m.hidden[2 * D + d] * x.u[d] + m.hidden[3 * D + d]);
    x.delta[d] = x.e[d] * m.hidden[4 * D + d];
  }
  for (int64_t f = 0; f < m.F; ++f) {
    double y = 0;
    for (int64_t d = 0; d < D && x.v[f] > 0; ++d) y += m.fc[d * m.F + f] * x.delta[d];
    const int64_t c = f / m.P;
    x.S[c * (m.J + 1) + m.J] += y;
    for (int64_t j = 0; j < m.J; ++j) {
      const int64_t pixel = m.taps[f % m.P * m.J + j];
      x.S[c * (m.J + 1) + j] += y * x.image[pixel];
      (pixel < D ? x.c[pixel] : x.q[pixel - D]) += y * m.pixel_kernel[c * m.J + j];
    }
  }
  return x;
}

// M S, symmetric M [S, S].
inline Numbers times(const Numbers& M, const Numbers& x) {
  Numbers result(x.size());
  for (size_t i = 0; i < x.size(); ++i)
    result[i] = std::inner_product(x.begin(), x.end(), M.begin() + i * x.size(), 0.0);
  return result;
}

// Layers whose gradients count, beside bn2.
struct Layers {
  bool fc, S, entity, relation, bias;
};

// The kernel of influence_block.cpp; `MS` is M S of `a`.
inline double kernel_of(const Factors& a, const Numbers& MS, const Factors& b, const Layers& on) {
  double sum = dot(a.e, b.e) + dot(a.e_un, b.e_un);
  if (on.fc) sum += dot(a.delta, b.delta) * (1 + dot(a.v, b.v));
  if (on.S) sum += dot(MS, b.S);
  if (on.bias && a.tail == b.tail) sum += a.w * b.w;
  if (on.relation && a.relation == b.relation) sum += dot(a.q, b.q);
  if (!on.entity) return sum;
  if (a.tail == b.tail) sum += a.w * b.w * dot(a.z, b.z);
  if (a.head == b.head) sum += dot(a.c, b.c);
  if (a.head == b.tail) sum += b.w * dot(a.c, b.z);
  if (a.tail == b.head) sum += a.w * dot(a.z, b.c);
  return sum;
}
