/* Value, slope and curvature (first and second derivative in p) of every elementwise loss, t the target and p the prediction or logit.

   The blocks in regression.py, classification.py and similarity.py hold the same formulas under the same names. These lines compile for
   vectors of floats and doubles (elementwise_simd.c) and as CUDA C++: include the file once per type, with
       real              the type: a vector, float or double       one   that of a number of it       MASK   of a comparison
       FORMULA(name)     the name's form for that type, such as name##_f
       R(c)              the number c as a real
       SELECT(m, x, y)   m ? x : y          LT(x, y) LE(x, y) EQ(x, y)   false where a side is NaN
       AND(m, k)         both               OR(m, k)   either
       MAX(x, y)         x > y ? x : y, so y where one is NaN             MIN(x, y)   likewise
       ABS(x) MINUS_ABS(x)   |x|, -|x|      SQRT LOG EXP of any x         EXP_NEG  of x <= 0            LOG1P   of x >= -1
       LOG1P_01          of 0 <= x <= 1
       LOG1M_HALF(x)     log(1 - x), 0 <= x <= 1/2                        LOG_HALF   of 0 <= x <= 1/2
       LOG_NEAR(u, v)    log(u + v) for |v| no more than half of the last place of u; v may be lost unless 3/4 <= u < 3/2
       LOG_COSH TANH     of x >= 0          TIMES(x, y)   x * y, 0 where x is 0
       POWER(u, n)       u**n for u >= 0, n the same in all lanes; 0 at u = 0 even where n < 0, 1 where n = 0
       POWER_SUM(u, v, n)       (u + v)**n, v far below u
       EXP_NEG_LOW(x, low)      EXP_NEG in two parts: *low, which may be 0, receives what rounding took
       MAD(a, b, c)      a * b + c, in one rounding where the machine has it
       RESIDUAL(a, b, c)        c - a * b near 0, to its last digits
       HARD(a)           whether it is known that every t is 0 or 1 and that there is no label smoothing
       EVERY(m)          whether m holds in every lane
   The definitions for scalars stand below, for any includer that brings none. What both value and slope need is written in both: the
   compiler computes it once. a: the loss's parameters, in the order of its entry in FORMULAS. NaN in t or p goes through; 0 · inf is 0
   where the factor 0 is a target. Clipped predictions have slope 0. */
#ifndef POLYLOSS_FORMULAS_ELEMENTWISE_H
#define POLYLOSS_FORMULAS_ELEMENTWISE_H
/* X(name, number of parameters, their names) */
#define FORMULAS(X)                                                                                                                        \
    X(mean_squared_error, 0, "")                                                                                                           \
    X(mean_absolute_error, 0, "")                                                                                                          \
    X(mean_absolute_percentage_error, 1, "epsilon")                                                                                        \
    X(mean_squared_logarithmic_error, 1, "epsilon")                                                                                        \
    X(hinge, 1, "zero_one")                                                                                                                \
    X(squared_hinge, 1, "zero_one")                                                                                                        \
    X(binary_crossentropy, 2, "epsilon label_smoothing")                                                                                   \
    X(binary_crossentropy_from_logits, 1, "label_smoothing")                                                                               \
    X(floored_binary_crossentropy, 0, "")                                                                                                  \
    X(huber, 1, "delta")                                                                                                                   \
    X(log_cosh, 0, "")                                                                                                                     \
    X(poisson, 1, "full")                                                                                                                  \
    X(kl_divergence, 1, "epsilon")                                                                                                         \
    X(kl_from_logarithms, 0, "")                                                                                                           \
    X(kl_between_logarithms, 0, "")                                                                                                        \
    X(binary_focal_crossentropy, 5, "apply_class_balancing alpha gamma epsilon label_smoothing")                                           \
    X(binary_focal_crossentropy_from_logits, 4, "apply_class_balancing alpha gamma label_smoothing")                                       \
    X(poisson_from_logarithms, 1, "full")                                                                                                  \
    X(smooth_l1, 1, "beta")                                                                                                                \
    X(pseudo_huber, 1, "delta")                                                                                                            \
    X(quantile_loss, 1, "quantile")                                                                                                        \
    X(poisson_deviance, 0, "")                                                                                                             \
    X(poisson_deviance_from_logarithms, 0, "")                                                                                             \
    X(gamma_deviance, 0, "")                                                                                                               \
    X(gamma_deviance_from_logarithms, 0, "")                                                                                               \
    X(tweedie_deviance, 1, "power")                                                                                                        \
    X(tweedie_deviance_from_logarithms, 1, "power")                                                                                        \
    X(exponential, 1, "zero_one")                                                                                                          \
    X(logistic, 1, "zero_one")                                                                                                             \
    X(hinge_embedding, 1, "margin")                                                                                                        \
    X(weighted_binary_crossentropy, 3, "pos_weight epsilon label_smoothing")                                                               \
    X(weighted_binary_crossentropy_from_logits, 2, "pos_weight label_smoothing")
#define FORMULA_PARAMETERS 5 /* the most of any loss */
#endif

#ifdef FORMULA /* else the list alone */
#ifndef SELECT
#define FORMULA_INLINE static __device__ __forceinline__
#define R(c) ((real)(c))
#define SELECT(m, x, y) ((m) ? (x) : (y))
#define LT(x, y) ((x) < (y))
#define LE(x, y) ((x) <= (y))
#define EQ(x, y) ((x) == (y))
#define AND(m, k) ((m) && (k))
#define OR(m, k) ((m) || (k))
#define MAX(x, y) ((x) > (y) ? (x) : (y))
#define MIN(x, y) ((x) < (y) ? (x) : (y))
#define ABS(x) fabs(x)
#define MINUS_ABS(x) (-fabs(x))
#define SQRT(x) sqrt(x)
#define EXP(x) exp(x)
#define EXP_NEG(x) exp(x)
#define EXP_NEG_LOW(x, low) (*(low) = R(0), exp(x))
#define MAD(a, b, c) fma(a, b, c)
#define RESIDUAL(a, b, c) fma(-(a), b, c)
#define HARD(a) 0
#define EVERY(m) (m)
#define LOG(x) log(x)
#define LOG1P(x) log1p(x)
#define LOG1P_01(x) log1p(x)
#define LOG1M_HALF(x) log1p(-(x))
#define LOG_HALF(x) log(x)
#define TANH(x) tanh(x)
#define LOG_COSH(x) FORMULA(log_cosh)(x)
#define FORMULA_OF_SCALARS
#define TIMES(x, y) ((x) == R(0) ? R(0) : (x) * (y))
#define LOG_NEAR(u, v) ((u) > R(0) ? log(u) + (v) / (u) : log(u))
#define POWER(u, n) ((n) == R(0) ? R(1) : (n) == R(2) ? (u) * (u) : (u) == R(0) ? R(0) : pow(u, n))
#define POWER_SUM(u, v, n) ((n) == R(2) ? fma(u, u, ((u) + (u)) * (v)) : POWER(u, n) + TIMES(v, (n) * POWER(u, (n) - R(1))))
#endif
#ifndef FORMULA_INLINE
#define FORMULA_INLINE INLINE
#endif

#ifdef FORMULA_OF_SCALARS /* near 0 cosh d = 1 + 2 sinh²(d/2) = 1 + m² / (2 + 2m), m = exp(-d) - 1 */
FORMULA_INLINE real FORMULA(log_cosh)(real d)
{
    real m = expm1(-d), e = R(1) + m;
    return d < R(1) ? log1p(m * m / (R(2) * e)) : (d - R(0.693147180559945309417)) + log1p(e * e);
}
#endif

#define FORMULA_ARGUMENTS real t, real p, const real *a
#define LOSS(name, what) FORMULA_INLINE real FORMULA(name##_##what)(FORMULA_ARGUMENTS)

FORMULA_INLINE real FORMULA(sign)(real d) { return SELECT(LT(R(0), d), R(1), SELECT(LT(d, R(0)), R(-1), d)); }
/* By the sum a -0.0 becomes 0.0: its reciprocal would be infinite with the wrong sign. */
FORMULA_INLINE real FORMULA(clip)(real x, real low, real high) { return MIN(high, MAX(low, x)) + R(0); }
FORMULA_INLINE real FORMULA(over)(real x, real y) { return SELECT(EQ(x, R(0)), R(0), x / y); } /* 0 where x is 0, whatever y */
/* x / y², whose square may overflow or vanish where the quotient does not. */
FORMULA_INLINE real FORMULA(over_square)(real x, real y) { return FORMULA(over)(FORMULA(over)(x, y), y); }
/* t p, and 0 where t is 0 and p infinite: an infinite prediction that has no share in the loss. NaN goes through. */
FORMULA_INLINE real FORMULA(part)(real t, real p) { return SELECT(AND(EQ(t, R(0)), EQ(p, p)), R(0), t * p); }
FORMULA_INLINE real FORMULA(outside)(real x, real low, real high, real y) /* y, or 0 where x was clipped */
{
    return SELECT(OR(LT(x, low), LT(high, x)), R(0), y);
}

LOSS(mean_squared_error, value) { return (void)a, (p - t) * (p - t); }
LOSS(mean_squared_error, slope) { return (void)a, R(2) * (p - t); }
LOSS(mean_squared_error, curvature) { return (void)t, (void)p, (void)a, R(2); }

LOSS(mean_absolute_error, value) { return (void)a, ABS(p - t); }
LOSS(mean_absolute_error, slope) { return (void)a, FORMULA(sign)(p - t); }
LOSS(mean_absolute_error, curvature) { return (void)t, (void)p, (void)a, R(0); }

LOSS(mean_absolute_percentage_error, value) { return R(100) * (ABS(p - t) / MAX(a[0], ABS(t))); }
LOSS(mean_absolute_percentage_error, slope) { return R(100) * (FORMULA(sign)(p - t) / MAX(a[0], ABS(t))); }
LOSS(mean_absolute_percentage_error, curvature) { return (void)t, (void)p, (void)a, R(0); }

/* log1p(p) - log1p(t) = ± log1p(|p - t| / (1 + the smaller)): nothing cancels where p is near t, nor where one is far below the other. */
FORMULA_INLINE real FORMULA(log_difference)(real t, real p)
{
    real d = LOG1P(ABS(p - t) / (R(1) + MIN(t, p)));
    return SELECT(LT(p, t), -d, d);
}
LOSS(mean_squared_logarithmic_error, value)
{
    real d = FORMULA(log_difference)(MAX(a[0], t), MAX(a[0], p));
    return d * d;
}
LOSS(mean_squared_logarithmic_error, slope)
{
    real q = MAX(a[0], p), d = FORMULA(log_difference)(MAX(a[0], t), q);
    return SELECT(LT(p, a[0]), R(0), R(2) * d / (R(1) + q));
}
LOSS(mean_squared_logarithmic_error, curvature)
{
    real q = MAX(a[0], p), d = FORMULA(log_difference)(MAX(a[0], t), q);
    return SELECT(LT(p, a[0]), R(0), R(2) * FORMULA(over_square)(R(1) - d, R(1) + q));
}

/* zero_one = 1: targets 0 and 1 stand for -1 and 1; 0: they stand for themselves; 2: as 1, and any other target for NaN. */
FORMULA_INLINE real FORMULA(plus_minus)(real t, real zero_one)
{
    real either = SELECT(EQ(t * t - t, R(0)), t + (t - R(1)), R(0) / R(0));
    return SELECT(EQ(zero_one, R(2)), either, SELECT(EQ(zero_one, R(0)), t, t + (t - R(1))));
}
/* 1 - u p, where u = 0 has no share of an infinite p. Only a NaN may be one of 0 times infinity, and is looked at. */
FORMULA_INLINE real FORMULA(margin)(real u, real p)
{
    const real m = MAD(-u, p, R(1));
    if (EVERY(EQ(m, m))) return m;
    return SELECT(AND(EQ(u, R(0)), EQ(p, p)), R(1), m);
}
LOSS(hinge, value) { return MAX(R(0), FORMULA(margin)(FORMULA(plus_minus)(t, a[0]), p)); }
LOSS(hinge, slope)
{
    real u = FORMULA(plus_minus)(t, a[0]), m = FORMULA(margin)(u, p);
    return SELECT(LT(R(0), m), -u, MAX(R(0), m)); /* NaN goes through */
}
LOSS(hinge, curvature) { return (void)t, (void)p, (void)a, R(0); }

LOSS(squared_hinge, value)
{
    real m = FORMULA(hinge_value)(t, p, a);
    return m * m;
}
LOSS(squared_hinge, slope) { return R(-2) * FORMULA(plus_minus)(t, a[0]) * FORMULA(hinge_value)(t, p, a); }
LOSS(squared_hinge, curvature)
{
    real u = FORMULA(plus_minus)(t, a[0]);
    return SELECT(LT(R(0), FORMULA(margin)(u, p)), R(2) * u * u, R(0));
}

FORMULA_INLINE real FORMULA(smoothed)(real t, real label_smoothing) { return (R(1) - label_smoothing) * t + R(0.5) * label_smoothing; }

/* -(t log y + (1 - t) log(1 - y)): of y and 1 - y the smaller, s, is exact, and the logarithm of the larger is log(1 - s). Targets are
   mostly 0 or 1: if they are hard, as HARD(a) may tell, there is one logarithm, that of the target's share x, and the slope is ±1/x. */
FORMULA_INLINE real FORMULA(entropy)(real t, real y, int hard)
{
    real u = R(1) - y;
    if (hard) return -LOG_NEAR(SELECT(EQ(t, R(0)), u, y), SELECT(EQ(t, R(0)), (R(1) - u) - y, R(0)));
    real s = MIN(u, y), of_s = SELECT(LT(u, y), R(1) - t, t), of_rest = SELECT(LT(u, y), t, R(1) - t);
    return -(of_rest * LOG1M_HALF(s) + TIMES(of_s, LOG_HALF(s)));
}
FORMULA_INLINE real FORMULA(entropy_slope)(real t, real y, int hard) /* targets 0 and 1 apart: no 0/0 where y is 0 or 1 */
{
    real u = R(1) - y;
    if (hard) return SELECT(EQ(t, R(0)), R(1), R(-1)) / SELECT(EQ(t, R(0)), u, y);
    real over = SELECT(EQ(t, R(0)), R(1), SELECT(EQ(t, R(1)), R(-1), y - t));
    return over / SELECT(EQ(t, R(0)), u, SELECT(EQ(t, R(1)), y, y * u));
}
FORMULA_INLINE real FORMULA(entropy_curvature)(real t, real y)
{
    real u = R(1) - y;
    return FORMULA(over_square)(t, y) + FORMULA(over_square)(R(1) - t, u);
}
LOSS(binary_crossentropy, value) { return FORMULA(entropy)(FORMULA(smoothed)(t, a[1]), FORMULA(clip)(p, a[0], R(1) - a[0]), HARD(a)); }
LOSS(binary_crossentropy, slope)
{
    real y = FORMULA(clip)(p, a[0], R(1) - a[0]);
    return FORMULA(outside)(p, a[0], R(1) - a[0], FORMULA(entropy_slope)(FORMULA(smoothed)(t, a[1]), y, HARD(a)));
}
LOSS(binary_crossentropy, curvature)
{
    real y = FORMULA(clip)(p, a[0], R(1) - a[0]);
    return FORMULA(outside)(p, a[0], R(1) - a[0], FORMULA(entropy_curvature)(FORMULA(smoothed)(t, a[1]), y));
}

LOSS(weighted_binary_crossentropy, value)
{
    real s = FORMULA(smoothed)(t, a[2]), k = a[0] * s, y = FORMULA(clip)(p, a[1], R(1) - a[1]), u = R(1) - y, low = MIN(u, y);
    return -(SELECT(LT(u, y), k, R(1) - s) * LOG1M_HALF(low) + TIMES(SELECT(LT(u, y), R(1) - s, k), LOG_HALF(low)));
}
LOSS(weighted_binary_crossentropy, slope)
{
    real s = FORMULA(smoothed)(t, a[2]), y = FORMULA(clip)(p, a[1], R(1) - a[1]);
    real both = FORMULA(over)(R(1) - s, R(1) - y) - FORMULA(over)(a[0] * s, y);
    return FORMULA(outside)(p, a[1], R(1) - a[1], both + R(0) * y); /* NaN where p is, though a weight of 0 may leave no term */
}
LOSS(weighted_binary_crossentropy, curvature)
{
    real s = FORMULA(smoothed)(t, a[2]), y = FORMULA(clip)(p, a[1], R(1) - a[1]), u = R(1) - y;
    real both = FORMULA(over_square)(a[0] * s, y) + FORMULA(over_square)(R(1) - s, u);
    return FORMULA(outside)(p, a[1], R(1) - a[1], both + R(0) * y);
}

/* No logarithm below -100, no divisor below 1e-12 (torch's, which is a float in double precision, too); NaN where t or p is no probability.
   The curvature's numerator, (1 - p) p - (p - t) (1 - 2 p), is written as a sum of two terms that are not negative. */
LOSS(floored_binary_crossentropy, value)
{
    real u = R(1) - p, s = MIN(u, p), v = R(1) - t, of_s = SELECT(LT(u, p), v, t), of_rest = SELECT(LT(u, p), t, v);
    real loss = -(of_rest * LOG1M_HALF(s) + of_s * MAX(R(-100), LOG(s)));
    return (void)a, SELECT(LT(MIN(v, t), R(0)), R(0) / R(0), loss);
}
LOSS(floored_binary_crossentropy, slope) { return (void)a, (p - t) / MAX(R(9.999999960041972e-13), (R(1) - p) * p); }
LOSS(floored_binary_crossentropy, curvature)
{
    real d = (R(1) - p) * p;
    return (void)a, SELECT(LE(d, R(1e-12)), R(1e12), ((p - t) * (p - t) + t * (R(1) - t)) / (d * d));
}

/* With e = exp(-|z|) and n = 1 / (1 + e), e n is the sigmoid of -|z| and n that of |z|: no digit is lost at either end.
   value: |z| (1 - t or t) + log1p(e), where 0 · inf is 0: an infinite logit that agrees with its label costs nothing. */
FORMULA_INLINE real FORMULA(logit_value)(real t, real z)
{
    real m = SELECT(LT(R(0), z), R(1) - t, t);
    return TIMES(m, ABS(z)) + LOG1P_01(EXP_NEG(MINUS_ABS(z)));
}
FORMULA_INLINE real FORMULA(logit_slope)(real t, real z)
{
    real e = EXP_NEG(MINUS_ABS(z)), s = e / (R(1) + e);
    return SELECT(LT(R(0), z), (R(1) - t) - s, s - t);
}
FORMULA_INLINE real FORMULA(logit_curvature)(real z)
{
    real e = EXP_NEG(MINUS_ABS(z)), n = R(1) / (R(1) + e);
    return e * n * n;
}
LOSS(binary_crossentropy_from_logits, value) { return FORMULA(logit_value)(FORMULA(smoothed)(t, a[0]), p); }
LOSS(binary_crossentropy_from_logits, slope) { return FORMULA(logit_slope)(FORMULA(smoothed)(t, a[0]), p); }
LOSS(binary_crossentropy_from_logits, curvature) { return (void)t, (void)a, FORMULA(logit_curvature)(p); }

/* Binary cross-entropy from logits with k = w t in the place of t, w the weight of positive targets, and 1 - t as it is. */
FORMULA_INLINE real FORMULA(weighted_value)(real t, real k, real z)
{
    real m = SELECT(LT(R(0), z), R(1) - t, k);
    return TIMES(m, ABS(z)) + ((R(1) - t) + k) * LOG1P_01(EXP_NEG(MINUS_ABS(z)));
}
LOSS(weighted_binary_crossentropy_from_logits, value)
{
    real s = FORMULA(smoothed)(t, a[1]);
    return FORMULA(weighted_value)(s, a[0] * s, p);
}
LOSS(weighted_binary_crossentropy_from_logits, slope)
{
    real s = FORMULA(smoothed)(t, a[1]), e = EXP_NEG(MINUS_ABS(p)), n = R(1) / (R(1) + e), small = e * n;
    return (R(1) - s) * SELECT(LT(R(0), p), n, small) - a[0] * s * SELECT(LT(R(0), p), small, n);
}
LOSS(weighted_binary_crossentropy_from_logits, curvature)
{
    real s = FORMULA(smoothed)(t, a[1]);
    return ((R(1) - s) + a[0] * s) * FORMULA(logit_curvature)(p);
}

LOSS(huber, value)
{
    real d = ABS(p - t);
    return SELECT(LE(d, a[0]), R(0.5) * d * d, a[0] * (d - R(0.5) * a[0]));
}
LOSS(huber, slope) { return FORMULA(clip)(p - t, -a[0], a[0]); }
LOSS(huber, curvature) { return SELECT(LE(ABS(p - t), a[0]), R(1), R(0)); }

LOSS(log_cosh, value) { return (void)a, LOG_COSH(ABS(p - t)); }
LOSS(log_cosh, slope)
{
    real d = p - t, th = TANH(ABS(d));
    return (void)a, SELECT(LT(d, R(0)), -th, th);
}
LOSS(log_cosh, curvature)
{
    real e = EXP_NEG(R(-2) * ABS(p - t)), n = R(1) / (R(1) + e);
    return (void)a, R(4) * e * n * n;
}

/* Stirling's approximation of log t! for t > 1, a[0] times; for t from 0 to 1 it is taken as 0, as log t! is at both. */
FORMULA_INLINE real FORMULA(of_count)(real t, const real *a)
{
    if (EVERY(EQ(a[0], R(0)))) return R(0);
    return SELECT(LT(R(1), t), a[0] * (t * LOG(t) - t + R(0.5) * LOG(R(6.283185307179586476925) * t)), R(0));
}
/* q = p + 1e-7, Keras' constant. The slope is 1 - t/q, and (q - t)/q where that cancels. */
LOSS(poisson, value)
{
    real product = TIMES(t, LOG(p + R(1e-7)));
    product = SELECT(AND(EQ(p, R(1) / R(0)), EQ(t, t)), R(0), product); /* a logarithm is far below p */
    return (p - product) + FORMULA(of_count)(t, a);
}
LOSS(poisson, slope)
{
    real q = p + R(1e-7), half = R(0.5) * q, near = SELECT(AND(LE(half, t), LE(t, R(4) * half)), R(1), R(0));
    real r = SELECT(EQ(near, R(1)), (p - t) + R(1e-7), t) / q; /* elsewhere the difference may overflow */
    real none = SELECT(EQ(p, p), R(1), p); /* of t = 0 */
    return (void)a, SELECT(EQ(t, R(0)), none, SELECT(EQ(near, R(1)), r, R(1) - r));
}
LOSS(poisson, curvature) { return (void)a, FORMULA(over_square)(t, p + R(1e-7)); }

/* p is the logarithm of the mean: e^p - t p, and where e^p is infinite that, whatever t p. */
LOSS(poisson_from_logarithms, value)
{
    real m = EXP(p), product = TIMES(t, p), none = SELECT(EQ(m, R(1) / R(0)), R(0), product); /* t p is far below e^p */
    return (m - SELECT(EQ(ABS(product), R(1) / R(0)), none, product)) + FORMULA(of_count)(t, a);
}
LOSS(poisson_from_logarithms, slope) { return (void)a, EXP(p) - t; }
LOSS(poisson_from_logarithms, curvature) { return (void)t, (void)a, EXP(p); }

/* t log(t / q). Near 1 the quotient's rounding would be the result: there log(1 + d), d = (t - q) / q, whose sum goes in two parts. Of a q
   so small that the quotient may be infinite 2^64 times as much is taken. */
LOSS(kl_divergence, value)
{
    real s = FORMULA(clip)(t, R(0), R(1)), q = FORMULA(clip)(p, a[0], R(1));
    real far = SELECT(LT(q, R(0x1p-126)), R(0x1p64) * q, q), more = SELECT(LT(q, R(0x1p-126)), R(44.3614195558364998), R(0));
    real d = SELECT(AND(LE(R(0.75) * q, s), LT(s, R(1.5) * q)), s - q, s) / SELECT(AND(LE(R(0.75) * q, s), LT(s, R(1.5) * q)), q, far);
    real u = SELECT(AND(LE(R(0.75) * q, s), LT(s, R(1.5) * q)), R(1) + d, d);
    real v = SELECT(AND(LE(R(0.75) * q, s), LT(s, R(1.5) * q)), d - (u - R(1)), R(0));
    return TIMES(s, LOG_NEAR(u, v) + SELECT(AND(LE(R(0.75) * q, s), LT(s, R(1.5) * q)), R(0), more));
}
LOSS(kl_divergence, slope)
{
    real q = FORMULA(clip)(p, a[0], R(1));
    return FORMULA(outside)(p, a[0], R(1), FORMULA(over)(-FORMULA(clip)(t, R(0), R(1)), q));
}
LOSS(kl_divergence, curvature)
{
    real q = FORMULA(clip)(p, a[0], R(1));
    return FORMULA(outside)(p, a[0], R(1), FORMULA(over_square)(FORMULA(clip)(t, R(0), R(1)), q));
}

/* p is the logarithm of a prediction; t a probability, or the logarithm of one (not above 0 where it is, but any number will do). */
LOSS(kl_from_logarithms, value) { return (void)a, SELECT(EQ(t, R(0)), R(0), t * (LOG(t) - p)); }
LOSS(kl_from_logarithms, slope) { return (void)p, (void)a, -t; }
LOSS(kl_from_logarithms, curvature) { return (void)t, (void)p, (void)a, R(0); }

FORMULA_INLINE real FORMULA(exponential)(real x)
{
    real e = EXP_NEG(MINUS_ABS(x));
    return SELECT(LT(R(0), x), R(1) / e, e);
}
LOSS(kl_between_logarithms, value) { return (void)a, FORMULA(exponential)(t) * (t - p); }
LOSS(kl_between_logarithms, slope) { return (void)p, (void)a, -FORMULA(exponential)(t); }
LOSS(kl_between_logarithms, curvature) { return (void)t, (void)p, (void)a, R(0); }

/* w u^γ b: b the binary cross-entropy, u = 1 - p_t, w the balance of the classes. */
FORMULA_INLINE real FORMULA(balance)(real t, real apply, real alpha, int hard)
{
    real ones = SELECT(EQ(apply, R(0)), R(1), alpha), zeros = SELECT(EQ(apply, R(0)), R(1), R(1) - alpha);
    return hard ? SELECT(EQ(t, R(0)), zeros, ones) : t * ones + (R(1) - t) * zeros;
}
/* Derivatives of u^γ b with u' = u1, a constant. b / u nears 1 where u nears 0: γ = 0 asks nothing of 1/u. Where y nears the end that costs
   an infinite loss, b is a logarithm, and far below its derivatives: what has it as a factor counts for nothing where those are
   infinite. */
FORMULA_INLINE real FORMULA(focal_ratio)(real u, real b) { return SELECT(EQ(u, R(0)), R(1), b / u); }
FORMULA_INLINE real FORMULA(focal_slope)(real u, real u1, real b, real b1, real gamma)
{
    return POWER(u, gamma) * (b1 + SELECT(EQ(ABS(b1), R(1) / R(0)), R(0), TIMES(gamma, u1 * FORMULA(focal_ratio)(u, b))));
}
FORMULA_INLINE real FORMULA(focal_curvature)(real u, real u1, real b, real b1, real b2, real gamma)
{
    real near = POWER(u, gamma - R(1)) * u1 * (R(2) * b1 + (gamma - R(1)) * u1 * FORMULA(focal_ratio)(u, b));
    return SELECT(EQ(b2, R(1) / R(0)), R(0), TIMES(gamma, near)) + POWER(u, gamma) * b2;
}
FORMULA_INLINE real FORMULA(other_share)(real t, real y, int hard)
{
    return hard ? SELECT(EQ(t, R(0)), y, R(1) - y) : t * (R(1) - y) + (R(1) - t) * y;
}
/* x, and 0 where it is infinite beside a balance of 0. */
FORMULA_INLINE real FORMULA(counted)(real balance, real x) { return SELECT(AND(EQ(balance, R(0)), EQ(ABS(x), R(1) / R(0))), R(0), x); }
LOSS(binary_focal_crossentropy, value)
{
    real s = FORMULA(smoothed)(t, a[4]), y = FORMULA(clip)(p, a[3], R(1) - a[3]), u = FORMULA(other_share)(s, y, HARD(a));
    real w = FORMULA(balance)(s, a[0], a[1], HARD(a));
    return w * POWER(u, a[2]) * FORMULA(counted)(w, FORMULA(entropy)(s, y, HARD(a)));
}
LOSS(binary_focal_crossentropy, slope)
{
    real s = FORMULA(smoothed)(t, a[4]), y = FORMULA(clip)(p, a[3], R(1) - a[3]), u = FORMULA(other_share)(s, y, HARD(a));
    real g = FORMULA(focal_slope)(u, R(1) - R(2) * s, FORMULA(entropy)(s, y, HARD(a)), FORMULA(entropy_slope)(s, y, HARD(a)), a[2]);
    real w = FORMULA(balance)(s, a[0], a[1], HARD(a));
    return FORMULA(outside)(p, a[3], R(1) - a[3], w * FORMULA(counted)(w, g));
}
LOSS(binary_focal_crossentropy, curvature)
{
    real s = FORMULA(smoothed)(t, a[4]), y = FORMULA(clip)(p, a[3], R(1) - a[3]), u = FORMULA(other_share)(s, y, HARD(a));
    real b = FORMULA(entropy)(s, y, HARD(a)), b1 = FORMULA(entropy_slope)(s, y, HARD(a)), b2 = FORMULA(entropy_curvature)(s, y);
    real h = FORMULA(focal_curvature)(u, R(1) - R(2) * s, b, b1, b2, a[2]);
    real w = FORMULA(balance)(s, a[0], a[1], HARD(a));
    return FORMULA(outside)(p, a[3], R(1) - a[3], w * FORMULA(counted)(w, h));
}

/* u = t σ(-z) + (1 - t) σ(z), and u' as a multiple of u, which is never large: no power of u is negative. */
FORMULA_INLINE real FORMULA(miss)(real t, real z, real *ratio)
{
    real e = EXP_NEG(MINUS_ABS(z)), n = R(1) / (R(1) + e), m = SELECT(LT(R(0), z), t * e + (R(1) - t), t + (R(1) - t) * e);
    *ratio = (R(1) - R(2) * t) * n * SELECT(EQ(m, R(0)), R(0), e / m);
    return m * n;
}
/* If a target is hard: with x the logit of the other class, z or -z, u = σ(x) and b = log(1 + exp(x)), du/dx = u (1 - u), db/dx = u. What u
   loses in rounding counts thrice in the slope: it is u + low, the exponential's, the sum's and the division's losses put together. */
FORMULA_INLINE real FORMULA(other_logit)(real t, real z) { return SELECT(EQ(t, R(0)), z, -z); }
FORMULA_INLINE real FORMULA(hard_focal)(real x, real gamma, real *slope)
{
    real e_low, e = EXP_NEG_LOW(MINUS_ABS(x), &e_low), n = R(1) / (R(1) + e);
    real over = SELECT(LT(R(0), x), R(1), e), over_low = SELECT(LT(R(0), x), R(0), e_low), u = over * n;
    real low = (RESIDUAL(u, e, over - u) + over_low) * n; /* over - u has no error */
    real f = POWER_SUM(u, low, gamma), b = MAX(R(0), x) + LOG1P_01(e);
    if (slope) *slope = f * MAD(gamma, TIMES(SELECT(LT(R(0), x), e * n, n), b), u);
    return TIMES(f, b);
}
LOSS(binary_focal_crossentropy_from_logits, value)
{
    real s = FORMULA(smoothed)(t, a[3]), w = FORMULA(balance)(s, a[0], a[1], 1);
    real hard = w * FORMULA(counted)(w, FORMULA(hard_focal)(FORMULA(other_logit)(s, p), a[2], 0));
    if (HARD(a)) return hard;
    real ratio, f = FORMULA(balance)(s, a[0], a[1], 0) * POWER(FORMULA(miss)(s, p, &ratio), a[2]);
    return SELECT(EQ(s * s - s, R(0)), hard, TIMES(f, FORMULA(logit_value)(s, p)));
}
LOSS(binary_focal_crossentropy_from_logits, slope)
{
    real s = FORMULA(smoothed)(t, a[3]), hard, ratio;
    FORMULA(hard_focal)(FORMULA(other_logit)(s, p), a[2], &hard);
    hard = FORMULA(balance)(s, a[0], a[1], 1) * SELECT(EQ(s, R(0)), hard, -hard);
    if (HARD(a)) return hard;
    real f = FORMULA(balance)(s, a[0], a[1], 0) * POWER(FORMULA(miss)(s, p, &ratio), a[2]);
    real g = f * (FORMULA(logit_slope)(s, p) + a[2] * TIMES(ratio, FORMULA(logit_value)(s, p)));
    return SELECT(EQ(s * s - s, R(0)), hard, g);
}
LOSS(binary_focal_crossentropy_from_logits, curvature)
{
    real s = FORMULA(smoothed)(t, a[3]), e = EXP_NEG(MINUS_ABS(p)), tanh_half = (R(1) - e) / (R(1) + e), ratio;
    real f = FORMULA(balance)(s, a[0], a[1], HARD(a)) * POWER(FORMULA(miss)(s, p, &ratio), a[2]);
    real bend = SELECT(LT(R(0), p), -tanh_half, tanh_half) + (a[2] - R(1)) * ratio;
    real near = TIMES(bend, FORMULA(logit_value)(s, p)) + R(2) * FORMULA(logit_slope)(s, p);
    return f * (a[2] * ratio * near + FORMULA(logit_curvature)(p));
}

/* d²/(2 beta) within beta of the target, |d| - beta/2 beyond; |d| where beta is 0. */
LOSS(smooth_l1, value)
{
    real d = ABS(p - t);
    return SELECT(LT(d, a[0]), R(0.5) * d * (d / a[0]), d - R(0.5) * a[0]);
}
LOSS(smooth_l1, slope)
{
    real d = p - t;
    return SELECT(LT(ABS(d), a[0]), d / a[0], FORMULA(sign)(d));
}
LOSS(smooth_l1, curvature) { return SELECT(LT(ABS(p - t), a[0]), R(1) / a[0], R(0)); }

/* delta² (sqrt(1 + x²) - 1), x = |d| / delta, without its cancellation: delta |d| x / (1 + w), w = sqrt(1 + x²). With y the smaller of x
   and 1/x, w is sqrt(1 + y²) times the larger of 1 and x, so that no square overflows. */
FORMULA_INLINE real FORMULA(bend)(real d, real delta, real *y)
{
    real x = ABS(d) / delta;
    *y = SELECT(LT(R(1), x), R(1) / x, x);
    return SQRT(R(1) + *y * *y);
}
LOSS(pseudo_huber, value)
{
    real d = ABS(p - t), y, w = FORMULA(bend)(d, a[0], &y);
    return d * (SELECT(LT(a[0], d), a[0], d) / (SELECT(LT(a[0], d), y, R(1)) + w));
}
LOSS(pseudo_huber, slope)
{
    real d = p - t, y, w = FORMULA(bend)(d, a[0], &y);
    return SELECT(LT(a[0], ABS(d)), a[0] * FORMULA(sign)(d), d) / w;
}
LOSS(pseudo_huber, curvature)
{
    real y, w = FORMULA(bend)(p - t, a[0], &y), n = SELECT(LT(a[0], ABS(p - t)), y, R(1)) / w;
    return n * n * n;
}

/* d = t - p: quantile d above the prediction, (quantile - 1) d below it. */
LOSS(quantile_loss, value)
{
    real d = t - p;
    return SELECT(EQ(d, d), TIMES(SELECT(LT(d, R(0)), a[0] - R(1), a[0]), d), d); /* a quantile of 0 costs nothing above, however far */
}
LOSS(quantile_loss, slope)
{
    real d = t - p;
    return SELECT(LT(R(0), d), -a[0], SELECT(LT(d, R(0)), R(1) - a[0], d));
}
LOSS(quantile_loss, curvature) { return (void)t, (void)p, (void)a, R(0); }

/* x = t p, t -1 or 1. */
LOSS(exponential, value) { return EXP(-FORMULA(part)(FORMULA(plus_minus)(t, a[0]), p)); }
/* By halves: of a small target the exponential alone may overflow. */
LOSS(exponential, slope)
{
    real u = FORMULA(plus_minus)(t, a[0]), half = EXP(R(-0.5) * FORMULA(part)(u, p));
    return -(u * half) * half;
}
LOSS(exponential, curvature)
{
    real u = FORMULA(plus_minus)(t, a[0]), half = u * EXP(R(-0.5) * FORMULA(part)(u, p));
    return half * half;
}
LOSS(logistic, value)
{
    real x = FORMULA(part)(FORMULA(plus_minus)(t, a[0]), p);
    return MAX(R(0), -x) + LOG1P_01(EXP_NEG(MINUS_ABS(x)));
}
LOSS(logistic, slope)
{
    real u = FORMULA(plus_minus)(t, a[0]), x = FORMULA(part)(u, p), e = EXP_NEG(MINUS_ABS(x)), n = R(1) / (R(1) + e);
    return -u * SELECT(LT(R(0), x), e * n, n);
}
LOSS(logistic, curvature)
{
    real u = FORMULA(plus_minus)(t, a[0]);
    return u * (u * FORMULA(logit_curvature)(FORMULA(part)(u, p)));
}

/* torch's hinge_embedding_loss: p where t is 1, what it lacks of the margin where t is -1, the sum elsewhere; slope -1 at the
   margin itself, and of NaN that of what lies beyond. */
LOSS(hinge_embedding, value) { return SELECT(EQ(t, R(-1)), R(0), p) + SELECT(EQ(t, R(1)), R(0), MAX(R(0), a[0] - p)); }
LOSS(hinge_embedding, slope) { return SELECT(EQ(t, R(-1)), R(0), R(1)) + SELECT(EQ(t, R(1)), R(0), SELECT(LE(p, a[0]), R(-1), R(0))); }
LOSS(hinge_embedding, curvature) { return (void)t, (void)p, (void)a, R(0); }

/* Unit deviances of exponential dispersion models, m the mean that p gives: NaN where it is below 0.

   excess(r) = r - log1p(r) for -0.4 < r < 0.8, where that cancels: with s = r / (2 + r), log1p(r) = 2 artanh(s) and r - 2 s = r s, so that
   it is r s - 2 (s³/3 + s⁵/5 + ...). quotient is log(m / t), where m / t may overflow. */
FORMULA_INLINE real FORMULA(mean_of)(real p) { return SELECT(LT(p, R(0)), R(0) / R(0), p + R(0)); } /* of -0.0 it is 0.0 */
FORMULA_INLINE real FORMULA(excess)(real r)
{
    const real s = r / (R(2) + r), q = s * s;
    const int last = sizeof(one) == 4 ? 11 : 27; /* floats need fewer terms */
    real sum = R(1) / R(last + 2);
    for (int k = last; k > 1; k -= 2) sum = MAD(sum, q, R(1) / R(k));
    return s * (r - R(2) * q * sum);
}
FORMULA_INLINE real FORMULA(log_quotient)(real m, real t)
{
    const real q = m / t;
    const MASK near = AND(LT(R(1e-30), q), LT(q, R(1e30)));
    if (EVERY(OR(near, OR(EQ(t, R(0)), EQ(m, R(0)))))) return LOG(q); /* roots take half of the time */
    return SELECT(near, R(1), R(2)) * LOG(SELECT(near, q, SQRT(m) / SQRT(t)));
}
/* m - t - t log(m / t), for any logarithm of it: nothing beside an infinite m. */
FORMULA_INLINE real FORMULA(poisson_excess)(real t, real m, real L)
{
    const real r = (m - t) / t;
    return R(2) *
           SELECT(AND(LT(R(-0.4), r), LT(r, R(0.8))), t * FORMULA(excess)(r), (m - t) - SELECT(EQ(m, R(1) / R(0)), R(0), TIMES(t, L)));
}
LOSS(poisson_deviance, value)
{
    const real m = FORMULA(mean_of)(p);
    return (void)a, FORMULA(poisson_excess)(t, m, FORMULA(log_quotient)(m, t));
}
LOSS(poisson_deviance, slope)
{
    const real m = FORMULA(mean_of)(p);
    return (void)a, R(2) * SELECT(EQ(t, R(0)), R(1) + (m - m), (m - t) / m);
}
LOSS(poisson_deviance, curvature)
{
    const real m = FORMULA(mean_of)(p);
    return (void)a, R(2) * FORMULA(over_square)(t, m);
}
LOSS(poisson_deviance_from_logarithms, value) { return (void)a, FORMULA(poisson_excess)(t, EXP(p), p - LOG(t)); }
LOSS(poisson_deviance_from_logarithms, slope) { return (void)a, R(2) * (EXP(p) - t); }
LOSS(poisson_deviance_from_logarithms, curvature) { return (void)t, (void)a, R(2) * EXP(p); }

LOSS(gamma_deviance, value)
{
    const real m = FORMULA(mean_of)(p), v = (t - m) / m;
    return (void)a, R(2) * SELECT(AND(LT(R(-0.4), v), LT(v, R(0.8))), FORMULA(excess)(v), (t / m - R(1)) + FORMULA(log_quotient)(m, t));
}
LOSS(gamma_deviance, slope)
{
    const real m = FORMULA(mean_of)(p);
    return (void)a, R(2) * ((m - t) / m) / m;
}
LOSS(gamma_deviance, curvature)
{
    const real m = FORMULA(mean_of)(p);
    return (void)a, R(4) * (((t - R(0.5) * m) / m) / m) / m;
}
/* t e^-p by halves: its factor alone may overflow. */
FORMULA_INLINE real FORMULA(over_exp)(real t, real p)
{
    const real half = EXP(R(-0.5) * p);
    return t * half * half;
}
LOSS(gamma_deviance_from_logarithms, value)
{
    const real v = FORMULA(over_exp)(t, p) - R(1);
    const real far = SELECT(EQ(v, R(1) / R(0)), v, v + (p - LOG(t))); /* a logarithm is far below an infinite v */
    return (void)a, R(2) * SELECT(AND(LT(R(-0.4), v), LT(v, R(0.8))), FORMULA(excess)(v), far);
}
LOSS(gamma_deviance_from_logarithms, slope) { return (void)a, R(2) * (R(1) - FORMULA(over_exp)(t, p)); }
LOSS(gamma_deviance_from_logarithms, curvature) { return (void)a, R(2) * FORMULA(over_exp)(t, p); }

/* With A = 2 - power, B = 1 - power and L = log(m / t), half the deviance is (m^A - t^A) / A - (t m^B - t^A) / B; a quotient for n of A and
   B is t^A L (1 + n L / 2! + (n L)² / 3! + ...). Where L is small the two cancel: their difference is t^A L² (D2 / 2! + D3 L / 3! + ...),
   D2 = 1, D(k+1) = (A + B) D(k) - A B D(k-1). By that recurrence the sum is b2 of b(k) = 1 / k! + (A + B) L b(k+1) - A B L² b(k+2)
   [Clenshaw 1955]; powers of a small L would be below the normal numbers, which cost some hundred cycles each. t^B is not taken: it
   overflows where t is tiny and t t^B is not. */
FORMULA_INLINE real FORMULA(raised)(real u, real n) { return SELECT(AND(EQ(u, R(0)), LT(n, R(0))), R(1) / R(0), POWER(u, n)); }
FORMULA_INLINE real FORMULA(power_difference)(real to, real from, real n, real L)
{
    const real y = n * L;
    real sum = R(1);
    for (int k = sizeof(one) == 4 ? 9 : 15; k > 1; k--) sum = MAD(sum * y, R(1) / R(k), R(1));
    return SELECT(LT(ABS(y), R(0.5)), from * L * sum, (to - from) / n);
}
/* t m^B. Of powers above 2 it is in range where m^B is not. */
FORMULA_INLINE real FORMULA(times_power)(real t, real power, real m, real m_A, real m_B)
{
    return EVERY(LT(R(2), power)) ? (t / m) * m_A : t * m_B;
}
FORMULA_INLINE real FORMULA(tweedie)(real t, real power, real m, real m_A, real m_B, real L)
{
    const real A = R(2) - power, B = R(1) - power, t_A = POWER(t, A), most = MAX(R(1), MAX(ABS(A), ABS(B)));
    const real x = A * L, y = B * L, p = x + y, q = -(x * y);
    const int last = sizeof(one) == 4 ? 12 : 20;
    double factorial = sizeof(one) == 4 ? 479001600 : 2432902008176640000; /* last! */
    real odd = R(1.0 / (factorial * (last + 1))), even = MAD(p, odd, R(1.0 / factorial));
    for (int k = last - 1; k > 2; k -= 2) {
        factorial /= k + 1;
        odd = MAD(p, even, MAD(q, odd, R(1.0 / factorial)));
        factorial /= k;
        even = MAD(p, odd, MAD(q, even, R(1.0 / factorial)));
    }
    const real t_B = FORMULA(times_power)(t, power, m, m_A, m_B);
    const MASK over = EQ(t_A, R(1) / R(0));
    real near = t_A * L * L * even;
    if (!EVERY(LT(t_A, R(1) / R(0)))) { /* t^A L² may be finite */
        const real half = POWER(t, R(0.5) * A) * L;
        near = SELECT(over, SELECT(EQ(L, R(0)), R(0), half * half * even), near);
    }
    const real far = FORMULA(power_difference)(m_A, t_A, A, L) - FORMULA(power_difference)(t_B, t_A, B, L);
    const MASK infinite = OR(over, OR(EQ(m_A, R(1) / R(0)), EQ(t_B, R(1) / R(0))));
    const real endless = SELECT(EQ(m, m), R(1) / R(0), m); /* not of a mean that is NaN */
    const real none = SELECT(LT(R(0), A), m_A / A, endless); /* of t = 0 */
    const real square = SELECT(EQ(power, R(0)), R(0.5) * (m_B - t) * (m_B - t), R(0) / R(0)); /* of t < 0, which powers above 0 forbid */
    const real below = SELECT(LT(power, R(0)), m_A / A - t * m_B / B, square);
    const real rest = SELECT(EQ(t, R(0)), none, SELECT(LT(t, R(0)), below, t + L));
    return R(2) * SELECT(LT(R(0), t), SELECT(LT(most * ABS(L), R(1)), near, SELECT(infinite, endless, far)), rest);
}
LOSS(tweedie_deviance, value)
{
    const real m = FORMULA(mean_of)(p), r = (m - t) / t;
    const real L = SELECT(LT(ABS(r), R(0.5)), LOG1P(r), FORMULA(log_quotient)(m, t));
    return FORMULA(tweedie)(t, a[0], m, FORMULA(raised)(m, R(2) - a[0]), FORMULA(raised)(m, R(1) - a[0]), L);
}
LOSS(tweedie_deviance, slope)
{
    const real m = FORMULA(mean_of)(p);
    if (EVERY(LT(a[0], R(0)))) { /* t / m may overflow */
        const real d = m - t;
        return R(2) * SELECT(EQ(t, R(0)), FORMULA(raised)(m, R(1) - a[0]), SELECT(EQ(d, R(0)), d, d * FORMULA(raised)(m, -a[0])));
    }
    const real part = SELECT(EQ(t, R(0)), R(1), (m - t) / m); /* of a large m, m^-power may vanish */
    if (EVERY(LT(R(2), a[0]))) return R(2) * (part * FORMULA(raised)(m, R(2) - a[0]) / m); /* m^(1 - power) may overflow */
    return R(2) * FORMULA(raised)(m, R(1) - a[0]) * part;
}
LOSS(tweedie_deviance, curvature)
{
    const real m = FORMULA(mean_of)(p);
    if (EVERY(LT(a[0], R(0)))) { /* t / m may be infinite where this is not; each of the two terms, where their sum is no NaN */
        const real first = POWER(m, -a[0]), apart = (R(1) - a[0]) * first + a[0] * TIMES(t, FORMULA(raised)(m, R(-1) - a[0]));
        const MASK by_quotient = AND(AND(LT(R(0), t), LT(R(0), m)), OR(LE(t, R(4) * m), EQ(first, R(1) / R(0))));
        return R(2) * SELECT(by_quotient, first * ((R(1) - a[0]) + a[0] * (t / m)), apart);
    }
    return R(2) * FORMULA(raised)(m, -a[0]) * SELECT(EQ(t, R(0)), R(1) - a[0], (R(1) - a[0]) + a[0] * (t / m));
}
LOSS(tweedie_deviance_from_logarithms, value)
{
    const real m = EXP(p), r = (m - t) / t, L = SELECT(LT(ABS(r), R(0.5)), LOG1P(r), p - LOG(t));
    if (EVERY(EQ(a[0], R(0)))) return (m - t) * (m - t);
    return FORMULA(tweedie)(t, a[0], m, EXP((R(2) - a[0]) * p), EXP((R(1) - a[0]) * p), L);
}
LOSS(tweedie_deviance_from_logarithms, slope)
{
    const real B = R(1) - a[0], m = EXP(p), half = EXP(R(0.5) * B * p); /* e^(B p) may overflow where t e^(B p) does not */
    if (EVERY(LT(a[0], R(1)))) return (m - t) * (R(2) * EXP(B * p)); /* both terms grow with p; 2 t may be infinite, too */
    const real together = ((m - t) * half) * (R(2) * half); /* which does not cancel, but whose m may leave the range */
    const real of_t = TIMES(TIMES(t, half), half), apart = R(2) * (SELECT(EQ(of_t, R(1) / R(0)), R(0), EXP((R(2) - a[0]) * p)) - of_t);
    return SELECT(OR(LT(ABS(p), R(30)), AND(LT(R(0.5) * t, m), LT(m, R(2) * t))), together, apart);
}
LOSS(tweedie_deviance_from_logarithms, curvature)
{
    const real A = R(2) - a[0], B = R(1) - a[0], half = EXP(R(0.5) * B * p);
    if (EVERY(LT(a[0], R(1)))) return (A / B * EXP(p) - t) * (R(2) * B * EXP(B * p)); /* a power of 0 or less: B is 1 or more */
    const real of_t = TIMES(TIMES(t, half), B * half);
    return R(2) * (SELECT(EQ(ABS(of_t), R(1) / R(0)), R(0), A * EXP(A * p)) - of_t);
}

#undef LOSS
#undef FORMULA_ARGUMENTS
#endif
