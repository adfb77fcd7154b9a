/* What the loops and formulas/elementwise.h ask of a type: included after `#define DOUBLES 0` for vectors of W floats, after
   `#define DOUBLES 1` for vectors of W/2 doubles, once for each. FORMULA(name) is a name's form of that type, and the functions of
   vector_math.h have both. */
#undef one
#undef real
#undef KIND
#undef LANES
#undef FORMULA
#undef MASK
#if DOUBLES
#define one double
#define real vd
#define KIND TYPE_F64
#define LANES WD
#define FORMULA(name) name##_d
#define MASK md
#else
#define one float
#define real vf
#define KIND TYPE_F32
#define LANES W
#define FORMULA(name) name##_f
#define MASK mf
#endif
#undef DOUBLES

#ifndef POLYLOSS_REAL_H
#define POLYLOSS_REAL_H
#define R(c) FORMULA(all)((one)(c))
#define SELECT(m, x, y) FORMULA(select)(m, x, y)
#define LT(x, y) FORMULA(lt)(x, y)
#define LE(x, y) FORMULA(le)(x, y)
#define EQ(x, y) FORMULA(eq)(x, y)
#define FIRST(n) FORMULA(first)(n)
#define MAX(x, y) FORMULA(max)(x, y)
#define MIN(x, y) FORMULA(min)(x, y)
#define ABS(x) FORMULA(abs)(x)
#define MINUS_ABS(x) FORMULA(minus_abs)(x)
#define SQRT(x) FORMULA(sqrt)(x)
#define EXP(x) FORMULA(exp)(x)
#define EXP_NEG(x) FORMULA(exp_neg)(x)
#define EXP_NEG_LOW(x, low) FORMULA(exp_neg_low)(x, low)
#define LOG(x) FORMULA(log)(x)
#define LOG1P(x) FORMULA(log1p)(x)
#define LOG1P_01(x) FORMULA(log1p_01)(x)
#define LOG1M_HALF(x) FORMULA(log1m_half)(x)
#define LOG_HALF(x) FORMULA(log_half)(x)
#define LOG_NEAR(u, v) FORMULA(log_near)(u, v)
#define TIMES(x, y) FORMULA(times)(x, y)
#define POWER(u, n) FORMULA(power)(u, n)
#define POWER_SUM(u, v, n) FORMULA(power_sum)(u, v, n)
#define MAD(a, b, c) FORMULA(mad)(a, b, c)
#define RESIDUAL(a, b, c) FORMULA(residual)(a, b, c)
#define LOG_COSH(x) FORMULA(log_cosh)(x)
#define TANH(x) FORMULA(tanh)(x)
#define EVERY(m) FORMULA(every)(m)
#define ANY(m) FORMULA(any)(m)
#define HARD(a) (FORMULA(lane)((a)[FORMULA_PARAMETERS]) != 0)
#define LOAD(p) FORMULA(load)(p)
#define STORE(p, v) FORMULA(store)(p, v)
#define STREAM(p, v) FORMULA(stream)(p, v)
#define LOAD_PART(p, n) FORMULA(load_part)(p, n)
#define STORE_PART(p, v, n) FORMULA(store_part)(p, v, n)
#define SUM(v) FORMULA(sum)(v)
#define AND(m, k) AND_MASK(m, k)
#define OR(m, k) OR_MASK(m, k)
#define SUM_ROW(x, n) FORMULA(sum_row)(x, n)
#endif
