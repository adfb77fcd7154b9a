/* The fast softmax loss of targets spread over the classes: soft targets, and labels smoothed under class weights.

   With w_c = k_c ((1 - e) t_c + e / C), the class weights k, the smoothing e, and a the top class in the target's place,
       loss = K log1p(odds) + sum over c of w_c (z_a - z_c),  K = sum of w_c,  slopes K p_c - w_c, at a (K - w_a) - K (1 - p_a)
   where no term of the loss is negative and K - w_a is summed as such: both keep their digits. A position is visited three times, in the
   cache after the first: for its top, for the exponentials, and for its targets; for slopes once more. */
#ifndef POLYLOSS_SOFTMAX_SOFT_TARGETS_H
#define POLYLOSS_SOFTMAX_SOFT_TARGETS_H
#include "cpu/softmax/columns_f32.h"
#include "cpu/softmax/rows_f32.h"

/* a * b + sum where a is not 0: an impossible class without a target counts for nothing. */
INLINE vf mad_unless_0_f(vf a, vf b, vf sum)
{
#if W == 16
    return (vf)_mm512_mask3_fmadd_ps((__m512)a, (__m512)b, (__m512)sum, _mm512_cmp_ps_mask((__m512)a, (__m512){0}, _CMP_NEQ_UQ));
#else
    return sum + times_f(a, b);
#endif
}
/* What the sums over the targets of positions i and on are made into: of w (z_a - z), of k t without the top class, and its k t and k. */
INLINE void finish_targets(fast_scratch *x, ptrdiff_t i, vd apart, vd others_kt, vd kt, vd k)
{
    const double keep = x->soft.keep, share = x->soft.share;
    const vd left = keep * others_kt + share * (x->soft.sum_k - k), sum_kt = left + (keep * kt + share * k), w = load_d(x->w + i);
    const md live = le_d(all_d(0.0), widen_i(x->label + i));
    store_d(x->soft.counted + i, select_d(live, times_d(others_kt + kt, w), all_d(0.0)));
    store_d(x->soft.left + i, left);
    store_d(x->soft.more + i, w * apart);
    store_d(x->w_k + i, w * sum_kt);
    store_d(x->g_k + i, load_d(x->g + i) * sum_kt);
}

/* ---- Columns ---- */

/* A sum that keeps what its roundings lost [Knuth, TAOCP 2, 4.2.2]. */
typedef struct {
    vf high, low;
} lane_sum_f;
INLINE void add_to_f(lane_sum_f *s, vf x)
{
    const vf t = s->high + x, back = t - s->high;
    s->low += (s->high - (t - back)) + (x - back);
    s->high = t;
}
/* t of class c at positions i and on, from soft targets (C, CHUNK) or labels. */
INLINE vf plane_target(const fast_scratch *x, ptrdiff_t first, ptrdiff_t c, ptrdiff_t i, const int soft)
{
    if (soft) return load_f(x->columns.targets + c * CHUNK + i);
    return zero_if(other_i(*(const vi_anywhere *)(x->label + first + i), (int32_t)c), all_f(1.0f));
}
/* The top class of each position and the sums around it, `kept` the exponentials (C, positions). Of 8 classes the sums are plain. */
INLINE void plane_spread_sums(const softmax_job *j, fast_scratch *x, ptrdiff_t first, ptrdiff_t count, int32_t *top, float *kept,
                              const int soft, const int weighted)
{
    const ptrdiff_t classes = j->c, positions = (count + W - 1) / W * W;
    const vf keep = all_f((float)x->soft.keep), share = all_f((float)x->soft.share);
    const reference zero = reference_of(0, !!kept);
    for (ptrdiff_t i = 0; i < count; i += W) {
        const float *z = x->columns.given + i;
        vf highest = load_f(z);
        vi a = all_i(0);
        for (ptrdiff_t c = 1; c < classes; c++) {
            const vf v = load_f(z + c * CHUNK);
            a = (vi)select_f(lt_f(highest, v), (vf)all_i((int32_t)c), (vf)a);
            highest = max_f(v, highest); /* a NaN: lost here, not in the sum */
        }
        *(vi_anywhere *)(top + i) = a;
        lane_sum_f others = {all_f(0.0f), all_f(0.0f)}, apart = others, others_kt = others;
        vf kt_top = others.low, k_top = all_f(1.0f);
        for (ptrdiff_t b = 0; b < classes; b += 8) {
            vf e_part = all_f(0.0f), e_low = e_part, apart_part = e_part, kt_part = e_part;
            for (ptrdiff_t c = b; c < classes && c < b + 8; c++) {
                const vf v = load_f(z + c * CHUNK), t = plane_target(x, first, c, i, soft), k = all_f(weighted ? x->soft.k[c] : 1.0f);
                const vf w = mad_f(t, keep, share), kt = weighted ? t * k : t;
                const lanes other = other_i(a, (int32_t)c);
                if (kept) {
                    const vf e = exp_over_f(v, &zero, 1, 0);
                    e_part = add_if(other, e_part, e);
                    store_f(kept + c * positions + i, e);
                } else
                    e_part += high_exp_f(v, &zero, other, &e_low, 1, 0);
                apart_part = mad_unless_0_f(weighted ? w * k : w, highest - v, apart_part);
                kt_part = add_if(other, kt_part, kt);
                kt_top = replace_if(other, kt, kt_top);
                if (weighted) k_top = replace_if(other, k, k_top);
            }
            add_to_f(&others, e_part);
            others.low += e_low;
            add_to_f(&apart, apart_part);
            add_to_f(&others_kt, kt_part);
        }
        const vf lanes_of[8] = {others.high, others.low, apart.high, apart.low, others_kt.high, others_kt.low, kt_top, k_top};
        float of[8][W], most[W];
        for (int l = 0; l < 8; l++) store_f(of[l], lanes_of[l]);
        store_f(most, highest);
        for (ptrdiff_t l = 0; l < W && i + l < count; l += WD) {
            const ptrdiff_t q = first + i + l;
            store_d(x->others + q, (widen(of[0] + l) + widen(of[1] + l)) * (kept ? 1 / KEPT : 1 / SUMMED));
            store_d(x->target + q, widen(most + l));
            store_d(x->m + q, all_d(0.0));
            finish_targets(x, q, widen(of[2] + l) + widen(of[3] + l), widen(of[4] + l) + widen(of[5] + l), widen(of[6] + l),
                           widen(of[7] + l));
        }
    }
}
/* From the exponentials the slopes (C, CHUNK): K g p - g w, at the top class what keeps its digits; 0 where g is. */
INLINE void plane_spread_slopes(const softmax_job *j, const fast_scratch *x, ptrdiff_t first, ptrdiff_t positions, const int32_t *top,
                                float *to, const int soft, const int weighted)
{
    const float *kept = x->columns.kept;
    const vf keep = all_f((float)x->soft.keep), share = all_f((float)x->soft.share);
    for (ptrdiff_t i = 0; i < positions; i += W) {
        float at_top[W];
        for (int l = 0; l < W; l += WD) narrow(at_top + l, load_d(x->grad_at_target + first + i + l));
        vf factor, low, minus_g, minus_low;
        split(x->grad + first + i, &factor, &low), split(x->plus + first + i, &minus_g, &minus_low);
        const vi a = *(const vi_anywhere *)(top + i);
        for (ptrdiff_t c = 0; c < j->c; c++) {
            vf w = mad_f(plane_target(x, first, c, i, soft), keep, share), e = load_f(kept + c * positions + i);
            if (weighted) w *= all_f(x->soft.k[c]);
            vf slope = mad_f(e, factor, mad_f(w, minus_g, mad_f(e, low, w * minus_low)));
            slope = replace_if(other_i(a, (int32_t)c), load_f(at_top), slope);
            store_f(to + c * CHUNK + i, select_f(eq_f(minus_g, all_f(0.0f)), all_f(0.0f), slope));
        }
    }
}
/* f(..., whether targets are soft, whether classes are weighted) with both as constants: each case gets loops of its own. */
#define WITH_TARGETS(f, j, x, ...)                                                                                                         \
    ((j)->soft ? (x)->soft.k ? f(j, x, __VA_ARGS__, 1, 1) : f(j, x, __VA_ARGS__, 1, 0) : f(j, x, __VA_ARGS__, 0, 1))
static void soft_target_columns(const softmax_job *j, ptrdiff_t first, ptrdiff_t count, fast_scratch *x)
{
    const ptrdiff_t classes = j->c;
    const int wanted = j->grad.at || j->prob.at;
    int32_t top[CHUNK];
    for (ptrdiff_t i = 0, step; i < count; i += step) {
        step = count - i < CHUNK ? count - i : CHUNK;
        const ptrdiff_t positions = (step + W - 1) / W * W;
        pack(x->columns.given, j, &j->z, first + i, step);
        cap_columns(x, classes, positions);
        if (j->soft) pack(x->columns.targets, j, &j->y, first + i, step);
        if (wanted)
            WITH_TARGETS(plane_spread_sums, j, x, i, step, top, x->columns.kept);
        else
            WITH_TARGETS(plane_spread_sums, j, x, i, step, top, 0);
        if (wanted)
            finish(j, x, i, step, 1);
        else
            finish(j, x, i, step, 0);
        if (j->prob.at) {
            plane_slopes(x->columns.given, CHUNK, x->columns.kept, positions, classes, positions, top, x->prob + i, 0, 0, x->columns.sums,
                         0);
            deliver(x->columns.given, j, &j->prob, first + i, step);
        }
        if (j->grad.at) {
            WITH_TARGETS(plane_spread_slopes, j, x, i, positions, top, x->columns.given);
            bend_columns(x, classes, positions);
            deliver(x->columns.given, j, &j->grad, first + i, step);
        }
    }
}

/* ---- Rows ---- */

/* The class of the largest of `count` logits; any class where one is NaN. */
static ptrdiff_t row_top(const float *z, ptrdiff_t count)
{
    float most = -INFINITY;
    ptrdiff_t block = 0;
    for (ptrdiff_t b = 0; b < count; b += BLOCK) {
        vf m[4] = {all_f(-INFINITY), all_f(-INFINITY), all_f(-INFINITY), all_f(-INFINITY)};
        const ptrdiff_t end = count - b < BLOCK ? count - b : BLOCK;
        ptrdiff_t i = 0;
        for (; i + GROUP <= end; i += GROUP)
            for (int l = 0; l < 4; l++) {
                if (l * W % 16 == 0) __builtin_prefetch(z + b + i + l * W + AHEAD);
                m[l] = max_f(m[l], load_f(z + b + i + l * W));
            }
        for (; i < end; i += W) m[0] = max_f(m[0], load_without(z + b + i, end - i, -1));
        const float top = top_f(max_f(max_f(m[0], m[1]), max_f(m[2], m[3])));
        if (top > most) most = top, block = b;
    }
    for (ptrdiff_t i = block; i < count; i += W)
        for (ptrdiff_t l = 0; l < W && any_f(eq_f(load_without(z + i, count - i, -1), all_f(most))); l++)
            if (i + l < count && z[i + l] == most) return i + l;
    return 0;
}
/* The sums over the targets of one position, t NULL with labels; its block of classes from b on, `count` of them. */
typedef struct {
    vd apart, others; /* of w (z_a - z), of k t without the top class */
} row_sums;
INLINE void block_targets(const fast_scratch *x, const float *z, const float *t, const float *k, ptrdiff_t count, ptrdiff_t a,
                          float highest, row_sums *sums)
{
    const vf keep = all_f((float)x->soft.keep), share = all_f((float)x->soft.share);
    vf apart[4] = {all_f(0.0f), all_f(0.0f), all_f(0.0f), all_f(0.0f)}, others[4] = {apart[0], apart[0], apart[0], apart[0]};
    const ptrdiff_t special = a >= 0 && a < count ? a / GROUP * GROUP : -1;
    for (ptrdiff_t i = 0; i < count; i += GROUP)
        for (int l = 0; l < 4; l++) {
            const ptrdiff_t at = i + l * W, left = count - at;
            vf v, kt = all_f(0.0f), w = share;
            if (__builtin_expect(i == special || i + GROUP > count, 0)) {
                if (left <= 0) break;
                v = left < W ? load_part_f(z + at, left) : load_f(z + at);
                if (t) kt = left < W ? load_part_f(t + at, left) : load_f(t + at);
                if (k) {
                    const vf f = left < W ? load_part_f(k + at, left) : load_f(k + at);
                    kt *= f, w *= f;
                }
                if (t) w = mad_f(kt, keep, w);
                if (left < W) w = select_f(first_f(left), w, all_f(0.0f));
                apart[l] = mad_unless_0_f(w, highest - v, apart[l]);
                float terms[W];
                store_f(terms, kt);
                if (a >= at && a < at + W) terms[a - at] = 0;
                others[l] += load_f(terms);
                continue;
            }
            v = load_f(z + at);
            if (t) {
                if (l * W % 16 == 0) __builtin_prefetch(t + at + AHEAD);
                kt = load_f(t + at);
            }
            if (k) {
                const vf f = load_f(k + at);
                kt *= f, w *= f;
            }
            if (t) w = mad_f(kt, keep, w);
            apart[l] = mad_unless_0_f(w, highest - v, apart[l]);
            if (t) others[l] += kt;
        }
    sums->apart += as_doubles((apart[0] + apart[1]) + (apart[2] + apart[3]));
    sums->others += as_doubles((others[0] + others[1]) + (others[2] + others[3]));
}
/* A class whose slope is known. */
typedef struct {
    ptrdiff_t c;
    float slope;
} known_slope;
/* out = e factor - g w over `count` classes; whole vectors past the caches where that is an output, not scratch to be read at once. */
INLINE void block_slopes(const fast_scratch *x, ptrdiff_t position, float *out, const float *e, const float *t, const float *k,
                         ptrdiff_t count, const known_slope *known, int knowns, int stream)
{
    const vf keep = all_f((float)x->soft.keep), share = all_f((float)x->soft.share);
    const double factor = x->grad[position], minus_g = x->plus[position];
    const vf f = all_f((float)factor), f_low = all_f((float)(factor - (float)factor));
    const vf g = all_f((float)minus_g), g_low = all_f((float)(minus_g - (float)minus_g));
    for (ptrdiff_t i = 0, step; i < count; i += step) {
        step = W - (ptrdiff_t)((uintptr_t)(out + i) / 4 % W);
        if (step > count - i) step = count - i;
#define LOAD(from) (step == W ? load_f(from + i) : load_part_f(from + i, step))
        vf w = share, kt = t ? LOAD(t) : all_f(0.0f), p = LOAD(e);
        if (k) {
            const vf v = LOAD(k);
            kt *= v, w *= v;
        }
#undef LOAD
        if (t) w = mad_f(kt, keep, w);
        p = mad_f(p, f, mad_f(w, g, mad_f(p, f_low, w * g_low)));
        for (int l = 0; l < knowns; l++)
            if (__builtin_expect((size_t)(known[l].c - i) < (size_t)step, 0)) {
                float slopes[W];
                store_f(slopes, p);
                slopes[known[l].c - i] = known[l].slope;
                p = load_f(slopes);
            }
        if (step == W && stream)
            stream_f(out + i, p);
        else
            store_part_f(out + i, p, step);
    }
}
static void soft_target_rows(const softmax_job *j, ptrdiff_t first, ptrdiff_t count, fast_scratch *x)
{
    const ptrdiff_t classes = j->c;
    const int wanted = j->grad.at || j->prob.at, in_place = j->z.type == TYPE_F32 && j->z.c == 4, soft = j->soft;
    const int targets_in_place = !soft || (j->y.type == TYPE_F32 && j->y.c == 4);
    const int direct = targets_in_place && j->grad.type == TYPE_F32 && j->grad.c == 4 && !x->cap.on;
    const ptrdiff_t next = in_place && j->s > 1 ? j->z.s / 4 : AHEAD; /* a row's exponentials take longer than to fetch the next row */
    ptrdiff_t n = first / j->s, s = first % j->s - 1;
    for (ptrdiff_t i = 0; i < count; i++) {
        if (++s == j->s) s = 0, n++;
        const int32_t y = x->label[i];
        if (y < 0) {
            skip_row(j, x, i, n, s);
            x->soft.counted[i] = 0;
            continue;
        }
        const float *z = (const float *)place(&j->z, n, s);
        if (!in_place) gather_f(x->rows.row, place(&j->z, n, s), j->z.c, j->z.type, classes), z = x->rows.row;
        if (x->cap.on) cap_floats(&x->cap.of, z, x->rows.row, x->cap.bent, classes), z = x->rows.row;
        const char *t = soft ? place(&j->y, n, s) : 0;
        const ptrdiff_t a = row_top(z, classes);
        const float highest = z[a], m = lane_f(power_near(all_f(highest)));
        const reference about = reference_of(m, wanted);
        float *kept = wanted ? apart_from(z, x->rows.kept[0]) : 0;
        vd sum = all_d(0.0);
        row_sums of_targets = {all_d(0.0), all_d(0.0)};
        for (ptrdiff_t b = 0; b < classes; b += BLOCK) {
            const ptrdiff_t part = classes - b < BLOCK ? classes - b : BLOCK;
            const float *block = (const float *)t + b, *k = x->soft.k ? x->soft.k + b : 0;
            if (!targets_in_place) gather_f(x->rows.block, t + b * j->y.c, j->y.c, j->y.type, part), block = x->rows.block;
            if (wanted)
                sum += block_sum(z + b, part, a - b, next, &about, kept + b, 0, 0, 0);
            else
                sum += block_sum(z + b, part, a - b, next, &about, 0, 0, 0, 0);
            if (soft && k)
                block_targets(x, z + b, block, k, part, a - b, highest, &of_targets);
            else if (soft)
                block_targets(x, z + b, block, 0, part, a - b, highest, &of_targets);
            else
                block_targets(x, z + b, 0, k, part, a - b, highest, &of_targets);
        }
        double apart = sum_d(of_targets.apart), others_kt = sum_d(of_targets.others), k_top = x->soft.k ? x->soft.k[a] : 1, kt = 0;
        if (soft) {
            float at_top = 0;
            gather_f(&at_top, t + a * j->y.c, 0, j->y.type, 1);
            kt = k_top * at_top;
        } else if (y == a)
            kt = k_top;
        else
            others_kt = x->soft.k[y], apart += x->soft.keep * x->soft.k[y] * ((double)highest - z[y]);
        x->others[i] = lane_d(others_of(all_d(sum_d(sum)), all_d((double)m), wanted)), x->target[i] = (double)highest, x->m[i] = (double)m;
        finish_targets(x, i, all_d(apart), all_d(others_kt), all_d(kt), all_d(k_top));
        if (!wanted || !finished_row(j, x, i)) continue;
        if (j->prob.at) {
            kept[a] = lane_f(exp_over_f(all_f(highest), &about, 1, 0));
            write_elsewhere(&j->prob, place(&j->prob, n, s), kept, x->prob[i], 0, classes, x->rows.block);
        }
        const ptrdiff_t size = direct ? classes : BLOCK;
        for (ptrdiff_t b = 0; j->grad.at && b < classes; b += size) {
            const ptrdiff_t part = classes - b < size ? classes - b : size;
            const int stream = direct && j->stream;
            char *to = place(&j->grad, n, s) + b * j->grad.c;
            const float *block = (const float *)t + b, *k = x->soft.k ? x->soft.k + b : 0;
            if (!targets_in_place) gather_f(x->rows.block, t + b * j->y.c, j->y.c, j->y.type, part), block = x->rows.block;
            float *slopes = direct ? (float *)to : x->rows.slopes;
            known_slope known[2] = {{a - b, (float)x->grad_at_target[i]}};
            if (soft && k)
                block_slopes(x, i, slopes, kept + b, block, k, part, known, 1, stream);
            else if (soft)
                block_slopes(x, i, slopes, kept + b, block, 0, part, known, 1, stream);
            else {
                known[1] = known[0]; /* the top class last: it may be the label */
                known[0] = (known_slope){y - b, (float)(kept[y] * x->grad[i] + x->plus[i] * x->soft.k[y] * (x->soft.keep + x->soft.share))};
                block_slopes(x, i, slopes, kept + b, 0, k, part, known, 2, stream);
            }
            if (x->cap.bent) bend_floats(slopes, x->cap.bent + b, 1, 0, part);
            if (!direct) scatter_f(to, slopes, j->grad.c, j->grad.type, part);
        }
    }
    finish_rows(j, x, count, wanted);
}
#endif
