# What elementwise.pyx and rowwise.pyx have in common: the tables of their losses, made from C's lists, and the checks of a call.
cdef extern from *:
    """
    typedef struct {
        const char *name, *parameters; /* the latter separated by blanks */
        int labels; /* whether targets are labels */
    } listed_loss;
    """
    ctypedef struct listed_loss:
        const char *name
        const char *parameters
        bint labels


cdef dict numbers_of(const listed_loss *losses, int count):
    """Name of a loss -> its place in the list."""
    return {losses[i].name.decode(): i for i in range(count)}


cdef dict parameters_of(const listed_loss *losses, int count):
    """Name of a loss -> names of its parameters."""
    return {losses[i].name.decode(): tuple(losses[i].parameters.decode().split()) for i in range(count)}


cdef int take_parameters(double *to, int room, str name, tuple names, parameters) except -1:
    """Numbers of a loss's parameters, and 0 for what it hasn't."""
    cdef int k
    if len(parameters) != len(names):
        raise TypeError(f"{name} takes the parameters {names}, not {len(parameters)}")
    for k in range(room):
        to[k] = parameters[k] if k < len(parameters) else 0.0
    return 0


cdef int check_types(int p_type, int weight_type, int losses_type, cnp.ndarray p, weight, losses, grad, hess) except -1:
    """Raise TypeError unless predictions and weights are floating, losses of the dtype of the computation, derivatives like predictions."""
    if p_type > TYPE_BF16 or weight_type > TYPE_F64:
        raise TypeError(f"predictions are {p.dtype} and weights {None if weight is None else weight.dtype}, but must be floating")
    if losses is not None and losses_type != (TYPE_F64 if p_type == TYPE_F64 else TYPE_F32):
        raise TypeError(f"losses are {losses.dtype}, but must have the dtype of the computation")
    for key, x in (("grad", grad), ("hess", hess)):
        if x is not None and (x.dtype != p.dtype or not x.flags.writeable):
            raise TypeError(f"{key} is an array of {x.dtype}, but must be a writeable one of {p.dtype}")
    return 0
