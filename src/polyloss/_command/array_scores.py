"""Scores of files of arrays: part by part, here or on a cluster."""

import inspect
import os
import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from polyloss._command import arrays
from polyloss._command.problems import BadFile, usage
from polyloss._command.scoring import Loss, Score, in_parts, tested
from polyloss._evaluation.exact_sums import Tally, tally
from polyloss.evaluation import Accumulator


@dataclass
class ArrayJob:
    """Labels or targets and predictions of the same rows, in files of arrays. It is picklable: workers of a cluster open the files."""

    truth: str
    predictions: list[str]  # several only under --paired, compared with the first
    losses: list[Loss]
    classes: int | None = None
    paired: bool = False
    rows: int = 0

    def __post_init__(self) -> None:
        y = arrays.opened(self.truth)
        for path in self.predictions:
            z = arrays.opened(path)
            if z.shape[0] != y.shape[0]:
                raise BadFile(f"{path}: has {z.shape[0]} samples, but {self.truth} has {y.shape[0]}")
            if not np.issubdtype(z.dtype, np.number) and np.dtype(z.dtype) != np.bool_ and np.dtype(z.dtype).kind != "V":
                raise BadFile(f"{path}: holds {z.dtype}, but must hold numbers")
            for loss in self.losses:
                _check_axis(loss, path, len(z.shape))
        self.rows = y.shape[0]
        if any(loss.name == "log_loss" for loss in self.losses):
            z = arrays.opened(self.predictions[0])
            self.classes = z.shape[1] if len(z.shape) == 2 and z.shape[1] > 1 else 2

    def ranges(self) -> list[tuple[int, int]]:
        """The parts in which it is read."""
        return arrays.slabs(arrays.opened(self.predictions[0]))

    def part(self, start: int, stop: int) -> tuple[list[list[Accumulator]], list[list[Tally]]]:
        """Accumulators of some rows, for each submission and loss, and the sums of differences to the first submission."""
        y = arrays.read(self.truth, start, stop)
        found, kept = [], []
        for path in self.predictions:
            z = arrays.read(path, start, stop)
            sums, own = [], []
            for loss in self.losses:
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        sums.append(loss.accumulator(self.classes).update(y, z))
                        if self.paired:
                            own.append(loss.losses(self.classes, y, z))
                except (ValueError, TypeError) as error:
                    raise BadFile(f"{path} and {self.truth}: {_shifted(str(error), start)}") from None
            found.append(sums)
            kept.append(own)
        differences = (
            [[tally(b - a, None, None, None) for a, b in zip(kept[0], own, strict=True)] for own in kept[1:]] if self.paired else []
        )
        return found, differences

    def sums(self, parts: Iterable[tuple[list[list[Accumulator]], list[list[Tally]]]], progress: Callable[[int], None]) -> Any:
        """All parts together."""
        found: list[list[Accumulator]] = [[loss.accumulator(self.classes) for loss in self.losses] for _ in self.predictions]
        differences = [[Tally() for _ in self.losses] for _ in self.predictions[1:]] if self.paired else []
        for part, more in parts:
            for own, other in zip(found, part, strict=True):
                for a, b in zip(own, other, strict=True):
                    a.merge(b)
            differences = [[a + b for a, b in zip(own, other, strict=True)] for own, other in zip(differences, more, strict=True)]
            progress(1)
        return found, differences

    def scores(self, found: Any) -> list[Score]:
        """A score for each submission and loss."""
        accumulators, differences = found
        scores = []
        for k, (path, own) in enumerate(zip(self.predictions, accumulators, strict=True)):
            for i, (loss, a) in enumerate(zip(self.losses, own, strict=True)):
                score = Score(path, loss.shown, None, a.result(), a.standard_error(), a.weight, a.count, [])
                if self.paired and k:
                    score.paired = tested(differences[k - 1][i])
                scores.append(score)
        return scores


def score_arrays(job: ArrayJob, client: Any, progress: Callable[[int], None]) -> list[Score]:
    """The scores of files of arrays, here or on a cluster."""
    there = job if client is None else replace(job, truth=os.path.abspath(job.truth), predictions=[*map(os.path.abspath, job.predictions)])
    return job.scores(job.sums(in_parts(there.part, job.ranges(), client, [job.truth, *job.predictions]), progress))


def _check_axis(loss: Loss, path: str, ndim: int) -> None:
    """Files are read in parts along their first axis, which can therefore not be the loss's own."""
    if loss.block is None or (ndim == 1 and loss.block.combine == "mean"):
        return
    axis = loss.parameters.get("axis", inspect.signature(loss.block.function).parameters["axis"].default)
    if ndim == 1 and loss.block.targets != "labels":
        raise BadFile(f"{path}: has one axis, that of {loss.name}, but must have one of samples before it")
    if isinstance(axis, int) and axis in (0, -ndim) and ndim > 1:
        raise usage(f"axis is {axis} of {loss.name}, but the first axis of {path} is that of the samples")


def _shifted(message: str, start: int) -> str:
    """An error's place in the whole file, where it is that in a part."""
    return re.sub(r"\b(y_true|logits|y_pred|y_proba)\[(\d+)", lambda m: f"{m[1]}[{int(m[2]) + start}", message)


def array_losses(losses: list[Loss], ignore: tuple[int, ...], axis: int | None) -> list[Loss]:
    """The losses with ignored labels and axis as parameters."""
    made = []
    for loss in losses:
        parameters = dict(loss.parameters)
        if ignore:
            if loss.block is None or loss.block.ignores is None:
                raise usage(f"--ignore-label: {loss.name} ignores no label")
            parameters.setdefault(loss.block.ignores, ignore[0] if len(ignore) == 1 else ignore)
        if axis is not None:
            if loss.block is None:
                raise usage(f"--axis: {loss.name} has no axis")
            parameters.setdefault("axis", axis)
        made.append(replace(loss, parameters=parameters))
    return made
