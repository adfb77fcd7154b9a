"""The metric beside scikit-learn's."""

import polyloss as pl

from . import cases, peers, timing

CASES = {case.name: case for case in cases.METRIC}


class LogLoss:
    """Ours and scikit-learn's on the same rows: a million scores of two classes, and as much as memory brings of a thousand classes."""

    params = (list(CASES), ["polyloss", "scikit-learn"])
    param_names = ("rows", "library")

    def setup(self, rows, library):
        """Make the rows."""
        self.calls = contenders(rows)
        self.value = self.calls[library]

    def time_value(self, rows, library):
        """The mean."""
        self.value()


class Ratio:
    """scikit-learn's time over ours, alternating in one process: a noisy machine slows both, and the ratio stays."""

    params = list(CASES)
    param_names = ("rows",)
    unit = "times as fast"
    timeout = 120

    def setup(self, rows):
        """Make the rows."""
        self.calls = contenders(rows)

    def track_value(self, rows):
        """The mean."""
        best = timing.alternate(self.calls, seconds=1)
        return best["scikit-learn"] / best["polyloss"]


def contenders(rows):
    """Name -> function without arguments; asv skips the suite where scikit-learn is not installed."""
    labels, proba = CASES[rows].arrays()
    try:
        return {"polyloss": lambda: pl.log_loss(labels, proba), **peers.log_losses(labels, proba)}
    except ImportError as error:
        raise NotImplementedError("scikit-learn is not installed") from error
