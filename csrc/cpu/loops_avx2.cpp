#define TRACIN_ISA isa_avx2
#include "loops.inl"
