/* What targets and weights tell without predictions: sums of weights, counts of positions, the first bad label. Compiled once per
   instruction set (setup.py, isa.h). */
#include "cpu/loops/labels.h"

enum { POSITIONS = 16384, LINE = 64 }; /* of a task; read together */

static double number_at(const strided_array *a, const char *at)
{
    switch (a->type) {
    case TYPE_F32: return (double)*(const float *)at;
    case TYPE_F64: return *(const double *)at;
    case TYPE_F16: return (double)half_to_float(*(const uint16_t *)at);
    default: return (double)bf16_to_float(*(const uint16_t *)at);
    }
}
static double weight_at(const kernel_job *j, ptrdiff_t n, ptrdiff_t s)
{
    return j->weight.at ? number_at(&j->weight, j->weight.at + n * j->weight.n + s * j->weight.s) : 1;
}
static double class_weight_at(const kernel_job *j, ptrdiff_t c)
{
    return j->class_weight.at ? number_at(&j->class_weight, j->class_weight.at + c * j->class_weight.c) : 1;
}
/* Σ k t of a position. */
static double weight_of_targets(const kernel_job *j, ptrdiff_t n, ptrdiff_t s)
{
    const char *t = j->t.at + n * j->t.n + s * j->t.s;
    double sum = 0;
    for (ptrdiff_t c = 0; c < j->c; c++, t += j->t.c) sum += number_at(&j->t, t) * class_weight_at(j, c);
    return sum;
}

static void cut(kernel_job *j)
{
    j->tasks = (j->n * j->s + POSITIONS - 1) / POSITIONS;
    j->scratch = 0;
}
/* total: Σ w; weights: Σ w k t of the softmax losses, else Σ w; both of positions not ignored. */
static void task(const kernel_job *j, ptrdiff_t number, void *scratch, kernel_sums *sums)
{
    int32_t label[LINE];
    const ptrdiff_t first = number * POSITIONS, all = j->n * j->s, last = all - first < POSITIONS ? all : first + POSITIONS;
    (void)scratch;
    for (ptrdiff_t q = first, step; q < last; q += step) {
        const ptrdiff_t n = q / j->s, s = q % j->s;
        step = LINE;
        if (step > j->s - s) step = j->s - s;
        if (step > last - q) step = last - q;
        if (j->labelled) read_labels(label, j, n, s, step);
        for (ptrdiff_t i = 0; i < step; i++) {
            if (j->labelled && label[i] == IGNORED) continue;
            sums->count++;
            const double w = weight_at(j, n, s + i);
            sums->total += w;
            if (j->labelled && label[i] == BAD) {
                const int64_t at = n * j->flat_n + (s + i) * j->flat_s;
                if (sums->bad < 0 || at < sums->bad) sums->bad = at;
            } else if (w != 0) {
                const double of_targets = j->labelled ? class_weight_at(j, label[i]) : j->soft ? weight_of_targets(j, n, s + i) : 1;
                if (of_targets != 0) sums->weights += w * of_targets; /* of 0 not even if w is NaN */
            }
        }
    }
}
const kernel_loops WITH_ISA(label_loops) = {.order = KEEP_ORDER, .cost = 4, .cut = cut, .task = task};
