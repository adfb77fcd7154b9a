"""PyTorch: views of tensors for the kernels, and what autograd needs. With torch.py the only file that imports torch."""

import numpy as np
import torch

from polyloss import _formula, _job


def call(job):
    """The road for tensors: kernels where no derivative of torch's is wanted, else the formula on torch operations."""
    tensors = [x for x in (job.p, job.t, job.weight, job.class_weight, job.denominator) if isinstance(x, torch.Tensor)]
    if job.want.gradient or job.want.hessian:  # ours: no autograd framework takes part
        job.p, job.t, job.weight, job.class_weight = (None if x is None else x.detach() for x in tensors_of(job))
    elif torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        outcome = _formula.run(job)
        if job.validate and job.labelled:
            _job.raise_bad(job, outcome)
        return _job.finish(job, outcome)
    return _job.evaluate(job)


def tensors_of(job):
    """The tensors that derivatives could be taken of."""
    return job.p, job.t, job.weight, job.class_weight


def concrete(x):
    """Whether a tensor's values are at hand: not under a function transform, a trace, or on the meta device."""
    return (
        x.device.type != "meta"
        and not torch.compiler.is_compiling()
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)
        and not isinstance(x, torch._subclasses.FakeTensor)
    )


def memory(x):
    """A CPU tensor as a NumPy array over the same memory (bfloat16 as its bits), or None."""
    if x.device.type != "cpu" or x.layout is not torch.strided or not concrete(x) or x.is_conj() or x.is_neg():
        return None
    x = x.detach()
    return (x.view(torch.uint16) if x.dtype is torch.bfloat16 else x).numpy()


def wrap(x, like):
    """A NumPy array as a tensor over the same memory; bits become bfloat16 where `like` has it."""
    tensor = torch.from_numpy(x)
    return tensor.view(torch.bfloat16) if x.dtype == np.uint16 and like.dtype is torch.bfloat16 else tensor
