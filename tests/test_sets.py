"""Sets along several axes, masks of elements, and targets of several numbers each: on every library, beside Keras' examples."""

import itertools

import numpy as np
import pytest
import torch
from libraries import JAX, LIBRARIES, NUMPY, TORCH

import polyloss as pl

SETS = ("dice", "tversky", "jaccard")
PARAMS = {"tversky": {"alpha": 0.25, "beta": 0.75}}
AXES = (None, (1, 2), (0, -1), -1, (1,))


@pytest.fixture(scope="module")
def images():
    """Targets, predictions, and a mask that hides NaN and infinities."""
    rng = np.random.default_rng(0)
    t, p, mask = rng.integers(0, 2, (3, 4, 2, 2)).astype(float), rng.random((3, 4, 2, 2)), rng.random((3, 4, 2, 2)) < 0.7
    p[~mask], t[~mask] = np.nan, np.inf
    return t, p, mask


def rows(x, axis):
    """The sets of an array as rows."""
    axes = tuple(range(x.ndim)) if axis is None else tuple(k % x.ndim for k in np.atleast_1d(axis))
    rest = tuple(k for k in range(x.ndim) if k not in axes)
    shape = tuple(x.shape[k] for k in rest)
    return x.transpose(rest + axes).reshape((*shape, -1))


@pytest.mark.parametrize("name", SETS)
def test_a_mask_takes_elements_out(name, images, lib):
    """What it hides is as if it was not there, for value and derivatives: each set against the elements that are left of it."""
    t, p, mask = images
    for axis in AXES:
        options = {"axis": axis, **PARAMS.get(name, {})}
        value, slope = pl.value_and_grad(name)(lib.array(t), lib.array(p), mask=lib.array(mask), **options)
        _, curvature = pl.grad_and_hess(name)(lib.array(t), lib.array(p), mask=lib.array(mask), **options)
        value, slope, curvature = lib.numpy(value), lib.numpy(slope), lib.numpy(curvature)
        assert slope.shape == curvature.shape == p.shape
        assert (slope[~mask] == 0).all()
        assert (curvature[~mask] == 0).all()
        of_t, of_p, of_mask, of_slope, of_curvature = (rows(x, axis) for x in (t, p, mask, slope, curvature))
        assert value.shape == of_t.shape[:-1]
        for place in np.ndindex(value.shape):
            kept = of_mask[place]
            if not kept.any():
                assert value[place] == 1
                continue
            right, right_slope = pl.value_and_grad(name)(of_t[place][kept], of_p[place][kept], **PARAMS.get(name, {}))
            _, right_curvature = pl.grad_and_hess(name)(of_t[place][kept], of_p[place][kept], **PARAMS.get(name, {}))
            np.testing.assert_allclose(value[place], right, rtol=1e-13)
            np.testing.assert_allclose(of_slope[place][kept], right_slope, rtol=1e-12, atol=1e-14)
            np.testing.assert_allclose(of_curvature[place][kept], right_curvature, rtol=1e-12, atol=1e-14)


def test_a_mask_leaks_nothing_into_autograd(images):
    t, p, mask = images
    right = pl.grad("dice")(t, p, mask=mask, axis=(1, 2), reduction="sum")
    leaf = TORCH.array(p).requires_grad_()
    pl.dice(TORCH.array(t), leaf, mask=TORCH.array(mask), axis=(1, 2), reduction="sum").backward()
    np.testing.assert_allclose(leaf.grad.numpy(), right, rtol=1e-12, atol=1e-14)
    of_jax = JAX.jax.jit(JAX.jax.grad(lambda p, m: pl.dice(JAX.array(t), p, mask=m, axis=(1, 2), reduction="sum")))
    np.testing.assert_allclose(of_jax(JAX.array(p), JAX.array(mask)), right, rtol=1e-12, atol=1e-14)


def test_keras_example_of_images():
    """From the docstring of Keras' dice: two images, and both as one set."""
    t = np.array([[[[1.0], [1.0]], [[0.0], [0.0]]], [[[1.0], [1.0]], [[0.0], [0.0]]]])
    p = np.array([[[[0.0], [1.0]], [[0.0], [1.0]]], [[[0.4], [0.0]], [[0.0], [0.9]]]])
    np.testing.assert_allclose(pl.dice(t, p, axis=(1, 2, 3)), [0.5, 0.75757575], rtol=1e-6)
    assert pl.dice(t, p) == pytest.approx(0.6164384, rel=1e-6)


@pytest.mark.parametrize("name", SETS)
def test_an_empty_set_costs_1(name):
    value, slope = pl.value_and_grad(name)(np.zeros((2, 3)), np.zeros((2, 3)), axis=1)
    np.testing.assert_array_equal(value, [1.0, 1.0])
    np.testing.assert_array_equal(slope, np.zeros((2, 3)))
    value, slope = pl.value_and_grad(name)(np.ones((2, 3)), np.full((2, 3), np.nan), axis=1, mask=np.zeros((2, 3), bool))
    np.testing.assert_array_equal(value, [1.0, 1.0])
    np.testing.assert_array_equal(slope, np.zeros((2, 3)))


def test_out_and_weights_of_sets(images):
    """The gradient goes to the caller's array; a weight of 0 skips a set."""
    t, p, mask = images
    out, weight = np.full(p.shape, 77.0), np.array([1.0, 0.0, 2.0])
    right = pl.grad("dice")(t, p, mask=mask, axis=(1, 2, 3))
    assert pl.grad("dice")(t, p, mask=mask, axis=(1, 2, 3), sample_weight=weight, out=out) is out
    np.testing.assert_allclose(out, right * weight[:, None, None, None], rtol=1e-13)


MEMORY = {  # how (n, c, h, w) lies
    "as it is": lambda x: x,
    "channels last": lambda x: np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
    "classes first": lambda x: np.ascontiguousarray(x.swapaxes(0, 1)).swapaxes(0, 1),
    "columns first": np.asfortranarray,
    "cut": lambda x: np.pad(x, [(0, 1)] * x.ndim)[tuple(slice(n) for n in x.shape)],
}


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("memory", MEMORY)
def test_sets_have_the_same_bits_however_they_lie(memory, dtype):
    """Along every choice of axes, by the plan's first call and those that follow: as the same sets, each in a row."""
    rng = np.random.default_rng(1)
    for shape in ((2, 3, 30, 40), (3, 2, 4, 3, 2)):
        t, p, lie = rng.integers(0, 2, shape).astype(dtype), rng.random(shape).astype(dtype), MEMORY[memory]
        if memory == "channels last" and p.ndim > 4:
            continue
        function = pl.value_and_grad("dice")
        for axis in itertools.chain.from_iterable(itertools.combinations(range(p.ndim), k) for k in range(2, p.ndim + 1)):
            value, gradient = function(rows(t, axis), rows(p, axis), axis=-1)
            leaf = torch.from_numpy(lie(p)).requires_grad_()
            for _ in range(3):
                found, slope = function(lie(t), lie(p), axis=axis)
                assert np.array_equal(found, value), axis
                assert np.array_equal(rows(slope, axis), gradient), axis
                out = np.empty_like(p)
                function(lie(t), lie(p), axis=axis, out=out)
                assert np.array_equal(out, slope), axis
                pl.dice(torch.from_numpy(lie(t)), leaf, axis=axis, reduction="sum").backward()
                assert np.array_equal(leaf.grad, slope), axis
                leaf.grad = None
            pl.dice(torch.from_numpy(lie(t)), leaf, axis=axis).sum().backward()
            assert np.array_equal(leaf.grad, slope), axis


def test_second_derivatives_of_sets_whose_axes_lie_apart(images):
    """By autograd, through a graph of the gradient, and of a batch of upstream gradients."""
    t, p = (torch.from_numpy(np.nan_to_num(x, posinf=1)) for x in images[:2])
    leaf = p.requires_grad_()
    for reduction in ("sum", "none"):

        def loss(z, reduction=reduction):
            return pl.dice(t, z, axis=(0, 2, 3), reduction=reduction).sum()

        (slope,) = torch.autograd.grad(loss(leaf), leaf, create_graph=True)
        (bend,) = torch.autograd.grad(slope[0, 0, 0, 0], leaf)
        right = pl.grad_and_hess("dice")(t, p.detach(), axis=(0, 2, 3), reduction="sum")[1]
        torch.testing.assert_close(bend[0, 0, 0, 0], right[0, 0, 0, 0], rtol=1e-12, atol=0)
    per_set = pl.dice(t, leaf, axis=(0, 2, 3))
    (jacobian,) = torch.autograd.grad(per_set, leaf, torch.eye(len(per_set), dtype=p.dtype), is_grads_batched=True)
    torch.testing.assert_close(jacobian.sum(0), slope.detach(), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("lib", [lib for lib in LIBRARIES if lib.quick], ids=repr)
def test_targets_without_the_axis(lib):
    """Of several numbers for one target: the axis anywhere, and a length-1 axis there or at the end."""
    rng = np.random.default_rng(1)
    t, p = rng.standard_normal((4, 3)), rng.standard_normal((4, 2, 3))
    right = 0.5 * (p[:, 1] + (p[:, 0] - t) ** 2 * np.exp(-p[:, 1]))
    for given in (t, t[:, None], t[:, :, None]):
        np.testing.assert_allclose(lib.numpy(pl.gaussian_nll(lib.array(given), lib.array(p), axis=1)), right, rtol=1e-13)
    several = lib.numpy(pl.quantile_loss(lib.array(t), lib.array(p), quantile=(0.1, 0.75), axis=1))
    each = [pl.quantile_loss(t.reshape(-1, 1), p[:, k].reshape(-1, 1), quantile=q) for k, q in enumerate((0.1, 0.75))]
    np.testing.assert_allclose(several, np.mean(each, axis=0).reshape(4, 3), rtol=1e-13)
    assert NUMPY.numpy(pl.quantile_loss([3.0], [[1.0]], quantile=[0.75])) == 1.5
