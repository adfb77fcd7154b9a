"""Kernels on a GPU: compiled by CuPy on first use, launched on the caller's stream, for CuPy arrays and torch tensors alike.

Arrays travel as addresses: a torch tensor never becomes a CuPy array, and nothing here waits for the device. The device of the arrays must
be current: CuPy allocates on no other. Only `gpu`, `current` and `capturing` know CuPy; tests replace them to run on a CPU.
"""

import re
import sys
import warnings
from contextlib import nullcontext
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

FOLDER = Path(__file__).parents[1]  # includes are written from here
C_NAMES = {"float16": "__half", "bfloat16": "__nv_bfloat16", "float32": "float", "float64": "double"}
SIZES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
INTEGERS = {"int8": 1, "int16": 2, "int32": 4, "int64": 8, "uint8": -1, "uint16": -2, "uint32": -4, "uint64": -8}
LABEL_KINDS = {**INTEGERS, "float32": 14, "float64": 18}
MAX_IGNORES = 8
MAX_CLASSES = 2**31 - 2**16  # kernels count them in 32 bits, and beyond the last by as many as a block takes at once

SUMS = 32  # bytes of a block's report
ROOM = 2688  # bytes of shared memory in which the threads of a block bring their sums together
BLOCKS = 16384  # of a launch: each reports its sums, and one block adds them all up
FINISH = 512  # threads of that block
SHIFTING = 1024  # blocks at most of a launch that mostly has nothing to do
LEAST = {"float32": 2.0**-126, "float64": 2.0**-1022}  # a divisor below may have no reciprocal in the dtype of the computation

# What a launch is told: the fields of Launch in launch.cuh, and behind them those of the file.
LAUNCH = [
    *[(name, np.uint64) for name in ("z", "y", "class_weight", "weight", "factor", "losses", "grad", "hess", "partials")],
    *[(name, np.int64) for name in ("n", "c", "s", "weight_n", "weight_s")],
    ("ignore", np.int64, MAX_IGNORES),
    ("scale", np.float64),
    *[(name, np.int32) for name in ("ignores", "label_kind", "lanes", "kept")],
]
POSITIONS = np.dtype(LAUNCH)
SOFTMAX = np.dtype(
    [
        *LAUNCH,
        ("prob", np.uint64),
        ("states", np.uint64),
        ("smoothing", np.float64),
        ("poly", np.float64),
        ("z_loss", np.float64),
        ("cap", np.float64),
    ]
)
ELEMENTS = np.dtype([*LAUNCH, ("scan", np.uint64), ("parameters", np.float64, 8), ("mean", np.float64)])
ROWS = np.dtype([*LAUNCH, ("parameters", np.float64, 4)])

KEPT_BYTES = 72 << 10  # of a block's logits: three blocks fit a multiprocessor of 227 KB, so that one reads while another writes


class Gpu(NamedTuple):
    """What the launches must know of a device."""

    module: type  # cupy.RawModule
    optin: int  # bytes of shared memory that the device has for a block
    shared: int  # bytes of it that launches are planned for
    clusters: bool  # blocks can share their shared memory: compute capability 9.0
    processors: int  # multiprocessors


@cache
def gpu(number):
    """The device of that number; ImportError without CuPy, RuntimeError without a driver or where it is AMD's."""
    import cupy

    if cupy.cuda.runtime.is_hip:
        raise RuntimeError("CuPy was built for ROCm, and the kernels are written for CUDA")
    if not cupy.cuda.is_available():
        raise RuntimeError("CuPy finds no CUDA driver")
    device = cupy.cuda.Device(number)
    attributes, clusters = device.attributes, int(device.compute_capability) >= 90
    shared = attributes["MaxSharedMemoryPerBlockOptin"]
    return Gpu(cupy.RawModule, shared, shared, clusters, attributes["MultiProcessorCount"])


def current(number, tensors):
    """A context in which the device of that number is current, for tensors or CuPy's arrays.

    Nothing is entered where it is already: going back, CuPy makes a context on the device before even if that had none, 0.5 GB for each
    process of one GPU each. torch knows which devices have one.
    """
    import cupy

    if cupy.cuda.runtime.getDevice() == number:
        return nullcontext()
    return sys.modules["torch"].cuda.device(number) if tensors else cupy.cuda.Device(number)


def capturing(tensors):
    """Whether the current stream records a CUDA graph, so that no number of the device may be asked for."""
    if tensors:
        return sys.modules["torch"].cuda.is_current_stream_capturing()
    import cupy

    return cupy.cuda.get_current_stream().is_capturing()


@cache
def why_not(number, tensors):
    """Why no kernel runs on the device of that number, or None. Found out once, by the smallest kernel, which every call needs: an import
    that fails costs 60 µs a time, and a compiler without headers is to be known before a call is promised a kernel."""
    try:
        gpu(number)
    except (ImportError, RuntimeError) as error:
        return f"it needs CuPy to compile and launch the kernel: {error}; `pip install polyloss[cupy]`"
    try:
        with current(number, tensors):
            kernel(number, "launch.cuh", "float32", "finish<float>")
    except Exception as error:  # of CuPy, of the compiler, of the disk cache
        words = f"CuPy cannot compile the kernels: {type(error).__name__}: {error}"[:2000]
        warnings.warn(f"polyloss runs on formulas on CUDA device {number}: {words}", RuntimeWarning, stacklevel=2)
        return words
    return None


def sources():
    """The files that modules are made of."""
    return sorted([*FOLDER.glob("gpu/*.cu*"), *FOLDER.glob("formulas/*.h")])


@cache
def source(file):
    """The code of one module. CuPy's disk cache does not see headers, so their hash is part of it."""
    import hashlib  # 3 ms, which importing the library need not take

    return f'#include "gpu/{file}"\n// {hashlib.sha256(b"".join(p.read_bytes() for p in sources())).hexdigest()}\n'


def options(file):
    """What NVRTC is told. CuPy adds -ftz=true: floats below 1.2e-38 count as 0. The row-wise losses take terms out of sums again, and a
    fused multiply-add would not give the same term twice."""
    return ("-std=c++17", f"-I{FOLDER}", *(("-fmad=false",) if file == "rowwise.cu" else ()))


@cache
def kernel(number, file, dtype, name):
    """One kernel of one dtype on one device, compiled when it is first wanted (0.1 to 1.5 s, then from CuPy's disk cache)."""
    device = gpu(number)
    function = device.module(code=source(file), options=options(file), name_expressions=(name,)).get_function(name)
    function.max_dynamic_shared_size_bytes = device.optin
    return function


# ---- arrays of either library ------------------------------------------------------------------------------------------------------------


class _Stream(NamedTuple):
    """All that CuPy asks of a stream."""

    ptr: int


def _is_torch(x):
    return hasattr(x, "data_ptr")


def number_of(x):
    """The number of the device that an array is on."""
    return x.device.index if _is_torch(x) else x.device.id


def _stream(x):
    return _Stream(sys.modules["torch"].cuda.current_stream(x.device).cuda_stream) if _is_torch(x) else None


def address(x):
    """Where an array's memory begins; 0 for None."""
    if x is None:
        return 0
    return x.data_ptr() if _is_torch(x) else x.data.ptr


def strides(x):
    """In elements."""
    return x.stride() if _is_torch(x) else tuple(step // x.itemsize for step in x.strides)


def contiguous(x):
    """The array itself if it lies in C order without gaps, else such a copy."""
    if _is_torch(x):
        return x.contiguous()
    return x if x.flags.c_contiguous else x.copy(order="C")


def _dtype_name(x):
    return str(x.dtype).rpartition(".")[2]


# ---- what every call does ----------------------------------------------------------------------------------------------------------------


class Reduced(NamedTuple):
    """What a call says of all positions together; arrays on the device."""

    value: object  # (): Σ of the losses over the divisor, 0 where that is 0; in the dtype of the computation
    # (7,) float64: what derivatives are multiplied by, Σ losses, Σ weights, positions counted, first bad label or -1, divisor, and the
    # power of two that derivatives are multiplied by besides
    numbers: object


class _Call:
    """The launches of one call, in order, on the stream of its arrays, and what they are told alike."""

    def __init__(
        self, xp, file, layout, dtype, z, y, blocks, *, weight, divisor, losses, grad, hess, lanes, kept=0, ignore=(), class_weight=None
    ):  # fmt: skip
        self.number, self.file, self.layout, self.dtype = number_of(z), file, layout, dtype
        self.divisor, self.blocks = divisor, blocks
        self.stream = _stream(z)
        self.real = "float64" if dtype == "float64" else "float32"
        self.empty = lambda shape, kind: xp.empty(shape, dtype=getattr(xp, kind), device=z.device)
        self.value, self.numbers = self.empty((), self.real), self.new_numbers()
        self.partials = self.empty((blocks, SUMS // 8), "float64")
        self.named = divisor if isinstance(divisor, str) else None  # what the divisor is, if data decide it
        self.given = hasattr(divisor, "shape")  # the divisor is an array
        self.apart, scale = self.given, 1.0  # whether derivatives may have to be multiplied by a power of two behind the kernel
        if not (self.named or self.given):
            self.apart = 0 < abs(divisor) < LEAST[self.real]
            scale = 1 / divisor if divisor and not self.apart else float(self.apart)
        self.derivatives = grad, hess
        self.early = (self.named or self.apart) and (grad is not None or hess is not None)  # it must be known before it is divided by
        n, c, s = z.shape
        self.positions = n * s
        steps = (0, 0) if weight is None else strides(weight)
        padded = [v - 2**64 if v >= 2**63 else v for v in ignore] + [0] * (MAX_IGNORES - len(ignore))
        self.told = {
            "z": address(z), "y": address(y), "class_weight": address(class_weight), "weight": address(weight), "factor": 0,
            "losses": address(losses), "grad": address(grad), "hess": address(hess), "partials": address(self.partials),
            "n": n, "c": c, "s": s, "weight_n": steps[0], "weight_s": steps[1], "ignore": padded,
            "scale": scale, "ignores": len(ignore),
            "label_kind": LABEL_KINDS[_dtype_name(y)] if len(y.shape) == 2 else 0, "lanes": lanes, "kept": kept,
        }  # fmt: skip

    def new_numbers(self):
        """Memory for the numbers of a launch."""
        return self.empty((7,), "float64")

    def run(self, name, blocks, threads, shared=ROOM):
        """Launch a kernel of the file."""
        self._launch(self.file, self.dtype, name, blocks, threads, self._packed(self.layout), shared)

    def early_divisor(self):
        """Sum up the divisor, where derivatives are divided by it."""
        if not self.early:
            return
        blocks = min(-(-self.positions // 256), self.blocks) if self.named else 0
        if self.named:
            self._launch("launch.cuh", self.real, f"position_sums<{C_NAMES[self.real]}>", blocks, (256,), self._packed(POSITIONS))
        self.finish(blocks)
        self.told["factor"] = address(self.numbers)

    def finish(self, blocks, value=None, numbers=None):
        """Add up the reports of the launch before this."""
        given = 0 if not self.given else 3 if _dtype_name(self.divisor) == self.real else 4
        kind = {None: given, "count": 1, "weights": 2}[self.named]
        arguments = (
            np.uint64(address(self.partials)),
            np.int32(blocks),
            np.int32(kind),
            np.float64(0 if kind else self.divisor),
            np.uint64(address(self.divisor) if self.given else 0),
            np.uint64(address(self.value if value is None else value)),
            np.uint64(address(self.numbers if numbers is None else numbers)),
        )
        self._launch("launch.cuh", self.real, f"finish<{C_NAMES[self.real]}>", 1, (FINISH,), arguments)

    def end(self, value=None):
        """Add up the reports of the kernel, and rescale derivatives whose divisor has no reciprocal in their dtype."""
        self.finish(self.blocks, value)
        if self.apart and self.early:
            count = self.positions * self.told["c"]
            addresses = [np.uint64(address(x)) for x in self.derivatives]
            arguments = (*addresses, np.int64(count), np.uint64(address(self.numbers)))
            self._launch("launch.cuh", self.dtype, f"shift<{C_NAMES[self.dtype]}>", min(-(-count // 256), SHIFTING), (256,), arguments)

    def _packed(self, layout):
        return (np.array(tuple(self.told[name] for name in layout.names), layout),)

    def _launch(self, file, dtype, name, blocks, threads, arguments, shared=ROOM):
        kernel(self.number, file, dtype, name)((blocks,), threads, arguments, shared_mem=shared, stream=self.stream)


def _blocks(tasks, each=1):
    """How many blocks take that many tasks, `each` of them together at one: none takes more than one task more than another."""
    at_once = BLOCKS // each
    return -(-tasks // -(-tasks // at_once)) * each


# ---- softmax cross-entropy ---------------------------------------------------------------------------------------------------------------


class Launch(NamedTuple):
    """One launch of a kernel over the logits."""

    name: str  # of the kernel, with its template arguments; of two where a first one looks at parts of rows
    blocks: int
    threads: tuple
    shared: int
    lanes: int
    kept: int


@lru_cache(maxsize=512)
def plan(n, c, s, dtype, weighted, twice, wide, shared, clusters, processors):
    """How logits of shape (n, c, s) are spread over the device.

    Parameters
    ----------
    twice : bool
        Whether derivatives or probabilities are wanted: each logit is looked at twice, and kept in between.
    wide : bool
        Whether all addresses are multiples of 16.
    shared, clusters, processors
        As in `Gpu`.
    """
    size = SIZES[dtype]
    arguments = f"{C_NAMES[dtype]},{'true' if weighted else 'false'}"
    make = _rows if s == 1 else _spatial
    return make(n, c, s, size, arguments, weighted, twice, wide, shared, clusters, processors)


def _rows(n, c, s, size, arguments, weighted, twice, wide, shared, clusters, processors):
    packs = -(-c * size // 16)
    if packs <= 256:  # 4 KB: some lanes of a warp take a row, each at least 8 packs of it, since a row costs a lane as much as 2 or 3 packs
        lanes = min(32, max(2, _power_of_two(packs) // 8))
        rows = 128 // lanes
        kept = packs if twice else 0
        return Launch(f"rows_warp<{arguments}>", _blocks(-(-n // rows)), (128,), ROOM + rows * kept * 16, lanes, kept)
    cluster = 1
    while clusters and cluster < 8 and (
        (twice and packs * 16 > KEPT_BYTES * cluster) or (n * cluster < processors and packs > 2048 * cluster)
    ):  # fmt: skip
        cluster *= 2
    if n * cluster <= processors // 2 and packs > 2048:  # half of the multiprocessors would idle: two launches cost less
        parts = min(32, 2 * processors // n, packs // 1024)
        return Launch(f"rows_part<{arguments}> rows_rest<{arguments}>", n * parts, (256,), ROOM, parts, 0)
    part = -(-packs // cluster)
    kept = min(part, (shared - ROOM) // 16) if twice else 0
    alone = kept * 16 > KEPT_BYTES  # one block fills a multiprocessor's memory, so let it have more threads
    threads = 512 if alone and size < 8 else min(256, max(64, _power_of_two(-(-part // 8))))
    name = f"rows_cluster<{arguments},{cluster}>" if cluster > 1 else f"rows_block<{arguments}>"
    return Launch(name, _blocks(n, cluster), (threads,), ROOM + kept * 16, 0, kept)


def _spatial(n, c, s, size, arguments, weighted, twice, wide, shared, clusters, processors):
    each = min(4, 16 // size)  # positions per thread; of 8, more would have to be known of them than a thread has registers
    each = each if wide and s % each == 0 else 1
    vectors, across, deep = n * (s // each), 128, 1
    while twice and across > 32 and across * each * size * c > KEPT_BYTES:
        across //= 2
    while across * deep < 256 and deep < 8 and deep * 4 < c and (across < 128 or -(-vectors // across) < processors * 4):
        deep *= 2
    threads = across * deep
    merging = threads * each * (8 if weighted else 3) * max(size, 4) if deep > 1 else 0
    used = ROOM + -(-merging // 16) * 16
    kept = min(-(-c // deep), (shared - used) // (threads * each * size)) if twice else 0
    return Launch(
        f"spatial<{arguments},{each}>", _blocks(-(-vectors // across)), (across, deep), used + kept * threads * each * size, 0, kept
    )


def _power_of_two(x):
    """The least power of two that is not below x."""
    return 1 << (x - 1).bit_length()


def softmax_xent(
    xp, z, y, *, dtype, ignore=(), class_weight=None, weight=None, smoothing=0.0, poly_epsilon=0.0, z_loss=0.0, softcap=0.0, divisor=1,
    losses=None, grad=None, prob=None, hess=None,
):  # fmt: skip
    """Fused softmax cross-entropy of contiguous arrays on the current GPU, without waiting for it.

    Parameters
    ----------
    xp : namespace
        Of the arrays; makes the small ones that come back.
    z : (n, c, s)
        Logits: float16, bfloat16, float32, float64; n, c and s at least 1.
    y : (n, s) or (n, c, s)
        Labels of any integer dtype, float32 or float64; or soft targets in the dtype of the computation.
    dtype : str
        Name of the dtype of `z`.
    ignore : tuple of int
        At most 8 ignored labels, each a value of the dtype of `y`.
    class_weight : (c,), optional
    weight : (n, s), optional
        Any strides. Both in the dtype of the computation.
    z_loss, softcap : float
        Adds z_loss * lse² to each position's loss; logits become softcap * tanh(z / softcap), where that is not 0.
    divisor : float, "count", "weights" or 0-d array
        What the sum of the losses, and each derivative, is divided by; an array in the dtype of the computation or float64. 1 / 0 counts
        as 0.
    losses : (n, s), optional
        Receives weighted losses in the dtype of the computation.
    grad, prob, hess : (n, c, s), optional
        Receive the derivatives of the sum over the divisor, and softmax(z), in the dtype of `z`.

    Returns
    -------
    Reduced
    """
    n, c, s = z.shape
    weighted = len(y.shape) == 3 or class_weight is not None or smoothing != 0 or z_loss != 0 or softcap != 0 or hess is not None
    outputs = grad, prob, hess
    twice, wide = any(a is not None for a in outputs), all(address(a) % 16 == 0 for a in (z, *outputs))
    device = gpu(number_of(z))
    launch = plan(n, c, s, dtype, weighted, twice, wide, device.shared, device.clusters, device.processors)
    call = _Call(
        xp, "softmax_xent.cu", SOFTMAX, dtype, z, y, launch.blocks, ignore=ignore, class_weight=class_weight, weight=weight,
        divisor=divisor, losses=losses, grad=grad, hess=hess, lanes=launch.lanes, kept=launch.kept,
    )  # fmt: skip
    names = launch.name.split()
    states = call.empty((launch.blocks, 8), "float64") if len(names) > 1 else None  # a State has 8 numbers at most
    call.told |= {"prob": address(prob), "states": address(states), "smoothing": smoothing, "poly": poly_epsilon}
    call.told |= {"z_loss": z_loss, "cap": softcap}
    call.early_divisor()
    for name in names:
        call.run(name, launch.blocks, launch.threads, launch.shared)
    call.end()
    return Reduced(call.value, call.numbers)


# ---- elementwise losses ------------------------------------------------------------------------------------------------------------------


@cache
def formulas(file="formulas/elementwise.h"):
    """The losses of formulas/elementwise.h or formulas/rowwise.h: name -> names of its parameters, in order."""
    found = re.findall(r'X\((\w+),(?: \d+,)? "([\w ]*)"', (FOLDER / file).read_text())
    return {name: tuple(parameters.split()) for name, parameters in found}


@lru_cache(maxsize=512)
def plan_elements(n, c, s, dtype, alike, wide):
    """How predictions of shape (n, c, s) are spread: kernel, blocks, threads and lanes. `alike`: all positions have one weight and no
    loss of their own; `wide`: all addresses are multiples of 16."""
    size = SIZES[dtype]
    if alike:
        return "flat<{},{}>", _blocks(-(-n * c * s * size // (16 * 256))), 256, 0
    if s == 1:
        return "rows<{},{}>", *_sharing_rows(n, c * size)
    each = 16 // size if wide and s % (16 // size) == 0 else 1
    return f"columns<{{}},{{}},{each}>", _blocks(-(-n * (s // each) // 256)), 256, 0


def _sharing_rows(n, size):
    """How n rows of that many bytes are shared: blocks, threads, and lanes for each row, or 0: a block."""
    packs = -(-size // 16)
    lanes = min(32, _power_of_two(packs)) if packs <= 128 else 0
    threads = 256 if lanes else min(256, _power_of_two(-(-packs // 4)))
    return _blocks(-(-n // (threads // lanes if lanes else 1))), threads, lanes


def elementwise(
    xp, p, t, *, loss, dtype, parameters=(), scan=False, mean=True, weight=None, divisor=1, losses=None, grad=None, hess=None
):  # fmt: skip
    """An elementwise loss of contiguous arrays on the current GPU, without waiting for it.

    Parameters
    ----------
    xp : namespace
        Of the arrays; makes the small ones that come back.
    p, t : (n, c, s)
        Predictions: float16, bfloat16, float32, float64; targets in the dtype of the computation. n, c and s at least 1.
    loss : str
        Name in formulas/elementwise.h.
    dtype : str
        Name of the dtype of `p`.
    parameters : tuple of float
        Of the loss, in the order of formulas/elementwise.h.
    scan : bool
        Whether the first parameter is 1 if all targets are 0 or 1, else 0.
    mean : bool
        Whether the c elements of a position combine by their mean, else by their sum.
    weight : (n, s), optional
        Any strides; in the dtype of the computation.
    divisor : float, "weights" or 0-d array
        What the sum of the losses, and each derivative, is divided by; an array in the dtype of the computation or float64. 1 / 0 counts
        as 0.
    losses : (n, s), optional
        Receives weighted losses in the dtype of the computation; the divisor is 1.
    grad, hess : (n, c, s), optional
        Receive the derivatives of the sum over the divisor, in the dtype of `p`.

    Returns
    -------
    Reduced
    """
    n, c, s = p.shape
    alone = n * s == 1  # the sum is the loss of the one position
    wide = all(address(a) % 16 == 0 for a in (p, t, grad, hess))
    alike = weight is None or all(step == 0 for step, length in zip(strides(weight), (n, s), strict=True) if length > 1)  # as autograd's
    name, blocks, threads, lanes = plan_elements(n, c, s, dtype, alone or (alike and losses is None), wide)
    call = _Call(
        xp, "elementwise.cu", ELEMENTS, dtype, p, t, blocks, weight=weight, divisor=divisor, losses=None if alone else losses, grad=grad,
        hess=hess, lanes=lanes,
    )  # fmt: skip
    call.told |= {"scan": 0, "parameters": _padded(parameters, ELEMENTS), "mean": 1 / c if mean else 1.0}
    real = C_NAMES[dtype]
    if scan:
        counted = call.new_numbers()
        call.run(f"not_binary<{real}>", blocks, (256,))
        call.finish(blocks, numbers=counted)
        call.told["scan"] = address(counted) + 3 * 8
    call.early_divisor()
    call.run(name.format(real, loss), blocks, (threads,))
    call.end(value=losses if alone else None)
    return Reduced(losses if alone and losses is not None else call.value, call.numbers)


def _padded(parameters, layout):
    """A loss's parameters, as many as the kernels' array holds."""
    return [*parameters, *[0.0] * (layout["parameters"].shape[0] - len(parameters))]


# ---- row-wise losses ---------------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=512)
def plan_rows(n, c, s, dtype):
    """How predictions of shape (n, c, s) are spread: kernel, blocks, threads and lanes."""
    if s > 1:
        return "columns<{},{}>", _blocks(-(-n * s // 256)), 256, 0
    blocks, threads, lanes = _sharing_rows(n, c * SIZES[dtype])
    return f"rows_{'lanes' if lanes else 'block'}<{{}},{{}}>", blocks, threads, lanes


def rowwise(
    xp, p, y, *, loss, dtype, parameters=(), ignore=(), weight=None, divisor=1, losses=None, grad=None, hess=None
):  # fmt: skip
    """A row-wise loss of contiguous arrays on the current GPU, without waiting for it.

    Parameters
    ----------
    xp : namespace
        Of the arrays; makes the small ones that come back.
    p : (n, c, s)
        Predictions: float16, bfloat16, float32, float64; n, c and s at least 1.
    y : (n, s) or (n, c, s)
        Labels of any integer dtype, float32 or float64 for the losses of labels; else targets in the dtype of the computation.
    loss : str
        Name in formulas/rowwise.h.
    dtype : str
        Name of the dtype of `p`.
    parameters : tuple of float
        Of the loss, in the order of formulas/rowwise.h.
    ignore : tuple of int
        At most 8 ignored labels, each a value of the dtype of `y`.
    weight : (n, s), optional
        Any strides; in the dtype of the computation.
    divisor : float, "count", "weights" or 0-d array
        What the sum of the losses, and each derivative, is divided by; an array in the dtype of the computation or float64. 1 / 0 counts
        as 0.
    losses : (n, s), optional
        Receives weighted losses in the dtype of the computation.
    grad, hess : (n, c, s), optional
        Receive the derivatives of the sum over the divisor, in the dtype of `p`.

    Returns
    -------
    Reduced
    """
    n, c, s = p.shape
    name, blocks, threads, lanes = plan_rows(n, c, s, dtype)
    call = _Call(
        xp, "rowwise.cu", ROWS, dtype, p, y, blocks, ignore=ignore, weight=weight, divisor=divisor, losses=losses, grad=grad, hess=hess,
        lanes=lanes,
    )  # fmt: skip
    call.told |= {"parameters": _padded(parameters, ROWS)}
    call.early_divisor()
    call.run(name.format(C_NAMES[dtype], loss), blocks, (threads,))
    call.end()
    return Reduced(call.value, call.numbers)
