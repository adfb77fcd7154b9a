"""Log loss of integer labels and probabilities in one pass: the weighted sum, and what is to be checked of the probabilities.

The module turns NumPy arrays into a log_loss_job (log_loss.h), cuts the rows into tiles and lets the row primitives (log_loss_rows.c, one
build per instruction set) work through them. Tiles depend on shape and strides alone and their sums are added up in their order: the bits
are the same for any number of threads.
"""
from cython.parallel cimport prange
from libc.math cimport isnan
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, malloc
cimport numpy as cnp

import numpy as np

include "isa.pxi"
include "arrays.pxi"

cnp.import_array()

cdef extern from "log_loss.h":
    ctypedef struct log_loss_job:
        const char *p
        Py_ssize_t rows, columns, row_stride, column_stride
        bint single
        const char *labels
        Py_ssize_t label_stride
        int label_type
        uint64_t base, classes
        uint8_t *seen
        const char *weight
        Py_ssize_t weight_stride
        double low, high
        bint rescale
        double *losses
    ctypedef struct log_loss_sums:
        double total, least, most, off
        int64_t bad
    ctypedef struct log_loss_rows:
        Py_ssize_t (*tile)(const log_loss_job *) noexcept nogil
        void (*run)(const log_loss_job *, Py_ssize_t, Py_ssize_t, log_loss_sums *) noexcept nogil

cdef extern from *:
    """
    #define DECLARE(isa) extern const log_loss_rows log_loss_rows_##isa;
    POLYLOSS_ISAS(DECLARE)
    #define LISTED(isa) &log_loss_rows_##isa,
    static const log_loss_rows *const log_loss_builds[] = {POLYLOSS_ISAS(LISTED)};
    """
    const log_loss_rows *const *log_loss_builds

cdef Py_ssize_t PARALLEL_FROM = 65536  # probabilities: about 50 µs on one thread; entering a parallel region costs 5 to 15


def takes(p):
    """Whether probabilities are of a type and at an address that the kernel reads; any strides do."""
    return p.dtype in (np.float32, np.float64) and p.dtype.isnative and p.flags.aligned


def fused(
    cnp.ndarray p, cnp.ndarray labels, *, base=0, double low, bint rescale=False, weight=None, seen=None, double[::1] losses=None,
    int threads=1,
):
    """Return (sum of w * loss, least and greatest probability, greatest distance of a row's sum from 1, first bad label's row or -1).

    Parameters
    ----------
    p : (N, C) or (N,) float32 or float64
        Probabilities, at any strides; (N,): those of the second of two classes. The least one is returned as NaN if any is NaN.
    labels : (N,) of any integer type
        Class + `base`, compared as mathematical integers; `base` + C - 1 must be a number of their type.
    low : float
        What is picked is clipped to [low, 1 - low]; after its division by the sum of its row if `rescale`.
    weight : (N,) float64, optional
        Weight 0 gives exactly 0.
    seen : (C,) uint8, optional
        Set to 1 where a class occurs among the labels.
    losses : (N,) float64, optional
        Receives the loss of each row, without its weight.
    """
    cdef log_loss_job job
    cdef log_loss_sums total
    cdef strided_array array
    job.rows = len(p)
    job.columns = p.shape[1] if p.ndim == 2 else 1
    job.classes = job.columns if p.ndim == 2 else 2
    if p.ndim not in (1, 2) or job.columns < 1:
        raise ValueError(f"p has shape {(<object>p).shape}, not (N, C) or (N,)")
    describe(&array, p, "nc"[:p.ndim], (<object>p).shape, "p")
    if array.type > TYPE_F64:
        raise TypeError(f"p has dtype {p.dtype}, not float32 or float64")
    job.p, job.row_stride, job.column_stride = array.at, array.n, array.c
    job.single = array.type == TYPE_F32
    job.rescale = rescale and p.ndim == 2

    describe(&array, labels, "n", (job.rows,), "labels")
    info = np.iinfo(labels.dtype)
    if not info.min <= base <= info.max - <object>(job.classes - 1):
        raise ValueError(f"{labels.dtype} labels cannot hold {job.classes} classes from {base}")
    job.labels, job.label_stride, job.label_type = array.at, array.n, array.type
    job.base = base % 2**64

    describe(&array, weight, "n", (job.rows,), "weight")
    if weight is not None and array.type != TYPE_F64:
        raise TypeError(f"weight has dtype {weight.dtype}, not float64")
    job.weight, job.weight_stride = array.at, array.n
    describe(&array, seen, "c", (job.classes,), "seen")
    if seen is not None and not (seen.dtype == np.uint8 and seen.flags.carray):
        raise TypeError(f"seen has dtype {seen.dtype}, not writeable uint8 in one piece")
    job.seen = <uint8_t *>array.at
    if losses is not None and losses.shape[0] != job.rows:
        raise ValueError(f"losses has {losses.shape[0]} entries, not {job.rows}")
    job.losses = &losses[0] if losses is not None and job.rows else NULL
    job.low, job.high = low, 1 - low
    _run(&job, threads, &total)
    return total.total, total.least, total.most, total.off, total.bad


cdef int _run(const log_loss_job *job, int threads, log_loss_sums *total) except -1:
    """Every tile; the sums in the order of the tiles."""
    cdef const log_loss_rows *rows = log_loss_builds[isa_used]
    cdef Py_ssize_t size = rows.tile(job), tiles = (job.rows + size - 1) // size, i
    cdef log_loss_sums *sums = <log_loss_sums *>malloc(tiles * sizeof(log_loss_sums) + 1)
    if sums == NULL:
        raise MemoryError
    if in_forked_child or threads < 1 or job.rows * job.columns < PARALLEL_FROM:
        threads = 1
    with nogil:
        if threads == 1:
            for i in range(tiles):
                rows.run(job, i * size, min(size, job.rows - i * size), &sums[i])
        else:
            for i in prange(tiles, schedule="static", num_threads=threads):
                rows.run(job, i * size, min(size, job.rows - i * size), &sums[i])
    total.total, total.least, total.most, total.off, total.bad = 0, float("inf"), -float("inf"), 0, -1
    for i in range(tiles):
        total.total += sums[i].total
        total.most = max(total.most, sums[i].most)
        total.off = max(total.off, sums[i].off)
        if total.bad < 0:
            total.bad = sums[i].bad
        if sums[i].least < total.least or isnan(sums[i].least):
            total.least = sums[i].least  # NaN stays: nothing is less
    free(sums)
    return 0
