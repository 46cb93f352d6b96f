// The CUDA ops: raw pointers into device memory, no torch. What they need of their host is a Device: torch's allocator,
// stream and matrix products in the extension, plain loops in the tests.
#pragma once
#include "../kernels.h"

namespace tracin::cuda {

// [rows, columns] in device memory.
template <typename T>
struct Matrix {
  T* data;
  int64_t rows, columns, row_stride, column_stride;
};

template <typename T>
Matrix<T> row_major(T* data, int64_t rows, int64_t columns, int64_t row_stride = 0) {
  return {data, rows, columns, row_stride ? row_stride : columns, 1};
}
template <typename T>
Matrix<T> transposed(const Matrix<T>& m) {
  return {m.data, m.columns, m.rows, m.column_stride, m.row_stride};
}

class Device {
 public:
  virtual ~Device() = default;
  virtual void* stream() = 0;
  // Device memory that lives until the op has returned; its contents are undefined.
  virtual void* allocate(int64_t bytes) = 0;
  // n numbers of the host in device memory, without waiting for the device.
  virtual const int32_t* upload(const int32_t* numbers, int64_t n) = 0;
  // c = a b; operands of two bytes are bfloat16, accumulated in float32.
  virtual void multiply(const Matrix<const float>& a, const Matrix<const float>& b, const Matrix<float>& c) = 0;
  virtual void multiply(const Matrix<const double>& a, const Matrix<const double>& b, const Matrix<double>& c) = 0;
  virtual void multiply(const Matrix<const uint16_t>& a, const Matrix<const uint16_t>& b, const Matrix<float>& c) = 0;

  template <typename T>
  T* array(int64_t n) {
    return static_cast<T*>(allocate(n * static_cast<int64_t>(sizeof(T))));
  }
};

// The ops of kernels.h on the device. `triples` lie on the host; every other pointer, those inside Model, Tests and
// Tracked included, leads to the device. Segment's operands are packed with height 0 and all channels in one chunk:
// forward is [C P, D], backward [D, C P]; M is [S, S]; the tests' operands are rows as they are, v [heads, C head_P]
// and [pairs, C both_P], or [pairs, C P] where positions are not told apart; those in bfloat16 likewise. The image is
// taken whole.
template <typename T>
void influence_block(const Model<T>&, const Tests<T>&, const int64_t* triples, int64_t B, T rate, T* scores, Device&);

template <typename T>
void self_influence_block(const Model<T>&, const Tracked<T>&, const int64_t* triples, int64_t B, T rate, T* scores,
                          Device&);

// Where the factors of B samples over G distinct (head, relation) go: what csrc/cuda/factors.h says of each.
template <typename T>
struct FactorArrays {
  T *v, *z, *w, *linear, *delta, *cq;
};

// The factors of triples, equal (head, relation) adjacent; `linear` with S's columns if has_S, cq unless null.
template <typename T>
void sample_factors(const Model<T>&, const int64_t* triples, int64_t B, bool has_S, const FactorArrays<T>&, Device&);

constexpr int64_t most_kept = 1024;  // largest k of merge_top_k

template <typename T>
void merge_top_k(const T* scores, const int64_t* index, int64_t Q, int64_t B, int64_t k, Order, T* best,
                 int64_t* best_index, Device&);

}  // namespace tracin::cuda
