"""The elementwise kernels: every formula against mpmath, every layout, dtype, size and number of threads against NumPy sums of elements."""

import itertools
import multiprocessing
import os

import mpmath
import numpy as np
import pytest
from kernels import ELEMENTWISE as PARAMETERS, arranged, every_isa, from_bits, to_bits
from mpmath import mpf

from polyloss._kernels.cpu import elementwise

os.environ.setdefault("KERAS_BACKEND", "numpy")
EPSILON = 1e-7
NAMES = list(PARAMETERS)


isa = every_isa(elementwise)


def clip(x, low, high):
    return low if x < low else high if x > high else x


def xlogy(x, y):
    return x * mpmath.log(y) if x else mpf(0)


def sigmoid(z):
    return 1 / (1 + mpmath.exp(-z))


def entropy(t, y):
    return -xlogy(t, y) - xlogy(1 - t, 1 - y)


def focal(t, y, balance, alpha, gamma):
    w = t * alpha + (1 - t) * (1 - alpha) if balance else 1
    return w * (1 - (t * y + (1 - t) * (1 - y))) ** gamma * entropy(t, y)


def of_count(t, full):
    return full * (t * mpmath.log(t) - t + mpmath.log(2 * mpmath.pi * t) / 2) if t > 1 else mpf(0)


def tweedie(t, m, n):
    if t == 0:
        return 2 * m ** (2 - n) / (2 - n)
    return 2 * (t ** (2 - n) / ((1 - n) * (2 - n)) - t * m ** (1 - n) / (1 - n) + m ** (2 - n) / (2 - n))


def weighted(t, y, k):
    return -(k * t * mpmath.log(y) if t else 0) - ((1 - t) * mpmath.log(1 - y) if t != 1 else 0)


def smooth(t, s):
    return t * (1 - s) + s / 2


# The definitions, as the literature and Keras 3 write them; the dtype's own rounding of clip bounds comes in as high.
DEFINITIONS = {
    "mean_squared_error": lambda t, p, high: (p - t) ** 2,
    "mean_absolute_error": lambda t, p, high: abs(p - t),
    "mean_absolute_percentage_error": lambda t, p, high, e: 100 * abs(t - p) / max(abs(t), e),
    "mean_squared_logarithmic_error": lambda t, p, high, e: (mpmath.log(1 + max(p, e)) - mpmath.log(1 + max(t, e))) ** 2,
    "hinge": lambda t, p, high, zero_one: max(1 - (2 * t - 1 if zero_one else t) * p, mpf(0)),
    "squared_hinge": lambda t, p, high, zero_one: max(1 - (2 * t - 1 if zero_one else t) * p, mpf(0)) ** 2,
    "binary_crossentropy": lambda t, p, high, e, s: entropy(smooth(t, s), clip(p, e, high)),
    "binary_crossentropy_from_logits": lambda t, z, high, s: entropy(smooth(t, s), sigmoid(z)),
    "weighted_binary_crossentropy": lambda t, p, high, k, e, s: weighted(smooth(t, s), clip(p, e, high), k),
    "weighted_binary_crossentropy_from_logits": lambda t, z, high, k, s: weighted(smooth(t, s), sigmoid(z), k),
    "floored_binary_crossentropy": lambda t, p, high: entropy(t, p),
    "huber": lambda t, p, high, d: (p - t) ** 2 / 2 if abs(p - t) <= d else d * (abs(p - t) - d / 2),
    "log_cosh": lambda t, p, high: mpmath.log(mpmath.cosh(p - t)),
    "poisson": lambda t, p, high, full: p - t * mpmath.log(p + high) + of_count(t, full),
    "poisson_from_logarithms": lambda t, z, high, full: mpmath.exp(z) - t * z + of_count(t, full),
    "smooth_l1": lambda t, p, high, b: (p - t) ** 2 / (2 * b) if abs(p - t) < b else abs(p - t) - b / 2,
    "pseudo_huber": lambda t, p, high, d: d * d * (mpmath.sqrt(1 + ((p - t) / d) ** 2) - 1),
    "quantile_loss": lambda t, p, high, q: max(q * (t - p), (q - 1) * (t - p)),
    "poisson_deviance": lambda t, p, high: 2 * (xlogy(t, t / p) - t + p),
    "poisson_deviance_from_logarithms": lambda t, z, high: 2 * (xlogy(t, t) - t * z - t + mpmath.exp(z)),
    "gamma_deviance": lambda t, p, high: 2 * (mpmath.log(p / t) + t / p - 1),
    "gamma_deviance_from_logarithms": lambda t, z, high: 2 * (z - mpmath.log(t) + t * mpmath.exp(-z) - 1),
    "tweedie_deviance": lambda t, p, high, n: tweedie(t, p, n),
    "tweedie_deviance_from_logarithms": lambda t, z, high, n: tweedie(t, mpmath.exp(z), n),
    "hinge_embedding": lambda t, p, high, m: (p if t != -1 else 0) + (max(m - p, mpf(0)) if t != 1 else 0),
    "exponential": lambda t, p, high, zero_one: mpmath.exp(-(2 * t - 1 if zero_one else t) * p),
    "logistic": lambda t, p, high, zero_one: mpmath.log(1 + mpmath.exp(-(2 * t - 1 if zero_one else t) * p)),
    "kl_divergence": lambda t, p, high, e: xlogy(clip(t, mpf(0), mpf(1)), clip(t, mpf(0), mpf(1)) / clip(p, e, mpf(1))),
    "kl_from_logarithms": lambda t, p, high: xlogy(t, t) - t * p,
    "kl_between_logarithms": lambda t, p, high: mpmath.exp(t) * (t - p),
    "binary_focal_crossentropy": lambda t, p, high, b, a, g, e, s: focal(smooth(t, s), clip(p, e, high), b, a, g),
    "binary_focal_crossentropy_from_logits": lambda t, z, high, b, a, g, s: focal(smooth(t, s), sigmoid(z), b, a, g),
}


def pairs(name, dtype, n=10):
    """Targets and predictions: ordinary ones, and those where a naive formula cancels."""
    rng = np.random.default_rng(len(name))

    def u(a, b):
        return rng.uniform(a, b, n)

    zero, one = np.zeros(n), np.ones(n)
    if name == "kl_from_logarithms":
        cases = [(u(0.01, 0.99), u(-9, -5)), (10 ** u(-9, 0), u(-1e-3, 0)), (zero, u(-9, 0))]
    elif name == "kl_between_logarithms":
        cases = [(u(-9, 0), u(-9, 0)), (u(-80, 0), u(-80, 0)), (u(0, 9), u(-9, 9))]
    elif "logits" in name:
        cases = [(zero, u(-3, 3)), (one, u(-3, 3)), (u(0, 1), u(-9, 9)), (zero, u(-85, 85)), (one, u(-85, 85)), (zero, u(-1e-3, 1e-3))]
    elif "binary" in name:
        cases = [(zero, u(0.01, 0.99)), (one, u(0.01, 0.99)), (u(0, 1), u(0.01, 0.99))]
        cases += [(zero, 10 ** u(-6.9, -1)), (one, 1 - 10 ** u(-6, -1)), (zero, 1 - 10 ** u(-6, -1)), (one, 10 ** u(-6.9, -1))]
    elif name == "kl_divergence":
        t = u(0.01, 0.99)
        cases = [
            (t, u(0.01, 0.99)),
            (10 ** u(-9, 0), 10 ** u(-6.9, 0)),
            (t, t * (1 + u(-1e-2, 1e-2))),
            (t, t * (1 + u(-1e-5, 1e-5))),
            (zero, t),
        ]
    elif name == "mean_squared_logarithmic_error":
        t = 10 ** u(-5, 5)
        cases = [(t, 10 ** u(-6, 6)), (t, t * (1 + u(-1e-2, 1e-2))), (t, t * (1 + u(-1e-5, 1e-5)))]
    elif "deviance_from" in name:
        t = 10 ** u(-1, 1)
        cases = [(t, np.log(t) + u(0.3, 3)), (t, np.log(t) - u(0.3, 3))]
    elif "deviance" in name:
        t = 10 ** u(-3, 3)
        cases = [(t, t * u(0.3, 3)), (t, t * 10 ** u(-6, 6)), (t, t * (1 + u(-1e-2, 1e-2))), (t, t * (1 + 10 ** u(-5, -3)))]
        cases += [] if "gamma" in name else [(zero, t)]
    elif name == "poisson_from_logarithms":
        cases = [(u(0, 3), u(-3, 3)), (zero, u(-3, 3))]
    elif name == "poisson":
        cases = [(u(0, 3), 10 ** u(-6, 2)), (np.floor(u(0, 9)), 10 ** u(-3, 2)), (zero, u(0, 3))]
    elif "hinge" in name or name in ("exponential", "logistic"):
        cases = [(np.where(u(0, 1) < 0.5, -1.0, 1.0), u(-3, 3)), (one, 1 + u(-1e-4, 1e-4))]
    else:
        t = u(-3, 3)
        cases = [
            (t, t + u(-3, 3)),
            (zero, 10 ** u(-8, 0)),
            (zero, -(10 ** u(-8, 0))),
            (t, t + 10 ** u(0, 1)),
            (t, t * (1 + u(-1e-5, 1e-5))),
        ]
    t, p = (np.concatenate(x).astype(dtype) for x in zip(*cases, strict=True))
    return t, p


def one_by_one(name, t, p, parameters=None, orders=2):
    """Value, slope and curvature of every pair, as far as asked, through the kernel with one element per position."""
    n = t.size
    losses, *derivatives = np.empty((n, 1), p.dtype), np.empty((n, 1, 1), p.dtype), np.empty((n, 1, 1), p.dtype)
    parameters = PARAMETERS[name] if parameters is None else parameters
    outputs = dict(zip(("grad", "hess"), derivatives[:orders], strict=False))
    elementwise.run(name, t.reshape(n, 1, 1), p.reshape(n, 1, 1), parameters, losses=losses, **outputs)
    return losses.ravel(), *(x.ravel() for x in outputs.values())


def exact(name, t, p, dtype, parameters):
    """The same by mpmath: the definition, and its difference quotients."""
    one = np.dtype(dtype).type
    rounded = [mpf(float(one(x))) for x in parameters]
    epsilon = one(EPSILON)
    high = mpf(float(epsilon if name == "poisson" else one(1) - epsilon))
    definition, h = DEFINITIONS[name], mpf(10) ** -60

    def f(t, p):
        return definition(t, p, high, *rounded)

    with mpmath.workdps(320):
        t, p = [mpf(float(x)) for x in t], [mpf(float(x)) for x in p]
        value = [f(a, b) for a, b in zip(t, p, strict=True)]
        above, below = [f(a, b + h) for a, b in zip(t, p, strict=True)], [f(a, b - h) for a, b in zip(t, p, strict=True)]
        slope = [(x - y) / (2 * h) for x, y in zip(above, below, strict=True)]
        curvature = [(x + y - 2 * v) / h**2 for x, y, v in zip(above, below, value, strict=True)]
    return value, slope, curvature


def worst(got, want, dtype, floor):
    """Largest distance in units of the last place; of `floor` where the exact number is smaller than that."""
    limits, at = np.finfo(dtype), 0.0
    with mpmath.workdps(40):
        for g, w, f in zip(got, want, floor, strict=True):
            size = max(abs(w), f, mpf(max(float(limits.tiny), 1e-60)))  # difference quotients are right to 1e-100
            at = max(at, float(abs(mpf(float(g)) - w) / mpmath.ldexp(1, int(mpmath.frexp(size)[1]) - limits.nmant - 1)))
    return at


# Units of the last place of value, slope and curvature. Where a formula's own terms cancel, the rounding of t and p already decides, so the
# unit is that of the largest term: soft targets near the prediction, Poisson's p - t log p, the difference p - t in an exponent.
BOUNDS = dict.fromkeys(NAMES, (3, 2, 4)) | {
    "mean_squared_logarithmic_error": (5, 3.5, 8),
    "log_cosh": (2.2, 3.5, 30),
    "binary_crossentropy_from_logits": (2, 3, 4),
    "binary_focal_crossentropy": (4, 4, 6),
    "binary_focal_crossentropy_from_logits": (4, 4, 12),
    "poisson_from_logarithms": (4, 3, 2),
    "pseudo_huber": (3, 2, 6),
    "poisson_deviance": (5, 2, 3),
    "poisson_deviance_from_logarithms": (14, 3, 2),
    "gamma_deviance": (5, 2, 6),
    "gamma_deviance_from_logarithms": (14, 4, 5),
    "tweedie_deviance": (7, 3, 6),
    "tweedie_deviance_from_logarithms": (8, 4, 3),
}


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("name", NAMES)
def test_formulas_against_mpmath(isa, name, dtype):
    t, p = pairs(name, dtype)
    value, slope, curvature = exact(name, t, p, dtype, PARAMETERS[name])
    soft = [mpf(0 if x in (0, 1) else 1) for x in t] if "binary" in name else [mpf(0)] * t.size
    term = [abs(mpf(float(a)) * mpmath.log(float(b) + EPSILON)) for a, b in zip(t, p, strict=True)] if name == "poisson" else soft
    d = [mpf(0)] * t.size
    if name == "binary_focal_crossentropy_from_logits":
        d = [mpf(1)] * t.size  # u1² and u u2 cancel at some logit
    if name == "mean_squared_logarithmic_error":
        d = [2 / (1 + mpf(float(x))) ** 2 for x in p]  # 1 - log cancels where p is e times t
    if name in ("gamma_deviance", "tweedie_deviance"):
        d = [2 / mpf(float(x)) ** (2 if name == "gamma_deviance" else 1.5) for x in p]  # the curvature is 0 where p is 2 t, or 3 t
    if name == "poisson_from_logarithms":
        soft = [mpmath.exp(mpf(float(x))) for x in p]
    ours = one_by_one(name, t, p)
    kink = np.isin(name, ["mean_absolute_error", "mean_absolute_percentage_error", "huber", "hinge"]) & (p == t)
    assert not kink.any()
    floors = term, soft, [max(a, b) for a, b in zip(soft, d, strict=True)]
    for got, want, floor, bound in zip(ours, (value, slope, curvature), floors, BOUNDS[name], strict=True):
        assert worst(got, want, dtype, floor) < bound
    # Builds of their own: without derivatives, with the first; and targets 0 and 1 alone, which take a shorter way.
    for orders, some in itertools.product((0, 1), (np.ones(t.size, bool), np.isin(t, (0, 1)))):
        got = one_by_one(name, t[some], p[some], orders=orders)
        for x, *truth, bound in zip(got, (value, slope), floors, BOUNDS[name], strict=False):
            want, floor = ([y for y, k in zip(part, some, strict=True) if k] for part in truth)
            assert worst(x, want, dtype, floor) < bound


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("gamma", [0.5, 1.0, 1.5, 2.0, 3.0])
def test_focal_loss_of_labels_to_the_last_digits(isa, gamma, dtype):
    """The slope of a sure prediction goes with the cube of an exponential: its error would count thrice."""
    rng = np.random.default_rng(7)
    z, t = np.concatenate([rng.uniform(-25, 25, 150), rng.uniform(-3, 3, 50)]).astype(dtype), rng.integers(0, 2, 200).astype(dtype)
    name, parameters = "binary_focal_crossentropy_from_logits", (1.0, 0.25, gamma, 0.0)
    truth = exact(name, t, z, dtype, parameters)
    t[0] = 0.5  # one other target, and a vector takes the formula of all
    for given in (t, np.where(t == 0.5, 0, t).astype(dtype)):
        for got, want in zip(one_by_one(name, given, z, parameters, orders=1), truth, strict=False):
            assert worst(got[1:], want[1:], dtype, [mpf(0)] * 199) < (4 if isa != "x86-64-v2" or gamma < 3 else 5)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("huber", (0.3,)),
        ("binary_crossentropy", (0.01, 0.2)),
        ("binary_crossentropy_from_logits", (0.1,)),
        ("binary_focal_crossentropy", (1.0, 0.3, 1.5, 1e-7, 0.1)),
        ("binary_focal_crossentropy", (1.0, 0.25, 0.0, 1e-7, 0.0)),
        ("binary_focal_crossentropy", (0.0, 0.25, 3.3, 1e-7, 0.0)),
        ("binary_focal_crossentropy_from_logits", (1.0, 0.3, 0.5, 0.1)),
        ("mean_absolute_percentage_error", (0.5,)),
        ("kl_divergence", (0.2,)),
        ("poisson", (1.0,)),
        ("poisson_from_logarithms", (1.0,)),
        ("smooth_l1", (0.25,)),
        ("pseudo_huber", (3.0,)),
        *(("tweedie_deviance", (power,)) for power in (-1.5, 1.1, 2.5, 3.0)),
        *(("tweedie_deviance_from_logarithms", (power,)) for power in (-1.5, 1.1, 3.0)),
    ],
)
def test_parameters(isa, name, parameters, monkeypatch):
    t, p = pairs(name, "f8")
    if name == "tweedie_deviance" and parameters[0] > 2:
        t, p = t[t > 0], p[t > 0]
    high = 1 - parameters[{"binary_crossentropy": 0, "binary_focal_crossentropy": 3}.get(name, 0)]
    if "binary" in name and "logits" not in name:
        monkeypatch.setitem(DEFINITIONS, name, lambda t, p, _, *a, f=DEFINITIONS[name]: f(t, p, mpf(high), *a))
    for got, want in zip(one_by_one(name, t, p, parameters), exact(name, t, p, "f8", parameters), strict=True):
        np.testing.assert_allclose(got, np.array([float(w) for w in want]), rtol=1e-12, atol=1e-13)


def test_hinge_with_labels_0_and_1(isa):
    t, p = np.array([0.0, 1.0, 0.0, 1.0]), np.array([0.3, 0.3, -2.0, 1.0])
    for name in ("hinge", "squared_hinge"):
        for mapped, plain in zip(one_by_one(name, t, p, (1.0,)), one_by_one(name, 2 * t - 1, p, (0.0,)), strict=True):
            assert np.array_equal(mapped, plain)


def test_conventions_at_kinks_and_clip_bounds(isa):
    for dtype in ("f4", "f8"):
        one = np.dtype(dtype).type

        def slope(name, t, p, one=one):
            return one_by_one(name, np.array([t], one), np.array([p], one))[1][0]

        assert slope("mean_absolute_error", 2.0, 2.0) == 0
        assert slope("mean_absolute_percentage_error", 2.0, 2.0) == 0
        assert slope("hinge", 1.0, 1.0) == 0
        assert slope("huber", 0.0, 1.0) == 1
        for p in (-1.0, 0.0, 1.0, 2.0):
            for t in (0.0, 1.0, 0.4):
                assert slope("binary_crossentropy", t, p) == 0
                assert slope("binary_focal_crossentropy", t, p) == 0
        assert slope("kl_divergence", 0.5, 1.5) == 0
        assert slope("kl_divergence", 0.5, 1.0) == -0.5
        assert slope("kl_divergence", 0.5, 0.0) == 0
        assert slope("mean_squared_logarithmic_error", 1.0, -5.0) == 0
        high = one(1) - one(EPSILON)
        value = one_by_one("binary_crossentropy", np.array([0, 1], one), np.array([2, 2], one))[0]
        assert value == pytest.approx([-np.log1p(-np.float64(high)), -np.log(np.float64(high))], rel=1e-6)


def test_infinite_and_missing_numbers(isa):
    inf, nan = np.inf, np.nan
    for dtype in ("f4", "f8"):
        t, z = np.array([1, 0, 1, 0, 1, 0], dtype), np.array([inf, -inf, -inf, inf, nan, nan], dtype)
        value, slope, _ = one_by_one("binary_crossentropy_from_logits", t, z)
        assert np.array_equal(value, [0, 0, inf, inf, nan, nan], equal_nan=True)
        assert np.array_equal(slope, [0, 0, -1, 1, nan, nan], equal_nan=True)
        value, slope, _ = one_by_one("binary_focal_crossentropy_from_logits", t, z)
        assert np.array_equal(value, [0, 0, inf, inf, nan, nan], equal_nan=True)
        assert np.array_equal(slope, [0, 0, -1, 1, nan, nan], equal_nan=True)
        for name in NAMES:
            for t0, p0 in ((0.5, nan), (nan, 0.5))[: 1 if name == "hinge_embedding" else 2]:  # torch's: any other target is as good
                t, p = np.array([t0], dtype), np.array([p0], dtype)
                assert np.isnan(one_by_one(name, t, p)[0]).all(), name
        assert one_by_one("kl_divergence", np.array([0.0], dtype), np.array([0.0], dtype))[0] == 0
        assert one_by_one("poisson", np.array([0.0], dtype), np.array([-1.0], dtype))[0] == -1


LAYOUTS = ("c", "fortran", "reversed", "strided", "offset", "channels last")


def check(name, t, p, *, combine="mean", weight=None, scale=1.0, bf16=False, threads=1, outputs="c", rtol=None):
    """One call against sums of single elements in float64."""
    wide = from_bits(p) if bf16 else p
    n, c, s = p.shape
    dtype = np.float64 if p.dtype == np.float64 else np.float32
    v, g, h = (x.reshape(n, c, s) for x in one_by_one(name, t.astype(np.float64).ravel(), wide.astype(np.float64).ravel()))
    w = np.ones((n, s)) if weight is None else weight.astype(np.float64)
    keep, divisor = w != 0, c if combine == "mean" else 1
    want = np.where(keep, np.where(keep[:, None], v, 0).sum(1) / divisor * w, 0)
    slope = np.where(keep[:, None], g * w[:, None] * scale / divisor, 0)
    curvature = np.where(keep[:, None], h * w[:, None] * scale / divisor, 0)
    losses, other = np.full((n, s), 7, dtype), np.full(p.shape, 7, p.dtype)
    grad, hess = arranged(other.copy(), outputs), arranged(other.copy(), outputs)
    frozen = t.tobytes(), p.tobytes()
    arguments = dict(bf16=bf16, combine=combine, weight=weight, scale=scale, threads=threads)
    total, weights, *_ = elementwise.run(name, t, p, PARAMETERS[name], losses=losses, grad=grad, hess=hess, **arguments)
    assert frozen == (t.tobytes(), p.tobytes())
    rtol = rtol or (1e-13 if dtype == np.float64 else 2e-6)
    tiny = rtol * max(np.abs(want).max(initial=0), 1e-30)
    np.testing.assert_allclose(losses, want, rtol, tiny)
    assert np.array_equal(losses == 0, (want == 0) | (losses == 0))
    assert total == pytest.approx(want.sum(), rel=rtol, abs=tiny)
    assert weights == pytest.approx(w.sum(), rel=1e-6)
    for got, exact in ((grad, slope), (hess, curvature)):
        stored = from_bits(got) if bf16 else got
        rounding = 2.0**-8 if bf16 else 2.0**-10 if p.dtype == np.float16 else rtol
        floor = 3e-8 if p.dtype == np.float16 else 0  # half of its smallest number
        cancels = 0.2 * rtol * max(abs(exact).max(initial=0), 1e-30)  # soft targets
        np.testing.assert_allclose(stored, exact, rounding, floor + cancels)
        assert (stored[~np.broadcast_to(keep[:, None], p.shape)] == 0).all()
    # Each subset of outputs gives the same numbers.
    alone, *_ = elementwise.run(name, t, p, PARAMETERS[name], **arguments)
    assert alone == pytest.approx(want.sum(), rel=rtol, abs=tiny)
    only = arranged(np.full(p.shape, 7, p.dtype), outputs)
    elementwise.run(name, t, p, PARAMETERS[name], grad=only, **arguments)
    bits = 1e-2 if bf16 else 1e-3 if p.dtype == np.float16 else rtol
    np.testing.assert_allclose(only.astype(float), grad.astype(float), bits, 0.2 * rtol * np.abs(slope).max(initial=0))


def numbers(name, shape, dtype="f4", seed=0):
    rng = np.random.default_rng(seed)
    t, p = rng.random(shape), rng.uniform(0.02, 0.98, shape)
    if "hinge" in name or name in ("exponential", "logistic"):
        t = np.where(t < 0.5, -1.0, 1.0)
    if name == "gamma_deviance":
        p = p / 2 + 0.5  # its curvature goes with the inverse cube, which float16 does not hold
    if "percentage" in name:
        t = t + 0.5
    if "binary" in name:
        t = np.where(t < 0.7, t < 0.4, t)
    return t.astype("f8" if dtype == "f8" else "f4"), p.astype(dtype)


SHAPES = [
    (1, 1, 1),
    (5, 1, 1),
    (1, 7, 1),
    (3, 4, 5),
    (2, 17, 1),
    (70, 9, 1),
    (3, 1, 33),
    (2, 3, 1025),
    (3, 600, 1),
    (2, 5, 2),
    (1, 2050, 3),
    (33, 64, 1),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes_and_layouts(isa, shape):
    rng = np.random.default_rng(3)
    weight = rng.integers(0, 3, (shape[0], shape[2])).astype(np.float32)
    for k, (lt, lp) in enumerate(itertools.product(LAYOUTS, LAYOUTS)):
        name = NAMES[(k + shape[1]) % len(NAMES)]
        t, p = numbers(name, shape, "f8" if k % 3 == 0 else "f4", seed=k)
        t, p = arranged(t, lt), arranged(p, lp)
        t.flags.writeable = p.flags.writeable = False
        check(name, t, p, weight=weight if k % 2 else None, combine=("mean", "sum")[k % 3 == 1], scale=1 / 3, outputs=LAYOUTS[k % 6])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "bf16"])
def test_every_loss_in_every_dtype(isa, name, dtype):
    for shape in ((40, 13, 1), (2, 3, 150)):
        t, p = numbers(name, shape, "f4" if dtype == "bf16" else dtype)
        if dtype == "bf16":
            p = to_bits(p)
        weight = np.linspace(0, 2, shape[0] * shape[2]).reshape(shape[0], shape[2])
        check(name, t, p, weight=weight, bf16=dtype == "bf16")
        check(name, t, p, bf16=dtype == "bf16", outputs="strided")


@pytest.mark.parametrize("kind", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", "f2", "f4", "f8"])
def test_targets_of_every_kind(isa, kind):
    t = np.arange(70).reshape(2, 5, 7) % 2
    _, p = numbers("mean_squared_error", t.shape)
    for layout in ("c", "strided"):
        got = elementwise.run("mean_squared_error", arranged(t.astype(kind), layout), p)
        assert got == elementwise.run("mean_squared_error", arranged(t.astype("f4"), layout), p)


def test_half_precision_is_rounded_once_to_nearest_even(isa):
    """Every float16 goes in and out; float32 gradients are rounded as NumPy rounds them."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)][:, None, None]
    grad = np.empty_like(every)
    zero = np.zeros(every.shape, np.float32)
    elementwise.run("mean_squared_error", zero, every, grad=grad, scale=0.5)
    assert np.array_equal(grad, every)
    rng = np.random.default_rng(4)
    ones, grad = np.ones((50, 1, 1), np.float16), np.empty((50, 1, 1), np.float16)
    for scale in 10.0 ** rng.uniform(-9, 5, 200):
        elementwise.run("mean_squared_error", zero[:50], ones, grad=grad, scale=scale)
        with np.errstate(over="ignore"):
            assert (grad == np.float32(scale * 2).astype(np.float16)).all()
    bits = (every.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    got = np.empty_like(bits)
    elementwise.run("mean_squared_error", zero, bits, grad=got, bf16=True, scale=0.5 * (1 + 2**-8))
    wide = from_bits(bits) * np.float32(1 + 2**-8)
    assert np.array_equal(got, to_bits(wide))


@pytest.mark.parametrize("name", NAMES)
def test_what_lies_at_weight_0_leaks_nowhere(isa, name):
    for shape in ((6, 5, 1), (6, 700, 1), (3, 4, 6), (4, 1, 1), (2, 40000, 1)):
        t, p = numbers(name, shape)
        weight = np.ones((shape[0], shape[2]), np.float32)
        weight[1] = 0
        clean = [np.empty((shape[0], shape[2]), np.float32), np.empty_like(p), np.empty_like(p)]
        want = elementwise.run(name, t, p, PARAMETERS[name], weight=weight, losses=clean[0], grad=clean[1], hess=clean[2])
        for trash in (np.nan, np.inf, -np.inf):
            t2, p2 = t.copy(), p.copy()
            t2[1], p2[1] = trash, trash
            dirty = [np.full_like(x, 9) for x in clean]
            got = elementwise.run(name, t2, p2, PARAMETERS[name], weight=weight, losses=dirty[0], grad=dirty[1], hess=dirty[2])
            assert got == want
            for a, b in zip(clean, dirty, strict=True):
                assert np.array_equal(a, b)
                assert (b[1] == 0).all()


def test_short_sums_have_the_same_bits_in_rows_in_columns_and_alone(isa):
    """Rows are added four at a time, columns by 512, and each sum in four lanes: numbers of elements on both sides of these."""
    n = 103
    weight = np.linspace(0, 2, n).astype(np.float32)[:, None]
    for c in (1, 2, 3, 4, 5, 7, 8, 10, 15, 16, 17, 31, 100, 511, 512):
        for dtype in (np.float32, np.float64):
            t, p = (x.astype(dtype) for x in numbers("mean_squared_error", (n, c, 1)))
            w = weight.astype(dtype)

            def found(t, p, w):
                losses, grad = np.empty(w.shape, t.dtype), np.empty_like(p)
                elementwise.run("mean_squared_error", t, p, weight=w, losses=losses, grad=grad, scale=0.7)
                return losses.ravel(), grad

            losses, grad = found(t, p, w)
            turned, across = found(np.ascontiguousarray(t.transpose(2, 1, 0)), np.ascontiguousarray(p.transpose(2, 1, 0)), w.T.copy())
            assert np.array_equal(losses, turned), (c, dtype)
            assert np.array_equal(grad, across.transpose(2, 1, 0)), (c, dtype)
            for part in (slice(0, 1), slice(n - 1, n), slice(5, 8), slice(40, n)):
                some, slopes = found(t[part].copy(), p[part].copy(), w[part].copy())
                assert np.array_equal(some, losses[part]), (c, dtype, part)
                assert np.array_equal(slopes, grad[part]), (c, dtype, part)
            exact = (w[:, 0].astype(float) * ((p.astype(float) - t) ** 2).mean(axis=(1, 2))).astype(dtype)
            np.testing.assert_allclose(losses, exact, rtol=8 * np.finfo(dtype).eps)


def test_a_weight_of_stride_0_is_one_weight(isa):
    t, p = numbers("huber", (30, 20, 3))
    for value in (0.0, 0.25, 1.0):
        for make in (np.float32, np.float64):
            constant = np.broadcast_to(make(value), (30, 3))
            along = np.broadcast_to(np.full((30, 1), value, make), (30, 3))
            results = []
            for weight in (constant, along, np.ascontiguousarray(along)):
                losses, grad = np.empty((30, 3), np.float32), np.empty_like(p)
                total, weights, *_ = elementwise.run("huber", t, p, (1.0,), weight=weight, losses=losses, grad=grad)
                assert weights == pytest.approx(90 * value)
                results.append((losses.tobytes(), grad.tobytes()))
                assert total == pytest.approx(elementwise.run("huber", t, p, (1.0,), weight=weight)[0], rel=1e-6)
            assert len(set(results)) == 1


def test_nothing_and_empty(isa):
    for shape in ((0, 3, 1), (3, 0, 2), (2, 3, 0), (0, 0, 0)):
        p = np.empty(shape, np.float32)
        losses, grad = np.full((shape[0], shape[2]), 7, np.float32), np.empty_like(p)
        assert elementwise.run("huber", p, p, (1.0,), losses=losses, grad=grad) == (0.0, shape[0] * shape[2], shape[0] * shape[2], -1)
        assert (losses == 0).all()
        assert elementwise.run("hinge", p, p, (None,))[0] == 0


@pytest.mark.parametrize("name", ["mean_squared_error", "binary_crossentropy_from_logits"])
@pytest.mark.parametrize(
    "shape", [(1, 1_100_000, 1), (300_000, 3, 1), (700, 1000, 1), (3, 150_000, 2), (2, 3, 200_001), (400_001, 1, 1)], ids=str
)
def test_threads_change_no_bit(name, shape):
    t, p = numbers(name, shape)
    weight = np.linspace(0, 1, shape[0] * shape[2], dtype=np.float32).reshape(shape[0], shape[2])
    for w in (None, weight):
        results = set()
        for threads in (1, 2, 3, 4):
            losses, grad = np.empty((shape[0], shape[2]), np.float32), np.empty_like(p)
            flat = elementwise.run(name, t, p, PARAMETERS[name], weight=w, threads=threads)
            full = elementwise.run(name, t, p, PARAMETERS[name], weight=w, losses=losses, grad=grad, threads=threads)
            results.add((flat, full, losses.tobytes(), grad.tobytes()))
        assert len(results) == 1
        ((_, sums), *_) = [r[:2] for r in results]
        assert sums[0] == pytest.approx(losses.sum(dtype=np.float64), rel=1e-6)


def test_large_sums_keep_their_digits(isa):
    """Float32 lanes are emptied into a double every few thousand elements: 3e6 equal terms sum without drift.

    A lane of the narrowest vectors adds up a thousand terms in between, with an error of 7e-7; one that is never emptied would end 1e-2
    off, 8e-4 with the widest.
    """
    p = np.full((1, 3_000_000, 1), 0.1, np.float32)
    total, *_ = elementwise.run("mean_squared_error", np.zeros_like(p), p, combine="sum")
    assert total == pytest.approx(3_000_000 * float(np.float32(0.1)) ** 2, rel=1e-5)


def test_streamed_gradients(isa):
    """Outputs too large for the caches are written past them; alignment of the first element does not matter."""
    for shift in (0, 1, 5, 15):
        p = np.zeros(2_200_000 + shift, np.float32)[shift:].reshape(1, -1, 1)
        p[:] = np.linspace(-1, 1, p.size).reshape(p.shape)
        grad = np.empty(p.size + 16, np.float32)[16 - shift :][: p.size].reshape(p.shape)
        elementwise.run("mean_squared_error", np.zeros_like(p), p, combine="sum", grad=grad)
        assert np.array_equal(grad, 2 * p)
        column = p.reshape(-1, 1, 1)
        again = np.empty_like(grad).reshape(column.shape)
        elementwise.run("mean_squared_error", np.zeros_like(column), column, grad=again, losses=np.empty((p.size, 1), np.float32))
        assert np.array_equal(again, 2 * column)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(3, 40000, 1), (2, 70, 900), (1, 3, 2)])
def test_labels_of_hinge_losses_are_found_out_on_the_way(isa, shape, layout):
    """By Keras' rule, from all targets of positions that count: one odd target anywhere makes the others mean themselves."""
    rng = np.random.default_rng(5)
    n, c, s = shape
    p = rng.standard_normal(shape).astype("f4")
    weight = np.ones((n, s), "f4")
    weight[-1, -1] = 0
    for kind, odd, w in itertools.product(("f4", "f8", "i1"), (None, (0, 0, 0), (n - 1, c - 1, s - 1)), (None, weight)):
        t = rng.integers(0, 2, shape).astype(kind)
        if odd is not None:
            t[odd] = -1
        zero_one = odd is None or (w is not None and odd == (n - 1, c - 1, s - 1))
        for threads in (1, 2):
            got, want = np.empty_like(p), np.empty_like(p)
            arguments = dict(weight=w, threads=threads)
            found = elementwise.run("hinge", arranged(t, layout), arranged(p, layout), (None,), grad=got, **arguments)
            assert found == elementwise.run("hinge", arranged(t, layout), arranged(p, layout), (float(zero_one),), grad=want, **arguments)
            assert np.array_equal(got, want)


def binary(t, **arguments):
    """Whether a hinge loss that is to find it out takes targets as 0 and 1: then the slope at a target of 0 is that of -1."""
    p = np.full(t.shape, 0.3, np.float32)
    got, zero_one, plain = (np.empty_like(p) for _ in range(3))
    for grad, parameter in ((got, None), (zero_one, 1.0), (plain, 0.0)):
        elementwise.run("hinge", t, p, (parameter,), grad=grad, **arguments)
    assert not np.array_equal(zero_one, plain, equal_nan=True)
    if not np.array_equal(got, zero_one, equal_nan=True):
        np.testing.assert_array_equal(got, plain)
        return False
    return True


def test_what_counts_as_binary(isa):
    t = np.zeros((4, 50, 3), np.float32)
    t[:, ::2] = 1
    assert binary(t)
    assert binary(t.astype(bool))
    weight = np.ones((4, 3), np.float32)
    for value in (-1, 0.5, 2, np.nan):
        other = t.copy()
        other[2, 49, 1] = value
        assert not binary(other)
        assert not binary(other[::-1, :, ::-1])
        assert not binary(other, weight=weight)
        skipped = weight.copy()
        skipped[2, 1] = 0
        assert binary(other, weight=skipped)
    big = np.zeros((1_000_000, 1, 1), np.int8)
    assert binary(big, threads=2)
    big[999_999] = -1
    assert not binary(big, threads=2)
    assert not binary(np.array([0, 2**32 + 1]).reshape(1, 2, 1))
    assert binary(np.array([0, 1 + 2**-52]).reshape(1, 2, 1))  # 1 in the dtype of the computation, float32
    assert not binary(np.array([0, 1 + 2**-23]).reshape(1, 2, 1))


@pytest.mark.parametrize(
    ("name", "keras_name", "arguments"),
    [
        ("mean_squared_error", "mean_squared_error", {}),
        ("mean_absolute_error", "mean_absolute_error", {}),
        ("mean_absolute_percentage_error", "mean_absolute_percentage_error", {}),
        ("mean_squared_logarithmic_error", "mean_squared_logarithmic_error", {}),
        ("hinge", "hinge", {}),
        ("squared_hinge", "squared_hinge", {}),
        ("binary_crossentropy", "binary_crossentropy", {}),
        ("binary_crossentropy_from_logits", "binary_crossentropy", {"from_logits": True}),
        ("huber", "huber", {}),
        ("log_cosh", "log_cosh", {}),
        ("poisson", "poisson", {}),
        ("kl_divergence", "kl_divergence", {}),
        ("binary_focal_crossentropy", "binary_focal_crossentropy", {}),
        ("binary_focal_crossentropy_from_logits", "binary_focal_crossentropy", {"from_logits": True}),
    ],
)
def test_keras_numbers(name, keras_name, arguments):
    import keras

    t, p = numbers(name, (50, 9, 1))
    p = p if "logits" not in name else 6 * p - 3
    losses = np.empty((50, 1), np.float32)
    elementwise.run(name, t, p, PARAMETERS[name], combine="sum" if name == "kl_divergence" else "mean", losses=losses)
    want = getattr(keras.losses, keras_name)(t[:, :, 0], p[:, :, 0], **arguments)
    np.testing.assert_allclose(losses[:, 0], np.asarray(want), rtol=3e-5, atol=1e-6)


def _forked(queue):
    p = np.ones((1_000_000, 1, 1), np.float32)
    queue.put(elementwise.run("mean_squared_error", np.zeros_like(p), p, threads=2))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_does_not_hang():
    p = np.ones((1_000_000, 1, 1), np.float32)
    want = elementwise.run("mean_squared_error", np.zeros_like(p), p, threads=2)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_forked, args=(queue,))
    child.start()
    assert queue.get(timeout=30) == want
    child.join()


def test_wrong_calls_are_refused():
    p = np.zeros((2, 3, 4), np.float32)
    with pytest.raises(KeyError):
        elementwise.run("no_such_loss", p, p)
    with pytest.raises(TypeError):
        elementwise.run("huber", p, p)
    with pytest.raises(ValueError, match="shape"):
        elementwise.run("huber", p[:1], p, (1.0,))
    with pytest.raises(ValueError, match="shape"):
        elementwise.run("huber", p, p, (1.0,), weight=np.ones((2, 3), np.float32))
    with pytest.raises(TypeError):
        elementwise.run("huber", p, p, (1.0,), grad=p.astype(np.float64))
    with pytest.raises(TypeError):
        elementwise.run("huber", p, p.astype(np.int32), (1.0,))
    with pytest.raises(TypeError):
        elementwise.run("huber", p, p, (1.0,), losses=np.ones((2, 4)))
