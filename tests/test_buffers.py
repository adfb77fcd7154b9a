"""Memory of large results is used again once nobody holds it, and never before."""

import gc
import mmap
import threading

import numpy as np
import pytest
import torch

import polyloss as pl
from polyloss._core import buffers as _buffers

pytestmark = pytest.mark.skipif(not hasattr(mmap, "MADV_FREE"), reason="the system cannot be told that pages are free")
SHAPE = (640, 16384)


@pytest.fixture(autouse=True)
def nothing_kept():
    _buffers._kept.clear()
    yield
    gc.collect()
    _buffers._kept.clear()


def address(x):
    return x.__array_interface__["data"][0]


def test_used_again_when_nobody_holds_it():
    x = _buffers.empty(SHAPE, np.float32)
    where = address(x)
    x[...] = 3
    row = x[5:6].T
    del x
    y = _buffers.empty(SHAPE, np.float32)
    y[...] = 4
    assert address(y) != where
    assert (row == 3).all()
    del row
    z = _buffers.empty(SHAPE, np.float32)
    assert address(z) == where


def test_at_most_one_is_kept_and_of_about_the_size():
    several = [_buffers.empty(SHAPE, np.float32) for _ in range(3)]
    last = address(several[2])
    del several[0], several[0]
    assert len(_buffers._kept) == 1
    several.clear()
    assert len(_buffers._kept) == 1
    x = _buffers.empty((SHAPE[0] - 1, SHAPE[1] + 1), np.float32)
    assert x.shape == (SHAPE[0] - 1, SHAPE[1] + 1)
    assert address(x) == last
    del x
    for rows in (SHAPE[0] + 1, SHAPE[0] // 4 * 5):
        x = _buffers.empty((rows, SHAPE[1]), np.float32)
        assert not _buffers._kept
        del x
    x = _buffers.empty((8,), np.float32)
    assert len(_buffers._kept) == 1
    assert x.flags.owndata


def test_steps_of_training_use_one_gradient_again():
    z, y = torch.randn(SHAPE, requires_grad=True), torch.randint(0, SHAPE[1], SHAPE[:1])
    addresses, first = set(), None
    for _ in range(3):
        (gradient,) = torch.autograd.grad(pl.softmax_loss(y, z), z)
        first = gradient.clone() if first is None else first
        addresses.add(gradient.data_ptr())
        assert torch.equal(gradient, first)
        del gradient
    assert len(addresses) == 1
    held = [pl.value_and_grad(pl.softmax_loss)(y, z.detach())[1] for _ in range(2)]
    assert held[0].data_ptr() != held[1].data_ptr()
    assert torch.equal(held[0], held[1])


def test_threads_never_share():
    failures = []

    def work(k):
        for _ in range(20):
            x = _buffers.empty((1, _buffers.FROM), np.uint8)
            x[0, ::4096] = k
            if not (x[0, ::4096] == k).all():
                failures.append(k)
            del x

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures
