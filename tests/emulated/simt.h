// CUDA's names on a CPU: g++ compiles the shipped kernels and launchers with this file in front (-include). A block's
// threads are fibers (simt_fibers.cpp) or threads (simt_threads.cpp).
#pragma once
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <source_location>
#include <string>

#include "cuda/launch.h"

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)

using std::exp, std::fabs, std::fmax;

struct Axis {
  unsigned x;
};
inline thread_local Axis threadIdx, blockIdx, blockDim, gridDim;

namespace simt {

#ifdef __cpp_lib_source_location
using Where = std::source_location;
#else  // Clang before 16
struct Where {
  static constexpr Where current(const char* file = __builtin_FILE(), unsigned line = __builtin_LINE(),
                                 unsigned column = __builtin_COLUMN()) {
    return {file, line, column};
  }
  const char* file = "";
  unsigned in_line = 0, in_column = 0;
  const char* file_name() const { return file; }
  unsigned line() const { return in_line; }
  unsigned column() const { return in_column; }
};
#endif
constexpr unsigned warp = 32;

// Runs body for every thread of every block. Shared memory is a heap buffer of exactly that size, filled with 0xFF,
// which is NaN in every floating-point type.
void launch(const char* kernel, unsigned blocks, unsigned threads, unsigned shared, const std::function<void()>& body);

// What ran, said when the program ends.
inline struct Tally {
  std::map<std::string, int> launches;
  ~Tally() {
    int all = 0;
    for (const auto& [kernel, count] : launches) all += count;
    if (all) std::printf("emulated %d launches of %zu kernels\n", all, launches.size());
  }
} tally;

void* shared();
void block_barrier(const Where&);

// What every lane of the warp gives at the same place.
struct Lanes {
  uint64_t of[warp];
};
const Lanes& exchange(uint64_t mine, const Where&);

template <typename T>
uint64_t bits_of(T x) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &x, sizeof(T));
  return bits;
}
template <typename T>
T from_bits(uint64_t bits) {
  T x;
  std::memcpy(&x, &bits, sizeof(T));
  return x;
}

}  // namespace simt

inline void __syncthreads(const simt::Where& where = simt::Where::current()) { simt::block_barrier(where); }

template <typename T>
T __shfl_sync(unsigned, T x, int lane, const simt::Where& where = simt::Where::current()) {
  return simt::from_bits<T>(simt::exchange(simt::bits_of(x), where).of[lane]);
}
template <typename T>
T __shfl_xor_sync(unsigned, T x, int distance, const simt::Where& where = simt::Where::current()) {
  return simt::from_bits<T>(simt::exchange(simt::bits_of(x), where).of[(threadIdx.x % simt::warp) ^ distance]);
}
inline unsigned __ballot_sync(unsigned, bool vote, const simt::Where& where = simt::Where::current()) {
  const simt::Lanes& lanes = simt::exchange(vote, where);
  unsigned votes = 0;
  for (unsigned lane = 0; lane < simt::warp; ++lane) votes |= static_cast<unsigned>(lanes.of[lane]) << lane;
  return votes;
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline uint32_t __float_as_uint(float x) { return simt::from_bits<uint32_t>(simt::bits_of(x)); }
inline int atomicAdd(int* address, int x) { return std::atomic_ref<int>(*address).fetch_add(x); }

namespace tracin::cuda {

template <typename T>
T* shared_memory() {
  return static_cast<T*>(simt::shared());
}

template <typename... Parameters, typename... Arguments>
void run(const char* name, void (*kernel)(Parameters...), const Launch& shape, void*, Arguments... arguments) {
  if (!shape.blocks) return;
  ++simt::tally.launches[name];
  simt::launch(name, shape.blocks, shape.threads, shape.shared, [&] { kernel(arguments...); });
}

}  // namespace tracin::cuda
