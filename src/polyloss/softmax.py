"""Softmax cross-entropy from logits: the formula, and Caffe's SoftmaxWithLoss as a public function."""

import enum
import math
from collections.abc import Sequence
from typing import Literal, Never

from polyloss._call.call import call
from polyloss._core.block import OfLogSoftmax, capped, log_softmax, part, public, times
from polyloss._core.devices import beside
from polyloss._core.params import absent, cap, fraction, integers, nonnegative, traced
from polyloss._core.types import Array


class Normalization(enum.IntEnum):
    """What the summed loss is divided by; the numbers are those of Caffe's LossParameter.NormalizationMode."""

    FULL = 0  # all positions, ignored ones included
    VALID = 1  # the positions that are not ignored
    BATCH_SIZE = 2  # the product of the axes before `axis`
    NONE = 3  # nothing


class SoftmaxCrossentropy(OfLogSoftmax):
    """-Σ k_c t_c log p_c; k are class weights, 1 if there are none."""

    kernel = "softmax_xent"
    predictions = "logits"

    def term(xp, t, l, p, q, class_weight=1.0):
        return -part(xp, class_weight * t, l)

    def first(xp, t, l, p, q, class_weight=1.0):
        return -(class_weight * t)

    def second(xp, t, l, p, q, class_weight=1.0):
        return xp.zeros_like(t)


def class_smoothed(xp, t, c, label_smoothing):
    """(1 - ε) t + ε / C."""
    return t if not traced(label_smoothing) and label_smoothing == 0 else (1 - label_smoothing) * t + label_smoothing / c


class SoftmaxLoss(SoftmaxCrossentropy):
    """-Σ k_c t_c log p_c + ζ (log Σ exp z)², divided by one of four normalizers; t smoothed to (1 - ε) t + ε / C.

    With a cap κ of the logits, z is κ tanh(z / κ).
    """

    aliases = ("softmax_with_loss", "SoftmaxWithLoss", "softmax_cross_entropy")
    targets = "either"
    ignores = "ignore_label"
    params = {"ignore_label": integers, "label_smoothing": fraction, "z_loss": nonnegative, "softcap": cap}
    reductions = ("normalize", "none", "sum")
    domain = "logits: any real numbers; -inf is an impossible class"
    worked = (
        dict(t=1, p=[1.2, 0.8], value=math.log1p(math.exp(0.4)), slope=[1 / (1 + math.exp(-0.4)), -1 / (1 + math.exp(-0.4))]),
        dict(t=0, p=[0.0, 0.0, 0.0, 0.0], value=math.log(4), slope=[-0.75, 0.25, 0.25, 0.25]),
    )

    prepare_targets = class_smoothed

    def value(xp, t, z, *, z_loss=0.0, softcap=0.0, **params):
        z = z if absent(softcap) else capped(xp, z, softcap)[0]
        value = SoftmaxCrossentropy.value(xp, t, z, **params)
        if absent(z_loss):
            return value
        lse = log_sum(xp, z)[:, 0, :]
        return value + z_loss * lse * lse  # lse², and 2 lse in autograd's derivative of it, may pass the largest number

    def slope(xp, t, z, *, z_loss=0.0, softcap=0.0, **params):
        z, d = (z, 1) if absent(softcap) else capped(xp, z, softcap)
        slope = SoftmaxCrossentropy.slope(xp, t, z, **params)
        if not absent(z_loss):
            slope = slope + times(xp, log_softmax(xp, z)[1], 2 * z_loss * log_sum(xp, z))
        return slope if absent(softcap) else slope * d

    def curvature(xp, t, z, *, z_loss=0.0, softcap=0.0, **params):
        y, d = (z, 1) if absent(softcap) else capped(xp, z, softcap)
        curvature = SoftmaxCrossentropy.curvature(xp, t, y, **params)
        if not absent(z_loss):
            _, p, q = log_softmax(xp, y)
            curvature = curvature + times(xp, p * q, 2 * z_loss * log_sum(xp, y)) + 2 * z_loss * p * p
        if absent(softcap):
            return curvature
        slope = SoftmaxLoss.slope(xp, t, y, z_loss=z_loss, **params)
        return curvature * d * d - slope * 2 * y / softcap**2 * d


def log_sum(xp, z):
    """log Σ exp z along axis 1, which is kept: what lies between the largest logit and its logarithm of p."""
    c = xp.arange(z.shape[1], device=beside(z))
    top = c[None, :, None] == xp.argmax(z, axis=1, keepdims=True)
    return xp.sum(xp.where(top, z - log_softmax(xp, z)[0], xp.zeros_like(z)), axis=1, keepdims=True)


@public(SoftmaxLoss)
def softmax_loss(
    y_true: Array,
    logits: Array,
    *,
    axis: int = 1,
    ignore_label: int | Sequence[int] | None = None,
    normalization: Literal["full", "valid", "batch_size", "none"] | Normalization | None = None,
    normalize: bool | None = None,
    class_weight: Array | None = None,
    sample_weight: Array | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    denominator: Array | None = None,
    reduction: Literal["normalize", "none", "sum"] = "normalize",
    return_prob: bool = False,
    validate: bool = True,
    **unknown: Never,
) -> Array:
    """Softmax cross-entropy from logits, with Caffe's ignore label, normalizers and spatial labels.

    Per position, with p the softmax of the logits along `axis`: ``-w * sum(k * t * log(p))`` over the classes, w the position's weight, k
    the class weights, t the target; for a label and no weights ``-log(p[label])``. The sum over positions is divided by the normalizer.

    Parameters
    ----------
    y_true : array
        Integer labels (any integer dtype, or whole-numbered floats) in the shape of `logits` without `axis`, or with an axis of length 1 at
        `axis` or at the end; or floating soft targets in the shape of `logits`. Integers are always labels.
    logits : array of shape (..., C, ...)
        Any real numbers, classes on `axis`: (N, C), (N, C, L), (N, C, H, W), ... float16 and bfloat16 are computed in float32. -inf is an
        impossible class.
    axis : int, default 1
        Axis of the classes.
    ignore_label : int or several, optional
        Labels, inside or outside 0..C-1, whose positions have loss 0 and gradient 0, whatever the logits there hold. No label is ignored
        unless it is named.
    normalization : {"full", "valid", "batch_size", "none"} or Normalization, optional
        What the sum is divided by: the number of positions; that of positions not ignored; the product of the axes before `axis`; 1. A
        count is at least 1. If given, it decides.
    normalize : bool, optional
        True means "valid", False "batch_size"; neither this nor `normalization`: "valid".
    class_weight : array of shape (C,), optional
        Factor of each class inside the sum over classes. With it or `sample_weight`, "valid" divides by the sum of ``w * k[label]`` (of ``w
        * sum(k * t)`` before smoothing, for soft targets); where that is 0, loss and gradient are 0.
    sample_weight : array, optional
        Weights: in the shape of the labels or of its leading axes; axes of length 1 are accepted. Weight 0 skips a position, NaN included.
    label_smoothing : float, default 0.0
        In [0, 1]: targets become (1 - label_smoothing) * t + label_smoothing / C.
    z_loss : float, default 0.0
        Adds ``w * z_loss * lse**2`` to the loss of each position that is not ignored, lse the logarithm of the sum of the exponentials
        of its logits: keeps them from drifting, as in PaLM [Chowdhery2023]_ (1e-4). Class weights do not act on it.
    softcap : float, optional
        Logits become ``softcap * tanh(logits / softcap)`` first, as in Gemma 2 [Gemma2024]_ (30.0).
    denominator : float or 0-d array, optional
        Replaces the normalizer, for instance by the number of positions of a batch that is spread over devices. A 0-d array of 0
        gives 0, as counting nothing does; the number 0 is an error.
    reduction : {"normalize", "none", "sum"}, default "normalize"
        The sum divided by the normalizer; one loss per position, 0 where ignored; the sum.
    return_prob : bool, default False
        Whether to return the probabilities too.
    validate : bool, default True
        False skips the check of the labels, which costs a synchronisation on a GPU; a bad label then makes its position NaN.

    Returns
    -------
    array or (array, array)
        The loss in nats, 0-d (under "none" in the shape of the labels), float32 or float64; with `return_prob` also the probabilities, in
        shape and dtype of `logits`. Of the caller's library and device.

    Raises
    ------
    ValueError
        If a label is neither a class nor ignored, shapes do not fit, or a parameter is out of range; the message names argument, place,
        value and rule.
    TypeError
        If arrays are of different libraries, or labels are not whole numbers.

    See Also
    --------
    sparse_categorical_crossentropy : Keras' loss of integer labels.
    categorical_crossentropy : Keras' loss of one-hot or soft targets.

    References
    ----------
    .. [Jia2014] Yangqing Jia et al., "Caffe: Convolutional Architecture for Fast Feature Embedding", ACM Multimedia 2014.
    .. [Szegedy2016] Christian Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016 (label smoothing).
    .. [Chowdhery2023] Aakanksha Chowdhery et al., "PaLM: Scaling Language Modeling with Pathways", JMLR 24 (2023), section 5 (z-loss).
    .. [Gemma2024] Gemma Team, "Gemma 2: Improving Open Language Models at a Practical Size", 2024, arXiv:2408.00118 (logit soft-capping).

    Examples
    --------
    >>> import numpy as np
    >>> import polyloss as pl
    >>> logits = np.array([[1.2, 0.8], [0.0, 0.0]])
    >>> loss, prob = pl.softmax_loss([1, 255], logits, ignore_label=255, return_prob=True)
    >>> print(f"{loss:.4f}", prob[0].round(4))
    0.9130 [0.5987 0.4013]
    """
    return call(
        SoftmaxLoss,
        y_true,
        logits,
        unknown,
        axis=axis,
        ignore_label=ignore_label,
        normalization=normalization,
        normalize=normalize,
        class_weight=class_weight,
        sample_weight=sample_weight,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        softcap=softcap,
        denominator=denominator,
        reduction=reduction,
        return_prob=return_prob,
        validate=validate,
    )
