// Launches a kernel on a stream and checks it. Whoever compiles the kernels without nvcc gives the same two functions
// and CUDA's names (tests/emulated/simt.h).
#pragma once
#include "launch.h"

#ifdef __CUDACC__
#include <cuda_runtime.h>

namespace tracin::cuda {

// The block's shared memory, as many bytes as its launch asked for.
template <typename T>
__device__ T* shared_memory() {
  extern __shared__ __align__(16) unsigned char tracin_shared[];
  return reinterpret_cast<T*>(tracin_shared);
}

template <typename... Parameters, typename... Arguments>
void run(const char* name, void (*kernel)(Parameters...), const Launch& shape, void* stream, Arguments... arguments) {
  if (!shape.blocks) return;
  kernel<<<shape.blocks, shape.threads, shape.shared, static_cast<cudaStream_t>(stream)>>>(arguments...);
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess)
    throw std::runtime_error(std::string("CUDA kernel ") + name + ": " + cudaGetErrorString(error));
}

}  // namespace tracin::cuda
#endif
