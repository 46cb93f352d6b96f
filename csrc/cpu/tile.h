// The factors of a tile of samples, computed by one thread in buffers that are kept from tile to tile.
#pragma once
#include <cstdlib>
#include <new>

#include "loops.h"

namespace tracin::cpu {

// Grow-only memory, aligned to cache lines; contents are undefined.
template <typename T>
class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(data_); }
  T* sized(int64_t n) {
    if (n > size_) {
      std::free(data_);
      size_ = 0;
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

// n samples of G pairs; lanes and pair_lanes are n and G rounded up to whole chunks.
template <typename T>
struct Tile {
  int64_t n, G, lanes, pair_lanes;
  Buffer<int64_t> heads, relations;  // [G]
  Buffer<int64_t> sample_heads, sample_relations, tails;  // [n]
  Buffer<int32_t> group;             // [lanes]
  Buffer<T> image;                   // pairs, then samples [chunk][X][chunk_lanes]
  Buffer<T> v;                       // [F][pair_lanes]
  Buffer<Word<T>> mask;              // [C][mask_words(P)][pair_lanes]
  Buffer<T> u_panel;                 // [D][pair_lanes]
  Buffer<T> un, z;                   // [G][D]
  Buffer<T> w;                       // [n]
  Buffer<T> error, normalised;       // [n][D]
  Buffer<T> linear;                  // [2 D + S][lanes] e, e un, S
  Buffer<T> delta;                   // [D][lanes]
  Buffer<T> y;                       // [F][lanes]
  Buffer<T> pixels, pixel_rows;      // [X][lanes], [n][X] gradient at the raw pixels
};

// Fills a tile. `below_fc`: also S; `pixels`: also the gradients at the embeddings.
template <typename T>
void compute_tile(const Model<T>&, const int64_t* triples, int64_t n, bool below_fc, bool pixels, Product<T>,
                  Tile<T>&);

}  // namespace tracin::cpu
