"""A plan on a kernel of the CPU with all that its calls need but their data: `Prepared`.

`_call.cpu` makes it. It runs the kernel on arrays' addresses, divides, and makes the results, of the caller's library. It decides nothing
and words no error: data that it refuses, a bad label or a divisor that no kernel can divide by, are for `_call.call.again`.
"""
cimport numpy as cnp
from cpython.object cimport PyTypeObject
from cpython.ref cimport Py_INCREF
from libc.math cimport fabs, isfinite
from libc.stdint cimport int32_t, int64_t, uint8_t

import numpy as np

from polyloss._core.buffers import FROM, empty
from polyloss._kernels.cpu.driver cimport ARRAYS, AT_GRAD, AT_HESS, AT_LOSSES, AT_PROB, Bound, kernel_sums
from polyloss._kernels.cpu.tensors cimport new_tensor

cnp.import_array()

cdef extern from "numpy/arrayobject.h":
    object PyArray_Scalar(void *, cnp.dtype, object)
    object PyArray_NewFromDescr(PyTypeObject *, cnp.dtype, int, const cnp.npy_intp *, const cnp.npy_intp *, void *, int, object)
    PyTypeObject PyArray_Type

cdef enum:
    NUMBER, COUNT, WEIGHTS, GIVEN, POSITION_WEIGHTS  # what the sum is divided by
    ANY, NOT_ZERO, FINITE  # which values of a loss are given
    HUGE_PAGES = 1 << 22  # bytes from which NumPy asks for them

cdef Py_ssize_t LARGE = FROM
FAR = FAR_FROM_1

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
        To the arrays' types and strides; in calls of `PlanCache`, to outputs that are contiguous in the caller's shape.
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
        """Serve calls of a module: its options are others than a loss's, but this plan follows from them.

        Parameters
        ----------
        given : number, optional
            The denominator, which is no option of a module.
        gives : {"not zero", "finite"}, optional
            Which values may be returned; any other is refused, as bad data are.
        then : callable, optional
            (results, y_pred) -> what is returned.
        """
        self.given, self.then = given, then
        self.gives = {None: ANY, "not zero": NOT_ZERO, "finite": FINITE}[gives]

    cdef bint is_given(self, double value) noexcept nogil:
        """Whether a value of the loss, in the dtype of the computation, may be returned; see `serve`."""
        return self.gives == ANY or (value != 0 if self.gives == NOT_ZERO else isfinite(value))

    cdef int64_t fill(self, char **at, double given, double *total, double *divisor) noexcept nogil:
        """Run the kernel. `total` receives the sum of the losses, `divisor` what it is to be divided by.

        Returns DONE, the flat index of the first bad label, SHORT of memory, or FAR_FROM_1: then a formula has to divide, since the
        divisor's reciprocal may be no normal number."""
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
            self.set_divisor(&found, divisor)
        if self.scaled:
            if self.is_far(divisor[0]):
                return FAR_FROM_1
            scale = 1 / divisor[0] if divisor[0] != 0 else 0
        if self.bound.run(at, scale, &found):
            return SHORT
        if scale == 0 and found.bad < 0:  # where a loss is NaN, 0 times its slope would be; of a bad label NaN stays
            self.bound.clear(at)
        if (self.divide == COUNT or self.divide == WEIGHTS) and not self.scaled:
            self.set_divisor(&found, divisor)
        total[0] = found.total
        if self.checks and found.bad >= 0:
            return found.bad
        return FAR_FROM_1 if self.is_far(divisor[0]) else DONE

    cdef int64_t fill_with_lock(self, char **at, object given, double *total, double *divisor) except? SHORT:
        """`fill`, called with the interpreter's lock, which it releases during long work."""
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
        """`fill`, and the value, in the dtype of the computation, to where `value` points, if anywhere."""
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

    cdef void set_divisor(self, const kernel_sums *found, double *divisor) noexcept nogil:
        if self.divide == COUNT:
            divisor[0] = max(found.count, 1)
        else:
            divisor[0] = found.weights if self.divide == WEIGHTS else found.total

    def run(self, t, p, weight, class_weight, given, losses, gradient, hessian, prob):
        """Fill the outputs, for arrays like those that were bound: (total, divisor, how it ended), the latter as `fill` returns it.

        Where that is FAR no output is right. `given`, the caller's denominator, may be infinite or 0."""
        cdef char *at[ARRAYS]
        cdef double total = 0, divisor = 1
        cdef int64_t bad
        self.bound.addresses(at, (t, p, weight, class_weight, losses, gradient, hessian, prob))
        bad = self.fill_with_lock(at, given, &total, &divisor)
        return total, divisor, bad

    cdef object results(self, char **at, object given, object out, object out_hessian, double *divisor):
        """The results of a call, in new arrays or in those that the caller gave; None where the data are refused."""
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
        if self.fill_with_lock(at, given, &total, divisor) != DONE:
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
        """The inputs that had to be converted, as new arrays, to which `at` points now; the caller keeps them alive."""
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
        """A new contiguous array of the caller's library, and at `data` where it lies."""
        cdef Py_ssize_t nbytes = kind.itemsize
        cdef uint8_t code = 4 if self.bits and kind is self.storage else 2  # DLPack's for bfloat16, and for other floats
        cdef int i
        for i in range(ndim):
            nbytes *= shape[i]
        if self.from_numpy is not None and nbytes < HUGE_PAGES:
            tensor = new_tensor(code, 8 * kind.itemsize, ndim, shape, nbytes, data)
            if tensor is not None:
                return tensor
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
