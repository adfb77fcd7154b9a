"""What the machine's memory allows: `read` and `copy`, compiled from limits.c on first use."""

import ctypes
import os
import platform
import shlex
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import polyloss as pl


@cache
def _library():
    flags = ["-O3", "-march=native", "-fopenmp", "-shared", "-fPIC"]
    if platform.machine() == "x86_64":
        flags.append("-mprefer-vector-width=512")  # gcc splits vectors of 64 bytes in halves where nobody tells it not to
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder, "limits.so")
        subprocess.run([*shlex.split(os.environ.get("CC", "gcc")), *flags, Path(__file__).with_suffix(".c"), "-o", built], check=True)
        library = ctypes.CDLL(built)
    library.limits_read.restype = ctypes.c_uint64
    return library


def _words(x):
    """Address and number of 8-byte words of an array."""
    if not x.flags.c_contiguous or x.nbytes % 8:
        raise ValueError("limits are measured on contiguous arrays of whole 8-byte words")
    return ctypes.c_void_p(x.ctypes.data), ctypes.c_ssize_t(x.nbytes // 8)


def read(*arrays):
    """Read the arrays with all threads; the sum of their 8-byte words, modulo 2^64."""
    return sum(_library().limits_read(*_words(x), pl.get_num_threads()) for x in arrays) % 2**64


def copy(x, out):
    """Copy an array with all threads, writing past the caches."""
    if out.nbytes != x.nbytes:
        raise ValueError("out must be as large as x")
    address, n = _words(x)
    _library().limits_copy(address, _words(out)[0], n, pl.get_num_threads())
