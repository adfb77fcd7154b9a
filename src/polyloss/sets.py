"""Losses of sets of positions, as segmentations are: each a block of formulas, and a public function below it.

A set is all that lies along `axis`, one axis or several. A `mask` takes elements out of it, as if they were not there.
"""

from typing import Never

from polyloss._call.call import call
from polyloss._core import reduce as _reduce
from polyloss._core.block import Rowwise, public, times
from polyloss._core.params import nonnegative
from polyloss._core.types import Array, Reduction


class Overlap(Rowwise):
    """1 - I / D, I = Σ t p, D = I + alpha Σ t (1 - p) + beta Σ p (1 - t) + epsilon."""

    sets = True
    symmetric = True
    kernel = "overlap"
    domain = "y_true and y_pred: probabilities of belonging to the set; other numbers are taken as they are"

    def exchanged(params):
        return {**params, "alpha": params["beta"], "beta": params["alpha"]}  # type: ignore[index]

    def sums(xp, t, p, alpha, beta, epsilon):
        """I and D - I, in double precision as the kernel has them: sums that float32 holds, times a weight, may pass its largest number."""
        parts = t * p, t * (1 - p), p * (1 - t)
        common, missed, extra = (_reduce.widened(xp, xp.sum(x, axis=1, keepdims=True)) for x in parts)
        return common, alpha * missed + beta * extra + epsilon

    def value(xp, t, p, alpha, beta, epsilon):
        common, apart = Overlap.sums(xp, t, p, alpha, beta, epsilon)
        return xp.astype(xp.sum(apart / (apart + common), axis=1), t.dtype, copy=False)

    def between(xp, t, none, all):
        """none (1 - t) + all t; of a t far from 0 and 1 by one product, since two may be infinite before their sum is."""
        return xp.where(xp.abs(t) <= 2, times(xp, 1 - t, none) + times(xp, t, all), none + (all - none) * t)

    def slope(xp, t, p, alpha, beta, epsilon):
        common, apart = Overlap.sums(xp, t, p, alpha, beta, epsilon)
        whole = apart + common
        share = apart / whole
        overlap = xp.where(share >= 0.5, common / whole, 1 - share)  # neither cancels, and NaN stays NaN
        all, none = (xp.astype(x, t.dtype, copy=False) for x in (-(share + alpha * overlap), beta * overlap))
        return xp.astype(Overlap.between(xp, t, none, all) / whole, t.dtype, copy=False)

    def curvature(xp, t, p, alpha, beta, epsilon):
        common, apart = Overlap.sums(xp, t, p, alpha, beta, epsilon)
        by_p = Overlap.between(xp, t, *(xp.full_like(t, x) for x in (beta, 1 - alpha)))  # of D
        bend = Overlap.slope(xp, t, p, alpha, beta, epsilon) / (apart + common)
        return xp.astype(-2 * (by_p * bend), t.dtype, copy=False)


class Dice(Overlap):
    """1 - 2 Σ t p / (Σ t + Σ p + 1e-7), Keras' constant."""

    aliases = ("Dice",)
    params = {}
    worked = (
        dict(
            t=[1.0, 0.0], p=[0.5, 0.5], value=1 - 0.5 / (1 + 0.5e-7),
            slope=[0.25 / (1 + 0.5e-7) ** 2 - 1 / (1 + 0.5e-7), 0.25 / (1 + 0.5e-7) ** 2],
        ),
    )  # fmt: skip

    def form(block, values):
        values |= {"alpha": 0.5, "beta": 0.5, "epsilon": 0.5e-7}
        return Overlap


@public(Dice)
def dice(
    y_true: Array,
    y_pred: Array,
    *,
    axis: int | tuple[int, ...] | None = None,
    mask: Array | None = None,
    sample_weight: Array | None = None,
    reduction: Reduction = "none",
    validate: bool = True,
    **unknown: Never,
) -> Array:
    """Dice loss: ``1 - 2 * sum(t * p) / (sum(t) + sum(p) + 1e-7)`` over the axes of a set.

    Keras' `Dice`, t the targets and p the predictions.

    Parameters
    ----------
    y_true : array, shape of `y_pred`
        Targets: 1 in the set and 0 outside, or probabilities. Nothing is broadcast.
    y_pred : array
        Probabilities of belonging to the set. float16 and bfloat16 are computed in float32.
    axis : int or tuple of int, optional
        Axes of one set: (1, 2) of (N, H, W) makes one loss per image. All axes if not given, and the result is 0-d.
    mask : array of booleans, shape of `y_pred`, optional
        Which elements belong to the sets: True is kept, as in Keras' masks. What lies elsewhere, NaN included, changes neither loss nor
        gradient, which is 0 there.
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
        One loss per set: in the shape of `y_pred` without `axis` under "none", else 0-d; of the caller's library and device, float32 or
        float64.

    Raises
    ------
    ValueError
        If shapes do not fit, or a parameter is out of range; the message names argument, place, value and rule.
    TypeError
        If arrays are of different libraries, or hold no real numbers.

    See Also
    --------
    jaccard : The intersection over the union.
    tversky : With a weight for each kind of error.

    Notes
    -----
    A set without any target or prediction costs 1, as in Keras.

    References
    ----------
    .. [Milletari2016] Fausto Milletari, Nassir Navab and Seyed-Ahmad Ahmadi, "V-Net: Fully Convolutional Neural Networks for Volumetric
       Medical Image Segmentation", 3DV 2016.

    Examples
    --------
    >>> import numpy as np
    >>> import polyloss as pl
    >>> pl.dice([[1.0, 0.0]], [[0.5, 0.5]], axis=1).round(6)
    array([0.5])
    """
    return call(Dice, y_true, y_pred, unknown, axis=axis, mask=mask, sample_weight=sample_weight, reduction=reduction, validate=validate)


class Tversky(Overlap):
    """1 - I / (I + alpha Σ t (1 - p) + beta Σ p (1 - t) + 1e-7), I = Σ t p; Keras' constant."""

    aliases = ("Tversky",)
    params = {"alpha": nonnegative, "beta": nonnegative}
    worked = (
        dict(
            t=[1.0, 0.0], p=[0.5, 0.5], alpha=0.25, beta=0.75, value=1 - 0.5 / (1 + 1e-7),
            slope=[0.375 / (1 + 1e-7) ** 2 - 1 / (1 + 1e-7), 0.375 / (1 + 1e-7) ** 2],
        ),
    )  # fmt: skip

    def form(block, values):
        values |= {"epsilon": 1e-7}
        return Overlap


@public(Tversky)
def tversky(
    y_true: Array,
    y_pred: Array,
    *,
    alpha: float = 0.5,
    beta: float = 0.5,
    axis: int | tuple[int, ...] | None = None,
    mask: Array | None = None,
    sample_weight: Array | None = None,
    reduction: Reduction = "none",
    validate: bool = True,
    **unknown: Never,
) -> Array:
    """Tversky loss: ``1 - i / (i + alpha * sum(t * (1 - p)) + beta * sum(p * (1 - t)) + 1e-7)``, ``i = sum(t * p)``.

    Sums over the axes of a set, t the targets and p the predictions. Keras' `Tversky`: `alpha` and `beta` are where Keras' code has them;
    its documentation names them the other way round.

    Parameters
    ----------
    y_true : array, shape of `y_pred`
        Targets: 1 in the set and 0 outside, or probabilities. Nothing is broadcast.
    y_pred : array
        Probabilities of belonging to the set. float16 and bfloat16 are computed in float32.
    alpha : float, default 0.5
        At least 0: weight of what is in the set and not predicted.
    beta : float, default 0.5
        At least 0: weight of what is predicted and not in the set.
    axis : int or tuple of int, optional
        Axes of one set: (1, 2) of (N, H, W) makes one loss per image. All axes if not given, and the result is 0-d.
    mask : array of booleans, shape of `y_pred`, optional
        Which elements belong to the sets: True is kept, as in Keras' masks. What lies elsewhere, NaN included, changes neither loss nor
        gradient, which is 0 there.
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
        One loss per set: in the shape of `y_pred` without `axis` under "none", else 0-d; of the caller's library and device, float32 or
        float64.

    Raises
    ------
    ValueError
        If shapes do not fit, or a parameter is out of range; the message names argument, place, value and rule.
    TypeError
        If arrays are of different libraries, or hold no real numbers.

    See Also
    --------
    dice : Of equal weights.
    jaccard : Of weights 1.

    Notes
    -----
    A set without any target or prediction costs 1, as in Keras.

    References
    ----------
    .. [Salehi2017] Seyed Sadegh Mohseni Salehi, Deniz Erdogmus and Ali Gholipour, "Tversky Loss Function for Image Segmentation Using 3D
       Fully Convolutional Deep Networks", MLMI 2017.

    Examples
    --------
    >>> import numpy as np
    >>> import polyloss as pl
    >>> pl.tversky([[1.0, 0.0]], [[0.5, 0.5]], alpha=1.0, beta=1.0, axis=1).round(6)
    array([0.666667])
    """
    return call(
        Tversky,
        y_true,
        y_pred,
        unknown,
        alpha=alpha,
        beta=beta,
        axis=axis,
        mask=mask,
        sample_weight=sample_weight,
        reduction=reduction,
        validate=validate,
    )


class Jaccard(Overlap):
    """1 - I / (Σ t + Σ p - I + 1e-7), I = Σ t p."""

    aliases = ("iou", "Jaccard")
    params = {}
    worked = (
        dict(
            t=[1.0, 0.0], p=[0.5, 0.5], value=1 - 0.5 / (1.5 + 1e-7),
            slope=[-1 / (1.5 + 1e-7), 0.5 / (1.5 + 1e-7) ** 2],
        ),
    )  # fmt: skip

    def form(block, values):
        values |= {"alpha": 1.0, "beta": 1.0, "epsilon": 1e-7}
        return Overlap


@public(Jaccard)
def jaccard(
    y_true: Array,
    y_pred: Array,
    *,
    axis: int | tuple[int, ...] | None = None,
    mask: Array | None = None,
    sample_weight: Array | None = None,
    reduction: Reduction = "none",
    validate: bool = True,
    **unknown: Never,
) -> Array:
    """Jaccard loss: ``1 - i / (sum(t) + sum(p) - i + 1e-7)``, ``i = sum(t * p)``, over the axes of a set.

    One minus intersection over union, t the targets and p the predictions: `tversky` with both weights 1. Keras has no such loss; its
    constant is that of its `Tversky`.

    Parameters
    ----------
    y_true : array, shape of `y_pred`
        Targets: 1 in the set and 0 outside, or probabilities. Nothing is broadcast.
    y_pred : array
        Probabilities of belonging to the set. float16 and bfloat16 are computed in float32.
    axis : int or tuple of int, optional
        Axes of one set: (1, 2) of (N, H, W) makes one loss per image. All axes if not given, and the result is 0-d.
    mask : array of booleans, shape of `y_pred`, optional
        Which elements belong to the sets: True is kept, as in Keras' masks. What lies elsewhere, NaN included, changes neither loss nor
        gradient, which is 0 there.
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
        One loss per set: in the shape of `y_pred` without `axis` under "none", else 0-d; of the caller's library and device, float32 or
        float64.

    Raises
    ------
    ValueError
        If shapes do not fit, or a parameter is out of range; the message names argument, place, value and rule.
    TypeError
        If arrays are of different libraries, or hold no real numbers.

    See Also
    --------
    dice : The intersection over the mean of both sizes.
    tversky : With a weight for each kind of error.

    Notes
    -----
    A set without any target or prediction costs 1, as in Keras.

    References
    ----------
    .. [Rahman2016] Md Atiqur Rahman and Yang Wang, "Optimizing Intersection-Over-Union in Deep Neural Networks for Image Segmentation",
       ISVC 2016.

    Examples
    --------
    >>> import numpy as np
    >>> import polyloss as pl
    >>> pl.jaccard([[1.0, 0.0]], [[0.5, 0.5]], axis=1).round(6)
    array([0.666667])
    """
    return call(Jaccard, y_true, y_pred, unknown, axis=axis, mask=mask, sample_weight=sample_weight, reduction=reduction, validate=validate)
