"""Which format a table has, told from the name of its file, or from the first line of a text that came without a name."""

import contextlib
from functools import cache
from pathlib import Path

from polyloss._command.streams import OTHER, real
from polyloss._command.text_lines import UNREADABLE, lines_of

TEXT = {".csv": ",", ".tsv": "\t"}
BINARY = (".parquet", ".pq", ".arrow", ".feather", ".ipc")
PACKED = (".gz", ".zst")


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
    with contextlib.suppress(*UNREADABLE), contextlib.closing(lines_of(file)) as lines:  # what is wrong is said where it is read
        header = next((line for line in lines if line.strip("\r\n")), "")
    return ".tsv" if header.count("\t") > header.count(",") else ".csv"


def is_table(path: str) -> bool:
    """Whether the name is that of a table."""
    return ending(path) in (*TEXT, *BINARY)
