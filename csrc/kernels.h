// The contract between the ops and the kernels: raw pointers, sizes, no torch.
//
// Sizes, everywhere: B training triples of a block, Q test triples, D embedding, C channels, J taps of a filter,
// F features, size_S = C (J + 1) statistics. A panel [rows][32] holds one sample per lane.
//
// The image has three parts: windows inside the head's half, windows inside the relation's, and the few rows (or
// columns) of windows that see both, the middle. The halves are computed once per distinct head and once per relation.
//
// Letters, as in the README's "How it works": v features, u = W v, un normalised u, z hidden layer, w = dloss/dscore,
// e = dloss/d(BN2's output), delta = dloss/du, S statistics of the backward pass and M their form, c and q the
// gradients at E[h] and R[r] through the convolution. A prime is the test's side.
#pragma once
#include <math.h>

#include <cstdint>

// A function that kernels of every device call.
#ifdef __CUDACC__
#define TRACIN_ANY_DEVICE __host__ __device__
#else
#define TRACIN_ANY_DEVICE
#endif

namespace tracin {

constexpr int64_t lanes = 32;  // of a panel: two vectors of 16 floats give a product kernel enough accumulators

// static: code for one instruction set must not be what the linker takes for all (see loops.inl).
static constexpr int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }
static constexpr int64_t padded(int64_t rows, int64_t height) { return height ? round_up(rows, height) : rows; }

// w = dloss/dscore of the loss softplus(-score) of a true triple.
template <typename T>
TRACIN_ANY_DEVICE static inline T w_of(T score) {
  return static_cast<T>(-1.0 / (1.0 + exp(static_cast<double>(score))));
}

// Whether ReLU lets x through, and a gradient with it. NaN passes: it must not become a number.
template <typename T>
TRACIN_ANY_DEVICE static inline bool passes(T x) {
  return !(x <= 0);
}

// Left operand [rows, k] of a product, static, packed [ceil(rows / height)][k][height].
template <typename T>
struct Operand {
  const T* data;
  int64_t rows, k, height;
};

// c [rows][32] (+)= a[row .. row + rows, from .. from + k] b [k][32] for each of `groups` panels b and c, which lie
// b_stride and c_stride apart. Only the first `active` (16 or 32) lanes of the last panel are needed. Rows of c are
// written in whole panels of a.height.
template <typename T>
using Multiply = void (*)(const Operand<T>& a, int64_t row, int64_t rows, int64_t from, int64_t k, const T* b,
                          int64_t b_stride, int64_t groups, int64_t active, bool accumulate, T* c, int64_t c_stride);

// The same in bfloat16 with float32 accumulation, over the whole of k (even, zero-filled): neighbours in k lie in
// pairs, operands [k / 2][height][2], panels [k / 2][32][2]. `narrow` rounds a panel [k][32] to that form.
struct Narrow {
  void (*multiply)(const Operand<uint16_t>& a, int64_t row, int64_t rows, const uint16_t* b, int64_t b_stride,
                   int64_t groups, int64_t active, bool accumulate, float* c, int64_t c_stride);
  void (*narrow)(const float* panel, int64_t k, uint16_t* out);
};

// How products are done: height of the packed panels (0: one panel of all rows), the kernel, and the one of bfloat16
// where the processor has it.
template <typename T>
struct Products {
  int64_t height;
  Multiply<T> multiply;
  const Narrow* narrow = nullptr;

  int64_t padded(int64_t rows) const { return tracin::padded(rows, height); }
  Operand<T> operand(const T* packed, int64_t rows, int64_t k) const {
    return {packed, rows, k, height ? height : rows};
  }
};

// Runs work(i) for i in [0, n) on the caller's threads, in any order.
struct Parallel {
  void (*run)(int64_t n, void (*work)(void*, int64_t), void* context);
  template <typename Work>
  void operator()(int64_t n, Work work) const {
    if (n) run(n, [](void* context, int64_t i) { (*static_cast<Work*>(context))(i); }, &work);
  }
};

// Windows of one part of the image: P positions of each filter over X pixels; `step` channels make a chunk of products.
template <typename T>
struct Segment {
  int64_t P, X, step;
  const int32_t* pixels;                      // [X] pixel of the image, head's D first
  const int32_t* taps;                        // [P, J] which of the X pixels lies under tap j at position p
  const T* forward;                           // fc [D, C P], a packed operand per chunk
  const T* backward;                          // its transpose [C P, D], likewise
  const uint16_t* narrow_backward = nullptr;  // the same in bfloat16, if the backward pass is to use it
};

// One checkpoint. BN1's pre-activation = sum_j kernel[c, j] xn[taps[p, j]] + shift[c]; BN2's = scale u + offset.
template <typename T>
struct Model {
  int64_t D, C, J, entities, relations, relation_step;
  const T* entity;                              // [entities, D]
  const T* relation;                            // [rows, D]
  const T* bias;                                // [entities] or null
  const T* pixel_mean;                          // [2 D] BN0's mean at a pixel
  const T* pixel_rstd;                          // [2 D]
  const T* kernel;                              // [C, J]
  const T* shift;                               // [C]
  const T* pixel_kernel;                        // [C, J] derivative of the pre-activation by the raw pixel
  const T* scale;                               // [D]
  const T* offset;                              // [D]
  const T* norm_scale;                          // [D] un = norm_scale u + norm_offset
  const T* norm_offset;                         // [D]
  const T* delta_scale;                         // [D] delta = delta_scale e
  Segment<T> head_half, middle, relation_half;  // P = 0 where an image has no halves
  const T* relation_u;                          // [relations, D] u of the relation's half
  const T* jacobians;  // [relations, ceil(size_S / 32), D, 32] dS/d delta of that half, or null: not worth it
  // On CUDA, where `middle` is the whole image: which of its positions see the head alone, and which see both. Null:
  // not told apart.
  const int32_t *head_positions, *both_positions;
  int64_t head_P, both_P;
  int64_t P;            // of all windows
  const int32_t* taps;  // [P, J] pixel of the image
  const T* fc;          // [D, C P]
  // In double, to settle ReLU's kink; null if T is double.
  const double* exact_pixel;   // [2, 2 D] mean, 1/sigma
  const double* exact_kernel;  // [C, J]
  const double* exact_shift;   // [C]
  const double* exact_hidden;  // [2, D] scale, offset
  const double* exact_kink;    // [D] BN2's pre-activations closer to 0 are computed again in double
  int64_t size_S() const { return C * (J + 1); }
  // Columns of the tests' v: of the head's half, and of the middle.
  int64_t head_columns() const { return C * (head_positions ? head_P : head_half.P); }
  int64_t middle_columns() const { return C * (head_positions ? both_P : middle.P); }
};

// The test side, ready to be multiplied. Null: no layer that needs it is tracked.
template <typename T>
struct Tests {
  int64_t Q, pairs, heads, relations;
  const int64_t* triples;        // [Q, 3]
  const int64_t* pair;           // [Q] distinct (head, relation) of a test
  const int64_t* pair_head;      // [pairs] distinct head of a pair
  const int64_t* pair_relation;  // [pairs] distinct relation of a pair
  const int64_t* by_relation;    // [Q] tests in the order of their relation, or null: in any; read on CUDA alone
  const T* head_half_v;          // [heads, C P] v of the head's half, packed like Segment::forward; null: no fc
  const T* middle_v;             // [pairs, C P]
  const T* relation_gram;        // [relations, model relations] v . v' of the relation's half
  const T* delta;                // [Q, D] delta' * delta_scale, packed: its product with e is delta . delta'
  const T* linear;               // [Q, 2 D + size_S] or [Q, 2 D] e', e' un', M S', packed; zero where not tracked
  bool has_S;                    // whether linear has the columns of M S'
  T fc_bias;                     // 1 if fc.bias is tracked, else 0
  const T* w;                    // [Q] w'
  const T* wz;                   // [Q, D] w' z', multiplies z
  const T* c;                    // [Q, D] c', multiplies z
  // Multiply a sample's (delta, gradient at the middle's pixels), which gives its gradient along c', w' z' and q':
  // c . c' if its head is the test's head, c . w' z' if it is the test's tail, q . q' if the relations coincide.
  const T *along_c, *along_wz, *along_q;  // [Q, D + middle.X]
  // Operands in bfloat16, or null: products do not use it.
  const uint16_t *narrow_head_half_v, *narrow_middle_v, *narrow_delta, *narrow_linear;
};

// What the gradients at whole embeddings, and |v|^2, need of an image that has halves. All null: the image is taken
// whole.
template <typename T>
struct Halves {
  const T* head_fc;           // [P, C, round_up(D, 16)] fc of the head's half by position, zero-filled
  const T* relation_fc;       // likewise
  const T* relation_squares;  // [relations] |v|^2 of the relation's half
  const T* relation_pixels;   // [relations, ceil(relation_half.X / 32), D, 32] d(gradient at its pixels) / d delta, or
                              // null: not worth it
};

// Which of a sample's gradients count towards its norm.
template <typename T>
struct Tracked {
  const T* M;  // [size_S, size_S], packed, or null: no layer below fc
  bool fc, fc_bias, bn2_weight, bn2_bias, entity, relation, bias;
  Halves<T> halves = {};
};

// scores[q, b] = rate * <gradient of test q, gradient of triple b>
template <typename T>
void influence_block(const Model<T>&, const Tests<T>&, const int64_t* triples,  // [B, 3], equal heads adjacent
                     int64_t B, T rate, T* scores,                              // [Q, B]
                     const Products<T>&, const Parallel&);

// scores[b] = rate * |gradient of triple b|^2
template <typename T>
void self_influence_block(const Model<T>&, const Tracked<T>&, const int64_t* triples,  // [B, 3], equal heads adjacent
                          int64_t B, T rate, T* scores,                                // [B]
                          const Products<T>&, const Parallel&);

// What the relation's half gives once for all triples: u, v and the Jacobian of the statistics by delta.
template <typename T>
void relation_tables(const Model<T>&, T* u,  // [relations, D]
                     T* v,                   // [relations, C relation_half.P]
                     T* jacobians,           // [relations, ceil(size_S / 32), D, 32] or null
                     const Products<T>&, const Parallel&);

// The parts of a gradient whose norms bound an influence: |K(a, b)| <= the sum over the dense parts of norm norm', and
// over the others where ids coincide.
enum Part { part_S, part_fc, part_e, part_e_un, part_relation, part_head, part_tail, part_bias, norm_parts };
constexpr int64_t dense_parts = part_relation;

// What pair scores need of n triples over G distinct pairs and H distinct heads, kept by row; null: not tracked.
template <typename T>
struct Factors {
  int64_t n, G, H, size_S, head_columns, middle_columns;  // columns: C P of the head's half and of the middle
  const int64_t* triples;                                 // [n, 3]
  const int32_t* pair;                                    // [n] row of the pair
  const int32_t* pair_head;                               // [G] row of the head
  T* w;                                                   // [n]
  T* S;                                                   // [n, size_S]; of tests, M S
  T* c;                                                   // [n, D]
  T* q;                                                   // [n, D]
  T* z;                                                   // [G, D]
  T* un;                                                  // [G, D]
  int32_t* signs;                                         // [G, ceil(D / 32)] bit d of a row: whether z[d] > 0
  T* middle_v;                                            // [G, middle_columns]
  T* middle_squares;                                      // [G] |middle_v|^2
  T* head_v;                                              // [H, head_columns]
  T* head_squares;                                        // [H]
  T* norms;                                               // [n, norm_parts], zero where not tracked, rounded up
};

// M by what it is made of: a block per channel, and the rows of what all channels share; M is their sum and rows^T
// rows. Null blocks: no layer below fc is tracked. The squared norm of S is S^T M S + slack |S|^2, which bounds what
// rounding makes of a product with S as well.
template <typename T>
struct Form {
  const T* blocks;  // [C, J + 1, J + 1], symmetric
  int64_t count;
  const T* rows;  // [count, size_S]
  double slack;
};

// Fills the rows first .. first + B of factors with their triples, and those of their pairs and heads.
template <typename T>
void factor_block(const Model<T>&, const Tracked<T>&, const Form<T>&, int64_t first, int64_t B, const Factors<T>&,
                  const Products<T>&, const Parallel&);

// What bounds need of S beside its norm: its parts along an orthonormal basis (of S^T M S), and the norm of what is
// left, as shares of its norm in steps of 1 / sketch_steps; the parts rounded, what is left rounded up.
constexpr int64_t sketch_parts = 31, sketch_steps = 127;

// The norms of factors, and the signs of their pairs, alone; sketches where there is a basis.
template <typename T>
struct Norms {
  T* norms;          // [B, norm_parts]
  int32_t* signs;    // [B, ceil(D / 32)] bit d of a row: whether z[d] > 0
  int8_t* sketches;  // [B, sketch_parts + 1]
};
template <typename T>
void norm_block(const Model<T>&, const Tracked<T>&, const Form<T>&,
                const double* basis,     // [size_S, sketch_parts] S times it: the parts; or null
                const int64_t* triples,  // [B, 3], equal (head, relation) adjacent
                int64_t B, const Norms<T>&, const Products<T>&, const Parallel&);

// What bounds of a test's pairs know of one checkpoint. x are gradients of training triples, y the test's.
template <typename T>
struct RowBounds {
  const T* norms;          // [n, norm_parts] |x| by part
  const int32_t* signs;    // [n, ceil(D / 32)] bit d of a row: whether z[d] > 0
  const int8_t* sketches;  // [n, sketch_parts + 1], or null
  const T* entity;         // [entities, D]
  const T* test;           // [norm_parts] |rate| |y|
  const T* sketch;         // [sketch_parts + 2] the test's / sketch_steps, and the most that rounding takes
  const T* scaled;         // [2, D] directions of y's delta and e, of length 1, times the scales of x's
  const T* squares;        // [2, D] squares of the scales: x's delta and e are scale E[t] where z > 0
};

// Which rows are looked at: all; those that share no entity with the test and have its relation, or another one.
enum class Which { all, of_relation, of_others };

// Rows of training triples, and the test that they are for.
struct RowsOf {
  const int32_t* triples;  // [n, 3]
  const int32_t* rows;     // [m]
  int64_t m, D, entities, head, relation, tail;
  Which which;
};

// Of those rows whose bounds reach the threshold, in their order: the rows, their bounds. How many.
//
//   bound = sum over checkpoints and parts of |rate| |x| |y|, of the parts that count for the pair,
//     S:            times  |sketch . sketch'| + left left'
//     delta and e:  times  |cosine of the angle|
//
// where that is less; one that `slack` times the products of norms increase reaches the threshold.
template <typename T>
int64_t rows_in_reach(const RowBounds<T>*, int64_t checkpoints, const RowsOf&, T threshold, T slack,
                      int32_t* reached,  // [m]
                      T* bounds,         // [m]
                      const Parallel&);

// One checkpoint of pair scores: the factors of both sides, and what both share.
template <typename T>
struct PairModel {
  int64_t D, size_S, entities, relations;
  T rate;
  const T* entity;         // [entities, D]
  const T* delta_scale;    // [D] delta = delta_scale e
  const T* relation_gram;  // [relations, relations] v . v' of the relation's half; null: no halves
  Tracked<T> on;           // its flags
  Factors<T> train, tests;
};

// scores[i] = sum over the checkpoints of rate * <gradient of a test, gradient of a triple>, by rows of their factors.
template <typename T>
void pair_scores(const PairModel<T>* models, int64_t checkpoints, const int64_t* pairs,  // [n, 2] test, triple
                 int64_t n, T* scores,                                                   // [n]
                 const Parallel&);

// Rows of the training triples' factors by what they share, and their norms in the order of the lists. Parts of all
// checkpoints follow one another; a total is the root of the sum of their squares weighted by the rates.
template <typename T>
struct PairLists {
  const int64_t* index;          // [n] number of a row's triple
  const int32_t* row_of;         // [n] its inverse
  const int64_t* head_from;      // [entities + 1] where an entity's rows start: equal heads are adjacent
  const int64_t* tail_from;      // [entities + 1] the same in tail_rows
  const int32_t* tail_rows;      // [n]
  const int64_t* relation_from;  // [relations + 1] the same in relation_rows
  const int32_t* relation_rows;  // [n] of each relation, largest total first
  const T* relation_totals;      // [n] in that order, of the dense parts and the relation's
  const T* relation_norms;       // [checkpoints (dense_parts + 1), n] in that order
  const int32_t* rows;           // [n] largest total first
  const T* totals;               // [n] in that order, of the dense parts
  const T* norms;                // [checkpoints dense_parts, n] in that order
};

enum class Order { absolute, proponents, opponents };

// What became of a test: its list is exact, or it would have cost more than the budget, or a score is no finite number.
enum Outcome { found, too_many, not_finite };
constexpr int64_t work_columns = 4;  // outcome, pairs scored, bounds compared, numbers read for the scores

// Each test's best k of all training triples: best first, ties by index. Only pairs are scored whose bound, increased
// by `slack` times itself, reaches the k-th best. A list is given up where its pairs need more than `budget` numbers.
template <typename T>
void bounded_top_k(const PairModel<T>* models, int64_t checkpoints, const PairLists<T>&, int64_t k, Order, T slack,
                   int64_t budget, T* best, int64_t* best_index,  // [Q, k] both
                   int64_t* work,                                 // [Q, work_columns]
                   const Parallel&);

// Gradients at the embeddings alone, of n samples over G pairs; c, q null: not tracked.
template <typename T>
struct SampleGradients {
  int64_t n, G, D;
  const int64_t* triples;  // [n, 3]
  const int32_t* pair;     // [n] row of z
  const T* w;              // [n]
  const T* z;              // [G, D]
  const T* c;              // [n, D]
  const T* q;              // [n, D]
  const int32_t* by_tail;  // [n] rows, equal tails adjacent
};

// The same of Q functionals, which have a gradient at every row; null: not tracked.
template <typename T>
struct Tables {
  int64_t Q;
  const T* entity;    // [entities, Q, D]
  const T* bias;      // [entities, Q]
  const T* relation;  // [relations, Q, D]
};

// scores[i, q] = c_i . entity[h_i, q] + q_i . relation[r_i, q] + w_i (z_i . entity[t_i, q] + bias[t_i, q])
template <typename T>
void table_scores(const SampleGradients<T>&, const Tables<T>&, T* scores,  // [n, Q]
                  const Parallel&);

// Halves::relation_pixels.
template <typename T>
void relation_pixels(const Model<T>&, const T* relation_fc, T* pixels, const Parallel&);

// Merges a block's scores into each test's best k: best first, ties by index; index -1 is an empty slot.
template <typename T>
void merge_top_k(const T* scores,       // [Q, B]
                 const int64_t* index,  // [B] number of each training triple
                 int64_t Q, int64_t B, int64_t k, Order, T* best,
                 int64_t* best_index,  // [Q, k] both
                 const Parallel&);

}  // namespace tracin
