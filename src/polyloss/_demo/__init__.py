"""The demo: every loss on a classifier's predictions of handwritten digits, on every array library at hand, in one table.

Values and gradients of all libraries are compared with the formulas in float64 on NumPy. What differs by more than `TOLERANCE` is named
below the table, and the exit status is 1.
"""

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module, resources
from importlib.util import find_spec
from typing import Any

import numpy as np

import polyloss as pl
from polyloss._core.block import LOSSES

TOLERANCE = 2e-6  # of a value from float32 predictions, relative to float64's; of a gradient, relative to its largest element
SECONDS = 0.02  # spent on each timing; the best run counts
# Losses of decision values: logits are, probabilities are not.
DECISIONS = ("hinge", "squared_hinge", "categorical_hinge", "exponential", "logistic", "multiclass_hinge")
ROW = "{:33}{:17}{:>11}{:>12}  {:20}{:>10}{:>10}  {}"


@dataclass(frozen=True)
class Library:
    """How the demo reaches an array library."""

    name: str
    asarray: Callable  # NumPy array -> array of the library
    fetch: Callable = np.asarray  # array of the library -> NumPy array; waits for what is still running
    reference: Callable = lambda name, y_true, y_pred: None  # -> what to compare the time with: its name, and a function that runs it


def main(names=(), libraries=None, say=print):
    """Print the table of these losses, by their canonical names (of all, if none is named); 0 if all libraries agree, else 1."""
    libraries = libraries or installed()
    labels, logits = digits()
    right = np.mean(logits.argmax(axis=1) == labels)
    say(f"What a logistic regression says of {len(labels)} handwritten digits that it had not seen, {right:.1%} of it right, in float32.")
    say("Times are of the mean loss and its gradient, the best run; the reference is another way to the same.\n")
    say(ROW.format("loss", "arrays", "mean loss", "|gradient|", "route", "time", "reference", ""))
    wrong = []
    for name in names or pl.names():
        y_true, y_pred = arguments(name, labels, logits)
        exact = y_pred.astype(np.float64)
        if name not in LOSSES:  # a metric insists on rows that sum to 1, here to float64's precision
            exact /= exact.sum(axis=1, keepdims=True)
        with formula_only():
            truth = evaluation(name)(y_true, exact)
        for library in libraries:
            found = evaluation(name, library.fetch)(library.asarray(y_true), library.asarray(y_pred))
            wrong += [f"WRONG: {name} on {library.name} arrays: {what}" for what in differences(found, truth)]
            say(row(name, library, y_true, y_pred, found))
    say("")
    say("\n".join(wrong) if wrong else f"All agree with the formulas in float64, to {TOLERANCE:g}.")
    return 1 if wrong else 0


def row(name, library, y_true, y_pred, found):
    """One line of the table."""
    arrays = library.asarray(y_true), library.asarray(y_pred)
    route = pl.explain(name, *arrays).route if name in LOSSES else "-"
    gradient = f"{np.linalg.norm(found[1]):.6g}" if len(found) > 1 else "-"
    evaluate = evaluation(name, library.fetch)
    spent = microseconds(lambda: evaluate(*arrays))
    peer, run = library.reference(name, *arrays) or ("", None)
    return ROW.format(name, library.name, f"{found[0]:.6g}", gradient, route, spent, microseconds(run) if run else "", peer).rstrip()


def digits():
    """Labels (899,) and float32 logits (899, 10) of scikit-learn's digits; make_digits.py makes the file and says where they are from."""
    with resources.files(__package__).joinpath("digits.npz").open("rb") as file, np.load(file) as arrays:
        return arrays["labels"], arrays["logits"]


def arguments(name, labels, logits):
    """Targets and predictions as the loss takes them: labels or one-hot, logits or probabilities."""
    block = LOSSES.get(name)  # None: a metric, of labels and probabilities
    if block and block.length is not None:  # two numbers for each target
        return labels.astype(np.float32), logits[:, :2]
    y_true = np.eye(logits.shape[1], dtype=np.float32)[labels] if block and block.targets == "dense" else labels
    if name == "gamma_deviance":  # of targets above 0
        y_true = y_true + np.float32(0.5)
    if name in DECISIONS or (block and block.takes == "logits"):
        return y_true, logits
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return y_true, odds / odds.sum(axis=1, keepdims=True)


def evaluation(name, fetch=np.asarray):
    """Function of targets and predictions that gives the mean loss and its gradient as NumPy arrays; of a metric the value alone."""
    if name not in LOSSES:
        metric = pl.get(name)
        return lambda y_true, y_pred: (metric(y_true, y_pred),)
    loss = pl.value_and_grad(name)
    how = {} if "normalize" in LOSSES[name].reductions else {"reduction": "mean"}
    return lambda y_true, y_pred: tuple(fetch(x) for x in loss(y_true, y_pred, **how))


def differences(found, truth):
    """What is off by more than the tolerance, in words."""
    for what, x, exact in zip(("value", "gradient"), found, truth, strict=False):
        error, scale = np.max(np.abs(x - exact)), np.max(np.abs(exact))
        if not error <= TOLERANCE * scale:  # so that NaN is a difference
            yield f"{what} off by {error:.3g}, at a magnitude of {scale:.3g}"


def microseconds(run):
    """Time of the best of the runs that fit into `SECONDS`, two at least."""
    times: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(times) < 2 or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return f"{min(times) * 1e6:.0f} µs"


@contextlib.contextmanager
def formula_only():
    """Within it no kernel is used."""
    before = os.environ.get("POLYLOSS_ROUTE", "")
    os.environ["POLYLOSS_ROUTE"] = "formula"
    try:
        yield
    finally:
        os.environ["POLYLOSS_ROUTE"] = before


# ------------------------------------------------------------------------------------------------------------ array libraries


def installed():
    """The array libraries that can be imported here; CuPy only where there is a device."""
    found = [Library("NumPy", np.asarray, reference=numpy_reference)]
    if find_spec("torch"):
        import torch

        found.append(Library("torch", torch.asarray, reference=torch_reference))
        if torch.cuda.is_available():
            found.append(Library("torch, CUDA", lambda x: torch.asarray(x, device="cuda"), lambda x: x.numpy(force=True), torch_reference))
    if find_spec("jax"):
        found.append(Library("JAX", import_module("jax.numpy").asarray))
    if find_spec("dask") and find_spec("dask.array"):
        from_array = import_module("dask.array").from_array
        found.append(Library("Dask", lambda x: from_array(x, chunks=(300, *x.shape[1:]))))
    if find_spec("array_api_strict"):
        found.append(Library("array-api-strict", import_module("array_api_strict").asarray, np.from_dlpack))
    if find_spec("cupy") and import_module("cupy").cuda.is_available():
        cupy = import_module("cupy")
        found.append(Library("CuPy", cupy.asarray, cupy.asnumpy))
    return found


def numpy_reference(name, y_true, y_pred):
    """The formula on NumPy; scikit-learn for its metric."""
    if name in LOSSES:
        evaluate = formula_only()(evaluation(name))
        return "formula", lambda: evaluate(y_true, y_pred)
    if find_spec("sklearn"):
        metric = getattr(import_module("sklearn.metrics"), name)
        return "scikit-learn", lambda: metric(y_true, y_pred)
    return None


def torch_reference(name, y_true, y_pred):
    """Forward and backward of torch's own loss, where the two agree."""
    from torch.nn import functional as F

    peer: Any = {
        "binary_crossentropy": F.binary_cross_entropy,
        "huber": F.huber_loss,
        "mean_absolute_error": F.l1_loss,
        "mean_squared_error": F.mse_loss,
        "softmax_loss": F.cross_entropy,
    }.get(name)
    if peer is None:
        return None
    y_pred = y_pred.clone().requires_grad_()
    y_true = y_true if y_true.dtype.is_floating_point else y_true.long()

    def run():
        y_pred.grad = None
        peer(y_pred, y_true).backward()
        return y_pred.grad.cpu()

    return "torch", run
