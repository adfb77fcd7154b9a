"""Regression losses: each a block, formulas above and public function below."""

import math

from polyloss._block import Elementwise, clipped, floored, magnitude, over, public, times_log
from polyloss._call import call
from polyloss._params import nonnegative, positive


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
def mean_squared_error(y_true, y_pred, *, axis=-1, sample_weight=None, reduction="none", validate=True):
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
    return call(MeanSquaredError, y_true, y_pred, axis=axis, sample_weight=sample_weight, reduction=reduction, validate=validate)


class MeanAbsoluteError(Elementwise):
    """|p - t|; the slope at 0 is 0."""

    aliases = ("mae", "MAE")
    kernel = "mean_absolute_error"
    symmetric = True
    worked = (dict(t=1.0, p=3.0, value=2.0, slope=1.0), dict(t=1.0, p=1.0, value=0.0, slope=0.0))

    def value(xp, t, p):
        return magnitude(xp, p - t)

    def slope(xp, t, p):
        return xp.sign(p - t)

    def curvature(xp, t, p):
        return xp.zeros_like(p)


@public(MeanAbsoluteError)
def mean_absolute_error(y_true, y_pred, *, axis=-1, sample_weight=None, reduction="none", validate=True):
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
    return call(MeanAbsoluteError, y_true, y_pred, axis=axis, sample_weight=sample_weight, reduction=reduction, validate=validate)


class MeanAbsolutePercentageError(Elementwise):
    """100 |p - t| / max(|t|, epsilon)."""

    aliases = ("mape", "MAPE")
    params = {"epsilon": positive}
    kernel = "mean_absolute_percentage_error"
    worked = (dict(t=2.0, p=3.0, value=50.0, slope=50.0), dict(t=-4.0, p=-5.0, value=25.0, slope=-25.0))

    def value(xp, t, p, epsilon):
        return 100 * (magnitude(xp, p - t) / floored(xp, xp.abs(t), epsilon))

    def slope(xp, t, p, epsilon):
        return 100 * (xp.sign(p - t) / floored(xp, xp.abs(t), epsilon))

    def curvature(xp, t, p, epsilon):
        return xp.zeros_like(p)


@public(MeanAbsolutePercentageError)
def mean_absolute_percentage_error(y_true, y_pred, *, epsilon=1e-7, axis=-1, sample_weight=None, reduction="none", validate=True):
    """Mean of absolute errors over `axis`, in percent of the target.

    ``100 * mean(abs((y_true - y_pred) / max(abs(y_true), epsilon)))``.

    Parameters
    ----------
    y_true : array, shape of `y_pred`
        Targets; taken in the dtype of the computation. Nothing is broadcast.
    y_pred : array
        Predictions, floating, or integer (then computed in the library's default float). float16 and bfloat16 are computed in float32.
    epsilon : float, default 1e-7
        Targets nearer to 0 than this count as this far from it; above 0.
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
        epsilon=epsilon,
        axis=axis,
        sample_weight=sample_weight,
        reduction=reduction,
        validate=validate,
    )


class MeanSquaredLogarithmicError(Elementwise):
    """d², d = log1p(max(p, epsilon)) - log1p(max(t, epsilon)).

    d is taken as log1p((p - t) / (1 + t)), which keeps its last bits where p is near t, unless p is so far below t that the quotient
    nears -1.
    """

    aliases = ("msle", "MSLE")
    params = {"epsilon": nonnegative}
    kernel = "mean_squared_logarithmic_error"
    symmetric = True
    domain = "y_pred and y_true above -1; below epsilon they count as epsilon"
    worked = (dict(t=0.0, p=math.e - 1, epsilon=0.0, value=1.0, slope=2 / math.e),)

    def difference(xp, t, p):
        r = (p - t) / (1 + t)
        far = r < -0.5
        return xp.where(far, xp.log1p(p) - xp.log1p(t), xp.log1p(xp.where(far, xp.zeros_like(r), r)))

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
        return xp.where(p < epsilon, xp.zeros_like(p), 2 * (1 - d) / ((1 + q) * (1 + q)))


@public(MeanSquaredLogarithmicError)
def mean_squared_logarithmic_error(y_true, y_pred, *, epsilon=1e-7, axis=-1, sample_weight=None, reduction="none", validate=True):
    """Mean of squared differences of logarithms over `axis`.

    ``mean((log1p(max(y_pred, epsilon)) - log1p(max(y_true, epsilon)))**2)``.

    Parameters
    ----------
    y_true : array, shape of `y_pred`
        Targets; taken in the dtype of the computation. Nothing is broadcast.
    y_pred : array
        Predictions, floating, or integer (then computed in the library's default float). float16 and bfloat16 are computed in float32.
    epsilon : float, default 1e-7
        Targets and predictions below it count as it; at least 0. Where a prediction does, the gradient is 0.
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
        return xp.where(xp.abs(d) <= delta, 0.5 * d * d, delta * (xp.abs(d) - 0.5 * delta))

    def slope(xp, t, p, delta):
        return clipped(xp, p - t, -delta, delta)[0]

    def curvature(xp, t, p, delta):
        return xp.where(xp.abs(p - t) <= delta, xp.ones_like(p), xp.zeros_like(p))


@public(Huber)
def huber(y_true, y_pred, *, delta=1.0, axis=-1, sample_weight=None, reduction="none", validate=True):
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
    .. [1] Peter J. Huber, "Robust Estimation of a Location Parameter", Annals of Mathematical Statistics 35(1), 1964, pp. 73-101.

    Examples
    --------
    >>> import numpy as np
    >>> import polyloss as pl
    >>> pl.huber([[0.0]], [[3.0]])
    array([2.5])
    """
    return call(Huber, y_true, y_pred, delta=delta, axis=axis, sample_weight=sample_weight, reduction=reduction, validate=validate)


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
def log_cosh(y_true, y_pred, *, axis=-1, sample_weight=None, reduction="none", validate=True):
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
    return call(LogCosh, y_true, y_pred, axis=axis, sample_weight=sample_weight, reduction=reduction, validate=validate)


class Poisson(Elementwise):
    """p - t log(p + 1e-7), Keras' constant; a target of 0 costs p, whatever the logarithm."""

    aliases = ("Poisson",)
    kernel = "poisson"
    domain = "y_pred above -1e-7; y_true at least 0"
    worked = (dict(t=0.0, p=3.0, value=3.0, slope=1.0), dict(t=1.0, p=math.e - 1e-7, value=math.e - 1e-7 - 1, slope=1 - 1 / math.e))
    epsilon = 1e-7

    def value(xp, t, p):
        return p - times_log(xp, t, p + Poisson.epsilon)

    def slope(xp, t, p):
        return 1 - over(xp, t, p + Poisson.epsilon)

    def curvature(xp, t, p):
        q = p + Poisson.epsilon
        return over(xp, t, q * q)


@public(Poisson)
def poisson(y_true, y_pred, *, axis=-1, sample_weight=None, reduction="none", validate=True):
    """Poisson loss, mean over `axis`: ``mean(y_pred - y_true * log(y_pred + 1e-7))``.

    Parameters
    ----------
    y_true : array, shape of `y_pred`
        Counts, at least 0; taken in the dtype of the computation. Nothing is broadcast.
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
        Negative log-likelihood in nats, up to a constant of the targets. In the shape of `y_pred` without `axis` under "none", else 0-d; of
        the caller's library and device, float32 or float64.

    Raises
    ------
    ValueError
        If shapes do not fit, or a parameter is out of range; the message names argument, place, value and rule.
    TypeError
        If arrays are of different libraries, or hold no real numbers.

    See Also
    --------
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
    return call(Poisson, y_true, y_pred, axis=axis, sample_weight=sample_weight, reduction=reduction, validate=validate)
