"""The laws that every loss keeps on every array library: one function a law.

A law takes a case (a loss with parameters and inputs, see oracle.py) and a library, and can be called with its own loss:
test_wrong_losses.py calls the laws with wrong losses, and each must be refused.
"""

import dataclasses
import json
import math
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from libraries import JAX, LAYOUTS, LIBRARIES, NUMPY, ROUTES, TORCH, formula, in_sight, kernel, kernel_on, np_dtype
from oracle import CASES, WEIGHTS, Case, truth, truth_of

import polyloss as pl
from polyloss._call import routes as _routes
from polyloss._core.block import LOSSES
from polyloss._kernels.cpu import driver

FLOATS = ("float64", "float32")
UNIT = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}  # half a unit in the last place of 1
LABELLED = [case for case in CASES if case.labelled]
WEIGHTED = (1.0, 0.0, 2.5, 0.25, 0.0, 3.0)  # of six samples

# The slow libraries are asked for one case of each kind of block; test_slope_is_the_truth asks them for all.
FEW = [
    next(case for case in CASES if repr(case) == name)
    for name in (
        "hinge-binary",
        "categorical_crossentropy-distribution-label_smoothing=0.1-epsilon=0.1",
        "sparse_categorical_crossentropy-labels-ignore_class=-1-epsilon=0.15",
        "softmax_loss-labels-ignore_label=3-class_weight",
    )
]


def over(cases, libraries=LIBRARIES, every=False):
    """Parametrise a law over cases and libraries."""
    pairs = [(lib, case) for lib in libraries for case in cases if every or lib.quick or case in FEW]
    return pytest.mark.parametrize(("lib", "case"), pairs, ids=[f"{lib}-{case}" for lib, case in pairs])


def dtypes(lib):
    """The floating dtypes that a law about arrays goes through."""
    return (*FLOATS, *lib.low) if lib.quick else ("float32",)


all_cases = pytest.mark.parametrize("case", CASES, ids=repr)


def arrays(case, lib, dtype="float64"):
    """A case's inputs as a library's arrays."""
    return tuple(map(lib.array, case.inputs(dtype)))


def agrees(lib, actual, expected, dtype="float64", units=16, rows=False, size=0.0):
    """Assert that an array is within some units of rounding of the truth: of its entry or 1, or of the largest of its row or `size`."""
    actual = lib.numpy(actual).astype(np.float64)
    expected = np.asarray(expected, np.float64)
    size = np.maximum(np.max(np.abs(expected), axis=-1, keepdims=True), size) if rows else np.maximum(np.abs(expected), 1)
    assert actual.shape == expected.shape
    wrong = ~(np.abs(actual - expected) <= units * UNIT[dtype] * size) & ~(np.isnan(actual) & np.isnan(expected)) & (actual != expected)
    assert not wrong.any(), (
        f"more than {units} units of {dtype} from the truth: {actual[wrong]} for {expected[wrong]} at {np.argwhere(wrong).tolist()}"
    )


def same(lib, actual, expected):
    """Assert the same numbers, bit for bit."""
    np.testing.assert_array_equal(lib.numpy(actual), expected)


# ------------------------------------------------------------------------------------------------------------- the numbers


@pytest.mark.parametrize("name", LOSSES)
def test_worked_examples(name, lib):
    block = LOSSES[name]
    assert block.worked, "every loss has an example by hand"
    for example in block.worked:
        params = {k: v for k, v in example.items() if k not in ("t", "p", "value", "slope")}
        t, p = np.atleast_1d(np.asarray(example["t"])), np.atleast_1d(np.asarray(example["p"], np.float64))
        p = p[None]
        t = t if t.dtype.kind == "i" else t[None]
        value, slope = Case(name, "", "").of(pl.value_and_grad(name), lib.array(t), lib.array(p), **params)
        agrees(lib, value, [example["value"]])
        agrees(lib, slope, [np.atleast_1d(example["slope"])])


@over(CASES)
def test_value_is_the_truth(case, lib):
    for dtype in FLOATS:
        agrees(lib, case.call(*arrays(case, lib, dtype)), truth(case, dtype).losses, dtype)


@over(CASES, every=True)
def test_slope_is_the_truth(case, lib):
    for dtype in FLOATS:
        value, slope = case.of(pl.value_and_grad(case.target), *arrays(case, lib, dtype))
        agrees(lib, value, truth(case, dtype).losses, dtype)
        agrees(lib, slope, truth(case, dtype).slope, dtype, rows=True)


@over(CASES)
def test_curvature_is_the_truth(case, lib):
    for dtype in FLOATS:
        slope, curvature = case.of(pl.grad_and_hess(case.target), *arrays(case, lib, dtype))
        agrees(lib, slope, truth(case, dtype).slope, dtype, rows=True)
        size = np.max(np.abs(truth(case, dtype).slope), axis=-1, keepdims=True)  # what cancels in it is about as large
        agrees(lib, curvature, truth(case, dtype).curvature, dtype, units=32, rows=True, size=size)


@over(CASES)
def test_low_precision_is_computed_in_float32(case, lib):
    """Losses have float32's error, gradients the same and one rounding more."""
    for dtype in lib.low:
        value, slope = case.of(pl.value_and_grad(case.target), *arrays(case, lib, dtype))
        assert (lib.dtype(value), lib.dtype(slope)) == ("float32", dtype)
        agrees(lib, value, truth(case, dtype).losses, "float32")
        right = truth(case, dtype).slope
        slope, least = lib.numpy(slope).astype(float), float(np.finfo("float16").smallest_subnormal) if dtype == "float16" else 0.0
        allowed = UNIT[dtype] * np.abs(right) + 8 * UNIT["float32"] * np.max(np.abs(right), axis=-1, keepdims=True) + least / 2
        assert (np.abs(slope - right) <= allowed).all()


@over(CASES)
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_slope_is_the_difference_quotient(case, lib, reduction):
    """The slope of the reduced, weighted loss in a random direction."""
    if case.loss == "softmax_loss" and reduction == "mean":
        reduction = "normalize"
    t, p = case.inputs()
    direction = np.random.default_rng(5).standard_normal(p.shape)
    kwargs = {"reduction": reduction, "sample_weight": lib.array(np.array(WEIGHTED))}
    h = 2.0**-20
    up, down = (float(lib.numpy(case.call(lib.array(t), lib.array(p + s * h * direction), **kwargs))) for s in (1, -1))
    slope = lib.numpy(case.of(pl.grad(case.target), lib.array(t), lib.array(p), **kwargs))
    assert np.sum(slope * direction) == pytest.approx((up - down) / (2 * h), rel=1e-6, abs=1e-6)


@all_cases
def test_curvature_is_the_difference_quotient_of_the_slope(case):
    t, p = case.inputs()
    h, weight = 2.0**-20, np.array(WEIGHTED)
    _, curvature = case.of(pl.grad_and_hess(case.target), t, p, sample_weight=weight, reduction="sum")
    for j in range(case.c):
        step = h * np.eye(case.c)[j]
        up, down = (case.of(pl.grad(case.target), t, p + s * step, sample_weight=weight, reduction="sum")[:, j] for s in (1, -1))
        np.testing.assert_allclose(curvature[:, j], (up - down) / (2 * h), rtol=1e-6, atol=1e-6)


# ------------------------------------------------------------------------------------------------------ autograd of the libraries


@all_cases
def test_torch_autograd_gives_the_slope_and_the_curvature(case):
    torch = TORCH.torch
    for weight in (None, TORCH.array(np.array(WEIGHTED))):
        t, p = arrays(case, TORCH)
        kwargs = {"sample_weight": weight, "reduction": "sum"}
        _, curvature = case.of(pl.grad_and_hess(case.target), t, p, **kwargs)
        p.requires_grad_()
        loss = case.call(t, p, **kwargs)
        (first,) = torch.autograd.grad(loss, p, create_graph=True)
        agrees(TORCH, first, truth(case).slope * (1 if weight is None else np.array(WEIGHTED)[:, None]), rows=True)
        if not first.requires_grad:  # a slope that is constant
            same(TORCH, curvature, np.zeros(p.shape))
            continue
        for j in range(case.c):
            (second,) = torch.autograd.grad(first[:, j].sum(), p, retain_graph=True, allow_unused=True)
            column = torch.zeros_like(p)[:, j]
            if second is not None:
                column += second[:, j]  # not read itself: it may be a ZeroTensor, which has no memory
            np.testing.assert_allclose(column.numpy(), curvature[:, j].numpy(), rtol=1e-12, atol=1e-13)


@all_cases
def test_jax_grad_gives_the_slope_and_the_curvature(case):
    jax, jnp = JAX.jax, JAX.jax.numpy
    t, p = arrays(case, JAX)
    weight = JAX.array(np.array(WEIGHTED))

    def loss(p):
        return case.call(t, p, sample_weight=weight, reduction="sum")

    _, curvature = case.of(pl.grad_and_hess(case.target), t, p, sample_weight=weight, reduction="sum")
    agrees(JAX, jax.jit(jax.grad(loss))(p), truth(case).slope * np.array(WEIGHTED)[:, None], rows=True)
    basis = jnp.stack([jnp.zeros_like(p).at[:, j].set(1.0) for j in range(case.c)])
    columns = jax.jit(jax.vmap(lambda v: jax.jvp(jax.grad(loss), (p,), (v,))[1]))(basis)
    diagonal = np.stack([columns[j][:, j] for j in range(case.c)], axis=1)
    np.testing.assert_allclose(diagonal, curvature, rtol=1e-12, atol=1e-13)


# ----------------------------------------------------------------------------------------------------------------- routes


@over(CASES, (NUMPY, TORCH))
def test_kernel_equals_formula(case, lib):
    """Values, slopes, curvatures, weighted and reduced, in every dtype."""
    for dtype in dtypes(lib):
        t, p = arrays(case, lib, dtype)
        for kwargs in ({}, {"sample_weight": lib.array(np.array(WEIGHTED)), "reduction": "sum"}):
            value, slope = case.of(pl.value_and_grad(case.target), t, p, **kwargs)
            _, curvature = case.of(pl.grad_and_hess(case.target), t, p, **kwargs)
            right, right_slope = formula(case.of, pl.value_and_grad(case.target), t, p, **kwargs)
            _, right_curvature = formula(case.of, pl.grad_and_hess(case.target), t, p, **kwargs)
            computed = "float64" if dtype == "float64" else "float32"
            agrees(lib, value, lib.numpy(right), computed)
            agrees(lib, slope, lib.numpy(right_slope), dtype, rows=True)
            size = np.max(np.abs(lib.numpy(right_slope).astype(float)), axis=-1, keepdims=True)  # what cancels in it is about as large
            agrees(lib, curvature, lib.numpy(right_curvature), dtype, units=32, rows=True, size=size)


@all_cases
def test_results_do_not_depend_on_the_number_of_threads(case):
    """Bit for bit, at a size where the work is divided."""
    t, p = case.inputs("float32")
    rng = np.random.default_rng(1)
    pick = rng.integers(0, case.n, 30011)
    t, p, weight = t[pick], p[pick], rng.uniform(0, 2, 30011).astype(np.float32)
    results = []
    for threads in (1, 2, 3, 7):
        pl.set_num_threads(threads)
        value, slope = case.of(pl.value_and_grad(case.target), t, p, sample_weight=weight, reduction="sum")
        losses, other = case.of(pl.value_and_grad(case.target), t, p)
        results.append((value.tobytes(), slope.tobytes(), losses.tobytes(), other.tobytes()))
    assert len(set(results)) == 1


def batch(case, n, c, dtype):
    """A case with other sizes, and its inputs; among hard binary targets a few soft rows, among those of sets large ones."""
    params = dict(case.params)
    if "class_weight" in params:
        params["class_weight"] = tuple(WEIGHTS[k % len(WEIGHTS)] for k in range(c))
    for key in ("alpha", "pos_weight"):
        if isinstance(params.get(key), tuple):
            params[key] = tuple(WEIGHTS[k % len(WEIGHTS)] for k in range(c))
    c = 2 if case.loss == "gaussian_nll" else c
    if isinstance(params.get("quantile"), tuple):
        params["quantile"] = tuple(np.linspace(0.1, 0.9, c).tolist())
    if case.loss in ("hinge", "squared_hinge"):  # "auto" looks at the whole batch
        params["labels"] = "pm1" if case.t == "signs" else "01"
    case = dataclasses.replace(case, n=n, c=c, params=params)
    t, p = case.inputs(dtype)
    if case.t == "binary" and "hinge" not in case.loss:
        t[::7] = t[::7] / 2 + np.array(0.25, t.dtype)
    if LOSSES[case.loss].sets:  # beyond 2 elements take another formula
        t[3::11, 5::7], t[4::13, 2::9] = 3, 255
    return case, t, p


@all_cases
def test_a_loss_does_not_depend_on_how_the_batch_is_cut(case):
    """Value and gradient of a position have the same bits alone, in a part and in the whole batch, whatever the axis, dtype and instruction
    set, by kernel and by formula. An exact sum over batches rests on it. 300 classes and 2500 elements take other loops than 10."""

    def check(call, lib, n, c, dtype):
        sized, t, p = batch(case, n, c, dtype)
        for axis in (-1, 0):
            turn = np.ascontiguousarray if axis else (lambda x: np.ascontiguousarray(np.swapaxes(x, 0, -1)))
            lay = lambda rows: lib.array(rows if rows.ndim == 1 else turn(rows))  # noqa: B023, E731
            kwargs = {"axis": axis}
            losses, slope = call(sized.of, pl.value_and_grad(sized.target), lay(t), lay(p), **kwargs)
            values = lib.numpy(call(sized.of, sized.target, lay(t), lay(p), **kwargs))
            losses, slope = lib.numpy(losses), turn(lib.numpy(slope))
            for part in (slice(0, 1), slice(n - 1, n), slice(1, 4), slice(n // 2, n)):
                own, own_slope = call(sized.of, pl.value_and_grad(sized.target), lay(t[part]), lay(p[part]), **kwargs)
                same(NUMPY, lib.numpy(own), losses[part])
                same(NUMPY, turn(lib.numpy(own_slope)), slope[part])
                same(NUMPY, lib.numpy(call(sized.of, sized.target, lay(t[part]), lay(p[part]), **kwargs)), values[part])

    for route in map(kernel_on, driver.isas()):
        for dtype in (*FLOATS, *NUMPY.low):
            check(route, NUMPY, 103, 10, dtype)
        for dtype in FLOATS:
            check(route, NUMPY, 69, 300, dtype)
            check(route, NUMPY, 11, 2500, dtype)
    for lib in (TORCH, JAX):
        check(kernel, lib, 23, 33, "float32")
    for dtype in FLOATS:
        check(formula, NUMPY, 41, 33, dtype)


@all_cases
def test_a_loss_does_not_depend_on_how_the_batch_lies_in_memory(case):
    """Value and gradient of a position have the same bits in C and Fortran order, in images whose channels come first, in a slice of those
    and in a contiguous copy of it. Of 10, 150 and 300 classes the loops are others; 1100 are more than are added at once."""
    rows, columns = 6, 11

    def check(sized, t, p):
        def bits(t, p, axis=-1):
            losses, slope = sized.of(pl.value_and_grad(sized.target), t, p, axis=axis)
            values = sized.of(sized.target, t, p, axis=axis)
            return losses, values, np.moveaxis(slope, axis, -1)

        def image(x):
            x = x.reshape(rows, columns, *x.shape[1:])
            return np.ascontiguousarray(np.moveaxis(x, -1, 1) if x.ndim > 2 else x)

        whole = bits(t, p)
        for part in (slice(None), slice(4, 5), slice(7, 30)):
            given = [np.asfortranarray(x)[part] for x in (t, p)]
            for arrays in (given, map(np.ascontiguousarray, given)):
                for got, want in zip(bits(*arrays), whole, strict=True):
                    same(NUMPY, got, want[part])
        if whole[0].shape != (len(p),) or case.loss == "gaussian_nll":
            return
        whole = [x.reshape(rows, columns, *x.shape[1:]) for x in whole]
        for n, s in ((slice(None), slice(None)), (slice(2, 3), slice(5, 6)), (slice(1, 5), slice(2, 9))):
            given = [image(x)[n, ..., s] for x in (t, p)]
            for arrays in (given, map(np.ascontiguousarray, given)):
                for got, want in zip(bits(*arrays, axis=1), whole, strict=True):
                    same(NUMPY, got, want[n, s])

    for route in map(kernel_on, driver.isas()):
        for dtype in (*FLOATS, "float16"):
            for c in (300,) if dtype == "float16" else (10, 150, 300, 1100):
                route(check, *batch(case, rows * columns, c, dtype))
    for dtype in FLOATS:
        formula(check, *batch(case, rows * columns, 33, dtype))


# ------------------------------------------------------------------------------------------------------- arrays in and out


@over(CASES)
def test_results_keep_library_dtype_device_and_shape(case, lib):
    for dtype in dtypes(lib):
        t, p = arrays(case, lib, dtype)
        computed = dtype if dtype in FLOATS else "float32"
        value, slope = case.of(pl.value_and_grad(case.target), t, p)
        total = case.call(t, p, reduction="sum")
        _, curvature = case.of(pl.grad_and_hess(case.target), t, p)
        for x, shape, kind in ((value, (case.n,), computed), (total, (), computed), (slope, p.shape, dtype), (curvature, p.shape, dtype)):
            assert lib.is_array(x)
            assert (lib.dtype(x), tuple(x.shape)) == (kind, tuple(shape))


@all_cases
def test_meta_tensors_give_meta_tensors(case):
    torch = TORCH.torch
    for dtype in (*FLOATS, *TORCH.low):
        t, p = (x.to("meta") for x in arrays(case, TORCH, dtype))
        computed = dtype if dtype in FLOATS else "float32"
        value, slope = case.of(pl.value_and_grad(case.target), t, p)
        total = case.call(t, p, reduction="sum", sample_weight=torch.ones(case.n, device="meta"))
        for x, shape, kind in ((value, (case.n,), computed), (total, (), computed), (slope, p.shape, dtype)):
            assert (x.device.type, tuple(x.shape), TORCH.dtype(x)) == ("meta", tuple(shape), kind)


@over(CASES)
def test_inputs_are_unchanged(case, lib):
    for dtype in dtypes(lib):
        originals = (*case.inputs(dtype), np.array(WEIGHTED))
        t, p, w = map(lib.array, originals)
        case.call(t, p)
        case.of(pl.value_and_grad(case.target), t, p)
        case.call(t, p, sample_weight=w)
        results = case.of(pl.value_and_grad(case.target), t, p, sample_weight=w, reduction="sum")
        case.of(pl.grad_and_hess(case.target), t, p, sample_weight=w)
        for x, before in zip((t, p, w), originals, strict=True):
            same(lib, x, before)
        if lib is NUMPY:
            assert not any(np.shares_memory(x, y) for x in results for y in (t, p, w))


@all_cases
def test_layout_does_not_matter(case, layout):
    for dtype in (*FLOATS, *NUMPY.low):
        t, p = case.inputs(dtype)
        w = np.array(WEIGHTED)
        right = case.of(pl.value_and_grad(case.target), t, p, sample_weight=w)
        laid = [layout(x) for x in (t, p, w)]
        value, slope = case.of(pl.value_and_grad(case.target), laid[0], laid[1], sample_weight=laid[2])
        agrees(NUMPY, value, right[0], dtype if dtype in FLOATS else "float32", units=4)
        agrees(NUMPY, slope, right[1].astype(float), dtype, units=4, rows=True)
        assert slope.dtype == p.dtype
        for x, before in zip(laid, (t, p, w), strict=True):
            np.testing.assert_array_equal(x, before)


@all_cases
def test_layout_of_tensors_does_not_matter(case):
    torch = TORCH.torch
    t, p = arrays(case, TORCH, "float32")
    right = case.of(pl.value_and_grad(case.target), t, p)
    for name, lay in {
        "transposed": lambda x: x.T.contiguous().T if x.ndim == 2 else x,
        "strided": lambda x: torch.stack([x, torch.full_like(x, 7)], dim=-1)[..., 0],
        "offset": lambda x: torch.cat([torch.full_like(x, 7), x])[len(x) :],
    }.items():
        value, slope = case.of(pl.value_and_grad(case.target), lay(t), lay(p))
        agrees(TORCH, value, right[0].numpy(), "float32", units=4)
        agrees(TORCH, slope, right[1].numpy(), "float32", units=4, rows=True), name


@over(CASES, (NUMPY, TORCH))
def test_later_calls_find_classes_that_lie_between_axes_of_positions(case, lib):
    """Of (N, C, H, W) that lies as (N, H, C, W), as attention's exchanged axes do: a plan's second call makes its outputs itself."""
    at = np.arange(12).reshape(2, 2, 3) % case.n
    t, p = (x[at] for x in case.inputs("float32"))
    t, p = ([x, x] if x.ndim == 3 else [np.moveaxis(x, -1, 1), np.ascontiguousarray(np.moveaxis(x, -1, 2)).swapaxes(1, 2)] for x in (t, p))
    straight, between = zip(t, p, strict=True)
    outputs = {} if lib is TORCH else {"out": lib.array(np.empty(p[0].shape, np.float32))}
    for ask, options in ((pl.value_and_grad, {}), (pl.grad_and_hess, {}), (pl.grad, outputs)):
        right = case.of(ask(case.target), *straight, axis=1)
        for _ in range(3):
            found = case.of(ask(case.target), *map(lib.array, between), axis=1, **options)
            for x, y in zip(*((x if isinstance(x, tuple) else (x,)) for x in (found, right)), strict=True):
                np.testing.assert_allclose(lib.numpy(x), y, rtol=1e-5, atol=1e-5 * np.abs(y).max())


@over(CASES, (NUMPY, TORCH))
def test_broadcast_views_are_taken(case, lib):
    """Stride 0, as `broadcast_to` and `expand` make it: one row stands for many."""
    t, p = case.inputs()
    many = (7, case.c)
    wide = [lib.array(x) for x in (t[:1] if case.bare else t[0], p[0])]
    expand = (lambda x, shape: x.expand(shape)) if lib is TORCH else np.broadcast_to
    value, slope = case.of(pl.value_and_grad(case.target), expand(wide[0], (7,) if case.bare else many), expand(wide[1], many))
    row_value, row_slope = case.of(pl.value_and_grad(case.target), lib.array(t[:1]), lib.array(p[:1]))
    agrees(lib, value, np.repeat(lib.numpy(row_value), 7), units=4)
    # A slope of probabilities is a difference of numbers up to 1, and one row may take another loop than seven.
    agrees(lib, slope, np.repeat(lib.numpy(row_slope), 7, axis=0), units=4, rows=True, size=1.0)


@over(CASES)
def test_any_axis_holds_the_classes(case, lib):
    t, p = case.inputs()
    right_value, right_slope = truth(case).losses, truth(case).slope
    t3, p3 = t.reshape((2, 3) if case.bare else (2, 3, case.c)), p.reshape(2, 3, case.c)
    for axis in (0, 1, 2, -1, -2, -3):
        moved_t = t3 if case.bare else np.moveaxis(t3, -1, axis)
        value, slope = case.of(pl.value_and_grad(case.target), lib.array(moved_t), lib.array(np.moveaxis(p3, -1, axis)), axis=axis)
        agrees(lib, value, right_value.reshape(2, 3))
        agrees(lib, slope, np.moveaxis(right_slope.reshape(p3.shape), -1, axis), rows=False)


@over(CASES)
def test_empty_batches(case, lib):
    t, p = case.inputs("float32")
    t, p = lib.array(t[:0]), lib.array(p[:0])
    losses, slope = case.of(pl.value_and_grad(case.target), t, p)
    assert (tuple(losses.shape), tuple(slope.shape), lib.dtype(losses)) == ((0,), (0, case.c), "float32")
    for reduction in LOSSES[case.loss].reductions if case.function is None else ("sum", "mean"):
        value, slope = case.of(pl.value_and_grad(case.target), t, p, reduction=reduction)
        assert tuple(slope.shape) == (0, case.c)
        if reduction != "none":
            same(lib, value, np.float32(0))


@pytest.mark.parametrize("name", [name for name, block in LOSSES.items() if block.combine])
def test_numbers_are_samples_of_one_element(name, lib):
    """0-d arrays, and Python numbers as NumPy's."""
    right = pl.get(name)(np.array([0.5]), np.array([0.75]))
    value, slope = pl.value_and_grad(name)(lib.array(np.array(0.5)), lib.array(np.array(0.75)))
    assert tuple(value.shape) == tuple(slope.shape) == ()
    agrees(lib, value, right, units=2)
    assert pl.get(name)(0.5, 0.75) == right
    assert pl.get(name)(0.5, 0.75, axis=0, reduction="mean") == right


@all_cases
def test_many_rows_sum_to_the_last_bit(case):
    """A sum of a hundred thousand float32 losses is right to float32's last bits, by every instruction set: it is not accumulated in
    float32, but for a few dozen of them."""
    t, p = case.inputs("float32")
    times = 20000
    many = np.repeat(t, times, 0), np.repeat(p, times, 0)

    def check():
        value, slope = case.of(pl.value_and_grad(case.target), *many, reduction="sum")
        exact = math.fsum(case.call(t, p).astype(float)) * times
        assert abs(float(value) - exact) <= 4 * UNIT["float32"] * max(abs(exact), times)
        np.testing.assert_allclose(slope[::times], case.of(pl.grad(case.target), t, p, reduction="sum"), rtol=1e-6, atol=1e-7)

    for route in map(kernel_on, driver.isas()):
        route(check)


# ---------------------------------------------------------------------------------------------------- reductions and weights


@over(CASES)
def test_reductions_are_consistent(case, lib):
    """Each reduction is its definition over the unreduced losses, and its gradient is that of the definition."""
    t, p = arrays(case, lib)
    losses, slope = truth(case).losses, truth(case).slope
    ignored = case.params.get("ignore_label", case.params.get("ignore_class"))
    kept = np.ones(case.n, bool) if ignored is None else case.inputs()[0] != ignored
    for weight in (None, np.array(WEIGHTED), np.zeros(case.n)):
        w = np.ones(case.n) if weight is None else weight
        divisors = {"none": 1.0, "sum": 1.0, "sum_over_batch_size": case.n, "mean": np.sum(w[kept]), None: 1.0,
                    "mean_with_sample_weight": np.sum(w[kept])}  # fmt: skip
        for reduction, divisor in divisors.items():
            if case.loss == "softmax_loss" and reduction not in ("none", "sum", None):
                continue
            value, gradient = case.of(pl.value_and_grad(case.target), t, p, sample_weight=lib.array(weight), reduction=reduction)
            scale = 1 / divisor if divisor else 0.0
            agrees(lib, value, w * losses if reduction in ("none", None) else np.sum(w * losses) * scale)
            agrees(lib, gradient, w[:, None] * slope * scale, rows=True)


@over(CASES)
def test_weight_shapes(case, lib):
    """A weight per sample, per leading axis, of length-1 axes, or with one length-1 axis more."""
    t, p = case.inputs()
    t, p = t.reshape((2, 3) if case.bare else (2, 3, case.c)), p.reshape(2, 3, case.c)
    losses = truth(case).losses.reshape(2, 3)
    weights = np.array([[1.0, 0.0, 2.5], [0.25, 0.0, 3.0]])
    for w in (weights, weights[:, 0], weights[:, :1], weights[:1], weights[:, :, None], weights[:1, :1], np.array(0.5)):
        full = w.reshape(2, 1) if w.shape == (2,) else w[:, :, 0] if w.ndim == 3 else w
        agrees(lib, case.call(lib.array(t), lib.array(p), sample_weight=lib.array(w)), full * losses)


def spoiled(case, dtype="float64"):
    """A case's inputs, with NaN and infinities where `WEIGHTED` is 0."""
    t, p = case.inputs(dtype)
    p[1], p[4, 0], p[4, 1:] = np.nan, np.inf, -np.inf
    if not case.labelled:
        t[1], t[4] = np.inf, np.nan
    return t, p


@over(CASES)
def test_weight_0_is_as_if_it_was_not_there(case, lib):
    """NaN and infinities behind it leak nowhere; it counts as a position all the same."""
    weight, kept = np.array(WEIGHTED), np.array(WEIGHTED) > 0
    for dtype in FLOATS if lib.quick else ("float64",):
        t, p = spoiled(case, dtype)
        clean_t, clean_p = case.inputs(dtype)
        reductions = ("sum", "none") if case.loss == "softmax_loss" else ("sum", "mean", "sum_over_batch_size", "none")
        for reduction in reductions:
            value, slope = case.of(
                pl.value_and_grad(case.target), lib.array(t), lib.array(p), sample_weight=lib.array(weight), reduction=reduction
            )
            right, right_slope = case.of(
                pl.value_and_grad(case.target), lib.array(clean_t[kept]), lib.array(clean_p[kept]), sample_weight=lib.array(weight[kept]),
                reduction="sum" if reduction == "sum_over_batch_size" else reduction)  # fmt: skip
            right, right_slope = lib.numpy(right), lib.numpy(right_slope)
            if reduction == "sum_over_batch_size":
                right, right_slope = right / case.n, right_slope / case.n
            value = lib.numpy(value)
            if reduction == "none":
                same(NUMPY, value[~kept], np.zeros(2))
                value = value[kept]
            agrees(NUMPY, value, right, dtype)
            same(NUMPY, lib.numpy(slope)[~kept], np.zeros((2, case.c)))
            agrees(NUMPY, lib.numpy(slope)[kept], right_slope, dtype, rows=True)
            _, curvature = case.of(
                pl.grad_and_hess(case.target), lib.array(t), lib.array(p), sample_weight=lib.array(weight), reduction=reduction
            )
            same(NUMPY, lib.numpy(curvature)[~kept], np.zeros((2, case.c)))
            assert np.isfinite(lib.numpy(curvature)).all()


def routes_of(lib):
    """By kernel and by formula, where the library has kernels."""
    return ROUTES if lib.kernels else (formula,)


def mean_of(case):
    """The reduction that divides by the sum of the weights."""
    return "normalize" if case.loss == "softmax_loss" else "mean"


@over(CASES, (NUMPY, TORCH))
def test_a_mean_does_not_depend_on_the_scale_of_the_weights(case, lib):
    """Weights near either end of their dtype, where their sum overflows, or its reciprocal does: Σ wl / Σ w is what it is for w near 1."""
    kept = np.array(WEIGHTED) > 0
    for dtype, exponents in lib.scales.items():
        t, p = arrays(case, lib, dtype)
        weight = np.where(kept, 2.0 + np.arange(case.n) % 2, 0)  # 2 and 3: exact as the smallest numbers, too
        right = case.of(pl.value_and_grad(case.target), *case.inputs(), sample_weight=weight, reduction=mean_of(case))
        if dtype == "float32":
            right = case.of(pl.value_and_grad(case.target), *(x.astype(float) if x.dtype.kind == "f" else x for x in case.inputs(dtype)),
                            sample_weight=weight, reduction=mean_of(case))  # fmt: skip
        for exponent in (0, *exponents):
            w = lib.array(np.ldexp(weight, exponent), dtype)
            for route in routes_of(lib):
                value, slope = route(case.of, pl.value_and_grad(case.target), t, p, sample_weight=w, reduction=mean_of(case))
                agrees(lib, value, right[0], dtype)
                agrees(lib, slope, right[1], dtype, rows=True, size=np.max(np.abs(right[1])))
                same(NUMPY, lib.numpy(slope)[~kept], np.zeros((2, case.c)))
                agrees(lib, route(case.call, t, p, sample_weight=w, reduction=mean_of(case)), right[0], dtype)


@over([case for case in CASES if case.loss == "softmax_loss"], (NUMPY, TORCH, JAX), every=True)
def test_denominators_of_any_size(case, lib):
    """A denominator is not rounded to the loss's dtype: it may be a number of another one, without a reciprocal in this."""
    for dtype, denominators in (("float64", (1e-310, 1e-300, 1e300)), ("float32", (1e-60, 1e-42, 1e-20, 1e20, 1e60))):
        t, p = case.inputs(dtype)
        exact = case.of(pl.value_and_grad(case.target), t.astype(float) if t.dtype.kind == "f" else t, p.astype(float), reduction="sum")
        for denominator in denominators:
            with np.errstate(over="ignore"):
                value, slope = (np.asarray(x / denominator).astype(dtype) for x in exact)
            tiny = float(np.finfo(dtype).smallest_subnormal)
            for divisor in (denominator, lib.array(np.array(denominator)) if lib is not JAX else denominator):
                for route in routes_of(lib):
                    kwargs = {"denominator": divisor, "reduction": "normalize"}
                    found = route(case.of, pl.value_and_grad(case.target), lib.array(t), lib.array(p), **kwargs)
                    digits = UNIT[dtype] * np.abs(exact[1]).max() / denominator  # of the terms of a slope, which may cancel
                    for x, right in zip(map(lib.numpy, found), (value, slope), strict=True):
                        np.testing.assert_allclose(x, right, rtol=64 * UNIT[dtype], atol=4 * max(tiny, digits))
                        np.testing.assert_array_equal(x == 0, right == 0) if denominator < 1 else None


@over(CASES)
def test_weight_0_beside_a_weight_of_nan_gives_no_gradient(case, lib):
    """A weight of NaN makes the mean and the other gradients NaN; that of a position of weight 0 stays 0."""
    weight = np.array(WEIGHTED)
    weight[2] = np.nan
    t, p = arrays(case, lib)
    for route in routes_of(lib):
        for reduction in ("sum", mean_of(case)):
            _, slope = route(case.of, pl.value_and_grad(case.target), t, p, sample_weight=lib.array(weight), reduction=reduction)
            _, curvature = route(case.of, pl.grad_and_hess(case.target), t, p, sample_weight=lib.array(weight), reduction=reduction)
            for x in (slope, curvature):
                same(NUMPY, lib.numpy(x)[weight == 0], np.zeros((2, case.c)))


@over(CASES, (NUMPY, TORCH, JAX), every=True)
@pytest.mark.filterwarnings("error")
def test_numbers_that_are_none_pass_in_silence(case, lib):
    """No warning of NumPy's: not for NaN and infinities among predictions, targets and weights, nor for what float32 cannot hold."""
    huge = np.array([1e300, 1.0, 0.0, -1e300, np.inf, np.nan])
    for dtype in ("float32", "float64"):
        t, p = spoiled(case, dtype)
        clean_t, clean_p = case.inputs(dtype)
        wide = clean_t if case.labelled else clean_t.astype(float) * 1e300
        calls = ((t, p, None), (t, p, np.array(WEIGHTED)), (clean_t, clean_p, huge), (wide, clean_p, None))
        for targets, predictions, weight in calls:
            inputs = lib.array(targets), lib.array(predictions)
            for route in routes_of(lib):
                for reduction in ("none", "sum", mean_of(case)):
                    for function in (case.target, pl.value_and_grad(case.target)):
                        lib_compute(lib, route(case.of, function, *inputs, sample_weight=lib.array(weight), reduction=reduction))


@all_cases
def test_weight_0_leaks_nothing_into_autograd(case):
    t, p = spoiled(case)
    kept = np.array(WEIGHTED) > 0
    right = case.of(pl.grad(case.target), *case.inputs(), sample_weight=np.array(WEIGHTED), reduction="sum")
    tensor = TORCH.array(p).requires_grad_()
    case.call(TORCH.array(t), tensor, sample_weight=TORCH.array(np.array(WEIGHTED)), reduction="sum").backward()
    slope = JAX.jax.grad(lambda p: case.call(JAX.array(t), p, sample_weight=JAX.array(np.array(WEIGHTED)), reduction="sum"))(JAX.array(p))
    for x in (tensor.grad.numpy(), np.asarray(slope)):
        same(NUMPY, x[~kept], np.zeros((2, case.c)))
        agrees(NUMPY, x, right, rows=True)


@over(CASES)
def test_nan_goes_through_and_stays_in_its_row(case, lib):
    t, p = case.inputs()
    if case.labelled:
        t[2] = 0
    j = 0 if case.bare else int(np.argmax(t[2] != 0))  # a target of 0 may cost nothing, whatever is predicted
    p[2, j] = np.nan
    value, slope = case.of(pl.value_and_grad(case.target), lib.array(t), lib.array(p))
    assert list(np.isnan(lib.numpy(value))) == [k == 2 for k in range(case.n)]
    nan = np.isnan(lib.numpy(slope))
    assert nan[2, j]
    assert not nan[[0, 1, 3, 4, 5]].any()


@over(CASES, (NUMPY, TORCH, JAX))
def test_a_loss_that_is_nan_has_slopes_that_are(case, lib):
    """NaN or infinity among the predictions, also beside targets of 0; on torch with respect to the target, too."""
    for spoil in (np.nan, np.inf):
        for target in (None, 0):
            t, p = case.inputs()
            if case.labelled or target == 0:
                t[2] = 0
            p[2, 0] = spoil
            for route in routes_of(lib):
                value, slope = route(case.of, pl.value_and_grad(case.target), lib.array(t), lib.array(p))
                if np.isnan(lib.numpy(value)[2]):
                    assert np.isnan(lib.numpy(slope)[2, 0]), (spoil, target, route)
            if lib is TORCH and not case.labelled:
                y_true = lib.array(t.astype(float)).requires_grad_()
                value = case.call(y_true, lib.array(p))
                value.sum().backward()
                if value[2].isnan() and case.loss != "mean_squared_logarithmic_error":  # a target of 0 is clipped there
                    assert y_true.grad[2].reshape(-1)[0].isnan(), (spoil, target)


@over(CASES, (NUMPY, TORCH, JAX))
def test_a_weight_that_its_mean_makes_0_hides_no_nan(case, lib):
    """A weight of 1e-37 beside 1e30, divided by their sum, is 0 in float32; NaN and infinite slopes stay what they are all the same."""
    for spoil in (np.nan, np.inf):
        t, p = case.inputs("float32")
        if case.labelled:
            t[2] = 0
        p[2] = spoil
        weight = np.full(case.n, 1e30, np.float32)
        weight[2] = 1e-37  # a normal number: XLA and the kernels for CUDA take what is below for 0
        for route in routes_of(lib):
            kwargs = {"sample_weight": lib.array(weight), "reduction": mean_of(case)}
            _, slope = route(case.of, pl.value_and_grad(case.target), lib.array(t), lib.array(p), **kwargs)
            slope, plain = lib.numpy(slope), lib.numpy(route(case.of, pl.grad(case.target), lib.array(t), lib.array(p)))
            assert spoil == np.inf or np.isnan(slope[2]).any(), route
            assert not np.isfinite(slope[2][~np.isfinite(plain[2])]).any(), (spoil, route)
            assert np.isfinite(slope[2][np.isfinite(plain[2])]).all(), (spoil, route)
            assert not np.isnan(slope[[0, 1, 3, 4, 5]]).any(), route


@over(CASES, (NUMPY, TORCH, JAX))
def test_an_infinite_sum_of_weights_hides_no_nan(case, lib):
    """Slopes are divided by infinity: those that are NaN stay so, those of the infinite weight become so, and any other is 0."""
    t, p = case.inputs("float32")
    if case.labelled:
        t[:] = 0
    p[2], weight = np.nan, np.array([1.0, 0.0, 1.0, np.inf, 2.0, 1.0], np.float32)
    for route in routes_of(lib):
        kwargs = {"sample_weight": lib.array(weight), "reduction": mean_of(case)}
        value, slope = route(case.of, pl.value_and_grad(case.target), lib.array(t), lib.array(p), **kwargs)
        slope, plain = lib.numpy(slope), lib.numpy(route(case.of, pl.grad(case.target), lib.array(t), lib.array(p)))
        assert np.isnan(lib.numpy(value)), route
        same(NUMPY, np.isnan(slope), np.isnan(plain) | (weight == np.inf)[:, None])
        assert not slope[~np.isnan(slope)].any(), route


STEEP = [  # targets and predictions with slopes of 1e5 and more in the first position
    ("mean_squared_error", [[0.0, 0.0], [1.0, 1.0]], [[1e19, 3e12], [2.0, 3.0]], {}),
    ("squared_hinge", [[1.0, -1.0], [1.0, 1.0]], [[-1e15, 1e14], [2.0, 0.5]], {}),
    ("categorical_crossentropy", [[1.0, 0.0], [0.0, 1.0]], [[3e-6, 0.9], [0.5, 0.5]], {}),
    ("sparse_categorical_crossentropy", [0, 1], [[3e-6, 0.9], [0.5, 0.5]], {}),
    ("multiclass_hinge", [0, 1], [[-1e9, 1e10, 0.0], [0.5, 0.5, 0.5]], {"power": 2}),
    ("generalized_crossentropy", [0, 1], [[1e-9, 0.9], [0.5, 0.5]], {}),
    ("cosine_similarity", [[1.0, 2.0], [3.0, 1.0]], [[2e-9, 1e-9], [0.5, 0.5]], {}),
    ("gaussian_nll", [1e6, 1.0], [[2.0, 0.1], [1.0, 2.0]], {}),
    ("poly1_crossentropy", [[2e8, 1e7], [0.0, 1.0]], [[2.0, 1.0], [1.0, 2.0]], {}),
    ("softmax_loss", [[2e8, 1e7], [0.0, 1.0]], [[2.0, 1.0], [1.0, 2.0]], {"reduction": "normalize"}),
]


@pytest.mark.parametrize(("loss", "t", "p", "params"), STEEP, ids=[x[0] for x in STEEP])
@pytest.mark.parametrize("lib", [NUMPY, TORCH], ids=("numpy", "torch"))
def test_slopes_keep_their_digits_where_weight_by_divisor_does_not(lib, loss, t, p, params):
    """A weight that is a number of the dtype, by a divisor: the quotient alone is below the normal numbers, or none."""
    params = {"reduction": "mean"} | params
    for dtype, small, large in (("float32", 3e-38, 1e3), ("float32", 2e-38, 3e5), ("float64", 3e-308, 1e3), ("float64", 1e-307, 1e5)):
        y = np.array(t, np.int64 if isinstance(t[0], int) else dtype)
        weight = np.array([small, large], dtype)
        counts = y.sum(axis=1) if loss == "softmax_loss" else 1  # of whose targets the sum of weights is made
        total = np.sum(weight.astype(np.float64) * counts)
        target, given = getattr(pl, loss), (lib.array(y), lib.array(np.array(p, dtype)))
        for route in routes_of(lib):
            slope = lib.numpy(route(pl.grad(target), *given, sample_weight=lib.array(weight), **params))
            plain = lib.numpy(route(pl.grad(target), *given, **params | {"reduction": "sum"}))
            right = plain.astype(np.longdouble) * weight[:, None] / total
            held = np.abs(right) > 1e3 * np.finfo(dtype).smallest_subnormal
            off = np.abs(slope - right)[held]
            assert held[0].any(), (route, dtype)
            few_digits = 1e-3 * (np.abs(right[held]) < np.finfo(dtype).tiny)
            assert (off <= (16 * np.finfo(dtype).eps + few_digits) * np.abs(right[held])).all(), (route, dtype, slope, right)


@over(CASES, (NUMPY, TORCH, JAX))
def test_where_the_weights_add_up_to_0_a_mean_has_no_slopes(case, lib):
    """Slopes are 0 even where the loss is NaN."""
    t, p = case.inputs()
    if case.labelled:
        t[:] = 0
    p[2] = np.nan
    for route in routes_of(lib):
        weight = lib.array(np.array([0.0, 0.0, 1.0, 0.0, 0.0, -1.0]))
        kwargs = {"sample_weight": weight, "reduction": mean_of(case)}
        if case.loss == "softmax_loss":  # whose weights may count differently, by class
            kwargs = {"denominator": lib.array(np.array(0.0)), "reduction": "normalize"}
        value, slope = route(case.of, pl.value_and_grad(case.target), lib.array(t), lib.array(p), **kwargs)
        _, curvature = route(case.of, pl.grad_and_hess(case.target), lib.array(t), lib.array(p), **kwargs)
        assert float(value) == 0, route
        for x in (slope, curvature):
            same(NUMPY, lib.numpy(x), np.zeros((case.n, case.c)))


# ----------------------------------------------------------------------------------------------------------------- labels


@over(LABELLED)
def test_bad_labels_raise_and_the_first_is_named(case, lib):
    t, p = case.inputs()
    for value in (-3, case.c, 300, 2**40):
        bad = t.copy()
        bad[[2, 3]] = value, 10**6
        for function in (case.target, pl.value_and_grad(case.target), pl.grad(case.target)):
            first = re.escape(f"y_true[2] is {value}, but ")
            if lib.lazy:  # blocks are computed in any order
                first += "|" + re.escape("y_true[3] is 1000000, but ")
            with pytest.raises(ValueError, match=first):
                lib_compute(lib, case.of(function, lib.array(bad), lib.array(p), reduction="sum"))


def lib_compute(lib, results):
    for x in results if isinstance(results, tuple) else (results,):
        lib.numpy(x)


@over(LABELLED)
def test_every_label_dtype(case, lib):
    """Signed, unsigned, floating; in the shape of the losses, with a length-1 axis at the classes' or at the end."""
    t, p = case.inputs()
    right_value, right_slope = truth(case).losses, truth(case).slope
    ignored = case.params.get("ignore_label", case.params.get("ignore_class"))
    signed = ("int8", "int16", "int32", "int64")
    for dtype in (*signed, *lib.unsigned, "float32", "float64", *lib.low):
        if ignored is not None and float(np.array(ignored).astype(np_dtype(dtype), casting="unsafe")) != ignored:
            t = np.where(t == ignored, 0, t)  # the dtype has no such value: then nothing is ignored
            right = truth_of(case.loss, t, p, **case.params)
            right_value, right_slope = right.losses, right.slope
        labels = t.astype(np_dtype(dtype))
        for y in (labels, labels[:, None]):
            value, slope = case.of(pl.value_and_grad(case.target), lib.array(y), lib.array(p))
            agrees(lib, value, right_value)
            agrees(lib, slope, right_slope, rows=True)
        t, _ = case.inputs()
        right_value, right_slope = truth(case).losses, truth(case).slope


@over(LABELLED)
def test_labels_are_compared_as_integers(case, lib):
    """uint8(255) is not -1, uint8(44) is not 300, int8(-1) is not 255: a label is never wrapped to a class or an ignored value."""
    if "ignore_label" not in case.params and "ignore_class" not in case.params:
        return
    name = "ignore_label" if case.loss == "softmax_loss" else "ignore_class"
    p = case.inputs()[1]
    for dtype, label, ignored in (("uint8", 255, -1), ("uint8", 44, 300), ("int8", -1, 255), ("uint64", 2**64 - 1, -1),
                                  ("int64", -1, 2**64 - 1), ("uint16", 2**16 - 1, -1), ("uint32", 2**32 - 5, -5)):  # fmt: skip
        y = np.zeros(case.n, dtype)
        y[4] = label
        with pytest.raises(ValueError, match=re.escape(f"y_true[4] is {label}, but ")):
            lib_compute(lib, case.call(lib.array(y), lib.array(p), **{name: ignored}))
        value = lib.numpy(case.call(lib.array(y), lib.array(p), **{name: (ignored, label)}))
        assert list(value == 0) == [k == 4 for k in range(case.n)]


@over(LABELLED)
def test_float_labels_must_be_whole(case, lib):
    t, p = case.inputs()
    t = t.astype(np.float32)
    t[3] = 1.5
    with pytest.raises(TypeError, match=re.escape("y_true[3] is 1.5, but labels must be whole numbers")):
        lib_compute(lib, case.call(lib.array(t), lib.array(p)))


@over(LABELLED)
def test_without_validation_a_bad_label_makes_its_position_nan(case, lib):
    t, p = case.inputs()
    t[2], t[5] = case.c, -7
    value, slope = case.of(pl.value_and_grad(case.target), lib.array(t), lib.array(p), validate=False)
    bad = np.isin(np.arange(case.n), (2, 5))
    same(NUMPY, np.isnan(lib.numpy(value)), bad)
    same(NUMPY, np.isnan(lib.numpy(slope)), np.repeat(bad[:, None], case.c, 1))


@over(CASES)
def test_a_second_call_with_other_targets_is_right(case, lib):
    t, p = case.inputs()
    for order in (np.arange(case.n), np.arange(case.n)[::-1], np.roll(np.arange(case.n), 2)):
        value, slope = case.of(pl.value_and_grad(case.target), lib.array(t[order]), lib.array(p[order]))
        agrees(lib, value, truth(case).losses[order])
        agrees(lib, slope, truth(case).slope[order], rows=True)


# ------------------------------------------------------------------------------------------------------------ out=, explain


@over(CASES)
def test_out_receives_the_gradient(case, lib):
    for dtype in dtypes(lib):
        t, p = arrays(case, lib, dtype)
        out, other = lib.array(np.full(p.shape, 77.0), dtype), lib.array(np.full(p.shape, 77.0), dtype)
        if not lib.writable:
            with pytest.raises(TypeError, match=f"out is given, but arrays of {lib.name} cannot be written to"):
                case.of(pl.grad(case.target), t, p, out=out)
            return
        right = lib.numpy(case.of(pl.grad(case.target), t, p))
        right_slope, right_hessian = (lib.numpy(x) for x in case.of(pl.grad_and_hess(case.target), t, p))
        assert case.of(pl.grad(case.target), t, p, out=out) is out
        same(lib, out, right)
        out[...] = 77.0
        _, received = case.of(pl.value_and_grad(case.target), t, p, out=out)
        assert received is out
        same(lib, out, right)
        received = case.of(pl.grad_and_hess(case.target), t, p, out=(other, out))
        assert received[0] is other
        assert received[1] is out
        same(lib, other, right_slope)
        same(lib, out, right_hessian)


@all_cases
def test_out_may_have_any_layout(case, layout):
    if layout.__name__ == "read_only":
        return  # refused: test_errors.py
    t, p = case.inputs("float32")
    out = layout(np.full(p.shape, 77, np.float32))
    case.of(pl.grad(case.target), t, p, out=out)
    agrees(NUMPY, out, case.of(pl.grad(case.target), t, p), "float32", units=4, rows=True)


@over(CASES)
def test_explain_never_evaluates(case, lib, monkeypatch):
    def forbidden(plan, arrays):
        raise AssertionError("explain evaluated the loss")

    t, p = case.inputs()
    if case.labelled:
        t[0] = 10**6  # nor does it look at labels
    said = case.of(lambda t, p, **kwargs: pl.explain(case.loss, t, p, **kwargs), lib.array(t), lib.array(p))
    route, _ = max(((r.name, i) for i, r in enumerate(_routes.ROUTES) if r.name == said.route), default=(None, 0))
    assert said.route == route
    in_sight(monkeypatch)
    monkeypatch.setattr(_routes, "ROUTES", tuple(dataclasses.replace(r, run=forbidden) for r in _routes.ROUTES))
    assert case.of(lambda t, p, **kwargs: pl.explain(case.loss, t, p, **kwargs), lib.array(t), lib.array(p)) == said
    with pytest.raises(AssertionError, match="explain evaluated"):
        lib_compute(lib, case.call(lib.array(np.zeros_like(t)), lib.array(p)))


# ------------------------------------------------------------------------------------------------------------------- peers


def keras_arguments(case):
    """A case for Keras' function of the same name; None where Keras has no such parameter or clips elsewhere."""
    params = dict(case.params)
    own = case.loss in NOT_OF_KERAS or not {"labels", "log_input", "pos_weight"}.isdisjoint(params)
    return None if params.pop("epsilon", 1e-7) != 1e-7 or own else params | ({"axis": -1} if LOSSES[case.loss].sets else {})


NOT_OF_KERAS = (
    "softmax_loss", "poly1_crossentropy", "smooth_l1", "pseudo_huber", "quantile_loss", "poisson_deviance", "gamma_deviance",
    "tweedie_deviance", "exponential", "logistic", "brier", "multiclass_hinge", "gaussian_nll", "jaccard",
)  # fmt: skip


KERAS = [case for case in CASES if keras_arguments(case) is not None]
KERAS_CALLS = """
import json, sys
import numpy as np, keras
given, results = np.load(sys.argv[1]), {}
for k, (loss, arguments) in enumerate(json.loads(sys.argv[2])):
    t, p = map(keras.ops.convert_to_tensor, (given[f"t{k}"], given[f"p{k}"]))
    results[f"v{k}"] = keras.ops.convert_to_numpy(getattr(keras.losses, loss)(t, p, **arguments))
np.savez(sys.argv[3], **results)
"""


@pytest.mark.parametrize("backend", ["numpy", "jax", "torch"])
def test_values_are_those_of_keras(backend, tmp_path):
    """Keras 3 with each backend, within float32's error of it (its own formulas cancel more than ours)."""
    inputs = {f"{name}{k}": x for k, case in enumerate(KERAS) for name, x in zip("tp", case.inputs("float32"), strict=True)}
    np.savez(tmp_path / "given.npz", **inputs)
    names = {"generalized_crossentropy": "categorical_generalized_cross_entropy"}
    calls = json.dumps([(names.get(case.loss, case.loss), keras_arguments(case)) for case in KERAS])
    command = [sys.executable, "-c", KERAS_CALLS, str(tmp_path / "given.npz"), calls, str(tmp_path / "results.npz")]
    environment = {**os.environ, "KERAS_BACKEND": backend}
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "results.npz") as results:
        for k, case in enumerate(KERAS):
            ours = case.call(*case.inputs("float32"))
            np.testing.assert_allclose(ours, results[f"v{k}"], rtol=3e-5, atol=3e-6, err_msg=repr(case))


def test_values_are_those_of_torch():
    f = TORCH.torch.nn.functional
    by_case = {
        "mean_squared_error-real": lambda t, p: f.mse_loss(p, t, reduction="none").mean(1),
        "mean_absolute_error-real": lambda t, p: f.l1_loss(p, t, reduction="none").mean(1),
        "huber-real-delta=0.3": lambda t, p: f.huber_loss(p, t, reduction="none", delta=0.3).mean(1),
        "binary_crossentropy-binary": lambda t, p: f.binary_cross_entropy(p, t, reduction="none").mean(1),
        "binary_crossentropy-probabilities-from_logits=True": lambda t, p: f.binary_cross_entropy_with_logits(
            p, t, reduction="none").mean(1),
        f"binary_crossentropy-probabilities-pos_weight={WEIGHTS}-from_logits=True": lambda t, p: f.binary_cross_entropy_with_logits(
            p, t, pos_weight=TORCH.array(np.array(WEIGHTS)), reduction="none").mean(1),
        "kl_divergence-distribution": lambda t, p: f.kl_div(p.log(), t, reduction="none").sum(1),
        "cosine_similarity-real": lambda t, p: -f.cosine_similarity(p, t, dim=1),
        "poisson-positive": lambda t, p: f.poisson_nll_loss(p, t, log_input=False, eps=1e-7, reduction="none").mean(1),
        "softmax_loss-labels": lambda t, p: f.cross_entropy(p, t, reduction="none"),
        "softmax_loss-labels-ignore_label=255-label_smoothing=0.1": lambda t, p: f.cross_entropy(
            p, t, reduction="none", ignore_index=255, label_smoothing=0.1),
        "softmax_loss-labels-ignore_label=3-class_weight": lambda t, p: f.cross_entropy(
            p, t, reduction="none", ignore_index=3, weight=TORCH.array(np.array(WEIGHTS))),
        "softmax_loss-distribution-class_weight-label_smoothing=0.1": lambda t, p: f.cross_entropy(
            p, t, reduction="none", weight=TORCH.array(np.array(WEIGHTS)), label_smoothing=0.1),
        "categorical_crossentropy-distribution-from_logits=True-label_smoothing=0.1": lambda t, p: f.cross_entropy(
            p, t, reduction="none", label_smoothing=0.1),
        "sparse_categorical_crossentropy-labels": lambda t, p: f.nll_loss((p / p.sum(1, keepdim=True)).log(), t, reduction="none"),
        "smooth_l1-real-beta=0.75": lambda t, p: f.smooth_l1_loss(p, t, reduction="none", beta=0.75).mean(1),
        "poisson-positive-log_input=True-full=True": lambda t, p: f.poisson_nll_loss(p, t, full=True, reduction="none").mean(1),
        "multiclass_hinge-labels-margin=0.75-power=2-average=True": lambda t, p: f.multi_margin_loss(
            p, t, p=2, margin=0.75, reduction="none"),
        "gaussian_nll-values": lambda t, p: f.gaussian_nll_loss(p[:, 0], t, p[:, 1].exp(), reduction="none"),
        "logistic-binary-labels=01": lambda t, p: f.soft_margin_loss(p, 2 * t - 1, reduction="none").mean(1),
    }  # fmt: skip
    for case in CASES:
        if repr(case) in by_case:
            t, p = arrays(case, TORCH)
            agrees(TORCH, case.call(t, p), by_case.pop(repr(case))(t, p).numpy(), units=64)
    assert not by_case


def test_values_are_those_of_optax():
    import optax

    by_case = {
        "mean_squared_error-real": lambda t, p: optax.squared_error(p, t).mean(1),
        "huber-real-delta=0.3": lambda t, p: optax.huber_loss(p, t, delta=0.3).mean(1),
        "log_cosh-real": lambda t, p: optax.log_cosh(p, t).mean(1),
        "hinge-signs": lambda t, p: optax.hinge_loss(p, t).mean(1),
        "cosine_similarity-real": lambda t, p: -optax.cosine_similarity(p, t),
        "kl_divergence-distribution": lambda t, p: optax.kl_divergence(np.log(p), t),
        "binary_crossentropy-probabilities-from_logits=True": lambda t, p: optax.sigmoid_binary_cross_entropy(p, t).mean(1),
        "softmax_loss-labels": lambda t, p: optax.softmax_cross_entropy_with_integer_labels(p, t),
        "categorical_crossentropy-distribution-from_logits=True-label_smoothing=0.1": lambda t, p: optax.softmax_cross_entropy(
            p, optax.smooth_labels(t, 0.1)),
    }  # fmt: skip
    for case in CASES:
        if repr(case) in by_case:
            t, p = case.inputs()
            agrees(NUMPY, case.call(t, p), np.asarray(by_case.pop(repr(case))(JAX.array(t), JAX.array(p))), units=64)
    assert not by_case


def test_values_are_those_of_scikit_learn():
    from sklearn import metrics
    from sklearn._loss.loss import ExponentialLoss

    t, p = CASES[0].inputs()
    weight = np.array(WEIGHTED)
    for name, theirs in (("mse", metrics.mean_squared_error), ("mae", metrics.mean_absolute_error)):
        ours = pl.get(name)(t, p, sample_weight=weight, reduction="mean")
        assert ours == pytest.approx(theirs(t, p, sample_weight=weight), rel=1e-14)
    t, p = np.abs(t), np.abs(p)
    for name, theirs, factor in (("msle", metrics.mean_squared_log_error, 1), ("mape", metrics.mean_absolute_percentage_error, 100)):
        ours = pl.get(name)(t, p, sample_weight=weight, reduction="mean")
        assert ours == pytest.approx(factor * theirs(t, p, sample_weight=weight), rel=1e-6)  # it has other epsilons
    signs = np.array([1, -1, 1, 1, -1, -1])
    assert pl.hinge(signs[:, None], p[:, :1], reduction="mean") == pytest.approx(metrics.hinge_loss(signs, p[:, 0]), rel=1e-14)
    deviances = (("poisson_deviance", {}), ("gamma_deviance", {}), *(("tweedie_deviance", {"power": n}) for n in (-1.5, 0, 1, 1.25, 2, 3)))
    for name, params in deviances:
        right = getattr(metrics, f"mean_{name}")(t.ravel(), p.ravel(), sample_weight=np.repeat(weight, 5), **params)
        for means, form in ((p, {}), (np.log(p), {"log_input": True})):
            ours = pl.get(name)(t, means, sample_weight=weight, reduction="mean", **params, **form)
            assert ours == pytest.approx(right, rel=1e-12), (name, params, form)
    right = metrics.mean_pinball_loss(t, p, sample_weight=weight, alpha=0.125)
    assert pl.quantile_loss(t, p, sample_weight=weight, reduction="mean", quantile=0.125) == pytest.approx(right, rel=1e-14)
    right = ExponentialLoss().loss((signs + 1.0) / 2, np.array(p[:, 0]))
    np.testing.assert_allclose(pl.exponential(signs[:, None], p[:, :1]), right, rtol=1e-14)
    y, z = rng_labels()
    right = metrics.hinge_loss(y, z, labels=range(4), sample_weight=weight)
    assert pl.multiclass_hinge(y, z, sample_weight=weight, reduction="mean") == pytest.approx(right, rel=1e-14)
    e = np.exp(z)
    right = metrics.brier_score_loss(y, e / e.sum(axis=1, keepdims=True), labels=range(4), sample_weight=weight)
    for targets in (y, np.eye(4)[y]):
        ours = pl.brier(targets, e / e.sum(axis=1, keepdims=True), sample_weight=weight, reduction="mean")
        assert ours == pytest.approx(right, rel=1e-14)
    ours = pl.softmax_loss(y, z, sample_weight=weight)
    assert ours == pytest.approx(metrics.log_loss(y, e / e.sum(axis=1, keepdims=True), sample_weight=weight, labels=range(4)), rel=1e-13)


def test_values_are_those_of_xgboost():
    import xgboost

    case = next(case for case in CASES if case.loss == "pseudo_huber")
    t, p = case.inputs("float32")
    data = xgboost.DMatrix(np.zeros((t.size, 1)), t.ravel(), base_margin=p.ravel())
    booster = xgboost.train({"objective": "reg:pseudohubererror", "huber_slope": case.params["delta"], "eval_metric": "mphe"}, data, 0)
    assert case.call(t, p, reduction="mean") == pytest.approx(float(booster.eval(data).rpartition(":")[2]), rel=1e-6)


def test_pseudo_huber_of_small_and_large_errors():
    """XGBoost's way gives 0 for errors of 1e-6, the textbook's infinity for those of 3e25."""
    for dtype in FLOATS:
        p = np.array([[1e-6], [1e-3], [0.5], [1.0], [3.0], [1e4], [3e25]], dtype)
        for delta in (1e-3, 1.0, 1e6):
            right = truth_of("pseudo_huber", np.zeros_like(p), p, dtype, derivatives=False, delta=float(np.dtype(dtype).type(delta))).losses
            for route in ROUTES:
                np.testing.assert_allclose(route(pl.pseudo_huber, np.zeros_like(p), p, delta=delta), right, rtol=8 * UNIT[dtype], atol=0)


def rng_labels():
    rng = np.random.default_rng(3)
    return rng.integers(0, 4, 6), rng.standard_normal((6, 4))


# ------------------------------------------------------------------------------------------------------------ domain edges

EDGES = {  # loss (and parameters): targets and predictions of one row each, at the edges of the domain
    "mean_squared_error": ([0.0, 1e30, 1.0], [1e-160, 1e30, 1.0 + 2.0**-52]),
    "mean_absolute_error": ([0.0, -1e300], [0.0, 1e300]),
    "mean_absolute_percentage_error": ([1e-9, -3.0], [1.0, -3.0 - 1e-12]),
    "mean_squared_logarithmic_error": ([0.0, 1.0, -5.0, 1e300, 1.0], [1e-9, 1.0 + 1e-12, -7.0, 1.0, 1e300]),
    "hinge": ([1.0, -1.0, 1.0], [1e300, 1e300, -1e-300]),
    "squared_hinge": ([1.0, -1.0], [1e100, -1e-300]),
    "categorical_hinge": ([0.0, 1.0, 0.0], [1e200, -1e200, 3.0]),
    "binary_crossentropy": ([1.0, 0.0, 0.3, 1.0, 0.0, 1.0], [0.0, 1.0, 0.5, 1.0, 0.0, 1e-5]),
    "binary_crossentropy from_logits": ([1.0, 0.0, 0.3, 1.0, 0.0, 1.0], [-700.0, 700.0, 1e-9, 40.0, -40.0, 1e5]),
    "binary_crossentropy pos_weight": ([1.0, 0.0, 0.3, 1.0, 0.0, 1.0], [0.0, 1.0, 0.5, 1.0, 0.0, 1e-5]),
    "binary_crossentropy pos_weight from_logits": ([1.0, 0.0, 0.3, 1.0, 0.0, 1.0], [-700.0, 700.0, 1e-9, 40.0, -40.0, 1e5]),
    "categorical_crossentropy": ([1.0, 0.0, 0.0], [1e-30, 5.0, 1e-3]),
    "categorical_crossentropy from_logits": ([1.0, 0.0, 0.0], [40.0, 0.0, -900.0]),
    "sparse_categorical_crossentropy": (1, [1e-30, 1e30, 1e-3]),
    "sparse_categorical_crossentropy from_logits": (0, [60.0, 1.0, 1.5]),
    "kl_divergence": ([0.0, 1.0, 2.0, 1e-300], [0.0, 1e-12, 1.0, 3.0]),
    "cosine_similarity": ([1e200, 1e-200], [1e-200, 1e-200]),
    "huber": ([0.0, 0.0, 0.0, 0.0], [1.0, -1.0, 1e-200, 1e300]),
    "log_cosh": ([0.0, 0.0, 0.0, 1.0], [1e-6, 1e4, -20.0, 1.0 + 1e-9]),
    "poisson": ([0.0, 2.0, 1.0], [0.0, 0.0, 1e30]),
    "binary_focal_crossentropy": ([1.0, 0.0, 1.0], [0.0, 1.0, 1e-3]),
    "binary_focal_crossentropy from_logits": ([1.0, 0.0, 1.0], [30.0, 800.0, -800.0]),
    "categorical_focal_crossentropy": ([1.0, 0.0], [1e-30, 1.0]),
    "categorical_focal_crossentropy from_logits": ([1.0, 0.0], [30.0, 0.0]),
    "poly1_crossentropy": (0, [45.0, 0.0, 1.0]),
    "softmax_loss": (0, [36.5, 0.0, -1e5, 1.0]),
    "smooth_l1": ([0.0, 0.0, 0.0, 0.0], [1.0, -1e-100, 1e300, 0.5]),
    "pseudo_huber": ([0.0, 0.0, 0.0, 1.0], [1e-6, 1e300, -1.0, 1.0 + 1e-9]),
    "quantile_loss": ([0.0, 3.0, -1e300], [0.0, 1.0, 1e300]),
    "poisson_deviance": ([0.0, 2.0, 1e200, 1.0, 1e-300, 1.0], [3.0, 2.0 + 1e-9, 1e-100, 1e300, 1e100, 1.375]),
    "gamma_deviance": ([2.0, 1e50, 1e-300, 1.0, 1.0], [2.0 + 1e-9, 1e-50, 1e100, 0.7, 1e9]),
    "tweedie_deviance": ([0.0, 1.0, 4.0, 1e-200, 3.0], [2.0, 1.0 + 1e-9, 1e-100, 1e100, 1.75]),
    "exponential": ([1.0, -1.0, 1.0], [-700.0, 1e-20, 700.0]),
    "logistic": ([1.0, -1.0, 1.0, -1.0], [-1e5, 40.0, 700.0, -1e-9]),
    "brier": ([1.0, 0.0], [1.0 - 1e-12, 1e-160]),
    "multiclass_hinge": (1, [1e200, -1e200, 3.0]),
    "generalized_crossentropy": (0, [1e-30, 0.5]),
    "dice": ([1.0, 0.0, 1.0], [1.0 - 1e-9, 1e-12, 1.0]),
    "jaccard": ([0.0, 0.0], [0.0, 0.0]),
    "tversky": ([1.0, 0.0, 0.5], [1e-100, 0.5, 1.0]),
}


@pytest.mark.parametrize("name", EDGES)
def test_domain_edges(name):
    """Element by element where elements stand alone: the right value to 8 units, by kernel and formula; nothing overflows on the way."""
    loss, *words = name.split()
    params = {key: value for key, value in (("pos_weight", 2.5), ("from_logits", True)) if key in words}
    block = LOSSES[loss]
    t, p = EDGES[name]
    t = np.array([t]) if isinstance(t, int) else np.array(t)[:, None] if block.combine else np.array([t])
    p = np.array(p)[:, None] if block.combine else np.array([p])
    if block.scan_targets:
        params["labels"] = "pm1"
    case = Case(loss, "labels" if t.dtype.kind == "i" else "", "", params)
    right = truth_of(loss, t, p, derivatives=False, **params).losses
    for route in ROUTES:
        with np.errstate(over="ignore"):
            value, slope = route(case.of, pl.value_and_grad(loss), t, p)
        assert np.isfinite(slope).all() or loss in ("mean_absolute_percentage_error",)
        np.testing.assert_allclose(value, right, rtol=8 * UNIT["float64"], atol=0, err_msg=str(route))


def test_slopes_at_kinks_and_clips():
    """Where the derivative jumps: 0 at |0|, one-sided at huber's delta, 0 where Keras clips, the first of equal classes in a hinge."""
    slope = lambda loss, t, p, **params: pl.grad(loss)(np.array([[t]]), np.array([[p]]), **params).item()  # noqa: E731
    assert slope("mae", 1.0, 1.0) == 0
    assert slope("mape", 2.0, 2.0) == 0
    assert slope("huber", 0.0, 1.0) == 1
    assert slope("huber", 0.0, -3.0, delta=2.0) == -2
    assert slope("hinge", 1.0, 1.0, labels="pm1") == 0
    assert slope("squared_hinge", 1.0, 1.0, labels="pm1") == 0
    assert slope("bce", 1.0, 0.0) == 0
    assert slope("bce", 0.0, 1.0) == 0
    assert slope("bce", 1.0, 1e-7) == pytest.approx(-1e7)
    assert slope("kld", 0.5, 0.0) == 0
    assert slope("kld", 0.5, 2.0) == 0
    assert slope("kld", 0.0, 0.5) == 0
    assert slope("msle", 1.0, -1.0) == 0
    assert slope("poisson", 0.0, 0.0) == 1
    assert slope("quantile_loss", 2.0, 2.0, quantile=0.9) == 0
    assert slope("smooth_l1", 0.0, -1.0) == -1
    assert [slope("smooth_l1", 1.0, p, beta=0.0) for p in (0.0, 1.0, 2.0)] == [-1, 0, 1]
    assert slope("poisson_deviance", 0.0, 0.0) == 2
    ties = pl.grad("categorical_hinge")(np.array([[1.0, 0.0, 0.0]]), np.array([[0.0, 2.0, 2.0]]))
    np.testing.assert_array_equal(ties, [[-1.0, 1.0, 0.0]])
    np.testing.assert_array_equal(pl.grad("cosine")(np.zeros((1, 2)), np.ones((1, 2))), [[0.0, 0.0]])


# ------------------------------------------------------------------------------------------------------- anything at random


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_call_is_its_rows_one_at_a_time(data):
    """Shape, axis, layout, dtype, weights, reduction and route drawn together, against one call in float64 for each row."""
    case = data.draw(st.sampled_from([case for case in CASES if case.loss != "softmax_loss"]), label="case")  # test_softmax.py has its own
    before = data.draw(st.lists(st.integers(0, 3), max_size=2), label="before")
    after = data.draw(st.lists(st.integers(1, 3), max_size=2), label="after")
    dtype = data.draw(st.sampled_from(["float64", "float32", "float16", "bfloat16"]), label="dtype")
    lay = data.draw(st.sampled_from(LAYOUTS), label="layout")
    reduction = data.draw(st.sampled_from(["none", "sum", "mean", "sum_over_batch_size"]), label="reduction")
    weighted = data.draw(st.booleans(), label="weighted")
    axis = len(before) - data.draw(st.sampled_from([0, len(before) + 1 + len(after)]), label="axis from the end")
    places = (*before, *after)
    t, p = case.inputs(dtype)
    pick = np.random.default_rng(data.draw(st.integers(0, 9), label="seed")).integers(0, case.n, places)
    rows_t, rows_p = t[pick], p[pick]
    w = np.random.default_rng(0).choice([0.0, 0.5, 2.0], places) if weighted else np.ones(places)
    exact_t = t if case.labelled else t.astype(np.float64)
    kwargs = {"labels": "pm1" if case.t == "signs" else "01"} if case.params.get("labels") == "auto" or (
        LOSSES[case.loss].scan_targets and "labels" not in case.params) else {}  # fmt: skip
    row_losses = np.array([case.call(exact_t[k : k + 1], p[k : k + 1].astype(np.float64), **kwargs)[0] for k in range(case.n)])
    row_slopes = np.array([case.of(pl.grad(case.target), exact_t[k : k + 1], p[k : k + 1].astype(np.float64), **kwargs)[0]
                           for k in range(case.n)])  # fmt: skip
    losses = np.asarray(w * row_losses[pick])
    ignored = case.params.get("ignore_class")
    counted = w * ((rows_t != ignored) if ignored is not None and case.labelled else 1)
    divisor = {"none": 1, "sum": 1, "mean": np.sum(counted), "sum_over_batch_size": max(losses.size, 1)}[reduction]
    scale = 1 / divisor if divisor else 0.0
    right = losses if reduction == "none" else np.sum(losses) * scale
    right_slope = np.moveaxis(np.asarray(w)[..., None] * row_slopes[pick] * scale, -1, len(before))
    given_t = rows_t if case.bare else np.moveaxis(rows_t, -1, len(before))
    given_p = np.moveaxis(rows_p, -1, len(before))
    route = data.draw(st.sampled_from(ROUTES), label="route")
    value, slope = route(case.of, pl.value_and_grad(case.target), lay(np.asarray(given_t)), lay(given_p), axis=axis, reduction=reduction,
                        sample_weight=lay(np.asarray(w)) if weighted else None, **kwargs)  # fmt: skip
    unit = {"float64": 1e-13, "float32": 3e-6, "float16": 2.0**-10, "bfloat16": 2.0**-7}[dtype]
    near = 1e-13 if dtype == "float64" else 3e-6
    assert slope.dtype == p.dtype
    np.testing.assert_allclose(value, right, rtol=near, atol=near * 10)
    np.testing.assert_allclose(slope.astype(float), right_slope, rtol=unit, atol=near * max(1.0, np.max(np.abs(right_slope), initial=0)))
