"""The GPU's kernels: which plans each can take, and how a plan and its arrays become its arguments.

Only the check of labels waits for the device. `_kernels.gpu.cuda` is imported with the first call on a GPU: 8 ms that no other program
pays.
"""

from functools import wraps

from polyloss._call.formula import Outcome, times_factors
from polyloss._core import reduce as _reduce
from polyloss._core.dtypes import FLOATS, dtype_name, representable
from polyloss._core.params import several_traced

EXACT = 2**53  # whole numbers up to here are exact as doubles, in which the kernel reads floating labels


def obstacle(plan):
    """Why no kernel can take the plan, or None."""
    lay = plan.layout
    if plan.cuda is None:
        return f"it needs arrays on a CUDA device, and those of {plan.backend.name} on {plan.device} are not"
    if not plan.has_values:
        return "the arrays are being traced: their memory is not at hand"
    if plan.storage not in FLOATS:
        return f"it takes floating predictions, not {plan.storage}"
    if lay.n * lay.s == 0:
        return "there is no position to compute"
    from polyloss._kernels.gpu import cuda

    return cuda.why_not(plan.cuda, _tensors(plan))


def _tensors(plan):
    """Whether the arrays are torch's, so that its device and stream are the ones that count."""
    return plan.backend.name == "torch"


def softmax_xent_obstacle(plan):
    """Why the fused softmax cross-entropy cannot take the plan, or None."""
    why = obstacle(plan)
    if why is not None:
        return why
    from polyloss._kernels.gpu import cuda

    if plan.layout.c > cuda.MAX_CLASSES:
        return f"it takes at most {cuda.MAX_CLASSES} classes"
    return _labels_obstacle(plan)


def _labels_obstacle(plan):
    from polyloss._kernels.gpu import cuda

    if len(plan.ignore) > cuda.MAX_IGNORES:
        return f"it takes at most {cuda.MAX_IGNORES} ignored labels"
    if plan.labelled and plan.targets in FLOATS and any(abs(v) > EXACT for v in plan.ignore):
        return f"it reads floating labels up to {EXACT}"
    return None


def elementwise_obstacle(plan):
    """Why the elementwise kernel cannot take the plan, or None."""
    why = obstacle(plan)
    if why is not None:
        return why
    if plan.labelled:
        return "it takes no labels"
    from polyloss._kernels.gpu import cuda

    return plan.per_class if plan.kernel in cuda.formulas() else "it holds no formula of this loss"


def rowwise_obstacle(plan):
    """Why the row-wise kernel cannot take the plan, or None."""
    why = obstacle(plan)
    if why is not None:
        return why
    from polyloss._kernels.gpu import cuda

    if plan.kernel not in cuda.formulas("formulas/rowwise.h"):
        return "it holds no formula of this loss"
    if plan.labelled and plan.layout.c > cuda.MAX_CLASSES:
        return f"it takes at most {cuda.MAX_CLASSES} classes beside labels"
    if plan.per_class and any(several_traced(x) for _, x in plan.params):
        return "a parameter is traced, and kernels take numbers"
    return _labels_obstacle(plan)


def note():
    """What compiles the kernels."""
    import cupy

    return f"CuPy {cupy.__version__}"


def _on_its_device(run):
    """`run` with the arrays' device current, whichever is for the caller: CuPy compiles, allocates and launches there."""

    @wraps(run)
    def there(plan, arrays):
        from polyloss._kernels.gpu import cuda

        with cuda.current(plan.cuda, _tensors(plan)):
            return run(plan, arrays)

    return there


@_on_its_device
def run_softmax_xent(plan, arrays):
    """The fused softmax cross-entropy."""
    from polyloss._kernels.gpu import cuda

    xp, lay = arrays.xp, plan.layout
    y, ignore, divisor = arrays.t, (), plan.divisor_of(arrays)
    if plan.labelled:
        y, ignore = _labels(plan, arrays)
    else:
        y = xp.astype(y, plan.real(xp), copy=False)
        if divisor == "weights":
            skip = None if arrays.weight is None else arrays.weight == 0
            wide = None if skip is None else xp.astype(arrays.weight, xp.float64)  # times a class weight it may be no float32
            divisor = _reduce.total_weight(plan, arrays._replace(weight=wide), y, skip)
    losses, grad, hess = _outputs(plan, arrays)
    prob = xp.empty((lay.n, lay.c, lay.s), dtype=arrays.p.dtype, device=arrays.p.device) if plan.want.prob else None
    reduced = cuda.softmax_xent(
        xp, cuda.contiguous(arrays.p), cuda.contiguous(y), dtype=dtype_name(arrays.p.dtype), ignore=ignore,
        class_weight=None if arrays.class_weight is None else cuda.contiguous(arrays.class_weight), weight=arrays.weight,
        smoothing=plan.settings.get("label_smoothing", 0.0), poly_epsilon=plan.settings.get("poly_epsilon", 0.0), divisor=divisor,
        z_loss=plan.settings.get("z_loss", 0.0), softcap=plan.settings.get("softcap", 0.0), losses=losses, grad=grad, prob=prob,
        hess=hess,
    )  # fmt: skip
    return _outcome(plan, reduced, divisor, losses, grad, hess, prob)


@_on_its_device
def run_elementwise(plan, arrays):
    """The elementwise losses."""
    from polyloss._kernels.gpu import cuda

    xp, block = arrays.xp, plan.block
    settings = plan.settings
    scan = settings.get("labels") == "auto" and arrays.scanned is None
    if "labels" in settings:
        settings["zero_one"] = settings["labels"] == "01" if arrays.scanned is None else bool(arrays.scanned)
    losses, grad, hess = _outputs(plan, arrays)
    reduced = cuda.elementwise(
        xp, cuda.contiguous(arrays.p), cuda.contiguous(xp.astype(arrays.t, plan.real(xp), copy=False)), loss=plan.kernel,
        dtype=dtype_name(arrays.p.dtype), parameters=tuple(float(settings[name]) for name in cuda.formulas()[plan.kernel]), scan=scan,
        mean=block.combine == "mean", weight=arrays.weight, divisor=plan.divisor_of(arrays), losses=losses, grad=grad, hess=hess,
    )  # fmt: skip
    return _outcome(plan, reduced, plan.divisor_of(arrays), losses, grad, hess)


@_on_its_device
def run_rowwise(plan, arrays):
    """The losses that consume the class axis, but for the softmax cross-entropies."""
    from polyloss._kernels.gpu import cuda

    xp, name = arrays.xp, plan.kernel
    y, ignore = _labels(plan, arrays) if plan.labelled else (xp.astype(arrays.t, plan.real(xp), copy=False), ())
    settings = plan.settings
    if plan.per_class:
        y, settings = times_factors(plan, xp, y), settings | {"alpha": 1.0, "label_smoothing": 0.0}
    losses, grad, hess = _outputs(plan, arrays)
    reduced = cuda.rowwise(
        xp, cuda.contiguous(arrays.p), cuda.contiguous(y), loss=name, dtype=dtype_name(arrays.p.dtype),
        parameters=tuple(float(settings[key]) for key in cuda.formulas("formulas/rowwise.h")[name]), ignore=ignore, weight=arrays.weight,
        divisor=plan.divisor_of(arrays), losses=losses, grad=grad, hess=hess,
    )  # fmt: skip
    return _outcome(plan, reduced, plan.divisor_of(arrays), losses, grad, hess)


def _labels(plan, arrays):
    """Labels of a dtype that the kernels read, and those of the ignored values that this dtype has."""
    from polyloss._kernels.gpu import cuda

    y = arrays.t if dtype_name(arrays.t.dtype) in cuda.LABEL_KINDS else arrays.xp.astype(arrays.t, arrays.xp.float32)
    return y, tuple(v for v in plan.ignore if representable(arrays.t.dtype, v))


def _outputs(plan, arrays):
    """What a kernel writes: losses, gradient, Hessian diagonal. The caller's own arrays where they lie in order."""
    from polyloss._kernels.gpu import cuda

    xp, lay, want = arrays.xp, plan.layout, plan.want

    def derivative(wanted, given):
        if wanted and given is not None and cuda.contiguous(given) is given:
            return given
        return xp.empty((lay.n, lay.c, lay.s), dtype=arrays.p.dtype, device=arrays.p.device) if wanted else None

    losses = xp.empty((lay.n, lay.s), dtype=plan.real(xp), device=arrays.p.device) if want.value and plan.reduction == "none" else None
    return losses, derivative(want.gradient, arrays.out), derivative(want.hessian, arrays.out_hessian)


def _outcome(plan, reduced, divisor, losses, grad, hess, prob=None):
    from polyloss._kernels.gpu import cuda

    looking = plan.labelled and plan.validate and not cuda.capturing(_tensors(plan))
    first_bad = int(reduced.numbers[4]) if looking else -1  # the one moment that waits for the device
    if isinstance(divisor, str):
        divisor = reduced.numbers[5]
    value = None if plan.reduction == "none" else reduced.value
    return Outcome(losses, reduced.numbers[1], divisor, grad, hess, prob, None, first_bad, value)
