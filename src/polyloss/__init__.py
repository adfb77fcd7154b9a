"""polyloss: loss functions for every array library.

The house, floor by floor (imports run downwards):

- `torch` (drop-in modules), `evaluation` (Accumulator, evaluate), `inspection` (explain), `registry` (get, names), `gradients`
  (value_and_grad, grad, grad_and_hess); `_positions`: what a batch adds to a mean
- `regression`, `deviance`, `classification`, `softmax`, `similarity`, `sets`, `metrics`: the losses, each a block of formulas and a public
  function
- `_call`: one call
- `_torch`, `_jax`, `_dask`: what these libraries need besides
- `_prepare`: all that is checked of a call, and its plan
- `_evaluate`: a plan over arrays
- `_routes`: which kernel takes a plan; `_cpu`, `_gpu`; `_formula`: the route that takes everything; `_exact`: sums without rounding
- `_plan`: what was decided of a call, apart from its data
- `_backends`: which array libraries there are, and whose an array is
- `_kernels`: compiled code
- `_block`, `_params`, `_shapes`, `_reduce`, `_threads`, `_types`: the ground
"""

from polyloss._threads import get_num_threads, set_num_threads
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
