/* What the loops and formulas.h ask of a type: vectors of W/2 doubles. */
#include "real_none.h"

#define one double
#define real vd
#define KIND TYPE_F64
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
#define MINUS_ABS(x) minus_abs_d(x)
#define SQRT(x) sqrt_d(x)
#define EXP(x) exp_d(x)
#define EXP_NEG(x) exp_neg_d(x)
#define EXP_NEG_LOW(x, low) exp_neg_low_d(x, low)
#define LOG(x) log_d(x)
#define LOG1P(x) log1p_d(x)
#define LOG1P_01(x) log1p_01_d(x)
#define LOG1M_HALF(x) log1m_half_d(x)
#define LOG_HALF(x) log_half_d(x)
#define LOG_NEAR(u, v) log_near_d(u, v)
#define TIMES(x, y) times_d(x, y)
#define POWER(u, n) power_d(u, n)
#define POWER_SUM(u, v, n) power_sum_d(u, v, n)
#define MAD(a, b, c) mad_d(a, b, c)
#define RESIDUAL(a, b, c) residual_d(a, b, c)
#define LOG_COSH(x) log_cosh_d(x)
#define TANH(x) tanh_d(x)
#define EVERY(m) every_d(m)
#define ANY(m) any_d(m)
#define HARD(a) (lane_d((a)[FORMULA_PARAMETERS]) != 0)
#define LOAD(p) load_d(p)
#define STORE(p, v) store_d(p, v)
#define STREAM(p, v) stream_d(p, v)
#define LOAD_PART(p, n) load_part_d(p, n)
#define STORE_PART(p, v, n) store_part_d(p, v, n)
#define SUM(v) sum_d(v)
#define AND(m, k) AND_MASK(m, k)
#define OR(m, k) OR_MASK(m, k)
#define MASK md
#define SUM_ROW(x, n) sum_row_d(x, n)
