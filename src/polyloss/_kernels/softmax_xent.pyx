"""Fused softmax cross-entropy of (N, C, S) logits: loss, gradient, probabilities, second derivative, in one pass over the logits.

The loops over a tile of positions are those of softmax_xent_rows.c, one build per instruction set; driver.pyx calls them.
"""
from libc.stdint cimport int64_t
from libc.stdlib cimport getenv
from libc.string cimport memset
cimport numpy as cnp

import numpy as np

from polyloss._kernels.driver cimport (
    Kernel, TYPE_F32, TYPE_F64, TYPE_I8, TYPE_I16, TYPE_I32, TYPE_I64, TYPE_U8, isa_in_use, kernel_job, kernel_loops, kernel_sums,
    label_loops, listed_loss, perform, strided_array,
)

from polyloss._kernels.driver import facts, force, isa, isas, openmp

cnp.import_array()

cdef extern from "Python.h":
    bint PyLong_CheckExact(object)
    long long PyLong_AsLongLongAndOverflow(object, int *) except? -1

cdef extern from "numpy/arrayobject.h":
    object PyArray_Scalar(void *, cnp.dtype, object)

cdef extern from "softmax_xent.h":
    pass

cdef extern from *:
    """
    #define SOFTMAX_BUILD_(isa) &softmax_loops_##isa,
    static const kernel_loops *const softmax_builds[] = {POLYLOSS_ISAS(SOFTMAX_BUILD_)};
    #define SOFTMAX_NAME_(name, parameters, labels) {#name, parameters, labels},
    static const listed_loss softmax_losses[] = {SOFTMAX(SOFTMAX_NAME_)};
    enum { SOFTMAX_LOSSES = sizeof softmax_losses / sizeof *softmax_losses };
    """
    const kernel_loops *const *softmax_builds
    const listed_loss *softmax_losses
    int SOFTMAX_LOSSES

cdef Kernel kernel = Kernel()
kernel.fill(softmax_builds, softmax_losses, SOFTMAX_LOSSES)
PARAMETERS, bind, run = kernel.parameters, kernel.bind, kernel.run


def fused(z, y, *, ignore=(), double smoothing=0.0, double poly_epsilon=0.0, **options):
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
    return kernel.run("softmax_xent", y, z, (smoothing, poly_epsilon), ignore=ignore, **options)


def label_sums(cnp.ndarray y, Py_ssize_t c, *, ignore=(), class_weight=None, weight=None, int threads=1):
    """(sum of w * k[label], positions not ignored, first bad position or -1) from (N, S) labels of `c` classes alone."""
    real = "f8" if any(a is not None and a.dtype == np.float64 for a in (class_weight, weight)) else "f4"
    n, s = (<object>y).shape
    bound = kernel.bind(
        "softmax_xent", n, c, s, facts(y, "ns", "y"), (real, (0, 0, 0)), None if weight is None else facts(weight, "ns", "weight"),
        None if class_weight is None else facts(class_weight, "c", "class_weight"), parameters=(0, 0), ignore=ignore, threads=threads,
    )
    return bound.sums(y, weight, class_weight)[:3]


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
    cdef kernel_job job
    cdef kernel_sums sums
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
    cdef const kernel_loops *loops
    if getenv("POLYLOSS_ROUTE") != NULL or cnp.PyArray_CheckExact(y) != cnp.PyArray_CheckExact(z):
        return None
    memset(&job, 0, sizeof(job))
    if not (_ordinary_array(&job.p, z, 2, shape, &number) and _ordinary_array(&job.t, y, 1, labels, &label_number)):
        return None
    if number == cnp.NPY_FLOAT32:
        job.p.type = TYPE_F32
    elif number == cnp.NPY_FLOAT64:
        job.p.type = TYPE_F64
    else:
        return None
    job.t.type = _label_type(label_number)
    job.n, job.s, job.c = 1, shape[0], shape[1]
    job.classes, job.labelled, job.flat_s = shape[1], True, 1
    if job.t.type < 0 or labels[0] != job.s or job.s == 0 or job.c == 0 or job.c > 0x7FFFFFFF:
        return None
    small = job.s * job.c <= 65536
    if gradient and out is None and not small:
        return None
    job.p.c = 4 if job.p.type == TYPE_F32 else 8
    job.scale = 1.0 / job.s if mean else 1.0
    if ignore is not None:
        if not PyLong_CheckExact(ignore):
            return None
        label = PyLong_AsLongLongAndOverflow(ignore, &overflow)
        if overflow:
            return None
        job.ignore, job.ignored = &label, 1
    if gradient:
        job.grad = job.p
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
            end = job.grad.at + job.s * job.p.s
            lowest, highest = min(job.t.at, job.t.at + (job.s - 1) * job.t.s), max(job.t.at, job.t.at + (job.s - 1) * job.t.s)
            if (job.grad.at < job.p.at + job.s * job.p.s and job.p.at < end) or (job.grad.at < highest + 8 and lowest < end):
                return None
    # The gradient is scaled in the pass that computes it: where labels may be ignored, they are counted in a pass before.
    for labels_only in range(gradient and mean and ignore is not None, -1, -1):
        loops = label_loops() if labels_only else softmax_builds[isa_in_use()]
        loops.cut(&job)
        perform(loops, &job, job.s if labels_only else job.s * job.c, threads, &sums, NULL)
        if sums.bad >= 0:
            return None
        if labels_only:
            job.scale = 1.0 / max(sums.count, 1)
    total = sums.total
    if mean and sums.count > 1:
        total /= sums.count
    narrow = <float>total
    if cnp.PyArray_CheckExact(z):
        value = PyArray_Scalar(&total, _float64, None) if job.p.type == TYPE_F64 else PyArray_Scalar(&narrow, _float32, None)
    else:
        value = cnp.PyArray_EMPTY(0, NULL, number, 0)
        if job.p.type == TYPE_F64:
            (<double *>cnp.PyArray_DATA(value))[0] = total
        else:
            (<float *>cnp.PyArray_DATA(value))[0] = narrow
    return (value, out) if gradient else value
