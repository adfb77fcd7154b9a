"""What a call of a loss must give, from the contract in docs/semantics.md and the losses' pages: in ball arithmetic, and apart from src.

`TRUTHS` holds one function for each loss of the registry. It takes targets and predictions as balls (rows, classes) and the loss's
parameters, and gives `Parts`: the losses of the rows, and their derivatives with respect to predictions (first and second) and targets.
`expected` puts weights, ignored labels, reductions and normalizers around them. test_fuzz.py compares the truths with those of
tests/oracle.py, which come from mpmath's 40 digits and its difference quotients.
"""

import math
from typing import NamedTuple

import numpy as np
from ball import FORMATS, LONG, UNKNOWN, Ball, above, times, unknown, where


class Parts(NamedTuple):
    """Of each row: its loss (r), and the loss's derivatives (r, c) with respect to predictions, twice the same, and targets."""

    value: Ball
    slope: Ball
    curvature: Ball
    by_target: Ball


def zeros(x):
    return x.exact(np.zeros_like(x.v))


def ones(x):
    return x.exact(np.ones_like(x.v))


def held(x, like):
    """A clip bound as the dtype of the computation holds it: exact."""
    return like.exact(LONG(like.format.dtype.type(x)))


def floored(x, low):
    return where(x.v < low.v, low, x)


def clipped(x, low, high):
    """x in [low, high], -0 as 0, and whether it was inside; NaN is."""
    under, over = x.v < low.v, x.v > high.v
    y = where(under, low, where(over, high, x))
    return Ball(y.v + 0, y.e, y.format), ~(under | over)


def of_target(t, y, log):
    """log y as the derivative of t log y in t: infinite for a target of 0 it counts as 0, and so it may as soon as 1 / y is infinite."""
    log = where((t.v == 0) & (y.v == 0), zeros(y), log)
    return unknown(log, (t.v == 0) & (y.v != 0) & (np.abs(y.v) < 4 / y.format.most))


def combined(value, slope, curvature, by_target, mean=True):
    """Parts of a loss of single elements."""
    c = value.shape[1]
    of = lambda x: (x / LONG(c)).roughly() if mean and c > 1 else x  # noqa: E731
    total = value.limited().sum(1)
    if value.format.dtype == np.float64:  # floats are added up in doubles, doubles in no wider numbers
        total = unknown(total, np.abs(value.v).sum(1) > value.format.most / 4)
    return Parts(of(total), *(of(x.limited()) for x in (slope, curvature, by_target)))


def of_classes(terms):
    """Their sum over the classes; nothing is said where terms of either sign pass the largest number, though their sum need not."""
    size = np.where(np.isfinite(terms.v), np.abs(terms.v), 0)
    return unknown(terms.sum(1), (size > terms.format.most / 4).any(1) & (terms.v > 0).any(1) & (terms.v < 0).any(1))


def sign(x):
    """Either one where the error hides it."""
    hidden = (x.e > 0) & (np.abs(x.v) <= 4 * x.format.unit * x.e)
    return Ball(np.sign(x.v), np.where(hidden, 2 / x.format.unit, 0), x.format)


# -------------------------------------------------------------------------------------------------------------- regression


def of_difference(d, parts):
    """Parts of a loss that is a fraction of p - t (a delta, quantile or divisor times it) where that passes the largest number, and so does
    every computation in the dtype that begins with it: nothing is said of the value. Its slopes are still bounded.
    """
    return parts._replace(value=unknown(parts.value, (np.abs(d.v) > d.format.most / 2).any(1)))


def mean_squared_error(t, p):
    d = p - t
    return combined(d * d, d * 2, ones(d) * 2, d * -2)


def mean_absolute_error(t, p):
    d = p - t
    return combined(d.abs(), sign(d), zeros(d), -sign(d))


def mean_absolute_percentage_error(t, p, epsilon):
    d, low = p - t, held(epsilon, p)
    huge = np.abs(d.v) > p.format.most / 2
    size = t.abs()
    base = floored(size, low)
    terms = (sign(d) / base).roughly(), ((d.abs() / base) / base * sign(t)).roughly()  # each times what comes from above, which is rounded
    by_target = where(size.v > low.v, -terms[0] - terms[1], -terms[0])
    parts = d.abs() / base * 100, sign(d) / base * 100, zeros(d), unknown(by_target * 100, size.v == low.v)
    return combined(*(unknown(x, huge) for x in parts))


def log1p_difference(a, b):
    """log1p(a) - log1p(b)."""
    r = (a - b) / (b + 1)
    far = r.v < -0.5
    return where(far, a.log1p() - b.log1p(), where(far, zeros(r), r).log1p())


def mean_squared_logarithmic_error(t, p, epsilon):
    low = held(epsilon, p)
    a, b = floored(t, low), floored(p, low)
    d = log1p_difference(b, a)
    slope = where(p.v < low.v, zeros(p), d * 2 / (b + 1))
    curvature = where(p.v < low.v, zeros(p), (1 - d) * 2 / (b + 1) / (b + 1))
    by_target = unknown(where(t.v < low.v, zeros(p), d * -2 / (a + 1)), t.v == low.v)
    return combined(d * d, slope, curvature, by_target)


def huber(t, p, delta):
    d, width = p - t, p.near(delta)
    size = d.abs()
    value = above(size - width, (size - width * LONG(0.5)) * width, d * d * LONG(0.5))
    slope = above(size - width, sign(d) * width, d)
    return of_difference(d, combined(value, slope, above(size - width, zeros(d), ones(d)), -slope))


def log_cosh(t, p):
    d = p - t
    size = d.abs()
    near = size.v < 1
    h = where(near, d * LONG(0.5), zeros(d)).sinh()
    far = size + ((size * -2).exp().log1p() - p.near(np.log(LONG(2))))
    e = (size * -2).exp()
    return combined(where(near, (h * h * 2).log1p(), far), d.tanh(), e * 4 / ((e + 1) * (e + 1)), -d.tanh())


def stirling(t, full):
    """Stirling's approximation of log t! for targets above 1, and its derivative."""
    u = where(t.v > 1, t, ones(t))
    log = u.log()
    value = u * log - u + (u * p_of(t, 2 * np.pi)).log() * LONG(0.5)
    counted = (t.v > 1) & full
    return where(counted, value, zeros(t)), unknown(where(counted, log + 1 / (u * 2), zeros(t)), (t.v == 1) & full)


def p_of(like, x):
    """A constant, which is rounded."""
    return like.near(LONG(x))


def poisson(t, p, log_input, full):
    count, count1 = stirling(t, full)
    if log_input:
        m = p.exp()
        return combined(m - times(t, p) + count, m - t, m, count1 - p)
    q = p + p.near(1e-7)
    curvature = times(t, 1 / q / q)
    none = (q.v <= 0) & (t.v != 0)  # no logarithm: the value is NaN, or infinite at 0
    value = p - times(t, q.log()) + count
    return combined(value, unknown(1 - times(t, 1 / q), none), unknown(curvature, none), unknown(count1 - q.log(), q.v <= 0))


def smooth_l1(t, p, beta):
    d, width = p - t, p.near(beta)
    size = d.abs()
    if beta == 0:
        return combined(size, sign(d), zeros(d), -sign(d))
    value = above(width - size, d * d / (width * 2), size - width * LONG(0.5))
    slope = above(width - size, d / width, sign(d))
    return combined(value, slope, above(width - size, ones(d) / width, zeros(d)), -slope)


def pseudo_huber(t, p, delta):
    d = p - t
    x = d / p.near(delta)
    root = (x * x + 1).sqrt()
    return of_difference(d, combined(d * d / (root + 1), d / root, 1 / (root * root * root), -(d / root)))


def quantile_loss(t, p, quantile):
    d, q = t - p, p.near(quantile if np.ndim(quantile) == 0 else np.array(quantile))
    value = where(d.v > 0, d * q, d * (q - 1))
    hidden = (d.e > 0) & (np.abs(d.v) <= 4 * d.format.unit * d.e)  # as in sign(): XLA takes a target below the normal numbers for 0
    slope = unknown(where(d.v > 0, -q + zeros(d), where(d.v < 0, 1 - q + zeros(d), zeros(d))), hidden)
    return of_difference(d, combined(value, slope, zeros(d), -slope))


# --------------------------------------------------------------------------------------------------------------- deviances


def mean_of(p, log_input):
    """The mean that is predicted, and where there is none, or none that the format holds."""
    m = p.exp() if log_input else p
    return m, (m.v > p.format.most / 4) if log_input else (p.v < 0)


def poisson_deviance(t, p, log_input):
    m, none = mean_of(p, log_input)
    u = where(t.v == 0, ones(t), t)
    r = (m - u) / u
    log = p - u.log() if log_input else m.log() - u.log()
    value = where(r.v < -0.5, (m - u) - u * log, u * where(r.v < -0.5, zeros(r), r).excess())
    value = where(t.v == 0, m, value) * 2
    slope, curvature = (m - t) * 2, m * 2
    if not log_input:
        slope, curvature = where(t.v == 0, ones(m), (m - t) / m) * 2, times(t, (1 / m / m).limited()) * 2
    lost = t.v < 2.0**10 * float(np.finfo(t.format.dtype).tiny)  # by autograd t (t / m) goes below the normal numbers, m up to 1000 t
    return outside(value, slope, curvature, unknown(log * -2, lost), none | (t.v < 0), m.v == 0)


def gamma_deviance(t, p, log_input):
    m, none = mean_of(p, log_input)
    v = t * (-p).exp() - 1 if log_input else (t - m) / m
    log = p - t.log() if log_input else m.log() - t.log()
    value = where(v.v < -0.5, v + log, where(v.v < -0.5, zeros(v), v).excess()) * 2
    if log_input:
        slope, curvature = (1 - t * (-p).exp()) * 2, t * (-p).exp() * 2
    else:
        slope, curvature = (m - t) / m / m * 2, (t - m * LONG(0.5)) / m / m / m * 4
    return outside(value, slope, curvature, (t - m) / t / m * 2, none | (t.v < 0), (m.v == 0) | (t.v == 0))


def tweedie_deviance(t, p, power, log_input):
    if power == 0:
        m, none = mean_of(p, log_input)
        parts = mean_squared_error(t, m)
        if not log_input:
            return parts
        d = m - t
        return combined(d * d, d * m * 2, (d + m) * m * 2, d * -2)
    if power in (1, 2):
        return (poisson_deviance if power == 1 else gamma_deviance)(t, p, log_input)
    m, none = mean_of(p, log_input)
    n, positive = LONG(power), t.v > 0
    u = where(positive, t, ones(t))
    r = (m - u) / u
    near = np.abs(r.v) < 0.05
    x, coefficient, total = np.where(near, r.v, 0), LONG(1), LONG(0)
    for k in range(24):  # of the integral of x (1 + x)**-n
        total = total + coefficient * x ** (k + 2) / (k + 2)
        coefficient = coefficient * (-n - k) / (k + 1)
    terms = [t.exact(np.where(positive, u.v ** (2 - n) / ((1 - n) * (2 - n)), 0)), t.exact(-t.v * m.v ** (1 - n) / (1 - n)),
             t.exact(m.v ** (2 - n) / (2 - n))]  # fmt: skip
    half = np.where(near & positive, u.v ** (2 - n) * total, terms[0].v + terms[1].v + terms[2].v)
    size = sum(np.abs(x.v) for x in terms)
    slope = (m - t) * m.power(-n)
    logs = np.abs(np.log(np.where(m.v > 0, m.v, 1))) + np.abs(np.log(u.v))
    rounding = np.where(np.abs(r.v) < 0.4, np.abs(half), size) * (8 + abs(n) + logs)
    value = Ball(half * 2, 2 * (rounding + np.abs(slope.v) * m.e), t.format)
    curvature = m.power(-n) - (m - t) * m.power(-n - 1) * p_of(t, n)
    if log_input:
        slope, curvature = (m - t) * m.power(1 - n), m.power(2 - n) + (m - t) * m.power(1 - n) * p_of(t, 1 - n)
    by_target = (m.power(1 - n) - u.power(1 - n)) / p_of(t, 1 - n) * -2
    beyond = none | (t.v < 0) | (sum(np.abs(m.power(k).v) for k in (-n, 1 - n, 2 - n)) > t.format.most / 4)
    lost = t.v < 2.0**20 * float(np.finfo(t.format.dtype).tiny)  # there 1 / t overflows, by autograd
    return outside(value, slope * 2, curvature * 2, unknown(by_target, ~positive | lost), beyond, (m.v == 0) | ((t.v == 0) & (n > 1)))


def outside(value, slope, curvature, by_target, beyond, edge):
    """Nothing is said of a deviance beyond the domain, or where its edge makes it infinite."""
    mask = beyond | edge
    return combined(*(unknown(x, mask) for x in (value, slope, curvature, by_target)))


# ------------------------------------------------------------------------------------------------------------- of decisions


def exponential(t, p, labels, decided):
    t, factor, huge = plus_minus(t, labels, decided)
    e = (-(t * p)).exp()
    return combined(*(unknown(x, huge) for x in (e, -t * e, t * t * e, p * e * -factor)))


def logistic(t, p, labels, decided):
    t, factor, huge = plus_minus(t, labels, decided)
    m = (t * p).limited()
    value = (-m.abs()).exp().log1p() + where(m.v < 0, -m, zeros(m))
    up, down = sigmoids(m)
    return combined(*(unknown(x, huge) for x in (value, -t * down, t * t * up * down, p * down * -factor)))


# ------------------------------------------------------------------------------------------------------------------ hinges


def plus_minus(t, labels, decided):
    """Targets as -1 and 1, the factor of a derivative with respect to those given, and where they are too large for the formula."""
    mapped = labels == "01" or (labels == "auto" and decided)
    huge = np.abs(t.v) > t.format.most**0.5 / 4
    if not mapped:
        return t, 1, huge
    signs = t * 2 - 1
    between = (t.v != 0) & (t.v != 1)  # t - (1 - t) will do
    return Ball(signs.v, signs.e + np.where(between, 1, 0), t.format), 2, huge


def hinge(t, p, labels, decided):
    t, factor, huge = plus_minus(t, labels, decided)
    m = (1 - t * p).limited()
    value = where(m.v <= 0, Ball(np.zeros_like(m.v), np.where(m.v > -4 * m.format.unit * m.e, m.e, 0), m.format), m)
    return combined(*(unknown(x, huge) for x in (value, above(m, -t, zeros(p)), zeros(p), above(m, p * -factor, zeros(p)))))


def squared_hinge(t, p, labels, decided):
    t, factor, huge = plus_minus(t, labels, decided)
    m = (1 - t * p).limited()
    m = where(m.v <= 0, Ball(np.zeros_like(m.v), np.where(m.v > -4 * m.format.unit * m.e, m.e, 0), m.format), m)
    parts = m * m, t * m * -2, above(1 - t * p, t * t * 2, zeros(p)), p * m * (-2 * factor)
    return combined(*(unknown(x, huge) for x in parts))


def categorical_hinge(t, p):
    wrong = (1 - t) * p
    huge = (np.abs(wrong.v) > p.format.most / 4).any(1) | (np.abs((t * p).v) > p.format.most / 4).any(1)
    top = np.argmax(wrong.v, axis=1)
    at = np.arange(wrong.shape[1]) == top[:, None]
    largest = wrong[np.arange(len(top)), top]
    gap = largest[:, None] - wrong
    close = ~at & (wrong.e + largest.e[:, None] > 0) & (gap.v <= 4 * p.format.unit * gap.e)
    m = (largest - (t * p).sum(1) + 1)[:, None]
    value = where(m.v <= 0, Ball(np.zeros_like(m.v), np.where(m.v > -4 * m.format.unit * m.e, m.e, 0), m.format), m)
    slope = above(m + zeros(p), where(at, 1 - t, zeros(t)) - t, zeros(p))
    slope = unknown(slope, (close | (at & close.any(1, keepdims=True))))
    by_target = above(m + zeros(p), -p - where(at, p, zeros(p)), zeros(p))
    by_target = unknown(by_target, (close | (at & close.any(1, keepdims=True))))
    return Parts(unknown(value[:, 0], huge), unknown(slope, huge[:, None]), zeros(p), unknown(by_target, huge[:, None]))


# ------------------------------------------------------------------------------------------------------------- binary losses


def by_given(by_target, factor):
    """A derivative with respect to smoothed targets as one to those given.

    Nothing is said where it passes the largest number, times what comes from above, before the factor is reached, which may be 0.
    """
    huge = (np.isfinite(by_target.v) & (np.abs(by_target.v) > by_target.format.most / 16)) | (by_target.e > UNKNOWN**0.5)
    return by_target if isinstance(factor, int) else unknown(by_target * factor, huge & (factor.v != 1))


def of_factor(factor, x):
    """A derivative in targets, times a factor of the class; nothing is said where autograd's is NaN: x times what comes from above, at most
    3 times a weight of 1e30, passes the largest number, and the factor is 0.
    """
    return unknown(times(factor, x), (factor.v == 0) & (np.abs(x.v) > x.format.most / 1e32) | (x.e > UNKNOWN**0.5))


def sigmoids(z):
    """The logistic function of z and of -z."""
    e = z.abs().__neg__().exp()
    small, large = e / (e + 1), 1 / (e + 1)
    return where(z.v >= 0, large, small), where(z.v >= 0, small, large)


def smoothed(t, amount, c):
    """Targets with a share of `amount` spread over c classes, and the factor of a derivative with respect to those given."""
    return (t, t.exact(LONG(1))) if amount == 0 else (t * (1 - t.near(amount)) + t.near(amount) / LONG(c), 1 - t.near(amount))


def binary_parts(t, p, from_logits, epsilon, k=None):
    """Cross-entropy, of which a positive target's part counts k times, and miss u = 1 - p_t, each with two derivatives in p and one in t;
    and where p is not clipped.
    """
    kt, both = (t, 1) if k is None else (t * k, 1 - t + t * k)
    if from_logits:
        up, down = sigmoids(p)
        zero = zeros(p)
        above, below, rest = where(p.v >= 0, p, zero), where(p.v >= 0, zero, -p), (-p.abs()).exp().log1p()
        value = times(1 - t, above) + times(kt, below) + rest * both
        above_0, below_0 = (where((s.v == 0) & np.isinf(x.v), zero, x) for s, x in ((1 - t, above), (t, below)))  # as of_target() has it
        by_target = below_0 - above_0 if k is None else times(k + zero, below_0 + rest) - (above_0 + rest)
        b = value, (1 - t) * up - kt * down, up * down * both, by_target
        u1 = (1 - 2 * t) * (up * down)
        return b, (t * down + (1 - t) * up, u1, u1 * (down - up), down - up), np.ones(p.shape, bool)
    y, inside = clipped(p, held(epsilon, p), held(1 - epsilon, p))
    z = 1 - y
    value = -(times(kt, y.log()) + times(1 - t, (-y).log1p()))
    slope = times(1 - t, 1 / z) - times(kt, 1 / y)
    both = (slope.v != slope.v) & ~np.isnan(p.v) & ~np.isnan(t.v)  # opposite infinities
    curvature = times(kt, 1 / y / y) + times(1 - t, 1 / z / z)
    u = times(t, z) + times(1 - t, y)
    log_y = of_target(t, y, y.log())
    log_y = log_y if k is None else times(k + zeros(p), log_y)
    b = value, unknown(slope, both), curvature, of_target(1 - t, z, (-y).log1p()) - log_y
    return b, (u, 1 - 2 * t, zeros(t), 1 - 2 * y), inside


def binary_crossentropy(t, p, pos_weight, from_logits, label_smoothing, epsilon):
    t, factor = smoothed(t, label_smoothing, 2)
    k = None if pos_weight == 1.0 else p.near(pos_weight)
    (value, slope, curvature, by_target), _, inside = binary_parts(t, p, from_logits, epsilon, k)
    return combined(value, where(inside, slope, zeros(p)), where(inside, curvature, zeros(p)), by_given(by_target, factor))


def binary_focal_crossentropy(t, p, apply_class_balancing, alpha, gamma, from_logits, label_smoothing, epsilon):
    t, factor = smoothed(t, label_smoothing, 2)
    entropy, (u, u1, u2, ut), inside = binary_parts(t, p, from_logits, epsilon)
    b, b1, b2, bt = (x.limited() for x in entropy)  # before the power, which may be tiny, is multiplied by it
    a = p.near(alpha)
    w, wt = (t * a + (1 - t) * (1 - a), a * 2 - 1) if apply_class_balancing else (ones(t), p.exact(LONG(0)))
    f, f1, f2 = u.power(gamma), u.power(gamma - 1) * gamma, u.power(gamma - 2) * (gamma * (gamma - 1))
    near = times(f2 * u1 * u1, b) + (times(f1 * u2, b) + times(f1 * u1, b1) * 2)
    beside = lambda x, infinite: where(np.isinf(infinite.v), zeros(x), x)  # noqa: E731  # b, a logarithm, is far below its derivatives
    slope, curvature = f * b1 + beside(times(f1 * u1, b), b1), beside(near, b2) + f * b2
    by_target = w * (times(f1 * ut, b) + f * bt)
    by_target = by_target + wt * f * b if apply_class_balancing else by_target
    by_target = unknown(by_target, (w.v == 0) & np.isinf(b.v))
    out = u.v < 0  # targets beyond 0 and 1 have no power
    counted = lambda x: w * where((w.v == 0) & np.isinf(x.v), zeros(x), x)  # noqa: E731  # beside a balance of 0 nothing infinite counts
    parts = (counted(f * b), *(where(inside, counted(x), zeros(p)) for x in (slope, curvature)), by_given(by_target, factor))
    huge = (w.v == 0) & (curvature.e > UNKNOWN**0.5)  # it passes the largest number before the balance of 0 is applied
    parts = (*parts[:2], unknown(parts[2], huge), parts[3])
    limit = (u.v == 0) & (gamma < 2)  # where what vanishes is divided by what vanishes
    if gamma:  # autograd's power has a derivative of its own, which is multiplied by the logarithm later
        power = u.power(gamma - 1)
        parts = (*parts[:3], unknown(parts[3], (u.v > 0) & (np.abs(power.v) > power.format.most / 16)))
    return combined(*(unknown(x, out if k == 0 else out | limit) for k, x in enumerate(parts)))


# -------------------------------------------------------------------------------------------------------- losses of shares


class Shares(NamedTuple):
    """p / Σp along the classes, clipped."""

    y: Ball
    inside: np.ndarray
    edge: np.ndarray  # where rounding decides whether it is clipped
    total: Ball


def shares(p, epsilon):
    total = p.sum(1)[:, None]
    q, low, high = p / total, held(epsilon, p), held(1 - epsilon, p)
    y, inside = clipped(q, low, high)
    off = 4 * p.format.unit * q.e
    loose = np.abs(q.v - y.v) / p.format.unit + q.e
    edge = (q.e > 0) & ((np.abs(q.v - low.v) <= off) | (np.abs(q.v - high.v) <= off))
    y = Ball(y.v, np.where(edge, loose, y.e), y.format)  # and whether it is the bound or itself
    return Shares(y, inside, edge, total)


def of_shares(p, part, value, first, second, by_target):
    """Σ_c f(t_c, y_c): the chain rule through p / Σp; derivatives come as pairs, f' and f' y, f'' and f'' y²."""
    (first, hy), (second, gyy) = first, second
    h, g = where(part.inside, first, zeros(p)), where(part.inside, second, zeros(p))
    a, b = where(part.inside, hy, zeros(p)).sum(1)[:, None], where(part.inside, gyy, zeros(p)).sum(1)[:, None]
    slope = (h - a) / part.total
    curvature = (g * (1 - part.y * 2) - h * 2 + (b + a * 2)) / part.total / part.total
    loose = (part.edge & (first.v != 0)).any(1) | sums_overflow(h)[:, 0]  # all of the row depends on what is clipped
    total = part.total[:, 0]
    near = np.abs(total.v) <= 8 * p.format.unit * total.e  # the order of addition decides
    open_ = (near & (total.e > 0) & (total.v != 0)) | (np.abs(total.v) > p.format.most / 2)
    open_ = open_ | ((total.v == 0) & (p.v != 0).any(1))
    open_ = open_ | ((p.v == 0).any(1) & (total.v < 0))  # whose share nears 0 from either side
    none = (p.v == 0).all(1)  # no shares: NaN

    def row(x, mask):
        mask, absent = (mask, none) if x.v.ndim == 1 else (mask[:, None], none[:, None])
        x = unknown(x, mask & ~absent)
        return Ball(np.where(absent, np.nan, x.v), np.where(absent, 0, x.e), x.format)

    return Parts(row(value, open_), row(slope, loose | open_), row(curvature, loose | open_), unknown(by_target, (open_ | none)[:, None]))


def categorical_crossentropy(t, p, from_logits, label_smoothing, epsilon):
    t, factor = smoothed(t, label_smoothing, p.shape[1])
    if from_logits:
        return crossentropy_of_logits(t, p, factor)
    part = shares(p, epsilon)
    y = part.y
    by_target = by_given(-of_target(t, y, y.log()), factor)
    return of_shares(p, part, of_classes(times(t, -y.log())), (times(t, -(1 / y)), -t), (times(t, 1 / y / y), t), by_target)


def sparse_categorical_crossentropy(t, p, from_logits, epsilon):
    return categorical_crossentropy(t, p, from_logits, 0.0, epsilon)


def categorical_focal_crossentropy(t, p, alpha, gamma, from_logits, label_smoothing, epsilon):
    t, factor = smoothed(t, label_smoothing, p.shape[1])
    a = p.near(alpha)  # a number, or one for each class
    if from_logits:
        return focal_of_logits(t, p, factor, a, gamma)
    part = shares(p, epsilon)
    y, u = part.y, 1 - part.y
    f, f1, f2 = u.power(gamma), u.power(gamma - 1) * gamma, u.power(gamma - 2) * (gamma * (gamma - 1))
    of = -(f * y.log())
    yl = times(y, y.log())
    first = times(f1, y.log()) - times(f, 1 / y), f1 * yl - f  # of a gamma of 0 or 1 there is no f1 or f2, nor a power of an infinity
    slow = where(y.v == 0, zeros(y), y.log())  # beside 1 / y², which is infinite faster
    second = times(f, 1 / y / y) + times(f1 * 2, 1 / y) - times(f2, slow), f + f1 * 2 * y - f2 * y * yl
    first, second = (tuple(times(t * a, x) for x in pair) for pair in (first, second))
    limit = ((u.v == 0) & (gamma < 2)).any(1)
    by_target = by_given(of_factor(a + zeros(p), -(f * of_target(t, y, y.log()))), factor)
    parts = of_shares(p, part, of_classes(times(t * a, of)), first, second, by_target)
    return balanced(t * a, parts._replace(slope=unknown(parts.slope, limit[:, None]), curvature=unknown(parts.curvature, limit[:, None])))


def balanced(ta, parts):
    """Parts of a focal loss, of which nothing is said where a target times its alpha passes the largest number: it is the first product."""
    lost = (np.isfinite(ta.v) & (np.abs(ta.v) > ta.format.most / 4)).any(1)
    return parts._replace(value=unknown(parts.value, lost), slope=unknown(parts.slope, lost[:, None]),
                          curvature=unknown(parts.curvature, lost[:, None]))  # fmt: skip


# -------------------------------------------------------------------------------------------------------- losses of logits


class Softmax(NamedTuple):
    """Along the classes: log p, p, 1 - p."""

    l: Ball
    p: Ball
    q: Ball


def softmax(z):
    top = np.arange(z.shape[1]) == np.argmax(z.v, axis=1)[:, None]
    greatest = Ball(z.v, np.broadcast_to(z.e, z.v.shape), z.format)[np.arange(len(z.v)), np.argmax(z.v, axis=1)][:, None]
    d = where(top, zeros(z), z - greatest)
    e = where(top, ones(z), d.exp())
    none = ~np.isfinite(z.v.max(1))[:, None]  # +inf, NaN, or nothing but -inf
    rest = where(top, zeros(z), e).sum(1)[:, None]
    rest = where(none, LONG(np.nan) * np.ones_like(rest.v), rest)
    p = e / (rest + 1)
    l = (d - rest.log1p()).limited()  # logits of either sign may be farther apart than the largest number
    return Softmax(l, p, where(top, rest / (rest + 1), 1 - p))


def probabilities(z):
    """The softmax, as the exponential of its logarithm."""
    s = softmax(z)
    return Ball(s.p.v, s.p.e + s.p.v * np.where(s.p.v > 0, 1 + np.abs(s.l.v), 0), z.format)


def of_log_softmax(s, value, first, second, by_target):
    """Σ_c f(t_c, log p_c): the chain rule, in terms that cancel no more than they must.

    The others' sum may be taken as a difference from the sum of all: soft targets lose what the largest hides, a label loses nothing.
    """
    h, g, p, q = first, second, s.p, s.q
    others = h.others()
    hidden = np.minimum(np.abs(h.v), np.abs(others.v) / p.format.unit)
    slope = h * q - p * Ball(others.v, others.e + np.where(np.isfinite(hidden), hidden, 0), p.format)
    curvature = g * q * q + p * p * g.others() - p * q * h.sum(1)[:, None]
    huge = sums_overflow(h)
    return Parts(value, unknown(slope, huge), unknown(curvature, huge), by_target)


def sums_overflow(h):
    """Rows whose targets have a sum, of which the slopes are shares, that is no number of the dtype: nothing is said of those."""
    return (np.abs(np.where(np.isfinite(h.v), h.v, 0)).sum(1) > h.format.most / 4)[:, None]


def crossentropy_of_logits(t, z, factor=1, class_weight=None):
    s = softmax(z)
    k = ones(z) if class_weight is None else class_weight + zeros(z)
    kt = k * t
    l = where((t.v == 0) & np.isinf(s.l.v), zeros(z), s.l)  # infinite, for a target of 0: it counts as 0
    value = unknown(of_classes(-times(kt, s.l)), np.isnan(s.l.v).all(1) & (kt.v == 0).all(1))  # no target, and a row without a softmax
    value = unknown(value, sums_overflow(kt)[:, 0])  # a target times the weight of its class is the first product
    by_target = by_given(-where(np.isnan(l.v), l, of_factor(k, l)), factor)
    return of_log_softmax(s, value, -kt, zeros(z), by_target)


def softmax_loss(t, p, label_smoothing, z_loss, softcap, class_weight=None):
    t, factor = smoothed(t, label_smoothing, p.shape[1])
    z, first, second = capped(p, softcap)
    value, slope, curvature, by_target = crossentropy_of_logits(t, z, factor, class_weight)
    if z_loss:
        s, k = softmax(z), p.near(z_loss)
        at = np.arange(len(z.v)), np.argmax(z.v, axis=1)
        lse = z[at] - s.l[at]
        value = value + k * (lse * lse)
        lse = lse[:, None]
        slope, curvature = slope + k * 2 * lse * s.p, curvature + k * 2 * (lse * s.p * s.q + s.p * s.p)
        huge = np.isfinite(lse.v) & (np.abs((k * 2 * lse).v) > p.format.most / 4)  # the factor of the softmax
        slope, curvature = unknown(slope, huge), unknown(curvature, huge)
    if softcap is None:
        return Parts(value, slope, curvature, by_target)
    return Parts(value, slope * first, curvature * first * first + slope * second, by_target)


def capped(z, softcap):
    """Logits as softcap tanh(z / softcap), and two derivatives."""
    if softcap is None:
        return z, None, None
    cap = z.near(softcap)
    x = z / cap
    e, y = (x.abs() * -2).exp(), x.tanh()
    first = e * 4 / ((e + 1) * (e + 1))
    return y * cap, first, y * first * -2 / cap


def focal_of_logits(t, z, factor, a, gamma):
    s = softmax(z)
    pl = times(s.p, s.l)
    f, f1, f2 = s.q.power(gamma), s.q.power(gamma - 1) * gamma, s.q.power(gamma - 2) * (gamma * (gamma - 1))
    of = -times(f, s.l)
    first = -(t * a * (f - f1 * pl))
    second = t * a * (f1 * (s.p * 2 + pl) - f2 * s.p * pl)
    parts = of_log_softmax(s, of_classes(times(t * a, of)), first, second, by_given(of_factor(a + zeros(z), of), factor))
    alone = s.q.v == 0  # one possible class
    loose = alone.any(1)[:, None] if gamma < 2 else np.zeros_like(alone)
    return balanced(t * a, parts._replace(slope=unknown(parts.slope, loose), curvature=unknown(parts.curvature, loose)))


def poly1_crossentropy(t, p, poly_epsilon):
    s, k = softmax(p), p.near(poly_epsilon)
    tp, c = t * s.p * k, p.shape[1]
    value = of_classes(times(t, -s.l)) + k * ((1 - t.sum(1)) + (t * s.q).sum(1) if c > 1 else 1 - t.sum(1))
    value = unknown(value, np.isnan(s.l.v).all(1) & (t.v == 0).all(1))  # no target, and a row without a softmax
    l = where((t.v == 0) & np.isinf(s.l.v), zeros(p), s.l)  # infinite, for a target of 0: it counts as 0
    parts = of_log_softmax(s, value, -t - tp, -tp, unknown(-l - s.p * k, sums_overflow(t * k)))
    others = t.others()  # both terms' sums are taken of all targets, and then h may be 0 where none of the two is
    hidden = np.minimum(np.abs(t.v), np.abs(others.v) / p.format.unit) * (1 + np.abs(k.v))
    parts = parts._replace(slope=Ball(parts.slope.v, parts.slope.e + s.p.v * np.where(np.isfinite(hidden), hidden, 0), p.format))
    hard = (((t.v == 0) | (t.v == 1)).all(1) & (t.v.sum(1) == 1))[:, None]  # one label y: its terms can be put together
    y = (s.p * t).sum(1)[:, None]
    other = s.p * (s.q * (1 + k * y) - k * y * s.p)
    label = s.p * s.q * (1 + k * (s.p - s.q))
    curvature = where(hard & (t.v == 1), label, where(hard, other, parts.curvature))
    return parts._replace(curvature=unknown(curvature, sums_overflow(t)))


# ---------------------------------------------------------------------------------------------------------- similarity


def kl_divergence(t, p, epsilon):
    a, kept = clipped(t, t.exact(LONG(0)), t.exact(LONG(1)))
    y, inside = clipped(p, held(epsilon, p), p.exact(LONG(1)))
    y.v = y.v + 0  # of -0 the quotient below would have the other sign
    r = (a - y) / y
    near = np.abs(r.v) < 0.5
    log = where(near, where(near, r, zeros(r)).log1p(), (where(a.v == 0, ones(a), a) / y).log())
    slope = where(inside, -times(a, 1 / y), zeros(p))
    curvature = where(inside, times(a, 1 / y / y), zeros(p))
    by_target = where(kept, log + 1, zeros(p))
    lost = t.v < 2.0**20 * float(np.finfo(t.format.dtype).tiny)  # by autograd 1 is t, times what comes from above, over t
    return combined(times(a, log), slope, curvature, unknown(by_target, (t.v == 1) | lost), mean=False)


def brier(t, p):
    d = p - t
    return combined(d * d, d * 2, ones(d) * 2, d * -2, mean=False)


def unit_vectors(x):
    """x / ‖x‖ and 1 / ‖x‖, 0 for a vector of zeros."""
    scale = np.abs(x.v).max(1)[:, None]
    zero = scale == 0
    scale = x.exact(np.where(zero | np.isinf(scale), 1, scale))
    y = x / scale
    norm = (y * y).sum(1)[:, None].sqrt().roughly()
    norm = where(zero, np.ones_like(norm.v), norm)
    return where(zero, np.zeros_like(y.v), y / norm), where(zero, np.zeros_like(norm.v), 1 / norm / scale)


def cosine_similarity(t, p):
    (a, over_t), (b, over_p) = unit_vectors(t), unit_vectors(p)
    cos = (a * b).sum(1)[:, None]
    curvature = (a * b * 2 + cos - cos * b * b * 3) * over_p * over_p
    return Parts(-cos[:, 0], (b * cos - a) * over_p, curvature, (a * cos - b) * over_t)


# --------------------------------------------------------------------------------------- labels, two numbers for a target, and sets


def multiclass_hinge(t, p, margin, power, average):
    right, c = t.v == 1, p.shape[1]
    of_label = (p * t).sum(1)[:, None]
    m = p.near(margin) + p - of_label
    counted = ~right
    if not average and c > 1:  # the first of the largest
        top = np.argmax(np.where(right, -np.inf, np.maximum(p.v, np.finfo(LONG).min)), axis=1)
        counted = counted & (np.arange(c) == top[:, None])
    m = where(m.v > 0, m, Ball(np.zeros_like(m.v), np.where(m.v > -4 * m.format.unit * m.e, m.e, 0), m.format))
    m, divided = where(counted, m, zeros(p)), c if average else 1
    terms = m if power == 1 else m * m
    value = terms.sum(1) / LONG(divided)
    if p.format.dtype == np.float64:  # as in combined()
        value = unknown(value, np.abs(terms.v).sum(1) > p.format.most / 4)
    margins = p.near(margin) + p - of_label
    first = where(counted, above(margins, ones(p), zeros(p)) if power == 1 else (m * 2).limited(), zeros(p)) / LONG(divided)
    second = where(counted, zeros(p) if power == 1 else above(margins, ones(p) * 2, zeros(p)), zeros(p)) / LONG(divided)
    together = lambda x, sign: where(right, x.sum(1)[:, None] * sign, x)  # noqa: E731
    return Parts(value.limited(), together(first, -1).limited(), together(second, 1), zeros(p))


def generalized_crossentropy(t, p, q):
    right = t.v == 1
    y = (p * t).sum(1) if p.shape[1] else p[:, 0]
    y = where((np.where(right, p.v, 0) == 0).all(1), zeros(y), y)
    k = p.near(q)
    value = -((y.log() * k).expm1() / k)
    own = p.exact(np.where(right, p.v, 1))
    own.e = np.where(right, np.broadcast_to(p.e, p.v.shape), 0)
    none, negative = own.v == 0, own.v < 0
    off = p.near(q).e * np.abs(np.log(np.where(own.v > 0, own.v, 1)))  # of a power whose exponent begins with the rounding of q
    slope, curvature = (Ball(x.v, x.e + np.abs(x.v) * off, x.format) for x in (-own.power(q - 1), own.power(q - 2) * (1 - k)))
    if q < 1:
        slope, curvature = where(none, LONG(-np.inf) * np.ones_like(p.v), slope), where(none, LONG(np.inf) * np.ones_like(p.v), curvature)
    slope, curvature = (where(right, unknown(x, negative), zeros(p)) for x in (slope, curvature))
    return Parts(value, slope, curvature, zeros(p))


def gaussian_nll(t, p):
    mean, v = p[:, :1], p[:, 1:]
    inverse = (v * LONG(-0.5)).exp()
    r = (mean - t) * inverse
    square = (r * r).limited()
    beside = lambda a, b: where(np.arange(2) == 0, a + zeros(p), b + zeros(p))  # noqa: E731
    value = (v + square) * LONG(0.5)
    slope, curvature = beside((r * inverse).limited(), (1 - square) * LONG(0.5)), beside((inverse * inverse).limited(), square * LONG(0.5))
    huge = np.abs(v.v) > 4 * np.log(p.format.most)  # e^(-v/2) leaves the format, and what it is multiplied by need not
    return Parts(unknown(value[:, 0], huge[:, 0]), unknown(slope, huge), unknown(curvature, huge), zeros(p))


def overlap(t, p, alpha, beta, epsilon):
    a, b, low = p.near(alpha), p.near(beta), p.near(epsilon)
    apart = ((t * (1 - p)).sum(1) * a + (p * (1 - t)).sum(1) * b + low)[:, None]
    whole = apart + (t * p).sum(1)[:, None]
    share = apart / whole
    by_p, by_t = t * (1 - a - b) + b, p * (1 - a - b) + a
    slope = ((1 - share) * by_p - t) / whole
    curvature = by_p * 2 * ((t - (1 - share) * by_p) / whole) / whole
    size = np.abs(t.v * p.v) + max(1, alpha) * np.abs(t.v * (1 - p.v)) + max(1, beta) * np.abs(p.v * (1 - t.v))
    huge = size.sum(1)[:, None] > p.format.most / 4  # no sum is told of a sum that passes the largest number on its way
    parts = share[:, 0], slope, curvature, ((1 - share) * by_t - p) / whole
    return Parts(*(unknown(x, huge[:, 0] if k == 0 else huge) for k, x in enumerate(parts)))


def dice(t, p):
    return overlap(t, p, 0.5, 0.5, 0.5e-7)


def jaccard(t, p):
    return overlap(t, p, 1.0, 1.0, 1e-7)


def tversky(t, p, alpha, beta):
    return overlap(t, p, alpha, beta, 1e-7)


TRUTHS = {function.__name__: function for function in (
    mean_squared_error, mean_absolute_error, mean_absolute_percentage_error, mean_squared_logarithmic_error, huber, log_cosh, poisson,
    hinge, squared_hinge, categorical_hinge, binary_crossentropy, binary_focal_crossentropy, categorical_crossentropy,
    sparse_categorical_crossentropy, categorical_focal_crossentropy, softmax_loss, poly1_crossentropy, kl_divergence,
    cosine_similarity, smooth_l1, pseudo_huber, quantile_loss, poisson_deviance, gamma_deviance, tweedie_deviance, exponential,
    logistic, brier, multiclass_hinge, generalized_crossentropy, gaussian_nll, dice, jaccard, tversky)}  # fmt: skip


# ------------------------------------------------------------------------------------------- weights, reductions, normalizers


class Expected(NamedTuple):
    """What a call must give."""

    losses: Ball  # the value: of the losses' shape, or 0-d
    gradient: Ball  # in the shape of the predictions, and so the rest
    hessian: Ball
    by_target: Ball  # None for labels
    by_weight: Ball  # of the losses' shape; None without weights
    by_class: Ball  # (positions, classes): what each position has to do with the weight of each class; None without weights of classes
    by_divisor: Ball  # None without a denominator
    prob: Ball  # None but for softmax_loss


def computed(dtype):
    """The dtype of the computation of predictions in a dtype, by name."""
    return "float64" if dtype == "float64" else "float32"


def expected(loss, t, p, *, dtype, flushed=False, axis=-1, labelled=False, sample_weight=None, reduction="none", ignore=(),
             class_weight=None, normalization=None, denominator=None, error=None, mask=None, **params):  # fmt: skip
    """The truth of a call: NumPy arrays as the caller gave them; `dtype` names that of the computation.

    XLA flushes what is below the normal numbers to 0; with `flushed` that is no error. Predictions that are results themselves, and not
    held by the dtype, come with their `error` in its units.
    """
    fmt = FORMATS[dtype]
    if flushed:
        fmt = fmt._replace(least=LONG(float(np.finfo(fmt.dtype).tiny)) / fmt.unit)
    if mask is not None:  # as if they were not there
        t, p = np.where(mask, t, np.zeros_like(t)), np.where(mask, p, np.zeros_like(p))
    if axis is None or isinstance(axis, tuple):
        found = expected_of_sets(loss, np.asarray(t), np.asarray(p), axis, dtype=dtype, flushed=flushed, sample_weight=sample_weight,
                                 reduction=reduction, **params)  # fmt: skip
        return found if mask is None else found._replace(**{name: _where_kept(getattr(found, name), mask) for name in SHAPED})
    if mask is not None:
        found = expected(loss, t, p, dtype=dtype, flushed=flushed, axis=axis, sample_weight=sample_weight, reduction=reduction, **params)
        return found._replace(**{name: _where_kept(getattr(found, name), mask) for name in SHAPED})
    with np.errstate(all="ignore"):
        return _expected(loss, np.asarray(t), np.asarray(p), fmt, flushed, axis, labelled, sample_weight, reduction, ignore,
                         class_weight, normalization, denominator, error, params)  # fmt: skip


SHAPED = ("gradient", "hessian", "by_target")  # results in the shape of the predictions


def _where_kept(x, mask):
    return where(mask, x, np.zeros_like(x.v))


def expected_of_sets(loss, t, p, axis, **options):
    """The truth of a call whose sets lie along several axes: they are put together at the end, and its results back where they belong."""
    axes = tuple(range(p.ndim)) if axis is None else tuple(i % p.ndim for i in axis)
    losses = tuple(i for i in range(p.ndim) if i not in axes)
    order = losses + axes
    shape = tuple(p.shape[i] for i in losses)
    flat = lambda x: x.transpose(order).reshape((*(shape or (1,)), math.prod(p.shape[i] for i in axes)))  # noqa: E731
    weight = options.pop("sample_weight", None)
    weight = None if weight is None else np.broadcast_to(leading(weight, shape, -1), shape).reshape(shape or (1,))
    found = expected(loss, flat(t), flat(p), axis=-1, sample_weight=weight, **options)
    back = lambda x: x.reshape([p.shape[i] for i in order]).transpose(np.argsort(order))  # noqa: E731
    restored = {name: Ball(back(x.v), back(np.broadcast_to(x.e, x.v.shape)), x.format) for name in SHAPED for x in [getattr(found, name)]}
    value = found.losses
    by_weight = found.by_weight
    if not shape:
        value = value[0] if value.v.ndim else value
        by_weight = None if by_weight is None else by_weight[0]
    return found._replace(losses=value, by_weight=by_weight, **restored)


def taken(x, fmt, flushed=False):
    """An argument in the dtype of the computation: exact from there on, but for what XLA takes for 0 since it is below the normal numbers
    of the computation, or of the argument's own dtype when it is cast."""
    v = np.asarray(x).astype(fmt.dtype).astype(LONG)
    e = LONG(0)
    if flushed:
        own = np.asarray(x).dtype
        tiny = max(float(np.finfo(d).tiny) for d in (fmt.dtype, own if own.kind == "f" and own.itemsize > 2 else fmt.dtype))
        e = np.where(np.abs(v) <= tiny, np.abs(v) / fmt.unit, 0)  # tiny itself is below it after one rounding
    return Ball(v, e, fmt)


def _expected(loss, t, p, fmt, flushed, axis, labelled, sample_weight, reduction, ignore, class_weight, normalization, denominator, error,
              params):  # fmt: skip
    if p.ndim == 0:
        t, p, axis = t.reshape(1) if not labelled else t, p.reshape(1), 0
        scalar = True
    else:
        scalar = False
    axis %= p.ndim
    c, losses = p.shape[axis], p.shape[:axis] + p.shape[axis + 1 :]
    rows = lambda x: np.moveaxis(x, axis, -1).reshape(-1, c)  # noqa: E731
    z = taken(rows(p), fmt, flushed) if error is None else Ball(rows(p), rows(error), fmt)
    n = len(z.v)
    valued = loss == "gaussian_nll" or isinstance(params.get("quantile"), tuple)  # one number for each position
    if labelled:
        labels = [int(x) for x in t.reshape(-1).tolist()]
        ignored = np.array([x in ignore for x in labels], bool)
        one_hot = np.zeros((n, c))
        one_hot[np.flatnonzero(~ignored), [x for x, skip in zip(labels, ignored, strict=True) if not skip]] = 1
        given = Ball(one_hot, LONG(0), fmt)
    else:
        laid = t.reshape(n, 1) if valued else rows(t)
        given, ignored = taken(laid, fmt, flushed), np.zeros(n, bool)
        given.e = np.where(given.v == laid.astype(LONG), given.e, np.abs(given.v))  # a kernel may read wider targets as they are
    hidden = labelled and class_weight is not None and not (params.get("label_smoothing") or params.get("z_loss"))
    if hidden:  # a label of weight 0 is skipped
        k0 = np.asarray(class_weight).astype(fmt.dtype) == 0
        ignored = ignored | ((one_hot * k0).sum(1) > 0)
    w = None
    if sample_weight is not None:
        w = taken(np.broadcast_to(leading(sample_weight, losses, axis), losses).reshape(-1), fmt, flushed)
    skip = ignored if w is None else ignored | (w.v == 0)
    clean = given, z
    if skip.any():  # what lies there reaches nothing
        blank = lambda x: Ball(np.where(skip[:, None], 1 / LONG(c), x.v), np.where(skip[:, None], 0, x.e), fmt)  # noqa: E731
        clean = blank(given), blank(z)
    undecided = False
    if loss in ("hinge", "squared_hinge", "exponential", "logistic"):
        kept = given.v if w is None else given.v[w.v != 0]
        params["decided"] = bool(((kept == 0) | (kept == 1)).all())
        as_0 = flushed and (np.abs(kept) <= float(np.finfo(fmt.dtype).tiny))  # XLA may take them for 0
        undecided = params.get("labels") == "auto" and params["decided"] != bool((as_0 | (kept == 0) | (kept == 1)).all())
    k = None if class_weight is None else taken(class_weight, fmt)
    if loss == "softmax_loss":
        params["class_weight"] = k
    parts = open_at_infinities(loss, *clean, TRUTHS[loss](*clean, **params), params)
    if undecided:
        parts = Parts(*(unknown(x, np.ones(x.shape, bool)) for x in parts))
    if w is not None:  # XLA may take a weight for 0, and then nothing of its position is seen: neither NaN nor an infinity
        perhaps = (w.e > 0) & ~(np.isfinite(z.v).all(1) & np.isfinite(given.v).all(1) & np.isfinite(parts.value.v))
        parts = Parts(unknown(parts.value, perhaps), *(unknown(x, perhaps[:, None]) for x in parts[1:]))

    gone = lambda x: x if not skip.any() else where(skip if x.v.ndim == 1 else skip[:, None], np.zeros_like(x.v), x)  # noqa: E731
    weighted = lambda x: gone(x.limited() if w is None else (x.limited() * (w if x.v.ndim == 1 else w[:, None])).roughly().limited())  # noqa: E731
    value = weighted(parts.value)
    d, counted = divisor(fmt, reduction, normalization, denominator, p.shape, axis, given, labelled, w, k, skip, ignored, n)

    def over(x):
        if d is None:
            return x
        divided = unknown((x / where(d.v == 0, LONG(1), d)).roughly(), x.e > UNKNOWN**0.5)  # nothing is known of it by an infinity either
        return where(d.v == 0, np.zeros_like(x.v), divided)

    open_ = (np.full(n, d is not None and np.isnan(d.v)) & ~skip)[:, None]  # NaN goes into the values; a gradient may be 0 times NaN
    by_target_open = open_ if w is None else open_ | (np.isnan(w.v) & ~skip)[:, None]  # by a target autograd may hand a 0 past a weight

    def divided(x, mask=open_):
        return gone(unknown(over(x), mask))

    total = None if reduction in ("none", None) else over(value.sum(0, wide=True).limited() if n else Ball(LONG(0), LONG(0), fmt))
    back = lambda x: np.moveaxis(x.reshape((*losses, c)), -1, axis)  # noqa: E731
    shape = () if scalar else p.shape
    restored = lambda x: Ball(back(x.v).reshape(shape), back(np.broadcast_to(x.e, x.v.shape)).reshape(shape), fmt)  # noqa: E731
    by_weight = None
    # The divisor depends on the weights, and by autograd that term has the whole sum in it, or the mean times what counts for 0.
    lost = counted is not None and total is not None and (total.e > UNKNOWN**0.5 or np.abs(value.v).sum() > fmt.most / 16)
    if w is not None:
        own = parts.value.limited()
        by_weight = over(gone(own) if counted is None or total is None else own - total * counted)
        by_weight = unknown(by_weight, skip | lost).reshape(losses if not scalar else ())
    by_target = None
    if loss == "quantile_loss" and valued:
        by_target = divided(weighted(parts.by_target), by_target_open).sum(1).limited().reshape(t.shape)
    elif not labelled and not valued:
        by_target = divided(weighted(parts.by_target), by_target_open).limited()
        if loss in ("poisson", "poisson_deviance", "tweedie_deviance"):
            # Of t log t autograd hands down to the logarithm what comes from above (a weight by a divisor, times 3 at most) times 2 t, and
            # that may be infinite before it is divided by t.
            above = np.abs(over(ones(given[:, 0]) if w is None else w).v)[:, None] * np.abs(given.v)
            by_target = unknown(by_target, above > fmt.most / 32)
        if counted is not None and reduction == "normalize":  # the normalizer depends on the targets
            by_target = unknown(by_target, np.ones(by_target.v.shape, bool))
        by_target = restored(by_target)
    by_class = by_divisor = None
    if k is not None:
        by_class = by_class_weight(*clean, params, w, skip)
        if counted is not None and total is not None and denominator is None:
            shares = clean[0] if w is None else clean[0] * w[:, None]
            by_class = by_class - total * where(skip[:, None], np.zeros_like(shares.v), shares)
        by_class = over(by_class).roughly(2).limited()
        finite = all(np.isfinite(x.v).all() for x in (z, given, value, *([] if w is None else [w])))
        open_class = hidden_labels(given, k) if finite and hidden else np.full(given.shape, not finite)
        by_class = unknown(by_class, open_class | (lost and denominator is None))
    if denominator is not None and total is not None:
        by_divisor = unknown(-(total / where(d.v == 0, LONG(1), d)).roughly(), d.v == 0)
    return Expected(
        (value.reshape(losses if not scalar else ()) if total is None else total),
        restored(divided(weighted(parts.slope))),
        restored(divided(weighted(parts.curvature))),
        by_target,
        by_weight,
        by_class,
        by_divisor,
        restored(probabilities(capped(z, params["softcap"])[0])) if loss == "softmax_loss" else None,
    )


ROWWISE = ("categorical_hinge", "categorical_crossentropy", "sparse_categorical_crossentropy", "categorical_focal_crossentropy",
           "softmax_loss", "poly1_crossentropy", "cosine_similarity", "multiclass_hinge", "generalized_crossentropy", "gaussian_nll",
           "dice", "tversky", "jaccard", "quantile_loss")  # fmt: skip
RULED = ("softmax_loss", "poly1_crossentropy", "categorical_crossentropy", "sparse_categorical_crossentropy", "binary_crossentropy")


def open_at_infinities(loss, t, p, parts, params):
    """Parts with nothing said where an argument is infinite or NaN, but for the losses from logits, and that NaN goes through.

    A loss that is NaN by a prediction has slopes that are, of that element or, where classes are taken together, of the row.
    """
    ruled = loss in RULED and params.get("from_logits", loss in RULED[:2])
    k = params.get("class_weight")
    ruled = ruled and (k is None or (k.v != 0).all())
    odd = ~np.isfinite(t.v) | (np.zeros(p.v.shape, bool) if ruled else ~np.isfinite(p.v))
    if not odd.any():
        return parts
    row = odd.any(1)
    if loss in ROWWISE:
        odd = row[:, None] & np.ones_like(odd)
    beside = t.v > 0 if loss == "kl_divergence" else t.v != 0  # which takes targets below 0 for 0
    nan = (np.isnan(t.v) | (np.isnan(p.v) & beside)).any(1) & (k is None or (k.v != 0).all())
    value = unknown(parts.value, row)
    none = lambda x, mask: Ball(np.where(mask, np.nan, x.v), np.where(mask, 0, x.e), x.format)  # noqa: E731
    slope, curvature, by_target = (unknown(x, odd) for x in parts[1:])
    if not ruled:
        lost = np.isnan(p.v) & (beside | (loss not in ("kl_divergence", *ROWWISE))) & (p.shape[1] > 1 or loss != "multiclass_hinge")
        if loss in ROWWISE and loss not in ("generalized_crossentropy", "quantile_loss"):
            lost = lost.any(1)[:, None] & np.ones_like(lost)
        kept = lost & np.isfinite(t.v) & (loss not in ("mean_squared_logarithmic_error", "kl_divergence"))  # targets may be clipped there
        slope, by_target = none(slope, lost), none(by_target, kept)
    return Parts(none(value, nan), slope, curvature, by_target)


def by_class_weight(t, p, params, w, skip):
    """Weighted losses of each class, which its weight multiplies: (positions, classes)."""
    t, _ = smoothed(t, params["label_smoothing"], p.shape[1])
    l = softmax(capped(p, params["softcap"])[0]).l
    terms = unknown(times(t, -l), (t.v == 0) & ((np.abs(l.v) > l.format.most / 16) | (l.e > UNKNOWN**0.5)))  # times what comes from above
    terms = terms if w is None else times(w[:, None] + zeros(terms), terms)
    return where(skip[:, None], np.zeros_like(terms.v), terms)


def hidden_labels(given, k):
    """Where a label's class has a weight of 0, so that its position is skipped: by that weight it has a slope all the same, if it can."""
    return (given.v != 0) & (k.v == 0)


def divisor(fmt, reduction, normalization, denominator, shape, axis, given, labelled, w, k, skip, ignored, n):
    """What the sum is divided by (None: 1); and, where it is a sum of weights, what each weight counts for."""
    exact = lambda x: Ball(LONG(x), LONG(0), fmt)  # noqa: E731
    if reduction in (None, "none", "sum"):
        return None, None
    if reduction == "sum_over_batch_size":
        return exact(max(n, 1)), None
    if reduction == "normalize":
        if denominator is not None:
            return taken(denominator, fmt), None
        if normalization == "none":
            return None, None
        if normalization in ("full", "batch_size"):
            return exact(max(n if normalization == "full" else int(np.prod(shape[:axis])), 1)), None
        if w is None and k is None:
            return exact(max(n - int(ignored.sum()), 1)), None
        counted = (given if k is None else given * k).sum(1) if n else given[:, 0]
        if labelled and k is None:
            counted = exact(1) + Ball(np.zeros(n), LONG(0), fmt)
    else:
        if w is None:
            return exact(max(n - int(ignored.sum()), 1)), None
        counted = Ball(np.ones(n), LONG(0), fmt)
    one = counted if w is None else times(counted, w)
    one = where(skip, np.zeros_like(one.v), one)
    total = one.sum(0) if n else exact(0)
    return where(np.abs(total.v) > np.finfo(float).max, exact(np.inf), total), counted  # beyond the doubles that it is kept in


def leading(weight, losses, axis):
    """A sample weight in a shape that broadcasts to the losses."""
    w = np.asarray(weight)
    if w.ndim == len(losses) + 1:
        w = w[..., 0] if w.shape[-1] == 1 else np.squeeze(w, axis)
    return w.reshape(w.shape + (1,) * (len(losses) - w.ndim))
