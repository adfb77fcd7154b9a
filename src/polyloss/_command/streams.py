"""Standard input and pipes, which can be read once: a temporary file keeps what they hold, named by the format that its beginning tells."""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator

from polyloss._command.problems import BadFile

BEGINNINGS = {  # of binary files, and of text that is packed
    b"PAR1": ".parquet",
    b"ARROW1": ".arrow",
    b"\xff\xff\xff\xff": ".arrow",  # a stream of Arrow
    b"\x93NUMPY": ".npy",
    b"PK\x03\x04": ".npz",
    b"\x89HDF": ".h5",
    b"\x1f\x8b": ".text.gz",
    b"\x28\xb5\x2f\xfd": ".text.zst",
}
OTHER = ".text"  # of which the first line tells whether it is CSV or TSV, to those who read it
INPUT = ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")  # names of one stream
BLOCK = 1 << 20  # bytes
_kept: dict[object, "str | BadFile"] = {}  # name on the command line, or `_stream` -> file that is read, or why there is none
_folders: list[str] = []  # of temporary files


def is_stream(path: str) -> bool:
    """Whether the name is that of standard input, or of something else that is neither a file nor a directory."""
    other = os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path))
    return other or path in INPUT or path.startswith(("/dev/fd/", "/proc/self/fd/"))


@contextlib.contextmanager
def keeping() -> Iterator[None]:
    """Temporary files with what streams hold exist as long as this block lasts."""
    try:
        yield
    finally:
        while _folders:
            shutil.rmtree(_folders.pop(), ignore_errors=True)
        _kept.clear()


def real(path: str) -> str:
    """The file to read for this name: the name itself, unless it is that of a stream, which is read once, whether that succeeds or not."""
    if path not in _kept:
        stream = _stream(path) if is_stream(path) else None
        if stream is not None and stream not in _kept:
            try:
                _kept[stream] = _copied(path)
            except BadFile as error:
                _kept[stream] = error
        _kept[path] = path if stream is None else _kept[stream]
    found = _kept[path]
    if isinstance(found, BadFile):
        raise BadFile(found.message) from None
    return found


def there(path: str) -> str:
    """The file to read, by a name in which polars finds neither a home directory nor an address: "~/a.csv" may be a file of this folder."""
    return os.path.abspath(real(path))


def _stream(path: str) -> object:
    """What a stream is, by whatever name: standard input, or a device and the number of a pipe on it."""
    if path in INPUT:
        return INPUT[0]
    try:
        status = os.stat(path)
    except OSError:
        return path
    return (status.st_dev, status.st_ino) if status.st_ino else path


def _copied(path: str) -> str:
    blocks = _blocks(path)
    start = next(blocks, b"")
    folder = ""
    try:
        folder = tempfile.mkdtemp(prefix="polyloss-")
        _folders.append(folder)
        name = os.path.join(folder, f"kept{_ending(start)}")
        with open(name, "wb") as file:
            file.write(start)
            file.writelines(blocks)
    except OSError as error:
        where = f" in {os.path.dirname(folder)}" if folder else ""
        raise BadFile(f"{path}: cannot be kept{where}: {error.strerror or error}") from None
    return name


def _blocks(path: str) -> Iterator[bytes]:
    """What a stream holds. Errors of reading it are BadFile, so that those of writing are told from them."""
    if path in INPUT and sys.stdin is None:
        raise BadFile(f"{path}: standard input is closed")
    try:
        with contextlib.nullcontext(sys.stdin.buffer) if path in INPUT else open(path, "rb") as stream:
            while block := stream.read(BLOCK):
                yield block
    except OSError as error:
        raise BadFile(f"{path}: cannot be read: {error.strerror or error}") from None


def _ending(start: bytes) -> str:
    """The ending for the name of a file that begins with these bytes."""
    return next((ending for beginning, ending in BEGINNINGS.items() if start.startswith(beginning)), OTHER)
