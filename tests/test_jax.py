"""JAX: every loss under grad, jit, jvp, vmap and a second time, and the formulas' derivatives at kinks, ties and clips."""

import inspect
import re
import subprocess
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import polyloss as pl
from polyloss._adapters import jax as _jax
from polyloss._call import routes as _routes
from polyloss._core.block import LOSSES

CASES = [(name, {"axis": -1} if block.sets else {}) for name, block in LOSSES.items()]
CASES += [(name, {"from_logits": True}) for name, block in LOSSES.items() if block.logits is not None]
IDS = [name + "".join(f"-{key}" for key in options) for name, options in CASES]


def sample(name, n=4, c=3):
    """Targets and predictions that the loss allows, away from its kinks."""
    rng, block = np.random.default_rng(3), LOSSES[name]
    c = c if block.length is None else block.length({})
    p = rng.random((n, c)) * 0.8 + 0.1
    shape = (n, c) if block.targets == "dense" else n
    t = rng.integers(0, c, n) if block.targets in ("labels", "either") else rng.random(shape) * 0.8 + 0.1
    return jnp.asarray(np.round(t) if block.scan_targets or name == "categorical_hinge" else t), jnp.asarray(p)


def close(found, wanted, atol=1e-11):
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=atol)


@pytest.fixture(params=["kernel", "formula"])
def way(request, monkeypatch):
    """Traced calls by the kernels, or by the formula."""
    monkeypatch.setenv("POLYLOSS_ROUTE", "" if request.param == "kernel" else "formula")
    return request.param


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_transforms(name, options, way):
    t, p = sample(name)

    def total(p, t=t):
        return pl.get(name)(t, p, reduction="sum", **options)

    direction = jnp.linspace(-1.0, 1.0, p.size).reshape(p.shape)

    @jax.jit
    def derived(p):
        own = pl.value_and_grad(name)(t, p, reduction="sum", **options)
        return jax.value_and_grad(total)(p), jax.jvp(total, (p,), (direction,)), jnp.einsum("abab->ab", jax.hessian(total)(p)), own

    (value, gradient), (_, slope), curvature, own = derived(p)
    wanted = pl.value_and_grad(name)(t, p, reduction="sum", **options)
    close(value, wanted[0])
    close(gradient, wanted[1])
    close(slope, jnp.vdot(wanted[1], direction))
    close(curvature, pl.grad_and_hess(name)(t, p, reduction="sum", **options)[1])
    close(own[1], wanted[1])
    if not LOSSES[name].scan_targets:  # their labels="auto" looks at all targets at once
        options = options | {"axis": -1}
        rows = jax.jit(jax.vmap(jax.value_and_grad(lambda p, t: pl.get(name)(t, p, reduction="none", **options))))(p, t)
        close(rows[0], pl.get(name)(t, p, reduction="none", **options))
        close(rows[1], wanted[1])


def test_traced_parameters():
    """Numbers of a loss that JAX traces, alone or one for each class: derivatives with respect to them are right, or they are refused."""
    t, p, y = jnp.array([[1.0, 0.25], [0.0, 0.75]]), jnp.array([[0.3, 0.6], [0.8, 0.1]]), jnp.array([0, 1])
    parameters = {
        ("huber", "delta"): 0.4, ("smooth_l1", "beta"): 0.4, ("pseudo_huber", "delta"): 0.4, ("quantile_loss", "quantile"): 0.4,
        ("binary_crossentropy", "pos_weight"): 1.5, ("binary_crossentropy", "label_smoothing"): 0.2, ("tversky", "alpha"): 0.3,
        ("binary_focal_crossentropy", "gamma"): 1.5, ("generalized_crossentropy", "q"): 0.6, ("multiclass_hinge", "margin"): 0.7,
        ("poly1_crossentropy", "poly_epsilon"): 0.3, ("softmax_loss", "z_loss"): 0.1, ("softmax_loss", "softcap"): 2.0,
        ("binary_crossentropy", "pos_weight", 2): [1.5, 0.5], ("categorical_focal_crossentropy", "alpha", 2): [0.25, 0.5],
    }  # fmt: skip
    for (name, key, *_), number in parameters.items():
        targets = y if LOSSES[name].targets in ("labels", "either") else t

        def total(x, name=name, key=key, targets=targets):
            return pl.get(name)(targets, p, reduction="sum", **{key: x})

        at = jnp.asarray(number)
        ahead, back = (jnp.stack([total(at + step * e) for e in jnp.eye(at.size).reshape(-1, *at.shape)]) for step in (1e-4, -1e-4))
        for derivative in (jax.grad(total), jax.jit(jax.grad(total))):
            np.testing.assert_allclose(jnp.ravel(derivative(at)), (ahead - back) / 2e-4, rtol=1e-6, err_msg=f"{name}, {key}")
    for refused in (lambda q: pl.quantile_loss(y * 1.0, p, quantile=q), lambda q: pl.tweedie_deviance(t, p, power=q[0])):
        with pytest.raises(TypeError, match="is traced by JAX, but must be known"):
            jax.jit(refused)(jnp.array([1.5, 0.5]))


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_weights(name, options, way):
    t, p = sample(name)
    w = jnp.array([0.5, 2.0, 0.0, 1.0])

    def total(p, w):
        return pl.get(name)(t, p, sample_weight=w, reduction="sum", **options)

    by_p, by_w = jax.jit(jax.grad(total, argnums=(0, 1)))(p, w)
    close(by_p, pl.grad(name)(t, p, sample_weight=w, reduction="sum", **options))
    close(by_w, pl.get(name)(t, p, reduction="none", **options))
    hidden = p.at[2].set(jnp.nan)
    value, gradient = jax.jit(jax.value_and_grad(total))(hidden, w)
    close(value, total(p, w))
    close(gradient, by_p)


def test_nothing_passes_a_weight_of_zero():
    """Neither NaN, which comes down from a mean where weights add up to it, nor infinity, nor an infinite slope."""
    weight = jnp.asarray([jnp.nan, 0.0, 1.0, 0.0])

    def loss(x, name, t, reduction, options):
        return pl.get(name)(x.get("t", t), x["p"], sample_weight=weight, reduction=reduction, **options)

    for name, options in CASES:
        t, p = sample(name)
        soft, reduction = jnp.issubdtype(t.dtype, jnp.floating), "mean" if "mean" in LOSSES[name].reductions else "none"
        if soft or name in ("softmax_loss", "categorical_crossentropy"):
            function = partial(loss, name=name, t=t, reduction=reduction, options=options)
            slopes = jax.jit(lambda x, down, f=function: jax.vjp(f, x)[1](down * jnp.ones_like(f(x))))
            for down in (1.0, jnp.inf):
                for by, slope in slopes({"p": p} | ({"t": t} if soft else {}), down)[0].items():
                    assert (slope[jnp.asarray([1, 3])] == 0).all(), (name, down, by)
                    assert not jnp.isfinite(slope[0]).all(), (name, down, by)

    def deviance(t, weight):  # at 2e-38 it is 2.5e37, and its slope of -1 / (2 t²) no float32
        return pl.tweedie_deviance(t, jnp.ones(2, "float32"), power=3.0, sample_weight=weight, reduction="sum", axis=0)

    at = jnp.asarray([2e-38, 0.5], "float32")
    assert jnp.isneginf(jax.grad(deviance)(at, jnp.ones(1))[0])
    assert (jax.grad(deviance)(at, jnp.zeros(1)) == 0).all()
    assert jax.jvp(lambda t: deviance(t, jnp.zeros(1)), (at,), (jnp.ones_like(at),))[1] == 0


def test_what_is_no_number_from_above_is_hidden_where_nothing_counts_alone():
    """A slope of 0 times NaN or infinity is NaN, as in torch, and 0 where the label is ignored or has a weight of 0."""
    t, p = jnp.asarray([[1.0, 1.0, 3.5]]), jnp.asarray([[1.0, 2.0, 3.0]])
    y, z = jnp.asarray([0, 255, 1]), jnp.asarray([[1.0, 2.0, 3.0], [0.0, 1.0, 2.0], [1.0, 1.0, 1.0]])
    for down in (jnp.nan, jnp.inf):
        squared = jax.grad(lambda p, down: down * pl.mean_squared_error(t, p, reduction="sum"))(p, down)
        right = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64, requires_grad=True)
        (torch.nn.functional.mse_loss(right, torch.tensor([[1.0, 1.0, 3.5]], dtype=torch.float64), reduction="sum") * down).backward()
        np.testing.assert_array_equal(squared, right.grad.numpy())
        for labels, options in ((y, {"ignore_label": 255}), (y % 253, {"class_weight": jnp.asarray([1.0, 1.0, 0.0])})):
            slopes = jax.grad(lambda z, y, down, options=options: down * pl.softmax_loss(y, z, **options))(z, labels, down)
            assert jnp.isfinite(slopes).all(1).tolist() == [False, True, False]
            assert not slopes[1].any()


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0])
def test_the_slope_by_the_target_of_an_infinite_focal_loss(gamma):
    """It is the logarithm's, whatever gamma: a power of 0 has no slope, not 0 times infinity."""
    step = jax.grad(lambda t: pl.binary_focal_crossentropy(t, jnp.ones((1, 2)), gamma=gamma, epsilon=0.0).sum())
    assert step(jnp.asarray([[0.25, 0.5]])).tolist() == [[-jnp.inf, -jnp.inf]]


@pytest.mark.parametrize("options", [{}, {"sample_weight": jnp.linspace(0, 1, 64)}], ids=["plain", "weighted"])
@pytest.mark.parametrize("name", ["mean_squared_error", "huber", "softmax_loss", "poisson_deviance"])
def test_compiled_gradients_are_the_kernels(name, options):
    """XLA adds no pass over memory of its own."""
    t, p = sample(name, n=64)
    step = jax.jit(jax.value_and_grad(lambda p, t: pl.get(name)(t, p, reduction=LOSSES[name].reductions[-1], **options)))
    program = step.lower(p, t).compile().as_text()
    assert "custom-call" in program
    assert not re.search(r"\b(multiply|select)\(", program), program


@pytest.mark.parametrize("name", ["mean_squared_error", "gamma_deviance"])
def test_mixed_second_derivatives_at_a_weight_of_zero(name):
    """By weight and target, or prediction, in either order of the two: here a weight of 0 takes away nothing."""
    t, p = sample(name)
    weight, h = jnp.asarray([0.5, 0.0, 2.0, 0.0]), 2.0**-12

    def loss(w, x):
        return pl.get(name)(*x, sample_weight=w, reduction="mean")

    slopes = jax.jit(jax.grad(loss, 1))
    beside = [slopes(weight + s * h * jnp.ones(4), (t, p)) for s in (1, -1)]
    wanted = [(a - b) / (2 * h) for a, b in zip(*beside, strict=True)]
    assert all((x[jnp.asarray([1, 3])] != 0).any() for x in wanted)
    for outer, inner in ((jax.jacrev, jax.jacrev), (jax.jacfwd, jax.jacfwd)):
        by_weight = [jnp.moveaxis(x, 0, -1) for x in jax.jit(outer(inner(loss), 1))(weight, (t, p))]
        for found in (jax.jit(outer(inner(loss, 1), 0))(weight, (t, p)), by_weight):
            for x, y in zip(found, wanted, strict=True):
                close(x.sum(-1), y, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        (name, form)
        for name, block in LOSSES.items()
        if block.length is None
        for form in ({}, {"from_logits": True}, {"log_input": True})
        if block.params.keys() >= form.keys()
    ],
    ids=str,
)
def test_edges(name, form):
    """Derivatives are slope and curvature where libraries differ: at kinks, ties, clips and zero vectors."""
    loss = LOSSES[name]
    signature = inspect.signature(loss.function).parameters
    resolved = ("label_smoothing", "labels", "ignore_label", "ignore_class")
    params = {key: check(key, signature[key].default) for key, check in loss.params.items() if key not in resolved} | form
    block = loss.form(loss, params)
    if hasattr(block, "term"):
        params["block"] = block
    rng = np.random.default_rng(0)
    ends = np.array([-1.0, 0.0, 1e-7, 0.25, 0.5, 1 - 1e-7, 1.0, 2.0])
    p, t = (x.reshape(-1, 1) for x in np.meshgrid(ends, ends))
    p = np.hstack([p, rng.random((p.size, 4)) * [1, 1, 0, 1]])[:, :, None]
    t = np.hstack([t, rng.random((t.size, 4)) * [1, 0, 0, 1]])[:, :, None]
    p[:5], t[3:8] = 0, 0

    def total(p):
        return block.value(jnp, t, p, **params).sum()

    @jax.jit
    def derived(p):
        gradient, pull = jax.vjp(jax.grad(total), p)
        rows = [pull(jnp.zeros_like(p).at[:, c].set(1.0))[0][:, c] for c in range(p.shape[1])]
        return gradient, jnp.stack(rows, axis=1)

    gradient, curvature = derived(p)
    with np.errstate(all="ignore"):
        # Where a loss or its derivative is infinite, autograd may give NaN.
        known = block.combine is None or np.isfinite(block.value(np, t, p, **params))
        for found, wanted in ((gradient, block.slope(np, t, p, **params)), (curvature, block.curvature(np, t, p, **params))):
            # In a set that is empty autograd's terms of 1e7, and 1e14 of second order, cancel.
            atol = 1e-11 if not block.sets else 1e-8 if found is gradient else 0.1
            close(np.where(known & ~np.isinf(wanted), found, wanted), wanted, atol)


@pytest.mark.usefixtures("way")
class TestLabels:
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 2)))
    labels = jnp.array([[0, 4], [7, 2], [-1, 1]])

    def test_bad_labels_raise_where_values_are_at_hand(self):
        with pytest.raises(ValueError, match=r"y_true\[1, 0\] is 7, but logits have 5 classes on axis 1"):
            pl.softmax_loss(self.labels, self.logits)

    def test_bad_labels_are_nan_while_tracing(self):
        losses = jax.jit(lambda z: pl.softmax_loss(self.labels, z, reduction="none"))(self.logits)
        assert np.argwhere(np.isnan(losses)).tolist() == [[1, 0], [2, 0]]
        gradient = jax.jit(jax.grad(lambda z: pl.softmax_loss(self.labels, z, reduction="sum")))(self.logits)
        assert np.isnan(gradient[1, :, 0]).all()
        assert np.isfinite(gradient[:, :, 1]).all()

    def test_ignored_rows_leak_nothing(self):
        labels = jnp.array([[0, 4], [255, 2], [3, 1]], dtype=jnp.uint8)
        logits = self.logits.at[1, :, 0].set(jnp.nan)
        value, gradient = jax.jit(jax.value_and_grad(lambda z: pl.softmax_loss(labels, z, ignore_label=255)))(logits)
        assert np.isfinite(value)
        assert not gradient[1, :, 0].any()

    def test_impossible_classes_have_finite_gradients(self):
        logits = self.logits.at[:, 3].set(-jnp.inf)
        labels = jnp.array([[0, 4], [1, 2], [2, 1]])
        gradient = jax.jit(jax.grad(lambda z: pl.softmax_loss(labels, z)))(logits)
        close(gradient, pl.grad(pl.softmax_loss)(labels, logits))
        assert not gradient[:, 3].any()


def test_equals_optax():
    import optax

    logits, labels = TestLabels.logits[:, :, 0], jnp.array([0, 4, 2])
    ours = jax.jit(jax.value_and_grad(lambda z: pl.softmax_loss(labels, z)))(logits)
    theirs = jax.jit(jax.value_and_grad(lambda z: optax.softmax_cross_entropy_with_integer_labels(z, labels).mean()))(logits)
    close(ours[0], theirs[0])
    close(ours[1], theirs[1])


def same(found, wanted, dtype):
    """Equal to the last bits of a dtype, whole trees."""
    tolerance = {"float64": 1e-9, "float32": 1e-5, "float16": 2e-3, "bfloat16": 1e-2}[dtype]
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert x.dtype == y.dtype
        assert x.shape == y.shape
        np.testing.assert_allclose(np.asarray(x, np.float64), np.asarray(y, np.float64), rtol=tolerance, atol=tolerance / 10)


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
class TestKernelsInPrograms:
    """Traced calls become operations whose implementation on a CPU is the kernel."""

    def test_they_are_called(self, name, options):
        t, p = sample(name)
        expected = pl.explain(name, np.asarray(t), np.asarray(p), **options).route
        for function in (pl.get(name), pl.value_and_grad(name), jax.grad(pl.get(name), 1)):
            traced = jax.make_jaxpr(lambda p, function=function: function(t, p, reduction="sum", **options))(p)
            assert str(traced).count("ffi_call") == expected.endswith("kernel")
        found = []
        jax.make_jaxpr(lambda p: found.append(pl.explain(name, t, p, **options).route) or p)(p)
        assert found == [expected]

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_numbers_are_those_of_arrays(self, name, options, dtype):
        t, p = sample(name, 5, 6)
        p, w = p.astype(dtype), jnp.array([0.5, 2.0, 0.0, 1.0, 3.0])
        t = t if jnp.issubdtype(t.dtype, jnp.integer) else t.astype(dtype)

        def results(p):
            given = [dict(reduction=r, sample_weight=w, **options) for r in (LOSSES[name].reductions[0], LOSSES[name].reductions[1])]
            return [f(t, p, **g) for g in given for f in (pl.value_and_grad(name), pl.grad_and_hess(name))]

        same(jax.jit(results)(p), results(p), dtype)
        gradient = jax.jit(jax.grad(lambda p: pl.get(name)(t, p, sample_weight=w, **options).sum()))(p)
        same(gradient, pl.grad(name)(t, p, sample_weight=w, **options), dtype)

    def test_forced_to_the_formula(self, name, options, monkeypatch):
        monkeypatch.setenv("POLYLOSS_ROUTE", "formula")
        t, p = sample(name)
        assert "ffi_call" not in str(jax.make_jaxpr(lambda p: pl.get(name)(t, p, **options))(p))


class TestPrograms:
    logits = jnp.asarray(np.random.default_rng(1).normal(size=(6, 5, 2)), jnp.float32)
    labels = jnp.asarray(np.random.default_rng(1).integers(0, 5, (6, 2)))

    @pytest.mark.parametrize(
        "options",
        [
            dict(ignore_label=[1, 2], normalization="full"),
            dict(ignore_label=1),
            dict(class_weight=jnp.arange(5.0), label_smoothing=0.1),
            dict(sample_weight=jnp.arange(6.0), normalize=False),
            dict(denominator=jnp.array(2.5)),
            dict(denominator=0.5, reduction="none"),
            dict(denominator=jnp.array(0.0)),
            dict(return_prob=True),
            dict(return_prob=True, reduction="none", axis=-2),
        ],
        ids="-".join,
    )
    def test_options(self, options):
        arrays = {key: x for key, x in options.items() if isinstance(x, jax.Array)}
        rest = {key: x for key, x in options.items() if key not in arrays}
        labels = [self.labels, self.labels.astype("uint8"), self.labels.astype("float32"), jax.nn.one_hot(self.labels, 5, axis=1)]

        def results(z, arrays):
            given = labels[: 3 if "ignore_label" in rest else 4]
            return [pl.value_and_grad(pl.softmax_loss)(y, z, **arrays, **rest) for y in given]

        same(jax.jit(results)(self.logits, arrays), results(self.logits, arrays), "float32")

        def total(z, arrays):
            return sum(x.sum() for x in jax.tree.leaves(pl.softmax_loss(self.labels, z, **arrays, **rest)))

        found = jax.jit(jax.grad(total, argnums=(0, 1)))(self.logits, arrays)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("POLYLOSS_ROUTE", "formula")
            same(found, jax.jit(jax.grad(total, argnums=(0, 1)))(self.logits, arrays), "float32")

    def test_a_divisor_that_is_traced_beside_arrays_that_are_not(self):
        function = pl.value_and_grad(pl.softmax_loss)
        found = jax.jit(lambda d: function(self.labels, self.logits, denominator=d))(jnp.float32(3))
        same(found, function(self.labels, self.logits, denominator=3.0), "float32")

    def test_what_scales_a_loss_scales_its_gradient_before_it_is_rounded(self):
        """Loss scaling, without which gradients of float16 vanish."""
        logits = self.logits.astype(jnp.float16).at[:, 4].set(-12)
        gradient = jax.jit(jax.grad(lambda z: 2.0**14 * pl.softmax_loss(self.labels * 0, z, normalization="full")))(logits)
        wanted = 2.0**14 * pl.grad(pl.softmax_loss)(self.labels * 0, logits.astype(jnp.float32), normalization="full")
        np.testing.assert_allclose(gradient, wanted, rtol=1e-3)

    def test_inside_other_transforms(self):
        def loss(z, y):
            return pl.softmax_loss(y, z)

        gradient = pl.grad(pl.softmax_loss)(self.labels, self.logits)
        same(jax.jit(jax.grad(jax.checkpoint(loss)))(self.logits, self.labels), gradient, "float32")
        _, rows = jax.lax.scan(lambda _, x: (None, loss(*x)), None, (self.logits[:, None], self.labels[:, None]))
        same(rows.mean(), loss(self.logits, self.labels), "float32")
        _, push = jax.linearize(loss, self.logits, self.labels)
        same(push(self.logits, np.zeros(self.labels.shape, jax.dtypes.float0)), jnp.vdot(gradient, self.logits), "float32")
        weights = jnp.eye(6)
        stacked = jax.vmap(lambda w: jax.grad(lambda z: pl.softmax_loss(self.labels, z, sample_weight=w))(self.logits))(weights)
        each = jnp.stack([pl.grad(pl.softmax_loss)(self.labels, self.logits, sample_weight=w) for w in weights])
        same(stacked, each, "float32")
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("x",))
        spec = jax.sharding.PartitionSpec("x")
        sharded = jax.shard_map(lambda z, y: pl.softmax_loss(y, z, reduction="none"), mesh=mesh, in_specs=(spec, spec), out_specs=spec)
        same(jax.jit(sharded)(self.logits, self.labels), pl.softmax_loss(self.labels, self.logits, reduction="none"), "float32")

    def test_bad_labels_raise_under_grad_alone(self):
        with pytest.raises(ValueError, match=r"y_true\[1, 0\] is 7, but logits have 5 classes on axis 1"):
            jax.grad(lambda z: pl.softmax_loss(self.labels.at[1, 0].set(7), z))(self.logits)

    def test_an_error_in_a_kernel_is_raised(self, monkeypatch):
        labels = self.labels.astype("float32")  # which no kernel takes as they lie
        program = jax.jit(lambda z: pl.softmax_loss(labels, z)).lower(self.logits).compile()
        monkeypatch.setattr(_routes, "run", lambda plan, arrays: {}["a kernel"])
        with pytest.raises(jax.errors.JaxRuntimeError, match="KeyError"):
            jax.block_until_ready(program(self.logits))

    def test_other_platforms_compile_the_formula(self):
        traced = jax.jit(jax.grad(lambda z: pl.softmax_loss(self.labels, z))).trace(self.logits)
        assert "polyloss" in traced.lower(lowering_platforms=("cpu",)).as_text()
        assert "custom_call" not in traced.lower(lowering_platforms=("cuda",)).as_text()


class TestArrays:
    """Calls on arrays whose values are at hand: NumPy's route over their memory."""

    def test_nothing_is_copied(self):
        n, c = 256, 4096
        z, y = jnp.zeros((n, c), jnp.float32), jnp.zeros(n, jnp.int32)
        pl.value_and_grad(pl.softmax_loss)(y, z)
        tracemalloc.start()  # sees NumPy's allocator, from which the kernels' outputs come
        _, gradient = pl.value_and_grad(pl.softmax_loss)(y, z)
        _, peak = tracemalloc.get_traced_memory()
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 4 * n * c + 64 * n + 100_000
        assert held >= 4 * n * c  # the gradient lies where the kernel wrote it
        assert gradient.unsafe_buffer_pointer() % 64 == 0

    @pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
    def test_kinds_and_numbers(self, dtype):
        y, z = jnp.array([1, 0, 2]), jnp.asarray([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0], [5.0, 1.0, -1.0]], dtype)
        for options in (dict(), dict(reduction="none"), dict(sample_weight=np.array([1.0, 0.0, 2.0])), dict(return_prob=True)):
            results = jax.tree.leaves(pl.value_and_grad(pl.softmax_loss)(y, z, **options))
            with jax.disable_jit():
                wanted = jax.tree.leaves(pl.value_and_grad(pl.softmax_loss)(np.asarray(y), np.asarray(z), **options))
            for x, w in zip(results, wanted, strict=True):
                assert isinstance(x, jax.Array)
                assert x.device == z.device
                assert np.asarray(x).dtype == w.dtype
                np.testing.assert_array_equal(np.asarray(x), w)

    def test_other_libraries_are_refused(self):
        with pytest.raises(TypeError, match="y_pred is a jax array, but y_true is a list"):
            pl.mean_squared_error([1.0], jnp.ones(1))
        with pytest.raises(TypeError, match="arrays of jax cannot be written to"):
            pl.grad("mse")(jnp.ones(1), jnp.ones(1), out=jnp.ones(1))


def test_memory_layouts_are_jaxlibs(tmp_path):
    """What xla_ffi.h declares of XLA's C interface lies where jaxlib's own header says."""
    fields = {
        ("xla_extension", "XLA_FFI_Extension_Base"): "size:struct_size type next",
        ("xla_version", "XLA_FFI_Api_Version"): "size:struct_size extension:extension_start major:major_version minor:minor_version",
        ("xla_metadata", "XLA_FFI_Metadata"): "size:struct_size version:api_version traits",
        ("xla_metadata_extension", "XLA_FFI_Metadata_Extension"): "base:extension_base metadata",
        ("xla_buffer", "XLA_FFI_Buffer"): "size:struct_size extension:extension_start type:dtype data rank dims",
        ("xla_buffers", "XLA_FFI_Args"): "size:struct_size extension:extension_start count:size types buffers:args",
        ("xla_buffers", "XLA_FFI_Rets"): "size:struct_size extension:extension_start count:size types buffers:rets",
        ("xla_span", "XLA_FFI_ByteSpan"): "at:ptr length:len",
        ("xla_attributes", "XLA_FFI_Attrs"): "size:struct_size extension:extension_start count:size types names values:attrs",
        ("xla_error_arguments", "XLA_FFI_Error_Create_Args"): "size:struct_size extension:extension_start message code:errc",
        ("xla_api", "XLA_FFI_Api"): "size:struct_size extension:extension_start version:api_version internal:internal_api"
        " error:XLA_FFI_Error_Create",
        ("xla_frame", "XLA_FFI_CallFrame"): "size:struct_size extension:extension_start api context:ctx stage arguments:args results:rets"
        " attributes:attrs",
    }  # fmt: skip
    numbers = {"XLA_METADATA": "Extension_Metadata", "XLA_STRING": "AttrType_STRING", "XLA_INTERNAL_ERROR": "Error_Code_INTERNAL"}
    types = {"PRED", "BF16", *(f"{kind}{bits}" for kind in "SUF" for bits in (8, 16, 32, 64))} - {"F8"}
    numbers |= {f"XLA_{x}": f"DataType_{x}" for x in types}
    checks = [f"{ours} == (int)XLA_FFI_{theirs}" for ours, theirs in numbers.items()]
    checks.append("XLA_MAJOR == XLA_FFI_API_MAJOR")  # of minor versions an older XLA is told its own
    for (ours, theirs), names in fields.items():
        for name in names.split():
            mine, _, other = name.partition(":")
            checks.append(f"offsetof({ours}, {mine}) == offsetof({theirs}, {other or mine})")
            checks.append(f"sizeof ((({ours} *)0)->{mine}) == sizeof ((({theirs} *)0)->{other or mine})")
        if theirs not in ("XLA_FFI_Api", "XLA_FFI_CallFrame", "XLA_FFI_Metadata"):  # which go on
            checks.append(f"sizeof({ours}) == sizeof({theirs})")
    source = tmp_path / "layouts.c"
    asserts = "\n".join(f'_Static_assert({check}, "{check}");' for check in checks)
    source.write_text(f'#include "xla/ffi/api/c_api.h"\n#include "xla/xla_ffi.h"\n{asserts}\n')
    kernels = Path(__file__).parents[1] / "src" / "polyloss" / "_kernels"
    command = ["gcc", "-std=gnu11", "-fsyntax-only", f"-I{jax.ffi.include_dir()}", f"-I{kernels}", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_kernels_take_programs_of_any_size():
    """`explain` says so of what is being traced; of nothing there is nothing to compute."""
    routes = []
    for shape in ((0, 3), (1, 1), (512, 32)):
        jax.eval_shape(lambda p: routes.append(pl.explain("mse", p, p).route) or p, jnp.zeros(shape))
    assert routes == ["formula", "elementwise kernel", "elementwise kernel"]


def test_programs_enter_python_once(monkeypatch):
    """The first call of an operation finds its kernel; others need nothing of Python's, whatever the number of threads was before."""
    y, z = jnp.arange(64) % 7, jnp.asarray(np.random.default_rng(0).standard_normal((64, 7)), jnp.float32)
    step = jax.jit(jax.value_and_grad(lambda z: pl.softmax_loss(y, z, z_loss=0.375)))
    wanted = pl.value_and_grad(pl.softmax_loss)(y, z, z_loss=0.375)
    same(step(z), wanted, "float32")
    monkeypatch.setattr(_jax, "bound", lambda plan, m: {}["a second time"])
    same(step(z), wanted, "float32")
    threads = pl.get_num_threads()
    try:
        pl.set_num_threads(threads + 1)
        with pytest.raises((jax.errors.JaxRuntimeError, ValueError), match="KeyError: 'a second time'"):
            jax.block_until_ready(step(z))
    finally:
        pl.set_num_threads(threads)
    same(step(z), wanted, "float32")


def operation(y, z):
    """The text of an operation as it stands in a program, which may be stored."""
    program = jax.jit(pl.softmax_loss).lower(y, z).as_text()
    return re.search(r'plan = "([^"]+)"', program)[1]


def test_operations_take_no_other_buffers_than_their_own():
    """A text of an operation beside arrays of other lengths or types reads nothing beyond them."""
    y, z = jnp.arange(64) % 7, jnp.zeros((64, 7), jnp.float32)
    text, value = operation(y, z), jax.ShapeDtypeStruct((), jnp.float32)

    def call(*buffers):
        return jax.block_until_ready(jax.jit(lambda *buffers: jax.ffi.ffi_call(_jax.TARGET, value)(*buffers, plan=text))(*buffers))

    np.testing.assert_allclose(call(z[:, :, None], y[:, None]), np.log(7), rtol=1e-6)
    for others in ((z[:32, :, None], y[:32, None]), (z[:, :, None], y[:32, None]), (z.astype("bfloat16"), y), (z[:, :, None],)):
        with pytest.raises((jax.errors.JaxRuntimeError, ValueError), match="INTERNAL"):
            call(*others)


def test_operations_run_at_once():
    """From threads of Python's, by the same and by different kernels, each of which is called for the first time meanwhile."""
    rng = np.random.default_rng(0)
    t, p = jnp.asarray(rng.integers(0, 2, (300, 40)), jnp.float32), jnp.asarray(rng.random((300, 40)), jnp.float32)
    names = ["mse", "bce", "kl_divergence", "tversky", "huber", "log_cosh"]
    wanted = {name: pl.value_and_grad(name)(t, p, reduction="sum") for name in names}
    steps = {name: jax.jit(lambda p, name=name: pl.value_and_grad(name)(t, p, reduction="sum")) for name in names}
    with ThreadPoolExecutor(8) as pool:
        for name, found in pool.map(lambda name: (name, steps[name](p)), names * 40):
            same(found, wanted[name], "float32")


CHILD = """
import sys
import jax, numpy as np
import polyloss as pl
from polyloss._adapters import jax as _jax
y, z = np.arange(64, dtype="i4") % 7, np.random.default_rng(0).standard_normal((64, 7)).astype("f4")
_jax._registered()
call = jax.ffi.ffi_call(_jax.TARGET, jax.ShapeDtypeStruct((), "f4"))
stored = jax.jit(lambda y, z: call(z[:, :, None], y[:, None], plan=sys.argv[1]))
called, run = [], _jax._routes.run
def check():
    np.testing.assert_allclose(stored(y, z), wanted, rtol=1e-5)
wanted = pl.softmax_loss(y, z)
_jax._routes.run = lambda *x: called.append(1) or run(*x)
check()
assert not called
steps = [jax.jit(lambda z, k=k: pl.softmax_loss(y, z, z_loss=k)).lower(z).compile() for k in (0.5, 0.25, 0.125, 1.0)]
for threads in range(1, 1025):  # an operation by another number of threads is another one: several tables of them
    pl.set_num_threads(threads)
    for step in steps:
        step(z).block_until_ready()
assert not called  # by Python
check()
"""


def test_programs_of_another_process_run_and_thousands_are_kept():
    """What a stored program says is known in a process that has not traced it."""
    text = operation(jnp.zeros(64, np.int32), jnp.zeros((64, 7), jnp.float32))
    done = subprocess.run([sys.executable, "-c", CHILD, text], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr


def test_export_takes_the_formula_where_it_is_forced(monkeypatch):
    z, y = jnp.linspace(-3, 3, 128 * 128).reshape(128, 128), jnp.arange(128) % 100

    def step(y, z):
        return jax.value_and_grad(lambda z: pl.softmax_loss(y, z))(z)

    wanted = step(y, z)
    monkeypatch.setenv("POLYLOSS_ROUTE", "formula")
    exported = jax.export.export(jax.jit(step))(y, z)
    assert "custom_call @polyloss" not in exported.mlir_module()
    value, gradient = exported.call(y, z)
    np.testing.assert_allclose(value, wanted[0], rtol=1e-6)
    np.testing.assert_allclose(gradient, wanted[1], rtol=1e-4, atol=1e-9)
