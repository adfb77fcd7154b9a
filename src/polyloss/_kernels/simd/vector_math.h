/* Vectors of W floats (vf) and W/2 doubles (vd), and the functions of the losses on them.

   One source for every instruction set: GNU vector extensions (gcc, clang), W = 16 with AVX-512, 8 with AVX2, 4 with SSE2 or NEON;
   compilers without them get W = 1 and libm. Intrinsics stand only where C cannot say it: maximum, blends, masks, getexp/scalef.
   Suffixes: _f for floats, _d for doubles; mf, md are what a comparison gives.

   Worst errors in units of the last place with AVX-512 / AVX2 / SSE4.2 (floats: of every bit pattern in the domain; doubles: 4e5 random
   arguments each):
                     floats              doubles
     exp, exp_neg    0.99  0.93  0.99    0.98  0.98  0.95
     log             0.93  0.93  0.93    0.96  0.88  0.88
     log1p           1.27  1.48  1.53    0.95  1.30  1.30
     log_half        1.02  0.87  0.82    as log
     log1p_01        1.16  1.16  1.58    as log1p
     log1m_half      0.90  0.90  1.05    as log1p
     log_cosh        2.08  2.08  2.08    1.88  1.88  1.94
     tanh            2.53  2.58  2.13    1.42  1.42  1.89
   Coefficients: least maximum of the relative error, rounded one by one from the lowest, each refitted after the last was rounded.
   The reductions are textbook: x = n ln 2 + r with ln 2 in two parts; x = 2^n (1 + f) with 1 + f around 1 [Muller, Elementary Functions];
   log1p(x) = log(u + v) with u + v = 1 + x exact [Dekker 1971]; doubles: log(1 + f) = 2 artanh(f / (2 + f)). */
#ifndef POLYLOSS_VECTOR_MATH_H
#define POLYLOSS_VECTOR_MATH_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* A sum in two parts. */
typedef struct {
    double high, low;
} sum_t;
static inline void add_to(sum_t *s, double x)
{
    const double t = s->high + x, b = t - s->high;
    s->low += (s->high - (t - b)) + (x - b);
    s->high = t;
}

/* What is rounded is kept so: the compiler makes no multiply-add of a product and a sum that uses it. */
#if defined __GNUC__ && defined __x86_64__
#define ROUNDED(v) __asm__("" : "+v"(v))
#elif defined __GNUC__ && defined __aarch64__
#define ROUNDED(v) __asm__("" : "+w"(v))
#else
#define ROUNDED(v) ((void)0)
#endif

#define LN2_HI_D 0x1.62e42feep-1 /* 31 bits: times n <= 2^22 exact without FMA */
#define LN2_LO_D 0x1.a39ef35793c76p-33
#define LOG2E_D 0x1.71547652b82fep+0
#define ROUND_D 0x1.8p+52 /* adding it rounds to whole numbers, which then stand in the low bits */

#if defined __GNUC__ && !defined POLYLOSS_ONE_LANE

#define INLINE static inline __attribute__((always_inline, unused))
#if defined __AVX512F__ && defined __AVX512DQ__ && defined __AVX512VL__ && defined __AVX512BW__
#define W 16
#include <immintrin.h>
#elif defined __AVX2__ && defined __FMA__
#define W 8
#include <immintrin.h>
#else
#define W 4
#if defined __SSE2__
#include <emmintrin.h>
#endif
#endif
#define WD (W / 2)

typedef float vf __attribute__((vector_size(4 * W)));
typedef double vd __attribute__((vector_size(4 * W)));
typedef int32_t vi __attribute__((vector_size(4 * W))); /* the bits of a vf */
typedef uint32_t vu __attribute__((vector_size(4 * W))); /* those again, where sums may wrap around: signed ones must not */
typedef int64_t vl __attribute__((vector_size(4 * W))); /* the bits of a vd */
typedef uint64_t vul __attribute__((vector_size(4 * W)));
typedef float vf_anywhere __attribute__((vector_size(4 * W), aligned(4)));
typedef double vd_anywhere __attribute__((vector_size(4 * W), aligned(8)));

INLINE vf all_f(float c) { return c - (vf){0}; }
INLINE vd all_d(double c) { return c - (vd){0}; }
INLINE vi all_i(int32_t c) { return c - (vi){0}; }
INLINE vu all_u(uint32_t c) { return c - (vu){0}; }
INLINE vul all_ul(uint64_t c) { return c - (vul){0}; }
INLINE float lane_f(vf v) { return v[0]; }
INLINE double lane_d(vd v) { return v[0]; }
INLINE vf load_f(const float *p) { return *(const vf_anywhere *)p; }
INLINE vd load_d(const double *p) { return *(const vd_anywhere *)p; }
INLINE void store_f(float *p, vf v) { *(vf_anywhere *)p = v; }
INLINE void store_d(double *p, vd v) { *(vd_anywhere *)p = v; }
/* As many floats or integers as a vd has doubles, to doubles and back. Not __builtin_convertvector where a register takes them all: gcc 12
   converts by halves, in six instructions for one. */
#if W == 16
INLINE vd widen(const float *p) { return (vd)_mm512_cvtps_pd(_mm256_loadu_ps(p)); }
INLINE vd widen_i(const int32_t *p) { return (vd)_mm512_cvtepi32_pd(_mm256_loadu_si256((const __m256i *)p)); }
INLINE void narrow(float *p, vd v) { _mm256_storeu_ps(p, _mm512_cvtpd_ps((__m512d)v)); }
#elif W == 8
INLINE vd widen(const float *p) { return (vd)_mm256_cvtps_pd(_mm_loadu_ps(p)); }
INLINE vd widen_i(const int32_t *p) { return (vd)_mm256_cvtepi32_pd(_mm_loadu_si128((const __m128i *)p)); }
INLINE void narrow(float *p, vd v) { _mm_storeu_ps(p, _mm256_cvtpd_ps((__m256d)v)); }
#else
typedef float half_f __attribute__((vector_size(2 * W), aligned(4)));
typedef int32_t half_i __attribute__((vector_size(2 * W), aligned(4)));
INLINE vd widen(const float *p) { return __builtin_convertvector(*(const half_f *)p, vd); }
INLINE vd widen_i(const int32_t *p) { return __builtin_convertvector(*(const half_i *)p, vd); }
INLINE void narrow(float *p, vd v) { *(half_f *)p = __builtin_convertvector(v, half_f); }
#endif
INLINE vf abs_f(vf x) { return (vf)((vi)x & 0x7fffffff); }
INLINE vd abs_d(vd x) { return (vd)((vl)x & 0x7fffffffffffffff); }
INLINE vf minus_abs_f(vf x) { return (vf)((vi)x | (int32_t)0x80000000); }
INLINE vd minus_abs_d(vd x) { return (vd)((vl)x | INT64_MIN); }

/* Past the caches, for outputs that are not read again; p aligned to the vector. fence() before another thread may read them. */
INLINE void stream_f(float *p, vf v)
{
#if W == 16
    _mm512_stream_ps(p, (__m512)v);
#elif W == 8
    _mm256_stream_ps(p, (__m256)v);
#elif defined __SSE2__
    _mm_stream_ps(p, (__m128)v);
#else
    *(vf *)p = v;
#endif
}
INLINE void stream_d(double *p, vd v) { stream_f((float *)p, (vf)v); }
INLINE void fence(void)
{
#if defined __SSE2__
    _mm_sfence();
#endif
}

/* Comparisons are false where a side is NaN. */
#if W == 16
typedef __mmask16 mf;
typedef __mmask8 md;
INLINE mf lt_f(vf a, vf b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LT_OQ); }
INLINE mf le_f(vf a, vf b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LE_OQ); }
INLINE mf eq_f(vf a, vf b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_EQ_OQ); }
INLINE md lt_d(vd a, vd b) { return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_LT_OQ); }
INLINE md le_d(vd a, vd b) { return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_LE_OQ); }
INLINE md eq_d(vd a, vd b) { return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_EQ_OQ); }
INLINE vf select_f(mf m, vf a, vf b) { return (vf)_mm512_mask_blend_ps(m, (__m512)b, (__m512)a); }
INLINE vd select_d(md m, vd a, vd b) { return (vd)_mm512_mask_blend_pd(m, (__m512d)b, (__m512d)a); }
INLINE int any_f(mf m) { return m != 0; }
INLINE int any_d(md m) { return m != 0; }
INLINE int every_f(mf m) { return m == 0xffff; }
INLINE int every_d(md m) { return m == 0xff; }
INLINE mf first_f(ptrdiff_t n) { return (mf)((1u << n) - 1); } /* the first n lanes, 0 <= n <= lanes */
INLINE md first_d(ptrdiff_t n) { return (md)((1u << n) - 1); }
#else
typedef vi mf;
typedef vl md;
INLINE mf lt_f(vf a, vf b) { return a < b; }
INLINE mf le_f(vf a, vf b) { return a <= b; }
INLINE mf eq_f(vf a, vf b) { return a == b; }
INLINE md lt_d(vd a, vd b) { return a < b; }
INLINE md le_d(vd a, vd b) { return a <= b; }
INLINE md eq_d(vd a, vd b) { return a == b; }
#if W == 8
INLINE vf select_f(mf m, vf a, vf b) { return (vf)_mm256_blendv_ps((__m256)b, (__m256)a, (__m256)m); }
INLINE vd select_d(md m, vd a, vd b) { return (vd)_mm256_blendv_pd((__m256d)b, (__m256d)a, (__m256d)m); }
INLINE int any_f(mf m) { return _mm256_movemask_ps((__m256)m) != 0; }
INLINE int any_d(md m) { return _mm256_movemask_pd((__m256d)m) != 0; }
#else
INLINE vf select_f(mf m, vf a, vf b) { return (vf)(((vi)a & m) | ((vi)b & ~m)); }
INLINE vd select_d(md m, vd a, vd b) { return (vd)(((vl)a & m) | ((vl)b & ~m)); }
INLINE int any_d(md m) { return (m[0] | m[1]) != 0; }
INLINE int any_f(mf m) { return any_d((md)m); }
#endif
INLINE int every_f(mf m) { return !any_f(~m); }
INLINE int every_d(md m) { return !any_d(~m); }
INLINE mf first_f(ptrdiff_t n)
{
    vi lane;
    for (int i = 0; i < W; i++) lane[i] = i;
    return lane < (int32_t)n;
}
INLINE md first_d(ptrdiff_t n)
{
    vl lane;
    for (int i = 0; i < WD; i++) lane[i] = i;
    return lane < (int64_t)n;
}
#endif
/* Lanes beyond n are 0 and are not read (load), or not written (store); 0 <= n <= lanes, and mostly all of them. A store is of pieces: AMD's
   Zen 2 takes 42 operations for a masked one of AVX2 [Fog, Instruction tables]. What is loaded number by number into memory, and from there
   as a vector, waits for those stores. */
INLINE vf load_part_f(const float *p, ptrdiff_t n)
{
#if W == 16
    return (vf)_mm512_maskz_loadu_ps(first_f(n), p);
#else
    if (n >= W) return load_f(p);
#if W == 8
    return (vf)_mm256_maskload_ps(p, (__m256i)first_f(n));
#elif defined __SSE2__
    const __m128 zero = _mm_setzero_ps(), last = n & 1 ? _mm_load_ss(p + (n & 2)) : zero;
    return (vf)(n & 2 ? _mm_movelh_ps(_mm_loadl_pi(zero, (const __m64 *)p), last) : last);
#else
    vf v = all_f(0.0f);
    for (ptrdiff_t i = 0; i < n; i++) v[i] = p[i];
    return v;
#endif
#endif
}
INLINE vd load_part_d(const double *p, ptrdiff_t n)
{
#if W == 16
    return (vd)_mm512_maskz_loadu_pd(first_d(n), p);
#else
    if (n >= WD) return load_d(p);
#if W == 8
    return (vd)_mm256_maskload_pd(p, (__m256i)first_d(n));
#else
    return n ? (vd){p[0]} : all_d(0.0);
#endif
#endif
}
INLINE void store_part_f(float *p, vf v, ptrdiff_t n)
{
#if W == 16
    _mm512_mask_storeu_ps(p, first_f(n), (__m512)v);
#else
    if (n >= W) {
        store_f(p, v);
        return;
    }
#if defined __SSE2__
#if W == 8
    __m128 left = _mm256_castps256_ps128((__m256)v);
    if (n & 4) _mm_storeu_ps(p, left), left = _mm256_extractf128_ps((__m256)v, 1), p += 4;
#else
    __m128 left = (__m128)v;
#endif
    if (n & 2) _mm_storel_pi((__m64 *)p, left), left = _mm_movehl_ps(left, left), p += 2;
    if (n & 1) _mm_store_ss(p, left);
#else
    for (ptrdiff_t i = 0; i < n; i++) p[i] = v[i];
#endif
#endif
}
INLINE void store_part_d(double *p, vd v, ptrdiff_t n)
{
#if W == 16
    _mm512_mask_storeu_pd(p, first_d(n), (__m512d)v);
#else
    if (n >= WD) {
        store_d(p, v);
        return;
    }
#if W == 8
    __m128d left = _mm256_castpd256_pd128((__m256d)v);
    if (n & 2) _mm_storeu_pd(p, left), left = _mm256_extractf128_pd((__m256d)v, 1), p += 2;
    if (n & 1) _mm_store_sd(p, left);
#else
    if (n) p[0] = v[0];
#endif
#endif
}
/* The mask as a C operator where it is an integer or a vector alike. */
#define AND_MASK(a, b) ((a) & (b))
#define OR_MASK(a, b) ((a) | (b))

/* a > b ? a : b, so b where either is NaN: a NaN in the second place goes through, one in the first is lost. */
#if W == 16
INLINE vf max_f(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE vf min_f(vf a, vf b) { return (vf)_mm512_min_ps((__m512)a, (__m512)b); }
INLINE vd max_d(vd a, vd b) { return (vd)_mm512_max_pd((__m512d)a, (__m512d)b); }
INLINE vd min_d(vd a, vd b) { return (vd)_mm512_min_pd((__m512d)a, (__m512d)b); }
#elif W == 8
INLINE vf max_f(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE vf min_f(vf a, vf b) { return (vf)_mm256_min_ps((__m256)a, (__m256)b); }
INLINE vd max_d(vd a, vd b) { return (vd)_mm256_max_pd((__m256d)a, (__m256d)b); }
INLINE vd min_d(vd a, vd b) { return (vd)_mm256_min_pd((__m256d)a, (__m256d)b); }
#elif defined __SSE2__
INLINE vf max_f(vf a, vf b) { return (vf)_mm_max_ps((__m128)a, (__m128)b); }
INLINE vf min_f(vf a, vf b) { return (vf)_mm_min_ps((__m128)a, (__m128)b); }
INLINE vd max_d(vd a, vd b) { return (vd)_mm_max_pd((__m128d)a, (__m128d)b); }
INLINE vd min_d(vd a, vd b) { return (vd)_mm_min_pd((__m128d)a, (__m128d)b); }
#else
INLINE vf max_f(vf a, vf b) { return select_f(lt_f(b, a), a, b); }
INLINE vf min_f(vf a, vf b) { return select_f(lt_f(a, b), a, b); }
INLINE vd max_d(vd a, vd b) { return select_d(lt_d(b, a), a, b); }
INLINE vd min_d(vd a, vd b) { return select_d(lt_d(a, b), a, b); }
#endif

/* a * b, and 0 where a is 0: 0 · inf = 0 */
#if W == 16
INLINE vf times_f(vf a, vf b)
{
    return (vf)_mm512_maskz_mul_ps(_mm512_cmp_ps_mask((__m512)a, (__m512){0}, _CMP_NEQ_UQ), (__m512)a, (__m512)b);
}
INLINE vd times_d(vd a, vd b)
{
    return (vd)_mm512_maskz_mul_pd(_mm512_cmp_pd_mask((__m512d)a, (__m512d){0}, _CMP_NEQ_UQ), (__m512d)a, (__m512d)b);
}
#else
INLINE vf times_f(vf a, vf b) { return select_f(eq_f(a, all_f(0.0f)), (vf){0}, a * b); }
INLINE vd times_d(vd a, vd b) { return select_d(eq_d(a, all_d(0.0)), (vd){0}, a * b); }
#endif

/* a * b + c, in one rounding where the machine has it: what needs that one rounding says mad. */
#if W == 16
INLINE vf mad_f(vf a, vf b, vf c) { return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
INLINE vd mad_d(vd a, vd b, vd c) { return (vd)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c); }
INLINE vf sqrt_f(vf x) { return (vf)_mm512_sqrt_ps((__m512)x); }
INLINE vd sqrt_d(vd x) { return (vd)_mm512_sqrt_pd((__m512d)x); }
#elif W == 8
INLINE vf mad_f(vf a, vf b, vf c) { return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
INLINE vd mad_d(vd a, vd b, vd c) { return (vd)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c); }
INLINE vf sqrt_f(vf x) { return (vf)_mm256_sqrt_ps((__m256)x); }
INLINE vd sqrt_d(vd x) { return (vd)_mm256_sqrt_pd((__m256d)x); }
#else
INLINE vf mad_f(vf a, vf b, vf c) { return a * b + c; }
INLINE vd mad_d(vd a, vd b, vd c) { return a * b + c; }
INLINE vf sqrt_f(vf x)
{
    for (int i = 0; i < W; i++) x[i] = sqrtf(x[i]);
    return x;
}
INLINE vd sqrt_d(vd x)
{
    for (int i = 0; i < WD; i++) x[i] = sqrt(x[i]);
    return x;
}
#endif

/* c - a * b where that is near 0, to its last digits. */
#if W == 4 /* products of halves of the digits are exact [Dekker 1971] */
INLINE vf residual_f(vf a, vf b, vf c)
{
    const vf x = (vf)((vi)a & ~0xfff), y = (vf)((vi)b & ~0xfff);
    return ((c - x * y) - (x * (b - y) + (a - x) * y)) - (a - x) * (b - y);
}
INLINE vd residual_d(vd a, vd b, vd c)
{
    const vd x = (vd)((vl)a & ~0x7ffffffll), y = (vd)((vl)b & ~0x7ffffffll);
    return ((c - x * y) - (x * (b - y) + (a - x) * y)) - (a - x) * (b - y);
}
#else
INLINE vf residual_f(vf a, vf b, vf c) { return mad_f(-a, b, c); }
INLINE vd residual_d(vd a, vd b, vd c) { return mad_d(-a, b, c); }
#endif

/* Across the lanes, halves first: four steps wait for each other where sixteen would, one after the other, and short rows wait for little
   else. Sums of lanes that lie apart are made in this order too. */
#define HALVE(s, n, half, join)                                                                                                            \
    for (int i = 0; i < (half) && (half) < (n); i++) s[i] = join(s[i], s[i + (half)]);
#define HALVES(s, n, join) HALVE(s, n, 8, join) HALVE(s, n, 4, join) HALVE(s, n, 2, join) HALVE(s, n, 1, join)
#define PLUS(x, y) ((x) + (y))
#define GREATER(x, y) ((x) > (y) ? (x) : (y))
INLINE double sum_d(vd v)
{
#if W == 16
    const __m256d four = _mm256_add_pd(_mm512_castpd512_pd256((__m512d)v), _mm512_extractf64x4_pd((__m512d)v, 1));
#elif W == 8
    const __m256d four = (__m256d)v;
#endif
#if W >= 8
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
#else
    const vd two = v;
#endif
    return two[0] + two[1];
}
INLINE double sum_f(vf v) /* in double: 16 floats lose nothing more */
{
    float s[W];
    store_f(s, v);
    return sum_d(widen(s) + widen(s + WD));
}
INLINE float top_f(vf v) /* the maximum; a NaN may be lost */
{
    float s[W];
    store_f(s, v);
    HALVES(s, W, GREATER)
    return s[0];
}
INLINE double top_d(vd v)
{
    double s[WD];
    store_d(s, v);
    HALVES(s, WD, GREATER)
    return s[0];
}

/* Σ x as high + low, right to the last place of low: what is left of a sum when its largest term is taken off keeps its digits. Floats are
   added as doubles, doubles with the error of every sum [Knuth, TAOCP 2, 4.2.2]. */
static __attribute__((unused)) sum_t sum_row_f(const float *x, ptrdiff_t n)
{
    vd s[4] = {all_d(0), all_d(0), all_d(0), all_d(0)};
    sum_t sum = {0, 0};
    ptrdiff_t i = 0;
    for (; i + 4 * WD <= n; i += 4 * WD) {
        __builtin_prefetch(x + i + 1024);
        for (int j = 0; j < 4; j++) s[j] += widen(x + i + j * WD);
    }
    add_to(&sum, sum_d((s[0] + s[1]) + (s[2] + s[3])));
    for (; i < n; i++) add_to(&sum, (double)x[i]);
    return sum;
}
static __attribute__((unused)) sum_t sum_row_d(const double *x, ptrdiff_t n)
{
    vd s[2] = {all_d(0), all_d(0)}, error[2] = {all_d(0), all_d(0)};
    sum_t sum = {0, 0};
    ptrdiff_t i = 0;
    for (; i + 2 * WD <= n; i += 2 * WD) {
        __builtin_prefetch(x + i + 512);
        for (int j = 0; j < 2; j++) {
            const vd y = load_d(x + i + j * WD), t = s[j] + y, b = t - s[j];
            error[j] += (s[j] - (t - b)) + (y - b);
            s[j] = t;
        }
    }
    for (int j = 0; j < 2; j++)
        for (int k = 0; k < WD; k++) {
            add_to(&sum, s[j][k]);
            sum.low += error[j][k];
        }
    for (; i < n; i++) add_to(&sum, x[i]);
    return sum;
}

#define LN2_HI_F 0x1.62e4p-1f /* 15 bits: times n <= 512 exact without FMA */
#define LN2_LO_F 0x1.7f7d1cp-20f
#define LOG2E_F 0x1.715476p+0f
#define ROUND_F 0x1.8p+23f

/* 1 + q; where low is given, that receives what the sum's rounding took. */
INLINE vf one_plus_f(vf q, vf *low)
{
    vf sum = 1.0f + q;
    if (low) *low = q - (sum - 1.0f);
    return sum;
}
INLINE vd one_plus_d(vd q, vd *low)
{
    vd sum = 1.0 + q;
    if (low) *low = q - (sum - 1.0);
    return sum;
}
/* 1 + r + r² P(r), |r| <= ln 2 / 2 */
INLINE vf exp_poly_low_f(vf r, vf *low)
{
    vf p = mad_f(r, all_f(0x1.6a5164p-10f), all_f(0x1.12397ap-7f));
    p = mad_f(p, r, all_f(0x1.5558acp-5f));
    p = mad_f(p, r, all_f(0x1.555492p-3f));
    p = mad_f(p, r, all_f(0x1.fffffcp-2f));
    return one_plus_f(mad_f(r * r, p, r), low);
}
INLINE vd exp_poly_low_d(vd r, vd *low)
{
    vd p = mad_d(r, all_d(0x1.adb3396b72e43p-26), all_d(0x1.28addb4f805e6p-22));
    p = mad_d(p, r, all_d(0x1.71df03078cc17p-19));
    p = mad_d(p, r, all_d(0x1.a0199981e3689p-16));
    p = mad_d(p, r, all_d(0x1.a01a013a9ab91p-13));
    p = mad_d(p, r, all_d(0x1.6c16c1846b68ap-10));
    p = mad_d(p, r, all_d(0x1.1111111124836p-7));
    p = mad_d(p, r, all_d(0x1.55555555506e3p-5));
    p = mad_d(p, r, all_d(0x1.5555555555508p-3));
    p = mad_d(p, r, all_d(0x1.000000000000ap-1));
    return one_plus_d(mad_d(r * r, p, r), low);
}

INLINE vf exp_poly_f(vf r) { return exp_poly_low_f(r, NULL); }
INLINE vd exp_poly_d(vd r) { return exp_poly_low_d(r, NULL); }

/* exp(x). exp: every x. exp_neg: x <= 44 (as in sums against a reference), cheaper; +inf and more give nonsense or NaN, never a trap.
   Both: exp(-inf) = 0, NaN stays NaN, subnormal results are right. exp_neg_low: *low receives the rest of a sum of two numbers that is
   right to 0.1 units in the last place of the first; for what takes powers and differences of it. */
#if W == 16
/* x = (n + j/16) ln 2 + r; 2^(j/16) from a table in a register, 7 multiply-adds in all; scalef takes the floor of n + j/16. */
INLINE vf exp16_f(vf x, vf d, vf *low)
{
    /* clang-format off */
    static const uint32_t sixteenths[16] __attribute__((aligned(64))) = {0x3f800000, 0x3f85aac3, 0x3f8b95c2, 0x3f91c3d3,
        0x3f9837f0, 0x3f9ef532, 0x3fa5fed7, 0x3fad583f, 0x3fb504f3, 0x3fbd08a4, 0x3fc5672a, 0x3fce248c, 0x3fd744fd, 0x3fe0ccdf,
        0x3feac0c7, 0x3ff5257d};
    static const float rests[16] __attribute__((aligned(64))) = {0.0f, 0x1.8d96d4p-25f, -0x1.9c0c22p-27f, 0x1.964904p-25f, 0x1.125002p-25f,
        0x1.370be4p-25f, -0x1.0a3550p-25f, -0x1.00d8acp-27f, 0x1.26055cp-26f, -0x1.05cb44p-25f, 0x1.67a1cap-28f, 0x1.a3b5e4p-28f,
        -0x1.f9c304p-27f, -0x1.6961b4p-28f, -0x1.a5217cp-28f, 0x1.61428ep-28f}; /* 2^(j/16) divided by its table entry, - 1 */
    /* clang-format on */
    vf u = mad_f(d, all_f(LOG2E_F), all_f(ROUND_F / 16)), n = u - ROUND_F / 16;
    vf r = mad_f(n, all_f(-0x1.62e43p-1f), d);
    r = mad_f(n, all_f(0x1.05c61p-29f), r);
    vf t = (vf)_mm512_permutexvar_epi32((__m512i)u, _mm512_load_si512(sixteenths));
    vf q = mad_f(r, all_f(0x1.555664p-3f), all_f(0x1.00022p-1f));
    q = mad_f(r * r, q, low ? r + (vf)_mm512_permutexvar_ps((__m512i)u, _mm512_load_ps(rests)) : r);
    __mmask16 kept = _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(-104.0f), _CMP_NLT_UQ); /* masked lanes raise no underflow */
    if (!low) return (vf)_mm512_maskz_scalef_ps(kept, (__m512)mad_f(t, q, t), (__m512)n);
    t = (vf)_mm512_maskz_scalef_ps(kept, (__m512)t, (__m512)n);
    vf y = (vf)_mm512_maskz_fmadd_ps(kept, (__m512)t, (__m512)q, (__m512)t); /* q of -inf is NaN */
    *low = (vf)_mm512_maskz_fmadd_ps(kept, (__m512)t, (__m512)q, (__m512)(t - y));
    return y;
}
INLINE vf exp_f(vf x) { return exp16_f(x, min_f(all_f(89.0f), x), NULL); }
INLINE vf exp_neg_low_f(vf x, vf *low) { return exp16_f(x, x, low); }
INLINE vd exp8_d(vd x, vd d, vd *low)
{
    vd u = mad_d(d, all_d(LOG2E_D), all_d(ROUND_D)), n = u - ROUND_D;
    vd r = mad_d(n, all_d(-LN2_LO_D), mad_d(n, all_d(-LN2_HI_D), d));
    __mmask8 kept = _mm512_cmp_pd_mask((__m512d)x, _mm512_set1_pd(-746.0), _CMP_NLT_UQ);
    vd y = exp_poly_low_d(r, low);
    if (low) *low = (vd)_mm512_maskz_scalef_pd(kept, (__m512d)*low, (__m512d)n);
    return (vd)_mm512_maskz_scalef_pd(kept, (__m512d)y, (__m512d)n);
}
INLINE vd exp_d(vd x) { return exp8_d(x, min_d(all_d(710.0), x), NULL); }
INLINE vd exp_neg_low_d(vd x, vd *low) { return exp8_d(x, x, low); }
#else
/* The power of two goes into the exponent's bits, 2^64 too large or too small so that it fits, and a product takes the 2^64 back; for
   x below every subnormal that factor is 0, since tiny products are slow. scale, shift: bits of the factor and of its inverse. */
INLINE vf exp_scaled_f(vf x, vf d, vu shift, vu scale, vf *low)
{
    const vf factor = (vf)(scale & ~(vu)lt_f(x, all_f(-104.0f)));
#if W == 8 /* x = (n + j/8) ln 2 + r; 2^(j/8) from a table in a register */
    /* clang-format off */
    static const uint32_t eighths[8] __attribute__((aligned(32))) = {0x3f800000, 0x3f7b95c2, 0x3f7837f0, 0x3f75fed7, 0x3f7504f3,
        0x3f75672a, 0x3f7744fd, 0x3f7ac0c7}; /* j << 20 taken off */
    static const float rests[8] __attribute__((aligned(32))) = {0.0f, -0x1.9c0c22p-27f, 0x1.125002p-25f, -0x1.0a3550p-25f, 0x1.26055cp-26f,
        0x1.67a1cap-28f, -0x1.f9c304p-27f, -0x1.a5217cp-28f}; /* 2^(j/8) divided by its table entry, - 1 */
    /* clang-format on */
    vf u = mad_f(d, all_f(8 * LOG2E_F), all_f(ROUND_F)), n = u - ROUND_F;
    vf r = mad_f(n, all_f(-0x1.62e43p-4f), d);
    r = mad_f(n, all_f(0x1.05c61p-32f), r);
    vu e = (vu)_mm256_permutevar8x32_epi32(_mm256_load_si256((const __m256i *)eighths), (__m256i)u);
    vf t = (vf)(e + ((vu)u << 20) + shift);
    vf q = mad_f(r, all_f(0x1.555848p-5f), all_f(0x1.555c74p-3f));
    q = mad_f(q, r, all_f(0.5f));
    q = mad_f(r * r, q, low ? r + (vf)_mm256_permutevar8x32_ps(_mm256_load_ps(rests), (__m256i)u) : r);
    vf y = mad_f(t, q, t);
    if (low) *low = mad_f(t, q, t - y) * factor;
#else
    vf u = mad_f(d, all_f(LOG2E_F), all_f(ROUND_F)), n = u - ROUND_F;
    vf r = mad_f(n, all_f(-LN2_LO_F), mad_f(n, all_f(-LN2_HI_F), d));
    const vf power = (vf)(((vu)u << 23) + (127u << 23) + shift);
    vf y = exp_poly_low_f(r, low) * power;
    if (low) *low = *low * power * factor;
#endif
    y = y * factor;
    ROUNDED(y); /* or it would not become infinite where it is subtracted from */
    return y;
}
INLINE vf exp_neg_low_f(vf x, vf *low)
{
    return exp_scaled_f(x, max_f(all_f(-104.0f), x), all_u(64u << 23), all_u((127u - 64) << 23), low);
}
INLINE vf exp_f(vf x)
{
    vf d = min_f(all_f(89.0f), max_f(all_f(-104.0f), x));
    vu up = (vu)lt_f(x, all_f(0.0f)) & (128u << 23);
    return exp_scaled_f(x, d, up - (64u << 23), ((127u + 64) << 23) - up, NULL);
}
INLINE vd exp_scaled_d(vd x, vd d, vul shift, vul scale, vd *low)
{
    const vd factor = (vd)(scale & ~(vul)lt_d(x, all_d(-746.0)));
    vd u = mad_d(d, all_d(LOG2E_D), all_d(ROUND_D)), n = u - ROUND_D;
    vd r = mad_d(n, all_d(-LN2_LO_D), mad_d(n, all_d(-LN2_HI_D), d));
    const vd power = (vd)(((vul)u << 52) + (1023ull << 52) + shift);
    vd y = exp_poly_low_d(r, low) * power;
    if (low) *low = *low * power * factor;
    y = y * factor;
    ROUNDED(y);
    return y;
}
INLINE vd exp_neg_low_d(vd x, vd *low)
{
    return exp_scaled_d(x, max_d(all_d(-746.0), x), all_ul(512ull << 52), all_ul((1023ull - 512) << 52), low);
}
INLINE vd exp_d(vd x)
{
    vd d = min_d(all_d(710.0), max_d(all_d(-746.0), x));
    vul up = (vul)lt_d(x, all_d(0.0)) & (1024ull << 52);
    return exp_scaled_d(x, d, up - (512ull << 52), ((1023ull + 512) << 52) - up, NULL);
}
#endif

INLINE vf exp_neg_f(vf x) { return exp_neg_low_f(x, NULL); }
INLINE vd exp_neg_d(vd x) { return exp_neg_low_d(x, NULL); }

/* expm1(x) for x <= 709: 2^n (e^r - 1) + (2^n - 1), |r| <= ln 2 / 2. Tiny x keep their relative error. Where asked, what the last sum's
   rounding lost. */
INLINE vd expm1_neg_low_d(vd x, vd *low)
{
    vd d = max_d(all_d(-746.0), x), u = mad_d(d, all_d(LOG2E_D), all_d(ROUND_D)), n = u - ROUND_D;
    vd r = mad_d(n, all_d(-LN2_LO_D), mad_d(n, all_d(-LN2_HI_D), d));
    vd p = mad_d(r, all_d(0x1.1f45f3a7bf224p-29), all_d(0x1.af5f0e4aa48b8p-26));
    p = mad_d(p, r, all_d(0x1.27e4f64a590f6p-22));
    p = mad_d(p, r, all_d(0x1.71ddf81d9b911p-19));
    p = mad_d(p, r, all_d(0x1.a01a019bc50a7p-16));
    p = mad_d(p, r, all_d(0x1.a01a01afff479p-13));
    p = mad_d(p, r, all_d(0x1.6c16c16c17f6fp-10));
    p = mad_d(p, r, all_d(0x1.111111110f65bp-7));
    p = mad_d(p, r, all_d(0x1.5555555555553p-5));
    p = mad_d(p, r, all_d(0x1.5555555555559p-3));
    p = mad_d(p, r, all_d(0.5));
    p = mad_d(r * r, p, r);
    n = max_d(all_d(-1022.0), n);
    vd two_n = (vd)(((vul)(n + ROUND_D) << 52) + (1023ull << 52));
    vd y = mad_d(two_n, p, two_n - 1.0);
    if (low) *low = mad_d(two_n, p, (two_n - 1.0) - y);
    return y;
}
INLINE vd expm1_neg_d(vd x) { return expm1_neg_low_d(x, NULL); }

/* log(1 + f) + n ln 2 */
INLINE vf log_poly_f(vf f, vf n)
{
#if W == 16 /* f in [-0.25, 0.5) */
    vf p = mad_f(f, all_f(-0x1.710fe8p-5f), all_f(0x1.ac8af6p-4f));
    p = mad_f(p, f, all_f(-0x1.0d9192p-3f));
    p = mad_f(p, f, all_f(0x1.2886acp-3f));
    p = mad_f(p, f, all_f(-0x1.54ef08p-3f));
    p = mad_f(p, f, all_f(0x1.99696ep-3f));
    p = mad_f(p, f, all_f(-0x1.000044p-2f));
    p = mad_f(p, f, all_f(0x1.5555a4p-2f));
#else /* f in [sqrt(1/2) - 1, sqrt(2) - 1] */
    vf p = mad_f(f, all_f(-0x1.38c5a2p-4f), all_f(0x1.0563ccp-3f));
    p = mad_f(p, f, all_f(-0x1.0d8562p-3f));
    p = mad_f(p, f, all_f(0x1.22d87ep-3f));
    p = mad_f(p, f, all_f(-0x1.54721ap-3f));
    p = mad_f(p, f, all_f(0x1.99a022p-3f));
    p = mad_f(p, f, all_f(-0x1.000228p-2f));
    p = mad_f(p, f, all_f(0x1.555554p-2f));
#endif
    p = mad_f(p, f, all_f(-0.5f));
#if W == 4 /* products are rounded: ln 2 in two parts */
    return mad_f(n, all_f(LN2_HI_F), f + mad_f(f * f, p, n * LN2_LO_F));
#else
    return mad_f(n, all_f(0x1.62e43p-1f), mad_f(f * f, p, f));
#endif
}
INLINE vd log_poly_d(vd f, vd n)
{
    vd s = f / (2.0 + f), z = s * s, h = 0.5 * f * f;
    vd p = mad_d(z, all_d(0x1.3adafb47b92b6p-3), all_d(0x1.384f1ef385875p-3));
    p = mad_d(p, z, all_d(0x1.74751282dfa7bp-3));
    p = mad_d(p, z, all_d(0x1.c71c003825e17p-3));
    p = mad_d(p, z, all_d(0x1.249249b3fc0cdp-2));
    p = mad_d(p, z, all_d(0x1.99999998ee17ep-2));
    p = mad_d(p, z, all_d(0x1.5555555555780p-1));
    p = h - mad_d(s, mad_d(z, p, h), n * LN2_LO_D); /* 2 s + s z P = f - (h - s (h + z P)) */
    return mad_d(n, all_d(LN2_HI_D), f - p);
}

/* log(u + v), |v| no more than half of the last place of u: for log1p and quotients near 1.
   log(0) = -inf, log(inf) = inf, below 0 NaN; v is not looked at there. */
#if W == 16
INLINE vf log_sum_f(vf u, vf v)
{
    __m512 m = _mm512_getmant_ps((__m512)u, _MM_MANT_NORM_p75_1p5, _MM_MANT_SIGN_nan);
    __m512 n = _mm512_sub_ps(_mm512_getexp_ps((__m512)u), _mm512_getexp_ps(m));
    __mmask16 inside = (__mmask16)~_mm512_fpclass_ps_mask((__m512)u, 0x1e); /* neither 0 nor inf */
    vf w = (vf)_mm512_maskz_scalef_ps(inside, (__m512)v, (__m512)(-(vf)n));
    return log_poly_f(((vf)m - 1.0f) + w, (vf)n);
}
INLINE vf log_f(vf x)
{
    __m512 m = _mm512_getmant_ps((__m512)x, _MM_MANT_NORM_p75_1p5, _MM_MANT_SIGN_nan);
    __m512 n = _mm512_sub_ps(_mm512_getexp_ps((__m512)x), _mm512_getexp_ps(m));
    return log_poly_f((vf)m - 1.0f, (vf)n);
}
INLINE vd log_sum_d(vd u, vd v)
{
    __m512d m = _mm512_getmant_pd((__m512d)u, _MM_MANT_NORM_p75_1p5, _MM_MANT_SIGN_nan);
    __m512d n = _mm512_sub_pd(_mm512_getexp_pd((__m512d)u), _mm512_getexp_pd(m));
    __mmask8 inside = (__mmask8)~_mm512_fpclass_pd_mask((__m512d)u, 0x1e);
    vd w = (vd)_mm512_maskz_scalef_pd(inside, (__m512d)v, (__m512d)(-(vd)n));
    return log_poly_d(((vd)m - 1.0) + w, (vd)n);
}
INLINE vd log_d(vd x)
{
    __m512d m = _mm512_getmant_pd((__m512d)x, _MM_MANT_NORM_p75_1p5, _MM_MANT_SIGN_nan);
    __m512d n = _mm512_sub_pd(_mm512_getexp_pd((__m512d)x), _mm512_getexp_pd(m));
    return log_poly_d((vd)m - 1.0, (vd)n);
}
#else
INLINE vf log_edges_f(vf x, vf y) /* y, or what log is at 0, inf, NaN and below 0 */
{
    vf edge = select_f(eq_f(x, all_f(0.0f)), all_f(-INFINITY), select_f(lt_f(all_f(0.0f), x), x, all_f(NAN)));
    return select_f(lt_f(all_f(0.0f), x) & lt_f(x, all_f(INFINITY)), y, edge);
}
INLINE vd log_edges_d(vd x, vd y)
{
    vd edge = select_d(eq_d(x, all_d(0.0)), all_d(-(double)INFINITY), select_d(lt_d(all_d(0.0), x), x, all_d((double)NAN)));
    return select_d(lt_d(all_d(0.0), x) & lt_d(x, all_d((double)INFINITY)), y, edge);
}
INLINE vi split_f(vf x, vf *m) /* e of x = m 2^e, sqrt(1/2) <= m < sqrt(2) */
{
    vi e = (vi)((vu)x - 0x3f3504f3) >> 23;
    *m = (vf)((vu)x - ((vu)e << 23));
    return e;
}
INLINE vf log_sum_f(vf u, vf v)
{
    vi tiny = (vi)lt_f(u, all_f(0x1p-126f));
    vf up = (vf)((127 << 23) + (tiny & (32 << 23))), x = u * up; /* subnormal numbers times 2^32 */
    vf m, w;
    vi e = split_f(x, &m);
    w = v * up * (0.5f * (vf)((128u - (vu)e) << 23));
    return log_edges_f(u, log_poly_f((m - 1.0f) + w, __builtin_convertvector(e - (tiny & 32), vf)));
}
INLINE vd log_sum_d(vd u, vd v)
{
    vl tiny = (vl)lt_d(u, all_d(0x1p-1022));
    vd up = (vd)((1023ll << 52) + (tiny & (64ll << 52))), x = u * up;
    vl e = (vl)(((vul)x - 0x3fe6a09e667f3bcd + (1024ull << 52)) >> 52); /* + 1024: AVX2 has no arithmetic shift of 64 bits */
    vd n = (vd)(e + 0x4338000000000000 - (tiny & 64)) - (ROUND_D + 1024); /* nor a conversion */
    e -= 1024;
    vd m = (vd)((vul)x - ((vul)e << 52)), w = v * up * (0.5 * (vd)((1024u - (vul)e) << 52));
    return log_edges_d(u, log_poly_d((m - 1.0) + w, n));
}
INLINE vf log_f(vf x) { return log_sum_f(x, (vf){0}); }
INLINE vd log_d(vd x) { return log_sum_d(x, (vd){0}); }
#endif
#if W == 16
INLINE vf log_near_f(vf u, vf v) /* the same where v is 0 unless 3/4 <= u < 3/2, so that the power of two of u is 0 */
{
    __m512 m = _mm512_getmant_ps((__m512)u, _MM_MANT_NORM_p75_1p5, _MM_MANT_SIGN_nan);
    __m512 n = _mm512_sub_ps(_mm512_getexp_ps((__m512)u), _mm512_getexp_ps(m));
    return log_poly_f(((vf)m - 1.0f) + v, (vf)n);
}
#else
static __attribute__((noinline, unused)) vf log_sum_slow_f(vf u, vf v) { return log_sum_f(u, v); }
INLINE vf log_near_f(vf u, vf v) /* the same; numbers that are neither 0, subnormal, inf nor NaN, the rule, go without the edges */
{
    if (!every_f(le_f(all_f(0x1p-126f), u) & lt_f(u, all_f(INFINITY)))) return log_sum_slow_f(u, v);
    vf m, w;
    vi e = split_f(u, &m);
    w = v * (0.5f * (vf)((128u - (vu)e) << 23));
    return log_poly_f((m - 1.0f) + w, __builtin_convertvector(e, vf));
}
#endif
INLINE vd log_near_d(vd u, vd v) { return log_sum_d(u, v); }
#if W == 16
INLINE vf log_half_f(vf x) /* 0 <= x <= 1/2: far from 1, where the result is near 0, no digit can be lost by a simpler reduction */
{
    vf n = (vf)_mm512_getexp_ps((__m512)x), f = (vf)_mm512_getmant_ps((__m512)x, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_nan) - 1.5f;
    vf p = mad_f(f, all_f(0x1.fff7p-9f), all_f(-0x1.9ac4fp-8f));
    p = mad_f(p, f, all_f(0x1.07be3ap-7f));
    p = mad_f(p, f, all_f(-0x1.d3ca26p-7f));
    p = mad_f(p, f, all_f(0x1.b02d58p-6f));
    p = mad_f(p, f, all_f(-0x1.94da48p-5f));
    p = mad_f(p, f, all_f(0x1.9488eep-4f));
    p = mad_f(p, f, all_f(-0x1.c71ba8p-3f));
    p = mad_f(p, f, all_f(0x1.555556p-1f));
    p = mad_f(p, f, all_f(0x1.9f323ep-2f));
    return mad_f(n, all_f(0x1.62e43p-1f), p);
}
#else
INLINE vf log_half_f(vf x)
{
    if (!every_f(le_f(all_f(0x1p-126f), x))) return log_sum_slow_f(x, (vf){0});
    vf m;
    vi e = split_f(x, &m);
    return log_poly_f(m - 1.0f, __builtin_convertvector(e, vf));
}
#endif
INLINE vd log_half_d(vd x) { return log_d(x); }
/* log(1 + x); the sum's rounding error goes along (u - 1 is exact up to 2^24, beyond which the error doesn't matter). Tiny x keep
   their relative error; log1p(-0) is +0. */
INLINE vf log1p_f(vf x)
{
    vf u = 1.0f + x;
#if W == 16
    return log_sum_f(u, x - (u - 1.0f));
#else
    return log_near_f(u, x - (u - 1.0f));
#endif
}
INLINE vd log1p_d(vd x)
{
    vd u = 1.0 + x;
    return log_sum_d(u, x - (u - 1.0));
}
/* log(1 + x) for 0 <= x <= 1 and log(1 - x) for 0 <= x <= 1/2: x ± x² P(x), half the work of log1p. */
INLINE vf log1p_01_f(vf x)
{
    vf p = mad_f(x, all_f(-0x1.b1559ep-9f), all_f(0x1.4a1d56p-6f));
    p = mad_f(p, x, all_f(-0x1.d785ep-5f));
    p = mad_f(p, x, all_f(0x1.b5093ep-4f));
    p = mad_f(p, x, all_f(-0x1.3a5922p-3f));
    p = mad_f(p, x, all_f(0x1.9351p-3f));
    p = mad_f(p, x, all_f(-0x1.ff249ep-3f));
    p = mad_f(p, x, all_f(0x1.554dd4p-2f));
    p = mad_f(p, x, all_f(-0x1.ffffd2p-2f));
    return mad_f(x * x, p, x);
}
INLINE vf log1m_half_f(vf x)
{
    vf p = mad_f(x, all_f(-0x1.be078ap+0f), all_f(0x1.3cacap+1f));
    p = mad_f(p, x, all_f(-0x1.f802b2p+0f));
    p = mad_f(p, x, all_f(0x1.2ebabep-1f));
    p = mad_f(p, x, all_f(-0x1.5bf526p-2f));
    p = mad_f(p, x, all_f(-0x1.6845bep-3f));
    p = mad_f(p, x, all_f(-0x1.01e90ep-2f));
    p = mad_f(p, x, all_f(-0x1.5542fcp-2f));
    p = mad_f(p, x, all_f(-0x1.00001ep-1f));
    return mad_f(x * x, p, -x);
}
/* log cosh d and tanh d for d >= 0, with e = exp(-2d). Far from 0 they are d - log 2 + log1p(e) and (1 - e) / (1 + e); near it these
   cancel, and d² P(d²) and d + d³ Q(d²) take their place. */
INLINE vf log_cosh_f(vf d)
{
    vf e = exp_neg_f(-2.0f * d), x = d * d;
    vf p = mad_f(x, all_f(0x1.6f3ce2p-14f), all_f(-0x1.24d6d0p-11f));
    p = mad_f(p, x, all_f(0x1.10870cp-9f));
    p = mad_f(p, x, all_f(-0x1.b7d1acp-8f));
    p = mad_f(p, x, all_f(0x1.6bffccp-6f));
    p = mad_f(p, x, all_f(-0x1.555506p-4f));
    p = mad_f(p, x, all_f(0.5f));
    vf q = mad_f(e, all_f(0x1.2b7b5ap-3f), all_f(-0x1.f18568p-3f)); /* log1p of 0 <= e <= exp(-2) */
    q = mad_f(q, e, all_f(0x1.54ec28p-2f));
    q = mad_f(q, e, all_f(-0x1.fffdecp-2f));
    return select_f(lt_f(d, all_f(1.0f)), x * p, (d - 0x1.62e43p-1f) + mad_f(e * e, q, e));
}
INLINE vf tanh_f(vf d)
{
    vf e = exp_neg_f(-2.0f * d), x = d * d;
    vf p = mad_f(x, all_f(0x1.41e25ep-6f), all_f(-0x1.b88f24p-5f));
    p = mad_f(p, x, all_f(0x1.110e38p-3f));
    p = mad_f(p, x, all_f(-0x1.555554p-2f));
    return select_f(lt_f(d, all_f(0.35f)), mad_f(d * x, p, d), (1.0f - e) / (1.0f + e));
}
INLINE vd log1p_01_d(vd x) { return log1p_d(x); }
INLINE vd log1m_half_d(vd x) { return log1p_d(-x); }
INLINE vd log_cosh_d(vd d)
{
    vd e = exp_neg_d(-2.0 * d), x = d * d;
    vd p = mad_d(x, all_d(0x1.eb4e0b5d6bd5cp-28), all_d(-0x1.386af928bec45p-24));
    p = mad_d(p, x, all_d(0x1.9391e8afedc0bp-22));
    p = mad_d(p, x, all_d(-0x1.708c1c0f135efp-20));
    p = mad_d(p, x, all_d(0x1.1903a1f06ae43p-18));
    p = mad_d(p, x, all_d(-0x1.8cb9a68a0e82bp-17));
    p = mad_d(p, x, all_d(0x1.12785c75d9dbdp-15));
    p = mad_d(p, x, all_d(-0x1.7d8e51181c0eep-14));
    p = mad_d(p, x, all_d(0x1.0d0a17899eac1p-12));
    p = mad_d(p, x, all_d(-0x1.833d830d5487dp-11));
    p = mad_d(p, x, all_d(0x1.1ea5d2ef5e14cp-9));
    p = mad_d(p, x, all_d(-0x1.ba1ba1b495b38p-8));
    p = mad_d(p, x, all_d(0x1.6c16c16c0ada3p-6));
    p = mad_d(p, x, all_d(-0x1.55555555554b3p-4));
    p = mad_d(p, x, all_d(0x1.0000000000000p-1));
    vd q = mad_d(e, all_d(0x1.9c0682e244c10p-5), all_d(-0x1.6f235a151bacbp-4));
    q = mad_d(q, e, all_d(0x1.c0bd325646672p-4));
    q = mad_d(q, e, all_d(-0x1.ff685874ff392p-4));
    q = mad_d(q, e, all_d(0x1.248dde00842b0p-3));
    q = mad_d(q, e, all_d(-0x1.55552ce8f46c1p-3));
    q = mad_d(q, e, all_d(0x1.999998c429a6fp-3));
    q = mad_d(q, e, all_d(-0x1.fffffffdc1b6bp-3));
    q = mad_d(q, e, all_d(0x1.555555555428dp-2));
    q = mad_d(q, e, all_d(-0x1.ffffffffffffdp-2)); /* log1p of 0 <= e <= exp(-2) */
    return select_d(lt_d(d, all_d(1.0)), x * p, ((d - LN2_HI_D) - LN2_LO_D) + mad_d(e * e, q, e));
}
/* -m / (2 + m) with m = expm1(-2d), and what the roundings of m, of the sum and of the quotient lost. */
INLINE vd tanh_d(vd d)
{
    vd low, m = expm1_neg_low_d(-2.0 * d, &low), sum = 2.0 + m, lost = (2.0 - sum) + m + low, inverse = 1.0 / sum;
    vd t = -m * inverse, rest = mad_d(-t, sum, -m) - low;
    return mad_d(mad_d(-t, lost, rest), inverse, t);
}

/* u**n for u >= 0 and n the same in all lanes; 0 at u = 0 even for n < 0 (the caller multiplies by what vanishes faster), 1 for n = 0.
   Whole n below 32 by products, halves by a root more. Others: floats through doubles, doubles to |log u| units more. */
static __attribute__((noinline, unused)) vf power_any_f(vf u, float n)
{
    float size = fabsf(n), whole = floorf(size), rest = size - whole;
    vf y = all_f(1.0f);
    if (whole < 32 && (rest == 0 || rest == 0.5f)) {
        for (int k = 0; k < (int)whole; k++) y = y * u;
        y = rest == 0 ? y : y * sqrt_f(u);
        y = n < 0 ? 1.0f / y : y;
    } else {
        float lanes[W];
        double in[W], out[W];
        store_f(lanes, u);
        for (int i = 0; i < W; i++) in[i] = lanes[i];
        for (int i = 0; i < W; i += WD) store_d(out + i, exp_d((double)n * log_d(load_d(in + i))));
        for (int i = 0; i < W; i++) lanes[i] = (float)out[i];
        y = load_f(lanes);
    }
    return select_f(eq_f(u, all_f(0.0f)), (vf){0}, y);
}
static __attribute__((noinline, unused)) vd power_any_d(vd u, double n)
{
    double size = fabs(n), whole = floor(size), rest = size - whole;
    vd y = all_d(1.0);
    if (whole < 32) {
        for (int k = 0; k < (int)whole; k++) y = y * u;
        if (rest != 0) y = y * (rest == 0.5 ? sqrt_d(u) : exp_d(rest * log_d(u)));
        y = n < 0 ? 1.0 / y : y;
    } else
        y = exp_d(n * log_d(u));
    return select_d(eq_d(u, all_d(0.0)), (vd){0}, y);
}
INLINE vf power_f(vf u, vf n) { return n[0] == 2 ? u * u : n[0] == 1 ? u : n[0] == 0 ? all_f(1.0f) : power_any_f(u, n[0]); }
INLINE vd power_d(vd u, vd n) { return n[0] == 2 ? u * u : n[0] == 1 ? u : n[0] == 0 ? all_d(1.0) : power_any_d(u, n[0]); }
/* (u + v)**n, v far below u */
INLINE vf power_sum_f(vf u, vf v, vf n)
{
    return n[0] == 2 ? mad_f(u, u, (u + u) * v) : mad_f(all_f(1.0f), power_f(u, n), times_f(v, n * power_f(u, n - 1.0f)));
}
INLINE vd power_sum_d(vd u, vd v, vd n)
{
    return n[0] == 2 ? mad_d(u, u, (u + u) * v) : mad_d(all_d(1.0), power_d(u, n), times_d(v, n * power_d(u, n - 1.0)));
}

#else /* no vector extensions: one lane, libm */

#define INLINE static inline
#define W 1
#define WD 1
typedef float vf;
typedef double vd;
typedef int mf;
typedef int md;
#define ONE_LANE(real, x, FABS, SQRT, FMA, EXP, EXPM1, LOG, LOG1P, POW, TANH)                                                              \
    INLINE real all_##x(real c) { return c; }                                                                                              \
    INLINE real lane_##x(real v) { return v; }                                                                                             \
    INLINE real load_##x(const real *p) { return *p; }                                                                                     \
    INLINE void store_##x(real *p, real v) { *p = v; }                                                                                     \
    INLINE void stream_##x(real *p, real v) { *p = v; }                                                                                    \
    INLINE real load_part_##x(const real *p, ptrdiff_t n) { return n ? *p : 0; }                                                           \
    INLINE void store_part_##x(real *p, real v, ptrdiff_t n)                                                                               \
    {                                                                                                                                      \
        if (n) *p = v;                                                                                                                     \
    }                                                                                                                                      \
    INLINE int lt_##x(real a, real b) { return a < b; }                                                                                    \
    INLINE int le_##x(real a, real b) { return a <= b; }                                                                                   \
    INLINE int eq_##x(real a, real b) { return a == b; }                                                                                   \
    INLINE real select_##x(int m, real a, real b) { return m ? a : b; }                                                                    \
    INLINE int any_##x(int m) { return m; }                                                                                                \
    INLINE int every_##x(int m) { return m; }                                                                                              \
    INLINE int first_##x(ptrdiff_t n) { return n > 0; }                                                                                    \
    INLINE real max_##x(real a, real b) { return a > b ? a : b; }                                                                          \
    INLINE real min_##x(real a, real b) { return a < b ? a : b; }                                                                          \
    INLINE double sum_##x(real v) { return v; }                                                                                            \
    INLINE real top_##x(real v) { return v; }                                                                                              \
    INLINE real abs_##x(real v) { return FABS(v); }                                                                                        \
    INLINE real minus_abs_##x(real v) { return -FABS(v); }                                                                                 \
    INLINE real sqrt_##x(real v) { return SQRT(v); }                                                                                       \
    INLINE real mad_##x(real a, real b, real c) { return FMA(a, b, c); }                                                                   \
    INLINE real residual_##x(real a, real b, real c) { return FMA(-a, b, c); }                                                             \
    INLINE real exp_##x(real v) { return EXP(v); }                                                                                         \
    INLINE real exp_neg_##x(real v) { return EXP(v); }                                                                                     \
    INLINE real exp_neg_low_##x(real v, real *low) { return *low = 0, EXP(v); }                                                            \
    INLINE real log_##x(real v) { return LOG(v); }                                                                                         \
    INLINE real log1p_##x(real v) { return LOG1P(v); }                                                                                     \
    INLINE real log1p_01_##x(real v) { return LOG1P(v); }                                                                                  \
    INLINE real log1m_half_##x(real v) { return LOG1P(-v); }                                                                               \
    INLINE real log_sum_##x(real u, real v) { return u > 0 && u < INFINITY ? LOG(u) + LOG1P(v / u) : LOG(u); }                             \
    INLINE real times_##x(real u, real v) { return u == 0 ? 0 : u * v; }                                                                   \
    INLINE real log_half_##x(real v) { return LOG(v); }                                                                                    \
    INLINE real log_near_##x(real u, real v) { return log_sum_##x(u, v); }                                                                 \
    INLINE real tanh_##x(real v) { return TANH(v); }                                                                                       \
    INLINE real log_cosh_##x(real v)                                                                                                       \
    {                                                                                                                                      \
        real m = EXPM1(-v), e = 1 + m;                                                                                                     \
        return v < 1 ? LOG1P(m * m / (2 * e)) : v - (real)0.693147180559945309417 + LOG1P(e * e);                                          \
    }                                                                                                                                      \
    INLINE real power_##x(real u, real n) { return u == 0 ? n == 0 : POW(u, n); }                                                          \
    INLINE real power_sum_##x(real u, real v, real n) { return power_##x(u, n) + times_##x(v, n * power_##x(u, n - 1)); }
ONE_LANE(float, f, fabsf, sqrtf, fmaf, expf, expm1f, logf, log1pf, powf, tanhf)
ONE_LANE(double, d, fabs, sqrt, fma, exp, expm1, log, log1p, pow, tanh)
#undef ONE_LANE
#define AND_MASK(a, b) ((a) & (b))
#define OR_MASK(a, b) ((a) | (b))
INLINE void fence(void) {}
INLINE sum_t sum_row_f(const float *x, ptrdiff_t n)
{
    sum_t sum = {0, 0};
    for (ptrdiff_t i = 0; i < n; i++) add_to(&sum, x[i]);
    return sum;
}
INLINE sum_t sum_row_d(const double *x, ptrdiff_t n)
{
    sum_t sum = {0, 0};
    for (ptrdiff_t i = 0; i < n; i++) add_to(&sum, x[i]);
    return sum;
}

#endif
#endif
