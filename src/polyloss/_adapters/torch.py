"""PyTorch: views of tensors for the kernels, and what autograd and torch.compile need.

A call whose tensors need no gradient is evaluated as in every library. If the predictions need one, `Loss` is its node in the graph. On a
CPU a scalar loss comes with its gradient, in one pass over the predictions: forward keeps it and backward hands it over. Elsewhere forward
keeps nothing of the predictions' size but themselves, and backward takes the gradient from the same kernels. Derivatives with respect to
targets and weights are autograd's, of the formula on torch's own operations, which backward evaluates for them. A second derivative is
autograd's of the formula of the first. A denominator that is differentiated, forward mode and function transforms use the formula for
everything; the derivative with respect to the predictions in it is the slope as it is written, unless they differentiate with respect to
targets or weights of classes, too. A graph that is being compiled or traced gets one operator for the loss and one for its gradient.
"""

import math
from ast import literal_eval
from dataclasses import replace
from enum import Enum
from functools import lru_cache, partial
from types import SimpleNamespace

import array_api_compat.torch
import numpy as np
import torch
from torch._compile import _disable_dynamo
from torch.autograd import forward_ad

from polyloss._call import cpu as _cpu, formula as _formula, routes as _routes
from polyloss._call.plan import BOTH, GIVEN, GRADIENT, VALUE, Want
from polyloss._call.prepare import arrays_of, prepare
from polyloss._call.run_plan import checked, evaluate, finish, kept, reduced, restored
from polyloss._core import reduce as _reduce
from polyloss._core.backends import backend_of, new_enough, outlined
from polyloss._core.block import LOSSES, capped, log_softmax
from polyloss._core.params import integers

new_enough(torch)
PROXY = torch._C._TorchDispatchModeKey.PROXY  # the mode that records for make_fx
tracing_state, dispatch_mode = torch._C._get_tracing_state, torch._C._get_dispatch_mode  # looked up once: 0.1 µs of a call's 6
saved_hooks = torch._C._autograd._top_saved_tensors_default_hooks
peek_transform, grad_enabled = torch._C._functorch.peek_interpreter_stack, torch.is_grad_enabled
keeps_graph = torch._C._autograd._get_current_graph_task_keep_graph
batched = torch._C._functorch.is_legacy_batchedtensor
TENSORS = ("t", "p", "weight", "class_weight")  # of a call's arrays those that autograd may follow
KINDS = {"bool": (6, 8), "bfloat16": (4, 16)}  # DLPack's numbers of dtypes: code, bits
KINDS |= {f"float{n}": (2, n) for n in (16, 32, 64)} | {f"int{n}": (0, n) for n in (8, 16, 32, 64)} | {"uint8": (1, 8)}


def caller(plan_cache, planned):
    """What takes calls of losses on tensors: `plan_cache` knows the plans of those on the CPU, `planned` makes one for a call alone."""

    def recorded(block, y_true, y_pred, want, out, options):
        results = None if out is not None else _operator(block, y_true, y_pred, want, options)
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
        whole = traced() or _forward_twice() or any(map(_followed, (arrays.t, arrays.class_weight)))
        formulas = plan if whole else replace(plan, block=_written(plan.block))
        return finish(plan, arrays, checked(plan, arrays, _formula.run(formulas, arrays)))
    if not plan.tracked:
        return evaluate(plan, arrays)
    one_pass = plan.name in plan.tracked and _in_one_pass(plan)
    with torch.no_grad():
        outcome = checked(plan, arrays, _routes.run(_routes.changed(plan, want=BOTH) if one_pass else plan, arrays))
        results, divisor = finish(plan, arrays, outcome), outcome.divisor
        gradient = None if outcome.gradient is None else restored(plan, arrays, kept(plan, arrays, outcome.gradient))
    if divisor is arrays.divisor and isinstance(divisor, torch.Tensor):  # the caller's, who may write to it
        divisor = divisor.clone()
    tensors = tuple([_counted(given.get(name)) for name in _arguments(plan)])
    return _record(plan, tensors, divisor, results, gradient)


class Written(torch.autograd.Function):
    """A block's value, whose derivative with respect to the predictions is its slope: autograd's of the value is NaN at some edges."""

    generate_vmap_rule = True

    @staticmethod
    def forward(p, t, formulas, *factors):
        return formulas.value(t, p, factors)

    @staticmethod
    def setup_context(ctx, inputs, output):
        p, t, ctx.formulas, *factors = inputs
        ctx.save_for_backward(p, t, *factors)
        ctx.save_for_forward(p, t, *factors)

    @staticmethod
    def backward(ctx, upstream):
        p, t, *factors = ctx.saved_tensors
        slope = ctx.formulas.slope(t, p, factors)
        return (upstream if upstream.ndim == slope.ndim else upstream[:, None, :]) * slope, None, None, *[None] * len(factors)

    @staticmethod
    def jvp(ctx, tangent, *_):
        p, t, *factors = ctx.saved_tensors
        product = tangent * ctx.formulas.slope(t, p, factors)
        return product if ctx.formulas.elementwise else product.sum(1)


@lru_cache(maxsize=256)
def _written(block):
    """A block whose value's derivative with respect to the predictions is its slope, as `Written` has it."""

    class OfSlopes(block):  # type: ignore[valid-type, misc]
        def value(xp, t, p, **params):  # not as a dictionary, which function transforms take apart; but its tensors they must see
            names = [name for name, x in params.items() if isinstance(x, torch.Tensor)]
            factors = [params.pop(name) for name in names]

            def given(formula):
                return lambda t, p, factors: formula(xp, t, p, **params, **dict(zip(names, factors, strict=True)))

            formulas = SimpleNamespace(value=given(block.value), slope=given(block.slope), elementwise=bool(block.combine))
            return Written.apply(p, t, formulas, *factors)

    return OfSlopes


def _forward_twice():
    """Whether forward mode is inside forward mode: there the tangent of a tangent that a `Function` gives is 0 (torch 2.13)."""
    stack = torch._C._functorch.get_interpreter_stack() or ()
    return sum(level.key() == torch._C._functorch.TransformType.Jvp for level in stack) > 1


def _followed(x):
    """Whether a derivative with respect to a tensor may be asked for: by autograd, forward mode, or a function transform of any level."""
    if x is None or not x.is_floating_point():
        return False
    if forward_ad._current_level >= 0 and forward_ad.unpack_dual(x).tangent is not None:
        return True
    while not x.requires_grad and torch._C._functorch.is_functorch_wrapped_tensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x.requires_grad


def _arguments(plan):
    """Names of the tensors of a call that its graph keeps."""
    return ("y_true", plan.name, "sample_weight", "class_weight", "mask")[: 5 if plan.masked else 4]


def _others(plan):
    """Names of those that autograd follows beside the predictions."""
    return [name for name in ("y_true", "sample_weight", "class_weight") if name in plan.tracked]


def prepared(plan, given, arrays):
    """The plan's kernel for calls on tensors like these, where it takes them as they are."""
    ours = plan.want.gradient or plan.want.hessian
    if plan.watched or (plan.tracked and not ours and (plan.tracked != (plan.name,) or not _in_one_pass(plan))):
        return None
    wrapped = partial(from_numpy, like=arrays.p) if plan.storage == "bfloat16" else torch.from_numpy
    return _cpu.prepared(plan, given, arrays, wrapped, _apply if plan.tracked and not ours else None)


def _record(plan, tensors, divisor, results, gradient):
    """The loss as part of autograd's graph, where anything may be unusual; else autograd.pyx does it."""
    call = [plan, tensors, None if _hooked() else _versions(tensors), divisor, results]
    named = dict(zip(_arguments(plan), tensors, strict=True))
    return _apply(call, gradient, named[plan.name], *[named[name] for name in _others(plan)])


class Loss(torch.autograd.Function):
    """A loss in autograd's graph, differentiable with respect to its predictions, targets and weights.

    A scalar loss on a CPU comes with its gradient, which is kept. What else it keeps are plain attributes, since torch's own way to save
    tensors takes 4 of a small step's 35 µs; but torch is to save them where it was told what to do with what graphs keep.
    """

    @staticmethod
    def forward(ctx, kept, gradient, *_):
        results = kept.pop()  # the graph of a loss does not keep the loss
        ctx.kept, ctx.gradient = kept, gradient
        if kept[2] is None:
            ctx.save_for_backward(*kept[1])
        if type(results) is tuple:
            ctx.set_materialize_grads(False)
            return tuple(map(_own, results))
        return _own(results)

    @staticmethod
    def backward(ctx, upstream, upstream_prob=None):
        return (_untraced if torch.compiler.is_dynamo_compiling() else _backward_of)(ctx, upstream, upstream_prob)


def _backward_of(ctx, upstream, upstream_prob):
    """The backward pass of a node."""
    kept = ctx.kept
    if kept is None:
        raise RuntimeError("Trying to backward through the graph a second time: pass retain_graph=True to the first call")
    by_p = vars(ctx).pop("gradient", None)  # at once: another thread may be here, too
    if not keeps_graph():
        ctx.kept = None
    if by_p is not None:
        by_p = None if upstream is None else _received(by_p, upstream)
        if by_p is not None and len(ctx.needs_input_grad) == 3:
            return None, None, by_p
    return None, None, *_found_again(ctx, kept, by_p, upstream, upstream_prob)


_untraced = _disable_dynamo(_backward_of)  # under compiled autograd, which would trace what asks for numbers


def _counted(x):
    """A tensor for a graph to keep; of one of inference mode, which does not count how often it is written to, a copy."""
    return x.clone() if x is not None and x.is_inference() else x


def _own(x):
    """A result that autograd takes for no view, so that its owner may write to it."""
    return x.data if x._is_view() else x


def _found_again(ctx, call, by_p, upstream, upstream_prob):
    """The gradients that autograd needs of a loss, the first one unless it is known."""
    plan, tensors, versions, divisor = call
    if versions is None:
        tensors = ctx.saved_tensors  # an error where one was written to
    elif versions != _versions(tensors):
        raise RuntimeError(
            "one of the variables needed for gradient computation has been modified by an inplace operation: y_true, y_pred or a weight"
        )
    _, _, needs_p, *needs = ctx.needs_input_grad
    if upstream is None and upstream_prob is None:
        return (None,) * (1 + len(needs))
    given = dict(zip(_arguments(plan), tensors, strict=True), divisor=None, out=(None,))
    arrays = arrays_of(plan, array_api_compat.torch, given)._replace(divisor=divisor)
    if by_p is None and needs_p:
        by_p = plan.layout.restored(arrays.xp, _backward(plan, arrays, upstream, upstream_prob))
    wanted = [name for name, needed in zip(_others(plan), needs, strict=True) if needed and upstream is not None]
    found = {}
    if "y_true" in wanted and plan.block.symmetric:
        wanted.remove("y_true")
        real = plan_dtype(plan)
        exchanged = arrays._replace(t=arrays.p.to(real), p=arrays.t.to(real))
        params = tuple(plan.block.exchanged(dict(plan.params)).items())
        by_t = _backward(_routes.changed(plan, storage=plan.dtype, targets=plan.dtype, params=params), exchanged, upstream, None)
        found["y_true"] = plan.layout.restored(arrays.xp, by_t).to(given["y_true"].dtype)
    if wanted:
        found |= zip(wanted, _by_others(plan, given, divisor, wanted, upstream), strict=True)
    return by_p, *map(found.get, _others(plan))


def _by_others(plan, given, divisor, wanted, upstream):
    """The gradients with respect to targets and weights: autograd's, of the formula."""
    again = torch.is_grad_enabled()
    if not again:
        given = {name: x.detach() if isinstance(x, torch.Tensor) else x for name, x in given.items()}
    changed = _routes.changed(plan, want=VALUE, validate=False)

    def value(*tensors):
        arrays = arrays_of(plan, array_api_compat.torch, given | dict(zip(wanted, tensors, strict=True)))._replace(divisor=divisor)
        if not again and "y_true" in wanted and arrays.weight is not None:  # a weight of 0 leaves no slope, not of infinity either
            skip, t = arrays.weight.detach() == 0, arrays.t
            skip = skip.reshape(skip.shape[0], *[1] * (t.ndim - 2), skip.shape[1])
            arrays = arrays._replace(t=torch.where(skip, t.detach(), t))
        return reduced(changed, arrays, _formula.run(changed, arrays))

    return pulled_back(value, [given[name] for name in wanted], upstream)


def pulled_back(value, inputs, upstream):
    """The gradients of a function of tensors times what autograd hands down; functions of the tensors while autograd follows them."""
    if peek_transform() is not None:  # within which no tensor may be told that it requires grad
        return torch.func.vjp(value, *inputs)[1](upstream)
    again = torch.is_grad_enabled()
    if not again:  # a graph of its own, which ends at these
        inputs = [x.detach().requires_grad_() for x in inputs]
    with torch.enable_grad():
        found = value(*inputs)
    if not found.requires_grad:  # labels, though they are floats
        return tuple(map(torch.zeros_like, inputs))
    return torch.autograd.grad(found, inputs, upstream, create_graph=again, materialize_grads=True)


# `Function.apply` itself looks for function transforms, which is done before: 1 µs.
_apply = super(torch.autograd.Function, Loss).apply


def _versions(tensors):
    """How often each tensor was written to."""
    return tuple([None if x is None else x._version for x in tensors])


def plan_dtype(plan):
    """The dtype of the computation."""
    return getattr(torch, plan.dtype)


def _in_one_pass(plan):
    """Whether the gradient is found and kept in the forward pass, which reads the predictions anyway.

    Not on a GPU: one would have to wait to hear whether it is to be scaled.
    """
    return plan.reduction != "none" and not plan.want.prob and plan.here and not _hooked()


def _hooked():
    """Whether torch was told what becomes of tensors that a graph keeps: dropped and computed again (checkpoints), stored elsewhere."""
    return saved_hooks(True) is not None


def _received(kept, upstream):
    """A gradient that was kept, times what autograd hands down to the loss; None where it must be found again.

    It is scaled in place, since its memory is the receiver's from now on: through a graph that was retained it is found again, too.
    """
    if grad_enabled():  # the gradient will be differentiated, too
        return None
    plain = type(upstream) is torch.Tensor and upstream.is_cpu and not batched(upstream) and not observed()
    if not plain and not has_values(upstream):
        return kept * upstream if kept.itemsize > 2 else None  # a batch of upstreams, under vmap
    factor = upstream.item()
    if factor == 1:
        return kept
    # 16 bits would be rounded twice, or be 0 already where a factor of thousands is to prevent just that; 0 times infinity would be no 0.
    if kept.itemsize <= 2 or not math.isfinite(factor):
        return None
    return kept.mul_(upstream) if plain else kept * upstream  # a transform lets nobody write to what is not its own


def _backward(plan, arrays, upstream, upstream_prob):
    """The gradient (n, c, s), where autograd hands down `upstream` to the loss and `upstream_prob` to the probabilities.

    The divisor of `arrays` is what the forward pass divided by.
    """
    gradient = None if upstream is None else _gradient(plan, arrays, upstream)
    if upstream_prob is not None:
        through = _softmax_gradient(plan, arrays, upstream_prob)
        gradient = through if gradient is None else gradient + through
    return gradient


def _gradient(plan, arrays, upstream):
    """The part of the gradient that comes by the loss."""
    lay, reduced, batch, again = plan.layout, plan.reduction != "none", not has_values(upstream), torch.is_grad_enabled()
    divisor, dtype, p = arrays.divisor, arrays.p.dtype, arrays.p
    factor = upstream.item() if reduced and upstream.is_cpu and not (batch or again) else math.nan
    here = plan.here and (peek_transform() is None or as_numpy(p.detach()) is not None)  # what a transform makes of tensors lends no memory
    changes = dict(want=GRADIENT, divisor=1, validate=False, tracked=(), has_values=True, here=here)
    if lay.runs > 1 and (batch or again):  # which multiply what is (n, c, s)
        t, p, changes["layout"] = lay.flat(arrays.xp, arrays.t), lay.flat(arrays.xp, p), lay._replace(runs=1)
        arrays = arrays._replace(t=t, p=p)
    # By the weights of the forward pass, not by those made of `upstream` below.
    arrays = arrays._replace(scanned=_formula.scanned(plan, arrays, arrays.t))
    if again:  # it will be differentiated again, also with respect to weights whose sum the divisor is
        real = plan_dtype(plan)
        changes |= dict(divisor=plan.divisor, storage=plan.dtype, tracked=plan.tracked)
        gradient = _formula.run(_routes.changed(plan, **changes), arrays._replace(p=p.to(real))).gradient
        upstream = upstream if reduced else upstream.reshape(lay.n, 1, lay.s)
        # A slope that is constant in pieces is tied to the predictions all the same, so that its derivative is 0 and not an error.
        gradient = torch.where(torch.ones((), dtype=torch.bool, device=p.device), gradient * upstream, p)
        return kept(plan, arrays, gradient.to(dtype))
    if factor == 0 and not plan.labelled:  # bad labels have NaN all the same
        return torch.zeros_like(p)
    if isinstance(divisor, (int, float)) and math.isfinite(factor):
        # A number for the kernel to scale by, where a weight for each position would cost a stream more.
        changes["divisor"], divisor = GIVEN, divisor / factor if factor else 0.0  # of which all slopes are 0
    else:
        if reduced:
            upstream = _reduce.quotient(arrays.xp, upstream, divisor).to(plan_dtype(plan))
        upstream = upstream.expand(lay.losses).reshape(lay.n, lay.s)
        if batch:  # of upstreams, under vmap, which multiply one gradient that is not rounded yet
            p, changes["storage"] = p.to(plan_dtype(plan)), plan.dtype
        else:
            weight = arrays.weight  # 0 times infinity, too
            arrays = arrays._replace(weight=upstream if weight is None else torch.where(weight == 0, 0, weight * upstream))
            changes |= dict(weighted=True, here=here and as_numpy(arrays.weight) is not None)
    arrays = arrays._replace(p=p.detach(), divisor=divisor)
    gradient = kept(plan, arrays, _tensor(_routes.run(_routes.changed(plan, **changes), arrays).gradient, p))
    return (gradient * upstream[:, None, :]).to(dtype) if batch else gradient


def _softmax_gradient(plan, arrays, upstream):
    """The part that comes by the probabilities: p (u - Σ u p)."""
    real = plan_dtype(plan)
    logits, cap = arrays.p.to(real), plan.settings.get("softcap", 0.0)
    logits, bent = (logits, 1) if cap == 0 else capped(arrays.xp, logits, cap)
    prob = log_softmax(arrays.xp, logits)[1]
    upstream = plan.layout.canonical(arrays.xp, upstream).to(real)
    return (prob * (upstream - (upstream * prob).sum(1, keepdim=True)) * bent).to(arrays.p.dtype)


def _tensor(x, like):
    """A route's result as a tensor."""
    return from_numpy(x, like) if isinstance(x, np.ndarray) else x


def transformed(*tensors):
    """Whether a function transform (grad, vmap, jvp of torch.func), forward-mode differentiation or a tracer looks at the tensors."""
    if traced() or forward_ad._current_level >= 0:
        return True
    return any(torch._C._functorch.is_functorch_wrapped_tensor(x) for x in tensors)


def traced():
    """Whether operations are being recorded, so that what torch does not see would be a constant: compiled, exported, `make_fx`, `jit`."""
    return torch.compiler.is_compiling() or tracing_state() is not None or dispatch_mode(PROXY) is not None


def observed():
    """Whether a function transform is active, or a mode that records operations, so that a tensor's number may not be asked for."""
    return peek_transform() is not None or dispatch_mode(PROXY) is not None


def foreign(x):
    """Whether a tensor's class has its own way to do torch's operations, and its memory is elsewhere: distributed, masked, fake ones."""
    return type(x).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__


def namespace(x):
    """The array-API namespace of tensors."""
    return array_api_compat.torch


def refused(x):
    """Why a tensor cannot be taken, or None."""
    if x.is_nested:
        return "is a nested tensor, but must have one shape: pad it with torch.nested.to_padded_tensor, and give what was added weight 0"
    return None if x.layout is torch.strided else f"has layout {x.layout}, but must be dense: torch.strided"


def readable(x):
    """A tensor, or a copy of one over foreign memory whose numbers lie at no multiples of their size, as a file's may behind its header."""
    return x.clone() if has_values(x) and x.data_ptr() % x.itemsize else x


def unwritable(x):
    """Why a tensor cannot receive a result, or None."""
    return "requires grad, and autograd would not see what is written to it: pass its detach()" if x.requires_grad else None


def has_values(x):
    """Whether a tensor's values are at hand: not under a function transform, a trace, or on the meta device."""
    return (
        not x.is_meta
        and not traced()
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)
        and not batched(x)  # of upstream gradients, under is_grads_batched
        and not foreign(x)
    )


def seen(x):
    """Whether autograd follows a tensor; whether a function transform, forward-mode differentiation or a tracer looks at what is done."""
    watched = transformed(x) or torch._C._functorch.peek_interpreter_stack() is not None
    return x.requires_grad and torch.is_grad_enabled(), watched


def cuda(x):
    """The number of the CUDA device that a tensor is on, or None."""
    return x.device.index if x.is_cuda else None


def as_numpy(x):
    """A CPU tensor as a NumPy array over the same memory (bfloat16 as its bits), or None."""
    if x.device.type != "cpu" or x.layout is not torch.strided or not has_values(x) or x.is_conj() or x.is_neg() or x._is_zerotensor():
        return None
    x = x.detach()
    return (x.view(torch.uint16) if x.dtype is torch.bfloat16 else x).numpy()


def outline(x):
    """Where a tensor of a CUDA device lies, or None."""
    return addresses(x) if x.is_cuda else None


def addresses(x):
    """Where a tensor lies, or None while it is being traced."""
    if x.layout is not torch.strided or not has_values(x):
        return None
    return outlined(x.data_ptr(), x.shape, [step * x.itemsize for step in x.stride()], x.itemsize)


def from_numpy(x, like):
    """A NumPy array as a tensor over the same memory; bits become bfloat16 where `like` has it."""
    tensor = torch.from_numpy(x)
    return tensor.view(torch.bfloat16) if x.dtype == np.uint16 and like.dtype is torch.bfloat16 else tensor


# ------------------------------------------------------------------------------------------------------------------ torch.compile
# A call in a graph that is being compiled or traced becomes an operator, before anything of the call is traced; its implementation makes
# the call with real tensors, so that a bad label raises when the graph runs. Options travel as one string.

LIBRARY = torch.library.Library("polyloss", "DEF")
CALL = "Tensor y_true, Tensor y_pred, Tensor? sample_weight, Tensor? class_weight, Tensor? denominator, str options"
LIBRARY.define(f"loss({CALL}) -> (Tensor value, Tensor prob, Tensor gradient, Tensor divisor)")
LIBRARY.define(f"loss_gradient({CALL}, Tensor? upstream, Tensor? upstream_prob, Tensor divisor) -> Tensor")
ARRAYS = ("sample_weight", "class_weight", "denominator")  # arguments that may be tensors


def _operator(block, y_true, y_pred, want, arguments):
    """The results as outputs of an operator in the graph; None where the call itself is to be traced."""
    if want.hessian or block.name is None or arguments.get("mask") is not None or _traced_transform():
        return None
    tensors = y_true, *(arguments.get(name) for name in ARRAYS)
    if any(x is not None and (not isinstance(x, torch.Tensor) or x.requires_grad) for x in tensors):
        return None
    options = {name: _constant(x) for name, x in arguments.items() if name not in ARRAYS}
    if block.ignores:
        options[block.ignores] = tuple(_constant(x) for x in integers(block.ignores, arguments[block.ignores]))
    told = repr((block.name, tuple(want), options))
    value, prob, gradient, _ = torch.ops.polyloss.loss(y_true, y_pred.detach() if want.gradient else y_pred, *tensors[1:], told)
    results = []
    if want.value:
        results.append((value, prob) if arguments.get("return_prob") else value)
    if want.gradient:
        results.append(gradient)
    return results[0] if len(results) == 1 else tuple(results)


def _traced_transform():
    """Whether a function transform or forward mode, as `torch.func.linearize` has it, is being traced; operators have no tangents.

    The type is asked since torch.compile gives None as an object of its own.
    """
    return type(torch._C._functorch.peek_interpreter_stack()) is not type(None) or forward_ad._current_level >= 0


def _constant(x):
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
    return plan.layout.restored(arrays.xp, _backward(plan, arrays._replace(divisor=divisor), upstream, upstream_prob)).contiguous()


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

for x in (torch.empty(0), torch.nn.Parameter(torch.empty(0))):  # known from here on: a first call that is being traced could not learn it
    backend_of(x)
if (compiled := _cpu.kernels("autograd")) is not None:
    modes = torch._C._is_tracing, torch._C._len_torch_dispatch_stack, partial(dispatch_mode, PROXY), peek_transform
    states = *modes, grad_enabled, saved_hooks, vars(torch.compiler), vars(forward_ad)
    kinds, dtypes = (torch.Tensor, torch.nn.Parameter), {getattr(torch, name): kind for name, kind in KINDS.items()}
    _cpu.kernels("tensors").take_tensors(kinds, torch.strided, dtypes)
    compiled.take_states(states, (keeps_graph, Loss._backward_cls.apply))
    Loss._backward_cls.apply = compiled.backward  # the ordinary backward pass; any other is `Loss.backward`
