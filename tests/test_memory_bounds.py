"""Kernels touch nothing outside of their arrays: each array ends, then begins, at a page that the system has taken away.

So a wrong access ends the process, even where `make sanitize` has no eyes: masked and streaming accesses are intrinsics of the processor.
"""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from kernels import ELEMENTWISE, OF_LABELS, ROWWISE, SETS, VALUES, every_isa, fenced, to_bits

from polyloss._kernels.cpu import elementwise, log_loss, rowwise, sets, softmax_xent, values

pytestmark = pytest.mark.skipif(os.name != "posix", reason="it takes mprotect to take a page away")

# (n, c, s): around a vector of 4, 8 and 16 numbers, and around the tiles of every kernel
SHAPES = [(1, 1, 1), (3, 1, 1), (1, 5, 1), (7, 9, 1), (37, 10, 1), (3, 17, 1), (2, 3, 5), (1, 2, 33), (3, 21, 67)]
SHAPES += [(2, 1030, 1), (1, 2, 1025)]
ORDERS = (0, 1, 2), (0, 2, 1), (2, 1, 0)  # of the axes in memory: classes between, classes last, samples last
SIDES = "end", "beginning"

elementwise_isa, rowwise_isa, sets_isa = every_isa(elementwise), every_isa(rowwise), every_isa(sets)
softmax_isa, values_isa, log_loss_isa = every_isa(softmax_xent), every_isa(values), every_isa(log_loss)


def laid(x, order, side):
    """A fenced copy with its axes in another order in memory."""
    return fenced(np.ascontiguousarray(x.transpose(order)), side).transpose(np.argsort(order))


def cases(c=None):
    """Shape, whose length c may be given, order in memory and side of the fence; predictions, and the outputs' dtypes."""
    rng = np.random.default_rng(0)
    shapes = [shape if c is None else (shape[0], c, shape[2]) for shape in SHAPES]
    for k, (shape, order, side, dtype) in enumerate(itertools.product(shapes, ORDERS, SIDES, ("f4", "f8", "f2", "bf16"))):
        p = rng.uniform(0.05, 0.95, shape)
        given = laid(to_bits(p) if dtype == "bf16" else p.astype(dtype), order, side)
        yield k, rng, order, side, given, {"bf16": dtype == "bf16"}, np.float64 if dtype == "f8" else np.float32


def subsets(*names):
    return [some for size in range(len(names) + 1) for some in itertools.combinations(names, size)]


def outputs(names, p, order, side, real):
    """Fenced outputs: (n, s) ones in the dtype of the computation, the others like p."""
    n, _, s = p.shape
    made = {"losses": np.empty((n, s), real)}
    return {name: fenced(made[name], side) if name in made else laid(np.empty_like(p), order, side) for name in names}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise(elementwise_isa, name):
    asked = subsets("grad", "hess", "losses")
    for k, rng, order, side, p, bf16, real in cases():
        n, _, s = p.shape
        t = laid(rng.integers(0, 2, p.shape).astype(("f4", "f8", "i1", "i4")[k % 4]), order, side)
        weight = fenced(rng.random((n, s)).astype(("f4", "f8")[k % 2]), side) if k % 3 else None
        some = outputs(asked[k % 7 + 1], p, order, side, real)
        elementwise.run(name, t, p, ELEMENTWISE[name], weight=weight, **some, **bf16)


@pytest.mark.parametrize("name", ["mean_squared_error", "binary_crossentropy"])
def test_elementwise_past_the_caches(elementwise_isa, name):
    """Outputs of 8 MB and more are written by streaming stores, which are aligned."""
    for side, (n, c) in itertools.product(SIDES, ((1, (1 << 21) + 3), ((1 << 21) + 5, 1))):
        t, p, grad = (fenced(np.full((n, c, 1), 0.5, np.float32), side) for _ in range(3))
        elementwise.run(name, t, p, ELEMENTWISE[name], grad=grad)
        elementwise.run(name, t, p, ELEMENTWISE[name], grad=grad, losses=fenced(np.empty((n, 1), np.float32), side))


@pytest.mark.parametrize("name", ROWWISE)
def test_rowwise(rowwise_isa, name):
    asked = (), ("losses",), ("grad",), ("grad", "losses"), ("grad", "hess")
    for k, rng, order, side, p, bf16, real in cases():
        n, c, s = p.shape
        if name in OF_LABELS:
            t = fenced(rng.integers(0, c, (n, s)).astype(("i2", "u4", "i8")[k % 3]), side)
        else:
            t = laid(rng.integers(0, 2, p.shape).astype(("f4", "f8", "i1", "i4")[k % 4]), order, side)
        weight = fenced(rng.random((n, s)).astype(("f4", "f8")[k % 2]), side) if k % 3 else None
        some = outputs(asked[k % 5], p, order, side, real)
        rowwise.run(name, t, p, ROWWISE[name], weight=weight, **some, **bf16)


def test_sets(sets_isa):
    asked = subsets("grad", "hess", "losses")
    for k, rng, order, side, p, bf16, real in cases():
        n, _, s = p.shape
        t = laid(rng.integers(0, 2, p.shape).astype(("f4", "f8", "i1", "i4")[k % 4]), order, side)
        weight = fenced(rng.random((n, s)).astype(("f4", "f8")[k % 2]), side) if k % 3 else None
        sets.run("overlap", t, p, SETS["overlap"], weight=weight, **outputs(asked[k % 8], p, order, side, real), **bf16)
    for side, (n, c) in itertools.product(SIDES, ((1, (1 << 21) + 3), ((1 << 15) + 1, 65))):  # past the caches
        t, p, grad = (fenced(np.full((n, c, 1), 0.5, np.float32), side) for _ in range(3))
        sets.run("overlap", t, p, SETS["overlap"], grad=grad)
    runs = (2, 3, 9, 3), (2, 2, 33, 1), (2, 2, 700, 1), (2, 40, 3, 21)
    for side, shape, order in itertools.product(SIDES, runs, ((0, 1, 2, 3), (1, 0, 2, 3), (1, 2, 0, 3), (2, 0, 1, 3))):
        t, p, grad, hess = (
            fenced(np.full([shape[i] for i in order], 0.5, np.float32), side).transpose(np.argsort(order)) for _ in range(4)
        )
        sets.run("overlap", t, p, SETS["overlap"], grad=grad, hess=hess)


@pytest.mark.parametrize("name", VALUES)
def test_values(values_isa, name):
    asked = subsets("grad", "hess", "losses")
    for k, rng, order, side, p, bf16, real in cases(2):
        n, _, s = p.shape
        t = fenced(rng.integers(0, 2, (n, s)).astype(("f4", "f8", "i1", "i4")[k % 4]), side)
        weight = fenced(rng.random((n, s)).astype(("f4", "f8")[k % 2]), side) if k % 3 else None
        values.run(name, t, p, VALUES[name], weight=weight, **outputs(asked[k % 8], p, order, side, real), **bf16)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_softmax(softmax_isa, soft, weighted):
    asked = subsets("losses", "grad", "prob", "hess")
    for k, rng, order, side, z, bf16, real in cases():
        n, c, s = z.shape
        labels = rng.integers(0, c, (n, s)).astype("bhiqBHIQ"[k % 8])
        y = laid(rng.random(z.shape).astype(real), order, side) if soft else fenced(labels, side)
        options = {"weight": fenced(rng.random((n, s)).astype(real), side)} if weighted else {}
        if weighted and k % 2:
            options["class_weight"] = fenced(rng.random(c).astype(real), side)
        if k % 3 == 0:
            options["smoothing"] = 0.1
        for names in (asked[k % len(asked)], asked[k % 6]):
            softmax_xent.fused(z, y, **outputs(names, z, order, side, real), **options, **bf16)


def test_softmax_of_many_classes_in_planes(softmax_isa):
    """Positions beside each other: through planes, turned into rows, and with slopes over the logits."""
    rng = np.random.default_rng(3)
    for side, (n, c, s) in itertools.product(SIDES, ((1, 193, 2), (2, 203, 37), (1, 321, 300))):
        z = fenced(rng.normal(size=(n, c, s)).astype("f4"), side)
        labels, soft = fenced(rng.integers(0, c, (n, s)), side), fenced(rng.random((n, c, s)).astype("f4"), side)
        for options in ({}, {"smoothing": 0.1}, {"softcap": 8.0}):
            for targets in (labels, soft):
                softmax_xent.fused(z, targets, **outputs(("losses", "grad", "prob"), z, (0, 1, 2), side, np.float32), **options)
                softmax_xent.fused(z, targets, **options)
            over = fenced(z[:1], side)
            softmax_xent.fused(over, labels[:1], grad=over, **options)


def test_small_softmax(softmax_isa):
    rng = np.random.default_rng(1)
    for n, c, side, dtype in itertools.product((1, 3, 16, 17, 32, 65), (1, 2, 9, 10, 16, 33, 1000), SIDES, ("f4", "f8")):
        z, y = fenced(rng.random((n, c)).astype(dtype), side), fenced(rng.integers(0, c, n), side)
        assert softmax_xent.fused(z[:, :, None], y[:, None])[3] == -1
        assert softmax_xent.fused(z[:, :, None], y[:, None], ignore=(0,), grad=fenced(np.empty_like(z), side)[:, :, None])[3] == -1


def test_log_loss(log_loss_isa):
    rng = np.random.default_rng(2)
    for (n, c), columns_first, side, dtype in itertools.product(
        ((1, 1), (1, 2), (3, 3), (513, 1), (600, 2), (5, 7), (9, 8), (700, 17), (3, 1003), (2, 70_001)), (False, True), SIDES, ("f4", "f8")
    ):
        p = rng.uniform(0.1, 0.9, (n, c)).astype(dtype)
        p = fenced(p[:, 0], side) if c == 1 else fenced(p.T.copy(), side).T if columns_first else fenced(p, side)
        labels = fenced(rng.integers(0, max(c, 2), n).astype(np.int32), side)
        seen, weight = fenced(np.zeros(max(c, 2), np.uint8), side), fenced(rng.random(n), side)
        for rescale in (False, True):
            log_loss.fused(p, labels, low=1e-7, rescale=rescale)
            log_loss.fused(p, labels, low=1e-7, rescale=rescale, weight=weight, seen=seen)


def ends(program):
    """How a Python process ends, and what it says."""
    head = "import numpy as np; from kernels import fenced; from polyloss._kernels.cpu import elementwise\n"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])}
    done = subprocess.run([sys.executable, "-c", head + program], env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize("side", SIDES)
def test_a_fence_ends_the_process(side):
    """`math` trusts the caller's sizes: one element too many is what a wrong kernel would read."""
    one = f"x = fenced(np.zeros(1, np.float32), {side!r})"
    assert ends(f"{one}; elementwise.math('exp', x)") == (0, "")
    wrong = "np.broadcast_to(x, 2)" if side == "end" else "np.lib.stride_tricks.as_strided(x, (2,), (-4,))[::-1]"
    assert ends(f"{one}; elementwise.math('exp', {wrong})")[0] != 0


sanitized = pytest.mark.skipif(
    os.environ.get("POLYLOSS_SANITIZE") != "address", reason="make sanitize runs it, with kernels that check every access"
)


@sanitized
def test_the_sanitizer_sees_one_element_too_many():
    assert ends("elementwise.math('exp', np.zeros(8, np.float32))") == (0, "")
    code, said = ends("elementwise.force('x86-64-v3'); elementwise.math('exp', np.broadcast_to(np.zeros(1, np.float32), 8))")
    assert code != 0
    assert "heap-buffer-overflow" in said


CALLS = """
from polyloss._kernels.cpu import log_loss, rowwise, softmax_xent
for n in (3, 5000):
    p, y = np.full((n, 100, 1), 0.01, np.float32), np.arange(n)[:, None] % 100
    for threads in (1, 2):
        for _ in range(3):
            elementwise.run("huber", p, p, (1.0,), grad=np.empty_like(p), losses=np.empty((n, 1), np.float32), threads=threads)
            elementwise.run("hinge", p.reshape(1, -1, 1), p.reshape(1, -1, 1), (None,), threads=threads)
            rowwise.run("cosine_similarity", p, p, hess=np.empty_like(p), threads=threads)
            softmax_xent.fused(p, y, grad=np.empty_like(p), threads=threads)
            log_loss.fused(p[:, :, 0], y[:, 0], low=0.0, threads=threads)
        try:
            rowwise.run("cosine_similarity", p, p, weight=p[:, 0, 0])
        except ValueError:
            pass
"""


@sanitized
def test_the_kernels_leave_no_memory_behind(monkeypatch):
    """The leak sanitizer tells who asked for what is left: Python leaves much by design, the kernels nothing."""
    monkeypatch.setenv("ASAN_OPTIONS", "detect_leaks=1:malloc_context_size=2:fast_unwind_on_malloc=1")
    monkeypatch.setenv("LSAN_OPTIONS", "exitcode=0")
    code, said = ends(CALLS)
    assert code == 0, said
    assert "LeakSanitizer: detected memory leaks" in said  # it looked
    assert [line for line in said.splitlines() if "_kernels" in line] == []
