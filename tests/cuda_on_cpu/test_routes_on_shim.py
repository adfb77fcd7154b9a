"""Calls from a public function to a kernel and back, with a stand-in for CuPy's arrays and the shim where CuPy would be."""

import contextlib
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import stand_in
from cpu_module import Function

import polyloss as pl
from polyloss import _demo
from polyloss._core.block import LOSSES
from polyloss._kernels.gpu import cuda

STREAM, GPU, CURRENT = cuda._stream, cuda.gpu, cuda.current  # as they are where nothing stands in
ELEMENTWISE = [name for name, block in LOSSES.items() if block.kernel in cuda.formulas()]


@pytest.fixture(autouse=True)
def _device():
    with stand_in.backend(), stand_in.device():
        yield


def both(function, y_true, y_pred, **named):
    """The call with the arrays here, and with the same arrays on the device, which must answer from a kernel with arrays of its own."""
    there = {name: stand_in.asarray(v) if isinstance(v, np.ndarray) else v for name, v in named.items()}
    here = function(y_true, y_pred, **named)
    given = stand_in.asarray(y_true), stand_in.asarray(y_pred)
    before = [x.tobytes() for x in given]
    got = function(*given, **there)
    assert [x.tobytes() for x in given] == before
    return here, got


def agree(here, got, rtol=2e-6, atol=1e-7):
    if isinstance(here, tuple):
        for h, g in zip(here, got, strict=True):
            agree(h, g, rtol, atol)
        return
    assert isinstance(got, stand_in.Array)
    assert (got.shape, got.dtype) == (np.shape(here), here.dtype)
    np.testing.assert_allclose(stand_in.host(got), here, rtol=rtol, atol=atol)


def logits(shape, dtype="f4", seed=0):
    return (np.random.default_rng(seed).standard_normal(shape) * 4).astype(dtype)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean", "sum_over_batch_size"])
@pytest.mark.parametrize("weighted", [False, True])
def test_elementwise(reduction, weighted):
    p, t = logits((6, 5)), logits((6, 5), seed=1)
    named = {"reduction": reduction, "sample_weight": np.array([0, 1, 2, 0.5, 0, 1], "f4") if weighted else None}
    assert pl.explain("huber", stand_in.asarray(t), stand_in.asarray(p)).route == "elementwise kernel for CUDA"
    agree(*both(pl.value_and_grad(pl.huber), t, p, **named))
    agree(*both(pl.huber, t, p, **named))


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_every_elementwise_loss(name):
    rng = np.random.default_rng(1)
    p, t = rng.uniform(0.05, 0.95, (6, 5)).astype("f4"), rng.integers(0, 2, (6, 5)).astype("f4")
    if name in ("mean_absolute_percentage_error", "mean_squared_logarithmic_error"):
        t += 0.5
    agree(*both(pl.grad_and_hess(name), t, p), rtol=1e-5)


def test_the_pages_of_losses_say_which_kernel_takes_a_call(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "docs")
    pages, digits = import_module("loss_pages"), _demo.digits()
    for name, loss in LOSSES.items():
        t, p = (x[:4] for x in _demo.arguments(name, *digits))
        labelled = t.ndim < p.ndim
        for block, options in ((loss, {}), (loss.logits, {"from_logits": True}), (loss.logarithms, {"log_input": True})):
            if block is not None:
                taken = pl.explain(name, stand_in.asarray(t), stand_in.asarray(p), **options).route
                assert pages.on_cuda(block, labelled) == taken.removesuffix(" kernel for CUDA"), (name, options)


@pytest.mark.parametrize("labels", ["auto", "01", "pm1"])
@pytest.mark.parametrize("low", [0, -1])
def test_hinge(labels, low):
    t = np.where(logits((6, 5)) > 0, 1, low).astype("f4")
    agree(*both(pl.hinge, t, logits((6, 5), seed=2), labels=labels))


@pytest.mark.parametrize("normalization", ["full", "valid", "batch_size", "none"])
@pytest.mark.parametrize("shape", [(6, 10), (3, 7, 4, 4), (2, 600)], ids=str)
def test_softmax_loss(shape, normalization):
    z = logits(shape)
    y = np.random.default_rng(0).integers(0, shape[1], (shape[0], *shape[2:]))
    y.reshape(-1)[::3] = -1
    named = {"ignore_label": (-1, 2), "normalization": normalization}
    assert pl.explain(pl.softmax_loss, stand_in.asarray(y), stand_in.asarray(z), **named).route == "softmax_xent kernel for CUDA"
    agree(*both(pl.softmax_loss, y, z, **named))
    agree(*both(pl.value_and_grad(pl.softmax_loss), y, z, **named))


@pytest.mark.parametrize("options", ["class_weight", "sample_weight", "both", "smoothing", "prob", "none", "denominator"])
@pytest.mark.parametrize("soft", [False, True])
def test_softmax_options(options, soft):
    z, rng = logits((6, 10)), np.random.default_rng(3)
    y = rng.dirichlet(np.ones(10), 6).astype("f4") if soft else rng.integers(0, 10, 6)
    named = {
        "class_weight": {"class_weight": rng.uniform(0, 2, 10).astype("f4")},
        "sample_weight": {"sample_weight": np.array([0, 1, 2, 3, 0.5, 0], "f4")},
        "both": {"class_weight": rng.uniform(0, 2, 10).astype("f4"), "sample_weight": np.array([0, 1, 2, 3, 0.5, 0], "f4")},
        "smoothing": {"label_smoothing": 0.1},
        "prob": {"return_prob": True},
        "none": {"reduction": "none"},
        "denominator": {"denominator": np.array(2.5, "f4")},
    }[options]
    agree(*both(pl.value_and_grad(pl.softmax_loss), y, z, **named), atol=1e-6)


@pytest.mark.parametrize("dtype", ["f2", "f8"])
@pytest.mark.parametrize("kind", ["i1", "u2", "u8", "f4", "f2"])
def test_types(dtype, kind):
    y = np.random.default_rng(0).integers(0, 10, 6).astype(kind)
    bounds = {"f2": (2e-3, 1e-4), "f8": (1e-13, 1e-15)}[dtype]
    agree(*both(pl.value_and_grad(pl.softmax_loss), y, logits((6, 10), dtype)), *bounds)


def test_poly1_and_hessian():
    y, z = np.arange(6), logits((6, 10))
    agree(*both(pl.grad_and_hess("poly1_crossentropy"), y, z, poly_epsilon=2.0, reduction="mean"), atol=1e-6)


def test_strided_and_reversed_arrays():
    z, y = logits((12, 20)), np.arange(6)
    far = stand_in.asarray(z)
    agree(pl.softmax_loss(y, z[::-2, ::2]), pl.softmax_loss(stand_in.asarray(y), far[::-2, ::2]))
    agree(pl.mean_squared_error(z[::2], z[1::2]), pl.mean_squared_error(far[::2], far[1::2]))


@pytest.mark.parametrize("ordered", [True, False])
def test_out(ordered):
    y, z = np.arange(6), logits((6, 10))
    out = stand_in.empty((6, 10), "f4") if ordered else stand_in.empty((10, 6), "f4").T
    got = pl.grad(pl.softmax_loss)(stand_in.asarray(y), stand_in.asarray(z), out=out)
    assert got is out
    agree(pl.grad(pl.softmax_loss)(y, z), out)


def shifted(x, by=1):
    """Rows of one buffer: those of `x`, and as many of which the first is its row `by`."""
    room = stand_in.asarray(np.concatenate([x, x]))
    return room[: len(x)], room[by : by + len(x)]


def test_out_may_not_lie_where_an_input_does():
    """A kernel would write over what other threads have yet to read. Next to an input, or between its entries, is allowed."""
    y, z = stand_in.asarray(np.arange(6)), logits((6, 10))
    right = stand_in.host(pl.grad(pl.softmax_loss)(y, stand_in.asarray(z)))
    same, (here, over), pairs = stand_in.asarray(z), shifted(z), stand_in.asarray(np.stack([z, z], axis=2))
    for logit, out in ((same, same), (here, over), (over, here), (here, here[:, ::-1]), (pairs[:, :, 0], pairs[:, :, 0])):
        before = stand_in.host(logit).tobytes()
        with pytest.raises(ValueError, match="out shares memory with an input"):
            pl.grad(pl.softmax_loss)(y, logit, out=out)
        assert stand_in.host(logit).tobytes() == before
    weight = stand_in.asarray(np.ones(60, "f4"))
    with pytest.raises(ValueError, match="out shares memory with an input"):
        pl.grad(pl.softmax_loss)(y, same, sample_weight=weight[:6], out=weight.reshape(6, 10))
    with pytest.raises(ValueError, match=r"out\[1\] shares memory with an input or with the other output"):
        pl.grad_and_hess(pl.softmax_loss)(y, same, out=(over, here))
    with pytest.raises(ValueError, match="out has entries that share memory"):
        pl.grad(pl.softmax_loss)(y, same, out=stand_in.as_strided(weight, (6, 10), (4, 4)))
    for logit, out in ((here, shifted(z, 6)[1]), (pairs[:, :, 0], pairs[:, :, 1])):
        assert pl.grad(pl.softmax_loss)(y, logit, out=out) is out
        np.testing.assert_array_equal(stand_in.host(out), right)


@stand_in.ON_SHIM
def test_out_lies_on_the_device_of_the_inputs():
    y, z, out = stand_in.asarray(np.arange(6)), stand_in.asarray(logits((6, 10))), stand_in.asarray(logits((6, 10)))
    out.device = stand_in.Device(1)
    with pytest.raises(ValueError, match=r"out is on device Device\(id=1\): all must be on one device"):
        pl.grad(pl.softmax_loss)(y, z, out=out)


def test_out_of_tensors_may_not_lie_where_an_input_does(torch_on_gpu):
    torch = torch_on_gpu
    y, room = torch.arange(6), torch.asarray(logits((13, 10)), dtype=torch.bfloat16)
    before = room.clone()
    for out in (room[:6], room[1:7], room[5:11]):
        with pytest.raises(ValueError, match="out shares memory with an input"):
            pl.grad(pl.softmax_loss)(y, room[:6], out=out)
    with pytest.raises(ValueError, match="out has entries that share memory"):
        pl.grad(pl.softmax_loss)(y, room[:6], out=room[12].expand(6, 10))
    torch.testing.assert_close(room, before, rtol=0, atol=0)
    right = pl.grad(pl.softmax_loss)(y, room[:6])
    pl.grad(pl.softmax_loss)(y, room[:6], out=room[6:12])
    torch.testing.assert_close(room[6:12], right, rtol=0, atol=0)


def test_bad_labels():
    """Named where they are looked for; NaN at their place where not."""
    y, z = np.array([0, 3, 12, -4]), logits((4, 10))
    with pytest.raises(ValueError, match=r"y_true\[2\] is 12, but logits have 10 classes on axis 1"):
        pl.softmax_loss(stand_in.asarray(y), stand_in.asarray(z))
    losses = pl.softmax_loss(stand_in.asarray(y), stand_in.asarray(z), reduction="none", validate=False)
    np.testing.assert_array_equal(np.isnan(stand_in.host(losses)), [False, False, True, True])


def test_obstacles_are_explained(monkeypatch):
    y, z = stand_in.asarray(np.arange(6)), stand_in.asarray(logits((6, 10)))
    name = "softmax_xent kernel for CUDA"
    assert "at most 8 ignored" in pl.explain(pl.softmax_loss, y, z, ignore_label=range(20, 30)).obstacles[name]
    assert "no position" in pl.explain(pl.softmax_loss, y[:0], z[:0]).obstacles[name]

    def missing(number):
        raise ImportError("No module named 'cupy'")

    monkeypatch.setattr(cuda, "gpu", missing)
    stand_in.forget()
    words = pl.explain(pl.softmax_loss, y, z)
    assert words.route == "formula"
    assert "needs CuPy" in words.obstacles[name]
    assert "No module named 'cupy'" in words.obstacles[name]


def test_a_compiler_that_fails_leaves_the_formula(monkeypatch):
    """It is found out before a kernel is promised, once, and said once."""
    asked = []

    def module(**how):
        asked.append(how)
        raise OSError("cuda_bf16.h: No such file or directory")

    y, z = np.arange(6), logits((6, 10))
    there = cuda.gpu(0)._replace(module=module)
    monkeypatch.setattr(cuda, "gpu", lambda number: there)
    cuda.kernel.cache_clear()
    stand_in.forget()
    with pytest.warns(RuntimeWarning, match=r"runs on formulas on CUDA device 0: .*OSError: cuda_bf16.h"):
        words = pl.explain(pl.softmax_loss, stand_in.asarray(y), stand_in.asarray(z))
    assert words.route == "formula"
    assert "cuda_bf16.h" in words.obstacles["softmax_xent kernel for CUDA"]
    agree(*both(pl.value_and_grad(pl.softmax_loss), y, z))
    assert len(asked) == 1
    cuda.kernel.cache_clear()


@pytest.mark.parametrize(("hip", "words"), [(True, "ROCm"), (False, "no CUDA driver")])
def test_devices_that_run_no_kernel_are_refused(hip, words, monkeypatch):
    """One of AMD's has no cubin and other names for its attributes."""
    import cupy

    monkeypatch.setattr(cupy.cuda.runtime, "is_hip", hip)
    monkeypatch.setattr(cupy.cuda, "is_available", lambda: hip)
    with pytest.raises(RuntimeError, match=words):
        GPU.__wrapped__(0)


def test_no_device_is_entered_that_is_current_already(monkeypatch):
    """CuPy would go back to the device before, and make a context there; torch asks first whether there is one."""
    import cupy
    import torch

    monkeypatch.setattr(cupy.cuda.runtime, "getDevice", lambda: 3)
    for tensors in (False, True):
        assert isinstance(CURRENT(3, tensors), contextlib.nullcontext)
    assert isinstance(CURRENT(2, False), cupy.cuda.Device)
    assert isinstance(CURRENT(2, True), torch.cuda.device)


@pytest.mark.parametrize("tensors", [False, True])
def test_labels_are_not_looked_at_during_a_capture(tensors, monkeypatch):
    """To wait would end the capture with an error; the loss of a bad label is NaN. The check is back where the capture ends."""
    with stand_in.torch_as_on_gpu() as torch:
        make = torch.asarray if tensors else stand_in.asarray
        y, z = make(np.array([0, 12, 3])), make(logits((3, 10)))
        asked = []
        monkeypatch.setattr(cuda, "capturing", lambda tensors: asked.append(tensors) or True)
        value, _ = pl.value_and_grad(pl.softmax_loss)(y, z)
        assert np.isnan(float(value))
        assert asked == [tensors]
        monkeypatch.setattr(cuda, "capturing", lambda tensors: False)
        with pytest.raises(ValueError, match=r"y_true\[1\] is 12"):
            pl.value_and_grad(pl.softmax_loss)(y, z)


@stand_in.ON_SHIM
def test_a_kernel_may_ask_for_all_shared_memory_of_its_device(monkeypatch):
    """On a device kernels stay compiled from test to test: the launches planned for less must not bind those after them."""
    there = cuda.gpu(0)._replace(optin=227 << 10)
    monkeypatch.setattr(stand_in, "REAL", True)
    monkeypatch.setattr(cuda, "gpu", lambda number: there)
    cuda.kernel.cache_clear()
    with stand_in.device(shared=16 << 10):
        assert cuda.gpu(0).shared == 16 << 10
        assert cuda.kernel(0, "launch.cuh", "float32", "finish<float>").max_dynamic_shared_size_bytes == 227 << 10
    cuda.kernel.cache_clear()


def test_arrays_elsewhere_do_not_look_for_a_device(monkeypatch):
    monkeypatch.setattr(cuda, "gpu", None)
    monkeypatch.setenv("POLYLOSS_ROUTE", "formula")
    words = pl.explain(pl.softmax_loss, np.arange(3), logits((3, 4)))
    assert words.obstacles["softmax_xent kernel for CUDA"] == "it needs arrays on a CUDA device, and those of numpy on cpu are not"


@pytest.fixture
def torch_on_gpu():
    with stand_in.torch_as_on_gpu() as torch:
        yield torch


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("reduction", ["normalize", "none"])
def test_torch_tensors(torch_on_gpu, dtype, reduction):
    torch = torch_on_gpu
    y, z = torch.arange(6) % 5, torch.asarray(logits((6, 10)), dtype=getattr(torch, dtype)).requires_grad_()
    assert pl.explain(pl.softmax_loss, y, z.detach()).route == "softmax_xent kernel for CUDA"
    loss = pl.softmax_loss(y, z, ignore_label=3, reduction=reduction)
    peer = torch.nn.functional.cross_entropy(z.to(loss.dtype), y, ignore_index=3, reduction="mean" if reduction == "normalize" else "none")
    torch.testing.assert_close(loss, peer)
    (gradient,) = torch.autograd.grad((loss * 2).sum(), z)
    (expected,) = torch.autograd.grad((peer * 2).sum(), z)
    torch.testing.assert_close(gradient, expected)


@stand_in.ON_SHIM
def test_torch_kernels_go_to_its_current_stream(torch_on_gpu, monkeypatch):
    torch, streams, launch = torch_on_gpu, [], Function.__call__
    y, z = torch.arange(6) % 5, torch.asarray(logits((6, 10)))

    def current_stream(device):
        assert device == z.device
        return SimpleNamespace(cuda_stream=1234)

    def call(self, *arguments, stream, **named):
        streams.append(stream.ptr)
        return launch(self, *arguments, stream=stream, **named)

    monkeypatch.setattr(cuda, "_stream", STREAM)
    monkeypatch.setattr(torch.cuda, "current_stream", current_stream)
    monkeypatch.setattr(Function, "__call__", call)
    pl.value_and_grad(pl.softmax_loss)(y, z, ignore_label=3)
    assert streams == [1234] * 4  # position_sums and finish for the divisor; the loss and its finish


def test_torch_elementwise(torch_on_gpu):
    torch = torch_on_gpu
    p, t = torch.asarray(logits((6, 5))).requires_grad_(), torch.asarray(logits((6, 5), seed=1))
    assert pl.explain(pl.huber, t, p.detach()).route == "elementwise kernel for CUDA"
    loss = pl.huber(t, p, reduction="mean")
    peer = torch.nn.functional.huber_loss(p, t)
    torch.testing.assert_close(loss, peer)
    torch.testing.assert_close(torch.autograd.grad(loss, p), torch.autograd.grad(peer, p))


def test_torch_gradients_come_from_the_kernel(torch_on_gpu, monkeypatch):
    """Forward and backward are one launch each, and agree with difference quotients."""
    torch = torch_on_gpu
    y, z = torch.arange(4), torch.asarray(logits((4, 5), "f8")).requires_grad_()
    calls, kernel = [], cuda.softmax_xent
    monkeypatch.setattr(
        cuda, "softmax_xent", lambda *a, **k: calls.append([name for name in ("grad", "prob") if k[name] is not None]) or kernel(*a, **k)
    )
    torch.autograd.grad(pl.softmax_loss(y, z, ignore_label=3), z)
    assert calls == [[], ["grad"]]
    assert torch.autograd.gradcheck(
        lambda a: pl.softmax_loss(y, a, ignore_label=3, class_weight=torch.arange(5, dtype=torch.float64)), (z,)
    )
    assert torch.autograd.gradcheck(lambda a: pl.softmax_loss(y, a, return_prob=True, reduction="none"), (z,))


def test_the_operator_copies_nothing_from_this_machine(torch_on_gpu, monkeypatch):
    """A number that is made a tensor travels from pageable memory: each compiled call would wait, and no CUDA graph would record it."""
    torch = torch_on_gpu
    y, z = torch.arange(4), torch.asarray(logits((4, 5)))
    options = repr(("softmax_loss", (True, False, False, False), {"axis": 1, "ignore_label": (), "normalization": None, "normalize": None,
        "reduction": "sum", "return_prob": False, "validate": False, "label_smoothing": 0.0, "z_loss": 0.0, "softcap": None}))  # fmt: skip

    def forbidden(*arguments, **named):
        raise AssertionError("from this machine's memory")

    loss = torch.ops.polyloss.loss
    expected = loss(y, z, None, None, None, options)
    for name in ("as_tensor", "asarray", "tensor", "from_numpy", "scalar_tensor"):
        monkeypatch.setattr(torch, name, forbidden)
    for method in ("item", "tolist", "__int__", "__float__", "__bool__", "__index__"):
        monkeypatch.setattr(torch.Tensor, method, forbidden)
    found = loss(y, z, None, None, None, options)
    monkeypatch.undo()
    assert found[3] == 1
    torch.testing.assert_close(found[0], expected[0])


def test_torch_compiles_the_loss(torch_on_gpu):
    torch = torch_on_gpu
    y, z = torch.arange(4), torch.asarray(logits((4, 5))).requires_grad_()
    compiled = torch.compile(lambda a: pl.softmax_loss(y, a * 2), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(torch.autograd.grad(compiled(z), z), torch.autograd.grad(torch.nn.functional.cross_entropy(z * 2, y), z))


@pytest.mark.parametrize("name", ["huber", "softmax_loss", "categorical_crossentropy", "sparse_categorical_crossentropy"])
def test_a_divisor_of_0_leaves_nothing(name):
    """Weights whose sum is 0: loss and gradient are 0, where a row holds NaN too."""
    z, labels = np.abs(logits((6, 10))), "softmax" in name or "sparse" in name
    z[2] = np.nan
    y = np.arange(6) if labels else np.eye(10, dtype="f4")[:6]
    weight, options = np.array([1, -1, 2, -2, 0, 0], "f4"), {} if "softmax" in name else {"reduction": "mean"}
    value, gradient = pl.value_and_grad(name)(*map(stand_in.asarray, (y, z)), sample_weight=stand_in.asarray(weight), **options)
    assert value == 0
    assert not stand_in.host(gradient).any()


@stand_in.ON_SHIM
@pytest.mark.parametrize("name", ["huber", "softmax_loss", "cosine_similarity"])
def test_a_call_stays_on_its_arrays_device(name, monkeypatch):
    """Launches, outputs and the small arrays of a call go to the second device of a machine if its arrays are there."""
    log, casts, there, second = [], [], cuda.gpu(0), stand_in.Device(1)

    @contextlib.contextmanager
    def current(number, tensors):
        assert (number, tensors) == (1, False)
        log.append("in")
        yield
        log.append("out")

    def inside():
        return log.count("in") > log.count("out")

    def module(**how):
        log.append("compiled")
        return there.module(**how)

    def gpu(number):
        assert number == 1
        return there._replace(module=module)

    def empty(shape, dtype, device=None):
        assert device == second
        assert inside()  # CuPy's own `empty` allocates on the device that is current
        return stand_in.empty(shape, dtype)

    def astype(x, dtype, **named):
        assert inside()
        casts.append(dtype)
        return stand_in.Array(np.astype(x.host, dtype, **named))

    z = stand_in.asarray(logits((6, 10)))
    y = stand_in.asarray(np.arange(6)) if "softmax" in name else z
    weight = stand_in.asarray(np.ones(6))  # in float64: cast to float32
    monkeypatch.setattr(cuda, "gpu", gpu)
    monkeypatch.setattr(cuda, "current", current)
    stand_in.forget()
    monkeypatch.setattr(stand_in.Array, "device", second)
    monkeypatch.setattr(stand_in.namespace, "astype", astype, raising=False)
    monkeypatch.setattr(stand_in.namespace, "empty", empty, raising=False)
    pl.value_and_grad(name)(y, z, sample_weight=weight)
    assert casts
    assert log[0] == "in"
    assert log[-1] == "out"
    assert log.count("compiled") == 2 + ("softmax" in name)  # the loss and finish; for labels position_sums, too


@stand_in.ON_SHIM
def test_a_head_of_a_model_stays_on_its_device(monkeypatch):
    """Features and weight: the products of linear_softmax_loss, too, are found where the features are, and by the kernel."""
    x, w, y = logits((6, 4)), logits((5, 4), seed=1), np.arange(6) % 5
    entered, inner = [], contextlib.nullcontext

    def current(number, tensors):
        entered.append((number, tensors))
        return inner()

    monkeypatch.setattr(cuda, "current", current)
    launched, launch = [], Function.__call__
    monkeypatch.setattr(Function, "__call__", lambda self, *a, **k: launched.append(self._name) or launch(self, *a, **k))
    for function in (pl.linear_softmax_loss, pl.value_and_grad(pl.linear_softmax_loss)):
        entered.clear()
        launched.clear()
        got = function(*map(stand_in.asarray, (y, x, w)))
        assert entered[0] == (0, False)
        assert launched
        here, got = (z if isinstance(z, tuple) else (z,) for z in (function(y, x, w), got))
        flat = [[z for y in part for z in (y if isinstance(y, tuple) else (y,))] for part in (here, got)]
        agree(*map(tuple, flat), atol=1e-6)


@stand_in.ON_SHIM
@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("softmax_loss", {}),
        ("softmax_loss", {"sample_weight": np.arange(6, dtype="f4"), "ignore_label": 3}),
        ("softmax_loss", {"denominator": np.array(3, "f4")}),
        ("sparse_categorical_crossentropy", {"reduction": "mean", "ignore_class": 3}),
        ("huber", {"reduction": "mean", "sample_weight": np.arange(6, dtype="f4")}),
        ("hinge", {"reduction": "sum_over_batch_size"}),
        ("cosine_similarity", {"reduction": "mean", "sample_weight": np.arange(6, dtype="f4")}),
    ],
)
def test_a_second_call_can_be_captured(name, named, monkeypatch):
    """What a capture of the stream into a CUDA graph forbids: to compile, to read a number of the device, to copy from the host.

    Allocations are not among it: they come from a pool. That a real capture takes the launches, only a device can tell.
    """
    z = stand_in.asarray(np.abs(logits((6, 10))))
    y = stand_in.asarray(np.arange(6) if "softmax" in name or "sparse" in name else np.eye(10, dtype="f4")[:6])
    named = {key: stand_in.asarray(v) if isinstance(v, np.ndarray) else v for key, v in named.items()} | {"validate": False}
    out = stand_in.empty((6, 10), "f4")
    first, *_ = pl.value_and_grad(name)(y, z, out=out, **named)

    def forbidden(*arguments, **named):
        raise AssertionError("no capture allows this")

    launches, launch = [], Function.__call__
    monkeypatch.setattr(Function, "__call__", lambda self, *a, **k: launches.append(self._name) or launch(self, *a, **k))
    there = cuda.gpu(0)._replace(module=forbidden)
    monkeypatch.setattr(cuda, "gpu", lambda number: there)
    monkeypatch.setattr(stand_in.namespace, "asarray", forbidden, raising=False)
    for method in ("__int__", "__float__", "__bool__", "__index__", "item", "tolist"):
        monkeypatch.setattr(stand_in.Array, method, forbidden, raising=False)
    second, *_ = pl.value_and_grad(name)(y, z, out=out, **named)
    monkeypatch.undo()
    assert launches
    assert second == first
