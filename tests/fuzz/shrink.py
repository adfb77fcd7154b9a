"""A failing call made small: `shrink(call, fault)` tries simpler calls for as long as one still fails in the same way."""

import time

import numpy as np
from calls import Array
from check import defaults

from polyloss._core.block import LOSSES


def shrink(call, fault, faults, seconds=10.0):
    """The simplest call found that `faults` still finds the same symptom in, and the fault it has."""
    until = time.monotonic() + seconds
    found = True
    while found and time.monotonic() < until:
        found = False
        for simpler in candidates(call):
            if time.monotonic() > until:
                break
            try:
                same = next((f for f in faults(simpler) if alike(f, fault)), None)
            except Exception:  # a candidate need not be a call at all
                continue
            if same is not None:
                call, fault, found = simpler, same, True
                break
    return call, fault


def alike(one, other):
    """Whether two faults have one symptom, in calls of one loss."""
    return one.kind[0] == other.kind[0] and one.kind[4:] == other.kind[4:]


def candidates(call):
    """Simpler calls, the boldest first."""
    yield from plainer(call)
    flat = flattened(call)
    if flat is not None:
        yield flat
        call = flat
    yield from smaller(call)
    yield from rounder(call)


def plainer(call):
    """Fewer arguments, settings and peculiarities of memory."""
    for name in ("sample_weight", "class_weight", "denominator", "mask"):
        if name in call.arrays:
            yield call.with_array(name, None)
    for name in call.options:
        if name != "axis":
            yield call.changed(options={k: x for k, x in call.options.items() if k != name})
    for change in ({"threads": 1}, {"isa": ""}, {"out": ""}, {"jit": False}, {"library": "numpy"}, {"route": ""}):
        (name, value), = change.items()  # fmt: skip
        if getattr(call, name) != value and not (name == "library" and call.mode == "autograd"):
            yield call.changed(**change)
    for mode in ("value", "grad", "value_and_grad"):
        if call.mode in ("value_and_grad", "grad_and_hess", "autograd") and call.mode != mode:
            yield call.changed(mode=mode, jit=False).with_array("upstream", None)
    for name, array in call.arrays.items():
        if array.layout != "plain":
            yield call.with_array(name, Array(array.seen().copy()))
    for name, array in call.arrays.items():
        wide = "int64" if name == "y_true" and call.labelled else "float64"
        if array.values.dtype != wide and name != "upstream":
            yield call.with_array(name, Array(array.seen().astype(wide), array.layout))


def apart(call):
    """Whether a call's arrays are not all cut alike: sets along several axes, and one target for several predictions."""
    block = LOSSES[call.loss]
    return block.sets or block.targets == "values" or isinstance(call.options.get("quantile"), tuple)


def axis_of(call):
    return {**defaults(call.loss), **call.options}["axis"] % max(call.prediction.values.ndim, 1)


def flattened(call):
    """Predictions as (rows, classes), weights and labels in the shape (rows,); None if they are."""
    p = call.prediction.seen()
    if apart(call):
        return None
    if p.ndim == 0 or (p.ndim == 2 and axis_of(call) == 1):
        return None
    at, c = axis_of(call), p.shape[axis_of(call)]
    losses = p.shape[:at] + p.shape[at + 1 :]
    rows = lambda x: np.moveaxis(x, at, -1).reshape(-1, c)  # noqa: E731
    arrays = {"y_pred": Array(np.ascontiguousarray(rows(p)))}
    t = call.arrays["y_true"].seen()
    arrays["y_true"] = Array(np.ascontiguousarray(t.reshape(-1) if call.labelled else rows(t)))
    if "sample_weight" in call.arrays:
        arrays["sample_weight"] = Array(np.ascontiguousarray(spread(call.arrays["sample_weight"].seen(), losses, at).reshape(-1)))
    if "upstream" in call.arrays:
        arrays["upstream"] = Array(call.arrays["upstream"].seen().reshape(-1 if call.arrays["upstream"].seen().ndim else ()))
    arrays.update({name: x for name, x in call.arrays.items() if name not in arrays})
    return call.changed(arrays=arrays, options={**call.options, "axis": -1}, out="plain" if call.out else "")


def spread(w, losses, at):
    """A weight in the shape of the losses."""
    if w.ndim == len(losses) + 1:
        w = w[..., 0] if w.shape[-1] == 1 else np.squeeze(w, at)
    return np.broadcast_to(w.reshape(w.shape + (1,) * (len(losses) - w.ndim)), losses)


def smaller(call):
    """Fewer rows, fewer classes."""
    p = call.prediction.values
    if p.ndim != 2 or apart(call):
        return
    weight = call.arrays.get("sample_weight")
    if weight is not None and weight.values.shape != p.shape[:1]:
        yield call.with_array("sample_weight", Array(spread(weight.seen(), p.shape[:1], 1).copy()))
        return
    for axis in (0, 1):
        n = p.shape[axis]
        for keep in parts(n):
            yield kept(call, axis, keep)


def parts(n):
    """Subsets of n places: halves, quarters, …, all but one."""
    size = n
    while size > 1:
        size = -(-size // 2)
        for start in range(0, n, size):
            if size < n:
                yield np.arange(start, min(start + size, n))
        if n // size > 16:
            return
    if 2 < n <= 12:
        for k in range(n):
            yield np.delete(np.arange(n), k)


def kept(call, axis, places):
    """The call with some rows or classes only."""
    arrays = {}
    for name, array in call.arrays.items():
        x = array.seen()
        if name == "y_pred" or (name == "y_true" and not call.labelled):
            x = x.take(places, axis)
        elif name == "class_weight":
            x = x.take(places, 0) if axis == 1 else x
        elif axis == 0 and x.ndim:
            x = x.take(places, 0)
        elif axis == 1 and name == "y_true":  # labels keep their classes, or go to the first
            new = {int(old): k for k, old in enumerate(places)}
            c = call.prediction.values.shape[1]
            x = np.array([new.get(int(y), 0 if 0 <= y < c else int(y)) for y in x.reshape(-1)]).astype(x.dtype)
        arrays[name] = Array(np.ascontiguousarray(x))
    return call.changed(arrays=arrays)


def rounder(call):
    """Simpler numbers."""
    for name, array in call.arrays.items():
        x = array.values
        if x.size > 4000 or x.dtype.kind not in "fV" or (name == "y_true" and call.labelled):
            continue
        for simple in (np.zeros_like(x), *([] if (x == 0).all() else [np.ones_like(x)]), digits(x, 1), digits(x, 3)):
            if simple.tobytes() != x.tobytes():
                yield call.with_array(name, Array(simple, array.layout))
        if x.size > 40:
            continue
        for k in range(x.size):
            for value in (0, 1, digits(x.reshape(-1)[k], 1), digits(x.reshape(-1)[k], 3)):
                old = x.reshape(-1)[k]
                if old != value and old not in (0, 1):
                    simple = x.copy()
                    simple.reshape(-1)[k] = value
                    yield call.with_array(name, Array(simple, array.layout))


def digits(x, n):
    """Numbers rounded to n digits."""
    wide = np.asarray(x).astype(float)
    with np.errstate(all="ignore"):
        scale = 10.0 ** (n - 1 - np.floor(np.log10(np.abs(np.where((wide == 0) | ~np.isfinite(wide), 1, wide)))))
        simple = np.where(np.isfinite(scale) & np.isfinite(wide), np.round(wide * scale) / scale, wide)
        return np.where(np.isfinite(simple), simple, wide).astype(np.asarray(x).dtype)
