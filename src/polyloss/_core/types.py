"""Names of the types in the public functions' signatures.

`Array` is Any on purpose. One function serves every library, and no annotation tells what it gives: a NumPy scalar for a sum over NumPy
arrays, float64 for integers, an array for a list. A protocol of the array API would refuse a tensor's ``loss.backward()``.
For the same reason the pair that `return_prob` asks for has no overload: mypy takes the first overload of a function that is handed on as
``Callable[P, R]``, so `value_and_grad` would refuse ``return_prob=True``. What an annotation can tell it tells: the arguments of every
function, those of its derivatives, which results are pairs, and what an accumulator gives.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, ParamSpec, Protocol, TypeAlias, TypeVar, overload

Array: TypeAlias = Any  # an array of any library (NumPy, CuPy, PyTorch, JAX, Dask, ...), a list of numbers, or a number
Reduction: TypeAlias = Literal["none", "sum", "mean", "sum_over_batch_size", "mean_with_sample_weight"] | None
Loss: TypeAlias = str | Callable[..., Any]  # a public function, or its name
LossAndParameters: TypeAlias = Loss | tuple[Loss, Mapping[str, Any]] | list[Any]

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
O_contra = TypeVar("O_contra", contravariant=True)


class Derivative(Protocol[P, R_co, O_contra]):
    """What `value_and_grad` and its relatives make of a loss with parameters `P`: the same call, with other results, and with `out`.

    A keyword cannot be added to those of a ParamSpec, so the second form, which is taken with `out`, leaves the others unchecked.
    """

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(self, *args: Any, out: O_contra, **kwargs: Any) -> R_co: ...
