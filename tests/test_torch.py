"""PyTorch: every loss in autograd's graph, under torch.func, forward mode, torch.compile, and what the graph keeps in memory."""

import gc
import inspect
import math
import threading
import tracemalloc
import weakref
from functools import partial

import numpy as np
import pytest
import torch
import torch.utils.checkpoint
from libraries import formula, ran

import polyloss as pl
from polyloss._adapters import torch as _torch, torch_autograd as _autograd, torch_operators as _operators
from polyloss._call import call as _call, cpu as _cpu
from polyloss._call.plan import VALUE
from polyloss._core.block import LOSSES
from polyloss._core.params import clip_bound

pytestmark = [
    pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`:UserWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning"),  # torch.func.jvp calls it
]

COMPILES_FORMULAS = pytest.mark.skipif(torch.__version__ < (2, 11), reason="this torch does not trace what decides which formula runs")

LOGITS = [name for name, block in LOSSES.items() if "from_logits" in block.params]
CASES = [(name, {"axis": -1} if block.sets else {}) for name, block in LOSSES.items()] + [(name, {"from_logits": True}) for name in LOGITS]
CASES += [("softmax_loss", dict(label_smoothing=0.1, ignore_label=1)), ("softmax_loss", dict(axis=-1, normalization="full"))]
IDS = [name + "".join(f"-{key}" for key in options) for name, options in CASES]

# Of predictions (4, 6, 7, 5): axis of the classes, and what is made of them.
VIEWS = {
    "next tokens": (-1, lambda x: x[0, :, :-1]),
    "images of other planes": (-1, lambda x: x[:, :, 0][:, ::2]),
    "classes first in memory": (1, lambda x: x[:, 0].movedim(-1, 1)),
    "channels last": (1, lambda x: x.movedim(-1, 1)),
    "rows of images": (1, lambda x: x.movedim(-1, 1)[:, :, 1:]),
    "every other image": (-1, lambda x: x[::2]),
    "some classes": (-1, lambda x: x[..., :3]),
    "transposed": (0, lambda x: x[0].transpose(0, 2)[:, :, ::3].transpose(1, 2)),
    "tokens before sequences": (-1, lambda x: x[:, :, 0].transpose(0, 1)),
}


def sample(name, n=4, c=5, dtype=torch.float64, seed=0):
    """Targets and predictions that the loss allows, away from its kinks."""
    g = torch.Generator().manual_seed(seed)
    block = LOSSES[name]
    c = c if block.length is None else block.length({})
    p = torch.rand(n, c, generator=g, dtype=torch.float64) * 0.8 + 0.1
    if block.targets == "dense":
        t = torch.rand(n, c, generator=g, dtype=torch.float64) * 0.8 + 0.1
        if LOSSES[name].scan_targets or name == "categorical_hinge":
            t = t.round()
        return t.to(dtype), p.to(dtype)
    if block.targets == "values":
        return torch.rand(n, generator=g, dtype=torch.float64).to(dtype), p.to(dtype)
    return torch.randint(0, c, (n,), generator=g), p.to(dtype)


def through_backward(loss, z):
    """The gradient by `backward`, since a reentrant checkpoint refuses `torch.autograd.grad`."""
    z.grad = None
    loss.backward()
    return z.grad


def asserted(found, wanted, **options):
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11, **options)


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
class TestEveryLoss:
    def test_gradients_of_first_and_second_order(self, name, options):
        t, p = sample(name)
        p.requires_grad_()

        def losses(p):
            return pl.get(name)(t, p, reduction="none", **options)

        assert torch.autograd.gradcheck(losses, (p,))
        assert torch.autograd.gradcheck(lambda p: pl.get(name)(t, p, reduction="sum", **options), (p,))
        assert torch.autograd.gradgradcheck(losses, (p,))

    def test_forward_mode(self, name, options):
        t, p = sample(name)
        gradient = pl.grad(name)(t, p, reduction="sum", **options)
        direction = torch.rand_like(p)
        _, slope = torch.func.jvp(lambda p: pl.get(name)(t, p, reduction="sum", **options), (p,), (direction,))
        asserted(slope, (gradient * direction).sum())
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(p, direction)
            loss = pl.get(name)(t, dual, reduction="sum", **options)
            asserted(torch.autograd.forward_ad.unpack_dual(loss).tangent, slope)

    def test_gradients_by_targets_and_weights(self, name, options):
        t, p = sample(name)
        w = torch.tensor([0.5, 2.0, 0.0, 1.0], dtype=torch.float64, requires_grad=True)
        arguments = [p.requires_grad_(), w]
        if LOSSES[name].targets == "dense" and not LOSSES[name].scan_targets and name != "categorical_hinge":
            arguments.append(t.requires_grad_())

        def loss(p, w, t=t):
            return pl.get(name)(t, p, sample_weight=w, reduction="none", **options)

        assert torch.autograd.gradcheck(loss, arguments)
        asserted(torch.autograd.grad(loss(p, w).sum(), p)[0], pl.grad(name)(t.detach(), p, sample_weight=w, reduction="sum", **options))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
    def test_autograd_is_value_and_grad(self, name, options, dtype):
        t, p = sample(name, 7, 6, dtype)
        w = torch.arange(7.0)
        p.requires_grad_()
        for reduction in LOSSES[name].reductions:
            for weight in (None, w):
                value, gradient = pl.value_and_grad(name)(t, p, sample_weight=weight, reduction=reduction, **options)
                loss = pl.get(name)(t, p, sample_weight=weight, reduction=reduction, **options)
                assert loss.grad_fn is not None
                assert not value.requires_grad
                assert not gradient.requires_grad
                torch.testing.assert_close(loss, value, rtol=1e-6, atol=1e-8)  # two kernels: with the gradient, and without
                (found,) = torch.autograd.grad(loss.sum(), p)
                assert found.dtype is dtype
                torch.testing.assert_close(found, gradient)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
    def test_a_kept_gradient_is_scaled_once_and_found_again(self, monkeypatch, name, options, dtype):
        """A scalar loss comes with its gradient: the kernel runs once in forward and backward, again only for a graph that is retained."""
        t, p = sample(name, 7, 6, dtype)
        p.requires_grad_()
        runs = ran(monkeypatch)
        _, gradient = pl.value_and_grad(name)(t, p, reduction="sum", **options)
        scaled = pl.grad(name)(t, p.detach().double(), reduction="sum", **options).mul(-12345.6)
        runs.clear()
        loss = pl.get(name)(t, p, reduction="sum", **options)
        (found,) = torch.autograd.grad(loss, p, retain_graph=True)
        assert len(runs) == 1
        assert torch.equal(found, gradient)
        found.fill_(7)  # its memory is the receiver's
        (again,) = torch.autograd.grad(loss, p, retain_graph=True)
        assert len(runs) == 2
        torch.testing.assert_close(again, gradient)
        loss = pl.get(name)(t, p, reduction="sum", **options)
        for _ in range(2):
            (found,) = torch.autograd.grad(-12345.6 * loss, p, retain_graph=True)
            rtol = {torch.float64: 1e-12, torch.float32: 3e-6}.get(dtype, torch.finfo(dtype).eps)
            torch.testing.assert_close(found.double(), scaled.to(dtype).double(), rtol=rtol, atol=rtol * scaled.abs().max().item())
        batch = torch.tensor([1.0, 0.0, -2.0], dtype=loss.dtype)
        for _ in range(2):
            (found,) = torch.autograd.grad(loss, p, batch, is_grads_batched=True, retain_graph=True)
            torch.testing.assert_close(found, (batch[:, None, None] * gradient).to(dtype))
        batch = torch.rand(3, 7).to(loss.dtype)
        (found,) = torch.autograd.grad(pl.get(name)(t, p, **options | {"reduction": "none"}), p, batch, is_grads_batched=True)
        torch.testing.assert_close(found, (batch[:, :, None] * gradient).to(dtype))
        loss.backward()
        with pytest.raises(RuntimeError, match="Trying to backward through the graph a second time"):
            loss.backward()

    def test_function_transforms(self, name, options):
        t, p = sample(name)
        loss = pl.get(name)
        row = {key: x for key, x in options.items() if key != "axis"} | {"axis": -1}
        gradient = pl.grad(name)(t, p, reduction="sum", **row)
        asserted(torch.func.grad(lambda p: loss(t, p, reduction="sum", **row))(p), gradient)
        if not LOSSES[name].scan_targets:  # their labels="auto" looks at all targets at once
            asserted(torch.func.vmap(lambda t, p: loss(t, p, reduction="none", **row))(t, p), loss(t, p, reduction="none", **row))
            per_sample = torch.func.vmap(torch.func.grad(lambda p, t: loss(t, p, reduction="none", **row)))(p, t)
            asserted(per_sample, gradient)

    def test_transforms_take_the_slope_as_it_is_written(self, name, options):
        """At the edges, where autograd of the value would be NaN; beside a denominator that is differentiated, too."""
        t, p = sample(name, n=6, c=4)
        t = t if LOSSES[name].targets == "values" else t.round()
        p[0], p[1, :2], p[2, 0], p[3, 1:], p[4, 0], p[5] = 0.0, torch.tensor([0.0, 1.0]), -0.0, 1e-320, 1e300, 1.0
        options = options | ({"epsilon": 0.0} if LOSSES[name].params.get("epsilon") is clip_bound and "from_logits" not in options else {})

        def loss(p, **more):
            return pl.get(name)(t, p, **{"reduction": "sum", **options, **more})

        gradient = formula(pl.grad(name), t, p, reduction="sum", **options)
        asserted(torch.func.grad(loss)(p), gradient, equal_nan=True)
        direction = torch.zeros_like(p)
        direction[0, 0] = direction[5, 1] = 1.0
        _, tangent = torch.func.jvp(loss, (p,), (direction,))
        asserted(tangent, (gradient * direction).sum(), equal_nan=True)
        if name == "softmax_loss":
            p, denominator = p.requires_grad_(), torch.ones((), requires_grad=True)
            loss(p, reduction="normalize", denominator=denominator).backward()
            asserted(p.grad, gradient, equal_nan=True)

    def test_curvature_by_double_backward(self, name, options):
        t, p = sample(name)
        curvature = torch.func.hessian(lambda p: pl.get(name)(t, p, reduction="sum", **options))(p)
        wanted = pl.grad_and_hess(name)(t, p, reduction="sum", **options)[1]
        asserted(torch.einsum("abab->ab", curvature), wanted)
        forward_twice = torch.func.jacfwd(torch.func.jacfwd(lambda p: pl.get(name)(t, p, reduction="sum", **options)))(p)
        asserted(forward_twice, curvature)
        p.requires_grad_()
        (gradient,) = torch.autograd.grad(pl.get(name)(t, p, reduction="sum", **options), p, create_graph=True)
        rows = [torch.autograd.grad(x, p, retain_graph=True)[0].flatten()[i] for i, x in enumerate(gradient.flatten())]
        asserted(torch.stack(rows).reshape(p.shape), wanted)

    def test_compiled_without_a_break(self, name, options):
        t, p = sample(name, dtype=torch.float32)
        p.requires_grad_()
        graphs = []

        def backend(graph, inputs):
            graphs.append(graph)
            return graph

        torch._dynamo.reset()
        compiled = torch.compile(lambda t, p: pl.get(name)(t, p, reduction="sum", **options), fullgraph=True, backend=backend)
        loss = compiled(t, p)
        torch.testing.assert_close(loss, pl.get(name)(t, p, reduction="sum", **options))
        torch.testing.assert_close(torch.autograd.grad(loss, p)[0], pl.grad(name)(t, p, reduction="sum", **options))
        assert [node.target for node in graphs[0].graph.nodes if "polyloss" in str(node.target)] == [torch.ops.polyloss.loss]

    def test_inference_mode(self, monkeypatch, name, options):
        """No node in a graph is made, and no gradient."""
        t, p = sample(name, dtype=torch.float32)
        wanted, gradient = pl.value_and_grad(name)(t, p, reduction="sum", **options)
        for module in (_torch, _autograd):
            monkeypatch.setattr(module, "apply_loss", None)
        with torch.no_grad():
            assert pl.get(name)(t, p.clone().requires_grad_(), reduction="sum", **options).grad_fn is None
        with torch.inference_mode():
            for predictions in (p.clone().requires_grad_(), p.clone()):
                loss = pl.get(name)(t, predictions, reduction="sum", **options)
                assert loss.is_inference()
                assert not loss.requires_grad
                torch.testing.assert_close(loss, wanted)
                assert torch.equal(pl.grad(name)(t, predictions, reduction="sum", **options), gradient)
            targets = t.clone()
        monkeypatch.undo()
        p.requires_grad_()
        for reduction in ("sum", "sum", "none"):  # a graph keeps what cannot be written to unseen
            loss = pl.get(name)(targets, p, **options | {"reduction": reduction}).sum()
            with torch.inference_mode():
                targets.zero_()
            for _ in range(2):
                torch.testing.assert_close(torch.autograd.grad(loss, p, retain_graph=True)[0], gradient)
            with torch.inference_mode():
                targets.copy_(t)
        monkeypatch.setattr(_torch, "record", None)  # what is not known goes there: 95 µs, where a known call takes 10
        (found,) = torch.autograd.grad(pl.get(name)(targets, p, reduction="sum", **options), p)
        torch.testing.assert_close(found, gradient)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_autocast(self, name, options, dtype):
        """Losses are float32 there, as torch's own, and gradients come back in the predictions' type."""
        t, p = sample(name, 6, 5, dtype)
        t = t.float() if t.is_floating_point() else t
        wanted, slope = pl.value_and_grad(name)(t, p.float(), reduction="sum", **options)
        wide = p.double().requires_grad_()
        p.requires_grad_()
        with torch.autocast("cpu", dtype):
            loss = pl.get(name)(t, p, reduction="sum", **options)
            of_double = pl.get(name)(t, wide, reduction="sum", **options)
            (gradient,) = torch.autograd.grad(loss, p)
            (of_linear,) = torch.autograd.grad(pl.get(name)(t, p @ torch.eye(p.shape[1]), reduction="sum", **options), p)
        assert (loss.dtype, of_double.dtype) == (torch.float32, torch.float64)
        assert gradient.dtype is dtype
        torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(gradient, slope.to(dtype))
        torch.testing.assert_close(of_linear, slope.to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=2 * torch.finfo(dtype).eps)

    @pytest.mark.parametrize("view", VIEWS)
    def test_no_layout_is_copied(self, monkeypatch, name, options, view):
        """The kernel gets the memory of tensors and arrays, whatever their strides; the gradient is an ordinary tensor."""
        axis, make = VIEWS[view]
        options = {key: x for key, x in options.items() if key != "axis"} | {"axis": axis, "reduction": "sum"}
        block = LOSSES[name]
        if block.kernel is None or (block.combine and block.targets == "either"):
            return  # the formula's operations copy what they like
        whole_t, whole_p = sample(name, 4 * 6 * 7, 5)
        c = whole_p.shape[1]  # of some losses not 5
        p = make(whole_p.reshape(4, 6, 7, c))
        at = axis % p.ndim
        places = whole_t.reshape(4, 6, 7, -1).expand(4, 6, 7, c)
        places = make(places % p.shape[at] if block.targets in ("labels", "either") else places)
        t = places if block.targets == "dense" else places.select(at, 0)
        dense_t, dense_p = (x.clone(memory_format=torch.contiguous_format) for x in (t, p))
        value, gradient = pl.value_and_grad(name)(dense_t, dense_p, **options)
        runs = ran(monkeypatch)
        leaf = p.detach().requires_grad_()
        function = pl.value_and_grad(name)
        out = torch.full_like(dense_p, torch.nan)
        for found in (
            function(t, p, **options),
            function(t.numpy(), p.numpy(), **options),
            function(t, p, out=out, **options),
            (loss := pl.get(name)(t, leaf, **options), torch.autograd.grad(loss, leaf)[0]),
        ):
            asserted(torch.as_tensor(found[0]), value)
            asserted(torch.as_tensor(found[1]), gradient)
            if isinstance(found[1], torch.Tensor):
                assert found[1].is_contiguous()
        assert len(runs) == 4
        for k, (plan, arrays) in enumerate(runs):
            as_numpy = _cpu.as_numpy(plan, arrays)
            assert np.shares_memory(as_numpy.p, p.detach().numpy())
            assert np.shares_memory(as_numpy.t, t.numpy())
            assert np.shares_memory(as_numpy.gradient, out.numpy()) == (k == 2)
        losses = pl.get(name)(t, p, **options | {"reduction": "none"})
        asserted(losses, pl.get(name)(dense_t, dense_p, **options | {"reduction": "none"}))
        w = torch.linspace(0, 2, losses.numel(), dtype=torch.float64).reshape(losses.shape)
        asserted(function(t, p, sample_weight=w, **options), function(dense_t, dense_p, sample_weight=w, **options))


@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node:UserWarning")  # torch.func.linearize does
def test_linear_maps_of_torch_func():
    """`linearize` traces forward mode, in which an operator of ours would have no tangent: the map would be 0."""
    t, p = torch.tensor([1, 0, 2]), torch.rand(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    losses = [
        lambda p: pl.softmax_loss(t, p),
        lambda p: pl.mean_squared_error(torch.ones_like(p), p),
        lambda p: pl.dice(torch.ones_like(p), p, axis=1),
        lambda p: pl.linear_softmax_loss(t, p, torch.eye(5, 4, dtype=torch.float64)),
    ]
    for loss in losses:
        value, push = torch.func.linearize(loss, p)
        assert push(p + 1).abs().min() > 0.01
        for found, right in zip((value, push(p + 1)), torch.func.jvp(loss, (p,), (p + 1,)), strict=True):
            asserted(found, right)


def test_class_weights_under_transforms_within_transforms():
    """torch's own cross-entropy: weights of classes that no transform differentiates by are of its levels all the same."""
    generator = torch.Generator().manual_seed(0)
    t, p, w = torch.tensor([1, 0, 2]), torch.randn(3, 4, dtype=torch.float64, generator=generator), torch.tensor([0.5, 2.0, 0.0, 1.0])
    w = w.double()

    def ours(p, w=w):
        return pl.softmax_loss(t, p, class_weight=w, reduction="sum")

    def theirs(p, w=w):
        return torch.nn.functional.cross_entropy(p, t, weight=w, reduction="sum")

    func = torch.func
    for ask in (
        lambda loss: func.hessian(loss)(p),
        lambda loss: func.jacfwd(func.jacfwd(loss))(p),
        lambda loss: func.jvp(func.grad(loss), (p,), (p,))[1],
        lambda loss: func.vmap(func.grad(loss))(torch.stack([p, 2 * p])),
        lambda loss: func.vmap(func.grad(loss))(torch.stack([p, 2 * p]), torch.stack([w, w.flip(0)])),
        lambda loss: func.vmap(lambda d: func.jvp(loss, (p,), (d,))[1])(torch.stack([p, 2 * p])),
    ):
        asserted(ask(ours), ask(theirs))


class TestGraph:
    def setup_method(self):
        g = torch.Generator().manual_seed(1)
        self.z = torch.randn(6, 5, 3, generator=g, dtype=torch.float64, requires_grad=True)
        self.y = torch.randint(0, 5, (6, 3), generator=g)

    def test_prob_is_differentiable(self):
        def both(z):
            return pl.softmax_loss(self.y, z, ignore_label=2, return_prob=True)

        assert torch.autograd.gradcheck(both, (self.z,))
        assert torch.autograd.gradcheck(lambda z: both(z)[1], (self.z,))
        assert torch.autograd.gradgradcheck(both, (self.z,))

    def test_class_weight_and_denominator_are_reached(self):
        k = torch.rand(5, dtype=torch.float64, requires_grad=True)
        d = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda k, z: pl.softmax_loss(self.y, z, class_weight=k), (k, self.z))
        assert torch.autograd.gradcheck(lambda d, z: pl.softmax_loss(self.y, z, denominator=d), (d, self.z))

    @pytest.mark.parametrize("name", [name for name, block in LOSSES.items() if block.targets == "dense" and not block.sets])
    def test_targets_that_may_change_places_get_their_gradient_from_the_kernel(self, monkeypatch, name):
        block = LOSSES[name]
        t, p = sample(name)
        options = {"quantile": 0.75} if name == "quantile_loss" else {}  # that of the median is symmetric
        assert block.symmetric == torch.allclose(pl.get(name)(t, p, **options), pl.get(name)(p, t, **options), rtol=1e-12)
        if not block.symmetric:
            return
        runs = ran(monkeypatch)
        w = torch.tensor([0.5, 2.0, 0.0, 1.0], dtype=torch.float64)
        for needed in ((True, True), (True, False)):
            t, p = t.requires_grad_(needed[0]), p.requires_grad_(needed[1])
            arguments = [x for x in (t, p) if x.requires_grad]
            for reduction in block.reductions:
                loss = pl.get(name)(t, p, sample_weight=w, reduction=reduction)
                gradients = torch.autograd.grad(3 * loss.sum(), arguments)
                asserted(gradients[0], 3 * pl.grad(name)(p, t, sample_weight=w, reduction=reduction))
                if len(arguments) == 2:
                    asserted(gradients[1], 3 * pl.grad(name)(t, p, sample_weight=w, reduction=reduction))
        assert not any("formula" in plan.route for plan, _ in runs)
        both = (t.requires_grad_(), p.requires_grad_())
        for reduction in ("none", "mean"):
            assert torch.autograd.gradgradcheck(lambda t, p, r=reduction: pl.get(name)(t, p, sample_weight=w, reduction=r), both)

    def test_double_backward_where_the_first_upstream_is_zero(self):
        """The double-backward trick of forward mode differentiates by an upstream of zeros."""
        _, slope = torch.autograd.functional.jvp(lambda z: pl.softmax_loss(self.y, z), self.z, torch.ones_like(self.z) * self.z.detach())
        asserted(slope, (pl.grad(pl.softmax_loss)(self.y, self.z) * self.z).sum().detach())

    def test_upstream_scales_the_gradient(self):
        losses = pl.softmax_loss(self.y, self.z, reduction="none")
        u = torch.linspace(-2, 3, losses.numel(), dtype=torch.float64).reshape(losses.shape)
        (gradient,) = torch.autograd.grad(losses, self.z, u)
        wanted = pl.grad(pl.softmax_loss)(self.y, self.z, reduction="sum") * u[:, None]
        asserted(gradient, wanted)

    def test_calls_that_are_repeated(self):
        """From the second call on the plan is known; a scalar loss comes with its gradient."""
        z, y = self.z.detach()[:, :, 0].clone().requires_grad_(), self.y[:, 0].clone()
        k = torch.rand(5, dtype=torch.float64)
        for options in (dict(), dict(ignore_label=2), dict(reduction="sum", axis=-1), dict(class_weight=k, label_smoothing=0.1)):
            for _ in range(2):
                loss = pl.softmax_loss(y, z, **options)
            assert loss.grad_fn.gradient is not None
            value, gradient = pl.value_and_grad(pl.softmax_loss)(y, z, **options)
            assert not value.requires_grad
            asserted(loss, value)
            for _ in range(2):
                asserted(torch.autograd.grad(3 * loss, z, retain_graph=True)[0], 3 * gradient)
            with torch.no_grad():
                assert pl.softmax_loss(y, z, **options).grad_fn is None
            assert torch.autograd.gradgradcheck(lambda z, o=options: pl.softmax_loss(y, z, **o), (z,))
        with torch.no_grad():
            loss = pl.softmax_loss(y, z)
        for changed in (z, y, k):
            loss = pl.softmax_loss(y, z, class_weight=k)
            (wanted,) = torch.autograd.grad(loss, z, retain_graph=True)
            loss = pl.softmax_loss(y, z, class_weight=k)
            with torch.no_grad():
                changed.add_(0)
            assert torch.equal(torch.autograd.grad(loss, z, retain_graph=True)[0], wanted)  # the kept one
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                loss.backward()
        y[3] = 5
        with pytest.raises(ValueError, match=r"y_true\[3\] is 5"):
            pl.softmax_loss(y, z)

    def test_a_row_that_is_masked_out_afterwards_leaks_nothing(self):
        """PyTorch issue 11551: loss * mask gives NaN gradients where a masked row holds NaN."""
        z = self.z.detach().clone()
        z[2, :, 1] = float("nan")
        z.requires_grad_()
        mask = torch.ones(6, 3, dtype=torch.float64)
        mask[2, 1] = 0
        pl.softmax_loss(self.y, z, reduction="none").mul(mask).nansum().backward()
        assert torch.isfinite(z.grad).all()

    @pytest.mark.parametrize("s", [1, 3])
    def test_checkpoints_and_hooks_see_all_that_is_kept(self, s):
        """Where torch drops or moves what a graph keeps, no gradient is kept beside it."""
        z, y = (self.z, self.y) if s == 3 else (self.z[:, :, 0].detach().clone().requires_grad_(), self.y[:, 0].clone())
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
            loss = pl.softmax_loss(y, z, ignore_label=1)
        assert loss.grad_fn.gradient is None
        storages = {x.untyped_storage().data_ptr() for x in kept}
        assert storages == {z.untyped_storage().data_ptr(), y.untyped_storage().data_ptr()}
        wanted = pl.grad(pl.softmax_loss)(y, z, ignore_label=1)
        asserted(torch.autograd.grad(loss, z)[0], wanted)
        for reentrant in (False, True):
            loss = torch.utils.checkpoint.checkpoint(lambda z: pl.softmax_loss(y, 2 * z, ignore_label=1), z / 2, use_reentrant=reentrant)
            asserted(torch.autograd.grad(loss, z)[0] if not reentrant else through_backward(loss, z), wanted)

    @pytest.mark.parametrize("n", [8, 3000])
    def test_the_graph_of_a_loss_that_is_kept_holds_no_memory(self, n):
        """Losses are summed up over an epoch without a detach: torch's own give their tensors back in backward."""
        w, y = torch.randn(5, 40, requires_grad=True), torch.randint(0, 40, (n,))
        z = torch.randn(n, 5) @ w
        loss = pl.softmax_loss(y, z)
        assert loss.grad_fn.gradient is not None
        alive = weakref.ref(z)
        loss.backward()
        gc.disable()  # no reference cycle either
        try:
            del z
            assert alive() is None
        finally:
            gc.enable()
        assert getattr(loss.grad_fn, "gradient", None) is None

    @pytest.mark.parametrize("n", [8, 3000])
    @pytest.mark.parametrize("factor", [math.inf, -math.inf, math.nan])
    def test_factors_without_end_leave_ignored_positions_at_zero(self, n, factor):
        """A loss scale that overflowed must show in the gradient, and torch's is 0 where a label is ignored."""
        z, y = torch.randn(n, 40, requires_grad=True), torch.arange(n) % 40
        for reduction in ("sum", "normalize"):
            loss = pl.softmax_loss(y, z, ignore_label=3, reduction=reduction)
            for _ in range(2):
                (found,) = torch.autograd.grad(factor * loss, z, retain_graph=True)
                assert (found[y == 3] == 0).all()
                assert not torch.isfinite(found[y != 3]).any()

    def test_a_scale_against_underflow_reaches_the_gradient_before_it_is_rounded(self):
        """In float16 the gradient of a mean over many is 0 by itself: `torch.amp.GradScaler` multiplies the loss."""
        z, y = torch.zeros(4096, 32, dtype=torch.float16, requires_grad=True), torch.zeros(4096, dtype=torch.int64)
        loss = pl.softmax_loss(y, z, denominator=4096.0 * 4096)
        assert (pl.grad(pl.softmax_loss)(y, z, denominator=4096.0 * 4096)[:, 1:] == 0).all()
        (found,) = torch.autograd.grad(65536 * loss, z)
        torch.testing.assert_close(found[:, 1:], torch.full((4096, 31), 65536 / 32 / 4096**2, dtype=torch.float16))

    @pytest.mark.parametrize("n", [8, 3000])
    def test_gradients_add_up(self, n):
        """In `.grad`, which takes the kept gradient's memory over, and through a graph that is retained or entered twice."""
        z, y = torch.randn(n, 40, dtype=torch.float64, requires_grad=True), torch.randint(0, 40, (n,))
        gradient = pl.grad(pl.softmax_loss)(y, z)
        loss = pl.softmax_loss(y, z)
        for k in range(1, 4):
            loss.backward(retain_graph=True)
            asserted(z.grad, k * gradient)
        z.grad = None
        (pl.softmax_loss(y, z) + pl.softmax_loss(y, z) / 4 + pl.softmax_loss(y, 1 * z)).backward()
        asserted(z.grad, 2.25 * gradient)
        z.grad = None
        z.register_hook(lambda g: g.mul_(2))
        loss.backward(retain_graph=True)
        asserted(z.grad, 2 * gradient)
        loss.backward()
        asserted(z.grad, 4 * gradient)

    @pytest.mark.parametrize("n", [8, 3000])
    def test_threads_share_a_graph(self, n):
        z, y = torch.randn(n, 40, dtype=torch.float64, requires_grad=True), torch.randint(0, 40, (n,))
        gradient, failures = pl.grad(pl.softmax_loss)(y, z), []

        def work(loss, k):
            (found,) = torch.autograd.grad(k * loss, z, retain_graph=True)
            if not torch.allclose(found, k * gradient, rtol=1e-9):
                failures.append(k)

        for _ in range(10):
            loss = pl.softmax_loss(y, z)
            threads = [threading.Thread(target=work, args=(loss, k)) for k in range(1, 5)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert not failures

    def test_inputs_changed_between_forward_and_backward_are_noticed(self):
        """Where they are read once more; a gradient that was kept is that of the forward pass, as torch's own cross-entropy has it."""
        z = self.z.detach().clone().requires_grad_()
        wanted = pl.grad(pl.softmax_loss)(self.y, z.detach())
        kept, found_again = pl.softmax_loss(self.y, z), pl.softmax_loss(self.y, z, reduction="none")
        theirs = torch.nn.functional.cross_entropy(z, self.y)
        with torch.no_grad():
            z *= 3
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            found_again.sum().backward()
        torch.testing.assert_close(torch.autograd.grad(theirs, z)[0], wanted)
        assert torch.equal(torch.autograd.grad(kept, z, retain_graph=True)[0], wanted)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            kept.backward()

    @pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
    @pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
    @pytest.mark.parametrize("which", ["y_true", "y_pred", "sample_weight"])
    def test_sparse_tensors_are_refused(self, which, layout):
        arguments = dict(y_true=torch.ones(3, 3), y_pred=torch.ones(3, 3), sample_weight=torch.ones(3, 1))
        arguments[which] = arguments[which].to_sparse(layout=layout)
        with pytest.raises(TypeError, match=rf"^{which} has layout {layout}, but must be dense: torch.strided$"):
            pl.mean_squared_error(**arguments)
        logits = torch.ones(3, 3).to_sparse(layout=layout)
        with pytest.raises(TypeError, match=rf"^logits has layout {layout}"):
            pl.softmax_loss(torch.zeros(3, dtype=torch.int64), logits)

    @pytest.mark.parametrize("reduction", ["none", "sum"])
    def test_tensors_that_lie_across_numbers_are_copied(self, reduction):
        """Over foreign memory, as `torch.frombuffer` has it behind a header; in the first call and where one like it is known."""

        def off(x):
            data = b"?" + x.view(torch.uint8).numpy().tobytes()
            return torch.frombuffer(bytearray(data), dtype=x.dtype, count=x.numel(), offset=1).reshape(x.shape)

        for name, options in CASES:
            t, p = sample(name)
            arrays, more = [t, p, torch.tensor([1.0, 0.0, 2.0, 0.5], dtype=p.dtype)], options | {"reduction": reduction}
            wanted = pl.value_and_grad(name)(t, p, sample_weight=arrays[2], **more)
            for k, x in enumerate(arrays):
                y_true, y_pred, weight = (*arrays[:k], off(x), *arrays[k + 1 :])
                assert (y_true, y_pred, weight)[k].data_ptr() % x.itemsize == 1
                found = pl.value_and_grad(name)(y_true, y_pred, sample_weight=weight, **more)
                assert all(map(torch.equal, found, wanted)), (name, k)
                y_pred.requires_grad_()
                loss = pl.get(name)(y_true, y_pred, sample_weight=weight, **more)
                torch.testing.assert_close(torch.autograd.grad(loss.sum(), y_pred)[0], wanted[1])
            followed = p.clone().requires_grad_()
            loss = pl.get(name)(t, followed, **more)
            upstream = off(torch.ones(loss.numel(), dtype=loss.dtype)).reshape(loss.shape)
            torch.testing.assert_close(torch.autograd.grad(loss, followed, upstream)[0], pl.grad(name)(t, p, **more))
            out = off(torch.zeros_like(p))
            assert pl.grad(name)(t, p, out=out, sample_weight=arrays[2], **more) is out
            assert torch.equal(out, wanted[1]), name

    @pytest.mark.parametrize("n", [3, 3000])
    def test_an_output_that_requires_grad_is_refused(self, n):
        y, z = torch.zeros(n, dtype=torch.int64), torch.zeros(n, 40)
        with pytest.raises(ValueError, match=r"^out requires grad, and autograd would not see what is written to it: pass its detach\(\)$"):
            pl.value_and_grad(pl.softmax_loss)(y, z, out=torch.zeros(n, 40, requires_grad=True))

    def test_small_batches_write_where_they_are_told(self):
        z, y = self.z.detach()[:, :, 0].contiguous(), self.y[:, 0]
        function = pl.value_and_grad(pl.softmax_loss)
        value, gradient = function(y.contiguous(), z)
        for labels, logits in ((y, z), (y.to(torch.uint8), z.float()), (y, z.t().contiguous().t())):
            out = torch.full_like(logits, torch.nan)
            found = function(labels, logits, out=out)
            assert found[1] is out
            torch.testing.assert_close(found, (value, gradient), rtol=1e-6, atol=1e-7, check_dtype=False)
        batch = torch.eye(3)
        p = z.clone().requires_grad_()
        loss = pl.softmax_loss(y.contiguous(), p)
        (each,) = torch.autograd.grad(loss, p, batch[0], is_grads_batched=True)
        asserted(each, batch[0][:, None, None] * gradient)

    def test_tensors_are_viewed(self):
        for x in (self.z.detach(), self.z.detach()[::2, 1:, ::2], self.z.detach().permute(2, 0, 1), self.y):
            assert np.shares_memory(_torch.as_numpy(x), x.numpy())
            assert _torch.as_numpy(x).strides == x.numpy().strides

    @pytest.mark.parametrize("view", [lambda z: z[::2], lambda z: z[:, 1:4], lambda z: z.flip(0), lambda z: z.transpose(0, 2)])
    def test_any_strides(self, view):
        z = view(self.z)
        y = torch.zeros(z.shape[0], z.shape[2], dtype=torch.uint8)
        (gradient,) = torch.autograd.grad(pl.softmax_loss(y, z), self.z)
        dense = z.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
        pl.softmax_loss(y, dense).backward()
        wanted = torch.zeros_like(self.z).requires_grad_()
        (wanted,) = torch.autograd.grad(view(wanted), wanted, dense.grad)
        asserted(gradient, wanted)

    def test_step_allocates_the_gradient_alone(self):
        n, c = 256, 4096
        z, y = torch.randn(n, c, requires_grad=True), torch.randint(0, c, (n,))
        pl.softmax_loss(y, z).backward()
        z.grad = None
        addresses = []
        z.register_hook(lambda g: addresses.append(g.data_ptr()))
        tracemalloc.start()  # sees NumPy's allocator, from which the kernels' outputs come
        pl.softmax_loss(y, z).backward()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 4 * n * c + 64 * n + 300_000
        assert z.grad.data_ptr() == addresses[0]  # accumulated without a copy

    def test_bad_label_raises_in_the_forward_pass(self):
        self.y[4, 2] = 5
        with pytest.raises(ValueError, match=r"y_true\[4, 2\] is 5, but logits have 5 classes on axis 1"):
            pl.softmax_loss(self.y, self.z)
        loss = pl.softmax_loss(self.y, self.z, reduction="none", validate=False)
        (gradient,) = torch.autograd.grad(loss.sum(), self.z)
        assert torch.isnan(loss).sum() == 1
        assert torch.isnan(gradient).sum() == 5

    def test_bad_label_is_nan_under_transforms(self):
        self.y[4, 2] = 5
        losses = torch.func.vmap(lambda y, z: pl.softmax_loss(y, z, axis=0, reduction="none"))(self.y, self.z.detach())
        assert torch.isnan(losses).nonzero().tolist() == [[4, 2]]


@pytest.mark.parametrize("size", [4, 4000])
def test_a_denominator_that_is_written_to(size):
    """Gradients are those of what it was in the forward pass, also where they are found again."""
    z, y = torch.randn(size, 5, requires_grad=True), torch.randint(0, 5, (size,))
    denominator = torch.tensor(4.0)
    loss = pl.softmax_loss(y, z, denominator=denominator)
    first = torch.autograd.grad(loss, z, retain_graph=True)
    denominator.fill_(8.0)
    torch.testing.assert_close(torch.autograd.grad(loss, z), first)


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_zeros_that_have_no_memory(name, options):
    """What torch makes of a derivative that is 0: a tensor without an address."""
    t, p = sample(name)
    zeros, loss = torch._efficientzerotensor(p.shape, dtype=p.dtype), pl.get(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLYLOSS_ROUTE", "formula")  # where the probabilities sum to 0, kernels have NaN in other places
        wanted = [f(t, torch.zeros_like(p), reduction="sum", **options) for f in (loss, pl.grad(loss))]
    found = [f(t, zeros, reduction="sum", **options) for f in (loss, pl.grad(loss))]
    torch.testing.assert_close(found, wanted, equal_nan=True)
    p.requires_grad_()
    losses = loss(t, p, reduction="none", **options)
    assert (torch.autograd.grad(losses, p, torch._efficientzerotensor(losses.shape, dtype=losses.dtype))[0] == 0).all()


@pytest.mark.parametrize("reduction", ["none", "sum"])
@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_nothing_passes_a_weight_of_zero(name, options, reduction):
    """Not even an infinite gradient from above, as of a loss that was scaled beyond float32."""
    t, p = sample(name)
    p.requires_grad_()
    loss = pl.get(name)(t, p, sample_weight=torch.tensor([1.0, 0.0, 2.0, 0.0]), reduction=reduction, **options)
    gradient = torch.autograd.grad(loss, p, torch.full_like(loss, math.inf))[0]
    assert (gradient[[1, 3]] == 0).all()
    assert not gradient[[0, 2]].isfinite().all()


@pytest.mark.parametrize("route", ["", "formula"])
@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_losses_are_their_owner_s_to_write_to(name, options, route, monkeypatch):
    """A mask, say; in the first call and in later ones."""
    monkeypatch.setenv("POLYLOSS_ROUTE", route)
    t, p = sample(name)
    wanted = 2 * pl.grad(name)(t, p, reduction="sum", **options)
    for _ in range(3):
        q = p.clone().requires_grad_()
        losses = pl.get(name)(t, q, reduction="none", **options)
        losses *= 2
        torch.testing.assert_close(torch.autograd.grad(losses.sum(), q)[0], wanted)


class TestRecorded:
    """By other tracers than that of torch.compile: what they record on one input is right for others."""

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    @pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
    def test_jit(self, name, options):
        here, there = sample(name), sample(name, n=7, seed=1)
        recorded = torch.jit.trace(lambda t, p: pl.get(name)(t, p, reduction="sum", **options), here)
        torch.testing.assert_close(recorded(*there), pl.get(name)(*there, reduction="sum", **options))

    @pytest.mark.parametrize("mode", ["real", "symbolic"])
    @pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
    def test_make_fx(self, name, options, mode):
        from torch.fx.experimental.proxy_tensor import make_fx

        loss = pl.get(name)

        def both(t, p):
            ours = pl.grad(loss)(t, p, **options)
            p = p.detach().requires_grad_()
            return ours, torch.autograd.grad(loss(t, p, **options).sum(), p)[0]

        here, there = sample(name), sample(name, n=7 if mode == "symbolic" else 4, seed=1)
        torch.testing.assert_close(make_fx(both, tracing_mode=mode)(*here)(*there), both(*there))


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_lengths_left_open(name, options):
    """Fake tensors whose lengths are symbols: shapes alone are computed."""
    from torch._dispatch.python import enable_python_dispatcher
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    arrays = sample(name)
    with enable_python_dispatcher(), FakeTensorMode(shape_env=ShapeEnv(), static_shapes=False) as mode:  # torch 2.8's view asks for it
        t, p = map(mode.from_tensor, arrays)
        p.requires_grad_()
        for reduction in ("none", "sum"):
            loss = pl.get(name)(t, p, reduction=reduction, **options)
            assert loss.shape == (p.shape[:1] if reduction == "none" else ())
            assert torch.autograd.grad(loss.sum(), p)[0].shape == p.shape


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_tensors_with_operations_of_their_own(name, options):
    """As distributed ones, which have no memory to show: the formula runs on their operations."""
    from torch.testing._internal.two_tensor import TwoTensor

    t, p = sample(name)
    loss, options = pl.get(name), dict(options, reduction="sum")
    both, gradient = TwoTensor(p, p / 2).requires_grad_(), pl.grad(loss)
    wanted = gradient(t, p, **options), gradient(t, p / 2, **options)
    for found in (torch.autograd.grad(loss(t, both, **options), both)[0], gradient(t, both, **options)):
        torch.testing.assert_close((found.a, found.b), wanted)


class TestCompiled:
    def setup_method(self):
        torch._dynamo.reset()
        self.z, self.y = torch.randn(4, 5, 3, requires_grad=True), torch.randint(0, 5, (4, 3))

    def compiled(self, f, **kwargs):
        return torch.compile(f, fullgraph=True, backend="aot_eager", **kwargs)

    def test_first_call_of_a_process(self):
        """Nothing of polyloss has seen a tensor before: backends are looked up while tracing."""
        import subprocess
        import sys

        code = (
            "import torch, polyloss as pl; z = torch.zeros(2, 4, requires_grad=True)\n"
            "f = torch.compile(lambda y, z: pl.softmax_loss(y, z), fullgraph=True, backend='aot_eager')\n"
            "f(torch.tensor([1, 3]), z).backward(); print(z.grad[0].tolist())"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
        assert done.stdout.strip() == "[0.125, -0.375, 0.125, 0.125]", done.stderr

    @pytest.mark.parametrize(
        "options",
        [
            dict(ignore_label=[1, 2], normalization=pl.Normalization.FULL),
            dict(class_weight=torch.rand(5), label_smoothing=0.1),
            dict(sample_weight=torch.rand(4), normalize=False),
            dict(denominator=torch.tensor(2.0), reduction="normalize"),
            dict(reduction="none", axis=-2),
            dict(return_prob=True),
        ],
        ids="-".join,
    )
    def test_options(self, options):
        def loss(y, z):
            return pl.softmax_loss(y, z, **options)

        found, wanted = self.compiled(loss)(self.y, self.z), loss(self.y, self.z)
        torch.testing.assert_close(found, wanted)
        pairs = zip(found, wanted, strict=True) if isinstance(found, tuple) else [(found, wanted)]
        for compiled, eager in pairs:
            u = torch.rand_like(compiled)
            gradients = (torch.autograd.grad(x, self.z, u, retain_graph=True)[0] for x in (compiled, eager))
            torch.testing.assert_close(*gradients)

    def test_shapes_that_vary(self):
        loss = self.compiled(lambda y, z: pl.softmax_loss(y, z, ignore_label=1, label_smoothing=0.1, reduction="none"), dynamic=True)
        for n in (2, 5, 9):
            z, y = torch.randn(n, 5, n + 1, requires_grad=True), torch.randint(0, 5, (n, n + 1))
            out = loss(y, z)
            torch.testing.assert_close(out, pl.softmax_loss(y, z, ignore_label=1, label_smoothing=0.1, reduction="none"))
            out.sum().backward()

    def test_batches_of_any_size_take_two_graphs(self):
        """One for the first size, and one for all others, as torch's own loss."""
        graphs = []

        def counting(graph, inputs):
            graphs.append(graph)
            return graph

        loss = torch.compile(lambda y, z: pl.softmax_loss(y, z, ignore_label=1), fullgraph=True, backend=counting)
        for n in (4, 5, 9, 17, 4, 33):
            z, y = torch.randn(n, 5, requires_grad=True), torch.randint(0, 5, (n,))
            torch.testing.assert_close(loss(y, z), pl.softmax_loss(y, z, ignore_label=1))
        assert len(graphs) == 2

    def test_value_and_grad(self):
        function = pl.value_and_grad(pl.softmax_loss)
        found, wanted = self.compiled(function)(self.y, self.z), function(self.y, self.z)
        torch.testing.assert_close(found, wanted)
        assert not found[1].requires_grad

    @COMPILES_FORMULAS
    def test_targets_that_need_a_gradient(self):
        t, p = torch.rand(4, 5, requires_grad=True), torch.rand(4, 5, requires_grad=True)

        def loss(t, p):
            return pl.kl_divergence(t, p, reduction="mean")

        found, wanted = (torch.autograd.grad(f(t, p), (t, p)) for f in (self.compiled(loss), loss))
        torch.testing.assert_close(found, wanted)

    @COMPILES_FORMULAS
    def test_transform_inside(self):
        def gradient(y, z):
            return torch.func.grad(lambda z: pl.softmax_loss(y, z))(z)

        z = self.z.detach()
        torch.testing.assert_close(self.compiled(gradient)(self.y, z), pl.grad(pl.softmax_loss)(self.y, z))

    def test_bad_label_raises_when_the_graph_runs(self):
        loss = self.compiled(pl.softmax_loss)
        loss(self.y, self.z)
        self.y[3, 1] = -1
        with pytest.raises(ValueError, match=r"y_true\[3, 1\] is -1"):
            loss(self.y, self.z)

    @pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
    def test_operators(self, name, options):
        """torch's own check of an operator: schema, aliasing, fakes with dynamic shapes, autograd."""
        t, p = sample(name, dtype=torch.float32)
        softmax = name == "softmax_loss"
        arrays = torch.rand(4), torch.rand(5) if softmax else None, None
        for more in (dict(reduction="sum"), dict(reduction="none"), *([dict(return_prob=True)] if softmax else [])):
            described = repr((name, tuple(VALUE), defaults(name) | options | more))
            torch.library.opcheck(torch.ops.polyloss.loss.default, (t, p.requires_grad_(), *arrays, described))
            value, prob, _, divisor = torch.ops.polyloss.loss(t, p, *arrays, described)
            upstream = torch.rand_like(value), torch.rand_like(prob) if prob.numel() else None
            arguments = t, p.detach(), *arrays, described, *upstream, divisor
            torch.library.opcheck(torch.ops.polyloss.loss_gradient.default, arguments)


def defaults(name):
    """Options of a loss as the operators take them: labels to ignore as a tuple."""
    block, parameters = LOSSES[name], inspect.signature(pl.get(name)).parameters.values()
    options = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in _operators.ARRAYS}
    return options | ({block.ignores: ()} if block.ignores else {})


def test_what_comes_down_to_a_kept_gradient():
    """The ordinary pass, 1, is taken by compiled code; anything else, as torch's own loss takes it."""
    generator = torch.Generator().manual_seed(0)
    labels, logits = torch.randint(4, (6,), generator=generator), torch.randn(6, 4, generator=generator).requires_grad_()

    def found(upstream, **options):
        losses = pl.softmax_loss(labels, logits), torch.nn.functional.cross_entropy(logits, labels)
        return (torch.autograd.grad(loss, logits, upstream, **options)[0] for loss in losses)

    minus_one = torch.tensor([1 + 1j]).conj().imag[0]  # whose memory holds 1
    assert minus_one.is_neg()
    others = torch.tensor([3.0, 1.0])[1], torch.ones((), dtype=torch.float64)
    for upstream in (None, minus_one, *map(torch.tensor, (1.0, 2.0, 0.0)), *others):
        torch.testing.assert_close(*found(upstream))
    for upstreams in (torch.ones(3), torch.arange(3.0)):
        torch.testing.assert_close(*found(upstreams, is_grads_batched=True))
    torch.testing.assert_close(*found(None, create_graph=True))


@pytest.mark.skipif(not hasattr(torch.Tensor, "__dlpack_c_exchange_api__"), reason="this torch does not say in C where a tensor lies")
def test_an_ordinary_backward_pass_is_compiled(monkeypatch):
    monkeypatch.setattr("polyloss._adapters.torch_autograd._received", None)
    logits = torch.zeros(2, 3, requires_grad=True)
    pl.softmax_loss(torch.tensor([0, 1]), logits).backward()
    assert logits.grad[0, 1] == pytest.approx(1 / 6)
    with pytest.raises(TypeError):  # the rest is not
        (2 * pl.softmax_loss(torch.tensor([0, 1]), logits)).backward()


@pytest.fixture
def without_the_interface(monkeypatch):
    """As of a torch that does not say in C where a tensor lies, as before 2.10."""
    monkeypatch.delattr(torch.Tensor, "__dlpack_c_exchange_api__", raising=False)
    take = partial(_cpu.kernels("tensors").take_tensors, (torch.Tensor, torch.nn.Parameter), torch.strided)
    take(_torch.dtypes)
    _call.plan_cache.forget()
    yield
    monkeypatch.undo()
    take(_torch.dtypes)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_a_torch_that_does_not_say_in_c_where_a_tensor_lies(without_the_interface):
    for name, options in CASES:
        t, p = sample(name, dtype=torch.float32)
        wanted, slopes = (torch.as_tensor(x) for x in pl.value_and_grad(pl.get(name))(t.numpy(), p.numpy(), **options))
        for given in (p, p.T.contiguous().T, p.clone()) * 2:  # the second call of each is looked up
            x = given.detach().requires_grad_()
            loss = pl.get(name)(t, x, **options)
            loss.sum().backward()
            torch.testing.assert_close(loss.detach(), wanted, check_dtype=False)
            torch.testing.assert_close(x.grad, slopes)
    t, p = torch.tensor([0, 2]), torch.tensor([[1, 2, 3], [3, 1, 2]], dtype=torch.bfloat16)
    for x in (p, p) * 2:
        assert pl.softmax_loss(t, x) == pytest.approx(torch.nn.functional.cross_entropy(x.float(), t).item())
    with pytest.raises(TypeError, match=r"torch\.strided"):
        pl.softmax_loss(t, p.to_sparse())
    with pytest.raises(TypeError, match="nested"):
        pl.softmax_loss(t, torch.nested.as_nested_tensor([p[0], p[1]]))


@pytest.mark.parametrize("reduction", ["normalize", "none"])
def test_a_backward_pass_within_a_function_transform(reduction):
    """Of a loss from outside, as torch's own losses have it: what torch.func.grad makes of tensors lends the kernels no memory."""
    z, y = torch.randn(6, 4, requires_grad=True), torch.arange(6) % 4
    (wanted,) = torch.autograd.grad(torch.nn.functional.cross_entropy(z, y, reduction="mean" if reduction == "normalize" else "sum"), z)
    for again, k in ((True, 1.0), (False, 1.0), (True, 2.0), (False, 2.0)):
        loss = pl.softmax_loss(y, z, reduction=reduction)
        upstream = torch.full_like(loss, k)

        def inside(x, loss=loss, upstream=upstream, again=again):
            for _ in range(1 + again):
                (slopes,) = torch.autograd.grad(loss, z, upstream, retain_graph=again)
            return (slopes * x).sum()

        torch.testing.assert_close(torch.func.grad(inside)(torch.ones(6, 4)), k * wanted)


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_derivatives_by_weights_within_a_function_transform(reduction):
    """They are autograd's, of the formula; no tensor may be told there that it requires grad."""
    g = torch.Generator().manual_seed(0)
    z, w, k = (torch.rand(shape, generator=g, requires_grad=True) for shape in ((6, 4), (6,), (4,)))
    y = torch.arange(6) % 4
    theirs = w * k[y] * torch.nn.functional.cross_entropy(z, y, reduction="none")
    theirs = theirs.sum() if reduction == "sum" else theirs
    for again in (True, False):
        ours = pl.softmax_loss(y, z, sample_weight=w, class_weight=k, reduction=reduction)
        upstream = torch.ones_like(ours)

        def inside(x, loss, upstream=upstream, again=again):
            for _ in range(1 + again):
                slopes = torch.autograd.grad(loss, (z, w, k), upstream, retain_graph=again or loss is theirs)
            return sum((slope * x).sum() for slope in slopes)

        for transform, x in ((torch.func.grad, torch.ones(())), (torch.func.vmap, torch.ones(2))):
            if transform is torch.func.vmap and not again:
                continue  # the graph is gone
            torch.testing.assert_close(*(transform(lambda x, loss=loss: inside(x, loss))(x) for loss in (ours, theirs)))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Dynamo's, of what it traces
def test_compiled_autograd_runs_backward_passes_as_they_are():
    x, y, w = torch.rand(6, 4, requires_grad=True), torch.arange(6) % 4, torch.rand(4, 3, requires_grad=True)
    for loss in (
        lambda: pl.dice(x.detach().round(), x, axis=None),
        lambda: pl.softmax_loss(y, x, reduction="none").sum(),
        lambda: pl.linear_softmax_loss(y, x @ w, w, reduction="none").sum(),
    ):
        (wanted,) = torch.autograd.grad(loss(), x)
        torch._dynamo.reset()
        x.grad = None
        with torch._dynamo.compiled_autograd._enable(lambda graph: torch.compile(graph, backend="eager")):
            loss().backward()
        torch.testing.assert_close(x.grad, wanted)
