/* Loops of the losses that consume a row of classes, except those from logits, for one instruction set; setup.py compiles this file once
   for each.

   A row is read once from memory: its sum, then value and slopes while it is in the cache. Positions that lie beside each other (classes
   far apart) are turned into rows some dozens at a time. */
#include "cpu/loops/labels.h"
#include "formulas/rowwise.h"
#include "simd/vector_math.h"
#include <float.h>

#define ROWWISE_TILE 64 /* positions; so many floats of a class are four lines of the cache */
#define ROWWISE_ROWS (1 << 11) /* elements of a tile whose rows are copied */
#define ROWWISE_TASK (1 << 15) /* elements of a task */

#define EXPM1(x) FORMULA(expm1_near)(x)
#if W > 1
INLINE vd expm1_near_d(vd x) { return expm1_neg_d(x); }
INLINE vf expm1_near_f(vf x) /* through doubles */
{
    float lanes[W];
    store_f(lanes, x);
    for (int i = 0; i < W; i += WD) narrow(lanes + i, expm1_neg_d(widen(lanes + i)));
    return load_f(lanes);
}
#else
INLINE vd expm1_near_d(vd x) { return expm1(x); }
INLINE vf expm1_near_f(vf x) { return expm1f(x); }
#endif

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

/* Whether some array's rows are not worked on where they lie. */
static int copies(const kernel_job *job)
{
    const strided_array *each[] = {job->labelled ? &job->p : &job->t, &job->p, &job->grad, &job->hess};
    for (int i = 0; i < 4; i++)
        if (each[i]->at && !(job->doubles ? lies_d(each[i]) : lies_f(each[i]))) return 1;
    return job->hess.at && !job->grad.at;
}
static void cut(kernel_job *job)
{
    /* Rows that are copied stay in the first cache, but where they are turned. */
    const ptrdiff_t elements = !copies(job) ? ROWWISE_TASK : job->columns ? ROWWISE_TASK / 2 : ROWWISE_ROWS;
    job->tile = elements / job->c < ROWWISE_TILE ? elements / job->c : ROWWISE_TILE;
    if (job->tile > job->s) job->tile = job->s;
    if (job->tile < 1) job->tile = 1;
    job->tiles = (job->s + job->tile - 1) / job->tile;
    job->tiles_per_task = ROWWISE_TASK / (job->tile * job->c);
    if (job->tiles_per_task < 1) job->tiles_per_task = 1;
    job->tasks = (job->n * job->tiles + job->tiles_per_task - 1) / job->tiles_per_task;
    job->scratch = ((copies(job) ? 4 * (size_t)job->tile : 0) + 2) * (size_t)job->c * (job->doubles ? sizeof(double) : sizeof(float));
}
static void task(const kernel_job *job, ptrdiff_t at, void *scratch, kernel_sums *sums)
{
    (job->doubles ? task_d : task_f)(job, at, scratch, sums);
}

const kernel_loops WITH_ISA(rowwise_loops) = {.order = REORDER_POSITIONS, .cost = 2, .cut = cut, .task = task};
