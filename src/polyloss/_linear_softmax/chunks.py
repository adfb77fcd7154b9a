"""The loss of a language model's head in chunks of rows: what is checked of a call, and its evaluation.

Rows of features go through in chunks. The library's own matmul writes a chunk's logits into one buffer, the softmax kernel replaces them
there by their gradient, and two more matmuls give the gradient with respect to the features of the chunk and add to that with respect to
the weight. So value and gradient take three matmuls, as if all logits were computed at once, and the memory beside inputs and gradients
does not depend on the number of rows. Rows that are left out are not multiplied at all where the others can be listed.

The first chunk needs no buffer where its rows are no more than the features are long: its logits lie class by class in the memory of the
weight's gradient, each class where its gradient is to be, and some classes at a time are moved out for the last matmul, which writes there.
So it may have more rows than a buffer holds, and adding to the weight's gradient, which costs a tenth of the matmul, is needed less often.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import device as device_of

from polyloss._call.call import called
from polyloss._call.cpu import softmax_in_place
from polyloss._call.formula import Outcome
from polyloss._call.plan import BOTH, VALUE, Arrays, Want
from polyloss._call.prepare import IN_PLACE, prepare, wide_enough
from polyloss._call.run_plan import raise_bad
from polyloss._core import buffers, reduce as _reduce
from polyloss._core.backends import to_one_library
from polyloss._core.dtypes import FLOATS, dtype_name
from polyloss._core.labels import sort_labels
from polyloss._core.shapes import known_shape, weight_shape
from polyloss.softmax import SoftmaxLoss

BUFFER = 55_200_000  # bytes of a chunk's logits and their gradient, and of what matmuls pack beside them: with all else less than 64 MB
XLA = 36_000_000  # bytes of a chunk's logits in a program of XLA's, whose loops and matmuls take 16 to 24 MB beside them
PACKED = 1_500_000  # numbers that matmuls pack
PANEL = 8_000_000  # bytes of the weight that are multiplied or converted at once
SUMMAND = 8_000_000  # bytes of a product on its way into a sum, where a library's matmul adds to nothing: less, and matmuls are slower
ROWS = 1024  # of a chunk at most: more makes no matmul faster
IGNORED, BAD = -1, -2  # labels that are no classes


# ------------------------------------------------------------------------------------------------------------------ one call


class Products(NamedTuple):
    """What a library makes large arrays with."""

    product: object  # (a, b, out): out = a @ b
    grow: object  # (a, b, out, first): out += a @ b, or where it is the first out = a @ b
    empty: object  # (shape, dtype, device): an array of arbitrary contents


class Rules(NamedTuple):
    """What one call is, but for its arrays: hashable."""

    n: int  # rows of features
    c: int  # classes
    chunk: int  # rows at once, at most
    first: int  # rows of the first chunk at most, where it lies in the memory of the weight's gradient; 0: nowhere
    dtype: str  # of the computation
    reduction: str
    divisor: object  # a number, or "count" or "weights": what is found in the labels; "given": the denominator
    ignore: tuple
    terms: tuple  # (name, value) of the parameters of the formula: label_smoothing, z_loss, softcap
    validate: bool


@dataclass(slots=True)
class Head:
    """One call, checked: features and labels as N rows."""

    want: Want
    backend: object
    xp: object
    device: object
    features: object  # (N, D)
    weight: object  # (C, D)
    bias: object  # (C,) or None
    labels: object  # (N,), of a dtype that can be compared
    sample_weight: object  # (N,) in the dtype of the computation, or None
    class_weight: object  # (C,) likewise, or None
    denominator: object  # a number, or a 0-d array likewise, or None
    dtype: object  # of the computation
    shape: tuple  # of the features as given
    rules: Rules
    plan: object  # of softmax_loss with logits of these shapes
    products: object = None  # Products, where a library has better than its matmul
    shard: object = None  # where weight and bias are some classes of those of several processes: finds what a chunk gives to the whole


def prepared(want, y_true, features, weight, bias, arguments):
    """The arguments checked: those of softmax_loss by itself, on stand-ins that have shapes and dtypes but no values."""
    options = dict(arguments)
    chunk = _chunk(options.pop("chunk"))
    given = {"y_true": y_true, "features": features, "weight": weight, "bias": bias}
    given |= {name: options[name] for name in ("sample_weight", "class_weight")}
    if not isinstance(options["denominator"], (int, float, np.generic)):
        given["denominator"] = options["denominator"]
    for name in ("y_true", "features", "weight"):
        if given[name] is None:
            raise TypeError(f"{name} is None, but must be an array, a list or a number")
    backend, xp, arrays = to_one_library(given)
    shapes = {name: known_shape(name, x) for name, x in arrays.items() if x is not None}
    _check_shapes(shapes, {name: dtype_name(x.dtype) for name, x in arrays.items() if x is not None})
    features, weight, bias = arrays["features"], arrays["weight"], arrays["bias"]
    computed = {FLOATS[dtype_name(x.dtype)] for x in (features, weight, bias) if x is not None}
    wide = "float64" if "float64" in computed else "float32"

    like = {name: _stand_in(x, shapes[name]) for name, x in arrays.items() if x is not None}
    c, d = shapes["weight"]
    logits = np.broadcast_to(np.zeros((), wide), (*shapes["features"][:-1], c))
    labels = like.pop("y_true")
    plan, checked, _ = prepare(SoftmaxLoss, labels, logits, want, None, dict(axis=-1, return_prob=False) | options | _options_of(like))
    if not plan.labelled:
        raise ValueError(
            f"y_true has shape {shapes['y_true']} and dtype {dtype_name(labels.dtype)}, but must hold labels, in the shape"
            f" {logits.shape[:-1]} of features without their last axis"
        )

    n, dtype = plan.layout.n, np.dtype(wide) if xp is np else getattr(xp, wide)
    if chunk is None and backend.name == "jax":
        chunk = _multiple_of_4(min(ROWS, XLA // (c * np.dtype(wide).itemsize)))
    labels = arrays["y_true"]
    compared = {"bool": "uint8", "float16": "float32", "bfloat16": "float32"}.get(dtype_name(labels.dtype))
    labels = xp.reshape(labels if compared is None else xp.astype(labels, getattr(xp, compared)), (n,))
    sample_weight, class_weight, denominator = (arrays.get(name) for name in ("sample_weight", "class_weight", "denominator"))
    if sample_weight is not None:
        sample_weight = xp.astype(sample_weight, dtype, copy=False)
        sample_weight = xp.reshape(sample_weight, weight_shape(shapes["sample_weight"], plan.layout))
        sample_weight = xp.reshape(xp.broadcast_to(sample_weight, plan.layout.losses), (n,))
    class_weight = None if class_weight is None else xp.astype(class_weight, dtype, copy=False)
    divisor = plan.divisor_of(checked)
    if denominator is not None:
        denominator, divisor = wide_enough(xp, denominator, dtype), plan.divisor
    here = backend.as_numpy is not None
    first = min(chunk or d, d) if here and softmax_in_place(c) and wide == "float32" and _by_class(plan, class_weight) else 0
    chunk = chunk or default_chunk(c, 8 if wide == "float64" else 4, here and softmax_in_place(c))
    rules = Rules(n, c, chunk, first, wide, plan.reduction, divisor, plan.ignore, _terms(plan.settings), plan.validate)
    return Head(
        want, backend, xp, device_of(features), xp.reshape(features, (n, d)), weight, bias, labels, sample_weight, class_weight,
        denominator, dtype, shapes["features"], rules, plan,
    )  # fmt: skip


def _by_class(plan, class_weight):
    """Whether the kernel replaces logits that lie class by class as fast as others: not where class weights and smoothing meet."""
    return class_weight is None or plan.settings["label_smoothing"] == 0


def _terms(settings):
    """The formula's parameters as the public function takes them."""
    return tuple((name, None if name == "softcap" and x == 0 else x) for name, x in settings.items())


def _check_shapes(shapes, dtypes):
    for name in ("features", "weight", "bias"):
        if dtypes.get(name, "float32") not in FLOATS:
            have = "have" if name == "features" else "has"
            raise TypeError(f"{name} {have} dtype {dtypes[name]}, but must be floating: {', '.join(FLOATS)}")
    features, weight = shapes["features"], shapes["weight"]
    if len(weight) != 2:
        raise ValueError(f"weight has shape {weight}, but must have two axes: a row of features for each class")
    if len(features) < 1 or features[-1] != weight[1]:
        raise ValueError(f"features have shape {features}, but must have {weight[1]} entries on the last axis, as weight of shape {weight}")
    if shapes.get("bias", weight[:1]) != weight[:1]:
        raise ValueError(f"bias has shape {shapes['bias']}, but must have one entry for each of the {weight[0]} rows of weight")


def _chunk(chunk):
    """The caller's number of rows, checked; None where we choose."""
    if chunk is None:
        return None
    if isinstance(chunk, bool) or not hasattr(chunk, "__index__"):
        raise TypeError(f"chunk is {chunk!r}, but must be an integer or None")
    if chunk.__index__() < 1:
        raise ValueError(f"chunk is {chunk!r}, but must be 1 or more: so many rows of features are taken at once")
    return chunk.__index__()


def default_chunk(classes, itemsize, in_place):
    """Rows at once: as many as the buffers hold, a multiple of 4."""
    rows = min(ROWS, (BUFFER - PACKED * itemsize) // (classes * itemsize * (1 if in_place else 2)))
    return _multiple_of_4(rows)


def _multiple_of_4(rows):
    return max(1, rows if rows < 4 else rows // 4 * 4)


def even(n, most):
    """Rows of the fewest chunks of `most` at most that n rows make, alike in length: a matmul of the few rows that may be left is slow.

    They are a multiple of 4 where that is allowed: of others MKL packs 5 MB more.
    """
    rows = -(-n // -(-n // most)) if n else 1
    return min(rows + -rows % 4, most, max(n, 1))


def _stand_in(x, shape):
    """A NumPy array of the shape and dtype of another, of zeros that take no memory."""
    dtype = x.dtype
    if not isinstance(dtype, np.dtype):
        name = dtype_name(dtype)
        dtype = np.dtype({"bfloat16": "float16"}.get(name, name))
    return np.broadcast_to(np.zeros((), dtype), shape)


def _options_of(like):
    return {name: x for name, x in like.items() if name in ("sample_weight", "class_weight", "denominator")}


# -------------------------------------------------------------------------------------------------------------------- labels


class Rows:
    """Which rows count, and for how much."""

    def __init__(self, head):
        xp = head.xp
        labels, ignored, bad = sort_labels(xp, head.labels, head.rules.c, head.rules.ignore)
        if head.rules.validate:
            refuse(head, bad)
        labels = xp.where(bad, xp.full_like(labels, BAD), labels)
        self.labels = labels if ignored is None else xp.where(ignored, xp.full_like(labels, IGNORED), labels)
        skip = ignored
        if head.sample_weight is not None:
            zero = head.sample_weight == 0
            skip = zero if skip is None else skip | zero
        self.skip = skip  # (N,), or None: rows that are left out
        self.divisor = self._divisor(head, ignored)

    def _divisor(self, head, ignored):
        """What the sum is divided by: a number or a 0-d array."""
        xp, rule, n = head.xp, head.rules.divisor, head.rules.n
        if not isinstance(rule, str):
            return rule
        if rule == "given":
            return head.denominator
        if rule == "count":
            if ignored is None:
                return max(n, 1)
            kept = xp.sum(xp.astype(~ignored, head.dtype))
            return xp.maximum(kept, xp.ones_like(kept))
        counted = xp.ones_like(self.labels, dtype=head.dtype) if head.sample_weight is None else head.sample_weight
        if head.class_weight is not None:
            counted = counted * xp.take(head.class_weight, xp.clip(self.labels, 0, None), axis=0)
        counted = xp.where(self.labels == BAD, xp.zeros_like(counted), counted)  # not looked for, if it is there: its weight is in no sum
        counted = counted if self.skip is None else xp.where(self.skip, xp.zeros_like(counted), counted)
        return xp.asarray(xp.astype(_reduce.total(xp, counted), head.dtype))  # of NumPy an array: a number may not be 0


def refuse(head, bad):
    """The error for the first bad label, if there is one."""
    raise_bad(replace(head.plan, backend=head.backend), Arrays(head.xp, head.labels[:, None], None), Outcome(bad=bad[:, None]))


def chunk_options(head, rows, part, upstream=None):
    """The arguments of softmax_loss for a part of the rows; `upstream`: what autograd hands down to each loss, if it does so to each."""
    rules = head.rules
    weight = head.sample_weight if upstream is None else upstream if head.sample_weight is None else upstream * head.sample_weight
    return dict(
        axis=1, ignore_label=IGNORED, normalization=None, normalize=None, class_weight=head.class_weight,
        sample_weight=None if weight is None else weight[part], denominator=rows.divisor if rules.reduction == "normalize" else None,
        reduction=rules.reduction, return_prob=False, validate=False, **dict(rules.terms),
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------- evaluation


def run(head, needs=(True, True, True), upstream=None, exact=False):
    """The value, as 0-d or (N,), and the gradients (N, D), (C, D) and (C,), None where they are not wanted or not in `needs`.

    With `exact` gradients come in the dtype of the computation, not yet rounded to 16 bits.
    """
    operands = head.features, head.weight, head.bias
    needs = tuple(need and head.want.gradient and x is not None for need, x in zip(needs, operands, strict=True))
    if head.backend.name in ("numpy", "torch", "cupy"):
        return _written(head, needs, upstream, exact)
    return _built(head, needs, upstream, exact)


def results(head, value, gradients):
    """What was asked for, in the caller's shapes."""
    xp = head.xp
    if head.rules.reduction == "none" and value is not None:
        value = xp.reshape(value, head.plan.layout.losses)
    if not head.want.gradient:
        return value
    features, *others = gradients
    gradients = (xp.reshape(features, head.shape), *others[: 1 if head.bias is None else 2])
    return (value, gradients) if head.want.value else gradients


def _written(head, needs, upstream, exact):
    """Where arrays can be written to: one buffer for the logits of every chunk, and gradients that grow in place."""
    xp, n, (c, d) = head.xp, head.rules.n, head.weight.shape
    rows, here = Rows(head), head.backend.as_numpy is not None and head.backend.as_numpy(head.features) is not None
    multiply, grow, empty = head.products or _products(xp)
    kept, hidden = _kept(head, rows.skip, here)
    m = n if kept is None else kept.shape[0]
    new = {"dtype": head.dtype, "device": head.device}

    def wide(x):
        return x if x.dtype == head.dtype and _multiplies(x) else xp.astype(x, head.dtype, copy=True)

    panels = [(0, c)]
    if wide(head.weight[:1]).dtype != head.weight.dtype or not _multiplies(head.weight):
        panels = _panels(c, d * 4)
    narrow = _panels(c, d * 4) if here else panels  # with two threads MKL packs 36 MB of 32000 classes, which takes as long as panels do
    derive = any(needs)
    in_place = here and softmax_in_place(c)
    make = xp.empty if kept is None else xp.zeros
    by_features = make((n, d), dtype=head.dtype if exact else head.features.dtype, device=head.device) if needs[0] else None
    by_weight: Any = (empty if m else xp.zeros)((c, d), **new) if needs[1] else None
    by_bias = xp.zeros((c,), **new) if needs[2] else None
    losses = make((n,), **new) if head.rules.reduction == "none" and head.want.value else None
    total = 0.0 if here else xp.zeros((), **new)
    inside = min(head.rules.first, m) if needs[1] and in_place and head.shard is None else 0
    inside = inside if inside >= even(m, head.rules.chunk) else 0
    chunk = even(m - inside, head.rules.chunk)
    logits: Any = None
    slopes: Any = None

    for start, stop in ((0, inside), *((i, min(i + chunk, m)) for i in range(inside, m, chunk))):
        if start == stop:
            continue
        part = slice(start, stop) if kept is None else kept[start:stop]
        x = wide(head.features[part])
        if hidden is not None:
            x = xp.where(hidden[part][:, None], xp.zeros_like(x), x)
        k = x.shape[0]
        if stop == inside:
            classes = by_weight[:, :k]
            for a, b in _panels(c, d * 4):  # OpenBLAS copies all of a long matrix, here the weight, before it multiplies
                multiply(wide(head.weight[a:b]), x.T, classes[a:b])
            z = classes.T
        else:
            if logits is None:
                logits = empty((chunk, c), **new)
                slopes = empty((chunk, c), **new) if derive and not in_place else None
            z = logits[:k]
            for a, b in narrow:
                multiply(x, wide(head.weight[a:b]).T, z[:, a:b])
        if head.bias is not None:
            z += wide(head.bias)
        out = IN_PLACE if slopes is None else slopes[:k]
        if head.shard is not None:
            value, g = head.shard.visit(head, rows, part, z, derive, upstream, out)
        elif derive:
            value, g = called(SoftmaxLoss, rows.labels[part], z, BOTH, out, chunk_options(head, rows, part, upstream))
        else:
            value, g = called(SoftmaxLoss, rows.labels[part], z, VALUE, None, chunk_options(head, rows, part, upstream)), None
        if losses is not None:
            losses[part] = value
        elif head.rules.reduction != "none":
            total = total + (float(value) if here else value)
        if by_features is not None:
            straight = kept is None and by_features.dtype == head.dtype
            grown = by_features[part] if straight else xp.empty((k, d), **new)
            for a, b in panels:
                grow(g[:, a:b], wide(head.weight[a:b]), grown, a == 0)
            if not straight:
                by_features[part] = xp.astype(grown, by_features.dtype, copy=False)
        if by_bias is not None:
            by_bias += xp.ones((k,), **new) @ g
        if stop == inside:
            moved: Any = None
            for a, b in _panels(c, k * 4):
                moved = xp.empty((b - a, k), **new) if moved is None else moved[: b - a]
                moved[...] = g[:, a:b].T
                multiply(moved, x, by_weight[a:b])
            moved = None  # before there is a buffer for the rest
        elif by_weight is not None:
            grow(g.T, x, by_weight, start == 0)

    if head.shard is not None and by_features is not None:
        head.shard.joined(by_features)
    value = None
    if head.want.value:
        value = head.dtype.type(total) if xp is np else xp.asarray(total, **new)
        value = value if losses is None else losses
    if hidden is not None and by_features is not None:
        by_features[...] = xp.where(hidden[:, None], xp.zeros_like(by_features), by_features)
    gradients = [by_features, by_weight, by_bias]
    if not exact:
        like = (head.features, head.weight, head.bias)
        gradients = [g if g is None else xp.astype(g, x.dtype, copy=False) for g, x in zip(gradients, like, strict=True)]
    return value, gradients


def _kept(head, skip, here):
    """The rows that are not left out, as indices, or None: all; and a mask of rows to be hidden where it would take a wait to list them."""
    if skip is None:
        return None, None
    if not here and not head.rules.validate:
        return None, skip
    if not bool(head.xp.any(skip)):
        return None, None
    return head.xp.nonzero(~skip)[0], None


def _panels(c, size):
    """Ranges of classes of which each takes `size` bytes."""
    step = even(c, max(1, PANEL // max(1, size)))
    return [(a, min(a + step, c)) for a in range(0, c, step)]


def _multiplies(x):
    """Whether a library's matmul takes a matrix as it lies."""
    strides = getattr(x, "strides", None)
    if strides is None or x.ndim < 2:
        return True
    return min(strides) >= x.itemsize and x.itemsize in strides and x.dtype.isnative


def _products(xp):
    """out = a @ b, and out += a @ b or, where it is the first, out = a @ b, by the functions of NumPy or CuPy.

    Of few rows and a long sum OpenBLAS makes the transposed product in 0.8 of the time. The other goes some rows at a time: OpenBLAS
    copies all of a long transposed matrix, here the slopes, before it multiplies.
    """

    def product(a, b, out):
        xp.matmul(a, b, out=out)

    def grow(a, b, out, first):
        if a.shape[0] < a.shape[1]:
            part = xp.matmul(b.T, a.T).T
            out[...] = part if first else out + part
            return
        step = max(64, SUMMAND // (max(*b.shape, 1) * out.dtype.itemsize))
        room: Any = None if first else xp.empty((min(step, a.shape[0]), out.shape[1]), dtype=out.dtype)
        for i in range(0, a.shape[0], step):
            if first:
                xp.matmul(a[i : i + step], b, out=out[i : i + step])
            else:
                part = xp.matmul(a[i : i + step], b, out=room[: a.shape[0] - i])
                out[i : i + step] += part

    def empty(shape, dtype, device):
        return buffers.empty(shape, dtype) if xp is np else xp.empty(shape, dtype=dtype, device=device)

    return Products(product, grow, empty)


def _built(head, needs, upstream, exact):
    """Where arrays are values: the results of chunks are joined."""
    xp, n = head.xp, head.rules.n
    rows = Rows(head)
    weight = xp.astype(head.weight, head.dtype, copy=False)
    values, by_features, by_weight, by_bias = [], [], None, None
    chunk = even(n, head.rules.chunk)
    for start in range(0, max(n, 1), chunk):
        part = slice(start, min(start + chunk, n))
        x, hidden = xp.astype(head.features[part, :], head.dtype, copy=False), None
        if rows.skip is not None:
            hidden = rows.skip[part][:, None]
            x = xp.where(hidden, xp.zeros_like(x), x)
        z = xp.matmul(x, weight.T)
        if head.bias is not None:
            z = z + xp.astype(head.bias, head.dtype, copy=False)
        options = chunk_options(head, rows, part, upstream)
        if not any(needs):
            values.append(called(SoftmaxLoss, rows.labels[part], z, VALUE, None, options))
            continue
        value, g = called(SoftmaxLoss, rows.labels[part], z, BOTH, None, options)
        values.append(value)
        d = xp.matmul(g, weight)
        by_features.append(d if hidden is None else xp.where(hidden, xp.zeros_like(d), d))
        d, e = xp.matmul(g.T, x), xp.sum(g, axis=0)
        by_weight, by_bias = (d, e) if by_weight is None else (by_weight + d, by_bias + e)
    value = xp.concat(values) if head.rules.reduction == "none" else sum(values[1:], values[0])
    if not any(needs):
        return value, (None, None, None)
    gradients = [xp.concat(by_features), by_weight, by_bias]
    if not exact:
        like = (head.features, head.weight, head.bias)
        gradients = [g if x is None else xp.astype(g, x.dtype, copy=False) for g, x in zip(gradients, like, strict=True)]
    return value, gradients
