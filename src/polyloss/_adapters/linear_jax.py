"""`linear_softmax_loss` of JAX arrays: chunks in a `lax.scan`, whose backward pass hands over the gradients found with the value.

Under `jax.grad` and `jax.vjp` a scalar loss is computed together with its gradients. Under reduction="none" these depend on the cotangents,
which come later: there the backward pass goes through the chunks once more. Derivatives with respect to weights of positions or classes are
computed from all logits at once.

The kernel replaces a chunk's logits by their gradient where they lie, and the two products with them go some classes at a time: XLA's
matmul of all classes packs 8 MB for each thread, and the product that is added to the weight's gradient is never there as a whole.
"""

from functools import partial
from typing import Any

import jax
from jax import lax, numpy as jnp

from polyloss._call.call import called
from polyloss._call.cpu import softmax_in_place
from polyloss._call.plan import BOTH, VALUE
from polyloss._call.prepare import IN_PLACE
from polyloss._core.backends import backend_of
from polyloss._core.labels import sort_labels
from polyloss._linear_softmax.chunks import SUMMAND, Head, Rows, chunk_options, even, refuse, results
from polyloss.softmax import SoftmaxLoss, softmax_loss


def call(head):
    """The results of a call on JAX's arrays or their tracers."""
    rules = head.rules
    if rules.validate and not isinstance(head.labels, jax.core.Tracer):
        refuse(head, sort_labels(jnp, head.labels, rules.c, rules.ignore)[2])
    rules = rules._replace(validate=False)
    operands, rest = (head.features, head.weight, head.bias), (head.labels, head.sample_weight, head.class_weight, head.denominator)
    if not head.want.gradient:
        return results(head, _loss(rules, operands, rest), None)
    return results(head, *_gradients(rules, (True, True, head.bias is not None), operands, rest, None))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _loss(rules, operands, rest):
    """The value."""
    return _visited(rules, (False,) * 3, operands, rest, None)[0]


@partial(jax.jit, static_argnums=(0, 1))
def _gradients(rules, needs, operands, rest, upstream):
    """The value and the gradients in the dtypes of their arrays."""
    value, gradients = _visited(rules, needs, operands, rest, upstream)
    return value, tuple(g if g is None else g.astype(x.dtype) for g, x in zip(gradients, operands, strict=True))


def _forward(rules, operands, rest):
    """The value, and what the backward pass needs: gradients in the dtype of the computation, or the arguments once more."""
    needs = tuple(x is not None and x.perturbed for x in operands)
    elsewhere = any(x is not None and x.perturbed for x in rest)
    operands, rest = jax.tree.map(lambda x: x.value, (operands, rest), is_leaf=lambda x: hasattr(x, "perturbed"))
    if elsewhere:
        labels, *weights = rest
        value, back = jax.vjp(lambda operands, weights: _plain(rules, operands, (labels, *weights)), operands, weights)
        return value, {"back": back}
    if rules.reduction == "none":
        return _loss(rules, operands, rest), {"arguments": (operands, rest)}
    value, gradients = _visited(rules, needs, operands, rest, None)
    return value, {"gradients": gradients, "like": [x if x is None else x[:0] for x in operands]}


def _backward(rules, kept, upstream):
    if "back" in kept:
        operands, weights = kept["back"](upstream)
        return operands, (None, *weights)
    if "arguments" in kept:
        operands, rest = kept["arguments"]
        needs = tuple(x is not None for x in operands)
        return _gradients(rules, needs, operands, rest, upstream)[1], (None,) * 4
    gradients = (g if g is None else (g * upstream).astype(x.dtype) for g, x in zip(kept["gradients"], kept["like"], strict=True))
    return tuple(gradients), (None,) * 4


_loss.defvjp(_forward, _backward, symbolic_zeros=True)


def _plain(rules, operands, rest):
    """The value from all logits at once."""
    (features, weight, bias), (labels, sample_weight, class_weight, denominator) = operands, rest
    logits = jnp.matmul(features, weight.T, preferred_element_type=jnp.dtype(rules.dtype))
    if bias is not None:
        logits = logits + bias.astype(logits.dtype)
    options = {}
    if rules.reduction == "normalize":
        options = {"normalization": "valid", "denominator": denominator if isinstance(rules.divisor, str) else rules.divisor}
    return softmax_loss(
        labels, logits, ignore_label=rules.ignore or None, sample_weight=sample_weight, class_weight=class_weight,
        reduction=rules.reduction, validate=False, **dict(rules.terms), **options,
    )  # fmt: skip


@partial(jax.jit, static_argnums=(0, 1))
def _visited(rules, needs, operands, rest, upstream):
    """The value, and gradients in the dtype of the computation, None where they are not needed."""
    (features, weight, bias), (labels, sample_weight, class_weight, denominator) = operands, rest
    dtype, derive = jnp.dtype(rules.dtype), any(needs)
    head = Head(
        BOTH if derive else VALUE, backend_of(features), jnp, None, features, weight, bias, labels, sample_weight, class_weight,
        denominator, dtype, features.shape, rules, None,
    )  # fmt: skip
    rows = Rows(head)
    (n, d), c, chunk = features.shape, rules.c, even(rules.n, rules.chunk)
    each = rules.reduction == "none"
    panels = partial(_in_turn, n=c, most=max(1, SUMMAND // ((2 * d + chunk) * dtype.itemsize)))

    def visit(found, start, size, first):
        """The results so far and those of rows start … start + size. The first part writes the weight's gradient, others add to it."""
        value, by_features, by_weight, by_bias = found

        def part(x):
            return x if x is None else lax.dynamic_slice_in_dim(x, start, size)

        x, hidden = _rows(features, start, size, dtype), part(rows.skip)
        if hidden is not None:
            x = jnp.where(hidden[:, None], jnp.zeros_like(x), x)
        if weight.dtype == dtype:
            z = jnp.matmul(x, weight.T)
        else:
            z = panels(lambda z, a, b, _: _put(z, jnp.matmul(x, _rows(weight, a, b, dtype).T), a, 1), jnp.zeros((size, c), dtype))
        if bias is not None:
            z = z + bias.astype(dtype)
        options = chunk_options(head, rows, slice(None), upstream)
        options["sample_weight"] = part(options["sample_weight"])
        want, out = (BOTH, IN_PLACE if softmax_in_place(c) else None) if derive else (VALUE, None)
        more = called(SoftmaxLoss, part(rows.labels), z, want, out, options)
        g: Any = None
        if derive:
            more, g = more
        value = _put(value, more, start) if each else value + more

        def products(found, a, b, _):
            slopes, by_weight = found
            columns = lax.dynamic_slice_in_dim(g, a, b, 1)
            if needs[0]:
                slopes = slopes + jnp.matmul(columns, _rows(weight, a, b, dtype))
            if needs[1]:
                more = jnp.matmul(columns.T, x)
                by_weight = _put(by_weight, more if first else more + lax.dynamic_slice_in_dim(by_weight, a, b), a)
            return slopes, by_weight

        if needs[0] or needs[1]:
            slopes, by_weight = panels(products, (jnp.zeros_like(x) if needs[0] else None, by_weight))
        if needs[0]:
            slopes = slopes if hidden is None else jnp.where(hidden[:, None], jnp.zeros_like(slopes), slopes)
            by_features = _put(by_features, slopes, start)
        if needs[2]:
            by_bias = by_bias + g.sum(axis=0)
        return value, by_features, by_weight, by_bias

    shapes = (n,) if each else (), *(shape if need else None for need, shape in zip(needs, ((n, d), (c, d), (c,)), strict=True))
    found = tuple(shape if shape is None else jnp.zeros(shape, dtype) for shape in shapes)
    found = _in_turn(visit, found, n, chunk)
    return found[0], found[1:]


def _in_turn(visit, found, n, most):
    """Call `found = visit(found, start, size, first)` for one part after another of n entries; the last `found`.

    Parts have `most` entries, but for the first, which has what is left over: the others wait for it, so that XLA gives them its memory.
    XLA unrolls a loop of a single turn and would then compute both parts at once; a condition whose value it does not know at compile
    time makes the second part wait.
    """
    first = min(n % most or most, n)
    turns = (n - first) // most
    if first:
        found = visit(found, 0, first, True)
    if turns == 1:
        found = lax.cond(lax.optimization_barrier(jnp.bool_(True)), lambda x: visit(x, first, most, False), lambda x: x, found)
    elif turns:
        found, _ = lax.scan(lambda found, i: (visit(found, first + i * most, most, False), None), found, jnp.arange(turns))
    return found


def _rows(x, start, size, dtype):
    """Some rows of a matrix, in another dtype: those of 16 bits as integers, since XLA takes slices on a CPU from all of it in float32."""
    if x.dtype.itemsize != 2:
        return lax.dynamic_slice_in_dim(x, start, size).astype(dtype)
    bits = lax.dynamic_slice_in_dim(lax.bitcast_convert_type(x, jnp.uint16), start, size)
    return lax.bitcast_convert_type(bits, x.dtype).astype(dtype)


def _put(x, part, start, axis=0):
    """x with a part of it replaced."""
    return lax.dynamic_update_slice_in_dim(x, part, start, axis)
