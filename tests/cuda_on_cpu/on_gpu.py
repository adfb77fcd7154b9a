"""Run the kernels' tests on the first CUDA device, then again under compute-sanitizer where it is installed; keep the outcome as JSON.

    python tests/cuda_on_cpu/on_gpu.py [results.json [tests memcheck racecheck initcheck synccheck]]

It needs CuPy, a torch with CUDA, pytest, ml_dtypes and array-api-compat; pytest-xdist makes it several times faster, since compiling the
kernels takes most of the time. The laws of tests/test_laws.py take part where the libraries of the whole suite are installed. The package
is taken from where it is installed, else from src. The file is written after each part: a run that is cut short leaves what it has.
"""

import datetime
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

HERE = Path(__file__).parent
NEEDED = ("cupy", "torch", "pytest", "ml_dtypes", "array_api_compat")
SUITE = ("array_api_strict", "dask", "hypothesis", "jax", "mpmath")  # what the laws import
# Compiling without a device (which it does by taking CuPy's loader apart) and the shim's own tests have nothing to do here.
ELSEWHERE = ("test_compile.py", "test_shim.py", "test_bench_on_shim.py")
# What the sanitizer's tools run: each layout of a launch once, for they are a hundred times slower.
FEW = "storage_types or clusters or skipped_positions or taken_in_parts"
PARTS = ("tests", "memcheck", "racecheck", "initcheck", "synccheck")


def main(results="gpu-tests.json", *parts):
    """Run the parts, or all of them; 0 if all passed."""
    if missing := lacking(NEEDED):
        sys.stderr.write(f"not installed are {', '.join(missing)}\n")
        return 2
    import cupy

    if not cupy.cuda.is_available():
        sys.stderr.write("CuPy finds no CUDA device: there is nothing to test here\n")
        return 2
    device = cupy.cuda.runtime.getDeviceProperties(0)
    outcome = {
        "device": device["name"].decode(),
        "compute capability": f"{device['major']}.{device['minor']}",
        "driver": cupy.cuda.runtime.driverGetVersion(),
        "cupy": cupy.__version__,
        "date": datetime.date.today().isoformat(),
        "laws": "not run: not installed are " + ", ".join(missing) if (missing := lacking(SUITE)) else "run",
    }
    sanitizer = shutil.which("compute-sanitizer")
    if not sanitizer:
        outcome["compute-sanitizer"] = "not installed"
    for part in parts or PARTS:
        if part == "tests":
            outcome[part] = tests([sys.executable], *(["-n", "8"] if importlib.util.find_spec("xdist") else []))
        elif sanitizer:
            command = [sanitizer, "--tool", part, "--error-exitcode", "9", "--target-processes", "all", sys.executable]
            outcome[part] = tests(command, "-k", FEW, POLYLOSS_TEST_ALONE="1")
        Path(results).write_text(json.dumps(outcome, indent=2) + "\n")
    sys.stdout.write(json.dumps(outcome, indent=2) + "\n")
    return 0 if all(part["exit code"] == 0 and part["passed"] for part in outcome.values() if isinstance(part, dict)) else 1


def lacking(names):
    """Those of the libraries that are not installed."""
    return [name for name in names if importlib.util.find_spec(name) is None]


def command_line(report):
    """pytest's arguments."""
    ignored = [f"--ignore={HERE / name}" for name in ELSEWHERE]
    if lacking(SUITE):
        ignored += ["--noconftest", f"--ignore={HERE / 'test_laws_on_shim.py'}"]
    # Warnings are errors where versions are known, not here. And the package's kernels for a CPU need not be built.
    warnings = ["-W", "default", "-W", "ignore:polyloss runs on formulas:RuntimeWarning"]
    return ["-m", "pytest", "-q", *warnings, f"--junitxml={report}", *ignored, str(HERE)]


def tests(python, *options, **environment):
    """Counts of one run of the tests."""
    report = Path("gpu-tests.xml")
    report.unlink(missing_ok=True)
    environment = {**os.environ, "POLYLOSS_TEST_GPU": "1", **environment}
    if importlib.util.find_spec("polyloss") is None:
        environment["PYTHONPATH"] = os.pathsep.join([str(HERE.parent.parent / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    code = subprocess.run([*python, *command_line(report), *options], env=environment, check=False).returncode
    if not report.exists():
        return {"exit code": code, "passed": 0}
    suite = ElementTree.parse(report).getroot().find("testsuite")
    total, failed, errors, skipped = (int(suite.get(name)) for name in ("tests", "failures", "errors", "skipped"))
    return {"exit code": code, "passed": total - failed - errors - skipped, "failed": failed, "errors": errors, "skipped": skipped}


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
