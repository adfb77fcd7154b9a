"""What a parameter of a loss may be: checks that return the value to compute with, or name parameter, value and rule."""

import math
from numbers import Real


def _number(name, value):
    if type(value) is float:  # at once: the question whether it is a Real costs a microsecond
        return value
    if isinstance(value, bool) or not isinstance(value, Real):
        if traced(value):
            return value
        if getattr(value, "ndim", None) == 0 and hasattr(value, "__float__"):  # a 0-d array
            if getattr(value, "requires_grad", False) is True:
                raise TypeError(f"{name} requires a gradient, but there is none with respect to a parameter: pass {name}.detach()")
            return float(value)
        raise TypeError(f"{name} is {value!r}, but must be a number")
    return float(value)


def traced(value):
    """Whether a value is a number that JAX traces: what it is will be known when the program runs, so that nothing about it is checked."""
    return hasattr(value, "aval") and type(value).__name__.endswith("Tracer") and getattr(value, "ndim", None) == 0


def several_traced(value):
    """Whether a value is a number that JAX traces, or holds one: an array of numbers, a list or a tuple of them."""
    if isinstance(value, (tuple, list)):
        return any(map(traced, value))
    return hasattr(value, "aval") and type(value).__name__.endswith("Tracer")


def number(name, value):
    """A finite number."""
    x = _number(name, value)
    if traced(x):
        return x
    if not math.isfinite(x):
        raise ValueError(f"{name} is {value!r}, but must be finite")
    return x


def _of_classes(name, value, check):
    """What the check returns of a number, or the tuple of that of one for each class."""
    if not (isinstance(value, (tuple, list)) or getattr(value, "ndim", 0) == 1):
        return check(name, value)
    return tuple(check(f"{name}[{k}]", x) for k, x in enumerate(value))


def factors(name, value):
    """A finite number, or the tuple of one for each class."""
    return _of_classes(name, value, number)


def weights(name, value):
    """A finite number, 0 or above, or the tuple of one for each class."""
    return _of_classes(name, value, nonnegative)


def positive(name, value):
    """A finite number above 0."""
    x = number(name, value)
    if not traced(x) and x <= 0:
        raise ValueError(f"{name} is {value!r}, but must be above 0")
    return x


def nonnegative(name, value):
    """A finite number, 0 or above."""
    x = number(name, value)
    if not traced(x) and x < 0:
        raise ValueError(f"{name} is {value!r}, but must be 0 or above")
    return x


def fraction(name, value):
    """A number in [0, 1]."""
    x = number(name, value)
    if not traced(x) and not 0 <= x <= 1:
        raise ValueError(f"{name} is {value!r}, but must be between 0 and 1")
    return x


def clip_bound(name, value):
    """A number in [0, 0.5): predictions are clipped to [value, 1 - value]."""
    x = number(name, value)
    if not traced(x) and not 0 <= x < 0.5:
        raise ValueError(f"{name} is {value!r}, but must be at least 0 and below 0.5")
    return x


def _known(name, value):
    """A finite number that decides which formula applies: not one that JAX traces."""
    x = number(name, value)
    if traced(x):
        raise TypeError(f"{name} is traced by JAX, but must be known when the program is: it decides which formula applies")
    return x


def unit_exponent(name, value):
    """A number above 0, at most 1."""
    x = number(name, value)
    if not traced(x) and not 0 < x <= 1:
        raise ValueError(f"{name} is {value!r}, but must be above 0 and at most 1")
    return x


def one_or_two(name, value):
    """1 or 2."""
    x = _known(name, value)
    if x not in (1, 2):
        raise ValueError(f"{name} is {value!r}, but must be 1 or 2")
    return int(x)


def fractions(name, value):
    """A number in [0, 1], or several: the tuple of them."""
    several = isinstance(value, (tuple, list)) or getattr(value, "ndim", 0) == 1
    if not several:
        return fraction(name, value)
    if len(value) == 0:
        raise ValueError(f"{name} is {value!r}, but must be a number or several")
    return tuple(fraction(f"{name}[{k}]", _known(f"{name}[{k}]", x)) for k, x in enumerate(value))


def tweedie_power(name, value):
    """A number at most 0 or at least 1: the power of the mean that is the variance."""
    x = _known(name, value)
    if 0 < x < 1:
        raise ValueError(f"{name} is {value!r}, but must be 0 or below, or 1 or above: no distribution has one between")
    return x


def cap(name, value):
    """A finite number above 0, or None, which is 0 from here on."""
    return 0.0 if value is None else positive(name, value)


def absent(value):
    """Whether a term or a bound of the formula isn't there: its number is 0, and not a traced one."""
    return not traced(value) and value == 0


def flag(name, value):
    """True or False."""
    if value is True or value is False or type(value).__name__ in ("bool_", "bool"):
        return bool(value)
    raise TypeError(f"{name} is {value!r}, but must be True or False")


def one_of(*choices):
    """One of the given strings."""

    def check(name, value):
        if isinstance(value, str) and value in choices:
            return value
        raise ValueError(f"{name} is {value!r}, but must be one of {', '.join(map(repr, choices))}")

    check.__doc__ = "One of " + ", ".join(f'"{c}"' for c in choices) + "."
    return check


def integers(name, value):
    """None, an integer, or several: the tuple of them."""
    if value is None:
        return ()
    several = value if isinstance(value, (tuple, list, set, frozenset, range)) or getattr(value, "ndim", 0) == 1 else (value,)
    return tuple(_integer(name, v) for v in several)


def _integer(name, value):
    if traced(value):
        raise TypeError(f"{name} is traced by JAX, but must be known when the program is: make it a static argument")
    index = getattr(value, "__index__", None)
    if index is None or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}, but must be an integer or several")
    return index()
