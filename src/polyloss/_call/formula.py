"""The route that takes every plan, on every array library: the block's formulas on canonical arrays, then weights and sums."""

import dataclasses
import operator
from functools import partial
from typing import NamedTuple

import numpy as np

from polyloss._core import reduce as _reduce
from polyloss._core.block import capped, log_softmax, nan_where
from polyloss._core.devices import beside
from polyloss._core.labels import one_hot, sort_labels
from polyloss._core.params import absent


class Outcome(NamedTuple):
    """What a route gives back; what was not asked for is None."""

    losses: object = None  # (n, s): weighted losses, 0 where skipped
    total: object = None  # their sum
    divisor: object = None  # what "count" or "weights" stood for in the plan
    gradient: object = None  # (n, c, s): of the reduced loss
    hessian: object = None  # (n, c, s): the diagonal
    prob: object = None  # (n, c, s)
    bad: object = None  # (n, s): where a label is neither a class nor ignored
    first_bad: int = -1  # flat index of the first one, if the route knows it already
    value: object = None  # total over divisor, in the dtype of the computation, if the route has it already


def either(a, b):
    """Where one of two masks holds; None if both are None."""
    return b if a is None else a if b is None else a | b


def beside_classes(of_positions, x):
    """Numbers of positions (n, s) as they go with x, (n, s) or (n, c, s)."""
    return of_positions if of_positions.ndim == x.ndim else of_positions[:, None, :]


def hide(xp, x, zero):
    """x, but 0 where it is infinite or NaN and has a factor of 0. A finite x stays: it is the derivative with respect to that factor."""
    return x if zero is None else xp.where(beside_classes(zero, x) & ~xp.isfinite(x), xp.zeros_like(x), x)


def run(plan, arrays, hide=hide):
    """Values, slopes and curvatures by the formulas. `hide` may be one that hides what autograd hands down, too."""
    arrays = arrays._replace(t=plan.layout.flat(arrays.xp, arrays.t), p=plan.layout.flat(arrays.xp, arrays.p))
    xp, ours = arrays.xp, plan.here and (arrays.xp is np or plan.backend.name == "torch")
    if ours and (plan.layout.s > 1 or not (_lies_beside(xp, arrays.t) and _lies_beside(xp, arrays.p))):
        return _by_position(plan, arrays, hide)
    return _quietly(plan, arrays, hide)


def _lies_beside(xp, x):
    """Whether each position's numbers lie beside each other, one position behind the other."""
    return x.flags.c_contiguous if xp is np else x.is_contiguous()


def _by_position(plan, arrays, hide):
    """The formula on arrays in which each position's classes lie beside each other.

    Libraries add the numbers of other layouts in other orders; in this one the bits of a position do not depend on how many there are.
    """
    xp, lay = arrays.xp, plan.layout
    n, c, s = lay.n, lay.c, lay.s
    contiguous = np.ascontiguousarray if xp is np else operator.methodcaller("contiguous")

    def lay_beside(x):
        if x is None or x.ndim == 2:
            return x if x is None else xp.reshape(x, (n * s, 1))
        return xp.reshape(contiguous(xp.moveaxis(x, 1, 2)), (n * s, x.shape[1], 1))  # values have no classes

    def lay_back(x):
        if x is None or x.ndim == 0:
            return x
        return xp.moveaxis(xp.reshape(x, (n, s, c)), 2, 1) if x.ndim == 3 else xp.reshape(x, (n, s))

    t, p, weight = map(lay_beside, (arrays.t, arrays.p, arrays.weight))
    beside = dataclasses.replace(plan, layout=lay._replace(n=n * s, s=1))
    outcome = _quietly(beside, arrays._replace(t=t, p=p, weight=weight), hide)
    return outcome._replace(**{name: lay_back(getattr(outcome, name)) for name in ("losses", "gradient", "hessian", "prob", "bad")})


def _quietly(plan, arrays, hide):
    if plan.backend.name == "torch":  # which has no such warnings, and whose compiler cannot trace the context
        return _run(plan, arrays, hide)
    with np.errstate(all="ignore"):  # NaN and infinities go through in silence, as they do through the kernels
        return _run(plan, arrays, hide)


def _run(plan, arrays, hide):
    """The formulas; nothing here branches on data."""
    xp, block, lay, dtype = arrays.xp, plan.block, plan.layout, plan.real(arrays.xp)
    z = xp.astype(arrays.p, dtype)
    ignored = bad = None
    if plan.labelled:
        labels, ignored, bad = sort_labels(xp, arrays.t, lay.c, plan.ignore)
        t = one_hot(xp, labels, lay.c, dtype)
    else:
        t = xp.astype(arrays.t, dtype, copy=False)
    weight, skip, wild = arrays.weight, ignored, None
    smooth, z_loss = not absent(dict(plan.target_options).get("label_smoothing", 0.0)), not absent(dict(plan.params).get("z_loss", 0.0))
    zero = None if weight is None else weight == 0
    if plan.labelled and arrays.class_weight is not None and not smooth and not z_loss:  # no other class has a part in the loss
        zero = either(zero, xp.sum(t * _reduce.weights_of_classes(plan, arrays, t), axis=1) == 0)
        if weight is not None:  # 0 times the position's weight is 0, even if that is NaN
            weight = hide(xp, weight, zero)
            arrays = arrays._replace(weight=weight)
    if zero is not None:
        finite = xp.isfinite(z) if plan.labelled else xp.isfinite(z) & xp.isfinite(t)
        skip = either(skip, zero & ~xp.all(finite, axis=1))
    # What lies behind a skipped position is replaced, not multiplied by 0: NaN there must reach neither the sum nor a derivative.
    p = z if skip is None else xp.where(skip[:, None, :], xp.full_like(z, 0.5), z)
    if skip is not None and not plan.labelled:
        t = xp.where(skip[:, None, :], xp.ones_like(t), t)

    given, mean = arrays, plan.divisor == "weights"
    if mean:
        classes = arrays.class_weight if z_loss else _reduce.tamed(xp, arrays.class_weight)  # of which z_loss is no multiple
        arrays = arrays._replace(weight=_reduce.tamed(xp, weight), class_weight=classes)
        weight = arrays.weight
    then = None
    if mean and weight is not None:  # one of which taming has left no normal number multiplies as it was given, and taming what comes of it
        lost = (xp.abs(weight) < float(xp.finfo(weight.dtype).smallest_normal)) & (given.weight != 0)
        weight = xp.where(lost, given.weight, weight)
        then = xp.where(lost, _reduce.taming(xp, given.weight), xp.ones_like(weight))
    params = {key: _of_classes(x, arrays.xp, z) if isinstance(x, tuple) else x for key, x in plan.params}
    weigh = partial(_weighted, weight, then)
    if arrays.class_weight is not None:
        params["class_weight"] = arrays.class_weight[None, :, None] if smooth else _reduce.weights_of_classes(plan, arrays, t)
    unweighted = either(skip, bad)  # the weight of a bad label is in no sum
    whole, divisor = t, _divisor(plan, arrays, t, unweighted if mean else skip)
    target_options = dict(plan.target_options)
    if block.scan_targets is not None:
        target_options["scanned"] = scanned(plan, arrays, t)
    t = block.prepare_targets(xp, t, lay.c, **target_options)
    if hasattr(block, "term"):  # the row-wise schemes of _core.block are shared and are told whose terms to sum
        params["block"] = block
    if zero is not None and (plan.want.value or plan.want.gradient) and (plan.tracked or plan.watched or not plan.has_values):
        # A loss that is infinite or NaN though its arguments are finite: autograd would multiply its derivative by the weight of 0.
        wild = ~xp.isfinite(block.value(xp, t, p, **params))
        wild = (zero & (xp.any(wild, axis=1) if block.combine else wild))[:, None, :]
        t, p = xp.where(wild, xp.ones_like(t), t), xp.where(wild, xp.full_like(p, 0.5), p)

    losses = total = value = gradient = hessian = prob = None
    if plan.want.value:
        losses = block.value(xp, t, p, **params)
        if block.combine:
            losses = _reduce.total(xp, losses, axis=1) / (lay.c if block.combine == "mean" else 1)
            losses = xp.astype(losses, dtype, copy=False)
        losses = losses if wild is None else xp.where(wild[:, 0, :], xp.zeros_like(losses), losses)
        losses = _finish(xp, weigh(hide(xp, losses, zero)), skip, bad)
        total = None if plan.reduction == "none" else _reduce.total(xp, losses)
        if mean:
            value = xp.astype(_reduce.quotient(xp, xp.astype(total, dtype), divisor), dtype)
    if plan.want.gradient:
        slope = block.slope(xp, t, p, **params)
        slope = slope if wild is None else xp.where(wild, xp.zeros_like(slope), slope)
        gradient = _derivative(plan, arrays, slope, partial(hide, xp, zero=zero), weigh, divisor, skip, bad)
    if plan.want.hessian:
        curvature = block.curvature(xp, t, p, **params)
        hessian = _derivative(plan, arrays, curvature, partial(hide, xp, zero=zero), weigh, divisor, skip, bad)
    if plan.want.prob:
        cap = params.get("softcap", 0.0)
        prob = xp.astype(xp.exp(log_softmax(xp, z if absent(cap) else capped(xp, z, cap)[0])[0]), arrays.p.dtype)
    if mean:  # by the weights as they were given, for a backward pass
        divisor = _reduce.total_weight(plan, given, whole, unweighted)
    return Outcome(losses, total, divisor, gradient, hessian, prob, bad, value=value)


def _of_classes(numbers, xp, z):
    """A parameter of each class, beside predictions (n, c, s)."""
    return xp.asarray(numbers, dtype=z.dtype, device=beside(z))[None, :, None]


def times_factors(plan, xp, t):
    """Targets (n, c, s), smoothed and times each class's factor, for kernels that take one factor; the loss is linear in its targets."""
    t = xp.astype(t, plan.real(xp), copy=False)
    t = plan.block.prepare_targets(xp, t, plan.layout.c, label_smoothing=plan.settings["label_smoothing"])
    return t * _of_classes(plan.settings["alpha"], xp, t)


def scanned(plan, arrays, t):
    """What `prepare_targets` must know of all targets at once, if anything. Targets of weight 0 are not looked at."""
    xp, block = arrays.xp, plan.block
    if block.scan_targets is None or arrays.scanned is not None:
        return arrays.scanned
    t = xp.astype(t, plan.real(xp), copy=False)
    seen = t if arrays.weight is None else xp.where((arrays.weight == 0)[:, None, :], xp.ones_like(t), t)
    return block.scan_targets(xp, seen, **dict(plan.target_options))


def _divisor(plan, arrays, t, skip):
    """The divisor as a number or 0-d array; `t` is not smoothed yet."""
    xp = arrays.xp
    divisor = plan.divisor_of(arrays)
    if not isinstance(divisor, str):
        return divisor
    if plan.divisor == "count" and skip is None:  # no label can be an ignored one: their dtype has no such value
        return max(plan.layout.n * plan.layout.s, 1)
    if plan.divisor == "count":
        kept = xp.sum(xp.astype(~skip, plan.real(xp)))
        return xp.maximum(kept, xp.ones_like(kept))
    return xp.astype(_reduce.total_weight(plan, arrays, t, skip), plan.real(xp))


def _weighted(weight, then, x):
    """x times its weight, and then times what tames the weights, where this one was not multiplied by it."""
    for factor in (weight, then):
        x = x if factor is None else x * beside_classes(factor, x)
    return x


def _finish(xp, x, skip, bad):
    if skip is not None:
        x = xp.where(skip, xp.zeros_like(x), x)
    if bad is not None:
        x = x * nan_where(xp, bad, x)
    return x


def _derivative(plan, arrays, x, hide, weigh, divisor, skip, bad):
    """Per-element derivatives -> those of the reduced loss, in the dtype of the predictions."""
    xp = arrays.xp
    if plan.block.combine == "mean":
        x = x / plan.layout.c
    x = hide(_reduce.quotient(xp, weigh(hide(x)), divisor))  # the divisor is NaN where a weight is: one of 0 beside it gives 0 all the same
    x = _finish(xp, x, None if skip is None else skip[:, None, :], None if bad is None else bad[:, None, :])
    return xp.astype(x, arrays.p.dtype)
