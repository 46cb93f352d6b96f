// tracin_ext._C: what the library of ops says of itself, as a Python module. The ops do not need it.
#include <pybind11/pybind11.h>

#include <string>

#include "build_info.h"

namespace py = pybind11;

static py::dict build_info() {
  const py::dict info = py::module_::import("json").attr("loads")(tracin_build_info());
  if (info.contains("error")) throw py::value_error(info["error"].cast<std::string>());
  return info;
}

PYBIND11_MODULE(_C, m) {
  m.doc() = "What was built of tracin_ext; the package loads the ops without this module.";
  m.def("build_info", &build_info,
        "What was built: version, isa (variant in use), isa_variants (compiled), bfloat16, compiler, cuda_targets, "
        "constants.\n\n"
        "Raises ValueError if the environment variable TRACIN_CPU names a variant that cannot run here.");
}
