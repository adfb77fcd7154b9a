# Part of driver.pyx: the types and strides of a call's arrays, and the order of their axes.
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

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
