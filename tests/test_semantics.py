"""Where loss libraries disagree: what each of them does was measured, what this one does is held here, one test a case."""

import math

import numpy as np
import pytest
from libraries import JAX, NUMPY, ROUTES, TORCH, formula, np_dtype

import polyloss as pl

LOGITS = np.array([[2.0, -1.0, 0.5], [0.0, 3.0, 1.0], [-2.0, 0.25, 1.5], [1.0, 1.0, 1.0]])
LABELS = np.array([0, 2, 1, 0])


def nll(logits, labels):
    """-log p[label] of rows, in float64."""
    z = np.asarray(logits, np.float64)
    top = z.max(axis=1, keepdims=True)
    return np.log(np.exp(z - top).sum(axis=1)) + top[:, 0] - z[np.arange(len(z)), labels]


def numbers(lib, results):
    return tuple(lib.numpy(x) for x in results)


# --------------------------------------------------------------------------------------------- nothing counted, bad labels, NaN


def test_everything_ignored_gives_loss_0_and_gradient_0(lib):
    """torch gives nan, scikit-learn an error; Caffe and Liger 0."""
    logits, labels = lib.array(LOGITS), lib.array(np.full(4, 9))
    for kwargs in ({}, {"normalization": "full"}, {"normalize": False}, {"normalization": "none"}, {"reduction": "sum"},
                   {"class_weight": lib.array(np.array([1.0, 2.0, 3.0]))}):  # fmt: skip
        value, slope = numbers(lib, pl.value_and_grad(pl.softmax_loss)(labels, logits, ignore_label=9, **kwargs))
        assert value == 0
        assert (slope == 0).all()
    for reduction in ("sum", "mean", "sum_over_batch_size"):
        value, slope = numbers(lib, pl.value_and_grad("scce")(labels, logits, ignore_class=9, from_logits=True, reduction=reduction))
        assert value == 0
        assert (slope == 0).all()
        value, slope = numbers(lib, pl.value_and_grad("mse")(logits, logits + 1, sample_weight=lib.array(np.zeros(4)), reduction=reduction))
        assert value == 0
        assert (slope == 0).all()


def test_an_empty_batch_gives_0_and_keeps_its_shape(lib):
    logits, labels = lib.array(np.zeros((0, 3, 5), np.float32)), lib.array(np.zeros((0, 5), np.int64))
    for kwargs in ({}, {"normalization": "full"}, {"normalize": False}, {"normalization": "none"}, {"reduction": "sum"}):
        value, slope = pl.value_and_grad(pl.softmax_loss)(labels, logits, **kwargs)
        assert lib.numpy(value) == 0
        assert tuple(slope.shape) == (0, 3, 5)
    assert tuple(pl.softmax_loss(labels, logits, reduction="none").shape) == (0, 5)
    assert tuple(pl.mean_squared_error(logits, logits).shape) == (0, 3)


@pytest.mark.parametrize("label", [-1, 3, -100])
def test_no_label_is_ignored_unless_the_caller_says_so(lib, label):
    """optax wraps -1 to the last class, torch ignores -100, Keras gives 0 on some backends, Caffe reads outside."""
    labels = LABELS.copy()
    labels[2] = label
    for call in (pl.softmax_loss, pl.grad(pl.softmax_loss), pl.poly1_crossentropy,
                 lambda y, z: pl.sparse_categorical_crossentropy(y, z, from_logits=True)):  # fmt: skip
        with pytest.raises(ValueError, match=rf"^y_true\[2\] is {label}, but (logits have|y_pred has) 3 classes"):
            lib.numpy(call(lib.array(labels), lib.array(LOGITS)))


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_what_lies_behind_an_ignored_label_or_weight_0_reaches_nothing(lib, poison):
    """torch's gradient is nan there, thinc's loss too: 0 · nan. Here the row is skipped."""
    logits = LOGITS.copy()
    logits[1], logits[3] = poison, [poison, 0.0, -poison]
    labels, weight = np.array([0, 7, 1, 7]), np.array([1.0, 0.0, 1.0, 0.0])
    right, right_slope = pl.value_and_grad(pl.softmax_loss)(LABELS[[0, 2]], LOGITS[[0, 2]])
    for y, kwargs in ((labels, {"ignore_label": 7}), (LABELS, {"sample_weight": lib.array(weight)})):
        value, slope = numbers(lib, pl.value_and_grad(pl.softmax_loss)(lib.array(y), lib.array(logits), **kwargs))
        assert value == pytest.approx(right, rel=1e-15)
        assert (slope[[1, 3]] == 0).all()
        np.testing.assert_allclose(slope[[0, 2]], right_slope, rtol=1e-14)


def test_an_impossible_class_with_target_0_costs_nothing(lib):
    """torch and optax give nan for 0 · (-inf)."""
    logits = np.array([[-np.inf, 1.0, 2.0], [0.5, -np.inf, -np.inf]])
    targets = np.array([[0.0, 0.25, 0.75], [1.0, 0.0, 0.0]])
    right = [0.25 * math.log1p(math.e) + 0.75 * math.log1p(1 / math.e), 0.0]
    for loss in (pl.softmax_loss, pl.categorical_crossentropy):
        kwargs = {"from_logits": True} if loss is pl.categorical_crossentropy else {}
        value, slope = numbers(lib, pl.value_and_grad(loss)(lib.array(targets), lib.array(logits), axis=-1, reduction="none", **kwargs))
        np.testing.assert_allclose(value, right, rtol=1e-15)
        share = 1 / (1 + math.e)
        np.testing.assert_allclose(slope, [[0, share - 0.25, 0.25 - share], [0, 0, 0]], rtol=1e-14, atol=1e-16)
    labelled = lib.numpy(pl.softmax_loss(lib.array(np.array([1, 0])), lib.array(logits), reduction="none"))
    np.testing.assert_allclose(labelled, [math.log1p(math.e), 0.0], rtol=1e-15)


def test_smoothing_over_an_impossible_class_is_infinite(lib):
    logits = np.array([[-np.inf, 1.0, 2.0], [0.5, 1.0, 0.0]])
    value = lib.numpy(pl.softmax_loss(lib.array(np.array([1, 0])), lib.array(logits), label_smoothing=0.1, reduction="none"))
    assert value[0] == np.inf
    assert np.isfinite(value[1])


def test_a_row_of_minus_infinities_or_with_plus_infinity_is_nan_alone(lib):
    logits = np.repeat(LOGITS, 2, axis=0)
    logits[1], logits[4, 1] = -np.inf, np.inf
    labels = np.repeat(LABELS, 2)
    value, slope = numbers(lib, pl.value_and_grad(pl.softmax_loss)(lib.array(labels), lib.array(logits), reduction="none"))
    assert np.flatnonzero(np.isnan(value)).tolist() == [1, 4]
    assert np.flatnonzero(np.isnan(slope).any(axis=1)).tolist() == [1, 4]
    fine = [0, 2, 3, 5, 6, 7]
    np.testing.assert_allclose(value[fine], nll(logits[fine], labels[fine]), rtol=1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("length", [5, 100, 5000])
def test_a_stretch_of_minus_infinities_does_not_poison_the_rest_of_its_row(dtype, length):
    """The first tile of a long row has no finite maximum to start from."""
    for start, stop in ((0, length - 1), (0, length // 2), (length // 3, length), (1, 2)):
        logits = np.zeros((3, length), np_dtype(dtype))
        logits[:, start:stop] = -np.inf
        label = next(j for j in range(length) if not start <= j < stop)
        for z, axis in ((logits, 1), (np.ascontiguousarray(logits.T)[None], 1)):
            y = np.full(z.shape[0] if z.ndim == 2 else (1, 3), label)
            value, slope = pl.value_and_grad(pl.softmax_loss)(y, z, axis=axis, reduction="none")
            left = length - (stop - start)
            np.testing.assert_allclose(value, math.log(left), rtol=3e-7, atol=1e-12)
            assert np.isfinite(slope.astype(float)).all()


# ------------------------------------------------------------------------------------------------------- weights and normalizers


def test_class_weights_divide_by_the_weights_for_labels_and_for_one_hot_targets(lib):
    """torch divides by Σw for labels and by N for the same targets as one-hot: 1.692 against 3.384."""
    k = np.array([3.0, 1.0, 2.0])
    losses = nll(LOGITS, LABELS)
    right = np.sum(k[LABELS] * losses) / np.sum(k[LABELS])
    for targets in (LABELS, np.eye(3)[LABELS]):
        value = lib.numpy(pl.softmax_loss(lib.array(targets), lib.array(LOGITS), class_weight=lib.array(k)))
        assert value == pytest.approx(right, rel=1e-14)


def test_class_weights_act_per_class_with_smoothing(lib):
    """As in torch."""
    k = np.array([3.0, 1.0, 2.0])
    right = TORCH.torch.nn.functional.cross_entropy(
        TORCH.array(LOGITS), TORCH.array(LABELS), weight=TORCH.array(k), label_smoothing=0.2).item()  # fmt: skip
    value = lib.numpy(pl.softmax_loss(lib.array(LABELS), lib.array(LOGITS), class_weight=lib.array(k), label_smoothing=0.2))
    assert value == pytest.approx(right, rel=1e-14)


def test_mean_divides_by_the_weights_and_sum_over_batch_size_by_the_number():
    """Keras' mean divides by the number, scikit-learn's average by the weights."""
    weight, losses = np.array([1.0, 3.0, 0.0, 0.5]), nll(LOGITS, LABELS)
    call = lambda reduction: pl.get("scce")(LABELS, LOGITS, from_logits=True, sample_weight=weight, reduction=reduction)  # noqa: E731
    assert call("mean") == pytest.approx(np.sum(weight * losses) / 4.5, rel=1e-14)
    assert call("sum_over_batch_size") == pytest.approx(np.sum(weight * losses) / 4, rel=1e-14)


def test_each_batch_size_has_its_own_name():
    """Keras counts all losses, Caffe the axes before the classes."""
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((2, 3, 4, 5)), rng.integers(0, 3, (2, 4, 5))
    total = pl.softmax_loss(labels, logits, reduction="sum")
    assert pl.softmax_loss(labels, logits, normalization="batch_size") == pytest.approx(total / 2, rel=1e-14)
    keras = pl.sparse_categorical_crossentropy(labels, logits, axis=1, from_logits=True, reduction="sum_over_batch_size")
    assert keras == pytest.approx(total / 40, rel=1e-14)
    assert pl.softmax_loss(labels.swapaxes(0, 1), logits.transpose(0, 2, 1, 3).reshape(2, 4, 3, 5).swapaxes(0, 1), axis=2,
                           normalization="batch_size") == pytest.approx(total / 8, rel=1e-14)  # fmt: skip


@pytest.mark.parametrize("normalize", [None, True, False])
@pytest.mark.parametrize("normalization", [None, "FULL", "VALID", "BATCH_SIZE", "NONE"])
def test_normalization_decides_then_normalize_then_valid(lib, normalization, normalize):
    """Caffe's rules: 8 positions, 3 of them ignored, 2 images."""
    rng = np.random.default_rng(3)
    logits, labels = rng.standard_normal((2, 3, 2, 2)), rng.integers(0, 3, (2, 2, 2))
    labels[0, 0, 1] = labels[1, 1, 0] = labels[1, 0, 0] = 255
    rows = np.moveaxis(logits, 1, -1).reshape(8, 3)
    kept = labels.ravel() != 255
    total = np.sum(nll(rows[kept], labels.ravel()[kept]))
    divisor = {"FULL": 8, "VALID": 5, "BATCH_SIZE": 2, "NONE": 1, None: 2 if normalize is False else 5}[normalization]
    given = (
        [None]
        if normalization is None
        else [getattr(pl.Normalization, normalization), int(getattr(pl.Normalization, normalization)), normalization.lower(), normalization]
    )
    for way in given:  # fmt: skip
        value, slope = numbers(lib, pl.value_and_grad(pl.softmax_loss)(
            lib.array(labels), lib.array(logits), ignore_label=255, normalization=way, normalize=normalize))  # fmt: skip
        assert value == pytest.approx(total / divisor, rel=1e-14)
        right = np.exp(rows - np.log(np.exp(rows).sum(axis=1, keepdims=True)))
        right[kept, labels.ravel()[kept]] -= 1
        right[~kept] = 0
        np.testing.assert_allclose(slope, np.moveaxis(right.reshape(2, 2, 2, 3), -1, 1) / divisor, rtol=1e-12, atol=1e-15)


def test_normalization_has_caffes_numbers():
    assert [(x.name, int(x)) for x in pl.Normalization] == [("FULL", 0), ("VALID", 1), ("BATCH_SIZE", 2), ("NONE", 3)]


def test_smoothing_spreads_over_all_classes_and_skips_ignored_rows():
    """ε/C, as in Keras, torch and optax; thinc and Megatron spread ε/(C-1)."""
    labels = np.array([0, 2, 9, 0])
    value = pl.softmax_loss(labels, LOGITS, ignore_label=9, label_smoothing=0.3, reduction="none")
    log_p = np.stack([-nll(LOGITS, np.full(4, c)) for c in range(3)], axis=1)
    targets = 0.7 * np.eye(3)[np.where(labels == 9, 0, labels)] + 0.1
    np.testing.assert_allclose(value, np.where(labels == 9, 0, -np.sum(targets * log_p, axis=1)), rtol=1e-14)


# --------------------------------------------------------------------------------------------------------- clipping, saturation


def test_keras_names_clip_as_keras(lib):
    """At 1e-7 below, at the float32 nearest 1 - 1e-7 above."""
    low, high = -math.log(np.float32(1e-7)), -math.log1p(-float(np.float32(1 - 1e-7)))
    t, p = lib.array(np.array([[1.0], [0.0]], np.float32)), lib.array(np.array([[0.0], [1.0]], np.float32))
    np.testing.assert_allclose(lib.numpy(pl.binary_crossentropy(t, p)), [low, high], rtol=1e-6)
    assert low == pytest.approx(16.118, abs=1e-3)
    assert high == pytest.approx(15.942, abs=1e-3)
    one = lib.array(np.array([[0.0, 1.0]], np.float32))
    np.testing.assert_allclose(lib.numpy(pl.categorical_crossentropy(lib.array(np.array([[1.0, 0.0]], np.float32)), one)), [low], rtol=1e-6)
    np.testing.assert_allclose(lib.numpy(pl.sparse_categorical_crossentropy(lib.array(np.array([0])), one)), [low], rtol=1e-6)
    np.testing.assert_allclose(lib.numpy(pl.kl_divergence(lib.array(np.array([[1.0, 0.0]], np.float32)), one)), [low], rtol=1e-6)


def test_log_loss_clips_at_the_eps_of_the_dtype():
    """As scikit-learn: 36.04, 15.94 and 6.93 by dtype."""
    for dtype, cap in (("float64", 36.04), ("float32", 15.94), ("float16", 6.93)):
        assert pl.log_loss([1, 0], np.array([0, 1], dtype)) == pytest.approx(cap, abs=0.02)


def test_logits_never_saturate(lib):
    """Keras stops at 16, Caffe at 87.3."""
    z = np.array([[0.0, 200.0], [0.0, -1e5]])
    np.testing.assert_allclose(lib.numpy(pl.softmax_loss(lib.array(np.array([0, 1])), lib.array(z), reduction="none")), [200.0, 1e5])
    np.testing.assert_allclose(lib.numpy(pl.binary_crossentropy(lib.array(np.array([[0.0]])), lib.array(np.array([[300.0]])),
                                                                from_logits=True)), [300.0])  # fmt: skip


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_probabilities_of_1_in_low_precision_are_clipped_in_float32(lib, dtype):
    """Keras clips in the low precision, where 1 - 1e-7 is 1: inf or nan."""
    if dtype not in lib.low:
        return
    t, p = lib.array(np.array([[0.0], [1.0]]), dtype), lib.array(np.array([[1.0], [1.0]]), dtype)
    value = lib.numpy(pl.binary_crossentropy(t, p))
    high = -math.log1p(-float(np.float32(1 - 1e-7)))
    np.testing.assert_allclose(value, [high, -math.log(np.float32(1 - 1e-7))], rtol=1e-5)
    value = lib.numpy(pl.categorical_crossentropy(lib.array(np.array([[0.0, 1.0]]), dtype), lib.array(np.array([[1.0, 0.0]]), dtype)))
    np.testing.assert_allclose(value, [-math.log(np.float32(1e-7))], rtol=1e-5)


def test_binary_crossentropy_from_large_logits(lib):
    """Keras on NumPy stops at 16, torch and optax give nan at ±inf."""
    z = np.array([[50.0], [-50.0], [50.0], [-50.0], [np.inf], [-np.inf], [np.inf], [-np.inf]])
    t = np.array([[0.0], [1.0], [1.0], [0.0], [1.0], [0.0], [0.0], [1.0]])
    value = lib.numpy(pl.binary_crossentropy(lib.array(t), lib.array(z), from_logits=True))
    np.testing.assert_allclose(value, [50, 50, math.exp(-50), math.exp(-50), 0, 0, np.inf, np.inf], rtol=1e-14)


def test_low_precision_sums_in_float32_and_rounds_once(lib):
    """A bfloat16 mean in torch is 10.9375 for 10.8707, and its target gradient rounds p - 1 to 0."""
    if "bfloat16" not in lib.low:
        return
    rng = np.random.default_rng(7)
    z = (3 * rng.standard_normal((512, 64))).astype(np_dtype("bfloat16"))
    y = rng.integers(0, 64, 512)
    value = pl.softmax_loss(lib.array(y), lib.array(z))
    assert lib.dtype(value) == "float32"
    assert float(lib.numpy(value)) == pytest.approx(np.mean(nll(z.astype(float), y)), rel=3e-7)
    slope = lib.numpy(pl.grad(pl.softmax_loss)(lib.array(np.array([0])), lib.array(np.array([[7.0, 0.0]]), "bfloat16")))
    assert slope.dtype.name == "bfloat16"
    right = -1 / (1 + math.exp(7))  # p rounds to 0.999 in bfloat16's eight bits, p - 1 to 0
    np.testing.assert_allclose(slope.astype(float), [[right, -right]], rtol=2.0**-8)


def test_labels_do_not_pass_through_floats(lib):
    """Under bfloat16 Keras makes label 257 into 256."""
    if "bfloat16" not in lib.low:
        return
    z = np.zeros((1, 300))
    z[0, 257] = 5.0
    slope = lib.numpy(pl.grad(pl.softmax_loss)(lib.array(np.array([257])), lib.array(z, "bfloat16"))).astype(float)
    assert slope.argmin() == 257
    big = 2**24 + 1  # no float32
    with pytest.raises(ValueError, match=f"is {big}, but"):
        lib.numpy(pl.softmax_loss(lib.array(np.array([big])), lib.array(z, "float32"), ignore_label=2**24))


def test_fractional_labels_are_a_type_error(lib):
    with pytest.raises(TypeError, match=r"^y_true\[1\] is 0.5, but labels must be whole numbers$"):
        lib.numpy(pl.softmax_loss(lib.array(np.array([1.0, 0.5, 2.0, 0.0])), lib.array(LOGITS)))


# ------------------------------------------------------------------------------------------------------------------ shapes


def test_nothing_is_broadcast(lib):
    """torch makes N×N losses of (N, 1) against (N,)."""
    column, flat = lib.array(np.ones((4, 1))), lib.array(np.ones(4))
    for loss in ("mse", "mae", "bce", "huber", "kld", "cosine", "cce"):
        for t, p in ((column, flat), (flat, column), (lib.array(np.ones(1)), flat), (lib.array(np.ones((1, 4))), flat)):
            with pytest.raises(ValueError, match="they must be equal, and nothing is broadcast"):
                pl.get(loss)(t, p)


def test_a_target_that_is_nan_in_a_loss_that_the_caller_leaves_out():
    """torch hands down 0 past it, JAX 0 times NaN; of weight 0 it is skipped in both."""
    t, p, weight = np.array([[1.0, 0.0], [np.nan, 2.0]]), np.array([[0.5, 0.5], [1.0, 1.0]]), np.array([1.0, 0.0])

    def kept(y_true, y_pred, **weights):
        return pl.mean_squared_error(y_true, y_pred, **weights)[0]

    def all_of_them(y_true, y_pred, **weights):
        return pl.mean_squared_error(y_true, y_pred, **weights).sum()

    for loss, given, by_jax in ((kept, {}, np.nan), (all_of_them, {"sample_weight": weight}, 0.0)):
        leaf = TORCH.array(p).requires_grad_()
        loss(TORCH.array(t), leaf, **{key: TORCH.array(x) for key, x in given.items()}).backward()
        slope = JAX.jax.grad(lambda p, loss=loss, given=given: loss(t, p, **given))(JAX.array(p))
        np.testing.assert_array_equal(leaf.grad, [[-0.5, 0.5], [0.0, 0.0]])
        np.testing.assert_array_equal(slope, [[-0.5, 0.5], [by_jax, 0.0]])


def test_a_length_1_axis_of_labels_is_accepted(lib):
    rng = np.random.default_rng(4)
    z, y = rng.standard_normal((2, 3, 4)), rng.integers(0, 3, (2, 4))
    right = lib.numpy(pl.softmax_loss(lib.array(y), lib.array(z), reduction="none"))
    for shape in ((2, 1, 4), (2, 4, 1)):
        np.testing.assert_array_equal(lib.numpy(pl.softmax_loss(lib.array(y.reshape(shape)), lib.array(z), reduction="none")), right)
    for shape in ((1, 2, 4), (8,), (4, 2), (2, 4, 1, 1)):
        with pytest.raises(ValueError, match="have shape \\(2, 4\\)"):
            pl.softmax_loss(lib.array(y.reshape(shape)), lib.array(z))
    z = z.transpose(1, 0, 2)[:, :1]  # classes first, and the losses' own first axis of length 1, too
    for shape in ((1, 4), (1, 4, 1), (1, 1, 4)):
        found = lib.numpy(pl.softmax_loss(lib.array(y[0].reshape(shape)), lib.array(z), axis=0, reduction="none"))
        np.testing.assert_array_equal(found, right[:1])


def test_weight_column_is_dropped_and_nothing_enlarges_the_result(lib):
    """NumPy makes N×N of weights (N, 1) on losses (N,)."""
    p, w = lib.array(LOGITS), np.array([1.0, 2.0, 3.0, 4.0])
    right = lib.numpy(pl.mean_squared_error(lib.array(LOGITS + 1), p)) * w
    np.testing.assert_allclose(lib.numpy(pl.mean_squared_error(lib.array(LOGITS + 1), p, sample_weight=lib.array(w[:, None]))), right)
    for shape in ((1, 4), (4, 4), (4, 3), (2,), (3,), (4, 1, 1)):
        with pytest.raises(ValueError, match="may not enlarge them"):
            pl.mean_squared_error(p, p, sample_weight=lib.array(np.ones(shape)))


def test_smoothing_counts_the_classes_of_any_axis():
    """Keras divides by the length of the last axis."""
    rng = np.random.default_rng(6)
    p, t = rng.uniform(0.1, 1, (2, 3, 5)), np.eye(3)[rng.integers(0, 3, (2, 5))].swapaxes(1, 2)
    value = pl.categorical_crossentropy(t, p, label_smoothing=0.2, axis=1)
    right = pl.categorical_crossentropy(t.swapaxes(1, 2), p.swapaxes(1, 2), label_smoothing=0.2)
    np.testing.assert_allclose(value, right, rtol=1e-15)
    y = p / p.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(value, -np.sum((0.8 * t + 0.2 / 3) * np.log(y), axis=1), rtol=1e-14)


# ------------------------------------------------------------------------------------------------------------ targets, domains


def test_hinge_labels(lib):
    """Keras decides by the whole array; scikit-learn takes a batch of positives for negatives."""
    p = lib.array(np.array([[0.3, -0.2], [2.0, 0.5]]))
    call = lambda t, labels="auto": lib.numpy(pl.hinge(lib.array(np.array(t)), p, labels=labels))  # noqa: E731
    signs = call([[1.0, -1.0], [1.0, 1.0]])
    np.testing.assert_allclose(signs, [0.75, 0.25])
    np.testing.assert_array_equal(call([[1.0, 0.0], [1.0, 1.0]]), signs)
    np.testing.assert_array_equal(call([[1.0, 0.0], [1.0, 1.0]], "01"), signs)
    np.testing.assert_array_equal(call([[1.0, -1.0], [1.0, 1.0]], "pm1"), signs)
    np.testing.assert_allclose(call([[1.0, 0.0], [1.0, 1.0]], "pm1"), [0.85, 0.25])  # 0 is a margin of 1, as written
    np.testing.assert_allclose(call([[1.0, 0.0], [-1.0, 1.0]]), [0.85, 1.75])  # one -1 anywhere: nothing is mapped
    positives = call([[1.0, 1.0], [1.0, 1.0]])
    np.testing.assert_allclose(positives, [0.95, 0.25])
    np.testing.assert_array_equal(call([[1.0, 1.0], [1.0, 1.0]], "pm1"), positives)
    p = lib.array(np.array([[0.3, -0.2], [2.0, 0.5]], "float32"))  # in whose dtype targets are looked at, as in Keras
    np.testing.assert_array_equal(call([[1.0000000000000002, 0.0], [1.0, 1.0]]), call([[1.0, 0.0], [1.0, 1.0]]))


def test_domains_of_regression_losses_are_kerases(lib):
    t = lib.array(np.array([[-2.0, 0.0, 0.5]]))
    p = lib.array(np.array([[1.0, -0.5, 0.0]]))
    import keras

    for name in ("mean_squared_logarithmic_error", "mean_absolute_percentage_error", "kl_divergence"):
        right = np.asarray(getattr(keras.losses, name)(np.array([[-2.0, 0.0, 0.5]]), np.array([[1.0, -0.5, 0.0]])))
        np.testing.assert_allclose(lib.numpy(pl.get(name)(t, p)), right, rtol=2e-6)
    assert lib.numpy(pl.kl_divergence(lib.array(np.zeros((1, 3))), p)) == 0
    t, p = np.array([[0.0, 2.0]]), np.array([[3.0, 0.0]])
    np.testing.assert_allclose(lib.numpy(pl.poisson(lib.array(t), lib.array(p))), np.asarray(keras.losses.poisson(t, p)), rtol=1e-6)


def test_cosine_at_any_scale(lib):
    """Keras floors norms at 1e-7: cos([1e-9, 0], [1, 0]) = 0.01. optax gives nan for a zero vector."""
    t = np.array([[1.0, 0.0], [1e-9, 0.0], [3e-200, 4e-200], [3e200, 4e200], [0.0, 0.0], [1.0, 2.0], [0.0, 0.0]])
    p = np.array([[1e-9, 0.0], [1.0, 0.0], [3e200, 4e200], [4e-200, -3e-200], [1.0, 2.0], [0.0, 0.0], [0.0, 0.0]])
    value, slope = numbers(lib, pl.value_and_grad(pl.cosine_similarity)(lib.array(t), lib.array(p)))
    np.testing.assert_allclose(value, [-1, -1, -1, 0, 0, 0, 0], atol=1e-15)
    assert (slope[4:] == 0).all()
    assert np.isfinite(slope).all()


def test_cosine_proximity_is_minus_the_cosine():
    """Before 2.0.9 Keras divided it by the length."""
    t, p = np.array([[1.0, 2.0, 2.0]]), np.array([[2.0, 1.0, 2.0]])
    assert pl.get("cosine_proximity")(t, p) == pytest.approx([-8 / 9], rel=1e-15)


def test_inputs_are_never_written_and_results_never_alias(lib):
    """Liger overwrites the logits, Caffe's prob aliases them."""
    logits, labels = lib.array(LOGITS), lib.array(LABELS)
    loss, prob = pl.softmax_loss(labels, logits, return_prob=True)
    (_, other), slope = pl.value_and_grad(pl.softmax_loss)(labels, logits, return_prob=True)
    np.testing.assert_array_equal(lib.numpy(logits), LOGITS)
    if lib.writable:
        for x in (prob, other, slope):
            x[...] = 7.0
        np.testing.assert_array_equal(lib.numpy(logits), LOGITS)
        np.testing.assert_array_equal(lib.numpy(pl.softmax_loss(labels, logits)), lib.numpy(loss))


def test_float_targets_are_compared_with_ignored_labels_exactly(lib):
    """Caffe's sigmoid loss truncates a target of 0.5 to 0, so that it is ignored where 0 is."""
    with pytest.raises(TypeError, match=r"y_true\[1\] is 0.5"):
        lib.numpy(pl.softmax_loss(lib.array(np.array([1.0, 0.5, 2.0, 0.0])), lib.array(LOGITS), ignore_label=0))
    value = lib.numpy(pl.softmax_loss(lib.array(np.array([1.0, 2.0, 2.0, 0.0])), lib.array(LOGITS), ignore_label=0, reduction="none"))
    assert list(value == 0) == [False, False, False, True]


def test_integer_predictions_are_promoted_first(lib):
    """uint8 differences wrap."""
    t, p = np.array([[250, 3]], np.uint8), np.array([[3, 250]], np.uint8)
    value = pl.mean_squared_error(lib.array(t), lib.array(p))
    assert lib.numpy(value) == 247.0**2
    value, slope = pl.value_and_grad("mse")(lib.array(np.array([[True, False]])), lib.array(np.array([[False, False]])))
    assert lib.numpy(value) == 0.5
    default = "float32" if lib.name.startswith("torch") else "float64"
    assert (lib.dtype(value), lib.dtype(slope)) == (default, default)
    np.testing.assert_array_equal(lib.numpy(slope), [[-1.0, 0.0]])


def test_more_than_two_to_the_31_elements():
    """torch reads elsewhere or is silently wrong; 4 GiB of zeros, of which one page is ever in memory."""
    c = 2**30 + 8
    logits = np.zeros((2, c), np.float16)
    logits[1, -1] = 30.0
    value = pl.softmax_loss(np.array([c - 1, c - 1]), logits, reduction="none")
    rest = math.log(c - 1)
    np.testing.assert_allclose(value, [math.log(c), math.log1p(math.exp(rest - 30))], rtol=1e-6)


# ----------------------------------------------------------------------------------------------------------- labels as given


def test_labels_as_keras_hands_them_over(lib):
    """`fit` makes them float32, (N,) or (N, 1)."""
    right = lib.numpy(pl.softmax_loss(lib.array(LABELS), lib.array(LOGITS)))
    for labels in (LABELS.astype(np.float32), LABELS.astype(np.float32)[:, None]):
        np.testing.assert_array_equal(lib.numpy(pl.softmax_loss(lib.array(labels), lib.array(LOGITS))), right)
        value = pl.get("scce")(lib.array(labels), lib.array(LOGITS), from_logits=True, reduction="mean")
        np.testing.assert_allclose(lib.numpy(value), right, rtol=1e-15)


def test_one_class_alone_costs_nothing(lib):
    """Its probability is 1, whatever is predicted; the suite makes errors of warnings."""
    labels, x, one = lib.array(np.zeros(3, int)), lib.array(np.array([[0.25], [3.0], [50.0]])), lib.array(np.ones((3, 1)))
    calls = (
        (pl.softmax_loss, labels),
        (pl.softmax_loss, one),
        *[(pl.get(name), one if name == "cce" else labels) for name in ("cce", "sparse_categorical_crossentropy")],
    )
    for loss, t in calls:
        for params in ({},) if loss is pl.softmax_loss else ({"from_logits": True}, {"epsilon": 0.0}):
            value, slope = pl.value_and_grad(loss)(t, x, reduction="sum", **params)
            assert float(lib.numpy(value)) == 0
            np.testing.assert_array_equal(lib.numpy(slope), np.zeros((3, 1)))


# --------------------------------------------------------------------------------------------------------------- known values


def test_two_classes():
    loss, prob = pl.softmax_loss(np.array([1]), np.array([[1.2, 0.8]]), return_prob=True)
    np.testing.assert_allclose(prob, [[0.5987, 0.4013]], atol=5e-5)
    assert loss == pytest.approx(0.9130, abs=5e-5)
    assert loss == pytest.approx(math.log1p(math.exp(0.4)), rel=1e-15)


def test_log_loss_of_spam_and_ham():
    value = pl.log_loss(["spam", "ham", "ham", "spam"], [[0.1, 0.9], [0.9, 0.1], [0.8, 0.2], [0.35, 0.65]])
    assert value == pytest.approx(0.21616187468057912, rel=2e-16)
    assert type(value) is float


def test_kaggles_score_divides_rows_by_their_sums():
    proba = np.array([[0.2, 0.2, 0.4], [0.0, 1.0, 1.0], [0.75, 0.0, 0.0]])
    value = pl.log_loss([0, 0, 0], proba, labels=[0, 1, 2], epsilon=1e-15, rescale=True)
    assert value == pytest.approx(-(math.log(0.25) + math.log(1e-15) + math.log1p(-1e-15)) / 3, rel=1e-12)


def test_numpy_is_the_default_library():
    """Lists, numbers, pandas and polars columns."""
    import pandas
    import polars

    right = pl.mean_squared_error(np.array([1.0, 2.0]), np.array([3.0, 5.0]))
    for t, p in (([1, 2], [3, 5]), (pandas.Series([1, 2]), [3.0, 5.0]), (polars.Series([1, 2]), pandas.Series([3.0, 5.0]))):
        value = pl.mean_squared_error(t, p)
        assert NUMPY.is_array(value)
        assert value == right


def test_ignored_values_that_the_labels_cannot_hold_change_nothing():
    """An ignore label beyond the labels' dtype names no position, on the formula's route as on the kernels'."""
    import array_api_strict as strict

    logits = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
    labels = np.array([0, 1, 2, 1])
    want = float(pl.softmax_loss(labels, logits))
    for dtype, ignored in (("uint8", -1), ("int8", 255), ("int16", (-(2**70), 65535)), ("uint64", -1)):
        y = strict.asarray(labels.astype(dtype))
        assert float(pl.softmax_loss(y, strict.asarray(logits), ignore_label=ignored)) == pytest.approx(want, rel=1e-6)


def test_an_axis_that_is_no_integer_is_refused_after_one_that_is():
    logits = np.zeros((4, 3))
    pl.softmax_loss([0, 1, 2, 1], logits, axis=1)
    with pytest.raises(TypeError, match=r"axis is 1\.0, but must be an integer"):
        pl.softmax_loss([0, 1, 2, 1], logits, axis=1.0)


@pytest.mark.parametrize("route", ROUTES)
def test_a_share_above_1_is_clipped_where_1_less_epsilon_rounds_to_1(route):
    """[1.5, -1e-9] has shares above 1 and below 0: the loss is α/2 of -log ε, (1 - ε)^γ being 1, and both slopes are 0."""
    for dtype, below, epsilon in (("float32", -1e-9, 1e-15), ("float64", -1e-20, 1e-17)):
        t, p = np.array([[0.5, 0.5]], dtype), np.array([[1.5, below]], dtype)
        value, slope = route(pl.value_and_grad("categorical_focal_crossentropy"), t, p, gamma=0.5, epsilon=epsilon)
        assert value[0] == pytest.approx(-0.25 * 0.5 * math.log(epsilon), rel=1e-6 if dtype == "float32" else 1e-14)
        assert not slope.any()
        assert route(pl.categorical_crossentropy, t, p, epsilon=epsilon)[0] == pytest.approx(-0.5 * math.log(epsilon), rel=1e-6)


def test_unchecked_bad_labels(lib):
    """Their loss and gradient are NaN; they count as positions, and add no weight to what the others are divided by."""
    t, p, w, k = np.array([0, 7, 2, -3]), np.full((4, 3), 0.25), np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.5, 1.0, 2.0])
    t, p, w, k = map(lib.array, (t, p, w, k))
    for loss, options in (
        ("generalized_crossentropy", {}), ("brier", {}), ("multiclass_hinge", {}), ("sparse_categorical_crossentropy", {}),
        ("poly1_crossentropy", {}), ("softmax_loss", {}), ("softmax_loss", {"class_weight": k}),
    ):  # fmt: skip
        reduction = "normalize" if loss == "softmax_loss" else "mean"
        for weights in (None, w) if not options else (None,):
            each = lib.numpy(pl.grad(loss)(t, p, reduction="none", sample_weight=weights, validate=False, **options))
            for function in (pl.grad(loss), lambda *args, loss=loss, **kw: formula(pl.grad(loss), *args, **kw)):
                mean = lib.numpy(function(t, p, reduction=reduction, sample_weight=weights, validate=False, **options))
                divisor = 2.5 if options else 4.0  # 0.5 + 2, class weights of the labels; 1 + 3; or so many positions
                np.testing.assert_allclose(mean, each / divisor, rtol=1e-6)
                assert np.isnan(mean[[1, 3]]).all()
                assert np.isfinite(mean[[0, 2]]).all()
