"""One call of a loss: its plan, its arrays, their evaluation.

Every public function ends here, and so do the gradients: `want` says which of value, gradient, Hessian diagonal and probabilities is
asked for. What depends on the array library stands in `_core.backends.BACKENDS`; what depends on the loss, in its block. The plan of a
call on arrays in this machine's memory is looked up by `_kernels/cpu/plan_cache.pyx`; here plans are made that are not known yet, and
those of calls that have no key.
"""

import inspect
from collections.abc import Callable

import numpy as np

from polyloss._call import cpu as _cpu
from polyloss._call.plan import VALUE
from polyloss._call.prepare import IN_PLACE, arrays_of, prepare
from polyloss._call.run_plan import evaluate
from polyloss._core import threads as _threads
from polyloss._core.arguments import refuse_unknown
from polyloss._core.backends import backend_of

_callers: dict[type, Callable] = {}  # type of the predictions -> what takes a call on such


def call(block, y_true, y_pred, unknown, **options):
    """The value of a loss, as the caller's kind of array. `unknown`: keyword arguments that its public function does not have."""
    if unknown:
        refuse_unknown(block.name, unknown, inspect.signature(block.function).parameters)
    return called(block, y_true, y_pred, VALUE, None, options)


def called(block, y_true, y_pred, want, out, options):
    """Check and evaluate one call of a loss: what `want` asks for. The options are a dictionary, which is not written to."""
    caller = _callers.get(type(y_pred))
    if caller is None:
        caller = _callers[type(y_pred)] = _caller(type(y_pred), y_pred)
    return caller(block, y_true, y_pred, want, out, options)


def _caller(kind, y_pred):
    """What takes calls on a type. Import statements, since `torch.compile` traces the first call too, and traces no `import_module`."""
    library = kind.__module__.partition(".")[0]
    if library == "torch":
        from polyloss._adapters import torch as _torch

        return _torch.caller(plan_cache, planned)
    if library in ("jax", "jaxlib"):
        from polyloss._adapters import jax as _jax

        return _jax.caller(plan_cache or planned, planned)
    if library == "dask":
        from polyloss._adapters import dask as _dask

        return _dask.called
    if library != "numpy" and getattr(backend_of(y_pred), "current", None) is not None:
        return _on_its_device
    return (plan_cache if kind is np.ndarray else None) or planned


def _on_its_device(block, y_true, y_pred, want, out, options):
    """As `planned`, with the predictions' device current: casts and results would lie on the caller's otherwise."""
    with backend_of(y_pred).current(y_pred):
        return planned(block, y_true, y_pred, want, out, options)


def planned(block, y_true, y_pred, want, out, options):
    """The results of a call whose plan is made for it alone."""
    return first(block, y_true, y_pred, want, out, options)[1]


def first(block, y_true, y_pred, want, out, options):
    """The kernel that takes a call's arrays as they are, or its plan if none does; the call's results."""
    plan, arrays, given = prepare(block, y_true, y_pred, want, out, options)
    results = (plan.backend.call or evaluate)(plan, arrays, given)
    return (plan.backend.prepared or _cpu.prepared)(plan, given, arrays) or plan, results


def again(plan, block, y_true, y_pred, out, options):
    """The results of a call whose plan is known but whose arrays a kernel does not take as they are, or refuses."""
    given = {"y_true": y_true, plan.name: y_pred, "out": out if isinstance(out, tuple) or out is IN_PLACE else (out,)}
    given |= {key: options.get(key) for key in ("sample_weight", "class_weight")} | {"divisor": options.get("denominator")}
    arrays = arrays_of(plan, plan.backend.namespace(y_pred), given)
    return (plan.backend.call or evaluate)(plan, arrays, given)


_kernel = _cpu.kernels("plan_cache")
plan_cache = None if _kernel is None else _kernel.PlanCache(first, again, planned, vars(_threads), IN_PLACE)
