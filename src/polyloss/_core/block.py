"""What a loss is: a block of three pure formulas, and the table of all of them.

A formula takes the array namespace ``xp``, targets ``t`` and predictions ``p`` (or logits ``z``) in the dtype of the computation, and
parameters by name. It checks nothing, reduces nothing and never branches on data, so that the same lines run on every array library,
under JAX's tracing too. Autograd of a value gives the slope and of a slope the curvature, at kinks and clips too: cases are told apart by
``where`` on one condition, since libraries disagree on the derivative of a maximum at a tie, and |x| has none of second order at 0. The
call (`_call/`) hands it canonical arrays of shape (n, c, s): the class axis is axis 1.

- `Elementwise`: value, slope and curvature of one element; a call combines the elements of a sample by their mean or sum.
- `Rowwise`: consumes the class axis: value gives (n, s); slope and curvature give (n, c, s).
- `OfLogSoftmax`, `OfShares`: row-wise losses that are a sum of one term per class, of log-softmax or of p / Σp. The chain rule through the
  normalisation is written here once; a loss of this kind states its term and the term's two derivatives.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from polyloss._core.arguments import without_unknown
from polyloss._core.devices import beside
from polyloss._core.params import traced

F = TypeVar("F", bound=Callable[..., Any])
LOSSES: dict[str, type["Block"]] = {}  # canonical name -> block, in order of definition; filled by `public`


def public(block: type["Block"]) -> Callable[[F], F]:
    """Tie a public function to its block and enter both into `LOSSES` under the function's name."""

    def tie(function: F) -> F:
        block.name = function.__name__
        block.function = function
        if block.name in LOSSES:
            raise RuntimeError(f"two losses are named {block.name}")
        LOSSES[block.name] = block
        return without_unknown(function)

    return tie


class Block:
    """One loss. Subclasses hold formulas as plain functions (never bound: a block is not instantiated)."""

    name: str | None = None  # canonical name = name of the public function
    function: Callable[..., Any]  # the public function
    aliases: tuple[str, ...] = ()
    params: dict[str, Callable] = {}  # parameter of the public function -> check (params.py) that returns the value to use
    targets = "dense"  # "dense": shape of y_pred; "labels": without the class axis; "either"; "values": numbers without that axis
    length: Callable | None = None  # of the formulas' parameters: how long `axis` of the predictions must be
    sets = False  # whether `axis` may be several axes, or None for all, and a mask may take elements out
    ignores: str | None = None  # name of the public parameter that names labels to ignore
    predictions = "y_pred"  # what error messages call the second argument
    takes = "numbers"  # what the predictions are: any "numbers"; "logits", or "probabilities", of the classes of a row; "shares", which are
    # such probabilities that are divided by their sum; or the "probability" of each element by itself
    symmetric = False  # targets and predictions may change places: so the derivative with respect to targets is a slope, too
    exchanged: Callable = staticmethod(lambda params: params)  # the formulas' parameters when they have
    combine: str | None = "mean"  # how elements of a sample combine: "mean", "sum"; None: the formula did it
    reductions: tuple[str, ...] = ("none", "sum", "mean", "sum_over_batch_size")
    logits: type | None = None  # the block that takes over when from_logits=True
    logarithms: type | None = None  # likewise when log_input=True
    kernel: str | None = None  # name in a kernel's list: in formulas/elementwise.h, rowwise.h or values.h, softmax_xent.pyx or sets.pyx
    kernel_of_labels: str | None = None  # a loss of elements that takes labels, too: name under which formulas/rowwise.h holds it for these
    prepare_targets: Callable = staticmethod(lambda xp, t, c: t)  # targets as formulas want them; takes the parameters of this step by name
    scan_targets: Callable | None = None  # formula of (xp, t): what `prepare_targets` must know of all targets at once, as a 0-d array
    worked: tuple[dict, ...] = ()  # examples by hand: dict(t=, p=, <parameters>, value=, slope=); tested, and printed in the docs
    domain = "any real numbers"  # of the predictions; for the docs

    def form(block, values):
        """The block whose formulas apply to a call with these parameters; takes away the parameters that its formulas do not have."""
        if values.pop("from_logits", False):
            values.pop("epsilon", None)
            return block.logits
        return block.logarithms if values.pop("log_input", False) else block

    form = staticmethod(form)

    def __init_subclass__(cls):
        formulas = "value", "slope", "curvature", "term", "first", "second"
        for name in ("form", "length", *formulas, "prepare_targets", "scan_targets", "exchanged"):
            if name in cls.__dict__:
                setattr(cls, name, staticmethod(cls.__dict__[name]))

    if TYPE_CHECKING:  # mypy takes a formula's first argument, the array namespace, for an instance of its block

        def __getattr__(self, name: str) -> Any: ...


class Elementwise(Block):
    """Formulas of one element."""


class Rowwise(Block):
    """Formulas of one row of classes."""

    combine = None


class OfLogSoftmax(Rowwise):
    """Σ_c term(t_c, l_c) with l = log softmax(z), p = exp(l), q = 1 - p. `first` is h = ∂term/∂l; `second` is h' q.

    The chain rule gives slope_j = h_j q_j - p_j Σ_{c≠j} h_c and curvature_j = h'_j q_j² + p_j² Σ_{c≠j} h'_c - p_j q_j Σh. Of a class whose
    p nears 1, h' may be huge where q is tiny: its terms stay out of the sums over the others, so that nothing cancels, and p_j / q of it
    is a number of its own, so that nothing overflows.
    """

    takes = "logits"

    def value(xp, t, z, *, block, **params):
        l, p, q = log_softmax(xp, z)
        return xp.sum(block.term(xp, t, l, p, q, **params), axis=1) + 0 * q[:, 0, :]  # NaN where the row is, even if every target is 0

    def slope(xp, t, z, *, block, **params):
        l, p, q = log_softmax(xp, z)
        h = block.first(xp, t, l, p, q, **params)
        return h * q - p * of_others(xp, h, q < 0.5)

    def curvature(xp, t, z, *, block, **params):
        l, p, q = log_softmax(xp, z)
        near = q < 0.5  # one class at most
        h, second = block.first(xp, t, l, p, q, **params), block.second(xp, t, l, p, q, **params)
        g = xp.where(near, xp.zeros_like(q), second / xp.where(near, xp.ones_like(q), q))
        near_q, near_second = (xp.sum(xp.where(near, x, xp.zeros_like(x)), axis=1, keepdims=True) for x in (q, second))
        share = p / xp.where(near_q == 0, xp.ones_like(near_q), near_q)  # of what is not of the near class
        of_near = xp.where(near, xp.zeros_like(p), p * share * near_second)
        return second * q + p * p * of_others(xp, g, near) + of_near - p * q * xp.sum(h, axis=1, keepdims=True)


def of_others(xp, x, near):
    """For each class the sum of x over all other classes. A large x at the class that is `near` costs the others' sum no digits."""
    zero = xp.zeros_like(x)
    far, at_near = (xp.sum(xp.where(near, *pair), axis=1, keepdims=True) for pair in ((zero, x), (x, zero)))
    return xp.where(near, far, (far - x) + at_near)


class OfShares(Rowwise):
    """Σ_c term(t_c, y_c) with y = clip(p / Σp, epsilon, 1 - epsilon). `first` is h y with h = ∂term/∂y, and `second` is h' y².

    These stay finite where y is 0. With S = Σp (and 0 for h and h' where y is clipped), A = Σ h y and B = Σ (h' y + 2 h) y:
    slope_j = (h_j (1 - y_j) - (A - h_j y_j)) / S and curvature_j = ((h'_j (1 - y_j) - 2 h_j) (1 - y_j) + B - (h'_j y_j + 2 h_j) y_j) / S².
    Of what is not clipped y S is p, by which own terms of small shares are divided: squares of y or S may leave the dtype where those of p
    do not.
    """

    takes = "shares"

    def value(xp, t, p, *, block, epsilon, **params):
        y, _, _ = shares(xp, p, epsilon)
        return xp.sum(block.term(xp, t, y, **params), axis=1) + 0 * y[:, 0, :]  # NaN of no shares, even if every target is 0

    def slope(xp, t, p, *, block, epsilon, **params):
        y, inside, total = shares(xp, p, epsilon)
        first = xp.where(inside, block.first(xp, t, y, **params), 0.0)
        small, others = y < 2.0**-30, first - xp.sum(first, axis=1, keepdims=True)
        own = over(xp, first * (1 - y), xp.where(small, p + 0.0, y))  # of a p of -0.0 as of 0.0
        return xp.where(small, beyond(xp, own, others / total), (own + others) / total)

    def curvature(xp, t, p, *, block, epsilon, **params):
        y, inside, total = shares(xp, p, epsilon)
        first = xp.where(inside, block.first(xp, t, y, **params), 0.0)
        second = xp.where(inside, block.second(xp, t, y, **params), 0.0)
        bend, small = second + 2 * first, y < 2.0**-30
        by, others = xp.where(small, p, y), xp.sum(bend, axis=1, keepdims=True) - bend
        own = over(xp, over(xp, (second * (1 - y) - 2 * first * y) * (1 - y), by), by)
        return xp.where(small, beyond(xp, own, others / total / total), (own + others) / total / total)


def beyond(xp, x, y):
    """x + y, and x where that is infinite, whatever y, which is far below it."""
    return x + xp.where(xp.isinf(x), xp.zeros_like(y), y)


# Steps that several formulas share.


def positive_part(xp, x):
    """x where it is above 0, else 0; NaN goes through."""
    return xp.where(x <= 0, xp.zeros_like(x), x)


def magnitude(xp, x):
    """|x|, whose derivative at 0 is 0 everywhere (in JAX that of ``abs`` is 1)."""
    return xp.where(x == 0, xp.zeros_like(x), xp.abs(x))


def sign(xp, x):
    """-1, 0 or 1; NaN stays NaN. array_api_compat's writes NaN by a mask, which torch cannot do under `vmap`."""
    return xp.where(x > 0, xp.ones_like(x), xp.where(x < 0, -xp.ones_like(x), x - x))


def floored(xp, x, low):
    """x, but at least `low`; NaN goes through."""
    return xp.where(x < low, xp.full_like(x, low), x)


# Products and quotients that are 0 where their first factor is, whatever the other. The other is replaced where it would spoil that, and
# nowhere else, so that the derivative with respect to a first factor of 0 is right: the other one, or 0 where that is not finite.


def times(xp, a, b):
    """a·b, and 0 where a is 0 and b is infinite or NaN: an impossible class with target 0 costs nothing."""
    return a * xp.where(~xp.isfinite(b) & (a == 0), xp.zeros_like(b), b)


def part(xp, t, x):
    """t·x, and 0 where t is 0 and x infinite; where x is NaN both are NaN, the product and its derivative with respect to t."""
    return t * xp.where((t == 0) & xp.isinf(x), xp.zeros_like(x), x)


def nan_where(xp, bad, x):
    """1 in the shape of x, and NaN where `bad` is true: a factor, so that autograd's derivative is NaN, too.

    It is made of no constant NaN: JAX' debug_nans stops at every NaN that an operation gives.
    """
    one = xp.ones_like(x)
    return xp.where(bad, xp.full_like(x, float("inf")), one) * xp.where(bad, xp.zeros_like(x), one)


def whole(xp, x):
    """x, with a derivative that is NaN where x is: `where` or `clip` further on would otherwise make a number of it."""
    return x * nan_where(xp, xp.isnan(x), x)


def times_log(xp, a, y):
    """a·log y, and 0 where a is 0, whatever y but NaN."""
    return a * xp.log(xp.where(xp.isnan(y), y, _or_one(xp, a, y, y)))


def over(xp, a, b):
    """a / b, and 0 where a is 0, whatever b."""
    return a / _or_one(xp, a, b, xp.abs(b))


def over_square(xp, x, y):
    """x / y², whose square may overflow or vanish where the quotient does not; 0 where x is 0, whatever y."""
    return over(xp, over(xp, x, y), y)


def _or_one(xp, a, y, size):
    """y, and 1 where a is 0 and y has no logarithm or no reciprocal: there a derivative would be 0·∞."""
    usable = (size >= float(xp.finfo(y.dtype).smallest_normal)) & xp.isfinite(size)
    return xp.where((a == 0) & ~usable, xp.ones_like(y), y)


def mixed(xp, t, a, b):
    """t a + (1 - t) b for a, b >= 0, from the nearer of the two. Its derivative with respect to t is one product, which is infinite where a
    difference of two would be none: what comes down to it may be infinite, and a or b be 0.
    """
    return xp.where(t < 0.5, b + t * (a - b), a + (1 - t) * (b - a))


def power(xp, u, n):
    """u**n for u >= 0 and a number n; 0 at u = 0 even where n < 0 (it is multiplied by something that vanishes faster)."""
    zero, one = u == 0, xp.ones_like(u)
    at_zero = xp.zeros_like(u)
    if traced(n):
        at_zero = xp.where(n == 0, one, at_zero)
    elif n == 0:  # a constant, whose derivative is no 0 that something infinite would multiply
        return one
    return xp.where(zero, at_zero, xp.where(zero, one, u) ** n)


def sigmoid(xp, z):
    """1 / (1 + exp(-z)), accurate to the last bits for either sign."""
    up = z >= 0
    e = xp.exp(xp.where(up, -z, z))
    return xp.where(up, xp.ones_like(e), e) / (1 + e)


def clipped(xp, p, low, high):
    """p clipped to [low, high], -0.0 as 0.0, and where it was inside (NaN counts as inside, so that it goes through)."""
    under, over = p < low, p > high
    return xp.where(under, xp.full_like(p, low), xp.where(over, xp.full_like(p, high), p)) + 0.0, ~(under | over)


def shares(xp, p, epsilon):
    """p divided by its sum, clipped to [epsilon, 1 - epsilon]; where it was inside; the sum. NaN where that is 0 or infinite."""
    total = xp.sum(p, axis=1, keepdims=True)
    total = total * nan_where(xp, (total == 0) | ~xp.isfinite(total), total)
    return *clipped(xp, p / total, epsilon, 1 - epsilon), total


def capped(xp, z, cap):
    """cap·tanh(z / cap) and its derivative 1 / cosh²(z / cap). Neither that nor autograd's of the former cancels where it is small."""
    x = z / cap
    size = xp.abs(x)
    e = xp.exp(-2 * size)
    y = (1 - e) / (1 + e)  # where this is near 1, 1 - y², of which libraries make the derivative of tanh, has lost its digits
    return cap * xp.where(size < 1, xp.tanh(x), xp.where(x < 0, -y, y)), 4 * e / (1 + e) ** 2


def evening(xp, x):
    """A power of two that brings sizes x away from both ends of their dtype, so far that squares of the product are normal numbers.

    It is constant in pieces: no derivative sees it.
    """
    n = 16 if float(xp.finfo(x.dtype).max) < 1e39 else 128  # an eighth of the largest exponent
    one = xp.ones_like(x)
    small = xp.where(x < 2.0 ** (-5 * n), 2.0 ** (7 * n) * one, xp.where(x < 2.0 ** (-2 * n), 2.0 ** (4 * n) * one, one))
    return xp.where(x > 2.0 ** (2 * n), 2.0 ** (-5 * n) * one, small)


def log_softmax(xp, z):
    """log p, p and 1 - p along axis 1, each accurate to the last bits.

    The largest logit's own term is kept out of the sum: with r = Σ over the others of exp(z - m), log p of the largest is -log1p(r), and
    its 1 - p is r / (1 + r), both right where 1 + r rounds to 1. The largest is picked by its index, so that ties differentiate correctly.
    A row with +inf, or of -inf alone, is NaN.
    """
    c = xp.arange(z.shape[1], device=beside(z))
    top = c[None, :, None] == xp.argmax(z, axis=1, keepdims=True)
    m = xp.sum(xp.where(top, z, xp.zeros_like(z)), axis=1, keepdims=True)
    # 0 * m is NaN where m is infinite; a constant NaN would stop JAX under debug_nans. The largest logit's d is set to 0, not computed: XLA
    # may fuse z, where that is a product, with the subtraction, which rounds once; at logits of 1000 its p was 1 + 4e-5.
    d = xp.where(top, 0 * m, z - (m + 0 * m))
    e = xp.exp(d)
    rest = xp.sum(xp.where(top, xp.zeros_like(e), e), axis=1, keepdims=True)
    l, p = d - xp.log1p(rest), e / (1 + rest)
    return l, p, xp.where(top, rest / (1 + rest), 1 - p)
