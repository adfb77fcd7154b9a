"""What a call would do: `explain`."""

import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, overload

from polyloss._call import routes as _routes
from polyloss._call.plan import VALUE
from polyloss._call.prepare import prepare
from polyloss._core.arguments import refuse_unknown
from polyloss._core.types import Array
from polyloss.gradients import Derived, block_of


class Explanation(str):
    """The words of `explain`; `route` is the name of the route taken, `obstacles` maps the faster ones to why they are not."""

    __slots__ = ("obstacles", "route")
    route: str
    obstacles: dict[str, str]


P = ParamSpec("P")


@overload
def explain(loss: str, y_true: Array, y_pred: Array, **kwargs: Any) -> Explanation: ...
@overload
def explain(loss: Callable[P, Array], *args: P.args, **kwargs: P.kwargs) -> Explanation: ...
def explain(loss: Any, y_true: Array, y_pred: Array, **kwargs: Any) -> Explanation:  # type: ignore[misc]  # P has these two and keywords
    """Say which route a call takes, and why not the faster ones.

    Nothing is evaluated, and no label is looked at.

    Parameters
    ----------
    loss : callable or str
        A loss of this library, its name, or what `value_and_grad`, `grad` or `grad_and_hess` made of one.
    y_true, y_pred : array
        As for the loss.
    **kwargs
        As for the loss.

    Returns
    -------
    str
        A line for the route taken and one for each faster route, with the reason; its attribute ``route`` is the name of the route, its
        attribute ``obstacles`` a dict of the reasons.

    Examples
    --------
    >>> import numpy as np, polyloss as pl
    >>> pl.explain("mse", np.zeros(3), np.ones(3)).route
    'elementwise kernel'
    """
    want = VALUE
    if isinstance(loss, Derived):
        want, loss = loss.want, loss.loss
    block, parameters = block_of(loss, "explain")
    signature = inspect.signature(block.function)
    refuse_unknown(block.name, kwargs, signature.parameters)
    defaults = signature.bind(y_true, y_pred, **{**parameters, **kwargs})
    defaults.apply_defaults()
    y_true, y_pred, *_ = defaults.args
    plan, *_ = prepare(block, y_true, y_pred, want, None, defaults.kwargs)
    route, obstacles = _routes.chosen(plan)
    note = route.note()
    lines = [
        f"{block.name}: {plan.route}{f' ({note})' if note else ''}, for {plan.backend.name} arrays of {plan.storage}"
        f" and shape {plan.layout.shape} on {plan.device}"
    ]
    lines += [f"  not the {name}: {why}" for name, why in obstacles]
    lines += [f"  {line}" for line in str(plan).splitlines()]
    words = Explanation("\n".join(lines))
    words.route, words.obstacles = route.name, dict(obstacles)
    return words
