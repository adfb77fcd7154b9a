"""Which route is taken for which input, and what `explain` says of it."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
from libraries import JAX, LIBRARIES, NUMPY, TORCH, in_sight, np_dtype
from oracle import CASES
from test_laws import over

import polyloss as pl
from polyloss._call import cpu as _cpu, routes as _routes
from polyloss._core.block import LOSSES

ROUTES = _routes.ROUTES


def explained(case, t, p, **kwargs):
    return case.of(lambda t, p, **kwargs: pl.explain(case.loss, t, p, **kwargs), t, p, **kwargs)


def expected(case):
    block = LOSSES[case.loss].logits if case.params.get("from_logits") else LOSSES[case.loss]
    if block.kernel == "softmax_xent":
        return "softmax_xent kernel"
    if block.sets:
        return "sets kernel"
    if case.t == "values" and block.kernel == "gaussian_nll":
        return "values kernel"
    if case.t == "labels" and block.kernel_of_labels:
        return "rowwise kernel"
    if case.t == "values" or (block.combine and (case.labelled or any(isinstance(x, tuple) for x in case.params.values()))):
        return "formula"
    if block.combine:
        return "elementwise kernel" if block.kernel in _cpu.kernels("elementwise").FORMULAS else "formula"
    return "rowwise kernel" if block.kernel else "formula"


def spied(route, taken):
    return replace(route, run=lambda plan, arrays: taken.append(route.name) or route.run(plan, arrays))


@over(CASES, (NUMPY, TORCH, JAX))
def test_kernels_take_arrays_of_this_machines_memory(case, lib, monkeypatch):
    """NumPy, tensors and eager JAX arrays, in every floating dtype; `explain` names the route that the call takes."""
    for dtype in ("float32", "float64", *lib.low):
        t, p = (lib.array(x) for x in case.inputs(dtype))
        said = explained(case, t, p)
        assert said.route == expected(case)
        taken = []
        in_sight(monkeypatch)
        monkeypatch.setattr(_routes, "ROUTES", tuple(spied(r, taken) for r in ROUTES))
        case.call(t, p)
        case.of(pl.grad_and_hess(case.target), t, p)
        assert set(taken) == {said.route}


def test_every_elementwise_loss_has_its_kernel():
    """The losses whose formulas stand in C take it; those that a row's normalisation or geometry couples say which they are."""
    on_formula = {case.loss for case in CASES if expected(case) == "formula" and not case.bare}
    assert not {name for name in on_formula if LOSSES[name].combine and not LOSSES[name].logits}, on_formula


@pytest.mark.parametrize("lib", LIBRARIES, ids=repr)
def test_what_other_libraries_take(lib):
    t, p = lib.array(np.zeros((4, 3), np.float32)), lib.array(np.ones((4, 3), np.float32))
    said = pl.explain("mse", t, p)
    if lib in (NUMPY, TORCH, JAX) or lib.name == "dask":
        assert said.route == "elementwise kernel"
    elif "gpu" in lib.name:
        assert said.route == "elementwise kernel for CUDA"
    else:
        assert said.route == "formula"
        assert "it needs arrays in this machine's memory" in said.obstacles["elementwise kernel"]


def test_meta_tensors_take_the_formula():
    torch = TORCH.torch
    assert pl.explain("mse", torch.zeros(3, device="meta"), torch.zeros(3, device="meta")).route == "formula"


def test_layouts_values_and_labels_do_not_decide(layout):
    rng = np.random.default_rng(0)
    z, y = layout(rng.standard_normal((2, 3, 4)).astype(np.float32)), layout(rng.integers(0, 3, (2, 4)))
    assert pl.explain("softmax_loss", y, z).route == "softmax_xent kernel"
    assert pl.explain("softmax_loss", y, layout(np.full((2, 3, 4), np.nan))).route == "softmax_xent kernel"
    assert pl.explain("mse", z, z).route == "elementwise kernel"


def test_integer_predictions_become_floats_and_take_the_kernel():
    assert pl.explain("mse", np.zeros(3, np.uint8), np.ones(3, np.uint8)).route == "elementwise kernel"


# ------------------------------------------------------------------------------------------------------- the words of explain


def test_words():
    """The route, the obstacles of the faster ones for such a loss, and the rest of what was decided of the call."""
    pl.set_num_threads(2)
    isa = _cpu.kernels("softmax_xent").isa()
    said = pl.explain("SoftmaxWithLoss", np.zeros((2, 4), int), np.zeros((2, 3, 4), np.float16), ignore_label=255)
    assert isinstance(said, str)
    assert said == (
        f"softmax_loss: softmax_xent kernel ({isa}, 2 threads), for numpy arrays of float16 and shape (2, 3, 4) on cpu\n"
        "  wanted: value; reduction normalize, divided by count\n"
        "  seen as: (n, c, s) = (2, 3, 4), targets labels int64, computed in float32\n"
        "  options: z_loss=0.0, softcap=0.0, label_smoothing=0.0, ignore_label=(255,)"
    )
    assert (said.route, said.obstacles) == ("softmax_xent kernel", {})
    pl.set_num_threads(1)
    said = pl.explain(pl.huber, np.zeros(3), np.zeros(3), delta=2.0)
    isa = _cpu.kernels("elementwise").isa()
    assert said == (
        f"huber: elementwise kernel ({isa}, 1 thread), for numpy arrays of float64 and shape (3,) on cpu\n"
        "  wanted: value; reduction none, divided by 1\n"
        "  seen as: (n, c, s) = (1, 3, 1), targets float64, computed in float64\n"
        "  options: delta=2.0"
    )
    meta = TORCH.torch.zeros(3, device="meta")
    lines = str(pl.explain("mse", meta, meta)).splitlines()
    assert lines[0] == "mean_squared_error: formula, for torch arrays of float32 and shape (3,) on meta"
    assert lines[1] == "  not the elementwise kernel: it needs arrays in this machine's memory, and those of torch on meta are not"
    assert lines[2].startswith("  not the elementwise kernel for CUDA: ")
    assert not any("softmax" in line or "rowwise" in line for line in lines)


def test_explain_checks_the_call_as_the_loss_does():
    with pytest.raises(ValueError, match="delta is 0, but must be above 0"):
        pl.explain("huber", [1.0], [2.0], delta=0)
    with pytest.raises(TypeError, match="unexpected keyword argument 'delta'"):
        pl.explain("mse", [1.0], [2.0], delta=1)
    with pytest.raises(TypeError, match="explain takes a loss, and log_loss is a metric, with one route and no gradient"):
        pl.explain("log_loss", [0, 1], [0.5, 0.5])


def test_explain_says_what_the_blocks_of_a_dask_array_take():
    z = da.zeros((4, 3, 8), chunks=(2, 3, 4), dtype=np.float32)
    said = pl.explain("softmax_loss", da.zeros((4, 8), dtype=int), z)
    assert said.route == "softmax_xent kernel"
    assert "for dask arrays of float32 and shape (4, 3, 8)" in said


# -------------------------------------------------------------------------------------------------------------- POLYLOSS_ROUTE


@pytest.mark.parametrize("case", CASES[::5], ids=repr)
def test_the_formula_can_be_forced(case, monkeypatch):
    monkeypatch.setenv("POLYLOSS_ROUTE", "formula")
    failing = (replace(route, run=lambda plan, arrays: pytest.fail("a kernel ran")) for route in ROUTES[:-1])
    monkeypatch.setattr(_routes, "ROUTES", (*failing, ROUTES[-1]))
    for lib in (NUMPY, TORCH, JAX):
        t, p = map(lib.array, case.inputs())
        said = explained(case, t, p)
        assert said.route == "formula"
        assert expected(case) == "formula" or said.obstacles[expected(case)] == "POLYLOSS_ROUTE=formula forces the formula"
        case.call(t, p)
        case.of(pl.value_and_grad(case.target), t, p)
    t, p = map(TORCH.array, case.inputs())
    p.requires_grad_()
    case.call(t, p, reduction="sum").backward()


@pytest.mark.parametrize(("value", "route"), [("", "elementwise kernel"), ("formula", "formula")])
def test_the_variable_is_read_at_each_call(value, route, monkeypatch):
    assert pl.explain("mse", [1.0], [2.0]).route == "elementwise kernel"
    monkeypatch.setenv("POLYLOSS_ROUTE", value)
    assert pl.explain("mse", [1.0], [2.0]).route == route


# ------------------------------------------------------------------------------------------------------------ missing kernels

BLOCKED = """
import sys, warnings

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("polyloss._kernels.") and name.rpartition(".")[2] in {names}:
            raise ImportError("it was not built")

sys.meta_path.insert(0, Blocked())
import numpy as np, polyloss as pl
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        value, slope = pl.value_and_grad("softmax_loss")(np.array([1]), np.array([[1.2, 0.8]]))
        assert abs(value - 0.9130152523999526) < 1e-15 and abs(slope[0, 0] - 0.598687660112452) < 1e-15
        assert pl.huber([0.0], [3.0]) == 2.5
    said = pl.explain("softmax_loss", [1], [[1.2, 0.8]]), pl.explain("huber", [0.0], [3.0])
for w in caught:
    print("WARNING", w.category.__name__, w.filename, w.message)
for s in said:
    print(s)
"""


def blocked(*names):
    environment = {k: v for k, v in os.environ.items() if k != "POLYLOSS_ROUTE"}
    done = subprocess.run([sys.executable, "-c", BLOCKED.replace("{names}", repr(set(names)))], env=environment, check=False,
                          capture_output=True, text=True, timeout=120)  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    return [line for line in lines if line.startswith("WARNING")], [line for line in lines if not line.startswith("WARNING")]


def test_missing_kernels_warn_once_and_the_formula_takes_over():
    warned, said = blocked("softmax_xent", "elementwise")
    assert len(warned) == 1
    assert "polyloss runs on formulas, several times slower: its kernel softmax_xent was not imported (it was not built)" in warned[0]
    assert "to build it, install a C compiler and run `pip install --force-reinstall --no-deps .` in its source tree" in warned[0]
    assert warned[0].startswith("WARNING RuntimeWarning")
    assert said[0].startswith("softmax_loss: formula, for numpy arrays")
    assert "  not the softmax_xent kernel: the compiled kernel softmax_xent is missing" in said
    assert sum(line == "  not the elementwise kernel: the compiled kernel elementwise is missing" for line in said) == 1


def test_one_missing_kernel_leaves_the_other():
    warned, said = blocked("softmax_xent")
    assert len(warned) == 1
    assert any(line.startswith("huber: elementwise kernel") for line in said)
    assert said[0].startswith("softmax_loss: formula")


EVERY_LOSS = """
import warnings
import numpy as np, polyloss as pl
from polyloss._core.block import LOSSES
warnings.simplefilter("ignore", RuntimeWarning)  # that a kernel is missing
p, labels = np.full((4, 3), 1 / 3), np.array([0, 2, 1, -1])
for _ in range(2):  # the second call has a plan at hand
    for name, block in LOSSES.items():
        targets = labels % 3 if block.targets == "labels" else p[:, 0] if block.targets == "values" else np.eye(3)[labels]
        pl.value_and_grad(name)(targets, p[:, :2] if name == "gaussian_nll" else p)
    for name, options in (("softmax_loss", dict(ignore_label=-1)), ("scce", dict(ignore_class=-1, reduction="mean"))):
        value, slope = pl.value_and_grad(name)(labels, p, **options)
        assert abs(value - np.log(3)) < 1e-6 and (slope[3] == 0).all() and (slope[:3] != 0).any(), (name, value, slope)
    assert abs(pl.log_loss(labels % 3, p) - np.log(3)) < 1e-6
"""


MODULES = "autograd driver elementwise exact log_loss plan_cache prepared rowwise sets softmax_xent tensors values"


@pytest.mark.parametrize("missing", MODULES.split())
def test_no_kernel_needs_another(missing):
    """Each is optional; `driver` is what most of them need."""
    program = BLOCKED.partition("import numpy")[0].replace("{names}", repr({missing})) + EVERY_LOSS
    environment = {k: v for k, v in os.environ.items() if k != "POLYLOSS_ROUTE"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_no_fallback_is_silent():
    """A kernel that is there takes the call: the routes of this build are those of a full one."""
    assert all(_cpu.kernels(name) is not None for name in ("softmax_xent", "elementwise"))
    built = {path.name.partition(".")[0] for path in (Path(pl.__file__).parent / "_kernels" / "cpu").glob("*.so")}
    assert built >= {"softmax_xent", "elementwise"}


# --------------------------------------------------------------------------------------------------------------------- threads


def test_threads_come_from_the_machine_the_variable_or_the_call():
    code = "import polyloss as pl; print(pl.get_num_threads()); pl.set_num_threads(3); print(pl.get_num_threads())"
    for variable, first in ((None, None), ("5", 5), (" 2 ", 2), ("", None)):
        environment = {k: v for k, v in os.environ.items() if k != "POLYLOSS_NUM_THREADS"}
        if variable is not None:
            environment["POLYLOSS_NUM_THREADS"] = variable
        done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True, timeout=60)
        got, later = map(int, done.stdout.split())
        assert later == 3
        assert got == first if first else 1 <= got <= len(os.sched_getaffinity(0))


def test_bits_of_bfloat16_are_taken_as_bfloat16():
    """A NumPy array of ml_dtypes.bfloat16 and torch's take the same route to the same bits."""
    rng = np.random.default_rng(0)
    z, y = rng.standard_normal((5, 7)).astype(np_dtype("bfloat16")), rng.integers(0, 7, 5)
    ours = pl.grad(pl.softmax_loss)(y, z)
    theirs = pl.grad(pl.softmax_loss)(TORCH.array(y), TORCH.array(z))
    np.testing.assert_array_equal(ours.view(np.uint16), TORCH.numpy(theirs).view(np.uint16))
