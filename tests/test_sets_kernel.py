"""The kernel of sets: against mpmath, and every layout, dtype, length and number of threads against NumPy in long double."""

import mpmath
import numpy as np
import pytest
from kernels import SETS, arranged, every_isa, from_bits, to_bits

from polyloss._kernels.cpu import elementwise, sets

isa = every_isa(sets)
LAYOUTS = ("c", "fortran", "reversed", "strided", "channels last")
# (n, c, s): around a vector, what is short, a block of a sum and a segment; alone and beside others
SHAPES = [(1, 1, 1), (3, 5, 1), (130, 10, 1), (2, 3, 70), (2, 64, 3), (3, 65, 1), (2, 100, 21), (2, 513, 2), (1, 1100, 67), (1, 33_000, 1)]


def run(t, p, parameters=SETS["overlap"], **arguments):
    return sets.run("overlap", t, p, parameters, **arguments)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_against_mpmath(isa, dtype):
    """To a few units, though the overlap is all but nothing, or all but everything."""
    rng = np.random.default_rng(0)
    unit = mpmath.mpf(float(np.finfo(dtype).eps))
    for k, (alpha, beta, epsilon) in enumerate(
        [(0.5, 0.5, 0.5e-7), (1.0, 1.0, 1e-7), (0.25, 0.75, 1e-7), (0.0, 0.5, 1e-7), (1.0, 0.0, 1e-7)]
    ):
        t = rng.integers(0, 2, (1, 9, 6)).astype(dtype)
        t[:, :, 0] = rng.random(9)
        far = 10.0 ** rng.uniform(-9, -3, (9, 6))
        p = np.where(np.arange(6) < 2, rng.random((9, 6)), np.where(np.arange(6) % 2, np.abs(t[0] - far), np.abs(1 - t[0] - far)))[
            None
        ].astype(dtype)
        losses, grad, hess = np.empty((1, 6), dtype), np.empty_like(p), np.empty_like(p)
        run(t, p, (alpha, beta, epsilon), losses=losses, grad=grad, hess=hess)
        with mpmath.workdps(60):
            a, b, low = (mpmath.mpf(x) for x in (alpha, beta, epsilon))
            for s in range(6):
                x, y = ([mpmath.mpf(float(v)) for v in array[0, :, s]] for array in (t, p))
                common = mpmath.fsum(u * v for u, v in zip(x, y, strict=True))
                apart = a * mpmath.fsum(u * (1 - v) for u, v in zip(x, y, strict=True)) + low
                apart += b * mpmath.fsum(v * (1 - u) for u, v in zip(x, y, strict=True))
                whole = apart + common
                assert abs(mpmath.mpf(float(losses[0, s])) - apart / whole) <= 4 * unit * apart / whole, (k, s)
                for c, u in enumerate(x):
                    by_p = b * (1 - u) + (1 - a) * u
                    size = (common * b * (1 - u) + (apart + a * common) * u) / whole**2
                    slope = (common * by_p / whole - u) / whole
                    assert abs(mpmath.mpf(float(grad[0, c, s])) - slope) <= 5 * unit * size, (k, c, s)
                    bend = 2 * (b * (1 - u) + abs(1 - a) * u) * size / whole
                    assert abs(mpmath.mpf(float(hess[0, c, s])) + 2 * by_p * slope / whole) <= 8 * unit * bend, (k, c, s)


def naive(t, p, a):
    """Losses, slopes and curvatures in long double."""
    alpha, beta, epsilon = a
    t, p = t.astype(np.longdouble), p.astype(np.longdouble)
    common, missed, extra = ((x).sum(1, keepdims=True) for x in (t * p, t * (1 - p), p * (1 - t)))
    apart = alpha * missed + beta * extra + epsilon
    whole, by_p = apart + common, beta * (1 - t) + (1 - alpha) * t
    slope = (common / whole * by_p - t) / whole
    return (apart / whole)[:, 0], slope, -2 * by_p * slope / whole


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "bf16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes_layouts_and_dtypes(isa, shape, dtype):
    rng = np.random.default_rng(1)
    n, _, s = shape
    tolerance, exact = {"f4": 4e-6, "f8": 1e-13, "f2": 2e-3, "bf16": 1e-2}[dtype], 1e-13 if dtype == "f8" else 4e-6
    bf16 = {"bf16": dtype == "bf16"}
    for k, layout in enumerate(LAYOUTS):
        t = rng.integers(0, 2, shape).astype(("f4", "f8", "i2", "u1")[k % 4])
        p = rng.random(shape).astype("f4" if dtype == "bf16" else dtype)
        p = to_bits(p) if dtype == "bf16" else p
        value, slope, curvature = naive(t, from_bits(p) if dtype == "bf16" else p, SETS["overlap"])
        t, p = arranged(t, LAYOUTS[k // 2 % 5]), arranged(p, layout)
        weight = rng.integers(0, 3, (n, s)).astype(("f4", "f8")[k % 2]) if k % 3 else None
        w = np.ones((n, s)) if weight is None else weight
        t.flags.writeable = p.flags.writeable = False
        losses = arranged(np.full((n, s), 7, "f8" if dtype == "f8" else "f4"), LAYOUTS[k % 4])
        grad, hess = arranged(np.full_like(p, 7), LAYOUTS[(k + 1) % 5]), np.full_like(p, 7)
        sums = run(t, p, weight=weight, losses=losses, grad=grad, scale=0.5, **bf16)
        np.testing.assert_allclose(losses, (w * value).astype(float), exact)
        assert sums[0] == pytest.approx(float((w * value).sum()), rel=exact)
        assert sums[1:] == (w.sum(), n * s, -1)
        assert run(t, p, weight=weight, **bf16)[0] == pytest.approx(sums[0], rel=1e-12)
        again = np.full_like(p, 7)
        run(t, p, weight=weight, grad=again, hess=hess, scale=0.5, **bf16)
        assert np.array_equal(again, grad)
        alone = np.full_like(p, 7)
        run(t, p, weight=weight, hess=alone, scale=0.5, **bf16)
        assert np.array_equal(alone, hess)
        small = 6e-8 if dtype == "f2" else 0.0  # the last place of the least halves
        for found, exactly in ((grad, slope), (hess, curvature)):
            wide = (from_bits(found) if dtype == "bf16" else found).astype(float)
            right = (0.5 * w[:, None] * exactly).astype(float)
            np.testing.assert_allclose(wide, right, tolerance, tolerance * np.abs(right).max() + small)


@pytest.mark.parametrize("c", [1, 7, 64, 65, 500, 600, 33_000])
def test_a_set_has_the_same_bits_however_it_lies(isa, c):
    rng = np.random.default_rng(2)
    for dtype in ("f4", "f8"):
        t, p = (rng.random((5, c, 1)).astype(dtype) for _ in range(2))
        results = []
        for turned in (lambda x: x, lambda x: np.ascontiguousarray(x.transpose(2, 1, 0)), lambda x: x.transpose(2, 1, 0)):
            x, y = turned(t), turned(p)
            losses, grad, hess = np.empty((x.shape[0], x.shape[2]), dtype), np.empty_like(x), np.empty_like(x)
            run(x, y, losses=losses, grad=grad, hess=hess)
            back = (lambda x: x) if x.shape[2] == 1 else (lambda x: x.transpose(2, 1, 0))
            results.append((losses.tobytes(), back(grad).tobytes(), back(hess).tobytes()))
        one = [np.empty((1, 1), dtype) for _ in range(5)]
        for i in range(5):
            run(t[i : i + 1], p[i : i + 1], losses=one[i])
        assert results[0] == results[1] == results[2]
        assert results[0][0] == b"".join(x.tobytes() for x in one)


RUNS = [(3, 2, 1, 1), (2, 3, 9, 3), (3, 5, 3, 1), (2, 40, 3, 21), (21, 2, 700, 1), (2, 3, 512, 2), (2, 7, 100, 70), (2, 3, 33_000, 1)]


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2"])
def test_runs_have_the_bits_of_one_axis(isa, dtype):
    """(n, runs, length, s): shorter and longer than a vector, a block of a sum and a segment, where a view has them on two axes alone."""
    rng = np.random.default_rng(5)
    for shape in RUNS:
        n, runs, length, s = shape
        one_axis = (n, runs * length, s)
        t, p = rng.random(shape).astype(("f4", "u1")[n % 2]), rng.random(shape).astype(dtype)
        weight = rng.integers(0, 3, (n, s)).astype("f4")
        outputs = [(np.empty((n, s), "f8" if dtype == "f8" else "f4"), np.empty_like(p), np.empty_like(p)) for _ in range(2)]
        sums = run(t.reshape(one_axis), p.reshape(one_axis), weight=weight, losses=outputs[0][0],
                   grad=outputs[0][1].reshape(one_axis), hess=outputs[0][2].reshape(one_axis))  # fmt: skip
        for order in ((0, 1, 2, 3), (1, 0, 2, 3), (1, 2, 0, 3), (3, 1, 0, 2), (2, 0, 1, 3)):  # of the axes in memory
            back = np.argsort(order)
            t_, p_, grad, hess = (np.ascontiguousarray(x.transpose(order)).transpose(back) for x in (t, p, *outputs[1][1:]))
            losses = outputs[1][0]
            found = run(t_, p_, weight=weight, losses=losses, grad=grad, hess=hess)
            assert found[0] == pytest.approx(sums[0], rel=1e-13)  # added in the order of memory
            assert found[1:] == sums[1:], (shape, order)
            for found, right in zip((losses, grad, hess), outputs[0], strict=True):
                assert np.array_equal(found, right), (shape, order)
        wide = np.full((n, runs, length + 1, s), 7, dtype)  # images cut along their rows
        wide[:, :, :-1] = p
        run(t, wide[:, :, :-1], weight=weight, grad=wide[:, :, :-1])
        assert np.array_equal(wide[:, :, :-1], outputs[0][1])
        assert (wide[:, :, -1] == 7).all()


def test_what_lies_in_no_such_runs_is_refused():
    x = np.ones((2, 6, 1), "f4")
    fact = sets.facts(x.reshape(2, 2, 3, 1), "nrcs")
    with pytest.raises(ValueError, match="no 6 elements in 4 runs"):
        sets.bind("overlap", 2, 6, 1, fact, fact, parameters=SETS["overlap"], runs=4)
    with pytest.raises(TypeError, match="strides of the axes nrcs"):
        sets.bind("overlap", 2, 6, 1, fact, sets.facts(x, "ncs"), parameters=SETS["overlap"], runs=2)
    with pytest.raises(ValueError, match="takes no"):
        elementwise.bind("mean_squared_error", 2, 6, 1, fact, fact, runs=2)


def test_the_same_bits_for_any_number_of_threads():
    rng = np.random.default_rng(3)
    for shape in ((1, 200_003, 1), (3, 70_000, 1), (1, 40_000, 7), (30_000, 10, 1), (2, 9, 20_000)):
        t, p = (rng.random(shape).astype("f4") for _ in range(2))
        results = []
        for threads in (1, 2, 3, 7):
            losses, grad = np.empty((shape[0], shape[2]), "f4"), np.empty_like(p)
            results.append((run(t, p, losses=losses, grad=grad, threads=threads), losses.tobytes(), grad.tobytes()))
        assert all(result == results[0] for result in results)


def test_what_lies_at_weight_0_leaks_nowhere_and_the_rest_goes_through(isa):
    for shape in ((3, 70_000, 1), (3, 9, 1), (3, 100, 2)):
        for trash in (np.nan, np.inf):
            t, p, weight = np.ones(shape, "f4"), np.full(shape, 0.5, "f4"), np.ones((3, shape[2]), "f4")
            t[1, 3] = p[1, 3] = trash
            losses, grad, hess = np.empty_like(weight), np.empty_like(p), np.empty_like(p)
            weight[1] = 0
            assert np.isfinite(run(t, p, weight=weight, losses=losses, grad=grad, hess=hess)[0])
            assert (losses[1] == 0).all()
            assert (grad[1] == 0).all()
            assert (hess[1] == 0).all()
            weight[1] = 1
            run(t, p, weight=weight, losses=losses, grad=grad, hess=hess)
            assert np.isnan(losses[1]).all()
            assert np.isnan(grad[1]).all()
            assert np.isfinite(losses[::2]).all()
            assert np.isfinite(grad[::2]).all()


@pytest.mark.parametrize("shape", [(1, (1 << 21) + 5, 1), ((1 << 15) + 1, 70, 1)], ids=str)
def test_gradients_past_the_caches(isa, shape):
    """Streaming stores, from wherever a gradient begins."""
    t, p = (np.resize(np.array(x, "f4"), shape) for x in ([0, 1, 1, 0, 1], [0.25, 0.5, 1.0]))
    right = np.empty_like(p)
    run(t, p, grad=right, hess=np.empty_like(p))
    for offset in (0, 1, 3):
        flat = np.empty(p.size + 3, "f4")
        grad = flat[offset : offset + p.size].reshape(shape)
        run(t, p, grad=grad)
        assert np.array_equal(grad, right)


def test_the_gradient_may_take_the_place_of_the_predictions():
    rng = np.random.default_rng(4)
    for shape in ((2, 70_000, 1), (40, 9, 1), (2, 100, 5)):
        t, p = (rng.random(shape).astype("f4") for _ in range(2))
        grad = np.empty_like(p)
        run(t, p, grad=grad)
        run(t, p, grad=p)
        assert np.array_equal(grad, p)
