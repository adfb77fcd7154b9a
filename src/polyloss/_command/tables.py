"""Tables: CSV, TSV, Parquet and Arrow files, read by polars and joined by id.

The truth is read whole, in the few columns that matter. Predictions are streamed: polars parses them and hands over batches. A row finds
its row of truth in a table with a place for each integer between the least id and the largest; where ids are text, or lie far apart,
polars joins them. Ids and labels of text files compare as written: "007" is not 7. polars fills short rows and empty cells with null and
stops at a bad number without its row; `explain_csv` then reads the file once more, slowly, and words what is wrong.
"""

import contextlib
import csv
import io
import json
import os
import re
import zlib
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import polars as po

from polyloss import registry
from polyloss._command.problems import BadFile, counted, listed, quoted, short, unlike, usage
from polyloss._command.streams import OTHER, real
from polyloss._evaluation.measure import WEIGHTS

TEXT = {".csv": ",", ".tsv": "\t"}
BINARY = (".parquet", ".pq", ".arrow", ".feather", ".ipc")
PACKED = (".gz", ".zst")
ROWS = 1 << 16  # of one batch: 5 MB for 10 columns
CELL = 1 << 30  # characters of a cell, at most, where a text is read to tell what is wrong with it
SAMPLE = 1 << 14  # rows that tell whether a column has few kinds of text
KEY, AT, ROW, GAP = "\0id", "\0at", "\0row", "\0gap"  # columns of the join, by names that no file has
SECOND = {"0": "1", "False": "True", "false": "true", "FALSE": "TRUE"}  # a truth value 0 -> its 1, as pandas, polars and R write them
TRUTH_VALUES = {word: value for pair in SECOND.items() for value, word in enumerate(pair)}
UNNAMED = "__index_level_0__"  # what pandas calls an index without a name in Parquet; in text its name is empty
NUMBER = re.compile(r"[ \t]*[+-]?(\d+\.?\d*(e[+-]?\d+)?|\.\d+(e[+-]?\d+)?|inf|infinity|nan)", re.ASCII | re.IGNORECASE)
POLARS = (po.exceptions.PolarsError, po.exceptions.PanicException)  # of which the second is no Exception
UNREADABLE = (*POLARS, EOFError, zlib.error, csv.Error, OSError)  # what reading lines of a broken text raises
FAR = 8  # places of the table for each id, at most: 32 bytes


def ending(path: str) -> str:
    """The ending that tells the format, without that of a compression."""
    file = real(path)
    name = file.lower()
    for packed in PACKED:
        name = name.removesuffix(packed)
    suffix = Path(name).suffix
    return _delimited(file) if file != path and suffix == OTHER else suffix


@cache  # the names of the temporary files that keep streams are new in every run
def _delimited(file: str) -> str:
    """The ending of a text that came without a name: its first line has more tabs, or more commas."""
    header = ""
    with contextlib.suppress(*UNREADABLE), contextlib.closing(_lines(file)) as lines:  # what is wrong is said where it is read
        header = next((line for line in lines if line.strip("\r\n")), "")
    return ".tsv" if header.count("\t") > header.count(",") else ".csv"


def is_table(path: str) -> bool:
    """Whether the name is that of a table."""
    return ending(path) in (*TEXT, *BINARY)


@dataclass
class Truth:
    """What predictions are compared with: a row for each id."""

    path: str
    id_column: str
    ids: po.Series  # integers if all are written as integers are, else strings
    kept: np.ndarray  # rows that count; others may be predicted or not
    columns: list[str]  # that could be targets
    target: str | None
    data: po.DataFrame  # these columns
    weight: np.ndarray | None
    group: np.ndarray | None  # place of each row's group in `groups`
    groups: list[str]
    apart: set[str]  # columns that hold no prediction wherever they are: id, weight, group, usage
    only: tuple[str, ...] = ()  # columns that hold predictions, if they are named
    least: int = 0  # id
    table: np.ndarray | None = None  # row of each id from `least` on, -1: none; None where that would be too large

    def __post_init__(self) -> None:
        self._labels: dict[str, tuple[np.ndarray, list[str]]] = {}
        if self.ids.dtype == po.String or self.ids.is_empty():
            return
        least, most = int(self.ids.min()), int(self.ids.max())  # type: ignore[arg-type]
        if most - least < FAR * self.rows + 1024:
            self.least, self.table = least, np.full(most - least + 1, -1, np.int32)
            for start in range(0, self.rows, ROWS):  # whose temporary arrays are small
                ids = self.ids[start : start + ROWS].to_numpy()
                self.table[ids - least] = np.arange(start, start + len(ids), dtype=np.int32)

    def places(self, ids: po.Series) -> np.ndarray:
        """The rows of some integer ids by the table; -1 for others and for null."""
        assert self.table is not None
        given = ids.fill_null(0) if ids.null_count() else ids
        at = given.to_numpy().view(np.uint64) - np.uint64(self.least % 2**64)  # those below the least become large
        known = at < len(self.table)
        known = known & ids.is_not_null().to_numpy() if ids.null_count() else known
        if known.all():
            return self.table[at.view(np.int64)].astype(np.intp)  # once for all that is looked up with it
        found = np.full(len(ids), -1, np.intp)
        found[known] = self.table[at[known].view(np.int64)]
        return found

    @property
    def rows(self) -> int:
        """Number of ids."""
        return len(self.ids)

    def labels(self, name: str) -> tuple[np.ndarray, list[str]]:
        """A column of labels as numbers, and the labels in sorted order: by value if all are whole numbers."""
        if name not in self._labels:
            self._labels[name] = self._labelled(name)
        return self._labels[name]

    def _labelled(self, name: str) -> tuple[np.ndarray, list[str]]:
        column = as_written(self.data[name])
        bad = (column.is_null() | (column == "")) & po.Series(self.kept)
        if bad.any():
            raise BadFile(f"{self.path}: column {quoted(name)} has no label at id {shown(self._id(bad))}, but every row needs one")
        kinds = column.unique()
        present = in_order((kinds if self.kept.all() else column.filter(po.Series(self.kept)).unique()).to_list())
        return places_in(column, present, kinds), present

    def numbers(self, names: list[str], rule: str = "must hold numbers, none of them NaN") -> np.ndarray:
        """Columns of numbers, (rows, columns); others break the rule."""
        return np.stack([self._numbers(name, rule) for name in names], axis=1)

    def _numbers(self, name: str, rule: str) -> np.ndarray:
        column = self.data[name]
        if column.dtype.is_numeric() or column.dtype == po.Boolean:
            values = column.cast(po.Float64)
        else:
            text = column.cast(po.String).str.strip_chars()
            values = text.cast(po.Float64, strict=False)
            if values.null_count() == len(values):  # no number at all
                values = text.replace_strict(TRUTH_VALUES, default=None, return_dtype=po.Float64)
        bad = (values.is_null() | values.is_nan()) & po.Series(self.kept)
        if bad.any():
            value = column.filter(bad)[0]
            raise BadFile(
                f"{self.path}: column {quoted(name)} is {'empty' if value is None else quoted(str(value))} at id {shown(self._id(bad))},"
                f" but {rule}"
            )
        return values.fill_null(np.nan).to_numpy()

    def _id(self, where: po.Series) -> Any:
        return self.ids.filter(where)[0]

    def hashes(self) -> po.Series:
        """A hash of each id as it is written."""
        return as_written(self.ids).hash()

    def id_at(self, row: int) -> str:
        """The id of a row, as errors name it."""
        return shown(self.ids[row])


def shown(key: Any) -> str:
    """An id as errors name it: numbers as they are, other text in quotes."""
    return short(str(key)) if not isinstance(key, str) or is_integer(key) else quoted(key)


def whole(text: po.Expr) -> po.Expr:
    """Text as integers; null where it is not how an integer is written."""
    other = text.str.starts_with("+") | text.str.starts_with("-0") | (text.str.starts_with("0") & (text.str.len_bytes() > 1))
    return po.when(~other).then(text.cast(po.Int64, strict=False))  # which takes a sign and digits, and nothing else


def in_order(names: Iterable[str]) -> list[str]:
    """Labels or groups in order: by value if all are whole numbers."""
    names = list(names)
    return sorted(names, key=(lambda v: (int(v), v)) if all(map(is_integer, names)) else None)


def as_written(column: po.Series) -> po.Series:
    """Labels, ids and groups as text; true and false as pandas writes them."""
    if column.dtype == po.Boolean:
        return column.replace_strict([True, False], ["True", "False"], default=None, return_dtype=po.String)
    return column if column.dtype in (po.String, po.Categorical) else column.cast(po.String)


def places_in(column: po.Series, names: list[str], kinds: po.Series) -> np.ndarray:
    """The place of each text among the names; -1 for others. `kinds` are all that the column has."""
    if column.dtype != po.Categorical:
        return column.cast(po.Enum(names), strict=False).to_physical().cast(po.Int32).fill_null(-1).to_numpy()
    kinds, number = kinds.drop_nulls(), {name: k for k, name in enumerate(names)}
    numbers = kinds.to_physical().to_numpy()
    table = np.full(int(numbers.max(initial=0)) + 2, -1, np.int32)
    table[numbers] = [number.get(kind, -1) for kind in kinds.to_list()]
    return table[column.to_physical().fill_null(len(table) - 1).to_numpy()]


def is_integer(text: str) -> bool:
    """Whether a text is a whole number as Python writes it."""
    try:
        return str(int(text)) == text
    except ValueError:
        return False


@dataclass(frozen=True)
class Asked:
    """The columns that options name; where one is None or empty, the usual ones."""

    id_column: str | None = None
    target: str | None = None
    prediction: tuple[str, ...] = ()
    weight: str | None = None
    group: str | None = None
    kaggle: bool = False  # whether column `Usage` says which rows count


@dataclass(frozen=True)
class Header:
    """What the truth's columns are."""

    path: str
    id_column: str
    columns: list[str]  # that could be targets
    target: str | None
    weight: str | None
    group: str | None
    usage: str | None  # of Kaggle's, where rows may be ignored
    only: tuple[str, ...]  # columns that hold predictions, if they are named

    @classmethod
    def of(cls, path: str, asked: "Asked") -> "Header":
        """Of these options."""
        id_column, target, weight, group, kaggle = asked.id_column, asked.target, asked.weight, asked.group, asked.kaggle
        names = columns_of(path)
        for option, name in (("--id", id_column), ("--target", target), ("--weight", weight), ("--group-by", group)):
            if name is not None and name not in names:
                raise usage(f"{option} is {name!r}, but {path} has no such column{unlike(name, names)}")
        id_column = id_column or names[0]
        named: dict[str, str] = {}
        for option, name in (("--id", id_column), ("--weight", weight), ("--group-by", group), ("--target", target)):
            if name is None or (option == "--target" and name == group):  # a score for each class
                continue
            if named.setdefault(name, option) != option:
                raise usage(
                    f"{named[name]} and {option} both name column {name!r} of {path}; --id is the first column by default, and every table"
                    " needs one, by which rows are joined"
                )
        if id_column in asked.prediction:
            raise usage(f"--prediction is {id_column!r}, which is the column of the ids, by which rows are joined")
        state = "Usage" if kaggle and "Usage" in names else None
        columns = [name for name in names if name not in (id_column, weight, group, state, UNNAMED)] if target is None else [target]
        if not columns and group is not None:  # the one other column is the target, too
            target, columns = group, [group]
        return cls(path, id_column, columns, target, weight, group, state, asked.prediction)

    @property
    def apart(self) -> set[str]:
        """Columns that hold no prediction wherever they are."""
        return {name for name in (self.id_column, self.weight, self.group, self.usage) if name is not None and name not in self.columns}


def read_truth(header: Header, every_cell: bool = True) -> Truth:
    """The table of the truth. The length of its rows is told from the cells of all columns, unless these are read elsewhere."""
    path, id_column, target, weight, group, state = (
        header.path, header.id_column, header.target, header.weight, header.group, header.usage
    )  # fmt: skip
    columns, apart = header.columns, header.apart
    column, data = _whole(path, sorted({*apart, *columns}), id_column, every_cell)
    if column.is_empty():
        raise BadFile(f"{path}: no rows below the header")
    ids = _ids(path, id_column, column)
    kept = np.ones(len(ids), bool) if state is None else (as_written(data[state]) != "Ignored").fill_null(True).to_numpy()
    groups: list[str] = []
    places = None
    if group is not None:
        text = as_written(data[group]).fill_null("")
        groups = in_order(text.filter(po.Series(kept)).unique().to_list())
        places = places_in(text, groups, text.unique())
    needed = data.select(list(dict.fromkeys([*columns, *([weight] if weight else [])])))
    truth = Truth(path, id_column, ids, kept, columns, target, needed, None, places, groups, apart, header.only)
    if weight is not None:
        w = truth.numbers([weight], WEIGHTS)[:, 0]
        bad = ~((w >= 0) & np.isfinite(w)) & kept
        if bad.any():
            raise BadFile(f"{path}: column {quoted(weight)} is {w[bad][0]} at id {shown(ids[int(bad.argmax())])}, but {WEIGHTS}")
        truth.weight = w
    return truth


def _ids(path: str, name: str, column: po.Series) -> po.Series:
    """Unique ids: as integers where all are written as integers are, else as text."""
    where = column.is_null() if column.dtype != po.String else column.is_null() | (column == "")
    if where.any():
        raise BadFile(f"{path}: column {quoted(name)} is empty in data row {int(where.to_numpy().argmax()) + 1}, but every row needs an id")
    if column.dtype.is_integer():
        ids = column.cast(po.Int64, strict=False)
    else:
        column = as_written(column)
        ids = column.to_frame(name).select(whole(po.col(name)))[name]
    ids = as_written(column) if ids.null_count() else ids
    if ids.dtype != po.String and _increase(ids.to_numpy()):
        return ids
    # Equal ids have equal hashes; unequal strings take long to count.
    if (ids.hash() if ids.dtype == po.String else ids).n_unique() != len(ids) and ids.n_unique() != len(ids):
        twice = ids.filter(ids.is_duplicated())[0]
        again = int((ids == twice).arg_true()[1]) + 1
        raise BadFile(f"{path}: id {shown(twice)} of column {quoted(name)} stands again in data row {again}, but must stand once")
    return ids


def _increase(ids: np.ndarray) -> bool:
    """Whether each is larger than the one before."""
    return bool((ids[1:] > ids[:-1]).all())


# ------------------------------------------------------------------------------------------------------------------ predictions


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
        with _reading(path, name, columns):
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


def predicted(path: str, id_column: str, apart: set[str], only: tuple[str, ...] = ()) -> list[str]:
    """The columns of predictions in a file: those that are named, or all others."""
    names = columns_of(path)
    if id_column not in names:
        hint = spelled(id_column, names) or _index(path, id_column, names)
        raise BadFile(f"{path}: no column {quoted(id_column)}, by which it is joined; it has {listed(names)}{hint}")
    for name in only:
        if name not in names:
            raise BadFile(f"{path}: no column {name!r}, which --prediction names{unlike(name, names)}")
    found = list(only) or [name for name in names if name not in apart and name != UNNAMED]
    if not found:
        raise BadFile(f"{path}: no column of predictions beside {quoted(id_column)}")
    if "" in found and not only:
        raise BadFile(f"{path}: column '' may be an index that pandas wrote; to_csv(…, index=False) leaves it out")
    return found


def check_named(paths: list[str], only: tuple[str, ...]) -> None:
    """An error of the command line if options name columns of predictions that no file has."""
    for name in only:
        known: list[str] = []
        for path in paths:
            with contextlib.suppress(BadFile):  # reported when the file is read
                known += columns_of(path)
        if known and name not in known:
            raise usage(f"--prediction is {name!r}, but {paths[0]} has no such column{unlike(name, list(dict.fromkeys(known)))}")


def spelled(name: str, names: list[str]) -> str:
    """A hint where a name differs from the one looked for in case or blanks alone, or is the same number in other digits."""
    alike = [other for other in names if other.strip().lower() == name.strip().lower() or _same_number(other, name)]
    return f"; rename {quoted(alike[0])}, since names compare as written" if alike else ""


def _same_number(a: str, b: str) -> bool:
    return bool(NUMBER.fullmatch(a) and NUMBER.fullmatch(b)) and float(a) == float(b)


def _index(path: str, name: str, names: list[str]) -> str:
    """A hint about an index of pandas, which may have no name, or whose values Parquet may lack."""
    if name in ("", UNNAMED):
        return "; this name is that of an index without one, which pandas wrote: --id COLUMN says which column of the truth has the ids"
    for other in ("", UNNAMED):
        if other in names:
            return f"; {other!r} is an index without a name, which pandas wrote: df.rename_axis({name!r}) names it"
    if any(isinstance(index, dict) and index.get("name") == name for index in _indices(path)):
        return f"; for pandas {name!r} is an index of which it writes no values: df.reset_index() makes it a column"
    return ""


def _indices(path: str) -> list[Any]:
    """The indices of pandas by a Parquet file's metadata: names of columns, or descriptions of ranges, whose values are not in the file."""
    if ending(path) in (".parquet", ".pq"):
        with contextlib.suppress(KeyError, ValueError, TypeError, *POLARS):
            return list(json.loads(po.read_parquet_metadata(there(path))["pandas"])["index_columns"])
    return []


def rows_of(path: str, id_column: str, columns: list[str], integers: bool) -> po.LazyFrame:
    """The ids of a file as it has them and as `KEY`, by which they are found, its predictions, and the number of the row."""
    read = [id_column, *columns]
    frame = scan(path, {id_column: po.String} | dict.fromkeys(columns, po.Float64))
    frame = frame.select(*read, _gap(path, frame, read))
    schema = frame.collect_schema()
    for column in columns:
        if not (schema[column].is_numeric() or schema[column] == po.Boolean):
            raise BadFile(f"{path}: column {quoted(column)} holds {schema[column]}, but must hold numbers")
    floats = [po.col(c).cast(po.Float64) for c in columns if not schema[c].is_float()]
    key = po.col(id_column)
    if not integers:
        key = key.cast(po.String)
    elif schema[id_column] == po.String:  # a number that is written otherwise is another id
        key = whole(key)
    elif schema[id_column].is_float():
        key = po.when(key == key.round()).then(key.cast(po.Int64, strict=False))
    else:
        key = key.cast(po.Int64, strict=False)
    return frame.with_columns(*floats, key.alias(KEY)).with_row_index(ROW)


def _gap(path: str, frame: po.LazyFrame, read: list[str]) -> po.Expr:
    """Whether one of a text's other columns is empty: polars fills short rows, and refuses long ones only where it reads all columns."""
    others = [name for name in frame.collect_schema().names() if name not in read] if ending(path) in TEXT else []
    return (po.any_horizontal(po.col(others).is_null()) if others else po.lit(False)).alias(GAP)


class Ahead:
    """The first batches of a file of predictions, which polars parses while the truth is read: as far as its buffers go, about a third
    of a million rows. They are good for ids that are integers near each other.
    """

    def __init__(self, path: str, header: Header) -> None:
        self.path, self.batches = path, None  # type: tuple[str, Any]
        # What is wrong with the file is said when its turn comes.
        with contextlib.suppress(BadFile, *POLARS, OSError, ValueError):
            columns = predicted(path, header.id_column, header.apart, header.only)
            self.batches = rows_of(path, header.id_column, columns, True).collect_batches(chunk_size=ROWS)

    def taken(self, path: str) -> Any:
        """The batches, if they are of this file, once. If nobody holds them, polars stops reading."""
        batches = self.batches if path == self.path else None
        self.batches = None if path == self.path else self.batches
        return batches


# ------------------------------------------------------------------------------------------------------------------ files


def columns_of(path: str) -> list[str]:
    """The names of a table's columns."""
    file = Path(real(path))
    if file.is_dir():
        raise BadFile(f"{path}: is a directory, but must be a file")
    if ending(path) not in (*TEXT, *BINARY):
        known = ", ".join([*TEXT, *BINARY, ".npy", ".npz", ".zarr", ".h5"])
        hint = ""
        with contextlib.suppress(ValueError):  # which says that it is no loss
            hint = f"; a loss is named by -l {registry.get(path).__name__}"
        raise BadFile(f"{path}: its name does not tell the format; known are {known}, and .gz and .zst behind those of text{hint}")
    if not file.exists():
        raise BadFile(f"{path}: no such file")
    if file.stat().st_size == 0:
        raise BadFile(f"{path}: the file is empty")
    with open(file, "rb") as stream:
        start = stream.read(512) if ending(path) in TEXT else b""
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise BadFile(f"{path}: is UTF-{32 if start[2:4] == bytes(2) else 16} text, but must be UTF-8")
    if start[:4] == b"PAR1":
        raise BadFile(f"{path}: is a Parquet file, but is named as text: name it .parquet")
    if b"\0" in start and not start.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd")):  # of which gzip and zstd are unpacked
        raise BadFile(f"{path}: holds binary data, but must be text{', Parquet, Arrow or an array' if real(path) != path else ''}")
    with _reading(path, None, []):
        names = scan(path, {}).collect_schema().names()
    if len(names) == 1 and ending(path) in TEXT and any(mark in names[0] for mark in ",;|\t"):
        raise BadFile(f"{path}: the header is one cell, {quoted(names[0])}: cells are parted by commas in .csv, by tabs in .tsv")
    if not names:
        raise BadFile(f"{path}: the file has no header")
    indices = [name for name in _indices(path) if name in names and name != UNNAMED]  # they are last in Parquet, and first in text
    names = [*indices, *(name for name in names if name not in indices)] if indices else names
    if ending(path) in TEXT and any("_duplicated_" in name for name in names):  # what polars makes of a name that stands again
        explain_csv(path, None, [])
    return names


def there(path: str) -> str:
    """The file to read, by a name in which polars finds neither a home directory nor an address: "~/a.csv" may be a file of this folder."""
    return os.path.abspath(real(path))


def scan(path: str, types: dict[str, Any]) -> po.LazyFrame:
    """A table that is read when it is needed; of text, these columns get these types and all others stay text."""
    if ending(path) in TEXT:
        read = partial(po.scan_csv, there(path), separator=TEXT[ending(path)], infer_schema=False, glob=False)
        own: dict[str, str] = {}  # names in which polars leaves a quotation mark doubled, as the text writes it within others
        if not types or any('"' in name for name in types):
            own = {name.replace('""', '"'): name for name in read().collect_schema().names() if '""' in name}
        frame = read(schema_overrides={own.get(name, name): kind for name, kind in types.items()})
        return frame.rename({there: name for name, there in own.items()}) if own else frame
    if ending(path) in (".parquet", ".pq"):
        return po.scan_parquet(there(path), glob=False)
    with open(real(path), "rb") as file:
        if file.read(6) == b"ARROW1":
            return po.scan_ipc(there(path), glob=False)
    return po.read_ipc_stream(there(path)).lazy()  # which has no index, to be read in part


def _whole(path: str, names: list[str], id_column: str, every_cell: bool) -> tuple[po.Series, po.DataFrame]:
    """The truth's ids and these columns. Those of a text stay text, but ids become integers where all are written so."""
    if ending(path) not in TEXT:
        with _reading(path, None, []):
            data = scan(path, {}).select(names).collect()
        return data[id_column], data
    # In pieces, since strings take far more memory than integers and categories.
    blank = po.all_horizontal(po.col(names).is_null())
    ids, pieces, gaps = [], [], False
    others = [name for name in names if name != id_column]
    with _reading(path, id_column, []):
        frame = scan(path, {})
        gap = _gap(path, frame, names) if every_cell else po.lit(False).alias(GAP)
        frame = frame.select(*names, whole(po.col(id_column)).alias(KEY), gap)
        first = frame.select(others).head(SAMPLE).collect()
        few = [name for name in others if first[name].n_unique() * 16 <= len(first)]
        frame = frame.with_columns(po.col(few).cast(po.Categorical))
        for piece in frame.collect_batches(chunk_size=ROWS, maintain_order=True):
            if any(piece[name].null_count() for name in names):
                gaps, piece = True, piece.filter(~blank)  # noqa: PLW2901
            gaps = gaps or bool(piece[GAP].any())
            ids.append(piece[id_column if piece[KEY].null_count() else KEY].alias(id_column))
            pieces.append(piece.select(others))
    if gaps:
        explain_csv(path, id_column, [], every=True)
    if not pieces:
        return po.Series(id_column, [], po.String), po.DataFrame(schema=dict.fromkeys(names, po.String))
    if len({piece.dtype for piece in ids}) > 1:
        ids = [piece.cast(po.String) for piece in ids]
    return po.concat(ids, rechunk=True), po.concat(pieces, rechunk=True)


class _reading:
    """Errors of the reader in this block become one line about the file."""

    def __init__(self, path: str, id_column: str | None, columns: list[str]) -> None:
        self.path, self.id_column, self.columns = path, id_column, columns

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, where: Any) -> None:
        if error is None or isinstance(error, (BadFile, GeneratorExit)):
            return
        if isinstance(error, (*POLARS, OSError, ValueError, EOFError, UnicodeError)):
            if ending(self.path) in TEXT:
                explain_csv(self.path, self.id_column, self.columns)
            if isinstance(error, po.exceptions.NoDataError):
                raise BadFile(f"{self.path}: the file has no header") from None
            line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise BadFile(f"{self.path}: cannot be read: {short(line)}") from None


def explain_csv(path: str, id_column: str | None, columns: list[str], every: bool = False) -> None:
    """Raise BadFile for the first fault of a text file, if there is one: bytes, length of a row, a number. Slow, for bad files alone."""
    number, key, limit = 0, "", csv.field_size_limit(CELL)
    try:
        with contextlib.closing(_lines(path)) as lines:
            rows = csv.reader(lines, delimiter=TEXT[ending(path)])
            header = next(rows, [])
            if len(set(header)) != len(header):
                twice = next(name for name in header if header.count(name) > 1)
                raise BadFile(f"{path}: column {quoted(twice)} stands {header.count(twice)} times in the header")
            at = header.index(id_column) if id_column in header else None
            for number, row in enumerate(rows, 1):
                key = f" (id {_printable(shown(row[at]))})" if at is not None and at < len(row) else ""
                fault = _fault(row, header, columns)
                if fault:
                    raise BadFile(f"{path}: {fault.format(f'data row {number}{key}')}")
                if every and row and at is not None and not row[at]:
                    raise BadFile(f"{path}: column {quoted(header[at])} is empty in data row {number}, but every row needs an id")
    except UNREADABLE as error:
        after = f" after data row {number}{key}" if number else ""
        raise BadFile(f"{path}: cannot be read{after}: {str(error).splitlines()[0]}") from None
    finally:
        csv.field_size_limit(limit)


def _fault(row: list[str], header: list[str], columns: list[str]) -> str:
    """What is wrong with a row, of which "{}" is the place; nothing is with a blank line."""
    if not row:
        return ""
    if len(row) != len(header):
        kind = "short" if len(row) < len(header) else "long"
        return f"{{}} is too {kind}: {counted(len(row), 'cell')} for {len(header)} columns"
    for name, cell in zip(header, row, strict=True):
        if not cell.isascii() and _printable(cell) != cell:
            return _braced(f"column {quoted(name)} is {quoted(_printable(cell))} in ") + "{}, which is no UTF-8 text"
    for name in columns:
        what = _cell(row[header.index(name)] if name in header else "0")
        if what:
            return _braced(f"column {quoted(name)} is {what} in ") + "{}, but must hold a number"
    return ""


def _braced(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _printable(text: str) -> str:
    """Text in which bytes that are none stand as "\\xff"."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _lines(path: str) -> Generator[str, None, None]:
    """The lines of a text, in which bytes that are no UTF-8 are surrogates."""
    with open(real(path), "rb") as file:
        start = file.read(4)
        if start == b"\x28\xb5\x2f\xfd":  # zstd, which polars unpacks, but Python only from 3.14 on
            raw_lines = {"has_header": False, "separator": "\0", "quote_char": None, "encoding": "utf8-lossy"}
            lines = po.scan_csv(there(path), infer_schema=False, glob=False, **raw_lines)  # type: ignore[arg-type]
            for batch in lines.collect_batches(maintain_order=True):
                yield from (f"{line or ''}\n" for line in batch.to_series())
            return
        file.seek(0)
        raw = io.BufferedReader(_Unpacked(file)) if start[:2] == b"\x1f\x8b" else file
        with io.TextIOWrapper(raw, "utf-8-sig", "surrogateescape", newline="") as text:
            yield from text


class _Unpacked(io.RawIOBase):
    """What gzip packed, as far as it goes: then EOFError if it is cut short. Python's own keeps the last block back."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.unpack, self.rest = zlib.decompressobj(31), b""

    def readable(self) -> bool:
        return True

    def readinto(self, space: Any) -> int:
        while True:
            if self.unpack.eof:
                self.rest = (self.unpack.unused_data or self.file.read(1 << 16)).lstrip(b"\0")  # zeros may stand between its members
                if not self.rest:
                    return 0
                self.unpack = zlib.decompressobj(31)
            data = self.rest or self.file.read(1 << 16)
            text = self.unpack.decompress(data, len(space))
            self.rest = self.unpack.unconsumed_tail
            if text:
                space[: len(text)] = text
                return len(text)
            if not data:
                raise EOFError("it is cut short")


def _cell(cell: str) -> str:
    """What is wrong with a cell that must be a number to polars; Python would also take trailing blanks and underscores."""
    if not cell.strip():
        return "empty"
    if not NUMBER.fullmatch(cell):
        return quoted(cell)
    return "NaN" if np.isnan(float(cell)) else ""
