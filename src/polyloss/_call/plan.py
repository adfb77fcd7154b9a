"""`Plan`: all that was decided about a call, apart from its data. `Arrays`: the data of one call.

A plan follows from facts that repeat from call to call: the loss, what is wanted, the options, and of each array its library, dtype, shape,
strides and device. `prepare.plan_of` makes it and `call.plan_cache` keeps it. It is hashable, can be pickled and prints as what `explain`
says.
"""

from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np

from polyloss._core.backends import NUMPY, Backend, backend_of
from polyloss._core.block import Block
from polyloss._core.shapes import Layout

GIVEN = "given"  # a plan's divisor is the caller's denominator: `Arrays.divisor`


class Want(NamedTuple):
    """What is asked for."""

    value: bool = True
    gradient: bool = False
    hessian: bool = False
    prob: bool = False


VALUE = Want()
GRADIENT = Want(value=False, gradient=True)
BOTH = Want(value=True, gradient=True)


class Arrays(NamedTuple):
    """The data of one call, in canonical shape, and the array namespace it belongs to."""

    xp: object
    t: object  # (n, c, s), or labels (n, s); in the caller's dtype but for float16, bfloat16 and bool
    p: object  # (n, c, s)
    weight: object = None  # (n, s) in the dtype of the computation
    class_weight: object = None  # (c,) likewise
    divisor: object = None  # the caller's denominator: a number or a 0-d array
    out: object = None  # the caller's array for the gradient, in the caller's shape
    out_hessian: object = None
    mask: object = None  # (n, c, s): False takes an element out of its set; t and p are 0 there
    scanned: object = None  # what the formulas must know of all targets at once, where these arrays are a part of them


@dataclass(frozen=True)
class Plan:
    """What was decided of a call, apart from its data."""

    loss: type[Block]  # the block of the public function
    block: type[Block]  # whose formulas apply: the loss itself, or its form from logits
    want: Want
    backend: Backend
    device: str
    cuda: int | None  # number of the CUDA device
    axis: int  # as the caller gave it
    layout: Layout
    labelled: bool
    label_shape: tuple  # as the caller gave them
    storage: str  # dtype of the predictions and of gradients
    dtype: str  # of the computation
    targets: str  # dtype of the targets as routes get them
    params: tuple  # (name, value) of the formulas' parameters
    target_options: tuple  # likewise of `block.prepare_targets`
    ignore: tuple
    weighted: bool
    class_weighted: bool
    masked: bool
    reduction: str
    normalization: str | None
    divisor: object  # a number; "count" or "weights", which the data decide; GIVEN
    out: tuple  # whether the caller gave arrays for gradient and Hessian diagonal
    validate: bool
    has_values: bool  # whether the values of all arrays are at hand
    here: bool  # whether all arrays are in this machine's memory
    tracked: tuple = ()  # names of the arrays that autograd follows
    watched: bool = False  # a function transform, forward-mode differentiation or a tracer looks at an array
    route: str = ""  # name of the row of `routes.ROUTES` that evaluates it

    def __hash__(self):
        kept = self.__dict__.get("_hash")
        if kept is None:
            kept = hash(tuple(getattr(self, f.name) for f in fields(self)))
            self.__dict__["_hash"] = kept
        return kept

    def __dask_tokenize__(self):
        return repr(self)

    def __getstate__(self):
        """The fields alone: what is kept beside them (other plans made of it, bound kernels) holds for this process."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def name(self):
        """What errors call the predictions."""
        return self.loss.predictions

    @property
    def kernel(self):
        """The name under which the kernels hold the formulas, of labels if it has them; None if they do not."""
        return (self.labelled and self.block.kernel_of_labels) or self.block.kernel

    def divisor_of(self, arrays):
        """The divisor, with the caller's denominator where it is that."""
        return arrays.divisor if self.divisor == GIVEN else self.divisor

    @property
    def settings(self):
        """All parameters of the formulas and of their targets, by name."""
        return dict(self.params + self.target_options)

    @property
    def per_class(self):
        """Why a kernel whose parameters are single numbers cannot take a plan with one for each class as it is; None if there is none."""
        several = [key for key, x in self.params if isinstance(x, tuple)]
        return f"it takes one {several[0]} for all classes" if several else None

    def real(self, xp):
        """The dtype of the computation as the library has it."""
        return dtype_of(xp, self.dtype)

    def __str__(self):
        lay, asked = self.layout, [name for name, wanted in zip(Want._fields, self.want, strict=True) if wanted]
        targets = f"labels {self.targets}" if self.labelled else self.targets
        options = [f"{key}={value!r}" for key, value in self.params + self.target_options]
        if self.ignore:
            options.append(f"{self.loss.ignores}={self.ignore!r}")
        options += [word for word, given in (("class_weight", self.class_weighted), ("sample_weight", self.weighted)) if given]
        lines = [
            f"wanted: {', '.join(asked)}; reduction {self.reduction}, divided by {self.divisor}",
            f"seen as: (n, c, s) = {(lay.n, lay.c, lay.s)}, targets {targets}, computed in {self.dtype}",
        ]
        if options:
            lines.append(f"options: {', '.join(options)}")
        return "\n".join(lines)


def dtype_of(xp, name):
    """A dtype of an array library by its name."""
    return np.dtype(name) if xp is np else getattr(xp, name)


def shares_memory(backend, a, b):
    """Whether two arrays may share an entry, of this machine's memory or a CUDA device's; another library's shares none that is known."""
    if b is None or backend_of(b) is not backend:
        return False
    if backend is not NUMPY:
        a, b = backend.lies(a), backend.lies(b)
        if a is None or b is None:
            return False
    if not np.may_share_memory(a, b):
        return False
    try:
        return np.shares_memory(a, b, max_work=10_000)  # type: ignore[arg-type]  # NumPy's stubs know of -1 and 0 alone
    except np.exceptions.TooHardError:  # interwoven strides: taken as shared
        return True
