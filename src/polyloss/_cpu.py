"""Jobs on the CPU's compiled kernels: what they can take, and how a job becomes their arguments."""

import warnings
from importlib import import_module
from types import ModuleType

import numpy as np

from polyloss import _threads
from polyloss._buffers import empty
from polyloss._formula import Outcome
from polyloss._shapes import FLOATS, dtype_name, sort_labels

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


def obstacle(job, kernel):
    """Why a kernel that holds the job's formulas cannot take it, or None."""
    if job.memory is None:
        return f"it needs arrays in this machine's memory, and those of {job.backend.name} on {job.device} are not"
    if dtype_name(job.p.dtype) not in FLOATS:
        return f"it takes floating predictions, not {dtype_name(job.p.dtype)}"
    if kernels(kernel) is None:
        return f"the compiled kernel {kernel} is missing"
    return None


def softmax_xent_obstacle(job):
    """Why the fused softmax cross-entropy cannot take the job, or None."""
    if job.block.kernel != "softmax_xent":
        return "it is for the softmax cross-entropies from logits"
    return obstacle(job, "softmax_xent")


def elementwise_obstacle(job):
    """Why the elementwise kernel cannot take the job, or None."""
    why = obstacle(job, "elementwise")
    if why is None and job.block.kernel not in kernels("elementwise").FORMULAS:
        return "it holds no formula of this loss"
    return why


def rowwise_obstacle(job):
    """Why the row-wise kernel cannot take the job, or None."""
    why = obstacle(job, "rowwise")
    if why is None and job.block.kernel not in kernels("rowwise").LOSSES:
        return "it holds no formula of this loss"
    if why is None and job.want.hessian and not job.want.gradient:
        return "it has curvatures beside slopes alone"
    return why


class Outputs:
    """What a kernel writes: the caller's arrays where they have its shape, else new ones; None where nothing is asked for."""

    def __init__(self, job):
        m, want = job.memory, job.want
        self.dtype = np.dtype(dtype_name(job.dtype))
        self.losses = np.empty((job.layout.n, job.layout.s), self.dtype) if want.value and job.reduction == "none" else None
        self.gradient = _output(job, want.gradient, m.out)
        self.hessian = _output(job, want.hessian, m.out_hessian)
        self.prob = _output(job, want.prob, None)


def _output(job, wanted, given):
    if not wanted:
        return None
    if given is not None:
        return given
    lay = job.layout
    return lay.canonical(np, empty(lay.shape, job.memory.p.dtype))


def _scale(divisor):
    """The factor of the derivatives; 1 where the divisor comes out of the same pass."""
    return 1.0 if isinstance(divisor, str) else 1 / float(divisor) if divisor else 0.0


def run_elementwise(job):
    """The elementwise losses."""
    kernel, m, block = kernels("elementwise"), job.memory, job.block
    threads = _threads.get_num_threads()
    settings = {**job.params, **job.targeting}
    if "labels" in settings:
        settings["zero_one"] = _zero_one(job)
    parameters = [settings[name] for name in kernel.PARAMETERS[block.kernel]]
    divisor = float(m.weight.sum(dtype=np.float64)) if job.divisor == "weights" else job.divisor
    outputs = Outputs(job)
    total, *_ = kernel.run(
        block.kernel, m.t, m.p, parameters, bf16=dtype_name(job.p.dtype) == "bfloat16", combine=block.combine, weight=m.weight,
        scale=_scale(divisor), losses=outputs.losses, grad=outputs.gradient, hess=outputs.hessian, threads=threads,
    )  # fmt: skip
    return Outcome(outputs.losses, total, divisor, outputs.gradient, outputs.hessian)


def run_rowwise(job):
    """The losses that consume the class axis, but for the softmax cross-entropies."""
    kernel, m, block = kernels("rowwise"), job.memory, job.block
    targets, ignore, bad = kernel_targets(job)
    if bad >= 0:
        return Outcome(first_bad=bad)
    options = dict(ignore=ignore, weight=m.weight, threads=_threads.get_num_threads())
    divisor, bad = _early_divisor(job, targets, options)
    if bad >= 0:
        return Outcome(first_bad=bad)
    settings = {**job.params, **job.targeting}
    parameters = [settings[name] for name in kernel.PARAMETERS[block.kernel]]
    outputs = Outputs(job)
    total, *sums, bad = kernel.run(
        block.kernel, targets, m.p, parameters, bf16=dtype_name(job.p.dtype) == "bfloat16", scale=_scale(divisor), losses=outputs.losses,
        grad=outputs.gradient, hess=outputs.hessian, **options,
    )  # fmt: skip
    if isinstance(divisor, str):
        divisor = _divided(job, sums)
    return Outcome(outputs.losses, total, divisor, outputs.gradient, outputs.hessian, first_bad=bad)


def _zero_one(job):
    """Whether targets are 0 and 1 rather than -1 and 1; None: the kernel finds it out on the way."""
    if job.targeting["labels"] != "auto":
        return job.targeting["labels"] == "01"
    return bool(job.targeting["survey"]) if "survey" in job.targeting else None  # a part of an array is decided by the whole


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


def run_softmax_xent(job):
    """The fused softmax cross-entropy."""
    kernel, m = kernels("softmax_xent"), job.memory
    outputs = Outputs(job)
    targets, ignore, bad = kernel_targets(job)
    if bad >= 0:
        return Outcome(first_bad=bad)
    if not job.labelled:
        targets = targets.astype(outputs.dtype, copy=False)
    options = dict(ignore=ignore, class_weight=m.class_weight, weight=m.weight, threads=_threads.get_num_threads())
    divisor, bad = _early_divisor(job, targets, options)
    if bad >= 0:
        return Outcome(first_bad=bad)
    total, *sums, bad = kernel.fused(
        m.p, targets, bf16=dtype_name(job.p.dtype) == "bfloat16", smoothing=job.targeting.get("label_smoothing", 0.0),
        poly_epsilon=job.params.get("poly_epsilon", 0.0), scale=_scale(divisor), losses=outputs.losses, grad=outputs.gradient,
        prob=outputs.prob, hess=outputs.hessian, **options,
    )  # fmt: skip
    if isinstance(divisor, str):
        if not job.labelled and job.reduction == "mean":  # the kernel's sum has the targets in it
            *sums, _ = _sums(job, targets, options)
        divisor = _divided(job, sums)
    return Outcome(outputs.losses, total, divisor, outputs.gradient, outputs.hessian, outputs.prob, None, bad)


def kernel_targets(job):
    """Targets and ignored labels as the kernels take them, and the first bad label if it is known already, else -1.

    Whole-numbered floats become int64 labels: ignored ones -1, bad ones -2.
    """
    targets = job.memory.t
    if not job.labelled or targets.dtype.kind != "f":
        return targets, job.ignore, -1
    labels, ignored, bad = sort_labels(np, targets, job.layout.c, job.ignore)
    if job.validate and bad.any():
        return targets, job.ignore, int(bad.argmax())
    labels = np.where(bad, -2, labels.astype(np.int64))
    return (labels, (), -1) if ignored is None else (np.where(ignored, -1, labels), (-1,), -1)


def _early_divisor(job, targets, options):
    """The job's divisor, a number where derivatives are wanted (the kernel's one pass scales them), and the first bad label found or -1."""
    if not (job.want.gradient or job.want.hessian) or not isinstance(job.divisor, str):
        return job.divisor, -1
    *sums, bad = _sums(job, targets, options)
    return _divided(job, sums), bad if job.validate else -1


def _sums(job, targets, options):
    """Σ of weights, count of positions not ignored, first bad label: from targets and weights alone."""
    m = job.memory
    if job.labelled:
        return kernels("softmax_xent").label_sums(targets, job.layout.c, **options)
    if job.reduction == "mean":
        sums = m.weight
    else:
        k = np.ones(job.layout.c, targets.dtype) if m.class_weight is None else m.class_weight
        sums = np.einsum("ncs,c->ns", targets, k)  # no array of the targets' size
        if m.weight is not None:
            sums = np.where(m.weight == 0, 0, sums * m.weight)
    return float(sums.sum(dtype=np.float64)), job.layout.n * job.layout.s, -1


def _divided(job, sums):
    """The divisor that the job names, from (Σ of weights, count)."""
    return max(sums[1], 1) if job.divisor == "count" else sums[0]
