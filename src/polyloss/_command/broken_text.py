"""What is wrong with a text file that polars refuses or fills up: it is read once more, slowly, and its first fault put into words."""

import contextlib
import csv

import numpy as np

from polyloss._command.problems import BadFile, counted, quoted
from polyloss._command.spelling import NUMBER, shown
from polyloss._command.table_formats import TEXT, ending
from polyloss._command.text_lines import UNREADABLE, lines_of

CELL = 1 << 30  # characters of a cell, at most, where a text is read to tell what is wrong with it


def explain_csv(path: str, id_column: str | None, columns: list[str], every: bool = False) -> None:
    """Raise BadFile for the first fault of a text file, if there is one: bytes, length of a row, a number. Slow, for bad files alone."""
    number, key, limit = 0, "", csv.field_size_limit(CELL)
    try:
        with contextlib.closing(lines_of(path)) as lines:
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


def _cell(cell: str) -> str:
    """What is wrong with a cell that must be a number to polars; Python would also take trailing blanks and underscores."""
    if not cell.strip():
        return "empty"
    if not NUMBER.fullmatch(cell):
        return quoted(cell)
    return "NaN" if np.isnan(float(cell)) else ""
