"""Files of predictions: which columns hold predictions, and their rows with the ids by which these are joined, the first read ahead."""

import contextlib
from typing import Any

import polars as po

from polyloss._command.problems import BadFile, listed, quoted, unlike, usage
from polyloss._command.spelling import spelled, whole
from polyloss._command.table_reading import KEY, ROW, ROWS, UNNAMED, columns_of, has_gap, indices_of, scan
from polyloss._command.text_lines import POLARS
from polyloss._command.truth import Header


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


def _index(path: str, name: str, names: list[str]) -> str:
    """A hint about an index of pandas, which may have no name, or whose values Parquet may lack."""
    if name in ("", UNNAMED):
        return "; this name is that of an index without one, which pandas wrote: --id COLUMN says which column of the truth has the ids"
    for other in ("", UNNAMED):
        if other in names:
            return f"; {other!r} is an index without a name, which pandas wrote: df.rename_axis({name!r}) names it"
    if any(isinstance(index, dict) and index.get("name") == name for index in indices_of(path)):
        return f"; for pandas {name!r} is an index of which it writes no values: df.reset_index() makes it a column"
    return ""


def rows_of(path: str, id_column: str, columns: list[str], integers: bool) -> po.LazyFrame:
    """The ids of a file as it has them and as `KEY`, by which they are found, its predictions, and the number of the row."""
    read = [id_column, *columns]
    frame = scan(path, {id_column: po.String} | dict.fromkeys(columns, po.Float64))
    frame = frame.select(*read, has_gap(path, frame, read))
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
