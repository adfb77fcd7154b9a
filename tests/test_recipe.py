"""The recipe of docs/contributing.md for a loss, followed to the letter in a copy of the package."""

import ctypes
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import polyloss as pl
from polyloss._block import Elementwise
from polyloss._params import positive

ROOT = Path(__file__).resolve().parents[1]
RECIPE = (ROOT / "docs" / "contributing.md").read_text("utf-8").partition("## Add a loss\n")[2].partition("\n## ")[0]
SOURCES = ROOT / "src" / "polyloss" / "_kernels"
CALLS = """
import numpy as np, polyloss as pl
assert pl.__file__.startswith({folder!r})
assert "cauchy" in pl.names() and pl.get("Lorentzian") is pl.cauchy
t, p = np.zeros((5, 3)), np.linspace(-3, 3, 15).reshape(5, 3)
for lib in [lambda x: x] + {libraries}:
    value, slope = pl.value_and_grad("cauchy")(lib(t), lib(p), gamma=2.0, reduction="sum")
    np.testing.assert_allclose(np.asarray(value), np.log1p((p / 2) ** 2).mean(1).sum(), 1e-12)
    np.testing.assert_allclose(np.asarray(slope), 2 * p / (4 + p * p) / 3, 1e-12)
assert pl.explain("cauchy", t, p).route == "formula"
"""
SCALARS = """
#include <math.h>
#define __device__
#define __forceinline__ inline
#define real double
#define FORMULA(name) name##_d
#include "formulas/elementwise.h"
void three(double t, double p, double a, double *to)
{
    to[0] = cauchy_value_d(t, p, &a), to[1] = cauchy_slope_d(t, p, &a), to[2] = cauchy_curvature_d(t, p, &a);
}
"""


def block(language):
    """The first block of the recipe in a language."""
    return re.search(rf"^```{language}\n(.*?)^```$", RECIPE, re.MULTILINE | re.DOTALL)[1]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The kernels' sources with step 8 done: the entry at the end of the list, the formulas at the end of the file."""
    if not SOURCES.exists() or shutil.which("gcc") is None:
        pytest.skip("there are no sources beside the tests, or no gcc")
    folder = tmp_path_factory.mktemp("kernels")
    shutil.copytree(SOURCES, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    entry, _, losses = block("c").partition("\n\n")
    header = folder / "formulas" / "elementwise.h"
    last = re.compile(r"^(    X\(.*[^\\\s])\n(?=#define FORMULA_PARAMETERS)", re.MULTILINE)
    text, found = last.subn(rf"\1 \\\n{entry}\n", header.read_text("utf-8"))
    assert found == 1
    end = text.rindex("#undef LOSS\n")
    header.write_text(text[:end] + losses + text[end:], "utf-8")
    return folder


def test_the_block_and_the_export_are_a_loss(tmp_path):
    package = tmp_path / "polyloss"
    shutil.copytree(Path(pl.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    code = block("python")
    assert "call(Cauchy" in code
    with open(package / "regression.py", "a", encoding="utf-8") as file:
        file.write("\n\n" + code.replace("import polyloss as pl\n", ""))
    init = (package / "__init__.py").read_text("utf-8")
    init = init.replace("from polyloss.regression import (\n", "from polyloss.regression import (\n    cauchy,\n")
    init = init.replace("__all__ = [\n", '__all__ = [\n    "cauchy",\n')
    (package / "__init__.py").write_text(init, "utf-8")
    libraries = [f"__import__({name!r}).{rest}" for name, rest in (("torch", "from_numpy"), ("jax", "numpy.asarray")) if _has(name)]
    program = CALLS.format(folder=str(tmp_path), libraries=f"[{', '.join(libraries)}]")
    program = program if not _has("jax") else "import jax\njax.config.update('jax_enable_x64', True)\n" + program
    command = [sys.executable, "-c", f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n{program}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr


def _has(name):
    return find_spec(name) is not None


def test_the_formulas_are_those_of_the_block(sources, tmp_path):
    (tmp_path / "scalars.c").write_text(SCALARS)
    library = tmp_path / "scalars.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-w", f"-I{sources}", tmp_path / "scalars.c", "-o", library, "-lm"], check=True)
    three = ctypes.CDLL(str(library)).three
    three.argtypes = [ctypes.c_double] * 3 + [ctypes.POINTER(ctypes.c_double)]
    names = {}
    code = block("python")
    exec(code[code.index("class Cauchy") : code.index("@public")], {"Elementwise": Elementwise, "positive": positive}, names)
    for t, p, gamma in ((0.0, 2.0, 2.0), (-1.5, 3.0, 0.5), (7.0, 7.5, 10.0)):
        to = (ctypes.c_double * 3)()
        three(t, p, gamma, to)
        wanted = [getattr(names["Cauchy"], f)(np, np.float64(t), np.float64(p), gamma) for f in ("value", "slope", "curvature")]
        np.testing.assert_allclose(list(to), wanted, 1e-13)


def test_the_formulas_compile_for_vectors(sources):
    loops = sources / "cpu" / "loops" / "elementwise_simd.c"
    command = ["gcc", "-fsyntax-only", "-std=gnu11", "-Wall", "-Werror", "-DISA=baseline", f"-I{sources}"]
    done = subprocess.run([*command, loops], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
