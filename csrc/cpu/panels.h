// Memory of the CPU's kernels, and samples in panels: one lane each, 32 to a panel.
#pragma once
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

#include "loops.h"

namespace tracin::cpu {

// Tests set TRACIN_FILL: buffers are then filled with NaN, so that what is read before it is written shows.
inline bool fills_buffers() {
  static const bool fills = std::getenv("TRACIN_FILL") != nullptr;
  return fills;
}

// Grow-only memory, aligned to cache lines; `sized` leaves its contents undefined.
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
    if (n && fills_buffers()) std::memset(static_cast<void*>(data_), 0xFF, n * sizeof(T));
    return data_;
  }
  T* data() const { return data_; }

 private:
  T* data_ = nullptr;
  int64_t size_ = 0;
};

inline int64_t panels(int64_t n) { return (n + lanes - 1) / lanes; }

// Samples first .. first + n of a block.
struct Range {
  int64_t first, n;
};

// Panels [rows][32] of samples, `stride` numbers from one to the next.
template <typename T>
struct Panels {
  T* data;
  int64_t rows, samples, stride;

  int64_t count() const { return panels(samples); }
  T* panel(int64_t g) const { return data + g * stride; }
  int64_t used(int64_t g) const { return std::min(lanes, samples - g * lanes); }    // lanes of a panel
  int64_t active(int64_t g) const { return round_up(used(g), 16); }                 // the same in whole halves
  Panels of(Range r) const { return {panel(r.first / lanes), rows, r.n, stride}; }  // from the beginning of a panel
  Panels only(int64_t g) const { return of({g * lanes, used(g)}); }
  Panels top(int64_t n) const { return {data, n, samples, stride}; }  // the first n rows

  void clear() const {
    for (int64_t g = 0; g < count(); ++g) std::fill(panel(g), panel(g) + rows * lanes, T(0));
  }

  // Sample i's lane (+)= row(i) [rows]. Unless accumulating, idle lanes become zero.
  template <typename Row>
  void gather(const Row& row, bool accumulate = false) const {
    const T* from[lanes];
    for (int64_t g = 0; g < count(); ++g) {
      for (int64_t i = 0; i < used(g); ++i) from[i] = row(g * lanes + i);
      loops<T>().to_panel(from, rows, used(g), accumulate, panel(g));
    }
  }

  // row(i) [rows] (+)= sample i's lane.
  template <typename Row>
  void scatter(const Row& row, bool accumulate = false) const {
    T* to[lanes];
    for (int64_t g = 0; g < count(); ++g) {
      for (int64_t i = 0; i < used(g); ++i) to[i] = row(g * lanes + i);
      loops<T>().to_rows(panel(g), rows, used(g), accumulate, to);
    }
  }
};

// Panels in a buffer, with room for `high` rows where a product writes whole panels of its operand.
template <typename T>
Panels<T> panels_in(Buffer<T>& buffer, int64_t rows, int64_t samples, int64_t high = 0) {
  const int64_t stride = std::max(rows, high) * lanes;
  return {buffer.sized(panels(samples) * stride), rows, samples, stride};
}

}  // namespace tracin::cpu
