"""Softmax losses over processes of torch.distributed: 2 and 4 of them find of a shared batch, or a shared vocabulary, what one does.

The processes are started once for each number of them and run every check; one that waits for another that is gone gives up after a minute.
"""

import datetime
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import distributed
from torch.nn.functional import linear

import polyloss as pl
from polyloss import torch as ours
from polyloss._adapters.torch_groups import _largest

N, D, C = 13, 5, 11
LIMIT = 60  # seconds that a process waits for another
OPTIONS = (
    {},
    {"label_smoothing": 0.1},
    {"weighted": True, "label_smoothing": 0.2, "z_loss": 0.01, "softcap": 3.0},
    {"reduction": "sum", "softcap": 0.5},
    {"reduction": "none", "weighted": True},
    {"reduction": "none", "z_loss": 0.1},
    {"normalization": "full"},
    {"normalization": "none"},
    {"denominator": 3.0},
    {"denominator": torch.tensor(0.0), "weighted": True},
)


def one_process(dtype, options, spread=1.0):
    """The arguments, and what one process finds in float64: value and gradients from logits, and from features."""
    g = torch.Generator().manual_seed(0)
    y = torch.randint(0, C, (N,), generator=g)
    y[3] = y[4] = -100
    features, weight, bias, k = (torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype) for shape in ((N, D), (C, D), (C,), (C,)))
    features *= spread
    options = {"ignore_label": -100, **options}
    if options.pop("weighted", False):
        options |= {"class_weight": k.abs(), "sample_weight": torch.tensor([0.0, 1.0, 2.0]).repeat(5)[:N].to(dtype)}
    logits = features @ weight.T + bias
    upstream = torch.linspace(0.5, 2, N, dtype=dtype) if options.get("reduction") == "none" else torch.tensor(1.5, dtype=dtype)
    exact = {key: x.double() if isinstance(x, torch.Tensor) else x for key, x in options.items()}
    whole = [x.double().requires_grad_() for x in (logits, features, weight, bias)]
    found = []
    for value, operands in (
        (pl.softmax_loss(y, whole[0], **exact), whole[:1]),
        (pl.linear_softmax_loss(y, *whole[1:], **exact), whole[1:]),
    ):
        found.append((value.detach(), torch.autograd.grad(value, operands, upstream.double())))
    return y, logits, (features, weight, bias), options, upstream, found


def shards(length, world):
    """Where parts of unequal length begin and end."""
    ends = np.linspace(0, length, world + 1).astype(int)
    ends[1] += 1
    return ends


def numbers_are_those_of_one(rank, world):
    group = distributed.group.WORLD
    some, part = (slice(*shards(length, world)[rank : rank + 2]) for length in (C, N))
    for dtype, tolerance, spread in ((torch.float64, 1e-12, 1), (torch.float32, 1e-6, 1), (torch.float64, 1e-12, 12)):
        for wanted in OPTIONS:
            y, logits, operands, options, upstream, ((value, (slope,)), (head, slopes)) = one_process(dtype, wanted, spread)

            def near(a, b, tolerance=tolerance):
                torch.testing.assert_close(a.detach().double(), b, rtol=tolerance, atol=tolerance * float(b.abs().max() + 1e-30))

            def differentiated(function, y, *operands, upstream=upstream, dtype=dtype, near=near, **options):
                operands = [x.clone().requires_grad_() for x in operands]
                found = function(y, *operands, process_group=group, **options)
                assert found.dtype is dtype
                first = torch.autograd.grad(found, operands, upstream, retain_graph=True)
                for again, once in zip(torch.autograd.grad(found, operands, upstream), first, strict=True):
                    near(again, once.double())
                return found.detach(), first

            found, (gradient,) = differentiated(ours.softmax_loss, y, logits[:, some], shard="vocabulary", **options)
            near(found, value)
            near(gradient, slope[:, some])
            features, weight, bias = operands
            own = features, weight[some], bias[some]
            found, gradients = differentiated(ours.linear_softmax_loss, y, *own, shard="vocabulary", chunk=4, **options)
            near(found, head)
            for a, b in zip(gradients, (slopes[0], slopes[1][some], slopes[2][some]), strict=True):
                near(a, b)
            with torch.no_grad():
                near(ours.linear_softmax_loss(y, *own, process_group=group, shard="vocabulary", **options), head)

            local = {key: x[part] if key == "sample_weight" else x for key, x in options.items()}
            each = options.get("reduction") == "none"
            here = upstream[part] if each else upstream
            found, (gradient,) = differentiated(ours.softmax_loss, y[part], logits[part], upstream=here, **local)
            found_head, gradients = differentiated(
                ours.linear_softmax_loss, y[part], features[part], weight, bias, upstream=here, chunk=4, **local
            )
            if each:
                near(found, value[part])
                near(gradient, slope[part])
            elif options.get("reduction") != "sum":  # as DistributedDataParallel averages
                for mine, right in ((found, value), (found_head, head), *zip(gradients[1:], slopes[1:], strict=True)):
                    mean = mine.double() / world
                    distributed.all_reduce(mean)
                    near(mean, right)
                near(gradient / world, slope[part])
                near(gradients[0] / world, slopes[0][part])


def axes_dtypes_and_edges(rank, world):
    group, vocabulary = distributed.group.WORLD, {"process_group": distributed.group.WORLD, "shard": "vocabulary"}
    g = torch.Generator().manual_seed(1)
    some = slice(*shards(C, world)[rank : rank + 2])
    images, labels = torch.randn(2, C, 3, 4, generator=g), torch.randint(0, C, (2, 3, 4), generator=g)
    losses = pl.softmax_loss(labels, images, reduction="none")
    torch.testing.assert_close(ours.softmax_loss(labels, images[:, some], reduction="none", **vocabulary), losses)
    torch.testing.assert_close(ours.softmax_loss(labels[:, None], images[:, some], reduction="none", **vocabulary), losses)
    low = images.to(torch.bfloat16)
    mine = low[:, some].clone().requires_grad_()
    loss = ours.softmax_loss(labels.to(torch.uint8), mine, **vocabulary)
    assert loss.dtype is torch.float32
    by_low = torch.autograd.grad(loss, mine)[0]
    assert by_low.dtype is torch.bfloat16
    torch.testing.assert_close(by_low, pl.grad(pl.softmax_loss)(labels, low)[:, some])
    # What is not looked at, impossible classes, a label that is almost sure, or none.
    z = torch.zeros(5, C, dtype=torch.float64)
    z[0], z[1, 2], z[2, 0], z[3, 3] = torch.nan, -torch.inf, 50.0, torch.inf
    y = torch.tensor([-1, 0, 0, 0, 2])
    for terms in ({}, {"softcap": 60.0}, {"z_loss": 0.1}):
        options = {"ignore_label": -1, "reduction": "none", **terms}
        whole, mine = z.clone().requires_grad_(), z[:, some].clone().requires_grad_()
        right, found = pl.softmax_loss(y, whole, **options), ours.softmax_loss(y, mine, **options, **vocabulary)
        torch.testing.assert_close(found, right, equal_nan=True, rtol=1e-13, atol=0)
        right, found = (torch.autograd.grad(f[[0, 1, 2, 4]].sum(), x)[0] for f, x in ((right, whole), (found, mine)))
        torch.testing.assert_close(found[[0, 1, 2, 4]], right[[0, 1, 2, 4], some], rtol=1e-13, atol=0)
    assert ours.softmax_loss(torch.full((4,), 99), torch.zeros(4, 2), validate=False, **vocabulary).isnan()
    assert ours.softmax_loss(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2), **vocabulary) == 0
    nothing = torch.full((3,), -100)
    assert ours.SoftmaxLoss(ignore_label=-100, process_group=group)(torch.zeros(3, 2), nothing) == 0
    assert ours.linear_softmax_loss(nothing, torch.full((3, 2), torch.nan), torch.ones(2, 2), ignore_label=-100, **vocabulary) == 0
    # One process has no positions at all.
    y, z = torch.tensor([1, 0, 2]), torch.randn(3, C, generator=g)
    mine = slice(0, 3 if rank == 0 else 0)
    loss = ours.softmax_loss(y[mine], z[mine], process_group=group)
    distributed.all_reduce(loss)
    torch.testing.assert_close(loss / world, pl.softmax_loss(y, z))


def many_classes_are_those_of_one(rank, world):
    """So many that a head's gradient takes the place of its logits; some of them, or all of a process, are impossible."""
    group, classes, g = distributed.group.WORLD, 1001, torch.Generator().manual_seed(4)
    some = slice(*shards(classes, world)[rank : rank + 2])
    y, features = torch.randint(0, classes, (37, 1), generator=g)[:, 0], torch.randn(37, D, generator=g)
    weight, bias = torch.randn(classes, D, generator=g), torch.randn(classes, generator=g)
    bias[100:200] = bias[600:] = -torch.inf  # of four processes the last has nothing else
    features[7], y[7] = torch.nan, -100
    k = torch.rand(classes, generator=g)
    for terms in ({}, {"z_loss": 0.1}, {"label_smoothing": 0.1, "softcap": 4.0, "class_weight": k}, {"softcap": 2.0, "z_loss": 0.01}):
        options = {"ignore_label": -100, "reduction": "none", **terms}
        y = torch.where(y == -100, y, y % 100)  # possible, but for two of them, where no cap makes all possible
        if "softcap" not in options:
            y[3], y[4] = 150, 900
        whole = [x.double().requires_grad_() for x in (features, weight, bias)]
        parts = [x.clone().requires_grad_() for x in (features, weight[some], bias[some])]
        right = pl.linear_softmax_loss(y, *whole, **options)
        found = ours.linear_softmax_loss(y, *parts, process_group=group, shard="vocabulary", chunk=16, **options)
        torch.testing.assert_close(found.double(), right, rtol=2e-6, atol=1e-6)
        finite = right.isfinite()
        assert finite.sum() == (37 if "softcap" in options else 35)
        right, found = (torch.autograd.grad(f[finite].sum(), x) for f, x in ((right, whole), (found, parts)))
        for a, b in zip(found, (right[0], right[1][some], right[2][some]), strict=True):
            torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=2e-6)
    logits = torch.zeros(3, classes // world).requires_grad_()
    loss = ours.softmax_loss(torch.zeros(3, dtype=torch.int64), logits, process_group=group, shard="vocabulary")
    with pytest.raises(NotImplementedError, match="first derivatives alone: for second ones give each process all classes"):
        torch.autograd.grad(loss, logits, create_graph=True)


def masked_logits_are_those_of_one(rank, world):
    """Large negative logits, as masks leave: the first classes of every process, all of one process, labels, all but the label."""
    group, classes, g = distributed.group.WORLD, 400, torch.Generator().manual_seed(5)
    ends = shards(classes, world)
    some = slice(*ends[rank : rank + 2])
    y, drawn = torch.randint(0, classes, (8,), generator=g), 3 * torch.randn(8, classes, generator=g, dtype=torch.float64)
    y[:4] = torch.tensor([ends[0] + 70, ends[1] + 70, ends[1] + 3, ends[0] + 3])  # of the last two the labels are masked, too
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-12)):
        for low in (-500.0, -1e4, -1e9):
            z = drawn.clone()
            for start in ends[:-1]:
                z[:4, start : start + 64] = low
            z[4, y[4]] = low
            z[5, : ends[1]] = low
            z[6], z[6, y[6]] = low, 2.0
            z[7, y[7]] = 40.0  # almost sure
            z = z.to(dtype)
            for terms in ({}, {"z_loss": 0.1}, {"softcap": 30.0}, {"label_smoothing": 0.1}):
                whole, mine = z.double().requires_grad_(), z[:, some].clone().requires_grad_()
                right = pl.softmax_loss(y, whole, reduction="none", **terms)
                found = ours.softmax_loss(y, mine, reduction="none", process_group=group, shard="vocabulary", **terms)
                rtol = max(tolerance, 2 * 30 * torch.finfo(dtype).eps) if "softcap" in terms else tolerance  # two units of a logit of 30
                torch.testing.assert_close(found.double(), right, rtol=rtol, atol=1e-30)  # float32 has no e**-500
                right, found = (torch.autograd.grad(f.sum(), x)[0] for f, x in ((right, whole), (found, mine)))
                scale = right.abs().amax(1, keepdim=True).clamp_min(1e-24)
                torch.testing.assert_close(found / scale, (right / scale)[:, some], rtol=rtol, atol=rtol, check_dtype=False)


def averaged_gradients_are_those_of_one(rank, world):
    """DistributedDataParallel, of parts of unequal length in which unequal numbers count."""
    g = torch.Generator().manual_seed(2)
    x, y = torch.randn(N, D, generator=g), torch.randint(0, C, (N,), generator=g)
    y[:4] = -100
    part = slice(*shards(N, world)[rank : rank + 2])
    criterion = {"ignore_label": -100, "label_smoothing": 0.1}
    found = []
    for wrapped in (False, True):
        torch.manual_seed(3)
        model = torch.nn.Sequential(torch.nn.Linear(D, 7), torch.nn.Tanh(), torch.nn.Linear(7, C))
        rows = part if wrapped else slice(None)
        network = torch.nn.parallel.DistributedDataParallel(model) if wrapped else model
        loss = ours.SoftmaxLoss(process_group=distributed.group.WORLD if wrapped else None, **criterion)
        loss(network(x[rows]), y[rows]).backward()
        found.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-7)


def refused(error, where, function, *arguments, **options):
    """An error in every process; `where`: its text in the process that is to blame, or in all."""
    with pytest.raises(error, match=where):
        function(*arguments, process_group=distributed.group.WORLD, **options)


def errors_are_everyones(rank, world):
    """Whatever one process alone refuses; after each, the group still works."""
    good, bad = torch.tensor([0, 1, 1]), torch.tensor([0, 1, 99])
    logits, features, weight = torch.zeros(3, 2), torch.zeros(3, 4), torch.zeros(2, 4)
    said = rf"y_true\[2\] is 99, but logits have {2 * world} classes"
    refused(ValueError, said, ours.softmax_loss, bad, logits, shard="vocabulary")
    refused(ValueError, said, ours.linear_softmax_loss, bad, features, weight, shard="vocabulary")
    refused(ValueError, "return_prob is True, but under shard", ours.softmax_loss, good, logits, shard="vocabulary", return_prob=True)
    soft = torch.full((3, 2), 0.5)
    refused(ValueError, "must hold labels under shard='vocabulary'", ours.softmax_loss, soft, logits, shard="vocabulary")
    w = torch.ones(3, requires_grad=True)
    for shard in ("batch", "vocabulary"):
        refused(ValueError, "sample_weight requires grad, but the loss of a", ours.softmax_loss, good, logits, sample_weight=w, shard=shard)

    odd = rank == world - 1
    theirs = f"process {world - 1} of the group refuses its own arguments"
    for shard, function, arguments in (
        *((shard, ours.softmax_loss, (good, logits)) for shard in ("batch", "vocabulary")),
        *((shard, ours.linear_softmax_loss, (good, features, weight)) for shard in ("batch", "vocabulary")),
    ):
        head = function is ours.linear_softmax_loss
        wrong = [
            (r"y_true has shape \(2,\)", (good[:2], *arguments[1:]), {}),
            ("unexpected keyword argument 'smoothing'", arguments, {"smoothing": 0.1}),
            ("reduction is 'median'", arguments, {"reduction": "median"}),
            (r"class_weight has shape \(7,\)", arguments, {"class_weight": torch.ones(7)}),
            ("logits is ndarray|features is ndarray", (good, np.zeros((3, 4)), *arguments[2:]), {}),
            ("shard is 'rows'|function is|shard is", arguments, {"shard": "rows"}),
        ]
        wrong += [("axis is 5, but", arguments, {"axis": 5})] if not head else [("chunk is 0, but", arguments, {"chunk": 0})]
        wrong += [("bias has shape", (*arguments, torch.ones(9)), {})] if head else []
        wrong += [(r"y_true\[2\] is 99", (bad, *arguments[1:]), {})] if shard == "batch" else []
        for said, given, options in wrong:
            chosen = {"shard": shard, **options} if odd else {"shard": shard}
            refused(Exception, said if odd else theirs, function, *(given if odd else arguments), **chosen)
    said = "is empty, and a loss over nothing is undefined" if odd else theirs
    refused(Exception, said, ours.softmax_loss, good, logits[:, : 0 if odd else 2], shard="vocabulary")
    refused(Exception, said, ours.linear_softmax_loss, good, features, weight[: 0 if odd else 2], shard="vocabulary")

    for name, other in (("label_smoothing", 0.1), ("reduction", "sum"), ("chunk", 1)):
        for shard in ("batch", "vocabulary"):
            options = {"shard": shard, name: other} if odd else {"shard": shard}
            refused(ValueError, f"{name} is .* it must be the same", ours.linear_softmax_loss, good, features, weight, **options)
    refused(ValueError, "shard is", ours.softmax_loss, good, logits, shard="batch" if odd else "vocabulary")
    function, arguments = (ours.softmax_loss, (logits,)) if odd else (ours.linear_softmax_loss, (features, weight))
    refused(ValueError, "function is", function, good, *arguments, shard="vocabulary")
    other = torch.tensor([1, 1, 0]) if odd else good
    refused(ValueError, "y_true in process . of the group is not that of", ours.softmax_loss, other, logits, shard="vocabulary")
    w = torch.tensor([1.0, 1.0, 0.0 if odd else 2.0])
    refused(ValueError, "sample_weight in process", ours.softmax_loss, good, logits, sample_weight=w, shard="vocabulary")
    rows = slice(0, 2 if odd else 3)
    refused(ValueError, "the shape of y_true is", ours.softmax_loss, good[rows], logits[rows], shard="vocabulary")
    learned = features.clone().requires_grad_(odd)
    refused(ValueError, "requires_grad is", ours.linear_softmax_loss, good, learned, weight, shard="vocabulary")
    learned.requires_grad_()
    loss = ours.linear_softmax_loss(good, learned, weight, shard="vocabulary", process_group=distributed.group.WORLD)
    with pytest.raises(NotImplementedError, match="first derivatives alone"):
        torch.autograd.grad(loss, learned, create_graph=True)


def the_last_one_dies(rank, world):
    if rank == world - 1:
        os._exit(3)
    with pytest.raises(RuntimeError):
        ours.softmax_loss(torch.zeros(3, dtype=torch.int64), torch.zeros(3, 2), process_group=distributed.group.WORLD)


def process(rank, world, store):
    """What one of the processes does."""
    torch.set_num_threads(1)
    limit = datetime.timedelta(seconds=LIMIT)
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world, timeout=limit)
    checks = (
        numbers_are_those_of_one,
        axes_dtypes_and_edges,
        many_classes_are_those_of_one,
        masked_logits_are_those_of_one,
        averaged_gradients_are_those_of_one,
        errors_are_everyones,
        the_last_one_dies,
    )
    for check in checks:
        check(rank, world)
    sys.stderr.flush()
    os._exit(0)  # the group cannot be left in order: one of it is gone


@pytest.mark.parametrize("world", [2, 4])
def test_processes_find_what_one_does(world, tmp_path):
    program = "import sys, test_process_groups as tests; tests.process(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])"
    command, folder = [sys.executable, "-W", "ignore", "-c", program], os.path.dirname(__file__)
    arguments = [[str(rank), str(world), str(tmp_path / "store")] for rank in range(world)]
    processes = [subprocess.Popen([*command, *given], cwd=folder, stderr=subprocess.PIPE, text=True) for given in arguments]
    try:
        said = [one.communicate(timeout=3 * LIMIT)[1] for one in processes]
    finally:
        for one in processes:
            one.kill()
    assert [one.returncode for one in processes] == [0] * (world - 1) + [3], "\n".join(said)


def test_the_largest_logit_is_found_in_blocks():
    g = torch.Generator().manual_seed(6)
    for classes in (3, 1024, 1025, 1151, 2000):
        z = torch.randn(classes + 50, classes, generator=g)
        z[torch.arange(classes), torch.arange(classes)] = 9.0  # every class is the largest somewhere
        z[classes] = -torch.inf
        largest = _largest(z)
        assert torch.equal(z.gather(1, largest[:, None])[:, 0], z.amax(1))
        assert torch.equal(largest[:classes], torch.arange(classes))
    assert len(_largest(torch.zeros(0, 2000))) == 0


def test_without_a_group():
    y, logits = torch.tensor([0, 2]), torch.randn(2, 3)
    assert ours.softmax_loss(y, logits) == pl.softmax_loss(y, logits)
    features, weight = torch.randn(2, 4), torch.randn(3, 4)
    torch.testing.assert_close(ours.linear_softmax_loss(y, features, weight), pl.softmax_loss(y, linear(features, weight)))
    for function in (ours.softmax_loss, ours.SoftmaxLoss):
        with pytest.raises(ValueError, match="shard is 'classes', but must be one of 'batch', 'vocabulary'"):
            function(*(() if function is ours.SoftmaxLoss else (y, logits)), shard="classes")
    with pytest.raises(ValueError, match="shard is 'vocabulary', but process_group is None"):
        ours.softmax_loss(torch.tensor([1]), torch.zeros(1, 3), shard="vocabulary")
    with pytest.raises(ValueError, match="shard is None"):
        ours.linear_softmax_loss(y, features, weight, shard=None)
    with pytest.raises(TypeError, match="unexpected keyword argument 'smoothing'"):
        ours.softmax_loss(y, logits, smoothing=0.1)
