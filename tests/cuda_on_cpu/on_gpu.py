"""Run the kernels' tests on the first CUDA device, then again under compute-sanitizer where it is installed; keep the outcome as JSON.

python tests/cuda_on_cpu/on_gpu.py [results.json]
"""

import datetime
import json
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

HERE = Path(__file__).parent
# What the sanitizer's tools run: each layout of a launch once, for they are a hundred times slower.
FEW = "storage_types or clusters or skipped_positions"
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")


def main(results="gpu-tests.json"):
    """Run everything; 0 if all of it passed."""
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
        "tests": tests([sys.executable]),
    }
    sanitizer = shutil.which("compute-sanitizer")
    for tool in TOOLS if sanitizer else ():
        command = [sanitizer, "--tool", tool, "--error-exitcode", "9", "--target-processes", "all", sys.executable]
        outcome[tool] = tests(command, "-k", FEW)
    if not sanitizer:
        outcome["compute-sanitizer"] = "not installed"
    text = json.dumps(outcome, indent=2) + "\n"
    Path(results).write_text(text)
    sys.stdout.write(text)
    return 0 if all(part["exit code"] == 0 and part["passed"] for part in outcome.values() if isinstance(part, dict)) else 1


def tests(python, *options):
    """Counts of one run of the tests."""
    report = Path("gpu-tests.xml")
    report.unlink(missing_ok=True)
    command = [*python, "-m", "pytest", "-q", "-p", "no:xdist", f"--junitxml={report}", *options, str(HERE)]
    code = subprocess.run(command, env={**os.environ, "POLYLOSS_TEST_GPU": "1"}, check=False).returncode
    if not report.exists():
        return {"exit code": code, "passed": 0}
    suite = ElementTree.parse(report).getroot().find("testsuite")
    total, failed, errors, skipped = (int(suite.get(name)) for name in ("tests", "failures", "errors", "skipped"))
    return {"exit code": code, "passed": total - failed - errors - skipped, "failed": failed, "errors": errors, "skipped": skipped}


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
