/* The softmax losses' names for what kernel.h describes. */
#ifndef POLYLOSS_SOFTMAX_XENT_H
#define POLYLOSS_SOFTMAX_XENT_H
#include "cpu/loops/kernel.h"

typedef strided_array softmax_array;
typedef kernel_job softmax_job;
typedef kernel_sums softmax_sums;

/* Positions in a tile: half a megabyte of floats, a multiple of every chunk up to 2047 classes. */
static inline ptrdiff_t softmax_tile(const softmax_job *j)
{
    const ptrdiff_t t = 131072 / (j->c + 1) / 64 * 64;
    return t < 16 ? 16 : t > 1024 ? 1024 : t;
}

#define SOFTMAX(X) X(softmax_xent, "label_smoothing poly_epsilon z_loss softcap", 2)

#define DECLARE_(isa) extern const kernel_loops softmax_loops_##isa;
POLYLOSS_ISAS(DECLARE_)
#undef DECLARE_
#endif
