"""Softmax losses over the processes of a group: torch.distributed's collectives beside the kernels.

Where a batch is shared out, the processes exchange what the sum is divided by. Where the classes are (each process holds some columns of
the logits, or rows of the head's weight), they exchange a few numbers for each position: the largest logit, the sums of exponentials, the
label's logit, and where labels are smoothed a sum of logits.

All processes of the group have to call, with the same options. Each checks its own arguments before it says a word to the others, and the
first word is whether it refuses them: so an error of one is an error in all, and nobody waits for one that has left.
"""

import inspect
import math
import zlib
from dataclasses import replace
from enum import Enum
from typing import NamedTuple

import array_api_compat.torch as xp
import numpy as np
import torch
from torch import distributed

from polyloss import _reduce
from polyloss._block import capped
from polyloss._evaluate import raise_bad
from polyloss._formula import Outcome
from polyloss._linear import IGNORED, Rows, _default_chunk
from polyloss._linear import prepared as prepared_head
from polyloss._linear_torch import ARRAYS, Bridge, grow, product
from polyloss._plan import GIVEN, VALUE
from polyloss._prepare import prepare
from polyloss._processes import gathered
from polyloss._reduce import total_weight
from polyloss._shapes import sort_labels
from polyloss.linear_softmax import linear_softmax_loss
from polyloss.softmax import SoftmaxLoss, softmax_loss

SHARDS = ("batch", "vocabulary")
COMPARED = 16  # facts that processes compare in one exchange, at most
ODD = 0x9E3779B97F4A7C15 - 2**64  # of the golden ratio: neighbours in a checksum get factors that are far apart


def checked(shard):
    """How the processes share the work."""
    if not isinstance(shard, str) or shard not in SHARDS:
        raise ValueError(f"shard is {shard!r}, but must be one of {', '.join(map(repr, SHARDS))}")
    return shard


def _defaults(function):
    return {p.name: p.default for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY}


SOFTMAX, HEAD = _defaults(softmax_loss), _defaults(linear_softmax_loss)


def _complete(function, defaults, options):
    unknown = next((key for key in options if key not in defaults), None)
    if unknown is not None:
        raise TypeError(f"{function}() got an unexpected keyword argument {unknown!r}")
    return {**defaults, **options}


# ------------------------------------------------------------------------------------------------------------------ agreement


def agreed(group, local):
    """What `local()` gives here, and the numbers of all processes by rank; an error in all where one has an error, or facts of its own.

    `local()` gives what is kept here, the facts that must be the same everywhere (name -> object), and one number.
    """
    rank, found, error, told = distributed.get_rank(group), None, None, [1.0, 0.0] + [0.0] * COMPARED
    if rank < 0:
        raise ValueError("process_group is a group that this process does not belong to")
    names = []
    try:
        found, facts, number = local()
        names = list(facts)
        told[:2] = 0.0, float(number)
        told[2 : 2 + len(names)] = [float(zlib.crc32(f"{name}={_stable(x)!r}".encode())) for name, x in facts.items()]
    except Exception as refused:
        error, told[0] = refused, 1.0
    rows = gathered(told, group)
    if error is not None:
        raise error
    failed = [i for i, row in enumerate(rows) if row[0]]
    if failed:
        raise ValueError(f"process {failed[0]} of the group refuses its own arguments, and its own error says why")
    for i, row in enumerate(rows):
        for name, mine, other in zip(names, told[2:], row[2:], strict=False):
            if mine != other:
                shown = _stable(facts[name])
                said = "" if name in TENSORS else f" is {shown!r} in process {rank} of the group, and another in process {i}:"
                said = said or f" in process {rank} of the group is not that of process {i}:"
                raise ValueError(f"{name}{said} it must be the same in all")
    return found, [row[1] for row in rows]


TENSORS = ("y_true", "sample_weight", "class_weight")  # of which checksums are compared


def _stable(x):
    """What prints alike in every process."""
    if isinstance(x, (tuple, list)):
        return tuple(map(_stable, x))
    if isinstance(x, Enum):
        return x.value
    if isinstance(x, np.generic):
        return x.item()
    return x if x is None or isinstance(x, (bool, int, float, str)) else type(x).__name__


def _facts(function, shard, given):
    return {"function": function, "shard": shard, **{name: x for name, x in given.items() if name not in ARRAYS}}


def _tensors(**named):
    """An error unless all are tensors."""
    for name, x in named.items():
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"{name} is {type(x).__name__}, but must be a tensor where the loss is that of a process group")


def _constant(**named):
    """An error where autograd would follow what the processes share."""
    for name, x in named.items():
        if isinstance(x, torch.Tensor) and x.requires_grad and torch.is_grad_enabled():
            raise ValueError(f"{name} requires grad, but the loss of a process group has no derivatives with respect to it: detach it")


def _detached(given):
    return {name: x.detach() if isinstance(x, torch.Tensor) else x for name, x in given.items()}


def _checksum(x):
    """An integer of all entries of a tensor and their places, the same on every kind of device."""
    if x is None:
        return None
    x = x.detach().contiguous().reshape(-1)
    if x.is_floating_point():
        x = (x + 0).view({2: torch.int16, 4: torch.int32, 8: torch.int64}[x.itemsize])  # -0 is 0
    factors = torch.arange(1, x.numel() + 1, device=x.device) * ODD | 1
    return int((x.long() * factors).sum())


# --------------------------------------------------------------------------------------------------------------------- batch


def softmax(group, shard, y_true, logits, options):
    """`softmax_loss` over the processes of a group."""
    if isinstance(shard, str) and shard == "vocabulary":
        return _by_vocabulary(group, y_true, logits, options)

    def local():
        given = _complete("softmax_loss", SOFTMAX, options)
        _tensors(logits=logits)
        plan, arrays, _ = prepare(SoftmaxLoss, *(_detached({0: y_true, 1: logits}).values()), VALUE, None, _detached(given))
        if plan.divisor in ("weights", GIVEN) and plan.reduction == "normalize":
            _constant(**{name: given[name] for name in ARRAYS}, **({} if plan.labelled else {"y_true": y_true}))
        return given, _facts("softmax_loss", checked(shard), given), _part(plan, arrays, distributed.get_world_size(group))

    given, numbers = agreed(group, local)
    return softmax_loss(y_true, logits, **_divided(given, numbers, logits.device))


def linear_softmax(group, shard, y_true, features, weight, bias, options):
    """`linear_softmax_loss` over the processes of a group."""
    if isinstance(shard, str) and shard == "vocabulary":
        return _head_by_vocabulary(group, y_true, features, weight, bias, options)

    def local():
        given = _complete("linear_softmax_loss", HEAD, options)
        _tensors(features=features, weight=weight)
        operands = _detached({0: y_true, 1: features, 2: weight, 3: bias}).values()
        head = prepared_head(VALUE, *operands, _detached(given))
        if head.rules.reduction == "normalize":
            _constant(**{name: given[name] for name in ARRAYS})
        facts = _facts("linear_softmax_loss", checked(shard), given)
        return given, facts, _part_of_head(head, distributed.get_world_size(group))

    given, numbers = agreed(group, local)
    return linear_softmax_loss(y_true, features, weight, bias, **_divided(given, numbers, features.device))


def _part(plan, arrays, world):
    """What this part of a batch adds to the number that the whole is divided by."""
    lay, weight = plan.layout, arrays.weight
    skip = None if weight is None else weight == 0
    if plan.labelled:
        labels, ignored, bad = sort_labels(arrays.xp, arrays.t, lay.c, plan.ignore)
        if plan.validate:
            raise_bad(plan, arrays, Outcome(bad=bad))
    if plan.reduction != "normalize":
        return 0
    if plan.divisor == GIVEN:
        return float(arrays.divisor) / world
    if plan.normalization == "none":
        return 1 / world
    if not isinstance(plan.divisor, str):
        return plan.divisor if lay.n * lay.s else 0
    if plan.divisor == "count":
        return int((~ignored).sum()) if ignored is not None else lay.n * lay.s
    if not plan.labelled:
        return float(total_weight(plan, arrays, arrays.t, skip))
    if ignored is not None:
        skip = ignored if skip is None else skip | ignored
    counted = torch.ones_like(labels, dtype=torch.float64) if weight is None else weight.double()
    if arrays.class_weight is not None:
        counted = counted * arrays.class_weight[labels.long()]
    return float(counted.sum() if skip is None else torch.where(skip, 0, counted).sum())


def _part_of_head(head, world):
    """The same of a head."""
    rows, rules = Rows(head), head.rules
    if rules.reduction != "normalize":
        return 0
    if head.plan.divisor == GIVEN or head.plan.normalization == "none":
        return float(head.denominator if head.denominator is not None else rules.divisor) / world
    if rules.divisor == "weights":
        return float(rows.divisor)
    return int((rows.labels != IGNORED).sum()) if rules.divisor == "count" else rules.divisor if rules.n else 0


def _divided(given, numbers, device):
    """The options, with what this process' sum is divided by so that the mean over the processes is the loss of the whole."""
    if given["reduction"] != "normalize":
        return given
    divisor = math.fsum(numbers) / len(numbers)
    divisor = divisor or torch.zeros((), dtype=torch.float64, device=device)  # of nothing counted the loss is 0
    return {**given, "denominator": divisor, "normalization": None, "normalize": None}


# ----------------------------------------------------------------------------------------------------------------- vocabulary


class Shard(NamedTuple):
    """A process' classes among those of its group, and the terms of the loss."""

    group: object
    start: int  # the first class
    size: int  # how many
    total: int  # of all processes
    class_weight: object  # (total,) in float64
    smoothing: float
    z_loss: float
    softcap: float | None

    def visit(self, head, rows, part, z, derive, upstream):
        """A chunk's value, and its gradient in place of its logits (k, size)."""
        weight = _times(head.sample_weight, upstream)
        cut = (None if x is None else x[part] for x in (rows.labels, rows.skip, weight))
        divisor = rows.divisor if head.rules.reduction == "normalize" else 1
        losses = self.losses(z, *cut, divisor, derive)
        value = losses if head.rules.reduction == "none" else _reduce.quotient(xp, losses.sum(), divisor)
        return value.to(head.dtype), z

    def joined(self, by_features):
        """The gradient with respect to the features: each process has what its classes add."""
        distributed.all_reduce(by_features, group=self.group)

    def losses(self, z, labels, skip, weight, divisor, derive):
        """The losses (N,) in float64 of logits (N, size), and in their place, if `derive`, the gradient of their sum over the divisor."""
        bent = None
        if self.softcap is not None:
            y, bent = capped(xp, z, self.softcap) if derive else (z.div_(self.softcap).tanh_().mul_(self.softcap), None)
            z = z.copy_(y)
        top = z.amax(1)
        distributed.all_reduce(top, distributed.ReduceOp.MAX, group=self.group)
        labels = labels.long()
        at = labels - self.start
        here = (at >= 0) & (at < self.size)
        at = at.clamp(0, self.size - 1)[:, None]
        k, keep, share = self.class_weight, 1 - self.smoothing, self.smoothing / self.total
        mine = k[self.start : self.start + self.size].to(z.dtype)
        target = torch.where(here, z.gather(1, at)[:, 0].double(), 0)
        rest = torch.zeros_like(target)
        if share:
            rest = (torch.where(mine == 0, 0, z * mine).sum(1) if bool((mine == 0).any()) else z.mv(mine)).double()
        z.sub_(top[:, None]).exp_()
        e = torch.where(here, z.gather(1, at)[:, 0], 0)
        z.scatter_add_(1, at, -e[:, None])  # out of the sum, so that 1 - p of a label is right where it is small
        others = z.sum(1)
        z.scatter_add_(1, at, e[:, None])
        numbers = torch.stack([others.double(), e.double(), target, rest])
        distributed.all_reduce(numbers, group=self.group)
        others, e, target, rest = numbers
        top, summed = top.double(), others + e
        lse = top + summed.log()
        k_y = keep * k[labels.clamp_min(0)]
        of_label = torch.where(e > 0.5, (others / e).log1p(), top - target + summed.log())
        losses = torch.where(k_y == 0, 0, k_y * of_label)
        if share:
            losses = losses + share * (k.sum() * lse - rest)
        if self.z_loss:
            losses = losses + self.z_loss * lse * lse
        w = torch.ones_like(losses) if weight is None else weight.double()
        bad = labels < IGNORED
        losses = torch.where(bad, torch.nan, losses * w)
        if skip is not None:
            losses = torch.where(skip, 0, losses)
        if not derive:
            return losses
        g = torch.where(bad, torch.nan, _reduce.quotient(xp, w, divisor))
        spread = share * k.sum() + 2 * self.z_loss * lse
        of_label = g * (spread * e - k_y * others) / summed - g * share * k[labels.clamp_min(0)]
        z.mul_((g * (k_y + spread) / summed)[:, None].to(z.dtype))
        if share:
            z.addr_((g * share).to(z.dtype), mine, alpha=-1)
        z.scatter_(1, at, torch.where(here, of_label.to(z.dtype), z.gather(1, at)[:, 0])[:, None])
        if bent is not None:
            z.mul_(bent)
        if skip is not None:
            z.masked_fill_(skip[:, None], 0)
        return losses


def _times(weight, upstream):
    return weight if upstream is None else upstream if weight is None else upstream * weight


def _shared(group, call, local):
    """A process' shard and the checked arguments of a head whose weight has all classes.

    `call` says what is called; `local()` gives (labels, features, weight, bias, options) of this process, checked as far as one can alone.
    """
    rank = distributed.get_rank(group)

    def first():
        _, features, weight, bias, given = found = local()
        _constant(**{name: given[name] for name in ARRAYS})
        followed = tuple(torch.is_grad_enabled() and x is not None and x.requires_grad for x in (features, weight, bias))
        facts = _facts(call, "vocabulary", given)
        facts |= {"the shape of y_true": tuple(features.shape[:-1]), "requires_grad": followed, "whether there is a bias": bias is not None}
        facts["the dtype"] = str(torch.promote_types(features.dtype, weight.dtype))
        return found, facts, len(weight)

    (labels, features, weight, bias, given), sizes = agreed(group, first)
    sizes = [int(size) for size in sizes]
    total = sum(sizes)

    def second():
        whole = weight.detach()[:1].expand(total, -1)
        wide = None if bias is None else bias.detach()[:1].expand(total)
        head = prepared_head(VALUE, labels, features.detach(), whole, wide, _detached(given))
        rows = Rows(head)
        facts = dict(zip(TENSORS, map(_checksum, (rows.labels, head.sample_weight, head.class_weight)), strict=True))
        return head, facts | {"denominator": None if head.denominator is None else float(head.denominator)}, 0

    head, _ = agreed(group, second)
    terms = dict(head.rules.terms)
    k = torch.ones(total, dtype=torch.float64, device=features.device) if head.class_weight is None else head.class_weight.double()
    shard = Shard(group, sum(sizes[:rank]), sizes[rank], total, k, terms["label_smoothing"], terms["z_loss"], terms["softcap"])
    chunk = given["chunk"] or _default_chunk(max(sizes), 8 if head.dtype is torch.float64 else 4, shard.softcap is None, True)
    if not torch.is_grad_enabled():
        features, weight, bias = (x if x is None else x.detach() for x in (features, weight, bias))
    n, d = head.rules.n, features.shape[-1]
    return replace(
        head, features=features.reshape(n, d), weight=weight, bias=bias, shard=shard, products=(product, grow),
        rules=head.rules._replace(chunk=int(chunk)),
    )  # fmt: skip


def _head_by_vocabulary(group, y_true, features, weight, bias, options):
    """The loss of a head of whose weight each process holds some rows."""

    def local():
        given = _complete("linear_softmax_loss", HEAD, options)
        _tensors(features=features, weight=weight, **({} if bias is None else {"bias": bias}))
        prepared_head(VALUE, torch.zeros(features.shape[:-1], dtype=torch.int64, device=features.device), *(
            x if x is None else x.detach() for x in (features, weight, bias)), {**_detached(given), "class_weight": None})  # fmt: skip
        return y_true, features, weight, bias, given

    head = _shared(group, "linear_softmax_loss", local)
    tensors = head.features, head.weight, head.bias, head.labels, head.sample_weight, head.class_weight, head.denominator
    with torch.autocast(features.device.type, enabled=False):
        value = Bridge.apply(head, *tensors)
    return value.reshape(head.plan.layout.losses) if head.rules.reduction == "none" else value


class OfLogits(torch.autograd.Function):
    """The loss of logits (N, size), of which each process holds its classes."""

    @staticmethod
    def forward(ctx, logits, head):
        derive = ctx.needs_input_grad[0]
        z = logits.detach().to(head.dtype, copy=True)
        value, gradient = head.shard.visit(head, Rows(head), slice(None), z, derive, None)
        ctx.each, ctx.kind = head.rules.reduction == "none", logits.dtype
        if derive:
            ctx.save_for_backward(gradient)
        return value

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream):
        (gradient,) = ctx.saved_tensors
        upstream = upstream[:, None] if ctx.each else upstream
        return torch.where(gradient == 0, 0, gradient * upstream).to(ctx.kind), None


def _by_vocabulary(group, y_true, logits, options):
    """The loss of logits whose classes are shared out: that of a head whose features are of no length."""
    z = logits

    def local():
        nonlocal z
        given = _complete("softmax_loss", SOFTMAX, options)
        _tensors(y_true=y_true, logits=logits)
        if given.pop("return_prob"):
            raise ValueError("return_prob is True, but under shard='vocabulary' no process has all probabilities")
        plan, *_ = prepare(
            SoftmaxLoss, y_true.detach(), logits.detach(), VALUE, None, {**_detached(given), "class_weight": None, "return_prob": False}
        )
        if not plan.labelled:
            given = f"shape {tuple(y_true.shape)} and dtype {y_true.dtype}"
            raise ValueError(f"y_true has {given}, but must hold labels under shard='vocabulary'")
        axis = given.pop("axis")
        z = logits.movedim(axis, -1)
        labels = y_true.reshape(z.shape[:-1])
        like = logits.detach()
        features = like.new_zeros(()).expand(*z.shape[:-1], 0)
        return labels, features, like.new_zeros(z.shape[-1], 0), None, {**given, "chunk": None}

    head = _shared(group, "softmax_loss", local)
    value = OfLogits.apply(z.reshape(-1, z.shape[-1]), head)
    return value.reshape(head.plan.layout.losses) if head.rules.reduction == "none" else value
