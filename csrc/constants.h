// What Python must know of the kernels, by name: a part of build_info.
#pragma once
#include "cpu/factors.h"
#include "cpu/products.h"
#include "cuda/device.h"

namespace tracin {

struct Constant {
  const char* name;
  int64_t value;
};

constexpr Constant constants[] = {
    {"lanes", lanes},                         // of a panel
    {"operand_height", cpu::operand_height},  // rows of a packed panel for the extension's own product kernel
    {"jacobian_from", cpu::jacobian_from},    // samples of a head that repay its Jacobian
    {"most_kept", cuda::most_kept},           // largest k of merge_top_k on CUDA
};

}  // namespace tracin
