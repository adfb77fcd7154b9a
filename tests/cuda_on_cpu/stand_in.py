"""The device that the kernels' tests run on: arrays between fences and the shim where CuPy would be; with POLYLOSS_TEST_GPU=1 the first
CUDA device, through CuPy."""

import contextlib
import functools
import os
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
from cpu_module import RawModule, fenced

from polyloss import _backends
from polyloss._kernels import cuda

REAL = os.environ.get("POLYLOSS_TEST_GPU") == "1"
ON_SHIM = pytest.mark.skipif(REAL, reason="this is about the shim: orders of execution, races, planted faults")


class _Device(NamedTuple):
    id: int


class _Array(np.ndarray):
    """What the kernels' host code asks of a CuPy array: an address and a device."""

    data = property(lambda self: SimpleNamespace(ptr=self.ctypes.data))
    device = property(lambda self: _Device(0))


class _Namespace:
    """NumPy's functions, with results on the device."""

    __name__ = "stand_in"

    def __getattr__(self, name):
        thing = getattr(np, name)
        if not callable(thing) or isinstance(thing, type):
            return thing

        def function(*arguments, device=None, **named):
            result = thing(*arguments, **named)
            return asarray(result) if isinstance(result, (np.ndarray, np.generic)) and not isinstance(result, Array) else result

        return function

    def empty(self, shape, dtype, device=None):
        return empty(shape, dtype)

    def asarray(self, x, dtype=None, device=None):
        return asarray(np.asarray(x, dtype))


if REAL:
    import array_api_compat.cupy as namespace
    import cupy

    Array = cupy.ndarray
    if os.environ.get("POLYLOSS_TEST_ALONE") == "1":  # each array an allocation of its own, at whose end a sanitizer looks
        cupy.cuda.set_allocator(None)
else:
    namespace, Array = _Namespace(), _Array


def empty(shape, dtype):
    """Poisoned memory; on the stand-in fenced at its end. bfloat16 is there as its bits."""
    dtype = np.dtype("u2") if np.dtype(dtype).name == "bfloat16" and REAL else np.dtype(dtype)
    if not REAL:
        return fenced(shape, dtype).view(Array)
    out = cupy.empty(shape, dtype)
    out.reshape(-1).view(np.uint8)[...] = 0xFF
    return out


def fill(array, x):
    """Copy values of this machine into an array of the device."""
    x = np.asarray(x)
    x = x.view(array.dtype) if x.dtype.name == "bfloat16" else x
    array[...] = cupy.asarray(x) if REAL else x  # CuPy refuses to fill an array from one of this machine


def asarray(x):
    """A copy on the device."""
    x = np.ascontiguousarray(x) if np.ndim(x) else np.asarray(x)
    out = empty(x.shape, x.dtype)
    fill(out, x)
    return out


def host(x, dtype=None):
    """A copy on this machine, in which bits are bfloat16 again."""
    x = cupy.asnumpy(x) if REAL else np.array(x)
    return x if dtype is None else x.view(dtype)


def as_strided(x, shape, strides):
    """A view of any strides."""
    if REAL:
        return cupy.lib.stride_tricks.as_strided(x, shape, strides)
    return np.lib.stride_tricks.as_strided(x, shape, strides, subok=True)


@contextlib.contextmanager
def backend():
    """Makes the stand-in's arrays known to the library as CuPy's are."""
    if REAL:
        yield
        return
    row = _backends.Backend("cupy", lambda x: isinstance(x, Array), lambda x: namespace)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_backends, "BACKENDS", (row, *_backends.BACKENDS))
        patch.setattr(_backends, "_owners", {})
        yield


@contextlib.contextmanager
def device(shared=227 << 10, clusters=True, processors=132, module=RawModule, **how):
    """Puts the shim where `cuda` finds CuPy. The defaults are an H100's; `how`: parameters of `cpu_module.RawModule`. Of a real device at
    most as much is used as is named here."""
    before = cuda.gpu
    if REAL:  # its kernels stay compiled
        real = before(0)
        there = real._replace(shared=min(shared, real.shared), clusters=clusters and real.clusters, processors=processors)
    else:
        there = cuda.Gpu(functools.partial(module, **how), contextlib.nullcontext, shared, clusters, processors)
    cuda.gpu = lambda number: there
    forget = (lambda: None) if REAL else cuda.kernel.cache_clear
    forget()
    try:
        yield
    finally:
        cuda.gpu = before
        forget()


def holds(file, checks):
    """Compile static assertions about a file's structures."""
    with device():
        cuda.gpu(0).module(
            code=f'#include "{file}"\n{checks}', options=cuda.options(file, "float32"), name_expressions=("finish<float>",)
        ).get_function("finish<float>")


@contextlib.contextmanager
def torch_as_on_gpu():
    """Tensors of this machine taken for tensors of a GPU: their addresses reach the kernels, and nothing else of them does."""
    import torch

    if REAL:
        torch.set_default_device("cuda")
        try:
            yield torch
        finally:
            torch.set_default_device(None)
        return
    from polyloss import _gpu, _routes, _torch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_torch, "SMALL", -1)  # the short way of small tensors of this machine
        patch.setattr(_torch, "_in_one_pass", lambda job: False)  # and the way of its large ones
        patch.setattr(_gpu, "_on_gpu", lambda job: job.backend.name == "torch")
        patch.setattr(cuda, "_stream", lambda x: None)
        patch.setattr(_routes, "ROUTES", [route for route in _routes.ROUTES if "CUDA" in route.name or route.name == "formula"])
        yield torch
