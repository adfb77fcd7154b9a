"""How every kernel is called: arrays become addresses, strides and types; axes that lie as one become one; tasks are shared out to threads.

`Kernel.bind` takes all facts of a call but its data, once: loss, lengths, element types and strides, options. What it gives, `Bound`, takes
the data. Tasks depend on shapes, strides and types alone and their sums are added in their order: the bits are the same for any number of
threads. Work of microseconds stays on the calling thread, with scratch on the stack. Nothing that computes needs the interpreter's lock:
who holds it lets go of it for longer work, and XLA's threads never take it.
"""
import os

cimport numpy as cnp
from cpython.long cimport PyLong_AsVoidPtr
from cython.parallel cimport parallel, prange
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

import numpy as np

from polyloss._core import threads as _threads

cnp.import_array()

cdef extern from "Python.h":
    bint PyLong_CheckExact(object)

cdef extern from "simd/isa.h":
    int ISA_COUNT
    const char *const *isa_names
    bint isa_supported(int i)

cdef extern from *:
    """
    #ifdef _OPENMP
    enum { built_with_openmp = 1 };
    #else
    enum { built_with_openmp = 0 };
    #endif
    #define DECLARE_(isa) extern const kernel_loops label_loops_##isa;
    POLYLOSS_ISAS(DECLARE_)
    #define LISTED_(isa) &label_loops_##isa,
    static const kernel_loops *const label_builds[] = {POLYLOSS_ISAS(LISTED_)};
    """
    bint built_with_openmp
    const kernel_loops *const *label_builds

cdef enum:
    STACK = 65536  # bytes of scratch on the stack

# Tenths of a nanosecond: from 26 µs on threads pay, since waking them takes 5 to 15.
cdef Py_ssize_t THREADS_FROM = 1 << 18

# ---------------------------------------------------------------------------------------------------------------- instruction sets

cdef int isa_used = 0  # index into the tables that POLYLOSS_ISAS makes
cdef bint in_forked_child = _threads.alone()  # a parallel region could wait for ever for threads that the parent had


cdef int isa_in_use() noexcept nogil:
    return isa_used


def isas():
    """Names of the instruction sets that this build holds and this machine can execute, best first."""
    return tuple(isa_names[i].decode().replace("x86_64_", "x86-64-") for i in range(ISA_COUNT) if isa_supported(i))


def isa():
    """Name of the instruction set in use."""
    return isa_names[isa_used].decode().replace("x86_64_", "x86-64-")


def force(name):
    """Let every kernel use this instruction set, in this process, from now on. For tests; POLYLOSS_ISA does the same at import."""
    global isa_used
    if name not in isas():
        raise ValueError(f"instruction set {name!r} is not one of {', '.join(isas())}")
    for i in range(ISA_COUNT):
        if isa_names[i].decode().replace("x86_64_", "x86-64-") == name:
            isa_used = i


def openmp():
    """Whether the kernels were built with OpenMP; without it everything runs on the calling thread."""
    return built_with_openmp


def _after_fork_in_child():
    global in_forked_child
    in_forked_child = True


if not isas():
    raise ImportError("the compiled kernels need a processor of the level x86-64-v2 (SSE4.2)")
force(os.environ.get("POLYLOSS_ISA") or isas()[0])
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

# ------------------------------------------------------------------------------------------------------------------------ arrays

cdef tuple NAMES = ("t", "p", "weight", "class_weight", "losses", "grad", "hess", "prob")  # in the order of AT_T …
cdef tuple AXES = ("ncs", "ncs", "ns", "c", "ns", "ncs", "ncs", "ncs")
cdef dict TYPES = {
    "f4": TYPE_F32, "f8": TYPE_F64, "f2": TYPE_F16, "bf16": TYPE_BF16, "b1": TYPE_U8,
    "i1": TYPE_I8, "i2": TYPE_I16, "i4": TYPE_I32, "i8": TYPE_I64, "u1": TYPE_U8, "u2": TYPE_U16, "u4": TYPE_U32, "u8": TYPE_U64,
}
cdef Py_ssize_t[12] ITEMSIZE = [4, 8, 2, 2, 1, 2, 4, 8, 1, 2, 4, 8]  # in the order of TYPE_F32 …

ctypedef fused element:
    float
    double
    int8_t
    int16_t
    int32_t
    int64_t
    uint8_t
    uint16_t
    uint32_t
    uint64_t


cdef int strides_of(Py_ssize_t *to, object x, int ndim, element *of_type) except -1:
    """In bytes; 0 along an axis of one entry, where they mean nothing."""
    cdef const element[:] line
    cdef const element[:, :] plane
    cdef const element[:, :, :] room
    cdef const element[:, :, :, :] rooms
    cdef int i
    if ndim == 1:
        line = x
        to[0] = line.strides[0] if line.shape[0] > 1 else 0
    elif ndim == 2:
        plane = x
        for i in range(2):
            to[i] = plane.strides[i] if plane.shape[i] > 1 else 0
    elif ndim == 3:
        room = x
        for i in range(3):
            to[i] = room.strides[i] if room.shape[i] > 1 else 0
    else:
        rooms = x
        for i in range(4):
            to[i] = rooms.strides[i] if rooms.shape[i] > 1 else 0
    return 0


cdef str code_of(cnp.ndarray x, bint bf16):
    """An array's element type, as in `TYPES`; None where it has none of them."""
    cdef Py_ssize_t size = cnp.PyArray_ITEMSIZE(x)
    cdef cnp.dtype dtype = x.descr
    cdef char kind = dtype.kind
    if bf16:
        return "bf16" if kind == c"u" and size == 2 else None
    if kind == c"f":
        return "f4" if size == 4 else "f8" if size == 8 else "f2" if size == 2 else None
    if kind == c"i":
        return "i8" if size == 8 else "i4" if size == 4 else "i2" if size == 2 else "i1"
    if kind == c"u":
        return "u8" if size == 8 else "u4" if size == 4 else "u2" if size == 2 else "u1"
    return "b1" if kind == c"b" else None


def facts(cnp.ndarray x, str axes, str name="array", bint bf16=False):
    """What `Kernel.bind` wants to know of an array: its type and its strides along axes that are named as in "ncs", "ns" or "nrcs"."""
    cdef Py_ssize_t[4] steps
    cdef int ndim = cnp.PyArray_NDIM(x), type, i
    cdef str code = code_of(x, bf16)
    if code is None:
        raise TypeError(f"{name} has dtype {(<object>x).dtype}, not {'uint16' if bf16 else 'a number of 1 to 8 bytes'}")
    if not cnp.PyArray_ISNOTSWAPPED(x) or not cnp.PyArray_ISALIGNED(x):
        raise ValueError(f"{name} is not aligned or not in native byte order")
    if ndim != len(axes):
        raise ValueError(f"{name} has {ndim} axes, not {len(axes)}")
    type = TYPES[code]
    if type == TYPE_F32:
        strides_of(steps, x, ndim, <float *>NULL)
    elif type == TYPE_F64:
        strides_of(steps, x, ndim, <double *>NULL)
    elif type == TYPE_I8:
        strides_of(steps, x, ndim, <int8_t *>NULL)
    elif type == TYPE_I16:
        strides_of(steps, x, ndim, <int16_t *>NULL)
    elif type == TYPE_I32:
        strides_of(steps, x, ndim, <int32_t *>NULL)
    elif type == TYPE_I64:
        strides_of(steps, x, ndim, <int64_t *>NULL)
    elif type == TYPE_U8:
        strides_of(steps, x if code == "u1" else (<object>x).view(np.uint8), ndim, <uint8_t *>NULL)
    elif type == TYPE_U32:
        strides_of(steps, x, ndim, <uint32_t *>NULL)
    elif type == TYPE_U64:
        strides_of(steps, x, ndim, <uint64_t *>NULL)
    else:  # of 16 bits: half precision is looked at as its bits
        strides_of(steps, (<object>x).view(np.uint16) if code == "f2" else x, ndim, <uint16_t *>NULL)
    return code, tuple([steps[i] for i in range(ndim)])


cdef bint is_axis(const kernel_job *job, Py_ssize_t outer, Py_ssize_t inner, int which) noexcept nogil:
    """Whether two axes of these lengths, n and s or s and c, lie as one in every array."""
    cdef const strided_array *x
    cdef int i
    if outer == 1 or inner == 1:
        return True
    for i in range(ARRAYS):
        x = &job.arrays[i]
        if x.type >= 0 and (x.n != x.s * inner if which == 0 else x.s != x.c * inner):
            return False
    return True


cdef void merge_positions(kernel_job *job) noexcept nogil:
    """One axis of n and s, if they lie as one and are counted as one."""
    cdef strided_array *x
    cdef int i
    if not is_axis(job, job.n, job.s, 0) or (job.n > 1 and job.s > 1 and job.flat_n != job.flat_s * job.s):
        return
    for i in range(ARRAYS):
        x = &job.arrays[i]
        if job.s == 1:
            x.s = x.n
        x.n = 0
    if job.s == 1:
        job.flat_s = job.flat_n
    job.n, job.s = 1, job.n * job.s


cdef void merge_elements(kernel_job *job) noexcept nogil:
    """One axis of s and c, if they lie as one."""
    cdef strided_array *x
    cdef int i
    if not is_axis(job, job.s, job.c, 1):
        return
    for i in range(ARRAYS):
        x = &job.arrays[i]
        if job.c == 1:
            x.c = x.s
        x.s = 0
    job.s, job.c = 1, job.s * job.c


cdef void merge_runs(kernel_job *job) noexcept nogil:
    """One run, if all lie as one."""
    cdef const strided_array *x
    cdef int i
    for i in range(ARRAYS):
        x = &job.arrays[i]
        if job.run > 1 and x.type >= 0 and x.run != x.c * job.run:
            return
    if job.run == 1:
        for i in range(ARRAYS):
            job.arrays[i].c = job.arrays[i].run
    job.run = job.c


cdef void swap_positions(kernel_job *job) noexcept nogil:
    cdef int i
    for i in range(ARRAYS):
        job.arrays[i].n, job.arrays[i].s = job.arrays[i].s, job.arrays[i].n
    job.n, job.s = job.s, job.n
    job.flat_n, job.flat_s = job.flat_s, job.flat_n


cdef void swap_elements(kernel_job *job) noexcept nogil:
    cdef int i
    for i in range(ARRAYS):
        job.arrays[i].c, job.arrays[i].s = job.arrays[i].s, job.arrays[i].c
    job.c, job.s = job.s, job.c


cdef Py_ssize_t distance(Py_ssize_t length, Py_ssize_t stride) noexcept nogil:
    """How far apart neighbours along an axis lie; one of length 1 lies outside of all others."""
    return <Py_ssize_t>((<size_t>-1) >> 1) if length == 1 else -stride if stride < 0 else stride


cdef void lay(kernel_job *job, int order, int like) noexcept nogil:
    """Bring the axes into the order in which those of an array lie in memory, as far as the order allows, and make one of what lies as one.

    Long runs of neighbours are what the loops live on."""
    cdef const strided_array *x = &job.arrays[like]
    job.columns = False
    if order != KEEP_ORDER and distance(job.n, x.n) < distance(job.s, x.s):
        swap_positions(job)
    if order == REORDER_ELEMENTS:  # from the outermost to the innermost
        if distance(job.s, x.s) < distance(job.c, x.c):
            swap_elements(job)
        if distance(job.n, x.n) < distance(job.s, x.s):
            swap_positions(job)
        job.flat_n = job.flat_s = 0
    merge_positions(job)
    if order == REORDER_ELEMENTS:
        merge_elements(job)
        merge_positions(job)
        merge_elements(job)
    else:
        job.columns = distance(job.s, x.s) < distance(job.c, x.c)

# ------------------------------------------------------------------------------------------------------------------------- tasks

cdef inline void start(kernel_sums *sums) noexcept nogil:
    memset(sums, 0, sizeof(kernel_sums))
    sums.bad = -1
    sums.least, sums.most = 1e400, -1e400  # infinities


cdef inline void add(kernel_sums *to, const kernel_sums *sums) noexcept nogil:
    to.total += sums.total
    to.weights += sums.weights
    to.count += sums.count
    if sums.bad >= 0 and (to.bad < 0 or sums.bad < to.bad):
        to.bad = sums.bad
    if sums.least < to.least or sums.least != sums.least:
        to.least = sums.least  # NaN stays: nothing is less
    to.most = max(to.most, sums.most)
    to.off = max(to.off, sums.off)


cdef inline char *aligned(char *scratch) noexcept nogil:
    return scratch + (64 - <size_t>scratch % 64) % 64


cdef int alone(const kernel_loops *loops, const kernel_job *job, kernel_sums *found, kernel_sums *each) noexcept nogil:
    """Every task, on this thread; not 0 where memory is short."""
    cdef char stack[STACK]
    cdef char *scratch = stack
    cdef kernel_sums sums
    cdef Py_ssize_t i
    if job.scratch > STACK - 64:
        scratch = <char *>malloc(job.scratch + 64)
        if scratch == NULL:
            return 1
    for i in range(job.tasks):
        start(&sums)
        loops.task(job, i, aligned(scratch), &sums)
        add(found, &sums)
        if each != NULL:
            each[i] = sums
    if scratch != stack:
        free(scratch)
    return 0


cdef int shared(const kernel_loops *loops, const kernel_job *job, int threads, kernel_sums *found, kernel_sums *each) noexcept nogil:
    """Every task, on several threads."""
    cdef kernel_sums *sums = each
    cdef char *scratch = NULL
    cdef Py_ssize_t i
    cdef int failed = 0
    if sums == NULL:
        sums = <kernel_sums *>malloc(job.tasks * sizeof(kernel_sums))
        if sums == NULL:
            return 1
    with parallel(num_threads=threads):
        scratch = <char *>malloc(job.scratch + 64)
        for i in prange(job.tasks, schedule="dynamic"):
            start(&sums[i])
            if scratch == NULL:
                failed += 1
            else:
                loops.task(job, i, aligned(scratch), &sums[i])
        free(scratch)
    for i in range(job.tasks):
        add(found, &sums[i])
    if each == NULL:
        free(sums)
    return failed


cdef const kernel_loops *label_loops() noexcept nogil:
    """Those of sums that need targets and weights alone."""
    return label_builds[isa_used]


cdef bint is_long(const kernel_loops *loops, Py_ssize_t elements) noexcept nogil:
    """Whether work is worth waking threads, and letting others have the interpreter's lock."""
    return elements * loops.cost >= THREADS_FROM


cdef int perform(const kernel_loops *loops, const kernel_job *job, Py_ssize_t elements, int threads, kernel_sums *found,
                 kernel_sums *each) noexcept nogil:
    """Every task; the sums in the order of the tasks. Not 0 where memory is short."""
    start(found)
    threads = min(threads, job.tasks)
    if threads > 1 and is_long(loops, elements) and not in_forked_child:
        return shared(loops, job, threads, found, each)
    return alone(loops, job, found, each)

# ------------------------------------------------------------------------------------------------------------------------- calls

cdef double number_at(const strided_array *x, Py_ssize_t n, Py_ssize_t s) noexcept nogil:
    cdef char *at = x.at + n * x.n + s * x.s
    return (<double *>at)[0] if x.type == TYPE_F64 else (<float *>at)[0]


cdef class Bound:
    """A kernel with all that a call needs but its data; see `Kernel.bind`. It is never written to: threads may share one."""

    cdef bint is_long(self) noexcept nogil:
        return is_long(self.builds[isa_used], self.elements)

    cdef int run(self, char **at, double scale, kernel_sums *found) noexcept nogil:
        """Evaluate; at[AT_T] … are the arrays' addresses, NULL where none was bound. They are trusted. Not 0 where memory is short."""
        cdef kernel_job job = self.job
        cdef const kernel_loops *loops = self.builds[isa_used]
        cdef double weight = 1
        cdef kernel_sums *each = NULL
        cdef int i, binary, failed = 0
        for i in range(ARRAYS):
            job.arrays[i].at = at[i]
        if self.elements == 0 and (self.positions == 0 or loops.order != KEEP_ORDER):
            return self.nothing(&job, at, found)
        if self.one_weight:
            weight = number_at(&job.weight, 0, 0)
            job.weight.at = NULL
            job.mean *= weight
        job.scale = scale * job.mean
        if isa_used != self.isa:
            loops.cut(&job)
        if self.ask_labels:
            job.parameters[0] = 2  # taken for granted; the sum is NaN if a target says otherwise
            if job.tasks == 1 or self.looks_other(&job):
                binary = self.is_binary(at)
                if binary < 0:
                    return 1
                job.parameters[0] = binary
        if job.between:
            return self.visit_twice(loops, &job, found)
        if job.segments > 1:
            each = <kernel_sums *>malloc(job.tasks * sizeof(kernel_sums))
            if each == NULL:
                return 1
        failed = self.visit(loops, &job, found, each)
        if not failed and self.ask_labels and job.parameters[0] == 2 and found.total != found.total:
            binary = self.is_binary(at)
            job.parameters[0] = binary
            failed = binary < 0 or self.visit(loops, &job, found, each)
        free(each)
        if failed:
            return 1
        if loops.order == REORDER_ELEMENTS:
            if self.job.weight.type < 0 or self.one_weight:
                found.weights = weight * self.positions
            if weight == 0:
                found.total = 0  # whatever lies there
            found.count = self.positions
        return 0

    cdef void clear(self, char **at) noexcept nogil:
        """Derivatives of 0, a line at a time where a line is whole."""
        cdef const strided_array *x
        cdef Py_ssize_t n, c, s, size, rows = self.job.n, classes = self.job.c, across = self.job.s
        cdef char *row
        cdef int i
        for i in range(AT_GRAD, AT_HESS + 1):
            x = &self.job.arrays[i]
            if at[i] == NULL:
                continue
            size = ITEMSIZE[x.type]
            for n in range(rows):
                row = at[i] + n * x.n
                if x.c == size and self.job.run >= classes:
                    for s in range(across):
                        memset(row + s * x.s, 0, classes * size)
                    continue
                for c in range(classes):
                    if x.s == size:
                        memset(row + c // self.job.run * x.run + c % self.job.run * x.c, 0, across * size)
                        continue
                    for s in range(across):
                        memset(row + c // self.job.run * x.run + c % self.job.run * x.c + s * x.s, 0, size)

    cdef int visit(self, const kernel_loops *loops, const kernel_job *job, kernel_sums *found, kernel_sums *each) noexcept nogil:
        """Every task, and the losses of rows that are cut into segments, of which `each` has the sums."""
        if perform(loops, job, self.elements, self.threads, found, each):
            return 1
        if each != NULL:
            join_segments(job, found, each)
        return 0

    cdef int visit_twice(self, const kernel_loops *loops, kernel_job *job, kernel_sums *found) noexcept nogil:
        """Sums over all tasks, before the tasks of derivatives, which depend on them."""
        cdef kernel_sums none
        cdef int failed
        job.kept = malloc(job.between)
        if job.kept == NULL:
            return 1
        failed = perform(loops, job, self.elements, self.threads, found, NULL)
        if not failed:
            loops.join(job, found)
            if job.grad.at != NULL or job.hess.at != NULL:
                failed = perform(loops.second, job, self.elements, self.threads, &none, NULL)
        free(job.kept)
        return failed

    cdef int nothing(self, kernel_job *job, char **at, kernel_sums *found) noexcept nogil:
        """The sums where there is no element: every loss is 0."""
        cdef Py_ssize_t n, s
        if job.losses.at != NULL:
            for n in range(job.n):
                for s in range(job.s):
                    if job.losses.type == TYPE_F64:
                        (<double *>(job.losses.at + n * job.losses.n + s * job.losses.s))[0] = 0
                    else:
                        (<float *>(job.losses.at + n * job.losses.n + s * job.losses.s))[0] = 0
        start(found)
        found.count = found.weights = self.positions
        if job.weight.at != NULL:
            found.weights = 0
            for n in range(job.n):
                for s in range(job.s):
                    found.weights += number_at(&job.weight, n, s)
        return 0

    cdef int label_sums(self, char **at, kernel_sums *found) noexcept nogil:
        """Of targets and weights alone: weights, count and bad, as `run` finds them; in total the sum of the positions' weights.

        For soft targets of a softmax loss `weights` has the targets and their class weights in it."""
        cdef kernel_job job = self.job
        cdef int i
        for i in range(ARRAYS):
            job.arrays[i].at = at[i]
        if self.job.weight.type < 0 and not job.labelled and not job.soft or self.one_weight:
            start(found)
            found.count = self.positions
            found.total = found.weights = self.positions * (number_at(&job.weight, 0, 0) if self.one_weight else 1)
            return 0
        label_builds[isa_used].cut(&job)
        return perform(label_builds[isa_used], &job, self.positions * (job.c if job.soft else 1), self.threads, found, NULL)

    cdef bint looks_other(self, const kernel_job *job) noexcept nogil:
        """Whether a target in the first task is neither 0 nor 1."""
        cdef const kernel_loops *binary = self.builds[isa_used].binary
        cdef kernel_job targets = job[0]
        cdef kernel_sums sums
        self.targets_alone(&targets, False)
        binary.cut(&targets)
        start(&sums)
        binary.task(&targets, 0, NULL, &sums)
        return sums.count > 0

    cdef void targets_alone(self, kernel_job *job, bint weighted) noexcept nogil:
        """A job that looks at targets, in the dtype of the computation, at positions of weight other than 0 if weighted."""
        cdef int i
        for i in range(ARRAYS):
            if i != AT_T and not (weighted and i == AT_WEIGHT):
                job.arrays[i].at = NULL
                job.arrays[i].type = -1
        lay(job, REORDER_POSITIONS if weighted else REORDER_ELEMENTS, AT_T)
        job.columns = False

    cdef int is_binary(self, char **at) noexcept nogil:
        """Whether every target at a weight other than 0 is 0 or 1: Keras' rule for the labels of hinge losses. -1 where memory is short."""
        cdef const kernel_loops *binary = self.builds[isa_used].binary
        cdef kernel_job job
        cdef kernel_sums sums
        cdef int weighted
        for weighted in range(1 + (at[AT_WEIGHT] != NULL)):  # weights only matter where the whole array is not binary
            job = self.job
            job.t.at, job.weight.at = at[AT_T], at[AT_WEIGHT]
            self.targets_alone(&job, weighted)
            binary.cut(&job)
            start(&sums)
            binary.task(&job, 0, NULL, &sums)  # most often the first part tells
            if sums.count == 0 and perform(binary, &job, self.elements, self.threads, &sums, NULL):
                return -1
            if sums.count == 0:
                return 1
        return 0

    cdef int addresses(self, char **at, tuple given) except -1:
        """Where arrays lie that are as they were bound; integers are addresses, and trusted."""
        cdef int i
        for i in range(ARRAYS):
            at[i] = self.address(i, given[i])
        return 0

    cdef char *address(self, int i, object x) except? NULL:
        cdef cnp.ndarray array
        if (x is None) != (self.job.arrays[i].type < 0):
            raise TypeError(f"{self.name} was bound {'without' if x is not None else 'with'} {NAMES[i]}")
        if x is None:
            return NULL
        if PyLong_CheckExact(x):
            return <char *>PyLong_AsVoidPtr(x)
        array = x
        if cnp.PyArray_ITEMSIZE(array) != ITEMSIZE[self.job.arrays[i].type] or cnp.PyArray_SIZE(array) != self.sizes[i]:
            raise TypeError(f"{NAMES[i]} is {x.dtype} of shape {x.shape}, not what {self.name} was bound to")
        if i >= AT_LOSSES and not cnp.PyArray_ISWRITEABLE(array):
            raise ValueError(f"{NAMES[i]} is read-only")
        return <char *>cnp.PyArray_DATA(array)

    cdef int call(self, char **at, double scale, kernel_sums *found) except -1:
        """`run` for who holds the interpreter's lock."""
        cdef int failed
        if self.is_long():
            with nogil:
                failed = self.run(at, scale, found)
        else:
            failed = self.run(at, scale, found)
        if failed:
            raise MemoryError
        return 0

    def __call__(self, t, p, weight=None, class_weight=None, losses=None, grad=None, hess=None, prob=None, double scale=1.0):
        """Evaluate.

        Parameters
        ----------
        t, p, weight, class_weight, losses, grad, hess, prob : ndarray or int
            The arrays that were bound, of any shape that has the bound strides, or their addresses. `losses`, `grad`, `hess` and `prob` are
            written to, and must not overlap the inputs. `grad` alone may be the memory of `p`, at its strides: of losses of sets, and of
            the softmax losses that `softmax_xent.fused` names.
        scale : float
            Factor of the derivatives.

        Returns
        -------
        total : float
            Σ w l.
        weights : float
            Σ w of the positions not ignored; for the softmax losses Σ w k[label], or Σ w k t of soft targets.
        count : int
            Of the positions not ignored.
        bad : int
            Least flat index (n, s) of a label that is neither a class nor ignored, or -1. Its loss and derivatives are NaN.
        """
        cdef char *at[ARRAYS]
        cdef kernel_sums found
        self.addresses(at, (t, p, weight, class_weight, losses, grad, hess, prob))
        self.call(at, scale, &found)
        return found.total, found.weights, found.count, found.bad

    def sums(self, t, weight=None, class_weight=None):
        """(weights, count, bad) as calls find them, and Σ w, from targets and weights alone."""
        cdef char *at[ARRAYS]
        cdef kernel_sums found
        cdef int failed
        memset(at, 0, sizeof(at))
        at[AT_T], at[AT_WEIGHT] = self.address(AT_T, t), self.address(AT_WEIGHT, weight)
        at[AT_CLASS_WEIGHT] = self.address(AT_CLASS_WEIGHT, class_weight)
        with nogil:
            failed = self.label_sums(at, &found)
        if failed:
            raise MemoryError
        return found.weights, found.count, found.bad, found.total


cdef void join_segments(const kernel_job *job, kernel_sums *found, const kernel_sums *each) noexcept nogil:
    """Losses of long rows, whose segments were summed without weights."""
    cdef Py_ssize_t n, s, k
    cdef double total, weight
    cdef char *at
    found.total = 0
    for n in range(job.n):
        for s in range(job.s):
            total = 0
            for k in range(job.segments):
                total += each[(n * job.s + s) * job.segments + k].total
            total *= job.mean
            if job.weight.at != NULL:
                weight = number_at(&job.weight, n, s)
                total = 0 if weight == 0 else total * weight
            if job.losses.at != NULL:
                at = job.losses.at + n * job.losses.n + s * job.losses.s
                if job.losses.type == TYPE_F64:
                    (<double *>at)[0] = total
                else:
                    (<float *>at)[0] = <float>total
            found.total += total


cdef class Kernel:
    """The losses of one table of loops, by name.

    Attributes
    ----------
    numbers : dict
        Name of a loss -> its place in the list.
    parameters : dict
        Name of a loss -> names of its parameters.
    """

    cdef int fill(self, const kernel_loops *const *builds, const listed_loss *losses, int count) except -1:
        self.builds = builds
        self.numbers = {losses[i].name.decode(): i for i in range(count)}
        self.parameters = {losses[i].name.decode(): tuple(losses[i].parameters.decode().split()) for i in range(count)}
        self.labels = {losses[i].name.decode(): losses[i].labels for i in range(count)}
        return 0

    def bind(self, str name, Py_ssize_t n, Py_ssize_t c, Py_ssize_t s, t, p, weight=None, class_weight=None, losses=None, grad=None,
             hess=None, prob=None, *, parameters=(), ignore=(), str combine="mean", bint over=False, Py_ssize_t runs=1, int threads=1):
        """A kernel with all that a call needs but its data.

        Parameters
        ----------
        name : str
            A key of `parameters`.
        n, c, s : int
            Lengths of canonical arrays.
        t, p, grad, hess, prob : (type, strides)
            Of arrays (n, c, s), or (n, s) for labels and for one number at each position: the element type, as "f4", "f8", "f2", "bf16",
            "b1", "i8" or "u1", and the strides in bytes. Predictions are floating; float64 is computed in float64, all else in float32.
            Outputs have the type of `p`, and are optional. Labels are compared as mathematical integers. Of sets in several runs: of arrays
            (n, runs, c / runs, s).
        weight : (type, strides), optional
            Of the positions (n, s), "f4" or "f8". Weight 0 skips a position: it adds 0 and its derivatives are 0, whatever lies there.
        class_weight : (type, strides), optional
            (c,), of the softmax losses alone.
        losses : (type, strides), optional
            (n, s), in the type of the computation.
        parameters : sequence of numbers
            The loss's parameters, in the order of the attribute. `zero_one` may be None: 1 if all targets are 0 or 1, which is then found
            out on the way.
        ignore : sequence of int
            Labels to skip, inside or outside of 0 … c - 1.
        combine : {"mean", "sum"}
            How the elements of a position make its loss, where it is a loss of elements.
        runs : int
            Of sets alone: their elements are cut into so many runs of one length, and each array has a stride from run to run, too.
        over : bool
            Whether `grad` will be the memory of `p`.
        threads : int
            At most so many threads; small work takes one. No result depends on it.

        Returns
        -------
        Bound
        """
        cdef Bound bound = Bound.__new__(Bound)
        cdef kernel_job *job = &bound.job
        cdef int order = self.builds[0].order, i
        cdef int labels = self.labels[name]
        cdef bint apart
        memset(job, 0, sizeof(kernel_job))
        job.n, job.c, job.s, job.classes, job.run = n, c, s, c, c // runs
        job.flat_n, job.flat_s = s, 1
        job.loss = self.numbers[name]
        bound.name, bound.builds, bound.threads = name, self.builds, threads
        bound.positions, bound.elements = n * s, n * c * s
        given = (t, p, weight, class_weight, losses, grad, hess, prob)
        if t is None or p is None:
            raise TypeError(f"{name} needs targets and predictions")
        if labels == 3 and c != 2:
            raise ValueError(f"{name} takes two predictions for each target, not {c}")
        job.labelled = labels == 1 or labels == 2 and t[0][0] in "iu"
        job.soft = labels == 2 and not job.labelled
        if runs != 1 and (self.builds[0].join == NULL or job.run * runs != c):
            raise ValueError(f"{name} takes no {c} elements in {runs} runs")
        for i in range(ARRAYS):
            axes = "ns" if i == AT_T and (job.labelled or labels == 3) else <str>AXES[i]
            axes = "nrcs" if runs > 1 and axes == "ncs" else axes
            describe(&job.arrays[i], given[i], axes, n, c, s, <str>NAMES[i])
            bound.sizes[i] = c if axes == "c" else n * s * (c if "c" in axes else 1)
        check_types(job, order == KEEP_ORDER, given)
        job.doubles = job.p.type == TYPE_F64
        job.over = over
        job.mean = 1.0 / c if order == REORDER_ELEMENTS and combine == "mean" and c else 1.0
        take_parameters(bound, name, self.parameters[name], tuple(parameters))
        if job.labelled:
            if c > 0x7FFFFFFF:
                raise ValueError(f"{c} classes: labels are kept in 32 bits")
            bound.ignore = ignored(job, ignore, t[0])
        bound.one_weight = order == REORDER_ELEMENTS and weight is not None and losses is None and job.weight.n == 0 == job.weight.s
        apart = losses is not None or (weight is not None and not bound.one_weight)
        if runs > 1:
            merge_runs(job)
        lay(job, REORDER_POSITIONS if order == REORDER_ELEMENTS and apart else order, AT_P)
        job.columns = job.columns and (apart or order != REORDER_ELEMENTS)
        bound.isa = isa_used
        if bound.elements or order == KEEP_ORDER:
            self.builds[isa_used].cut(job)
        return bound

    def run(self, str name, cnp.ndarray t, cnp.ndarray p, parameters=(), *, bint bf16=False, weight=None, class_weight=None, losses=None,
            grad=None, hess=None, prob=None, double scale=1.0, ignore=(), str combine="mean", int threads=1):
        """Bind to these arrays, and call: see `bind` and `Bound`. bf16: `p`, `grad`, `hess` and `prob` hold bits of bfloat16 as uint16."""
        cdef Bound bound
        cdef char *at[ARRAYS]
        cdef kernel_sums found
        cdef str all_axes = "nrcs" if cnp.PyArray_NDIM(p) == 4 else "ncs"
        if cnp.PyArray_NDIM(p) not in (3, 4):
            raise ValueError(f"p has shape {(<object>p).shape}, not (n, c, s)")
        cdef int labels = self.labels[name]
        cdef bint of_positions = labels == 1 or labels == 3 or labels == 2 and (<object>t).dtype.kind != "f"
        cdef tuple given = (t, p, weight, class_weight, losses, grad, hess, prob)
        cdef list known = [None] * ARRAYS
        cdef str axes
        cdef tuple lengths = (<object>p).shape
        cdef Py_ssize_t k, runs = 1 if len(lengths) == 3 else lengths[1]
        cdef int i
        for i in range(ARRAYS):
            x = given[i]
            if x is None:
                continue
            axes = "ns" if i == AT_T and of_positions else <str>AXES[i]
            axes = all_axes if axes == "ncs" else axes
            known[i] = facts(x, axes, NAMES[i], bf16 and AT_P <= i <= AT_PROB and i not in (AT_WEIGHT, AT_CLASS_WEIGHT, AT_LOSSES))
            for k in range(len(axes)):
                if cnp.PyArray_DIM(x, k) != lengths[all_axes.index(axes[k])]:
                    shape = tuple([lengths[all_axes.index(axis)] for axis in axes])
                    raise ValueError(f"{NAMES[i]} has shape {x.shape}, not {shape}")
        cdef bint over = grad is not None and cnp.PyArray_DATA(grad) == cnp.PyArray_DATA(p)
        bound = self.bind(name, lengths[0], lengths[len(lengths) - 2] * runs, lengths[len(lengths) - 1], *known, parameters=parameters,
                          ignore=ignore, combine=combine, over=over, runs=runs, threads=threads)
        bound.addresses(at, given)
        bound.call(at, scale, &found)
        return found.total, found.weights, found.count, found.bad


cdef int describe(strided_array *to, object given, str axes, Py_ssize_t n, Py_ssize_t c, Py_ssize_t s, str name) except -1:
    """An array from its type and strides."""
    cdef int i
    to.at, to.type = NULL, -1
    to.n = to.c = to.s = to.run = 0
    if given is None:
        return 0
    code, strides = given
    if code not in TYPES or len(strides) != len(axes):
        raise TypeError(f"{name} is {given}, not a type and the strides of the axes {axes}")
    to.at = <char *>64  # present; its address comes with each call
    to.type = TYPES[code]
    for i in range(len(axes)):
        if axes[i] == "n":
            to.n = strides[i] if n > 1 else 0
        elif axes[i] == "c":
            to.c = strides[i] if c > 1 else 0
        elif axes[i] == "r":
            to.run = strides[i]
        else:
            to.s = strides[i] if s > 1 else 0
    return 0


cdef int check_types(const kernel_job *job, bint exact, tuple given) except -1:
    """Raise TypeError unless predictions and weights are floating, losses of the type of the computation, derivatives like predictions.

    exact: weights and soft targets are of the type of the computation, too."""
    cdef int real = TYPE_F64 if job.p.type == TYPE_F64 else TYPE_F32, i
    if job.p.type > TYPE_BF16:
        raise TypeError(f"p is {given[AT_P][0]}, not floating")
    if job.labelled and job.t.type < TYPE_I8:
        raise TypeError(f"t is {given[AT_T][0]}, but labels are integers")
    if job.soft and job.t.type != real:
        raise TypeError(f"t is {given[AT_T][0]}, not of the type of the computation")
    for i in (AT_WEIGHT, AT_CLASS_WEIGHT, AT_LOSSES):
        if job.arrays[i].type > TYPE_F64 or (job.arrays[i].type >= 0 and job.arrays[i].type != real and (exact or i == AT_LOSSES)):
            raise TypeError(f"{NAMES[i]} is {given[i][0]}, not of the type of the computation")
    for i in (AT_GRAD, AT_HESS, AT_PROB):
        if job.arrays[i].type >= 0 and job.arrays[i].type != job.p.type:
            raise TypeError(f"{NAMES[i]} is {given[i][0]}, not {given[AT_P][0]} as p")
    return 0


cdef int take_parameters(Bound bound, str name, tuple names, tuple parameters) except -1:
    cdef int k
    if len(parameters) != len(names):
        raise TypeError(f"{name} takes the parameters {names}, not {len(parameters)}")
    bound.ask_labels = names == ("zero_one",) and parameters[0] is None
    for k in range(len(names)):
        bound.job.parameters[k] = 0 if bound.ask_labels else parameters[k]
    return 0


cdef object ignored(kernel_job *job, ignore, str code):
    """The ignore values that the labels' type can hold, as an array that the job points into: so -1 is not 2**64 - 1."""
    cdef int64_t[::1] values
    low, high = (0, 1) if code == "b1" else (np.iinfo(code).min, np.iinfo(code).max)
    held = [int(v) - 2**64 if v >= 2**63 else int(v) for v in ignore if low <= v <= high]
    values = np.array(held or [0], np.int64)
    job.ignore, job.ignored = &values[0], len(held)
    return values
