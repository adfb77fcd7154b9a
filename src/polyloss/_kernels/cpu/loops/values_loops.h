/* Losses of one number at each position for one type; included by values_simd.c for floats and for doubles.

   An evaluation takes n positions' targets and predictions, contiguous and of the type of computation; k are the factors of their
   derivatives, of which 0 hides whatever lies there. */

typedef void FORMULA(evaluation)(ptrdiff_t n, const one *t, const one *m, const one *v, const one *parameters, const one *k, one *value,
                                 one *const *slope /* in m and in v, or NULL twice */, one *const *curvature /* likewise */);

INLINE real FORMULA(unless_0)(real factor, real x) { return SELECT(EQ(factor, R(0)), R(0), factor * x); }

#define EVALUATION(name, parameters_)                                                                                                      \
    INLINE void FORMULA(step_##name)(ptrdiff_t i, ptrdiff_t n, int whole, const one *t, const one *m, const one *v, const real *a,         \
                                     const one *k, one *value, one *const *slope, one *const *curvature)                                   \
    {                                                                                                                                      \
        const FORMULA(of_value) x = FORMULA(name)(GET(t), GET(m), GET(v), a);                                                              \
        PUT(value, x.value);                                                                                                               \
        if (slope[0]) {                                                                                                                    \
            PUT(slope[0], FORMULA(unless_0)(GET(k), x.slope_m));                                                                           \
            PUT(slope[1], FORMULA(unless_0)(GET(k), x.slope_v));                                                                           \
        }                                                                                                                                  \
        if (curvature[0]) {                                                                                                                \
            PUT(curvature[0], FORMULA(unless_0)(GET(k), x.curvature_m));                                                                   \
            PUT(curvature[1], FORMULA(unless_0)(GET(k), x.curvature_v));                                                                   \
        }                                                                                                                                  \
    }                                                                                                                                      \
    static void FORMULA(evaluate_##name)(ptrdiff_t n, const one *t, const one *m, const one *v, const one *parameters, const one *k,       \
                                         one *value, one *const *slope, one *const *curvature)                                             \
    {                                                                                                                                      \
        ptrdiff_t i = 0;                                                                                                                   \
        real a[VALUES_PARAMETERS];                                                                                                         \
        for (int j = 0; j < VALUES_PARAMETERS; j++) a[j] = R(parameters[j]);                                                               \
        for (; i + LANES <= n; i += LANES) FORMULA(step_##name)(i, LANES, 1, t, m, v, a, k, value, slope, curvature);                      \
        if (i < n) FORMULA(step_##name)(i, n - i, 0, t, m, v, a, k, value, slope, curvature);                                              \
    }
#define GET(x) (whole ? LOAD((x) + i) : LOAD_PART((x) + i, n))
#define PUT(x, y) (whole ? STORE((x) + i, y) : STORE_PART((x) + i, y, n))
VALUES(EVALUATION)
#undef EVALUATION
#undef GET
#undef PUT
#define ENTRY(name, parameters_) FORMULA(evaluate_##name),
static FORMULA(evaluation) *const FORMULA(evaluations)[] = {VALUES(ENTRY)};
#undef ENTRY

/* n numbers where they lie, if they lie right, else copied into room */
static const one *FORMULA(read)(int kind, const char *from, ptrdiff_t stride, ptrdiff_t n, one *room)
{
    if (FORMULA(in_place)(kind, 0, 1, stride, n)) return (const one *)from;
    FORMULA(read_line)(kind, from, stride, n, room);
    return room;
}
/* Whether both numbers of a position lie beside each other, and its neighbours' beside them: loops of a constant stride become shuffles. */
INLINE int FORMULA(in_pairs)(const strided_array *x) { return x->type == KIND && x->c == sizeof(one) && x->s == 2 * sizeof(one); }
/* Both predictions of n positions */
INLINE void FORMULA(read_both)(const strided_array *x, const char *from, ptrdiff_t n, one (*room)[VALUES_TILE], const one **place)
{
    place[0] = room[0], place[1] = room[1];
    if (FORMULA(in_pairs)(x))
        for (ptrdiff_t i = 0; i < n; i++) room[0][i] = ((const one *)from)[2 * i], room[1][i] = ((const one *)from)[2 * i + 1];
    else
        for (int c = 0; c < 2; c++) place[c] = FORMULA(read)(x->type, from + c * x->c, x->s, n, room[c]);
}
/* Where the derivatives with respect to both are computed: in place, if they lie right */
INLINE void FORMULA(places)(const strided_array *x, char *to, one (*room)[VALUES_TILE], one **place)
{
    for (int c = 0; c < 2; c++) place[c] = !to ? NULL : FORMULA(in_place)(x->type, 0, 1, x->s, 0) ? (one *)(to + c * x->c) : room[c];
}
INLINE void FORMULA(write_both)(const strided_array *x, char *to, ptrdiff_t n, one (*room)[VALUES_TILE], one *const *place)
{
    if (place[0] != room[0]) return;
    if (FORMULA(in_pairs)(x))
        for (ptrdiff_t i = 0; i < n; i++) ((one *)to)[2 * i] = room[0][i], ((one *)to)[2 * i + 1] = room[1][i];
    else
        for (int c = 0; c < 2; c++) FORMULA(write_line)(x->type, to + c * x->c, x->s, n, room[c]);
}
/* Values times weights, and their sum in double; 0 of a weight of 0, whatever the value */
static double FORMULA(weigh)(one *value, const one *w, ptrdiff_t n)
{
    double s[8] = {0};
    for (ptrdiff_t i = 0; i < n; i++) {
        const double x = w[i] == 0 ? 0 : (double)value[i] * (double)w[i];
        s[i % 8] += x;
        value[i] = (one)x;
    }
    return ((s[0] + s[4]) + (s[1] + s[5])) + ((s[2] + s[6]) + (s[3] + s[7]));
}
static void FORMULA(task)(const kernel_job *job, ptrdiff_t task, kernel_sums *sums)
{
    _Alignas(64) one room_t[VALUES_TILE], room_p[2][VALUES_TILE], w[VALUES_TILE], k[VALUES_TILE], value[VALUES_TILE];
    _Alignas(64) one room_g[2][VALUES_TILE], room_h[2][VALUES_TILE], rest[VALUES_TILE];
    const one *y[2];
    one parameters[VALUES_PARAMETERS], *g[2], *h[2];
    const ptrdiff_t most = job->tile, all = job->n * job->tiles, next = (task + 1) * job->tiles_per_task, last = next < all ? next : all;
    const strided_array *t = &job->t, *p = &job->p, *weight = &job->weight, *losses = &job->losses, *grad = &job->grad, *hess = &job->hess;
    FORMULA(evaluation) *evaluation = FORMULA(evaluations)[job->loss];
    for (int i = 0; i < VALUES_PARAMETERS; i++) parameters[i] = (one)job->parameters[i];
    for (ptrdiff_t i = 0; i < most; i++) w[i] = 1, k[i] = (one)job->scale;
    for (ptrdiff_t tile = task * job->tiles_per_task; tile < last; tile++) {
        const ptrdiff_t a = tile / job->tiles, b = tile % job->tiles * most, n = job->s - b < most ? job->s - b : most;
        const char *pp = p->at + a * p->n + b * p->s;
        char *gg = grad->at ? grad->at + a * grad->n + b * grad->s : NULL, *hh = hess->at ? hess->at + a * hess->n + b * hess->s : NULL;
        const one *x = FORMULA(read)(t->type, t->at + a * t->n + b * t->s, t->s, n, room_t);
        FORMULA(read_both)(p, pp, n, room_p, y);
        int odd = 0;
        if (weight->at) {
            FORMULA(read_line)(weight->type, weight->at + a * weight->n + b * weight->s, weight->s, n, w);
            odd = FORMULA(factors)(job->scale, w, n, k, rest);
        }
        FORMULA(places)(grad, gg, room_g, g);
        FORMULA(places)(hess, hh, room_h, h);
        evaluation(n, x, y[0], y[1], parameters, k, value, g, h);
        for (ptrdiff_t i = 0; odd && i < n; i++)
            for (int c = 0; c < 2; c++) {
                if (g[c]) g[c][i] *= rest[i];
                if (h[c]) h[c][i] *= rest[i];
            }
        sums->count += n;
        sums->weights += weight->at ? FORMULA(sum_line)(w, n) : (double)n;
        sums->total += weight->at ? FORMULA(weigh)(value, w, n) : FORMULA(sum_line)(value, n);
        if (losses->at) FORMULA(write_line)(losses->type, losses->at + a * losses->n + b * losses->s, losses->s, n, value);
        FORMULA(write_both)(grad, gg, n, room_g, g);
        FORMULA(write_both)(hess, hh, n, room_h, h);
    }
}
