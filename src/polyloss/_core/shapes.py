"""Axes and shapes: canonical views (n, c, s), and what is said when a shape does not fit.

Predictions of shape (…a, C, …b) are seen as (n, c, s) with n = Πa and s = Πb; labels, weights and
losses, which lack the class axis, as (n, s).
"""

import math
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np


class Layout(NamedTuple):
    """How predictions of one shape are seen with their classes on one axis.

    Usually the axes before the classes are one axis n, and those behind them s. Any other cut between two axes of positions is as good: the
    losses keep their order.
    """

    shape: tuple  # of the predictions
    axis: int  # counted from the front; -1 if there is none: each element is a sample of its own
    losses: tuple  # shape without the axis
    n: int
    c: int
    s: int
    cut: int  # so many axes of positions make n
    axes: tuple = ()  # those of a set, counted from the front, if they are not `axis` alone
    runs: int = 1  # a set's elements are cut into so many, where no view has them on one axis but one has them on two

    def canonical(self, xp, x, **options):
        """Predictions, or what has their shape, as (n, c, s); of several runs as (n, runs, c / runs, s)."""
        if self.axes:
            order = self._order
            x = x if order == self._in_order else xp.permute_dims(x, order)
        elif self.cut != self.axis:
            x = xp.moveaxis(x, self.axis, self.cut)
        return xp.reshape(x, (self.n, self.c, self.s) if self.runs == 1 else (self.n, self.runs, self.c // self.runs, self.s), **options)

    def flat(self, xp, x):
        """What is canonical, with all elements of a set on one axis."""
        return x if self.runs == 1 or x is None or x.ndim == 2 else xp.reshape(x, (self.n, self.c, self.s))

    @property
    def _order(self):
        """The axes of predictions as they become those of sets: positions of n, elements, positions of s."""
        places = self._places
        return places[: self.cut] + self.axes + places[self.cut :]

    @property
    def _in_order(self):
        return tuple(range(len(self.shape)))

    @property
    def _places(self):
        return tuple(i for i in range(len(self.shape)) if i not in self.axes)

    def views_new(self):
        """Whether a new array in the shape of the predictions is canonical where it lies."""
        steps = [math.prod(self.shape[k + 1 :]) for k in range(len(self.shape))]
        new = np.lib.stride_tricks.as_strided(np.empty(1, np.bool), self.shape, steps)  # no memory, which nobody would read
        try:
            self.canonical(np, new, copy=False)
        except ValueError:
            return False
        return True

    def restored(self, xp, x):
        """What is canonical, flat or not, or (n, s), in the shape of predictions, or losses."""
        if x.ndim == 2:
            return xp.reshape(x, self.losses)
        if self.axes:
            order = self._order
            x = xp.reshape(x, tuple(self.shape[i] for i in order))
            return x if order == self._in_order else xp.permute_dims(x, tuple(map(order.index, self._in_order)))
        if self.cut == self.axis:
            return xp.reshape(x, self.shape)
        return xp.moveaxis(xp.reshape(x, (*self.losses[: self.cut], self.c, *self.losses[self.cut :])), self.cut, self.axis)

    def viewing(self, strides):
        """The layout that sees predictions of these strides where they lie, if there is one: [:, :-1] of (N, L, C) as (N, C, L - 1)."""
        steps = strides if self.axis < 0 else strides[: self.axis] + strides[self.axis + 1 :]
        long = [i for i, length in enumerate(self.losses) if length > 1]
        apart = [(i, j) for i, j in pairwise(long) if steps[i] != steps[j] * self.losses[j]]
        if len(apart) != 1 or apart[0][0] < self.axis <= apart[0][1]:
            return self
        cut = apart[0][1]
        return self._replace(n=math.prod(self.losses[:cut]), s=math.prod(self.losses[cut:]), cut=cut if self.axis >= 0 else -1)

    def viewing_sets(self, strides):
        """As `viewing`, for sets along several axes: (0, 2, 3) of (N, C, H, W) as N runs of H W elements."""
        (elements, places) = (self._breaks(axes, strides) for axes in (self.axes, self._places))
        if len(elements) > 1 or len(places) > 1:
            return self
        lay = self
        if places:
            lay = lay._replace(n=math.prod(self.losses[: places[0]]), s=math.prod(self.losses[places[0] :]), cut=places[0])
        return lay._replace(runs=math.prod(self.shape[i] for i in self.axes[: elements[0]])) if elements else lay

    def _breaks(self, axes, strides):
        """Before which of some axes predictions of these strides are not evenly apart along all of them."""
        long = [k for k, i in enumerate(axes) if self.shape[i] > 1]
        return [k for j, k in pairwise(long) if strides[axes[j]] != strides[axes[k]] * self.shape[axes[k]]]


def layout(shape, axis, name, rowwise):
    """The layout, or an error if `axis` does not exist or holds nothing."""
    try:
        return _layout(shape, axis, name, rowwise)
    except TypeError:  # a length that torch has left open has no hash
        return _layout.__wrapped__(shape, axis, name, rowwise)


@lru_cache(maxsize=1024, typed=True)  # 1.0 and True are not 1
def _layout(shape, axis, name, rowwise):
    if isinstance(axis, tuple) and not axis and not rowwise:
        return Layout(shape, -1, shape, math.prod(shape[:-1]), 1, math.prod(shape[-1:]), -1)
    if isinstance(axis, bool) or not hasattr(axis, "__index__"):
        raise TypeError(f"axis is {axis!r}, but must be an integer")
    ndim, axis = len(shape), axis.__index__()
    if ndim == 0 and not rowwise and axis in (0, -1):  # one number is one sample of one element
        return Layout((), -1, (), 1, 1, 1, -1)
    if not -ndim <= axis < ndim:
        raise ValueError(f"axis is {axis}, but {name} {has(name)} {ndim} {'axis' if ndim == 1 else 'axes'}: its shape is {shape}")
    at = axis % ndim
    before, after = shape[:at], shape[at + 1 :]
    if shape[at] == 0:
        raise ValueError(f"{name} {has(name)} shape {shape}: axis {axis} is empty, and a loss over nothing is undefined")
    return Layout(shape, at, before + after, math.prod(before), shape[at], math.prod(after), at)


def layout_of_sets(shape, axis, name):
    """The layout whose elements lie along one axis, several, or, if `axis` is None, all."""
    if axis is not None and not isinstance(axis, (tuple, list)):
        return layout(shape, axis, name, rowwise=False)
    ndim = len(shape)
    given = range(ndim) if axis is None else axis
    for k, i in enumerate(given):
        if isinstance(i, bool) or not hasattr(i, "__index__"):
            raise TypeError(f"axis[{k}] is {i!r}, but must be an integer")
        if not -ndim <= i.__index__() < ndim:
            raise ValueError(f"axis[{k}] is {i}, but {name} has {ndim} {'axis' if ndim == 1 else 'axes'}: its shape is {shape}")
    axes = tuple(sorted({i.__index__() % ndim for i in given}))
    if axis is not None and (len(axes) != len(axis) or not axes):
        raise ValueError(f"axis is {axis!r}, but must name one axis or several, each once")
    losses = tuple(n for i, n in enumerate(shape) if i not in axes)
    c = math.prod(shape[i] for i in axes)
    if c == 0:
        raise ValueError(f"{name} has shape {shape}: axis {axis} is empty, and a loss over nothing is undefined")
    if len(axes) < 2:
        return layout(shape, axes[0] if axes else -1, name, rowwise=False)
    cut = axes[0] if axes[-1] - axes[0] < len(axes) else len(losses)  # where others are between them the elements come last
    return Layout(shape, axes[0], losses, math.prod(losses[:cut]), c, math.prod(losses[cut:]), cut, axes)


def one_for_each(shape, lay, needed, hint=""):
    """Labels and values lack the axis of the predictions, or have length 1 there, or one length-1 axis at the end.

    `needed` says in the error what has the shape of the losses; `hint` what else would do.
    """
    at = lay.axis
    if shape not in (lay.losses, (*lay.losses[:at], 1, *lay.losses[at:]), (*lay.losses, 1)):
        accepted = f"a length-1 axis at {at} or at the end is accepted"
        raise ValueError(f"y_true has shape {shape}, but {needed} {lay.losses} ({accepted}{hint})")


def known_shape(name, x):
    """The shape; an error if a length is not known yet: NaN where Dask selected by a mask."""
    shape = tuple(x.shape)
    if any(length is None or length != length for length in shape):
        raise ValueError(f"{name} has shape {shape}: all lengths must be known, as compute_chunk_sizes() of a Dask array makes them")
    return shape


def has(name):
    """The verb that goes with an argument."""
    return "have" if name == "logits" else "has"


def same_shape(shape, lay, name):
    """Dense targets have the shape of the predictions; nothing is broadcast."""
    if shape != lay.shape:
        raise ValueError(
            f"y_true has shape {shape}, but {name} {has(name)} shape {lay.shape}: they must be equal, and nothing is broadcast"
        )


def weight_shape(shape, lay):
    """The shape in which a sample weight broadcasts to the losses without enlarging them."""
    losses, given = lay.losses, shape
    if len(shape) == len(losses) + 1:  # one length-1 axis more: at the end, or where the classes were
        if shape[-1] == 1:
            shape = shape[:-1]
        elif shape[lay.axis] == 1:
            shape = shape[: lay.axis] + shape[lay.axis + 1 :]
    if len(shape) <= len(losses) and all(w in (1, l) for w, l in zip(shape, losses, strict=False)):
        return shape + (1,) * (len(losses) - len(shape))
    hint = "; for one loss per entry pass y_true[:, None] and y_pred[:, None]" if not losses and len(given) == 1 else ""
    raise ValueError(
        f"sample_weight has shape {given}, but the losses have shape {losses}: it must have their shape or that of their leading axes"
        f" (axes of length 1 are accepted), and may not enlarge them{hint}"
    )


def place(name, shape, flat):
    """How an entry is named in an error: ``y_true[3, 17]``."""
    index = np.unravel_index(flat, shape) if shape else ()
    return f"{name}[{', '.join(str(int(i)) for i in index)}]" if index else name
