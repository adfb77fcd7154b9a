"""What must hold of any call whatever the number of threads, however a batch is cut, and however it is accumulated: bit for bit, and of
evaluations beside the truth.
"""

from dataclasses import dataclass
from fractions import Fraction

import draw
import numpy as np
import shrink
from calls import MODULES, Array, Call, Refused, Setting, module, run
from check import Fault, compared, defaults, truth_of

import polyloss as pl
from polyloss._core.block import LOSSES


@dataclass(frozen=True)
class Law:
    """A call, and the law it is tried on."""

    call: Call
    law: str
    seed: int

    @property
    def label(self):
        return self.call.loss, self.call.library, self.law, self.call.route or self.call.isa or "kernel"

    def code(self):
        return self.call.code() + f"\n# {self.law}: --only"


def draw_law(rng, library, edges):
    law = draw.pick(rng, ["threads", "cut", "accumulated", "evaluated", "explained"])
    if law == "evaluated":
        library = library if library in ("numpy", "torch", "jax") else draw.pick(rng, ["numpy", "torch", "jax"])
    while True:
        host = library if law == "evaluated" else "torch" if library == "torch" and law != "accumulated" else "numpy"
        call = draw.draw(rng, library=host, edges=False, heavy=law == "threads")
        call = call.changed(threads=1, out="")
        if call.mode == "autograd" or (law in ("cut", "accumulated", "evaluated") and shrink.apart(call)):
            continue
        if law == "cut":
            axis = {**defaults(call.loss), **call.options}["axis"]
            p = call.prediction.values
            if p.ndim < 2 or axis % p.ndim == 0 or len(p) < 2 or p.size == 0:
                continue
            if decided_together(call):
                continue
            call = call.changed(mode="value", options={**call.options, "reduction": "none"}).with_array("sample_weight", None)
            call = call.changed(options={k: x for k, x in call.options.items() if k not in ("normalization", "normalize", "denominator")})
        if law in ("accumulated", "evaluated"):
            call = call.changed(mode="value", options={k: x for k, x in call.options.items() if k not in (
                "reduction", "normalization", "normalize", "denominator", "return_prob")}, route="", isa="")  # fmt: skip
            soft = call.loss == "softmax_loss" and not call.labelled  # whose mean is divided by the targets' sum, too
            if "class_weight" in call.arrays or call.prediction.values.ndim < 2 or soft:
                continue
            axis = {**defaults(call.loss), **call.options}["axis"]
            if axis % call.prediction.values.ndim == 0 or decided_together(call):
                continue
            call = call.changed(options={**call.options, "axis": axis}).with_array("sample_weight", None)
        return Law(call, law, int(rng.integers(2**31)))


def decided_together(call):
    """Whether all targets together decide what each means: part of them may mean something else, and an accumulator refuses both."""
    return LOSSES[call.loss].scan_targets is not None and {**defaults(call.loss), **call.options}["labels"] == "auto"


def faults(case):
    where = case.label
    try:
        words = LAWS[case.law](case.call, np.random.default_rng(case.seed))
    except Refused as error:
        return [Fault((*where, "raised"), f"raised {error}")]
    return [Fault((*where, "differs"), words)] if words else []


def bits(results):
    return {name: x.tobytes() for name, x in results.items()}


def threads(call, rng):
    """Results do not depend on the number of threads."""
    one, _ = run(call)
    for n in (2, 3, 7):
        other, _ = run(call.changed(threads=n))
        if bits(one) != bits(other):
            return f"{n} threads give other bits than one"
    return None


def cut(call, rng):
    """The losses of some rows are those rows of the losses."""
    n = len(call.prediction.values)
    start = int(rng.integers(n))
    stop = int(rng.integers(start, n)) + 1
    plain = {name: np.ascontiguousarray(x.seen()) for name, x in call.arrays.items()}
    some = {name: x if name == "class_weight" else np.ascontiguousarray(x[start:stop]) for name, x in plain.items()}
    (whole, _), (part, _) = (run(call.changed(arrays={k: Array(x) for k, x in arrays.items()})) for arrays in (plain, some))
    whole, part = whole["value"][start:stop], part["value"]
    at = np.argwhere((part != whole) & ~(np.isnan(part) & np.isnan(whole)))
    if not len(at):
        return None
    at = tuple(at[0])
    return f"rows {start}:{stop} alone have other losses than among {n}: {part[at]!r} for {whole[at]!r} in place {list(map(int, at))}"


def accumulated(call, rng):
    """An Accumulator's mean is the exact one, rounded once."""
    block = LOSSES[call.loss]
    params = {**call.options}
    t, p = call.arrays["y_true"].seen(), call.prediction.seen()
    losses, _ = run(call.changed(options={**call.options, "reduction": "none"}))
    losses = losses["value"].astype(float)
    w = np.array(rng.choice([1.0, 0.5, 0.0, 3.0, 0.1], losses.shape)) if draw.chance(rng, 0.5) else None
    if not np.isfinite(losses).all():
        return None
    mean = pl.Accumulator(call.loss, **params)
    parts, start = [], 0
    while start < len(p):
        stop = min(len(p), start + 1 + int(rng.integers(len(p))))
        into = mean if draw.chance(rng, 0.5) else pl.Accumulator(call.loss, **params)
        into.update(t[start:stop], p[start:stop], None if w is None else w[start:stop])
        if into is not mean:
            parts.append(into)
        start = stop
    for part in parts:
        mean.merge(part)
    ignored = params.get(block.ignores) if block.ignores else None
    ignored = () if ignored is None else tuple(ignored) if isinstance(ignored, tuple) else (ignored,)
    flat = losses.reshape(-1)
    weight = np.ones(len(flat)) if w is None else w.reshape(-1)
    if call.labelled:
        weight = np.where([int(x) in ignored for x in t.reshape(-1).tolist()], 0, weight) if len(flat) else weight
    total = sum((Fraction(float(x * y)) for x, y in zip(flat, weight, strict=True) if y), Fraction(0))
    divisor = sum(map(Fraction, weight.tolist()), Fraction(0))
    right = float(total / divisor) if divisor else 0.0
    got = mean.result()
    if got == right or len(flat) == 0:
        return None
    return f"gives {got!r}, right is {right!r} (weights {None if w is None else w.reshape(-1)[:8].tolist()})"


def evaluated(call, rng):
    """`evaluate` over batches of any length gives the mean of the whole, which the truth knows from the contract alone."""
    t, p = call.arrays["y_true"].seen(), call.prediction.seen()
    if p.size == 0:  # of nothing there is no mean
        return None
    axis = call.options["axis"] % p.ndim
    w = np.array(rng.choice([1.0, 0.5, 0.0, 3.0, 0.1], p.shape[:axis] + p.shape[axis + 1 :])) if draw.chance(rng, 0.5) else None
    whole = call.with_array("sample_weight", None if w is None else Array(w))
    right = truth_of(whole.changed(options={**call.options, "reduction": "mean"})).losses
    space = {**MODULES, **{name: module(name) for name in ("torch", "jnp") if {"torch": "torch", "jnp": "jax"}[name] == call.library}}
    given = [eval(Array(x).code(call.library, "A"), space, {"A": x}) for x in (t, p, w) if x is not None]
    batches, start = [], 0
    while start < len(p):
        stop = min(len(p), start + 1 + int(rng.integers(len(p))))
        batches.append(tuple(x[start:stop] for x in given))
        start = stop
    batches = [lambda batch=batch: batch for batch in batches] if draw.chance(rng, 0.3) else iter(batches)
    found = pl.evaluate((call.loss, call.options), batches)[call.loss]
    fault = compared(np.asarray(found), right)
    return None if fault is None else f"evaluate of {call.options}, weights {None if w is None else w.reshape(-1)[:8].tolist()}: {fault[1]}"


def explained(call, rng):
    """`explain` names the route without evaluating."""
    space = {**MODULES, **{f"A_{name}": x.values.copy() for name, x in call.arrays.items()}}
    if call.library == "torch":
        space["torch"] = module("torch")
    lines = call.changed(mode="value").code(literal=False).splitlines()
    lines[-1] = lines[-1].replace(f"pl.{call.loss}(", f"pl.explain({call.loss!r}, ")
    with Setting(call):
        exec("\n".join(lines), space)
    said = space["r"]
    if call.route and said.route != "formula":
        return f"POLYLOSS_ROUTE is {call.route}, and explain says {said.route}"
    return None if call.loss in said and said.route in said else f"says {said!r}"


LAWS = {"threads": threads, "cut": cut, "accumulated": accumulated, "evaluated": evaluated, "explained": explained}
