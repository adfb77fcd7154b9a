"""The truth, in 40 digits: every loss written out from its definition for one sample, with derivatives by mpmath.

Nothing here is shared with the library, neither formulas nor the shapes they work on: a loss is a function of two lists of numbers. A
`Case` says with which parameters and which inputs the laws ask for a loss, a `Truth` what is right for it.
"""

import zlib
from dataclasses import dataclass, field
from functools import cache

import mpmath as mp
import numpy as np
from libraries import beside, np_dtype

mp.mp.dps = 40


def pairs(*lists):
    return zip(*lists, strict=True)


def mean(terms):
    terms = list(terms)
    return mp.fsum(terms) / len(terms)


def clip(x, low, high):
    return min(max(x, low), high)


def times(a, b):
    """a b() where nothing is asked of b if a is 0."""
    return mp.mpf(0) if a == 0 else a * b()


def rounded(x, dtype):
    """A number as the dtype of the computation holds it; that of float16 and bfloat16 is float32."""
    return mp.mpf(float(np.dtype("float64" if dtype == "float64" else "float32").type(x)))


def smooth(t, ε, c):
    return [(1 - mp.mpf(ε)) * x + mp.mpf(ε) / c for x in t]


def signs(t, labels):
    """Keras decides by the whole array whether targets are classes; a case's targets are all of one kind, so a row decides."""
    return [2 * x - 1 for x in t] if labels == "01" or (labels == "auto" and all(x in (0, 1) for x in t)) else t


def softmax(z):
    top = max(z)
    e = [mp.exp(x - top) for x in z]
    return [x / mp.fsum(e) for x in e]


def shares(p, epsilon, dtype):
    return [clip(x / mp.fsum(p), rounded(epsilon, dtype), rounded(1 - epsilon, dtype)) for x in p]


def one_hot(t, c):
    """Labels as one-hot rows; rows are left alone."""
    return t if isinstance(t, list) else [mp.mpf(int(j == t)) for j in range(c)]


def mean_squared_error(t, p, dtype):
    return mean((b - a) ** 2 for a, b in pairs(t, p))


def mean_absolute_error(t, p, dtype):
    return mean(abs(b - a) for a, b in pairs(t, p))


def mean_absolute_percentage_error(t, p, dtype, epsilon=1e-7):
    return 100 * mean(abs((a - b) / max(abs(a), rounded(epsilon, dtype))) for a, b in pairs(t, p))


def mean_squared_logarithmic_error(t, p, dtype, epsilon=1e-7):
    ε = rounded(epsilon, dtype)
    return mean((mp.log1p(max(b, ε)) - mp.log1p(max(a, ε))) ** 2 for a, b in pairs(t, p))


def hinge(t, p, dtype, labels="auto"):
    return mean(max(1 - a * b, mp.mpf(0)) for a, b in pairs(signs(t, labels), p))


def squared_hinge(t, p, dtype, labels="auto"):
    return mean(max(1 - a * b, mp.mpf(0)) ** 2 for a, b in pairs(signs(t, labels), p))


def categorical_hinge(t, p, dtype):
    return max(max((1 - a) * b for a, b in pairs(t, p)) - mp.fsum(a * b for a, b in pairs(t, p)) + 1, mp.mpf(0))


def _binary(t, p, dtype, from_logits, label_smoothing, epsilon):
    """Targets, probabilities of 1 and of 0, and the cross-entropies."""
    t = smooth(t, label_smoothing, 2)
    if from_logits:
        up, down = [1 / (1 + mp.exp(-z)) for z in p], [1 / (1 + mp.exp(z)) for z in p]
    else:
        up = [clip(x, rounded(epsilon, dtype), rounded(1 - epsilon, dtype)) for x in p]
        down = [1 - x for x in up]
    return t, up, down, [-times(a, lambda u=u: mp.log(u)) - times(1 - a, lambda d=d: mp.log(d)) for a, u, d in pairs(t, up, down)]


def binary_crossentropy(t, p, dtype, pos_weight=1.0, from_logits=False, label_smoothing=0.0, epsilon=1e-7):
    t, up, down, losses = _binary(t, p, dtype, from_logits, label_smoothing, epsilon)
    if pos_weight != 1.0:
        k = [mp.mpf(x) for x in (pos_weight if isinstance(pos_weight, tuple) else [pos_weight] * len(p))]
        each = zip(t, k, up, down, strict=True)
        losses = [-b * times(a, lambda u=u: mp.log(u)) - times(1 - a, lambda d=d: mp.log(d)) for a, b, u, d in each]
    return mean(losses)


def binary_focal_crossentropy(
    t, p, dtype, apply_class_balancing=False, alpha=0.25, gamma=2.0, from_logits=False, label_smoothing=0.0, epsilon=1e-7
):
    t, up, down, losses = _binary(t, p, dtype, from_logits, label_smoothing, epsilon)
    focal = [(a * d + (1 - a) * u) ** gamma * loss for a, u, d, loss in pairs(t, up, down, losses)]
    if apply_class_balancing:
        focal = [(a * mp.mpf(alpha) + (1 - a) * (1 - mp.mpf(alpha))) * f for a, f in pairs(t, focal)]
    return mean(focal)


def _categorical(t, p, dtype, from_logits, label_smoothing, epsilon):
    t = smooth(one_hot(t, len(p)), label_smoothing, len(p))
    return t, softmax(p) if from_logits else shares(p, epsilon, dtype)


def categorical_crossentropy(t, p, dtype, from_logits=False, label_smoothing=0.0, epsilon=1e-7):
    t, y = _categorical(t, p, dtype, from_logits, label_smoothing, epsilon)
    return -mp.fsum(times(a, lambda b=b: mp.log(b)) for a, b in pairs(t, y))


def sparse_categorical_crossentropy(t, p, dtype, from_logits=False, ignore_class=None, epsilon=1e-7):
    return mp.mpf(0) if t == ignore_class else categorical_crossentropy(t, p, dtype, from_logits, 0.0, epsilon)


def categorical_focal_crossentropy(t, p, dtype, alpha=0.25, gamma=2.0, from_logits=False, label_smoothing=0.0, epsilon=1e-7):
    t, y = _categorical(t, p, dtype, from_logits, label_smoothing, epsilon)
    α = [mp.mpf(x) for x in (alpha if isinstance(alpha, tuple) else [alpha] * len(p))]
    return -mp.fsum(k * times(a, lambda b=b: (1 - b) ** gamma * mp.log(b)) for k, a, b in pairs(α, t, y))


def poly1_crossentropy(t, p, dtype, poly_epsilon=1.0):
    t, y = one_hot(t, len(p)), softmax(p)
    return -mp.fsum(a * mp.log(b) for a, b in pairs(t, y)) + mp.mpf(poly_epsilon) * (1 - mp.fsum(a * b for a, b in pairs(t, y)))


def kl_divergence(t, p, dtype, epsilon=1e-7):
    t, p = [clip(x, 0, 1) for x in t], [clip(x, rounded(epsilon, dtype), 1) for x in p]
    return mp.fsum(times(a, lambda a=a, b=b: mp.log(a / b)) for a, b in pairs(t, p))


def cosine_similarity(t, p, dtype):
    norms = mp.sqrt(mp.fsum(a * a for a in t)) * mp.sqrt(mp.fsum(b * b for b in p))
    return mp.mpf(0) if norms == 0 else -mp.fsum(a * b for a, b in pairs(t, p)) / norms


def huber(t, p, dtype, delta=1.0):
    δ, errors = mp.mpf(delta), [abs(b - a) for a, b in pairs(t, p)]
    return mean(d * d / 2 if d <= δ else δ * (d - δ / 2) for d in errors)


def log_cosh(t, p, dtype):
    return mean(mp.log(mp.cosh(b - a)) for a, b in pairs(t, p))


def poisson(t, p, dtype, log_input=False, full=False):
    losses = [mp.exp(b) - a * b if log_input else b - times(a, lambda b=b: mp.log(b + rounded(1e-7, dtype))) for a, b in pairs(t, p)]
    return mean(x + (a * mp.log(a) - a + mp.log(2 * mp.pi * a) / 2 if full and a > 1 else 0) for a, x in pairs(t, losses))


def smooth_l1(t, p, dtype, beta=1.0):
    β, errors = mp.mpf(beta), [abs(b - a) for a, b in pairs(t, p)]
    return mean(d * d / (2 * β) if d < β else d - β / 2 for d in errors)


def pseudo_huber(t, p, dtype, delta=1.0):
    δ = mp.mpf(delta)
    return mean(δ * δ * (mp.sqrt(1 + ((b - a) / δ) ** 2) - 1) for a, b in pairs(t, p))


def quantile_loss(t, p, dtype, quantile=0.5):
    if isinstance(quantile, tuple):
        return mean(quantile_loss([t], [b], dtype, q) for b, q in pairs(p, quantile))
    q = mp.mpf(quantile)
    return mean(max(q * (a - b), (q - 1) * (a - b)) for a, b in pairs(t, p))


def tweedie_deviance(t, p, dtype, power=1.5, log_input=False):
    """By the integral that defines it: twice that of (m - t) / m**power from the target to the mean."""
    n = mp.mpf(power)

    def antiderivative(t, m):
        whole = mp.log(m) if n == 2 else m ** (2 - n) / (2 - n)
        return whole - t * (mp.log(m) if n == 1 else m ** (1 - n) / (1 - n))

    means = [mp.exp(b) if log_input else b for b in p]
    return mean(2 * (antiderivative(a, m) - (antiderivative(a, a) if a else 0)) for a, m in pairs(t, means))


def poisson_deviance(t, p, dtype, log_input=False):
    return mean(2 * (times(a, lambda a=a, m=m: mp.log(a / m)) - a + m) for a, m in pairs(t, [mp.exp(b) if log_input else b for b in p]))


def gamma_deviance(t, p, dtype, log_input=False):
    return mean(2 * (mp.log(m / a) + a / m - 1) for a, m in pairs(t, [mp.exp(b) if log_input else b for b in p]))


def exponential(t, p, dtype, labels="auto"):
    return mean(mp.exp(-a * b) for a, b in pairs(signs(t, labels), p))


def logistic(t, p, dtype, labels="auto"):
    return mean(mp.log1p(mp.exp(-a * b)) for a, b in pairs(signs(t, labels), p))


def softmax_loss(t, p, dtype, ignore_label=None, class_weight=None, label_smoothing=0.0, z_loss=0.0, softcap=None):
    """One position, undivided: -Σ k_c t_c log p_c + z_loss (log Σ exp z)², of capped logits."""
    if not isinstance(t, list) and t == ignore_label:
        return mp.mpf(0)
    p = p if softcap is None else [softcap * mp.tanh(x / softcap) for x in p]
    k, y = [1] * len(p) if class_weight is None else [mp.mpf(float(x)) for x in class_weight], softmax(p)
    losses = (-times(w * a, lambda b=b: mp.log(b)) for w, a, b in pairs(k, smooth(one_hot(t, len(p)), label_smoothing, len(p)), y))
    return mp.fsum(losses) + mp.mpf(z_loss) * mp.log(mp.fsum(mp.exp(x) for x in p)) ** 2


def brier(t, p, dtype):
    return mp.fsum((b - a) ** 2 for a, b in pairs(one_hot(t, len(p)), p))


def multiclass_hinge(t, p, dtype, margin=1.0, power=1, average=False):
    terms = [max(mp.mpf(margin) + z - p[t], mp.mpf(0)) ** power for j, z in enumerate(p) if j != t]
    return mp.fsum(terms) / len(p) if average else max(terms)


def generalized_crossentropy(t, p, dtype, q=0.5):
    return (1 - p[t] ** mp.mpf(q)) / mp.mpf(q)


def gaussian_nll(t, p, dtype):
    m, v = p
    return (v + (t - m) ** 2 / mp.exp(v)) / 2


def tversky(t, p, dtype, alpha=0.5, beta=0.5, epsilon=1e-7):
    common = mp.fsum(a * b for a, b in pairs(t, p))
    missed, extra = mp.fsum(a * (1 - b) for a, b in pairs(t, p)), mp.fsum(b * (1 - a) for a, b in pairs(t, p))
    return 1 - common / (common + mp.mpf(alpha) * missed + mp.mpf(beta) * extra + rounded(epsilon, dtype))


def dice(t, p, dtype):
    return 1 - 2 * mp.fsum(a * b for a, b in pairs(t, p)) / (mp.fsum(t) + mp.fsum(p) + rounded(1e-7, dtype))


def jaccard(t, p, dtype):
    common = mp.fsum(a * b for a, b in pairs(t, p))
    return 1 - common / (mp.fsum(t) + mp.fsum(p) - common + rounded(1e-7, dtype))


DEFINITIONS = {function.__name__: function for function in (
    mean_squared_error, mean_absolute_error, mean_absolute_percentage_error, mean_squared_logarithmic_error, hinge, squared_hinge,
    categorical_hinge, binary_crossentropy, categorical_crossentropy, sparse_categorical_crossentropy, kl_divergence, cosine_similarity,
    huber, log_cosh, poisson, binary_focal_crossentropy, categorical_focal_crossentropy, poly1_crossentropy, softmax_loss, smooth_l1,
    pseudo_huber, quantile_loss, poisson_deviance, gamma_deviance, tweedie_deviance, exponential, logistic, brier, multiclass_hinge,
    generalized_crossentropy, gaussian_nll, dice, tversky, jaccard)}  # fmt: skip


# ------------------------------------------------------------------------------------------------------------------- cases


@dataclass(frozen=True)
class Case:
    """A loss with parameters, and what its targets and predictions are drawn from."""

    loss: str
    t: str
    p: str
    params: dict = field(default_factory=dict, hash=False)
    n: int = 6
    c: int = 5
    function: object = field(default=None, compare=False)  # the public function, where it isn't polyloss'

    def __repr__(self):
        return "-".join([self.loss, self.t, *(k if k == "class_weight" else f"{k}={v}" for k, v in self.params.items())])

    @property
    def labelled(self):
        return self.t == "labels"

    @property
    def bare(self):
        """Whether targets lack the axis of the predictions."""
        return self.t in ("labels", "values")

    def inputs(self, dtype="float64"):
        """Targets and predictions: NumPy arrays, the latter (n, c) in `dtype`."""
        rng = np.random.default_rng(zlib.crc32(repr(self).encode()))
        t, p = DRAW[self.t](rng, self.n, self.c), DRAW[self.p](rng, self.n, self.c)
        if self.labelled:
            t = t.astype(np.int64)
            ignored = self.params.get("ignore_label", self.params.get("ignore_class"))
            if ignored is not None:
                t[1::3] = ignored
        else:
            t = t.astype(np_dtype(dtype))
        return t, p.astype(np_dtype(dtype))

    def call(self, t, p, **kwargs):
        """The public loss; softmax_loss with the axis that the others have."""
        return self.of(self.target, t, p, **kwargs)

    def of(self, function, t, p, **kwargs):
        """`function` (the loss, or value_and_grad of it) with this case's parameters, by default over the last axis."""
        params = {k: beside(p, v) if k == "class_weight" else v for k, v in self.params.items()}
        return function(t, p, **{"axis": -1, "reduction": "none", **params, **kwargs})

    @property
    def target(self):
        import polyloss

        return self.function or getattr(polyloss, self.loss)


DRAW = {
    "real": lambda rng, n, c: 2 * rng.standard_normal((n, c)),
    "positive": lambda rng, n, c: rng.uniform(0.2, 4.0, (n, c)),
    "probabilities": lambda rng, n, c: rng.uniform(0.05, 0.95, (n, c)),
    "distribution": lambda rng, n, c: rng.dirichlet(np.full(c, 2.0), n),
    "one-hot": lambda rng, n, c: np.eye(c)[rng.integers(0, c, n)],
    "binary": lambda rng, n, c: np.concatenate([np.tile([0.0, 1.0], (n, 1)), rng.integers(0, 2, (n, c - 2))], axis=1),
    "signs": lambda rng, n, c: np.concatenate([np.tile([-1.0, 1.0], (n, 1)), 2.0 * rng.integers(0, 2, (n, c - 2)) - 1], axis=1),
    "labels": lambda rng, n, c: rng.integers(0, c, n),
    "values": lambda rng, n, c: 2 * rng.standard_normal(n),
}

WEIGHTS = (0.5, 2.0, 1.25, 0.25, 3.0)  # of five classes; exact in every dtype
CASES = (
    Case("mean_squared_error", "real", "real"),
    Case("mean_absolute_error", "real", "real"),
    Case("mean_absolute_percentage_error", "real", "real"),
    Case("mean_absolute_percentage_error", "real", "real", {"epsilon": 1.5}),
    Case("mean_squared_logarithmic_error", "positive", "positive"),
    Case("mean_squared_logarithmic_error", "real", "real", {"epsilon": 0.25}),
    Case("hinge", "signs", "real"),
    Case("hinge", "binary", "real"),
    Case("hinge", "binary", "real", {"labels": "pm1"}),
    Case("squared_hinge", "signs", "real"),
    Case("squared_hinge", "binary", "real", {"labels": "01"}),
    Case("categorical_hinge", "one-hot", "real"),
    Case("binary_crossentropy", "binary", "probabilities"),
    Case("binary_crossentropy", "probabilities", "probabilities", {"label_smoothing": 0.1, "epsilon": 0.2}),
    Case("binary_crossentropy", "probabilities", "real", {"from_logits": True}),
    Case("binary_crossentropy", "binary", "real", {"from_logits": True, "label_smoothing": 0.25}),
    Case("binary_crossentropy", "probabilities", "probabilities", {"pos_weight": 2.5}),
    Case("binary_crossentropy", "binary", "real", {"pos_weight": 2.5, "from_logits": True, "label_smoothing": 0.1}),
    Case("binary_crossentropy", "probabilities", "real", {"pos_weight": WEIGHTS, "from_logits": True}),
    Case("categorical_crossentropy", "one-hot", "positive"),
    Case("categorical_crossentropy", "distribution", "positive", {"label_smoothing": 0.1, "epsilon": 0.1}),
    Case("categorical_crossentropy", "distribution", "real", {"from_logits": True, "label_smoothing": 0.1}),
    Case("sparse_categorical_crossentropy", "labels", "positive"),
    Case("sparse_categorical_crossentropy", "labels", "positive", {"ignore_class": -1, "epsilon": 0.15}),
    Case("sparse_categorical_crossentropy", "labels", "real", {"from_logits": True, "ignore_class": 2}),
    Case("kl_divergence", "distribution", "probabilities"),
    Case("kl_divergence", "binary", "probabilities", {"epsilon": 0.3}),
    Case("cosine_similarity", "real", "real"),
    Case("huber", "real", "real"),
    Case("huber", "real", "real", {"delta": 0.3}),
    Case("log_cosh", "real", "real"),
    Case("poisson", "positive", "positive"),
    Case("binary_focal_crossentropy", "binary", "probabilities"),
    Case("binary_focal_crossentropy", "probabilities", "probabilities",
         {"apply_class_balancing": True, "alpha": 0.3, "gamma": 1.5, "label_smoothing": 0.1, "epsilon": 0.2}),
    Case("binary_focal_crossentropy", "probabilities", "real", {"from_logits": True, "apply_class_balancing": True}),
    Case("binary_focal_crossentropy", "binary", "real", {"from_logits": True, "gamma": 0.5, "label_smoothing": 0.1}),
    Case("categorical_focal_crossentropy", "one-hot", "positive"),
    Case("categorical_focal_crossentropy", "distribution", "positive", {"alpha": 0.5, "gamma": 3.0, "epsilon": 0.1}),
    Case("categorical_focal_crossentropy", "distribution", "real", {"from_logits": True, "gamma": 1.0, "label_smoothing": 0.1}),
    Case("categorical_focal_crossentropy", "distribution", "positive", {"alpha": WEIGHTS, "label_smoothing": 0.1}),
    Case("categorical_focal_crossentropy", "one-hot", "real", {"alpha": WEIGHTS, "from_logits": True}),
    Case("poly1_crossentropy", "labels", "real"),
    Case("poly1_crossentropy", "distribution", "real", {"poly_epsilon": -0.5}),
    Case("softmax_loss", "labels", "real"),
    Case("softmax_loss", "labels", "real", {"ignore_label": 255, "label_smoothing": 0.1}),
    Case("softmax_loss", "labels", "real", {"ignore_label": 3, "class_weight": WEIGHTS}),
    Case("softmax_loss", "distribution", "real", {"class_weight": WEIGHTS, "label_smoothing": 0.1}),
    Case("poisson", "positive", "real", {"log_input": True, "full": True}),
    Case("smooth_l1", "real", "real", {"beta": 0.75}),
    Case("pseudo_huber", "real", "real", {"delta": 0.7}),
    Case("quantile_loss", "real", "real", {"quantile": 0.8}),
    Case("poisson_deviance", "positive", "positive"),
    Case("poisson_deviance", "positive", "real", {"log_input": True}),
    Case("gamma_deviance", "positive", "positive"),
    Case("gamma_deviance", "positive", "real", {"log_input": True}),
    Case("tweedie_deviance", "positive", "positive", {"power": 1.5}),
    Case("tweedie_deviance", "positive", "real", {"power": 3.0, "log_input": True}),
    Case("exponential", "signs", "real", {"labels": "pm1"}),
    Case("logistic", "binary", "real", {"labels": "01"}),
    Case("brier", "labels", "distribution"),
    Case("brier", "distribution", "distribution"),
    Case("multiclass_hinge", "labels", "real"),
    Case("multiclass_hinge", "labels", "real", {"margin": 0.75, "power": 2, "average": True}),
    Case("generalized_crossentropy", "labels", "distribution", {"q": 0.7}),
    Case("gaussian_nll", "values", "real", c=2),
    Case("quantile_loss", "values", "real", {"quantile": (0.1, 0.5, 0.75)}, c=3),
    Case("dice", "binary", "probabilities"),
    Case("tversky", "probabilities", "probabilities", {"alpha": 0.3, "beta": 0.6}),
    Case("jaccard", "binary", "probabilities"),
    Case("softmax_loss", "labels", "real", {"ignore_label": 3, "class_weight": WEIGHTS, "z_loss": 0.1}),
    Case("softmax_loss", "distribution", "real", {"z_loss": 0.01, "softcap": 5.0}),
)  # fmt: skip


@dataclass(frozen=True)
class Truth:
    """What is right: float64 arrays of the losses (n), and of their slopes and curvatures (n, c)."""

    losses: np.ndarray
    slope: np.ndarray
    curvature: np.ndarray


@cache
def truth(case, dtype="float64"):
    """The truth of a case's inputs, as they are after rounding to `dtype`."""
    t, p = case.inputs(dtype)
    return truth_of(case.loss, t, p, dtype, **case.params)


def truth_of(loss, t, p, dtype="float64", derivatives=True, **params):
    """The truth of rows of predictions (n, c) and their targets (n) or (n, c)."""
    definition, losses, slopes, curvatures = DEFINITIONS[loss], [], [], []
    for a, b in pairs(t.tolist() if t.dtype.kind in "iu" else t.astype(float).tolist(), p.astype(float).tolist()):
        row_t = [mp.mpf(x) for x in a] if isinstance(a, list) else a if isinstance(a, int) else mp.mpf(a)
        row_p = [mp.mpf(x) for x in b]
        losses.append(float(definition(row_t, row_p, dtype, **params)))
        if not derivatives:
            continue

        def along(j, row_t=row_t, row_p=row_p):  # a row as a function of its entry j
            return lambda entry: definition(row_t, [*row_p[:j], entry, *row_p[j + 1 :]], dtype, **params)

        slopes.append([derivative(along(j), x, 1) for j, x in enumerate(row_p)])
        curvatures.append([derivative(along(j), x, 2) for j, x in enumerate(row_p)])
    return Truth(np.array(losses), np.array(slopes), np.array(curvatures))


def derivative(function, x, order):
    """mpmath's difference quotient, which is never quite 0."""
    return float(mp.chop(mp.diff(function, x, order), 1e-18))


def normalizer(t, shape, axis, ignore=(), normalization=None, normalize=None, class_weight=None, sample_weight=None, soft=None):
    """Caffe's normalizer of softmax_loss for labels `t` (or soft targets, classes last), by counting; `shape` is that of the logits."""
    name = normalization or ("batch_size" if normalize is False else "valid")
    if name == "none":
        return 1
    if name == "full":
        return max(int(np.prod(shape)) // shape[axis], 1)
    if name == "batch_size":
        return max(int(np.prod(shape[:axis])), 1)
    weighted = class_weight is not None or sample_weight is not None
    k = np.ones(shape[axis]) if class_weight is None else np.asarray(class_weight, float)
    total, count = 0.0, 0
    for place in np.ndindex(t.shape if soft is None else soft.shape[:-1]):
        w = 1.0 if sample_weight is None else float(sample_weight[place])
        if soft is not None:
            total, count = total + w * float(np.dot(k, soft[place])), count + 1
        elif int(t[place]) not in ignore:
            total, count = total + w * k[int(t[place])], count + 1
    return total if weighted else max(count, 1)
