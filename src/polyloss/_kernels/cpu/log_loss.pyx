"""Log loss of integer labels and probabilities in one pass: the weighted sum, and what is to be checked of the probabilities.

The loops over a tile of rows are those of log_loss_simd.c, one build per instruction set; driver.pyx calls them.
"""
cimport numpy as cnp
from libc.string cimport memset

import numpy as np

from polyloss._kernels.cpu.driver cimport (
    ARRAYS, AT_P, KEEP_ORDER, TYPE_F64, describe, is_long, isa_in_use, kernel_job, kernel_loops, kernel_sums, lay, perform, strided_array,
)

from polyloss._kernels.cpu.driver import facts, force, isa, isas, openmp  # no-cython-lint: for importers

cnp.import_array()

cdef extern from *:
    """
    #define DECLARE_(isa) extern const kernel_loops log_loss_loops_##isa;
    POLYLOSS_ISAS(DECLARE_)
    #define LISTED_(isa) &log_loss_loops_##isa,
    static const kernel_loops *const log_loss_builds[] = {POLYLOSS_ISAS(LISTED_)};
    """
    const kernel_loops *const *log_loss_builds


def fused(
    cnp.ndarray p, cnp.ndarray labels, *, base=0, double low, bint rescale=False, weight=None, cnp.uint8_t[::1] seen=None, losses=None,
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
    cdef kernel_job job
    cdef kernel_sums found
    cdef int failed
    cdef const kernel_loops *loops = log_loss_builds[isa_in_use()]
    cdef Py_ssize_t n = cnp.PyArray_DIM(p, 0), c = cnp.PyArray_DIM(p, 1) if p.ndim == 2 else 1
    if p.ndim not in (1, 2) or not 1 <= c <= 0x7FFFFFFF:
        raise ValueError(f"p has shape {(<object>p).shape}, not (N, C) or (N,)")
    memset(&job, 0, sizeof(job))
    for i in range(ARRAYS):
        job.arrays[i].type = -1
    job.n, job.c, job.s = n, c, 1
    job.flat_n = job.flat_s = 1
    job.classes = c if p.ndim == 2 else 2
    put(&job.p, p, "nc"[:p.ndim], n, c, "p")
    if job.p.type > TYPE_F64:
        raise TypeError(f"p has dtype {p.dtype}, not float32 or float64")
    put(&job.t, labels, "n", n, c, "labels")
    info = np.iinfo(labels.dtype)
    if not info.min <= base <= info.max - <object>(job.classes - 1):
        raise ValueError(f"{labels.dtype} labels cannot hold {job.classes} classes from {base}")
    job.base = base % 2**64
    for to, name in ((weight, "weight"), (losses, "losses")):
        if to is not None and to.dtype != np.float64:
            raise TypeError(f"{name} has dtype {to.dtype}, not float64")
    put(&job.weight, weight, "n", n, c, "weight")
    put(&job.losses, losses, "n", n, c, "losses")
    if losses is not None and not losses.flags.writeable:
        raise ValueError("losses is read-only")
    if seen is not None:
        if <cnp.uint64_t>seen.shape[0] != job.classes:
            raise ValueError(f"seen has {seen.shape[0]} entries, not {job.classes}")
        job.seen = &seen[0]
    job.low, job.high, job.rescale = low, 1 - low, rescale and p.ndim == 2
    lay(&job, KEEP_ORDER, AT_P)
    loops.cut(&job)
    if is_long(loops, n * c):
        with nogil:
            failed = perform(loops, &job, n * c, threads, &found, NULL)
    else:
        failed = perform(loops, &job, n * c, threads, &found, NULL)
    if failed:
        raise MemoryError
    return found.total, found.least, found.most, found.off, found.bad


cdef int put(strided_array *to, object x, str axes, Py_ssize_t n, Py_ssize_t c, str name) except -1:
    if x is None:
        return describe(to, None, axes, n, c, 1, name)
    if x.ndim != len(axes) or x.shape[0] != n:
        raise ValueError(f"{name} has shape {x.shape}, not ({n},)")
    describe(to, facts(x, axes, name), axes, n, c, 1, name)
    to.at = <char *>cnp.PyArray_DATA(x)
    return 0
