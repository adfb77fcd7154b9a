"""`linear_softmax_loss` of tensors: its node in autograd's graph, and its operator in graphs that are compiled.

A scalar loss is computed together with its gradients. The node keeps them until the backward pass hands them over, and drops its own
references then: autograd copies a gradient that anything else still holds. Whatever else torch may differentiate (a second time, forward
mode, function transforms, a weight of positions that requires grad) is computed from all logits at once, by `softmax_loss`.
"""

import math
from ast import literal_eval
from dataclasses import replace
from typing import Any

import torch
from torch._compile import _disable_dynamo

from polyloss._adapters.torch_autograd import hooked, pulled_back
from polyloss._adapters.torch_operators import LIBRARY, constant, traced_transform
from polyloss._adapters.torch_tensors import foreign, has_values, observed, traced, transformed
from polyloss._call.plan import BOTH, GIVEN, VALUE
from polyloss._core import buffers
from polyloss._core.params import integers
from polyloss._linear_softmax.chunks import Products, prepared, results, run
from polyloss.softmax import softmax_loss

TWICE = (
    "a loss whose classes are shared out over processes has first derivatives alone: for second ones give each process all classes, as"
    " torch.distributed.nn.functional.all_gather puts them together, or positions of its own, shard='batch'"
)
ARRAYS = ("sample_weight", "class_weight", "denominator")  # arguments that may be tensors


def product(a, b, out):
    """out = a @ b."""
    torch.mm(a, b, out=out)


def grow(a, b, out, first):
    """out += a @ b, or where it is the first out = a @ b."""
    if first:
        torch.mm(a, b, out=out)
    else:
        out.addmm_(a, b)


def empty(shape, dtype, device):
    """A tensor of arbitrary contents. torch's own memory comes in pages of 4 KB: 131 MB of them take 30 ms."""
    if device.type != "cpu":
        return torch.empty(shape, dtype=dtype, device=device)
    return torch.from_numpy(buffers.empty(shape, "float64" if dtype is torch.float64 else "float32"))


PRODUCTS = Products(product, grow, empty)


def call(want, y_true, features, weight, bias, arguments):
    """The results of a call whose features are a tensor."""
    operands = features, weight, bias
    factors = [x for x in (arguments[name] for name in ARRAYS) if isinstance(x, torch.Tensor)]
    tensors = [x for x in (y_true, *operands, *factors) if isinstance(x, torch.Tensor)]
    needed = torch.is_grad_enabled() and not want.gradient
    by_factor = needed and any(x.requires_grad for x in factors)
    if traced() and not (by_factor or traced_transform()):
        return _operator(want, y_true, features, weight, bias, arguments)
    if by_factor or (not want.gradient and (transformed(*tensors) or any(map(foreign, tensors)))):
        return plain(y_true, features, weight, bias, arguments)
    if want.gradient or not needed or not any(isinstance(x, torch.Tensor) and x.requires_grad for x in operands):
        constants = {name: detached(arguments[name]) for name in ARRAYS}
        head = _prepared(want, y_true, *map(detached, operands), arguments | constants)
        return results(head, *_run(head))
    head = _prepared(want, y_true, *operands, arguments)
    value = HeadLoss.apply(
        head, head.features, head.weight, head.bias, head.labels, head.sample_weight, head.class_weight, head.denominator
    )
    return value.reshape(head.plan.layout.losses) if head.rules.reduction == "none" else value


def detached(x):
    """An argument that autograd does not follow."""
    return x.detach() if isinstance(x, torch.Tensor) else x


def plain(y_true, features, weight, bias, arguments):
    """The loss with all logits at hand."""
    logits = torch.nn.functional.linear(features, weight, bias)
    options = {name: x for name, x in arguments.items() if name != "chunk"}
    return softmax_loss(y_true, logits, axis=-1, **options)


def _prepared(*arguments):
    return replace(prepared(*arguments), products=PRODUCTS)


def _run(head, **options):
    """`run`, whose products no autocast may round."""
    with torch.no_grad(), torch.autocast(head.device.type, enabled=False):
        return run(head, **options)


class HeadLoss(torch.autograd.Function):
    """The loss in autograd's graph, differentiable with respect to features, weight and bias."""

    @staticmethod
    def forward(ctx, head, *tensors):
        ctx.needs, kept = ctx.needs_input_grad[1:4], None
        if head.rules.reduction != "none" and not hooked():
            value, kept = _run(replace(head, want=BOTH), needs=ctx.needs, exact=True)
        else:
            value, _ = _run(replace(head, want=VALUE))
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        ctx.kept, ctx.head = kept, _with_tensors(head, *[None] * 7)
        return value

    @staticmethod
    def backward(ctx, upstream):
        return (_untraced if torch.compiler.is_dynamo_compiling() else _backward)(ctx, upstream)


def _backward(ctx, upstream):
    """The backward pass of a node."""
    head = _with_tensors(ctx.head, *ctx.saved_tensors)  # an error where one was written to, or the graph is gone
    kept = vars(ctx).pop("kept", None)  # at once: another thread may be here, too
    if upstream is None:
        return (None,) * 8
    each = head.rules.reduction == "none"
    # The gradients will be differentiated, too; or there is a batch of upstreams, or a function transform, which lends no memory.
    if torch.is_grad_enabled() or ((each or kept is None) and not has_values(upstream)) or (kept is None and observed()):
        if head.shard is not None:
            raise NotImplementedError(TWICE)
        return None, *_again(head, upstream, ctx.needs), *(None,) * 4
    if kept is None:
        _, kept = _run(replace(head, want=BOTH), needs=ctx.needs, exact=True, upstream=upstream if each else None)
    kept = list(kept)  # one reference each: what is handed over is not to be copied
    like = head.features, head.weight, head.bias
    handed: list[Any] = []
    while kept:
        gradient = kept.pop(0)
        handed.append(gradient if gradient is None else _handed(gradient, None if each else upstream, like[len(handed)].dtype))
    return None, *handed, None, None, None, None


_untraced = _disable_dynamo(_backward)  # under compiled autograd, which would trace what asks for numbers


def _handed(gradient, upstream, dtype):
    """A gradient times what autograd hands down to the loss, in the dtype of its tensor."""
    if upstream is not None:
        if not has_values(upstream):  # a batch of them, under vmap
            gradient = gradient * upstream
        elif not math.isfinite(factor := upstream.item()):
            gradient = torch.where(gradient == 0, 0, gradient * factor)  # 0 times infinity is none
        elif factor != 1:  # a transform lets nobody write to what is not its own
            gradient = gradient * factor if observed() else gradient.mul_(factor)
    return gradient.to(dtype)


def _again(head, upstream, needs):
    """The gradients with all logits at hand: as functions of the tensors, where they will be differentiated."""
    operands, (rules, plan) = (head.features, head.weight, head.bias), (head.rules, head.plan)
    options = dict(
        axis=1, ignore_label=rules.ignore or None, class_weight=head.class_weight, sample_weight=head.sample_weight,
        reduction=rules.reduction, validate=False, **dict(rules.terms),
    )  # fmt: skip
    if rules.reduction == "normalize":
        number = rules.divisor if plan.divisor == GIVEN and rules.divisor != GIVEN else None
        options |= dict(normalization=plan.normalization, denominator=number if head.denominator is None else head.denominator)

    def value(*tensors):
        given = iter(tensors)
        factors = (next(given) if need else x for x, need in zip(operands, needs, strict=True))
        return softmax_loss(head.labels, torch.nn.functional.linear(*(x if x is None else x.to(head.dtype) for x in factors)), **options)

    found = iter(pulled_back(value, [x for x, need in zip(operands, needs, strict=True) if need], upstream.to(head.dtype)))
    return tuple(next(found) if need else None for need in needs)


def _with_tensors(head, features, weight, bias, labels, sample_weight, class_weight, denominator):
    return replace(
        head, features=features, weight=weight, bias=bias, labels=labels, sample_weight=sample_weight, class_weight=class_weight,
        denominator=denominator,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------------------------------ torch.compile
# A call in a graph that is being compiled becomes one operator, whose implementation is the call on real tensors. Where a scalar loss is to
# be differentiated its gradients come out of the forward operator, too, and the backward pass multiplies them by what is handed down.

CALL = (
    "Tensor y_true, Tensor features, Tensor weight, Tensor? bias, Tensor? sample_weight, Tensor? class_weight, Tensor? denominator,"
    " Tensor? upstream, str options, int needs"
)
LIBRARY.define(f"linear_softmax({CALL}) -> (Tensor value, Tensor by_features, Tensor by_weight, Tensor by_bias)")


def _operator(want, y_true, features, weight, bias, arguments):
    """The results as outputs of an operator in the graph."""
    operands = features, weight, bias
    needs = 7 if want.gradient else sum(1 << i for i, x in enumerate(operands) if x is not None and x.requires_grad)
    if not want.gradient and (arguments["reduction"] in ("none", None) or not torch.is_grad_enabled()):
        needs = 0
    if want.gradient:
        features, weight, bias = (x if x is None else x.detach() for x in operands)
    options = {name: constant(x) for name, x in arguments.items() if name not in ARRAYS}
    options["ignore_label"] = tuple(constant(x) for x in integers("ignore_label", arguments["ignore_label"]))
    arrays = [arguments[name] for name in ARRAYS]
    if isinstance(arrays[2], (int, float)):
        options["denominator"] = constant(arrays.pop())
        arrays.append(None)
    value, *gradients = torch.ops.polyloss.linear_softmax(y_true, features, weight, bias, *arrays, None, repr(options), needs)
    if not want.gradient:
        return value
    like = (features, weight) if bias is None else (features, weight, bias)
    gradients = tuple(g.to(x.dtype) for g, x in zip(gradients, like, strict=False))
    return (value, gradients) if want.value else gradients


def _linear(y_true, features, weight, bias, sample_weight, class_weight, denominator, upstream, options, needs):
    arrays = {"sample_weight": sample_weight, "class_weight": class_weight, "denominator": denominator}
    arguments = arrays | literal_eval(options)
    head = _prepared(BOTH if needs else VALUE, y_true, features, weight, bias, arguments)
    if upstream is not None:
        upstream = upstream.reshape(-1).to(head.dtype)
    value, gradients = _run(head, needs=tuple(bool(needs >> i & 1) for i in range(3)), upstream=upstream, exact=True)
    value = value.reshape(head.plan.layout.losses) if head.rules.reduction == "none" else value
    shapes = features.shape, weight.shape, () if bias is None else bias.shape
    gradients = (value.new_empty(0) if g is None else g.reshape(shape) for g, shape in zip(gradients, shapes, strict=True))
    return value, *gradients


def _linear_fake(y_true, features, weight, bias, sample_weight, class_weight, denominator, upstream, options, needs):
    dtype = torch.float64 if torch.float64 in (features.dtype, weight.dtype) else torch.float32
    shape = features.shape[:-1] if literal_eval(options)["reduction"] in ("none", None) else ()
    wanted = (x if x is not None and needs >> i & 1 else None for i, x in enumerate((features, weight, bias)))
    gradients = (features.new_empty(0 if x is None else x.shape, dtype=dtype) for x in wanted)
    return features.new_empty(shape, dtype=dtype), *gradients


def _linear_keep(ctx, inputs, output):
    *tensors, _, ctx.options, _ = inputs
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[1:])
    ctx.each = literal_eval(ctx.options)["reduction"] in ("none", None)
    ctx.save_for_backward(*(tensors if ctx.each else tensors[1:4]), *(() if ctx.each else output[1:]))


def _linear_backward(ctx, upstream, *_):
    if upstream is None:
        return (None,) * 10
    needs = ctx.needs_input_grad[1:4]
    if ctx.each:
        tensors = ctx.saved_tensors
        like = tensors[1:4]
        mask = sum(1 << i for i, need in enumerate(needs) if need)
        _, *gradients = torch.ops.polyloss.linear_softmax(*tensors, upstream, ctx.options, mask)
    else:
        like, gradients = ctx.saved_tensors[:3], [g * upstream for g in ctx.saved_tensors[3:]]
    gradients = (g.to(x.dtype) if need else None for g, x, need in zip(gradients, like, needs, strict=True))
    return None, *gradients, *(None,) * 6


LIBRARY.impl("linear_softmax", _linear, "CompositeExplicitAutograd")
torch.library.register_fake("polyloss::linear_softmax", _linear_fake, lib=LIBRARY)
torch.library.register_autograd("polyloss::linear_softmax", _linear_backward, setup_context=_linear_keep, lib=LIBRARY)
