"""Dask: a call block by block, lazily.

A call is checked once, by the facts of its arrays. Then each block is a call of its own, in the
caller's shape: the class axis is in one chunk, labels and weights are cut as the predictions are, and nothing is reshaped. A block's share
of a reduction is three numbers (sum of the losses, sum of the weights, rows), which are added up as a tree. What needs all of the data at
once (a divisor, what a hinge's targets mean) goes to the blocks as a 0-d array. A bad label raises when the graph is computed.
"""

import math
from dataclasses import replace
from functools import partial, wraps
from typing import Any, NamedTuple

import dask
import dask.array as da
import numpy as np
from dask.base import tokenize
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph
from dask.layers import ArraySliceDep

from polyloss._call import routes as _routes
from polyloss._call.formula import scanned
from polyloss._call.plan import GIVEN, VALUE, Want
from polyloss._call.prepare import ARRAYS, denominator_of, known, plan_of, prepare
from polyloss._call.run_plan import evaluate
from polyloss._core.backends import NUMPY, Fact, backend_of, new_enough
from polyloss._core.block import LOSSES
from polyloss._core.dtypes import dtype_name
from polyloss._core.labels import bad_label, sort_labels
from polyloss._core.reduce import total_weight
from polyloss._core.shapes import has, known_shape

new_enough(dask)
AT_ONCE = 32  # blocks whose shares one task adds up
# Indices of axes that the predictions don't have; those that they have are 0, 1, 2, …
SINGLE, CLASSES, SHARES = -1, -2, -3  # of length 1; of class weights; of the three numbers


def called(block, y_true, y_pred, want, out, arguments):
    """Lazy results of a call whose predictions are a Dask array."""
    options = {key: x for key, x in arguments.items() if key not in ARRAYS}
    xp, arrays, facts = known(block, y_true, y_pred, want, out, arguments)

    def planned(length):
        shapes = {key: _of_rows(x.shape, length) for key, x in facts.items() if isinstance(x, Fact)}
        return plan_of(block, want, options, xp, facts | {key: facts[key]._replace(shape=shape) for key, shape in shapes.items()})

    plan = planned(1)
    if plan.masked or plan.layout.axes:
        return _of_sets(plan, block, arrays, want, arguments)
    divisor = plan.divisor
    if divisor == GIVEN:
        divisor = denominator_of(arrays["divisor"])
    elif math.isnan(math.prod(y_pred.shape)):
        if plan.layout.axis == 0:
            known_shape(block.predictions, y_pred)
        if not isinstance(divisor, str) and planned(2).divisor != divisor:
            divisor = PerRow(divisor)
    given = (arrays[key] for key in ("y_true", block.predictions, "sample_weight", "class_weight"))
    return _Graph(plan, divisor, options, *given).results()


def _of_sets(plan, block, arrays, want, arguments):
    """The results where sets lie along several axes, or a mask takes elements out: those of sets along one axis."""
    t, p, mask, lay = arrays["y_true"], arrays[block.predictions], arrays["mask"], plan.layout
    known_shape(block.predictions, p)
    order = (*(k for k in range(p.ndim) if k not in lay.axes), *lay.axes) if lay.axes else None

    def flat(x):
        return x if order is None else x.transpose(order).reshape((*lay.losses, lay.c))

    def restored(x):
        if order is not None:
            x = x.reshape(tuple(p.shape[k] for k in order)).transpose(tuple(map(order.index, range(p.ndim))))
        return x if mask is None else da.where(mask, x, x.dtype.type(0))

    if mask is not None:
        t, p = da.where(mask, t, t.dtype.type(0)), da.where(mask, p, p.dtype.type(0))
    results = called(block, flat(t), flat(p), want, None, {**arguments, "mask": None, "axis": -1 if order else lay.axis})
    several = isinstance(results, tuple)
    results = list(results) if several else [results]
    results = [x if want.value and k == 0 else restored(x) for k, x in enumerate(results)]
    return tuple(results) if several else results[0]


def _of_rows(shape, length):
    """A shape whose number of rows, if it is unknown, is `length`."""
    return tuple(length if k == 0 and math.isnan(n) else n for k, n in enumerate(shape))


class PerRow(float):
    """A divisor: so much for each row, of which there is no saying how many there are."""


def route(plan):
    """The route that the blocks take, and the obstacles of the faster ones: they are taken for arrays in a machine's memory."""
    return _routes.choose(replace(plan, backend=NUMPY, here=True, has_values=True))


# ------------------------------------------------------------------------------------------------------------------- the graph


class _Graph:
    """The graph of one call: a task for each block, and what joins their results."""

    def __init__(self, plan, divisor, options, t, p, weight, class_weight):
        self.plan, self.divisor, at = plan, divisor, plan.layout.axis
        self.p = p.rechunk({at: -1}) if at >= 0 and p.numblocks[at] > 1 else p
        self.axes = tuple(range(p.ndim))
        self.positions = tuple(k for k in self.axes if k != at)
        options = {**options, "return_prob": False} if "return_prob" in options else options  # `want` says it of each task
        extra = None
        bare = plan.labelled or plan.block.targets == "values"  # targets lack the classes' axis
        if bare and t.ndim > len(self.positions):
            extra = self._single(t, at)
        self.recipe = Recipe(plan.loss.name, options, t.shape, bare, plan.layout.c, at, np.dtype(plan.dtype), extra)
        self.operands = [*self._cut("y_true", t, self._without(extra) if bare else self.axes)]
        self.operands += [ArraySliceDep(tuple(self.p.chunks[k] for k in self.positions)), self.positions] if self.positions else [(), None]
        if weight is not None and weight.ndim > len(self.positions):
            self.operands += self._cut("sample_weight", weight, self._without(self._single(weight, at)))
        else:
            self.operands += self._cut("sample_weight", weight, self.positions[: 0 if weight is None else weight.ndim])
        self.operands += [None, None] if class_weight is None else [class_weight.rechunk(-1), (CLASSES,)]
        self.operands += [None, None] if options.get("labels") != "auto" else [self._zero_one(), ()]

    def _single(self, x, at):
        """Where an array has the axis of length 1 that the losses lack: at the end, or in the place of the classes."""
        losses = [self.p.shape[k] for k in self.positions]
        fits = x.shape[-1] == 1 and all(n == m or n == 1 or math.isnan(n) or math.isnan(m) for n, m in zip(x.shape, losses, strict=False))
        return len(losses) if fits else at

    def _without(self, extra):
        """The indices of the losses' axes, with one of length 1 among them."""
        return self.positions if extra is None else (*self.positions[:extra], SINGLE, *self.positions[extra:])

    def _cut(self, name, x, index):
        """An array with the chunks of the predictions, and its index."""
        if x is None:
            return None, None
        chunks = {}
        for k, axis in enumerate(index):
            if axis < 0 or (x.shape[k] == 1 and self.p.shape[axis] != 1) or x.chunks[k] == self.p.chunks[axis]:
                continue
            if not math.isnan(x.shape[k]) and not math.isnan(self.p.shape[axis]):
                chunks[k] = self.p.chunks[axis]
            elif x.numblocks[k] != self.p.numblocks[axis]:
                raise ValueError(
                    f"{name} has {x.numblocks[k]} blocks along axis {k}, but {self.plan.name} {has(self.plan.name)}"
                    f" {self.p.numblocks[axis]}: where lengths are unknown, both must be cut alike"
                )
        return x.rechunk(chunks) if chunks else x, index

    def _blockwise(self, function, index, *more, dtype, ndim=None, **options):
        ndim = len(index) if ndim is None else ndim
        return da.blockwise(
            function, index, *more, dtype=dtype, concatenate=True, align_arrays=False, meta=np.empty((0,) * ndim, dtype), **options
        )

    def _zero_one(self):
        """Whether all targets that count are 0 or 1."""
        cut = dict.fromkeys(self.axes, 1)
        found = self._blockwise(_zero_one_of_block, self.axes, *self.operands, dtype=bool, recipe=self.recipe, adjust_chunks=cut)
        return _joined(found, np.all, _only, None, bool)

    def _shares(self, function, *more):
        """What each block has of the three numbers."""
        return self._blockwise(
            function, (*self.positions, SHARES), *self.operands, *more, dtype=np.float64, recipe=self.recipe, new_axes={SHARES: 3},
            adjust_chunks=dict.fromkeys(self.positions, 1),
        )  # fmt: skip

    def _quotient(self, function, shares, kind):
        """A 0-d array: a function of the sums of the shares and of the divisor."""
        return _joined(shares, np.sum, partial(function, kind=kind), self.divisor, kind)

    def _wholes(self, index, dtype, divisor=1, **want):
        """What each block gives of one of the results."""
        given = (divisor, ()) if isinstance(divisor, da.Array) else (float(divisor), None)
        wanted = Want(**{"value": False, **want})
        return self._blockwise(_whole, index, *self.operands, self.p, self.axes, *given, dtype=dtype, recipe=self.recipe, want=wanted)

    def results(self):
        """What is wanted, as `run_plan.finish` orders it."""
        plan, want, results = self.plan, self.plan.want, []
        dtype, storage = np.dtype(plan.dtype), self.p.dtype if plan.storage == dtype_name(self.p.dtype) else np.dtype(plan.storage)
        if want.value and plan.reduction == "none":
            results.append(self._wholes(self.positions, dtype, value=True))
        elif want.value:
            results.append(self._quotient(_quotient, self._shares(_share, self.p, self.axes), dtype))
        if want.prob:
            prob = self._wholes(self.axes, storage, prob=True)
            results = [(*results, prob)] if results else [prob]
        divisor = self.divisor
        if isinstance(divisor, (str, PerRow)) and (want.gradient or want.hessian):
            divisor = self._quotient(_divided_by, self._shares(_weight_share), np.float64)
        if want.gradient:
            results.append(self._wholes(self.axes, storage, divisor, gradient=True))
        if want.hessian:
            results.append(self._wholes(self.axes, storage, divisor, hessian=True))
        return results[0] if len(results) == 1 else tuple(results)


def _joined(found, reduce, last, divisor, dtype):
    """A 0-d array: a function of an array's blocks, which are reduced as a tree, and of the divisor.

    The function is part of the tree's last task. `da.reduction` and a task of its own behind it take 10 ms more on a cluster, whatever
    the number of blocks: then each block is there twice, as a task and as another name of it.
    """
    parts = list(flatten(found.__dask_keys__()))
    layer: dict[Any, Any] = {}
    token = tokenize(found.name, reduce, last, divisor.name if isinstance(divisor, da.Array) else divisor)
    while len(parts) > AT_ONCE:
        several = [parts[k : k + AT_ONCE] for k in range(0, len(parts), AT_ONCE)]
        parts = [(f"reduced-{token}", len(layer) + k) for k in range(len(several))]
        layer.update((key, (_reduced, reduce, some)) for key, some in zip(parts, several, strict=True))
    name, given = f"joined-{token}", [found]
    if isinstance(divisor, da.Array):
        given, divisor = [found, divisor], (divisor.name,)
    layer[name,] = (_reduced, reduce, parts, last, divisor)
    return da.Array(HighLevelGraph.from_collections(name, layer, given), name, chunks=(), meta=np.empty((), dtype))


# ---------------------------------------------------------------------------------------------------------- in the workers


class Recipe(NamedTuple):
    """What a block must know of the call, apart from its arrays."""

    loss: str
    options: dict[str, Any]  # of the public function
    targets: tuple[float, ...]  # shape of all of them
    bare: bool  # whether targets lack the axis of the classes
    classes: int
    at: int  # which axis of the predictions they are on; -1: predictions are one number
    dtype: np.dtype  # of the computation
    extra: int | None  # where labels have an axis of length 1 that losses lack

    def of(self, t, p, weight, class_weight, want=VALUE, **options):
        """The plan and the arrays of one block."""
        options = {**self.options, **options, "sample_weight": weight, "class_weight": class_weight}
        if self.extra is not None:  # of one position and one class the block would have the shape of dense targets
            t = t.reshape([n for k, n in enumerate(t.shape) if k != self.extra])
        return prepare(LOSSES[self.loss], t, p, want, None, options)[:2]

    def like(self, t):
        """Predictions that hold nothing, for what targets and weights say alone."""
        shape = [n for k, n in enumerate(t.shape) if k != self.extra]
        if self.bare:
            shape.insert(self.at, self.classes)
        xp = backend_of(t).namespace(t)
        return xp.broadcast_to(xp.zeros((), dtype=self.dtype), tuple(shape))


def _silent(task):
    """A task in which NaN and infinities go through in silence: sums of losses may be infinite, and casts of the largest numbers."""

    @wraps(task)
    def silent(*args, **kwargs):
        with np.errstate(all="ignore"):
            return task(*args, **kwargs)

    return silent


@_silent
def _whole(t, where, weight, class_weight, zero_one, p, divisor, *, recipe, want):
    """Losses, derivatives or probabilities of one block."""
    plan, arrays = recipe.of(t, p, weight, class_weight, want, **_meaning(zero_one))
    return _evaluated(plan, arrays, divisor, recipe, where)


@_silent
def _share(t, where, weight, class_weight, zero_one, p, *, recipe):
    """The three numbers of one block."""
    plan, arrays = recipe.of(t, p, weight, class_weight, **_meaning(zero_one))
    losses = _evaluated(plan, arrays, 1.0, recipe, where)
    return _numbers(float(arrays.xp.sum(losses, dtype=arrays.xp.float64)), _weight(plan, arrays), losses.shape, where)


@_silent
def _weight_share(t, where, weight, class_weight, zero_one, *, recipe):
    """The three numbers of one block where its losses are not asked for: from targets and weights alone."""
    plan, arrays = recipe.of(t, recipe.like(t), weight, class_weight, **_meaning(zero_one))
    return _numbers(0.0, _weight(plan, arrays), plan.layout.losses, where)


@_silent
def _zero_one_of_block(t, where, weight, class_weight, *, recipe):
    plan, arrays = recipe.of(t, recipe.like(t), weight, class_weight)
    return np.full((1,) * t.ndim, bool(scanned(plan, arrays, arrays.t)))


@_silent
def _reduced(reduce, parts, last=None, divisor=None):
    """Blocks of one entry for each axis, but for the last, reduced to one; in the end a function of that and the divisor."""
    whole = reduce(np.stack([part.reshape(-1) for part in parts]), axis=0)
    return whole if last is None else last(whole, divisor)


def _only(values, _):
    return np.asarray(values[0])


def _meaning(zero_one):
    """What the targets of a hinge are."""
    return {} if zero_one is None else {"labels": "01" if zero_one else "pm1"}


def _evaluated(plan, arrays, divisor, recipe, where):
    """What is wanted of a block, not reduced, and its derivatives divided."""
    plan = _routes.changed(plan, reduction="none", normalization=None, divisor=GIVEN)
    with _Placed(plan, arrays, recipe, where):
        return evaluate(plan, arrays._replace(divisor=float(divisor)))


def _numbers(total, weight, losses, where):
    rows = 0 if any(place.start for place in where[1:]) else losses[0] if losses else 1
    return np.array([total, weight, rows], np.float64).reshape((1,) * len(losses) + (3,))


def _weight(plan, arrays):
    """What a block adds to the divisor, if that is not known yet: the number of positions not ignored, or the sum of their weights."""
    if not isinstance(plan.divisor, str):
        return 0.0
    xp, w, k = arrays.xp, arrays.weight, arrays.class_weight
    skip = None if w is None else w == 0
    if not plan.labelled:
        return float(total_weight(plan, arrays, arrays.t, skip))
    labels, ignored, bad = sort_labels(xp, arrays.t, plan.layout.c, plan.ignore)
    counted = xp.ones(labels.shape) if k is None else k[labels]
    counted = counted if w is None else counted * w
    for mask in (skip, ignored, bad if plan.divisor == "weights" else None):
        counted = counted if mask is None else xp.where(mask, 0, counted)
    return float(xp.sum(counted, dtype=xp.float64))


def _divided_by(sums, divisor, *, kind):
    """The divisor of all blocks."""
    _, weight, rows = sums
    if isinstance(divisor, str):
        return np.asarray(max(weight, 1.0) if divisor == "count" else weight, kind)
    return np.asarray(max(rows * divisor, 1.0) if isinstance(divisor, PerRow) else divisor, kind)


def _quotient(sums, divisor, *, kind):
    """The loss of all blocks."""
    whole = _divided_by(sums, divisor, kind=np.float64)
    return np.asarray(sums[0] / whole if whole else 0.0).astype(kind)


class _Placed:
    """Errors of labels in this block name the place in the whole array."""

    def __init__(self, plan, arrays, recipe, where):
        self.plan, self.arrays, self.recipe, self.where = plan, arrays, recipe, where

    def __enter__(self):
        pass

    def __exit__(self, kind, error, traceback):
        plan, arrays, recipe = self.plan, self.arrays, self.recipe
        if not isinstance(error, (TypeError, ValueError)) or not plan.labelled:
            return
        bad = sort_labels(arrays.xp, arrays.t, plan.layout.c, plan.ignore)[2].reshape(-1)
        if not bool(bad.any()):
            return
        at = int(bad.argmax())
        value = arrays.t.reshape(-1)[at].item()
        if math.isnan(math.prod(recipe.targets)):  # the place in its block
            raise bad_label(plan, at, value) from None
        index = [int(i) + place.start for i, place in zip(np.unravel_index(at, plan.layout.losses), self.where, strict=True)]
        if recipe.extra is not None:
            index.insert(recipe.extra, 0)
        flat = int(np.ravel_multi_index(index, recipe.targets)) if index else 0
        raise bad_label(replace(plan, label_shape=recipe.targets), flat, value) from None


# -------------------------------------------------------------------------------------------------------------- at once, not lazily


def for_rows(function, p, beside, **options):
    """What a function gives for each block of rows of an array, and for what `beside` says goes with these rows; one task a block."""
    p = p.rechunk({1: -1}) if p.ndim == 2 else p
    stops = np.cumsum(p.chunks[0]).tolist()
    rows = [slice(stop - n, stop) for stop, n in zip(stops, p.chunks[0], strict=True)]
    task = dask.delayed(function, pure=False)
    return dask.compute(*(task(block, *beside(k), **options) for block, k in zip(p.to_delayed().ravel(), rows, strict=True)))


def by_rows(function, y_true, y_pred, sample_weight, axis):
    """What a function of (y_true, y_pred, sample_weight) gives for each block of rows, one task a block; lengths may be unknown."""
    axes = axis if isinstance(axis, (tuple, list)) else (axis,)
    by_row = y_pred.ndim and all(a % y_pred.ndim for a in axes)
    p = y_pred.rechunk(dict.fromkeys(range(1, y_pred.ndim), -1) if by_row else -1)
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
