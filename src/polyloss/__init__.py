"""Loss functions for every array library: NumPy, PyTorch, JAX, CuPy, Dask, and what follows the array API standard.

A loss is a function of targets and predictions; its result is of their library and on their device:

>>> import polyloss as pl
>>> print(pl.huber([0.0, 1.0], [0.5, 3.0]))
0.8125

- ``pl.names()`` lists the losses, ``pl.get(name)`` finds one under any of its names, ``help(pl.huber)`` describes one.
- ``pl.value_and_grad(loss)``, ``pl.grad(loss)`` and ``pl.grad_and_hess(loss)`` are functions with the loss's own signature that give
  derivatives with respect to the predictions. PyTorch and JAX can differentiate a loss, too.
- ``pl.Accumulator`` and ``pl.evaluate`` sum a loss up over batches, without rounding.
- ``pl.explain(loss, ...)`` says which kernel a call takes, and why no other.
- ``pl.set_num_threads(n)`` bounds the threads of the CPU kernels.

Submodules to import by name: `polyloss.torch` (drop-in ``nn.Module`` classes), `polyloss.keras` (loss classes), `polyloss.boosting`
(objectives for XGBoost and LightGBM). Losses are in nats.
"""

from polyloss._core.threads import get_num_threads, set_num_threads
from polyloss.classification import (
    binary_crossentropy,
    binary_focal_crossentropy,
    brier,
    categorical_crossentropy,
    categorical_focal_crossentropy,
    categorical_hinge,
    exponential,
    generalized_crossentropy,
    hinge,
    logistic,
    multiclass_hinge,
    poly1_crossentropy,
    sparse_categorical_crossentropy,
    squared_hinge,
)
from polyloss.deviance import gamma_deviance, poisson_deviance, tweedie_deviance
from polyloss.evaluation import Accumulator, evaluate
from polyloss.gradients import grad, grad_and_hess, value_and_grad
from polyloss.inspection import explain
from polyloss.linear_softmax import linear_softmax_loss
from polyloss.metrics import log_loss
from polyloss.registry import get, names
from polyloss.regression import (
    gaussian_nll,
    huber,
    log_cosh,
    mean_absolute_error,
    mean_absolute_percentage_error,
    mean_squared_error,
    mean_squared_logarithmic_error,
    poisson,
    pseudo_huber,
    quantile_loss,
    smooth_l1,
)
from polyloss.sets import dice, jaccard, tversky
from polyloss.similarity import cosine_similarity, kl_divergence
from polyloss.softmax import Normalization, softmax_loss

__version__ = "0.1.0"

__all__ = [
    "Accumulator",
    "Normalization",
    "binary_crossentropy",
    "binary_focal_crossentropy",
    "brier",
    "categorical_crossentropy",
    "categorical_focal_crossentropy",
    "categorical_hinge",
    "cosine_similarity",
    "dice",
    "evaluate",
    "explain",
    "exponential",
    "gamma_deviance",
    "gaussian_nll",
    "generalized_crossentropy",
    "get",
    "get_num_threads",
    "grad",
    "grad_and_hess",
    "hinge",
    "huber",
    "jaccard",
    "kl_divergence",
    "linear_softmax_loss",
    "log_cosh",
    "log_loss",
    "logistic",
    "mean_absolute_error",
    "mean_absolute_percentage_error",
    "mean_squared_error",
    "mean_squared_logarithmic_error",
    "multiclass_hinge",
    "names",
    "poisson",
    "poisson_deviance",
    "poly1_crossentropy",
    "pseudo_huber",
    "quantile_loss",
    "set_num_threads",
    "smooth_l1",
    "softmax_loss",
    "sparse_categorical_crossentropy",
    "squared_hinge",
    "tversky",
    "tweedie_deviance",
    "value_and_grad",
]
