/* Loops of the losses that consume a row of classes, except those from logits, for one instruction set; setup.py compiles this file once
   for each.

   A row is read once from memory: its sum, then value and slopes while it is in the cache. Positions that lie beside each other (classes far
   apart) are turned into rows some dozens at a time. Labels are compared as 64-bit integers, never as floats. */
#include "rowwise_rows.h"
#include "vector_math.h"
#include <float.h>
#include <stdlib.h>

#define LABELLED(name, parameters, labels) labels,
static const int rowwise_labelled[] = {ROWWISE(LABELLED)};

/* Integers of any kind as 64 bits: signed ones keep their sign. */
static void read_labels(int kind, const char *from, ptrdiff_t stride, ptrdiff_t n, uint64_t *to /* (n,) */)
{
#define LINE(type)                                                                                                                         \
    for (ptrdiff_t i = 0; i < n; i++) to[i] = (uint64_t)(int64_t) * (const type *)(from + i * stride);                                     \
    break;
    switch (kind) {
    case TYPE_I8: LINE(int8_t)
    case TYPE_I16: LINE(int16_t)
    case TYPE_I32: LINE(int32_t)
    case TYPE_I64: LINE(int64_t)
    case TYPE_U8: LINE(uint8_t)
    case TYPE_U16: LINE(uint16_t)
    case TYPE_U32: LINE(uint32_t)
    case TYPE_U64: LINE(uint64_t)
    }
#undef LINE
}

#include "real_float.h"
#include "formulas.h"
#include "rowwise_formulas.h"
#include "lines.h"
#include "rowwise_loops.h"

#include "real_double.h"
#include "formulas.h"
#include "rowwise_formulas.h"
#include "lines.h"
#include "rowwise_loops.h"

static int task(const rowwise_job *job, ptrdiff_t at, rowwise_sums *sums) { return (job->doubles ? task_d : task_f)(job, at, sums); }

const rowwise_rows WITH_ISA(rowwise_rows) = {task};
