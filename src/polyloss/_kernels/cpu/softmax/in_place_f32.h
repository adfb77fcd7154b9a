/* The fast softmax loss from labels where slopes replace logits, positions are neighbours in memory and classes many: as a model's head
   makes its logits class by class.

   Two visits, from class to class through the positions of a tile: exponentials of so many classes would leave the caches before they are
   written. The first adds up, the second takes them again and writes; both go through memory as it lies. The reference m is each
   position's own, from its first logits. A position that is lost to the range of floats is done again in double between the two, while its
   logits are there, and then left alone. The sums are in another order than those of rows. */
#ifndef POLYLOSS_SOFTMAX_IN_PLACE_H
#define POLYLOSS_SOFTMAX_IN_PLACE_H
#include "cpu/softmax/many_planes_f32.h"

#define LOOKED_AT 16 /* classes whose largest logit the reference is taken from */
#define TOGETHER_F 8 /* classes summed in float32 before their sum is added with compensation */

/* Of the positions of a tile, (positions,) each. */
typedef struct {
    float *m, *first; /* the reference; the first logit, which those of smoothed labels are measured from */
    float *sum, *low, *apart, *apart_low; /* Σ exp(z) / 2^m without the target and its low part; Σ z - first and its low part */
    float *high, *rest, *plus, *at_target; /* what plane_slopes() of columns has, too */
    int32_t *leave; /* -1: done in double */
    int unusual; /* whether a position is left, or its slopes are 0 */
} tile_in_place;
static tile_in_place tile_at(float *room, ptrdiff_t most)
{
    tile_in_place t;
    float **parts[] = {&t.m, &t.first, &t.sum, &t.low, &t.apart, &t.apart_low, &t.high, &t.rest, &t.plus, &t.at_target};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) *parts[i] = room, room += most;
    t.leave = (int32_t *)room, t.unusual = 0;
    return t;
}

INLINE vf load_some(const float *at, ptrdiff_t left, const int whole) { return whole ? load_f(at) : load_part_f(at, left); }
INLINE vf exp_each_f(vf x, vf m)
{
    const reference r = references_of(m, 1);
    return exp_over_f(x, &r, 1, 1);
}
/* Whether the label of one of W positions is among K classes from c on. */
INLINE int is_among(const int32_t *label, ptrdiff_t c, const int K)
{
    const vu above = (vu)(*(const vi_anywhere *)label - (int32_t)c);
#if W == 16
    return _mm512_cmplt_epu32_mask((__m512i)above, _mm512_set1_epi32(K)) != 0;
#else
    return any_f((mf)(above < (uint32_t)K));
#endif
}
INLINE void add_classes(const fast_scratch *x, const tile_in_place *t, const float *at, ptrdiff_t step, ptrdiff_t i, ptrdiff_t left,
                        ptrdiff_t c, const int smoothed, const int capped, const int K, const int targets, const int whole)
{
    vf part = all_f(0.0f), apart = part, bent;
    const vf m = load_f(t->m + i), first = load_f(t->first + i);
    const vi label = *(const vi_anywhere *)(x->label + i);
#pragma GCC unroll 8
    for (int k = 0; k < K; k++) {
        vf v = load_some(at + k * step, left, whole);
        if (capped) v = capped_f(v, &x->cap.of, &bent);
        if (smoothed) apart += v - first;
        const vf e = exp_each_f(v, m);
        part = targets ? add_if(other_i(label, (int32_t)c + k), part, e) : part + e;
    }
    const vf before = load_f(t->sum + i), after = before + part; /* with compensation [Kahan 1965] */
    store_f(t->sum + i, after);
    store_f(t->low + i, load_f(t->low + i) - ((after - before) - part));
    if (smoothed) {
        const vf earlier = load_f(t->apart + i), all = earlier + apart;
        store_f(t->apart + i, all);
        store_f(t->apart_low + i, load_f(t->apart_low + i) - ((all - earlier) - apart));
    }
}
INLINE void write_classes(const fast_scratch *x, const tile_in_place *t, float *at, ptrdiff_t step, ptrdiff_t i, ptrdiff_t left,
                          ptrdiff_t c, const int capped, const int K, const int unusual, const int whole)
{
    const vf m = load_f(t->m + i), high = load_f(t->high + i), rest = load_f(t->rest + i), plus = load_f(t->plus + i);
    const vi label = *(const vi_anywhere *)(x->label + i);
#pragma GCC unroll 8
    for (int k = 0; k < K; k++) {
        const vf z = load_some(at + k * step, left, whole);
        vf bent, v = z;
        if (capped) v = capped_f(v, &x->cap.of, &bent);
        vf e = exp_each_f(v, m);
        if (unusual) e = replace_if(other_i(label, (int32_t)c + k), load_f(t->at_target + i), e);
        vf out = mad_f(e, high, mad_f(e, rest, plus));
        if (capped) out = times_f(out, bent);
        if (unusual) {
            out = select_f(eq_f(high, all_f(0.0f)), all_f(0.0f), out);
            const vi leave = *(const vi_anywhere *)(t->leave + i);
            out = (vf)(((vi)z & leave) | ((vi)out & ~leave));
        }
        if (whole)
            store_f(at + k * step, out);
        else
            store_part_f(at + k * step, out, left);
    }
}
/* W positions from i on, or what is left of them, of K classes from c on. */
INLINE void visit(const fast_scratch *x, const tile_in_place *t, float *at, ptrdiff_t step, ptrdiff_t i, ptrdiff_t left, ptrdiff_t c,
                  const int smoothed, const int capped, const int write, const int K, const int whole)
{
    const int targets = is_among(x->label + i, c, K);
    if (!write && __builtin_expect(targets, 0))
        add_classes(x, t, at, step, i, left, c, smoothed, capped, K, 1, whole);
    else if (!write)
        add_classes(x, t, at, step, i, left, c, smoothed, capped, K, 0, whole);
    else if (__builtin_expect(targets || t->unusual, 0))
        write_classes(x, t, at, step, i, left, c, capped, K, 1, whole);
    else
        write_classes(x, t, at, step, i, left, c, capped, K, 0, whole);
}
INLINE void visit_groups(const softmax_job *j, const fast_scratch *x, const tile_in_place *t, float *z, ptrdiff_t positions, ptrdiff_t from,
                         ptrdiff_t to, const int smoothed, const int capped, const int write)
{
    const ptrdiff_t step = j->z.c / 4;
    for (ptrdiff_t c = from; c < to; c += TOGETHER_F) {
        float *at = z + c * step;
        const ptrdiff_t ahead = c + 3 * TOGETHER_F <= to ? 2 * TOGETHER_F * step : 0;
        ptrdiff_t i = 0;
        for (; i + W <= positions; i += W, at += W) {
            for (int k = 0; i % 16 == 0 && k < TOGETHER_F; k++) __builtin_prefetch(at + k * step + ahead, 0, 2);
            visit(x, t, at, step, i, W, c, smoothed, capped, write, TOGETHER_F, 1);
        }
        if (i < positions) visit(x, t, at, step, i, positions - i, c, smoothed, capped, write, TOGETHER_F, 0);
    }
}
/* Each tile begins at a class of its own: where two threads are at the same page, each fetches lines that the other writes, which takes as
   long as one thread alone does. */
INLINE void visit_all(const softmax_job *j, const fast_scratch *x, const tile_in_place *t, float *z, ptrdiff_t number, ptrdiff_t positions,
                      const int smoothed, const int capped, const int write)
{
    const ptrdiff_t step = j->z.c / 4, groups = j->c / TOGETHER_F, start = groups * number / j->tasks * TOGETHER_F;
    visit_groups(j, x, t, z, positions, start, groups * TOGETHER_F, smoothed, capped, write);
    visit_groups(j, x, t, z, positions, 0, start, smoothed, capped, write);
    for (ptrdiff_t c = groups * TOGETHER_F; c < j->c; c++)
        for (ptrdiff_t i = 0; i < positions; i += W) {
            const ptrdiff_t left = positions - i < W ? positions - i : W;
            visit(x, t, z + c * step + i, step, i, left, c, smoothed, capped, write, 1, 0);
        }
}
/* What is known of each position before the first visit: its reference, its target's logit, its first one. */
static void look_at(const softmax_job *j, fast_scratch *x, const tile_in_place *t, const float *z, ptrdiff_t positions)
{
    const ptrdiff_t step = j->z.c / 4;
    for (ptrdiff_t i = 0; i < positions; i++) {
        const int32_t y = x->label[i];
        float highest = -INFINITY, target = y < 0 ? 0 : z[y * step + i], first = z[i];
        for (ptrdiff_t c = 0; c < LOOKED_AT && c < j->c; c++)
            if (c != y && z[c * step + i] > highest) highest = z[c * step + i];
        if (x->cap.on)
            highest = capped_one(highest, &x->cap.of), target = capped_one(target, &x->cap.of), first = capped_one(first, &x->cap.of);
        t->m[i] = lane_f(power_near(all_f(highest))), t->first[i] = first;
        x->m[i] = (double)t->m[i], x->target[i] = (double)target;
    }
}
/* The losses of a tile, and what is to be done again in double before write_in_place(). */
static void sum_in_place(const softmax_job *j, ptrdiff_t first, ptrdiff_t count, fast_scratch *x)
{
    const ptrdiff_t most = (count + W - 1) / W * W;
    tile_in_place t = tile_at(x->columns.sums, most);
    float *z = (float *)place(&j->z, first / j->s, first % j->s);
    memset(x->columns.sums, 0, IN_PLACE_NUMBERS * (size_t)most * sizeof(float));
    for (ptrdiff_t i = count; i < most; i++) x->label[i] = IGNORED;
    look_at(j, x, &t, z, count);
    if (x->cap.on)
        visit_all(j, x, &t, z, first / softmax_tile(j), count, 1, 1, 0);
    else if (j->smoothing != 0)
        visit_all(j, x, &t, z, first / softmax_tile(j), count, 1, 0, 0);
    else
        visit_all(j, x, &t, z, first / softmax_tile(j), count, 0, 0, 0);
    for (ptrdiff_t i = 0; i < count; i++) {
        x->others[i] = ((double)t.sum[i] + (double)t.low[i]) / KEPT;
        x->mean[i] = (double)t.first[i] + ((double)t.apart[i] + (double)t.apart_low[i]) / (double)j->c;
    }
    finish(j, x, 0, count, 1);
    for (ptrdiff_t i = 0; i < x->redo.count; i++) t.leave[x->redo.positions[i]] = -1;
}
/* The slopes of a tile over its logits. */
static void write_in_place(const softmax_job *j, ptrdiff_t first, ptrdiff_t count, fast_scratch *x)
{
    const ptrdiff_t most = (count + W - 1) / W * W;
    tile_in_place t = tile_at(x->columns.sums, most);
    for (ptrdiff_t i = 0; i < count; i++) {
        t.high[i] = (float)x->grad[i], t.rest[i] = (float)(x->grad[i] - (double)t.high[i]);
        t.plus[i] = (float)x->plus[i], t.at_target[i] = (float)x->grad_at_target[i];
        t.unusual |= t.leave[i] != 0 || t.high[i] == 0;
    }
    float *z = (float *)place(&j->z, first / j->s, first % j->s);
    if (x->cap.on)
        visit_all(j, x, &t, z, first / softmax_tile(j), count, 0, 1, 1);
    else
        visit_all(j, x, &t, z, first / softmax_tile(j), count, 0, 0, 1);
}
#endif
