"""Losses of one number at each position, of which two numbers are predicted, as the mean and the variance of a normal distribution.

The formulas are those of formulas/values.h; the loops over a task are those of values_simd.c, one build per instruction set; driver.pyx
calls them.
"""
from polyloss._kernels.cpu.driver cimport Kernel, kernel_loops, listed_loss

from polyloss._kernels.cpu.driver import facts, force, isa, isas, openmp  # no-cython-lint: for importers

cdef extern from *:
    """
    #include "formulas/values.h"
    #define DECLARE_(isa) extern const kernel_loops values_loops_##isa;
    POLYLOSS_ISAS(DECLARE_)
    #define LISTED_(isa) &values_loops_##isa,
    static const kernel_loops *const values_builds[] = {POLYLOSS_ISAS(LISTED_)};
    #define VALUES_NAME_(name, parameters) {#name, parameters, 3},
    static const listed_loss values_losses[] = {VALUES(VALUES_NAME_)};
    enum { VALUES_LOSSES = sizeof values_losses / sizeof *values_losses };
    """
    const kernel_loops *const *values_builds
    const listed_loss *values_losses
    int VALUES_LOSSES

cdef Kernel kernel = Kernel()
kernel.fill(values_builds, values_losses, VALUES_LOSSES)
PARAMETERS, bind, run = kernel.parameters, kernel.bind, kernel.run
