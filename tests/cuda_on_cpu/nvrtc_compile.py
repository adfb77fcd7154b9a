"""CuPy's own way from source to machine code, NVRTC and all, on a machine without a driver.

It goes through private names of CuPy 14.2: the test requirements pin that version.
"""

import io
import os

os.environ["CUPY_CACHE_IN_MEMORY"] = "1"  # a kernel from the disk cache would come without the compiler's report

from cupy._core import core
from cupy.cuda import compiler, function
from cupy_backends.cuda.libs import nvrtc


class _Unloaded(function.Module):
    """Keeps the machine code that the driver would get."""

    def load(self, cubin):
        self.cubin = cubin


class _Functions:
    Module = _Unloaded
    LinkState = function.LinkState


compiler.function = _Functions
compiler._get_arch_for_options_for_nvrtc = compiler._get_arch_for_options_for_nvrtc.__wrapped__


def compiled(code, options, arch, names):
    """The module's machine code for an architecture ("90"), and the assembler's report of registers and spills."""
    log = io.StringIO()
    module = core.compile_with_cache(
        code, (*options, "--ptxas-options=-v"), arch, prepend_cupy_headers=False, name_expressions=tuple(names), log_stream=log
    )
    return module.cubin, log.getvalue()


def ptx(code, options, arch, names):
    """The intermediate code, as text."""
    program = nvrtc.createProgram(code, "kernel.cu", (), ())
    for name in names:
        nvrtc.addNameExpression(program, name)
    nvrtc.compileProgram(program, (*core.assemble_cupy_compiler_options(options), f"-arch=compute_{arch}"))
    text = nvrtc.getPTX(program)
    nvrtc.destroyProgram(program)
    return text.decode() if isinstance(text, bytes) else text
