"""What is measured: the shapes, each with the reason it is there, and inputs for every loss of the registry."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import polyloss as pl
from polyloss.registry import LOSSES  # public modules: names that a commit to compare with has, too
from polyloss.regression import Elementwise


class Softmax(NamedTuple):
    """One batch for the softmax losses, classes on axis 1."""

    shape: tuple
    why: str
    ignore: int | None = None

    @property
    def name(self):
        """As in tables: "4096×1000"."""
        return "×".join(map(str, self.shape)) + ("" if self.ignore is None else f", label {self.ignore} ignored")

    def arrays(self):
        """Labels (int64) and logits (float32)."""
        rng = np.random.default_rng(0)
        logits = rng.standard_normal(self.shape, dtype=np.float32)
        logits *= 3
        return rng.integers(0, self.shape[1], (self.shape[0], *self.shape[2:])), logits


SMALL = Softmax((32, 10), "a batch so small that the overhead of a call decides")
SOFTMAX = (
    Softmax((65536, 10), "rows shorter than a vector register: ten classes, as digits have"),
    Softmax((4096, 1000), "ImageNet's classes, 16 MB: arithmetic decides where it stays in the cache"),
    Softmax((1024, 32000), "a language model's vocabulary, 131 MB: memory decides"),
    Softmax((256, 128256), "a large vocabulary: few long rows, 131 MB"),
    Softmax((8, 21, 512, 512), "segmentation (Pascal VOC's classes): classes a megabyte apart, 176 MB", ignore=0),
    SMALL,
)


class Sets(NamedTuple):
    """One batch for the losses of sets, of the axes of one set."""

    shape: tuple
    axis: tuple
    why: str

    @property
    def name(self):
        """As in tables: "8×1×512×512, axes 1, 2, 3"."""
        return "×".join(map(str, self.shape)) + ", axes " + ", ".join(map(str, self.axis))

    def arrays(self):
        """Targets that are 0 or 1, and probabilities (float32)."""
        rng = np.random.default_rng(0)
        return rng.integers(0, 2, self.shape).astype(np.float32), rng.random(self.shape, dtype=np.float32)


SETS = (
    Sets((65536, 10), (1,), "sets shorter than a vector register"),
    Sets((8, 1, 512, 512), (1, 2, 3), "masks of images, 8 MB"),
    Sets((8, 1, 512, 512), (0, 1, 2, 3), "the same as one set, which threads share"),
    Sets((2, 21, 256, 256), (2, 3), "Pascal VOC's classes, 11 MB: a set for each image and class"),
    Sets((2, 256, 256, 21), (1, 2), "the same with the classes last: sets lie beside each other"),
    Sets((2, 21, 256, 256), (0, 2, 3), "a set for each class of a batch: its axes have another between them"),
)


class Other(NamedTuple):
    """One batch for the softmax losses in another dtype, or with soft targets; classes on axis 1."""

    shape: tuple
    dtype: str
    soft: bool

    @property
    def name(self):
        """As in tables: "4096×1000, float64, soft targets"."""
        return "×".join(map(str, self.shape)) + f", {self.dtype}, {'soft targets' if self.soft else 'labels'}"

    def arrays(self):
        """Labels (int64) or soft targets, and logits."""
        rng = np.random.default_rng(0)
        logits = (3 * rng.standard_normal(self.shape)).astype(self.dtype)
        if not self.soft:
            return rng.integers(0, self.shape[1], (self.shape[0], *self.shape[2:])), logits
        targets = rng.random(self.shape)
        return (targets / targets.sum(axis=1, keepdims=True)).astype(self.dtype), logits


OTHERS = tuple(
    Other(shape, dtype, soft)
    for shape in ((65536, 10), (4096, 1000), (2, 21, 256, 256))
    for dtype, soft in (("float64", False), ("float64", True), ("float32", True))
)
PAIRS = (4096, 4096)  # 16.8 M float32 pairs, 134 MB: out of the caches of most machines


class Call(NamedTuple):
    """One way to call a loss."""

    loss: str
    from_logits: bool = False

    @property
    def name(self):
        """As in tables: "binary_crossentropy from logits"."""
        return self.loss + " from logits" * self.from_logits

    @property
    def block(self):
        """The block of the registry whose formulas apply."""
        return LOSSES[self.loss].logits if self.from_logits else LOSSES[self.loss]

    @property
    def options(self):
        """Arguments beside the arrays: a scalar result, and the form of the predictions."""
        reduction = "normalize" if "normalize" in LOSSES[self.loss].reductions else "mean"
        return {"reduction": reduction, "axis": -1} | ({"from_logits": True} if self.from_logits else {})

    def arrays(self, shape, dtype):
        """Targets and predictions that every domain allows, classes on the last axis.

        Predictions from logits are normal numbers, all others lie in (0, 1). Targets are labels, one-hot rows or bits where the loss is one
        of classification, else numbers in (0, 1).
        """
        rng = np.random.default_rng(0)
        p = rng.standard_normal(shape, dtype=np.float32) * 2 if self.from_logits else rng.uniform(0.01, 0.99, shape)
        p = p.astype(dtype, copy=False)
        block = LOSSES[self.loss]
        if block.length is not None:  # two numbers for each target
            return rng.uniform(0.01, 0.99, shape[:-1]).astype(dtype), p[..., :2]
        if block.function.__module__ not in ("polyloss.classification", "polyloss.softmax"):
            return rng.uniform(0.01, 0.99, shape).astype(dtype), p
        if issubclass(block, Elementwise):
            return rng.integers(0, 2, shape, dtype=np.uint8).astype(dtype), p
        labels = rng.integers(0, shape[-1], shape[:-1])
        return (labels if block.targets != "dense" else np.eye(shape[-1], dtype=dtype)[labels]), p


def calls(kind=object):
    """Every loss of the registry, and each that has a form from logits in that form too; of one kind of block."""
    for name in pl.names():
        if name in LOSSES and issubclass(LOSSES[name], kind):
            yield Call(name)
            if LOSSES[name].logits is not None:
                yield Call(name, from_logits=True)


def binary_rows():
    """Labels and the probability of the second class, for the metric."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 2, 1_000_000), rng.uniform(0.01, 0.99, 1_000_000)


def class_rows():
    """Labels and a matrix of probabilities, for the metric."""
    rng = np.random.default_rng(0)
    proba = rng.uniform(0.01, 1, (20_000, 1000))
    proba /= proba.sum(axis=1, keepdims=True)
    return rng.permutation(np.arange(20_000) % 1000), proba  # every class occurs, as scikit-learn asks


class Metric(NamedTuple):
    """One set of rows for `log_loss`."""

    name: str
    why: str
    arrays: Callable


METRIC = (
    Metric("1000000 binary rows", "a binary classifier's scores, float64", binary_rows),
    Metric("20000×1000", "many classes, float64, 160 MB: memory decides", class_rows),
)
