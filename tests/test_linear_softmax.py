"""`linear_softmax_loss`: against `softmax_loss` of logits at hand in float64, and against torch's own; memory, autograd, JAX, errors."""

import gc
import inspect
import os
import pickle
import subprocess
import sys
import weakref

import numpy as np
import pytest
from libraries import JAX, LAYOUTS, LIBRARIES, NUMPY, TORCH, formula, np_dtype

import polyloss as pl
from polyloss._adapters import linear_jax as _linear_jax
from polyloss._call.prepare import IN_PLACE
from polyloss._core import buffers
from polyloss._kernels.cpu import softmax_xent
from polyloss._linear_softmax import chunks

torch, jax = TORCH.torch, JAX.jax
nn, F = torch.nn, torch.nn.functional
value_and_grad = pl.value_and_grad(pl.linear_softmax_loss)
N, D, C = 37, 6, 300  # more classes than `softmax_xent.FEW`, where the gradient replaces the logits
EXACT = [lib for lib in LIBRARIES if not lib.lazy]


def some(n=N, d=D, c=C, dtype="float32", seed=0):
    rng = np.random.default_rng(seed)
    features, weight, bias = rng.standard_normal((n, d)), rng.standard_normal((c, d)), rng.standard_normal(c)
    return rng.integers(0, c, n), *(x.astype(np_dtype(dtype)) for x in (features, weight, bias))


def plain(y, features, weight, bias=None, **options):
    """Value and gradients in float64, with all logits at hand."""
    x, w = np.asarray(features, np.float64), np.asarray(weight, np.float64)
    logits = x @ w.T + (0 if bias is None else np.asarray(bias, np.float64))
    value, g = pl.value_and_grad(pl.softmax_loss)(y, logits, axis=-1, **options)
    flat = g.reshape(-1, g.shape[-1])
    x = x.reshape(len(flat), x.shape[-1])
    live = (flat != 0).any(1)
    gradients = g @ w, flat[live].T @ x[live]
    return value, gradients if bias is None else (*gradients, flat.sum(0))


def compare(lib, got, want, rtol=1e-6):
    """Values within rtol; gradients within rtol of the largest entry."""
    np.testing.assert_allclose(lib.numpy(got[0]).astype(np.float64), want[0], rtol=rtol, atol=rtol * np.abs(want[0]).max(initial=0))
    assert len(got[1]) == len(want[1])
    for a, b in zip(got[1], want[1], strict=True):
        np.testing.assert_allclose(lib.numpy(a).astype(np.float64), b, rtol=0, atol=rtol * np.abs(b).max(initial=1e-300))


def choices(y, c=C, n=N):
    rng = np.random.default_rng(5)
    weight, k = rng.choice([0.0, 0.5, 2.0], n), rng.choice([0.0, 1.0, 3.0], c)
    yield {}
    yield {"reduction": "none", "sample_weight": weight, "ignore_label": int(y[1])}
    yield {"reduction": "sum", "label_smoothing": 0.1}
    yield {"class_weight": k, "sample_weight": weight, "label_smoothing": 0.2}
    yield {"ignore_label": (int(y[0]), int(y[3]), -100), "normalization": "valid"}
    yield {"ignore_label": int(y[0]), "normalize": False, "class_weight": k}
    yield {"normalization": "none", "sample_weight": weight[:1]}
    yield {"z_loss": 0.01, "sample_weight": weight, "class_weight": k, "softcap": 3.0, "ignore_label": int(y[2])}
    yield {"denominator": np.array(7.0), "z_loss": 1e-3}


@pytest.mark.parametrize("lib", EXACT, ids=repr)
def test_every_option_in_every_library(lib):
    y, features, weight, bias = some(dtype="float64")
    for i, options in enumerate(choices(y)):
        if not lib.quick and i % 3 != 1:
            continue
        given = {key: lib.array(x) if isinstance(x, np.ndarray) else x for key, x in options.items()}
        for b in (None, bias) if i < 4 else (None,):
            want = plain(y, features, weight, b, **options)
            arrays = [lib.array(x) for x in (y, features, weight, b)]
            got = value_and_grad(*arrays, chunk=16, **given)
            assert all(lib.is_array(x) for x in got[1])
            compare(lib, got, want, 1e-13)
            if not lib.quick:
                continue
            value = pl.linear_softmax_loss(*arrays, chunk=16, **given)
            np.testing.assert_allclose(lib.numpy(value), want[0], rtol=1e-13)
            by = pl.grad(pl.linear_softmax_loss)(*arrays, chunk=16, **given)
            np.testing.assert_array_equal(lib.numpy(by[1]), lib.numpy(got[1][1]))


@pytest.mark.parametrize("lib", EXACT, ids=repr)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_dtypes(lib, dtype):
    if dtype not in ("float32", *lib.low):
        pytest.skip(f"{lib!r} has no {dtype}")
    y, features, weight, bias = some(dtype=dtype)
    want = plain(y, features, weight, bias)
    got = value_and_grad(*(lib.array(x) for x in (y, features, weight, bias)), chunk=5)
    assert lib.dtype(got[0]) == "float32"
    assert [lib.dtype(x) for x in got[1]] == [dtype] * 3
    compare(lib, got, want, {"float32": 1e-6, "float16": 2**-11, "bfloat16": 2**-8}[dtype])
    np.testing.assert_allclose(float(lib.numpy(got[0])), want[0], rtol=1e-6)


def test_sums_of_16_bits_are_of_32():
    """What each of 3000 chunks adds to the weight's gradient is below half a unit of bfloat16 of the sum so far."""
    features, weight = torch.ones(3000, 2, dtype=torch.bfloat16), torch.zeros(4, 2, dtype=torch.bfloat16)
    _, (_, by_weight) = value_and_grad(torch.zeros(3000, dtype=torch.int64), features, weight, chunk=1, reduction="sum")
    assert by_weight.tolist() == [[-2256] * 2] + [[752] * 2] * 3  # 2250 and 750 in bfloat16


def test_mixed_widths():
    """Features of 16 bits beside a weight of 32, as under autocast; each gradient in the dtype of its array."""
    y, features, weight, _ = some()
    features = features.astype(np.float16)
    got = value_and_grad(y, features, weight)
    assert [x.dtype for x in got[1]] == [np.float16, np.float32]
    np.testing.assert_allclose(got[1][1], plain(y, features, weight)[1][1], atol=1e-7)


@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (2, 3, 2), (0,)])
def test_shapes(shape):
    rng = np.random.default_rng(0)
    y, features, weight = rng.integers(0, 7, shape), rng.standard_normal((*shape, 3)), rng.standard_normal((7, 3))
    for lib in (NUMPY, TORCH, JAX):
        for labels in (y, y[..., None], y.astype(np.float32), y.astype(np.uint8)) if lib.quick else (y[..., None],):
            for reduction in ("normalize", "none") if lib.quick else ("none",):
                given = lib.array(labels), lib.array(features), lib.array(weight)
                value, gradients = value_and_grad(*given, reduction=reduction, normalization="batch_size" if reduction != "none" else None)
                assert value.shape == (() if reduction == "normalize" else shape)
                assert [x.shape for x in gradients] == [features.shape, weight.shape]
                options = {"reduction": reduction} if reduction == "none" else {"normalization": "full"}
                compare(lib, (value, gradients), plain(y, features, weight, **options), 1e-12)


@pytest.mark.parametrize(("n", "d", "c"), [(0, 3, 5), (4, 0, 5), (4, 0, 300), (4, 3, 1), (0, 0, 1)])
def test_nothing_of_something(n, d, c):
    """No positions, no features, one class."""
    y, features, weight, bias = some(n, d, c, dtype="float64")
    for lib in (NUMPY, TORCH, JAX):
        for b in (None, bias):
            got = value_and_grad(*(lib.array(x) for x in (y, features, weight, b)))
            compare(lib, got, plain(y, features, weight, b), 1e-12)
            assert got[1][1].shape == (c, d)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda f: f.__name__.strip("_"))
def test_layouts(layout):
    y, features, weight, bias = some(dtype="float64")
    given = [layout(x) for x in (y, features, weight, bias)]
    before = [x.copy() for x in given]
    compare(NUMPY, value_and_grad(*given, chunk=10), plain(y, features, weight, bias), 1e-13)
    assert all((a == b).all() for a, b in zip(given, before, strict=True))
    if layout.__name__ in ("strided", "fortran", "transposed"):
        given = [torch.from_numpy(x) for x in given]
        compare(TORCH, value_and_grad(*given, chunk=10), plain(y, features, weight, bias), 1e-13)


@pytest.mark.parametrize("lib", EXACT, ids=repr)
def test_nan_behind_ignored_rows_reaches_nothing(lib):
    y, features, weight, bias = some(dtype="float64")
    y[::3], w = -100, np.ones(N)
    w[1::3] = 0
    right = plain(y, features, weight, bias, ignore_label=-100, sample_weight=w)
    features[::3], features[1::3] = np.nan, np.inf
    given = [lib.array(x) for x in (y, features, weight, bias)]
    got = value_and_grad(*given, ignore_label=-100, sample_weight=lib.array(w), chunk=8)
    compare(lib, got, right, 1e-13)
    assert not lib.numpy(got[1][0])[::3].any()
    nothing = value_and_grad(*given, ignore_label=(-100, *range(C)), chunk=8)
    assert float(nothing[0]) == 0
    assert not any(lib.numpy(x).any() for x in nothing[1])


def test_every_number_of_rows_at_once():
    y, features, weight, _ = some(dtype="float64")
    want = plain(y, features, weight)
    for lib in (NUMPY, TORCH, JAX):
        for chunk in (1, 2, 36, 37, 38, np.int64(1000), None):
            compare(lib, value_and_grad(*(lib.array(x) for x in (y, features, weight)), chunk=chunk), want, 1e-13)


def test_without_a_kernel():
    y, features, weight, _ = some(dtype="float64")
    compare(NUMPY, formula(value_and_grad, y, features, weight, chunk=16), plain(y, features, weight), 1e-13)


def test_the_kernel_says_of_how_many_classes_the_gradient_replaces_the_logits(monkeypatch):
    outs, called = [], chunks.called
    monkeypatch.setattr(chunks, "called", lambda *args: outs.append(args[4]) or called(*args))
    for few in (softmax_xent.FEW, C - 1, C):
        monkeypatch.setattr(softmax_xent, "FEW", few)
        outs.clear()
        value_and_grad(*some()[:3])
        assert {out is IN_PLACE for out in outs} == {few < C}, few


def test_sums_of_large_products_in_parts(monkeypatch):
    monkeypatch.setattr(chunks, "SUMMAND", 100 * D * 8)
    monkeypatch.setattr(_linear_jax, "SUMMAND", 100 * D * 8)
    monkeypatch.setattr(chunks, "PANEL", 70 * D * 4)
    jax.clear_caches()
    y, features, weight, _ = some(dtype="float64")
    for lib in (NUMPY, JAX):
        compare(lib, value_and_grad(*(lib.array(x) for x in (y, features, weight)), chunk=16), plain(y, features, weight), 1e-13)
    y, features, weight, bias = some(dtype="float16")
    for lib in (NUMPY, TORCH):
        compare(lib, value_and_grad(*(lib.array(x) for x in (y, features, weight, bias)), chunk=16), plain(y, features, weight, bias), 1e-3)
    jax.clear_caches()


@pytest.mark.parametrize("lib", [NUMPY, TORCH], ids=repr)
def test_first_logits_lie_where_the_gradient_of_the_weight_is_to_be(lib, monkeypatch):
    """Class by class, as many rows as features are long; the rest in a buffer. Some rows' logits are beyond float32's exponentials."""
    sizes = []
    empty = buffers.empty
    monkeypatch.setattr(buffers, "empty", lambda size, dtype: sizes.append(size) or empty(size, dtype))
    monkeypatch.setattr(chunks, "PANEL", 33 * 50 * 4)
    monkeypatch.setattr(chunks, "BUFFER", 20 * 310 * 4)
    monkeypatch.setattr(chunks, "PACKED", 0)
    y, features, weight, bias = some(n=57, d=33, c=310, dtype="float32")
    weight *= 0.3
    y[5] = y[33]
    features[2], features[40], features[7] = features[2] * 60, features[40] * 60, 0
    for options in choices(y, c=310, n=57):
        exact = {key: x.astype("f4").astype("f8") if isinstance(x, np.ndarray) else x for key, x in options.items()}
        want = plain(y, features, weight, bias, **exact)
        given = {key: lib.array(x) if isinstance(x, np.ndarray) else x for key, x in options.items()}
        sizes.clear()
        compare(lib, value_and_grad(*(lib.array(x) for x in (y, features, weight, bias)), **given), want, 1e-5)
        smoothed = "class_weight" in options and "label_smoothing" in options
        rows = 57 - sum(np.isin(y, options.get("ignore_label", -100)) | (exact.get("sample_weight", np.ones(57)) == 0))
        inside = 0 if smoothed else min(rows, 33)
        assert sizes[0] == (310, 33)
        assert sizes[1:] == ([(chunks.even(rows - inside, 20), 310)] if rows > inside else []), options


def test_rows_at_once_are_chosen_from_the_classes():
    for classes, itemsize, in_place in ((10, 4, False), (32000, 4, True), (128256, 4, True), (256000, 8, False), (10**8, 8, True)):
        rows = chunks.default_chunk(classes, itemsize, in_place)
        assert 1 <= rows <= 1024
        assert rows == 1 or rows * classes * itemsize * (1 if in_place else 2) <= 50e6
    sizes = (
        (0, 4, 1),
        (1, 4, 1),
        (4, 4, 4),
        (5, 4, 4),
        (6, 5, 4),
        (7, 1, 1),
        (7, 3, 3),
        (2048, 412, 412),
        (2048, 384, 344),
        (820, 412, 412),
    )
    for n, most, rows in sizes:
        assert chunks.even(n, most) == rows, (n, most)


MEMORY = """
import sys
import numpy as np
import polyloss as pl
if sys.argv[1] == "torch":
    import torch
def given(n, d, c, dtype):
    y, features, weight = np.zeros(n, np.int64), np.full((n, d), 0.1, dtype), np.full((c, d), 0.1, dtype)
    return [torch.from_numpy(x) for x in (y, features, weight)] if sys.argv[1] == "torch" else (y, features, weight)
def resident(what):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(what)) * 1024
by = pl.value_and_grad(pl.linear_softmax_loss)
by(*given(64, 16, 300, np.float32))
few = (400, 16, np.float32), (2000, 16, np.float32), (2000, 16, np.float16), (400, 16, np.float64)
many = [(1500, 768, np.float32)]  # the first logits lie in the memory of the weight's gradient
for n, d, dtype in few if sys.argv[2] == "few" else many:
    arrays = given(n, d, 32000, dtype)
    before = resident("VmRSS")
    _, gradients = by(*arrays)
    beside = resident("VmHWM") - before - sum(x.nbytes for x in gradients)
    assert beside < 64e6, (n, d, dtype, beside)
    del arrays, gradients
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read as Linux tells it")
@pytest.mark.parametrize("features", ["few", "many"])
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_a_process_takes_less_than_64_megabytes_beside_its_arrays(library, features):
    """What the libraries' matmuls pack is counted, too, and kept by them: so few and many features have a process each. With two threads
    MKL packs 36 MB of a whole weight, with one or three 5 MB. All logits would take 192 MB and more."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "POLYLOSS_NUM_THREADS"), "2")
    command = [sys.executable, "-W", "ignore", "-c", MEMORY, library, features]
    subprocess.run(command, check=True, timeout=300, env=os.environ | threads)


def test_programs_of_jax_take_less_than_64_megabytes_beside_their_arrays():
    """As XLA plans its memory, whatever the rows: one buffer holds a chunk's logits and their gradient. In 16 bits the gradients' sums
    are float32 until what comes down is known."""
    jax = pytest.importorskip("jax", minversion="0.10")
    step = jax.jit(jax.value_and_grad(lambda x, w, y: pl.linear_softmax_loss(y, x, w), (0, 1)))
    few, many = ((400, 64, "float32"), (519, 64, "float32")), ((8192, 64, "float32"), (2000, 1024, "float32"), (2000, 64, "bfloat16"))
    for n, d, dtype in few + many:  # two chunks that are not alike in length, too
        shapes = ((n, d), dtype), ((32000, d), dtype), ((n,), "int32")
        memory = step.lower(*(jax.ShapeDtypeStruct(*x) for x in shapes)).compile().memory_analysis()
        sums = 4 * d * (n + 32000) if dtype == "bfloat16" else 0
        assert memory.temp_size_in_bytes - sums < 48e6, (n, d, dtype)  # matmuls take some MB of their own


def test_errors():
    y, features, weight, bias = some()
    bad = y.copy()
    bad[11] = C
    for lib in EXACT:
        a, b, c, d = (lib.array(x) for x in (y, features, weight, bias))
        with pytest.raises(ValueError, match=r"y_true\[11\] is 300, but logits have 300 classes on axis -1 and ignore_label is 2"):
            pl.linear_softmax_loss(lib.array(bad), b, c, ignore_label=2)
        value, gradients = value_and_grad(lib.array(bad), b, c, validate=False)
        assert np.isnan(float(value))
        assert np.isnan(lib.numpy(gradients[0])[11]).all()
        assert np.isfinite(lib.numpy(gradients[0])[10]).all()
        for chunk in (0, -3):
            with pytest.raises(ValueError, match=f"chunk is {chunk}, but must be 1 or more"):
                pl.linear_softmax_loss(a, b, c, chunk=chunk)
        with pytest.raises(TypeError, match=r"chunk is 2\.0, but must be an integer"):
            pl.linear_softmax_loss(a, b, c, chunk=2.0)
        with pytest.raises(ValueError, match=r"features have shape \(37, 6\), but must have 37 entries on the last axis, as weight"):
            pl.linear_softmax_loss(a, b, lib.array(features.T))
        with pytest.raises(ValueError, match=r"weight has shape \(300,\), but must have two axes"):
            pl.linear_softmax_loss(a, b, d)
        with pytest.raises(ValueError, match=r"bias has shape \(6,\), but must have one entry for each of the 300 rows"):
            pl.linear_softmax_loss(a, b, c, lib.array(bias[:6]))
        with pytest.raises(TypeError, match="weight has dtype int64, but must be floating"):
            pl.linear_softmax_loss(a, b, lib.array(weight.astype(np.int64)))
        with pytest.raises(ValueError, match=r"y_true has shape \(37, 300\) and dtype float32, but must hold labels"):
            pl.linear_softmax_loss(lib.array(np.zeros((N, C), np.float32)), b, c)
        with pytest.raises(ValueError, match=r"sample_weight has shape \(38,\)"):
            pl.linear_softmax_loss(a, b, c, sample_weight=lib.array(np.ones(N + 1)))
        with pytest.raises(ValueError, match=r"class_weight has shape \(2,\), but must have one entry for each of the 300 classes"):
            pl.linear_softmax_loss(a, b, c, class_weight=lib.array(np.ones(2)))
    with pytest.raises(TypeError, match="features is None"):
        pl.linear_softmax_loss(y, None, weight)
    with pytest.raises(TypeError, match="all arrays of one call must be of one array library"):
        pl.linear_softmax_loss(y, torch.from_numpy(features), weight)
    with pytest.raises(TypeError, match=r"value_and_grad\(linear_softmax_loss\): missing a required argument: 'weight'"):
        value_and_grad(y, features)
    with pytest.raises(TypeError, match="grad_and_hess takes"):
        pl.grad_and_hess(pl.linear_softmax_loss)


def test_derived_functions_pickle_and_are_made_once():
    assert value_and_grad is pl.value_and_grad(pl.linear_softmax_loss)
    y, features, weight, _ = some()
    copy = pickle.loads(pickle.dumps(value_and_grad))
    assert copy(y, features, weight)[0] == value_and_grad(y, features, weight)[0]


# -------------------------------------------------------------------------------------------------------------------- torch


def leaves(dtype="float64", bias=True, c=C):
    y, *arrays = some(dtype=dtype, c=c)
    tensors = [TORCH.array(x).requires_grad_() for x in arrays[: 3 if bias else 2]]
    return (torch.from_numpy(y), *tensors)


def torchs(y, features, weight, bias=None, **options):
    return F.cross_entropy(F.linear(features, weight, bias), y, **options)


@pytest.mark.parametrize("reduction", ["normalize", "sum", "none"])
def test_backward_is_torchs(reduction):
    y, *tensors = leaves()
    for scale in (1.0, -2.5, 0.0):
        loss = pl.linear_softmax_loss(y, *tensors, reduction=reduction, chunk=8)
        right = torchs(y, *tensors, reduction={"normalize": "mean"}.get(reduction, reduction))
        upstream = torch.linspace(-1, 1, N, dtype=torch.float64) if reduction == "none" else torch.tensor(scale, dtype=torch.float64)
        got = torch.autograd.grad(loss, tensors, upstream, retain_graph=True)
        again = torch.autograd.grad(loss, tensors, upstream)
        want = torch.autograd.grad(right, tensors, upstream)
        torch.testing.assert_close(loss, right)
        torch.testing.assert_close(got, want)
        torch.testing.assert_close(again, want)
    with pytest.raises(RuntimeError, match=r"second time|freed"):
        loss.sum().backward()


def test_second_derivatives():
    y, *tensors = leaves(c=9)

    def capped(z_loss, softcap):
        z = softcap * torch.tanh(F.linear(*tensors) / softcap)
        return F.cross_entropy(z, y) + z_loss * (z.logsumexp(1) ** 2).mean()

    terms = {"z_loss": 0.01, "softcap": 4.0}
    for create_graph in (False, True):
        pair = capped(**terms), pl.linear_softmax_loss(y, *tensors, **terms)
        torch.testing.assert_close(*(torch.autograd.grad(x, tensors, create_graph=create_graph) for x in pair))
    for reduction in ("normalize", "none"):
        first = [pl.linear_softmax_loss(y, *tensors, reduction=reduction, ignore_label=1).sum()]
        first.append(torchs(y, *tensors, reduction={"normalize": "mean"}.get(reduction, reduction), ignore_index=1).sum())
        grads = [torch.autograd.grad(x, tensors, create_graph=True) for x in first]
        torch.testing.assert_close(*grads)
        second = [torch.autograd.grad(sum((g**2).sum() for g in gs), tensors) for gs in grads]
        torch.testing.assert_close(*second)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_transforms_forward_mode_and_weights_that_require_grad():
    y, *tensors = leaves(c=9)
    detached = [x.detach() for x in tensors]

    def ours(*tensors):
        return pl.linear_softmax_loss(y, *tensors)

    def theirs(*tensors):
        return torchs(y, *tensors)

    torch.testing.assert_close(torch.func.grad(ours)(*detached), torch.func.grad(theirs)(*detached))
    with torch.autograd.forward_ad.dual_level():
        duals = [torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)) for x in detached]
        torch.testing.assert_close(*(torch.autograd.forward_ad.unpack_dual(f(*duals)).tangent for f in (ours, theirs)))
    w = torch.rand(N, dtype=torch.float64, requires_grad=True)
    (by_weight,) = torch.autograd.grad(pl.linear_softmax_loss(y, *tensors, sample_weight=w, reduction="sum"), w)
    torch.testing.assert_close(by_weight, torchs(y, *tensors, reduction="none").detach())


def test_only_what_is_needed_is_found(monkeypatch):
    """A frozen weight costs no product."""
    y, features, weight = leaves(bias=False)
    sizes = []
    empty = buffers.empty
    monkeypatch.setattr(buffers, "empty", lambda size, dtype: sizes.append(size) or empty(size, dtype))
    loss = pl.linear_softmax_loss(y, features, weight.detach())
    assert sizes == [(N, C)]
    pl.linear_softmax_loss(y, features, weight)
    assert (C, D) in sizes[1:]
    (by_features,) = torch.autograd.grad(loss, features)
    torch.testing.assert_close(by_features, torch.autograd.grad(torchs(y, features, weight), features)[0])


def test_the_node_gives_its_gradients_away():
    """What autograd accumulates is the very memory that the forward pass wrote: no copy, and nothing that keeps it."""
    y, features, weight = leaves(bias=False)
    loss = pl.linear_softmax_loss(y, features, weight)
    written = [x.data_ptr() for x in loss.grad_fn.kept[:2]]
    kept = [weakref.ref(x) for x in loss.grad_fn.kept[:2]]
    loss.backward(retain_graph=True)
    assert [features.grad.data_ptr(), weight.grad.data_ptr()] == written
    features.grad = weight.grad = None
    gc.collect()
    assert [x() for x in kept] == [None, None]


@pytest.mark.parametrize("reduction", ["normalize", "none"])
def test_a_backward_pass_within_a_function_transform(reduction):
    """As of torch's own loss; and of a batch of upstreams, whatever the reduction."""
    y, features, weight = leaves(bias=False)
    theirs = torchs(y, features, weight, reduction="none" if reduction == "none" else "mean")
    losses = pl.linear_softmax_loss(y, features, weight, reduction=reduction), theirs
    upstream = torch.linspace(0.5, 1.5, losses[0].numel(), dtype=losses[0].dtype).reshape(losses[0].shape)

    def inside(x, loss):
        for _ in range(2):
            slopes = torch.autograd.grad(loss, (features, weight), upstream, retain_graph=True)
        return sum((slope * x).sum() for slope in slopes)

    ones = torch.ones((), dtype=torch.float64)
    torch.testing.assert_close(*(torch.func.grad(lambda x, loss=loss: inside(x, loss))(ones) for loss in losses))
    batch = torch.stack((upstream, 2 - upstream))
    found, wanted = (torch.autograd.grad(loss, (features, weight), batch, is_grads_batched=True) for loss in losses)
    torch.testing.assert_close(found, wanted)


def test_an_input_written_to_is_an_error():
    y, features, weight = leaves(bias=False)
    loss = pl.linear_softmax_loss(y, features, weight)
    with torch.no_grad():
        weight += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_checkpoints_and_autocast():
    y, features, weight = leaves("float32", bias=False)
    loss = torch.utils.checkpoint.checkpoint(lambda a, b: pl.linear_softmax_loss(y, a, b), features, weight, use_reentrant=False)
    got, want = torch.autograd.grad(loss, (features, weight)), torch.autograd.grad(torchs(y, features, weight), (features, weight))
    torch.testing.assert_close(got, want)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = pl.linear_softmax_loss(y, features, weight)
    torch.testing.assert_close(torch.autograd.grad(loss, (features, weight)), want)


def test_16_bits_are_scaled_before_they_are_rounded():
    """A gradient below the least float16, times a loss scale, is all there."""
    y, features, weight = leaves("float16", bias=False)
    (got,) = torch.autograd.grad(pl.linear_softmax_loss(y, features, weight, denominator=1e9) * 1e9, weight)
    want = torch.autograd.grad(pl.linear_softmax_loss(y, features, weight, reduction="sum"), weight)[0]
    torch.testing.assert_close(got, want, rtol=2e-3, atol=1e-3)


def test_compiled():
    y, *tensors = leaves()

    def step(y, features, weight, bias, reduction):
        return pl.linear_softmax_loss(y, features * 1, weight, bias, reduction=reduction, ignore_label=(1, 2), chunk=8).sum() * 2

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for reduction in ("normalize", "none"):
        got, want = (f(y, *tensors, reduction) for f in (compiled, step))
        torch.testing.assert_close(got, want)
        torch.testing.assert_close(torch.autograd.grad(got, tensors), torch.autograd.grad(want, tensors))
        with torch.no_grad():
            torch.testing.assert_close(compiled(y, *tensors, reduction), want.detach())
    bad = y.clone()
    bad[3] = C
    with pytest.raises(ValueError, match=r"y_true\[3\] is 300"):
        compiled(bad, *tensors, "normalize")
    derived = torch.compile(value_and_grad, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(derived(y, *tensors), value_and_grad(y, *(x.detach() for x in tensors)))


@pytest.mark.skipif(not hasattr(nn, "LinearCrossEntropyLoss"), reason="new in torch 2.13")
def test_the_module_is_torchs():
    """torch.nn.LinearCrossEntropyLoss: constructor, state, numbers, dtypes; what it would broadcast or refuse is torch's own."""
    from polyloss.torch import LinearCrossEntropyLoss

    assert inspect.signature(LinearCrossEntropyLoss) == inspect.signature(nn.LinearCrossEntropyLoss)
    y, features, *_ = some(n=80, dtype="float64")
    y[:7] = -100
    y, features = torch.from_numpy(y), torch.from_numpy(features)
    k = torch.rand(C, dtype=torch.float64)
    settings = [{"options": nn.LinearCrossEntropyOptions(batch_chunk_size=9)}, {"bias": True, "label_smoothing": 0.1}]
    for options in (*settings, {"reduction": "sum", "ignore_index": 3}, {"reduction": "none", "weight": k}, {"weight": k}):
        theirs = nn.LinearCrossEntropyLoss(D, C, dtype=torch.float64, **options)
        mine = LinearCrossEntropyLoss(D, C, dtype=torch.float64, **options)
        mine.load_state_dict(theirs.state_dict())
        target = y.clamp_min(0) if "ignore_index" in options else y
        x = [features.clone().requires_grad_() for _ in range(2)]
        found, wanted = (module(a, target) for module, a in zip((mine, theirs), x, strict=True))
        torch.testing.assert_close(found, wanted)
        torch.testing.assert_close(pickle.loads(pickle.dumps(mine))(x[0], target), wanted)
        for loss in (found, wanted):
            loss.sum().backward()
        torch.testing.assert_close(x[0].grad, x[1].grad)
        torch.testing.assert_close([p.grad for p in mine.parameters()], [p.grad for p in theirs.parameters()])
    low = LinearCrossEntropyLoss(D, C, dtype=torch.bfloat16)
    assert low(features.to(torch.bfloat16), y).dtype is torch.bfloat16
    assert low(features.to(torch.bfloat16), torch.full_like(y, -100)).isnan()
    with pytest.raises(ValueError, match=r"y_true\[1\] is 300"):
        low(features.to(torch.bfloat16), torch.full_like(y, 300).index_fill(0, torch.tensor(0), 1))
    soft = torch.rand(80, C, dtype=torch.float64).softmax(1)
    torch.testing.assert_close(mine(features, soft), F.cross_entropy(F.linear(features, mine.linear.weight), soft, weight=k))
    many = [module(D, 4, out_features=(5,), dtype=torch.float64) for module in (LinearCrossEntropyLoss, nn.LinearCrossEntropyLoss)]
    many[0].load_state_dict(many[1].state_dict())
    torch.testing.assert_close(*(module(features, torch.ones(80, 5, dtype=torch.int64)) for module in many))


# ---------------------------------------------------------------------------------------------------------------------- JAX


def test_jax_grad_and_jit():
    y, *arrays = some(dtype="float64")
    w = np.random.default_rng(1).choice([0.0, 1.0, 2.0], N)
    given = [jax.numpy.asarray(x) for x in (y, *arrays, w)]
    for options in ({"reduction": "none"}, {"label_smoothing": 0.1, "ignore_label": int(y[0]), "chunk": 8}):

        def ours(features, weight, bias, w, y=given[0], options=options):
            losses = pl.linear_softmax_loss(y, features, weight, bias, sample_weight=w, **options)
            return (losses * jax.numpy.arange(1.0, N + 1)).sum() if losses.ndim else losses * 3

        def theirs(features, weight, bias, w, y=given[0], options=options):
            options = {key: x for key, x in options.items() if key != "chunk"}
            losses = pl.softmax_loss(y, features @ weight.T + bias, sample_weight=w, **options)
            return (losses * jax.numpy.arange(1.0, N + 1)).sum() if losses.ndim else losses * 3

        for which in ((0, 1, 2), (1,), (3,)):
            got, want = (jax.jit(jax.value_and_grad(f, which))(*given[1:]) for f in (ours, theirs))
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), got, want)


def test_a_product_of_jax_that_is_not_rounded_before_its_softmax():
    """XLA takes a product of one feature and the softmax's difference in one rounding: the largest probability is 1 none the less."""
    rng = np.random.default_rng(0)
    x, weight = (rng.standard_normal((64, 1)) * 8).astype("f4"), (rng.standard_normal((12, 1)) * 60).astype("f4")
    z = x.astype(float) @ weight.astype(float).T
    order = np.sort(z, axis=1)
    x, z = x[order[:, -1] - order[:, -2] > 40], z[order[:, -1] - order[:, -2] > 40]
    assert len(z) > 20
    y, top = z.argmin(1), z.argmax(1)
    k = jax.numpy.asarray(rng.choice([0.5, 2.0], 12).astype("f4"))
    _, (by_x, _) = pl.value_and_grad(pl.linear_softmax_loss)(
        jax.numpy.asarray(y), jax.numpy.asarray(x), jax.numpy.asarray(weight), class_weight=k, reduction="none"
    )
    right = np.asarray(k)[y] * (weight[top, 0].astype(float) - weight[y, 0])
    np.testing.assert_allclose(np.asarray(by_x)[:, 0], right, rtol=5e-7)


def test_jax_second_derivatives_and_vmap():
    y, features, weight, _ = some(n=5, c=4, dtype="float64")
    given = jax.numpy.asarray(features), jax.numpy.asarray(weight)

    def ours(features, weight):
        return pl.linear_softmax_loss(jax.numpy.asarray(y), features, weight, chunk=2)

    def theirs(features, weight):
        return pl.softmax_loss(jax.numpy.asarray(y), features @ weight.T)

    second = [jax.jit(jax.grad(lambda *x, f=f: (jax.grad(f)(*x) ** 2).sum()))(*given) for f in (ours, theirs)]
    np.testing.assert_allclose(*second, rtol=1e-9, atol=1e-12)
    many = jax.numpy.stack([given[0], 2 * given[0]])
    np.testing.assert_allclose(*(jax.vmap(f, (0, None))(many, given[1]) for f in (ours, theirs)), rtol=1e-9)


def test_jax_has_forward_mode_of_the_gradient_alone():
    """As the documentation says: under "normalize" and "sum", and twice in reverse under "none"."""
    y, features, weight, _ = some(n=5, c=4, dtype="float64")
    x, v = jax.numpy.asarray(features), jax.numpy.asarray(features[::-1].copy())
    for reduction in ("normalize", "sum", "none"):

        def ours(x, reduction=reduction):
            return pl.linear_softmax_loss(jax.numpy.asarray(y), x, jax.numpy.asarray(weight), reduction=reduction).sum()

        def theirs(x, reduction=reduction):
            return pl.softmax_loss(jax.numpy.asarray(y), x @ jax.numpy.asarray(weight).T, reduction=reduction).sum()

        with pytest.raises(TypeError, match=r"forward-mode autodiff \(jvp\) to a custom_vjp"):
            jax.jvp(ours, (x,), (v,))
        along = jax.jvp(theirs, (x,), (v,))[1]
        np.testing.assert_allclose(jax.numpy.vdot(jax.grad(ours)(x), v), along, rtol=1e-9, atol=1e-12)
        if reduction == "none":
            second = [jax.grad(lambda x, f=f: jax.numpy.vdot(jax.grad(f)(x), v))(x) for f in (ours, theirs)]
        else:
            second = [jax.jvp(jax.grad(f), (x,), (v,))[1] for f in (ours, theirs)]
        np.testing.assert_allclose(*second, rtol=1e-9, atol=1e-12)


def test_jax_traced_labels():
    y, features, weight, _ = some(dtype="float64")
    bad = y.copy()
    bad[2] = C
    by = jax.jit(jax.grad(lambda y, features: pl.linear_softmax_loss(y, features, weight=jax.numpy.asarray(weight), chunk=8), 1))
    gradient = np.asarray(by(jax.numpy.asarray(bad), jax.numpy.asarray(features)))
    assert np.isnan(gradient[2]).all()
    assert np.isfinite(gradient[3:]).all()


def test_jax_holds_no_logits():
    """No array of the program has a row for each of the features' and a column for each class."""
    y, features, weight, _ = some(n=64, dtype="float32")
    given = [jax.numpy.asarray(x) for x in (y, features, weight)]
    program = jax.jit(jax.value_and_grad(lambda y, *rest: pl.linear_softmax_loss(y, *rest, chunk=16), (1, 2))).lower(*given).as_text()
    assert f"tensor<16x{C}xf32>" in program
    assert f"tensor<64x{C}xf32>" not in program


@pytest.mark.parametrize("lib", EXACT, ids=repr)
def test_weights_that_add_up_to_0_and_unchecked_labels(lib):
    """Nothing counted, nothing lost; the weight of a bad label is in no sum."""
    y, features, weight, _ = some(dtype="float64")
    arrays = [lib.array(x) for x in (np.zeros_like(y), features, weight)]
    value, slopes = value_and_grad(*arrays, class_weight=lib.array(np.arange(float(C))))
    assert lib.numpy(value) == 0
    assert not any(lib.numpy(x).any() for x in slopes)
    k = np.arange(1.0, C + 1)
    y = np.array(y)
    y[1] = C + 3
    arrays, options = [lib.array(x) for x in (y, features, weight)], {"class_weight": lib.array(k), "validate": False}
    mean, total = (pl.grad(pl.linear_softmax_loss)(*arrays, reduction=reduction, **options)[0] for reduction in ("normalize", "sum"))
    np.testing.assert_allclose(lib.numpy(mean) * (k[y[y < C]]).sum(), lib.numpy(total), rtol=1e-12)
    assert np.isnan(lib.numpy(mean)).any(axis=1).tolist() == (y >= C).tolist()
