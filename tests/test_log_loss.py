"""log_loss has scikit-learn's numbers, exceptions and warnings, on every array library; and Kaggle's score."""

import math
import re
import tracemalloc
import warnings
from dataclasses import replace
from importlib import import_module

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from sklearn.metrics import log_loss as theirs

import polyloss as pl
from polyloss._core import backends as _backends

SPAM = ["spam", "ham", "ham", "spam"], [[0.1, 0.9], [0.9, 0.1], [0.8, 0.2], [0.35, 0.65]]
YES = ["no", "no", "no", "yes", "yes", "yes"], [[0.5, 0.5], [0.1, 0.9], [0.01, 0.99], [0.9, 0.1], [0.75, 0.25], [0.001, 0.999]]
P = [0.2, 0.9]
NAMES = np.asarray(["b", "e", "a", "d", "c"])
RNG = np.random.default_rng(7)


def kernel():
    """The compiled kernel, or None."""
    try:
        return import_module("polyloss._kernels.cpu.log_loss")
    except ImportError:
        return None


def outcome(function, *args, **kwargs):
    """What a call returns or raises, and the warnings it gives; overflow in the sum of weights aside."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = function(*args, **kwargs)
        except Exception as error:
            result = error
    return result, [w.category for w in caught if w.category is not RuntimeWarning]


def agree(*args, tolerance=1e-12, **kwargs):
    """Both functions return the same number with the same warnings, or raise the same type (theirs may have several bases)."""
    ours, our_warnings = outcome(pl.log_loss, *args, **kwargs)
    want, their_warnings = outcome(theirs, *args, **kwargs)
    if isinstance(want, Exception):
        assert isinstance(ours, Exception), f"{ours!r}, but scikit-learn raises {want!r}"
        assert isinstance(want, type(ours)), f"{ours!r}, but scikit-learn raises {want!r}"
    else:
        assert type(ours) is float, repr(ours)
        assert ours == pytest.approx(want, rel=tolerance, abs=0, nan_ok=True)
        assert our_warnings == their_warnings


def simplex(n, c, dtype=np.float64):
    return RNG.dirichlet(np.ones(c), n).astype(dtype)


def labels_of(n, c):
    """Every class at least once."""
    return RNG.permutation(np.concatenate([np.arange(c), RNG.integers(0, c, n - c)]))


# -------------------------------------------------------------------------------------------------------------------- numbers


def test_known_values():
    assert pl.log_loss(*SPAM) == pytest.approx(0.21616187468057912, rel=2e-16, abs=0)
    assert pl.log_loss(*YES) == pytest.approx(1.881797068998267, rel=2e-16, abs=0)


def misaligned(x):
    return np.frombuffer(b"." + np.ascontiguousarray(x).tobytes(), x.dtype, offset=1).reshape(x.shape)


KINDS = {
    "int64": lambda y: y,
    "uint8": lambda y: y.astype(np.uint8),
    "int8, below 0": lambda y: (y - 2).astype(np.int8),
    "far apart": lambda y: (y - 2) * 2**61,
    "uint64 near its end": lambda y: np.uint64(2**64 - 10) + y.astype(np.uint64),
    "with gaps": lambda y: np.asarray([-300, 5, 6, 70, 1000])[y],
    "floats": lambda y: y.astype(np.float32),
    "bools": lambda y: y > 1,
    "strings": lambda y: NAMES[y],
    "list of strings": lambda y: NAMES[y].tolist(),
    "object strings": lambda y: NAMES[y].astype(object),
    "list": lambda y: y.tolist(),
    "list of bools": lambda y: (y > 1).tolist(),
    "column": lambda y: y[:, None],
    "one-hot": lambda y: np.eye(5, dtype=int)[y],
    "one-hot floats": lambda y: np.eye(5)[y],
    "one-hot list": lambda y: np.eye(5, dtype=bool)[y].tolist(),
    "several classes per row": lambda y: (y[:, None] * np.asarray([1, 3, 7, 2, 5]) % 4 < 2).astype(np.int8),
    "two numbers that are not 0 and 1": lambda y: np.where(np.eye(5)[y] > 0, 3, -2),
    "strided": lambda y: np.repeat(y, 2)[::2],
    "reversed": lambda y: y[::-1],
    "sorted": np.sort,
    "sorted from the last": lambda y: np.sort(y)[::-1],
    "big-endian": lambda y: y.astype(">i4"),
    "misaligned": lambda y: misaligned(y.astype(np.int16)),
}
WEIGHTS = {
    "none": lambda n: None,
    "floats": RNG.random,
    "some 0, some below": lambda n: RNG.integers(-1, 4, n) + 0.25,
    "float32": lambda n: RNG.random(n).astype(np.float32),
    "list of ints": lambda n: RNG.integers(0, 5, n).tolist(),
    "bools": lambda n: np.arange(n) % 3 > 0,
}


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("kind", KINDS)
def test_numbers_for_kinds_of_labels(kind, weight, normalize):
    y = KINDS[kind](labels_of(40, 5))
    c = len(np.unique(y)) if np.ndim(y) == 1 or np.shape(y)[1] == 1 else 5
    agree(y, simplex(40, c), sample_weight=WEIGHTS[weight](40), normalize=normalize)


SHAPES = {
    "(n, 2)": lambda p: np.stack([1 - p, p], 1),
    "(n,)": lambda p: p,
    "(n, 1)": lambda p: p[:, None],
    "list": lambda p: p.tolist(),
    "Fortran order": lambda p: np.asfortranarray(np.stack([1 - p, p], 1)),
    "strided": lambda p: np.stack([1 - p, 0 * p, p, 0 * p], 1)[:, ::2],
    "reversed": lambda p: np.stack([1 - p, p], 1)[::-1, ::-1],
    "strided (n,)": lambda p: np.repeat(p, 3)[::3],
    "misaligned": lambda p: misaligned(np.stack([1 - p, p], 1)),
}


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5), ("float16", 4e-3), ("longdouble", 1e-12), (">f8", 1e-12)]
)
@pytest.mark.parametrize("weight", ["none", "floats"])
@pytest.mark.parametrize("shape", SHAPES)
def test_numbers_for_two_classes(shape, weight, dtype, tolerance):
    p = RNG.random(40).astype(dtype)
    p[:4] = 0, 1, 0, 1  # where the clip decides
    for y in (labels_of(40, 2), NAMES[labels_of(40, 2)]):
        agree(y, SHAPES[shape](p), sample_weight=WEIGHTS[weight](40), tolerance=tolerance)


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint16, np.int64])
def test_integers_are_probabilities_in_float64(dtype):
    agree([0, 1, 1, 0], np.asarray([0, 1, 0, 1], dtype))
    agree([0, 1, 1, 0], np.eye(2, dtype=dtype)[[0, 1, 0, 1]])


def test_clip_is_the_epsilon_of_the_dtype():
    for dtype in (np.float16, np.float32, np.float64):
        low = float(np.finfo(dtype).eps)
        assert pl.log_loss([0, 1], np.asarray([1, 1], dtype)) == pytest.approx((-np.log(low) + low) / 2, rel=1e-6)


@given(data=st.data())
@settings(max_examples=50, deadline=None, derandomize=True)
def test_numbers_for_any_integers(data):
    dtype = np.dtype(data.draw(st.sampled_from("bhilBHIL")))
    span = np.iinfo(dtype)
    number = st.integers(int(span.min), int(span.max)) | st.integers(max(int(span.min), -3), 3)
    classes = data.draw(st.lists(number, min_size=2, max_size=6, unique=True))
    y = data.draw(st.permutations(classes + data.draw(st.lists(st.sampled_from(classes), max_size=10))))
    p = np.asarray(
        data.draw(st.lists(st.lists(st.integers(0, 9), min_size=len(classes), max_size=len(classes)), min_size=len(y), max_size=len(y)))
    )
    p = (p + (p.sum(1, keepdims=True) == 0)) / np.maximum(p.sum(1, keepdims=True), len(classes) * (p.sum(1, keepdims=True) == 0))
    agree(np.asarray(y, dtype), p)
    more = data.draw(st.lists(number, max_size=2))
    if dtype.kind == "i":  # of unsigned labels scikit-learn compares the largest wrongly with a list
        agree(np.asarray(y, dtype), p, labels=data.draw(st.permutations(sorted({*classes, *more}))))


@given(
    st.lists(st.sampled_from(["", "a", "b", "ab", "B", "ä", "a\U0001f600"]), min_size=1, max_size=12),
    st.sampled_from(["list", "U", "O", "T"]),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_numbers_for_any_strings(y, kind):
    p = simplex(len(y), max(len(set(y)), 2))
    given = (
        y if kind == "list" else np.asarray(y, object) if kind == "O" else np.asarray(y, np.dtypes.StringDType() if kind == "T" else None)
    )
    if kind == "T":  # scikit-learn knows nothing of these
        ours, want = outcome(pl.log_loss, given, p)[0], outcome(theirs, y, p)[0]
        assert type(ours) is type(want)
        assert isinstance(ours, ValueError) or ours == pytest.approx(want, rel=1e-12)
    else:
        agree(given, p)


# ------------------------------------------------------------------------------------------------------------------ the rules

DECLARED = [
    [0, 1], (0, 1), range(2), np.asarray([0, 1]), [0.0, 1.0], [False, True], np.uint8([0, 1]),
    [1, 0], [True, False], [0, 1, 2], [0, 1, 1], [1, 1], [1], [], np.asarray([]), [0, 256], [-1, 0, 1], [0, 0.5], [0, None],
    [float("nan"), 1], ["a", "b"], ["0", "1"], ["a", 1], "ab", 1, np.asarray(1), [b"a", b"b"],
]  # fmt: skip


@pytest.mark.parametrize("labels", DECLARED, ids=repr)
@pytest.mark.parametrize(
    "y", [[0, 1], [0, 0], [False, True], np.uint8([1, 0]), [1.0, 0.0], ["a", "b"], ["b", "b"], ["0", "1"], [0, 2]], ids=repr
)
@pytest.mark.parametrize("c", [1, 2, 3])
def test_declared_labels(y, labels, c):
    agree(y, np.asarray([[0.2, 0.8], [0.1, 0.9], [0.7, 0.3]]).T[:, :1] if c == 1 else simplex(2, c), labels=labels)


NOT_FIT = {
    "no samples": ([], []),
    "no samples, two classes": (np.zeros(0), np.zeros((0, 2))),
    "no columns": ([0, 1], [[], []]),
    "fewer labels": ([0], P),
    "more labels": ([0, 1, 0], P),
    "three axes": ([0, 1], [[P], [P]]),
    "ragged": ([0, 1], [[0.2], P]),
    "a number": ([0, 1], 0.5),
    "a 0-d array": ([0, 1], np.asarray(0.5)),
    "text for probabilities": ([0, 1], "ab"),
    "words for probabilities": ([0, 1], ["a", "b"]),
    "digits for probabilities": ([0, 1], ["0.2", "0.9"]),
    "complex": ([0, 1], np.asarray(P, complex)),
    "None for a probability": ([0, 1], [0.2, None]),
    "above 1": ([0, 1], [0.2, 1 + 2**-52]),
    "below 0": ([0, 1], [0.2, -1e-300]),
    "-0.0 is 0": ([0, 1], [0.2, -0.0]),
    "NaN": ([0, 1], [0.2, np.nan]),
    "inf": ([0, 1], [0.2, np.inf]),
    "-inf": ([0, 1], [[0.2, 0.8], [-np.inf, 1]]),
    "inf in float32": ([0, 1], np.float32([[0.2, np.inf], [0.5, 0.5]])),
    "labels of more than the columns": ([0, 1, 2], simplex(3, 2)),
    "labels of fewer than the columns": ([0, 1, 1], simplex(3, 3)),
    "one class": ([1, 1], P),
    "one class, one sample": (["a"], [0.3]),
    "one name": (["a", "a"], simplex(2, 2)),
    "no labels": (None, P),
    "one label": (1, P),
    "a 0-d label": (np.asarray(1), P),
    "a word for labels": ("ab", P),
    "an iterator": (iter([0, 1]), P),
    "labels of three axes": (np.zeros((2, 1, 1)), P),
    "no number": ([0.5, 1], P),
    "NaN label": ([np.nan, 1.0], P),
    "inf label": ([np.inf, 1.0], P),
    "label beyond 64 bits": ([1e30, 1.0], P),
    "complex labels": (np.asarray([0, 1j]), P),
    "bytes": ([b"a", b"b"], P),
    "bytes array": (np.asarray([b"a", b"b"]), P),
    "integers as objects": (np.asarray([0, 1], object), P),
    "None first": ([None, "a"], P),
    "None later": (["a", None], P),
    "None in an array": (np.asarray(["a", None]), P),
    "a number among strings": (["a", 1], P),
    "a number first": ([1, "a"], P),
    "a number in an array of strings": (np.asarray(["a", 1], object), P),
    "NaN among strings": (["a", np.nan], P),
    "NaN in an array of strings": (np.asarray(["a", np.nan], object), P),
    "three values in a matrix": ([[0, 1, 2], [1, 0, 0]], simplex(2, 3)),
    "halves in a matrix": ([[0, 0.5], [0.5, 0]], simplex(2, 2)),
    "NaN in a matrix": ([[0, np.nan], [1, 0]], simplex(2, 2)),
    "inf in a matrix": (np.asarray([[0, np.inf], [np.inf, 0]]), simplex(2, 2)),
    "strings in a matrix": (np.asarray([["a", "b"], ["b", "a"]]), simplex(2, 2)),
    "matrix of another width": (np.eye(3), simplex(3, 2)),
    "ragged labels": ([[0, 1], [1]], simplex(2, 2)),
    "rows that sum to something": ([0, 1], [[0.2, 0.9], [0.5, 0.5]]),
    "rows that nearly sum to 1": ([0, 1], [[0.5, 0.5 + 2e-8], [0.5, 0.5]]),
    "rows that nearly sum to 1, not enough": ([0, 1], [[0.5, 0.5 + 3e-8], [0.5, 0.5]]),
    "float32 rows that nearly sum to 1": ([0, 1], np.float32([[0.5, 0.5003], [0.5, 0.5]])),
    "float32 rows that nearly sum to 1, not enough": ([0, 1], np.float32([[0.5, 0.5004], [0.5, 0.5]])),
}


@pytest.mark.parametrize("weight", [None, [1, 2]], ids=["plain", "weighted"])
@pytest.mark.parametrize("case", NOT_FIT)
def test_rules(case, weight):
    agree(*NOT_FIT[case], sample_weight=weight, tolerance=1e-6)


@pytest.mark.parametrize("normalize", [True, False, np.bool_(True), 1, None, "yes"], ids=repr)
@pytest.mark.parametrize(
    "weight",
    [[0, 0], [1, -1], [1, np.nan], [1, np.inf], [1], [1, 2, 3], [], [[1], [2]], 3, np.asarray(1.0), [1j, 2], np.asarray([1, 2], object),
     [1e308, 1e308], "ab", [5e-324, 0]],
    ids=repr,
)  # fmt: skip
def test_rules_of_weights_and_normalize(weight, normalize):
    agree([0, 1], P, sample_weight=weight, normalize=normalize)


def test_weights_are_no_strings():
    with pytest.raises(TypeError, match="sample_weight has dtype <U1, but must hold real numbers"):
        pl.log_loss([0, 1], P, sample_weight=["1", "2"])


def test_indicator_matrices_take_no_labels():
    agree(np.eye(2), simplex(2, 2), labels=[0, 1])


RESCALED = "y_proba{}, but what is divided by the sum of its row must be finite and not negative"
ERRORS = [
    (([0, 1, 1], [[0.5, 0.5], [0.25, 0.75], [1.25, -0.25]]), {}, "y_proba[2, 0] is 1.25, but probabilities must be between 0 and 1"),
    (([0, 1], [0.5, np.nan]), {}, "y_proba[1] is nan, but probabilities must be between 0 and 1"),
    (([0, 1], P), {"sample_weight": [1, np.inf]}, "sample_weight[1] is inf, but weights must be finite"),
    (([0, 7], P), {"labels": [0, 1]}, "y_true[1] is 7, but labels has no such class: 0, 1"),
    ((["a", "c"], P), {"labels": ["b", "a"]}, "y_true[1] is 'c', but labels has no such class: 'a', 'b'"),
    (([0, 1], simplex(2, 3)), {}, "y_true has 2 classes (0, 1), but y_proba has 3; pass all classes as labels"),
    (([4, 4], P), {}, "y_true has one class only (4): pass all classes as labels"),
    (([0, 0.5], P), {}, "y_true[1] is 0.5, but labels must be whole numbers or strings"),
    (([0, 1], P), {"epsilon": 0.5}, "epsilon is 0.5, but must be at least 0 and below 0.5"),
    (([0, 1], [[0.5, 0.5], [0.0, 0.0]]), {"rescale": True}, "y_proba[1] sums to 0, and cannot be rescaled to sum to 1"),
    (([0, 1], [[2.0, 0.5], [3.0, -1.0]]), {"rescale": True}, RESCALED.format("[1, 1] is -1.0")),
    (([0, 1], [[2.0, math.inf], [3.0, 1.0]]), {"rescale": True}, RESCALED.format("[0, 1] is inf")),
]


@pytest.mark.filterwarnings("ignore:labels is not sorted")
@pytest.mark.parametrize(("args", "kwargs", "message"), ERRORS, ids=[message for *_, message in ERRORS])
def test_errors_name_argument_place_value_and_rule(args, kwargs, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        pl.log_loss(*args, **kwargs)


def test_masked_arrays_are_refused():
    with pytest.raises(TypeError, match="mask would be lost"):
        pl.log_loss(np.ma.array([0, 1], mask=[0, 1]), P)


# -------------------------------------------------------------------------------------------------------------- Kaggle's score


def kaggle(y, p, epsilon=1e-15):
    """The score by its definition, in 50 digits."""
    with mpmath.workdps(50):
        losses = []
        for label, row in zip(y, p, strict=True):
            share = mpmath.mpf(float(row[label])) / mpmath.fsum(map(float, row))
            losses.append(-mpmath.log(min(max(share, mpmath.mpf(epsilon)), 1 - mpmath.mpf(epsilon))))
        return float(mpmath.fsum(losses) / len(losses))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-14), ("float32", 1e-6)])
def test_kaggle(dtype, tolerance):
    y, p = labels_of(60, 4), (RNG.random((60, 4)) * RNG.random((60, 1))).astype(dtype)
    p[0], p[1] = np.eye(4)[y[0]], np.eye(4)[(y[1] + 1) % 4]  # quite right, quite wrong
    assert pl.log_loss(y, p, epsilon=1e-15, rescale=True) == pytest.approx(kaggle(y, p), rel=tolerance)
    assert pl.log_loss(np.eye(4)[y], p, epsilon=1e-15, rescale=True) == pytest.approx(kaggle(y, p), rel=tolerance)
    assert pl.log_loss(*YES, epsilon=1e-15, rescale=True) == pytest.approx(1.881797068998267, rel=2e-16, abs=0)


def test_epsilon_0_is_no_clip():
    assert pl.log_loss([0, 1], [0.0, 0.0], epsilon=0) == np.inf
    assert pl.log_loss([0, 1, 1], [0.0, 0.0, 1.0], epsilon=0, sample_weight=[1, 0, 1]) == 0


# ------------------------------------------------------------------------------------------------------------ array libraries

LIBRARIES = {
    "numpy": ("numpy", np.asarray),
    "numpy, read-only": ("numpy", lambda x: np.frombuffer(np.ascontiguousarray(x).tobytes(), x.dtype).reshape(x.shape)),
    "pandas": ("pandas", lambda x: import_module("pandas").DataFrame(x) if x.ndim == 2 else import_module("pandas").Series(x)),
    "polars": ("polars", lambda x: import_module("polars").DataFrame(x) if x.ndim == 2 else import_module("polars").Series(x)),
    "torch": ("torch", lambda x: import_module("torch").tensor(x)),
    "torch, wants grad": ("torch", lambda x: import_module("torch").tensor(x).requires_grad_(x.dtype.kind == "f")),
    "jax": ("jax", lambda x: import_module("jax.numpy").asarray(x)),
    "array-api-strict": ("array_api_strict", lambda x: import_module("array_api_strict").asarray(x)),
    "array-api-strict, elsewhere": ("array_api_strict", lambda x: _elsewhere(import_module("array_api_strict"), x)),
    "dask": ("dask", lambda x: import_module("dask.array").from_array(x, chunks=7)),
    "dask, unknown chunks": ("dask", lambda x: _unknown(import_module("dask.array"), x)),
}


def _elsewhere(xp, x):
    return xp.asarray(x, device=xp.Device("device1"))


def _unknown(da, x):
    return da.from_array(x, chunks=(9, 2)[: x.ndim])[da.ones(len(x), chunks=5, dtype=bool)]


def on(name, x):
    _, convert = LIBRARIES[name]
    return convert(x)


@pytest.mark.parametrize(
    ("of_labels", "of_probabilities"),
    [(a, b) for a in LIBRARIES if a not in ("numpy, read-only", "torch, wants grad", "dask, unknown chunks") for b in LIBRARIES],
)
def test_libraries_mix(of_labels, of_probabilities):
    y, p, w = labels_of(30, 3), simplex(30, 3), RNG.random(30)
    tolerance = 1e-6 if "jax" in of_labels + of_probabilities else 1e-12  # float32
    y, weight = on(of_labels, y), on(of_labels, w)
    for these in (p, p[:, 1:2] * 0.9, p[:, 1] * 0.9):
        if these.shape[1:] != (3,):
            y = on(of_labels, labels_of(30, 2))
        given = on(of_probabilities, these)
        plain = np.asarray(y.compute() if "dask" in of_labels else y if "else" not in of_labels else np.from_dlpack(y))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*sum to (one|1).*")  # as float32 they may be off
            want = theirs(plain, these, sample_weight=w)
            assert pl.log_loss(y, given, sample_weight=weight) == pytest.approx(want, rel=tolerance)
            assert pl.log_loss(plain, given, sample_weight=w) == pytest.approx(want, rel=tolerance)


@pytest.mark.parametrize("kind", ["strings", "one-hot", "several classes per row", "floats", "bools", "with gaps"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_libraries_take_every_kind_of_labels(library, kind):
    y = KINDS[kind](labels_of(30, 5))
    c = len(np.unique(y)) if y.ndim == 1 else 5
    p, want = simplex(30, c), None
    want = theirs(y, p)
    tolerance = 1e-6 if library == "jax" else 1e-12
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*sum to (one|1).*")
        assert pl.log_loss(y, on(library, p)) == pytest.approx(want, rel=tolerance)
        if kind != "strings" or library in ("pandas", "polars"):
            assert pl.log_loss(on(library, y), p) == pytest.approx(want, rel=1e-12)
            assert pl.log_loss(on(library, y), on(library, p)) == pytest.approx(want, rel=tolerance)


@pytest.fixture(params=["torch", "jax", "array-api-strict, elsewhere"])
def afar(request, monkeypatch):
    """Arrays whose memory is out of NumPy's reach, as on a GPU: what their own library computes."""
    kind = _backends.backend_of(on(request.param, np.zeros(2)))
    monkeypatch.setitem(_backends._owners, type(on(request.param, np.zeros(2))), replace(kind, as_numpy=None))
    return lambda x: on(request.param, x)


@pytest.mark.parametrize("kind", ["with gaps", "uint8", "floats", "bools", "strings", "column", "one-hot", "several classes per row"])
def test_arrays_out_of_reach(afar, kind):
    y, w = KINDS[kind](labels_of(30, 5)), RNG.random(30)
    c = len(np.unique(y)) if y.ndim == 1 or y.shape[1] == 1 else 5
    p = simplex(30, c)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*sum to (one|1).*")
        for these in (p, p[:, 1], p[:, 1:2]) if c == 2 else (p,):
            want = theirs(y, these, sample_weight=w)
            assert pl.log_loss(y, afar(these), sample_weight=w) == pytest.approx(want, rel=1e-6)
            if kind != "strings":
                assert pl.log_loss(afar(y), afar(these), sample_weight=afar(w)) == pytest.approx(want, rel=1e-6)
                assert pl.log_loss(afar(y), these, sample_weight=afar(w)) == pytest.approx(want, rel=1e-6)
    if y.ndim == 1:
        with pytest.raises(ValueError, match=r"y_true\[\d+\] is .*, but labels has no such class"):
            pl.log_loss(y if kind == "strings" else afar(y), afar(p), labels=[8, 9])


@pytest.mark.parametrize("library", LIBRARIES)
def test_libraries_name_bad_entries(library):
    p = simplex(20, 3)
    p[11, 1] = 1.5
    with pytest.raises(ValueError, match=r"y_proba\[11, 1\] is 1.5, but probabilities must be between 0 and 1"):
        pl.log_loss(on(library, labels_of(20, 3)), on(library, p))
    with pytest.raises(ValueError, match=r"y_true\[3\] is 9, but labels has no such class: 0, 1, 2"):
        pl.log_loss(on(library, np.asarray([0, 1, 2, 9, 1])), on(library, simplex(5, 3)), labels=on(library, np.arange(3)))
    with pytest.raises(ValueError, match=r"sample_weight\[1\] is inf, but weights must be finite"):
        pl.log_loss([0, 1], on(library, np.asarray(P)), sample_weight=on(library, np.asarray([1, np.inf])))
    with pytest.raises(ValueError, match=r"y_proba\[1\] sums to 0"):
        pl.log_loss([0, 1], on(library, np.asarray([[0.5, 0.5], [0.0, 0.0]])), rescale=True)


def test_categories_count_only_if_they_occur():
    import pandas as pd

    y = NAMES[labels_of(30, 4)]
    p, want = simplex(30, 4), None
    want = theirs(y, p)
    for categories in (sorted(NAMES), ["z", *NAMES[::-1]]):
        column = pd.Categorical(y, categories=categories)
        assert pl.log_loss(column, p) == pl.log_loss(pd.Series(column), p) == pytest.approx(want, rel=1e-12)
    numbers = labels_of(30, 4) * 10
    assert pl.log_loss(pd.Series(numbers).astype("category"), p) == pytest.approx(theirs(numbers, p), rel=1e-12)
    missing = pd.Series(pd.Categorical(["a", None, "b"]))
    with pytest.raises(TypeError, match=r"y_true\[1\] is nan"):
        pl.log_loss(missing, simplex(3, 2))


def test_polars_categories():
    import polars

    y = NAMES[labels_of(30, 4)]
    p = simplex(30, 4)
    for dtype in (polars.Categorical, polars.Enum(["z", *NAMES[::-1]])):
        assert pl.log_loss(polars.Series(y).cast(dtype), p) == pytest.approx(theirs(y, p), rel=1e-12)


def test_nullable_columns():
    import pandas as pd

    y, p = labels_of(30, 3), simplex(30, 3)
    for dtype in ("Int64", "UInt8", "Int8", "Float64"):
        assert pl.log_loss(pd.Series(y, dtype=dtype), p) == pytest.approx(theirs(y, p), rel=1e-12)
    with pytest.raises(ValueError, match="y_true"):
        pl.log_loss(pd.Series([0, 1, None], dtype="Int64"), p[:3])


def test_bfloat16_is_clipped_as_float64():
    import torch

    p = torch.tensor([[0.25, 0.75], [1.0, 0.0]], dtype=torch.bfloat16)
    want = theirs([0, 1], p.double().numpy())
    for these in (p, p[:, 1], p[:, 1:]):
        for y in ([0, 1], torch.tensor([0, 1]), torch.tensor([0, 1], dtype=torch.uint8), torch.eye(2, dtype=torch.bfloat16)):
            assert pl.log_loss(y, these) == pytest.approx(want, rel=1e-12)
    import ml_dtypes

    assert pl.log_loss([0, 1], p.float().numpy().astype(ml_dtypes.bfloat16)) == pytest.approx(want, rel=1e-12)


def test_traced_arrays_have_no_float():
    import jax

    with pytest.raises(TypeError, match="returns a Python float"):
        jax.jit(lambda p: pl.log_loss([0, 1], p))(np.asarray(P))
    import torch

    with pytest.raises(TypeError, match="returns a Python float"):
        pl.log_loss([0, 1], torch.tensor(P, device="meta"))


# ------------------------------------------------------------------------------------------------------------------ the kernel


@pytest.fixture(params=["formula", *getattr(kernel(), "isas", tuple)()])
def route(request, monkeypatch):
    """Each way to take the sums: by the array namespace, and by the kernel on each instruction set this machine has."""
    if request.param == "formula":
        monkeypatch.setenv("POLYLOSS_ROUTE", "formula")
        yield
    else:
        before = kernel().isa()
        kernel().force(request.param)
        yield
        kernel().force(before)


SIZES = [(1, 2), (7, 2), (700, 2), (513, 3), (64, 7), (64, 8), (40, 9), (41, 24), (9, 101), (3, 1024), (530, 30)]


@pytest.mark.parametrize(("n", "c"), SIZES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_every_route_at_every_size(route, n, c, dtype):
    """Rows and columns that fill vectors, tiles and blocks of rows, and that do not; any strides."""
    tolerance = 1e-13 if dtype == np.float64 else 1e-5
    p, y, w = simplex(n, c, dtype), RNG.integers(0, c, n), RNG.random(n) + 0.5
    w[1::3] = 0
    picked = np.clip(p[np.arange(n), y].astype(float), np.finfo(dtype).eps, 1 - np.finfo(dtype).eps)
    wide = np.zeros((2 * n, 3 * c), dtype)
    wide[::2, 1::3] = p
    apart = np.zeros((n, c + 5), dtype)
    apart[:, :c] = p
    for q in (
        p,
        np.asfortranarray(p),
        wide[::2, 1::3],
        apart[:, :c],
        np.ascontiguousarray(p[::-1])[::-1],
        np.ascontiguousarray(p[:, ::-1])[:, ::-1],
    ):
        for labels in (y, y.astype(np.int32), np.repeat(y, 2)[::2]):
            assert pl.log_loss(labels, q, labels=np.arange(c)) == pytest.approx(-np.log(picked).mean(), rel=tolerance)
            with np.errstate(invalid="raise"):
                got = pl.log_loss(labels, q, labels=np.arange(c), sample_weight=np.repeat(w, 2)[::2], normalize=False, rescale=True)
            assert got == pytest.approx(-np.log(picked) @ w, rel=max(tolerance, 1e-6 if c > 1000 else tolerance))


@pytest.mark.parametrize("shape", [(5,), (1030,), (5, 2), (1030, 2), (19, 3), (1030, 3), (5, 29), (5, 64), (5, 203)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_every_entry_is_checked(route, shape, dtype):
    p = np.full(shape, 1 / shape[1] if len(shape) > 1 else 0.5, dtype)
    c = shape[1] if len(shape) > 1 else 2
    for at in {*RNG.integers(0, p.size, 12).tolist(), 0, p.size - 1}:
        for value in (np.nan, np.inf, -np.inf, np.nextafter(dtype(1), dtype(2)), -np.finfo(dtype).tiny):
            q = p.copy()
            q.flat[at] = value
            for these in (q, np.asfortranarray(q)):
                with pytest.raises(
                    ValueError, match=re.escape(f"y_proba[{', '.join(str(i) for i in np.unravel_index(at, shape))}] is {float(value)}")
                ):
                    pl.log_loss(np.zeros(len(p), int), these, labels=np.arange(c))


def test_rows_that_do_not_sum_to_1_are_found_anywhere(route):
    for n, c in ((1, 2), (1030, 2), (5, 3), (7, 40), (9, 300)):
        for row in {0, n // 2, n - 1}:
            for column in {0, c // 2, c - 1}:
                p = simplex(n, c)
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    pl.log_loss(np.zeros(n, int), p, labels=np.arange(c))
                p[row, column] *= 0.5
                p[row, column] += 0.4
                with pytest.warns(UserWarning, match="should sum to 1"):
                    pl.log_loss(np.zeros(n, int), p / p.max(), labels=np.arange(c))


@pytest.mark.parametrize("dtype", ["b", "h", "i", "q", "B", "H", "I", "Q", "?"])
def test_every_type_of_labels(route, dtype):
    y = RNG.integers(0, 2, 1100).astype(dtype)
    p = simplex(1100, 2)
    assert pl.log_loss(y, p) == pytest.approx(-np.log(p[np.arange(1100), y.astype(int)]).mean(), rel=1e-13)
    for at in (0, 511, 512, 1099):
        bad = y.astype(np.int8 if dtype == "?" else dtype)
        bad[at] = np.iinfo(bad.dtype).max
        with pytest.raises(ValueError, match=rf"y_true\[{at}\] is {bad[at]}, but labels has no such class"):
            pl.log_loss(bad, p, labels=[0, 1])
        with pytest.raises(ValueError, match="y_true has 3 classes"):
            pl.log_loss(bad, p)


@pytest.mark.parametrize("base", [0, -3])
def test_probabilities_are_read_once(monkeypatch, base):
    """Whatever the order of neighbouring labels: here the first and last thousand lack the least."""
    kernel, calls = import_module("polyloss._kernels.cpu.log_loss"), []
    fused = kernel.fused
    monkeypatch.setattr(kernel, "fused", lambda *args, **kwargs: calls.append(1) or fused(*args, **kwargs))
    labels = np.concatenate([np.arange(1, 10).repeat(200), np.arange(10), np.arange(1, 10).repeat(200)]) + base
    p = np.full((labels.size, 10), 0.1)
    assert pl.log_loss(labels, p) == pytest.approx(np.log(10))
    assert len(calls) == 1


def test_labels_are_compared_as_mathematical_integers():
    """Differences wrap; none may come out as a class."""
    p = simplex(3, 2)
    for dtype in (np.int64, np.int8, np.uint64, np.uint8):
        low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
        for base in (low, high - 1):
            y = np.asarray([base, base + 1, high if base == low else low], dtype)
            assert kernel().fused(p, y, base=base, low=0.0)[4] == 2
        with pytest.raises(ValueError, match="cannot hold 2 classes"):
            kernel().fused(p, np.zeros(3, dtype), base=high, low=0.0)


def test_bits_do_not_depend_on_threads():
    for n, c in ((100_000, 2), (2000, 100), (50, 40_000), (70_000, 1)):
        p, y, w = simplex(n, max(c, 2)), RNG.integers(0, max(c, 2), n), RNG.random(n)
        for q in (p[:, 1] if c == 1 else p, np.asfortranarray(p)):
            results = {kernel().fused(q, y, low=2.0**-52, weight=w, rescale=True, threads=threads) for threads in (1, 2, 3, 8)}
            assert len(results) == 1


def test_nothing_of_the_size_of_the_probabilities_is_allocated():
    p, y = simplex(2000, 500), labels_of(2000, 500)
    pl.log_loss(y, p)
    tracemalloc.start()
    try:
        pl.log_loss(y, p, sample_weight=np.ones(2000))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < p.nbytes / 50


def test_inputs_are_not_written_to(route):
    p, y, w = simplex(30, 3), labels_of(30, 3), RNG.random(30)
    kept = [x.copy() for x in (p, y, w)]
    pl.log_loss(y, p, sample_weight=w, rescale=True, epsilon=0.1)
    assert all(np.array_equal(x, k) for x, k in zip((p, y, w), kept, strict=True))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_rescaled_need_not_be_probabilities(dtype):
    """Kaggle's score divides each row by its sum, whatever that is: shares 2/3 and 5/8, by kernel and by formula."""
    p, right = np.array([[2.0, 1.0], [3.0, 5.0]], dtype), -(math.log(2 / 3) + math.log(5 / 8)) / 2
    for y in ([0, 1], np.eye(2)):
        assert pl.log_loss(y, p, epsilon=1e-15, rescale=True) == pytest.approx(right, rel=1e-15)
        assert pl.log_loss(y, 100 * p, epsilon=1e-15, rescale=True) == pytest.approx(right, rel=1e-15)
