"""Random calls: `draw(rng)` gives a call that the contract allows, of any loss of the registry, on any library.

What a loss takes is read from the registry: its parameters and their rules from its signature and block, so a loss that is new is drawn
as well.
"""

import inspect
import math
import re

import numpy as np
from calls import LAYOUTS, TENSOR_LAYOUTS, Array, Call, isas
from ml_dtypes import bfloat16
from truth import TRUTHS

from polyloss._core import params as _params
from polyloss._core.block import LOSSES

DTYPES = {"float64": 8, "float32": 8, "float16": 3, "bfloat16": 3, "int64": 1, "uint8": 1, "int16": 1, "bool": 1}
LABEL_DTYPES = ("int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64", "float32", "float64", "float16")
LIBRARY_SHARES = {"numpy": 50, "torch": 30, "jax": 14, "strict": 4, "dask": 2}
UNIT_INTERVAL = ("binary_crossentropy", "binary_focal_crossentropy", "kl_divergence")
DEVIANCES = ("poisson_deviance", "gamma_deviance", "tweedie_deviance")
POSITIVE = (*DEVIANCES, "categorical_crossentropy", "sparse_categorical_crossentropy", "categorical_focal_crossentropy", "poisson",
            "mean_squared_logarithmic_error")  # fmt: skip


def pick(rng, options):
    """One of a sequence, or of a dict by its shares."""
    if isinstance(options, dict):
        shares = np.array(list(options.values()), float)
        return list(options)[rng.choice(len(options), p=shares / shares.sum())]
    return options[int(rng.integers(len(options)))]


def chance(rng, share):
    return bool(rng.random() < share)


# ------------------------------------------------------------------------------------------------------------- parameters


def parameter(rng, check, default):
    """A value that a check of _core/params.py lets through: usually the default."""
    if chance(rng, 0.4):
        return default
    if check is _params.flag:
        return chance(rng, 0.5)
    if check is _params.fraction or check is _params.fractions:
        return pick(rng, [0.0, 0.1, 0.5, 1.0, float(rng.random())])
    if check is _params.clip_bound:
        return pick(rng, [0.0, 1e-7, 1e-15, 1e-3, 0.25, float(rng.random() * 0.49)])
    if check is _params.positive:
        return pick(rng, [1.0, 0.5, 2.0, 1e-3, 1e3, float(rng.exponential())])
    if check is _params.nonnegative:
        return pick(rng, [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, float(rng.exponential())])
    if check is _params.number:
        return pick(rng, [0.0, 1.0, -1.0, 0.25, 2.0, float(rng.normal())])
    if check is _params.tweedie_power:
        return pick(rng, [0.0, 1.0, 2.0, 3.0, -1.0, 1.2, 1.9, 2.5])
    if check is _params.factors:
        return pick(rng, [0.25, 1.0, -1.0, 0.0, float(rng.normal())])
    if check is _params.weights:
        return pick(rng, [0.25, 1.0, 0.0, 3.0, float(rng.exponential())])
    if check is _params.unit_exponent:
        return pick(rng, [0.5, 1.0, 0.1, 0.7, float(1 - rng.random())])
    if check is _params.one_or_two:
        return pick(rng, [1, 2, 2.0])
    if check is _params.cap:
        return pick(rng, [None, 5.0, 30.0, 1.0])
    if check is _params.integers:
        return pick(rng, [None, -1, 0, 255, -100, (0, 255), 2**40])
    choices = re.findall(r'"(.+?)"', check.__doc__ or "")
    if choices:
        return pick(rng, choices)
    raise LookupError(f"no values are drawn for parameters that {check} checks")


# ------------------------------------------------------------------------------------------------------------------ shapes


def shape_of(rng, rowwise, heavy, library=None):
    """Of predictions, and the axis of the classes. JAX compiles for every shape anew: it gets one of a few."""
    kind = pick(rng, {"usual": 50, "spatial": 16, "one": 6, "empty": 3, "wide": 2, "long": 2, "scalar": 0 if rowwise else 3, "vector": 4})
    small = lambda top: int(rng.integers(1, top))  # noqa: E731
    if library == "jax" and kind not in ("one", "empty", "scalar") and not heavy:
        return pick(rng, [((5, 7), 1), ((5, 7), 0), ((2, 3, 4), 1), ((2, 3, 4), -1), ((7,), -1)])
    if kind == "scalar":
        return (), pick(rng, [-1, 0])
    if kind == "vector":
        return (small(40),), pick(rng, [-1, 0])
    if kind == "usual":
        shape, axis = (small(12), small(14)), 1
    elif kind == "spatial":
        shape = tuple(small(7 if heavy else 5) for _ in range(int(rng.integers(3, 6))))
        axis = int(rng.integers(len(shape)))
    elif kind == "one":
        shape, axis = pick(rng, [(1, 1), (1, 7), (7, 1), (1, 5, 1), (3, 1, 2)]), 1
    elif kind == "empty":
        shape, axis = pick(rng, [(0, 5), (3, 4, 0), (0, 3, 0), (2, 3, 0, 2)]), 1
    elif kind == "wide":
        shape, axis = (small(4), int(rng.integers(60, 4000 if heavy else 700))), 1
    else:
        shape, axis = (int(rng.integers(60, 9000 if heavy else 1500)), small(9)), 1
    if chance(rng, 0.3):
        axis = int(rng.integers(len(shape)))
        if shape[axis] == 0:
            axis = 1
    return shape, axis - len(shape) if chance(rng, 0.5) else axis


# ------------------------------------------------------------------------------------------------------------------ values


def specials(dtype):
    info = np.finfo(dtype if np.dtype(dtype).name in ("float16", "float32", "float64") else "float32")
    return [0.0, -0.0, 1.0, -1.0, 0.5, 1e-7, 1 - 1e-7, float(info.tiny), float(info.smallest_subnormal), float(info.max), -float(info.max),
            float(info.max) ** 0.5, float(info.eps), 1 + float(info.eps), 25.0, 45.0, 90.0, -90.0, 720.0, 1e-30, 1e-3]  # fmt: skip


def values(rng, shape, dtype, style, finite=True, edges=True):
    """Numbers of a dtype in one of several styles."""
    kind = np.dtype(dtype)
    if kind.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if kind.kind in "iu":
        low, high = (0, 4) if kind.kind == "u" else (-3, 4)
        return rng.integers(low, high, shape).astype(kind)
    if style == "real":
        x = rng.standard_normal(shape) * pick(rng, [1.0, 1.0, 0.1, 8.0, 60.0, 1e-4])
    elif style == "probabilities":
        x = pick(rng, [rng.random(shape), rng.random(shape) ** 8, 1 - rng.random(shape) ** 6])
    elif style == "positive":
        x = rng.exponential(pick(rng, [1.0, 0.01, 50.0]), shape)
    elif style == "binary":
        x = rng.integers(0, 2, shape).astype(float)
    elif style == "signs":
        x = 2.0 * rng.integers(0, 2, shape) - 1
    elif style == "ties":
        x = rng.integers(-2, 3, shape).astype(float)
    elif style == "logits":
        x = rng.choice([0.0, 0.0, 1.0, -1.0, 25.0, 30.0, 45.0, -45.0, 90.0, 100.0, -700.0, 720.0], shape)
    else:
        x = np.zeros(shape)
    x = np.asarray(x, float)
    if x.size and (style == "special" or (edges and chance(rng, 0.12))):
        pool = np.array(specials(dtype if dtype != "bfloat16" else bfloat16))
        at = rng.random(x.shape) < (0.9 if style == "special" else 0.15)
        x = np.where(at, rng.choice(pool, x.shape), x)
    if x.size and not finite:
        x = np.where(rng.random(x.shape) < 0.1, rng.choice([np.nan, np.inf, -np.inf], x.shape), x)
    with np.errstate(over="ignore"):
        return x.astype(bfloat16 if dtype == "bfloat16" else dtype)


def rows_of(rng, shape, axis, dtype):
    """Targets that are a distribution, or one class, along the axis."""
    c = shape[axis]
    places = shape[: axis % len(shape)] + shape[axis % len(shape) + 1 :]
    rows = np.eye(c)[rng.integers(0, c, places)] if chance(rng, 0.5) else rng.dirichlet(np.full(c, pick(rng, [0.1, 1.0])), places)
    return np.moveaxis(rows.reshape((*places, c)), -1, axis).astype(bfloat16 if dtype == "bfloat16" else dtype)


def layout(rng, library, x, plain=0.55):
    """How an array lies in memory: one of the layouts that it can have."""
    names = TENSOR_LAYOUTS if library == "torch" else LAYOUTS
    if library not in ("numpy", "torch", "dask") or chance(rng, plain):
        return "plain"
    name = pick(rng, [name for name in names if name != "masked"])
    if (x.ndim == 0 or x.size == 0) and name not in ("readonly", "swapped"):
        return "plain"
    if name == "swapped" and x.dtype.name == "bfloat16":
        return "plain"
    if name == "unaligned" and x.dtype.itemsize == 1:
        return "plain"
    return name


# -------------------------------------------------------------------------------------------------------------------- calls


def draw(rng, loss=None, library=None, heavy=False, edges=True):
    """A random call that must succeed; without `edges` one of numbers as they are in daily use."""
    loss = loss or pick(rng, list(TRUTHS))
    block = LOSSES[loss]
    library = library or pick(rng, LIBRARY_SHARES)
    signature = inspect.signature(block.function).parameters
    params = {name: parameter(rng, check, signature[name].default) for name, check in block.params.items()}
    if "quantile" in params and chance(rng, 0.3):
        params["quantile"] = tuple(float(x) for x in rng.choice([0.0, 0.1, 0.5, 0.9, 1.0], int(rng.integers(1, 5))))
    valued = block.targets == "values" or isinstance(params.get("quantile"), tuple)  # a target is one number, not one for each prediction
    if not edges and params.get("epsilon") == 0:
        params["epsilon"] = 1e-7
    rowwise = block.combine is None or block.targets == "either" or valued
    shape, axis = shape_of(rng, rowwise, heavy, library)
    while valued and (len(shape) == 1 or math.prod(shape) == 0):
        shape, axis = shape_of(rng, rowwise, heavy, library)
    if library in ("jax", "dask") and math.prod(shape) > 2000:
        shape, axis = (5, 7), 1
    if valued:
        length = len(params["quantile"]) if "quantile" in params else 2
        shape = tuple(length if i == axis % len(shape) else n for i, n in enumerate(shape))
    dtype = pick(rng, DTYPES)
    if dtype == "bfloat16" and library in ("strict", "dask"):
        dtype = "float32"
    if dtype == "float16" and library == "strict":
        dtype = "float64"
    for name, check in block.params.items():
        if check in (_params.factors, _params.weights) and shape and chance(rng, 0.3):
            params[name] = tuple(float(x) for x in rng.choice([0.25, 1.0, 2.0, 0.0], shape[axis]))
    from_logits = params.get("log_input") or params.get("from_logits", block.predictions == "logits" or loss == "poly1_crossentropy")
    finite = chance(rng, 0.9) or not edges
    logits = {"real": 5, "logits": 3, "ties": 1, "special": 1, "zeros": 0.3}
    styles = (
        logits if from_logits
        else {"probabilities": 6, "binary": 1, "special": 1, "real": 1} if loss in UNIT_INTERVAL
        else {"positive": 5, "probabilities": 4, "special": 1, "real": 0.5} if loss in POSITIVE
        else {**logits, "probabilities": 1})  # fmt: skip
    if not edges:
        styles = {name: share for name, share in styles.items() if name not in ("special", "logits")}
    p = values(rng, shape, dtype, pick(rng, styles), finite, edges)
    labelled = block.targets == "labels" or (block.targets == "either" and chance(rng, 0.6))
    c = shape[axis] if shape else 1
    ignored = params.get(block.ignores) if block.ignores else None
    if labelled:
        t = labels(rng, shape, axis, c, ignored, library)
        if block.targets == "either" and t.shape == shape:  # floats in the shape of the predictions are soft targets
            t = t.astype("int64")
    else:
        if block.ignores:
            params[block.ignores] = None
        t = targets(rng, loss, block, shape, axis, library, edges)
        if valued:
            t = t.take(0, axis)
            t = pick(rng, [t, t, t[..., None], np.expand_dims(t, axis % len(shape))])
    arrays = {"y_true": Array(t), "y_pred": Array(p)}
    at = axis % len(shape) if shape else 0
    losses = shape[:at] + shape[at + 1 :]
    if block.sets:
        axis, losses = axes_of(rng, shape, axis, losses)
        if chance(rng, 0.25):
            arrays["mask"] = Array(rng.random(shape) < pick(rng, [0.8, 0.5, 0.0]))
    if block.sets and chance(rng, 0.4):
        arrays["sample_weight"] = Array(weights(rng, losses, edges).astype(float)) if losses else Array(np.array(2.0))
    elif chance(rng, 0.4):
        arrays["sample_weight"] = Array(weights(rng, losses, edges))
    options = {key: value for key, value in params.items() if value != signature[key].default or isinstance(value, bool) != isinstance(
        signature[key].default, bool)}  # fmt: skip
    if axis != signature["axis"].default:
        options["axis"] = axis
    options.update(reduction_of(rng, block, arrays, c, library))
    arrays = {name: Array(x.values, layout(rng, library, x.values)) for name, x in arrays.items()}
    modes = {"value": 3, "value_and_grad": 6, "grad": 1, "grad_and_hess": 4}
    if library in ("torch", "jax") and dtype not in ("int64", "uint8", "int16", "bool"):
        modes["autograd"] = 6
    mode = pick(rng, modes)
    if mode == "autograd" and "denominator" in options:  # followed, too
        arrays["denominator"] = Array(np.array(options.pop("denominator"), pick(rng, ["float64", "float32"])))
    call = Call(loss, mode, arrays, options, library, labelled=labelled)
    if library in ("numpy", "torch"):
        call = call.changed(route=pick(rng, ["", "", "formula"]))
        call = call.changed(threads=pick(rng, [1, 1, 2, 3]))
    if library in ("numpy", "torch", "jax") and not call.route:
        call = call.changed(isa=pick(rng, ["", *isas()]))
    if mode == "autograd":
        value_shape = losses if options.get("reduction", signature["reduction"].default) in ("none", None) else ()
        wide = "float64" if dtype == "float64" else "float32"
        call = call.with_array("upstream", Array(rng.choice([1.0, 2.0, -0.5, 3.0], value_shape).astype(wide)))
        call = call.changed(jit=library == "jax" and chance(rng, 0.4))
    elif mode != "value" and library in ("numpy", "torch") and chance(rng, 0.2):
        backwards = ["reversed", "flipped"] if library == "numpy" else []
        call = call.changed(out=pick(rng, ["plain", "strided", "fortran", "inner", *backwards]) if p.ndim and p.size else "plain")
    elif loss == "softmax_loss" and mode in ("value", "value_and_grad") and chance(rng, 0.2):
        call = call.changed(options={**call.options, "return_prob": True})
    return call


def axes_of(rng, shape, axis, losses):
    """Of a set: one axis, several or all; and the shape of the losses."""
    axes = pick(rng, [None, axis, tuple(sorted({axis % max(len(shape), 1), int(rng.integers(max(len(shape), 1)))}))])
    if not shape or (axes is not None and not isinstance(axes, tuple)):
        return (axes if shape and axes is not None else None, losses if shape and axes is not None else ())
    inside = range(len(shape)) if axes is None else axes
    if any(shape[i] == 0 for i in inside):
        return axis, losses
    return axes, tuple(n for i, n in enumerate(shape) if i not in inside)


def labels(rng, shape, axis, c, ignored, library):
    at = axis % len(shape)
    losses = shape[:at] + shape[at + 1 :]
    t = rng.integers(0, c, losses)
    names = [None] if ignored is None else list(ignored) if isinstance(ignored, tuple) else [ignored]
    extra = [x for x in names if x is not None]
    dtypes = [d for d in LABEL_DTYPES if c - 1 <= _most(d) and not (library in ("strict", "dask") and d == "float16")]
    dtype = pick(rng, {d: 4 if d == "int64" else 1 for d in dtypes})
    extra = [x for x in extra if _least(dtype) <= x <= _most(dtype)]
    if extra and t.size:
        some = rng.random(t.shape) < pick(rng, [0.2, 0.2, 1.0])
        t = np.where(some, rng.choice(np.array(extra), t.shape), t)
    t = np.asarray(t).astype(dtype)
    return pick(rng, [t, t, t, t[..., None], np.expand_dims(t, at)])


def _most(dtype):
    return {"float16": 2**11, "float32": 2**24, "float64": 2**53}.get(dtype) or int(np.iinfo(dtype).max)


def _least(dtype):
    return {"float16": -(2**11), "float32": -(2**24), "float64": -(2**53)}.get(dtype) or int(np.iinfo(dtype).min)


def targets(rng, loss, block, shape, axis, library, edges):
    dtype = pick(rng, {"float64": 4, "float32": 4, "float16": 1, "bfloat16": 1, "int64": 1, "uint8": 0.5, "bool": 0.5})
    if dtype == "bfloat16" and library in ("strict", "dask"):
        dtype = "float32"
    if dtype == "float16" and library == "strict":
        dtype = "float64"
    if block.targets == "either" and np.dtype("f4" if dtype == "bfloat16" else dtype).kind in "iub":
        dtype = "float64"  # integers are labels
    if (block.combine is None or loss == "kl_divergence") and loss != "cosine_similarity" and shape and chance(rng, 0.7):
        if dtype.startswith(("float", "bfloat")):
            return rows_of(rng, shape, axis, dtype)
        return rows_of(rng, shape, axis, "float64").round().astype(dtype)
    if loss in DEVIANCES:
        style = pick(rng, ["positive", "probabilities"])
    elif loss in ("hinge", "squared_hinge", "exponential", "logistic"):
        style = pick(rng, ["signs", "binary", "binary", "real"])
    elif "focal" in loss or "crossentropy" in loss or loss in (*UNIT_INTERVAL, "softmax_loss"):
        x = values(rng, shape, dtype, pick(rng, ["probabilities", "binary"]), edges=edges)
        return x.clip(0, 1).astype(x.dtype) if loss.startswith("binary") and x.dtype.kind != "b" else x
    elif loss in ("poisson", "mean_squared_logarithmic_error"):
        style = pick(rng, ["positive", "ties" if loss != "poisson" else "binary"])
    else:
        style = pick(rng, ["real", "real", "ties", "special" if edges else "real", "probabilities"])
    return values(rng, shape, dtype, style, edges=edges)


def weights(rng, losses, edges):
    """In one of the shapes that weights may have."""
    shape = losses
    if losses and chance(rng, 0.3):
        shape = losses[: int(rng.integers(0, len(losses) + 1))]
    if shape and chance(rng, 0.2):
        at = int(rng.integers(len(shape)))
        shape = (*shape[:at], 1, *shape[at + 1 :])
    if shape == losses and chance(rng, 0.2):
        shape = (*losses, 1)
    dtype = pick(rng, ["float64", "float64", "float32", "int64"])
    w = rng.choice([0.0, 0.5, 1.0, 2.0, 1.25, 3.0], shape)
    if dtype != "int64" and edges and chance(rng, 0.15):
        w = rng.choice([0.0, 1e-38, 1e-30, 1e30, 1.0, np.nan], shape, p=[0.2, 0.1, 0.1, 0.1, 0.4, 0.1])
    return np.asarray(w).astype(dtype)


def reduction_of(rng, block, arrays, c, library):
    """Reduction, normalizer and class weights."""
    options = {}
    reduction = pick(rng, list(block.reductions))
    if reduction != block.reductions[0]:
        options["reduction"] = reduction
    elif block.reductions[0] == "none" and chance(rng, 0.05):
        options["reduction"] = None
    if "normalize" in block.reductions:
        if chance(rng, 0.3):
            k = rng.choice([0.5, 1.0, 2.0, 0.0, 3.0], c)
            arrays["class_weight"] = Array(k.astype(pick(rng, ["float64", "float32"])))
        if reduction == "normalize":
            if chance(rng, 0.6):
                options["normalization"] = pick(rng, ["full", "valid", "batch_size", "none", 0, 1, 2, 3])
            elif chance(rng, 0.4):
                options["normalize"] = chance(rng, 0.5)
            if chance(rng, 0.15):
                options["denominator"] = pick(rng, [1.0, 4.0, 2.5, 1e-3, 12])
    return options
