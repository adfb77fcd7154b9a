/* What multiplies a position's derivatives, scale times weight, where that is no normal number. Compiles as C and as CUDA.

   Their product is then written as two: a derivative is multiplied by `first`, and the result by `rest`, a power of two. Below the normal
   numbers first is below 1, beyond them above: nothing overflows on the way, digits are lost only to the result, NaN and infinities stay,
   and 0 stays 0. Of a product that is infinite or NaN by its parts, first is 1: a derivative of 0 times infinity is NaN. */
#ifndef POLYLOSS_FORMULAS_FACTOR_H
#define POLYLOSS_FORMULAS_FACTOR_H
#ifdef __cplusplus
#define FACTOR_STEP __device__ inline
#else
#include "simd/vector_math.h"
#include <float.h>
#define FACTOR_STEP INLINE
#endif

typedef struct {
    double first, rest;
} split_factor;
/* normal, least: the least normal number of the type that derivatives are multiplied in, and the least one it has. */
FACTOR_STEP split_factor in_two(double scale, double weight, double normal, double least)
{
    const double product = scale * weight;
    split_factor two = {1, product};
    if (scale - scale != 0 || weight - weight != 0) return two;
    const int below = fabs(product) < 1;
    const double by = below ? 1 / normal : normal; /* times the smaller one or the larger one: then nothing is lost */
    const double first = (fabs(scale) < fabs(weight)) == below ? scale * by * weight : weight * by * scale, size = fabs(first);
    const double held = size < least ? least : size > 2 / normal ? 2 / normal : size;
    two.first = (scale < 0) == (weight < 0) ? held : -held;
    two.rest = 1 / by;
    return two;
}
#endif
