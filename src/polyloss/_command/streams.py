"""Standard input and pipes, which can be read once: a temporary file keeps what they hold, named by the format that its beginning tells."""

import contextlib
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterator

from polyloss._command.problems import BadFile

BEGINNINGS = {  # of binary files
    b"PAR1": ".parquet",
    b"ARROW1": ".arrow",
    b"\xff\xff\xff\xff": ".arrow",  # a stream of Arrow
    b"\x93NUMPY": ".npy",
    b"PK\x03\x04": ".npz",
    b"\x89HDF": ".h5",
    b"\x28\xb5\x2f\xfd": ".csv.zst",
}
LINE = 1 << 16  # bytes of a header, at most
_kept: dict[str, str] = {}  # name on the command line -> file that is read
_folders: list[str] = []  # of temporary files


def is_stream(path: str) -> bool:
    """Whether the name is that of standard input, or of something else that is neither a file nor a directory."""
    other = os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path))
    return other or path in ("-", "/dev/stdin") or path.startswith(("/dev/fd/", "/proc/self/fd/"))


@contextlib.contextmanager
def keeping() -> Iterator[None]:
    """What streams hold is kept as long as this block lasts."""
    try:
        yield
    finally:
        while _folders:
            shutil.rmtree(_folders.pop(), ignore_errors=True)
        _kept.clear()


def real(path: str) -> str:
    """The file to read for this name: the name itself, unless it is that of a stream."""
    if path not in _kept:
        _kept[path] = _copied(path) if is_stream(path) else path
    return _kept[path]


def _copied(path: str) -> str:
    if path == "-" and sys.stdin is None:
        raise BadFile("-: standard input is closed")
    try:
        with contextlib.nullcontext(sys.stdin.buffer) if path == "-" else open(path, "rb") as stream:
            start = stream.read(LINE)
            _folders.append(tempfile.mkdtemp(prefix="polyloss-"))
            name = os.path.join(_folders[-1], f"kept{_ending(start)}")
            with open(name, "wb") as file:
                file.write(start)
                shutil.copyfileobj(stream, file, 1 << 20)
    except OSError as error:
        raise BadFile(f"{path}: cannot be read: {error.strerror or error}") from None
    return name


def _ending(start: bytes) -> str:
    """The ending of a file's name that begins so."""
    for beginning, ending in BEGINNINGS.items():
        if start.startswith(beginning):
            return ending
    packed = start.startswith(b"\x1f\x8b")
    if packed:
        with contextlib.suppress(zlib.error):
            start = zlib.decompressobj(31).decompress(start, LINE)
    header = start.partition(b"\n")[0]
    return (".tsv" if header.count(b"\t") > header.count(b",") else ".csv") + (".gz" if packed else "")
