/* Softmax cross-entropy: the loops over one tile of positions. Compiled once per instruction set (setup.py, isa.h). */
#include "isa.h"
#include "softmax_arrays.h"
#include "softmax_fast.h"
#include "softmax_xent.h"
#include "vector_math.h"

/* ---- What the module calls ---- */

static ptrdiff_t scratch(const softmax_job *j)
{
    general_scratch x;
    const ptrdiff_t plain = general_layout(j, 0, &x);
#if W > 1
    fast_scratch f;
    if (is_fast(j)) return plain + fast_layout(j, 0, &f);
#endif
    return plain;
}
static void run(const softmax_job *j, ptrdiff_t first, ptrdiff_t count, void *at, softmax_sums *sums)
{
    *sums = (softmax_sums){.bad = -1};
#if W > 1
    if (is_fast(j)) {
        fast(j, first, count, at, sums);
        return;
    }
#endif
    general(j, first, count, at, sums);
}
static void labels(const softmax_job *j, ptrdiff_t first, ptrdiff_t count, void *at, softmax_sums *sums)
{
    int32_t label[TOGETHER];
    (void)at;
    *sums = (softmax_sums){.bad = -1};
    for (ptrdiff_t q = first, step; q < first + count; q += step) {
        const ptrdiff_t n = q / j->s, s = q % j->s;
        step = TOGETHER;
        if (step > j->s - s) step = j->s - s;
        if (step > first + count - q) step = first + count - q;
        read_labels(label, j, n, s, step);
        for (ptrdiff_t i = 0; i < step; i++) {
            if (label[i] == IGNORED) continue;
            sums->count++;
            if (label[i] == BAD) {
                if (sums->bad < 0) sums->bad = q + i;
                continue;
            }
            const softmax_array *k = &j->class_weight;
            const double w = one(&j->weight, n, s + i);
            if (w != 0) sums->weight += w * (k->at ? one(&(softmax_array){.at = k->at + label[i] * k->c, .type = k->type}, 0, 0) : 1);
        }
    }
}
const softmax_xent_rows WITH_ISA(softmax_xent_rows) = {softmax_tile, scratch, run, labels};
