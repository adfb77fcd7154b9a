/* What sets.pyx and the loops of sets_simd.c, compiled once per instruction set, know of each other. */
#ifndef POLYLOSS_SETS_H
#define POLYLOSS_SETS_H
#include "cpu/loops/kernel.h"

#define SETS_SEGMENT 32768 /* elements of a task, of a multiple of SETS_BLOCK, so that a set's sum depends on its length alone */
#define SETS_BLOCK 512 /* elements summed in lanes of the type before they go to a double */
#define SETS_SHORT 64 /* elements that are added one after the other, each in a lane of its set */
#define SETS_TILE 64 /* sets that are gone through together where they are short or lie beside each other */
#define SETS_FEW 6 /* sets beside each other, as of images of few classes, that are gone through one by one: 0.8 ns an element for 2.4 */
#define SETS_STREAM (1 << 23) /* bytes of output that no cache should be filled with */

#define DECLARE_(isa) extern const kernel_loops sets_loops_##isa;
POLYLOSS_ISAS(DECLARE_)
#undef DECLARE_
#endif
