"""Dask on a real cluster of two processes: every loss, blocks as they come from another process, and a worker that is killed."""

import os
import signal
import time

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
from oracle import CASES

import polyloss as pl

distributed = pytest.importorskip("distributed")
RNG = np.random.default_rng(44)
WEIGHTED = np.array([1.0, 0.0, 2.5, 0.25, 0.0, 3.0])


@pytest.fixture(scope="module")
def client():
    """Two workers with a thread each. What a test does not close, Dask closes with the cluster."""
    with dask.config.set({"distributed.worker.memory.terminate": False, "distributed.admin.large-graph-warning-threshold": "1 GB"}):
        options = dict(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", memory_limit=0)
        with distributed.LocalCluster(**options, silence_logs=50) as cluster, distributed.Client(cluster) as client:
            yield client


def sent(client, x, chunks):
    """A Dask array whose blocks lie in the workers' memory and go from one to the other."""
    return client.persist(da.from_array(x, chunks=chunks))


def crossed(x, chunks):
    """Blocks as they may come out of a message: at odd addresses, in the other byte order, read-only."""

    def worse(block):
        raw = np.zeros(block.nbytes + 1, np.uint8)[1:]
        view = np.ndarray(block.shape, block.dtype.newbyteorder(">"), buffer=raw.data)
        view[...] = block
        view.flags.writeable = False
        return view

    return da.from_array(x, chunks=chunks).map_blocks(worse, meta=np.empty((0,) * x.ndim, x.dtype))


def test_every_loss_and_its_gradient(client):
    """Weighted or not, reduced or not: each case one of the four, and every loss has several cases or shares its way with others."""
    lazy, right = [], []
    for k, case in enumerate(CASES):
        t, p = case.inputs("float32")
        own = {"axis": -1, **case.params, "sample_weight": WEIGHTED if k % 2 else None}
        if "class_weight" in own:
            own["class_weight"] = np.array(own["class_weight"])
        if k % 4 < 2 and case.loss != "softmax_loss":
            own["reduction"] = "mean"
        right += pl.value_and_grad(case.loss)(t, p, **own)
        own |= {key: da.from_array(own[key], chunks=3) for key in ("sample_weight", "class_weight") if own.get(key) is not None}
        lazy += pl.value_and_grad(case.loss)(*(da.from_array(x, chunks=(3, 2)[: x.ndim]) for x in (t, p)), **own)
    for got, want in zip(dask.compute(*lazy), right, strict=True):
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_blocks_at_odd_addresses_and_in_the_other_byte_order(client):
    """In the workers, and on the scheduler of one process."""
    lazy, right = [], []
    for case in CASES[::4]:
        t, p = case.inputs("float64")
        params = {k: v for k, v in case.params.items() if k != "class_weight"}
        lazy.append(pl.get(case.loss)(crossed(t, 3), crossed(p, (3, 3)), axis=-1, sample_weight=crossed(WEIGHTED, 4), **params))
        right.append(pl.get(case.loss)(t, p, axis=-1, sample_weight=WEIGHTED, **params))
    for where in (None, "synchronous"):  # the cluster; this process
        for got, want in zip(dask.compute(*lazy, scheduler=where), right, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-14)


def test_empty_axes_and_unknown_lengths(client):
    empty = da.zeros((4, 0, 6), chunks=(2, 0, 6))
    y, z, w = RNG.integers(0, 5, 90), RNG.standard_normal((90, 5, 4)), RNG.random(90)
    y = np.repeat(y[:, None], 4, axis=1)
    keep = RNG.random(90) < 0.5
    some = da.from_array(keep, chunks=50)
    t, p, v = (da.from_array(x, chunks=(50, 3, 3)[: x.ndim])[some] for x in (y, z, w))
    y, z, w = (x[keep] for x in (y, z, w))
    none = np.zeros((4, 0, 6))
    pairs = [
        (pl.value_and_grad("mse")(empty, empty, axis=2, reduction="mean"), pl.value_and_grad("mse")(none, none, axis=2, reduction="mean")),
        ((pl.mean_absolute_error(empty, empty, axis=2),), (np.zeros((4, 0)),)),
        ((pl.categorical_hinge(p, p + 1, axis=1, reduction="sum_over_batch_size"),),
         (pl.categorical_hinge(z, z + 1, axis=1, reduction="sum_over_batch_size"),)),
        ((pl.softmax_loss(t, p, reduction="none"),), (pl.softmax_loss(y, z, reduction="none"),)),
    ]  # fmt: skip
    for rule, lazy, weight in (("full", None, None), ("valid", None, None), ("valid", v, w), ("batch_size", v, w), ("none", None, None)):
        given = dict(normalization=rule, ignore_label=2)
        grad = pl.value_and_grad("softmax_loss")
        pairs.append((grad(t, p, sample_weight=lazy, **given), grad(y, z, sample_weight=weight, **given)))
    for got, want in zip(dask.compute(*(lazy for lazy, _ in pairs)), [right for _, right in pairs], strict=True):
        for a, b in zip(got, want, strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-15)


def test_a_block_is_one_task_and_joining_them_is_another():
    """A task for each block, for every 32 of them, and for the result, and no other names of these: messages cost more than blocks."""
    y, z = (da.from_array(x, chunks=100) for x in (np.zeros(4000, int), np.zeros((4000, 5))))
    for blocks, tasks in ((40, 40 + 2 + 1), (10, 10 + 1)):
        t, p = y[: blocks * 100].persist(scheduler="synchronous"), z[: blocks * 100].persist(scheduler="synchronous")
        graph = dict(dask.optimize(pl.softmax_loss(t, p))[0].__dask_graph__())
        made = len(graph.keys() - dict(t.dask).keys() - dict(p.dask).keys())
        assert made <= tasks  # Dask may fuse some of them with others


def test_a_bad_label_is_named_by_its_place_in_the_whole(client):
    y, z = np.zeros((8, 3), int), np.zeros((8, 4, 3))
    y[5, 2] = 40
    for labels in (y, y[:, None, :], y[:, :, None], y.astype(np.float32)):
        lazy = pl.softmax_loss(da.from_array(labels, chunks=2), da.from_array(z, chunks=2))
        index = {(8, 3): "5, 2", (8, 1, 3): "5, 0, 2", (8, 3, 1): "5, 2, 0"}[labels.shape]
        with pytest.raises(ValueError, match=rf"y_true\[{index}\] is 40, but logits have 4 classes on axis 1"):
            lazy.compute()


LABELS = {
    "strings": lambda y: np.array(["ant", "bee", "cat", "dog"])[y],
    "list of strings": lambda y: np.array(["ant", "bee", "cat", "dog"])[y].tolist(),
    "categories": lambda y: pd.Series(pd.Categorical(np.array(["ant", "bee", "cat", "dog"])[y])),
    "integers": lambda y: y.astype(np.uint16),
    "booleans": lambda y: y > 1,
    "floats": lambda y: y * 10.0,
    "indicators": lambda y: np.eye(4, dtype=int)[y],
    "dask": lambda y: da.from_array(y, chunks=31),
}


@pytest.mark.parametrize("kind", LABELS)
def test_log_loss(client, kind):
    y = RNG.integers(0, 4, 200)
    p = RNG.dirichlet(np.ones(4), 200)
    p, w, given = (p[:, :2].sum(axis=1) if kind == "booleans" else p), RNG.random(200), LABELS[kind](y)
    classes = {"integers": range(4), "dask": range(4), "indicators": range(4), "booleans": [False, True], "floats": [0, 10, 20, 30]}.get(
        kind, ["ant", "bee", "cat", "dog"])  # fmt: skip
    plain = given.compute() if kind == "dask" else given
    for chunks in ((70, 3),):
        lazy = sent(client, p, chunks[: p.ndim])
        assert pl.log_loss(given, lazy, sample_weight=w) == pytest.approx(pl.log_loss(plain, p, sample_weight=w), rel=1e-13)
        mean = pl.Accumulator("log_loss", labels=classes).update(given, lazy, w)
        assert mean == pl.Accumulator("log_loss", labels=classes).update(plain, p, w)


def test_accumulators_take_dask_arrays_block_by_block(client):
    y, z, w = RNG.integers(0, 5, 300), RNG.standard_normal((300, 5)).astype(np.float32), RNG.random(300)
    whole = pl.Accumulator("softmax_loss", ignore_label=3).update(y, z, w)
    lazy = [sent(client, x, chunks) for x, chunks in ((y, 48), (z, (80, 2)), (w, 300))]
    assert pl.Accumulator("softmax_loss", ignore_label=3).update(*lazy) == whole
    some = da.ones(300, chunks=60, dtype=bool)
    unknown = [x.rechunk({0: 60})[some] for x in lazy]
    assert pl.Accumulator("softmax_loss", ignore_label=3).update(*unknown) == whole


class Opened:
    """A batch that the worker opens itself."""

    def __init__(self, path, start, stop, wait=0.0):
        self.path, self.start, self.stop, self.wait = path, start, stop, wait

    def __call__(self):
        time.sleep(self.wait)
        with np.load(self.path) as file:
            return tuple(file[name][self.start : self.stop] for name in "yzw")


@pytest.fixture
def saved(tmp_path):
    """A file of labels, logits and weights, and what the losses of all of it are."""
    y, z, w = RNG.integers(0, 5, 600), RNG.standard_normal((600, 5)), RNG.random(600)
    np.savez(tmp_path / "data.npz", y=y, z=z, w=w)
    losses = {"softmax": "softmax_loss", "poly": ("poly1", {"poly_epsilon": 2.0})}
    return tmp_path / "data.npz", losses, pl.Accumulator(losses).update(y, z, w).result()


def test_evaluate_on_the_cluster(client, saved, capsys):
    path, losses, want = saved
    opened = [Opened(path, k, k + 50) for k in range(0, 600, 50)]
    assert pl.evaluate(losses, opened, client=client, progress=True) == want
    assert "12 batches" in capsys.readouterr().err
    assert pl.evaluate(losses, (batch() for batch in opened), client=client) == want
    assert list(pl.evaluate(losses, opened, client=client)) == list(losses)
    with pytest.raises(ValueError, match=r"y_true\[1\] is 7") as caught:
        pl.evaluate("softmax_loss", [opened[0], (np.array([0, 7]), np.zeros((2, 5)))], client=client)
    assert "in batch 1" in caught.value.__notes__


def test_a_worker_that_is_killed_changes_no_bit(client, saved):
    path, losses, want = saved
    pids = client.run(os.getpid)

    class Batches:
        """Kills a worker on the way."""

        def __iter__(self):
            for k in range(0, 600, 25):
                if k == 200:
                    os.kill(next(iter(pids.values())), signal.SIGKILL)
                yield Opened(path, k, k + 25, wait=0.02)

    assert pl.evaluate(losses, Batches(), client=client) == want


def test_the_command_on_workers_in_another_folder(client, tmp_path, monkeypatch, capsys):
    """Files are named as they are here, and opened there."""
    pytest.importorskip("polars")
    from polyloss.__main__ import main

    monkeypatch.chdir(tmp_path)
    y, z = RNG.integers(0, 5, 300), RNG.standard_normal((300, 5))
    np.save("y.npy", y)
    np.save("z.npy", z)
    table = pd.DataFrame(np.exp(z) / np.exp(z).sum(axis=1, keepdims=True), columns=list("abcde")).assign(label=np.array(list("abcde"))[y])
    table.to_csv("table.csv", index_label="id")
    for arguments in (["y.npy", "z.npy", "-l", "softmax_loss"], ["table.csv", "table.csv", "--target", "label"]):
        assert main(["score", *arguments]) == 0
        here = capsys.readouterr()
        assert main(["score", *arguments, "--dask", client.scheduler.address]) == 0
        assert capsys.readouterr() == here
    y[7] = 40
    np.save("y.npy", y)
    assert main(["score", "y.npy", "z.npy", "-l", "softmax_loss", "--dask", client.scheduler.address]) == 1
    assert capsys.readouterr().err.startswith("polyloss score: y.npy: [7] is 40")
