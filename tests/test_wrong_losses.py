"""Losses that are wrong on purpose: the laws of test_laws.py must refuse each, and pass a right one."""

import inspect

import pytest
import test_laws as laws
from libraries import NUMPY, TORCH
from oracle import Case

from polyloss._call.call import call
from polyloss._core.block import Elementwise, public


def mse(block):
    """Make a block public as a loss with the signature of mean_squared_error."""

    def function(y_true, y_pred, *, axis=-1, sample_weight=None, reduction="none", validate=True):
        return call(block, y_true, y_pred, {}, axis=axis, sample_weight=sample_weight, reduction=reduction, validate=validate)

    function.__name__ = block.__name__.lower()
    return Case("mean_squared_error", "real", "real", function=public(block)(function))


class Right(Elementwise):
    """(p - t)², without a kernel."""

    def value(xp, t, p):
        return (p - t) ** 2

    def slope(xp, t, p):
        return 2 * (p - t)

    def curvature(xp, t, p):
        return 2 * xp.ones_like(p)


class WrongValue(Right):
    def value(xp, t, p):
        return (p - t) ** 2 * (1 + 1e-6)


class WrongSlope(Right):
    def slope(xp, t, p):
        return 2 * (p - t) + 1e-5


class WrongCurvature(Right):
    def curvature(xp, t, p):
        return 2.001 * xp.ones_like(p)


class WrongReduction(Right):
    combine = "sum"


class MixesRows(Right):
    """Right for each row alone, wrong for two."""

    def value(xp, t, p):
        return (p - t) ** 2 + 1e-3 * xp.mean(xp.abs(p)) * p.shape[0] - 1e-3 * xp.mean(xp.abs(p))


class Writes(Right):
    def value(xp, t, p):
        d = (p - t) ** 2
        t *= 0
        return d


class Remembers(Right):
    """Keeps the targets of its first call."""

    kept = []

    def value(xp, t, p):
        Remembers.kept.append(t)
        return (p - Remembers.kept[0]) ** 2


class Leaks(Right):
    """NaN goes nowhere."""

    def value(xp, t, p):
        return xp.where(p == p, (p - t) ** 2, xp.zeros_like(p))


CAUGHT_BY = {
    WrongValue: [laws.test_value_is_the_truth, laws.test_slope_is_the_truth, laws.test_reductions_are_consistent],
    WrongSlope: [laws.test_slope_is_the_truth, laws.test_slope_is_the_difference_quotient, laws.test_reductions_are_consistent],
    WrongCurvature: [laws.test_curvature_is_the_truth],
    WrongReduction: [laws.test_value_is_the_truth, laws.test_slope_is_the_truth, laws.test_any_axis_holds_the_classes],
    MixesRows: [laws.test_value_is_the_truth, laws.test_a_second_call_with_other_targets_is_right],
    Writes: [laws.test_inputs_are_unchanged],
    Remembers: [laws.test_a_second_call_with_other_targets_is_right],
    Leaks: [laws.test_nan_goes_through_and_stays_in_its_row],
}
ALL_LAWS = sorted({law for caught in CAUGHT_BY.values() for law in caught}, key=lambda law: law.__name__)


@pytest.mark.parametrize("law", ALL_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("lib", [NUMPY, TORCH], ids=repr)
def test_the_laws_pass_a_right_loss(law, lib):
    extra = {"reduction": "sum"} if "reduction" in inspect.signature(law).parameters else {}
    law(mse(type("Right", (Right,), {})), lib, **extra)


@pytest.mark.parametrize(("block", "law"), [(b, law) for b, caught in CAUGHT_BY.items() for law in caught],
                         ids=lambda x: x.__name__)  # fmt: skip
def test_the_laws_refuse_a_wrong_loss(block, law):
    extra = {"reduction": "sum"} if "reduction" in inspect.signature(law).parameters else {}
    Remembers.kept.clear()
    with pytest.raises(AssertionError):
        law(mse(block), NUMPY, **extra)


@pytest.mark.parametrize(("block", "law"), [(WrongSlope, laws.test_torch_autograd_gives_the_slope_and_the_curvature),
                                            (WrongSlope, laws.test_jax_grad_gives_the_slope_and_the_curvature),
                                            (WrongCurvature, laws.test_jax_grad_gives_the_slope_and_the_curvature),
                                            (WrongSlope, laws.test_curvature_is_the_difference_quotient_of_the_slope),
                                            (WrongCurvature, laws.test_curvature_is_the_difference_quotient_of_the_slope)],
                         ids=lambda x: x.__name__)  # fmt: skip
def test_autograd_and_quotients_refuse_wrong_derivatives(block, law):
    if block is WrongSlope and "quotient" in law.__name__:
        block = type("WrongSlope", (Right,), {"slope": lambda xp, t, p: 2.001 * (p - t)})
    with pytest.raises(AssertionError):
        law(mse(block))
