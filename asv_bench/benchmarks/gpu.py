"""The softmax loss on a GPU; without one every benchmark is skipped."""

import polyloss as pl

from . import cases, peers

CASES = {case.name: case for case in cases.SOFTMAX}


class CuPy:
    """Arrays on the first CUDA device, synchronised after each call; the shapes are those of the CPU, so that devices can be compared."""

    params = list(CASES)
    param_names = ("shape",)

    def setup(self, shape):
        """Move a batch to the device; compile the kernels."""
        try:
            import cupy
        except ImportError as error:
            raise NotImplementedError("CuPy is not installed") from error
        if not cupy.is_available():
            raise NotImplementedError("CuPy finds no CUDA device")
        self.arrays = [cupy.asarray(x) for x in CASES[shape].arrays()]
        self.out = cupy.zeros_like(self.arrays[1])
        self.options = {"ignore_label": CASES[shape].ignore}
        self.value_and_grad = pl.value_and_grad(pl.softmax_loss)
        self.wait = cupy.cuda.Device().synchronize
        self.time_value(shape)
        self.time_gradient(shape)

    def time_value(self, shape):
        """The loss, labels checked."""
        pl.softmax_loss(*self.arrays, **self.options)
        self.wait()

    def time_value_unchecked(self, shape):
        """The loss, without the synchronisation that checking labels costs."""
        pl.softmax_loss(*self.arrays, validate=False, **self.options)
        self.wait()

    def time_gradient(self, shape):
        """Loss and gradient, into a buffer that is there."""
        self.value_and_grad(*self.arrays, out=self.out, **self.options)
        self.wait()


class Torch:
    """Tensors on the first CUDA device: ours and torch's own, by autograd."""

    params = (list(CASES), ["polyloss", "torch"])
    param_names = ("shape", "library")

    def setup(self, shape, library):
        """Move a batch to the device; compile the kernels."""
        try:
            import torch
        except ImportError as error:
            raise NotImplementedError("torch is not installed") from error
        if not torch.cuda.is_available():
            raise NotImplementedError("torch finds no CUDA device")
        labels, self.x = (torch.from_numpy(x).cuda() for x in CASES[shape].arrays())
        self.x.requires_grad_()
        ignore = CASES[shape].ignore
        if library == "torch":
            options = {} if ignore is None else {"ignore_index": ignore}
            self.loss = lambda: torch.nn.functional.cross_entropy(self.x, labels, **options)
        else:
            self.loss = lambda: pl.softmax_loss(labels, self.x, ignore_label=ignore)
        self.wait = torch.cuda.synchronize
        self.time_value(shape, library)
        self.time_gradient(shape, library)

    def time_value(self, shape, library):
        """The loss, ready for a backward pass."""
        self.loss()
        self.wait()

    def time_gradient(self, shape, library):
        """Loss and gradient."""
        peers.torch_step(self.loss(), self.x)
        self.wait()
