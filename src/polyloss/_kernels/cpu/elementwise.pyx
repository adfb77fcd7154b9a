"""Losses of single elements over canonical arrays (n, c, s): values, slopes and curvatures in one pass, weighted, summed and scaled.

Where neither weights nor losses tell positions apart, everything is one long row. The formulas are those of formulas/elementwise.h; the
loops over a task, in C because they are compiled once per instruction set, are those of elementwise_simd.c; driver.pyx calls them.
"""

cimport numpy as cnp

import numpy as np

from polyloss._kernels.cpu.driver cimport Kernel, kernel_loops, isa_in_use, listed_loss

from polyloss._kernels.cpu.driver import facts, force, isa, isas, openmp  # no-cython-lint: for importers

cnp.import_array()

cdef extern from *:
    """
    #include "formulas/elementwise.h"
    typedef void elementwise_math(int function, int doubles, const void *x, void *y, ptrdiff_t n, double parameter);
    #define DECLARE_(isa) extern const kernel_loops elementwise_loops_##isa; elementwise_math elementwise_math_##isa;
    POLYLOSS_ISAS(DECLARE_)
    #define LISTED_(isa) &elementwise_loops_##isa,
    static const kernel_loops *const elementwise_builds[] = {POLYLOSS_ISAS(LISTED_)};
    #define MATH_(isa) elementwise_math_##isa,
    static elementwise_math *const math_builds[] = {POLYLOSS_ISAS(MATH_)};
    #define ELEMENTWISE_NAME_(name, count, names) {#name, names, 0},
    static const listed_loss elementwise_losses[] = {FORMULAS(ELEMENTWISE_NAME_)};
    enum { ELEMENTWISE_LOSSES = sizeof elementwise_losses / sizeof *elementwise_losses };
    """
    const kernel_loops *const *elementwise_builds
    ctypedef void elementwise_math(int function, int doubles, const void *x, void *y, Py_ssize_t n, double parameter)
    elementwise_math *const *math_builds
    const listed_loss *elementwise_losses
    int ELEMENTWISE_LOSSES

cdef Kernel kernel = Kernel()
kernel.fill(elementwise_builds, elementwise_losses, ELEMENTWISE_LOSSES)
FORMULAS, PARAMETERS, bind, run = kernel.numbers, kernel.parameters, kernel.bind, kernel.run
MATH = {name: i for i, name in enumerate(
    ("exp", "exp_neg", "log", "log1p", "log1p_01", "log1m_half", "log_half", "log_cosh", "tanh", "power", "max", "min"))}


def math(str name, cnp.ndarray x, double parameter=0.0):
    """A function of vector_math.h on a contiguous array of float32 or float64; for its tests."""
    y = np.empty_like(x)
    math_builds[isa_in_use()](MATH[name], cnp.PyArray_TYPE(x) == cnp.NPY_FLOAT64, cnp.PyArray_DATA(x),
                              cnp.PyArray_DATA(<cnp.ndarray>y), x.size, parameter)
    return y
