// Chooses the loops at run time: the fastest that the processor has, or the variant that TRACIN_CPU names.
#include "dispatch.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace tracin::cpu {

#define TRACIN_VARIANT(isa)                \
  namespace isa {                          \
  extern const Loops<float> float_loops;   \
  extern const Loops<double> double_loops; \
  }
TRACIN_VARIANT(isa_default)
#ifdef TRACIN_X86_VARIANTS
TRACIN_VARIANT(isa_avx2)
TRACIN_VARIANT(isa_avx512)
extern const Narrow narrow_avx512bf16;
#endif

const std::vector<Variant>& variants() {
  static const std::vector<Variant> all = {
      {"default", &isa_default::float_loops, &isa_default::double_loops, true},
#ifdef TRACIN_X86_VARIANTS
      {"avx2", &isa_avx2::float_loops, &isa_avx2::double_loops,
       __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")},
      {"avx512", &isa_avx512::float_loops, &isa_avx512::double_loops,
       __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma")},
#endif
  };
  return all;
}

static const Variant& choose() {
  const char* wanted = std::getenv("TRACIN_CPU");
  const bool automatic = !wanted || !*wanted;
  const Variant* best = nullptr;
  std::string names;
  for (const Variant& variant : variants()) {
    if (!variant.supported) continue;
    if (automatic || std::string(wanted) == variant.isa) best = &variant;
    names += (names.empty() ? "" : ", ") + std::string(variant.isa);
  }
  if (best) return *best;
  throw std::invalid_argument("TRACIN_CPU=" + std::string(wanted) + " is not one of " + names +
                              ", the variants that this processor can run; correct or unset it");
}

const Variant& chosen_variant() {
  static const Variant& chosen = choose();
  return chosen;
}

const Narrow* narrow_products() {
#ifdef TRACIN_X86_VARIANTS
  static const bool supported = __builtin_cpu_supports("avx512bf16") && std::string(chosen_variant().isa) == "avx512";
  return supported ? &narrow_avx512bf16 : nullptr;
#else
  return nullptr;
#endif
}

template <>
const Loops<float>& loops<float>() {
  return *chosen_variant().float_loops;
}
template <>
const Loops<double>& loops<double>() {
  return *chosen_variant().double_loops;
}
template <>
Products<float> own_products<float>() {
  return {operand_height, loops<float>().multiply, narrow_products()};
}
template <>
Products<double> own_products<double>() {
  return {operand_height, loops<double>().multiply};
}

}  // namespace tracin::cpu
