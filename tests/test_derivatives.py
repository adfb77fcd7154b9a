"""Derivatives with respect to everything that a loss depends on, of first and second order, from the autograd of PyTorch and of JAX.

A loss with its arguments (predictions, targets, weights of samples and of classes) is a function of one long vector. What autograd says of
it is compared with difference quotients: of the losses, which the kernels compute without autograd, and of the gradients beside the point
in question, where no entry is exactly 0 or 1 and so no case of its own.
"""

import numpy as np
import pytest
import torch
from libraries import JAX, ROUTES
from oracle import CASES

import polyloss as pl
import polyloss.torch as ours
from polyloss._core.block import LOSSES
from polyloss._core.params import clip_bound

WEIGHTED = np.array([1.0, 0.0, 2.5, 0.25, 0.0, 3.0])
SOFT = ("probabilities", "distribution")
REGRESSIONS = ("mean_squared_error", "mean_absolute_error", "huber", "log_cosh", "poisson")


def hard(case):
    """A case's inputs with targets that are exactly 0 or 1, where the loss is differentiable there."""
    t, p = case.inputs()
    if case.t in SOFT:
        t = np.eye(case.c)[np.arange(case.n) % case.c]
    elif case.loss in REGRESSIONS and "full" not in case.params:  # Stirling's term jumps at 1
        t[::2], t[1::2, 1] = 0.0, 1.0
    return t, p


def sized(case):
    """The case's loss as a function of a dictionary of arrays (and of what makes labels an array beside them), and those arrays."""
    t, p = hard(case)
    given = {"p": p, "w": WEIGHTED} | ({} if case.labelled else {"t": t})
    if case.loss == "softmax_loss":
        given["k"] = np.array([0.5, 0.0, 1.25, 0.0, 3.0])
    params = {key: value for key, value in case.params.items() if key != "class_weight"}
    if LOSSES[case.loss].scan_targets:
        params["labels"] = "01" if case.t == "binary" else "pm1"  # "auto" jumps where a target leaves 0
    reduction = "normalize" if case.loss == "softmax_loss" else "mean"

    def loss(x, labels=np.asarray):
        classes = {"class_weight": x["k"]} if "k" in x else {}
        y_true = x["t"] if "t" in x else labels(t)
        return case.target(y_true, x["p"], sample_weight=x["w"], axis=-1, reduction=reduction, **classes, **params)

    return loss, given


def steps(given, h):
    """Every entry of every array, and the arrays with that entry moved by ±h."""
    for name, x in given.items():
        for place in np.ndindex(x.shape):
            moved = []
            for sign in (1, -1):
                y = x.copy()
                y[place] += sign * h
                moved.append(given | {name: y})
            yield name, place, moved


def skipped(case, name, place, given):
    """Whether a loss has no derivative with respect to this entry: at a clip or a kink of its targets, or of an infinite slope."""
    if name != "t":
        return False
    t = given["t"][place]
    clips = case.loss == "kl_divergence" and t in (0, 1)
    return clips or (case.loss == "mean_absolute_percentage_error" and t == 0)


def by_torch(loss):
    """The functions of a point that give the gradient there, and the gradient with the Hessian's product with a direction."""

    def derivatives(given, direction=None):
        x = {name: torch.tensor(a, requires_grad=True) for name, a in given.items()}
        leaves = list(x.values())
        first = torch.autograd.grad(loss(x, torch.tensor), leaves, create_graph=direction is not None, materialize_grads=True)
        gradient = {name: g.detach().numpy() for name, g in zip(x, first, strict=True)}
        if direction is None:
            return gradient
        along = sum((g * torch.tensor(direction[name])).sum() for name, g in zip(x, first, strict=True))
        second = torch.autograd.grad(along, leaves, materialize_grads=True) if along.requires_grad else map(torch.zeros_like, leaves)
        return gradient, {name: g.numpy() for name, g in zip(x, second, strict=True)}

    return derivatives, derivatives


def by_jax(loss):
    """The same of JAX, as one compiled program."""

    @JAX.jax.jit
    def program(given, direction):
        return JAX.jax.jvp(JAX.jax.grad(loss), (given,), (direction,))

    def derivatives(given, direction):
        return JAX.jax.tree.map(np.asarray, program(given, direction))

    return lambda given: derivatives(given, given)[0], derivatives


@pytest.mark.parametrize("autograd", [by_torch, by_jax])
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_gradient_and_hessian_with_respect_to_every_argument(case, autograd):
    loss, given = sized(case)
    rng, h, (slopes, derivatives) = np.random.default_rng(8), 2.0**-16, autograd(loss)
    direction = {name: rng.uniform(0.5, 1, x.shape) * rng.choice([-1, 1], x.shape) for name, x in given.items()}
    for place in np.ndindex(given["t"].shape) if "t" in given else ():
        direction["t"][place] *= not skipped(case, "t", place, given)
    gradient, product = derivatives(given, direction)
    for name, place, (up, down) in steps(given, h):
        if not skipped(case, name, place, given):
            quotient = (loss(up) - loss(down)) / (2 * h)
            assert gradient[name][place] == pytest.approx(quotient, rel=1e-6, abs=1e-7), (name, place)
    beside = [slopes({name: x + s * h * direction[name] for name, x in given.items()}) for s in (1, -1)]
    for name in given:
        quotient = (beside[0][name] - beside[1][name]) / (2 * h)
        np.testing.assert_allclose(product[name], quotient, rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("autograd", [by_torch, by_jax])
def test_second_derivatives_of_what_a_weight_of_zero_hides(autograd):
    """A loss that is NaN, since its prediction is below 0, has no slope there, nor a slope's slope."""

    def loss(x, labels=np.asarray):
        return pl.poisson_deviance(x["t"], x["p"], sample_weight=x["w"], reduction="sum")

    given = {"p": np.array([[0.5], [-0.25]]), "t": np.ones((2, 1)), "w": np.array([1.0, 0.0])}
    _, derivatives = autograd(loss)
    for order in derivatives(given, {name: np.ones_like(x) for name, x in given.items()}):
        for x in order.values():
            assert np.isfinite(x).all()
            assert x[0].all()
        assert order["p"][1] == order["t"][1] == 0


EDGES = [0.0, 1.0, 0.5, -1.0, 1e-38, 1e-45, 3.4e38, -3.4e38, 90.0, -90.0, float("inf"), -float("inf"), float("nan")]

INFINITE = {  # loss, parameters, targets, predictions, and the slope by hand
    "binary focal": ("binary_focal_crossentropy", {"epsilon": 0.0, "label_smoothing": 1.0, "gamma": 0.0}, [1.0], [1.0], [np.inf]),
    "binary focal, logits": ("binary_focal_crossentropy", {"from_logits": True}, [0.0], [1e308], [1.0]),
    "kl": ("kl_divergence", {"epsilon": 0.0}, [0.0, 1.0], [0.0, 0.0], [0.0, -np.inf]),
    "pseudo huber": ("pseudo_huber", {}, [0.0], [1e308], [1.0]),
}


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_what_else_torch_differentiates_does_not_change_the_slope(case):
    """It is the slope that is written out, to the last bit, at edges too, where autograd of the value would multiply 0 by infinity."""
    rng = np.random.default_rng(2)
    t, p = case.inputs("float32")
    edges = rng.choice(np.array(EDGES, "float32"), p.shape)
    unclipped = {"epsilon": 0.0} if LOSSES[case.loss].params.get("epsilon") is clip_bound else {}
    for predictions, weight in ((p, WEIGHTED), (edges, WEIGHTED), (edges, np.zeros_like(WEIGHTED))):
        for reduction in ("none", "sum", "normalize" if case.loss == "softmax_loss" else "mean"):
            for params in ({}, unclipped):
                kwargs = {**case.params, "axis": -1, "reduction": reduction, **params}
                kwargs["class_weight"] = torch.tensor(kwargs["class_weight"]) if "class_weight" in kwargs else None
                kwargs = {name: x for name, x in kwargs.items() if x is not None}
                w = torch.tensor(weight.astype("float32"))
                y, x = torch.tensor(t), torch.tensor(predictions)
                right = pl.grad(case.target)(y, x, sample_weight=w, **kwargs)
                leaves = [x.requires_grad_(), w.requires_grad_(), *([] if case.labelled else [y.requires_grad_()])]
                loss = case.target(y, x, sample_weight=w, **kwargs)
                gradient, *others = torch.autograd.grad(loss.sum(), leaves)
                np.testing.assert_array_equal(gradient, right)
                if predictions is p:
                    assert all(torch.isfinite(other).all() for other in others)


@pytest.mark.parametrize("name", INFINITE)
def test_slopes_that_are_infinite_come_from_jax_too(name):
    """With respect to predictions, of a traced program, whatever else it differentiates, where autograd of the value gives NaN."""
    loss, params, t, p, right = INFINITE[name]
    t, p = np.asarray(t), np.asarray([p])
    t, w = t if t.dtype.kind == "i" else t[None].astype(float), np.array([2.0])

    def total(p, w, t=t):
        return getattr(pl, loss)(t, p, sample_weight=w, axis=-1, reduction="sum", **params)

    found = JAX.jax.grad(total, argnums=(0, 1))(p, w)
    np.testing.assert_allclose(found[0][0], np.multiply(right, 2), rtol=1e-12)
    tensor = torch.tensor(p, requires_grad=True)
    total(tensor, torch.tensor(w, requires_grad=True), torch.tensor(t)).backward()
    np.testing.assert_allclose(tensor.grad[0], np.multiply(right, 2), rtol=1e-12)


def test_derivatives_by_targets_at_edges():
    """Against figures by hand: 2 (t^b - m^b) / b for a Tweedie deviance, b = 1 - power; what is infinite of a target of 0 counts as 0."""
    inf, m = np.inf, 3.0
    for loss, params, t, p, right in (
        ("binary_focal_crossentropy", {"apply_class_balancing": True, "epsilon": 0.0}, 0.0, 1.0, -inf),
        ("binary_focal_crossentropy", {"from_logits": True}, 0.0, inf, -inf),
        ("tweedie_deviance", {"power": 0.0, "log_input": True}, 0.0, np.log(m), -2 * m),
        ("tweedie_deviance", {"power": 0.0, "log_input": True}, -2.0, np.log(m), -2 * (2 + m)),
        ("tweedie_deviance", {"power": -1.0}, 0.0, m, -(m**2)),
        ("tweedie_deviance", {"power": -1.0}, -2.0, m, -(m**2)),
        ("tweedie_deviance", {"power": 1.5}, 0.0, m, 4 * m**-0.5),
        ("tweedie_deviance", {"power": 3.0}, 1e-150, m, m**-2.0 - 1e300),
    ):
        tensor = torch.tensor([[t]], dtype=torch.float64, requires_grad=True)
        getattr(pl, loss)(tensor, torch.tensor([[p]], dtype=torch.float64), **params).backward()
        by_jax = JAX.jax.grad(lambda t: getattr(pl, loss)(t, np.array([[p]]), **params)[0])(np.array([[t]]))  # noqa: B023
        for found in (tensor.grad, by_jax):
            np.testing.assert_allclose(found, [[right]], rtol=1e-12, err_msg=f"{loss} {params} {t}")


def test_slopes_by_targets_of_deviances_beside_what_is_huge():
    """What comes from above is handed down through logarithms: no step of it overflows where the slope does not. Figures by hand."""
    for loss, params, t, m, right in (
        ("poisson_deviance", {}, 1.0, 2.0**-32, 64 * np.log(2)),
        ("gamma_deviance", {}, 1.0, 2.0**-20, 2.0**21 - 2),
        ("tweedie_deviance", {"power": 1.5}, 1.0, 2.0**-32, 4 * (2.0**16 - 1)),
        ("tweedie_deviance", {"power": -1.0}, 1.0, 0.0, 1.0),  # whose logarithm of the quotient is infinite
    ):
        y_true, p = torch.tensor([[t]], requires_grad=True), torch.tensor([[m]])
        for weight in (1e29, 0.0):
            y_true.grad = None
            getattr(pl, loss)(y_true, p, sample_weight=torch.tensor([weight]), **params).sum().backward()
            np.testing.assert_allclose(y_true.grad.item(), weight * right, rtol=1e-5)


def test_tweedie_deviances_of_tiny_and_negative_targets():
    """Against figures by hand: t^b overflows where t t^b does not, and for power 0 every target is one."""
    for route in ROUTES:
        tiny = np.array([[1e-45]], "float32")
        value = route(pl.tweedie_deviance, tiny, np.array([[0.25]], "float32"), power=1.9)
        np.testing.assert_allclose(value, 2 * (0.25**0.1 / 0.1 - float(tiny[0, 0]) ** 0.1 / 0.09), rtol=1e-6)
        assert route(pl.tweedie_deviance, tiny, np.ones_like(tiny), power=3.0) == np.inf
        np.testing.assert_allclose(route(pl.tweedie_deviance, [[-90.0]], [[0.0]], power=0.0, log_input=True), 91.0**2, rtol=1e-15)
        assert np.isnan(route(pl.tweedie_deviance, [[-1.0]], [[0.0]], power=1.5, log_input=True))


@pytest.mark.parametrize("case", [case for case in CASES if not case.labelled], ids=repr)
def test_gradients_themselves_are_differentiable_on_jax(case):
    """`grad(loss)`, which is written out, with respect to predictions, targets and weights."""
    jax = JAX.jax
    t, p = hard(case)
    labels = {"labels": "01" if case.t == "binary" else "pm1"} if LOSSES[case.loss].scan_targets else {}
    direction = np.random.default_rng(9).uniform(0.5, 1, p.shape)

    def slope(x):
        return (case.of(pl.grad(case.target), x["t"], x["p"], sample_weight=x["w"], reduction="sum", **labels) * direction).sum()

    given = {"p": p, "t": t, "w": WEIGHTED}
    found = jax.grad(slope)({name: jax.numpy.asarray(x) for name, x in given.items()})
    h = 2.0**-18
    for name, place, (up, down) in steps(given, h):
        if not skipped(case, name, place, given):
            assert found[name][place] == pytest.approx((slope(up) - slope(down)) / (2 * h), rel=1e-6, abs=1e-6), (name, place)


def test_targets_of_0_whose_slope_is_infinite():
    """That of t log t at 0, and that of an impossible class: what is infinite counts as 0."""
    t, p = np.array([[0.0, 1.0, 0.0]]), np.array([[0.25, 0.5, 0.25]])
    z = np.array([[-np.inf, 0.0, 0.0]])
    for loss, predictions, right in (
        (lambda t, p: pl.kl_divergence(t, p).sum(), p, [[np.log(4), 1 + np.log(2), np.log(4)]]),
        (pl.softmax_loss, z, [[0.0, np.log(2), np.log(2)]]),
    ):
        np.testing.assert_allclose(JAX.jax.grad(loss)(t, predictions), right, rtol=1e-14)
        tensor = torch.tensor(t, requires_grad=True)
        loss(tensor, torch.tensor(predictions)).backward()
        np.testing.assert_allclose(tensor.grad, right, rtol=1e-14)


@pytest.mark.parametrize("upstream", [1.0, 1e-4])
@pytest.mark.parametrize(
    ("t", "p"), [(4e-12, 1.4e-45), (1e-20, 1e-40), (0.5, 1e-38), (1.0, 2e-38), (1e-25, 1e-30), (1e-10, 0.3), (0.7, 0.5)]
)
def test_divergence_by_a_target_beside_a_tiny_prediction(t, p, upstream):
    """log(t / p) + 1: the 1 is t times what comes from above, over t, on the way of which p must not be a factor."""
    t, p = np.float32([[t]]), np.float32([[p]])
    right = upstream * (np.log(t.astype(float) / p.astype(float)) + 1)
    tensor = torch.tensor(t, requires_grad=True)
    (pl.kl_divergence(tensor, torch.tensor(p), epsilon=0.0).sum() * upstream).backward()
    np.testing.assert_allclose(tensor.grad, right, rtol=1e-6)
    if p > 1.2e-38:  # XLA takes less for 0
        slope = JAX.jax.grad(lambda t: pl.kl_divergence(t, p, epsilon=0.0).sum() * np.float32(upstream))(t)
        np.testing.assert_allclose(slope, right, rtol=1e-6)


MODULES = {
    "CrossEntropyLoss": lambda kind, k: kind(weight=k, label_smoothing=0.1),
    "BCEWithLogitsLoss": lambda kind, k: kind(pos_weight=k.detach()),
    "BCELoss": lambda kind, k: kind(weight=k.detach()),
    "KLDivLoss": lambda kind, k: kind(reduction="batchmean"),
    "MSELoss": lambda kind, k: kind(),
    "L1Loss": lambda kind, k: kind(),
    "HuberLoss": lambda kind, k: kind(delta=0.5),
    "SmoothL1Loss": lambda kind, k: kind(beta=0.5),
    "PoissonNLLLoss": lambda kind, k: kind(),
    "MultiLabelSoftMarginLoss": lambda kind, k: kind(weight=k),
    "HingeEmbeddingLoss": lambda kind, k: kind(),
}


@pytest.mark.parametrize("n", [3, 4000])  # torch's own code, and ours
@pytest.mark.parametrize("name", MODULES)
def test_modules_have_torchs_derivatives_by_hard_targets_and_weights_of_0(name, n):
    kind, rng = name.partition(" ")[0], np.random.default_rng(n)
    z = rng.standard_normal((n, 5))
    p = 1 / (1 + np.exp(-z)) if kind == "BCELoss" else z - 3 if kind == "KLDivLoss" else z
    t = np.eye(5)[rng.integers(0, 5, n)] if kind != "KLDivLoss" else rng.dirichlet(np.ones(5), n)
    k = np.array([0.5, 0.0, 1.25, 0.0, 3.0])
    results = []
    for modules in (ours, torch.nn):
        leaves = [torch.tensor(x, requires_grad=True) for x in (p, t, k)]
        loss = MODULES[name](getattr(modules, kind), leaves[2])(leaves[0], leaves[1])
        first = torch.autograd.grad(loss, leaves, create_graph=True, materialize_grads=True)
        along = sum((g * torch.linspace(-1, 1, g.numel(), dtype=g.dtype).reshape(g.shape).cos()).sum() for g in first)
        second = torch.autograd.grad(along, leaves, materialize_grads=True) if along.requires_grad else ()
        results.append([loss, *first, *second])
    for x, right in zip(*results, strict=True):
        torch.testing.assert_close(x, right, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("n", [3, 4000])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_weights_of_binary_crossentropy_may_require_grad(reduction, n):
    """Of which torch's own function has no derivatives; here beside what it computes, written out."""
    rng = np.random.default_rng(n)
    z, t = 30 * rng.standard_normal((n, 5)), rng.integers(0, 2, (n, 5)).astype(float)
    k, w = np.array([0.5, 0.0, 1.25, 0.0, 3.0]), rng.integers(0, 3, (n, 1)).astype(float)

    def written_out(z, t, k, w):
        loss = w * (k * t * torch.logaddexp(-z, torch.zeros(())) + (1 - t) * torch.logaddexp(z, torch.zeros(())))
        return loss.mean() if reduction == "mean" else loss

    results = []
    for loss in (lambda z, t, k, w: ours.BCEWithLogitsLoss(weight=w, pos_weight=k, reduction=reduction)(z, t), written_out):
        leaves = [torch.tensor(x, requires_grad=True) for x in (z, t, k, w)]
        found = loss(*leaves)
        first = torch.autograd.grad(found.sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum((g * torch.arange(g.numel()).reshape(g.shape).cos()).sum() for g in first), leaves)
        results.append([found if reduction == "none" else found.sum(), *first, *second])
    for x, right in zip(*results, strict=True):
        torch.testing.assert_close(x, right, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("loss", [pl.hinge, pl.squared_hinge])
def test_what_targets_mean_is_decided_by_the_forward_pass(loss):
    """`labels="auto"` looks at all targets of weight other than 0, whatever autograd hands down to their losses."""
    t, x = torch.tensor([[0.0], [-1.0], [1.0], [0.0]]), torch.full((4, 1), 0.4)
    routes = {"eager": loss, "compiled": torch.compile(loss, backend="aot_eager", fullgraph=True)}
    for weight in (None, torch.tensor([1.0, 2.0, 1.0, 3.0]), torch.tensor([1.0, 0.0, 1.0, 3.0])):  # without -1 they are classes
        kind = "01" if weight is not None and weight[1] == 0 else "pm1"
        right = torch.func.jacrev(lambda x, w=weight, k=kind: loss(t, x, sample_weight=w, labels=k))(x)
        for name, called in routes.items():
            y = x.clone().requires_grad_()
            losses = called(t, y, sample_weight=weight)
            for i in range(4):
                (gradient,) = torch.autograd.grad(losses[i], y, retain_graph=True)
                torch.testing.assert_close(gradient, right[i], msg=f"{name} {weight} {i}")
        for upstream in (torch.tensor([1.0, 0.0, 1.0, 0.0]), torch.eye(4)):
            y = x.clone().requires_grad_()
            losses = loss(t, y, sample_weight=weight)
            batched = upstream.ndim == 2
            (gradient,) = torch.autograd.grad(losses, y, upstream, retain_graph=True, is_grads_batched=batched)
            torch.testing.assert_close(gradient, torch.einsum("...i,ijk->...jk", upstream, right))
            (gradient,) = torch.autograd.grad(losses, y, upstream, create_graph=True, is_grads_batched=batched)
            torch.testing.assert_close(gradient, torch.einsum("...i,ijk->...jk", upstream, right))
        slope = JAX.jax.grad(lambda x, w=weight: loss(t.numpy(), x, sample_weight=None if w is None else w.numpy())[0])(x.numpy())
        np.testing.assert_allclose(slope, right[0], rtol=1e-6)
