/* What a class adds to each row-wise loss, t its target and p its prediction or logit; beside elementwise.h, and included after it with the
   same macros, as C for vectors and as CUDA C++ for scalars. Besides those it asks for
       EXPM1(x)   exp(x) - 1 of |x| <= 1; for scalars it is defined below
   A loss's row is summed by its includer: rowwise_loops.h, rowwise.cu. The blocks in classification.py and similarity.py hold the same
   formulas under the same names. */
#ifndef POLYLOSS_FORMULAS_ROWWISE_H
#define POLYLOSS_FORMULAS_ROWWISE_H
/* X(name, its parameters, whether targets are labels) */
#define ROWWISE(X)                                                                                                                         \
    X(categorical_crossentropy, "epsilon label_smoothing", 0)                                                                              \
    X(categorical_focal_crossentropy, "alpha gamma epsilon label_smoothing", 0)                                                            \
    X(categorical_focal_crossentropy_from_logits, "alpha gamma label_smoothing", 0)                                                        \
    X(sparse_categorical_crossentropy, "epsilon", 1)                                                                                       \
    X(categorical_hinge, "", 0)                                                                                                            \
    X(cosine_similarity, "", 0)                                                                                                            \
    X(floored_cosine_similarity, "epsilon", 0)                                                                                             \
    X(multiclass_hinge, "margin power average", 1)                                                                                         \
    X(brier, "", 1)                                                                                                                        \
    X(generalized_crossentropy, "q", 1)
#define ROWWISE_PARAMETERS 4 /* the most of any loss */
#endif

#ifdef FORMULA /* else the list alone */
#ifndef EXPM1
#define EXPM1(x) expm1(x)
#endif

/* Of a prediction: its share y of the sum, clipped; 1 - y, from the difference of sum and prediction, so that no digit is lost near 1; log
   y; and whether it was clipped. The sum is high + low, inverse is 1 / high. A sum of 0, or an infinite one, has no shares: high is NaN. */
typedef struct {
    real y, rest, log;
    MASK outside;
} FORMULA(share);
FORMULA_INLINE FORMULA(share) FORMULA(share_of)(real p, real high, real low, real inverse, real epsilon)
{
    FORMULA(share) s;
    real y = p / high, rest = SELECT(EQ(inverse - inverse, R(0)), ((high - p) + low) * inverse, R(1) - y);
    s.outside = OR(OR(LT(y, epsilon), LT(R(1) - epsilon, y)), LT(rest, R(0))); /* a share above 1 may round to 1, and 1 - epsilon too */
    s.y = FORMULA(clip)(y, epsilon, R(1) - epsilon);
    s.rest = SELECT(s.outside, R(1) - s.y, rest);
    s.log = SELECT(LT(s.y, s.rest), LOG_HALF(s.y), LOG1M_HALF(s.rest));
    return s;
}

/* loss / rest of loss = -log(1 - rest), which nears 1 with rest: no negative power of rest is multiplied by it. */
FORMULA_INLINE real FORMULA(loss_per_miss)(real loss, real rest) { return SELECT(LT(rest, R(0x1p-26)), R(1) + R(0.5) * rest, loss / rest); }

/* -t log y, times α (1 - y)^γ if focal. With h its derivative in y and h' the next one, first is h y and second is h' y²: both stay finite
   where y is 0. With S the sum of predictions, P = Σ h y and B = Σ (h' y + 2 h) y the slope is (h (1 - y) - (P - h y)) / S, the curvature
   ((h' (1 - y) - 2 h) (1 - y) + (B - (h' y + 2 h) y)) / S²: where they would cancel the own term is taken out of the sums. Of what is not
   clipped y S is p: own terms of small shares are divided by p, since powers of y may leave the dtype where those of p do not. */
FORMULA_INLINE real FORMULA(share_factor)(int focal, FORMULA(share) s, real alpha, real gamma)
{
    return focal ? alpha * POWER(s.rest, gamma) : R(1);
}
FORMULA_INLINE real FORMULA(share_value)(int focal, real t, FORMULA(share) s, real alpha, real gamma)
{
    return focal ? POWER(s.rest, gamma) * -TIMES(alpha * t, s.log) : -TIMES(t, s.log);
}
FORMULA_INLINE real FORMULA(share_first)(int focal, real t, FORMULA(share) s, real alpha, real gamma)
{
    real f = t * FORMULA(share_factor)(focal, s, alpha, gamma);
    if (focal) f = f * (R(1) + gamma * TIMES(s.y, FORMULA(loss_per_miss)(-s.log, s.rest)));
    return SELECT(s.outside, R(0), -f + R(0) * s.y); /* NaN goes through */
}
FORMULA_INLINE real FORMULA(share_second)(int focal, real t, FORMULA(share) s, real alpha, real gamma)
{
    real second = FORMULA(share_factor)(focal, s, alpha, gamma);
    if (focal) {
        real near = s.y * POWER(s.rest, gamma - R(1)) * (R(2) + (gamma - R(1)) * TIMES(s.y, FORMULA(loss_per_miss)(-s.log, s.rest)));
        second = second + alpha * TIMES(gamma, near);
    }
    return SELECT(s.outside, R(0), t * second + R(0) * s.y);
}
/* What a class has of its own, 0 where it has no target, whatever its share: h (1 - y) and (h' (1 - y) - 2 h) (1 - y), of a small share
   divided by S and S²; and in B. */
FORMULA_INLINE MASK FORMULA(is_small)(real p, real high) { return LT(p, R(0x1p-30) * high); }
FORMULA_INLINE real FORMULA(share_slope)(real p, real high, FORMULA(share) s, real first)
{
    return FORMULA(over)(first * s.rest, SELECT(FORMULA(is_small)(p, high), p + R(0), s.y)); /* a p of -0.0 is 0.0 */
}
FORMULA_INLINE real FORMULA(share_curvature)(real p, real high, FORMULA(share) s, real first, real second)
{
    const real by = SELECT(FORMULA(is_small)(p, high), p, s.y);
    return FORMULA(over)(FORMULA(over)((second * s.rest - R(2) * first * s.y) * s.rest, by), by);
}
FORMULA_INLINE real FORMULA(share_bend)(real first, real second) { return second + R(2) * first; }
/* A derivative in the shares as one in the predictions: x / S, of 0 is 0 though 1 / S may be infinite. */
FORMULA_INLINE real FORMULA(per_sum)(real x, real inverse) { return TIMES(x, inverse); }
/* k times an own term and what the others have, in predictions, with factor k / S and inverse 1 / S, which is 1 for slopes: the latter is
   far below the own term of a small share, and no number may be left of two infinite ones. */
FORMULA_INLINE real FORMULA(share_derivative)(MASK small, real k, real own, real others, real factor, real inverse)
{
    const real apart = FORMULA(per_sum)(FORMULA(per_sum)(others, factor), inverse);
    const real together = FORMULA(per_sum)(FORMULA(per_sum)(own + others, factor), inverse);
    return SELECT(small, k * own + SELECT(EQ(ABS(k * own), R(1) / R(0)), R(0), apart), together);
}

/* Slope and curvature for a one-hot target: first is -1 at the label and second is 1. At the label, whose prediction
   is p, they are complete; those of the other classes are S times the slope and S² times the curvature. */
FORMULA_INLINE real FORMULA(label_slope)(real p, FORMULA(share) s) { return SELECT(s.outside, R(0), -(s.rest / (p + R(0)))); }
FORMULA_INLINE real FORMULA(other_slope)(FORMULA(share) s) { return SELECT(s.outside, R(0), R(1) + R(0) * s.rest); } /* NaN goes through */
FORMULA_INLINE real FORMULA(label_curvature)(real p, FORMULA(share) s) /* (1 - y²) / p², which does not cancel */
{
    return SELECT(s.outside, R(0), (s.rest * (R(1) + s.y)) / p / p);
}
FORMULA_INLINE real FORMULA(other_curvature)(FORMULA(share) s) { return SELECT(s.outside, R(0), R(-1) + R(0) * s.rest); }

/* -α t q^γ l, l = log p, p = softmax(z), q = 1 - p. First is h, its derivative in l; second is the derivative of h in l, times q. With sums
   over the classes with q >= 1/2, and the number of the one class that may be nearer to p = 1:
       slope_j = h_j q_j - p_j Σ_{c≠j} h_c,   curvature_j = second_j q_j + p_j² Σ_{c≠j} second_c / q_c - p_j q_j Σ h
   of which nothing is lost to the near class's large or small terms, and nothing overflows: p_j / q of it is a number of its own. */
FORMULA_INLINE real FORMULA(logits_value)(real t, real l, real q, real alpha, real gamma) { return -TIMES(alpha * t * POWER(q, gamma), l); }
FORMULA_INLINE real FORMULA(logits_first)(real t, real l, real p, real q, real alpha, real gamma)
{
    return -alpha * t * POWER(q, gamma) * (R(1) + gamma * TIMES(p, FORMULA(loss_per_miss)(-l, q)));
}
FORMULA_INLINE real FORMULA(logits_second)(real t, real l, real p, real q, real alpha, real gamma)
{
    real bend = R(2) * p + TIMES(p, l) + (gamma - R(1)) * p * TIMES(p, FORMULA(loss_per_miss)(-l, q));
    return alpha * gamma * t * POWER(q, gamma) * bend;
}
FORMULA_INLINE MASK FORMULA(is_near)(real q) { return LT(q, R(0.5)); }
FORMULA_INLINE real FORMULA(far)(real q, real x) { return SELECT(FORMULA(is_near)(q), R(0), x); }
FORMULA_INLINE real FORMULA(near)(real q, real x) { return SELECT(FORMULA(is_near)(q), x, R(0)); }
FORMULA_INLINE real FORMULA(logits_slope)(real p, real q, real first, real far_first, real near_first)
{
    return first * q - p * SELECT(FORMULA(is_near)(q), far_first, (far_first - first) + near_first);
}
FORMULA_INLINE real FORMULA(logits_curvature)(real p, real q, real second, real all_first, real far_bend, real near_second, real near_q)
{
    real own = second * q - p * q * all_first, others = far_bend - second / q;
    real of_near = SELECT(EQ(near_second, R(0)), R(0), p * (p / near_q) * near_second);
    return SELECT(FORMULA(is_near)(q), own + p * p * far_bend, own + p * p * others + of_near);
}

/* What competes for the largest wrong class of the hinge. */
FORMULA_INLINE real FORMULA(wrong)(real t, real p) { return FORMULA(part)(R(1) - t, p); }

/* What a wrong class exceeds the label by, whose logit is `own`; of that m the value, m or m² where it is above 0, and both derivatives by
   m. At 0 there is none; NaN goes through. */
FORMULA_INLINE real FORMULA(violation)(real z, real own, real margin) { return (margin + z) - own; }
FORMULA_INLINE real FORMULA(violation_value)(int square, real m)
{
    const real u = SELECT(LE(m, R(0)), R(0), m);
    return square ? u * u : u;
}
FORMULA_INLINE real FORMULA(violation_first)(int square, real m)
{
    const real u = SELECT(LE(m, R(0)), R(0), m);
    return square ? R(2) * u : SELECT(LT(R(0), m), R(1), u);
}
FORMULA_INLINE real FORMULA(violation_second)(int square, real m) { return square ? SELECT(LT(R(0), m), R(2), R(0)) : R(0); }

/* (1 - y^q) / q of the label's prediction y, NaN where it is negative, and its derivatives. -expm1(q log y) where 1 - y^q would cancel; a
   power below 0 of 0 is infinite. */
FORMULA_INLINE real FORMULA(no_negative)(real y) { return SELECT(LT(y, R(0)), y / R(0) - y / R(0), y); }
FORMULA_INLINE real FORMULA(full_power)(real y, real n) { return SELECT(AND(EQ(y, R(0)), LT(n, R(0))), R(1) / R(0), POWER(y, n)); }
FORMULA_INLINE real FORMULA(generalized_value)(real y, real q)
{
    const real u = FORMULA(no_negative)(y), power = POWER(u, q);
    const MASK near = LT(ABS(power - R(1)), R(0.5));
    return SELECT(near, -EXPM1(q * LOG(SELECT(near, u, R(1)))), R(1) - power) / q;
}
FORMULA_INLINE real FORMULA(generalized_slope)(real y, real q)
{
    const real u = FORMULA(no_negative)(y);
    return R(0) * u - FORMULA(full_power)(u, q - R(1));
}
FORMULA_INLINE real FORMULA(generalized_curvature)(real y, real q)
{
    const real u = FORMULA(no_negative)(y);
    return TIMES(R(1) - q, FORMULA(full_power)(u, q - R(2))) + R(0) * u;
}

/* -Σ t p / (‖t‖ ‖p‖), squares of norms plus an epsilon if floored: ratio is Σ t p / ‖p‖², by_t and by_p are 1 / ‖t‖ and 1 / ‖p‖
   times any factor. The slope is exactly 0 for p = t, even where the vectors are so small that by_p overflows. On the CPU t and ratio come
   times 2^-up and by_t times 2^up, which cancels; of the least p by_p comes times a power of two, lest it overflow, and what is returned is
   multiplied by the inverse of that, rest. */
FORMULA_INLINE real FORMULA(cosine_slope)(real t, real p, real ratio, real by_t, real by_p) { return TIMES((ratio * p - t) * by_t, by_p); }
/* ‖p‖² times the curvature; t and p are the unit vectors' */
FORMULA_INLINE real FORMULA(cosine_curvature)(real t, real p, real cosine) { return R(2) * t * p + (cosine - R(3) * cosine * p * p); }
#endif
