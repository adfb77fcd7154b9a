"""Arguments that a public function does not have, and what their names stand for elsewhere.

Python refuses a keyword argument itself, but with its name alone. So public functions end in ``**unknown: Never``, which type checkers
report as they would without it, and hand that on: 15 ns of a call's 2 µs. Their `__signature__`, which `help` and the documentation show,
goes without. A call that lacks an array, as one that gives it by another name does, hears of the array that is missing.
"""

import difflib
import inspect
from collections.abc import Callable, Collection, Iterable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
# As PyTorch, optax, TensorFlow and scikit-learn call an argument, where the names are not alike -> what it may be called here.
ELSEWHERE = {
    "ignore_index": ("ignore_label", "ignore_class"),
    "weight": ("class_weight", "sample_weight"),
    "weights": ("class_weight", "sample_weight"),
    "size_average": ("reduction",),
    "reduction": ("normalize",),
    "dim": ("axis",),
    "eps": ("epsilon",),
    "lse_square_scale": ("z_loss",),
    "logits_soft_cap": ("softcap",),
    "alpha": ("quantile",),
    "tau": ("quantile",),
    "p": ("power",),
}
# Arguments of other functions here -> who lacks them, told by arguments that no others have, and what is to be done instead.
OF_OTHERS = {
    "from_logits": (
        {"logits", "features", "softcap", "poly_epsilon"},
        "its predictions are always logits; of probabilities there are categorical_crossentropy and sparse_categorical_crossentropy",
    ),
    "out": ({"y_pred", "logits"}, "it receives a gradient: value_and_grad(loss)(…, out=…), or the same with grad or grad_and_hess"),
}


def without_unknown(function: F) -> F:
    """The function, whose signature no longer shows ``**unknown``."""
    signature = inspect.signature(function)
    shown = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    function.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]
    return function


def keywords(function: Callable[..., Any]) -> list[str]:
    """The arguments of a public function that are given by name alone."""
    return [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]


def alike(name: str, names: Collection[str]) -> list[str]:
    """The names that differ from this one in case alone; or else the nearest, if it is near."""
    return [other for other in names if other.lower() == name.lower()] or difflib.get_close_matches(name, names, 1, 0.65)


def meant(key: str, known: Collection[str]) -> str:
    """What a name that is not among the arguments may mean, or else which there are: the end of an error."""
    lacking, instead = OF_OTHERS.get(key, ((), ""))
    if any(name in known for name in lacking):
        return instead
    near = [name for name in ELSEWHERE.get(key, ()) if name in known] or alike(key, known)
    return f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(known)}"


def refuse_unknown(asker: str, given: Iterable[str], known: Collection[str]) -> None:
    """Raise a TypeError about the first argument given in a call that is not among those known."""
    _refuse(f"{asker}() got an unexpected keyword argument", given, known)


def refuse_unknown_parameters(name: str, given: Iterable[str], known: Collection[str]) -> None:
    """Raise a TypeError about the first parameter given beside a loss, for calls to come, that is not among those known."""
    _refuse(f"{name} has no parameter", given, known)


def _refuse(words: str, given: Iterable[str], known: Collection[str]) -> None:
    for key in given:
        if key not in known:
            raise TypeError(f"{words} {key!r}; {meant(key, known)}")
