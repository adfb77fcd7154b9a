/* Log loss: one pass over a tile of labels and probabilities. Compiled once per instruction set (setup.py, isa.h).

   A tile is a few hundred rows. Their labels become classes; their probabilities are read once, for the sum of each row and the range of
   all; the one of each row's class is picked while it is in the cache; then the logarithms of all that were picked are taken at once.
   Long rows that lie in one piece are read row by row, everything else column by column, through a line of doubles. All in double:
   reading bounds it, and scikit-learn's 1 - p and sums come out to the last bit. */
#include <math.h>
#include <string.h>
#include "simd/isa.h"
#include "cpu/loops/labels.h"
#include "simd/vector_math.h"

#ifdef __GNUC__
#define PREFETCH(at) __builtin_prefetch(at)
#else
#define PREFETCH(at) ((void)0)
#endif

/* Left alone, gcc reads a vector from memory once for each of its uses; rows begin anywhere, and most of those reads cross a line. */
#if defined __GNUC__ && defined __x86_64__ && W > 1
#define READ_ONCE(v) __asm__("" : "+v"(v))
#else
#define READ_ONCE(v) ((void)0)
#endif

enum { TILE = 512, LONG = 8 }; /* rows in a tile at most; columns from which a row is worth vectors of its own: WD or more */

INLINE int in_one_piece(const kernel_job *j) { return j->c >= LONG && j->p.c == (j->p.type == TYPE_F32 ? 4 : 8); }

static ptrdiff_t tile(const kernel_job *j)
{
    ptrdiff_t rows = in_one_piece(j) ? 65536 / j->c : TILE; /* at least half a megabyte of doubles: 20 µs or more */
    return rows < 1 ? 1 : rows > TILE ? TILE : rows;
}

INLINE double one(const char *at, int single) { return single ? (double)*(const float *)at : *(const double *)at; }

/* The next WD probabilities as doubles. */
INLINE vd load(const char *at, int single)
{
#if W > 1
    return single ? widen((const float *)at) : load_d((const double *)at);
#else
    return one(at, single);
#endif
}

typedef struct {
    vd least, most;
} range;
INLINE void stretch(range *r, vd v)
{
    r->least = min_d(r->least, v);
    r->most = max_d(r->most, v);
}

/* Labels as classes; a label that is none becomes class 0, and the place of the first is returned, or -1. */
static ptrdiff_t read_classes(int32_t *to, const kernel_job *j, ptrdiff_t first, ptrdiff_t rows)
{
    ptrdiff_t at = -1;
    int32_t bad = 0;
    read_labels(to, j, 0, first, rows);
    for (ptrdiff_t i = 0; i < rows; i++) bad |= to[i]; /* BAD is below 0, a class is not */
    for (ptrdiff_t i = rows - 1; bad < 0 && i >= 0; i--)
        if (to[i] < 0) to[i] = 0, at = i;
    return at;
}

/* Which classes occur, told by bytes that several threads may look at and set. */
#ifdef __GNUC__
#define IS_SET(at) __atomic_load_n(at, __ATOMIC_RELAXED)
#define SET(at) __atomic_store_n(at, 1, __ATOMIC_RELAXED)
#else
#define IS_SET(at) (*(volatile uint8_t *)(at))
#define SET(at) (*(volatile uint8_t *)(at) = 1)
#endif
/* A byte is written once: threads that wrote it for every row would fight for its line. */
static void note_seen(uint8_t *seen, ptrdiff_t known, const int32_t *classes, ptrdiff_t rows)
{
    if (known == 2) {
        int64_t ones = 0;
        for (ptrdiff_t i = 0; i < rows; i++) ones += classes[i];
        if (ones > 0 && !IS_SET(&seen[1])) SET(&seen[1]);
        if (ones < rows && !IS_SET(&seen[0])) SET(&seen[0]);
    } else
        for (ptrdiff_t i = 0; i < rows; i++)
            if (!IS_SET(&seen[classes[i]])) SET(&seen[classes[i]]);
}

/* The sum of one long row; four accumulators, and the next page on its way, where the hardware's prefetcher stops. */
INLINE double read_row(const char *at, ptrdiff_t columns, int single, range r[4])
{
    const ptrdiff_t item = single ? 4 : 8, step = WD * item;
    vd sum[4] = {all_d(0.0), all_d(0.0), all_d(0.0), all_d(0.0)};
    ptrdiff_t k = 0;
    for (; k + 4 * WD <= columns; k += 4 * WD) {
        const char *q = at + k * item;
        for (ptrdiff_t line = 0; line < 4 * step; line += 64) PREFETCH(q + 4096 + line);
        for (int i = 0; i < 4; i++) {
            vd v = load(q + i * step, single);
            READ_ONCE(v);
            sum[i] += v;
            stretch(&r[i], v);
        }
    }
    for (; k + WD <= columns; k += WD) {
        vd v = load(at + k * item, single);
        READ_ONCE(v);
        sum[0] += v;
        stretch(&r[0], v);
    }
    double total = sum_d((sum[0] + sum[1]) + (sum[2] + sum[3]));
    if (k < columns) { /* the last lanes of a vector that reaches back */
        stretch(&r[1], load(at + (columns - WD) * item, single));
        for (; k < columns; k++) total += one(at + k * item, single);
    }
    return total;
}

/* One column's share of the sums: whole vectors where it lies in one piece, else through a line of doubles, which is filled up to whole
   vectors with its last number: that changes no range. */
INLINE void read_column(const char *at, ptrdiff_t rows, ptrdiff_t stride, int single, int first, double *restrict sums, range *r)
{
    const ptrdiff_t item = single ? 4 : 8;
    double line[TILE];
    ptrdiff_t i = 0;
    if (stride == item)
        for (; i + WD <= rows; i += WD) {
            vd v = load(at + i * item, single);
            stretch(r, v);
            store_d(sums + i, first ? v : load_d(sums + i) + v);
        }
    for (ptrdiff_t k = i; k < rows; k++) line[k] = one(at + k * stride, single);
    for (ptrdiff_t k = rows; k % WD; k++) line[k] = line[rows - 1];
    for (; i < rows; i += WD) {
        vd v = load_d(line + i);
        stretch(r, v);
        store_d(sums + i, first ? v : load_d(sums + i) + v);
    }
}

/* Two columns side by side, as binary classifiers give them: everything of a row at once. */
INLINE void read_pairs(const char *at, ptrdiff_t rows, int single, const int32_t *classes, double *restrict sums, double *restrict picked,
                       range *r)
{
    double line[2 * TILE], rest[WD];
    const double *pairs = (const double *)at;
    if (single) {
        for (ptrdiff_t i = 0; i < 2 * rows; i++) line[i] = ((const float *)at)[i];
        pairs = line;
    }
    for (ptrdiff_t i = 0; i < rows; i++) {
        double first = pairs[2 * i], second = pairs[2 * i + 1];
        sums[i] = first + second;
        picked[i] = classes[i] ? second : first;
    }
    ptrdiff_t i = 0;
    for (; i + WD <= 2 * rows; i += WD) stretch(r, load_d(pairs + i));
    if (i < 2 * rows) {
        for (ptrdiff_t l = 0; l < WD; l++) rest[l] = pairs[i + l < 2 * rows ? i + l : 0];
        stretch(r, load_d(rest));
    }
}

/* The next WD weights; 0 beyond the count. */
INLINE vd read_weights(const kernel_job *j, ptrdiff_t first, ptrdiff_t count)
{
    const char *at = j->weight.at + first * j->weight.s;
    double line[WD] = {0};
    if (j->weight.s == 8) return count >= WD ? load_d((const double *)at) : load_part_d((const double *)at, count);
    for (ptrdiff_t i = 0; i < WD && i < count; i++) line[i] = *(const double *)(at + i * j->weight.s);
    return load_d(line);
}

INLINE void run_tile(const kernel_job *j, ptrdiff_t first, ptrdiff_t rows, int single, kernel_sums *out)
{
    int32_t classes[TILE];
    double sums[TILE], picked[TILE];
    const ptrdiff_t item = single ? 4 : 8;
    const vd none = all_d(0.0);
    const range nothing = {all_d((double)INFINITY), all_d(-(double)INFINITY)};
    range r[4] = {nothing, nothing, nothing, nothing};

    ptrdiff_t bad = read_classes(classes, j, first, rows);
    out->bad = bad < 0 ? -1 : first + bad;
    if (j->seen) note_seen(j->seen, (ptrdiff_t)j->classes, classes, rows);

    const char *at = j->p.at + first * j->p.s;
    if (in_one_piece(j))
        for (ptrdiff_t i = 0; i < rows; i++, at += j->p.s) {
            sums[i] = read_row(at, j->c, single, r);
            picked[i] = one(at + classes[i] * j->p.c, single);
        }
    else if (j->c == 2 && j->p.c == item && j->p.s == 2 * item)
        read_pairs(at, rows, single, classes, sums, picked, r);
    else {
        for (ptrdiff_t k = 0; k < j->c; k++) read_column(at + k * j->p.c, rows, j->p.s, single, k == 0, sums, r);
        if (j->c == 1)
            for (ptrdiff_t i = 0; i < rows; i++) { /* the sums are the numbers themselves; 1 - p in their own type */
                double other = 1 - sums[i];
                picked[i] = classes[i] ? sums[i] : single ? (double)(float)other : other;
            }
        else
            for (ptrdiff_t i = 0; i < rows; i++) picked[i] = one(at + i * j->p.s + classes[i] * j->p.c, single);
    }
    for (ptrdiff_t i = rows; i < TILE && i % WD; i++) sums[i] = picked[i] = 1;

    vd total = none, off = none, all = none;
    for (ptrdiff_t i = 0; i < rows; i += WD) {
        vd s = load_d(sums + i), x = load_d(picked + i);
        all += s; /* NaN if anything is */
        off = max_d(off, abs_d(s - 1.0));
        if (j->rescale) x = x / s;
        vd loss = none - log_d(min_d(all_d(j->high), max_d(all_d(j->low), x))); /* NaN goes through */
        store_d(picked + i, loss);
        if (j->weight.at) {
            vd w = read_weights(j, first + i, rows - i);
            loss = select_d(eq_d(w, none), none, loss * w);
        } else if (rows - i < WD)
            loss = select_d(first_d(rows - i), loss, none);
        total += loss;
    }
    for (ptrdiff_t i = 0; j->losses.at && i < rows; i++) *(double *)(j->losses.at + (first + i) * j->losses.s) = picked[i];
    out->total = sum_d(total);
    out->off = j->c == 1 ? 0 : top_d(off);
    for (int i = 1; i < 4; i++) {
        r->least = min_d(r->least, r[i].least);
        r->most = max_d(r->most, r[i].most);
    }
    out->least = -top_d(none - r->least);
    out->most = top_d(r->most);
    if (isnan(sum_d(all))) out->least = (double)NAN;
}

static void cut(kernel_job *j)
{
    j->tile = tile(j);
    j->tasks = (j->s + j->tile - 1) / j->tile;
    j->scratch = 0;
}
static void task(const kernel_job *j, ptrdiff_t number, void *scratch, kernel_sums *out)
{
    const ptrdiff_t first = number * j->tile, rows = j->s - first < j->tile ? j->s - first : j->tile;
    (void)scratch;
    if (j->p.type == TYPE_F32)
        run_tile(j, first, rows, 1, out);
    else
        run_tile(j, first, rows, 0, out);
}

const kernel_loops WITH_ISA(log_loss_loops) = {.order = KEEP_ORDER, .cost = 4, .cut = cut, .task = task};
