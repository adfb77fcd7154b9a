/* What softmax_xent.pyx and the loops of the softmax losses know of each other: the names for what kernel.h describes, and limits. */
#ifndef POLYLOSS_SOFTMAX_JOB_H
#define POLYLOSS_SOFTMAX_JOB_H
#include "cpu/loops/kernel.h"

typedef strided_array softmax_array;
typedef kernel_job softmax_job;
typedef kernel_sums softmax_sums;

#define FEW 192 /* classes up to which rows are transposed; of more the gradient may replace float logits */

/* Whether slopes replace logits that lie class by class, of positions that are neighbours: in_place_f32.h. */
static inline int softmax_in_place(const softmax_job *j)
{
    const int planes = j->n == 1 && j->columns && j->z.type == TYPE_F32 && j->z.s == 4;
    const int labels = !j->soft && !(j->smoothing != 0 && j->class_weight.at);
    return planes && labels && j->over && j->grad.s == 4 && j->grad.c == j->z.c && j->c > FEW && !j->prob.at && !j->hess.at;
}
/* Positions in a tile: half a megabyte of floats, a multiple of every chunk up to 2047 classes; in place as many as are read fast one class
   after another, of 1024 so many that four threads have work. */
static inline ptrdiff_t softmax_tile(const softmax_job *j)
{
    if (softmax_in_place(j)) return 256;
    const ptrdiff_t t = 131072 / (j->c + 1) / 64 * 64;
    return t < 16 ? 16 : t > 1024 ? 1024 : t;
}

#endif
