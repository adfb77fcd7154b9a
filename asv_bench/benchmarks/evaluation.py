"""Exact means over batches: what a position costs, and what a partition of a Dask array or a batch on a cluster costs."""

import math

import numpy as np

import polyloss as pl
from polyloss._evaluation import exact_sums as _exact

from . import dask_cluster, timing

PARTITIONS = 10, 50


class Sums:
    """One sum of a million losses without rounding beside two that round: NumPy's, and Python's, which rounds once."""

    params = (["float32", "float64"], ["exact kernel", "np.sum", "math.fsum"])
    param_names = ("dtype", "way")
    unit = "ns an entry"

    def setup(self, dtype, way):
        """Draw the losses."""
        losses = np.random.default_rng(0).gamma(1, 1, 1 << 20).astype(dtype)
        self.call = {
            "exact kernel": lambda: _exact.tally(losses, None, None, None),
            "np.sum": lambda: losses.sum(dtype=np.float64),
            "math.fsum": lambda: math.fsum(losses.tolist()),
        }[way]

    def track_sum(self, dtype, way):
        """The sum; the kernel's adds up the squares beside it, for the standard error."""
        return 1e9 * timing.alternate({way: self.call}, seconds=0.3)[way] / (1 << 20)


class Update:
    """A batch of 65536×10 logits: what the exact mean adds to the loss itself."""

    params = (["float32", "float64"], ["unweighted", "weighted"])
    param_names = ("dtype", "weights")
    unit = "times the loss"

    def setup(self, dtype, weights):
        """Make the batch."""
        rng = np.random.default_rng(0)
        labels, logits = rng.integers(0, 10, 65536), rng.standard_normal((65536, 10)).astype(dtype)
        weight = rng.random(65536).astype(dtype) if weights == "weighted" else None
        mean = pl.Accumulator("softmax_loss")
        self.calls = {
            "loss": lambda: pl.softmax_loss(labels, logits, reduction="none", sample_weight=weight),
            "update": lambda: mean.update(labels, logits, weight),
        }

    def track_update(self, dtype, weights):
        """Its time over that of the loss of each position."""
        best = timing.alternate(self.calls, seconds=0.5)
        return best["update"] / best["loss"]


class Partitions:
    """Milliseconds a partition of 2000×10 float64 on a cluster of two processes, for one that holds the blocks already.

    The sum of the logits is what Dask itself takes.
    """

    params = ([10, 100], ["p.sum()", "softmax_loss", "Accumulator", "evaluate"])
    param_names = ("partitions", "way")
    unit = "ms a partition"
    timeout = 300

    def setup(self, partitions, way):
        """Start the cluster and lay the blocks down."""
        try:
            self.call = dask_cluster.contenders(partitions)[way]
        except ImportError as error:
            raise NotImplementedError("Dask or its scheduler is not installed") from error

    def teardown(self, partitions, way):
        """Stop the cluster, whose last contender this is."""
        del self.call

    def track_partition(self, partitions, way):
        """Best of five, after one that starts what the workers lack."""
        self.call()
        return 1e3 * min(timing.once(self.call) for _ in range(5)) / partitions
