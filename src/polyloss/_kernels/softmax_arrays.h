/* Elements of any type at any stride, in and out of rows of doubles or floats; labels as classes. Included by softmax_xent_rows.c. */
#ifndef POLYLOSS_SOFTMAX_ARRAYS_H
#define POLYLOSS_SOFTMAX_ARRAYS_H
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "softmax_xent.h"
#include "vector_math.h"

enum { IGNORED = -1, BAD = -2 };

#define AS_IS(x) (x)
/* count elements at a stride; the usual stride told apart so that the compiler can vectorise it. */
#define GATHER(TYPE, CONVERT)                                                                                                              \
    if (stride == sizeof(TYPE))                                                                                                            \
        for (ptrdiff_t i = 0; i < count; i++) to[i] = CONVERT(((const TYPE *)from)[i]);                                                    \
    else                                                                                                                                   \
        for (ptrdiff_t i = 0; i < count; i++) to[i] = CONVERT(*(const TYPE *)(from + i * stride));                                         \
    break
#define SCATTER(TYPE, CONVERT)                                                                                                             \
    if (stride == sizeof(TYPE))                                                                                                            \
        for (ptrdiff_t i = 0; i < count; i++) ((TYPE *)to)[i] = (TYPE)CONVERT(from[i]);                                                    \
    else                                                                                                                                   \
        for (ptrdiff_t i = 0; i < count; i++) *(TYPE *)(to + i * stride) = (TYPE)CONVERT(from[i]);                                         \
    break
#define GATHERS(real, x)                                                                                                                   \
    static inline void gather_##x(real *to, const char *from, ptrdiff_t stride, int type, ptrdiff_t count)                                 \
    {                                                                                                                                      \
        switch (type) {                                                                                                                    \
        case TYPE_F32: GATHER(float, AS_IS);                                                                                               \
        case TYPE_F64: GATHER(double, AS_IS);                                                                                              \
        case TYPE_F16: GATHER(uint16_t, half_to_float);                                                                                    \
        case TYPE_BF16: GATHER(uint16_t, bf16_to_float);                                                                                 \
        }                                                                                                                                  \
    }                                                                                                                                      \
    static inline void scatter_##x(char *to, const real *from, ptrdiff_t stride, int type, ptrdiff_t count)                                \
    {                                                                                                                                      \
        switch (type) {                                                                                                                    \
        case TYPE_F32: SCATTER(float, AS_IS);                                                                                              \
        case TYPE_F64: SCATTER(double, AS_IS);                                                                                             \
        case TYPE_F16: SCATTER(uint16_t, float_to_half);                                                                                   \
        case TYPE_BF16: SCATTER(uint16_t, float_to_bf16);                                                                                \
        }                                                                                                                                  \
    }
GATHERS(float, f)
GATHERS(double, d)
INLINE char *place(const softmax_array *a, ptrdiff_t n, ptrdiff_t s) { return a->at + n * a->n + s * a->s; }
static double one(const softmax_array *a, ptrdiff_t n, ptrdiff_t s) /* a weight, 1 where there is none */
{
    if (!a->at) return 1;
    return a->type == TYPE_F32 ? (double)*(const float *)place(a, n, s) : *(const double *)place(a, n, s);
}

/* Labels of `count` neighbours along s as classes, IGNORED or BAD. Every integer is compared as the number it is: the ignore values that
   its type cannot hold were dropped, a negative one is above every class once it counts as unsigned. */
#define LABELS(TYPE)                                                                                                                       \
    if (stride == sizeof(TYPE) && j->ignored == 0)                                                                                         \
        for (ptrdiff_t i = 0; i < count; i++) {                                                                                            \
            uint64_t v = (uint64_t)((const TYPE *)from)[i];                                                                                \
            to[i] = v < classes ? (int32_t)v : BAD;                                                                                        \
        }                                                                                                                                  \
    else if (stride == sizeof(TYPE) && j->ignored == 1) {                                                                                  \
        const uint64_t ignore = (uint64_t)j->ignore[0];                                                                                    \
        for (ptrdiff_t i = 0; i < count; i++) {                                                                                            \
            uint64_t v = (uint64_t)((const TYPE *)from)[i];                                                                                \
            int32_t known = v < classes ? (int32_t)v : BAD;                                                                                \
            to[i] = v == ignore ? IGNORED : known;                                                                                         \
        }                                                                                                                                  \
    } else                                                                                                                                 \
        for (ptrdiff_t i = 0; i < count; i++) {                                                                                            \
            uint64_t v = (uint64_t) * (const TYPE *)(from + i * stride);                                                                   \
            to[i] = v < classes ? (int32_t)v : BAD;                                                                                        \
            for (ptrdiff_t k = 0; k < j->ignored; k++)                                                                                     \
                if (v == (uint64_t)j->ignore[k]) to[i] = IGNORED;                                                                          \
        }                                                                                                                                  \
    break
static void read_labels(int32_t *to, const softmax_job *j, ptrdiff_t n, ptrdiff_t s, ptrdiff_t count)
{
    const char *from = place(&j->y, n, s);
    const ptrdiff_t stride = j->y.s;
    const uint64_t classes = (uint64_t)j->c;
    switch (j->y.type) {
    case TYPE_I8: LABELS(int8_t);
    case TYPE_I16: LABELS(int16_t);
    case TYPE_I32: LABELS(int32_t);
    case TYPE_I64: LABELS(int64_t);
    case TYPE_U8: LABELS(uint8_t);
    case TYPE_U16: LABELS(uint16_t);
    case TYPE_U32: LABELS(uint32_t);
    case TYPE_U64: LABELS(uint64_t);
    }
}
#endif
