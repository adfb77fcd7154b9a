"""Tables read by polars when they are needed: names of their columns, their rows, and errors of the reader as one line about the file."""

import contextlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import polars as po

from polyloss import registry
from polyloss._command.broken_text import explain_csv
from polyloss._command.problems import BadFile, quoted, short
from polyloss._command.streams import real, there
from polyloss._command.table_formats import BINARY, TEXT, ending
from polyloss._command.text_lines import POLARS

ROWS = 1 << 16  # of one batch: 5 MB for 10 columns
KEY, AT, ROW, GAP = "\0id", "\0at", "\0row", "\0gap"  # columns that reading and joining add, by names that no file has
UNNAMED = "__index_level_0__"  # what pandas calls an index without a name in Parquet; in text its name is empty


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
    with reading(path, None, []):
        names = scan(path, {}).collect_schema().names()
    if len(names) == 1 and ending(path) in TEXT and any(mark in names[0] for mark in ",;|\t"):
        raise BadFile(f"{path}: the header is one cell, {quoted(names[0])}: cells are parted by commas in .csv, by tabs in .tsv")
    if not names:
        raise BadFile(f"{path}: the file has no header")
    indices = [name for name in indices_of(path) if name in names and name != UNNAMED]  # they are last in Parquet, and first in text
    names = [*indices, *(name for name in names if name not in indices)] if indices else names
    if ending(path) in TEXT and any("_duplicated_" in name for name in names):  # what polars makes of a name that stands again
        explain_csv(path, None, [])
    return names


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


def has_gap(path: str, frame: po.LazyFrame, read: list[str]) -> po.Expr:
    """Whether one of a text's other columns is empty: polars fills short rows, and refuses long ones only where it reads all columns."""
    others = [name for name in frame.collect_schema().names() if name not in read] if ending(path) in TEXT else []
    return (po.any_horizontal(po.col(others).is_null()) if others else po.lit(False)).alias(GAP)


def indices_of(path: str) -> list[Any]:
    """The indices of pandas by a Parquet file's metadata: names of columns, or descriptions of ranges, whose values are not in the file."""
    if ending(path) in (".parquet", ".pq"):
        with contextlib.suppress(KeyError, ValueError, TypeError, *POLARS):
            return list(json.loads(po.read_parquet_metadata(there(path))["pandas"])["index_columns"])
    return []


class reading:
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
