"""The loss of a language model's head as a public function: softmax cross-entropy of ``features @ weight.T + bias``."""

import inspect
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Literal, Never

from polyloss._call.plan import BOTH, VALUE, Want
from polyloss._core.arguments import refuse_unknown, without_unknown
from polyloss._core.backends import backend_of
from polyloss._core.types import Array
from polyloss._linear_softmax.chunks import prepared, results, run
from polyloss.softmax import Normalization

WANTS = {"value_and_grad": BOTH, "grad": Want(value=False, gradient=True)}


@without_unknown
def linear_softmax_loss(
    y_true: Array,
    features: Array,
    weight: Array,
    bias: Array | None = None,
    *,
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
    validate: bool = True,
    chunk: int | None = None,
    **unknown: Never,
) -> Array:
    """Softmax cross-entropy of ``features @ weight.T + bias`` from labels, as of a language model's head, without all logits at once.

    Rows of features go through in chunks, so that the logits take at most 64 MB, whatever the number of rows. Value and gradient come in
    one visit and cost three matrix products, as they do with all logits at hand; `softmax_loss` says what the numbers are. Rows that are
    ignored, or of weight 0, are left out of the products.

    Under JAX it has no forward mode: `jax.jvp` and `jax.jacfwd` of it raise JAX's ``TypeError`` about a ``custom_vjp`` function. Its
    gradient has one under "normalize" and "sum", so that `jax.hessian` works; the product of the gradient and a direction replaces a
    `jvp`.

    Parameters
    ----------
    y_true : array
        Labels in the shape of `features` without its last axis, or with a last axis of length 1: any integer dtype, or whole-numbered
        floats.
    features : array of shape (..., D)
        What the last layer gives. float16 and bfloat16 are computed in float32.
    weight : array of shape (C, D)
        A row for each class, as in `torch.nn.Linear`.
    bias : array of shape (C,), optional
        Is added to the logits.
    ignore_label, normalization, normalize, class_weight, sample_weight : options
        As in `softmax_loss`, for logits of shape (..., C) with classes on the last axis: "batch_size" is the number of labels.
    label_smoothing, z_loss, softcap, denominator, reduction, validate : options
        As in `softmax_loss`, too.
    chunk : int, optional
        Rows of features at once, 1 or more. At most: chunks are made equal. By default as many as keep the logits below 53 MB (JAX: 36),
        1024 at most; and at first, where the weight's gradient is wanted in float32 on a CPU, as many as features are long, if that is
        more, since their logits then lie in the memory of the weight's gradient.

    Returns
    -------
    array
        The loss in nats, 0-d (under "none" in the shape of the labels), float32 or float64, of the caller's library and device.
        `value_and_grad` gives it with a tuple of the gradients with respect to features, weight and, if there is one, bias, in their
        shapes and dtypes. The gradient of the weight is summed in float32 or float64: of a 16-bit weight that takes 4 bytes for each entry
        meanwhile.

    Raises
    ------
    ValueError
        If a label is neither a class nor ignored, shapes do not fit, or a parameter is out of range; the message names argument, place,
        value and rule.
    TypeError
        If arrays are of different libraries, labels are not whole numbers, or features, weight or bias are not floating.

    See Also
    --------
    softmax_loss : Of logits at hand.

    References
    ----------
    .. [Wijmans2025] Erik Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models", ICLR 2025.
    .. [Hsu2024] Pin-Lun Hsu et al., "Liger Kernel: Efficient Triton Kernels for LLM Training", 2024, arXiv:2410.10989.

    Examples
    --------
    >>> import numpy as np
    >>> import polyloss as pl
    >>> features, weight = np.array([[1.0, 0.5], [0.0, 2.0]]), np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> print(round(float(pl.linear_softmax_loss([2, 1], features, weight)), 4))
    0.7194
    >>> value, (by_features, by_weight) = pl.value_and_grad(pl.linear_softmax_loss)([2, 1], features, weight)
    >>> by_features.shape, by_weight.shape
    ((2, 2), (3, 2))
    """
    if unknown:
        refuse_unknown("linear_softmax_loss", unknown, inspect.signature(linear_softmax_loss).parameters)
    return evaluated(
        VALUE,
        y_true,
        features,
        weight,
        bias,
        dict(
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
            validate=validate,
            chunk=chunk,
        ),
    )


class DerivedOfHead:
    """The function that `value_and_grad` or `grad` of `linear_softmax_loss` gives."""

    def __init__(self, asker: str) -> None:
        if asker not in WANTS:
            raise TypeError(f"{asker} takes a loss of one array of predictions, and linear_softmax_loss has two")
        self._asker, self._want = asker, WANTS[asker]
        self.__name__ = self.__qualname__ = f"{asker}(linear_softmax_loss)"
        self.__doc__ = f"`{asker}` of `linear_softmax_loss`: takes what it takes, and gives gradients as a tuple."
        self.__signature__ = inspect.signature(linear_softmax_loss)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        refuse_unknown(self.__name__, kwargs, self.__signature__.parameters)
        try:
            bound = self.__signature__.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.__name__}: {error}") from None
        bound.apply_defaults()
        return evaluated(self._want, *bound.args, bound.kwargs)  # type: ignore[call-arg]  # args are four

    def __reduce__(self) -> tuple[Any, ...]:
        return DerivedOfHead, (self._asker,)

    def __repr__(self) -> str:
        return f"<{self.__name__}>"


def evaluated(want, y_true, features, weight, bias, arguments):
    """What `want` asks for, by the code for the arrays' library."""
    library = type(features).__module__.partition(".")[0]
    if library == "torch":
        from polyloss._adapters import linear_torch as _linear_torch

        return _linear_torch.call(want, y_true, features, weight, bias, arguments)
    current = None if library == "numpy" else getattr(backend_of(features), "current", None)
    with nullcontext() if current is None else current(features):
        return _on_its_device(library, want, y_true, features, weight, bias, arguments)


def _on_its_device(library, want, y_true, features, weight, bias, arguments):
    head = prepared(want, y_true, features, weight, bias, arguments)
    if library in ("jax", "jaxlib"):
        from polyloss._adapters import linear_jax as _linear_jax

        return _linear_jax.call(head)
    return results(head, *run(head))
