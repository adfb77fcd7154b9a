"""Keras 3's loss classes on polyloss' kernels: Keras' names, constructors and numbers.

If a loss is a plain function, Keras multiplies its results by masks and weights afterwards. These classes hand masks, sample weights, class
weights and the reduction to the loss itself, which computes value and gradient in one pass and skips positions of weight 0, even if they
are NaN. A model that was saved with them gets the same classes back when it is loaded, after ``import polyloss.keras``. They run on Keras'
torch, JAX and NumPy backends.

Integer labels keep their dtype. Keras casts labels to the dtype of the loss: in bfloat16 label 257 becomes 256.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops
from keras.src.backend import get_keras_mask  # where a layer's mask travels; Keras exports no other way to it
from keras.src.losses.loss import reduce_weighted_values

from polyloss import registry
from polyloss._core.block import LOSSES
from polyloss._core.bound_loss import BoundLoss
from polyloss._core.params import integers
from polyloss._core.types import Array, Reduction

__all__ = [
    "BinaryCrossentropy",
    "BinaryFocalCrossentropy",
    "CategoricalCrossentropy",
    "CategoricalFocalCrossentropy",
    "CategoricalGeneralizedCrossEntropy",
    "CategoricalHinge",
    "CosineSimilarity",
    "Dice",
    "Hinge",
    "Huber",
    "KLDivergence",
    "LogCosh",
    "Loss",
    "MeanAbsoluteError",
    "MeanAbsolutePercentageError",
    "MeanSquaredError",
    "MeanSquaredLogarithmicError",
    "Poisson",
    "SoftmaxLoss",
    "SparseCategoricalCrossentropy",
    "SquaredHinge",
    "Tversky",
    "get",
]

REDUCTIONS = {
    "sum_over_batch_size": "sum_over_batch_size",
    "mean": "sum_over_batch_size",  # Keras' "mean" divides by the number of losses, not by their weights
    "mean_with_sample_weight": "mean",
    "sum": "sum",
    "none": "none",
    None: "none",
}

registered = keras.saving.register_keras_serializable(package="polyloss")


@registered
class Loss(keras.losses.Loss):
    """Any loss of polyloss as a Keras loss; the classes below extend it.

    Parameters
    ----------
    loss : str or callable
        A loss of polyloss, its name, or one with parameters filled in.
    reduction : {"sum_over_batch_size", "mean", "mean_with_sample_weight", "sum", "none"}, default "sum_over_batch_size"
        Keras' names: "sum_over_batch_size" and "mean" divide the weighted sum by the number of losses, "mean_with_sample_weight" by the sum
        of the weights. Where a mask hides positions, the number is that of the positions left. ``None`` is "none".
    name : str, optional
        Name of the instance.
    dtype : str or keras.DTypePolicy, optional
        Dtype of predictions and result, ``keras.config.floatx()`` if not given.
    **parameters
        Parameters of the loss.

    Raises
    ------
    TypeError
        If the loss has no such parameter.
    ValueError
        If there is no such loss or reduction, or a parameter is out of range.
    """

    # Subclasses whose constructor names the loss by itself leave it out of their configuration.
    named = True

    def __init__(
        self,
        loss: str | Callable[..., Any],
        reduction: str | None = "sum_over_batch_size",
        name: str | None = None,
        dtype: Any = None,
        **parameters: Any,
    ) -> None:
        if keras.backend.backend() == "tensorflow":
            raise RuntimeError("polyloss.keras runs on Keras' torch, jax and numpy backends, and this is tensorflow")
        function = registry.get(loss)
        bound = function if isinstance(function, BoundLoss) else BoundLoss(function, {})
        if parameters:
            bound = BoundLoss(bound.function, {**bound.parameters, **parameters})
        block = LOSSES.get(bound.__name__)
        if block is None:
            raise TypeError(f"loss is {loss!r}, but must be a loss of polyloss")
        super().__init__(name=name or bound.__name__, reduction=reduction, dtype=dtype)
        self._bound, self._block, self._given_dtype = bound, block, dtype
        self._ignored = integers(block.ignores, bound.parameters.get(block.ignores)) if block.ignores else ()

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The loss, weighted and reduced."""
        mask = get_keras_mask(y_pred)
        y_pred = ops.convert_to_tensor(y_pred, dtype=self.dtype)
        y_true, y_pred = self._fitting(ops.convert_to_tensor(y_true), y_pred)
        for label in self._ignored:
            kept = ops.reshape(y_true, self._positions(y_pred)) != label
            mask = kept if mask is None else ops.logical_and(mask, kept)
        weight = self._weight(sample_weight, mask)
        loss = self._reduced(y_true, y_pred, weight)
        return loss if keras.backend.standardize_dtype(loss.dtype) == self.dtype else ops.cast(loss, self.dtype)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """One loss per position, without weights."""
        return self._bound(*self._fitting(y_true, y_pred), reduction="none")

    def get_config(self) -> dict[str, Any]:
        """What `from_config` takes."""
        dtype = self._given_dtype
        config = {**super().get_config(), **self._bound.parameters}
        if dtype is not None:
            config["dtype"] = dtype if isinstance(dtype, str) else dtype.name
        return {"loss": self._bound.__name__, **config} if self.named else config

    def _fitting(self, y_true: Any, y_pred: Any) -> tuple[Any, Any]:
        """Targets and predictions of one rank, as Keras makes them: (N,) beside (N, 1) gets an axis."""
        if self._block.targets == "dense" and abs(y_true.ndim - y_pred.ndim) == 1:
            more = y_true if y_true.ndim > y_pred.ndim else y_pred
            if more.shape[-1] == 1:
                y_true, y_pred = ops.reshape(y_true, more.shape), ops.reshape(y_pred, more.shape)
        return y_true, y_pred

    def _positions(self, y_pred: Any) -> tuple[int, ...]:
        """The shape of the losses."""
        axis = self._bound.__signature__.parameters["axis"].default % y_pred.ndim
        return (*y_pred.shape[:axis], *y_pred.shape[axis + 1 :])

    def _weight(self, sample_weight: Any, mask: Any) -> Any:
        """Mask and sample weights as one array.

        Means divide by the number of all positions. So what the mask shows is scaled up until its weights add up to that number: a mean
        then is one over the positions that are shown.
        """
        weight = None if sample_weight is None else ops.convert_to_tensor(sample_weight, dtype=_wide(self.dtype))
        if mask is None:
            return weight
        shown = ops.cast(mask, _wide(self.dtype))
        if self.reduction in ("mean", "sum_over_batch_size"):
            count = ops.sum(shown)
            shown = shown * ops.where(count > 0, math.prod(mask.shape) / ops.maximum(count, 1), 0)
        if weight is None:
            return shown
        if weight.ndim > shown.ndim and weight.shape[-1] == 1:
            weight = ops.squeeze(weight, -1)
        return shown * ops.reshape(weight, (*weight.shape, *(1,) * (shown.ndim - weight.ndim)))

    def _reduced(self, y_true: Any, y_pred: Any, weight: Any) -> Any:
        return self._bound(y_true, y_pred, sample_weight=weight, reduction=REDUCTIONS[self.reduction])


def _wide(dtype: str) -> str:
    """The dtype of weights: never less than float32."""
    return dtype if dtype == "float64" else "float32"


class _Named(Loss):
    """A loss whose class says which it is."""

    named = False


@registered
class MeanSquaredError(_Named):
    """`polyloss.mean_squared_error` with the arguments of `keras.losses.MeanSquaredError`."""

    def __init__(self, reduction: Reduction = "sum_over_batch_size", name: str = "mean_squared_error", dtype: Any = None) -> None:
        super().__init__("mean_squared_error", reduction, name, dtype)


@registered
class MeanAbsoluteError(_Named):
    """`polyloss.mean_absolute_error` with the arguments of `keras.losses.MeanAbsoluteError`."""

    def __init__(self, reduction: Reduction = "sum_over_batch_size", name: str = "mean_absolute_error", dtype: Any = None) -> None:
        super().__init__("mean_absolute_error", reduction, name, dtype)


@registered
class MeanAbsolutePercentageError(_Named):
    """`polyloss.mean_absolute_percentage_error` with the arguments of `keras.losses.MeanAbsolutePercentageError`."""

    def __init__(
        self,
        reduction: Reduction = "sum_over_batch_size",
        name: str = "mean_absolute_percentage_error",
        dtype: Any = None,
    ) -> None:
        super().__init__("mean_absolute_percentage_error", reduction, name, dtype)


@registered
class MeanSquaredLogarithmicError(_Named):
    """`polyloss.mean_squared_logarithmic_error` with the arguments of `keras.losses.MeanSquaredLogarithmicError`."""

    def __init__(
        self,
        reduction: Reduction = "sum_over_batch_size",
        name: str = "mean_squared_logarithmic_error",
        dtype: Any = None,
    ) -> None:
        super().__init__("mean_squared_logarithmic_error", reduction, name, dtype)


@registered
class Huber(_Named):
    """`polyloss.huber` with the arguments of `keras.losses.Huber`."""

    def __init__(
        self,
        delta: float = 1.0,
        reduction: Reduction = "sum_over_batch_size",
        name: str = "huber_loss",
        dtype: Any = None,
    ) -> None:
        super().__init__("huber", reduction, name, dtype, delta=delta)


@registered
class LogCosh(_Named):
    """`polyloss.log_cosh` with the arguments of `keras.losses.LogCosh`."""

    def __init__(self, reduction: Reduction = "sum_over_batch_size", name: str = "log_cosh", dtype: Any = None) -> None:
        super().__init__("log_cosh", reduction, name, dtype)


@registered
class Poisson(_Named):
    """`polyloss.poisson` with the arguments of `keras.losses.Poisson`."""

    def __init__(self, reduction: Reduction = "sum_over_batch_size", name: str = "poisson", dtype: Any = None) -> None:
        super().__init__("poisson", reduction, name, dtype)


@registered
class KLDivergence(_Named):
    """`polyloss.kl_divergence` with the arguments of `keras.losses.KLDivergence`."""

    def __init__(self, reduction: Reduction = "sum_over_batch_size", name: str = "kl_divergence", dtype: Any = None) -> None:
        super().__init__("kl_divergence", reduction, name, dtype)


@registered
class CosineSimilarity(_Named):
    """`polyloss.cosine_similarity` with the arguments of `keras.losses.CosineSimilarity`."""

    def __init__(
        self,
        axis: int = -1,
        reduction: Reduction = "sum_over_batch_size",
        name: str = "cosine_similarity",
        dtype: Any = None,
    ) -> None:
        super().__init__("cosine_similarity", reduction, name, dtype, axis=axis)


@registered
class Hinge(_Named):
    """`polyloss.hinge` with the arguments of `keras.losses.Hinge`."""

    def __init__(self, reduction: Reduction = "sum_over_batch_size", name: str = "hinge", dtype: Any = None) -> None:
        super().__init__("hinge", reduction, name, dtype)


@registered
class SquaredHinge(_Named):
    """`polyloss.squared_hinge` with the arguments of `keras.losses.SquaredHinge`."""

    def __init__(self, reduction: Reduction = "sum_over_batch_size", name: str = "squared_hinge", dtype: Any = None) -> None:
        super().__init__("squared_hinge", reduction, name, dtype)


@registered
class CategoricalHinge(_Named):
    """`polyloss.categorical_hinge` with the arguments of `keras.losses.CategoricalHinge`."""

    def __init__(self, reduction: Reduction = "sum_over_batch_size", name: str = "categorical_hinge", dtype: Any = None) -> None:
        super().__init__("categorical_hinge", reduction, name, dtype)


@registered
class BinaryCrossentropy(_Named):
    """`polyloss.binary_crossentropy` with the arguments of `keras.losses.BinaryCrossentropy`."""

    def __init__(
        self,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: Reduction = "sum_over_batch_size",
        name: str = "binary_crossentropy",
        dtype: Any = None,
    ) -> None:
        parameters = {"from_logits": from_logits, "label_smoothing": label_smoothing, "axis": axis}
        super().__init__("binary_crossentropy", reduction, name, dtype, **parameters)


@registered
class BinaryFocalCrossentropy(_Named):
    """`polyloss.binary_focal_crossentropy` with the arguments of `keras.losses.BinaryFocalCrossentropy`."""

    def __init__(
        self,
        apply_class_balancing: bool = False,
        alpha: float = 0.25,
        gamma: float = 2.0,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: Reduction = "sum_over_batch_size",
        name: str = "binary_focal_crossentropy",
        dtype: Any = None,
    ) -> None:
        parameters = {"from_logits": from_logits, "label_smoothing": label_smoothing, "axis": axis}
        parameters |= {"apply_class_balancing": apply_class_balancing, "alpha": alpha, "gamma": gamma}
        super().__init__("binary_focal_crossentropy", reduction, name, dtype, **parameters)


@registered
class CategoricalCrossentropy(_Named):
    """`polyloss.categorical_crossentropy` with the arguments of `keras.losses.CategoricalCrossentropy`."""

    def __init__(
        self,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: Reduction = "sum_over_batch_size",
        name: str = "categorical_crossentropy",
        dtype: Any = None,
    ) -> None:
        parameters = {"from_logits": from_logits, "label_smoothing": label_smoothing, "axis": axis}
        super().__init__("categorical_crossentropy", reduction, name, dtype, **parameters)


@registered
class CategoricalFocalCrossentropy(_Named):
    """`polyloss.categorical_focal_crossentropy` with the arguments of `keras.losses.CategoricalFocalCrossentropy`."""

    def __init__(
        self,
        alpha: float | Array = 0.25,
        gamma: float = 2.0,
        from_logits: bool = False,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: Reduction = "sum_over_batch_size",
        name: str = "categorical_focal_crossentropy",
        dtype: Any = None,
    ) -> None:
        parameters = {"from_logits": from_logits, "label_smoothing": label_smoothing, "axis": axis}
        super().__init__("categorical_focal_crossentropy", reduction, name, dtype, alpha=alpha, gamma=gamma, **parameters)


@registered
class SparseCategoricalCrossentropy(_Named):
    """`polyloss.sparse_categorical_crossentropy` with the arguments of `keras.losses.SparseCategoricalCrossentropy`.

    As in Keras, a mean does not count positions of `ignore_class`.
    """

    def __init__(
        self,
        from_logits: bool = False,
        ignore_class: int | None = None,
        reduction: Reduction = "sum_over_batch_size",
        axis: int = -1,
        name: str = "sparse_categorical_crossentropy",
        dtype: Any = None,
    ) -> None:
        parameters = {"from_logits": from_logits, "ignore_class": ignore_class, "axis": axis}
        super().__init__("sparse_categorical_crossentropy", reduction, name, dtype, **parameters)


@registered
class CategoricalGeneralizedCrossEntropy(_Named):
    """`polyloss.generalized_crossentropy` with the arguments of `keras.losses.CategoricalGeneralizedCrossEntropy`."""

    def __init__(
        self,
        q: float = 0.5,
        reduction: Reduction = "sum_over_batch_size",
        name: str = "categorical_generalized_cross_entropy",
        dtype: Any = None,
    ) -> None:
        super().__init__("generalized_crossentropy", reduction, name, dtype, q=q)


class _OfSets(_Named):
    """A loss of sets. What a layer's mask hides is taken out of the sets. (Keras multiplies the losses of whole sets.)"""

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The loss, weighted and reduced."""
        mask = get_keras_mask(y_pred)
        y_pred = ops.convert_to_tensor(y_pred, dtype=self.dtype)
        y_true, y_pred = self._fitting(ops.convert_to_tensor(y_true), y_pred)
        if mask is not None:
            mask = ops.cast(ops.reshape(mask, (*mask.shape, *(1,) * (y_pred.ndim - mask.ndim))), "bool")
            mask = ops.broadcast_to(mask, y_pred.shape)
        axis = self._bound.parameters["axis"]
        sets = 0 if axis is None else y_pred.ndim - len(axis if isinstance(axis, tuple) else (axis,))
        weight = self._weight(sample_weight, None)
        if weight is not None and weight.ndim == sets + 1 and weight.shape[-1] == 1:
            weight = ops.squeeze(weight, -1)
        if weight is None or weight.ndim <= sets:
            loss = self._bound(y_true, y_pred, mask=mask, sample_weight=weight, reduction=REDUCTIONS[self.reduction])
            return loss if keras.backend.standardize_dtype(loss.dtype) == self.dtype else ops.cast(loss, self.dtype)
        # Weights of parts of a set: Keras multiplies the loss of the whole set by each.
        loss = self._bound(y_true, y_pred, mask=mask, reduction="none")
        return reduce_weighted_values(loss, sample_weight=weight, reduction=self.reduction, dtype=self.dtype)


def _axes(axis):
    """`axis` as a tuple, also where a saved model has made a list of it."""
    return tuple(axis) if isinstance(axis, list) else axis


@registered
class Dice(_OfSets):
    """`polyloss.dice` with the arguments of `keras.losses.Dice`; elements that a layer's mask hides are in no set."""

    def __init__(
        self,
        reduction: Reduction = "sum_over_batch_size",
        name: str = "dice",
        axis: int | Sequence[int] | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__("dice", reduction, name, dtype, axis=_axes(axis))


@registered
class Tversky(_OfSets):
    """`polyloss.tversky` with the arguments of `keras.losses.Tversky`; elements that a layer's mask hides are in no set."""

    def __init__(
        self,
        alpha: float = 0.5,
        beta: float = 0.5,
        reduction: Reduction = "sum_over_batch_size",
        name: str = "tversky",
        axis: int | Sequence[int] | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__("tversky", reduction, name, dtype, alpha=alpha, beta=beta, axis=_axes(axis))


@registered
class SoftmaxLoss(_Named):
    """`polyloss.softmax_loss` as a Keras loss: cross-entropy from logits with ignored labels, class weights and soft targets.

    Parameters
    ----------
    ignore_label : int or several, optional
        Labels whose positions are masked: they have no loss, and a mean does not count them.
    class_weight : sequence of C numbers, optional
        Factor of each class inside the sum over classes. A mean does not divide by it.
    label_smoothing : float, default 0.0
        In [0, 1].
    axis : int, default -1
        Axis of the classes.
    reduction, name, dtype
        As for `Loss`.
    """

    def __init__(
        self,
        ignore_label: int | Sequence[int] | None = None,
        class_weight: Array | None = None,
        label_smoothing: float = 0.0,
        axis: int = -1,
        reduction: Reduction = "sum_over_batch_size",
        name: str = "softmax_loss",
        dtype: Any = None,
    ) -> None:
        if class_weight is not None:
            class_weight = [float(k) for k in class_weight]
        parameters = {"ignore_label": ignore_label, "class_weight": class_weight, "label_smoothing": label_smoothing, "axis": axis}
        super().__init__("softmax_loss", reduction, name, dtype, **parameters)

    def _reduced(self, y_true: Any, y_pred: Any, weight: Any) -> Any:
        how: dict[str, Any] = {"reduction": "none"}
        if self.reduction == "sum":
            how = {"reduction": "sum"}
        elif self.reduction in ("sum_over_batch_size", "mean") or (self.reduction == "mean_with_sample_weight" and weight is None):
            how = {"normalization": "full"}
        elif self.reduction == "mean_with_sample_weight":
            if weight.ndim > y_pred.ndim - 1:
                weight = ops.squeeze(weight, -1)
            spread = ops.reshape(weight, (*weight.shape, *(1,) * (y_pred.ndim - 1 - weight.ndim)))
            how = {"denominator": ops.sum(ops.broadcast_to(spread, self._positions(y_pred)))}
        weights = self._bound.parameters["class_weight"]
        if weights is not None:
            how["class_weight"] = ops.convert_to_tensor(weights, dtype=_wide(self.dtype))
        return self._bound(y_true, y_pred, sample_weight=weight, **how)


CLASSES: dict[str, type[Loss]] = {
    "mean_squared_error": MeanSquaredError,
    "mean_absolute_error": MeanAbsoluteError,
    "mean_absolute_percentage_error": MeanAbsolutePercentageError,
    "mean_squared_logarithmic_error": MeanSquaredLogarithmicError,
    "huber": Huber,
    "log_cosh": LogCosh,
    "poisson": Poisson,
    "kl_divergence": KLDivergence,
    "cosine_similarity": CosineSimilarity,
    "hinge": Hinge,
    "squared_hinge": SquaredHinge,
    "categorical_hinge": CategoricalHinge,
    "binary_crossentropy": BinaryCrossentropy,
    "binary_focal_crossentropy": BinaryFocalCrossentropy,
    "categorical_crossentropy": CategoricalCrossentropy,
    "categorical_focal_crossentropy": CategoricalFocalCrossentropy,
    "sparse_categorical_crossentropy": SparseCategoricalCrossentropy,
    "generalized_crossentropy": CategoricalGeneralizedCrossEntropy,
    "dice": Dice,
    "tversky": Tversky,
    "softmax_loss": SoftmaxLoss,
}


def get(name: str | Callable[..., Any], /, **parameters: Any) -> Loss:
    """Keras loss of a name or alias of polyloss, with these arguments of its constructor.

    Parameters
    ----------
    name : str or callable
        A loss of polyloss or its name.
    **parameters
        Arguments of the class of that loss, or of `Loss` where it has no class of its own.

    Returns
    -------
    Loss
        A new instance.

    Raises
    ------
    ValueError
        If there is no such loss, or a parameter is out of range.
    TypeError
        If the class takes no such argument.
    """
    function = registry.get(name)
    if isinstance(function, BoundLoss):
        return get(function.function, **{**function.parameters, **parameters})
    made = CLASSES.get(function.__name__)
    return Loss(function, **parameters) if made is None else made(**parameters)


# So that a model that is loaded finds losses which are plain functions, and losses with parameters filled in.
registered(BoundLoss)
keras.saving.get_custom_objects()["BoundLoss"] = BoundLoss
for _block in LOSSES.values():
    registered(_block.function)
