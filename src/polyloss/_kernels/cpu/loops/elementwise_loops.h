/* The loops of the elementwise losses for one type; included by elementwise_simd.c for floats and for doubles.

   evaluate   a formula over contiguous numbers of the type of computation: the only loop that knows formulas, in three builds of each
              (value; value and slope; slope and curvature).
   read, write   any kind and stride to and from that, a tile at a time; what lies right is used in place.
   task       weights, sums and outputs of some positions; two orders, by how positions lie in memory. */

#define TILE ELEMENTWISE_TILE
#define SHORT (TILE / 2) /* elements of a position that are added in double */
#define SUMS (4 * LANES) /* sums that evaluate goes on with at once */
/* Elements summed in lanes of the type before they go to a double: of floats 64 a lane, at most. With 128 sums were off by 5 units. */
#define BLOCK (LANES * sizeof(one) < 32 ? 64 * (ptrdiff_t)(LANES * sizeof(one)) : 2048)
#define AHEAD 1024 /* floats prefetched ahead: the hardware's prefetcher stops at pages */

typedef real FORMULA(formula)(real t, real p, const real *a);
typedef double FORMULA(evaluation)(ptrdiff_t n, const one *t /* (n,) */, const one *p /* (n,) */, const one *parameters, one k,
                                   one *value /* (n,) or NULL */, one *slope /* likewise, times k */, one *curvature /* likewise */,
                                   int stream);

/* a[FORMULA_PARAMETERS]: HARD */
INLINE real FORMULA(known)(FORMULA(formula) *value_of, FORMULA(formula) *slope_of, FORMULA(formula) *curvature_of, real t, real p,
                           const real *a, real k, int hard, real *slope, real *curvature)
{
    real b[FORMULA_PARAMETERS + 1];
    for (int i = 0; i < FORMULA_PARAMETERS; i++) b[i] = a[i];
    b[FORMULA_PARAMETERS] = hard ? R(1) : R(0);
    if (slope_of) *slope = k * slope_of(t, p, b);
    if (curvature_of) *curvature = k * curvature_of(t, p, b);
    return value_of(t, p, b);
}
/* bits: whether targets are looked at: hard ones, 0 or 1, have shorter formulas. In a vector with both kinds each lane gets the result
   of its own kind, so that it does not depend on its neighbours. Every branch computes value and slope, which share most of their work. */
INLINE real FORMULA(step)(FORMULA(formula) *value_of, FORMULA(formula) *slope_of, FORMULA(formula) *curvature_of, real t, real p,
                          const real *a, real k, int bits, real *slope, real *curvature)
{
    if (bits) {
        const MASK hard = EQ(t * t - t, R(0));
        real value = R(0), own = R(0);
        if (ANY(hard)) value = FORMULA(known)(value_of, slope_of, NULL, t, p, a, k, 1, slope, NULL);
        if (EVERY(hard)) return value;
        const real other = FORMULA(known)(value_of, slope_of, NULL, t, p, a, k, 0, &own, NULL);
        if (slope_of) *slope = SELECT(hard, *slope, own);
        return SELECT(hard, value, other);
    }
    return FORMULA(known)(value_of, slope_of, curvature_of, t, p, a, k, 0, slope, curvature);
}

/* Inlined into every formula's evaluation, with the formulas as constants. Gives Σ value. */
INLINE double FORMULA(evaluate)(FORMULA(formula) *value_of, FORMULA(formula) *slope_of, FORMULA(formula) *curvature_of, ptrdiff_t n,
                                const one *t, const one *p, const one *parameters, int bits, one factor, one *value, one *slope,
                                one *curvature, int stream)
{
    real a[FORMULA_PARAMETERS], k = R(factor), g = R(0), h = R(0);
    double sum = 0;
    for (int i = 0; i < FORMULA_PARAMETERS; i++) a[i] = R(parameters[i]);
    /* Streaming needs aligned vectors: the first, partial one ends where slope is aligned. */
    ptrdiff_t head = slope_of && stream ? (ptrdiff_t)((-(uintptr_t)slope % sizeof(real)) / sizeof(one)) : 0;
    stream = stream && (uintptr_t)(slope + head) % sizeof(real) == 0;
    const int stream_both = stream && (uintptr_t)(curvature + head) % sizeof(real) == 0;
    for (ptrdiff_t i = 0, end; i < n; i = end) {
        end = i < head ? (head < n ? head : n) : i + BLOCK < n ? i + BLOCK : n;
        real s[4] = {R(0), R(0), R(0), R(0)};
        for (; i + 4 * LANES <= end; i += 4 * LANES)
            for (int j = 0; j < 4; j++) {
                ptrdiff_t at = i + j * LANES;
                PREFETCH(t + at + AHEAD);
                PREFETCH(p + at + AHEAD);
                real v = FORMULA(step)(value_of, slope_of, curvature_of, LOAD(t + at), LOAD(p + at), a, k, bits, &g, &h);
                ROUNDED(v); /* or the product that it is could go into the sum unrounded */
                s[j] += v;
                if (value) STORE(value + at, v);
                if (slope_of && stream)
                    STREAM(slope + at, g);
                else if (slope_of)
                    STORE(slope + at, g);
                if (curvature_of && stream_both)
                    STREAM(curvature + at, h);
                else if (curvature_of)
                    STORE(curvature + at, h);
            }
        for (; i < end; i += LANES) {
            ptrdiff_t m = end - i < LANES ? end - i : LANES;
            real v = FORMULA(step)(value_of, slope_of, curvature_of, LOAD_PART(t + i, m), LOAD_PART(p + i, m), a, k, bits, &g, &h);
            ROUNDED(v);
            s[0] += SELECT(FIRST(m), v, R(0));
            if (value) STORE_PART(value + i, v, m);
            if (slope_of) STORE_PART(slope + i, g, m);
            if (curvature_of) STORE_PART(curvature + i, h, m);
        }
        sum += SUM((s[0] + s[1]) + (s[2] + s[3]));
    }
    return sum;
}
/* Whether a loss of classification has its usual parameters: no label smoothing, γ = 2. These are constants of a build of its own, in whose
   loop the power is a product and targets are looked at: that they are hard saves a logarithm. */
INLINE int FORMULA(usual)(FORMULA(formula) *value_of, const one *parameters, one *constants /* (FORMULA_PARAMETERS,) */)
{
    const int focal = value_of == FORMULA(binary_focal_crossentropy_value),
              logits = value_of == FORMULA(binary_focal_crossentropy_from_logits_value);
    const int smoothing = focal ? 4 : logits ? 3 : 1;
    for (int i = 0; i < FORMULA_PARAMETERS; i++) constants[i] = parameters[i];
    constants[smoothing] = 0;
    if (focal || logits) constants[2] = 2;
    return (focal || logits || value_of == FORMULA(binary_crossentropy_value)) && parameters[smoothing] == 0 &&
           (parameters[2] == 2 || !(focal || logits));
}
#define EVALUATION(name, count, names)                                                                                                     \
    INLINE double FORMULA(builds_##name)(ptrdiff_t n, const one *t, const one *p, const one *parameters, int bits, one k, one *value,      \
                                         one *slope, one *curvature, int stream)                                                           \
    {                                                                                                                                      \
        if (curvature)                                                                                                                     \
            return FORMULA(evaluate)(FORMULA(name##_value), FORMULA(name##_slope), FORMULA(name##_curvature), n, t, p, parameters, 0, k,   \
                                     value, slope, curvature, stream);                                                                     \
        if (slope)                                                                                                                         \
            return FORMULA(evaluate)(FORMULA(name##_value), FORMULA(name##_slope), NULL, n, t, p, parameters, bits, k, value, slope, NULL, \
                                     stream);                                                                                              \
        return FORMULA(evaluate)(FORMULA(name##_value), NULL, NULL, n, t, p, parameters, bits, k, value, NULL, NULL, 0);                   \
    }                                                                                                                                      \
    static double FORMULA(evaluate_##name)(ptrdiff_t n, const one *t, const one *p, const one *parameters, one k, one *value, one *slope,  \
                                           one *curvature, int stream)                                                                     \
    {                                                                                                                                      \
        one usual[FORMULA_PARAMETERS];                                                                                                     \
        if (FORMULA(usual)(FORMULA(name##_value), parameters, usual) && !curvature)                                                        \
            return FORMULA(builds_##name)(n, t, p, usual, 1, k, value, slope, NULL, stream);                                               \
        return FORMULA(builds_##name)(n, t, p, parameters, 0, k, value, slope, curvature, stream);                                         \
    }
FORMULAS(EVALUATION)
#undef EVALUATION
#define ENTRY(name, count, names) FORMULA(evaluate_##name),
static FORMULA(evaluation) *const FORMULA(evaluations)[] = {FORMULAS(ENTRY)};
#undef ENTRY

/* m lines of len numbers as one: where they lie, if they lie so, else copied into room */
static const one *FORMULA(read)(int kind, const char *from, ptrdiff_t outer, ptrdiff_t m, ptrdiff_t inner, ptrdiff_t len, one *room)
{
    if (FORMULA(in_place)(kind, outer, m, inner, len)) return (const one *)from;
    for (ptrdiff_t i = 0; i < m; i++) FORMULA(read_line)(kind, from + i * outer, inner, len, room + i * len);
    return room;
}
/* A copy past the caches */
static void FORMULA(stream_line)(one *to, const one *from, ptrdiff_t n)
{
    ptrdiff_t i = 0;
    for (; i < n && (uintptr_t)(to + i) % sizeof(real); i++) to[i] = from[i];
    for (; i + LANES <= n; i += LANES) STREAM(to + i, LOAD(from + i));
    for (; i < n; i++) to[i] = from[i];
}
/* k * from, and 0 where k is 0 even if from is NaN: a skipped position */
static void FORMULA(scaled)(one *to, const one *k, const one *from, ptrdiff_t n, int stream)
{
    ptrdiff_t i = 0, head = stream ? (ptrdiff_t)((-(uintptr_t)to % sizeof(real)) / sizeof(one)) : 0;
    stream = stream && (uintptr_t)(to + head) % sizeof(real) == 0;
    for (; i < head && i < n; i++) to[i] = k[i] == 0 ? 0 : k[i] * from[i];
    for (; i + LANES <= n; i += LANES) {
        real f = LOAD(k + i), x = SELECT(EQ(f, R(0)), R(0), f * LOAD(from + i));
        if (stream)
            STREAM(to + i, x);
        else
            STORE(to + i, x);
    }
    for (; i < n; i++) to[i] = k[i] == 0 ? 0 : k[i] * from[i];
}
static void FORMULA(write)(int kind, char *to, ptrdiff_t outer, ptrdiff_t m, ptrdiff_t inner, ptrdiff_t len, const one *k, one *from,
                           int stream)
{
    if (FORMULA(in_place)(kind, outer, m, inner, len)) {
        FORMULA(scaled)((one *)to, k, from, m * len, stream);
        return;
    }
    FORMULA(scaled)(from, k, from, m * len, 0);
    for (ptrdiff_t i = 0; i < m; i++) FORMULA(write_line)(kind, to + i * outer, inner, len, from + i * len);
}
/* Derivatives of m rows of n > LANES, each times its k, 0 where that is 0. In whole vectors, one row after the other: what a vector spoils of the
   next row is written again. */
static void FORMULA(write_rows)(const strided_array *array, char *to, ptrdiff_t m, ptrdiff_t n, const one *k, const one *from, one *room,
                                int stream)
{
    const int lies = FORMULA(in_place)(array->type, array->s, m, array->c, n);
    one *row = lies && !stream ? (one *)to : room, *end = row + m * n;
    for (ptrdiff_t i = 0; i < m; i++, row += n, from += n) {
        const real f = R(k[i]);
        const MASK none = EQ(f, R(0));
        for (ptrdiff_t l = 0; l < n; l += LANES) {
            const real x = SELECT(none, R(0), f * LOAD(from + l)); /* behind the last row is room */
            if (end - (row + l) < LANES)
                STORE_PART(row + l, x, end - (row + l));
            else
                STORE(row + l, x);
        }
    }
    if (lies && stream) FORMULA(stream_line)((one *)to, room, m * n);
    for (ptrdiff_t i = 0; !lies && i < m; i++) FORMULA(write_line)(array->type, to + i * array->s, array->c, n, room + i * n);
}
/* A loss that is told apart has the same bits however the positions are cut and lie: the order of its sum depends on its number of elements
   alone. Up to SHORT elements are added in double: element i in lane i % 4, one after the other, since one alone would wait for every
   addition; then the lanes as `across_four` does. More are cut into tiles of TILE, and those into the SUMS lanes that `evaluate` adds up;
   tiles are added within their segment, and segments, in double and in their order.

   sum_rows: of m rows of n <= TILE elements, (m, n), and three more to read. Four rows at a time; the last one again where there are fewer. */
static void FORMULA(sum_rows)(const one *x, ptrdiff_t m, ptrdiff_t n, double *sums /* (m,), and room for three more */)
{
    for (ptrdiff_t i = 0; i < m; i += 4, x += 4 * n) {
        const one *row[4] = {x, x, x, x};
        four_sums s[4];
        ptrdiff_t l = 0;
        for (int k = 0; k < 4; k++) s[k] = no_sums();
        for (int k = 1; k < 4; k++) row[k] = row[k - 1] + (i + k < m ? n : 0);
        for (; l + 4 <= n; l += 4)
            for (int k = 0; k < 4; k++) s[k] = FORMULA(add_four)(s[k], row[k] + l, 4);
        for (int k = 0; l < n && k < 4; k++) s[k] = FORMULA(add_four)(s[k], row[k] + l, n - l);
        for (int k = 0; k < 4; k++) sums[i + k] = across_four(s[k]);
    }
}
/* n sums of their own go on by one number each. */
INLINE void FORMULA(add_line)(double *to, const one *x, ptrdiff_t n)
{
    ptrdiff_t i = 0;
    for (; i + 2 * WD <= n; i += 2 * WD)
        for (int j = 0; j < 2; j++) store_d(to + i + j * WD, load_d(to + i + j * WD) + FORMULA(wide)(x + i + j * WD));
    for (; i < n; i++) to[i] += (double)x[i];
}
/* From the sums of n positions to their losses: times mean and weight, and 0 at a weight of 0, whatever lies there. Σ of them before they
   are rounded to the type. */
INLINE double FORMULA(weigh_sums)(const double *sums, double mean, const one *weight, ptrdiff_t n, one *losses)
{
    double s[8];
    vd lanes[8 / WD];
    ptrdiff_t i = 0;
    for (int j = 0; j < 8 / WD; j++) lanes[j] = all_d(0);
    for (; i + 8 <= n; i += 8)
        for (int j = 0; j < 8 / WD; j++) {
            const vd w = FORMULA(wide)(weight + i + j * WD);
            const vd x = select_d(eq_d(w, all_d(0)), all_d(0), load_d(sums + i + j * WD) * all_d(mean) * w);
            FORMULA(narrowed)(losses + i + j * WD, x);
            lanes[j] += x;
        }
    for (int j = 0; j < 8 / WD; j++) store_d(s + j * WD, lanes[j]);
    for (; i < n; i++) {
        const double x = weight[i] == 0 ? 0 : sums[i] * mean * (double)weight[i];
        losses[i] = (one)x;
        s[0] += x;
    }
    return ((s[0] + s[4]) + (s[1] + s[5])) + ((s[2] + s[6]) + (s[3] + s[7]));
}
/* The lane of element i of a tile of n, as `evaluate` has it; and what it makes of the lanes, `step` apart */
INLINE ptrdiff_t FORMULA(lane_of)(ptrdiff_t i, ptrdiff_t n) { return i < n / SUMS * SUMS ? i % SUMS : i % LANES; }
INLINE double FORMULA(across)(const one *x, ptrdiff_t step)
{
    one s[LANES];
    for (ptrdiff_t i = 0; i < LANES; i++)
        s[i] = (x[i * step] + x[(i + LANES) * step]) + (x[(i + 2 * LANES) * step] + x[(i + 3 * LANES) * step]);
    return SUM(LOAD(s));
}
/* Σ value of elements [l, l + n) of position (a, b), from one tile after the other in double: where lanes of floats found no finite sum, it
   may be one all the same. */
static double FORMULA(sum_again)(const kernel_job *job, const one *parameters, ptrdiff_t a, ptrdiff_t b, ptrdiff_t l, ptrdiff_t n)
{
    one room_t[TILE], room_p[TILE], value[TILE + 16];
    const strided_array *t = &job->t, *p = &job->p;
    double s = 0, of_tile[4];
    for (ptrdiff_t i = l, m; i < l + n; i += m) {
        m = TILE < l + n - i ? TILE : l + n - i;
        const one *x = FORMULA(read)(t->type, t->at + a * t->n + b * t->s + i * t->c, 0, 1, t->c, m, room_t);
        const one *y = FORMULA(read)(p->type, p->at + a * p->n + b * p->s + i * p->c, 0, 1, p->c, m, room_p);
        FORMULA(evaluations)[job->loss](m, x, y, parameters, 1, value, NULL, NULL, 0);
        FORMULA(sum_rows)(value, 1, m, of_tile);
        s += of_tile[0];
    }
    return s;
}
/* The weights of m positions from (a, b) on; 1 where none are given */
static void FORMULA(read_weights)(const kernel_job *job, ptrdiff_t a, ptrdiff_t b, ptrdiff_t m, one *w)
{
    const strided_array *x = &job->weight;
    if (x->at)
        FORMULA(read_line)(x->type, x->at + a * x->n + b * x->s, x->s, m, w);
    else
        for (ptrdiff_t i = 0; i < m; i++) w[i] = 1;
}
static void FORMULA(write_losses)(const kernel_job *job, ptrdiff_t a, ptrdiff_t b, ptrdiff_t m, const one *losses)
{
    const strided_array *x = &job->losses;
    if (x->at) FORMULA(write_line)(x->type, x->at + a * x->n + b * x->s, x->s, m, losses);
}
typedef struct { /* 64 bytes beyond a power of two apart, so that the rooms don't share sets of the cache */
    one t[TILE + 16], p[TILE + 16], value[TILE + 16], slope[TILE + 16], curvature[TILE + 16], k[TILE + 16], w[TILE + 16];
} FORMULA(rooms);

/* Elements of a position beside each other: short rows several at a time, long ones one by one, in place where they lie right. */
static void FORMULA(rows_task)(const kernel_job *job, ptrdiff_t task, kernel_sums *found)
{
    _Alignas(64) FORMULA(rooms) room;
    const strided_array *t = &job->t, *p = &job->p, *grad = &job->grad, *hess = &job->hess;
    FORMULA(evaluation) *evaluation = FORMULA(evaluations)[job->loss];
    const ptrdiff_t L = job->c, segment = task % job->segments;
    const int told_apart = job->losses.at != NULL;
    double sums[TILE + 3];
    const ptrdiff_t from = segment * ELEMENTWISE_SEGMENT,
                    to = job->segments > 1 && from + ELEMENTWISE_SEGMENT < L ? from + ELEMENTWISE_SEGMENT : L;
    ptrdiff_t row = task / job->segments * job->rows, last = row + job->rows < job->n * job->s ? row + job->rows : job->n * job->s;
    one parameters[FORMULA_PARAMETERS];
    for (int i = 0; i < FORMULA_PARAMETERS; i++) parameters[i] = (one)job->parameters[i];
    for (ptrdiff_t m; row < last; row += m) {
        const ptrdiff_t a = row / job->s, b = row % job->s;
        m = L > SHORT ? 1 : TILE / L;
        m = m < last - row ? m : last - row;
        m = m < job->s - b ? m : job->s - b;
        FORMULA(read_weights)(job, a, b, m, room.w);
        if (segment == 0) found->weights += FORMULA(sum_line)(room.w, m);
        const char *tt = t->at + a * t->n + b * t->s, *pp = p->at + a * p->n + b * p->s;
        char *gg = grad->at ? grad->at + a * grad->n + b * grad->s : NULL;
        char *hh = hess->at ? hess->at + a * hess->n + b * hess->s : NULL;
        if (m > 1 || (told_apart && L <= SHORT)) {
            const one *x = FORMULA(read)(t->type, tt, t->s, m, t->c, L, room.t), *y = FORMULA(read)(p->type, pp, p->s, m, p->c, L, room.p);
            evaluation(m * L, x, y, parameters, 1, room.value, gg || hh ? room.slope : NULL, hh ? room.curvature : NULL, 0);
            FORMULA(sum_rows)(room.value, m, L, sums);
            found->total += FORMULA(weigh_sums)(sums, job->mean, room.w, m, room.value);
            FORMULA(write_losses)(job, a, b, m, room.value);
            if (!gg && !hh) continue;
            one first[TILE], rest[TILE];
            const int odd = FORMULA(factors)(job->scale, room.w, m, first, rest);
            for (ptrdiff_t i = 0; odd && i < m; i++) {
                FORMULA(multiply)(room.slope + i * L, rest[i], L);
                if (hh) FORMULA(multiply)(room.curvature + i * L, rest[i], L);
            }
            if (L > LANES) {
                if (gg) FORMULA(write_rows)(grad, gg, m, L, first, room.slope, room.k, job->stream);
                if (hh) FORMULA(write_rows)(hess, hh, m, L, first, room.curvature, room.k, job->stream);
                continue;
            }
            for (ptrdiff_t i = 0; i < m; i++) STORE(room.k + i * L, R(first[i])); /* the next row's follow, and behind the last is room */
            if (gg) FORMULA(write)(grad->type, gg, grad->s, m, grad->c, L, room.k, room.slope, job->stream);
            if (hh) FORMULA(write)(hess->type, hh, hess->s, m, hess->c, L, room.k, room.curvature, job->stream);
            continue;
        }
        const FORMULA(factor) of = FORMULA(factor_of)(job->scale, room.w[0]);
        const one k = of.first;
        const int t_lies = FORMULA(in_place)(t->type, 0, 1, t->c, 0), p_lies = FORMULA(in_place)(p->type, 0, 1, p->c, 0);
        const int g_lies = FORMULA(in_place)(grad->type, 0, 1, grad->c, 0), h_lies = FORMULA(in_place)(hess->type, 0, 1, hess->c, 0);
        const int outputs_lie = gg ? g_lies && (!hh || h_lies) : !hh; /* curvatures bring slopes along, which need a place too */
        const ptrdiff_t step = t_lies && p_lies && k != 0 && outputs_lie && !told_apart ? to - from : TILE;
        double s = 0;
        for (ptrdiff_t l = from; l < to && (room.w[0] != 0 || gg || hh); l += step) {
            const ptrdiff_t n = step < to - l ? step : to - l;
            /* To stream, `evaluate` would begin with a part of a vector where the output is not aligned, and add up in another order. */
            const int apart = told_apart && job->stream && (uintptr_t)(gg + l * sizeof(one)) % sizeof(real),
                      direct = g_lies && k != 0 && !apart;
            one *g = gg && direct ? (one *)gg + l : room.slope, *h = hh && h_lies && k != 0 ? (one *)hh + l : room.curvature;
            if (room.w[0] != 0) {
                const one *x = t_lies ? (const one *)tt + l : FORMULA(read)(t->type, tt + l * t->c, 0, 1, t->c, n, room.t);
                const one *y = p_lies ? (const one *)pp + l : FORMULA(read)(p->type, pp + l * p->c, 0, 1, p->c, n, room.p);
                const double part =
                    evaluation(n, x, y, parameters, k, NULL, gg || hh ? g : NULL, hh ? h : NULL, job->stream && g != room.slope);
                s += part - part == 0 ? part : FORMULA(sum_again)(job, parameters, a, b, l, n);
                if (of.rest != 1 && (gg || hh)) FORMULA(multiply)(g, of.rest, n);
                if (of.rest != 1 && hh) FORMULA(multiply)(h, of.rest, n);
            }
            for (ptrdiff_t i = 0; k == 0 && i < n; i++) room.slope[i] = room.curvature[i] = 0;
            if (gg && apart && g_lies && k != 0)
                FORMULA(stream_line)((one *)gg + l, g, n);
            else if (gg && g == room.slope)
                FORMULA(write_line)(grad->type, gg + l * grad->c, grad->c, n, g);
            if (hh && h == room.curvature) FORMULA(write_line)(hess->type, hh + l * hess->c, hess->c, n, h);
        }
        if (job->segments == 1) {
            s = room.w[0] == 0 ? 0 : s * job->mean * (double)room.w[0];
            room.value[0] = (one)s;
            FORMULA(write_losses)(job, a, b, 1, room.value);
        }
        found->total += s;
    }
}

/* Positions beside each other: a tile of positions at a time through all their elements; narrow ones take several elements a time. */
static void FORMULA(columns_task)(const kernel_job *job, ptrdiff_t task, void *scratch, kernel_sums *found)
{
    _Alignas(64) FORMULA(rooms) room;
    const int in_lanes = job->c > SHORT, used = job->c < 4 ? (int)job->c : 4; /* lanes of sums in double */
    double sums[2 * TILE], *segment = scratch; /* in double, (4, n); of segments, and their lanes, (SUMS, n) */
    one *lanes = (one *)(segment + TILE);
    const strided_array *t = &job->t, *p = &job->p, *grad = &job->grad, *hess = &job->hess;
    FORMULA(evaluation) *evaluation = FORMULA(evaluations)[job->loss];
    const ptrdiff_t width = elementwise_tile(job), tiles = (job->s + width - 1) / width;
    ptrdiff_t tile = task * job->rows, last = tile + job->rows < job->n * tiles ? tile + job->rows : job->n * tiles;
    one parameters[FORMULA_PARAMETERS];
    for (int i = 0; i < FORMULA_PARAMETERS; i++) parameters[i] = (one)job->parameters[i];
    for (; tile < last; tile++) {
        const ptrdiff_t a = tile / tiles, b = tile % tiles * width, n = job->s - b < width ? job->s - b : width;
        FORMULA(read_weights)(job, a, b, n, room.w);
        found->weights += FORMULA(sum_line)(room.w, n);
        /* Those of a part of s do not lie as one. */
        ptrdiff_t most = n < job->s && (in_lanes || n > TILE / 8) ? 1 : TILE / n < job->c ? TILE / n : job->c, m;
        for (ptrdiff_t i = 0; i < (in_lanes ? n : used * n); i++) sums[i] = 0;
        for (ptrdiff_t i = 0; in_lanes && i < SUMS * n; i++) lanes[i] = 0;
        for (ptrdiff_t i = 0; in_lanes && i < n; i++) segment[i] = 0;
        one rest[TILE];
        const int odd = (grad->at || hess->at) && FORMULA(factors)(job->scale, room.w, n, room.k, rest);
        for (ptrdiff_t j = 1; (grad->at || hess->at) && j < most; j++)
            for (ptrdiff_t i = 0; i < n; i++) room.k[j * n + i] = room.k[i];
        for (ptrdiff_t l = 0; l < job->c; l += m) {
            m = most < job->c - l ? most : job->c - l;
            const char *tt = t->at + a * t->n + b * t->s + l * t->c, *pp = p->at + a * p->n + b * p->s + l * p->c;
            char *gg = grad->at ? grad->at + a * grad->n + b * grad->s + l * grad->c : NULL;
            char *hh = hess->at ? hess->at + a * hess->n + b * hess->s + l * hess->c : NULL;
            const one *x = FORMULA(read)(t->type, tt, t->c, m, t->s, n, room.t), *y = FORMULA(read)(p->type, pp, p->c, m, p->s, n, room.p);
            evaluation(m * n, x, y, parameters, 1, room.value, gg || hh ? room.slope : NULL, hh ? room.curvature : NULL, 0);
            for (ptrdiff_t i = 0; odd && i < m * n; i++) {
                room.slope[i] *= rest[i % n];
                if (hh) room.curvature[i] *= rest[i % n];
            }
            for (ptrdiff_t j = 0, some; !in_lanes && j < m; j += some) { /* up to the fourth lane at once */
                const ptrdiff_t lane = (l + j) % 4;
                some = 4 - lane < m - j ? 4 - lane : m - j;
                FORMULA(add_line)(sums + lane * n, room.value + j * n, some * n);
            }
            for (ptrdiff_t j = 0; in_lanes && j < m; j++) {
                const ptrdiff_t at = l + j, begin = at / TILE * TILE, size = job->c - begin < TILE ? job->c - begin : TILE;
                one *lane = lanes + FORMULA(lane_of)(at - begin, size) * n;
                for (ptrdiff_t i = 0; i < n; i++) lane[i] += room.value[j * n + i];
                if (at + 1 < begin + size) continue;
                for (ptrdiff_t i = 0; i < n; i++) {
                    const double part = FORMULA(across)(lanes + i, n);
                    segment[i] += part - part == 0 || room.w[i] == 0 ? part : FORMULA(sum_again)(job, parameters, a, b + i, begin, size);
                }
                for (ptrdiff_t i = 0; i < SUMS * n; i++) lanes[i] = 0;
                if (at + 1 < job->c && (at + 1) % ELEMENTWISE_SEGMENT) continue;
                for (ptrdiff_t i = 0; i < n; i++) sums[i] += segment[i], segment[i] = 0;
            }
            if (gg) FORMULA(write)(grad->type, gg, grad->c, m, grad->s, n, room.k, room.slope, job->stream);
            if (hh) FORMULA(write)(hess->type, hh, hess->c, m, hess->s, n, room.k, room.curvature, job->stream);
        }
        for (int k = used - 1; !in_lanes && k > 0; k--) { /* (0 + 2) + (1 + 3) */
            const double *from = sums + k * n;
            double *to = sums + (k > 1 ? k - 2 : 0) * n;
            for (ptrdiff_t i = 0; i < n; i++) to[i] += from[i];
        }
        found->total += FORMULA(weigh_sums)(sums, job->mean, room.w, n, room.value);
        FORMULA(write_losses)(job, a, b, n, room.value);
    }
}
static int FORMULA(not_binary)(const kernel_job *job, ptrdiff_t task)
{
    one w, x[TILE];
    const strided_array *t = &job->t;
    const ptrdiff_t segment = task % job->segments, from = segment * ELEMENTWISE_SEGMENT;
    const ptrdiff_t to = job->segments > 1 && from + ELEMENTWISE_SEGMENT < job->c ? from + ELEMENTWISE_SEGMENT : job->c;
    ptrdiff_t row = task / job->segments * job->rows, last = row + job->rows < job->n * job->s ? row + job->rows : job->n * job->s;
    int other = 0;
    for (; row < last; row++) {
        const ptrdiff_t a = row / job->s, b = row % job->s;
        FORMULA(read_weights)(job, a, b, 1, &w);
        for (ptrdiff_t l = from; l < to && w != 0; l += TILE) {
            const ptrdiff_t n = to - l < TILE ? to - l : TILE;
            const one *y = FORMULA(read)(t->type, t->at + a * t->n + b * t->s + l * t->c, 0, 1, t->c, n, x);
            for (ptrdiff_t i = 0, some; i < n; i += some) { /* 0 and 1 are what equals its square */
                some = n - i < LANES ? n - i : LANES;
                const real v = some < LANES ? LOAD_PART(y + i, some) : LOAD(y + i);
                other |= !EVERY(EQ(v * v - v, R(0)));
            }
        }
    }
    return other;
}
#undef TILE
#undef SHORT
#undef SUMS
#undef BLOCK
#undef AHEAD
