#define TRACIN_ISA isa_default
#include "loops.inl"
