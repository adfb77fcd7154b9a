/* Losses of one number t at each position, of which two numbers, m and v, are predicted: value, and the first two derivatives in m
   and in v.

   Included once per type, as elementwise.h is and with the same macros. The blocks in regression.py and torch.py hold the same formulas. */
#ifndef POLYLOSS_FORMULAS_VALUES_H
#define POLYLOSS_FORMULAS_VALUES_H
/* X(name, its parameters) */
#define VALUES(X)                                                                                                                          \
    X(gaussian_nll, "")                                                                                                                    \
    X(gaussian_of_variance, "eps constant")
#define VALUES_PARAMETERS 2 /* the most of any loss */
#endif

#ifdef FORMULA /* else the list alone */

typedef struct {
    real value, slope_m, slope_v, curvature_m, curvature_v;
} FORMULA(of_value);

/* ½ (v + (t - m)² / e^v): m the mean, v the logarithm of the variance. The root of 1 / e^v leaves the numbers' range at twice the v. */
INLINE FORMULA(of_value) FORMULA(gaussian_nll)(real t, real m, real v, const real *a)
{
    const real inverse = EXP(R(-0.5) * v), r = (m - t) * inverse, square = r * r;
    (void)a;
    return (FORMULA(of_value)){R(0.5) * (v + square), r * inverse, R(0.5) * (R(1) - square), inverse * inverse, R(0.5) * square};
}
/* ½ (log u + (m - t)² / u) + a[1] with u = max(v, a[0]) the variance, and its derivatives in u. NaN where v is negative. */
INLINE FORMULA(of_value) FORMULA(gaussian_of_variance)(real t, real m, real v, const real *a)
{
    const real u = SELECT(LT(v, R(0)), R(NAN), MAX(a[0], v)), d = m - t, square = d * d / u;
    return (FORMULA(of_value)){R(0.5) * (LOG(u) + square) + a[1], d / u, R(0.5) * (R(1) - square) / u, R(1) / u, (square - R(0.5)) / u / u};
}
#endif
