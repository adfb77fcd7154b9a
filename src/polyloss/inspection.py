"""What a call would do: `explain`."""

import inspect

from polyloss import _routes
from polyloss._job import VALUE
from polyloss._prepare import prepare
from polyloss._shapes import dtype_name
from polyloss.gradients import block_of


class Explanation(str):
    """The words of `explain`; `route` is the name of the route taken, `obstacles` maps the faster ones to why they are not."""

    __slots__ = ("obstacles", "route")


def explain(loss, y_true, y_pred, **kwargs):
    """Say which route a call takes, and why not the faster ones.

    Nothing is evaluated, and no label is looked at.

    Parameters
    ----------
    loss : callable or str
        A loss of this library, or its name.
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
    block, parameters = block_of(loss, "explain")
    defaults = inspect.signature(block.function).bind(y_true, y_pred, **{**parameters, **kwargs})
    defaults.apply_defaults()
    y_true, y_pred, *_ = defaults.args
    job = prepare(block, y_true, y_pred, want=VALUE, out=None, **defaults.kwargs)
    route, obstacles = (job.backend.route or _routes.choose)(job)
    note = route.note()
    lines = [
        f"{block.name}: {route.name}{f' ({note})' if note else ''}, for {job.backend.name} arrays of {dtype_name(job.p.dtype)}"
        f" and shape {job.layout.shape} on {job.device}"
    ]
    lines += [f"  not the {name}: {why}" for name, why in obstacles]
    words = Explanation("\n".join(lines))
    words.route, words.obstacles = route.name, dict(obstacles)
    return words
