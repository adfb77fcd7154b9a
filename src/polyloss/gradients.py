"""Gradients and Hessian diagonals without an autograd framework."""

import functools
import inspect

from polyloss import registry
from polyloss._block import LOSSES
from polyloss._call import called
from polyloss._job import Want


def value_and_grad(loss):
    """Function that gives a loss and its gradient with respect to the predictions, in one pass.

    Parameters
    ----------
    loss : callable or str
        A loss of this library, or its name.

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
    return _derived(loss, Want(value=True, gradient=True), "value_and_grad")


def grad(loss):
    """Function that gives the gradient of a loss with respect to the predictions.

    Parameters
    ----------
    loss : callable or str
        A loss of this library, or its name.

    Returns
    -------
    callable
        Takes what `loss` takes, and ``out``: an array like `y_pred` that receives the gradient. Gives the gradient, in shape and dtype
        of `y_pred`; under ``reduction="none"`` that of the sum.

    See Also
    --------
    value_and_grad : Value and gradient in one pass.
    """
    return _derived(loss, Want(value=False, gradient=True), "grad")


def grad_and_hess(loss):
    """Function that gives the gradient of a loss and the diagonal of its Hessian, as boosting libraries want them.

    Parameters
    ----------
    loss : callable or str
        A loss of this library, or its name.

    Returns
    -------
    callable
        Takes what `loss` takes, and ``out``: a pair of arrays like `y_pred`. Gives ``(gradient, diagonal of the Hessian)``, each in
        shape and dtype of `y_pred`; under ``reduction="none"`` those of the sum.

    See Also
    --------
    value_and_grad : Value and gradient in one pass.
    """
    return _derived(loss, Want(value=False, gradient=True, hessian=True), "grad_and_hess")


def block_of(loss, asker):
    """The block behind a public function or a name; `asker` is named in the error."""
    function = registry.get(loss)
    block = LOSSES.get(getattr(function, "__name__", None))
    if function is registry.get("log_loss"):
        raise TypeError(f"{asker} takes a loss, and log_loss is a metric, with one route and no gradient")
    if block is None or block.function is not function:
        raise TypeError(f"{asker} takes a loss of this library or its name, not {loss!r}")
    return block


def _derived(loss, want, name):
    return _functions(block_of(loss, name), want, name)


@functools.cache
def _functions(block, want, name):
    signature = inspect.signature(block.function)
    defaults = {p.name: p.default for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY}
    targets, predictions = (p.name for p in signature.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD)

    def derived(*args, out=None, **kwargs):
        if len(args) != 2 or (kwargs and not kwargs.keys() <= defaults.keys()):
            try:
                bound = signature.bind(*args, **kwargs).arguments  # words the TypeError, and finds y_true and y_pred by name
            except TypeError as error:
                raise TypeError(f"{derived.__name__}: {error}") from None
            args = bound.pop(targets), bound.pop(predictions)
            kwargs = bound
        if kwargs and kwargs.get("return_prob") and not want.value:
            raise TypeError(f"return_prob=True goes with the loss and with value_and_grad, not with {name}")
        return called(block, *args, want, out, {**defaults, **kwargs} if kwargs else defaults)

    derived.__name__ = derived.__qualname__ = f"{name}({block.name})"
    derived.__doc__ = f"`{name}` of `{block.name}`: takes what it takes, and ``out``."
    derived.__signature__ = signature.replace(
        parameters=[*signature.parameters.values(), inspect.Parameter("out", inspect.Parameter.KEYWORD_ONLY, default=None)]
    )
    return derived
