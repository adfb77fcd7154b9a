/* How numbers lie in memory, and the two kinds that C has no type for. */
#ifndef POLYLOSS_STORAGE_H
#define POLYLOSS_STORAGE_H

#include <stdint.h>
#include <string.h>
#if defined __F16C__
#include <immintrin.h>
#endif

/* Only the first four are predictions, outputs and weights; all are targets. */
enum { F4, F8, F2, BF16, I1, I2, I4, I8, U1, U2, U4, U8 };

/* IEEE half precision and bfloat16, from and to their bits; rounded to the nearest, ties to even. */
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
    return (uint16_t)(x != x ? (b >> 16) | 0x40 : (b + 0x7fff + ((b >> 16) & 1)) >> 16);
}
static inline float half_to_float(uint16_t h)
{
#if defined __F16C__
    return _cvtsh_ss(h);
#else
    uint32_t body = h & 0x7fffu;
    float x = bits_to_float(body << 13) * 0x1p+112f; /* subnormal halves come right by the product */
    return bits_to_float(((uint32_t)(h & 0x8000) << 16) | (body >= 0x7c00 ? (body << 13) | 0x7f800000 : float_to_bits(x)));
#endif
}
static inline uint16_t float_to_half(float x)
{
#if defined __F16C__
    return _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT);
#else
    uint32_t b = float_to_bits(x), body = b & 0x7fffffff, sign = (b >> 16) & 0x8000;
    uint32_t tiny = float_to_bits(bits_to_float(body) + 0.5f) - 0x3f000000; /* the sum rounds at the subnormals' last place */
    uint32_t normal = (body - 0x38000000 + 0xfff + ((body >> 13) & 1)) >> 13;
    return (uint16_t)(sign | (body > 0x7f800000 ? 0x7e00 : body >= 0x477ff000 ? 0x7c00 : body < 0x38800000 ? tiny : normal));
#endif
}
#endif
