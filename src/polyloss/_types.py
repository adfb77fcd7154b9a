"""Names of the types in the public functions' signatures."""

from typing import Any, Literal, TypeAlias

Array: TypeAlias = Any  # an array of any library (NumPy, CuPy, PyTorch, JAX, Dask, ...), a list of numbers, or a number
Reduction: TypeAlias = Literal["none", "sum", "mean", "sum_over_batch_size", "mean_with_sample_weight"] | None
