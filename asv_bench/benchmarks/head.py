"""The loss of a language model's head: beside the matrix products it is made of, and what it takes of memory."""

import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np

import polyloss as pl

SHAPE = 2048, 1024, 32000


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


def resident(what):
    """MB of this process: VmRSS now, VmHWM at most."""
    return int(re.search(rf"{what}:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024e-6


def step_of(who, shape):
    """One step of value and both gradients, as a function without arguments, compiled where `who` compiles."""
    if who == "polyloss, JAX":
        import jax

        y, *operands = map(jax.numpy.asarray, arrays(*shape))
        return partial(
            jax.jit(jax.value_and_grad(lambda x, w: pl.linear_softmax_loss(y, x, w), (0, 1))).lower(*operands).compile(), *operands
        )
    if who == "polyloss, NumPy":
        return partial(pl.value_and_grad(pl.linear_softmax_loss), *arrays(*shape))
    import torch
    from torch.nn import functional

    y, *operands = map(torch.from_numpy, arrays(*shape))
    x, w = (operand.requires_grad_() for operand in operands)
    losses = {
        "polyloss, torch": lambda: pl.linear_softmax_loss(y, x, w),
        "torch, all logits": lambda: functional.linear_cross_entropy(x, w, y),
        "torch, chunks": lambda: functional.linear_cross_entropy(x, w, y, options=torch.nn.LinearCrossEntropyOptions()),
    }

    def step():
        loss = losses[who]()
        return loss.detach(), torch.autograd.grad(loss, (x, w))

    return step


def beside(who, positions, features=64, words=32000):
    """MB that a step in this process takes at most beside inputs and gradients; a tiny one before it loads what there is to load."""
    step_of(who, (8, features, 300))()
    step = step_of(who, (positions, features, words))
    before = resident("VmRSS")
    found = step()
    if who == "polyloss, JAX":
        import jax

        jax.block_until_ready(found)
    return resident("VmHWM") - before - 4e-6 * features * (positions + words)


def memory(positions):
    """The same of each library, in processes of their own."""
    import torch

    command = "import sys; from benchmarks import head; print(head.beside(sys.argv[1], int(sys.argv[2])))"

    def measured(who):
        given = [sys.executable, "-W", "ignore", "-c", command, who, str(positions)]
        return float(subprocess.run(given, check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]).stdout)

    whose = ["polyloss, NumPy", "polyloss, torch", "polyloss, JAX"]
    if hasattr(torch.nn, "LinearCrossEntropyOptions"):  # torch 2.13
        whose += ["torch, all logits", "torch, chunks"]
    return {who: partial(measured, who) for who in whose} | {"64 MB": lambda: 64}


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
