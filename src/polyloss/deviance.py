"""Unit deviances of exponential dispersion models, for means and for their logarithms: each a block, and a public function below it.

A deviance is twice what the log-likelihood lacks of that of a mean equal to the target: 0 there, positive elsewhere. Near the target its
terms cancel; each formula takes the difference from a series there, so that small deviances keep their digits.
"""

import math
from typing import Never

from polyloss._call.call import call
from polyloss._core.block import Elementwise, beyond, evening, nan_where, over_square, public, times, whole
from polyloss._core.params import flag, tweedie_power
from polyloss._core.types import Array, Reduction
from polyloss.regression import MeanSquaredError


def excess(xp, r):
    """r - log1p(r) for -0.4 < r < 0.8, where that cancels: with s = r / (2 + r) it is r s - 2 (s³/3 + s⁵/5 + ...)."""
    s = r / (2 + r)
    q = s * s
    total = xp.full_like(r, 1 / 29)
    for k in range(27, 1, -2):
        total = total * q + 1 / k
    return s * (r - 2 * q * total)


def near_log1p(xp, r):
    """log1p(r) for -0.4 < r < 0.8: XLA's own is wrong by 100 units of a double's last place at r = -0.4."""
    return r - excess(xp, r)


def log_near(xp, m, t):
    """log(m / t) where they are near each other, else 0; and where they are."""
    r, near = near_part(xp, m, t)
    return near_log1p(xp, r), near


def near_part(xp, m, t):
    """(m - t) / t where that is between -0.4 and 0.8, else 0: its derivative may be infinite elsewhere; and where it is."""
    r = (m - t) / t
    near = (r > -0.4) & (r < 0.8)
    return quotient(xp, xp.where(near, m - t, xp.zeros_like(m)), xp.where(near, t, xp.ones_like(t))), near


def quotient(xp, a, b):
    """a / b, both times a power of two that brings b near 1, if they are on the same side of it: JAX differentiates a quotient by b^-2.

    `evening` leaves b at up to 2^32: too far for what a power of t or m then multiplies.
    """
    same, one, s = (xp.abs(a) < 1) == (b < 1), xp.ones_like(b), xp.ones_like(b)
    n = 64 if float(xp.finfo(b.dtype).max) < 1e39 else 512
    while n >= 8:
        above, below = same & (b * s >= 2.0**n), same & (b * s < 2.0**-n)
        s = s * xp.where(above, 2.0**-n * one, xp.where(below, 2.0**n * one, one))
        n //= 2
    return (a * s) / (b * s)


def excess_part(xp, t, m):
    """(m - t) / m. Far from the target as 1 - t / m: its derivative does not cancel there."""
    far = ((t < m / 2) & (m < math.inf)) | (t > 2 * m)
    zero, one = xp.zeros_like(m), xp.ones_like(m)
    share = quotient(xp, xp.where(far, t, zero), xp.where(far, m, one))
    return xp.where(far, 1 - share, quotient(xp, xp.where(far, zero, m - t), xp.where(far, one, m)))


def log_quotient(xp, m, t, most=1e18):
    """log(m / t), also where m / t overflows or underflows; from `most` on as log m - log t.

    It is the logarithm of the larger by the smaller: autograd divides what comes from above by the quotient first.
    """
    s = evening(xp, t)  # for derivatives: 1 / t is of a float's size where m / t² is not
    m_s, t_s = m * s, t * s
    q, up = m_s / t_s, m >= t
    near = (q > 1e-18) & (q < most)
    one = xp.ones_like(q)
    far = xp.log(xp.where(near, one, m)) - xp.log(xp.where(near, one, t))
    high, low = (xp.where(near, xp.where(up, *pair), one) for pair in ((m_s, t_s), (t_s, m_s)))
    log = xp.log(high / low)
    return xp.where(near, xp.where(up, log, -log), far)


def mean_of(xp, p):
    """A prediction, NaN where it is below 0, and so are its derivatives; 0.0 for -0.0.

    That 0.0 is added where p is not below 0 as well, as the number of a comparison: XLA would leave out a constant one.
    """
    return p * nan_where(xp, p < 0, p) + xp.astype(p < 0, p.dtype)


def poisson_excess(xp, t, m, log_quotient):
    """2 (m - t - t log(m / t)), for a function of t and m that gives the logarithm.

    Of a large quotient that may be log m - log t, whose roundings are nothing beside m: by autograd t (t / m) would go below the normal
    numbers, of t up to 1e18 times the least of them, where t / t does not.
    """
    none = t == 0
    u = xp.where(none, xp.ones_like(t), t)
    r, near = near_part(xp, m, u)
    near = near & ~none
    l = log_quotient(xp.where(near | (none & (m == 0)), u, m), u)
    nothing = (m == math.inf) | (none & xp.isinf(l))  # beside an infinite m, and of a target of 0
    far = (m - t) - t * xp.where(nothing, xp.zeros_like(l), l)
    return 2 * xp.where(near, u * excess(xp, r), far)


class PoissonDevianceFromLogarithms(Elementwise):
    """2 (t log t - t z - t + e^z), z the logarithm of the mean."""

    kernel = "poisson_deviance_from_logarithms"

    def value(xp, t, z):
        return poisson_excess(xp, t, xp.exp(z), lambda m, u: z - xp.log(u))

    def slope(xp, t, z):
        return 2 * (xp.exp(z) - t)

    def curvature(xp, t, z):
        return 2 * xp.exp(z)


class PoissonDeviance(Elementwise):
    """2 (t log(t / m) - t + m); of a target of 0 it is 2 m."""

    aliases = ("mean_poisson_deviance", "PoissonDeviance")
    params = {"log_input": flag}
    logarithms = PoissonDevianceFromLogarithms
    kernel = "poisson_deviance"
    domain = "y_pred above 0, with log_input=True any real numbers; y_true at least 0"
    worked = (
        dict(t=1.0, p=math.e, log_input=False, value=2 * math.e - 4, slope=2 - 2 / math.e),
        dict(t=0.0, p=3.0, log_input=False, value=6.0, slope=2.0),
        dict(t=1.0, p=1.0, log_input=True, value=2 * math.e - 4, slope=2 * math.e - 2),
    )

    def value(xp, t, p):
        return poisson_excess(xp, t, mean_of(xp, p), lambda m, u: log_quotient(xp, m, u, 1e3))

    def slope(xp, t, p):
        m = mean_of(xp, p)
        none = t == 0
        return 2 * xp.where(none, xp.ones_like(m) + 0 * m, excess_part(xp, t, xp.where(none, xp.ones_like(m), m)))

    def curvature(xp, t, p):
        m = mean_of(xp, p)
        return 2 * over_square(xp, t, m)


@public(PoissonDeviance)
def poisson_deviance(
    y_true: Array,
    y_pred: Array,
    *,
    log_input: bool = False,
    axis: int = -1,
    sample_weight: Array | None = None,
    reduction: Reduction = "none",
    validate: bool = True,
    **unknown: Never,
) -> Array:
    """Poisson deviance, mean over `axis`: ``mean(2 * (t * log(t / m) - t + m))``, t the targets and m the means.

    Numbers of scikit-learn's `mean_poisson_deviance`, which raises an error where a target or prediction is outside of the domain.

    Parameters
    ----------
    y_true : array, shape of `y_pred`
        Targets, at least 0: counts or rates. Nothing is broadcast.
    y_pred : array
        Predicted means, above 0; a negative one gives NaN. With `log_input` their logarithms. float16 and bfloat16 are computed in float32.
    log_input : bool, default False
        Whether `y_pred` holds the logarithms of the predicted means instead: any real numbers.
    axis : int, default -1
        Axis of the elements of one sample, over which the mean is taken.
    sample_weight : array, optional
        Weights: in the shape of the losses or of its leading axes; axes of length 1 are accepted. Weight 0 skips a position, NaN included.
    reduction : {"none", "sum", "mean", "sum_over_batch_size"}, default "none"
        Weighted losses as they are; their sum; the sum divided by the sum of the weights; the sum divided by the number of losses. ``None``
        is "none", Keras' "mean_with_sample_weight" is "mean".
    validate : bool, default True
        False skips checks of values that would cost a synchronisation on a GPU; this loss has none.

    Returns
    -------
    array
        In the shape of `y_pred` without `axis` under "none", else 0-d; of the caller's library and device, float32 or float64.

    Raises
    ------
    ValueError
        If shapes do not fit, or a parameter is out of range; the message names argument, place, value and rule.
    TypeError
        If arrays are of different libraries, or hold no real numbers.

    See Also
    --------
    poisson : Without the terms that depend on the targets alone.
    tweedie_deviance : Of other powers.

    References
    ----------
    .. [Jorgensen1997] Bent Jørgensen, "The Theory of Dispersion Models", Chapman & Hall, 1997.

    Examples
    --------
    >>> import numpy as np
    >>> import polyloss as pl
    >>> pl.poisson_deviance([[2.0, 0.0]], [[2.0, 3.0]])
    array([3.])
    """
    return call(
        PoissonDeviance,
        y_true,
        y_pred,
        unknown,
        log_input=log_input,
        axis=axis,
        sample_weight=sample_weight,
        reduction=reduction,
        validate=validate,
    )


class GammaDevianceFromLogarithms(Elementwise):
    """2 (z - log t + t e^-z - 1), z the logarithm of the mean."""

    kernel = "gamma_deviance_from_logarithms"

    def over_exp(xp, t, z):
        """t e^-z by halves: its factor alone may overflow."""
        half = xp.exp(-0.5 * z)
        return t * half * half

    def value(xp, t, z):
        v = GammaDevianceFromLogarithms.over_exp(xp, t, z) - 1
        near = (v > -0.4) & (v < 0.8)
        return 2 * xp.where(near, excess(xp, xp.where(near, v, xp.zeros_like(v))), beyond(xp, v, z - xp.log(t)))

    def slope(xp, t, z):
        return 2 * (1 - GammaDevianceFromLogarithms.over_exp(xp, t, z))

    def curvature(xp, t, z):
        return 2 * GammaDevianceFromLogarithms.over_exp(xp, t, z)


class GammaDeviance(Elementwise):
    """2 (log(m / t) + t / m - 1)."""

    aliases = ("mean_gamma_deviance", "GammaDeviance")
    params = {"log_input": flag}
    logarithms = GammaDevianceFromLogarithms
    kernel = "gamma_deviance"
    domain = "y_pred above 0, with log_input=True any real numbers; y_true above 0"
    worked = (
        dict(t=2.0, p=1.0, log_input=False, value=2 - 2 * math.log(2), slope=-2.0),
        dict(t=1.0, p=1.0, log_input=True, value=2 / math.e, slope=2 - 2 / math.e),
    )

    def value(xp, t, p):
        m = mean_of(xp, p)
        v, one = (t - m) / m, xp.ones_like(m)
        near = (v > -0.4) & (v < 0.8)
        v = xp.where(near, t - m, xp.zeros_like(v)) / xp.where(near, m, one)
        above, below = xp.where(near, one, t), xp.where(near, one, m)
        return 2 * xp.where(near, excess(xp, v), (above / below - 1) + log_quotient(xp, below, above))

    def slope(xp, t, p):
        m = mean_of(xp, p)
        return 2 * excess_part(xp, t, m) / m

    def curvature(xp, t, p):
        m = mean_of(xp, p)
        return 4 * (((t - 0.5 * m) / m) / m) / m


@public(GammaDeviance)
def gamma_deviance(
    y_true: Array,
    y_pred: Array,
    *,
    log_input: bool = False,
    axis: int = -1,
    sample_weight: Array | None = None,
    reduction: Reduction = "none",
    validate: bool = True,
    **unknown: Never,
) -> Array:
    """Gamma deviance, mean over `axis`: ``mean(2 * (log(m / t) + t / m - 1))``, t the targets and m the means.

    Numbers of scikit-learn's `mean_gamma_deviance`, which raises an error where a target or prediction is outside of the domain.

    Parameters
    ----------
    y_true : array, shape of `y_pred`
        Targets, above 0. Nothing is broadcast.
    y_pred : array
        Predicted means, above 0; a negative one gives NaN. With `log_input` their logarithms. float16 and bfloat16 are computed in float32.
    log_input : bool, default False
        Whether `y_pred` holds the logarithms of the predicted means instead: any real numbers.
    axis : int, default -1
        Axis of the elements of one sample, over which the mean is taken.
    sample_weight : array, optional
        Weights: in the shape of the losses or of its leading axes; axes of length 1 are accepted. Weight 0 skips a position, NaN included.
    reduction : {"none", "sum", "mean", "sum_over_batch_size"}, default "none"
        Weighted losses as they are; their sum; the sum divided by the sum of the weights; the sum divided by the number of losses. ``None``
        is "none", Keras' "mean_with_sample_weight" is "mean".
    validate : bool, default True
        False skips checks of values that would cost a synchronisation on a GPU; this loss has none.

    Returns
    -------
    array
        In the shape of `y_pred` without `axis` under "none", else 0-d; of the caller's library and device, float32 or float64.

    Raises
    ------
    ValueError
        If shapes do not fit, or a parameter is out of range; the message names argument, place, value and rule.
    TypeError
        If arrays are of different libraries, or hold no real numbers.

    See Also
    --------
    mean_squared_logarithmic_error : Relative error, too.
    tweedie_deviance : Of other powers.

    References
    ----------
    .. [Jorgensen1997] Bent Jørgensen, "The Theory of Dispersion Models", Chapman & Hall, 1997.

    Examples
    --------
    >>> import numpy as np
    >>> import polyloss as pl
    >>> pl.gamma_deviance([[2.0]], [[1.0]])
    array([0.61370564])
    """
    return call(
        GammaDeviance,
        y_true,
        y_pred,
        unknown,
        log_input=log_input,
        axis=axis,
        sample_weight=sample_weight,
        reduction=reduction,
        validate=validate,
    )


def power_difference(xp, start, to, n, l):
    """(to - start) / n, n l = log(to / start). Where n l is small, start l (1 + n l / 2! + (n l)² / 3! + ...)."""
    near = xp.abs(n * l) < 0.5
    l = xp.where(near, l, xp.zeros_like(l))  # which may be infinite elsewhere
    u = n * l
    total = xp.ones_like(u)
    for k in range(15, 1, -1):
        total = total * u / k + 1
    return xp.where(near, start * l * total, (xp.where(near, start, to) - start) / (n + (n == 0)))


def unit_tweedie(xp, t, power, m, to_a, to_b, l):
    """2 ((m^a - t^a) / a - (t m^b - t^a) / b) for t > 0, a = 2 - power, b = 1 - power; `to_a`, `to_b`: m^a, m^b; l = log(m / t).

    Powers of t are t^a alone: t^b and its derivative overflow where t is tiny and t t^b is not.
    Where l is small the two cancel: their difference is t^a l² (D2 / 2! + D3 l / 3! + ...), D2 = 1,
    D(k+1) = (a + b) D(k) - a b D(k-1), whose sum Clenshaw's recurrence takes from the last term: powers of l alone might vanish.
    """
    a, b = 2 - power, 1 - power
    near = max(abs(a), abs(b), 1.0) * xp.abs(l) < 1
    u = xp.where(near, l, xp.zeros_like(l))
    total, last = xp.full_like(u, 1 / math.factorial(21)), xp.zeros_like(u)
    for k in range(20, 1, -1):
        total, last = 1 / math.factorial(k) + (a * u + b * u) * total - (a * u) * (b * u) * last, total
    one = xp.ones_like(t)
    over = xp.isinf(t**a)
    start = xp.where(over, one, t) ** a
    half = xp.where(over & near & (l != 0), t, one) ** (a / 2) * u  # t^a l² may be finite where t^a is not
    m, to_a, to_b = (xp.where(near, one, x) for x in (m, to_a, to_b))
    of_b = t / m * to_a if power > 2 else t * to_b  # t m^b, which is in range where m^b is not
    over_far = over | xp.isinf(to_a) | xp.isinf(of_b)
    to_a, of_b = (xp.where(near | over_far, start, x) for x in (to_a, of_b))
    far = power_difference(xp, start, to_a, a, l) - power_difference(xp, start, of_b, b, l)
    near_by = xp.where(over, half * half, start * u * u) * total
    return 2 * xp.where(near, near_by, xp.where(over_far, math.inf * nan_where(xp, xp.isnan(m), m), far))


class TweedieDevianceFromLogarithms(Elementwise):
    """2 (t^a / (a b) - t e^(b z) / b + e^(a z) / a), a = 2 - power, b = 1 - power, z the logarithm of the mean."""

    kernel = "tweedie_deviance_from_logarithms"

    def value(xp, t, z, power):
        a, b = 2 - power, 1 - power
        m = xp.exp(z)
        if power == 0:  # t² counts whatever its sign
            return (m - t) * (m - t)
        up = t > 0
        u = xp.where(up, t, xp.ones_like(t))
        l, near = log_near(xp, m, u)
        l = xp.where(near, l, z - xp.log(u))
        to_a, to_b = xp.exp(a * z), xp.exp(b * z)
        return xp.where(up, unit_tweedie(xp, u, power, m, to_a, to_b, l), without_positive(xp, t, power, to_a, to_b))

    def slope(xp, t, z, power):
        to_b = xp.exp((1 - power) * z)
        if power < 1:  # both terms grow with z, and leave no number when infinite; 2 t may be infinite, too
            return (xp.exp(z) - t) * (2 * to_b)
        m, half = xp.exp(z), xp.exp((1 - power) / 2 * z)  # e^(b z) may overflow where t e^(b z) does not
        together = (xp.abs(z) < 30) | ((t / 2 < m) & (m < 2 * t))  # by a product that does not cancel, but whose m may leave the range
        of_t = times(xp, times(xp, t, half), half)
        apart = xp.where(xp.isinf(of_t), xp.full_like(of_t, -math.inf), xp.exp((2 - power) * z) - of_t)
        return 2 * xp.where(together, ((m - t) * half) * half, apart)

    def curvature(xp, t, z, power):
        a, b = 2 - power, 1 - power
        if power < 1:  # a power of 0 or less: b is 1 or more
            return (a / b * xp.exp(z) - t) * (2 * b * xp.exp(b * z))
        half = xp.exp(b / 2 * z)
        of_t = times(xp, times(xp, t, half), b * half)
        return 2 * xp.where(xp.isinf(of_t), -of_t, a * xp.exp(a * z) - of_t)


def without_positive(xp, t, power, to_a, to_b):
    """The deviance of targets that are not positive: infinite for powers of 2 and more, and below 0 none but for powers below 0."""
    a, b = 2 - power, 1 - power
    to_a, to_b = (xp.where(t > 0, xp.ones_like(x), x) for x in (to_a, to_b))  # which may be infinite there
    here = to_a / a - times(xp, t, to_b) / b if a > 0 else math.inf + to_a + 0 * t
    here = whole(xp, here)
    return 2 * (here if power < 0 else xp.where(t == 0, here, to_a * nan_where(xp, ~(t >= 0), t)))  # NaN too


class TweedieDeviance(Elementwise):
    """2 (max(t, 0)^a / (a b) - t m^b / b + m^a / a), a = 2 - power, b = 1 - power; powers 0, 1 and 2 have blocks of their own."""

    aliases = ("mean_tweedie_deviance", "TweedieDeviance")
    params = {"power": tweedie_power, "log_input": flag}
    logarithms = TweedieDevianceFromLogarithms
    kernel = "tweedie_deviance"
    domain = "y_pred above 0, with log_input=True any real numbers; y_true at least 0"
    worked = (
        dict(t=4.0, p=1.0, power=1.5, log_input=False, value=4.0, slope=-6.0),
        dict(t=0.0, p=1.0, power=1.5, log_input=False, value=4.0, slope=2.0),
        dict(t=4.0, p=0.0, power=1.5, log_input=True, value=4.0, slope=-6.0),
        dict(t=1.0, p=2.0, power=3.0, log_input=False, value=0.25, slope=0.25),
    )

    def form(block, values):
        """Squared errors, Poisson's and gamma's deviance where they are meant."""
        named = {0.0: MeanSquaredError, 1.0: PoissonDeviance, 2.0: GammaDeviance}.get(values["power"])
        if named is not None and not (named is MeanSquaredError and values["log_input"]):
            del values["power"]
            block = named  # type: ignore[assignment]
        return Elementwise.form(block, values)

    def value(xp, t, p, power):
        m = mean_of(xp, p)
        up = t > 0
        u, v = xp.where(up, t, xp.ones_like(t)), xp.where(up, m, xp.ones_like(m))
        l, near = log_near(xp, v, u)
        l = xp.where(near, l, log_quotient(xp, xp.where(near, xp.ones_like(v), v), xp.where(near, xp.ones_like(u), u)))
        to_a, to_b = m ** (2 - power), m ** (1 - power)
        return xp.where(up, unit_tweedie(xp, u, power, v, to_a, to_b, l), without_positive(xp, t, power, to_a, to_b))

    def slope(xp, t, p, power):
        m = mean_of(xp, p)
        none, one = t == 0, xp.ones_like(m)
        if power < 0:  # t / m may overflow
            d, first = m - t, m**-power
            return 2 * xp.where(none, m ** (1 - power), d * xp.where((d == 0) & xp.isinf(first), one, first))
        part = xp.where(none, one, excess_part(xp, t, xp.where(none, one, m)))  # of a large m, m^-power may vanish
        return 2 * (part * m ** (2 - power) / m if power > 2 else m ** (1 - power) * part)  # or m^(1 - power) overflow

    def curvature(xp, t, p, power):
        m = mean_of(xp, p)
        one = xp.ones_like(m)
        if power < 0:  # t / m may be infinite where this is not; each of the two terms, where their sum is no NaN
            first = m**-power
            by_quotient = (t > 0) & (m > 0) & ((t <= 4 * m) | xp.isinf(first))
            share = xp.where(by_quotient, t, xp.zeros_like(t)) / xp.where(by_quotient, m, one)
            apart = (1 - power) * first + power * times(xp, t, m ** (-power - 1))
            return 2 * xp.where(by_quotient, first * ((1 - power) + power * share), apart)
        none = t == 0
        return 2 * m**-power * xp.where(none, (1 - power) * one, (1 - power) + power * (t / xp.where(none, one, m)))


@public(TweedieDeviance)
def tweedie_deviance(
    y_true: Array,
    y_pred: Array,
    *,
    power: float = 1.5,
    log_input: bool = False,
    axis: int = -1,
    sample_weight: Array | None = None,
    reduction: Reduction = "none",
    validate: bool = True,
    **unknown: Never,
) -> Array:
    """Tweedie deviance, mean over `axis`: of a variance that is the mean to a power.

    ``mean(2 * (max(t, 0)**(2 - power) / ((1 - power) * (2 - power)) - t * m**(1 - power) / (1 - power) + m**(2 - power) / (2 - power)))``,
    t the targets and m the means. Numbers of scikit-learn's `mean_tweedie_deviance`, which raises an error where a target or prediction is
    outside of the domain.

    Parameters
    ----------
    y_true : array, shape of `y_pred`
        Targets, at least 0; above 0 for a `power` of 2 and more, any real numbers for one of 0 and less. Nothing is broadcast.
    y_pred : array
        Predicted means, above 0 (for `power` 0 any real numbers); a negative one gives NaN. With `log_input` their logarithms. float16 and
        bfloat16 are computed in float32.
    power : float, default 1.5
        0 gives squared errors, 1 the Poisson deviance, 2 the gamma deviance; between 1 and 2 sums of gamma-distributed amounts, many of
        them 0, as insurance claims are; above 2 positive targets; below 0 any targets. There is none between 0 and 1.
    log_input : bool, default False
        Whether `y_pred` holds the logarithms of the predicted means instead: any real numbers.
    axis : int, default -1
        Axis of the elements of one sample, over which the mean is taken.
    sample_weight : array, optional
        Weights: in the shape of the losses or of its leading axes; axes of length 1 are accepted. Weight 0 skips a position, NaN included.
    reduction : {"none", "sum", "mean", "sum_over_batch_size"}, default "none"
        Weighted losses as they are; their sum; the sum divided by the sum of the weights; the sum divided by the number of losses. ``None``
        is "none", Keras' "mean_with_sample_weight" is "mean".
    validate : bool, default True
        False skips checks of values that would cost a synchronisation on a GPU; this loss has none.

    Returns
    -------
    array
        In the shape of `y_pred` without `axis` under "none", else 0-d; of the caller's library and device, float32 or float64.

    Raises
    ------
    ValueError
        If shapes do not fit, or a parameter is out of range; the message names argument, place, value and rule.
    TypeError
        If arrays are of different libraries, or hold no real numbers.

    See Also
    --------
    poisson_deviance : `power` 1.
    gamma_deviance : `power` 2.
    mean_squared_error : `power` 0.

    References
    ----------
    .. [Jorgensen1997] Bent Jørgensen, "The Theory of Dispersion Models", Chapman & Hall, 1997.

    Examples
    --------
    >>> import numpy as np
    >>> import polyloss as pl
    >>> pl.tweedie_deviance([[0.0, 1.0]], [[1.0, 1.0]])
    array([2.])
    """
    return call(
        TweedieDeviance,
        y_true,
        y_pred,
        unknown,
        power=power,
        log_input=log_input,
        axis=axis,
        sample_weight=sample_weight,
        reduction=reduction,
        validate=validate,
    )
