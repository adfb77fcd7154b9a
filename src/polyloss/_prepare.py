"""Everything that is checked of a call, checked once: arguments of any array library -> a job in canonical shape."""

import numpy as np

from polyloss import _reduce
from polyloss._backends import gathered, owner, what
from polyloss._job import Job, shares_memory
from polyloss._params import flag, number
from polyloss._shapes import FLOATS, INTEGERS, dtype_name, known_shape, label_shape, layout, same_shape, weight_shape

IN_PLACE = object()  # as `out`: the gradient replaces the predictions, in their memory where a kernel takes the job


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
    """The job of a call: its arrays as (n, c, s) views on one device of one library, its options resolved."""
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

    for key, x in (("y_true", y_true), (name, y_pred)):
        if x is None:
            raise TypeError(f"{key} is None, but must be an array, a list or a number")
    given = {"y_true": y_true, name: y_pred, "sample_weight": sample_weight, "class_weight": class_weight}
    if denominator is not None and not isinstance(denominator, (int, float, np.generic)):
        given["denominator"] = denominator
    backend, xp, device, arrays = gathered(given)
    y_true, y_pred = arrays["y_true"], arrays[name]
    shape, predicted = known_shape("y_true", y_true), known_shape(name, y_pred)

    _check_numeric(name, y_pred)
    dtype, gradient_dtype = _computation(xp, y_pred.dtype)
    if dtype_name(y_pred.dtype) not in FLOATS:
        y_pred = xp.astype(y_pred, dtype)
    lay = layout(predicted, axis, name, block.combine is None)
    view = backend.memory(y_pred) if len(lay.losses) > 1 and backend.memory is not None else None
    if view is not None and not view.flags.c_contiguous:
        lay = lay.viewing(view.strides)
    labelled = _labelled(loss, y_true, lay)
    _check_numeric("y_true", y_true)
    if labelled:
        label_shape(shape, lay, name, loss.targets == "either")
        wide = {"bool": "uint8", "float16": "float32", "bfloat16": "float32"}.get(dtype_name(y_true.dtype))
        t = y_true if wide is None else xp.astype(y_true, getattr(xp, wide))
        t = xp.reshape(t, (lay.n, lay.s))
    else:
        if ignore:
            raise ValueError(f"{loss.ignores} is {params[loss.ignores]!r}, but y_true holds soft targets, which no label names")
        same_shape(y_true, lay, name)
        narrow = dtype_name(y_true.dtype) in ("float16", "bfloat16", "bool")
        t = lay.canonical(xp, xp.astype(y_true, dtype) if narrow else y_true)

    weight = arrays["sample_weight"]
    if weight is not None:
        _check_numeric("sample_weight", weight)
        weight = xp.reshape(xp.astype(weight, dtype, copy=False), weight_shape(known_shape("sample_weight", weight), lay))
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

    job = Job(
        loss, block, xp, backend, device, name, axis, lay, lay.canonical(xp, y_pred), t, labelled, shape, dtype,
        gradient_dtype, values, targeting, ignore, weight, class_weight, reduction, normalization, denominator, want,
        (None, None), validate,
    )  # fmt: skip
    job.divisor = _reduce.divisor(job)
    if out is IN_PLACE:
        job.out = y_pred, None
    elif out is not None:
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


def _computation(xp, dtype):
    """The dtype to compute in, and that of gradients."""
    kind = dtype_name(dtype)
    if kind in FLOATS:
        return getattr(xp, FLOATS[kind]) if xp is not np else np.dtype(FLOATS[kind]), dtype
    default = xp.asarray(0.0).dtype
    return default, default


def checked_out(job, out, y_pred, inputs):
    """The arrays that receive gradient and Hessian diagonal, in canonical shape."""
    pair = isinstance(out, (tuple, list)) if job.want.hessian else False
    if job.want.hessian and not (pair and len(out) == 2):
        raise TypeError(f"out is {what(out)}, but must be a pair of arrays: for the gradient and the Hessian diagonal")
    given = tuple(out) if pair else (out, None)
    if not job.backend.out:
        raise TypeError(f"out is given, but arrays of {job.backend.name} cannot be written to")
    for k, x in enumerate(given):
        if x is None:
            continue
        label = f"out[{k}]" if pair else "out"
        if owner(x) != job.backend:
            raise TypeError(f"{label} is {what(x)}, but {job.name} is {what(y_pred)}")
        if tuple(x.shape) != job.layout.shape or dtype_name(x.dtype) != dtype_name(job.gradient_dtype):
            raise ValueError(
                f"{label} has shape {tuple(x.shape)} and dtype {dtype_name(x.dtype)}, but the gradient has shape"
                f" {job.layout.shape} and dtype {dtype_name(job.gradient_dtype)}"
            )
        if (why := job.backend.unwritable(x)) is not None:
            raise ValueError(f"{label} {why}")
        if isinstance(x, np.ndarray) and not x.flags.writeable:
            raise ValueError(f"{label} is read-only")
        if _overlaps_itself(job, x):
            raise ValueError(f"{label} has entries that share memory, so that it cannot hold a gradient")
        for other in (*inputs, *given[:k]):
            if shares_memory(job, x, other):
                raise ValueError(f"{label} shares memory with an input or with the other output, and inputs are never written to")
    return given


def _overlaps_itself(job, x):
    """Whether two entries of an output may be the same memory: an axis steps by less than the axes inside it span."""
    view = None if job.backend.memory is None else job.backend.memory(x)
    if view is None or view.size == 0:
        return False
    span = view.itemsize
    for stride, length in sorted((abs(stride), length) for stride, length in zip(view.strides, view.shape, strict=True) if length > 1):
        if stride < span:
            return True
        span += stride * (length - 1)
    return False
