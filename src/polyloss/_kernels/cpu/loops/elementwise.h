/* What elementwise.pyx and the loops of elementwise_simd.c, compiled once per instruction set, know of each other. */
#ifndef POLYLOSS_LOOPS_ELEMENTWISE_H
#define POLYLOSS_LOOPS_ELEMENTWISE_H
#include "cpu/loops/kernel.h"

#define ELEMENTWISE_SEGMENT 32768 /* elements of a task: 1/10 ms, so that threads share evenly and starting a task costs nothing */
#define ELEMENTWISE_TILE 1024 /* elements; the rooms of a task stay in the first-level cache */
#define ELEMENTWISE_STREAM (1 << 23) /* bytes of output that no cache should be filled with */

/* Positions beside each other that are gone through together: fewer where the sum of each goes in lanes, since those are kept, too. */
static inline ptrdiff_t elementwise_tile(const kernel_job *job)
{
    return job->c > ELEMENTWISE_TILE / 2 ? ELEMENTWISE_TILE / 4 : ELEMENTWISE_TILE;
}

/* One function of vector_math.h on n numbers, for its tests; y beside x. */
typedef void elementwise_math(int function, int doubles, const void *x, void *y, ptrdiff_t n, double parameter);

#define DECLARE_(isa)                                                                                                                      \
    extern const kernel_loops elementwise_loops_##isa;                                                                                     \
    extern elementwise_math *const elementwise_math_##isa;
POLYLOSS_ISAS(DECLARE_)
#undef DECLARE_
#endif
