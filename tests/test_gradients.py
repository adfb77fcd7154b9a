"""value_and_grad, grad, grad_and_hess, and the autograd of PyTorch and JAX through every loss."""

import inspect
import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import torch
from libraries import JAX, TORCH, np_dtype
from oracle import CASES, truth
from test_laws import over

import polyloss as pl
from polyloss._core.block import LOSSES

jax, jnp = JAX.jax, JAX.jax.numpy
FLAT = ("mean_absolute_error", "mean_absolute_percentage_error", "hinge", "categorical_hinge")  # second derivatives are 0
ONE_EACH = [next(case for case in CASES if case.loss == name) for name in LOSSES]
VIEWS = (pl.value_and_grad, pl.grad, pl.grad_and_hess)

# torch's forward mode compiles its decompositions with what torch itself calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
all_cases = pytest.mark.parametrize("case", CASES, ids=repr)
one_each = pytest.mark.parametrize("case", ONE_EACH, ids=repr)


# ----------------------------------------------------------------------------------------------------------- our own functions


@pytest.mark.parametrize("name", LOSSES)
def test_signature_is_the_losses_and_out(name):
    loss = getattr(pl, name)
    for view in VIEWS:
        derived = view(name)
        assert derived is view(loss) is view(LOSSES[name].aliases[0]) if LOSSES[name].aliases else view(loss)
        parameters = dict(inspect.signature(derived).parameters)
        assert parameters.pop("out").default is None
        assert parameters == dict(inspect.signature(loss).parameters)
        assert derived.__name__ == f"{view.__name__}({name})"


@one_each
def test_positions_and_names_of_the_arrays(case):
    t, p = case.inputs()
    names = {"y_true": t, LOSSES[case.loss].predictions: p}
    right = case.of(pl.grad(case.loss), t, p)
    given = {"axis": -1, "reduction": "none", **case.params}
    np.testing.assert_array_equal(pl.grad(case.loss)(**names, **given), right)
    np.testing.assert_array_equal(pl.grad(case.loss)(t, **{LOSSES[case.loss].predictions: p}, **given), right)


@over(CASES)
def test_the_three_views_agree(case, lib):
    t, p = (lib.array(x) for x in case.inputs())
    value, slope = case.of(pl.value_and_grad(case.loss), t, p, reduction="sum")
    alone = case.of(pl.grad(case.loss), t, p, reduction="sum")
    first, second = case.of(pl.grad_and_hess(case.loss), t, p, reduction="sum")
    np.testing.assert_allclose(lib.numpy(value), lib.numpy(case.call(t, p, reduction="sum")), rtol=1e-15)
    np.testing.assert_allclose(lib.numpy(alone), lib.numpy(slope), rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(lib.numpy(first), lib.numpy(slope), rtol=1e-13, atol=1e-15)
    assert tuple(second.shape) == tuple(p.shape)


@all_cases
def test_under_none_it_is_the_gradient_of_the_sum(case):
    t, p = case.inputs()
    weight = np.arange(1.0, case.n + 1)
    for view in (pl.grad, pl.grad_and_hess):
        none = case.of(view(case.loss), t, p, sample_weight=weight, reduction="none")
        summed = case.of(view(case.loss), t, p, sample_weight=weight, reduction="sum")
        np.testing.assert_allclose(none, summed, rtol=1e-14, atol=1e-16)


@one_each
def test_with_out_nothing_of_its_size_is_allocated(case):
    """Half a million float32 predictions are 2 MiB; the outputs are the caller's."""
    t, p = case.inputs("float32")
    t, p = np.repeat(t, 16667, axis=0), np.repeat(p, 16667, axis=0)
    out, hessian = np.empty_like(p), np.empty_like(p)
    route = case.of(lambda t, p, **kwargs: pl.explain(case.loss, t, p, **kwargs), t, p).route
    if route == "formula":  # NumPy's operations need room for their intermediate results
        return
    case.of(pl.value_and_grad(case.loss), t, p, out=out, reduction="sum")
    tracemalloc.start()
    case.of(pl.value_and_grad(case.loss), t, p, out=out, **REDUCED.get(case.loss, {"reduction": "mean"}))
    case.of(pl.grad_and_hess(case.loss), t, p, out=(out, hessian), reduction="sum")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < p.nbytes / 4


REDUCED = {"softmax_loss": {"reduction": "normalize"}}


# ------------------------------------------------------------------------------------------------------------ PyTorch's autograd


@all_cases
def test_torch_gradcheck_and_gradgradcheck(case):
    """First and second order, and forward mode, by torch's own quotients."""
    t, p = map(TORCH.array, case.inputs())
    p = p[:3].contiguous().requires_grad_()
    weight = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)

    def loss(p):
        return case.call(t[:3], p, sample_weight=weight)

    assert torch.autograd.gradcheck(loss, (p,), check_forward_ad=case in ONE_EACH)
    if case.loss not in FLAT:
        assert torch.autograd.gradgradcheck(loss, (p,), atol=1e-4)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean", "sum_over_batch_size"])
def test_torch_backward_in_every_reduction(reduction):
    t, p = torch.randn(4, 3, 5, dtype=torch.float64), torch.randn(4, 3, 5, dtype=torch.float64)
    for axis in (-1, 0, 1):
        q = p.clone().requires_grad_()
        pl.huber(t, q, axis=axis, reduction=reduction).sum().backward()
        np.testing.assert_allclose(q.grad, pl.grad(pl.huber)(t, p, axis=axis, reduction=reduction), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", ["mean_squared_error", "binary_crossentropy", "kl_divergence", "cosine_similarity", "softmax_loss",
                                  "categorical_crossentropy", "poly1_crossentropy", "huber"])  # fmt: skip
def test_torch_gradients_reach_targets_and_weights(name):
    rng = np.random.default_rng(0)
    t = TORCH.array(rng.dirichlet(np.ones(3), 4)).requires_grad_()
    p = TORCH.array(rng.uniform(0.1, 0.9, (4, 3))).requires_grad_()
    w = TORCH.array(rng.uniform(0.5, 2, 4)).requires_grad_()
    loss = getattr(pl, name)
    assert torch.autograd.gradcheck(lambda t, p, w: loss(t, p, sample_weight=w, reduction="sum"), (t, p, w))
    if name == "softmax_loss":
        k = TORCH.array(rng.uniform(0.5, 2, 3)).requires_grad_()
        d = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda t, p, w, k: loss(t, p, sample_weight=w, class_weight=k), (t, p, w, k))
        assert torch.autograd.gradcheck(lambda p, d: loss(t, p, denominator=d), (p, d))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_torch_gradients_of_low_precision_keep_the_dtype(dtype):
    for case in ONE_EACH:
        t, p = (TORCH.array(x) for x in case.inputs(dtype))
        p.requires_grad_()
        loss = case.call(t, p, reduction="sum")
        assert loss.dtype is torch.float32
        loss.backward()
        assert TORCH.dtype(p.grad) == dtype
        right = truth(case, dtype).slope
        size = np.max(np.abs(right), axis=1, keepdims=True)
        unit = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-22}[dtype]
        assert (np.abs(TORCH.numpy(p.grad).astype(float) - right) <= 2 * unit * size + 1e-7).all()


@one_each
def test_torch_func_transforms(case):
    t, p = map(TORCH.array, case.inputs())
    right = case.of(pl.grad(case.loss), t, p, reduction="sum")
    slope = torch.func.grad(lambda p: case.call(t, p, reduction="sum"))(p)
    np.testing.assert_allclose(slope, right, rtol=1e-12, atol=1e-14)
    v = torch.randn_like(p)
    _, tangent = torch.func.jvp(lambda p: case.call(t, p, reduction="sum"), (p,), (v,))
    np.testing.assert_allclose(tangent, (right * v).sum(), rtol=1e-11, atol=1e-13)
    if case.params.get("labels", None) is None and not LOSSES[case.loss].scan_targets:  # whose rule looks at the whole array
        each = torch.func.vmap(lambda t, p: case.call(t[None], p[None], reduction="sum"))(t, p)
        np.testing.assert_allclose(each, truth(case).losses, rtol=1e-13, atol=1e-14)


def test_torch_grad_mode_decides():
    p = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    t = torch.ones(3, dtype=torch.float64)
    assert pl.mean_squared_error(t, p).requires_grad
    with torch.no_grad():
        assert not pl.mean_squared_error(t, p).requires_grad
    assert not pl.mean_squared_error(t, p.detach()).requires_grad
    value, slope = pl.value_and_grad("mse")(t, p)
    assert not value.requires_grad
    assert not slope.requires_grad
    with torch.inference_mode():
        assert float(pl.mean_squared_error(t, p)) == 1.0


def test_torch_bad_labels_raise_under_autograd_too():
    z = torch.zeros(3, 4, requires_grad=True)
    with pytest.raises(ValueError, match=r"y_true\[1\] is 4, but logits have 4 classes"):
        pl.softmax_loss(torch.tensor([0, 4, 1]), z)
    loss = pl.softmax_loss(torch.tensor([0, 4, 1]), z, reduction="none", validate=False)
    (slope,) = torch.autograd.grad(loss.nansum(), z)
    assert torch.isnan(loss).tolist() == [False, True, False]
    assert not torch.isnan(slope[[0, 2]]).any()


# ---------------------------------------------------------------------------------------------------------------- JAX's autograd


@pytest.mark.parametrize("case", ONE_EACH[::3], ids=repr)
def test_jax_transforms(case):
    """grad, jvp, vmap and jit, each and together; second derivatives in test_laws.py."""
    t, p = map(JAX.array, case.inputs())
    right = case.of(pl.grad(case.loss), t, p, reduction="sum")

    def loss(t, p):
        return case.call(t, p, reduction="sum")

    value, slope = jax.jit(jax.value_and_grad(loss, argnums=1))(t, p)
    np.testing.assert_allclose(slope, right, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(value, np.sum(truth(case).losses), rtol=1e-13)
    v = jnp.asarray(np.random.default_rng(0).standard_normal(p.shape))
    tangent = jax.jit(lambda p, v: jax.jvp(lambda p: loss(t, p), (p,), (v,))[1])(p, v)
    np.testing.assert_allclose(tangent, jnp.sum(right * v), rtol=1e-11, atol=1e-13)
    if not LOSSES[case.loss].scan_targets:
        each = jax.jit(jax.vmap(lambda t, p: loss(t[None], p[None])))(t, p)
        np.testing.assert_allclose(each, truth(case).losses, rtol=1e-13, atol=1e-14)


def test_jax_own_functions_work_under_jit():
    t, p = map(JAX.array, ONE_EACH[0].inputs())
    for view in VIEWS:
        run = lambda t, p, view=view: ONE_EACH[0].of(view(ONE_EACH[0].loss), t, p)  # noqa: E731
        for traced, eager in zip(jax.tree.leaves(jax.jit(run)(t, p)), jax.tree.leaves(run(t, p)), strict=True):
            np.testing.assert_allclose(traced, eager, rtol=1e-12, atol=1e-14)


def test_jax_gradients_reach_targets_and_weights():
    rng = np.random.default_rng(0)
    t, p, w = rng.dirichlet(np.ones(3), 4), rng.uniform(0.1, 0.9, (4, 3)), rng.uniform(0.5, 2, 4)
    for loss in (pl.kl_divergence, pl.softmax_loss, pl.huber):

        def total(t, p, w, loss=loss):
            return loss(t, p, sample_weight=w, reduction="sum")

        slopes = jax.jit(jax.grad(total, argnums=(0, 2)))(*map(JAX.array, (t, p, w)))
        tensors = [TORCH.array(x).requires_grad_() for x in (t, p, w)]
        right = torch.autograd.grad(total(*tensors), (tensors[0], tensors[2]))
        for ours, theirs in zip(slopes, right, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)


def test_where_values_are_not_at_hand_a_bad_label_is_nan():
    """Under JAX's tracing and torch.func: the position and its gradient alone."""
    labels, z = np.array([0, 7, 2]), np.random.default_rng(0).standard_normal((3, 4))
    losses = jax.jit(lambda y, z: pl.softmax_loss(y, z, reduction="none"))(labels, z)
    slope = np.asarray(jax.jit(jax.grad(lambda z: jnp.nansum(pl.softmax_loss(labels, z, reduction="none"))))(z))
    np.testing.assert_array_equal(np.isnan(losses), [False, True, False])
    right = pl.grad(pl.softmax_loss)(labels, z, ignore_label=7, reduction="none")
    np.testing.assert_allclose(slope[[0, 2]], right[[0, 2]], rtol=1e-12)
    _, ours = jax.jit(pl.value_and_grad(pl.softmax_loss), static_argnames="reduction")(labels, z, reduction="none")
    np.testing.assert_array_equal(np.isnan(ours), np.repeat([[False], [True], [False]], 4, axis=1))
    each = torch.func.vmap(lambda y, z: pl.softmax_loss(y[None], z[None], reduction="none"))(TORCH.array(labels), TORCH.array(z))
    np.testing.assert_array_equal(torch.isnan(each[:, 0]), [False, True, False])


def test_jax_without_x64():
    """As JAX comes: float32 and int32, losses and gradients in float32, without a warning."""
    code = """
import warnings; warnings.simplefilter("error")
import numpy as np, jax, jax.numpy as jnp, polyloss as pl
rng = np.random.default_rng(0)
z, y = jnp.asarray(rng.standard_normal((5, 4))), jnp.asarray([0, 3, 9, 1, 2])
for f in (lambda z: pl.softmax_loss(y, z, ignore_label=9), lambda z: pl.huber(z * 0, z, reduction="mean")):
    v, g = jax.value_and_grad(f)(z)
    w = jax.jit(f)(z)
    assert v.dtype == g.dtype == w.dtype == jnp.float32, (v.dtype, g.dtype)
    assert abs(v - w) < 1e-6
v, g = pl.value_and_grad(pl.softmax_loss)(y, z, ignore_label=9)
assert v.dtype == g.dtype == jnp.float32
right = pl.softmax_loss(np.asarray(y), np.asarray(z, np.float64), ignore_label=9)
assert abs(float(v) - right) < 1e-6
print("right")
"""
    environment = {**os.environ, "JAX_ENABLE_X64": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=False, capture_output=True, text=True, timeout=120)
    assert done.stdout == "right\n", done.stderr


def test_hessians_of_boosting_are_nonnegative_where_the_loss_is_convex():
    rng = np.random.default_rng(0)
    z, y = rng.standard_normal((50, 4)), rng.integers(0, 4, 50)
    for name, t in (("softmax_loss", y), ("binary_crossentropy", rng.integers(0, 2, z.shape)), ("mse", z), ("log_cosh", z[::-1])):
        kwargs = {"from_logits": True} if name == "binary_crossentropy" else {}
        _, hessian = pl.grad_and_hess(name)(t, z, **kwargs)
        assert (hessian >= 0).all()
    assert pl.grad_and_hess("mse")(z, z.astype(np_dtype("bfloat16")))[1].dtype == np_dtype("bfloat16")
