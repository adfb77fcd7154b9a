"""A cluster of two processes, and what is timed on it: losses of a Dask array, and batches that the workers make."""

from functools import partial

import numpy as np

import polyloss as pl


class Cluster:
    """Two processes that hold the blocks of an array; they end when the last of its contenders goes."""

    def __init__(self, partitions):
        import dask.array as da
        import distributed

        self.cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50)
        self.client = distributed.Client(self.cluster)
        n = 2000 * partitions
        self.logits = self.client.persist(da.random.random((n, 10), chunks=(2000, 10)))
        self.labels = self.client.persist(da.random.randint(0, 10, n, chunks=2000))
        distributed.wait([self.logits, self.labels])
        self.opened = [partial(drawn, seed) for seed in range(partitions)]

    def __del__(self):
        self.client.close()
        self.cluster.close()

    def loss(self):
        """The loss as a Dask array."""
        return pl.softmax_loss(self.labels, self.logits).compute()

    def accumulator(self):
        """The exact mean of the same."""
        return pl.Accumulator("softmax_loss").update(self.labels, self.logits).result()

    def evaluate(self):
        """Batches that the workers make themselves."""
        return pl.evaluate("softmax_loss", self.opened, client=self.client)

    def sum(self):
        """What Dask itself takes."""
        return self.logits.sum().compute()


def drawn(seed):
    """A batch that the worker makes itself."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 10, 2000), rng.random((2000, 10))


def contenders(partitions):
    """Contenders for the blocks of a Dask array."""
    made = Cluster(partitions)
    return {"softmax_loss": made.loss, "Accumulator": made.accumulator, "evaluate": made.evaluate, "p.sum()": made.sum}
