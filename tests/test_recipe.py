"""The recipes of docs/contributing.md for a loss, a row-wise loss and a metric, followed to the letter in a copy of the package."""

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
from polyloss._core.block import Elementwise
from polyloss._core.params import positive

ROOT = Path(__file__).resolve().parents[1]
RECIPES = (ROOT / "docs" / "contributing.md").read_text("utf-8")
SOURCES = ROOT / "src" / "polyloss" / "_kernels"
CALLS = """
assert "cauchy" in pl.names() and pl.get("Lorentzian") is pl.cauchy
t, p = np.zeros((5, 3)), np.linspace(-3, 3, 15).reshape(5, 3)
for lib in [lambda x: x] + {libraries}:
    value, slope = pl.value_and_grad("cauchy")(lib(t), lib(p), gamma=2.0, reduction="sum")
    np.testing.assert_allclose(np.asarray(value), np.log1p((p / 2) ** 2).mean(1).sum(), 1e-12)
    np.testing.assert_allclose(np.asarray(slope), 2 * p / (4 + p * p) / 3, 1e-12)
assert pl.explain("cauchy", t, p).route == "formula"
"""
ROWWISE = """
assert "softmax_brier" in pl.names() and pl.get("SoftmaxBrier".lower()) is pl.softmax_brier
labels, logits = np.array([0, 2, 1, 2]), np.random.default_rng(0).normal(size=(4, 3))
prob = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
miss = prob - np.eye(3)[labels]
bend = prob[:, :, None] * (np.eye(3) - prob[:, None, :])  # of each probability by each logit
for lib in [lambda x: x] + {libraries}:
    for target in labels, np.eye(3)[labels]:
        value, slope = pl.value_and_grad("softmax_brier")(lib(target), lib(logits), sample_weight=lib(np.arange(4.0)), reduction="sum")
        np.testing.assert_allclose(float(value), ((miss**2).sum(1) * np.arange(4)).sum(), 1e-12)
        np.testing.assert_allclose(np.asarray(slope), np.arange(4)[:, None] * 2 * np.einsum("nc,ncj->nj", miss, bend), 1e-12, 1e-15)
step = 1e-6
_, curvature = pl.grad_and_hess("softmax_brier")(labels, logits)
for j in range(3):
    up, down = (pl.grad("softmax_brier")(labels, logits + sign * step * np.eye(3)[j])[:, j] for sign in (1, -1))
    np.testing.assert_allclose(curvature[:, j], (up - down) / (2 * step), 1e-6, 1e-8)
assert pl.explain("softmax_brier", labels, logits).route == "formula"
"""
METRIC = """
assert "accuracy" in pl.names() and pl.get("accuracy") is pl.accuracy
names, weight = ["b", "a", "c", "b"], np.arange(1.0, 5)
prob = np.array([[0.1, 0.8, 0.1], [0.2, 0.3, 0.5], [0.0, 0.0, 1.0], [0.6, 0.4, 0.0]])
for lib in [lambda x: x] + {libraries}:
    assert pl.accuracy(names, lib(prob)) == 0.5
    assert pl.accuracy(names, lib(prob), sample_weight=lib(weight)) == (1 + 3) / 10
    assert pl.accuracy(["a", "b"], lib(prob[:2]), labels=["a", "b", "c"], normalize=False) == 0
    assert pl.accuracy([1, 0, 0], lib(np.array([0.9, 0.1, 0.7]))) == 2 / 3
try:
    pl.grad("accuracy")
except TypeError as error:
    assert "accuracy is a metric" in str(error)
else:
    raise AssertionError("a metric has no gradient")
"""
SCALARS = """
#include <math.h>
#define __device__
#define __forceinline__ inline
#define real double
#define one double
#define MASK int
#define FORMULA(name) name##_d
#include "formulas/elementwise.h"
void three(double t, double p, double a, double *to)
{
    to[0] = cauchy_value_d(t, p, &a), to[1] = cauchy_slope_d(t, p, &a), to[2] = cauchy_curvature_d(t, p, &a);
}
"""

ROWS = """
#include "cpu/loops/rowwise_simd.c"
#define NAME(name, parameters, labels) #name,
static const char *const names[] = {ROWWISE(NAME)};
int find(const char *name) /* its place in both lists, or -1 */
{
    int losses = sizeof names / sizeof *names, found = losses;
    while (found-- && strcmp(names[found], name));
    return sizeof rows_d / sizeof *rows_d == losses ? found : -1;
}
double row_of_doubles(int loss, ptrdiff_t C, ptrdiff_t label, const double *z, double k, double *g, double *h)
{
    return rows_d[loss].of_label(C, label, z, NULL, k, g, h);
}
double row_of_floats(int loss, ptrdiff_t C, ptrdiff_t label, const float *z, float k, float *g, float *h)
{
    return rows_f[loss].of_label(C, label, z, NULL, k, g, h);
}
"""


def block(language, recipe="loss"):
    """The first block of a recipe in a language."""
    text = RECIPES.partition(f"## Add a {recipe}\n")[2].partition("\n## ")[0]
    return re.search(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[1]


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

    entry, _, code = block("c", "row-wise loss").partition("\n\n")
    function, _, row = code.rpartition("\n\n")
    changes = [
        ("formulas/rowwise.h", r"^(    X\(.*[^\\\s])\n(?=#define ROWWISE_PARAMETERS)", rf"\1 \\\n{entry}\n"),
        ("cpu/loops/rowwise_loops.h", r"^(?=/\* In the order of ROWWISE)", lambda _: f"{function}\n\n"),
        ("cpu/loops/rowwise_loops.h", r"^(?=};\n\nINLINE int FORMULA\(lies\))", lambda _: row),
        ("gpu/rowwise.cu", r"^(?=// ---- positions )", lambda _: block("cuda", "row-wise loss") + "\n"),
    ]
    for file, place, to in changes:
        text, found = re.subn(place, to, (folder / file).read_text("utf-8"), flags=re.MULTILINE)
        assert found == 1
        (folder / file).write_text(text, "utf-8")
    return folder


@pytest.mark.parametrize(
    ("recipe", "module", "name", "calls"),
    [
        ("loss", "regression", "cauchy", CALLS),
        ("row-wise loss", "classification", "softmax_brier", ROWWISE),
        ("metric", "metrics._accuracy", "accuracy", METRIC),
    ],
)
def test_the_block_and_the_export_are_a_loss_or_a_metric(tmp_path, recipe, module, name, calls):
    package = tmp_path / "polyloss"
    shutil.copytree(Path(pl.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    code = block("python", recipe)
    assert f"def {name}(" in code
    with open(package / f"{module.replace('.', '/')}.py", "a", encoding="utf-8") as file:
        file.write("\n\n" + code.replace("import polyloss as pl\n", ""))
    folder = module.partition(".")[0]
    changes = [
        ("__init__.py", f"from polyloss.{folder} import", f"from polyloss.{folder} import {name}\nfrom polyloss.{folder} import"),
        ("__init__.py", "__all__ = [\n", f'__all__ = [\n    "{name}",\n'),
    ]
    if recipe == "metric":
        changes += [
            ("metrics/__init__.py", "\n__all__ = [", f'from polyloss.{module} import {name}\n\n__all__ = ["{name}", '),
            ("registry.py", "import log_loss\n", f"import {name}, log_loss\n"),
            ("registry.py", '{"log_loss": log_loss}', f'{{"log_loss": log_loss, "{name}": {name}}}'),
        ]
    for file, old, new in changes:
        text = (package / file).read_text("utf-8")
        assert text.count(old) == 1
        (package / file).write_text(text.replace(old, new), "utf-8")
    libraries = [f"__import__({name!r}).{rest}" for name, rest in (("torch", "from_numpy"), ("jax", "numpy.asarray")) if _has(name)]
    program = f"import numpy as np, polyloss as pl\nassert pl.__file__.startswith({str(tmp_path)!r})\n"
    program += calls.format(libraries=f"[{', '.join(libraries)}]")
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


@pytest.fixture(scope="module")
def rows(sources, tmp_path_factory):
    """The loops of the row-wise losses with the recipe's among them, of the smallest vectors: {dtype: the function of a row}."""
    folder = tmp_path_factory.mktemp("rows")
    (folder / "rows.c").write_text(ROWS)
    library = folder / "rows.so"
    command = ["gcc", "-shared", "-fPIC", "-std=gnu11", "-w", "-DISA=baseline", f"-I{sources}", folder / "rows.c", "-o", library, "-lm"]
    subprocess.run(command, check=True, timeout=300)
    library = ctypes.CDLL(str(library))
    loss = library.find(b"softmax_brier")
    assert loss > 0

    def row(function, number, dtype):
        array = ctypes.POINTER(number)
        function.restype = ctypes.c_double
        function.argtypes = [ctypes.c_int, ctypes.c_ssize_t, ctypes.c_ssize_t, array, number, array, array]

        def call(label, z, k, g, h):
            z, (g, h) = z.astype(dtype), (x if x is None else x.ctypes.data_as(array) for x in (g, h))
            return function(loss, z.size, label, z.ctypes.data_as(array), k, g, h)

        return call

    double, single = (library.row_of_doubles, ctypes.c_double, np.float64), (library.row_of_floats, ctypes.c_float, np.float32)
    return {np.float64: row(*double), np.float32: row(*single)}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("classes", [1, 3, 50])
def test_the_row_is_that_of_the_block(rows, classes, dtype):
    """Value, slopes and curvatures of the recipe's loop in C, beside those of the recipe's block."""
    names = {}
    code = block("python", "row-wise loss")
    exec(code[: code.index("@public")], names)
    softmax_brier = names["SoftmaxBrier"]
    z = np.random.default_rng(classes).normal(size=classes)
    eps = 16 * np.finfo(dtype).eps
    for label in {0, classes // 2, classes - 1}:
        t = np.eye(classes)[label]
        at = np, t[None, :, None], z[None, :, None]
        value, slope, curvature = (getattr(softmax_brier, f)(*at, block=softmax_brier).ravel() for f in ("value", "slope", "curvature"))
        g, h = np.full((2, classes + 1), 7, dtype)  # the last number is not theirs
        found = rows[dtype](label, z, 3, g, h)
        np.testing.assert_allclose(found, value[0], eps, eps)
        np.testing.assert_allclose(g, [*3 * slope, 7], 1e-15, 3 * eps)
        np.testing.assert_allclose(h, [*3 * curvature, 7], 1e-15, 3 * eps)
        assert rows[dtype](label, z, 3, None, None) == found


@pytest.mark.parametrize(("shape", "dtype"), [((5, 3, 1), "float64"), ((3, 600, 1), "float32"), ((2, 4, 3), "float32")])
def test_the_row_on_a_gpu_is_that_of_the_block(sources, monkeypatch, shape, dtype):
    """The recipe's CUDA, executed on the CPU: lanes of a warp, a block, and positions beside each other."""
    monkeypatch.syspath_prepend(ROOT / "tests" / "cuda_on_cpu")
    device = pytest.importorskip("stand_in")
    from polyloss._kernels.gpu import cuda

    names = {}
    code = block("python", "row-wise loss")
    exec(code[: code.index("@public")], names)
    softmax_brier = names["SoftmaxBrier"]
    rng = np.random.default_rng(shape[1])
    z, y = 3 * rng.normal(size=shape).astype(dtype), rng.integers(0, shape[1], (shape[0], shape[2]))
    z[0, y[0, 0], 0] = 30  # a sure label, whose 1 - p would cancel
    monkeypatch.setattr(cuda, "FOLDER", sources)
    device.forget()
    with device.device():
        at = {name: device.empty(shape, z.dtype) for name in ("grad", "hess")} | {"losses": device.empty((shape[0], shape[2]), z.dtype)}
        cuda.rowwise(device.namespace, device.asarray(z), device.asarray(y), loss="softmax_brier", dtype=dtype, **at)
        found = {name: device.host(x) for name, x in at.items()}
    device.forget()
    z, t = z.astype("f8"), np.moveaxis(np.eye(shape[1])[y], -1, 1)
    eps = 64 * np.finfo(dtype).eps
    for name, formula in (("losses", "value"), ("grad", "slope"), ("hess", "curvature")):
        np.testing.assert_allclose(found[name], getattr(softmax_brier, formula)(np, t, z, block=softmax_brier), eps, eps, err_msg=name)
