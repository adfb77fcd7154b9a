"""Second derivatives: the Hessian times a direction, of all that autograd follows, beside difference quotients of the gradient.

The direction moves every argument at once, so mixed derivatives count, too. Arguments are doubles and off the kinks: at one a quotient is
an average. Two quotients say together how far they can be believed.
"""

from dataclasses import dataclass

import draw
import numpy as np
from calls import MODULES, Array, Call, Setting, module, run
from check import Fault

from polyloss._core.block import LOSSES

NAMES = ("y_pred", "y_true", "sample_weight", "class_weight")
STEPS = 2.0**-14, 2.0**-18
RIGHT = 2e-4  # of the largest entry: what a quotient is believed to
FORWARD = "forward over reverse"
REVERSE = "reverse over reverse"


@dataclass(frozen=True)
class Second:
    """A call of a loss, what of it is followed, and a direction for each; `order`: how the second derivative is taken."""

    call: Call
    followed: tuple
    directions: dict
    order: str

    @property
    def label(self):
        return self.call.loss, self.call.library, "second", self.call.route or "kernel"

    def code(self):
        lines = [self.call.changed(mode="value").code(), f"# {self.order}, with respect to {', '.join(self.followed)}, along"]
        return "\n".join([*lines, *(f"# {name}: {Array(x).literal()}" for name, x in self.directions.items())])


def draw_second(rng, library, edges):
    library = library if library in ("torch", "jax") else draw.pick(rng, {"torch": 9, "jax": 1})
    while True:
        call = draw.draw(rng, library=library, edges=False)
        arrays = {name: x for name, x in call.arrays.items() if name not in ("upstream", "denominator")}
        weight = arrays.get("sample_weight")
        if not 0 < call.prediction.values.size <= 200 or (weight is not None and not weight.values.any()):  # a mean of nothing jumps
            continue
        if call.loss in draw.DEVIANCES and (arrays["y_true"].values < 0).any():  # of which nothing is said
            continue
        options = {key: x for key, x in call.options.items() if key not in ("return_prob", "denominator")}
        if "labels" in LOSSES[call.loss].params and options.get("labels", "auto") == "auto":
            options["labels"] = "pm1"  # "auto" jumps where a target leaves 0
        for name, x in arrays.items():
            fixed = name in ("mask", "class_weight", "sample_weight") or (name == "y_true" and (call.labelled or not call.float_target))
            values = x.values if x.values.dtype.kind in "iub" and fixed else x.values.astype(float)
            if not fixed:
                step = rng.random(values.shape)
                values = values * (1 - 0.01 * step) + 1e-3 * (1.5 + step)  # epsilon may be 1e-3
            arrays[name] = Array(values)
        followed = [name for name in NAMES if name in arrays and arrays[name].values.dtype.kind == "f"]
        followed = [name for name in followed if name != "y_true" or not call.labelled]
        followed = tuple(followed[:1] if draw.chance(rng, 0.4) else followed)
        directions = {name: rng.standard_normal(arrays[name].values.shape) for name in followed}
        route = call.route if library == "torch" else ""
        call = Call(call.loss, "value", arrays, options, library, route=route, labelled=call.labelled)
        order = FORWARD if library == "jax" and draw.chance(rng, 0.5) else REVERSE
        return Second(call, followed, directions, order)


def of_torch(case):
    """(gradient, gradient and product): functions of arrays by name."""
    torch, pl = module("torch"), MODULES["pl"]
    call = case.call

    def first(given, graph):
        x = {name: torch.tensor(value, requires_grad=name in case.followed) for name, value in given.items()}
        rest = {name: x[name] for name in x if name not in ("y_true", "y_pred")}
        losses = getattr(pl, call.loss)(x["y_true"], x["y_pred"], **rest, **call.options)
        leaves = [x[name] for name in case.followed]
        return leaves, torch.autograd.grad(losses.sum(), leaves, create_graph=graph, materialize_grads=True)

    def product(given):
        leaves, slopes = first(given, True)
        along = sum((slope * torch.tensor(case.directions[name])).sum() for name, slope in zip(case.followed, slopes, strict=True))
        constant = not along.requires_grad  # labels, though they are floats
        found = map(torch.zeros_like, leaves) if constant else torch.autograd.grad(along, leaves, materialize_grads=True)
        return [x.detach().numpy() for x in found]

    return lambda given: [x.numpy() for x in first(given, False)[1]], product


def of_jax(case):
    """The same of JAX."""
    jax, pl = module("jax"), MODULES["pl"]
    call = case.call

    def loss(x, others):
        x = x | others
        rest = {name: x[name] for name in x if name not in ("y_true", "y_pred")}
        return getattr(pl, call.loss)(x["y_true"], x["y_pred"], **rest, **call.options).sum()

    def parts(given):
        return ({name: x for name, x in given.items() if (name in case.followed) is inside} for inside in (True, False))

    def by_name(found):
        return [np.asarray(found[name]) for name in case.followed]

    def product(x, others):
        if case.order == FORWARD:
            return jax.jvp(lambda x: jax.grad(loss)(x, others), (x,), (case.directions,))[1]
        return jax.grad(lambda x: sum((y * case.directions[name]).sum() for name, y in jax.grad(loss)(x, others).items()))(x)

    first, second = jax.jit(jax.grad(loss)), jax.jit(product)
    return lambda given: by_name(first(*parts(given))), lambda given: by_name(second(*parts(given)))


def losses(call):
    """Of all positions, without their weights."""
    arrays = {name: x for name, x in call.arrays.items() if name != "sample_weight"}
    options = {name: x for name, x in call.options.items() if name not in ("normalization", "normalize")} | {"reduction": "none"}
    return run(call.changed(library="numpy", route="", arrays=arrays, options=options))[0]["value"]


def faults(case):
    """Where a product is not what quotients say, or is none where they are numbers."""
    given = {name: x.values for name, x in case.call.arrays.items()}
    where = (case.call.loss, case.call.library, "second", case.call.route or "kernel")
    whole = np.isfinite(losses(case.call)).all()  # where a weight of 0 hides a loss that is none, it hides what quotients see of it
    gradient, product = {"torch": of_torch, "jax": of_jax}[case.call.library](case)
    with Setting(case.call), np.errstate(all="ignore"):
        try:
            found, here, quotients, bends = product(given), gradient(given), [], []
            for h in STEPS:
                beside = [gradient(given | {name: given[name] + s * h * x for name, x in case.directions.items()}) for s in (1, -1)]
                quotients.append([(a - b) / (2 * h) for a, b in zip(*beside, strict=True)])
                bends.append([np.abs(a - 2 * x + b) / h for a, x, b in zip(beside[0], here, beside[1], strict=True)])
        except Exception as error:
            return [Fault((*where, "raised", type(error).__name__), f"raised {error}")]
        wrong = []
        for name, x, rough, right, far, near in zip(case.followed, found, *quotients, *bends, strict=True):
            size = max(1.0, float(np.abs(np.where(np.isfinite(right), right, 0)).max(initial=0)))
            believed = np.isfinite(right) & (np.abs(rough - right) <= RIGHT / 2 * size)
            believed &= (near <= RIGHT / 2 * size) | (near <= far / 8)  # but at a kink, both sides meet
            bad = np.argwhere(believed & ~(np.abs(x - right) <= RIGHT * size) & (whole | np.isnan(x)))
            if len(bad):
                at = tuple(bad[0])
                words = f"{name}[{', '.join(map(str, at))}] is {x[at]}, quotients say {rough[at]} and {right[at]}"
                words += f" ({len(bad)} of {x.size} wrong)"
                wrong.append(Fault((*where, name, "nan" if np.isnan(x[at]) else "off"), words))
        return wrong
