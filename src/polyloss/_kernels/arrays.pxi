# How every kernel module tells C about a NumPy array: address, strides and element type. Included by the .pyx files, after NumPy's cimport.
cdef extern from "storage.h":
    enum:
        TYPE_F32, TYPE_F64, TYPE_F16, TYPE_BF16, TYPE_I8, TYPE_I16, TYPE_I32, TYPE_I64, TYPE_U8, TYPE_U16, TYPE_U32, TYPE_U64
    ctypedef struct strided_array:
        char *at
        Py_ssize_t n, c, s
        int type

cdef dict types = {
    "f4": TYPE_F32, "f8": TYPE_F64, "f2": TYPE_F16, "b1": TYPE_U8,
    "i1": TYPE_I8, "i2": TYPE_I16, "i4": TYPE_I32, "i8": TYPE_I64,
    "u1": TYPE_U8, "u2": TYPE_U16, "u4": TYPE_U32, "u8": TYPE_U64,
}


cdef int describe(strided_array *to, object x, str axes, tuple shape, str name, bint bf16=False) except -1:
    """Describe an array of the shape given, whose axes are those named; None is absent. bf16: its uint16 are the bits of bfloat16."""
    cdef cnp.ndarray array
    cdef Py_ssize_t stride
    cdef int i
    to.at = NULL
    to.n = to.c = to.s = 0
    to.type = -1
    if x is None:
        return 0
    array = x
    if x.shape != shape:
        raise ValueError(f"{name} has shape {x.shape}, not {shape}")
    dtype = x.dtype.str[1:]
    if dtype not in types or bf16 and dtype != "u2":
        raise TypeError(f"{name} has dtype {x.dtype}, not {'uint16' if bf16 else 'a number of 1 to 8 bytes'}")
    if not x.dtype.isnative or not cnp.PyArray_ISALIGNED(array):
        raise ValueError(f"{name} is not aligned or not in native byte order")
    to.at = <char *>cnp.PyArray_DATA(array)
    to.type = TYPE_BF16 if bf16 else types[dtype]
    for i in range(len(axes)):
        stride = cnp.PyArray_STRIDE(array, i) if cnp.PyArray_DIM(array, i) > 1 else 0  # of one entry it means nothing
        if axes[i] == "n":
            to.n = stride
        elif axes[i] == "c":
            to.c = stride
        else:
            to.s = stride
    return 0
