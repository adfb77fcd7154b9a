"""Losses of sets of positions, the Tversky index and its kin: the sums of a set in one visit, the derivatives in a second one.

The loops over a task are those of sets_simd.c, one build per instruction set; driver.pyx calls them.
"""
from polyloss._kernels.cpu.driver cimport Kernel, kernel_loops, listed_loss

from polyloss._kernels.cpu.driver import facts, force, isa, isas, openmp  # no-cython-lint: for importers

cdef extern from *:
    """
    #define DECLARE_(isa) extern const kernel_loops sets_loops_##isa;
    POLYLOSS_ISAS(DECLARE_)
    #define LISTED_(isa) &sets_loops_##isa,
    static const kernel_loops *const sets_builds[] = {POLYLOSS_ISAS(LISTED_)};
    static const listed_loss sets_losses[] = {{"overlap", "alpha beta epsilon", 0}};
    """
    const kernel_loops *const *sets_builds
    const listed_loss *sets_losses

cdef Kernel kernel = Kernel()
kernel.fill(sets_builds, sets_losses, 1)
PARAMETERS, bind, run = kernel.parameters, kernel.bind, kernel.run
