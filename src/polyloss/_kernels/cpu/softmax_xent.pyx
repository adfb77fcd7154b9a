"""Fused softmax cross-entropy of (N, C, S) logits: loss, gradient, probabilities, second derivative, in one pass over the logits.

The loops over a tile of positions are those of softmax_xent_simd.c, one build per instruction set; driver.pyx calls them.
"""
from polyloss._kernels.cpu.driver cimport Kernel, kernel_loops, listed_loss

from polyloss._kernels.cpu.driver import facts, force, isa, isas, openmp  # no-cython-lint: for importers

cdef extern from "cpu/softmax/job.h":
    int FEW_CLASSES "FEW"

cdef extern from *:
    """
    #define DECLARE_(isa) extern const kernel_loops softmax_loops_##isa;
    POLYLOSS_ISAS(DECLARE_)
    #define LISTED_(isa) &softmax_loops_##isa,
    static const kernel_loops *const softmax_builds[] = {POLYLOSS_ISAS(LISTED_)};
    static const listed_loss softmax_losses[] = {{"softmax_xent", "label_smoothing poly_epsilon z_loss softcap", 2}};
    """
    const kernel_loops *const *softmax_builds
    const listed_loss *softmax_losses

cdef Kernel kernel = Kernel()
kernel.fill(softmax_builds, softmax_losses, 1)
FEW = FEW_CLASSES  # as many or fewer: the gradient of float32 and float64 logits cannot replace them
PARAMETERS, bind, run = kernel.parameters, kernel.bind, kernel.run


def fused(z, y, *, ignore=(), double smoothing=0.0, double poly_epsilon=0.0, double z_loss=0.0, double softcap=0.0, **options):
    """Fill the outputs that are given; return (sum of w * loss, sum of w * k[label], positions not ignored, first bad position or -1).

    Parameters
    ----------
    z : (N, C, S) float32, float64, float16, or uint16 with the bits of bfloat16 where `bf16`
        Logits, at any strides.
    y : (N, S) of any integer type, or (N, C, S) soft targets
        Soft targets are float32, or float64 where `z` is.
    ignore : tuple of int
        Labels whose positions are skipped: loss 0, gradient 0.
    class_weight, weight : (C,), (N, S) in the computation's type
        Weight 0 skips the position.
    z_loss, softcap : float
        Adds z_loss * lse² to each position's loss, times its weight; logits become softcap * tanh(z / softcap), where that is not 0.
    losses : (N, S) output in the computation's type
    grad, prob, hess : (N, C, S) outputs in the type of `z`
        May lie anywhere but over the inputs. `grad` and `hess` are multiplied by `scale`. `grad` alone may be `z` itself, of
        more than `FEW` classes, if they are contiguous float32 or float64; or of float32 if the positions are, all of N = 1, and class
        weights do not meet smoothing.
    """
    return kernel.run("softmax_xent", y, z, (smoothing, poly_epsilon, z_loss, softcap), ignore=ignore, **options)
