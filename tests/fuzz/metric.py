"""`log_loss`: its numbers beside the definition in extended precision, its errors and warnings beside scikit-learn's."""

import warnings
from dataclasses import dataclass

import draw
import numpy as np
from ball import LONG
from calls import Array
from check import Fault
from sklearn.metrics import log_loss as theirs

import polyloss as pl

LIBRARIES = {"numpy": 6, "list": 2, "torch": 3, "jax": 1, "dask": 0.5, "frame": 1}
UNIT = {"float16": 2.0**-24, "float32": 2.0**-24, "float64": 2.0**-53}
EPSILON = {"float16": 2.0**-10, "float32": 2.0**-23, "float64": 2.0**-52}


@dataclass(frozen=True)
class Scored:
    """A call of log_loss; labels as what they are made of."""

    y: list
    p: np.ndarray
    w: object
    options: dict
    library: str
    kind: str  # of the labels: "list", "array"

    @property
    def label(self):
        return "log_loss", self.library, "metric", "kernel"

    def code(self):
        lines = ["import numpy as np, polyloss as pl", "from numpy import nan, inf", f"y = {self.y!r}", f"p = {Array(self.p).literal()}"]
        if self.kind == "array":
            lines.append("y = np.array(y)")
        if self.w is not None:
            lines.append(f"w = {Array(self.w).literal()}")
        lines += {
            "numpy": [],
            "list": ["p = p.tolist()"],
            "torch": ["import torch; p = torch.from_numpy(p)"],
            "jax": ["import jax; jax.config.update('jax_enable_x64', True); p = jax.numpy.asarray(p)"],
            "dask": ["import dask.array as da; p = da.from_array(p, chunks=3)"],
            "frame": ["import pandas; p = pandas.DataFrame(p)"],
        }[self.library]
        options = {**({"sample_weight": "w"} if self.w is not None else {}), **{k: repr(x) for k, x in self.options.items()}}
        lines.append(f"r = pl.log_loss({', '.join(['y', 'p', *(f'{k}={x}' for k, x in options.items())])})")
        return "\n".join(lines)


def draw_scored(rng, library, edges):
    library = draw.pick(rng, LIBRARIES) if library is None else library if library in LIBRARIES else "numpy"
    n, c = int(rng.integers(1, 30)), int(rng.integers(2, 6))
    dtype = draw.pick(rng, {"float64": 4, "float32": 3, "float16": 1})
    p = rng.dirichlet(np.full(c, draw.pick(rng, [0.05, 1.0])), n).astype(dtype)
    codes = rng.integers(0, c, n)
    if draw.chance(rng, 0.8):
        codes[: min(n, c)] = np.arange(c)[: min(n, c)]
    names = draw.pick(rng, [
        list(range(c)), list(range(5, 5 + c)), [3 * k - 4 for k in range(c)], [float(k) for k in range(c)], list("abcdef")[:c],
        [False, True] if c == 2 else list(range(c)), ["b10", "b9", "Z", "é", "a"][:c]])  # fmt: skip
    names = sorted(names)
    y = [names[k] for k in codes]
    options = {}
    if draw.chance(rng, 0.3) or len(set(y)) < c:
        options["labels"] = list(names) if draw.chance(rng, 0.8) else list(names)[::-1]
    if draw.chance(rng, 0.2) and len(set(y)) < c:
        options.pop("labels")
    if draw.chance(rng, 0.3):
        options["normalize"] = False
    if draw.chance(rng, 0.15):
        options["epsilon"] = draw.pick(rng, [1e-15, 1e-7, 0.1, 0.0])
    if edges and draw.chance(rng, 0.15):
        options["rescale"] = True
        p = (p.astype(float) * rng.integers(1, 9, (n, 1))).astype(dtype)
    if draw.chance(rng, 0.12):
        p[int(rng.integers(n)), int(rng.integers(c))] = draw.pick(rng, [1.25, -0.1, np.nan, 0.4, np.inf, 0.0])
    if c == 2 and draw.chance(rng, 0.3) and "rescale" not in options:
        p = p[:, 1] if draw.chance(rng, 0.5) else p[:, 1:]
    w = None
    if draw.chance(rng, 0.4):
        w = rng.choice([0.0, 1.0, 0.5, 2.0, 3.0], n)
        if draw.chance(rng, 0.1):
            w[int(rng.integers(n))] = draw.pick(rng, [np.nan, np.inf, -1.0])
        if draw.chance(rng, 0.05):
            w[:] = 0
    if draw.chance(rng, 0.05):
        y = y[:-1]
    return Scored(y, p, w, options, library, draw.pick(rng, ["list", "array"]))


def outcome(function, *args, **kwargs):
    """What a call gives or raises, and its warnings; those of NumPy about overflow aside."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = function(*args, **kwargs)
        except Exception as error:
            result = error
    return result, [w.category.__name__ for w in caught]


def right(case):
    """The number from the definition, and the error that it may have."""
    dtype = case.p.dtype.name if case.library != "list" else "float64"
    p = case.p.astype(dtype).astype(LONG)
    classes = sorted(set(case.options.get("labels", case.y)))
    codes = np.array([classes.index(label) for label in case.y])
    if p.ndim == 1 or p.shape[1] == 1:
        p = p.reshape(-1)
        picked = np.where(codes == 1, p, 1 - p)
    else:
        if case.options.get("rescale"):
            p = p / p.sum(1, keepdims=True)
        picked = p[np.arange(len(codes)), codes]
    low = LONG(case.options.get("epsilon", EPSILON[dtype]))
    wide = np.dtype("float64" if dtype == "float64" else "float32")
    low, high = LONG(wide.type(low)), LONG(wide.type(1 - low))
    clipped = np.clip(picked, low, high)
    losses = -np.log(clipped)
    off = 4 * UNIT[dtype] * (np.abs(losses) + 3)  # the probability is rounded, and that is divided by it
    w = np.ones(len(losses)) if case.w is None else case.w.astype(LONG)
    weighted = np.where(w == 0, 0, w * np.where(w == 0, 0, losses))
    total, error = weighted.sum(), np.where(w == 0, 0, np.abs(w) * np.where(w == 0, 0, off)).sum()
    divisor = w.sum() if case.options.get("normalize", True) else LONG(1)
    return total / divisor, np.abs(error / divisor)


def at_the_limit(p):
    """Whether a row's sum is off by what is just allowed: scikit-learn adds in the probabilities' dtype, whose rounding then decides."""
    unit = np.finfo(p.dtype).eps
    off = np.abs(p.astype(LONG).sum(-1) - 1)
    return bool((np.abs(off - np.sqrt(unit)) < unit * p.shape[-1]).any())


def faults(case):
    where = case.label
    space = {"np": np, "pl": pl}
    lines = case.code().splitlines()
    exec("\n".join(lines[:-1]), space)
    before = np.array(space["p"]) if case.library != "dask" else None
    ours, warned = outcome(eval, lines[-1][4:], space)
    if before is not None and np.array(space["p"]).tobytes() != before.tobytes():
        return [Fault((*where, "input changed"), "y_proba changed")]
    own = {"epsilon", "rescale"} & set(case.options)
    y = np.array(case.y) if case.kind == "array" else case.y
    p = case.p.astype(float) if case.library == "list" else case.p
    with np.errstate(all="ignore"):
        if own:
            wanted, theirs_warned = None, None
        else:
            wanted, theirs_warned = outcome(theirs, y, p, sample_weight=case.w, **case.options)
            theirs_warned = [name for name in theirs_warned if name != "RuntimeWarning"]
    if isinstance(wanted, Exception):
        if not isinstance(ours, Exception):
            return [Fault((*where, "taken", type(wanted).__name__), f"gives {ours!r}, but scikit-learn raises {wanted!r}")]
        if not isinstance(wanted, type(ours)):
            return [Fault((*where, "kind", type(ours).__name__), f"raises {ours!r}, but scikit-learn {wanted!r}")]
        return []
    if isinstance(ours, Exception):
        bad = not np.isfinite(case.p).all() or (case.p < 0).any() or ((case.p > 1).any() and not case.options.get("rescale"))
        bad = bad or len(case.y) != len(case.p) or (case.w is not None and (not np.isfinite(case.w).all() or case.w.sum() == 0))
        bad = bad or len(set(case.options.get("labels", case.y))) != (case.p.shape[1] if case.p.ndim > 1 and case.p.shape[1] > 1 else 2)
        bad = bad or ("rescale" in case.options and (case.p.sum(axis=-1) == 0).any())  # such a row cannot be rescaled
        if own and bad and isinstance(ours, (ValueError, ZeroDivisionError)):
            return []
        return [Fault((*where, "raised", type(ours).__name__), f"raises {ours!r}, but scikit-learn gives {wanted!r}")]
    found = []
    if type(ours) is not float:
        found.append(Fault((*where, "type"), f"gives a {type(ours).__name__}"))
    if not own and warned != theirs_warned and not at_the_limit(p):
        found.append(Fault((*where, "warnings"), f"warns {warned}, scikit-learn {theirs_warned}"))
    with np.errstate(all="ignore"):
        truth, error = right(case)
    if not abs(LONG(ours) - truth) <= error and not (np.isnan(ours) and np.isnan(truth)) and LONG(ours) != truth:
        found.append(Fault((*where, "off"), f"gives {ours!r}, right is {float(truth)!r} to {float(error):.2g}"))
    return found
