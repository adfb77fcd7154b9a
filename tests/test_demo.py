"""The demo: its table is complete, and it does not overlook a wrong number."""

import subprocess
import sys

import numpy as np
import pytest

import polyloss as pl
from polyloss import _demo
from polyloss.__main__ import main


@pytest.fixture(autouse=True)
def _hurried(monkeypatch):
    monkeypatch.setattr(_demo, "SECONDS", 0)  # two runs per timing


def test_every_loss_and_library(capsys):
    libraries = _demo.installed()
    assert _demo.main(libraries=libraries) == 0
    rows = capsys.readouterr().out.splitlines()
    for name in pl.names():
        for library in libraries:
            assert any(row.startswith(f"{name} ") and f" {library.name} " in row for row in rows), (name, library.name)


@pytest.mark.parametrize(
    ("what", "fetch"),
    [
        ("value", lambda x: x * (1 + 1e-5) if x.ndim == 0 else x),
        ("value", lambda x: x * np.nan if x.ndim == 0 else x),
        ("gradient", lambda x: x + 1e-5 * np.eye(*x.shape) if x.ndim == 2 else x),
    ],
)
def test_a_wrong_number_is_named(capsys, what, fetch):
    planted = _demo.Library("planted", np.asarray, fetch)
    assert _demo.main(["mean_squared_error", "softmax_loss"], [_demo.Library("NumPy", np.asarray), planted]) == 1
    wrong = [row for row in capsys.readouterr().out.splitlines() if row.startswith("WRONG")]
    assert [row.partition(" off by ")[0] for row in wrong] == [
        f"WRONG: {name} on planted arrays: {what}" for name in ("mean_squared_error", "softmax_loss")
    ]


def test_command_line():
    done = subprocess.run([sys.executable, "-m", "polyloss", "demo", "MSE"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "mean_squared_error" in done.stdout
    assert "huber" not in done.stdout


def test_command_line_knows_no_other_loss(capsys):
    assert main(["demo", "mean_sqared_error"]) == 2
    assert "did you mean 'mean_squared_error'" in capsys.readouterr().err


def test_digits_are_what_the_script_makes():
    from polyloss._demo.make_digits import make

    (labels, logits), (made_labels, made_logits) = _demo.digits(), make()
    assert logits.dtype == np.float32
    np.testing.assert_array_equal(labels, made_labels)
    np.testing.assert_allclose(logits, made_logits, atol=0.01)  # the optimiser stops at 1e-4 of the gradient; other builds stop elsewhere
