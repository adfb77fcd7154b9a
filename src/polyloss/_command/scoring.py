"""What a score is, of tables and arrays alike: a loss, its exact sums, a line of the result."""

import ast
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import click
import numpy as np

from polyloss import registry
from polyloss._command.problems import usage
from polyloss._core.block import LOSSES
from polyloss._evaluation.exact_sums import Tally
from polyloss._evaluation.measure import Measure
from polyloss.evaluation import Accumulator
from polyloss.metrics._log_loss import sample_losses


@dataclass(frozen=True)
class Loss:
    """One ``--loss``: a canonical name and its parameters."""

    name: str
    parameters: dict[str, Any]
    shown: str  # what is printed: the name, and the parameters that were given
    asked: str = ""  # the name that was given

    @classmethod
    def of(cls, text: str) -> "Loss":
        """Of ``NAME`` or ``NAME:parameter=value,parameter=value``."""
        name, _, rest = text.partition(":")
        name = re.sub(r"[-\s]+", "_", name.strip())
        try:
            function = registry.get(name)
            parameters = dict(_parameter(part) for part in re.split(r",(?![^\[(]*[\])])", rest) if part.strip())
            if parameters:
                registry.get(name, **parameters)
        except (ValueError, TypeError) as error:
            raise usage(f"--loss {text}: {error}") from None
        for key in ("sample_weight", "reduction", "return_prob", "denominator", "labels"):
            if key in parameters and not (key == "labels" and "hinge" in name):
                raise usage(f"--loss {text}: {key} is the command's to decide")
        given = "".join(f"{',' if i else ':'}{key}={value}" for i, (key, value) in enumerate(parameters.items()))
        return cls(function.__name__, parameters, function.__name__ + given, name)

    def check(self) -> None:
        """An error of the command line if the loss refuses its parameters."""
        try:
            self.accumulator(None)
        except (ValueError, TypeError) as error:
            raise usage(f"--loss {self.shown}: {error}") from None

    @property
    def block(self) -> Any:
        """The loss in the registry; None of `log_loss`, which is a metric."""
        return LOSSES.get(self.name)

    def accumulator(self, classes: int | None) -> Accumulator:
        """An empty accumulator of it."""
        if self.name == "log_loss":
            return Accumulator("log_loss", labels=list(range(classes or 2)), **self.parameters)
        return Accumulator(self.name, **self.parameters)

    def losses(self, classes: int | None, y: np.ndarray, p: np.ndarray) -> np.ndarray:
        """One loss for each sample, for paired differences."""
        if self.name == "log_loss":
            return sample_losses(y, p, classes=list(range(classes or 2)), **self.parameters)[0]
        y, p = (x[:, None] if p.ndim == 1 else x for x in (y, p))  # whose elements are samples
        found = np.asarray(self.block.function(y, p, reduction="none", **self.parameters), np.float64)
        return found.reshape(len(y), -1).mean(axis=1)


def _parameter(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} is no parameter=value")
    try:
        return key.strip(), ast.literal_eval(value.strip())
    except (ValueError, SyntaxError):
        return key.strip(), value.strip()


@dataclass
class Score:
    """One line of the result."""

    predictions: str
    loss: str
    group: str | None
    score: float
    stderr: float
    weight: float
    count: int
    warnings: list[str]
    paired: dict[str, float] | None = None


@dataclass
class Settings:
    """What the options ask for, beside files and losses."""

    losses: list[Loss]
    kaggle: bool = False
    paired: bool = False
    by_group: bool = False
    warn: Callable[[str], None] = print
    progress: Callable[[int], None] = lambda done: None


def in_parts(function: Callable[..., Any], parts: list[tuple[Any, ...]], client: Any, paths: Iterable[str]) -> Iterator[Any]:
    """What a function gives for each part, here or on a cluster, there in any order.

    A part is one task, which opens the files on its worker, by absolute paths; a worker that dies costs time alone. `paths` are those of
    the files as they were given, and errors name the files by them.
    """
    if client is None:
        yield from (function(*part) for part in parts)
        return
    from polyloss._adapters import dask_cluster as _cluster

    try:
        for _, result in _cluster.each(partial(_applied, function), parts, client, lambda part: 64, "part"):
            yield result
    except click.ClickException as error:
        raise type(error)(_as_given(error.message, paths)) from None


def _as_given(message: str, paths: Iterable[str]) -> str:
    """A message in which these paths stand as they were given, instead of absolute; of ``FILE::NAME`` the file alone may stand there."""
    given: dict[str, str] = {}
    for path in paths:
        for part in (path, path.partition("::")[0]):
            given.setdefault(os.path.abspath(part), part)
    known = "|".join(map(re.escape, sorted(given, key=len, reverse=True)))
    return re.sub(rf"(?<![\w./-])(?:{known})(?![\w/-]|\.\w)", lambda found: given[found[0]], message)


def _applied(function: Callable[..., Any], part: tuple[Any, ...]) -> Any:
    return function(*part)


def tested(found: Tally) -> dict[str, float]:
    """Mean, standard error, z and p of summed differences."""
    measure = Measure("difference", {}, "weights")
    mean, error = measure.result(found), measure.standard_error(found)
    z = mean if mean == 0 or math.isnan(mean) else mean / error if error else math.copysign(math.inf, mean)
    return {"difference": mean, "difference_stderr": error, "z": z, "p": math.erfc(abs(z) / math.sqrt(2))}
