"""A loss in autograd's graph: its node, and its derivatives by formulas.

On a CPU a scalar loss comes with its gradient, in one pass over the predictions: forward keeps it and backward hands it over. Elsewhere
forward keeps nothing of the predictions' size but themselves, and backward takes the gradient from the same kernels. Derivatives with
respect to targets and weights are autograd's, of the formula on torch's own operations, which backward evaluates for them. A second
derivative is autograd's of the formula of the first.
"""

import math
from functools import lru_cache
from types import SimpleNamespace

import array_api_compat.torch
import numpy as np
import torch
from torch._compile import _disable_dynamo
from torch.autograd import forward_ad

from polyloss._adapters.torch_tensors import as_numpy, batched, from_numpy, has_values, observed, peek_transform
from polyloss._call import formula as _formula, routes as _routes
from polyloss._call.plan import GIVEN, GRADIENT, VALUE
from polyloss._call.prepare import arrays_of
from polyloss._call.run_plan import kept, reduced
from polyloss._core import reduce as _reduce
from polyloss._core.block import capped, log_softmax

saved_hooks = torch._C._autograd._top_saved_tensors_default_hooks
grad_enabled = torch.is_grad_enabled  # looked up once, as what follows
keeps_graph = torch._C._autograd._get_current_graph_task_keep_graph


def record(plan, tensors, divisor, results, gradient):
    """The loss as part of autograd's graph, where anything may be unusual; else autograd.pyx does it."""
    call = [plan, tensors, None if hooked() else _versions(tensors), divisor, results]
    named = dict(zip(tensor_names(plan), tensors, strict=True))
    return apply_loss(call, gradient, named[plan.name], *[named[name] for name in _others(plan)])


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


def counted(x):
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
    given = dict(zip(tensor_names(plan), tensors, strict=True), divisor=None, out=(None,))
    arrays = arrays_of(plan, array_api_compat.torch, given)._replace(divisor=divisor)
    if by_p is None and needs_p:
        by_p = plan.layout.restored(arrays.xp, gradient_of(plan, arrays, upstream, upstream_prob))
    wanted = [name for name, needed in zip(_others(plan), needs, strict=True) if needed and upstream is not None]
    found = {}
    if "y_true" in wanted and plan.block.symmetric:
        wanted.remove("y_true")
        real = plan_dtype(plan)
        exchanged = arrays._replace(t=arrays.p.to(real), p=arrays.t.to(real))
        params = tuple(plan.block.exchanged(dict(plan.params)).items())
        by_t = gradient_of(_routes.changed(plan, storage=plan.dtype, targets=plan.dtype, params=params), exchanged, upstream, None)
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
apply_loss = super(torch.autograd.Function, Loss).apply


def _versions(tensors):
    """How often each tensor was written to."""
    return tuple([None if x is None else x._version for x in tensors])


def plan_dtype(plan):
    """The dtype of the computation."""
    return getattr(torch, plan.dtype)


def in_one_pass(plan):
    """Whether the gradient is found and kept in the forward pass, which reads the predictions anyway.

    Not on a GPU: one would have to wait to hear whether it is to be scaled.
    """
    return plan.reduction != "none" and not plan.want.prob and plan.here and not hooked()


def hooked():
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


def gradient_of(plan, arrays, upstream, upstream_prob):
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
            view = as_numpy(arrays.weight)
            changes |= dict(weighted=True, here=here and view is not None and view.flags.aligned)
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
def written(block):
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


def forward_twice():
    """Whether forward mode is inside forward mode: there the tangent of a tangent that a `Function` gives is 0 (torch 2.13)."""
    stack = torch._C._functorch.get_interpreter_stack() or ()
    return sum(level.key() == torch._C._functorch.TransformType.Jvp for level in stack) > 1


def followed(x):
    """Whether a derivative with respect to a tensor may be asked for: by autograd, forward mode, or a function transform of any level."""
    if x is None or not x.is_floating_point():
        return False
    if forward_ad._current_level >= 0 and forward_ad.unpack_dual(x).tangent is not None:
        return True
    while not x.requires_grad and torch._C._functorch.is_functorch_wrapped_tensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x.requires_grad


def tensor_names(plan):
    """Names of the tensors of a call that its graph keeps."""
    return ("y_true", plan.name, "sample_weight", "class_weight", "mask")[: 5 if plan.masked else 4]


def _others(plan):
    """Names of those that autograd follows beside the predictions."""
    return [name for name in ("y_true", "sample_weight", "class_weight") if name in plan.tracked]
