"""One loss with its parameters, and what a batch adds to its sums: each position's loss, weight, and share of the divisor."""

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from array_api_compat import device as device_of

from polyloss import registry
from polyloss._core import reduce as _reduce
from polyloss._core.arguments import keywords, refuse_unknown_parameters
from polyloss._core.backends import backend_of, numpy_array
from polyloss._core.block import LOSSES
from polyloss._core.bound_loss import BoundLoss
from polyloss._core.dtypes import FLOATS, dtype_name, representable
from polyloss._core.labels import sort_labels
from polyloss._core.params import clip_bound, flag, number
from polyloss._core.shapes import known_shape, layout, layout_of_sets, weight_shape
from polyloss._evaluation.exact_sums import UNIT, Tally, ratio, tally
from polyloss.metrics._labels import host
from polyloss.metrics._log_loss import log_loss, sample_losses, sorted_classes

REDUCTIONS = ("mean", "sum", "sum_over_batch_size")
WEIGHTS = "weights of an evaluation are finite and not negative"
NOT_PARAMETERS = {  # keywords of losses that have no meaning here, and why
    "mask": "an accumulator has none for each batch; a set of weight 0 does not count",
    "denominator": "an accumulator divides by what it has counted",
    "return_prob": "an accumulator keeps no probabilities",
    "sample_weight": "weights go with each batch",
}


@dataclass(frozen=True)
class Measure:
    """A loss, its parameters in one form (numbers, strings, lists), and what its sum is divided by."""

    name: str
    parameters: dict[str, Any]  # in alphabetical order
    divisor: str  # "weights", "positions", "samples", "1"

    @classmethod
    def of(cls, loss: Any, parameters: Mapping[str, Any], reduction: str) -> "Measure":
        """Of a function, a name or `(loss, parameters)`."""
        given = dict(parameters)
        if isinstance(loss, (tuple, list)):
            if len(loss) != 2 or not isinstance(loss[1], Mapping):
                raise TypeError(f"loss is {loss!r}, but must be a loss, its name, or (loss, {{parameters}})")
            loss, own = loss
            given = _joined(given, own)
        function = registry.get(loss)
        if isinstance(function, BoundLoss):
            given = {**function.parameters, **given}
            function = function.function
        if function is log_loss:
            return _of_log_loss(given, reduction)
        block = LOSSES.get(getattr(function, "__name__", ""))
        if block is None or block.function is not function:
            raise TypeError(f"loss is {loss!r}, but must be a loss of this library, its name, or (loss, {{parameters}})")
        return _of_block(block, given, reduction)

    def __repr__(self) -> str:
        defaults = {} if self.name == "log_loss" else _defaults(LOSSES[self.name])
        words = [f"{key}={_few(value)}" for key, value in self.parameters.items() if key not in defaults or defaults[key] != value]
        return f"{self.name}({', '.join([*words, f'divisor={self.divisor!r}'] if self.divisor != 'weights' else words)})"

    # ------------------------------------------------------------------------------------------------------ one batch

    def tally(self, y_true: Any, y_pred: Any, sample_weight: Any) -> Tally:
        """What a batch adds; of Dask arrays, block by block."""
        kind = backend_of(y_pred, "y_pred")
        if not isinstance(kind, str) and kind.name == "dask":
            from polyloss._adapters import dask as _dask

            y_true, sample_weight = _laid_down("y_true", y_true), _laid_down("sample_weight", sample_weight)
            blocks = _dask.by_rows(self.tally, y_true, y_pred, sample_weight, self.parameters.get("axis", 1))
            return sum(blocks, Tally())
        return self.positions(y_true, y_pred, sample_weight).tally()

    def positions(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> "Positions":
        """The losses of a batch and what decides their part in the mean, each position by itself."""
        if self.name == "log_loss":
            return self._of_samples(y_true, y_pred, sample_weight)
        return self._of_positions(LOSSES[self.name], y_true, y_pred, sample_weight)

    def _of_samples(self, y_true: Any, y_proba: Any, sample_weight: Any) -> "Positions":
        own = dict(self.parameters)
        losses, weight = sample_losses(y_true, y_proba, classes=own.pop("labels"), sample_weight=sample_weight, **own)
        return Positions(losses, None if weight is None else _checked(weight), samples=losses.size)

    def _of_positions(self, block: Any, y_true: Any, y_pred: Any, sample_weight: Any) -> "Positions":
        name = block.predictions
        y_true, y_pred = _read("y_true", y_true), _read(name, y_pred)
        own = dict(self.parameters)
        shape = known_shape(name, y_pred)
        if block.combine == "mean" and len(shape) == 1 and tuple(y_true.shape) == shape and not _per_class(own):
            # One number for each position, so that the mean is the same however such an array is cut.
            layout(shape, own["axis"], name, False)
            own["axis"], shape = -1, (*shape, 1)
            y_true, y_pred = (backend_of(x).namespace(x).reshape(x, shape) for x in (y_true, y_pred))
        lay = layout_of_sets(shape, own["axis"], name) if block.sets else layout(shape, own["axis"], name, block.combine is None)
        w = None if sample_weight is None else _weights(sample_weight, lay)
        zeros = others = False
        if own.get("labels") == "auto":
            zeros, others = _hinge_targets(y_true, w, lay)
            own["labels"] = "pm1" if others else "01"
        k = own.get("class_weight")
        if k is not None:
            own["class_weight"] = _beside(y_pred, k)
        losses = host(block.function(y_true, y_pred, reduction="none", **own)).reshape(-1)

        ignore, labelled = own.get(block.ignores) or (), _labelled(block, y_true, lay)
        skip = _ignored(host(y_true).reshape(-1), ignore) if ignore and labelled else None
        normal = None
        if "class_weight" in own and (k is not None or (w is not None and not labelled)):
            shares = _shares(host(y_true), lay, labelled, ignore, np.ones(lay.c) if k is None else np.asarray(k))
            normal = shares if w is None else w * shares
        samples = math.prod(lay.shape[: max(lay.axis, 0)])
        return Positions(losses, w, normal, skip, samples, int(zeros), int(others))

    # -------------------------------------------------------------------------------------------------------- results

    def check(self, found: Tally) -> Tally:
        """The tally, or an error if it holds batches that a hinge with labels="auto" reads in different ways."""
        if found.zeros and found.others:
            raise ValueError(
                f"y_true holds 0 as well as numbers other than 0 and 1, and labels='auto' of {self.name} is decided by all targets at once:"
                " pass labels='01' or labels='pm1'"
            )
        return found

    def _divided_by(self, found: Tally) -> int:
        """The divisor, in units of the sums."""
        counts = {"positions": found.positions, "samples": found.samples, "1": 1}
        return found.v.units if self.divisor == "weights" else counts[self.divisor] << UNIT

    def result(self, found: Tally) -> float:
        """The mean, or what the reduction asks for; NaN before any data, 0 if nothing counts."""
        if not found.positions:
            return math.nan
        special = found.x.special
        if self.divisor == "weights" and found.v.special:
            return math.nan if math.isnan(found.v.special) or special else 0.0
        divisor = self._divided_by(found)
        if not divisor:
            return 0.0
        return special * (1 if divisor > 0 else -1) if special else ratio(found.x.units, divisor)

    def standard_error(self, found: Tally) -> float:
        """√(n/(n-1) Σ(x - m v)²) over the divisor, where m = Σx / Σv; NaN below two positions."""
        if found.count < 2 or any(s.special for s in (found.x, found.xx, found.v, found.vv, found.xv)):
            return math.nan
        x, v, divisor = found.x.units, found.v.units, self._divided_by(found)
        if not v or not divisor:
            return math.nan
        # Σ(x - m v)² · v², an integer of three units more.
        squares = max(found.xx.units * v * v - 2 * x * v * found.xv.units + x * x * found.vv.units, 0)
        return math.sqrt(ratio((squares << UNIT) * found.count, v * v * divisor * divisor * (found.count - 1)))


@dataclass(frozen=True)
class Positions:
    """The positions of a batch, as `tally` takes them."""

    losses: np.ndarray
    weight: np.ndarray | None = None
    normal: np.ndarray | None = None
    skip: np.ndarray | None = None
    samples: int = 0  # these three as a Tally has them
    zeros: int = 0
    others: int = 0

    def tally(self) -> Tally:
        """Their sums."""
        found = tally(self.losses, self.weight, self.normal, self.skip)
        return replace(found, samples=self.samples, zeros=self.zeros, others=self.others)

    def less(self, other: "Positions") -> "Positions":
        """The differences to the losses of other predictions of the same targets."""
        with np.errstate(invalid="ignore"):  # inf - inf
            return replace(self, losses=self.losses.astype(np.float64) - other.losses)

    def some(self, rows: np.ndarray) -> "Positions":
        """These of them, of a batch of one position for each sample."""
        weight, normal, skip = (None if x is None else x[rows] for x in (self.weight, self.normal, self.skip))
        return Positions(self.losses[rows], weight, normal, skip, len(rows), self.zeros, self.others)


def _joined(given: dict[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    twice = given.keys() & own.keys()
    if twice:
        raise TypeError(f"{min(twice)} is given twice: beside the loss and with it")
    return {**given, **own}


def _reduction(given: dict[str, Any], reduction: Any) -> str:
    reduction = given.pop("reduction", reduction)
    if not isinstance(reduction, str) or reduction not in (*REDUCTIONS, "normalize"):
        raise ValueError(f"reduction is {reduction!r}, but must be one of {', '.join(map(repr, REDUCTIONS))}")
    return reduction


def _refuse(name: str, given: Mapping[str, Any], known: Any) -> None:
    for key in given:
        if key in NOT_PARAMETERS:
            raise ValueError(f"{key} is given, but {NOT_PARAMETERS[key]}")
    refuse_unknown_parameters(name, given, [key for key in known if key not in NOT_PARAMETERS])


def _of_block(block: Any, given: dict[str, Any], reduction: Any) -> Measure:
    reduction = _reduction(given, reduction)
    defaults = _defaults(block)
    _refuse(block.name, given, {**defaults, "normalization": None, "normalize": None} if "class_weight" in defaults else defaults)
    normalized = "normalize" in block.reductions
    if normalized and reduction == "mean":
        reduction = "normalize"
    _reduce.reduction_name(block, reduction)
    divisor = {"mean": "weights", "sum": "1", "sum_over_batch_size": "positions"}.get(reduction, "")
    if normalized:
        rule = _reduce.normalization_name(given.pop("normalization", None), given.pop("normalize", None))
        divisor = divisor or {"valid": "weights", "full": "positions", "batch_size": "samples", "none": "1"}[rule]
    values = {**defaults, **{key: value for key, value in given.items() if key != "class_weight"}}
    for key, check in block.params.items():
        if values[key] is not None:  # what is not given is given as such to the loss
            values[key] = check(key, values[key])
    values["validate"] = flag("validate", values["validate"])
    values["axis"] = _axes(values["axis"], block.sets)
    if given.get("class_weight") is not None:
        values["class_weight"] = _class_weight(given["class_weight"])
    return Measure(block.name, {key: _plain(values[key]) for key in sorted(values)}, divisor)


def _axes(axis: Any, several: bool) -> int | tuple[int, ...]:
    """A loss's axis, or the axes of a set in one order."""
    if several and isinstance(axis, (tuple, list)):
        if not axis or any(isinstance(a, bool) or not hasattr(a, "__index__") for a in axis):
            raise TypeError(f"axis is {axis!r}, but must hold integers, one or several")
        return tuple(sorted(a.__index__() for a in axis))
    if isinstance(axis, bool) or not hasattr(axis, "__index__"):
        what = "name the axes of one set, (1, 2) say: with None, all samples of a batch would be one" if several else "be an integer"
        raise TypeError(f"axis is {axis!r}, but must {what}")
    return int(axis.__index__())


def _of_log_loss(given: dict[str, Any], reduction: Any) -> Measure:
    reduction = _reduction(given, reduction)
    _refuse("log_loss", given, keywords(log_loss))
    if given.get("labels") is None:
        raise ValueError("labels is missing: a batch may lack a class, so that log_loss must be told all of them")
    if not flag("normalize", given.pop("normalize", True)):
        reduction = "sum"
    epsilon = given.get("epsilon")
    values = {
        "epsilon": None if epsilon is None else clip_bound("epsilon", epsilon),
        "labels": sorted_classes(given["labels"]),
        "rescale": flag("rescale", given.get("rescale", False)),
    }
    return Measure("log_loss", values, {"sum": "1", "sum_over_batch_size": "positions"}.get(reduction, "weights"))


def _defaults(block: Any) -> dict[str, Any]:
    """Parameters that a batch's losses depend on, with their values unless others are given."""
    others = {"reduction", "normalization", "normalize", *NOT_PARAMETERS}
    parameters = inspect.signature(block.function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in others}


def _class_weight(given: Any) -> list[float]:
    k = host(given) if not isinstance(backend_of(given, "class_weight"), str) else numpy_array("class_weight", given)
    if k.ndim != 1:
        raise ValueError(f"class_weight has shape {k.shape}, but must have one entry for each class")
    return [number("class_weight", float(value)) for value in k]


def _plain(value: Any) -> Any:
    """A parameter as JSON holds it."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return list(map(_plain, value)) if isinstance(value, (list, tuple)) else value


def _few(value: Any) -> str:
    return repr(value) if not isinstance(value, list) or len(value) <= 4 else f"[{', '.join(map(repr, value[:3]))}, …]"


def _read(name: str, x: Any) -> Any:
    """An argument as an array whose values are at hand, of which no graph is kept."""
    if x is None:
        raise TypeError(f"{name} is None, but must be an array, a list or a number")
    kind = backend_of(x, name)
    if isinstance(kind, str):
        return numpy_array(name, x)
    if not kind.has_values(x):
        raise TypeError(f"{name} has no values yet (it is being traced, or on a meta device), but an accumulator adds up numbers")
    return x.detach() if kind.name == "torch" else x


def _laid_down(name: str, x: Any) -> Any:
    """An array of Dask as it is, any other as NumPy's."""
    kind = None if x is None else backend_of(x, name)
    if kind is None or (not isinstance(kind, str) and kind.name == "dask"):
        return x
    return np.asarray(x) if isinstance(kind, str) else host(x)


def _weights(given: Any, lay: Any) -> np.ndarray:
    """One weight for each position, in float64."""
    kind = backend_of(given, "sample_weight")
    w = numpy_array("sample_weight", given) if isinstance(kind, str) else host(_read("sample_weight", given))
    if w.dtype.kind not in "fiub" and w.dtype.name != "bfloat16":
        raise TypeError(f"sample_weight has dtype {w.dtype}, but must hold real numbers")
    w = _checked(w.astype(np.float64)).reshape(weight_shape(w.shape, lay))
    return np.broadcast_to(w, lay.losses).reshape(-1)


def _checked(w: np.ndarray) -> np.ndarray:
    """Weights, or an error: a mean with a negative one may lie outside its losses, and has no standard error."""
    if not (w.min(initial=0.0) >= 0 and w.max(initial=0.0) < math.inf):  # NaN is neither
        at = tuple(map(int, np.argwhere(~((w >= 0) & (w < math.inf)))[0]))
        raise ValueError(f"sample_weight{list(at) or ''} is {w[at]}, but {WEIGHTS}")
    return w


def _hinge_targets(y_true: Any, w: np.ndarray | None, lay: Any) -> tuple[bool, bool]:
    """Whether a target that counts is 0, and whether one is neither 0 nor 1."""
    xp = backend_of(y_true).namespace(y_true)
    t = xp.astype(y_true, xp.uint8) if dtype_name(y_true.dtype) == "bool" else y_true
    if tuple(t.shape) != lay.shape:
        return False, False  # the loss words the error
    if w is not None and not w.all():
        counts = np.expand_dims((w != 0).reshape(lay.losses), lay.axis) if lay.axis >= 0 else (w != 0).reshape(())
        t = xp.where(_beside(t, counts), t, xp.ones_like(t))
    return bool(xp.any(t == 0)), bool(xp.any((t != 0) & (t != 1)))


def _per_class(parameters: Mapping[str, Any]) -> bool:
    """Whether a parameter has an entry for each number along the axis."""
    return any(isinstance(value, list) for value in parameters.values())


def _labelled(block: Any, y_true: Any, lay: Any) -> bool:
    """Whether the targets are labels. Where a loss takes both, floats in the shape of the predictions are soft targets."""
    if block.targets == "either":
        return dtype_name(y_true.dtype) not in FLOATS or tuple(y_true.shape) != lay.shape
    return block.targets == "labels"


def _beside(x: Any, values: Any) -> Any:
    """Values as an array of another's library and on its device."""
    kind = backend_of(x)
    if kind.name == "numpy":
        return np.asarray(values)
    xp = kind.namespace(x)
    values = np.asarray(values)
    if values.dtype == np.float64 and dtype_name(x.dtype) != "float64":
        values = values.astype(np.float32)
    return xp.asarray(values.tolist() if kind.name not in ("torch", "jax", "cupy") else values, device=device_of(x))


def _ignored(labels: np.ndarray, ignore: tuple[int, ...] | list[int]) -> np.ndarray:
    """Where a label is one of the ignored ones; compared as mathematical integers."""
    skip = np.zeros(labels.shape, bool)
    for value in ignore:
        if representable(labels.dtype, value):
            skip |= labels == value
    return skip


def _shares(y: np.ndarray, lay: Any, labelled: bool, ignore: Any, k: np.ndarray) -> np.ndarray:
    """Σ_c k_c t_c of each position: k[label], for labels."""
    if labelled:
        return k[sort_labels(np, y.reshape(-1), lay.c, ignore)[0]]
    rows = np.ascontiguousarray(np.moveaxis(y, lay.axis, -1), np.float64).reshape(-1, lay.c)
    return (rows * k).sum(axis=1)  # in one order, wherever the axis of the classes lies
