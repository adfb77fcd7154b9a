"""The loss of a language model's head: beside the matrix products it is made of, and what it takes of memory."""

from functools import partial

import numpy as np

import polyloss as pl

SHAPE = 512, 1024, 32000  # positions, features, words: a quarter of a batch as it is trained with, which costs a quarter of the time


def arrays(positions, features, words):
    """Labels, features, and a weight whose logits are of size 1."""
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((positions, features), np.float32), rng.standard_normal((words, features), np.float32)
    w /= np.float32(features) ** 0.5
    return rng.integers(0, words, positions), x, w


def torch_steps(shape=SHAPE):
    """Value and gradients by autograd, of which the weight's is shown; the three products, into memory in hand, compute no loss."""
    import torch
    from torch.nn import functional

    y, x, w = map(torch.from_numpy, arrays(*shape))
    leaves = x.clone().requires_grad_(), w.clone().requires_grad_()
    logits, by_x, by_w = x @ w.T, torch.empty_like(x), torch.empty_like(w)

    def matmuls():
        torch.mm(x, w.T, out=logits)
        torch.mm(logits, w, out=by_x)
        torch.mm(logits.T, x, out=by_w)

    def step(loss):
        return loss.detach(), torch.autograd.grad(loss, leaves)[1]

    calls = {"polyloss": lambda: step(pl.linear_softmax_loss(y, *leaves)), "matmuls": matmuls}
    if hasattr(functional, "linear_cross_entropy"):  # torch 2.13
        options = torch.nn.LinearCrossEntropyOptions()
        calls["torch"] = lambda: step(functional.linear_cross_entropy(*leaves, y))
        calls["torch, chunks"] = lambda: step(functional.linear_cross_entropy(*leaves, y, options=options))
    return calls


def numpy_calls(shape=SHAPE):
    """The same with NumPy's products."""
    y, x, w = arrays(*shape)
    logits, by_x, by_w = x @ w.T, np.empty_like(x), np.empty_like(w)

    def matmuls():
        np.matmul(x, w.T, out=logits)
        np.matmul(logits, w, out=by_x)
        np.matmul(logits.T, x, out=by_w)

    value_and_grad = pl.value_and_grad(pl.linear_softmax_loss)

    def ours():
        value, (_, by_weight) = value_and_grad(y, x, w)
        return value, by_weight

    return {"polyloss": ours, "matmuls": matmuls}


def jax_calls(shape=SHAPE):
    """Jitted, beside what XLA makes of logits at hand."""
    import jax
    import optax

    y, x, w = map(jax.numpy.asarray, arrays(*shape))
    losses = {
        "polyloss": lambda x, w: pl.linear_softmax_loss(y, x, w),
        "optax": lambda x, w: optax.softmax_cross_entropy_with_integer_labels(x @ w.T, y).mean(),
    }
    steps = {name: jax.jit(jax.value_and_grad(loss, (0, 1))) for name, loss in losses.items()}

    def call(step):
        value, (_, by_weight) = jax.block_until_ready(step(x, w))
        return value, by_weight

    return {name: partial(call, step) for name, step in steps.items()}


class Memory:
    """Peak memory of a process around one call, over the number of positions: less than 64 MB above the reference."""

    params = [512, 2048, 8192]
    param_names = ("positions",)

    def setup(self, positions):
        """Make the arrays, as few features as let the products be quick."""
        self.y, self.x, self.w = arrays(positions, 64, 32000)

    def peakmem_reference(self, positions):
        """Inputs, and memory for their gradients."""
        for like in (self.x, self.w):
            np.zeros_like(like).fill(0)

    def peakmem_value_and_gradients(self, positions):
        """Value and gradients."""
        pl.value_and_grad(pl.linear_softmax_loss)(self.y, self.x, self.w)
