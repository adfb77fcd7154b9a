"""Numbers with the error that a careful computation makes: ball arithmetic (midpoint and radius), on arrays.

A ball's value is kept in extended precision (NumPy's longdouble: 64 bits, exponents to ±16382), its radius is what the rounding of every
step in the *computed* dtype adds up to, in units of that dtype's rounding error (2**-24 for float32, 2**-53 for float64). So an expression
written with balls gives what is right, and beside it how far off a computation may be that takes these steps in the lower precision; steps
that are exact there (1 - 1, 0.5 * x) add nothing. See N. J. Higham, "Accuracy and Stability of Numerical Algorithms", 3.3: running error
analysis.
"""

from typing import NamedTuple

import numpy as np

LONG = np.longdouble
UNKNOWN = LONG(10) ** 2000  # the error of what is not known at all


class Format(NamedTuple):
    """A floating dtype to compute in."""

    dtype: np.dtype
    unit: LONG  # relative error of one rounding
    least: LONG  # error of a result below the normal numbers, in these units
    most: LONG  # the largest number


def format_of(dtype):
    info = np.finfo(dtype)
    unit = LONG(2) ** -(info.nmant + 1)
    return Format(np.dtype(dtype), unit, LONG(float(info.smallest_subnormal)) / unit, LONG(float(info.max)))


FORMATS = {name: format_of(name) for name in ("float16", "float32", "float64")}


class Ball:
    """An array of values `v` and their errors `e`, in units of the format."""

    __slots__ = ("e", "format", "v")
    __array_ufunc__ = None

    def __init__(self, v, e, fmt):
        self.v, self.e, self.format = np.asarray(v, LONG), np.asarray(e, LONG), fmt

    def exact(self, x):
        """A number or an array that the format holds."""
        return x if isinstance(x, Ball) else Ball(x, LONG(0), self.format)

    def near(self, x):
        """A parameter, which is rounded to the format first."""
        x = np.asarray(x, LONG)
        return Ball(x, np.abs(x), self.format)

    def rounded(self, v, e, units=1):
        """The result `v` of one step whose arguments' errors make it off by `e`."""
        held = v.astype(self.format.dtype) == v if units == 1 else False
        size = np.where(np.isfinite(v), np.abs(v), 0)
        e = np.where(np.isnan(e), 0, e)  # 0 times an infinity: the value says it all
        e = np.where(held & (e == 0), 0, e + units * size + self.format.least)
        return Ball(v, np.minimum(e, UNKNOWN), self.format)  # an infinite error times an exact 0 would be none

    def __add__(self, other):
        other = self.exact(other)
        return self.rounded(self.v + other.v, self.e + other.e)

    __radd__ = __add__

    def __neg__(self):
        return Ball(-self.v, self.e, self.format)

    def __sub__(self, other):
        return self + -self.exact(other)

    def __rsub__(self, other):
        return self.exact(other) + -self

    def __mul__(self, other):
        other = self.exact(other)
        both = np.where((self.e == 0) | (other.e == 0), 0, self.e * other.e)
        e = share(self.v, other.e) + share(other.v, self.e) + self.format.unit * both
        return self.rounded(self.v * other.v, e)

    __rmul__ = __mul__

    def __truediv__(self, other):
        other = self.exact(other)
        v = self.v / other.v
        off = np.maximum(np.abs(other.v) - self.format.unit * other.e, 0)  # the least that the divisor may be
        off = np.maximum(np.where(np.isinf(other.v), np.inf, off), 1 / UNKNOWN)
        infinite = np.isinf(self.v) & (self.e < UNKNOWN**0.5)  # and certainly so
        e = np.where(((self.e == 0) & (other.e == 0)) | infinite, 0, (self.e + share(v, other.e)) / off)
        return self.rounded(v, e)

    def __rtruediv__(self, other):
        return self.exact(other) / self

    def __getitem__(self, key):
        return Ball(self.v[key], np.broadcast_to(self.e, self.v.shape)[key], self.format)

    @property
    def shape(self):
        return self.v.shape

    def reshape(self, shape):
        return Ball(self.v.reshape(shape), np.broadcast_to(self.e, self.v.shape).reshape(shape), self.format)

    def roughly(self, units=1):
        """The same number, computed in another order: off by some units more, even where every step here was exact."""
        return Ball(self.v, self.e + units * np.where(np.isfinite(self.v), np.abs(self.v), 0), self.format)

    def limited(self):
        """Nothing is said where a step of the computation passes the largest number."""
        with np.errstate(invalid="ignore"):
            return unknown(self, np.isfinite(self.v) & (np.abs(self.v) > self.format.most / 4))

    # Functions of the libraries are right to about two units.

    def exp(self):
        v = np.exp(self.v)
        return self.rounded(v, v * np.expm1(np.minimum(self.format.unit * self.e, 1e3)) / self.format.unit, 2)

    def expm1(self):
        v = np.expm1(self.v)
        return self.rounded(v, (v + 1) * np.expm1(np.minimum(self.format.unit * self.e, 1e3)) / self.format.unit, 2)

    def _log(self, v, distance):
        near = np.maximum(distance - self.format.unit * self.e, 1 / UNKNOWN)
        return self.rounded(v, np.where(self.e == 0, 0, self.e / near), 2)

    def log(self):
        return self._log(np.log(self.v), np.abs(self.v))

    def log1p(self):
        return self._log(np.log1p(self.v), np.abs(1 + self.v))

    def tanh(self):
        v = np.tanh(self.v)
        return self.rounded(v, self.e / np.cosh(np.minimum(np.abs(self.v), 5000)) ** 2, 2)

    def sinh(self):
        return self.rounded(np.sinh(self.v), self.e * np.cosh(self.v), 2)

    def excess(self):
        """x - log1p(x), which cancels near 0: there it is x²/2 - x³/3 + …"""
        near = np.abs(self.v) < 0.05
        x, power, series = np.where(near, self.v, 0), np.where(near, self.v, 0), LONG(0)
        for k in range(2, 20):
            power = -power * x
            series = series - power / k
        v = np.where(near, series, self.v - np.log1p(self.v))
        return self.rounded(v, share(self.v, self.e) / np.maximum(1 + self.v - self.format.unit * self.e, 1 / UNKNOWN), 4)

    def sqrt(self):
        v = np.sqrt(self.v)
        return self.rounded(v, np.where(self.e == 0, 0, self.e / v))

    def power(self, n):
        """self ** n for self >= 0; at 0 with n < 0 it is 0, for what vanishes faster is multiplied by it."""
        if n == 0:
            return self.exact(np.ones_like(self.v))
        zero = self.v == 0
        base = np.where(zero, 1, self.v)
        v = np.where(zero, 0, base ** LONG(n))
        relative = np.where(self.e == 0, 0, self.e / np.maximum(base - self.format.unit * self.e, 1 / UNKNOWN))
        e = np.where(zero, 0, np.abs(v) * (abs(n) * relative + np.abs(n * np.log(base))))
        return self.rounded(v, e, 2)

    def abs(self):
        return Ball(np.abs(self.v), self.e, self.format)

    def sum(self, axis, wide=False):
        """The sum along an axis, in any order, of some partial sums; `wide` where float32 is summed in float64.

        Errors of additions mostly have either sign, but those of equal addends need not.
        """
        errors = np.broadcast_to(self.e, self.v.shape)
        n = self.v.shape[axis]
        additions = 0 if n < 2 else 2 if wide and self.format.dtype == np.float32 else 2 + n / 8
        size = np.where(np.isfinite(self.v), np.abs(self.v), 0).sum(axis)
        v = self.v.sum(axis)
        return self.rounded(v, np.where(np.isnan(errors), 0, errors).sum(axis) + size * additions)

    def others(self, axis=-1):
        """For each entry the sum of all others: by sums from both ends, since a difference would cancel."""
        v, e = np.moveaxis(self.v, axis, -1), np.moveaxis(np.broadcast_to(self.e, self.v.shape), axis, -1)
        e = e + 2 * np.where(np.isfinite(v), np.abs(v), 0)
        v, e = ((_before(x) + _before(x[..., ::-1])[..., ::-1]) for x in (v, np.where(np.isnan(e), 0, e)))
        return Ball(np.moveaxis(v, -1, axis), np.moveaxis(e, -1, axis), self.format)


def _before(x):
    """For each entry the sum of those before it."""
    return np.concatenate([np.zeros_like(x[..., :1]), np.cumsum(x, axis=-1)[..., :-1]], axis=-1)


def where(mask, a, b):
    """One of two, by what is known exactly."""
    one = a if isinstance(a, Ball) else b
    a, b = one.exact(a), one.exact(b)
    return Ball(np.where(mask, a.v, b.v), np.where(mask, a.e, b.e), one.format)


def share(v, e):
    """|v| e, and 0 where e is 0."""
    return np.where(e == 0, 0, np.abs(v) * e)


def unknown(x, mask):
    """The same with nothing said where the mask is true."""
    return Ball(np.where(mask, 0, x.v), np.where(mask, UNKNOWN, x.e), x.format)


def above(margin, a, b, units=4):
    """`a` where `margin` is above 0, else `b`; either will do where the margin's error hides its sign."""
    one = where(margin.v > 0, a, b)
    a, b = margin.exact(a), margin.exact(b)
    open_ = (margin.e > 0) & (np.abs(margin.v) <= units * margin.format.unit * margin.e)
    return Ball(one.v, np.where(open_, one.e + np.abs(a.v - b.v) / margin.format.unit, one.e), margin.format)


def times(a, b):
    """a b, and 0 where a is 0, whatever b."""
    zero = a.v == 0
    return where(zero, LONG(0) * np.zeros_like(a.v), a * where(zero, np.zeros_like(a.v), b))
