"""Regression losses: each a block, formulas above and public function below."""

import math
from collections.abc import Sequence
from typing import Never

from polyloss._call.call import call
from polyloss._core.block import (
    Elementwise,
    Rowwise,
    clipped,
    floored,
    magnitude,
    over,
    over_square,
    positive_part,
    public,
    sign,
    times,
    times_log,
    whole,
)
from polyloss._core.devices import beside
from polyloss._core.params import flag, fractions, nonnegative, positive
from polyloss._core.types import Array, Reduction


class MeanSquaredError(Elementwise):
    """d², d = p - t."""

    aliases = ("mse", "MSE")
    kernel = "mean_squared_error"
    symmetric = True
    worked = (dict(t=1.0, p=3.0, value=4.0, slope=4.0), dict(t=0.5, p=-1.0, value=2.25, slope=-3.0))

    def value(xp, t, p):
        d = p - t
        return d * d

    def slope(xp, t, p):
        return 2 * (p - t)

    def curvature(xp, t, p):
        return xp.full_like(p, 2.0)


@public(MeanSquaredError)
def mean_squared_error(
    y_true: Array,
    y_pred: Array,
    *,
    axis: int = -1,
    sample_weight: Array | None = None,
    reduction: Reduction = "none",
    validate: bool = True,
    **unknown: Never,
) -> Array:
    """Mean of squared errors over `axis`: ``mean((y_pred - y_true)**2)``.

    Parameters
    ----------
    y_true : array, shape of `y_pred`
        Targets; taken in the dtype of the computation. Nothing is broadcast.
    y_pred : array
        Predictions, floating, or integer (then computed in the library's default float). float16 and bfloat16 are computed in float32.
    axis : int, default -1
        Axis of the elements of one sample, over which the mean is taken.
    sample_weight : array, optional
        Weights: in the shape of the losses or of its leading axes; axes of length 1 are accepted. Weight 0 skips a position, NaN included.
    reduction : {"none", "sum", "mean", "sum_over_batch_size"}, default "none"
        Weighted losses as they are; their sum; the sum divided by the sum of the weights; the sum divided by the number of losses. ``None``
        is "none", Keras' "mean_with_sample_weight" is "mean".
    validate : bool, default True
        False skips checks of values that would cost a synchronisation on a GPU; this loss has none.

    Returns
    -------
    array
        In the shape of `y_pred` without `axis` under "none", else 0-d; of the caller's library and device, float32 or float64.

    Raises
    ------
    ValueError
        If shapes do not fit, or a parameter is out of range; the message names argument, place, value and rule.
    TypeError
        If arrays are of different libraries, or hold no real numbers.

    See Also
    --------
    huber : Quadratic near the target only.
    mean_absolute_error : Linear everywhere.

    Examples
    --------
    >>> import numpy as np
    >>> import polyloss as pl
    >>> pl.mean_squared_error([[1.0, 0.5]], [[3.0, -1.0]])
    array([3.125])
    """
    return call(MeanSquaredError, y_true, y_pred, unknown, axis=axis, sample_weight=sample_weight, reduction=reduction, validate=validate)


class MeanAbsoluteError(Elementwise):
    """|p - t|; the slope at 0 is 0."""

    aliases = ("mae", "MAE")
    kernel = "mean_absolute_error"
    symmetric = True
    worked = (dict(t=1.0, p=3.0, value=2.0, slope=1.0), dict(t=1.0, p=1.0, value=0.0, slope=0.0))

    def value(xp, t, p):
        return magnitude(xp, p - t)

    def slope(xp, t, p):
        return sign(xp, p - t)

    def curvature(xp, t, p):
        return xp.zeros_like(p)


@public(MeanAbsoluteError)
def mean_absolute_error(
    y_true: Array,
    y_pred: Array,
    *,
    axis: int = -1,
    sample_weight: Array | None = None,
    reduction: Reduction = "none",
    validate: bool = True,
    **unknown: Never,
) -> Array:
    """Mean of absolute errors over `axis`: ``mean(abs(y_pred - y_true))``.

    Parameters
    ----------
    y_true : array, shape of `y_pred`
        Targets; taken in the dtype of the computation. Nothing is broadcast.
    y_pred : array
        Predictions, floating, or integer (then computed in the library's default float). float16 and bfloat16 are computed in float32.
    axis : int, default -1
        Axis of the elements of one sample, over which the mean is taken.
    sample_weight : array, optional
        Weights: in the shape of the losses or of its leading axes; axes of length 1 are accepted. Weight 0 skips a position, NaN included.
    reduction : {"none", "sum", "mean", "sum_over_batch_size"}, default "none"
        Weighted losses as they are; their sum; the sum divided by the sum of the weights; the sum divided by the number of losses. ``None``
        is "none", Keras' "mean_with_sample_weight" is "mean".
    validate : bool, default True
        False skips checks of values that would cost a synchronisation on a GPU; this loss has none.

    Returns
    -------
    array
        In the shape of `y_pred` without `axis` under "none", else 0-d; of the caller's library and device, float32 or float64.

    Raises
    ------
    ValueError
        If shapes do not fit, or a parameter is out of range; the message names argument, place, value and rule.
    TypeError
        If arrays are of different libraries, or hold no real numbers.

    See Also
    --------
    mean_squared_error : Quadratic.
    huber : Quadratic near the target.

    Notes
    -----
    At an error of 0 the gradient is 0.

    Examples
    --------
    >>> import numpy as np
    >>> import polyloss as pl
    >>> pl.mean_absolute_error([[1.0, 0.5]], [[3.0, -1.0]])
    array([1.75])
    """
    return call(MeanAbsoluteError, y_true, y_pred, unknown, axis=axis, sample_weight=sample_weight, reduction=reduction, validate=validate)


class MeanAbsolutePercentageError(Elementwise):
    """100 |p - t| / max(|t|, epsilon)."""

    aliases = ("mape", "MAPE")
    params = {"epsilon": positive}
    kernel = "mean_absolute_percentage_error"
    worked = (dict(t=2.0, p=3.0, value=50.0, slope=50.0), dict(t=-4.0, p=-5.0, value=25.0, slope=-25.0))

    def value(xp, t, p, epsilon):
        return 100 * (magnitude(xp, whole(xp, p - t)) / floored(xp, xp.abs(t), epsilon))

    def slope(xp, t, p, epsilon):
        return 100 * (sign(xp, p - t) / floored(xp, xp.abs(t), epsilon))

    def curvature(xp, t, p, epsilon):
        return xp.zeros_like(p)


@public(MeanAbsolutePercentageError)
def mean_absolute_percentage_error(
    y_true: Array,
    y_pred: Array,
    *,
    epsilon: float = 1e-7,
    axis: int = -1,
    sample_weight: Array | None = None,
    reduction: Reduction = "none",
    validate: bool = True,
    **unknown: Never,
) -> Array:
    """Mean of absolute errors over `axis`, in percent of the target.

    ``100 * mean(abs((y_true - y_pred) / max(abs(y_true), epsilon)))``.

    Parameters
    ----------
    y_true : array, shape of `y_pred`
        Targets; taken in the dtype of the computation. Nothing is broadcast.
    y_pred : array
        Predictions, floating, or integer (then computed in the library's default float). float16 and bfloat16 are computed in float32.
    epsilon : float, default 1e-7
        Above 0: the least number that an error is divided by.
    axis : int, default -1
        Axis of the elements of one sample, over which the mean is taken.
    sample_weight : array, optional
        Weights: in the shape of the losses or of its leading axes; axes of length 1 are accepted. Weight 0 skips a position, NaN included.
    reduction : {"none", "sum", "mean", "sum_over_batch_size"}, default "none"
        Weighted losses as they are; their sum; the sum divided by the sum of the weights; the sum divided by the number of losses. ``None``
        is "none", Keras' "mean_with_sample_weight" is "mean".
    validate : bool, default True
        False skips checks of values that would cost a synchronisation on a GPU; this loss has none.

    Returns
    -------
    array
        In the shape of `y_pred` without `axis` under "none", else 0-d; of the caller's library and device, float32 or float64.

    Raises
    ------
    ValueError
        If shapes do not fit, or a parameter is out of range; the message names argument, place, value and rule.
    TypeError
        If arrays are of different libraries, or hold no real numbers.

    See Also
    --------
    mean_squared_logarithmic_error : Relative error by logarithms.

    Examples
    --------
    >>> import numpy as np
    >>> import polyloss as pl
    >>> pl.mean_absolute_percentage_error([[2.0, -4.0]], [[3.0, -5.0]])
    array([37.5])
    """
    return call(
        MeanAbsolutePercentageError,
        y_true,
        y_pred,
        unknown,
        epsilon=epsilon,
        axis=axis,
        sample_weight=sample_weight,
        reduction=reduction,
        validate=validate,
    )


class MeanSquaredLogarithmicError(Elementwise):
    """d², d = log1p(max(p, epsilon)) - log1p(max(t, epsilon)).

    d is taken as ±log1p((p - t) / (1 + t)), of the larger and the smaller of the two: its last bits are kept where p is near t, and where
    one is far below the other.
    """

    aliases = ("msle", "MSLE")
    params = {"epsilon": nonnegative}
    kernel = "mean_squared_logarithmic_error"
    symmetric = True
    domain = "y_pred and y_true above -1; below epsilon they count as epsilon"
    worked = (dict(t=0.0, p=math.e - 1, epsilon=0.0, value=1.0, slope=2 / math.e),)

    def difference(xp, t, p):
        below = p < t
        low, high = xp.where(below, p, t), xp.where(below, t, p)
        d = xp.log1p((high - low) / (1 + low))
        return xp.where(below, -d, d)

    def value(xp, t, p, epsilon):
        d = MeanSquaredLogarithmicError.difference(xp, floored(xp, t, epsilon), floored(xp, p, epsilon))
        return d * d

    def slope(xp, t, p, epsilon):
        q = floored(xp, p, epsilon)
        d = MeanSquaredLogarithmicError.difference(xp, floored(xp, t, epsilon), q)
        return xp.where(p < epsilon, xp.zeros_like(p), 2 * d / (1 + q))

    def curvature(xp, t, p, epsilon):
        q = floored(xp, p, epsilon)
        d = MeanSquaredLogarithmicError.difference(xp, floored(xp, t, epsilon), q)
        return xp.where(p < epsilon, xp.zeros_like(p), 2 * (1 - d) / (1 + q) / (1 + q))


@public(MeanSquaredLogarithmicError)
def mean_squared_logarithmic_error(
    y_true: Array,
    y_pred: Array,
    *,
    epsilon: float = 1e-7,
    axis: int = -1,
    sample_weight: Array | None = None,
    reduction: Reduction = "none",
    validate: bool = True,
    **unknown: Never,
) -> Array:
    """Mean of squared differences of logarithms over `axis`.

    ``mean((log1p(max(y_pred, epsilon)) - log1p(max(y_true, epsilon)))**2)``.

    Parameters
    ----------
    y_true : array, shape of `y_pred`
        Targets; taken in the dtype of the computation. Nothing is broadcast.
    y_pred : array
        Predictions, floating, or integer (then computed in the library's default float). float16 and bfloat16 are computed in float32.
    epsilon : float, default 1e-7
        At least 0: smaller targets and predictions count as this. Where a prediction does, the gradient is 0.
    axis : int, default -1
        Axis of the elements of one sample, over which the mean is taken.
    sample_weight : array, optional
        Weights: in the shape of the losses or of its leading axes; axes of length 1 are accepted. Weight 0 skips a position, NaN included.
    reduction : {"none", "sum", "mean", "sum_over_batch_size"}, default "none"
        Weighted losses as they are; their sum; the sum divided by the sum of the weights; the sum divided by the number of losses. ``None``
        is "none", Keras' "mean_with_sample_weight" is "mean".
    validate : bool, default True
        False skips checks of values that would cost a synchronisation on a GPU; this loss has none.

    Returns
    -------
    array
        In the shape of `y_pred` without `axis` under "none", else 0-d; of the caller's library and device, float32 or float64.

    Raises
    ------
    ValueError
        If shapes do not fit, or a parameter is out of range; the message names argument, place, value and rule.
    TypeError
        If arrays are of different libraries, or hold no real numbers.

    See Also
    --------
    mean_absolute_percentage_error : Relative error in percent.

    Examples
    --------
    >>> import numpy as np
    >>> import polyloss as pl
    >>> pl.mean_squared_logarithmic_error([[0.0]], [[np.e - 1]], epsilon=0.0)
    array([1.])
    """
    return call(
        MeanSquaredLogarithmicError,
        y_true,
        y_pred,
        unknown,
        epsilon=epsilon,
        axis=axis,
        sample_weight=sample_weight,
        reduction=reduction,
        validate=validate,
    )


class Huber(Elementwise):
    """d = p - t:  d²/2 where |d| <= delta, else delta (|d| - delta/2)."""

    aliases = ("Huber",)
    params = {"delta": positive}
    kernel = "huber"
    symmetric = True
    worked = (dict(t=0.0, p=3.0, delta=1.0, value=2.5, slope=1.0), dict(t=0.0, p=-1.0, delta=2.0, value=0.5, slope=-1.0))

    def value(xp, t, p, delta):
        d = p - t
        near = xp.abs(d) <= delta
        small = xp.where(near, d, xp.zeros_like(d))  # the square of a large one may be infinite, and autograd follows both branches
        return xp.where(near, 0.5 * small * small, delta * (xp.abs(d) - 0.5 * delta))

    def slope(xp, t, p, delta):
        return clipped(xp, p - t, -delta, delta)[0]

    def curvature(xp, t, p, delta):
        return xp.where(xp.abs(p - t) <= delta, xp.ones_like(p), xp.zeros_like(p))


@public(Huber)
def huber(
    y_true: Array,
    y_pred: Array,
    *,
    delta: float = 1.0,
    axis: int = -1,
    sample_weight: Array | None = None,
    reduction: Reduction = "none",
    validate: bool = True,
    **unknown: Never,
) -> Array:
    """Huber loss, mean over `axis`: quadratic near the target, linear far from it.

    With d = y_pred - y_true: d²/2 where abs(d) <= delta, else delta * (abs(d) - delta/2).

    Parameters
    ----------
    y_true : array, shape of `y_pred`
        Targets; taken in the dtype of the computation. Nothing is broadcast.
    y_pred : array
        Predictions, floating, or integer (then computed in the library's default float). float16 and bfloat16 are computed in float32.
    delta : float, default 1.0
        Above 0: where quadratic becomes linear.
    axis : int, default -1
        Axis of the elements of one sample, over which the mean is taken.
    sample_weight : array, optional
        Weights: in the shape of the losses or of its leading axes; axes of length 1 are accepted. Weight 0 skips a position, NaN included.
    reduction : {"none", "sum", "mean", "sum_over_batch_size"}, default "none"
        Weighted losses as they are; their sum; the sum divided by the sum of the weights; the sum divided by the number of losses. ``None``
        is "none", Keras' "mean_with_sample_weight" is "mean".
    validate : bool, default True
        False skips checks of values that would cost a synchronisation on a GPU; this loss has none.

    Returns
    -------
    array
        In the shape of `y_pred` without `axis` under "none", else 0-d; of the caller's library and device, float32 or float64.

    Raises
    ------
    ValueError
        If shapes do not fit, or a parameter is out of range; the message names argument, place, value and rule.
    TypeError
        If arrays are of different libraries, or hold no real numbers.

    See Also
    --------
    log_cosh : Smooth between the two.

    References
    ----------
    .. [Huber1964] Peter J. Huber, "Robust Estimation of a Location Parameter", Annals of Mathematical Statistics 35(1), 1964, pp. 73-101.

    Examples
    --------
    >>> import numpy as np
    >>> import polyloss as pl
    >>> pl.huber([[0.0]], [[3.0]])
    array([2.5])
    """
    return call(Huber, y_true, y_pred, unknown, delta=delta, axis=axis, sample_weight=sample_weight, reduction=reduction, validate=validate)


class LogCosh(Elementwise):
    """log cosh d, d = p - t: about d²/2 near the target, |d| - log 2 far from it.

    Far: |d| + log1p(exp(-2|d|)) - log 2. Near, that cancels, and cosh d = 1 + 2 sinh²(d/2) gives log1p(2 sinh²(d/2)).
    """

    aliases = ("logcosh", "LogCosh")
    kernel = "log_cosh"
    symmetric = True
    worked = (dict(t=1.0, p=1.0, value=0.0, slope=0.0), dict(t=0.0, p=math.log(2), value=math.log(1.25), slope=0.6))

    def value(xp, t, p):
        d = p - t
        far = xp.abs(d)
        near = far < 1
        h = xp.sinh(0.5 * xp.where(near, d, xp.zeros_like(d)))
        return xp.where(near, xp.log1p(2 * h * h), far + (xp.log1p(xp.exp(-2 * far)) - math.log(2)))

    def slope(xp, t, p):
        return xp.tanh(p - t)

    def curvature(xp, t, p):
        e = xp.exp(-2 * xp.abs(p - t))
        return 4 * e / ((1 + e) * (1 + e))


@public(LogCosh)
def log_cosh(
    y_true: Array,
    y_pred: Array,
    *,
    axis: int = -1,
    sample_weight: Array | None = None,
    reduction: Reduction = "none",
    validate: bool = True,
    **unknown: Never,
) -> Array:
    """Logarithm of the hyperbolic cosine of the error, mean over `axis`.

    About d²/2 near the target and abs(d) - log(2) far from it, d = y_pred - y_true.

    Parameters
    ----------
    y_true : array, shape of `y_pred`
        Targets; taken in the dtype of the computation. Nothing is broadcast.
    y_pred : array
        Predictions, floating, or integer (then computed in the library's default float). float16 and bfloat16 are computed in float32.
    axis : int, default -1
        Axis of the elements of one sample, over which the mean is taken.
    sample_weight : array, optional
        Weights: in the shape of the losses or of its leading axes; axes of length 1 are accepted. Weight 0 skips a position, NaN included.
    reduction : {"none", "sum", "mean", "sum_over_batch_size"}, default "none"
        Weighted losses as they are; their sum; the sum divided by the sum of the weights; the sum divided by the number of losses. ``None``
        is "none", Keras' "mean_with_sample_weight" is "mean".
    validate : bool, default True
        False skips checks of values that would cost a synchronisation on a GPU; this loss has none.

    Returns
    -------
    array
        In the shape of `y_pred` without `axis` under "none", else 0-d; of the caller's library and device, float32 or float64.

    Raises
    ------
    ValueError
        If shapes do not fit, or a parameter is out of range; the message names argument, place, value and rule.
    TypeError
        If arrays are of different libraries, or hold no real numbers.

    See Also
    --------
    huber : Quadratic, then linear.

    Examples
    --------
    >>> import numpy as np
    >>> import polyloss as pl
    >>> pl.log_cosh([[0.0]], [[np.log(2)]])
    array([0.22314355])
    """
    return call(LogCosh, y_true, y_pred, unknown, axis=axis, sample_weight=sample_weight, reduction=reduction, validate=validate)


def of_count(xp, t, full):
    """Stirling's approximation of log t! for targets above 1; 0 for others, and if it is not asked for."""
    if not full:
        return xp.zeros_like(t)
    u = xp.where(t > 1, t, xp.ones_like(t))
    return xp.where(t > 1, u * xp.log(u) - u + 0.5 * xp.log(2 * math.pi * u), xp.zeros_like(t))


class PoissonFromLogarithms(Elementwise):
    """e^z - t z, z the logarithm of the mean, plus `of_count`."""

    kernel = "poisson_from_logarithms"

    def value(xp, t, z, full):
        m, product = xp.exp(z), times(xp, t, z)
        product = xp.where(xp.isinf(m) & xp.isinf(product), xp.zeros_like(product), product)  # t z is far below e^z
        return whole(xp, m - product + of_count(xp, t, full))

    def slope(xp, t, z, full):
        return xp.exp(z) - t

    def curvature(xp, t, z, full):
        return xp.exp(z)


class Poisson(Elementwise):
    """p - t log(p + 1e-7), Keras' constant, plus `of_count`; a target of 0 costs p, whatever the logarithm."""

    aliases = ("Poisson", "poisson_nll", "PoissonNLLLoss")
    params = {"log_input": flag, "full": flag}
    logarithms = PoissonFromLogarithms
    kernel = "poisson"
    domain = "y_pred above -1e-7, with log_input=True any real numbers; y_true at least 0"
    worked = (
        dict(t=0.0, p=3.0, log_input=False, full=False, value=3.0, slope=1.0),
        dict(t=1.0, p=math.e - 1e-7, log_input=False, full=False, value=math.e - 1e-7 - 1, slope=1 - 1 / math.e),
        dict(t=1.0, p=1.0, log_input=True, full=False, value=math.e - 1, slope=math.e - 1),
        dict(t=2.0, p=0.0, log_input=True, full=True, value=2.5 * math.log(2) - 1 + 0.5 * math.log(2 * math.pi), slope=-1.0),
    )
    epsilon = 1e-7

    def value(xp, t, p, full):
        product = times_log(xp, t, p + Poisson.epsilon)
        product = xp.where((p == math.inf) & (t == t), xp.zeros_like(product), product)  # a logarithm is far below p
        return p - product + of_count(xp, t, full)

    def slope(xp, t, p, full):
        return whole(xp, 1 - over(xp, t, p + Poisson.epsilon) + 0 * xp.where(xp.isnan(p), p, xp.zeros_like(p)))

    def curvature(xp, t, p, full):
        q = p + Poisson.epsilon
        return over_square(xp, t, q)


@public(Poisson)
def poisson(
    y_true: Array,
    y_pred: Array,
    *,
    log_input: bool = False,
    full: bool = False,
    axis: int = -1,
    sample_weight: Array | None = None,
    reduction: Reduction = "none",
    validate: bool = True,
    **unknown: Never,
) -> Array:
    """Poisson loss, mean over `axis`: ``mean(y_pred - y_true * log(y_pred + 1e-7))``.

    With `log_input` ``mean(exp(y_pred) - y_true * y_pred)``, as in PyTorch's `PoissonNLLLoss`.

    Parameters
    ----------
    y_true : array, shape of `y_pred`
        Counts, at least 0; taken in the dtype of the computation. Nothing is broadcast.
    y_pred : array
        Predictions, floating, or integer (then computed in the library's default float). float16 and bfloat16 are computed in float32.
    log_input : bool, default False
        Whether `y_pred` holds the logarithms of the predicted means: any real numbers.
    full : bool, default False
        Whether to add Stirling's approximation of the logarithm of the factorial of `y_true`, ``t * log(t) - t + 0.5 * log(2 * pi * t)``
        for targets t above 1, as PyTorch's `full` does: a constant for the gradient.
    axis : int, default -1
        Axis of the elements of one sample, over which the mean is taken.
    sample_weight : array, optional
        Weights: in the shape of the losses or of its leading axes; axes of length 1 are accepted. Weight 0 skips a position, NaN included.
    reduction : {"none", "sum", "mean", "sum_over_batch_size"}, default "none"
        Weighted losses as they are; their sum; the sum divided by the sum of the weights; the sum divided by the number of losses. ``None``
        is "none", Keras' "mean_with_sample_weight" is "mean".
    validate : bool, default True
        False skips checks of values that would cost a synchronisation on a GPU; this loss has none.

    Returns
    -------
    array
        Negative log-likelihood in nats, up to a term of the targets alone. In the shape of `y_pred` without `axis` under "none", else 0-d;
        of the caller's library and device, float32 or float64.

    Raises
    ------
    ValueError
        If shapes do not fit, or a parameter is out of range; the message names argument, place, value and rule.
    TypeError
        If arrays are of different libraries, or hold no real numbers.

    See Also
    --------
    poisson_deviance : 0 for a perfect prediction.
    mean_squared_error : For errors that do not grow with the mean.

    Notes
    -----
    A prediction below -1e-7 gives NaN, unless its target is 0.

    Examples
    --------
    >>> import numpy as np
    >>> import polyloss as pl
    >>> pl.poisson([[0.0]], [[3.0]])
    array([3.])
    """
    return call(
        Poisson,
        y_true,
        y_pred,
        unknown,
        log_input=log_input,
        full=full,
        axis=axis,
        sample_weight=sample_weight,
        reduction=reduction,
        validate=validate,
    )


class SmoothL1(Elementwise):
    """d = p - t:  d² / (2 beta) where |d| < beta, else |d| - beta/2; |d| where beta is 0."""

    aliases = ("SmoothL1",)
    params = {"beta": nonnegative}
    kernel = "smooth_l1"
    symmetric = True
    worked = (dict(t=0.0, p=3.0, beta=1.0, value=2.5, slope=1.0), dict(t=0.0, p=-1.0, beta=2.0, value=0.25, slope=-0.5))

    def value(xp, t, p, beta):
        d = p - t
        near = xp.abs(d) < beta
        small = xp.where(near, d, xp.zeros_like(d))  # as of Huber's loss
        return xp.where(near, 0.5 * small * (small / (beta + (beta == 0))), magnitude(xp, d) - 0.5 * beta)

    def slope(xp, t, p, beta):
        d = p - t
        return xp.where(xp.abs(d) < beta, d / (beta + (beta == 0)), sign(xp, d))

    def curvature(xp, t, p, beta):
        return xp.where(xp.abs(p - t) < beta, xp.ones_like(p) / (beta + (beta == 0)), xp.zeros_like(p))


@public(SmoothL1)
def smooth_l1(
    y_true: Array,
    y_pred: Array,
    *,
    beta: float = 1.0,
    axis: int = -1,
    sample_weight: Array | None = None,
    reduction: Reduction = "none",
    validate: bool = True,
    **unknown: Never,
) -> Array:
    """Smooth L1 loss, mean over `axis`: quadratic near the target, with slope ±1 far from it.

    With d = y_pred - y_true: d²/(2 * beta) where abs(d) < beta, else abs(d) - beta/2: the Huber loss divided by its width, PyTorch's
    `SmoothL1Loss`.

    Parameters
    ----------
    y_true : array, shape of `y_pred`
        Targets; taken in the dtype of the computation. Nothing is broadcast.
    y_pred : array
        Predictions, floating, or integer (then computed in the library's default float). float16 and bfloat16 are computed in float32.
    beta : float, default 1.0
        At least 0: errors below it cost their square. 0 gives the absolute error.
    axis : int, default -1
        Axis of the elements of one sample, over which the mean is taken.
    sample_weight : array, optional
        Weights: in the shape of the losses or of its leading axes; axes of length 1 are accepted. Weight 0 skips a position, NaN included.
    reduction : {"none", "sum", "mean", "sum_over_batch_size"}, default "none"
        Weighted losses as they are; their sum; the sum divided by the sum of the weights; the sum divided by the number of losses. ``None``
        is "none", Keras' "mean_with_sample_weight" is "mean".
    validate : bool, default True
        False skips checks of values that would cost a synchronisation on a GPU; this loss has none.

    Returns
    -------
    array
        In the shape of `y_pred` without `axis` under "none", else 0-d; of the caller's library and device, float32 or float64.

    Raises
    ------
    ValueError
        If shapes do not fit, or a parameter is out of range; the message names argument, place, value and rule.
    TypeError
        If arrays are of different libraries, or hold no real numbers.

    See Also
    --------
    huber : `beta` times this loss.
    mean_absolute_error : Its limit for a `beta` of 0.

    References
    ----------
    .. [Girshick2015] Ross Girshick, "Fast R-CNN", ICCV 2015.

    Examples
    --------
    >>> import numpy as np
    >>> import polyloss as pl
    >>> pl.smooth_l1([[0.0, 0.0]], [[3.0, -1.0]], beta=2.0)
    array([1.125])
    """
    return call(
        SmoothL1, y_true, y_pred, unknown, beta=beta, axis=axis, sample_weight=sample_weight, reduction=reduction, validate=validate
    )


class PseudoHuber(Elementwise):
    """delta² (sqrt(1 + x²) - 1), x = d / delta, d = p - t.

    Near the target d² / (1 + sqrt(1 + x²)); beyond |x| = 1, with y = 1 / |x|, delta |d| / (y + sqrt(1 + y²)): no square overflows.
    """

    aliases = ("PseudoHuber",)
    params = {"delta": positive}
    kernel = "pseudo_huber"
    symmetric = True
    worked = (dict(t=0.0, p=0.75, delta=1.0, value=0.25, slope=0.6), dict(t=0.0, p=-8.0, delta=6.0, value=24.0, slope=-4.8))

    def parts(xp, t, p, delta):
        """Whether d is far, d where it is near, |d| where it is far; of the latter y and sqrt(1 + y²)."""
        d = p - t
        far = xp.abs(d) > delta
        near, beyond = xp.where(far, xp.zeros_like(d), d), xp.where(far, xp.abs(d), xp.full_like(d, delta))
        y = delta / beyond
        return far, near, beyond, y, xp.sqrt(1 + y * y)

    def value(xp, t, p, delta):
        far, near, beyond, y, w = PseudoHuber.parts(xp, t, p, delta)
        x = near / delta
        return xp.where(far, beyond * (delta / (y + w)), near * (near / (1 + xp.sqrt(1 + x * x))))

    def slope(xp, t, p, delta):
        far, near, _, _, w = PseudoHuber.parts(xp, t, p, delta)
        x = near / delta
        return xp.where(far, sign(xp, p - t) * (delta / w), near / xp.sqrt(1 + x * x))

    def curvature(xp, t, p, delta):
        far, near, _, y, w = PseudoHuber.parts(xp, t, p, delta)
        x = near / delta
        n = xp.where(far, y / w, 1 / xp.sqrt(1 + x * x))
        return n * n * n


@public(PseudoHuber)
def pseudo_huber(
    y_true: Array,
    y_pred: Array,
    *,
    delta: float = 1.0,
    axis: int = -1,
    sample_weight: Array | None = None,
    reduction: Reduction = "none",
    validate: bool = True,
    **unknown: Never,
) -> Array:
    """Pseudo-Huber loss, mean over `axis`: the Huber loss without its kink.

    With d = y_pred - y_true: delta² * (sqrt(1 + (d/delta)²) - 1), XGBoost's `reg:pseudohubererror`; right to the last digits for small and
    for large errors, where XGBoost's way to compute it gives 0 or infinity.

    Parameters
    ----------
    y_true : array, shape of `y_pred`
        Targets; taken in the dtype of the computation. Nothing is broadcast.
    y_pred : array
        Predictions, floating, or integer (then computed in the library's default float). float16 and bfloat16 are computed in float32.
    delta : float, default 1.0
        Above 0: the largest slope, and about where quadratic becomes linear.
    axis : int, default -1
        Axis of the elements of one sample, over which the mean is taken.
    sample_weight : array, optional
        Weights: in the shape of the losses or of its leading axes; axes of length 1 are accepted. Weight 0 skips a position, NaN included.
    reduction : {"none", "sum", "mean", "sum_over_batch_size"}, default "none"
        Weighted losses as they are; their sum; the sum divided by the sum of the weights; the sum divided by the number of losses. ``None``
        is "none", Keras' "mean_with_sample_weight" is "mean".
    validate : bool, default True
        False skips checks of values that would cost a synchronisation on a GPU; this loss has none.

    Returns
    -------
    array
        In the shape of `y_pred` without `axis` under "none", else 0-d; of the caller's library and device, float32 or float64.

    Raises
    ------
    ValueError
        If shapes do not fit, or a parameter is out of range; the message names argument, place, value and rule.
    TypeError
        If arrays are of different libraries, or hold no real numbers.

    See Also
    --------
    huber : Quadratic, then linear, with a jump of the curvature.
    log_cosh : Smooth, without a width.

    References
    ----------
    .. [Charbonnier1997] Pierre Charbonnier et al., "Deterministic edge-preserving regularization in computed imaging", IEEE Transactions on
       Image Processing 6(2), 1997, pp. 298-311.

    Examples
    --------
    >>> import numpy as np
    >>> import polyloss as pl
    >>> pl.pseudo_huber([[0.0]], [[0.75]])
    array([0.25])
    """
    return call(
        PseudoHuber, y_true, y_pred, unknown, delta=delta, axis=axis, sample_weight=sample_weight, reduction=reduction, validate=validate
    )


class SeveralQuantiles(Rowwise):
    """The mean over the quantiles, an array (1, c, 1), of the quantile losses of one target."""

    targets = "values"
    length = staticmethod(lambda params: len(params["quantile"]))

    def value(xp, t, p, quantile):
        return xp.sum(QuantileLoss.value(xp, t, p, quantile), axis=1) / p.shape[1]  # type: ignore[arg-type]

    def slope(xp, t, p, quantile):
        d = t - p
        return xp.where(d > 0, -quantile, xp.where(d < 0, 1 - quantile, d)) / p.shape[1]

    def curvature(xp, t, p, quantile):
        return xp.zeros_like(p)


class QuantileLoss(Elementwise):
    """d = t - p:  quantile d above the prediction, (quantile - 1) d below it; the slope at d = 0 is 0."""

    aliases = ("pinball", "mean_pinball_loss", "QuantileLoss")
    params = {"quantile": fractions}
    kernel = "quantile_loss"
    worked = (dict(t=3.0, p=1.0, quantile=0.75, value=1.5, slope=-0.75), dict(t=1.0, p=3.0, quantile=0.75, value=0.5, slope=0.25))

    def form(block, values):
        return SeveralQuantiles if isinstance(values["quantile"], tuple) else block

    def value(xp, t, p, quantile):
        d = whole(xp, t - p)
        q = quantile + xp.zeros_like(d)
        return times(xp, q, positive_part(xp, d)) + times(xp, 1 - q, positive_part(xp, -d))

    def slope(xp, t, p, quantile):
        d = t - p
        return xp.where(d > 0, xp.full_like(d, -quantile), xp.where(d < 0, xp.full_like(d, 1 - quantile), d))

    def curvature(xp, t, p, quantile):
        return xp.zeros_like(p)


@public(QuantileLoss)
def quantile_loss(
    y_true: Array,
    y_pred: Array,
    *,
    quantile: float | Sequence[float] = 0.5,
    axis: int = -1,
    sample_weight: Array | None = None,
    reduction: Reduction = "none",
    validate: bool = True,
    **unknown: Never,
) -> Array:
    """Quantile (pinball) loss, mean over `axis`: least where `y_pred` is the quantile of the targets.

    With d = y_true - y_pred: quantile * d where the target is above the prediction, (quantile - 1) * d where it is below: scikit-learn's
    `mean_pinball_loss` (its `alpha`).

    Parameters
    ----------
    y_true : array, shape of `y_pred`
        Targets; taken in the dtype of the computation. Nothing is broadcast. Of several quantiles the shape of `y_pred` without `axis`; an
        axis of length 1 at `axis` or at the end is accepted.
    y_pred : array
        Predictions, floating, or integer (then computed in the library's default float). float16 and bfloat16 are computed in float32.
    quantile : float or several, default 0.5
        In [0, 1]: the quantile that is predicted. 0.5 is half the absolute error. Several, a list or tuple: `axis` of `y_pred` holds a
        prediction for each, of one target, and their losses are averaged.
    axis : int, default -1
        Axis of the elements of one sample, over which the mean is taken.
    sample_weight : array, optional
        Weights: in the shape of the losses or of its leading axes; axes of length 1 are accepted. Weight 0 skips a position, NaN included.
    reduction : {"none", "sum", "mean", "sum_over_batch_size"}, default "none"
        Weighted losses as they are; their sum; the sum divided by the sum of the weights; the sum divided by the number of losses. ``None``
        is "none", Keras' "mean_with_sample_weight" is "mean".
    validate : bool, default True
        False skips checks of values that would cost a synchronisation on a GPU; this loss has none.

    Returns
    -------
    array
        In the shape of `y_pred` without `axis` under "none", else 0-d; of the caller's library and device, float32 or float64.

    Raises
    ------
    ValueError
        If shapes do not fit, or a parameter is out of range; the message names argument, place, value and rule.
    TypeError
        If arrays are of different libraries, or hold no real numbers.

    See Also
    --------
    mean_absolute_error : Twice the loss of the median.

    Notes
    -----
    At an error of 0 the gradient is 0.

    References
    ----------
    .. [Koenker1978] Roger Koenker and Gilbert Bassett, "Regression Quantiles", Econometrica 46(1), 1978, pp. 33-50.

    Examples
    --------
    >>> import numpy as np
    >>> import polyloss as pl
    >>> pl.quantile_loss([[3.0, 1.0]], [[1.0, 3.0]], quantile=0.75)
    array([1.])
    >>> pl.quantile_loss([3.0], [[1.0, 3.0, 5.0]], quantile=[0.25, 0.5, 0.75])
    array([0.33333333])
    """
    return call(
        QuantileLoss,
        y_true,
        y_pred,
        unknown,
        quantile=quantile,
        axis=axis,
        sample_weight=sample_weight,
        reduction=reduction,
        validate=validate,
    )


class GaussianNLL(Rowwise):
    """½ (v + (t - m)² / e^v), m = p_0 the mean and v = p_1 the logarithm of the variance, without a floor."""

    aliases = ("GaussianNLLLoss",)
    targets = "values"
    kernel = "gaussian_nll"
    length = staticmethod(lambda params: 2)
    domain = "y_pred: means and logarithms of variances, any real numbers"
    worked = (
        dict(t=3.0, p=[1.0, 0.0], value=2.0, slope=[-2.0, -1.5]),
        dict(t=1.0, p=[3.0, math.log(4)], value=0.5 + math.log(2), slope=[0.5, 0.0]),
    )

    def parts(xp, t, p):
        """Which entry is the mean, v, e^(-v/2), and the error in units of the deviation."""
        of_mean = xp.arange(2, device=beside(p))[None, :, None] == 0
        v = p[:, 1:, :]
        inverse = xp.exp(-0.5 * v)
        return of_mean, v, inverse, (p[:, :1, :] - t) * inverse

    def value(xp, t, p):
        _, v, _, r = GaussianNLL.parts(xp, t, p)
        return xp.sum(0.5 * (v + r * r), axis=1)

    def slope(xp, t, p):
        of_mean, _, inverse, r = GaussianNLL.parts(xp, t, p)
        return xp.where(of_mean, r * inverse, 0.5 * (1 - r * r))

    def curvature(xp, t, p):
        of_mean, _, inverse, r = GaussianNLL.parts(xp, t, p)
        return xp.where(of_mean, inverse * inverse, 0.5 * r * r)


@public(GaussianNLL)
def gaussian_nll(
    y_true: Array,
    y_pred: Array,
    *,
    axis: int = -1,
    sample_weight: Array | None = None,
    reduction: Reduction = "none",
    validate: bool = True,
    **unknown: Never,
) -> Array:
    """Negative log-likelihood of a normal distribution whose mean and variance are predicted.

    ``0.5 * (v + (y_true - m)**2 / exp(v))``, m the mean and v the logarithm of the variance, which `axis` of `y_pred` holds in this order:
    PyTorch's `GaussianNLLLoss` of the variance ``exp(v)``, which needs no floor. Up to the constant ``0.5 * log(2 * pi)``.

    Parameters
    ----------
    y_true : array, shape of `y_pred` without `axis`
        Targets, floating; an axis of length 1 at `axis` or at the end is accepted.
    y_pred : array, length 2 along `axis`
        Means and logarithms of variances, any real numbers. float16 and bfloat16 are computed in float32.
    axis : int, default -1
        Axis of mean and logarithm of the variance.
    sample_weight : array, optional
        Weights: in the shape of the losses or of its leading axes; axes of length 1 are accepted. Weight 0 skips a position, NaN included.
    reduction : {"none", "sum", "mean", "sum_over_batch_size"}, default "none"
        Weighted losses as they are; their sum; the sum divided by the sum of the weights; the sum divided by the number of losses. ``None``
        is "none", Keras' "mean_with_sample_weight" is "mean".
    validate : bool, default True
        False skips checks of values that would cost a synchronisation on a GPU; this loss has none.

    Returns
    -------
    array
        In nats. In the shape of `y_pred` without `axis` under "none", else 0-d; of the caller's library and device, float32 or float64.

    Raises
    ------
    ValueError
        If shapes do not fit, or a parameter is out of range; the message names argument, place, value and rule.
    TypeError
        If arrays are of different libraries, or hold no real numbers.

    See Also
    --------
    mean_squared_error : For one variance of all targets.
    quantile_loss : Assumes no distribution.

    References
    ----------
    .. [Nix1994] David A. Nix and Andreas S. Weigend, "Estimating the mean and variance of the target probability distribution", ICNN 1994.

    Examples
    --------
    >>> import numpy as np
    >>> import polyloss as pl
    >>> pl.gaussian_nll([3.0], [[1.0, 0.0]])
    array([2.])
    """
    return call(GaussianNLL, y_true, y_pred, unknown, axis=axis, sample_weight=sample_weight, reduction=reduction, validate=validate)
