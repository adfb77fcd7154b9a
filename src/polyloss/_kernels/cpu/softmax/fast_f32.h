/* The usual cases fast: logits of 32 or 16 bits, no second derivative, no poly term but for plain labels. columns_f32.h, rows_f32.h and
   in_place_f32.h have the loops for labels, soft_targets_f32.h those for soft targets and for class weights with smoothing; tile.h says
   what they compute. */
#ifndef POLYLOSS_SOFTMAX_FAST_H
#define POLYLOSS_SOFTMAX_FAST_H
#include "cpu/softmax/general_f64.h"

#if W > 1
#include "cpu/softmax/columns_f32.h"
#include "cpu/softmax/in_place_f32.h"
#include "cpu/softmax/rows_f32.h"
#include "cpu/softmax/soft_targets_f32.h"

static void redo_in_f64(const softmax_job *j, ptrdiff_t first, fast_scratch *x)
{
    for (ptrdiff_t i = 0; i < x->redo.count; i++) {
        softmax_sums sums = {.bad = -1};
        softmax_f64(j, first + x->redo.positions[i], 1, x->redo.scratch, &sums, 1);
        if (x->summed)
            x->total += sums.total;
        else
            x->loss[x->redo.positions[i]] = sums.total;
    }
    x->redo.count = 0;
}

static double sum_row(const double *x, ptrdiff_t count)
{
    vd total = all_d(0.0);
    for (ptrdiff_t i = 0; i < count; i += WD) total += count - i < WD ? load_part_d(x + i, count - i) : load_d(x + i);
    return sum_d(total);
}
static void softmax_f32(const softmax_job *j, ptrdiff_t first, ptrdiff_t count, void *at, softmax_sums *sums)
{
    fast_scratch x;
    fast_layout(j, at, &x);
    read_tile(j, first, count, &x, sums);
    if (softmax_in_place(j)) {
        sum_in_place(j, first, count, &x);
        redo_in_f64(j, first, &x);
        write_in_place(j, first, count, &x);
    } else if (x.soft_targets && is_columns(j))
        soft_target_columns(j, first, count, &x);
    else if (x.soft_targets)
        soft_target_rows(j, first, count, &x);
    else if (is_columns(j))
        columns(j, first, count, &x);
    else
        rows(j, first, count, &x);
    redo_in_f64(j, first, &x);
    put_tile(j, &j->losses, first, count, x.loss);
    sums->total = x.summed ? x.total : sum_row(x.loss, count);
    if (x.soft_targets) sums->weights = sum_row(x.soft.counted, count);
    fence();
}
#endif
#endif
