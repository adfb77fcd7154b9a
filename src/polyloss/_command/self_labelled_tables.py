"""Scores of tables that carry their labels beside the predictions: file by file, here or on a cluster."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import polars as po

from polyloss._command.join_by_id import Predictions
from polyloss._command.problems import BadFile, listed, quoted
from polyloss._command.scoring import Basis, Loss, Score, Settings, in_parts
from polyloss._command.spelling import TRUTH_VALUES, as_written, shown
from polyloss._command.table_scores import Job, Sums, sums_of
from polyloss._command.truth import Asked, Header, read_truth


@dataclass
class Part:
    """What one file holds. It is picklable."""

    path: str
    sums: Sums
    said: list[str]
    columns: list[str]  # of predictions
    basis: Basis
    hashes: po.Series | None  # of the ids, eight bytes each


@dataclass
class SelfLabelledTables:
    """Files that hold ids, labels and predictions of the same rows. It is picklable: workers of a cluster open the files."""

    paths: list[str]
    losses: list[Loss]
    asked: Asked

    def part(self, path: str) -> Part:
        """What one file holds."""
        truth = read_truth(Header.of(path, self.asked), every_cell=False)
        assert truth.target is not None
        truth.apart.add(truth.target)
        job = Job(truth, Predictions.of([path], truth, False), self.losses, self.asked.kaggle)
        if len(self.paths) > 1 and len(job.columns) == 1 and any(loss.name == "log_loss" for loss in job.losses):
            present = truth.labels(truth.target)[1]
            if not TRUTH_VALUES.keys() >= set(present):
                raise BadFile(
                    f"{path}: column {truth.target!r} has the labels {listed(present)}, but must hold 0 and 1, or true and false:"
                    " of one column of probabilities, no part by itself tells the second class"
                )
        settings = Settings(self.losses, self.asked.kaggle, by_group=self.asked.group is not None, warn=lambda message: None)
        sums, said, _, basis = sums_of(job, path, settings)
        hashes = truth.hashes() if len(self.paths) > 1 else None
        return Part(path, sums, said, sorted(job.columns), basis, hashes)

    def score(self, name: str, client: Any, progress: Callable[[int], None]) -> tuple[list[Score], list[Part]]:
        """The scores of all files together, and what each of them holds."""
        found: list[Part] = []
        paths = self.paths if client is None else map(os.path.abspath, self.paths)
        for part in in_parts(self.part, [(path,) for path in paths], client, self.paths):
            found.append(part)
            if part.columns != found[0].columns:
                odd = sorted(set(part.columns) ^ set(found[0].columns))[0]
                raise BadFile(f"{name}: the parts have not the same columns: {quoted(odd)} is in some of them alone")
            progress(1)
        self._check_ids(found)
        sums = Sums.together([part.sums for part in found])
        return list(sums.scores(name, self.asked.group is not None, [text for part in found for text in part.said])), found

    def _check_ids(self, parts: list[Part]) -> None:
        """An error if an id stands in two parts. Where hashes agree the ids themselves are read again."""
        hashes = [(part, part.hashes) for part in parts if part.hashes is not None]
        if not hashes or (every := po.concat([own for _, own in hashes])).n_unique() == len(every):
            return
        twice = every.filter(every.is_duplicated()).unique()
        seen: dict[str, str] = {}
        for part, own in hashes:
            ids = as_written(read_truth(Header.of(part.path, self.asked), every_cell=False).ids)
            for key in ids.filter(own.is_in(twice.implode())):
                if key in seen:
                    raise BadFile(f"{part.path}: id {shown(key)} stands in {seen[key]}, too, but must stand once")
                seen[key] = part.path
