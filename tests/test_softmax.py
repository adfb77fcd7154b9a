"""What is special to the softmax loss: every option with every other, spatial labels, probabilities, layouts, long rows."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from libraries import JAX, LAYOUTS, LIBRARIES, NUMPY, ROUTES, TORCH, np_dtype
from oracle import normalizer

import polyloss as pl

SHAPES = {(4, 3): 1, (2, 3, 4): 1, (2, 3, 2, 2): 1, (3, 2, 4): 0, (2, 2, 3): -1, (3,): 0, (1, 5, 1): 1, (2, 3, 4, 2, 1): -3}


def by_hand(t, z, *, axis=1, ignore=(), class_weight=None, sample_weight=None, label_smoothing=0.0, denominator=None, reduction="normalize",
            **normalization):  # fmt: skip
    """Loss and gradient, position by position from the definition; soft targets have the shape of z."""
    axis %= z.ndim
    rows = np.moveaxis(z.astype(np.float64), axis, -1)
    c, places = rows.shape[-1], rows.shape[:-1]
    soft = None if t.dtype.kind in "iu" else np.moveaxis(t, axis, -1)
    k = np.ones(c) if class_weight is None else np.asarray(class_weight)
    w = None if sample_weight is None else np.broadcast_to(sample_weight, places)
    losses, slope = np.zeros(places), np.zeros_like(rows)
    for at in np.ndindex(places):
        u = 1.0 if w is None else w[at]
        if u == 0 or (soft is None and int(t[at]) in ignore):
            continue
        target = np.eye(c)[int(t[at])] if soft is None else soft[at]
        target = k * ((1 - label_smoothing) * target + label_smoothing / c)
        p = np.exp(rows[at] - rows[at].max())
        log_p = rows[at] - rows[at].max() - math.log(math.fsum(p))
        losses[at] = -u * math.fsum(target[j] * log_p[j] for j in range(c) if target[j])
        slope[at] = u * (np.exp(log_p) * target.sum() - target)
    labels = None if soft is not None else t
    divisor = 1 if reduction != "normalize" else denominator if denominator is not None else normalizer(
        labels, z.shape, axis, ignore, class_weight=class_weight, sample_weight=w, soft=soft, **normalization)  # fmt: skip
    slope = np.moveaxis(slope, -1, axis)
    if reduction == "none":
        return losses, slope
    return (math.fsum(losses.ravel()) / divisor, slope / divisor) if divisor else (0.0, np.zeros_like(slope))


def drawn(shape, axis, soft, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    z = (2 * rng.standard_normal(shape)).astype(dtype)
    places = shape[: axis % len(shape)] + shape[axis % len(shape) + 1 :]
    t = np.moveaxis(rng.dirichlet(np.ones(shape[axis]), places), -1, axis) if soft else rng.integers(0, shape[axis], places)
    return t, z


OPTIONS = {
    "ignore": (None, 255, 1, (0, -7)),
    "class_weight": (False, True),
    "sample_weight": (False, True),
    "label_smoothing": (0.0, 0.2),
    "normalization": (None, "full", "valid", "batch_size", "none"),
}


@pytest.mark.parametrize("lib", LIBRARIES, ids=repr)
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "soft"])
def test_every_option_with_every_other(lib, soft):
    combinations = list(itertools.product(*OPTIONS.values()))
    shapes = list(SHAPES.items())
    for number, options in enumerate(combinations if lib.quick else combinations[::23]):
        shape, axis = shapes[number % len(shapes)] if lib.quick else shapes[number % 2]
        ignore, class_weight, weighted, smoothing, normalization = options
        if soft and ignore is not None:
            continue
        t, z = drawn(shape, axis, soft, number)
        if ignore is not None:
            t = np.where(np.random.default_rng(number).random(t.shape) < 0.3, np.max(ignore), t)
        kwargs = {"axis": axis, "label_smoothing": smoothing, "normalization": normalization}
        if class_weight:
            kwargs["class_weight"] = np.random.default_rng(1).uniform(0, 2, shape[axis])
        if weighted:
            kwargs["sample_weight"] = np.random.default_rng(2).choice([0.0, 0.5, 2.0], np.shape(z.take(0, axis)))
        ignored = () if ignore is None else ignore if isinstance(ignore, tuple) else (ignore,)
        right, right_slope = by_hand(t, z, ignore=ignored, **kwargs)
        given = {name: lib.array(x) if isinstance(x, np.ndarray) else x for name, x in kwargs.items()}
        value, slope = pl.value_and_grad(pl.softmax_loss)(lib.array(t), lib.array(z), ignore_label=ignore, **given)
        np.testing.assert_allclose(lib.numpy(value), right, rtol=1e-13, atol=1e-14, err_msg=str((shape, options)))
        np.testing.assert_allclose(lib.numpy(slope), right_slope, rtol=1e-11, atol=1e-14, err_msg=str((shape, options)))


@pytest.mark.parametrize("reduction", ["none", "sum", None])
def test_reductions(lib, reduction):
    t, z = drawn((2, 3, 4), 1, False)
    t[0, 1] = 9
    weight = np.array([[1.0, 2.0, 0.0, 1.5], [0.5, 1.0, 1.0, 1.0]])
    right, right_slope = by_hand(t, z, ignore=(9,), sample_weight=weight, reduction=reduction or "none")
    value, slope = pl.value_and_grad("SoftmaxWithLoss")(
        lib.array(t), lib.array(z), ignore_label=9, sample_weight=lib.array(weight), reduction=reduction
    )
    np.testing.assert_allclose(lib.numpy(value), right, rtol=1e-14)
    np.testing.assert_allclose(lib.numpy(slope), right_slope, rtol=1e-12, atol=1e-15)


def test_denominator_replaces_the_normalizer(lib):
    t, z = drawn((4, 3), 1, False)
    right, right_slope = by_hand(t, z, denominator=32.0)
    for denominator in (32, 32.0, np.float32(32), lib.array(np.array(32.0)), lib.array(np.array(32))):
        for other in ({}, {"normalization": "full"}, {"normalize": False}):
            value, slope = pl.value_and_grad(pl.softmax_loss)(lib.array(t), lib.array(z), denominator=denominator, **other)
            np.testing.assert_allclose(lib.numpy(value), right, rtol=1e-14)
            np.testing.assert_allclose(lib.numpy(slope), right_slope, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_denominator_divides_nothing_where_there_is_no_normalizer(lib, reduction):
    t, z = drawn((4, 3), 1, False)
    for denominator in (32.0, lib.array(np.array(32.0))):
        found = pl.value_and_grad(pl.softmax_loss)(lib.array(t), lib.array(z), reduction=reduction, denominator=denominator)
        for x, right in zip(found, by_hand(t, z, reduction=reduction), strict=True):
            np.testing.assert_allclose(lib.numpy(x), right, rtol=1e-12, atol=1e-15)


def test_denominator_array_of_0_is_nothing_counted(lib):
    """The number 0 is an error; as data, which may be traced or on a device, it divides nothing."""
    zero = lib.array(np.array(0.0))
    value, slope = pl.value_and_grad(pl.softmax_loss)(lib.array(np.array([0, 1])), lib.array(np.ones((2, 3))), denominator=zero)
    assert float(lib.numpy(value)) == 0
    assert not lib.numpy(slope).any()


# ------------------------------------------------------------------------------------------------------------- probabilities


def test_probabilities(lib):
    """In the shape and dtype of the logits; those of ignored positions too; value_and_grad gives ((loss, prob), gradient)."""
    for dtype in ("float64", "float32", *lib.low) if lib.quick else ("float32",):
        t, z = drawn((2, 3, 4), 1, False)
        z = z.astype(np_dtype(dtype))
        t[1, 2] = 9
        e = np.exp(z.astype(float))
        right = e / e.sum(axis=1, keepdims=True)
        loss, prob = pl.softmax_loss(lib.array(t), lib.array(z), ignore_label=9, return_prob=True)
        (other, again), slope = pl.value_and_grad(pl.softmax_loss)(lib.array(t), lib.array(z), ignore_label=9, return_prob=True)
        plain = pl.softmax_loss(lib.array(t), lib.array(z), ignore_label=9)
        unit = {"float64": 2.0**-50, "float32": 2.0**-22, "float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
        for x in (prob, again):
            assert lib.is_array(x)
            assert lib.dtype(x) == dtype
            np.testing.assert_allclose(lib.numpy(x).astype(float), right, rtol=2 * unit)
        np.testing.assert_allclose(lib.numpy(loss), lib.numpy(plain), rtol=2e-7)
        np.testing.assert_allclose(lib.numpy(other), lib.numpy(plain), rtol=2e-7)
        np.testing.assert_allclose(lib.numpy(slope).astype(float),
                                   lib.numpy(pl.grad(pl.softmax_loss)(lib.array(t), lib.array(z), ignore_label=9)).astype(float),
                                   rtol=4 * unit, atol=unit / 100)  # fmt: skip


@pytest.mark.parametrize("lay", [np.ascontiguousarray, np.asfortranarray], ids=["rows", "columns"])
def test_tiny_probabilities_are_off_by_a_sixteenth_of_the_smallest_normal_number_at_most(lay):
    """Wherever the largest logit lies: its exponential is 2^-20 at least, and that of the others is off by 2^-150."""
    rng = np.random.default_rng(3)
    for classes in (3, 10, 40, 300):
        top = rng.uniform(-150, 150, (400, 1))
        top[::2] = rng.uniform(-14, -10, (200, 1))
        z = np.concatenate([top, top - rng.uniform(60, 104, (400, classes - 1))], 1).astype(np.float32)
        y = rng.integers(0, classes, 400)
        e = np.exp(z.astype(np.float64) - z[:, :1])
        right = e / e.sum(1, keepdims=True)
        others = np.arange(classes) != y[:, None]
        others[:, 0] = False
        for route in ROUTES:
            slope = route(pl.grad(pl.softmax_loss), y, lay(z), axis=-1, reduction="sum")
            assert (np.abs(slope - right) <= 2.0**-130 + 1e-5 * right)[others].all()


def test_probabilities_are_differentiable():
    """In torch and JAX, also together with the loss, and where a label is ignored."""
    t, z = drawn((2, 3, 4), 1, False)
    t[0, 0] = 9
    c = np.random.default_rng(4).standard_normal(z.shape)
    e = np.exp(z)
    p = e / e.sum(axis=1, keepdims=True)
    right = p * (c - (c * p).sum(axis=1, keepdims=True)) + by_hand(t, z, ignore=(9,))[1]

    tensor = TORCH.array(z).requires_grad_()
    loss, prob = pl.softmax_loss(TORCH.array(t), tensor, ignore_label=9, return_prob=True)
    (loss + (prob * TORCH.array(c)).sum()).backward()
    np.testing.assert_allclose(tensor.grad.numpy(), right, rtol=1e-12, atol=1e-15)

    def total(z):
        loss, prob = pl.softmax_loss(t, z, ignore_label=9, return_prob=True)
        return loss + (prob * c).sum()

    np.testing.assert_allclose(JAX.jax.grad(total)(JAX.array(z)), right, rtol=1e-12, atol=1e-15)


# ----------------------------------------------------------------------------------------------------- sizes, layouts, threads


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize(
    "shape", [(3, 1), (3, 2), (5, 17), (2, 1000), (2, 70001), (2, 21, 67), (1, 300, 130), (7, 3, 1), (1, 2, 100003)], ids=str
)
def test_sizes(shape, dtype):
    """One class, long rows, spatial tiles and their rests: the kernel gives what the definition gives in float64."""
    rng = np.random.default_rng(sum(shape))
    z = (4 * rng.standard_normal(shape)).astype(np_dtype(dtype))
    t = rng.integers(0, shape[1], shape[:1] + shape[2:])
    t[..., ::3] = np.where(rng.random(t[..., ::3].shape) < 0.5, 300000, t[..., ::3])
    exact = z.astype(np.float64)
    top = exact.max(axis=1, keepdims=True)
    lse = top + np.log(np.exp(exact - top).sum(axis=1, keepdims=True))
    kept = t != 300000
    picked = np.take_along_axis(exact, np.where(kept, t, 0)[:, None], axis=1)
    right = np.where(kept, (lse - picked)[:, 0], 0)
    right_slope = np.exp(exact - lse) - (np.arange(shape[1]).reshape(-1, *[1] * (len(shape) - 2)) == t[:, None])
    right_slope = np.where(kept[:, None], right_slope, 0)
    value, slope = pl.value_and_grad(pl.softmax_loss)(t, z, ignore_label=300000, reduction="none")
    unit = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}[dtype]
    rtol = 1e-14 if dtype == "float64" else 3e-7
    np.testing.assert_allclose(value, right, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(slope.astype(float), right_slope, rtol=3 * unit, atol=1e-13 if dtype == "float64" else 6e-7)
    total, slope = pl.value_and_grad(pl.softmax_loss)(t, z, ignore_label=300000, normalization="none")
    np.testing.assert_allclose(total, right.sum(), rtol=rtol)


@pytest.mark.parametrize("shape", [(40000, 10), (64, 5000), (3, 7, 40000), (2, 3000, 40)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_threads_do_not_change_a_bit(shape, dtype):
    rng = np.random.default_rng(0)
    z = rng.standard_normal(shape).astype(np_dtype(dtype))
    t = rng.integers(0, shape[1], shape[:1] + shape[2:])
    weight = rng.uniform(0.5, 1.5, t.shape)
    bits = set()
    for threads in (1, 2, 3, 8):
        pl.set_num_threads(threads)
        (loss, prob), slope = pl.value_and_grad(pl.softmax_loss)(t, z, sample_weight=weight, return_prob=True)
        alone = pl.softmax_loss(t, z, sample_weight=weight)
        bits.add((loss.tobytes(), prob.tobytes(), slope.tobytes(), alone.tobytes()))
    assert len(bits) == 1


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_any_call_is_the_definition(data):
    """Shapes, axes, dtypes, layouts, options drawn together; kernel and formula."""
    shape = tuple(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4), label="shape"))
    axis = data.draw(st.integers(-len(shape), len(shape) - 1), label="axis")
    soft = data.draw(st.booleans(), label="soft")
    dtype = data.draw(st.sampled_from(["float64", "float32", "float16", "bfloat16"]), label="dtype")
    t, z = drawn(shape, axis, soft, data.draw(st.integers(0, 99), label="seed"), np_dtype(dtype))
    kwargs = {"axis": axis, "label_smoothing": data.draw(st.sampled_from([0.0, 0.3, 1.0]), label="smoothing"),
              "reduction": data.draw(st.sampled_from(["normalize", "none", "sum"]), label="reduction")}  # fmt: skip
    if kwargs["reduction"] == "normalize":
        kwargs["normalization"] = data.draw(st.sampled_from(OPTIONS["normalization"]), label="normalization")
    c = shape[axis]
    rng = np.random.default_rng(1)
    if data.draw(st.booleans(), label="class weights"):
        kwargs["class_weight"] = rng.uniform(0, 3, c)
    places = np.shape(z.take(0, axis))
    if data.draw(st.booleans(), label="sample weights"):
        kwargs["sample_weight"] = rng.choice([0.0, 0.5, 2.0], places)
    ignore = ()
    if not soft:
        ignore = data.draw(st.sampled_from([(), (0,), (c, -1)]), label="ignore")
        t = np.where((rng.random(places) < 0.25) & bool(ignore), max(ignore, default=0), t)
        t = t.astype(data.draw(st.sampled_from(["int8", "int64", "int32", "int16", "float32"]), label="label dtype"))
    lay = data.draw(st.sampled_from(LAYOUTS), label="layout")
    held = np.float64 if dtype == "float64" else np.float32
    exact = {k: v.astype(held).astype(float) if isinstance(v, np.ndarray) else v for k, v in kwargs.items()}
    right, right_slope = by_hand(t.astype(held).astype(float) if soft else t.astype(int), z, ignore=ignore, **exact)
    unit = {"float64": 1e-15, "float32": 1e-6, "float16": 2.0**-10, "bfloat16": 2.0**-7}[dtype]
    near = 1e-12 if dtype == "float64" else 2e-6
    for route in ROUTES:
        value, slope = route(pl.value_and_grad(pl.softmax_loss), lay(t), lay(z), ignore_label=ignore or None, **kwargs)
        np.testing.assert_allclose(value, right, rtol=near, atol=near)
        np.testing.assert_allclose(slope.astype(float), right_slope, rtol=max(near, 2 * unit), atol=near)
        assert slope.dtype == z.dtype


def test_labels_far_outside_touch_no_memory():
    """With validate=False too: nothing is read outside the arrays."""
    z = np.zeros((3, 4), np.float32)
    for label in (np.iinfo(np.int64).min, np.iinfo(np.int64).max, -1, 4, 2**31, -(2**31) - 1):
        value, slope = pl.value_and_grad(pl.softmax_loss)(np.array([0, label, 3]), z, reduction="none", validate=False)
        np.testing.assert_array_equal(np.isnan(value), [False, True, False])
        np.testing.assert_array_equal(np.isnan(slope), np.repeat([[False], [True], [False]], 4, axis=1))


def test_nothing_of_the_logits_size_is_allocated_forward():
    """The loss of 64 MiB of logits needs less than one."""
    import tracemalloc

    z, t = np.zeros((1024, 16384), np.float32), np.zeros(1024, np.int64)
    pl.softmax_loss(t, z)
    out = np.empty_like(z)
    tracemalloc.start()
    pl.softmax_loss(t, z)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    pl.value_and_grad(pl.softmax_loss)(t, z, out=out)
    _, with_gradient = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20
    assert with_gradient < 2**20
    assert NUMPY.is_array(out)
