"""Plans on the CPU's compiled kernels: what they can take, and how a plan and arrays become their arguments."""

import warnings
from importlib import import_module
from types import ModuleType
from typing import NamedTuple

import numpy as np

from polyloss import _threads
from polyloss._block import Elementwise, Rowwise
from polyloss._buffers import empty
from polyloss._formula import Outcome
from polyloss._shapes import FLOATS, sort_labels

_kernels: dict[str, ModuleType | None] = {}


def kernels(name):
    """A compiled kernel module, imported on first use; None if it cannot be, after one warning that says how to build it."""
    if name not in _kernels:
        try:
            _kernels[name] = import_module(f"polyloss._kernels.{name}")
        except ImportError as error:
            _kernels[name] = None
            if not any(module for module in _kernels.values()) and sum(module is None for module in _kernels.values()) == 1:
                warnings.warn(
                    f"polyloss runs on formulas, several times slower: its kernel {name} was not imported ({error});"
                    " to build it, install a C compiler and run `pip install --force-reinstall --no-deps .` in its source tree",
                    RuntimeWarning,
                    stacklevel=2,
                )
    return _kernels[name]


def note(kernel):
    """The instruction set a kernel runs on, and the threads it may use."""
    n = _threads.get_num_threads()
    return f"{kernels(kernel).isa()}, {n} thread{'s' if n > 1 else ''}"


def softmax_xent(plan):
    """Whether the loss is a softmax cross-entropy from logits."""
    return plan.block.kernel == "softmax_xent"


def elementwise(plan):
    """Whether the loss has formulas of one element."""
    return issubclass(plan.block, Elementwise)


def rowwise(plan):
    """Whether the loss is another one that consumes the class axis."""
    return issubclass(plan.block, Rowwise) and not softmax_xent(plan)


def obstacle(plan, kernel):
    """Why a kernel that holds the plan's formulas cannot take it, or None."""
    if not plan.here:
        return f"it needs arrays in this machine's memory, and those of {plan.backend.name} on {plan.device} are not"
    if plan.storage not in FLOATS:
        return f"it takes floating predictions, not {plan.storage}"
    if kernels(kernel) is None:
        return f"the compiled kernel {kernel} is missing"
    return None


def softmax_xent_obstacle(plan):
    """Why the fused softmax cross-entropy cannot take the plan, or None."""
    return obstacle(plan, "softmax_xent")


def elementwise_obstacle(plan):
    """Why the elementwise kernel cannot take the plan, or None."""
    why = obstacle(plan, "elementwise")
    if why is None and plan.block.kernel not in kernels("elementwise").FORMULAS:
        return "it holds no formula of this loss"
    return why


def rowwise_obstacle(plan):
    """Why the row-wise kernel cannot take the plan, or None."""
    why = obstacle(plan, "rowwise")
    if why is None and plan.block.kernel not in kernels("rowwise").LOSSES:
        return "it holds no formula of this loss"
    if why is None and plan.want.hessian and not plan.want.gradient:
        return "it computes the Hessian only together with the gradient"
    return why


class Memory(NamedTuple):
    """The arrays of a call as NumPy arrays over the same memory, bfloat16 as its bits."""

    t: object
    p: object
    weight: object
    class_weight: object
    out: object  # (n, c, s); None where only a copy in the end can fill what the caller gave
    out_hessian: object


def memory(plan, arrays):
    """The arrays as NumPy arrays over the same memory."""
    view = plan.backend.memory
    inputs = arrays.t, arrays.p, arrays.weight, arrays.class_weight
    outputs = (None if x is None else _canonical(plan, view(x)) for x in (arrays.out, arrays.out_hessian))
    return Memory(*(None if x is None else view(x) for x in inputs), *outputs)


def _canonical(plan, x):
    try:
        return plan.layout.canonical(np, x, copy=False) if x.flags.aligned and x.dtype.isnative else None
    except ValueError:
        return None


class Outputs:
    """What a kernel writes: the caller's arrays where they have its shape, else new ones; None where nothing is asked for."""

    def __init__(self, plan, m):
        want, lay = plan.want, plan.layout
        self.dtype = np.dtype(plan.dtype)
        self.losses = np.empty((lay.n, lay.s), self.dtype) if want.value and plan.reduction == "none" else None
        self.gradient = _output(plan, m, want.gradient, m.out)
        self.hessian = _output(plan, m, want.hessian, m.out_hessian)
        self.prob = _output(plan, m, want.prob, None)


def _output(plan, m, wanted, given):
    if not wanted:
        return None
    if given is not None:
        return given
    lay = plan.layout
    return lay.canonical(np, empty(lay.shape, m.p.dtype))


def _scale(divisor):
    """The factor of the derivatives; 1 where the divisor comes out of the same pass."""
    return 1.0 if isinstance(divisor, str) else 1 / float(divisor) if divisor else 0.0


def run_elementwise(plan, arrays):
    """The elementwise losses."""
    kernel, m, block = kernels("elementwise"), memory(plan, arrays), plan.block
    settings = plan.settings
    if "labels" in settings:
        settings["zero_one"] = _zero_one(settings["labels"], arrays.survey)
    parameters = [settings[name] for name in kernel.PARAMETERS[block.kernel]]
    divisor = float(m.weight.sum(dtype=np.float64)) if plan.divisor == "weights" else plan.divisor_of(arrays)
    outputs = Outputs(plan, m)
    total, *_ = kernel.run(
        block.kernel, m.t, m.p, parameters, bf16=plan.storage == "bfloat16", combine=block.combine, weight=m.weight, scale=_scale(divisor),
        losses=outputs.losses, grad=outputs.gradient, hess=outputs.hessian, threads=_threads.get_num_threads(),
    )  # fmt: skip
    return Outcome(outputs.losses, total, divisor, outputs.gradient, outputs.hessian)


def run_rowwise(plan, arrays):
    """The losses that consume the class axis, but for the softmax cross-entropies."""
    kernel, m, block = kernels("rowwise"), memory(plan, arrays), plan.block
    targets, ignore, bad = kernel_targets(plan, m)
    if bad >= 0:
        return Outcome(first_bad=bad)
    options = dict(ignore=ignore, weight=m.weight, threads=_threads.get_num_threads())
    divisor, bad = _early_divisor(plan, arrays, m, targets, options)
    if bad >= 0:
        return Outcome(first_bad=bad)
    settings = plan.settings
    parameters = [settings[name] for name in kernel.PARAMETERS[block.kernel]]
    outputs = Outputs(plan, m)
    total, *sums, bad = kernel.run(
        block.kernel, targets, m.p, parameters, bf16=plan.storage == "bfloat16", scale=_scale(divisor), losses=outputs.losses,
        grad=outputs.gradient, hess=outputs.hessian, **options,
    )  # fmt: skip
    if isinstance(divisor, str):
        divisor = _divided(plan, sums)
    return Outcome(outputs.losses, total, divisor, outputs.gradient, outputs.hessian, first_bad=bad)


def _zero_one(labels, survey):
    """Whether targets are 0 and 1 rather than -1 and 1; None: the kernel finds it out on the way."""
    if labels != "auto":
        return labels == "01"
    return None if survey is None else bool(survey)  # a part of an array is decided by the whole


def ordinary_softmax(y_true, logits, want, given, out=None):
    """The results of an ordinary call of `softmax_loss`, in one call of the kernel; None for any other.

    The road costs 45 µs, as much as the loss of 100,000 logits. What the kernel checks here, it checks as the road does;
    where anything is unusual, a bad label included, the road takes over and words the error.
    """
    reduction, axis, smoothing = given["reduction"], given["axis"], given["label_smoothing"]
    if (
        (reduction != "normalize" and reduction != "sum")
        or type(axis) is not int
        or (axis != 1 and axis != -1)
        or given["class_weight"] is not None
        or given["sample_weight"] is not None
        or given["denominator"] is not None
        or given["normalization"] is not None
        or (given["normalize"] is not None and given["normalize"] is not True)
        or type(smoothing) is not float
        or smoothing != 0.0
        or given["return_prob"] is not False
        or given["validate"] is not True
        or not want.value
        or want.hessian
    ):
        return None
    kernel = kernels("softmax_xent")
    if kernel is None:
        return None
    mean, threads = reduction == "normalize", _threads.get_num_threads()
    return kernel.ordinary(y_true, logits, given["ignore_label"], mean, want.gradient, out, threads)


def run_softmax_xent(plan, arrays):
    """The fused softmax cross-entropy."""
    kernel, m = kernels("softmax_xent"), memory(plan, arrays)
    outputs = Outputs(plan, m)
    targets, ignore, bad = kernel_targets(plan, m)
    if bad >= 0:
        return Outcome(first_bad=bad)
    if not plan.labelled:
        targets = targets.astype(outputs.dtype, copy=False)
    options = dict(ignore=ignore, class_weight=m.class_weight, weight=m.weight, threads=_threads.get_num_threads())
    divisor, bad = _early_divisor(plan, arrays, m, targets, options)
    if bad >= 0:
        return Outcome(first_bad=bad)
    settings = plan.settings
    total, *sums, bad = kernel.fused(
        m.p, targets, bf16=plan.storage == "bfloat16", smoothing=settings.get("label_smoothing", 0.0),
        poly_epsilon=settings.get("poly_epsilon", 0.0), planes=plan.layout.cut == 0 and bool(plan.layout.losses), scale=_scale(divisor),
        losses=outputs.losses, grad=outputs.gradient, prob=outputs.prob, hess=outputs.hessian, **options,
    )  # fmt: skip
    if isinstance(divisor, str):
        if not plan.labelled and plan.reduction == "mean":  # the kernel's sum has the targets in it
            *sums, _ = _sums(plan, m, targets, options)
        divisor = _divided(plan, sums)
    return Outcome(outputs.losses, total, divisor, outputs.gradient, outputs.hessian, outputs.prob, None, bad)


def kernel_targets(plan, m):
    """Targets and ignored labels as the kernels take them, and the first bad label if it is known already, else -1.

    Whole-numbered floats become int64 labels: ignored ones -1, bad ones -2.
    """
    targets = m.t
    if not plan.labelled or targets.dtype.kind != "f":
        return targets, plan.ignore, -1
    labels, ignored, bad = sort_labels(np, targets, plan.layout.c, plan.ignore)
    if plan.validate and bad.any():
        return targets, plan.ignore, int(bad.argmax())
    labels = np.where(bad, -2, labels.astype(np.int64))
    return (labels, (), -1) if ignored is None else (np.where(ignored, -1, labels), (-1,), -1)


def _early_divisor(plan, arrays, m, targets, options):
    """The divisor, a number where derivatives are wanted (the kernel's one pass scales them), and the first bad label found or -1."""
    divisor = plan.divisor_of(arrays)
    if not (plan.want.gradient or plan.want.hessian) or not isinstance(divisor, str):
        return divisor, -1
    *sums, bad = _sums(plan, m, targets, options)
    return _divided(plan, sums), bad if plan.validate else -1


def _sums(plan, m, targets, options):
    """Σ of weights, count of positions not ignored, first bad label: from targets and weights alone."""
    lay = plan.layout
    if plan.labelled:
        return kernels("softmax_xent").label_sums(targets, lay.c, **options)
    if plan.reduction == "mean":
        sums = m.weight
    else:
        k = np.ones(lay.c, targets.dtype) if m.class_weight is None else m.class_weight
        sums = np.einsum("ncs,c->ns", targets, k)  # no array of the targets' size
        if m.weight is not None:
            sums = np.where(m.weight == 0, 0, sums * m.weight)
    return float(sums.sum(dtype=np.float64)), lay.n * lay.s, -1


def _divided(plan, sums):
    """The divisor that the plan names, from (Σ of weights, count)."""
    return max(sums[1], 1) if plan.divisor == "count" else sums[0]
