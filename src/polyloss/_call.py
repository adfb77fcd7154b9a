"""The road of every call: namespace -> checks -> canonical shape -> route -> reduction -> the caller's type.

Every public function ends here, and so do the gradients: `want` says which of value, gradient, Hessian diagonal and probabilities is
asked for. What depends on the array library stands in `_routes.BACKENDS`; what depends on the loss, in its block.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import NamedTuple

import numpy as np
from array_api_compat import device as device_of

from polyloss import _reduce, _routes
from polyloss._params import flag, number
from polyloss._shapes import (
    FLOATS,
    INTEGERS,
    bad_label,
    dtype_name,
    label_shape,
    layout,
    same_shape,
    weight_shape,
)


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
    t: object  # (n, c, s) in the dtype of the computation, or labels (n, s) in theirs
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

    @property
    def memory(self):
        """The arrays as NumPy arrays over the same memory; None if one of them is elsewhere."""
        view = self.backend.memory
        if view is None:
            return None
        arrays = self.p, self.t, self.weight, self.class_weight, *self.out
        views = [a if a is None else view(a) for a in arrays]
        if any(v is None and a is not None for v, a in zip(views, arrays, strict=True)):
            return None
        *inputs, out, out_hessian = views
        return Memory(*inputs, self._canonical(out), self._canonical(out_hessian))

    def _canonical(self, x):
        """An output as (n, c, s) over the same memory; None if its strides forbid it, and the result is copied in the end."""
        try:
            return None if x is None else np.reshape(x, self.p.shape, copy=False)
        except ValueError:
            return None


def call(block, y_true, y_pred, *, want=VALUE, out=None, **arguments):
    """Check and evaluate one call of a loss: what `want` asks for, as the caller's kind of array."""
    job = prepare(block, y_true, y_pred, want=want, out=out, **arguments)
    if job.backend.carrier:
        return import_module(job.backend.carrier).call(job)
    return evaluate(job)


def evaluate(job):
    """Take the fastest route and put its outcome into the caller's shape."""
    route, _ = _routes.choose(job)
    outcome = route.run(job)
    if job.validate and job.labelled:
        raise_bad(job, outcome)
    return finish(job, outcome)


def finish(job, outcome):
    """Reduce, and give back what was asked for in the caller's shape and kind."""
    lay, results = job.layout, []
    if job.want.value:
        value = reduced(job, outcome)
        results.append((value, restored(job, outcome.prob, lay.shape)) if job.want.prob else value)
    for wanted, x, given in (
        (job.want.gradient, outcome.gradient, job.out[0]),
        (job.want.hessian, outcome.hessian, job.out[1]),
    ):
        if wanted:
            results.append(restored(job, x, lay.shape, given))
    return results[0] if len(results) == 1 else tuple(results)


def reduced(job, outcome):
    """The value of the reduction, in the dtype of the computation."""
    xp = job.xp
    if job.reduction == "none":
        return restored(job, outcome.losses, job.layout.losses)
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
    if job.backend is _routes.NUMPY:
        return job.dtype.type(x)
    return job.xp.asarray(x, dtype=job.dtype, device=job.device)


def restored(job, x, shape, given=None):
    """A result in the caller's shape and kind; written to the array the caller gave, if one was given."""
    if isinstance(x, np.ndarray) and job.backend.wrap is not None:  # a kernel's result; bfloat16 comes as bits
        x = job.backend.wrap(x, job.p)
    x = job.xp.reshape(x, shape)
    if given is None:
        return x
    if not _shares_memory(job, x, given):
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
        value = job.t[divmod(first, job.layout.s)]
        raise bad_label(job, first, float(value) if dtype_name(job.t.dtype) in FLOATS else int(value))


# ---------------------------------------------------------------------------------------------------------------- the checks


def prepare(
    block,
    y_true,
    y_pred,
    *,
    axis,
    sample_weight,
    reduction,
    validate,
    want,
    out,
    class_weight=None,
    denominator=None,
    normalization=None,
    normalize=None,
    return_prob=False,
    **params,
):
    """Everything that is checked, checked once; the job in canonical shape."""
    loss, name = block, block.predictions
    values = {key: check(key, params[key]) for key, check in block.params.items()}
    reduction = _reduce.reduction_name(block, reduction)
    normalization = _reduce.normalization_name(normalization, normalize) if reduction == "normalize" else None
    validate = flag("validate", validate)
    if flag("return_prob", return_prob):
        want = want._replace(prob=True)
    ignore = values.pop(loss.ignores, ()) if loss.ignores else ()
    if values.pop("from_logits", False):
        block = loss.logits
        values.pop("epsilon", None)
    targeting = {key: values.pop(key) for key in ("label_smoothing", "labels") if key in values}

    given = {"y_true": y_true, name: y_pred, "sample_weight": sample_weight, "class_weight": class_weight}
    if denominator is not None and not isinstance(denominator, (int, float, np.generic)):
        given["denominator"] = denominator
    backend, xp, device, arrays = gathered(given)
    y_true, y_pred = arrays["y_true"], arrays[name]

    kind = dtype_name(y_pred.dtype)
    dtype, gradient_dtype = computation(xp, name, y_pred.dtype, kind)
    if kind not in FLOATS:
        y_pred = xp.astype(y_pred, dtype)
    lay = layout(tuple(y_pred.shape), axis, name, block.combine is None)
    labelled = _labelled(loss, y_true, lay)
    shape = tuple(y_true.shape)
    _check_numeric("y_true", y_true)
    if labelled:
        label_shape(shape, lay, name)
        t = xp.astype(y_true, xp.uint8) if dtype_name(y_true.dtype) == "bool" else y_true
        t = xp.reshape(t, (lay.n, lay.s))
    else:
        same_shape(y_true, lay, name)
        t = xp.reshape(xp.astype(y_true, dtype, copy=False), (lay.n, lay.c, lay.s))

    weight = arrays["sample_weight"]
    if weight is not None:
        _check_numeric("sample_weight", weight)
        weight = xp.reshape(xp.astype(weight, dtype, copy=False), weight_shape(tuple(weight.shape), lay))
        weight = xp.reshape(xp.broadcast_to(weight, lay.losses), (lay.n, lay.s))
    class_weight = arrays["class_weight"]
    if class_weight is not None:
        _check_numeric("class_weight", class_weight)
        if tuple(class_weight.shape) != (lay.c,):
            raise ValueError(
                f"class_weight has shape {tuple(class_weight.shape)}, but must have one entry for each of the {lay.c} classes"
                f" on axis {axis} of {name}"
            )
        class_weight = xp.astype(class_weight, dtype, copy=False)
    if "denominator" in arrays:
        denominator = arrays["denominator"]
        if tuple(denominator.shape) != ():
            raise ValueError(f"denominator has shape {tuple(denominator.shape)}, but must be a number or a 0-d array")
        denominator = xp.astype(denominator, dtype, copy=False)
    elif denominator is not None:
        denominator = number("denominator", denominator)
        if denominator == 0:
            raise ValueError("denominator is 0, but the loss is divided by it")

    if block.survey is not None:
        kept = t if weight is None else xp.where((weight == 0)[:, None, :], xp.ones_like(t), t)
        targeting["survey"] = block.survey(xp, kept, **targeting)

    job = Job(
        loss, block, xp, backend, device, name, axis, lay, xp.reshape(y_pred, (lay.n, lay.c, lay.s)), t, labelled, shape, dtype,
        gradient_dtype, values, targeting, ignore, weight, class_weight, reduction, normalization, denominator, want,
        (None, None), validate,
    )  # fmt: skip
    job.divisor = _reduce.divisor(job)
    if out is not None:
        job.out = checked_out(job, out, y_pred, [y_true, y_pred, sample_weight, class_weight])
    return job


def _labelled(loss, y_true, lay):
    """Whether the targets are labels. Integers always are; floats in the shape of the predictions are soft targets."""
    if loss.targets == "either":
        return dtype_name(y_true.dtype) not in FLOATS or tuple(y_true.shape) != lay.shape
    return loss.targets == "labels"


def _check_numeric(name, x):
    kind = dtype_name(x.dtype)
    if kind not in FLOATS and kind not in INTEGERS and kind != "bool":
        raise TypeError(f"{name} has dtype {x.dtype}, but must hold real numbers: {', '.join((*FLOATS, *INTEGERS, 'bool'))}")


def computation(xp, name, dtype, kind):
    """The dtype to compute in, and that of gradients."""
    if kind in FLOATS:
        return getattr(xp, FLOATS[kind]) if xp is not np else np.dtype(FLOATS[kind]), dtype
    if kind in INTEGERS or kind == "bool":
        default = xp.asarray(0.0).dtype
        return default, default
    raise TypeError(f"{name} has dtype {dtype}, but must hold real numbers: {', '.join((*FLOATS, *INTEGERS, 'bool'))}")


# ------------------------------------------------------------------------------------------------------- namespaces and devices

_owners = {}  # type -> Backend, or the reason why its values are no arrays


def gathered(given):
    """Backend, namespace, device, and the arguments as arrays of that one library on that one device."""
    kinds = {name: _owner(x) for name, x in given.items() if x is not None}
    first = next((n for n, k in kinds.items() if k is not _routes.NUMPY and k not in _PLAIN), None)
    if first is None:
        arrays = {name: None if x is None else _numpy_array(name, x) for name, x in given.items()}
        return _routes.NUMPY, np, "cpu", arrays
    backend, xp = kinds[first], kinds[first].namespace(given[first])
    device = device_of(given[first])
    arrays = {}
    for name, x in given.items():
        if x is None:
            arrays[name] = None
            continue
        kind = kinds[name]
        if kind is backend and backend.namespace(x) is xp:
            if device_of(x) != device and None not in (device_of(x), device):
                raise ValueError(f"{first} is on device {device}, but {name} is on device {device_of(x)}: all must be on one device")
            arrays[name] = x
        elif backend.takes_numpy and (kind is _routes.NUMPY or kind in _COLUMNS):
            arrays[name] = xp.asarray(_numpy_array(name, x))
        else:
            raise TypeError(
                f"{first} is {_what(given[first])}, but {name} is {_what(x)}: all arrays of one call must be of one array library"
            )
    return backend, xp, device, arrays


_COLUMNS = ("pandas", "polars")
_PLAIN = (*_COLUMNS, "plain")  # what becomes a NumPy array


def _owner(x):
    """The backend that owns an array; "pandas", "polars" or "plain" for what becomes a NumPy array."""
    kind = _owners.get(type(x))
    if kind is None:
        kind = _owners[type(x)] = _find_owner(x)
    if isinstance(kind, TypeError):
        raise kind
    return kind


def _find_owner(x):
    top = type(x).__module__.partition(".")[0]
    if isinstance(x, np.ma.MaskedArray):
        return TypeError("masked arrays are not taken, since their mask would be lost: pass sample_weight instead")
    for backend in _routes.BACKENDS:
        if backend.owns(x):
            return backend
    if top in _COLUMNS:
        return top
    if hasattr(x, "__array_namespace__"):
        return _routes.Backend(top, None, lambda y: y.__array_namespace__())
    return "plain"


def _what(x):
    kind = _owner(x)
    if kind in _PLAIN:
        return f"a {type(x).__module__.partition('.')[0]}.{type(x).__name__}".replace("a builtins.", "a ")
    return f"a {kind.name} array"


def _numpy_array(name, x):
    if type(x) is np.ndarray and x.dtype.isnative:
        return x
    kind = _owner(x)
    if kind == "plain" and not isinstance(x, (list, tuple, int, float, bool, range)):
        raise TypeError(f"{name} is {_what(x)}, but must be an array, a list or a number")
    try:
        x = np.asarray(x)
    except ValueError as error:
        raise ValueError(f"{name} cannot be read as an array: {error}") from None
    if x.dtype.hasobject:
        raise TypeError(f"{name} has dtype {x.dtype}, but must hold real numbers")
    return x if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))


# --------------------------------------------------------------------------------------------------------------------- out=


def checked_out(job, out, y_pred, inputs):
    """The arrays that receive gradient and Hessian diagonal, in canonical shape."""
    pair = isinstance(out, (tuple, list)) if job.want.hessian else False
    if job.want.hessian and not (pair and len(out) == 2):
        raise TypeError(f"out is a {type(out).__name__}, but must be a pair of arrays: for the gradient and the Hessian diagonal")
    given = tuple(out) if pair else (out, None)
    if not job.backend.out:
        raise TypeError(f"out is given, but arrays of {job.backend.name} cannot be written to")
    for k, x in enumerate(given):
        if x is None:
            continue
        label = f"out[{k}]" if pair else "out"
        if _owner(x) is not job.backend:
            raise TypeError(f"{label} is {_what(x)}, but {job.name} is {_what(y_pred)}")
        if tuple(x.shape) != job.layout.shape or x.dtype != job.gradient_dtype:
            raise ValueError(
                f"{label} has shape {tuple(x.shape)} and dtype {dtype_name(x.dtype)}, but the gradient has shape"
                f" {job.layout.shape} and dtype {dtype_name(job.gradient_dtype)}"
            )
        if isinstance(x, np.ndarray) and not x.flags.writeable:
            raise ValueError(f"{label} is read-only")
        for other in (*inputs, *given[:k]):
            if _shares_memory(job, x, other):
                raise ValueError(f"{label} shares memory with an input or with the other output, and inputs are never written to")
    return given


def _shares_memory(job, a, b):
    if b is None or _owner(b) is not job.backend:
        return False
    if job.backend is not _routes.NUMPY:
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
