"""JAX: arrays without a copy, and the CPU's kernels inside traced programs.

A call on arrays whose values are at hand is evaluated as in every library. A call that is being traced becomes an operation of the program
if a CPU kernel has its loss: on a CPU XLA calls the kernel through its typed foreign function interface, on other devices the formula is
compiled. The derivative with respect to the predictions is the kernel's too, found in the same pass as the value; without a kernel it is
the formula of the slope. Whatever else JAX may differentiate (targets, weights, a second time) is JAX's derivative of the formula, and so
is what `vmap` maps.
"""

import math
import pickle
from base64 import b64decode, b64encode
from dataclasses import replace
from functools import lru_cache, partial, reduce
from hashlib import blake2b

import jax
import numpy as np
from jax import numpy as jnp
from jax.experimental.custom_partitioning import SdyShardingRule, custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

from polyloss._adapters.jax_hide import behind, hide
from polyloss._call import formula as _formula, routes as _routes
from polyloss._call.cpu import Views, bound, kernels
from polyloss._call.formula import Outcome
from polyloss._call.plan import BOTH, GIVEN, GRADIENT, VALUE, Arrays
from polyloss._call.run_plan import checked, evaluate, finish, reduced
from polyloss._core import threads as _threads
from polyloss._core.backends import NUMPY, new_enough
from polyloss._core.buffers import empty
from polyloss._core.dtypes import FLOATS, dtype_name
from polyloss._core.labels import sort_labels
from polyloss._core.params import several_traced
from polyloss._core.shapes import layout

new_enough(jax)
TARGET = "polyloss"  # what XLA knows the handler as
DIGEST = 16  # characters
ARRAYS = ("sample_weight", "class_weight", "denominator", "mask")  # arguments that may be arrays
FORMULA = _routes.ROUTES[-1].name


def caller(here, planned):
    """What takes calls on JAX's arrays: `here` those in this machine's memory, as NumPy's; `planned` all others.

    JAX's own reshape copies, and one of its operations costs as much as the loss of 1000 logits.
    """

    def called(block, y_true, y_pred, want, out, options):
        given = {"y_true": y_true} | {key: options[key] for key in ARRAYS if not isinstance(options.get(key), (int, float, type(None)))}
        if out is not None or not _here(y_pred, y_pred) or dtype_name(y_pred.dtype) not in FLOATS:
            return planned(block, y_true, y_pred, want, out, options)
        if any(several_traced(options[key]) for key in block.params):
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
        held = [x for x in (y_pred, *given.values()) if isinstance(x, jax.Array) and _bound(x)]
        return jax.tree.map(lambda x: jax.device_put(x, y_pred.device if held else None), results)

    return called


def _here(x, like):
    """Whether an array's values are at hand, in this machine's memory, on the device of another."""
    return isinstance(x, jax.Array) and has_values(x) and x.device == like.device and getattr(x.device, "platform", None) == "cpu"


def _aligned(like):
    """An array that JAX takes over without a copy: from the beginning of a cache line on."""
    room = empty((like.nbytes + 63,), np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + like.nbytes].view(like.dtype).reshape(like.shape)


def call(plan, arrays, given):
    """The results of a plan whose arrays are JAX's, or their tracers."""
    if plan.has_values:
        return evaluate(plan, arrays)
    if plan.route == FORMULA and any(several_traced(value) for _, value in plan.params + plan.target_options):
        return finish(plan, arrays, checked(plan, arrays, _by_weights(plan, arrays)))
    if plan.validate and plan.labelled and has_values(arrays.t):  # raises under `jax.grad` alone; under `jax.jit` `bad` is of the program
        checked(plan, arrays, Outcome(bad=sort_labels(arrays.xp, arrays.t, plan.layout.c, plan.ignore)[2]))
    operands = [x for x in _operands(arrays) if x is not None]
    divisor = plan.divisor if plan.divisor != GIVEN or isinstance(arrays.divisor, jax.Array) else arrays.divisor
    in_place = arrays.out is not None  # `prepare.IN_PLACE`: the gradient may take the predictions' memory
    changes = {"divisor": divisor, "out": (in_place, False)}
    results = _operation(_changed(plan, **changes) if plan.route == FORMULA else _static(plan, **changes), *operands)
    return finish(plan, arrays._replace(out=None), _outcome(plan, results))


def _operands(arrays):
    """What an operation of a program takes."""
    divisor = arrays.divisor if isinstance(arrays.divisor, jax.Array) else None
    return arrays.p, arrays.t, arrays.weight, arrays.class_weight, divisor


def route(plan):
    """The route a plan takes, and the obstacles of the faster ones."""
    return _routes.choose(plan) if plan.has_values or plan.backend is NUMPY else _kernel(plan)


def place(x):
    """The one device that an array is bound to; None if it goes wherever others are, or is spread over a mesh: then JAX decides."""
    return next(iter(x.devices())) if has_values(x) and _bound(x) and len(x.devices()) == 1 else None


def _bound(x):
    """Whether an array was put on its device by name: what is computed of it then stays there."""
    return x.committed if hasattr(x, "committed") else x._committed


def has_values(x):
    """Whether an array's values are at hand: not while it is traced."""
    return not isinstance(x, jax.core.Tracer)


def as_numpy(x):
    """A CPU array as a NumPy array over the same memory (bfloat16 as its bits), or None."""
    if not has_values(x) or len(x.devices()) > 1 or next(iter(x.devices())).platform != "cpu":
        return None
    return NUMPY.as_numpy(np.asarray(x))


def from_numpy(x, like):
    """A NumPy array as an array of JAX."""
    return jax.device_put(NUMPY.from_numpy(x, like), like.device if _bound(like) else None)


# ------------------------------------------------------------------------------------------------------------- traced programs


def _kernel(plan):
    """The route of a traced call on a CPU, and the obstacles of the faster ones."""
    why = None if _registered() else "the compiled kernel xla is missing"
    sizes = (plan.layout.n, plan.layout.c, plan.layout.s)
    if any(several_traced(value) for _, value in plan.params + plan.target_options):
        why = "a parameter is traced, and kernels take numbers"
    elif not all(isinstance(size, int) for size in sizes):
        why = "a size is not known yet, and kernels take numbers"
    elif not math.prod(sizes):
        why = "there is nothing to compute"
    if why:
        return _routes.ROUTES[-1], [(route.name, why) for route in _routes.ROUTES[:-1] if route.holds(plan)]
    return _routes.choose(replace(plan, backend=NUMPY, here=True, has_values=True))


def _static(plan, **changes):
    """A plan as the static argument of an operation: of arrays in this machine's memory, since on a CPU a kernel gets them so."""
    return _routes.changed(plan, backend=NUMPY, device="cpu", here=True, has_values=True, validate=False, **changes)


def _changed(plan, **changes):
    """A plan of an operation with other fields: of a kernel's, which is static, or of the formula's."""
    return _static(plan, **changes) if plan.backend is NUMPY else _routes.changed(plan, validate=False, **changes)


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
    return (_evaluate if plan.backend is NUMPY else _by_formula)(plan, *operands)


@partial(_operation.defjvp, symbolic_zeros=True)
def _operation_jvp(plan, operands, tangents):
    """The value and its derivative in the direction of the tangents.

    With respect to predictions, and to targets of a symmetric loss, it is the block's slope. With respect to anything else, and where
    derivatives are differentiated again, it is the formula's.
    """
    moves = [not isinstance(x, jax.custom_derivatives.SymbolicZero) for x in tangents]
    exchangeable = plan.block.symmetric and moves[1]
    if plan.want != VALUE or not (moves[0] or exchangeable):
        return _formula_jvp(plan, operands, tangents, moves)
    # Gradients, too, are not in 16 bits, which what comes down from above is yet to scale.
    divisor, real = 1 if plan.reduction == "none" else plan.divisor, plan.real(jnp)
    p, t, *rest = operands
    wide = {"storage": plan.dtype, "divisor": divisor}
    gradients = []
    if moves[0]:
        value, gradient = _operation(_changed(plan, want=BOTH, **wide), p.astype(real), t, *rest)
        gradients.append((gradient, tangents[0]))
    else:
        (value,) = _operation(plan, *operands)
    if exchangeable:
        params = tuple(plan.block.exchanged(dict(plan.params)).items())
        exchanged = _changed(plan, want=GRADIENT, targets=plan.dtype, params=params, **wide)
        (gradient,) = _operation(exchanged, t.astype(real), p.astype(real), *rest)
        gradients.append((gradient, tangents[1]))
    # Of a loss that is NaN this is NaN also where 0 comes down from above. A rule for what goes forward does not see that, and JAX' way to
    # give it a transpose of its own, `linear_call`, has neither derivatives nor a rule for `vmap` (0.10).
    products, nothing = [tangent.astype(real) * gradient for gradient, tangent in gradients], _counts_for_nothing(plan, operands)
    if nothing is not None:  # no slope there, though infinity or NaN comes down
        products = [hide(jnp, x, nothing[:, None, :] & (gradient == 0)) for x, (gradient, _) in zip(products, gradients, strict=True)]
    tangent = sum(x.sum(axis=1) if plan.reduction == "none" else x.sum() for x in products)
    moves = [False, moves[1] and not exchangeable, *moves[2:]]
    if any(moves):
        _, (by_others,) = _formula_jvp(plan, operands, tangents, moves)
        tangent = tangent + by_others
    return (value,), (tangent,)


def _counts_for_nothing(plan, operands):
    """Where a position may: its weight is 0, or its label is ignored or of a class whose weight is 0, (n, s); None where none can."""
    arrays = _arrays(plan, operands, jnp)
    zero = None if arrays.weight is None else arrays.weight == 0
    if not plan.labelled or not (plan.ignore or plan.class_weighted):
        return zero
    labels, ignored, _ = sort_labels(jnp, arrays.t, arrays.p.shape[1], plan.ignore)
    of_class = None if arrays.class_weight is None else arrays.class_weight[labels] == 0  # the formula's sum takes 80 µs for 60 at 512×100
    return reduce(_formula.either, (zero, ignored, of_class))


def _formula_jvp(plan, operands, tangents, moves):
    """The formula's results, and their tangents by the operands that move.

    The others get no zeros, since an exported program does not know their shape.
    """

    def formula(*moving):
        rest = iter(moving)
        return _by_formula(plan, *(next(rest) if moved else x for x, moved in zip(operands, moves, strict=True)))

    return jax.jvp(formula, *(tuple(x for x, moved in zip(side, moves, strict=True) if moved) for side in (operands, tangents)))


@partial(jax.jit, static_argnums=0)
def _evaluate(plan, *operands):
    return jax.lax.platform_dependent(*operands, cpu=partial(_by_kernel, plan), default=partial(_by_formula, plan))


def _by_formula(plan, *operands):
    plan, arrays = _routes.changed(plan, here=False, has_values=False), _arrays(plan, operands, jnp)
    return _results(plan, arrays, _by_weights(plan, arrays))


def _by_weights(plan, arrays):
    """The formulas' outcome, in which a weight of 0 leaves no slope with respect to a target, whatever is handed down."""
    if arrays.weight is not None and not plan.labelled and jnp.issubdtype(arrays.t.dtype, jnp.floating):
        arrays = arrays._replace(t=behind(arrays.t, arrays.weight == 0))
    return _formula.run(plan, arrays, hide)


def _by_kernel(plan, *arrays):
    @jax.custom_batching.custom_vmap
    def evaluate(*arrays):
        return _spread(plan, *arrays)

    @evaluate.def_vmap
    def batched(size, are, *arrays):
        function = jax.vmap(partial(_by_formula, plan), [0 if x else None for x in are], axis_size=size)
        results = function(*arrays)
        return results, (True,) * len(results)

    return evaluate(*arrays)


# --------------------------------------------------------------------------------------------------- arrays spread over a mesh
# XLA would gather the operands of an operation that it does not know on every device. It is told instead that positions are independent of
# each other: each device calls its kernel for the positions that it holds, and only sums travel.


def _together(plan, *arrays):
    """What a plan asks for of arrays on one device."""
    results = jax.eval_shape(partial(_by_formula, plan), *arrays)
    aliases = {0: int(plan.want.value)} if plan.out[0] else None  # the gradient's place; XLA copies predictions that are read later, too
    buffers = jax.eval_shape(lambda *results: [x.reshape(_shape_of_buffer(x)) for x in results], *results)
    operation = jax.ffi.ffi_call(TARGET, buffers, input_output_aliases=aliases)
    found = operation(*(x.reshape(_shape_of_buffer(x)) for x in arrays), plan=_encoded(plan))
    return tuple(x.reshape(result.shape) for x, result in zip(found, results, strict=True))


def _shape_of_buffer(x):
    """Without an axis s of one entry: predictions that a reshape has given it XLA (of jaxlib 0.10) copies before they are replaced."""
    return x.shape[:2] if x.ndim == 3 and x.shape[2] == 1 else x.shape


def _canonical(plan, operands, results):
    """Arrays over such buffers in canonical shape."""
    sides = zip((operands, results), _axes(plan), strict=True)
    return [[x[..., None] if len(axes) == 3 > x.ndim else x for x, axes in zip(*side, strict=True)] for side in sides]


def _axes(plan):
    """The axes that each operand and each result has, of n, c, s."""
    operands = ["ncs", "ns" if plan.labelled else "ncs"] + ["ns"] * plan.weighted + ["c"] * plan.class_weighted
    operands += [""] * (plan.divisor == GIVEN)
    results = ("ns" if plan.reduction == "none" else "", "ncs", "ncs", "ncs")
    return operands, [axes for axes, wanted in zip(results, plan.want, strict=True) if wanted]


def _rule(plan, mesh, operands, results):
    """The axes of operands and results for XLA's partitioner, and which of them it may not cut: that of the classes, or all."""
    named = [tuple(tuple(axes) for axes in side) for side in _axes(plan)]
    return SdyShardingRule(*named, need_replication_factors=("c",) if _apart(plan) else ("n", "c", "s"))


def _partition(plan, mesh, operands, results):
    """The mesh, what each device does with its part, and how results and operands are spread: as the predictions are."""
    n, _, s = (*operands[0].sharding.spec, None, None, None)[:3] if _apart(plan) else (None, None, None)
    mesh = operands[0].sharding.mesh
    spread = {"n": n, "c": None, "s": s}
    taken, given = ([NamedSharding(mesh, PartitionSpec(*(spread[a] for a in axes))) for axes in side] for side in _axes(plan))
    names = tuple(name for axis in (n, s) if axis is not None for name in (axis if isinstance(axis, tuple) else (axis,)))
    return mesh, partial(_part, plan, names), tuple(given), tuple(taken)


def _part(plan, names, *operands):
    """What a plan gives, from the positions that this device holds and the sums over the axes of the mesh that share them."""
    layout_of_part = layout(operands[0].shape, 1, plan.name, True)  # in canonical shape
    if plan.divisor in ("count", "weights"):  # which the data of all devices decide
        divisor = jax.lax.psum(_counted(plan, _arrays(plan, operands, jnp)), names)
        divisor = jnp.maximum(divisor, 1) if plan.divisor == "count" else divisor
        operands, plan = (*operands, divisor.astype(plan.real(jnp))), _static(plan, divisor=GIVEN)
    plan = _static(plan, layout=layout_of_part)
    results = _together(plan, *operands)
    if plan.want.value and plan.reduction != "none" and names:
        return (jax.lax.psum(results[0], names), *results[1:])
    return tuple(results)


def _counted(plan, arrays):
    """What a part adds to the divisor that the plan names: the number of its positions that count, or their weights."""
    t, k, skip = arrays.t, arrays.class_weight, None
    if plan.labelled:
        labels, skip, bad = sort_labels(jnp, t, arrays.p.shape[1], plan.ignore)
        if plan.divisor == "weights":  # that of a bad label is in no sum
            skip = bad if skip is None else skip | bad
    w = jnp.ones((arrays.p.shape[0], arrays.p.shape[2]), plan.real(jnp)) if arrays.weight is None else arrays.weight
    skip = w == 0 if skip is None else skip | (w == 0)
    if k is not None:
        w = w * (k[jnp.clip(labels, 0, k.size - 1)] if plan.labelled else (t * k[None, :, None]).sum(axis=1))
    elif plan.divisor == "weights" and plan.reduction == "normalize" and not plan.labelled:
        w = w * t.sum(axis=1)
    return jnp.sum(~skip if plan.divisor == "count" else jnp.where(skip, 0, w))


def _apart(plan):
    """Whether positions are independent of each other: what a hinge's targets mean may be decided by all of them."""
    return plan.block.scan_targets is None or dict(plan.target_options).get("labels") != "auto"


_spread = custom_partitioning(_together, static_argnums=(0,))
_spread.def_partition(_partition, sharding_rule=_rule)


# ---------------------------------------------------------------------------------------------------------- calls back from XLA


def _registered():
    """Whether XLA knows the handler."""
    if not _registration:
        kernel = kernels("xla")
        if kernel is not None:
            _threads.follow(kernel.allow)
            jax.ffi.register_ffi_target(TARGET, kernel.handler(_bind, _run), platform="cpu")
        _registration.append(kernel is not None)
    return _registration[0]


_registration: list[bool] = []


@lru_cache(maxsize=1024)
def _encoded(plan):
    """A plan as a text behind its digest: a program that is exported takes it along, and the handler knows it again by it."""
    text = b64encode(pickle.dumps(plan)).decode()
    return blake2b(text.encode(), digest_size=DIGEST // 2).hexdigest() + text


@lru_cache(maxsize=1024)
def _decoded(text):
    return _routes.routed(pickle.loads(b64decode(text[DIGEST:])))


def _bind(text, operands, results):
    """The kernel of an operation, bound to such arrays, and what each is to it; None where no kernel takes them as they lie."""
    plan = _decoded(text)
    operands, results = _canonical(plan, operands, results)
    arrays, outputs = _arrays(plan, operands, np), _outcome(plan, results)
    given = (arrays.t, arrays.p, arrays.weight, arrays.class_weight, outputs.losses, outputs.gradient, outputs.hessian, outputs.prob)
    kernel = bound(plan, Views(*given))
    if kernel is None:
        return None
    optional = (("weight", plan.weighted), ("class_weight", plan.class_weighted), ("divisor", plan.divisor == GIVEN))
    roles = ["p", "t", *(role for role, has in optional if has)]
    named = ("losses" if plan.reduction == "none" else "value", "gradient", "hessian", "prob")
    return kernel, roles + [role for role, wanted in zip(named, plan.want, strict=True) if wanted]


def _run(text, operands, results):
    """Fill the results of an operation by the routes of every call: all are NumPy arrays over XLA's memory, bfloat16 as its bits."""
    plan = _decoded(text)
    operands, results = _canonical(plan, operands, results)
    outputs = _outcome(plan, results)
    arrays = _arrays(plan, operands, np)._replace(out=outputs.gradient, out_hessian=outputs.hessian)
    if plan.divisor == GIVEN:
        arrays = arrays._replace(divisor=float(arrays.divisor))
    if plan.storage == "bfloat16":
        bits = {key: getattr(arrays, key) for key in ("p", "out", "out_hessian")}
        arrays = arrays._replace(**{key: x if x is None else x.view(jnp.bfloat16) for key, x in bits.items()})
    outcome = _routes.run(plan, arrays)
    with np.errstate(all="ignore"):  # sums beyond float32 are infinite in silence, as everywhere
        found = _results(plan, arrays, outcome)
    for result, x in zip(results, found, strict=True):
        bits = NUMPY.as_numpy(np.asarray(x))
        if not np.may_share_memory(result, bits):
            result[...] = bits
