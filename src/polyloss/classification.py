"""Classification losses: each a block, formulas above and public function below."""

import math
from typing import Literal, Never

from polyloss._call.call import call
from polyloss._core.block import (
    Elementwise,
    OfLogSoftmax,
    OfShares,
    Rowwise,
    beyond,
    clipped,
    floored,
    log_softmax,
    mixed,
    nan_where,
    of_others,
    over,
    over_square,
    part,
    positive_part,
    power,
    public,
    sigmoid,
    times,
    times_log,
    whole,
)
from polyloss._core.devices import beside
from polyloss._core.params import (
    clip_bound,
    factors,
    flag,
    fraction,
    integers,
    nonnegative,
    number,
    one_of,
    one_or_two,
    traced,
    unit_exponent,
    weights,
)
from polyloss._core.types import Array, Reduction
from polyloss.softmax import SoftmaxCrossentropy, class_smoothed


def all_binary(xp, t, labels):
    """Whether every target of the whole array is 0 or 1: then Keras takes them for classes, not signs."""
    return xp.all((t == 0) | (t == 1))


def plus_minus(xp, t, c, labels, scanned):
    """Targets as ±1: "01" are mapped by 2t - 1, "pm1" are taken as they are, "auto" is decided by `all_binary`."""
    if labels == "auto":
        return xp.where(scanned, 2 * t - 1, t)
    return 2 * t - 1 if labels == "01" else t


class Hinge(Elementwise):
    """max(1 - t p, 0)."""

    aliases = ("Hinge",)
    params = {"labels": one_of("auto", "01", "pm1")}
    kernel = "hinge"
    domain = "y_pred: any real numbers; y_true: -1 and 1, or 0 and 1"
    prepare_targets = plus_minus
    scan_targets = all_binary
    worked = (dict(t=1.0, p=0.25, labels="pm1", value=0.75, slope=-1.0), dict(t=-1.0, p=-2.0, labels="pm1", value=0.0, slope=0.0))

    def value(xp, t, p):
        return positive_part(xp, 1 - part(xp, t, p))

    def slope(xp, t, p):
        m = 1 - part(xp, t, p)
        return xp.where(m > 0, -t, positive_part(xp, m))  # NaN goes through

    def curvature(xp, t, p):
        return xp.zeros_like(p)


@public(Hinge)
def hinge(
    y_true: Array,
    y_pred: Array,
    *,
    labels: Literal["auto", "01", "pm1"] = "auto",
    axis: int = -1,
    sample_weight: Array | None = None,
    reduction: Reduction = "none",
    validate: bool = True,
    **unknown: Never,
) -> Array:
    """Hinge loss, mean over `axis`: ``mean(maximum(1 - y_true * y_pred, 0))``.

    Parameters
    ----------
    y_true : array, shape of `y_pred`
        Targets; taken in the dtype of the computation. Nothing is broadcast.
    y_pred : array
        Predictions, floating, or integer (then computed in the library's default float). float16 and bfloat16 are computed in float32.
    labels : {"auto", "01", "pm1"}, default "auto"
        What the targets are: 0 and 1, or -1 and 1. "auto" is Keras' rule: 0 and 1 if every target of the array is 0 or 1 (of those with
        weight not 0).
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
    squared_hinge : Its square.
    categorical_hinge : Several classes.

    Examples
    --------
    >>> import numpy as np
    >>> import polyloss as pl
    >>> pl.hinge([[1.0, -1.0]], [[0.25, -2.0]])
    array([0.375])
    """
    return call(
        Hinge, y_true, y_pred, unknown, labels=labels, axis=axis, sample_weight=sample_weight, reduction=reduction, validate=validate
    )


class SquaredHinge(Elementwise):
    """max(1 - t p, 0)²."""

    aliases = ("SquaredHinge",)
    params = {"labels": one_of("auto", "01", "pm1")}
    kernel = "squared_hinge"
    domain = Hinge.domain
    prepare_targets = plus_minus
    scan_targets = all_binary
    worked = (dict(t=1.0, p=0.5, labels="pm1", value=0.25, slope=-1.0), dict(t=0.0, p=1.0, labels="01", value=4.0, slope=4.0))

    def value(xp, t, p):
        m = positive_part(xp, 1 - part(xp, t, p))
        return m * m

    def slope(xp, t, p):
        return -2 * t * positive_part(xp, 1 - part(xp, t, p))

    def curvature(xp, t, p):
        return xp.where(1 - part(xp, t, p) > 0, 2 * t * t, xp.zeros_like(p))


@public(SquaredHinge)
def squared_hinge(
    y_true: Array,
    y_pred: Array,
    *,
    labels: Literal["auto", "01", "pm1"] = "auto",
    axis: int = -1,
    sample_weight: Array | None = None,
    reduction: Reduction = "none",
    validate: bool = True,
    **unknown: Never,
) -> Array:
    """Squared hinge loss, mean over `axis`: ``mean(maximum(1 - y_true * y_pred, 0)**2)``.

    Parameters
    ----------
    y_true : array, shape of `y_pred`
        Targets; taken in the dtype of the computation. Nothing is broadcast.
    y_pred : array
        Predictions, floating, or integer (then computed in the library's default float). float16 and bfloat16 are computed in float32.
    labels : {"auto", "01", "pm1"}, default "auto"
        What the targets are: 0 and 1, or -1 and 1. "auto" is Keras' rule: 0 and 1 if every target of the array is 0 or 1 (of those with
        weight not 0).
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
    hinge : Not squared.

    Examples
    --------
    >>> import numpy as np
    >>> import polyloss as pl
    >>> pl.squared_hinge([[1.0, -1.0]], [[0.5, -2.0]])
    array([0.125])
    """
    return call(
        SquaredHinge,
        y_true,
        y_pred,
        unknown,
        labels=labels,
        axis=axis,
        sample_weight=sample_weight,
        reduction=reduction,
        validate=validate,
    )


class CategoricalHinge(Rowwise):
    """max(max_c (1 - t) p - Σ t p + 1, 0); of several largest classes the first has the slope."""

    aliases = ("CategoricalHinge",)
    kernel = "categorical_hinge"
    domain = "y_pred: any real numbers; y_true: one-hot"
    worked = (dict(t=[0.0, 1.0, 0.0], p=[0.5, 0.25, 1.0], value=1.75, slope=[0.0, -1.0, 1.0]),)

    def margin(xp, t, p):
        """The margin, and the class that is its largest wrong one."""
        right, wrong = part(xp, t, p), part(xp, 1 - t, p)
        c = xp.arange(p.shape[1], device=beside(p))
        top = c[None, :, None] == xp.argmax(wrong, axis=1, keepdims=True)
        return xp.sum(xp.where(top, wrong, xp.zeros_like(p)), axis=1, keepdims=True) - xp.sum(right, axis=1, keepdims=True) + 1, top

    def value(xp, t, p):
        margin, _ = CategoricalHinge.margin(xp, t, p)
        return positive_part(xp, whole(xp, margin))[:, 0, :]

    def slope(xp, t, p):
        margin, top = CategoricalHinge.margin(xp, t, p)
        return xp.where(margin > 0, xp.where(top, 1 - t, xp.zeros_like(t)) - t, positive_part(xp, margin))  # NaN goes through

    def curvature(xp, t, p):
        return xp.zeros_like(p)


@public(CategoricalHinge)
def categorical_hinge(
    y_true: Array,
    y_pred: Array,
    *,
    axis: int = -1,
    sample_weight: Array | None = None,
    reduction: Reduction = "none",
    validate: bool = True,
    **unknown: Never,
) -> Array:
    """Categorical hinge loss over the classes on `axis`.

    ``maximum(max((1 - y_true) * y_pred) - sum(y_true * y_pred) + 1, 0)``.

    Parameters
    ----------
    y_true : array, shape of `y_pred`
        One-hot targets; taken in the dtype of the computation. Nothing is broadcast.
    y_pred : array
        Predictions, floating, or integer (then computed in the library's default float). float16 and bfloat16 are computed in float32.
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
        In the shape of `y_pred` without `axis` under "none", else 0-d; of the caller's library and device, float32 or float64.

    Raises
    ------
    ValueError
        If shapes do not fit, or a parameter is out of range; the message names argument, place, value and rule.
    TypeError
        If arrays are of different libraries, or hold no real numbers.

    See Also
    --------
    hinge : Two classes.

    Notes
    -----
    Of several equally large wrong classes the first has the gradient.

    Examples
    --------
    >>> import numpy as np
    >>> import polyloss as pl
    >>> pl.categorical_hinge([[0.0, 1.0, 0.0]], [[0.5, 0.25, 1.0]])
    array([1.75])
    """
    return call(CategoricalHinge, y_true, y_pred, unknown, axis=axis, sample_weight=sample_weight, reduction=reduction, validate=validate)


def binary_smoothed(xp, t, c, label_smoothing):
    """(1 - ε) t + ε / 2."""
    return t if not traced(label_smoothing) and label_smoothing == 0 else (1 - label_smoothing) * t + 0.5 * label_smoothing


class BinaryCrossentropyFromLogits(Elementwise):
    """(1 - t) softplus(z) + t softplus(-z), with what the two share taken out: log1p(exp(-|z|)). Never saturates."""

    kernel = "binary_crossentropy_from_logits"
    prepare_targets = binary_smoothed

    def value(xp, t, z):
        zero, up = xp.zeros_like(z), z >= 0
        # NaN in both, one of whose factors is not 0: the derivative with respect to t is NaN, too.
        cost = times(xp, 1 - t, xp.where(z < 0, zero, z)) + times(xp, t, xp.where(up, zero, -z))
        return cost + xp.log1p(xp.exp(xp.where(up, -z, z)))

    def slope(xp, t, z):
        return (1 - t) * sigmoid(xp, z) - t * sigmoid(xp, -z)

    def curvature(xp, t, z):
        return sigmoid(xp, z) * sigmoid(xp, -z)


class WeightedBinaryCrossentropyFromLogits(Elementwise):
    """(1 - t) softplus(z) + k t softplus(-z), k the weight of positive targets, with what the two share taken out."""

    kernel = "weighted_binary_crossentropy_from_logits"
    prepare_targets = binary_smoothed

    def value(xp, t, z, pos_weight):
        zero, up, k = xp.zeros_like(z), z >= 0, pos_weight * t
        cost = times(xp, 1 - t, xp.where(up, z, zero)) + times(xp, k, xp.where(up, zero, -z))
        return cost + ((1 - t) + k) * xp.log1p(xp.exp(xp.where(up, -z, z)))

    def slope(xp, t, z, pos_weight):
        return (1 - t) * sigmoid(xp, z) - pos_weight * t * sigmoid(xp, -z)

    def curvature(xp, t, z, pos_weight):
        return ((1 - t) + pos_weight * t) * (sigmoid(xp, z) * sigmoid(xp, -z))


class WeightedBinaryCrossentropy(Elementwise):
    """-(k t log y + (1 - t) log(1 - y)), k the weight of positive targets, y = p clipped to [epsilon, 1 - epsilon]."""

    kernel = "weighted_binary_crossentropy"
    prepare_targets = binary_smoothed

    def value(xp, t, p, pos_weight, epsilon):
        y, _ = clipped(xp, p, epsilon, 1 - epsilon)
        of_0 = times(xp, 1 - t, xp.log1p(-xp.where((t == 1) & (y == 1), xp.zeros_like(y), y)))
        return 0 * y - (times_log(xp, pos_weight * t, y) + of_0)  # NaN where y is, though a weight of 0 may leave no term

    def slope(xp, t, p, pos_weight, epsilon):
        y, inside = clipped(xp, p, epsilon, 1 - epsilon)
        return xp.where(inside, over(xp, 1 - t, 1 - y) - over(xp, pos_weight * t, y) + 0 * y, xp.zeros_like(p))

    def curvature(xp, t, p, pos_weight, epsilon):
        y, inside = clipped(xp, p, epsilon, 1 - epsilon)
        both = over_square(xp, pos_weight * t, y) + over_square(xp, 1 - t, 1 - y) + 0 * y
        return xp.where(inside, both, xp.zeros_like(p))


class BinaryCrossentropy(Elementwise):
    """-(t log y + (1 - t) log(1 - y)), y = p clipped to [epsilon, 1 - epsilon]; where p is clipped the slope is 0."""

    aliases = ("bce", "BCE", "logloss", "LogLoss")
    params = {"pos_weight": weights, "from_logits": flag, "label_smoothing": fraction, "epsilon": clip_bound}
    logits = BinaryCrossentropyFromLogits
    kernel = "binary_crossentropy"
    domain = "y_pred: probabilities, clipped; with from_logits=True any real numbers"
    takes = "probability"
    prepare_targets = binary_smoothed
    worked = (
        dict(t=1.0, p=0.25, pos_weight=1.0, from_logits=False, label_smoothing=0.0, epsilon=1e-7, value=math.log(4), slope=-4.0),
        dict(t=0.0, p=0.0, pos_weight=1.0, from_logits=True, label_smoothing=0.0, epsilon=1e-7, value=math.log(2), slope=0.5),
        dict(t=1.0, p=0.0, pos_weight=3.0, from_logits=True, label_smoothing=0.0, epsilon=1e-7, value=3 * math.log(2), slope=-1.5),
    )

    def form(block, values):
        weighted = traced(values["pos_weight"]) or values["pos_weight"] != 1
        if not weighted:
            del values["pos_weight"]
        block = Elementwise.form(block, values)
        if not weighted:
            return block
        return WeightedBinaryCrossentropy if block is BinaryCrossentropy else WeightedBinaryCrossentropyFromLogits

    def value(xp, t, p, epsilon):
        y, _ = clipped(xp, p, epsilon, 1 - epsilon)
        return -(times_log(xp, t, y) + times(xp, 1 - t, xp.log1p(-xp.where((t == 1) & (y == 1), xp.zeros_like(y), y))))

    def slope(xp, t, p, epsilon):
        y, inside = clipped(xp, p, epsilon, 1 - epsilon)
        end = (y == 0) | (y == 1)  # apart: there (y - t) / (y (1 - y)) would be 0/0
        within = xp.where(end, xp.full_like(y, 0.5), y)
        at_end = over(xp, 1 - t, 1 - y) - over(xp, t, y)
        return xp.where(inside, xp.where(end, at_end, (y - t) / (within * (1 - within))), xp.zeros_like(p))

    def curvature(xp, t, p, epsilon):
        y, inside = clipped(xp, p, epsilon, 1 - epsilon)
        return xp.where(inside, over_square(xp, t, y) + over_square(xp, 1 - t, 1 - y), xp.zeros_like(p))


@public(BinaryCrossentropy)
def binary_crossentropy(
    y_true: Array,
    y_pred: Array,
    *,
    pos_weight: float | Array = 1.0,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    epsilon: float = 1e-7,
    axis: int = -1,
    sample_weight: Array | None = None,
    reduction: Reduction = "none",
    validate: bool = True,
    **unknown: Never,
) -> Array:
    """Binary cross-entropy, mean over `axis`.

    ``mean(-(pos_weight * y_true * log(p) + (1 - y_true) * log(1 - p)))``, p the clipped `y_pred` or the sigmoid of its logits.

    Parameters
    ----------
    y_true : array, shape of `y_pred`
        Targets; taken in the dtype of the computation. Nothing is broadcast.
    y_pred : array
        Probabilities of the positive class, or logits. float16 and bfloat16 are computed in float32.
    pos_weight : float or sequence of C floats, default 1.0
        At least 0: factor of the loss of positive targets, or one for each entry on `axis`, as in PyTorch's `BCEWithLogitsLoss`. The number
        of negatives over that of positives balances the two.
    from_logits : bool, default False
        Whether `y_pred` holds logits, any real numbers, instead of probabilities: then the loss is computed in log space, is not clipped
        and never saturates.
    label_smoothing : float, default 0.0
        In [0, 1]: targets become (1 - label_smoothing) * y_true + label_smoothing / 2.
    epsilon : float, default 1e-7
        Probabilities are clipped to [epsilon, 1 - epsilon], bounds rounded to the dtype of the computation; where clipped, the gradient is
        0.
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
        In nats. In the shape of `y_pred` without `axis` under "none", else 0-d; of the caller's library and device, float32 or float64.

    Raises
    ------
    ValueError
        If shapes do not fit, or a parameter is out of range; the message names argument, place, value and rule.
    TypeError
        If arrays are of different libraries, or hold no real numbers.

    See Also
    --------
    binary_focal_crossentropy : Gives hard examples more weight.
    log_loss : Metric with scikit-learn's rules.

    Examples
    --------
    >>> import numpy as np
    >>> import polyloss as pl
    >>> pl.binary_crossentropy([[1.0, 0.0]], [[50.0, 50.0]], from_logits=True)
    array([25.])
    """
    return call(
        BinaryCrossentropy,
        y_true,
        y_pred,
        unknown,
        pos_weight=pos_weight,
        from_logits=from_logits,
        label_smoothing=label_smoothing,
        epsilon=epsilon,
        axis=axis,
        sample_weight=sample_weight,
        reduction=reduction,
        validate=validate,
    )


class BinaryFocalCrossentropyFromLogits(Elementwise):
    """w u^γ b: b the binary cross-entropy from logits, u = 1 - p_t = t σ(-z) + (1 - t) σ(z), w the class balance.

    Derivatives of u are written as multiples of u, with r = u' / u, which is never large: no power of u is negative.
    """

    kernel = "binary_focal_crossentropy_from_logits"
    prepare_targets = binary_smoothed

    def parts(xp, t, z):
        """u, r, b, and the sigmoids of z and -z."""
        up, down = sigmoid(xp, z), sigmoid(xp, -z)
        above = z > 0
        e = xp.exp(xp.where(above, -z, z))
        one = xp.ones_like(e)
        m = mixed(xp, t, xp.where(above, e, one), xp.where(above, one, e))  # u (1 + e)
        r = (1 - 2 * t) * xp.where(m == 0, xp.zeros_like(m), e / xp.where(m == 0, xp.ones_like(m), m)) / (1 + e)
        return m / (1 + e), r, BinaryCrossentropyFromLogits.value(xp, t, z), up, down  # type: ignore[arg-type]

    def value(xp, t, z, apply_class_balancing, alpha, gamma):
        u, _, b, _, _ = BinaryFocalCrossentropyFromLogits.parts(xp, t, z)
        return balanced(xp, t, apply_class_balancing, alpha, times(xp, power(xp, u, gamma), b))

    def slope(xp, t, z, apply_class_balancing, alpha, gamma):
        u, r, b, up, down = BinaryFocalCrossentropyFromLogits.parts(xp, t, z)
        s = (1 - t) * up - t * down + gamma * times(xp, r, b)
        return balanced(xp, t, apply_class_balancing, alpha, power(xp, u, gamma) * s)

    def curvature(xp, t, z, apply_class_balancing, alpha, gamma):
        u, r, b, up, down = BinaryFocalCrossentropyFromLogits.parts(xp, t, z)
        b1 = (1 - t) * up - t * down
        s = gamma * r * (times(xp, (down - up) + (gamma - 1) * r, b) + 2 * b1) + up * down
        return balanced(xp, t, apply_class_balancing, alpha, power(xp, u, gamma) * s)


def balanced(xp, t, apply_class_balancing, alpha, x):
    """x, or x (t α + (1 - t)(1 - α)): 0 where that factor is 0 and x infinite."""
    return part(xp, mixed(xp, t, alpha, 1 - alpha), x) if apply_class_balancing else x


class BinaryFocalCrossentropy(Elementwise):
    """w u^γ b: b the binary cross-entropy of y = clip(p), u = 1 - p_t = t (1 - y) + (1 - t) y, w the class balance."""

    aliases = ("BinaryFocalCrossentropy",)
    params = {
        "apply_class_balancing": flag,
        "alpha": number,
        "gamma": nonnegative,
        "from_logits": flag,
        "label_smoothing": fraction,
        "epsilon": clip_bound,
    }
    logits = BinaryFocalCrossentropyFromLogits
    kernel = "binary_focal_crossentropy"
    domain = BinaryCrossentropy.domain
    takes = "probability"
    prepare_targets = binary_smoothed
    worked = (
        dict(
            t=1.0, p=0.5, apply_class_balancing=False, alpha=0.25, gamma=2.0, from_logits=False, label_smoothing=0.0, epsilon=1e-7,
            value=0.25 * math.log(2), slope=-0.5 - math.log(2),
        ),
    )  # fmt: skip

    def value(xp, t, p, apply_class_balancing, alpha, gamma, epsilon):
        y, _ = clipped(xp, p, epsilon, 1 - epsilon)
        u = mixed(xp, t, 1 - y, y)
        b = BinaryCrossentropy.value(xp, t, p, epsilon)  # type: ignore[arg-type]
        return balanced(xp, t, apply_class_balancing, alpha, power(xp, u, gamma) * b)

    def slope(xp, t, p, apply_class_balancing, alpha, gamma, epsilon):
        y, inside = clipped(xp, p, epsilon, 1 - epsilon)
        u, u1 = mixed(xp, t, 1 - y, y), 1 - 2 * t
        b, b1 = BinaryCrossentropy.value(xp, t, p, epsilon), BinaryCrossentropy.slope(xp, t, p, epsilon)  # type: ignore[arg-type]
        # where y nears the end that costs an infinite loss, b is a logarithm, and far below its derivatives
        s = power(xp, u, gamma) * beyond(xp, b1, times(xp, gamma, u1 * BinaryFocalCrossentropy.per_miss(xp, b, u)))
        return xp.where(inside, balanced(xp, t, apply_class_balancing, alpha, s), xp.zeros_like(p))

    def curvature(xp, t, p, apply_class_balancing, alpha, gamma, epsilon):
        y, inside = clipped(xp, p, epsilon, 1 - epsilon)
        u, u1 = mixed(xp, t, 1 - y, y), 1 - 2 * t
        b, b1 = BinaryCrossentropy.value(xp, t, p, epsilon), BinaryCrossentropy.slope(xp, t, p, epsilon)  # type: ignore[arg-type]
        b2 = BinaryCrossentropy.curvature(xp, t, p, epsilon)  # type: ignore[arg-type]
        near = u1 * (2 * b1 + (gamma - 1) * u1 * BinaryFocalCrossentropy.per_miss(xp, b, u))
        s = beyond(xp, power(xp, u, gamma) * b2, times(xp, gamma, power(xp, u, gamma - 1) * near))
        return xp.where(inside, balanced(xp, t, apply_class_balancing, alpha, s), xp.zeros_like(p))

    def per_miss(xp, b, u):
        """b / u, which nears 1 where u nears 0."""
        return xp.where(u == 0, xp.ones_like(u), b / xp.where(u == 0, xp.ones_like(u), u))


@public(BinaryFocalCrossentropy)
def binary_focal_crossentropy(
    y_true: Array,
    y_pred: Array,
    *,
    apply_class_balancing: bool = False,
    alpha: float = 0.25,
    gamma: float = 2.0,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    epsilon: float = 1e-7,
    axis: int = -1,
    sample_weight: Array | None = None,
    reduction: Reduction = "none",
    validate: bool = True,
    **unknown: Never,
) -> Array:
    """Binary focal cross-entropy, mean over `axis`: cross-entropy times ``(1 - p_t)**gamma``.

    p_t is the probability given to the target; factors as in Keras 3.

    Parameters
    ----------
    y_true : array, shape of `y_pred`
        Targets; taken in the dtype of the computation. Nothing is broadcast.
    y_pred : array
        Probabilities of the positive class, or logits. float16 and bfloat16 are computed in float32.
    apply_class_balancing : bool, default False
        Whether to weigh the classes by `alpha`.
    alpha : float, default 0.25
        Weight of class 1; class 0 has 1 - alpha.
    gamma : float, default 2.0
        At least 0: how much less weight easy examples get.
    from_logits : bool, default False
        Whether `y_pred` holds logits, any real numbers, instead of probabilities: then the loss is computed in log space, is not clipped
        and never saturates.
    label_smoothing : float, default 0.0
        In [0, 1]: targets become (1 - label_smoothing) * y_true + label_smoothing / 2.
    epsilon : float, default 1e-7
        Probabilities are clipped to [epsilon, 1 - epsilon], bounds rounded to the dtype of the computation; where clipped, the gradient is
        0.
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
        In nats. In the shape of `y_pred` without `axis` under "none", else 0-d; of the caller's library and device, float32 or float64.

    Raises
    ------
    ValueError
        If shapes do not fit, or a parameter is out of range; the message names argument, place, value and rule.
    TypeError
        If arrays are of different libraries, or hold no real numbers.

    See Also
    --------
    binary_crossentropy : Without the factor.

    References
    ----------
    .. [Lin2017] T.-Y. Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017.

    Examples
    --------
    >>> import numpy as np
    >>> import polyloss as pl
    >>> pl.binary_focal_crossentropy([[1.0]], [[0.5]])
    array([0.1732868])
    """
    return call(
        BinaryFocalCrossentropy,
        y_true,
        y_pred,
        unknown,
        apply_class_balancing=apply_class_balancing,
        alpha=alpha,
        gamma=gamma,
        from_logits=from_logits,
        label_smoothing=label_smoothing,
        epsilon=epsilon,
        axis=axis,
        sample_weight=sample_weight,
        reduction=reduction,
        validate=validate,
    )


class CategoricalCrossentropyFromLogits(SoftmaxCrossentropy):
    """-Σ t_c log p_c."""

    prepare_targets = class_smoothed


class CategoricalCrossentropy(OfShares):
    """-Σ t_c log y_c, y = p / Σp clipped to [epsilon, 1 - epsilon]; where it is clipped the slope is 0."""

    aliases: tuple[str, ...] = ("cce", "CategoricalCrossentropy")
    params = {"from_logits": flag, "label_smoothing": fraction, "epsilon": clip_bound}
    logits: type | None = CategoricalCrossentropyFromLogits
    kernel = "categorical_crossentropy"
    domain = "y_pred: positive numbers, divided by their sum; with from_logits=True any real numbers"
    prepare_targets = class_smoothed
    worked = (
        dict(
            t=[0.0, 1.0], p=[0.75, 0.25], from_logits=False, label_smoothing=0.0, epsilon=1e-7,
            value=math.log(4), slope=[1.0, -3.0],
        ),
    )  # fmt: skip

    def term(xp, t, y):
        return -times_log(xp, t, y)

    def first(xp, t, y):
        return -t + 0 * y

    def second(xp, t, y):
        return t + 0 * y


@public(CategoricalCrossentropy)
def categorical_crossentropy(
    y_true: Array,
    y_pred: Array,
    *,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    epsilon: float = 1e-7,
    axis: int = -1,
    sample_weight: Array | None = None,
    reduction: Reduction = "none",
    validate: bool = True,
    **unknown: Never,
) -> Array:
    """Categorical cross-entropy of one-hot or soft targets: ``-sum(y_true * log(p))`` over the classes on `axis`.

    Parameters
    ----------
    y_true : array, shape of `y_pred`
        Target probabilities, one-hot or soft; taken in the dtype of the computation. Nothing is broadcast.
    y_pred : array with classes on `axis`
        Probabilities (divided by their sum along `axis`), or logits. float16 and bfloat16 are computed in float32.
    from_logits : bool, default False
        Whether `y_pred` holds logits, any real numbers, instead of probabilities: then the loss is computed in log space, is not clipped
        and never saturates.
    label_smoothing : float, default 0.0
        In [0, 1]: targets become (1 - label_smoothing) * y_true + label_smoothing / C, C the number of classes on `axis`.
    epsilon : float, default 1e-7
        Probabilities are clipped to [epsilon, 1 - epsilon], bounds rounded to the dtype of the computation; where clipped, the gradient is
        0.
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
    sparse_categorical_crossentropy : Integer labels.
    softmax_loss : From logits, with ignore labels, class weights and normalizers.

    Examples
    --------
    >>> import numpy as np
    >>> import polyloss as pl
    >>> pl.categorical_crossentropy([[0.0, 1.0]], [[0.75, 0.25]])
    array([1.38629436])
    """
    return call(
        CategoricalCrossentropy,
        y_true,
        y_pred,
        unknown,
        from_logits=from_logits,
        label_smoothing=label_smoothing,
        epsilon=epsilon,
        axis=axis,
        sample_weight=sample_weight,
        reduction=reduction,
        validate=validate,
    )


class SparseCategoricalCrossentropyFromLogits(SoftmaxCrossentropy):
    """-log p[t]."""

    targets = "labels"


class SparseCategoricalCrossentropy(CategoricalCrossentropy):
    """-log y[t], y = p / Σp clipped to [epsilon, 1 - epsilon]: the categorical cross-entropy of the one-hot targets."""

    aliases = ("scce", "sparse_categorical_crossentrop", "SparseCategoricalCrossentropy")
    targets = "labels"
    ignores = "ignore_class"
    params = {"from_logits": flag, "ignore_class": integers, "epsilon": clip_bound}
    logits = SparseCategoricalCrossentropyFromLogits
    kernel = "sparse_categorical_crossentropy"
    worked = (dict(t=1, p=[0.75, 0.25], from_logits=False, ignore_class=None, epsilon=1e-7, value=math.log(4), slope=[1.0, -3.0]),)

    def prepare_targets(xp, t, c):  # type: ignore[override]
        return t


@public(SparseCategoricalCrossentropy)
def sparse_categorical_crossentropy(
    y_true: Array,
    y_pred: Array,
    *,
    from_logits: bool = False,
    ignore_class: int | None = None,
    epsilon: float = 1e-7,
    axis: int = -1,
    sample_weight: Array | None = None,
    reduction: Reduction = "none",
    validate: bool = True,
    **unknown: Never,
) -> Array:
    """Categorical cross-entropy of integer labels: ``-log(p[y_true])`` over the classes on `axis`.

    Parameters
    ----------
    y_true : array of integers, shape of `y_pred` without `axis`
        Labels, of any integer dtype or whole-numbered floats; an axis of length 1 at `axis` or at the end is accepted.
    y_pred : array with classes on `axis`
        Probabilities (divided by their sum along `axis`), or logits. float16 and bfloat16 are computed in float32.
    from_logits : bool, default False
        Whether `y_pred` holds logits, any real numbers, instead of probabilities: then the loss is computed in log space, is not clipped
        and never saturates.
    ignore_class : int or several, optional
        Labels whose positions have loss 0 and gradient 0, whatever lies there; "mean" does not count them.
    epsilon : float, default 1e-7
        Probabilities are clipped to [epsilon, 1 - epsilon], bounds rounded to the dtype of the computation; where clipped, the gradient is
        0.
    axis : int, default -1
        Axis of the classes.
    sample_weight : array, optional
        Weights: in the shape of the losses or of its leading axes; axes of length 1 are accepted. Weight 0 skips a position, NaN included.
    reduction : {"none", "sum", "mean", "sum_over_batch_size"}, default "none"
        Weighted losses as they are; their sum; the sum divided by the sum of the weights; the sum divided by the number of losses. ``None``
        is "none", Keras' "mean_with_sample_weight" is "mean".
    validate : bool, default True
        False skips the check of the labels, which costs a synchronisation on a GPU; a bad label then makes its position NaN.

    Returns
    -------
    array
        In nats. In the shape of `y_pred` without `axis` under "none", else 0-d; of the caller's library and device, float32 or float64.

    Raises
    ------
    ValueError
        If shapes do not fit, or a parameter or label is out of range; the message names argument, place, value and rule.
    TypeError
        If arrays are of different libraries, or hold no whole numbers where labels are due.

    See Also
    --------
    categorical_crossentropy : One-hot or soft targets.
    softmax_loss : From logits, with class weights and normalizers.

    Examples
    --------
    >>> import numpy as np
    >>> import polyloss as pl
    >>> pl.sparse_categorical_crossentropy([1], [[0.75, 0.25]])
    array([1.38629436])
    """
    return call(
        SparseCategoricalCrossentropy,
        y_true,
        y_pred,
        unknown,
        from_logits=from_logits,
        ignore_class=ignore_class,
        epsilon=epsilon,
        axis=axis,
        sample_weight=sample_weight,
        reduction=reduction,
        validate=validate,
    )


def loss_per_miss(xp, loss, q):
    """loss / q of loss = -log(1 - q), which nears 1 with q: no power of q is ever negative that is multiplied by it."""
    small = q < 2.0**-26
    return xp.where(small, 1 + 0.5 * q, loss / xp.where(small, xp.ones_like(q), q))


class CategoricalFocalCrossentropyFromLogits(OfLogSoftmax):
    """-Σ α t_c q_c^γ log p_c, q = 1 - p."""

    kernel = "categorical_focal_crossentropy_from_logits"
    prepare_targets = class_smoothed

    def term(xp, t, l, p, q, alpha, gamma):
        return -part(xp, alpha * t * power(xp, q, gamma), l)

    def first(xp, t, l, p, q, alpha, gamma):
        return -alpha * t * power(xp, q, gamma) * (1 + gamma * times(xp, p, loss_per_miss(xp, -l, q)))

    def second(xp, t, l, p, q, alpha, gamma):
        bend = 2 * p + times(xp, p, l) + (gamma - 1) * p * times(xp, p, loss_per_miss(xp, -l, q))
        return alpha * gamma * t * power(xp, q, gamma) * bend


class CategoricalFocalCrossentropy(OfShares):
    """-Σ α t_c (1 - y_c)^γ log y_c, y = p / Σp clipped to [epsilon, 1 - epsilon]."""

    aliases = ("CategoricalFocalCrossentropy",)
    params = {"alpha": factors, "gamma": nonnegative, "from_logits": flag, "label_smoothing": fraction, "epsilon": clip_bound}
    logits = CategoricalFocalCrossentropyFromLogits
    kernel = "categorical_focal_crossentropy"
    domain = CategoricalCrossentropy.domain
    prepare_targets = class_smoothed
    worked = (
        dict(
            t=[1.0, 0.0], p=[0.5, 0.5], alpha=0.25, gamma=2.0, from_logits=False, label_smoothing=0.0, epsilon=1e-7,
            value=math.log(2) / 16, slope=[-(0.5 + math.log(2)) / 8, (0.5 + math.log(2)) / 8],
        ),
    )  # fmt: skip

    def term(xp, t, y, alpha, gamma):
        return -power(xp, 1 - y, gamma) * times_log(xp, alpha * t, y)

    def first(xp, t, y, alpha, gamma):
        u = 1 - y
        return -alpha * t * power(xp, u, gamma) * (1 + gamma * times(xp, y, loss_per_miss(xp, -xp.log(y), u)))

    def second(xp, t, y, alpha, gamma):
        u = 1 - y
        near = y * power(xp, u, gamma - 1) * (2 + (gamma - 1) * times(xp, y, loss_per_miss(xp, -xp.log(y), u)))
        return alpha * t * (power(xp, u, gamma) + times(xp, gamma, near))


@public(CategoricalFocalCrossentropy)
def categorical_focal_crossentropy(
    y_true: Array,
    y_pred: Array,
    *,
    alpha: float | Array = 0.25,
    gamma: float = 2.0,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    epsilon: float = 1e-7,
    axis: int = -1,
    sample_weight: Array | None = None,
    reduction: Reduction = "none",
    validate: bool = True,
    **unknown: Never,
) -> Array:
    """Categorical focal cross-entropy: ``-sum(alpha * (1 - p)**gamma * y_true * log(p))`` over the classes on `axis`.

    Parameters
    ----------
    y_true : array, shape of `y_pred`
        Target probabilities, one-hot or soft; taken in the dtype of the computation. Nothing is broadcast.
    y_pred : array with classes on `axis`
        Probabilities (divided by their sum along `axis`), or logits. float16 and bfloat16 are computed in float32.
    alpha : float or sequence of C floats, default 0.25
        Factor of the loss, or one for each class on `axis`.
    gamma : float, default 2.0
        At least 0: how much less weight easy examples get.
    from_logits : bool, default False
        Whether `y_pred` holds logits, any real numbers, instead of probabilities: then the loss is computed in log space, is not clipped
        and never saturates.
    label_smoothing : float, default 0.0
        In [0, 1]: targets become (1 - label_smoothing) * y_true + label_smoothing / C, C the number of classes on `axis`.
    epsilon : float, default 1e-7
        Probabilities are clipped to [epsilon, 1 - epsilon], bounds rounded to the dtype of the computation; where clipped, the gradient is
        0.
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
    categorical_crossentropy : Without the factor.

    References
    ----------
    .. [Lin2017] T.-Y. Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017.

    Examples
    --------
    >>> import numpy as np
    >>> import polyloss as pl
    >>> pl.categorical_focal_crossentropy([[1.0, 0.0]], [[0.5, 0.5]])
    array([0.0433217])
    """
    return call(
        CategoricalFocalCrossentropy,
        y_true,
        y_pred,
        unknown,
        alpha=alpha,
        gamma=gamma,
        from_logits=from_logits,
        label_smoothing=label_smoothing,
        epsilon=epsilon,
        axis=axis,
        sample_weight=sample_weight,
        reduction=reduction,
        validate=validate,
    )


class Poly1Crossentropy(OfLogSoftmax):
    """-Σ t_c log p_c + poly_epsilon (1 - Σ t_c p_c), with 1 - Σ t p = (1 - Σ t) + Σ t q.  [Leng et al., ICLR 2022]"""

    aliases = ("poly1", "Poly1Crossentropy")
    targets = "either"
    predictions = "y_pred"
    params = {"poly_epsilon": number}
    kernel = "softmax_xent"
    domain = "logits: any real numbers"
    worked = (dict(t=0, p=[0.0, 0.0], poly_epsilon=1.0, value=math.log(2) + 0.5, slope=[-0.75, 0.75]),)

    def value(xp, t, z, *, block, poly_epsilon):  # type: ignore[override]
        value, rest = OfLogSoftmax.value(xp, t, z, block=block, poly_epsilon=poly_epsilon), poly_epsilon * (1 - xp.sum(t, axis=1))
        return value + xp.where(xp.isinf(value) & xp.isinf(rest), xp.zeros_like(rest), rest)  # that of an impossible class is far above it

    def term(xp, t, l, p, q, poly_epsilon):
        return t * (poly_epsilon * q) - part(xp, t, l)

    def first(xp, t, l, p, q, poly_epsilon):
        return -t - poly_epsilon * t * p

    def curvature(xp, t, z, *, block, poly_epsilon):  # type: ignore[override]
        """p_j (q_j T - ε x_j (q_j - p_j)), x_j = t_j q_j - Σ_{c≠j} t_c p_c and T = Σt; sorted so that for ε = 1 what cancels is exact."""
        _, p, q = log_softmax(xp, z)
        near = q < 0.5
        others, total = of_others(xp, t * p, near), xp.sum(t, axis=1, keepdims=True)
        excess = t * q - others
        of_far = (q * (total - poly_epsilon * t) + poly_epsilon * others) + 2 * poly_epsilon * p * excess
        return p * xp.where(near, (q * (total + poly_epsilon * t) - poly_epsilon * others) - 2 * poly_epsilon * q * excess, of_far)


@public(Poly1Crossentropy)
def poly1_crossentropy(
    y_true: Array,
    y_pred: Array,
    *,
    poly_epsilon: float = 1.0,
    axis: int = -1,
    sample_weight: Array | None = None,
    reduction: Reduction = "none",
    validate: bool = True,
    **unknown: Never,
) -> Array:
    """Poly-1 cross-entropy from logits: cross-entropy plus ``poly_epsilon * (1 - p[y_true])``.

    Parameters
    ----------
    y_true : array
        Labels as in `sparse_categorical_crossentropy`, or floating soft targets in the shape of `y_pred`.
    y_pred : array with classes on `axis`
        Logits. float16 and bfloat16 are computed in float32.
    poly_epsilon : float, default 1.0
        Factor of the first-order term.
    axis : int, default -1
        Axis of the classes.
    sample_weight : array, optional
        Weights: in the shape of the losses or of its leading axes; axes of length 1 are accepted. Weight 0 skips a position, NaN included.
    reduction : {"none", "sum", "mean", "sum_over_batch_size"}, default "none"
        Weighted losses as they are; their sum; the sum divided by the sum of the weights; the sum divided by the number of losses. ``None``
        is "none", Keras' "mean_with_sample_weight" is "mean".
    validate : bool, default True
        False skips the check of the labels, which costs a synchronisation on a GPU; a bad label then makes its position NaN.

    Returns
    -------
    array
        In nats. In the shape of `y_pred` without `axis` under "none", else 0-d; of the caller's library and device, float32 or float64.

    Raises
    ------
    ValueError
        If shapes do not fit, or a parameter or label is out of range; the message names argument, place, value and rule.
    TypeError
        If arrays are of different libraries, or hold no whole numbers where labels are due.

    See Also
    --------
    softmax_loss : Cross-entropy alone.

    References
    ----------
    .. [Leng2022] Zhaoqi Leng et al., "PolyLoss: A Polynomial Expansion Perspective of Classification Loss Functions", ICLR 2022.

    Examples
    --------
    >>> import numpy as np
    >>> import polyloss as pl
    >>> pl.poly1_crossentropy([0], [[0.0, 0.0]])
    array([1.19314718])
    """
    return call(
        Poly1Crossentropy,
        y_true,
        y_pred,
        unknown,
        poly_epsilon=poly_epsilon,
        axis=axis,
        sample_weight=sample_weight,
        reduction=reduction,
        validate=validate,
    )


class Exponential(Elementwise):
    """exp(-t p), t -1 or 1."""

    aliases = ("ExponentialLoss",)
    params = {"labels": one_of("auto", "01", "pm1")}
    kernel = "exponential"
    domain = "y_pred: any real numbers; y_true: -1 and 1, or 0 and 1"
    prepare_targets = plus_minus
    scan_targets = all_binary
    worked = (
        dict(t=1.0, p=0.0, labels="pm1", value=1.0, slope=-1.0),
        dict(t=-1.0, p=-math.log(2), labels="pm1", value=0.5, slope=0.5),
    )

    def value(xp, t, p):
        return xp.exp(-part(xp, t, p))

    def slope(xp, t, p):
        half = xp.exp(-0.5 * part(xp, t, p))  # of a small target the exponential alone may overflow
        return -(t * half) * half

    def curvature(xp, t, p):
        half = t * xp.exp(-0.5 * part(xp, t, p))
        return half * half


@public(Exponential)
def exponential(
    y_true: Array,
    y_pred: Array,
    *,
    labels: Literal["auto", "01", "pm1"] = "auto",
    axis: int = -1,
    sample_weight: Array | None = None,
    reduction: Reduction = "none",
    validate: bool = True,
    **unknown: Never,
) -> Array:
    """Exponential loss of AdaBoost, mean over `axis`: ``mean(exp(-y_true * y_pred))``, targets as -1 and 1.

    Numbers of scikit-learn's `GradientBoostingClassifier(loss="exponential")`.

    Parameters
    ----------
    y_true : array, shape of `y_pred`
        Targets, -1 and 1 or 0 and 1. Nothing is broadcast.
    y_pred : array
        Decisions, any real numbers: positive for the class 1. float16 and bfloat16 are computed in float32.
    labels : {"auto", "01", "pm1"}, default "auto"
        What the targets are: 0 and 1, or -1 and 1. "auto" is Keras' rule: 0 and 1 if every target of the array is 0 or 1 (of those with
        weight not 0).
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
    logistic : Grows linearly with a wrong decision.
    hinge : 0 for decisions that are right by a margin.

    References
    ----------
    .. [Freund1997] Yoav Freund and Robert E. Schapire, "A Decision-Theoretic Generalization of On-Line Learning and an Application to
       Boosting", Journal of Computer and System Sciences 55(1), 1997, pp. 119-139.

    Examples
    --------
    >>> import numpy as np
    >>> import polyloss as pl
    >>> pl.exponential([[1.0, -1.0]], [[0.0, -np.log(2)]])
    array([0.75])
    """
    return call(
        Exponential, y_true, y_pred, unknown, labels=labels, axis=axis, sample_weight=sample_weight, reduction=reduction, validate=validate
    )


class Logistic(Elementwise):
    """log(1 + exp(-t p)), t -1 or 1: log1p(exp(-|t p|)), and |t p| where the decision is wrong."""

    aliases = ("soft_margin", "SoftMarginLoss")
    params = {"labels": one_of("auto", "01", "pm1")}
    kernel = "logistic"
    domain = "y_pred: any real numbers; y_true: -1 and 1, or 0 and 1"
    prepare_targets = plus_minus
    scan_targets = all_binary
    worked = (
        dict(t=1.0, p=0.0, labels="pm1", value=math.log(2), slope=-0.5),
        dict(t=-1.0, p=math.log(3), labels="pm1", value=math.log(4), slope=0.75),
    )

    def value(xp, t, p):
        x = part(xp, t, p)
        wrong = x < 0
        return xp.where(wrong, -x, xp.zeros_like(x)) + xp.log1p(xp.exp(xp.where(wrong, x, -x)))

    def slope(xp, t, p):
        return -t * sigmoid(xp, -part(xp, t, p))

    def curvature(xp, t, p):
        x = part(xp, t, p)
        return t * (t * (sigmoid(xp, x) * sigmoid(xp, -x)))


@public(Logistic)
def logistic(
    y_true: Array,
    y_pred: Array,
    *,
    labels: Literal["auto", "01", "pm1"] = "auto",
    axis: int = -1,
    sample_weight: Array | None = None,
    reduction: Reduction = "none",
    validate: bool = True,
    **unknown: Never,
) -> Array:
    """Logistic loss of a margin, mean over `axis`: ``mean(log(1 + exp(-y_true * y_pred)))``, targets as -1 and 1.

    PyTorch's `SoftMarginLoss`; the binary cross-entropy from logits, with other labels. It never saturates.

    Parameters
    ----------
    y_true : array, shape of `y_pred`
        Targets, -1 and 1 or 0 and 1. Nothing is broadcast.
    y_pred : array
        Decisions, any real numbers: positive for the class 1. float16 and bfloat16 are computed in float32.
    labels : {"auto", "01", "pm1"}, default "auto"
        What the targets are: 0 and 1, or -1 and 1. "auto" is Keras' rule: 0 and 1 if every target of the array is 0 or 1 (of those with
        weight not 0).
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
        In nats. In the shape of `y_pred` without `axis` under "none", else 0-d; of the caller's library and device, float32 or float64.

    Raises
    ------
    ValueError
        If shapes do not fit, or a parameter is out of range; the message names argument, place, value and rule.
    TypeError
        If arrays are of different libraries, or hold no real numbers.

    See Also
    --------
    binary_crossentropy : Of probabilities, or logits.
    exponential : Grows faster with a wrong decision.

    References
    ----------
    .. [Friedman2000] Jerome Friedman, Trevor Hastie and Robert Tibshirani, "Additive logistic regression: a statistical view of boosting",
       Annals of Statistics 28(2), 2000, pp. 337-407.

    Examples
    --------
    >>> import numpy as np
    >>> import polyloss as pl
    >>> pl.logistic([[1.0, -1.0]], [[0.0, np.log(3)]])
    array([1.03972077])
    """
    return call(
        Logistic, y_true, y_pred, unknown, labels=labels, axis=axis, sample_weight=sample_weight, reduction=reduction, validate=validate
    )


class Brier(Elementwise):
    """Σ (p_c - t_c)²; nothing is rescaled."""

    aliases = ("brier_score", "BrierScore")
    targets = "either"
    combine = "sum"
    kernel = "mean_squared_error"
    kernel_of_labels = "brier"
    domain = "y_pred: probabilities; other numbers are taken as they are"
    takes = "probabilities"
    worked = (
        dict(t=0, p=[0.5, 0.25, 0.25], value=0.375, slope=[-1.0, 0.5, 0.5]),
        dict(t=[0.5, 0.5], p=[0.75, 0.25], value=0.125, slope=[0.5, -0.5]),
    )

    def value(xp, t, p):
        d = p - t
        return d * d

    def slope(xp, t, p):
        return 2 * (p - t)

    def curvature(xp, t, p):
        return xp.full_like(p, 2.0)


@public(Brier)
def brier(
    y_true: Array,
    y_pred: Array,
    *,
    axis: int = -1,
    sample_weight: Array | None = None,
    reduction: Reduction = "none",
    validate: bool = True,
    **unknown: Never,
) -> Array:
    """Brier score: sum over the classes on `axis` of ``(y_pred - t)**2``, t the one-hot targets.

    Between 0 and 2 for probabilities: scikit-learn's `brier_score_loss` of several classes, which halves that of two.

    Parameters
    ----------
    y_true : array
        Labels as in `sparse_categorical_crossentropy`, or floating soft targets in the shape of `y_pred`.
    y_pred : array with classes on `axis`
        Probabilities, taken as they are. float16 and bfloat16 are computed in float32.
    axis : int, default -1
        Axis of the classes.
    sample_weight : array, optional
        Weights: in the shape of the losses or of its leading axes; axes of length 1 are accepted. Weight 0 skips a position, NaN included.
    reduction : {"none", "sum", "mean", "sum_over_batch_size"}, default "none"
        Weighted losses as they are; their sum; the sum divided by the sum of the weights; the sum divided by the number of losses. ``None``
        is "none", Keras' "mean_with_sample_weight" is "mean".
    validate : bool, default True
        False skips the check of the labels, which costs a synchronisation on a GPU; a bad label then makes its position NaN.

    Returns
    -------
    array
        In the shape of `y_pred` without `axis` under "none", else 0-d; of the caller's library and device, float32 or float64.

    Raises
    ------
    ValueError
        If shapes do not fit, or a parameter or label is out of range; the message names argument, place, value and rule.
    TypeError
        If arrays are of different libraries, or hold no whole numbers where labels are due.

    See Also
    --------
    categorical_crossentropy : Without a bound.
    mean_squared_error : The mean over the classes, of dense targets.

    References
    ----------
    .. [Brier1950] Glenn W. Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather Review 78(1), 1950, pp.
       1-3.

    Examples
    --------
    >>> import numpy as np
    >>> import polyloss as pl
    >>> pl.brier([0], [[0.5, 0.25, 0.25]])
    array([0.375])
    """
    return call(Brier, y_true, y_pred, unknown, axis=axis, sample_weight=sample_weight, reduction=reduction, validate=validate)


class MulticlassHinge(Rowwise):
    """max(0, margin + z_j - z_y)^power of the largest wrong class j, or the sum of that over all wrong classes, divided by C.

    Of several largest wrong classes the first has the slope.
    """

    aliases = ("crammer_singer", "multi_margin", "MultiMarginLoss")
    targets = "labels"
    params = {"margin": number, "power": one_or_two, "average": flag}
    kernel = "multiclass_hinge"
    domain = "y_pred: any real numbers"
    worked = (
        dict(t=0, p=[0.5, 0.25, -2.0], margin=1.0, power=1, average=False, value=0.75, slope=[-1.0, 1.0, 0.0]),
        dict(t=0, p=[0.5, 0.25, 0.0], margin=1.0, power=2, average=False, value=0.5625, slope=[-1.5, 1.5, 0.0]),
        dict(t=1, p=[0.5, 0.25, 0.0], margin=1.0, power=1, average=True, value=2 / 3, slope=[1 / 3, -2 / 3, 1 / 3]),
    )

    def excess(xp, t, z, margin, average):
        """What the margin is exceeded by, of classes that count, (n, c, s), -∞ where one does not; and whether a class is the label."""
        right = t == 1
        wrong = ~right
        if not average:
            c = xp.arange(z.shape[1], device=beside(z))
            others = xp.where(right, xp.full_like(z, -math.inf), floored(xp, z, -float(xp.finfo(z.dtype).max)))  # the label is none of them
            wrong = wrong & (c[None, :, None] == xp.argmax(others, axis=1, keepdims=True))
        of_label = xp.sum(xp.where(right, z, xp.zeros_like(z)), axis=1, keepdims=True)
        none = xp.full_like(z, -math.inf)  # not of a difference: the label's decision may be -∞
        return xp.where(wrong, margin + z - of_label, xp.where(xp.isnan(of_label), of_label + none, none)), right

    def value(xp, t, z, margin, power, average):
        m, right = MulticlassHinge.excess(xp, t, z, margin, average)
        u, c = positive_part(xp, MulticlassHinge.divided(xp, m, right, z, margin, average)), z.shape[1] if average else 1
        return xp.sum(u if power == 1 else u * (u * c), axis=1)

    def divided(xp, m, right, z, margin, average):
        """The excess divided by the number of classes, if all count: before it is added, and term by term where it is itself too large."""
        if not average:
            return m
        c, of_label = z.shape[1], xp.sum(xp.where(right, z, xp.zeros_like(z)), axis=1, keepdims=True)
        return xp.where(m == math.inf, margin / c + z / c - of_label / c, m / c)

    def both(xp, at, right):
        """A derivative with respect to the wrong classes' excess -> to all logits: the label's is the others' sum, negative."""
        at = xp.where(right, xp.zeros_like(at), at)
        return at, xp.where(right, xp.sum(at, axis=1, keepdims=True), xp.zeros_like(at))

    def slope(xp, t, z, margin, power, average):
        m, right = MulticlassHinge.excess(xp, t, z, margin, average)
        if power == 1:
            at = xp.where(m > 0, xp.ones_like(m), positive_part(xp, m)) / (z.shape[1] if average else 1)
        else:
            at = 2 * positive_part(xp, MulticlassHinge.divided(xp, m, right, z, margin, average))
        others, label = MulticlassHinge.both(xp, at, right)
        return others - label

    def curvature(xp, t, z, margin, power, average):
        if power == 1:
            return xp.zeros_like(z)
        m, right = MulticlassHinge.excess(xp, t, z, margin, average)
        at = xp.where(m > 0, xp.full_like(m, 2 / z.shape[1] if average else 2.0), xp.zeros_like(m))
        others, label = MulticlassHinge.both(xp, at, right)
        return others + label


@public(MulticlassHinge)
def multiclass_hinge(
    y_true: Array,
    y_pred: Array,
    *,
    margin: float = 1.0,
    power: Literal[1, 2] = 1,
    average: bool = False,
    axis: int = -1,
    sample_weight: Array | None = None,
    reduction: Reduction = "none",
    validate: bool = True,
    **unknown: Never,
) -> Array:
    """Hinge loss of several classes: ``max(0, margin + max(z[j != y]) - z[y])**power`` over the classes on `axis`.

    Crammer's and Singer's loss, scikit-learn's `hinge_loss` of several classes.

    Parameters
    ----------
    y_true : array of integers, shape of `y_pred` without `axis`
        Labels, of any integer dtype or whole-numbered floats; an axis of length 1 at `axis` or at the end is accepted.
    y_pred : array with classes on `axis`
        Decisions, any real numbers. float16 and bfloat16 are computed in float32.
    margin : float, default 1.0
        By how much the label's decision is to exceed all others.
    power : {1, 2}, default 1
        1 or 2: what each excess is raised to.
    average : bool, default False
        Whether to sum over all wrong classes instead of taking the largest, and to divide by the number of classes: PyTorch's
        `MultiMarginLoss`.
    axis : int, default -1
        Axis of the classes.
    sample_weight : array, optional
        Weights: in the shape of the losses or of its leading axes; axes of length 1 are accepted. Weight 0 skips a position, NaN included.
    reduction : {"none", "sum", "mean", "sum_over_batch_size"}, default "none"
        Weighted losses as they are; their sum; the sum divided by the sum of the weights; the sum divided by the number of losses. ``None``
        is "none", Keras' "mean_with_sample_weight" is "mean".
    validate : bool, default True
        False skips the check of the labels, which costs a synchronisation on a GPU; a bad label then makes its position NaN.

    Returns
    -------
    array
        In the shape of `y_pred` without `axis` under "none", else 0-d; of the caller's library and device, float32 or float64.

    Raises
    ------
    ValueError
        If shapes do not fit, or a parameter or label is out of range; the message names argument, place, value and rule.
    TypeError
        If arrays are of different libraries, or hold no whole numbers where labels are due.

    See Also
    --------
    categorical_hinge : Keras', of one-hot targets: a largest wrong decision below 0 counts as 0.
    hinge : Two classes.

    Notes
    -----
    Of several equally large wrong classes the first has the gradient.

    References
    ----------
    .. [Crammer2001] Koby Crammer and Yoram Singer, "On the Algorithmic Implementation of Multiclass Kernel-based Vector Machines", Journal
       of Machine Learning Research 2, 2001, pp. 265-292.

    Examples
    --------
    >>> import numpy as np
    >>> import polyloss as pl
    >>> pl.multiclass_hinge([0], [[0.5, 0.25, -2.0]])
    array([0.75])
    """
    return call(
        MulticlassHinge,
        y_true,
        y_pred,
        unknown,
        margin=margin,
        power=power,
        average=average,
        axis=axis,
        sample_weight=sample_weight,
        reduction=reduction,
        validate=validate,
    )


class GeneralizedCrossentropy(Rowwise):
    """(1 - p[y]^q) / q = -expm1(q log p[y]) / q."""

    aliases = ("categorical_generalized_cross_entropy", "CategoricalGeneralizedCrossEntropy")
    targets = "labels"
    params = {"q": unit_exponent}
    kernel = "generalized_crossentropy"
    domain = "y_pred: probabilities, taken as they are"
    takes = "probabilities"
    worked = (
        dict(t=0, p=[0.25, 0.75], q=0.5, value=1.0, slope=[-2.0, 0.0]),
        dict(t=1, p=[0.25, 0.75], q=1.0, value=0.25, slope=[0.0, -1.0]),
    )

    def value(xp, t, p, q):
        y = xp.sum(xp.where(t == 1, p, xp.zeros_like(p)), axis=1)
        y, one = y * nan_where(xp, y < 0, y), xp.ones_like(y)
        near = xp.abs(y**q - 1) < 0.5  # where 1 - p^q would cancel; elsewhere the derivative of expm1, which libraries take from its value
        return xp.where(near, -xp.expm1(q * xp.log(xp.where(near, y, one))), 1 - xp.where(near, one, y) ** q) / q

    def of_label(xp, t, p):
        """Where the label is; its probability there, NaN if negative, and never -0, whose powers below 0 are infinite in either sign."""
        right = t == 1
        y = xp.where(right, p + 0, xp.ones_like(p))
        return right, y * nan_where(xp, y < 0, y)

    def slope(xp, t, p, q):
        right, y = GeneralizedCrossentropy.of_label(xp, t, p)
        return xp.where(right, -(y ** (q - 1)) + 0 * y, xp.zeros_like(p))

    def curvature(xp, t, p, q):
        right, y = GeneralizedCrossentropy.of_label(xp, t, p)
        return xp.where(right, times(xp, 1 - q, y ** (q - 2)) + 0 * y, xp.zeros_like(p))


@public(GeneralizedCrossentropy)
def generalized_crossentropy(
    y_true: Array,
    y_pred: Array,
    *,
    q: float = 0.5,
    axis: int = -1,
    sample_weight: Array | None = None,
    reduction: Reduction = "none",
    validate: bool = True,
    **unknown: Never,
) -> Array:
    """Generalized cross-entropy of integer labels: ``(1 - p[y_true]**q) / q`` over the classes on `axis`.

    Keras' `CategoricalGeneralizedCrossEntropy`: probabilities are neither divided by their sum nor clipped.

    Parameters
    ----------
    y_true : array of integers, shape of `y_pred` without `axis`
        Labels, of any integer dtype or whole-numbered floats; an axis of length 1 at `axis` or at the end is accepted.
    y_pred : array with classes on `axis`
        Probabilities. float16 and bfloat16 are computed in float32.
    q : float, default 0.5
        Above 0, at most 1: near 0 the cross-entropy, at 1 the absolute error 1 - p, which noisy labels disturb least.
    axis : int, default -1
        Axis of the classes.
    sample_weight : array, optional
        Weights: in the shape of the losses or of its leading axes; axes of length 1 are accepted. Weight 0 skips a position, NaN included.
    reduction : {"none", "sum", "mean", "sum_over_batch_size"}, default "none"
        Weighted losses as they are; their sum; the sum divided by the sum of the weights; the sum divided by the number of losses. ``None``
        is "none", Keras' "mean_with_sample_weight" is "mean".
    validate : bool, default True
        False skips the check of the labels, which costs a synchronisation on a GPU; a bad label then makes its position NaN.

    Returns
    -------
    array
        In nats. In the shape of `y_pred` without `axis` under "none", else 0-d; of the caller's library and device, float32 or float64.

    Raises
    ------
    ValueError
        If shapes do not fit, or a parameter or label is out of range; the message names argument, place, value and rule.
    TypeError
        If arrays are of different libraries, or hold no whole numbers where labels are due.

    See Also
    --------
    sparse_categorical_crossentropy : Its limit for q of 0.
    poly1_crossentropy : Cross-entropy plus a multiple of 1 - p.

    Notes
    -----
    A probability of 0 for the label costs 1 / q, and its slope is infinite unless q is 1; a negative one gives NaN.

    References
    ----------
    .. [Zhang2018] Zhilu Zhang and Mert R. Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels",
       NeurIPS 2018.

    Examples
    --------
    >>> import numpy as np
    >>> import polyloss as pl
    >>> pl.generalized_crossentropy([0], [[0.25, 0.75]])
    array([1.])
    """
    return call(
        GeneralizedCrossentropy,
        y_true,
        y_pred,
        unknown,
        q=q,
        axis=axis,
        sample_weight=sample_weight,
        reduction=reduction,
        validate=validate,
    )
