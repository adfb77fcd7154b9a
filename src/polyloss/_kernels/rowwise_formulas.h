/* What a class adds to each row-wise loss, t its target and p its prediction or logit; beside formulas.h, and included after it with the
   same macros, as C for vectors and as CUDA C++ for scalars. Besides those it asks for
       one    the type of a number of a real        MASK   of a comparison
   A loss's row is summed by its includer: rowwise_loops.h, rowwise.cu. The blocks in classification.py and similarity.py hold the same
   formulas under the same names. */
#ifndef POLYLOSS_ROWWISE_FORMULAS_H
#define POLYLOSS_ROWWISE_FORMULAS_H
/* X(name, its parameters, whether targets are labels) */
#define ROWWISE(X)                                                                                                                         \
    X(categorical_crossentropy, "epsilon label_smoothing", 0)                                                                              \
    X(categorical_focal_crossentropy, "alpha gamma epsilon label_smoothing", 0)                                                            \
    X(categorical_focal_crossentropy_from_logits, "alpha gamma label_smoothing", 0)                                                        \
    X(sparse_categorical_crossentropy, "epsilon", 1)                                                                                       \
    X(categorical_hinge, "", 0)                                                                                                            \
    X(cosine_similarity, "", 0)                                                                                                            \
    X(floored_cosine_similarity, "epsilon", 0)
#define ROWWISE_PARAMETERS 4 /* the most of any loss */
#endif

#ifdef FORMULA /* else the list alone */

/* Of a prediction: its share y of the sum, clipped; 1 - y, from the difference of sum and prediction, so that no digit is lost near 1; log y;
   and whether it was clipped. The sum is high + low, inverse is 1 / high. */
typedef struct {
    real y, rest, log;
    MASK outside;
} FORMULA(share);
FORMULA_INLINE FORMULA(share) FORMULA(share_of)(real p, real high, real low, real inverse, real epsilon)
{
    FORMULA(share) s;
    real y = p / high, rest = ((high - p) + low) * inverse;
    s.outside = OR(LT(y, epsilon), LT(R(1) - epsilon, y));
    s.y = FORMULA(clip)(y, epsilon, R(1) - epsilon);
    s.rest = SELECT(s.outside, R(1) - s.y, rest);
    s.log = SELECT(LT(s.y, s.rest), LOG_HALF(s.y), LOG1M_HALF(s.rest));
    return s;
}

/* -t log y, times α (1 - y)^γ if focal; its derivatives by y, first f and second; and what these take part with in the sums of the row.
   With S the sum of the predictions, P = Σ f y and B = Σ (second y + 2 f) y the slope is (f (1 - y) - (P - f y)) / S and the curvature
   ((second (1 - y) - 2 f) (1 - y) + (B - (second y + 2 f) y)) / S²: where they would cancel the own term is taken out of the sums. */
FORMULA_INLINE real FORMULA(share_factor)(int focal, FORMULA(share) s, real alpha, real gamma)
{
    return focal ? alpha * POWER(s.rest, gamma) : R(1);
}
FORMULA_INLINE real FORMULA(share_value)(int focal, real t, FORMULA(share) s, real alpha, real gamma)
{
    return FORMULA(share_factor)(focal, s, alpha, gamma) * -TIMES(t, s.log);
}
FORMULA_INLINE real FORMULA(share_first)(int focal, real t, FORMULA(share) s, real alpha, real gamma)
{
    real f = -TIMES(t, FORMULA(share_factor)(focal, s, alpha, gamma) / s.y);
    if (focal) f = f - alpha * gamma * POWER(s.rest, gamma - R(1)) * -TIMES(t, s.log);
    return SELECT(s.outside, R(0), f);
}
FORMULA_INLINE real FORMULA(share_second)(int focal, real t, FORMULA(share) s, real alpha, real gamma)
{
    real second = TIMES(t, FORMULA(share_factor)(focal, s, alpha, gamma) / (s.y * s.y));
    if (focal) {
        real near = R(2) * POWER(s.rest, gamma - R(1)) / s.y - (gamma - R(1)) * POWER(s.rest, gamma - R(2)) * s.log;
        second = second + TIMES(t, alpha * gamma * near);
    }
    return SELECT(s.outside, R(0), second);
}
FORMULA_INLINE real FORMULA(share_pull)(FORMULA(share) s, real f) { return f * s.y; }
FORMULA_INLINE real FORMULA(share_bend)(FORMULA(share) s, real f, real second) { return (second * s.y + R(2) * f) * s.y; }

/* The same of a one-hot target: f y is -1 at the label and second y² is 1. S times the slope, S² times the curvature, at the label and at
   the other classes. */
FORMULA_INLINE real FORMULA(label_slope)(FORMULA(share) s) { return SELECT(s.outside, R(0), -(s.rest / s.y)); }
FORMULA_INLINE real FORMULA(other_slope)(FORMULA(share) s) { return SELECT(s.outside, R(0), R(1)); }
FORMULA_INLINE real FORMULA(label_curvature)(FORMULA(share) s)
{
    real odds = s.rest / s.y;
    return SELECT(s.outside, R(0), odds * (odds + R(2)));
}
FORMULA_INLINE real FORMULA(other_curvature)(FORMULA(share) s) { return SELECT(s.outside, R(0), R(-1)); }

/* -α t q^γ l of l = log p, p = softmax(z), q = 1 - p, and its derivatives by l; slope and curvature by z from these and their sums. */
FORMULA_INLINE real FORMULA(logits_value)(real t, real l, real q, real alpha, real gamma)
{
    return -alpha * TIMES(t * POWER(q, gamma), l);
}
FORMULA_INLINE real FORMULA(logits_first)(real t, real l, real p, real q, real alpha, real gamma)
{
    return -alpha * t * (POWER(q, gamma) - gamma * POWER(q, gamma - R(1)) * TIMES(p, l));
}
FORMULA_INLINE real FORMULA(logits_second)(real t, real l, real p, real q, real alpha, real gamma)
{
    real pl = TIMES(p, l);
    real near = POWER(q, gamma - R(1)) * (R(2) * p + pl) - (gamma - R(1)) * POWER(q, gamma - R(2)) * p * pl;
    return alpha * t * gamma * near;
}
FORMULA_INLINE real FORMULA(logits_slope)(real p, real q, real first, real sum_first) { return first * q - p * (sum_first - first); }
FORMULA_INLINE real FORMULA(logits_curvature)(real p, real q, real second, real sum_first, real sum_second)
{
    return second * q * q + p * p * (sum_second - second) - p * q * sum_first;
}

/* What competes for the largest wrong class of the hinge. */
FORMULA_INLINE real FORMULA(wrong)(real t, real p) { return (R(1) - t) * p; }

/* -Σ t p / (‖t‖ ‖p‖), squares of norms plus an epsilon if floored: ratio is Σ t p / ‖p‖², by_t and by_p are 1 / ‖t‖ and 1 / ‖p‖ times any factor; the slope is exactly 0 for p = t,
   even where the vectors are so small that by_p overflows. */
FORMULA_INLINE real FORMULA(cosine_slope)(real t, real p, real ratio, real by_t, real by_p) { return TIMES((ratio * p - t) * by_t, by_p); }
/* ‖p‖² times the curvature; t and p are the unit vectors' */
FORMULA_INLINE real FORMULA(cosine_curvature)(real t, real p, real cosine) { return R(2) * t * p + (cosine - R(3) * cosine * p * p); }
#endif
