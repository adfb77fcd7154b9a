/* What values.pyx and the loops of values_simd.c, compiled once per instruction set, know of each other. */
#ifndef POLYLOSS_VALUES_H
#define POLYLOSS_VALUES_H
#include "cpu/loops/kernel.h"
#include "formulas/values.h"

#define VALUES_TILE 256 /* positions; the rooms of a task stay in the first-level cache */
#define VALUES_TASK (1 << 14) /* positions of a task */

#define DECLARE_(isa) extern const kernel_loops values_loops_##isa;
POLYLOSS_ISAS(DECLARE_)
#undef DECLARE_
#endif
