"""Axes, dtypes and labels: canonical views (n, c, s), and what is said when something does not fit.

Predictions of shape (…a, C, …b) are seen as (n, c, s) with n = Πa and s = Πb; labels, weights and
losses, which lack the class axis, as (n, s).
"""

import math
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from array_api_compat import device, is_jax_array

# Every dtype that is taken: name -> dtype of the computation, or the kind of an integer.
FLOATS = {"float16": "float32", "bfloat16": "float32", "float32": "float32", "float64": "float64"}
INTEGERS = {f"{sign}int{bits}": (sign == "u", bits) for sign in ("", "u") for bits in (8, 16, 32, 64)}


def beside(x):
    """The device to make an array on that is used beside x. JAX places it by itself: x may be spread over a mesh of devices."""
    return None if is_jax_array(x) else device(x)


@lru_cache(maxsize=256, typed=True)  # typed: array-api-strict's dtypes hash as NumPy's and warn when compared with them
def dtype_name(dtype):
    """The name that all libraries share: "float32", "int64", "bool", "bfloat16"; others as they print."""
    name = getattr(dtype, "name", None) or getattr(dtype, "__name__", None) or str(dtype).rpartition(".")[2]
    return name


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

    def canonical(self, xp, x, **options):
        """Predictions, or what has their shape, as (n, c, s)."""
        if self._apart:
            x = xp.permute_dims(x, self._places + self.axes)
        elif self.cut != self.axis:
            x = xp.moveaxis(x, self.axis, self.cut)
        return xp.reshape(x, (self.n, self.c, self.s), **options)

    @property
    def _apart(self):
        """Whether the axes of a set have others between them, so that no view has them as one."""
        return bool(self.axes) and self.axes[-1] - self.axes[0] >= len(self.axes)

    @property
    def _places(self):
        return tuple(i for i in range(len(self.shape)) if i not in self.axes)

    def restored(self, xp, x):
        """What is (n, c, s), or (n, s), in the shape of predictions, or losses."""
        if x.ndim == 2:
            return xp.reshape(x, self.losses)
        if self._apart:
            order = self._places + self.axes
            x = xp.reshape(x, tuple(self.shape[i] for i in order))
            return xp.permute_dims(x, tuple(order.index(i) for i in range(len(order))))
        if self.axes or self.cut == self.axis:
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
    lay = Layout(shape, axes[0], losses, math.prod(losses), c, 1, axes[0], axes)
    return lay if lay._apart else lay._replace(n=math.prod(shape[: axes[0]]), s=math.prod(shape[axes[-1] + 1 :]))


def value_shape(shape, lay, name):
    """Values lack the axis, or have length 1 there, or one length-1 axis at the end."""
    at = lay.axis
    if shape in (lay.losses, (*lay.losses[:at], 1, *lay.losses[at:]), (*lay.losses, 1)):
        return
    raise ValueError(
        f"y_true has shape {shape}, but one target for each position of {name} of shape {lay.shape} makes {lay.losses}"
        f" (a length-1 axis at {at} or at the end is accepted)"
    )


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


def label_shape(shape, lay, name, soft):
    """Labels lack the class axis, or have length 1 there, or one length-1 axis at the end."""
    at = lay.axis
    if shape in (lay.losses, (*lay.losses[:at], 1, *lay.losses[at:]), (*lay.losses, 1)):
        return
    raise ValueError(
        f"y_true has shape {shape}, but labels for {name} of shape {lay.shape} with classes on axis {at} have shape {lay.losses}"
        f" (a length-1 axis at {at} or at the end is accepted{'; soft targets are floats' if soft else ''})"
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


def bad_label(plan, flat, value):
    """The error for the first label that is neither a class nor ignored."""
    where = place("y_true", plan.label_shape, flat)
    if isinstance(value, float) and not value.is_integer():
        return TypeError(f"{where} is {value!r}, but labels must be whole numbers")
    ignored = ""
    if plan.loss.ignores:
        values = plan.ignore[0] if len(plan.ignore) == 1 else plan.ignore or None
        ignored = f" and {plan.loss.ignores} is {values}"
    noun = "class" if plan.layout.c == 1 else "classes"
    return ValueError(f"{where} is {int(value)}, but {plan.name} {has(plan.name)} {plan.layout.c} {noun} on axis {plan.axis}{ignored}")


def representable(dtype, value):
    """Whether an integer is a value of a label dtype: ``uint8`` has no -1, ``float32`` no 2**24 + 1."""
    name = dtype_name(dtype)
    if name in FLOATS:
        bits = {"float16": 11, "bfloat16": 8, "float32": 24, "float64": 53}[name]
        odd = abs(value) // (abs(value) & -abs(value)) if value else 0
        return odd.bit_length() <= bits and abs(value) < 2 ** (16 if name == "float16" else 127)
    unsigned, bits = INTEGERS[name]
    return 0 <= value < 2**bits if unsigned else -(2 ** (bits - 1)) <= value < 2 ** (bits - 1)


def sort_labels(xp, y, c, ignore):
    """Labels (n, s) of any integer or floating dtype -> (indices in 0..c-1, ignored, bad): masks (n, s); `ignored` None if nothing is.

    Values are compared in the labels' own dtype and only with numbers that it has, so that nothing wraps: as mathematical integers.
    """
    name = dtype_name(y.dtype)
    kind, wrap = y.dtype, 0
    if name in ("uint16", "uint32", "uint64") and xp.__name__.endswith("torch"):  # torch has these dtypes, but compares none of them
        y, wrap = xp.astype(y, xp.int64), 2**64 if name == "uint64" else 0
    ignored = None
    for value in ignore:
        if representable(kind, value):
            large = value >= 2**63  # no Python number for JAX, no number at all for torch
            same = y == (value if not large else value - wrap if wrap else xp.asarray(value, dtype=kind, device=beside(y)))
            ignored = same if ignored is None else ignored | same
    bad = xp.zeros_like(y, dtype=xp.bool)
    if name in FLOATS:
        bad = (y < 0) | (y >= c) | (y != xp.floor(y))
    else:
        unsigned, _ = INTEGERS[name]
        if not unsigned or wrap:
            bad = y < 0
        if representable(kind, c):
            bad = bad | (y >= c)
    if ignored is not None:
        bad = bad & ~ignored
    skip = bad if ignored is None else bad | ignored
    return xp.astype(xp.where(skip, xp.zeros_like(y), y), xp.int32 if c < 2**31 else xp.int64), ignored, bad


def one_hot(xp, labels, c, dtype):
    """(n, s) -> (n, c, s); by comparison with a range, since Dask and others cannot scatter."""
    classes = xp.arange(c, dtype=labels.dtype, device=beside(labels))
    return xp.astype(labels[:, None, :] == classes[None, :, None], dtype)
