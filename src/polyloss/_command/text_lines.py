"""The lines of a text file as they stand, unpacked where gzip or zstd packed them, as far as they can be read."""

import csv
import io
import zlib
from collections.abc import Generator
from typing import Any, BinaryIO

import polars as po

from polyloss._command.streams import real, there

POLARS = (po.exceptions.PolarsError, po.exceptions.PanicException)  # of which the second is no Exception
UNREADABLE = (*POLARS, EOFError, zlib.error, csv.Error, OSError)  # what reading lines of a broken text raises


def lines_of(path: str) -> Generator[str, None, None]:
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
