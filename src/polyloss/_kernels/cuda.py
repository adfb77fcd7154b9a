"""Kernels on a GPU: compiled by CuPy on first use, launched on the caller's stream, for CuPy arrays and torch tensors alike.

Arrays travel as addresses: a torch tensor never becomes a CuPy array, and nothing here waits for the device. `gpu` is the one place that
knows CuPy; tests put a CPU in its stead.
"""

import re
import sys
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

FOLDER = Path(__file__).parent
C_NAMES = {"float16": "__half", "bfloat16": "__nv_bfloat16", "float32": "float", "float64": "double"}
SIZES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
INTEGERS = {"int8": 1, "int16": 2, "int32": 4, "int64": 8, "uint8": -1, "uint16": -2, "uint32": -4, "uint64": -8}
LABEL_KINDS = {**INTEGERS, "float32": 14, "float64": 18}
MAX_IGNORES = 8
MAX_CLASSES = 2**31 - 1

SUMS = 32  # bytes of a block's report
ROOM = 2560  # bytes of shared memory in which the threads of a block bring their sums together
BLOCKS = 4096  # of a launch: each reports its sums, and one block adds them all up

# The launch of softmax_xent.cu, and what suits a multiprocessor of 227 KB: three blocks of 72 KB overlap their reading and writing.
GOOD_SHARED = 72 << 10
FEW = 132  # blocks that leave multiprocessors idle
HALF = FEW // 2  # and half of them: two launches cost less
POINTERS = ("z", "y", "class_weight", "weight", "factor", "lse", "losses", "lse_out", "grad", "prob", "hess", "partials", "states")
JOB = np.dtype(
    [(name, np.uint64) for name in POINTERS]
    + [(name, np.int64) for name in ("n", "c", "s", "weight_n", "weight_s")]
    + [("ignore", np.int64, MAX_IGNORES)]
    + [(name, np.float64) for name in ("scale", "smoothing", "poly")]
    + [(name, np.int32) for name in ("ignores", "label_kind", "lanes", "kept")]
)

# The launch of elementwise.cu.
MAX_PARAMETERS = 8
ELEMENT_POINTERS = ("p", "t", "weight", "factor", "survey", "losses", "grad", "hess", "partials")
ELEMENTS = np.dtype(
    [(name, np.uint64) for name in ELEMENT_POINTERS]
    + [(name, np.int64) for name in ("n", "c", "s", "weight_n", "weight_s")]
    + [("parameters", np.float64, MAX_PARAMETERS)]
    + [(name, np.float64) for name in ("mean", "scale")]
    + [("lanes", np.int32), ("_", np.int32)]
)

# The launch of rowwise.cu.
MAX_ROW_PARAMETERS = 4
ROW_POINTERS = ("p", "y", "weight", "factor", "losses", "grad", "hess", "partials")
ROWS = np.dtype(
    [(name, np.uint64) for name in ROW_POINTERS]
    + [(name, np.int64) for name in ("n", "c", "s", "weight_n", "weight_s")]
    + [("ignore", np.int64, MAX_IGNORES), ("parameters", np.float64, MAX_ROW_PARAMETERS), ("scale", np.float64)]
    + [(name, np.int32) for name in ("ignores", "label_kind", "lanes", "_")]
)


class Gpu(NamedTuple):
    """What the launches must know of a device."""

    module: type  # cupy.RawModule
    context: object  # () -> a context in which the device is current
    shared: int  # bytes of shared memory that a block may ask for
    clusters: bool  # blocks can share their shared memory: compute capability 9.0


@cache
def gpu(number):
    """The device of that number; ImportError without CuPy, RuntimeError without a driver."""
    import cupy

    if not cupy.cuda.is_available():
        raise RuntimeError("CuPy finds no CUDA driver")
    device = cupy.cuda.Device(number)
    current = partial(cupy.cuda.Device, number)  # a new one for each call: it remembers which device was current before
    return Gpu(cupy.RawModule, current, device.attributes["MaxSharedMemoryPerBlockOptin"], int(device.compute_capability) >= 90)


@cache
def source(file):
    """The code of one module. CuPy's disk cache does not see headers, so their hash is part of it."""
    import hashlib  # 3 ms, which importing the library need not take

    headers = sorted([*FOLDER.glob("*.cuh"), *FOLDER.glob("*.cu"), *FOLDER.glob("*.h")])
    return f'#include "{file}"\n// {hashlib.sha256(b"".join(p.read_bytes() for p in headers)).hexdigest()}\n'


def options(file, dtype):
    """What NVRTC is told. 16-bit storage may flush numbers below 1e-38 to 0, which spares two instructions for each exponential. The
    row-wise losses take terms out of sums again, and a fused multiply-add would not give the same term twice."""
    flush = SIZES[dtype] == 2 and file != "rowwise.cu"
    return ("-std=c++17", f"-I{FOLDER}", *(("-ftz=true",) if flush else ()), *(("-fmad=false",) if file == "rowwise.cu" else ()))


@cache
def kernel(number, file, dtype, name):
    """One kernel of one dtype on one device, compiled when it is first wanted (0.1 to 1.5 s, then from CuPy's disk cache)."""
    device = gpu(number)
    function = device.module(code=source(file), options=options(file, dtype), name_expressions=(name,)).get_function(name)
    function.max_dynamic_shared_size_bytes = device.shared
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
    numbers: object  # (6,) float64: 1 / divisor or 0, Σ losses, Σ weights, positions counted, first bad label or -1, divisor


class _Call:
    """The launches of one call, in order, on the stream of its arrays, and the small arrays they share."""

    def __init__(self, xp, like, file, dtype, divisor, blocks):
        self.number, self.file, self.dtype, self.divisor, self.blocks = number_of(like), file, dtype, divisor, blocks
        self.device, self.stream = gpu(self.number), _stream(like)
        self.real = "float64" if dtype == "float64" else "float32"
        self._empty = lambda shape, kind: xp.empty(shape, dtype=getattr(xp, kind), device=like.device)
        self.value, self.numbers = self._empty((), self.real), self._empty((6,), "float64")
        self.partials = self._empty((blocks, SUMS // 8), "float64")
        self.named = divisor if isinstance(divisor, str) else None  # what the divisor is, if data decide it
        self.given = hasattr(divisor, "shape")  # the divisor is an array
        self.scale = 1.0 if self.named or self.given else 1 / divisor if divisor else 0.0  # of derivatives

    def numbers_too(self):
        """Room for the numbers of another launch."""
        return self._empty((6,), "float64")

    def run(self, name, blocks, threads, arguments, shared=ROOM, file=None):
        function = kernel(self.number, file or self.file, self.dtype, name)
        function((blocks,), threads, arguments, shared_mem=shared, stream=self.stream)

    def early_divisor(self, wanted, name, positions, arguments, dtype):
        """Where derivatives are wanted, the divisor must be known before they are written: sum it up by the kernel of that name."""
        if not wanted or not (self.named or self.given):
            return
        blocks = min(-(-positions // 256), self.blocks) if self.named else 0
        if self.named:
            self.run(name, blocks, (256,), _packed(arguments, dtype))
        self.finish(blocks)
        arguments["factor"] = address(self.numbers)

    def finish(self, blocks, value=None, numbers=None):
        """Add up the reports of the launch before this."""
        kind = {None: 3 if self.given else 0, "count": 1, "weights": 2}[self.named]
        arguments = (
            np.uint64(address(self.partials)),
            np.int32(blocks),
            np.int32(kind),
            np.float64(0 if kind else self.divisor),
            np.uint64(address(self.divisor) if self.given else 0),
            np.uint64(address(self.value if value is None else value)),
            np.uint64(address(self.numbers if numbers is None else numbers)),
        )
        self.run(f"finish<{C_NAMES[self.real]}>", 1, (256,), arguments, file="device.cuh")


def _labels(y, ignore):
    """What a launch is told of targets: labels (n, s), or (n, c, s)."""
    padded = [v - 2**64 if v >= 2**63 else v for v in ignore] + [0] * (MAX_IGNORES - len(ignore))
    return {"ignore": padded, "ignores": len(ignore), "label_kind": LABEL_KINDS[_dtype_name(y)] if len(y.shape) == 2 else 0}


def _packed(arguments, dtype):
    return (np.array(tuple(arguments[name] for name in dtype.names), dtype),)


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
def plan(n, c, s, dtype, weighted, twice, wide, shared, clusters):
    """How logits of shape (n, c, s) are spread over the device.

    Parameters
    ----------
    twice : bool
        Whether derivatives or probabilities are wanted: each logit is looked at twice, and kept in between.
    wide : bool
        Whether all addresses are multiples of 16.
    shared, clusters
        As in `Gpu`.
    """
    size = SIZES[dtype]
    arguments = f"{C_NAMES[dtype]},{'true' if weighted else 'false'}"
    make = _rows if s == 1 else _spatial
    return make(n, c, s, size, arguments, weighted, twice, wide, shared, clusters)


def _rows(n, c, s, size, arguments, weighted, twice, wide, shared, clusters):
    packs = -(-c * size // 16)
    if packs <= 128:  # 2 KB: some lanes of a warp take a row
        lanes = min(32, _power_of_two(packs))
        rows = 128 // lanes
        kept = packs if twice else 0
        return Launch(f"rows_warp<{arguments}>", min(-(-n // rows), BLOCKS), (128,), ROOM + rows * kept * 16, lanes, kept)
    cluster = 1
    while clusters and cluster < 8 and ((twice and packs * 16 > GOOD_SHARED * cluster) or (n * cluster < FEW and packs > 2048 * cluster)):
        cluster *= 2
    if n * cluster <= HALF and packs > 2048:
        parts = min(32, 2 * FEW // n, packs // 1024)
        return Launch(f"rows_part<{arguments}> rows_rest<{arguments}>", n * parts, (256,), ROOM, parts, 0)
    part = -(-packs // cluster)
    kept = min(part, (shared - ROOM) // 16) if twice else 0
    alone = kept * 16 > GOOD_SHARED  # one block fills a multiprocessor's memory, so let it have more threads
    threads = 512 if alone and size < 8 else min(256, max(64, _power_of_two(-(-part // 4))))
    name = f"rows_cluster<{arguments},{cluster}>" if cluster > 1 else f"rows_block<{arguments}>"
    return Launch(name, min(n, BLOCKS // cluster) * cluster, (threads,), ROOM + kept * 16, 0, kept)


def _spatial(n, c, s, size, arguments, weighted, twice, wide, shared, clusters):
    each = 16 // size if wide and s % (16 // size) == 0 else 1  # positions per thread
    vectors, across, deep = n * (s // each), 128, 1
    while twice and across > 32 and across * each * size * c > GOOD_SHARED:
        across //= 2
    while across * deep < 256 and deep < 8 and deep * 4 < c and (across < 128 or -(-vectors // across) < FEW * 4):
        deep *= 2
    threads = across * deep
    merging = threads * each * (7 if weighted else 3) * max(size, 4) if deep > 1 else 0
    used = ROOM + -(-merging // 16) * 16
    kept = min(-(-c // deep), (shared - used) // (threads * each * size)) if twice else 0
    return Launch(
        f"spatial<{arguments},{each}>", min(-(-vectors // across), BLOCKS), (across, deep), used + kept * threads * each * size, 0, kept
    )


def _power_of_two(x):
    """The least power of two that is not below x."""
    return 1 << (x - 1).bit_length()


def softmax_xent(
    xp, z, y, *, dtype, ignore=(), class_weight=None, weight=None, smoothing=0.0, poly_epsilon=0.0, divisor=1, losses=None, grad=None,
    prob=None, hess=None, lse_out=None, lse=None,
):  # fmt: skip
    """Fused softmax cross-entropy of contiguous arrays on one GPU, without waiting for it.

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
    divisor : float, "count", "weights" or 0-d array
        What the sum of the losses, and each derivative, is divided by. 1 / 0 counts as 0.
    losses, lse_out : (n, s), optional
        Receive weighted losses, and log Σ exp z (0 where skipped), in the dtype of the computation.
    grad, prob, hess : (n, c, s), optional
        Receive the derivatives of the sum over the divisor, and softmax(z), in the dtype of `z`.
    lse : (n, s), optional
        What an earlier call wrote to `lse_out`: the classes are looked at once.

    Returns
    -------
    Reduced
    """
    n, c, s = z.shape
    labelled = len(y.shape) == 2
    weighted = not labelled or class_weight is not None or smoothing != 0 or hess is not None
    outputs = grad, prob, hess
    twice, wide = lse is None and any(a is not None for a in outputs), all(address(a) % 16 == 0 for a in (z, *outputs))
    device = gpu(number_of(z))
    launch = plan(n, c, s, dtype, weighted, twice, wide, device.shared, device.clusters)
    call = _Call(xp, z, "softmax_xent.cu", dtype, divisor, launch.blocks)
    steps = strides(weight) if weight is not None else (0, 0)
    names = launch.name.split()
    states = xp.empty((launch.blocks, 7), dtype=xp.float64, device=z.device) if len(names) > 1 else None  # a State has 7 numbers at most
    arrays = z, y, class_weight, weight, None, lse, losses, lse_out, grad, prob, hess, call.partials, states
    arguments = dict(zip(POINTERS, map(address, arrays), strict=True))
    arguments |= {"n": n, "c": c, "s": s, "weight_n": steps[0], "weight_s": steps[1], "scale": call.scale, "smoothing": smoothing}
    arguments |= {"poly": poly_epsilon, "lanes": launch.lanes, "kept": launch.kept, **_labels(y, ignore)}
    with call.device.context():
        call.early_divisor(grad is not None or hess is not None, f"label_sums<{C_NAMES[dtype]}>", n * s, arguments, JOB)
        for name in names:
            call.run(name, launch.blocks, launch.threads, _packed(arguments, JOB), launch.shared)
        call.finish(launch.blocks)
    return Reduced(call.value, call.numbers)


# ---- elementwise losses ------------------------------------------------------------------------------------------------------------------


@cache
def formulas(file="formulas.h"):
    """The losses of formulas.h or rowwise_formulas.h: name -> names of its parameters, in order."""
    found = re.findall(r'X\((\w+),(?: \d+,)? "([\w ]*)"', (FOLDER / file).read_text())
    return {name: tuple(parameters.split()) for name, parameters in found}


@lru_cache(maxsize=512)
def plan_elements(n, c, s, dtype, alike, wide):
    """How predictions of shape (n, c, s) are spread: kernel, blocks, threads and lanes. `alike`: all positions have one weight and no
    loss of their own; `wide`: all addresses are multiples of 16."""
    size = SIZES[dtype]
    if alike:
        return "flat<{},{}>", min(-(-n * c * s * size // (16 * 256)), BLOCKS), 256, 0
    if s == 1:
        return "rows<{},{}>", *_sharing_rows(n, c * size)
    each = 16 // size if wide and s % (16 // size) == 0 else 1
    return f"columns<{{}},{{}},{each}>", min(-(-n * (s // each) // 256), BLOCKS), 256, 0


def _sharing_rows(n, size):
    """How n rows of that many bytes are shared: blocks, threads, and lanes for each row, or 0: a block."""
    packs = -(-size // 16)
    lanes = min(32, _power_of_two(packs)) if packs <= 128 else 0
    threads = 256 if lanes else min(256, _power_of_two(-(-packs // 4)))
    return min(-(-n // (threads // lanes if lanes else 1)), BLOCKS), threads, lanes


def elementwise(
    xp, p, t, *, loss, dtype, parameters=(), survey=False, mean=True, weight=None, divisor=1, losses=None, grad=None, hess=None
):  # fmt: skip
    """An elementwise loss of contiguous arrays on one GPU, without waiting for it.

    Parameters
    ----------
    xp : namespace
        Of the arrays; makes the small ones that come back.
    p, t : (n, c, s)
        Predictions: float16, bfloat16, float32, float64; targets in the dtype of the computation. n, c and s at least 1.
    loss : str
        Name in formulas.h.
    dtype : str
        Name of the dtype of `p`.
    parameters : tuple of float
        Of the loss, in the order of formulas.h.
    survey : bool
        Whether the first parameter is 1 if all targets are 0 or 1, else 0.
    mean : bool
        Whether the c elements of a position combine by their mean, else by their sum.
    weight : (n, s), optional
        Any strides; in the dtype of the computation.
    divisor : float, "weights" or 0-d array
        What the sum of the losses, and each derivative, is divided by. 1 / 0 counts as 0.
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
    name, blocks, threads, lanes = plan_elements(n, c, s, dtype, alone or (weight is None and losses is None), wide)
    call = _Call(xp, p, "elementwise.cu", dtype, divisor, blocks)
    steps = strides(weight) if weight is not None else (0, 0)
    arrays = p, t, weight, None, None, None if alone else losses, grad, hess, call.partials
    arguments = dict(zip(ELEMENT_POINTERS, map(address, arrays), strict=True))
    arguments |= {"n": n, "c": c, "s": s, "weight_n": steps[0], "weight_s": steps[1], "lanes": lanes, "_": 0}
    arguments |= {
        "parameters": [*parameters, *[0.0] * (MAX_PARAMETERS - len(parameters))],
        "mean": 1 / c if mean else 1.0,
        "scale": call.scale,
    }
    real = C_NAMES[dtype]
    with call.device.context():
        if survey:
            counted = call.numbers_too()
            call.run(f"not_binary<{real}>", blocks, (256,), _packed(arguments, ELEMENTS))
            call.finish(blocks, numbers=counted)
            arguments["survey"] = address(counted) + 3 * 8
        call.early_divisor(grad is not None or hess is not None, f"weight_sums<{real}>", n * s, arguments, ELEMENTS)
        call.run(name.format(real, loss), blocks, (threads,), _packed(arguments, ELEMENTS))
        call.finish(blocks, value=losses if alone else None)
    return Reduced(losses if alone and losses is not None else call.value, call.numbers)


# ---- row-wise losses ---------------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=512)
def plan_rows(n, c, s, dtype):
    """How predictions of shape (n, c, s) are spread: kernel, blocks, threads and lanes."""
    if s > 1:
        return "columns<{},{}>", min(-(-n * s // 256), BLOCKS), 256, 0
    blocks, threads, lanes = _sharing_rows(n, c * SIZES[dtype])
    return f"rows_{'lanes' if lanes else 'block'}<{{}},{{}}>", blocks, threads, lanes


def rowwise(
    xp, p, y, *, loss, dtype, parameters=(), ignore=(), weight=None, divisor=1, losses=None, grad=None, hess=None
):  # fmt: skip
    """A row-wise loss of contiguous arrays on one GPU, without waiting for it.

    Parameters
    ----------
    xp : namespace
        Of the arrays; makes the small ones that come back.
    p : (n, c, s)
        Predictions: float16, bfloat16, float32, float64; n, c and s at least 1.
    y : (n, s) or (n, c, s)
        For sparse_categorical_crossentropy labels of any integer dtype, float32 or float64; else targets in the dtype of the computation.
    loss : str
        Name in rowwise_formulas.h.
    dtype : str
        Name of the dtype of `p`.
    parameters : tuple of float
        Of the loss, in the order of rowwise_formulas.h.
    ignore : tuple of int
        At most 8 ignored labels, each a value of the dtype of `y`.
    weight : (n, s), optional
        Any strides; in the dtype of the computation.
    divisor : float, "count", "weights" or 0-d array
        What the sum of the losses, and each derivative, is divided by. 1 / 0 counts as 0.
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
    call = _Call(xp, p, "rowwise.cu", dtype, divisor, blocks)
    steps = strides(weight) if weight is not None else (0, 0)
    arrays = p, y, weight, None, losses, grad, hess, call.partials
    arguments = dict(zip(ROW_POINTERS, map(address, arrays), strict=True))
    arguments |= {"n": n, "c": c, "s": s, "weight_n": steps[0], "weight_s": steps[1], "lanes": lanes, "_": 0, "scale": call.scale}
    arguments |= {"parameters": [*parameters, *[0.0] * (MAX_ROW_PARAMETERS - len(parameters))], **_labels(y, ignore)}
    with call.device.context():
        call.early_divisor(grad is not None or hess is not None, f"position_sums<{C_NAMES[dtype]}>", n * s, arguments, ROWS)
        call.run(name.format(C_NAMES[dtype], loss), blocks, (threads,), _packed(arguments, ROWS))
        call.finish(blocks)
    return Reduced(call.value, call.numbers)
