"""JAX: products with weights, and targets behind weights, whose derivatives are 0 where the weight is.

A position of weight 0 has no slope, whatever autograd hands down to it. In a mean over weights that add up to NaN that is NaN, and 0 times
NaN is no 0. To replace it by `where` would take away more: the second derivative with respect to a weight of 0 and a target, which is the
slope of the unweighted loss. `jax.custom_jvp` cannot say so either: reverse mode transposes the function itself. So these are operations of
XLA's programs with rules of their own, linear in x.
"""

import jax
from jax import numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


def weighted(x, factor, zero):
    """x times a factor, and 0 where the weight is `zero`, whatever x; with respect to the factor the derivative is x there, too."""
    return _bound(_weighted, zero, x, factor)


def hidden(x, zero):
    """x, and 0 where it is infinite or NaN and `zero` says that it has a factor of 0.

    What comes down from above is looked at before it is multiplied by that factor. So XLA leaves nothing of the 1 that comes to a loss.
    """
    return _bound(_hidden, zero, x)


def behind(x, zero):
    """x, of which no derivative that is infinite or NaN is handed on where the weight is `zero`."""
    return _bound(_behind, zero, x)


def _bound(operation, zero, x, *factors):
    operands = jnp.broadcast_arrays(zero, *factors, x)
    if len({jax.typeof(operand).sharding for operand in operands}) > 1:  # on an explicit mesh, where a sum takes them together
        operands = [sum((jnp.zeros_like(other, operand.dtype) for other in operands), operand) for operand in operands]
    return operation.bind(*operands)


def _operation(name, evaluate, transposed=None):
    """An operation that is linear in its last operand; transposed it is itself, or another with the same operands."""
    operation = Primitive(name)
    operation.def_impl(evaluate)
    operation.def_abstract_eval(lambda *operands: operands[-1])
    mlir.register_lowering(operation, mlir.lower_fun(evaluate, multiple_results=False))
    batching.primitive_batchers[operation] = lambda arrays, axes: (operation.bind(*_batched(arrays, axes)), 0)

    def transpose(down, *operands):
        *others, x = operands
        down = ad.Zero(x.aval) if type(down) is ad.Zero else (transposed or operation).bind(*others, down)
        return *[None] * len(others), down

    ad.primitive_transposes[operation] = transpose
    return operation


def _batched(arrays, axes):
    """Arrays with the axis that is mapped in front."""
    pairs = list(zip(arrays, axes, strict=True))
    size = next(x.shape[axis] for x, axis in pairs if axis is not None)
    return [jnp.broadcast_to(x, (size, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0) for x, axis in pairs]


_weighted = _operation("polyloss_weighted", lambda zero, factor, x: jnp.where(zero, jnp.zeros_like(x), factor * x))
_hidden = _operation("polyloss_hidden", lambda zero, x: jnp.where(zero & ~jnp.isfinite(x), jnp.zeros_like(x), x))
_behind = _operation("polyloss_behind", lambda zero, x: x, transposed=_hidden)
ad.defjvp(_weighted, None, lambda moved, zero, factor, x: moved * x, lambda moved, zero, factor, x: _weighted.bind(zero, factor, moved))
ad.defjvp(_hidden, None, lambda moved, zero, x: _hidden.bind(zero, moved))
ad.defjvp(_behind, None, lambda moved, zero, x: _behind.bind(zero, moved))
