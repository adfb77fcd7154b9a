"""JAX: what is infinite or NaN is hidden where it has a factor of 0, also when autograd hands it down.

A position of weight 0 has no slope, whatever comes down to it: in a mean over weights that add up to NaN that is NaN, and 0 times NaN is no
0. `where` would take away more: the second derivative with respect to a weight of 0 and a target, which is the slope of the unweighted
loss. `jax.custom_jvp` cannot say so either: reverse mode transposes the function itself. So this is an operation of XLA's programs with
rules of its own: it counts as linear in x, and transposed it is itself. What comes down is looked at before it is multiplied: where that is
the 1 that comes to a loss, XLA leaves nothing of it.
"""

import jax
from jax import numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from polyloss._call import formula


def hide(xp, x, zero):
    """As `formula.hide`, and the same of x's tangents and cotangents. `zero` may be None or (n, s), x may be (n, c, s)."""
    return x if zero is None else _hide.bind(*_alike(zero, x))


def behind(x, zero):
    """x itself, of whose tangents and cotangents the same is hidden; those of an entry that is infinite or NaN are left alone."""
    zero, x = _alike(zero, x)
    return jnp.where(jnp.isfinite(x), _hide.bind(zero, x), x)


def _alike(zero, x):
    operands = jnp.broadcast_arrays(formula.beside_classes(zero, x), x)
    if len({jax.typeof(operand).sharding for operand in operands}) > 1:  # on an explicit mesh, where a sum takes them together
        operands = [sum((jnp.zeros_like(other, operand.dtype) for other in operands), operand) for operand in operands]
    return operands


def _evaluate(zero, x):
    return formula.hide(jnp, x, zero)


def _transpose(down, zero, x):
    return None, ad.Zero(x.aval) if type(down) is ad.Zero else _hide.bind(zero, down)


def _batch(arrays, axes):
    size = next(x.shape[axis] for x, axis in zip(arrays, axes, strict=True) if axis is not None)
    return _hide.bind(*(batching.bdim_at_front(x, axis, size) for x, axis in zip(arrays, axes, strict=True))), 0


_hide = Primitive("polyloss_hide")
_hide.def_impl(_evaluate)
_hide.def_abstract_eval(lambda zero, x: x)
mlir.register_lowering(_hide, mlir.lower_fun(_evaluate, multiple_results=False))
batching.primitive_batchers[_hide] = _batch
ad.primitive_transposes[_hide] = _transpose
ad.defjvp(_hide, None, lambda moved, zero, x: _hide.bind(zero, moved))
