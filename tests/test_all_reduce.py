"""`Accumulator.all_reduce` in two processes of torch.distributed, beside one process that has all of the data."""

import subprocess
import sys

import numpy as np

import polyloss as pl

RANK = """
import sys
import numpy as np
import torch.distributed as dist
import polyloss as pl
from test_all_reduce import LOSSES, data

rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
t, p, w = data()
mine = slice(0, 30) if rank == 0 else slice(30, None)
mean = pl.Accumulator(LOSSES).update(t[mine], p[mine], w[mine]).all_reduce()
open(f"{store}-{rank}", "wb").write(mean.to_bytes())
other = pl.Accumulator("mse" if rank else "mae").update([[0.0]], [[1.0]])
before = other.to_bytes()
try:
    other.all_reduce()
except ValueError as error:
    assert "different losses; this one is of mean_" in str(error), error
else:
    raise AssertionError("accumulators of different losses were added")
assert other.to_bytes() == before
zero = pl.Accumulator("hinge").update([[0.0]] if rank else [[-1.0]], [[1.0]])
try:
    zero.all_reduce()
except ValueError as error:
    assert "pass labels=" in str(error), error
else:
    raise AssertionError("targets of two kinds were added")
dist.destroy_process_group()
"""
LOSSES = {"huber": ("huber", {"delta": 0.5}), "mape": "mape"}


def data():
    rng = np.random.default_rng(8)
    p = rng.standard_normal((100, 3)) * 10.0 ** rng.integers(-150, 150, (100, 3))
    p[3] = np.inf
    return rng.standard_normal((100, 3)), p, rng.choice([0.0, 1.0, 2.5, 1e-9], 100)


def test_two_processes_have_the_sums_of_one(tmp_path):
    store = tmp_path / "store"
    command = [sys.executable, "-W", "ignore", "-c", RANK]
    folder = str(__file__).rpartition("/")[0]
    ranks = [subprocess.Popen([*command, str(k), str(store)], cwd=folder, stderr=subprocess.PIPE, text=True) for k in range(2)]
    try:
        for rank in ranks:
            _, said = rank.communicate(timeout=120)
            assert rank.returncode == 0, said
    finally:
        for rank in ranks:
            rank.kill()
    whole = pl.Accumulator(LOSSES).update(*data()).to_bytes()
    assert [(tmp_path / f"store-{k}").read_bytes() for k in range(2)] == [whole, whole]
