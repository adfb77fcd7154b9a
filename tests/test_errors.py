"""Every error message, word for word, and no message without its case."""

import ast
import inspect
import math
import os
import re
import traceback
from pathlib import Path
from types import SimpleNamespace

import array_api_strict as strict
import dask.array as da
import jax
import jax.numpy as jnp
import numpy as np
import pandas
import polars
import pytest
import torch

import polyloss as pl
from polyloss import boosting, registry
from polyloss._core import threads as _threads
from polyloss._core.arguments import ELSEWHERE, OF_OTHERS, alike, meant
from polyloss._core.backends import new_enough
from polyloss._core.block import LOSSES, Elementwise, public

rng = np.random.default_rng(0)
T, P = rng.standard_normal((2, 4, 3))
B, Q = (T > 0) * 1.0, rng.uniform(0.1, 0.9, (4, 3))
Y, Z = np.array([0, 2, 1, 0]), P
SPATIAL = np.zeros((4, 20), int)
SPATIAL[3, 17] = 40
UNKNOWN = da.zeros(4, chunks=2)[da.ones(4, chunks=2) > 0]
SWAPPED, UNALIGNED = P.astype(P.dtype.newbyteorder()), np.zeros(97, np.uint8)[1:].view(P.dtype).reshape(P.shape)
BIG, OUT, TENSOR = np.zeros((5, 3)), np.zeros((4, 3)), torch.zeros(3)


def with_environment(name, value, function):
    os.environ[name] = value
    try:
        return function()
    finally:
        del os.environ[name]


def aliased():
    """A second loss that answers to "mse"."""
    LOSSES["twin"] = type("Twin", (Elementwise,), {"aliases": ("mse",), "function": pl.huber})
    registry._exact_names.cache_clear()
    try:
        pl.get("mse")
    finally:
        del LOSSES["twin"]
        registry._exact_names.cache_clear()


def among_others():
    """An accumulator beside one of another loss, in another process."""
    from polyloss._adapters import torch_processes as _processes

    alike, _processes.alike = _processes.alike, lambda *_: False
    try:
        pl.Accumulator("mse").all_reduce()
    finally:
        _processes.alike = alike


CASES = [
    (TypeError, lambda: pl.huber(T, P, delta="big"), "delta is 'big', but must be a number"),
    (TypeError, lambda: pl.huber(T, P, delta=True), "delta is True, but must be a number"),
    (ValueError, lambda: pl.huber(T, P, delta=math.inf), "delta is inf, but must be finite"),
    (ValueError, lambda: pl.huber(T, P, delta=0), "delta is 0, but must be above 0"),
    (ValueError, lambda: pl.generalized_crossentropy([0], [[0.5, 0.5]], q=0.0), "q is 0.0, but must be above 0 and at most 1"),
    (ValueError, lambda: pl.multiclass_hinge([0], [[0.5, 0.5]], power=3), "power is 3, but must be 1 or 2"),
    (ValueError, lambda: pl.quantile_loss([0.0], [[0.5]], quantile=[]), "quantile is [], but must be a number or several"),
    (ValueError, lambda: pl.gaussian_nll([0.0], [[0.5, 0.5, 0.5]]),
     "y_pred has shape (1, 3): gaussian_nll takes 2 numbers for each target on axis -1, not 3"),
    (ValueError, lambda: pl.gaussian_nll([[0.0, 1.0]], [[0.5, 0.5]]),
     "y_true has shape (1, 2), but one target for each position of y_pred of shape (1, 2) makes (1,) (a length-1 axis at 1 or at the end is"
     " accepted)"),
    (ValueError, lambda: pl.dice([[0.0, 1.0]], [[0.5, 0.5]], mask=[True, False]),
     "mask has shape (2,) and dtype bool, but must hold booleans in the shape of y_pred: (1, 2)"),
    (TypeError, lambda: pl.dice([[0.0, 1.0]], [[0.5, 0.5]], axis=(0, 1.0)), "axis[1] is 1.0, but must be an integer"),
    (ValueError, lambda: pl.dice([[0.0, 1.0]], [[0.5, 0.5]], axis=(0, 2)), "axis[1] is 2, but y_pred has 2 axes: its shape is (1, 2)"),
    (ValueError, lambda: pl.dice([[0.0, 1.0]], [[0.5, 0.5]], axis=(0, -2)),
     "axis is (0, -2), but must name one axis or several, each once"),
    (ValueError, lambda: pl.dice(np.zeros((2, 0)), np.zeros((2, 0))),
     "y_pred has shape (2, 0): axis None is empty, and a loss over nothing is undefined"),
    (ValueError, lambda: pl.tweedie_deviance(T, P, power=0.5),
     "power is 0.5, but must be 0 or below, or 1 or above: no distribution has one between"),
    (ValueError, lambda: pl.binary_focal_crossentropy(B, Q, gamma=-1.0), "gamma is -1.0, but must be 0 or above"),
    (ValueError, lambda: pl.binary_crossentropy(B, Q, label_smoothing=1.5), "label_smoothing is 1.5, but must be between 0 and 1"),
    (TypeError, lambda: pl.huber(T, P, delta=torch.tensor(1.0, requires_grad=True)),
     "delta requires a gradient, but there is none with respect to a parameter: pass delta.detach()"),
    (ValueError, lambda: pl.binary_crossentropy(B, Q, pos_weight=-1.0), "pos_weight is -1.0, but must be 0 or above"),
    (ValueError, lambda: pl.binary_crossentropy(B, Q, pos_weight=[1.0, -2.0, 1.0]), "pos_weight[1] is -2.0, but must be 0 or above"),
    (ValueError, lambda: pl.binary_crossentropy(B, Q, pos_weight=[1.0, 2.0]),
     "pos_weight has 2 entries, but must have one for each of the 3 classes on axis -1 of y_pred"),
    (ValueError, lambda: pl.binary_crossentropy(B, Q, epsilon=0.5), "epsilon is 0.5, but must be at least 0 and below 0.5"),
    (ValueError, lambda: pl.mean_absolute_percentage_error(T, P, epsilon=0.0), "epsilon is 0.0, but must be above 0"),
    (TypeError, lambda: pl.binary_crossentropy(B, Q, from_logits="yes"), "from_logits is 'yes', but must be True or False"),
    (TypeError, lambda: pl.softmax_loss(Y, Z, validate=1), "validate is 1, but must be True or False"),
    (TypeError, lambda: pl.softmax_loss(Y, Z, return_prob=None), "return_prob is None, but must be True or False"),
    (ValueError, lambda: pl.hinge(B, P, labels="0/1"), "labels is '0/1', but must be one of 'auto', '01', 'pm1'"),
    (ValueError, lambda: pl.hinge(B, P, labels=[0, 1]), "labels is [0, 1], but must be one of 'auto', '01', 'pm1'"),
    (TypeError, lambda: pl.softmax_loss(Y, Z, ignore_label="background"),
     "ignore_label is 'background', but must be an integer or several"),
    (TypeError, lambda: pl.softmax_loss(Y, Z, ignore_label=(0, 1.5)), "ignore_label is 1.5, but must be an integer or several"),
    (TypeError, lambda: pl.sparse_categorical_crossentropy(Y, Z, ignore_class=True),
     "ignore_class is True, but must be an integer or several"),
    (ValueError, lambda: pl.mean_squared_error(T, P, reduction="average"),
     "reduction is 'average', but must be one of 'none', 'sum', 'mean', 'sum_over_batch_size'"),
    (ValueError, lambda: pl.mean_squared_error(T, P, reduction=["sum"]),
     "reduction is ['sum'], but must be one of 'none', 'sum', 'mean', 'sum_over_batch_size'"),
    (ValueError, lambda: pl.softmax_loss(Y, Z, reduction="mean"), "reduction is 'mean', but must be one of 'normalize', 'none', 'sum'"),
    (ValueError, lambda: pl.softmax_loss(Y, Z, normalization="batch"),
     "normalization is 'batch', but must be one of 'full', 'valid', 'batch_size', 'none'"),
    (ValueError, lambda: pl.softmax_loss(Y, Z, normalization=4),
     "normalization is 4, but must be one of 'full', 'valid', 'batch_size', 'none'"),
    (ValueError, lambda: pl.softmax_loss(Y, Z, normalization=1.0),
     "normalization is 1.0, but must be one of 'full', 'valid', 'batch_size', 'none'"),
    (TypeError, lambda: pl.softmax_loss(Y, Z, normalize="valid"), "normalize is 'valid', but must be True, False or None"),
    (ValueError, lambda: pl.softmax_loss(Y, Z, denominator=0), "denominator is 0, but the loss is divided by it"),
    (ValueError, lambda: pl.softmax_loss(Y, Z, denominator=math.nan), "denominator is nan, but must be finite"),
    (ValueError, lambda: pl.softmax_loss(Y, Z, denominator=np.ones(3)), "denominator has shape (3,), but must be a number or a 0-d array"),
    (TypeError, lambda: pl.mean_squared_error(T, P, axis=1.0), "axis is 1.0, but must be an integer"),
    (TypeError, lambda: pl.mean_squared_error(T, P, axis=None), "axis is None, but must be an integer"),
    (ValueError, lambda: pl.mean_squared_error(T, P, axis=2), "axis is 2, but y_pred has 2 axes: its shape is (4, 3)"),
    (ValueError, lambda: pl.softmax_loss(0, np.zeros(3)), "axis is 1, but logits have 1 axis: its shape is (3,)"),
    (ValueError, lambda: pl.cosine_similarity(1.0, 2.0), "axis is -1, but y_pred has 0 axes: its shape is ()"),
    (ValueError, lambda: pl.mean_squared_error(np.zeros((4, 0)), np.zeros((4, 0))),
     "y_pred has shape (4, 0): axis -1 is empty, and a loss over nothing is undefined"),
    (ValueError, lambda: pl.mean_squared_error(np.zeros((4, 1)), np.zeros(4)),
     "y_true has shape (4, 1), but y_pred has shape (4,): they must be equal, and nothing is broadcast"),
    (ValueError, lambda: pl.softmax_loss(np.zeros(3, int), Z),
     "y_true has shape (3,), but labels for logits of shape (4, 3) with classes on axis 1 have shape (4,) (a length-1 axis at 1 or"
     " at the end is accepted; soft targets are floats)"),
    (ValueError, lambda: pl.softmax_loss(np.eye(3, dtype=int)[Y], Z),
     "y_true has shape (4, 3), but labels for logits of shape (4, 3) with classes on axis 1 have shape (4,) (a length-1 axis at 1"
     " or at the end is accepted; soft targets are floats)"),
    (ValueError, lambda: pl.sparse_categorical_crossentropy(np.eye(3)[Y], Z),
     "y_true has shape (4, 3), but labels for y_pred of shape (4, 3) with classes on axis 1 have shape (4,) (a length-1 axis at 1"
     " or at the end is accepted)"),
    (ValueError, lambda: pl.softmax_loss(np.eye(3)[Y], Z, ignore_label=0),
     "ignore_label is 0, but y_true holds soft targets, which no label names"),
    (ValueError, lambda: pl.softmax_loss(np.array([0, -1, 1, 0]), Z),
     "y_true[1] is -1, but logits have 3 classes on axis 1 and ignore_label is None"),
    (ValueError, lambda: pl.softmax_loss(np.array([[40], [1], [2], [0]]), Z, ignore_label=255),
     "y_true[0, 0] is 40, but logits have 3 classes on axis 1 and ignore_label is 255"),
    (ValueError, lambda: pl.softmax_loss(SPATIAL, np.zeros((4, 21, 20)), ignore_label=255),
     "y_true[3, 17] is 40, but logits have 21 classes on axis 1 and ignore_label is 255"),
    (ValueError, lambda: pl.sparse_categorical_crossentropy([0, 5, 1, 0], Z, ignore_class=(-1, 255)),
     "y_true[1] is 5, but y_pred has 3 classes on axis -1 and ignore_class is (-1, 255)"),
    (ValueError, lambda: pl.poly1_crossentropy([1], np.zeros((1, 1))), "y_true[0] is 1, but y_pred has 1 class on axis -1"),
    (TypeError, lambda: pl.softmax_loss([0, 0.25, 1, 0], Z), "y_true[1] is 0.25, but labels must be whole numbers"),
    (TypeError, lambda: pl.softmax_loss([0, np.nan, 1, 0], Z), "y_true[1] is nan, but labels must be whole numbers"),
    (ValueError, lambda: pl.softmax_loss(np.full(4, 2**64 - 1, np.uint64), Z),
     "y_true[0] is 18446744073709551615, but logits have 3 classes on axis 1 and ignore_label is None"),
    (ValueError, lambda: pl.mean_squared_error(T, P, sample_weight=np.ones((4, 3))),
     "sample_weight has shape (4, 3), but the losses have shape (4,): it must have their shape or that of their leading axes (axes"
     " of length 1 are accepted), and may not enlarge them"),
    (ValueError, lambda: pl.softmax_loss(Y, Z, class_weight=[1.0, 2.0]),
     "class_weight has shape (2,), but must have one entry for each of the 3 classes on axis 1 of logits"),
    (ValueError, lambda: pl.categorical_focal_crossentropy(Z, Z, alpha=[0.5, 0.5]),
     "alpha has 2 entries, but must have one for each of the 3 classes on axis -1 of y_pred"),
    (TypeError, lambda: pl.mean_squared_error(T, P.astype(complex)),
     "y_pred has dtype complex128, but must hold real numbers: float16, bfloat16, float32, float64, int8, int16, int32, int64,"
     " uint8, uint16, uint32, uint64, bool"),
    (TypeError, lambda: pl.mean_squared_error(T.astype(complex), P),
     "y_true has dtype complex128, but must hold real numbers: float16, bfloat16, float32, float64, int8, int16, int32, int64,"
     " uint8, uint16, uint32, uint64, bool"),
    (TypeError, lambda: pl.mean_squared_error(T, P, sample_weight=np.ones(4, complex)),
     "sample_weight has dtype complex128, but must hold real numbers: float16, bfloat16, float32, float64, int8, int16, int32,"
     " int64, uint8, uint16, uint32, uint64, bool"),
    (TypeError, lambda: pl.mean_squared_error(["a", "b"], [1.0, 2.0]),
     "y_true has dtype <U1, but must hold real numbers: float16, bfloat16, float32, float64, int8, int16, int32, int64, uint8,"
     " uint16, uint32, uint64, bool"),
    (TypeError, lambda: pl.mean_squared_error(np.array([1, None]), [1.0, 2.0]),
     "y_true has dtype object, but must hold real numbers: float16, bfloat16, float32, float64, int8, int16, int32, int64, uint8,"
     " uint16, uint32, uint64, bool"),
    (ValueError, lambda: pl.mean_squared_error([[1.0], [1.0, 2.0]], [1.0, 2.0]),
     "y_true cannot be read as an array: setting an array element with a sequence. The requested array has an inhomogeneous shape"
     " after 1 dimensions. The detected shape was (2,) + inhomogeneous part."),
    (TypeError, lambda: pl.mean_squared_error({"a": 1}, [1.0]), "y_true is a dict, but must be an array, a list or a number"),
    (TypeError, lambda: pl.mean_squared_error(None, [1.0]), "y_true is None, but must be an array, a list or a number"),
    (TypeError, lambda: pl.softmax_loss(Y, Z, class_weight={0: 1.0}), "class_weight is a dict, but must be an array, a list or a number"),
    (TypeError, lambda: pl.mean_squared_error(np.ma.masked_array([1.0, 2.0], [True, False]), [1.0, 2.0]),
     "y_true is a masked array, whose mask would be lost: pass sample_weight instead"),
    (TypeError, lambda: pl.softmax_loss(Y, torch.zeros(4, 3)),
     "logits is a torch array, but y_true is a numpy array: all arrays of one call must be of one array library"),
    (TypeError, lambda: pl.softmax_loss(torch.asarray(Y), torch.zeros(4, 3), class_weight=[1.0, 2.0, 3.0]),
     "y_true is a torch array, but class_weight is a list: all arrays of one call must be of one array library"),
    (TypeError, lambda: pl.mean_squared_error(torch.zeros(3), jnp.zeros(3)),
     "y_true is a torch array, but y_pred is a jax array: all arrays of one call must be of one array library"),
    (TypeError, lambda: pl.mean_squared_error(jnp.zeros(3), [0.0, 0.0, 0.0]),
     "y_true is a jax array, but y_pred is a list: all arrays of one call must be of one array library"),
    (ValueError, lambda: pl.mean_squared_error(torch.zeros(3, device="meta"), torch.zeros(3)),
     "y_true is on device meta, but y_pred is on device cpu: all must be on one device"),
    (ValueError, lambda: pl.mean_squared_error(strict.zeros(3), strict.zeros(3, device=strict.Device("device1"))),
     "y_true is on device array_api_strict.Device('CPU_DEVICE'), but y_pred is on device array_api_strict.Device('device1'): all"
     " must be on one device"),
    (TypeError, lambda: pl.grad("mse")(T, P, out=[0.0] * 4), "out is a list, but y_pred is a numpy array"),
    (TypeError, lambda: pl.mean_squared_error(TENSOR, TENSOR.to_sparse()),
     "y_pred has layout torch.sparse_coo, but must be dense: torch.strided"),
    (ValueError, lambda: pl.grad("mse")(TENSOR, TENSOR, out=torch.zeros(3, requires_grad=True)),
     "out requires grad, and autograd would not see what is written to it: pass its detach()"),
    (TypeError, lambda: pl.grad("mse")(T, P, out=torch.zeros(4, 3)), "out is a torch array, but y_pred is a numpy array"),
    (ValueError, lambda: pl.grad("mse")(T, P, out=np.zeros((3, 4))),
     "out has shape (3, 4) and dtype float64, but the gradient has shape (4, 3) and dtype float64"),
    (ValueError, lambda: pl.grad("mse")(T, P, out=np.zeros((4, 3), np.float32)),
     "out has shape (4, 3) and dtype float32, but the gradient has shape (4, 3) and dtype float64"),
    (ValueError, lambda: pl.grad("mse")(T, P, out=np.broadcast_to(0.0, (4, 3))), "out is read-only"),
    (ValueError, lambda: pl.grad("mse")(T, P, out=np.lib.stride_tricks.as_strided(np.zeros(6), (4, 3), (8, 8))),
     "out has entries that share memory, so that it cannot hold a gradient"),
    (ValueError, lambda: pl.grad("mse")(T, P, out=P),
     "out shares memory with an input or with the other output, and inputs are never written to"),
    (ValueError, lambda: pl.grad("mse")(BIG[:4], T, out=BIG[1:]),
     "out shares memory with an input or with the other output, and inputs are never written to"),
    (ValueError, lambda: pl.grad("mse")(T, SWAPPED, out=SWAPPED),
     "out shares memory with an input or with the other output, and inputs are never written to"),
    (ValueError, lambda: pl.grad_and_hess("mse")(T, UNALIGNED, out=(OUT, UNALIGNED)),
     "out[1] shares memory with an input or with the other output, and inputs are never written to"),
    (ValueError, lambda: pl.grad("mse")(UNALIGNED, P, out=UNALIGNED),
     "out shares memory with an input or with the other output, and inputs are never written to"),
    (TypeError, lambda: pl.grad_and_hess("mse")(T, P, out=np.zeros((4, 3))),
     "out is a numpy array, but must be a pair of arrays: for the gradient and the Hessian diagonal"),
    (TypeError, lambda: pl.grad_and_hess("mse")(T, P, out=(OUT, OUT, OUT)),
     "out is a tuple, but must be a pair of arrays: for the gradient and the Hessian diagonal"),
    (ValueError, lambda: pl.grad_and_hess("mse")(T, P, out=(OUT, OUT)),
     "out[1] shares memory with an input or with the other output, and inputs are never written to"),
    (TypeError, lambda: pl.grad("mse")(jnp.zeros(3), jnp.zeros(3), out=jnp.zeros(3)),
     "out is given, but arrays of jax cannot be written to"),
    (ValueError, lambda: pl.mean_squared_error(UNKNOWN, UNKNOWN),
     "y_pred has shape (nan,): all lengths must be known, as compute_chunk_sizes() of a Dask array makes them"),
    (ValueError, lambda: pl.mean_squared_error(da.zeros((4, 1), chunks=1), UNKNOWN[:, None]),
     "y_true has shape (4, 1), but y_pred has shape (1, 1): they must be equal, and nothing is broadcast"),
    (ValueError, lambda: pl.mean_squared_error(UNKNOWN[:, None], da.zeros(4, chunks=1)[da.ones(4, chunks=1) > 0][:, None]),
     "y_true has 2 blocks along axis 0, but y_pred has 4: where lengths are unknown, both must be cut alike"),
    (ValueError, lambda: pl.softmax_loss(UNKNOWN.astype(int) + 3, UNKNOWN[:, None]).compute(),
     "y_true[0] is 3, but logits have 1 class on axis 1 and ignore_label is None"),
    (TypeError, lambda: pl.grad("mse")(da.zeros(3), da.zeros(3), out=da.zeros(3)), "out is given, but arrays of dask cannot be written to"),
    (ValueError, lambda: pl.grad("mse")(torch.zeros(3), torch.ones(3), out=torch.zeros(3, device="meta")),
     "y_pred is on device cpu, but out is on device meta: all must be on one device"),
    (ValueError, lambda: pl.grad("mse")(torch.zeros(3), TENSOR, out=TENSOR),
     "out shares memory with an input or with the other output, and inputs are never written to"),
    (TypeError, lambda: pl.grad(pl.softmax_loss)(Y, Z, return_prob=True),
     "return_prob=True goes with the loss and with value_and_grad, not with grad"),
    (TypeError, lambda: pl.value_and_grad(math.sin),
     "value_and_grad takes a loss of this library or its name, not <built-in function sin>"),
    (TypeError, lambda: pl.grad("log_loss"), "grad takes a loss, and log_loss is a metric, with one route and no gradient"),
    (TypeError, lambda: pl.grad("mse")(T, P, delta=2.0),
     "grad(mean_squared_error)() got an unexpected keyword argument 'delta'; it has y_true, y_pred, axis, sample_weight, reduction,"
     " validate, out"),
    (TypeError, lambda: pl.softmax_loss(Y, Z, ignore_index=255),
     "softmax_loss() got an unexpected keyword argument 'ignore_index'; did you mean ignore_label?"),
    (TypeError, lambda: pl.softmax_loss(Y, Z, weight=[1.0, 2.0]),
     "softmax_loss() got an unexpected keyword argument 'weight'; did you mean class_weight or sample_weight?"),
    (TypeError, lambda: pl.huber(T, P, out=OUT),
     "huber() got an unexpected keyword argument 'out'; it receives a gradient: value_and_grad(loss)(…, out=…), or the same with grad or"
     " grad_and_hess"),
    (TypeError, lambda: pl.huber(T, P, DELTA=2.0), "huber() got an unexpected keyword argument 'DELTA'; did you mean delta?"),
    (TypeError, lambda: pl.softmax_loss(Y, Z, from_logits=True),
     "softmax_loss() got an unexpected keyword argument 'from_logits'; its predictions are always logits; of probabilities there are"
     " categorical_crossentropy and sparse_categorical_crossentropy"),
    (TypeError, lambda: pl.explain(pl.softmax_loss, Y, Z, ignore_index=255),
     "softmax_loss() got an unexpected keyword argument 'ignore_index'; did you mean ignore_label?"),
    (TypeError, lambda: pl.value_and_grad(pl.huber)(T, P, outs=P),
     "value_and_grad(huber)() got an unexpected keyword argument 'outs'; did you mean out?"),
    (TypeError, lambda: pl.log_loss([0, 1], [0.5, 0.5], eps=1e-15),
     "log_loss() got an unexpected keyword argument 'eps'; did you mean epsilon?"),
    (TypeError, lambda: pl.linear_softmax_loss(Y, Z, np.eye(3), ignore_index=255),
     "linear_softmax_loss() got an unexpected keyword argument 'ignore_index'; did you mean ignore_label?"),
    (TypeError, lambda: pl.grad("mse")(T), "grad(mean_squared_error): missing a required argument: 'y_pred'"),
    (ValueError, lambda: pl.get("hubert"), "there is no loss named 'hubert'; did you mean 'huber'?"),
    (ValueError, lambda: pl.get("xyz"),
     f"there is no loss named 'xyz'; the names are {', '.join(pl.names())}"),
    (TypeError, lambda: pl.get(3), "name is 3, but must be a string or a callable"),
    (ValueError, lambda: pl.get("l1"), "there is no loss named 'l1'; did you mean 'mean_absolute_error'?"),
    (TypeError, lambda: pl.get("huber", dleta=1.0),
     "huber has no parameter 'dleta'; did you mean delta?"),
    (ValueError, lambda: boosting.xgboost("bce"),
     "binary_crossentropy takes probabilities, and a booster's scores are raw: pass from_logits=True"),
    (TypeError, lambda: boosting.lightgbm("mse", reduction="sum"), "reduction is given, but the booster weighs and sums by itself"),
    (TypeError, lambda: boosting.xgboost("softmax_loss", normalization="valid"),
     "normalization is given, but the booster weighs and sums by itself"),
    (ValueError, lambda: boosting.xgboost("mse").start([]),
     "y_true has 0 targets whose weights add up to 0, but boosting starts from what they say"),
    (ValueError, lambda: pl.softmax_loss(Z, Y),
     "y_true has shape (4, 3) and logits have shape (4,) and dtype int64: targets come first"),
    (ValueError, lambda: pl.mean_squared_error(T[0], P[0], sample_weight=T[0]),
     "sample_weight has shape (3,), but the losses have shape (): it must have their shape or that of their leading axes (axes of"
     " length 1 are accepted), and may not enlarge them; for one loss per entry pass y_true[:, None] and y_pred[:, None]"),
    (ValueError, lambda: pl.log_loss([0, 1], pandas.DataFrame({"id": [1, 2], "0": [.5, .5], "1": [.5, .5]})),
     "y_proba has the column 'id', which is no class: 0, 1; leave it out, or pass all classes as labels"),
    (TypeError, lambda: jax.jit(lambda v: pl.softmax_loss(jnp.zeros(2, int), jnp.ones((2, 3)), ignore_label=v))(1),
     "ignore_label is traced by JAX, but must be known when the program is: make it a static argument"),
    (TypeError, lambda: jax.jit(lambda v: pl.tweedie_deviance(jnp.ones((2, 3)), jnp.ones((2, 3)), power=v))(1.5),
     "power is traced by JAX, but must be known when the program is: it decides which formula applies"),
    (TypeError, lambda: pl.get(len, axis=0), "parameters are bound to a loss of this library or its name, not to <built-in function len>"),
    (TypeError, lambda: pl.set_num_threads(2.0), "n is 2.0, but must be an integer"),
    (ValueError, lambda: pl.set_num_threads(0), "n is 0, but must be from 1 to 1024"),
    (RuntimeError, lambda: public(type("Again", (Elementwise,), {}))(pl.huber), "two losses are named huber"),
    (RuntimeError, aliased, "two losses answer to 'mse'"),
    (ValueError, lambda: with_environment("POLYLOSS_ROUTE", "fast", lambda: pl.mean_squared_error(T, P)),
     "POLYLOSS_ROUTE is 'fast', but must be 'formula' or unset"),
    (ValueError, lambda: with_environment("POLYLOSS_NUM_THREADS", "many", _threads._default),
     "POLYLOSS_NUM_THREADS is 'many', but must be a whole number from 1 to 1024"),
    (ValueError, lambda: with_environment("POLYLOSS_NUM_THREADS", "0", _threads._default),
     "POLYLOSS_NUM_THREADS is '0', but must be a whole number from 1 to 1024"),
    (TypeError, lambda: pl.softmax_loss(torch.tensor([0.5], dtype=torch.bfloat16), torch.zeros(1, 3)),
     "y_true[0] is 0.5, but labels must be whole numbers"),
    (ValueError, lambda: pl.softmax_loss(da.from_array([0, 1, 2, 3], chunks=2), da.zeros((4, 3), chunks=2)).compute(),
     "y_true[3] is 3, but logits have 3 classes on axis 1 and ignore_label is None"),
    (TypeError, lambda: pl.grad_and_hess("mse")(T, P, out=3),
     "out is an int, but must be a pair of arrays: for the gradient and the Hessian diagonal"),
    (TypeError, lambda: pl.mean_squared_error([1.0, None], [1.0, 2.0]), "y_true has dtype object, but must hold real numbers"),
    (TypeError, lambda: pl.log_loss([0, 1], np.array(0.5)), "y_proba is a single number, but must have one row per sample"),
    (TypeError, lambda: pl.log_loss([0, 1], [0.5, 0.5], sample_weight=np.array(1.0)),
     "sample_weight is a single number, but must have one weight per sample"),
    (TypeError, lambda: pl.log_loss(np.array(1), [0.5]), "y_true is a single value, but must have one label per sample"),
    (TypeError, lambda: pl.log_loss([0, 1], [0.5, 0.5], sample_weight=["a", "b"]),
     "sample_weight has dtype <U1, but must hold real numbers"),
    (ValueError, lambda: pl.log_loss(np.array([["a"], "b"], dtype=object), [0.5, 0.5]),
     "y_true is nested, but strings must be one per sample"),
    (TypeError, lambda: pl.mean_squared_error(torch.zeros(2, 3), torch.nested.nested_tensor([torch.zeros(2, 3)], layout=torch.jagged)),
     "y_pred is a nested tensor, but must have one shape: pad it with torch.nested.to_padded_tensor, and give what was added weight 0"),
    (TypeError, lambda: pl.log_loss([0, 1], np.ma.masked_array([0.5, 0.5], [True, False])),
     "y_proba is a masked array, whose mask would be lost: pass sample_weight instead"),
    (ValueError, lambda: pl.log_loss([0, 1, 1], [0.5, 0.5]), "y_true has 3 labels, but y_proba has 2 rows"),
    (ValueError, lambda: pl.log_loss([0, 1], [0.5, 1.5]), "y_proba[1] is 1.5, but probabilities must be between 0 and 1"),
    (ValueError, lambda: pl.log_loss([0, 1], [0.5, math.nan]), "y_proba[1] is nan, but probabilities must be between 0 and 1"),
    (ValueError, lambda: pl.log_loss([0, 1], [[0.0, 0.0], [0.5, 0.5]], rescale=True),
     "y_proba[0] sums to 0, and cannot be rescaled to sum to 1"),
    (ValueError, lambda: pl.log_loss([0, 1], [0.5, 0.5], sample_weight=[0.0, 0.0]),
     "sample_weight is 0 everywhere: the mean over nothing is undefined"),
    (ZeroDivisionError, lambda: pl.log_loss([0, 1], [0.5, 0.5], sample_weight=[1.0, -1.0]),
     "sample_weight sums to 0, so that there is no weighted mean: normalize=False gives the weighted sum"),
    (TypeError, lambda: pl.log_loss([0, 1], {"a": 1}), "y_proba is a dict, but must be an array, a list or a column"),
    (TypeError, lambda: pl.log_loss([0, 1], 0.5), "y_proba is a float, but must be an array, a list or a column"),
    (ValueError, lambda: pl.log_loss([0, 1], np.zeros((2, 2, 2))), "y_proba has shape (2, 2, 2), but must be (n,), (n, 1) or (n, classes)"),
    (ValueError, lambda: pl.log_loss([0, 1], np.zeros((2, 0))), "y_proba has shape (2, 0): the mean over nothing is undefined"),
    (ValueError, lambda: pl.log_loss([], np.zeros(0)), "y_proba has shape (0,): the mean over nothing is undefined"),
    (TypeError, lambda: pl.log_loss([0, 1], torch.zeros(2, device="meta")),
     "y_proba has no values yet (it is being traced, or on a meta device), but log_loss returns a Python float"),
    (ValueError, lambda: pl.log_loss([0, 1], np.zeros(2, complex)), "y_proba has dtype complex128, but must hold real numbers"),
    (TypeError, lambda: pl.log_loss([0, 1], [0.5, 0.5], sample_weight={"a": 1}),
     "sample_weight is a dict, but must be an array, a list or a column"),
    (TypeError, lambda: pl.log_loss([0, 1], [0.5, 0.5], sample_weight=1.0),
     "sample_weight is a float, but must be an array, a list or a column"),
    (ValueError, lambda: pl.log_loss([0, 1], [0.5, 0.5], sample_weight=[1.0]),
     "sample_weight has shape (1,), but must have one weight for each of the 2 rows of y_proba"),
    (ValueError, lambda: pl.log_loss([0, 1], [0.5, 0.5], sample_weight=np.ones(2, complex)),
     "sample_weight has dtype complex128, but must hold real numbers"),
    (ValueError, lambda: pl.log_loss(np.eye(2), np.full((2, 2), 0.5), labels=[0, 1]),
     "labels is given, but y_true is an indicator matrix, whose columns are the classes"),
    (ValueError, lambda: pl.log_loss([1, 1], [0.5, 0.5]), "y_true has one class only (1): pass all classes as labels"),
    (ValueError, lambda: pl.log_loss([1, 1], [0.5, 0.5], labels=[1]), "labels has one class only (1): pass all classes as labels"),
    (ValueError, lambda: pl.log_loss(["a", "b"], np.full((2, 3), 1 / 3)),
     "y_true has 2 classes ('a', 'b'), but y_proba has 3; pass all classes as labels"),
    (ValueError, lambda: pl.log_loss([0, 1], np.full((2, 2), 0.5), labels=[0, 1, 2]), "labels has 3 classes (0, 1, 2), but y_proba has 2"),
    (ValueError, lambda: pl.log_loss([0, 1], [0.5, 0.5], labels=[]), "labels is empty, but must hold the classes"),
    (ValueError, lambda: pl.log_loss([0, 1], [0.5, 0.5], labels=[0, 1, 1]), "labels has 3 entries, but 2 different ones: 0, 1"),
    (TypeError, lambda: pl.log_loss({"a": 1}, [0.5]), "y_true is a dict, but must be an array, a list or a column"),
    (ValueError, lambda: pl.log_loss([[0], [0, 1]], [0.5, 0.5]),
     "y_true cannot be read as an array: setting an array element with a sequence. The requested array has an inhomogeneous shape"
     " after 1 dimensions. The detected shape was (2,) + inhomogeneous part."),
    (TypeError, lambda: pl.log_loss(1, [0.5]), "y_true is an int, but must be an array, a list or a column"),
    (ValueError, lambda: pl.log_loss(np.zeros((2, 2, 2), int), [0.5, 0.5]),
     "y_true has shape (2, 2, 2), but labels have one axis, or two as an indicator matrix"),
    (TypeError, lambda: pl.log_loss([b"a", b"b"], [0.5, 0.5]), "y_true has dtype |S1, but labels cannot be bytes: decode them to strings"),
    (ValueError, lambda: pl.log_loss(np.array([0.5, 1.0]), [0.5, 0.5]), "y_true[0] is 0.5, but labels must be whole numbers or strings"),
    (ValueError, lambda: pl.log_loss(np.array([["a", "b"], ["b", "a"]]), [0.5, 0.5]),
     "y_true has shape (2, 2) and dtype <U1, but labels are whole numbers, or one string per sample"),
    (ValueError, lambda: pl.log_loss([["a"], "b"], [0.5, 0.5]),
     "y_true cannot be read as an array: setting an array element with a sequence. The requested array has an inhomogeneous shape"
     " after 1 dimensions. The detected shape was (2,) + inhomogeneous part."),
    (ValueError, lambda: pl.log_loss(["a", 1], [0.5, 0.5]), "y_true[1] is 1, but labels must be strings or whole numbers, and not both"),
    (ValueError, lambda: pl.log_loss([0, 1], [0.5, 0.5], labels=[[0, 1]]), "labels has shape (1, 2), but must have one axis"),
    (ValueError, lambda: pl.log_loss([0, 3], np.full((2, 2), 0.5), labels=[0, 1]), "y_true[1] is 3, but labels has no such class: 0, 1"),
    (ValueError, lambda: pl.Accumulator("huberr"), "there is no loss named 'huberr'; did you mean 'huber'?"),
    (TypeError, lambda: pl.Accumulator("huber", detla=1), "huber has no parameter 'detla'; did you mean delta?"),
    (ValueError, lambda: pl.Accumulator("softmax_loss", denominator=3),
     "denominator is given, but an accumulator divides by what it has counted"),
    (ValueError, lambda: pl.Accumulator("mse", reduction="none"),
     "reduction is 'none', but must be one of 'mean', 'sum', 'sum_over_batch_size'"),
    (ValueError, lambda: pl.Accumulator("softmax_loss", reduction="sum_over_batch_size"),
     "reduction is 'sum_over_batch_size', but must be one of 'normalize', 'none', 'sum'"),
    (TypeError, lambda: pl.Accumulator({"a": "mse"}, labels=[0, 1]), "labels is given, but none of the losses is log_loss"),
    (TypeError, lambda: pl.Accumulator({"a": "huber"}, delta=1.0),
     "delta is given beside a dict of losses: write (loss, {'delta': …}) in it"),
    (TypeError, lambda: pl.Accumulator(("huber", {"delta": 1.0}), delta=1.0), "delta is given twice: beside the loss and with it"),
    (ValueError, lambda: pl.Accumulator({}), "loss is an empty dict, but must hold losses"),
    (ValueError, lambda: pl.Accumulator("mse").update([[0.0], [1.0]], [[1.0], [1.0]], [1.0, -1.0]),
     "sample_weight[1] is -1.0, but weights of an evaluation are finite and not negative"),
    (TypeError, lambda: pl.Accumulator({3: "mse"}), "loss has the key 3, but its keys must be strings"),
    (TypeError, lambda: pl.Accumulator(max),
     "loss is <built-in function max>, but must be a loss of this library, its name, or (loss, {parameters})"),
    (TypeError, lambda: pl.Accumulator(("huber", 1)), "loss is ('huber', 1), but must be a loss, its name, or (loss, {parameters})"),
    (TypeError, lambda: pl.Accumulator("mse", axis=1.5), "axis is 1.5, but must be an integer"),
    (TypeError, lambda: pl.Accumulator("dice", axis=(1, 2.0)), "axis is (1, 2.0), but must hold integers, one or several"),
    (TypeError, lambda: pl.Accumulator("dice"),
     "axis is None, but must name the axes of one set, (1, 2) say: with None, all samples of a batch would be one"),
    (TypeError, lambda: pl.Accumulator("mse", axis=True), "axis is True, but must be an integer"),
    (ValueError, lambda: pl.Accumulator("softmax_loss", class_weight=np.ones((2, 2))),
     "class_weight has shape (2, 2), but must have one entry for each class"),
    (ValueError, lambda: pl.Accumulator("log_loss"),
     "labels is missing: a batch may lack a class, so that log_loss must be told all of them"),
    (TypeError, lambda: pl.Accumulator("mse").update([1.0], None), "y_pred is None, but must be an array, a list or a number"),
    (TypeError, lambda: pl.Accumulator("mse").update(torch.zeros(3), torch.zeros(3, device="meta")),
     "y_pred has no values yet (it is being traced, or on a meta device), but an accumulator adds up numbers"),
    (TypeError, lambda: pl.Accumulator("mse").update([[1.0]], [[1.0]], ["a"]), "sample_weight has dtype <U1, but must hold real numbers"),
    (ValueError, lambda: pl.Accumulator("hinge").update([[0.0], [-1.0]], [[1.0], [1.0]]),
     "y_true holds 0 as well as numbers other than 0 and 1, and labels='auto' of hinge is decided by all targets at once: pass labels='01'"
     " or labels='pm1'"),
    (ValueError, lambda: pl.Accumulator("mse").update(da.zeros((4, 2)), da.zeros((5, 2))),
     "y_true has shape (4, 2), but the predictions have shape (5, 2): their first axes must be equal"),
    (ValueError, lambda: pl.Accumulator("mse").update(da.zeros((4, 2), chunks=1), UNKNOWN[:, None]),
     "y_true has 4 blocks of rows, but the predictions have 2: where lengths are unknown, both must be cut alike"),
    (TypeError, lambda: pl.Accumulator("mse").merge(3), "other is 3, but must be an Accumulator"),
    (ValueError, lambda: pl.Accumulator("mse").merge(pl.Accumulator("mae")),
     "other is of mean_absolute_error(), but this accumulator is of mean_squared_error()"),
    (ValueError, lambda: pl.Accumulator.from_bytes(b"{}"),
     "data begins with b'{}', but an accumulator's bytes with b'polyloss accumulator 1\\n'"),
    (ValueError, lambda: pl.Accumulator.from_bytes(pl.Accumulator("mse").to_bytes()[:-1]),
     "data has 200 bytes that do not fit their checksum: it is cut, appended to or changed"),
    (RuntimeError, lambda: pl.Accumulator("mse").all_reduce(),
     "torch.distributed has no process group: call torch.distributed.init_process_group first"),
    (ValueError, among_others, "the processes have accumulators of different losses; this one is of mean_squared_error()"),
    (ValueError, lambda: pl.evaluate(["mse", "MSE"], []), "losses has mean_squared_error twice: a dict gives them names"),
    (ValueError, lambda: pl.evaluate([], []), "losses is [], but must hold a loss or several"),
    (TypeError, lambda: pl.evaluate("mse", [], client="tcp://x"), "client is 'tcp://x', but must be a distributed.Client"),
    (TypeError, lambda: pl.evaluate("mse", 3),
     "batches is 3, but must be an iterable of (y_true, y_pred) or (y_true, y_pred, sample_weight)"),
    (TypeError, lambda: pl.evaluate("mse", [(1, 2, 3, 4)]),
     "a batch is a tuple of 4, but must be (y_true, y_pred) or (y_true, y_pred, sample_weight)\nin batch 0"),
    (ValueError, lambda: pl.evaluate("mse", type("Endless", (), {"num_batches": None, "__getitem__": max})()),
     "batches has no end: its num_batches is None"),
    (TypeError, lambda: pl.linear_softmax_loss(Y, None, np.eye(3)), "features is None, but must be an array, a list or a number"),
    (TypeError, lambda: pl.linear_softmax_loss(Y, np.zeros((4, 3), int), np.eye(3)),
     "features have dtype int64, but must be floating: float16, bfloat16, float32, float64"),
    (ValueError, lambda: pl.linear_softmax_loss(Y, Z, np.zeros(3)),
     "weight has shape (3,), but must have two axes: a row of features for each class"),
    (ValueError, lambda: pl.linear_softmax_loss(Y, Z, np.zeros((3, 2))),
     "features have shape (4, 3), but must have 2 entries on the last axis, as weight of shape (3, 2)"),
    (ValueError, lambda: pl.linear_softmax_loss(Y, Z, np.eye(3), np.zeros(2)),
     "bias has shape (2,), but must have one entry for each of the 3 rows of weight"),
    (ValueError, lambda: pl.linear_softmax_loss(np.eye(3)[Y], Z, np.eye(3)),
     "y_true has shape (4, 3) and dtype float64, but must hold labels, in the shape (4,) of features without their last axis"),
    (TypeError, lambda: pl.linear_softmax_loss(Y, Z, np.eye(3), chunk=2.0), "chunk is 2.0, but must be an integer or None"),
    (ValueError, lambda: pl.linear_softmax_loss(Y, Z, np.eye(3), chunk=0),
     "chunk is 0, but must be 1 or more: so many rows of features are taken at once"),
    (TypeError, lambda: pl.value_and_grad(pl.linear_softmax_loss)(Y, Z),
     "value_and_grad(linear_softmax_loss): missing a required argument: 'weight'"),
    (TypeError, lambda: pl.grad_and_hess(pl.linear_softmax_loss),
     "grad_and_hess takes a loss of one array of predictions, and linear_softmax_loss has two"),
    (ImportError, lambda: new_enough(SimpleNamespace(__name__="torch", __version__="2.7.1+cpu")),
     "polyloss needs torch 2.8 or later, but 2.7.1+cpu is installed"),
]  # fmt: skip


@pytest.mark.parametrize(("error", "call", "message"), CASES, ids=[f"{k}-{m[:60]}" for k, (_, _, m) in enumerate(CASES)])
def test_message(error, call, message):
    with pytest.raises(error, match=f"^{re.escape(message)}$") as caught:
        call()
    assert caught.type is error


def test_every_raise_statement_has_a_case():
    """The lines that the cases raise at are all there are; a new error needs a case."""
    package = Path(pl.__file__).parent
    reached = set()
    for _, call, _ in CASES:
        try:
            call()
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            reached |= {(Path(f.filename), f.lineno) for f in frames}
    never = {("_call/routes.py", "raise AssertionError('the formula takes every plan')")}
    adapters = (f"_adapters/{name}.py" for name in ("torch_autograd", "torch_operators", "linear_torch", "torch_groups", "dask_cluster"))
    others = {"torch.py", "keras.py", "__main__.py", *adapters}
    silent = []
    for file in sorted(package.rglob("*.py")):
        name = file.relative_to(package).as_posix()
        if name in others or name.startswith(("_command/", "_demo/", "_kernels/")):  # have theirs in tests of their own
            continue
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Raise) and not any((file, line) in reached for line in range(node.lineno, node.end_lineno + 1)):
                silent.append((name, ast.unparse(node)))
    assert set(silent) == never


def test_every_name_from_elsewhere_is_of_use():
    """Some public function has what it stands for and not the name itself, and another spelling alone would not be found."""
    has = [list(inspect.signature(getattr(pl, name)).parameters) for name in [*pl.names(), "linear_softmax_loss"]]
    for key, names in ELSEWHERE.items():
        for name in names:
            assert any(name in known and name in meant(key, known) for known in has if key not in known), (key, name)
        assert not all(alike(key, known) for known in has if key not in known and {*names} & {*known}), key


def test_an_argument_of_other_functions_is_said_to_be_theirs():
    """To all that lack it, and those that are named have it; `linear_softmax_loss` has gradients that take no `out`, `log_loss` none."""
    parameters = {name: inspect.signature(getattr(pl, name)).parameters for name in [*pl.names(), "linear_softmax_loss"]}
    told = {key: {name for name, known in parameters.items() if meant(key, known) == said} for key, (_, said) in OF_OTHERS.items()}
    assert told == {"from_logits": {"poly1_crossentropy", "softmax_loss", "linear_softmax_loss"}, "out": {*LOSSES}}
    words = {key: re.findall(r"\w+", said) for key, (_, said) in OF_OTHERS.items()}
    named = [name for name in words["from_logits"] if name in parameters]
    assert len(named) == 2
    assert all("from_logits" in parameters[name] for name in named)
    for derive in (pl.value_and_grad, pl.grad, pl.grad_and_hess):
        assert derive.__name__ in words["out"]
        assert all("out" in inspect.signature(derive(name)).parameters for name in LOSSES)


@pytest.mark.parametrize("name", [*pl.names(), "linear_softmax_loss"])
def test_a_misspelt_argument_is_answered_with_the_right_one(name):
    function = getattr(pl, name)
    parameters = inspect.signature(function).parameters.values()
    assert not any(p.kind is p.VAR_KEYWORD for p in parameters)  # as `help` and the documentation show it
    keys = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    positional = [T] * sum(p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty for p in parameters)
    askers = {name: function}
    if name != "log_loss":
        askers |= {f"value_and_grad({name})": pl.value_and_grad(function)}
    for key in keys:
        wrong = key + "s"
        for asker, asked in askers.items():
            with pytest.raises(TypeError, match=re.escape(f"{asker}() got an unexpected keyword argument {wrong!r}; did you mean {key}")):
                asked(*positional, **{wrong: 1})
        if name in pl.names():
            with pytest.raises(TypeError, match=re.escape(f"{name} has no parameter {wrong!r}; did you mean {key}")):
                pl.get(name, **{wrong: 1})


# ---------------------------------------------------------------------------------------------------------- what is no error


def test_what_counts_as_a_numpy_array():
    """Lists, tuples, numbers, NumPy scalars, columns of pandas and polars, also with missing values as NaN."""
    right = pl.huber(np.array([1.0, 2.0, 4.0]), np.array([1.5, 2.0, 2.0]), sample_weight=np.array(2.0))
    for t in ([1, 2, 4], (1.0, 2.0, 4.0), range(1, 3), pandas.Series([1, 2, 4]), polars.Series([1, 2, 4])):
        if isinstance(t, range):
            assert pl.huber(t, [1.5, 2.0]) == pl.huber([1, 2], [1.5, 2.0])
        else:
            for p in ([1.5, 2.0, 2.0], pandas.Series([1.5, 2.0, 2.0]), polars.Series([1.5, 2.0, 2.0])):
                assert pl.huber(t, p, sample_weight=2) == right
    missing = pl.huber(pandas.Series([1.0, None, 4.0]), np.array([1.5, 2.0, 2.0]), axis=0)
    assert np.isnan(missing)
    assert pl.mean_squared_error(pandas.Series([[1.0], [2.0]]).map(lambda x: x[0]), np.float32([1, 2])).dtype == np.float32


def test_only_jax_takes_numpy_arrays_beside_its_own():
    right = pl.softmax_loss(Y, Z, class_weight=np.array([1.0, 2.0, 3.0]))
    for kwargs in ({"class_weight": np.array([1.0, 2.0, 3.0])}, {"class_weight": jnp.array([1.0, 2.0, 3.0])}):
        for y, z in ((Y, jnp.asarray(Z)), (jnp.asarray(Y), Z), (pandas.Series(Y), jnp.asarray(Z))):
            assert float(pl.softmax_loss(y, z, **kwargs)) == pytest.approx(float(right), rel=1e-15)
    for other in (torch.asarray, da.from_array, strict.asarray):
        with pytest.raises(TypeError, match="all arrays of one call must be of one array library"):
            pl.softmax_loss(Y, other(Z))


def test_parameters_may_be_scalars_of_numpy():
    assert pl.huber(T, P, delta=np.float32(0.5)).tolist() == pl.huber(T, P, delta=0.5).tolist()
    assert pl.huber(T, P, delta=np.array(0.5)).tolist() == pl.huber(T, P, delta=0.5).tolist()
    right = pl.softmax_loss(Y, Z, ignore_label=2, denominator=4)
    for ignored in (np.int8(2), np.array([2]), [2], {2}, (2, 99), range(2, 3), np.uint64(2)):
        assert pl.softmax_loss(Y, Z, ignore_label=ignored, denominator=np.float64(4)) == right
        assert pl.softmax_loss(Y, Z, ignore_label=ignored, denominator=np.array(4)) == right
    assert pl.binary_crossentropy(B, Z, from_logits=np.True_).tolist() == pl.binary_crossentropy(B, Z, from_logits=True).tolist()


def test_a_caught_error_leaves_nothing_behind():
    """The same call again raises the same error, and a right call after it is right."""
    masked = np.ma.masked_array([1.0, 2.0], [True, False])
    lengths = []
    for _ in range(3):
        with pytest.raises(TypeError) as caught:
            pl.mean_squared_error(masked, [1.0, 2.0])
        lengths.append(len(caught.traceback))
    assert len(set(lengths)) == 1
    assert pl.mean_squared_error([1.0, 2.0], [1.0, 4.0]) == 2.0
