/* Capped logits y = cap tanh(z / cap) in float32, and their derivatives 1 / cosh²(z / cap), before the loops of the fast softmax loss see
   them. A y is off by up to 1.5 units of the last place of `cap`, where a float32 formula is, too; small ones (|z| < 0.35 cap) are z and a
   correction, and right to their own last place. */
#ifndef POLYLOSS_SOFTMAX_CAP_H
#define POLYLOSS_SOFTMAX_CAP_H
#include "cpu/softmax/exp.h"

#define CAP_LEAST 1e-30 /* what is beyond goes to the loops in double: the reciprocal, and what it lacks, are to be normal floats */
#define CAP_MOST 1e30

/* A cap and its reciprocal, each as two floats. */
typedef struct {
    float cap, cap_low, inverse, inverse_low;
} cap_f;
static cap_f cap_of(double cap)
{
    const double inverse = 1 / cap;
    return (cap_f){(float)cap, (float)(cap - (float)cap), (float)inverse, (float)(inverse - (float)inverse)};
}
/* With d = |z / cap| and e = exp(-2d), tanh d = (1 - e) / (1 + e), near 0 d + d³ Q(d²) as in vector_math.h, and
   1 / cosh² d = 4 e / (1 + e)². */
INLINE vf capped_f(vf z, const cap_f *c, vf *bent)
{
    const vf size = abs_f(z), d = mad_f(size, all_f(c->inverse), size * c->inverse_low), x = d * d;
    const vf e = exp_neg_f(-2.0f * d), r = 1.0f / (1.0f + e), t = (1.0f - e) * r;
    *bent = 4.0f * e * r * r;
    vf p = mad_f(x, all_f(0x1.41e25ep-6f), all_f(-0x1.b88f24p-5f));
    p = mad_f(p, x, all_f(0x1.110e38p-3f));
    p = mad_f(p, x, all_f(-0x1.555554p-2f));
    const vf far = mad_f(t, all_f(c->cap), t * c->cap_low);
    return select_f(lt_f(d, all_f(0.35f)), mad_f(z * x, p, z), select_f(lt_f(z, all_f(0.0f)), -far, far));
}
static float capped_one(float z, const cap_f *c)
{
    vf bent;
    float lanes[W];
    store_f(lanes, capped_f(all_f(z), c, &bent));
    return lanes[0];
}
/* Of `count` logits at z, into room for whole vectors; the derivatives where `bent` is not NULL. */
static void cap_floats(const cap_f *c, const float *z, float *to, float *bent, ptrdiff_t count)
{
    for (ptrdiff_t i = 0; i < count; i += W) {
        if (i % 16 == 0) __builtin_prefetch(z + i + 1024);
        vf slope;
        const vf v = capped_f(count - i < W ? load_part_f(z + i, count - i) : load_f(z + i), c, &slope);
        store_f(to + i, v);
        if (bent) store_f(bent + i, slope);
    }
}
/* Slopes e factor + plus of capped logits into those of the logits, in whole vectors; 0 stays 0, whatever its logit was. */
static void bend_floats(float *e, const float *bent, double factor, double plus, ptrdiff_t count)
{
    const vf high = all_f((float)factor), low = all_f((float)(factor - (float)factor)), more = all_f((float)plus);
    for (ptrdiff_t i = 0; i < count; i += W) {
        const vf v = load_f(e + i);
        store_f(e + i, times_f(mad_f(v, high, mad_f(v, low, more)), load_f(bent + i)));
    }
}
#endif
