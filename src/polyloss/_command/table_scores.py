"""Scores of tables: which columns are targets and predictions, and the exact sums of each submission."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np

from polyloss._command import values
from polyloss._command.join_by_id import Predictions
from polyloss._command.problems import BadFile, counted, listed, quoted, usage
from polyloss._command.scoring import Basis, Loss, Score, Settings, ignoring_warnings, in_words, tested
from polyloss._command.spelling import SECOND, TRUTH_VALUES, in_order, is_integer, spelled
from polyloss._command.table_formats import BINARY, ending
from polyloss._command.truth import Truth
from polyloss._evaluation.exact_sums import Tally, tally
from polyloss._evaluation.measure import Measure, Positions

KAGGLE = {"epsilon": 1e-15, "rescale": True}
ONE_WAY = f"truth values beside one column of probabilities must be written in one way: {', '.join(map(' and '.join, SECOND.items()))}"


class Sums:
    """What the losses of one submission add up to: for each loss, for each group. It is picklable."""

    def __init__(self, losses: list[Loss], groups: list[str | None], classes: int | None) -> None:
        self.losses, self.groups, self.classes = losses, groups, classes
        self.each = {loss.shown: [Tally() for _ in groups] for loss in losses}

    def add(self, loss: Loss, measure: Measure, found: Positions, group: np.ndarray | None) -> None:
        """Add a batch, whose samples are of these groups."""
        sums = self.each[loss.shown]
        if group is None:
            sums[0] = measure.check(sums[0] + found.tally())
            return
        order = np.argsort(group, kind="stable")
        bounds = np.searchsorted(group[order], np.arange(len(self.groups) + 1))
        for k, (start, stop) in enumerate(pairwise(bounds)):
            if start < stop:
                sums[k] = measure.check(sums[k] + found.some(order[start:stop]).tally())

    @classmethod
    def together(cls, parts: "list[Sums]") -> "Sums":
        """The sums of several parts, each of which may lack groups."""
        groups: list[str | None] = [*in_order({group for part in parts for group in part.groups if group is not None})] or [None]
        made = cls(parts[0].losses, groups, parts[0].classes)
        for loss in made.losses:
            measure, sums = loss.measure(made.classes), made.each[loss.shown]
            for part in parts:
                for group, one in zip(part.groups, part.each[loss.shown], strict=True):
                    k = groups.index(group)
                    sums[k] = measure.check(sums[k] + one)
        return made

    def scores(self, name: str, by_group: bool, warnings: list[str]) -> Iterator[Score]:
        """A score for each loss and group, and one for all."""
        for loss in self.losses:
            found, measure = self.each[loss.shown], loss.measure(self.classes)
            whole = measure.check(sum(found, Tally()))
            rows = [*zip(self.groups, found, strict=True), (None, whole)] if by_group else [(None, whole)]
            for group, one in rows:
                yield Score.of(name, loss, measure, one, group, warnings)


class Job:
    """How the columns of one submission become targets and predictions."""

    def __init__(self, truth: Truth, predictions: Predictions, losses: list[Loss], kaggle: bool) -> None:
        self.truth, self.predictions, self.kaggle = truth, predictions, kaggle
        columns = predictions.columns
        self.columns = columns
        in_truth = [name for name in columns if name in truth.columns]
        target = truth.target
        if target is None:
            others = [name for name in truth.columns if name not in columns] if len(columns) > 1 else []
            alone = others if len(others) == 1 else truth.columns
            target = in_truth[0] if len(columns) == 1 and in_truth else alone[0] if len(alone) == 1 else None
        self.dense = len(columns) > 1 and len(in_truth) == len(columns) and truth.target is None
        if not self.dense and target is None:
            many = f"{counted(len(truth.columns), 'column')} that could be the target ({listed(truth.columns)}): name it with --target"
            many += " (or --kaggle leaves 'Usage' out)" if "Usage" in truth.columns else ""
            raise usage(
                f"{truth.path} has {many if truth.columns else 'no column left that could be the target'}; the truth is the first file"
            )
        self.target = target
        if not losses:
            if len(columns) == 1 or self.dense:
                held, of = ("one column", "log_loss") if len(columns) == 1 else ("dense targets", "bce")
                raise usage(f"--loss is missing: {predictions.paths[0]} has {held}; -l {of} is of probabilities, -l mse of other numbers")
            losses = [Loss.of("log_loss")]
        if kaggle and "Usage" not in truth.apart and all(loss.name != "log_loss" for loss in losses):
            raise usage(
                f"--kaggle changes nothing here: it rescales and clips for log_loss alone, and {truth.path} has no column 'Usage', whose"
                " ignored rows would be left out"
            )
        self.losses = [replace(x, parameters={**KAGGLE, **x.parameters}) if kaggle and x.name == "log_loss" else x for x in losses]
        self.classes: int | None = None
        self.positive: str | None = None  # the class that a single column of probabilities is of
        self.odd: list[str] = []  # columns that are classes, and hardly meant to be
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
            return self._numbers(loss, columns)
        assert self.target is not None
        if len(columns) == 1:
            if loss.name == "log_loss":
                return self._second_class()
            if block.combine is None and block.targets != "values":
                alone = f"{self.predictions.paths[0]} has {quoted(columns[0])} alone"
                raise usage(f"--loss {loss.shown} takes a column for each class, but {alone}")
            return self._numbers(loss, [self.target])
        if loss.asked.lower() == "logloss":
            raise usage(f"--loss {loss.asked} is {loss.name}, of each column by itself; did you mean log_loss, the log loss of classes?")
        places, present = truth.labels(self.target)
        missing = [label for label in present if label not in columns]
        if missing:
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            hint = spelled(missing[0], columns)
            if block and block.combine == "mean":
                hint = f"; of numbers as targets, {loss.name} takes one column of predictions: name it with --prediction"
            raise BadFile(f"{self.predictions.paths[0]}: no column for class {quoted(missing[0])}{more}; it has {listed(columns)}{hint}")
        if all(map(is_integer, present)):
            self.odd = [name for name in columns if not is_integer(name)]
        self.classes = len(columns)
        # The last for rows that do not count.
        number = np.array([columns.index(label) for label in present] + [0], np.min_scalar_type(len(columns)))
        labels = number[places]
        if block is None or block.targets in ("labels", "either"):
            return labels
        return np.eye(len(columns), dtype=np.float32)[labels] if len(labels) * len(columns) < 1 << 26 else labels

    def _numbers(self, loss: Loss, names: list[str]) -> np.ndarray:
        """Columns of the truth as targets of a loss."""
        try:
            y, rows = self.truth.numbers(names), np.flatnonzero(self.truth.kept)
        except BadFile as error:
            hint = "; log_loss takes labels as they are" if loss.takes == "probability" else ""
            raise BadFile(error.message + hint) from None
        fault = values.bad_target(loss, y[rows])
        if fault is not None:
            place = self.predictions.place(fault.at[1], int(rows[fault.at[0]]), names)
            raise BadFile(f"{self.truth.path}: {values.said(fault, place)}")
        return y

    def _second_class(self) -> np.ndarray:
        """0 and 1, 1 where the label is that of the column's name; if it has none, the second of the two.

        Truth values are of one pair, such as False and True: "1" sorts before "False", so that order does not tell the second of others.
        """
        assert self.target is not None
        places, present = self.truth.labels(self.target)
        column = self.columns[0]
        one_way = next((pair for pair in SECOND.items() if set(present) <= set(pair)), None)
        if one_way is None and (
            TRUTH_VALUES.keys() >= set(present)
            or (len(present) == 2 and column not in present and any(x in TRUTH_VALUES and not is_integer(x) for x in present))
        ):
            raise BadFile(f"{self.truth.path}: column {quoted(self.target)} has the labels {listed(present)}, but {ONE_WAY}")
        if len(present) > 2:
            raise BadFile(
                f"{self.truth.path}: column {self.target!r} has {len(present)} labels, but one column of probabilities is of two classes"
            )
        if column not in present and len(present) == 1 and one_way is None:
            raise BadFile(
                f"{self.truth.path}: column {self.target!r} has the label {quoted(present[0])} alone, which does not tell the second class"
            )
        if one_way is not None and present and column not in one_way and TRUTH_VALUES.get(column) == 0:
            raise BadFile(
                f"{self.predictions.paths[0]}: column {quoted(column)} is of probabilities, but the labels of {self.truth.path} are"
                f" {listed(present)}: {ONE_WAY}"
            )
        self.classes = 2
        # One or both of the two labels may be missing among the rows that count, and the column may be named after a missing one.
        self.positive = column if column in (one_way or present) else (one_way or present)[1]
        return np.array([label == self.positive for label in [*present, ""]], np.int8)[places]  # the last for rows that do not count

    def targets(self, loss: Loss, rows: np.ndarray) -> np.ndarray:
        """The targets of these rows."""
        y = self._targets[loss.shown][rows]
        one_hot = loss.block is not None and loss.block.targets == "dense" and y.ndim == 1
        return np.eye(len(self.columns), dtype=np.float32)[y] if one_hot else y

    def given(self, loss: Loss, p: np.ndarray) -> np.ndarray:
        """The predictions as the loss takes them."""
        return p[:, 0] if loss.name == "log_loss" and p.shape[1] == 1 else p


class Kept:
    """The losses of one submission by row of the truth, to be compared, and their part in the mean."""

    def __init__(self, rows: int) -> None:
        self.losses, self.weight, self.normal = (np.full(rows, start) for start in (np.nan, 0.0, 0.0))

    def put(self, rows: np.ndarray, found: Positions) -> None:
        """Keep those of a batch."""
        self.losses[rows] = found.losses
        weight = 1.0 if found.weight is None else found.weight
        self.weight[rows] = weight if found.skip is None else np.where(found.skip, 0.0, weight)
        self.normal[rows] = weight if found.normal is None else found.normal

    def less(self, other: "Kept", kept: np.ndarray) -> Tally:
        """The sums of the differences to another submission, over some rows."""
        with np.errstate(invalid="ignore"):
            return tally((self.losses - other.losses)[kept], self.weight[kept], self.normal[kept], None)


def score_table(job: Job, name: str, settings: Settings, first: dict[str, Kept] | None) -> tuple[list[Score], dict[str, Kept]]:
    """The scores of one submission, and its losses if they are to be compared: with those of the first."""
    truth = job.truth
    sums, warnings, kept, settings.bases[name] = sums_of(job, name, settings)
    scores = list(sums.scores(name, settings.by_group, warnings))
    if settings.paired and first is not None:
        by_name = {loss.shown: loss.measure(job.classes) for loss in job.losses}
        for score in scores:
            rows = truth.kept if score.group is None else truth.kept & (truth.group == truth.groups.index(score.group))
            score.paired = tested(by_name[score.loss], kept[score.loss].less(first[score.loss], rows))
    return scores, kept


def sums_of(job: Job, name: str, settings: Settings) -> tuple[Sums, list[str], dict[str, Kept], Basis]:
    """The sums of one submission, its warnings, its losses by row of the truth if they are to be compared, and its basis."""
    truth, losses = job.truth, [(loss, loss.measure(job.classes)) for loss in job.losses]
    sums = Sums(job.losses, list(truth.groups) if settings.by_group else [None], job.classes)
    watched = values.watches(job.losses, (truth.rows, len(job.columns)))
    kept = {loss.shown: Kept(truth.rows) for loss in job.losses} if settings.paired else {}
    p = np.empty((0, 0))
    basis = Basis(classes=job.classes, positive=set() if job.positive is None else {job.positive})
    for path, rows, p in job.predictions.batches(job.columns):
        for watch in watched:
            fault = watch.see(p, lambda at, rows=rows: int(rows[at[0]]))  # type: ignore[misc]
            if fault is not None:
                row = int(rows[fault.at[0]])
                place = f"of id {truth.id_at(row)}" if fault.of_row else job.predictions.place(fault.at[1], row, job.columns)
                raise BadFile(f"{path}: {values.said(fault, place)}")
        weight = None if truth.weight is None else truth.weight[rows]
        group = None if truth.group is None else truth.group[rows]
        for loss, measure in losses:
            try:
                with ignoring_warnings():  # the command words its own
                    found = measure.positions(job.targets(loss, rows), job.given(loss, p), weight)
                    sums.add(loss, measure, found, group)
            except (ValueError, TypeError) as error:
                raise BadFile(in_words(str(error), truth.path, path)) from None
            if settings.paired:
                kept[loss.shown].put(rows, found)
        settings.progress(len(rows))
        basis.clips.update(clip for loss in job.losses if (clip := loss.clip(p.dtype)) is not None)
    digits = 1e-4 if ending(job.predictions.paths[0]) not in BINARY else values.tolerance(p.dtype)
    said = [watch.warning(digits, lambda row: f"of id {truth.id_at(row)}", "--kaggle divides rows by their sums") for watch in watched]
    warnings = [text for text in said if text]
    if job.odd:
        warnings.append(f"columns that count as classes, and are labels in no row of {truth.path}: {listed(job.odd)}")
    for text in warnings:
        settings.warn(f"{name}: {text}")
    return sums, warnings, kept, basis
