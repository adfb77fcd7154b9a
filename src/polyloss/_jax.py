"""JAX: arrays without a copy, and the CPU's kernels inside traced programs. With `_reduce._narrow` the only code that imports jax.

A call on arrays whose values are at hand goes the road of every library. One that is being traced becomes, where a CPU kernel holds its
loss, an operation of the program: on a CPU XLA calls the kernel through its typed foreign function interface, on other devices the
formula is compiled. Its derivative by the predictions is the kernel's too, found in the same pass as the value. Whatever more JAX may
differentiate (targets, weights, a second time) goes through the formula, and so does `vmap`.
"""

from copy import copy
from dataclasses import replace
from functools import partial

import jax
import numpy as np
from jax import numpy as jnp

from polyloss import _formula, _job, _routes
from polyloss._backends import NUMPY
from polyloss._buffers import empty
from polyloss._cpu import kernels
from polyloss._formula import Outcome
from polyloss._job import Job
from polyloss._prepare import prepare
from polyloss._shapes import FLOATS, dtype_name, sort_labels

TARGET = "polyloss"  # what XLA knows the handler as
SMALL = 8192  # predictions; below, XLA's own code for the formula takes no longer than the way to a kernel, 35 µs
# Of a few additions and multiplications XLA's code is as good up to 8 times as many: for 16384 the kernel takes 1.2 to 1.9 times as long.
PLAIN = ("mean_squared_error", "mean_absolute_error", "huber", "hinge", "squared_hinge")
BOTH = _job.Want(value=True, gradient=True)
ARRAYS = ("sample_weight", "class_weight", "denominator")  # arguments that may be arrays
GIVEN = "given"  # in a described job: the divisor is an array

_jobs: dict[str, _job.Job] = {}  # description -> a job without its arrays: what operations in traced programs stand for


def shortcut(block, y_true, y_pred, want, out, arguments):
    """The results of a call on arrays in this machine's memory, by NumPy's road over them; None where JAX's is to be taken.

    JAX's own reshape copies, and one of its operations costs as much as the loss of 1000 logits.
    """
    given = {"y_true": y_true} | {key: arguments[key] for key in ARRAYS if not isinstance(arguments.get(key), (int, float, type(None)))}
    if out is not None or not _here(y_pred, y_pred) or dtype_name(y_pred.dtype) not in FLOATS:
        return None
    if not all(_here(x, y_pred) or isinstance(x, np.ndarray) for x in given.values()):
        return None
    logits, views = np.asarray(y_pred), {key: np.asarray(x) for key, x in given.items()}
    target, arguments = views.pop("y_true"), arguments | views
    results = block.ordinary(target, logits, want, arguments) if block.ordinary is not None else None
    if results is None:
        job = prepare(block, target, logits, want=want, out=None, **arguments)
        job.out = tuple(_aligned(logits) if wanted else None for wanted in (want.gradient, want.hessian))
        results = _job.evaluate(job)
    return jax.tree.map(lambda x: jax.device_put(x, y_pred.device), results)


def _here(x, like):
    """Whether an array's values are at hand, in this machine's memory, on the device of another."""
    return isinstance(x, jax.Array) and concrete(x) and x.device == like.device and getattr(x.device, "platform", None) == "cpu"


def _aligned(like):
    """An array that JAX takes over without a copy: from the beginning of a cache line on."""
    room = empty((like.nbytes + 63,), np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + like.nbytes].view(like.dtype).reshape(like.shape)


def call(job):
    """The results of a job whose arrays are JAX's, or their tracers."""
    divisor = job.divisor if isinstance(job.divisor, jax.Array) else None
    arrays = [job.p, job.t, job.weight, job.class_weight, divisor]
    if all(x is None or concrete(x) for x in arrays):
        return _job.evaluate(job)
    if _kernel(job)[0].run is _formula.run:
        outcome = _formula.run(job)
        if job.validate and job.labelled:
            _job.raise_bad(job, outcome)
        return _job.finish(job, outcome)
    if job.validate and job.labelled and concrete(job.t):  # raises under `jax.grad` alone; under `jax.jit` `bad` is of the program
        _job.raise_bad(job, Outcome(bad=sort_labels(job.xp, job.t, job.layout.c, job.ignore)[2]))
    return _job.finish(job, _outcome(job, _operation(_described(job), *(x for x in arrays if x is not None))))


def route(job):
    """The route a job takes, and the obstacles of the faster ones."""
    traced = not all(x is None or concrete(x) for x in (job.p, job.t, job.weight, job.class_weight, job.denominator))
    return _kernel(job) if traced else _routes.choose(job)


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


def _kernel(job):
    """The route of a traced call on a CPU, and the obstacles of the faster ones: decided by dtypes, so arrays of any values will do."""
    why = None if _registered() else "jax.ffi or the compiled kernel xla is missing"
    least = 8 * SMALL if job.block.kernel in PLAIN else SMALL
    if job.layout.n * job.layout.c * job.layout.s < least:
        why = f"traced programs call it from {least} predictions on"
    if why:
        return _routes.ROUTES[-1], [(route.name, why) for route in _routes.ROUTES[:-1]]
    like = {key: getattr(job, key) for key in ("p", "t", "weight", "class_weight")}
    like = {key: x if x is None else np.broadcast_to(np.zeros((), x.dtype), x.shape) for key, x in like.items()}
    return _routes.choose(replace(job, backend=NUMPY, **like))


def _described(job):
    """A job without its arrays as a string, under which `_jobs` keeps it: constants of a program are hashable.

    In the job that is kept, the dtype's name stands for the predictions, and True for another array that is given.
    """
    divisor = GIVEN if isinstance(job.divisor, jax.Array) else job.divisor
    weight, class_weight = (None if x is None else True for x in (job.weight, job.class_weight))
    p = job.p if isinstance(job.p, str) else dtype_name(job.p.dtype)
    job = replace(job, p=p, t=None, weight=weight, class_weight=class_weight, denominator=None, divisor=divisor, validate=False)
    job.viewed = None, None
    options = {key: getattr(job, key) for key in Job.__slots__ if key not in ("loss", "block", "xp", "backend", "device", "viewed")}
    options |= {"dtype": dtype_name(job.dtype), "gradient_dtype": dtype_name(job.gradient_dtype)}
    description = f"{job.loss.name}{'' if job.block is job.loss else ' from logits'} {options}"
    _jobs[description] = job
    return description


def _filled(job, arrays):
    """A job with its arrays, and their types, again."""
    job, rest = copy(job), iter(arrays)
    job.p, job.t = next(rest), next(rest)
    job.weight, job.class_weight = (x if x is None else next(rest) for x in (job.weight, job.class_weight))
    if job.divisor is GIVEN:
        job.divisor = next(rest)
    return job


def _results(job, outcome):
    """What is asked for of an outcome, those of the predictions' size in canonical shape."""
    value = None if not job.want.value else outcome.losses if job.reduction == "none" else _job.reduced(job, outcome)
    results = value, outcome.gradient, outcome.hessian, outcome.prob
    return tuple(x for x, wanted in zip(results, job.want, strict=True) if wanted)


def _outcome(job, results):
    """The outcome of such results."""
    rest = iter(results)
    value, gradient, hessian, prob = (next(rest) if wanted else None for wanted in job.want)
    losses, value = (value, None) if job.reduction == "none" else (None, value)
    return Outcome(losses=losses, value=value, gradient=gradient, hessian=hessian, prob=prob)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _operation(description, *arrays):
    """What a description asks for of arrays."""
    return _evaluate(description, *arrays)


@partial(_operation.defjvp, symbolic_zeros=True)
def _operation_jvp(description, arrays, tangents):
    """By the predictions alone from the kernel, by anything else and where derivatives are differentiated from the formula."""
    zero = [isinstance(x, jax.custom_derivatives.SymbolicZero) for x in tangents]
    job = _jobs[description]
    if job.want != _job.VALUE or zero[0] or not all(zero[1:]):
        tangents = [np.zeros(x.shape, x.dtype) if same else x for x, same in zip(tangents, zero, strict=True)]
        return jax.jvp(partial(_by_formula, description), arrays, tuple(tangents))
    wide = dtype_name(job.dtype)  # gradients, too: not in 16 bits, which what comes down from above is yet to scale
    job = replace(job, p=wide, gradient_dtype=job.dtype, want=BOTH, divisor=1 if job.reduction == "none" else job.divisor)
    value, gradient = _operation(_described(job), arrays[0].astype(job.dtype), *arrays[1:])
    product = gradient * tangents[0].astype(job.dtype)
    return (value,), (product.sum(axis=1) if job.reduction == "none" else product.sum(),)


@partial(jax.jit, static_argnums=0)
def _evaluate(description, *arrays):
    return jax.lax.platform_dependent(*arrays, cpu=partial(_by_kernel, description), default=partial(_by_formula, description))


def _by_formula(description, *arrays):
    job = _filled(_jobs[description], arrays)
    return _results(job, _formula.run(job))


def _by_kernel(description, *arrays):
    @jax.custom_batching.custom_vmap
    def evaluate(*arrays):
        results = jax.eval_shape(partial(_by_formula, description), *arrays)
        return jax.ffi.ffi_call(TARGET, results)(*arrays, description=description)

    @evaluate.def_vmap
    def batched(size, are, *arrays):
        function = jax.vmap(partial(_by_formula, description), [0 if x else None for x in are], axis_size=size)
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


def _run(description, arguments, results):
    """Fill the results of an operation: all are NumPy arrays over XLA's memory, bfloat16 as its bits."""
    known = _jobs[description]
    job = _filled(known, arguments)
    job.backend, job.xp, job.device, job.dtype = NUMPY, np, "cpu", np.dtype(dtype_name(known.dtype))
    if known.divisor is GIVEN:
        job.divisor = float(job.divisor)
    outputs = _outcome(job, results)
    job.out = outputs.gradient, outputs.hessian
    if known.p == "bfloat16":
        job.p, *job.out = (x if x is None else x.view(jnp.bfloat16) for x in (job.p, *job.out))
    outcome = _routes.choose(job)[0].run(job)
    for result, x in zip(results, _results(job, outcome), strict=True):
        bits = NUMPY.memory(np.asarray(x))
        if not np.may_share_memory(result, bits):
            result[...] = bits
