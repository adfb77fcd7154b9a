"""log_loss is scikit-learn's metric: the same numbers, exceptions and warnings; on every array library; Kaggle's score; the compiled kernel."""

import warnings

import numpy as np
import pytest

import polyloss as pl

theirs = pytest.importorskip("sklearn.metrics").log_loss

SPAM = ["spam", "ham", "ham", "spam"], [[0.1, 0.9], [0.9, 0.1], [0.8, 0.2], [0.35, 0.65]]
YES = (
    ["no", "no", "no", "yes", "yes", "yes"],
    [[0.5, 0.5], [0.1, 0.9], [0.01, 0.99], [0.9, 0.1], [0.75, 0.25], [0.001, 0.999]],
)


def test_known_values():
    assert abs(pl.log_loss(*SPAM) - 0.21616187468057912) <= 2.8e-17
    assert abs(pl.log_loss(*YES) - 1.881797068998267) <= 2.3e-16
    assert type(pl.log_loss(*SPAM)) is float
