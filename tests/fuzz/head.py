"""`linear_softmax_loss` beside softmax_loss' truth, of logits that are a matrix product in extended precision."""

from dataclasses import dataclass

import calls
import draw
import numpy as np
from ball import LONG, Ball
from calls import Array, Call
from check import Fault, compared
from truth import expected


@dataclass(frozen=True)
class Head:
    """A call of linear_softmax_loss."""

    arrays: dict  # y_true, features, weight, and perhaps bias, sample_weight, class_weight
    options: dict
    library: str
    mode: str
    route: str

    @property
    def label(self):
        return "linear_softmax_loss", self.library, self.mode, self.route or "kernel"

    def code(self, literal=True):
        lines = []
        if literal:
            lines += ["import numpy as np, polyloss as pl", "from numpy import nan, inf", calls.LIBRARIES[self.library][1]]
            lines += ["from ml_dtypes import bfloat16"] if any(x.dtype.name == "bfloat16" for x in self.arrays.values()) else []
            lines += [f"import os; os.environ['POLYLOSS_ROUTE'] = {self.route!r}"] if self.route else []
        for name, x in self.arrays.items():
            lines.append(f"{name} = {Array(x).code(self.library, Array(x).literal() if literal else f'A_{name}')}")
        words = [name for name in ("y_true", "features", "weight", "bias") if name in self.arrays]
        words += [f"{name}={name}" for name in ("sample_weight", "class_weight") if name in self.arrays]
        words += [f"{name}={x!r}" for name, x in self.options.items()]
        function = "pl.linear_softmax_loss" if self.mode == "value" else "pl.value_and_grad(pl.linear_softmax_loss)"
        lines.append(f"r = {function}({', '.join(words)})")
        return "\n".join(line for line in lines if line)


def draw_head(rng, library, edges):
    if library not in ("numpy", "torch", "jax", "strict"):
        library = draw.pick(rng, {"numpy": 5, "torch": 4, "jax": 0.5, "strict": 1})
    dtype = draw.pick(rng, {"float32": 3, "float64": 3, **({} if library == "strict" else {"float16": 1, "bfloat16": 1})})
    before = tuple(int(n) for n in rng.integers(1, 9, int(rng.integers(1, 3))))
    d, c = int(rng.integers(1, 12)), int(rng.integers(1, 14))
    arrays = {"y_true": rng.integers(0, c, before)}
    for name, shape in (("features", (*before, d)), ("weight", (c, d)), ("bias", (c,))):
        if name != "bias" or draw.chance(rng, 0.5):
            arrays[name] = draw.values(rng, shape, dtype, "real", edges=False)
    options = {}
    if draw.chance(rng, 0.3):
        options["ignore_label"] = draw.pick(rng, [-1, 255, 0])
        at = rng.random(before) < draw.pick(rng, [0.3, 0.3, 1.0])
        arrays["y_true"] = np.where(at, options["ignore_label"], arrays["y_true"])
    if draw.chance(rng, 0.3):
        arrays["sample_weight"] = rng.choice([0.0, 0.5, 1.0, 3.0], before)
    if draw.chance(rng, 0.3):
        arrays["class_weight"] = rng.choice([0.5, 1.0, 2.0, 0.0], c)
    if draw.chance(rng, 0.3):
        options["label_smoothing"] = draw.pick(rng, [0.1, 1.0])
    if draw.chance(rng, 0.2):
        options["z_loss"] = draw.pick(rng, [1e-4, 0.1])
    if draw.chance(rng, 0.2):
        options["softcap"] = draw.pick(rng, [5.0, 30.0])
    options["reduction"] = draw.pick(rng, ["normalize", "sum", "none"])
    if options["reduction"] == "normalize" and draw.chance(rng, 0.6):
        options["normalization"] = draw.pick(rng, ["full", "valid", "none"])
    if draw.chance(rng, 0.4):
        options["chunk"] = int(rng.integers(1, 12))
    route = draw.pick(rng, ["", "", "formula"]) if library in ("numpy", "torch") else ""
    return Head(arrays, options, library, draw.pick(rng, ["value", "value_and_grad"]), route)


def faults(case):
    where = case.label
    space = {**calls.MODULES, **{f"A_{name}": x.copy() for name, x in case.arrays.items()}}
    for name in {"jax": ("jax", "jnp"), "torch": ("torch",), "strict": ("xps",)}.get(case.library, ()):
        space[name] = calls.module(name)
    setting = Call("softmax_loss", "value", {}, library=case.library, route=case.route)
    try:
        with calls.Setting(setting):
            exec(case.code(literal=False), space)
    except Exception as error:
        return [Fault((*where, "raised", type(error).__name__), f"raised {error!r}")]
    changed = [name for name, x in case.arrays.items() if space[f"A_{name}"].tobytes() != x.tobytes()]
    found = [Fault((*where, "input changed"), f"{name} changed") for name in changed]
    value, gradients = space["r"] if case.mode == "value_and_grad" else (space["r"], ())
    for name, result, right in zip(("value", "features", "weight", "bias"), (value, *gradients), truth(case), strict=False):
        x = calls.numpy_of(result)
        fault = compared(x, right) if x.shape == right.v.shape else ("shape", f"has shape {x.shape}, not {right.v.shape}")
        if fault:
            found.append(Fault((*where, name, fault[0]), f"{name}: {fault[1]}"))
    return found


def truth(case):
    """Value and gradients, as balls."""
    dtype = "float64" if case.arrays["features"].dtype == "float64" else "float32"
    x = {name: y.astype(LONG) if y.dtype.name in ("float16", "float32", "float64") else y.astype(float).astype(LONG)
         for name, y in case.arrays.items() if name in ("features", "weight", "bias")}  # fmt: skip
    d, c = x["features"].shape[-1], len(x["weight"])
    f, w = x["features"].reshape(-1, d), x["weight"]
    bias = x.get("bias", np.zeros(c, LONG))
    logits = f @ w.T + bias
    size = (np.abs(f) @ np.abs(w).T + np.abs(bias)) * (2 + d / 8)  # the logits' own error, in units of the computation
    options = {"normalization": "valid", "label_smoothing": 0.0, "z_loss": 0.0, "softcap": None, **case.options}
    options.pop("chunk", None)
    ignore = options.pop("ignore_label", None)
    weight = case.arrays.get("sample_weight")
    right = expected(
        "softmax_loss", case.arrays["y_true"].reshape(-1), logits, error=2 * size, dtype=dtype, flushed=case.library == "jax",
        labelled=True, ignore=() if ignore is None else (ignore,),
        sample_weight=None if weight is None else weight.reshape(-1), class_weight=case.arrays.get("class_weight"), **options,
    )  # fmt: skip
    value = right.losses.reshape(case.arrays["y_true"].shape) if right.losses.v.ndim else right.losses
    g = right.gradient
    few = float(np.finfo(dtype).tiny) / (16 if dtype == "float32" else 512)  # a softmax below the normal numbers has fewer digits
    low = LONG(few) / g.format.unit
    g = Ball(g.v, np.where(g.v == 0, g.e, g.e + low), g.format)
    least = float(np.finfo(dtype).tiny) / g.format.unit if case.library == "jax" else g.format.least  # XLA takes products below for 0
    by_features = Ball(g.v @ w, g.e @ np.abs(w) + (2 + c / 8) * (np.abs(g.v) @ np.abs(w)) + c * least, g.format)
    by_features = by_features.reshape(case.arrays["features"].shape)
    by_weight = Ball(g.v.T @ f, g.e.T @ np.abs(f) + (2 + len(f) / 8) * (np.abs(g.v).T @ np.abs(f)) + len(f) * least, g.format)
    by_bias = g.sum(0)
    return value, by_features, by_weight, by_bias
