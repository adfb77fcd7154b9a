"""Scores of files, and of partitions on a cluster: what the command and a client take, beside what reading the data takes."""

import contextlib
import functools
import io
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
import weakref
from pathlib import Path

import numpy as np

import polyloss as pl
from polyloss.__main__ import main

CLASSES = ("bird", "cat", "cow", "dog", "duck", "fish", "goat", "horse", "pig", "sheep")
ROWS = 1_000_000
LOGITS = (20_000, 1000)
PARTITIONS = 50


class Folder:
    """A folder of files, deleted when the last of its contenders goes."""

    def __init__(self):
        self.path = Path(tempfile.mkdtemp())
        weakref.finalize(self, shutil.rmtree, self.path)

    def score(self, *words):
        """The score that the command prints, in this process."""
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            main(["score", *map(str, words)])
        return float(out.getvalue().split("\t")[2])

    def process(self, *words):
        """The same in a process of its own, its start and imports included."""
        command = [sys.executable, "-m", "polyloss", *map(str, words)]
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=self.path).stdout


class Competition(Folder):
    """A solution with string labels, and a submission whose rows stand in another order, both CSV."""

    def __init__(self, rows):
        super().__init__()
        import polars

        rng = np.random.default_rng(0)
        labels, logits = rng.integers(0, 10, rows), rng.standard_normal((rows, 10))
        logits[np.arange(rows), labels] += 1.5
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        p, ids, order = p.round(6), np.arange(rows) * 7 + 13, rng.permutation(rows)
        polars.DataFrame({"id": ids, "label": np.array(CLASSES)[labels]}).write_csv(self.path / "solution.csv")
        columns = {name: p[order, k] for k, name in reversed(list(enumerate(CLASSES)))}
        polars.DataFrame({"id": ids[order], **columns}).write_csv(self.path / "submission.csv")
        self.files = self.path / "solution.csv", self.path / "submission.csv"

    def here(self):
        """In this process."""
        return self.score(*self.files)

    def whole(self):
        """From the start of a process to its end."""
        return float(self.process("score", "solution.csv", "submission.csv").split("\t")[2])

    def pandas(self):
        """Read, merged and scored by others, in this process."""
        import pandas
        from sklearn.metrics import log_loss

        joined = pandas.read_csv(self.files[0]).merge(pandas.read_csv(self.files[1]), on="id")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # rows of six digits add up to 1 within 5e-6
            return log_loss(joined["label"], joined[list(CLASSES)].to_numpy(), labels=list(CLASSES))

    def parser(self):
        """Both files parsed, in batches, and nothing else."""
        import polars

        types = dict.fromkeys(CLASSES, polars.Float64)
        for file, own in zip(self.files, ({}, types), strict=True):
            for batch in polars.scan_csv(file, infer_schema=False, schema_overrides=own).collect_batches(chunk_size=1 << 16):
                del batch


def competition(rows=ROWS):
    """Contenders for a competition's file."""
    made = Competition(rows)
    return {"polyloss": made.here, "whole process": made.whole, "pandas and scikit-learn": made.pandas, "parser": made.parser}


class Score:
    """Peak memory of the command's process for a submission of a million rows; the parser alone takes 195 MB."""

    unit = "MB"
    timeout = 300

    def setup(self):
        """Write the files."""
        self.made = Competition(ROWS)

    def track_peak(self):
        """Most of its memory that was resident at once."""
        command = [sys.executable, "-m", "polyloss", "score", *map(str, self.made.files)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        return os.wait4(process.pid, 0)[2].ru_maxrss / 1024


class Dump(Folder):
    """Labels and logits as NPY."""

    def __init__(self, shape):
        super().__init__()
        rng = np.random.default_rng(0)
        np.save(self.path / "labels.npy", rng.integers(0, shape[1], shape[0]).astype(np.int16))
        np.save(self.path / "logits.npy", rng.standard_normal(shape, dtype=np.float32))

    def here(self):
        """In this process."""
        return self.score(self.path / "labels.npy", self.path / "logits.npy", "-l", "softmax_loss")

    def load(self):
        """The logits, read into memory."""
        np.load(self.path / "logits.npy")


def dump(shape=LOGITS):
    """Contenders for a dump of logits."""
    made = Dump(shape)
    return {"polyloss": made.here, "np.load": made.load}


def start():
    """The command's help, from the start of a process to its end."""
    return {"polyloss": functools.partial(Folder().process, "score", "--help")}


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
        self.opened = [functools.partial(drawn, seed) for seed in range(partitions)]

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


def cluster(partitions=PARTITIONS):
    """Contenders for the blocks of a Dask array."""
    made = Cluster(partitions)
    return {"softmax_loss": made.loss, "Accumulator": made.accumulator, "evaluate": made.evaluate, "p.sum()": made.sum}
