/* Softmax cross-entropy: the loops over one tile of positions. Compiled once per instruction set (setup.py, isa.h). */
#include "simd/isa.h"
#include "cpu/softmax/arrays.h"
#include "cpu/softmax/fast_f32.h"
#include "cpu/softmax/job.h"
#include "cpu/softmax/turned.h"
#include "simd/vector_math.h"

/* ---- What the driver calls ---- */

static size_t size_of(const softmax_job *j) /* of the scratch for positions as they lie */
{
    general_scratch x;
    ptrdiff_t size = general_layout(j, 0, &x);
#if W > 1
    fast_scratch f;
    if (is_fast(j)) size += fast_layout(j, 0, &f);
#endif
    return (size_t)(size + 63) / 64 * 64;
}
static void cut(softmax_job *j)
{
    const ptrdiff_t tile = softmax_tile(j);
    j->tasks = (j->n * j->s + tile - 1) / tile;
    j->stream = 1;
    j->scratch = size_of(j);
#if W > 1
    if (is_turned(j)) j->scratch += turned_size(j);
#endif
}
static void task(const softmax_job *j, ptrdiff_t number, void *scratch, softmax_sums *sums)
{
    const ptrdiff_t tile = softmax_tile(j), first = number * tile, left = j->n * j->s - first, count = left < tile ? left : tile;
#if W > 1
    if (is_turned(j)) {
        turned(j, first, count, scratch, (float *)((char *)scratch + size_of(j)), sums);
        return;
    }
    if (is_fast(j)) {
        softmax_f32(j, first, count, scratch, sums);
        return;
    }
#endif
    softmax_f64(j, first, count, scratch, sums, 0);
}
const kernel_loops WITH_ISA(softmax_loops) = {.order = KEEP_ORDER, .cost = 4, .cut = cut, .task = task};
