"""Everything that is checked of a call, checked once: arguments of any array library -> a plan, and arrays in canonical shape."""

from typing import Any, NamedTuple

import numpy as np

from polyloss._call import routes as _routes
from polyloss._call.plan import GIVEN, Arrays, Plan, Want, dtype_of, shares_memory
from polyloss._core import reduce as _reduce
from polyloss._core.backends import Fact, backend_of, to_one_library, what
from polyloss._core.block import Block
from polyloss._core.dtypes import FLOATS, INTEGERS, dtype_name
from polyloss._core.params import flag, number, traced
from polyloss._core.shapes import has, known_shape, layout, layout_of_sets, one_for_each, same_shape, weight_shape

ARRAYS = ("sample_weight", "class_weight", "denominator", "mask")  # options that are arrays
IN_PLACE = object()  # as `out`: the gradient replaces the predictions, in their memory where a kernel takes the plan


def prepare(block, y_true, y_pred, want, out, options):
    """The plan of a call, its arrays in canonical shape, and the same as they were given."""
    xp, given, facts = known(block, y_true, y_pred, want, out, options)
    plan = plan_of(block, want, {key: x for key, x in options.items() if key not in ARRAYS}, xp, facts)
    return plan, arrays_of(plan, xp, given), given


def known(block, y_true, y_pred, want, out, options):
    """The namespace, the arrays of a call by name, all of one library, and what is known of them."""
    name = block.predictions
    for key, x in (("y_true", y_true), (name, y_pred)):
        if x is None:
            raise TypeError(f"{key} is None, but must be an array, a list or a number")
    if out is None or out is IN_PLACE:
        outputs = None
    elif not want.hessian:
        outputs = (out,)
    elif isinstance(out, (tuple, list)) and len(out) == 2:
        outputs = tuple(out)
    else:
        raise TypeError(f"out is {what(out)}, but must be a pair of arrays: for the gradient and the Hessian diagonal")
    given = {"y_true": y_true, name: y_pred, "sample_weight": options["sample_weight"], "class_weight": options.get("class_weight")}
    given["mask"] = options.get("mask")
    denominator = options.get("denominator")
    if denominator is not None and not isinstance(denominator, (int, float, np.generic)):
        given["denominator"] = denominator
    dynamic = {key: x for key, x in options.items() if key in block.params and traced(x)}
    given |= dynamic
    backend, xp, arrays = to_one_library(given)
    if outputs is not None:  # of what was copied, since its bytes are swapped or lie across those of numbers, the copy shares nothing
        copied = [x for key, x in given.items() if x is not arrays[key]]
        for k, x in enumerate(outputs):
            _refuse_shared(backend, want, k, x, copied)
    facts = {key: None if x is None else backend.fact(x) for key, x in arrays.items()}
    arrays["divisor"] = arrays.pop("denominator", denominator)
    facts["divisor"] = facts.pop("denominator", denominator is not None)
    arrays["out"] = out if out is IN_PLACE else outputs or (None,)
    facts["out"] = None if outputs is None else tuple(x if x is None else _output_fact(x) for x in outputs)
    return xp, arrays, facts


def _output_fact(x):
    """What is known of an array that is to receive a result, and why it cannot."""
    kind = backend_of(x)
    if isinstance(kind, str):
        return Fact(None, what(x), ())
    fact, why = kind.fact(x), kind.unwritable(x)
    if why is None and isinstance(x, np.ndarray) and not x.flags.writeable:
        why = "is read-only"
    if why is None and (view := kind.lies(x)) is not None and _overlaps_itself(view):
        why = "has entries that share memory, so that it cannot hold a gradient"
    return fact._replace(refused=why)


def _refuse_shared(backend, want, k, output, inputs):
    """An error where the k-th output shares memory with any of the inputs."""
    if output is not None and backend_of(output) is backend and any(shares_memory(backend, output, x) for x in inputs):
        label = f"out[{k}]" if want.hessian else "out"
        raise ValueError(f"{label} shares memory with an input or with the other output, and inputs are never written to")


def _overlaps_itself(view):
    """Whether two entries of an output may be the same memory: an axis steps by less than the axes inside it span."""
    if 0 in view.shape:
        return False
    span = view.itemsize
    for stride, length in sorted((abs(stride), length) for stride, length in zip(view.strides, view.shape, strict=True) if length > 1):
        if stride < span:
            return True
        span += stride * (length - 1)
    return False


class Asked(NamedTuple):
    """The options of a call, checked, but for its arrays."""

    want: Want
    axis: Any
    block: type[Block]  # whose formulas apply
    values: dict  # of the formulas' parameters, by name
    target_options: dict  # likewise of `block.prepare_targets`
    ignore: tuple
    reduction: str
    normalization: str | None
    validate: bool


def plan_of(block, want, options, xp, facts):
    """What is decided of a call, from facts alone.

    Parameters
    ----------
    block : Block
        Of the public function.
    want : Want
    options : dict
        Of the public function, but for its arrays.
    xp : namespace
        Of the arrays.
    facts : dict
        Name of an array -> `Fact`, or None if it isn't given. "divisor" is a `Fact` or whether a number is given; "out" is a tuple or None.
    """
    asked = _checked_options(block, want, options)
    name, t, p = block.predictions, facts["y_true"], facts[block.predictions]
    weighted, class_weighted, masked = (facts[key] is not None for key in ("sample_weight", "class_weight", "mask"))
    storage, dtype = _checked_dtypes(block, xp, t, p)
    lay = _layout(block, asked, p, masked)
    labelled, targets = _checked_targets(block, asked, lay, dtype, t, options)
    _check_values(block, asked, lay, p)
    _check_weights(lay, name, asked.axis, p, facts)
    divisor = _divisor(lay, asked, facts["divisor"], weighted or class_weighted)
    out = _checked_out(asked.want, p, lay, storage, name, facts["out"])
    inputs = {key: x for key, x in facts.items() if isinstance(x, Fact)}
    return _routes.routed(
        Plan(
            block, asked.block, asked.want, p.backend, p.device, p.cuda, asked.axis, lay, labelled, t.shape, storage, dtype, targets,
            tuple(asked.values.items()), tuple(asked.target_options.items()), asked.ignore, weighted, class_weighted, masked,
            asked.reduction, asked.normalization, divisor, out, asked.validate,
            has_values=all(x.has_values for x in inputs.values()), here=all(x.here for x in inputs.values()),
            tracked=tuple(key for key, x in inputs.items() if x.tracked), watched=any(x.watched for x in inputs.values()),
        )
    )  # fmt: skip


def _checked_options(loss, want, options):
    """The options of a call, but for its arrays: each is valid by itself."""
    if flag("return_prob", options.get("return_prob", False)):
        want = want._replace(prob=True)
    values = {key: check(key, options[key]) for key, check in loss.params.items()}
    reduction = _reduce.reduction_name(loss, options["reduction"])
    normalization = None
    if reduction == "normalize":
        normalization = _reduce.normalization_name(options.get("normalization"), options.get("normalize"))
    validate = flag("validate", options["validate"])
    ignore = values.pop(loss.ignores, ()) if loss.ignores else ()
    block = loss.form(loss, values)
    target_options = {key: values.pop(key) for key in ("label_smoothing", "labels") if key in values}
    return Asked(want, options["axis"], block, values, target_options, ignore, reduction, normalization, validate)


def _checked_dtypes(loss, xp, t, p):
    """The dtype of the predictions and gradients, and that of the computation; targets and predictions are not exchanged."""
    known_shape("y_true", t)
    known_shape(loss.predictions, p)
    _check_numeric(loss.predictions, p)
    if loss.targets != "dense" and p.dtype in INTEGERS and t.dtype in FLOATS and len(t.shape) == len(p.shape) + 1:
        what_p = f"{loss.predictions} {has(loss.predictions)} shape {p.shape} and dtype {p.dtype}"
        raise ValueError(f"y_true has shape {t.shape} and {what_p}: targets come first")
    return (p.dtype, FLOATS[p.dtype]) if p.dtype in FLOATS else (dtype_name(xp.asarray(0.0).dtype),) * 2


def _layout(loss, asked, p, masked):
    """How the predictions are seen: as (n, c, s), of this machine's memory by views wherever their strides allow it."""
    if loss.sets:
        lay = layout_of_sets(p.shape, asked.axis, loss.predictions)
    else:
        lay = layout(p.shape, asked.axis, loss.predictions, asked.block.combine is None)
    if lay.axes:
        views = p.here and not masked and p.backend.name in ("numpy", "torch")  # of which canonical arrays are views
        return lay.viewing_sets(p.strides) if views else lay
    return lay.viewing(p.strides) if p.here and len(lay.losses) > 1 else lay


def _checked_targets(loss, asked, lay, dtype, t, options):
    """Whether the targets are labels, and their dtype as routes get them; they have the shape that their kind asks for."""
    name, labelled = loss.predictions, _labelled(loss, t, lay)
    _check_numeric("y_true", t)
    if labelled:
        labels = f"labels for {name} of shape {lay.shape} with classes on axis {lay.axis} have shape"
        one_for_each(t.shape, lay, labels, "; soft targets are floats" if loss.targets == "either" else "")
        dtype = "float32"  # which tells all labels of 16 bits apart
    elif asked.ignore:
        raise ValueError(f"{loss.ignores} is {options[loss.ignores]!r}, but y_true holds soft targets, which no label names")
    elif asked.block.targets == "values":
        one_for_each(t.shape, lay, f"one target for each position of {name} of shape {lay.shape} makes")
    else:
        same_shape(t.shape, lay, name)
    return labelled, {"bool": "uint8", "float16": dtype, "bfloat16": dtype}.get(t.dtype, t.dtype)


def _check_values(loss, asked, lay, p):
    """An error unless parameters and predictions have as many classes as the layout and the loss say."""
    name, axis = loss.predictions, asked.axis
    for key, x in asked.values.items():
        if isinstance(x, tuple) and len(x) != lay.c:  # a factor for each class
            raise ValueError(f"{key} has {len(x)} entries, but must have one for each of the {lay.c} classes on axis {axis} of {name}")
    length = None if asked.block.length is None else asked.block.length(asked.values)
    if length is not None and lay.c != length:
        raise ValueError(f"{name} has shape {p.shape}: {loss.name} takes {length} numbers for each target on axis {axis}, not {lay.c}")


def _check_weights(lay, name, axis, p, facts):
    """An error unless mask and weights have the dtypes and shapes that they must have."""
    mask, weight, class_weight = (facts[key] for key in ("mask", "sample_weight", "class_weight"))
    if mask is not None and (mask.dtype != "bool" or mask.shape != p.shape):
        raise ValueError(f"mask has shape {mask.shape} and dtype {mask.dtype}, but must hold booleans in the shape of {name}: {p.shape}")
    if weight is not None:
        _check_numeric("sample_weight", weight)
        weight_shape(weight.shape, lay)
    if class_weight is not None:
        _check_numeric("class_weight", class_weight)
        if class_weight.shape != (lay.c,):
            raise ValueError(
                f"class_weight has shape {class_weight.shape}, but must have one entry for each of the {lay.c} classes"
                f" on axis {axis} of {name}"
            )


def _divisor(lay, asked, denominator, weighted):
    """What the sum is divided by: a number; "count" or "weights", which the data decide; GIVEN."""
    if isinstance(denominator, Fact) and denominator.shape != ():
        raise ValueError(f"denominator has shape {denominator.shape}, but must be a number or a 0-d array")
    if denominator and asked.reduction == "normalize":
        return GIVEN
    return _reduce.divisor(lay, asked.reduction, asked.normalization, weighted, bool(asked.ignore))


def _labelled(loss, y_true, lay):
    """Whether the targets are labels. Integers always are; floats in the shape of the predictions are soft targets."""
    if loss.targets == "either":
        return y_true.dtype not in FLOATS or y_true.shape != lay.shape
    return loss.targets == "labels"


def _check_numeric(name, x):
    if x.dtype not in FLOATS and x.dtype not in INTEGERS and x.dtype != "bool":
        raise TypeError(f"{name} has dtype {x.dtype}, but must hold real numbers: {', '.join((*FLOATS, *INTEGERS, 'bool'))}")


def _checked_out(want, p, lay, storage, name, given):
    """Whether arrays are given for gradient and Hessian diagonal; they fit."""
    if given is None:
        return False, False
    if not p.backend.out:
        raise TypeError(f"out is given, but arrays of {p.backend.name} cannot be written to")
    for k, x in enumerate(given):
        if x is None:
            continue
        label = f"out[{k}]" if want.hessian else "out"
        if x.backend is not p.backend:
            raise TypeError(f"{label} is {x.dtype if x.backend is None else x.backend.described}, but {name} is {p.backend.described}")
        if x.device != p.device:
            raise ValueError(f"{name} is on device {p.device}, but {label} is on device {x.device}: all must be on one device")
        if x.shape != lay.shape or x.dtype != storage:
            raise ValueError(f"{label} has shape {x.shape} and dtype {x.dtype}, but the gradient has shape {lay.shape} and dtype {storage}")
        if x.refused is not None:
            raise ValueError(f"{label} {x.refused}")
    return tuple(x is not None for x in (*given, None)[:2])


def arrays_of(plan, xp, given):
    """The arrays of a call in canonical shape: views wherever there can be one, else copies."""
    if xp is not np:
        return _arrays_of(plan, xp, given)
    with np.errstate(all="ignore"):  # what is too large for the dtype becomes infinite in silence, as it does in other libraries
        return _arrays_of(plan, xp, given)


def _arrays_of(plan, xp, given):
    lay, dtype = plan.layout, plan.real(xp)
    t, p, weight, class_weight, divisor = (given[key] for key in ("y_true", plan.name, "sample_weight", "class_weight", "divisor"))
    in_place = given["out"] is IN_PLACE
    out, out_hessian = (p, None) if in_place else (*given["out"], None)[:2]
    for k, x in enumerate((out, out_hessian)):
        if x is not None and not in_place:
            inputs = (t, p, given["sample_weight"], given["class_weight"], given.get("mask"), *(out,)[:k])
            _refuse_shared(plan.backend, plan.want, k, x, inputs)
    if plan.storage != dtype_name(p.dtype):
        p = xp.astype(p, dtype)
    if plan.targets != dtype_name(t.dtype):
        bits = dtype_name(t.dtype) == "bool" and hasattr(t, "view")  # a byte each: 0 or 1
        t = t.view(xp.uint8) if bits else xp.astype(t, dtype_of(xp, plan.targets))
    if weight is not None:
        weight = xp.reshape(xp.astype(weight, dtype, copy=False), weight_shape(tuple(weight.shape), lay))
        weight = xp.reshape(xp.broadcast_to(weight, lay.losses), (lay.n, lay.s))
    if class_weight is not None:
        class_weight = xp.astype(class_weight, dtype, copy=False)
    if divisor is not None:
        divisor = denominator_of(divisor)
        if not isinstance(divisor, float) and plan.here and plan.has_values and not getattr(divisor, "requires_grad", False):
            divisor = float(divisor)  # which need not be a number of the dtype
        divisor = divisor if isinstance(divisor, float) else wide_enough(xp, divisor, dtype)
    if plan.labelled:
        t = xp.reshape(t, (lay.n, lay.s))
    elif plan.block.targets == "values":
        t = xp.reshape(t, (lay.n, 1, lay.s))
    else:
        t = lay.canonical(xp, t)
    p, mask = lay.canonical(xp, p), given.get("mask")
    if mask is not None:
        mask = lay.canonical(xp, mask)
        t, p = (xp.where(mask, x, xp.zeros_like(x)) for x in (t, p))
    return Arrays(xp, t, p, weight, class_weight, divisor, out, out_hessian, mask)


def wide_enough(xp, divisor, dtype):
    """A 0-d denominator in the dtype of the computation, or in float64 as it is: 1e-60 is 0 in float32."""
    return divisor if dtype_name(divisor.dtype) == "float64" else xp.astype(divisor, dtype, copy=False)


def denominator_of(given):
    """The caller's denominator: a number, which is checked, or an array as it is."""
    if not isinstance(given, (int, float, np.generic)):
        return given
    divisor = number("denominator", given)
    if divisor == 0:
        raise ValueError("denominator is 0, but the loss is divided by it")
    return divisor
