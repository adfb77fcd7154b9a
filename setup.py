"""Builds the kernels; everything that isn't a kernel stands in pyproject.toml.

Every X.pyx in src/polyloss/_kernels becomes a module of that name in that place. Where there is an X_simd.c below it, that file is compiled
once per instruction set and all the objects are linked into the one module, which picks among them at run time (simd/isa.h). Includes are
written from src/polyloss/_kernels. Without a compiler, without OpenMP or on another machine the package installs all the same, with fewer
or plainer kernels; POLYLOSS_REQUIRE_KERNELS=1 makes it an error.
"""

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import Cython
import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError, LinkError
from setuptools.modified import newer_group

KERNELS = Path("src/polyloss/_kernels")
SHARED = sorted(str(p) for suffix in ("*.h", "*.pxi", "*.pxd") for p in KERNELS.rglob(suffix))
X86_64 = {
    # gcc splits 512-bit vectors in halves where nobody tells it not to.
    "x86_64_v4": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
    "x86_64_v3": ["-march=x86-64-v3"],
    "x86_64_v2": ["-march=x86-64-v2"],
}
X86_64_PROBE = """
#ifndef __x86_64__
#error "another machine"
#endif
int main(void) { return 0; }
"""
# For `make sanitize`, which names one of them in POLYLOSS_SANITIZE: every access and operation is checked, or every pair of accesses by
# two threads. Python's own flags say -fwrapv, under which no sum can overflow.
SANITIZERS = {
    "address": ["-O1", "-g", "-fno-wrapv", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "thread": ["-O1", "-g", "-fsanitize=thread"],  # clang's, which hears of what its own OpenMP library does
}
SANITIZER = os.environ.get("POLYLOSS_SANITIZE", "")
SANITIZE = SANITIZERS[SANITIZER] if SANITIZER else []
DEBUG = os.environ.get("POLYLOSS_DEBUG", "0") != "0"  # for a debugger: nothing is optimised away
OPENMP = [(["-fopenmp"], ["-fopenmp"]), (["-Xpreprocessor", "-fopenmp"], ["-lomp"])]  # gcc and clang; Apple's clang
OPENMP_MSVC = [(["/openmp"], [])]
OPENMP_PROBE = """
#include <omp.h>
int main(void) { return omp_get_max_threads() < 1; }
"""


class BuildKernels(build_ext):
    """Ask the compiler what it can do, then build the loops once per instruction set."""

    def compiles(self, source, compile_args, link_args=None):
        """Whether the compiler takes this program; with link_args, whether the linker takes it too."""
        with tempfile.TemporaryDirectory() as folder:
            probe = Path(folder, "probe.c")
            probe.write_text(source)
            try:
                objects = self.compiler.compile([str(probe)], output_dir=folder, extra_postargs=compile_args)
                if link_args is not None:
                    self.compiler.link_executable(objects, "probe", output_dir=folder, extra_postargs=link_args)
            except (CompileError, LinkError, OSError):  # OSError: no such compiler
                return False
        return True

    def build_extensions(self):
        msvc = self.compiler.compiler_type == "msvc"
        # No debug information: it makes the wheel ten times as large.
        usual = ["-O0", "-g3"] if DEBUG else ["-O3", "-g0"]
        self.common = ["/O2", "/std:c11"] if msvc else [*(SANITIZE or usual), "-fvisibility=hidden"]
        self.loops = self.common if msvc else [*self.common, "-std=gnu11", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"]
        every = all(not msvc and self.compiles(X86_64_PROBE, flags) for flags in X86_64.values())
        self.isas = X86_64 if every else {"baseline": []}
        self.openmp = next((o for o in (OPENMP_MSVC if msvc else OPENMP) if self.compiles(OPENMP_PROBE, *o)), ([], []))
        self.macros = [("POLYLOSS_X86_64", "1")] if self.isas is X86_64 else []
        # The loops first, since two files of them take as long as everything else; then setuptools builds the modules in parallel, too.
        self.parallel = self.parallel or min(os.cpu_count() or 1, 8)
        with ThreadPoolExecutor(self.parallel) as pool:
            self.objects = {ext.name: [pool.submit(self.compile_loops, ext, isa) for isa in self.isas] for ext in self.extensions}
        super().build_extensions()

    def build_extension(self, ext):
        ext.optional = os.environ.get("POLYLOSS_REQUIRE_KERNELS", "0") == "0"
        try:
            self.build_kernels(ext)
        except OSError as error:
            raise CompileError(str(error)) from error

    def compile_loops(self, ext, isa):
        """The objects of a module's loops for one instruction set; none if the module is newer than what it is made of."""
        loops = [path for path in ext.depends if path.endswith("_simd.c")]
        stale = self.force or newer_group([*ext.sources, *ext.depends], self.get_ext_fullpath(ext.name))
        if not (stale and loops):
            return []
        return self.compiler.compile(
            loops,
            output_dir=f"{self.build_temp}/{isa}",
            macros=[*self.macros, ("ISA", isa)],
            include_dirs=ext.include_dirs,
            extra_postargs=[*self.loops, *self.isas[isa]],
        )

    def build_kernels(self, ext):
        for objects in self.objects[ext.name]:
            ext.extra_objects += objects.result()
        ext.define_macros += self.macros
        ext.extra_compile_args += [*self.common, *self.openmp[0]]
        ext.extra_link_args += [*self.openmp[1], *SANITIZE]
        super().build_extension(ext)


def kernel(pyx):
    """The module that a .pyx becomes."""
    return Extension(
        ".".join(pyx.relative_to("src").with_suffix("").parts),
        [str(pyx)],
        include_dirs=[str(KERNELS), numpy.get_include()],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")],
        depends=[*SHARED, *(str(p) for p in pyx.parent.rglob(f"{pyx.stem}_simd.c"))],
    )


directives = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": True,
    "freethreading_compatible": True,
}
# Cython's C holds the declarations of the NumPy that it was made beside, and does not compile beside another.
generated = f"build/cython-{Cython.__version__}-numpy-{numpy.__version__}"
kernels = [kernel(pyx) for pyx in sorted(KERNELS.rglob("*.pyx"))]
setup(
    ext_modules=cythonize(kernels, build_dir=generated, compiler_directives=directives, include_path=[str(KERNELS)]),
    cmdclass={"build_ext": BuildKernels},
    options={"build": {"build_base": f"build/sanitized/{SANITIZER}"}} if SANITIZE else {},
)
