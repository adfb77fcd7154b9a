"""Forked, spawned and served processes compute and end, whichever kernel or library used OpenMP's threads before; and the bound on threads.

Each program runs in an interpreter of its own, since a process that hangs must not be this one. A child gives itself half a minute.
"""

import importlib.util
import multiprocessing
import os
import subprocess
import sys

import pytest

import polyloss as pl
from polyloss._call.cpu import kernels

WORK = """
import os, signal, sys, traceback
import numpy as np

def softmax_xent():
    import polyloss as pl
    return float(np.sum(pl.softmax_loss(np.arange(4000) % 100, np.ones((4000, 100), "f4"))))

def elementwise():
    import polyloss as pl
    return float(np.sum(pl.mean_squared_error(np.zeros((400_000, 1), "f4"), np.ones((400_000, 1), "f4"))))

def rowwise():
    import polyloss as pl
    return float(np.sum(pl.cosine_similarity(np.ones((4000, 100), "f4"), np.ones((4000, 100), "f4"))))

def values():
    import polyloss as pl
    return float(np.sum(pl.gaussian_nll(np.ones(200_000, "f4"), np.ones((200_000, 2), "f4"))))

def sets():
    import polyloss as pl
    return float(pl.dice(np.ones(400_000, "f4"), np.ones(400_000, "f4")))

def log_loss():
    import polyloss as pl
    return pl.log_loss(np.arange(4000) % 100, np.full((4000, 100), 0.01))

def torch():
    import torch
    torch.set_num_threads(2)
    return float(torch.ones(4_000_000).exp().sum())

def all_of_them():
    return [work() for work in (softmax_xent, elementwise, rowwise, values, sets, log_loss)]

def threads():
    return len(os.listdir("/proc/self/task"))

def in_child(work):
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        try:
            assert np.isfinite(work()).all()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status == 0, f"{work.__name__} in a child ended with {status}"

def nested(work):
    def twice():
        in_child(work)
        return work()
    in_child(twice)
"""
KERNELS = ("softmax_xent", "elementwise", "rowwise", "values", "sets", "log_loss")
FORKS = "fork" in multiprocessing.get_all_start_methods() and os.path.isdir("/proc/self/task")

forks = pytest.mark.skipif(not FORKS, reason="needs fork, and Linux to count threads")
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")


def succeeds(program, folder, **variables):
    path = folder / "program.py"
    path.write_text(WORK + program)
    environment = {**os.environ, "POLYLOSS_NUM_THREADS": "2", "OMP_NUM_THREADS": "2", **variables}
    done = subprocess.run([sys.executable, path], env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@forks
@pytest.mark.parametrize("used", [*KERNELS, pytest.param("torch", marks=needs_torch)])
def test_children_of_a_process_that_used_threads(used, tmp_path):
    """Each kernel in a child, and in a child's child; polyloss itself is imported there where only torch was used before."""
    if used != "torch" and not kernels(used).openmp():
        pytest.skip("built without OpenMP: no kernel has threads")
    program = f"""
before = threads()
{used}()
assert threads() > before, "no thread was started: nothing is tested"
for work in {", ".join(KERNELS)}, all_of_them:
    in_child(work)
nested(all_of_them)
{used}()
"""
    succeeds(program, tmp_path)


@forks
def test_a_child_whose_parent_never_had_openmp_uses_threads(tmp_path):
    if not kernels("elementwise").openmp():
        pytest.skip("built without OpenMP: no kernel has threads")
    program = """
def several():  # imports polyloss, which brings OpenMP
    before = threads()
    elementwise()
    assert threads() > before
    return 0.0

in_child(several)
"""
    succeeds(program, tmp_path)


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_pools(method, tmp_path):
    """A worker computes on one thread where it is a fork of a process that used threads, and on as many as it is told elsewhere."""
    program = f"""
from concurrent.futures import ProcessPoolExecutor
import multiprocessing

def work():
    from polyloss._core import threads as _threads
    return *all_of_them(), _threads.alone()

if __name__ == "__main__":
    want = all_of_them()
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("{method}")) as pool:
        for *got, alone in [f.result(timeout=100) for f in [pool.submit(work) for _ in range(3)]]:
            assert got == want
            assert alone == ("{method}" == "fork")
"""
    succeeds(program, tmp_path)


@forks
@needs_torch
def test_data_loaders(tmp_path):
    program = """
from torch.utils.data import DataLoader, Dataset

class Losses(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, i):
        return np.array(all_of_them())

if __name__ == "__main__":
    for parent_uses in torch, all_of_them:
        parent_uses()
        for batch in DataLoader(Losses(), num_workers=1, timeout=60):
            assert np.isfinite(batch.numpy()).all()
"""
    succeeds(program, tmp_path)


# -------------------------------------------------------------------------------------------------------------------- threads


@pytest.mark.parametrize("n", [1025, 100_000, 2**31 - 1, 2**31, 2**64, 0, -1])
def test_threads_beyond_the_bound_are_refused(n):
    before = pl.get_num_threads()
    with pytest.raises(ValueError, match=f"n is {n}, but must be from 1 to 1024"):
        pl.set_num_threads(n)
    assert pl.get_num_threads() == before


@pytest.mark.parametrize("given", ["1025", "2147483648"])
def test_the_variable_is_bounded_as_the_call(given, tmp_path):
    program = f"""
try:
    elementwise()
except ValueError as error:
    assert "POLYLOSS_NUM_THREADS is {given!r}, but must be a whole number from 1 to 1024" in str(error), error
else:
    raise AssertionError("it was taken")
"""
    succeeds(program, tmp_path, POLYLOSS_NUM_THREADS=given)


def test_as_many_threads_as_may_be(tmp_path):
    """Far more than there are tasks: no more than those are started."""
    program = """
import polyloss as pl

want = all_of_them()
pl.set_num_threads(1024)
assert all_of_them() == want
"""
    succeeds(program, tmp_path)
