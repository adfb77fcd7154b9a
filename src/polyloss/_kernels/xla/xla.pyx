"""The way from a program that XLA has compiled to the kernels: one handler of its typed foreign function interface, for every loss.

XLA calls `_handle` with the buffers of a call, from a thread of its own choice and without the interpreter's lock. What the call is stands
in its one attribute, a text. The first call of a text takes the lock, and Python's `bind` says which kernel it is, bound to arrays of these
types and lengths; that is kept (plans.h), and from then on a call reads the buffers' addresses and runs the kernel, without the lock. What
no kernel takes as it lies, and a divisor that no kernel can divide by, is for Python's `evaluate`: it fills the results by the routes of
every call. An exception becomes XLA's error, which jax raises.

Devices wait for each other in XLA's collectives, so a call must not wait for a device: no lock but the interpreter's is held or taken here,
and what Python runs is no operation of JAX.
"""
from cpython.pycapsule cimport PyCapsule_New
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset
cimport numpy as cnp

from polyloss._kernels.cpu.driver cimport ARRAYS
from polyloss._kernels.cpu.prepared cimport FAR_FROM_1, SHORT, Prepared

cnp.import_array()

cdef extern from "xla/xla_ffi.h":
    int XLA_STRING
    int XLA_PRED, XLA_S8, XLA_S16, XLA_S32, XLA_S64, XLA_U8, XLA_U16, XLA_U32, XLA_U64, XLA_F16, XLA_F32, XLA_F64, XLA_BF16

    ctypedef struct xla_buffer:
        int type
        void *data
        int64_t rank
        int64_t *dims

    ctypedef struct xla_buffers:
        int64_t count
        xla_buffer **buffers

    ctypedef struct xla_span:
        const char *at
        size_t length

    ctypedef struct xla_attributes:
        int64_t count
        int *types
        void **values

    ctypedef struct xla_error:
        pass

    ctypedef struct xla_frame:
        xla_buffers arguments, results
        xla_attributes attributes

    int xla_asked_for_version(xla_frame *frame) noexcept nogil
    xla_error *xla_fail(xla_frame *frame, const char *message) noexcept nogil
    int64_t xla_size(const xla_buffer *buffer) noexcept nogil
    void xla_huge_pages(const xla_buffer *buffer, size_t bytes) noexcept nogil

cdef extern from "xla/plans.h":
    int PLAN_BUFFERS

    ctypedef struct plan_buffer:
        int role
        int type
        int64_t size
        size_t bytes

    ctypedef struct plan_entry:
        const char *text
        size_t length
        int threads
        void *kernel
        int arguments, results
        plan_buffer *buffers

    const plan_entry *plan_of(const char *text, size_t length, int threads) noexcept nogil
    int plan_add(plan_entry *entry) noexcept nogil
    int plan_threads() noexcept nogil
    void plan_allow(int threads) noexcept nogil

cdef enum:
    ROLE_DIVISOR = ARRAYS  # beside those of the kernel's arrays
    ROLE_VALUE

ROLES = {
    name: i for i, name in enumerate(("t", "p", "weight", "class_weight", "losses", "gradient", "hessian", "prob", "divisor", "value"))
}

cdef dict _types = {
    XLA_PRED: cnp.NPY_BOOL, XLA_S8: cnp.NPY_INT8, XLA_S16: cnp.NPY_INT16, XLA_S32: cnp.NPY_INT32, XLA_S64: cnp.NPY_INT64,
    XLA_U8: cnp.NPY_UINT8, XLA_U16: cnp.NPY_UINT16, XLA_U32: cnp.NPY_UINT32, XLA_U64: cnp.NPY_UINT64, XLA_F16: cnp.NPY_FLOAT16,
    XLA_F32: cnp.NPY_FLOAT32, XLA_F64: cnp.NPY_FLOAT64, XLA_BF16: cnp.NPY_UINT16,
}
cdef object _bind = None, _evaluate = None


def handler(bind, evaluate):
    """The handler as a capsule for `jax.ffi.register_ffi_target`; one for the process.

    Parameters
    ----------
    bind : callable
        Takes the call's one attribute (a string of a digest of 16 characters and more), a list of arguments and a list of results:
        C-contiguous arrays, bfloat16 as its bits in uint16, which must not outlive the call. Gives the call's kernel, a `Prepared` that
        reads and writes such arrays where they lie, and what each of them is to it, as in `ROLES`; or None: there is none.
    evaluate : callable
        Takes the arguments of `bind`, and fills the results.
    """
    global _bind, _evaluate
    _bind, _evaluate = bind, evaluate
    return PyCapsule_New(<void *>_handle, "xla._CUSTOM_CALL_TARGET", NULL)


def allow(int threads):
    """How many threads kernels may use from now on."""
    plan_allow(threads)


cdef xla_error *_handle(xla_frame *frame) noexcept nogil:
    cdef const xla_span *text
    cdef const plan_entry *entry
    cdef xla_error *error
    cdef int64_t how
    if xla_asked_for_version(frame):
        return NULL
    if frame.attributes.count != 1 or frame.attributes.types[0] != XLA_STRING:
        return xla_fail(frame, "TypeError: a call has one attribute, a string")
    text = <const xla_span *>frame.attributes.values[0]
    entry = plan_of(text.at, text.length, plan_threads())
    if entry == NULL:
        error = _learn(frame, text)
        if error != NULL:
            return error
        entry = plan_of(text.at, text.length, plan_threads())
    if entry != NULL and entry.kernel != NULL and _fits(frame, entry):
        how = _run(frame, entry)
        if how == SHORT:
            return xla_fail(frame, "MemoryError: a kernel has no memory to work in")
        if how != FAR_FROM_1:
            return NULL
    return _by_python(frame, text)


cdef bint _fits(const xla_frame *frame, const plan_entry *entry) noexcept nogil:
    """Whether buffers have the types and lengths that the kernel is bound to."""
    cdef const plan_buffer *known = &entry.buffers[0]
    cdef int i
    if frame.arguments.count != entry.arguments or frame.results.count != entry.results:
        return False
    for i in range(entry.arguments + entry.results):
        buffer = frame.arguments.buffers[i] if i < entry.arguments else frame.results.buffers[i - entry.arguments]
        if buffer.type != known[i].type or xla_size(buffer) != known[i].size:
            return False
    return True


cdef int64_t _run(const xla_frame *frame, const plan_entry *entry) noexcept nogil:
    """Call the kernel; as `Prepared.fill`."""
    cdef char *at[ARRAYS + 2]
    cdef double given = 0
    cdef const plan_buffer *known = &entry.buffers[0]
    cdef int i
    memset(at, 0, sizeof(at))
    for i in range(entry.arguments):
        at[known[i].role] = <char *>frame.arguments.buffers[i].data
        if known[i].role == ROLE_DIVISOR:
            given = (<double *>at[ROLE_DIVISOR])[0] if known[i].type == XLA_F64 else (<float *>at[ROLE_DIVISOR])[0]
    for i in range(entry.results):
        buffer = frame.results.buffers[i]
        at[known[entry.arguments + i].role] = <char *>buffer.data
        xla_huge_pages(buffer, known[entry.arguments + i].bytes)
    return (<Prepared>entry.kernel).write(at, given, at[ROLE_VALUE])


cdef xla_error *_learn(xla_frame *frame, const xla_span *text) noexcept with gil:
    """Keep the kernel of a text whose first call this is, in this process and by so many threads."""
    cdef plan_entry *entry = NULL
    cdef int threads = plan_threads()
    try:
        arguments, results = _arrays(&frame.arguments), _arrays(&frame.results)
        found = _bind(text.at[:text.length].decode(), arguments, results)
        entry = _entry(text, threads)
        if found is not None:
            _describe(entry, frame, found[0], found[1], arguments + results)
        if not plan_add(entry):
            _free(entry)
    except BaseException as error:  # nothing may unwind into XLA
        _free(entry)
        return xla_fail(frame, f"{type(error).__name__}: {error}".encode())
    return NULL


cdef plan_entry *_entry(const xla_span *text, int threads) except NULL:
    """One without a kernel."""
    cdef plan_entry *entry = <plan_entry *>calloc(1, sizeof(plan_entry))
    cdef char *copy = <char *>malloc(text.length)
    if entry == NULL or copy == NULL:
        free(entry)
        free(copy)
        raise MemoryError
    memcpy(copy, text.at, text.length)
    entry.text, entry.length, entry.threads = copy, text.length, threads
    return entry


cdef void _free(plan_entry *entry) noexcept:
    if entry != NULL:
        if entry.kernel != NULL:
            Py_DECREF(<object>entry.kernel)
        free(<void *>entry.text)
        free(entry)


cdef int _describe(plan_entry *entry, const xla_frame *frame, Prepared kernel, roles, arrays) except -1:
    """The kernel of a text, and the buffers that it takes."""
    cdef const xla_buffer *buffer
    cdef Py_ssize_t i
    if len(arrays) > PLAN_BUFFERS:
        return 0
    entry.arguments, entry.results = <int>frame.arguments.count, <int>frame.results.count
    for i in range(len(arrays)):
        buffer = frame.arguments.buffers[i] if i < entry.arguments else frame.results.buffers[i - entry.arguments]
        entry.buffers[i].role, entry.buffers[i].type = ROLES[roles[i]], buffer.type
        entry.buffers[i].size, entry.buffers[i].bytes = xla_size(buffer), arrays[i].nbytes
    Py_INCREF(kernel)
    entry.kernel = <void *>kernel
    return 0


cdef xla_error *_by_python(xla_frame *frame, const xla_span *text) noexcept with gil:
    try:
        _evaluate(text.at[:text.length].decode(), _arrays(&frame.arguments), _arrays(&frame.results))
    except BaseException as error:
        return xla_fail(frame, f"{type(error).__name__}: {error}".encode())
    return NULL


cdef list _arrays(const xla_buffers *given):
    cdef cnp.npy_intp shape[32]
    cdef int64_t i, k
    cdef const xla_buffer *buffer
    arrays = []
    for i in range(given.count):
        buffer = given.buffers[i]
        if buffer.rank > 32:
            raise ValueError(f"a buffer has {buffer.rank} axes")
        for k in range(buffer.rank):
            shape[k] = buffer.dims[k]
        arrays.append(cnp.PyArray_SimpleNewFromData(<int>buffer.rank, shape, _types[buffer.type], buffer.data))
    return arrays
