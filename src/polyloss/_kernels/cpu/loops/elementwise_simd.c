/* Loops of the elementwise losses for one instruction set; setup.py compiles this file once for each. */
#include "cpu/loops/kernel.h"
#include "simd/storage.h"
#include "simd/vector_math.h"

#define ELEMENTWISE_SEGMENT 32768 /* elements of a task: 1/10 ms, so that threads share evenly and starting a task costs nothing */
#define ELEMENTWISE_TILE 1024 /* elements; the rooms of a task stay in the first-level cache */
#define ELEMENTWISE_STREAM (1 << 23) /* bytes of output that no cache should be filled with */

/* Positions beside each other that are gone through together: fewer where the sum of each goes in lanes, since those are kept, too. */
static inline ptrdiff_t elementwise_tile(const kernel_job *job)
{
    return job->c > ELEMENTWISE_TILE / 2 ? ELEMENTWISE_TILE / 4 : job->c > 2 ? ELEMENTWISE_TILE / 2 : ELEMENTWISE_TILE;
}

/* WD numbers as doubles, and back */
#if W == 4 && defined __SSE2__ /* gcc 12 makes two conversions of one */
INLINE vd wide_f(const float *p) { return (vd)_mm_cvtps_pd(_mm_castsi128_ps(_mm_loadl_epi64((const __m128i *)p))); }
INLINE void narrowed_f(float *p, vd v) { _mm_storel_epi64((__m128i *)p, _mm_castps_si128(_mm_cvtpd_ps((__m128d)v))); }
#elif W > 1
INLINE vd wide_f(const float *p) { return widen(p); }
INLINE void narrowed_f(float *p, vd v) { narrow(p, v); }
#else
INLINE vd wide_f(const float *p) { return *p; }
INLINE void narrowed_f(float *p, vd v) { *p = (float)v; }
#endif
INLINE vd wide_d(const double *p) { return load_d(p); }
INLINE void narrowed_d(double *p, vd v) { store_d(p, v); }

/* Four sums in double, whatever a vector has: so a sum has the same bits on every machine. add_four reads four numbers and adds n of them. */
static const int64_t first_four[][4] = {{0, 0, 0, 0}, {-1, 0, 0, 0}, {-1, -1, 0, 0}, {-1, -1, -1, 0}, {-1, -1, -1, -1}};
#if W >= 8
typedef struct {
    __m256d s;
} four_sums;
INLINE four_sums no_sums(void) { return (four_sums){_mm256_setzero_pd()}; }
INLINE four_sums add_doubles(four_sums s, __m256d y, ptrdiff_t n)
{
    if (n < 4) y = _mm256_and_pd(y, _mm256_castsi256_pd(_mm256_loadu_si256((const __m256i *)first_four[n])));
    return (four_sums){_mm256_add_pd(s.s, y)};
}
INLINE four_sums add_four_f(four_sums s, const float *x, ptrdiff_t n) { return add_doubles(s, _mm256_cvtps_pd(_mm_loadu_ps(x)), n); }
INLINE four_sums add_four_d(four_sums s, const double *x, ptrdiff_t n) { return add_doubles(s, _mm256_loadu_pd(x), n); }
INLINE double across_four(four_sums s)
{
    const __m128d pairs = _mm_add_pd(_mm256_castpd256_pd128(s.s), _mm256_extractf128_pd(s.s, 1));
    return _mm_cvtsd_f64(_mm_add_sd(pairs, _mm_unpackhi_pd(pairs, pairs)));
}
#else
typedef struct {
    vd s[4 / WD];
} four_sums;
INLINE four_sums no_sums(void)
{
    four_sums s;
    for (int k = 0; k < 4 / WD; k++) s.s[k] = all_d(0);
    return s;
}
INLINE vd masked_d(vd y, const int64_t *mask)
{
#if W > 1
    vl bits;
    memcpy(&bits, mask, sizeof bits);
    return (vd)((vl)y & bits);
#else
    return *mask ? y : 0;
#endif
}
#define ADD_FOUR(x, type)                                                                                                                  \
    INLINE four_sums add_four_##x(four_sums s, const type *from, ptrdiff_t n)                                                              \
    {                                                                                                                                      \
        for (int k = 0; k < 4; k += WD) {                                                                                                  \
            const vd y = wide_##x(from + k);                                                                                               \
            s.s[k / WD] += n == 4 ? y : masked_d(y, first_four[n] + k);                                                                    \
        }                                                                                                                                  \
        return s;                                                                                                                          \
    }
ADD_FOUR(f, float)
ADD_FOUR(d, double)
#undef ADD_FOUR
INLINE double across_four(four_sums s)
{
    double each[4];
    for (int k = 0; k < 4 / WD; k++) store_d(each + k * WD, s.s[k]);
    return (each[0] + each[2]) + (each[1] + each[3]);
}
#endif

#define DOUBLES 0
#include "simd/real.h"
#include "formulas/elementwise.h"
#include "simd/lines.h"
#include "cpu/loops/elementwise_loops.h"

#define DOUBLES 1
#include "simd/real.h"
#include "formulas/elementwise.h"
#include "simd/lines.h"
#include "cpu/loops/elementwise_loops.h"

/* Tasks of about ELEMENTWISE_SEGMENT elements. */
static void cut_rows(kernel_job *job)
{
    job->segments = job->rows = 1;
    job->scratch = 0;
    if (job->c > ELEMENTWISE_SEGMENT) {
        job->segments = (job->c + ELEMENTWISE_SEGMENT - 1) / ELEMENTWISE_SEGMENT;
        job->tasks = job->n * job->s * job->segments;
    } else {
        job->rows = ELEMENTWISE_SEGMENT / job->c;
        job->tasks = (job->n * job->s + job->rows - 1) / job->rows;
    }
}
static void cut(kernel_job *job)
{
    const ptrdiff_t width = elementwise_tile(job), most = job->s < width ? job->s : width;
    const ptrdiff_t bytes = job->n * job->c * job->s * (job->p.type == TYPE_F64 ? 8 : job->p.type == TYPE_F32 ? 4 : 2);
    job->stream = ((job->grad.type >= 0) + (job->hess.type >= 0)) * bytes >= ELEMENTWISE_STREAM;
    if (!job->columns) {
        cut_rows(job);
        return;
    }
    job->segments = 1;
    job->scratch =
        job->c > ELEMENTWISE_TILE / 2 ? ELEMENTWISE_TILE * sizeof(double) + width * 4 * sizeof(vf) : 0; /* 4: SUMS are 4 vectors */
    const ptrdiff_t tiles = job->n * ((job->s + width - 1) / width), rows = ELEMENTWISE_SEGMENT / (most * job->c);
    job->rows = rows < 1 ? 1 : rows;
    job->tasks = (tiles + job->rows - 1) / job->rows;
}
static void task(const kernel_job *job, ptrdiff_t at, void *scratch, kernel_sums *found)
{
    if (job->columns)
        (job->doubles ? columns_task_d : columns_task_f)(job, at, scratch, found);
    else
        (job->doubles ? rows_task_d : rows_task_f)(job, at, found);
    if (job->stream) fence();
}
static void not_binary(const kernel_job *job, ptrdiff_t at, void *scratch, kernel_sums *found)
{
    (void)scratch;
    found->count += (job->doubles ? not_binary_d : not_binary_f)(job, at);
}

/* One function of vector_math.h on n numbers, y beside x, for its tests. The order is that of MATH in elementwise.pyx. */
void WITH_ISA(elementwise_math)(int function, int doubles, const void *x, void *y, ptrdiff_t n, double parameter)
{
#define CASE(number, f)                                                                                                                    \
    case number:                                                                                                                           \
        for (ptrdiff_t i = 0; i < n; i += doubles ? WD : W) {                                                                              \
            ptrdiff_t m = n - i;                                                                                                           \
            if (doubles)                                                                                                                   \
                store_part_d((double *)y + i, f##_d(load_part_d((const double *)x + i, m < WD ? m : WD) EXTRA_D), m < WD ? m : WD);        \
            else                                                                                                                           \
                store_part_f((float *)y + i, f##_f(load_part_f((const float *)x + i, m < W ? m : W) EXTRA_F), m < W ? m : W);              \
        }                                                                                                                                  \
        break;
#define EXTRA_D
#define EXTRA_F
    switch (function) {
        CASE(0, exp)
        CASE(1, exp_neg)
        CASE(2, log)
        CASE(3, log1p)
        CASE(4, log1p_01)
        CASE(5, log1m_half)
        CASE(6, log_half)
        CASE(7, log_cosh)
        CASE(8, tanh)
#undef EXTRA_D
#undef EXTRA_F
#define EXTRA_D , all_d(parameter)
#define EXTRA_F , all_f((float)parameter)
        CASE(9, power)
        CASE(10, max)
        CASE(11, min)
    }
}

static const kernel_loops binary = {.order = REORDER_ELEMENTS, .cost = 1, .cut = cut_rows, .task = not_binary};
const kernel_loops WITH_ISA(elementwise_loops) = {.order = REORDER_ELEMENTS, .cost = 1, .cut = cut, .task = task, .binary = &binary};
