"""Scores of tables that carry their labels beside the predictions: file by file, here or on a cluster."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from polyloss._command.problems import BadFile, listed
from polyloss._command.scoring import Loss, Score, Settings, in_parts
from polyloss._command.table_scores import Job, Sums, sums_of
from polyloss._command.tables import Header, Predictions, read_truth


@dataclass
class LabelledTables:
    """Files that hold ids, labels and predictions of the same rows. It is picklable: workers of a cluster open the files."""

    paths: list[str]
    losses: list[Loss]
    target: str
    id_column: str | None = None
    weight: str | None = None
    group: str | None = None
    kaggle: bool = False

    def part(self, path: str) -> tuple[Sums, list[str], list[str], int | None]:
        """The sums of one file, what is said of it, the names of its predictions, the number of classes."""
        truth = read_truth(Header.of(path, self.id_column, self.target, self.weight, self.group, self.kaggle), every_cell=False)
        truth.apart.add(self.target)
        job = Job(truth, Predictions.of([path], truth, False), self.losses, self.kaggle)
        if len(self.paths) > 1 and len(job.columns) == 1 and any(loss.name == "log_loss" for loss in job.losses):
            present = truth.labels(self.target)[1]
            if not {"0", "1"}.issuperset(present):
                raise BadFile(
                    f"{path}: column {self.target!r} has the labels {listed(present)}, but must hold 0 and 1: of one column of"
                    " probabilities, no part by itself tells the second class"
                )
        settings = Settings(self.losses, self.kaggle, by_group=self.group is not None, warn=lambda message: None)
        sums, said, _ = sums_of(job, path, settings)
        return sums, said, sorted(job.columns), job.classes

    def score(self, name: str, client: Any, progress: Callable[[int], None]) -> tuple[list[Score], list[Loss], int | None]:
        """The scores of all files together, the losses, the number of classes."""
        found = []
        paths = self.paths if client is None else map(os.path.abspath, self.paths)
        for part in in_parts(self.part, [(path,) for path in paths], client, self.paths):
            found.append(part)
            if part[2] != found[0][2]:
                odd = sorted(set(part[2]) ^ set(found[0][2]))[0]
                raise BadFile(f"{name}: the parts have not the same columns: {odd!r} is in some of them alone")
            progress(1)
        sums, said = Sums.together([part[0] for part in found]), [text for part in found for text in part[1]]
        return list(sums.scores(name, self.group is not None, said)), sums.losses, found[0][3]
