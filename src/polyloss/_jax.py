"""JAX: arrays without a copy, and the CPU's kernels inside traced programs. With `_reduce._narrow` the only code that imports jax.

A call on arrays whose values are at hand goes the road of every library. One that is being traced becomes, where a CPU kernel holds its
loss, an operation of the program: on a CPU XLA calls the kernel through its typed foreign function interface, on other devices the
formula is compiled. Its derivative by the predictions is the kernel's too, found in the same pass as the value. Whatever more JAX may
differentiate (targets, weights, a second time) goes through the formula, and so does `vmap`.
"""

import pickle
from base64 import b64decode, b64encode
from dataclasses import replace
from functools import lru_cache, partial

import jax
import numpy as np
from jax import numpy as jnp

from polyloss import _formula, _routes
from polyloss._backends import NUMPY
from polyloss._buffers import empty
from polyloss._cpu import kernels
from polyloss._evaluate import checked, evaluate, finish, reduced
from polyloss._formula import Outcome
from polyloss._plan import BOTH, GIVEN, VALUE, Arrays
from polyloss._shapes import FLOATS, dtype_name, sort_labels

TARGET = "polyloss"  # what XLA knows the handler as
SMALL = 8192  # predictions; below, XLA's own code for the formula takes no longer than the way to a kernel, 35 µs
# Of a few additions and multiplications XLA's code is as good up to 8 times as many: for 16384 the kernel takes 1.2 to 1.9 times as long.
PLAIN = ("mean_squared_error", "mean_absolute_error", "huber", "hinge", "squared_hinge")
ARRAYS = ("sample_weight", "class_weight", "denominator")  # arguments that may be arrays
FORMULA = _routes.ROUTES[-1].name


def way(here, planned):
    """What takes calls on JAX's arrays: `here` those in this machine's memory, as NumPy's; `planned` all others.

    JAX's own reshape copies, and one of its operations costs as much as the loss of 1000 logits.
    """

    def called(block, y_true, y_pred, want, out, options):
        given = {"y_true": y_true} | {key: options[key] for key in ARRAYS if not isinstance(options.get(key), (int, float, type(None)))}
        if out is not None or not _here(y_pred, y_pred) or dtype_name(y_pred.dtype) not in FLOATS:
            return planned(block, y_true, y_pred, want, out, options)
        if not all(_here(x, y_pred) or isinstance(x, np.ndarray) for x in given.values()):
            return planned(block, y_true, y_pred, want, out, options)
        logits, views = np.asarray(y_pred), {key: np.asarray(x) for key, x in given.items()}
        target = views.pop("y_true")
        if want.hessian:
            out = _aligned(logits), _aligned(logits)
        elif want.gradient:
            out = _aligned(logits)
        results = here(block, target, logits, want, out, options | views if views else options)
        return jax.tree.map(lambda x: jax.device_put(x, y_pred.device), results)

    return called


def _here(x, like):
    """Whether an array's values are at hand, in this machine's memory, on the device of another."""
    return isinstance(x, jax.Array) and concrete(x) and x.device == like.device and getattr(x.device, "platform", None) == "cpu"


def _aligned(like):
    """An array that JAX takes over without a copy: from the beginning of a cache line on."""
    room = empty((like.nbytes + 63,), np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + like.nbytes].view(like.dtype).reshape(like.shape)


def call(plan, arrays, given):
    """The results of a plan whose arrays are JAX's, or their tracers."""
    if plan.concrete:
        return evaluate(plan, arrays)
    if plan.route == FORMULA:
        return finish(plan, arrays, checked(plan, arrays, _formula.run(plan, arrays)))
    if plan.validate and plan.labelled and concrete(arrays.t):  # raises under `jax.grad` alone; under `jax.jit` `bad` is of the program
        checked(plan, arrays, Outcome(bad=sort_labels(arrays.xp, arrays.t, plan.layout.c, plan.ignore)[2]))
    operands = [x for x in _operands(arrays) if x is not None]
    divisor = plan.divisor if plan.divisor != GIVEN or isinstance(arrays.divisor, jax.Array) else arrays.divisor
    results = _operation(_static(plan, divisor=divisor), *operands)
    return finish(plan, arrays, _outcome(plan, results))


def _operands(arrays):
    """What an operation of a program takes."""
    divisor = arrays.divisor if isinstance(arrays.divisor, jax.Array) else None
    return arrays.p, arrays.t, arrays.weight, arrays.class_weight, divisor


def route(plan):
    """The route a plan takes, and the obstacles of the faster ones."""
    return _routes.choose(plan) if plan.concrete or plan.backend is NUMPY else _kernel(plan)


def concrete(x):
    """Whether an array's values are at hand: not while it is traced."""
    return not isinstance(x, jax.core.Tracer)


def memory(x):
    """A CPU array as a NumPy array over the same memory (bfloat16 as its bits), or None."""
    if not concrete(x) or len(x.devices()) > 1 or next(iter(x.devices())).platform != "cpu":
        return None
    return NUMPY.memory(np.asarray(x))


def wrap(x, like):
    """A NumPy array as an array of JAX."""
    return jax.device_put(NUMPY.wrap(x, like), like.device)


# ------------------------------------------------------------------------------------------------------------- traced programs


def _kernel(plan):
    """The route of a traced call on a CPU, and the obstacles of the faster ones."""
    why = None if _registered() else "jax.ffi or the compiled kernel xla is missing"
    least = 8 * SMALL if plan.block.kernel in PLAIN else SMALL
    if plan.layout.n * plan.layout.c * plan.layout.s < least:
        why = f"traced programs call it from {least} predictions on"
    if why:
        return _routes.ROUTES[-1], [(route.name, why) for route in _routes.ROUTES[:-1] if route.holds(plan)]
    return _routes.choose(replace(plan, backend=NUMPY, here=True, concrete=True))


def _static(plan, **changes):
    """A plan as the static argument of an operation: of arrays in this machine's memory, since on a CPU a kernel gets them so."""
    return _routes.changed(plan, backend=NUMPY, device="cpu", here=True, concrete=True, validate=False, **changes)


def _arrays(plan, operands, xp):
    """The arrays of an operation."""
    rest = iter(operands)
    p, t = next(rest), next(rest)
    weight, class_weight = (next(rest) if given else None for given in (plan.weighted, plan.class_weighted))
    return Arrays(xp, t, p, weight, class_weight, next(rest) if plan.divisor == GIVEN else None)


def _results(plan, arrays, outcome):
    """What is asked for of an outcome, those of the predictions' size in canonical shape."""
    want = plan.want
    value = None if not want.value else outcome.losses if plan.reduction == "none" else reduced(plan, arrays, outcome)
    results = value, outcome.gradient, outcome.hessian, outcome.prob
    return tuple(x for x, wanted in zip(results, want, strict=True) if wanted)


def _outcome(plan, results):
    """The outcome of such results."""
    rest = iter(results)
    value, gradient, hessian, prob = (next(rest) if wanted else None for wanted in plan.want)
    losses, value = (value, None) if plan.reduction == "none" else (None, value)
    return Outcome(losses=losses, value=value, gradient=gradient, hessian=hessian, prob=prob)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _operation(plan, *operands):
    """What a plan asks for of arrays."""
    return _evaluate(plan, *operands)


@partial(_operation.defjvp, symbolic_zeros=True)
def _operation_jvp(plan, operands, tangents):
    """By the predictions alone from the kernel, by anything else and where derivatives are differentiated from the formula."""
    zero = [isinstance(x, jax.custom_derivatives.SymbolicZero) for x in tangents]
    if plan.want != VALUE or zero[0] or not all(zero[1:]):
        tangents = [np.zeros(x.shape, x.dtype) if same else x for x, same in zip(tangents, zero, strict=True)]
        return jax.jvp(partial(_by_formula, plan), operands, tuple(tangents))
    # Gradients, too, are not in 16 bits, which what comes down from above is yet to scale.
    divisor, real = 1 if plan.reduction == "none" else plan.divisor, plan.real(jnp)
    both = _static(plan, storage=plan.dtype, want=BOTH, divisor=divisor)
    value, gradient = _operation(both, operands[0].astype(real), *operands[1:])
    product = gradient * tangents[0].astype(real)
    return (value,), (product.sum(axis=1) if plan.reduction == "none" else product.sum(),)


@partial(jax.jit, static_argnums=0)
def _evaluate(plan, *operands):
    return jax.lax.platform_dependent(*operands, cpu=partial(_by_kernel, plan), default=partial(_by_formula, plan))


def _by_formula(plan, *operands):
    arrays = _arrays(plan, operands, jnp)
    return _results(plan, arrays, _formula.run(plan, arrays))


def _by_kernel(plan, *arrays):
    @jax.custom_batching.custom_vmap
    def evaluate(*arrays):
        results = jax.eval_shape(partial(_by_formula, plan), *arrays)
        return jax.ffi.ffi_call(TARGET, results)(*arrays, plan=_encoded(plan))

    @evaluate.def_vmap
    def batched(size, are, *arrays):
        function = jax.vmap(partial(_by_formula, plan), [0 if x else None for x in are], axis_size=size)
        results = function(*arrays)
        return results, (True,) * len(results)

    return evaluate(*arrays)


# ---------------------------------------------------------------------------------------------------------- calls back from XLA


def _registered():
    """Whether XLA knows the handler."""
    if not _registration:
        kernel = kernels("xla")
        usable = kernel is not None and hasattr(jax, "ffi")
        if usable:
            jax.ffi.register_ffi_target(TARGET, kernel.handler(_run), platform="cpu")
        _registration.append(usable)
    return _registration[0]


_registration: list[bool] = []


@lru_cache(maxsize=1024)
def _encoded(plan):
    """A plan as a string, which a program that is exported takes along."""
    return b64encode(pickle.dumps(plan)).decode()


@lru_cache(maxsize=1024)
def _decoded(text):
    return _routes.routed(pickle.loads(b64decode(text)))


def _run(text, operands, results):
    """Fill the results of an operation: all are NumPy arrays over XLA's memory, bfloat16 as its bits."""
    plan = _decoded(text)
    outputs = _outcome(plan, results)
    arrays = _arrays(plan, operands, np)._replace(out=outputs.gradient, out_hessian=outputs.hessian)
    if plan.divisor == GIVEN:
        arrays = arrays._replace(divisor=float(arrays.divisor))
    if plan.storage == "bfloat16":
        bits = {key: getattr(arrays, key) for key in ("p", "out", "out_hessian")}
        arrays = arrays._replace(**{key: x if x is None else x.view(jnp.bfloat16) for key, x in bits.items()})
    outcome = _routes.run(plan, arrays)
    for result, x in zip(results, _results(plan, arrays, outcome), strict=True):
        bits = NUMPY.memory(np.asarray(x))
        if not np.may_share_memory(result, bits):
            result[...] = bits
