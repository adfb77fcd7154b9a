"""Losses by name: `get` and `names`."""

import difflib
from functools import cache

from polyloss import metrics
from polyloss._block import LOSSES


def names():
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


def get(name):
    """Loss or metric of a name or alias.

    An exact name or alias wins; only then case and underscores are dropped: ``"log_loss"`` is scikit-learn's metric, ``"logloss"`` and
    ``"LogLoss"`` are `binary_crossentropy`, as in the Keras of old.

    Parameters
    ----------
    name : str or callable
        A callable is returned as it is.

    Returns
    -------
    callable
        The public function.

    Raises
    ------
    ValueError
        If there is no such name; the message gives the nearest ones.
    TypeError
        If `name` is neither a string nor callable.

    Examples
    --------
    >>> import polyloss as pl
    >>> pl.get("MSE") is pl.mean_squared_error
    True
    """
    if callable(name):
        return name
    if not isinstance(name, str):
        raise TypeError(f"name is {name!r}, but must be a string or a callable")
    exact, _ = _exact_names()
    found = exact.get(name) or _loose_names().get(_loosened(name))
    if found is None:
        loose = _loose_names()
        near = difflib.get_close_matches(_loosened(name), loose, n=3)
        near = list(dict.fromkeys(loose[key].__name__ for key in near))
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else f"; the names are {', '.join(names())}"
        raise ValueError(f"there is no loss named {name!r}{hint}")
    return found


def _loosened(name):
    return name.lower().replace("_", "")


@cache
def _exact_names():
    """Name or alias -> function, and the canonical names."""
    exact = {"log_loss": metrics.log_loss}
    for name, block in LOSSES.items():
        for key in (name, *block.aliases):
            if key in exact:
                raise RuntimeError(f"two losses answer to {key!r}")
            exact[key] = block.function
    return exact, ("log_loss", *LOSSES)


@cache
def _loose_names():
    """The same without case and underscores; losses before the metric."""
    loose = {}
    for key, function in sorted(_exact_names()[0].items(), key=lambda item: item[0] == "log_loss"):
        loose.setdefault(_loosened(key), function)
    return loose
