"""The device that the kernels' tests run on: arrays between fences and the shim where CuPy would be; with POLYLOSS_TEST_GPU=1 the first
CUDA device, through CuPy."""

import contextlib
import functools
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
from cpu_module import RawModule, fenced

from polyloss._core import backends as _backends
from polyloss._kernels.gpu import cuda

REAL = os.environ.get("POLYLOSS_TEST_GPU") == "1"
ON_SHIM = pytest.mark.skipif(REAL, reason="this is about the shim: orders of execution, races, planted faults")


if REAL:
    import array_api_compat.cupy as namespace
    import cupy

    Array = cupy.ndarray
    if os.environ.get("POLYLOSS_TEST_ALONE") == "1":  # each array an allocation of its own, at whose end a sanitizer looks
        cupy.cuda.set_allocator(None)
else:
    sys.path.append(str(Path(__file__).parent.parent))
    import libraries

    class Device(NamedTuple):
        id: int

    class Array(libraries.DeviceArray):
        """What the kernels' host code asks of a CuPy array besides: an address, a device, a layout."""

        device = Device(0)
        data = property(lambda self: SimpleNamespace(ptr=self.host.ctypes.data))
        flags = property(lambda self: self.host.flags)
        strides = property(lambda self: self.host.strides)
        itemsize = property(lambda self: self.host.itemsize)

        def copy(self, order):
            return Array(self.host.copy(order))

        def reshape(self, *shape):
            return Array(self.host.reshape(*shape))

        def tobytes(self):
            return self.host.tobytes()

    class Namespace(libraries.DeviceNamespace):
        """NumPy's functions, with results on the device."""

        def empty(self, shape, dtype, device=None):
            return empty(shape, dtype)

        def asarray(self, x, dtype=None, device=None):
            return asarray(np.asarray(x.host if isinstance(x, Array) else x, dtype))

    namespace = Namespace(Array)


def empty(shape, dtype):
    """Poisoned memory; on the stand-in fenced at its end. bfloat16 is there as its bits."""
    dtype = np.dtype("u2") if np.dtype(dtype).name == "bfloat16" and REAL else np.dtype(dtype)
    if not REAL:
        return Array(fenced(shape, dtype))
    out = cupy.empty(shape, dtype)
    out.reshape(-1).view(np.uint8)[...] = 0xFF
    return out


def fill(array, x):
    """Copy values of this machine into an array of the device."""
    x = np.asarray(x)
    if REAL:
        array[...] = cupy.asarray(x.view(array.dtype) if x.dtype.name == "bfloat16" else x)
    else:
        array.host[...] = x


def asarray(x):
    """A copy on the device."""
    x = np.ascontiguousarray(x) if np.ndim(x) else np.asarray(x)
    out = empty(x.shape, x.dtype)
    fill(out, x)
    return out


def host(x, dtype=None):
    """A copy on this machine, in which bits are bfloat16 again."""
    x = cupy.asnumpy(x) if REAL else x.host.copy()
    return x if dtype is None else x.view(dtype)


def as_strided(x, shape, strides):
    """A view of any strides."""
    if REAL:
        return cupy.lib.stride_tricks.as_strided(x, shape, strides)
    return Array(np.lib.stride_tricks.as_strided(x.host, shape, strides))


@contextlib.contextmanager
def backend():
    """Makes the stand-in's arrays known to the library as CuPy's are."""
    if REAL:
        yield
        return
    cupys = next(row for row in _backends.BACKENDS if row.name == "cupy")
    row = replace(cupys, owns=lambda x: isinstance(x, Array), namespace=lambda x: namespace)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_backends, "BACKENDS", (row, *_backends.BACKENDS))
        patch.setattr(_backends, "_owners", {})
        yield


@contextlib.contextmanager
def device(shared=227 << 10, clusters=True, processors=132, module=RawModule, **how):
    """Puts the shim where `cuda` finds CuPy. The defaults are an H100's; `how`: parameters of `cpu_module.RawModule`. Of a real device at
    most as much is used as is named here."""
    if REAL:  # its kernels stay compiled, and may ask for all that the device has
        real = cuda.gpu(0)
        there = real._replace(shared=min(shared, real.shared), clusters=clusters and real.clusters, processors=processors)
        seams = {}
    else:
        there = cuda.Gpu(functools.partial(module, **how), shared, shared, clusters, processors)
        seams = {"current": lambda number, tensors: contextlib.nullcontext(), "capturing": lambda tensors: False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "gpu", lambda number: there)
        for name, seam in seams.items():
            patch.setattr(cuda, name, seam)
        forget()
        try:
            yield
        finally:
            forget()


def forget():
    """Kernels of another device than the one that is stood in for now, and what was found out about it."""
    cuda.why_not.cache_clear()
    if not REAL:
        cuda.kernel.cache_clear()


def change(monkeypatch, folder, file, text, replacement):
    """Have modules made of sources in which a text of one file is another; of copies in the folder."""
    for path in cuda.sources():
        code = path.read_text()
        if path.name == file and path.parent.name == "gpu":
            assert text in code, f"the kernels have changed: {text!r} is gone"
            code = code.replace(text, replacement)
        copy = folder / path.relative_to(cuda.FOLDER)
        copy.parent.mkdir(exist_ok=True)
        copy.write_text(code)
    monkeypatch.setattr(cuda, "FOLDER", folder)


def holds(file, checks):
    """Compile static assertions about a file's structures."""
    with device():
        cuda.gpu(0).module(
            code=f'#include "gpu/{file}"\n{checks}', options=cuda.options(file), name_expressions=("finish<float>",)
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
    from polyloss._adapters import torch_tensors as _tensors
    from polyloss._call import call as _call

    row = next(row for row in _backends.BACKENDS if row.name == "torch")
    there = replace(row.loaded(), as_numpy=lambda x: None, cuda=lambda x: 0, outline=_tensors.addresses)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(_backends._loaded, row, there)
        patch.setattr(_backends, "_owners", {})
        patch.setattr(cuda, "_stream", lambda x: None)
        _call.plan_cache.forget()
        yield torch
        _call.plan_cache.forget()
