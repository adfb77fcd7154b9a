"""What every training step on torch's tensors needs of autograd, in C, since a small step takes but some 30 µs.

`state` says whether autograd, a function transform, or something that records operations has a part in a call. `backward` is the
backward pass of a loss whose gradient was found in the forward pass. All else is in `_adapters.torch_autograd.Loss`.
"""
from polyloss._kernels.cpu.tensors cimport is_tensor, lent, tensor_view

cpdef enum:
    RECORDED = -2
    WATCHED = -1

cdef object tracing, modes, recorder, transform, grad_enabled, hooks, keeps_graph, otherwise  # of torch; see `take_states`
cdef dict compiler, forward_mode  # its modules


def take_states(states, engine):
    """Take the functions and variables of torch that say what it does with a call.

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
    """How often each of four tensors was written to; None if one was made in inference mode, in which torch does not count."""
    cdef object x, y, z, w
    x, y, z, w = given
    try:
        return None if x is None else x._version, y._version, None if z is None else z._version, None if w is None else w._version
    except RuntimeError:
        return None


cdef tuple counted(tuple given):
    """The tensors for a graph to keep. One made in inference mode is copied: torch would not notice that it is written to."""
    cdef object x
    return tuple([x.clone() if x is not None and x.is_inference() else x for x in given])


cdef bint recorded() except -1:
    """Whether a mode records operations."""
    return modes() and recorder() is not None  # two questions: the first takes 0.1 µs of a step, the second 0.5


def state(want):
    """RECORDED if operations are being recorded, WATCHED under a function transform or forward mode, else `follow` of `PlanCache`."""
    if tracing() or compiler.get("_is_compiling_flag") or recorded():
        return RECORDED
    if transform() is not None or forward_mode["_current_level"] >= 0:
        return WATCHED
    if (<tuple>want)[1] is True or (<tuple>want)[2] is True or not grad_enabled():
        return 0
    return 1 if hooks(True) is None else 2


def backward(node, upstream, *more):
    """The backward pass of a node: a gradient, or None, for each argument of its forward pass; the third are the predictions."""
    gradient = kept_gradient(node.__dict__, upstream)
    return otherwise(node, upstream, *more) if gradient is None else (None, None, gradient)


cdef object kept_gradient(dict node, object upstream):
    """The gradient that a node of autograd's graph keeps, if it is the one that autograd asks for; the node gives it away.

    None, and nothing has changed, in every unusual case: the upstream gradient is not 1, the graph is retained, other tensors than the
    predictions need a gradient, or the pass itself is differentiated or recorded. Two cases need no question: under a function transform
    `lent` refuses the upstream gradient; and an input that was written to does not matter, since none is read.

    Parameters
    ----------
    node : dict
        The node's attributes: "gradient"; "kept", a list of plan, tensors, how often these had been written to, and divisor.
    upstream : Tensor or None
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
