/* Softmax cross-entropy of one position, once the sum over its classes is known. Compiles as C and as CUDA.

   The row's top logit a stays out of the sum: others = sum over c != a of exp(z_c - z_a), so that
       lse - z_a = log1p(others),   p_c = exp(z_c - z_a) / (1 + others),   1 - p_a = others / (1 + others)
   and with k_c t'_c the weighted, smoothed targets, K their sum,
       loss = sum_c k_c t'_c (lse - z_c) = sum_c k_c t'_c (z_a - z_c) + K log1p(others)
   no term of which is negative: nothing cancels, and the small loss of a confident row keeps all its digits. */
#ifndef POLYLOSS_FORMULAS_SOFTMAX_H
#define POLYLOSS_FORMULAS_SOFTMAX_H
#ifdef __cplusplus /* CUDA: in the type of its computation */
#define STEP template <class REAL> __device__ __forceinline__
#else
#include "simd/vector_math.h"
#define STEP INLINE
#define REAL vd
#endif

/* d loss / d z = K p - k t'. The second is for a top class whose p = 1 - rest is above 1/2, rest = others / (1 + others): of a small p, as
   where all logits are equal, K - K rest would lose as many digits as 1 / p has. */
STEP REAL softmax_slope(REAL p, REAL kt, REAL sum_kt) { return sum_kt * p - kt; }
STEP REAL softmax_slope_top(REAL rest, REAL kt, REAL sum_kt) { return (sum_kt - kt) - sum_kt * rest; }
/* d² loss / d z² */
STEP REAL softmax_curvature(REAL p, REAL not_p, REAL sum_kt) { return sum_kt * p * not_p; }

/* Poly-1: loss + a (1 - sum_c t_c p_c), whose slope is -a p excess and whose curvature is p (K q - a excess (q - p)), q = 1 - p, others =
   sum of t p over the other classes, excess = t q - others. The curvature is sorted so that what cancels for a = 1 is exact: by the smaller
   of p and q. */
STEP REAL poly_excess(REAL t, REAL not_p, REAL others) { return t * not_p - others; }
STEP REAL poly_curvature_near(REAL p, REAL not_p, REAL t, REAL others, REAL a, REAL sum_kt)
{
    return p * ((not_p * (sum_kt + a * t) - a * others) - (a + a) * not_p * poly_excess(t, not_p, others));
}
STEP REAL poly_curvature_far(REAL p, REAL not_p, REAL t, REAL others, REAL a, REAL sum_kt)
{
    return p * ((not_p * (sum_kt - a * t) + a * others) + (a + a) * p * poly_excess(t, not_p, others));
}
#endif
