/* One tile of positions of the fast softmax loss: its labels and weights, what its loops leave of each position, and how that is finished.

   With y the target, "others" is the sum over c != y of exp(z_c) / 2^m, in float32 lanes, blocks of them in double. Then
       odds = others 2^m / exp(z_y),  loss = log1p(odds),  1 - p_y = odds / (1 + odds),  p_c = exp(z_c) / 2^m * (what makes them add to 1)
   in double, a few operations per position: a confident row keeps its digits. The reference 2^m costs no rounding, since the exponential
   reduces z itself and only the power of two changes; exp(z - max) would lose |z - max| / 2 units in the last place to the subtraction.

   Smoothed by e, the loss is that of the target plus e (z_y - mean of z), and its slopes are p_c - e / C, at the target
   p_y - 1 + e - e / C. A position whose sum is not in range (an infinity, a NaN, a logit far above the reference) is noted, and done again
   by softmax_f64(). */
#ifndef POLYLOSS_SOFTMAX_TILE_H
#define POLYLOSS_SOFTMAX_TILE_H
#include "cpu/softmax/arrays.h"
#include "cpu/softmax/cap_f32.h"
#include "cpu/softmax/exp.h"
#include "cpu/softmax/job.h"

#define CHUNK (4 * W) /* positions in a tile of columns */
#define GROUP (4 * W) /* logits of a row taken together: four sums that don't wait for each other */
#define BLOCK (32 * W) /* logits summed in float32, 8 to each sum: with 32 the sum of a row was off by up to 4 units */
#define AHEAD 1024 /* logits prefetched ahead: the hardware stops at pages */
#define FETCHED 192 /* positions of a plane prefetched ahead */
#define PLANES (2 * CHUNK) /* positions of many planes taken together */
#define IN_PLACE_NUMBERS 11 /* of a position, in in_place_f32.h */
#define FAR 600.0 /* of a target below the reference: exp(600) 2^58, the largest sum in range, is a double */

/* What one thread works with: what every path needs, and by path what it alone needs. */
typedef struct {
    float *given, *targets; /* (C, CHUNK): logits and, on their way elsewhere, slopes; soft targets */
    float *kept; /* the exponentials, (C, positions) of at most CHUNK positions, where derivatives are wanted */
    float *sums; /* (5, positions): what add_planes() leaves; (4, positions) in plane_slopes(); in place (IN_PLACE_NUMBERS, positions) */
    double *many; /* what many_planes() works with */
} column_scratch;
typedef struct {
    float *block; /* (BLOCK,) logits, targets or slopes from or to elsewhere */
    float *kept[2]; /* (C,) the exponentials of a row and of the one before it, where derivatives are wanted */
    float *row, *slopes; /* of soft targets: (C,) a row from elsewhere; (BLOCK,) slopes on their way elsewhere */
} row_scratch;
typedef struct {
    double keep, share; /* 1 - e and e / C of the smoothing e; share of smoothed labels, too */
    float *k; /* (C,) class weights, or NULL */
    double sum_k; /* of all class weights */
    double *more, *left, *counted; /* (positions,): added to the loss; K - w_a; added to sums->weights */
} soft_scratch;
typedef struct {
    int on; /* whether logits are capped */
    cap_f of;
    float *bent; /* their derivatives, of a row or of a tile of columns, or NULL */
} cap_scratch;
typedef struct {
    int32_t *positions; /* in the tile, to be done again in double */
    ptrdiff_t count;
    char *scratch; /* general_scratch */
} redo_list;
typedef struct {
    int weighted, soft_targets;
    int summed; /* the losses alone are wanted, and those in one sum: `total` */
    double total;
    /* One for each position of the tile. */
    int32_t *label; /* SKIPPED where the weight is 0 */
    double *loss, *w, *g, *w_k, *g_k; /* its weights in the value and in the gradient, and those times the targets' weight */
    double *others, *target, *m; /* the sum without its target, the target's logit, the reference */
    double *mean; /* of its logits, where labels are smoothed */
    double *prob, *grad; /* factors that make p and the slopes of what is kept */
    double *plus, *grad_at_target; /* added to every slope, and what to multiply at the target; of soft targets: -g, and a slope */
    column_scratch columns; /* is_columns() */
    row_scratch rows; /* else */
    soft_scratch soft; /* has_soft_targets() */
    cap_scratch cap;
    redo_list redo;
} fast_scratch;
enum { SKIPPED = -3 };

INLINE int has_soft_targets(const softmax_job *j) { return j->soft || (j->smoothing != 0 && j->class_weight.at); }
INLINE int is_fast(const softmax_job *j)
{
    const int caps = j->cap == 0 || (j->cap > CAP_LEAST && j->cap < CAP_MOST);
    return !j->hess.at && j->z.type != TYPE_F64 && j->c > 1 && (j->poly == 0 || !(j->soft || j->smoothing != 0)) && caps;
}
/* Up to FEW classes all go in columns; of more, only planes do, by the loops that add in the order of rows: a position has the same bits
   however its batch is cut and lies in memory. */
INLINE int is_planes(const softmax_job *j) { return j->columns && j->z.type == TYPE_F32 && j->z.s == 4; }
INLINE int is_columns(const softmax_job *j) { return j->c <= FEW || (is_planes(j) && !has_soft_targets(j)); }
static ptrdiff_t fast_layout(const softmax_job *j, char *at, fast_scratch *x)
{
    double *d = (double *)at;
    double **doubles[] = {&x->loss,           &x->w,         &x->g,         &x->w_k,         &x->g_k,  &x->others,
                          &x->target,         &x->m,         &x->mean,      &x->prob,        &x->grad, &x->plus,
                          &x->grad_at_target, &x->soft.more, &x->soft.left, &x->soft.counted};
    const ptrdiff_t most = (softmax_tile(j) < j->n * j->s ? softmax_tile(j) : j->n * j->s) / CHUNK * CHUNK + 2 * CHUNK;
    for (size_t i = 0; i < sizeof doubles / sizeof *doubles; i++) *doubles[i] = d, d += most;
    x->columns.many = d, d += is_columns(j) && j->c > FEW ? (2 * WD + W + 2) * PLANES : 0;
    x->label = (int32_t *)d;
    x->redo.positions = x->label + most;
    x->redo.count = 0;
    float *f = (float *)(x->redo.positions + most);
    const int wanted = j->grad.at || j->prob.at;
    const ptrdiff_t row = (j->c + GROUP - 1) / GROUP * GROUP + 2048; /* the 2048: to be laid apart in a page */
    const int in_place = softmax_in_place(j);
    const ptrdiff_t tile = is_columns(j) && !in_place ? j->c * CHUNK : 0; /* 0: rows */
    x->soft_targets = has_soft_targets(j);
    x->rows.block = f, f += BLOCK + GROUP;
    if (in_place)
        x->columns.sums = f, f += IN_PLACE_NUMBERS * most;
    else if (tile) {
        x->columns.kept = f, f += wanted ? tile : 0;
        x->columns.given = f, f += tile;
        x->columns.targets = f, f += j->soft ? tile : 0;
        x->columns.sums = f, f += 5 * most;
    } else {
        x->rows.kept[0] = f, f += wanted ? row : 0;
        x->rows.kept[1] = f, f += wanted ? row : 0;
        x->rows.row = f, f += x->soft_targets ? row : 0;
        x->rows.slopes = f, f += x->soft_targets ? BLOCK : 0;
    }
    x->soft.k = x->soft_targets && j->class_weight.at ? f : 0, f += x->soft.k ? j->c : 0;
    x->cap.on = j->cap != 0, x->cap.of = cap_of(x->cap.on ? j->cap : 1);
    x->cap.bent = x->cap.on && j->grad.at && !in_place ? f : 0, f += !x->cap.bent ? 0 : tile ? tile : row;
    f += (f - (float *)at) % 2; /* doubles follow */
    x->redo.scratch = (char *)f;
    return (char *)f - at;
}

static void put_tile(const softmax_job *j, const softmax_array *a, ptrdiff_t first, ptrdiff_t count, const double *from)
{
    for (ptrdiff_t i = 0, step; a->at && i < count; i += step) {
        const ptrdiff_t n = (first + i) / j->s, s = (first + i) % j->s;
        step = j->s - s < count - i ? j->s - s : count - i;
        scatter_d(place(a, n, s), from + i, a->s, a->type, step);
    }
}
/* Labels and weights of the tile and of the classes, and the sums that need no logit. */
static void read_tile(const softmax_job *j, ptrdiff_t first, ptrdiff_t count, fast_scratch *x, softmax_sums *sums)
{
    for (ptrdiff_t i = 0, step; i < count; i += step) {
        const ptrdiff_t n = (first + i) / j->s, s = (first + i) % j->s;
        step = j->s - s < count - i ? j->s - s : count - i;
        if (j->soft)
            memset(x->label + i, 0, (size_t)step * sizeof *x->label);
        else
            read_labels(x->label + i, j, n, s, step);
    }
    x->soft.keep = 1 - j->smoothing, x->soft.share = j->smoothing / (double)j->c, x->soft.sum_k = (double)j->c;
    if (x->soft.k) {
        gather_f(x->soft.k, j->class_weight.at, j->class_weight.c, j->class_weight.type, j->c);
        x->soft.sum_k = 0;
        for (ptrdiff_t c = 0; c < j->c; c++) x->soft.sum_k += (double)x->soft.k[c];
    }
    int live = 0, bad = 0;
    for (ptrdiff_t i = 0; i < count; i++) live += x->label[i] != IGNORED, bad += x->label[i] == BAD;
    sums->count = live;
    sums->weights = (double)(live - bad);
    for (ptrdiff_t i = 0; bad && sums->bad < 0; i++)
        if (x->label[i] == BAD) sums->bad = first + i;
    const softmax_array *k = &j->class_weight;
    x->weighted = k->at || j->weight.at || x->soft_targets;
    x->summed = j->c <= FEW && !bad && !x->weighted && j->smoothing == 0 && j->poly == 0 && j->z_loss == 0;
    if (j->losses.at || j->grad.at || j->prob.at) x->summed = 0;
    x->total = 0;
    if (!x->weighted) return;
    sums->weights = 0;
    ptrdiff_t n = first / j->s, s = first % j->s - 1;
    for (ptrdiff_t i = 0; i < count; i++) {
        if (++s == j->s) s = 0, n++;
        const int32_t y = x->label[i];
        if (y < 0) continue;
        const double w = one(&j->weight, n, s), g = j->scale * w;
        const double ky = k->at && !x->soft_targets ? one(&(softmax_array){.at = k->at + y * k->c, .type = k->type}, 0, 0) : 1;
        if (w != 0 && ky != 0 && !x->soft_targets) sums->weights += w * ky;
        x->w[i] = w;
        x->g[i] = g;
        x->w_k[i] = w * ky;
        x->g_k[i] = g * ky;
        if (w == 0 || (ky == 0 && j->poly == 0 && j->z_loss == 0)) x->label[i] = SKIPPED;
    }
}

/* Of positions i, i+1, …, `count` at most, those that are to be done again: not 0 in `lost`. */
INLINE void note_again(fast_scratch *x, ptrdiff_t i, ptrdiff_t count, vd lost)
{
    double which[WD];
    store_d(which, lost);
    for (int l = 0; l < WD && l < count; l++)
        if (which[l] != 0) x->redo.positions[x->redo.count++] = (int32_t)(i + l);
}

/* exp(x), |x| <= FAR, and log(1 + x), 0 <= x: off by no more than 1e-8 of the result, which is enough for what becomes a float, in half
   of the time of those that are right to the last place of a double. */
INLINE vd quick_exp_d(vd x)
{
    vd u = mad_d(x, all_d(LOG2E_D), all_d(ROUND_D)), n = u - ROUND_D, r = mad_d(n, all_d(-LN2), x);
    vd p = mad_d(r, all_d(0x1.6a2435f4e8617p-10), all_d(0x1.1239e27dea5e8p-7));
    p = mad_d(p, r, all_d(0x1.5558f179f386fp-5));
    p = mad_d(p, r, all_d(0x1.55549154636f4p-3));
    p = mad_d(p, r, all_d(0x1.fffffb9a5d5c6p-2));
    p = 1.0 + mad_d(r * r, p, r);
#if W == 16
    return (vd)_mm512_scalef_pd((__m512d)p, (__m512d)n);
#else
    return p * (vd)(((vul)u << 52) + (1023ull << 52));
#endif
}
INLINE vd quick_log1p_d(vd x)
{
    /* 1 + x = 2^n (1 + f), log(1 + f) = 2 artanh(s), s = f / (2 + f) <= 1/3; where n = 0, f = x keeps its digits */
    vd u = 1.0 + x;
#if W == 16
    vd n = (vd)_mm512_getexp_pd((__m512d)u), f = (vd)_mm512_getmant_pd((__m512d)u, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_nan) - 1.0;
#else
    vd n = (vd)(((vul)u >> 52) | 0x4330000000000000) - (0x1p52 + 1023), f = (vd)(((vl)u & 0xfffffffffffff) | 0x3ff0000000000000) - 1.0;
#endif
    f = select_d(lt_d(u, all_d(2.0)), x, f);
    vd g = 2.0 + f;
#if W == 16
    vd inverse = (vd)_mm512_rcp14_pd((__m512d)g), s = f * inverse;
    s = mad_d(mad_d(-s, g, f), inverse, s);
#else
    vd s = f / g;
#endif
    vd z = s * s, p = mad_d(z, all_d(0x1.1ef7a57937736p-2), all_d(0x1.1eb641d827760p-2));
    p = mad_d(p, z, all_d(0x1.99d2780062cc9p-2));
    p = mad_d(p, z, all_d(0x1.5555004d3d87ap-1));
    p = mad_d(p, z, all_d(2.0));
    return mad_d(n, all_d(LN2), s * p);
}
/* The sum of the losses of positions i, i+1, …, where m is 0 and nothing else is wanted, from the sums of columns (3, positions) that
   add_planes leaves. 1 + odds are multiplied, so that eight vectors share a logarithm; what grows is the product less 1, in which small
   odds keep their digits. */
INLINE void add_losses(fast_scratch *x, ptrdiff_t i, ptrdiff_t positions, const float *sum)
{
    const vd none = all_d(0.0);
    vd total = none, grown = none;
    for (ptrdiff_t k = 0; k < positions; k += WD) {
        const vd others = (widen(sum + k) + widen(sum + positions + k)) * (1 / SUMMED), target = widen(sum + 2 * positions + k);
        const md live = le_d(none, widen_i(x->label + i + k));
        /* not NaN, not infinite, and no product of eight is */
        const md fine = AND_MASK(AND_MASK(le_d(all_d(0x1p-60), others), lt_d(others, all_d(0x1p58))), le_d(abs_d(target), all_d(48.0)));
        const vd odds = select_d(AND_MASK(live, fine), others * quick_exp_d(-target), none);
        grown = mad_d(grown, odds, odds) + grown;
        if (k % (8 * WD) == 7 * WD) total += quick_log1p_d(grown), grown = none;
        const vd lost = select_d(live, select_d(fine, none, all_d(1.0)), none);
        if (any_d(lt_d(none, lost))) note_again(x, i + k, WD, lost);
    }
    x->total += sum_d(total + quick_log1p_d(grown));
}
/* From others, z_y and m of positions i, i+1, …: the losses, and what turns exp(z) / 2^m into p and into the gradient. A position is
   noted for another turn where its sum is lost to the range of floats, or where it has no target and p is wanted. */
INLINE void finish(const softmax_job *j, fast_scratch *x, ptrdiff_t i, ptrdiff_t count, const int wanted)
{
    const vd none = all_d(0.0);
    const int weighted = x->weighted, all = j->prob.at != 0;
    for (const ptrdiff_t end = i + count; i < end; i += WD) {
        vd others = load_d(x->others + i), target = load_d(x->target + i);
        vd over = load_d(x->m + i) * LN2 - target, d = min_d(all_d(FAR), max_d(all_d(-FAR), over));
        vd inverse = quick_exp_d(d), odds = others * inverse; /* 2^m / exp(z_y) */
        vd above = quick_log1p_d(odds) + max_d(none, over - d);
        vd loss = above;
        vd y = widen_i(x->label + i);
        const md live = le_d(none, y);
        const vd fill = select_d(eq_d(y, all_d((double)BAD)), all_d((double)NAN), none);
        vd prob = all_d(1.0), gap = none, size = none, pull = none;
        if (x->soft_targets) {
            gap = load_d(x->soft.more + i);
        } else if (j->smoothing != 0) {
            gap = target - load_d(x->mean + i);
            loss += j->smoothing * gap; /* which may be negative, but not their sum: of an infinite weight, too */
        }
        if (weighted) loss = load_d(x->w_k + i) * loss;
        if (x->soft_targets) loss += gap;
        if (j->z_loss != 0) { /* a term of lse², whose slopes are p times `pull` */
            const vd lse = above + target;
            loss += (weighted ? load_d(x->w + i) : all_d(1.0)) * (j->z_loss * lse * lse);
            pull = (weighted ? load_d(x->g + i) : all_d(j->scale)) * (2 * j->z_loss * lse);
        }
        md steady = le_d(none, none); /* slopes are not so much smaller than their two parts that digits are lost */
        if (wanted) {
            prob = inverse * (1 / KEPT) / (1.0 + odds);
            const vd g = weighted ? load_d(x->g_k + i) : all_d(j->scale);
            vd grad = g * prob, plus = none, grad_at_target = -others * KEPT;
            if (x->soft_targets) {
                plus = -load_d(x->g + i);
                grad_at_target = select_d(live, -(plus * load_d(x->soft.left + i)) - g * (odds / (1.0 + odds)), fill);
            } else if (j->smoothing != 0) {
                plus = g * -x->soft.share;
                grad_at_target += j->smoothing * (others + 1.0 / inverse) * KEPT;
            }
            if (j->z_loss != 0) {
                const vd all = g + pull;
                steady = lt_d(abs_d(g) * 0x1p-10, abs_d(all));
                grad = all * prob;
                grad_at_target = x->soft_targets ? grad_at_target + select_d(live, pull / (1.0 + odds), none)
                                                 : (grad_at_target * g + pull * KEPT / inverse) / all;
            }
            store_d(x->grad_at_target + i, grad_at_target);
            store_d(x->plus + i, select_d(live, plus, fill));
            if (j->poly != 0) grad += j->poly * (weighted ? load_d(x->g + i) : all_d(j->scale)) * prob / (1.0 + odds);
            if (j->grad.at) size = abs_d(grad);
            store_d(x->prob + i, prob);
            store_d(x->grad + i, select_d(live, grad, fill));
        }
        if (j->poly != 0) loss += j->poly * (weighted ? load_d(x->w + i) : all_d(1.0)) * (odds / (1.0 + odds));
        store_d(x->loss + i, select_d(live, loss, fill));
        /* Masked classes add up to 2^-106 with AVX2, where only the value is wanted. Exponentials are off by 2^-150, the last place of
           tiny floats: so a p is off by 2^-130 at most where either exp(z_y) or the others are above 2^-20, and keeps its digits above
           2^-106; so does a slope, where the factor is no tiny float. */
        md fine = AND_MASK(le_d(all_d(wanted ? 0x1p-100 : 0x1p-60), others), lt_d(others, all_d(0x1p58)));
        fine = AND_MASK(fine, lt_d(target, all_d((double)INFINITY)));
        fine = AND_MASK(fine, OR_MASK(le_d(all_d(0x1p-20), others), lt_d(over, all_d(14.0))));
        if (wanted) fine = AND_MASK(fine, AND_MASK(steady, le_d(all_d(0x1p-100), prob)));
        const md fits = AND_MASK(le_d(all_d(0x1p-100), size), lt_d(size, all_d(0x1p100))); /* no tiny float, nor infinite */
        if (wanted) fine = AND_MASK(fine, OR_MASK(eq_d(size, none), fits));
        if (j->z_loss != 0) fine = AND_MASK(fine, lt_d(over, all_d(FAR))); /* above + target is to keep its digits */
        if (W < 16 && j->prob.at) fine = AND_MASK(fine, le_d(all_d(-42.0), over)); /* exp(z_y) is among what is kept, up to 2^62 */
        fine = AND_MASK(fine, eq_d(gap - gap, none)); /* of floats; softmax_f64() tells whether the loss is infinite, or NaN */
        const vd lost = select_d(live, select_d(fine, none, all_d(1.0)), all_d(all));
        if (any_d(lt_d(none, lost))) note_again(x, i, end - i, lost);
    }
}
#endif
