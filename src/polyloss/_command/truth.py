"""The truth, read whole in the few columns that matter: its ids, and the labels, weights and groups of its rows."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as po

from polyloss._command.broken_text import explain_csv
from polyloss._command.problems import BadFile, quoted, unlike, usage
from polyloss._command.spelling import TRUTH_VALUES, as_written, in_order, places_in, shown, whole
from polyloss._command.table_formats import TEXT, ending
from polyloss._command.table_reading import GAP, KEY, ROWS, UNNAMED, columns_of, has_gap, reading, scan
from polyloss._evaluation.measure import WEIGHTS

SAMPLE = 1 << 14  # rows that tell whether a column has few kinds of text
FAR = 8  # places of the table for each id, at most: 32 bytes


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


def _whole(path: str, names: list[str], id_column: str, every_cell: bool) -> tuple[po.Series, po.DataFrame]:
    """The truth's ids and these columns. Those of a text stay text, but ids become integers where all are written so."""
    if ending(path) not in TEXT:
        with reading(path, None, []):
            data = scan(path, {}).select(names).collect()
        return data[id_column], data
    # In pieces, since strings take far more memory than integers and categories.
    blank = po.all_horizontal(po.col(names).is_null())
    ids, pieces, gaps = [], [], False
    others = [name for name in names if name != id_column]
    with reading(path, id_column, []):
        frame = scan(path, {})
        gap = has_gap(path, frame, names) if every_cell else po.lit(False).alias(GAP)
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
