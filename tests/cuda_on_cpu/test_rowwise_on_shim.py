"""rowwise.cu and its host code, run on the CPU by the shim, against the blocks' own formulas in float64."""

import ml_dtypes
import numpy as np
import pytest
import stand_in as device
from cpu_module import KernelError

import polyloss as pl
from polyloss._kernels.gpu import cuda
from polyloss.torch import FlooredCosine

LOSSES = cuda.formulas("formulas/rowwise.h")
STORAGE = {"float16": np.dtype("f2"), "bfloat16": np.dtype(ml_dtypes.bfloat16), "float32": np.dtype("f4"), "float64": np.dtype("f8")}
REAL = {name: np.dtype("f8" if name == "float64" else "f4") for name in STORAGE}
PARAMETERS = {
    "epsilon": 2.0**-10,
    "label_smoothing": 0.125,
    "alpha": 0.25,
    "gamma": 1.5,
    "margin": 0.75,
    "power": 2,
    "average": True,
    "q": 0.7,
}
SPARSE, FOCAL, HINGE = "sparse_categorical_crossentropy", "categorical_focal_crossentropy", "multiclass_hinge"
GENERALIZED = "generalized_crossentropy"
LABELLED = (SPARSE, HINGE, "brier", GENERALIZED)

# n, c, s: lanes of a warp, whole warps, one element more; a block; positions beside each other.
SHAPES = [(1, 1, 1), (70, 2, 1), (67, 5, 1), (9, 33, 1), (5, 512, 1), (3, 513, 1), (2, 1027, 1), (2, 3, 16), (3, 21, 37)]
FEW = [(67, 5, 1), (2, 1027, 1), (3, 21, 37)]


def sample(loss, shape, dtype="float32", weighted=False, labels="i8"):
    """Random predictions and targets in the loss's domain."""
    rng = np.random.default_rng([len(loss), *shape])
    n, c, s = shape
    signed = "hinge" in loss or "cosine" in loss or "logits" in loss
    p = 2 * rng.standard_normal(shape) if signed else rng.uniform(0.05, 1, shape)
    y = rng.integers(0, c, (n, s))
    t = np.moveaxis(np.eye(c)[y], -1, 1)
    if "cosine" in loss:
        t = rng.standard_normal(shape)
    elif loss != "categorical_hinge":
        t[1::2] = rng.dirichlet(np.ones(c), (n, s)).transpose(0, 2, 1)[1::2]
    case = {"loss": loss, "dtype": dtype, "p": p.astype(STORAGE[dtype]), "y": t.astype(REAL[dtype])}
    case["parameters"] = tuple(PARAMETERS[name] for name in LOSSES[loss])
    if loss in LABELLED:
        case["y"] = y.astype(labels)
    if loss == SPARSE:
        case["ignore"] = (1,)
    if weighted:
        case["weight"] = rng.uniform(0, 2, (n, s)).astype(REAL[dtype])
        case["weight"][rng.random((n, s)) < 0.3] = 0
        case["weight"][0, 0] = 1
    return case


def truth(loss, p, y, dtype, parameters, ignore=(), weight=None, divisor=1.0):
    """What the kernel must give, by the public function on the formula's route, in float64."""
    given = dict(zip(LOSSES[loss], parameters, strict=True)) | ({"from_logits": True} if "logits" in loss else {})
    given |= {"ignore_class": ignore} if ignore else {}
    if loss == "floored_cosine_similarity":  # of torch's module: no public function
        return floored(given["epsilon"], y, p, weight, divisor)
    name = loss.removesuffix("_from_logits")
    y = y if loss in LABELLED else np.asarray(y, np.float64)
    options = {**given, "axis": 1, "validate": False, "sample_weight": None if weight is None else weight.astype(np.float64)}
    losses, grad = formula(pl.value_and_grad(name), y, np.asarray(p, np.float64), **options)
    _, hess = formula(pl.grad_and_hess(name), y, np.asarray(p, np.float64), **options)
    if isinstance(divisor, str):
        kept = np.isin(y, ignore, invert=True) if loss == SPARSE else np.ones(losses.shape, bool)
        divisor = kept.sum() if divisor == "count" else ((1 if weight is None else weight) * kept).sum(dtype=np.float64)
    return {"losses": losses, "grad": grad / divisor, "hess": hess / divisor, "value": losses.sum() / divisor}


def floored(epsilon, y, p, weight, divisor):
    """The same by the block's formulas."""
    y, p = np.asarray(y, np.float64), np.asarray(p, np.float64)
    weight = np.ones((p.shape[0], p.shape[2])) if weight is None else np.asarray(weight, np.float64)
    divisor = weight.sum() if isinstance(divisor, str) else divisor
    losses, grad, hess = (f(np, y, p, epsilon) for f in (FlooredCosine.value, FlooredCosine.slope, FlooredCosine.curvature))
    losses, grad, hess = losses * weight, grad * weight[:, None] / divisor, hess * weight[:, None] / divisor
    return {"losses": losses, "grad": grad, "hess": hess, "value": losses.sum() / divisor}


def formula(function, *arguments, **options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYLOSS_ROUTE", "formula")
        return function(*arguments, **options)


def run(case, want=("losses", "grad", "hess"), divisor=1.0, shift=0):
    """The call on the device as it is; `shift`: elements before the arrays of the predictions' shape, which then begin anywhere."""
    shape, dtype = case["p"].shape, case["dtype"]

    def placed(x):
        array = device.empty((shift + x.size,), x.dtype)[shift:].reshape(shape)
        device.fill(array, x)
        return array

    p, y = placed(case["p"]), device.asarray(case["y"]) if case["loss"] in LABELLED else placed(case["y"])
    arrays = {"weight": device.asarray(case["weight"])} if "weight" in case else {}
    rest = {name: v for name, v in case.items() if name not in ("p", "y", "weight")}
    empty = np.empty(shape, STORAGE[dtype])
    out = {name: device.empty((shape[0], shape[2]), REAL[dtype]) if name == "losses" else placed(empty) for name in want}
    reduced = cuda.rowwise(device.namespace, p, y, divisor=divisor, **arrays, **rest, **out)
    out = {name: device.host(x, None if name == "losses" else STORAGE[dtype]) for name, x in out.items()}
    return {**out, "value": device.host(reduced.value), "numbers": device.host(reduced.numbers)}


def check(got, case, divisor=1.0):
    """float32 within 4e-6 of the formulas in float64, the storage's rounding apart."""
    expected = truth(**case, divisor=divisor)
    bound = 1e-12 if case["dtype"] == "float64" else 4e-6
    storage = ml_dtypes.finfo(STORAGE[case["dtype"]])
    last = float(storage.eps) if STORAGE[case["dtype"]].itemsize == 2 else 0
    for name in got.keys() - {"numbers"}:
        e = expected[name]
        size = np.max(np.abs(e), axis=1, keepdims=True, where=np.isfinite(e), initial=1e-3) if np.ndim(e) == 3 else 1.0
        x, error = np.asarray(got[name], np.float64), bound * size + (bound + (last if np.ndim(e) == 3 else 0)) * np.abs(e)
        same = np.abs(x - e) <= error + float(storage.smallest_subnormal)
        assert (same | (np.isnan(x) & np.isnan(e))).all(), (name, x[~same], np.broadcast_to(e, x.shape)[~same])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("shape", "dtype"), list(zip(FEW, ("float32", "float64", "bfloat16"), strict=True)), ids=str)
def test_every_loss(loss, shape, dtype):
    case = sample(loss, shape, dtype, weighted=True)
    for divisor in (3.0, "weights"):
        with device.device():
            check(run(case, divisor=divisor), case, divisor)


@pytest.mark.parametrize("seed", [0] if device.REAL else [0, 1, 7])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_way_to_spread_a_launch(shape, seed):
    for loss in (FOCAL, SPARSE, "categorical_hinge"):
        case = sample(loss, shape, weighted=True)
        with device.device(seed=seed):
            check(run(case), case)
    for power, average in ((1, False), (2, False), (1, True)):
        case = sample(HINGE, shape, weighted=True) | {"parameters": (1.0, power, average)}
        with device.device(seed=seed):
            check(run(case), case)


@pytest.mark.parametrize("shift", [1, 2, 3])
@pytest.mark.parametrize("shape", FEW, ids=str)
def test_arrays_that_begin_anywhere(shape, shift):
    case = sample(FOCAL, shape)
    with device.device():
        check(run(case, shift=shift), case)


@pytest.mark.parametrize("want", [("losses",), ("grad",), ("hess",), ()], ids=str)
@pytest.mark.parametrize("loss", [FOCAL, SPARSE])
def test_what_is_not_asked_for_is_not_written(loss, want):
    case = sample(loss, (67, 5, 1))
    with device.device():
        check(run(case, want), case)


@pytest.mark.parametrize("kind", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8"])
def test_labels_are_mathematical_integers(kind):
    case = sample(SPARSE, (40, 100, 1), labels=kind)
    top = {"u1": 255, "u2": 2**16 - 1, "u4": 2**32 - 1, "u8": 2**64 - 1}.get(kind, -1)
    case["y"][3], case["y"][5] = top, 4
    case["ignore"] = (4, top)
    with device.device():
        check(run(case, divisor="count"), case, "count")
    case["ignore"] = (4,)
    with device.device():
        got = run(case)
    assert got["numbers"][4] == 3
    assert np.isnan(got["losses"][3]).all()
    assert np.isnan(got["grad"][3]).all()
    assert np.isfinite(np.delete(got["losses"], 3)).all()


@pytest.mark.parametrize("shape", FEW, ids=str)
@pytest.mark.parametrize("label", [-1, 2**31, 2**40, -(2**63)])
def test_bad_labels_read_nothing(shape, label):
    """The first one is named, and the fences around the predictions hold."""
    case = sample(SPARSE, shape)
    case["y"][-1, -1] = case["y"][1, 0] = label
    for divisor in (1.0, "count"):
        with device.device():
            got = run(case, divisor=divisor)
        assert got["numbers"][4] == shape[2]
        assert np.isnan(got["losses"][1, 0])
        assert np.isnan(got["grad"][1, :, 0]).all()
        assert np.isfinite(got["grad"][0]).all()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("shape", FEW, ids=str)
def test_skipped_positions_leak_nothing(loss, shape):
    case = sample(loss, shape, weighted=True)
    case["p"][1] = np.nan
    case["weight"][1] = 0
    with device.device():
        got = run(case)
    assert not got["losses"][1].any()
    assert not got["grad"][1].any()
    assert not got["hess"][1].any()
    assert np.isfinite(got["value"])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_rows_that_are_no_numbers_stay_alone(loss, wrong):
    """The value of such a row is the formula's; the other rows do not know of it."""
    case = sample(loss, (6, 5, 1))
    case["p"][2, 3] = wrong
    if loss in (SPARSE, GENERALIZED):  # no ignored label; and the label's prediction, which alone is looked at
        case["y"][2] = 3
    with device.device():
        got = run(case)
    clean = {**case, "p": np.where(np.isfinite(case["p"]), case["p"], 1)}
    expected = truth(**clean)
    for name in ("losses", "grad", "hess"):
        others = np.delete(np.arange(6), 2)
        np.testing.assert_allclose(got[name][others], expected[name][others], rtol=1e-5, atol=1e-5)
    if np.isnan(wrong):
        assert np.isnan(got["losses"][2, 0])


def test_generalized_crossentropy_looks_at_the_label_alone():
    for wrong in (np.nan, np.inf, -1.0):
        case = sample(GENERALIZED, (6, 5, 1))
        expected = truth(**case)
        others = np.arange(5)[None, :, None] != case["y"][:, None]
        case["p"][others] = wrong
        with device.device():
            got = run(case)
        for name in ("losses", "grad", "hess"):
            np.testing.assert_allclose(got[name], expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("power", "size"), [(1, 2e37), (1, 3e38), (2, 1.5e19)])
def test_averages_of_hinges_whose_sum_is_too_large(power, size):
    """Terms are divided by the number of classes before they are added: their sum may be too large, and one excess, too."""
    case = sample(HINGE, (3, 100, 1))
    case["parameters"] = (0.75, power, True)
    case["y"][:] = 0
    case["p"][:] = size
    case["p"][:, 0] = 0
    case["p"][1, 0] = case["p"][2, 1::2] = 0 if power == 2 else -1e38
    case["p"][1, 50:] = 0
    expected = truth(**case)
    with device.device():
        got = run(case)
    assert expected["losses"].max() > size / 4
    for name in ("losses", "grad", "hess"):
        right = expected[name].astype("f4") if name == "losses" else expected[name]
        np.testing.assert_allclose(got[name], right, rtol=2e-6)


@pytest.mark.parametrize("scale", [1e-37, 1e-30, 1.0, 1e30])
def test_cosine_at_any_scale(scale):
    """Of normal numbers: subnormal ones count as 0 on a GPU."""
    case = sample("cosine_similarity", (6, 5, 1))
    case["p"] = np.tile(np.array([3, 4, 0, 0, 0], "f4")[:, None] * np.float32(scale), (6, 1, 1))
    case["y"] = np.tile(np.array([4, 3, 0, 0, 0], "f4")[:, None], (6, 1, 1))
    case["y"][4] = 0
    case["y"][5] = case["p"][5]
    with device.device():
        got = run(case)
    unit = (case["p"][0, :, 0] / np.float64(scale)).astype(float)
    np.testing.assert_allclose(got["losses"][:4, 0], -(4 * unit[0] + 3 * unit[1]) / 5 / np.hypot(*unit[:2]), rtol=1e-5)
    np.testing.assert_allclose(got["losses"][:4, 0], -0.96, rtol=1e-6)
    assert got["losses"][4] == 0
    assert not got["grad"][4].any()
    np.testing.assert_allclose(got["losses"][5], -1, rtol=2e-7)
    assert not got["grad"][5].any()


@pytest.mark.parametrize("loss", ["categorical_crossentropy", FOCAL, SPARSE, "categorical_focal_crossentropy_from_logits"])
def test_small_losses_and_slopes_keep_their_digits(loss):
    """1 - p of a class that is all but certain, and the slope there, which is a difference of almost equal sums."""
    p = np.full((4, 6, 1), 2.0**-22, "f4")
    p[:, 2] = 1
    case = {"loss": loss, "dtype": "float32", "p": np.log(p) if "logits" in loss else p, "y": np.zeros((4, 6, 1), "f4")}
    case["y"][:, 2] = 1
    if loss == SPARSE:
        case["y"] = np.full((4, 1), 2)
    case["parameters"] = tuple({"epsilon": 0.0, "label_smoothing": 0.0, "alpha": 1.0, "gamma": 1.0}[name] for name in LOSSES[loss])
    with device.device():
        got = run(case)
    expected = truth(**case)
    np.testing.assert_allclose(got["losses"], expected["losses"], rtol=1e-6)
    np.testing.assert_allclose(got["grad"][:, 2], expected["grad"][:, 2], rtol=2e-6)


def test_the_same_bits_in_every_order():
    case = sample(FOCAL, (30, 700, 1), weighted=True)
    results = []
    for seed in (0,) * 2 if device.REAL else (0, 1, 5):
        with device.device(seed=seed):
            results.append(run(case, divisor="weights"))
    for other in results[1:]:
        for name, x in results[0].items():
            assert x.tobytes() == other[name].tobytes(), name


def test_more_elements_than_31_bits_count():
    """Only the last of 130 rows of 2^24 classes is read; the others are ignored, and their memory is never touched."""
    n, c = 130, 1 << 24
    p = device.namespace.zeros((n, c, 1), dtype=np.float16) if device.REAL else device.Array(np.zeros((n, c, 1), np.float16))
    p[-1, 5] = p[-1, 7] = 3.0
    y = device.asarray(np.where(np.arange(n) == n - 1, 5, -1)[:, None])
    losses = device.empty((n, 1), "f4")
    with device.device():
        cuda.rowwise(device.namespace, p, y, loss=SPARSE, dtype="float16", parameters=(1e-7,), ignore=(-1,), losses=losses)
    np.testing.assert_allclose(device.host(losses)[-1], np.log(2), rtol=1e-6)
    assert not device.host(losses)[:-1].any()


@device.ON_SHIM
@pytest.mark.parametrize("shape", [(9, 10, 1), (5, 127, 1), (3, 600, 1), (2, 5, 7)], ids=str)
def test_no_data_race(shape, monkeypatch):
    monkeypatch.setattr(cuda, "BLOCKS", 2)  # each takes several rows
    cuda.plan_rows.cache_clear()
    case = sample(FOCAL, shape, weighted=True)
    with device.device(racecheck=True):
        check(run(case, divisor="weights"), case, "weights")


FAULTS = {  # file, text, replacement, loss, shape, race check
    "half of a warp is not merged": ("device.cuh", "by = lanes / 2", "by = lanes / 4", FOCAL, (67, 40, 1), False),
    "two merges share one room": ("rowwise.cu", "turn ^= 1;", "turn ^= 0;", FOCAL, (6, 600, 1), True),
    "skipped rows are looked at": ("rowwise.cu", "position.live && k.first != 0", "true", FOCAL, (67, 5, 1), False),
    "a class too many": ("rowwise.cu", "c < job.c; c++, at += job.s", "c <= job.c; c++, at += job.s", FOCAL, (3, 21, 37), False),
    "the own term stays in the sum": ("rowwise.cu", "first - pull", "-pull", FOCAL, (67, 5, 1), False),
    "the last of the largest": ("rowwise.cu", "c < first", "c > first", "categorical_hinge", (67, 5, 1), False),
    "ignored labels are counted": ("launch.cuh", "sums.count += y != kIgnored", "sums.count += 1", SPARSE, (67, 5, 1), False),
    "bad labels pass": ("launch.cuh", "static_cast<unsigned long long>(job.c) ? y : kBad", "static_cast<unsigned long long>(job.c) ? y : 0",
                        SPARSE, (67, 5, 1), False),
}  # fmt: skip


def challenge(loss, shape, racecheck):
    case = sample(loss, shape, weighted=True)
    case["weight"][:] = 1
    case["p"][1], case["weight"][1] = np.nan, 0
    if loss == "categorical_hinge":
        case["p"][0] = 1
        case["y"][0] = np.eye(shape[1])[2][:, None]
    if loss == SPARSE:
        case["y"][3, 0] = shape[1]
    with device.device(racecheck=racecheck):
        got = run(case, ("losses", "grad"), divisor="count")
    check({name: x for name, x in got.items() if loss != SPARSE or name != "value"}, case, "count" if loss != SPARSE else got["numbers"][5])
    if loss == SPARSE:
        assert got["numbers"][3] == (~np.isin(case["y"], case["ignore"])).sum()


@device.ON_SHIM
@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_found(fault, tmp_path, monkeypatch):
    file, text, replacement, loss, shape, racecheck = FAULTS[fault]
    monkeypatch.setattr(cuda, "BLOCKS", 2)
    cuda.plan_rows.cache_clear()
    challenge(loss, shape, racecheck)
    device.change(monkeypatch, tmp_path, file, text, replacement)
    with pytest.raises((KernelError, AssertionError)):
        challenge(loss, shape, racecheck)


@pytest.fixture(autouse=True)
def _plans_are_forgotten():
    yield
    cuda.plan_rows.cache_clear()


def test_the_job_has_one_layout():
    """Fields of ROWS and of the kernels' Rows: names, offsets and sizes."""
    fields = {name: offset for name, (_, offset, *_) in cuda.ROWS.fields.items()}
    checks = "".join(f"static_assert(__builtin_offsetof(Rows<float>, {name}) == {offset});\n" for name, offset in fields.items())
    checks += f"static_assert(sizeof(Rows<float>) == {cuda.ROWS.itemsize});\n"
    device.holds("rowwise.cu", checks)
