/* Loops of the losses of sets of positions, for one instruction set; setup.py compiles this file once for each.

   With I = Σ t p, M = Σ t (1 - p), E = Σ p (1 - t), A = alpha M + beta E + epsilon and D = A + I the loss is A / D. Its derivatives
   depend on these sums and on the targets alone, so the second visit reads no predictions. A long set is cut into segments: the first visit
   of all of them ends before the second begins. */
#include "cpu/loops/kernel.h"
#include "simd/vector_math.h"

#define SETS_SEGMENT 32768 /* elements of a task, of a multiple of SETS_BLOCK, so that a set's sum depends on its length alone */
#define SETS_BLOCK 512 /* elements summed in lanes of the type before they go to a double */
#define SETS_SHORT 64 /* elements that are added one after the other, each in a lane of its set */
#define SETS_TILE 64 /* sets that are gone through together where they are short or lie beside each other */
#define SETS_FEW 6 /* sets beside each other, as of images of few classes, that are gone through one by one: 0.8 ns an element for 2.4 */
#define SETS_STREAM (1 << 23) /* bytes of output that no cache should be filled with */

enum { SUMS = 3 }; /* I, M, E */

typedef struct { /* of a set: its loss; I / D, A / D and D, which its derivatives are made of */
    double value, overlap, apart, whole;
} found_set;
typedef struct { /* slopes where t is 0 and where it is 1, and their difference; of D's, times -2 / D: times a slope they are a curvature */
    double none, all, between, at_none, at_all, at_between;
    double factor; /* of the slopes */
} set_slopes;

static double weight_at(const kernel_job *j, ptrdiff_t n, ptrdiff_t s)
{
    const char *at = j->weight.at + n * j->weight.n + s * j->weight.s;
    return !j->weight.at ? 1 : j->weight.type == TYPE_F64 ? *(const double *)at : (double)*(const float *)at;
}
/* A set of weight 0 is skipped, by the second visit, too. */
static found_set found_of(const kernel_job *j, const double *sums, double w)
{
    const double alpha = j->parameters[0], beta = j->parameters[1], common = sums[0];
    const double apart = alpha * sums[1] + beta * sums[2] + j->parameters[2], whole = apart + common, value = apart / whole;
    const double overlap = value < 0.5 ? 1 - value : common / whole; /* neither cancels */
    return (found_set){w == 0 ? 0 : value * w, overlap, value, whole};
}
/* Of a set, I / D, A / D and D, and its weight. */
static set_slopes slopes_of(const kernel_job *j, const double *set, double w)
{
    const double alpha = j->parameters[0], beta = j->parameters[1], k = j->scale * w / set[2], bend = -2 / set[2];
    const double all = set[1] + alpha * set[0], none = set[0] * beta;
    return (set_slopes){k * set[0] * beta, -k * all, -k * (all + none), bend * beta, bend * (1 - alpha), bend * (1 - alpha - beta), k};
}
/* Slope and curvature at a target of any size: whole sums and weights may be infinite, and factors leave the range of their product. */
static void derive_one(const kernel_job *j, const double *set, double w, double t, double *slope, double *curvature)
{
    const long double alpha = j->parameters[0], beta = j->parameters[1], k = (long double)j->scale * w / set[2], x = t;
    const long double none = set[0] * beta, all = set[1] + alpha * set[0];
    const int near = fabs(t) <= 2; /* beyond, the two products are infinite before their sum is, and do not cancel */
    const long double s = k * (near ? none * (1 - x) - all * x : none - (all + none) * x);
    const long double by = near ? beta * (1 - x) + (1 - alpha) * x : beta + (1 - alpha - beta) * x;
    *slope = (double)s, *curvature = (double)(by * s / set[2] * -2);
}
static void write_loss(const kernel_job *j, ptrdiff_t n, ptrdiff_t s, double value)
{
    char *at = j->losses.at + n * j->losses.n + s * j->losses.s;
    if (!j->losses.at) return;
    if (j->losses.type == TYPE_F64)
        *(double *)at = value;
    else
        *(float *)at = (float)value;
}
/* What is known of a set when its sums are. */
static found_set finish(const kernel_job *j, ptrdiff_t n, ptrdiff_t s, const double *parts, kernel_sums *sums)
{
    const double w = weight_at(j, n, s);
    const found_set set = found_of(j, parts, w);
    sums->count++;
    sums->weights += w;
    sums->total += set.value;
    write_loss(j, n, s, set.value);
    return set;
}

#define DOUBLES 0
#include "simd/real.h"
#include "simd/lines.h"
#include "cpu/loops/sets_loops.h"

#define DOUBLES 1
#include "simd/real.h"
#include "simd/lines.h"
#include "cpu/loops/sets_loops.h"

static void cut(kernel_job *job)
{
    const ptrdiff_t size = job->doubles ? sizeof(double) : sizeof(float), bytes = job->n * job->c * job->s * size;
    job->stream = ((job->grad.type >= 0) + (job->hess.type >= 0)) * bytes >= SETS_STREAM;
    job->tile = (job->columns && job->s > SETS_FEW) || job->c <= SETS_SHORT ? SETS_TILE : 1;
    job->tiles = (job->s + job->tile - 1) / job->tile;
    job->segments = job->c > SETS_SEGMENT ? (job->c + SETS_SEGMENT - 1) / SETS_SEGMENT : 1;
    job->tiles_per_task = job->segments > 1 ? 1 : SETS_SEGMENT / ((job->tile < job->s ? job->tile : job->s) * job->c);
    if (job->tiles_per_task < 1) job->tiles_per_task = 1;
    const ptrdiff_t tiles = job->n * job->tiles;
    job->tasks = job->segments > 1 ? tiles * job->segments : (tiles + job->tiles_per_task - 1) / job->tiles_per_task;
    const size_t vector = job->doubles ? sizeof(vd) : sizeof(vf);
    job->scratch = job->tile > 1 ? SETS_TILE * (10 * (size_t)size + 2 * vector * SUMS) : 3 * SETS_BLOCK * (size_t)size;
    job->between = job->segments > 1 ? (size_t)(job->n * job->s * job->segments) * SUMS * sizeof(double) : 0;
}
static void task(const kernel_job *job, ptrdiff_t at, void *scratch, kernel_sums *sums)
{
    if (job->segments > 1)
        (job->doubles ? sum_segment_d : sum_segment_f)(job, at, scratch);
    else
        (job->doubles ? task_d : task_f)(job, at, scratch, sums);
    if (job->stream && job->segments == 1) fence(); /* of segments nothing is written yet */
}
static void derive(const kernel_job *job, ptrdiff_t at, void *scratch, kernel_sums *sums)
{
    (void)sums;
    (job->doubles ? derive_segment_d : derive_segment_f)(job, at, scratch);
    if (job->stream) fence();
}
/* Sums of segments, in their order, become what is known of each set, in place of its first ones. */
static void join(const kernel_job *job, kernel_sums *sums)
{
    for (ptrdiff_t n = 0; n < job->n; n++)
        for (ptrdiff_t s = 0; s < job->s; s++) {
            double *parts = (double *)job->kept + (n * job->s + s) * job->segments * SUMS, all[SUMS] = {0};
            for (ptrdiff_t k = 0; k < job->segments; k++)
                for (int i = 0; i < SUMS; i++) all[i] += parts[k * SUMS + i];
            const found_set set = finish(job, n, s, all, sums);
            parts[0] = set.overlap, parts[1] = set.apart, parts[2] = set.whole;
        }
}

static const kernel_loops second = {.order = REORDER_POSITIONS, .cost = 2, .cut = cut, .task = derive};
const kernel_loops WITH_ISA(sets_loops) = {
    .order = REORDER_POSITIONS, .cost = 2, .cut = cut, .task = task, .join = join, .second = &second};
