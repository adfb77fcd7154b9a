/* The fast softmax loss where positions are neighbours in memory, or classes few: vectors of positions go through the classes, 4 at a time.

   Where positions are neighbours in memory (spatial labels) they are read in place, 4 planes beside each other as far as the tile goes,
   which the hardware's prefetcher follows, or for derivatives CHUNK positions, whose exponentials are kept; else, for few classes, rows
   are transposed into a tile first. The reference m is 0: a position with logits beyond what that bears is done again in
   double. */
#ifndef POLYLOSS_SOFTMAX_COLUMNS_H
#define POLYLOSS_SOFTMAX_COLUMNS_H
#include "cpu/softmax/many_planes_f32.h"

#if defined __SSE2__
/* Four vectors, whose 128-bit parts hold 4 x 4 numbers each, transposed part by part. */
INLINE void transpose4(vf v[4])
{
#if W == 16
#define UNPACK(lo_hi, type, a, b) _mm512_unpack##lo_hi##_##type(a, b)
    typedef __m512 ps;
    typedef __m512d pd;
#elif W == 8
#define UNPACK(lo_hi, type, a, b) _mm256_unpack##lo_hi##_##type(a, b)
    typedef __m256 ps;
    typedef __m256d pd;
#else
#define UNPACK(lo_hi, type, a, b) _mm_unpack##lo_hi##_##type(a, b)
    typedef __m128 ps;
    typedef __m128d pd;
#endif
    pd a = (pd)UNPACK(lo, ps, (ps)v[0], (ps)v[1]), b = (pd)UNPACK(lo, ps, (ps)v[2], (ps)v[3]);
    pd c = (pd)UNPACK(hi, ps, (ps)v[0], (ps)v[1]), d = (pd)UNPACK(hi, ps, (ps)v[2], (ps)v[3]);
    v[0] = (vf)UNPACK(lo, pd, a, b);
    v[1] = (vf)UNPACK(hi, pd, a, b);
    v[2] = (vf)UNPACK(lo, pd, c, d);
    v[3] = (vf)UNPACK(hi, pd, c, d);
#undef UNPACK
}
typedef float v4 __attribute__((vector_size(16)));
typedef float v4_anywhere __attribute__((vector_size(16), aligned(4)));
/* Rows of floats, `step` bytes apart, to columns and back, as many as make whole vectors; at least 4 classes. */
static void rows_to_columns(float *to, const char *from, ptrdiff_t step, ptrdiff_t classes, ptrdiff_t positions)
{
    for (ptrdiff_t k = 0; k + W <= positions; k += W, from += W * step)
        for (ptrdiff_t c = 0; c < classes; c += 4) {
            if (c > classes - 4) c = classes - 4;
            vf v[4];
            const char *at = from + 4 * c;
            for (int i = 0; i < 4; i++, at += step) {
                v4 part[W / 4];
                for (int b = 0; b < W / 4; b++) part[b] = *(const v4_anywhere *)(at + b * (4 * step));
#if W == 16
                __m512 a = _mm512_insertf32x4(_mm512_castps128_ps512((__m128)part[0]), (__m128)part[1], 1);
                v[i] = (vf)_mm512_insertf32x4(_mm512_insertf32x4(a, (__m128)part[2], 2), (__m128)part[3], 3);
#elif W == 8
                v[i] = (vf)_mm256_set_m128((__m128)part[1], (__m128)part[0]);
#else
                v[i] = (vf)part[0];
#endif
            }
            transpose4(v);
            for (int i = 0; i < 4; i++) store_f(to + (c + i) * CHUNK + k, v[i]);
        }
}
static void columns_to_rows(char *to, const float *from, ptrdiff_t step, ptrdiff_t classes, ptrdiff_t positions)
{
    for (ptrdiff_t k = 0; k + W <= positions; k += W)
        for (ptrdiff_t c = 0; c < classes; c += 4) {
            if (c > classes - 4) c = classes - 4;
            vf v[4];
            for (int i = 0; i < 4; i++) v[i] = load_f(from + (c + i) * CHUNK + k);
            transpose4(v);
            for (int i = 0; i < 4; i++)
                for (int b = 0; b < W / 4; b++) {
                    v4 part;
                    memcpy(&part, (const char *)&v[i] + 16 * b, 16);
                    *(v4_anywhere *)(to + (k + i + 4 * b) * step + 4 * c) = part;
                }
        }
}
#define TRANSPOSES 1
#else
#define TRANSPOSES 0
#endif
INLINE int by_transposition(const softmax_job *j, const softmax_array *a, ptrdiff_t q, ptrdiff_t positions)
{
    return TRANSPOSES && a->type == TYPE_F32 && a->c == 4 && j->c >= 4 && q % j->s + positions <= j->s;
}
/* Up to CHUNK positions from anywhere to columns and back; the rest of the last vector is 0. */
static void pack(float *to, const softmax_job *j, const softmax_array *a, ptrdiff_t q, ptrdiff_t positions)
{
    const ptrdiff_t classes = j->c;
    ptrdiff_t i = 0;
#if TRANSPOSES
    if (by_transposition(j, a, q, positions)) {
        rows_to_columns(to, place(a, q / j->s, q % j->s), a->s, classes, positions);
        i = positions / W * W;
    }
#endif
    for (ptrdiff_t c = 0; positions % W && c < classes; c++) store_f(to + c * CHUNK + positions / W * W, all_f(0.0f));
    for (ptrdiff_t step; i < positions; i += step) {
        const ptrdiff_t n = (q + i) / j->s, s = (q + i) % j->s;
        step = j->s - s < positions - i ? j->s - s : positions - i;
        const char *from = place(a, n, s);
        if (step > 1 && llabs(a->s) <= llabs(a->c))
            for (ptrdiff_t c = 0; c < classes; c++) gather_f(to + c * CHUNK + i, from + c * a->c, a->s, a->type, step);
        else
            for (ptrdiff_t k = 0; k < step; k++)
                for (ptrdiff_t b = 0; b < classes; b += FEW) {
                    float row[FEW];
                    const ptrdiff_t part = classes - b < FEW ? classes - b : FEW;
                    gather_f(row, from + k * a->s + b * a->c, a->c, a->type, part);
                    for (ptrdiff_t c = 0; c < part; c++) to[(b + c) * CHUNK + i + k] = row[c];
                }
    }
}
static void deliver(const float *from, const softmax_job *j, const softmax_array *a, ptrdiff_t q, ptrdiff_t positions)
{
    const ptrdiff_t classes = j->c;
    ptrdiff_t i = 0;
#if TRANSPOSES
    if (by_transposition(j, a, q, positions)) {
        columns_to_rows(place(a, q / j->s, q % j->s), from, a->s, classes, positions);
        i = positions / W * W;
    }
#endif
    for (ptrdiff_t step; i < positions; i += step) {
        const ptrdiff_t n = (q + i) / j->s, s = (q + i) % j->s;
        step = j->s - s < positions - i ? j->s - s : positions - i;
        char *to = place(a, n, s);
        if (step > 1 && llabs(a->s) <= llabs(a->c))
            for (ptrdiff_t c = 0; c < classes; c++) scatter_f(to + c * a->c, from + c * CHUNK + i, a->s, a->type, step);
        else
            for (ptrdiff_t k = 0; k < step; k++)
                for (ptrdiff_t b = 0; b < classes; b += FEW) {
                    float row[FEW];
                    const ptrdiff_t part = classes - b < FEW ? classes - b : FEW;
                    for (ptrdiff_t c = 0; c < part; c++) row[c] = from[(b + c) * CHUNK + i + k];
                    scatter_f(to + k * a->s + b * a->c, row, a->c, a->type, part);
                }
    }
}

/* The logits of a tile of columns capped, and their slopes from those of what was capped. */
static void cap_columns(const fast_scratch *x, ptrdiff_t classes, ptrdiff_t positions)
{
    for (ptrdiff_t at = 0; x->cap.on && at < classes * CHUNK; at += CHUNK)
        cap_floats(&x->cap.of, x->columns.given + at, x->columns.given + at, x->cap.bent ? x->cap.bent + at : 0, positions);
}
static void bend_columns(const fast_scratch *x, ptrdiff_t classes, ptrdiff_t positions)
{
    for (ptrdiff_t at = 0; x->cap.on && at < classes * CHUNK; at += CHUNK)
        bend_floats(x->columns.given + at, x->cap.bent + at, 1, 0, positions);
}

/* Positions through classes in planes, `step` floats apart: K planes from c on, added to what the planes before left in sum (5, positions):
   the sum of exp(z) without the target, its low part, the target's logit, where smoothed the sum of z - z_0 and its low part. Exponentials
   are kept in (C, positions) where asked. */
INLINE void add_planes(const float *z, ptrdiff_t step, ptrdiff_t c, ptrdiff_t classes, ptrdiff_t positions, const int32_t *label,
                       float *sum, float *kept, const int smoothed, const int K)
{
    const reference zero = reference_of(0, !!kept);
    for (ptrdiff_t i = 0; i < positions; i += W) {
        const float *at = z + c * step + i;
        vf part = all_f(0.0f), before = load_f(sum + i), low = load_f(sum + positions + i), pick = load_f(sum + 2 * positions + i);
        const vi lab = *(const vi_anywhere *)(label + i);
        const vf first = smoothed ? load_f(z + i) : all_f(0.0f);
        vf apart = all_f(0.0f);
        for (int k = 0; k < K; k++) {
            const ptrdiff_t ahead = i + FETCHED < positions ? FETCHED : c + K + k < classes ? K * step + FETCHED - positions : FETCHED;
            __builtin_prefetch(at + k * step + ahead);
            const vf v = load_f(at + k * step);
            const lanes other = other_i(lab, (int32_t)c + k);
            pick = replace_if(other, v, pick);
            if (smoothed) apart += v - first;
            if (kept) {
                vf e = exp_over_f(v, &zero, 1, 0);
                part = add_if(other, part, e);
                store_f(kept + (c + k) * positions + i, e);
            } else
                part += high_exp_f(v, &zero, other, &low, 1, 0);
        }
        /* K classes in plain sums, those with compensation [Kahan 1965]: one after another, 21 classes are 4 units off */
        const vf after = before + part;
        store_f(sum + i, after);
        store_f(sum + positions + i, low - ((after - before) - part));
        store_f(sum + 2 * positions + i, pick);
        if (smoothed) {
            const vf earlier = load_f(sum + 3 * positions + i), all = earlier + apart;
            store_f(sum + 3 * positions + i, all);
            store_f(sum + 4 * positions + i, load_f(sum + 4 * positions + i) - ((all - earlier) - apart));
        }
    }
}
INLINE void plane_sums(const float *z, ptrdiff_t step, ptrdiff_t classes, ptrdiff_t positions, const int32_t *label, float *sum,
                       double *others, double *target, double *mean, float *kept, const int smoothed)
{
    memset(sum, 0, (smoothed ? 5 : 3) * (size_t)positions * sizeof *sum);
    ptrdiff_t c = 0;
    for (; classes - c >= 4; c += 4) add_planes(z, step, c, classes, positions, label, sum, kept, smoothed, 4);
    if (c + 1 == classes) add_planes(z, step, c, classes, positions, label, sum, kept, smoothed, 1);
    if (c + 2 == classes) add_planes(z, step, c, classes, positions, label, sum, kept, smoothed, 2);
    if (c + 3 == classes) add_planes(z, step, c, classes, positions, label, sum, kept, smoothed, 3);
    for (ptrdiff_t i = 0; others && i < positions; i += WD) {
        if (smoothed) store_d(mean + i, widen(z + i) + (widen(sum + 3 * positions + i) + widen(sum + 4 * positions + i)) / (double)classes);
        store_d(others + i, (widen(sum + i) + widen(sum + positions + i)) * (kept ? 1 / KEPT : 1 / SUMMED));
        store_d(target + i, widen(sum + 2 * positions + i));
    }
}
/* kept times factor plus `plus`, with `grad_at_target` in place of kept at the target; where the factor is 0 (ignored positions), 0
   whatever was kept. Without the latter two for probabilities. Streamed past the caches where asked; room (4, positions). */
INLINE void plane_slopes(float *to, ptrdiff_t step, const float *kept, ptrdiff_t kept_step, ptrdiff_t classes, ptrdiff_t positions,
                         const int32_t *label, const double *factor, const double *plus, const double *grad_at_target, float *room,
                         const int stream)
{
    float *high = room, *low = room + positions, *at_target = room + 2 * positions, *added = room + 3 * positions;
    for (ptrdiff_t i = 0; i < positions; i += W) {
        vf a, b;
        split(factor + i, &a, &b);
        store_f(high + i, a), store_f(low + i, b);
        for (int k = 0; grad_at_target && k < W; k += WD)
            narrow(at_target + i + k, load_d(grad_at_target + i + k)), narrow(added + i + k, load_d(plus + i + k));
    }
    for (ptrdiff_t c = 0; c < classes; c++)
        for (ptrdiff_t i = 0; i < positions; i += W) {
            vf e = load_f(kept + c * kept_step + i);
            if (grad_at_target) e = replace_if(other_i(*(const vi_anywhere *)(label + i), (int32_t)c), load_f(at_target + i), e);
            const vf a = load_f(high + i), b = mad_f(e, load_f(low + i), grad_at_target ? load_f(added + i) : all_f(0.0f));
            const vf out = select_f(eq_f(a, all_f(0.0f)), all_f(0.0f), mad_f(e, a, b));
            float *at = to + c * step + i;
            if (stream)
                stream_f(at, out);
            else
                store_f(at, out);
        }
}

static void columns(const softmax_job *j, ptrdiff_t first, ptrdiff_t count, fast_scratch *x)
{
    const ptrdiff_t classes = j->c;
    const int wanted = j->grad.at || j->prob.at, in_place = is_planes(j), many = classes > FEW, smoothed = j->smoothing != 0;
    const int in_place_out = j->grad.at && j->grad.type == TYPE_F32 && j->grad.s == 4 && in_place;
    if (!x->summed && !many) memset(x->m, 0, (size_t)(count + CHUNK) * sizeof *x->m);
    for (ptrdiff_t i = 0, step; i < count; i += step) {
        const ptrdiff_t q = first + i, n = q / j->s, s = q % j->s, left = count - i < j->s - s ? count - i : j->s - s;
        int stream = 0, whole = in_place && left >= CHUNK && !x->cap.on;
        step = whole && !wanted ? left / CHUNK * CHUNK : count - i < CHUNK ? count - i : CHUNK;
        if (many && step > PLANES) step = PLANES;
        if (in_place_out && j->grad.c % 64 == 0) { /* begin at a line of the output: streamed by halves it would cost four times as much */
            const ptrdiff_t off = (ptrdiff_t)((uintptr_t)place(&j->grad, n, s) % 64) / 4;
            if (off && 16 - off < step) step = 16 - off, whole = 0;
            stream = !off;
        }
        const ptrdiff_t positions = (step + W - 1) / W * W;
        int32_t *label = x->label + i, after[CHUNK];
        if (step < positions) { /* lanes without a position */
            memcpy(after, label + step, (size_t)(positions - step) * sizeof *after);
            for (ptrdiff_t k = step; k < positions; k++) label[k] = IGNORED;
        }
        double *others = x->others + i, *target = x->target + i;
        float *kept = x->columns.kept;
        const float *z = x->columns.given;
        ptrdiff_t apart = CHUNK;
        if (whole)
            z = (const float *)place(&j->z, n, s), apart = j->z.c / 4;
        else {
            pack(x->columns.given, j, &j->z, q, step);
            cap_columns(x, classes, positions);
        }
        if (many && wanted)
            many_planes(z, apart, classes, positions, label, x, i, kept, smoothed);
        else if (many)
            many_planes(z, apart, classes, positions, label, x, i, 0, smoothed);
        else if (wanted && smoothed)
            plane_sums(z, apart, classes, positions, label, x->columns.sums, others, target, x->mean + i, kept, 1);
        else if (wanted)
            plane_sums(z, apart, classes, positions, label, x->columns.sums, others, target, 0, kept, 0);
        else if (smoothed)
            plane_sums(z, apart, classes, positions, label, x->columns.sums, others, target, x->mean + i, 0, 1);
        else
            plane_sums(z, apart, classes, positions, label, x->columns.sums, x->summed ? 0 : others, target, 0, 0, 0);
        if (wanted)
            finish(j, x, i, step, 1);
        else if (x->summed)
            add_losses(x, i, positions, x->columns.sums);
        else
            finish(j, x, i, step, 0);
        if (j->prob.at) {
            plane_slopes(x->columns.given, CHUNK, kept, positions, classes, positions, label, x->prob + i, 0, 0, x->columns.sums, 0);
            deliver(x->columns.given, j, &j->prob, q, step);
        }
        if (j->grad.at) {
            const int direct = in_place_out && whole;
            float *to = direct ? (float *)place(&j->grad, n, s) : x->columns.given;
            const ptrdiff_t to_step = direct ? j->grad.c / 4 : CHUNK;
            const double *grad = x->grad + i, *plus = x->plus + i, *grad_at_target = x->grad_at_target + i;
            if (direct && stream)
                plane_slopes(to, to_step, kept, positions, classes, positions, label, grad, plus, grad_at_target, x->columns.sums, 1);
            else
                plane_slopes(to, to_step, kept, positions, classes, positions, label, grad, plus, grad_at_target, x->columns.sums, 0);
            if (!direct) {
                bend_columns(x, classes, positions);
                deliver(to, j, &j->grad, q, step);
            }
        }
        if (step < positions) memcpy(label + step, after, (size_t)(positions - step) * sizeof *after);
    }
}
#endif
