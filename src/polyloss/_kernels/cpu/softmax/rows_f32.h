/* The fast softmax loss where the classes of a position are neighbours in memory, and many.

   One pass, the reference m from the row's first vector. For a gradient the exponentials are kept in a scratch row in the second-level
   cache, and row r is written while row r+1 is read, so that both directions of the memory are busy. */
#ifndef POLYLOSS_SOFTMAX_ROWS_H
#define POLYLOSS_SOFTMAX_ROWS_H
#include "cpu/softmax/many_planes_f32.h"

/* A row of exponentials on its way to the gradient: out[i] = e[i] * factor + plus. */
typedef struct {
    const float *e;
    char *out; /* NULL: nothing */
    float factor, low, plus; /* the factor in two parts, as split() has it */
    ptrdiff_t done, most; /* written so far; up to where the reading of the next row may write, from `done` on in whole groups */
} writing;

/* W of the n logits at x, -inf in place of those beyond and of x[y]. */
INLINE vf load_without(const float *x, ptrdiff_t n, ptrdiff_t y)
{
#if W == 16
    const uint32_t there = n >= W ? 0xffffu : n > 0 ? (1u << n) - 1 : 0, target = y >= 0 && y < W ? 1u << y : 0;
    return (vf)_mm512_mask_loadu_ps(_mm512_set1_ps(-INFINITY), (__mmask16)(there & ~target), x);
#elif W == 8
    const vi lane = {0, 1, 2, 3, 4, 5, 6, 7}, before = all_i(n < W ? (int32_t)n : W), target = all_i(y >= 0 && y < W ? (int32_t)y : W);
    const vi there = (lane < before) & (lane != target);
    return select_f(there, (vf)_mm256_maskload_ps(x, (__m256i)there), all_f(-INFINITY));
#else
    float part[W];
    for (int k = 0; k < W; k++) part[k] = k < n && k != y ? x[k] : -INFINITY;
    return load_f(part);
#endif
}
/* The sum of exp(x) / 2^m over `count` logits without x[y] (y outside: without none), at most BLOCK of them; kept where asked; meanwhile
   `last` is written, and the logits `ahead` of these are fetched. Where `apart` is given, the sum of x - base is added to it. The order is
   that of many_planes_f32.h: four classes W apart are added before they are added to others. */
INLINE vd block_sum(const float *x, ptrdiff_t count, ptrdiff_t y, ptrdiff_t ahead, const reference *m, float *kept, writing *last,
                    vd *apart, float base)
{
    vf high = all_f(0.0f), low = high;
    vd sum = all_d(0.0); /* of groups: the slopes of a row whose mass lies in few classes would show more roundings */
    const ptrdiff_t special = y >= 0 && y < count ? y / GROUP * GROUP : -1;
    const float *e = 0;
    float *out = 0;
    ptrdiff_t write = 0; /* from here on nothing is written */
    vf factor = all_f(0.0f), rest = factor, plus = factor;
    if (last && last->out) {
        write = (last->most - last->done) / GROUP * GROUP;
        if (write > (count + GROUP - 1) / GROUP * GROUP) write = (count + GROUP - 1) / GROUP * GROUP;
        e = last->e + last->done;
        out = (float *)last->out + last->done;
        factor = all_f(last->factor), rest = all_f(last->low), plus = all_f(last->plus);
        last->done += write;
    }
    for (ptrdiff_t i = 0; i < count; i += GROUP) {
        vf z[4] = {all_f(0.0f), all_f(0.0f), all_f(0.0f), all_f(0.0f)};
        if (last && i < write)
            for (int k = 0; k < 4; k++) {
                vf p = load_f(e + i + k * W);
                stream_f(out + i + k * W, mad_f(p, factor, mad_f(p, rest, plus)));
            }
        vf v[4];
        if (__builtin_expect(i == special || i + GROUP > count, 0)) /* the target's group, and the last: what doesn't count is -inf */
            for (int k = 0; k < 4; k++) {
                const ptrdiff_t left = count - i - k * W;
                v[k] = load_without(x + i + k * W, left, y - i - k * W);
                if (apart && left > 0) {
                    const vf there = left < W ? load_part_f(x + i + k * W, left) : load_f(x + i + k * W);
                    z[k] = left < W ? select_f(first_f(left), there - base, all_f(0.0f)) : there - base;
                }
            }
        else {
            for (int k = 0; k < GROUP; k += 16) __builtin_prefetch(x + i + ahead + k);
            for (int k = 0; k < 4; k++) {
                v[k] = load_f(x + i + k * W);
                if (apart) z[k] = v[k] - base;
            }
        }
        vf s[4];
        for (int k = 0; k < 4; k++)
            if (kept) {
                s[k] = exp_over_f(v[k], m, 1, 0);
                store_f(kept + i + k * W, s[k]);
            } else
                s[k] = high_exp_f(v[k], m, EVERY, &low, 0, 0);
        if (kept)
            sum += as_doubles((s[0] + s[1]) + (s[2] + s[3]));
        else
            high += (s[0] + s[1]) + (s[2] + s[3]);
        if (apart) *apart += as_doubles((z[0] + z[1]) + (z[2] + z[3]));
    }
    return kept ? sum : as_doubles(high) + as_doubles(low);
}
/* What is left of a row on its way. */
static void write_rest(writing *w)
{
    if (!w->out) return;
    float *out = (float *)w->out;
    const vf factor = all_f(w->factor), low = all_f(w->low), plus = all_f(w->plus);
    ptrdiff_t i = w->done;
    for (; i + W <= w->most; i += W) stream_f(out + i, mad_f(load_f(w->e + i), factor, mad_f(load_f(w->e + i), low, plus)));
    for (; i < w->most; i++) out[i] = w->e[i] * w->factor + (w->e[i] * w->low + w->plus);
    w->out = 0;
}
/* Begin to write a row of floats: up to the first whole vector of the output at once. */
static writing begin(char *out, const float *e, double factor, double plus, ptrdiff_t classes)
{
    writing w = {e, out, (float)factor, (float)(factor - (float)factor), (float)plus, 0, classes};
    float *to = (float *)out;
    for (; (uintptr_t)(to + w.done) % (4 * W) && w.done < classes; w.done++)
        to[w.done] = e[w.done] * w.factor + (e[w.done] * w.low + w.plus);
    return w;
}
/* The same to anywhere, by the same operations. */
static void write_elsewhere(const softmax_array *a, char *to, const float *e, double factor, double plus, ptrdiff_t classes, float *block)
{
    const vf high = all_f((float)factor), low = all_f((float)(factor - (float)factor)), more = all_f((float)plus);
    for (ptrdiff_t b = 0; b < classes; b += BLOCK) {
        const ptrdiff_t part = classes - b < BLOCK ? classes - b : BLOCK;
        for (ptrdiff_t c = 0; c < part; c += W) { /* e has room for whole vectors */
            const vf v = load_f(e + b + c);
            store_f(block + c, mad_f(v, high, mad_f(v, low, more)));
        }
        scatter_f(to + b * a->c, block, a->c, a->type, part);
    }
}
/* A position whose label counts for nothing, or is bad. */
static void skip_row(const softmax_job *j, fast_scratch *x, ptrdiff_t i, ptrdiff_t n, ptrdiff_t s)
{
    x->others[i] = 1, x->target[i] = 0, x->m[i] = 0, x->mean[i] = 0;
    for (ptrdiff_t c = 0; j->grad.at && c < j->c && c < BLOCK; c++) x->rows.block[c] = x->label[i] == BAD ? NAN : 0.0f;
    for (ptrdiff_t b = 0; j->grad.at && b < j->c; b += BLOCK)
        scatter_f(place(&j->grad, n, s) + b * j->grad.c, x->rows.block, j->grad.c, j->grad.type, j->c - b < BLOCK ? j->c - b : BLOCK);
}
/* Scratch half a page from the row, against 4K aliasing: a load waits for a store whose address has the same low 12 bits. */
static float *apart_from(const void *row, float *room)
{
    const uintptr_t off = ((uintptr_t)row + 2048 - (uintptr_t)room) % 4096 / 64 * 64;
    return (float *)((char *)room + off);
}

/* All positions once more: those without a target were passed over. */
static void finish_rows(const softmax_job *j, fast_scratch *x, ptrdiff_t count, int wanted)
{
    x->redo.count = 0;
    if (wanted)
        finish(j, x, 0, count, 1);
    else
        finish(j, x, 0, count, 0);
}
/* Whether a row is finished with what is known of it. If not, softmax_f64() reads it again and writes its outputs: the logits must be left
   as they are, since the gradient may be written over them. */
INLINE int finished_row(const softmax_job *j, fast_scratch *x, ptrdiff_t i)
{
    const ptrdiff_t before = x->redo.count;
    finish(j, x, i, 1, 1);
    return x->redo.count == before;
}
static void rows(const softmax_job *j, ptrdiff_t first, ptrdiff_t count, fast_scratch *x)
{
    const ptrdiff_t classes = j->c;
    const int smoothed = j->smoothing != 0, wanted = j->grad.at || j->prob.at, direct = j->z.type == TYPE_F32 && j->z.c == 4;
    const int stream = j->stream && j->grad.at && j->grad.type == TYPE_F32 && j->grad.c == 4;
    writing last = {0};
    int turn = 0;
    ptrdiff_t n = first / j->s, s = first % j->s - 1;
    for (ptrdiff_t i = 0; i < count; i++) {
        if (++s == j->s) s = 0, n++;
        const int32_t y = x->label[i];
        const char *z = place(&j->z, n, s);
        if (y < 0) {
            skip_row(j, x, i, n, s);
            continue;
        }
        float target = 0;
        const float *at = (const float *)z;
        if (direct)
            target = at[y];
        else {
            gather_f(&target, z + y * j->z.c, 0, j->z.type, 1);
            gather_f(x->rows.block, z, j->z.c, j->z.type, W);
            at = x->rows.block;
        }
        if (x->cap.on) {
            target = capped_one(target, &x->cap.of);
            cap_floats(&x->cap.of, at, x->rows.block, 0, W);
            at = x->rows.block;
        }
        const vf head = load_without(at, classes, y);
        const float highest = top_f(head), base = lane_f(base_near(all_f(highest))), m = lane_f(power_near(all_f(highest)));
        const reference about = reference_of(m, wanted);
        float *kept = wanted ? apart_from(z, x->rows.kept[turn]) : 0;
        vd sum = all_d(0.0);
        vd apart = all_d(0.0);
        for (ptrdiff_t b = 0; b < classes; b += BLOCK) {
            const ptrdiff_t part = classes - b < BLOCK ? classes - b : BLOCK;
            const float *from = (const float *)z + b;
            if (!direct) gather_f(x->rows.block, z + b * j->z.c, j->z.c, j->z.type, part), from = x->rows.block;
            if (x->cap.on) cap_floats(&x->cap.of, from, x->rows.block, x->cap.bent ? x->cap.bent + b : 0, part), from = x->rows.block;
            if (smoothed && wanted)
                sum += block_sum(from, part, y - b, AHEAD, &about, kept + b, &last, &apart, base);
            else if (smoothed)
                sum += block_sum(from, part, y - b, AHEAD, &about, 0, 0, &apart, base);
            else if (!wanted)
                sum += block_sum(from, part, y - b, AHEAD, &about, 0, 0, 0, 0);
            else if (!last.out)
                sum += block_sum(from, part, y - b, AHEAD, &about, kept + b, 0, 0, 0);
            else
                sum += block_sum(from, part, y - b, AHEAD, &about, kept + b, &last, 0, 0);
        }
        x->others[i] = lane_d(others_of(all_d(sum_d(sum)), all_d((double)m), wanted));
        x->target[i] = (double)target, x->m[i] = (double)m;
        x->mean[i] = (double)base + sum_d(apart) / (double)classes;
        if (!wanted) continue;
        write_rest(&last);
        if (!finished_row(j, x, i)) continue;
        if (j->prob.at) {
            kept[y] = lane_f(exp_over_f(all_f(target), &about, 1, 0));
            write_elsewhere(&j->prob, place(&j->prob, n, s), kept, x->prob[i], 0, classes, x->rows.block);
        }
        kept[y] = (float)x->grad_at_target[i];
        double factor = x->grad[i], plus = x->plus[i];
        if (x->cap.bent) {
            bend_floats(kept, x->cap.bent, factor, plus, classes);
            factor = 1, plus = 0;
        }
        if (stream) {
            last = begin(place(&j->grad, n, s), kept, factor, plus, classes);
            turn ^= 1;
        } else if (j->grad.at)
            write_elsewhere(&j->grad, place(&j->grad, n, s), kept, factor, plus, classes, x->rows.block);
    }
    write_rest(&last);
    finish_rows(j, x, count, wanted);
}
#endif
