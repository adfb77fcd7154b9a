"""The modules of polyloss.torch beside torch's: the same value and gradients, as near to those of double precision as torch's own."""

from dataclasses import dataclass, field, replace

import draw
import numpy as np
from calls import Array, module
from check import Fault
from draw import chance, pick


@dataclass(frozen=True)
class Module:
    """A call of a module: arrays by name, what it is made with, and which arrays need gradients."""

    name: str
    arrays: dict  # positional arguments
    options: dict  # numbers and words, or arrays
    needed: tuple
    small: bool  # whether small inputs take our kernels, too
    state: dict = field(default_factory=dict)  # parameters of the module, by name; their gradients are compared, too

    @property
    def label(self):
        return f"torch.{self.name}", "torch", "module", "kernel"

    def code(self, literal=True):
        lines = []
        if literal:
            lines += ["import numpy as np, torch, polyloss.torch as ours", "from numpy import nan, inf"]
            lines += ["from ml_dtypes import bfloat16"] if any(x.dtype.name == "bfloat16" for x in self.every().values()) else []
        for name, x in self.every().items():
            made = Array(x).code("torch", Array(x).literal() if literal else f"A_{name}")
            lines.append(f"{name} = {made}{'.requires_grad_()' if name in self.needed else ''}")
        options = ", ".join(f"{key}={key if isinstance(x, np.ndarray) else repr(x)}" for key, x in self.options.items())
        lines.append(f"ours.SMALL = {0 if self.small else '1 << 14'}")
        lines.append(f"m = ours.{self.name}({options})")
        for name, x in self.state.items():
            lines.append(f"m.{name}.data = {Array(x).code('torch', Array(x).literal())}")
        lines.append(f"r = m({', '.join(self.arrays)})")
        return "\n".join(lines)

    def every(self):
        return {**self.arrays, **{key: x for key, x in self.options.items() if isinstance(x, np.ndarray)}}


def draw_module(rng, library, edges):
    name = pick(rng, [name for name in DRAWN if hasattr(module("torch").nn, name)])
    dtype = pick(rng, {"float32": 4, "float64": 3, "bfloat16": 1, "float16": 1})
    big = chance(rng, 0.15)
    arrays, options, *state = DRAWN[name](rng, dtype, big)
    options["reduction"] = options.get("reduction") or pick(rng, ["mean", "sum", "none"])
    floats = [key for key, x in arrays.items() if x.dtype.kind not in "iu" and (name, key) not in NOT_FOLLOWED]
    needed = [key for key in floats if key in ("input", "input1") or chance(rng, 0.3)]
    return Module(name, arrays, options, tuple(needed), chance(rng, 0.8), *state)


def shape_of(rng, big):
    if big:
        return (int(rng.integers(300, 600)), int(rng.integers(60, 90)))
    return tuple(int(n) for n in rng.integers(1, 7, int(rng.integers(1, 5))))


def some(rng, shape, dtype, style):
    return draw.values(rng, shape, dtype, style, edges=False)


def pair(*styles):
    def drawn(rng, dtype, big):
        shape = shape_of(rng, big)
        return {"input": some(rng, shape, dtype, pick(rng, styles)), "target": some(rng, shape, dtype, pick(rng, styles))}, {}

    return drawn


def with_width(name):
    def drawn(rng, dtype, big):
        arrays, options = pair("real", "ties")(rng, dtype, big)
        return arrays, {**options, name: pick(rng, [1.0, 0.5, 3.0, float(rng.exponential() + 0.01)])}

    return drawn


def cross_entropy(rng, dtype, big):
    shape = shape_of(rng, big)
    axis = min(len(shape) - 1, 1)
    c = shape[axis]
    options = {"label_smoothing": pick(rng, [0.0, 0.0, 0.1, 1.0])}
    places = shape[:axis] + shape[axis + 1 :]
    arrays = {"input": some(rng, shape, dtype, pick(rng, ["real", "ties"]))}
    if chance(rng, 0.4):
        arrays["target"] = draw.rows_of(rng, shape, axis, dtype)
    else:
        arrays["target"] = rng.integers(0, c, places)
        if chance(rng, 0.4):
            arrays["target"] = np.where(rng.random(places) < pick(rng, [0.3, 0.3, 1.0]), -100, arrays["target"])
        elif chance(rng, 0.3):
            options["ignore_index"] = int(rng.integers(c))
    if chance(rng, 0.4):
        options["weight"] = rng.choice([0.5, 1.0, 2.0, 0.0, 3.0], c).astype(arrays["input"].dtype)
    return arrays, options


def nll(rng, dtype, big):
    arrays, options = cross_entropy(rng, dtype, big)
    while arrays["target"].dtype.kind != "i":
        arrays, options = cross_entropy(rng, dtype, big)
    del options["label_smoothing"]
    return arrays, options


def bce(rng, dtype, big):
    arrays, options = pair("probabilities", "probabilities", "binary")(rng, dtype, big)
    if chance(rng, 0.3):
        options["weight"] = some(rng, arrays["input"].shape, dtype, "positive")
    return arrays, options


def bce_with_logits(rng, dtype, big):
    arrays, options = bce(rng, dtype, big)
    shape = arrays["input"].shape
    arrays["input"] = some(rng, shape, dtype, pick(rng, ["real", "ties"]))
    if chance(rng, 0.3):
        options["pos_weight"] = some(rng, shape[-1:], dtype, "positive")
    return arrays, options


def kl(rng, dtype, big):
    shape = shape_of(rng, big)
    p, t = (-np.abs(rng.standard_normal(shape)) * 3 for _ in range(2))
    log = chance(rng, 0.5)
    t = t if log else np.where(rng.random(shape) < 0.2, 0, np.exp(t))
    cast = (lambda x: x.astype(draw.bfloat16)) if dtype == "bfloat16" else (lambda x: x.astype(dtype))
    return {"input": cast(p), "target": cast(t)}, {"log_target": log, "reduction": pick(rng, ["batchmean", "sum", "none", "mean"])}


def cosine(rng, dtype, big):
    n, d = (500, 300) if big else (int(rng.integers(1, 6)), int(rng.integers(1, 9)))
    inputs = {name: some(rng, (n, d), dtype, "real") for name in ("input1", "input2")}
    return {**inputs, "target": rng.choice([-1, 1], n)}, {"margin": pick(rng, [0.0, 0.3, -0.5])}


def linear(rng, dtype, big):
    n, d, c = int(rng.integers(1, 9)), int(rng.integers(1, 9)), int(rng.integers(2, 9))
    arrays = {"input": some(rng, (n, d), dtype, "real"), "target": rng.integers(0, c, n)}
    options = {"in_features": d, "num_classes": c, "bias": chance(rng, 0.5), "label_smoothing": pick(rng, [0.0, 0.1])}
    if chance(rng, 0.4):
        options["ignore_index"] = int(rng.integers(c))
    if chance(rng, 0.3):
        options["weight"] = rng.choice([0.5, 1.0, 2.0], c).astype(arrays["input"].dtype)
    state = {"linear.weight": some(rng, (c, d), dtype, "real")}
    if options["bias"]:
        state["linear.bias"] = some(rng, (c,), dtype, "real")
    return arrays, options, state


def gaussian(rng, dtype, big):
    shape = shape_of(rng, big)
    arrays = {name: some(rng, shape, dtype, "real") for name in ("input", "target")}
    arrays["var"] = some(rng, shape, dtype, "positive")
    return arrays, {"full": chance(rng, 0.5), "eps": pick(rng, [1e-6, 0.1])}


def of_signs(rng, dtype, big):
    shape = shape_of(rng, big)
    return {"input": some(rng, shape, dtype, pick(rng, ["real", "ties"])), "target": some(rng, shape, dtype, "signs")}, {}


def hinge_embedding(rng, dtype, big):
    arrays, _ = of_signs(rng, dtype, big)
    return arrays, {"margin": pick(rng, [1.0, 0.5, 2.0])}


def with_class_weight(rng, options, c, like):
    if chance(rng, 0.3):
        options["weight"] = rng.choice([0.5, 1.0, 2.0, 0.0], c).astype(like.dtype)
    return options


def multilabel(rng, dtype, big):
    n, c = (400, 80) if big else (int(rng.integers(1, 7)), int(rng.integers(1, 9)))
    arrays = {"input": some(rng, (n, c), dtype, "real"), "target": some(rng, (n, c), dtype, "binary")}
    return arrays, with_class_weight(rng, {}, c, arrays["input"])


def multi_margin(rng, dtype, big):
    n, c = (400, 80) if big else (int(rng.integers(1, 7)), int(rng.integers(1, 9)))
    arrays = {"input": some(rng, (n, c), dtype, pick(rng, ["real", "ties"])), "target": rng.integers(0, c, n)}
    options = {"p": pick(rng, [1, 2]), "margin": pick(rng, [1.0, 0.5, 2.0])}
    return arrays, with_class_weight(rng, options, c, arrays["input"])


def poisson(rng, dtype, big):
    shape, log = shape_of(rng, big), chance(rng, 0.5)
    arrays = {"input": some(rng, shape, dtype, "real" if log else "positive"), "target": some(rng, shape, dtype, "positive")}
    return arrays, {"log_input": log, "full": chance(rng, 0.5), "eps": pick(rng, [1e-8, 0.1])}


FACTORS = ("input", "linear.weight")  # of the logits that are a product
NOT_FOLLOWED = {("SoftMarginLoss", "target")}  # torch has no derivative with respect to it
DRAWN = {
    "CrossEntropyLoss": cross_entropy,
    "NLLLoss": nll,
    "BCELoss": bce,
    "BCEWithLogitsLoss": bce_with_logits,
    "MSELoss": pair("real", "ties"),
    "L1Loss": pair("real", "ties"),
    "HuberLoss": with_width("delta"),
    "SmoothL1Loss": with_width("beta"),
    "KLDivLoss": kl,
    "CosineEmbeddingLoss": cosine,
    "LinearCrossEntropyLoss": linear,
    "GaussianNLLLoss": gaussian,
    "HingeEmbeddingLoss": hinge_embedding,
    "MultiLabelSoftMarginLoss": multilabel,
    "MultiMarginLoss": multi_margin,
    "PoissonNLLLoss": poisson,
    "SoftMarginLoss": of_signs,
}


def outcome(case, namespace, wide=False):
    """Value and gradients of a module of a namespace, as NumPy arrays in float64; or the error."""
    torch = module("torch")
    tensors = {}
    for name, x in {**case.every(), **case.state}.items():
        space = {"torch": torch, "X": x.copy()}
        tensor = eval(Array(x).code("torch", "X"), space)
        tensor = tensor.double() if wide and tensor.is_floating_point() else tensor
        tensors[name] = tensor.requires_grad_() if name in case.needed else tensor
    options = {key: tensors.get(key, x) for key, x in case.options.items()}
    try:
        loss = getattr(namespace, case.name)(**options)
        parameters = dict(loss.named_parameters())
        for name in case.state:
            parameters[name].data = tensors[name]
        loss = loss(*(tensors[name] for name in case.arrays))
        upstream = torch.linspace(0.5, 1.5, loss.numel(), dtype=torch.float64).reshape(loss.shape).to(loss.dtype)
        needing = [*(tensors[name] for name in case.needed), *parameters.values()]
        gradients = torch.autograd.grad(loss, needing, upstream, allow_unused=True)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        return error, None
    results = {"value": loss, **dict(zip([*case.needed, *parameters], gradients, strict=True))}
    kinds = {name: x.dtype for name, x in results.items() if x is not None}
    return {name: x.detach().double().numpy() for name, x in results.items() if x is not None}, kinds


def cancelled(case):
    """How large the terms of a sum are whose value may be far smaller, having terms of either sign."""
    reduction = case.options.get("reduction", "mean")
    if reduction == "none":
        return 0.0
    found, _ = outcome(replace(case, options={**case.options, "reduction": "none"}), module("torch").nn, wide=True)
    if isinstance(found, Exception):
        return 0.0
    terms = found["value"][np.isfinite(found["value"])]
    if not ((terms < 0).any() and (terms > 0).any()):
        return 0.0
    return np.abs(terms).sum() / {"sum": 1, "mean": terms.size, "batchmean": len(found["value"])}[reduction]


def module_of(name):
    import importlib

    return importlib.import_module(name)


def faults(case):
    torch, ours = module("torch"), module_of("polyloss.torch")
    where, before = case.label, ours.SMALL
    ours.SMALL = 0 if case.small else 1 << 14
    try:
        found, kinds = outcome(case, ours)
    finally:
        ours.SMALL = before
    theirs, their_kinds = outcome(case, torch.nn)
    truth, _ = outcome(case, torch.nn, wide=True)
    if isinstance(theirs, Exception) or isinstance(found, Exception):
        if type(theirs) is type(found):
            return []
        return [Fault((*where, "raised"), f"gives {str(found)[:200]}, torch {str(theirs)[:200]}")]
    if kinds != their_kinds:
        return [Fault((*where, "dtype"), f"gives {kinds}, torch {their_kinds}")]
    faults = []
    for name, x in found.items():
        y, z = theirs[name], truth[name]
        if name != "value" and np.isnan(theirs["value"]).any():  # a mean over nothing: torch's gradients are sometimes 0, too
            continue
        eps = torch.finfo(kinds[name]).eps
        with np.errstate(all="ignore"):
            size = np.nanmax(np.abs(np.where(np.isfinite(z), z, 0)), initial=1)
            fine = eps if kinds[name] in (torch.float32, torch.float64) else 2.0**-20
            theirs_off = np.nanmax(np.where(np.isfinite(y - z), np.abs(y - z), 0), initial=0)
            allowed = 2 * theirs_off + eps * np.abs(z) + (64 if case.name == "CosineEmbeddingLoss" else 8) * fine * size
            if name == "value":
                allowed = allowed + 2 * fine * cancelled(case)
            if case.name == "LinearCrossEntropyLoss" and name in FACTORS:  # p - 1, of which torch's p near 1 loses a rounding, times that
                factor = case.state["linear.weight"] if name == "input" else case.arrays["input"]
                allowed = allowed + 8 * fine * np.max(np.abs(np.asarray(factor, float)), initial=0)
            if case.name == "CosineEmbeddingLoss" and name != "value":  # what cancels there is as large as 1 / the vector's length
                length = np.sqrt((np.asarray(case.arrays[name], float) ** 2).sum(-1, keepdims=True) + 1e-12)
                allowed = allowed + 8 * fine / length
            beyond = (np.abs(z) > torch.finfo(kinds[name]).max) & (x == np.copysign(np.inf, z))  # torch's step by step may be NaN
            good = (np.abs(x - z) <= allowed) | (np.isnan(x) & np.isnan(y)) | (x == y) | beyond
        if x.shape != y.shape or not good.all():
            at = tuple(np.argwhere(~good)[0]) if x.shape == y.shape else ()
            words = f"{name}{list(map(int, at))} is {x[at]!r}, torch has {y[at]!r}, in double {z[at]!r}"
            words = words if x.shape == y.shape else f"{name} has shape {x.shape}, torch's {y.shape}"
            faults.append(Fault((*where, name if name == "value" else "gradient of " + name), words))
    return faults
