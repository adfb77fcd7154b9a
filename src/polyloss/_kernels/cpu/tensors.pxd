# What the other modules need of tensors.pyx.
from libc.stdint cimport int64_t, uint8_t

cimport numpy as cnp

cdef enum:
    AXES = 8  # of an array that `PlanCache` takes

cdef struct tensor_view:
    char *data
    int ndim
    int64_t code, bits  # DLPack's, of the dtype
    const int64_t *shape
    const int64_t *strides  # in elements
    int64_t room[2 * AXES]  # for both, where torch doesn't lend its own

cdef bint is_tensor(object x) except -1
cdef bint look(object x, tensor_view *to) except -1
cdef bint lent(object x, tensor_view *to) noexcept
cdef object new_tensor(uint8_t code, uint8_t bits, int ndim, const cnp.npy_intp *shape, Py_ssize_t nbytes, char **data)
