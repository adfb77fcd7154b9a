# Part of driver.pyx: the tasks of a call, on one thread or several, and the sums of what they find.
from cython.parallel cimport parallel, prange
from libc.stdlib cimport free, malloc
from libc.string cimport memset

cdef enum:
    STACK = 65536  # bytes of scratch on the stack

# Tenths of a nanosecond: from 26 µs on threads pay, since waking them takes 5 to 15.
cdef Py_ssize_t THREADS_FROM = 1 << 18


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
