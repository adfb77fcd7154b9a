"""Run the plan of one call on its arrays: the kernel, the reduction, and the result in the caller's shape, array library and device."""

import numpy as np

from polyloss._call import routes as _routes
from polyloss._call.plan import shares_memory
from polyloss._core import reduce as _reduce
from polyloss._core.backends import NUMPY
from polyloss._core.devices import beside
from polyloss._core.dtypes import FLOATS, dtype_name
from polyloss._core.labels import bad_label


def evaluate(plan, arrays, given=None):
    """What a plan gives for the arrays of one call, in the caller's shape and kind."""
    if arrays.xp.__name__.endswith(("torch", "jax.numpy")):  # they say nothing
        return _evaluate(plan, arrays)
    with np.errstate(all="ignore"):  # NaN and infinities go through in silence; other libraries may compute by NumPy, too
        return _evaluate(plan, arrays)


def _evaluate(plan, arrays):
    return finish(plan, arrays, checked(plan, arrays, _routes.run(plan, arrays)))


def checked(plan, arrays, outcome):
    """An outcome without bad labels, or the error for the first one."""
    if plan.validate and plan.labelled:
        raise_bad(plan, arrays, outcome)
    return outcome


def finish(plan, arrays, outcome):
    """Reduce, and give back what was asked for in the caller's shape and kind."""
    results, want = [], plan.want
    if want.value:
        value = reduced(plan, arrays, outcome)
        results.append((value, restored(plan, arrays, outcome.prob)) if want.prob else value)
    elif want.prob:
        results.append(restored(plan, arrays, outcome.prob))
    if want.gradient:
        results.append(restored(plan, arrays, kept(plan, arrays, outcome.gradient), arrays.out))
    if want.hessian:
        results.append(restored(plan, arrays, kept(plan, arrays, outcome.hessian), arrays.out_hessian))
    return results[0] if len(results) == 1 else tuple(results)


def kept(plan, arrays, x):
    """A derivative, 0 where a mask takes the element out."""
    if arrays.mask is None:
        return x
    x = of_library(plan, arrays, x)
    return arrays.xp.where(arrays.mask, x, arrays.xp.zeros_like(x))


def of_library(plan, arrays, x):
    """A route's result as an array of the caller's library; a kernel's bfloat16 comes as bits."""
    return plan.backend.from_numpy(x, arrays.p) if isinstance(x, np.ndarray) and plan.backend.from_numpy is not None else x


def reduced(plan, arrays, outcome):
    """The value of the reduction, in the dtype of the computation."""
    xp, divisor = arrays.xp, outcome.divisor
    if plan.reduction == "none":
        return restored(plan, arrays, outcome.losses)
    if outcome.value is not None:
        return outcome.value
    if isinstance(outcome.total, float):  # a kernel's sum, in float64
        if isinstance(divisor, (int, float)):
            return scalar(plan, arrays, outcome.total / divisor if divisor else 0.0)
        return _reduce.quotient(xp, scalar(plan, arrays, outcome.total), divisor)
    return xp.astype(_reduce.quotient(xp, outcome.total, divisor), plan.real(xp))


def scalar(plan, arrays, x):
    """A Python float as a 0-d array of the caller's library."""
    if plan.backend is NUMPY:
        return plan.real(np).type(x)
    return arrays.xp.asarray(x, dtype=plan.real(arrays.xp), device=beside(arrays.p))


def restored(plan, arrays, x, given=None):
    """A result in the caller's shape and kind; written to the array the caller gave, if one was given."""
    if given is not None and x is given:
        return given
    x = plan.layout.restored(arrays.xp, of_library(plan, arrays, x))
    if given is None:
        return x
    if not shares_memory(plan.backend, x, given):
        given[...] = x
    return given


def raise_bad(plan, arrays, outcome):
    """The error for the first bad label, if there is one and values are at hand."""
    first, xp = outcome.first_bad, arrays.xp
    if outcome.bad is not None and plan.backend.has_values(outcome.bad):
        flat = xp.reshape(outcome.bad, (-1,))
        if bool(xp.any(flat)):
            first = int(xp.argmax(xp.astype(flat, xp.int8)))
    if first >= 0:
        value, kind = arrays.t[divmod(first, plan.layout.s)], dtype_name(arrays.t.dtype)
        if kind == "uint64":  # torch cannot make a Python integer of a large one
            raise bad_label(plan, first, int(xp.astype(value, xp.int64)) % 2**64)
        raise bad_label(plan, first, float(value) if kind in FLOATS else int(value))
