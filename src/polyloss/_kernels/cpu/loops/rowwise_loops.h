/* Row-wise losses for one type; included by rowwise_simd.c for floats and for doubles.

   A row function takes one position's C targets and predictions, contiguous and of the type of computation, and gives its value; where g is
   not NULL it writes k times the slopes there, and where h is not NULL either k times the curvatures. room holds 2 C numbers. One of labels
   takes the position's label instead of its targets. Where the label's prediction alone counts, a function takes those of ROWWISE_TILE
   positions and gives their values, slopes and curvatures. One of logits gets the sums of its tile's rows, which are made before, one
   row after the other: the steps within a row wait for each other, those of two rows do not. */

typedef double FORMULA(row)(ptrdiff_t C, const one *t /* (C,) */, const one *p /* (C,) */, const one *a, one k, one *g /* (C,) */,
                            one *h /* (C,) */, one *room /* (2 C,) */);
typedef double FORMULA(row_of_label)(ptrdiff_t C, ptrdiff_t label, const one *p /* (C,) */, const one *a, one k, one *g /* (C,) */,
                                     one *h /* (C,) */);
typedef struct {
    one largest[ROWWISE_TILE], rest[ROWWISE_TILE];     /* of each row; Σ exp(z - largest), less 1 for the largest */
    one log_sum[ROWWISE_TILE], inverse[ROWWISE_TILE]; /* of 1 + rest */
} FORMULA(logit_sums);
typedef double FORMULA(row_of_logits)(ptrdiff_t C, const one *t /* (C,) */, const one *z /* (C,) */, const FORMULA(logit_sums) *sums,
                                      ptrdiff_t i, const one *a, one k, one *g /* (C,) */, one *h /* (C,) */, one *room /* (2 C,) */);
typedef void FORMULA(of_own)(ptrdiff_t m, const one *y /* (m,) */, const one *a, one *value, one *slope,
                             one *curvature /* or NULL, both */);

/* Rows of C numbers, `step` bytes from one to the next: where an array lies right as it is, else in the room they are copied to. */
typedef struct {
    char *at;
    ptrdiff_t step;
} FORMULA(lines);
INLINE one *FORMULA(line_of)(FORMULA(lines) x, ptrdiff_t i) { return x.at ? (one *)(x.at + i * x.step) : NULL; }

#define BLOCK (LANES > 1 ? 1024 : 64) /* numbers summed in lanes of the type before they go to a double: one lane loses more */
#define FOR_LANES(i, m, C) for (ptrdiff_t i = 0, m; i < C && (m = C - i < LANES ? C - i : LANES, 1); i += LANES)

/* A number that shares can be taken of, or NaN. */
INLINE one FORMULA(usable)(double sum)
{
    const one x = (one)sum;
    return x - x == 0 && x != 0 ? x : (one)NAN;
}
/* The three parts of a sum that a share is taken of; see share_of. */
#define OF_SUM(sum) R(FORMULA(usable)((sum).high)), R((one)(((sum).high - (double)(one)(sum).high) + (sum).low)), R((one)(1 / (sum).high))

INLINE double FORMULA(shares)(int focal, ptrdiff_t C, const one *t, const one *p, const one *a, one k, one *g, one *h, one *room)
{
    const sum_t sum = SUM_ROW(p, C);
    const real epsilon = R(a[focal ? 2 : 0]), smoothing = R(a[focal ? 3 : 1]), each = smoothing / R(C), alpha = R(a[0]), gamma = R(a[1]);
    const real high = R(FORMULA(usable)(sum.high));
    double total = 0, pull = 0, bend = 0;
    for (ptrdiff_t b = 0; b < C; b += BLOCK) {
        const ptrdiff_t n = C - b < BLOCK ? C - b : BLOCK;
        real losses = R(0), pulls = R(0), bends = R(0);
        FOR_LANES (i, m, n) {
            const real target = (R(1) - smoothing) * LOAD_PART(t + b + i, m) + each;
            const FORMULA(share) s = FORMULA(share_of)(LOAD_PART(p + b + i, m), OF_SUM(sum), epsilon);
            losses += SELECT(FIRST(m), FORMULA(share_value)(focal, target, s, alpha, gamma), R(0));
            if (!g) continue;
            const real own = FORMULA(share_first)(focal, target, s, alpha, gamma);
            STORE_PART(g + b + i, FORMULA(share_slope)(LOAD_PART(p + b + i, m), high, s, own), m);
            STORE_PART(room + b + i, own, m); /* through memory: a product kept in a fused sum would not cancel exactly */
            pulls += SELECT(FIRST(m), own, R(0));
            if (!h) continue;
            const real second = FORMULA(share_second)(focal, target, s, alpha, gamma), own_bend = FORMULA(share_bend)(own, second);
            STORE_PART(h + b + i, FORMULA(share_curvature)(LOAD_PART(p + b + i, m), high, s, own, second), m);
            STORE_PART(room + C + b + i, own_bend, m);
            bends += SELECT(FIRST(m), own_bend, R(0));
        }
        total += SUM(losses);
        pull += SUM(pulls);
        bend += SUM(bends);
    }
    if (g) {
        const real all = R((one)pull), factor = R((one)((double)k / sum.high));
        FOR_LANES (i, m, C) {
            const MASK small = FORMULA(is_small)(LOAD_PART(p + i, m), high);
            const real others = LOAD_PART(room + i, m) - all;
            STORE_PART(g + i, FORMULA(share_derivative)(small, R(k), LOAD_PART(g + i, m), others, factor, R(1)), m);
        }
    }
    if (h) {
        const real all = R((one)bend), factor = R((one)((double)k / sum.high)), inverse = R((one)(1 / sum.high));
        FOR_LANES (i, m, C) {
            const MASK small = FORMULA(is_small)(LOAD_PART(p + i, m), high);
            const real others = all - LOAD_PART(room + C + i, m); /* 1 / S² may be infinite where others / S² is not */
            STORE_PART(h + i, FORMULA(share_derivative)(small, R(k), LOAD_PART(h + i, m), others, factor, inverse), m);
        }
    }
    return total + 0 * (double)FORMULA(usable)(sum.high); /* NaN of no shares, even if every target is 0 */
}
static double FORMULA(row_categorical_crossentropy)(ptrdiff_t C, const one *t, const one *p, const one *a, one k, one *g, one *h, one *room)
{
    return FORMULA(shares)(0, C, t, p, a, k, g, h, room);
}
static double FORMULA(row_categorical_focal_crossentropy)(ptrdiff_t C, const one *t, const one *p, const one *a, one k, one *g, one *h,
                                                          one *room)
{
    return FORMULA(shares)(1, C, t, p, a, k, g, h, room);
}
/* exp(z - largest). What the difference loses in rounding, low, is a share of that size of the exponential [Knuth, TAOCP 2, 4.2.2]. */
INLINE real FORMULA(exp_below)(real z, real largest)
{
    const real d = z - largest, back = d - z, low = (z - (d - back)) - (largest + back), e = EXP_NEG(d);
    return SELECT(EQ(e, R(0)), R(0), e + e * low); /* of -inf low is NaN */
}
/* The largest logit's own term stays out of its row's sum, so that its 1 - p keeps its digits. */
static void FORMULA(sum_logits)(FORMULA(lines) rows, const one *weight, ptrdiff_t m, ptrdiff_t C, FORMULA(logit_sums) *to)
{
    for (ptrdiff_t row = 0; row < m; row++) {
        to->rest[row] = 0;
        if (weight[row] == 0) continue;
        const one *z = FORMULA(line_of)(rows, row);
        real top = R(-INFINITY);
        FOR_LANES (i, m, C) top = MAX(top, SELECT(FIRST(m), LOAD_PART(z + i, m), top));
        const one largest = FORMULA(top)(top);
        double others = -1, tail = 0; /* Σ exp(z - largest) but for one 1: others + tail */
        for (ptrdiff_t b = 0; b < C; b += BLOCK) {
            const ptrdiff_t n = C - b < BLOCK ? C - b : BLOCK;
            real sum = R(0), ties = R(0);
            FOR_LANES (i, m, n) {
                const real x = LOAD_PART(z + b + i, m);
                const MASK tie = EQ(x, R(largest));
                sum += SELECT(FIRST(m), SELECT(tie, R(0), FORMULA(exp_below)(x, R(largest))), R(0));
                ties += SELECT(FIRST(m), SELECT(tie, R(1), R(0)), R(0));
            }
            others += SUM(ties);
            tail += SUM(sum);
        }
        to->largest[row] = largest;
        to->rest[row] = (one)(others + tail);
    }
    for (ptrdiff_t i = 0; i < m; i += LANES) {
        const real rest = LOAD_PART(to->rest + i, m - i < LANES ? m - i : LANES);
        STORE(to->log_sum + i, LOG1P(rest));
        STORE(to->inverse + i, R(1) / (R(1) + rest));
    }
}
/* Σ of -α t (1 - softmax(z))^γ log softmax(z). */
static double FORMULA(row_categorical_focal_crossentropy_from_logits)(ptrdiff_t C, const one *t, const one *z,
                                                                      const FORMULA(logit_sums) *sums, ptrdiff_t row, const one *a, one k,
                                                                      one *g, one *h, one *room)
{
    const real alpha = R(a[0]), gamma = R(a[1]), smoothing = R(a[2]), each = smoothing / R(C), largest = R(sums->largest[row]);
    const real rest = R(sums->rest[row]), log_sum = R(sums->log_sum[row]), inverse = R(sums->inverse[row]);
    double total = 0, far_first = 0, near_first = 0, far_bend = 0, near_second = 0, near_q = 0;
    for (ptrdiff_t b = 0; b < C; b += BLOCK) {
        const ptrdiff_t n = C - b < BLOCK ? C - b : BLOCK;
        real losses = R(0), firsts = R(0), near_firsts = R(0), bends = R(0), near_seconds = R(0), near_qs = R(0);
        FOR_LANES (i, m, n) {
            const real target = (R(1) - smoothing) * LOAD_PART(t + b + i, m) + each, x = LOAD_PART(z + b + i, m), d = x - largest;
            const real l = d - log_sum, p = FORMULA(exp_below)(x, largest) * inverse, q = SELECT(EQ(d, R(0)), rest * inverse, R(1) - p);
            losses += SELECT(FIRST(m), FORMULA(logits_value)(target, l, q, alpha, gamma), R(0));
            if (!g) continue;
            const real first = FORMULA(logits_first)(target, l, p, q, alpha, gamma);
            STORE_PART(room + b + i, first, m); /* through memory, as above */
            firsts += SELECT(FIRST(m), FORMULA(far)(q, first), R(0));
            near_firsts += SELECT(FIRST(m), FORMULA(near)(q, first), R(0));
            if (!h) continue;
            const real second = FORMULA(logits_second)(target, l, p, q, alpha, gamma);
            STORE_PART(room + C + b + i, second, m);
            bends += SELECT(FIRST(m), FORMULA(far)(q, second / q), R(0));
            near_seconds += SELECT(FIRST(m), FORMULA(near)(q, second), R(0));
            near_qs += SELECT(FIRST(m), FORMULA(near)(q, q), R(0));
        }
        total += SUM(losses);
        far_first += SUM(firsts), near_first += SUM(near_firsts);
        far_bend += SUM(bends), near_second += SUM(near_seconds), near_q += SUM(near_qs);
    }
    if (!g) return total;
    const real far_sum = R((one)far_first), near_sum = R((one)near_first), all = R((one)(far_first + near_first));
    FOR_LANES (i, m, C) {
        const real x = LOAD_PART(z + i, m), d = x - largest, first = LOAD_PART(room + i, m);
        const real p = FORMULA(exp_below)(x, largest) * inverse, q = SELECT(EQ(d, R(0)), rest * inverse, R(1) - p);
        STORE_PART(g + i, R(k) * FORMULA(logits_slope)(p, q, first, far_sum, near_sum), m);
        if (!h) continue;
        const real second = LOAD_PART(room + C + i, m), of_near = R((one)near_second), q_of_near = R((one)near_q);
        STORE_PART(h + i, R(k) * FORMULA(logits_curvature)(p, q, second, all, R((one)far_bend), of_near, q_of_near), m);
    }
    return total;
}
/* The categorical cross-entropy of a one-hot target, of which the label is given. */
static double FORMULA(row_sparse_categorical_crossentropy)(ptrdiff_t C, ptrdiff_t label, const one *p, const one *a, one k, one *g, one *h)
{
    const sum_t sum = SUM_ROW(p, C);
    const FORMULA(share) s = FORMULA(share_of)(R(p[label]), OF_SUM(sum), R(a[0]));
    one value[LANES], own[LANES], others[LANES];
    STORE(value, -s.log);
    if (g) {
        const real factor = R((one)((double)k / sum.high));
        STORE(own, R(k) * FORMULA(label_slope)(R(p[label]), s));
        STORE(others, FORMULA(per_sum)(FORMULA(other_slope)(s), factor));
        const real x = R(others[0]);
        FOR_LANES (i, m, C) STORE_PART(g + i, x, m);
        g[label] = own[0];
    }
    if (h) {
        const real factor = R((one)((double)k / sum.high)), inverse = R((one)(1 / sum.high));
        STORE(own, R(k) * FORMULA(label_curvature)(R(p[label]), s));
        STORE(others, FORMULA(per_sum)(FORMULA(per_sum)(FORMULA(other_curvature)(s), factor), inverse));
        const real x = R(others[0]);
        FOR_LANES (i, m, C) STORE_PART(h + i, x, m);
        h[label] = own[0];
    }
    return (double)value[0];
}
/* max(max_c (1 - t) p - Σ t p + 1, 0); of several largest the first has the slope. */
static double FORMULA(row_categorical_hinge)(ptrdiff_t C, const one *t, const one *p, const one *a, one k, one *g, one *h, one *room)
{
    ptrdiff_t first = 0;
    real top = R(-INFINITY);
    double right = 0;
    (void)a, (void)room;
    for (ptrdiff_t b = 0; b < C; b += BLOCK) {
        const ptrdiff_t n = C - b < BLOCK ? C - b : BLOCK;
        real sum = R(0);
        FOR_LANES (i, m, n) {
            const real x = LOAD_PART(t + b + i, m), y = LOAD_PART(p + b + i, m);
            top = MAX(top, SELECT(FIRST(m), FORMULA(wrong)(x, y), top));
            sum += FORMULA(part)(x, y);
        }
        right += SUM(sum);
    }
    const one largest = FORMULA(top)(top);
    for (ptrdiff_t c = 0; h && c < C; c++) h[c] = 0;
    const double margin = ((double)largest - right) + 1; /* a NaN is in the sum, if not in the maximum */
    if (!(margin > 0)) {
        for (ptrdiff_t c = 0; g && c < C; c++) g[c] = margin <= 0 ? 0 : (one)margin;
        return margin <= 0 ? 0 : margin;
    }
    if (g) {
        while (first < C - 1 && (t[first] == 1 || (1 - t[first]) * p[first] != largest) && !(t[first] == 1 && largest == 0)) first++;
        FOR_LANES (i, m, C) STORE_PART(g + i, R(-k) * LOAD_PART(t + i, m), m);
        g[first] = k * ((1 - t[first]) - t[first]);
    }
    return margin;
}

/* x times a power of two that brings its largest entry near 1, in room, if that entry is at least `limit`, where squares could overflow,
   or, if not floored, at most 1 / limit, where they could vanish; else x itself. */
static const one *FORMULA(rescale_by_power_of_two)(const one *x, ptrdiff_t C, int floored, double limit, one *room, int *exponent)
{
    real top = R(0);
    *exponent = 0;
    FOR_LANES (i, m, C) top = MAX(top, ABS(LOAD_PART(x + i, m)));
    const double size = (double)FORMULA(top)(top);
    if (size == 0 || !(size <= DBL_MAX) || (size < limit && (floored || size > 1 / limit))) return x;
    frexp(size, exponent);
    for (ptrdiff_t c = 0; c < C; c++) room[c] = (one)ldexp((double)x[c], -*exponent);
    return room;
}
/* -Σ t p / sqrt((Σ t² + epsilon) (Σ p² + epsilon)); 0 where a factor is. */
INLINE double FORMULA(cosine)(double epsilon, ptrdiff_t C, const one *t, const one *p, one k, one *g, one *h, one *room)
{
    const one *const given_t = t, *const given_p = p;
    const double far = sizeof(one) == 4 ? 0x1p40 : 0x1p400, least = sizeof(one) == 4 ? 0x1p-100 : 0x1p-960;
    int t_exponent, p_exponent;
    double tt, pp, tp;
    for (double limit = far;; limit = 2) {
        t = FORMULA(rescale_by_power_of_two)(given_t, C, epsilon > 0, limit, room, &t_exponent);
        p = FORMULA(rescale_by_power_of_two)(given_p, C, epsilon > 0, limit, room + C, &p_exponent);
        tt = pp = tp = 0;
        for (ptrdiff_t b = 0; b < C; b += BLOCK) {
            const ptrdiff_t n = C - b < BLOCK ? C - b : BLOCK;
            real xx = R(0), yy = R(0), xy = R(0);
            FOR_LANES (i, m, n) {
                const real x = LOAD_PART(t + b + i, m), y = LOAD_PART(p + b + i, m);
                xx += x * x, yy += y * y, xy += x * y;
            }
            tt += SUM(xx), pp += SUM(yy), tp += SUM(xy);
        }
        /* Of short vectors nearly at a right angle, products may have gone below the normal numbers: once more near 1. */
        const int lost = fabs(tp) < least && tt > 0 && pp > 0 && (tt < 0x1p-4 || pp < 0x1p-4);
        if (!lost || limit == 2 || epsilon > 0) break;
    }
    tt += ldexp(epsilon, -2 * t_exponent), pp += ldexp(epsilon, -2 * p_exponent);
    if ((tt == 0 || pp == 0) && tp == tp) { /* beside a vector with NaN or an infinity 0 is none */
        for (ptrdiff_t c = 0; g && c < C; c++) g[c] = 0;
        for (ptrdiff_t c = 0; h && c < C; c++) h[c] = 0;
        return 0;
    }
    const double t_norm = sqrt(tt), p_norm = sqrt(pp);
    if (g) {
        int up = 0; /* t times 2^-up is about 1: of a short one, and a small cosine, the ratio would fall below the normal numbers */
        if (t_norm <= DBL_MAX) frexp(t_norm, &up); /* which gives infinities and NaN no exponent */
        const real ratio = R((one)(ldexp(tp, -up) / pp)), unit = R((one)ldexp(1, -up)), by_t = R((one)ldexp(1 / t_norm, up));
        const int part = p_exponent < 0 ? p_exponent / 2 : 0; /* 1 / ||p|| by halves: of the least numbers it overflows */
        const real by_p = R((one)ldexp((double)k / p_norm, part - p_exponent)), rest = R((one)ldexp(1, -part));
        FOR_LANES (i, m, C) {
            const real slope = FORMULA(cosine_slope)(unit * LOAD_PART(t + i, m), LOAD_PART(p + i, m), ratio, by_t, by_p);
            STORE_PART(g + i, slope * rest, m);
        }
    }
    if (h) {
        const real cos = R((one)(tp / t_norm / p_norm)), by_t = R((one)(1 / t_norm)), by_p = R((one)(1 / p_norm));
        const real inverse = R((one)ldexp(1 / p_norm, -p_exponent)), factor = R(k) * inverse;
        FOR_LANES (i, m, C) {
            const real x = LOAD_PART(t + i, m) * by_t, y = LOAD_PART(p + i, m) * by_p;
            STORE_PART(h + i, TIMES(TIMES(FORMULA(cosine_curvature)(x, y, cos), inverse), factor), m);
        }
    }
    return -tp / t_norm / p_norm;
}
static double FORMULA(row_cosine_similarity)(ptrdiff_t C, const one *t, const one *p, const one *a, one k, one *g, one *h, one *room)
{
    (void)a;
    return FORMULA(cosine)(0, C, t, p, k, g, h, room);
}
static double FORMULA(row_floored_cosine_similarity)(ptrdiff_t C, const one *t, const one *p, const one *a, one k, one *g, one *h,
                                                     one *room)
{
    return FORMULA(cosine)((double)a[0], C, t, p, k, g, h, room);
}


/* Numbers of lanes, and which of them, counted from class i on, is class c. */
static const one FORMULA(steps)[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
INLINE MASK FORMULA(is_class)(ptrdiff_t i, ptrdiff_t c) { return EQ(LOAD(FORMULA(steps)), R((one)(c - i))); }
INLINE void FORMULA(fill_with_0)(one *x, ptrdiff_t C)
{
    FOR_LANES (i, m, C) STORE_PART(x + i, R(0), m);
}
/* Value and slopes of hinge_of_all where a sum left the range: terms are divided by C before they are added. What is infinite or NaN for
   another reason is so here, too. */
static double FORMULA(hinge_divided)(int square, ptrdiff_t C, ptrdiff_t label, const one *p, one margin, one k, one *g)
{
    const double n = (double)C, own = (double)p[label] / n, by = (double)margin / n;
    double total = 0, first = 0;
    for (ptrdiff_t c = 0; c < C; c++) {
        const double part = (by + (double)p[c] / n) - own;
        const double u = c == label || (margin + p[c]) - p[label] <= 0 ? 0 : part;
        const double slope = square ? 2 * u : u > 0 ? 1 / n : u;
        total += square ? u * (u * n) : u;
        first += slope;
        if (g) g[c] = (one)((double)k * slope);
    }
    if (g) g[label] = (one)(0 - (double)k * first);
    return p[label] == p[label] ? total : (double)NAN;
}
/* The excess of all wrong classes; the label's derivatives are made of theirs. */
INLINE double FORMULA(hinge_of_all)(int square, ptrdiff_t C, ptrdiff_t label, const one *p, one margin, one k, one *g, one *h)
{
    const real own = R(p[label]), by = R(margin), share = R((one)((double)k / (double)C)), none = R(-INFINITY);
    double total = 0, first = 0, second = 0;
    for (ptrdiff_t b = 0; b < C; b += BLOCK) {
        const ptrdiff_t n = C - b < BLOCK ? C - b : BLOCK;
        real values = R(0), firsts = R(0), seconds = R(0);
        FOR_LANES (i, m, n) {
            real x = FORMULA(violation)(LOAD_PART(p + b + i, m), own, by);
            x = SELECT(FIRST(m), SELECT(FORMULA(is_class)(b + i, label), none, x), none);
            values += FORMULA(violation_value)(square, x);
            if (!g) continue;
            const real slope = FORMULA(violation_first)(square, x);
            firsts += slope;
            STORE_PART(g + b + i, share * slope, m);
            if (!h) continue;
            const real bend = FORMULA(violation_second)(square, x);
            seconds += bend;
            STORE_PART(h + b + i, share * bend, m);
        }
        total += SUM(values);
        if (g) first += SUM(firsts);
        if (h) second += SUM(seconds);
    }
    if (g) g[label] = 0 - (one)((double)k / (double)C * first);
    if (h) h[label] = (one)((double)k / (double)C * second);
    if (total - total != 0) return FORMULA(hinge_divided)(square, C, label, p, margin, k, g);
    return p[label] == p[label] ? total / (double)C : (double)NAN; /* though there may be no wrong class */
}
/* That of the largest wrong class; NaN counts as larger than all numbers, and of several largest the first is taken. */
INLINE double FORMULA(hinge_of_largest)(int square, ptrdiff_t C, ptrdiff_t label, const one *p, one margin, one k, one *g, one *h)
{
    const real none = R(-INFINITY);
    const one own = p[label];
    real top = none;
    MASK known = EQ(none, none);
    if (g) FORMULA(fill_with_0)(g, C);
    if (h) FORMULA(fill_with_0)(h, C);
    if (C == 1) return own == own ? 0 : (double)NAN;
    FOR_LANES (i, m, C) {
        const real z = LOAD_PART(p + i, m), x = SELECT(FIRST(m), SELECT(FORMULA(is_class)(i, label), none, z), none);
        top = MAX(x, top);
        known = AND(known, EQ(x, x));
    }
    const int missing = !EVERY(known);
    const one largest = missing ? (one)NAN : FORMULA(top)(top);
    const real x = FORMULA(violation)(R(largest), R(own), R(margin));
    const double value = (double)FORMULA(lane)(FORMULA(violation_value)(square, x));
    if (!g || FORMULA(lane)(x) <= 0) return value; /* the square of a small excess is 0, but not its slope */
    ptrdiff_t first = 0;
    FOR_LANES (i, m, C) { /* the first class that is the largest, or else the first that is NaN */
        const real z = LOAD_PART(p + i, m), far = R(-LANES), place = R(0) - LOAD(FORMULA(steps));
        const real at = missing ? SELECT(EQ(z, z), far, place) : SELECT(EQ(z, R(largest)), place, far);
        const one nearest = FORMULA(top)(SELECT(FIRST(m), SELECT(FORMULA(is_class)(i, label), far, at), far));
        first = i + (ptrdiff_t)-nearest;
        if (nearest > -LANES) break;
    }
    const one slope = k * FORMULA(lane)(FORMULA(violation_first)(square, x));
    if (own == own)
        g[first] = slope, g[label] = -slope;
    else
        for (ptrdiff_t c = 0; c < C; c++) g[c] = (one)NAN;
    if (h) h[first] = h[label] = k * FORMULA(lane)(FORMULA(violation_second)(square, x));
    return value;
}
/* max(0, margin + z_j - z_y)^power of the largest wrong class j, or the sum of that over all wrong classes, divided by C. */
static double FORMULA(row_multiclass_hinge)(ptrdiff_t C, ptrdiff_t label, const one *p, const one *a, one k, one *g, one *h)
{
    if (a[2] != 0)
        return a[1] == 2 ? FORMULA(hinge_of_all)(1, C, label, p, a[0], k, g, h) : FORMULA(hinge_of_all)(0, C, label, p, a[0], k, g, h);
    return a[1] == 2 ? FORMULA(hinge_of_largest)(1, C, label, p, a[0], k, g, h) : FORMULA(hinge_of_largest)(0, C, label, p, a[0], k, g, h);
}
/* Σ (p - t)², t one-hot. */
static double FORMULA(row_brier)(ptrdiff_t C, ptrdiff_t label, const one *p, const one *a, one k, one *g, one *h)
{
    const real factor = R(2) * R(k);
    double total = 0;
    (void)a;
    for (ptrdiff_t b = 0; b < C; b += BLOCK) {
        const ptrdiff_t n = C - b < BLOCK ? C - b : BLOCK;
        real squares = R(0);
        FOR_LANES (i, m, n) {
            const real d = LOAD_PART(p + b + i, m) - SELECT(FORMULA(is_class)(b + i, label), R(1), R(0));
            squares += d * d;
            if (g) STORE_PART(g + b + i, factor * d, m);
            if (h) STORE_PART(h + b + i, factor, m);
        }
        total += SUM(squares);
    }
    return total;
}
/* m is any number up to ROWWISE_TILE, and so many numbers more may be read and written as fill a vector. */
static void FORMULA(own_generalized_crossentropy)(ptrdiff_t m, const one *y, const one *a, one *value, one *slope, one *curvature)
{
    const real q = R(a[0]);
    for (ptrdiff_t i = 0; i < m; i += LANES) {
        STORE(value + i, FORMULA(generalized_value)(LOAD(y + i), q));
        if (slope) STORE(slope + i, FORMULA(generalized_slope)(LOAD(y + i), q));
        if (curvature) STORE(curvature + i, FORMULA(generalized_curvature)(LOAD(y + i), q));
    }
}

/* In the order of ROWWISE: of targets, of labels, which never pass through floats, of the label's prediction, or of logits and targets. */
static const struct {
    FORMULA(row) *of_targets;
    FORMULA(row_of_label) *of_label;
    FORMULA(of_own) *of_own;
    FORMULA(row_of_logits) *of_logits;
} FORMULA(rows)[] = {
    {.of_targets = FORMULA(row_categorical_crossentropy)},
    {.of_targets = FORMULA(row_categorical_focal_crossentropy)},
    {.of_logits = FORMULA(row_categorical_focal_crossentropy_from_logits)},
    {.of_label = FORMULA(row_sparse_categorical_crossentropy)},
    {.of_targets = FORMULA(row_categorical_hinge)},
    {.of_targets = FORMULA(row_cosine_similarity)},
    {.of_targets = FORMULA(row_floored_cosine_similarity)},
    {.of_label = FORMULA(row_multiclass_hinge)},
    {.of_label = FORMULA(row_brier)},
    {.of_own = FORMULA(own_generalized_crossentropy)},
};

INLINE int FORMULA(lies)(const strided_array *x) { return FORMULA(in_place)(x->type, 0, 1, x->c, 0); }
INLINE int FORMULA(turned)(const strided_array *x, ptrdiff_t m) /* positions are nearer to each other than classes */
{
    return m > 1 && (x->s < 0 ? -x->s : x->s) < (x->c < 0 ? -x->c : x->c);
}
static FORMULA(lines) FORMULA(place)(const strided_array *x, char *from, ptrdiff_t C, one *room)
{
    if (from && FORMULA(lies)(x)) return (FORMULA(lines)){from, x->s};
    return (FORMULA(lines)){(char *)room, C * (ptrdiff_t)sizeof(one)};
}
/* m positions' rows. */
static FORMULA(lines) FORMULA(gather)(const strided_array *x, char *from, ptrdiff_t m, ptrdiff_t C, one *room, one *line)
{
    const FORMULA(lines) rows = FORMULA(place)(x, from, C, room);
    if (rows.at == from) return rows;
    if (!FORMULA(turned)(x, m)) {
        for (ptrdiff_t i = 0; i < m; i++) FORMULA(read_line)(x->type, from + i * x->s, x->c, C, room + i * C);
        return rows;
    }
    for (ptrdiff_t c = 0; c < C; c++) {
        FORMULA(read_line)(x->type, from + c * x->c, x->s, m, line);
        for (ptrdiff_t i = 0; i < m; i++) room[i * C + c] = line[i];
    }
    return rows;
}
/* Back to where they belong, unless they were written there. */
static void FORMULA(scatter)(const strided_array *x, char *to, ptrdiff_t m, ptrdiff_t C, const one *room, one *line)
{
    if (!to || FORMULA(lies)(x)) return;
    if (!FORMULA(turned)(x, m)) {
        for (ptrdiff_t i = 0; i < m; i++) FORMULA(write_line)(x->type, to + i * x->s, x->c, C, room + i * C);
        return;
    }
    for (ptrdiff_t c = 0; c < C; c++) {
        for (ptrdiff_t i = 0; i < m; i++) line[i] = room[i * C + c];
        FORMULA(write_line)(x->type, to + c * x->c, x->s, m, line);
    }
}
static void FORMULA(task)(const kernel_job *job, ptrdiff_t task, void *scratch, kernel_sums *sums)
{
    const ptrdiff_t C = job->c, most = job->tile, all = job->n * job->tiles;
    const ptrdiff_t last = (task + 1) * job->tiles_per_task < all ? (task + 1) * job->tiles_per_task : all;
    const strided_array *t = &job->t, *p = &job->p, *grad = &job->grad, *hess = &job->hess, *weight = &job->weight, *losses = &job->losses;
    const int labelled = job->labelled;
    FORMULA(row) *of_targets = FORMULA(rows)[job->loss].of_targets;
    FORMULA(row_of_label) *of_label = FORMULA(rows)[job->loss].of_label;
    FORMULA(of_own) *of_own = FORMULA(rows)[job->loss].of_own;
    FORMULA(row_of_logits) *of_logits = FORMULA(rows)[job->loss].of_logits;
    FORMULA(logit_sums) of_rows;
    one a[ROWWISE_PARAMETERS], w[ROWWISE_TILE], line[ROWWISE_TILE], first[ROWWISE_TILE] = {0}, rest[ROWWISE_TILE];
    one own[ROWWISE_TILE] = {0}, values[ROWWISE_TILE], own_slopes[ROWWISE_TILE], own_curvatures[ROWWISE_TILE];
    int32_t label[ROWWISE_TILE];
    one *room = scratch, *room_t = room + 2 * C, *room_p = room_t + most * C, *room_g = room_p + most * C, *room_h = room_g + most * C;
    for (int i = 0; i < ROWWISE_PARAMETERS; i++) a[i] = (one)job->parameters[i];
    for (ptrdiff_t i = 0; i < most; i++) w[i] = 1;
    for (ptrdiff_t tile = task * job->tiles_per_task; tile < last; tile++) {
        const ptrdiff_t at = tile / job->tiles, b = tile % job->tiles * most, m = job->s - b < most ? job->s - b : most;
        char *gg = grad->at ? grad->at + at * grad->n + b * grad->s : NULL, *hh = hess->at ? hess->at + at * hess->n + b * hess->s : NULL;
        if (weight->at) FORMULA(read_line)(weight->type, weight->at + at * weight->n + b * weight->s, weight->s, m, w);
        if (labelled) read_labels(label, job, at, b, m);
        const int odd = (gg || hh) && FORMULA(factors)(job->scale, w, m, first, rest);
        const FORMULA(lines) nowhere = {NULL, 0};
        const FORMULA(lines) x = labelled ? nowhere : FORMULA(gather)(t, t->at + at * t->n + b * t->s, m, C, room_t, line);
        const FORMULA(lines) y = of_own ? nowhere : FORMULA(gather)(p, p->at + at * p->n + b * p->s, m, C, room_p, line);
        const FORMULA(lines) slopes = gg || hh ? FORMULA(place)(grad, gg, C, room_g) : nowhere;
        const FORMULA(lines) curvatures = hh ? FORMULA(place)(hess, hh, C, room_h) : nowhere;
        if (of_own) {
            const char *from = p->at + at * p->n + b * p->s;
            for (ptrdiff_t i = 0; i < m; i++)
                if (label[i] >= 0 && w[i] != 0) FORMULA(read_line)(p->type, from + i * p->s + label[i] * p->c, 0, 1, own + i);
            of_own(m, own, a, values, gg || hh ? own_slopes : NULL, hh ? own_curvatures : NULL);
        }
        if (of_logits) FORMULA(sum_logits)(y, w, m, C, &of_rows);
        for (ptrdiff_t i = 0; i < m; i++) {
            one *g = FORMULA(line_of)(slopes, i), *h = FORMULA(line_of)(curvatures, i);
            double value = 0;
            const int skipped = labelled && label[i] == IGNORED;
            if (!skipped) {
                sums->count++;
                sums->weights += (double)w[i];
            }
            const one k = first[i];
            one fill = 0; /* of both derivatives, where the row is not looked at */
            int looked = 0;
            if (labelled && label[i] == BAD) {
                const ptrdiff_t place = at * job->flat_n + (b + i) * job->flat_s;
                if (sums->bad < 0 || place < sums->bad) sums->bad = place;
                value = NAN, fill = (one)NAN;
            } else if (!skipped && w[i] != 0) {
                looked = k != 0;
                if (of_own) {
                    value = (double)values[i];
                    if (looked && g) FORMULA(fill_with_0)(g, C), g[label[i]] = k * own_slopes[i];
                    if (looked && h) FORMULA(fill_with_0)(h, C), h[label[i]] = k * own_curvatures[i];
                } else if (labelled)
                    value = of_label(C, label[i], FORMULA(line_of)(y, i), a, k, g, h);
                else if (of_logits)
                    value = of_logits(C, FORMULA(line_of)(x, i), FORMULA(line_of)(y, i), &of_rows, i, a, k, g, h, room);
                else
                    value = of_targets(C, FORMULA(line_of)(x, i), FORMULA(line_of)(y, i), a, k, g, h, room);
                if (odd && looked && g) FORMULA(multiply)(g, rest[i], C);
                if (odd && looked && h) FORMULA(multiply)(h, rest[i], C);
                value *= (double)w[i];
            }
            for (ptrdiff_t c = 0; !looked && g && c < C; c++) g[c] = fill;
            for (ptrdiff_t c = 0; !looked && h && c < C; c++) h[c] = fill;
            sums->total += value;
            line[i] = (one)value;
        }
        if (losses->at) FORMULA(write_line)(losses->type, losses->at + at * losses->n + b * losses->s, losses->s, m, line);
        FORMULA(scatter)(grad, gg, m, C, room_g, line);
        FORMULA(scatter)(hess, hh, m, C, room_h, line);
    }
}
#undef BLOCK
#undef FOR_LANES
#undef OF_SUM
