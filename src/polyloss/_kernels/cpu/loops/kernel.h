/* What the driver (driver.pyx) and the loops of the kernels, compiled once per instruction set, know of each other: one call, described in
   one way for all of them; how it is cut into tasks; and what a task finds. */
#ifndef POLYLOSS_KERNEL_H
#define POLYLOSS_KERNEL_H
#include <stddef.h>
#include <stdint.h>
#include "simd/isa.h"
#include "simd/storage.h"

enum { AT_T, AT_P, AT_WEIGHT, AT_CLASS_WEIGHT, AT_LOSSES, AT_GRAD, AT_HESS, AT_PROB, ARRAYS };
enum { PARAMETERS = 8 };
/* What the driver may do with the axes of a call. */
enum kernel_order {
    KEEP_ORDER, /* make one axis of n and s where they lie as one */
    REORDER_POSITIONS, /* and let the one of them whose positions are closer in memory be s */
    REORDER_ELEMENTS /* and treat c as the others where positions need not be told apart */
};

typedef struct {
    ptrdiff_t n, c, s; /* lengths: of the outer and inner axis of positions, and of classes or elements between them */
    union {
        struct {
            strided_array t; /* (n, c, s) targets, or (n, s) labels or numbers */
            strided_array p; /* (n, c, s) predictions */
            strided_array weight; /* (n, s) of positions */
            strided_array class_weight; /* (c,) */
            strided_array losses; /* (n, s), written */
            strided_array grad, hess, prob; /* (n, c, s) of the type of p, written */
        };
        struct {
            strided_array y, z; /* targets and logits */
        };
        strided_array arrays[ARRAYS]; /* all of them, in the order of AT_T … */
    };
    int loss;     /* index in the kernel's list of losses */
    int doubles;  /* compute in double, else in float */
    int labelled; /* t holds labels */
    int soft;     /* a softmax loss whose t are targets */
    union {
        double parameters[PARAMETERS]; /* in the order of the kernel's list */
        struct {
            double smoothing, poly, z_loss, cap; /* of the softmax losses; cap: 0 for none */
        };
        struct {
            double low, high; /* log_loss: what the picked probability is clipped to */
        };
    };
    double mean;  /* 1/c or 1: what the sum over a position's elements is multiplied by */
    double scale; /* of derivatives, mean included */
    uint64_t classes, base; /* class = label - base, in 0 … classes - 1 */
    const int64_t *ignore;  /* labels to skip, that t's type can hold; those of uint64 as the bits of an int64 */
    ptrdiff_t ignored;      /* how many */
    ptrdiff_t run; /* sets: so many elements lie in one run, evenly apart; c if all do */
    uint8_t *seen; /* log_loss, (classes,): set to 1 where a class occurs; or NULL */
    int rescale;   /* log_loss: divide the picked probability by the sum of its row */
    ptrdiff_t flat_n, flat_s; /* a position's index as the caller counts is n * flat_n + s * flat_s */
    int over;      /* grad is the memory of p */
    /* What `cut` decides. */
    ptrdiff_t tasks;
    size_t scratch; /* bytes that one thread needs for its tasks, aligned to 64 */
    int columns;    /* positions are nearer to each other in memory than a position's elements or classes are; see `lay` */
    int stream;     /* elementwise: outputs are too large for the caches; softmax: they are no scratch */
    ptrdiff_t segments; /* elementwise, sets: tasks per row: more than 1 where rows are long */
    ptrdiff_t rows;     /* elementwise: rows per task: more than 1 where they are short; columns: tiles of positions per task */
    size_t between; /* sets: bytes that the first visit keeps for the second, at `kept`; 0: a task makes both */
    void *kept;
    ptrdiff_t tile, tiles, tiles_per_task; /* positions worked through together; how many such tiles an outer step has; of a task */
} kernel_job;

typedef struct {
    double total, weights; /* Σ w l; Σ w of positions not ignored, for the softmax losses times the targets' class weights */
    int64_t count, bad;    /* positions not ignored; the first bad label's index, or -1 */
    double least, most, off; /* log_loss: of all probabilities, least is NaN if one of them is; greatest |sum of a row - 1| */
} kernel_sums;

typedef struct kernel_loops {
    enum kernel_order order;
    int cost; /* of an element, in tenths of a nanosecond: whether threads pay */
    void (*cut)(kernel_job *); /* into tasks, which depend on shapes, strides and types alone */
    void (*task)(const kernel_job *, ptrdiff_t task, void *scratch, kernel_sums *); /* adds to the sums */
    const struct kernel_loops *binary; /* elementwise: count tasks in which some t at a weight other than 0 is neither 0 nor 1 */
    void (*join)(const kernel_job *, kernel_sums *); /* sets: what the tasks have kept, before `second`, whose tasks make derivatives */
    const struct kernel_loops *second;
} kernel_loops;

typedef struct {
    const char *name, *parameters; /* the latter separated by blanks */
    int labels; /* whether targets are labels; 2: or not; 3: they are numbers, one for each position */
} listed_loss;
#endif
