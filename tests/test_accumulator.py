"""`Accumulator` and `evaluate` on one machine: exact whatever the batches, with the losses' own numbers, and a state that travels."""

import copy
import math
import pickle
import warnings
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pandas as pd
import polars
import pytest
from libraries import LIBRARIES, NUMPY, TORCH
from oracle import CASES as EVERY_CASE, WEIGHTS

import polyloss as pl
from polyloss import registry
from polyloss._evaluation import exact_sums as _exact
from polyloss._kernels.cpu import exact

RNG = np.random.default_rng(20)
CASES = [case for case in EVERY_CASE if case.loss not in ("dice", "tversky", "jaccard")]  # an accumulator takes positions, not sets of them
LOSSES = [case for case in CASES if case.loss != "softmax_loss"]


def exactly(losses, weight=None, divisor=None):
    """Σ w·ℓ / Σ w in fractions, rounded once; w·ℓ is formed in float64."""
    w = np.ones(len(losses)) if weight is None else np.asarray(weight, np.float64)
    products = w * np.asarray(losses, np.float64)
    above = sum((Fraction(x) for x, v in zip(products.tolist(), w.tolist(), strict=True) if v), Fraction(0))
    return float(above / (sum(map(Fraction, w.tolist())) if divisor is None else divisor))


def accumulator(case, **options):
    own = {"axis": -1, **case.params} if case.loss == "softmax_loss" else dict(case.params)
    return pl.Accumulator(case.loss, **own, **options)


def labels_and_logits(n=400, c=7, dtype="float32"):
    y, z = RNG.integers(0, c, n), (2 * RNG.standard_normal((n, c))).astype(dtype)
    return y, z


def probabilities(z):
    p = np.exp(np.asarray(z, np.float64))
    return p / p.sum(axis=1, keepdims=True)


def cuts(n, pieces):
    """Slices of any lengths, some of them empty."""
    edges = [0, *sorted(RNG.integers(0, n, pieces - 1).tolist()), n]
    return [slice(a, b) for a, b in pairwise(edges)]


# ---------------------------------------------------------------------------------------------------------------- exact sums


def test_arrays_of_one_axis_hold_a_number_for_each_position():
    """However they are cut, the mean is that of all. NumPy, torch, and weights, one for each."""
    t, p, w = RNG.random(900) + 0.1, RNG.random(900), RNG.random(900)
    averaged = [name for name in pl.names() if name != "log_loss" and registry.LOSSES[name].combine == "mean"]
    assert len(averaged) > 10
    for name in averaged:
        whole = pl.Accumulator(name).update(t, p)
        for library in (NUMPY, TORCH):
            mean = pl.Accumulator(name)
            for a, b in ((0, 100), (100, 101), (101, 900)):
                mean.update(library.array(t[a:b]), library.array(p[a:b]))
            assert mean == whole
            assert mean.count == 900
        np.testing.assert_allclose(whole.result(), getattr(pl, name)(t, p), rtol=1e-12)
        column = pl.Accumulator(name).update(t[:, None], p[:, None], w)
        assert pl.Accumulator(name).update(t[:300], p[:300], w[:300]).update(t[300:], p[300:], w[300:]) == column


def test_kernel_numpy_and_fractions_give_the_same_integers():
    """Numbers of all sizes, subnormal and near overflow, NaN, infinities, zeros of both signs; weights, skipped positions."""
    for k in range(24):
        n, span = int(RNG.integers(0, 20000)), (1, 5, 300, 307)[k % 4]
        x = RNG.standard_normal(n) * 10.0 ** RNG.integers(-span, span, n)
        if k % 3 == 0:
            x = np.concatenate([x, 5e-324 * RNG.integers(-9, 9, 100), [1.79e308, -1.7e308, 1.7e308, 1.6e308]])
        if k % 5 == 0:
            x[::17] = RNG.choice([np.nan, np.inf, -np.inf, 0.0, -0.0], len(x[::17]))
        with np.errstate(over="ignore"):
            x = x.astype(np.float32) if k % 2 else x
        w = RNG.choice([0, 1e-5, 2.5, -1, 1e200, np.inf if k % 4 == 1 else 3], x.size) if k % 7 > 1 else None
        v = RNG.gamma(1, 1, x.size) if k % 3 == 0 else None
        skip = (RNG.random(x.size) < 0.3).astype(np.uint8) if k % 2 == 0 else None
        count, sums = exact.sums(x, w, v, skip)
        assert (count, sums) == _exact.sums_by_extraction(x, w, v, skip)
        assert len(sums) == (2 if w is None and v is None else 5)
        if w is None and skip is None and np.isfinite(x).all():
            assert Fraction(sums[0][0], 2**1075) == sum(map(Fraction, x.tolist()))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sums_are_those_of_fsum(dtype):
    x = (RNG.gamma(1, 1, 100000) * RNG.choice([-1, 1], 100000)).astype(dtype)
    assert float(_exact.tally(x, None, None, None).x) == math.fsum(x.tolist())
    assert float(_exact.tally(x, None, None, None).xx) == math.fsum((x.astype(float) ** 2).tolist())


# ------------------------------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("lib", [lib for lib in LIBRARIES if lib.name != "stand-in"], ids=repr)  # which never becomes a NumPy array
def test_the_mean_is_the_fraction_of_the_losses_on_every_library(lib):
    """Each loss, weighted and not, in two batches: the losses of the batches, averaged in fractions."""
    for case in CASES if lib.quick else CASES[::5]:
        for dtype in ("float32", "float64") if lib is NUMPY else ("float32",):
            t, p = case.inputs(dtype)
            losses = np.concatenate([lib.numpy(case.call(lib.array(t[s]), lib.array(p[s]))) for s in (slice(0, 2), slice(2, 6))])
            ignored = case.params.get("ignore_label", case.params.get("ignore_class"))
            counts = np.ones(6) if ignored is None or not case.labelled else (t != ignored).astype(float)
            k = np.array(case.params.get("class_weight", np.ones(case.c)))
            share = k[np.where(counts > 0, t, 0)] if case.labelled else np.ones(6)
            for w in (None, np.array([1.0, 0.0, 2.5, 0.25, 0.1, 3.0])):
                weight = counts if w is None else counts * w
                mean = accumulator(case)
                for s in (slice(0, 2), slice(2, 6)):
                    mean.update(lib.array(t[s]), lib.array(p[s]), None if w is None else lib.array(w[s]))
                if case.loss == "softmax_loss" and not case.labelled and ("class_weight" in case.params or w is not None):
                    share = (t.astype(float) * k).sum(axis=1)
                divisor = sum(map(Fraction, (weight * share).tolist()))
                assert mean.result() == exactly(losses, weight, divisor), (case, w)
                assert mean.count == np.count_nonzero(weight)
                assert mean.weight == float(divisor)
                assert mean.total == exactly(losses, weight, Fraction(1))


def test_any_split_order_and_merging_gives_the_same_bits():
    for dtype in ("float32", "float64"):
        y, z = labels_and_logits(3000, dtype=dtype)
        y[::11], w = 255, RNG.gamma(1, 1, 3000)
        whole = pl.Accumulator("softmax_loss", ignore_label=255).update(y, z, w)
        for pieces in (2, 7, 400):
            parts = [pl.Accumulator("softmax_loss", ignore_label=255).update(y[s], z[s], w[s]) for s in cuts(3000, pieces)]
            RNG.shuffle(parts)
            merged = parts[0]
            for part in parts[1:]:
                merged.merge(part)
            assert merged == whole
            assert merged.to_bytes() == whole.to_bytes()
            assert (merged.result(), merged.standard_error()) == (whole.result(), whole.standard_error())
    losses = pl.softmax_loss(y, z, reduction="none", ignore_label=255)
    assert whole.result() == exactly(losses, np.where(y == 255, 0, w))


def test_every_loss_is_the_same_in_batches_of_any_size():
    """Bit for bit: rows of one alone, and what is left over."""
    for case in CASES:
        for dtype in ("float32", "float64"):
            t, p = case.inputs(dtype)
            pick = RNG.integers(0, case.n, 50)
            t, p, w = t[pick], p[pick], RNG.random(50)
            whole = accumulator(case).update(t, p, w)
            for size in (1, 3, 16):
                mean = accumulator(case)
                for k in range(0, 50, size):
                    mean.update(t[k : k + size], p[k : k + size], w[k : k + size])
                assert mean == whole, (case, dtype, size)


def test_softmax_loss_follows_its_normalizer():
    y, z = RNG.integers(0, 5, (6, 4, 3)), RNG.standard_normal((6, 5, 4, 3))
    soft, k, w = np.moveaxis(RNG.dirichlet(np.ones(5), (6, 4, 3)), -1, 1), np.array(WEIGHTS), RNG.random((6, 4, 3))
    y[:, 1] = 255
    for target, options in [(y, {"ignore_label": 255}), (y, {"ignore_label": [255, 2], "class_weight": k}), (soft, {"class_weight": k}),
                            (soft, {"label_smoothing": 0.1}), (y, {"ignore_label": 255, "label_smoothing": 0.2})]:  # fmt: skip
        rules = [{"normalization": rule} for rule in ("full", "valid", "batch_size", "none", pl.Normalization.FULL)]
        for rule in (*rules, {"normalize": False}, {"normalize": True}, {"reduction": "sum"}):
            for weight in (None, w):
                mean = pl.Accumulator("softmax_loss", **options, **rule)
                for s in (slice(0, 1), slice(1, 6)):
                    mean.update(target[s], z[s], None if weight is None else weight[s])
                want = pl.softmax_loss(target, z, sample_weight=weight, **options, **rule)
                assert mean.result() == pytest.approx(float(want), rel=1e-14)
    ignored = pl.Accumulator("softmax_loss", ignore_label=255).update(np.full(3, 255), np.zeros((3, 2)))
    assert (ignored.result(), ignored.count, ignored.weight) == (0.0, 0, 0.0)


def test_reductions():
    t, p, w = RNG.random((50, 3)), RNG.random((50, 3)), RNG.integers(0, 3, 50)
    for reduction in ("mean", "sum", "sum_over_batch_size"):
        for name in ("mse", "huber"):
            mean = pl.Accumulator(name, reduction=reduction).update(t[:20], p[:20], w[:20]).update(t[20:], p[20:], w[20:])
            assert mean.result() == pytest.approx(pl.get(name)(t, p, sample_weight=w, reduction=reduction), rel=1e-14)
    assert math.isnan(pl.Accumulator("mse", reduction="sum").result())
    assert math.isnan(pl.Accumulator("mse").update(t[:0], p[:0]).result())
    assert pl.Accumulator("mse").update(t, p, np.zeros(50)).result() == 0.0


def test_what_is_not_finite_shows_unless_its_weight_is_0():
    def mean(p, w):
        return pl.Accumulator("mae").update(np.zeros((3, 1)), np.array(p)[:, None], w)

    assert math.isnan(mean([1.0, np.nan, 2.0], None).result())
    assert mean([1.0, np.nan, 2.0], [1.0, 0.0, 1.0]).result() == 1.5
    assert mean([1.0, np.inf, 2.0], [1.0, 1.0, 1.0]).result() == math.inf
    assert mean([1.0, 1e308, 1e308], [1.0, 1.0, 1.0]).merge(mean([1e308, 1e308, 1e308], None)).total == math.inf
    assert mean([1e308, 1e308, 1e308], None).result() == 1e308
    assert math.isnan(mean([1.0, np.nan, 2.0], None).standard_error())


@pytest.mark.parametrize("lib", [lib for lib in LIBRARIES if lib.name in ("numpy", "torch", "dask.array")], ids=repr)
def test_weights_of_an_evaluation_are_finite_and_not_negative(lib):
    """As the command has it; a loss by itself takes any number."""
    t, p = np.zeros((3, 2)), np.ones((3, 2))
    for losses, at in ((pl.Accumulator("mse"), 1), (pl.Accumulator("log_loss", labels=[0, 1]), 2)):
        for bad in (-1.0, -5e-324, np.nan, np.inf):
            w = np.array([1.0, 0.0, 2.0])
            w[at] = bad
            y, z = (lib.array(t[:, 0].astype(int)), lib.array(p / 2)) if at == 2 else (lib.array(t), lib.array(p))
            with pytest.raises(ValueError, match=rf"sample_weight\[{at}\] is {bad}, but weights .*finite"):
                losses.update(y, z, lib.array(w))
            assert losses.count == 0
    with pytest.raises(ValueError, match=r"sample_weight is -2\.0, but weights of an evaluation are finite and not negative"):
        pl.evaluate("mse", [(t, p, -2.0)])
    assert pl.mean_squared_error(t, p, sample_weight=[1.0, -1.0, 3.0], reduction="mean") == 1


def test_standard_error_is_the_formula_and_the_bootstrap():
    t, p, w = np.zeros((4000, 1)), RNG.gamma(1, 1, (4000, 1)), RNG.gamma(2, 1, 4000)
    for weight in (None, w):
        mean = pl.Accumulator("mae").update(t[:9], p[:9], None if weight is None else w[:9])
        mean.update(t[9:], p[9:], None if weight is None else w[9:])
        v, losses = np.ones(4000) if weight is None else w, p[:, 0]
        m = (v * losses).sum() / v.sum()
        assert mean.standard_error() == pytest.approx(math.sqrt(4000 / 3999 * (v**2 * (losses - m) ** 2).sum()) / v.sum(), rel=1e-12)
        draws = RNG.integers(0, 4000, (500, 4000))
        means = (v * losses)[draws].sum(axis=1) / v[draws].sum(axis=1)
        assert mean.standard_error() == pytest.approx(means.std(), rel=0.15)
    total = pl.Accumulator("mae", reduction="sum").update(t, p, w)
    assert total.standard_error() == pytest.approx(mean.standard_error() * w.sum(), rel=1e-12)
    assert math.isnan(pl.Accumulator("mae").update([[0.0]], [[1.0]]).standard_error())
    assert pl.Accumulator("mae").update([[0.0], [0.0]], [[1.0], [1.0]]).standard_error() == 0.0


def test_hinge_targets_are_decided_for_all_batches():
    p = RNG.standard_normal((40, 1))
    for t in (RNG.choice([0.0, 1.0], (40, 1)), RNG.choice([-1.0, 1.0], (40, 1))):
        mean = pl.Accumulator("hinge")
        for k in range(40):
            mean.update(t[k : k + 1], p[k : k + 1])
        assert mean == pl.Accumulator("hinge").update(t, p)
        assert mean.result() == pytest.approx(pl.hinge(t, p, reduction="mean"), rel=1e-14)
    zero, minus = pl.Accumulator("hinge").update([[0.0]], [[0.3]]), pl.Accumulator("hinge").update([[-1.0]], [[0.3]])
    before = copy.copy(zero)
    with pytest.raises(ValueError, match=r"y_true holds 0 as well as numbers other than 0 and 1.*labels='pm1'"):
        zero.merge(minus)
    with pytest.raises(ValueError, match="y_true holds 0"):
        zero.update([[-1.0]], [[1.0]])
    assert zero == before
    padded = pl.Accumulator("hinge").update([[0.0], [1.0], [-1.0]], [[0.3], [0.4], [0.5]], [1.0, 1.0, 0.0])
    assert padded.result() == pytest.approx((1.3 + 0.6) / 2)
    assert pl.Accumulator("hinge", labels="pm1").update([[0.0], [-1.0]], [[0.3], [0.4]]).result() == pytest.approx((1 + 1.4) / 2)


# ------------------------------------------------------------------------------------------------------------------ log loss

NAMES = np.array(["ant", "bee", "cat", "dog", "eel", "fly", "gnu"])
LABELS = {
    "strings": lambda y: NAMES[y],
    "list of strings": lambda y: NAMES[y].tolist(),
    "categories": lambda y: pd.Series(pd.Categorical(NAMES[y], categories=NAMES)),
    "integers": lambda y: y.astype(np.uint8),
    "with gaps": lambda y: y * 10 - 20,
    "floats": lambda y: y.astype(np.float32),
    "one-hot": lambda y: np.eye(7, dtype=int)[y],
    "torch": TORCH.array,
}


def test_axes_of_sets():
    """One or several, in any order and form; all samples of a batch as one set would depend on the batches."""
    rng = np.random.default_rng(0)
    t, p, w = rng.random((4, 3, 5, 6)), rng.random((4, 3, 5, 6)), rng.random((4, 3))
    for name in ("dice", "tversky", "jaccard"):
        want = pl.get(name)(t, p, axis=(2, 3))
        for axis in ((2, 3), [3, 2], (-1, -2)):
            whole = pl.Accumulator(name, axis=axis).update(t, p)
            assert whole.result() == pytest.approx(want.mean(), rel=1e-14)
            assert whole.count == want.size
            assert pl.Accumulator(name, axis=axis).update(t[:1], p[:1]).update(t[1:], p[1:]) == whole
            assert pl.Accumulator.from_bytes(whole.to_bytes()) == whole
        assert pl.Accumulator(name, axis=(2, 3)) == pl.Accumulator(name, axis=[3, 2])
        weighted = pl.Accumulator(name, axis=(2, 3)).update(t, p, w)
        assert weighted.result() == pytest.approx(np.average(want, weights=w), rel=1e-14)
        assert pl.Accumulator(name, axis=(1,)).update(t, p).result() == pytest.approx(pl.get(name)(t, p, axis=1).mean(), rel=1e-14)
        for axis, said in ((None, "all samples of a batch would be one"), ((), "must hold integers"), ((1, 2.0), "must hold integers")):
            with pytest.raises(TypeError, match=said):
                pl.Accumulator(name, axis=axis)
        with pytest.raises(TypeError, match="must be an integer"):
            pl.Accumulator("mse", axis=(1, 2))
        with pytest.raises(ValueError, match="mask is given, but an accumulator has none"):
            pl.Accumulator(name, axis=1, mask=t > 0.5)
    dask = pytest.importorskip("dask.array")
    t_cut, p_cut = dask.from_array(t, chunks=(1, 2, 5, 3)), dask.from_array(p, chunks=(2, 2, 5, 3))
    assert pl.Accumulator("dice", axis=(2, 3)).update(t_cut, p_cut) == pl.Accumulator("dice", axis=(2, 3)).update(t, p)


@pytest.mark.parametrize("kind", LABELS)
def test_log_loss_of_every_kind_of_labels(kind):
    from sklearn.metrics import log_loss

    y, z = labels_and_logits(500)
    p, w, given = probabilities(z), RNG.gamma(1, 1, 500), LABELS[kind](y)
    classes = NAMES.tolist() if kind in ("strings", "list of strings", "categories") else sorted({int(v) for v in y * 10 - 20}) if (
        kind == "with gaps") else range(7)  # fmt: skip
    part = given.iloc.__getitem__ if isinstance(given, pd.Series) else given.__getitem__
    for weight in (None, w):
        whole = pl.Accumulator("log_loss", labels=classes).update(given, p, weight)
        split = pl.Accumulator("log_loss", labels=classes)
        for s in cuts(500, 60):
            split.update(part(s), p[s], None if weight is None else weight[s])
        assert split == whole
        assert whole.result() == pytest.approx(log_loss(y, p, sample_weight=weight), rel=1e-14)


def test_log_loss_of_other_layouts_and_parameters():
    y, z = labels_and_logits(300, 12)
    p = RNG.random((300, 12))
    kaggle = pl.Accumulator("log_loss", labels=range(12), epsilon=1e-15, rescale=True)
    whole = copy.copy(kaggle).update(y, p)
    assert whole.result() == pytest.approx(pl.log_loss(y, p, epsilon=1e-15, rescale=True), rel=1e-14)
    assert copy.copy(kaggle).update(y, np.asfortranarray(p)) == whole
    several = RNG.integers(0, 2, (300, 12))
    p = probabilities(z)
    some = pl.Accumulator("log_loss", labels=range(12)).update(several[:50], p[:50]).update(several[50:], p[50:])
    assert some.result() == pytest.approx(pl.log_loss(several, p), rel=1e-14)
    assert some.count == 300
    binary = pl.Accumulator("log_loss", labels=[0, 1]).update([0, 1, 1], [0.1, 0.8, 0.4])
    assert binary.result() == pytest.approx(pl.log_loss([0, 1, 1], [0.1, 0.8, 0.4]), rel=1e-15)
    assert pl.Accumulator("log_loss", labels=[0, 1], normalize=False).update([0, 1], [0.1, 0.8]).result() == pytest.approx(
        -math.log(0.9) - math.log(0.8))  # fmt: skip
    one = pl.Accumulator("log_loss", labels=range(12)).update(y[:1], p[:1])  # a class alone, which log_loss refuses
    assert one.result() == pytest.approx(-math.log(p[0, y[0]]), rel=1e-14)
    assert one.update(y[:5], p[:5], np.zeros(5)).count == 1
    assert one.update(y[:0], p[:0]).count == 1


def test_log_loss_takes_a_frames_columns_by_name():
    y, p = RNG.integers(0, 3, 40), RNG.dirichlet(np.ones(3), 40)
    frame, labels = pd.DataFrame(p, columns=["ant", "bee", "cat"]), NAMES[y]
    for library in (lambda x: x, polars.from_pandas):
        whole = pl.Accumulator("log_loss", labels=["ant", "bee", "cat"]).update(labels, library(frame))
        assert pl.Accumulator("log_loss", labels=["ant", "bee", "cat"]).update(labels, library(frame[["cat", "ant", "bee"]])) == whole
        assert whole.result() == pytest.approx(pl.log_loss(labels, frame[["bee", "cat", "ant"]]), rel=1e-14)
    with pytest.raises(ValueError, match="y_proba has the column 'id', which is no class"):
        whole.update(labels, frame.assign(id=range(40)))


def test_log_loss_checks_what_the_metric_checks():
    mean = pl.Accumulator("log_loss", labels=["a", "b"]).update(["a"], [[0.25, 0.75]])
    before = copy.copy(mean)
    for y, p, w, words in [
        (["a", "c"], [[0.5, 0.5], [0.5, 0.5]], None, r"y_true\[1\] is 'c', but labels has no such class"),
        (["a", "b"], [[0.5, 0.5], [1.5, 0.5]], None, r"y_proba\[1, 0\] is 1.5, but probabilities must be between 0 and 1"),
        (["a", "b"], [[0.5, 0.5], [np.nan, 0.5]], None, r"y_proba\[1, 0\] is nan"),
        (["a", "b"], [[0.5, 0.25, 0.25]] * 2, None, r"labels has 2 classes \('a', 'b'\), but y_proba has 3"),
        (["a", "b"], [[0.5, 0.5]] * 2, [1.0, np.inf], "weights must be finite"),
        (["a"], [[0.5, 0.5]] * 2, None, "y_true has 1 labels, but y_proba has 2 rows"),
    ]:
        with pytest.raises(ValueError, match=words):
            mean.update(y, p, w)
    assert mean == before
    with pytest.warns(UserWarning, match="should sum to 1"):
        mean.update(["b"], [[0.5, 0.25]])
    with pytest.warns(UserWarning, match="labels is not sorted"):
        pl.Accumulator("log_loss", labels=["b", "a"])
    with pytest.raises(ValueError, match="labels is missing"):
        pl.Accumulator("log_loss")


# --------------------------------------------------------------------------------------------------------------- many at once


def test_a_dict_of_losses_is_one_visit():
    y, z = labels_and_logits(90)
    losses = {"softmax": pl.softmax_loss, "smooth": ("softmax_loss", {"label_smoothing": 0.1}), "poly": pl.get("poly1", poly_epsilon=2.0)}
    many = pl.Accumulator(losses).update(y, z)
    assert many.result() == {
        "softmax": pl.Accumulator("softmax_loss").update(y, z).result(),
        "smooth": pl.Accumulator("softmax_loss", label_smoothing=0.1).update(y, z).result(),
        "poly": pl.Accumulator("poly1_crossentropy", poly_epsilon=2.0).update(y, z).result(),
    }
    assert many.count == dict.fromkeys(losses, 90)
    assert list(many.standard_error()) == list(many.weight) == list(many.total) == list(losses)
    assert pl.Accumulator(dict(reversed(losses.items()))).update(y, z) == many
    p = probabilities(z)
    two = pl.Accumulator({"ll": "log_loss", "scce": "scce"}, labels=range(7)).update(y, p)
    assert two.result()["ll"] == pytest.approx(two.result()["scce"], rel=1e-6)
    before = copy.copy(many)
    with pytest.raises(ValueError, match=r"y_true\[1\] is 9"):
        many.update([1, 9], z[:2])
    y[3] = -1
    failing = pl.Accumulator({"hinge": "categorical_hinge", "softmax": "softmax_loss"})
    with pytest.raises(ValueError, match="y_true"):
        failing.update(np.zeros((4, 7)), z)
    assert many == before
    assert failing == pl.Accumulator({"hinge": "categorical_hinge", "softmax": "softmax_loss"})


def test_tensors_leave_no_graph_and_are_not_changed():
    torch = TORCH.torch
    z = torch.randn(20, 4, requires_grad=True)
    w = torch.rand(20, requires_grad=True)
    mean = pl.Accumulator("softmax_loss", class_weight=torch.tensor([1.0, 2.0, 0.5, 1.0])).update(torch.arange(20) % 4, z, w)
    assert isinstance(mean.result(), float)
    assert z.grad is None
    half = pl.Accumulator("mse").update(torch.zeros(3, 2, dtype=torch.bfloat16), torch.ones(3, 2, dtype=torch.bfloat16))
    assert half.result() == 1.0


# --------------------------------------------------------------------------------------------------------------------- state

FILLED = {
    "plain": lambda: pl.Accumulator("mse").update(RNG.random((30, 2)), RNG.random((30, 2))),
    "weights": lambda: pl.Accumulator("huber", delta=0.1).update(RNG.random((30, 2)), RNG.random((30, 2)), RNG.random(30)),
    "wide": lambda: pl.Accumulator("mae").update(np.zeros((5, 1)), [[1e300], [1e-300], [3.0], [np.inf], [5e-324]]),
    "labels": lambda: pl.Accumulator("log_loss", labels=["é", "b", "a"][::-1]).update(["a", "é"], [[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]]),
    "class weights": lambda: pl.Accumulator("softmax_loss", class_weight=RNG.random(1000), ignore_label=(255, -1)).update(
        [1, 255], RNG.random((2, 1000))),
    "dict": lambda: pl.Accumulator({"b": "mse", "a": "huber"}).update(RNG.random((30, 2)), RNG.random((30, 2))),
    "empty": lambda: pl.Accumulator("mse"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:labels is not sorted")
@pytest.mark.parametrize("kind", FILLED)
def test_bytes_and_pickles_bring_all_of_it_back(kind):
    mean = FILLED[kind]()
    data = mean.to_bytes()
    assert len(data) < 24000 if kind == "class weights" else len(data) < 2000
    for back in (pl.Accumulator.from_bytes(data), pl.Accumulator.from_bytes(bytearray(data)), pickle.loads(pickle.dumps(mean)),
                 copy.deepcopy(mean)):  # fmt: skip
        assert back == mean
        assert back.to_bytes() == data
        assert repr(back.result()) == repr(mean.result())
        assert repr(back) == repr(mean)
        back.merge(mean)
        assert back.count != mean.count or kind == "empty"
    assert mean.to_bytes() == data


def test_foreign_bytes_are_refused():
    data = FILLED["plain"]().to_bytes()
    for bad in (b"", data[:-1], data[:30], data + b"\0", data[:-9] + b"1" + data[-8:], b"x" + data, pickle.dumps(FILLED["plain"]()), b"{}"):
        with pytest.raises(ValueError, match="data"):
            pl.Accumulator.from_bytes(bad)
    with pytest.raises(TypeError):
        pl.Accumulator.from_bytes("text")


def test_equality_is_by_value():
    assert pl.Accumulator("MSE") == pl.Accumulator(pl.mean_squared_error) == pl.Accumulator("mse", axis=-1)
    assert pl.Accumulator("huber") == pl.Accumulator(("Huber", {"delta": 1})) == pl.Accumulator(pl.get("huber", delta=1.0))
    assert pl.Accumulator("softmax_loss", ignore_label=255) == pl.Accumulator("SoftmaxWithLoss", ignore_label=[255], normalize=True)
    assert pl.Accumulator("log_loss", labels=[0, 1]) == pl.Accumulator(pl.log_loss, labels=np.array([0, 1], np.uint8))
    assert pl.Accumulator("huber") != pl.Accumulator("huber", delta=2)
    assert pl.Accumulator("mse") != pl.Accumulator("mse").update([0.0], [1.0])
    assert pl.Accumulator("mse") != pl.Accumulator({"mse": "mse"})
    assert pl.Accumulator("mse") != "mse"
    with pytest.raises(TypeError, match="unhashable"):
        hash(pl.Accumulator("mse"))


def test_merging_refuses_other_losses_and_parameters():
    mean = pl.Accumulator("huber", delta=2).update([[0.0]], [[1.0]])
    before = copy.copy(mean)
    for other in (pl.Accumulator("huber"), pl.Accumulator("mse"), pl.Accumulator("huber", delta=2, reduction="sum"),
                  pl.Accumulator({"huber": ("huber", {"delta": 2})})):  # fmt: skip
        with pytest.raises(ValueError, match=r"other is of .*, but this accumulator is of huber\(delta=2.0\)"):
            mean.merge(other)
    with pytest.raises(TypeError, match="other is 3"):
        mean.merge(3)
    assert mean == before
    assert mean.merge(mean).count == 2


def test_traced_arrays_are_refused():
    import jax

    with pytest.raises(TypeError, match="no values yet"):
        jax.jit(lambda p: pl.Accumulator("mse").update(p, p).result())(np.zeros(3))


# ------------------------------------------------------------------------------------------------------------------ evaluate


def batches(n=100, size=30):
    y, z = labels_and_logits(n)
    return [(y[k : k + size], z[k : k + size], RNG.random(len(y[k : k + size]))) for k in range(0, n, size)]


def test_evaluate_takes_batches_of_many_kinds(capsys):
    given = batches()
    want = {"softmax_loss": pl.Accumulator("softmax_loss")}
    for batch in given:
        want["softmax_loss"].update(*batch)
    want = {"softmax_loss": want["softmax_loss"].result()}

    class Sequence:  # as Keras' before it could be iterated: has no end of its own
        def __len__(self):
            return len(given)

        def __getitem__(self, k):
            assert k < len(given), "asked beyond its length"
            return given[k]

    for many in (given, iter(given), (b for b in given), Sequence(), [lambda b=b: b for b in given], map(list, given)):
        assert pl.evaluate("softmax_loss", many) == want
    assert pl.evaluate(["softmax_loss"], given, progress=True) == want
    assert "4 batches" in capsys.readouterr().err
    assert set(pl.evaluate(["poly1", pl.softmax_loss], [b[:2] for b in given])) == {"poly1_crossentropy", "softmax_loss"}
    assert set(pl.evaluate({"a": ("poly1", {"poly_epsilon": 0.5})}, given)) == {"a"}
    assert pl.evaluate(("softmax_loss", {"axis": -1}), given) == want
    assert math.isnan(pl.evaluate("mse", [])["mean_squared_error"])
    assert not capsys.readouterr().err


def test_evaluate_takes_a_data_loader_and_a_keras_dataset():
    from torch.utils.data import DataLoader, TensorDataset

    y, z = labels_and_logits(103)
    want = {"softmax_loss": pl.Accumulator("softmax_loss").update(y, z).result()}
    loader = DataLoader(TensorDataset(TORCH.array(y), TORCH.array(z)), batch_size=10)
    assert pl.evaluate("softmax_loss", loader) == want

    import keras

    class Dataset(keras.utils.PyDataset):
        def __len__(self):
            return 11

        def __getitem__(self, k):
            assert k < 11, "asked beyond its length"
            return y[10 * k : 10 * k + 10], z[10 * k : 10 * k + 10]

    assert pl.evaluate("softmax_loss", Dataset()) == want

    class Endless(Dataset):
        num_batches = None

    with pytest.raises(ValueError, match="batches has no end"):
        pl.evaluate("softmax_loss", Endless())


def test_evaluate_says_which_batch_is_wrong():
    good = ([[0.0]], [[1.0]])
    for bad, error, words in (
        (3, TypeError, "a batch is a int, but must be"),
        ((1, 2, 3, 4), TypeError, "a batch is a tuple of 4"),
        (([[0.0]], [[1.0, 2.0]]), ValueError, "y_true has shape"),
    ):
        with pytest.raises(error, match=words) as caught:
            pl.evaluate("mse", [good, bad])
        assert caught.value.__notes__ == ["in batch 1"]


def test_formula_route_gives_the_same_sums(monkeypatch):
    y, z = labels_and_logits(200)
    losses = pl.softmax_loss(y, z, reduction="none")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fast = _exact.tally(losses, None, None, None)
        monkeypatch.setenv("POLYLOSS_ROUTE", "formula")
        assert _exact.tally(losses, None, None, None) == fast


def test_a_client_is_no_address():
    with pytest.raises(TypeError, match=r"client is 'tcp://x', but must be a distributed\.Client"):
        pl.evaluate("mse", [], client="tcp://x")
