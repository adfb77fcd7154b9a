/* Loops of the losses that consume a row of classes, except those from logits, for one instruction set; setup.py compiles this file once
   for each.

   A row is read once from memory: its sum, then value and slopes while it is in the cache. Positions that lie beside each other (classes far
   apart) are turned into rows some dozens at a time. */
#include "cpu/loops/rowwise.h"
#include "cpu/loops/labels.h"
#include "simd/vector_math.h"
#include <float.h>

#define DOUBLES 0
#include "simd/real.h"
#include "formulas/elementwise.h"
#include "formulas/rowwise.h"
#include "simd/lines.h"
#include "cpu/loops/rowwise_loops.h"

#define DOUBLES 1
#include "simd/real.h"
#include "formulas/elementwise.h"
#include "formulas/rowwise.h"
#include "simd/lines.h"
#include "cpu/loops/rowwise_loops.h"

static void cut(kernel_job *job)
{
    job->tile = (job->columns ? ROWWISE_TASK / 2 : ROWWISE_ROWS) / job->c;
    job->tile = job->tile < 1 ? 1 : job->tile < ROWWISE_TILE ? job->tile : ROWWISE_TILE;
    if (job->tile > job->s) job->tile = job->s;
    job->tiles = (job->s + job->tile - 1) / job->tile;
    job->tiles_per_task = ROWWISE_TASK / (job->tile * job->c);
    if (job->tiles_per_task < 1) job->tiles_per_task = 1;
    job->tasks = (job->n * job->tiles + job->tiles_per_task - 1) / job->tiles_per_task;
    job->scratch = (4 * (size_t)job->tile + 2) * (size_t)job->c * (job->doubles ? sizeof(double) : sizeof(float));
}
static void task(const kernel_job *job, ptrdiff_t at, void *scratch, kernel_sums *sums)
{
    (job->doubles ? task_d : task_f)(job, at, scratch, sums);
}

const kernel_loops WITH_ISA(rowwise_loops) = {REORDER_POSITIONS, 2, cut, task, NULL};
