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
from typing import Any, NamedTuple

import array_api_compat.torch as xp
import numpy as np
import torch
from torch import distributed

from polyloss._adapters.linear_torch import ARRAYS, PRODUCTS, TWICE, HeadLoss, detached
from polyloss._adapters.torch_processes import gathered
from polyloss._call.call import called
from polyloss._call.cpu import softmax_in_place
from polyloss._call.formula import Outcome
from polyloss._call.plan import GIVEN, VALUE, Want
from polyloss._call.prepare import prepare
from polyloss._call.run_plan import raise_bad
from polyloss._core import reduce as _reduce
from polyloss._core.arguments import refuse_unknown
from polyloss._core.block import capped
from polyloss._core.labels import sort_labels
from polyloss._core.reduce import total_weight
from polyloss._linear_softmax.chunks import IGNORED, Rows, default_chunk, prepared as prepared_head
from polyloss.linear_softmax import linear_softmax_loss
from polyloss.softmax import SoftmaxLoss, softmax_loss

SHARDS = ("batch", "vocabulary")
GRADIENT = Want(value=False, gradient=True)
WIDTH = 128  # classes of a block whose largest logit is found first
COMPARED = 16  # facts that processes compare in one exchange, at most
ODD = 0x9E3779B97F4A7C15 - 2**64  # of the golden ratio: neighbours in a checksum get factors that are far apart


def checked(shard):
    """How the processes share the work."""
    if not isinstance(shard, str) or shard not in SHARDS:
        raise ValueError(f"shard is {shard!r}, but must be one of {', '.join(map(repr, SHARDS))}")
    return shard


def alone(shard):
    """That no group is needed: this process has the whole of the batch."""
    if checked(shard) != "batch":
        raise ValueError(f"shard is {shard!r}, but process_group is None, as torch.distributed.group.WORLD is before init_process_group")


def _defaults(function):
    return {p.name: p.default for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY}


SOFTMAX, HEAD = _defaults(softmax_loss), _defaults(linear_softmax_loss)


def _complete(function, defaults, options):
    refuse_unknown(function.__name__, options, [*inspect.signature(function).parameters, "process_group", "shard"])
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
    return {name: detached(x) for name, x in given.items()}


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
        given = _complete(softmax_loss, SOFTMAX, options)
        _tensors(logits=logits)
        plan, arrays, _ = prepare(SoftmaxLoss, detached(y_true), detached(logits), VALUE, None, _detached(given))
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
        given = _complete(linear_softmax_loss, HEAD, options)
        _tensors(features=features, weight=weight)
        head = prepared_head(VALUE, detached(y_true), detached(features), detached(weight), detached(bias), _detached(given))
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
    for mask in (ignored, bad):  # the weight of a bad label, which was not to be looked for, is in no sum
        skip = mask if skip is None else skip if mask is None else skip | mask
    counted = torch.ones_like(labels, dtype=torch.float64) if weight is None else weight.double()
    if arrays.class_weight is not None:
        counted = counted * arrays.class_weight[labels.long()]
    return float(counted.sum() if skip is None else torch.where(skip, 0, counted).sum())


def _part_of_head(head, world):
    """What this part of a batch adds to the number that a head's whole is divided by."""
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

    group: Any
    start: int  # the first class
    size: int  # how many
    total: int  # of all processes
    class_weight: Any  # (total,) in float64
    smoothing: float
    z_loss: float
    softcap: float | None

    def visit(self, head, rows, part, z, derive, upstream, out):
        """A chunk's value and its gradient (k, size), in `out`, in place of the logits, or new where that is None."""
        weight = _times(head.sample_weight, upstream)
        labels, skip, weight = (None if x is None else x[part] for x in (rows.labels, rows.skip, weight))
        divisor = rows.divisor if head.rules.reduction == "normalize" else 1
        losses, slopes = self.losses(z, labels, skip, weight, divisor, derive, out)
        value = losses if head.rules.reduction == "none" else _reduce.quotient(xp, losses.sum(), divisor)
        return value.to(head.dtype), slopes

    def joined(self, by_features):
        """The gradient with respect to the features: each process has what its classes add."""
        distributed.all_reduce(by_features, group=self.group)

    def losses(self, z, labels, skip, weight, divisor, derive, out):
        """The losses (N,) in float64 of logits (N, size), and the gradient of their sum over the divisor, if `derive`.

        The kernel finds log Σ exp over these classes, the processes that over all; and p of all classes is p of these times exp of the
        difference, which is a weight of the position. So the kernel finds the gradient, too, but for the label's own.
        """
        share, cap, bent = self.smoothing / self.total, self.softcap, None
        if share and cap is not None:  # what smoothing adds to every slope is multiplied by the cap's, too
            y, bent = capped(xp, z, cap)
            z, cap = y if out is None else z.copy_(y), None
        labels = labels.long()
        at = labels - self.start
        here = (at >= 0) & (at < self.size)
        of_label = at.clamp(0, self.size - 1)
        target, target_bent = self._picked(z, of_label, cap)
        at = _largest(z)  # so that `local`, which may be of float32, is no more than log C, and nothing cancels where it is added
        own, own_bent = self._picked(z, at, cap)
        hidden = torch.zeros_like(here) if skip is None else skip
        options = dict(
            axis=1, ignore_label=IGNORED, normalization=None, normalize=None, class_weight=None, sample_weight=None, denominator=None,
            reduction="none", return_prob=False, validate=False, label_smoothing=0.0, z_loss=0.0, softcap=cap,
        )  # fmt: skip
        asked = torch.where(hidden, IGNORED, at)
        local = called(SoftmaxLoss, asked, z, VALUE, None, options).double()
        nothing = own == -torch.inf  # every class of these is impossible
        of_these = torch.where(nothing, -torch.inf, own + local)  # log Σ exp
        # Without the label: its loss among these classes is `local` itself where it is the largest, and log 2 or more where it is not.
        rest = (-(-(local + (own - target))).expm1()).log()
        others = torch.where(here & ~nothing, of_these + rest, of_these)
        target = torch.where(here, target, 0)
        top = others.clone()
        distributed.all_reduce(top, distributed.ReduceOp.MAX, group=self.group)
        top = torch.where(top == -torch.inf, 0, top)
        numbers = [(others - top).exp(), target]
        k, keep = self.class_weight, 1 - self.smoothing
        mine = k[self.start : self.start + self.size].to(z.dtype)
        if share:
            numbers.append((torch.where(mine == 0, 0, z * mine).sum(1) if bool((mine == 0).any()) else z.mv(mine)).double())
        numbers = torch.stack(numbers)
        distributed.all_reduce(numbers, group=self.group)
        every, target = top + numbers[0].log(), numbers[1]  # log Σ exp of all but the label
        loss, lse = torch.logaddexp(every - target, torch.zeros_like(target)), torch.logaddexp(every, target)
        k_y = keep * k[labels.clamp_min(0)]
        losses = torch.where(k_y == 0, 0, k_y * loss)
        if share:
            losses = losses + share * (k.sum() * lse - numbers[2])
        if self.z_loss:
            losses = losses + self.z_loss * lse * lse
        w = torch.ones_like(losses) if weight is None else weight.double()
        bad = labels < IGNORED
        losses = torch.where(hidden, 0, torch.where(bad, torch.nan, losses * w))
        if not derive:
            return losses, None
        g = torch.where(hidden, 0, torch.where(bad, torch.nan, _reduce.quotient(xp, w, divisor)))
        spread = share * k.sum() + 2 * self.z_loss * lse
        each = torch.where(hidden, 0, g * (k_y + spread))
        weight = torch.where(hidden | nothing, 0, each * (of_these - lse).exp()).to(z.dtype)
        slopes = called(SoftmaxLoss, asked, z, GRADIENT, out, options | {"reduction": "sum", "sample_weight": weight})
        if share:
            slopes.addr_((g * share).to(z.dtype), mine, alpha=-1)
        of_own = each * (own - lse).exp() - g * share * mine[at]
        of_target = g * (spread * (-loss).exp() + k_y * (-loss).expm1()) - g * share * k[labels.clamp_min(0)]
        for i, change, slope, curve in ((at, ~hidden, of_own, own_bent), (of_label, here & ~hidden, of_target, target_bent)):
            given = slope if curve is None else slope * curve
            kept = slopes.gather(1, i[:, None])[:, 0]
            slopes.scatter_(1, i[:, None], torch.where(change, given.to(z.dtype), kept)[:, None])
        if bent is not None:
            slopes.mul_(bent)
        if skip is not None and share:
            slopes.masked_fill_(skip[:, None], 0)
        return losses, slopes

    @staticmethod
    def _picked(z, at, cap):
        """A logit of each position in float64, after the cap, and the cap's derivative there, or None."""
        picked = z.gather(1, at[:, None])[:, 0].double()
        return (picked, None) if cap is None else capped(xp, picked, cap)


def _largest(z):
    """The class of the largest logit of each position.

    On the CPU `argmax` takes 0.83 ns a logit, `amax`, which is vectorised, 0.05 to 0.12, and the loss itself 0.14: so of many classes
    `amax` finds the block, and `argmax` the class in it. That takes 0.21 ns a logit of 4,000 classes, and 0.15 of 64,000.
    """
    size = z.shape[1]
    if size < 8 * WIDTH or z.device.type != "cpu":
        return z.argmax(1)
    whole = size - size % WIDTH
    blocks = z[:, :whole].unflatten(1, (-1, WIDTH))
    block = blocks.amax(2).argmax(1)
    at = block * WIDTH + blocks[torch.arange(len(z)), block].argmax(1)
    if whole == size:
        return at
    last = whole + z[:, whole:].argmax(1)
    return torch.where(z.gather(1, last[:, None])[:, 0] > z.gather(1, at[:, None])[:, 0], last, at)


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
    in_place = softmax_in_place(min(sizes)) and features.device.type == "cpu" and (shard.softcap is None or not shard.smoothing)
    chunk = given["chunk"] or default_chunk(max(sizes), 8 if head.dtype is torch.float64 else 4, in_place)
    if not torch.is_grad_enabled():
        features, weight, bias = (x if x is None else x.detach() for x in (features, weight, bias))
    n, d = head.rules.n, features.shape[-1]
    return replace(
        head, features=features.reshape(n, d), weight=weight, bias=bias, shard=shard, products=PRODUCTS,
        rules=head.rules._replace(chunk=int(chunk)),
    )  # fmt: skip


def _head_by_vocabulary(group, y_true, features, weight, bias, options):
    """The loss of a head of whose weight each process holds some rows."""

    def local():
        given = _complete(linear_softmax_loss, HEAD, options)
        _tensors(features=features, weight=weight, **({} if bias is None else {"bias": bias}))
        labels = torch.zeros(features.shape[:-1], dtype=torch.int64, device=features.device)
        prepared_head(VALUE, labels, detached(features), detached(weight), detached(bias), {**_detached(given), "class_weight": None})
        return y_true, features, weight, bias, given

    head = _shared(group, "linear_softmax_loss", local)
    tensors = head.features, head.weight, head.bias, head.labels, head.sample_weight, head.class_weight, head.denominator
    with torch.autocast(features.device.type, enabled=False):
        value = HeadLoss.apply(head, *tensors)
    return value.reshape(head.plan.layout.losses) if head.rules.reduction == "none" else value


class OfLogits(torch.autograd.Function):
    """The loss of logits (N, size), of which each process holds its classes."""

    @staticmethod
    def forward(ctx, logits, head):
        ctx.head, ctx.each = head, head.rules.reduction == "none"
        ctx.save_for_backward(logits)
        value, ctx.kept = _visited(head, logits, ctx.needs_input_grad[0])
        return value

    @staticmethod
    def backward(ctx, upstream):
        (logits,) = ctx.saved_tensors
        gradient = vars(ctx).pop("kept", None)  # what is handed over is the receiver's: a second time it is found again
        if torch.is_grad_enabled():
            raise NotImplementedError(TWICE)
        if gradient is None:
            _, gradient = _visited(ctx.head, logits, True)
        upstream = upstream[:, None] if ctx.each else upstream
        if not bool(upstream.isfinite().all()):
            gradient = torch.where(gradient == 0, 0, gradient * upstream)
        elif not bool((upstream == 1).all()):
            gradient = gradient.mul_(upstream)
        return gradient.to(logits.dtype), None


def _visited(head, logits, derive):
    """The value of logits (N, size), and their gradient, new, if `derive`."""
    return head.shard.visit(head, Rows(head), slice(None), logits.detach().to(head.dtype), derive, None, None)


def _by_vocabulary(group, y_true, logits, options):
    """The loss of logits whose classes are shared out: that of a head whose features are of no length."""
    z = logits

    def local():
        nonlocal z
        given = _complete(softmax_loss, SOFTMAX, options)
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
    z = z.reshape(-1, z.shape[-1])
    value = OfLogits.apply(z if torch.is_grad_enabled() else z.detach(), head)
    return value.reshape(head.plan.layout.losses) if head.rules.reduction == "none" else value
