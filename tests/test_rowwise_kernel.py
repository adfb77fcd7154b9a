"""The row-wise kernels: every loss against mpmath, and every layout, dtype, size and number of threads against NumPy in long double."""

import itertools
import os

import mpmath
import numpy as np
import pytest
from kernels import OF_LABELS, ROWWISE as PARAMETERS, arranged, every_isa, from_bits, to_bits
from mpmath import mpf

from polyloss._kernels.cpu import rowwise

os.environ.setdefault("KERAS_BACKEND", "numpy")
NAMES = list(PARAMETERS)


isa = every_isa(rowwise)


def definition(name, t, p, a):
    """One row's loss as Keras 3 writes it, by mpmath."""
    if name == "categorical_hinge":
        wrong, right = max((1 - x) * y for x, y in zip(t, p, strict=True)), sum(x * y for x, y in zip(t, p, strict=True))
        return max(wrong - right + 1, mpf(0))
    if name == "multiclass_hinge":
        margin, power, average = a
        over = [max(margin + y - p[t.index(1)], mpf(0)) ** power for x, y in zip(t, p, strict=True) if x != 1]
        return sum(over) / len(p) if average else max(over)
    if name == "brier":
        return sum((y - x) ** 2 for x, y in zip(t, p, strict=True))
    if name == "generalized_crossentropy":
        return (1 - p[t.index(1)] ** a[0]) / a[0]
    if name.endswith("cosine_similarity"):
        dot, tt, pp = sum(x * y for x, y in zip(t, p, strict=True)), sum(x * x for x in t), sum(y * y for y in p)
        epsilon = a[0] if a else mpf(0)
        return -dot / mpmath.sqrt((tt + epsilon) * (pp + epsilon)) if tt and pp else mpf(0)
    if name.endswith("logits"):
        (alpha, gamma, smoothing), epsilon = a, mpf(0)
        p = [mpmath.exp(y) for y in p]
    else:
        alpha, gamma, epsilon, smoothing = a if len(a) == 4 else (mpf(1), mpf(0), *(*a, mpf(0))[:2])
    total = mpf(0)
    for x, y in zip(t, p, strict=True):
        share = min(max(y / sum(p), epsilon), 1 - epsilon)
        total -= alpha * (1 - share) ** gamma * ((1 - smoothing) * x + smoothing / len(t)) * mpmath.log(share)
    return total


def rows(name, dtype):
    """Targets and predictions (n, c): ordinary rows, near-certain ones, tiny and huge ones."""
    rng = np.random.default_rng(0)
    n, c = 12, 5
    p = rng.dirichlet(np.ones(c), n)
    t = np.eye(c)[rng.integers(0, c, n)]
    if name.endswith("cosine_similarity"):
        t, p = rng.normal(size=(n, c)), rng.normal(size=(n, c))
        t[4:8] *= 10.0 ** rng.uniform(-30, 30, (4, 1))
        p[6:10] *= 10.0 ** rng.uniform(-30, 30, (4, 1))
    elif "hinge" in name:
        p = rng.normal(size=(n, c))
    elif name.endswith("logits"):
        p = 3 * rng.normal(size=(n, c)) + 12 * t * (np.arange(n) < 4)[:, None]  # some confident, and then two that are all but sure
        p[4:6] += 30 * t[4:6]
        p[6], p[7] = -500.0, 500.0
        p[7, 2] = -1e4
    else:
        p[3:6] = t[3:6] + 10.0 ** rng.uniform(-6, -3, (3, c))  # near 1 for the right class
        p[6:8] *= 1e5
        p[8:10] *= 1e-5
        if name not in OF_LABELS:
            t[10:] = rng.dirichlet(np.ones(c), n - 10)
    return t.astype(dtype), p.astype(dtype)


def run(name, t, p, a=None, **arguments):
    """Losses, slopes and curvatures of rows (n, c)."""
    n, c = p.shape
    labels = t.argmax(1)[:, None] if name in OF_LABELS else t[:, :, None]
    losses, grad, hess = np.empty((n, 1), p.dtype), np.empty((n, c, 1), p.dtype), np.empty((n, c, 1), p.dtype)
    rowwise.run(name, labels, p[:, :, None], PARAMETERS[name] if a is None else a, losses=losses, grad=grad, hess=hess, **arguments)
    return losses[:, 0], grad[:, :, 0], hess[:, :, 0]


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        *PARAMETERS.items(),
        ("categorical_crossentropy", (0.05, 0.25)),
        ("categorical_focal_crossentropy", (0.5, 1.5, 0.01, 0.125)),
        ("categorical_focal_crossentropy_from_logits", (0.5, 1.5, 0.125)),
        ("multiclass_hinge", (0.75, 2, False)),
        ("multiclass_hinge", (0.75, 1, True)),
        ("multiclass_hinge", (0.75, 2, True)),
        ("generalized_crossentropy", (0.5,)),
        ("generalized_crossentropy", (1.0,)),
    ],
    ids=str,
)
def test_against_mpmath(isa, name, parameters, dtype):
    t, p = rows(name, dtype)
    losses, grad, hess = run(name, t, p, parameters)
    unit = float(np.finfo(dtype).eps)
    one = np.dtype(dtype).type
    h = mpf(10) ** -60
    with mpmath.workdps(200):
        a = [mpf(float(one(x))) for x in parameters]
        for i in range(len(p)):
            targets, predictions = [mpf(float(x)) for x in t[i]], [mpf(float(x)) for x in p[i]]
            size = max(mpf(1), 1 / max(abs(x) for x in predictions)) if name.endswith("cosine_similarity") else mpf(1)
            value = definition(name, targets, predictions, a)
            near = abs(value) if "cross" in name else max(abs(value), max(abs(x) for x in predictions) if "hinge" in name else mpf(1))
            assert abs(mpf(float(losses[i])) - value) <= 5 * unit * near
            step = h * max(abs(x) for x in predictions)
            slopes, curvatures = [], []
            for j in range(len(predictions)):
                above, below = list(predictions), list(predictions)
                above[j] += step
                below[j] -= step
                up, down = definition(name, targets, above, a), definition(name, targets, below, a)
                slopes.append((up - down) / (2 * step))
                curvatures.append((up + down - 2 * value) / step**2)
            largest = max(abs(x) for x in slopes)
            soft = sum(x != 0 for x in t[i]) > 1 or (len(parameters) > 1 and parameters[-1] > 0)
            bends = max(abs(x) for x in curvatures) + max(abs(x) for x in slopes) / sum(abs(x) for x in predictions)
            for j, slope in enumerate(slopes):
                if bends < float(np.finfo(dtype).max):
                    assert abs(mpf(float(hess[i, j])) - curvatures[j]) <= 30 * unit * bends + mpf(float(np.finfo(dtype).tiny))
                terms = largest if soft else abs(slope)  # terms of several classes cancel
                terms = max(1, largest) if name in ("multiclass_hinge", "brier") else terms  # and decisions
                if name.endswith("cosine_similarity"):
                    terms = 1 / mpmath.sqrt(sum(x * x for x in predictions))
                assert abs(mpf(float(grad[i, j])) - slope) <= 8 * unit * terms + mpf(float(np.finfo(dtype).tiny)) * size


def naive(name, t, p, a, weight, scale):
    """Losses (n, s) and slopes (n, c, s) in long double."""
    t, p = t.astype(np.longdouble), p.astype(np.longdouble)
    c = p.shape[1]
    if name == "categorical_hinge":
        wrong = (1 - t) * p
        top = np.arange(c)[None, :, None] == wrong.argmax(1)[:, None]
        margin = wrong.max(1) - (t * p).sum(1) + 1
        value, slope = np.maximum(margin, 0), np.where(margin[:, None] > 0, top * (1 - t) - t, 0)
    elif name == "multiclass_hinge":
        margin, power, average = a
        of_label = (t * p).sum(1, keepdims=True)
        over = np.where(t == 1, -np.inf, margin + p - of_label)
        counts = (over > 0) & (average or np.arange(c)[None, :, None] == over.argmax(1)[:, None])
        over, divisor = np.where(counts, over, 0), c if average else 1
        first = np.where(counts, 1 if power == 1 else 2 * over, 0) / divisor
        value, slope = (over**power).sum(1) / divisor, first - t * first.sum(1, keepdims=True)
    elif name == "brier":
        value, slope = ((p - t) ** 2).sum(1), 2 * (p - t)
    elif name == "generalized_crossentropy":
        y = (t * p).sum(1)
        value, slope = (1 - y ** a[0]) / a[0], -t * (y ** (a[0] - 1))[:, None]
    elif name.endswith("cosine_similarity"):
        epsilon = a[0] if a else 0
        tn, pn = np.sqrt((t * t).sum(1, keepdims=True) + epsilon), np.sqrt((p * p).sum(1, keepdims=True) + epsilon)
        cos = (t * p).sum(1, keepdims=True) / tn / pn
        value, slope = -cos[:, 0], (p / pn * cos - t / tn) / pn
    elif name.endswith("logits"):
        alpha, gamma, smoothing = a
        y = np.exp(p - p.max(1, keepdims=True))
        y = y / y.sum(1, keepdims=True)
        x = (1 - smoothing) * t + smoothing / c
        value = -(alpha * (1 - y) ** gamma * x * np.log(y)).sum(1)
        first = -alpha * x * ((1 - y) ** gamma - gamma * (1 - y) ** (gamma - 1) * y * np.log(y))
        slope = first - y * first.sum(1, keepdims=True)
    else:
        alpha, gamma, epsilon, smoothing = a if len(a) == 4 else (1, 0, *(*a, 0)[:2])
        total = p.sum(1, keepdims=True)
        inside = (p / total >= epsilon) & (p / total <= 1 - epsilon)
        y = np.clip(p / total, epsilon, 1 - epsilon)
        x = (1 - smoothing) * t + smoothing / c
        value = -(alpha * (1 - y) ** gamma * x * np.log(y)).sum(1)
        first = alpha * x * (gamma * (1 - y) ** (gamma - 1) * np.log(y) - (1 - y) ** gamma / y) if gamma else -alpha * x / y
        first = np.where(inside, first, 0)
        slope = (first - (first * y).sum(1, keepdims=True)) / total
    w = np.ones(value.shape) if weight is None else weight
    return np.where(w == 0, 0, w * value), np.where((w == 0)[:, None], 0, slope * w[:, None] * scale)


LAYOUTS = ("c", "fortran", "reversed", "strided", "channels last")
SHAPES = [(1, 1, 1), (1, 2, 1), (5, 3, 1), (3, 7, 4), (2, 17, 65), (70, 10, 1), (4, 1100, 1), (2, 900, 3), (1, 33, 130), (6, 1, 5)]


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "bf16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes_layouts_and_dtypes(isa, shape, dtype):
    rng = np.random.default_rng(1)
    n, c, s = shape
    tolerance = {"f4": 2e-6, "f8": 1e-13, "f2": 2e-3, "bf16": 1e-2}[dtype]
    weights = rng.integers(0, 3, (n, s)).astype("f4")
    for k, (name, lt) in enumerate(itertools.product(NAMES, LAYOUTS)):
        lp = LAYOUTS[(3 * k + k // 5) % 5]
        p = rng.dirichlet(np.ones(c) * 2, (n, s)).transpose(0, 2, 1) + 1e-3
        labels = rng.integers(0, c, (n, s))
        t = np.moveaxis(np.eye(c)[labels], -1, 1)
        if k % 2 and name == "categorical_crossentropy":
            t = rng.dirichlet(np.ones(c), (n, s)).transpose(0, 2, 1)
        p = p.astype("f4" if dtype == "bf16" else dtype)
        bf16 = dtype == "bf16"
        if bf16:
            p = to_bits(p)
        wide = from_bits(p) if bf16 else p
        weight = (None, weights, weights.astype("f8"), np.broadcast_to(np.float32(0.5), (n, s)))[k % 4]
        if name in OF_LABELS:
            given = arranged(labels.astype(("i1", "u1", "i8", "u4")[k % 4] if c < 100 else "i4"), "strided")
        else:
            given = arranged(t.astype(("f4", "i2")[k // 2 % 2] if k % 2 == 0 else "f8"), lt)
        laid = arranged(p, lp)
        given.flags.writeable = laid.flags.writeable = False
        want, slope = naive(name, t, wide, PARAMETERS[name], weight, 0.5)
        grad = arranged(np.zeros(shape, p.dtype), LAYOUTS[k % 5])
        losses = np.full((n, s), 7, "f8" if dtype == "f8" else "f4")
        arguments = dict(bf16=bf16, weight=weight)
        before = given.tobytes(), laid.tobytes()
        total, weight_sum, kept, bad = rowwise.run(name, given, laid, PARAMETERS[name], losses=losses, grad=grad, scale=0.5, **arguments)
        assert (given.tobytes(), laid.tobytes()) == before
        got = from_bits(grad) if bf16 else grad
        exact = min(tolerance, 2e-6)
        largest = float(max(np.abs(want).max(), 1))
        np.testing.assert_allclose(losses, want.astype(float), exact, exact * largest)
        assert total == pytest.approx(float(want.sum()), rel=exact, abs=exact * largest)
        assert (kept, bad) == (n * s, -1)
        assert weight_sum == pytest.approx(n * s if weight is None else float(np.sum(weight)), rel=1e-6)
        np.testing.assert_allclose(got.astype(float), slope.astype(float), tolerance, tolerance * max(float(np.abs(slope).max()), 1))
        alone = rowwise.run(name, given, laid, PARAMETERS[name], **arguments)
        assert alone[0] == pytest.approx(total, rel=1e-12, abs=1e-12)
        hess, both = np.zeros_like(grad), np.zeros_like(grad)
        rowwise.run(name, given, laid, PARAMETERS[name], hess=hess, **arguments)
        rowwise.run(name, given, laid, PARAMETERS[name], hess=both, grad=grad, **arguments)
        assert hess.tobytes() == both.tobytes()


def test_labels_are_mathematical_integers(isa):
    p = np.full((4, 300, 1), 1 / 300, np.float32)
    a = PARAMETERS["sparse_categorical_crossentropy"]

    def sparse(labels, **arguments):
        labels = np.asarray(labels)[:, None]
        losses, grad = np.empty((4, 1), np.float32), np.empty_like(p)
        sums = rowwise.run("sparse_categorical_crossentropy", labels, p, a, losses=losses, grad=grad, **arguments)
        return *sums, losses[:, 0], grad[:, :, 0]

    for kind in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"):
        assert sparse(np.array([0, 1, 2, 100], kind))[2:4] == (4, -1)
    assert sparse(np.array([0, 255, 1, 2], np.uint8), ignore=(-1,))[2:4] == (4, -1)
    assert sparse(np.array([0, 2**64 - 1, 1, 2], np.uint64), ignore=(-1,))[3] == 1
    assert sparse(np.array([0, -1, 1, 2]), ignore=(2**64 - 1,))[3] == 1
    assert sparse(np.array([0, 44, 1, 2], np.uint8), ignore=(300,))[2:4] == (4, -1)
    for bad in (300, -1, -(2**63), 2**62):
        *_, place, losses, grad = sparse([0, 1, bad, bad])
        assert place == 2
        assert np.isnan(losses[2:]).all()
        assert np.isnan(grad[2:]).all()
        assert np.isfinite(losses[:2]).all()
    total, weights, kept, place, losses, grad = sparse([0, -7, 5, 299], ignore=(-7, 5))
    assert (kept, weights, place) == (2, 2, -1)
    assert losses[1] == losses[2] == 0
    assert (grad[1:3] == 0).all()
    assert total == pytest.approx(2 * np.log(300), rel=1e-6)


def test_the_first_bad_label_in_the_callers_order():
    labels = np.zeros((40, 5000), np.int64)
    labels[30, 2] = labels[7, 4000] = 99
    p = np.full((40, 3, 5000), 1 / 3)
    for layout, threads in itertools.product(LAYOUTS, (1, 2, 3)):
        result = rowwise.run("sparse_categorical_crossentropy", labels, arranged(p, layout), (1e-7,), threads=threads)
        assert result[3] == 7 * 5000 + 4000


@pytest.mark.parametrize("name", NAMES)
def test_what_lies_at_weight_0_leaks_nowhere(isa, name):
    rng = np.random.default_rng(2)
    for shape in ((6, 5, 1), (4, 3, 70)):
        p = rng.random(shape).astype("f4")
        t = rng.integers(0, shape[1], (shape[0], shape[2]))
        t = t if name in OF_LABELS else np.eye(shape[1])[t].transpose(0, 2, 1)
        weight = np.ones((shape[0], shape[2]), "f4")
        weight[1] = 0
        results = []
        for trash in (0.5, np.nan, np.inf):
            p[1] = trash
            losses, grad = np.full(weight.shape, 7, "f4"), np.full(shape, 7, "f4")
            sums = rowwise.run(name, t, p, PARAMETERS[name], weight=weight, losses=losses, grad=grad)
            results.append((sums, losses.tobytes(), grad.tobytes()))
            assert (losses[1] == 0).all()
            assert (grad[1] == 0).all()
        assert len(set(results)) == 1


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_cosine_at_any_scale(isa, dtype):
    limits = np.finfo(dtype)
    x = np.array([[3.0, 4.0, 0.0]], dtype)
    y = np.array([[4.0, 3.0, 0.0]], dtype)
    for a, b in itertools.product((float(limits.tiny) * 4, 1e-20, 1.0, 1e20, float(limits.max) / 8), repeat=2):
        value, slope, _ = run("cosine_similarity", x * dtype_of(dtype, a), y * dtype_of(dtype, b))
        assert value == pytest.approx(-0.96, rel=4 * float(limits.eps))
        with np.errstate(over="ignore"):
            exact = np.array([[0.96 * 0.8 - 0.6, 0.96 * 0.6 - 0.8, 0]]) / 5 / b
        if np.abs(exact).max() < limits.max and np.abs(exact[0, :2]).min() > limits.tiny:
            np.testing.assert_allclose(slope, exact, rtol=100 * float(limits.eps))
    zero = np.zeros((1, 3), dtype)
    for t, p in ((zero, x), (x, zero), (zero, zero)):
        value, slope, _ = run("cosine_similarity", t, p)
        assert value == 0
        assert (slope == 0).all()
    value, slope, _ = run("cosine_similarity", x, x)
    assert value == -1
    assert (slope == 0).all()


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_floored_cosine_of_tiny_vectors(isa, dtype):
    """As torch has it: a zero vector has a cosine of 0 and a slope that points along the other."""
    x, y, zero = (np.array([v], dtype) for v in ([3.0, 4.0], [4.0, 3.0], [0.0, 0.0]))
    floor = float(np.dtype(dtype).type(1e-12))
    for size in (1e-300, 1e-30, 1e-10, 1e-6, 1e-3):
        tiny = (x * size).astype(dtype)
        norm = np.sqrt((tiny.astype(np.longdouble) ** 2).sum() + floor)
        value, slope, _ = run("floored_cosine_similarity", y, tiny)
        unit = y.astype(np.longdouble) / np.sqrt(np.longdouble(25) + floor)
        cosine = (unit * tiny).sum() / norm
        np.testing.assert_allclose(value[0], float(-cosine), rtol=4 * np.finfo(dtype).eps, atol=np.finfo(dtype).tiny)
        wanted = (cosine * tiny / norm - unit) / norm
        np.testing.assert_allclose(slope, wanted.astype("f8"), rtol=20 * np.finfo(dtype).eps, atol=np.finfo(dtype).eps / float(norm))
    value, slope, _ = run("floored_cosine_similarity", y, zero)
    assert value == 0
    np.testing.assert_allclose(slope, -unit.astype("f8") / floor**0.5, rtol=4 * np.finfo(dtype).eps)
    value, slope, _ = run("floored_cosine_similarity", zero, x)
    assert value == 0
    assert (slope == 0).all()


def dtype_of(dtype, x):
    return np.dtype(dtype).type(x)


def test_missing_numbers_go_through(isa):
    for name, place in itertools.product(NAMES, (0, 3)):
        for dtype in ("f4", "f8"):
            t, p = rows(name, dtype)
            p[2, t[2].argmax() if name == "generalized_crossentropy" else place] = np.nan  # which looks at no other prediction
            losses, *_ = run(name, t, p)
            assert np.isnan(losses[2]), name
            assert np.isfinite(np.delete(losses, 2)).all(), name


def test_hinge_takes_the_first_of_several_largest():
    t, p = np.array([[0.0, 1.0, 0.0, 0.0]]), np.array([[0.5, 0.0, 2.0, 2.0]])
    assert run("categorical_hinge", t, p)[1].tolist() == [[0, -1, 1, 0]]
    assert run("categorical_hinge", t, np.array([[-9.0, 9.0, -9.0, -9.0]]))[1].tolist() == [[0, 0, 0, 0]]


def test_multiclass_hinge_of_what_is_not_finite(isa):
    """By hand: NaN counts as the largest decision; the label's decision reaches all, one of another class itself and the label."""
    inf, nan, c = np.inf, np.nan, 40
    for dtype, power, average in itertools.product(("f4", "f8"), (1, 2), (False, True)):
        for z, label, loss, slopes in (
            ({3: nan, 7: nan, 9: 50.0}, 5, nan, {3: nan, 5: nan} | ({7: nan} if average else {})),
            ({5: nan, 9: 50.0}, 5, nan, dict.fromkeys(range(c), nan)),
            (
                {5: -inf},
                5,
                inf,
                {5: -inf if power == 2 else -(c - 1) / c if average else -1.0, 0: inf if power == 2 else 1 / c if average else 1.0},
            ),
            ({5: inf}, 5, 0.0, {5: 0.0}),
            ({5: inf, 33: inf}, 5, nan, {5: nan, 33: nan}),
            ({33: inf}, 5, inf, {5: -inf if power == 2 else -1 / c if average else -1.0}),
        ):
            p, losses = np.full((1, c, 1), 0.0, dtype), np.empty((1, 1), dtype)
            p[0, 5] = 2
            for place, x in z.items():
                p[0, place] = x
            grad, hess = np.empty_like(p), np.empty_like(p)
            rowwise.run("multiclass_hinge", np.array([[label]]), p, (1.0, power, average), losses=losses, grad=grad, hess=hess)
            np.testing.assert_allclose(losses[0, 0], loss)
            for place, x in slopes.items():
                np.testing.assert_allclose(grad[0, place, 0], x, rtol=1e-6)
            if not average:
                assert ((grad[0, :, 0] == 0).sum() == c - 2) or slopes[5] == 0 or len(slopes) == c


@pytest.mark.parametrize(("dtype", "most"), [("f4", 3e38), ("f8", 1.7e308)])
def test_multiclass_hinge_of_sums_beyond_the_range(isa, dtype, most):
    """The mean over the classes is a number though the sum is none, even where one difference is none."""
    p = np.zeros((1, 150, 1), dtype)
    p[0, ::16] = most
    p[0, 7] = -most if dtype == "f4" else 0
    losses, grad = np.empty((1, 1), dtype), np.empty_like(p)
    rowwise.run("multiclass_hinge", np.array([[7]]), p, (1.0, 1, True), losses=losses, grad=grad)
    right = np.float64(most) * ((2 * 10 + 139) / 150 if dtype == "f4" else 10 / 150)
    if right < np.finfo(dtype).max:
        np.testing.assert_allclose(losses[0, 0], right, rtol=1e-6)
    np.testing.assert_allclose(np.delete(grad[0, :, 0], 7), 1 / 150, rtol=1e-6)
    np.testing.assert_allclose(grad[0, 7, 0], -149 / 150, rtol=1e-6)


def test_the_first_of_several_largest_wrong_classes(isa):
    for c, label, places in ((3, 0, (1, 2)), (40, 3, (20, 21, 39)), (300, 299, (17, 18, 298)), (1, 0, ())):
        for dtype in ("f4", "f8"):
            p = np.zeros((1, c, 1), dtype)
            p[0, [*places, label]] = 7
            grad = np.empty_like(p)
            rowwise.run("multiclass_hinge", np.array([[label]]), p, (1.0, 1, False), grad=grad)
            assert {k: grad[0, k, 0] for k in np.flatnonzero(grad)} == ({places[0]: 1, label: -1} if places else {})


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name not in ("floored_cosine_similarity", "multiclass_hinge", "brier", "generalized_crossentropy")]
)
def test_keras_numbers(name):
    import keras

    rng = np.random.default_rng(3)
    p, labels = rng.dirichlet(np.ones(9), 50).astype("f4"), rng.integers(0, 9, 50)
    t = np.eye(9, dtype="f4")[labels]
    losses, *_ = run(name, t, p)
    logits = {"from_logits": True} if name.endswith("logits") else {}
    want = getattr(keras.losses, name.removesuffix("_from_logits"))(labels if name in OF_LABELS else t, p, **logits)
    np.testing.assert_allclose(losses, np.asarray(want), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(30_000, 10, 1), (300, 1000, 1), (2, 21, 9000)], ids=str)
def test_threads_change_no_bit(shape):
    rng = np.random.default_rng(4)
    p, labels = rng.random(shape, "f4"), rng.integers(0, shape[1], (shape[0], shape[2]))
    t = np.ascontiguousarray(np.eye(shape[1], dtype="f4")[labels].transpose(0, 2, 1))
    for name in NAMES:
        results = set()
        for threads in (1, 2, 3, 4):
            grad = np.empty_like(p)
            result = rowwise.run(name, labels if name in OF_LABELS else t, p, PARAMETERS[name], grad=grad, threads=threads)
            results.add((result, grad.tobytes()))
        assert len(results) == 1


def test_empty_and_wrong_calls():
    for shape in ((0, 3, 1), (3, 0, 2), (2, 3, 0)):
        p, losses = np.empty(shape, "f4"), np.full((shape[0], shape[2]), 7, "f4")
        assert rowwise.run("cosine_similarity", p, p, losses=losses) == (0.0, shape[0] * shape[2], shape[0] * shape[2], -1)
        assert (losses == 0).all()
    p = np.zeros((2, 3, 4), "f4")
    with pytest.raises(KeyError):
        rowwise.run("no_such_loss", p, p)
    with pytest.raises(TypeError, match="parameters"):
        rowwise.run("categorical_crossentropy", p, p)
    with pytest.raises(ValueError, match="shape"):
        rowwise.run("cosine_similarity", p[:1], p)
    with pytest.raises(TypeError, match="grad"):
        rowwise.run("cosine_similarity", p, p, grad=p.astype("f8"))
    with pytest.raises(TypeError, match="labels are integers"):
        rowwise.run("sparse_categorical_crossentropy", p[:, 0], p, (1e-7,))
