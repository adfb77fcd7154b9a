/* What rowwise.pyx and the loops of rowwise_rows.c, compiled once per instruction set, know of each other. */
#ifndef POLYLOSS_ROWWISE_ROWS_H
#define POLYLOSS_ROWWISE_ROWS_H

#include "isa.h"
#include "rowwise_formulas.h"
#include "storage.h"
#include <stddef.h>
#include <stdint.h>

#define ROWWISE_TILE 64 /* positions; so many floats of a class are four lines of the cache */

/* An array along the job's axes a, b (positions, outer and inner) and c (classes); strides in bytes. */
typedef struct {
    char *data; /* NULL: not given */
    int kind;
    ptrdiff_t a, b, c;
} rowwise_array;

typedef struct {
    int loss;    /* index in ROWWISE */
    int doubles; /* compute in double, else in float */
    ptrdiff_t A, B, C;
    rowwise_array t, p, weight, losses, grad, hess; /* labels, weight, losses: (A, B) */
    double parameters[ROWWISE_PARAMETERS];
    double scale; /* of slopes and curvatures */
    const uint64_t *ignored; /* (ignored_count,) labels to skip, as 64 bits */
    ptrdiff_t ignored_count;
    ptrdiff_t flat_a, flat_b; /* of a position: its flat index in (n, s) is a * flat_a + b * flat_b */
    ptrdiff_t tile; /* positions taken from memory together: more than 1 where they lie beside each other */
    ptrdiff_t tiles, tasks, tiles_per_task; /* tiles of one step of A; of all */
} rowwise_job;

typedef struct {
    double total, weights; /* Σ w l, Σ w of positions not ignored */
    ptrdiff_t kept;        /* count of positions not ignored */
    ptrdiff_t bad;         /* least flat index of a label that is no class, or -1 */
} rowwise_sums;

typedef struct {
    int (*task)(const rowwise_job *job, ptrdiff_t task, rowwise_sums *sums); /* 0, or 1 where memory is short */
} rowwise_rows;

#define DECLARE_(isa) extern const rowwise_rows rowwise_rows_##isa;
POLYLOSS_ISAS(DECLARE_)
#undef DECLARE_
#endif
