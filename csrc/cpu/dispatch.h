// The compiled variants of the loops, and the one in use.
#pragma once
#include <vector>

#include "loops.h"

namespace tracin::cpu {

struct Variant {
  const char* isa;  // "default", "avx2", "avx512"
  const Loops<float>* float_loops;
  const Loops<double>* double_loops;
  bool supported;  // by this processor
};

// Every compiled variant, slowest first.
const std::vector<Variant>& variants();

// Products in bfloat16, or null where this processor (or the variant that TRACIN_CPU names) has none.
const Narrow* narrow_products();

// The fastest supported variant, or the one that the environment variable TRACIN_CPU names.
// Throws std::invalid_argument if it names none, or one that this processor lacks.
const Variant& chosen_variant();

}  // namespace tracin::cpu
