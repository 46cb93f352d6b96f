// The factors of a block of samples: forward pass once per distinct head and pair, backward pass per sample.
#pragma once
#include <cstdlib>
#include <new>
#include <vector>

#include "loops.h"

namespace tracin::cpu {

constexpr int64_t tile = 256;  // samples that one thread takes through both passes; its panels stay in the L2 cache

// Grow-only memory, aligned to cache lines; contents are undefined after a growth.
template <typename T>
class Buffer {
 public:
  Buffer() = default;
  Buffer(Buffer&& other) noexcept : data_(other.data_), size_(other.size_) { other.data_ = nullptr, other.size_ = 0; }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(data_); }
  T* sized(int64_t n) {
    if (n > size_) {
      std::free(data_);
      data_ = nullptr, size_ = 0;
      data_ = static_cast<T*>(std::aligned_alloc(64, round_up(n * sizeof(T), 64)));
      if (!data_) throw std::bad_alloc();
      size_ = n;
    }
    return data_;
  }
  T* data() const { return data_; }

 private:
  T* data_ = nullptr;
  int64_t size_ = 0;
};

inline int64_t panels(int64_t n) { return (n + lanes - 1) / lanes; }
inline int64_t active_lanes(int64_t n) { return round_up((n - 1) % lanes + 1, 16); }  // of the last panel of n > 0
inline int64_t padded(int64_t rows, int64_t height) { return height ? round_up(rows, height) : rows; }

// B samples over H distinct heads. A tile's samples are adjacent, and so are the slots of its distinct pairs:
// sample i has the pair in slot `pair[i]`, and a tile's first slot is its first sample.
template <typename T>
struct Block {
  int64_t B, H, width, columns;  // width of `rows`: D + middle.X; columns of `linear`: 2 D + S
  std::vector<int64_t> heads, head_ids, relations, tails;     // [B], [H], [B], [B]
  std::vector<int32_t> head, pair, pair_head, pair_relation;  // [B] row of head_ids, [B] slot, [B] by slot
  std::vector<int64_t> pairs;                                 // [tiles] pairs of a tile
  std::vector<char> by_jacobian;                              // [H] whether S of the head's half comes from one
  Buffer<T> head_u;                                           // [H, D]
  Buffer<Word<T>> head_mask;                                  // [panels(H)][C][words][32]
  Buffer<T> head_gram, gram;  // [panels(H)][padded tests.heads][32], [tiles][padded tests.pairs][tile]
  Buffer<T> squares;          // [B] by slot, |v|^2 (self-influence only)
  Buffer<T> z, w;             // [B, D] by slot, [B]
  Buffer<T> rows;             // [B, width] delta, gradient at the middle's pixels
  Buffer<T> half_statistics;  // [B, S] of the halves
  Buffer<T> linear;           // [panels(B)][columns][32] e, e un, S of the middle (then of all)
};

// v . v' with the tests: operands of the head's half and of the middle, and the relation's half from a table.
template <typename T>
struct Gram {
  int64_t pairs, heads, relations;
  const int64_t *pair_head, *pair_relation;
  const T *head_features, *middle_features, *tail_gram;
  const uint16_t *narrow_head, *narrow_middle;
};

// What of the factors is needed.
template <typename T>
struct Wanted {
  const Gram<T>* gram;
  bool statistics, pixels, squares;
};

// Fills a block from triples whose equal heads are adjacent.
template <typename T>
void compute_factors(const Model<T>&, const Wanted<T>&, const int64_t* triples, int64_t B, const Products<T>&,
                     const Parallel&, Block<T>&);

template <typename T>
int64_t mask_size(const Model<T>& m, const Segment<T>& s) {
  return m.C * mask_words(s.P) * lanes;
}

// Adds J delta of the heads marked by_jacobian, and of the relations if the model has their tables.
template <typename T>
void statistics_by_jacobians(const Model<T>&, const Products<T>&, const Parallel&, Block<T>&);

// jacobians[e] [ceil(S / 32)][D][32] of a half at up to 32 heads or relations: dS/d delta.
template <typename T>
void half_jacobians(const Model<T>&, const Segment<T>&, const int64_t* heads, const int64_t* relations, int64_t count,
                    const Products<T>&, T* const* jacobians);

// Operand of chunk `c0 .. c1` of a segment's forward or backward matrix.
template <typename T>
Operand<T> chunk_operand(const Segment<T>& s, const T* packed, int64_t rows, int64_t c0, int64_t c1, int64_t height) {
  const int64_t high = height ? height : rows;
  return {packed + padded(rows, height) * c0 * s.P, rows, (c1 - c0) * s.P, high};
}

// The same of an operand in bfloat16, whose chunks are filled up to whole pairs.
template <typename T>
Operand<uint16_t> narrow_chunk(const Segment<T>& s, const uint16_t* packed, int64_t rows, int64_t c0, int64_t c1) {
  const int64_t before = c0 / s.step * round_up(s.step * s.P, 2);
  return {packed + round_up(rows, operand_height) * before, rows, round_up((c1 - c0) * s.P, 2), operand_height};
}

// Panels narrowed to bfloat16, k rows each, `from_stride` apart; only float has such products.
inline void narrow_panels(const Products<float>& products, const float* from, int64_t from_stride, int64_t k,
                          int64_t groups, uint16_t* to) {
  for (int64_t g = 0; g < groups; ++g)
    products.narrow->narrow(from + g * from_stride, k, to + g * round_up(k, 2) * lanes);
}
inline void narrow_panels(const Products<double>&, const double*, int64_t, int64_t, int64_t, uint16_t*) {}
inline void narrow_multiply(const Products<float>& products, const Operand<uint16_t>& a, int64_t row, int64_t rows,
                            const uint16_t* b, int64_t b_stride, int64_t groups, int64_t active, bool accumulate,
                            float* c, int64_t c_stride) {
  products.narrow->multiply(a, row, rows, b, b_stride, groups, active, accumulate, c, c_stride);
}
inline void narrow_multiply(const Products<double>&, const Operand<uint16_t>&, int64_t, int64_t, const uint16_t*,
                            int64_t, int64_t, int64_t, bool, double*, int64_t) {}

}  // namespace tracin::cpu
