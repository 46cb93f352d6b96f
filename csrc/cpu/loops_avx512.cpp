#define TRACIN_ISA isa_avx512
#include "loops.inl"
