"""The benchmarks measure what they say: contenders agree, limits touch every byte, every loss is there, and the gate can fail.

The gate's proof and the site in a browser take minutes: POLYLOSS_SLOW_TESTS=1 runs them.
"""

import functools
import importlib
import inspect
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import browser
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
BENCH = ROOT / "asv_bench"
sys.path.insert(0, str(BENCH))

import compare  # noqa: E402
import local_site  # noqa: E402
import render  # noqa: E402
import table  # noqa: E402
from benchmarks import cases, files, head, limits, small, timing  # noqa: E402

import polyloss as pl  # noqa: E402
import polyloss.torch  # noqa: E402
from polyloss._core.block import LOSSES, Elementwise  # noqa: E402

# ----------------------------------------------------------------------------------------------------- what is measured


@pytest.mark.parametrize("n", [1, 63, 4096, 4096 * 3 + 17])
def test_limits_touch_every_word(n):
    rng = np.random.default_rng(n)
    x = rng.integers(0, 2**64, n, dtype=np.uint64)
    out = np.zeros(n + 3, np.uint64)
    assert limits.read(x) == int(x.sum())  # both modulo 2^64
    assert limits.read(x, x[: n // 2]) == (int(x.sum()) + int(x[: n // 2].sum())) % 2**64
    limits.copy(x, out[3:])  # not on a multiple of 64 bytes
    np.testing.assert_array_equal(out, np.concatenate([np.zeros(3, np.uint64), x]))


def test_limits_refuse_what_they_cannot_read():
    with pytest.raises(ValueError, match="contiguous"):
        limits.read(np.zeros((4, 4))[:, :2])
    with pytest.raises(ValueError, match="as large"):
        limits.copy(np.zeros(4), np.zeros(3))


def test_every_loss_is_measured():
    assert {call.loss for call in cases.calls()} == set(LOSSES) == set(pl.names()) - {"log_loss"}
    measured = {line.name for line in table.lines()}
    assert {call.name for call in cases.calls(Elementwise)} <= measured
    assert {case.name for case in (*cases.SOFTMAX, *cases.OTHERS, *cases.SETS)} <= measured


SHAPES = [cases.Softmax((6, 5), ""), cases.Softmax((3, 4, 2, 5), "", ignore=0), cases.SMALL]


@pytest.mark.parametrize("case", SHAPES, ids=lambda case: case.name)
@pytest.mark.parametrize("contenders", [table.softmax_value, table.softmax_gradient])
def test_softmax_contenders_agree(case, contenders):
    agree(contenders(case))


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize(
    "case", [cases.Other(shape, case.dtype, case.soft) for shape in ((6, 5), (3, 4, 2, 5)) for case in cases.OTHERS[:3]]
)
def test_contenders_of_other_batches_agree(case, gradient):
    agree(table.other_softmax(case, gradient))


@pytest.mark.parametrize("call", list(cases.calls(Elementwise)), ids=lambda call: call.name)
@pytest.mark.parametrize("contenders", [table.elementwise_value, table.elementwise_gradient])
def test_elementwise_contenders_agree(call, contenders, monkeypatch):
    monkeypatch.setattr(cases, "PAIRS", (8, 16))
    agree(contenders(call))


@pytest.mark.parametrize("case", cases.SETS, ids=lambda case: case.name)
def test_contenders_of_sets_agree(case):
    agree(table.set_gradient(cases.Sets((8, 5) if len(case.shape) == 2 else (2, 4, 3, 5), case.axis, "")))


def test_log_loss_contenders_agree():
    agree(table.log_loss_contenders(np.arange(12) % 2, np.linspace(0.1, 0.9, 12)))
    agree(table.log_loss_contenders(np.arange(12) % 3, np.full((12, 3), 1 / 3)))


def test_contenders_of_a_head_agree():
    for contenders in (head.torch_steps, head.numpy_calls, head.jax_calls):
        agree(contenders((5, 4, 300)))


def test_contenders_of_files_agree():
    competition, dump = files.competition(300), files.dump((20, 7))
    agree(competition)
    agree(dump)
    competition["parser"]()
    dump["np.load"]()
    assert "PREDICTIONS" in files.start()["polyloss"]()


def test_memory_of_the_jobs_of_files(monkeypatch, tmp_path):
    """Each in a process of its own, which ends well; a large submission gets 1 GB of addresses beyond the parser's."""
    found = {name: call() for name, call in files.jobs(300, images=8, parts=2).items()}
    assert len(found) == 7
    assert all(megabytes > 0 for megabytes in found.values())
    monkeypatch.setattr(files, "ROWS", 100)
    monkeypatch.setattr(files.tempfile, "tempdir", str(tmp_path))
    made = files.Competition(300)
    assert made.path == files.Competition(300).path  # written once
    assert made.here() == made.whole() == pytest.approx(made.pandas(), rel=1e-12)
    resident, addresses = made.bounded
    assert 0 < resident < addresses
    with pytest.raises(subprocess.CalledProcessError):
        made.measured(files.COMMAND, "score", *made.files, limit=50_000)


def test_contenders_of_small_arrays_agree():
    """Ours and torch's: every loss, every module, with its gradient."""
    for call in cases.calls():
        agree(small.numpy_calls(call))
        agree(table.small_tensors(call))
    agree(table.small_jax())
    agree(table.small_log_loss())


def test_steps_of_modules_agree():
    assert {module.name for module in small.MODULES} | {"SoftmaxLoss", "softmax_loss", "linear_softmax_loss"} >= {
        name for name in pl.torch.__all__ if name not in ("CosineEmbeddingLoss", "LinearCrossEntropyLoss")
    }
    for module in small.MODULES:
        agree(module.steps((8, 4)))
        agree(module.steps((128, 130)))


def agree(contenders):
    """Values and gradients of the contenders of a line are the same."""
    table.check_agreement(table.Line("", "", "", None, ()), contenders)
    results = [call() for name, call in contenders.items() if name not in table.MEMORY]
    gradients = [np.asarray(result[1]) for result in results if isinstance(result, tuple)]
    for gradient in gradients:
        np.testing.assert_allclose(gradient, gradients[0], rtol=1e-4, atol=1e-7)


def test_disagreement_is_found():
    with pytest.raises(AssertionError, match="disagree"):
        table.check_agreement(table.Line("", "", "", None, ()), {"a": lambda: 1.0, "b": lambda: 1.01})


def test_alternate_finds_the_faster(monkeypatch):
    now = [0.0]

    def last(seconds):
        now[0] += seconds

    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: now[0], sleep=last))
    best = timing.alternate({"once": lambda: last(1e-3), "eight times": lambda: last(8e-3)}, seconds=0)
    assert best == pytest.approx({"once": 1e-3, "eight times": 8e-3})


# --------------------------------------------------------------------------------------------------------- the page


FIGURES = json.loads((ROOT / "docs" / "benchmarks.json").read_text("utf-8"))


def test_page_is_that_of_the_figures():
    assert (ROOT / "docs" / "benchmarks.md").read_text("utf-8") == render.page(FIGURES)


def test_readme_is_that_of_the_figures():
    text = (ROOT / "README.md").read_text("utf-8")
    assert text == render.readme(text, FIGURES)
    slower = [line | {"ms": {name: 2 * ms for name, ms in line["ms"].items()}} for line in FIGURES["lines"] if "ms" in line]
    assert text != render.readme(text, FIGURES | {"lines": slower})


def test_verdicts():
    line = {"ms": {"ours": 2.0, "fast": 3.0, "slow": 40.0}, "goals": [["ours", "fast", 2], ["ours", "slow", 20]]}
    assert list(render.verdicts(line)) == [("ours", "fast", "2.00", "1.50", "missed by 25%"), ("ours", "slow", "20.0", "20.0", "met")]


# --------------------------------------------------------------------------------------------------------- the gate


def visits(seconds, spread, seed):
    """Times as a shared machine gives them: never below the true one, now and then far above."""
    rng = np.random.default_rng(seed)
    return list(seconds * (1 + rng.exponential(spread, 8)))


def session(slowdown=1.0, spread=0.05, seed=0):
    """Samples of thirty cases; the first case's head is slower."""
    return {
        str(k): tuple(visits(1e-3 * (slowdown if k == 0 and side == 2 else 1), spread, (seed, k, side)) for side in range(3))
        for k in range(30)
    }


def slower(samples):
    """Names of the cases judged slower."""
    return [name for name, verdict in compare.judge(samples).items() if verdict[2]]


@pytest.mark.parametrize("seed", range(20))
def test_gate_passes_what_is_equal(seed):
    assert slower(session(seed=seed)) == []


@pytest.mark.parametrize("seed", range(20))
def test_gate_finds_one_slower_case(seed):
    assert slower(session(slowdown=1.4, seed=seed)) == ["0"]


def test_gate_knows_its_noise():
    base, again, head = [1.0, 1.1], [1.3, 1.4], [1.4, 1.5]
    ((ratio, noise, is_slower),) = compare.judge({"case": (base, again, head)}).values()
    assert (ratio, noise, is_slower) == (pytest.approx(1.4 / math.sqrt(1.3)), 1.3, False)
    assert slower({"case": (base, again, [1.8])}) == ["case"]


def test_gate_takes_suspects_again(monkeypatch):
    launches = []

    def measure(base, head, wanted, samples, threads):
        names = [name for name in ("chance", "slower") if wanted(name)]
        launches.append(names)
        for name in names:
            slowdown = 1.5 if name == "slower" or len(launches) <= compare.LAUNCHES else 1.0
            for side, seconds in zip(samples.setdefault(name, ([], [], [])), (1.0, 1.0, slowdown), strict=True):
                side.append(seconds)
        return {}

    monkeypatch.setattr(compare, "measure", measure)
    verdicts, _, _ = compare.compare("base", "head")
    assert launches == [["chance", "slower"]] * (compare.LAUNCHES + 1) + [["slower"]] * (compare.AGAIN - 1)
    assert [name for name, verdict in verdicts.items() if verdict[2]] == ["slower"]


@pytest.mark.slow
def test_gate_fails_on_a_slower_kernel(tmp_path):
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    kernel = clone / "src" / "polyloss" / "_kernels" / "cpu" / "tasks.pxi"
    text, found = re.subn(r" +loops\.task\(.*\)\n", r"\g<0>\g<0>", kernel.read_text("utf-8"))  # every task is done twice
    assert found, "the driver no longer calls loops.task in a line of its own"
    kernel.write_text(text, "utf-8")
    compared = functools.partial(subprocess.run, cwd=clone, capture_output=True, text=True)
    command = [sys.executable, "asv_bench/compare.py", "HEAD", "--only", "squared_error"]
    done = compared(command)
    assert done.returncode == 1, done.stdout + done.stderr
    assert re.search(r"^mean_squared_error .* slower$", done.stdout, re.MULTILINE), done.stdout
    done = compared([*command, "--head", "HEAD"])
    assert done.returncode == 0, done.stdout + done.stderr


# --------------------------------------------------------------------------------------------------------- asv's suite

SUITES = [
    suite
    for name in ("losses", "softmax", "log_loss", "evaluation", "process", "gpu")
    for suite in vars(importlib.import_module(f"benchmarks.{name}")).values()
    if inspect.isclass(suite) and suite.__module__ == f"benchmarks.{name}"
]


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: f"{suite.__module__}.{suite.__name__}")
def test_suite_runs(suite, monkeypatch):
    """Every benchmark of every suite, on the first parameters, as asv would call it."""
    assert len(inspect.getdoc(suite)) > 60, "a suite says why its sizes are there"
    for name, value in {"shape": (4, 8), "case": cases.SMALL}.items():
        if hasattr(suite, name):
            monkeypatch.setattr(suite, name, value)
    monkeypatch.setattr(timing, "PAUSE", 0)
    params = getattr(suite, "params", [])
    first = [p[0] for p in params] if params and isinstance(params[0], list) else params[:1]
    names = [name for name in dir(suite) if re.match(r"(time|timeraw|track|peakmem)_", name)]
    assert names
    for name in names:
        benchmark = suite()
        try:
            getattr(benchmark, "setup", lambda *_: None)(*first)
        except NotImplementedError as skipped:
            pytest.skip(str(skipped))
        result = getattr(benchmark, name)(*first)
        getattr(benchmark, "teardown", lambda *_: None)(*first)
        if name.startswith("track_"):
            assert result > 0
        if name.startswith("timeraw_"):
            subprocess.run([sys.executable, "-c", result], check=True)


@pytest.mark.parametrize("library", ["torch", "jax", "dask", "array_api_strict"])
def test_losses_run_on_every_library(library, monkeypatch):
    losses = importlib.import_module("benchmarks.losses")
    monkeypatch.setattr(losses.Losses, "shape", (4, 8))
    for name in losses.CALLS:
        suite = losses.Losses()
        suite.setup(name, library, "float32")
        suite.time_value(name, library, "float32")
        suite.time_value_and_grad(name, library, "float32")


# ---------------------------------------------------------------------------------------------------------- the site


def test_site_loads_nothing_from_elsewhere():
    import asv

    page, names = local_site.whole((Path(asv.__file__).parent / "www" / "index.html").read_text("utf-8"))
    assert len(names) == len(local_site.SOURCES)
    assert not re.search(r"<(script|link)[^>]*https?://", page)
    with pytest.raises(ValueError, match=r"unknown\.js"):
        local_site.whole('<script src="https://example.org/unknown.js">')


@pytest.mark.slow
def test_site_shows_graphs(tmp_path):
    if browser.CHROMIUM is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    if shutil.which("npm") is None:
        pytest.skip("there is no npm to fetch the site's scripts with: apt-get install npm")
    config = json.loads(re.sub(r"^ *//.*$", "", (BENCH / "asv.conf.json").read_text("utf-8"), flags=re.MULTILINE))
    config |= {"repo": str(ROOT), "branches": ["HEAD"], "benchmark_dir": str(BENCH / "benchmarks"), "regressions_thresholds": {}}
    (tmp_path / "asv.conf.json").write_text(json.dumps(config), "utf-8")
    environment = os.environ | {"HOME": str(tmp_path), "ASV_PYTHONPATH": str(Path(pl.__file__).parents[1])}
    asv = functools.partial(subprocess.run, cwd=tmp_path, check=True, env=environment)
    run = [sys.executable, "-m", "asv"]
    asv([*run, "machine", "--yes"])
    commits = subprocess.run(["git", "rev-list", "-2", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    quick = [*run, "run", "--environment", f"existing:{sys.executable}", "--quick", "--bench", "Overhead"]
    for commit in commits:
        asv([*quick, "--set-commit-hash", commit])
    asv([*run, "publish"])
    subprocess.run([sys.executable, BENCH / "local_site.py", tmp_path / "html"], check=True)

    with browser.served(tmp_path / "html") as site:
        pages = {name: browser.visit(site, name, tmp_path / "profile")[0] for name in ("", "#softmax.Overhead.time_numpy")}
    assert "softmax.Overhead.time_numpy" in pages[""]
    graph = pages["#softmax.Overhead.time_numpy"]
    assert "flot-base" in graph  # the canvas that Flot draws on
    assert re.search(r'class="[^"]*tickLabel[^"]*"[^>]*>[^<]*[0-9]', graph) or re.search(r"flot-tick-label[^>]*>[^<]*[0-9]", graph)
