"""The kernel of one number at each position: every loss against mpmath, and layouts, dtypes, sizes and threads against NumPy."""

import itertools

import mpmath
import numpy as np
import pytest
from kernels import VALUES as PARAMETERS, arranged, every_isa, from_bits, to_bits

from polyloss._kernels.cpu import values

isa = every_isa(values)
LAYOUTS = ("c", "fortran", "reversed", "strided", "channels last")
SHAPES = [(1, 1), (5, 1), (16, 1), (3, 7), (67, 1), (2, 65), (1, 300), (70, 257), (1, 40_000)]


def definition(name, t, m, v, a, log):
    """One position's loss, by the functions of mpmath or NumPy, whose logarithm is given."""
    if name == "gaussian_nll":
        return (v + (t - m) ** 2 / (mpmath.exp(v) if log is mpmath.log else np.exp(v))) / 2
    return (log(v) + (t - m) ** 2 / v) / 2 + a[1]


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("name", PARAMETERS)
def test_against_mpmath(isa, name, dtype):
    """Value to a few units of its terms, derivatives to a few of their own: nothing in them cancels but 1 - (t - m)² / u."""
    rng = np.random.default_rng(0)
    t, m, v = rng.normal(size=(3, 40)) * 10.0 ** rng.uniform(-3, 3, (3, 40))
    v = np.abs(v) + 1e-3 if name == "gaussian_of_variance" else np.clip(v, -60, 60)
    t, m, v = (x.astype(dtype) for x in (t, m, v))
    p = np.stack((m, v))[None]
    losses, grad, hess = np.empty((1, 40), dtype), np.empty_like(p), np.empty_like(p)
    values.run(name, t[None], p, PARAMETERS[name], losses=losses, grad=grad, hess=hess)
    unit = mpmath.mpf(float(np.finfo(dtype).eps))
    with mpmath.workdps(60):
        a = [mpmath.mpf(float(np.dtype(dtype).type(x))) for x in PARAMETERS[name]]
        for i in range(40):
            target, mean, second = (mpmath.mpf(float(x[i])) for x in (t, m, v))
            u = mpmath.exp(second) if name == "gaussian_nll" else second
            square = (target - mean) ** 2 / u
            wide = 1 + (abs(second) / 2 if name == "gaussian_nll" else 0)  # what rounding its argument makes of an exponential
            of_v = (1, square) if name == "gaussian_nll" else (1 / u, (2 * square - 1) / u**2)
            right = {
                "losses": (losses[0, i], definition(name, target, mean, second, a, mpmath.log), 1 + abs(mpmath.log(u)) + square),
                "by m": (grad[0, 0, i], (mean - target) / u, abs(mean - target) / u),
                "by v": (grad[0, 1, i], of_v[0] * (1 - square) / 2, of_v[0] * (1 + square)),
                "twice by m": (hess[0, 0, i], 1 / u, 1 / u),
                "twice by v": (hess[0, 1, i], of_v[1] / 2, abs(of_v[1]) + (1 / u**2 if name != "gaussian_nll" else 0)),
            }
            for what, (found, exact, size) in right.items():
                assert abs(mpmath.mpf(float(found)) - exact) <= 6 * unit * wide * size, (what, i)


def naive(name, t, p, a):
    """Losses and slopes in long double."""
    t, m, v = t.astype(np.longdouble), *p.astype(np.longdouble).transpose(1, 0, 2)
    v = v if name == "gaussian_nll" else np.maximum(v, a[0])
    u = np.exp(v) if name == "gaussian_nll" else v
    by_v = (1 - (t - m) ** 2 / u) / 2
    slope = np.stack(((m - t) / u, by_v if name == "gaussian_nll" else by_v / u), axis=1)
    return definition(name, t, m, v, a, np.log), slope


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "bf16"])
@pytest.mark.parametrize("name", PARAMETERS)
def test_shapes_layouts_and_dtypes(isa, name, dtype):
    rng = np.random.default_rng(1)
    tolerance, exact = {"f4": 3e-6, "f8": 1e-13, "f2": 2e-3, "bf16": 1e-2}[dtype], 1e-13 if dtype == "f8" else 3e-6
    for k, ((n, s), layout) in enumerate(itertools.product(SHAPES, LAYOUTS)):
        t = arranged(rng.integers(0, 4, (n, s)).astype(("f4", "f8", "i2", "u1")[k % 4]), LAYOUTS[k % 4])
        p = rng.uniform(0.1, 2, (n, 2, s)).astype("f4" if dtype == "bf16" else dtype)
        bf16 = {"bf16": dtype == "bf16"}
        p = arranged(to_bits(p) if dtype == "bf16" else p, layout)
        weight = rng.integers(0, 3, (n, s)).astype(("f4", "f8")[k % 2]) if k % 3 else None
        t.flags.writeable = p.flags.writeable = False
        value, slope = naive(name, t, from_bits(p) if dtype == "bf16" else p, PARAMETERS[name])
        w = np.ones((n, s)) if weight is None else weight
        losses = arranged(np.full((n, s), 7, "f8" if dtype == "f8" else "f4"), LAYOUTS[k % 4])
        grad, hess = arranged(np.zeros_like(p), LAYOUTS[k % 5]), np.zeros_like(p)
        sums = values.run(name, t, p, PARAMETERS[name], weight=weight, losses=losses, grad=grad, scale=0.5, **bf16)
        size = float(np.abs(value).max())
        np.testing.assert_allclose(losses, (w * value).astype(float), exact, exact * size)
        assert sums[0] == pytest.approx(float((w * value).sum()), rel=exact, abs=exact * size)
        assert sums[1:] == (w.sum(), n * s, -1)
        found = from_bits(grad) if dtype == "bf16" else grad
        right = (0.5 * w[:, None] * slope).astype(float)
        np.testing.assert_allclose(found.astype(float), right, tolerance, tolerance * np.abs(right).max())
        assert values.run(name, t, p, PARAMETERS[name], weight=weight, **bf16)[0] == pytest.approx(sums[0], rel=1e-6)
        again = np.zeros_like(grad)
        values.run(name, t, p, PARAMETERS[name], weight=weight, grad=again, hess=hess, scale=0.5, **bf16)
        assert np.array_equal(again, grad)
        assert ((hess == 0).all(1) == (w == 0)).all()  # of these numbers no other curvature is


@pytest.mark.parametrize("name", PARAMETERS)
def test_what_lies_at_weight_0_leaks_nowhere_and_the_rest_goes_through(isa, name):
    for trash in (np.nan, np.inf, -np.inf):
        t, p, weight = np.zeros((1, 40), "f4"), np.ones((1, 2, 40), "f4"), np.ones((1, 40), "f4")
        p[:, :, 7], weight[0, 7] = trash, 0
        losses, grad = np.empty_like(weight), np.empty_like(p)
        total = values.run(name, t, p, PARAMETERS[name], weight=weight, losses=losses, grad=grad)[0]
        assert np.isfinite(total)
        assert losses[0, 7] == 0
        assert (grad[:, :, 7] == 0).all()
        weight[0, 7] = 1
        assert not np.isfinite(values.run(name, t, p, PARAMETERS[name], weight=weight, losses=losses, grad=grad)[0])
        assert np.isfinite(np.delete(losses, 7)).all()
        assert np.isfinite(np.delete(grad, 7, 2)).all()


def test_a_negative_variance_is_nan_and_a_small_one_is_floored(isa):
    p = np.array([[[1.0, 1.0, 1.0, 1.0], [-1e-30, 0.0, 0.25, np.nan]]])
    losses = np.empty((1, 4))
    values.run("gaussian_of_variance", np.zeros((1, 4)), p, (0.5, 2.0), losses=losses)
    floored = 0.5 * (np.log(0.5) + 1 / 0.5) + 2
    np.testing.assert_allclose(losses, [[np.nan, floored, floored, np.nan]], rtol=1e-15)


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_same_bits_for_any_number_of_threads(name):
    rng = np.random.default_rng(2)
    for shape in ((3, 2, 100_001), (200_003, 2, 1)):
        t, p = rng.normal(size=(shape[0], shape[2])).astype("f4"), rng.uniform(0.1, 1, shape).astype("f4")
        results = []
        for threads in (1, 2, 3, 7):
            grad = np.zeros_like(p)
            results.append((values.run(name, t, p, PARAMETERS[name], grad=grad, threads=threads), grad.tobytes()))
        assert all(result == results[0] for result in results)


def test_wrong_arguments():
    t, p = np.ones((4, 3), "f4"), np.ones((4, 2, 3), "f4")
    with pytest.raises(ValueError, match="gaussian_nll takes two predictions for each target, not 3"):
        values.run("gaussian_nll", t, np.ones((4, 3, 3), "f4"))
    with pytest.raises(ValueError, match=r"t has shape \(3, 4\), not \(4, 3\)"):
        values.run("gaussian_nll", t.T.copy(), p)
    with pytest.raises(ValueError, match="t has 3 axes, not 2"):
        values.run("gaussian_nll", t[:, None], p)
