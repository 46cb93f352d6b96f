// tracin_ext._C: importing it registers the ops of ops.cpp with torch's dispatcher.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <sstream>
#include <string>
#include <vector>

#include "cpu/dispatch.h"

namespace py = pybind11;

// TRACIN_CUDA_TARGETS lists them, with commas; empty without CUDA.
static std::vector<std::string> cuda_targets() {
  std::vector<std::string> targets;
  std::istringstream list(TRACIN_CUDA_TARGETS);
  for (std::string target; std::getline(list, target, ',');) targets.push_back(target);
  return targets;
}

static py::dict build_info() {
  std::vector<std::string> variants;
  for (const tracin::cpu::Variant& variant : tracin::cpu::variants()) variants.push_back(variant.isa);
  py::dict info;
  info["version"] = TRACIN_VERSION;
  info["isa"] = tracin::cpu::chosen_variant().isa;
  info["isa_variants"] = variants;
  info["bfloat16"] = tracin::cpu::narrow_products() != nullptr;
  info["compiler"] = TRACIN_COMPILER;
  info["cuda_targets"] = cuda_targets();
  return info;
}

PYBIND11_MODULE(_C, m) {
  m.doc() = "Native kernels of tracin_ext; importing this module registers torch.ops.tracin_ext.";
  m.def("build_info", &build_info,
        "What was built: version, isa (variant in use), isa_variants (compiled), compiler, cuda_targets.\n\n"
        "Raises ValueError if the environment variable TRACIN_CPU names a variant that cannot run here.");
}
