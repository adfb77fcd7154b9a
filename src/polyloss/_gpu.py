"""Jobs on the GPU's kernels: what they can take, and how a job becomes their arguments. Nothing here waits for the device but the check
of labels.

`_kernels.cuda` is imported with the first job on a GPU: 8 ms that no other program pays.
"""

from functools import wraps

from polyloss import _reduce
from polyloss._formula import Outcome
from polyloss._shapes import FLOATS, dtype_name, representable

EXACT = 2**53  # whole numbers up to here are exact as doubles, in which the kernel reads floating labels


def obstacle(job):
    """Why no kernel can take the job, or None."""
    lay = job.layout
    if not _on_gpu(job):
        return f"it needs arrays on a CUDA device, and those of {job.backend.name} on {job.device} are not"
    if not job.backend.concrete(job.p):
        return "the arrays are being traced: their memory is not at hand"
    if dtype_name(job.p.dtype) not in FLOATS:
        return f"it takes floating predictions, not {dtype_name(job.p.dtype)}"
    if lay.n * lay.s == 0:
        return "there is no position to compute"
    from polyloss._kernels import cuda

    try:
        cuda.gpu(cuda.number_of(job.p))
    except (ImportError, RuntimeError) as error:
        return f"it needs CuPy to compile and launch the kernel: {error}; `pip install polyloss[cupy]`"
    return None


def _on_gpu(job):
    if job.backend.name == "torch":
        return job.device.type == "cuda"
    return job.backend.name == "cupy"


def softmax_xent_obstacle(job):
    """Why the fused softmax cross-entropy cannot take the job, or None."""
    if job.block.kernel != "softmax_xent":
        return "it is for the softmax cross-entropies from logits"
    why = obstacle(job)
    if why is not None:
        return why
    from polyloss._kernels import cuda

    if job.layout.c > cuda.MAX_CLASSES:
        return f"it takes at most {cuda.MAX_CLASSES} classes"
    return _labels_obstacle(job)


def _labels_obstacle(job):
    from polyloss._kernels import cuda

    if len(job.ignore) > cuda.MAX_IGNORES:
        return f"it takes at most {cuda.MAX_IGNORES} ignored labels"
    if job.labelled and dtype_name(job.t.dtype) in FLOATS and any(abs(v) > EXACT for v in job.ignore):
        return f"it reads floating labels up to {EXACT}"
    return None


def elementwise_obstacle(job):
    """Why the elementwise kernel cannot take the job, or None."""
    why = obstacle(job)
    if why is not None:
        return why
    from polyloss._kernels import cuda

    return None if job.block.kernel in cuda.formulas() else "it holds no formula of this loss"


def rowwise_obstacle(job):
    """Why the row-wise kernel cannot take the job, or None."""
    why = obstacle(job)
    if why is not None:
        return why
    from polyloss._kernels import cuda

    if job.block.kernel not in cuda.formulas("rowwise_formulas.h"):
        return "it holds no formula of this loss"
    if job.labelled and job.layout.c > cuda.MAX_CLASSES:
        return f"it takes at most {cuda.MAX_CLASSES} classes beside labels"
    return _labels_obstacle(job)


def note():
    """What compiles the kernels."""
    import cupy

    return f"CuPy {cupy.__version__}"


def _on_its_device(run):
    """The same with the device of the job's arrays current, whichever is for the caller: CuPy compiles, allocates and launches there."""

    @wraps(run)
    def there(job):
        from polyloss._kernels import cuda

        with cuda.gpu(cuda.number_of(job.p)).context():
            return run(job)

    return there


@_on_its_device
def run_softmax_xent(job):
    """The fused softmax cross-entropy."""
    from polyloss._kernels import cuda

    xp, lay = job.xp, job.layout
    y, ignore, divisor = job.t, (), job.divisor
    if job.labelled:
        y, ignore = _labels(job)
    else:
        y = xp.astype(y, job.dtype, copy=False)
        if divisor == "weights":
            skip = None if job.weight is None else job.weight == 0
            divisor = xp.astype(_reduce.total_weight(job, y, skip), job.dtype)
    losses, grad, hess = _outputs(job)
    prob = xp.empty((lay.n, lay.c, lay.s), dtype=job.p.dtype, device=job.device) if job.want.prob else None
    reduced = cuda.softmax_xent(
        xp, cuda.contiguous(job.p), cuda.contiguous(y), dtype=dtype_name(job.p.dtype), ignore=ignore,
        class_weight=None if job.class_weight is None else cuda.contiguous(job.class_weight), weight=job.weight,
        smoothing=job.targeting.get("label_smoothing", 0.0), poly_epsilon=job.params.get("poly_epsilon", 0.0), divisor=divisor,
        losses=losses, grad=grad, prob=prob, hess=hess,
    )  # fmt: skip
    return _outcome(job, reduced, divisor, losses, grad, hess, prob)


@_on_its_device
def run_elementwise(job):
    """The elementwise losses."""
    from polyloss._kernels import cuda

    xp, block = job.xp, job.block
    settings = {**job.params, **job.targeting}
    survey = settings.get("labels") == "auto" and "survey" not in settings
    if "labels" in settings:
        settings["zero_one"] = bool(settings["survey"]) if "survey" in settings else settings["labels"] == "01"
    losses, grad, hess = _outputs(job)
    reduced = cuda.elementwise(
        xp, cuda.contiguous(job.p), cuda.contiguous(xp.astype(job.t, job.dtype, copy=False)), loss=block.kernel,
        dtype=dtype_name(job.p.dtype), parameters=tuple(float(settings[name]) for name in cuda.formulas()[block.kernel]), survey=survey,
        mean=block.combine == "mean", weight=job.weight, divisor=job.divisor, losses=losses, grad=grad, hess=hess,
    )  # fmt: skip
    return _outcome(job, reduced, job.divisor, losses, grad, hess)


@_on_its_device
def run_rowwise(job):
    """The losses that consume the class axis, but for the softmax cross-entropies."""
    from polyloss._kernels import cuda

    xp, name = job.xp, job.block.kernel
    y, ignore = _labels(job) if job.labelled else (xp.astype(job.t, job.dtype, copy=False), ())
    settings = {**job.params, **job.targeting}
    losses, grad, hess = _outputs(job)
    reduced = cuda.rowwise(
        xp, cuda.contiguous(job.p), cuda.contiguous(y), loss=name, dtype=dtype_name(job.p.dtype),
        parameters=tuple(float(settings[key]) for key in cuda.formulas("rowwise_formulas.h")[name]), ignore=ignore, weight=job.weight,
        divisor=job.divisor, losses=losses, grad=grad, hess=hess,
    )  # fmt: skip
    return _outcome(job, reduced, job.divisor, losses, grad, hess)


def _labels(job):
    """Labels of a dtype that the kernels read, and those of the ignored values that this dtype has."""
    from polyloss._kernels import cuda

    y = job.t if dtype_name(job.t.dtype) in cuda.LABEL_KINDS else job.xp.astype(job.t, job.xp.float32)
    return y, tuple(v for v in job.ignore if representable(job.t.dtype, v))


def _outputs(job):
    """What a kernel writes: losses, gradient, Hessian diagonal. The caller's own arrays where they lie in order."""
    from polyloss._kernels import cuda

    xp, lay, want = job.xp, job.layout, job.want

    def derivative(wanted, given):
        if wanted and given is not None and cuda.contiguous(given) is given:
            return given
        return xp.empty((lay.n, lay.c, lay.s), dtype=job.gradient_dtype, device=job.device) if wanted else None

    losses = xp.empty((lay.n, lay.s), dtype=job.dtype, device=job.device) if want.value and job.reduction == "none" else None
    return losses, derivative(want.gradient, job.out[0]), derivative(want.hessian, job.out[1])


def _outcome(job, reduced, divisor, losses, grad, hess, prob=None):
    first_bad = int(reduced.numbers[4]) if job.labelled and job.validate else -1  # the one moment that waits for the device
    if isinstance(divisor, str):
        divisor = reduced.numbers[5]
    value = None if job.reduction == "none" else reduced.value
    return Outcome(losses, reduced.numbers[1], divisor, grad, hess, prob, None, first_bad, value)
