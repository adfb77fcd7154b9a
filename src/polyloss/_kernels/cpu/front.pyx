"""The front of calls on arrays in this machine's memory: a call's key, the look-up of its plan, and its kernel with the arrays' addresses.

`Prepared` is a plan on a CPU kernel with all that a call needs but its data. `Front` builds a call's key from what its plan follows from:
the options, and of each array its type, dtype, shape and strides. Nothing here decides anything: a call whose key is unknown is planned by
`_call.prepare`, which checks it and words every error; so is one whose data are refused, a bad label or an output that lies over an input.
"""
cimport numpy as cnp
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.object cimport PyObject, PyTypeObject
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.math cimport fabs, isfinite
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free, getenv, malloc
from libc.string cimport memcpy, memset, strcmp

import sys
from enum import Enum

import numpy as np

from polyloss._core.buffers import FROM, empty
from polyloss._kernels.cpu.driver cimport (
    AT_CLASS_WEIGHT, AT_GRAD, AT_HESS, AT_LOSSES, AT_P, AT_PROB, AT_T, AT_WEIGHT, ARRAYS, Bound, kernel_sums,
)

cnp.import_array()

cdef extern from "Python.h":
    int PyDict_Next(object, Py_ssize_t *, PyObject **, PyObject **) noexcept
    bint PyLong_CheckExact(object)
    bint PyFloat_CheckExact(object)
    bint PyUnicode_CheckExact(object)
    bint PyTuple_CheckExact(object)
    long long PyLong_AsLongLongAndOverflow(object, int *) except? -1
    double PyFloat_AS_DOUBLE(object) noexcept
    void PyErr_Clear() noexcept

cdef extern from "numpy/arrayobject.h":
    object PyArray_Scalar(void *, cnp.dtype, object)
    object PyArray_NewFromDescr(PyTypeObject *, cnp.dtype, int, const cnp.npy_intp *, const cnp.npy_intp *, void *, int, object)
    PyTypeObject PyArray_Type

cpdef enum:
    RECORDED = -2
    WATCHED = -1

cdef enum:
    NUMBER, COUNT, WEIGHTS, GIVEN, POSITION_WEIGHTS  # what the sum is divided by
    KEY = 256  # words of a key
    ANY, NOT_ZERO, FINITE  # which values of a loss are given
    ORDERS = 8  # of the options of one loss

cdef str OPTION_SAMPLE_WEIGHT = sys.intern("sample_weight")
cdef str OPTION_CLASS_WEIGHT = sys.intern("class_weight")
cdef str OPTION_DENOMINATOR = sys.intern("denominator")

ctypedef fused source:
    float
    double
    uint8_t
    int32_t
    int64_t

ctypedef fused real:
    float
    double


cdef void convert(const source *x, Py_ssize_t n, real *to) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        to[i] = <real>x[i]


cdef void convert_to(real *to, const cast *by, const char *x) noexcept nogil:
    """An input in the dtype of the computation; what is too large for that becomes infinite."""
    if by.number == cnp.NPY_FLOAT64:
        convert(<const double *>x, by.size, to)
    elif by.number == cnp.NPY_FLOAT32:
        convert(<const float *>x, by.size, to)
    elif by.number == cnp.NPY_INT64:
        convert(<const int64_t *>x, by.size, to)
    elif by.number == cnp.NPY_INT32:
        convert(<const int32_t *>x, by.size, to)
    else:
        convert(<const uint8_t *>x, by.size, to)


cdef double quotient(double total, double divisor) noexcept nogil:
    return total / divisor if divisor != 0 else 0  # nothing counted, nothing lost


CASTS = {np.dtype(name).num for name in ("float64", "float32", "int64", "int32", "uint8", "bool")}

cdef class Prepared:
    """A plan on a CPU kernel with all that a call needs but its data.

    Parameters
    ----------
    plan : Plan
        Of the call.
    want : Want
        What the kernel finds.
    bound : Bound
        To the arrays' types and strides; in `__call__` of `Front`, to outputs that are contiguous in the caller's shape.
    storage : dtype
        Of predictions, gradients and probabilities.
    inputs : sequence of ndarray or None
        The caller's t, p, weight and class_weight, for how far each reaches.
    casts : sequence of bool
        Which of these are contiguous, of a dtype in `CASTS`, and converted to that of the computation before the kernel reads them.
    divide : {"number", "count", "weights", "given", "position weights"}
        What the sum is divided by.
    from_numpy : callable, optional
        A result as an array of the caller's library, where that isn't NumPy.
    record : callable, optional
        Puts a call into autograd's graph: (plan, y_true, y_pred, sample_weight, class_weight, value, gradient, divisor) -> results.
    """

    def __init__(self, plan, want, Bound bound, cnp.dtype storage, inputs, casts, str divide, from_numpy=None, record=None):
        cdef int i
        lay = plan.layout
        self.plan, self.bound, self.from_numpy, self.record = plan, bound, from_numpy, record
        self.given, self.then, self.gives, self.uncounted = None, None, ANY, False
        self.storage, self.real, self.bits = storage, np.dtype(plan.dtype), plan.storage == "bfloat16"
        self.divide = {"number": NUMBER, "count": COUNT, "weights": WEIGHTS, "given": GIVEN, "position weights": POSITION_WEIGHTS}[divide]
        self.divisor = plan.divisor if divide == "number" else 1
        self.single, self.checks = plan.dtype == "float32", plan.validate and plan.labelled
        self.value, self.gradient, self.hessian, self.prob = want
        self.losses = want.value and plan.reduction == "none"
        self.scaled = want.gradient or want.hessian
        # The reciprocal of the sum of weights is multiplied by a weight, before it is rounded, that of another divisor by a slope, after it
        self.most = 2.0**60 if self.single and self.divide == GIVEN else 2.0**900
        self.least = 1 / self.most
        self.ndim, self.losses_ndim = len(lay.shape), len(lay.losses)
        for i in range(self.ndim):
            self.shape[i] = lay.shape[i]
        for i in range(self.losses_ndim):
            self.losses_shape[i] = lay.losses[i]
        self.nbytes = lay.n * lay.c * lay.s * self.storage.itemsize
        for i in range(INPUTS):
            self.spans[i].low = self.spans[i].high = self.casts[i].size = 0
            if casts[i]:
                self.casts[i].size, self.casts[i].number, self.converts = inputs[i].size, inputs[i].dtype.num, True
            if inputs[i] is not None:
                reach = [stride * (length - 1) for stride, length in zip(inputs[i].strides, inputs[i].shape)]
                self.spans[i].low = sum([r for r in reach if r < 0])
                self.spans[i].high = sum([r for r in reach if r > 0]) + inputs[i].itemsize

    def serve(self, given=None, gives=None, then=None):
        """Serve calls that have other options, such as those of a module, from which this plan follows.

        Parameters
        ----------
        given : number, optional
            The denominator, which is none of these options.
        gives : {"not zero", "finite"}, optional
            Which values are given; any other is refused, as bad data are.
        then : callable, optional
            (results, y_pred) -> what is given.
        """
        self.given, self.then = given, then
        self.gives = {None: ANY, "not zero": NOT_ZERO, "finite": FINITE}[gives]

    cdef bint is_given(self, double value) noexcept nogil:
        """Whether a value of the loss, in the dtype of the computation, may be given."""
        return self.gives == ANY or (value != 0 if self.gives == NOT_ZERO else isfinite(value))

    cdef int64_t fill(self, char **at, double given, double *total, double *divisor) noexcept nogil:
        """Run the kernel: the sum of the losses and what it is divided by; the first bad label, DONE, FAR_FROM_1: the kernel cannot divide,
        or SHORT of memory."""
        cdef kernel_sums found
        cdef double scale = 1
        divisor[0] = self.divisor
        if self.divide == GIVEN:
            divisor[0] = given
        elif self.divide == POSITION_WEIGHTS or self.divide != NUMBER and self.scaled:
            if self.bound.label_sums(at, &found):
                return SHORT
            if found.bad >= 0 and self.checks:
                return found.bad
            self.choose(&found, divisor)
        if self.scaled:
            if self.is_far(divisor[0]):
                return FAR_FROM_1
            scale = 1 / divisor[0] if divisor[0] != 0 else 0
        if self.bound.run(at, scale, &found):
            return SHORT
        if scale == 0 and found.bad < 0:  # where a loss is NaN, 0 times its slope would be; of a bad label NaN stays
            self.bound.clear(at)
        if (self.divide == COUNT or self.divide == WEIGHTS) and not self.scaled:
            self.choose(&found, divisor)
        total[0] = found.total
        if self.checks and found.bad >= 0:
            return found.bad
        return FAR_FROM_1 if self.is_far(divisor[0]) else DONE

    cdef int64_t filled(self, char **at, object given, double *total, double *divisor) except? SHORT:
        """`fill` for who holds the interpreter's lock."""
        cdef double number = given if self.divide == GIVEN else 0
        cdef int64_t how
        if self.bound.is_long():
            with nogil:
                how = self.fill(at, number, total, divisor)
        else:
            how = self.fill(at, number, total, divisor)
        if how == SHORT:
            raise MemoryError
        return how

    cdef int64_t write(self, char **at, double given, char *value) noexcept nogil:
        """`fill` for who has memory for the value, in the dtype of the computation, if there is one."""
        cdef double total = 0, divisor = 1
        cdef int64_t how = self.fill(at, given, &total, &divisor)
        total = quotient(total, divisor)
        if value == NULL:
            pass
        elif self.single:
            (<float *>value)[0] = <float>total
        else:
            (<double *>value)[0] = total
        return how

    cdef bint is_far(self, double divisor) noexcept nogil:
        """Whether a divisor's reciprocal, or what it is multiplied by, may leave the numbers' range. Of 0 all results are 0."""
        if divisor == 0 or self.divide == GIVEN and not self.scaled:
            return False
        return not self.least <= fabs(divisor) <= self.most

    cdef void choose(self, const kernel_sums *found, double *divisor) noexcept nogil:
        if self.divide == COUNT:
            divisor[0] = max(found.count, 1)
        else:
            divisor[0] = found.weights if self.divide == WEIGHTS else found.total

    def run(self, t, p, weight, class_weight, given, losses, gradient, hessian, prob):
        """(total, divisor, first bad label, -1, or FAR: then nothing is right), the outputs filled, for arrays as they were bound.

        `given` may be infinite or 0."""
        cdef char *at[ARRAYS]
        cdef double total = 0, divisor = 1
        cdef int64_t bad
        self.bound.addresses(at, (t, p, weight, class_weight, losses, gradient, hessian, prob))
        bad = self.filled(at, given, &total, &divisor)
        return total, divisor, bad

    cdef object results(self, char **at, object given, object out, object out_hessian, double *divisor):
        """What the plan wants, new or in the caller's arrays; None where the data are refused."""
        cdef double total = 0
        cdef float narrow
        cdef char *number
        cdef object losses = None, gradient = None, hessian = None, prob = None, value = None, _converted
        if self.converts:
            _converted = self.convert(at)
        if self.divide == GIVEN and not (isfinite(<double>given) and <double>given != 0):
            return None
        if self.losses:
            losses = self.new(self.real, self.losses_ndim, self.losses_shape, &at[AT_LOSSES])
        if self.gradient and at[AT_GRAD] == NULL:
            gradient = self.new(self.storage, self.ndim, self.shape, &at[AT_GRAD])
        if self.hessian and at[AT_HESS] == NULL:
            hessian = self.new(self.storage, self.ndim, self.shape, &at[AT_HESS])
        if self.prob:
            prob = self.new(self.storage, self.ndim, self.shape, &at[AT_PROB])
        if self.filled(at, given, &total, divisor) != DONE:
            return None
        if self.losses:
            value = losses
        elif self.value:
            total = quotient(total, divisor[0])
            if not self.is_given(<float>total if self.single else total):
                return None
            if self.from_numpy is not None:
                value = self.new(self.real, 0, NULL, &number)
                if self.single:
                    (<float *>number)[0] = <float>total
                else:
                    (<double *>number)[0] = total
            elif self.single:
                narrow = <float>total
                value = PyArray_Scalar(&narrow, self.real, None)
            else:
                value = PyArray_Scalar(&total, self.real, None)
        if self.prob:
            value = (value, prob) if self.value else prob
        if not self.scaled:
            return value
        gradient = out if gradient is None else gradient
        if not self.hessian:
            return (value, gradient) if self.value or self.prob else gradient
        hessian = out_hessian if hessian is None else hessian
        if self.value or self.prob:
            return value, gradient, hessian
        return (gradient, hessian) if self.gradient else hessian

    cdef list convert(self, char **at):
        """The inputs that are converted, which `at` points to from now on."""
        cdef list made = []
        cdef cnp.npy_intp size
        cdef object x
        cdef int i
        for i in range(INPUTS):
            if self.casts[i].size:
                size = self.casts[i].size
                x = cnp.PyArray_EMPTY(1, &size, cnp.NPY_FLOAT32 if self.single else cnp.NPY_FLOAT64, 0)
                if self.single:
                    convert_to(<float *>cnp.PyArray_DATA(x), &self.casts[i], at[i])
                else:
                    convert_to(<double *>cnp.PyArray_DATA(x), &self.casts[i], at[i])
                at[i] = <char *>cnp.PyArray_DATA(x)
                made.append(x)
        return made

    cdef object new(self, cnp.dtype kind, int ndim, cnp.npy_intp *shape, char **data):
        """A new array of the caller's library, contiguous, and where it lies."""
        cdef Py_ssize_t nbytes = kind.itemsize
        cdef uint8_t code = 4 if self.bits and kind is self.storage else 2  # DLPack's for bfloat16, and for other floats
        cdef int i
        for i in range(ndim):
            nbytes *= shape[i]
        if self.from_numpy is not None and exchange != NULL and nbytes < HUGE_PAGES:
            return new_tensor(code, 8 * kind.itemsize, ndim, shape, nbytes, data)
        if nbytes >= LARGE:
            array = empty(tuple([shape[i] for i in range(ndim)]), kind)
        else:
            Py_INCREF(kind)
            array = PyArray_NewFromDescr(&PyArray_Type, kind, ndim, shape, NULL, NULL, 0, None)
        data[0] = <char *>cnp.PyArray_DATA(array)
        return array if self.from_numpy is None else self.from_numpy(array)

    cdef bint outputs_apart(self, char **at) noexcept:
        """Whether the caller's outputs share no memory with inputs or each other."""
        cdef Py_ssize_t distance = at[AT_GRAD] - at[AT_HESS]
        if at[AT_GRAD] != NULL and at[AT_HESS] != NULL and -self.nbytes < distance < self.nbytes:
            return False
        return self.apart(at, AT_GRAD) and self.apart(at, AT_HESS)

    cdef bint apart(self, char **at, int output) noexcept:
        """Whether an output of the caller's shares no memory with an input."""
        cdef char *low = at[output]
        cdef int i
        for i in range(INPUTS):
            if at[i] != NULL and low < at[i] + self.spans[i].high and at[i] + self.spans[i].low < low + self.nbytes:
                return False
        return True


FAR = FAR_FROM_1
cdef Py_ssize_t LARGE = FROM
cdef enum:
    HUGE_PAGES = 1 << 22  # bytes from which NumPy asks for them
    LINE = 64  # of the cache


# ------------------------------------------------------------------------------------------------------------------------ tensors
# DLPack's C interface (its version 1): where a tensor lies, without a Python object made for it.

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

cdef tuple tensors = ()  # types of tensors that have keys
cdef const dl_exchange *exchange = NULL
cdef dict tensor_types = {}  # dtype -> DLPack's code and bits, for a torch without the interface
cdef object tracing, modes, recorder, transform, grad_enabled, hooks, keeps_graph, otherwise  # of torch; see `take_tensors`
cdef dict compiler, forward_mode  # its modules


def take_tensors(kinds, dtypes, states, engine):
    """Let tensors of exactly these types have keys where they are strided and on the CPU.

    Parameters
    ----------
    kinds : iterable of type
        Of tensors.
    dtypes : dict
        dtype -> (DLPack's code, bits).
    states : tuple
        Of functions: whether there is a tracer, how many modes there are, which of them records operations, which function transform is
        active, whether autograd follows operations, what it was told to do with what graphs keep; the dictionaries where
        "_is_compiling_flag" says whether a graph is compiled, and "_current_level" how many forward modes there are.
    engine : tuple
        Functions that say whether a graph outlives its backward pass, and that run a node's in every case: (node, *upstream) -> gradients.
    """
    global tensors, exchange, tracing, modes, recorder, transform, grad_enabled, hooks, compiler, forward_mode
    global keeps_graph, otherwise
    tensors = tuple(kinds)
    tracing, modes, recorder, transform, grad_enabled, hooks, compiler, forward_mode = states
    keeps_graph, otherwise = engine
    tensor_types.update(dtypes)
    offered = getattr(tensors[0], "__dlpack_c_exchange_api__", None)
    if offered is not None and PyCapsule_IsValid(offered, "dlpack_exchange_api"):
        exchange = <const dl_exchange *>PyCapsule_GetPointer(offered, "dlpack_exchange_api")
        if exchange.major != 1:
            exchange = NULL


cdef object new_tensor(uint8_t code, uint8_t bits, int ndim, const cnp.npy_intp *shape, Py_ssize_t nbytes, char **data):
    """A new tensor, contiguous, and where it lies; 1 µs less than one over a NumPy array."""
    cdef dl_managed *made = <dl_managed *>malloc(sizeof(dl_managed) + 2 * ndim * sizeof(int64_t) + LINE + nbytes)
    cdef int64_t *lengths = <int64_t *>(made + 1)
    cdef int64_t step = 1
    cdef void *found = NULL
    cdef bint gone = False
    cdef int i
    if made == NULL:
        raise MemoryError
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


# --------------------------------------------------------------------------------------------------------------------------- keys

cdef struct call_key:
    int64_t words[KEY]
    int length
    int flags  # of what autograd follows, a bit an array


cdef inline bint put(call_key *key, int64_t word) noexcept:
    key.words[key.length] = word
    key.length += 1
    return True


cdef int put_array(call_key *key, object x, char **at, bint written, int follow=0) except -1:
    """An array's type, dtype, shape and strides, and where it lies; False if it has no key."""
    cdef cnp.ndarray array
    cdef dl_tensor tensor
    cdef int i, ndim
    at[0] = NULL
    if x is None:
        return put(key, 0)
    if cnp.PyArray_CheckExact(x):
        array = x
        ndim = cnp.PyArray_NDIM(array)
        if ndim > AXES or not (cnp.PyArray_ISALIGNED(array) and cnp.PyArray_ISNOTSWAPPED(array)):
            return False
        if written and not cnp.PyArray_ISWRITEABLE(array):
            return False
        put(key, 1 | ndim << 8 | <int64_t>cnp.PyArray_TYPE(array) << 16)
        for i in range(ndim):
            put(key, cnp.PyArray_DIM(array, i))
            put(key, cnp.PyArray_STRIDE(array, i))
        at[0] = <char *>cnp.PyArray_DATA(array)
        return True
    if type(x) not in tensors or x.is_neg():
        return False
    if follow and x.requires_grad:
        key.flags |= follow
    if written and x.requires_grad:
        return False
    if exchange != NULL:
        if exchange.lend(<void *>x, &tensor) != 0:
            PyErr_Clear()
            return False
        if tensor.device != 1 or tensor.lanes != 1 or tensor.ndim > AXES or tensor.data == NULL:
            return False
        put(key, 2 | tensor.ndim << 8 | <int64_t>tensor.code << 16 | <int64_t>tensor.bits << 32)
        for i in range(tensor.ndim):
            put(key, tensor.shape[i])
            put(key, tensor.strides[i])
        at[0] = tensor.data + tensor.offset
        return is_aligned(at[0], tensor.bits)
    return put_tensor(key, x, at)


cdef inline bint is_aligned(const char *data, int bits) noexcept:
    """Whether numbers of so many bits lie at multiples of their size: tensors over foreign memory need not, and are copied first."""
    return <uintptr_t>data % max(bits // 8, 1) == 0


cdef int put_tensor(call_key *key, object x, char **at) except -1:
    """The same of a tensor whose torch has no C interface for it."""
    cdef int i, ndim
    known = tensor_types.get(x.dtype)
    if known is None or not x.is_cpu or not x.is_strided:
        return False
    shape, strides = x.shape, x.stride()
    ndim = len(shape)
    at[0] = <char *><uintptr_t>x.data_ptr()
    if ndim > AXES or at[0] == NULL or not is_aligned(at[0], known[1]):
        return False
    put(key, 2 | ndim << 8 | <int64_t>known[0] << 16 | <int64_t>known[1] << 32)
    for i in range(ndim):
        put(key, shape[i])
        put(key, strides[i])
    return True


cdef tuple versions(tuple given):
    """How often each of four tensors was written to; None if one is of inference mode, and does not count."""
    cdef object x, y, z, w
    x, y, z, w = given
    try:
        return None if x is None else x._version, y._version, None if z is None else z._version, None if w is None else w._version
    except RuntimeError:
        return None


cdef tuple counted(tuple given):
    """The tensors for a graph to keep: of one of inference mode, which may be written to without a trace, a copy."""
    cdef object x
    return tuple([x.clone() if x is not None and x.is_inference() else x for x in given])


cdef bint recorded() except -1:
    """Whether a mode records operations."""
    return modes() and recorder() is not None  # two questions: the first takes 0.1 µs of a step, the second 0.5


def state(want):
    """What torch does with a call: RECORDED, or WATCHED by a transform or a forward mode; else what `follow` of `Front` is."""
    if tracing() or compiler.get("_is_compiling_flag") or recorded():
        return RECORDED
    if transform() is not None or forward_mode["_current_level"] >= 0:
        return WATCHED
    if (<tuple>want)[1] is True or (<tuple>want)[2] is True or not grad_enabled():
        return 0
    return 1 if hooks(True) is None else 2


def backward(node, upstream, *more):
    """A node's backward pass: the gradients of what its forward pass was given, the third of which are the predictions."""
    gradient = kept_gradient(node.__dict__, upstream)
    return otherwise(node, upstream, *more) if gradient is None else (None, None, gradient)


cdef object kept_gradient(dict node, object upstream):
    """The gradient that a node of autograd's graph keeps, which is the receiver's from now on, where it is what autograd asks for.

    None, and nothing has changed, where anything is unusual: other than 1 comes down, the graph is retained, torch was told what to do with
    what graphs keep, or the pass is differentiated or recorded. Nobody asks whether a function transform is active: this node's tensors
    were none of its own, and an upstream that is lends no memory; nor whether an input was written to, of which nothing is read any more.
    `node`: "gradient", and in "kept" plan, tensors, how often they had been written to (None: torch was told), divisor.
    """
    cdef dl_tensor tensor
    cdef double factor
    kept = node.get("kept")
    if kept is None or exchange == NULL or type(upstream) is not tensors[0] or upstream.is_neg():
        return None
    plan = (<list>kept)[0]
    if len(plan.tracked) != 1 or keeps_graph() or grad_enabled() or recorded():
        return None
    if exchange.lend(<void *>upstream, &tensor) != 0:
        PyErr_Clear()
        return None
    if tensor.device != 1 or tensor.ndim != 0 or tensor.lanes != 1 or tensor.code != 2 or tensor.data == NULL:
        return None
    if tensor.bits == 32:
        factor = (<float *>(tensor.data + tensor.offset))[0]
    elif tensor.bits == 64:
        factor = (<double *>(tensor.data + tensor.offset))[0]
    else:
        return None
    if factor != 1:
        return None
    gradient = node.pop("gradient", None)  # at once: another thread may be here, too
    if gradient is not None:
        node["kept"] = None
    return gradient


cdef class Calls:
    """The plans of one loss, by key, and the orders in which its options have come."""

    cdef list orders
    cdef dict plans

    def __cinit__(self):
        self.orders, self.plans = [], {}


cdef class Front:
    """Finds the plan of a call and evaluates it.

    Parameters
    ----------
    first : callable
        Plans and evaluates a call: (block, y_true, y_pred, want, out, options) -> (a `Prepared`, or a plan whose arrays are to be
        converted; results).
    again : callable
        Evaluates a call whose plan is known, and words the error if its data are refused: (plan, block, y_true, y_pred, out, options) ->
        results.
    planned : callable
        Plans and evaluates a call that has no key: as `first`, but gives the results alone.
    threads : dict
        Where "_threads" says how many threads kernels may use.
    in_place : object
        As `out`: the gradient replaces the predictions.
    """

    cdef object first, again, planned, in_place
    cdef dict threads, losses
    cdef readonly int limit

    def __init__(self, first, again, planned, dict threads, in_place, int limit=256):
        self.first, self.again, self.planned = first, again, planned
        self.threads, self.losses, self.in_place, self.limit = threads, {}, in_place, limit

    def beside(self, first, again, planned):
        """A front for what has other options and keys, `block` in `first`, `again` and `planned`, whose plans are forgotten with these."""
        cdef Front other = Front(first, again, planned, self.threads, self.in_place, self.limit)
        other.losses = self.losses
        return other

    def forget(self):
        """Forget all plans."""
        self.losses.clear()

    def plans(self, block):
        """The plans that are known of a loss."""
        calls = self.losses.get(block)
        return [] if calls is None else [x.plan if isinstance(x, Prepared) else x for x in (<Calls>calls).plans.values()]

    def __call__(self, block, y_true, y_pred, want, out, dict options, int follow=0):
        """The results of a call. `follow`: whether autograd follows tensors (1), and is told what to do with what it keeps (2)."""
        cdef call_key key
        cdef char *at[ARRAYS]
        cdef Prepared prepared
        cdef Calls calls
        cdef list arrays = [None, None, None]
        cdef object found, entry
        cdef tuple given, counts = None
        cdef double divisor = 1
        found = self.losses.get(block)
        if found is None:
            found = self.losses.setdefault(block, Calls())
        calls = found
        memset(at, 0, sizeof(at))
        found = self.key(calls, &key, at, y_true, y_pred, want, out, options, follow, arrays)
        if found is None:
            return self.planned(block, y_true, y_pred, want, out, options)
        entry = calls.plans.get(found)
        if entry is None:
            entry, results = self.first(block, y_true, y_pred, want, out, options)
            if len(calls.plans) >= self.limit:
                calls.plans.pop(next(iter(calls.plans)), None)
            calls.plans[found] = entry
            return results
        if type(entry) is Prepared:
            prepared = entry
            if prepared.record is not None:
                given = y_true, y_pred, arrays[0], arrays[1]
                given = counted(given) if prepared.uncounted else given
                counts = versions(given)
                if counts is None:  # torch takes 10 µs to say so: the next call does not ask
                    prepared.uncounted, given = True, counted(given)
                    counts = versions(given)
            if (prepared.record is None or counts is not None) and (out is None or out is self.in_place or prepared.outputs_apart(at)):
                number = arrays[2] if prepared.given is None else prepared.given
                if (<tuple>want)[2] is True and out is not None:
                    results = prepared.results(at, number, out[0], out[1], &divisor)
                else:
                    results = prepared.results(at, number, y_pred if out is self.in_place else out, None, &divisor)
                if results is not None:
                    if prepared.record is not None:
                        results = prepared.record([prepared.plan, given, counts, divisor, results[0]], results[1], y_pred)
                    return results if prepared.then is None else prepared.then(results, y_pred)
            entry = prepared.plan
        return self.again(entry, block, y_true, y_pred, out, options)

    cdef object key(self, Calls calls, call_key *key, char **at, object y_true, object y_pred, want, object out, dict options,
                    int follow, list arrays):
        """The key of a call, and where its arrays lie; None if it has none. arrays: sample_weight, class_weight, a number to divide by."""
        cdef const char *route = getenv("POLYLOSS_ROUTE")
        cdef Py_ssize_t position = 0
        cdef PyObject *name
        cdef PyObject *value
        cdef list objects = []
        cdef object option, threads
        cdef double number
        cdef int64_t bits
        cdef int overflow = 0, i, order
        cdef int flags = 0
        order = self.order(calls, options)
        if order < 0 or route != NULL and route[0] != 0 and strcmp(route, "formula") != 0:
            return None
        for i in range(4):
            flags |= ((<tuple>want)[i] is True) << i
        if route != NULL and route[0] != 0:
            flags |= 16
        key.flags = flags | follow << 5 | order << 8
        key.length = 1  # the flags come to the first place
        while PyDict_Next(options, &position, &name, &value):
            option = <object>value
            if option is None:
                put(key, 0)
            elif option is True or option is False:
                put(key, 1 if option is True else 2)
            elif PyUnicode_CheckExact(option):
                put(key, 3)
                objects.append(option)
            elif (<object>name) is OPTION_SAMPLE_WEIGHT:
                arrays[0] = option
            elif (<object>name) is OPTION_CLASS_WEIGHT:
                arrays[1] = option
            elif (<object>name) is OPTION_DENOMINATOR:
                if not (PyFloat_CheckExact(option) or PyLong_CheckExact(option) or isinstance(option, np.number)):
                    return None
                arrays[2] = option
                put(key, 8)
            elif PyLong_CheckExact(option):
                put(key, 4)
                put(key, PyLong_AsLongLongAndOverflow(option, &overflow))
            elif PyFloat_CheckExact(option):
                number = PyFloat_AS_DOUBLE(option)
                put(key, 5)
                memcpy(&bits, &number, sizeof(bits))
                put(key, bits)
            elif PyTuple_CheckExact(option) and len(<tuple>option) < 16:
                put(key, 6 | <int64_t>len(<tuple>option) << 8)
                for number_of in <tuple>option:
                    if not PyLong_CheckExact(number_of):
                        return None
                    put(key, PyLong_AsLongLongAndOverflow(number_of, &overflow))
            elif isinstance(option, (np.number, Enum)):
                put(key, 7)
                objects.append((type(option), option))
            else:
                return None
            if overflow or key.length > KEY - 8 * (2 * AXES + 2):
                return None
        if not (put_array(key, y_true, &at[AT_T], False, follow and 1 << 16)
                and put_array(key, y_pred, &at[AT_P], False, follow and 1 << 17)
                and put_array(key, arrays[0], &at[AT_WEIGHT], False, follow and 1 << 18)
                and put_array(key, arrays[1], &at[AT_CLASS_WEIGHT], False, follow and 1 << 19)):
            return None
        if out is self.in_place:
            put(key, 9)
            at[AT_GRAD] = at[AT_P]
        elif out is not None:
            if (<tuple>want)[2] is True:
                if not PyTuple_CheckExact(out) or len(<tuple>out) != 2:
                    return None
                if not (put_array(key, (<tuple>out)[0], &at[AT_GRAD], True) and put_array(key, (<tuple>out)[1], &at[AT_HESS], True)):
                    return None
            elif not put_array(key, out, &at[AT_GRAD], True):
                return None
        threads = self.threads["_threads"]
        if threads is None:
            return None
        put(key, threads)
        key.words[0] = key.flags
        option = PyBytes_FromStringAndSize(<char *>key.words, key.length * sizeof(int64_t))
        if not objects:
            return option
        objects.append(option)
        return tuple(objects)

    cdef int order(self, Calls calls, dict options) except -2:
        """Which of the orders of a loss's options this is; -1 if too many are known already."""
        cdef Py_ssize_t position
        cdef PyObject *name
        cdef int k, i
        cdef list order
        for k in range(len(calls.orders)):
            order = calls.orders[k]
            position = i = 0
            while PyDict_Next(options, &position, &name, NULL):
                if i >= len(order) or <PyObject *>order[i] != name:
                    break
                i += 1
            else:
                if i == len(order):
                    return k
        order = list(options)
        if order in calls.orders:
            return -1  # names made at run time: not worth a key
        if len(calls.orders) >= ORDERS:
            return -1
        calls.orders.append([sys.intern(name_of) for name_of in order])
        return len(calls.orders) - 1
