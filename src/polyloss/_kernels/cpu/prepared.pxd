# What plan_cache.pyx and the handler of XLA's calls need of prepared.pyx.
from libc.stdint cimport int64_t

cimport numpy as cnp

from polyloss._kernels.cpu.driver cimport Bound, kernel_sums
from polyloss._kernels.cpu.tensors cimport AXES

cdef enum:
    INPUTS = 4
    DONE = -1  # how a call ended, where not with the first bad label
    FAR_FROM_1 = -2
    SHORT = -3

cdef struct span:
    Py_ssize_t low, high  # bytes from an array's first entry to its lowest and behind its highest

cdef struct cast:
    Py_ssize_t size  # of an input that is converted to the dtype of the computation first; 0: it is read where it lies
    int number  # of its dtype, as NumPy counts them


cdef class Prepared:
    cdef readonly object plan
    cdef readonly Bound bound
    cdef object from_numpy, record, given, then
    cdef int gives
    cdef cnp.dtype storage, real
    cdef int divide, ndim, losses_ndim
    cdef double divisor, least, most
    cdef bint bits, single, checks, value, gradient, hessian, prob, losses, scaled
    cdef cnp.npy_intp shape[AXES]
    cdef cnp.npy_intp losses_shape[AXES]
    cdef Py_ssize_t nbytes
    cdef span spans[INPUTS]
    cdef cast casts[INPUTS]
    cdef bint converts
    cdef bint uncounted  # a call has come with a tensor of inference mode, which does not count how often it is written to
    cdef bint is_given(self, double value) noexcept nogil
    cdef int64_t fill(self, char **at, double given, double *total, double *divisor) noexcept nogil
    cdef int64_t fill_with_lock(self, char **at, object given, double *total, double *divisor) except? SHORT
    cdef int64_t write(self, char **at, double given, char *value) noexcept nogil
    cdef bint is_far(self, double divisor) noexcept nogil
    cdef void set_divisor(self, const kernel_sums *found, double *divisor) noexcept nogil
    cdef object results(self, char **at, object given, object out, object out_hessian, double *divisor)
    cdef list convert(self, char **at)
    cdef object new(self, cnp.dtype kind, int ndim, cnp.npy_intp *shape, char **data)
    cdef bint outputs_apart(self, char **at) noexcept
    cdef bint apart(self, char **at, int output) noexcept
