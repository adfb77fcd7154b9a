"""The calls whose results are pinned: every loss and its parameters on inputs of stated formulas, and the edge cases of docs/semantics.md.

Inputs come from no generator of random numbers, which may change: entry k of the targets is made of ((29 k + 17) mod 97 + 1/2) / 97, of the
predictions of ((41 k + 5) mod 89 + 1/2) / 89. What is right is worked out in mpmath's 40 digits, from the definitions in oracle.py or
from the expression beside an edge case.
"""

import math
from dataclasses import dataclass, field

import mpmath as mp
import numpy as np
from libraries import np_dtype
from oracle import CASES, truth_of

ROWS = 4
DTYPES = ("float64", "float32", "bfloat16")
nan, inf = math.nan, math.inf


def of_targets(k):
    """Of (0, 1)."""
    return ((29 * k + 17) % 97 + 0.5) / 97


def of_predictions(k):
    """Of (0, 1)."""
    return ((41 * k + 5) % 89 + 0.5) / 89


def block(kind, n, c, of):
    """n rows of c numbers of a kind that a case draws from, or n labels or values."""
    x = np.array([[of(c * i + j) for j in range(c)] for i in range(n)])
    bits = (x > 0.5).astype(float)
    bits[:, :2] = 0.0, 1.0
    shares = 0.25 + 3.5 * x
    return {
        "real": lambda: 5 * x - 2.5,
        "positive": lambda: shares,
        "probabilities": lambda: 0.0625 + 0.875 * x,
        "distribution": lambda: shares / np.array([[math.fsum(row)] for row in shares]),
        "one-hot": lambda: np.eye(c)[(3 * np.arange(n) + 1) % c],
        "binary": lambda: bits,
        "signs": lambda: 2 * bits - 1,
        "labels": lambda: (3 * np.arange(n) + 1) % c,
        "values": lambda: 5 * x[:, 0] - 2.5,
    }[kind]()


def inputs(case, dtype):
    """Targets and predictions of a case of oracle.py."""
    t, p = block(case.t, ROWS, case.c, of_targets), block(case.p, ROWS, case.c, of_predictions).astype(np_dtype(dtype))
    if not case.labelled:
        return t.astype(np_dtype(dtype)), p
    ignored = case.params.get("ignore_label", case.params.get("ignore_class"))
    if ignored is not None:
        t[1::3] = ignored
    return t, p


def pinned_cases():
    """Name -> case and dtype."""
    return {f"{case!r} c={case.c} {dtype}": (case, dtype) for case in CASES for dtype in DTYPES}


def right_of(case, dtype):
    """Losses and slopes."""
    truth = truth_of(case.loss, *inputs(case, dtype), dtype, **case.params)
    return truth.losses, truth.slope


# -------------------------------------------------------------------------------------------------------------------- edges


@dataclass
class Edge:
    """A call at an edge: why it is right, the loss, its arguments, and functions that give its value and slope."""

    why: str
    loss: str
    t: object
    p: object
    value: object  # -> number or list
    slope: object = None  # -> list, or None: not pinned
    options: dict = field(default_factory=dict)
    dtype: str = "float64"


def rows(*lists):
    return [[mp.mpf(x) for x in row] for row in lists]


def softmax(z):
    e = [mp.exp(mp.mpf(x)) if x != -inf else mp.mpf(0) for x in z]
    return [x / mp.fsum(e) for x in e]


def nll(z, label):
    return -mp.log(softmax(z)[label])


def single(x):
    """A number as float32 holds it."""
    return mp.mpf(float(np.float32(x)))


A, B = [1.0, 2.0, 0.5], [0.25, 0.125, 3.0]
NORMALIZED = np.array([5 * of_predictions(k) - 2.5 for k in range(24)]).reshape(2, 3, 2, 2)
NORMALIZED_LABELS = np.array([[[0, 255], [2, 1]], [[255, 1], [255, 0]]])


def normalized_sum():
    z = NORMALIZED
    return mp.fsum(nll(z[n, :, i, j], y) for (n, i, j), y in np.ndenumerate(NORMALIZED_LABELS) if y != 255)


EDGES = {
    "all ignored": Edge(
        "no label counts: loss and gradient are 0",
        "softmax_loss",
        [9, 9],
        [A, B],
        lambda: 0,
        lambda: rows([0] * 3, [0] * 3),
        {"ignore_label": 9},
    ),
    "nan behind an ignored label": Edge(
        "skipped, not multiplied by 0",
        "softmax_loss",
        [1, 9],
        [A, [nan] * 3],
        lambda: nll(A, 1),
        lambda: rows([softmax(A)[0], softmax(A)[1] - 1, softmax(A)[2]], [0] * 3),
        {"ignore_label": 9},
    ),
    "infinity behind a weight of 0": Edge(
        "skipped, not multiplied by 0",
        "mse",
        [[0.0], [1.0]],
        [[2.0], [inf]],
        lambda: 4,
        lambda: rows([4], [0]),
        {"sample_weight": [1.0, 0.0], "reduction": "mean"},
    ),
    "weights of nan and 0": Edge(
        "the mean is NaN, the gradient of weight 0 is 0",
        "mse",
        [[0.0], [0.0]],
        [[1.0], [1.0]],
        lambda: nan,
        lambda: rows([nan], [0]),
        {"sample_weight": [nan, 0.0], "reduction": "mean"},
    ),
    "empty batch": Edge("the sum of nothing", "mse", np.zeros((0, 2)), np.zeros((0, 2)), lambda: 0, None, {"reduction": "mean"}),
    "class weights of labels": Edge(
        "divided by their sum at the labels",
        "softmax_loss",
        [1, 0],
        [A, B],
        lambda: (2 * nll(A, 1) + nll(B, 0)) / 3,
        None,
        {"class_weight": [1.0, 2.0, 4.0]},
    ),
    "class weights of one-hot targets": Edge(
        "as of the labels that they stand for",
        "softmax_loss",
        [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]],
        [A, B],
        lambda: (2 * nll(A, 1) + nll(B, 0)) / 3,
        None,
        {"class_weight": [1.0, 2.0, 4.0]},
    ),
    "label smoothing": Edge(
        "spread over all classes: (1 - e) onehot + e / C",
        "softmax_loss",
        [1],
        [A],
        lambda: mp.mpf("0.7") * nll(A, 1) + mp.mpf("0.1") * mp.fsum(nll(A, c) for c in range(3)),
        None,
        {"label_smoothing": 0.3},
    ),
    "impossible class without a target": Edge(
        "0 times infinity is 0 there", "softmax_loss", [[0.5, 0.0, 0.5]], [[0.0, -inf, 1.0]], lambda: mp.log(1 + mp.e) - mp.mpf("0.5"), None
    ),
    "impossible class under smoothing": Edge(
        "it has a target then", "softmax_loss", [0], [[0.0, -inf]], lambda: inf, None, {"label_smoothing": 0.1}
    ),
    "impossible class that is the label": Edge("infinite, not NaN", "softmax_loss", [1], [[0.0, -inf]], lambda: inf, None),
    "row of -inf": Edge(
        "no distribution; the next row is as it was",
        "softmax_loss",
        [0, 1],
        [[-inf] * 3, A],
        lambda: [nan, nll(A, 1)],
        None,
        {"reduction": "none"},
    ),
    "row with +inf": Edge(
        "no distribution", "softmax_loss", [0, 1], [[inf, 0.0, 1.0], A], lambda: [nan, nll(A, 1)], None, {"reduction": "none"}
    ),
    "confident row": Edge(
        "log1p keeps the digits of a small loss", "softmax_loss", [0], [[40.0, 0.0, 1.0]], lambda: mp.log1p(mp.exp(-40) + mp.exp(-39)), None
    ),
    "logits that overflow alone": Edge(
        "only differences count", "softmax_loss", [1], [[1e4, 1e4 - 2.0]], lambda: 2 + mp.log1p(mp.exp(-2)), None
    ),
    "far logits in float32": Edge(
        "the loss is the gap", "softmax_loss", [1], [[3e4, -3e4]], lambda: 60000, lambda: rows([1, -1]), dtype="float32"
    ),
    "binary logits of 50": Edge(
        "the softplus does not stop at 16, as Keras' clip does",
        "bce",
        [[0.0], [1.0]],
        [[50.0], [50.0]],
        lambda: [50 + mp.log1p(mp.exp(-50)), mp.log1p(mp.exp(-50))],
        None,
        {"from_logits": True},
    ),
    "binary logits of infinity": Edge(
        "0 with the label that agrees, else infinite", "bce", [[1.0], [0.0]], [[inf], [inf]], lambda: [0, inf], None, {"from_logits": True}
    ),
    "binary probability of 0": Edge(
        "clipped at epsilon, slope 0", "bce", [[1.0]], [[0.0]], lambda: [-mp.log(mp.mpf(1e-7))], lambda: rows([0])
    ),
    "binary probability of 1 in float32": Edge(
        "1 - epsilon is a number of float32: 1 - 2**-23",
        "bce",
        [[0.0]],
        [[1.0]],
        lambda: [-mp.log(1 - single(1 - 1e-7))],
        lambda: rows([0]),
        dtype="float32",
    ),
    "binary probability of 1 in bfloat16": Edge(
        "computed in float32, which clips",
        "bce",
        [[0.0]],
        [[1.0]],
        lambda: [-mp.log(1 - single(1 - 1e-7))],
        lambda: rows([0]),
        dtype="bfloat16",
    ),
    "share of 0": Edge("clipped at epsilon", "scce", [0], [[0.0, 2.0]], lambda: [-mp.log(mp.mpf(1e-7))], lambda: rows([0, 0])),
    "share above 1": Edge(
        "clipped, though it and 1 - epsilon round to 1",
        "categorical_focal_crossentropy",
        [[0.5, 0.5]],
        [[1.5, -1e-9]],
        lambda: [-mp.log(single(1e-15)) / 8],
        lambda: rows([0, 0]),
        {"gamma": 0.5, "epsilon": 1e-15},
        "float32",
    ),
    "predictions that are no shares yet": Edge(
        "divided by their sum", "cce", [[1.0, 0.0]], [[2.0, 6.0]], lambda: [mp.log(4)], lambda: rows([mp.mpf(-3) / 8, mp.mpf(1) / 8])
    ),
    "focal loss at a gap of 95": Edge(
        "(1 - p)**gamma is 1 there",
        "categorical_focal_crossentropy",
        [[0.0, 1.0]],
        [[95.0, 0.0]],
        lambda: [mp.mpf(95) / 4],
        lambda: rows([0.25, -0.25]),
        {"gamma": 0.5, "from_logits": True},
        "float32",
    ),
    "divergence where the target is 0": Edge("0 log 0 is 0", "kld", [[0.0, 1.0]], [[0.0, 0.5]], lambda: [mp.log(2)], lambda: rows([0, -2])),
    "divergence without epsilon": Edge(
        "0 where both are 0, slope 0", "kld", [[0.0, 1.0]], [[0.0, 1.0]], lambda: [0], lambda: rows([0, -1]), {"epsilon": 0.0}
    ),
    "cosine of a zero vector": Edge(
        "no direction: 0, slope 0", "cosine_similarity", [[1.0, 2.0]], [[0.0, 0.0]], lambda: [0], lambda: rows([0, 0])
    ),
    "cosine of a tiny vector": Edge("the same at any scale", "cosine_similarity", [[1.0, 0.0]], [[1e-200, 0.0]], lambda: [-1], None),
    "cosine of huge vectors in float32": Edge(
        "the squares overflow", "cosine_similarity", [[3e38, 0.0]], [[1e38, 1e38]], lambda: [-1 / mp.sqrt(2)], None, dtype="float32"
    ),
    "hinge of classes": Edge("0 and 1 stand for -1 and 1", "hinge", [[0.0, 1.0]], [[0.5, 0.5]], lambda: [1], lambda: rows([0.5, -0.5])),
    "hinge of signs": Edge(
        "any -1 tells that they are signs", "hinge", [[-1.0, 1.0]], [[0.5, 0.5]], lambda: [1], lambda: rows([0.5, -0.5])
    ),
    "hinge of 0 as itself": Edge(
        "labels='pm1' takes targets as they are",
        "hinge",
        [[0.0, 1.0]],
        [[0.5, 0.5]],
        lambda: [0.75],
        lambda: rows([0, -0.5]),
        {"labels": "pm1"},
    ),
    "hinge at its kink": Edge(
        "slope 0 where the margin is just reached", "hinge", [[1.0]], [[1.0]], lambda: [0], lambda: rows([0]), {"labels": "pm1"}
    ),
    "huber at delta": Edge("the parabola's slope", "huber", [[0.0]], [[-3.0]], lambda: [4], lambda: rows([-2]), {"delta": 2.0}),
    "absolute error at 0": Edge("slope 0 at the kink", "mae", [[1.0]], [[1.0]], lambda: [0], lambda: rows([0])),
    "percentage of a target of 0": Edge("the target is floored at epsilon", "mape", [[0.0]], [[1.0]], lambda: [100 / mp.mpf(1e-7)], None),
    "logarithmic error of negative numbers": Edge(
        "floored at epsilon, slope 0", "msle", [[-5.0]], [[-7.0]], lambda: [0], lambda: rows([0])
    ),
    "log cosh far out": Edge(
        "d - log 2, where cosh overflows", "log_cosh", [[0.0]], [[1e4]], lambda: [10000 - mp.log(2)], lambda: rows([1])
    ),
    "log cosh near 0": Edge(
        "d**2 / 2, where cosh rounds to 1", "log_cosh", [[0.0]], [[1e-9]], lambda: [mp.log(mp.cosh(mp.mpf(1e-9)))], None
    ),
    "poisson of a target of 0": Edge("the prediction alone", "poisson", [[0.0]], [[0.0]], lambda: [0], lambda: rows([1])),
    "integers of 8 bits": Edge("they do not wrap around", "mse", [[250]], [[3]], lambda: [247**2], None, dtype="uint8"),
    "mean of weights": Edge(
        "divided by their sum",
        "mse",
        [[0.0], [0.0]],
        [[1.0], [2.0]],
        lambda: mp.mpf(13) / 4,
        lambda: rows([0.5], [3]),
        {"sample_weight": [1.0, 3.0], "reduction": "mean"},
    ),
    "sum over batch size": Edge(
        "divided by the number of losses",
        "mse",
        [[0.0], [0.0]],
        [[1.0], [2.0]],
        lambda: mp.mpf(13) / 2,
        lambda: rows([1], [6]),
        {"sample_weight": [1.0, 3.0], "reduction": "sum_over_batch_size"},
    ),
    "weights whose sum is tiny": Edge(
        "their reciprocal overflows, the mean does not",
        "mse",
        [[0.0], [0.0]],
        [[1.0], [1.0]],
        lambda: 1,
        lambda: rows([1], [1]),
        {"sample_weight": [1e-320, 1e-320], "reduction": "mean"},
    ),
    "weights whose sum overflows": Edge(
        "the mean does not",
        "mse",
        [[0.0], [0.0]],
        [[1.0], [1.0]],
        lambda: 1,
        lambda: rows([1], [1]),
        {"sample_weight": [3e38, 3e38], "reduction": "mean"},
        "float32",
    ),
    "denominator below float32": Edge(
        "divides as the number it is",
        "softmax_loss",
        [0],
        [[0.0, 0.0]],
        lambda: inf,
        lambda: rows([-inf, inf]),
        {"denominator": 1e-60},
        "float32",
    ),
    **{
        f"normalization={n!r} normalize={b!r}": Edge(
            "Caffe's rule: normalization decides, else normalize, else valid",
            "softmax_loss",
            NORMALIZED_LABELS,
            NORMALIZED,
            lambda d={"full": 8, "valid": 5, "batch_size": 2, "none": 1}[n or ("batch_size" if b is False else "valid")]: (
                normalized_sum() / d
            ),
            None,
            {"normalization": n, "normalize": b, "ignore_label": 255, "axis": 1},
        )
        for n in (None, "full", "valid", "batch_size", "none")
        for b in (None, True, False)
    },
}

SPAM = (["spam", "ham", "ham", "spam"], [[0.1, 0.9], [0.9, 0.1], [0.8, 0.2], [0.35, 0.65]])


def mean_log(*shares):
    return -mp.fsum(mp.log(mp.mpf(x)) for x in shares) / len(shares)


METRICS = {  # name: why, arguments of log_loss, options, what is right
    "strings": ("scikit-learn's example", SPAM, {}, lambda: mean_log(0.9, 0.9, 0.8, 0.65)),
    "second class": ("one column holds the probability of the second class", ([0, 1], [0.25, 0.5]), {}, lambda: mean_log(0.75, 0.5)),
    "clipped in float64": ("at 2**-52", ([1, 0], [0.0, 0.5]), {}, lambda: mean_log(mp.mpf(2) ** -52, 0.5)),
    "clipped in float32": ("at 2**-23", ([1, 0], np.array([0.0, 0.5], "f4")), {}, lambda: mean_log(mp.mpf(2) ** -23, 0.5)),
    "sum": ("normalize=False", ([0, 1], [0.25, 0.5]), {"normalize": False}, lambda: 2 * mean_log(0.75, 0.5)),
    "weighted": (
        "divided by the sum of the weights",
        ([0, 1], [0.25, 0.5]),
        {"sample_weight": [3.0, 1.0]},
        lambda: mean_log(0.75, 0.75, 0.75, 0.5),
    ),
    "Kaggle's": (
        "rows are divided by their sums, whatever these are",
        ([0, 1], [[2.0, 1.0], [3.0, 5.0]]),
        {"epsilon": 1e-15, "rescale": True},
        lambda: mean_log(mp.mpf(2) / 3, mp.mpf(5) / 8),
    ),
}
