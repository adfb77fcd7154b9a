"""Losses that consume a row of classes, except the softmax cross-entropies: those of probabilities, focal, categorical hinge, cosine.

`run` takes canonical arrays (n, c, s), brings the axes of positions into the order in which they lie in memory and cuts the work into
tasks whose size does not depend on the number of threads; their sums are added in their order, so that results don't either. The formulas
are those of the blocks in classification.py and similarity.py: rowwise_formulas.h holds them, rowwise_loops.h sums a row at a time.
"""

cimport numpy as cnp
from cython.parallel cimport prange
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free

import numpy as np

include "isa.pxi"
include "arrays.pxi"
include "losses.pxi"

cnp.import_array()

cdef extern from "rowwise_rows.h":
    Py_ssize_t ROWWISE_TILE

    ctypedef struct rowwise_array:
        char *data
        int kind
        Py_ssize_t a, b, c

    ctypedef struct rowwise_job:
        int loss, doubles
        Py_ssize_t A, B, C
        rowwise_array t, p, weight, losses, grad, hess
        double parameters[4]
        double scale
        const uint64_t *ignored
        Py_ssize_t ignored_count, flat_a, flat_b, tile, tiles, tasks, tiles_per_task

    ctypedef struct rowwise_sums:
        double total, weights
        Py_ssize_t kept, bad

    ctypedef struct rowwise_rows:
        int (*task)(const rowwise_job *job, Py_ssize_t task, rowwise_sums *sums) noexcept nogil

cdef extern from *:
    """
    #define ROWWISE_TABLE_(isa) &rowwise_rows_##isa,
    static const rowwise_rows *const rowwise_tables[] = {POLYLOSS_ISAS(ROWWISE_TABLE_)};
    #define ROWWISE_NAME_(name, parameters, labels) {#name, parameters, labels},
    static const listed_loss rowwise_losses[] = {ROWWISE(ROWWISE_NAME_)};
    enum { ROWWISE_LOSSES = sizeof rowwise_losses / sizeof *rowwise_losses };
    """
    const rowwise_rows *const *rowwise_tables
    int ROWWISE_LOSSES
    const listed_loss *rowwise_losses

cdef enum:
    TASK = 1 << 15  # elements of a task
    THREADS_FROM = 1 << 17  # elements: below, threads cost more than they bring

LOSSES = numbers_of(rowwise_losses, ROWWISE_LOSSES)
PARAMETERS = parameters_of(rowwise_losses, ROWWISE_LOSSES)


cdef int _place(rowwise_array *to, bint s_outside, x, str axes, tuple shape, str name, bint bf16=False) except -1:
    """Describe an array along the job's axes."""
    cdef strided_array found
    describe(&found, x, axes, shape, name, bf16)
    to.data, to.kind, to.c = found.at, found.type, found.c
    to.a = found.s if s_outside else found.n
    to.b = found.n if s_outside else found.s
    return 0


cdef bint _lie_as_one(const rowwise_job *job) noexcept nogil:
    """Whether positions of a and b lie as one axis in every array."""
    cdef const rowwise_array *arrays[6]
    cdef int i
    arrays[0], arrays[1], arrays[2] = &job.t, &job.p, &job.weight
    arrays[3], arrays[4], arrays[5] = &job.losses, &job.grad, &job.hess
    for i in range(6):
        if arrays[i].data != NULL and job.A > 1 and arrays[i].a != arrays[i].b * job.B:
            return False
    return job.A == 1 or job.flat_a == job.flat_b * job.B


def run(str name, cnp.ndarray t, cnp.ndarray p, parameters=(), *, bint bf16=False, weight=None, double scale=1.0, losses=None, grad=None,
        hess=None, ignore=(), int threads=1):
    """Evaluate one loss.

    Parameters
    ----------
    name : str
        A key of `LOSSES`.
    t : ndarray, (n, c, s) or (n, s)
        Targets, of any kind and strides: floats, integers or booleans; for sparse_categorical_crossentropy integer labels, (n, s), taken as
        mathematical integers.
    p : ndarray, (n, c, s)
        Predictions: float32, float64, float16, or the bits of bfloat16 as uint16. float64 is computed in float64, all else in float32.
    parameters : sequence of numbers
        The loss's parameters, in the order of `PARAMETERS`.
    bf16 : bool
        Whether `p`, `grad` and `hess` hold bits of bfloat16.
    weight : ndarray, (n, s), optional
        float32 or float64. A position of weight 0 is skipped: it adds 0 and its derivatives are 0, whatever lies there.
    scale : float
        Factor of the derivatives.
    losses : ndarray, (n, s), optional
        Receives w l, in the dtype of the computation.
    grad, hess : ndarray, (n, c, s), optional
        Receive scale · w · slope and scale · w · curvature (the diagonal), of the dtype of `p`. Must not overlap inputs; `hess` needs
        `grad`.
    ignore : sequence of int
        Labels to skip, inside or outside of 0 … c - 1.
    threads : int
        At most so many threads; small work takes one. No result depends on it.

    Returns
    -------
    total : float
        Σ w l.
    weights : float
        Σ w of the positions not ignored.
    kept : int
        Count of the positions not ignored.
    bad : int
        Least flat index of a label that is neither a class nor ignored, or -1. Such a position's loss and derivatives are NaN.
    """
    cdef rowwise_job job
    cdef rowwise_sums *sums
    cdef const rowwise_rows *table = rowwise_tables[isa_used]
    cdef Py_ssize_t N, C, S, k, kept = 0, bad = -1
    cdef double total = 0, weights = 0
    cdef int failed = 0
    cdef uint64_t[::1] ignored
    if cnp.PyArray_NDIM(p) != 3:
        raise ValueError(f"p has shape {np.shape(p)}, but must have three axes")
    N, C, S = p.shape[0], p.shape[1], p.shape[2]
    job.loss = LOSSES[name]
    cdef bint labelled = rowwise_losses[job.loss].labels
    take_parameters(job.parameters, 4, name, PARAMETERS[name], parameters)

    # b is the inner one of the axes of positions.
    cdef bint s_outside = N > 1 and (S == 1 or abs(cnp.PyArray_STRIDES(p)[0]) < abs(cnp.PyArray_STRIDES(p)[2]))
    job.A = S if s_outside else N
    job.B = N if s_outside else S
    job.C = C
    job.flat_a = 1 if s_outside else S
    job.flat_b = S if s_outside else 1
    _place(&job.p, s_outside, p, "ncs", (N, C, S), "p", bf16)
    if labelled:
        _place(&job.t, s_outside, t, "ns", (N, S), "t")
    else:
        _place(&job.t, s_outside, t, "ncs", (N, C, S), "t")
    _place(&job.weight, s_outside, weight, "ns", (N, S), "weight")
    _place(&job.losses, s_outside, losses, "ns", (N, S), "losses")
    _place(&job.grad, s_outside, grad, "ncs", (N, C, S), "grad", bf16)
    _place(&job.hess, s_outside, hess, "ncs", (N, C, S), "hess", bf16)
    job.doubles = job.p.kind == TYPE_F64
    check_types(job.p.kind, job.weight.kind, job.losses.kind, p, weight, losses, grad, hess)
    if labelled and job.t.kind < TYPE_I8:
        raise TypeError(f"t has dtype {t.dtype}, but labels are integers")
    if hess is not None and grad is None:
        raise TypeError("hess is given without grad")
    job.scale = scale
    # Labels and ignored ones are compared as 64 bits: what the labels' kind cannot hold is left out, so that -1 is not 2**64 - 1.
    last = 0 if not labelled else 1 if t.dtype.kind == "b" else np.iinfo(t.dtype).max
    first = 0 if not labelled or t.dtype.kind == "b" else np.iinfo(t.dtype).min
    ignored = np.array([int(i) & 0xffffffffffffffff for i in ignore if first <= i <= last] or [0], np.uint64)
    job.ignored, job.ignored_count = &ignored[0], sum(1 for i in ignore if first <= i <= last)
    if N * C * S == 0:
        if losses is not None:
            losses[...] = 0
        return 0.0, float(N * S if weight is None else weight.sum(dtype=np.float64)), N * S, -1

    if _lie_as_one(&job):
        job.B, job.A = job.A * job.B, 1
    job.tile = 1
    if job.B > 1 and C > 1 and abs(job.p.b) < abs(job.p.c):
        job.tile = max(1, min(ROWWISE_TILE, TASK // 2 // C))
    job.tiles = (job.B + job.tile - 1) // job.tile
    job.tiles_per_task = max(1, TASK // (job.tile * C))
    job.tasks = (job.A * job.tiles + job.tiles_per_task - 1) // job.tiles_per_task
    if in_forked_child or N * C * S < THREADS_FROM:
        threads = 1
    sums = <rowwise_sums *>calloc(job.tasks, sizeof(rowwise_sums))
    if sums == NULL:
        raise MemoryError
    try:
        with nogil:
            for k in range(job.tasks):
                sums[k].bad = -1
            if threads > 1:
                for k in prange(job.tasks, schedule="static", num_threads=threads):
                    failed |= table.task(&job, k, &sums[k])
            else:
                for k in range(job.tasks):
                    failed |= table.task(&job, k, &sums[k])
            for k in range(job.tasks):
                total += sums[k].total
                weights += sums[k].weights
                kept += sums[k].kept
                if sums[k].bad >= 0 and (bad < 0 or sums[k].bad < bad):
                    bad = sums[k].bad
    finally:
        free(sums)
    if failed:
        raise MemoryError
    return total, weights, kept, bad
