"""The way from a program that XLA has compiled to the kernels: one handler of its typed foreign function interface, for every loss.

XLA calls `_handle` with the buffers of a call, from a thread of its own choice and without the interpreter's lock. The lock is taken, the
buffers become NumPy arrays over the same memory, and the Python function given to `handler` fills the results: by the routes of every call,
whose kernels let go of the lock for as long as they compute. An exception becomes XLA's error, which jax raises.
"""
from cpython.pycapsule cimport PyCapsule_New
cimport numpy as cnp

cnp.import_array()

cdef extern from "xla/xla_ffi.h":
    int XLA_STRING
    int XLA_PRED, XLA_S8, XLA_S16, XLA_S32, XLA_S64, XLA_U8, XLA_U16, XLA_U32, XLA_U64, XLA_F16, XLA_F32, XLA_F64, XLA_BF16

    ctypedef struct xla_buffer:
        int type
        void *data
        cnp.int64_t rank
        cnp.int64_t *dims

    ctypedef struct xla_buffers:
        cnp.int64_t count
        xla_buffer **buffers

    ctypedef struct xla_span:
        const char *at
        size_t length

    ctypedef struct xla_attributes:
        cnp.int64_t count
        int *types
        void **values

    ctypedef struct xla_error:
        pass

    ctypedef struct xla_frame:
        xla_buffers arguments, results
        xla_attributes attributes

    int xla_asked_for_version(xla_frame *frame) noexcept nogil
    xla_error *xla_fail(xla_frame *frame, const char *message) noexcept nogil
    void xla_huge_pages(const xla_buffer *buffer, size_t bytes) noexcept nogil

cdef dict _types = {
    XLA_PRED: cnp.NPY_BOOL, XLA_S8: cnp.NPY_INT8, XLA_S16: cnp.NPY_INT16, XLA_S32: cnp.NPY_INT32, XLA_S64: cnp.NPY_INT64,
    XLA_U8: cnp.NPY_UINT8, XLA_U16: cnp.NPY_UINT16, XLA_U32: cnp.NPY_UINT32, XLA_U64: cnp.NPY_UINT64, XLA_F16: cnp.NPY_FLOAT16,
    XLA_F32: cnp.NPY_FLOAT32, XLA_F64: cnp.NPY_FLOAT64, XLA_BF16: cnp.NPY_UINT16,
}
cdef object _function = None


def handler(function):
    """The handler as a capsule for `jax.ffi.register_ffi_target`; one for the process.

    Parameters
    ----------
    function : callable
        Takes the call's one attribute (a string), a list of arguments and a list of results to fill: C-contiguous arrays, bfloat16 as its
        bits in uint16. They must not outlive the call.
    """
    global _function
    _function = function
    return PyCapsule_New(<void *>_handle, "xla._CUSTOM_CALL_TARGET", NULL)


cdef xla_error *_handle(xla_frame *frame) noexcept nogil:
    if xla_asked_for_version(frame):
        return NULL
    return _call(frame)


cdef xla_error *_call(xla_frame *frame) noexcept with gil:
    cdef xla_span *attribute
    try:
        if frame.attributes.count != 1 or frame.attributes.types[0] != XLA_STRING:
            raise TypeError("a call has one attribute, a string")
        attribute = <xla_span *>frame.attributes.values[0]
        _function(attribute.at[:attribute.length].decode(), _arrays(&frame.arguments, False), _arrays(&frame.results, True))
    except BaseException as error:  # nothing may unwind into XLA
        return xla_fail(frame, f"{type(error).__name__}: {error}".encode())
    return NULL


cdef list _arrays(const xla_buffers *given, bint fresh):
    cdef cnp.npy_intp shape[32]
    cdef cnp.int64_t i, k
    cdef const xla_buffer *buffer
    cdef cnp.ndarray array
    arrays = []
    for i in range(given.count):
        buffer = given.buffers[i]
        if buffer.rank > 32:
            raise ValueError(f"a buffer has {buffer.rank} axes")
        for k in range(buffer.rank):
            shape[k] = buffer.dims[k]
        array = cnp.PyArray_SimpleNewFromData(<int>buffer.rank, shape, _types[buffer.type], buffer.data)
        if fresh:
            xla_huge_pages(buffer, array.nbytes)
        arrays.append(array)
    return arrays
