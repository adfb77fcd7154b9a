"""From losses per position to a result: reductions, normalizers, and the order of summation."""

import math

from polyloss._core.block import times
from polyloss._core.dtypes import dtype_name

# How reduction="normalize" divides; the names and numbers of softmax.Normalization.
NORMALIZATIONS = ("full", "valid", "batch_size", "none")


def reduction_name(block, reduction):
    """The reduction by its own name; None is "none" and Keras' "mean_with_sample_weight" is "mean"."""
    name = {None: "none", "mean_with_sample_weight": "mean"}.get(reduction, reduction) if _hashable(reduction) else reduction
    if not isinstance(name, str) or name not in block.reductions:
        raise ValueError(f"reduction is {reduction!r}, but must be one of {', '.join(map(repr, block.reductions))}")
    return name


def _hashable(x):
    return x is None or isinstance(x, str)


def normalization_name(normalization, normalize):
    """Caffe's rule: `normalization` decides if given; else `normalize` means valid (true) or batch_size (false); neither means valid.

    ``Normalization.FULL`` is 0, so nothing here is tested for truth.
    """
    if normalization is not None:
        name = normalization.lower() if isinstance(normalization, str) else None
        if name is None:
            number = -1 if isinstance(normalization, bool) else getattr(normalization, "__index__", lambda: -1)()
            name = NORMALIZATIONS[number] if 0 <= number < len(NORMALIZATIONS) else None
        if name not in NORMALIZATIONS:
            raise ValueError(f"normalization is {normalization!r}, but must be one of {', '.join(map(repr, NORMALIZATIONS))}")
        return name
    if normalize is None or normalize is True:
        return "valid"
    if normalize is False:
        return "batch_size"
    raise TypeError(f"normalize is {normalize!r}, but must be True, False or None")


def divisor(lay, reduction, normalization, weighted, ignoring):
    """What the sum is divided by: a number if the shapes decide it, else "count" or "weights", which the data decide."""
    kept = "weights" if weighted else "count" if ignoring else max(lay.n * lay.s, 1)
    match reduction:
        case "none" | "sum":
            return 1
        case "sum_over_batch_size":
            return max(lay.n * lay.s, 1)
        case "mean":
            return kept
    match normalization:
        case "full":
            return max(lay.n * lay.s, 1)
        case "valid":
            return kept
        case "batch_size":
            return max(math.prod(lay.shape[: lay.axis]), 1)
        case "none":
            return 1


EVEN = 2.0**-60, 2.0**60  # a factor and its reciprocal in this range, times a weight and a slope in it, are normal numbers of every dtype


def taming(xp, w):
    """The power of two that brings the sum of weights, and what it divides, away from both ends of the dtype: a mean does not change.

    Infinite weights have no part in it: that of a class without labels leaves the sum finite."""
    size = xp.sum(xp.where(xp.isinf(w), xp.zeros_like(w), xp.abs(w)))
    low, high = (xp.full_like(size, 2.0**exponent) for exponent in (-64, 64))
    return xp.where(size > EVEN[1], low, xp.where(size < EVEN[0], high, xp.ones_like(size)))


def tamed(xp, w):
    """Weights times `taming`."""
    return None if w is None else w * taming(xp, w)


def total_weight(plan, arrays, t, skip):
    """Σ w Σ k t over the positions that are not skipped, k the class weights; of a mean Σ w alone. `t` (n, c, s) is not smoothed yet."""
    xp = arrays.xp
    w = xp.ones_like(t[:, 0, :]) if arrays.weight is None else arrays.weight
    if arrays.class_weight is not None:
        w = times(xp, xp.sum(t * weights_of_classes(plan, arrays, t), axis=1), w)
    elif plan.reduction == "normalize" and not plan.labelled:
        w = times(xp, xp.sum(t, axis=1), w)
    return total(xp, w if skip is None else xp.where(skip, xp.zeros_like(w), w))


def weights_of_classes(plan, arrays, t):
    """The class weights beside targets t (n, c, s) that are not smoothed: beside a label those of other classes count for nothing, infinite
    ones included, as `1 / count` makes them of a class without labels."""
    xp, k = arrays.xp, arrays.class_weight[None, :, None]
    return xp.where((t == 0) & ~xp.isfinite(k), xp.zeros_like(t), k) if plan.labelled else k


def total(xp, x, axis=None):
    """The sum of all entries, or along an axis; in float64 where the library has that, so that float32 losses sum to their last bit."""
    return xp.sum(x, dtype=xp.float64, axis=axis) if _widens(xp, x) else xp.sum(x, axis=axis)


def widened(xp, x):
    """float32 as float64 where the library has that."""
    return xp.astype(x, xp.float64) if _widens(xp, x) else x


def _widens(xp, x):
    return dtype_name(x.dtype) == "float32" and hasattr(xp, "float64") and not _narrow(xp)


def _narrow(xp):
    """JAX knows float64 only if it was told to."""
    if xp.__name__ != "jax.numpy":
        return False
    import jax

    return not jax.config.jax_enable_x64


def quotient(xp, a, b):
    """a / b, and 0 where b is 0: nothing counted, nothing lost. b may be a number or a 0-d array; no branch on data."""
    if isinstance(b, (int, float)):
        if not b:
            return xp.zeros_like(a)
        if EVEN[0] <= abs(b) <= EVEN[1]:
            return a / b
        b, exponent = math.frexp(b)  # the dtype of a may have no such number, or none that is its reciprocal: powers of two, step by step
        a = a / b
        while exponent:
            step = max(-100, min(100, exponent))
            a, exponent = a * 2.0**-step, exponent - step
        return a
    kind = a.dtype
    if dtype_name(getattr(b, "dtype", kind)) == "float64" != dtype_name(kind):  # likewise: it may be none of the dtype of a
        a = xp.astype(a, b.dtype)
    zero = b == 0
    return xp.astype(xp.where(zero, xp.zeros_like(a), a / xp.where(zero, xp.ones_like(b), b)), kind, copy=False)
