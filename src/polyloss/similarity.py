"""Losses that compare directions and distributions."""

import math
from typing import Never

from polyloss._call.call import call
from polyloss._core.block import Elementwise, Rowwise, clipped, evening, over, over_square, public, times
from polyloss._core.params import clip_bound
from polyloss._core.types import Array, Reduction


class KLDivergence(Elementwise):
    """t log(t / p), summed over the classes; p clipped to [epsilon, 1], t to [0, 1]; a target of 0 contributes 0 exactly."""

    aliases = ("kld", "kullback_leibler_divergence", "KLD")
    params = {"epsilon": clip_bound}
    combine = "sum"
    kernel = "kl_divergence"
    domain = "y_true and y_pred: probabilities; values outside are clipped"
    takes = "probabilities"
    worked = (
        dict(t=0.5, p=0.25, epsilon=1e-7, value=0.5 * math.log(2), slope=-2.0),
        dict(t=0.0, p=0.3, epsilon=1e-7, value=0.0, slope=0.0),
    )

    def value(xp, t, p, epsilon):
        (t, _), (p, _) = clipped(xp, t, 0.0, 1.0), clipped(xp, p, epsilon, 1.0)
        part = xp.where(t == 0, xp.ones_like(t), t)
        near = xp.abs(t - p) < 0.5 * p  # where the quotient's rounding would be the result
        one = xp.ones_like(p)
        beside = xp.log1p(xp.where(near, t - p, xp.zeros_like(p)) / xp.where(near, p, one))
        # Of the smaller by the larger: autograd divides t by the quotient, and t / (t / p) may go below the normal numbers as p does; and
        # then by the square of the larger, hence s. From 1e18 on apart: the logarithm of an infinite quotient has no derivative.
        up, moderate, n = part > p, xp.abs(part / p) < 1e18, 16 if float(xp.finfo(p.dtype).max) < 1e39 else 128
        s = xp.where(part < 2.0 ** (-2 * n), 2.0 ** (4 * n) * one, one)
        low, high = (xp.where(moderate, s * xp.where(up, *pair), one) for pair in ((p, part), (part, p)))
        log = xp.log(low / high)
        apart = xp.log(xp.where(moderate, one, part)) - xp.log(xp.where(moderate, one, p))
        far = xp.where(moderate, xp.where(up, -log, log), apart)
        return xp.where(near, t * beside, times(xp, t, far))

    def slope(xp, t, p, epsilon):
        q, inside = clipped(xp, p, epsilon, 1.0)
        return xp.where(inside, -over(xp, clipped(xp, t, 0.0, 1.0)[0], q), xp.zeros_like(p))

    def curvature(xp, t, p, epsilon):
        q, inside = clipped(xp, p, epsilon, 1.0)
        return xp.where(inside, over_square(xp, clipped(xp, t, 0.0, 1.0)[0], q), xp.zeros_like(p))


@public(KLDivergence)
def kl_divergence(
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
    """Kullback-Leibler divergence of `y_pred` from `y_true`: sum over `axis` of ``y_true * log(y_true / y_pred)``.

    Parameters
    ----------
    y_true : array, shape of `y_pred`
        Target probabilities; a target of 0 contributes 0 exactly. Nothing is broadcast.
    y_pred : array with classes on `axis`
        Probabilities. float16 and bfloat16 are computed in float32.
    epsilon : float, default 1e-7
        Predictions are clipped to [epsilon, 1], with gradient 0 where they are; targets are clipped to [0, 1].
    axis : int, default -1
        Axis of the classes.
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
    categorical_crossentropy : Without the targets' own entropy.

    Examples
    --------
    >>> import numpy as np
    >>> import polyloss as pl
    >>> pl.kl_divergence([[0.5, 0.5]], [[0.25, 0.75]])
    array([0.14384104])
    """
    return call(
        KLDivergence,
        y_true,
        y_pred,
        unknown,
        epsilon=epsilon,
        axis=axis,
        sample_weight=sample_weight,
        reduction=reduction,
        validate=validate,
    )


class CosineSimilarity(Rowwise):
    """-Σ t p / (‖t‖ ‖p‖) at any scale; a zero vector gives 0 and slope 0.

    Each vector is scaled by a power of two first, so that no square overflows or underflows.
    """

    aliases = ("cosine", "cosine_proximity", "CosineSimilarity")
    kernel = "cosine_similarity"
    symmetric = True
    worked = (
        dict(t=[3.0, 4.0], p=[3.0, 4.0], value=-1.0, slope=[0.0, 0.0]),
        dict(t=[1.0, 0.0], p=[1.0, 1.0], value=-math.sqrt(0.5), slope=[-math.sqrt(2) / 4, math.sqrt(2) / 4]),
    )

    def unit(xp, x):
        """x / ‖x‖, and 1 / ‖x‖ as the power of two s and the norm of s x: it may overflow. Vector and s are 0 for a zero vector."""
        most = xp.max(xp.abs(x), axis=1, keepdims=True)
        s = evening(xp, xp.where(most == 0, xp.ones_like(most), most))  # XLA may square the factor: for 0 times infinity
        y = x * s
        square = xp.sum(y * y, axis=1, keepdims=True)
        zero = square == 0  # also of numbers that XLA takes for 0
        norm = xp.sqrt(xp.where(zero, xp.ones_like(square), square))
        y = xp.where(zero, xp.zeros_like(y), y)  # autograd's derivative of a zero vector is 0, too
        return y / norm, xp.where(zero, xp.zeros_like(s), s), norm

    def value(xp, t, p):
        return -xp.sum(CosineSimilarity.unit(xp, t)[0] * CosineSimilarity.unit(xp, p)[0], axis=1)

    def slope(xp, t, p):
        t, (p, s, norm) = CosineSimilarity.unit(xp, t)[0], CosineSimilarity.unit(xp, p)
        x = p * xp.sum(t * p, axis=1, keepdims=True) - t
        x = xp.where(s > 1, times(xp, x, s), x) / norm  # upwards before the quotient, down after it: none goes below the normal numbers
        return xp.where(s < 1, times(xp, x, s), x)

    def curvature(xp, t, p):
        t, (p, s, norm) = CosineSimilarity.unit(xp, t)[0], CosineSimilarity.unit(xp, p)
        cos, inverse = xp.sum(t * p, axis=1, keepdims=True), s / norm
        return times(xp, times(xp, 2 * t * p + cos - 3 * cos * p * p, inverse), inverse)  # of a large p its square goes too far down


@public(CosineSimilarity)
def cosine_similarity(
    y_true: Array,
    y_pred: Array,
    *,
    axis: int = -1,
    sample_weight: Array | None = None,
    reduction: Reduction = "none",
    validate: bool = True,
    **unknown: Never,
) -> Array:
    """Negative cosine of the angle between `y_true` and `y_pred` along `axis`.

    -1 for the same direction, 0 for a right angle, 1 for opposite directions.

    Parameters
    ----------
    y_true : array, shape of `y_pred`
        Vectors; taken in the dtype of the computation. Nothing is broadcast.
    y_pred : array
        Vectors of any length, however small or large. float16 and bfloat16 are computed in float32.
    axis : int, default -1
        Axis of the vectors' entries.
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
    mean_squared_error : Depends on the vectors' lengths, too.

    Notes
    -----
    A zero vector gives 0, and gradient 0.

    Examples
    --------
    >>> import numpy as np
    >>> import polyloss as pl
    >>> pl.cosine_similarity([[3.0, 4.0]], [[30.0, 40.0]])
    array([-1.])
    """
    return call(CosineSimilarity, y_true, y_pred, unknown, axis=axis, sample_weight=sample_weight, reduction=reduction, validate=validate)
