"""Tensors of torch in C: where one lies in memory, and new ones.

Both by the C interface of DLPack 1, which makes no Python object. Where torch lacks it, a tensor's methods say where it lies.
"""
cimport numpy as cnp
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid
from cpython.ref cimport Py_DECREF
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free, malloc

cdef extern from "Python.h":
    void PyErr_Clear() noexcept

cdef enum:
    LINE = 64  # bytes of a line of the cache

ctypedef struct dl_tensor:
    char *data
    int32_t device, number, ndim
    uint8_t code, bits
    uint16_t lanes
    int64_t *shape
    int64_t *strides
    uint64_t offset

ctypedef struct dl_managed:
    uint32_t major, minor
    void *owner
    void (*deleter)(dl_managed *) noexcept nogil
    uint64_t flags
    dl_tensor tensor

ctypedef struct dl_exchange:
    uint32_t major, minor
    void *previous
    void *allocate
    void *owning
    int (*give)(dl_managed *, void **) except -1
    int (*lend)(void *, dl_tensor *) noexcept

cdef tuple known = ()  # types of tensors
cdef const dl_exchange *exchange = NULL
cdef object strided  # the layout of tensors whose numbers lie at strides
cdef dict types = {}  # dtype -> DLPack's code and bits


def take_tensors(kinds, layout, dtypes):
    """Let calls on tensors of exactly these types be looked up, where they are strided and on the CPU.

    Parameters
    ----------
    kinds : iterable of type
        Of tensors.
    layout : object
        What `layout` of a strided tensor is.
    dtypes : dict
        dtype -> (DLPack's code, bits).
    """
    global known, exchange, strided
    known, strided = tuple(kinds), layout
    types.update(dtypes)
    exchange = NULL
    offered = getattr(known[0], "__dlpack_c_exchange_api__", None)
    if offered is not None and PyCapsule_IsValid(offered, "dlpack_exchange_api"):
        exchange = <const dl_exchange *>PyCapsule_GetPointer(offered, "dlpack_exchange_api")
        if exchange.major != 1:
            exchange = NULL


cdef bint is_tensor(object x) except -1:
    """Whether an object is a tensor of one of these types, and no lazy negative, whose memory holds its numbers with the other sign."""
    return type(x) in known and not x.is_neg()


cdef bint look(object x, tensor_view *to) except -1:
    """Where a tensor lies; False if it isn't strided, on the CPU, and of at most AXES axes."""
    return lent(x, to) if exchange != NULL else asked(x, to)


cdef bint lent(object x, tensor_view *to) noexcept:
    """`look` by the C interface; also False where torch lacks it, and for a tensor that a function transform has wrapped."""
    cdef dl_tensor tensor
    if exchange == NULL:
        return False
    if exchange.lend(<void *>x, &tensor) != 0:
        PyErr_Clear()
        return False
    if tensor.device != 1 or tensor.lanes != 1 or tensor.ndim > AXES or tensor.data == NULL:
        return False
    to.data, to.ndim, to.code, to.bits = tensor.data + tensor.offset, tensor.ndim, tensor.code, tensor.bits
    to.shape, to.strides = tensor.shape, tensor.strides
    return True


cdef bint asked(object x, tensor_view *to) except -1:
    """`look` by the tensor's methods."""
    cdef int i
    kind = types.get(x.dtype)
    if kind is None or not x.is_cpu or x.layout is not strided or x.is_nested:
        return False
    shape, strides = x.shape, x.stride()
    to.data, to.ndim, to.code, to.bits = <char *><uintptr_t>x.data_ptr(), len(shape), kind[0], kind[1]
    if to.ndim > AXES or to.data == NULL:
        return False
    to.shape, to.strides = to.room, to.room + AXES
    for i in range(to.ndim):
        to.room[i], to.room[AXES + i] = shape[i], strides[i]
    return True


cdef object new_tensor(uint8_t code, uint8_t bits, int ndim, const cnp.npy_intp *shape, Py_ssize_t nbytes, char **data):
    """A new contiguous tensor, and at `data` where it lies; None where torch lacks the interface. 1 µs less than one over a NumPy array."""
    cdef dl_managed *made
    cdef int64_t *lengths
    cdef int64_t step = 1
    cdef void *found = NULL
    cdef bint gone = False
    cdef int i
    if exchange == NULL:
        return None
    made = <dl_managed *>malloc(sizeof(dl_managed) + 2 * ndim * sizeof(int64_t) + LINE + nbytes)
    if made == NULL:
        raise MemoryError
    lengths = <int64_t *>(made + 1)
    made.major, made.minor, made.owner, made.deleter, made.flags = 1, 0, &gone, let_go, 0
    made.tensor.device, made.tensor.number, made.tensor.ndim, made.tensor.offset = 1, 0, ndim, 0
    made.tensor.code, made.tensor.bits, made.tensor.lanes = code, bits, 1
    made.tensor.shape, made.tensor.strides = lengths, lengths + ndim
    for i in range(ndim - 1, -1, -1):
        lengths[i], lengths[ndim + i] = shape[i], step
        step *= max(shape[i], 1)
    data[0] = <char *>((<uintptr_t>(lengths + 2 * ndim) + LINE - 1) // LINE * LINE)
    made.tensor.data = data[0]
    try:
        exchange.give(made, &found)
    except BaseException:
        if not gone:
            free(made)
        raise
    made.owner = NULL
    tensor = <object><PyObject *>found
    Py_DECREF(tensor)  # which `found` counted, too
    return tensor


cdef void let_go(dl_managed *made) noexcept nogil:
    if made.owner != NULL:  # `new_tensor` is still there
        (<bint *>made.owner)[0] = True
    free(made)
