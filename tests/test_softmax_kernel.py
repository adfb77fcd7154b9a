"""The softmax cross-entropy kernel against the definition in extended precision: every type, layout, option, edge and instruction set."""

import itertools
import multiprocessing

import mpmath
import numpy as np
import pytest
from kernels import every_isa, from_bits, to_bits

import polyloss as pl
from polyloss._kernels.cpu import softmax_xent

CLASSES = [1, 2, 3, 7, 8, 10, 15, 16, 17, 21, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 511, 512, 513]
CLASSES += [1000, 2047, 2048, 2049, 4097]
INTEGERS = [np.dtype(c) for c in "bhilBHIL"]
FLOATS = [np.float32, np.float64, np.float16, "bfloat16"]
EVERY = ("losses", "grad", "prob", "hess")


isa = every_isa(softmax_xent)


def oracle(z, y, ignore=(), class_weight=None, weight=None, smoothing=0.0, poly_epsilon=0.0, z_loss=0.0, softcap=0.0, scale=1.0):
    """The definition, position by position: z (N, C, S), y (N, S) or (N, C, S)."""
    z, bent, bend = z.astype(np.longdouble), 1, 0
    if softcap:
        tanh = np.tanh(z / softcap)
        with np.errstate(over="ignore"):
            bent = np.cosh(z / softcap) ** -2
        z, bend = softcap * tanh, -2 * tanh * bent / softcap
    n, c, s = z.shape
    smoothing = np.longdouble(smoothing)
    k = (np.ones(c) if class_weight is None else class_weight).astype(np.longdouble)
    w = np.ones((n, s)) if weight is None else weight
    out = {"losses": np.zeros((n, s), np.longdouble)}
    out |= {name: np.zeros((n, c, s), np.longdouble) for name in ("grad", "prob", "hess")}
    out |= {"weight": np.longdouble(0), "count": 0, "bad": -1}
    for i, j in np.ndindex(n, s):
        row = z[i, :, j]
        top, a = row.max(initial=-np.inf), int(np.argmax(row)) if c else 0
        with np.errstate(all="ignore"):
            e = np.exp(row - top)
            others = np.delete(e, a).sum() + (top - top) if c else np.longdouble(0)
            p = e / (1 + others)
            not_p = 1 - p
            not_p[a : a + 1] = others / (1 + others)
            lse = top + np.log1p(others)
        out["prob"][i, :, j] = p
        t = y[i, :, j].astype(np.longdouble) if y.ndim == 3 else np.zeros(c, np.longdouble)
        if y.ndim == 2:
            label = int(y[i, j])
            if label in ignore:
                continue
            if not 0 <= label < c:
                out["bad"] = i * s + j if out["bad"] < 0 else out["bad"]
                out["count"] += 1
                out["losses"][i, j] = out["grad"][i, :, j] = out["hess"][i, :, j] = np.nan
                continue
            t[label] = 1
        out["count"] += 1
        if w[i, j] == 0:
            continue
        out["weight"] += w[i, j] * (k * t).sum()
        kt = k * ((1 - smoothing) * t + smoothing / c)
        total = kt.sum()
        if y.ndim == 2 and total == 0 and poly_epsilon == 0 and z_loss == 0:
            continue
        with np.errstate(all="ignore"):
            loss = (kt * (top - row))[kt != 0].sum() + total * np.log1p(others)
            loss += poly_epsilon * ((1 - t.sum()) + (t * not_p)[t != 0].sum()) + z_loss * lse**2
            excess = t - (t * p).sum()
            if y.ndim == 2:
                excess[label] = not_p[label]
            slope = total * p - kt
            slope[a] = (total - kt[a]) - total * not_p[a]
            pull = 2 * np.longdouble(z_loss) * lse
            slope += pull * p - poly_epsilon * p * excess
            curve = (total + pull) * p * not_p + 2 * z_loss * p * p - poly_epsilon * p * excess * (not_p - p)
            if softcap:
                curve = curve * bent[i, :, j] ** 2 + slope * bend[i, :, j]
                slope = slope * bent[i, :, j]
            factor = scale * np.longdouble(w[i, j])
            out["losses"][i, j] = w[i, j] * loss
            out["grad"][i, :, j] = factor * slope
            out["hess"][i, :, j] = factor * curve
    return out


def label_sums(y, c, *, ignore=(), class_weight=None, weight=None, threads=1):
    """(weights, count, first bad position) as a call finds them, from labels and weights alone."""
    real, facts = "f4" if weight is None else softmax_xent.facts(weight, "ns")[0], softmax_xent.facts
    bound = softmax_xent.bind(
        "softmax_xent", y.shape[0], c, y.shape[1], facts(y, "ns"), (real, (0, 0, 0)), None if weight is None else facts(weight, "ns"),
        None if class_weight is None else facts(class_weight, "c"), parameters=(0, 0, 0, 0), ignore=ignore, threads=threads,
    )  # fmt: skip
    return bound.sums(y, weight, class_weight)[:3]


def assert_close(got, want, ulp, what, floor=0.0):
    """Within `ulp` units in the last place of the wanted number rounded; no unit is taken of less than `floor`."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        rounded = want.astype(got.dtype)
        unit = np.spacing(np.maximum(np.abs(rounded), np.asarray(floor).astype(got.dtype)))
        off = np.abs(got.astype(np.longdouble) - rounded) / unit
    finite = np.isfinite(rounded)
    np.testing.assert_array_equal(got[~finite], rounded[~finite], err_msg=what)
    off = np.where(finite, off, 0)
    assert off.max(initial=0) <= ulp, f"{what}: {off.max()} units at {np.unravel_index(off.argmax(), off.shape)}"


def laid_out(x, layout, rng):
    """The same numbers at other strides; (N, C, S) or (N, S)."""
    if layout == "C":
        return np.ascontiguousarray(x)
    if layout == "F":
        return np.asfortranarray(x)
    if layout == "classes last":
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    if layout == "reversed":
        return np.ascontiguousarray(x[..., ::-1])[..., ::-1]
    assert layout == "strided"
    room = rng.integers(0, 100, [3 * n + 1 for n in x.shape]).astype(x.dtype)
    view = room[tuple(slice(1, 3 * n + 1, 3) for n in x.shape)]
    view[...] = x
    return view


def outputs(z, names, layout="C", rng=None):
    """Arrays of garbage to be filled."""
    n, c, s = z.shape
    real = np.float64 if z.dtype == np.float64 else np.float32
    return {
        name: laid_out(np.full((n, s), 77, real) if name == "losses" else np.full((n, c, s), 77, z.dtype), layout, rng) for name in names
    }


def check(z, y, dtype=None, *, ulp=4, layout="C", names=EVERY, want=None, **options):
    """Run the kernel and compare every output with the definition; its result, the outputs and the definition's."""
    rng = np.random.default_rng(0)
    bf16 = dtype == "bfloat16"
    low = bf16 or z.dtype == np.float16
    want = want or oracle(from_bits(z) if bf16 else z, y, **options)
    given, labels = laid_out(z, layout, rng), laid_out(y, layout, rng)
    out = outputs(z, names, layout, rng)
    got = softmax_xent.fused(given, labels, bf16=bf16, **out, **options)
    np.testing.assert_array_equal(given, z)
    np.testing.assert_array_equal(labels, y)
    real = np.float64 if z.dtype == np.float64 else np.float32
    assert got[2:] == (want["count"], want["bad"])
    summed_in_floats = y.ndim == 3 and real == np.float32
    np.testing.assert_allclose(got[1], float(want["weight"]), rtol=1e-7 if summed_in_floats else 1e-12)
    # Where targets are spread over the classes K p - k t cancels: a unit is then one of the terms.
    options_of_sums = "smoothing", "poly_epsilon", "z_loss"
    spread = 0.0 if y.ndim == 2 and not any(map(options.get, options_of_sums)) else abs(options.get("scale", 1.0))
    for name in names:
        floor = {"grad": spread, "hess": spread or options.get("softcap", 0.0) != 0}.get(name, 0.0)
        if low and name != "losses":
            filled = from_bits(out[name]) if bf16 else out[name].astype(np.float32)
            unit, least = (2.0**-8, 1e-38) if bf16 else (2.0**-11, 2.0**-25)
            np.testing.assert_allclose(filled, want[name].astype(np.float32), rtol=unit * 1.001, atol=least * 1.001, err_msg=name)
        else:
            assert_close(out[name], want[name], 2 * ulp if name == "hess" else ulp, name, floor)
    total = want["losses"].sum()
    np.testing.assert_allclose(got[0], float(total), **({"rtol": 2e-7, "atol": 2.0**-149} if real == np.float32 else {"rtol": 2e-15}))
    return got, out, want


def some(shape, dtype, rng, spread=3.0):
    z = rng.standard_normal(shape) * spread
    return to_bits(z) if dtype == "bfloat16" else z.astype(dtype)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("c", CLASSES)
def test_number_of_classes(c, dtype, isa):
    rng = np.random.default_rng(c)
    n = 37 if c < 70 else 5
    z, y = some((n, c, 1), dtype, rng), rng.integers(0, c, (n, 1))
    want = check(z, y, dtype, scale=0.25)[2]
    check(z, y, dtype, names=("grad",), scale=0.25, want=want)
    check(z, y, dtype, names=("losses",), want=want)
    check(z, y, dtype, names=(), want=want)


@pytest.mark.parametrize("layout", ["C", "classes last", "strided"])
@pytest.mark.parametrize("c", [2, 3, 10, 21, 65, 300, 1100])
def test_smoothed_labels(c, layout, isa):
    """In the fast loops, where no curvature is asked for: outputs together, then each alone; with masked classes the loss is infinite."""
    rng = np.random.default_rng(c)
    for s in (1, 70):
        z, y = some((3, c, s), np.float32, rng) + rng.uniform(-60, 60, (3, 1, s)).astype(np.float32), rng.integers(0, c, (3, s))
        y[1, 0] = -1
        weight = rng.random((3, s), np.float32)
        for smoothing in (0.1, 1.0):
            options = {"smoothing": smoothing, "scale": 0.5, "weight": weight, "ignore": (-1,)}
            want = check(z, y, layout=layout, names=("losses", "grad", "prob"), **options)[2]
            for names in (("losses",), ("grad",), ("prob",), ()):
                check(z, y, layout=layout, names=names, want=want, **options)
        z[0, c // 2], z[2, 0, 0] = -np.inf, -np.inf
        check(z, y, layout=layout, names=("losses", "grad"), smoothing=0.1)


@pytest.mark.parametrize("layout", ["C", "classes last", "strided"])
@pytest.mark.parametrize("c", [2, 3, 10, 21, 65, 300, 1100])
def test_spread_targets(c, layout, isa):
    """Soft targets, and labels smoothed under class weights: outputs together, then each alone."""
    rng = np.random.default_rng(c)
    for s in (1, 70 if c < 100 else 9):
        z = some((3, c, s), np.float32, rng) + rng.uniform(-60, 60, (3, 1, s)).astype(np.float32)
        t = rng.random((3, c, s), np.float32)
        t[:, c // 3 : c // 2] = 0
        t[0] /= t[0].sum(0)
        t[1, :, : s // 2] = 0
        z[2, c // 3 : c // 2, 0] = -np.inf  # impossible, and without a target
        y, weight, k = rng.integers(-1, c, (3, s)), rng.random((3, s), np.float32), rng.random(c, np.float32)
        weight[0, 0] = weight[2, s - 1] = k[0] = 0
        y[1, s - 1] = c + 3  # bad
        common = {"scale": 0.5, "weight": weight}
        for targets, options in (
            (t, {}),
            (t, {"class_weight": k}),
            (t, {"smoothing": 0.1}),
            (t, {"smoothing": 0.1, "class_weight": k}),
            (y, {"smoothing": 0.1, "class_weight": k, "ignore": (-1,)}),
        ):
            want = check(z, targets, layout=layout, names=("losses", "grad", "prob"), **options, **common)[2]
            for names in (("losses",), ("grad",), ("prob",), ()):
                check(z, targets, layout=layout, names=names, want=want, **options, **common)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("c", [2, 10, 64, 300, 1100])
@pytest.mark.parametrize("s", [1, 70])
def test_targets_of_one_class_are_its_label(s, c, dtype, isa):
    """To the last digits: the small losses and slopes of confident positions too."""
    rng = np.random.default_rng(c)
    z, y = some((3, c, s), dtype, rng, spread=8.0), rng.integers(0, c, (3, s))
    want, t = oracle(z, y), (np.arange(c)[:, None] == y[:, None, :]).astype(dtype)
    for names in (("losses", "grad"), ("losses",)):
        out = outputs(z, names)
        softmax_xent.fused(z, t, **out)
        for name in names:
            assert_close(out[name], want[name], 4, name)


def test_poly_term_of_equally_large_classes(isa):
    """1 - p of each is 1/2, and a last bit below it must not make each the largest one."""
    import polyloss as pl

    for top in (0.0, 1.0, 3.0, 20.0, 45.0, 90.0, -60.0, 700.0):
        for small in ((), (-800.0,)):
            z = np.array([[top, top, *(top + x for x in small)]])
            one = [-0.75, 0.75, *(0.0 for _ in small)]
            np.testing.assert_allclose(pl.grad("poly1")([0], z)[0], one, rtol=1e-14, atol=1e-14)
            np.testing.assert_allclose(pl.grad("poly1")(np.eye(z.shape[1])[:1], z)[0], one, rtol=1e-14, atol=1e-14)
            np.testing.assert_allclose(pl.grad_and_hess("poly1")([0], z)[1][0, :2], [0.25, 0.25], rtol=1e-14)


@pytest.mark.parametrize("c", [2, 10, 300])
@pytest.mark.parametrize("s", [1, 64])
def test_small_probabilities_beside_a_large_target(s, c, isa):
    """exp(-110) is no float, but e^(35 - 110), the slope of a class, is one to its last digit."""
    rng = np.random.default_rng(c)
    z, y = rng.uniform(25, 35, (3, c, s)).astype(np.float32), rng.integers(0, c, (3, s))
    np.put_along_axis(z, y[:, None, :], np.float32(110), 1)
    for names in (("grad",), ("prob", "losses"), ("grad", "prob")):
        check(z, y, names=names)


@pytest.mark.parametrize("c", [2, 10, 21, 65, 300])
@pytest.mark.parametrize("s", [1, 2, 15, 16, 17, 63, 64, 65, 100, 257])
def test_number_of_positions(s, c, isa):
    rng = np.random.default_rng(s)
    for n in (1, 2):
        z, y = some((n, c, s), np.float32, rng), rng.integers(0, c, (n, s))
        want = check(z, y, names=("losses", "grad"), ignore=(1,))[2]
        check(z, y, names=("grad",), ignore=(1,), want=want)
        check(z, y, names=(), layout="classes last", ignore=(1,), want=want)


def spread_targets(shape, dtype, rng):
    """Soft targets that add up to 1, half of the classes at 0."""
    t = rng.random(shape)
    t[:, : shape[1] // 2] = 0
    return (t / t.sum(1, keepdims=True)).astype(dtype)


@pytest.mark.parametrize("layout", ["C", "classes last", "strided"])
@pytest.mark.parametrize("c", [1, 2, 3, 5, 9, 21, 64, 66, 520])
def test_number_of_positions_in_double(c, layout, isa):
    """Panels full and not, within an image and across its end, in both kinds of position: with a label and with soft targets."""
    rng = np.random.default_rng(c)
    for n, s in ((1, 1), (3, 1), (8, 1), (9, 1), (67, 1), (7, 2), (3, 7), (2, 8), (2, 17), (1, 65)):
        if n * s * c > 5000:
            continue
        z, y, t = some((n, c, s), np.float64, rng), rng.integers(0, c, (n, s)), spread_targets((n, c, s), np.float64, rng)
        y[0, 0] = -1
        weight = rng.random((n, s))
        weight[-1, -1] = 0
        options = {"weight": weight, "scale": 0.5}
        check(z, y, layout=layout, ignore=(-1,), **options)
        check(z, t, layout=layout, **options)


@pytest.mark.parametrize("c", [7, 40, 600])
@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_every_set_of_outputs(dtype, c, isa):
    rng = np.random.default_rng(c)
    n, s = (9, 1) if c == 7 else (2, 11)
    real = np.float64 if dtype == np.float64 else np.float32
    z, y, t = some((n, c, s), dtype, rng), rng.integers(0, c, (n, s)), spread_targets((n, c, s), real, rng)
    k = rng.random(c).astype(real)
    for targets, options in (
        (y, {}),
        (y, {"smoothing": 0.1, "class_weight": k}),
        (y, {"poly_epsilon": 0.7}),
        (t, {}),
        (t, {"poly_epsilon": 0.7, "class_weight": k}),
    ):
        want = oracle(z, targets, **options)
        for many in range(len(EVERY) + 1):
            for names in itertools.combinations(EVERY, many):
                check(z, targets, names=names, want=want, ulp=4 if targets is y else 6, **options)


@pytest.mark.parametrize("c", [3, 21, 700])
@pytest.mark.parametrize("s", [1, 20])
def test_double_far_from_0(s, c, isa):
    """Logits of any size keep all digits of their differences."""
    rng = np.random.default_rng(c)
    z, y, t = some((12, c, s), np.float64, rng, 20), rng.integers(0, c, (12, s)), spread_targets((12, c, s), np.float64, rng)
    offsets = (2000, 2048, 2100, 5e3, 1e5, 1e9)
    z += np.concatenate([offsets, np.negative(offsets)])[:, None, None]
    z[:, -1] -= 700
    check(z, y)
    check(z, t)


def test_targets_and_outputs_laid_out_otherwise(isa):
    rng = np.random.default_rng(3)
    for shape in ((2, 11, 70), (30, 5, 1), (2, 600, 9)):
        z, t = some(shape, np.float64, rng), spread_targets(shape, np.float64, rng)
        want = oracle(z, t)
        for there, back in itertools.permutations(("C", "F", "classes last", "strided"), 2):
            out = outputs(z, EVERY, back, rng)
            softmax_xent.fused(z, laid_out(t, there, rng), **out)
            for name in EVERY:
                assert_close(out[name], want[name], 6 if name != "hess" else 12, name, 1.0)


@pytest.mark.parametrize("shape", [(1, 21, 6400), (2, 21, 3203), (66, 2005, 1)], ids=str)
def test_large_outputs_in_double(shape, isa):
    """Past the caches, wherever in a line of the cache they begin: the same numbers as of few positions."""
    rng = np.random.default_rng(4)
    n, c, s = shape
    z, y, t = some(shape, np.float64, rng), rng.integers(0, c, (n, s)), spread_targets(shape, np.float64, rng)
    for targets in (y, t):
        few = outputs(z, ("grad", "hess"))
        for i in range(n):
            for b in range(0, s, 1000):
                part = np.s_[i : i + 1, ..., b : b + 1000]
                softmax_xent.fused(z[part], targets[part], **{name: few[name][part] for name in few})
        for off in (0, 1, 5):
            out = {name: np.full(z.size + 8, 77.0)[off : off + z.size].reshape(shape) for name in few}
            softmax_xent.fused(z, targets, threads=2, **out)
            for name, value in out.items():
                assert_close(value, few[name].astype(np.longdouble), 4, name, 2.0**-60)


def test_a_class_without_weight_costs_nothing(isa):
    """Nor its poly term more than it does without weights, even where its logit is -inf."""
    z, y = np.array([[0.5, -np.inf, 2.0]] * 20)[:, :, None], np.ones((20, 1), np.int64)
    k = np.array([1.0, 0.0, 2.0])
    for given in (z, z.astype(np.float32)):
        got = check(given, y, class_weight=k.astype(given.dtype), poly_epsilon=1.0)[0]
        assert got[:2] == (20.0, 0.0)
        assert check(given, y, class_weight=k.astype(given.dtype))[0][:2] == (0.0, 0.0)


@pytest.mark.parametrize("layout", ["C", "F", "classes last", "reversed", "strided"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_layouts(layout, dtype, isa):
    rng = np.random.default_rng(1)
    for shape in ((3, 11, 70), (40, 5, 1), (2, 300, 3)):
        z, y = some(shape, dtype, rng), rng.integers(0, shape[1], (shape[0], shape[2]))
        want = check(z, y, dtype, layout=layout)[2]
        check(z, y, dtype, layout=layout, names=("grad",), want=want)


@pytest.mark.parametrize("integer", INTEGERS, ids=str)
def test_labels_are_compared_as_mathematical_integers(integer, isa):
    rng = np.random.default_rng(2)
    z = some((2, 21, 50), np.float32, rng)
    y = rng.integers(0, 21, (2, 50)).astype(integer)
    info = np.iinfo(integer)
    ignore = (-1, 255, 300, 2**64 - 1, 2**70, -(2**63), 7)
    y[0, 4] = info.max  # ignored as 255 or 2**64 - 1, else the first bad label
    y[1, 4] = info.min  # ignored as -2**63, bad where another signed type, class 0 where unsigned
    for layout in ("C", "strided"):
        want = check(z, y, layout=layout, ignore=ignore)[2]
        check(z, y, layout=layout)
        check(z, y, layout=layout, ignore=(int(info.max),), names=("grad",))
    assert label_sums(y, 21, ignore=ignore) == (float(want["weight"]), want["count"], want["bad"])


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("c", [1, 5, 40, 700])
def test_options(c, dtype, isa):
    rng = np.random.default_rng(3)
    real = np.float64 if dtype == np.float64 else np.float32
    n, s = (3, 20) if c < 100 else (2, 5)
    z, y = some((n, c, s), dtype, rng), rng.integers(0, c, (n, s))
    k, w = rng.random(c).astype(real), rng.random((n, s)).astype(real)
    k[0] = w[1, 3] = w[0, :2] = 0
    wide = np.broadcast_to(w[:, 2:3], (n, s))
    t = rng.random((n, c, s)).astype(real)
    t[:, : c // 2] = 0
    t /= t.sum(1, keepdims=True)
    for options in (
        {"weight": w, "class_weight": k, "scale": 0.3},
        {"weight": w, "class_weight": k, "names": ("grad",)},
        {"weight": wide, "ignore": (0, 2), "names": ("grad", "prob")},
        {"smoothing": 0.1, "class_weight": k},
        {"smoothing": 0.1, "weight": w, "names": ("losses", "grad")},
        {"poly_epsilon": 1.5, "weight": w, "class_weight": k},
    ):
        want = check(z, y, dtype, **options)[2]
        check(z, y, dtype, layout="classes last", want=want, **options)
    for options in ({}, {"class_weight": k, "weight": w, "smoothing": 0.2, "poly_epsilon": -0.5, "scale": 2.0}):
        want = check(z, t, dtype, ulp=6, **options)[2]
        check(z, t, dtype, ulp=6, layout="classes last", want=want, **options)
    want = oracle(np.zeros((n, c, s)), y, (2,), k, w)
    got = label_sums(y, c, ignore=(2,), class_weight=k, weight=w)
    np.testing.assert_allclose(got[0], float(want["weight"]), rtol=1e-12)
    assert got[1:] == (want["count"], -1)


@pytest.mark.parametrize("dtype", FLOATS[:3], ids=str)
@pytest.mark.parametrize("c", [1, 5, 200])
def test_z_loss_and_softcap(c, dtype, isa):
    """Beside every other option: labels, soft targets, rows, planes; class weights of 0, where the term of lse² still counts."""
    rng = np.random.default_rng(c)
    real = np.float64 if dtype == np.float64 else np.float32
    for shape in ((9, c, 1), (1, c, 33)):
        z = some(shape, dtype, rng, 5.0)
        n, _, s = shape
        y, soft = rng.integers(0, c, (n, s)), np.moveaxis(rng.dirichlet(np.ones(c), (n, s)), -1, 1).astype(real)
        y[0, 0] = 999
        k, w = rng.choice([0.0, 0.5, 2.0], c).astype(real), rng.choice([0.0, 1.0, 0.25], (n, s)).astype(real)
        for terms in ({"z_loss": 0.01}, {"softcap": 8.0}, {"z_loss": 1e-3, "softcap": 4.0}, {"softcap": 30.1}):
            # A logit of float32 is off by up to 1.5 units of the cap's last place (tanh by 1.25, the product by a quarter), and a loss is
            # the exponential of a difference of two: 3 such units, 3 * 2^floor(log2 cap) in 2^-23, are as many relative units of the
            # loss, and twice as many of the last place of one below a power of two. Measured with AVX-512 to SSE4.2: caps of
            # 1, 4, 8, 30.1 and 50 are off by 6, 11, 20, 94 and 117; the bound is 9, 18, 30, 96 and 156.
            # Where curvatures are asked for all is in float64, and rounded.
            ulp = 6 + 3 * int(terms.get("softcap", 0))
            for options in ({"ignore": (999,)}, {"ignore": (999,), "smoothing": 0.1, "class_weight": k, "weight": w, "scale": 0.5}):
                check(z, y, dtype, ulp=ulp, **terms, **options)
                check(z, y, dtype, ulp=ulp, names=("losses", "grad"), **terms, **options)
                check(z, y, dtype, ulp=ulp, names=(), **terms, **options)
            check(z, y, dtype, ulp=ulp, names=("losses", "grad"), ignore=(999,), class_weight=k, **terms)
            check(z, soft, dtype, ulp=ulp, names=("losses", "grad"), weight=w, **terms)


def extremes(c, rng):
    z = rng.standard_normal((16, c)) * 2
    z[0] = -np.inf
    z[1, 0] = np.inf
    z[2, c // 2] = np.nan
    z[3, : c - 1] = -np.inf
    z[4] += 1e30
    z[5] -= 1e30
    z[6, ::2] = -1e30
    z[7, c - 1] = 1e30
    z[8, : c // 2] = -np.inf
    z[9] -= 200
    z[10] += 200
    z[11] *= 10
    z[12, c // 2] = 30
    z[13] += 90
    z[14] -= 60
    return z


@pytest.mark.parametrize(("s", "c"), [(2, softmax_xent.FEW + 1), (37, 203), (16, 200), (300, 321)])
def test_slopes_over_logits_that_lie_class_by_class(s, c, isa):
    """As a model's head makes them, beside other positions in the same rows; what is lost to float32 is done again, and only that."""
    rng = np.random.default_rng(s)
    z = np.zeros((1, c, s), np.float32)
    z[0] = rng.standard_normal((c, s)) * 5
    z[0, :, 0] *= 100
    if s > 16:
        z[0, :, 3:19] = extremes(c, rng).T
    y = rng.integers(0, c, (1, s))
    y[0, 1], y[0, s // 2] = -100, y[0, 0]
    k, w = rng.choice([0.0, 0.5, 2.0], c).astype("f4"), rng.choice([0.0, 1.0, 0.25], (1, s)).astype("f4")
    weights = {"class_weight": k, "weight": w, "scale": 0.5}
    for options in ({}, weights, {"smoothing": 0.1, "z_loss": 0.01}, {"softcap": 8.0}, {"poly_epsilon": 0.5}):
        want = oracle(z, y, (-100,), **options)
        room = np.full((c, s + 7), 5, np.float32)
        over = room[None, :, :s]
        over[...] = z
        losses = np.zeros((1, s), np.float32)
        got = softmax_xent.fused(over, y, ignore=(-100,), grad=over, losses=losses, threads=2, **options)
        assert got[2:] == (want["count"], want["bad"])
        ulp, scale = 40 if "softcap" in options else 8, options.get("scale", 1.0)
        assert_close(losses, want["losses"], ulp, "losses")
        assert_close(over, want["grad"], ulp, "grad", scale if set(options) & {"smoothing", "z_loss", "poly_epsilon"} else 0.0)
        assert (room[:, s:] == 5).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("c", [2, 10, 200, 2100])
def test_infinite_and_huge_logits_are_capped(c, dtype, isa):
    """Infinite ones, too; a NaN is one, unless its position does not count. Caps that are no floats, or whose reciprocal is none."""
    rows = extremes(c, np.random.default_rng(4)).astype(dtype)[:, :, None]
    for z in (rows, np.ascontiguousarray(rows.transpose(2, 1, 0))):
        y = np.full((z.shape[0], z.shape[2]), c // 2)
        y.ravel()[2] = -100
        for options in ({"smoothing": 0.1}, {"smoothing": 0.1, "class_weight": np.linspace(0.5, 2, c).astype(dtype)}, {}):
            for names in (("losses", "grad"), ("losses",), ("grad",)):
                check(z, y, ulp=30, names=names, ignore=(-100,), softcap=8.0, **options)
        for cap in (1e-40, 1e40):
            check(np.clip(np.nan_to_num(z), -5, 5), y, ulp=30, names=("losses", "grad"), ignore=(-100,), softcap=cap)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("c", [2, 3, 10, 17, 64, 200, 2100])
@pytest.mark.parametrize("spatial", [False, True])
def test_infinite_and_huge_logits(spatial, c, dtype, isa):
    z = extremes(c, np.random.default_rng(4)).astype(dtype)[:, :, None]
    if spatial:
        z = np.ascontiguousarray(z.transpose(2, 1, 0))
    for label in (0, c // 2, c - 1):
        y = np.full((z.shape[0], z.shape[2]), label)
        want = check(z, y)[2]
        check(z, y, names=("grad",), want=want)
        check(z, y, names=("losses",), want=want)
        for i in range(max(y.shape)):  # the value alone, where no other position's hides it
            here = (slice(None), slice(i, i + 1)) if spatial else (slice(i, i + 1), slice(None))
            check(z[here[0], :, here[1]], y[here], names=())
    check(z, y, names=("losses", "grad"), smoothing=0.1)
    check(z, y, names=("losses", "grad"), poly_epsilon=1.0)
    t = np.zeros_like(z)
    t[:, c - 1] = 1
    check(z, t, ulp=6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("c", [2, 10, 300, 32000])
@pytest.mark.parametrize("n", [1, 20])
def test_equal_logits_keep_their_digits(n, c, dtype, isa):
    """As where a layer begins at 0: a slope is the difference of two numbers of the size 1 / C, and loses no digits to K, which is 1."""
    z, labels = np.zeros((n, c, 1), dtype), np.full((n, 1), c - 1)
    soft = np.full((n, c, 1), 0.5 / c, dtype)
    soft[:, 0] += 0.5
    for y, options in ((labels, {"smoothing": 0.1}), (soft, {}), (labels, {"smoothing": 0.1, "class_weight": np.ones(c, dtype)})):
        want, got = oracle(z, y, **options)["grad"], outputs(z, ["grad"])
        softmax_xent.fused(z, y, **got, **options)
        np.testing.assert_allclose(got["grad"][:, 1], want[:, 1].astype(float), rtol=0, atol=4 * np.finfo(dtype).eps / c)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("c", [2, 10, 193, 300])
def test_targets_far_below_the_others(c, smoothing, isa):
    """exp(z_y) times the sum of the others leaves the range of doubles."""
    rng = np.random.default_rng(c)
    z, y = some((40, c, 1), np.float32, rng), np.arange(40)[:, None] % c
    z[:, c // 2 :] += 25
    for far in (-500, -650, -690, -750, -1e4, -1e30):
        np.put_along_axis(z, y[:, None], np.float32(far), 1)
        for names in ((), ("losses",), ("losses", "grad")):
            check(z, y, names=names, smoothing=smoothing)


@pytest.mark.parametrize("c", [10, 193, 300])
def test_smoothing_over_classes_masked_by_the_least_float(c, isa):
    """Their sum is no float, the loss is: e / C of it."""
    z, y = some((20, c, 1), np.float32, np.random.default_rng(c)), np.zeros((20, 1), int)
    z[:, c // 2 :] = np.finfo(np.float32).min
    for names in ((), ("losses",), ("losses", "grad")):
        check(z, y, names=names, smoothing=0.1)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("c", [2, 10, 300])
def test_tiny_and_infinite_weights(c, soft, isa):
    """The factor of exp(z), 2^-54 here, may not fall below the smallest float where the slopes do not, nor an infinity become NaN."""
    z, w = np.full((20, c, 1), 36, np.float32), np.full((20, 1), 1e-25, np.float32)
    z[:, 0] += 1
    z[:, c // 2 :: 3] -= np.float32(20)
    y = np.full(z.shape, 0.7 / c, np.float32) if soft else np.zeros((20, 1), int)
    want, got = oracle(z, y, weight=w)["grad"], outputs(z, ["grad"])
    softmax_xent.fused(z, y, weight=w, **got)
    np.testing.assert_allclose(got["grad"], want.astype(float), rtol=1e-6 if not soft else 1e-4)
    w[:] = np.inf
    softmax_xent.fused(z, y, weight=w, **got)
    np.testing.assert_array_equal(got["grad"], np.where(want > 0, np.inf, -np.inf))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("c", [2, 3, 10, 64, 1000, 3000])
def test_confident_rows_keep_their_digits(c, dtype, isa):
    """The loss of a sure, right row is tiny, and known to as many digits as any other."""
    rng = np.random.default_rng(5)
    unit = 2e-7 if dtype == np.float32 else 4 * 2.0**-52
    for gap in (5, 12, 20, 30, 60):
        z = rng.standard_normal((5, c)).astype(dtype)
        y = rng.integers(0, c, 5)
        z[np.arange(5), y] += gap
        out = outputs(z[:, :, None], ("losses", "grad"))
        total = softmax_xent.fused(z[:, :, None], y[:, None], **out)[0]
        with mpmath.workdps(40):
            others = []
            for row, label in zip(z, y, strict=True):
                target = mpmath.mpf(float(row[label]))
                others.append(mpmath.fsum(mpmath.exp(mpmath.mpf(float(v)) - target) for i, v in enumerate(row) if i != label))
            truth = [mpmath.log1p(o) for o in others]
            assert abs(total / mpmath.fsum(truth) - 1) < unit
            assert abs(softmax_xent.fused(z[:, :, None], y[:, None])[0] / mpmath.fsum(truth) - 1) < unit
            for i, o in enumerate(others):
                assert abs(softmax_xent.fused(z[i, None, :, None], y[i, None, None])[0] / truth[i] - 1) < unit
                assert abs(mpmath.mpf(float(out["losses"][i, 0])) / truth[i] - 1) < unit
                slope = -o / (1 + o)
                assert abs(mpmath.mpf(float(out["grad"][i, y[i], 0])) - slope) <= 4 * float(np.spacing(dtype(float(-slope))))


def test_losses_to_the_last_places(isa):
    """docs/kernels.md has the bounds: the loss of a confident position is nearly a sum of exponentials, whose error is its own. Float64 is
    the truth."""
    most = {"x86-64-v4": 3.2, "x86-64-v3": 3.3, "x86-64-v2": 3.8}.get(isa, 4)
    for c in (2, 3, 4, 7, 10, 21, 64, 193, 300, 1000):
        rng = np.random.default_rng(c)
        z = (rng.standard_normal((40000 // c, c)) * rng.choice([0.01, 0.5, 1, 3, 6, 10], (40000 // c, 1))).astype(np.float32)
        for y in (z.argmax(1), rng.integers(0, c, len(z))):
            wide, label = z.astype(np.float64), y[:, None]
            exact = np.exp(wide - np.take_along_axis(wide, label, 1))
            np.put_along_axis(exact, label, 0, 1)
            exact = np.log1p(exact.sum(1))
            for names in (("losses",), ("losses", "grad")):
                out = outputs(z[:, :, None], names)
                softmax_xent.fused(z[:, :, None], label, **out)
                off = np.abs(out["losses"][:, 0] - exact) / np.spacing(exact.astype(np.float32))
                assert off.max() <= most, (c, names)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("c", [softmax_xent.FEW + 1, 300, 2100])
def test_gradient_in_place_of_the_logits(c, dtype, isa):
    """The same bits, rows that are done again in float64 among them: infinite and huge logits, targets far below the others."""
    rng = np.random.default_rng(c)
    usual = rng.standard_normal((70, c)) * np.repeat([0.1, 3, 30, 300, 3000], 14)[:, None]
    z = np.concatenate([extremes(c, rng), usual]).astype(dtype)[:, :, None]
    y = rng.integers(0, c, (len(z), 1))
    y[::7], y[5] = 255 + c, 999 + c
    weight, k = rng.choice([0.0, 0.5, 2.0], (len(z), 1)).astype(dtype), rng.choice([0.0, 1.0, 3.0], c).astype(dtype)
    for options in ({}, {"weight": weight}, {"smoothing": 0.1}, {"smoothing": 0.1, "class_weight": k}):
        options |= {"ignore": (255 + c,), "scale": 0.25}
        apart, in_place = np.full_like(z, 77), z.copy()
        with np.errstate(all="ignore"):
            want = softmax_xent.fused(z, y, grad=apart, **options)
            got = softmax_xent.fused(in_place, y, grad=in_place, **options)
        np.testing.assert_array_equal(in_place, apart)
        np.testing.assert_array_equal(got, want)


def test_positions_out_of_the_sum_are_not_looked_at(isa):
    rng = np.random.default_rng(6)
    for shape in ((40, 10, 1), (6, 600, 1), (2, 21, 70)):
        n, c, s = shape
        z, y = some(shape, np.float32, rng), rng.integers(0, c, (n, s))
        weight = np.ones((n, s), np.float32)
        y.flat[::3] = 255
        weight.flat[1::3] = 0
        out_of_sum = (y == 255) | (weight == 0)
        z[np.broadcast_to(out_of_sum[:, None], shape)] = np.nan
        z[:, 0][out_of_sum] = np.inf
        names = ("losses", "grad", "hess")
        got, out, want = check(z, y, ignore=(255,), weight=weight, names=names)
        assert np.isfinite(got[0])
        assert not out["grad"][np.broadcast_to(out_of_sum[:, None], shape)].any()
        assert not out["losses"][out_of_sum].any()
        check(z, y, ignore=(255,), weight=weight, names=("grad",), want=want)
        check(z, y, ignore=(255,), weight=weight, names=(), want=want)


def test_bad_label_names_the_first_and_harms_no_other(isa):
    rng = np.random.default_rng(7)
    for shape in ((300, 10, 1), (7, 900, 1), (2, 21, 150)):
        n, c, s = shape
        z = some(shape, np.float32, rng)
        for bad in (-1, c, 2**40, -(2**62)):
            y = rng.integers(0, c, (n, s))
            y.flat[[5, n * s - 1]] = bad
            got, _, want = check(z, y)
            assert got[3] == 5
            assert np.isnan(got[0])
            check(z, y, names=("grad",), want=want)
            assert label_sums(y, c)[2] == 5


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_threads_change_no_bit(dtype, isa):
    rng = np.random.default_rng(8)
    for shape in ((5000, 10, 1), (300, 1000, 1), (2, 21, 8000), (40, 10000, 1), (20000, 3, 2)):
        n, c, s = shape
        z, y = some(shape, dtype, rng), rng.integers(0, c, (n, s))
        first = None
        for threads in (1, 2, 3, 4):
            out = outputs(z, ("losses", "grad"))
            got = softmax_xent.fused(z, y, threads=threads, ignore=(1,), **out)
            first = first or (got, out)
            assert got == first[0]
            for name, value in out.items():
                np.testing.assert_array_equal(value, first[1][name])
            assert label_sums(y, c, threads=threads, ignore=(1,)) == got[1:]
        targets = spread_targets(shape, np.float64 if dtype == np.float64 else np.float32, rng)
        first = None
        for threads in (1, 2, 3):
            out = outputs(z, ("losses", "grad", "hess"))
            got = softmax_xent.fused(z, targets, threads=threads, **out)
            first = first or (got, out)
            assert got == first[0]
            for name, value in out.items():
                np.testing.assert_array_equal(value, first[1][name])


def test_outputs_agree_whichever_are_asked_for(isa):
    rng = np.random.default_rng(9)
    for shape in ((100, 10, 1), (5, 3000, 1), (2, 21, 100)):
        n, c, s = shape
        z, y = some(shape, np.float32, rng), rng.integers(0, c, (n, s))
        alone, beside = np.empty_like(z), np.empty_like(z)
        value = softmax_xent.fused(z, y)[0]
        np.testing.assert_allclose(softmax_xent.fused(z, y, grad=alone)[0], value, rtol=1e-7)
        softmax_xent.fused(z, y, grad=beside, prob=np.empty_like(z))
        np.testing.assert_allclose(beside, alone, rtol=5e-7)


def test_slopes_in_double_have_the_same_bits_in_rows_and_columns(isa):
    """A row's last classes are alone, and there a compiler may fuse what it rounds elsewhere: one slope in some thousands."""
    rng = np.random.default_rng(3)
    for c in range(130, 150):
        z, t = 30 * rng.standard_normal((300, c)), rng.random((300, c))
        t /= t.sum(axis=1, keepdims=True)
        for options in ({}, {"label_smoothing": 0.1}, {"class_weight": np.linspace(0.5, 2, c)}):
            rows, columns = (pl.grad(pl.softmax_loss)(*map(lay, (t, z)), **options) for lay in (np.asarray, np.asfortranarray))
            assert (rows == columns).all(), (c, options)


def test_empty_arrays(isa):
    for shape in ((0, 5, 1), (3, 5, 0), (0, 0, 0)):
        z, y = np.empty(shape, np.float32), np.empty((shape[0], shape[2]), np.int64)
        assert softmax_xent.fused(z, y, grad=np.empty_like(z), threads=2) == (0.0, 0.0, 0, -1)
    z, y, losses = np.empty((3, 0, 1), np.float32), np.zeros((3, 1), np.int64), np.zeros((3, 1), np.float32)
    assert softmax_xent.fused(z, y, losses=losses)[1:] == (0.0, 3, 0)  # no class: every label is bad
    assert np.isnan(losses).all()


def test_read_only_inputs_and_unusable_outputs():
    z, y = np.zeros((2, 3, 1), np.float32), np.zeros((2, 1), np.int32)
    z.setflags(write=False)
    y.setflags(write=False)
    assert softmax_xent.fused(z, y)[0] == pytest.approx(2 * np.log(3))
    with pytest.raises(ValueError, match="read-only"):
        softmax_xent.fused(z, y, grad=z)
    with pytest.raises(TypeError, match="grad is f8, not f4"):
        softmax_xent.fused(z, y, grad=np.zeros((2, 3, 1)))
    with pytest.raises(ValueError, match=r"losses has shape \(2, 2\), not \(2, 1\)"):
        softmax_xent.fused(z, y, losses=np.zeros((2, 2), np.float32))


def test_instruction_sets_by_name():
    with pytest.raises(ValueError, match="is not one of"):
        softmax_xent.force("abacus")
    assert softmax_xent.isa() in softmax_xent.isas()


def total_in_child(_):
    rng = np.random.default_rng(10)
    return softmax_xent.fused(some((3000, 100, 1), np.float32, rng), rng.integers(0, 100, (3000, 1)), threads=2)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
def test_forked_children_do_not_hang():
    want = total_in_child(0)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map_async(total_in_child, range(4)).get(timeout=60) == [want] * 4


@pytest.mark.parametrize("c", [2, 5, 8, 33, 1000])
def test_losses_of_floats_are_near_the_exact_ones(c, isa):
    """Within 5 units of the last place: measured are 1.4 to 3.5 (docs/kernels.md), which the exponentials, floats, account for."""
    rng = np.random.default_rng(c)
    n = 20000 // c
    for scale in (1, 4, 10):
        z = (rng.standard_normal((n, c)) * scale).astype(np.float32)
        y = z.argmax(1) if scale == 10 else rng.integers(0, c, n)
        d = z.astype(float) - z[np.arange(n), y].astype(float)[:, None]
        others = np.where(np.arange(c) == y[:, None], 0, np.exp(d)).sum(1)
        right = np.log1p(others)
        unit = np.spacing(right.astype(np.float32)).astype(float)
        for found in (pl.softmax_loss(y, z, reduction="none"), pl.value_and_grad("softmax_loss")(y, z, reduction="none")[0]):
            assert (np.abs(found - right) <= 5 * unit).all()
