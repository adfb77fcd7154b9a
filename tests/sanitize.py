"""Run the kernels' tests under sanitizers: `python tests/sanitize.py address`, or `thread`, as `make sanitize` does.

What follows goes to pytest.

address   gcc's address and undefined-behaviour sanitizers: every access and operation of the kernels, through every library that calls
          them, and through the handler that XLA calls; one test looks for memory that the kernels leave behind.
thread    clang's thread sanitizer: every pair of accesses by two threads. What OpenMP orders it learns from clang's own OpenMP library
          alone, through the tool Archer. Debian and Ubuntu have all three: apt install clang libomp-dev libclang-rt-dev.

The kernels are built anew for each, in build/sanitized. The sanitizers report on stderr and end the process, so pytest may not hold stderr
back, and one process runs all tests, since a report would be lost with a worker.
"""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "build" / "sanitized"
KERNELS = [
    f"tests/test_{name}.py"
    for name in ("elementwise_kernel", "rowwise_kernel", "softmax_kernel", "values_kernel", "sets_kernel", "log_loss")
]
MEMORY = [
    ["tests/test_memory_bounds.py", "tests/test_vector_math.py", *KERNELS, "tests/test_semantics.py"],
    ["tests/test_jax.py", "-k", "TestKernelsInPrograms"],
]
THREADS = [[*KERNELS, "-k", "thread or on_the_way or counts_as_binary"]]


def printed_by(*command):
    """What a program prints; if it fails this one ends."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"{' '.join(command)}: {error}\nmake sanitize needs gcc, clang, libomp-dev and libclang-rt-dev")


def build(sanitizer, **variables):
    site = OUT / sanitizer / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", site, "."]
    variables = {**os.environ, **variables, "POLYLOSS_SANITIZE": sanitizer, "POLYLOSS_REQUIRE_KERNELS": "1"}
    subprocess.run(command, cwd=ROOT, env=variables, check=True)
    return site


def address():
    """The interpreter and the variables of its environment. The sanitizers see what NumPy and Python take from malloc."""
    site = build("address")
    libraries = (printed_by("gcc", f"-print-file-name={name}") for name in ("libasan.so", "libubsan.so"))
    return sys.executable, {
        "LD_PRELOAD": " ".join(libraries), "PYTHONPATH": str(site), "PYTHONMALLOC": "malloc", "POLYLOSS_SANITIZE": "address",
        "ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1",
    }  # fmt: skip


def thread():
    """The same for threads. The sanitizer must start before all else: a small program, built with it, runs the interpreter."""
    clang, get = os.environ.get("CLANG", "clang"), sysconfig.get_config_var
    site = build("thread", CC=clang, CXX=f"{clang}++")
    source, program = OUT / "thread" / "interpreter.c", OUT / "thread" / "interpreter"
    source.write_text("#include <Python.h>\nint main(int argc, char **argv) { return Py_BytesMain(argc, argv); }\n")
    libraries = [f"-L{get('LIBDIR')}", f"-L{get('LIBPL')}", f"-Wl,-rpath,{get('LIBDIR')}", f"-lpython{get('LDVERSION')}"]
    libraries += f"{get('LIBS')} {get('SYSLIBS')} -lm -ldl -lpthread -lutil".split()
    printed_by(
        clang, "-g", "-fsanitize=thread", "-rdynamic", f"-I{sysconfig.get_path('include')}", str(source), *libraries, "-o", str(program)
    )
    archer = Path(printed_by(clang, "-print-resource-dir")).parents[2] / "lib" / "libarcher.so"
    if not archer.exists():
        archer = Path(printed_by(clang, "-print-file-name=libarcher.so"))
    if not archer.exists():
        sys.exit("libarcher.so was not found: make sanitize needs libomp-dev")
    return str(program), {
        "PYTHONHOME": sys.base_prefix, "PYTHONPATH": os.pathsep.join([str(site), sysconfig.get_path("purelib")]),
        "POLYLOSS_SANITIZE": "thread", "OMP_TOOL_LIBRARIES": str(archer),
        "TSAN_OPTIONS": "ignore_noninstrumented_modules=1 halt_on_error=1 exitcode=66",
    }  # fmt: skip


def main(sanitizer, *arguments):
    python, variables = {"address": address, "thread": thread}[sanitizer]()
    for tests in MEMORY if sanitizer == "address" else THREADS:
        command = [python, "-m", "pytest", "--capture=sys", "-p", "no:cacheprovider", *tests, *arguments]
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", **variables}, check=False)
        if done.returncode:
            sys.exit(done.returncode)


if __name__ == "__main__":
    main(*sys.argv[1:])
