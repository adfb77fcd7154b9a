"""Which kernel takes a call: a table, read from the top.

`ROUTES` lists the ways to evaluate a loss, fastest first. A route says of a job why it cannot take it, from dtype, layout and device and
never from data; the formula takes everything.
"""

import os
import warnings
from dataclasses import dataclass
from importlib import import_module

import numpy as np

from polyloss import _formula, _threads
from polyloss._shapes import FLOATS, dtype_name, sort_labels


@dataclass(frozen=True)
class Route:
    """One way to evaluate a loss."""

    name: str
    obstacle: callable  # job -> why this route cannot take it, or None
    run: callable  # job -> Outcome
    note: callable = lambda: ""  # what explain adds of the machine: instruction set, threads


def obstacle_softmax_xent(job):
    """Why the fused CPU kernel cannot take the job."""
    if job.block.kernel != "softmax_xent":
        return "it is for the softmax cross-entropies from logits"
    return _cpu_obstacle(job, "softmax_xent")


def _cpu_obstacle(job, kernel):
    if job.memory is None:
        return f"it needs arrays in this machine's memory, and those of {job.backend.name} on {job.device} are not"
    if dtype_name(job.p.dtype) not in FLOATS:
        return f"it takes floating predictions, not {dtype_name(job.p.dtype)}"
    if kernels(kernel) is None:
        return f"the compiled kernel {kernel} is missing"
    return None


def run_softmax_xent(job):
    """The fused softmax cross-entropy on the CPU."""
    kernel, lay, want, m = kernels("softmax_xent"), job.layout, job.want, job.memory
    storage = m.p.dtype
    dtype = np.dtype(dtype_name(job.dtype))
    bf16 = dtype_name(job.p.dtype) == "bfloat16"
    labels, ignore, bad = m.t, job.ignore, None
    if job.labelled and labels.dtype.kind == "f":
        labels, ignore, bad = _integer_labels(labels, lay.c, ignore)
        if bad.any() and job.validate:
            return _formula.Outcome(first_bad=int(bad.argmax()))
    options = dict(ignore=ignore, class_weight=m.class_weight, weight=m.weight, threads=_threads.get_num_threads())
    divisor, sums, scale = job.divisor, None, 1.0
    if want.gradient or want.hessian:
        if isinstance(divisor, str):
            sums = _sums(kernel, job, labels, options)
            if sums[2] >= 0 and job.validate:
                return _formula.Outcome(first_bad=sums[2])
            divisor = _divided(job, sums)
        scale = 1 / float(divisor) if divisor else 0.0
    losses = np.empty((lay.n, lay.s), dtype) if want.value and job.reduction == "none" else None
    gradient = (m.out if m.out is not None else np.empty((lay.n, lay.c, lay.s), storage)) if want.gradient else None
    hessian = (m.out_hessian if m.out_hessian is not None else np.empty((lay.n, lay.c, lay.s), storage)) if want.hessian else None
    prob = np.empty((lay.n, lay.c, lay.s), storage) if want.prob else None
    total, weights, count, bad = kernel.fused(
        m.p, labels, bf16=bf16, smoothing=job.targeting.get("label_smoothing", 0.0), poly_epsilon=job.params.get("poly_epsilon", 0.0),
        scale=scale, losses=losses, grad=gradient, prob=prob, hess=hessian, **options,
    )  # fmt: skip
    if isinstance(divisor, str):
        sums = (weights, count) if job.labelled or job.reduction != "mean" else _sums(kernel, job, labels, options)
        divisor = _divided(job, sums)
    return _formula.Outcome(losses, total, divisor, gradient, hessian, prob, None, bad)


def _integer_labels(y, c, ignore):
    """Whole-numbered floats as int64 for the kernel: ignored ones are -1, bad ones -2."""
    labels, ignored, bad = sort_labels(np, y, c, ignore)
    labels = np.where(bad, -2, labels.astype(np.int64))
    return (labels, (), bad) if ignored is None else (np.where(ignored, -1, labels), (-1,), bad)


def _sums(kernel, job, labels, options):
    """Σ of weights, count of positions not ignored, first bad label: from targets and weights alone."""
    m = job.memory
    if job.labelled:
        return kernel.label_sums(labels, job.layout.c, **options)
    if job.reduction == "mean":
        sums = m.weight
    else:
        k = np.ones(job.layout.c, m.t.dtype) if m.class_weight is None else m.class_weight
        sums = np.einsum("ncs,c->ns", m.t, k)  # no array of the targets' size
        if m.weight is not None:
            sums = np.where(m.weight == 0, 0, sums * m.weight)
    return float(sums.sum(dtype=np.float64)), job.layout.n * job.layout.s, -1


def _divided(job, sums):
    return max(sums[1], 1) if job.divisor == "count" else sums[0]


def _softmax_note():
    return _note("softmax_xent")


def _note(kernel):
    module = kernels(kernel)
    n = _threads.get_num_threads()
    return f"{module.isa()}, {n} thread{'s' if n > 1 else ''}"


ROUTES = (
    Route("softmax_xent kernel", obstacle_softmax_xent, run_softmax_xent, _softmax_note),
    Route("formula", lambda job: None, _formula.run),
)

_kernels = {}


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
                    " to build it, install a C compiler and run `pip install --force-reinstall --no-binary polyloss polyloss`",
                    RuntimeWarning,
                    stacklevel=2,
                )
    return _kernels[name]


def choose(job):
    """The first route that can take the job, and the obstacles of those before it."""
    forced = os.environ.get("POLYLOSS_ROUTE")
    if forced not in (None, "", "formula"):
        raise ValueError(f"POLYLOSS_ROUTE is {forced!r}, but must be 'formula' or unset")
    obstacles = []
    for route in ROUTES:
        why = route.obstacle(job)
        if why is None and forced and route.name != "formula":
            why = "POLYLOSS_ROUTE=formula forces the formula"
        if why is None:
            return route, obstacles
        obstacles.append((route.name, why))
    raise AssertionError("the formula takes every job")
