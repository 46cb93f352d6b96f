// What was built, for Python: read through ctypes (tracin_ext/library.py) and through pybind11 (bindings.cpp).
#pragma once

// A JSON object: version, isa (variant in use), isa_variants (compiled), bfloat16, compiler, cuda_targets, and
// constants, the numbers that Python must know; or only `error` if TRACIN_CPU names a variant that cannot run here. The
// text lives until the calling thread's next call.
extern "C" __attribute__((visibility("default"))) const char* tracin_build_info();
