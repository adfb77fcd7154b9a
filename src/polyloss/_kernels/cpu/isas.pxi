# Part of driver.pyx: which instruction set the kernels use, and whether they may use threads.
import os

from polyloss._core import threads as _threads

cdef extern from "simd/isa.h":
    int ISA_COUNT
    const char *const *isa_names
    bint isa_supported(int i)

cdef extern from *:
    """
    #ifdef _OPENMP
    enum { built_with_openmp = 1 };
    #else
    enum { built_with_openmp = 0 };
    #endif
    """
    bint built_with_openmp

cdef int isa_used = 0  # index into the tables that POLYLOSS_ISAS makes
cdef bint in_forked_child = _threads.alone()  # a parallel region could wait for ever for threads that the parent had


cdef int isa_in_use() noexcept nogil:
    return isa_used


def isas():
    """Names of the instruction sets that this build holds and this machine can execute, best first."""
    return tuple(isa_names[i].decode().replace("x86_64_", "x86-64-") for i in range(ISA_COUNT) if isa_supported(i))


def isa():
    """Name of the instruction set in use."""
    return isa_names[isa_used].decode().replace("x86_64_", "x86-64-")


def force(name):
    """Let every kernel use this instruction set, in this process, from now on. For tests; POLYLOSS_ISA does the same at import."""
    global isa_used
    if name not in isas():
        raise ValueError(f"instruction set {name!r} is not one of {', '.join(isas())}")
    for i in range(ISA_COUNT):
        if isa_names[i].decode().replace("x86_64_", "x86-64-") == name:
            isa_used = i


def openmp():
    """Whether the kernels were built with OpenMP; without it everything runs on the calling thread."""
    return built_with_openmp


def _after_fork_in_child():
    global in_forked_child
    in_forked_child = True


if not isas():
    raise ImportError("the compiled kernels need a processor of the level x86-64-v2 (SSE4.2)")
force(os.environ.get("POLYLOSS_ISA") or isas()[0])
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
