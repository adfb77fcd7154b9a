"""Scores of files: what the command takes, beside what reading the data takes."""

import contextlib
import functools
import inspect
import io
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
import weakref
import zlib
from pathlib import Path

import numpy as np

from polyloss.__main__ import main

CLASSES = ("bird", "cat", "cow", "dog", "duck", "fish", "goat", "horse", "pig", "sheep")
ROWS, LARGE = 1_000_000, 10_000_000
LOGITS = (20_000, 1000)


# A process that runs the command, or polars' parser alone, and says at its end how much memory it had: resident, and of addresses. The
# kernel's ru_maxrss of a child would not do, since it begins with what the parent had.
PEAKS = """
import re
found = dict(re.findall(r"(VmHWM|VmPeak):\\s*(\\d+) kB", open("/proc/self/status").read()))
print(found["VmHWM"], found["VmPeak"], file=sys.stderr)
sys.exit(status)
"""
COMMAND = "import sys\nfrom polyloss.__main__ import main\nstatus = main(sys.argv[1:])" + PEAKS
PARSER = (
    "import sys, polars\nfrom benchmarks import files\nstatus = [files.parse(*sys.argv[k:k + 2]) for k in range(1, len(sys.argv), 2)] and 0"
    + PEAKS
)


def parse(path, classes=""):
    """One file parsed, in batches, and nothing else."""
    import polars

    frame = polars.scan_csv(path, infer_schema=False, schema_overrides=dict.fromkeys(filter(None, classes.split(",")), polars.Float64))
    for batch in frame.collect_batches(chunk_size=1 << 16):
        del batch


def environment():
    """That of a new process; what polars set for its allocator in this one is left out."""
    return {key: value for key, value in os.environ.items() if key != "_RJEM_MALLOC_CONF"}


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
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=self.path, env=environment()).stdout

    def measured(self, program, *words, limit=None):
        """What a process of its own prints, and MB that it had at most: resident, and of addresses, of which it may have `limit`."""
        command = [sys.executable, "-c", program, *map(str, words)]
        if limit is not None:
            command = ["sh", "-c", f'ulimit -v {limit} && exec "$@"', "sh", *command]
        search = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=self.path, env=environment() | search)
        return done.stdout, *(int(kilobytes) / 1e3 for kilobytes in done.stderr.split()[-2:])

    def peak(self, *words):
        """MB that the command's process had resident at most."""
        return self.measured(COMMAND, "score", *words)[1]


class Competition(Folder):
    """A solution with string labels, and a submission whose rows stand in another order, both CSV.

    Rows beyond the first million have the labels and probabilities of these, and other ids. Large files stay in the system's folder of
    temporary files for the next time: ten million rows take half a minute.
    """

    def __init__(self, rows):
        if rows <= ROWS:
            super().__init__()
            self.write(rows)
        else:
            version = zlib.crc32(inspect.getsource(Competition.write).encode())
            kept = Path(tempfile.gettempdir()) / f"polyloss-{rows}-rows-{version:08x}"
            if not kept.exists():
                self.path = Path(tempfile.mkdtemp(dir=kept.parent))
                self.write(rows)
                self.path.rename(kept)
            self.path = kept
        self.files = self.path / "solution.csv", self.path / "submission.csv"

    def write(self, rows):
        """Write the files, a million rows at a time."""
        import polars

        rng = np.random.default_rng(0)
        step = min(rows, ROWS)
        labels, logits = rng.integers(0, 10, step), rng.standard_normal((step, 10))
        logits[np.arange(step), labels] += 1.5
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        p, order, names = p.round(6), rng.permutation(step), np.array(CLASSES)[labels]
        columns = {name: p[order, k] for k, name in reversed(list(enumerate(CLASSES)))}
        with open(self.path / "solution.csv", "wb") as solution, open(self.path / "submission.csv", "wb") as submission:
            for start in range(0, rows, step):
                ids = np.arange(start, start + step) * 7 + 13
                there = ((rows - step - start) + order) * 7 + 13  # the last million first
                polars.DataFrame({"id": ids, "label": names}).write_csv(solution, include_header=not start)
                polars.DataFrame({"id": there, **columns}).write_csv(submission, include_header=not start)

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
        parse(self.files[0])
        parse(self.files[1], ",".join(CLASSES))

    @functools.cached_property
    def alone(self):
        """MB of the parser in a process of its own: resident, and of addresses."""
        return self.measured(PARSER, self.files[0], "", self.files[1], ",".join(CLASSES))[1:]

    @functools.cached_property
    def bounded(self):
        """The same of the command in a process that has 1 GB of addresses beyond what the parser needs."""
        limit = int(1e3 * self.alone[1]) + 10**6
        return self.measured(COMMAND, "score", *self.files, limit=limit)[1:]


def competition(rows=ROWS):
    """Contenders for a competition's file."""
    made = Competition(rows)
    return {"polyloss": made.here, "whole process": made.whole, "pandas and scikit-learn": made.pandas, "parser": made.parser}


def large(rows=LARGE):
    """Contenders for a submission of many rows, each in a process of its own."""
    made, names = Competition(rows), ",".join(CLASSES)
    return {"whole process": made.whole, "parser": functools.partial(made.measured, PARSER, "solution.csv", "", "submission.csv", names)}


class Score:
    """Peak memory of the command's process for a submission of a million rows; the parser alone takes 195 MB."""

    unit = "MB"
    timeout = 300

    def setup(self):
        """Write the files."""
        self.made = Competition(ROWS)

    def track_peak(self):
        """Most of its memory that was resident at once."""
        return self.made.peak(*self.made.files)


class Jobs(Competition):
    """Files for the command's six jobs."""

    def __init__(self, rows, images, parts):
        super().__init__(rows)
        self.options = {
            "a competition": ("solution.csv", "submission.csv", "--kaggle"),
            "groups": ("usage.csv", "submission.csv", "other.csv", "--group-by", "Usage", "--json"),
            "paired": ("solution.csv", "submission.csv", "other.csv", "--paired"),
            "arrays": ("labels.npy", "logits.npy", "-l", "softmax_loss", "-l", "poly1"),
            "a segmentation": ("seg.zarr::labels", "seg.zarr::logits", "-l", "softmax_loss", "--ignore-label", "255"),
            "parts": ("truth.parquet", "preds*.parquet", "--parts", "-l", "mse", "--fail-above", "1e9", "-q"),
        }
        import polars
        import zarr

        rng = np.random.default_rng(1)
        usage = np.where(np.arange(rows) % 3 == 0, "Public", "Private")
        polars.read_csv(self.files[0]).with_columns(Usage=usage).write_csv(self.path / "usage.csv")
        shutil.copy(self.files[1], self.path / "other.csv")
        Dump.write(self, LOGITS if rows == ROWS else (20, 7))
        group = zarr.open_group(self.path / "seg.zarr", mode="w")
        labels, logits = rng.integers(0, 21, (images, 128, 128)).astype(np.uint8), rng.standard_normal((images, 21, 128, 128), np.float32)
        for name, x in (("labels", labels), ("logits", logits)):
            group.create_array(name, shape=x.shape, chunks=(4, *x.shape[1:]), dtype=x.dtype)[:] = x
        truth = polars.DataFrame({"id": np.arange(parts * rows), "y": rng.standard_normal(parts * rows)})
        truth.write_parquet(self.path / "truth.parquet")
        for k in range(parts):
            truth[k * rows : (k + 1) * rows].write_parquet(self.path / f"preds{k}.parquet")

    def peak_of(self, job):
        """MB that the command had resident at most for a job."""
        return self.peak(*self.options[job])


def jobs(rows=ROWS, images=96, parts=4):
    """The peaks of the six jobs, in MB, and of polars' parser for a competition's files."""
    made = Jobs(rows, images, parts)
    return {job: functools.partial(made.peak_of, job) for job in made.options} | {"parser": lambda: made.alone[0]}


def bounded(rows=LARGE):
    """MB that a process takes for many rows, if it may have 1 GB of addresses beyond the parser's."""
    made = Competition(rows)
    return {
        "polyloss": lambda: made.bounded[1], "parser and 1 GB": lambda: made.alone[1] + 1e3,
        "resident: polyloss": lambda: made.bounded[0], "resident: parser": lambda: made.alone[0],
    }  # fmt: skip


class Dump(Folder):
    """Labels and logits as NPY."""

    def __init__(self, shape):
        super().__init__()
        self.write(shape)

    def write(self, shape):
        """Write the files."""
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
