// The arithmetic of launches: how many blocks and how much shared memory, and what exceeds a device.
#pragma once
#include <cstdint>
#include <stdexcept>
#include <string>

namespace tracin::cuda {

constexpr int64_t threads = 256;  // of a block: eight blocks fill a multiprocessor's 2,048 threads
constexpr int64_t warp = 32;
constexpr int64_t warps = threads / warp;
constexpr int64_t most_blocks = (int64_t(1) << 31) - 1;  // of a grid in x, the only axis used
constexpr int64_t most_shared = 48 << 10;                // bytes that every device gives a block without being asked

struct Launch {
  uint32_t blocks, threads, shared;
};

[[noreturn]] inline void exceeds(const char* kernel, int64_t value, const char* what, int64_t limit) {
  throw std::invalid_argument(std::string(kernel) + " needs " + std::to_string(value) + " " + what +
                              ", a CUDA device has " + std::to_string(limit) +
                              "; take smaller blocks of triples, or the factored backend");
}

constexpr int64_t ceil_div(int64_t items, int64_t each) { return (items + each - 1) / each; }

// A grid of `blocks`, each with `shared` bytes.
constexpr Launch launch(const char* kernel, int64_t blocks, int64_t shared = 0) {
  if (blocks > most_blocks) exceeds(kernel, blocks, "blocks in a grid", most_blocks);
  if (shared > most_shared) exceeds(kernel, shared, "bytes of shared memory", most_shared);
  return {static_cast<uint32_t>(blocks), static_cast<uint32_t>(threads), static_cast<uint32_t>(shared)};
}

// One thread, or one warp, for each item.
constexpr Launch launch_threads(const char* kernel, int64_t items) { return launch(kernel, ceil_div(items, threads)); }
constexpr Launch launch_warps(const char* kernel, int64_t items) { return launch(kernel, ceil_div(items, warps)); }

}  // namespace tracin::cuda
