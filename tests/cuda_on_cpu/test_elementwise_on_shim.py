"""elementwise.cu and its host code, run on the CPU by the shim, against the blocks' own formulas in float64."""

import inspect

import ml_dtypes
import numpy as np
import pytest
import stand_in as device
from cpu_module import KernelError

import polyloss.torch
from polyloss import classification, deviance, regression, similarity
from polyloss._core.block import Elementwise
from polyloss._kernels.gpu import cuda

STORAGE = {"float16": np.dtype("f2"), "bfloat16": np.dtype(ml_dtypes.bfloat16), "float32": np.dtype("f4"), "float64": np.dtype("f8")}
REAL = {name: np.dtype("f8" if name == "float64" else "f4") for name in STORAGE}
BLOCKS = {
    block.kernel: block
    for module in (regression, deviance, classification, similarity, polyloss.torch)
    for block in vars(module).values()
    if inspect.isclass(block) and issubclass(block, Elementwise) and block.kernel
}
PARAMETERS = {
    "epsilon": 1e-3,
    "label_smoothing": 0.1,
    "delta": 0.7,
    "apply_class_balancing": 1.0,
    "alpha": 0.3,
    "gamma": 1.7,
    "zero_one": 1.0,
    "full": 1.0,
    "beta": 0.7,
    "quantile": 0.3,
    "power": 1.5,
    "margin": 0.6,
    "pos_weight": 2.5,
}
# n, c, s and whether weights make the positions differ: element by element; lanes of a warp, a block; positions by packs and one by one.
SHAPES = [
    (7, 5, 1, False),
    (3, 11, 6, False),
    (70, 1, 1, True),
    (9, 10, 1, True),
    (5, 127, 1, True),
    (3, 600, 1, True),
    (2, 3, 16, True),
    (2, 3, 7, True),
]


def sample(loss, shape, dtype="float32", weighted=False):
    """Random predictions and targets in the loss's domain, some on its borders."""
    rng = np.random.default_rng([len(loss), *shape])
    n, _, s = shape
    unit = "crossentropy" in loss or "kl" in loss
    p = rng.uniform(0.02, 0.98, shape) if unit and "logits" not in loss else rng.standard_normal(shape) * (1 if unit else 2)
    if loss in ("poisson", "mean_squared_logarithmic_error") or loss.endswith("_deviance"):
        p = abs(p) + (0.1 if "deviance" in loss else 0)
    binary = BLOCKS[loss].scan_targets is not None
    t = rng.integers(0, 2, shape) if binary else rng.uniform(0, 1, shape) if unit else abs(rng.standard_normal(shape)) + 0.1
    if unit:
        t.reshape(-1)[::3] = rng.integers(0, 2, t.reshape(-1)[::3].shape)
    case = {"loss": loss, "dtype": dtype, "p": p.astype(STORAGE[dtype]), "t": t.astype(REAL[dtype]), "mean": BLOCKS[loss].combine == "mean"}
    case["parameters"] = tuple(PARAMETERS[name] for name in cuda.formulas()[loss])
    if weighted:
        case["weight"] = rng.uniform(0, 2, (n, s)).astype(REAL[dtype])
        case["weight"][rng.random((n, s)) < 0.3] = 0
    return case


def truth(loss, p, t, dtype, mean, parameters, weight=None, divisor=1.0, scan=False):
    """What the kernel must give, by the block's formulas."""
    block, p, t = BLOCKS[loss], np.asarray(p, np.float64), np.asarray(t, np.float64)
    given = {name: float(np.float32(v)) if dtype != "float64" else v for name, v in zip(cuda.formulas()[loss], parameters, strict=True)}
    if block.scan_targets:
        t = 2 * t - 1 if given["zero_one"] else t
    elif "label_smoothing" in given:
        t = t - given.pop("label_smoothing") * (t - 0.5)
    given = {name: v for name, v in given.items() if name in inspect.signature(block.value).parameters}
    w = np.ones((p.shape[0], p.shape[2])) if weight is None else np.asarray(weight, np.float64)
    if isinstance(divisor, str):
        divisor = w.sum()
    skip, k = w == 0, (1 / p.shape[1] if mean else 1.0) * w
    with np.errstate(all="ignore"):
        losses = np.where(skip, 0, k * block.value(np, t, p, **given).sum(1))
        grad, hess = (np.where(skip[:, None], 0, k[:, None] * f(np, t, p, **given)) for f in (block.slope, block.curvature))
    return {"losses": losses, "grad": grad / divisor, "hess": hess / divisor, "value": losses.sum() / divisor}


def run(case, want=("grad", "hess"), divisor=1.0, scan=False):
    shape, dtype = case["p"].shape, case["dtype"]
    arrays = {name: device.asarray(case[name]) for name in ("p", "t", "weight") if name in case}
    rest = {name: v for name, v in case.items() if name not in ("p", "t", "weight")}
    out = {
        name: device.empty((shape[0], shape[2]), REAL[dtype]) if name == "losses" else device.empty(shape, STORAGE[dtype]) for name in want
    }
    p, t = arrays.pop("p"), arrays.pop("t")
    reduced = cuda.elementwise(device.namespace, p, t, divisor=divisor, scan=scan, **arrays, **rest, **out)
    out = {name: device.host(x, None if name == "losses" else STORAGE[dtype]) for name, x in out.items()}
    return {**out, "value": device.host(reduced.value)}


def check(got, case, divisor=1.0):
    """float32 within 3e-6 of the formulas in float64, the storage's rounding apart."""
    expected = truth(**case, divisor=divisor)
    bound = 1e-13 if case["dtype"] == "float64" else 3e-6
    storage = ml_dtypes.finfo(STORAGE[case["dtype"]])
    last = float(storage.eps) if STORAGE[case["dtype"]].itemsize == 2 else 0
    for name, x in got.items():
        e = expected[name]
        size = np.max(np.abs(e), initial=1e-3, where=~np.isnan(e))
        np.testing.assert_allclose(
            np.asarray(x, np.float64),
            e,
            rtol=bound + (last if name in ("grad", "hess") else 0),
            atol=bound * size / 10 + float(storage.smallest_subnormal),
            err_msg=name,
        )


@pytest.mark.parametrize("loss", cuda.formulas())
def test_every_formula(loss):
    case = sample(loss, (9, 10, 1), weighted=True)
    with device.device():
        check(run(case, ("losses", "grad", "hess")), case)


def test_every_block_has_its_formula():
    assert set(BLOCKS) == set(cuda.formulas())


@pytest.mark.parametrize("seed", [0] if device.REAL else [0, 1, 7])
@pytest.mark.parametrize(("n", "c", "s", "weighted"), SHAPES)
def test_every_way_to_spread_a_launch(n, c, s, weighted, seed):
    case = sample("huber", (n, c, s), weighted=weighted)
    with device.device(seed=seed):
        check(run(case, ("losses", "grad") if weighted else ("grad",)), case)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize(("n", "c", "s", "weighted"), [(7, 5, 1, False), (5, 127, 1, True), (2, 3, 16, True)])
def test_storage_types(n, c, s, weighted, dtype):
    case = sample("huber", (n, c, s), dtype, weighted)
    with device.device():
        check(run(case), case)


@pytest.mark.parametrize("divisor", ["weights", "array"])
def test_divisors_on_the_device(divisor):
    case = sample("huber", (9, 10, 1), weighted=True)
    with device.device():
        got = run(case, divisor=device.asarray(np.float32(2.5)) if divisor == "array" else divisor)
    check(got, case, 2.5 if divisor == "array" else divisor)


@pytest.mark.parametrize(("n", "c", "s"), [(9, 10, 1), (5, 127, 1), (2, 3, 16), (2, 3, 7)])
def test_skipped_positions_leak_nothing(n, c, s):
    case = sample("huber", (n, c, s), weighted=True)
    case["p"][1], case["weight"][1] = np.nan, 0
    with device.device():
        got = run(case, ("losses", "grad", "hess"))
        check(got, case)
    assert not got["grad"][1].any()


@pytest.mark.parametrize(("n", "c", "s"), [(1, 50, 1), (9, 10, 1), (2, 3, 16), (2, 3, 7)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_weight_that_the_divisor_makes_0_hides_no_nan(n, c, s, dtype):
    """Element by element, in rows, and in columns by packs and one by one."""
    size = 1e30 if dtype == "float32" else 1e200
    case = sample("huber", (n, c, s), dtype)
    case["weight"] = np.full((n, s), size, REAL[dtype])
    case["p"][-1], case["weight"][-1] = np.nan, 1 / size
    with device.device():
        check(run(case, divisor=size), case, size)
        out = run(case, divisor=0.0)
    assert not out["grad"].any()
    assert not out["hess"].any()


@pytest.mark.parametrize("weight", [None, 2.0, 0.0])
def test_one_position(weight):
    """Its loss is the sum: spread over the whole device, as an array of any length."""
    case = sample("huber", (1, 3000, 1))
    if weight is not None:
        case["weight"] = np.full((1, 1), weight, "f4")
    if weight == 0:
        case["p"][:] = np.nan
    with device.device():
        check(run(case, ("losses", "grad")), case)
        if weight:
            check(run(case, divisor="weights"), case, "weights")


@pytest.mark.parametrize("weight", [2.0, 0.0])
@pytest.mark.parametrize("shape", [(70, 1, 1), (5, 3, 1), (1, 3, 16), (2, 3, 16)], ids=str)
def test_one_weight_for_all(monkeypatch, shape, weight):
    """What autograd hands down to a loss that was reduced: positions need not be told apart."""
    launched, run_kernel = [], cuda._Call.run
    monkeypatch.setattr(cuda._Call, "run", lambda call, name, *rest: (launched.append(name), run_kernel(call, name, *rest)))
    case, shown = sample("huber", shape), (shape[0], shape[2])
    case["weight"] = np.full(shown, weight, "f4")
    if weight == 0:
        case["p"][0] = np.nan
    out = {name: device.empty(shape, "f4") for name in ("grad", "hess")}
    given = {name: device.asarray(case[name]) for name in ("p", "t")} | {key: case[key] for key in ("loss", "dtype", "parameters", "mean")}
    one = device.as_strided(device.asarray(np.full((1, 1), weight, "f4")), shown, (0, 0))
    with device.device():
        reduced = cuda.elementwise(device.namespace, weight=one, **given, **out)
    assert launched == ["flat<float,huber>"]
    check({name: device.host(x) for name, x in out.items()} | {"value": device.host(reduced.value)}, case)


@pytest.mark.parametrize(("low", "binary"), [(0, True), (-1, False)])
def test_hinge_scans_its_targets(low, binary):
    """Keras' rule: 0 and 1 stand for -1 and 1 if there is nothing else, of weight 0 apart."""
    case = sample("hinge", (9, 10, 1), weighted=True)
    case["t"][case["t"] == 0] = low
    case["t"][0], case["weight"][0] = -1, 0
    with device.device():
        got = run(case, ("losses", "grad"), scan=True)
    case["parameters"] = (float(binary),)
    check(got, case)


def test_arrays_that_begin_anywhere():
    case = sample("huber", (3, 11, 6))
    flat = {name: device.empty((199,), "f4")[1:].reshape(3, 11, 6) for name in ("p", "t", "grad")}
    device.fill(flat["p"], case["p"])
    device.fill(flat["t"], case["t"])
    with device.device():
        cuda.elementwise(device.namespace, **flat, loss="huber", dtype="float32", parameters=case["parameters"])
    check({"grad": device.host(flat["grad"])}, case)


@device.ON_SHIM
@pytest.mark.parametrize(("n", "c", "s", "weighted"), [SHAPES[0], SHAPES[4], SHAPES[5], SHAPES[6]])
def test_no_data_race(n, c, s, weighted):
    case = sample("huber", (n, c, s), weighted=weighted)
    with device.device(racecheck=True):
        check(run(case, divisor="weights" if weighted else 1.0), case, "weights" if weighted else 1.0)


FAULTS = {  # text, replacement, shape, race check
    "lanes are not added": ("by = size / 2", "by = size / 4", (5, 127, 1), False),
    "skipped elements are multiplied": ("w[j] == 0 ? A(0) : Loss::value", "w[j] * Loss::value", (9, 10, 1), False),
    "every thread reports the row": ("if (rank == 0 && inside)", "if (inside)", (5, 127, 1), True),
    "the first block's elements are everyone's": (
        "thread = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x",
        "thread = threadIdx.x",
        (100, 2, 16),
        False,
    ),
    "one position too many": ("const bool inside = row < job.n", "const bool inside = row <= job.n", (5, 127, 1), False),
}


@device.ON_SHIM
@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_found(fault, tmp_path, monkeypatch):
    text, replacement, shape, racecheck = FAULTS[fault]

    def challenge():
        case = sample("mean_absolute_error", shape, weighted=True)
        case["p"][1], case["weight"][1] = np.nan, 0
        with device.device(racecheck=racecheck):
            check(run(case, ("losses", "grad")), case)

    challenge()
    device.change(monkeypatch, tmp_path, "elementwise.cu", text, replacement)
    with pytest.raises((KernelError, AssertionError)):
        challenge()


def test_the_job_has_one_layout():
    """Fields of ELEMENTS and of the kernels' Elements: names, offsets and sizes."""
    fields = {name: offset for name, (_, offset, *_) in cuda.ELEMENTS.fields.items()}
    checks = "".join(f"static_assert(__builtin_offsetof(Elements<float>, {name}) == {offset});\n" for name, offset in fields.items())
    checks += f"static_assert(sizeof(Elements<float>) == {cuda.ELEMENTS.itemsize});\n"
    device.holds("elementwise.cu", checks)
