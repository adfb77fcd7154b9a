/* Sums of exponentials in float32 against a reference, and the vectors they need beside vector_math.h. */
#ifndef POLYLOSS_SOFTMAX_EXP_H
#define POLYLOSS_SOFTMAX_EXP_H
#include "simd/vector_math.h"

#define LN2 0x1.62e42fefa39efp-1

typedef int32_t vi_anywhere __attribute__((vector_size(4 * W), aligned(4)));
INLINE vd as_doubles(vf v)
{
    float a[W];
    store_f(a, v);
    return widen(a) + widen(a + WD);
}
/* W doubles as two floats each: products with the pair carry the rounding of one multiplication only. */
INLINE void split(const double *p, vf *high, vf *low)
{
    float h[W], l[W];
    for (int i = 0; i < W; i += WD) narrow(h + i, load_d(p + i)), narrow(l + i, load_d(p + i) - widen(h + i));
    *high = load_f(h), *low = load_f(l);
}
#if W == 16
typedef __mmask16 lanes;
INLINE lanes other_i(vi a, int32_t b) { return _mm512_cmpneq_epi32_mask((__m512i)a, _mm512_set1_epi32(b)); }
INLINE vf add_if(lanes m, vf a, vf b) { return (vf)_mm512_mask_add_ps((__m512)a, m, (__m512)a, (__m512)b); }
INLINE vf zero_if(lanes m, vf v) { return (vf)_mm512_maskz_mov_ps((__mmask16)~m, (__m512)v); }
INLINE vf keep_if(lanes m, vf v) { return (vf)_mm512_maskz_mov_ps(m, (__m512)v); }
INLINE vf replace_if(lanes m, vf a, vf b) { return (vf)_mm512_mask_mov_ps((__m512)a, m, (__m512)b); }
#else
typedef vi lanes;
INLINE lanes other_i(vi a, int32_t b) { return a != b; }
INLINE vf add_if(lanes m, vf a, vf b) { return a + (vf)((vi)b & m); }
INLINE vf zero_if(lanes m, vf v) { return (vf)((vi)v & ~m); }
INLINE vf keep_if(lanes m, vf v) { return (vf)((vi)v & m); }
INLINE vf replace_if(lanes m, vf a, vf b) { return select_f(m, b, a); }
#endif
#define EVERY ((lanes) ~(lanes){0})

/* exp(x) / 2^m, m whole, |m| <= 120. Beyond 2^62 (with AVX-512: beyond every float) the result is large, infinite or NaN, never a small
   number. With AVX-512 results are KEPT or SUMMED times too large, as is the table of powers of two: a factor chosen so that no entry is
   rounded by more than 0.27 (of the 32: 0.43) instead of 1 half of its last place; the end divides by it, in double. */
#if W == 16
#define KEPT 0x1.02946e179e715p+0
#define SUMMED 0x1.009451aedc57ep+0
#else
#define KEPT 1.0
#define SUMMED 1.0
#endif
typedef struct {
    vf low; /* below it the result is 0, of 8 lanes summed about 2^-126 */
#if W == 16
    vf table[2]; /* KEPT 2^(j/16 - m); or SUMMED 2^(j/32 - m); of references apart without m */
    vf m; /* of references apart */
#else
    vf high;
    vi shift; /* in the exponent's bits: of W = 8 summed -m with the table's, of references apart without those; else 64 - m */
#endif
} reference;
/* clang-format off */
#if W == 16
static const uint32_t sixteenths[16] __attribute__((aligned(64))) = {0x3f814a37, 0x3f870399, 0x3f8cfddc, 0x3f933bdf, 0x3f99c0a2,
    0x3fa08f47, 0x3fa7ab13, 0x3faf1771, 0x3fb6d7f2, 0x3fbef04f, 0x3fc7646d, 0x3fd0385b, 0x3fd97057, 0x3fe310d0, 0x3fed1e65, 0x3ff79deb};
static const uint32_t halves[32] __attribute__((aligned(64))) = {0x3f804a29, 0x3f83194f, 0x3f85f835, 0x3f88e732, 0x3f8be6a1,
    0x3f8ef6de, 0x3f921847, 0x3f954b3d, 0x3f989021, 0x3f9be759, 0x3f9f514b, 0x3fa2ce60, 0x3fa65f03, 0x3faa03a2, 0x3fadbcad,
    0x3fb18a97, 0x3fb56dd4, 0x3fb966dc, 0x3fbd7629, 0x3fc19c38, 0x3fc5d989, 0x3fca2e9d, 0x3fce9bfb, 0x3fd3222a, 0x3fd7c1b5,
    0x3fdc7b2b, 0x3fe14f1d, 0x3fe63e1f, 0x3feb48c9, 0x3ff06fb6, 0x3ff5b385, 0x3ffb14d7};
#endif
#if W == 8
static const uint32_t eighths[8] __attribute__((aligned(32))) = {0x3f800000, 0x3f7b95c2, 0x3f7837f0, 0x3f75fed7, 0x3f7504f3, 0x3f75672a,
    0x3f7744fd, 0x3f7ac0c7}; /* 2^(j/8), j << 20 taken off */
#endif
/* clang-format on */
INLINE reference reference_of(float m, const int kept)
{
    reference r = {.low = all_f((m - (W == 8 && !kept ? 126 : 151)) * (float)LN2)};
#if W == 16
    for (int i = 0; i < 2; i++) r.table[i] = (vf)_mm512_scalef_ps(_mm512_load_ps(kept ? sixteenths : halves + 16 * i), (__m512)all_f(-m));
#else
    r.high = all_f((m + 62) * (float)LN2);
    r.shift = all_i((64 - (int32_t)m) * (1 << 23));
#if W == 8
    if (!kept) r.shift = (vi)((vu)_mm256_load_si256((const __m256i *)eighths) - ((vu){0} + (uint32_t)(int32_t)m) * (1u << 23));
#endif
#endif
    return r;
}
/* A reference with an m in each lane; the functions below say `apart`. */
INLINE reference references_of(vf m, const int kept)
{
    reference r = {.low = (m - (W == 8 && !kept ? 126.0f : 151.0f)) * (float)LN2};
#if W == 16
    r.m = m;
    for (int i = 0; i < 2; i++) r.table[i] = (vf)_mm512_load_ps(kept ? sixteenths : halves + 16 * i);
#else
    r.high = (m + 62.0f) * (float)LN2;
    r.shift = ((W == 8 && !kept ? 0 : 64) - __builtin_convertvector(m, vi)) * (1 << 23);
#endif
    return r;
}
INLINE vf exp_over_f(vf x, const reference *ref, const int exact, const int apart)
{
#if W == 16 /* as exp16_f in vector_math.h */
    vf u = mad_f(x, all_f(LOG2E_F), all_f(ROUND_F / 16)), n = u - ROUND_F / 16;
    vf r = mad_f(n, all_f(-0x1.62e43p-1f), x);
    r = mad_f(n, all_f(0x1.05c61p-29f), r);
    vf t = (vf)_mm512_permutexvar_ps((__m512i)u, (__m512)ref->table[0]);
    vf q = mad_f(r, all_f(0x1.555664p-3f), all_f(0x1.00022p-1f));
    t = mad_f(t, mad_f(r * r, q, r), t);
    (void)exact;
    __mmask16 kept = _mm512_cmp_ps_mask((__m512)x, (__m512)ref->low, _CMP_NLT_UQ);
    return (vf)_mm512_maskz_scalef_ps(kept, (__m512)t, (__m512)(apart ? n - ref->m : n));
#else
    (void)apart;
    vf d = min_f(ref->high, max_f(ref->low, x));
#if W == 8
    vf u = mad_f(d, all_f(8 * LOG2E_F), all_f(ROUND_F)), n = u - ROUND_F;
    vf r = mad_f(n, all_f(-0x1.62e43p-4f), d);
    r = mad_f(n, all_f(0x1.05c61p-32f), r);
    vi e = (vi)_mm256_permutevar8x32_epi32(_mm256_load_si256((const __m256i *)eighths), (__m256i)u);
    vf t = (vf)((vu)e + ((vu)u << 20) + (vu)ref->shift);
    vf q = mad_f(r, all_f(0x1.555848p-5f), all_f(0x1.555c74p-3f));
    q = mad_f(q, r, all_f(0.5f));
    if (exact) { /* what the table's entries lost is put back */
        static const float lost[8] __attribute__((aligned(32))) = {0x0p+0f,         -0x1.9c0c22p-27f, 0x1.125002p-25f,  -0x1.0a355p-25f,
                                                                   0x1.26055cp-26f, 0x1.67a1cap-28f,  -0x1.f9c304p-27f, -0x1.a5217cp-28f};
        q = mad_f(r * r, q, r + (vf)_mm256_permutevar8x32_ps(_mm256_load_ps(lost), (__m256i)u));
    } else
        q = mad_f(r * r, q, r);
    t = mad_f(t, q, t);
#else
    (void)exact;
    vf u = mad_f(d, all_f(LOG2E_F), all_f(ROUND_F)), n = u - ROUND_F;
    vf r = mad_f(n, all_f(-LN2_LO_F), mad_f(n, all_f(-LN2_HI_F), d));
    vf t = exp_poly_f(r) * (vf)(((vu)u << 23) + (127u << 23) + (vu)ref->shift);
#endif
    return t * (vf)(((127 - 64) << 23) & ~(vi)lt_f(x, ref->low));
#endif
}
/* The exponential in lanes where `adds`, as a sum of two parts, for sums of which no single term is needed: 5 cycles instead of 6 with
   AVX-512, and no rounding of the result. It returns 2^(k + j/32), with AVX2 2^(k + j/8), and adds that times e^r - 1 to low. ln 2 is one
   float: terms near 2^n come out too small by a factor 1 + n LN2_REST, which is put back into their sum. `whole`: ln 2 is two floats, and
   e^r has one term more. With SSE4.2 all of the exponential is returned, and low stays as it is. */
#define LN2_REST 0x1.05c61p-29
INLINE vd exponent_d(vd x) { return (vd)((((vul)x >> 52) & 0x7ff) | 0x4330000000000000) - (0x1p52 + 1023); }
INLINE vf high_exp_f(vf x, const reference *ref, lanes adds, vf *low, const int whole, const int apart)
{
#if W == 16
    vf u = mad_f(x, all_f(LOG2E_F), all_f(ROUND_F / 32)), n = u - ROUND_F / 32;
    vf r = mad_f(n, all_f(-0x1.62e43p-1f), x);
    if (whole) r = mad_f(n, all_f((float)LN2_REST), r);
    __m512 t = _mm512_permutex2var_ps((__m512)ref->table[0], (__m512i)u, (__m512)ref->table[1]);
    vf q = r * mad_f(r, all_f(0x1.fffffep-2f), all_f(0x1.0000f6p+0f));
    if (whole) q = mad_f(r * r, mad_f(r, all_f(0x1.555556p-3f), all_f(0.5f)), r);
    __mmask16 kept = _mm512_mask_cmp_ps_mask(adds, (__m512)x, (__m512)ref->low, _CMP_NLT_UQ);
    t = _mm512_maskz_scalef_ps(kept, t, (__m512)(apart ? n - ref->m : n));
    *low = (vf)_mm512_mask3_fmadd_ps(t, (__m512)q, (__m512)*low, kept); /* q is NaN where x is -inf */
    return (vf)t;
#elif W == 8
    vf d = min_f(ref->high, max_f(ref->low, x)), u = mad_f(d, all_f(8 * LOG2E_F), all_f(ROUND_F)), n = u - ROUND_F;
    vf r = mad_f(n, all_f(-0x1.62e43p-4f), d);
    if (whole) r = mad_f(n, all_f((float)LN2_REST / 8), r);
    vf t = apart ? (vf)((vu)_mm256_permutevar8x32_epi32(_mm256_load_si256((const __m256i *)eighths), (__m256i)u) + ((vu)u << 20) +
                        (vu)ref->shift)
                 : (vf)((vu)_mm256_permutevar8x32_epi32((__m256i)ref->shift, (__m256i)u) + ((vu)u << 20));
    vf q = mad_f(r, all_f(0x1.555c86p-3f), all_f(0x1.00087ep-1f));
    if (whole) q = mad_f(mad_f(r, all_f(0x1.555848p-5f), all_f(0x1.555c74p-3f)), r, all_f(0.5f));
    q = mad_f(r * r, q, r);
    t = (vf)((vi)t & adds);
    *low = mad_f(t, q, *low);
    return t;
#else
    (void)low, (void)whole;
    return keep_if(adds, exp_over_f(x, ref, 0, apart));
#endif
}
#endif
