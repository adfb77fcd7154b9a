"""The road of every call: checks -> canonical shape -> route -> reduction -> the caller's type.

Every public function ends here, and so do the gradients: `want` says which of value, gradient, Hessian diagonal and probabilities is
asked for. What depends on the array library stands in `_backends.BACKENDS`; what depends on the loss, in its block.
"""

from collections.abc import Callable

from polyloss._evaluate import evaluate
from polyloss._plan import VALUE
from polyloss._prepare import prepare

_shortcuts: dict[type, Callable | None] = {}  # type of the predictions -> what may give the results without the road


def call(block, y_true, y_pred, *, want=VALUE, out=None, **arguments):
    """Check and evaluate one call of a loss: what `want` asks for, as the caller's kind of array."""
    return called(block, y_true, y_pred, want, out, arguments)


def called(block, y_true, y_pred, want, out, arguments):
    """The same where the arguments are a dictionary already: it is not written to."""
    kind, results = type(y_pred), None
    if kind not in _shortcuts:
        _shortcuts[kind] = _shortcut(kind)
    shortcut = _shortcuts[kind]
    if shortcut is not None:
        results = shortcut(block, y_true, y_pred, want, out, arguments)
    elif block.ordinary is not None:
        results = block.ordinary(y_true, y_pred, want, arguments, out)
    if results is not None:
        return results
    plan, arrays = prepare(block, y_true, y_pred, want, out, arguments)
    return (plan.backend.call or evaluate)(plan, arrays)


def _shortcut(kind):
    """A library's shortcut. An import statement, since `torch.compile` traces the first call too, and traces no `import_module`."""
    library = kind.__module__.partition(".")[0]
    if library == "torch":
        from polyloss import _torch

        return _torch.shortcut
    if library in ("jax", "jaxlib"):
        from polyloss import _jax

        return _jax.shortcut
    if library == "dask":
        from polyloss import _dask

        return _dask.shortcut
    return None
