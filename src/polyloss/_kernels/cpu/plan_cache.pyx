"""The plans of calls on arrays in this machine's memory, by key: `PlanCache`.

A key is what a plan follows from: the options, and of each array its type, dtype, shape and strides. A call whose key is known is its
plan's kernel on the arrays' addresses (prepared.pyx). One whose key is not known is planned by `_call.call.first`, which checks it and
words every error; one whose data are refused, as a bad label is or an output that lies over an input, is evaluated by `_call.call.again`.
"""
cimport numpy as cnp
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.object cimport PyObject
from libc.stdint cimport int64_t
from libc.stdlib cimport getenv
from libc.string cimport memcpy, memset, strcmp

import sys
from enum import Enum

import numpy as np

from polyloss._kernels.cpu.autograd cimport counted, versions
from polyloss._kernels.cpu.driver cimport ARRAYS, AT_CLASS_WEIGHT, AT_GRAD, AT_HESS, AT_P, AT_T, AT_WEIGHT
from polyloss._kernels.cpu.prepared cimport Prepared
from polyloss._kernels.cpu.tensors cimport AXES, is_tensor, look, tensor_view

cnp.import_array()

cdef extern from "Python.h":
    int PyDict_Next(object, Py_ssize_t *, PyObject **, PyObject **) noexcept
    bint PyLong_CheckExact(object)
    bint PyFloat_CheckExact(object)
    bint PyUnicode_CheckExact(object)
    bint PyTuple_CheckExact(object)
    long long PyLong_AsLongLongAndOverflow(object, int *) except? -1
    double PyFloat_AS_DOUBLE(object) noexcept

cdef enum:
    KEY = 256  # words of a key
    ORDERS = 8  # of the options of one loss

cdef str OPTION_SAMPLE_WEIGHT = sys.intern("sample_weight")
cdef str OPTION_CLASS_WEIGHT = sys.intern("class_weight")
cdef str OPTION_DENOMINATOR = sys.intern("denominator")


cdef struct call_key:
    int64_t words[KEY]
    int length
    int flags  # of what autograd follows, a bit an array


cdef inline bint put(call_key *key, int64_t word) noexcept:
    key.words[key.length] = word
    key.length += 1
    return True


cdef int put_array(call_key *key, object x, char **at, bint written, int follow=0) except -1:
    """Put an array's type, dtype, shape and strides into a key, and at `at` where it lies; False if calls on such arrays have no key."""
    cdef cnp.ndarray array
    cdef tensor_view tensor
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
    if not is_tensor(x):
        return False
    if follow and x.requires_grad:
        key.flags |= follow
    if written and x.requires_grad:
        return False
    if not look(x, &tensor):
        return False
    put(key, 2 | tensor.ndim << 8 | tensor.code << 16 | tensor.bits << 32)
    for i in range(tensor.ndim):
        put(key, tensor.shape[i])
        put(key, tensor.strides[i])
    at[0] = tensor.data
    return True


cdef class Calls:
    """The plans of one loss, by key, and the orders in which its options have come."""

    cdef list orders
    cdef dict plans

    def __cinit__(self):
        self.orders, self.plans = [], {}


cdef class PlanCache:
    """Finds the plan of a call by its key and evaluates it.

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
        """Another cache, as for the modules of `polyloss.torch`, with functions of its own. `forget` empties both."""
        cdef PlanCache other = PlanCache(first, again, planned, self.threads, self.in_place, self.limit)
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
        """The results of a call. `follow`: 0 if autograd takes no part; 1 if it does; 2 if saved-tensor hooks are set, too."""
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
