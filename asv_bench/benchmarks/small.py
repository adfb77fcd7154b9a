"""Small arrays, where checks and dispatch count: what one call of each loss costs, and a training step by each module of torch."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

import polyloss as pl

from . import cases, peers

CALL = (32, 10)
STEPS = ((8, 4), CALL, (128, 64), (512, 100), (1024, 256), (4096, 4096))


def numpy_calls(call):
    """What a loss is asked for on NumPy arrays: a function without arguments for its value, one for value and gradient."""
    t, p = call.arrays(CALL, "float32")
    value, both = pl.get(call.loss), pl.value_and_grad(call.loss)
    return {"value": lambda: value(t, p, **call.options), "value and gradient": lambda: both(t, p, **call.options)}


def torch_calls(call):
    """The same of tensors, and a step of autograd."""
    import torch

    peers.same_threads(cases.SMALL)
    t, p = map(torch.from_numpy, call.arrays(CALL, "float32"))
    value, both, leaf = pl.get(call.loss), pl.value_and_grad(call.loss), p.clone().requires_grad_()
    return {
        "value": lambda: value(t, p, **call.options),
        "value and gradient": lambda: both(t, p, **call.options),
        "autograd": lambda: peers.torch_step(value(t, leaf, **call.options), leaf),
    }


# One option of the softmax loss each, spelled out.
OPTIONS = {
    "defaults": {},
    "ignore_label": {"ignore_label": 255},
    "normalization": {"normalization": "valid"},
    "label_smoothing": {"label_smoothing": 0.1},
    "class_weight": {"class_weight": np.linspace(0.5, 1.5, CALL[1])},
    "sample_weight": {"sample_weight": np.linspace(0.5, 1.5, CALL[0])},
    "reduction": {"reduction": "sum"},
    "z_loss": {"z_loss": 1e-4},
    "softcap": {"softcap": 30.0},
}


def softmax_options():
    """The softmax loss under each option: functions without arguments."""
    labels, logits = cases.SMALL.arrays()
    return {name: partial(pl.softmax_loss, labels, logits, **options) for name, options in OPTIONS.items()}


class Module(NamedTuple):
    """A module of torch and of ours, with a form of its arguments."""

    name: str
    arguments: Callable  # (generator, rows, columns) -> the inputs after the predictions
    options: Callable = lambda columns: {}
    form: str = ""
    predictions: Callable = lambda rng, n, c: rng.standard_normal((n, c), dtype=np.float32)

    @property
    def title(self):
        """As in tables: "CrossEntropyLoss, label_smoothing"."""
        return self.name + (self.form and f", {self.form}")

    def steps(self, shape):
        """A forward and backward pass: ours and torch's."""
        import torch

        import polyloss.torch

        peers.same_threads(cases.SMALL if shape in (CALL, STEPS[0]) else None)
        rng = np.random.default_rng(0)
        leaf = torch.from_numpy(self.predictions(rng, *shape)).requires_grad_()
        rest = [torch.from_numpy(x) for x in self.arguments(rng, *shape)]
        options = {key: torch.from_numpy(x) if isinstance(x, np.ndarray) else x for key, x in self.options(shape[1]).items()}
        made = {"polyloss": getattr(polyloss.torch, self.name)(**options), "torch": getattr(torch.nn, self.name)(**options)}
        return {name: partial(lambda module: peers.torch_step(module(leaf, *rest), leaf), module) for name, module in made.items()}


def _like(rng, n, c):
    return (rng.standard_normal((n, c), dtype=np.float32),)


def _zero_to_one(rng, n, c):
    return (rng.random((n, c), dtype=np.float32),)


def _probabilities(rng, n, c):
    return rng.uniform(0.01, 0.99, (n, c)).astype(np.float32)


def _signs(rng, n, c):
    return (rng.choice(np.array([-1, 1], np.float32), (n, c)),)


def _bits(rng, n, c):
    return (rng.integers(0, 2, (n, c)).astype(np.float32),)


def _labels(rng, n, c):
    return (rng.integers(0, c, n),)


def _some_ignored(rng, n, c):
    labels = rng.integers(0, c, n)
    labels[rng.random(n) < 0.3] = -100
    return (labels,)


def _distributions(rng, n, c):
    rows = rng.uniform(0.01, 1, (n, c)).astype(np.float32)
    return (rows / rows.sum(axis=1, keepdims=True),)


def _logarithms(rng, n, c):
    return np.log(_distributions(rng, n, c)[0])


def _values_and_variances(rng, n, c):
    return _like(rng, n, c) + _zero_to_one(rng, n, c)


MODULES = (
    Module("CrossEntropyLoss", _labels),
    Module("CrossEntropyLoss", _labels, lambda c: {"label_smoothing": 0.1}, "label_smoothing"),
    Module("CrossEntropyLoss", _labels, lambda c: {"weight": np.linspace(0.5, 1.5, c).astype(np.float32)}, "weight"),
    Module("CrossEntropyLoss", _some_ignored, form="ignore_index"),
    Module("CrossEntropyLoss", _distributions, form="soft targets"),
    Module("NLLLoss", _labels, predictions=_logarithms),
    Module("BCEWithLogitsLoss", _zero_to_one),
    Module("BCELoss", _zero_to_one, predictions=_probabilities),
    Module("MSELoss", _like),
    Module("L1Loss", _like),
    Module("HuberLoss", _like),
    Module("SmoothL1Loss", _like),
    Module("KLDivLoss", _distributions, lambda c: {"reduction": "batchmean"}, predictions=_logarithms),
    Module("SoftMarginLoss", _signs),
    Module("MultiLabelSoftMarginLoss", _bits),
    Module("MultiMarginLoss", _labels),
    Module("PoissonNLLLoss", _zero_to_one),
    Module("HingeEmbeddingLoss", _signs),
    Module("GaussianNLLLoss", _values_and_variances),
)
