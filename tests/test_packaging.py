"""The settings of the wheels say what the package's say, and name files that are there; the oldest versions are the same everywhere."""

import importlib
import re
import shlex
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import pytest

from polyloss._core.backends import OLDEST, new_enough

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
WHEELS = SETTINGS["tool"]["cibuildwheel"]


def test_wheels_are_for_the_pythons_of_the_classifiers():
    classified = {c.rpartition(" ")[2] for c in SETTINGS["project"]["classifiers"] if re.search(r":: 3\.\d+$", c)}
    built = {f"{major}.{minor}" for major, minor in re.findall(r"\bcp(\d)(\d+)-", WHEELS["build"])}
    assert built == classified
    assert SETTINGS["project"]["requires-python"] == ">=" + min(classified)


def test_wheels_are_tested():
    files = [word for command in WHEELS["test-command"] for word in shlex.split(command) if word.endswith(".py")]
    assert files
    assert all((ROOT / file).exists() for file in files)
    assert all((ROOT / source).exists() for source in WHEELS["test-sources"])


def oldest(groups):
    """Name of each requirement that has an oldest version: that version."""
    form = r"([\w.-]+)(?:\[[\w,]+\])?>=([\d.]+)(?:; sys_platform == 'linux')?"
    found = (re.fullmatch(form, requirement) for requirement in chain(*groups))
    return {match[1]: match[2] for match in found if match}


def test_the_suite_runs_with_every_oldest_version():
    extras = SETTINGS["project"]["optional-dependencies"]
    promised = oldest([SETTINGS["project"]["dependencies"], *(extras[name] for name in ("jax", "dask", "cli", "test"))])
    lines = (ROOT / "tests/oldest.txt").read_text("utf-8").splitlines()
    tested = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert tested.pop("jaxlib") == tested["jax"]

    def padded(versions):  # 3.10 is 3.10.0
        return {name: [*map(int, version.split(".")), 0, 0][:3] for name, version in versions.items()}

    assert padded(tested) == padded(promised)


def test_adapters_refuse_what_is_older_than_promised():
    extras = oldest(SETTINGS["project"]["optional-dependencies"][name] for name in OLDEST)
    assert extras == OLDEST
    for name, version in OLDEST.items():
        assert pytest.importorskip(name).__version__
        importlib.import_module(f"polyloss._adapters.{name}")  # this one is new enough
        new_enough(SimpleNamespace(__name__=name, __version__=f"{version}.0+cpu"))
        for old in ("0.4.30", version.rpartition(".")[0] + ".0", version.rpartition(".")[0] + ".0a0+git"):
            with pytest.raises(ImportError, match=re.escape(f"{name} {version} or later, but {old} is installed")):
                new_enough(SimpleNamespace(__name__=name, __version__=old))


def test_an_old_torch_is_refused_by_the_first_call():
    """With that error, before anything asks torch for a name that it does not have."""
    code = """
import torch
torch.__version__ = "2.7.1"
del torch._C._autograd._top_saved_tensors_default_hooks
import polyloss
polyloss.softmax_loss(torch.tensor([0]), torch.zeros(1, 3))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.stderr.splitlines()[-1] == "ImportError: polyloss needs torch 2.8 or later, but 2.7.1 is installed"
