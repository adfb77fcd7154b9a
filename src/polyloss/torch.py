"""torch's loss modules on polyloss' kernels: change the import line of a training script, and nothing else.

Constructors, numbers, dtypes and results are torch's own, even where the rest of polyloss follows other rules: bfloat16 in gives bfloat16
out, soft targets with class weights are divided by N, a mean over nothing is NaN. What torch would broadcast, promote or refuse goes to the
module of torch that each of these extends, so that its answer or its error is torch's. A label that is neither a class nor ignored is a
``ValueError`` that names it. `SoftmaxLoss` is Caffe's layer, and follows polyloss.

`NLLLoss` reads one number per position, in torch's own code: 7 µs for 1024 labels of 32000 classes. Its gradient, zeros but for one number
per position, is polyloss' own: 27 ms for torch's 124, most of which torch spends on mapping pages.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, Literal, NamedTuple, Never

import numpy as np
import torch
from torch import nn
from torch.nn.functional import nll_loss

from polyloss._adapters import torch_groups as _torch_groups
from polyloss._adapters.torch import looked_up
from polyloss._adapters.torch_tensors import as_numpy, foreign, from_numpy, has_values, observed, tracing_state, transformed
from polyloss._call.call import called, first, plan_cache
from polyloss._call.cpu import kernels
from polyloss._call.plan import VALUE
from polyloss._core.arguments import refuse_unknown, without_unknown
from polyloss._core.block import Elementwise, Rowwise
from polyloss._core.params import number, positive
from polyloss.classification import BinaryCrossentropy, Logistic, MulticlassHinge
from polyloss.linear_softmax import linear_softmax_loss as linear_softmax_alone
from polyloss.regression import Huber, MeanAbsoluteError, MeanSquaredError, Poisson, SmoothL1
from polyloss.softmax import Normalization, SoftmaxLoss as SoftmaxLossBlock, softmax_loss as softmax_alone

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "CosineEmbeddingLoss",
    "CrossEntropyLoss",
    "GaussianNLLLoss",
    "HingeEmbeddingLoss",
    "HuberLoss",
    "KLDivLoss",
    "L1Loss",
    "LinearCrossEntropyLoss",
    "MSELoss",
    "MultiLabelSoftMarginLoss",
    "MultiMarginLoss",
    "NLLLoss",
    "PoissonNLLLoss",
    "SmoothL1Loss",
    "SoftMarginLoss",
    "SoftmaxLoss",
    "linear_softmax_loss",
    "softmax_loss",
]


def __dir__():
    """The modules alone, for tab completion."""
    return sorted(__all__)


SMALL = 1 << 14  # elements, of some modules: below, torch's way is as fast
UNSEEN = torch._C._disabled_torch_function_impl  # `__torch_function__` of a subclass that torch's functions don't ask, as Parameter
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
EPSILON = float(np.float32(1e-12))  # that torch adds to squared norms, and divides by at least, in float64 too
FLOATING = {dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype) and dtype.is_floating_point}
FROM_LOGITS = dict(pos_weight=1.0, from_logits=True, label_smoothing=0.0, epsilon=1e-7)
REDUCTIONS = {"none": "none", "sum": "sum", "mean": "sum_over_batch_size"}  # torch's, over elements: by our name
KL_REDUCTIONS = (*REDUCTIONS.values(), "normalize")  # by the length of the batch


class Call(NamedTuple):
    """The call of one of this library's losses that gives a module's loss."""

    block: type
    target: torch.Tensor
    options: dict[str, Any]
    gives: str | None = None  # which values need no look at `settled`: "not zero", "finite"; None: all
    settled: Callable[[torch.Tensor], Any] | None = None  # the call's value -> the module's, or None where torch has to compute it
    listed: bool = True  # whether autocast computes torch's loss in float32


def _ruled(rule, target, input, options):
    """What a rule says; None where a tensor's class overrides torch's functions: then torch's own module is to call them."""
    return rule(input, target, **options) if all(map(_plain, (target, *options.values()))) else None


def _planned(rule, target, input, want, out, options):
    """A module's loss; None where torch has to compute it."""
    call = _ruled(rule, target, input, options)
    return None if call is None else _settled(call, input, called(call.block, call.target, input, want, out, call.options))


def _settled(call, input, loss):
    """A call's loss as the module's."""
    loss = loss if call.settled is None else call.settled(loss)
    return loss if loss is None or loss.dtype is input.dtype else _likeness(call)(loss, input)


def _likeness(call):
    """What gives a call's loss torch's dtype."""
    return _like if call.listed else _like_composed


def _first(rule, target, input, want, out, options):
    """What is kept for calls like this one, the kernel, or the rule if no kernel takes them; and this call's loss."""
    call = _ruled(rule, target, input, options)
    if call is None:
        return rule, None
    kernel, loss = first(call.block, call.target, input, want, out, call.options)
    given = call.target is target and all(call.options.get(key) is options.get(key) for key in ("sample_weight", "class_weight"))
    if not given or not isinstance(kernel, Prepared) or (call.gives and loss.ndim):
        return rule, _settled(call, input, loss)
    kernel.serve(call.options.get("denominator"), call.gives, None if loss.dtype is input.dtype else _likeness(call))
    return kernel, _settled(call, input, loss)


def _again(known, rule, target, input, out, options):
    """The loss of a call for which no kernel is kept, or whose data it refused."""
    return _planned(rule, target, input, VALUE, out, options)


# The losses of modules: (rule, target, input, VALUE, None, options) -> loss, or None where torch has to compute it. A rule is a function of
# (input, target, **options) and gives a `Call` or None; it looks at dtypes and shapes, never at numbers, so that its answer can be kept.
Prepared = _kernel.Prepared if (_kernel := kernels("prepared")) else ()
_evaluated = looked_up(plan_cache and plan_cache.beside(_first, _again, _planned), _planned, _planned)


class CrossEntropyLoss(nn.CrossEntropyLoss):
    """torch's `CrossEntropyLoss`: from logits, of labels or soft targets, classes on axis 1 (0 without a batch)."""

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss of `input` (N, C, …) and `target`: labels (N, …) or soft targets like `input`."""
        options = {
            "reduction": self.reduction, "ignore_index": self.ignore_index, "label_smoothing": self.label_smoothing,
            "class_weight": _buffer(self, "weight"),
        }  # fmt: skip
        loss = _evaluated(_cross_entropy, target, input, VALUE, None, options)
        return super().forward(input, target) if loss is None else loss


def _cross_entropy(input, target, reduction, ignore_index, label_smoothing, class_weight):
    """The softmax loss, of which a mean over nothing is NaN."""
    if not _usable(input):
        return None
    shape, kind = input.shape, input.dtype
    axis = 1 if len(shape) > 1 else 0
    soft, mean = target.dtype is not torch.int64, reduction == "mean"
    fits = target.dtype is kind and target.shape == shape if soft else target.shape == shape[:axis] + shape[axis + 1 :]
    if (
        not (fits and reduction in REDUCTIONS and 0 <= label_smoothing <= 1)
        or (class_weight is not None and (class_weight.dtype is not kind or class_weight.shape != shape[axis : axis + 1]))
        or (soft and ignore_index >= 0)
    ):
        return None
    options = {
        **_torch_groups.SOFTMAX, "axis": axis, "ignore_label": None if soft else ignore_index, "class_weight": class_weight,
        "label_smoothing": float(label_smoothing), "reduction": "normalize" if mean else reduction,
    }  # fmt: skip
    if soft and mean:
        options["denominator"] = input.numel() // shape[axis]
    if soft or not mean:
        return Call(SoftmaxLossBlock, target, options)
    return Call(SoftmaxLossBlock, target, options, "not zero", partial(_nan_of_nothing, target, ignore_index, class_weight))


class LinearCrossEntropyLoss(getattr(nn, "LinearCrossEntropyLoss", nn.Module)):  # type: ignore[misc]  # new in torch 2.13
    """torch's `LinearCrossEntropyLoss` (torch 2.13): a linear layer and the cross-entropy of its logits, which are never all there at once.

    `options` of torch's chunks choose the rows at once if they name `batch_chunk_size`.
    """

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss of `input` (N, D) and `target`, labels (N,)."""
        matrix, bias, factor = self.linear.weight, self.linear.bias, self.weight
        fits = _usable(input) and _plain(target) and input.ndim <= 2 and target.dtype == torch.int64 and target.shape == input.shape[:-1]
        fits = fits and not self.out_features and input.dtype == matrix.dtype and input.shape[-1] == matrix.shape[1]
        if (
            not fits
            or input.numel() // input.shape[-1] * self.num_classes < SMALL
            or self.reduction not in REDUCTIONS
            or (factor is not None and factor.dtype != input.dtype)
        ):
            return super().forward(input, target)
        ignore = -100 if self.ignore_index is None else self.ignore_index
        loss = linear_softmax_alone(
            target, input, matrix, bias, ignore_label=ignore, class_weight=factor, label_smoothing=self.label_smoothing,
            reduction="normalize" if self.reduction == "mean" else self.reduction, chunk=getattr(self.options, "batch_chunk_size", None),
        )  # fmt: skip
        if self.reduction == "mean":
            loss = _nan_of_nothing(target, ignore, factor, loss)
        return super().forward(input, target) if loss is None else _like(loss, input)


class NLLLoss(nn.NLLLoss):
    """torch's `NLLLoss`: from logarithms of probabilities, classes on axis 1 (0 without a batch)."""

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss of `input` (N, C, …) and `target`: labels (N, …)."""
        if not isinstance(input, torch.Tensor):
            return super().forward(input, target)
        if input.ndim == 4:  # torch's backward pass takes no other layout
            input = input.contiguous()
        if input.numel() < 512 * SMALL:  # the system maps what is smaller as fast as we do
            return nll_loss(input, target, _buffer(self, "weight"), ignore_index=self.ignore_index, reduction=self.reduction)
        needed = _usable(input) and input.requires_grad and torch.is_grad_enabled()
        needed = needed and not (self.weight is not None and self.weight.requires_grad)  # torch's error
        if not needed or not input.is_cpu or transformed(input, target):
            return super().forward(input, target)
        return Picked.apply(input, target, self.weight, self.ignore_index, self.reduction)


class Picked(torch.autograd.Function):
    """torch's `nll_loss`, with a gradient in memory that need not be written but where it isn't 0."""

    @staticmethod
    def forward(ctx, input, target, weight, ignore_index, reduction):
        ctx.save_for_backward(input, target, weight)
        ctx.options = dict(ignore_index=ignore_index, reduction=reduction)
        return nll_loss(input, target, weight, **ctx.options)

    @staticmethod
    def backward(ctx, upstream):
        input, target, weight = ctx.saved_tensors
        if torch.is_grad_enabled():  # it will be differentiated again
            loss = nll_loss(input, target, weight, **ctx.options)
            return *torch.autograd.grad(loss, input, upstream, create_graph=True), None, None, None, None
        ignored = target == ctx.options["ignore_index"]
        label = torch.where(ignored, 0, target).long()
        wide = torch.promote_types(input.dtype, torch.float32)
        factor = torch.ones_like(label, dtype=wide) if weight is None else weight[label].to(wide)
        total = torch.where(ignored, 0, factor).sum() if ctx.options["reduction"] == "mean" else 1
        factor = torch.where(ignored, 0, -factor * upstream / total).to(input.dtype)
        axis = min(input.ndim - 1, 1)
        places = axis, label.unsqueeze(axis), factor.unsqueeze(axis)
        if not has_values(upstream):  # a batch of them, under vmap, which writes to nothing in place
            return torch.zeros_like(input).scatter(*places), None, None, None, None
        view = as_numpy(input)
        gradient = from_numpy(np.zeros(view.shape, view.dtype), input)  # huge pages, already 0 when the system maps them
        return gradient.scatter_(*places), None, None, None, None


class BCEWithLogitsLoss(nn.BCEWithLogitsLoss):
    """torch's `BCEWithLogitsLoss`: binary cross-entropy from logits, with weights of elements and of positive targets."""

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss of `input`, logits of any shape, and `target`, probabilities of the same shape."""
        weight, pos_weight = _buffer(self, "weight"), _buffer(self, "pos_weight")
        followed = weight is not None and weight.requires_grad
        if followed or (pos_weight is not None and not _single(pos_weight, input)):
            return self._weighted(input, target, weight, pos_weight)
        options = {"reduction": self.reduction, "pos_weight": None if pos_weight is None else pos_weight.item(), "sample_weight": weight}
        loss = _evaluated(_binary_crossentropy, target, input, VALUE, None, options)
        return super().forward(input, target) if loss is None else loss

    def _weighted(self, input, target, weight, pos_weight):
        """The loss under several weights of positive targets, or weights that autograd follows."""
        factors = [x for x in (weight, pos_weight) if x is not None]
        followed = any(x.requires_grad for x in factors)
        if not (followed or (isinstance(input, torch.Tensor) and input.numel() >= SMALL)):
            return super().forward(input, target)
        fits = _alike(input, target) and all(_broadcasts(x, input) for x in factors)
        if fits and followed:
            return self._differentiable(input, target)
        if not fits or target.requires_grad or not input.is_cpu or torch.compiler.is_compiling():
            return super().forward(input, target)
        # k t softplus(-z) + (1 - t) softplus(z) is the loss of the target k t / w, times w = k t + 1 - t, where that can be divided by.
        real = target.to(torch.promote_types(target.dtype, torch.float32))
        positive = pos_weight * real
        total = positive + (1 - real)
        least, most = map(_number, total.aminmax())
        if least is None or not 0 < least <= most < math.inf:
            return super().forward(input, target)
        weight = total if weight is None else total * weight
        return _elementwise(BinaryCrossentropy, input, positive.div_(total), self.reduction, weight, **FROM_LOGITS)

    def _differentiable(self, input, target):
        """The loss as a sum over the two classes, which autograd follows to the weights, too: torch gives these no derivatives."""
        target = target.to(torch.promote_types(target.dtype, torch.float32))
        of_1, of_0 = (_elementwise(BinaryCrossentropy, input, torch.full_like(input, y), "none", **FROM_LOGITS) for y in (1, 0))
        loss = (target if self.pos_weight is None else self.pos_weight * target) * of_1 + (1 - target) * of_0
        loss = loss if self.weight is None else self.weight * loss
        return _like(loss.mean() if self.reduction == "mean" else loss.sum() if self.reduction == "sum" else loss, input)


def _binary_crossentropy(input, target, reduction, pos_weight, sample_weight):
    weight = sample_weight
    if not _alike(input, target) or (pos_weight is not None and target.requires_grad):
        return None
    if weight is not None and (not _broadcasts(weight, input) or (weight.shape != input.shape and input.numel() < SMALL)):
        return None
    options = FROM_LOGITS if pos_weight is None else {**FROM_LOGITS, "pos_weight": pos_weight}
    return _of_elements(BinaryCrossentropy, input, target, reduction, weight, **options)


class FlooredBinaryCrossentropy(Elementwise):
    """-(t max(log p, -100) + (1 - t) max(log1p(-p), -100)), with torch's slope, whose divisor is at least 1e-12.

    NaN where t or p is no probability.
    """

    kernel = "floored_binary_crossentropy"

    def value(xp, t, p):
        t = xp.where((t < 0) | (t > 1), xp.full_like(t, xp.nan), t)
        return -(t * xp.clip(xp.log(p), -100.0, None) + (1 - t) * xp.clip(xp.log1p(-p), -100.0, None))

    def slope(xp, t, p):
        return (p - t) / xp.clip(p * (1 - p), EPSILON, None)

    def curvature(xp, t, p):
        d = p * (1 - p)
        return xp.where(d <= 1e-12, 1e12, ((p - t) ** 2 + t * (1 - t)) / xp.clip(d, 1e-12, None) ** 2)


class BCELoss(nn.BCELoss):
    """torch's `BCELoss`: binary cross-entropy of probabilities, their logarithms at least -100."""

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss of `input`, probabilities of any shape, and `target`, probabilities of the same shape."""
        weight = _buffer(self, "weight")
        if weight is None:
            loss = _evaluated(_floored, target, input, VALUE, None, {"reduction": self.reduction})
        elif _alike(input, target) and all(has_values(x) and bool(((x >= 0) & (x <= 1)).all()) for x in (input, target)):
            loss = _planned(_floored, target, input, VALUE, None, {"reduction": self.reduction, "weight": weight})
        else:
            loss = None
        return super().forward(input, target) if loss is None else loss


def _floored(input, target, reduction, weight=None):
    """The call. Its loss is NaN if an entry of weight other than 0 is no probability: then torch computes it, and words the error."""
    usable = _alike(input, target) and (weight is None or _broadcasts(weight, input)) and not target.requires_grad
    if not usable or not (has_values(input) and has_values(target)):
        return None
    call = _of_elements(FlooredBinaryCrossentropy, input, target, reduction, weight)
    return call._replace(gives="finite", settled=_if_finite)


class MSELoss(nn.MSELoss):
    """torch's `MSELoss`: squared errors."""

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss of `input` and `target`, of one shape."""
        loss = _evaluated(_squared, target, input, VALUE, None, {"reduction": self.reduction})
        return super().forward(input, target) if loss is None else loss


class L1Loss(nn.L1Loss):
    """torch's `L1Loss`: absolute errors. The slope of one that is NaN is NaN, as of every loss here, where torch's is 0."""

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss of `input` and `target`, of one shape."""
        loss = _evaluated(_absolute, target, input, VALUE, None, {"reduction": self.reduction})
        return super().forward(input, target) if loss is None else loss


class HuberLoss(nn.HuberLoss):
    """torch's `HuberLoss`: quadratic up to an error of `delta`, linear beyond."""

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss of `input` and `target`, of one shape."""
        loss = _evaluated(_huber, target, input, VALUE, None, {"reduction": self.reduction, "delta": self.delta})
        return super().forward(input, target) if loss is None else loss


class SmoothL1Loss(nn.SmoothL1Loss):
    """torch's `SmoothL1Loss`: quadratic up to an error of `beta`, linear beyond with slope 1."""

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss of `input` and `target`, of one shape."""
        loss = _evaluated(_smooth_l1, target, input, VALUE, None, {"reduction": self.reduction, "beta": self.beta})
        return super().forward(input, target) if loss is None else loss


class SoftMarginLoss(nn.SoftMarginLoss):
    """torch's `SoftMarginLoss`: log(1 + exp(-target * input)), targets -1 and 1. It does not overflow."""

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss of `input`, decisions of any shape, and `target`, of the same shape."""
        loss = _evaluated(_logistic, target, input, VALUE, None, {"reduction": self.reduction})
        return super().forward(input, target) if loss is None else loss


class MultiLabelSoftMarginLoss(nn.MultiLabelSoftMarginLoss):
    """torch's `MultiLabelSoftMarginLoss`: binary cross-entropy from logits, mean over the classes on the last axis."""

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss of `input`, logits (N, C) or (C,), and `target`, 0 or 1 for each class."""
        if _buffer(self, "weight") is not None:
            return super().forward(input, target)
        loss = _evaluated(_multi_label, target, input, VALUE, None, {"reduction": self.reduction})
        return super().forward(input, target) if loss is None else loss


def _multi_label(input, target, reduction):
    if not _alike(input, target) or reduction not in REDUCTIONS:
        return None
    options = {"axis": -1, "sample_weight": None, "reduction": REDUCTIONS[reduction], "validate": True, **FROM_LOGITS}
    return Call(BinaryCrossentropy, target, options, listed=False)


class PoissonNLLLoss(nn.PoissonNLLLoss):
    """torch's `PoissonNLLLoss`: exp(input) - target * input. Of means themselves (``log_input=False``) it is torch's own code."""

    def forward(self, log_input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss of `log_input`, logarithms of means of any shape, and `target`, counts of the same shape."""
        options = {"reduction": self.reduction, "log_input": self.log_input, "full": self.full}
        loss = _evaluated(_poisson, target, log_input, VALUE, None, options)
        return super().forward(log_input, target) if loss is None else loss


def _poisson(input, target, reduction, log_input, full):
    if not log_input or not _alike(input, target) or target.requires_grad:
        return None
    return _of_elements(Poisson, input, target, reduction, log_input=True, full=full)


class HingeEmbedding(Elementwise):
    """p where t is 1, max(0, margin - p) where it is -1; elsewhere the sum of both."""

    kernel = "hinge_embedding"
    params = {"margin": number}

    def value(xp, t, p, margin):
        apart = margin - p
        far = xp.where(apart < 0, xp.zeros_like(p), apart)  # at 0 the slope is -1, as torch's
        return xp.where(t == -1, xp.zeros_like(p), p) + xp.where(t == 1, xp.zeros_like(p), far)

    def slope(xp, t, p, margin):
        one = xp.ones_like(p)
        far = xp.where(margin - p >= 0, -one, 0 * one)  # 0 of NaN, as torch's
        return xp.where(t == -1, 0 * one, one) + xp.where(t == 1, 0 * one, far)

    def curvature(xp, t, p, margin):
        return xp.zeros_like(p)


class HingeEmbeddingLoss(nn.HingeEmbeddingLoss):
    """torch's `HingeEmbeddingLoss`: distances of pairs whose target is 1, and what they lack of `margin` where it is -1."""

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss of `input`, distances of any shape, and `target`, of the same shape: 1 or -1."""
        loss = _evaluated(_hinge_embedding, target, input, VALUE, None, {"reduction": self.reduction, "margin": self.margin})
        return super().forward(input, target) if loss is None else loss


def _hinge_embedding(input, target, reduction, margin):
    if not _alike(input, target) or target.requires_grad or transformed(input, target):
        return None
    return _of_elements(HingeEmbedding, input, target, reduction, margin=float(margin))


class GaussianOfVariance(Rowwise):
    """½ (log u + (t - m)² / u) + constant, m = p_0 the mean and u = max(p_1, eps) the variance; NaN where p_1 is negative.

    As in torch, u counts as p_1 for derivatives where it is eps, too.
    """

    kernel = "gaussian_of_variance"
    targets = "values"
    length = staticmethod(lambda params: 2)
    params = {"eps": number, "constant": number}

    def parts(xp, t, p, eps):
        """Which entry is the mean, u, and (m - t) / u."""
        v, of_mean = p[:, 1:, :], torch.arange(2, device=p.device)[None, :, None] == 0
        u = v + (xp.where(v < 0, torch.nan, xp.where(v < eps, eps, v)) - v).detach()
        return of_mean, u, (p[:, :1, :] - t) / u

    def value(xp, t, p, eps, constant):
        _, u, d = GaussianOfVariance.parts(xp, t, p, eps)
        return (0.5 * (xp.log(u) + d * d * u) + constant)[:, 0, :]

    def slope(xp, t, p, eps, constant):
        of_mean, u, d = GaussianOfVariance.parts(xp, t, p, eps)
        return xp.where(of_mean, d, 0.5 * (1 / u - d * d))

    def curvature(xp, t, p, eps, constant):
        of_mean, u, d = GaussianOfVariance.parts(xp, t, p, eps)
        return xp.where(of_mean, 1 / u, (d * d - 0.5 / u) / u)


class GaussianNLLLoss(nn.GaussianNLLLoss):
    """torch's `GaussianNLLLoss`, of variances, which come beside the means. `polyloss.gaussian_nll` takes their logarithms."""

    def forward(self, input: torch.Tensor, target: torch.Tensor, var: torch.Tensor | float) -> torch.Tensor:
        """The loss of `input`, means of any shape, `target` of the same shape, and `var`: variances of each, of a row, or one for all."""
        variances = self._variances(input, var) if _alike(input, target) and self.reduction in REDUCTIONS else None
        given = input, target, variances
        if variances is None or transformed(*given) or not all(map(has_values, given)):
            return super().forward(input, target, var)
        mean = input
        if target.requires_grad:  # by the difference, which is all that both are for, and is not rounded to 16 bits
            real = torch.promote_types(input.dtype, torch.float32)
            mean, variances = input.to(real) - target.to(real), variances.to(real)
            target = torch.zeros_like(mean)
        options: dict[str, Any] = {"axis": 0, "sample_weight": None, "reduction": REDUCTIONS[self.reduction], "validate": True}
        options |= {"eps": self.eps, "constant": HALF_LOG_2PI if self.full else 0.0}
        kind = input.device.type
        with torch.autocast(kind, enabled=False) if _autocast(kind) else nullcontext():  # which takes no stack of the other 16-bit type
            pair = torch.stack((mean, variances))
        # A negative variance makes the loss NaN: that costs no pass over them.
        loss = _if_finite(called(GaussianOfVariance, target, pair, VALUE, None, options))
        return super().forward(input, target, var) if loss is None else _like_composed(loss, input)

    def _variances(self, input, var):
        """The variances in the shape of the means, as torch broadcasts them; None for what it promotes or refuses."""
        if isinstance(var, float):
            return torch.full_like(input, var)
        if not _usable(var) or var.dtype is not input.dtype or var.device != input.device or var.shape == input.shape:
            return var if _usable(var) and var.dtype is input.dtype and var.device == input.device else None
        if input.shape[:-1] == var.shape:
            return var[..., None].expand(input.shape)
        other = [k for k in zip(input.shape, var.shape, strict=False) if k[0] != k[1]]
        return var.expand(input.shape) if input.ndim == var.ndim and len(other) == 1 and other[0][1] == 1 else None


class MultiMarginLoss(nn.MultiMarginLoss):
    """torch's `MultiMarginLoss`: what all wrong classes exceed the label's decision by, their mean over the classes."""

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss of `input`, decisions (N, C) or (C,), and `target`, labels (N,) or ()."""
        # A step of 64×32 takes 34 µs for torch's 31, most of them autograd's; one of 128×32 takes 37, as torch's.
        if not _usable(input) or input.numel() < SMALL // 4:
            return super().forward(input, target)
        options = {"reduction": self.reduction, "margin": self.margin, "p": self.p, "weight": _buffer(self, "weight")}
        loss = _evaluated(_multi_margin, target, input, VALUE, None, options)
        return super().forward(input, target) if loss is None else loss


def _multi_margin(input, target, reduction, margin, p, weight):
    """The hinge of classes; None if it is NaN, since torch's loss of a NaN decision is 0."""
    shape, kind = input.shape, input.dtype
    if (
        (kind not in (torch.float32, torch.float64) and input.is_cpu)  # which torch refuses
        or len(shape) > 2
        or target.dtype is not torch.int64
        or target.shape != shape[:-1]
        or reduction not in REDUCTIONS
        or not math.isfinite(margin)
        or (weight is not None and (weight.dtype is not kind or weight.shape != shape[-1:] or weight.requires_grad))
    ):
        return None
    options = {
        "margin": float(margin), "power": p, "average": True, "axis": -1,
        "sample_weight": None if weight is None else weight[target.clamp(0, shape[-1] - 1)],  # a bad label is named below
        "reduction": REDUCTIONS[reduction], "validate": True,
    }  # fmt: skip
    return Call(MulticlassHinge, target, options, "finite", _unless_nan)


class KLFromLogarithms(Elementwise):
    """t (log t - p) with p the logarithm of a probability, and 0 where t is 0."""

    kernel = "kl_from_logarithms"
    reductions = KL_REDUCTIONS

    def value(xp, t, p):
        return t * (xp.log(xp.where(t == 0, xp.ones_like(t), t)) - xp.where(t == 0, xp.zeros_like(p), p))

    def slope(xp, t, p):
        return -t + xp.zeros_like(p)

    def curvature(xp, t, p):
        return xp.zeros_like(p)


class KLBetweenLogarithms(Elementwise):
    """e^t (t - p), both the logarithms of probabilities."""

    kernel = "kl_between_logarithms"
    reductions = KL_REDUCTIONS

    def value(xp, t, p):
        return xp.exp(t) * (t - p)

    def slope(xp, t, p):
        return -xp.exp(t) + xp.zeros_like(p)

    def curvature(xp, t, p):
        return xp.zeros_like(p)


class KLDivLoss(nn.KLDivLoss):
    """torch's `KLDivLoss`: of logarithms of probabilities from probabilities, or from logarithms."""

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss of `input`, logarithms of probabilities, and `target`, of one shape."""
        loss = _evaluated(_divergence, target, input, VALUE, None, {"reduction": self.reduction, "log_target": self.log_target})
        return super().forward(input, target) if loss is None else loss


def _divergence(input, target, reduction, log_target):
    if not _alike(input, target) or target.requires_grad or transformed(input, target):
        return None
    rule = {"normalization": None, "normalize": None, "denominator": len(input) if reduction == "batchmean" else None}
    return _of_elements(KLBetweenLogarithms if log_target else KLFromLogarithms, input, target, reduction, **rule)


class FlooredCosine(Rowwise):
    """-Σ t p / sqrt((Σ t² + epsilon) (Σ p² + epsilon))."""

    kernel = "floored_cosine_similarity"
    symmetric = True
    params = {"epsilon": positive}

    def unit(xp, x, epsilon):
        """x / ‖x‖ and 1 / ‖x‖."""
        inverse = 1 / xp.sqrt(xp.sum(x * x, axis=1, keepdims=True) + epsilon)
        return x * inverse, inverse

    def value(xp, t, p, epsilon):
        return -xp.sum(FlooredCosine.unit(xp, t, epsilon)[0] * FlooredCosine.unit(xp, p, epsilon)[0], axis=1)

    def slope(xp, t, p, epsilon):
        (t, _), (p, inverse) = FlooredCosine.unit(xp, t, epsilon), FlooredCosine.unit(xp, p, epsilon)
        return (p * xp.sum(t * p, axis=1, keepdims=True) - t) * inverse

    def curvature(xp, t, p, epsilon):
        (t, _), (p, inverse) = FlooredCosine.unit(xp, t, epsilon), FlooredCosine.unit(xp, p, epsilon)
        cos = xp.sum(t * p, axis=1, keepdims=True)
        return (2 * t * p + cos - 3 * cos * p * p) * inverse * inverse


class CosineEmbeddingLoss(nn.CosineEmbeddingLoss):
    """torch's `CosineEmbeddingLoss`: 1 - cosine of pairs whose target is 1, and what the cosine exceeds `margin` by where it is -1."""

    def forward(self, input1: torch.Tensor, input2: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """The loss of `input1` and `input2`, (N, D) or (D,), and `target`, (N,) or (): 1 or -1."""
        # Three calls of a kernel and what follows: 0.7 ms for torch's 0.4 at 65536 elements.
        if not isinstance(input1, torch.Tensor) or input1.numel() < 8 * SMALL:
            return super().forward(input1, input2, target)
        fits = _alike(input1, input2) and target.ndim < 2 and target.shape == input1.shape[:-1] and target.device == input1.device
        if not fits or transformed(input1, input2) or self.reduction not in REDUCTIONS:
            return super().forward(input1, input2, target)
        options = dict(epsilon=EPSILON, axis=-1, sample_weight=None, reduction="none", validate=True)
        cosine = -called(FlooredCosine, input1, input2, VALUE, None, options)
        excess = cosine - self.margin
        apart = torch.where((target != -1) | (excess < 0), 0, excess)  # through which a NaN passes, to the slopes too
        loss = torch.where(target == 1, 1 - cosine, apart)
        reduced = loss if self.reduction == "none" else loss.sum() if self.reduction == "sum" else loss.mean()
        return _like(reduced, input1)


class SoftmaxLoss(nn.Module):
    """Caffe's SoftmaxWithLoss as a module: `polyloss.softmax_loss` with its options kept.

    Parameters
    ----------
    axis, ignore_label, normalization, normalize, label_smoothing, z_loss, softcap, reduction, return_prob, validate
        As in `polyloss.softmax_loss`.
    class_weight : tensor of shape (C,), optional
        Kept as a buffer, so that it moves with the module and is saved with it.
    process_group, shard
        As in `softmax_loss` of this module.

    See Also
    --------
    polyloss.softmax_loss : The function.
    CrossEntropyLoss : By torch's rules.

    Examples
    --------
    >>> import torch
    >>> from polyloss.torch import SoftmaxLoss
    >>> SoftmaxLoss(ignore_label=255)(torch.zeros(1, 4, 2), torch.tensor([[3, 255]]))
    tensor(1.3863)
    """

    @without_unknown
    def __init__(
        self,
        *,
        axis: int = 1,
        ignore_label: int | Sequence[int] | None = None,
        normalization: Literal["full", "valid", "batch_size", "none"] | Normalization | None = None,
        normalize: bool | None = None,
        class_weight: torch.Tensor | None = None,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        softcap: float | None = None,
        reduction: Literal["normalize", "none", "sum"] = "normalize",
        return_prob: bool = False,
        validate: bool = True,
        process_group: Any = None,
        shard: Literal["batch", "vocabulary"] = "batch",
        **unknown: Never,
    ) -> None:
        if unknown:
            refuse_unknown("SoftmaxLoss", unknown, inspect.signature(SoftmaxLoss).parameters)
        super().__init__()
        self.register_buffer("class_weight", class_weight)
        self.process_group, self.shard = process_group, _torch_groups.checked(shard)
        self.options = dict(
            axis=axis, ignore_label=ignore_label, normalization=normalization, normalize=normalize, label_smoothing=label_smoothing,
            z_loss=z_loss, softcap=softcap, reduction=reduction, return_prob=return_prob, validate=validate,
        )  # fmt: skip

    def forward(
        self,
        input: torch.Tensor,
        target: torch.Tensor,
        sample_weight: torch.Tensor | None = None,
        denominator: float | torch.Tensor | None = None,
    ) -> Any:
        """The loss of `input` (logits) and `target` (labels or soft targets): torch's order, predictions first.

        `denominator`, a number or a 0-d tensor, replaces the normalizer: that of all positions of a batch that is cut into parts.
        """
        given = {"class_weight": self.class_weight, "sample_weight": sample_weight, "denominator": denominator}
        return softmax_loss(target, input, process_group=self.process_group, shard=self.shard, **given, **self.options)

    def extra_repr(self) -> str:
        """The options that were given."""
        return ", ".join(f"{key}={x!r}" for key, x in self.options.items() if x is not None)


def softmax_loss(
    y_true: torch.Tensor,
    logits: torch.Tensor,
    *,
    process_group: Any = None,
    shard: Literal["batch", "vocabulary"] = "batch",
    **options: Any,
) -> Any:
    """`polyloss.softmax_loss` over the processes of a group of `torch.distributed`.

    Parameters
    ----------
    y_true, logits : tensor
        This process' part of a batch; or the labels of all positions, and this process' classes of their logits, in the order of the ranks.
    process_group : ProcessGroup, optional
        None: this process alone, with the whole batch.
    shard : {"batch", "vocabulary"}, default "batch"
        What each process has a part of. Of a batch: under "normalize" the number that the sum is divided by is that of all processes, and
        the mean over them of what they return is the loss of the whole batch, so that the gradients that
        `torch.nn.parallel.DistributedDataParallel` averages are its gradients; "sum" and "none" stay this process' own. Of the vocabulary:
        each process gets the loss and the gradient of its logits; class weights are those of all classes; a few numbers for each position
        are exchanged. The parts may differ in length.
    **options
        Those of `polyloss.softmax_loss`; under "vocabulary" without `return_prob` and for labels alone.

    Returns
    -------
    tensor
        As of `polyloss.softmax_loss`.

    Raises
    ------
    ValueError
        In every process, if the arguments of one are refused, as for a bad label.
    RuntimeError
        If a process of the group is gone.
    """
    if process_group is None:
        _torch_groups.alone(shard)
        return softmax_alone(y_true, logits, **options)
    return _torch_groups.softmax(process_group, shard, y_true, logits, options)


def linear_softmax_loss(
    y_true: torch.Tensor,
    features: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    process_group: Any = None,
    shard: Literal["batch", "vocabulary"] = "batch",
    **options: Any,
) -> Any:
    """`polyloss.linear_softmax_loss` over the processes of a group of `torch.distributed`.

    Parameters
    ----------
    y_true, features, weight, bias : tensor
        This process' part of a batch, and the whole weight; or all labels and features, and this process' rows of the weight and the bias.
    process_group, shard
        As in `softmax_loss`. Under "vocabulary" the gradient with respect to the features is whole in every process.
    **options
        Those of `polyloss.linear_softmax_loss`.

    Returns
    -------
    tensor
        As of `polyloss.linear_softmax_loss`.

    Raises
    ------
    ValueError
        In every process, if the arguments of one are refused, as for a bad label.
    RuntimeError
        If a process of the group is gone.
    """
    if process_group is None:
        _torch_groups.alone(shard)
        return linear_softmax_alone(y_true, features, weight, bias, **options)
    return _torch_groups.linear_softmax(process_group, shard, y_true, features, weight, bias, options)


def _plain(x):
    """Whether a tensor is torch's alone: of no subclass that overrides torch's functions or operations."""
    kind = type(x)
    known = kind is torch.Tensor or kind is torch.nn.Parameter or not isinstance(x, torch.Tensor)
    return known or (kind.__torch_function__ is UNSEEN and not foreign(x))


def _usable(x):
    """Whether a kernel may take a tensor: real floating numbers in strided memory, at least one."""
    if not isinstance(x, torch.Tensor) or not _plain(x) or tracing_state() is not None:  # under `torch.jit.trace` lengths are tensors
        return False
    return x.dtype in FLOATING and x.layout is torch.strided and x.numel() > 0 and x.ndim > 0


def _buffer(module, name):
    """A buffer of a module, without the detour that nn.Module makes: 0.6 µs."""
    buffers = module._buffers
    return buffers[name] if name in buffers else getattr(module, name)


def _single(factor, input):
    """Whether a factor of the input's elements is a single number, at hand, and one that the losses here take for a weight."""
    if factor.numel() != 1 or torch.compiler.is_compiling() or not factor.is_cpu or not has_values(factor) or factor.requires_grad:
        return False
    return isinstance(input, torch.Tensor) and _broadcasts(factor, input) and 0 <= factor.item() < math.inf


def _number(loss):
    """A loss of one number, where it is at hand, or None; on a GPU one would have to wait for it."""
    if torch.compiler.is_compiling() or not loss.is_cpu:
        return None
    return loss.item() if (type(loss) is torch.Tensor and not observed()) or has_values(loss) else None


def _alike(input, target):
    """Whether nothing is to be broadcast or promoted."""
    fits = _usable(input) and _plain(target) and input.shape == target.shape
    return fits and input.dtype is target.dtype and input.device == target.device


def _nan_of_nothing(target, ignore_index, weight, loss):
    """A mean of labels' losses; where nothing is left to divide by, None if that is known, and NaN if it is for the device to find out."""
    number = _number(loss)
    if number:
        return loss
    kept = target != ignore_index
    divisor = kept if weight is None else torch.where(kept, weight[torch.where(kept, target, 0).long()], 0)
    some = divisor.sum(dtype=torch.float64) != 0
    if number is None:
        return torch.where(some, loss, float("nan"))
    return loss if some else None


def _if_finite(loss):
    """A loss; None if an entry of it is not finite."""
    total = loss if loss.ndim == 0 else loss.detach().sum(dtype=torch.float64)
    return loss if math.isfinite(total.item()) else None


def _unless_nan(loss):
    """A loss; None if its values are at hand and one of them is NaN."""
    total = _number(loss if loss.ndim == 0 else loss.detach().sum())
    return None if total is not None and math.isnan(total) else loss


def _broadcasts(factor, input):
    """Whether a factor of elements has the input's type and does not enlarge it."""
    shape = (1,) * (input.ndim - factor.ndim) + tuple(factor.shape)
    return factor.dtype == input.dtype and len(shape) == input.ndim and all(f in (1, n) for f, n in zip(shape, input.shape, strict=True))


def _of_elements(block, input, target, reduction, weight=None, **params):
    """The call of a loss of single elements under torch's reductions: every element is a sample of its own."""
    if weight is not None and weight.shape != input.shape:
        weight = weight.expand(input.shape)
    ours = "normalize" if reduction == "batchmean" and "denominator" in params else REDUCTIONS.get(reduction)
    if ours is None:
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return Call(block, target, {"axis": (), "sample_weight": weight, "reduction": ours, "validate": True, **params})


def _elementwise(block, input, target, reduction, weight=None, **params):
    """A loss of single elements under torch's reductions."""
    return _planned(partial(_of_elements, block), target, input, VALUE, None, {"reduction": reduction, "weight": weight, **params})


def _of_alike(block, input, target, reduction, **params):
    """As `_of_elements`, or None where something is to be broadcast or promoted."""
    return _of_elements(block, input, target, reduction, **params) if _alike(input, target) else None


_squared, _absolute = partial(_of_alike, MeanSquaredError), partial(_of_alike, MeanAbsoluteError)
_logistic = partial(_of_alike, Logistic, labels="pm1")


def _huber(input, target, reduction, delta):
    return _of_alike(Huber, input, target, reduction, delta=delta) if 0 < delta < math.inf else None


def _smooth_l1(input, target, reduction, beta):
    return _of_alike(SmoothL1, input, target, reduction, beta=beta) if 0 <= beta < math.inf else None


def _autocast(kind):
    """Whether autocast is on for a type of device."""
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def _like(loss, input):
    """The loss in the input's dtype; under autocast in float32, as torch's."""
    return loss if _autocast(input.device.type) else loss.to(input.dtype)


def _like_composed(loss, input):
    """As `_like`, of a loss that autocast has no rule for: on a CPU it has none for torch's steps to it either, elsewhere for the sum."""
    return loss.to(input.dtype) if input.is_cpu else _like(loss, input)
