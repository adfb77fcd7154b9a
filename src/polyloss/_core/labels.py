"""Labels as classes: which are ignored, which are none, and the error for the first of these."""

from polyloss._core.devices import beside
from polyloss._core.dtypes import FLOATS, INTEGERS, dtype_name, representable
from polyloss._core.shapes import has, place


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
