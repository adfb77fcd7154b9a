"""JAX: every loss under grad, jit, jvp, vmap and a second time, and the formulas' derivatives at kinks, ties and clips."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import polyloss as pl
from polyloss._block import LOSSES

CASES = [(name, {}) for name in LOSSES] + [(name, {"from_logits": True}) for name, block in LOSSES.items() if block.logits is not None]
IDS = [name + ("-from_logits" if options else "") for name, options in CASES]


def sample(name, n=4, c=3):
    """Targets and predictions that the loss allows, away from its kinks."""
    rng, block = np.random.default_rng(3), LOSSES[name]
    p = rng.random((n, c)) * 0.8 + 0.1
    t = rng.random((n, c)) * 0.8 + 0.1 if block.targets == "dense" else rng.integers(0, c, n)
    return jnp.asarray(np.round(t) if "hinge" in name else t), jnp.asarray(p)


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_transforms(name, options):
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
    if "hinge" not in name:  # their labels="auto" looks at all targets at once
        options = options | {"axis": -1}
        rows = jax.jit(jax.vmap(jax.value_and_grad(lambda p, t: pl.get(name)(t, p, reduction="none", **options))))(p, t)
        close(rows[0], pl.get(name)(t, p, reduction="none", **options))
        close(rows[1], wanted[1])


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_weights(name, options):
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


@pytest.mark.parametrize(
    ("name", "logits"), [(name, logits) for name in LOSSES for logits in (False, True) if LOSSES[name].logits or not logits]
)
def test_edges(name, logits):
    """Derivatives are slope and curvature where libraries differ: at kinks, ties, clips and zero vectors."""
    block = LOSSES[name].logits if logits else LOSSES[name]
    signature = inspect.signature(LOSSES[name].function).parameters
    resolved = ("from_logits", "label_smoothing", "labels", "ignore_label", "ignore_class", *(("epsilon",) if logits else ()))
    params = {key: signature[key].default for key in LOSSES[name].params if key not in resolved}
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
        close(gradient, block.slope(np, t, p, **params))
        close(curvature, block.curvature(np, t, p, **params))


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
