#define TRACIN_ISA isa_avx2
#define TRACIN_VECTOR_BYTES 32
#include "loops.inl"
