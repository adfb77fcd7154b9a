/* The usual case fast: integer labels, logits of 32 or 16 bits, no second derivative; label smoothing without class weights.
   Included by softmax_xent_rows.c.

   With y the target, "others" is the sum over c != y of exp(z_c) / 2^m, in float32 lanes, blocks of them in double. Then
       odds = others 2^m / exp(z_y),  loss = log1p(odds),  1 - p_y = odds / (1 + odds),  p_c = exp(z_c) / 2^m * (what makes them add to 1)
   in double, a few operations per position: a confident row keeps its digits. The reference 2^m costs no rounding, since the exponential
   reduces z itself and only the power of two changes; exp(z - max) would lose |z - max| / 2 units in the last place to the subtraction.

   Columns: vectors of positions go through the classes, 4 at a time. Where positions are neighbours in memory (spatial labels) they are
   read in place, 4 planes beside each other as far as the tile goes, which the hardware's prefetcher follows, or for derivatives as far as
   the exponentials fit into the first-level cache; else, for few classes, rows are transposed into a tile first. There m is 0: a position
   with logits beyond what that bears is done again in double.
   Rows: one pass, m from the row's first vector. For a gradient the exponentials are kept in a scratch row in the second-level cache, and
   row r is written while row r+1 is read, so that both directions of the memory are busy.
   Smoothed by e, the loss is that of the target plus e (z_y - mean of z), and its slopes are p_c - e / C, at the target p_y - 1 + e - e / C.
   A position whose sum is not in range (an infinity, a NaN, a logit far above the reference) is done again by general(). */
#ifndef POLYLOSS_SOFTMAX_FAST_H
#define POLYLOSS_SOFTMAX_FAST_H

#if W > 1
#define CHUNK (4 * W) /* positions in a tile of columns */
#define GROUP (4 * W) /* logits of a row taken together: four sums that don't wait for each other */
#define BLOCK (32 * W) /* logits summed in float32, 8 to each sum: with 32 the sum of a row was off by up to 4 units */
#define AHEAD 1024 /* logits prefetched ahead: the hardware stops at pages */
#define FETCHED 128 /* positions of a plane prefetched ahead */
#define FEW 192 /* classes up to which rows are transposed */
#define LN2 0x1.62e42fefa39efp-1

typedef float vh __attribute__((vector_size(2 * W))); /* as many floats as a vd has doubles */
typedef float vh_anywhere __attribute__((vector_size(2 * W), aligned(4)));
typedef int32_t vhi_anywhere __attribute__((vector_size(2 * W), aligned(4)));
typedef int32_t vi_anywhere __attribute__((vector_size(4 * W), aligned(4)));
INLINE vd widen(const float *p) { return __builtin_convertvector(*(const vh_anywhere *)p, vd); }
INLINE void narrow(float *p, vd v) { *(vh_anywhere *)p = __builtin_convertvector(v, vh); }
INLINE vd as_doubles(vf v)
{
    float a[W];
    store_f(a, v);
    return widen(a) + widen(a + WD);
}
/* W doubles as two floats each: products with the pair carry the rounding of one multiplication only. */
INLINE void split(const double *p, vf *high, vf *low)
{
    float h[W], l[W];
    for (int i = 0; i < W; i += WD) narrow(h + i, load_d(p + i)), narrow(l + i, load_d(p + i) - widen(h + i));
    *high = load_f(h), *low = load_f(l);
}
#if W == 16
INLINE double across_d(vd v) { return _mm512_reduce_add_pd((__m512d)v); }
INLINE float peak_f(vf v) { return _mm512_reduce_max_ps((__m512)v); }
#else
INLINE double across_d(vd v) { return sum_d(v); }
INLINE float peak_f(vf v) { return top_f(v); }
#endif

#if W == 16
typedef __mmask16 lanes;
INLINE lanes same_i(vi a, int32_t b) { return _mm512_cmpeq_epi32_mask((__m512i)a, _mm512_set1_epi32(b)); }
INLINE vf add_if(lanes m, vf a, vf b) { return (vf)_mm512_mask_add_ps((__m512)a, m, (__m512)a, (__m512)b); }
INLINE vf zero_if(lanes m, vf v) { return (vf)_mm512_maskz_mov_ps((__mmask16)~m, (__m512)v); }
INLINE vf replace_if(lanes m, vf a, vf b) { return (vf)_mm512_mask_mov_ps((__m512)a, m, (__m512)b); }
#else
typedef vi lanes;
INLINE lanes same_i(vi a, int32_t b) { return a == b; }
INLINE vf add_if(lanes m, vf a, vf b) { return a + (vf)((vi)b & m); }
INLINE vf zero_if(lanes m, vf v) { return (vf)((vi)v & ~m); }
INLINE vf replace_if(lanes m, vf a, vf b) { return select_f(m, b, a); }
#endif
#define EVERY ((lanes)~(lanes){0})

/* exp(x) / 2^m, m whole, |m| <= 120. Beyond 2^62 (with AVX-512: beyond every float) the result is large, infinite or NaN, never a small
   number. With AVX-512 results are KEPT or SUMMED times too large, as is the table of powers of two: a factor chosen so that no entry is
   rounded by more than 0.27 (of the 32: 0.43) instead of 1 half of its last place; the end divides by it, in double. */
#if W == 16
#define KEPT 0x1.02946e179e715p+0
#define SUMMED 0x1.009451aedc57ep+0
#else
#define KEPT 1.0
#define SUMMED 1.0
#endif
typedef struct {
    vf low; /* below it the result is 0 */
#if W == 16
    vf table[2]; /* KEPT 2^(j/16 - m); or SUMMED 2^(j/32 - m) */
#else
    vf high;
    vi shift;
#endif
} reference;
INLINE reference reference_of(float m, const int kept)
{
    reference r = {.low = all_f((m - 151) * (float)LN2)};
#if W == 16
    static const uint32_t sixteenths[16] __attribute__((aligned(64))) = {0x3f814a37, 0x3f870399, 0x3f8cfddc, 0x3f933bdf, 0x3f99c0a2,
        0x3fa08f47, 0x3fa7ab13, 0x3faf1771, 0x3fb6d7f2, 0x3fbef04f, 0x3fc7646d, 0x3fd0385b, 0x3fd97057, 0x3fe310d0, 0x3fed1e65, 0x3ff79deb};
    static const uint32_t halves[32] __attribute__((aligned(64))) = {0x3f804a29, 0x3f83194f, 0x3f85f835, 0x3f88e732, 0x3f8be6a1,
        0x3f8ef6de, 0x3f921847, 0x3f954b3d, 0x3f989021, 0x3f9be759, 0x3f9f514b, 0x3fa2ce60, 0x3fa65f03, 0x3faa03a2, 0x3fadbcad,
        0x3fb18a97, 0x3fb56dd4, 0x3fb966dc, 0x3fbd7629, 0x3fc19c38, 0x3fc5d989, 0x3fca2e9d, 0x3fce9bfb, 0x3fd3222a, 0x3fd7c1b5,
        0x3fdc7b2b, 0x3fe14f1d, 0x3fe63e1f, 0x3feb48c9, 0x3ff06fb6, 0x3ff5b385, 0x3ffb14d7};
    for (int i = 0; i < 2; i++)
        r.table[i] = (vf)_mm512_scalef_ps(_mm512_load_ps(kept ? sixteenths : halves + 16 * i), (__m512)all_f(-m));
#else
    (void)kept;
    r.high = all_f((m + 62) * (float)LN2);
    r.shift = all_i((64 - (int32_t)m) * (1 << 23));
#endif
    return r;
}
INLINE vf exp_over_f(vf x, const reference *ref, const int exact)
{
#if W == 16 /* as exp16_f in vector_math.h */
    vf u = mad_f(x, all_f(LOG2E_F), all_f(ROUND_F / 16)), n = u - ROUND_F / 16;
    vf r = mad_f(n, all_f(-0x1.62e43p-1f), x);
    r = mad_f(n, all_f(0x1.05c61p-29f), r);
    vf t = (vf)_mm512_permutexvar_ps((__m512i)u, (__m512)ref->table[0]);
    vf q = mad_f(r, all_f(0x1.555664p-3f), all_f(0x1.00022p-1f));
    t = mad_f(t, mad_f(r * r, q, r), t);
    (void)exact;
    __mmask16 kept = _mm512_cmp_ps_mask((__m512)x, (__m512)ref->low, _CMP_NLT_UQ);
    return (vf)_mm512_maskz_scalef_ps(kept, (__m512)t, (__m512)n);
#else
    vf d = min_f(ref->high, max_f(ref->low, x));
#if W == 8
    static const uint32_t eighths[8] __attribute__((aligned(32))) = {0x3f800000, 0x3f7b95c2, 0x3f7837f0, 0x3f75fed7, 0x3f7504f3, 0x3f75672a,
        0x3f7744fd, 0x3f7ac0c7};
    vf u = mad_f(d, all_f(8 * LOG2E_F), all_f(ROUND_F)), n = u - ROUND_F;
    vf r = mad_f(n, all_f(-0x1.62e43p-4f), d);
    r = mad_f(n, all_f(0x1.05c61p-32f), r);
    vi e = (vi)_mm256_permutevar8x32_epi32(_mm256_load_si256((const __m256i *)eighths), (__m256i)u);
    vf t = (vf)((vu)e + ((vu)u << 20) + (vu)ref->shift);
    vf q = mad_f(r, all_f(0x1.555848p-5f), all_f(0x1.555c74p-3f));
    q = mad_f(q, r, all_f(0.5f));
    if (exact) { /* what the table's entries lost is put back */
        static const float lost[8] __attribute__((aligned(32))) = {0x0p+0f, -0x1.9c0c22p-27f, 0x1.125002p-25f, -0x1.0a355p-25f,
            0x1.26055cp-26f, 0x1.67a1cap-28f, -0x1.f9c304p-27f, -0x1.a5217cp-28f};
        q = mad_f(r * r, q, r + (vf)_mm256_permutevar8x32_ps(_mm256_load_ps(lost), (__m256i)u));
    } else
        q = mad_f(r * r, q, r);
    t = mad_f(t, q, t);
#else
    (void)exact;
    vf u = mad_f(d, all_f(LOG2E_F), all_f(ROUND_F)), n = u - ROUND_F;
    vf r = mad_f(n, all_f(-LN2_LO_F), mad_f(n, all_f(-LN2_HI_F), d));
    vf t = exp_poly_f(r) * (vf)(((vi)u << 23) + (127 << 23) + ref->shift);
#endif
    return t * (vf)(((127 - 64) << 23) & ~(vi)lt_f(x, ref->low));
#endif
}
/* The same added to high + low where `adds`, for results that need not be at hand: 5 cycles instead of 6 with AVX-512, and no rounding of
   the result: 2^(k + j/32) goes to one sum, its product with e^r - 1, |r| <= ln 2 / 64, to the other. ln 2 stands in one part: what that
   lacks makes terms near 2^n a factor 1 + n LN2_REST too small, which is put back where their sum is known. `whole`: ln 2 in two parts. */
#define LN2_REST 0x1.05c61p-29
INLINE double exponent(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, 8);
    return (double)((int)(bits >> 52 & 0x7ff) - 1023);
}
INLINE void add_exp_f(vf x, const reference *ref, lanes adds, vf *high, vf *low, const int whole)
{
#if W == 16
    vf u = mad_f(x, all_f(LOG2E_F), all_f(ROUND_F / 32)), n = u - ROUND_F / 32;
    vf r = mad_f(n, all_f(-0x1.62e43p-1f), x);
    if (whole) r = mad_f(n, all_f((float)LN2_REST), r);
    __m512 t = _mm512_permutex2var_ps((__m512)ref->table[0], (__m512i)u, (__m512)ref->table[1]);
    vf q = r * mad_f(r, all_f(0x1.fffffep-2f), all_f(0x1.0000f6p+0f));
    __mmask16 kept = _mm512_cmp_ps_mask((__m512)x, (__m512)ref->low, _CMP_NLT_UQ);
    t = _mm512_maskz_scalef_ps(kept, t, (__m512)n);
    *high = add_if(adds, *high, (vf)t);
    *low = (vf)_mm512_mask3_fmadd_ps(t, (__m512)q, (__m512)*low, kept & adds); /* q is NaN where x is -inf */
#else
    (void)low, (void)whole;
    *high = add_if(adds, *high, exp_over_f(x, ref, 0));
#endif
}

/* What one thread works with. */
typedef struct {
    int32_t *label; /* one for each position of the tile, as in the next three lines; SKIPPED where the weight is 0 */
    double *loss, *w_k, *w_poly, *g_k, *g_poly; /* weights of the loss and its poly term, in the value and in the gradient */
    double *others, *target, *m; /* of each position: the sum without its target, the target's logit, the reference */
    double *mean; /* of its logits, where labels are smoothed */
    double *prob, *grad, *plus, *instead; /* factors; what is added to every slope, and what to multiply at the target */
    double *lse; /* the logarithm of the whole sum */
    int32_t *again; /* positions to be done again, and how many */
    ptrdiff_t agains;
    float *block, *kept[2]; /* BLOCK; the exponentials of a row, twice, or of a tile of columns */
    float *given, *planes; /* a tile of columns; five numbers for each of its positions */
    char *general;
    int weighted;
} fast_scratch;
enum { SKIPPED = -3 };

INLINE int is_fast(const softmax_job *j)
{
    return !j->soft && !j->hess.at && j->z.type != TYPE_F64 && j->c > 1 && (j->smoothing == 0 || !(j->class_weight.at || j->poly != 0));
}
INLINE int is_planes(const softmax_job *j) { return j->z.s == 4 && j->z.type == TYPE_F32 && j->s >= CHUNK; }
INLINE int is_columns(const softmax_job *j) { return j->c <= FEW || is_planes(j); }
static ptrdiff_t fast_layout(const softmax_job *j, char *at, fast_scratch *x)
{
    double *d = (double *)at;
    double **doubles[] = {&x->loss, &x->w_k, &x->w_poly, &x->g_k, &x->g_poly, &x->others, &x->target, &x->m,
        &x->mean, &x->prob, &x->grad, &x->plus, &x->instead, &x->lse};
    const ptrdiff_t most = (tile(j) < j->n * j->s ? tile(j) : j->n * j->s) / CHUNK * CHUNK + 2 * CHUNK;
    for (size_t i = 0; i < sizeof doubles / sizeof *doubles; i++) *doubles[i] = d, d += most;
    x->label = (int32_t *)d;
    x->again = x->label + most;
    x->agains = 0;
    float *f = (float *)(x->again + most);
    x->block = f, f += BLOCK + GROUP;
    const int wanted = j->grad.at || j->prob.at, columns = is_columns(j);
    const ptrdiff_t row = (j->c + GROUP - 1) / GROUP * GROUP + 2048; /* the 2048: to be laid apart in a page */
    x->kept[0] = f, f += !wanted ? 0 : !columns ? row : j->c * (is_planes(j) ? most : CHUNK);
    x->kept[1] = f, f += wanted && !columns ? row : 0;
    x->given = f, f += columns ? j->c * CHUNK : 0;
    x->planes = f, f += columns ? 5 * most : 0;
    x->general = (char *)f;
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
/* Labels and weights of the tile, and the sums that need no logit. */
static void read_tile(const softmax_job *j, ptrdiff_t first, ptrdiff_t count, fast_scratch *x, softmax_sums *sums)
{
    for (ptrdiff_t i = 0, step; i < count; i += step) {
        const ptrdiff_t n = (first + i) / j->s, s = (first + i) % j->s;
        step = j->s - s < count - i ? j->s - s : count - i;
        read_labels(x->label + i, j, n, s, step);
    }
    ptrdiff_t live = 0, bad = 0;
    for (ptrdiff_t i = 0; i < count; i++) live += x->label[i] != IGNORED, bad += x->label[i] == BAD;
    sums->count = live;
    sums->weight = (double)(live - bad);
    for (ptrdiff_t i = 0; bad && sums->bad < 0; i++)
        if (x->label[i] == BAD) sums->bad = first + i;
    const softmax_array *k = &j->class_weight;
    x->weighted = k->at || j->weight.at || j->upstream.at;
    if (!x->weighted) return;
    sums->weight = 0;
    for (ptrdiff_t i = 0; i < count; i++) {
        const ptrdiff_t n = (first + i) / j->s, s = (first + i) % j->s;
        const int32_t y = x->label[i];
        if (y < 0) continue;
        const double w = one(&j->weight, n, s), g = j->scale * w * one(&j->upstream, n, s);
        const double ky = k->at ? one(&(softmax_array){.at = k->at + y * k->c, .type = k->type}, 0, 0) : 1;
        if (w != 0) sums->weight += w * ky;
        x->w_k[i] = w * ky;
        x->g_k[i] = g * ky;
        x->w_poly[i] = w * j->poly;
        x->g_poly[i] = g * j->poly;
        if (w == 0 || (ky == 0 && j->poly == 0)) x->label[i] = SKIPPED;
    }
}

/* exp(x), |x| <= 700, and log(1 + x), 0 <= x: off by no more than 1e-8 of the result, which is enough for what becomes a float, in half
   of the time of those that are right to the last place of a double. */
INLINE vd quick_exp_d(vd x)
{
#if W == 16
    vd u = mad_d(x, all_d(LOG2E_D), all_d(ROUND_D)), n = u - ROUND_D, r = mad_d(n, all_d(-LN2), x);
    vd p = mad_d(r, all_d(0x1.6a2435f4e8617p-10), all_d(0x1.1239e27dea5e8p-7));
    p = mad_d(p, r, all_d(0x1.5558f179f386fp-5));
    p = mad_d(p, r, all_d(0x1.55549154636f4p-3));
    p = mad_d(p, r, all_d(0x1.fffffb9a5d5c6p-2));
    return (vd)_mm512_scalef_pd((__m512d)(1.0 + mad_d(r * r, p, r)), (__m512d)n);
#else
    return exp_d(x);
#endif
}
INLINE vd quick_log1p_d(vd x)
{
#if W == 16 /* 1 + x = 2^n (1 + f), log(1 + f) = 2 artanh(s), s = f / (2 + f) <= 1/3; where n = 0, f = x keeps its digits */
    vd u = 1.0 + x, n = (vd)_mm512_getexp_pd((__m512d)u);
    vd f = (vd)_mm512_getmant_pd((__m512d)u, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_nan) - 1.0;
    f = select_d(lt_d(u, all_d(2.0)), x, f);
    vd g = 2.0 + f, inverse = (vd)_mm512_rcp14_pd((__m512d)g), s = f * inverse;
    s = mad_d(mad_d(-s, g, f), inverse, s);
    vd z = s * s, p = mad_d(z, all_d(0x1.1ef7a57937736p-2), all_d(0x1.1eb641d827760p-2));
    p = mad_d(p, z, all_d(0x1.99d2780062cc9p-2));
    p = mad_d(p, z, all_d(0x1.5555004d3d87ap-1));
    p = mad_d(p, z, all_d(2.0));
    return mad_d(n, all_d(LN2), s * p);
#else
    return log1p_d(x);
#endif
}
/* From others, z_y and m of positions i, i+1, …: the losses, lse, and what turns exp(z) / 2^m into p and into the gradient. A position is
   noted for another turn where its sum is lost to the range of floats, or where it has no target and p or lse are wanted. */
INLINE void finish(const softmax_job *j, fast_scratch *x, ptrdiff_t i, ptrdiff_t count, const int wanted)
{
    const vd none = all_d(0.0);
    const int weighted = x->weighted, all = j->prob.at || j->lse.at, quick = !wanted && !j->lse.at;
    for (const ptrdiff_t end = i + count; i < end; i += WD) {
        vd others = load_d(x->others + i), target = load_d(x->target + i);
        vd over = load_d(x->m + i) * LN2 - target, d = min_d(all_d(700.0), max_d(all_d(-700.0), over));
        vd inverse = quick ? quick_exp_d(d) : exp_d(d), odds = others * inverse; /* 2^m / exp(z_y) */
        vd above = (quick ? quick_log1p_d(odds) : log1p_d(odds)) + max_d(none, over - d), loss = weighted ? load_d(x->w_k + i) * above : above;
        vd y = __builtin_convertvector(*(const vhi_anywhere *)(x->label + i), vd);
        const md live = le_d(none, y);
        const vd fill = select_d(eq_d(y, all_d((double)BAD)), all_d((double)NAN), none);
        vd prob = all_d(1.0), gap = none;
        if (j->smoothing != 0) {
            gap = target - load_d(x->mean + i);
            loss += (weighted ? load_d(x->w_k + i) : all_d(1.0)) * (j->smoothing * gap);
        }
        if (wanted) {
            prob = inverse * (1 / KEPT) / (1.0 + odds);
            const vd g = weighted ? load_d(x->g_k + i) : all_d(j->scale);
            vd grad = g * prob, instead = -others;
            if (j->smoothing != 0) instead += j->smoothing * (others + 1.0 / inverse);
            store_d(x->instead + i, instead * KEPT);
            store_d(x->plus + i, select_d(live, g * (-j->smoothing / (double)j->c), none));
            if (j->poly != 0) grad += (weighted ? load_d(x->g_poly + i) : all_d(j->poly * j->scale)) * prob / (1.0 + odds);
            store_d(x->prob + i, prob);
            store_d(x->grad + i, select_d(live, grad, fill));
        }
        if (j->poly != 0) loss += (weighted ? load_d(x->w_poly + i) : all_d(j->poly)) * (odds / (1.0 + odds));
        store_d(x->loss + i, select_d(live, loss, fill));
        store_d(x->lse + i, above + target);
        /* A p that is a normal float keeps its digits where either exp(z_y) or the others are above 2^-20, and the factor is no tiny float. */
        md fine = AND_MASK(AND_MASK(le_d(all_d(0x1p-100), others), lt_d(others, all_d(0x1p58))), lt_d(target, all_d((double)INFINITY)));
        fine = AND_MASK(fine, OR_MASK(le_d(all_d(0x1p-20), others), lt_d(over, all_d(14.0))));
        if (wanted) fine = AND_MASK(fine, le_d(all_d(0x1p-100), prob));
        if (W < 16 && j->prob.at) fine = AND_MASK(fine, le_d(all_d(-42.0), over)); /* exp(z_y) is among what is kept, up to 2^62 */
        fine = AND_MASK(fine, le_d(all_d(-(double)INFINITY), gap)); /* not NaN: -inf at the target and elsewhere */
        const vd lost = select_d(live, select_d(fine, none, all_d(1.0)), all_d(all));
        if (any_d(lt_d(none, lost))) {
            double which[WD];
            store_d(which, lost);
            for (int l = 0; l < WD && i + l < end; l++)
                if (which[l] != 0) x->again[x->agains++] = (int32_t)(i + l);
        }
    }
}
static void again(const softmax_job *j, ptrdiff_t first, fast_scratch *x)
{
    for (ptrdiff_t i = 0; i < x->agains; i++) {
        softmax_sums sums = {.bad = -1};
        general(j, first + x->again[i], 1, x->general, &sums);
        x->loss[x->again[i]] = sums.total;
    }
    x->agains = 0;
}

/* ---- Columns ---- */

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
    for (ptrdiff_t k = 0; k + W <= positions; k += W)
        for (ptrdiff_t c = 0; c < classes; c += 4) {
            if (c > classes - 4) c = classes - 4;
            vf v[4];
            for (int i = 0; i < 4; i++) {
                v4 part[W / 4];
                for (int b = 0; b < W / 4; b++) part[b] = *(const v4_anywhere *)(from + (k + i + 4 * b) * step + 4 * c);
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

/* Positions through classes in planes, `step` floats apart: K planes from c on, added to what the planes before left in sum (5, positions):
   the sum of exp(z) without the target, its low part, the target's logit, where smoothed the sum of z - z_0 and its low part. Exponentials are kept in
   (C, positions) where asked. */
INLINE void add_planes(const float *z, ptrdiff_t step, ptrdiff_t c, ptrdiff_t classes, ptrdiff_t positions, const int32_t *label, float *sum,
                       float *kept, const int smoothed, const int K)
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
            const lanes is = same_i(lab, (int32_t)c + k);
            pick = replace_if(is, pick, v);
            if (smoothed) apart += v - first;
            if (kept) {
                vf e = exp_over_f(v, &zero, 1);
                part = add_if((lanes)~is, part, e);
                store_f(kept + (c + k) * positions + i, e);
            } else
                add_exp_f(v, &zero, (lanes)~is, &part, &low, 1);
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
INLINE void plane_sums(const float *z, ptrdiff_t step, ptrdiff_t classes, ptrdiff_t positions, const int32_t *label, float *sum, double *others,
                       double *target, double *mean, float *kept, const int smoothed)
{
    memset(sum, 0, 5 * (size_t)positions * sizeof *sum);
    ptrdiff_t c = 0;
    for (; c + 4 <= classes; c += 4) add_planes(z, step, c, classes, positions, label, sum, kept, smoothed, 4);
    for (; c < classes; c++) add_planes(z, step, c, classes, positions, label, sum, kept, smoothed, 1);
    for (ptrdiff_t i = 0; i < positions; i += WD) {
        if (smoothed) store_d(mean + i, widen(z + i) + (widen(sum + 3 * positions + i) + widen(sum + 4 * positions + i)) / (double)classes);
        store_d(others + i, (widen(sum + i) + widen(sum + positions + i)) * (kept ? 1 / KEPT : 1 / SUMMED));
        store_d(target + i, widen(sum + 2 * positions + i));
    }
}
/* kept times factor plus `plus`, with `instead` in place of kept at the target; where the factor is 0 (ignored positions), 0 whatever was
   kept. Without the latter two for probabilities. Streamed past the caches where asked; room (4, positions). */
INLINE void plane_slopes(float *to, ptrdiff_t step, const float *kept, ptrdiff_t kept_step, ptrdiff_t classes, ptrdiff_t positions,
                         const int32_t *label, const double *factor, const double *plus, const double *instead, float *room,
                         const int stream)
{
    float *high = room, *low = room + positions, *at_target = room + 2 * positions, *added = room + 3 * positions;
    for (ptrdiff_t i = 0; i < positions; i += W) {
        vf a, b;
        split(factor + i, &a, &b);
        store_f(high + i, a), store_f(low + i, b);
        for (int k = 0; instead && k < W; k += WD)
            narrow(at_target + i + k, load_d(instead + i + k)), narrow(added + i + k, load_d(plus + i + k));
    }
    for (ptrdiff_t c = 0; c < classes; c++)
        for (ptrdiff_t i = 0; i < positions; i += W) {
            vf e = load_f(kept + c * kept_step + i);
            if (instead) e = replace_if(same_i(*(const vi_anywhere *)(label + i), (int32_t)c), e, load_f(at_target + i));
            const vf a = load_f(high + i), b = mad_f(e, load_f(low + i), instead ? load_f(added + i) : all_f(0.0f));
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
    const int wanted = j->grad.at || j->prob.at, in_place = is_planes(j), smoothed = j->smoothing != 0;
    const int in_place_out = j->grad.at && j->grad.type == TYPE_F32 && j->grad.s == 4 && in_place;
    memset(x->m, 0, (size_t)(count + CHUNK) * sizeof *x->m);
    for (ptrdiff_t i = 0, step; i < count; i += step) {
        const ptrdiff_t q = first + i, n = q / j->s, s = q % j->s, left = count - i < j->s - s ? count - i : j->s - s;
        int stream = 0, whole = in_place && left >= CHUNK;
        step = whole && !wanted ? left / CHUNK * CHUNK : count - i < CHUNK ? count - i : CHUNK;
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
        float *kept = x->kept[0];
        const float *z = x->given;
        ptrdiff_t apart = CHUNK;
        if (whole)
            z = (const float *)place(&j->z, n, s), apart = j->z.c / 4;
        else
            pack(x->given, j, &j->z, q, step);
        if (wanted && smoothed)
            plane_sums(z, apart, classes, positions, label, x->planes, others, target, x->mean + i, kept, 1);
        else if (wanted)
            plane_sums(z, apart, classes, positions, label, x->planes, others, target, 0, kept, 0);
        else if (smoothed)
            plane_sums(z, apart, classes, positions, label, x->planes, others, target, x->mean + i, 0, 1);
        else
            plane_sums(z, apart, classes, positions, label, x->planes, others, target, 0, 0, 0);
        if (wanted)
            finish(j, x, i, step, 1);
        else
            finish(j, x, i, step, 0);
        for (ptrdiff_t b = 0; j->prob.at && b < step; b += CHUNK) {
            const ptrdiff_t part = step - b < CHUNK ? step - b : CHUNK;
            plane_slopes(x->given, CHUNK, kept + b, positions, classes, (part + W - 1) / W * W, label + b, x->prob + i + b, 0, 0, x->planes, 0);
            deliver(x->given, j, &j->prob, q + b, part);
        }
        if (j->grad.at && in_place_out && whole) {
            float *to = (float *)place(&j->grad, n, s);
            if (stream)
                plane_slopes(to, j->grad.c / 4, kept, positions, classes, positions, label, x->grad + i, x->plus + i, x->instead + i, x->planes, 1);
            else
                plane_slopes(to, j->grad.c / 4, kept, positions, classes, positions, label, x->grad + i, x->plus + i, x->instead + i, x->planes, 0);
        } else
            for (ptrdiff_t b = 0; j->grad.at && b < step; b += CHUNK) {
                const ptrdiff_t part = step - b < CHUNK ? step - b : CHUNK, vectors = (part + W - 1) / W * W;
                const ptrdiff_t q0 = i + b;
                plane_slopes(x->given, CHUNK, kept + b, positions, classes, vectors, label + b, x->grad + q0, x->plus + q0, x->instead + q0,
                             x->planes, 0);
                deliver(x->given, j, &j->grad, q + b, part);
            }
        if (step < positions) memcpy(label + step, after, (size_t)(positions - step) * sizeof *after);
    }
}

/* ---- Rows ---- */

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
#else
    float part[W];
    for (int k = 0; k < W; k++) part[k] = k < n && k != y ? x[k] : -INFINITY;
    return load_f(part);
#endif
}
/* The sum of exp(x) / 2^m over `count` logits without x[y] (y outside: without none), at most BLOCK of them; kept where asked; meanwhile
   `last` is written. Where `apart` is given, the sum of x - base is added to it. */
INLINE vd block_sum(const float *x, ptrdiff_t count, ptrdiff_t y, const reference *m, float *kept, writing *last, double *apart, float base)
{
    vf s[4] = {all_f(0.0f), all_f(0.0f), all_f(0.0f), all_f(0.0f)}, low[4] = {s[0], s[0], s[0], s[0]};
    vd sum = all_d(0.0), apart_sum = sum; /* of groups: the slopes of a row whose mass lies in few classes would show more roundings */
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
            for (int k = 0; k < GROUP; k += 16) __builtin_prefetch(x + i + AHEAD + k);
            for (int k = 0; k < 4; k++) {
                v[k] = load_f(x + i + k * W);
                if (apart) z[k] = v[k] - base;
            }
        }
        for (int k = 0; k < 4; k++)
            if (kept) {
                s[k] = exp_over_f(v[k], m, 1);
                store_f(kept + i + k * W, s[k]);
            } else
                add_exp_f(v[k], m, EVERY, &s[k], &low[k], 0);
        if (kept) sum += as_doubles((s[0] + s[1]) + (s[2] + s[3]));
        if (apart) apart_sum += as_doubles((z[0] + z[1]) + (z[2] + z[3]));
    }
    if (apart) *apart += across_d(apart_sum);
    if (!kept) sum = as_doubles((s[0] + s[1]) + (s[2] + s[3])) + as_doubles((low[0] + low[1]) + (low[2] + low[3]));
    return sum;
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
static void write_elsewhere(const softmax_array *a, char *to, const float *e, double factor, double plus, ptrdiff_t classes, float *block)
{
    for (ptrdiff_t b = 0; b < classes; b += BLOCK) {
        const ptrdiff_t part = classes - b < BLOCK ? classes - b : BLOCK;
        for (ptrdiff_t c = 0; c < part; c++) block[c] = (float)(e[b + c] * factor + plus);
        scatter_f(to + b * a->c, block, a->c, a->type, part);
    }
}
static void fill_row(const softmax_array *a, char *to, float value, ptrdiff_t classes, float *block)
{
    for (ptrdiff_t c = 0; c < classes && c < BLOCK; c++) block[c] = value;
    for (ptrdiff_t b = 0; b < classes; b += BLOCK) scatter_f(to + b * a->c, block, a->c, a->type, classes - b < BLOCK ? classes - b : BLOCK);
}
/* Scratch half a page from the row: a load a page after a store to the same place in it would wait for the store. */
static float *apart_from(const void *row, float *room)
{
    const uintptr_t off = ((uintptr_t)row + 2048 - (uintptr_t)room) % 4096 / 64 * 64;
    return (float *)((char *)room + off);
}

static void rows(const softmax_job *j, ptrdiff_t first, ptrdiff_t count, fast_scratch *x)
{
    const ptrdiff_t classes = j->c;
    const int smoothed = j->smoothing != 0, wanted = j->grad.at || j->prob.at, direct = j->z.type == TYPE_F32 && j->z.c == 4;
    const int stream = j->grad.at && j->grad.type == TYPE_F32 && j->grad.c == 4;
    writing last = {0};
    int turn = 0;
    ptrdiff_t n = first / j->s, s = first % j->s - 1;
    for (ptrdiff_t i = 0; i < count; i++) {
        if (++s == j->s) s = 0, n++;
        const int32_t y = x->label[i];
        const char *z = place(&j->z, n, s);
        if (y < 0) {
            x->others[i] = 1, x->target[i] = 0, x->m[i] = 0, x->mean[i] = 0;
            if (j->grad.at) fill_row(&j->grad, place(&j->grad, n, s), y == BAD ? NAN : 0.0f, classes, x->block);
            continue;
        }
        float target = 0;
        vf head;
        if (direct) {
            target = ((const float *)z)[y];
            head = load_without((const float *)z, classes, y);
        } else {
            gather_f(&target, z + y * j->z.c, 0, j->z.type, 1);
            gather_f(x->block, z, j->z.c, j->z.type, classes < W ? classes : W);
            head = load_without(x->block, classes, y);
        }
        const float highest = peak_f(head), base = highest > -1e30f && highest < 1e30f ? highest : 0, top = highest * LOG2E_F;
        const float m = top < -1e6f ? 0 : top > -120 ? top < 120 ? (float)(int)top : 120 : -120; /* -1e30: masked */
        const reference about = reference_of(m, wanted);
        float *kept = wanted ? apart_from(z, x->kept[turn]) : 0;
        vd sum = all_d(0.0);
        double apart = 0;
        for (ptrdiff_t b = 0; b < classes; b += BLOCK) {
            const ptrdiff_t part = classes - b < BLOCK ? classes - b : BLOCK;
            const float *from = (const float *)z + b;
            if (!direct) gather_f(x->block, z + b * j->z.c, j->z.c, j->z.type, part), from = x->block;
            if (smoothed && wanted)
                sum += block_sum(from, part, y - b, &about, kept + b, &last, &apart, base);
            else if (smoothed)
                sum += block_sum(from, part, y - b, &about, 0, 0, &apart, base);
            else if (!wanted)
                sum += block_sum(from, part, y - b, &about, 0, 0, 0, 0);
            else if (!last.out)
                sum += block_sum(from, part, y - b, &about, kept + b, 0, 0, 0);
            else
                sum += block_sum(from, part, y - b, &about, kept + b, &last, 0, 0);
        }
        double others = across_d(sum) / (wanted ? KEPT : SUMMED);
        if (W == 16 && !wanted) others *= 1 + (m + exponent(others)) * LN2_REST;
        x->others[i] = others, x->target[i] = (double)target, x->m[i] = (double)m;
        x->mean[i] = base + apart / (double)classes;
        if (!wanted) continue;
        write_rest(&last);
        finish(j, x, i, 1, 1);
        if (j->prob.at) {
            kept[y] = (float)(KEPT * exp((double)target - (double)m * LN2));
            write_elsewhere(&j->prob, place(&j->prob, n, s), kept, x->prob[i], 0, classes, x->block);
        }
        kept[y] = (float)x->instead[i];
        if (stream) {
            last = begin(place(&j->grad, n, s), kept, x->grad[i], x->plus[i], classes);
            turn ^= 1;
        } else if (j->grad.at)
            write_elsewhere(&j->grad, place(&j->grad, n, s), kept, x->grad[i], x->plus[i], classes, x->block);
    }
    write_rest(&last);
    x->agains = 0;
    if (wanted)
        finish(j, x, 0, count, 1);
    else
        finish(j, x, 0, count, 0);
}

static void fast(const softmax_job *j, ptrdiff_t first, ptrdiff_t count, void *at, softmax_sums *sums)
{
    fast_scratch x;
    fast_layout(j, at, &x);
    read_tile(j, first, count, &x, sums);
    if (is_columns(j))
        columns(j, first, count, &x);
    else
        rows(j, first, count, &x);
    put_tile(j, &j->lse, first, count, x.lse);
    again(j, first, &x);
    put_tile(j, &j->losses, first, count, x.loss);
    vd total = all_d(0.0);
    for (ptrdiff_t i = count; i % WD; i++) x.loss[i] = 0;
    for (ptrdiff_t i = 0; i < count; i += WD) total += load_d(x.loss + i);
    sums->total = across_d(total);
    fence();
}
#endif
#endif
