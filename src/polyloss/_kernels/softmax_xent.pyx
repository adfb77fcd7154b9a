"""Fused softmax cross-entropy of (N, C, S) logits: loss, gradient, probabilities, second derivative, in one pass over the logits.

The module turns NumPy arrays of any type and stride into a softmax_job (softmax_xent.h), cuts the N * S positions into tiles and lets the
row primitives (softmax_xent_rows.c, one build per instruction set) work through them. Tiles and their order depend on shapes alone and
each tile's sums are added up in that order: the bits are the same for any number of threads.
"""
from cython.parallel cimport parallel, prange
from libc.stdint cimport int64_t
from libc.stdlib cimport free, getenv, malloc
from libc.string cimport memset
cimport numpy as cnp

import numpy as np

include "isa.pxi"
include "arrays.pxi"

cnp.import_array()

cdef extern from "Python.h":
    bint PyLong_CheckExact(object)
    long long PyLong_AsLongLongAndOverflow(object, int *) except? -1

cdef extern from "numpy/arrayobject.h":
    object PyArray_Scalar(void *, cnp.dtype, object)

cdef extern from "softmax_xent.h":
    ctypedef struct softmax_job:
        Py_ssize_t n, c, s
        strided_array z, y, class_weight, weight, upstream, losses, lse, grad, prob, hess
        const int64_t *ignore
        Py_ssize_t ignored
        bint soft
        double smoothing, poly, scale
    ctypedef struct softmax_sums:
        double total, weight
        int64_t count, bad
    ctypedef struct softmax_xent_rows:
        Py_ssize_t (*tile)(const softmax_job *) noexcept nogil
        Py_ssize_t (*scratch)(const softmax_job *) noexcept nogil
        void (*run)(const softmax_job *, Py_ssize_t, Py_ssize_t, void *, softmax_sums *) noexcept nogil
        void (*labels)(const softmax_job *, Py_ssize_t, Py_ssize_t, void *, softmax_sums *) noexcept nogil

cdef extern from *:
    """
    #define DECLARE(isa) extern const softmax_xent_rows softmax_xent_rows_##isa;
    POLYLOSS_ISAS(DECLARE)
    #define LISTED(isa) &softmax_xent_rows_##isa,
    static const softmax_xent_rows *const softmax_xent_builds[] = {POLYLOSS_ISAS(LISTED)};
    """
    const softmax_xent_rows *const *softmax_xent_builds

cdef enum:
    SMALL_SCRATCH = 65536  # bytes of the stack
cdef Py_ssize_t PARALLEL_FROM = 65536  # elements: 25 to 50 µs on one thread; entering a parallel region costs 5 to 15


cdef int _run(const softmax_job *job, int threads, bint labels_only, softmax_sums *total) except -1:
    """Every tile; the sums in the order of the tiles."""
    cdef const softmax_xent_rows *rows = softmax_xent_builds[isa_used]
    cdef Py_ssize_t positions = job.n * job.s, size = rows.tile(job), tiles = (positions + size - 1) // size
    cdef Py_ssize_t room = rows.scratch(job) + 64, i
    cdef softmax_sums *sums
    cdef char *scratch
    cdef int failed = 0
    scratch = NULL
    _start(total)
    if tiles == 0:
        return 0
    if in_forked_child or threads < 1 or tiles < 2 or positions * (1 if labels_only else job.c) < PARALLEL_FROM:
        threads = 1
    elif threads > tiles:
        threads = <int>tiles
    sums = <softmax_sums *>malloc(tiles * sizeof(softmax_sums))
    if sums == NULL:
        raise MemoryError
    with nogil:
        if threads == 1:
            scratch = <char *>malloc(room)
            if scratch == NULL:
                failed = 1
            else:
                for i in range(tiles):
                    _tile(rows, job, i, size, positions, scratch, labels_only, &sums[i])
                free(scratch)
        else:
            with parallel(num_threads=threads):
                scratch = <char *>malloc(room)
                for i in prange(tiles, schedule="dynamic"):
                    if scratch == NULL:
                        failed += 1
                    else:
                        _tile(rows, job, i, size, positions, scratch, labels_only, &sums[i])
                free(scratch)
    if not failed:
        for i in range(tiles):
            _add(total, &sums[i])
    free(sums)
    if failed:
        raise MemoryError
    return 0


cdef void _join(softmax_job *job) noexcept:
    """Make one axis of n and s where every array's strides allow it: long runs of neighbours are what the row primitives live on."""
    cdef strided_array *arrays[9]
    cdef int i
    arrays[0], arrays[1], arrays[2], arrays[3], arrays[4] = &job.z, &job.y, &job.weight, &job.upstream, &job.losses
    arrays[5], arrays[6], arrays[7], arrays[8] = &job.lse, &job.grad, &job.prob, &job.hess
    for i in range(9):
        if job.s > 1 and job.n > 1 and arrays[i].at != NULL and arrays[i].n != job.s * arrays[i].s:
            return
    for i in range(9):
        if job.s == 1:
            arrays[i].s = arrays[i].n
        arrays[i].n = 0
    job.s *= job.n
    job.n = 1


cdef inline void _start(softmax_sums *total) noexcept nogil:
    total.total = total.weight = 0
    total.count = 0
    total.bad = -1


cdef inline void _add(softmax_sums *total, const softmax_sums *sums) noexcept nogil:
    total.total += sums.total
    total.weight += sums.weight
    total.count += sums.count
    if total.bad < 0:
        total.bad = sums.bad


cdef inline void _tile(const softmax_xent_rows *rows, const softmax_job *job, Py_ssize_t i, Py_ssize_t size, Py_ssize_t positions,
                       char *scratch, bint labels_only, softmax_sums *sums) noexcept nogil:
    cdef char *aligned = scratch + (64 - <size_t>scratch % 64) % 64
    if labels_only:
        rows.labels(job, i * size, min(size, positions - i * size), aligned, sums)
    else:
        rows.run(job, i * size, min(size, positions - i * size), aligned, sums)


cdef object _ignored(softmax_job *job, object ignore, object dtype):
    """The ignore values that the labels' type can hold, as an array that the job points into."""
    cdef cnp.ndarray values
    info = np.iinfo(dtype)
    held = [v for v in ignore if info.min <= v <= info.max]
    values = np.array([v - 2**64 if v >= 2**63 else v for v in held], np.int64)
    job.ignore = <const int64_t *>cnp.PyArray_DATA(values)
    job.ignored = len(held)
    return values


def fused(
    cnp.ndarray z, cnp.ndarray y, *, bint bf16=False, ignore=(), class_weight=None, weight=None, upstream=None, double smoothing=0.0,
    double poly_epsilon=0.0, double scale=1.0, losses=None, grad=None, prob=None, hess=None, lse=None, int threads=1,
):
    """Fill the outputs that are given; return (sum of w * loss, sum of w * k[label], positions not ignored, first bad position or -1).

    Parameters
    ----------
    z : (N, C, S) float32, float64, float16, or uint16 with the bits of bfloat16 where `bf16`
        Logits, at any strides.
    y : (N, S) of any integer type, or (N, C, S) soft targets
        Soft targets are float32, or float64 where `z` is.
    ignore : tuple of int
        Labels whose positions are skipped: loss 0, gradient 0.
    class_weight, weight, upstream : (C,), (N, S), (N, S) in the computation's type
        `upstream` multiplies the gradients alone: what autograd hands down to each loss. Weight 0 skips the position.
    losses, lse : (N, S) outputs in the computation's type
    grad, prob, hess : (N, C, S) outputs in the type of `z`
        May lie anywhere but over the inputs. `grad` and `hess` are multiplied by `scale`. `grad` alone may be `z` itself, if its classes
        are contiguous float32 or float64 and more than 192.
    """
    cdef softmax_job job
    cdef softmax_sums total
    cdef tuple shape = (<object>z).shape
    if len(shape) != 3:
        raise ValueError(f"z has shape {shape}, not (N, C, S)")
    memset(&job, 0, sizeof(job))
    job.n, job.c, job.s = shape
    if job.c > 0x7FFFFFFF:
        raise ValueError(f"{job.c} classes: labels are kept in 32 bits")
    cdef tuple places = (shape[0], shape[2])
    describe(&job.z, z, "ncs", shape, "z", bf16)
    if job.z.type > TYPE_BF16 or bf16 and (<object>z).dtype != np.uint16:
        raise TypeError(f"z is {(<object>z).dtype}")
    cdef type real = np.float64 if job.z.type == TYPE_F64 else np.float32
    job.soft = (<object>y).dtype.kind == "f"
    if job.soft:
        describe(&job.y, y, "ncs", shape, "y")
    else:
        describe(&job.y, y, "ns", places, "y")
    if job.soft and (<object>y).dtype != real or not job.soft and job.y.type < TYPE_I8:
        raise TypeError(f"y is {(<object>y).dtype}")
    _held = _ignored(&job, () if job.soft else ignore, np.int64 if job.soft else (<object>y).dtype)
    _optional(&job.class_weight, class_weight, "c", (shape[1],), "class_weight", real)
    _optional(&job.weight, weight, "ns", places, "weight", real)
    _optional(&job.upstream, upstream, "ns", places, "upstream", real)
    _optional(&job.losses, losses, "ns", places, "losses", real, True)
    _optional(&job.lse, lse, "ns", places, "lse", real, True)
    _optional(&job.grad, grad, "ncs", shape, "grad", (<object>z).dtype, True, bf16)
    _optional(&job.prob, prob, "ncs", shape, "prob", (<object>z).dtype, True, bf16)
    _optional(&job.hess, hess, "ncs", shape, "hess", (<object>z).dtype, True, bf16)
    job.smoothing, job.poly, job.scale = smoothing, poly_epsilon, scale
    _join(&job)
    _run(&job, threads, False, &total)
    return total.total, total.weight, total.count, total.bad


cdef cnp.dtype _float32 = np.dtype(np.float32)
cdef cnp.dtype _float64 = np.dtype(np.float64)

cdef int _label_type(int numpy_type) noexcept:
    """The element type of an integer type's number in NumPy, -1 for another."""
    if numpy_type == cnp.NPY_INT64 or numpy_type == cnp.NPY_LONGLONG:
        return TYPE_I64
    if numpy_type == cnp.NPY_INT32:
        return TYPE_I32
    if numpy_type == cnp.NPY_UINT8:
        return TYPE_U8
    if numpy_type == cnp.NPY_INT16:
        return TYPE_I16
    if numpy_type == cnp.NPY_INT8:
        return TYPE_I8
    return -1


cdef tuple _tensors = ()  # types of tensors whose memory `ordinary` may read, by what torch tells of them
cdef dict _tensor_types = {}  # their dtypes -> number of NumPy's type, bytes of an element


def take_tensors(kinds, dtypes):
    """Let `ordinary` take tensors of exactly these types and of these dtypes (dtype -> NumPy's), if they are strided and on the CPU.

    What torch tells of a tensor costs a tenth of making a NumPy array of it.
    """
    global _tensors
    _tensors = tuple(kinds)
    _tensor_types.update({dtype: (np.dtype(like).num, np.dtype(like).itemsize) for dtype, like in dtypes.items()})


cdef bint _ordinary_array(strided_array *to, object x, int ndim, cnp.npy_intp *shape, int *number) except -1:
    """Address, shape, number of NumPy's type and stride of the first axis of an ordinary array or tensor; False for any other."""
    cdef cnp.ndarray array
    cdef Py_ssize_t i
    if cnp.PyArray_CheckExact(x):
        array = x
        if cnp.PyArray_NDIM(array) != ndim or not (cnp.PyArray_ISALIGNED(array) and cnp.PyArray_ISNOTSWAPPED(array)):
            return False
        if ndim == 2 and not cnp.PyArray_IS_C_CONTIGUOUS(array):
            return False
        for i in range(ndim):
            shape[i] = cnp.PyArray_DIM(array, i)
        to.at, to.s, number[0] = <char *>cnp.PyArray_DATA(array), cnp.PyArray_STRIDE(array, 0), cnp.PyArray_TYPE(array)
        return True
    if type(x) not in _tensors or not x.is_contiguous():
        return False
    known = _tensor_types.get(x.dtype)
    places = <tuple>x.shape
    if known is None or len(places) != ndim:
        return False
    for i in range(ndim):
        shape[i] = places[i]
    number[0], to.s = <tuple>known
    to.at = <char *><size_t>x.data_ptr()
    if ndim == 2:
        to.s *= shape[1]
    return to.at != NULL  # zeros that torch never wrote, or memory that it gave back


cdef int _run_here(const softmax_job *job, bint labels_only, softmax_sums *total) except -1:
    """As `_run`, on one thread, with the lock held and scratch on the stack where it fits: what takes microseconds."""
    cdef const softmax_xent_rows *rows = softmax_xent_builds[isa_used]
    cdef char stack[SMALL_SCRATCH]
    cdef char *scratch = stack
    cdef softmax_sums sums
    cdef Py_ssize_t size = rows.tile(job), i
    _start(total)
    if rows.scratch(job) + 64 > SMALL_SCRATCH:
        scratch = <char *>malloc(rows.scratch(job) + 64)
        if scratch == NULL:
            raise MemoryError
    for i in range((job.s + size - 1) // size):
        _tile(rows, job, i, size, job.s, scratch, labels_only, &sums)
        _add(total, &sums)
    if scratch != stack:
        free(scratch)
    return 0


def ordinary(y, z, ignore, bint mean, bint gradient=False, out=None, int threads=1):
    """The loss of a batch in the least time: None for whatever is unusual, a bad label included, and the long road takes it.

    Parameters
    ----------
    y : (N,) signed integers or uint8
    z : (N, C) float32 or float64, C-contiguous
        Both are arrays, or tensors as `take_tensors` has them.
    ignore : int or None
    mean : bool
        Divide by the number of positions not ignored, at least 1; else the sum.
    gradient : bool
        Also give the gradient, in a new array or in `out`. A new array of more than 2**16 numbers is the road's to make.
    out : (N, C) of the type of `z`, C-contiguous, optional
    threads : int
        At most so many, for more than 2**16 logits.

    Returns
    -------
    value, (value, gradient) or None
        The value is a NumPy scalar for arrays and a 0-d array for tensors; the gradient is an array, or `out`.
    """
    cdef softmax_job job
    cdef softmax_sums sums
    cdef char *end
    cdef char *lowest
    cdef char *highest
    cdef cnp.npy_intp[2] shape
    cdef cnp.npy_intp[2] written
    cdef cnp.npy_intp[2] labels
    cdef int number = 0, written_number = 0, label_number = 0
    cdef double total
    cdef int64_t label
    cdef float narrow
    cdef int overflow = 0
    cdef bint labels_only, small
    if getenv("POLYLOSS_ROUTE") != NULL or cnp.PyArray_CheckExact(y) != cnp.PyArray_CheckExact(z):
        return None
    memset(&job, 0, sizeof(job))
    if not (_ordinary_array(&job.z, z, 2, shape, &number) and _ordinary_array(&job.y, y, 1, labels, &label_number)):
        return None
    if number == cnp.NPY_FLOAT32:
        job.z.type = TYPE_F32
    elif number == cnp.NPY_FLOAT64:
        job.z.type = TYPE_F64
    else:
        return None
    job.y.type = _label_type(label_number)
    job.n, job.s, job.c = 1, shape[0], shape[1]
    if job.y.type < 0 or labels[0] != job.s or job.s == 0 or job.c == 0 or job.c > 0x7FFFFFFF:
        return None
    small = job.s * job.c <= PARALLEL_FROM
    if gradient and out is None and not small:
        return None
    job.z.c = 4 if job.z.type == TYPE_F32 else 8
    job.scale = 1.0 / job.s if mean else 1.0
    if ignore is not None:
        if not PyLong_CheckExact(ignore):
            return None
        label = PyLong_AsLongLongAndOverflow(ignore, &overflow)
        if overflow:
            return None
        job.ignore, job.ignored = &label, 1
    if gradient:
        job.grad = job.z
        if out is None:
            out = cnp.PyArray_EMPTY(2, shape, number, 0)
            job.grad.at = <char *>cnp.PyArray_DATA(out)
        else:  # an array like the logits, apart from them and from the labels
            if not (_ordinary_array(&job.grad, out, 2, written, &written_number) and written_number == number):
                return None
            if written[0] != job.s or written[1] != job.c or cnp.PyArray_CheckExact(out) != cnp.PyArray_CheckExact(z):
                return None
            if cnp.PyArray_CheckExact(out) and not cnp.PyArray_ISWRITEABLE(out):
                return None
            end = job.grad.at + job.s * job.z.s
            lowest, highest = min(job.y.at, job.y.at + (job.s - 1) * job.y.s), max(job.y.at, job.y.at + (job.s - 1) * job.y.s)
            if (job.grad.at < job.z.at + job.s * job.z.s and job.z.at < end) or (job.grad.at < highest + 8 and lowest < end):
                return None
    # The gradient is scaled in the pass that computes it: where labels may be ignored, they are counted in a pass before.
    for labels_only in range(gradient and mean and ignore is not None, -1, -1):
        if small:
            _run_here(&job, labels_only, &sums)
        else:
            _run(&job, threads, labels_only, &sums)
        if sums.bad >= 0:
            return None
        if labels_only:
            job.scale = 1.0 / max(sums.count, 1)
    total = sums.total
    if mean and sums.count > 1:
        total /= sums.count
    narrow = <float>total
    if cnp.PyArray_CheckExact(z):
        value = PyArray_Scalar(&total, _float64, None) if job.z.type == TYPE_F64 else PyArray_Scalar(&narrow, _float32, None)
    else:
        value = cnp.PyArray_EMPTY(0, NULL, number, 0)
        if job.z.type == TYPE_F64:
            (<double *>cnp.PyArray_DATA(value))[0] = total
        else:
            (<float *>cnp.PyArray_DATA(value))[0] = narrow
    return (value, out) if gradient else value


cdef int _optional(strided_array *to, object a, str axes, tuple shape, str name, object dtype, bint written=False,
                   bint bf16=False) except -1:
    if a is None:
        return 0
    if not isinstance(a, np.ndarray) or a.dtype != dtype:
        raise TypeError(f"{name} is not an array of {np.dtype(dtype)}")
    if written and not a.flags.writeable:
        raise ValueError(f"{name} is read-only")
    return describe(to, a, axes, shape, name, bf16)


def backward(z, y, lse, upstream, **options):
    """The gradient alone: `upstream` (N, S) times that of each loss. The row's sum is taken again, from the cache."""
    fused(z, y, upstream=upstream, **options)


def label_sums(cnp.ndarray y, Py_ssize_t c, *, ignore=(), class_weight=None, weight=None, int threads=1):
    """(sum of w * k[label], positions not ignored, first bad position or -1) from (N, S) labels of `c` classes alone."""
    cdef softmax_job job
    cdef softmax_sums total
    cdef tuple places = (<object>y).shape
    if c > 0x7FFFFFFF:
        raise ValueError(f"{c} classes: labels are kept in 32 bits")
    if len(places) != 2 or (<object>y).dtype.kind not in "iu":
        raise ValueError(f"y is {(<object>y).dtype} of shape {places}, not integers (N, S)")
    memset(&job, 0, sizeof(job))
    job.n, job.s = places
    job.c = c
    describe(&job.y, y, "ns", places, "y")
    _held = _ignored(&job, ignore, (<object>y).dtype)
    real = np.float32 if all(a is None or a.dtype == np.float32 for a in (class_weight, weight)) else np.float64
    _optional(&job.class_weight, class_weight, "c", (c,), "class_weight", real)
    _optional(&job.weight, weight, "ns", places, "weight", real)
    _join(&job)
    _run(&job, threads, True, &total)
    return total.weight, total.count, total.bad
