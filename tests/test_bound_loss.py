"""Losses with parameters filled in by `get`, and that they and their derivatives travel between processes."""

import copy
import functools
import pickle

import numpy as np
import pytest

import polyloss as pl
from polyloss._core.block import LOSSES

T, P = np.array([[0.0, 1.0]]), np.array([[0.5, 4.0]])


def test_parameters_are_filled_in():
    bound = pl.get("Huber", delta=2.0, reduction="sum")
    assert bound(T, P) == pl.huber(T, P, delta=2.0, reduction="sum") != pl.huber(T, P, reduction="sum")
    assert bound(T, P, delta=1.0) == pl.huber(T, P, reduction="sum")
    assert bound.__name__ == "huber"
    assert pl.get(bound) is bound
    assert pl.get(bound, delta=1.0)(T, P) == pl.huber(T, P, reduction="sum")
    assert pl.get(pl.huber, delta=2.0, reduction="sum") == bound != pl.get("huber", delta=2.0)
    assert hash(bound) == hash(pl.get("huber", reduction="sum", delta=2.0))


def test_what_cannot_be_bound():
    with pytest.raises(TypeError, match=r"huber has no parameter 'dleta'; did you mean delta\?"):
        pl.get("huber", dleta=1.0)
    with pytest.raises(ValueError, match=r"delta is -1.0, but must be above 0"):
        pl.get("huber", delta=-1.0)
    with pytest.raises(TypeError, match="not to <built-in function len>"):
        pl.get(len, delta=1.0)
    with pytest.raises(TypeError, match=r"fill in parameters by get\('huber', …\)"):
        pl.value_and_grad(functools.partial(pl.huber, delta=2.0))


def test_arrays_among_the_parameters():
    weights = np.array([1.0, 2.0])
    bound = pl.get("softmax_loss", class_weight=weights)
    assert bound == pl.get("softmax_loss", class_weight=weights.copy()) != pl.get("softmax_loss", class_weight=2 * weights)
    assert pickle.loads(pickle.dumps(bound)) == bound


@pytest.mark.parametrize("derive", [pl.value_and_grad, pl.grad, pl.grad_and_hess])
def test_derivatives_of_bound_losses(derive):
    plain, bound = derive("huber"), derive(pl.get("huber", delta=2.0))
    np.testing.assert_equal(bound(T, P), plain(T, P, delta=2.0))
    np.testing.assert_equal(bound(T, P, delta=1.0), plain(T, P))


@pytest.mark.parametrize("name", LOSSES)
def test_everything_pickles(name):
    for f in (pl.get(name), pl.get(name, axis=-1), pl.value_and_grad(name), pl.grad_and_hess(pl.get(name, axis=-1))):
        for again in (pickle.loads(pickle.dumps(f)), copy.deepcopy(f)):
            assert again.__name__ == f.__name__
    f = pl.value_and_grad("huber")
    np.testing.assert_equal(pickle.loads(pickle.dumps(f))(T, P), f(T, P))


@pytest.mark.parametrize("name", ["focal", "nll", "l1", "bce_with_logits", "CrossEntropyLoss", "rmse", "hinge_loss"])
def test_names_of_other_libraries_are_answered(name):
    with pytest.raises(ValueError, match="did you mean '"):
        pl.get(name)
