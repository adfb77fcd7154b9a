"""What a score is, of tables and arrays alike: a loss, its exact sums, a line of the result."""

import ast
import contextlib
import inspect
import math
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import click
import numpy as np

from polyloss import registry
from polyloss._command.problems import usage
from polyloss._core.arguments import keywords, refuse_unknown_parameters
from polyloss._core.block import LOSSES
from polyloss._evaluation.exact_sums import Tally
from polyloss._evaluation.measure import Measure
from polyloss.metrics._log_loss import EPSILON

DECIDED = {"sample_weight", "mask", "reduction", "return_prob", "denominator", "labels"}  # parameters that files and options decide


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
            own = [key for key in keywords(function) if key not in DECIDED]
            own += getattr(LOSSES.get(function.__name__), "params", {}).keys() & DECIDED  # the labels of the hinges
            for key in parameters:
                if key in DECIDED and key not in own:
                    raise usage(f"--loss {text}: {key} is the command's to decide")
            refuse_unknown_parameters(function.__name__, parameters, own)
            if parameters:
                registry.get(name, **parameters)
        except (ValueError, TypeError) as error:
            raise usage(f"--loss {text}: {error}") from None
        given = "".join(f"{',' if i else ':'}{key}={value}" for i, (key, value) in enumerate(parameters.items()))
        return cls(function.__name__, parameters, function.__name__ + given, name)

    def check(self) -> None:
        """An error of the command line if the loss refuses its parameters."""
        try:
            self.measure(None)
        except (ValueError, TypeError) as error:
            raise usage(f"--loss {self.shown}: {error}") from None

    @property
    def block(self) -> Any:
        """The loss in the registry; None of `log_loss`, which is a metric."""
        return LOSSES.get(self.name)

    def measure(self, classes: int | None) -> Measure:
        """What it adds of a batch."""
        labels = {"labels": range(classes or 2)} if self.name == "log_loss" else {}
        return Measure.of(self.name, {**self.parameters, **labels}, "mean")

    @property
    def takes(self) -> str:
        """What it takes predictions for, as `Block.takes`."""
        if self.block is None:
            return "shares" if self.parameters.get("rescale") else "probabilities"
        return str((self.block.logits if self.parameters.get("from_logits") else self.block).takes)

    @property
    def axis(self) -> Any:
        """The axis of the classes, or the axes of a set."""
        own = None if self.block is None else inspect.signature(self.block.function).parameters["axis"].default
        return self.parameters.get("axis", 1 if self.block is None else own)

    @property
    def signs(self) -> str | None:
        """How a hinge reads its targets; None of other losses."""
        return self.parameters.get("labels", "auto") if self.block is not None and "labels" in self.block.params else None

    def clip(self, dtype: Any) -> float | None:
        """What `log_loss` clips probabilities of this dtype at; None of other losses."""
        if self.name != "log_loss":
            return None
        given = self.parameters.get("epsilon")
        return EPSILON.get(np.dtype(dtype).name, EPSILON["float64"]) if given is None else float(given)


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
    reason: str = ""  # of a score of NaN

    @classmethod
    def of(cls, name: str, loss: Loss, measure: Measure, found: Tally, group: str | None, warnings: list[str]) -> "Score":
        """Of the sums of some positions."""
        result, error = measure.result(found), measure.standard_error(found)
        return cls(name, loss.shown, group, result, error, float(found.v), found.count, warnings)


@dataclass
class Basis:
    """What the scores of one submission depend on, apart from its numbers and the options."""

    clips: set[float] = field(default_factory=set)  # of log_loss, by the dtypes of the files
    classes: int | None = None
    positive: set[str] = field(default_factory=set)  # the class that a single column of probabilities is of

    def add(self, other: "Basis") -> None:
        """Take in the basis of another part of the submission."""
        self.clips |= other.clips
        self.classes = self.classes or other.classes
        self.positive |= other.positive


@dataclass
class Settings:
    """What the options ask for, beside files and losses."""

    losses: list[Loss]
    kaggle: bool = False
    paired: bool = False
    by_group: bool = False
    weight: str | None = None
    ignored: tuple[int, ...] = ()
    axis: int | None = None
    warn: Callable[[str], None] = print
    progress: Callable[[int], None] = lambda done: None
    bases: dict[str, Basis] = field(default_factory=dict)  # of each submission


@contextlib.contextmanager
def ignoring_warnings() -> Iterator[None]:
    """Warnings of the losses are worded by the command, of files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def in_words(message: str, truth: str, predictions: str, start: int = 0) -> str:
    """What a loss says of its arguments, said of these files; places in a part that begins at this row become those in the file."""
    files = {"y_true": truth, "y_pred": predictions, "y_proba": predictions, "logits": predictions}
    message = message.replace("labels has no such class:", "the classes are")
    message = re.sub(r"\bignore_(?:label|class) is None", "--ignore-label is not given", message).replace("logits have", "logits has")
    message = re.sub(r"\bignore_(?:label|class) is ", "--ignore-label is ", message)
    message = re.sub(r"with classes on axis (-?\d+)", r"with classes on axis \1 (or on that of --axis)", message)
    argument = re.compile(r"\b(y_true|y_pred|y_proba|logits)\b(?: ?\[(\d+)(?=[],]))?")

    def of_file(found: re.Match[str]) -> str:
        return files[found[1]] + (f": [{int(found[2]) + start}" if found[2] else "")

    first = argument.match(message)
    if first:
        return f"{files[first[1]]}: {argument.sub(of_file, message).removeprefix(files[first[1]]).lstrip(': ')}"
    return f"{predictions} and {truth}: {argument.sub(of_file, message)}"


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
        raise type(error)(as_given(error.message, paths)) from None


def as_given(message: str, paths: Iterable[str]) -> str:
    """A message in which these paths stand as they were given, instead of absolute; of ``FILE::NAME`` the file alone may stand there."""
    given: dict[str, str] = {}
    for path in paths:
        for part in (path, path.partition("::")[0]):
            given.setdefault(os.path.abspath(part), part)
    known = "|".join(map(re.escape, sorted(given, key=len, reverse=True)))
    return re.sub(rf"(?<![\w./-])(?:{known})(?![\w/-]|\.\w)", lambda found: given[found[0]], message)


def _applied(function: Callable[..., Any], part: tuple[Any, ...]) -> Any:
    return function(*part)


def tested(measure: Measure, found: Tally) -> dict[str, float]:
    """Mean, standard error, z and p of summed differences, divided as the scores are."""
    mean, error = measure.result(found), measure.standard_error(found)
    z = mean if mean == 0 or math.isnan(mean) else mean / error if error else math.copysign(math.inf, mean)
    return {"difference": mean, "difference_stderr": error, "z": z, "p": math.erfc(abs(z) / math.sqrt(2))}
