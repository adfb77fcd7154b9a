/* What log_loss.pyx tells the row primitives in log_loss_rows.c, and what they find. */
#ifndef POLYLOSS_LOG_LOSS_H
#define POLYLOSS_LOG_LOSS_H
#include "storage.h"

typedef struct {
    const char *p;  /* (rows, columns) probabilities; one column: those of the second of two classes */
    ptrdiff_t rows, columns, row_stride, column_stride; /* strides in bytes, here and below */
    int single; /* float, else double */
    const char *labels; /* (rows,) */
    ptrdiff_t label_stride;
    int label_type;
    uint64_t base, classes; /* class = label - base, in 0 … classes - 1 */
    uint8_t *seen; /* (classes,): set to 1 where a class occurs; or NULL */
    const char *weight; /* (rows,) doubles, or NULL */
    ptrdiff_t weight_stride;
    double low, high; /* what the picked probability is clipped to */
    int rescale; /* after it was divided by the sum of its row; never of one column */
    double *losses; /* (rows,) without weights, in one piece; or NULL */
} log_loss_job;

typedef struct {
    double total; /* sum of weight * loss */
    double least, most; /* of all probabilities; least is NaN if one of them is */
    double off; /* greatest |sum of a row - 1| */
    int64_t bad; /* first row whose label is no class, or -1 */
} log_loss_sums;

typedef struct {
    ptrdiff_t (*tile)(const log_loss_job *); /* rows worked through together: depends on shape and strides alone */
    void (*run)(const log_loss_job *, ptrdiff_t first, ptrdiff_t count, log_loss_sums *);
} log_loss_rows;
#endif
