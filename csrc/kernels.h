// The contract between the ops and the kernels: raw pointers, sizes, no torch.
//
// Sizes, everywhere: B training triples of a block, Q test triples, G distinct (head, relation) pairs, N entities,
// D embedding, X = 2 D image pixels (head's first), C channels, J taps of a filter, P positions, F = C P features,
// S = C (J + 1) statistics. A panel [rows][lanes] holds one sample per lane.
#pragma once
#include <cstdint>

namespace tracin {

// C[m, n] = A[m, k] B[k, n], all row-major and contiguous, on the calling thread.
template <typename T>
using Product = void (*)(const T* a, const T* b, T* c, int64_t m, int64_t n, int64_t k);

// Runs work(i) for i in [0, n) on the caller's threads; work must not throw.
struct Parallel {
  void (*run)(int64_t n, void (*work)(void*, int64_t), void* context);
  template <typename Work>
  void operator()(int64_t n, Work work) const {
    run(n, [](void* context, int64_t i) { (*static_cast<Work*>(context))(i); }, &work);
  }
};

// One checkpoint. BN1's pre-activation = sum_j kernel[c, j] xn[taps[p, j]] + shift[c]; BN2's = scale u + offset.
template <typename T>
struct Model {
  int64_t D, C, J, P, relation_step;
  const T* entity;            // [N, D]
  const T* relation;          // [rows, D]
  const T* bias;              // [N] or null
  const int32_t* taps;        // [P, J] pixel under tap j at position p
  const T* pixel_mean;        // [X] BN0's mean at a pixel
  const T* pixel_rstd;        // [X]
  const T* kernel;            // [C, J]
  const T* shift;             // [C]
  const T* pull;              // [C, J] derivative of the pre-activation by the raw pixel
  const T* fc;                // [D, F]
  const T* fc_t;              // [F, D]
  const T* scale;             // [D]
  const T* offset;            // [D]
  const T* norm_scale;        // [D] un = norm_scale u + norm_offset
  const T* norm_offset;       // [D]
  const T* delta_scale;       // [D] delta = delta_scale e
  const double* exact_pixel;  // [2, X] mean, 1/sigma; the four below settle ReLU's kink, null if T is double
  const double* exact_kernel;  // [C, J]
  const double* exact_shift;   // [C]
  const double* exact_hidden;  // [2, D] scale, offset
  int64_t features() const { return C * P; }
  int64_t statistics() const { return C * (J + 1); }
};

// The test side, ready to be multiplied. Null: no layer that needs it is tracked.
template <typename T>
struct Tests {
  int64_t Q, G;
  const int64_t* triples;  // [Q, 3]
  const int64_t* group;    // [Q]
  const T* features;       // [G, F] v
  const T* delta;          // [Q, D] delta' * delta_scale: its product with e is delta . delta'
  const T* linear;         // [Q, 2 D + S] e', e' un', M S'; zero where a layer is not tracked
  const T* residual;       // [Q] w'
  const T* pull;           // [Q, D] w' z'
  const T* head;           // [Q, D] c'
  const T* relation;       // [Q, D] q'
  T fc_bias;               // 1 if fc.bias is tracked, else 0
  bool statistics;         // whether columns 2 D.. of linear are not all zero
};

// Which of a sample's gradients count towards its norm.
template <typename T>
struct Tracked {
  const T* form;  // [S, S] M, or null
  bool fc, fc_bias, bn2_weight, bn2_bias, entity, relation, bias;
};

// scores[q, b] += rate * <gradient of test q, gradient of triple b>
template <typename T>
void influence_block(const Model<T>&, const Tests<T>&, const int64_t* triples,  // [B, 3], equal pairs adjacent
                     int64_t B, T rate, T* scores,                              // [Q, B]
                     int64_t tile, Product<T>, const Parallel&);

// scores[b] += rate * |gradient of triple b|^2
template <typename T>
void self_influence_block(const Model<T>&, const Tracked<T>&, const int64_t* triples,  // [B, 3], equal pairs adjacent
                          int64_t B, T rate, T* scores,                                // [B]
                          int64_t tile, Product<T>, const Parallel&);

enum class Order { absolute, proponents, opponents };

// Merges a block's scores into each test's best k: best first, ties by index; index -1 is an empty slot.
template <typename T>
void merge_top_k(const T* scores,         // [Q, B]
                 const int64_t* columns,  // [B] index of each column
                 int64_t Q, int64_t B, int64_t k, Order, T* best,
                 int64_t* best_index,  // [Q, k] both
                 const Parallel&);

}  // namespace tracin
