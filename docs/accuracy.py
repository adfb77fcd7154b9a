"""The page on accuracy: the error of every loss and of its gradient, measured while the page is made.

Inputs are those of the benchmarks. The truth is the formula in float64 on the same numbers; its own error, a few units of float64, does not
show at these sizes, and is held by the tests against 40 digits.
"""

import sys
from pathlib import Path

import ml_dtypes
import numpy as np

import polyloss as pl
from polyloss._demo import formula_only

sys.path.insert(0, str(Path(__file__).parents[1] / "asv_bench"))
from benchmarks import cases, peers

SHAPE = (2000, 100)
DTYPES = {"float32": (np.float32, 2.0**-23), "bfloat16": (ml_dtypes.bfloat16, 2.0**-7)}  # and the distance from 1 to the next number
PAGE = """\
# Accuracy

The largest error of {samples} samples of {size} elements, by the kernels, measured while this page was made. The truth is the formula in
float64 on the same numbers. Errors of values are relative, in units of 2⁻²⁴ = 6.0e-8, half of float32's spacing at 1: rounding the truth
to float32 costs up to 1. Errors of gradients are in units in the last place (ulp) of the correct number, in the gradient's dtype: rounding
costs up to 0.5. In the column after, the unit is that of the largest number of the sample's gradient: where terms cancel, as in the
cosine's gradient, a number close to 0 has digits that no float32 computation can have.

{table}

*torch* is its own loss, computed for one sample at a time. Values of bfloat16 predictions are float32, since that is what
they are computed in. In float64 the tests hold values to 8 units in the last place against 40 digits (`test_domain_edges` in
`tests/test_laws.py`).
"""


def write(path):
    """Measure, and write the page."""
    header = ["loss", "value", "torch", "gradient", "by its largest", "bfloat16: value", "gradient"]
    rows = [" | ".join(["", *header, ""]).strip(), "|---" + "|---:" * (len(header) - 1) + "|"]
    rivals = peers.torch_losses()
    for call in cases.calls():
        (value, own, largest), (low_value, low_own, _) = (errors(call, dtype) for dtype in DTYPES)
        theirs = f"{rival_error(call, rivals[call.name]):.2g}" if call.name in rivals else ""
        rows.append(f"| {call.name} | {value:.2g} | {theirs} | {own:.2g} | {largest:.2g} | {low_value:.2g} | {low_own:.2g} |")
    path.write_text(PAGE.format(samples=SHAPE[0], size=SHAPE[1], table="\n".join(rows)), "utf-8")


def inputs(call, dtype):
    """Targets and predictions of this dtype, and the losses and gradients that they should have."""
    t, p = call.arrays(SHAPE, "float32")
    p = p.astype(DTYPES[dtype][0])
    with formula_only():
        return t, p, *evaluated(call, t, p.astype(np.float64))


def evaluated(call, t, p):
    """Losses and gradients of the samples."""
    return pl.value_and_grad(call.loss)(t, p, **call.options | {"reduction": "none"})


def relative(got, right):
    """The largest relative error, in units of 2⁻²⁴."""
    return np.max(np.abs(got - right) / np.abs(right)) * 2**24


def errors(call, dtype):
    """The worst value; the worst number of a gradient in its own units, and in those of the largest of its sample."""
    t, p, right, right_slope = inputs(call, dtype)
    got, slope = evaluated(call, t, p)
    if got.dtype != np.float32 or slope.dtype != p.dtype:
        raise AssertionError(f"{call.name} of {dtype} gives {got.dtype} and {slope.dtype}")
    wrong, least = np.abs(slope.astype(np.float64) - right_slope), np.finfo(np.float32).tiny
    unit = DTYPES[dtype][1] * 2.0 ** np.floor(np.log2(np.maximum(np.abs(right_slope), least)))
    return relative(got, right), np.max(wrong / unit), np.max(wrong / unit.max(axis=-1, keepdims=True))


def rival_error(call, loss):
    """The worst value of torch's loss."""
    import torch

    t, p, right, _ = inputs(call, "float32")
    got = [float(loss(torch.from_numpy(p[k : k + 1]), torch.from_numpy(t[k : k + 1]))) for k in range(len(p))]
    return relative(np.asarray(got), right)
