"""Custom objectives for XGBoost and LightGBM, whose trees equal those of the built-in objectives where there is one.

A booster wants the gradient and the diagonal of the Hessian with respect to raw scores. The built-ins do more than differentiate: they
halve the squared error, scale Hessians, put a floor under them. `RULES` says what each library does; a loss that the library lacks gets a
Hessian that is positive everywhere, stated in `OWN_RULE` and at `_never_flat`. Nothing here imports either library.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from polyloss._core.arguments import keywords, refuse_unknown_parameters
from polyloss._core.bound_loss import BoundLoss
from polyloss.gradients import block_of, grad, grad_and_hess

__all__ = ["Objective", "lightgbm", "xgboost"]

MAX_DELTA_STEP = 0.7  # of Poisson regression in both libraries: the Hessian is multiplied by exp(0.7), so that steps stay shorter
LOGISTIC_FLOOR = 1e-16  # XGBoost's, under the Hessians of logistic and softmax objectives
STEP = 10.0  # where a Hessian of ours vanishes or turns negative, no Newton step of a raw score is longer


class Scores(NamedTuple):
    """What a rule for the Hessian may look at, each in the shape of the raw scores."""

    gradient: np.ndarray
    hessian: np.ndarray
    weight: np.ndarray | float
    parameters: dict[str, Any]


def _times(factor: float) -> Callable[[Scores], np.ndarray]:
    return lambda s: s.hessian * factor


def _floored(low: float) -> Callable[[Scores], np.ndarray]:
    return lambda s: np.maximum(s.hessian, low)


def _weights(s: Scores) -> np.ndarray:
    """1 times the weight: an upper bound of the curvature of losses that are linear far from the target."""
    return np.zeros_like(s.hessian) + s.weight


def _never_flat(s: Scores) -> np.ndarray:
    """The Hessian, but at least |gradient| / STEP and `LOGISTIC_FLOOR`."""
    return np.maximum(s.hessian, np.maximum(np.abs(s.gradient) / STEP, LOGISTIC_FLOOR))


# Family of a loss -> (factor of gradient and Hessian, Hessian) in each library. Read in XGBoost 3.2 (src/objective) and LightGBM 4.7
# (src/objective), and confirmed by equal trees.
RULES: dict[str, dict[str, tuple[float, Callable[[Scores], np.ndarray]]]] = {
    "xgboost": {
        "mean_squared_error": (0.5, _times(1.0)),
        "mean_squared_logarithmic_error": (0.5, _floored(1e-6)),
        "logistic": (1.0, _floored(LOGISTIC_FLOOR)),
        "softmax": (1.0, lambda s: np.maximum(2 * s.hessian, LOGISTIC_FLOOR)),
        "poisson": (1.0, _times(np.exp(MAX_DELTA_STEP))),
        "gamma_deviance": (0.5, _times(1.0)),
        "tweedie_deviance": (0.5, _times(1.0)),
        "pseudo_huber": (1.0, _times(1.0)),
        "mean_absolute_error": (1.0, _weights),
        "hinge": (1.0, lambda s: np.where(s.gradient == 0, np.finfo(np.float32).tiny, s.weight)),
    },
    "lightgbm": {
        "mean_squared_error": (0.5, _times(1.0)),
        "logistic": (1.0, _times(1.0)),
        "softmax": (1.0, lambda s: s.hessian * (s.hessian.shape[1] / max(s.hessian.shape[1] - 1, 1))),
        "poisson": (1.0, _times(np.exp(MAX_DELTA_STEP))),
        "gamma_deviance": (0.5, _times(1.0)),
        "tweedie_deviance": (0.5, _times(1.0)),
        "mean_absolute_error": (1.0, _weights),
        "huber": (1.0, _weights),
        "quantile_loss": (1.0, _weights),
    },
}

# Losses that the library lacks: the largest curvature where it is bounded and vanishes elsewhere.
OWN_RULE: dict[str, Callable[[Scores], np.ndarray]] = {
    "mean_absolute_error": _weights,
    "huber": _weights,
    "log_cosh": _weights,
    "quantile_loss": _weights,
    "hinge": _weights,
    "smooth_l1": lambda s: _weights(s) / max(s.parameters.get("beta", 1.0), 1e-6),
    "squared_hinge": lambda s: 2 * _weights(s),
    "mean_absolute_percentage_error": lambda s: np.maximum(np.abs(s.gradient), LOGISTIC_FLOOR),  # a step of 1, as of |p - t|
}

# Built-ins of XGBoost that start from one Newton step from this raw score (msle of polyloss is flat below 1e-7).
ONE_STEP = {"mean_squared_logarithmic_error": 1.1e-7, "pseudo_huber": 0.0}

LOG_LINK = ("poisson", "poisson_deviance", "gamma_deviance", "tweedie_deviance")  # raw scores are logarithms of the mean
SOFTMAX = ("softmax_loss", "sparse_categorical_crossentropy", "categorical_crossentropy")
DECIDED = ("sample_weight", "reduction", "normalization", "normalize", "return_prob", "denominator")  # not the caller's to give


class Objective:
    """What `xgboost` and `lightgbm` return: gradient and Hessian with respect to raw scores, for both calling conventions of the library.

    Called with ``(scores, data)``, as by ``xgboost.train`` and ``lightgbm.train``, it takes labels and weights of the data set; called with
    ``(y_true, scores, sample_weight=None)``, as by the scikit-learn interfaces, it takes those. It can be pickled.
    """

    def __init__(self, library: str, loss: str | Callable[..., Any], parameters: dict[str, Any]) -> None:
        block, bound = block_of(loss, library)
        parameters = {**bound, **parameters}
        name = block.name
        for key in DECIDED:
            if key in parameters:
                raise TypeError(f"{key} is given, but the booster weighs and sums by itself")
        refuse_unknown_parameters(name, parameters, [key for key in keywords(block.function) if key not in DECIDED])
        BoundLoss(block.function, parameters)  # which refuses values that are out of range
        if name in LOG_LINK:
            parameters = {"log_input": True, **parameters}
        elif "from_logits" in block.params and parameters.get("from_logits") is not True:
            raise ValueError(f"{name} takes probabilities, and a booster's scores are raw: pass from_logits=True")
        self.library, self.name, self.parameters = library, name, parameters
        # Of one raw score for each row, or of one for each class.
        self._columns = block.combine is None
        self._labels = block.targets in ("labels", "either")
        self._arguments = {**parameters, "reduction": "sum"} | ({"axis": 1} if "axis" not in parameters else {})
        self._derivatives = grad_and_hess(name)
        self._start = grad(name)
        self.__name__ = f"polyloss_{name}"

    def __repr__(self) -> str:
        words = "".join(f", {key}={value!r}" for key, value in self.parameters.items())
        return f"polyloss.boosting.{self.library}({self.name!r}{words})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Objective, (self.library, self.name, self.parameters)

    # LightGBM counts the parameters of a callable; XGBoost looks for one named sample_weight.
    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """Gradient and diagonal of the Hessian, in shape and dtype of the scores; the first two arguments may also be scores and data."""
        if hasattr(y_pred, "get_label"):
            scores, data = y_true, y_pred
            y_true, sample_weight = data.get_label(), data.get_weight()
        else:
            scores = y_pred
        scores = np.asarray(scores)
        weight = None if sample_weight is None or np.size(sample_weight) == 0 else np.asarray(sample_weight)
        z, t = self._canonical(np.asarray(y_true), scores)
        gradient, hessian = self._derivatives(t, z, sample_weight=weight, **self._arguments)
        spread = 1.0 if weight is None else weight.astype(gradient.dtype).reshape(-1, *(1,) * (gradient.ndim - 1))
        gradient, hessian = self._ruled(Scores(gradient, hessian, spread, self.parameters))
        return gradient.reshape(scores.shape), hessian.astype(gradient.dtype, copy=False).reshape(scores.shape)

    def _canonical(self, y_true: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores (n, k), and targets as the loss wants them."""
        z = scores if scores.ndim == 2 else scores[:, None]
        if self._labels:
            return z, y_true.reshape(-1)
        return z, y_true.reshape(z.shape) if y_true.size == z.size else y_true

    def _ruled(self, s: Scores) -> tuple[np.ndarray, np.ndarray]:
        """Gradient and Hessian as the library has them."""
        family = self._family()
        rules = RULES[self.library]
        if family not in rules:
            return s.gradient, OWN_RULE.get(self.name, _never_flat)(s)
        factor, rule = rules[family]
        gradient = s.gradient if factor == 1 else s.gradient * s.gradient.dtype.type(factor)
        hessian = s.hessian if factor == 1 else s.hessian * s.hessian.dtype.type(factor)
        return gradient, rule(s._replace(gradient=gradient, hessian=hessian))

    def _family(self) -> str:
        plain = not self.parameters.get("label_smoothing") and self.parameters.get("class_weight") is None
        if self.name in SOFTMAX and plain:
            return "softmax"
        if self.name in ("binary_crossentropy", "logistic"):
            return "logistic"
        return self.name

    def start(self, y_true: Any, sample_weight: Any = None, *, raw: bool = False) -> Any:
        """Where boosting starts: the constant prediction of least loss, as the built-in objective finds it from the labels.

        Parameters
        ----------
        y_true : array of shape (n,)
            Targets.
        sample_weight : array of shape (n,), optional
            Their weights.
        raw : bool, default False
            Whether to give the raw score. Otherwise the result is in the unit in which the built-in takes it: for XGBoost's ``base_score``
            a probability or a mean, for LightGBM's ``init_score`` a raw score.

        Returns
        -------
        float or ndarray of shape (k,)
            One number, or one for each class.

        Raises
        ------
        ValueError
            If there are no targets, or no weight.
        """
        y = np.asarray(y_true).reshape(-1)
        w = np.ones(y.size) if sample_weight is None else np.asarray(sample_weight, np.float64).reshape(-1)
        if y.size == 0 or not w.sum() > 0:
            raise ValueError(f"y_true has {y.size} targets whose weights add up to {w.sum():g}, but boosting starts from what they say")
        raw = raw or self.library == "lightgbm"
        if self._columns:
            return self._start_of_classes(y, w)
        mean = float(np.average(y.astype(np.float64), weights=w))
        if self.name in LOG_LINK:
            return float(np.log(mean)) if raw else mean
        if self._family() == "logistic" and not self.parameters.get("label_smoothing"):
            share = mean if y.min() >= 0 else (mean + 1) / 2
            return float(np.log(share / (1 - share))) if raw else share
        if self.name == "mean_squared_error" or (self.name == "huber" and self.library == "lightgbm"):
            return mean
        if self.name == "mean_absolute_error":
            return _quantile(y, w, 0.5)
        if self.name == "quantile_loss":
            return _quantile(y, w, float(self.parameters.get("quantile", 0.5)))
        if self.library == "xgboost" and self.name in ONE_STEP:
            gradient, hessian = self(y, np.full(y.size, ONE_STEP[self.name]), w)
            return float(-gradient.sum() / hessian.sum())
        if self.name == "hinge":
            return 0.0
        score = self._least(y, w)
        return 1 / (1 + float(np.exp(-score))) if self.name.startswith("binary") and not raw else score

    def _start_of_classes(self, y: np.ndarray, w: np.ndarray) -> np.ndarray:
        counts = np.bincount(y.astype(np.int64), weights=w)
        scores = np.log(np.maximum(counts / counts.sum(), 1e-15))
        return scores if self.library == "lightgbm" else scores - scores.mean()  # XGBoost centres them

    def _least(self, y: np.ndarray, w: np.ndarray) -> float:
        """The constant of least loss, where the gradient of the sum changes its sign: by bisection."""
        low, high = (-30.0, 30.0) if "from_logits" in self.parameters else (float(y.min()), float(y.max()))
        t = y[:, None].astype(np.float64)
        for _ in range(100):
            middle = 0.5 * (low + high)
            slope = self._start(t, np.full_like(t, middle), sample_weight=w, **self._arguments).sum()
            low, high = (middle, high) if slope < 0 else (low, middle)
        return 0.5 * (low + high)


def _quantile(y: np.ndarray, w: np.ndarray, q: float) -> float:
    """The smallest target up to which lies the share q of the weight."""
    order = np.argsort(y, kind="stable")
    reached = np.cumsum(w[order])
    return float(y[order][min(int(np.searchsorted(reached, q * reached[-1])), y.size - 1)])


def xgboost(loss: str | Callable[..., Any], /, **parameters: Any) -> Objective:
    """Objective for XGBoost: ``xgboost.train(…, obj=…)``, or ``objective=`` of its scikit-learn estimators.

    Parameters
    ----------
    loss : str or callable
        A loss of this library or its name. Raw scores go in: losses of probabilities want ``from_logits=True``; Poisson, gamma and Tweedie
        take the logarithm of the mean.
    **parameters
        Parameters of the loss.

    Returns
    -------
    Objective
        Called by XGBoost. Its method ``start(y_true)`` gives the ``base_score`` that the built-in objective would start from.

    Raises
    ------
    ValueError
        If the loss takes probabilities, or a parameter is out of range.
    TypeError
        If the loss has no such parameter, or the booster decides it: weights, reduction, denominator and probabilities.

    See Also
    --------
    lightgbm : An objective for LightGBM.

    Notes
    -----
    Trees equal those of ``reg:squarederror``, ``reg:squaredlogerror``, ``reg:pseudohubererror``, ``binary:logistic``, ``multi:softprob``,
    ``count:poisson``, ``reg:gamma`` and ``reg:tweedie``. Give the built-in's name as ``objective`` beside ``obj``, for its link and its
    metric; for Poisson give ``max_delta_step=0.7`` too. ``reg:absoluteerror`` moves its leaves to medians after each tree, which no custom
    objective can.

    Other losses: the Hessian of losses that are linear far from the target is 1 everywhere, times the weight (2 for the squared hinge); any
    other is at least a tenth of the gradient's size, so that no Newton step is longer than 10.
    """
    return Objective("xgboost", loss, parameters)


def lightgbm(loss: str | Callable[..., Any], /, **parameters: Any) -> Objective:
    """Objective for LightGBM: ``params["objective"]`` of ``lightgbm.train``, or ``objective=`` of its scikit-learn estimators.

    Parameters
    ----------
    loss : str or callable
        A loss of this library or its name. Raw scores go in: losses of probabilities want ``from_logits=True``; Poisson, gamma and Tweedie
        take the logarithm of the mean.
    **parameters
        Parameters of the loss.

    Returns
    -------
    Objective
        Called by LightGBM. Its method ``start(y_true)`` gives the ``init_score`` that the built-in objective would start from.

    Raises
    ------
    ValueError
        If the loss takes probabilities, or a parameter is out of range.
    TypeError
        If the loss has no such parameter, or the booster decides it: weights, reduction, denominator and probabilities.

    See Also
    --------
    xgboost : An objective for XGBoost.

    Notes
    -----
    Trees equal those of ``regression``, ``huber``, ``binary``, ``multiclass``, ``poisson``, ``gamma`` and ``tweedie``. A custom objective
    starts from 0 unless the data set has an ``init_score``, and training stops after one tree where the first gradient is constant: start
    from ``start(y_true)``. LightGBM renews the leaves of ``regression_l1`` and ``quantile`` for its built-ins alone.

    Other losses: the Hessian of losses that are linear far from the target is 1 everywhere, times the weight (2 for the squared hinge); any
    other is at least a tenth of the gradient's size, so that no Newton step is longer than 10.
    """
    return Objective("lightgbm", loss, parameters)
