"""Losses that compare directions and distributions."""

import math

from polyloss._block import Elementwise, Rowwise, clipped, public, times
from polyloss._call import call
from polyloss._params import clip_bound


class KLDivergence(Elementwise):
    """t log(t / p), summed over the classes; p clipped to [epsilon, 1], t to [0, 1]; a target of 0 contributes 0 exactly."""

    aliases = ("kld", "kullback_leibler_divergence", "KLD")
    params = {"epsilon": clip_bound}
    combine = "sum"
    kernel = "kl_divergence"
    domain = "y_true and y_pred: probabilities; values outside are clipped"
    worked = (dict(t=0.5, p=0.25, epsilon=1e-7, value=0.5 * math.log(2), slope=-2.0), dict(t=0.0, p=0.3, epsilon=1e-7, value=0.0, slope=0.0))

    def value(xp, t, p, epsilon):
        t, p = xp.clip(t, 0.0, 1.0), xp.clip(p, epsilon, 1.0)
        return times(xp, t, xp.log(xp.where(t == 0, xp.ones_like(t), t) / p))

    def slope(xp, t, p, epsilon):
        q, inside = clipped(xp, p, epsilon, 1.0)
        return xp.where(inside, -xp.clip(t, 0.0, 1.0) / q, xp.zeros_like(p))

    def curvature(xp, t, p, epsilon):
        q, inside = clipped(xp, p, epsilon, 1.0)
        return xp.where(inside, xp.clip(t, 0.0, 1.0) / (q * q), xp.zeros_like(p))


@public(KLDivergence)
def kl_divergence(y_true, y_pred, *, epsilon=1e-7, axis=-1, sample_weight=None, reduction="none", validate=True):
    """Kullback-Leibler divergence of `y_pred` from `y_true` in nats: sum over `axis` of ``y_true * log(y_true / y_pred)``."""
    return call(
        KLDivergence,
        y_true,
        y_pred,
        epsilon=epsilon,
        axis=axis,
        sample_weight=sample_weight,
        reduction=reduction,
        validate=validate,
    )


class CosineSimilarity(Rowwise):
    """-Σ t p / (‖t‖ ‖p‖) at any scale; a zero vector gives 0 and slope 0.

    Each vector is divided by its largest absolute entry first, so that no square overflows or underflows.
    """

    aliases = ("cosine", "cosine_proximity", "CosineSimilarity")
    kernel = "cosine_similarity"
    worked = (
        dict(t=[3.0, 4.0], p=[3.0, 4.0], value=-1.0, slope=[0.0, 0.0]),
        dict(t=[1.0, 0.0], p=[1.0, 1.0], value=-math.sqrt(0.5), slope=[-math.sqrt(2) / 4, math.sqrt(2) / 4]),
    )

    def unit(xp, x):
        """x / ‖x‖ (0 for a zero vector), and 1 / ‖x‖ (0 for a zero vector)."""
        scale = xp.max(xp.abs(x), axis=1, keepdims=True)
        scale = xp.where(scale == 0, xp.ones_like(scale), scale)
        y = x / scale
        square = xp.sum(y * y, axis=1, keepdims=True)
        zero = square == 0
        norm = xp.sqrt(xp.where(zero, xp.ones_like(square), square))
        return y / norm, xp.where(zero, xp.zeros_like(norm), 1 / norm / scale)

    def value(xp, t, p):
        return -xp.sum(CosineSimilarity.unit(xp, t)[0] * CosineSimilarity.unit(xp, p)[0], axis=1)

    def slope(xp, t, p):
        (t, _), (p, inverse) = CosineSimilarity.unit(xp, t), CosineSimilarity.unit(xp, p)
        return (p * xp.sum(t * p, axis=1, keepdims=True) - t) * inverse

    def curvature(xp, t, p):
        (t, _), (p, inverse) = CosineSimilarity.unit(xp, t), CosineSimilarity.unit(xp, p)
        cos = xp.sum(t * p, axis=1, keepdims=True)
        return (2 * t * p + cos - 3 * cos * p * p) * inverse * inverse


@public(CosineSimilarity)
def cosine_similarity(y_true, y_pred, *, axis=-1, sample_weight=None, reduction="none", validate=True):
    """Negative cosine of the angle between `y_true` and `y_pred` along `axis`: -1 same direction, 1 opposite."""
    return call(
        CosineSimilarity, y_true, y_pred, axis=axis, sample_weight=sample_weight, reduction=reduction, validate=validate
    )
