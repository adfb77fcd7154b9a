/* Every case of the softmax loss, in double: any type, any stride, soft targets, smoothing, class weights, poly term, all outputs.
   Included by softmax_xent_rows.c.

   A vector holds one class of WD positions (columns), or WD classes of one position (a row): the loops over vectors are the same, only what
   is a number per position stands in every lane of a row. Few classes, and classes that lie apart while positions are neighbours in memory,
   go in columns: a panel (C, WD) of doubles is read from planes as it lies, or transposed from rows. Long rows of doubles are read in place.

   Pass 1 finds the top logit. Pass 2 takes the exponentials and adds up what the loss needs; they stay in the panel, or in a row of scratch,
   where an output is as large as the logits, and each output is a loop over them. The definitions are in softmax_steps.h.
   Exponentials are divided by 2^m, m = log2 of the top one rounded to a whole number, which only changes their exponents: exp(z - top) would
   lose |z - top| / 2 units in the last place to the subtraction. Logits far from 0 are taken relative to the top; those whose exponential
   is not 0 are then within a factor of 2 of it, and their difference is exact [Sterbenz 1974]. */
#ifndef POLYLOSS_SOFTMAX_DOUBLE_H
#define POLYLOSS_SOFTMAX_DOUBLE_H
#include "softmax_arrays.h"
#include "softmax_steps.h"

#define FEW_D 512 /* classes up to which rows are transposed: a panel of 32 KB with AVX-512 */
#define TOGETHER 64 /* positions whose labels and weights are read at once, a multiple of WD */
#define FAR_FROM_0 2048.0

/* ---- Vectors of doubles ---- */

/* exp(x) / 2^m, m whole and near x / ln 2 or above; 0 where x < low. */
INLINE vd exp_over_d(vd x, vd m, vd low)
{
#if W == 1
    if (!(x >= low)) return x < low ? 0 : x;
    const double n = floor(x * LOG2E_D + 0.5);
    return ldexp(exp(fma(n, -LN2_LO_D, fma(n, -LN2_HI_D, x))), (int)(n - m));
#elif W == 16
    const vd n = mad_d(x, all_d(LOG2E_D), all_d(ROUND_D)) - ROUND_D;
    const vd r = mad_d(n, all_d(-LN2_LO_D), mad_d(n, all_d(-LN2_HI_D), x));
    const __mmask8 kept = _mm512_cmp_pd_mask((__m512d)x, (__m512d)low, _CMP_NLT_UQ);
    return (vd)_mm512_maskz_scalef_pd(kept, (__m512d)exp_poly_d(r), (__m512d)(n - m));
#else /* as exp_scaled_d in vector_math.h */
    const vd d = max_d(low, x), u = mad_d(d, all_d(LOG2E_D), all_d(ROUND_D)), n = u - ROUND_D;
    const vd r = mad_d(n, all_d(-LN2_LO_D), mad_d(n, all_d(-LN2_HI_D), d));
    const vul shift = ((1023ull + 512) << 52) - ((vul)(m + ROUND_D) << 52);
    const vd t = exp_poly_d(r) * (vd)(((vul)u << 52) + shift);
    return t * (vd)(((1023ll - 512) << 52) & ~(vl)lt_d(x, low));
#endif
}

/* Sums in every lane with what their roundings lost [Knuth, TAOCP 2, 4.2.2]; where one is infinite that is no number and does not count. */
typedef struct {
    vd high, low;
} lane_sums;
INLINE void add_lanes(lane_sums *s, vd v)
{
    const vd t = s->high + v, b = t - s->high;
    s->low += (s->high - (t - b)) + (v - b);
    s->high = t;
}
INLINE double across_lanes(const lane_sums *s)
{
    sum_t sum = {0, 0};
    double high[WD], low[WD];
    store_d(high, s->high), store_d(low, s->low);
    for (int i = 0; i < WD; i++) add_to(&sum, high[i]), sum.low += low[i];
    return sum.low - sum.low == 0 ? sum.high + sum.low : sum.high;
}
/* The sum of each position: of a row, across the lanes and again in all of them. */
INLINE vd sums_of(const lane_sums *s, const int row)
{
    if (row) return all_d(across_lanes(s));
    return select_d(eq_d(s->low - s->low, all_d(0.0)), s->high + s->low, s->high);
}

/* WD vectors as a matrix, transposed: log2 WD times each of the first half is interleaved with one of the second. */
INLINE void interleave(vd *a, vd *b)
{
#if W == 16
    const __m512i low = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11), high = _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15);
    const __m512d x = (__m512d)*a, y = (__m512d)*b;
    *a = (vd)_mm512_permutex2var_pd(x, low, y), *b = (vd)_mm512_permutex2var_pd(x, high, y);
#elif W == 8
    const __m256d even = _mm256_unpacklo_pd((__m256d)*a, (__m256d)*b), odd = _mm256_unpackhi_pd((__m256d)*a, (__m256d)*b);
    *a = (vd)_mm256_permute2f128_pd(even, odd, 0x20), *b = (vd)_mm256_permute2f128_pd(even, odd, 0x31);
#elif W == 4
    const vd x = *a, y = *b;
    *a = (vd){x[0], y[0]}, *b = (vd){x[1], y[1]};
#else
    (void)a, (void)b;
#endif
}
INLINE void transpose_d(vd v[WD])
{
    for (int turn = 1; turn < WD; turn *= 2) {
        vd next[WD];
        for (int i = 0; i < WD / 2; i++) {
            next[2 * i] = v[i], next[2 * i + 1] = v[i + WD / 2];
            interleave(&next[2 * i], &next[2 * i + 1]);
        }
        for (int i = 0; i < WD; i++) v[i] = next[i];
    }
}

/* ---- Panels: columns of up to WD positions, (C, WD), from anywhere and back ---- */

typedef struct {
    char *at[WD]; /* where each position lies; of a panel that is not full, the last one again */
    int live, planes; /* positions; whether they are WD neighbours to be read together, class by class */
} places;
static places places_of(const softmax_job *j, const softmax_array *a, ptrdiff_t q, ptrdiff_t positions)
{
    places p = {.live = (int)(positions < WD ? positions : WD)};
    ptrdiff_t n = q / j->s, s = q % j->s;
    p.planes = p.live == WD && s + WD <= j->s && llabs(a->s) < llabs(a->c);
    for (int i = 0; i < WD; i++) {
        p.at[i] = place(a, n, s);
        if (i + 1 < p.live && ++s == j->s) s = 0, n++;
    }
    return p;
}
#define IN_BLOCK 64 /* classes of each position converted together */
#define FETCHED_D 512 /* bytes of a plane prefetched ahead */
static void pack_panel(double *to, const softmax_job *j, const softmax_array *a, ptrdiff_t q, ptrdiff_t positions)
{
    const ptrdiff_t classes = j->c;
    const places p = places_of(j, a, q, positions);
    if (p.planes) {
        for (ptrdiff_t c = 0; c < classes; c++) {
            const char *from = p.at[0] + c * a->c;
            __builtin_prefetch(from + FETCHED_D);
            if (a->type == TYPE_F64 && a->s == sizeof(double))
                store_d(to + c * WD, load_d((const double *)from));
            else
                gather_d(to + c * WD, from, a->s, a->type, WD);
        }
        return;
    }
    const int direct = a->type == TYPE_F64 && a->c == sizeof(double);
    for (ptrdiff_t b = 0; b < classes; b += IN_BLOCK) {
        const ptrdiff_t part = classes - b < IN_BLOCK ? classes - b : IN_BLOCK;
        double block[WD][IN_BLOCK];
        const double *row[WD];
        for (int i = 0; i < WD; i++) {
            const char *from = p.at[i] + b * a->c;
            row[i] = direct ? (const double *)from : block[i];
            if (!direct) gather_d(block[i], from, a->c, a->type, part);
        }
        for (ptrdiff_t c = 0; c < part; c += WD) {
            vd v[WD];
            if (c > part - WD && part >= WD) c = part - WD;
            for (int i = 0; i < WD; i++) v[i] = part < WD ? load_part_d(row[i] + c, part) : load_d(row[i] + c);
            transpose_d(v);
            for (int i = 0; i < WD && c + i < part; i++) store_d(to + (b + c + i) * WD, v[i]);
        }
    }
}
static void deliver_panel(const double *from, const softmax_job *j, const softmax_array *a, ptrdiff_t q, ptrdiff_t positions)
{
    const ptrdiff_t classes = j->c;
    const places p = places_of(j, a, q, positions);
    if (p.planes) {
        for (ptrdiff_t c = 0; c < classes; c++) {
            char *to = p.at[0] + c * a->c;
            if (a->type == TYPE_F64 && a->s == sizeof(double))
                store_d((double *)to, load_d(from + c * WD));
            else
                scatter_d(to, from + c * WD, a->s, a->type, WD);
        }
        return;
    }
    const int direct = a->type == TYPE_F64 && a->c == sizeof(double);
    for (ptrdiff_t b = 0; b < classes; b += IN_BLOCK) {
        const ptrdiff_t part = classes - b < IN_BLOCK ? classes - b : IN_BLOCK;
        double block[WD][IN_BLOCK];
        for (ptrdiff_t c = 0; c < part; c += WD) {
            vd v[WD];
            if (c > part - WD && part >= WD) c = part - WD;
            for (int i = 0; i < WD; i++) v[i] = c + i < part ? load_d(from + (b + c + i) * WD) : all_d(0.0);
            transpose_d(v);
            for (int i = 0; i < p.live; i++) {
                double *to = (direct ? (double *)p.at[i] + b : block[i]) + c;
                if (part < WD)
                    store_part_d(to, v[i], part);
                else
                    store_d(to, v[i]);
            }
        }
        for (int i = 0; !direct && i < p.live; i++) scatter_d(p.at[i] + b * a->c, block[i], a->c, a->type, part);
    }
}

/* ---- Positions in vectors ---- */

typedef struct {
    const double *z, *t, *k; /* n logits; n targets or NULL; k (C,) or NULL */
    double *e; /* n, in whole vectors, or NULL: nothing is kept; may be z */
    ptrdiff_t n; /* C of a row, C * WD of columns */
    vd y, target, k_y; /* where labels: the label, its logit and class weight, the latter two 0 where it is no class */
    vd w, upstream;
} vectors;
typedef struct {
    vd top, base, m, low; /* exp(z - base) / 2^m, 0 where z - base < low */
    vd top_e; /* that of the top logit */
    vd others, inverse, rest; /* without one top class; 1 / (top_e + others); others / (top_e + others) */
    vd sum_kt, sum_t, miss; /* miss: sum t (1 - p) */
    vd scale; /* of the derivatives */
    vd fill; /* in place of derivatives that are not shown */
    md shown;
    vd loss, lse, weight;
} positions_d;

/* The vector at p + i; a row's last may be a part, which `whole` says it is not. */
INLINE vd vector_at(const double *p, ptrdiff_t i, ptrdiff_t n, const int whole, double beyond)
{
    if (whole || i + WD <= n) return load_d(p + i);
    return select_d(first_d(n - i), load_part_d(p + i, n - i), all_d(beyond));
}
INLINE vd class_weights_at(const vectors *x, ptrdiff_t i, const int row, const int whole)
{
    if (!row) return all_d(x->k ? x->k[i / WD] : 1.0);
    if (x->k) return vector_at(x->k, i, x->n, whole, 0);
    return whole || i + WD <= x->n ? all_d(1.0) : select_d(first_d(x->n - i), all_d(1.0), all_d(0.0));
}
INLINE vd exp_at(const positions_d *s, vd z) { return exp_over_d(z - s->base, s->m, s->low); }

INLINE vd top_of(const vectors *x, const int row)
{
    const vd none = all_d(-(double)INFINITY);
    vd m[4] = {none, none, none, none};
    ptrdiff_t i = 0;
    for (; i + 4 * WD <= x->n; i += 4 * WD)
        for (int g = 0; g < 4; g++) m[g] = max_d(m[g], load_d(x->z + i + g * WD));
    for (; i < x->n; i += WD) m[0] = max_d(m[0], vector_at(x->z, i, x->n, !row, -(double)INFINITY));
    const vd top = max_d(max_d(m[0], m[1]), max_d(m[2], m[3]));
    return row ? all_d(top_d(top)) : top;
}

/* What pass 2 adds up: exponentials but those of top classes, which are counted; k t, t, and k t' (top - z), where targets are spread. */
typedef struct {
    lane_sums others, kt, t, losses;
    vd ties;
} class_sums;
/* G vectors in plain sums, those with compensation. */
INLINE void add_vectors(const softmax_job *j, const vectors *x, const positions_d *p, class_sums *s, ptrdiff_t i, const int row,
                        const int spread, const int whole, const int G)
{
    const vd zero = all_d(0.0);
    const double keep = 1 - j->smoothing, each = j->smoothing / (double)j->c;
    vd others = zero, sum_kt = zero, sum_t = zero, losses = zero;
    for (int g = 0; g < G; g++, i += WD) {
        const vd v = vector_at(x->z, i, x->n, whole, -(double)INFINITY), e = exp_at(p, v);
        const md is_top = eq_d(v, p->top);
        if (x->e) store_d(x->e + i, e);
        others += select_d(is_top, zero, e);
        s->ties += select_d(is_top, all_d(1.0), zero);
        if (!spread) continue;
        const vd t = x->t ? vector_at(x->t, i, x->n, whole, 0) : zero, k = class_weights_at(x, i, row, whole);
        if (x->t) sum_kt += k * t;
        if (x->t && x->k) sum_t += t;
        losses += times_d(k * (keep * t + each), p->top - v);
    }
    add_lanes(&s->others, others);
    if (!spread) return;
    add_lanes(&s->kt, sum_kt);
    add_lanes(&s->t, sum_t);
    add_lanes(&s->losses, losses);
}

/* 1 - p, from e = p (top_e + others); as exact where p is near 1. */
INLINE vd complement(const positions_d *p, vd e) { return select_d(le_d(p->top_e, e), p->rest, 1.0 - e * p->inverse); }

/* All that there is to know of the positions; sum_k: of all classes. */
INLINE void measure(const softmax_job *j, const vectors *x, positions_d *p, double sum_k, const int row, const int spread)
{
    const vd zero = all_d(0.0), one = all_d(1.0);
    p->top = top_of(x, row);
    p->base = select_d(lt_d(abs_d(p->top), all_d(FAR_FROM_0)), zero, p->top);
    p->m = mad_d(p->top - p->base, all_d(LOG2E_D), all_d(ROUND_D)) - ROUND_D;
    p->low = (p->m - 1077.0) * (LN2_HI_D + LN2_LO_D);
    p->top_e = exp_at(p, p->top);
    class_sums s = {{zero, zero}, {zero, zero}, {zero, zero}, {zero, zero}, zero};
    ptrdiff_t i = 0;
    for (; i + 4 * WD <= x->n; i += 4 * WD) add_vectors(j, x, p, &s, i, row, spread, 1, 4);
    for (; i < x->n; i += WD) add_vectors(j, x, p, &s, i, row, spread, !row, 1);
    const vd ties = row ? all_d(sum_d(s.ties)) : s.ties;
    p->others = sums_of(&s.others, row) + (ties - 1.0) * p->top_e + (p->top - p->top); /* NaN where the top is infinite */
    p->inverse = 1.0 / (p->top_e + p->others);
    p->rest = p->others * p->inverse;
    const vd above = log1p_d(p->others / p->top_e); /* lse - top */
    p->lse = p->top + above;

    vd sum_kt = x->k_y; /* of targets before they are smoothed */
    p->sum_t = one;
    p->loss = times_d(x->k_y, p->top - x->target);
    if (spread) {
        p->loss = sums_of(&s.losses, row);
        if (x->t) {
            sum_kt = sums_of(&s.kt, row);
            p->sum_t = x->k ? sums_of(&s.t, row) : sum_kt;
        } else
            p->loss += times_d((1 - j->smoothing) * x->k_y, p->top - x->target);
    }
    p->sum_kt = spread ? (1 - j->smoothing) * sum_kt + j->smoothing / (double)j->c * sum_k : sum_kt;
    p->loss += p->sum_kt * above;
    p->miss = zero;
    if (j->poly != 0) {
        lane_sums miss = {zero, zero};
        for (i = 0; x->t && i < x->n; i += WD)
            add_lanes(&miss, vector_at(x->t, i, x->n, !row, 0) * complement(p, vector_at(x->e, i, x->n, !row, 0)));
        p->miss = x->t ? sums_of(&miss, row) : complement(p, exp_at(p, x->target));
        p->loss += j->poly * ((1.0 - p->sum_t) + p->miss);
    }

    /* What is skipped, whatever the logits hold. */
    p->fill = zero;
    vd live = select_d(eq_d(x->w, zero), zero, one);
    p->weight = select_d(eq_d(live, one), x->w * sum_kt, zero);
    if (!x->t) {
        p->fill = select_d(eq_d(x->y, all_d((double)BAD)), all_d((double)NAN), zero);
        live = select_d(lt_d(x->y, zero), zero, live);
        p->weight = select_d(eq_d(live, one), p->weight, zero);
        if (!spread && j->poly == 0) live = select_d(eq_d(x->k_y, zero), zero, live);
    }
    p->loss = select_d(eq_d(live, one), x->w * p->loss, p->fill);
    p->scale = j->scale * x->w * x->upstream;
    p->shown = eq_d(select_d(eq_d(x->upstream, zero), zero, live), one);
}

enum { PROB, SLOPE_OF_LABEL, SLOPE, CURVATURE };
/* An output at some classes, from their exponentials, class weights and targets. A slope of a label without smoothing and poly term is
   a product, but at the label. */
INLINE vd output_at(const softmax_job *j, const positions_d *p, vd e, vd k, vd t, const int what)
{
    if (what == PROB) return e * p->inverse;
    if (what == SLOPE_OF_LABEL) return select_d(p->shown, e * (p->scale * p->sum_kt * p->inverse), p->fill);
    const vd prob = e * p->inverse, not_prob = complement(p, e);
    vd d;
    if (what == SLOPE) {
        const vd kt = k * ((1 - j->smoothing) * t + j->smoothing / (double)j->c);
        d = select_d(le_d(p->top_e, e), softmax_slope_top(p->rest, kt, p->sum_kt), softmax_slope(prob, kt, p->sum_kt));
        if (j->poly != 0) d += j->poly * poly_slope(prob, (t - p->sum_t) + p->miss);
    } else {
        d = softmax_curvature(prob, not_prob, p->sum_kt);
        if (j->poly != 0) d += j->poly * poly_curvature(prob, not_prob, (t - p->sum_t) + p->miss);
    }
    return select_d(p->shown, p->scale * d, p->fill);
}
INLINE void write_vectors(const softmax_job *j, const vectors *x, const positions_d *p, double *out, const int row, const int what)
{
    for (ptrdiff_t i = 0; i < x->n; i += WD) {
        const vd k = what >= SLOPE ? class_weights_at(x, i, row, !row) : all_d(1.0);
        const vd t = what >= SLOPE && x->t ? vector_at(x->t, i, x->n, !row, 0) : all_d(0.0);
        const vd v = output_at(j, p, load_d(x->e + i), k, t, what);
        if (!row || i + WD <= x->n)
            store_d(out + i, v);
        else
            store_part_d(out + i, v, x->n - i);
    }
}
/* An output at the labels, where the target is 1; out (C,) of a row or (C, WD). */
INLINE void write_labels(const softmax_job *j, const vectors *x, const positions_d *p, const int32_t *label, int positions, double *out,
                         const int row, const int what)
{
    const vd e = exp_at(p, x->target);
    vd v = output_at(j, p, e, x->k_y, all_d(1.0), what == SLOPE_OF_LABEL ? SLOPE : what);
    if (what == SLOPE_OF_LABEL) { /* K p - K, K = k_y */
        const vd factor = p->scale * p->sum_kt;
        v = select_d(le_d(p->top_e, e), -factor * p->rest, factor * (e * p->inverse) - factor);
        v = select_d(p->shown, v, p->fill);
    }
    double at_label[WD];
    store_d(at_label, v);
    for (int i = 0; i < positions; i++)
        if (label[i] >= 0) out[row ? label[i] : label[i] * WD + i] = at_label[i];
}

/* ---- A tile ---- */

typedef struct {
    double *z, *t, *out, *k; /* a panel or a row each, and (C,); t, out, k only where needed */
    double sum_k;
} general_scratch;
INLINE int in_columns(const softmax_job *j) { return j->c <= FEW_D || (j->s >= WD && llabs(j->z.s) < llabs(j->z.c)); }
static ptrdiff_t general_layout(const softmax_job *j, char *at, general_scratch *x)
{
    const ptrdiff_t row = (j->c + WD - 1) / WD * WD, room = in_columns(j) ? j->c * WD : row;
    double *d = (double *)at;
    x->z = d, d += room > row ? room : row;
    x->t = d, d += j->soft ? room > row ? room : row : 0;
    x->out = d, d += j->grad.at || j->prob.at || j->hess.at ? room > row ? room : row : 0;
    x->k = j->class_weight.at ? d : 0, d += j->class_weight.at ? row : 0;
    return (char *)d - at;
}
/* What is known of TOGETHER positions without their logits, and what becomes of them. */
typedef struct {
    int32_t label[TOGETHER];
    double y[TOGETHER], w[TOGETHER], upstream[TOGETHER], loss[TOGETHER], lse[TOGETHER];
} batch;
typedef struct {
    lane_sums loss, weight;
    vd count;
} tile_sums;
static void read_batch(const softmax_job *j, ptrdiff_t q, ptrdiff_t count, batch *b)
{
    for (int i = 0; i < TOGETHER; i++) b->label[i] = j->soft ? 0 : IGNORED, b->w[i] = b->upstream[i] = 1;
    for (ptrdiff_t i = 0, step; i < count; i += step) {
        const ptrdiff_t n = (q + i) / j->s, s = (q + i) % j->s;
        step = j->s - s < count - i ? j->s - s : count - i;
        if (!j->soft) read_labels(b->label + i, j, n, s, step);
        if (j->weight.at) gather_d(b->w + i, place(&j->weight, n, s), j->weight.s, j->weight.type, step);
        if (j->upstream.at) gather_d(b->upstream + i, place(&j->upstream, n, s), j->upstream.s, j->upstream.type, step);
    }
    for (int i = 0; i < TOGETHER; i++) b->y[i] = b->label[i];
}
static void write_batch(const softmax_job *j, const softmax_array *a, ptrdiff_t q, ptrdiff_t count, const double *from)
{
    for (ptrdiff_t i = 0, step; a->at && i < count; i += step) {
        const ptrdiff_t n = (q + i) / j->s, s = (q + i) % j->s;
        step = j->s - s < count - i ? j->s - s : count - i;
        scatter_d(place(a, n, s), from + i, a->s, a->type, step);
    }
}
INLINE int in_place(const softmax_array *a) { return a->type == TYPE_F64 && a->c == sizeof(double); }
/* One position in a row, or up to WD in columns: q is the first, i its place in the batch. */
INLINE void take(const softmax_job *j, const general_scratch *x, batch *b, ptrdiff_t q, int i, int positions, tile_sums *sums, const int row,
                 const int spread)
{
    const ptrdiff_t classes = j->c, n = q / j->s, s = q % j->s;
    const int outputs = j->grad.at || j->prob.at || j->hess.at;
    const int32_t *label = b->label + i;
    vectors v = {.z = x->z, .t = j->soft ? x->t : 0, .k = x->k, .n = row ? classes : classes * WD};
    if (!row) {
        pack_panel(x->z, j, &j->z, q, positions);
        if (j->soft) pack_panel(x->t, j, &j->y, q, positions);
    } else {
        if (in_place(&j->z))
            v.z = (const double *)place(&j->z, n, s);
        else
            gather_d(x->z, place(&j->z, n, s), j->z.c, j->z.type, classes);
        if (j->soft && in_place(&j->y))
            v.t = (const double *)place(&j->y, n, s);
        else if (j->soft)
            gather_d(x->t, place(&j->y, n, s), j->y.c, j->y.type, classes);
    }
    v.e = outputs || (j->soft && j->poly != 0) ? x->z : 0;
    double target[WD], k_y[WD];
    for (int l = 0; l < WD; l++) {
        const int32_t y = label[row ? 0 : l];
        const int known = !j->soft && y >= 0;
        target[l] = known ? v.z[row ? y : y * WD + l] : 0;
        k_y[l] = known ? x->k ? x->k[y] : 1 : 0;
    }
    v.y = row ? all_d(b->y[i]) : load_d(b->y + i);
    v.w = row ? all_d(b->w[i]) : load_d(b->w + i);
    v.upstream = row ? all_d(b->upstream[i]) : load_d(b->upstream + i);
    v.target = load_d(target);
    v.k_y = load_d(k_y);

    positions_d p;
    measure(j, &v, &p, x->sum_k, row, spread);
    const md there = first_d(positions);
    const vd zero = all_d(0.0), is_counted = select_d(eq_d(v.y, all_d((double)IGNORED)), zero, all_d(1.0));
    add_lanes(&sums->loss, select_d(there, p.loss, zero));
    add_lanes(&sums->weight, select_d(there, p.weight, zero));
    sums->count += select_d(there, is_counted, zero);
    if (row)
        b->loss[i] = lane_d(p.loss), b->lse[i] = lane_d(p.lse);
    else
        store_d(b->loss + i, p.loss), store_d(b->lse + i, p.lse);
#define OUTPUT(array, what, at_label)                                                                                                      \
    if (array.at) {                                                                                                                        \
        double *out = row && in_place(&array) ? (double *)place(&array, n, s) : x->out;                                                    \
        write_vectors(j, &v, &p, out, row, what);                                                                                          \
        if (at_label) write_labels(j, &v, &p, label, positions, out, row, what);                                                           \
        if (!row)                                                                                                                          \
            deliver_panel(out, j, &array, q, positions);                                                                                   \
        else if (out == x->out)                                                                                                            \
            scatter_d(place(&array, n, s), out, array.c, array.type, classes);                                                             \
    }
    OUTPUT(j->prob, PROB, 0)
    if (spread || j->poly != 0) {
        OUTPUT(j->grad, SLOPE, !j->soft)
    } else {
        OUTPUT(j->grad, SLOPE_OF_LABEL, 1)
    }
    OUTPUT(j->hess, CURVATURE, !j->soft && j->poly != 0)
#undef OUTPUT
}
static void take_row(const softmax_job *j, const general_scratch *x, batch *b, ptrdiff_t q, int i, int positions, tile_sums *sums)
{
    if (j->soft || j->smoothing != 0)
        take(j, x, b, q, i, positions, sums, 1, 1);
    else
        take(j, x, b, q, i, positions, sums, 1, 0);
}
static void take_columns(const softmax_job *j, const general_scratch *x, batch *b, ptrdiff_t q, int i, int positions, tile_sums *sums)
{
    if (j->soft || j->smoothing != 0)
        take(j, x, b, q, i, positions, sums, 0, 1);
    else
        take(j, x, b, q, i, positions, sums, 0, 0);
}
static void general(const softmax_job *j, ptrdiff_t first, ptrdiff_t count, char *scratch, softmax_sums *sums)
{
    const vd zero = all_d(0.0);
    general_scratch x;
    general_layout(j, scratch, &x);
    x.sum_k = (double)j->c;
    if (x.k) {
        gather_d(x.k, j->class_weight.at, j->class_weight.c, j->class_weight.type, j->c);
        const sum_t sum = sum_row_d(x.k, j->c);
        x.sum_k = sum.high + sum.low;
    }
    const int row = count == 1 || !in_columns(j);
    tile_sums tile = {{zero, zero}, {zero, zero}, zero};
    batch b;
    for (ptrdiff_t q = first, step; q < first + count; q += step) {
        step = first + count - q < TOGETHER ? first + count - q : TOGETHER;
        read_batch(j, q, step, &b);
        for (int i = 0; i < step; i += row ? 1 : WD)
            if (row)
                take_row(j, &x, &b, q + i, i, 1, &tile);
            else
                take_columns(j, &x, &b, q + i, i, (int)(step - i < WD ? step - i : WD), &tile);
        write_batch(j, &j->losses, q, step, b.loss);
        write_batch(j, &j->lse, q, step, b.lse);
        for (int i = 0; sums->bad < 0 && i < step; i++)
            if (b.label[i] == BAD) sums->bad = q + i;
    }
    sums->total += across_lanes(&tile.loss);
    sums->weight += across_lanes(&tile.weight);
    sums->count += (int64_t)sum_d(tile.count);
}
#endif
