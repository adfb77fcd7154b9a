"""Losses that consume a row of classes, except the softmax cross-entropies: those of probabilities, focal, hinges, cosine.

The formulas are those of the blocks in classification.py and similarity.py: formulas/rowwise.h holds them, rowwise_loops.h sums a row at a
time, rowwise_simd.c is compiled once per instruction set, and driver.pyx calls it.
"""
from polyloss._kernels.cpu.driver cimport Kernel, kernel_loops, listed_loss

from polyloss._kernels.cpu.driver import facts, force, isa, isas, openmp  # no-cython-lint: for importers

cdef extern from *:
    """
    #include "formulas/rowwise.h"
    #define DECLARE_(isa) extern const kernel_loops rowwise_loops_##isa;
    POLYLOSS_ISAS(DECLARE_)
    #define LISTED_(isa) &rowwise_loops_##isa,
    static const kernel_loops *const rowwise_builds[] = {POLYLOSS_ISAS(LISTED_)};
    #define ROWWISE_NAME_(name, parameters, labels) {#name, parameters, labels},
    static const listed_loss rowwise_losses[] = {ROWWISE(ROWWISE_NAME_)};
    enum { ROWWISE_LOSSES = sizeof rowwise_losses / sizeof *rowwise_losses };
    """
    const kernel_loops *const *rowwise_builds
    const listed_loss *rowwise_losses
    int ROWWISE_LOSSES

cdef Kernel kernel = Kernel()
kernel.fill(rowwise_builds, rowwise_losses, ROWWISE_LOSSES)
LOSSES, PARAMETERS, bind, run = kernel.numbers, kernel.parameters, kernel.bind, kernel.run
