"""Bad input: a good call with one thing wrong must raise the documented kind of error, name the argument, and leave the next call right."""

from dataclasses import dataclass

import check
import draw
import numpy as np
import shrink
from calls import Array, Call, Refused, run
from check import Fault, defaults

from polyloss._core import params as _params
from polyloss._core.block import LOSSES


@dataclass(frozen=True)
class Refusal:
    """A call that must be refused: with an error of this kind, which names this."""

    call: Call
    kind: str
    word: str
    what: str

    @property
    def label(self):
        return self.call.loss, self.call.library, "bad " + self.what, self.call.route or "kernel"

    def code(self):
        return self.call.code() + f"\n# must raise {self.kind} that names {self.word}"


def draw_refusal(rng, library, edges):
    library = library or draw.pick(rng, {"numpy": 60, "torch": 30, "strict": 6, "jax": 4, "dask": 3})
    while True:
        call = draw.draw(rng, library=library, edges=False)
        if not shrink.apart(call) and call.prediction.values.size and call.prediction.values.size < 400 and call.mode != "autograd":
            bad = draw.pick(rng, list(SPOILERS))
            spoiled = SPOILERS[bad](rng, call)
            if spoiled is not None:
                return Refusal(*spoiled, bad.replace("_", " "))


def faults(refusal):
    where = refusal.label
    try:
        run(refusal.call)
        found = [Fault((*where, "taken"), "was taken")]
    except Refused as error:
        kind, _, words = str(error).partition(": ")
        found = []
        if kind != refusal.kind:
            found.append(Fault((*where, "kind", kind), f"raised {str(error)[:300]}, which is no {refusal.kind}"))
        if refusal.word not in words:
            found.append(Fault((*where, "word"), f"raised {str(error)[:300]}, which does not name {refusal.word}"))
    good = Call(refusal.call.loss, "value_and_grad", *plain(refusal.call.loss), library="numpy", labelled=labelled(refusal.call.loss))
    return found + [Fault((*where, "next", *fault.kind[4:]), "the next call: " + fault.words) for fault in check.faults(good)]


def labelled(loss):
    return LOSSES[loss].targets in ("labels", "either")


def plain(loss):
    """Arguments of a plain call."""
    rng = np.random.default_rng(0)
    t, p = (np.array([0, 2, 1, 0]) if labelled(loss) else rng.random((4, 3))), rng.random((4, 3)).astype(np.float32)
    return {"y_true": Array(t), "y_pred": Array(p)}, {"axis": 1}


# ------------------------------------------------------------------------------------------------- what can be wrong with a call


def name_of(call):
    return LOSSES[call.loss].predictions


def at_of(call):
    ndim = call.prediction.values.ndim
    return {**defaults(call.loss), **call.options}["axis"] % max(ndim, 1)


def another_shape_of_targets(rng, call):
    t = call.arrays["y_true"].values
    if not t.ndim:
        return None
    wrong = [np.concatenate([t, t[:1]]), t[None, None]]
    if LOSSES[call.loss].targets != "either":  # what is left may have the shape of labels
        wrong.append(t[:-1])
    wrong = [x for x in wrong if x.shape != call.prediction.values.shape]  # labels with an axis of 1, which two may make dense targets
    return call.with_array("y_true", Array(draw.pick(rng, wrong))).changed(out=""), "ValueError", "y_true"


def another_shape_of_weights(rng, call):
    p, at = call.prediction.values, at_of(call)
    losses = p.shape[:at] + p.shape[at + 1 :]
    w = np.ones((*losses[:-1], losses[-1] + 1) if losses else (2,))
    if losses and draw.chance(rng, 0.3):
        w = np.ones((*losses, 2))
    return call.with_array("sample_weight", Array(w)), "ValueError", "sample_weight"


def another_shape_of_class_weights(rng, call):
    if call.loss != "softmax_loss":
        return None
    c = call.prediction.values.shape[at_of(call)]
    return call.with_array("class_weight", Array(np.ones(draw.pick(rng, [c + 1, 2 * c])))), "ValueError", "class_weight"


def a_label_that_is_no_class(rng, call):
    block = LOSSES[call.loss]
    t = call.arrays["y_true"].values
    if not call.labelled or call.options.get("validate") is False:
        return None
    c = call.prediction.values.shape[at_of(call)]
    bad = draw.pick(rng, [-1, -100, c, c + 7, 2**40])
    ignored = call.options.get(block.ignores)
    weight = call.arrays.get("sample_weight")
    if bad in np.atleast_1d(np.array(ignored if ignored is not None else [], float)) or weight is not None:
        return None
    t = t.astype(np.int64)
    t.reshape(-1)[int(rng.integers(t.size))] = bad
    return call.with_array("y_true", Array(t)), "ValueError", "y_true"


def a_label_that_is_not_whole(rng, call):
    if not call.labelled or "sample_weight" in call.arrays:
        return None
    t = call.arrays["y_true"].values.astype(np.float64)
    if t.shape == call.prediction.values.shape:
        return None
    t.reshape(-1)[int(rng.integers(t.size))] = draw.pick(rng, [0.5, np.nan, 1e-9])
    return call.with_array("y_true", Array(t)), "TypeError", "y_true"


def an_axis_that_is_not_there(rng, call):
    ndim = call.prediction.values.ndim
    axis = draw.pick(rng, [ndim, -ndim - 1, 99]) if ndim else 1
    return call.changed(options={**call.options, "axis": axis}), "ValueError", "axis"


def an_axis_that_is_no_integer(rng, call):
    return call.changed(options={**call.options, "axis": draw.pick(rng, [1.0, True, "1", None])}), "TypeError", "axis"


def an_unknown_reduction(rng, call):
    wrong = draw.pick(rng, ["average", "Sum", "", 1, ("sum",), "normalize" if call.loss != "softmax_loss" else "mean"])
    return call.changed(options={**call.options, "reduction": wrong}), "ValueError", "reduction"


def an_unknown_argument(rng, call):
    return call.changed(options={**call.options, "gama": 2.0}), "TypeError", "gama"


def a_flag_that_is_none(rng, call):
    return call.changed(options={**call.options, "validate": draw.pick(rng, [1, "yes", None])}), "TypeError", "validate"


WRONG = {
    _params.flag: [(1, "TypeError"), ("yes", "TypeError"), (None, "TypeError")],
    _params.fraction: [(1.5, "ValueError"), (-0.1, "ValueError"), (float("nan"), "ValueError"), ("a", "TypeError"), (None, "TypeError")],
    _params.clip_bound: [(0.5, "ValueError"), (-1e-9, "ValueError"), (float("inf"), "ValueError"), ("a", "TypeError")],
    _params.positive: [(0, "ValueError"), (-1.0, "ValueError"), (float("inf"), "ValueError"), (True, "TypeError"), (None, "TypeError")],
    _params.nonnegative: [(-1e-9, "ValueError"), (float("nan"), "ValueError"), ("a", "TypeError")],
    _params.tweedie_power: [(0.5, "ValueError"), (float("nan"), "ValueError"), ("a", "TypeError")],
    _params.factors: [(float("nan"), "ValueError"), ("a", "TypeError"), ((0.5, "a"), "TypeError")],
    _params.weights: [(float("nan"), "ValueError"), (-0.5, "ValueError"), ("a", "TypeError"), ((0.5, -1), "ValueError")],
    _params.cap: [(0, "ValueError"), (-1.0, "ValueError"), (float("inf"), "ValueError"), ("a", "TypeError")],
    _params.number: [(float("nan"), "ValueError"), (float("-inf"), "ValueError"), (1j, "TypeError"), ("1", "TypeError")],
    _params.integers: [(1.5, "TypeError"), (True, "TypeError"), ("a", "TypeError"), ((0, 0.5), "TypeError")],
}


def a_parameter_out_of_range(rng, call):
    params = LOSSES[call.loss].params
    if not params:
        return None
    name = draw.pick(rng, list(params))
    wrong = WRONG.get(params[name])
    if wrong is None:
        if "One of" not in (params[name].__doc__ or ""):
            return None
        wrong = [("other", "ValueError"), (1, "ValueError")]
    value, kind = draw.pick(rng, wrong)
    return call.changed(options={**call.options, name: value}), kind, name


def complex_numbers(rng, call):
    if call.library == "dask":
        return None
    names = ["y_pred", *([] if call.labelled else ["y_true"]), *(["sample_weight"] if "sample_weight" in call.arrays else [])]
    name = draw.pick(rng, names)
    call = call.with_array(name, Array(call.arrays[name].values.astype(np.float32).astype(np.complex64))).changed(out="")
    return call, "TypeError", name_of(call) if name == "y_pred" else name


def a_masked_array(rng, call):
    if call.library != "numpy":
        return None
    name = draw.pick(rng, ["y_true", "y_pred"])
    call = call.with_array(name, Array(call.arrays[name].values, "masked")).changed(out="")
    return call, "TypeError", name_of(call) if name == "y_pred" else name


def no_classes(rng, call):
    p, at = call.prediction.values, at_of(call)
    if not p.ndim:
        return None
    none = np.zeros((*p.shape[:at], 0, *p.shape[at + 1 :]), p.dtype)
    t = call.arrays["y_true"].values
    call = call.with_array("y_pred", Array(none)).with_array("y_true", Array(t if call.labelled else none)).changed(out="")
    return call.with_array("class_weight", None), "ValueError", name_of(call)


def normalizers(rng, call):
    if call.loss != "softmax_loss" or call.options.get("reduction", "normalize") != "normalize":
        return None
    name, value, kind = draw.pick(rng, [
        ("normalization", "batch", "ValueError"), ("normalization", 4, "ValueError"), ("normalization", True, "ValueError"),
        ("normalize", 1, "TypeError"), ("normalize", "valid", "TypeError"), ("denominator", 0, "ValueError"),
        ("denominator", float("nan"), "ValueError"), ("denominator", "1", "TypeError")])  # fmt: skip
    options = {k: x for k, x in call.options.items() if k not in ("normalization", "normalize")}
    return call.changed(options={**options, name: value}).with_array("denominator", None), kind, name


SPOILERS = {function.__name__: function for function in (
    another_shape_of_targets, another_shape_of_weights, another_shape_of_class_weights, a_label_that_is_no_class, a_label_that_is_not_whole,
    an_axis_that_is_not_there, an_axis_that_is_no_integer, an_unknown_reduction, an_unknown_argument, a_flag_that_is_none,
    a_parameter_out_of_range, complex_numbers, a_masked_array, no_classes, normalizers)}  # fmt: skip
