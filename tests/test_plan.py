"""The plan of a call: what it follows from, that it is kept, and that nothing of one call's data reaches the next."""

import inspect
import pickle
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from libraries import NUMPY, TORCH
from oracle import CASES

import polyloss as pl
from polyloss._call import call as _call, plan as _plan, prepare as _prepare, routes as _routes, run_plan as _evaluate
from polyloss._core.block import LOSSES

REAL = _call.plan_cache


def planned(case, t, p, want=_plan.BOTH, **options):
    """The plan and the arrays of a case, made anew."""
    signature = inspect.signature(pl.get(case.loss)).parameters.values()
    defaults = {p.name: p.default for p in signature if p.kind is p.KEYWORD_ONLY}
    return _prepare.prepare(LOSSES[case.loss], t, p, want, None, defaults | case.params | options)[:2]


def prepared(case):
    """Whether a kernel takes a case's arrays as they are, or converts them; factors of classes go into the targets of each call anew."""
    route = pl.explain(case.loss, *case.inputs("float32"), **{"axis": -1, **case.params}).route
    return route != "formula" and not isinstance(case.params.get("alpha"), tuple)


@pytest.mark.parametrize("lib", [NUMPY, TORCH], ids=repr)
def test_a_call_whose_plan_is_known_gives_the_same(lib):
    """Every loss, first and again, with other data in between: bit for bit what a plan made for the call alone gives."""
    for case in CASES:
        t, p = case.inputs("float32")
        t, p, others = lib.array(t), lib.array(p), [lib.array(x[::-1].copy()) for x in (t, p)]
        for function in (case.target, pl.value_and_grad(case.target), pl.grad_and_hess(case.target)):
            found = [case.of(function, *pair) for pair in ((t, p), others, (t, p), others)]
            for first, again in (found[0::2], found[1::2]):
                for x, y in zip(first, again, strict=True) if isinstance(first, tuple) else [(first, again)]:
                    np.testing.assert_array_equal(lib.numpy(x), lib.numpy(y))
        assert REAL.plans(LOSSES[case.loss]) or not prepared(case)
        REAL.forget()


@pytest.mark.parametrize("lib", [NUMPY, TORCH], ids=repr)
def test_weights_and_targets_of_other_dtypes_are_converted_on_the_way(lib, monkeypatch):
    """Bit for bit what arrays of the dtype of the computation give, by a kernel whose plan is known: NumPy's own weights are float64."""
    count = 0
    for case in CASES:
        t, p = case.inputs("float32")
        if not prepared(case):
            continue
        drawn = {"sample_weight": 1.0 + np.arange(case.of(case.target, t, p).size).reshape(case.of(case.target, t, p).shape)}
        if "class_weight" in inspect.signature(case.target).parameters and "class_weight" not in case.params:
            drawn["class_weight"] = np.linspace(0.5, 2.5, case.c)
        for kind in ("float64", "int64", "int32", "uint8", "bool"):
            weights = {key: x.astype(kind) for key, x in drawn.items()}
            soft, bits = t.dtype.kind == "f" and kind == "float64", set(t.flat) <= {0, 1} and kind == "bool"
            targets = t.astype(kind) if soft or bits else t
            for function in (case.target, pl.value_and_grad(case.target)):
                same = {key: lib.array(x.astype("float32")) for key, x in weights.items()}
                exact = case.of(function, lib.array(targets.astype(t.dtype)), lib.array(p), **same)
                found = []
                for known in (False, True):
                    with monkeypatch.context() as patch:
                        patch.setattr(_call, "arrays_of", None if known else _prepare.arrays_of)  # asked where no kernel reads the arrays
                        found.append(case.of(function, lib.array(targets), lib.array(p), **{k: lib.array(x) for k, x in weights.items()}))
                for results in found:
                    for x, y in zip(*(r if isinstance(r, tuple) else (r,) for r in (results, exact)), strict=True):
                        np.testing.assert_array_equal(lib.numpy(x), lib.numpy(y))
                count += 1
    assert count > 100


def test_plans_are_kept_by_what_they_follow_from():
    """One plan for calls that differ in data alone; another where a dtype, a shape, a stride, an option or its type differs."""
    rng = np.random.default_rng(0)
    z, y, w = rng.standard_normal((6, 4)), rng.integers(0, 4, 6), rng.random(6)

    def count(*calls):
        REAL.forget()
        for arguments, options in calls:
            pl.softmax_loss(*arguments, **options)
        return len(REAL.plans(LOSSES["softmax_loss"]))

    one = (y, z), {}
    assert count(one, ((y[::-1].copy(), 2 * z), {}), ((y, z), dict(sample_weight=None))) == 1
    assert count(((y, z), dict(sample_weight=w)), ((y, z), dict(sample_weight=2 * w))) == 1
    assert count(((y, z), dict(denominator=2.0)), ((y, z), dict(denominator=3.0))) == 1
    others = [((y.astype(np.int32), z), {}), ((y, z.astype(np.float32)), {}), ((y[:3], z[:3]), {}), ((y, z[:, ::-1]), {}),
              ((y[::-1], z), {}), ((y, z), dict(axis=-1)), ((y, z), dict(label_smoothing=0.5)), ((y, z), dict(normalization="full")),
              ((y, z), dict(sample_weight=w)), ((y, z), dict(class_weight=w[:4])), ((y, z), dict(ignore_label=1)), ((y, z), dict(
                  ignore_label=(1, 2))), ((y, z), dict(reduction="none")), ((y, z), dict(return_prob=True)), ((y, z), dict(validate=False)),
              ((y, z), dict(ignore_label=np.int64(1)))]  # fmt: skip
    assert count(one, *others) == 1 + len(others)


def test_options_are_told_apart_by_type():
    """1, 1.0 and True are equal and hash alike, but only one of them is an axis."""
    z, y = np.zeros((2, 3)), np.zeros(2, int)
    for _ in range(2):
        assert pl.softmax_loss(y, z, axis=1) > 1
        for axis in (True, 1.0):
            with pytest.raises(TypeError, match="axis is"):
                pl.softmax_loss(y, z, axis=axis)
        assert pl.softmax_loss(y, z, ignore_label=(0, 5)) == 0
        with pytest.raises(TypeError, match="must be an integer or several"):
            pl.softmax_loss(y, z, ignore_label=(0.0, 5))


def test_errors_are_worded_each_time_and_not_kept():
    z, y = np.zeros((2, 3)), np.zeros(2, int)
    for _ in range(2):
        with pytest.raises(ValueError, match="label_smoothing is 2"):
            pl.softmax_loss(y, z, label_smoothing=2.0)
    assert not REAL.plans(LOSSES["softmax_loss"])
    pl.softmax_loss(y, z)
    y[1] = 7
    for _ in range(2):
        with pytest.raises(ValueError, match=r"y_true\[1\] is 7"):
            pl.softmax_loss(y, z)
    y[1] = 0
    pl.softmax_loss(y, z, denominator=2.0)
    with pytest.raises(ValueError, match="denominator is 0"):
        pl.softmax_loss(y, z, denominator=0.0)
    with pytest.raises(ValueError, match="denominator is inf, but must be finite"):
        pl.softmax_loss(y, z, denominator=np.inf)


def test_outputs_over_inputs_are_refused_when_the_plan_is_known():
    rng = np.random.default_rng(0)
    for lib in (NUMPY, TORCH):
        t, p = lib.array(rng.random((8, 6))), lib.array(rng.random((8, 6)))
        out, other = lib.array(np.zeros((8, 6))), lib.array(np.zeros((8, 6)))
        function, both = pl.grad("huber"), pl.grad_and_hess("huber")
        wanted = [lib.numpy(x) for x in both(t, p)]
        for _ in range(2):
            assert function(t, p, out=out) is out
            assert both(t, p, out=(out, other))[1] is other
            for found, x in zip((out, other), wanted, strict=True):
                np.testing.assert_array_equal(lib.numpy(found), x)
            for wrong in (t, p):
                with pytest.raises(ValueError, match="out shares memory"):
                    function(t, p, out=wrong)
            with pytest.raises(ValueError, match=r"out\[1\] shares memory"):
                both(t, p, out=(out, out))


def test_threads_and_the_forced_route_are_part_of_the_key(monkeypatch):
    t, p = np.zeros(3), np.ones(3)
    for threads in (1, 2, 1):
        pl.set_num_threads(threads)
        pl.huber(t, p)
    assert len(REAL.plans(LOSSES["huber"])) == 2
    monkeypatch.setenv("POLYLOSS_ROUTE", "formula")
    pl.huber(t, p)
    assert [plan.route for plan in REAL.plans(LOSSES["huber"])] == ["elementwise kernel"] * 2 + ["formula"]
    monkeypatch.setenv("POLYLOSS_ROUTE", "kernel")
    with pytest.raises(ValueError, match="POLYLOSS_ROUTE is 'kernel'"):
        pl.huber(t, p)


def test_the_number_of_plans_is_bounded():
    for n in range(1, 2 * REAL.limit):
        pl.huber(np.zeros(n), np.ones(n))
    assert len(REAL.plans(LOSSES["huber"])) == REAL.limit
    assert REAL.plans(LOSSES["huber"])[-1].layout.c == 2 * REAL.limit - 1


def test_orders_of_options():
    """Keywords come in any order; names that are made at run time name the same options."""
    t, p = np.zeros((4, 3)), np.full((4, 3), 3.0)
    for _ in range(2):
        for options in (dict(delta=2.0, axis=0, reduction="sum"), dict(axis=0, reduction="sum", delta=2.0)):
            assert pl.value_and_grad("huber")(t, p, **options)[0] == 12
            assert pl.huber(t, p, **{"".join(key): x for key, x in options.items()}) == 12
            assert pl.value_and_grad("huber")(t, p, **{key[:1] + key[1:]: x for key, x in options.items()})[0] == 12


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_a_plan_is_a_value(case):
    """Equal plans hash alike; one that was pickled evaluates as the first; it prints what was decided, and cannot be changed."""
    t, p = case.inputs("float32")
    (plan, arrays), (other, _) = planned(case, t, p), planned(case, t.copy(), p.copy())
    assert plan == other
    assert hash(plan) == hash(other)
    assert plan != planned(case, t, p.astype(np.float64))[0]
    _evaluate.evaluate(plan, arrays)  # its kernel is bound, and not pickled
    copied = pickle.loads(pickle.dumps(plan))
    assert copied == plan
    assert hash(copied) == hash(plan)
    for x, y in zip(_evaluate.evaluate(plan, arrays), _evaluate.evaluate(copied, arrays), strict=True):
        np.testing.assert_array_equal(x, y)
    with pytest.raises(AttributeError):
        plan.route = "formula"


def test_explain_prints_the_plan():
    z, y = np.zeros((2, 3)), np.zeros(2, int)
    plan = planned(next(case for case in CASES if case.loss == "softmax_loss" and not case.params), y, z, _plan.VALUE)[0]
    said = pl.explain("softmax_loss", y, z)
    assert said.route == plan.route
    assert str(said).splitlines()[1:] == [f"  {line}" for line in str(plan).splitlines()]


def test_facts_alone_decide():
    """A plan needs no data: it is made from dtypes, shapes, strides and devices."""
    fact = _plan.NUMPY.fact(np.zeros((5, 3), np.float32))
    facts = {"y_true": fact, "y_pred": fact, "sample_weight": None, "class_weight": None, "mask": None, "divisor": False, "out": None}
    options = dict(delta=1.0, axis=-1, reduction="mean", validate=True)
    plan = _prepare.plan_of(LOSSES["huber"], _plan.VALUE, options, np, facts)
    assert (plan.route, plan.divisor, plan.layout.n, plan.layout.c) == ("elementwise kernel", 5, 5, 3)
    t, p = np.zeros((5, 3), np.float32), np.full((5, 3), 0.5, np.float32)
    given = {"y_true": t, "y_pred": p, "sample_weight": None, "class_weight": None, "divisor": None, "out": (None,)}
    assert _evaluate.evaluate(plan, _prepare.arrays_of(plan, np, given)) == np.float32(0.125)
    assert _routes.changed(plan, here=False).route == "formula"


def test_a_tensor_that_autograd_follows_has_another_plan():
    t, p = torch.zeros(4), torch.ones(4)
    for _ in range(2):
        assert pl.huber(t, p).grad_fn is None
        leaf = p.clone().requires_grad_()
        assert pl.huber(t, leaf).grad_fn is not None
        with torch.no_grad():
            assert pl.huber(t, leaf).grad_fn is None
        with torch.autograd.graph.save_on_cpu():
            assert pl.huber(t, leaf).grad_fn.gradient is None
        assert not pl.value_and_grad("huber")(t, leaf)[1].requires_grad
    plans = REAL.plans(LOSSES["huber"])
    assert len(plans) == 5
    assert [plan.tracked for plan in plans].count(("y_pred",)) == 3


@pytest.mark.parametrize("lib", [NUMPY, TORCH], ids=repr)
def test_elements_may_be_samples(lib, layout):
    """axis=() makes each element a sample of its own, in any layout, with a weight for each; a loss of whole rows has no such axis."""
    rng = np.random.default_rng(0)
    t, p, w = (layout(rng.standard_normal((4, 3, 5)).astype(np.float32)) for _ in range(3))
    if lib is TORCH and not t.dtype.isnative:
        return  # torch has no such tensors
    losses = (p - t) ** 2
    for _ in range(2):
        found = pl.mean_squared_error(*map(lib.array, (t, p)), axis=(), sample_weight=lib.array(w))
        np.testing.assert_allclose(lib.numpy(found), w * losses, rtol=1e-6)
        value, gradient = pl.value_and_grad("mse")(*map(lib.array, (t, p)), axis=(), reduction="mean", sample_weight=lib.array(w))
        np.testing.assert_allclose(lib.numpy(value), (w * losses).sum() / w.sum(), rtol=1e-4)
        np.testing.assert_allclose(lib.numpy(gradient), 2 * w * (p - t) / w.sum(), rtol=1e-4, atol=1e-6)
        assert float(pl.mean_squared_error(lib.array(np.float32(1)), lib.array(np.float32(3)), axis=())) == 4
    with pytest.raises(TypeError, match=r"axis is \(\), but must be an integer"):
        pl.softmax_loss(np.zeros(3, int), np.zeros((3, 2)), axis=())


PLANS_OF_XLA = """
#include "xla/plans.h"
#include <pthread.h>
#include <stdio.h>
enum { EACH = 3000, THREADS = 2 };
static void *fill(void *given) /* plans of so many threads; gives how many are not found again */
{
    const int threads = *(int *)given;
    char text[17];
    long missing = 0;
    for (unsigned long i = 0; i < EACH; i++) {
        snprintf(text, sizeof text, "%016lx", i * 0x9E3779B97F4A7C15ul);
        plan_entry *entry = (plan_entry *)calloc(1, sizeof *entry);
        entry->text = strdup(text), entry->length = 16, entry->threads = threads;
        missing += !plan_add(entry);
    }
    for (unsigned long i = 0; i < EACH; i++) {
        snprintf(text, sizeof text, "%016lx", i * 0x9E3779B97F4A7C15ul);
        const plan_entry *entry = plan_of(text, 16, threads);
        missing += !entry || memcmp(entry->text, text, 16) || entry->threads != threads || plan_add((plan_entry *)entry);
    }
    return (void *)missing;
}
int main(void)
{
    pthread_t thread[THREADS];
    int number[THREADS];
    void *missing[THREADS];
    for (int k = 0; k < THREADS; k++) number[k] = k, pthread_create(&thread[k], NULL, fill, &number[k]);
    for (int k = 0; k < THREADS; k++) pthread_join(thread[k], &missing[k]);
    return missing[0] || missing[1] || plan_of("ffffffffffffffff", 16, 0) || !plan_tables[3];
}
"""


def test_any_number_of_plans_of_xla_are_found(tmp_path):
    """Two threads add 3000 each at the same time, which fill several tables; none is lost, and none added twice."""
    kernels = Path(__file__).parents[1] / "src" / "polyloss" / "_kernels"
    if not kernels.exists() or shutil.which("gcc") is None:
        pytest.skip("there are no sources beside the tests, or no gcc")
    (tmp_path / "plans.c").write_text(PLANS_OF_XLA)
    program = tmp_path / "plans"
    subprocess.run(["gcc", "-std=gnu11", "-w", "-pthread", f"-I{kernels}", tmp_path / "plans.c", "-o", program], check=True, timeout=300)
    subprocess.run([program], check=True, timeout=300)
