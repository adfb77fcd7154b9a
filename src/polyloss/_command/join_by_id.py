"""Predictions joined to the truth by id, in batches: by a table of the truth's rows, or by polars where ids are text or lie far apart."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as po

from polyloss._command.broken_text import explain_csv
from polyloss._command.prediction_files import Ahead, predicted, rows_of
from polyloss._command.problems import BadFile, counted, quoted
from polyloss._command.spelling import shown
from polyloss._command.table_formats import TEXT, ending
from polyloss._command.table_reading import AT, GAP, KEY, ROW, ROWS, reading
from polyloss._command.truth import Truth


@dataclass
class Predictions:
    """One file of predictions, or several that are parts of one."""

    paths: list[str]
    truth: Truth
    extra: bool  # whether ids that the truth lacks are left out instead of refused
    columns: list[str]  # that hold predictions, in the order of the first part
    ahead: "Ahead | None" = None

    @classmethod
    def of(cls, paths: list[str], truth: Truth, extra: bool, ahead: "Ahead | None" = None) -> "Predictions":
        """The predictions in these files, of the first of which some may have been read."""
        columns: list[str] = []
        for path in paths:
            found = predicted(path, truth.id_column, truth.apart, truth.only)
            columns = columns or found
            missing = [name for name in columns if name not in found] or [name for name in found if name not in columns]
            if missing:
                raise BadFile(f"{path}: its columns are not those of {paths[0]}: {quoted(missing[0])} is in one of them alone")
        return cls(paths, truth, extra, columns, ahead)

    def batches(self, columns: list[str]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """A file, rows of truth, and the predictions there (rows, columns); every id of the truth once, or an error."""
        truth = self.truth
        seen, given = np.zeros(truth.rows, bool), 0
        extra, first = 0, (len(self.paths), 0, None)  # part, row and id of the first that the truth lacks; a join keeps no order
        for part, path in enumerate(self.paths):
            empty = True
            for batch, at in self._joined(path, columns):
                empty = False
                p = self._numbers(path, batch, columns)
                rows = at
                unknown = at < 0
                if unknown.any():
                    strange = batch.select(ROW, truth.id_column).filter(po.Series(unknown))
                    lost = strange.filter(po.col(truth.id_column).is_null())
                    if len(lost):
                        where = f"column {quoted(truth.id_column)} is empty in data row {int(lost[ROW].to_numpy().min()) + 1}"
                        raise BadFile(f"{path}: {where}, but every row needs an id")
                    first = min(first, (part, *strange.row(int(strange[ROW].to_numpy().argmin()))))
                    extra += len(strange)
                    rows, p = at[~unknown], p[~unknown]
                again = seen[rows]
                seen[rows] = True
                given += len(rows)
                if np.count_nonzero(seen) != given:
                    self._doubled(path, batch, at, rows, again)
                if not truth.kept.all():
                    kept = truth.kept[rows]
                    rows, p = rows[kept], p[kept]
                yield path, rows, p
            if empty:
                raise BadFile(f"{path}: no rows below the header")
        name = " and ".join(self.paths[:2]) if len(self.paths) < 3 else f"{self.paths[0]} and {len(self.paths) - 1} more parts"
        if extra and not self.extra:
            raise BadFile(
                f"{name}: {counted(extra, 'id')} not in {truth.path}, the first {shown(first[2])}; "
                + ("--extra-ids ignore leaves them out" if given else f"ids compare as written, and it has {truth.id_at(0)}")
            )
        missing = truth.kept & ~seen
        if missing.any():
            raise BadFile(
                f"{name}: {int(missing.sum())} of {int(truth.kept.sum())} ids are missing,"
                f" the first {shown(truth.ids[int(missing.argmax())])}"
            )

    def _joined(self, path: str, columns: list[str]) -> Iterator[tuple[po.DataFrame, np.ndarray]]:
        """Batches of a file's rows, and the row of truth of each; -1 where there is none."""
        truth = self.truth
        name = truth.id_column
        with reading(path, name, columns):
            batches = None if self.ahead is None else self.ahead.taken(path)
            if batches is None or truth.table is None:
                frame = rows_of(path, name, columns, truth.ids.dtype != po.String)
                if truth.table is None:
                    rows = po.LazyFrame({KEY: truth.ids, AT: np.arange(truth.rows, dtype=np.int32)})
                    frame = frame.join(rows, on=KEY, how="left")
                batches = frame.collect_batches(chunk_size=ROWS)
            explained = False
            for batch in batches:
                if ending(path) in TEXT and batch[name].null_count():  # blank lines come as rows of nulls
                    batch = batch.filter(~po.all_horizontal(po.col(name, *columns).is_null()))  # noqa: PLW2901
                if not explained and batch[GAP].any():
                    explain_csv(path, name, columns)
                    explained = True
                yield batch, truth.places(batch[KEY]) if truth.table is not None else batch[AT].fill_null(-1).to_numpy().astype(np.intp)

    def _numbers(self, path: str, batch: po.DataFrame, columns: list[str]) -> np.ndarray:
        """The predictions of a batch, (rows, columns); neither empty cells nor NaN."""
        if not any(batch[column].null_count() for column in columns):
            # Piece by piece, of which nothing is copied before: a fifth of the time that polars takes for it.
            each = [[piece.to_numpy() for piece in batch[column].get_chunks()] for column in columns]
            p = np.empty((len(batch), len(columns)), np.result_type(*(pieces[0] for pieces in each)))
            for k, pieces in enumerate(each):
                start = 0
                for numbers in pieces:
                    p[start : start + len(numbers), k] = numbers
                    start += len(numbers)
            if not np.isnan(p.min(initial=0.0)):  # a fifth of the time of a mask
                return p
        raise self._gap(path, batch, columns)

    def _gap(self, path: str, batch: po.DataFrame, columns: list[str]) -> BadFile:
        """What is said of the first empty cell or NaN."""
        if ending(path) in TEXT:
            explain_csv(path, self.truth.id_column, columns)
        column = next(c for c in columns if batch[c].null_count() or np.isnan(batch[c].to_numpy()).any())
        row = batch.filter(batch[column].is_null() | batch[column].is_nan()).sort(ROW).row(0, named=True)
        what = "empty" if row[column] is None else "NaN"
        place = f"at id {shown(row[self.truth.id_column])} (data row {row[ROW] + 1})"
        return BadFile(f"{path}: column {quoted(column)} is {what} {place}, but must hold a number")

    def _doubled(self, path: str, batch: po.DataFrame, at: np.ndarray, rows: np.ndarray, again: np.ndarray) -> None:
        values, counts = np.unique(rows, return_counts=True)
        one = int(rows[again][0]) if again.any() else int(values[counts > 1][0])
        row = int(batch[ROW].filter(po.Series(at == one)).to_numpy().max()) + 1
        raise BadFile(f"{path}: id {shown(self.truth.ids[one])} stands again in data row {row}, but must stand once")

    def place(self, column: int, row: int, columns: list[str]) -> str:
        """How an error names the entry of a batch: column and id."""
        return f"column {quoted(columns[column])} at id {shown(self.truth.ids[row])}"
