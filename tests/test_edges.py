"""Numbers at the ends of what the types hold: logits far apart, 0, infinities. Kernels and formulas keep one rule for each."""

import mpmath as mp
import numpy as np
import pytest
import torch
from libraries import JAX, LIBRARIES, NUMPY, TORCH, formula
from oracle import DEFINITIONS

import polyloss as pl


def kernel(function, *args, **kwargs):
    """A call by the route that it takes by itself."""
    return function(*args, **kwargs)


ROADS = (kernel, formula)
STRICT = next(lib for lib in LIBRARIES if lib.name == "strict(CPU_DEVICE)")
TINY = {"float32": 2.0**-126, "float64": 2.0**-1022}

# ------------------------------------------------------------------------------------------------ logits that are far apart

GAPS = (0.5, 30.0, 45.0, 89.5, 150.0, 711.0)
FAR = {  # the targets and logits, by the gap
    "label above": lambda x: ([1, 0], [x, 0]),
    "label below": lambda x: ([0, 1], [x, 0]),
    "three classes": lambda x: ([0, 1, 0], [x, 1, 0]),
    "soft": lambda x: ([0.25, 0.5, 0.25], [0, x, 1]),
}


def far_apart(loss, t, z, **params):
    """Value, slopes and curvatures of one row, from difference quotients in far more digits than its numbers begin with zeros."""
    with mp.workdps(60 + int(1.1 * max(map(abs, z)))):
        t, z = [mp.mpf(x) for x in t], [mp.mpf(x) for x in z]

        def along(j):
            return lambda x: DEFINITIONS[loss](t, [*z[:j], x, *z[j + 1 :]], "float64", **params)

        derivatives = ([float(mp.diff(along(j), x, order)) for j, x in enumerate(z)] for order in (1, 2))
        return float(along(0)(z[0])), *derivatives


def close(actual, right, dtype, units=64):
    """Within some units of the right number, entry by entry, or of the least normal number, below which there are fewer digits."""
    unit = 2.0**-24 if dtype == "float32" else 2.0**-53
    np.testing.assert_allclose(actual, right, rtol=units * unit, atol=16 * TINY[dtype])


@pytest.mark.parametrize("kind", FAR)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 1.5, 2.0])
def test_focal_losses_from_logits_never_saturate(kind, gamma):
    for gap in GAPS:
        t, z = FAR[kind](gap)
        right = far_apart("categorical_focal_crossentropy", t, z, gamma=gamma, from_logits=True)
        for dtype in ("float64", "float32"):
            row = np.array([t], dtype), np.array([z], dtype)
            for road in ROADS:
                check(road, "categorical_focal_crossentropy", row, right, dtype, gamma=gamma, from_logits=True)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 1.5, 2.0])
def test_binary_focal_losses_from_logits_never_saturate(gamma):
    for t in (0.0, 1.0, 0.25):
        for z in (*GAPS, *(-gap for gap in GAPS)):
            right = far_apart("binary_focal_crossentropy", [t], [z], gamma=gamma, from_logits=True)
            for dtype in ("float64", "float32"):
                for road in ROADS:
                    row = np.array([[t]], dtype), np.array([[z]], dtype)
                    check(road, "binary_focal_crossentropy", row, right, dtype, gamma=gamma, from_logits=True)


def check(road, loss, row, right, dtype, **options):
    """Value, slopes and curvatures of one row against the right ones."""
    value, gradient = road(pl.value_and_grad(loss), *row, **options)
    again, hessian = road(pl.grad_and_hess(loss), *row, **options)
    for got, expected in ((value[0], right[0]), (gradient[0], right[1]), (again[0], right[1]), (hessian[0], right[2])):
        close(got, expected, dtype)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_losses_of_the_largest_logits(gamma):
    """Beside a label that is infinitely unlikely its derivative is all there is."""
    for dtype in ("float64", "float32"):
        most = float(np.finfo(dtype).max)
        for z in ([most / 4, -most / 4], [most, 0.0], [0.0, -most]):
            for road in ROADS:
                for t, right in (([1.0, 0.0], (0.0, [0.0, 0.0])), ([0.0, 1.0], (0.25 * (z[0] - z[1]), [0.25, -0.25]))):
                    row = np.array([t], dtype), np.array([z], dtype)
                    check(road, "categorical_focal_crossentropy", row, (*right, [0.0, 0.0]), dtype, gamma=gamma, from_logits=True)
                    binary = np.array([[t[0]]], dtype), np.array([[z[0] - z[1]]], dtype)
                    of_binary = (4 * right[0], [4 * t[1] * right[1][0]], [0.0])
                    check(road, "binary_focal_crossentropy", binary, of_binary, dtype, gamma=gamma, from_logits=True)


# --------------------------------------------------------------------------------------------------------- infinite logits

FROM_LOGITS = {
    "softmax_loss": {},
    "categorical_crossentropy": {"from_logits": True},
    "sparse_categorical_crossentropy": {"from_logits": True},
    "categorical_focal_crossentropy": {"from_logits": True},
    "poly1_crossentropy": {},
}


@pytest.mark.parametrize("loss", FROM_LOGITS)
def test_a_row_with_an_infinite_logit_is_nan_everywhere(loss):
    """And so is one of -inf alone; the next row keeps its numbers. By whatever computes it."""
    function, params = getattr(pl, loss), FROM_LOGITS[loss]
    call = {"reduction": "none", "axis": -1, **params}
    sums = {**call, "reduction": "sum"}
    for t in (np.array([1, 1]), np.eye(3)[[1, 1]], np.array([[0.0, 0.75, 0.25]] * 2)):
        if t.ndim == (2 if loss.startswith("sparse") else 1) and loss not in ("softmax_loss", "poly1_crossentropy"):
            continue
        by_jax = JAX.jax.jit(JAX.jax.grad(lambda z, t=t: function(t, z, **sums)))
        for row in ([np.inf, 0.0, 1.0], [np.inf, np.inf, -np.inf], [-np.inf] * 3):
            z = np.array([row, [0.0, 1.0, 2.0]])
            x = torch.tensor(z, requires_grad=True)
            function(torch.tensor(t), x, **sums).backward()
            found = [x.grad, by_jax(z)]
            if t.ndim == 2:
                found.append(torch.func.grad(lambda z, t=t: function(torch.tensor(t), z, **sums))(torch.tensor(z)))
            for lib in (NUMPY, TORCH, JAX, STRICT):
                for road in ROADS:
                    value, gradient = road(pl.value_and_grad(loss), lib.array(t), lib.array(z), **call)
                    _, hessian = road(pl.grad_and_hess(loss), lib.array(t), lib.array(z), **call)
                    found += [lib.numpy(value)[:, None], lib.numpy(gradient), lib.numpy(hessian)]
                    if loss == "softmax_loss":
                        found.append(lib.numpy(road(function, lib.array(t), lib.array(z), return_prob=True)[1]))
            for x in map(np.asarray, found):
                assert np.isnan(x[0]).all()
                assert np.isfinite(x[1]).all()
