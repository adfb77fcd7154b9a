"""Elementwise losses over canonical arrays (n, c, s): values, slopes and curvatures in one pass, weighted, summed and scaled.

`run` brings the three axes into the order in which they lie in memory, merges those that lie as one, and cuts the work into tasks whose
size does not depend on the number of threads; sums of tasks are added in the order of the tasks, so that results don't either. Where
neither weights nor losses tell positions apart, everything is one long row. The formulas are those of formulas.h; the loops over a task,
in C because they are compiled once per instruction set, are those of elementwise_rows.c.
"""

cimport numpy as cnp
from cython.parallel cimport prange
from libc.stdlib cimport calloc, free

import numpy as np

include "isa.pxi"
include "arrays.pxi"
include "losses.pxi"

cnp.import_array()

cdef extern from "elementwise_rows.h":
    Py_ssize_t ELEMENTWISE_SEGMENT
    Py_ssize_t ELEMENTWISE_TILE

    ctypedef struct elementwise_array:
        char *data
        int kind
        Py_ssize_t a, b, e

    ctypedef struct elementwise_job:
        int formula, doubles, columns, stream
        Py_ssize_t A, B, E
        elementwise_array t, p, weight, losses, grad, hess
        elementwise_array arrays[6]
        double parameters[8]
        double mean, scale
        Py_ssize_t segments, rows, tasks

    ctypedef struct elementwise_rows:
        void (*task)(const elementwise_job *job, Py_ssize_t task, double *total, double *weights) noexcept nogil
        int (*not_binary)(const elementwise_job *job, Py_ssize_t task) noexcept nogil
        void (*math)(int function, int doubles, const void *x, void *y, Py_ssize_t n, double parameter) noexcept nogil

cdef extern from *:
    """
    #include "formulas.h"
    #define ELEMENTWISE_TABLE_(isa) &elementwise_rows_##isa,
    static const elementwise_rows *const elementwise_tables[] = {POLYLOSS_ISAS(ELEMENTWISE_TABLE_)};
    #define ELEMENTWISE_NAME_(name, count, names) {#name, names, 0},
    static const listed_loss elementwise_formulas[] = {FORMULAS(ELEMENTWISE_NAME_)};
    enum { ELEMENTWISE_FORMULAS = sizeof elementwise_formulas / sizeof *elementwise_formulas };
    """
    const elementwise_rows *const *elementwise_tables
    int ELEMENTWISE_FORMULAS
    const listed_loss *elementwise_formulas

cdef enum:
    THREADS_FROM = 1 << 18  # elements: below, threads cost more than they bring
    STREAM_FROM = 1 << 23  # bytes of output that no cache should be filled with

FORMULAS = numbers_of(elementwise_formulas, ELEMENTWISE_FORMULAS)
PARAMETERS = parameters_of(elementwise_formulas, ELEMENTWISE_FORMULAS)
MATH = {name: i for i, name in enumerate(
    ("exp", "exp_neg", "log", "log1p", "log1p_01", "log1m_half", "log_half", "log_cosh", "tanh", "power", "max", "min"))}

cdef bint _lay(elementwise_job *job, const strided_array *arrays, Py_ssize_t N, Py_ssize_t C, Py_ssize_t S, bint apart) noexcept nogil:
    """Bring the axes into the order of memory and merge what lies as one; whether s lies outside of n.

    apart: positions are told apart, so c stays an axis of its own."""
    cdef Py_ssize_t length[3]
    cdef Py_ssize_t distance[3]
    cdef Py_ssize_t strides[3]
    cdef int a = 0, e = 1, b = 2, i
    cdef bint s_outside
    length[0], length[1], length[2] = N, C, S
    distance[0], distance[1], distance[2] = arrays[1].n, arrays[1].c, arrays[1].s
    for i in range(3):  # an axis of length 1 lies outside of all others
        distance[i] = <Py_ssize_t>(1 << 62) if length[i] == 1 else -distance[i] if distance[i] < 0 else distance[i]
    s_outside = distance[a] < distance[b]
    if s_outside:
        a, b = b, a
    if not apart:  # from the outermost to the innermost
        if distance[b] < distance[e]:
            b, e = e, b
        if distance[a] < distance[b]:
            a, b = b, a
    for i in range(6):
        strides[0], strides[1], strides[2] = arrays[i].n, arrays[i].c, arrays[i].s
        job.arrays[i].data, job.arrays[i].kind = arrays[i].at, arrays[i].type
        job.arrays[i].a, job.arrays[i].b, job.arrays[i].e = strides[a], strides[b], strides[e]
    job.A, job.B, job.E = length[a], length[b], length[e]
    job.columns = apart and distance[b] < distance[e]
    _merge_outer(job)
    if not apart:
        _merge_inner(job)
        _merge_outer(job)
        _merge_inner(job)
    return s_outside


cdef void _cut(elementwise_job *job) noexcept nogil:
    """Cut tasks of about ELEMENTWISE_SEGMENT elements."""
    cdef Py_ssize_t tiles
    job.segments = job.rows = 1
    if job.columns:
        tiles = job.A * ((job.B + ELEMENTWISE_TILE - 1) // ELEMENTWISE_TILE)
        job.rows = max(1, ELEMENTWISE_SEGMENT // (min(job.B, ELEMENTWISE_TILE) * job.E))
        job.tasks = (tiles + job.rows - 1) // job.rows
    elif job.E > ELEMENTWISE_SEGMENT:
        job.segments = (job.E + ELEMENTWISE_SEGMENT - 1) // ELEMENTWISE_SEGMENT
        job.tasks = job.A * job.B * job.segments
    else:
        job.rows = ELEMENTWISE_SEGMENT // job.E
        job.tasks = (job.A * job.B + job.rows - 1) // job.rows


cdef void _merge_outer(elementwise_job *job) noexcept nogil:
    """One axis of a and b, if they lie as one in every array."""
    cdef elementwise_array *x
    cdef int i
    for i in range(6):
        x = &job.arrays[i]
        if x.data != NULL and job.A > 1 and job.B > 1 and x.a != x.b * job.B:
            return
    for i in range(6):
        x = &job.arrays[i]
        x.b = x.b if job.B > 1 else x.a
        x.a = 0
    job.A, job.B = 1, job.A * job.B


cdef void _merge_inner(elementwise_job *job) noexcept nogil:
    """One axis of b and e, if they lie as one in every array."""
    cdef elementwise_array *x
    cdef int i
    for i in range(6):
        x = &job.arrays[i]
        if x.data != NULL and job.B > 1 and job.E > 1 and x.b != x.e * job.E:
            return
    for i in range(6):
        x = &job.arrays[i]
        x.e = x.e if job.E > 1 else x.b
        x.b = 0
    job.B, job.E = 1, job.B * job.E


def run(str name, cnp.ndarray t, cnp.ndarray p, parameters=(), *, bint bf16=False, str combine="mean", weight=None, double scale=1.0,
        losses=None, grad=None, hess=None, int threads=1):
    """Evaluate one loss.

    Parameters
    ----------
    name : str
        A key of `FORMULAS`.
    t : ndarray, (n, c, s)
        Targets: floats, integers of any kind, or booleans, of any strides; used in place in the dtype of the computation.
    p : ndarray, (n, c, s)
        Predictions: float32, float64, float16, or the bits of bfloat16 as uint16. float64 is computed in float64, all else in float32.
    parameters : sequence of numbers
        The loss's parameters, in the order of `PARAMETERS`. `zero_one` may be None: 1 if all targets are 0 or 1, which is then found out
        on the way.
    bf16 : bool
        Whether `p`, `grad` and `hess` hold bits of bfloat16.
    combine : {"mean", "sum"}
        How the elements of a position make its loss.
    weight : ndarray, (n, s), optional
        float32 or float64, of any strides. A position of weight 0 is skipped: it adds 0 and its derivatives are 0, whatever lies there.
    scale : float
        Factor of the derivatives.
    losses : ndarray, (n, s), optional
        Receives w l, in the dtype of the computation.
    grad, hess : ndarray, (n, c, s), optional
        Receive scale · w · slope and scale · w · curvature, divided by c for the mean; of the dtype of `p`. Must not overlap inputs.
    threads : int
        At most so many threads; small work takes one. No result depends on it.

    Returns
    -------
    total : float
        Σ w l.
    weights : float
        Σ w.
    """
    cdef elementwise_job job
    cdef strided_array arrays[6]
    cdef Py_ssize_t N, C, S, k
    cdef double one_weight = 1.0, total = 0.0, weights = 0.0
    cdef double *sums
    cdef const elementwise_rows *table = elementwise_tables[isa_used]
    if cnp.PyArray_NDIM(p) != 3:
        raise ValueError(f"p has shape {np.shape(p)}, but must have three axes")
    N, C, S = p.shape[0], p.shape[1], p.shape[2]
    describe(&arrays[0], t, "ncs", (N, C, S), "t")
    describe(&arrays[1], p, "ncs", (N, C, S), "p", bf16)
    describe(&arrays[2], weight, "ns", (N, S), "weight")
    describe(&arrays[3], losses, "ns", (N, S), "losses")
    describe(&arrays[4], grad, "ncs", (N, C, S), "grad", bf16)
    describe(&arrays[5], hess, "ncs", (N, C, S), "hess", bf16)
    job.formula = FORMULAS[name]
    job.doubles = arrays[1].type == TYPE_F64
    check_types(arrays[1].type, arrays[2].type, arrays[3].type, p, weight, losses, grad, hess)
    cdef bint look = "zero_one" in PARAMETERS[name] and len(parameters) == 1 and parameters[0] is None
    if look and (t.dtype == np.float64 != p.dtype or any_not_binary(t[:64, :64, :1])):  # doubles could be rounded to 1; a first look
        look, parameters = False, (not any_not_binary(t, weight=weight, threads=threads),)
    if look:  # 2: taken for granted, and the sum is NaN if a target says otherwise
        parameters = (2.0,)
    take_parameters(job.parameters, 8, name, PARAMETERS[name], parameters)
    if N * C * S == 0:
        if losses is not None:
            losses[...] = 0
        return 0.0, float(N * S if weight is None else weight.sum(dtype=np.float64))

    job.mean = 1.0 if combine == "sum" else 1.0 / C
    cdef bint apart = losses is not None
    if weight is not None and arrays[2].n == 0 and arrays[2].s == 0:  # one weight for all
        one_weight = (<double *>arrays[2].at)[0] if arrays[2].type == TYPE_F64 else (<float *>arrays[2].at)[0]
        apart = apart or one_weight == 0  # skips
    elif weight is not None:
        apart = True
    if not apart:
        arrays[2].at = NULL
        job.mean *= one_weight
    job.scale = scale * job.mean
    cdef Py_ssize_t outputs = ((grad is not None) + (hess is not None)) * N * C * S * p.itemsize
    job.stream = outputs >= STREAM_FROM
    cdef bint s_outside = _lay(&job, arrays, N, C, S, apart)
    _cut(&job)
    if in_forked_child or N * C * S < THREADS_FROM:
        threads = 1

    sums = <double *>calloc(2 * job.tasks, sizeof(double))
    if sums == NULL:
        raise MemoryError
    try:
        with nogil:
            if threads > 1:
                for k in prange(job.tasks, schedule="static", num_threads=threads):
                    table.task(&job, k, &sums[2 * k], &sums[2 * k + 1])
            else:
                for k in range(job.tasks):
                    table.task(&job, k, &sums[2 * k], &sums[2 * k + 1])
            for k in range(job.tasks):
                total += sums[2 * k]
                weights += sums[2 * k + 1]
        if job.segments > 1:  # sums of segments, without weights
            rows = np.add.reduce(np.asarray(<double[:job.A * job.B, :job.segments, :2]>sums)[:, :, 0], axis=1) * job.mean
            if apart:
                rows = rows.reshape(S, N).T if s_outside else rows.reshape(N, S)
                if weight is not None:
                    rows = np.where(weight == 0, 0.0, rows * np.asarray(weight, np.float64))
                if losses is not None:
                    losses[...] = rows
            total = rows.sum()
    finally:
        free(sums)
    if look and total != total:
        zero_one = not any_not_binary(t, weight=weight, threads=threads)
        return run(name, t, p, (zero_one,), bf16=bf16, combine=combine, weight=weight, scale=scale, losses=losses, grad=grad, hess=hess,
                   threads=threads)
    return total, weights if apart else one_weight * N * S


def any_not_binary(cnp.ndarray t, *, weight=None, int threads=1):
    """Whether some target is neither 0 nor 1: Keras' rule for the labels of hinge losses.

    Parameters
    ----------
    t : ndarray, (n, c, s)
        Targets of any kind that `run` takes.
    weight : ndarray, (n, s), optional
        Positions of weight 0 are not looked at.
    threads : int
        At most so many threads.

    Returns
    -------
    bool
    """
    cdef elementwise_job job
    cdef strided_array arrays[6]
    cdef Py_ssize_t N = t.shape[0], C = t.shape[1], S = t.shape[2], k
    cdef int found = 0
    cdef const elementwise_rows *table = elementwise_tables[isa_used]
    if N * C * S == 0:
        return False
    for k in range(2, 6):
        describe(&arrays[k], None, "", (), "")
    describe(&arrays[0], t, "ncs", (N, C, S), "t")
    arrays[1] = arrays[0]
    job.doubles = arrays[0].type in (TYPE_F64, TYPE_I32, TYPE_I64, TYPE_U32, TYPE_U64)  # floats would round 2**31 + 1
    for apart in (False, True):  # weights only matter where the whole array is not binary
        if apart:
            if weight is None:
                return True
            describe(&arrays[2], weight, "ns", (N, S), "weight")
        _lay(&job, arrays, N, C, S, apart)
        job.columns = False
        _cut(&job)
        found = 0
        if in_forked_child or N * C * S < THREADS_FROM:
            threads = 1
        with nogil:
            if threads > 1:
                for k in prange(job.tasks, schedule="static", num_threads=threads):
                    if (<volatile int *>&found)[0] == 0 and table.not_binary(&job, k):
                        (<volatile int *>&found)[0] = 1
            else:
                for k in range(job.tasks):
                    if table.not_binary(&job, k):
                        found = 1
                        break
        if not found:
            return False
    return True


def math(str name, cnp.ndarray x, double parameter=0.0):
    """A function of vector_math.h on a contiguous array of float32 or float64; for its tests."""
    y = np.empty_like(x)
    elementwise_tables[isa_used].math(MATH[name], cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT64, cnp.PyArray_DATA(x),
                                      cnp.PyArray_DATA(<cnp.ndarray>y), x.size, parameter)
    return y
