"""The documentation tells the truth: its code runs and prints what it says, and README's table of losses is the registry.

The blocks of one page run in order in one fresh interpreter, since Keras and JAX are set up once in a process. A word after the language,
as in "```python torch", names a library: such blocks form a run of their own, so that each section of a page can be copied alone.
"""

import ast
import doctest
import inspect
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from numpydoc.validate import validate

import polyloss as pl

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```python *(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUNS = [
    (page, library)
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    for library in sorted({block[1] for block in BLOCK.finditer(page.read_text("utf-8"))})
]


def run(page, library):
    """Execute the page's blocks for one library; the number of examples that printed something else."""
    text, names, runner = page.read_text("utf-8"), {"__name__": "__main__"}, doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for block in BLOCK.finditer(text):
        if block[1] != library:
            continue
        line = text.count("\n", 0, block.start(2))
        if block[2].startswith(">>>"):
            test = doctest.DocTestParser().get_doctest(block[2], names, page.name, str(page), line)
            runner.run(test, clear_globs=False)
            names.update(test.globs)
        else:
            exec(compile("\n" * line + block[2], str(page), "exec"), names)
    return runner.summarize(verbose=False).failed


@pytest.mark.parametrize(("page", "library"), RUNS, ids=[f"{page.stem}-{library or 'all'}" for page, library in RUNS])
def test_page(page, library):
    if library == "cupy" and not import_module("cupy").cuda.is_available():
        pytest.skip("CuPy finds no CUDA device")
    if (page.stem, library) == ("language_model", "torch") and not hasattr(import_module("torch").nn, "LinearCrossEntropyLoss"):
        pytest.skip("torch has the module since 2.13")
    settings = ("KERAS_BACKEND", "JAX_ENABLE_X64")  # of the other tests; a reader has none
    environment = {name: value for name, value in os.environ.items() if name not in settings}
    command = [sys.executable, __file__, page, library]
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", pl.__all__)
def test_docstring(name):
    """It has every section of numpydoc's that applies, and its examples print what they say."""
    optional = {"ES01", "EX01", "SA01"}  # extended summary, examples, see also
    if isinstance(getattr(pl, name), type):
        optional.add("PR01")  # the constructor of an enumeration is Python's
    assert not [error for error in validate(f"polyloss.{name}")["errors"] if error[0] not in optional]
    examples = doctest.DocTestFinder(recurse=False).find(getattr(pl, name), name, globs={})
    assert all(doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example).failed == 0 for example in examples)


def test_table_of_losses():
    section = (ROOT / "README.md").read_text("utf-8").partition("## The losses")[2].partition("\n## ")[0]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in section.splitlines() if row.startswith("| `")]
    rows = [(name.strip("`"), aliases, parameters) for name, aliases, _, parameters in cells]
    assert sorted(name for name, _, _ in rows) == list(pl.names())
    for name, aliases, parameters in rows:
        assert all(pl.get(alias) is pl.get(name) for alias in aliases.split(", ") if alias)
        signature = inspect.signature(pl.get(name)).parameters
        for parameter, default in re.findall(r"`(\w+)=(.*?)`", parameters):
            assert signature[parameter].default == ast.literal_eval(default), (name, parameter)


def test_tables_of_libraries_and_peers():
    """README lists the array libraries that have a row in BACKENDS or in the demo, and every class of ours that has a peer's name."""
    import keras
    import torch

    import polyloss.keras
    import polyloss.torch
    from polyloss import _demo
    from polyloss._core.backends import BACKENDS

    section = (ROOT / "README.md").read_text("utf-8").partition("## Libraries and peers")[2].partition("\n## ")[0]
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in section.splitlines() if row.startswith("| ")]
    listed = {row[0].partition(",")[0].lower() for row in cells}
    known = {row.name for row in BACKENDS} | {library.name.lower() for library in _demo.installed()}
    assert known - {"stand-in", "torch, cuda"} <= listed  # the tests' own, and torch once more
    for name, ours, theirs in (("Keras 3", polyloss.keras, keras.losses), ("torch", polyloss.torch, torch.nn)):
        row = next(row for row in cells if row[0] == name and len(row) == 3)
        classes = {key for key in ours.__all__ if isinstance(getattr(ours, key), type)} - {"Loss"}
        assert set(re.findall(r"`(\w+)`", row[2])) == classes
        assert {key for key in classes if not hasattr(theirs, key)} <= {"SoftmaxLoss", "LinearCrossEntropyLoss"}  # torch has it since 2.13


def test_the_same_elsewhere(monkeypatch):
    """The calls of other libraries on the losses' pages give the numbers of those of ours beside them."""
    import jax.numpy as jnp
    import keras
    import numpy as np
    import optax
    import torch
    from oracle import CASES
    from sklearn import metrics

    monkeypatch.syspath_prepend(ROOT / "docs")
    texts = import_module("loss_texts")
    arrays = {
        "torch": torch.as_tensor, "Keras": keras.ops.convert_to_tensor, "optax": jnp.asarray, "scikit-learn": lambda x: x,
    }  # fmt: skip
    libraries = dict(F=torch.nn.functional, torch=torch, keras=keras, metrics=metrics, optax=optax, np=np, range=range)
    rng = np.random.default_rng(0)
    for name, text in texts.TEXTS.items():
        case = next((case for case in CASES if case.loss == name), CASES[0])
        t, p = case.inputs()
        if name in ("log_loss", "sparse_categorical_crossentropy"):
            p = abs(p) / abs(p).sum(1, keepdims=True)
        if name == "logistic":
            t = 2 * t - 1
        z, y = rng.standard_normal((len(p), 5)), t.astype(int) if case.t == "labels" else np.arange(len(p)) % 5
        given = {"t": t, "p": p, "z": z, "y": y, "hard": rng.integers(0, 2, (2, 40))}
        for library, there, here in text.same:
            theirs = eval(there, {**libraries, **{key: arrays[library](x) for key, x in given.items()}})
            ours = eval(here, {"pl": pl, "range": range, **given})
            theirs = keras.ops.convert_to_numpy(theirs) if library == "Keras" else theirs
            tolerance = 3e-5 if library == "Keras" else 1e-6
            np.testing.assert_allclose(np.mean(ours), np.mean(np.asarray(theirs)), rtol=tolerance, err_msg=f"{name}: {there}, {here}")


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), sys.argv[2]))
