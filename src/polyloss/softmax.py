"""Softmax cross-entropy from logits: the formula, and Caffe's SoftmaxWithLoss as a public function."""

import enum
import math

from polyloss._block import OfLogSoftmax, public, times
from polyloss._call import call
from polyloss._params import fraction, integers


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
        return -times(xp, class_weight * t, l)

    def first(xp, t, l, p, q, class_weight=1.0):
        return -(class_weight * t)

    def second(xp, t, l, p, q, class_weight=1.0):
        return xp.zeros_like(t)


class SoftmaxLoss(SoftmaxCrossentropy):
    """-Σ k_c t_c log p_c, divided by one of four normalizers; t smoothed to (1 - ε) t + ε / C."""

    aliases = ("softmax_with_loss", "SoftmaxWithLoss", "softmax_cross_entropy")
    targets = "either"
    ignores = "ignore_label"
    params = {"ignore_label": integers, "label_smoothing": fraction}
    reductions = ("normalize", "none", "sum")
    domain = "logits: any real numbers; -inf is an impossible class"
    worked = (
        dict(t=1, p=[1.2, 0.8], value=math.log1p(math.exp(0.4)), slope=[1 / (1 + math.exp(-0.4)), -1 / (1 + math.exp(-0.4))]),
        dict(t=0, p=[0.0, 0.0, 0.0, 0.0], value=math.log(4), slope=[-0.75, 0.25, 0.25, 0.25]),
    )

    def targeted(xp, t, c, label_smoothing):
        return smoothed(t, c, label_smoothing)


def smoothed(t, c, label_smoothing):
    """(1 - ε) t + ε / c."""
    return t if label_smoothing == 0 else (1 - label_smoothing) * t + label_smoothing / c


@public(SoftmaxLoss)
def softmax_loss(
    y_true,
    logits,
    *,
    axis=1,
    ignore_label=None,
    normalization=None,
    normalize=None,
    class_weight=None,
    sample_weight=None,
    label_smoothing=0.0,
    denominator=None,
    reduction="normalize",
    return_prob=False,
    validate=True,
):
    """Softmax cross-entropy from logits, with Caffe's ignore label, normalizers and spatial labels."""
    return call(
        SoftmaxLoss,
        y_true,
        logits,
        axis=axis,
        ignore_label=ignore_label,
        normalization=normalization,
        normalize=normalize,
        class_weight=class_weight,
        sample_weight=sample_weight,
        label_smoothing=label_smoothing,
        denominator=denominator,
        reduction=reduction,
        return_prob=return_prob,
        validate=validate,
    )
