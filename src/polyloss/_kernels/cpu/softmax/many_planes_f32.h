/* Sums of many classes through planes, in the order in which rows_f32.h adds up rows.

   A row's class c is added in lane c modulo W, four classes that are W apart at a time. Here every position has W such sums, and the
   planes, one for each class, are taken lane by lane; the two lanes that rows_f32.h adds in one double follow each other. */
#ifndef POLYLOSS_SOFTMAX_MANY_PLANES_H
#define POLYLOSS_SOFTMAX_MANY_PLANES_H
#include "cpu/softmax/tile.h"

/* The m of the reference for rows whose logits are about z; and what they are measured from for their mean. */
INLINE vf power_near(vf z)
{
    const vf m = z * LOG2E_F, whole = __builtin_convertvector(__builtin_convertvector(max_f(min_f(m, all_f(120)), all_f(-120)), vi), vf);
    return select_f(lt_f(m, all_f(-1e6f)), all_f(0.0f), whole); /* -1e30: masked */
}
INLINE vf base_near(vf z) { return select_f(lt_f(abs_f(z), all_f(1e30f)), z, all_f(0.0f)); }
/* The sum of a row's lanes is made up for what one exponential in two parts and ln 2 in one leave out. */
INLINE vd others_of(vd sum, vd m, const int wanted)
{
    const vd others = sum / (wanted ? KEPT : SUMMED);
    return W >= 8 && !wanted ? others * mad_d(m + exponent_d(others), all_d(LN2_REST), all_d(1.0)) : others;
}
/* As sum_d() adds lanes, `step` apart. */
INLINE vd across_lanes_of(const double *lane, ptrdiff_t step)
{
    vd s[WD];
    for (int l = 0; l < WD; l++) s[l] = load_d(lane + l * step);
    HALVES(s, WD, PLUS)
    return s[0];
}

/* Of up to PLANES positions. */
typedef struct {
    double *sum, *apart; /* (WD, PLANES) of exponentials, and of logits less their base */
    float *high, *low; /* (W, PLANES) of the exponentials of a block, in two parts, where they are not kept */
    float *m, *base, *part, *part_apart; /* (PLANES,) */
} many_sums;
INLINE void end_lane(double *sum, float *part, vf v, const int first)
{
    if (first) {
        store_f(part, v);
        return;
    }
    float of[W];
    store_f(of, v);
    for (int k = 0; k < W; k += WD) store_d(sum + k, load_d(sum + k) + (widen(part + k) + widen(of + k)));
}

/* One lane of the group of classes from c on. Of two lanes WD apart the first leaves its part of what goes to a double, the second
   adds both. */
INLINE void add_lane(const float *z, ptrdiff_t step, ptrdiff_t c, int lane, ptrdiff_t classes, ptrdiff_t positions, const int32_t *label,
                     const many_sums *x, float *kept, const int smoothed, const int whole)
{
    const int first = lane < WD;
    for (ptrdiff_t i = 0; i < positions; i += W) {
        const reference about = references_of(load_f(x->m + i), !!kept);
        const vi lab = *(const vi_anywhere *)(label + i);
        const vf none = all_f(0.0f);
        vf e[4] = {none, none, none, none}, d[4] = {none, none, none, none};
        vf low = kept ? none : load_f(x->low + lane * PLANES + i);
        for (int k = 0; k < 4; k++) {
            const ptrdiff_t class = c + lane + k * W;
            if (!whole && class >= classes) break;
            const float *at = z + class * step + i;
            __builtin_prefetch(at + step);
            const vf v = load_f(at);
            const lanes other = other_i(lab, (int32_t)class);
            if (kept) {
                const vf all = exp_over_f(v, &about, 1, 1);
                store_f(kept + class * positions + i, all);
                e[k] = keep_if(other, all);
            } else
                e[k] = high_exp_f(v, &about, other, &low, 0, 1);
            if (smoothed) d[k] = v - load_f(x->base + i);
        }
        const vf sum = (e[0] + e[1]) + (e[2] + e[3]), apart = (d[0] + d[1]) + (d[2] + d[3]);
        if (!kept) {
            store_f(x->high + lane * PLANES + i, load_f(x->high + lane * PLANES + i) + sum);
            store_f(x->low + lane * PLANES + i, low);
        } else
            end_lane(x->sum + (lane % WD) * PLANES + i, x->part + i, sum, first);
        if (smoothed) end_lane(x->apart + (lane % WD) * PLANES + i, x->part_apart + i, apart, first);
    }
}
/* The sums of a block into those in double. */
INLINE void end_block(const many_sums *x, ptrdiff_t positions)
{
    for (int l = 0; l < WD; l++)
        for (ptrdiff_t i = 0; i < positions; i += WD) {
            const float *high = x->high + l * PLANES + i, *low = x->low + l * PLANES + i;
            const ptrdiff_t other = WD * PLANES;
            double *sum = x->sum + l * PLANES + i;
            store_d(sum, load_d(sum) + ((widen(high) + widen(high + other)) + (widen(low) + widen(low + other))));
        }
    for (int l = 0; l < W; l++) {
        memset(x->high + l * PLANES, 0, (size_t)positions * sizeof(float));
        memset(x->low + l * PLANES, 0, (size_t)positions * sizeof(float));
    }
}
/* Others, target, reference and, where smoothed, mean of positions `first` and on of the tile, at most PLANES of them, whose planes are
   `step` floats apart; exponentials are kept in (C, positions) where asked. */
INLINE void many_planes(const float *z, ptrdiff_t step, ptrdiff_t classes, ptrdiff_t positions, const int32_t *label, fast_scratch *tile,
                        ptrdiff_t first, float *kept, const int smoothed)
{
    many_sums x = {.sum = tile->columns.many};
    x.apart = x.sum + WD * PLANES;
    x.high = (float *)(x.apart + WD * PLANES), x.low = x.high + W * PLANES;
    x.m = x.low + W * PLANES, x.base = x.m + PLANES, x.part = x.base + PLANES, x.part_apart = x.part + PLANES;
    memset(x.sum, 0, (size_t)((char *)x.m - (char *)x.sum));
    for (ptrdiff_t i = 0; i < positions; i += W) {
        vf highest = all_f(-INFINITY);
        const vi lab = *(const vi_anywhere *)(label + i);
        for (ptrdiff_t c = 0; c < W; c++)
            highest = max_f(highest, replace_if(other_i(lab, (int32_t)c), all_f(-INFINITY), load_f(z + c * step + i)));
        store_f(x.m + i, power_near(highest));
        store_f(x.base + i, base_near(highest));
    }
    for (ptrdiff_t b = 0; b < classes; b += BLOCK) {
        for (ptrdiff_t c = b; c < classes && c < b + BLOCK; c += GROUP)
            for (int l = 0; l < W; l++) {
                const int lane = l / 2 + l % 2 * WD, whole = c + GROUP <= classes;
                if (smoothed && whole)
                    add_lane(z, step, c, lane, classes, positions, label, &x, kept, 1, 1);
                else if (smoothed)
                    add_lane(z, step, c, lane, classes, positions, label, &x, kept, 1, 0);
                else if (whole)
                    add_lane(z, step, c, lane, classes, positions, label, &x, kept, 0, 1);
                else
                    add_lane(z, step, c, lane, classes, positions, label, &x, kept, 0, 0);
            }
        if (!kept) end_block(&x, positions);
    }
    for (ptrdiff_t i = 0; i < positions; i += WD) {
        double target[WD];
        for (int k = 0; k < WD; k++) target[k] = label[i + k] < 0 ? 0 : (double)z[label[i + k] * step + i + k];
        const vd m = widen(x.m + i);
        store_d(tile->others + first + i, others_of(across_lanes_of(x.sum + i, PLANES), m, !!kept));
        store_d(tile->target + first + i, load_d(target));
        store_d(tile->m + first + i, m);
        if (smoothed) store_d(tile->mean + first + i, widen(x.base + i) + across_lanes_of(x.apart + i, PLANES) / (double)classes);
    }
}
#endif
