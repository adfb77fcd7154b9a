"""Scores of files of arrays: part by part, here or on a cluster."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from polyloss._command import arrays, values
from polyloss._command.problems import BadFile, counted, usage
from polyloss._command.scoring import Basis, Loss, Score, as_given, ignoring_warnings, in_parts, in_words, tested
from polyloss._evaluation.exact_sums import Tally
from polyloss._evaluation.measure import Positions


@dataclass
class Seen:
    """The sums of some rows of one submission, or of all of them. It is picklable."""

    sums: list[Tally] = field(default_factory=list)  # of each loss
    differences: list[Tally] = field(default_factory=list)  # to the first submission, of each loss
    watched: list[values.Watch] = field(default_factory=list)
    gaps: list["Gap | None"] = field(default_factory=list)  # of each loss: the first position where it is NaN
    fault: tuple[int, str] | None = None  # the first row of the part in which the file was found to be bad, and why

    def add(self, other: "Seen") -> None:
        """Add other rows."""
        self.fault = min((fault for fault in (self.fault, other.fault) if fault is not None), default=None)
        if self.fault is not None:
            return
        self.sums = [a + b for a, b in zip(self.sums, other.sums, strict=True)]
        self.differences = [a + b for a, b in zip(self.differences, other.differences, strict=False)]  # none if the first file is bad
        self.gaps = [min((x for x in pair if x is not None), default=None) for pair in zip(self.gaps, other.gaps, strict=True)]
        for watch, seen in zip(self.watched, other.watched, strict=True):
            watch.add(seen)


@dataclass(order=True)
class Gap:
    """A position whose loss is NaN, and the number that makes it so."""

    at: tuple[int, ...]
    said: str


@dataclass
class ArrayJob:
    """Labels or targets and predictions of the same rows, in files of arrays. It is picklable: workers of a cluster open the files."""

    truth: str
    predictions: list[str]  # more than one if they are compared with the first, even if that one turns out to be bad
    losses: list[Loss]
    paired: bool = False

    @property
    def classes(self) -> int | None:
        """The number of classes, where a loss must know it beforehand."""
        if all(loss.block is not None for loss in self.losses):
            return None
        shape = arrays.opened(self.predictions[0]).shape
        return int(shape[1]) if len(shape) == 2 and shape[1] > 1 else 2

    def basis(self, path: str) -> Basis:
        """What the scores of one submission depend on, apart from its numbers."""
        z = arrays.opened(path)
        clips = {clip for loss in self.losses if (clip := loss.clip(z.dtype)) is not None}
        return Basis(clips, self.classes, {"1"} if clips and z.shape[1:] in ((), (1,)) else set())

    def ranges(self) -> list[tuple[int, int]]:
        """The parts in which it is read."""
        return arrays.slabs(arrays.opened(self.predictions[0]))

    def part(self, start: int, stop: int) -> list[Seen]:
        """The sums of some rows of each submission."""
        y, classes = arrays.read(self.truth, start, stop), self.classes
        found: list[Seen] = []
        first: list[Positions] = []
        for path in self.predictions:
            each: list[Positions] = []
            try:
                z = arrays.read(path, start, stop)
                watched = self._watched(path, z, start)
                each = [self._positions(loss, path, y, z, start, classes) for loss in self.losses]
                gaps = [self._gap(loss, y, z, one, start) for loss, one in zip(self.losses, each, strict=True)]
                less = [own.less(other).tally() for own, other in zip(each, first, strict=False)]
                found.append(Seen([one.tally() for one in each], less, watched, gaps))
            except BadFile as error:
                found.append(Seen(fault=(start, error.message)))
            first = each if self.paired and len(found) == 1 else first
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

    def _positions(self, loss: Loss, path: str, y: np.ndarray, z: np.ndarray, start: int, classes: int | None) -> Positions:
        labelled = loss.block is not None and (loss.block.targets == "labels" or y.shape != z.shape)
        fault = None if loss.block is None or y.dtype.kind not in "fiub" else values.bad_target(loss, y, labelled)
        if fault is not None:
            raise BadFile(f"{self.truth}: {values.said(fault, str([fault.at[0] + start, *fault.at[1:]]))}")
        measure = loss.measure(classes)
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

    def _gap(self, loss: Loss, y: np.ndarray, z: np.ndarray, found: Positions, start: int) -> Gap | None:
        """The first position that counts and whose loss is NaN: the entry of predictions or targets there that is no number."""
        nan = np.isnan(found.losses)
        nan = nan if found.skip is None or not nan.any() else nan & ~found.skip
        if not nan.any():
            return None
        axes = () if found.losses.size == z.size else loss.axis if isinstance(loss.axis, (tuple, list)) else (loss.axis,)
        axes = [axis % z.ndim for axis in axes]
        shape = [size for axis, size in enumerate(z.shape) if axis not in axes]
        left = iter(np.unravel_index(int(nan.argmax()), shape))
        at = [slice(None) if axis in axes else int(next(left)) for axis in range(z.ndim)]
        for x, of in ((z, ""), (y, f" of {self.truth}")):
            entries = x[tuple(at)] if x.shape == z.shape and x.dtype.kind in "fV" else np.zeros(())
            odd = np.argwhere(~np.isfinite(entries.astype(np.float64)))
            if len(odd):
                inside = iter(odd[0].tolist())
                place = [next(inside) if isinstance(i, slice) else i for i in at]
                place[0] += start
                return Gap(tuple(place), f"{place}{of} is {float(entries[tuple(odd[0])])}")
        place = [i for i in at if not isinstance(i, slice)]
        place[0] += start
        return Gap(tuple(place), f"the first at {place}")

    def together(self, client: Any, progress: Callable[[int], None]) -> list[Seen]:
        """All parts, read here or on a cluster; fewer once every file is known to be bad."""
        there, files = self, [self.truth, *self.predictions]
        if client is not None:
            there = replace(self, truth=os.path.abspath(self.truth), predictions=[*map(os.path.abspath, self.predictions)])
        whole: list[Seen] = []
        classes = self.classes
        for part in in_parts(there.part, self.ranges(), client, files):
            for own, more in zip(whole, part, strict=False):
                own.add(more)
            whole = whole or part
            for path, own in zip(self.predictions, whole, strict=True):
                for loss, found in zip(self.losses, own.sums, strict=False):
                    try:
                        loss.measure(classes).check(found)
                    except ValueError as error:
                        own.fault = own.fault or (0, in_words(str(error), self.truth, path))
            if all(own.fault is not None for own in whole):
                break
            progress(1)
        for own in whole if client is not None else ():  # whose workers know absolute paths
            own.fault = own.fault and (own.fault[0], as_given(own.fault[1], files))
            own.gaps = [gap and replace(gap, said=as_given(gap.said, files)) for gap in own.gaps]
        return whole

    def results(self, whole: list[Seen]) -> tuple[list[Score], dict[str, BadFile]]:
        """Of each submission a score for each loss, or what is wrong with it."""
        scores, faults = [], {}
        of_truth = arrays.unwritten(arrays.opened(self.truth))
        for k, (path, seen) in enumerate(zip(self.predictions, whole, strict=True)):
            if seen.fault is not None:
                faults[path] = BadFile(seen.fault[1])
                continue
            tolerance = values.tolerance(arrays.opened(path).dtype)
            advice = "-l log_loss:rescale=True divides rows by their sums"
            said = [watch.warning(tolerance, lambda place: f"at {list(place)}", advice) for watch in seen.watched]
            unwritten = [arrays.unwritten(arrays.opened(path)), of_truth and f"of {self.truth}, {of_truth}"]
            warnings = [text for text in (*said, self._of_truth_values(path), *unwritten) if text]
            for i, (loss, found) in enumerate(zip(self.losses, seen.sums, strict=True)):
                measure, gap = loss.measure(self.classes), seen.gaps[i]
                score = Score.of(path, loss, measure, found, None, warnings)
                score.reason = "" if gap is None else gap.said
                if self.paired and k and whole[0].fault is None:
                    score.paired = tested(measure, seen.differences[i])
                scores.append(score)
        return scores, faults

    def _of_truth_values(self, path: str) -> str | None:
        """The warning for labels that are true and false, where there are more than two classes."""
        y, shape = arrays.opened(self.truth), arrays.opened(path).shape
        for loss in self.losses:
            by_class = y.dtype == np.bool_ and 1 < len(shape) != len(y.shape) and isinstance(loss.axis, int)
            if by_class and (classes := shape[loss.axis]) > 2:
                return f"{self.truth} holds true and false, which are taken for the labels 1 and 0 of {classes} classes"
        return None


def check(truth: str, path: str, losses: list[Loss]) -> None:
    """An error if an array cannot hold predictions of this truth."""
    y, z = arrays.opened(truth), arrays.opened(path)
    if z.shape[0] != y.shape[0]:
        raise BadFile(f"{path}: has {counted(z.shape[0], 'sample')}, but {truth} has {y.shape[0]}")
    if not z.shape[0]:
        raise BadFile(f"{path}: has no samples")
    if not np.issubdtype(z.dtype, np.number) and np.dtype(z.dtype) != np.bool_ and np.dtype(z.dtype).kind != "V":
        raise BadFile(f"{path}: holds {z.dtype}, but must hold numbers")
    for loss in losses:
        _check_axis(loss, path, len(z.shape))


def _check_axis(loss: Loss, path: str, ndim: int) -> None:
    """Files are read in parts along their first axis, which can therefore not be the loss's own."""
    if loss.block is None or (ndim == 1 and loss.block.combine == "mean"):
        return
    if ndim == 1:
        kind = "logit" if loss.takes == "logits" else "probability" if loss.takes == "shares" or loss.block.targets != "dense" else ""
        other = "mse" if loss.name == "brier" else "log_loss" if kind == "probability" else "bce:from_logits=True"
        hint = f"; of one {kind} for each sample, use -l {other}" if kind else ""
        raise BadFile(f"{path}: has one axis, that of {loss.name}, but must have one of samples before it{hint}")
    axes = loss.axis if isinstance(loss.axis, (tuple, list)) else (loss.axis,)
    for axis in axes:
        if isinstance(axis, int) and axis in (0, -ndim):
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
