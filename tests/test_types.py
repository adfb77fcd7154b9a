"""What the annotations promise to a user: mypy takes right uses, and refuses a misspelt argument or an option that there is not."""

import inspect
import os
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path

import pytest

import polyloss as pl

USES = Path(__file__).parent / "typing" / "uses.py"
CACHE = Path(tempfile.gettempdir()) / "polyloss-mypy"  # NumPy's stubs are read once for all runs
# polyloss is followed into, other libraries are Any: reading torch and JAX takes a minute.
CONFIG = """
[mypy]
strict = True
pretty = False
[mypy-polyloss,polyloss.*]
follow_imports = silent
[mypy-array_api_compat.*,torch.*,jax.*,jaxlib.*,dask.*,keras.*,cupy.*,ml_dtypes.*,optax.*]
follow_imports = skip
ignore_missing_imports = True
"""


def test_wrong_uses_are_reported_and_no_other(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "mypy.ini").write_text(CONFIG)
    package = Path(pl.__file__).parents[1]
    path = [] if package.name == "site-packages" else [("MYPYPATH", str(package))]
    command = [sys.executable, "-m", "mypy", "--config-file", tmp_path / "mypy.ini", "--cache-dir", CACHE, "--no-error-summary", USES]
    done = subprocess.run(command, env={**os.environ, **dict(path)}, capture_output=True, text=True, check=False, timeout=500)
    assert not done.stderr
    reported = {int(line.split(":")[1]): line for line in done.stdout.splitlines() if ": error:" in line}
    wrong = {n for n, line in enumerate(USES.read_text("utf-8").splitlines(), 1) if line.endswith("  # wrong")}
    assert not [line for n, line in reported.items() if n not in wrong]
    assert wrong <= set(reported), f"not reported: lines {sorted(wrong - set(reported))}"


@pytest.mark.parametrize("module", ["polyloss", "polyloss.torch", "polyloss.boosting"])
def test_all_that_is_public_is_annotated(module):
    pytest.importorskip("torch")
    found = []
    for name in import_module(module).__all__:
        public = getattr(import_module(module), name)
        methods = {k: f for k, f in vars(public).items() if inspect.isfunction(f) and (k[0] != "_" or k in ("__init__", "__call__"))}
        for key, function in methods.items() if inspect.isclass(public) else [("", public)]:
            signature = inspect.signature(function)
            bare = [p.name for p in signature.parameters.values() if p.annotation is p.empty and p.name != "self"]
            found += [f"{name}.{key}: {p}" for p in bare + ["return"] * (signature.return_annotation is signature.empty)]
    assert found == []
