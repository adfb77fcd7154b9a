# What the other modules need of driver.pyx.
from libc.stdint cimport int64_t, uint8_t, uint64_t

cdef extern from "simd/storage.h":
    enum:
        TYPE_F32, TYPE_F64, TYPE_F16, TYPE_BF16, TYPE_I8, TYPE_I16, TYPE_I32, TYPE_I64, TYPE_U8, TYPE_U16, TYPE_U32, TYPE_U64
    ctypedef struct strided_array:
        char *at
        Py_ssize_t n, c, s, run
        int type

cdef extern from "cpu/loops/kernel.h":
    enum:
        AT_T, AT_P, AT_WEIGHT, AT_CLASS_WEIGHT, AT_LOSSES, AT_GRAD, AT_HESS, AT_PROB, ARRAYS
        PARAMETERS
        KEEP_ORDER, REORDER_POSITIONS, REORDER_ELEMENTS
    ctypedef struct kernel_job:
        Py_ssize_t n, c, s
        strided_array t, p, weight, class_weight, losses, grad, hess, prob
        strided_array *arrays
        int loss, doubles, labelled, soft
        double *parameters
        double low, high, mean, scale
        Py_ssize_t run
        uint8_t *seen
        int rescale, over
        uint64_t classes, base
        const int64_t *ignore
        Py_ssize_t ignored, flat_n, flat_s, tasks
        size_t scratch
        int columns, stream
        Py_ssize_t segments
        size_t between
        void *kept
    ctypedef struct kernel_sums:
        double total, weights
        int64_t count, bad
        double least, most, off
    ctypedef struct kernel_loops:
        int order, cost
        void (*cut)(kernel_job *) noexcept nogil
        void (*task)(const kernel_job *, Py_ssize_t, void *, kernel_sums *) noexcept nogil
        const kernel_loops *binary
        void (*join)(const kernel_job *, kernel_sums *) noexcept nogil
        const kernel_loops *second
    ctypedef struct listed_loss:
        const char *name
        const char *parameters
        int labels

cdef int isa_in_use() noexcept nogil
cdef const kernel_loops *label_loops() noexcept nogil
cdef int describe(strided_array *to, object given, str axes, Py_ssize_t n, Py_ssize_t c, Py_ssize_t s, str name) except -1
cdef void lay(kernel_job *job, int order, int like) noexcept nogil
cdef bint is_long(const kernel_loops *loops, Py_ssize_t elements) noexcept nogil
cdef int perform(const kernel_loops *loops, const kernel_job *job, Py_ssize_t elements, int threads, kernel_sums *found,
                 kernel_sums *each) noexcept nogil


cdef class Bound:
    cdef kernel_job job
    cdef const kernel_loops *const *builds
    cdef readonly str name
    cdef Py_ssize_t elements, positions
    cdef Py_ssize_t[ARRAYS] sizes
    cdef int isa, threads
    cdef bint one_weight, ask_labels
    cdef object ignore
    cdef bint is_long(self) noexcept nogil
    cdef int run(self, char **at, double scale, kernel_sums *found) noexcept nogil
    cdef void clear(self, char **at) noexcept nogil
    cdef int visit(self, const kernel_loops *loops, const kernel_job *job, kernel_sums *found, kernel_sums *each) noexcept nogil
    cdef int visit_twice(self, const kernel_loops *loops, kernel_job *job, kernel_sums *found) noexcept nogil
    cdef int label_sums(self, char **at, kernel_sums *found) noexcept nogil
    cdef int is_binary(self, char **at) noexcept nogil
    cdef int nothing(self, kernel_job *job, char **at, kernel_sums *found) noexcept nogil
    cdef bint looks_other(self, const kernel_job *job) noexcept nogil
    cdef void targets_alone(self, kernel_job *job, bint weighted) noexcept nogil
    cdef int call(self, char **at, double scale, kernel_sums *found) except -1
    cdef char *address(self, int i, object x) except? NULL
    cdef int addresses(self, char **at, tuple given) except -1


cdef class Kernel:
    cdef const kernel_loops *const *builds
    cdef readonly dict numbers, parameters
    cdef dict labels
    cdef int fill(self, const kernel_loops *const *builds, const listed_loss *losses, int count) except -1
