"""Every loss of the registry on every array library."""

from importlib import import_module

import polyloss as pl

from . import cases

LIBRARIES = {
    "numpy": lambda x: x,
    "torch": lambda x: import_module("torch").from_numpy(x),
    "jax": lambda x: import_module("jax.numpy").asarray(x),
    "dask": lambda x: import_module("dask.array").from_array(x, chunks=(128, *x.shape[1:])),
    "array_api_strict": lambda x: import_module("array_api_strict").asarray(x),
}
CALLS = {call.name: call for call in cases.calls()}


def finished(result):
    """The result once it is there: JAX computes in the background, Dask when asked."""
    for x in result if isinstance(result, tuple) else (result,):
        for wait in ("block_until_ready", "compute"):
            if hasattr(x, wait):
                getattr(x, wait)()


class Losses:
    """One loss, one library.

    512×1024: half a million elements, 2 MB of float32, take a kernel a tenth of a millisecond, where threads begin to pay, and the slowest
    formula some tens; rows of 1024 are as long as those of classifiers.
    """

    shape = (512, 1024)
    params = (list(CALLS), list(LIBRARIES), ["float32", "float64"])
    param_names = ("loss", "library", "dtype")

    def setup(self, loss, library, dtype):
        """Make the inputs; skip a library that is not installed."""
        call, self.options = CALLS[loss], CALLS[loss].options
        try:
            if library == "jax":
                import_module("jax").config.update("jax_enable_x64", True)
            self.arrays = [LIBRARIES[library](x) for x in call.arrays(self.shape, dtype)]
        except ImportError as error:
            raise NotImplementedError(f"{library} is not installed") from error
        self.value, self.value_and_grad = pl.get(call.loss), pl.value_and_grad(call.loss)

    def time_value(self, loss, library, dtype):
        """The mean alone."""
        finished(self.value(*self.arrays, **self.options))

    def time_value_and_grad(self, loss, library, dtype):
        """The mean and a fresh gradient."""
        finished(self.value_and_grad(*self.arrays, **self.options))
