"""What torch's tensors are: their memory, their devices, and who looks at what is done with them.

`_adapters.torch` has most of it as fields of a `Backend`.
"""

import array_api_compat.torch
import numpy as np
import torch
from torch.autograd import forward_ad

from polyloss._core.backends import new_enough, outlined

new_enough(torch)
PROXY = torch._C._TorchDispatchModeKey.PROXY  # the mode that records for make_fx
tracing_state, dispatch_mode = torch._C._get_tracing_state, torch._C._get_dispatch_mode  # looked up once: 0.1 µs of a call's 6
peek_transform = torch._C._functorch.peek_interpreter_stack
batched = torch._C._functorch.is_legacy_batchedtensor


def transformed(*tensors):
    """Whether a function transform (grad, vmap, jvp of torch.func), forward-mode differentiation or a tracer looks at the tensors."""
    if traced() or forward_ad._current_level >= 0:
        return True
    return any(torch._C._functorch.is_functorch_wrapped_tensor(x) for x in tensors)


def traced():
    """Whether operations are being recorded, so that what torch does not see would be a constant: compiled, exported, `make_fx`, `jit`."""
    return torch.compiler.is_compiling() or tracing_state() is not None or dispatch_mode(PROXY) is not None


def observed():
    """Whether a function transform is active, or a mode that records operations, so that a tensor's number may not be asked for."""
    return peek_transform() is not None or dispatch_mode(PROXY) is not None


def foreign(x):
    """Whether a tensor's class has its own way to do torch's operations, and its memory is elsewhere: distributed, masked, fake ones."""
    return type(x).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__


def namespace(x):
    """The array-API namespace of tensors."""
    return array_api_compat.torch


def refused(x):
    """Why a tensor cannot be taken, or None."""
    if x.is_nested:
        return "is a nested tensor, but must have one shape: pad it with torch.nested.to_padded_tensor, and give what was added weight 0"
    return None if x.layout is torch.strided else f"has layout {x.layout}, but must be dense: torch.strided"


def readable(x):
    """A tensor, or a copy of one over foreign memory whose numbers lie at no multiples of their size, as a file's may behind its header."""
    return x.clone() if has_values(x) and x.data_ptr() % x.itemsize else x


def unwritable(x):
    """Why a tensor cannot receive a result, or None."""
    return "requires grad, and autograd would not see what is written to it: pass its detach()" if x.requires_grad else None


def has_values(x):
    """Whether a tensor's values are at hand: not under a function transform, a trace, or on the meta device."""
    return (
        not x.is_meta
        and not traced()
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)
        and not batched(x)  # of upstream gradients, under is_grads_batched
        and not foreign(x)
    )


def seen(x):
    """Whether autograd follows a tensor; whether a function transform, forward-mode differentiation or a tracer looks at what is done."""
    watched = transformed(x) or peek_transform() is not None
    return x.requires_grad and torch.is_grad_enabled(), watched


def cuda(x):
    """The number of the CUDA device that a tensor is on, or None."""
    return x.device.index if x.is_cuda else None


def as_numpy(x):
    """A CPU tensor as a NumPy array over the same memory (bfloat16 as its bits), or None."""
    if x.device.type != "cpu" or x.layout is not torch.strided or not has_values(x) or x.is_conj() or x.is_neg() or x._is_zerotensor():
        return None
    x = x.detach()
    return (x.view(torch.uint16) if x.dtype is torch.bfloat16 else x).numpy()


def outline(x):
    """Where a tensor of a CUDA device lies, or None."""
    return addresses(x) if x.is_cuda else None


def addresses(x):
    """Where a tensor lies, or None while it is being traced."""
    if x.layout is not torch.strided or not has_values(x):
        return None
    return outlined(x.data_ptr(), x.shape, [step * x.itemsize for step in x.stride()], x.itemsize)


def from_numpy(x, like):
    """A NumPy array as a tensor over the same memory; bits become bfloat16 where `like` has it."""
    tensor = torch.from_numpy(x)
    return tensor.view(torch.bfloat16) if x.dtype == np.uint16 and like.dtype is torch.bfloat16 else tensor
