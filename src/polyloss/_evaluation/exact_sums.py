"""Sums without rounding, so that a mean does not depend on how data are cut into batches or shared out to processes.

A double is an integer times a power of 2, so that a sum of doubles is a Python integer in units of 2**-1075, and so are all its parts.
"""

import math
import os
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields

import numpy as np

from polyloss._call.cpu import kernels

UNIT = 1075  # bits behind the point: the least double above 0 is 2**-1074
CHUNK = 1 << 14  # entries that the NumPy way takes at once: its arrays stay in the cache


@dataclass(frozen=True, slots=True)
class Sum:
    """The sum of some doubles."""

    units: int = 0  # of the finite ones
    nan: int = 0  # how many were NaN, +inf, -inf
    up: int = 0
    down: int = 0

    def __add__(self, other: "Sum") -> "Sum":
        return Sum(self.units + other.units, self.nan + other.nan, self.up + other.up, self.down + other.down)

    @property
    def special(self) -> float:
        """What the entries that are not finite add up to; 0 if all are."""
        return math.nan if self.nan or (self.up and self.down) else math.inf if self.up else -math.inf if self.down else 0.0

    def __float__(self) -> float:
        return self.special or ratio(self.units, 1 << UNIT)


def ratio(a: int, b: int) -> float:
    """a / b, rounded once."""
    try:
        return a / b
    except OverflowError:
        return math.inf if (a < 0) == (b < 0) else -math.inf


@dataclass(frozen=True, slots=True)
class Tally:
    """What one or many batches add up to: x is weight · loss of a position, v its share of the divisor."""

    x: Sum = Sum()
    xx: Sum = Sum()
    v: Sum = Sum()
    vv: Sum = Sum()
    xv: Sum = Sum()
    count: int = 0  # positions that count: neither ignored nor of weight 0
    positions: int = 0  # all of them
    samples: int = 0  # entries of the axes before the classes
    zeros: int = 0  # 1 if a target of a hinge was 0
    others: int = 0  # 1 if one was neither 0 nor 1

    def __add__(self, other: "Tally") -> "Tally":
        both = {name: getattr(self, name) + getattr(other, name) for name in NAMES}
        return Tally(**{**both, **{name: min(both[name], 1) for name in FLAGS}})

    def numbers(self) -> list[int]:
        """All of it as integers, those of sums before the counts."""
        return [number for name in SUMS for number in astuple(getattr(self, name))] + [getattr(self, name) for name in COUNTS]

    @classmethod
    def of(cls, numbers: Iterable[int]) -> "Tally":
        """The tally of such integers."""
        given = iter(numbers)
        sums = {name: Sum(*(next(given) for _ in fields(Sum))) for name in SUMS}
        return cls(**sums, **dict(zip(COUNTS, given, strict=True)))  # type: ignore[arg-type]


NAMES = tuple(f.name for f in fields(Tally))
SUMS, COUNTS, FLAGS = NAMES[:5], NAMES[5:], NAMES[8:]


def tally(losses: np.ndarray, weight: np.ndarray | None, normal: np.ndarray | None, skip: np.ndarray | None) -> Tally:
    """The sums of some positions.

    Parameters
    ----------
    losses : (N,) float32 or float64
    weight : (N,) float64 or None
        None: 1. Weight · loss is formed in float64; a position of weight 0 doesn't count, NaN included.
    normal : (N,) float64 or None
        The position's share of the divisor; None: its weight.
    skip : (N,) bool or None
        Positions that don't count.
    """
    kernel = None if os.environ.get("POLYLOSS_ROUTE") == "formula" else kernels("exact")
    given = [None if a is None else np.ascontiguousarray(a, t) for a, t in ((weight, np.float64), (normal, np.float64), (skip, np.uint8))]
    count, sums = (sums_by_extraction if kernel is None else kernel.sums)(np.ascontiguousarray(losses), *given)
    x, xx, *rest = (Sum(*numbers) for numbers in sums)
    ones = Sum(count << UNIT)
    v, vv, xv = rest or (ones, ones, x)
    return Tally(x, xx, v, vv, xv, count, losses.size)


def sums_by_extraction(losses, weight=None, normal=None, skip=None):
    """What the kernel `exact` gives, from NumPy alone."""
    keep = np.ones(losses.size, bool)
    if skip is not None:
        keep &= skip == 0
    if weight is not None:
        keep &= weight != 0
    x, w = losses[keep].astype(np.float64), None if weight is None else weight[keep]
    with np.errstate(all="ignore"):
        x = x if w is None else w * x
        parts = [x, x * x]
        if w is not None or normal is not None:
            v: np.ndarray = w if normal is None else normal[keep]  # type: ignore[assignment]  # one of the two is there
            parts += [v, v * v, x * v]
    return int(keep.sum()), [_extracted(part) for part in parts]


def _extracted(x):
    """The sum of an array: (units, NaNs, +infs, -infs).

    (c + x) - c cuts x at a fixed bit, and the parts cut off add up in float64 without rounding. [Rump, Ogita and Oishi, "Accurate
    floating-point summation", SIAM Journal on Scientific Computing 31, 2008]
    """
    finite, units = np.isfinite(x), 0
    special = (int(np.isnan(x).sum()), int((x == np.inf).sum()), int((x == -np.inf).sum()))
    for start in range(0, x.size, CHUNK):
        rest = x[start : start + CHUNK][finite[start : start + CHUNK]]
        shift = 600 if rest.size and np.abs(rest).max() > 2.0**900 else 0  # so that c is no infinity
        small = rest if not shift else rest[np.abs(rest) <= 2.0**900]
        large = rest[:0] if not shift else rest[np.abs(rest) > 2.0**900] * 2.0**-shift
        units += _cut(small) + (_cut(large) << shift)
    return units, *special


def _cut(rest):
    units, top = 0, np.abs(rest).max(initial=0.0)
    while top > 0:
        c = np.ldexp(1.5, int(np.frexp(top)[1]) + CHUNK.bit_length())
        cut = (c + rest) - c
        rest = rest - cut
        numerator, denominator = float(cut.sum()).as_integer_ratio()
        units += numerator * (1 << UNIT) // denominator
        top = np.abs(rest).max(initial=0.0)
    return units
