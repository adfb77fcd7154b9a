/* Lines of numbers of any kind and stride, to and from the type of computation; included after real.h. */
#include "formulas/factor.h"

#ifndef PREFETCH
#if defined __GNUC__
#define PREFETCH(p) __builtin_prefetch(p)
#else
#define PREFETCH(p) ((void)0)
#endif
#endif

/* n numbers of a kind, stride bytes apart, as the type of computation */
static void FORMULA(read_line)(int kind, const char *from, ptrdiff_t stride, ptrdiff_t n, one *to /* (n,) */)
{
#define LINE(type, read)                                                                                                                   \
    if (stride == (ptrdiff_t)sizeof(type))                                                                                                 \
        for (ptrdiff_t i = 0; i < n; i++) to[i] = (one)read(((const type *)from)[i]);                                                      \
    else                                                                                                                                   \
        for (ptrdiff_t i = 0; i < n; i++) to[i] = (one)read(*(const type *)(from + i * stride));                                           \
    break;
    switch (kind) {
    case TYPE_F32: LINE(float, )
    case TYPE_F64: LINE(double, )
    case TYPE_F16: LINE(uint16_t, half_to_float)
    case TYPE_BF16: LINE(uint16_t, bf16_to_float)
    case TYPE_I8: LINE(int8_t, )
    case TYPE_I16: LINE(int16_t, )
    case TYPE_I32: LINE(int32_t, )
    case TYPE_I64: LINE(int64_t, )
    case TYPE_U8: LINE(uint8_t, )
    case TYPE_U16: LINE(uint16_t, )
    case TYPE_U32: LINE(uint32_t, )
    case TYPE_U64: LINE(uint64_t, )
    }
#undef LINE
}
static void FORMULA(write_line)(int kind, char *to, ptrdiff_t stride, ptrdiff_t n, const one *from /* (n,) */)
{
#define LINE(type, write)                                                                                                                  \
    if (stride == (ptrdiff_t)sizeof(type))                                                                                                 \
        for (ptrdiff_t i = 0; i < n; i++) ((type *)to)[i] = write(from[i]);                                                                \
    else                                                                                                                                   \
        for (ptrdiff_t i = 0; i < n; i++) *(type *)(to + i * stride) = write(from[i]);                                                     \
    break;
    switch (kind) {
    case TYPE_F32: LINE(float, (float))
    case TYPE_F64: LINE(double, (double))
    case TYPE_F16: LINE(uint16_t, float_to_half)
    case TYPE_BF16: LINE(uint16_t, float_to_bf16)
    }
#undef LINE
}
INLINE int FORMULA(in_place)(int kind, ptrdiff_t outer, ptrdiff_t m, ptrdiff_t inner, ptrdiff_t len)
{
    return kind == KIND && inner == (ptrdiff_t)sizeof(one) && (m == 1 || outer == len * inner);
}
INLINE double FORMULA(sum_line)(const one *x, ptrdiff_t n) /* in double */
{
    double s[8] = {0};
    ptrdiff_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int j = 0; j < 8; j++) s[j] += (double)x[i + j];
    for (; i < n; i++) s[0] += (double)x[i];
    return ((s[0] + s[4]) + (s[1] + s[5])) + ((s[2] + s[6]) + (s[3] + s[7]));
}
/* What multiplies a position's derivatives: `first`, and the result then `rest`, which is 1 where scale times weight is a normal number, as
   it most often is. Of a weight of 0 first is 0, even if the sum of the weights is NaN. */
typedef struct {
    one first, rest;
} FORMULA(factor);
INLINE int FORMULA(is_normal)(one k)
{
    const one size = k < 0 ? -k : k;
    return size >= (sizeof(one) == 4 ? (one)FLT_MIN : (one)DBL_MIN) && size <= (sizeof(one) == 4 ? (one)FLT_MAX : (one)DBL_MAX);
}
INLINE FORMULA(factor) FORMULA(factor_of)(double scale, one weight)
{
    const one k = weight == 0 ? 0 : (one)(scale * (double)weight);
    if (weight == 0 || scale == 0 || FORMULA(is_normal)(k)) return (FORMULA(factor)){k, 1};
    const split_factor x = in_two(scale, (double)weight, sizeof(one) == 4 ? FLT_MIN : DBL_MIN, sizeof(one) == 4 ? 0x1p-149 : 0x1p-1074);
    return (FORMULA(factor)){(one)x.first, (one)x.rest};
}
/* Those of n positions; whether some rest is not 1, else they are not written. */
INLINE int FORMULA(factors)(double scale, const one *weight, ptrdiff_t n, one *first /* (n,) */, one *rest /* (n,) */)
{
    const real least = R(sizeof(one) == 4 ? (one)FLT_MIN : (one)DBL_MIN), most = R(sizeof(one) == 4 ? (one)FLT_MAX : (one)DBL_MAX);
    int odd = 0;
    for (ptrdiff_t i = 0; i < n; i++) first[i] = weight[i] == 0 ? 0 : (one)(scale * (double)weight[i]);
    for (ptrdiff_t i = 0; i < n; i += LANES) {
        const ptrdiff_t m = n - i < LANES ? n - i : LANES;
        const real size = ABS(m < LANES ? LOAD_PART(first + i, m) : LOAD(first + i)); /* beyond n both are 0 */
        const MASK none = EQ(m < LANES ? LOAD_PART(weight + i, m) : LOAD(weight + i), R(0));
        odd |= !EVERY(OR(AND(LE(least, size), LE(size, most)), none));
    }
    for (ptrdiff_t i = 0; odd && i < n; i++) {
        const FORMULA(factor) k = FORMULA(factor_of)(scale, weight[i]);
        first[i] = k.first, rest[i] = k.rest;
    }
    return odd;
}
INLINE void FORMULA(multiply)(one *x, one by, ptrdiff_t n)
{
    for (ptrdiff_t i = 0; i < n; i++) x[i] *= by;
}
