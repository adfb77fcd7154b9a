"""Labels of any kind as class numbers: strings, integers, booleans, columns, indicator matrices, of any array library.

Only metrics need it: losses take integers that are class numbers already. Classes are numbered in their sorted order, as scikit-learn does.
"""

from numbers import Number
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import device as device_of, to_device

from polyloss._core.backends import backend_of, convertible, what
from polyloss._core.dtypes import FLOATS, INTEGERS, dtype_name
from polyloss._core.shapes import place


class Column(NamedTuple):
    """One label per sample."""

    values: Any  # (n,) integers
    names: Any = None  # what they stand for, if not for themselves: names[value]


class Indicator(NamedTuple):
    """A matrix of labels: sample i counts values[i, c] times as class c."""

    values: Any  # (n, c) integers
    least: int  # of them
    most: int


class Marks(NamedTuple):
    """Which probabilities count: those of sample rows[k] and class classes[k], times[k] times."""

    classes: Any  # (k,) class numbers
    rows: Any = None  # (k,) ascending; None: 0, 1, … n - 1
    times: Any = None  # (k,); None: once

    def between(self, start, stop):
        """The marks of some rows, counted from the first of them; of NumPy arrays."""
        if self.rows is None:
            return Marks(self.classes[start:stop])
        part = slice(*np.searchsorted(self.rows, (start, stop)))
        return Marks(self.classes[part], self.rows[part] - start, self.times[part])


# ------------------------------------------------------------------------------------------------------------------- reading


def read(name, y, like):
    """Labels as a `Column` or an `Indicator`: of NumPy arrays, or of arrays that lie beside `like` already."""
    kind = backend_of(y, name)
    if kind in ("pandas", "polars"):
        return _of_frame(name, y)
    if kind == "plain":
        return _of_list(name, y)
    if not beside(y, like):
        return _of_array(name, np, host(y))
    xp = kind.namespace(y)
    unsorted = kind.name == "torch" and dtype_name(y.dtype) in ("uint16", "uint32", "uint64")  # torch sorts none of these
    if unsorted or not xp.__array_namespace_info__().capabilities()["data-dependent shapes"]:  # which classes there are is not known before
        return _of_array(name, np, host(y))
    return _of_array(name, xp, y)


def beside(x, like):
    """Whether an array is of the library and on the device of another that is not NumPy's; Dask's count as nowhere yet."""
    name = backend_of(x).name
    return name not in ("numpy", "dask") and name == backend_of(like).name and device_of(x) == device_of(like)


def sequence(name, x):
    """A list, or what makes a NumPy array of itself, as what NumPy takes; anything else is refused."""
    if not isinstance(x, (list, tuple, range)) and not convertible(x):
        raise TypeError(f"{name} is {what(x)}, but must be an array, a list or a column")
    return x if isinstance(x, (list, tuple, range)) or hasattr(x, "__array__") else np.from_dlpack(x)


def host(x):
    """An array of any library as a NumPy array; bfloat16 as float32."""
    backend = backend_of(x)
    if backend.name == "dask":
        return host(x.compute())
    if dtype_name(x.dtype) == "bfloat16":
        xp = backend.namespace(x)
        x = xp.astype(x, xp.float32)
    view = None if backend.as_numpy is None else backend.as_numpy(x)
    if view is not None:
        return view
    if backend.name in ("torch", "cupy"):
        return np.asarray(to_device(x, "cpu"))
    try:
        return np.asarray(x)
    except RuntimeError:  # array-api-strict, whose other devices lie in this machine's memory too
        return np.from_dlpack(x)


def _of_frame(name, y):
    """A column or table of pandas or polars. Categories of pandas are not spelled out, unless one is missing."""
    if str(getattr(y, "dtype", "")) == "category":  # a series of pandas, or the bare categorical
        accessor = getattr(y, "cat", y)
        codes = np.asarray(accessor.codes)
        if codes.min(initial=0) >= 0:
            return Column(codes, np.asarray(accessor.categories))
    return _of_array(name, np, np.asarray(y))


def _of_list(name, y):
    y = sequence(name, y)
    if isinstance(y, (list, tuple)) and y and isinstance(y[0], str):
        return _of_strings(name, y)  # an array of strings would cost more than their classes
    try:
        array = np.asarray(y)
    except ValueError as error:
        raise ValueError(f"{name} cannot be read as an array: {error}") from None
    if array.dtype.kind == "U" and array.ndim == 1:  # numbers among the strings, which NumPy spelled out
        return _of_strings(name, y)
    return _of_array(name, np, array)


def _of_array(name, xp, y):
    """An array of the namespace `xp`: a column, or a matrix with two or more columns."""
    shape = tuple(y.shape)
    if not shape:
        raise TypeError(f"{name} is a single value, but must have one label per sample")
    if len(shape) > 2:
        raise ValueError(f"{name} has shape {shape}, but labels have one axis, or two as an indicator matrix")
    single = len(shape) == 1 or shape[1] == 1
    kind = y.dtype.kind if xp is np else ""
    if kind == "S":
        raise TypeError(f"{name} has dtype {y.dtype}, but labels cannot be bytes: decode them to strings")
    if kind in ("U", "O", "T") and single:
        return _of_strings(name, y.reshape(-1).tolist(), mixed=TypeError)
    if xp is np and not (y.dtype.isnative and y.flags.aligned):
        y = y.astype(y.dtype.newbyteorder("="))
    number = dtype_name(y.dtype)
    if number == "bool":
        y = xp.astype(y, xp.uint8)
    elif number in FLOATS:
        with np.errstate(invalid="ignore"):  # what no int64 is comes back as another number
            whole = xp.astype(y, xp.int64)
        refuse(xp, xp.astype(whole, y.dtype) != y, y, name, "labels must be whole numbers or strings")
        y = whole
    elif number not in INTEGERS:
        raise ValueError(f"{name} has shape {shape} and dtype {y.dtype}, but labels are whole numbers, or one string per sample")
    if single:
        return Column(y if len(shape) == 1 else y[:, 0])
    if 0 in shape:
        return Indicator(y, 0, 0)
    least, most = int(xp.min(y)), int(xp.max(y))
    if most - least > 1:
        bad = (y != least) & (y != most)
        refuse(xp, bad, y, name, "labels with two axes are an indicator matrix, which has at most two values")
    return Indicator(y, least, most)


def _of_strings(name, y, mixed=ValueError):
    """A sequence of strings. Through a set and a dictionary: for a list in a quarter of the time of `np.unique`, which sorts."""
    try:
        present = set(y)
    except TypeError:
        raise ValueError(f"{name} is nested, but strings must be one per sample") from None
    odd = [v for v in present if not isinstance(v, str)]
    if odd:
        at = next(i for i, v in enumerate(y) if not isinstance(v, str))
        error = ValueError if at == 0 else mixed if isinstance(y[at], Number) else TypeError  # as scikit-learn
        raise error(f"{name}[{at}] is {y[at]!r}, but labels must be strings or whole numbers, and not both")
    names = sorted(present)
    number = {v: i for i, v in enumerate(names)}
    return Column(np.fromiter(map(number.__getitem__, y), np.int64, len(y)), np.asarray(names, object))


def refuse(xp, bad, x, name, rule):
    """The error for the first bad entry of an array, if there is one."""
    if bool(xp.any(bad)):
        at = first(xp, bad)
        value = xp.reshape(x, (-1,))[at]
        value = value.item() if hasattr(value, "item") else float(value)
        raise ValueError(f"{place(name, tuple(x.shape), at)} is {value}, but {rule}")


def first(xp, mask):
    """Where a mask is true first, as a flat index."""
    return int(xp.argmax(xp.astype(xp.reshape(mask, (-1,)), xp.int8)))


# ------------------------------------------------------------------------------------------------------------------ encoding


def classes_of(name, labels):
    """The classes that the caller declares: sorted, as a list; and as they were given."""
    y = read(name, labels, np.empty(0))
    if isinstance(y, Indicator):
        raise ValueError(f"{name} has shape {tuple(y.values.shape)}, but must have one axis")
    given = y.values.tolist() if y.names is None else y.names[y.values].tolist()
    return sorted(set(given)), given


def encode(xp, y, classes=None):
    """A column -> (class numbers, classes sorted); a label that is not among the declared classes is refused."""
    present, slots, index = compact(xp, y.values)
    meant = present.tolist() if y.names is None else y.names[present].tolist()
    if classes is None:
        classes = sorted(meant)
    number = {v: i for i, v in enumerate(classes)}
    table = np.zeros(int(slots[-1]) + 1 if slots.size else 0, np.int64)
    table[slots] = [number.get(v, -1) for v in meant]
    if table.min(initial=0) < 0:
        at = first(xp, xp.asarray(table < 0, device=device_of(index))[index])
        value = meant[int(np.searchsorted(slots, int(index[at])))]
        raise ValueError(f"y_true[{at}] is {value!r}, but labels has no such class: {few(classes)}")
    if np.array_equal(table, np.arange(table.size)):
        return index, classes
    if xp is np:  # a narrow table makes a narrow result
        return table.astype(np.min_scalar_type(-len(classes)))[index], classes
    return xp.asarray(table, device=device_of(index))[index], classes


def compact(xp, values):
    """The integers that occur, ascending; the slot of each; and the slot that each entry is in. The first two are NumPy arrays."""
    if xp is not np or not values.size:
        present, index = xp.unique_inverse(values)
        return host(present), np.arange(present.shape[0]), index
    low, high = int(values.min()), int(values.max())
    if high - low >= max(values.size, 2**16):
        present, index = np.unique(values, return_inverse=True)
        return present, np.arange(present.size), index
    # Differences wrap in the labels' own dtype, and are right as unsigned numbers.
    index = (values - values.dtype.type(low)).view(f"u{values.itemsize}")
    seen = np.zeros(high - low + 1, bool)
    seen[index] = True
    slots = np.flatnonzero(seen)
    return slots.astype(values.dtype) + values.dtype.type(low), slots, index


def marks_of(xp, y):
    """An indicator matrix -> the marks it sets; where every row has a single 1, as plain class numbers."""
    if (y.least, y.most) == (0, 1) and bool(xp.all(xp.sum(y.values, axis=1) == 1)):
        return Marks(xp.argmax(y.values, axis=1))
    rows, classes = xp.nonzero(y.values)
    return Marks(classes, rows, y.values[rows, classes])


def few(classes):
    """Classes as an error names them."""
    shown = ", ".join(repr(v) for v in classes[:10])
    return shown if len(classes) <= 10 else f"{shown}, … ({len(classes)} classes)"
