// The arithmetic of launches at its limits: compiled in, then what must throw.
#include <cstdio>

#include "cuda/device.h"
#include "cuda/launch.h"

using namespace tracin::cuda;

static_assert(ceil_div(0, threads) == 0 && ceil_div(1, threads) == 1);
static_assert(ceil_div(threads, threads) == 1 && ceil_div(threads + 1, threads) == 2);
static_assert(threads % warp == 0 && warps * warp == threads);

// More than 2^31 elements need far fewer blocks; the last element a grid of threads reaches lies beyond 2^39.
constexpr int64_t two_31 = int64_t(1) << 31;
static_assert(launch_threads("", two_31).blocks == two_31 / threads);
static_assert(launch_threads("", two_31 + 1).blocks == two_31 / threads + 1);
static_assert(launch_threads("", most_blocks* threads).blocks == most_blocks);
static_assert(launch_warps("", two_31).blocks == two_31 / warps);
static_assert(launch("", most_blocks).blocks == most_blocks);
static_assert(launch("", 1, most_shared).shared == most_shared);
static_assert(launch("", 0).blocks == 0 && launch("", 1).threads == threads);

namespace {

int failures = 0;

template <typename Make>
void expect_error(const char* expected, const Make& make) {
  try {
    make();
  } catch (const std::invalid_argument& error) {
    if (std::string(error.what()).rfind(expected, 0) == 0) return;
    std::printf("FAIL launch: got '%s', expected '%s'\n", error.what(), expected);
    ++failures;
    return;
  }
  std::printf("FAIL launch: no error, expected '%s'\n", expected);
  ++failures;
}

}  // namespace

int main() {
  expect_error("rows needs 2147483648 blocks in a grid, a CUDA device has 2147483647; take smaller blocks",
               [] { launch("rows", two_31); });
  expect_error("rows needs 2147483648 blocks", [] { launch_threads("rows", most_blocks * threads + 1); });
  expect_error("rows needs 2147483648 blocks", [] { launch_warps("rows", most_blocks * warps + 1); });
  expect_error("image needs 49153 bytes of shared memory, a CUDA device has 49152",
               [] { launch("image", 1, most_shared + 1); });
  return failures ? 1 : 0;
}
