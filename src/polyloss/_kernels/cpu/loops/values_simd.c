/* Loops of the losses of one number at each position, of which two are predicted, for one instruction set; setup.py compiles this file once
   for each. A vector holds several positions, however these lie. */
#include "cpu/loops/kernel.h"
#include "formulas/values.h"
#include "simd/vector_math.h"

#define VALUES_TILE 256 /* positions; the rooms of a task stay in the first-level cache */
#define VALUES_TASK (1 << 14) /* positions of a task */

#define DOUBLES 0
#include "simd/real.h"
#include "formulas/values.h"
#include "simd/lines.h"
#include "cpu/loops/values_loops.h"

#define DOUBLES 1
#include "simd/real.h"
#include "formulas/values.h"
#include "simd/lines.h"
#include "cpu/loops/values_loops.h"

static void cut(kernel_job *job)
{
    job->tile = VALUES_TILE;
    job->tiles = (job->s + job->tile - 1) / job->tile;
    job->tiles_per_task = VALUES_TASK / (job->s < job->tile ? job->s : job->tile);
    job->tasks = (job->n * job->tiles + job->tiles_per_task - 1) / job->tiles_per_task;
    job->scratch = 0;
}
static void task(const kernel_job *job, ptrdiff_t at, void *scratch, kernel_sums *sums)
{
    (void)scratch;
    (job->doubles ? task_d : task_f)(job, at, sums);
}

const kernel_loops WITH_ISA(values_loops) = {.order = REORDER_POSITIONS, .cost = 4, .cut = cut, .task = task};
