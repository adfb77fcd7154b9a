"""`log_loss`: scikit-learn's metric, and Kaggle's score."""

import inspect
import math
import os
import warnings
from functools import cache
from typing import NamedTuple, Never

import numpy as np
from array_api_compat import device as device_of

from polyloss._call.cpu import kernels
from polyloss._core import reduce as _reduce, threads as _threads
from polyloss._core.arguments import refuse_unknown, without_unknown
from polyloss._core.backends import backend_of, numpy_array
from polyloss._core.block import times
from polyloss._core.dtypes import FLOATS, dtype_name
from polyloss._core.params import clip_bound, flag
from polyloss._core.types import Array
from polyloss.metrics._labels import (
    Column,
    Indicator,
    Marks,
    beside,
    classes_of,
    encode,
    few,
    first,
    host,
    marks_of,
    read,
    refuse,
    sequence,
)

EPSILON = {"float16": 2.0**-10, "float32": 2.0**-23, "float64": 2.0**-52}


class Sums(NamedTuple):
    """What one pass over labels and probabilities finds."""

    total: float  # Σ weight · loss
    least: float  # of all probabilities; NaN if one of them is
    most: float
    off: float  # greatest |Σ of a row - 1|


class Rule(NamedTuple):
    """How a probability becomes a loss."""

    low: float  # it is clipped to [low, 1 - low]
    rescale: bool  # it is divided by the sum of its row first
    unwarned: bool  # a sum of a row that is not 1 is as it should be
    taken: str  # dtype that the probabilities are taken as

    @property
    def wide(self):
        """The dtype to compute in."""
        return "float64" if self.taken == "float64" else "float32"


@without_unknown
def log_loss(
    y_true: Array,
    y_proba: Array,
    *,
    normalize: bool = True,
    sample_weight: Array | None = None,
    labels: Array | None = None,
    epsilon: float | None = None,
    rescale: bool = False,
    **unknown: Never,
) -> Array:
    """Log loss of labels and probabilities: scikit-learn's metric, and Kaggle's score.

    The mean over the samples of ``-log(p[label])``, p the sample's probabilities clipped away from 0 and 1. Numbers, rules, errors and
    warnings are those of scikit-learn's metric of this name.

    Parameters
    ----------
    y_true : array, list or column of shape (n,), (n, 1) or (n, C)
        Labels: strings, integers, booleans or whole-numbered floats; or an indicator matrix of at most two different values, where sample i
        counts ``y_true[i, c]`` times as class c, so that rows may hold several classes or none. Of any array library, whatever that of
        `y_proba`; columns of pandas (categorical ones too) and polars.
    y_proba : array, list or table of shape (n, C), (n,) or (n, 1)
        Probabilities in [0, 1], with a column for each class in the sorted order of the classes; (n,) or (n, 1): those of the second of two
        classes. float16 is computed in float32; float32 and float64 are kept; anything else is taken as float64. Dask arrays are computed,
        block by block.
    normalize : bool, default True
        The mean of the losses; False: their sum. With weights the mean is ``sum(w * loss) / sum(w)``.
    sample_weight : array, list or column of shape (n,), optional
        Finite weights, of any array library.
    labels : array, list or column of shape (C,), optional
        All classes, for where `y_true` does not hold them all. Their order does not matter: columns of `y_proba` are in sorted order.
    epsilon : float, optional
        Probabilities are clipped to [epsilon, 1 - epsilon]: a number in [0, 0.5). By default the machine epsilon of the dtype of
        `y_proba`: 2**-10, 2**-23 or 2**-52 for float16, float32 or float64.
    rescale : bool, default False
        Divide each row by its sum before clipping, instead of warning that it is not 1: a row may then be any finite numbers that are not
        negative, with a sum above 0. ``epsilon=1e-15, rescale=True`` is Kaggle's multiclass score [Kaggle2015]_.

    Returns
    -------
    float
        The loss in nats, a Python float.

    Raises
    ------
    ValueError
        If there are no samples, lengths or shapes do not fit, a probability is outside [0, 1] or NaN, a label is not a whole number or not
        among `labels`, the number of classes is not that of `y_proba` or is 1, a weight is not finite, or all weights are 0; under
        `rescale`, if a row sums to 0.
    TypeError
        If an argument is not an array, a list or a column; if labels are bytes; for masked arrays and arrays without values (traced ones).
    ZeroDivisionError
        If weights that are not all 0 sum to 0, and `normalize` is true.

    Warns
    -----
    UserWarning
        If a row of `y_proba` does not sum to 1 (to the square root of the machine epsilon), unless it is rescaled; if `labels` is not in
        sorted order.

    See Also
    --------
    binary_crossentropy : Keras' loss, with a gradient; also known as logloss.
    sparse_categorical_crossentropy : Keras' loss of integer labels and probabilities.

    References
    ----------
    .. [Good1952] Irving J. Good, "Rational Decisions", Journal of the Royal Statistical Society B 14, 1952.
    .. [Kaggle2015] Kaggle, "Otto Group Product Classification Challenge", 2015: its evaluation, a multiclass logarithmic loss.

    Examples
    --------
    >>> import polyloss as pl
    >>> y_proba = [[0.1, 0.9], [0.9, 0.1], [0.8, 0.2], [0.35, 0.65]]
    >>> print(f"{pl.log_loss(['spam', 'ham', 'ham', 'spam'], y_proba):.6f}")
    0.216162
    """
    if unknown:
        refuse_unknown("log_loss", unknown, inspect.signature(log_loss).parameters)
    normalize = flag("normalize", normalize)
    xp, p, rule = _read("y_proba", y_proba, epsilon, rescale)
    if p.shape[0] == 0:
        raise ValueError(f"y_proba has shape {tuple(p.shape)}: the mean over nothing is undefined")
    y = _column(y_true, p)
    declared = None if labels is None else sorted_classes(labels)
    if hasattr(y_proba, "columns") and isinstance(y, Column):
        p = _columns_by_name(y_proba.columns, xp, p, encode(np, y)[1] if declared is None else declared, declared is not None)
    weight, total_weight = _weight(sample_weight, xp, p)
    if total_weight == 0 and not bool(_namespace(weight, xp).any(weight != 0)):
        raise ValueError("sample_weight is 0 everywhere: the mean over nothing is undefined")
    sums = _sums_of_neighbours(xp, p, y, declared, weight, rule)
    if sums is None:
        sums = _sums(xp, p, _marks(xp, p, y, declared), weight, rule)
    _check(xp, p, sums, rule)
    if not normalize:
        return sums.total
    if total_weight == 0:
        raise ZeroDivisionError("sample_weight sums to 0, so that there is no weighted mean: normalize=False gives the weighted sum")
    return sums.total / total_weight


def sample_losses(
    y_true: Array,
    y_proba: Array,
    *,
    classes: Array,
    epsilon: float | None = None,
    rescale: bool = False,
    sample_weight: Array | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """The log loss of every sample and its weight (None: all 1), as NumPy arrays of float64; what `log_loss` checks is checked.

    The losses are not weighted. A sample's has the same bits among whichever others it stands and however its row lies in memory.

    Parameters
    ----------
    y_true, y_proba, epsilon, rescale, sample_weight
        As for `log_loss`.
    classes : list
        As `sorted_classes` returns it.
    """
    xp, p, rule = _read("y_proba", y_proba, epsilon, rescale)
    y = _column(y_true, p)
    if hasattr(y_proba, "columns") and isinstance(y, Column):
        p = _columns_by_name(y_proba.columns, xp, p, classes, declared=True)
    weight, _ = _weight(sample_weight, xp, p)
    if rule.rescale and xp is np:
        p = np.ascontiguousarray(p)  # the sum of a row has its last bits from the order in which it is read
    losses = np.empty(p.shape[0])
    if p.shape[0]:
        sums = _sums_of_neighbours(xp, p, y, classes, None, rule, losses)
        if sums is None:
            of_columns = isinstance(y, Indicator) and y.values.shape[1] == len(classes)
            sums = _sums(xp, p, _marks(xp, p, y, None if of_columns else classes), None, rule, losses)
        _check(xp, p, sums, rule)
    return losses, None if weight is None else np.asarray(host(weight), np.float64)


def sorted_classes(labels):
    """The classes of `labels`, sorted."""
    classes, given = classes_of("labels", labels)
    if not classes:
        raise ValueError("labels is empty, but must hold the classes")
    if len(classes) != len(given) and len(classes) > 1:
        raise ValueError(f"labels has {len(given)} entries, but {len(classes)} different ones: {few(classes)}")
    if classes != given and len(classes) > 1:
        warnings.warn(
            f"labels is not sorted: the columns of y_proba are taken in the sorted order {few(classes)}", UserWarning, stacklevel=3
        )
    return classes


def _read(name, y_proba, epsilon, rescale):
    """Namespace, probabilities, and how one of them becomes a loss."""
    rescale, low = flag("rescale", rescale), None if epsilon is None else clip_bound("epsilon", epsilon)
    xp, p = _probabilities(y_proba)
    taken = dtype_name(p.dtype)
    taken = taken if taken in EPSILON else _widest(xp)  # scikit-learn takes bfloat16 as float64
    return xp, p, Rule(EPSILON[taken] if low is None else low, rescale and p.ndim == 2, rescale, taken)


def _columns_by_name(names, xp, p, classes, declared):
    """The probabilities in the order of the classes, where a frame's columns are named just as these are; else as they lie."""
    names, wanted = [str(name) for name in names], [str(c) for c in classes]
    if len(set(names)) != len(names) or _classes(p) != len(names):
        return p
    if set(names) == set(wanted):
        return p if names == wanted else p[:, [names.index(name) for name in wanted]]
    if set(names) > set(wanted):
        other = next(name for name in names if name not in wanted)
        more = "" if declared else ", or pass all classes as labels"
        raise ValueError(f"y_proba has the column {other!r}, which is no class: {few(classes)}; leave it out{more}")
    return p


def _column(y_true, p):
    """The labels, one for each row of the probabilities."""
    y = read("y_true", y_true, p)
    if y.values.shape[0] != p.shape[0]:
        raise ValueError(f"y_true has {y.values.shape[0]} labels, but y_proba has {p.shape[0]} rows")
    return y


def _check(xp, p, sums, rule):
    """The errors and the warning that the sums of a pass call for."""
    if rule.rescale:
        if not (sums.least >= 0 and sums.most < math.inf):  # NaN is neither
            refuse(xp, ~((p >= 0) & (p < math.inf)), p, "y_proba", "what is divided by the sum of its row must be finite and not negative")
    elif not (sums.least >= 0 and sums.most <= 1):
        refuse(xp, ~((p >= 0) & (p <= 1)), p, "y_proba", "probabilities must be between 0 and 1")
    if rule.rescale and math.isnan(sums.total):
        empty = xp.max(p, axis=1) == 0
        if bool(xp.any(empty)):
            raise ValueError(f"y_proba[{first(xp, empty)}] sums to 0, and cannot be rescaled to sum to 1")
    if not rule.unwarned and sums.off > 1e-8 + math.sqrt(EPSILON[rule.taken]):
        warnings.warn(
            f"the rows of y_proba should sum to 1, but one is off by {sums.off:.2g}: they are taken as they are", UserWarning, stacklevel=3
        )


def _probabilities(y_proba):
    """Namespace and probabilities: (n, c), or (n,) if they are those of the second of two classes."""
    kind = backend_of(y_proba, "y_proba")
    xp, p = (np, np.asarray(sequence("y_proba", y_proba))) if isinstance(kind, str) else _at_hand(kind, y_proba)
    if xp is np:
        p = _real("y_proba", p, kept=FLOATS)
    elif dtype_name(p.dtype) not in FLOATS:
        p = xp.astype(p, getattr(xp, _widest(xp)))
    shape = tuple(p.shape)
    if not shape:
        raise TypeError("y_proba is a single number, but must have one row per sample")
    if len(shape) > 2:
        raise ValueError(f"y_proba has shape {shape}, but must be (n,), (n, 1) or (n, classes)")
    if 0 in shape[1:]:
        raise ValueError(f"y_proba has shape {shape}: the mean over nothing is undefined")
    return xp, p[:, 0] if shape[1:] == (1,) else p


def _at_hand(kind, x):
    """An array as the namespace and array to compute with: NumPy, wherever it lies in this machine's memory."""
    if kind.name == "dask":
        known = not any(math.isnan(size) for size in x.shape)
        return kind.namespace(x), x if known else x.map_blocks(lambda block: block).compute_chunk_sizes()
    if not kind.has_values(x):
        raise TypeError("y_proba has no values yet (it is being traced, or on a meta device), but log_loss returns a Python float")
    view = None if kind.as_numpy is None or dtype_name(x.dtype) == "bfloat16" else kind.as_numpy(x)
    if view is not None:
        return np, view
    return kind.namespace(x), x.detach() if kind.name == "torch" else x


def _real(name, x, kept):
    """A NumPy array in one of the kept dtypes, else float64."""
    if x.dtype.kind == "c":
        raise ValueError(f"{name} has dtype {x.dtype}, but must hold real numbers")
    if dtype_name(x.dtype) not in kept:
        return x.astype(np.float64)
    return x if x.dtype.isnative and x.flags.aligned else x.astype(x.dtype.newbyteorder("="))


def _widest(xp):
    """The widest floating dtype of a namespace: JAX has float64 only if it was told to, and so have some devices."""
    return "float64" if xp is np or "float64" in xp.__array_namespace_info__().dtypes(kind="real floating") else "float32"


def _weight(sample_weight, xp, p):
    """Weights (n,) beside the probabilities, or None; and their sum."""
    n = p.shape[0]
    if sample_weight is None:
        return None, n
    kind = backend_of(sample_weight, "sample_weight")
    near = not isinstance(kind, str) and beside(sample_weight, p)
    w = sample_weight if near else np.asarray(sequence("sample_weight", sample_weight)) if isinstance(kind, str) else host(sample_weight)
    shape = tuple(w.shape)
    if not shape:
        raise TypeError("sample_weight is a single number, but must have one weight per sample")
    if shape != (n,):
        raise ValueError(f"sample_weight has shape {shape}, but must have one weight for each of the {n} rows of y_proba")
    if near:
        wp, w = xp, xp.astype(w, getattr(xp, _widest(xp)))
    elif w.dtype.kind in "US":
        raise TypeError(f"sample_weight has dtype {w.dtype}, but must hold real numbers")
    else:
        wp, w = np, _real("sample_weight", w, kept=("float64",))
    total = float(wp.sum(w))
    if not math.isfinite(total):
        refuse(wp, ~wp.isfinite(w), w, "sample_weight", "weights must be finite")
    return w if near else _moved(xp, p, w), total


def _namespace(x, xp):
    return np if isinstance(x, np.ndarray) else xp


def _moved(xp, p, x):
    """A NumPy array beside the probabilities; beside those of Dask it stays, and goes to their blocks in parts."""
    if xp is np or backend_of(p).name == "dask":
        return x
    # A copy, since torch warns of read-only memory; as int64, since torch takes uint8 for a mask and has few of the others.
    x = x.astype(np.int64 if x.dtype.kind in "iu" else x.dtype)
    return xp.asarray(x, device=device_of(p))


def _marks(xp, p, y, declared):
    """Which probabilities count."""
    c = _classes(p)
    yp = np if isinstance(y.values, np.ndarray) else xp
    if isinstance(y, Column):
        codes, classes = encode(yp, y, declared)
        marks, k, found = Marks(codes), len(classes), f" ({few(classes)})"
    else:
        if declared is not None:
            raise ValueError("labels is given, but y_true is an indicator matrix, whose columns are the classes")
        marks, k, found = marks_of(yp, y), y.values.shape[1], ""
    if k == 1:
        raise ValueError(f"{'y_true' if declared is None else 'labels'} has one class only{found}: pass all classes as labels")
    if k != c:
        hint = "" if declared is not None or not found else "; pass all classes as labels"
        raise ValueError(f"{'y_true' if declared is None else 'labels'} has {k} classes{found}, but y_proba has {c}{hint}")
    return marks if yp is not np else Marks(*(None if x is None else _moved(xp, p, x) for x in marks))


def _classes(p):
    return p.shape[1] if p.ndim == 2 else 2


# ---------------------------------------------------------------------------------------------------------------- the one pass


def _kernel(xp, p):
    """The compiled kernel, if it takes these probabilities."""
    if xp is not np or dtype_name(p.dtype) not in ("float32", "float64") or os.environ.get("POLYLOSS_ROUTE") == "formula":
        return None
    return kernels("log_loss")


def _sums_of_neighbours(xp, p, y, declared, weight, rule, into=None):
    """The sums where labels are neighbouring integers, found without a pass that only looks which there are; None if they are not.

    `into` receives the losses, a NumPy array.

    The least label, or where looking for it would take long the least of the first and last ones, tells which classes there should be; the
    kernel refuses any other label and notes which ones occur.
    """
    kernel, c = _kernel(xp, p), _classes(p)
    if kernel is None or not isinstance(y, Column) or y.names is not None:
        return None
    if declared is None:
        some = y.values
        if c < 8 and some.shape[0] > 1024:  # else labels are few beside the probabilities, and a wrong guess costs a pass over these
            some = np.concatenate((some[:512], some[-512:]))  # sorted labels have their least at one of them
        base, seen = int(some.min()), bytearray(c)
        if int(some.max()) - base >= c:
            return None
    else:
        base, seen = declared[0], None
        if isinstance(base, str) or declared != list(range(int(base), int(base) + c)):
            return None
    least, most = _range(y.values.dtype)
    if not least <= base <= most - (c - 1):
        return None
    *found, bad = kernel.fused(
        p, y.values, base=base, low=rule.low, rescale=rule.rescale, weight=weight, seen=seen, losses=into,
        threads=_threads.get_num_threads(),
    )  # fmt: skip
    return None if bad >= 0 or (seen is not None and 0 in seen) else Sums(*found)


@cache
def _range(dtype):
    """The least and the greatest integer of a dtype."""
    limits = np.iinfo(dtype)
    return int(limits.min), int(limits.max)


def _sums(xp, p, marks, weight, rule, into=None):
    """What the checks and the mean need of all rows; `into` receives the losses, a NumPy array."""
    if backend_of(p).name == "dask":
        return _sums_of_blocks(p, marks, weight, rule)
    wide = getattr(xp, rule.wide)
    classes, rows, count = marks
    kernel = _kernel(xp, p)
    if kernel is not None and rows is None:
        *found, _ = kernel.fused(
            p, classes, low=rule.low, rescale=rule.rescale, weight=weight, losses=into, threads=_threads.get_num_threads()
        )
        return Sums(*found)
    with np.errstate(all="ignore"):  # what is not finite shows in the sums, and is refused
        if p.ndim == 1:
            second = xp.astype(p if rows is None else p[rows], wide)
            picked = xp.where(classes == 1, second, 1 - second)
            off = 0.0
        else:
            whole = xp.sum(p, axis=1, dtype=wide)
            rows = xp.arange(p.shape[0], device=device_of(p)) if rows is None else rows
            picked = xp.astype(p[rows, classes], wide)
            picked = picked / whole[rows] if rule.rescale else picked
            off = float(xp.max(xp.abs(whole - 1)))
        losses = -xp.log(xp.clip(picked, rule.low, 1 - rule.low))
        if count is not None:
            losses = losses * xp.astype(count, wide)
        if into is not None:
            into[:] = np.bincount(host(rows), host(losses), into.size) if count is not None else host(losses)
        if weight is not None:
            losses = times(xp, weight if rows is None else weight[rows], xp.astype(losses, weight.dtype))
        return Sums(float(_reduce.total(xp, losses)), float(xp.min(p)), float(xp.max(p)), off)


def _sums_of_blocks(p, marks, weight, rule):
    """The sums for a Dask array: a few numbers of each block of rows, put together. Labels and weights go to the blocks in parts."""
    from polyloss._adapters import dask as _dask

    def beside(rows):
        return marks.between(rows.start, rows.stop), None if weight is None else weight[rows]

    found = np.array(_dask.for_rows(_sums_of_block, p, beside, rule=rule))
    total, least, most, off = found.T
    return Sums(float(total.sum()), float(least.min()), float(most.max()), float(off.max()))


def _sums_of_block(block, marks, weight, rule):
    xp, part = _at_hand(backend_of(block), block)
    *marks, weight = (None if x is None else _moved(xp, part, numpy_array("a block", x)) for x in (*marks, weight))
    return _sums(xp, numpy_array("a block", part) if xp is np else part, Marks(*marks), weight, rule)
