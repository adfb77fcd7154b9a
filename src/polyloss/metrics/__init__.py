"""Metrics: one number for a set of labels and predictions, computed by NumPy's rules whatever library the arrays are of; no gradient."""

from polyloss.metrics._log_loss import log_loss

__all__ = ["log_loss"]
