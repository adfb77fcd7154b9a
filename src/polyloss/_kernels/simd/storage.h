/* How arrays and their numbers lie in memory, and the two kinds of number that C has no type for. */
#ifndef POLYLOSS_STORAGE_H
#define POLYLOSS_STORAGE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Element types; predictions, outputs and weights are of the first four. */
enum { TYPE_F32, TYPE_F64, TYPE_F16, TYPE_BF16, TYPE_I8, TYPE_I16, TYPE_I32, TYPE_I64, TYPE_U8, TYPE_U16, TYPE_U32, TYPE_U64 };
typedef struct { /* an array with some of the axes (n, c, s) */
    char *at; /* NULL: absent */
    ptrdiff_t n, c, s; /* strides in bytes, 0 for an axis that it lacks or that has one entry */
    int type;
    ptrdiff_t run; /* likewise: from a run of c to the next, where a set's elements lie in several */
} strided_array;

/* IEEE half precision and bfloat16, from and to their bits; rounded to the nearest, ties to even. Without branches, so that loops
   vectorise. */
static inline float bits_to_float(uint32_t b)
{
    float x;
    memcpy(&x, &b, 4);
    return x;
}
static inline uint32_t float_to_bits(float x)
{
    uint32_t b;
    memcpy(&b, &x, 4);
    return b;
}
static inline float bf16_to_float(uint16_t h) { return bits_to_float((uint32_t)h << 16); }
static inline uint16_t float_to_bf16(float x)
{
    uint32_t b = float_to_bits(x);
    return (uint16_t)((b & 0x7fffffffu) > 0x7f800000u ? b >> 16 | 0x40u : (b + 0x7fffu + (b >> 16 & 1)) >> 16);
}
static inline float half_to_float(uint16_t h) /* subnormal halves come right by the product */
{
    uint32_t body = (h & 0x7fffu) << 13, top = (h & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0;
    return bits_to_float(float_to_bits(bits_to_float(body) * 0x1p112f) | top | (h & 0x8000u) << 16);
}
static inline uint16_t float_to_half(float x)
{
    uint32_t b = float_to_bits(x), body = b & 0x7fffffffu;
    uint32_t normal = (body + 0xc8000fffu + (body >> 13 & 1)) >> 13;
    uint32_t tiny = float_to_bits(bits_to_float(body) + 0.5f) - 0x3f000000u; /* the sum rounds at the subnormals' last place, 2^-24 */
    uint32_t h = body < 0x38800000u ? tiny : normal;
    h = body >= 0x477ff000u ? 0x7c00u : h;
    h = body > 0x7f800000u ? 0x7e00u : h;
    return (uint16_t)(h | (b >> 16 & 0x8000u));
}
#endif
