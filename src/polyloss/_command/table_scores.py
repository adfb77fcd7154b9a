"""Scores of tables: which columns are targets and predictions, and the exact sums of each submission."""

import math
import warnings
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np

from polyloss._command.problems import BadFile, listed, usage
from polyloss._command.scoring import Loss, Score, Settings, tested
from polyloss._command.tables import BINARY, Predictions, Truth, ending, shown
from polyloss._evaluation.exact_sums import tally

KAGGLE = {"epsilon": 1e-15, "rescale": True}
RESCALING = ("log_loss", "categorical_crossentropy", "sparse_categorical_crossentropy", "categorical_focal_crossentropy")


class Sums:
    """The accumulators of one submission: for each loss, for each group."""

    def __init__(self, losses: list[Loss], groups: list[str | None], classes: int | None) -> None:
        self.losses, self.groups, self.classes = losses, groups, classes
        self.each = {loss.shown: [loss.accumulator(classes) for _ in groups] for loss in losses}

    def add(self, loss: Loss, y: np.ndarray, p: np.ndarray, weight: np.ndarray | None, group: np.ndarray | None) -> None:
        """Add a batch."""
        found = self.each[loss.shown]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the command words its own
            if group is None:
                found[0].update(y, p, weight)
                return
            order = np.argsort(group, kind="stable")
            bounds = np.searchsorted(group[order], np.arange(len(self.groups) + 1))
            for k, (start, stop) in enumerate(pairwise(bounds)):
                if start < stop:
                    rows = order[start:stop]
                    found[k].update(y[rows], p[rows], None if weight is None else weight[rows])

    @classmethod
    def together(cls, parts: "list[Sums]") -> "Sums":
        """The sums of several parts, each of which may lack groups."""
        groups: list[str | None] = sorted({group for part in parts for group in part.groups}, key=str)
        made = cls(parts[0].losses, groups, parts[0].classes)
        for part in parts:
            for shown_name, found in part.each.items():
                for group, one in zip(part.groups, found, strict=True):
                    made.each[shown_name][groups.index(group)].merge(one)
        return made

    def scores(self, name: str, by_group: bool, said: list[str]) -> Iterator[Score]:
        """A score for each loss and group, and one for all."""
        for loss in self.losses:
            found = self.each[loss.shown]
            whole = loss.accumulator(self.classes)
            for one in found:
                whole.merge(one)
            rows = [*zip(self.groups, found, strict=True), (None, whole)] if by_group else [(None, whole)]
            for group, a in rows:
                yield Score(name, loss.shown, group, a.result(), a.standard_error(), a.weight, a.count, said)


class Job:
    """How the columns of one submission become targets and predictions."""

    def __init__(self, truth: Truth, predictions: Predictions, losses: list[Loss], kaggle: bool) -> None:
        self.truth, self.predictions, self.kaggle = truth, predictions, kaggle
        columns = predictions.columns
        self.columns = columns
        in_truth = [name for name in columns if name in truth.columns]
        target = truth.target
        if target is None:
            others = [name for name in truth.columns if name not in columns] if len(columns) > 1 else truth.columns
            target = in_truth[0] if len(columns) == 1 and in_truth else others[0] if len(others) == 1 else None
        self.dense = len(columns) > 1 and len(in_truth) == len(columns) and truth.target is None
        if not self.dense and target is None:
            raise usage(
                f"{truth.path} has {len(truth.columns)} columns that could be the target ({listed(truth.columns)}): name it with --target;"
                " the truth is the first file"
            )
        self.target = target
        if not losses:
            if len(columns) == 1 or self.dense:
                raise usage(
                    f"--loss is missing: {predictions.paths[0]} has"
                    f" {'one column' if len(columns) == 1 else 'dense targets'}, so name the loss"
                )
            losses = [Loss.of("log_loss")]
        self.losses = [replace(x, parameters={**KAGGLE, **x.parameters}) if kaggle and x.name == "log_loss" else x for x in losses]
        self.classes: int | None = None
        self._targets: dict[str, np.ndarray] = {}
        for loss in self.losses:
            self._targets[loss.shown] = self._of(loss)

    def _of(self, loss: Loss) -> np.ndarray:
        """The targets of a loss, for every row of the truth."""
        truth, columns, block = self.truth, self.columns, loss.block
        if self.dense:
            if block is not None and block.targets == "labels":
                raise usage(f"--loss {loss.shown} takes labels, but {truth.path} has a column for each of {self.predictions.paths[0]}")
            self.classes = len(columns)
            return truth.numbers(columns)
        assert self.target is not None
        if len(columns) == 1:
            if loss.name == "log_loss":
                return self._second_class()
            if block.combine is None and block.targets != "values":
                raise usage(f"--loss {loss.shown} takes a column for each class, but {self.predictions.paths[0]} has {columns[0]!r} alone")
            return truth.numbers([self.target])
        if loss.asked.lower() == "logloss":
            raise usage(f"--loss {loss.asked} is {loss.name}, of each column by itself: the log loss of classes is log_loss")
        places, present = truth.labels(self.target)
        missing = [label for label in present if label not in columns]
        if missing:
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise BadFile(
                f"{self.predictions.paths[0]}: no column for class {missing[0]!r}{more}; it has {', '.join(map(repr, columns[:8]))}"
            )
        self.classes = len(columns)
        # The last for rows that do not count.
        number = np.array([columns.index(label) for label in present] + [0], np.min_scalar_type(len(columns)))
        labels = number[places]
        if block is None or block.targets in ("labels", "either"):
            return labels
        return np.eye(len(columns), dtype=np.float32)[labels] if len(labels) * len(columns) < 1 << 26 else labels

    def _second_class(self) -> np.ndarray:
        """0 and 1, 1 where the label is the second of the two."""
        assert self.target is not None
        places, present = self.truth.labels(self.target)
        if len(present) > 2:
            raise BadFile(
                f"{self.truth.path}: column {self.target!r} has {len(present)} labels, but one column of probabilities is of two classes"
            )
        if len(present) == 1:
            if present[0] not in ("0", "1"):
                raise BadFile(
                    f"{self.truth.path}: column {self.target!r} has the label {present[0]!r} alone, which does not tell the second class"
                )
            return np.full(len(places), int(present[0]))
        self.classes = 2
        return np.maximum(places, 0)

    def targets(self, loss: Loss, rows: np.ndarray) -> np.ndarray:
        """The targets of these rows."""
        y = self._targets[loss.shown][rows]
        one_hot = loss.block is not None and loss.block.targets == "dense" and y.ndim == 1
        return np.eye(len(self.columns), dtype=np.float32)[y] if one_hot else y

    def given(self, loss: Loss, p: np.ndarray) -> np.ndarray:
        """The predictions as the loss takes them."""
        return p[:, 0] if loss.name == "log_loss" and p.shape[1] == 1 else p

    def check(self, path: str, rows: np.ndarray, p: np.ndarray) -> None:
        """Probabilities are in [0, 1]; under --kaggle they are not negative and add up to something."""
        if not any(loss.name == "log_loss" for loss in self.losses) or not p.size:
            return
        high = math.inf if self.kaggle and p.shape[1] > 1 else 1.0
        if not (p.min() >= 0 and p.max() <= high):
            row, column = np.argwhere(~((p >= 0) & (p <= high)))[0]
            rule = "probabilities lie in [0, 1]" if high == 1 else "probabilities are not negative"
            raise BadFile(f"{path}: {self._place(column, rows[row])} is {p[row, column]}, but {rule}")
        if self.kaggle and p.shape[1] > 1:
            total = p.sum(axis=1)
            if not (total > 0).all() or not np.isfinite(total).all():
                row = int((~((total > 0) & np.isfinite(total))).argmax())
                raise BadFile(
                    f"{path}: the row of id {shown(self.truth.ids[int(rows[row])])} adds up to {total[row]}, and cannot be divided by it"
                )

    def _place(self, column: int, row: int) -> str:
        return self.predictions.place(int(column), int(row), self.columns)


def score_table(job: Job, name: str, settings: Settings, first: dict[str, np.ndarray] | None) -> tuple[list[Score], dict[str, np.ndarray]]:
    """The scores of one submission, and its losses by row of the truth if they are to be compared."""
    truth = job.truth
    sums, said, kept = sums_of(job, name, settings)
    scores = list(sums.scores(name, settings.by_group, said))
    if settings.paired and first is not None:
        for score in scores:
            rows_of = None if score.group is None else truth.group == truth.groups.index(score.group)
            score.paired = difference(
                first[score.loss], kept[score.loss], truth.weight, truth.kept if rows_of is None else truth.kept & rows_of
            )
    return scores, kept


def sums_of(job: Job, name: str, settings: Settings) -> tuple[Sums, list[str], dict[str, np.ndarray]]:
    """The sums of one submission, what is said of it, and its losses by row of the truth if they are to be compared."""
    truth = job.truth
    groups: list[str | None] = list(truth.groups) if settings.by_group else [None]
    sums = Sums(job.losses, groups, job.classes)
    rescaled = len(job.columns) > 1 and any(x.name in RESCALING and not x.parameters.get("from_logits") for x in job.losses)
    logits = [x.name for x in job.losses if len(job.columns) > 1 and (x.block and x.block.predictions) == "logits"]
    off, off_id, least = 0.0, None, 0.0
    kept = {loss.shown: np.full(truth.rows, np.nan) for loss in job.losses} if settings.paired else {}
    for path, rows, p in job.predictions.batches(job.columns):
        job.check(path, rows, p)
        least = min(least, p.min(initial=0.0)) if logits else least
        if (rescaled or logits) and len(p):
            far = np.abs(np.einsum("ij->i", p, dtype=np.float64) - 1)  # a fifth of the time of np.sum along rows of ten
            if far.max() > off:
                off, off_id = float(far.max()), truth.ids[int(rows[far.argmax()])]
        weight = None if truth.weight is None else truth.weight[rows]
        group = None if truth.group is None else truth.group[rows]
        try:
            for loss in job.losses:
                y, q = job.targets(loss, rows), job.given(loss, p)
                sums.add(loss, y, q, weight, group)
                if settings.paired:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        kept[loss.shown][rows] = loss.losses(job.classes, y, q)
        except (ValueError, TypeError) as error:
            raise BadFile(f"{name} and {truth.path}: {error}") from None
        settings.progress(len(rows))
    said = []
    digits = (
        1e-4
        if ending(job.predictions.paths[0]) not in BINARY
        else math.sqrt(np.finfo(np.float32 if p.dtype == np.float32 else np.float64).eps)
    )
    if logits and least >= 0 and off <= 1e-3:
        said.append(f"every row adds up to 1: {logits[0]} takes logits, and these look like probabilities")
        settings.warn(f"{name}: {said[0]}")
    if rescaled and off > digits:
        whole = not job.kaggle and any(loss.name == "log_loss" for loss in job.losses)  # the others divide by the sum themselves
        done = "log_loss takes them as they are; --kaggle divides rows by their sums" if whole else "each row is divided by its sum"
        said.append(f"probabilities of id {shown(off_id)} add up to 1 within {off:.2g} only: {done}")
        settings.warn(f"{name}: {said[-1]}")
    return sums, said, kept


def difference(first: np.ndarray, other: np.ndarray, weight: np.ndarray | None, kept: np.ndarray) -> dict[str, float]:
    """Weighted mean of other - first with its standard error, z and two-sided p."""
    with np.errstate(invalid="ignore"):
        found = tally((other - first)[kept], None if weight is None else weight[kept], None, None)
    return tested(found)
