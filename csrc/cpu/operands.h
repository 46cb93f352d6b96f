// Products of packed operands with panels, in T or in bfloat16.
#pragma once
#include <type_traits>

#include "panels.h"

namespace tracin::cpu {

// c (+)= a[row .. row + rows] b
template <typename T>
void multiply(const Products<T>& products, const Operand<T>& a, int64_t row, int64_t rows, const Panels<T>& b,
              bool accumulate, const Panels<T>& c) {
  products.multiply(a, row, rows, 0, a.k, b.data, b.stride, b.count(), b.active(b.count() - 1), accumulate, c.data,
                    c.stride);
}
template <typename T>
void multiply(const Products<T>& products, const Operand<T>& a, const Panels<T>& b, bool accumulate,
              const Panels<T>& c) {
  multiply(products, a, 0, a.rows, b, accumulate, c);
}

// The same in bfloat16, which only float has.
template <typename T>
void multiply_narrow(const Products<T>& products, const Operand<uint16_t>& a, int64_t row, int64_t rows,
                     const Panels<uint16_t>& b, bool accumulate, const Panels<T>& c) {
  if constexpr (std::is_same_v<T, float>)
    products.narrow->multiply(a, row, rows, b.data, b.stride, b.count(), b.active(b.count() - 1), accumulate, c.data,
                              c.stride);
}
template <typename T>
void multiply_narrow(const Products<T>& products, const Operand<uint16_t>& a, const Panels<uint16_t>& b,
                     bool accumulate, const Panels<T>& c) {
  multiply_narrow(products, a, 0, a.rows, b, accumulate, c);
}

// Panels of numbers in bfloat16, whose rows lie in pairs.
inline Panels<uint16_t> narrow_panels_in(Buffer<uint16_t>& buffer, int64_t rows, int64_t samples) {
  return panels_in(buffer, rows, samples, round_up(rows, 2));
}

template <typename T>
void narrow(const Products<T>& products, const Panels<T>& x, const Panels<uint16_t>& out) {
  if constexpr (std::is_same_v<T, float>)
    for (int64_t g = 0; g < x.count(); ++g) products.narrow->narrow(x.panel(g), x.rows, out.panel(g));
}

template <typename T>
Panels<uint16_t> narrowed(const Products<T>& products, const Panels<T>& x, Buffer<uint16_t>& buffer) {
  const Panels<uint16_t> out = narrow_panels_in(buffer, x.rows, x.samples);
  narrow(products, x, out);
  return out;
}

inline Operand<uint16_t> narrow_operand(const uint16_t* packed, int64_t rows, int64_t k) {
  return {packed, rows, round_up(k, 2), operand_height};
}

// Operand of channels c0 .. c1, a chunk of a matrix [rows, C P] that is packed like Segment::forward.
template <typename T>
Operand<T> chunk_operand(const Products<T>& products, const Segment<T>& s, const T* packed, int64_t rows, int64_t c0,
                         int64_t c1) {
  return products.operand(packed + products.padded(rows) * c0 * s.P, rows, (c1 - c0) * s.P);
}

// The same in bfloat16, whose chunks are filled up to whole pairs.
template <typename T>
Operand<uint16_t> narrow_chunk(const Segment<T>& s, const uint16_t* packed, int64_t rows, int64_t c0, int64_t c1) {
  const int64_t before = c0 / s.step * round_up(s.step * s.P, 2);
  return narrow_operand(packed + round_up(rows, operand_height) * before, rows, (c1 - c0) * s.P);
}

}  // namespace tracin::cpu
