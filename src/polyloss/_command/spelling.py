"""How ids, labels, truth values and numbers are written in tables and in errors: they compare as written, "007" is not 7."""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import polars as po

from polyloss._command.problems import quoted, short

SECOND = {"0": "1", "False": "True", "false": "true", "FALSE": "TRUE"}  # a truth value 0 -> its 1, as pandas, polars and R write them
TRUTH_VALUES = {word: value for pair in SECOND.items() for value, word in enumerate(pair)}
NUMBER = re.compile(r"[ \t]*[+-]?(\d+\.?\d*(e[+-]?\d+)?|\.\d+(e[+-]?\d+)?|inf|infinity|nan)", re.ASCII | re.IGNORECASE)


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


def spelled(name: str, names: list[str]) -> str:
    """A hint where a name differs from the one looked for in case or blanks alone, or is the same number in other digits."""
    alike = [other for other in names if other.strip().lower() == name.strip().lower() or _same_number(other, name)]
    return f"; rename {quoted(alike[0])}, since names compare as written" if alike else ""


def _same_number(a: str, b: str) -> bool:
    return bool(NUMBER.fullmatch(a) and NUMBER.fullmatch(b)) and float(a) == float(b)
