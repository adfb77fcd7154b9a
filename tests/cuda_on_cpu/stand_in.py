"""A device for machines without one: arrays that have CuPy's attributes and lie between fences, and the shim where CuPy would be."""

import contextlib
import functools
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
from cpu_module import RawModule, fenced

from polyloss._kernels import cuda


class _Device(NamedTuple):
    id: int


class Array(np.ndarray):
    """What the kernels' host code asks of a CuPy array: an address and a device."""

    data = property(lambda self: SimpleNamespace(ptr=self.ctypes.data))
    device = property(lambda self: _Device(0))


def empty(shape, dtype, device=None):
    """Poisoned memory, fenced at its end."""
    return fenced(shape, dtype).view(Array)


def asarray(x, dtype=None, device=None):
    """A copy on the device."""
    x = np.asarray(x, dtype)
    out = empty(x.shape, x.dtype)
    out[...] = x
    return out


class _Namespace:
    """NumPy's functions, with results on the device."""

    __name__ = "stand_in"
    empty = staticmethod(empty)
    asarray = staticmethod(asarray)

    def __getattr__(self, name):
        thing = getattr(np, name)
        if not callable(thing) or isinstance(thing, type):
            return thing

        def function(*arguments, device=None, **named):
            result = thing(*arguments, **named)
            return asarray(result) if isinstance(result, (np.ndarray, np.generic)) and not isinstance(result, Array) else result

        return function


namespace = _Namespace()


@contextlib.contextmanager
def device(shared=227 << 10, clusters=True, **how):
    """Puts the shim where `cuda` finds CuPy. The defaults are an H100's; `how`: parameters of `cpu_module.RawModule`."""
    there = cuda.Gpu(functools.partial(RawModule, **how), contextlib.nullcontext(), shared, clusters)
    before, cuda.gpu = cuda.gpu, lambda number: there
    cuda.kernel.cache_clear()
    try:
        yield
    finally:
        cuda.gpu = before
        cuda.kernel.cache_clear()
