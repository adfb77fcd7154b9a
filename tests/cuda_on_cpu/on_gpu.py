"""Run the kernels' tests and benchmarks on the first CUDA device, the most telling first, each step's result written at once.

    python tests/cuda_on_cpu/on_gpu.py test|bench OUT [--wheels FOLDER] [--seconds 840] [STEP ...]

A device may be lent for minutes and taken away at any time. So each step is a process of its own with a time of its own and its output in a
file of OUT, and OUT/test.json or OUT/bench.json holds what is known so far; steps for which no time is left are named there as such:

- versions: of the device, its driver and the libraries.
- kernels: those of the steps below, compiled into CuPy's cache by as many processes as there are cores: seconds, registers, spilled bytes.
- smoke-…: one call for each kind of launch, then streams, capture and replay of a graph, torch.compile, an output over an input.
- tests-…: pytest, file by file; once the device is lost the tests that are left say so instead of failing one by one.
- memcheck, racecheck, initcheck, synccheck: one test for each layout of a launch under each tool of compute-sanitizer, if it is installed.
- few, profile, lines: of `bench`: eight lines of asv_bench/gpu.py, the same under ncu if it is installed, then all of its lines.

It needs CuPy and a torch with CUDA; the tests need pytest and ml_dtypes, and the laws the libraries of the whole suite. pytest-xdist and
pytest-timeout are used where they are installed. Wheels of what is missing (array-api-compat, liger-kernel) are unpacked from FOLDER:
without network, without installing anything. The package is taken from where it is installed, else from src.
"""

import argparse
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
NEEDED = ("cupy", "torch", "array_api_compat")
TESTED = ("pytest", "ml_dtypes")
SUITE = ("array_api_strict", "dask", "hypothesis", "jax", "mpmath")  # what the laws import
FILES = ("softmax", "routes", "elementwise", "rowwise", "laws")  # the other tests are of the shim, or compile without a device
# What the sanitizer's tools run: each layout of a launch once, for they are a hundred times slower.
FEW = "storage_types or clusters or skipped_positions or taken_in_parts"
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
SECTIONS = ("SpeedOfLight", "LaunchStats", "Occupancy", "MemoryWorkloadAnalysis")
SMOKE = (
    "warp", "block", "cluster", "parts", "spatial", "elements", "rowwise", "streams", "graph", "compile", "reduce_overhead", "overlap",
)  # fmt: skip


class Step(NamedTuple):
    """What is run, and for how long at most."""

    name: str
    command: list
    seconds: int
    report: Path | None = None  # of pytest
    environment: dict = {}


def steps(kind, out):
    """What `test` or `bench` consists of, in order."""
    run = [sys.executable, str(HERE / "on_gpu_smoke.py")]
    first = [Step("versions", [*run, "versions"], 60), Step("kernels", [*run, "kernels"], 180)]
    return first + (tests(out, run) if kind == "test" else benchmarks(out))


def tests(out, run):
    found = [Step(f"smoke-{name}", [*run, name], 60) for name in SMOKE]
    spread = ["-n", "8"] if _installed("xdist") else []
    for name in FILES:
        if name == "laws" and lacking(SUITE):
            continue
        report = out / f"tests-{name}.xml"
        found.append(Step(f"tests-{name}", [sys.executable, *pytest_line([name], report), *spread], 240, report))
    if sanitizer := shutil.which("compute-sanitizer"):
        for tool in TOOLS:
            report = out / f"{tool}.xml"
            line = [sys.executable, *pytest_line(["softmax", "elementwise", "rowwise"], report), "-k", FEW]
            command = [sanitizer, "--tool", tool, "--error-exitcode", "9", "--target-processes", "all", *line]
            found.append(Step(tool, command, 300, report, {"POLYLOSS_TEST_ALONE": "1"}))
    return found


def benchmarks(out):
    bench = [sys.executable, str(ROOT / "asv_bench" / "gpu.py")]
    found = [Step("few", [*bench, str(out / "few.json"), "--few"], 240)]
    if ncu := shutil.which("ncu"):
        sections = [word for section in SECTIONS for word in ("--section", section)]
        command = [ncu, *sections, "--target-processes", "all", *bench, str(out / "profiled.json"), "--few", "--rounds", "1", "--alone"]
        found.append(Step("profile", command, 240))
    return [*found, Step("lines", [*bench, str(out / "lines.json")], 600)]


def pytest_line(names, report):
    """pytest's arguments."""
    # Warnings are errors where versions are known, not here. And the package's kernels for a CPU need not be built.
    options = ["-W", "default", "-W", "ignore:polyloss runs on formulas:RuntimeWarning", "-p", "lost_device", f"--junitxml={report}"]
    options += ["--timeout", "60"] if _installed("pytest_timeout") else []
    options += ["--noconftest"] if lacking(SUITE) else []
    return ["-m", "pytest", "-q", *options, *(str(HERE / f"test_{name}_on_shim.py") for name in names)]


def lacking(names):
    """Those of the libraries that are not installed."""
    return [name for name in names if not _installed(name)]


def _installed(name):
    return importlib.util.find_spec(name) is not None


def performed(step, out, seconds):
    """Run a step for at most so many seconds; what is known of it."""
    began, environment = time.monotonic(), {**os.environ, **step.environment}
    with open(out / f"{step.name}.log", "w") as log:
        process = subprocess.Popen(step.command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=ROOT, start_new_session=True)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = "no end in time"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    found = {"exit code": code, "seconds": round(time.monotonic() - began, 1)}
    if step.report is not None:
        found |= counted(step.report)
    return found


def counted(report):
    """What a report of pytest counts; no report, no test passed."""
    if not report.exists():
        return {"passed": 0}
    suite = ElementTree.parse(report).getroot().find("testsuite")
    total, failed, errors, skipped = (int(suite.get(name)) for name in ("tests", "failures", "errors", "skipped"))
    return {"passed": total - failed - errors - skipped, "failed": failed, "errors": errors, "skipped": skipped}


def unpacked(wheels, out):
    """Wheels of the folder in a folder for Python to look in."""
    there = out / "wheels"
    for wheel in sorted(Path(wheels).glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(there)
    return there


def main(words):
    """Run the steps, or those that are named; 0 if all passed."""
    parser = argparse.ArgumentParser(description="The kernels' tests or benchmarks on the first CUDA device.")
    parser.add_argument("kind", choices=("test", "bench"))
    parser.add_argument("out", type=Path)
    parser.add_argument("only", nargs="*", metavar="STEP")
    parser.add_argument("--wheels", type=Path)
    parser.add_argument("--seconds", type=float, default=840.0)
    asked = parser.parse_args(words)
    began, out = time.monotonic(), asked.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    paths = [str(HERE)]
    if asked.wheels is not None:
        paths.append(str(unpacked(asked.wheels, out)))
    sys.path += paths
    if not _installed("polyloss"):
        paths.append(str(ROOT / "src"))
    os.environ["PYTHONPATH"] = os.pathsep.join([*paths, *filter(None, [os.environ.get("PYTHONPATH")])])
    # JAX would take three quarters of the memory in each of the tests' processes.
    os.environ |= {"POLYLOSS_TEST_GPU": "1", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    if missing := lacking((*NEEDED, *(TESTED if asked.kind == "test" else ()))):
        sys.stderr.write(f"not installed are {', '.join(missing)}\n")
        return 2
    results = {step.name: "not begun" for step in steps(asked.kind, out) if not asked.only or step.name in asked.only}
    for step in steps(asked.kind, out):
        left = asked.seconds - (time.monotonic() - began)
        if step.name in results and left >= 5:
            results[step.name] = "begun"
            write(out / f"{asked.kind}.json", results)
            results[step.name] = performed(step, out, min(step.seconds, left))
            sys.stdout.write(f"{step.name:20s} {results[step.name]}\n")
            sys.stdout.flush()
        write(out / f"{asked.kind}.json", results)
        if step.name == "versions" and results.get("versions", {"exit code": 0})["exit code"] != 0:
            sys.stderr.write((out / "versions.log").read_text())
            return 2
    return 0 if all(isinstance(x, dict) and x["exit code"] == 0 and x.get("passed", 1) for x in results.values()) else 1


def write(path, results):
    """All results so far, never half a file."""
    path.with_suffix(".part").write_text(json.dumps(results, indent=2) + "\n")
    path.with_suffix(".part").replace(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
