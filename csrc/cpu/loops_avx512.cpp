#define TRACIN_ISA isa_avx512
#define TRACIN_VECTOR_BYTES 64
#include "loops.inl"
