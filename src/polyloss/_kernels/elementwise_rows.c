/* Loops of the elementwise losses for one instruction set; setup.py compiles this file once for each. */
#include "elementwise_rows.h"
#include "storage.h"
#include "vector_math.h"

#include "real_float.h"
#include "formulas.h"
#include "lines.h"
#include "elementwise_loops.h"

#include "real_double.h"
#include "formulas.h"
#include "lines.h"
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

const elementwise_rows WITH_ISA(elementwise_rows) = {task, not_binary, math};
