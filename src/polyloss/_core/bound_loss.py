"""A loss with parameters filled in, as `get(name, **parameters)` returns it."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from polyloss._core.arguments import keywords, refuse_unknown_parameters
from polyloss._core.block import LOSSES


class BoundLoss:
    """A loss whose parameters have values of the caller's; keywords of a call override them.

    It pickles, compares by loss and parameters, and has the name, documentation and signature of the loss. `value_and_grad` and its
    relatives take it. Keras saves it through `get_config` and `from_config`.

    Parameters
    ----------
    function : callable
        A public function of this library.
    parameters : mapping
        Values of its keyword-only parameters.

    Raises
    ------
    TypeError
        If the function has no such parameter.
    ValueError
        If a parameter of the loss is out of range.
    """

    def __init__(self, function: Callable[..., Any], parameters: Mapping[str, Any]) -> None:
        name, signature = function.__name__, inspect.signature(function)
        refuse_unknown_parameters(name, parameters, keywords(function))
        checks = LOSSES[name].params if name in LOSSES else {}
        for key, value in parameters.items():
            if key in checks:
                checks[key](key, value)
        self.function, self.parameters = function, dict(parameters)
        self.__name__ = self.__qualname__ = name
        self.__doc__ = function.__doc__
        self.__signature__ = signature.replace(
            parameters=[p.replace(default=parameters[p.name]) if p.name in parameters else p for p in signature.parameters.values()]
        )

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        """What the function gives with these parameters."""
        return self.function(*args, **{**self.parameters, **keywords})

    def __repr__(self) -> str:
        words = "".join(f", {key}={value!r}" for key, value in self.parameters.items())
        return f"polyloss.get({self.__name__!r}{words})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BoundLoss) and self.function is other.function and _same(self.parameters, other.parameters)

    def __hash__(self) -> int:
        return hash((self.__name__, frozenset(self.parameters)))  # values may be arrays

    def __reduce__(self) -> tuple[Any, ...]:
        return BoundLoss, (self.function, self.parameters)

    def get_config(self) -> dict[str, Any]:
        """What `from_config` takes: the canonical name and the parameters."""
        return {"loss": self.__name__, "parameters": self.parameters}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "BoundLoss":
        """The loss of such a dictionary."""
        return cls(LOSSES[config["loss"]].function, config["parameters"])


def _same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two sets of parameters are equal, arrays among them entry by entry."""

    def equal(x: Any, y: Any) -> bool:
        if type(x) is not type(y):
            return not hasattr(x, "shape") and not hasattr(y, "shape") and bool(x == y)
        if hasattr(x, "shape"):
            return x is y or (tuple(x.shape) == tuple(y.shape) and x.dtype == y.dtype and bool((x == y).all()))
        return bool(x == y)

    return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
