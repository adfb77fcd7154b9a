"""One call in canonical form, and its evaluation: route -> reduction -> the caller's shape and kind."""

import operator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from polyloss import _reduce, _routes
from polyloss._backends import NUMPY, owner
from polyloss._shapes import FLOATS, bad_label, dtype_name


class Want(NamedTuple):
    """What is asked for."""

    value: bool = True
    gradient: bool = False
    hessian: bool = False
    prob: bool = False


VALUE = Want()


class Memory(NamedTuple):
    """A job's arrays as NumPy arrays over the same memory."""

    p: object
    t: object
    weight: object
    class_weight: object
    out: object
    out_hessian: object


@dataclass(slots=True)
class Job:
    """One call, checked and in canonical shape; all that a route needs."""

    loss: object  # the block of the public function
    block: object  # whose formulas apply: the loss itself, or its form from logits
    xp: object
    backend: object
    device: object
    name: str  # what errors call the predictions: "y_pred", "logits"
    axis: int  # as the caller gave it
    layout: object
    p: object  # (n, c, s), in the caller's dtype
    t: object  # (n, c, s), or labels (n, s), in the caller's dtype but for float16, bfloat16 and bool
    labelled: bool
    label_shape: tuple  # as the caller gave them
    dtype: object  # of the computation
    gradient_dtype: object
    params: dict  # of the formulas
    targeting: dict  # parameters of block.targeted
    ignore: tuple
    weight: object  # (n, s) in the dtype of the computation, or None
    class_weight: object  # (c,) likewise, or None
    reduction: str
    normalization: str
    denominator: object
    want: Want
    out: tuple  # (gradient, Hessian), canonical views of what the caller gave, or None
    validate: bool
    divisor: object = None
    viewed: tuple = None, None  # arrays and what `memory` made of them: several routes ask

    @property
    def memory(self):
        """The arrays as NumPy arrays over the same memory; None if one of them is elsewhere."""
        arrays = self.p, self.t, self.weight, self.class_weight, *self.out
        known, memory = self.viewed
        if known is None or not all(map(operator.is_, known, arrays)):
            memory = self._memory(arrays)
            self.viewed = arrays, memory
        return memory

    def _memory(self, arrays):
        if self.backend.memory is None:
            return None
        views = []
        for array in arrays:
            view = None if array is None else self.backend.memory(array)
            if view is None and array is not None:
                return None
            views.append(view)
        *inputs, out, out_hessian = views
        return Memory(*inputs, self._canonical(out), self._canonical(out_hessian))

    def _canonical(self, x):
        """An output as (n, c, s) over the same memory; None where only a copy in the end can fill it."""
        try:
            return None if x is None or not (x.flags.aligned and x.dtype.isnative) else self.layout.canonical(np, x, copy=False)
        except ValueError:
            return None


def evaluate(job):
    """Take the fastest route and put its outcome into the caller's shape."""
    route, _ = _routes.choose(job)
    outcome = route.run(job)
    if job.validate and job.labelled:
        raise_bad(job, outcome)
    return finish(job, outcome)


def finish(job, outcome):
    """Reduce, and give back what was asked for in the caller's shape and kind."""
    results = []
    if job.want.value:
        value = reduced(job, outcome)
        results.append((value, restored(job, outcome.prob)) if job.want.prob else value)
    elif job.want.prob:
        results.append(restored(job, outcome.prob))
    for wanted, x, given in (
        (job.want.gradient, outcome.gradient, job.out[0]),
        (job.want.hessian, outcome.hessian, job.out[1]),
    ):
        if wanted:
            results.append(restored(job, x, given))
    return results[0] if len(results) == 1 else tuple(results)


def reduced(job, outcome):
    """The value of the reduction, in the dtype of the computation."""
    xp = job.xp
    if job.reduction == "none":
        return restored(job, outcome.losses)
    if outcome.value is not None:
        return outcome.value
    if isinstance(outcome.total, float):  # a kernel's sum, in float64
        divisor = outcome.divisor
        if isinstance(divisor, (int, float)):
            return scalar(job, outcome.total / divisor if divisor else 0.0)
        return _reduce.quotient(xp, scalar(job, outcome.total), xp.astype(divisor, job.dtype))
    divisor = outcome.divisor
    total = outcome.total if isinstance(divisor, (int, float)) else xp.astype(outcome.total, job.dtype)
    return xp.astype(_reduce.quotient(xp, total, divisor), job.dtype)


def scalar(job, x):
    """A Python float as a 0-d array of the caller's library."""
    if job.backend is NUMPY:
        return job.dtype.type(x)
    return job.xp.asarray(x, dtype=job.dtype, device=job.device)


def restored(job, x, given=None):
    """A result in the caller's shape and kind; written to the array the caller gave, if one was given."""
    if given is not None and x is given:
        return given
    if isinstance(x, np.ndarray) and job.backend.wrap is not None:  # a kernel's result; bfloat16 comes as bits
        x = job.backend.wrap(x, job.p)
    x = job.layout.restored(job.xp, x)
    if given is None:
        return x
    if not shares_memory(job, x, given):
        given[...] = x
    return given


def raise_bad(job, outcome):
    """The error for the first bad label, if there is one and values are at hand."""
    first = outcome.first_bad
    if outcome.bad is not None and job.backend.concrete(outcome.bad):
        xp = job.xp
        flat = xp.reshape(outcome.bad, (-1,))
        if bool(xp.any(flat)):
            first = int(xp.argmax(xp.astype(flat, xp.int8)))
    if first >= 0:
        value, kind = job.t[divmod(first, job.layout.s)], dtype_name(job.t.dtype)
        if kind == "uint64":  # torch cannot make a Python integer of a large one
            raise bad_label(job, first, int(job.xp.astype(value, job.xp.int64)) % 2**64)
        raise bad_label(job, first, float(value) if kind in FLOATS else int(value))


def shares_memory(job, a, b):
    if b is None or owner(b) != job.backend:
        return False
    if job.backend is not NUMPY:
        view = job.backend.memory
        a, b = (None, None) if view is None else (view(a), view(b))
        if a is None or b is None:
            return False
    if not np.may_share_memory(a, b):
        return False
    try:
        return np.shares_memory(a, b, max_work=10_000)
    except np.exceptions.TooHardError:  # interwoven strides: taken as shared
        return True
