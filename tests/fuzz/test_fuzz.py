"""The fuzzer in short; and that it sees what is wrong: in numbers, inputs, warnings, and calls that never end."""

import io
import os
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import calls
import check
import draw
import fuzz
import modules
import oracle
import shrink
import torch
import trials
import truth
from ball import FORMATS, Ball
from calls import Array, Call
from truth import TRUTHS

import polyloss as pl
from polyloss._core.block import LOSSES

calls.prepare()
SEEDS = 4, 7, 20, 21

# ------------------------------------------------------------------------------------------------------------------ truths


def test_every_loss_has_a_truth():
    assert set(TRUTHS) == set(LOSSES)


def test_every_module_of_torch_is_drawn():
    import polyloss.torch as ours

    torchs = {name for name in ours.__all__ if hasattr(ours, name) and hasattr(torch.nn, name)}
    assert torchs == {name for name in modules.DRAWN if hasattr(torch.nn, name)}  # torch before 2.13 lacks one


def test_every_parameter_is_drawn():
    """A parameter of a new kind has values of its own to be tried with."""
    for name in TRUTHS:
        block, rng = LOSSES[name], np.random.default_rng(0)
        for _ in range(20):
            assert draw.draw(rng, loss=name, library="numpy").loss == name
        assert all(draw.parameter(rng, rule, None) is not ... for rule in block.params.values())


@pytest.mark.parametrize("case", [case for case in oracle.CASES if case.loss in TRUTHS and case.t != "values"], ids=repr)
def test_truths_are_those_of_mpmath(case):
    """Of 40 digits and difference quotients, which share nothing with balls."""
    t, p = case.inputs()
    params = dict(case.params)
    ignore = params.pop("ignore_label", params.pop("ignore_class", None))
    signature = {k: v for k, v in check.defaults(case.loss).items() if k in LOSSES[case.loss].params and k != LOSSES[case.loss].ignores}
    k = np.asarray(params.pop("class_weight")) if "class_weight" in params else None
    right = oracle.truth(case)
    found = truth.expected(
        case.loss, t, p, dtype="float64", labelled=case.labelled, ignore=() if ignore is None else (ignore,), class_weight=k,
        **{**signature, **params},
    )  # fmt: skip
    for ball, exact in ((found.losses, right.losses), (found.gradient, right.slope), (found.hessian, right.curvature)):
        np.testing.assert_allclose(ball.v.astype(float), exact, rtol=1e-14, atol=1e-16)
        assert (ball.e * ball.format.unit <= 1e-13 * (1 + np.abs(ball.v))).all()
    if case.labelled:
        return
    h = 2.0**-30
    step = np.random.default_rng(0).standard_normal(t.shape)
    if LOSSES[case.loss].scan_targets:
        return  # which targets are 0 or 1 would change
    up, down = (truth.expected(case.loss, t + s * h * step, p, dtype="float64", labelled=False, class_weight=k, **{**signature, **params})
                .losses.v for s in (1, -1))  # fmt: skip
    inside = np.isfinite(np.where(found.by_target.e > 1e3, np.nan, 1)).all(-1)
    slope = (found.by_target.v * step).sum(-1)
    np.testing.assert_allclose(slope[inside].astype(float), ((up - down) / (2 * h))[inside].astype(float), rtol=1e-5, atol=1e-5)


def test_what_is_not_known_stays_unknown():
    """Sums that cancel to the size of their rounding, divided by and weighted: the Hessian of sets, of 1 + 1e-8 - 1."""
    fmt = FORMATS["float32"]
    one, weight = Ball([1.0], [0.0], fmt), Ball([0.5], [0.0], fmt)
    tiny = one + one.near(1e-8) - 1
    cubed = 1 / tiny / tiny / tiny
    for x in (cubed, cubed * weight, cubed * weight * 0.5):
        assert (fmt.unit * x.e > np.abs(x.v)).all()


# ------------------------------------------------------------------------------------------------------- it sees what is wrong


def mse(**changes):
    """A plain call of mean_squared_error."""
    t, p = np.random.default_rng(0).standard_normal((2, 6, 4))
    return Call("mean_squared_error", "value_and_grad", {"y_true": Array(t), "y_pred": Array(p)}).changed(**changes)


@pytest.mark.parametrize(("formula", "wrong", "name"), [
    ("value", lambda xp, t, p: (p - t) ** 2 * (1 + 1e-14), "value"),
    ("slope", lambda xp, t, p: 2 * (p - t) * (1 - 1e-14), "gradient"),
    ("slope", lambda xp, t, p: xp.where(p > 1, xp.nan, 2 * (p - t)), "gradient"),
    ("curvature", lambda xp, t, p: xp.full_like(p, 2.0001), "hessian"),
])  # fmt: skip
def test_a_wrong_formula_is_found(monkeypatch, formula, wrong, name):
    call = mse(route="formula", mode="grad_and_hess" if name == "hessian" else "value_and_grad")
    assert not check.faults(call)
    monkeypatch.setattr(LOSSES["mean_squared_error"], formula, staticmethod(wrong))
    assert [fault.kind[4] for fault in check.faults(call)] == [name]


def test_changed_inputs_warnings_and_errors_are_found(monkeypatch):
    right = pl.mean_squared_error

    def writes(t, p):
        loss = right(t, p)
        p[0] += 1
        return loss

    def warns(t, p):
        warnings.warn("odd", RuntimeWarning, stacklevel=1)
        return right(t, p)

    def fails(t, p):
        raise ZeroDivisionError("no")

    def shares(t, p):
        p[...] = 0.0
        return p[:, 0]

    for wrong, word in ((writes, "input changed"), (warns, "warning"), (fails, "raised"), (shares, "shares memory")):
        monkeypatch.setattr(pl, "mean_squared_error", wrong)
        assert any(word in " ".join(fault.kind) for fault in check.faults(mse(mode="value")))


def test_a_finding_is_shrunk_to_a_line_that_shows_it(monkeypatch):
    monkeypatch.setattr(LOSSES["mean_squared_error"], "value", staticmethod(lambda xp, t, p: xp.where(p > 2, 7.0, (p - t) ** 2)))
    rng = np.random.default_rng(0)
    t, p = np.zeros((9, 5, 3), np.float32), rng.standard_normal((9, 5, 3)).astype(np.float32)
    p[4, 2, 1] = 3.0
    call = mse(route="formula", arrays={"y_true": Array(t), "y_pred": Array(p, "fortran"), "sample_weight": Array(np.ones((9, 3)))},
               options={"axis": 1, "reduction": "sum"})  # fmt: skip
    small, fault = shrink.shrink(call, check.faults(call)[0], check.faults)
    assert small.prediction.values.shape == (1, 1)
    assert set(small.arrays) == {"y_true", "y_pred"}
    space = {}
    monkeypatch.setenv("POLYLOSS_ROUTE", "formula")
    exec(small.code(), space)
    assert space["r"] == 7.0
    assert "is 7.0" in fault.words


# --------------------------------------------------------------------------------------------------------------- the runner


def test_calls_that_hang_or_end_the_process_are_found(monkeypatch, tmp_path):
    """The watch goes on behind them."""
    assert sys.modules["trials"] is trials  # which comes back behind this test
    (tmp_path / "trials.py").write_text(
        "import os, time\n"
        "class Case:\n"
        "    label = ('odd', 'numpy', 'value', 'kernel')\n"
        "    def __init__(self, n): self.n = n\n"
        "    def code(self): return f'odd({self.n})'\n"
        "class Odd:\n"
        "    SHARE = 1\n"
        "    numbers = iter(range(99))\n"
        "    draw = staticmethod(lambda rng, library, edges: Case(int(rng.integers(3))))\n"
        "    faults = staticmethod(lambda case: [time.sleep(99) if case.n == 0 else os._exit(3)] if case.n < 2 else [])\n"
        "TRIALS = [Odd]\n"
        "def prepare(): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(fuzz, "PATIENCE", 4.0)
    monkeypatch.delitem(sys.modules, "trials", raising=False)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    out = io.StringIO()
    counted, findings = fuzz.fuzz(count=4, seed=3, out=out)
    monkeypatch.delitem(sys.modules, "trials", raising=False)
    assert sum(counted.values()) == 4
    assert {kind[-1] for kind in findings} == {"hang", "crash"}, out.getvalue()
    assert "odd(0)" in out.getvalue()


@pytest.mark.filterwarnings("ignore")  # those of a call are findings, but torch's modules have words of their own
@pytest.mark.parametrize(("library", "count"), [("numpy", 100), ("torch", 30)])
def test_a_short_run_finds_nothing(library, count):
    """Calls of fixed seeds, which were not picked for what they find; made here, since a worker takes seconds to start."""
    for seed in SEEDS:
        for number in range(count):
            trial, case = fuzz.drawn(seed, number, fuzz.Wanted(library))
            faults = trial.faults(case)
            assert not faults, "\n".join([case.code(), *(f"# {fault.words}" for fault in faults)])
