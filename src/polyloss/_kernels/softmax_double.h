/* Every case of the softmax loss, in double: any type, any stride, soft targets, smoothing, class weights, poly term, all outputs.
   Included by softmax_xent_rows.c. */
#ifndef POLYLOSS_SOFTMAX_DOUBLE_H
#define POLYLOSS_SOFTMAX_DOUBLE_H
#include <stdlib.h>
#include "softmax_arrays.h"
#include "softmax_steps.h"

typedef struct {
    ptrdiff_t room, at_once; /* doubles in a row of scratch; positions gathered together */
    double *z, *t, *grad, *prob, *hess; /* at_once rows each; the last four only where needed */
    double *e, *k; /* one row */
    int32_t *label;
} general_scratch;

static ptrdiff_t general_room(const softmax_job *j) { return (j->c + 4 * WD) / (4 * WD) * (4 * WD); }
static ptrdiff_t general_at_once(const softmax_job *j)
{
    if (llabs(j->z.c) <= llabs(j->z.s) || j->s == 1) return 1;
    ptrdiff_t fit = 65536 / general_room(j); /* half a megabyte for each array */
    return fit < 1 ? 1 : fit > ROWS_AT_ONCE ? ROWS_AT_ONCE : fit;
}
static ptrdiff_t general_layout(const softmax_job *j, char *at, general_scratch *x)
{
    double *d = (double *)at;
    x->room = general_room(j);
    x->at_once = general_at_once(j);
    ptrdiff_t block = x->room * x->at_once;
    double **want[] = {&x->z, j->soft ? &x->t : 0, j->grad.at ? &x->grad : 0, j->prob.at ? &x->prob : 0, j->hess.at ? &x->hess : 0};
    x->t = x->grad = x->prob = x->hess = 0;
    for (int i = 0; i < 5; i++)
        if (want[i]) *want[i] = d, d += block;
    x->e = d, d += x->room;
    x->k = j->class_weight.at ? d : 0, d += j->class_weight.at ? x->room : 0;
    x->label = (int32_t *)d, d += ROWS_AT_ONCE;
    return (char *)d - at;
}

/* The top logit and, into e, exp(z - top); their sum without the top class. The rounding error of z - top goes along: without it a small
   p would be off by half of (top - z) units in its last place. z and e have room for whole vectors, z's filled with -inf. */
static double sum_of_others(const double *z, double *e, ptrdiff_t classes, ptrdiff_t *top)
{
    vd m0 = all_d(-(double)INFINITY), m1 = m0;
    for (ptrdiff_t c = 0; c < classes; c += 2 * WD) {
        m0 = max_d(m0, load_d(z + c));
        m1 = max_d(m1, load_d(z + c + WD));
    }
    const double m = top_d(max_d(m0, m1));
    ptrdiff_t a = 0;
    while (a < classes && !(z[a] == m)) a++;
    if (a == classes || !(m - m == 0)) { /* +inf, NaN, or all -inf */
        for (ptrdiff_t c = 0; c < classes; c++) e[c] = (double)NAN;
        *top = 0;
        return (double)NAN;
    }
    *top = a;
    const vd vm = all_d(m);
    vd sum = all_d(0.0), lost_sum = sum;
    for (ptrdiff_t b = 0; b < classes; b += 32 * WD) {
        vd s[4] = {all_d(0.0), all_d(0.0), all_d(0.0), all_d(0.0)};
        for (ptrdiff_t c = b; c < classes && c < b + 32 * WD; c += 4 * WD)
            for (int i = 0; i < 4; i++) {
                vd v = load_d(z + c + i * WD), d = v - vm, back = d - v, lost = (v - (d - back)) - (vm + back);
                vd p = exp_neg_d(d);
                store_d(e + c + i * WD, select_d(lt_d(all_d(-745.0), d), mad_d(p, lost, p), p)); /* lost is NaN where z is -inf */
                if (a < c + i * WD || a >= c + (i + 1) * WD) s[i] += load_d(e + c + i * WD);
            }
        vd part = ((s[0] + s[1]) + (s[2] + s[3])) - lost_sum, next = sum + part; /* compensated from block to block [Kahan 1965] */
        lost_sum = (next - sum) - part;
        sum = next;
    }
    double near = 0; /* the top class's neighbours */
    for (ptrdiff_t c = a / WD * WD; c < a / WD * WD + WD; c++) near += c == a ? 0 : e[c];
    return sum_d(sum) + near;
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
/* WD numbers at p, 0 in place of those from n on. */
INLINE vd up_to(const double *p, ptrdiff_t n) { return n < WD ? load_part_d(p, n) : load_d(p); }
/* One position: z (C,), e (C,) scratch, k (C,) or NULL; t (C,) or NULL with label y. Writes the outputs that aren't NULL. */
static double general_position(const softmax_job *j, const double *z, double *e, const double *k, const double *t, int32_t y, double w,
                               double upstream, double *grad, double *prob, double *hess, double *lse)
{
    const ptrdiff_t classes = j->c;
    ptrdiff_t a;
    const double others = sum_of_others(z, e, classes, &a), inverse = 1 / (1 + others), rest = others * inverse;
    const double above = log1p(others); /* lse - z[a] */
    const double keep = 1 - j->smoothing, spread = j->smoothing / (double)classes;
    const int plain = !t && j->smoothing == 0;
#define K(c) (k ? k[c] : 1.0)
#define T(c) (t ? t[c] : (c) == y ? 1.0 : 0.0)
#define KT(c) (K(c) * (keep * T(c) + spread))
    *lse = z[a] + above;
    if (prob) {
        for (ptrdiff_t c = 0; c < classes; c++) prob[c] = e[c] * inverse;
    }
    if (w == 0 || (!t && y < 0) || (plain && j->poly == 0 && K(y) == 0)) { /* skipped, whatever the logits hold */
        const double fill = !t && y == BAD ? (double)NAN : 0.0;
        for (ptrdiff_t c = 0; grad && c < classes; c++) grad[c] = fill;
        for (ptrdiff_t c = 0; hess && c < classes; c++) hess[c] = fill;
        return fill;
    }
    double loss = 0, sum_kt = 0, sum_t = 1, miss = 0; /* miss: sum t (1 - p) */
    if (plain) {
        sum_kt = K(y);
        loss = y == a ? 0 : sum_kt * (z[a] - z[y]);
    } else {
        lane_sums kt = {all_d(0.0), all_d(0.0)}, losses = kt, ts = kt;
        for (ptrdiff_t c = 0; c < classes; c += WD) {
            const ptrdiff_t left = classes - c;
            const vd v = t ? up_to(t + c, left) : all_d(0.0);
            vd w = keep * v + spread;
            w = k ? w * up_to(k + c, left) : left < WD ? select_d(first_d(left), w, all_d(0.0)) : w;
            add_lanes(&ts, v);
            add_lanes(&kt, w);
            add_lanes(&losses, times_d(w, z[a] - up_to(z + c, left)));
        }
        if (t) sum_t = across_lanes(&ts);
        sum_kt = across_lanes(&kt), loss = across_lanes(&losses);
        if (!t) sum_kt += keep * K(y), loss += y == a ? 0 : keep * K(y) * (z[a] - z[y]);
    }
    loss += sum_kt * above;
    if (others != others) loss = (double)NAN;
    if (j->poly != 0) {
        for (ptrdiff_t c = t ? 0 : y; c < (t ? classes : y + 1); c++) miss += T(c) * (c == a ? rest : 1 - e[c] * inverse);
        loss += j->poly * ((1 - sum_t) + miss);
    }
    const double scale = j->scale * w * upstream;
    if (grad && upstream == 0)
        for (ptrdiff_t c = 0; c < classes; c++) grad[c] = 0;
    else if (grad && plain && j->poly == 0) {
        const double factor = scale * sum_kt / (1 + others);
        for (ptrdiff_t c = 0; c < classes; c++) grad[c] = factor * e[c];
        grad[y] = y == a ? -factor * others : factor * e[y] - scale * sum_kt;
    } else if (grad)
        for (ptrdiff_t c = 0; c < classes; c++) {
            const double p = e[c] * inverse, kt = KT(c);
            double g = c == a ? softmax_slope_top(rest, kt, sum_kt) : softmax_slope(p, kt, sum_kt);
            if (j->poly != 0) g += j->poly * poly_slope(p, (T(c) - sum_t) + miss);
            grad[c] = scale * g;
        }
    for (ptrdiff_t c = 0; hess && c < classes; c++) {
        const double p = e[c] * inverse, not_p = c == a ? rest : 1 - p;
        double h = softmax_curvature(p, not_p, sum_kt);
        if (j->poly != 0) h += j->poly * poly_curvature(p, not_p, (T(c) - sum_t) + miss);
        hess[c] = scale * h;
    }
    return w * loss;
#undef K
#undef T
#undef KT
}
static void general(const softmax_job *j, ptrdiff_t first, ptrdiff_t count, char *scratch, softmax_sums *sums)
{
    general_scratch x;
    general_layout(j, scratch, &x);
    const ptrdiff_t classes = j->c;
    if (x.k) gather_d(x.k, j->class_weight.at, j->class_weight.c, j->class_weight.type, classes);
    for (ptrdiff_t q = first, step; q < first + count; q += step) {
        const ptrdiff_t n = q / j->s, s = q % j->s;
        step = x.at_once;
        if (step > j->s - s) step = j->s - s;
        if (step > first + count - q) step = first + count - q;
        if (j->soft)
            gather_rows(x.t, x.room, place(&j->y, n, s), &j->y, classes, step);
        else
            read_labels(x.label, j, n, s, step);
        gather_rows(x.z, x.room, place(&j->z, n, s), &j->z, classes, step);
        for (ptrdiff_t i = 0; i < step; i++) {
            double *z = x.z + i * x.room, *t = j->soft ? x.t + i * x.room : 0, lse;
            const int32_t y = j->soft ? 0 : x.label[i];
            const double w = one(&j->weight, n, s + i), up = one(&j->upstream, n, s + i);
            for (ptrdiff_t c = classes; c < x.room; c++) z[c] = -(double)INFINITY;
#define ROW(name) (j->name.at ? x.name + i * x.room : 0)
            const double loss = general_position(j, z, x.e, x.k, t, y, w, up, ROW(grad), ROW(prob), ROW(hess), &lse);
#undef ROW
            put(&j->losses, n, s + i, loss);
            put(&j->lse, n, s + i, lse);
            if (y == IGNORED) continue;
            sums->total += loss;
            sums->count++;
            if (y == BAD) {
                if (sums->bad < 0) sums->bad = q + i;
                continue;
            }
            double k = x.k && !t ? x.k[y] : 1;
            if (t) {
                k = 0;
                for (ptrdiff_t c = 0; c < classes; c++) k += x.k ? x.k[c] * t[c] : t[c];
            }
            if (w != 0) sums->weight += w * k;
        }
#define DELIVER(name)                                                                                                                      \
    if (j->name.at) scatter_rows(place(&j->name, n, s), x.name, x.room, &j->name, classes, step)
        DELIVER(grad);
        DELIVER(prob);
        DELIVER(hess);
#undef DELIVER
    }
}
#endif
