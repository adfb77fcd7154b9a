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

from polyloss import _formula, _job, _reduce, _routes
from polyloss._backends import NUMPY, gathered
from polyloss._shapes import bad_label, sort_labels

PARTS = "ncs"


def call(job):
    """Lazy results of a job whose arrays are Dask arrays."""
    p = job.p.rechunk({1: -1})
    chunks = p.chunks
    t = job.t.rechunk((chunks[0], chunks[2]) if job.labelled else {0: chunks[0], 1: -1, 2: chunks[2]})
    weight = None if job.weight is None else job.weight.rechunk((chunks[0], chunks[2]))
    divisor = _divisor(job, t)
    outcome = {"divisor": divisor}
    if job.want.value:
        losses = _blocks(job, p, t, weight, 1, _job.VALUE, job.dtype)
        outcome |= {"losses": losses, "total": losses.sum(dtype=np.float64)}
    if job.want.gradient:
        want = _job.Want(value=False, gradient=True)
        outcome["gradient"] = _blocks(job, p, t, weight, divisor, want, job.gradient_dtype)
    if job.want.hessian:
        want = _job.Want(value=False, gradient=False, hessian=True)
        outcome["hessian"] = _blocks(job, p, t, weight, divisor, want, job.gradient_dtype)
    if job.want.prob:
        want = _job.Want(value=False, prob=True)
        outcome["prob"] = _blocks(job, p, t, weight, 1, want, p.dtype)
    return _job.finish(job, _formula.Outcome(**outcome))


def route(job):
    """The route that the blocks take, and the obstacles of the faster ones: decided by dtypes, so arrays of any values will do."""
    like = {name: getattr(job, name) for name in ("p", "t", "weight", "class_weight")}
    like = {name: None if x is None else np.broadcast_to(np.zeros((), x.dtype), x.shape) for name, x in like.items()}
    return _routes.choose(replace(job, backend=NUMPY, **like))


def _blocks(job, p, t, weight, divisor, want, dtype):
    """One result of every block: (n, s) of losses, else (n, c, s)."""
    survey = _formula.surveyed(replace(job, weight=weight), t).get("survey")
    arguments = [p, PARTS, t, "ns" if job.labelled else PARTS, _starts(p), "ns"]
    for x, axes in ((weight, "ns"), (job.class_weight, "c"), (divisor, ""), (survey, "")):
        lazy = isinstance(x, da.Array)
        arguments += [x.rechunk({0: -1}) if lazy and axes == "c" else x, axes if lazy else None]
    return da.blockwise(
        _one_block, "ns" if want.value else PARTS, *arguments, job=_Recipe(job), want=want, dtype=dtype, concatenate=True,
        meta=np.empty((0, 0) if want.value else (0, 0, 0), dtype), align_arrays=False,
    )  # fmt: skip


def _starts(p):
    """Where each block begins, as an array of one entry per block: errors name places in the whole array."""
    n, s = (np.cumsum([0, *sizes[:-1]]) for sizes in (p.chunks[0], p.chunks[2]))
    starts = n[:, None] * p.shape[2] + s[None, :]
    return da.from_array(starts, chunks=(1, 1))


class _Recipe:
    """What a job says apart from its arrays; travels to the workers."""

    def __init__(self, job):
        self.fields = {
            key: getattr(job, key)
            for key in (
                "loss",
                "block",
                "name",
                "axis",
                "label_shape",
                "dtype",
                "gradient_dtype",
                "params",
                "ignore",
                "validate",
                "labelled",
            )
        }
        self.layout, self.targeting = job.layout, job.targeting

    def __dask_tokenize__(self):
        from dask.base import normalize_token

        return normalize_token((sorted((k, str(v)) for k, v in self.fields.items()), self.layout, sorted(self.targeting.items())))


def _one_block(p, t, start, weight, class_weight, divisor, survey, *, job, want):
    """The road for the arrays of one block."""
    n, c, s = p.shape
    backend, xp, device, _ = gathered({job.fields["name"]: p})
    lay = job.layout._replace(shape=p.shape, axis=1, losses=(n, s), n=n, c=c, s=s, cut=1)
    targeting = dict(job.targeting) if survey is None else {**job.targeting, "survey": survey}
    part = _job.Job(
        **job.fields, xp=xp, backend=backend, device=device, layout=lay, p=p, t=t, targeting=targeting, weight=weight,
        class_weight=class_weight, reduction="none", normalization=None, denominator=None, want=want, out=(None, None),
        divisor=divisor if isinstance(divisor, (int, float)) else float(divisor),
    )  # fmt: skip
    if part.labelled and part.validate:
        _, _, bad = sort_labels(xp, t, c, part.ignore)
        if bool(xp.any(bad)):
            at = divmod(int(xp.argmax(xp.astype(xp.reshape(bad, (-1,)), xp.int8))), s)
            part.layout = job.layout
            raise bad_label(part, int(start.ravel()[0]) + at[0] * job.layout.s + at[1], t[at].item())
    return _job.evaluate(part)


def _divisor(job, t):
    """What the sum is divided by: a number, or a lazy 0-d array."""
    if not isinstance(job.divisor, str):
        return job.divisor
    skip = None if job.weight is None else job.weight == 0
    if not job.labelled:
        return _reduce.total_weight(job, t, skip)
    labels, ignored, _ = sort_labels(job.xp, t, job.layout.c, job.ignore)
    counted = da.ones_like(labels, dtype=job.dtype) if ignored is None else (~ignored).astype(job.dtype)
    if job.class_weight is not None:
        counted = counted * da.map_blocks(_pick, job.class_weight.rechunk(-1), labels, dtype=job.dtype, meta=np.empty((0, 0), job.dtype))
    if skip is not None:
        counted = da.where(skip, 0, counted * job.weight)
    total = counted.sum(dtype=np.float64)
    return da.maximum(total, 1.0) if job.divisor == "count" else total


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
