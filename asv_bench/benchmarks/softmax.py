"""The softmax loss beside its rivals, and the small call."""

import numpy as np

import polyloss as pl
from polyloss._demo import formula_only

from . import cases, peers, timing

CASES = {case.name: case for case in cases.SOFTMAX}
REASONS = "\n".join(f"    - {case.name}: {case.why}" for case in cases.SOFTMAX)


class Softmax:
    __doc__ = f"""Ours. The shapes are

{REASONS}
    """
    params = list(CASES)
    param_names = ("shape",)

    def setup(self, shape):
        """Make a batch and a buffer for its gradient."""
        self.arrays = CASES[shape].arrays()
        self.options = {"ignore_label": CASES[shape].ignore}
        self.out = np.zeros_like(self.arrays[1])
        self.value_and_grad = pl.value_and_grad(pl.softmax_loss)

    def time_value(self, shape):
        """The loss alone."""
        pl.softmax_loss(*self.arrays, **self.options)

    def time_gradient_in_hand(self, shape):
        """Loss and gradient, into a buffer that is there."""
        self.value_and_grad(*self.arrays, out=self.out, **self.options)

    def time_gradient_fresh(self, shape):
        """Loss and gradient, as a new array."""
        self.value_and_grad(*self.arrays, **self.options)


class Rivals:
    """The same batches by other libraries, and by our formula on NumPy; on its own scale, since these are up to fifty times as slow."""

    params = (list(CASES), ["torch", "optax", "SciPy", "NumPy", "formula"])
    param_names = ("shape", "library")

    def setup(self, shape, library):
        """Make a batch; a rival without this step is skipped."""
        case = CASES[shape]
        try:
            arrays, options = case.arrays(), {"ignore_label": case.ignore}
            if library == "formula":
                self.value = formula_only()(lambda: pl.softmax_loss(*arrays, **options))
                self.gradient = formula_only()(lambda: pl.value_and_grad(pl.softmax_loss)(*arrays, **options))
                return
            self.value = peers.softmax_values(case, *arrays)[library]
            self.gradient = peers.softmax_gradients(case, *arrays).get(library)
        except ImportError as error:
            raise NotImplementedError(f"{error.name} is not installed") from error

    def time_value(self, shape, library):
        """The loss alone."""
        self.value()

    def time_gradient(self, shape, library):
        """Loss and gradient by the rival's own differentiation."""
        if self.gradient is not None:
            self.gradient()


class Ratios:
    """The rival's time over ours, alternating in one process: a noisy machine slows both, and the ratio stays."""

    params = (list(CASES), ["torch", "optax"])
    param_names = ("shape", "rival")
    unit = "times as fast"
    timeout = 120

    def setup(self, shape, rival):
        """Make a batch, and each library's call of its loss."""
        case = CASES[shape]
        try:
            labels, logits = case.arrays()
            self.rivals = peers.softmax_values(case, labels, logits)[rival], peers.softmax_gradients(case, labels, logits)[rival]
        except ImportError as error:
            raise NotImplementedError(f"{error.name} is not installed") from error
        options, out, value_and_grad = {"ignore_label": case.ignore}, np.zeros_like(logits), pl.value_and_grad(pl.softmax_loss)
        self.ours = (
            lambda: pl.softmax_loss(labels, logits, **options),
            lambda: value_and_grad(labels, logits, out=out, **options),
        )

    def ratio(self, step):
        """Rival over ours, of the loss (0) or of loss and gradient (1)."""
        best = timing.alternate({"ours": self.ours[step], "rival": self.rivals[step]}, seconds=1)
        return best["rival"] / best["ours"]

    def track_value(self, shape, rival):
        """The loss alone."""
        return self.ratio(0)

    def track_gradient(self, shape, rival):
        """Loss and gradient."""
        return self.ratio(1)


class Overhead:
    """Small arrays: 320 numbers take a microsecond to compute, so the rest is checks, dispatch and autograd.

    32×10 is a batch of digits; training loops on small models call the loss so.
    """

    def setup(self):
        """The batch as arrays, tensors and a leaf of autograd's."""
        self.labels, self.logits = cases.SMALL.arrays()
        self.value_and_grad = pl.value_and_grad(pl.softmax_loss)
        try:
            import torch
        except ImportError:
            return
        self.y, self.x = torch.from_numpy(self.labels), torch.from_numpy(self.logits)
        self.leaf = self.x.clone().requires_grad_()

    def time_numpy(self):
        """The loss of NumPy arrays."""
        pl.softmax_loss(self.labels, self.logits)

    def time_numpy_value_and_grad(self):
        """The loss of NumPy arrays and its gradient."""
        self.value_and_grad(self.labels, self.logits)

    def time_torch_value_and_grad(self):
        """The loss of tensors and its gradient, without autograd."""
        self.value_and_grad(self.y, self.x)

    def time_torch_autograd(self):
        """The loss of tensors and its gradient by autograd."""
        peers.torch_step(pl.softmax_loss(self.y, self.leaf), self.leaf)

    def time_mean_squared_error(self):
        """An elementwise loss of as many numbers."""
        pl.mean_squared_error(self.logits, self.logits, reduction="mean")
