"""Dask: the road block by block, lazily. The only file that imports dask.

The class axis is brought into one chunk; a block's losses, slopes or weights are then what the same road gives for the arrays in it, and
the sums over blocks stay lazy. What needs all of the data at once (a divisor, the rule for hinge targets) goes to the blocks as a 0-d
array. A bad label raises when the graph is computed.
"""

import math
from dataclasses import replace

import dask
import dask.array as da
import numpy as np

from polyloss import _reduce, _routes
from polyloss._backends import NUMPY, gathered
from polyloss._evaluate import evaluate, finish
from polyloss._formula import Outcome, surveyed
from polyloss._plan import GIVEN, GRADIENT, VALUE, Arrays, Want
from polyloss._shapes import bad_label, dtype_name, sort_labels

PARTS = "ncs"


def call(plan, arrays):
    """Lazy results of a plan whose arrays are Dask arrays."""
    p = arrays.p.rechunk({1: -1})
    chunks = p.chunks
    t = arrays.t.rechunk((chunks[0], chunks[2]) if plan.labelled else {0: chunks[0], 1: -1, 2: chunks[2]})
    weight = None if arrays.weight is None else arrays.weight.rechunk((chunks[0], chunks[2]))
    arrays = arrays._replace(p=p, t=t, weight=weight)
    divisor = _divisor(plan, arrays)
    outcome = {"divisor": divisor}
    if plan.want.value:
        losses = _blocks(plan, arrays, 1, VALUE, plan.dtype)
        outcome |= {"losses": losses, "total": losses.sum(dtype=np.float64)}
    if plan.want.gradient:
        outcome["gradient"] = _blocks(plan, arrays, divisor, GRADIENT, plan.storage)
    if plan.want.hessian:
        outcome["hessian"] = _blocks(plan, arrays, divisor, Want(value=False, gradient=False, hessian=True), plan.storage)
    if plan.want.prob:
        outcome["prob"] = _blocks(plan, arrays, 1, Want(value=False, prob=True), plan.storage)
    return finish(plan, arrays, Outcome(**outcome))


def route(plan):
    """The route that the blocks take, and the obstacles of the faster ones: they are taken for arrays in a machine's memory."""
    return _routes.choose(replace(plan, backend=NUMPY, here=True, concrete=True))


def _blocks(plan, arrays, divisor, want, dtype):
    """One result of every block: (n, s) of losses, else (n, c, s)."""
    survey = surveyed(plan, arrays, arrays.t)
    operands = [arrays.p, PARTS, arrays.t, "ns" if plan.labelled else PARTS, _starts(arrays.p), "ns"]
    for x, axes in ((arrays.weight, "ns"), (arrays.class_weight, "c"), (divisor, ""), (survey, "")):
        lazy = isinstance(x, da.Array)
        operands += [x.rechunk({0: -1}) if lazy and axes == "c" else x, axes if lazy else None]
    part = _routes.changed(plan, want=want, reduction="none", normalization=None, divisor=GIVEN)
    dtype = arrays.p.dtype if dtype == dtype_name(arrays.p.dtype) else np.dtype(dtype)
    return da.blockwise(
        _one_block, "ns" if want.value else PARTS, *operands, plan=part, dtype=dtype, concatenate=True,
        meta=np.empty((0, 0) if want.value else (0, 0, 0), dtype), align_arrays=False,
    )  # fmt: skip


def _starts(p):
    """Where each block begins, as an array of one entry per block: errors name places in the whole array."""
    n, s = (np.cumsum([0, *sizes[:-1]]) for sizes in (p.chunks[0], p.chunks[2]))
    starts = n[:, None] * p.shape[2] + s[None, :]
    return da.from_array(starts, chunks=(1, 1))


def _one_block(p, t, start, weight, class_weight, divisor, survey, *, plan):
    """What a plan of all blocks gives for the arrays of one."""
    n, c, s = p.shape
    backend, xp, _ = gathered({plan.name: p})
    if plan.labelled and plan.validate:
        _, _, bad = sort_labels(xp, t, c, plan.ignore)
        if bool(xp.any(bad)):
            at = divmod(int(xp.argmax(xp.astype(xp.reshape(bad, (-1,)), xp.int8))), s)
            raise bad_label(plan, int(start.ravel()[0]) + at[0] * plan.layout.s + at[1], t[at].item())
    lay = plan.layout._replace(shape=p.shape, axis=1, losses=(n, s), n=n, c=c, s=s, cut=1)
    fact = backend.fact(p)
    part = _routes.changed(plan, layout=lay, backend=backend, device=fact.device, cuda=fact.cuda, here=fact.here, concrete=True)
    return evaluate(part, Arrays(xp, t, p, weight, class_weight, float(divisor), survey=survey))


def _divisor(plan, arrays):
    """What the sum is divided by: a number, or a lazy 0-d array."""
    divisor, xp, t = plan.divisor_of(arrays), arrays.xp, arrays.t
    if not isinstance(divisor, str):
        return divisor
    skip, real = None if arrays.weight is None else arrays.weight == 0, plan.real(np)
    if not plan.labelled:
        return _reduce.total_weight(plan, arrays, t, skip)
    labels, ignored, _ = sort_labels(xp, t, plan.layout.c, plan.ignore)
    counted = da.ones_like(labels, dtype=real) if ignored is None else (~ignored).astype(real)
    if arrays.class_weight is not None:
        counted = counted * da.map_blocks(_pick, arrays.class_weight.rechunk(-1), labels, dtype=real, meta=np.empty((0, 0), real))
    if skip is not None:
        counted = da.where(skip, 0, counted * arrays.weight)
    total = counted.sum(dtype=np.float64)
    return da.maximum(total, 1.0) if divisor == "count" else total


def _pick(class_weight, labels):
    return class_weight[labels]


def by_rows(function, y_true, y_pred, sample_weight, axis):
    """What a function of (y_true, y_pred, sample_weight) gives for each block of rows, one task a block; lengths may be unknown."""
    p = y_pred.rechunk(dict.fromkeys(range(1, y_pred.ndim), -1) if y_pred.ndim and axis % y_pred.ndim else -1)
    parts = [_rows("y_true", y_true, p), list(p.to_delayed().ravel()), _rows("sample_weight", sample_weight, p)]
    return dask.compute(*(dask.delayed(function, pure=False)(*part) for part in zip(*parts, strict=True)))


def _rows(name, x, p):
    """The parts of another array, NumPy's or Dask's, that go with the blocks of rows of the predictions."""
    blocks = math.prod(p.numblocks)
    if x is None or p.ndim == 0:
        return [x] * blocks
    if not isinstance(x, da.Array):
        x = da.from_array(x, chunks=x.shape)
    if x.ndim == 0 or (x.shape[0] == 1 and p.shape[0] != 1):
        return [x.compute()] * blocks
    if any(map(math.isnan, (x.shape[0], p.shape[0]))):
        x = x.rechunk(dict.fromkeys(range(1, x.ndim), -1))
        if x.numblocks[0] != blocks:
            raise ValueError(
                f"{name} has {x.numblocks[0]} blocks of rows, but the predictions have {blocks}: where lengths are unknown, both must be"
                " cut alike"
            )
    elif x.shape[0] != p.shape[0]:
        raise ValueError(f"{name} has shape {x.shape}, but the predictions have shape {p.shape}: their first axes must be equal")
    else:
        x = x.rechunk({0: p.chunks[0], **dict.fromkeys(range(1, x.ndim), -1)})
    return list(x.to_delayed().ravel())
