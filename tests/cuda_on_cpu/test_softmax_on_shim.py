"""softmax_xent.cu and its host code, run on the CPU by the shim, against sums in extended precision."""

from typing import NamedTuple

import ml_dtypes
import numpy as np
import pytest
import stand_in as device
from cpu_module import KernelError

from polyloss._kernels.gpu import cuda

STORAGE = {"float16": np.dtype("f2"), "bfloat16": np.dtype(ml_dtypes.bfloat16), "float32": np.dtype("f4"), "float64": np.dtype("f8")}
REAL = {name: np.dtype("f8" if name == "float64" else "f4") for name in STORAGE}
IGNORED = (-7, 3)

# A shape for each way a launch is spread, on both sides of its borders: lanes of a warp, whole warps, one pack or element more; rows that
# begin anywhere in 16 bytes; positions by packs and one by one. (n, c, s)
SHAPES = {
    "lanes": [(1, 1, 1), (70, 2, 1), (67, 5, 1), (40, 10, 1), (9, 33, 1), (5, 127, 1), (6, 512, 1), (3, 513, 1), (2, 1024, 1)],
    "block": [(3, 1025, 1), (2, 1027, 1), (1, 4100, 1)],
    "pack positions": [(2, 3, 8), (3, 5, 16), (2, 21, 64), (1, 40, 152)],
    "single positions": [(2, 3, 7), (3, 21, 37), (1, 65, 33)],
}
EVERY_SHAPE = [shape for shapes in SHAPES.values() for shape in shapes]
FEW = [(67, 5, 1), (5, 127, 1), (2, 1027, 1), (2, 21, 64), (3, 21, 37)]


def sample(shape, dtype, soft=False, class_weight=False, weight=False, smoothing=0.0, poly=0.0, labels="i8", seed=0):
    """Random arguments for a call; where labels may be ignored, some are."""
    rng = np.random.default_rng([seed, *shape])
    n, c, s = shape
    real = REAL[dtype]
    case = {"z": (rng.standard_normal(shape) * 6).astype(STORAGE[dtype]), "dtype": dtype, "smoothing": smoothing, "poly_epsilon": poly}
    case["class_weight"] = rng.uniform(0, 2, c).astype(real) if class_weight else None
    if weight:
        case["weight"] = rng.uniform(0, 2, (n, s)).astype(real)
        case["weight"][rng.random((n, s)) < 0.2] = 0
    if soft:
        t = rng.uniform(0, 1, shape) * (rng.random(shape) < 0.5)
        case["y"] = (t / np.maximum(t.sum(1, keepdims=True), 1e-3)).astype(real)
    else:
        case["y"] = rng.integers(0, c, (n, s)).astype(labels)
        case["ignore"] = tuple(v for v in IGNORED if v >= 0 or np.dtype(labels).kind == "i")
        case["y"][rng.random((n, s)) < 0.1] = case["ignore"][0]
    return case


def truth(z, y, dtype, ignore=(), class_weight=None, weight=None, smoothing=0.0, poly_epsilon=0.0, z_loss=0.0, softcap=0.0, divisor=1.0):
    """What softmax_xent must give, in extended precision, and in parentheses the size of the terms that a result is the difference of."""
    n, c, s = z.shape
    z, bent, bend = np.asarray(z).astype(np.longdouble), 1, 0
    if softcap:
        tanh, bent = np.tanh(z / softcap), np.cosh(z / softcap) ** -2
        z, bend = softcap * tanh, -2 * tanh * bent / softcap
    k = np.ones(c, np.longdouble) if class_weight is None else np.asarray(class_weight).astype(np.longdouble)
    w = np.ones((n, s), np.longdouble) if weight is None else np.asarray(weight).astype(np.longdouble)
    labelled = np.ndim(y) == 2
    ignored = np.isin(y, ignore) if labelled else np.zeros((n, s), bool)
    bad = ~ignored & ((y < 0) | (y >= c)) if labelled else ignored
    t = (
        (np.arange(c)[None, :, None] == np.where(ignored | bad, 0, y)[:, None, :]).astype(np.longdouble)
        if labelled
        else y.astype(np.longdouble)
    )
    with np.errstate(all="ignore"):
        m = z.max(1, keepdims=True)
        others = np.exp(z - m).sum(1, keepdims=True) - 1  # extended precision keeps eleven bits more than the kernels
        far = np.log1p(others) + (m - z)
        lse = m + np.log1p(others)
        pull = 2 * z_loss * lse
        p = np.exp(-far)
        q = np.where(z == m, others / (1 + others), 1 - p)
        u = k[None, :, None] * ((1 - smoothing) * t + np.longdouble(smoothing) / c)
        total, met = u.sum(1, keepdims=True), (t * p).sum(1, keepdims=True)
        loss = w * (
            np.where(u == 0, np.where(np.isnan(far), far, 0), u * far).sum(1)
            + poly_epsilon * (t * q).sum(1)
            + poly_epsilon * (1 - t.sum(1))
            + z_loss * lse[:, 0] ** 2
        )
        slope = (total - u) * p - u * q + pull * p - poly_epsilon * p * (t - met)
        curve = (total + pull) * p * q + 2 * z_loss * p * p - poly_epsilon * p * (t - met) * (q - p)
        grad, hess = w[:, None] * slope * bent, w[:, None] * (curve * bent**2 + slope * bend)
        poly_size = abs(poly_epsilon) * p * (t + met)
        plain = labelled and class_weight is None and not smoothing  # then total - u is 1 or 0, without an error
        grad_size = w[:, None] * ((total - u if plain else total) * p + u * q + poly_size + abs(pull) * p)
        hess_size = w[:, None] * (total * p * q + poly_size + (abs(pull) + 2 * z_loss) * p) + abs(bend) * grad_size
    skip = ignored | (w == 0)

    def masked(x):
        at = (lambda mask: mask) if x.ndim == 2 else (lambda mask: mask[:, None])
        return np.where(at(bad), np.nan, np.where(at(skip), 0, x))

    weights = np.where(skip | bad, 0, w * (k[None, :, None] * t).sum(1)).sum()
    count = (~ignored).sum()  # a bad label's position, too, though its weight is in no sum
    if isinstance(divisor, str):
        divisor = max(count, 1) if divisor == "count" else weights
    inverse = 1 / np.longdouble(divisor) if divisor else np.longdouble(0)
    first = int(np.flatnonzero(bad)[0]) if bad.any() else -1
    loss, grad, hess = masked(loss), masked(grad) * inverse, masked(hess) * inverse
    far, shown = np.nan_to_num(np.minimum(far, 1e4)), abs(inverse)
    return {
        "losses": loss,
        "prob": p,
        "grad": grad,
        "hess": hess,
        "value": loss.sum() * inverse,
        "numbers": np.array([inverse, loss.sum(), weights, count, first, divisor, 0], np.longdouble),
        "far": far,
        "size": {"grad": grad_size * shown, "hess": hess_size * shown, "prob": p, "sum": np.nansum(abs(loss))},
    }


def run(case, want=("losses", "grad", "prob"), divisor=1.0, shift=0, **more):
    """The call on the device as it is; `shift`: elements before the arrays of the logits' shape, which then begin at no multiple of 16."""
    shape, dtype = case["z"].shape, case["dtype"]

    def placed(kind):
        return device.empty((shift + case["z"].size,), kind)[shift:].reshape(shape)

    z = placed(STORAGE[dtype])
    device.fill(z, case["z"])
    arrays = {name: device.asarray(case[name]) for name in ("y", "class_weight", "weight") if case.get(name) is not None}
    rest = {name: v for name, v in case.items() if name not in ("z", "y", "class_weight", "weight")}
    out = {
        name: placed(STORAGE[dtype]) if name in ("grad", "prob", "hess") else device.empty((shape[0], shape[2]), REAL[dtype])
        for name in want
    }
    reduced = cuda.softmax_xent(device.namespace, z, arrays.pop("y"), divisor=divisor, **arrays, **rest, **out, **more)
    out = {name: device.host(x, STORAGE[dtype] if name in ("grad", "prob", "hess") else None) for name, x in out.items()}
    return {**out, "value": device.host(reduced.value), "numbers": device.host(reduced.numbers)}


def check(got, case, divisor=1.0):
    """Everything that came back, within its bounds.

    A derivative errs by some units in the last place of the computation, more where the logit lies far below the maximum (z - m is
    rounded; exp of 16-bit logits is 1.2 units per unit of z - m off), and by one of its storage. A loss of labels alone errs relative to
    itself, however small; with other targets it is a sum over classes, and its error that of the sum.
    """
    dtype = case["dtype"]
    expected = truth(**case, divisor=divisor)
    eps, narrow = float(np.finfo(REAL[dtype]).eps), STORAGE[dtype].itemsize == 2
    storage = ml_dtypes.finfo(STORAGE[dtype])
    alone = not narrow and case["y"].ndim == 2 and case.get("class_weight") is None and not case["smoothing"] and not case["poly_epsilon"]
    cap = case.get("softcap", 0)  # a capped logit is rounded, and what is off in it is off in its exponential
    alone = alone and not cap and not case.get("z_loss")
    for name, result in got.items():
        e, x = expected[name], np.asarray(result).astype(np.longdouble)
        if name in ("grad", "hess", "prob"):
            bound = (
                expected["size"][name] * eps * (8 + 2 * expected["far"] + 2 * cap)
                + (float(storage.eps) * abs(e) if narrow else 0)
                + float(storage.smallest_subnormal)
            )
        elif name == "losses":
            bound = 8 * eps * (abs(e) + (0 if alone else 4) + cap)
        else:
            bound = 16 * eps * (abs(e) + (expected["size"]["sum"] if name in ("value", "numbers") else 1))
        with np.errstate(invalid="ignore"):
            right = (abs(x - e) <= bound) | (np.isnan(x) & np.isnan(e)) | (x == e)
        assert right.all(), f"{name}{np.argwhere(~right)[0].tolist()} is {x[~right][0]}, not {e[~right][0]}"


@pytest.fixture(scope="module", params=[0] if device.REAL else [0, 1, 7], ids="order{}".format)
def order(request):
    return request.param


@pytest.mark.parametrize("shape", EVERY_SHAPE, ids=str)
def test_every_way_to_spread_a_launch(shape, order):
    case = sample(shape, "float32")
    with device.device(seed=order):
        check(run(case), case)


@pytest.mark.parametrize("shape", FEW, ids=str)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_storage_types(shape, dtype):
    case = sample(shape, dtype, weight=True)
    with device.device():
        check(run(case), case)


@pytest.mark.parametrize(
    "options",
    [
        {"soft": True},
        {"soft": True, "class_weight": True, "smoothing": 0.2, "poly": 1.5, "weight": True},
        {"class_weight": True},
        {"smoothing": 0.1},
        {"class_weight": True, "smoothing": 0.3, "poly": -0.5, "weight": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", FEW, ids=str)
def test_weighted_kernels(shape, options):
    case = sample(shape, "float32", **options)
    with device.device():
        for divisor in (3.0,) if options.get("soft") else (3.0, "weights"):
            check(run(case, ("losses", "grad", "prob", "hess"), divisor), case, divisor)


@pytest.mark.parametrize(
    "options",
    [{"z_loss": 0.01}, {"softcap": 4.0}, {"z_loss": 1e-3, "softcap": 8.0, "soft": True}, {"z_loss": 0.1, "softcap": 4.0, "smoothing": 0.1}],
    ids=str,
)
@pytest.mark.parametrize("shape", FEW, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_z_loss_and_softcap(shape, options, dtype):
    rest = dict(options)
    terms = {key: rest.pop(key) for key in ("z_loss", "softcap") if key in rest}
    case = sample(shape, dtype, class_weight="soft" in options, weight=True, **rest) | terms
    with device.device():
        check(run(case, ("losses", "grad", "prob", "hess"), 3.0), case, 3.0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("c", [16500, 16501, 66000])  # two blocks, then eight (bfloat16: one and four)
def test_clusters(c, dtype, order):
    case = sample((2, c, 1), dtype)
    with device.device(seed=order, processors=2):  # so few that even two rows keep them busy
        check(run(case), case)


@pytest.mark.parametrize("soft", [False, True])
def test_weighted_cluster(soft):
    case = sample((2, 16500, 1), "float32", soft=soft, smoothing=0.1, class_weight=True)
    with device.device(processors=2):
        check(run(case, ("losses", "grad")), case)


@pytest.mark.parametrize(("n", "c", "dtype"), [(1, 16501, "float32"), (3, 16503, "bfloat16"), (2, 8300, "float64")])
@pytest.mark.parametrize("clusters", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_few_long_rows_are_taken_in_parts(n, c, dtype, clusters, weighted, order):
    """Two launches; ignored rows, NaN behind them, -inf in a whole part, arrays that begin anywhere."""
    case = sample((n, c, 1), dtype, class_weight=weighted, smoothing=0.1 * weighted)
    case["y"][:] = c - 1
    case["z"][0, : c // 2] = -np.inf if not weighted else 0
    case["y"][n // 2] = case["ignore"][0] if n > 1 else c - 2
    if n > 1:
        case["z"][n // 2] = np.nan
    with device.device(seed=order, clusters=clusters):
        check(run(case, ("losses", "grad", "hess") if weighted else ("losses", "grad"), divisor="count", shift=1), case, "count")
        assert "rows_rest" in cuda.plan(n, c, 1, dtype, weighted, True, False, 227 << 10, clusters, 132).name


@pytest.mark.parametrize("shape", [(2, 3000, 1), (1, 300, 64), (1, 400, 5)], ids=str)
def test_rows_that_do_not_fit_are_read_again(shape):
    """On a device with 16 KB of shared memory and without clusters."""
    case = sample(shape, "float32")
    with device.device(shared=16 << 10, clusters=False):
        check(run(case), case)


@pytest.mark.parametrize("shift", [1, 2, 3])
@pytest.mark.parametrize("shape", [(5, 127, 1), (3, 1027, 1), (2, 21, 64)], ids=str)
def test_arrays_that_begin_anywhere(shape, shift):
    case = sample(shape, "float32")
    with device.device():
        check(run(case, shift=shift), case)
    case = sample(shape, "bfloat16", soft=True)
    with device.device():
        check(run(case, shift=shift), case)


@pytest.mark.parametrize("kind", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8"])
def test_labels_are_mathematical_integers(kind):
    """What a label of this dtype would become in another is never what it is compared with."""
    case = sample((40, 300 if kind not in ("i1", "u1") else 100, 1), "float32", labels=kind)
    top = {"u1": 255, "u2": 2**16 - 1, "u4": 2**32 - 1, "u8": 2**64 - 1}.get(kind, -1)
    case["y"][3], case["y"][5] = top, 4
    case["ignore"] = (4, top)
    with device.device():
        check(run(case), case)
    case["ignore"] = (4,)
    with device.device():
        got = run(case)
        check(got, case)
    assert got["numbers"][4] == 3


@pytest.mark.parametrize("value", [0.5, 1e30, float("inf"), float("nan"), -3.0])
def test_floating_labels_that_are_no_class(value):
    case = sample((40, 10, 1), "float32", labels="f4")
    case["y"][7] = value
    with device.device():
        got = run(case)
    assert got["numbers"][4] == 7
    assert np.isnan(got["losses"][7]).all()
    assert np.isnan(got["grad"][7]).all()
    case["y"][7] = case["ignore"][0]  # the other rows are as they were
    expected = truth(**case)
    np.testing.assert_allclose(np.delete(got["losses"], 7), np.delete(expected["losses"], 7).astype(float), rtol=1e-6)


@pytest.mark.parametrize("shape", [(40, 10, 1), (3, 1100, 1), (2, 5, 16), (2, 5, 7)], ids=str)
@pytest.mark.parametrize("label", [-1, 2**31, 2**40, -(2**63)])
def test_bad_labels_read_nothing(shape, label):
    """The first one is named; its loss and gradient are NaN, and the fences around the logits hold."""
    case = sample(shape, "float32")
    case["y"][-1, -1] = case["y"][1, 0] = label
    for divisor in (1.0, "count"):
        with device.device():
            got = run(case, divisor=divisor)
            check(got, case, divisor)
        assert got["numbers"][4] == case["y"].shape[1]


@pytest.mark.parametrize("shape", [(6, 10, 1), (6, 1100, 1), (2, 9, 16), (6, 9, 5)], ids=str)
@pytest.mark.parametrize("weighted", [False, True])
def test_rows_without_a_sum(shape, weighted):
    """All -inf, +inf, NaN: NaN in that position and no other. -inf at an impossible class costs nothing, at the label it costs inf."""
    case = sample(shape, "float32", class_weight=weighted)
    z, y = case["z"], case["y"]
    y[:, 0] = 1
    z[0, :, 0] = -np.inf
    z[1, 2, 0] = np.inf
    if shape[0] > 2:
        z[2, 3, 0] = np.nan
        z[3, :, 0] = -np.inf
        z[3, 1, 0] = 2.0
        z[4, :7, 0] = -np.inf
        z[4, 1, 0] = 1.0
        z[5, 1, 0] = -np.inf
    with device.device():
        got = run(case)
    expected = truth(**case)
    assert np.isnan(got["losses"][:2, 0]).all()
    assert np.isnan(got["grad"][:2, :, 0]).all()
    for name in ("losses", "grad", "prob"):
        np.testing.assert_allclose(got[name].astype(float), expected[name].astype(float), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("shape", [(6, 10, 1), (6, 1100, 1), (2, 9, 16), (2, 9, 5)], ids=str)
@pytest.mark.parametrize("soft", [False, True])
def test_skipped_positions_leak_nothing(shape, soft):
    case = sample(shape, "float32", weight=True, soft=soft)
    case["z"][1] = np.nan
    case["weight"][1] = 0
    with device.device():
        got = run(case, ("losses", "grad", "hess"))
        check(got, case)
    assert not got["grad"][1].any()
    assert not got["losses"][1].any()
    assert np.isfinite(got["value"])


@pytest.mark.parametrize("divisor", ["count", "weights"])
def test_nothing_counted_nothing_lost(divisor):
    case = sample((6, 10, 1), "float32", weight=True)
    case["y"][:] = -7
    with device.device():
        got = run(case, divisor=divisor)
    assert got["value"] == 0
    assert not got["grad"].any()


@pytest.mark.parametrize("shape", [(3, 300, 1), (2, 1027, 1), (2, 200, 8)], ids=str)
def test_equal_logits_keep_their_digits(shape):
    """A slope is then the difference of two numbers of the size 1 / C: no digits are lost to the sum of the targets, which is 1."""
    case = sample(shape, "float32", smoothing=0.1)
    case["z"][:] = 1
    with device.device():
        check(run(case), case)


@pytest.mark.parametrize("gap", [20.0, 40.0, 80.0])
def test_small_losses_keep_their_digits(gap):
    z = np.zeros((40, 12, 1), "f4")
    z[:, 3] = gap
    case = {"z": z, "y": np.full((40, 1), 3), "dtype": "float32", "smoothing": 0.0, "poly_epsilon": 0.0}
    with device.device():
        got = run(case, ("losses", "grad"))
    small = np.log1p(11 * np.exp(-np.float64(gap)))
    np.testing.assert_allclose(got["losses"], small, rtol=6e-7)
    np.testing.assert_allclose(got["grad"][:, 3], np.expm1(-small), rtol=6e-7)


@pytest.mark.parametrize("shape", FEW, ids=str)
@pytest.mark.parametrize("divisor", ["count", "weights", "array"])
def test_divisors_on_the_device(shape, divisor):
    case = sample(shape, "float32", weight=True, class_weight=divisor == "weights")
    given = device.asarray(np.float32(2.5)) if divisor == "array" else divisor
    with device.device():
        check(run(case, divisor=given), case, 2.5 if divisor == "array" else divisor)


@pytest.mark.parametrize("axis", [0, 1])
def test_weights_of_any_stride(axis):
    """One weight per image, or per place, serves all its positions without a copy."""
    case = sample((4, 5, 8), "float32", weight=True)
    w = device.asarray(np.array([0.5, 0, 2, 1] if axis == 0 else [0, 1, 2, 0.5, 1, 1, 3, 0], "f4"))
    strides = (4, 0) if axis == 0 else (0, 4)
    view = device.as_strided(w, (4, 8), strides)
    case["weight"] = device.host(view)
    with device.device():
        out = device.empty((4, 8), "f4")
        cuda.softmax_xent(
            device.namespace,
            device.asarray(case["z"]),
            device.asarray(case["y"]),
            dtype="float32",
            ignore=case["ignore"],
            weight=view,
            losses=out,
        )
    check({"losses": device.host(out)}, case)


@device.ON_SHIM
def test_the_same_bits_in_every_order():
    case = sample((30, 1100, 1), "float32", weight=True)
    results = []
    for seed in (0, 1, 5):
        with device.device(seed=seed):
            results.append(run(case, divisor="weights"))
    for other in results[1:]:
        for name, x in results[0].items():
            assert x.tobytes() == other[name].tobytes(), name


@device.ON_SHIM
@pytest.mark.parametrize("shape", [(9, 10, 1), (5, 127, 1), (3, 1100, 1), (2, 21, 64), (1, 30, 5)], ids=str)
def test_no_data_race(shape):
    case = sample(shape, "float32")
    with device.device(racecheck=True):
        check(run(case, divisor="count"), case, "count")


@pytest.fixture
def small_cluster(monkeypatch):
    """Clusters of two small blocks, each for several rows, so that one row's room is the next one's."""

    def use(threads):
        monkeypatch.setattr(cuda, "plan", lambda *a: cuda.Launch("rows_cluster<float,false,2>", 4, (threads,), cuda.ROOM + 256, 0, 16))

    return use


@device.ON_SHIM
def test_no_data_race_in_a_cluster(small_cluster):
    small_cluster(64)
    case = sample((34, 33, 1), "float32")
    with device.device(racecheck=True):
        check(run(case), case)


def test_more_elements_than_31_bits_count():
    """Only the last of 130 rows of 2^24 classes is read; the others are ignored, and their memory is never touched."""
    n, c = 130, 1 << 24
    z = device.namespace.zeros((n, c, 1), dtype=np.float16) if device.REAL else device.Array(np.zeros((n, c, 1), np.float16))
    assert z.size > 2**31  # pages that nobody writes take no memory
    z[-1, 5] = 3.0
    y = device.asarray(np.where(np.arange(n) == n - 1, 5, -1)[:, None])
    losses = device.empty((n, 1), "f4")
    with device.device():
        cuda.softmax_xent(device.namespace, z, y, dtype="float16", ignore=(-1,), losses=losses)
    losses = device.host(losses)
    assert not losses[:-1].any()
    np.testing.assert_allclose(losses[-1], np.log(c - 1 + np.exp(3.0)) - 3.0, rtol=1e-6)


# ---- faults planted in the kernels --------------------------------------------------------------------------------------------------


class Fault(NamedTuple):
    text: str
    replacement: str
    shape: tuple  # of the call that finds it
    options: dict = {}
    race: bool = False  # found by the race check
    file: str = "softmax_xent.cu"


LANES, BLOCK, CLUSTER, DEEP = (5, 127, 1), (6, 1100, 1), (34, 33, 1), (2, 21, 640)
FAULTS = {
    "a barrier is missing": Fault(
        "room[rank / kWarp] = state;\n    __syncthreads();", "room[rank / kWarp] = state;", BLOCK, race=True, file="device.cuh"
    ),
    "two rows share one room": Fault("+ turn * kStates)", ")", BLOCK, race=True, file="device.cuh"),
    "sums are written while others look for the largest": Fault(
        "room[v * threads + thread].m = state[v].m;\n      __syncthreads();", "room[v * threads + thread].m = state[v].m;", DEEP, race=True
    ),
    "sums are read before they are written": Fault("= state[v];\n      }\n      __syncthreads();", "= state[v];\n      }", DEEP, race=True),
    "two rooms overlap": Fault("+ 2 * kStates)", ")", CLUSTER, race=True, file="launch.cuh"),
    "a block leaves while others read it": Fault("leave() const { cluster_sync<N>(); }", "leave() const {}", CLUSTER),
    "half of a warp is not merged": Fault("by > 0; by /= 2) sums", "by > 1; by /= 2) sums", LANES, file="softmax_state.cuh"),
    "lanes do not agree on the largest": Fault("by > 0; by /= 2) top", "by > 1; by /= 2) top", LANES, file="softmax_state.cuh"),
    "the last class is not written": Fault("c < classes; c += deep, to", "c < classes - 1; c += deep, to", (2, 22, 64)),
    "the label is looked for elsewhere": Fault(
        "emit_row<true>(job, position, row, low + of_row.head +", "emit_row<true>(job, position, row, low +", LANES
    ),
    "one class too many": Fault("c < classes; c += deep, k++", "c <= classes; c += deep, k++", (2, 22, 64)),
    "elements after the last pack are left out": Fault("singles = head + length - tail", "singles = head", LANES, file="device.cuh"),
    "packs are read where they are not aligned": Fault("head = before < length ? before : length", "head = 0", LANES, file="device.cuh"),
    "a part is left out": Fault("rank % kWarp < parts", "rank % kWarp < parts - 1", (2, 8200, 1)),
    "parts overlap": Fault(
        "return c * (part + 1) / parts; }\n  __device__ bool leads() const { return rank == 0 && part == 0",
        "return c; }\n  __device__ bool leads() const { return rank == 0 && part == 0",
        (2, 8200, 1),
    ),
    "the sum is not rescaled": Fault(
        "(this->ones + this->rest) * shrink", "this->ones + this->rest", (2, 21, 64), file="softmax_state.cuh"
    ),
    "the first row is everyone's": Fault(
        "first_row() const { return blockIdx.x; }", "first_row() const { return 0; }", BLOCK, file="device.cuh"
    ),
    "ignored logits are multiplied": Fault("!live ? position.fill : c + j", "!live ? position.fill * out[j] : c + j", LANES),
    "labels are cut to 32 bits": Fault(
        "y = static_cast<const long long*>(job.y)[i]", "y = static_cast<const int*>(job.y)[2 * i]", (40, 10, 1), file="launch.cuh"
    ),
    "the wrong divisor": Fault(
        "kind == 2) divisor = sums.weight", "kind == 2) divisor = sums.count", LANES, {"weight": True}, file="launch.cuh"
    ),
    "impossible classes cost inf": Fault("if (u != 0) this->below", "this->below", LANES, {"class_weight": True}, file="softmax_state.cuh"),
    "smoothing is spread over C - 1": Fault("job.smoothing / job.c", "job.smoothing / (job.c - 1)", LANES, {"smoothing": 0.3}),
}


def challenge(shape, options, racecheck):
    """One call that has everything the faults could meet: ignored and huge labels, NaN behind them, -inf, weights."""
    case = sample(shape, "float32", **options)
    case["y"][1] = case["ignore"][0]
    case["z"][1] = np.nan
    case["z"][0, 0] = -np.inf
    case["y"][0] = 1
    if options.get("class_weight"):
        case["class_weight"][0] = 0
    if shape[1] == 10:
        case["y"][2] = 2**32 + 1
    divisor = "weights" if options.get("weight") else 1.0
    with device.device(racecheck=racecheck):
        check(run(case, ("losses", "grad"), divisor), case, divisor)


@device.ON_SHIM
@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_found(fault, tmp_path, monkeypatch, small_cluster):
    planted = FAULTS[fault]
    monkeypatch.setattr(cuda, "BLOCKS", 2)  # each takes several rows
    cuda.plan.cache_clear()
    if planted.shape == CLUSTER:
        small_cluster(32)  # one warp ends before the other block has begun to read
    challenge(planted.shape, planted.options, planted.race)
    device.change(monkeypatch, tmp_path, planted.file, planted.text, planted.replacement)
    with pytest.raises((KernelError, AssertionError)):
        challenge(planted.shape, planted.options, planted.race)


@pytest.fixture(autouse=True)
def _plans_are_forgotten():
    yield
    getattr(cuda.plan, "cache_clear", lambda: None)()


def test_the_job_has_one_layout():
    """Fields of SOFTMAX and of the kernels' Job: names, offsets and sizes."""
    checks = "".join(
        f"static_assert(__builtin_offsetof(Job<float>, {name}) == {offset});\n" for name, (_, offset, *_) in cuda.SOFTMAX.fields.items()
    )
    checks += f"static_assert(sizeof(Job<float>) == {cuda.SOFTMAX.itemsize} && sizeof(Sums) == {cuda.SUMS} && kRoom == {cuda.ROOM});\n"
    checks += f"static_assert(sizeof(Launch<double>) == {cuda.POSITIONS.itemsize});\n"
    for kind, size in (("float,false", 12), ("__half,true", 32), ("double,true", 64)):  # what the launch of `spatial` sets aside
        checks += f"static_assert(sizeof(State<{kind}>) == {size});\n"
    device.holds("softmax_xent.cu", checks)
