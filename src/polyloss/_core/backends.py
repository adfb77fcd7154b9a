"""The array libraries: which there are, what a call must know of each, and to which of them an array belongs.

`BACKENDS` says what a call must know of an array library; a library that is not listed runs all the same, by its array namespace. A
library whose arrays need more (autograd, laziness) names an adapter: the one module that imports it, which fills the row's functions.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from importlib import import_module
from types import SimpleNamespace
from typing import NamedTuple

import array_api_compat
import numpy as np
from array_api_compat import device as device_of

from polyloss._core.dtypes import FLOATS, INTEGERS, dtype_name


class Fact(NamedTuple):
    """What is known of an array apart from its data."""

    backend: object  # a `Backend`; None for what is no array
    dtype: str
    shape: tuple
    device: str = "cpu"
    cuda: int | None = None  # number of the CUDA device it is on
    strides: tuple | None = None  # in bytes; None where its memory is not this machine's
    has_values: bool = True  # whether its values are at hand: not while it is traced
    tracked: bool = False  # whether autograd follows it
    watched: bool = False  # whether a function transform, forward-mode differentiation or a tracer looks at it
    refused: str | None = None  # why it cannot receive a result

    @property
    def here(self):
        """Whether a kernel of the CPU can read it."""
        return self.strides is not None


@dataclass(frozen=True, eq=False)
class Backend:
    """One array library."""

    name: str
    owns: Callable  # array -> is it this library's?
    namespace: Callable = array_api_compat.array_namespace  # array -> its array-API namespace
    adapter: str | None = None  # module of this package with functions for the fields below, by their names; imported with the first array
    call: Callable | None = None  # (plan, arrays, arrays as given) -> results, instead of evaluate(plan, arrays)
    prepared: Callable | None = None  # (plan, arrays as given, arrays) -> its kernel for such calls or None, instead of _call.cpu.prepared
    route: Callable | None = None  # plan -> the route it takes and the obstacles, instead of choose(plan)
    has_values: Callable = lambda x: True  # array -> are its values at hand?
    as_numpy: Callable | None = None  # array -> the same memory as a NumPy array (bfloat16 as its bits), or None
    outline: Callable = lambda x: None  # array on a CUDA device -> `outlined` of its address, or None
    from_numpy: Callable | None = None  # NumPy array, array like the result -> array of this library over the same memory
    place: Callable = device_of  # array -> its device; None if it goes wherever the others are
    refused: Callable = lambda x: None  # array -> why it cannot be taken, or None
    readable: Callable = lambda x: x  # array -> the same, or a copy where kernels could not read it as it lies
    unwritable: Callable = lambda x: None  # array -> why it cannot receive a result, or None
    seen: Callable = lambda x: (False, False)  # array -> whether autograd follows it, whether a transform or tracer looks at it
    current: Callable | None = None  # array -> a context in which its device is current, where the library allocates on no other
    cuda: Callable = lambda x: None  # array -> number of the CUDA device it is on, or None
    takes_numpy: bool = False  # NumPy arrays may stand beside its own
    out: bool = True  # arrays can be written to

    def loaded(self):
        """This row with its adapter's functions: one object for each library, so that plans compare them by identity."""
        if self not in _loaded:
            module = {} if self.adapter is None else vars(import_module(self.adapter))
            row = replace(self, adapter=None, **{f.name: module[f.name] for f in fields(self) if f.name in module})
            _loaded.setdefault(self, row)  # the adapter may have asked for it while it was imported
        return _loaded[self]

    def fact(self, x):
        """What is known of an array apart from its data."""
        tracked, watched = self.seen(x)
        view = None if self.as_numpy is None or watched else self.as_numpy(x)
        strides = None if view is None else view.strides
        device = str(device_of(x)), self.cuda(x)
        kind = dtype_name(x.dtype)
        kind = kind if kind in FLOATS or kind in INTEGERS or kind == "bool" else str(x.dtype)
        return Fact(self, kind, tuple(x.shape), *device, strides, self.has_values(x), tracked, watched)

    def lies(self, x):
        """Where an array lies, as a NumPy array that may be on a device, so that nobody may read it; None if that is not known."""
        view = None if self.as_numpy is None else self.as_numpy(x)
        return self.outline(x) if view is None else view

    @property
    def described(self):
        """Its arrays, for errors: "a torch array"."""
        return f"a {self.name} array"

    def __reduce__(self):
        return _named, (self.name,)

    def __repr__(self):
        return self.name


def outlined(address, shape, strides, itemsize):
    """A NumPy array of a device's addresses: asked what it overlaps, and never read. `strides` in bytes; None where there is no entry."""
    if 0 in shape:
        return None
    described = {"version": 3, "data": (address, False), "shape": tuple(shape), "strides": tuple(strides), "typestr": f"|V{itemsize}"}
    return np.asarray(SimpleNamespace(__array_interface__=described))


def _cupys_device(x):
    from polyloss._kernels.gpu import cuda

    return cuda.current(x.device.id, tensors=False)


def _numpy_memory(x):
    return x.view(np.uint16) if x.dtype.kind == "V" else x  # of NumPy's dtypes of kind V only bfloat16 comes this far


def _numpy_wrap(x, like):
    return x.view(like.dtype) if x.dtype == np.uint16 else x


BACKENDS = (
    Backend("numpy", lambda x: isinstance(x, (np.ndarray, np.generic)), lambda x: np, as_numpy=_numpy_memory, from_numpy=_numpy_wrap),
    Backend("torch", array_api_compat.is_torch_array, adapter="polyloss._adapters.torch"),
    Backend("jax", array_api_compat.is_jax_array, adapter="polyloss._adapters.jax", takes_numpy=True, out=False),
    Backend("dask", array_api_compat.is_dask_array, adapter="polyloss._adapters.dask", has_values=lambda x: False, out=False),
    Backend(
        "cupy",
        array_api_compat.is_cupy_array,
        cuda=lambda x: x.device.id,
        outline=lambda x: outlined(x.data.ptr, x.shape, x.strides, x.itemsize),
        current=_cupys_device,
    ),
)
OLDEST = {"torch": "2.8", "jax": "0.7.2", "dask": "2025.5.1"}  # as pyproject.toml has them, whose word only pip hears
_loaded: dict[Backend, Backend] = {}
_others: dict[str, Backend] = {}  # libraries that are not listed, by name
NUMPY = BACKENDS[0].loaded()

_owners: dict[type, object] = {}  # type -> Backend, or what `backend_of` says of it


def new_enough(module):
    """ImportError if a library is older than the oldest that its adapter knows: names that it asks for would be missing here and there."""
    oldest = OLDEST[module.__name__]
    has, wants = ([int(n) for n in re.findall(r"\d+", version)] for version in (module.__version__, oldest))
    if has < wants:
        raise ImportError(f"polyloss needs {module.__name__} {oldest} or later, but {module.__version__} is installed")


def _named(name):
    """The backend of a name."""
    row = next((row for row in BACKENDS if row.name == name), None)
    return _others.setdefault(name, Backend(name, lambda x: False)) if row is None else row.loaded()


def to_one_library(given):
    """Backend, namespace, and the arguments as arrays of that one library on one device."""
    kinds = {name: backend_of(x, name) for name, x in given.items() if x is not None}
    first = next((n for n, k in kinds.items() if k is not NUMPY and k not in _PLAIN), None)
    if first is None:
        arrays = {name: None if x is None else numpy_array(name, x) for name, x in given.items()}
        return NUMPY, np, arrays
    backend, xp = kinds[first], kinds[first].namespace(given[first])
    device = backend.place(given[first])
    arrays = {}
    for name, x in given.items():
        if x is None:
            arrays[name] = None
            continue
        kind = kinds[name]
        if kind is backend and (why := backend.refused(x)) is not None:
            raise TypeError(f"{name} {why}")
        if kind is backend and backend.namespace(x) is xp:
            if (other := backend.place(x)) != device and None not in (other, device):
                raise ValueError(f"{first} is on device {device}, but {name} is on device {other}: all must be on one device")
            wider = WIDER.get(dtype_name(x.dtype))
            arrays[name] = backend.readable(x) if wider is None else xp.astype(x, getattr(xp, wider))
        elif backend.takes_numpy and (kind is NUMPY or kind in _COLUMNS):
            arrays[name] = xp.asarray(numpy_array(name, x))
        else:
            raise TypeError(
                f"{first} is {what(given[first])}, but {name} is {what(x)}: all arrays of one call must be of one array library"
            )
    return backend, xp, arrays


WIDER = {"int2": "int8", "int4": "int8", "uint2": "uint8", "uint4": "uint8"}  # integers of less than a byte, which hold labels
_COLUMNS = ("pandas", "polars")
_PLAIN = (*_COLUMNS, "plain")  # what becomes a NumPy array


def backend_of(x, name="an argument"):
    """The backend that owns an array; "pandas", "polars" or "plain" for what becomes a NumPy array."""
    kind = _owners.get(type(x))
    if kind is None:
        kind = _owners[type(x)] = _findowner(x)
    if kind is np.ma:
        raise TypeError(f"{name} is a masked array, whose mask would be lost: pass sample_weight instead")
    return kind


def _findowner(x):
    top = type(x).__module__.partition(".")[0]
    if isinstance(x, np.ma.MaskedArray):
        return np.ma
    for backend in BACKENDS:
        if backend.owns(x):
            return backend.loaded()
    if top in _COLUMNS:
        return top
    if hasattr(x, "__array_namespace__"):
        return _named(top)
    return "plain"


def what(x):
    """What an argument is, for errors: "a torch array", "a list"."""
    kind = backend_of(x)
    if kind not in _PLAIN:
        return kind.described
    name = f"{type(x).__module__.partition('.')[0]}.{type(x).__name__}".removeprefix("builtins.")
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def convertible(x):
    """Whether an object makes a NumPy array of itself: data sets of h5py and zarr, xarray's arrays, whatever has a DLPack capsule."""
    return hasattr(x, "__array__") or hasattr(x, "__dlpack__")


def numpy_array(name, x):
    if type(x) is np.ndarray and x.dtype.isnative and x.flags.aligned and x.dtype.kind != "V":
        return x
    kind = backend_of(x)
    if kind == "plain" and not (isinstance(x, (list, tuple, int, float, bool, range)) or convertible(x)):
        raise TypeError(f"{name} is {what(x)}, but must be an array, a list or a number")
    try:
        x = np.asarray(x) if hasattr(x, "__array__") or not hasattr(x, "__dlpack__") else np.from_dlpack(x)
    except ValueError as error:
        raise ValueError(f"{name} cannot be read as an array: {error}") from None
    if x.dtype.hasobject:
        raise TypeError(f"{name} has dtype {x.dtype}, but must hold real numbers")
    if x.dtype.name in WIDER:
        return x.astype(WIDER[x.dtype.name])
    return x if x.dtype.isnative and x.flags.aligned else x.astype(x.dtype.newbyteorder("="))
