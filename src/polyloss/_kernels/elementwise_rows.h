/* What elementwise.pyx and the loops of elementwise_rows.c, compiled once per instruction set, know of each other. */
#ifndef POLYLOSS_ELEMENTWISE_ROWS_H
#define POLYLOSS_ELEMENTWISE_ROWS_H

#include "isa.h"
#include "storage.h"
#include <stddef.h>
#include <stdint.h>

#define ELEMENTWISE_SEGMENT 32768 /* elements of a task: 1/10 ms, so that threads share evenly and starting a task costs nothing */

#define ELEMENTWISE_TILE 1024 /* elements; the rooms of a task stay in the first-level cache */

/* An array along the job's axes a, b (positions, outer and inner) and e (elements of a position); strides in bytes. */
typedef struct {
    char *data; /* NULL: not given */
    int kind;
    ptrdiff_t a, b, e;
} elementwise_array;

typedef struct {
    int formula; /* index in FORMULAS */
    int doubles; /* compute in double, else in float */
    int columns; /* positions lie beside each other in memory; else the elements of a position do */
    ptrdiff_t A, B, E;
    union {
        struct {
            elementwise_array t, p, weight, losses, grad, hess; /* weight, losses: (A, B) */
        };
        elementwise_array arrays[6]; /* the same */
    };
    double parameters[8];
    double mean;  /* 1/C or 1: what a position's sum is multiplied by */
    double scale; /* of gradients, mean included */
    int stream;   /* outputs are too large for the caches */
    ptrdiff_t segments; /* tasks per row: more than 1 where rows are long */
    ptrdiff_t rows;     /* rows per task: more than 1 where they are short; columns: tiles of positions per task */
    ptrdiff_t tasks;
} elementwise_job;

typedef struct {
    /* Do one task: *total += Σ w l (segments > 1: the segment's unweighted sum), *weights += Σ w. */
    void (*task)(const elementwise_job *job, ptrdiff_t task, double *total, double *weights);
    /* Whether some t of the task, at a position of weight other than 0, is neither 0 nor 1. */
    int (*not_binary)(const elementwise_job *job, ptrdiff_t task);
    /* One function of vector_math.h on n numbers, for its tests; y beside x. */
    void (*math)(int function, int doubles, const void *x, void *y, ptrdiff_t n, double parameter);
} elementwise_rows;

#define DECLARE_(isa) extern const elementwise_rows elementwise_rows_##isa;
POLYLOSS_ISAS(DECLARE_)
#undef DECLARE_
#endif
