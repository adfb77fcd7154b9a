"""The rivals: each library's own way to the same number, as its users write it.

Libraries are imported where they are used: a benchmark of NumPy arrays must not carry torch's memory and threads.
"""

import numpy as np

import polyloss as pl

from . import cases


def softmax_values(case, labels, logits):
    """Mean cross-entropy of a batch: rival -> function without arguments. JAX's arrays are made here: a copy."""
    import jax
    import scipy.special
    import torch
    from torch.nn import functional

    same_threads(case)
    x, y = torch.from_numpy(logits), torch.from_numpy(labels)
    jx, jy = jax.numpy.asarray(logits), jax.numpy.asarray(labels)
    optax_value = jax.jit(optax_mean(case))
    index = np.expand_dims(labels, 1)

    def chosen(log_p):
        picked = np.take_along_axis(log_p, index, axis=1)
        return -np.mean(picked if case.ignore is None else picked[index != case.ignore])

    def numpy_mean():
        shifted = logits - logits.max(axis=1, keepdims=True)
        return chosen(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))

    return {
        "torch": lambda: functional.cross_entropy(x, y, ignore_index=_ignored(case)),
        "optax": lambda: optax_value(jx, jy).block_until_ready(),
        "SciPy": lambda: chosen(scipy.special.log_softmax(logits, axis=1)),
        "NumPy": numpy_mean,
    }


def softmax_gradients(case, labels, logits):
    """Mean cross-entropy and its gradient with respect to the logits: rival -> function without arguments."""
    import jax
    import torch
    from torch.nn import functional

    same_threads(case)
    x, y = torch.from_numpy(logits).requires_grad_(), torch.from_numpy(labels)
    jx, jy = jax.numpy.asarray(logits), jax.numpy.asarray(labels)
    optax_step = jax.jit(jax.value_and_grad(optax_mean(case)))
    return {
        "torch": lambda: torch_step(functional.cross_entropy(x, y, ignore_index=_ignored(case)), x),
        "optax": lambda: jax.block_until_ready(optax_step(jx, jy)),
    }


def softmax_by_torch(targets, logits):
    """Mean cross-entropy by torch, of labels or soft targets: two functions without arguments, of the value and of value and gradient."""
    import torch
    from torch.nn import functional

    same_threads()
    x, t = torch.from_numpy(logits), torch.from_numpy(targets)
    leaf = x.clone().requires_grad_()
    return lambda: functional.cross_entropy(x, t), lambda: torch_step(functional.cross_entropy(leaf, t), leaf)


def _ignored(case):
    return -100 if case.ignore is None else case.ignore  # torch's default


def optax_mean(case):
    import optax

    def mean(logits, labels):
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels, axis=1)
        return losses.mean() if case.ignore is None else losses.mean(where=labels != case.ignore)

    return mean


def torch_step(value, x):
    """A loss of torch's and its gradient; backward() would add up the gradients of the calls."""
    import torch

    return value.detach(), torch.autograd.grad(value, x)[0]


def torch_losses():
    """torch's functions of (predictions, targets) with our losses' numbers, by our name; its mean over all elements."""
    from torch.nn import functional as f

    return {
        "mean_squared_error": f.mse_loss,
        "mean_absolute_error": f.l1_loss,
        "huber": f.huber_loss,
        "binary_crossentropy": f.binary_cross_entropy,
        "binary_crossentropy from logits": f.binary_cross_entropy_with_logits,
        "poisson": lambda p, t: f.poisson_nll_loss(p, t, log_input=False, eps=1e-7),
        "kl_divergence": lambda p, t: f.kl_div(p.log(), t, reduction="sum") / len(p),
    }


def numpy_losses():
    """What a user of NumPy writes, functions of (predictions, targets), by our name."""
    return {
        "mean_squared_error": lambda p, t: np.mean(np.square(p - t)),
        "mean_absolute_error": lambda p, t: np.mean(np.abs(p - t)),
        "mean_absolute_percentage_error": lambda p, t: 100 * np.mean(np.abs((t - p) / np.maximum(np.abs(t), 1e-7))),
        "mean_squared_logarithmic_error": lambda p, t: np.mean(np.square(np.log1p(p) - np.log1p(t))),
        "huber": lambda p, t: np.mean(np.where(np.abs(p - t) <= 1, 0.5 * np.square(p - t), np.abs(p - t) - 0.5)),
        "log_cosh": lambda p, t: np.mean(np.logaddexp(p - t, t - p) - np.log(2)),
        "poisson": lambda p, t: np.mean(p - t * np.log(p + 1e-7)),
        "hinge": lambda p, t: np.mean(np.maximum(1 - (2 * t - 1) * p, 0)),
        "squared_hinge": lambda p, t: np.mean(np.square(np.maximum(1 - (2 * t - 1) * p, 0))),
        "binary_crossentropy": lambda p, t: -np.mean(t * np.log(p) + (1 - t) * np.log(1 - p)),
        "binary_crossentropy from logits": lambda z, t: np.mean(np.logaddexp(0, z) - t * z),
        "kl_divergence": lambda p, t: np.sum(t * np.log(t / p)) / len(p),
    }


def elementwise_values(call, t, p):
    """The value of an elementwise loss: rival -> function without arguments; only the rivals that have it."""
    import torch

    x, y = torch.from_numpy(p), torch.from_numpy(t)
    found = {}
    if call.name in torch_losses():
        found["torch"] = lambda: torch_losses()[call.name](x, y)
    if call.name in numpy_losses():
        found["NumPy"] = lambda: numpy_losses()[call.name](p, t)
    return found


def elementwise_gradients(call, t, p):
    """Value and gradient by torch's autograd, where torch has the loss."""
    import torch

    if call.name not in torch_losses():
        return {}
    x, y = torch.from_numpy(p).requires_grad_(), torch.from_numpy(t)
    return {"torch": lambda: torch_step(torch_losses()[call.name](x, y), x)}


def dice_steps(case, t, p):
    """Value and gradient of the dice loss written by hand on torch's operations: by three sums, as MONAI's, or by two, as SMP's."""
    import torch

    x, y = torch.from_numpy(p).requires_grad_(), torch.from_numpy(t)

    def three_sums():
        common, of_t, of_p = (z.sum(case.axis) for z in (y * x, y, x))
        return torch_step((1 - 2 * common / (of_t + of_p + 1e-7)).mean(), x)

    def two_sums():
        common, both = (z.sum(case.axis) for z in (x * y, x + y))
        return torch_step((1 - 2 * common / (both + 1e-7)).mean(), x)

    return {"torch": three_sums, "torch, two sums": two_sums}


def log_losses(y_true, y_proba):
    """scikit-learn's metric: rival -> function without arguments."""
    import sklearn.metrics

    return {"scikit-learn": lambda: sklearn.metrics.log_loss(y_true, y_proba)}


def same_threads(case=None):
    """Give torch as many threads as the kernels take; XLA takes a thread for every CPU of the process and can't be told otherwise."""
    import torch

    # A second thread makes torch no faster on the small batch, and up to twice as slow where threads sleep (13 µs for 6.7).
    torch.set_num_threads(1 if case is cases.SMALL else pl.get_num_threads())
