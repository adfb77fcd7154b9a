"""The modules of polyloss.torch against torch's own: every sample that torch tests its functions with, values and gradients."""

import contextlib
import re
import sys
import warnings
import weakref
from pathlib import Path

import pytest
import torch
from libraries import ran

import polyloss as pl
import polyloss.torch as ours

MODULES = {
    "cross_entropy": "CrossEntropyLoss",
    "nll_loss": "NLLLoss",
    "binary_cross_entropy": "BCELoss",
    "binary_cross_entropy_with_logits": "BCEWithLogitsLoss",
    "mse_loss": "MSELoss",
    "l1_loss": "L1Loss",
    "smooth_l1_loss": "SmoothL1Loss",
    "huber_loss": "HuberLoss",
    "kl_div": "KLDivLoss",
    "cosine_embedding_loss": "CosineEmbeddingLoss",
    "soft_margin_loss": "SoftMarginLoss",
    "multilabel_soft_margin_loss": "MultiLabelSoftMarginLoss",
    "poisson_nll_loss": "PoissonNLLLoss",
    "hinge_embedding_loss": "HingeEmbeddingLoss",
    "multi_margin_loss": "MultiMarginLoss",
    "gaussian_nll_loss": "GaussianNLLLoss",
}
TRACED = [name for name in MODULES.values() if name != "GaussianNLLLoss"]  # torch looks at the numbers of its variances
LABELLED = ("CrossEntropyLoss", "NLLLoss", "MultiMarginLoss")
OWN = ("SoftmaxLoss", "LinearCrossEntropyLoss", "softmax_loss", "linear_softmax_loss")  # with tests of their own elsewhere, too
REAL_CALL = ours.Call
PROC = Path("/proc/self/status")
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def opinfo(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_methods_invocations import op_db
    return next(op for op in op_db if op.name == f"nn.functional.{name}")


def module(namespace, name, kwargs):
    return getattr(namespace, MODULES[name])(**kwargs)


OLD = torch.__version__ < (2, 13)  # whose own modules do less


def outcome(module, arguments):
    """Value and gradients of every argument that needs one, or the error's type."""
    arguments = [x.detach().clone().requires_grad_(x.requires_grad) if isinstance(x, torch.Tensor) else x for x in arguments]
    needing = [x for x in arguments if isinstance(x, torch.Tensor) and x.requires_grad]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loss = module(*arguments)
            upstream = torch.linspace(0.5, 1.5, loss.numel()).reshape(loss.shape).to(loss.dtype)
            gradients = torch.autograd.grad(loss, needing, upstream, allow_unused=True) if needing else ()
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        return error
    return loss, gradients


def same(found, wanted, truth=None):
    """The numbers of torch; or nearer to those of its double precision, where these are given, but for one unit of 16 bits, or four of
    float32, since terms of either sign are summed in another order."""
    if isinstance(wanted, Exception):
        if OLD and isinstance(wanted, NotImplementedError):  # float16's slope of smooth_l1
            return
        assert isinstance(found, Exception), f"torch raises {wanted!r}, and this gives {found!r}"
        return
    assert not isinstance(found, Exception), found
    if truth is None:
        torch.testing.assert_close(found, wanted, equal_nan=True)
        return
    for x, y, z in zip(flat(found), flat(wanted), flat(truth), strict=True):
        assert x.dtype == y.dtype
        assert x.shape == y.shape
        error, allowed = torch.nan_to_num((x - z).abs()), torch.nan_to_num((y - z).abs())
        near = error <= allowed.max() + (4 if x.dtype is torch.float32 else 1) * torch.finfo(x.dtype).eps * z.abs()
        assert (near | (x.isnan() & z.isnan())).all()


def flat(outcome):
    loss, gradients = outcome
    return [loss, *(g for g in gradients if g is not None)]


def widened(x):
    return x.detach().double().requires_grad_(x.requires_grad) if isinstance(x, torch.Tensor) and x.is_floating_point() else x


@pytest.fixture(autouse=True)
def of_any_size(monkeypatch):
    """Small inputs too: torch's samples are."""
    monkeypatch.setattr(ours, "SMALL", 0)


@pytest.mark.parametrize(
    ("name", "dtype"), [(name, dtype) for name in MODULES for dtype in DTYPES if dtype in opinfo(name).supported_dtypes("cpu")]
)
def test_samples_of_torch(name, dtype):
    op = opinfo(name)
    count = 0
    for sample in op.sample_inputs("cpu", dtype, requires_grad=True):
        kwargs = dict(sample.kwargs)
        forward, truth = [sample.input, *sample.args], None
        if dtype in (torch.float16, torch.bfloat16):
            wide = {key: widened(x) for key, x in kwargs.items()}
            truth = outcome(module(torch.nn, name, wide), [widened(x) for x in forward])
        same(outcome(module(ours, name, kwargs), forward), outcome(module(torch.nn, name, kwargs), forward), truth)
        count += 1
    assert count >= 4


@pytest.mark.parametrize("name", MODULES)
def test_errors_of_torch(name):
    op = opinfo(name)
    for sample in op.error_inputs("cpu") if op.error_inputs_func else ():
        kwargs, arguments = dict(sample.sample_input.kwargs), [sample.sample_input.input, *sample.sample_input.args]
        error, theirs = (
            outcome(lambda *x, space=space, kwargs=kwargs: module(space, name, kwargs)(*x), arguments) for space in (ours, torch.nn)
        )
        with pytest.raises(sample.error_type):
            raise error
        assert re.search(sample.error_regex, str(error)) or str(error) == str(theirs)  # modules refuse some options in other words


@pytest.mark.parametrize("name", MODULES.values())
def test_constructors_are_torchs(name):
    import inspect

    assert inspect.signature(getattr(ours, name)) == inspect.signature(getattr(torch.nn, name))
    assert issubclass(getattr(ours, name), getattr(torch.nn, name))
    assert getattr(ours, name)().state_dict() == getattr(torch.nn, name)().state_dict()


def test_everything_is_exported():
    assert {*MODULES.values(), *OWN} == set(ours.__all__)
    assert dir(ours) == sorted(ours.__all__)


def test_modules_of_decisions_take_the_kernels(monkeypatch):
    """Not torch's own code: one kernel each."""
    runs = ran(monkeypatch)
    x, signs = torch.randn(4, 5), torch.randint(0, 2, (4, 5)) * 2.0 - 1
    for module, target in ((ours.SoftMarginLoss(), signs), (ours.MultiLabelSoftMarginLoss(), (signs + 1) / 2),
                           (ours.PoissonNLLLoss(full=True), signs.abs() * 3), (ours.HingeEmbeddingLoss(margin=0.5), signs)):  # fmt: skip
        theirs = getattr(torch.nn, type(module).__name__)
        theirs = theirs(**{key: getattr(module, key) for key in ("full", "margin") if hasattr(module, key)})
        torch.testing.assert_close(module(x, target), theirs(x, target))
    assert [plan.block.kernel for plan, *_ in runs] == [
        "logistic", "binary_crossentropy_from_logits", "poisson_from_logarithms", "hinge_embedding"]  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"weight": True}, {"p": 2, "margin": 0.25}, {"reduction": "none", "weight": True}], ids=str)
def test_multi_margin_runs_on_the_kernel(monkeypatch, options):
    """A negative weight too; a bad label is named whether its weight would be looked up or not."""
    options = {**options, "weight": torch.tensor([0.5, 2.0, 0.0, -1.0])} if "weight" in options else options
    module, theirs = ours.MultiMarginLoss(**options), torch.nn.MultiMarginLoss(**options)
    arguments = torch.randn(6, 4, requires_grad=True), torch.tensor([0, 1, 2, 3, 0, 1])
    same(outcome(module, arguments), outcome(theirs, arguments))
    assert taken(monkeypatch, module, *arguments) == ["rowwise kernel"] * (2 if module.reduction == "none" else 1)
    for bad in (4, -1):
        with pytest.raises(ValueError, match=rf"y_true\[1\] is {bad}, but y_pred has 4 classes"):
            module(arguments[0], torch.tensor([0, bad, 2, 3, 0, 1]))


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_multi_margin_of_nan_is_torchs_whatever_the_size(reduction):
    """To torch a decision that is NaN exceeds no margin: neither loss nor gradient is NaN."""
    for shape in ((4, 5), (128, 128)):
        for place in ((0, 2), (1, 0)):  # of a wrong class, and of the label's
            x, y = torch.randn(shape), torch.zeros(shape[0], dtype=torch.int64)
            x[place] = float("nan")
            results = []
            for module in (ours.MultiMarginLoss(reduction=reduction), torch.nn.MultiMarginLoss(reduction=reduction)):
                z = x.clone().requires_grad_()
                loss = module(z, y)
                loss.sum().backward()
                results.append((loss.detach(), z.grad))
            for found, right in zip(*results, strict=True):
                assert not right.isnan().any()
                torch.testing.assert_close(found, right)


def test_a_single_weight_of_positives_takes_one_kernel(monkeypatch):
    """Small and large, where a weight for each class makes another target of it."""
    runs = ran(monkeypatch)
    for n in (4, 2000):
        x, t = torch.randn(n, 10, requires_grad=True), torch.rand(n, 10)
        weight = torch.tensor([3.0])
        torch.testing.assert_close(ours.BCEWithLogitsLoss(pos_weight=weight)(x, t), torch.nn.BCEWithLogitsLoss(pos_weight=weight)(x, t))
    assert [plan.block.kernel for plan, *_ in runs] == ["weighted_binary_crossentropy_from_logits"] * 2


def test_softmax_loss_takes_a_denominator():
    """That of a batch cut into parts: their losses add up to the whole's."""
    logits, labels = torch.randn(6, 4), torch.randint(0, 4, (6,))
    module = ours.SoftmaxLoss()
    for denominator in (6, torch.tensor(6.0)):
        parts = [module(logits[part], labels[part], denominator=denominator) for part in (slice(0, 2), slice(2, 6))]
        torch.testing.assert_close(sum(parts), module(logits, labels))


LABELS = torch.tensor([[0, 4, -100], [2, -100, 1]])
CASES = [
    dict(), dict(ignore_index=2), dict(label_smoothing=0.2), dict(reduction="sum"), dict(reduction="none"),
    dict(weight=torch.tensor([1.0, 2.0, 0.5, 3.0, 0.0])), dict(weight=torch.tensor([1.0, 2.0, 0.5, 3.0, 0.1]), label_smoothing=0.3),
]  # fmt: skip


class TestCrossEntropy:
    @pytest.mark.parametrize("options", CASES, ids=lambda options: "-".join(options) or "default")
    def test_options(self, options):
        torch.manual_seed(0)
        logits = torch.randn(2, 5, 3, requires_grad=True)
        arguments = logits, LABELS.clamp(min=0) if "ignore_index" in options else LABELS
        same(outcome(ours.CrossEntropyLoss(**options), arguments), outcome(torch.nn.CrossEntropyLoss(**options), arguments))

    @pytest.mark.parametrize("options", [case for case in CASES if "ignore_index" not in case], ids=lambda o: "-".join(o) or "default")
    def test_soft_targets(self, options):
        torch.manual_seed(0)
        logits, targets = torch.randn(2, 5, 3, requires_grad=True), torch.rand(2, 5, 3).softmax(1)
        for needed in (False, True):
            arguments = logits, targets.requires_grad_(needed)
            theirs = outcome(torch.nn.CrossEntropyLoss(**options), arguments)
            same(outcome(ours.CrossEntropyLoss(**options), arguments), theirs)

    @pytest.mark.parametrize("options", CASES, ids=lambda options: "-".join(options) or "default")
    def test_everything_ignored(self, options):
        arguments = torch.randn(2, 5, 3, requires_grad=True), torch.full((2, 3), 2 if "ignore_index" in options else -100)
        same(outcome(ours.CrossEntropyLoss(**options), arguments), outcome(torch.nn.CrossEntropyLoss(**options), arguments))

    def test_weights_that_leave_nothing_to_divide_by(self):
        """Of some or all labels 0, or with a sum of 0: the values and slopes of torch, 0 of labels that are ignored."""
        torch.manual_seed(0)
        logits, linear = torch.randn(4, 3, requires_grad=True), torch.randn(3, 3)
        for weight in ([0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [1.0, -1.0, 0.0]):
            for labels in ([0, 1, 0, 1], [0, -100, 1, -100], [-100, -100, -100, -100]):
                for smoothing in (0.0, 0.1, 1.0):
                    options = dict(weight=torch.tensor(weight), label_smoothing=smoothing)
                    modules = [space.CrossEntropyLoss(**options) for space in (ours, torch.nn)]
                    same(*(outcome(module, (logits, torch.tensor(labels))) for module in modules))
                    if hasattr(torch.nn, "LinearCrossEntropyLoss"):
                        modules = [space.LinearCrossEntropyLoss(3, 3, **options) for space in (ours, torch.nn)]
                        for module in modules:
                            module.linear.weight.data.copy_(linear)
                        same(*(outcome(module, (logits, torch.tensor(labels))) for module in modules))

    @pytest.mark.parametrize("module", ["CrossEntropyLoss", "LinearCrossEntropyLoss"])
    def test_nothing_to_divide_by_where_numbers_are_not_at_hand(self, module):
        """In a batch that is mapped over: NaN, of which the slope is 0."""
        if not hasattr(torch.nn, module):
            pytest.skip("torch 2.13 has it first")
        logits = torch.randn(4, 3)
        labels = torch.tensor([[0, 1, 0, 1], [-100] * 4, [2, 1, 0, 0]])
        loss = getattr(ours, module)(*(3, 3) if "Linear" in module else (), weight=torch.tensor([0.0, 0.0, 1.0]))
        slopes, losses = torch.func.vmap(torch.func.grad_and_value(loss), (None, 0))(logits, labels)
        assert losses.isnan().tolist() == [True, True, False]
        assert (slopes[:2] == 0).all()
        assert slopes[2].isfinite().all()
        assert (slopes[2] != 0).any()

    def test_a_loss_of_zero_is_not_mistaken_for_nothing(self):
        logits = torch.tensor([[0.0, -200.0]])
        assert ours.CrossEntropyLoss()(logits, torch.tensor([0])) == 0

    def test_bad_label_is_named(self):
        with pytest.raises(ValueError, match=r"y_true\[1\] is 7, but logits have 5 classes on axis 1 and ignore_label is -100"):
            ours.CrossEntropyLoss()(torch.zeros(2, 5), torch.tensor([0, 7]))

    def test_autocast_and_low_precision(self):
        logits, labels = torch.randn(8, 5, dtype=torch.bfloat16), torch.randint(0, 5, (8,))
        assert ours.CrossEntropyLoss()(logits, labels).dtype is torch.bfloat16
        with torch.autocast("cpu", torch.bfloat16):
            assert ours.CrossEntropyLoss()(logits, labels).dtype is torch.nn.CrossEntropyLoss()(logits, labels).dtype


@pytest.mark.filterwarnings("ignore:reduction. .mean. divides:UserWarning")
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`:UserWarning")
@pytest.mark.parametrize(
    "name", ["CrossEntropyLoss", "BCEWithLogitsLoss", "MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss", "KLDivLoss", "BCELoss", "NLLLoss",
             "CosineEmbeddingLoss", "SoftmaxLoss", "MultiMarginLoss"]
)  # fmt: skip
def test_compiled_without_a_break(name):
    torch._dynamo.reset()
    module, theirs = getattr(ours, name)(), getattr(torch.nn, name, torch.nn.CrossEntropyLoss)()
    torch.manual_seed(0)
    input = torch.rand(6, 4, requires_grad=True)
    target = [torch.randint(0, 4, (6,)) if name in (*LABELLED, "SoftmaxLoss") else torch.rand(6, 4)]
    if name == "CosineEmbeddingLoss":
        target.append(torch.tensor([1, -1, 1, 1, -1, 1]))
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    found, wanted = (torch.autograd.grad(m(input, *target), input)[0] for m in (compiled, theirs))
    torch.testing.assert_close(found, wanted)


def taken(monkeypatch, module, *arguments):
    """Names of the routes that a module's forward and backward pass take."""
    runs = ran(monkeypatch)
    module(*arguments).sum().backward()
    return [plan.route for plan, _ in runs]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize(
    ("name", "options"),
    [(name, {}) for name in ("BCELoss", "BCEWithLogitsLoss", "MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss", "KLDivLoss")]
    + [("KLDivLoss", dict(log_target=True)), ("BCELoss", dict(weight=torch.rand(5)))]
    + [("BCEWithLogitsLoss", dict(pos_weight=torch.rand(5)))],
)
def test_elementwise_modules_run_on_the_kernel(monkeypatch, name, options, reduction, dtype):
    options = {key: x.to(dtype) if isinstance(x, torch.Tensor) else x for key, x in options.items()}
    input, target = torch.rand(6, 5, dtype=dtype, requires_grad=True), torch.rand(6, 5, dtype=dtype)
    passes = 2 if reduction == "none" else 1  # a scalar loss comes with its gradient
    assert taken(monkeypatch, getattr(ours, name)(reduction=reduction, **options), input, target) == ["elementwise kernel"] * passes


@pytest.mark.parametrize("soft", [False, True])
def test_cross_entropy_runs_on_the_kernel(monkeypatch, soft):
    input = torch.rand(6, 5, 3, requires_grad=True)
    target = torch.rand(6, 5, 3) if soft else torch.randint(0, 5, (6, 3))
    assert taken(monkeypatch, ours.CrossEntropyLoss(), input, target) == ["softmax_xent kernel"]


# Modules whose calls are looked up, with options.
LOOKED_UP = [
    ("CrossEntropyLoss", {}), ("CrossEntropyLoss", dict(weight=torch.tensor([1.0, 2, 0, 3]))), ("CrossEntropyLoss", dict(ignore_index=1)),
    ("CrossEntropyLoss", dict(label_smoothing=0.1)), ("CrossEntropyLoss", dict(reduction="none")), ("MultiMarginLoss", {}),
    ("MultiMarginLoss", dict(p=2, margin=0.5, weight=torch.tensor([1.0, 2, 0.5, 3]))), ("BCEWithLogitsLoss", {}),
    ("BCEWithLogitsLoss", dict(pos_weight=torch.tensor([3.0]))),
    ("BCEWithLogitsLoss", dict(weight=torch.linspace(0.5, 2, 24).reshape(6, 4))), ("BCELoss", {}), ("BCELoss", dict(reduction="none")),
    ("BCELoss", dict(weight=torch.tensor([1.0, 2, 0, 3]))), ("MSELoss", {}), ("MSELoss", dict(reduction="none")), ("L1Loss", {}),
    ("HuberLoss", dict(delta=0.3)), ("SmoothL1Loss", dict(beta=0.3)), ("KLDivLoss", dict(reduction="batchmean")),
    ("KLDivLoss", dict(log_target=True, reduction="sum")), ("SoftMarginLoss", {}), ("MultiLabelSoftMarginLoss", {}),
    ("PoissonNLLLoss", dict(full=True)), ("HingeEmbeddingLoss", dict(margin=0.5)),
]  # fmt: skip


def batches(name, dtype=torch.float32):
    """Five batches of one shape."""
    g = torch.Generator().manual_seed(0)
    for _ in range(5):
        input = torch.rand(6, 4, generator=g, dtype=torch.float32).mul_(0.98).add_(0.01).to(dtype)
        yield input, torch.randint(0, 4, (6,), generator=g) if name in LABELLED else torch.rand(6, 4, generator=g).to(dtype)


@pytest.mark.parametrize(("name", "options"), LOOKED_UP, ids=str)
def test_a_call_that_is_known_gives_torchs_numbers(name, options):
    """Batch after batch of one shape: with a gradient and without one, under autocast, and after an option has changed."""
    for dtype in (torch.float32, torch.float64) if name == "MultiMarginLoss" else DTYPES:
        own = {key: x.to(dtype) if isinstance(x, torch.Tensor) else x for key, x in options.items()}
        mine, theirs = getattr(ours, name)(**own), getattr(torch.nn, name)(**own)
        for followed, autocast in ((True, False), (False, False), (True, True)):
            for input, target in batches(name, dtype):
                arguments = [input.requires_grad_(followed), target]
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    same(outcome(mine, arguments), outcome(theirs, arguments), widths(outcome(theirs, [*map(widened, arguments)]), dtype))
        for module in (mine, theirs):
            module.reduction = "sum" if options.get("reduction") != "sum" else "mean"
        for arguments in batches(name, dtype):
            same(outcome(mine, arguments), outcome(theirs, arguments), widths(outcome(theirs, [*map(widened, arguments)]), dtype))


@pytest.mark.filterwarnings("ignore:reduction. .mean. divides:UserWarning")
def test_autocast_gives_torchs_dtypes():
    """Of the losses that it computes in float32 and of those that torch composes, in either 16-bit type, of inputs of the other too."""
    for name in MODULES.values():
        mine, theirs = getattr(ours, name)(), getattr(torch.nn, name)()
        for dtype in DTYPES:
            input, *target = (x.to(dtype) if x.is_floating_point() else x for x in arguments_of(name))
            target += [torch.rand(6, 4).add_(0.5).to(dtype)] if "Gaussian" in name else []
            arguments = [input.requires_grad_(), *target]
            for kind in (torch.bfloat16, torch.float16):
                with torch.autocast("cpu", kind):
                    wanted = outcome(theirs, arguments)
                    same(outcome(mine, arguments), wanted, widths(outcome(theirs, [*map(widened, arguments)]), dtype))


def widths(truth, dtype):
    """The truth, for types of 16 bits alone; an error is no truth: torch has losses that take one dtype at a time."""
    return None if dtype in (torch.float32, torch.float64) or isinstance(truth, Exception) else truth


@pytest.mark.parametrize(("name", "options"), LOOKED_UP, ids=str)
def test_steps_take_a_kernel_that_is_kept(monkeypatch, name, options):
    """From the second call on nothing is decided; what is decided by numbers, or for each batch, always is."""
    module, made = getattr(ours, name)(**options), []
    monkeypatch.setattr(ours, "Call", lambda *arguments, **more: made.append(arguments) or REAL_CALL(*arguments, **more))
    for input, target in batches(name):
        module(input.requires_grad_(), target).sum().backward()
    by_numbers = "weight" in options and name in ("BCELoss", "MultiMarginLoss")
    through_sums = options.get("reduction") == "none"  # a loss without one pass has no kernel to keep, for autograd
    assert len(made) == (5 if by_numbers or through_sums else 1)


@pytest.mark.parametrize("name", ["CrossEntropyLoss", "BCELoss", "MultiMarginLoss"])
def test_what_is_no_number_is_torchs_in_a_call_that_is_known_too(name):
    """A mean over nothing, a probability that is none, NaN."""
    module, theirs = getattr(ours, name)(), getattr(torch.nn, name)()
    for input, target in batches(name):
        module(input.requires_grad_(), target).backward()
    with torch.no_grad():
        if name == "CrossEntropyLoss":
            target[:] = -100
        else:
            input[2, 1] = torch.nan if name == "MultiMarginLoss" else 1.5
    same(outcome(module, [input, target]), outcome(theirs, [input, target]))
    perfect = torch.full((6, 4), -200.0).index_put_((torch.arange(6), torch.zeros(6, dtype=torch.long)), torch.tensor(200.0))
    if name == "CrossEntropyLoss":  # a loss of 0 that is one
        assert module(perfect, torch.zeros(6, dtype=torch.long)) == 0


@pytest.mark.parametrize("small", [0, 1 << 14], ids=["as of large inputs", "as of small inputs"])
def test_slopes_of_nan_are_torchs(monkeypatch, small):
    """But for L1Loss, whose loss of NaN has a slope that is, as every loss here."""
    monkeypatch.setattr(ours, "SMALL", small)
    for name in sorted({*TRACED} - {*LABELLED}):
        for changed, at in ((0, (0, 1)), (0, (3, 2)), (1, (0, 1)), (1, (3, 2))):
            arguments = [*arguments_of(name)]
            if name in ("SoftMarginLoss", "HingeEmbeddingLoss"):
                arguments[1] = arguments[1].round() * 2 - 1
            arguments[changed][at] = torch.nan
            arguments[0].requires_grad_()
            for reduction in ("mean", "none"):
                with monkeypatch.context() as patched:
                    runs = ran(patched)
                    found = outcome(getattr(ours, name)(reduction=reduction), arguments)
                wanted = outcome(getattr(torch.nn, name)(reduction=reduction), arguments)
                assert runs or name == "BCELoss" or (small and name == "CosineEmbeddingLoss")  # else torch's own, in no kernel
                if name == "L1Loss":
                    assert found[1][0][at].isnan()
                    wanted[1][0][at] = torch.nan
                same(found, wanted)


def test_a_label_that_is_none_is_named_in_a_call_that_is_known_too():
    module = ours.CrossEntropyLoss()
    for input, target in batches("CrossEntropyLoss"):
        module(input.requires_grad_(), target).backward()
    target[3] = 7
    with pytest.raises(ValueError, match=r"7"):
        module(input, target)


def test_weights_are_read_anew():
    """They may change in place, and lie elsewhere."""
    module, theirs = ours.CrossEntropyLoss(weight=torch.ones(4)), torch.nn.CrossEntropyLoss(weight=torch.ones(4))
    for k, (input, target) in enumerate(batches("CrossEntropyLoss")):
        for x in (module, theirs):
            if k % 2:
                x.weight[k % 4] = 5.0
            else:
                x.weight = torch.linspace(0.5, 1.5 + k, 4)
        same(outcome(module, [input.requires_grad_(), target]), outcome(theirs, [input, target]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_results_are_tensors_like_any_other(dtype):
    """Contiguous, aligned and writable, whatever takes their memory next."""
    t, p = torch.rand(64, 1024).to(dtype), torch.rand(64, 1024).to(dtype)
    real = torch.promote_types(dtype, torch.float32)
    both = pl.value_and_grad(pl.mean_squared_error)
    both(t, p)
    value, gradient = both(t, p)  # of a call that is known
    assert (value.dtype, gradient.dtype, value.shape, gradient.shape) == (real, dtype, (64,), p.shape)
    for x in (value, gradient, pl.mean_squared_error(t, p, reduction="sum")):
        assert x.is_contiguous()
        # Such means over rows are written to NumPy's memory, and so is everything where torch does not say in C where a tensor lies.
        assert x.data_ptr() % 64 == 0 or dtype.itemsize == 2 or not hasattr(torch.Tensor, "__dlpack_c_exchange_api__")
        assert x.storage_offset() == 0
        assert not x.requires_grad
        assert x.untyped_storage().nbytes() == x.numel() * x.itemsize
        torch.testing.assert_close(x.clone().add_(1), x + 1)
    view, wanted = gradient.t()[3], (p - t).t()[3] * 2 / 1024
    del gradient
    both(t, 1 - p)
    torch.testing.assert_close(view, wanted.to(dtype))


@pytest.mark.skipif(not PROC.exists(), reason="the system does not tell what memory a process has")
@pytest.mark.parametrize("dtype", DTYPES)
def test_memory_goes_with_the_results(dtype):
    t, p = torch.rand(64, 1024).to(dtype), torch.rand(64, 1024).to(dtype)
    both = pl.value_and_grad(pl.mean_squared_error)
    both(t, p)
    before = resident()
    for _ in range(400):  # 50 to 200 MB in all
        both(t, p)
    assert resident() - before < 30_000


@pytest.mark.filterwarnings("ignore:Using a target size:UserWarning")  # torch's, of what it refuses then
@pytest.mark.filterwarnings("ignore:reduction. .mean. divides:UserWarning")
def test_steps_hold_nothing():
    """Neither the inputs, after a call that was refused or a graph that was dropped, nor the results, once nobody holds them."""
    for name in TRACED:
        module = getattr(ours, name)()
        arguments = [*arguments_of(name)]
        arguments[0].requires_grad_()
        refused = [arguments[0], arguments[1] + 100 if name in LABELLED else arguments[1][:, :3], *arguments[2:]]
        counts = []
        for _ in range(3):
            alive = []
            for _ in range(4):
                loss = module(*arguments)
                (gradient,) = torch.autograd.grad(loss, arguments[0])
                alive += [weakref.ref(loss), weakref.ref(gradient)]
                alive.append(weakref.ref(module(*arguments)))
                with torch.no_grad():
                    alive.append(weakref.ref(module(*arguments)))
                with contextlib.suppress(RuntimeError, ValueError, IndexError):
                    module(*refused)
            del loss, gradient
            assert not any(x() is not None for x in alive), name
            counts.append([sys.getrefcount(x) for x in (module, *arguments, *refused)])
        assert counts[1] == counts[2], name


def resident():
    """Kilobytes of memory that this process has, as the system tells in /proc."""
    return int(re.search(r"VmRSS:\s+(\d+)", PROC.read_text())[1])


class TestNLL:
    """The gradient of large inputs is ours."""

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_samples_of_torch(self, dtype):
        count = 0
        for sample in opinfo("nll_loss").sample_inputs("cpu", dtype, requires_grad=True):
            arguments = sample.input, *sample.args
            wide = {key: widened(x) for key, x in sample.kwargs.items()}
            truth = outcome(torch.nn.NLLLoss(**wide), [widened(x) for x in arguments])
            same(outcome(ours.NLLLoss(**sample.kwargs), arguments), outcome(torch.nn.NLLLoss(**sample.kwargs), arguments), truth)
            count += 1
        assert count > 4

    @pytest.mark.parametrize("weight", [None, torch.tensor([0.5, 2.0, 1.0])])
    @pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
    def test_our_own_gradient(self, weight, reduction):
        p, y = torch.rand(4, 3, 2, requires_grad=True), torch.tensor([[0, 1], [2, -100], [-100, 0], [1, 1]])
        for target in (y, torch.full_like(y, -100)):
            loss = ours.NLLLoss(weight, reduction=reduction)(p, target)
            assert type(loss.grad_fn).__name__ == "PickedBackward"
            theirs = torch.nn.NLLLoss(weight, reduction=reduction)
            same(outcome(ours.NLLLoss(weight, reduction=reduction), (p, target)), outcome(theirs, (p, target)))

    @pytest.mark.parametrize("small", [0, 1 << 14])
    def test_images_whose_channels_lie_last(self, monkeypatch, small):
        """Of which torch's own backward pass raises an internal error."""
        monkeypatch.setattr(ours, "SMALL", small)
        p, y = torch.randn(2, 3, 4, 5).log_softmax(1), torch.randint(0, 3, (2, 4, 5))
        last = p.to(memory_format=torch.channels_last)
        same(outcome(ours.NLLLoss(), [last.requires_grad_(), y]), outcome(torch.nn.NLLLoss(), [p.requires_grad_(), y]))

    def test_second_derivatives(self):
        p = torch.rand(4, 3, dtype=torch.float64, requires_grad=True)
        y = torch.tensor([0, 2, 1, 0])
        assert torch.autograd.gradgradcheck(lambda p: ours.NLLLoss()(p.log(), y), p)

    @pytest.mark.parametrize("weight", [None, torch.tensor([0.5, 2.0, 1.0])])
    def test_labels_of_a_byte(self, weight):
        """As many as classes, so that they could be a mask of these."""
        arguments = torch.rand(3, 3, requires_grad=True), torch.tensor([2, 0, 1], dtype=torch.uint8)
        same(outcome(ours.NLLLoss(weight), arguments), outcome(torch.nn.NLLLoss(weight), arguments))

    def test_weight_that_needs_a_gradient(self):
        loss = ours.NLLLoss(torch.ones(3, requires_grad=True))
        with pytest.raises(RuntimeError, match="not differentiable with respect to argument 'weight'"):
            loss(torch.rand(4, 3, requires_grad=True), torch.tensor([0, 2, 1, 0]))

    @pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
    def test_batches_of_upstreams(self, reduction):
        p = torch.rand(4, 3, dtype=torch.float64, requires_grad=True)
        y = torch.tensor([0, 2, -100, 0])
        assert torch.autograd.gradcheck(lambda p: ours.NLLLoss(reduction=reduction)(p, y), p, check_batched_grad=True)

    def test_bad_labels_are_torchs_errors(self):
        with pytest.raises(IndexError):
            ours.NLLLoss()(torch.rand(4, 3, requires_grad=True), torch.tensor([0, 3, 1, 0]))


def arguments_of(name, n=6):
    """An input that the module of that name allows, and its targets."""
    input = torch.rand(n, 4)
    if name in LABELLED:
        return input, torch.randint(0, 4, (n,))
    return (input, torch.rand(n, 4), torch.randint(0, 2, (n,)) * 2 - 1) if "Cosine" in name else (input, torch.rand(n, 4))


@pytest.mark.filterwarnings("ignore:reduction. .mean. divides:UserWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", TRACED)
def test_meta(name, dtype):
    arguments = [x.to("meta", dtype) if x.is_floating_point() else x.to("meta") for x in arguments_of(name)]
    arguments[0].requires_grad_()
    for reduction in ("none", "sum", "mean"):
        found, wanted = (getattr(m, name)(reduction=reduction)(*arguments) for m in (ours, torch.nn))
        assert (found.shape, found.dtype, found.device) == (wanted.shape, wanted.dtype, wanted.device)
        found.sum().backward()


@pytest.mark.filterwarnings("ignore:An output with one or more elements was resized:UserWarning")  # as torch's own
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.filterwarnings("ignore:reduction. .mean. divides:UserWarning")
@pytest.mark.parametrize("name", TRACED)
def test_vmap_of_targets(name):
    """With an input of their own autograd graph, outside of what is mapped."""
    input, *target = arguments_of(name)
    batch = [torch.stack([x, x.flip(0)]) for x in target]

    def mapped(module):
        z = input.detach().requires_grad_()
        losses = torch.func.vmap(lambda *t: module(z, *t))(*batch)
        return losses, torch.autograd.grad(losses.sum(), z)[0]

    for options in ({}, {"weight": torch.tensor([0.5])}) if name in ("BCELoss", "BCEWithLogitsLoss") else ({},):
        torch.testing.assert_close(mapped(getattr(ours, name)(**options)), mapped(getattr(torch.nn, name)(**options)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # of torch's own modules, whose checks of shapes are not recorded
@pytest.mark.filterwarnings("ignore:reduction. .mean. divides:UserWarning")
@pytest.mark.parametrize("name", TRACED)
def test_recorded(name):
    """What is recorded on one input is right for others."""
    from torch.fx.experimental.proxy_tensor import make_fx

    calling = Calling(getattr(ours, name)())
    here, there = arguments_of(name), arguments_of(name)
    wanted = getattr(torch.nn, name)()(*there)
    torch.testing.assert_close(torch.jit.trace(calling, here)(*there), wanted)
    torch.testing.assert_close(make_fx(calling)(*here)(*there), wanted)
    more = arguments_of(name, 9)
    sized = make_fx(calling, tracing_mode="symbolic")(*here)
    torch.testing.assert_close(sized(*more), getattr(torch.nn, name)()(*more))
    lengths = tuple({0: torch.export.Dim("n", min=2)} for _ in here)
    exported = torch.export.export(calling, here, dynamic_shapes=(lengths,), strict=False).module()
    torch.testing.assert_close(exported(*more), getattr(torch.nn, name)()(*more))


@pytest.mark.parametrize("name", TRACED)
def test_traced_by_symbols(name):
    """`torch.fx` runs a module on what is no tensor at all."""
    given = arguments_of(name)
    traced = torch.fx.symbolic_trace(getattr(ours, name)(reduction="sum"))
    torch.testing.assert_close(traced(*given), getattr(torch.nn, name)(reduction="sum")(*given))


class Calling(torch.nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *arguments):
        return self.module(*arguments)


@pytest.mark.filterwarnings("ignore:reduction. .mean. divides:UserWarning")
@pytest.mark.parametrize("name", TRACED)
def test_tensors_with_operations_of_their_own(name):
    """As distributed ones: what torch's module makes of them."""
    from torch.testing._internal.two_tensor import TwoTensor

    input, *target = arguments_of(name)
    found, wanted = (getattr(m, name)()(TwoTensor(input, input / 2), *target) for m in (ours, torch.nn))
    assert type(found) is TwoTensor
    torch.testing.assert_close((found.a, found.b), (wanted.a, wanted.b))


class Seen(torch.Tensor):
    """A plain subclass, which torch's functions give back."""


class Silent(torch.Tensor):
    """One that they don't ask, like parameters."""

    __torch_function__ = torch._C._disabled_torch_function_impl


@pytest.mark.filterwarnings("ignore:reduction. .mean. divides:UserWarning")
@pytest.mark.parametrize("name", TRACED)
def test_subclasses_of_tensors_see_what_torchs_modules_show_them(name):
    input, *targets = arguments_of(name)
    for kind in (Seen, Silent):
        for arguments in ((input.as_subclass(kind), *targets), (input, targets[0].as_subclass(kind), *targets[1:])):
            for _ in range(2):
                found, wanted = (getattr(m, name)()(*arguments) for m in (ours, torch.nn))
                assert type(found) is type(wanted)
                torch.testing.assert_close(found.as_subclass(torch.Tensor), wanted.as_subclass(torch.Tensor))


@pytest.mark.parametrize("name", sorted({*ours.__all__} - {*OWN[1:]}))
def test_modules_are_copied_and_pickled(name):
    import copy
    import pickle

    weighted = {"class_weight": torch.rand(4)} if name == "SoftmaxLoss" else {"weight": torch.rand(4)}
    loss = getattr(ours, name)(**weighted if name in ("SoftmaxLoss", *LABELLED, "BCELoss") else {})
    labelled = name in (*LABELLED, "SoftmaxLoss")
    more = [torch.ones(6)] if "Cosine" in name else [torch.rand(6, 4)] if "Gaussian" in name else []
    target = [torch.randint(0, 4, (6,)) if labelled else torch.rand(6, 4), *more]
    input = torch.rand(6, 4, requires_grad=True)
    wanted = loss(input, *target)
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        torch.testing.assert_close(twin(input, *target), wanted)
        assert repr(twin) == repr(loss)


class TestCosineEmbedding:
    def pairs(self, dtype, size=1.0):
        g = torch.Generator().manual_seed(0)
        a, b = (size * torch.randn(8, 5, generator=g, dtype=torch.float64) for _ in range(2))
        b[2], b[3], a[4], b[5], a[6] = a[2], -a[3], 0, 0, 2 * b[6]
        return a.to(dtype).requires_grad_(), b.to(dtype).requires_grad_(), torch.tensor([1, -1, -1, -1, 1, -1, 1, 3])

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("size", [1e-9, 1e-6, 1e-3, 1.0, 1e4])
    @pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
    @pytest.mark.parametrize("margin", [0.0, 0.25, -0.5])
    def test_numbers(self, margin, reduction, size, dtype):
        """Parallel, opposite and zero vectors, targets that are neither 1 nor -1, and norms of the size of torch's 1e-12."""
        options = dict(margin=margin, reduction=reduction)
        arguments = self.pairs(dtype, size)
        truth = outcome(torch.nn.CosineEmbeddingLoss(**options), [widened(x) for x in arguments])
        found = outcome(ours.CosineEmbeddingLoss(**options), arguments)
        for x, y in zip(flat(found), flat(truth), strict=True):
            assert x.dtype is dtype
            atol = 1e-6 if dtype is torch.float32 else 1e-13  # of the largest gradient of a row
            torch.testing.assert_close(x.double(), y, rtol=1e-5 if dtype is torch.float32 else 1e-12, atol=atol * y.abs().max().item())

    def test_second_derivatives(self):
        a, b, target = self.pairs(torch.float64)
        a, b, target = (x.detach()[[0, 1, 7]] for x in (a, b, target))
        for reduction in ("none", "mean"):
            loss = ours.CosineEmbeddingLoss(margin=-0.9, reduction=reduction)
            assert torch.autograd.gradcheck(lambda a, b, f=loss: f(a, b, target), (a.requires_grad_(), b.requires_grad_()))
            assert torch.autograd.gradgradcheck(lambda a, b, f=loss: f(a, b, target), (a, b))

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_runs_on_the_kernel(self, monkeypatch, dtype):
        a, b, target = self.pairs(dtype)
        routes = ["rowwise kernel"] * (3 if dtype.itemsize > 2 else 2)  # 16 bits are widened for a target that needs a gradient, too
        if dtype.itemsize > 2:
            assert taken(monkeypatch, ours.CosineEmbeddingLoss(), a, b, target) == routes
        assert taken(monkeypatch, ours.CosineEmbeddingLoss(), a.detach(), b, target) == routes[:2]

    def test_what_torch_refuses(self):
        for shapes in (((2, 3), (2, 3), ()), ((3,), (3,), (3,)), ((2, 3, 4), (2, 3, 4), (2, 3)), ((2, 3), (3,), (2,))):
            arguments = [torch.ones(shape) for shape in shapes]
            same(outcome(ours.CosineEmbeddingLoss(), arguments), outcome(torch.nn.CosineEmbeddingLoss(), arguments))


class TestGaussianNLL:
    def arguments(self, shape, dtype=torch.float32):
        g = torch.Generator().manual_seed(0)
        input, target = (torch.randn(4, 3, 5, generator=g, dtype=torch.float64).to(dtype) for _ in range(2))
        return input.requires_grad_(), target, (torch.rand(shape, generator=g, dtype=torch.float64) + 0.1).to(dtype).requires_grad_()

    @pytest.mark.parametrize("shape", [(4, 3, 5), (4, 3), (4, 3, 1), (4, 1, 5), (1, 3, 5)], ids=str)
    def test_shapes_of_variances(self, shape):
        if OLD and shape in {(4, 1, 5), (1, 3, 5)}:
            pytest.skip("this torch refuses a variance that is broadcast elsewhere than along the last axis")
        for reduction in ("none", "sum", "mean"):
            for full, eps in ((False, 1e-6), (True, 0.5), (True, -1.0)):
                options = dict(reduction=reduction, full=full, eps=eps)
                for arguments in (self.arguments(shape), [x.detach().requires_grad_() for x in self.arguments(shape)]):
                    same(outcome(ours.GaussianNLLLoss(**options), arguments), outcome(torch.nn.GaussianNLLLoss(**options), arguments))

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_runs_on_the_kernel(self, monkeypatch, dtype):
        for shape in ((4, 3, 5), (4, 3, 1)):
            assert taken(monkeypatch, ours.GaussianNLLLoss(), *self.arguments(shape, dtype)) == ["values kernel"]
        input, target, _ = self.arguments((4, 3), dtype)
        assert taken(monkeypatch, ours.GaussianNLLLoss(), input, target, 0.5) == ["values kernel"]
        assert taken(monkeypatch, ours.GaussianNLLLoss(), input, target.requires_grad_(), 0.5) == ["values kernel"]

    def test_what_torch_refuses(self):
        input, target, var = (x.detach() for x in self.arguments((4, 3, 5)))
        negative = var.clone()
        negative[1, 2, 3] = -1e-30
        wrong = [negative, torch.nan * negative, -0.5, var[0], var[:, :1, :1], 2, var.double(), var[..., :2]]
        for reduction in ("none", "mean"):
            for given in wrong:
                same(outcome(ours.GaussianNLLLoss(reduction=reduction), (input, target, given)),
                     outcome(torch.nn.GaussianNLLLoss(reduction=reduction), (input, target, given)))  # fmt: skip
            with pytest.raises(ValueError, match="var has negative entry/entries"):
                ours.GaussianNLLLoss(reduction=reduction)(input, target, negative)
        with pytest.raises(ValueError, match="middle is not valid"):
            ours.GaussianNLLLoss(reduction="middle")(input, target, var)

    def test_a_small_variance_is_floored_and_keeps_its_gradient(self):
        arguments = torch.tensor([0.5, 1.0, 0.25], requires_grad=True), torch.zeros(3), torch.tensor([0.0, 1e-9, 0.5], requires_grad=True)
        for reduction in ("none", "mean"):
            options = dict(eps=0.125, reduction=reduction)
            same(outcome(ours.GaussianNLLLoss(**options), arguments), outcome(torch.nn.GaussianNLLLoss(**options), arguments))

    def test_second_derivatives(self):
        for reduction in ("none", "mean"):
            input, target, var = self.arguments((4, 3), torch.float64)
            target, loss = target.requires_grad_(), ours.GaussianNLLLoss(reduction=reduction)
            assert torch.autograd.gradgradcheck(loss, (input, target, var))
            twice = []
            for module in (loss, torch.nn.GaussianNLLLoss(reduction=reduction)):
                (first,) = torch.autograd.grad(module(input, target, var).sum(), var, create_graph=True)
                twice.append(torch.autograd.grad(first.sum(), (input, var)))
            torch.testing.assert_close(*twice)


class TestPosWeight:
    @pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
    @pytest.mark.parametrize("weight", [None, torch.rand(3, 1)], ids=["", "weight"])
    def test_numbers(self, reduction, weight):
        torch.manual_seed(0)
        options = dict(pos_weight=torch.tensor([0.0, 0.5, 1.0, 7.0]), reduction=reduction, weight=weight)
        for targets in (torch.rand(3, 4), torch.rand(3, 4).round()):
            arguments = torch.randn(3, 4, requires_grad=True) * 5, targets
            theirs = outcome(torch.nn.BCEWithLogitsLoss(**options), arguments)
            same(outcome(ours.BCEWithLogitsLoss(**options), arguments), theirs)

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_a_row_has_one_loss_whatever_the_size_of_its_batch(self, monkeypatch, dtype):
        """Of any weights and targets: where k t + 1 - t is 0 or infinite, too, and beyond [0, 1]."""
        g = torch.Generator().manual_seed(0)
        for k in (2.0, 0.0, -1.0, 3.0, 0.25, float("inf"), float("nan"), None):
            factor = torch.rand(5, generator=g) * 3 if k is None else torch.full((5,), k)
            rows = [torch.full((1, 5), t) for t in (-1.0, 0.0, 0.5, 1.0, 2.0, float("nan"))]
            rows += [torch.rand(2, 5, generator=g), torch.rand(1, 5, generator=g) * 3 - 1, torch.rand(1, 5, generator=g).round() * 2 - 1]
            target, factor = torch.cat(rows).to(dtype), factor.to(dtype)
            input = (torch.randn(target.shape, generator=g) * 3).to(dtype).requires_grad_()
            options = dict(pos_weight=factor, reduction="none")
            theirs = torch.nn.BCEWithLogitsLoss(**options)
            truth = torch.nn.BCEWithLogitsLoss(pos_weight=factor.double(), reduction="none")
            for rows in (slice(None), *(slice(n, n + 1) for n in range(len(target)))):
                arguments = [input.detach()[rows].requires_grad_(), target[rows]]
                wanted, right = outcome(theirs, arguments), widths(outcome(truth, [*map(widened, arguments)]), dtype)
                for small in (0, 1 << 14):
                    monkeypatch.setattr(ours, "SMALL", small)
                    same(outcome(ours.BCEWithLogitsLoss(**options), arguments), wanted, right)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bce_at_the_ends(dtype):
    p = torch.tensor([0.0, 0.0, 1.0, 1.0, 1e-13, 1 - 6e-8], dtype=dtype, requires_grad=True)
    t = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.5, 0.5], dtype=dtype)
    for reduction in ("none", "mean"):
        found, theirs = outcome(ours.BCELoss(reduction=reduction), (p, t)), outcome(torch.nn.BCELoss(reduction=reduction), (p, t))
        same(found, theirs)
        # Where torch's divisor decides: assert_close would not see that it is a float.
        torch.testing.assert_close(found[1][0][:4], theirs[1][0][:4], rtol=4 * torch.finfo(dtype).eps, atol=0)
    for reduction in ("none", "sum", "mean"):
        for bad in (1.5, -0.1, float("nan")):
            for t in (0.0, 0.5, 1.0):
                with pytest.raises(RuntimeError, match="between 0 and 1"):
                    ours.BCELoss(reduction=reduction)(torch.tensor([0.5, bad]), torch.tensor([0.5, t]))
                with pytest.raises(RuntimeError, match="between 0 and 1"):
                    ours.BCELoss(torch.tensor([1.0, 0.0]), reduction=reduction)(torch.tensor([0.5, bad]), torch.tensor([0.5, t]))
        beyond = torch.nextafter(torch.ones((), dtype=dtype), torch.tensor(2.0, dtype=dtype)).item()
        for bad in (1.3, beyond, -1e-30, float("nan"), float("inf")):
            target = torch.tensor([0.5, bad], dtype=dtype)
            for weight in (None, torch.tensor([1.0, 0.0], dtype=dtype)):
                with pytest.raises(RuntimeError, match="all elements of target should be between 0 and 1"):
                    ours.BCELoss(weight, reduction=reduction)(torch.rand(2, dtype=dtype), target)


class TestSoftmaxLoss:
    def test_is_the_function(self):
        logits, labels = torch.randn(2, 5, 3), torch.tensor([[0, 4, 255], [2, 255, 1]])
        weight = torch.rand(5)
        for options in (dict(), dict(normalize=False), dict(normalization="full", label_smoothing=0.1), dict(reduction="none")):
            found = ours.SoftmaxLoss(ignore_label=255, class_weight=weight, **options)(logits, labels)
            torch.testing.assert_close(found, pl.softmax_loss(labels, logits, ignore_label=255, class_weight=weight, **options))

    def test_everything_ignored_is_zero(self):
        assert ours.SoftmaxLoss(ignore_label=255)(torch.randn(2, 5), torch.full((2,), 255)) == 0

    def test_class_weight_is_a_buffer(self):
        loss = ours.SoftmaxLoss(class_weight=torch.ones(3), normalization="full").double()
        assert loss.class_weight.dtype is torch.float64
        assert list(loss.state_dict()) == ["class_weight"]
        assert "normalization='full'" in repr(loss)

    @pytest.mark.parametrize("key", ["target", "y_true", "logits", "sample_weight", "denominator"])
    def test_what_the_constructor_lacks_is_not_hinted_at(self, key):
        """A call of the module has these, or the function."""
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{key}'; it has axis, ignore_label, .*, shard$"):
            ours.SoftmaxLoss(**{key: None})


def test_gaussian_of_16_bits_is_rounded_once():
    """Whether autograd follows the target or not: the difference from it is a float32."""
    mean, variance = torch.tensor([0.1, 257.0, -3.0]), torch.tensor([0.5, 0.5, 2.0])
    for kind in (torch.bfloat16, torch.float16):
        for reduction in ("none", "mean"):
            found = []
            for tracked in (False, True):
                input, var = mean.to(kind).requires_grad_(), variance.to(kind)
                target = torch.tensor([0.3, 1.3, 2.0], dtype=kind, requires_grad=tracked)
                loss = ours.GaussianNLLLoss(reduction=reduction)(input, target, var)
                loss.sum().backward()
                assert loss.dtype is kind
                assert not tracked or (target.grad == -input.grad).all()
                found.append((loss.detach(), input.grad))
            assert all((a == b).all() for a, b in zip(*found, strict=True)), (kind, reduction)
