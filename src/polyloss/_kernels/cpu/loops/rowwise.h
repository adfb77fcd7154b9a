/* What rowwise.pyx and the loops of rowwise_simd.c, compiled once per instruction set, know of each other. */
#ifndef POLYLOSS_LOOPS_ROWWISE_H
#define POLYLOSS_LOOPS_ROWWISE_H
#include "cpu/loops/kernel.h"
#include "formulas/rowwise.h"

#define ROWWISE_TILE 64 /* positions; so many floats of a class are four lines of the cache */
#define ROWWISE_ROWS (1 << 11) /* elements of a tile whose rows are copied */
#define ROWWISE_TASK (1 << 15) /* elements of a task */

#define DECLARE_(isa) extern const kernel_loops rowwise_loops_##isa;
POLYLOSS_ISAS(DECLARE_)
#undef DECLARE_
#endif
