"""The interface of `cupy.RawModule`, with the CPU behind it: compiles CUDA C++ by g++ and cuda_on_cpu.h and runs it there.

Scalars, structures and arguments that are too few or of another size are refused as CuPy or the GPU would not: by name, before the launch.
"""

import ctypes
import fcntl
import hashlib
import mmap
import os
import pathlib
import re
import subprocess
import tempfile

import numpy as np

HERE = pathlib.Path(__file__).parent
CACHE = pathlib.Path(os.environ.get("CUDA_ON_CPU_CACHE", pathlib.Path(tempfile.gettempdir()) / f"cuda_on_cpu-{os.getuid()}"))
CHECKS = "-fsanitize=bounds,alignment,signed-integer-overflow,integer-divide-by-zero,shift"
# -ffp-contract=off: a multiply-add only where the source says so. -O1: a module compiles in half the time of -O2 and the tests are as fast.
FLAGS = ("-std=c++17", "-O1", "-g1", "-fPIC", "-fvisibility=hidden", "-fno-strict-aliasing", "-ffp-contract=off", "-U_FORTIFY_SOURCE", "-w")
DEFAULT_SHARED = 48 << 10  # dynamic shared memory that a kernel may use before the caller asks for more

_libc = ctypes.CDLL(None)


class KernelError(RuntimeError):
    """The source does not compile, or the shim found an error while the kernel ran."""


class _Stacks(ctypes.Structure):
    _fields_ = [("at", ctypes.c_void_p), ("fences", ctypes.c_size_t)]


_stacks = _Stacks()


class RawModule:
    """Kernels compiled from one source.

    Parameters
    ----------
    code, options, name_expressions
        As for `cupy.RawModule`. Of the options -I, -D and -std count here.
    racecheck : bool
        Watch every load and store for data races; twenty times slower.
    seed : int
        Order of execution: 0 ascending threads, 1 descending, any other a random order.
    """

    def __init__(self, *, code, options=(), name_expressions=(), racecheck=False, seed=0):
        self._library = _build(code, [o for o in options if o.startswith(("-I", "-D"))], name_expressions, racecheck)
        self._numbers = {name: k for k, name in enumerate(name_expressions)}
        self._seed = seed

    def get_function(self, name):
        return Function(self._library, self._numbers[name], name, self._seed)


class Function:
    def __init__(self, library, number, name, seed):
        self._library, self._name, self._seed = library, name, seed
        self._launch = getattr(library, f"shim_call_{number}")
        self._launch.restype = ctypes.c_char_p
        describe = getattr(library, f"shim_signature_{number}")
        describe.restype = ctypes.c_char_p
        self._signature = describe().decode().split()
        self.max_dynamic_shared_size_bytes = DEFAULT_SHARED

    def __call__(self, grid, block, args, *, shared_mem=0, stream=None):
        if len(args) != len(self._signature):
            raise TypeError(f"{self._name} takes {len(self._signature)} arguments, got {len(args)}")
        if shared_mem > self.max_dynamic_shared_size_bytes:
            raise KernelError(f"{self._name}: {shared_mem} bytes of shared memory, but {self.max_dynamic_shared_size_bytes} were asked for")
        packed = [self._pack(k, a, kind) for k, (a, kind) in enumerate(zip(args, self._signature, strict=True))]
        pointers = (ctypes.c_void_p * max(1, len(packed)))(*[p.ctypes.data for p in packed])
        grid, block = [(ctypes.c_uint * 3)(*[*d, 1, 1][:3]) for d in (grid, block)]
        flush = ctypes.c_bool("double" not in self._name)  # CuPy's -ftz=true, which leaves doubles alone; here one switch is for both
        error = self._launch(grid, block, ctypes.c_size_t(shared_mem), ctypes.c_uint(self._seed), flush, pointers)
        if error is not None:
            raise KernelError(f"{self._name}: {self._place(error.decode())}")

    def _pack(self, k, a, kind):
        """The argument as a NumPy array whose bytes the kernel reads; CuPy's rules for the type of a scalar."""
        where = f"{self._name}, argument {k}"
        if kind.startswith("*"):
            if isinstance(a, np.uint64):  # an address
                return a.reshape(1)
            if not isinstance(a, np.ndarray):
                raise TypeError(f"{where}: the kernel takes a pointer, got {type(a).__name__}")
            have, want = f"{a.dtype.kind}{a.dtype.itemsize}", kind[1:].replace("const_", "")
            if want not in ("V0", have):
                raise TypeError(f"{where}: the kernel points to {want}, the array holds {have}")
            return np.array([a.ctypes.data], np.uintp)
        value = np.asarray(a)  # Python int: 8 bytes, Python float: a double
        if value.size != 1:
            raise TypeError(f"{where}: the kernel takes one {kind}, got an array of {value.size}")
        have = f"{value.dtype.kind}{value.dtype.itemsize}"
        if have != kind:
            raise TypeError(f"{where}: the kernel takes {kind}, got {have}")
        return value.reshape(1)

    def _place(self, text):
        """Addresses of code as file and line."""
        path = self._library._name
        with open("/proc/self/maps") as maps:
            base = next((int(line.split("-")[0], 16) for line in maps if line.rstrip().endswith(path)), 0)

        def line_of(match):
            found = subprocess.run(
                ["addr2line", "-e", path, hex(int(match[1], 16) - base - 1)], capture_output=True, text=True, check=False
            )
            return found.stdout.strip().split("/")[-1] or match[0]

        return re.sub(r"pc:(0x[0-9a-f]+)", line_of, text)


def _build(code, options, names, racecheck):
    exports = "".join(f"SHIM_EXPORT({k}, {name})\n" for k, name in enumerate(names))
    source = f'#include "cuda_on_cpu.h"\n#line 1 "kernel.cu"\n{code}\n#line 1 "exports"\n{exports}'
    folders = [pathlib.Path(o[2:]) for o in options if o.startswith("-I")] + [HERE]
    flags = ["g++", "-x", "c++", *FLAGS, *[o for o in options if not o.startswith("-I")], *(["-fsanitize=thread"] if racecheck else [])]
    layout = (HERE / "shared.ld").read_text()
    key = hashlib.sha256("\0".join([*flags, source, layout, *_included(source, folders).values()]).encode()).hexdigest()[:32]
    CACHE.mkdir(parents=True, exist_ok=True)
    library = CACHE / f"{key}.so"
    with open(CACHE / f"{key}.lock", "w") as lock:  # test workers want the same modules at the same time
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            with tempfile.TemporaryDirectory(dir=CACHE) as folder:
                _run([*flags, *[f"-I{f}" for f in folders], CHECKS, "-c", "-", "-o", f"{folder}/kernel.o"], source)
                _run(["g++", "-shared", f"-Wl,-T,{HERE / 'shared.ld'}", f"{folder}/kernel.o", "-o", f"{folder}/kernel.so"])
                os.rename(f"{folder}/kernel.so", library)
    module = ctypes.CDLL(str(library))
    module.shim_stacks(ctypes.byref(_stacks))
    return module


def _included(text, folders):
    """The headers that a text includes by quotes, directly or not: path -> text. A module is compiled again when one of them changes;
    asking the preprocessor for them takes 0.2 s for each module of each test."""
    found = {}
    for name in re.findall(r'^#include "([^"]+)"', text, re.MULTILINE):
        path = next((f / name for f in folders if (f / name).exists()), None)
        if path is not None and path not in found:
            inner = path.read_text()
            found |= {path: inner} | _included(inner, folders)
    return found


def _run(command, source=None):
    done = subprocess.run(command, input=source, capture_output=True, text=True, check=False)
    if done.returncode:
        raise KernelError(done.stderr)
    return done.stdout


def fenced(shape, dtype):
    """An array, filled with 0xff (NaN, -1), between two pages that nobody may touch: its end, to 16 bytes, lies at the second."""
    dtype = np.dtype(dtype)
    count = int(np.prod(shape, dtype=np.int64))
    room = -(-max(count * dtype.itemsize, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, room + 2 * mmap.PAGESIZE)
    base = np.frombuffer(memory, np.uint8).ctypes.data
    np.frombuffer(memory, np.uint8)[:] = 0xFF
    for edge in (base, base + mmap.PAGESIZE + room):
        if _libc.mprotect(ctypes.c_void_p(edge), ctypes.c_size_t(mmap.PAGESIZE), 0):
            raise OSError("mprotect failed")
    return np.frombuffer(memory, dtype, count, mmap.PAGESIZE + (room - count * dtype.itemsize) // 16 * 16).reshape(shape)
