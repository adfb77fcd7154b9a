"""Scores of files of arrays: part by part, here or on a cluster."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from polyloss._command import arrays, values
from polyloss._command.problems import BadFile, usage
from polyloss._command.scoring import Loss, Score, ignoring_warnings, in_parts, in_words, tested
from polyloss._evaluation.exact_sums import Tally
from polyloss._evaluation.measure import Positions


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
            if not z.shape[0]:
                raise BadFile(f"{path}: has no samples")
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

    def part(self, start: int, stop: int) -> "Part":
        """What some rows hold."""
        y = arrays.read(self.truth, start, stop)
        found: Part = Part([], [], [])
        first: list[Positions] = []
        for k, path in enumerate(self.predictions):
            z = arrays.read(path, start, stop)
            found.watched.append(self._watched(path, z, start))
            each = [self._positions(loss, path, y, z, start) for loss in self.losses]
            found.sums.append([positions.tally() for positions in each])
            if k:
                found.differences.append([own.less(other).tally() for own, other in zip(each, first, strict=True)])
            first = first or each
        return found

    def _watched(self, path: str, z: np.ndarray, start: int) -> list[values.Watch]:
        """What is seen of predictions; an error if a loss doesn't take them."""
        watched = values.watches(self.losses, z.shape)
        z = z.astype(np.float32) if z.dtype.name == "bfloat16" else z
        for watch in watched if z.dtype.kind in "fiub" else ():
            fault = watch.see(z, lambda at: (at[0] + start, *at[1:]))
            if fault is not None:
                place = [fault.at[0] + start, *fault.at[1:]]
                raise BadFile(f"{path}: {values.said(fault, str(place))}")
        return watched

    def _positions(self, loss: Loss, path: str, y: np.ndarray, z: np.ndarray, start: int) -> Positions:
        labelled = loss.block is not None and (loss.block.targets == "labels" or y.shape != z.shape)
        fault = None if loss.block is None or y.dtype.kind not in "fiub" else values.bad_target(loss, y, labelled)
        if fault is not None:
            raise BadFile(f"{self.truth}: {values.said(fault, str([fault.at[0] + start, *fault.at[1:]]))}")
        measure = loss.measure(self.classes)
        gaps = np.isnan(z).reshape(len(z), -1).any(axis=1) if loss.block is None and z.dtype.kind == "f" else np.zeros(0, bool)
        try:
            with ignoring_warnings():
                if not gaps.any():
                    return measure.positions(y, z)
                # The metric refuses NaN, of which the score shall be NaN as with any other loss.
                z = np.where(gaps.reshape(-1, *(1 for _ in z.shape[1:])), z.dtype.type(1 / max(z.shape[-1], 1)), z)
                found = measure.positions(y, z)
                return replace(found, losses=np.where(gaps, np.nan, found.losses))
        except (ValueError, TypeError) as error:
            raise BadFile(in_words(str(error), self.truth, path, start)) from None

    def together(self, parts: "Iterable[Part]", progress: Callable[[int], None]) -> "Part":
        """All parts."""
        whole: Part | None = None
        for part in parts:
            if whole is None:
                whole = part
            else:
                whole.add(part)
            for own in whole.sums:
                for loss, found in zip(self.losses, own, strict=True):
                    try:
                        loss.measure(self.classes).check(found)
                    except ValueError as error:
                        raise BadFile(in_words(str(error), self.truth, self.predictions[0])) from None
            progress(1)
        assert whole is not None
        return whole

    def scores(self, whole: "Part") -> list[Score]:
        """A score for each submission and loss."""
        scores = []
        for k, (path, own) in enumerate(zip(self.predictions, whole.sums, strict=True)):
            tolerance = values.tolerance(arrays.opened(path).dtype)
            advice = "-l log_loss:rescale=True divides rows by their sums"
            said = [watch.warning(tolerance, lambda place: f"at {list(place)}", advice) for watch in whole.watched[k]]
            for i, (loss, found) in enumerate(zip(self.losses, own, strict=True)):
                measure = loss.measure(self.classes)
                score = Score.of(path, loss, measure, found, None, [text for text in said if text])
                if self.paired and k:
                    score.paired = tested(measure, whole.differences[k - 1][i])
                scores.append(score)
        return scores


@dataclass
class Part:
    """What some rows, or all, hold. It is picklable."""

    sums: list[list[Tally]]  # of each submission: of each loss
    differences: list[list[Tally]]  # to the first submission, of each other one: of each loss
    watched: list[list[values.Watch]]  # of each submission

    def add(self, other: "Part") -> None:
        """Add other rows."""
        for own, more in ((self.sums, other.sums), (self.differences, other.differences)):
            own[:] = [[a + b for a, b in zip(*pair, strict=True)] for pair in zip(own, more, strict=True)]
        for own_watched, others in zip(self.watched, other.watched, strict=True):
            for watch, seen in zip(own_watched, others, strict=True):
                watch.add(seen)


def score_arrays(job: ArrayJob, client: Any, progress: Callable[[int], None]) -> list[Score]:
    """The scores of files of arrays, here or on a cluster."""
    there = job if client is None else replace(job, truth=os.path.abspath(job.truth), predictions=[*map(os.path.abspath, job.predictions)])
    return job.scores(job.together(in_parts(there.part, job.ranges(), client, [job.truth, *job.predictions]), progress))


def _check_axis(loss: Loss, path: str, ndim: int) -> None:
    """Files are read in parts along their first axis, which can therefore not be the loss's own."""
    if loss.block is None or (ndim == 1 and loss.block.combine == "mean"):
        return
    if ndim == 1 and loss.block.targets != "labels":
        raise BadFile(f"{path}: has one axis, that of {loss.name}, but must have one of samples before it")
    axes = loss.axis if isinstance(loss.axis, (tuple, list)) else (loss.axis,)
    for axis in axes:
        if isinstance(axis, int) and axis in (0, -ndim) and ndim > 1:
            raise usage(f"axis is {loss.axis} of {loss.name}, but the first axis of {path} is that of the samples")


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
