"""PyTorch: how calls on tensors are evaluated.

A call whose tensors need no gradient is evaluated as in every library. If the predictions need one, `torch_autograd.Loss` is its node in
the graph. A denominator that is differentiated, forward mode and function transforms use the formula for everything; the derivative with
respect to the predictions in it is the slope as it is written, unless they differentiate with respect to targets or weights of classes,
too. A graph that is being compiled or traced gets an operator of torch_operators.py. What a tensor is, torch_tensors.py knows.
"""

from dataclasses import replace
from functools import partial

import torch
from torch.autograd import forward_ad

from polyloss._adapters.torch_autograd import (
    Loss,
    apply_loss,
    counted,
    followed,
    forward_twice,
    grad_enabled,
    in_one_pass,
    keeps_graph,
    record,
    saved_hooks,
    tensor_names,
    written,
)  # fmt: skip
from polyloss._adapters.torch_operators import as_operator
from polyloss._adapters.torch_tensors import (  # noqa: F401  most are fields of a Backend
    PROXY,
    as_numpy,
    cuda,
    dispatch_mode,
    from_numpy,
    has_values,
    namespace,
    outline,
    peek_transform,
    readable,
    refused,
    seen,
    traced,
    unwritable,
)  # fmt: skip
from polyloss._call import cpu as _cpu, formula as _formula, routes as _routes
from polyloss._call.plan import BOTH
from polyloss._call.run_plan import checked, evaluate, finish, kept, restored
from polyloss._core.backends import backend_of

TENSORS = ("t", "p", "weight", "class_weight")  # of a call's arrays those that autograd may follow
KINDS = {"bool": (6, 8), "bfloat16": (4, 16)}  # DLPack's numbers of dtypes: code, bits
KINDS |= {f"float{n}": (2, n) for n in (16, 32, 64)} | {f"int{n}": (0, n) for n in (8, 16, 32, 64)} | {"uint8": (1, 8)}


def caller(plan_cache, planned):
    """What takes calls of losses on tensors: `plan_cache` knows the plans of those on the CPU, `planned` makes one for a call alone."""

    def recorded(block, y_true, y_pred, want, out, options):
        results = None if out is not None else as_operator(block, y_true, y_pred, want, options)
        return planned(block, y_true, y_pred, want, out, options) if results is None else results

    return looked_up(plan_cache, planned, recorded)


def looked_up(plan_cache, planned, recorded):
    """What takes calls on tensors: `plan_cache` unless something looks at what is done; `recorded` if operations are being recorded."""

    def called(block, y_true, y_pred, want, out, options):
        if plan_cache is None or torch.compiler.is_dynamo_compiling():
            return (recorded if traced() else planned)(block, y_true, y_pred, want, out, options)
        state = compiled.state(want)
        if state < 0:
            return (recorded if state == compiled.RECORDED else planned)(block, y_true, y_pred, want, out, options)
        return plan_cache(block, y_true, y_pred, want, out, options, state)

    return called


def call(plan, arrays, given):
    """The results of a plan whose arrays are tensors."""
    if plan.want.gradient or plan.want.hessian:  # ours: no autograd framework takes part
        if plan.tracked:
            arrays = arrays._replace(**{key: getattr(arrays, key).detach() for key in TENSORS if getattr(arrays, key) is not None})
        return evaluate(plan, arrays)
    if plan.watched or "divisor" in plan.tracked:
        whole = traced() or forward_twice() or any(map(followed, (arrays.t, arrays.class_weight)))
        formulas = plan if whole else replace(plan, block=written(plan.block))
        return finish(plan, arrays, checked(plan, arrays, _formula.run(formulas, arrays)))
    if not plan.tracked:
        return evaluate(plan, arrays)
    one_pass = plan.name in plan.tracked and in_one_pass(plan)
    with torch.no_grad():
        outcome = checked(plan, arrays, _routes.run(_routes.changed(plan, want=BOTH) if one_pass else plan, arrays))
        results, divisor = finish(plan, arrays, outcome), outcome.divisor
        gradient = None if outcome.gradient is None else restored(plan, arrays, kept(plan, arrays, outcome.gradient))
    if divisor is arrays.divisor and isinstance(divisor, torch.Tensor):  # the caller's, who may write to it
        divisor = divisor.clone()
    tensors = tuple([counted(given.get(name)) for name in tensor_names(plan)])
    return record(plan, tensors, divisor, results, gradient)


def prepared(plan, given, arrays):
    """The plan's kernel for calls on tensors like these, where it takes them as they are."""
    ours = plan.want.gradient or plan.want.hessian
    if plan.watched or (plan.tracked and not ours and (plan.tracked != (plan.name,) or not in_one_pass(plan))):
        return None
    wrapped = partial(from_numpy, like=arrays.p) if plan.storage == "bfloat16" else torch.from_numpy
    return _cpu.prepared(plan, given, arrays, wrapped, apply_loss if plan.tracked and not ours else None)


for x in (torch.empty(0), torch.nn.Parameter(torch.empty(0))):  # known from here on: a first call that is being traced could not learn it
    backend_of(x)
if (compiled := _cpu.kernels("autograd")) is not None:
    modes = torch._C._is_tracing, torch._C._len_torch_dispatch_stack, partial(dispatch_mode, PROXY), peek_transform
    states = *modes, grad_enabled, saved_hooks, vars(torch.compiler), vars(forward_ad)
    kinds, dtypes = (torch.Tensor, torch.nn.Parameter), {getattr(torch, name): kind for name, kind in KINDS.items()}
    _cpu.kernels("tensors").take_tensors(kinds, torch.strided, dtypes)
    compiled.take_states(states, (keeps_graph, Loss._backward_cls.apply))
    Loss._backward_cls.apply = compiled.backward  # the ordinary backward pass; any other is `Loss.backward`
