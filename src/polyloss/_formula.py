"""The route that every array library can take: a block's formulas, over canonical arrays."""

from typing import NamedTuple

import numpy as np

from polyloss import _reduce
from polyloss._block import log_softmax
from polyloss._shapes import one_hot, sort_labels


class Outcome(NamedTuple):
    """What a route gives back; what was not asked for is None."""

    losses: object = None  # (n, s): weighted losses, 0 where skipped
    total: object = None  # their sum
    divisor: object = None  # what "count" or "weights" stood for in the job
    gradient: object = None  # (n, c, s): of the reduced loss
    hessian: object = None  # (n, c, s): the diagonal
    prob: object = None  # (n, c, s)
    bad: object = None  # (n, s): where a label is neither a class nor ignored
    first_bad: int = -1  # flat index of the first one, if the route knows it already
    value: object = None  # total over divisor, in the dtype of the computation, if the route has it already


def run(job):
    """Values, slopes and curvatures by the formulas."""
    if job.backend.name == "torch":  # which has no such warnings, and whose compiler cannot trace the context
        return _run(job)
    with np.errstate(all="ignore"):  # NaN and infinities go through in silence, as they do through the kernels
        return _run(job)


def _run(job):
    """The formulas; nothing here branches on data."""
    xp, block, lay = job.xp, job.block, job.layout
    z = xp.astype(job.p, job.dtype)
    ignored = bad = None
    if job.labelled:
        labels, ignored, bad = sort_labels(xp, job.t, lay.c, job.ignore)
        t = one_hot(xp, labels, lay.c, job.dtype)
    else:
        t = xp.astype(job.t, job.dtype, copy=False)
    weight, skip, zero = job.weight, ignored, None
    if weight is not None:  # where a weight is 0 the loss is still known, for the derivative by that weight, unless it is not finite
        zero = weight == 0
        finite = xp.isfinite(z) if job.labelled else xp.isfinite(z) & xp.isfinite(t)
        hidden = zero & ~xp.all(finite, axis=1)
        skip = hidden if skip is None else skip | hidden
    # What lies behind a skipped position is replaced, not multiplied by 0: NaN there must reach neither the sum nor a derivative.
    p = z if skip is None else xp.where(skip[:, None, :], xp.full_like(z, 0.5), z)
    if skip is not None and not job.labelled:
        t = xp.where(skip[:, None, :], xp.ones_like(t), t)

    params = dict(job.params)
    scale = 1.0 if weight is None else weight
    if job.class_weight is not None:
        params["class_weight"] = job.class_weight[None, :, None]
    divisor = _divisor(job, t, skip)
    t = block.targeted(xp, t, lay.c, **surveyed(job, t))
    if hasattr(block, "term"):  # the row-wise schemes of _block are shared and are told whose terms to sum
        params["block"] = block

    losses = total = gradient = hessian = prob = None
    if job.want.value:
        losses = block.value(xp, t, p, **params)
        if block.combine:
            losses = xp.sum(losses, axis=1) / (lay.c if block.combine == "mean" else 1)
        losses = _finish(xp, _hidden(xp, losses, zero) * scale, skip, bad)
        total = None if job.reduction == "none" else _reduce.total(xp, losses)
    if job.want.gradient:
        gradient = _derivative(job, block.slope(xp, t, p, **params), zero, scale, divisor, skip, bad)
    if job.want.hessian:
        hessian = _derivative(job, block.curvature(xp, t, p, **params), zero, scale, divisor, skip, bad)
    if job.want.prob:
        prob = xp.astype(xp.exp(log_softmax(xp, z)[0]), job.p.dtype)
    return Outcome(losses, total, divisor, gradient, hessian, prob, bad)


def surveyed(job, t):
    """The parameters of `targeted`, with what it must know of all targets at once; those of weight 0 have no say."""
    xp, block = job.xp, job.block
    if block.survey is None or "survey" in job.targeting:
        return job.targeting
    seen = t if job.weight is None else xp.where((job.weight == 0)[:, None, :], xp.ones_like(t), t)
    return {**job.targeting, "survey": block.survey(xp, seen, **job.targeting)}


def _divisor(job, t, skip):
    """The divisor as a number or 0-d array; `t` is not smoothed yet."""
    xp = job.xp
    if not isinstance(job.divisor, str):
        return job.divisor
    if job.divisor == "count" and skip is None:  # no label can be an ignored one: their dtype has no such value
        return max(job.layout.n * job.layout.s, 1)
    if job.divisor == "count":
        kept = xp.sum(xp.astype(~skip, job.dtype))
        return xp.clip(kept, 1.0, None)
    return xp.astype(_reduce.total_weight(job, t, skip), job.dtype)


def _hidden(xp, x, zero):
    """x, and 0 where a weight of 0 hides what is not finite. The rest stays, for derivatives by that weight."""
    return x if zero is None else xp.where(zero & ~xp.isfinite(x), xp.zeros_like(x), x)


def _finish(xp, x, skip, bad):
    if skip is not None:
        x = xp.where(skip, xp.zeros_like(x), x)
    if bad is not None:
        x = x * xp.where(bad, xp.full_like(x, float("nan")), xp.ones_like(x))  # a factor, so that autograd's derivative is NaN, too
    return x


def _derivative(job, x, zero, scale, divisor, skip, bad):
    """Per-element derivatives -> those of the reduced loss, in the dtype of the predictions."""
    xp = job.xp
    if job.block.combine == "mean":
        x = x / job.layout.c
    if zero is not None:
        x = _hidden(xp, x, zero[:, None, :]) * scale[:, None, :]
    x = _reduce.quotient(xp, x, divisor)
    x = _finish(xp, x, None if skip is None else skip[:, None, :], None if bad is None else bad[:, None, :])
    return xp.astype(x, job.gradient_dtype)
