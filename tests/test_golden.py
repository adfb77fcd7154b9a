"""Pinned results: numbers that users compare from version to version, see golden/pinned_calls.py. None of them changes unnoticed.

They hold to a few units in the last place on every instruction set, library and route.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from libraries import JAX, NUMPY, TORCH, formula, kernel, kernel_on, np_dtype

import polyloss as pl
from polyloss._core.block import LOSSES
from polyloss._kernels.cpu import driver

FOLDER = Path(__file__).parent / "golden"
sys.path.insert(0, str(FOLDER))
from pinned_calls import EDGES, METRICS, inputs, pinned_cases  # noqa: E402

PINNED = json.loads((FOLDER / "pinned.json").read_text())
UNIT = {"float64": 2.0**-53, "float32": 2.0**-24, "bfloat16": 2.0**-8}  # half a unit in the last place of 1


def every_route():
    """(what computes, library, route): each instruction set, formulas, tensors, JAX arrays."""
    for isa in driver.isas():
        yield isa, NUMPY, kernel_on(isa)
    for lib in (TORCH, JAX):
        yield repr(lib), lib, kernel
    yield "formula", NUMPY, formula


def numbers(x):
    return np.array(x, float)  # "nan" and "inf" are numbers to it


def unchanged(name, what, by, found, pinned, dtype, units):
    """Assert that a result is within units of the pinned one: of its entry, or of the largest of its row."""
    found, pinned = np.asarray(found).astype(float), numbers(pinned)
    with np.errstate(invalid="ignore"):
        finite = np.where(np.isfinite(pinned), np.abs(pinned), 0)
        size = np.max(finite, axis=-1, keepdims=True, initial=0) if pinned.ndim else finite
        near = np.abs(found - pinned) <= units * UNIT[dtype] * size
    same = found.shape == pinned.shape and ((found == pinned) | (np.isnan(found) & np.isnan(pinned)) | near).all()
    assert same, (
        f"the {what} of {name!r} by {by} is {found.tolist()}, pinned is {pinned.tolist()} ({PINNED[name][0]}). If that is meant,"
        " it is a change for users: a line in CHANGELOG.md, and `python tests/golden/pin.py`"
    )


def test_every_loss_is_pinned():
    names = {*pinned_cases(), *EDGES, *(f"log_loss: {name}" for name in METRICS)}
    assert names == set(PINNED), "run `python tests/golden/pin.py`"
    assert {case.loss for case, _ in pinned_cases().values()} == set(LOSSES)


@pytest.mark.parametrize("loss", LOSSES)
def test_pinned_results(loss):
    for by, lib, route in every_route():
        for name, (case, dtype) in pinned_cases().items():
            if case.loss != loss or (dtype == "bfloat16" and lib is NUMPY and route is formula):
                continue
            t, p = inputs(case, dtype)
            value, slope = (lib.numpy(x) for x in route(case.of, pl.value_and_grad(case.target), lib.array(t), lib.array(p)))
            computed = "float64" if dtype == "float64" else "float32"
            unchanged(name, "loss", by, value, PINNED[name][1], computed, 16)
            unchanged(name, "gradient", by, slope, PINNED[name][2], dtype, 16 if dtype == computed else 2)


@pytest.mark.parametrize("name", EDGES)
def test_pinned_edges(name):
    edge = EDGES[name]
    arrays = {key: value for key, value in edge.options.items() if key in ("sample_weight", "class_weight")}
    reduced = {"reduction": "none"} if edge.loss != "softmax_loss" else {}
    for by, lib, route in every_route():
        t = np.asarray(edge.t)
        t = t.astype(np_dtype(edge.dtype)) if t.dtype.kind == "f" else t
        p = np.asarray(edge.p).astype(np_dtype(edge.dtype))
        computed = "float32" if edge.dtype in ("float32", "bfloat16") else "float64"
        options = {**reduced, **edge.options, **{key: lib.array(np.array(value)) for key, value in arrays.items()}}
        if edge.dtype == "uint8" and lib is TORCH:
            computed = "float32"  # torch's default
        if edge.slope is None:
            value = route(pl.get(edge.loss), lib.array(t), lib.array(p), **options)
        else:
            value, slope = route(pl.value_and_grad(edge.loss), lib.array(t), lib.array(p), **options)
            unchanged(name, "gradient", by, lib.numpy(slope), PINNED[name][2], computed, 16)
        unchanged(name, "value", by, lib.numpy(value), PINNED[name][1], computed, 16)


@pytest.mark.parametrize("name", METRICS)
def test_pinned_metric(name):
    _, arguments, options, _ = METRICS[name]
    found = pl.log_loss(*arguments, **options)
    unchanged(f"log_loss: {name}", "score", "the metric", found, PINNED[f"log_loss: {name}"][1], "float64", 4)
