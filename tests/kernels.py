"""What the tests of the compiled kernels share. NumPy and pytest suffice for them: wheels are tested where no other library is."""

import ctypes
import mmap

import numpy as np
import pytest

ELEMENTWISE = {
    "mean_squared_error": (),
    "mean_absolute_error": (),
    "mean_absolute_percentage_error": (1e-7,),
    "mean_squared_logarithmic_error": (1e-7,),
    "hinge": (0.0,),
    "squared_hinge": (0.0,),
    "binary_crossentropy": (1e-7, 0.0),
    "binary_crossentropy_from_logits": (0.0,),
    "weighted_binary_crossentropy": (2.5, 1e-7, 0.0),
    "weighted_binary_crossentropy_from_logits": (2.5, 0.0),
    "floored_binary_crossentropy": (),
    "huber": (1.0,),
    "log_cosh": (),
    "poisson": (0.0,),
    "poisson_from_logarithms": (0.0,),
    "smooth_l1": (1.0,),
    "pseudo_huber": (1.0,),
    "quantile_loss": (0.25,),
    "poisson_deviance": (),
    "poisson_deviance_from_logarithms": (),
    "gamma_deviance": (),
    "gamma_deviance_from_logarithms": (),
    "tweedie_deviance": (1.5,),
    "tweedie_deviance_from_logarithms": (1.5,),
    "exponential": (0.0,),
    "logistic": (0.0,),
    "hinge_embedding": (1.0,),
    "kl_divergence": (1e-7,),
    "kl_from_logarithms": (),
    "kl_between_logarithms": (),
    "binary_focal_crossentropy": (0.0, 0.25, 2.0, 1e-7, 0.0),
    "binary_focal_crossentropy_from_logits": (0.0, 0.25, 2.0, 0.0),
}  # and their usual parameters
ROWWISE = {
    "categorical_crossentropy": (1e-7, 0.0),
    "categorical_focal_crossentropy": (0.25, 2.0, 1e-7, 0.0),
    "categorical_focal_crossentropy_from_logits": (0.25, 2.0, 0.0),
    "sparse_categorical_crossentropy": (1e-7,),
    "categorical_hinge": (),
    "cosine_similarity": (),
    "floored_cosine_similarity": (1e-12,),
    "multiclass_hinge": (1.0, 1, False),
    "brier": (),
    "generalized_crossentropy": (0.7,),
}
SETS = {"overlap": (0.25, 0.75, 1e-7)}
VALUES = {"gaussian_nll": (), "gaussian_of_variance": (1e-6, 0.0)}
OF_LABELS = (
    "sparse_categorical_crossentropy",
    "multiclass_hinge",
    "brier",
    "generalized_crossentropy",
)  # the row-wise losses that take labels, not targets


def every_isa(module):
    """A fixture: the module uses each instruction set that it holds and this machine executes."""

    @pytest.fixture(params=module.isas())
    def isa(request):
        before = module.isa()
        module.force(request.param)
        yield request.param
        module.force(before)

    return isa


def to_bits(x):
    """float32 to the bits of bfloat16, to nearest even."""
    u = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((u + 0x7FFF + (u >> 16 & 1)) >> 16).astype(np.uint16)


def from_bits(b):
    return (b.astype(np.uint32) << 16).view(np.float32)


def arranged(x, layout):
    """The same numbers in another place of memory."""
    backwards, gaps = (slice(None, None, -1),) * x.ndim, (slice(1, None, 2),) * x.ndim
    if layout == "fortran":
        return np.asfortranarray(x)
    if layout == "reversed":
        return np.ascontiguousarray(x[backwards])[backwards]
    if layout == "strided":
        wide = np.zeros(tuple(2 * n + 1 for n in x.shape), x.dtype)
        wide[gaps] = x
        return wide[gaps]
    if layout == "offset":
        flat = np.zeros(x.size + 3, x.dtype)
        flat[3:] = x.ravel()
        return flat[3:].reshape(x.shape)
    if layout == "channels last":
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    assert layout == "c"
    return np.ascontiguousarray(x)


def fenced(x, side):
    """A copy of an array that ends, or begins, where memory begins, or ends, that may be neither read nor written."""
    page = mmap.PAGESIZE
    room = -(-x.nbytes // page) * page
    memory = mmap.mmap(-1, room + 2 * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for fence in (start, start + page + room):
        if ctypes.CDLL(None).mprotect(ctypes.c_void_p(fence), ctypes.c_size_t(page), 0):
            raise OSError("the system did not take the page away")
    copy = np.ndarray(x.shape, x.dtype, memory, {"end": page + room - x.nbytes, "beginning": page}[side])
    copy[...] = x
    return copy
