"""The two commands for a GPU, as far as they can be tried without one: `make bench-gpu` on the shim with a clock that counts calls, and
what `make test-gpu` would collect."""

import importlib.util
import itertools
import json
import os
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import on_gpu
import on_gpu_smoke
import pytest
import stand_in
import torch

import polyloss as pl
from polyloss._kernels.gpu import cuda

ROOT = Path(__file__).parent.parent.parent
TIMES = itertools.count(1)


class Event:
    """A CUDA event whose time is the number of records before it."""

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.time = next(TIMES)

    def elapsed_time(self, other):
        return float(other.time - self.time)


@pytest.fixture
def bench(monkeypatch):
    """asv_bench/gpu.py, small, with its tensors in this machine's memory."""
    spec = importlib.util.spec_from_file_location("bench_gpu", ROOT / "asv_bench" / "gpu.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "DEVICE", "cpu")
    monkeypatch.setattr(module, "ELEMENTS", 4 * 4096)
    monkeypatch.setattr(module, "FLUSHED", 16)
    monkeypatch.setattr(module, "ROUNDS", 2)
    monkeypatch.setattr(module, "ROWS", (1000,))
    monkeypatch.setattr(module, "SHAPES", ((2, 5, 4, 4),))
    monkeypatch.setattr(module, "IMAGES", (2, 5, 4, 4))
    monkeypatch.setattr(module, "FEW_SOFTMAX", ((9, 10), (5, 100), (3, 300), (1, 5000)))
    monkeypatch.setattr(module, "CHECKED", 4096)
    monkeypatch.setattr(module, "ELEMENTWISE", ("huber",))
    monkeypatch.setattr(module, "ROWWISE", ("cosine_similarity",))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    properties = types.SimpleNamespace(name="none", major=9, minor=0, multi_processor_count=132, total_memory=2**37)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: properties)
    for name in ("synchronize", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    with stand_in.device(), stand_in.torch_as_on_gpu():
        yield module


def test_every_line_is_checked_timed_and_written(bench, tmp_path):
    assert bench.main([str(tmp_path / "results.json")]) == 0
    outcome = json.loads((tmp_path / "results.json").read_text())
    assert outcome["device"] == "none"
    assert outcome["wrong"] == []
    assert len(outcome["lines"]) == 2 * 2 + 2
    for line in outcome["lines"]:
        assert line["errors"] == {}
        assert "CUDA" in line["route"]
        assert 0 <= line["error of the gradient"] < 1e-2
        assert line["ms"]["polyloss"] == line["ms"]["copy"] == 1  # nothing but the call lies between the events
        assert line["goals met"]["copy"]
    assert {"copy", "torch", "polyloss by autograd"} <= outcome["lines"][0]["ms"].keys()
    assert outcome["lines"][0]["bytes"] == 2 * 4 * 16 * 1000
    assert outcome["lines"][1]["bytes"] == 2 * 2 * 16 * 1000


def test_what_is_wrong_is_not_timed(bench, tmp_path, monkeypatch):
    """A gradient that is off in the last row of the call that is timed, and a rival that fails: the one makes the run fail, the other is
    written down."""
    right = bench.pl.value_and_grad

    def wrong(loss):
        def step(y, z, **options):
            value, gradient = right(loss)(y, z, **options)
            if "out" in options and z.dtype is torch.bfloat16:
                gradient[-1] *= 1.1
            return value, gradient

        return step

    monkeypatch.setattr(bench.pl, "value_and_grad", wrong)
    real = bench.softmax_contenders
    monkeypatch.setattr(bench, "softmax_contenders", lambda sets: {**real(sets), "rival": lambda k: 1 / 0})
    monkeypatch.setattr(bench, "ELEMENTWISE", ())
    monkeypatch.setattr(bench, "ROWWISE", ())
    assert bench.main([str(tmp_path / "results.json")]) == 1
    outcome = json.loads((tmp_path / "results.json").read_text())
    assert len(outcome["wrong"]) == 2
    assert all("bfloat16" in words for words in outcome["wrong"])
    assert outcome["lines"][0]["errors"] == {"rival": "ZeroDivisionError: division by zero"}
    assert "rival" not in outcome["lines"][0]["ms"]


def test_eight_lines_for_a_machine_that_is_lent(bench, tmp_path):
    assert bench.main([str(tmp_path / "results.json"), "--few", "--rounds", "1", "--alone"]) == 0
    outcome = json.loads((tmp_path / "results.json").read_text())
    assert len(outcome["lines"]) == 8
    assert all(line["ms"].keys() == {"copy", "polyloss"} for line in outcome["lines"])


def test_what_runs_on_a_device_is_found(monkeypatch, tmp_path):
    """The tests that `make test-gpu` names can be collected on a machine without the suite's other libraries."""
    monkeypatch.setattr(on_gpu, "lacking", lambda names: ["jax"])
    found = {step.name: step for step in on_gpu.steps("test", tmp_path)}
    assert [f"smoke-{name}" for name in on_gpu.SMOKE] == [name for name in found if name.startswith("smoke")]
    assert set(on_gpu.SMOKE) | {"versions", "kernels"} == set(on_gpu_smoke.STEPS)
    assert "tests-laws" not in found
    names = [name for name in on_gpu.FILES if name != "laws"]
    line = [sys.executable, *on_gpu.pytest_line(names, tmp_path / "report.xml"), "--collect-only", "-p", "no:xdist"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"} | {"POLYLOSS_TEST_GPU": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(on_gpu.HERE), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(line, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in names:
        assert f"test_{name}_on_shim.py" in done.stdout


def test_what_is_known_is_written_at_once(monkeypatch, tmp_path, capsys):
    """A step that fails, one that does not end, one for which no time is left; a wheel that the machine lacks."""
    with zipfile.ZipFile(tmp_path / "missing-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("missing_module.py", "x = 5")
    out = tmp_path / "out"
    python = [sys.executable, "-c"]
    known = "import json, missing_module; print(missing_module.x, json.load(open({!r}))['first'])".format(str(out / "test.json"))
    given = [
        on_gpu.Step("first", [*python, "raise SystemExit(3)"], 60),
        on_gpu.Step("second", [*python, known], 60),
        on_gpu.Step("third", [*python, "import time; print('begun', flush=True); time.sleep(600)"], 2),
        on_gpu.Step("fourth", [*python, "pass"], 60),
    ]
    times = itertools.chain([0.0] * 9, itertools.repeat(1000.0))
    monkeypatch.setattr(on_gpu, "steps", lambda kind, out: given)
    monkeypatch.setattr(on_gpu.time, "monotonic", lambda: next(times))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(os, "environ", os.environ.copy())
    assert on_gpu.main(["test", str(out), "--wheels", str(tmp_path)]) == 1
    found = json.loads((out / "test.json").read_text())
    assert [found[step.name] if step.name == "fourth" else found[step.name]["exit code"] for step in given] == [
        3, 0, "no end in time", "not begun",
    ]  # fmt: skip
    assert (out / "second.log").read_text() == "5 {'exit code': 3, 'seconds': 0.0}\n"
    assert (out / "third.log").read_text() == "begun\n"


def test_a_lost_device_is_named_once(tmp_path):
    """The test that lost it fails by its own words, those behind it by naming it."""
    (tmp_path / "cupy.py").write_text(
        "class CUDARuntimeError(Exception): pass\n"
        "gone = []\n"
        "def deviceSynchronize():\n    if gone: raise CUDARuntimeError('cudaErrorIllegalAddress')\n"
        "from types import SimpleNamespace as S\n"
        "cuda = S(runtime=S(deviceSynchronize=deviceSynchronize, CUDARuntimeError=CUDARuntimeError))\n"
    )
    (tmp_path / "test_it.py").write_text(
        "import cupy\n"
        "def test_wrong(): assert 1 == 2\n"
        "def test_right(): pass\n"
        "def test_lost():\n    cupy.gone.append(1)\n    assert 3 == 4\n"
        "def test_behind(): pass\n"
    )
    paths = os.pathsep.join([str(tmp_path), str(on_gpu.HERE)])
    environment = {**os.environ, "PYTHONPATH": paths, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "lost_device", "-p", "no:cacheprovider", str(tmp_path / "test_it.py")]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "2 failed, 1 passed, 1 error" in done.stdout, done.stdout + done.stderr
    assert "assert 1 == 2" in done.stdout
    assert "assert 3 == 4" in done.stdout
    assert "not run: test_it.py::test_lost has lost the device for this process: cudaErrorIllegalAddress" in done.stdout


@pytest.fixture
def smoke(monkeypatch):
    """on_gpu_smoke.py with its tensors in this machine's memory, and shapes for a small device."""
    monkeypatch.setattr(on_gpu_smoke, "DEVICE", "cpu")
    monkeypatch.setattr(on_gpu_smoke, "DTYPES", (torch.float32,))
    shapes = {"warp": [(5, 10)], "block": [(9, 1100)], "cluster": [(6, 4500)], "parts": [(1, 9000)], "spatial": [(2, 5, 7, 3)]}
    monkeypatch.setattr(on_gpu_smoke, "SOFTMAX", shapes)
    monkeypatch.setattr(cuda, "KEPT_BYTES", 8 << 10)
    with stand_in.device(shared=48 << 10, processors=16), stand_in.torch_as_on_gpu():
        cuda.plan.cache_clear()
        yield on_gpu_smoke
    cuda.plan.cache_clear()


@pytest.mark.parametrize("step", ["warp", "block", "cluster", "parts", "spatial", "rowwise", "elements", "overlap"])
def test_each_kind_of_launch_has_its_smoke_line(smoke, step, monkeypatch, capsys):
    launched, run = [], cuda._Call.run
    monkeypatch.setattr(cuda._Call, "run", lambda self, name, *rest: launched.append(name) or run(self, name, *rest))
    smoke.STEPS[step]()
    assert capsys.readouterr().out
    kinds = {"parts": "rows_part", "elements": "flat", "overlap": None, "rowwise": "rows_"}
    if (kind := kinds.get(step, step)) is not None:
        assert all(kind in name for name in launched if "rows_rest" not in name)
        assert launched


def test_a_smoke_line_that_is_off_fails(smoke, monkeypatch):
    right = pl.value_and_grad
    monkeypatch.setattr(on_gpu_smoke.pl, "value_and_grad", lambda loss: lambda *a, **k: [x * 1.02 for x in right(loss)(*a, **k)])
    with pytest.raises(AssertionError, match=r"value off by 2\.0e-02, gradient by 2\.0e-02"):
        smoke.STEPS["warp"]()
