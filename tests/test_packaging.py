"""The settings of the wheels say what the package's say, and name files that are there."""

import re
import shlex
import tomllib
from pathlib import Path

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
