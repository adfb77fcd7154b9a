/* Every case of the softmax loss, in double: any type, any stride, soft targets, smoothing, class weights, poly term, all outputs.
   Included by softmax_xent_simd.c.

   A vector holds one class of WD positions (columns), or WD classes of one position (a row): the loops over vectors are the same, only what
   is a number per position stands in every lane of a row. Few classes, and classes that lie apart while positions are neighbours in memory,
   go in columns: a panel (C, WD) of doubles is read from planes as it lies, or transposed from rows. Long rows of doubles are read in
   place.

   Pass 1 finds the top logit. Pass 2 takes the exponentials and adds up what the loss needs, and fetches what comes next; they stay in the
   panel, or in a row of scratch, where an output is as large as the logits, and each output is a loop over them. The definitions are in
   formulas/softmax.h. Exponentials are divided by 2^m, m = log2 of the top one rounded to a whole number, which only changes their
   exponents: exp(z - top) would lose |z - top| / 2 units in the last place to the subtraction. Logits far from 0 are taken relative to the
   top; those whose exponential is not 0 are then within a factor of 2 of it, and their difference is exact [Sterbenz 1974]. */
#ifndef POLYLOSS_SOFTMAX_GENERAL_H
#define POLYLOSS_SOFTMAX_GENERAL_H
#include "cpu/softmax/arrays.h"
#include "formulas/factor.h"
#include "formulas/softmax.h"

/* Classes up to which rows are transposed, and those of a position added one after another: rows of 64 would take twice as long as they
   lie, of 256 as long. */
#define FEW_D 128
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
#elif W == 16 /* x = (n + j/16) ln 2 + r; 2^(j/16) from a table in two registers; scalef takes the floor of n + j/16 */
    /* clang-format off */
    static const double sixteenths[16] __attribute__((aligned(64))) = {0x1p+0, 0x1.0b5586cf9890fp+0, 0x1.172b83c7d517bp+0,
        0x1.2387a6e756238p+0, 0x1.306fe0a31b715p+0, 0x1.3dea64c123422p+0, 0x1.4bfdad5362a27p+0, 0x1.5ab07dd485429p+0, 0x1.6a09e667f3bcdp+0,
        0x1.7a11473eb0187p+0, 0x1.8ace5422aa0dbp+0, 0x1.9c49182a3f090p+0, 0x1.ae89f995ad3adp+0, 0x1.c199bdd85529cp+0, 0x1.d5818dcfba487p+0,
        0x1.ea4afa2a490dap+0};
    /* clang-format on */
    const vd u = mad_d(x, all_d(LOG2E_D), all_d(ROUND_D / 16)), n = u - ROUND_D / 16;
    const vd r = mad_d(n, all_d(-LN2_LO_D), mad_d(n, all_d(-LN2_HI_D), x));
    const vd t = (vd)_mm512_permutex2var_pd(_mm512_load_pd(sixteenths), (__m512i)u, _mm512_load_pd(sixteenths + 8));
    vd q = mad_d(r, all_d(0x1.6c14cc2abf4c4p-10), all_d(0x1.11123aaf9dccap-7));
    q = mad_d(q, r, all_d(0x1.55555558f732fp-5));
    q = mad_d(q, r, all_d(0x1.555555548f879p-3));
    q = mad_d(q, r, all_d(0x1.fffffffffffb9p-2));
    const __mmask8 kept = _mm512_cmp_pd_mask((__m512d)x, (__m512d)low, _CMP_NLT_UQ);
    return (vd)_mm512_maskz_scalef_pd(kept, (__m512d)mad_d(t, mad_d(r * r, q, r), t), (__m512d)(n - m));
#else /* as exp_scaled_d in vector_math.h */
    const vd d = max_d(low, x), u = mad_d(d, all_d(LOG2E_D), all_d(ROUND_D)), n = u - ROUND_D;
    const vd r = mad_d(n, all_d(-LN2_LO_D), mad_d(n, all_d(-LN2_HI_D), d));
    const vul shift = ((1023ull + 512) << 52) - ((vul)(m + ROUND_D) << 52);
    const vd t = exp_poly_d(r) * (vd)(((vul)u << 52) + shift);
    return t * (vd)(((1023ll - 512) << 52) & ~(vl)lt_d(x, low));
#endif
}

/* Lanes that are not equal, NaN among them; and b added to a where a mask says so. */
#if W == 16
INLINE md ne_d(vd a, vd b) { return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_NEQ_UQ); }
INLINE vd add_if_d(md m, vd a, vd b) { return (vd)_mm512_mask_add_pd((__m512d)a, m, (__m512d)a, (__m512d)b); }
#else
INLINE md ne_d(vd a, vd b) { return a != b; }
INLINE vd add_if_d(md m, vd a, vd b) { return a + select_d(m, b, all_d(0.0)); }
#endif

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
INLINE void join_lanes(lane_sums *to, const lane_sums *s) /* as across_lanes() does */
{
    add_lanes(to, s->high);
    to->low += s->low;
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

INLINE int in_place(const softmax_array *a) { return a->type == TYPE_F64 && a->c == sizeof(double); } /* its classes, as doubles */
/* Whether WD neighbours are to be read together, class by class. */
INLINE int are_planes(const softmax_job *j, const softmax_array *a, ptrdiff_t q, ptrdiff_t positions)
{
    return positions >= WD && q % j->s + WD <= j->s && llabs(a->s) < llabs(a->c);
}
/* Where each position lies; of a panel that is not full, the last one again. */
INLINE void places_of(char *at[WD], const softmax_job *j, const softmax_array *a, ptrdiff_t q, ptrdiff_t positions)
{
    ptrdiff_t n = q / j->s, s = q % j->s;
    for (int i = 0; i < WD; i++) {
        at[i] = place(a, n, s);
        if (i + 1 < positions && ++s == j->s) s = 0, n++;
    }
}
/* Positions from q to where planes of doubles begin a line of the cache, if all do so at once; -1 where they don't, or where a vector is no
   line: a line streamed by parts costs four times as much. */
static ptrdiff_t to_line(const softmax_job *j, const softmax_array *a, ptrdiff_t q)
{
    const uintptr_t at = (uintptr_t)place(a, q / j->s, q % j->s);
    if (WD * sizeof(double) != 64 || a->type != TYPE_F64 || a->s != sizeof(double) || a->c % 64 || at % sizeof(double)) return -1;
    return (ptrdiff_t)(-at % 64 / sizeof(double));
}
#define IN_BLOCK 64 /* classes of each position converted together */
static void pack_panel(double *to, const softmax_job *j, const softmax_array *a, ptrdiff_t q, ptrdiff_t positions)
{
    const ptrdiff_t classes = j->c;
    if (are_planes(j, a, q, positions)) {
        const char *from = place(a, q / j->s, q % j->s);
        for (ptrdiff_t c = 0; c < classes; c++, from += a->c) {
            if (a->type == TYPE_F64 && a->s == sizeof(double))
                store_d(to + c * WD, load_d((const double *)from));
            else
                gather_d(to + c * WD, from, a->s, a->type, WD);
        }
        return;
    }
    const int direct = in_place(a);
    char *at[WD];
    places_of(at, j, a, q, positions);
    for (ptrdiff_t b = 0; b < classes; b += IN_BLOCK) {
        const ptrdiff_t part = classes - b < IN_BLOCK ? classes - b : IN_BLOCK;
        double block[WD][IN_BLOCK];
        const double *row[WD];
        for (int i = 0; i < WD; i++) {
            const char *from = at[i] + b * a->c;
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
static void deliver_panel(const double *from, const softmax_job *j, const softmax_array *a, ptrdiff_t q, ptrdiff_t positions, int stream)
{
    const ptrdiff_t classes = j->c;
    if (are_planes(j, a, q, positions)) {
        char *to = place(a, q / j->s, q % j->s);
        stream = stream && to_line(j, a, q) == 0;
        for (ptrdiff_t c = 0; c < classes; c++, to += a->c) {
            if (stream)
                stream_d((double *)to, load_d(from + c * WD));
            else if (a->type == TYPE_F64 && a->s == sizeof(double))
                store_d((double *)to, load_d(from + c * WD));
            else
                scatter_d(to, from + c * WD, a->s, a->type, WD);
        }
        return;
    }
    const int direct = in_place(a);
    char *at[WD];
    places_of(at, j, a, q, positions);
    for (ptrdiff_t b = 0; b < classes; b += IN_BLOCK) {
        const ptrdiff_t part = classes - b < IN_BLOCK ? classes - b : IN_BLOCK;
        double block[WD][IN_BLOCK];
        for (ptrdiff_t c = 0; c < part; c += WD) {
            vd v[WD];
            if (c > part - WD && part >= WD) c = part - WD;
            for (int i = 0; i < WD; i++) v[i] = c + i < part ? load_d(from + (b + c + i) * WD) : all_d(0.0);
            transpose_d(v);
            for (int i = 0; i < WD && i < positions; i++) {
                double *to = (direct ? (double *)at[i] + b : block[i]) + c;
                if (part < WD)
                    store_part_d(to, v[i], part);
                else
                    store_d(to, v[i]);
            }
        }
        for (int i = 0; !direct && i < WD && i < positions; i++) scatter_d(at[i] + b * a->c, block[i], a->c, a->type, part);
    }
}

/* ---- Positions in vectors ---- */

/* Addresses at a stride. */
typedef struct {
    const char *at;
    ptrdiff_t step;
} walk;
typedef struct {
    const double *z, *t, *k; /* n logits; n targets or NULL; k (C,) or NULL */
    double *e; /* n, in whole vectors, or NULL: nothing is kept; may be z */
    ptrdiff_t n; /* C of a row, C * WD of columns */
    walk next_z, next_t; /* what will be read next, fetched meanwhile */
    vd y, target, k_y; /* where labels: the label, its logit and class weight, the latter two 0 where it is no class */
    const double *slope, *bend; /* where logits are capped: first and second derivative of each, or NULL */
    vd slope_y, bend_y; /* those of the label */
    vd w;
} vectors;
typedef struct {
    vd top, base, m, low; /* exp(z - base) / 2^m, 0 where z - base < low */
    vd top_e; /* that of the top logit */
    vd sure; /* that again where its p is above 1/2, else infinite */
    vd others, inverse, rest; /* without one top class; 1 / (top_e + others); others / (top_e + others) */
    vd sum_kt, sum_t, met_far, met_near; /* sums of t p: where p is at most 1/2, and where it is more */
    vd pull; /* 2 z_loss lse, which multiplies p in the slopes: apart from sum_kt, of which it may be a small part or that overflows */
    vd scale; /* of the derivatives */
    double then[WD]; /* multiplies them, too; all 1 unless `odd` */
    int odd;
    vd fill; /* in place of derivatives that are not shown */
    md shown;
    vd loss, weight;
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

/* n logits capped, z = cap tanh(x / cap), in whole vectors; where asked the first derivative, 1 / cosh², which 1 - tanh² would lose to
   cancelling where it is small, and the second. With d = |x / cap| and e = exp(-d), tanh d = (1 - e²) / (1 + e²) and 1 / cosh² d =
   4 e² / (1 + e²)². */
static void cap_row(const softmax_job *j, const double *x, double *z, double *slope, double *bend, ptrdiff_t n)
{
    const vd cap = all_d(j->cap);
    for (ptrdiff_t i = 0; i < n; i += WD) {
        const vd v = n - i < WD ? load_part_d(x + i, n - i) : load_d(x + i), d = abs_d(v / cap);
        const vd t = tanh_d(d), capped = select_d(lt_d(v, all_d(0.0)), -(cap * t), cap * t);
        store_d(z + i, capped);
        if (!slope) continue;
        const vd e = exp_neg_d(-d), f = e / mad_d(e, e, all_d(1.0)), s = 4.0 * (f * f);
        store_d(slope + i, s);
        if (bend) store_d(bend + i, -2.0 * (capped / (cap * cap)) * s);
    }
}

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

/* Many classes in columns are added in the order of a row, whose lanes are the classes modulo WD: a position has the same bits however its
   batch is cut and lies in memory. */
INLINE int is_many(const vectors *x, const int row) { return !row && x->n > FEW_D * WD; }
/* What pass 2 adds up: exponentials but those of top classes, and how many; k t, t, and k t' (top - z), where targets are spread. */
typedef struct {
    lane_sums others, kt, t, losses;
    vd below;
} class_sums;
/* G vectors, `step` numbers apart, in plain sums, those with compensation. */
INLINE void add_vectors(const softmax_job *j, const vectors *x, const positions_d *p, class_sums *s, ptrdiff_t i, ptrdiff_t step,
                        const int row, const int soft_targets, const int whole, const int G)
{
    const vd zero = all_d(0.0);
    const double keep = 1 - j->smoothing, each = j->smoothing / (double)j->c;
    vd others = zero, sum_kt = zero, sum_t = zero, losses = zero;
    for (int g = 0; g < G; g++, i += step) {
        __builtin_prefetch(x->next_z.at + i / WD * x->next_z.step);
        const vd v = vector_at(x->z, i, x->n, whole, -(double)INFINITY), e = exp_at(p, v);
        const md below = ne_d(v, p->top);
        if (x->e) store_d(x->e + i, e);
        others = add_if_d(below, others, e);
        s->below = add_if_d(below, s->below, all_d(1.0));
        if (!soft_targets) continue;
        __builtin_prefetch(x->next_t.at + i / WD * x->next_t.step);
        const vd t = x->t ? vector_at(x->t, i, x->n, whole, 0) : zero, k = class_weights_at(x, i, row, whole);
        if (x->t) sum_kt += k * t;
        if (x->t && x->k) sum_t += t;
        losses += times_d(k * (keep * t + each), p->top - v);
    }
    add_lanes(&s->others, others);
    if (!soft_targets) return;
    add_lanes(&s->kt, sum_kt);
    add_lanes(&s->t, sum_t);
    add_lanes(&s->losses, losses);
}

/* 1 - p, from e = p (top_e + others); as exact where p is near 1. */
INLINE vd complement(const positions_d *p, vd e) { return select_d(le_d(p->top_e, e), p->rest, 1.0 - e * p->inverse); }

INLINE void add_up(const softmax_job *j, const vectors *x, positions_d *p, class_sums *s, const int row, const int soft_targets)
{
    const vd zero = all_d(0.0);
    p->top = top_of(x, row);
    p->base = select_d(lt_d(abs_d(p->top), all_d(FAR_FROM_0)), zero, p->top);
    p->m = mad_d(p->top - p->base, all_d(LOG2E_D), all_d(ROUND_D)) - ROUND_D;
    p->low = (p->m - 1077.0) * (LN2_HI_D + LN2_LO_D);
    p->top_e = exp_at(p, p->top);
    const class_sums none = {{zero, zero}, {zero, zero}, {zero, zero}, {zero, zero}, zero};
    class_sums sums = none;
    ptrdiff_t i = 0;
    if (is_many(x, row)) {
        class_sums lanes[WD];
        for (int l = 0; l < WD; l++) lanes[l] = none;
        for (; i + 4 * WD * WD <= x->n; i += 4 * WD * WD)
            for (int l = 0; l < WD; l++) add_vectors(j, x, p, &lanes[l], i + l * WD, WD * WD, row, soft_targets, 1, 4);
        for (; i < x->n; i += WD) add_vectors(j, x, p, &lanes[i / WD % WD], i, WD, row, soft_targets, 1, 1);
        for (int l = 0; l < WD; l++) {
            join_lanes(&sums.others, &lanes[l].others);
            join_lanes(&sums.kt, &lanes[l].kt);
            join_lanes(&sums.t, &lanes[l].t);
            join_lanes(&sums.losses, &lanes[l].losses);
            sums.below += lanes[l].below;
        }
        *s = sums;
        return;
    }
    for (; i + 4 * WD <= x->n; i += 4 * WD) add_vectors(j, x, p, &sums, i, WD, row, soft_targets, 1, 4);
    for (; i < x->n; i += WD) add_vectors(j, x, p, &sums, i, WD, row, soft_targets, !row, 1);
    *s = sums;
}
/* What multiplies the derivatives of positions of weights w, by factor.h where it is no normal number. */
INLINE void scale_of(const softmax_job *j, vd weight, positions_d *p)
{
    p->scale = j->scale * weight;
    const vd size = abs_d(p->scale);
    const md normal = AND_MASK(le_d(all_d(DBL_MIN), size), le_d(size, all_d(DBL_MAX)));
    p->odd = j->scale != 0 && !every_d(OR_MASK(normal, eq_d(weight, all_d(0.0))));
    if (!p->odd) return;
    double scale[WD], w[WD];
    store_d(scale, p->scale), store_d(w, weight);
    for (int l = 0; l < WD; l++) {
        const int whole = w[l] == 0 || (fabs(scale[l]) >= DBL_MIN && fabs(scale[l]) <= DBL_MAX);
        const split_factor of = whole ? (split_factor){scale[l], 1} : in_two(j->scale, w[l], DBL_MIN, 0x1p-1074);
        scale[l] = of.first, p->then[l] = of.rest;
    }
    p->scale = load_d(scale);
}
/* All else that there is to know of the positions; sum_k: of all classes. */
INLINE void finish_d(const softmax_job *j, const vectors *x, positions_d *p, const class_sums *s, double sum_k, const int row,
                     const int soft_targets)
{
    const vd zero = all_d(0.0), one = all_d(1.0);
    const double vectors_of = (double)((x->n + WD - 1) / WD);
    const vd ties = row ? all_d(vectors_of * WD - sum_d(s->below)) : vectors_of - s->below; /* top classes: all but one are others */
    p->others = sums_of(&s->others, row) + (ties - 1.0) * p->top_e + (p->top - p->top); /* NaN where the top is infinite */
    p->inverse = 1.0 / (p->top_e + p->others);
    p->rest = p->others * p->inverse;
    p->sure = select_d(lt_d(p->others, p->top_e), p->top_e, all_d((double)INFINITY));
    const vd above = log1p_d(p->others / p->top_e); /* lse - top */

    vd sum_kt = x->k_y; /* of targets before they are smoothed */
    p->sum_t = one;
    p->loss = times_d(x->k_y, p->top - x->target);
    if (soft_targets) {
        p->loss = sums_of(&s->losses, row);
        if (x->t) {
            sum_kt = sums_of(&s->kt, row);
            p->sum_t = x->k ? sums_of(&s->t, row) : sum_kt;
        } else
            p->loss += times_d((1 - j->smoothing) * x->k_y, p->top - x->target);
    }
    p->sum_kt = soft_targets ? times_d(all_d(1 - j->smoothing), sum_kt) + j->smoothing / (double)j->c * sum_k : sum_kt;
    if (soft_targets && x->t && j->c == 1) /* as slope_at has it: of a class alone nothing is to be left */
        p->sum_kt = class_weights_at(x, 0, row, !row) * ((1 - j->smoothing) * vector_at(x->t, 0, x->n, !row, 0) + j->smoothing);
    p->loss += p->sum_kt * above;
    p->pull = zero;
    if (j->z_loss != 0) {
        const vd lse = p->top + above;
        p->loss += j->z_loss * lse * lse;
        p->pull = 2 * j->z_loss * lse;
    }
    p->met_far = p->met_near = zero;
    if (j->poly != 0) {
        lane_sums miss = {zero, zero}, far = {zero, zero}, near = {zero, zero}; /* miss: of t (1 - p) */
        const ptrdiff_t n = x->t ? x->n : WD, lanes = x->t && is_many(x, row) ? WD : 1; /* a label is in every lane */
        for (ptrdiff_t l = 0; l < lanes; l++) {
            lane_sums miss_of = {zero, zero}, far_of = {zero, zero}, near_of = {zero, zero};
            for (ptrdiff_t i = l * WD; i < n; i += lanes * WD) {
                const vd t = x->t ? vector_at(x->t, i, x->n, !row, 0) : one;
                const vd e = x->t ? vector_at(x->e, i, x->n, !row, 0) : exp_at(p, x->target);
                const vd not_prob = complement(p, e), met = t * (e * p->inverse);
                add_lanes(&miss_of, t * not_prob);
                add_lanes(&far_of, select_d(le_d(p->sure, e), zero, met)); /* not by 1 - p < 1/2, which rounding makes of both of a tie */
                add_lanes(&near_of, select_d(le_d(p->sure, e), met, zero));
            }
            join_lanes(&miss, &miss_of), join_lanes(&far, &far_of), join_lanes(&near, &near_of);
        }
        const int summed = row && x->t;
        p->met_far = sums_of(&far, summed), p->met_near = sums_of(&near, summed);
        const vd rest = j->poly * ((1.0 - p->sum_t) + sums_of(&miss, summed));
        const md infinite = AND_MASK(lt_d(all_d(DBL_MAX), abs_d(rest)), lt_d(all_d(DBL_MAX), abs_d(p->loss)));
        p->loss += select_d(infinite, zero, rest); /* that of an impossible class is far above it */
    }

    /* What is skipped, whatever the logits hold. */
    p->fill = zero;
    vd live = select_d(eq_d(x->w, zero), zero, one);
    p->weight = select_d(eq_d(live, one), times_d(sum_kt, x->w), zero);
    if (!x->t) {
        p->fill = select_d(eq_d(x->y, all_d((double)BAD)), all_d((double)NAN), zero);
        live = select_d(lt_d(x->y, zero), zero, live);
        p->weight = select_d(eq_d(live, one), p->weight, zero);
        if (!soft_targets && j->poly == 0 && j->z_loss == 0) live = select_d(eq_d(x->k_y, zero), zero, live);
    }
    p->loss = select_d(eq_d(live, one), x->w * p->loss, p->fill);
    p->shown = eq_d(live, one);
    scale_of(j, select_d(p->shown, x->w, zero), p);
}

/* Σ t p over the other classes: what is not near is never taken from a sum with what is. */
INLINE vd met_by_others(const positions_d *p, vd e, vd prob, vd t)
{
    return select_d(le_d(p->sure, e), p->met_far, (p->met_far - t * prob) + p->met_near);
}
enum { PROB, SLOPE_OF_LABEL, SLOPE, CURVATURE, CAPPED, CAPPED_SLOPE = SLOPE + CAPPED, CAPPED_CURVATURE = CURVATURE + CAPPED };
/* A number rounded as it is: compilers that make one instruction of a product and a sum do so here or there, by what surrounds them. */
INLINE vd rounded_d(vd x)
{
    ROUNDED(x);
    return x;
}
INLINE vd slope_at(const softmax_job *j, const positions_d *p, vd e, vd prob, vd not_prob, vd k, vd t)
{
    const vd kt = rounded_d(times_d((1 - j->smoothing) * t + j->smoothing / (double)j->c, k)); /* an unseen class's k may be infinite */
    /* softmax_slope_top; its product is taken out of loops, and is then rounded by itself, but not where a row's last classes are alone. */
    const vd top = (p->sum_kt - kt) - rounded_d(p->sum_kt * p->rest);
    vd d = select_d(le_d(p->sure, e), top, softmax_slope(prob, kt, p->sum_kt));
    if (j->z_loss != 0) d += times_d(prob, p->pull);
    if (j->poly != 0) d -= j->poly * prob * poly_excess(t, not_prob, met_by_others(p, e, prob, t));
    return d;
}
/* An output at some classes; of capped logits, slope and bend are their derivatives. A slope of a label without smoothing, poly term and
   anything else is a product, but at the label. No loss has both a poly term and a term of lse². */
INLINE vd output_at(const softmax_job *j, const positions_d *p, vd e, vd k, vd t, vd slope, vd bend, const int what)
{
    if (what == PROB) return e * p->inverse;
    if (what == SLOPE_OF_LABEL) return select_d(p->shown, e * (p->scale * p->sum_kt * p->inverse), p->fill);
    const vd prob = e * p->inverse, not_prob = complement(p, e);
    vd d;
    if (what == SLOPE || what == CAPPED_SLOPE) {
        d = slope_at(j, p, e, prob, not_prob, k, t);
        if (what == CAPPED_SLOPE) d *= slope;
    } else if (j->poly != 0) {
        const vd others = met_by_others(p, e, prob, t), a = all_d(j->poly);
        d = select_d(lt_d(not_prob, all_d(0.5)), poly_curvature_near(prob, not_prob, t, others, a, p->sum_kt),
                     poly_curvature_far(prob, not_prob, t, others, a, p->sum_kt));
    } else {
        d = softmax_curvature(prob, not_prob, p->sum_kt);
        if (j->z_loss != 0) d += times_d(prob * not_prob, p->pull) + 2 * j->z_loss * (prob * prob);
        if (what == CAPPED_CURVATURE) d = d * (slope * slope) + slope_at(j, p, e, prob, not_prob, k, t) * bend;
    }
    return select_d(p->shown, p->scale * d, p->fill);
}
INLINE vd output_vector(const softmax_job *j, const vectors *x, const positions_d *p, ptrdiff_t i, const int row, const int whole,
                        const int what)
{
    const vd k = what >= SLOPE ? class_weights_at(x, i, row, whole) : all_d(1.0);
    const vd t = what >= SLOPE && x->t ? vector_at(x->t, i, x->n, whole, 0) : all_d(0.0);
    const vd slope = what > CAPPED ? load_d(x->slope + i) : all_d(1.0), bend = what == CAPPED_CURVATURE ? load_d(x->bend + i) : all_d(0.0);
    return output_at(j, p, load_d(x->e + i), k, t, slope, bend, what);
}
/* Products, where asked, go past the caches from the first whole line on; a vector begins before it, and one ends after the last. Not so
   what is more than a product: the compiler may round it otherwise in each place, and no bit is to depend on where an output lies. */
INLINE void write_vectors(const softmax_job *j, const vectors *x, const positions_d *p, double *out, const int stream, const int row,
                          const int what)
{
    ptrdiff_t i = 0;
    if (row && stream && what <= SLOPE_OF_LABEL && x->n >= 2 * WD && (uintptr_t)out % sizeof(double) == 0) {
        store_d(out, output_vector(j, x, p, 0, row, 1, what));
        for (i = WD - (ptrdiff_t)((uintptr_t)out / sizeof(double) % WD); i + WD <= x->n; i += WD)
            stream_d(out + i, output_vector(j, x, p, i, row, 1, what));
        if (i < x->n) store_d(out + x->n - WD, output_vector(j, x, p, x->n - WD, row, 1, what));
        return;
    }
    for (; i + WD <= x->n; i += WD) store_d(out + i, output_vector(j, x, p, i, row, 1, what));
    if (i < x->n) store_part_d(out + i, output_vector(j, x, p, i, row, 0, what), x->n - i);
}
/* Numbers of the labels' classes, in a row or in columns. */
INLINE void put_at_labels(double *to, vd v, const int32_t *label, ptrdiff_t positions, const int row)
{
    double at_label[WD];
    store_d(at_label, v);
    for (int i = 0; i < (row ? 1 : WD) && i < positions; i++)
        if (label[i] >= 0) to[row ? label[i] : label[i] * WD + i] = at_label[i];
}

/* ---- A tile ---- */

typedef struct {
    double *z, *t, *slope, *bend, *out, *k; /* a panel or a row each, and (C,); but for z only where needed */
    double sum_k;
    int stream; /* outputs are too large to be found in a cache by who reads them */
} general_scratch;
#define PANELS (TOGETHER / WD < 8 ? TOGETHER / WD : 8) /* at once, while they fit into the first-level cache */
INLINE int panels_of(const softmax_job *j)
{
    const ptrdiff_t fit = 32768 / ((j->c + 1) * WD * (ptrdiff_t)sizeof(double) * (j->soft ? 2 : 1));
    return fit < 1 ? 1 : fit > PANELS ? PANELS : (int)fit;
}
INLINE int in_columns(const softmax_job *j) { return j->c <= FEW_D || j->columns; }
static ptrdiff_t general_layout(const softmax_job *j, char *at, general_scratch *x)
{
    const ptrdiff_t row = (j->c + WD - 1) / WD * WD, panel = in_columns(j) && j->c * WD > row ? j->c * WD : row;
    const ptrdiff_t room = in_columns(j) ? panels_of(j) * panel : panel;
    double *d = (double *)at;
    x->z = d, d += room;
    x->t = d, d += j->soft ? room : 0;
    const int capped = j->cap != 0 && (j->grad.at || j->hess.at), bent = j->cap != 0 && j->hess.at;
    x->slope = capped ? d : 0, d += capped ? room : 0;
    x->bend = bent ? d : 0, d += bent ? room : 0;
    x->out = d, d += j->grad.at || j->prob.at || j->hess.at ? panel : 0;
    x->k = j->class_weight.at ? d : 0, d += j->class_weight.at ? row : 0;
    return (char *)d - at;
}
/* The classes of position q as doubles, where they lie or gathered into `room`. */
INLINE const double *row_of(const softmax_job *j, const softmax_array *a, ptrdiff_t q, double *room)
{
    const char *from = place(a, q / j->s, q % j->s);
    if (in_place(a)) return (const double *)from;
    gather_d(room, from, a->c, a->type, j->c);
    return room;
}
/* Where `ahead` positions behind q lie: planes, or a row that may wait in the second-level cache; else `any` place. */
INLINE walk next_of(const softmax_job *j, const softmax_array *a, ptrdiff_t q, ptrdiff_t ahead, const double *any, const int row)
{
    const char *from = place(a, q / j->s, q % j->s);
    if (row && in_place(a) && j->c <= 65536) return (walk){from + a->s, WD * sizeof(double)};
    if (!row && are_planes(j, a, q, WD)) return (walk){from + ahead * a->s, a->c};
    return (walk){(const char *)any, 0};
}
/* What is known of TOGETHER positions without their logits, and what becomes of them. */
typedef struct {
    int32_t label[TOGETHER];
    double y[TOGETHER], w[TOGETHER], loss[TOGETHER];
} batch;
typedef struct {
    lane_sums loss, weight;
    vd count;
} tile_sums;
static void read_batch(const softmax_job *j, ptrdiff_t q, ptrdiff_t count, batch *b)
{
    for (int i = 0; i < TOGETHER; i++) b->label[i] = j->soft ? 0 : IGNORED, b->w[i] = 1;
    for (ptrdiff_t i = 0, step; i < count; i += step) {
        const ptrdiff_t n = (q + i) / j->s, s = (q + i) % j->s;
        step = j->s - s < count - i ? j->s - s : count - i;
        if (!j->soft) read_labels(b->label + i, j, n, s, step);
        if (j->weight.at) gather_d(b->w + i, place(&j->weight, n, s), j->weight.s, j->weight.type, step);
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
/* One position in a row, or up to `panels` of WD in columns; q is the first, i its place in the batch. Panels are finished together: a
   division waits for the one before it in the same panel, but not for those of others. */
INLINE void process_panels(const softmax_job *j, const general_scratch *x, batch *b, ptrdiff_t q, int i, int positions, tile_sums *sums,
                           const int row, const int soft_targets)
{
    const ptrdiff_t classes = j->c, room = row ? classes : classes * WD;
    const int outputs = j->grad.at || j->prob.at || j->hess.at, panels = row ? 1 : (positions + WD - 1) / WD;
    vectors v[PANELS];
    positions_d p[PANELS];
    class_sums s[PANELS];
    for (int g = 0; g < panels; g++) {
        const int at = g * WD;
        const int32_t *label = b->label + i + at;
        double *z = x->z + g * room, *t = j->soft ? x->t + g * room : 0;
        v[g].z = z, v[g].t = t, v[g].k = x->k, v[g].n = room;
        v[g].next_z = next_of(j, &j->z, q + at, panels * WD, z, row);
        v[g].next_t = j->soft ? next_of(j, &j->y, q + at, panels * WD, t, row) : v[g].next_z;
        if (!row) {
            pack_panel(z, j, &j->z, q + at, positions - at);
            if (j->soft) pack_panel(t, j, &j->y, q + at, positions - at);
        } else {
            v[g].z = row_of(j, &j->z, q, z);
            if (j->soft) v[g].t = row_of(j, &j->y, q, t);
        }
        v[g].slope = x->slope ? x->slope + g * room : 0, v[g].bend = x->bend ? x->bend + g * room : 0;
        if (j->cap != 0) {
            cap_row(j, v[g].z, z, (double *)v[g].slope, (double *)v[g].bend, room);
            v[g].z = z;
        }
        v[g].e = outputs || (j->soft && j->poly != 0) ? z : 0;
        double target[WD], k_y[WD], slope_y[WD], bend_y[WD];
        for (int l = 0; l < WD; l++) {
            const int32_t y = label[row ? 0 : l];
            const int known = !j->soft && y >= 0;
            target[l] = known ? v[g].z[row ? y : y * WD + l] : 0;
            k_y[l] = known ? x->k ? x->k[y] : 1 : 0;
            slope_y[l] = known && v[g].slope ? v[g].slope[row ? y : y * WD + l] : 1;
            bend_y[l] = known && v[g].bend ? v[g].bend[row ? y : y * WD + l] : 0;
        }
        add_up(j, &v[g], &p[g], &s[g], row, soft_targets);
        v[g].target = load_d(target);
        v[g].k_y = load_d(k_y), v[g].slope_y = load_d(slope_y), v[g].bend_y = load_d(bend_y);
    }
    for (int g = 0; g < panels; g++) {
        const int at = i + g * WD;
        const vd zero = all_d(0.0);
        const md there = first_d(positions - g * WD < WD ? positions - g * WD : WD);
        v[g].y = row ? all_d(b->y[at]) : load_d(b->y + at);
        v[g].w = row ? all_d(b->w[at]) : load_d(b->w + at);
        finish_d(j, &v[g], &p[g], &s[g], x->sum_k, row, soft_targets);
        const vd is_counted = select_d(eq_d(v[g].y, all_d((double)IGNORED)), zero, all_d(1.0));
        add_lanes(&sums->loss, select_d(there, p[g].loss, zero));
        add_lanes(&sums->weight, select_d(there, p[g].weight, zero));
        sums->count += select_d(there, is_counted, zero);
        if (row)
            b->loss[at] = lane_d(p[g].loss);
        else
            store_d(b->loss + at, p[g].loss);
    }
    for (int g = 0; outputs && g < panels; g++) {
        const ptrdiff_t first = q + g * WD, left = positions - g * WD;
        const int32_t *label = b->label + i + g * WD;
#define OUTPUT(array, what, at_label)                                                                                                      \
    if (array.at) {                                                                                                                        \
        double *out = row && in_place(&array) ? (double *)place(&array, q / j->s, q % j->s) : x->out;                                      \
        write_vectors(j, &v[g], &p[g], out, x->stream && out != x->out, row, what);                                                        \
        if (at_label) {                                                                                                                    \
            const vd one = all_d(1.0);                                                                                                     \
            put_at_labels(out, output_at(j, &p[g], e, v[g].k_y, one, v[g].slope_y, v[g].bend_y, what), label, left, row);                  \
        }                                                                                                                                  \
        if (p[g].odd && what != PROB)                                                                                                      \
            for (ptrdiff_t k = 0; k < room; k++) out[k] *= p[g].then[k % WD];                                                              \
        if (!row)                                                                                                                          \
            deliver_panel(out, j, &array, first, left, x->stream);                                                                         \
        else if (out == x->out)                                                                                                            \
            scatter_d(place(&array, q / j->s, q % j->s), out, array.c, array.type, classes);                                               \
    }
        const vd e = j->soft ? all_d(0.0) : exp_at(&p[g], v[g].target);
        OUTPUT(j->prob, PROB, 0)
        if (j->cap != 0) {
            OUTPUT(j->hess, CAPPED_CURVATURE, !j->soft)
            OUTPUT(j->grad, CAPPED_SLOPE, !j->soft)
            continue;
        }
        OUTPUT(j->hess, CURVATURE, !j->soft && j->poly != 0)
        if (soft_targets || j->poly != 0 || j->z_loss != 0) {
            OUTPUT(j->grad, SLOPE, !j->soft)
        } else if (j->grad.at) { /* K (p - 1) at the label: a product, too, with what is e - (top_e + others) */
            const vd at_label = select_d(le_d(p[g].top_e, e), -p[g].others, e - (p[g].top_e + p[g].others));
            put_at_labels(v[g].e, at_label, label, left, row);
            OUTPUT(j->grad, SLOPE_OF_LABEL, 0)
        }
    }
#undef OUTPUT
}
static void take_row(const softmax_job *j, const general_scratch *x, batch *b, ptrdiff_t q, int i, tile_sums *sums)
{
    if (j->soft || j->smoothing != 0)
        process_panels(j, x, b, q, i, 1, sums, 1, 1);
    else
        process_panels(j, x, b, q, i, 1, sums, 1, 0);
}
static void take_columns(const softmax_job *j, const general_scratch *x, batch *b, ptrdiff_t q, int i, int positions, tile_sums *sums)
{
    if (j->soft || j->smoothing != 0)
        process_panels(j, x, b, q, i, positions, sums, 0, 1);
    else
        process_panels(j, x, b, q, i, positions, sums, 0, 0);
}
/* alone: one position that falls out of a batch, wherever its neighbours are. */
static void softmax_f64(const softmax_job *j, ptrdiff_t first, ptrdiff_t count, char *scratch, softmax_sums *sums, const int alone)
{
    const vd zero = all_d(0.0);
    general_scratch x;
    general_layout(j, scratch, &x);
    x.sum_k = (double)j->c;
    x.stream = j->stream && j->n * j->s * j->c > 1 << 17;
    if (x.k) {
        gather_d(x.k, j->class_weight.at, j->class_weight.c, j->class_weight.type, j->c);
        const sum_t sum = sum_row_d(x.k, j->c);
        x.sum_k = sum.high + sum.low;
    }
    const int row = alone || !in_columns(j), at_once = row ? 1 : panels_of(j) * WD;
    tile_sums tile = {{zero, zero}, {zero, zero}, zero};
    batch b;
    for (ptrdiff_t q = first, step; q < first + count; q += step) {
        step = first + count - q < TOGETHER ? first + count - q : TOGETHER;
        if (x.stream && !row && j->grad.at) { /* begin at a line */
            const ptrdiff_t off = to_line(j, &j->grad, q);
            if (off > 0 && off < step) step = off;
        }
        read_batch(j, q, step, &b);
        for (int i = 0; i < step; i += at_once)
            if (row)
                take_row(j, &x, &b, q + i, i, &tile);
            else
                take_columns(j, &x, &b, q + i, i, (int)(step - i < at_once ? step - i : at_once), &tile);
        write_batch(j, &j->losses, q, step, b.loss);
        for (int i = 0; sums->bad < 0 && i < step; i++)
            if (b.label[i] == BAD) sums->bad = q + i;
    }
    fence();
    sums->total += across_lanes(&tile.loss);
    sums->weights += across_lanes(&tile.weight);
    sums->count += (int64_t)sum_d(tile.count);
}
#endif
