"""A device for machines without one: arrays that have CuPy's attributes and lie between fences, and the shim where CuPy would be."""

import contextlib
import functools
from types import SimpleNamespace

import numpy as np
from cpu_module import RawModule, fenced

from polyloss._kernels import cuda


class Array(np.ndarray):
    """What the kernels' host code asks of a CuPy array: an address and a device."""

    data = property(lambda self: SimpleNamespace(ptr=self.ctypes.data))
    device = property(lambda self: SimpleNamespace(id=0))


def empty(shape, dtype, device=None):
    """Poisoned memory, fenced at its end."""
    return fenced(shape, dtype).view(Array)


def asarray(x):
    """A copy on the device."""
    x = np.asarray(x)
    out = empty(x.shape, x.dtype)
    out[...] = x
    return out


namespace = SimpleNamespace(empty=empty, float32=np.float32, float64=np.float64)


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
