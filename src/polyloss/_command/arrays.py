"""Arrays: NPY and NPZ files, Zarr and HDF5, aligned by row and read by slabs; nothing is unpickled."""

import contextlib
import math
import tokenize
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from polyloss._command.names import split
from polyloss._command.problems import BadFile, usage
from polyloss._command.streams import real

ENDINGS = (".npy", ".npz", ".zarr", ".h5", ".hdf5")
OWN = (AttributeError, NameError, TypeError, AssertionError)  # what a fault of this program raises in its own lines
SLAB = 1 << 25  # bytes of predictions that are taken at once


def is_array(path: str) -> bool:
    """Whether the name is that of a file of arrays."""
    return _suffix(split(path)[0]) in ENDINGS


def _suffix(file: str) -> str:
    return Path(real(file).lower()).suffix


def opened(path: str) -> Any:
    """The array: it has shape and dtype, and slices of it are read."""
    file, name = split(path)
    suffix, where = _suffix(file), Path(real(file))
    if not where.exists():
        raise BadFile(f"{path}: no such file")
    if where.is_dir() != (suffix == ".zarr"):
        raise BadFile(f"{path}: is {'a directory, but must be a file' if where.is_dir() else 'a file, but Zarr is a directory'}")
    with _reading(path):
        array = _OPEN[suffix](file, name)
    if not array.shape:
        raise BadFile(f"{path}: holds a single number, but must have an axis of samples")
    return array


def read(path: str, start: int, stop: int) -> np.ndarray:
    """Some of its rows."""
    array = opened(path)
    with _reading(path):
        return np.asarray(array[start:stop])


@contextlib.contextmanager
def _reading(path: str) -> Iterator[None]:
    """Errors of the readers in this block become one line about the file; of broken files they raise whatever there is."""
    try:
        yield
    except BadFile:
        raise
    except ModuleNotFoundError as error:
        raise usage(f"{path}: reading it needs {error.name}: pip install {error.name}") from None
    except Exception as error:
        *_, (last, _) = traceback.walk_tb(error.__traceback__)
        if isinstance(error, OWN) and last.f_globals["__name__"] == __name__:
            raise
        raise BadFile(f"{path}: cannot be read: {_said(error)}") from None


def _said(error: Exception) -> str:
    if isinstance(error, (tokenize.TokenError, SyntaxError)):
        return "its header is broken"
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if "mmap length" in text or "Failed to read all data" in text or "cannot reshape" in text:
        return "it is cut short"
    if "allow_pickle" in text or "Python objects" in text:
        return "it holds pickled objects, which are never loaded: it must be an array of numbers"
    return text


def _npy(file: str, name: str) -> Any:
    if name:
        raise BadFile(f"{file}::{name}: an NPY file holds one array, which has no name")
    with open(real(file), "rb") as raw:
        start = raw.read(6)
    if start != b"\x93NUMPY":  # which NumPy takes for a pickle, whatever it is
        raise BadFile(f"{file}: {_unlike_npy(start)}")
    return np.load(real(file), mmap_mode="r", allow_pickle=False)


def _unlike_npy(start: bytes) -> str:
    """What is said of a file that begins otherwise than NPY does."""
    if not start:
        return "the file is empty"
    kinds = {b"\x80": "a pickle, which is never loaded", b"PK\x03\x04": "an archive: name it .npz, and the array in it by ::NAME"}
    found = next((what for magic, what in kinds.items() if start.startswith(magic)), "no NPY file")
    return f"is {found}; np.save writes NPY"


def _npz(file: str, name: str) -> Any:
    with open(real(file), "rb") as raw:
        start = raw.read(4)
    if not start.startswith(b"PK"):
        raise BadFile(f"{file}: {'is no NPZ file; np.savez writes NPZ' if start else 'the file is empty'}")
    with open(real(file), "rb") as raw, np.load(raw, allow_pickle=False) as members:
        return members[_member(file, name, list(members))]


def _zarr(file: str, name: str) -> Any:
    import zarr

    try:
        found = zarr.open(Path(file), mode="r")  # of a text zarr may think that it is an address
    except FileNotFoundError:
        raise BadFile(f"{file}: holds neither an array nor a group of Zarr") from None
    if hasattr(found, "shape"):
        if name:
            raise BadFile(f"{file}::{name}: {file} is an array itself, not a group")
        return found
    return found[_member(file, name, sorted(key for key, item in found.members(max_depth=None) if hasattr(item, "shape")))]


def _hdf5(file: str, name: str) -> Any:
    import h5py

    found = h5py.File(real(file), "r")
    names: list[str] = []
    found.visititems(lambda key, item: names.append(key) if hasattr(item, "shape") else None)
    return found[_member(file, name, names)]


_OPEN = {".npy": _npy, ".npz": _npz, ".zarr": _zarr, ".h5": _hdf5, ".hdf5": _hdf5}


def _member(file: str, name: str, names: list[str]) -> str:
    if not name and len(names) == 1:
        return names[0]
    if name not in names:
        what = f"has no array {name!r}" if name else f"holds {len(names)} arrays: name one, as {file}::NAME"
        raise BadFile(f"{file}: {what}; it has {', '.join(map(repr, names[:8])) or 'none'}")
    return name


def unwritten(array: Any) -> str | None:
    """The warning for chunks that a Zarr or HDF5 file lacks: they are read as its fill value, though they may never have been written."""
    if hasattr(array, "nchunks_initialized"):  # Zarr, which by default leaves out chunks that hold the fill value alone
        every, lacking, fill = array.nchunks, array.nchunks - array.nchunks_initialized, array.fill_value
        why = "never written, or left out since they hold nothing else"
        return f"chunks that are not there are read as {fill}: {lacking} of {every}, {why}" if lacking else None
    if hasattr(array, "is_virtual") and not array.is_virtual:
        every = math.prod(math.ceil(size / chunk) for size, chunk in zip(array.shape, array.chunks, strict=True)) if array.chunks else 1
        there, fill = array.id.get_num_chunks() if array.chunks else int(array.id.get_storage_size() > 0), array.fillvalue
    else:
        return None
    return f"chunks that were never written are read as {fill}: {every - there} of {every}" if there < every else None


def slabs(array: Any) -> list[tuple[int, int]]:
    """Ranges of rows of about `SLAB` bytes; whole chunks, where the file has chunks."""
    rows = array.shape[0]
    row = int(np.prod(array.shape[1:], dtype=np.int64)) * np.dtype(array.dtype).itemsize
    step = max(1, SLAB // max(row, 1))
    chunk = getattr(array, "chunks", None)
    if chunk:
        step = max(chunk[0], step // chunk[0] * chunk[0])
    return [(start, min(start + step, rows)) for start in range(0, rows, step)]
