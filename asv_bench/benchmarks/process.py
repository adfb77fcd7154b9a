"""What the library costs a process: time to import, and memory."""

import numpy as np

import polyloss as pl

from . import cases


class Import:
    """A command line or a short-lived worker pays this before its first loss; NumPy's share is the floor."""

    def timeraw_polyloss(self):
        """The package."""
        return "import polyloss"

    def timeraw_numpy(self):
        """What it rests on."""
        return "import numpy"


class Memory:
    """Peak memory of a process around one call; the reference makes the inputs and calls nothing.

    1024×32000, 131 MB: the value must stay at the reference (memory beyond the inputs grows with the rows alone), a gradient in hand at the
    reference of its buffer, a fresh one 131 MB above the first.
    """

    case = next(case for case in cases.SOFTMAX if case.shape == (1024, 32000))

    def setup(self):
        """Make the batch."""
        self.labels, self.logits = self.case.arrays()

    def peakmem_reference(self):
        """Inputs alone."""

    def peakmem_value(self):
        """The loss."""
        pl.softmax_loss(self.labels, self.logits)

    def peakmem_reference_in_hand(self):
        """Inputs and a buffer for the gradient."""
        np.zeros_like(self.logits).fill(0)

    def peakmem_gradient_in_hand(self):
        """Loss and gradient, into that buffer."""
        pl.value_and_grad(pl.softmax_loss)(self.labels, self.logits, out=np.zeros_like(self.logits))

    def peakmem_gradient_fresh(self):
        """Loss and a fresh gradient."""
        pl.value_and_grad(pl.softmax_loss)(self.labels, self.logits)
