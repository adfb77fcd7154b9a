/* Softmax cross-entropy: the loops over one tile of positions. Compiled once per instruction set (setup.py, isa.h). */
#include "simd/isa.h"
#include "cpu/softmax/arrays.h"
#include "cpu/softmax/fast_f32.h"
#include "cpu/softmax/job.h"
#include "simd/vector_math.h"

/* ---- What the driver calls ---- */

static void cut(softmax_job *j)
{
    general_scratch x;
    const ptrdiff_t tile = softmax_tile(j), plain = general_layout(j, 0, &x);
    j->tasks = (j->n * j->s + tile - 1) / tile;
    j->scratch = (size_t)plain;
#if W > 1
    fast_scratch f;
    if (is_fast(j)) j->scratch = (size_t)(plain + fast_layout(j, 0, &f));
#endif
}
static void task(const softmax_job *j, ptrdiff_t number, void *scratch, softmax_sums *sums)
{
    const ptrdiff_t tile = softmax_tile(j), first = number * tile, left = j->n * j->s - first, count = left < tile ? left : tile;
#if W > 1
    if (is_fast(j)) {
        softmax_f32(j, first, count, scratch, sums);
        return;
    }
#endif
    softmax_f64(j, first, count, scratch, sums, 0);
}
const kernel_loops WITH_ISA(softmax_loops) = {KEEP_ORDER, 4, cut, task, NULL};
