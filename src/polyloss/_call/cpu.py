"""The CPU's compiled kernels: which plans each can take, and how a plan and its arrays become its arguments."""

import warnings
from dataclasses import replace
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from polyloss._call import formula as _formula
from polyloss._call.formula import Outcome
from polyloss._call.plan import BOTH
from polyloss._core import threads as _threads
from polyloss._core.block import Elementwise, Rowwise
from polyloss._core.buffers import empty
from polyloss._core.dtypes import FLOATS
from polyloss._core.labels import sort_labels
from polyloss._core.params import several_traced

KERNELS = {f"{name} kernel": name for name in ("softmax_xent", "elementwise", "rowwise", "values", "sets")}  # routes -> modules

_kernels: dict[str, ModuleType | None] = {}


def kernels(name):
    """A compiled kernel module, imported on first use; None if it cannot be, after one warning that says how to build it."""
    if name not in _kernels:
        try:
            _kernels[name] = import_module(f"polyloss._kernels.{'xla' if name == 'xla' else 'cpu'}.{name}")
        except ImportError as error:
            _kernels[name] = None
            others = [_kernels[other] for other in KERNELS.values() if other in _kernels and other != name]
            if name in KERNELS.values() and not any(others) and None not in others:
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


def softmax_in_place(classes):
    """Whether the softmax kernel can write the gradient over contiguous logits of so many classes: it reads those of fewer again."""
    kernel = kernels("softmax_xent")
    return kernel is not None and classes > kernel.FEW


def is_softmax_xent(plan):
    """Whether the loss is a softmax cross-entropy from logits."""
    return plan.kernel == "softmax_xent"


def is_elementwise(plan):
    """Whether the loss has formulas of one element."""
    return issubclass(plan.block, Elementwise) and not is_values(plan) and not is_rowwise(plan)


def is_rowwise(plan):
    """Whether the loss is another one that consumes the class axis."""
    of_labels = plan.labelled and plan.block.kernel_of_labels is not None
    return of_labels or (issubclass(plan.block, Rowwise) and not (is_softmax_xent(plan) or is_values(plan) or is_sets(plan)))


def is_values(plan):
    """Whether the loss compares one number at each position with several that are predicted."""
    return plan.block.targets == "values"


def is_sets(plan):
    """Whether the loss is one of sets of positions."""
    return plan.block.sets


def obstacle(plan, kernel):
    """Why a kernel that holds the plan's formulas cannot take it, or None."""
    if not plan.here:
        return f"it needs arrays in this machine's memory, and those of {plan.backend.name} on {plan.device} are not"
    if plan.storage not in FLOATS:
        return f"it takes floating predictions, not {plan.storage}"
    for needed in (kernel, "prepared"):
        if kernels(needed) is None:
            return f"the compiled kernel {needed} is missing"
    return None


def softmax_xent_obstacle(plan):
    """Why the fused softmax cross-entropy cannot take the plan, or None."""
    return obstacle(plan, "softmax_xent")


def elementwise_obstacle(plan):
    """Why the elementwise kernel cannot take the plan, or None."""
    why = obstacle(plan, "elementwise")
    if why is None and plan.labelled:
        return "it takes no labels"
    if why is None and plan.kernel not in kernels("elementwise").PARAMETERS:
        return "it holds no formula of this loss"
    return plan.per_class if why is None else why


def rowwise_obstacle(plan):
    """Why the row-wise kernel cannot take the plan, or None."""
    why = obstacle(plan, "rowwise")
    if why is None and plan.kernel not in kernels("rowwise").PARAMETERS:
        return "it holds no formula of this loss"
    if why is None and plan.per_class and any(several_traced(x) for _, x in plan.params):
        return "a parameter is traced, and kernels take numbers"
    return why


def values_obstacle(plan):
    """Why the kernel of one number at each position cannot take the plan, or None."""
    why = obstacle(plan, "values")
    if why is None and plan.kernel not in kernels("values").PARAMETERS:
        return "it holds no formula of this loss"
    return why


def sets_obstacle(plan):
    """Why the kernel of sets cannot take the plan, or None."""
    return obstacle(plan, "sets")


class Views(NamedTuple):
    """The arrays of a kernel as NumPy arrays over the same memory, bfloat16 as its bits; (n, c, s), (n, s) or (c,)."""

    t: Any
    p: Any
    weight: Any
    class_weight: Any
    losses: Any
    gradient: Any
    hessian: Any
    prob: Any


def as_numpy(plan, arrays):
    """The arrays of a kernel: inputs as it reads them, outputs the caller's own where they can be filled in place, else new ones."""
    view, lay, want = plan.backend.as_numpy, plan.layout, plan.want
    t: Any
    p: Any
    t, p, weight, class_weight = (None if x is None else view(x) for x in (arrays.t, arrays.p, arrays.weight, arrays.class_weight))
    if is_values(plan):
        t = _as_losses(plan)(np, t)
    if not plan.labelled and is_softmax_xent(plan):
        with np.errstate(all="ignore"):
            t = t.astype(plan.dtype, copy=False)
    if plan.per_class:
        with np.errstate(all="ignore"):
            t = _formula.times_factors(plan, np, t)

    def output(wanted, given=None):
        given = None if given is None else _canonical(plan, view(given))
        return given if given is not None or not wanted else lay.canonical(np, empty(lay.shape, p.dtype))

    losses = np.empty((lay.n, lay.s), plan.dtype) if want.value and plan.reduction == "none" else None
    outputs = output(want.gradient, arrays.out), output(want.hessian, arrays.out_hessian), output(want.prob)
    return Views(t, p, weight, class_weight, losses, *outputs)


def _canonical(plan, x):
    """An output as (n, c, s) over the same memory; None where only a copy in the end can fill it."""
    try:
        return plan.layout.canonical(np, x, copy=False) if x.flags.aligned and x.dtype.isnative else None
    except ValueError:
        return None


def run(plan, arrays):
    """The outcome of a plan on its kernel."""
    m, bad = _integer_labels(plan, as_numpy(plan, arrays))
    if bad >= 0:
        return Outcome(first_bad=bad)
    kept = plan.__dict__.setdefault("_bound", {})
    scanned = None if arrays.scanned is None else bool(arrays.scanned)
    key = *(x if x is None else (x.dtype, x.strides) for x in m), _over(m), _threads.get_num_threads(), scanned
    if key not in kept:
        if len(kept) >= 16:
            kept.clear()
        kept[key] = _bound(plan, m, scanned)
    total, divisor, bad = kept[key].run(*m[:4], arrays.divisor, *m[4:])
    if bad == kernels("prepared").FAR:  # the divisor is no number whose reciprocal the kernels could multiply by: the formula divides
        return _formula.run(plan, arrays)
    return Outcome(m.losses, total, divisor, m.gradient, m.hessian, m.prob, first_bad=bad)


def _integer_labels(plan, m):
    """Whole-numbered floats as int64 labels, ignored ones -1 and bad ones -2; and the first bad one, -1 if there is none."""
    if not plan.labelled or m.t.dtype.kind != "f":
        return m, -1
    labels, ignored, bad = sort_labels(np, m.t, plan.layout.c, plan.ignore)
    if plan.validate and bad.any():
        return m, int(bad.argmax())
    labels = np.where(bad, -2, labels.astype(np.int64))
    return m._replace(t=labels if ignored is None else np.where(ignored, -1, labels)), -1


def prepared(plan, given, arrays, from_numpy=None, record=None):
    """The plan's kernel for calls on arrays like these, if it reads and writes the caller's own where they lie; else None.

    `from_numpy` makes a result one of the caller's library. `record` puts a call into autograd's graph: then the kernel finds the gradient.
    """
    lay = plan.layout
    if not plan.here or plan.per_class or plan.route not in KERNELS or lay.n * lay.c * lay.s == 0 or hasattr(arrays.divisor, "dtype"):
        return None
    if plan.storage == "bfloat16" and from_numpy is None:  # NumPy's, whose results would stay bits
        return None
    view, wider = plan.backend.as_numpy, plan if record is None else replace(plan, want=BOTH)
    m = as_numpy(wider, arrays)
    inputs = [x if x is None else view(x) for x in (given["y_true"], given[plan.name], given["sample_weight"], given["class_weight"])]
    converted = [x is not None and _address(x) != _address(seen) for x, seen in zip(inputs, m, strict=False)]
    of_targets = None if plan.labelled else _as_losses(plan) if is_values(plan) else lay.canonical
    alike = (of_targets, None, _same, _same)  # how an input becomes the kernel's
    casts = [made and _castable(plan, x, seen, as_) for made, x, seen, as_ in zip(converted, inputs, m, alike, strict=False)]
    if casts != converted or (plan.labelled and m.t.dtype.kind == "f"):
        return None
    outputs = [x for x in (arrays.out, arrays.out_hessian) if x is not None]
    if not all(view(x).flags.c_contiguous for x in outputs):
        return None
    if any(wider.want[1:]) and not lay.views_new():  # predictions lie right, new outputs would not
        return None
    return _bound(wider, m, None, plan, inputs, casts, from_numpy, record)


def bound(plan, m):
    """The plan's kernel, bound to arrays that it reads and writes where they lie; None where it takes others than these."""
    if plan.route not in KERNELS or plan.per_class or (plan.labelled and m.t.dtype.kind == "f"):
        return None
    if is_softmax_xent(plan) and not plan.labelled and m.t.dtype != plan.dtype:
        return None
    if is_values(plan):
        m = m._replace(t=_as_losses(plan)(np, m.t))
    return _bound(plan, m, None)


def _over(m):
    """Whether the gradient replaces the predictions."""
    return m.gradient is not None and _address(m.gradient) == _address(m.p)


def _address(x):
    return x.__array_interface__["data"][0]


def _castable(plan, x, seen, canonical):
    """Whether the kernel's array holds the numbers of an input in their order, one behind the other, in the dtype of the computation."""
    if canonical is None or x.dtype.num not in kernels("prepared").CASTS or seen.dtype != plan.dtype:
        return False
    if x.size != seen.size or not (x.flags.c_contiguous and seen.flags.c_contiguous and x.flags.aligned and x.dtype.isnative):
        return False
    return _address(canonical(np, x)) == _address(x)  # no axis was moved by copying


def _as_losses(plan):
    """What gives numbers, one for each position, the shape (n, s)."""
    return lambda xp, x: xp.reshape(x, (plan.layout.n, plan.layout.s))


def _same(xp, x):
    return x


def _bound(plan, m, scanned, called=None, inputs=(None,) * 4, casts=(False,) * 4, from_numpy=None, record=None):
    """The plan's kernel, bound to the types and strides of arrays; `called` is the plan of the call where that wants less."""
    kernel, block, lay, settings = kernels(KERNELS[plan.route]), plan.block, plan.layout, plan.settings
    if "labels" in settings:  # whether targets are 0 and 1 rather than -1 and 1; None: the kernel finds it out on the way
        settings["zero_one"] = scanned if settings["labels"] == "auto" else settings["labels"] == "01"
    if plan.per_class:  # which `as_numpy` has multiplied the targets by
        settings |= {"alpha": 1.0, "label_smoothing": 0.0}
    of_targets = "ns" if plan.labelled or is_values(plan) else "ncs"
    axes = dict.fromkeys(Views._fields, "ncs") | dict(weight="ns", class_weight="c", losses="ns", t=of_targets)
    if lay.runs > 1:
        axes = {key: "nrcs" if x == "ncs" else x for key, x in axes.items()}
    bits = ("p", "gradient", "hessian", "prob") if plan.storage == "bfloat16" else ()
    facts = (None if x is None else kernel.facts(x, axes[key], key, key in bits) for key, x in m._asdict().items())
    bound = kernel.bind(
        plan.kernel, lay.n, lay.c, lay.s, *facts, parameters=[settings.get(name, 0.0) for name in kernel.PARAMETERS[plan.kernel]],
        ignore=plan.ignore if plan.targets not in FLOATS else (-1,), combine=block.combine or "sum",
        over=_over(m), runs=lay.runs, threads=_threads.get_num_threads(),
    )  # fmt: skip
    if plan.divisor == "weights" and plan.reduction == "mean" and not plan.labelled:
        divide = "position weights"
    else:
        divide = plan.divisor if isinstance(plan.divisor, str) else "number"
    return kernels("prepared").Prepared(called or plan, plan.want, bound, m.p.dtype, inputs, casts, divide, from_numpy, record)
