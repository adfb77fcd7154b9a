"""The laws of tests/test_laws.py, each over every loss, for arrays of a GPU: every answer comes from a kernel, never from the formula."""

import dataclasses
import functools
import inspect
import os
import re

import libraries
import numpy as np
import pytest
import stand_in
import test_edges
import test_laws
from cpu_module import RawModule
from oracle import CASES

import polyloss as pl
from polyloss._call import routes as _routes
from polyloss._core.block import LOSSES
from polyloss._kernels.gpu import cuda


class OnGpu(libraries.Library):
    """CuPy's arrays, or the stand-in's."""

    name = "stand-in on the shim"
    low = ("float16",)  # as CuPy has
    scales = {"float64": (1000, -1000), "float32": (126, -124)}  # sums are in float64; a float32 below 1.2e-38 counts as 0

    def make(self, x):
        return stand_in.asarray(x)

    def numpy(self, x):
        return stand_in.host(x)

    def is_array(self, x):
        return isinstance(x, stand_in.Array)


GPU = OnGpu()
TAKEN = ("case", "lib", "name", "reduction", "monkeypatch")
# Left out are views that only NumPy and torch make, and a second comparison with the formula: here all results are held against the truth.
ELSEWHERE = ("test_broadcast_views_are_taken", "test_kernel_equals_formula")
LAWS = {
    name: law
    for name, law in vars(test_laws).items()
    if name.startswith("test_") and "lib" in (asked := inspect.signature(law).parameters) and set(asked) <= set(TAKEN)
    and name not in ELSEWHERE
}  # fmt: skip


def held(loss, t, p, **params):
    """Whether a GPU has a kernel for such a call: `explain` says which kernel of the CPU does, and most have their like on a GPU."""
    return pl.explain(loss, t, p, **params).route + " for CUDA" in [route.name for route in _routes.ROUTES]


def example(name):
    """The first worked example of a loss as the arguments of a call."""
    given = {k: v for k, v in LOSSES[name].worked[0].items() if k not in ("value", "slope")}
    t, p = np.atleast_1d(np.asarray(given.pop("t"))), np.atleast_1d(np.asarray(given.pop("p"), np.float64))[None]
    return name, t if t.dtype.kind == "i" or LOSSES[name].targets == "values" else t[None], p, given


KERNELS = [case for case in CASES if case.of(functools.partial(held, case.loss), *case.inputs())]
NAMES = [name for name, *arrays, given in map(example, LOSSES) if held(name, *arrays, **given)]


def calls(law):
    """What a law is asked for: every case that it has elsewhere, or every loss, under each reduction that it names."""
    over = {mark.args[0]: mark.args[1] for mark in law.pytestmark if mark.name == "parametrize"}
    of_case = ("lib", "case") in over
    known = {case for _, case in over[("lib", "case")]} if of_case else set(over["name"])
    named = [subject for subject in (KERNELS if of_case else NAMES) if subject in known]
    for subject in named:
        for reduction in over.get("reduction", (None,)):
            key = "case" if ("lib", "case") in over else "name"
            yield {key: subject, **({"reduction": reduction} if reduction else {})}


CALLS = [pytest.param(law, call, id="-".join([name[5:], *map(str, call.values())])) for name, law in LAWS.items() for call in calls(law)]

EDGES = (  # tests of NumPy, torch and JAX, of weights
    test_edges.test_a_label_of_class_weight_0_is_skipped_whatever_its_own_weight,
    test_edges.test_the_log_sum_counts_at_a_label_of_class_weight_0,
    test_edges.test_a_weight_that_its_mean_makes_0_keeps_an_infinite_loss,
    test_edges.test_an_infinite_divisor_hides_no_nan,
    test_edges.test_beside_labels_the_weight_of_their_class_alone_counts,
    test_edges.test_large_class_weights_beside_a_z_loss,
)


class Together:
    """A module with the kernels of all losses for one that is asked for: g++ reads the headers once."""

    def __init__(self, *, code, options, name_expressions):
        (self.name,) = name_expressions
        self.module = _built(code, options, _together(self.name))

    def get_function(self, name):
        return self.module.get_function(name)


def _together(name):
    for losses in (cuda.formulas(), cuda.formulas("formulas/rowwise.h")):
        loss = re.search(r",(\w+)", name)
        if loss and loss[1] in losses:
            return tuple(name.replace(loss[0], f",{other}") for other in losses)
    return (name,)


@functools.cache
def _built(code, options, names):
    return RawModule(code=code, options=options, name_expressions=names)


@pytest.fixture(scope="module", autouse=True)
def _device():
    """The device, and a formula that refuses what a kernel is there for."""

    def only_if_nothing_is_there(plan, arrays):
        lay = plan.layout
        assert lay.n * lay.s == 0 or os.environ.get("POLYLOSS_ROUTE") or not GPU.is_array(arrays.p), "the formula was taken"
        return formula.run(plan, arrays)

    *kernels, formula = _routes.ROUTES
    with pytest.MonkeyPatch.context() as patch, stand_in.backend(), stand_in.device(**({} if stand_in.REAL else {"module": Together})):
        patch.setattr(_routes, "ROUTES", (*kernels, dataclasses.replace(formula, run=only_if_nothing_is_there)))
        patch.setattr(libraries, "LIBRARIES", [GPU, *libraries.LIBRARIES])
        yield


@pytest.mark.parametrize(("law", "call"), CALLS)
def test_law(law, call, monkeypatch):
    asked = inspect.signature(law).parameters
    law(**call, lib=GPU, **({"monkeypatch": monkeypatch} if "monkeypatch" in asked else {}))


@pytest.mark.parametrize("test", EDGES)
def test_edge_case(test, monkeypatch):
    monkeypatch.setattr(test_edges, "ASKED", (GPU,))
    test()


def test_every_loss_with_a_kernel_and_every_law_takes_part():
    """Losses of sets and of several numbers for one target take the formula on a GPU; docs/kernels.md says so."""
    formulas = {name for name, block in LOSSES.items() if block.sets or block.targets == "values"}
    assert {case.loss for case in KERNELS} == set(LOSSES) - formulas
    assert all(any(calls(law)) for law in LAWS.values())
    assert len(LAWS) >= 30
