"""What a call needs of torch's autograd, in C: whether it looks at a call, and the backward pass of a loss whose gradient is kept.

The forward pass, and any backward pass but the ordinary one, are those of `_adapters.torch.Loss`.
"""
from polyloss._kernels.cpu.tensors cimport is_tensor, lent, tensor_view

cpdef enum:
    RECORDED = -2
    WATCHED = -1

cdef object tracing, modes, recorder, transform, grad_enabled, hooks, keeps_graph, otherwise  # of torch; see `take_states`
cdef dict compiler, forward_mode  # its modules


def take_states(states, engine):
    """Take from torch what says what it does with a call.

    Parameters
    ----------
    states : tuple
        Of functions: whether there is a tracer, how many modes there are, which of them records operations, which function transform is
        active, whether autograd follows operations, what it was told to do with what graphs keep; the dictionaries where
        "_is_compiling_flag" says whether a graph is compiled, and "_current_level" how many forward modes there are.
    engine : tuple
        Functions that say whether a graph outlives its backward pass, and that run a node's in every case: (node, *upstream) -> gradients.
    """
    global tracing, modes, recorder, transform, grad_enabled, hooks, compiler, forward_mode, keeps_graph, otherwise
    tracing, modes, recorder, transform, grad_enabled, hooks, compiler, forward_mode = states
    keeps_graph, otherwise = engine


cdef tuple versions(tuple given):
    """How often each of four tensors was written to; None if one is of inference mode, and does not count."""
    cdef object x, y, z, w
    x, y, z, w = given
    try:
        return None if x is None else x._version, y._version, None if z is None else z._version, None if w is None else w._version
    except RuntimeError:
        return None


cdef tuple counted(tuple given):
    """The tensors for a graph to keep: of one of inference mode, which may be written to without a trace, a copy."""
    cdef object x
    return tuple([x.clone() if x is not None and x.is_inference() else x for x in given])


cdef bint recorded() except -1:
    """Whether a mode records operations."""
    return modes() and recorder() is not None  # two questions: the first takes 0.1 µs of a step, the second 0.5


def state(want):
    """What torch does with a call: RECORDED, or WATCHED by a transform or a forward mode; else what `follow` of `PlanCache` is."""
    if tracing() or compiler.get("_is_compiling_flag") or recorded():
        return RECORDED
    if transform() is not None or forward_mode["_current_level"] >= 0:
        return WATCHED
    if (<tuple>want)[1] is True or (<tuple>want)[2] is True or not grad_enabled():
        return 0
    return 1 if hooks(True) is None else 2


def backward(node, upstream, *more):
    """A node's backward pass: the gradients of what its forward pass was given, the third of which are the predictions."""
    gradient = kept_gradient(node.__dict__, upstream)
    return otherwise(node, upstream, *more) if gradient is None else (None, None, gradient)


cdef object kept_gradient(dict node, object upstream):
    """The gradient that a node of autograd's graph keeps, which is the receiver's from now on, where it is what autograd asks for.

    None, and nothing has changed, where anything is unusual: other than 1 comes down, the graph is retained, torch was told what to do with
    what graphs keep, or the pass is differentiated or recorded. Nobody asks whether a function transform is active: this node's tensors
    were none of its own, and an upstream that is lends no memory; nor whether an input was written to, of which nothing is read any more.
    `node`: "gradient", and in "kept" plan, tensors, how often they had been written to (None: torch was told), divisor.
    """
    cdef tensor_view tensor
    cdef double factor
    kept = node.get("kept")
    if kept is None or not is_tensor(upstream):
        return None
    plan = (<list>kept)[0]
    if len(plan.tracked) != 1 or keeps_graph() or grad_enabled() or recorded():
        return None
    if not lent(upstream, &tensor) or tensor.ndim != 0 or tensor.code != 2:
        return None
    if tensor.bits == 32:
        factor = (<float *>tensor.data)[0]
    elif tensor.bits == 64:
        factor = (<double *>tensor.data)[0]
    else:
        return None
    if factor != 1:
        return None
    gradient = node.pop("gradient", None)  # at once: another thread may be here, too
    if gradient is not None:
        node["kept"] = None
    return gradient
