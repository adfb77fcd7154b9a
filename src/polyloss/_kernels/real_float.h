/* What the loops and formulas.h ask of a type: vectors of W floats. */
#include "real_none.h"

#define one float
#define real vf
#define KIND TYPE_F32
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
#define MINUS_ABS(x) minus_abs_f(x)
#define SQRT(x) sqrt_f(x)
#define EXP(x) exp_f(x)
#define EXP_NEG(x) exp_neg_f(x)
#define EXP_NEG_LOW(x, low) exp_neg_low_f(x, low)
#define LOG(x) log_f(x)
#define LOG1P(x) log1p_f(x)
#define LOG1P_01(x) log1p_01_f(x)
#define LOG1M_HALF(x) log1m_half_f(x)
#define LOG_HALF(x) log_half_f(x)
#define LOG_NEAR(u, v) log_near_f(u, v)
#define TIMES(x, y) times_f(x, y)
#define POWER(u, n) power_f(u, n)
#define POWER_SUM(u, v, n) power_sum_f(u, v, n)
#define MAD(a, b, c) mad_f(a, b, c)
#define RESIDUAL(a, b, c) residual_f(a, b, c)
#define LOG_COSH(x) log_cosh_f(x)
#define TANH(x) tanh_f(x)
#define EVERY(m) every_f(m)
#define ANY(m) any_f(m)
#define HARD(a) (lane_f((a)[FORMULA_PARAMETERS]) != 0)
#define LOAD(p) load_f(p)
#define STORE(p, v) store_f(p, v)
#define STREAM(p, v) stream_f(p, v)
#define LOAD_PART(p, n) load_part_f(p, n)
#define STORE_PART(p, v, n) store_part_f(p, v, n)
#define SUM(v) sum_f(v)
#define AND(m, k) AND_MASK(m, k)
#define OR(m, k) OR_MASK(m, k)
#define MASK mf
#define SUM_ROW(x, n) sum_row_f(x, n)
