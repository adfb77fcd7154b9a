/* Loops of the elementwise losses for one instruction set; setup.py compiles this file once for each. */
#include "elementwise_rows.h"
#include "vector_math.h"

#if defined __GNUC__
#define PREFETCH(p) __builtin_prefetch(p)
#else
#define PREFETCH(p) ((void)0)
#endif
#if defined __F16C__
#include <immintrin.h>
#endif

/* IEEE half precision and bfloat16, from and to their bits; rounded to the nearest, ties to even. */
INLINE float bits_to_float(uint32_t b)
{
    float x;
    memcpy(&x, &b, 4);
    return x;
}
INLINE uint32_t float_to_bits(float x)
{
    uint32_t b;
    memcpy(&b, &x, 4);
    return b;
}
INLINE float bf16_to_float(uint16_t h) { return bits_to_float((uint32_t)h << 16); }
INLINE uint16_t float_to_bf16(float x)
{
    uint32_t b = float_to_bits(x);
    return (uint16_t)(x != x ? (b >> 16) | 0x40 : (b + 0x7fff + ((b >> 16) & 1)) >> 16);
}
INLINE float half_to_float(uint16_t h)
{
#if defined __F16C__
    return _cvtsh_ss(h);
#else
    uint32_t body = h & 0x7fffu;
    float x = bits_to_float(body << 13) * 0x1p+112f; /* subnormal halves come right by the product */
    return bits_to_float(((uint32_t)(h & 0x8000) << 16) | (body >= 0x7c00 ? (body << 13) | 0x7f800000 : float_to_bits(x)));
#endif
}
INLINE uint16_t float_to_half(float x)
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

#define OR(m, k) OR_MASK(m, k)
#define AND(m, k) AND_MASK(m, k)

#define one float
#define real vf
#define KIND F4
#define LANES W
#define FORMULA(name) name##_f
#define R(c) all_f((float)(c))
#define SELECT(m, x, y) select_f(m, x, y)
#define LT(x, y) lt_f(x, y)
#define LE(x, y) le_f(x, y)
#define EQ(x, y) eq_f(x, y)
#define FIRST(n) first_f(n)
#define MAX(x, y) max_f(x, y)
#define MIN(x, y) min_f(x, y)
#define ABS(x) abs_f(x)
#define SQRT(x) sqrt_f(x)
#define EXP_NEG(x) exp_neg_f(x)
#define EXPM1_NEG(x) expm1_neg_f(x)
#define LOG(x) log_f(x)
#define LOG1P(x) log1p_f(x)
#define LOG1P_01(x) log1p_01_f(x)
#define LOG1M_HALF(x) log1m_half_f(x)
#define LOG_HALF(x) log_half_f(x)
#define LOG_NEAR(u, v) log_near_f(u, v)
#define TIMES(x, y) times_f(x, y)
#define POWER(u, n) power_f(u, n)
#define LOAD(p) load_f(p)
#define STORE(p, v) store_f(p, v)
#define STREAM(p, v) stream_f(p, v)
#define LOAD_PART(p, n) load_part_f(p, n)
#define STORE_PART(p, v, n) store_part_f(p, v, n)
#define SUM(v) sum_f(v)
#include "formulas.h"
#include "elementwise_loops.h"

#undef one
#undef real
#undef KIND
#undef LANES
#undef FORMULA
#undef R
#undef SELECT
#undef LT
#undef LE
#undef EQ
#undef FIRST
#undef MAX
#undef MIN
#undef ABS
#undef SQRT
#undef EXP_NEG
#undef EXPM1_NEG
#undef LOG
#undef LOG1P
#undef LOG1P_01
#undef LOG1M_HALF
#undef LOG_HALF
#undef LOG_NEAR
#undef TIMES
#undef POWER
#undef LOAD
#undef STORE
#undef STREAM
#undef LOAD_PART
#undef STORE_PART
#undef SUM

#define one double
#define real vd
#define KIND F8
#define LANES WD
#define FORMULA(name) name##_d
#define R(c) all_d((double)(c))
#define SELECT(m, x, y) select_d(m, x, y)
#define LT(x, y) lt_d(x, y)
#define LE(x, y) le_d(x, y)
#define EQ(x, y) eq_d(x, y)
#define FIRST(n) first_d(n)
#define MAX(x, y) max_d(x, y)
#define MIN(x, y) min_d(x, y)
#define ABS(x) abs_d(x)
#define SQRT(x) sqrt_d(x)
#define EXP_NEG(x) exp_neg_d(x)
#define EXPM1_NEG(x) expm1_neg_d(x)
#define LOG(x) log_d(x)
#define LOG1P(x) log1p_d(x)
#define LOG1P_01(x) log1p_01_d(x)
#define LOG1M_HALF(x) log1m_half_d(x)
#define LOG_HALF(x) log_half_d(x)
#define LOG_NEAR(u, v) log_near_d(u, v)
#define TIMES(x, y) times_d(x, y)
#define POWER(u, n) power_d(u, n)
#define LOAD(p) load_d(p)
#define STORE(p, v) store_d(p, v)
#define STREAM(p, v) stream_d(p, v)
#define LOAD_PART(p, n) load_part_d(p, n)
#define STORE_PART(p, v, n) store_part_d(p, v, n)
#define SUM(v) sum_d(v)
#include "formulas.h"
#include "elementwise_loops.h"

static void task(const elementwise_job *job, ptrdiff_t at, double *total, double *weights)
{
    if (job->doubles) (job->columns ? columns_task_d : rows_task_d)(job, at, total, weights);
    else (job->columns ? columns_task_f : rows_task_f)(job, at, total, weights);
    if (job->stream) fence();
}
static int not_binary(const elementwise_job *job, ptrdiff_t at) { return (job->doubles ? not_binary_d : not_binary_f)(job, at); }

/* The order is that of MATH in elementwise.pyx. */
static void math(int function, int doubles, const void *x, void *y, ptrdiff_t n, double parameter)
{
#define CASE(number, f)                                                                                                                    \
    case number:                                                                                                                           \
        for (ptrdiff_t i = 0; i < n; i += doubles ? WD : W) {                                                                              \
            ptrdiff_t m = n - i;                                                                                                           \
            if (doubles) store_part_d((double *)y + i, f##_d(load_part_d((const double *)x + i, m < WD ? m : WD) EXTRA_D), m < WD ? m : WD); \
            else store_part_f((float *)y + i, f##_f(load_part_f((const float *)x + i, m < W ? m : W) EXTRA_F), m < W ? m : W);             \
        }                                                                                                                                  \
        break;
#define EXTRA_D
#define EXTRA_F
    switch (function) {
        CASE(0, exp)
        CASE(1, exp_neg)
        CASE(2, expm1_neg)
        CASE(3, log)
        CASE(4, log1p)
        CASE(5, log1p_01)
        CASE(6, log1m_half)
        CASE(7, log_half)
#undef EXTRA_D
#undef EXTRA_F
#define EXTRA_D , all_d(parameter)
#define EXTRA_F , all_f((float)parameter)
        CASE(8, power)
        CASE(9, max)
        CASE(10, min)
    }
}

const elementwise_rows WITH_ISA(elementwise_rows) = {task, not_binary, math};
