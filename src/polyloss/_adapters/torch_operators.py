"""Losses in graphs that are compiled, exported or traced: an operator for a loss, and one for its gradient.

A call becomes an operator before anything of it is traced; the operator's implementation makes the call with real tensors, so that a bad
label raises when the graph runs. Options travel as one string.
"""

from ast import literal_eval
from enum import Enum

import torch
from torch.autograd import forward_ad

from polyloss._adapters.torch_autograd import gradient_of
from polyloss._call import routes as _routes
from polyloss._call.plan import Want
from polyloss._call.prepare import prepare
from polyloss._call.run_plan import checked, reduced, restored
from polyloss._core.block import LOSSES
from polyloss._core.params import integers

LIBRARY = torch.library.Library("polyloss", "DEF")
CALL = "Tensor y_true, Tensor y_pred, Tensor? sample_weight, Tensor? class_weight, Tensor? denominator, str options"
LIBRARY.define(f"loss({CALL}) -> (Tensor value, Tensor prob, Tensor gradient, Tensor divisor)")
LIBRARY.define(f"loss_gradient({CALL}, Tensor? upstream, Tensor? upstream_prob, Tensor divisor) -> Tensor")
ARRAYS = ("sample_weight", "class_weight", "denominator")  # arguments that may be tensors


def as_operator(block, y_true, y_pred, want, arguments):
    """The results as outputs of an operator in the graph; None where the call itself is to be traced."""
    if want.hessian or block.name is None or arguments.get("mask") is not None or traced_transform():
        return None
    tensors = y_true, *(arguments.get(name) for name in ARRAYS)
    if any(x is not None and (not isinstance(x, torch.Tensor) or x.requires_grad) for x in tensors):
        return None
    options = {name: constant(x) for name, x in arguments.items() if name not in ARRAYS}
    if block.ignores:
        options[block.ignores] = tuple(constant(x) for x in integers(block.ignores, arguments[block.ignores]))
    told = repr((block.name, tuple(want), options))
    value, prob, gradient, _ = torch.ops.polyloss.loss(y_true, y_pred.detach() if want.gradient else y_pred, *tensors[1:], told)
    results = []
    if want.value:
        results.append((value, prob) if arguments.get("return_prob") else value)
    if want.gradient:
        results.append(gradient)
    return results[0] if len(results) == 1 else tuple(results)


def traced_transform():
    """Whether a function transform or forward mode, as `torch.func.linearize` has it, is being traced; operators have no tangents.

    The type is asked since torch.compile gives None as an object of its own.
    """
    return type(torch._C._functorch.peek_interpreter_stack()) is not type(None) or forward_ad._current_level >= 0


def constant(x):
    """An option as a constant of the graph, where torch has made a symbol of it: a key of a dict is none."""
    if isinstance(x, (int, float)):
        (x,) = {x.value if isinstance(x, Enum) else x: None}
    return x


def _prepared(y_true, y_pred, sample_weight, class_weight, denominator, options):
    """The plan and the arrays of an operator's arguments."""
    name, asked, options = literal_eval(options)
    arrays = {key: x for key, x in zip(ARRAYS, (sample_weight, class_weight, denominator), strict=True) if x is not None}
    return prepare(LOSSES[name], y_true, y_pred, Want(*asked), None, {"sample_weight": None} | options | arrays)[:2]


def _loss(*arguments):
    plan, arrays = _prepared(*arguments)
    outcome = checked(plan, arrays, _routes.run(plan, arrays))
    value = reduced(plan, arrays, outcome) if plan.want.value else arrays.p.new_empty(0)
    found = outcome.prob, outcome.gradient
    prob, gradient = (arrays.p.new_empty(0) if x is None else restored(plan, arrays, x).contiguous() for x in found)
    divisor, kind = outcome.divisor, {"dtype": torch.float64, "device": arrays.p.device}
    divisor = divisor.to(copy=True, **kind) if isinstance(divisor, torch.Tensor) else torch.full((), divisor, **kind)  # no copy: it waits
    return value, prob, gradient, divisor


def _loss_fake(y_true, y_pred, sample_weight, class_weight, denominator, options):
    _, want, options = literal_eval(options)
    want, shape = Want(*want), y_pred.shape
    storage = y_pred.dtype if y_pred.is_floating_point() else torch.get_default_dtype()
    axis = options["axis"]
    lost = range(len(shape)) if axis is None else {i % max(len(shape), 1) for i in (axis if isinstance(axis, (tuple, list)) else (axis,))}
    losses = tuple(n for i, n in enumerate(shape) if i not in lost) if options["reduction"] in ("none", None) else ()
    value = y_pred.new_empty(losses if want.value else 0, dtype=torch.promote_types(storage, torch.float32) if want.value else storage)
    wanted = options.get("return_prob"), want.gradient
    prob, gradient = (y_pred.new_empty(shape if asked else 0, dtype=storage) for asked in wanted)
    return value, prob, gradient, y_pred.new_empty((), dtype=torch.float64)


def _loss_gradient(*arguments):
    *call, upstream, upstream_prob, divisor = arguments
    plan, arrays = _prepared(*call)
    return plan.layout.restored(arrays.xp, gradient_of(plan, arrays._replace(divisor=divisor), upstream, upstream_prob)).contiguous()


def _keep(ctx, inputs, output):
    *tensors, ctx.options = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[2:])
    ctx.save_for_backward(*tensors, output[3])


def _loss_backward(ctx, upstream, upstream_prob, *_):
    *tensors, divisor = ctx.saved_tensors
    if upstream_prob is not None and not upstream_prob.numel():  # not asked for
        upstream_prob = None
    return None, torch.ops.polyloss.loss_gradient(*tensors, ctx.options, upstream, upstream_prob, divisor), None, None, None, None


def _loss_gradient_backward(ctx, *_):
    raise NotImplementedError("a compiled graph of polyloss has first derivatives alone: take the second without torch.compile")


LIBRARY.impl("loss", _loss, "CompositeExplicitAutograd")
LIBRARY.impl("loss_gradient", _loss_gradient, "CompositeExplicitAutograd")
torch.library.register_fake("polyloss::loss", _loss_fake, lib=LIBRARY)
torch.library.register_fake("polyloss::loss_gradient", lambda y_true, y_pred, *rest: y_pred.new_empty(y_pred.shape), lib=LIBRARY)
torch.library.register_autograd("polyloss::loss", _loss_backward, setup_context=_keep, lib=LIBRARY)
torch.library.register_autograd("polyloss::loss_gradient", _loss_gradient_backward, lib=LIBRARY)
