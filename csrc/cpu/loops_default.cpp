#define TRACIN_ISA isa_default
#define TRACIN_VECTOR_BYTES 16
#include "loops.inl"
