/* Losses of sets for one type; included by sets_simd.c for floats and for doubles. */

/* By multiply-adds where there are any: left to the compiler, one loop might round what another does not. */
INLINE void FORMULA(add)(real t, real p, real *common, real *missed, real *extra)
{
    *common = MAD(t, p, *common), *missed = MAD(t, R(1) - p, *missed), *extra = MAD(p, R(1) - t, *extra);
}
/* Adds Σ t p, Σ t (1 - p) and Σ p (1 - t) of n elements, from a multiple of SETS_BLOCK on: in lanes over blocks, and blocks in double. */
static void FORMULA(add_sums)(ptrdiff_t n, const one *t, const one *p, double *sums)
{
    for (ptrdiff_t b = 0; b < n; b += SETS_BLOCK) {
        const ptrdiff_t end = n - b < SETS_BLOCK ? n : b + SETS_BLOCK;
        real common[2] = {R(0), R(0)}, missed[2] = {R(0), R(0)}, extra[2] = {R(0), R(0)};
        ptrdiff_t i = b;
        for (; i + 2 * LANES <= end; i += 2 * LANES)
            for (int j = 0; j < 2; j++) {
                PREFETCH(t + i + j * LANES + 1024); /* the hardware's prefetcher stops at pages */
                PREFETCH(p + i + j * LANES + 1024);
                real x = LOAD(t + i + j * LANES), y = LOAD(p + i + j * LANES);
                ROUNDED(x); /* in registers, or each would be loaded up to three times */
                ROUNDED(y);
                FORMULA(add)(x, y, common + j, missed + j, extra + j);
            }
        for (; i < end; i += LANES) {
            const ptrdiff_t m = end - i < LANES ? end - i : LANES;
            const real x = LOAD_PART(t + i, m), y = LOAD_PART(p + i, m); /* 0 in the other lanes */
            FORMULA(add)(x, y, common, missed, extra);
        }
        sums[0] += SUM(common[0] + common[1]), sums[1] += SUM(missed[0] + missed[1]), sums[2] += SUM(extra[0] + extra[1]);
    }
}
/* none (1 - t) + all t. Of a target beyond 2 by one product: the two cancel, or are infinite before their sum is. */
INLINE real FORMULA(between)(real t, real none, real all, real between)
{
    const MASK far = LT(R(2), ABS(t));
    const real near = MAD(none, R(1) - t, all * t);
    return ANY(far) ? SELECT(far, MAD(between, t, none), near) : near;
}
/* Takes derivatives of n elements of a set again that are not finite, or all, where a factor of the set is no normal number. */
static void FORMULA(derive_again)(const kernel_job *job, ptrdiff_t n, const one *t, const double *set, double w, int all, one *g, one *h)
{
    for (ptrdiff_t i = 0; i < n; i++) {
        double slope = 0, curvature = 0;
        if (!all && (!g || isfinite(g[i])) && (!h || isfinite(h[i]))) continue;
        if (w != 0) derive_one(job, set, w, (double)t[i], &slope, &curvature);
        if (g && (all || !isfinite(g[i]))) g[i] = (one)slope;
        if (h && (all || !isfinite(h[i]))) h[i] = (one)curvature;
    }
}
INLINE int FORMULA(is_odd)(const kernel_job *job, const set_slopes *of) { return job->scale != 0 && !FORMULA(is_normal)((one)of->factor); }
/* Slopes of n elements from their targets, and curvatures where h is not NULL; 0 where the set is skipped. */
static void FORMULA(derivatives)(const kernel_job *job, ptrdiff_t n, const one *t, const double *set, double w, one *g, one *h)
{
    const set_slopes of = slopes_of(job, set, w);
    const real none = R((one)of.none), all = R((one)of.all), between = R((one)of.between);
    const real at_none = R((one)of.at_none), at_all = R((one)of.at_all), at_between = R((one)of.at_between);
    real odd = R(0); /* NaN: some are taken again */
    ptrdiff_t i = 0, head = job->stream && !h ? (ptrdiff_t)((-(uintptr_t)g % sizeof(real)) / sizeof(one)) : 0;
    const int stream = job->stream && !h && (uintptr_t)(g + head) % sizeof(real) == 0;
    if (w == 0) {
        for (; g && i < n; i++) g[i] = 0;
        for (i = 0; h && i < n; i++) h[i] = 0;
        return;
    }
    if (head > n) head = n;
    for (ptrdiff_t m; i < n; i += m) {
        m = i < head ? head - i : n - i < LANES ? n - i : LANES;
        const real x = m < LANES ? LOAD_PART(t + i, m) : LOAD(t + i), slope = FORMULA(between)(x, none, all, between);
        if (stream && m == LANES)
            STREAM(g + i, slope);
        else if (g)
            STORE_PART(g + i, slope, m);
        odd = MAD(R(0), slope, odd);
        if (!h) continue;
        const real curvature = FORMULA(between)(x, at_none, at_all, at_between) * slope;
        STORE_PART(h + i, curvature, m);
        odd = MAD(R(0), curvature, odd);
    }
    if (!FORMULA(is_odd)(job, &of) && EVERY(EQ(odd, odd))) return;
    if (stream) fence();
    FORMULA(derive_again)(job, n, t, set, w, FORMULA(is_odd)(job, &of), g, h);
}

INLINE const char *FORMULA(place)(const kernel_job *job, const strided_array *x, ptrdiff_t a, ptrdiff_t b, ptrdiff_t l)
{
    const char *set = x->at + a * x->n + b * x->s;
    return l < job->run ? set + l * x->c : set + l / job->run * x->run + l % job->run * x->c;
}
/* n numbers where they lie, if they lie right, else copied into room */
INLINE const one *FORMULA(read)(const strided_array *x, const char *from, ptrdiff_t stride, ptrdiff_t n, one *room)
{
    if (FORMULA(in_place)(x->type, 0, 1, stride, n)) return (const one *)from;
    FORMULA(read_line)(x->type, from, stride, n, room);
    return room;
}
/* As read_line, for n elements of a set from l on, which may lie in several runs. */
static const one *FORMULA(read_elements)(const kernel_job *job, const strided_array *x, ptrdiff_t a, ptrdiff_t b, ptrdiff_t l, ptrdiff_t n,
                                         one *room)
{
    if (n <= job->run - l % job->run) return FORMULA(read)(x, FORMULA(place)(job, x, a, b, l), x->c, n, room);
    for (ptrdiff_t i = 0, m; i < n; i += m) {
        const ptrdiff_t left = job->run - (l + i) % job->run;
        m = n - i < left ? n - i : left;
        FORMULA(read_line)(x->type, FORMULA(place)(job, x, a, b, l + i), x->c, m, room + i);
    }
    return room;
}

/* Elements of one set, beside each other or not. What is summed begins at a multiple of SETS_BLOCK, whatever the runs. */
static void FORMULA(sum_along)(const kernel_job *job, one *room, ptrdiff_t a, ptrdiff_t b, ptrdiff_t from, ptrdiff_t to, double *sums)
{
    const strided_array *t = &job->t, *p = &job->p;
    const int lie = FORMULA(in_place)(t->type, 0, 1, t->c, 0) && FORMULA(in_place)(p->type, 0, 1, p->c, 0);
    for (ptrdiff_t l = from, n; l < to; l += n) {
        const ptrdiff_t left = job->run - l % job->run, whole = left / SETS_BLOCK * SETS_BLOCK;
        n = !lie || (whole == 0 && left < to - l) ? SETS_BLOCK : left < to - l ? whole : to - l;
        if (n > to - l) n = to - l;
        FORMULA(add_sums)(n, FORMULA(read_elements)(job, t, a, b, l, n, room),
                          FORMULA(read_elements)(job, p, a, b, l, n, room + SETS_BLOCK), sums);
    }
}
static void FORMULA(derive_along)(const kernel_job *job, one *room, ptrdiff_t a, ptrdiff_t b, ptrdiff_t from, ptrdiff_t to,
                                  const double *set)
{
    const strided_array *t = &job->t, *grad = &job->grad, *hess = &job->hess;
    const int g_lies = FORMULA(in_place)(grad->type, 0, 1, grad->c, 0), h_lies = FORMULA(in_place)(hess->type, 0, 1, hess->c, 0);
    const int lie = FORMULA(in_place)(t->type, 0, 1, t->c, 0) && g_lies && (h_lies || !hess->at);
    const ptrdiff_t step = lie ? to - from : SETS_BLOCK;
    const double w = weight_at(job, a, b);
    for (ptrdiff_t l = from, n; l < to; l += n) {
        const ptrdiff_t left = job->run - l % job->run, most = step < left ? step : left;
        n = to - l < most ? to - l : most;
        const one *x = FORMULA(read)(t, FORMULA(place)(job, t, a, b, l), t->c, n, room);
        char *gg = grad->at ? (char *)FORMULA(place)(job, grad, a, b, l) : NULL;
        char *hh = hess->at ? (char *)FORMULA(place)(job, hess, a, b, l) : NULL;
        one *g = g_lies ? (one *)gg : room + SETS_BLOCK, *h = !hh ? NULL : h_lies ? (one *)hh : room + 2 * SETS_BLOCK;
        FORMULA(derivatives)(job, n, x, set, w, g, h);
        if (gg && !g_lies) FORMULA(write_line)(grad->type, gg, grad->c, n, g);
        if (hh && !h_lies) FORMULA(write_line)(hess->type, hh, hess->c, n, h);
    }
}

/* Sets beside each other, or short ones: a vector holds an element of several sets. A long one's elements go into the lanes that `add_sums`
   has, so that a set's bits do not depend on how it lies. */
static void FORMULA(sum_across)(const kernel_job *job, one *room, ptrdiff_t a, ptrdiff_t b, ptrdiff_t m, ptrdiff_t from, ptrdiff_t to,
                                double (*sums)[SUMS])
{
    const strided_array *t = &job->t, *p = &job->p;
    const ptrdiff_t lanes = job->c > SETS_SHORT ? 2 * LANES : 1;
    one *room_t = room, *room_p = room + SETS_TILE, *lane = room + 2 * SETS_TILE; /* lane: (lanes, SUMS, SETS_TILE) */
    for (ptrdiff_t l = from, n; l < to; l += n) {
        n = to - l < SETS_BLOCK ? to - l : SETS_BLOCK;
        for (ptrdiff_t i = 0; i < lanes * SUMS * SETS_TILE; i++) lane[i] = 0;
        for (ptrdiff_t e = 0; e < n; e++) {
            const one *x = FORMULA(read)(t, FORMULA(place)(job, t, a, b, l + e), t->s, m, room_t);
            const one *y = FORMULA(read)(p, FORMULA(place)(job, p, a, b, l + e), p->s, m, room_p);
            one *to_lane = lane + (lanes == 1 ? 0 : e < n / lanes * lanes ? e % lanes : e % LANES) * SUMS * SETS_TILE;
            for (ptrdiff_t i = 0, k; i < m; i += LANES) {
                k = m - i < LANES ? m - i : LANES;
                const real u = k < LANES ? LOAD_PART(x + i, k) : LOAD(x + i), v = k < LANES ? LOAD_PART(y + i, k) : LOAD(y + i);
                one *at = to_lane + i;
                real common = LOAD(at), missed = LOAD(at + SETS_TILE), extra = LOAD(at + 2 * SETS_TILE);
                FORMULA(add)(u, v, &common, &missed, &extra);
                STORE(at, common), STORE(at + SETS_TILE, missed), STORE(at + 2 * SETS_TILE, extra);
            }
        }
        for (ptrdiff_t i = 0; i < m; i++)
            for (int k = 0; k < SUMS; k++) {
                one of_lanes[2 * LANES];
                if (lanes == 1) sums[i][k] += (double)lane[k * SETS_TILE + i];
                if (lanes == 1) continue;
                for (ptrdiff_t j = 0; j < lanes; j++) of_lanes[j] = lane[(j * SUMS + k) * SETS_TILE + i];
                sums[i][k] += SUM(LOAD(of_lanes) + LOAD(of_lanes + LANES));
            }
    }
}
static void FORMULA(derive_across)(const kernel_job *job, one *room, ptrdiff_t a, ptrdiff_t b, ptrdiff_t m, ptrdiff_t from, ptrdiff_t to,
                                   const double *sets, ptrdiff_t apart)
{
    const strided_array *t = &job->t, *grad = &job->grad, *hess = &job->hess;
    one *none = room + 3 * SETS_TILE, *all = none + SETS_TILE, *between = all + SETS_TILE;
    one *at_none = between + SETS_TILE, *at_all = at_none + SETS_TILE, *at_between = at_all + SETS_TILE;
    one *keeps = at_between + SETS_TILE; /* 0: the set is skipped */
    int odd_set[SETS_TILE], any_odd = 0;
    const int g_lies = FORMULA(in_place)(grad->type, 0, 1, grad->s, 0), h_lies = FORMULA(in_place)(hess->type, 0, 1, hess->s, 0);
    for (ptrdiff_t i = 0; i < SETS_TILE; i++) {
        const double *set = sets + (i < m ? i : 0) * apart;
        const double w = weight_at(job, a, b + (i < m ? i : 0));
        const set_slopes of = slopes_of(job, set, w);
        none[i] = (one)of.none, all[i] = (one)of.all, between[i] = (one)of.between, keeps[i] = w == 0 ? 0 : 1;
        at_none[i] = (one)of.at_none, at_all[i] = (one)of.at_all, at_between[i] = (one)of.at_between;
        odd_set[i] = w != 0 && FORMULA(is_odd)(job, &of);
        any_odd |= odd_set[i];
    }
    for (ptrdiff_t l = from; l < to; l++) {
        const one *x = FORMULA(read)(t, FORMULA(place)(job, t, a, b, l), t->s, m, room);
        char *gg = grad->at ? (char *)FORMULA(place)(job, grad, a, b, l) : NULL;
        char *hh = hess->at ? (char *)FORMULA(place)(job, hess, a, b, l) : NULL;
        one *g = g_lies ? (one *)gg : room + SETS_TILE, *h = !hh ? NULL : h_lies ? (one *)hh : room + 2 * SETS_TILE;
        real odd = R(0);
        for (ptrdiff_t i = 0, k; i < m; i += LANES) {
            k = m - i < LANES ? m - i : LANES;
            const real u = k < LANES ? LOAD_PART(x + i, k) : LOAD(x + i);
            const MASK skipped = EQ(LOAD(keeps + i), R(0));
            const real slope = FORMULA(between)(u, LOAD(none + i), LOAD(all + i), LOAD(between + i));
            const real kept = SELECT(skipped, R(0), slope);
            STORE_PART(g + i, kept, k);
            odd = MAD(R(0), kept, odd);
            if (!h) continue;
            const real by = FORMULA(between)(u, LOAD(at_none + i), LOAD(at_all + i), LOAD(at_between + i));
            const real bend = SELECT(skipped, R(0), by * slope);
            STORE_PART(h + i, bend, k);
            odd = MAD(R(0), bend, odd);
        }
        for (ptrdiff_t i = 0; (any_odd || !EVERY(EQ(odd, odd))) && i < m; i++)
            FORMULA(derive_again)(job, 1, x + i, sets + i * apart, weight_at(job, a, b + i), odd_set[i], g + i, h ? h + i : NULL);
        if (gg && !g_lies) FORMULA(write_line)(grad->type, gg, grad->s, m, g);
        if (hh && !h_lies) FORMULA(write_line)(hess->type, hh, hess->s, m, h);
    }
}
/* Sums of elements [from, to) of m sets from (a, b) on; and their derivatives, from what is known of the sets, `apart` numbers apart */
INLINE void FORMULA(sums_of)(const kernel_job *job, one *room, ptrdiff_t a, ptrdiff_t b, ptrdiff_t m, ptrdiff_t from, ptrdiff_t to,
                             double (*sums)[SUMS])
{
    if (job->tile > 1)
        FORMULA(sum_across)(job, room, a, b, m, from, to, sums);
    else
        FORMULA(sum_along)(job, room, a, b, from, to, sums[0]);
}
INLINE void FORMULA(derive)(const kernel_job *job, one *room, ptrdiff_t a, ptrdiff_t b, ptrdiff_t m, ptrdiff_t from, ptrdiff_t to,
                            const double *sets, ptrdiff_t apart)
{
    if (job->tile > 1)
        FORMULA(derive_across)(job, room, a, b, m, from, to, sets, apart);
    else
        FORMULA(derive_along)(job, room, a, b, from, to, sets);
}
/* Whole sets */
static void FORMULA(task)(const kernel_job *job, ptrdiff_t task, void *scratch, kernel_sums *found)
{
    one *room = scratch;
    const ptrdiff_t most = job->tile, all = job->n * job->tiles, next = (task + 1) * job->tiles_per_task, last = next < all ? next : all;
    for (ptrdiff_t tile = task * job->tiles_per_task; tile < last; tile++) {
        const ptrdiff_t a = tile / job->tiles, b = tile % job->tiles * most, m = job->s - b < most ? job->s - b : most;
        double sums[SETS_TILE][SUMS] = {{0}};
        FORMULA(sums_of)(job, room, a, b, m, 0, job->c, sums);
        for (ptrdiff_t i = 0; i < m; i++) {
            const found_set set = finish(job, a, b + i, sums[i], found);
            sums[i][0] = set.overlap, sums[i][1] = set.apart, sums[i][2] = set.whole;
        }
        if (job->grad.at || job->hess.at) FORMULA(derive)(job, room, a, b, m, 0, job->c, sums[0], SUMS);
    }
}
/* A segment of a tile's sets, and where the first of these begins in what is kept between the visits */
typedef struct {
    ptrdiff_t a, b, m, from, to, segment;
    double *kept;
} FORMULA(segment);
INLINE FORMULA(segment) FORMULA(segment_of)(const kernel_job *job, ptrdiff_t task)
{
    const ptrdiff_t tile = task / job->segments, segment = task % job->segments, a = tile / job->tiles, b = tile % job->tiles * job->tile;
    const ptrdiff_t from = segment * SETS_SEGMENT, to = from + SETS_SEGMENT < job->c ? from + SETS_SEGMENT : job->c;
    const ptrdiff_t m = job->s - b < job->tile ? job->s - b : job->tile;
    return (FORMULA(segment)){a, b, m, from, to, segment, (double *)job->kept + (a * job->s + b) * job->segments * SUMS};
}
static void FORMULA(sum_segment)(const kernel_job *job, ptrdiff_t task, void *scratch)
{
    const FORMULA(segment) x = FORMULA(segment_of)(job, task);
    double sums[SETS_TILE][SUMS] = {{0}};
    FORMULA(sums_of)(job, scratch, x.a, x.b, x.m, x.from, x.to, sums);
    for (ptrdiff_t i = 0; i < x.m; i++)
        for (int k = 0; k < SUMS; k++) x.kept[(i * job->segments + x.segment) * SUMS + k] = sums[i][k];
}
static void FORMULA(derive_segment)(const kernel_job *job, ptrdiff_t task, void *scratch)
{
    const FORMULA(segment) x = FORMULA(segment_of)(job, task);
    FORMULA(derive)(job, scratch, x.a, x.b, x.m, x.from, x.to, x.kept, job->segments * SUMS);
}
