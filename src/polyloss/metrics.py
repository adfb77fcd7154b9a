"""Metrics: scikit-learn's log loss, and Kaggle's score."""

import numpy as np


def log_loss(y_true, y_proba, *, normalize=True, sample_weight=None, labels=None, epsilon=None, rescale=False):
    """Log loss of labels and probabilities, in nats."""
    proba = np.asarray(y_proba)
    proba = proba if proba.dtype.kind == "f" else proba.astype(np.float64)
    proba = proba[:, None] if proba.ndim == 1 else proba
    proba = np.concatenate([1 - proba, proba], axis=1) if proba.shape[1] == 1 else proba
    classes, codes = np.unique(np.asarray(y_true), return_inverse=True)
    if labels is not None:
        classes = np.unique(np.asarray(labels))
        codes = np.searchsorted(classes, np.asarray(y_true))
    if len(classes) != proba.shape[1]:
        raise ValueError(f"y_true has {len(classes)} classes, but y_proba has {proba.shape[1]} columns: pass labels")
    eps = np.finfo(proba.dtype).eps if epsilon is None else epsilon
    picked = proba[np.arange(len(codes)), codes]
    if rescale:
        picked = picked / proba.sum(axis=1)
    losses = -np.log(np.clip(picked, eps, 1 - eps))
    if not normalize:
        return float(np.sum(losses if sample_weight is None else losses * np.asarray(sample_weight)))
    return float(np.average(losses, weights=sample_weight))
