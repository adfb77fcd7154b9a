"""Numbers at the ends of what the types hold: logits far apart, 0, infinities. Kernels and formulas keep one rule for each."""

import itertools

import mpmath as mp
import numpy as np
import pytest
import torch
from libraries import JAX, LIBRARIES, NUMPY, ROUTES, TORCH
from oracle import DEFINITIONS

import polyloss as pl
from polyloss._core.block import LOSSES, Elementwise
from polyloss._core.params import clip_bound

STRICT = next(lib for lib in LIBRARIES if lib.name == "strict(CPU_DEVICE)")
TINY = {"float32": 2.0**-126, "float64": 2.0**-1022}
ASKED = NUMPY, TORCH, JAX  # by tests that also run for arrays of a GPU: tests/cuda_on_cpu/test_laws_on_shim.py

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
            for route in ROUTES:
                check(route, "categorical_focal_crossentropy", row, right, dtype, gamma=gamma, from_logits=True)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 1.5, 2.0])
def test_binary_focal_losses_from_logits_never_saturate(gamma):
    for t in (0.0, 1.0, 0.25):
        for z in (*GAPS, *(-gap for gap in GAPS)):
            right = far_apart("binary_focal_crossentropy", [t], [z], gamma=gamma, from_logits=True)
            for dtype in ("float64", "float32"):
                for route in ROUTES:
                    row = np.array([[t]], dtype), np.array([[z]], dtype)
                    check(route, "binary_focal_crossentropy", row, right, dtype, gamma=gamma, from_logits=True)


def check(route, loss, row, right, dtype, **options):
    """Value, slopes and curvatures of one row against the right ones."""
    value, gradient = route(pl.value_and_grad(loss), *row, **options)
    again, hessian = route(pl.grad_and_hess(loss), *row, **options)
    for got, expected in ((value[0], right[0]), (gradient[0], right[1]), (again[0], right[1]), (hessian[0], right[2])):
        close(got, expected, dtype)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_losses_of_the_largest_logits(gamma):
    """At a label that is infinitely unlikely the loss is linear in the logits: slopes are plus and minus alpha, curvatures 0."""
    for dtype in ("float64", "float32"):
        most = float(np.finfo(dtype).max)
        for z in ([most / 4, -most / 4], [most, 0.0], [0.0, -most]):
            for route in ROUTES:
                for t, right in (([1.0, 0.0], (0.0, [0.0, 0.0])), ([0.0, 1.0], (0.25 * (z[0] - z[1]), [0.25, -0.25]))):
                    row = np.array([t], dtype), np.array([z], dtype)
                    check(route, "categorical_focal_crossentropy", row, (*right, [0.0, 0.0]), dtype, gamma=gamma, from_logits=True)
                    binary = np.array([[t[0]]], dtype), np.array([[z[0] - z[1]]], dtype)
                    of_binary = (4 * right[0], [4 * t[1] * right[1][0]], [0.0])
                    check(route, "binary_focal_crossentropy", binary, of_binary, dtype, gamma=gamma, from_logits=True)


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
    """And so is a row of -inf alone; the next row keeps its numbers. On every library, by kernel and formula."""
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
                for route in ROUTES:
                    value, gradient = route(pl.value_and_grad(loss), lib.array(t), lib.array(z), **call)
                    _, hessian = route(pl.grad_and_hess(loss), lib.array(t), lib.array(z), **call)
                    found += [lib.numpy(value)[:, None], lib.numpy(gradient), lib.numpy(hessian)]
                    if loss == "softmax_loss":
                        found.append(lib.numpy(route(function, lib.array(t), lib.array(z), return_prob=True)[1]))
            for x in map(np.asarray, found):
                assert np.isnan(x[0]).all()
                assert np.isfinite(x[1]).all()


# --------------------------------------------------------------------------------------------- kernels and formulas, at the edges

TARGETS = (0.0, 0.5, 1.0, np.nan)
ELEMENTWISE = {  # loss and parameters: the targets that it is asked for beside all predictions
    "mean_squared_error": [({}, (*TARGETS, -1.0, np.inf, -np.inf, "big"))],
    "mean_absolute_error": [({}, (*TARGETS, -1.0, np.inf, -np.inf, "big"))],
    "mean_absolute_percentage_error": [({}, (*TARGETS, -1.0, np.inf, -np.inf, "big", "tiny"))],
    "mean_squared_logarithmic_error": [({}, (*TARGETS, -1.0, np.inf, -np.inf, "big", "tiny"))],
    "hinge": [({"labels": labels}, (*TARGETS, -1.0, np.inf, -np.inf)) for labels in ("pm1", "01")],
    "squared_hinge": [({"labels": labels}, (*TARGETS, -1.0, np.inf, -np.inf)) for labels in ("pm1", "01")],
    "binary_crossentropy": [
        ({}, TARGETS),
        ({"epsilon": 0.0}, TARGETS),
        ({"from_logits": True}, TARGETS),
        *(({"pos_weight": k, "epsilon": 0.0}, TARGETS) for k in (0.0, 2.5)),
        *(({"pos_weight": k, "from_logits": True}, TARGETS) for k in (0.0, 2.5)),
    ],
    "binary_focal_crossentropy": [({"gamma": g, "from_logits": logits}, TARGETS) for g in (0.0, 0.5, 2.0) for logits in (False, True)],
    "kl_divergence": [({}, (*TARGETS, "tiny")), ({"epsilon": 0.0}, (*TARGETS, "tiny"))],
    "huber": [({}, (*TARGETS, -1.0, np.inf, -np.inf, "big"))],
    "log_cosh": [({}, (*TARGETS, -1.0, np.inf, -np.inf, "big"))],
    "smooth_l1": [({}, (*TARGETS, -1.0, np.inf, -np.inf, "big"))],
    "pseudo_huber": [({}, (*TARGETS, -1.0, np.inf, -np.inf, "big"))],
    "quantile_loss": [({}, (*TARGETS, -1.0, np.inf, -np.inf, "big"))],
    "poisson_deviance": [({}, (*TARGETS, np.inf)), ({"log_input": True}, TARGETS)],
    "gamma_deviance": [({}, (*TARGETS, np.inf)), ({"log_input": True}, TARGETS)],
    "tweedie_deviance": [({"power": 1.5}, (*TARGETS, np.inf)), ({"power": 1.5, "log_input": True}, TARGETS)],
    "exponential": [({"labels": labels}, (*TARGETS, -1.0)) for labels in ("pm1", "01")],
    "logistic": [({"labels": labels}, (*TARGETS, -1.0)) for labels in ("pm1", "01")],
    "poisson": [({}, (*TARGETS, np.inf, "tiny"))],
}
ROWS = {
    "categorical_crossentropy": [{}, {"epsilon": 0.0}, {"from_logits": True}],
    "categorical_focal_crossentropy": [{}, {"gamma": 0.5}, {"gamma": 0.5, "from_logits": True}, {"alpha": (0.5, 2.0, 0.0)}],
    "sparse_categorical_crossentropy": [{}, {"epsilon": 0.0}, {"from_logits": True}],
    "categorical_hinge": [{}],
    "brier": [{}],
    "multiclass_hinge": [{}, {"power": 2}, {"average": True}, {"power": 2, "average": True}],
    "generalized_crossentropy": [{}, {"q": 1.0}, {"q": 0.7}],
    "dice": [{}],
    "tversky": [{}, {"alpha": 0.3, "beta": 0.7}],
    "jaccard": [{}],
    "cosine_similarity": [{}],
    "softmax_loss": [{}, {"class_weight": [0.0, 2.0, 1.0]}, {"class_weight": [0.0, 2.0, 1.0], "label_smoothing": 0.1}],
    "poly1_crossentropy": [{}, {"poly_epsilon": -1.0}],
}
VALUES = ("gaussian_nll",)


def test_every_loss_with_a_kernel_is_asked_at_the_edges():
    assert {*ELEMENTWISE, *ROWS, *VALUES} == {name for name, block in LOSSES.items() if block.kernel}


def numbers(named, dtype):
    """The numbers of a table in a dtype: its largest ones and its smallest."""
    by_name = {"big": np.finfo(dtype).max, "tiny": np.finfo(dtype).smallest_subnormal}
    return np.array([by_name.get(x, x) for x in named], dtype)


def agree(loss, t, p, dtype, params):
    """Kernels and formula say the same of every row: NaN and infinities in the same places, numbers near each other."""
    found = []
    for route in ROUTES:
        value, gradient = route(pl.value_and_grad(loss), t, p, axis=-1, reduction="none", **params)
        _, hessian = route(pl.grad_and_hess(loss), t, p, axis=-1, reduction="none", **params)
        found.append((value[:, None], gradient, hessian))
    for kernel in found[:-1]:
        for what, ours, right in zip(("value", "gradient", "Hessian"), kernel, found[-1], strict=True):
            with np.errstate(all="ignore"):
                finite = [np.where(np.isfinite(x), np.abs(x), 0).max(axis=-1, keepdims=True) for x in (right, p)]
                near = 256 * np.finfo(dtype).eps * np.maximum(1, finite[0] if loss != "categorical_hinge" else np.maximum(*finite))
                same = (np.isnan(ours) & np.isnan(right)) | (ours == right) | (np.abs(ours - right) <= near)
            wrong = np.flatnonzero(~same.all(axis=-1))[:3]
            assert not len(wrong), (loss, params, dtype, what, [(t[i], p[i], ours[i], right[i]) for i in wrong])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", ELEMENTWISE)
def test_kernel_equals_formula_at_the_edges(loss, dtype):
    predictions = (0.0, 1.0, 0.5, 0.3, 1 - 1e-6, -1.0, 50.0, 100.0, -100.0, 800.0, 1e-12, np.inf, -np.inf, np.nan, "big", "tiny")
    for params, targets in ELEMENTWISE[loss]:
        t, p = np.meshgrid(numbers(targets, dtype), numbers(predictions, dtype), indexing="ij")
        agree(loss, t.reshape(-1, 1), p.reshape(-1, 1), dtype, params)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", ROWS)
def test_kernel_equals_formula_in_rows_at_the_edges(loss, dtype):
    named = [0.0, 1.0, 0.3, 100.0, np.inf, np.nan, "big"]
    named += [] if loss == "cosine_similarity" else ["tiny"]  # what is divided by such a norm is a rounding error times infinity
    for params in ROWS[loss]:
        shares = "epsilon" in LOSSES[loss].params and not params.get("from_logits")
        entries = numbers(named + ([] if shares else [-2.0, -np.inf]), dtype)
        if LOSSES[loss].sets:
            _of_sets(loss, dtype, params)
            continue
        if shares and params:  # 1 / y of a share near the smallest number is infinite; kernels add in float64
            entries[entries == np.finfo(dtype).max] = 1e30
        p = np.stack([x.ravel() for x in np.meshgrid(*[entries] * 3, indexing="ij")], axis=1)
        if LOSSES[loss].targets != "labels":
            for t in ([1, 0, 0], [0, 0.25, 0.75], [0, 0, 0]):
                agree(loss, np.tile(np.array(t, dtype), (len(p), 1)), p, dtype, params)
        if LOSSES[loss].targets != "dense":
            for label in (0, 1):
                agree(loss, np.full(len(p), label), p, dtype, params)


def _of_sets(loss, dtype, params):
    """Shares and other numbers, huge, subnormal and negative ones; not where the sums all but cancel, so that each rounding shows."""
    limits = np.finfo(dtype)
    entries = np.array([0.0, -0.0, 1.0, 0.3, -2.0, np.inf, -np.inf, np.nan], dtype)
    entries = np.append(entries, [limits.max / 8, -limits.max / 8, limits.tiny / 4, limits.smallest_subnormal]).astype(dtype)
    p = np.stack([x.ravel() for x in np.meshgrid(*[entries] * 3, indexing="ij")], axis=1)
    alpha, beta = (params.get(key, 1.0 if loss == "jaccard" else 0.5) for key in ("alpha", "beta"))
    for target in ([1, 0, 0], [0, 0.25, 0.75], [0, 0, 0], [1, 1, 1], [-0.0, 2, -1]):
        t = np.tile(np.array(target, dtype), (len(p), 1))
        with np.errstate(all="ignore"):
            x, y = t.astype(np.longdouble), p.astype(np.longdouble)
            terms = np.concatenate([x * y, alpha * x * (1 - y), beta * y * (1 - x)], axis=1)
            cancels = np.abs(terms.sum(axis=1)) < np.abs(terms).sum(axis=1) / 100
        assert (~cancels).sum() > 900
        agree(loss, t[~cancels], p[~cancels], dtype, params)


def test_sets_whose_sums_are_infinite():
    """They are NaN in value, gradient and Hessian, by kernel and formula, in any layout; they are not skipped like sets of weight 0."""
    for loss in ("dice", "jaccard", "tversky"):
        for n in (20, 100, 70_000):  # short, long, in segments
            p = np.full((4, n), 0.5, np.float32)
            p[1], p[2] = 3e38, 3e38
            t, weights = np.zeros_like(p), np.array([1, 1, 0, 1], np.float32)
            for axis in (-1, 0):
                arrays = (t, p) if axis else (t.T.copy(), p.T.copy())
                for route in ROUTES:
                    given = {"axis": axis, "reduction": "none", "sample_weight": weights}
                    value, gradient = route(pl.value_and_grad(loss), *arrays, **given)
                    _, hessian = route(pl.grad_and_hess(loss), *arrays, **given)
                    for x in (value[:, None], *(x if axis else x.T for x in (gradient, hessian))):
                        assert np.isnan(x[1]).all(), (loss, n, axis, route)
                        assert not x[2].any(), (loss, n, axis, route)
                        assert np.isfinite(x[[0, 3]]).all(), (loss, n, axis, route)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", VALUES)
def test_kernel_equals_formula_of_values_at_the_edges(loss, dtype):
    entries = numbers((0.0, 1.0, 0.3, -2.0, 50.0, -50.0, np.inf, -np.inf, np.nan, "big", "tiny"), dtype)
    t, *p = (x.ravel() for x in np.meshgrid(*[entries] * 3, indexing="ij"))
    agree(loss, t, np.stack(p, axis=1), dtype, {})


def test_the_rules_of_the_edges():
    """What the losses say there, by kernel and formula: docs/semantics.md has these rows."""
    nan, inf = np.nan, np.inf
    for loss, target, p, given, right in (
        ("scce", 0, [0.0, 0.0], {}, (nan, [nan, nan])),  # no shares
        ("scce", 0, [1.0, inf], {}, (nan, [nan, nan])),
        ("cce", [1.0, 0.0], [0.0, 2.0], {"epsilon": 0.0}, (inf, [-inf, 0.5])),
        ("cce", [0.0, 1.0], [1e-9, 1.0], {"epsilon": 0.0}, (1e-9, [1.0, -1e-9])),
        ("softmax_loss", 0, [nan, 0.0], {"class_weight": [0.0, 1.0]}, (0.0, [0.0, 0.0])),  # a position of weight 0
        ("softmax_loss", 1, [nan, 0.0], {"class_weight": [0.0, 1.0]}, (nan, [nan, nan])),
        ("categorical_hinge", [1.0, 0.0], [0.5, inf], {}, (inf, [-1.0, 1.0])),
        ("multiclass_hinge", 0, [-inf, 0.5, 0.0], {}, (inf, [-1.0, 1.0, 0.0])),
        ("multiclass_hinge", 0, [-inf, 0.0], {"average": True}, (inf, [-0.5, 0.5])),
        ("multiclass_hinge", 1, [-inf, 0.5], {"average": True}, (0.0, [0.0, 0.0])),
        ("multiclass_hinge", 0, [0.0] + [2e37] * 99, {"average": True, "dtype": "float32"}, (1.98e37, [-0.99] + [0.01] * 99)),
        ("generalized_crossentropy", 0, [0.25, nan], {"q": 1.0}, (0.75, [-1.0, 0.0])),  # which looks at the label's alone
        ("generalized_crossentropy", 1, [0.25, nan], {"q": 1.0}, (nan, [0.0, nan])),
        ("categorical_hinge", [1.0, 0.0], [inf, 0.5], {}, (0.0, [0.0, 0.0])),
        ("msle", [inf], [1.0], {}, (inf, [-inf])),
        ("mse", [0.0, 0.0], [3e19, 3e19], {"dtype": "float32"}, (inf, [3e19, 3e19])),
        ("mse", [0.0, 0.0], [1.5e19, 1.5e19], {"dtype": "float32"}, (2.25e38, [1.5e19, 1.5e19])),  # whose sum is too large
        ("kld", [0.0, 1.0], [0.0, 1.0], {"epsilon": 0.0}, (0.0, [0.0, -1.0])),
        ("kld", [0.0, 0.5], [0.0, 0.0], {"epsilon": 0.0}, (inf, [0.0, -inf])),
        ("kld", [0.3], [0.3 + 3e-9], {}, (-3e-9, [-0.99999999])),
        ("cosine", [0.0, 0.0], [nan, 1.0], {}, (nan, [nan, nan])),
        ("poisson", [0.0], [-1.0], {}, (-1.0, [1.0])),
        ("poisson", [0.0], [nan], {}, (nan, [nan])),
        ("poisson", [1.0], [inf], {}, (inf, [1.0])),  # not ∞ less the logarithm of it
        ("gamma_deviance", [1.0], [-inf], {"log_input": True}, (inf, [-inf])),
        ("hinge", [inf], [-1.0], {"labels": "pm1"}, (inf, [-inf])),
        ("tversky", [1e-20], [2e38], {"alpha": 0.3, "beta": 2.0, "dtype": "float32"}, (1.0, [0.0])),  # 4e38 is infinite
        ("hinge", [1.0], [nan], {"labels": "pm1"}, (nan, [nan])),
        ("hinge", [0.0], [inf], {"labels": "pm1"}, (1.0, [0.0])),
        ("squared_hinge", [0.0], [-inf], {"labels": "pm1"}, (1.0, [0.0])),
        ("exponential", [0.0], [inf], {"labels": "pm1"}, (1.0, [0.0])),
        ("logistic", [0.0], [-inf], {"labels": "pm1"}, (np.log(2), [0.0])),
        ("categorical_hinge", [1.0, 0.0], [0.5, nan], {}, (nan, [nan, nan])),
        ("multiclass_hinge", 0, [-inf, -inf, -inf], {}, (nan, [nan, nan, 0.0])),
        ("multiclass_hinge", 1, [-inf, -inf, -inf], {}, (nan, [nan, nan, 0.0])),
    ):
        dtype, params = given.get("dtype", "float64"), {key: x for key, x in given.items() if key != "dtype"}
        t = np.array([target]) if isinstance(target, int) else np.array([target], dtype)
        for route in ROUTES:
            value, gradient = route(pl.value_and_grad(loss), t, np.array([p], dtype), axis=-1, reduction="none", **params)
            np.testing.assert_allclose(value, [right[0]], rtol=1e-6, atol=1e-290, err_msg=f"{loss} {t} {p}")
            np.testing.assert_allclose(gradient, [right[1]], rtol=1e-6, err_msg=f"{loss} {t} {p}")


def test_hessians_of_tiny_sums():
    """The square of the predictions' sum underflows: second derivatives of 0 stay 0, and the others keep their size."""
    for route in ROUTES:
        for dtype, small in (("float32", 1e-25), ("float64", 1e-170)):
            _, h = route(pl.grad_and_hess("cce"), np.array([[1.0, 0.0, 0.0]], dtype), np.array([[small, 0.0, 0.0]], dtype), epsilon=0.0)
            np.testing.assert_array_equal(h[0, 0], 0.0)
            _, h = route(pl.grad_and_hess("kld"), np.array([[0.0]], dtype), np.array([[0.0]], dtype), epsilon=0.0)
            np.testing.assert_array_equal(h, 0.0)


@pytest.mark.parametrize("poly_epsilon", [1.0, 0.5])
def test_hessian_of_poly1_never_cancels(poly_epsilon):
    for z in ([0, 25], [25, 0], [0, 30], [40, 0, 1], [0.0, 40.0, 39.0]):
        for t in ([1, *[0] * (len(z) - 1)], [0.5 ** (j + 1) for j in range(len(z))]):
            right = far_apart("poly1_crossentropy", t, z, poly_epsilon=poly_epsilon)
            for route in ROUTES:
                row = np.array([t], float), np.array([z], float)
                _, hessian = route(pl.grad_and_hess("poly1_crossentropy"), *row, poly_epsilon=poly_epsilon)
                close(hessian[0], right[2], "float64", units=256)
                if t[0] == 1:
                    _, hessian = route(pl.grad_and_hess("poly1_crossentropy"), np.array([0]), row[1], poly_epsilon=poly_epsilon)
                    close(hessian[0], right[2], "float64", units=256)


# ------------------------------------------------------------------------------- numbers that leave the range only on their way


def test_derivatives_whose_steps_would_leave_the_range():
    """Squares of shares, quotients of tiny numbers and factors of 0, where the derivative is an ordinary number."""
    inf = np.inf
    for loss, target, p, given, right in (
        ("scce", 0, [1.0, 2e19], {"dtype": "float32"}, ([-1.0, 5e-20], [1.0, -2.5e-39])),
        ("cce", [1.0, 0.0], [1.0, 2e19], {"dtype": "float32"}, ([-1.0, 5e-20], [1.0, -2.5e-39])),
        ("cce", [1.0, 0.0], [1.0, 2e160], {}, ([-1.0, 5e-161], [1.0, -0.0])),
        ("binary_focal_crossentropy", [1.0], [0.0], {"gamma": 0.0}, ([-inf], [inf])),
        ("binary_focal_crossentropy", [0.0], [1.0], {"gamma": 0.0}, ([inf], [inf])),
        ("gamma_deviance", [0.979], [2.0], {}, ([1.021 / 2], [-0.0105])),
        ("gamma_deviance", [0.9996680830669836], [2.0], {}, ([0.50016595846650818], [-0.0001659584665081871])),
        ("tweedie_deviance", [1.0], [1e-45], {"power": -1.0, "dtype": "float32"}, ([-2.8e-45], [-2.0])),
        ("generalized_crossentropy", 0, [0.0], {"q": 1.0}, ([-1.0], [0.0])),
        ("tversky", [1.0, 0.0], [1e20, 1e20], {"dtype": "float32"}, ([-5e-21, 5e-21], [5e-41, -5e-41])),
        ("msle", [0.0], [2e19], {"dtype": "float32"}, ([4.44422646e-18], [-2.17211323e-37])),
        ("kld", [1e-30], [1e-25], {"dtype": "float32"}, ([-1e-5], [1e20])),
        ("poisson", [1e10], [3e19], {"dtype": "float32"}, ([1.0], [1e10 / 9e38])),
        ("poisson", [-3e38], [3e38], {"dtype": "float32"}, ([2.0], [-1 / 3e38])),
        ("poisson_deviance", [1e10], [3e19], {"dtype": "float32"}, ([2.0], [2e10 / 9e38])),
        ("binary_crossentropy", [1e-30], [1e-25], {"dtype": "float32"}, ([1 - 1e-5], [1e20])),
        ("binary_focal_crossentropy", [1.0, 0.5, 0.25], [0.0, 0.0, 0.0], {"gamma": 1.0}, ([-inf] * 3, [inf] * 3)),
        ("binary_focal_crossentropy", [0.0, 0.5, 0.75], [1.0, 1.0, 1.0], {"gamma": 0.5}, ([inf] * 3, [inf] * 3)),
        ("tweedie_deviance", [1.0], [1e300], {"power": 0.0, "log_input": True}, ([inf], [inf])),
        ("tweedie_deviance", [1.0], [400.0], {"power": -1.0, "log_input": True}, ([inf], [inf])),
        (
            "cosine_similarity",
            [1e-7, 1e-37, 0.0],
            [0.0, 1.0, 20.0],
            {"dtype": "float32"},
            ([-1 / 401**0.5, -1e-30 * 400 / 401**1.5, 1e-30 * 20 / 401**1.5], None),
        ),
        ("cosine_similarity", [1.0, 1e-10], [2.0**-148, 0.0], {"dtype": "float32"}, ([0.0, -1e-10 * 2.0**148], None)),
        ("exponential", [-0.125], [720.0], {"labels": "pm1", "dtype": "float32"}, ([np.exp(90) / 8], [np.exp(90) / 64])),
    ):
        dtype, params = given.get("dtype", "float64"), {key: x for key, x in given.items() if key != "dtype"}
        if LOSSES[pl.get(loss).__name__].params.get("epsilon") is clip_bound:
            params["epsilon"] = 0.0
        t = np.array([target]) if isinstance(target, int) else np.array([target], dtype)
        for route in ROUTES:
            found = route(pl.grad_and_hess(loss), t, np.array([p], dtype), axis=-1, reduction="none", **params)
            rtol = 1e-6 if dtype == "float32" else 1e-14
            for actual, expected in zip(found, right, strict=True):
                if expected is not None:
                    np.testing.assert_allclose(actual, [expected], rtol=rtol, atol=1e-44, err_msg=f"{loss} {p}")


def test_the_hessian_of_the_cosine_of_a_long_vector():
    for route in ROUTES:
        _, hessian = route(pl.grad_and_hess("cosine_similarity"), np.ones((1, 2), "f4"), np.array([[1e16, 0.0]], "f4"))
        np.testing.assert_allclose(hessian[0, 1], 1e-32 / 2**0.5, rtol=1e-6)


def test_values_whose_steps_would_leave_the_range():
    """Powers of a tiny target, and e^p beside a product that is infinite, too."""
    for loss, target, p, given, right in (
        ("tweedie_deviance", 2e-308, 1.0, {"power": 2.5}, 1.8856180831641267e154),
        ("tweedie_deviance", 2e-308, 0.0, {"power": 2.5, "log_input": True}, 1.8856180831641267e154),
        ("poisson", 20.0, 3e38, {"log_input": True, "dtype": "float32"}, np.inf),
        ("poisson", np.nan, 3e38, {"log_input": True, "dtype": "float32"}, np.nan),
    ):
        dtype, params = given.get("dtype", "float64"), {key: x for key, x in given.items() if key != "dtype"}
        for route in ROUTES:
            value = route(getattr(pl, loss), np.array([[target]], dtype), np.array([[p]], dtype), **params)
            np.testing.assert_allclose(value, [right], rtol=1e-14, err_msg=loss)


@pytest.mark.parametrize("mean", [1e-30, 1e-36, 1.0])
def test_the_derivative_by_tiny_targets(mean):
    """Poisson's with respect to t is -2 log(m / t), in which t times t / m would go below the normal numbers."""
    t = torch.tensor([[1e-38], [1e-37], [1.3e-35], [1e-33]], requires_grad=True)
    pl.poisson_deviance(t, torch.full_like(t, mean)).sum().backward()
    right = -2 * (np.log(np.float32(mean).astype(float)) - np.log(t.detach().numpy().astype(float)))
    np.testing.assert_allclose(t.grad.numpy(), right, rtol=2e-6)


def test_a_prediction_of_minus_zero_is_zero():
    """Its reciprocal would be -inf instead of inf: in shares, in probabilities that are not clipped, in means."""
    with np.errstate(all="ignore"):
        for name, block in LOSSES.items():
            params = {"epsilon": 0.0} if block.params.get("epsilon") is clip_bound else {}
            t = np.array([0, 1, 0, 1]) if block.targets == "labels" else np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [0.0, 1.0]])
            t = t[:, 0] if block.targets == "values" else t
            p = np.array([[0.0, 1.0], [0.0, 1.0], [0.0, 0.5], [1.0, 0.0]])
            for dtype in ("float32", "float64"):
                zeros, minus = p.astype(dtype), np.where(p == 0, -0.0, p).astype(dtype)
                for route in ROUTES:
                    for function in (getattr(pl, name), pl.value_and_grad(name), pl.grad_and_hess(name)):
                        right, found = (route(function, t, x, axis=-1, reduction="none", **params) for x in (zeros, minus))
                        np.testing.assert_equal(found, right, err_msg=f"{name} {dtype}")


@pytest.mark.parametrize("power", [0.0, -1.0, -2.5])
def test_slopes_of_targets_whose_double_is_infinite(power):
    """The derivatives of a deviance by the logarithm of a tiny mean are numbers: only 2 t and (1 - power) t are not."""
    t, z = np.float32([[3e38]]), np.float32([[-12.0]])
    b = 1 - power
    with np.errstate(over="ignore"):
        for route in ROUTES:
            slope, curvature = route(pl.grad_and_hess("tweedie_deviance"), t, z, power=power, log_input=True)
            np.testing.assert_allclose(slope, -2 * t.astype(float) * np.exp(-12.0 * b), rtol=2e-6)
            np.testing.assert_allclose(curvature, -2 * b * t.astype(float) * np.exp(-12.0 * b), rtol=2e-6)


def test_autograd_of_branches_not_taken():
    """An infinite term of a case that does not apply reaches no derivative, with respect to targets neither."""
    inf = np.inf
    for loss, t, p, params, by_t, by_p in (
        ("huber", 0.0, 3.4e38, {}, -1.0, 1.0),
        ("smooth_l1", 0.0, 3.4e38, {}, -1.0, 1.0),
        ("kl_divergence", 0.5, 0.0, {"epsilon": 0.0}, inf, -inf),
        ("poisson", 2.0, 200.0, {"log_input": True}, -200.0, inf),
        ("poisson_deviance", 2e-20, 1.0, {}, -90.716998, 2.0),
        ("poisson_deviance", 1e-30, 1e-5, {}, -115.12925, 2.0),
        ("gamma_deviance", 1e-30, 1e-5, {}, -2e30, 2e5),
        ("gamma_deviance", 0.01, 3e38, {}, -200.0, 0.0),
        ("tweedie_deviance", 0.01, 3e38, {"power": 1.5}, -40.0, 1.15470054e-19),
    ):
        for library in (TORCH, JAX):
            target, prediction = np.array([[t]], np.float32), np.array([[p]], np.float32)
            found = derivatives(library, getattr(pl, loss), target, prediction, **params)
            np.testing.assert_allclose(found, [[[by_t]], [[by_p]]], rtol=2e-6, atol=1e-37, err_msg=f"{loss} {t} {p} {library}")
    for dtype in ("float32", "float64"):
        most = float(np.finfo(dtype).max)
        for library in (TORCH, JAX):
            t, p = np.array([[-most, 0.0, most**0.5]], dtype), np.array([[1.0, 2.0, 3.0]], dtype)
            found = derivatives(library, pl.cosine_similarity, t, p)
            np.testing.assert_allclose(found[0], np.zeros((1, 3)), atol=4 / most)
            np.testing.assert_allclose(found[1] * 14**1.5, [[13.0, -2.0, -3.0]], rtol=1e-5)


def derivatives(library, function, t, p, **params):
    """By targets and predictions, from the library's own autograd."""
    if library is JAX:
        both = JAX.jax.grad(lambda t, p: function(t, p, **params).sum(), (0, 1))
        return [np.asarray(x) for x in both(JAX.jax.numpy.asarray(t), JAX.jax.numpy.asarray(p))]
    tensors = [torch.from_numpy(x).requires_grad_() for x in (t, p)]
    function(*tensors, **params).sum().backward()
    return [x.grad.numpy() for x in tensors]


def test_the_slope_of_one_class_alone_is_0():
    """With any label smoothing, and with a softcap."""
    rng = np.random.default_rng(0)
    for dtype in ("float32", "float64"):
        t, z = rng.random((50, 1)).astype(dtype), rng.standard_normal((50, 1)).astype(dtype)
        for options in ({}, {"softcap": 3.0}):
            for route in ROUTES:
                for smoothing in (0.0, 0.1, 0.5310411652976476):
                    slope, curvature = route(pl.grad_and_hess("softmax_loss"), t, z, label_smoothing=smoothing, **options)
                    assert not slope.any(), (dtype, options, route, smoothing)
                    assert not curvature.any(), (dtype, options, route, smoothing)


def test_sums_that_overflow_floats_are_taken_in_double():
    """A long row's mean is finite where the sum of its float32 losses is not, in any layout, and has the same bits in each."""
    rng = np.random.default_rng(0)
    t = np.zeros((3, 5000), np.float32)
    p = (1e18 * (1 + rng.random((3, 5000)))).astype(np.float32)
    right = (p.astype(float) ** 2).mean(1)
    rows, columns = pl.mean_squared_error(t, p), pl.mean_squared_error(t.T.copy(), p.T.copy(), axis=0)
    np.testing.assert_allclose(rows, right, rtol=1e-6)
    np.testing.assert_array_equal(rows, columns)
    np.testing.assert_allclose(pl.mean_squared_error(t, p, reduction="sum_over_batch_size"), right.mean(), rtol=1e-6)
    value, gradient = pl.value_and_grad("mse")(t, p, reduction="sum_over_batch_size")
    np.testing.assert_allclose(value, right.mean(), rtol=1e-6)
    np.testing.assert_allclose(gradient, 2 * p.astype(float) / p.size, rtol=1e-6)
    p[1, 7] = np.nan
    assert np.isnan(pl.mean_squared_error(t, p)).tolist() == [False, True, False]


def test_the_log_sum_of_far_logits():
    """What z_loss adds to the slope: 0 of an impossible class, and no rounding of terms as large as the logits, by autograd as well."""
    most = np.finfo(float).max
    for route in ROUTES:
        slope = route(pl.grad("softmax_loss"), np.array([[0.0, 0.0]]), np.array([[0.0, most / 4]]), z_loss=1.33)
        np.testing.assert_allclose(slope, [[0.0, 2 * 1.33 * (most / 4)]])
        for logits, right in (([most, 0.0], [np.inf, 0.0]), ([0.0, most], [-1.0, np.inf]), ([most], [np.inf]), ([1e-7], [2e-6])):
            slope, curvature = route(pl.grad_and_hess("softmax_loss"), np.array([0]), np.array([logits]), z_loss=10.0)
            np.testing.assert_allclose(slope, [right], rtol=1e-15)
            assert not np.isnan(curvature).any()
    z = torch.tensor([[100.0, 90.0, 100.0]], dtype=torch.float64, requires_grad=True)
    weight = torch.ones(1, dtype=torch.float64, requires_grad=True)
    pl.softmax_loss(torch.tensor([2]), z, sample_weight=weight, z_loss=2.0, axis=-1, reduction="sum").backward()
    with mp.workdps(30):
        e = [mp.exp(x - 100) for x in (100, 90, 100)]
        lse, p = 100 + mp.log(mp.fsum(e)), [x / mp.fsum(e) for x in e]
        right = [float(4 * lse * x + x - (k == 2)) for k, x in enumerate(p)]
    np.testing.assert_allclose(z.grad[0].numpy(), right, rtol=2e-15)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_square_of_the_log_sum_may_pass_the_largest_number(dtype):
    """Neither z_loss lse² nor its derivative 2 z_loss lse p has a step that overflows, by kernel, formula and autograd."""
    most = float(np.finfo(dtype).max)
    far = np.array([[0.0, most**0.5 * 2]], dtype)
    for route in ROUTES:
        value = route(pl.softmax_loss, np.array([1]), far, z_loss=1 / most**0.5)
        np.testing.assert_allclose(value, 4 * most**0.5, rtol=1e-6)
    z = torch.tensor([[0.0, most / 2]], dtype=getattr(torch, dtype), requires_grad=True)
    weight = torch.ones(2, dtype=z.dtype, requires_grad=True)
    pl.softmax_loss(torch.tensor([1]), z, class_weight=weight, z_loss=1e-4, axis=-1, reduction="sum").backward()
    np.testing.assert_allclose(z.grad[0].numpy(), [0.0, 1e-4 * most], rtol=1e-6)


def test_capped_logits_keep_their_digits_by_autograd():
    """Of a logit of ten caps the slope is 8e-9 of an uncapped one's: 1 - tanh² has half its digits. At 0 it is 1."""
    logits = np.array([[300.0, -270.0, 0.0, 1e-9]])
    slope = pl.grad("softmax_loss")(np.array([1]), logits, softcap=30.0, z_loss=0.1)
    z, weight = TORCH.array(logits).requires_grad_(), torch.ones(4, dtype=torch.float64, requires_grad=True)
    pl.softmax_loss(torch.tensor([1]), z, softcap=30.0, z_loss=0.1, class_weight=weight, denominator=weight[0]).backward()
    np.testing.assert_allclose(z.grad.numpy(), slope, rtol=1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_targets_that_smoothing_replaces_count_for_nothing(dtype):
    """A smoothing of 1 leaves 1/c of each class, also where the sum of the targets passes the largest number."""
    targets = np.array([[0.0, np.finfo(dtype).max, np.finfo(dtype).max]], dtype)
    for route in ROUTES:
        for name in ("softmax_loss", "categorical_crossentropy"):
            options = {"from_logits": True} if name == "categorical_crossentropy" else {}
            call = pl.value_and_grad(name), targets, np.zeros((1, 3), dtype)
            value, slope = route(*call, label_smoothing=1.0, axis=-1, reduction="sum", **options)
            np.testing.assert_allclose(value, np.log(3), rtol=1e-6)
            np.testing.assert_allclose(slope, np.zeros((1, 3)), atol=1e-7)


def test_the_square_of_a_small_excess_is_0_but_not_its_slope():
    """The square of a margin of 1e-38 is 0 in float32."""
    for route in ROUTES:
        for dtype, gap in (("float32", 1e-38), ("float64", 1e-200)):
            z = np.array([[-0.0, gap]], dtype)
            slope, curvature = route(pl.grad_and_hess("multiclass_hinge"), [0], z, margin=0.0, power=2)
            np.testing.assert_array_equal(slope, [[-2 * z[0, 1], 2 * z[0, 1]]])
            np.testing.assert_array_equal(curvature, [[2.0, 2.0]])


def test_no_shares_are_nan_without_a_target():
    for route in ROUTES:
        for loss in ("categorical_crossentropy", "categorical_focal_crossentropy"):
            for gamma in (0.0, 2.0):
                options = {"gamma": gamma} if "focal" in loss else {}
                value = route(getattr(pl, loss), np.zeros((2, 2)), np.array([[0.0, 0.0], [1.0, 0.0]]), **options)
                np.testing.assert_array_equal(value, [np.nan, 0.0])


def of_set(t, p, alpha, beta, epsilon, weight):
    """Slopes and curvatures of a set, in mpmath; both are infinite where the weight is."""
    t, p = [mp.mpf(float(x)) for x in t], [mp.mpf(float(x)) for x in p]
    alpha, beta, epsilon = mp.mpf(alpha), mp.mpf(beta), mp.mpf(epsilon)
    common = mp.fdot(t, p)
    apart = alpha * mp.fsum(x * (1 - y) for x, y in zip(t, p, strict=True)) + beta * mp.fsum(y * (1 - x) for x, y in zip(t, p, strict=True))
    whole = apart + epsilon + common
    by_p = [beta * (1 - x) + (1 - alpha) * x for x in t]
    slopes = [(common / whole * b - x) / whole for x, b in zip(t, by_p, strict=True)]
    curvatures = [-2 * b * s / whole for s, b in zip(slopes, by_p, strict=True)]
    return [np.array([float(x * weight) for x in side]) for side in (slopes, curvatures)]


@pytest.mark.parametrize("sets", [1, 40])
def test_slopes_of_sets_beyond_the_range(sets):
    """Infinite weights and overflowing products give the right infinity, finite results stay finite, and those of targets far beyond 1
    keep their digits, for one set and for many."""
    cases = [
        ("float64", [0, 1, 1], [0.25, 0.5, 0.25], np.inf),
        ("float64", [0.5, 1, 0], [0.25, 0.5, 0.25], np.inf),
        ("float64", [0.5, 1e154, 0.25], [0.25, 0.5, 1.0], 1.0),
        ("float32", [3e38, -3e38], [0.0, 0.0], 1.0),
        ("float32", [3e38, -3e38, 1.0], [0.0, 0.0, 1.0], 1.0),
        ("float32", [0, 1, 1], [0.25, 0.5, 0.25], 1e38),
        ("float32", [1e10, 0.5, 1], [0.5, 0.25, 1.0], 1.0),
        ("float64", [1e20, 0.5, 1], [0.5, 0.25, 1.0], 1.0),
    ]
    with mp.workdps(400):
        for loss, alpha, beta, epsilon in (("dice", 0.5, 0.5, 0.5e-7), ("jaccard", 1.0, 1.0, 1e-7), ("tversky", 0.25, 1.0, 1e-7)):
            options = {"alpha": alpha, "beta": beta} if loss == "tversky" else {}
            for dtype, targets, predictions, weight in cases:
                t, p = np.array(targets, dtype), np.array(predictions, dtype)
                right = of_set(t, p, alpha, beta, epsilon, weight)
                for route in ROUTES:
                    both = (np.repeat(x[None], sets, 0) for x in (t, p))
                    got = route(pl.grad_and_hess(loss), *both, axis=1, sample_weight=np.full(sets, weight), **options)
                    for x, y in zip(got, right, strict=True):
                        with np.errstate(over="ignore"):
                            expected = np.repeat(y.astype(dtype)[None], sets, 0)
                        unit = 1e-5 if dtype == "float32" else 1e-12
                        near = 1e-14 if np.isfinite(expected).all() else 0.0  # beside slopes of 1 those of sums that cancel
                        np.testing.assert_allclose(x, expected, rtol=unit, atol=near)


def test_targets_of_sets_have_slopes_written_out():
    """The formula with alpha and beta exchanged: autograd of the quotient would be NaN beside a target of 1e154."""
    for loss, options in (("dice", {}), ("jaccard", {}), ("tversky", {"alpha": 0.25, "beta": 0.75})):
        t, p = torch.tensor([[0.5, 1e154, 0.25], [1.0, 0.0, 0.5]], dtype=torch.float64), torch.tensor([[0.25, 0.5, 1.0]] * 2).double()
        other = {"alpha": 0.75, "beta": 0.25} if options else {}
        t.requires_grad_()
        getattr(pl, loss)(t, p, axis=1, reduction="sum", **options).backward()
        np.testing.assert_array_equal(t.grad, pl.grad(loss)(p, t.detach(), axis=1, reduction="sum", **other))
        assert torch.isfinite(t.grad).all()
        for both in ((0,), (0, 1)):
            of_jax = JAX.jax.grad(lambda t, p, name=loss, o=options: pl.get(name)(t, p, axis=1, reduction="sum", **o), both)
            by_t = of_jax(*(JAX.array(x.detach().numpy()) for x in (t, p)))[0]
            np.testing.assert_allclose(by_t, t.grad, rtol=1e-12, atol=1e-15)


def test_a_cosine_near_a_right_angle_keeps_its_shares():
    """A share of 5e-324 in a vector of length 1e-30: the cosine's own product is no number of the dtype."""
    for dtype, length, share in (("float64", 1e-30, 5e-324), ("float32", 1e-12, 1e-45)):
        t, p = np.array([[length, share, -0.0]], dtype), np.array([[0.0, 1.0, 1.0]], dtype)
        x, y = (mp.mpf(float(v)) for v in t[0, :2])
        right = [-1 / mp.sqrt(2), -y / x / mp.sqrt(2) / 2, y / x / mp.sqrt(2) / 2]
        for route in ROUTES:
            np.testing.assert_allclose(route(pl.grad("cosine_similarity"), t, p)[0], [float(v) for v in right], rtol=1e-6)


def test_a_weight_that_is_nan_or_infinite_leaves_no_slope_a_number():
    """Classes with a slope of 0 become NaN (0 times infinity), by kernel and by formula."""
    for weight in (np.nan, np.inf):
        for loss, t in (("generalized_crossentropy", [1]), ("multiclass_hinge", [2]), ("categorical_hinge", [[1.0, 0, 0]])):
            for p in ([0.25, 0.25, 0.5], [3.0, 0.25, 0.5]):
                *ours, right = (route(pl.grad_and_hess(loss), t, np.array([p]), sample_weight=[weight]) for route in ROUTES)
                for found in ours:
                    np.testing.assert_array_equal(found, right, err_msg=f"{loss} {p}")
                assert np.isnan(right[0]).any()


@pytest.mark.filterwarnings("error")
def test_labels_of_one_class_are_labels_in_every_dask_block():
    """With an axis of length 1 of their own, and blocks of one position, they have the shape of dense targets."""
    import dask.array as da

    p = np.array([[[[30.0, -7.0]]], [[[3.0, 9.0]]]])
    for shape in ((2, 1, 2, 1), (2, 1, 2), (2, 1, 1, 2)):
        t, blocks = np.zeros(shape), [da.from_array(x, chunks=1) for x in (np.zeros(shape), p)]
        np.testing.assert_array_equal(np.asarray(pl.brier(*blocks, axis=2)), pl.brier(t, p, axis=2))


def test_sums_of_dask_blocks_overflow_in_silence():
    """Within a block and between them, of losses and of weights; the sum is infinite, the gradient a number."""
    import dask.array as da

    most = np.finfo(float).max
    t, p = np.zeros((14, 1)), np.zeros((14, 1))
    t[[5, 6, 12]] = most
    for rows in (7, 1):
        for weight in (None, np.full(14, 1e308)):
            w = None if weight is None else da.from_array(weight, chunks=rows)
            for reduction in ("sum", "mean"):
                function = pl.value_and_grad("mean_absolute_error")
                y_true, y_pred = (da.from_array(x, chunks=(rows, 1)) for x in (t, p))
                value, gradient = (x.compute() for x in function(y_true, y_pred, sample_weight=w, reduction=reduction))
                assert not np.isfinite(value)  # the mean of infinite weights is none
                assert np.isfinite(gradient).all()


def test_a_loss_that_is_nan_has_no_slope_by_its_target():
    """Its slope is NaN for every target; a formula that skips a factor of 0 would give a number."""
    elementwise = {name: block for name, block in LOSSES.items() if issubclass(block, Elementwise) and block.targets == "dense"}
    settings = [(name, {key: True}) for name, b in elementwise.items() for key in ("from_logits", "log_input") if key in b.params]
    settings += [(name, {}) for name in elementwise]
    settings += [("binary_crossentropy", {"pos_weight": 0.0, "from_logits": way}) for way in (False, True)]
    settings += [("tweedie_deviance", {"power": power, "log_input": way}) for power in (0.0, -0.5, 1.2) for way in (False, True)]
    t, p = np.array([[0.0, 1.0, 0.5]]), np.full((1, 3), np.nan)
    for loss, options in settings:
        ours = torch.tensor(t, requires_grad=True)
        getattr(pl, loss)(ours, torch.tensor(p), **options).backward()
        of_jax = JAX.jax.grad(lambda t, p, name=loss, o=options: pl.get(name)(t, p, reduction="sum", **o))(JAX.array(t), JAX.array(p))
        for found in (ours.grad.numpy(), np.asarray(of_jax)):
            held = (t == 0) & (loss in ("mean_squared_logarithmic_error", "kl_divergence"))  # clipped, or exactly without a loss
            np.testing.assert_array_equal(np.isnan(found), ~held, err_msg=f"{loss} {options}")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_beside_nan_no_loss_is_a_number(dtype):
    """Nor is it infinite, however large or small what NaN stands beside."""
    powers = (-30.0, -1.0, 0.0, 1.0, 1.5, 2.0, 2.5, 3.0, 30.0)
    numbers_beside = numbers((0.0, 1.0, 0.5, 1e-12, -1.0, np.inf, -np.inf, "big", "tiny"), dtype)
    nan = np.full((9, 1), np.nan, dtype)
    for name, block in LOSSES.items():
        if not issubclass(block, Elementwise) or block.targets != "dense":
            continue
        settings = [{}] + [{key: True} for key in ("from_logits", "log_input") if key in block.params]
        settings += [{"power": power, "log_input": way} for power in powers for way in (False, True) if "power" in block.params]
        for route, options, x in itertools.product(ROUTES, settings, numbers_beside):
            for t, p in ((nan, np.full_like(nan, x)), (np.full_like(nan, x), nan)):
                value = route(getattr(pl, name), t, p, reduction="none", **options)
                if name == "kl_divergence" and t[0] <= 0:  # a target of 0 costs nothing there, and negative ones are clipped to it
                    continue
                assert np.isnan(value).all(), (name, options, t[0], p[0], value)


def test_a_balance_of_0_hides_what_is_infinite():
    """As a class weight, `pos_weight` and `alpha` of 0 do in the other losses. NaN is seen."""
    loss = "binary_focal_crossentropy"
    for route, dtype, gamma in itertools.product(ROUTES, ("float32", "float64"), (0.0, 0.5, 2.0)):
        tiny = np.finfo(dtype).smallest_subnormal
        for logits, alpha, label, share in (
            (True, 0.0, 1.0, -np.inf),
            (True, 1.0, 0.0, np.inf),
            (False, 0.0, 1.0, 0.0),
            (False, 0.0, 1.0, tiny),
            (False, 1.0, 0.0, 1.0),
        ):
            options = {"apply_class_balancing": True, "alpha": alpha, "gamma": gamma, "from_logits": logits}
            options |= {} if logits else {"epsilon": 0.0}
            t, p, nan = (np.array([[x]], dtype) for x in (label, share, np.nan))
            value, slope = route(pl.value_and_grad(loss), t, p, **options)
            assert (value, slope) == (0, 0), (options, t, p)
            if not logits:
                assert route(pl.grad_and_hess(loss), t, p, **options)[1] == 0
            assert np.isnan(route(pl.grad(loss), t, nan, **options)).all()


def test_an_impossible_class_outweighs_what_overflows_beside_it():
    """-Σ t log p is infinite, and above any poly_epsilon (1 - Σ t p)."""
    for route in ROUTES:
        for t in ([np.finfo(float).max, 1.0], [1e308, 1.0], [1.0, 1.0]):
            assert route(pl.poly1_crossentropy, np.array([t]), np.array([[0.0, -np.inf]]), poly_epsilon=2.3) == np.inf


def test_the_slope_of_a_cosine_may_be_below_the_normal_numbers():
    """The slope is (cos p / |p| - t / |t|) / |p|, computed by hand for vectors at almost a right angle."""
    for route in ROUTES:
        for t, p, at, right in (
            ([0.0, 1.0], [1e154, 0.5], 0, 5e-309),
            ([25.0, 0.0], [1e154, 0.05], 1, 5e-310),
            ([0.0, 1.0], [700.0, 1e154], 0, 7e-306),
        ):
            slope = route(pl.grad("cosine_similarity"), np.array([t]), np.array([p]))[0, at]
            np.testing.assert_allclose(slope, right, rtol=1e-12, atol=1e-322)
            for n in (-900, -300, 300):  # of whatever length
                slope = route(pl.grad("cosine_similarity"), np.array([[1.0, 0.0]]), np.array([[2.0**n, 2.0**n]]))[0]
                np.testing.assert_allclose(slope * 2.0**n, [-(0.5**1.5), 0.5**1.5], rtol=1e-12)


def test_squared_errors_of_logarithms_have_slopes_by_targets_where_the_mean_overflows():
    t = torch.tensor([[1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    pl.tweedie_deviance(t, torch.tensor([[800.0, 0.0]], dtype=torch.float64), power=0.0, log_input=True, reduction="sum").backward()
    np.testing.assert_array_equal(t.grad, [[-np.inf, 1.0]])


def test_a_label_of_class_weight_0_is_skipped_whatever_its_own_weight():
    """A weight of NaN or infinity at its position enters no sum: the mean is that of the other positions."""
    t, k = np.array([0, 1, 1, 0]), np.array([0.0, 2.0])
    z = np.array([[0.0, 1.0], [2.0, 1.0], [np.inf, 0.0], [np.nan, 0.0]])
    for odd in (np.nan, np.inf):
        for library in ASKED:
            for dtype in ("float32", "float64"):
                options = dict(class_weight=library.array(k, dtype), sample_weight=library.array(np.array([odd, 1.5, 0.0, 1.0]), dtype))
                for route in ROUTES:
                    found = route(pl.value_and_grad("softmax_loss"), library.array(t), library.array(z, dtype), **options)
                    value, slope = map(library.numpy, found)
                    np.testing.assert_allclose(value, 1.3132616875182228, rtol=1e-6)
                    np.testing.assert_allclose(slope, [[0, 0], [0.731058578, -0.731058578], [0, 0], [0, 0]], rtol=1e-6)
        soft = np.eye(2)[t]
        for route in ROUTES:  # one-hot targets divide by the same sum
            _, slope = route(pl.value_and_grad("softmax_loss"), soft, z, class_weight=k, sample_weight=np.array([odd, 1.5, 0.0, 1.0]))
            np.testing.assert_allclose(slope[1:3], [[0.731058578, -0.731058578], [0, 0]], rtol=1e-6)


def test_a_weight_of_0_leaves_no_slope_by_the_target_though_it_is_infinite():
    """The derivative of a Tweedie deviance with respect to a target below the normal numbers, beside a large mean."""
    t = torch.tensor([[1e-45], [1.0]], requires_grad=True)
    p, weight = torch.tensor([[1.8e19], [2.0]]), torch.tensor([0.0, 1.0], requires_grad=True)
    pl.tweedie_deviance(t, p, power=1.9, sample_weight=weight, reduction="sum").backward()
    assert t.grad[0] == 0
    assert t.grad[1] < 0
    assert weight.grad[0] > 1000  # the loss itself, which the weight hides


def test_the_log_sum_counts_at_a_label_of_class_weight_0():
    """z_loss is not multiplied by the weights of classes: nothing of the row is skipped."""
    for library in ASKED:
        for route in ROUTES:
            z, k = library.array(np.array([[np.nan, 1.0], [0.0, 0.0]])), library.array(np.array([0.0, 1.0]))
            call = pl.value_and_grad("softmax_loss"), library.array(np.array([0, 0])), z
            value, slope = map(library.numpy, route(*call, class_weight=k, z_loss=2.0, reduction="none"))
            assert np.isnan(value[0])
            assert np.isnan(slope[0]).all()
            np.testing.assert_allclose(value[1], 2 * np.log(2) ** 2, rtol=1e-14)


@pytest.mark.parametrize("loss", ["softmax_loss", "categorical_crossentropy", "mean_squared_error", "dice"])
def test_weights_that_add_up_to_0_leave_no_slope_however_it_lies_in_memory(loss):
    """1 and -1, beside losses that are NaN: classes last, first, in between, and a part of a larger array, beside which nothing is written.

    Every call is made twice: a plan's later calls write to memory of their own or to `out` where it lies."""
    named = {"normalization": "valid"} if loss == "softmax_loss" else {"reduction": "mean"}
    for axis, shape in ((1, (4, 3)), (-1, (2, 3, 4)), (1, (2, 4, 3)), (0, (4, 6)), (1, (2, 4, 2, 3))):
        for dtype in ("float32", "float64"):
            p, t = np.full(shape, np.nan, dtype), np.ones(shape, dtype)
            weight = np.resize([1.0, -1.0], [n for i, n in enumerate(shape) if i != axis % len(shape)])
            whole = np.ones((*shape[:-1], 2 * shape[-1]), dtype)
            turned = np.moveaxis(np.ones(np.moveaxis(p, axis, -1).shape, dtype), -1, axis)
            for out in (None, np.ones(shape, dtype), whole[..., ::2], np.ones(shape[::-1], dtype).T, turned):
                for _ in range(2):
                    for laid in (p, np.asfortranarray(p)):
                        value, slope = pl.value_and_grad(loss)(t, laid, axis=axis, sample_weight=weight, out=out, **named)
                        assert value == 0
                        assert out is None or slope is out
                        assert (slope == 0).all(), (axis, shape, dtype)
                        slope[...] = 7.0
                slopes = pl.grad_and_hess(loss)(
                    t, p, axis=axis, sample_weight=weight, out=None if out is None else (out, np.ones_like(p)), **named
                )
                assert not any(x.any() for x in slopes)
            assert (whole[..., 1::2] == 1).all()


def test_an_infinite_weight_of_smoothed_labels_makes_an_infinite_loss():
    """Though what the smoothing adds may be negative."""
    t, p = np.array([0, 2]), np.array([[1, 2, 3], [0, 1, 5]])
    for dtype in ("float32", "float64"):
        for route in ROUTES:
            options = dict(sample_weight=np.array([np.inf, 1]), label_smoothing=0.1, reduction="none")
            losses = route(pl.softmax_loss, t, p.astype(dtype), **options)
            assert losses[0] == np.inf
            np.testing.assert_allclose(losses[1], np.log(1 + np.e + np.e**5) - 5 + 0.1 * 3, rtol=1e-6)


def test_a_bad_label_without_checks_leaves_nan_though_weights_add_up_to_0():
    """validate=False: its position has no loss and no slope."""
    t, p = np.array([0, 9, 2]), np.zeros((3, 4), np.float32)
    for route in ROUTES:
        _, slope = route(pl.value_and_grad("softmax_loss"), t, p, sample_weight=np.array([0.0, 1.0, 0.0]), validate=False)
        assert np.isnan(slope).all(1).tolist() == [False, True, False]


def test_a_weight_that_its_mean_makes_0_keeps_an_infinite_loss():
    """A weight of 1e-30 beside 1e30, divided by their sum, is 0 in float32; times an infinite loss that would be NaN."""
    t, p, w = (np.array(x, np.float32) for x in ([[1.0], [1.0]], [[0.0], [-3e38]], [1e30, 1e-30]))
    for library in ASKED:
        for route in ROUTES:
            for sign in (1, -1):
                weight = library.array(w * np.array([1, sign], np.float32))
                call = library.array(t), library.array(p)
                found = route(pl.value_and_grad("exponential"), *call, sample_weight=weight, reduction="mean", labels="pm1")
                value, slope = map(library.numpy, found)
                assert value == sign * np.inf
                np.testing.assert_allclose(slope, [[-1], [-sign * np.inf]], rtol=1e-6)


def test_an_infinite_divisor_hides_no_nan():
    """A slope that is NaN, divided by infinity, is NaN, and any other 0."""
    t, p = np.array([0, 1]), np.array([[np.nan, 0.5], [0.25, 0.75]], np.float32)
    for library in ASKED:
        call = library.array(t), library.array(p)
        for route in ROUTES:
            infinite = library.array(np.array(np.inf, np.float32))
            slope = library.numpy(route(pl.grad("softmax_loss"), *call, reduction="normalize", denominator=infinite))
            assert np.isnan(slope[0]).all(), (library.name, route)
            assert not slope[1].any(), (library.name, route)


def test_large_class_weights_beside_a_z_loss():
    """Which they do not multiply: of weights of 2^70 its part in a mean is 2^-70 of what it is by itself."""
    t, z, large = np.array([0, 1]), np.array([[1.0, 2.0], [0.5, 0.0]]), np.full(2, 2.0**70)
    for library in ASKED:
        for route in ROUTES:
            call = library.array(t), library.array(z)
            value, slope = route(pl.value_and_grad("softmax_loss"), *call, class_weight=library.array(large), z_loss=1.0)
            right = pl.value_and_grad("softmax_loss")(t, z)
            np.testing.assert_allclose(library.numpy(value), right[0], rtol=1e-12)
            np.testing.assert_allclose(library.numpy(slope), right[1], rtol=1e-12)


def test_beside_labels_the_weight_of_their_class_alone_counts():
    """That of a class without labels may be infinite, as N / (C * count) is, or NaN. At labels of its own it makes loss and slopes so."""
    t, z = np.array([0, 2, 1, 0]), np.array([[1.0, 2.0, 0.5], [0.0, 0.0, 2.0], [0.25, -1.0, 0.0], [3.0, 0.0, 1.0]])
    k, usual = np.array([1.0, np.inf, 2.0]), np.array([1.0, 7.0, 2.0])
    absent = np.array([True, True, False, True])
    for library in ASKED:
        for route, odd, options in itertools.product(ROUTES, (np.inf, np.nan), ({}, {"z_loss": 0.5}, {"softcap": 30.0})):
            weight = library.array(np.where(np.isinf(k), odd, k))
            results = []
            for rows, w in ((absent, weight), (absent, library.array(usual)), (slice(None), weight)):
                call = library.array(t[rows]), library.array(z[rows])
                value, slope = route(pl.value_and_grad("softmax_loss"), *call, class_weight=w, **options)
                _, curvature = route(pl.grad_and_hess("softmax_loss"), *call, class_weight=w, **options)
                results.append([library.numpy(x) for x in (value, slope, curvature)])
            for x, right in zip(*results[:2], strict=True):
                np.testing.assert_allclose(x, right, rtol=1e-14, err_msg=f"{library} {route}")
            _, slope, curvature = results[2]  # divided by infinity, or by NaN
            for x in (slope, curvature):
                assert np.isnan(x[2]).all()
                assert not x[absent].any() if odd == np.inf else np.isnan(x).all()
            for targets, smoothing, finite in ((t, 0.0, absent), (t, 0.1, False), (np.eye(3)[t], 0.0, False), (np.eye(3)[t], 0.1, False)):
                kwargs = {"class_weight": weight, "label_smoothing": smoothing, "reduction": "none"}
                losses = library.numpy(route(pl.softmax_loss, library.array(targets), library.array(z), **kwargs))
                np.testing.assert_array_equal(np.isfinite(losses), np.broadcast_to(finite, 4))


@pytest.mark.filterwarnings("error")
def test_sums_beyond_float32_are_infinite_in_silence_in_traced_programs():
    """Float labels are read in Python, not by XLA's own call of the kernel."""
    p, t = JAX.array(np.array([[0.0, 0.0, 0.0], [-3.0, -3.0, -3e38]], "float32")), JAX.array(np.array([2.0, 2.0]))
    value, _ = JAX.jax.vjp(lambda p: pl.multiclass_hinge(t, p, power=2.0, average=True, reduction="sum"), p)
    assert value == np.inf


def test_deviances_at_the_ends_of_the_range():
    """On every instruction set, and by formula, beside the deviance in 400 digits; infinite where that is beyond the largest number."""

    def deviance(t, p, power, log_input):
        t, m = mp.mpf(float(t)), mp.exp(mp.mpf(float(p))) if log_input else mp.mpf(float(p))
        a, b = 2 - mp.mpf(power), 1 - mp.mpf(power)
        return 2 * (m - t - t * mp.log(m / t)) if power == 1 else 2 * ((m**a - t**a) / a - t * (m**b - t**b) / b)

    def slope(t, p, power, log_input):
        t, p = mp.mpf(float(t)), mp.mpf(float(p))
        m = mp.exp(p) if log_input else p
        return 2 * (m - t) * m ** -mp.mpf(power) * (m if log_input else 1)

    def check(asked, right, dtype, power, log_input, t, p):
        row = np.array([[t]], dtype), np.array([[p]], dtype)
        with np.errstate(over="ignore"):
            expected = np.array(float(right(row[0][0, 0], row[1][0, 0], power, log_input)) if t != p else 0.0).astype(dtype)
        name, options = ("poisson_deviance", {}) if power == 1 else ("tweedie_deviance", {"power": power})
        for route in ROUTES:
            found = np.ravel(route(asked(name), *row, log_input=log_input, **options))
            rtol = 1e-4 if dtype == "float32" else 1e-12
            np.testing.assert_allclose(found, [expected], rtol=rtol, err_msg=f"{right.__name__} {dtype} {power} {t} {p}")

    values = [
        ("float64", 1.5, True, 1.7e308, 1000.0),
        ("float32", 1.5, True, 3.06e38, 104.0),
        *(("float64", 1.0, True, t, 1e4) for t in (4.5e307, 1.6e308)),
        *(("float32", 1.0, True, t, 1000.0) for t in (1e37, 3e38)),
        *(("float32", power, False, t, t) for power, t in ((-1.0, 1e13), (-50.0, 515.0), (3.0, 1e-39), (4.0, 1e-20), (2e38, 1.0))),
        *(("float32", 3.0, False, *pair) for pair in ((1e30, 2e19), (5.598e29, 3.353e29), (1e-19, 5e-20))),
        *(("float32", 2.5, False, *pair) for pair in ((8.5e37, 1e30), (1.78e-30, 7e-31))),
        ("float64", 3.0, False, 1e250, 2e160),
        *(("float32", power, False, 1.0, m) for power, m in ((-3.0, 1e10), (-0.5, 1e26))),
        ("float32", 2.5, True, 1.0, -300.0),
        ("float32", -0.5, False, 1e19, 1.0000001e19),
        ("float32", -3.0, False, 1e10, 1.0000001e10),
        ("float64", 0.0, True, 3.0, 709.7),
        ("float64", 0.0, True, 1e154, 355.18),
    ]
    slopes = [
        *(("float32", power, False, t, t) for power, t in ((3.0, 1e-20), (2.5, 1e-30), (-3.0, 1e15))),
        ("float32", 3.0, False, 1e-19, 7.1e-20),
        ("float64", 3.0, False, 1e-154, 1.0000000000000001e-154),
        *(("float32", 2.5, True, t, z) for t, z in ((1e-10, -69.08), (1.0, -300.0))),
        ("float64", 2.5, True, 1e-154, -690.8),
        *(("float32", 1.0, True, 3e38, 1000.0), ("float64", 1.0, True, 1.6e308, 1e4)),
    ]
    with mp.workdps(400):
        for case in values:
            check(lambda name: getattr(pl, name), deviance, *case)
        for case in slopes:
            check(pl.grad, slope, *case)
    for route in ROUTES:
        assert route(pl.poisson_deviance, np.array([[1e37]], "float32"), np.array([[np.inf]], "float32")) == np.inf
        for dtype, t, p in (("float32", 2.0, 1e19), ("float64", 0.5, 1.34e154), ("float32", 1.2e15, 1e15)):
            _, curvature = route(pl.grad_and_hess("tweedie_deviance"), np.array([[t]], dtype), np.array([[p]], dtype), power=-3.0)
            assert curvature == np.inf


def test_derivatives_of_deviances_far_from_1():
    """By the target, and twice by the prediction, on torch and JAX: no step on the way overflows or cancels. float32."""
    for t, p, power, right in (
        (1.78e20, 1.78e20, -0.5, 0.0),
        (1e10, 1.401e10, -0.5, -8.777e14),
        (5e-20, 5e-20, 1.0, 0.0),
        (5e-20, 6e-20, 1.0, -0.364643),
    ):
        target = torch.tensor([[t]], requires_grad=True)
        pl.tweedie_deviance(target, torch.tensor([[p]]), power=power).sum().backward()
        of_jax = JAX.jax.grad(lambda t, p=p, power=power: pl.tweedie_deviance(t, JAX.array(np.array([[p]], "float32")), power=power).sum())
        for found in (target.grad, of_jax(JAX.array(np.array([[t]], "float32")))):
            np.testing.assert_allclose(np.ravel(np.asarray(found)), [right], rtol=1e-3)
    for power, t, m in (
        (1.0, 1.0, 1e4),
        (1.0, 1.0, 1e8),
        (1.0, 1e-19, 1e-19),
        (1.5, 1.3e-17, 1e-17),
        (2.0, 1e-15, 1e-15),
        (2.5, 1e-11, 1e-11),
        (3.0, 1.3e-10, 1e-10),
    ):
        right = 2 * ((1 - power) * m**-power + power * t * m ** (-power - 1))
        x = torch.tensor([[m]], requires_grad=True)
        (first,) = torch.autograd.grad(pl.tweedie_deviance(torch.tensor([[t]]), x, power=power).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), x)
        given = JAX.array(np.array([[t]], "float32"))
        of_jax = JAX.jax.grad(JAX.jax.grad(lambda m, t=given, power=power: pl.tweedie_deviance(t, m.reshape(1, 1), power=power).sum()))
        for found in (second, of_jax(JAX.array(np.float32(m)))):
            np.testing.assert_allclose(np.ravel(np.asarray(found)), [right], rtol=1e-4, err_msg=f"{power} {t} {m}")


def test_a_huge_delta_leaves_the_pseudo_huber_loss_half_the_square():
    for route in ROUTES:
        d = np.array([[1e-7], [1e-5], [1e-3], [1.0]], "float32")
        found = route(pl.pseudo_huber, np.zeros_like(d), d, delta=1e38)
        np.testing.assert_allclose(found, 0.5 * d[:, 0].astype(float) ** 2, rtol=1e-6)


def test_the_sign_of_a_prediction_of_0_is_nothing_under_jit():
    """XLA leaves out what would make 0.0 of -0.0; a quotient by it has the other infinity."""
    t, jax = np.array([[0.75, 0.25, 0.0]]), JAX.jax
    for name, block in LOSSES.items():
        if block.targets in ("labels", "values"):
            continue
        loss, options = pl.get(name), {"epsilon": 0.0} if block.params.get("epsilon") is clip_bound else {}
        slopes = jax.jit(jax.grad(lambda t, p, loss=loss, o=options: loss(t, p, reduction="sum", **o), (0, 1)))
        above, below = ([np.asarray(x) for x in slopes(JAX.array(t), JAX.array(np.array([[zero, 0.5, 0.5]])))] for zero in (0.0, -0.0))
        for right, found in zip(above, below, strict=True):
            np.testing.assert_array_equal(found, right, err_msg=name)
