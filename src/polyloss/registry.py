"""Losses by name: `get` and `names`."""

import difflib
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar, overload

from polyloss._core.block import LOSSES
from polyloss._core.bound_loss import BoundLoss
from polyloss.metrics import log_loss

F = TypeVar("F", bound=Callable[..., Any])
METRICS: dict[str, Callable[..., Any]] = {"log_loss": log_loss}  # canonical name -> function; of losses, `LOSSES`
# What other libraries call a loss, without case and underscores -> what it is here.
ELSEWHERE = {
    "l1": "'mean_absolute_error'",
    "l2": "'mean_squared_error'",
    "l1loss": "'mean_absolute_error'",
    "mseloss": "'mean_squared_error'",
    "nll": "'sparse_categorical_crossentropy' (of probabilities) or 'softmax_loss' (of logits)",
    "nllloss": "'sparse_categorical_crossentropy' (of probabilities) or 'softmax_loss' (of logits)",
    "ce": "'softmax_loss' (of logits), 'categorical_crossentropy' or 'sparse_categorical_crossentropy' (of probabilities)",
    "crossentropy": "'softmax_loss' (of logits), 'categorical_crossentropy' or 'sparse_categorical_crossentropy' (of probabilities)",
    "crossentropyloss": "'softmax_loss'",
    "bcewithlogits": "'binary_crossentropy' with from_logits=True",
    "bcewithlogitsloss": "'binary_crossentropy' with from_logits=True",
    "bceloss": "'binary_crossentropy'",
    "sigmoidcrossentropy": "'binary_crossentropy' with from_logits=True",
    "focal": "'binary_focal_crossentropy' or 'categorical_focal_crossentropy'",
    "focalloss": "'binary_focal_crossentropy' or 'categorical_focal_crossentropy'",
    "kldivloss": "'kl_divergence'",
    "rmse": "'mean_squared_error', and take its root",
}


def names() -> tuple[str, ...]:
    """Canonical names of all losses and metrics.

    Returns
    -------
    tuple of str
        Each is the name of a public function, in alphabetical order.

    See Also
    --------
    get : The function of a name or alias.
    """
    return tuple(sorted(_exact_names()[1]))


@overload
def get(name: F, /) -> F: ...
@overload
def get(name: str | Callable[..., Any], /, **parameters: Any) -> Callable[..., Any]: ...
def get(name: Any, /, **parameters: Any) -> Any:
    """Loss or metric of a name or alias, with parameters filled in if any are given.

    An exact name or alias wins; only then case and underscores are dropped: ``"log_loss"`` is scikit-learn's metric, ``"logloss"`` and
    ``"LogLoss"`` are `binary_crossentropy`, as in the Keras of old.

    Parameters
    ----------
    name : str or callable
        A callable is returned as it is, if no parameters are given.
    **parameters
        Keyword arguments of the loss. A call of the result may override them.

    Returns
    -------
    callable
        The public function; with parameters, a callable that has its name and takes the same arguments. It can be pickled, `value_and_grad`
        takes it, and Keras can save it.

    Raises
    ------
    ValueError
        If there is no such name, and the message gives the nearest ones; or if a parameter is out of range.
    TypeError
        If `name` is neither a string nor callable, or the loss has no such parameter.

    Examples
    --------
    >>> import polyloss as pl
    >>> pl.get("MSE") is pl.mean_squared_error
    True
    >>> float(pl.get("huber", delta=2.0)([0.0], [3.0]))
    4.0
    """
    function = name if callable(name) else _named(name)
    if not parameters:
        return function
    if isinstance(function, BoundLoss):
        return BoundLoss(function.function, {**function.parameters, **parameters})
    if _exact_names()[0].get(getattr(function, "__name__", None)) is not function:
        raise TypeError(f"parameters are bound to a loss of this library or its name, not to {function!r}")
    return BoundLoss(function, parameters)


def _named(name):
    """The public function of a name or alias."""
    if not isinstance(name, str):
        raise TypeError(f"name is {name!r}, but must be a string or a callable")
    exact, _ = _exact_names()
    found = exact.get(name) or _loose_names().get(_loosened(name))
    if found is None:
        loose = _loose_names()
        word = _loosened(name)
        near = [key for key in loose if len(word) > 2 and word in key] or difflib.get_close_matches(word, loose, n=3)
        near = list(dict.fromkeys(loose[key].__name__ for key in near))[:3]
        meant = ELSEWHERE.get(word) or " or ".join(map(repr, near))
        hint = f"; did you mean {meant}?" if meant else f"; the names are {', '.join(names())}"
        raise ValueError(f"there is no loss named {name!r}{hint}")
    return found


def _loosened(name):
    return name.lower().replace("_", "")


@cache
def _exact_names():
    """Name or alias -> function, and the canonical names."""
    exact: dict[str, Any] = dict(METRICS)
    for name, block in LOSSES.items():
        for key in (name, *block.aliases):
            if key in exact:
                raise RuntimeError(f"two losses answer to {key!r}")
            exact[key] = block.function
    return exact, (*METRICS, *LOSSES)


@cache
def _loose_names():
    """Name or alias, without case and underscores -> function; losses before metrics."""
    loose: dict[str, Any] = {}
    for key, function in sorted(_exact_names()[0].items(), key=lambda item: item[0] in METRICS):
        loose.setdefault(_loosened(key), function)
    return loose
