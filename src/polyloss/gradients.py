"""Gradients and Hessian diagonals without an autograd framework."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, overload

from polyloss import registry
from polyloss._call.call import called
from polyloss._call.plan import Want
from polyloss._core.arguments import refuse_unknown
from polyloss._core.block import LOSSES
from polyloss._core.bound_loss import BoundLoss
from polyloss._core.types import Array, Derivative
from polyloss.linear_softmax import DerivedOfHead, linear_softmax_loss

WANTS = {
    "value_and_grad": Want(value=True, gradient=True),
    "grad": Want(value=False, gradient=True),
    "grad_and_hess": Want(value=False, gradient=True, hessian=True),
}
P = ParamSpec("P")
R = TypeVar("R")


@overload
def value_and_grad(loss: str) -> Callable[..., tuple[Array, Array]]: ...
@overload
def value_and_grad(loss: Callable[P, R]) -> Derivative[P, tuple[R, Array], Array]: ...
def value_and_grad(loss: Any) -> Any:
    """Function that gives a loss and its gradient with respect to the predictions, in one pass.

    Parameters
    ----------
    loss : callable or str
        A loss of this library, or its name. Type checkers know the arguments of a function, not those of a name.

    Returns
    -------
    callable
        Takes what `loss` takes, and ``out``: an array like `y_pred` that receives the gradient. Gives ``(value, gradient)``; the
        gradient has shape and dtype of `y_pred`, and under ``reduction="none"`` is that of the sum. With ``return_prob=True``:
        ``((loss, prob), gradient)``.

    See Also
    --------
    grad : The gradient alone.
    grad_and_hess : Gradient and diagonal of the Hessian.
    """
    return _derived("value_and_grad", loss)


@overload
def grad(loss: str) -> Callable[..., Array]: ...
@overload
def grad(loss: Callable[P, Any]) -> Derivative[P, Array, Array]: ...
def grad(loss: Any) -> Any:
    """Function that gives the gradient of a loss with respect to the predictions.

    Parameters
    ----------
    loss : callable or str
        A loss of this library, or its name. Type checkers know the arguments of a function, not those of a name.

    Returns
    -------
    callable
        Takes what `loss` takes, and ``out``: an array like `y_pred` that receives the gradient. Gives the gradient, in shape and dtype
        of `y_pred`; under ``reduction="none"`` that of the sum.

    See Also
    --------
    value_and_grad : Value and gradient in one pass.
    """
    return _derived("grad", loss)


@overload
def grad_and_hess(loss: str) -> Callable[..., tuple[Array, Array]]: ...
@overload
def grad_and_hess(loss: Callable[P, Any]) -> Derivative[P, tuple[Array, Array], tuple[Array, Array]]: ...
def grad_and_hess(loss: Any) -> Any:
    """Function that gives the gradient of a loss and the diagonal of its Hessian.

    Parameters
    ----------
    loss : callable or str
        A loss of this library, or its name. Type checkers know the arguments of a function, not those of a name.

    Returns
    -------
    callable
        Takes what `loss` takes, and ``out``: a pair of arrays like `y_pred`. Gives ``(gradient, diagonal of the Hessian)``, each in
        shape and dtype of `y_pred`; under ``reduction="none"`` those of the sum.

    See Also
    --------
    value_and_grad : Value and gradient in one pass.
    polyloss.boosting : Objectives for XGBoost and LightGBM.

    Notes
    -----
    The result is not an objective of a boosting library by itself: a mean divides by the number of samples, which a booster does not, and
    each built-in objective changes its Hessian in a way of its own.
    """
    return _derived("grad_and_hess", loss)


def _derived(asker, loss):
    """The derived function of a loss; that of a public function or a name is made once."""
    return Derived(asker, loss) if isinstance(loss, BoundLoss) else _of_function(asker, registry.get(loss))


@functools.cache
def _of_function(asker, function):
    return DerivedOfHead(asker) if function is linear_softmax_loss else Derived(asker, function)


def block_of(loss, asker):
    """The block behind a loss, a name or a loss with parameters filled in, and those parameters; `asker` is named in the error."""
    function: Any = registry.get(loss)
    parameters: dict[str, Any] = {}
    if isinstance(function, BoundLoss):
        function, parameters = function.function, function.parameters
    block = LOSSES.get(getattr(function, "__name__", ""))
    if function in registry.METRICS.values():
        raise TypeError(f"{asker} takes a loss, and {function.__name__} is a metric, with one route and no gradient")
    if block is None or block.function is not function:
        bind = f"; fill in parameters by get({loss.func.__name__!r}, …)" if isinstance(loss, functools.partial) else ""
        raise TypeError(f"{asker} takes a loss of this library or its name, not {loss!r}{bind}")
    return block, parameters


class Derived:
    """The function that `value_and_grad` and its relatives return; it pickles by the loss and its parameters."""

    def __init__(self, asker, loss):
        block, parameters = block_of(loss, asker)
        signature = inspect.signature(block.function)
        self._reduced = Derived, (asker, loss)
        self.loss, self.want = loss, WANTS[asker]  # which `explain` reads
        self._block, self._asker = block, asker
        self._parameters = signature
        self._defaults = {p.name: p.default for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY} | parameters
        self.__name__ = self.__qualname__ = f"{asker}({block.name})"
        self.__doc__ = f"`{asker}` of `{block.name}`: takes what it takes, and ``out``."
        self.__signature__ = signature.replace(
            parameters=[*signature.parameters.values(), inspect.Parameter("out", inspect.Parameter.KEYWORD_ONLY, default=None)]
        )

    def __call__(self, *args, out=None, **kwargs):
        want, defaults = self.want, self._defaults
        if len(args) != 2 or (kwargs and not kwargs.keys() <= defaults.keys()):
            refuse_unknown(self.__name__, kwargs, self.__signature__.parameters)
            try:
                bound = self._parameters.bind(*args, **kwargs).arguments  # words the TypeError, and finds y_true and y_pred by name
            except TypeError as error:
                raise TypeError(f"{self.__name__}: {error}") from None
            args = tuple(bound.pop(p.name) for p in self._parameters.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD)
            kwargs = bound
        if not want.value and kwargs.get("return_prob", defaults.get("return_prob")):
            raise TypeError(f"return_prob=True goes with the loss and with value_and_grad, not with {self._asker}")
        options = {**defaults, **kwargs} if kwargs else defaults
        return called(self._block, *args, want, out, options)  # type: ignore[call-arg]  # args are two

    def __reduce__(self):
        return self._reduced

    def __repr__(self):
        return f"<{self.__name__}>"
