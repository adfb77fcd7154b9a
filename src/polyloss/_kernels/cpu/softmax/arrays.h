/* Elements of any type at any stride, in and out of rows of doubles or floats. Included by softmax_xent_simd.c. */
#ifndef POLYLOSS_SOFTMAX_ARRAYS_H
#define POLYLOSS_SOFTMAX_ARRAYS_H
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "cpu/loops/labels.h"
#include "cpu/softmax/job.h"
#include "simd/vector_math.h"

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
        case TYPE_BF16: GATHER(uint16_t, bf16_to_float);                                                                                   \
        }                                                                                                                                  \
    }                                                                                                                                      \
    static inline void scatter_##x(char *to, const real *from, ptrdiff_t stride, int type, ptrdiff_t count)                                \
    {                                                                                                                                      \
        switch (type) {                                                                                                                    \
        case TYPE_F32: SCATTER(float, AS_IS);                                                                                              \
        case TYPE_F64: SCATTER(double, AS_IS);                                                                                             \
        case TYPE_F16: SCATTER(uint16_t, float_to_half);                                                                                   \
        case TYPE_BF16: SCATTER(uint16_t, float_to_bf16);                                                                                  \
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
#endif
