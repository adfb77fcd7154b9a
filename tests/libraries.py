"""The array libraries, devices and layouts that the laws loop over.

Each library is a `Library`: it makes its arrays of NumPy ones and gives them back. CuPy has two entries: the real one where a CUDA device
is found, and everywhere a stand-in that is as strict as CuPy about arrays of other libraries.
"""

import importlib
import os

import numpy as np

from polyloss._call import call as _call, cpu as _cpu, routes as _routes
from polyloss._kernels.cpu import driver


class Library:
    """NumPy; the others change what they do differently."""

    name = "numpy"
    low = ("float16", "bfloat16")  # low-precision dtypes that it has
    writable = True  # its arrays can be written to
    unsigned = ("uint8", "uint16", "uint32", "uint64")
    kernels = True  # plain calls take kernels, so that the formula is another way
    scales = {"float64": (1021, -1070), "float32": (126, -146)}  # powers of two that a mean's weights may be near
    lazy = False  # values and errors come only when computed
    quick = True  # goes through all cases: not JAX, which compiles each operation for each shape, nor Dask, which builds a graph a call

    def array(self, x, dtype=None):
        """This library's array with the values of a NumPy array, on its device; None stays None."""
        return None if x is None else self.make(np.asarray(x) if dtype is None else np.asarray(x).astype(np_dtype(dtype)))

    def make(self, x):
        return np.array(x)

    def numpy(self, x):
        """NumPy array of the values."""
        return np.asarray(x)

    def dtype(self, x):
        """Its dtype's name."""
        return str(x.dtype).rpartition(".")[2]

    def is_array(self, x):
        """Whether `x` is an array of this library on this device."""
        return isinstance(x, (np.ndarray, np.generic))

    def __repr__(self):
        return self.name


class Torch(Library):
    name = "torch"

    def __init__(self, device="cpu"):
        self.torch = importlib.import_module("torch")
        self.device = device
        self.name = "torch" if device == "cpu" else f"torch-gpu({device})"

    def make(self, x):
        if x.dtype.name == "bfloat16":
            return self.torch.from_numpy(np.array(x).view(np.uint16)).view(self.torch.bfloat16).to(self.device)
        return self.torch.asarray(np.array(x), device=self.device)

    def numpy(self, x):
        x = x.detach().cpu()
        return x.view(self.torch.uint16).numpy().view(np_dtype("bfloat16")) if x.dtype is self.torch.bfloat16 else x.numpy()

    def is_array(self, x):
        return isinstance(x, self.torch.Tensor) and x.device.type == self.torch.device(self.device).type


class Jax(Library):
    name = "jax"
    writable = False
    quick = False

    def __init__(self):
        self.jax = importlib.import_module("jax")

    def make(self, x):
        return self.jax.numpy.asarray(x)

    def is_array(self, x):
        return isinstance(x, self.jax.Array)


class Dask(Library):
    name = "dask"
    kernels = False
    writable = False
    lazy = True
    quick = False
    low = ("float16",)

    def __init__(self):
        self.da = importlib.import_module("dask.array")

    def make(self, x):
        return self.da.from_array(x, chunks=tuple(max(1, n // 2) for n in x.shape))

    def numpy(self, x):
        return np.asarray(x.compute(scheduler="synchronous"))

    def is_array(self, x):
        return isinstance(x, self.da.Array)


class Strict(Library):
    """array-api-strict, which has nothing but the standard; its second device finds results made on the first."""

    low = ()
    kernels = False

    def __init__(self, device):
        self.xp = importlib.import_module("array_api_strict")
        self.device = self.xp.Device(device)
        self.name = f"strict({device})"
        self.quick = device != "CPU_DEVICE"  # what goes wrong on the first device goes wrong on the second

    def make(self, x):
        return self.xp.asarray(x, device=self.device)

    def numpy(self, x):
        return np.asarray(
            self.xp.to_device(x, self.xp.Device("CPU_DEVICE"))
            if hasattr(self.xp, "to_device")
            else x.to_device(self.xp.Device("CPU_DEVICE"))
        )

    def is_array(self, x):
        return isinstance(x, self.xp.asarray(0).__class__) and x.device == self.device


class Cupy(Library):
    """CuPy on a real device."""

    name = "cupy-gpu"
    low = ("float16",)

    def __init__(self):
        self.cupy = importlib.import_module("cupy")

    def make(self, x):
        return self.cupy.asarray(x)

    def numpy(self, x):
        return self.cupy.asnumpy(x)

    def is_array(self, x):
        return isinstance(x, self.cupy.ndarray)


class StandIn(Library):
    """Arrays as strict as CuPy's: they have a device, and neither become NumPy arrays by themselves nor take them."""

    name = "stand-in"
    low = ("float16",)
    kernels = False

    def make(self, x):
        return DeviceArray(np.array(x))

    def numpy(self, x):
        return x.host

    def is_array(self, x):
        return isinstance(x, DeviceArray)


class DeviceArray:
    """A NumPy array behind the manners of a CuPy one."""

    device = "stand-in:0"

    def __init__(self, host):
        self.host = np.asarray(host)

    shape = property(lambda self: self.host.shape)
    dtype = property(lambda self: self.host.dtype)
    ndim = property(lambda self: self.host.ndim)
    size = property(lambda self: self.host.size)
    T = property(lambda self: type(self)(self.host.T))

    def __array__(self, *args, **kwargs):
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    def __array_namespace__(self, api_version=None):
        return DEVICE_NAMESPACE

    def __getitem__(self, index):
        return type(self)(self.host[_host(index)])

    def __setitem__(self, index, value):
        self.host[_host(index)] = _host(value)

    def __bool__(self):
        return bool(self.host)

    def __int__(self):
        return int(self.host)

    def __float__(self):
        return float(self.host)

    def __index__(self):
        return self.host.__index__()

    def __repr__(self):
        return f"{type(self).__name__}({self.host!r})"


def _host(x):
    """The NumPy value behind an argument; NumPy arrays themselves are refused."""
    if isinstance(x, DeviceArray):
        return x.host
    if isinstance(x, (tuple, list)):
        return type(x)(_host(y) for y in x)
    if isinstance(x, (np.ndarray, np.generic)):
        raise TypeError(f"Unsupported type {type(x)}")
    return x


def _on_device(function, kind=None):
    def called(*args, **kwargs):
        made = kind or type(args[0])
        assert kwargs.pop("device", made.device) == made.device
        with np.errstate(all="ignore"):  # CuPy warns of nothing
            return _device(made, function(*map(_host, args), **{name: _host(x) for name, x in kwargs.items()}))

    return called


def _device(kind, x):
    if isinstance(x, tuple):
        return tuple(_device(kind, y) for y in x)
    return kind(x) if isinstance(x, (np.ndarray, np.generic)) else x


class DeviceNamespace:
    """NumPy's functions on such arrays, of one kind."""

    __name__ = "stand_in"

    def __init__(self, kind):
        self.kind = kind

    def __getattr__(self, name):
        found = getattr(np, name)
        return found if isinstance(found, type) or not callable(found) else _on_device(found, self.kind)


DEVICE_NAMESPACE = DeviceNamespace(DeviceArray)
for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "radd", "rsub", "rmul", "rtruediv", "rpow", "eq", "ne", "lt", "le",
              "gt", "ge", "and", "or", "xor", "invert", "neg", "abs", "iadd", "isub", "imul", "itruediv"):  # fmt: skip
    setattr(DeviceArray, f"__{_name}__", _on_device(getattr(np.ndarray, f"__{_name}__")))
DeviceArray.__hash__ = None


def np_dtype(name):
    """NumPy's dtype of a name, bfloat16 included."""
    return np.dtype(importlib.import_module("ml_dtypes").bfloat16 if name == "bfloat16" else name)


def found_gpus():
    """Libraries on the CUDA devices of this machine."""
    torch = importlib.import_module("torch")
    return [Cupy(), Torch("cuda")] if torch.cuda.is_available() and importlib.import_module("cupy").cuda.is_available() else []


GPUS = found_gpus()
LIBRARIES = [Library(), Torch(), Jax(), Dask(), Strict("CPU_DEVICE"), Strict("device1"), StandIn(), *GPUS]
NUMPY, TORCH, JAX = LIBRARIES[:3]

# ----------------------------------------------------------------------------------------------------------------- layouts


def strided(x):
    """Every second entry of every axis."""
    wide = np.full([2 * n for n in x.shape], 99, x.dtype)
    view = wide[(..., *(slice(None, None, 2) for _ in x.shape))]
    view[...] = x
    return view


def reversed_(x):
    """Negative strides on every axis."""
    flip = tuple(slice(None, None, -1) for _ in x.shape)
    return np.array(x[flip], order="C")[flip]


def fortran(x):
    """Column-major."""
    return np.asfortranarray(x)


def transposed(x):
    """First and last axis swapped in memory."""
    return np.ascontiguousarray(np.swapaxes(x, 0, -1)).swapaxes(0, -1) if x.ndim else x


def misaligned(x):
    """Entries that start at odd addresses, as in a packed record."""
    raw = np.zeros(x.nbytes + 1, np.uint8)[1:].view()
    view = np.ndarray(x.shape, x.dtype, buffer=raw.data)
    view[...] = x
    return view


def swapped(x):
    """The other byte order, as read from a file of another machine."""
    return x.astype(x.dtype.newbyteorder(">"))


def read_only(x):
    """What may not be written to."""
    x = np.array(x)
    x.flags.writeable = False
    return x


LAYOUTS = (strided, reversed_, fortran, transposed, misaligned, swapped, read_only)


def kernel(function, *args, **kwargs):
    """A call by the route that it takes by itself."""
    return function(*args, **kwargs)


def formula(function, *args, **kwargs):
    """A call with POLYLOSS_ROUTE=formula."""
    before = os.environ.get("POLYLOSS_ROUTE")
    os.environ["POLYLOSS_ROUTE"] = "formula"
    try:
        return function(*args, **kwargs)
    finally:
        del os.environ["POLYLOSS_ROUTE"]
        if before is not None:
            os.environ["POLYLOSS_ROUTE"] = before


def kernel_on(isa):
    """A call by the route that it takes by itself, on an instruction set."""

    def route(function, *args, **kwargs):
        before = driver.isa()
        driver.force(isa)
        try:
            return function(*args, **kwargs)
        finally:
            driver.force(before)

    return route


ROUTES = *map(kernel_on, driver.isas()), formula


def beside(x, values):
    """An array of numbers of the library of `x` and on its device."""
    if hasattr(x, "device") and isinstance(x, TORCH.torch.Tensor):
        return TORCH.torch.tensor(values, dtype=TORCH.torch.float64, device=x.device)
    return next((lib for lib in LIBRARIES if lib.is_array(x)), NUMPY).array(np.array(values))


def ran(monkeypatch):
    """The list to which every evaluation from now on adds its plan and its arrays."""
    in_sight(monkeypatch)
    runs, run = [], _routes.run
    monkeypatch.setattr(_routes, "run", lambda plan, arrays: runs.append((plan, arrays)) or run(plan, arrays))
    return runs


def in_sight(monkeypatch):
    """From now on every call is evaluated by `routes.run`, none by a kernel that was prepared for the call before."""
    monkeypatch.setattr(_cpu, "prepared", lambda *_, **__: None)
    _call.plan_cache.forget()
