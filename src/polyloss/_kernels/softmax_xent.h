/* What softmax_xent.pyx tells the row primitives in softmax_xent_rows.c: arrays as bytes and strides, types, options. */
#ifndef POLYLOSS_SOFTMAX_XENT_H
#define POLYLOSS_SOFTMAX_XENT_H
#include "storage.h"

typedef strided_array softmax_array;

typedef struct {
    ptrdiff_t n, c, s; /* positions are numbered n * S + s */
    softmax_array z; /* (N, C, S) logits */
    softmax_array y; /* (N, S) integer labels, or (N, C, S) soft targets */
    softmax_array class_weight; /* (C,) */
    softmax_array weight, upstream; /* (N, S): of the position, in everything; of its gradient alone */
    softmax_array losses, lse; /* (N, S) outputs */
    softmax_array grad, prob, hess; /* (N, C, S) outputs, in z's type */
    const int64_t *ignore; /* labels that y's type can hold; those of uint64 as the bits of an int64 */
    ptrdiff_t ignored; /* how many */
    int soft; /* y holds soft targets */
    double smoothing, poly, scale;
} softmax_job;

/* Positions in a tile: half a megabyte of floats, a multiple of every chunk up to 2047 classes. */
static inline ptrdiff_t softmax_tile(const softmax_job *j)
{
    const ptrdiff_t t = 131072 / (j->c + 1) / 64 * 64;
    return t < 16 ? 16 : t > 1024 ? 1024 : t;
}

typedef struct {
    double total, weight; /* sum of w * loss; sum of w * k[label] */
    int64_t count, bad; /* positions not ignored; the first bad label's position, or -1 */
} softmax_sums;

typedef struct {
    ptrdiff_t (*tile)(const softmax_job *); /* positions in a tile: depends on shapes and types alone */
    ptrdiff_t (*scratch)(const softmax_job *); /* bytes that one thread needs */
    void (*run)(const softmax_job *, ptrdiff_t first, ptrdiff_t count, void *scratch, softmax_sums *);
    void (*labels)(const softmax_job *, ptrdiff_t first, ptrdiff_t count, void *scratch, softmax_sums *); /* count and weight alone */
} softmax_xent_rows;
#endif
