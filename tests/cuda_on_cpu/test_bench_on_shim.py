"""The two commands for a GPU, as far as they can be tried without one: `make bench-gpu` on the shim with a clock that counts calls, and
what `make test-gpu` would collect."""

import importlib.util
import itertools
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import on_gpu
import pytest
import stand_in
import torch

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
    assert bench.main(tmp_path / "results.json") == 0
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
    """A gradient that is off, and a rival that fails: the one makes the run fail, the other is written down."""
    right = bench.pl.value_and_grad

    def wrong(loss):
        def step(y, z, **options):
            value, gradient = right(loss)(y, z, **options)
            return value, gradient * (1.1 if z.dtype is torch.bfloat16 else 1)

        return step

    monkeypatch.setattr(bench.pl, "value_and_grad", wrong)
    real = bench.softmax_contenders
    monkeypatch.setattr(bench, "softmax_contenders", lambda sets: {**real(sets), "rival": lambda k: 1 / 0})
    monkeypatch.setattr(bench, "ELEMENTWISE", ())
    monkeypatch.setattr(bench, "ROWWISE", ())
    assert bench.main(tmp_path / "results.json") == 1
    outcome = json.loads((tmp_path / "results.json").read_text())
    assert len(outcome["wrong"]) == 2
    assert all("bfloat16" in words for words in outcome["wrong"])
    assert outcome["lines"][0]["errors"] == {"rival": "ZeroDivisionError: division by zero"}
    assert "rival" not in outcome["lines"][0]["ms"]


def test_what_runs_on_a_device_is_found(monkeypatch, tmp_path):
    """The tests that `make test-gpu` names can be collected on a machine without the suite's other libraries."""
    monkeypatch.setattr(on_gpu, "lacking", lambda names: ["jax"])
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"} | {"POLYLOSS_TEST_GPU": "1"}
    command = [sys.executable, *on_gpu.command_line(tmp_path / "report.xml"), "--collect-only", "-p", "no:xdist"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("softmax", "elementwise", "rowwise", "routes"):
        assert f"test_{name}_on_shim.py" in done.stdout
    assert "test_laws" not in done.stdout
    assert "test_compile" not in done.stdout
