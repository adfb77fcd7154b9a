"""Whether a call gives what it must: `faults(call)` runs it and says what is wrong, each as a `Fault`."""

import inspect
from typing import NamedTuple

import numpy as np
from ball import FORMATS, LONG, UNKNOWN, Ball, unknown
from calls import Refused, run
from truth import computed, expected

from polyloss._core.block import LOSSES

OF_SOFTMAX = ("softmax_loss", "poly1_crossentropy", "categorical_crossentropy", "sparse_categorical_crossentropy")
UNITS = 4  # a computation may be so many times as far off as its careful writing


class Fault(NamedTuple):
    """What is wrong with a call: `kind` groups the faults of one cause."""

    kind: tuple
    words: str


def defaults(loss):
    """The options of a loss, and their defaults."""
    return {name: x.default for name, x in inspect.signature(LOSSES[loss].function).parameters.items() if x.kind is x.KEYWORD_ONLY}


def truth_of(call):
    """The `Expected` of a call."""
    block = LOSSES[call.loss]
    options = {**defaults(call.loss), **call.options}
    params = {name: options.pop(name) for name in block.params}
    ignore = params.pop(block.ignores, None) if block.ignores else None
    ignore = () if ignore is None else tuple(ignore) if isinstance(ignore, (tuple, list)) else (ignore,)
    reduction = {None: "none", "mean_with_sample_weight": "mean"}.get(options["reduction"], options["reduction"])
    normalization = options.get("normalization")
    if normalization is None:
        normalization = "batch_size" if options.get("normalize") is False else "valid"
    elif not isinstance(normalization, str):
        normalization = ("full", "valid", "batch_size", "none")[normalization]
    arrays = {name: array.seen() for name, array in call.arrays.items()}
    p = arrays["y_pred"].astype(call.dtype) if call.prediction.values.dtype.kind in "iub" else arrays["y_pred"]
    return expected(
        call.loss, arrays["y_true"], p,
        dtype=computed(call.dtype), flushed=call.library == "jax", axis=options["axis"], labelled=call.labelled,
        sample_weight=arrays.get("sample_weight"), reduction=reduction, ignore=ignore, class_weight=arrays.get("class_weight"),
        normalization=normalization, denominator=arrays.get("denominator", options.get("denominator")), mask=arrays.get("mask"), **params,
    )  # fmt: skip


def faults(call):
    """What is wrong with a call; nothing, if all is well."""
    where = call.loss, call.library, call.mode, call.route or "kernel"  # not the instruction set: it seldom matters
    try:
        results, wrong = run(call)
    except Refused as error:
        return [Fault((*where, "raised", str(error).partition(":")[0]), f"raised {error}")]
    found = [Fault((*where, *words.split(":")[:2]), words) for words in wrong]
    truth = truth_of(call)
    upstream = call.arrays.get("upstream")
    for name, x in results.items():
        right, dtype = wanted(call, truth, name, upstream)
        if right is None:
            continue
        if x.dtype.name != dtype:
            found.append(Fault((*where, name, "dtype"), f"{name} has dtype {x.dtype.name}, not {dtype}"))
        if x.shape != right.v.shape:
            found.append(Fault((*where, name, "shape"), f"{name} has shape {x.shape}, not {right.v.shape}"))
            continue
        fault = compared(x, right)
        if fault:
            symptom, words = fault
            found.append(Fault((*where, name, symptom), f"{name}: {words}"))
    return found


def wanted(call, truth, name, upstream):
    """The truth of one result, and its dtype."""
    wide = computed(call.dtype)
    if name == "value":
        return truth.losses, wide
    kinds = {"gradient": call.dtype, "hessian": call.dtype, "prob": call.dtype}
    given = {"by_target": "y_true", "by_weight": "sample_weight", "by_class": "class_weight", "by_divisor": "denominator"}
    dtype = kinds.get(name) or call.arrays[given[name]].values.dtype.name
    right = getattr(truth, name)
    if name == "by_class":  # the sum over all positions, each times what comes from above
        u = Ball(upstream.values.reshape(-1, 1) if upstream.values.size == len(right.v) else upstream.values, LONG(0), right.format)
        with np.errstate(all="ignore"):
            return (right * u).sum(0).roughly(4), dtype
    if name == "hessian":  # squares go below the normal numbers, and above the largest, earlier than what is divided by them
        right = Ball(right.v, right.e + LONG(float(np.finfo(wide).tiny)) / right.format.unit, right.format)
    if name in ("gradient", "prob") and call.loss in OF_SOFTMAX:  # exponentials below the normal numbers have fewer digits
        few = float(np.finfo(wide).tiny) / (16 if wide == "float32" else 2048)
        right = Ball(right.v, right.e + LONG(few) / right.format.unit, right.format)
    if right is not None and upstream is not None:
        u = upstream.values.astype(LONG)
        if name == "by_weight":
            weight = call.arrays["sample_weight"].values
            if weight.shape != right.v.shape:
                return None, None
        elif u.ndim:
            at = {**defaults(call.loss), **call.options}["axis"]
            u = u.reshape(right.v.shape) if u.size == right.v.size else np.expand_dims(u, at)
        with np.errstate(all="ignore"):
            open_ = (right.e > UNKNOWN**0.5) | ((u == 0) & ~(np.abs(right.v) < right.format.most))  # 0 times what is infinite
            right = unknown((right * Ball(u, LONG(0), right.format)).roughly(2), open_)
            if set(call.results()) - {"value", "gradient"}:  # by autograd of the value, in which 1 - p cancels
                right = Ball(right.v, right.e + 4 * np.abs(u).max(initial=0) * largest(call), right.format)
    return right, dtype


def largest(call):
    """The largest weight, divided by a denominator that is followed, too; or 1."""
    weight, denominator = call.arrays.get("sample_weight"), call.arrays.get("denominator")
    size = 1 if weight is None else max(1, np.nanmax(np.abs(weight.values), initial=1))
    return size if denominator is None or not denominator.values else size * max(1, 1 / abs(float(denominator.values)))


def compared(x, right):
    """What is wrong with a result: a symptom and words; or None."""
    v, e = np.broadcast_to(right.v, x.shape), np.broadcast_to(right.e, x.shape)
    given = x.dtype.name
    info = FORMATS.get(given)
    y = x.astype(LONG) if given in FORMATS else x.astype(np.float32).astype(LONG)
    unit, least, most = (info.unit, info.least * info.unit, info.most) if info else (LONG(2) ** -8, LONG(2) ** -133, LONG(2) ** 128)
    with np.errstate(all="ignore"):
        size = np.where(np.isfinite(v), np.abs(v), 0)
        allowed = UNITS * right.format.unit * e + np.where(e > 0, unit * size + least, 0)
        if info is None or info.unit != right.format.unit:
            allowed = allowed + unit * size + least
        free = e > UNKNOWN**0.5
        near = np.abs(y - v) <= allowed
        most = min(most, right.format.most)
        over = (np.abs(v) + allowed >= most) & (np.abs(y) == np.inf) & (((y > 0) == (v > 0)) | (np.abs(v) <= allowed))
        good = free | near | (np.isnan(v) & np.isnan(y)) | (y == v) | over
    if good.all():
        return None
    bad = np.argwhere(~good)
    at = tuple(bad[0])
    symptom = "nan" if np.isnan(y[at]) else "number for nan" if np.isnan(v[at]) else "inf" if np.isinf(y[at]) else "off"
    times = "" if not np.isfinite(y[at]) or allowed[at] == 0 else f", {float(abs(y[at] - v[at]) / allowed[at]):.3g} times what is allowed"
    return symptom, f"[{', '.join(map(str, at))}] is {x[at]}, right is {float(v[at])!r}{times} ({len(bad)} of {x.size} wrong)"
