"""Exact sums of losses and weights, for `polyloss._evaluation.exact_sums`: one pass over the positions of a batch, on one thread.

exact_sum.h says how a sum is kept. On one thread, since a loss of ten classes costs several times what its position costs here.
"""
from libc.stdint cimport int64_t, uint8_t
from libc.stdlib cimport calloc, free

cdef extern from "cpu/exact_sum.h":
    enum:
        EXACT_AT_ONCE, EXACT_BYTES
    ctypedef struct exact_sum:
        int64_t special[3]
    void exact_add(exact_sum *, double) noexcept nogil
    void exact_digits(const exact_sum *, uint8_t *) noexcept nogil

ctypedef fused real:
    float
    double

cdef enum:
    X, XX, V, VV, XV, SUMS  # two if nothing is weighted, else five


def sums(const real[::1] losses, const double[::1] weight=None, const double[::1] normal=None, const uint8_t[::1] skip=None):
    """Return (positions that count, sums of x, x², v, v², x·v, or of the first two alone where no weights are given).

    x is weight · loss, formed in double, and v is `normal`. A position counts if `skip` is 0 and its weight is not. Each sum is
    (integer in units of 2**-1075, number of NaNs, of +inf, of -inf).

    Parameters
    ----------
    losses : (N,) float or double
    weight : (N,) double, optional
        1 if absent.
    normal : (N,) double, optional
        The weight if absent.
    skip : (N,) uint8, optional
    """
    cdef Py_ssize_t n = losses.shape[0], start, stop
    for name, x in (("weight", weight), ("normal", normal), ("skip", skip)):
        if x is not None and len(x) != n:
            raise ValueError(f"{name} has {len(x)} entries, not {n}")
    cdef int k, used = XX + 1 if weight is None and normal is None else SUMS
    cdef int64_t count = 0
    cdef exact_sum *found
    cdef list totals = [(0, 0, 0, 0)] * used
    for start in range(0, n, EXACT_AT_ONCE):
        stop = min(n, start + EXACT_AT_ONCE)
        found = <exact_sum *>calloc(used, sizeof(exact_sum))
        if found == NULL:
            raise MemoryError
        try:
            with nogil:
                count += _add(losses, weight, normal, skip, start, stop, found)
            for k in range(used):
                totals[k] = tuple([a + b for a, b in zip(totals[k], _read(&found[k]))])
        finally:
            free(found)
    return count, totals


cdef int64_t _add(
    const real[::1] losses, const double[::1] weight, const double[::1] normal, const uint8_t[::1] skip,
    Py_ssize_t start, Py_ssize_t stop, exact_sum *to,
) noexcept nogil:
    """Add the positions from start on; how many count."""
    cdef Py_ssize_t i
    cdef int64_t count = 0
    cdef double w = 1, v, x
    cdef bint weighted = weight is not None, normed = normal is not None, skipping = skip is not None
    for i in range(start, stop):
        if skipping and skip[i]:
            continue
        x = losses[i]
        if weighted or normed:
            if weighted:
                w = weight[i]
                if w == 0:
                    continue
                x = w * x
            v = normal[i] if normed else w
            exact_add(&to[V], v)
            exact_add(&to[VV], v * v)
            exact_add(&to[XV], x * v)
        exact_add(&to[X], x)
        exact_add(&to[XX], x * x)
        count += 1
    return count


cdef tuple _read(const exact_sum *of):
    """One sum as Python's integers."""
    cdef uint8_t digits[EXACT_BYTES]
    exact_digits(of, digits)
    return int.from_bytes(digits[:EXACT_BYTES], "little", signed=True), of.special[0], of.special[1], of.special[2]
