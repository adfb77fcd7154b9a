# What every kernel module tells about itself and how it is told otherwise; included by the .pyx files.
import os

cdef extern from "isa.h":
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
cdef bint in_forked_child = False


def isas():
    """Names of the instruction sets that this build holds and this machine can execute, best first."""
    return tuple(isa_names[i].decode().replace("x86_64_", "x86-64-") for i in range(ISA_COUNT) if isa_supported(i))


def isa():
    """Name of the instruction set in use."""
    return isa_names[isa_used].decode().replace("x86_64_", "x86-64-")


def force(name):
    """Use this instruction set, in this process, from now on. For tests; POLYLOSS_ISA does the same at import."""
    global isa_used
    if name not in isas():
        raise ValueError(f"instruction set {name!r} is not one of {', '.join(isas())}")
    for i in range(ISA_COUNT):
        if isa_names[i].decode().replace("x86_64_", "x86-64-") == name:
            isa_used = i


def openmp():
    """Whether the module was built with OpenMP; without it everything runs on the calling thread."""
    return built_with_openmp


def _after_fork_in_child():
    # libgomp's threads don't survive a fork, and its next parallel region would wait for them for ever.
    global in_forked_child
    in_forked_child = True


if not isas():
    raise ImportError("the compiled kernels need a processor of the level x86-64-v2 (SSE4.2)")
force(os.environ.get("POLYLOSS_ISA") or isas()[0])
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
