/* Soft targets of many classes, of positions that are neighbours in memory as their classes are not: some dozens of positions are turned
   into rows in the cache, go through the loops for rows, and their outputs are turned back. So a position has the same bits however its
   batch lies in memory. (Labels have loops through planes, many_planes_f32.h.) */
#ifndef POLYLOSS_SOFTMAX_TURNED_H
#define POLYLOSS_SOFTMAX_TURNED_H
#include "cpu/softmax/fast_f32.h"

#if W > 1
INLINE int is_turned(const softmax_job *j) { return j->columns && j->c > FEW && is_fast(j) && has_soft_targets(j); }
/* Positions turned together: a quarter of a megabyte of floats, at least a line of the cache in each plane. */
INLINE ptrdiff_t turned_positions(const softmax_job *j)
{
    const ptrdiff_t t = 65536 / j->c / 16 * 16;
    return t < 16 ? 16 : t > 64 ? 64 : t;
}
/* From row to row, in elements: an odd number of lines, so that neighbours lie in different sets of a cache. */
INLINE ptrdiff_t turned_row(const softmax_job *j) { return (((j->c + 15) / 16) | 1) * 16; }
INLINE size_t turned_size(const softmax_job *j)
{
    const int arrays = 1 + j->soft + !!j->grad.at + !!j->prob.at;
    return (size_t)(arrays * turned_positions(j) * turned_row(j)) * sizeof(float);
}

/* `positions` neighbours of planes, at most a vector of them, into rows and back. */
static void turn_in(float *rows, ptrdiff_t row, const softmax_array *a, const char *from, ptrdiff_t classes, ptrdiff_t positions)
{
    const int direct = a->type == TYPE_F32 && a->s == sizeof(float);
    float given[4][W];
    for (ptrdiff_t c = 0; c < classes; c += 4) {
        if (c > classes - 4) c = classes - 4;
        vf v[4];
        for (int k = 0; k < 4; k++) {
            const char *plane = from + (c + k) * a->c;
            __builtin_prefetch(plane + W * a->s); /* planes are often pages apart */
            if (direct)
                v[k] = positions < W ? load_part_f((const float *)plane, positions) : load_f((const float *)plane);
            else
                gather_f(given[k], plane, a->s, a->type, positions);
        }
#if TRANSPOSES
        for (int k = 0; !direct && k < 4; k++) v[k] = positions < W ? load_part_f(given[k], positions) : load_f(given[k]);
        transpose4(v);
        for (int k = 0; k < 4; k++)
            for (int b = 0; b < W / 4; b++) {
                v4 part;
                memcpy(&part, (const char *)&v[k] + 16 * b, 16);
                if (k + 4 * b < positions) *(v4_anywhere *)(rows + (k + 4 * b) * row + c) = part;
            }
#else
        for (int k = 0; direct && k < 4; k++) store_f(given[k], v[k]);
        for (int k = 0; k < 4; k++)
            for (ptrdiff_t i = 0; i < positions; i++) rows[i * row + c + k] = given[k][i];
#endif
    }
}
static void turn_out(const float *rows, ptrdiff_t row, const softmax_array *a, char *to, ptrdiff_t classes, ptrdiff_t positions)
{
    const int direct = a->type == TYPE_F32 && a->s == sizeof(float);
    const int stream = W == 16 && direct && positions == W && (uintptr_t)to % 64 == 0 && a->c % 64 == 0; /* whole lines alone */
    float given[4][W];
    for (ptrdiff_t c = 0; c < classes; c += 4) {
        if (c > classes - 4) c = classes - 4;
#if TRANSPOSES
        vf v[4];
        for (int k = 0; k < 4; k++) {
            v4 part[W / 4] = {{0}};
            for (int b = 0; b < W / 4; b++)
                if (k + 4 * b < positions) part[b] = *(const v4_anywhere *)(rows + (k + 4 * b) * row + c);
            memcpy(&v[k], part, sizeof part);
        }
        transpose4(v);
        for (int k = 0; k < 4; k++) store_f(given[k], v[k]);
#else
        for (int k = 0; k < 4; k++)
            for (ptrdiff_t i = 0; i < positions; i++) given[k][i] = rows[i * row + c + k];
#endif
        for (int k = 0; k < 4; k++) {
            char *plane = to + (c + k) * a->c;
            if (stream)
                stream_f((float *)plane, load_f(given[k]));
            else if (direct && positions == W)
                store_f((float *)plane, load_f(given[k]));
            else
                scatter_f(plane, given[k], a->s, a->type, positions);
        }
    }
}
/* Positions q, q+1, … of an array, into rows or from them. */
static void turn(const softmax_job *j, const softmax_array *a, float *rows, ptrdiff_t q, ptrdiff_t count, const int out)
{
    const ptrdiff_t row = turned_row(j);
    for (ptrdiff_t i = 0, step; i < count; i += step) {
        const ptrdiff_t n = (q + i) / j->s, s = (q + i) % j->s;
        step = j->s - s < count - i ? j->s - s : count - i;
        if (step > W) step = W;
        if (out)
            turn_out(rows + i * row, row, a, place(a, n, s), j->c, step);
        else
            turn_in(rows + i * row, row, a, place(a, n, s), j->c, step);
    }
}
/* The array as rows at `rows`, the first of which is position q. */
static softmax_array as_rows(const softmax_job *j, float *rows, ptrdiff_t q)
{
    const ptrdiff_t row = turned_row(j) * (ptrdiff_t)sizeof(float);
    char *at = (char *)((uintptr_t)rows - (uintptr_t)(q * row));
    return (softmax_array){.at = at, .type = TYPE_F32, .n = j->s * row, .c = sizeof(float), .s = row};
}
static void turned(const softmax_job *j, ptrdiff_t first, ptrdiff_t count, char *scratch, float *room, softmax_sums *sums)
{
    const ptrdiff_t most = turned_positions(j), size = most * turned_row(j);
    for (ptrdiff_t i = first, step; i < first + count; i += step) {
        step = first + count - i < most ? first + count - i : most;
        softmax_job rows = *j;
        softmax_array *arrays[] = {&rows.z, &rows.y, &rows.grad, &rows.prob};
        float *at[4], *next = room;
        rows.columns = rows.stream = 0;
        for (int k = 0; k < 4; k++) {
            at[k] = arrays[k]->at && (k != 1 || j->soft) ? next : 0;
            if (!at[k]) continue;
            if (k < 2) turn(j, arrays[k], at[k], i, step, 0);
            *arrays[k] = as_rows(j, at[k], i);
            next += size;
        }
        softmax_sums part = {.bad = -1};
        softmax_f32(&rows, i, step, scratch, &part);
        if (at[2]) turn(j, &j->grad, at[2], i, step, 1);
        if (at[3]) turn(j, &j->prob, at[3], i, step, 1);
        sums->total += part.total, sums->weights += part.weights, sums->count += part.count;
        if (sums->bad < 0) sums->bad = part.bad;
    }
    fence();
}
#endif
#endif
