"""The commands: score, losses, explain, demo. Only here are options known."""

import contextlib
import glob
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import click

import polyloss
from polyloss import registry
from polyloss._command.problems import ABOVE, BAD_FILE, SCORED, BadFile, put, usage, writing
from polyloss._core.block import LOSSES

SCORE_HELP = """Score PREDICTIONS against TRUTH.

\b
A competition's file, as Kaggle scores it:
  polyloss score solution.csv submission.csv --kaggle
Many submissions, and a score for each part of the data:
  polyloss score solution.csv subs/*.csv --group-by Usage --json
Is the new model better? Differences with standard error, z and p:
  polyloss score solution.csv old.csv new.csv --paired
Arrays, several losses in one pass:
  polyloss score labels.npy logits.npy -l softmax_loss -l poly1
A segmentation on a cluster:
  polyloss score seg.zarr::labels seg.zarr::logits -l softmax_loss --ignore-label 255 --dask ADDRESS
Many files that are parts of one, as a gate in a pipeline:
  polyloss score truth.parquet 'preds/*.parquet' --parts -l mse --fail-above 0.12 -q

Tables (CSV, TSV, both also .gz and .zst; Parquet, Arrow) are joined by id, and class columns by name, in any order. TRUTH's first column is
the id. Arrays (.npy, A.npz::name, A.zarr::name, A.h5::name) are aligned by row. Several PREDICTIONS are several submissions, unless --parts
makes them one. Class columns are scored by log_loss; otherwise name the loss. A table that carries its labels is TRUTH and PREDICTIONS:
name it twice, and the labels with --target.

In a pipe each score is a line: file, loss, group if --group-by is given, score, parted by tabs.
"""


def _complete(context: Any, parameter: Any, word: str) -> list[Any]:
    return [name for name in registry.names() if name.startswith(word)]


def _complete_file(context: Any, parameter: Any, word: str) -> list[Any]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(word, type="file")]  # the shell looks for files


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(polyloss.__version__, prog_name="polyloss")
def app() -> None:
    """Loss functions for every array library: score files of predictions, list the losses, explain a call."""


@app.command(
    help=SCORE_HELP,
    short_help="Score files of predictions.",
    epilog="Exit status: 0 scored; 1 a file is bad, or a score is NaN; 2 bad usage; 3 a score is above --fail-above.",
)
@click.argument("truth", shell_complete=_complete_file)
@click.argument("predictions", nargs=-1, required=True, shell_complete=_complete_file)
@click.option(
    "-l",
    "--loss",
    "losses",
    multiple=True,
    metavar="NAME[:PARAMETER=VALUE,…]",
    shell_complete=_complete,
    help="Loss by any name; repeat it for several.",
)
@click.option("--id", "id_column", metavar="COLUMN", help="Column that joins the files. [default: the truth's first]")
@click.option("--target", metavar="COLUMN", help="Column of the targets. [default: the truth's one other column]")
@click.option("--weight", metavar="COLUMN", help="Column of weights in the truth.")
@click.option("--group-by", "group", metavar="COLUMN", help="A score for each value of this column of the truth, and one for all.")
@click.option(
    "--kaggle", is_flag=True, help="Log loss of rows divided by their sums, clipped at 1e-15; rows whose Usage is Ignored do not count."
)
@click.option("--paired", is_flag=True, help="Compare each submission with the first: difference, its standard error, z, p.")
@click.option("--parts", is_flag=True, help="PREDICTIONS are parts of one submission.")
@click.option("--extra-ids", type=click.Choice(["error", "ignore"]), default="error", show_default=True, help="Ids that the truth lacks.")
@click.option("--ignore-label", type=int, multiple=True, help="Label of arrays whose positions do not count.")
@click.option("--axis", type=int, help="Axis of the classes in arrays. [default: the loss's own]")
@click.option("--dask", "address", metavar="ADDRESS", help="Score arrays, or tables that carry labels, on this Dask cluster.")
@click.option("--fail-above", type=float, metavar="SCORE", help="Exit with 3 if a score is above this.")
@click.option("--json", "in_json", is_flag=True, help="One JSON object on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="No progress, no warnings.")
@click.pass_context
def score(context: click.Context, /, truth: str, predictions: tuple[str, ...], **options: Any) -> None:
    """Score files; the text of the help is above."""
    from polyloss._command import arrays, report, scoring

    tables = _import_tables() if not arrays.is_array(truth) else None
    files = [file for pattern in predictions for file in (sorted(glob.glob(pattern)) or [pattern])]
    losses = [scoring.Loss.of(text) for text in options["losses"]]
    if options["fail_above"] is not None and math.isnan(options["fail_above"]):
        raise usage("--fail-above is NaN, but must be a number")
    if len({loss.shown for loss in losses}) != len(losses):
        raise usage("--loss names the same loss twice")
    for option, wrong in (("--paired", options["parts"] or len(files) < 2), ("--group-by", tables is None and options["group"])):
        if wrong and (option != "--paired" or options["paired"]):
            raise usage(
                f"{option} {'compares two submissions or more' if option == '--paired' else 'goes with tables, whose columns have names'}"
            )
    warn = (lambda message: None) if options["quiet"] else report.warn
    settings = scoring.Settings(
        losses, options["kaggle"], options["paired"], options["group"] is not None, options["weight"],
        options["ignore_label"], options["axis"], warn,
    )  # fmt: skip
    for loss in losses:
        if loss.asked.lower() == "logloss":
            warn(f"-l {loss.asked} is {loss.name}, clipped at its epsilon of 1e-7; scikit-learn's and Kaggle's is log_loss")
    started = time.perf_counter()
    run = _Run(options["quiet"])
    if tables is None:
        classes = _score_arrays(run, truth, files, settings, options)
    else:
        threads = polyloss.get_num_threads()
        polyloss.set_num_threads(1)  # parsing takes longest and has all cores; threads of OpenMP would spin on them between batches
        try:
            classes = _score_tables(run, tables, truth, files, predictions, settings, options)
        finally:
            polyloss.set_num_threads(threads)
    seconds = time.perf_counter() - started

    if options["in_json"]:
        put(report.as_json(run.scores, truth, seconds, report.signature(settings, classes, polyloss.__version__), polyloss.__version__))
    elif run.scores and sys.stdout.isatty():
        report.as_table(run.scores, settings.by_group)
    elif run.scores:
        put(report.as_lines(run.scores, settings.by_group))
    for found in run.scores:
        if math.isnan(found.score):
            run.bad(BadFile(f"{found.predictions}: the {found.loss} is NaN{'' if found.count else ': nothing counts'}"))
    limit = options["fail_above"]
    above = limit is not None and any(found.score > limit for found in run.scores)
    context.exit(BAD_FILE if run.failed else ABOVE if above else SCORED)


class _Run:
    """The scores of a run, and whether a file was bad."""

    def __init__(self, quiet: bool) -> None:
        self.scores: list[Any] = []
        self.failed = False
        self.shows = sys.stderr.isatty() and not quiet

    def bad(self, error: BadFile) -> None:
        """Say what is wrong with a file, and go on."""
        error.show()
        self.failed = True

    def progress(self, total: int, unit: str) -> Any:
        """A progress bar, or nothing that looks like one."""
        from polyloss._command import report

        return report.progress_bar(total, unit) if self.shows else contextlib.nullcontext()


def _import_tables() -> Any:
    # polars' allocator keeps freed memory for half a second, and its addresses for ever. A submission of a million rows takes 330 MB this
    # way instead of 375, one of ten million 3.2 GB of addresses instead of 3.6, and neither takes longer.
    os.environ.setdefault("_RJEM_MALLOC_CONF", "dirty_decay_ms:50,muzzy_decay_ms:0,retain:false")
    try:
        from polyloss._command import tables
    except ModuleNotFoundError as error:
        raise usage(f"reading tables needs {error.name}: pip install 'polyloss[cli]'") from None
    return tables


def _score_tables(
    run: _Run, tables: Any, truth: str, files: list[str], patterns: tuple[str, ...], settings: Any, options: dict[str, Any]
) -> int | None:
    from polyloss._command import arrays, table_scores

    for option in ("ignore_label", "axis"):
        if options[option] not in (None, ()):
            raise usage(f"--{option.replace('_', '-')} goes with arrays")
    for loss in settings.losses:
        loss.check()
        if loss.axis not in (1, -1, (1,), (-1,)):
            raise usage(f"--loss {loss.shown}: axis is {loss.axis}, but that of a table's columns is 1")
    for file in files:
        if arrays.is_array(file):
            raise usage(f"{truth} is a table, but {file} holds arrays")
    if patterns == (truth,):
        return _score_labelled_tables(run, truth, files, settings, options)
    if options["address"]:
        raise usage("--dask goes with arrays, and with tables that carry labels, named twice: ids are joined on this machine")
    header = tables.Header.of(truth, options["id_column"], options["target"], options["weight"], options["group"], settings.kaggle)
    ahead = tables.Ahead(files[0], header)
    known = tables.read_truth(header)
    submissions = [(patterns[0], files)] if options["parts"] else [(file, [file]) for file in files]
    extra = options["extra_ids"] == "ignore"
    first, classes = None, None
    with run.progress(int(known.kept.sum()) * len(submissions), "rows") as bar:
        if bar is not None:
            settings.progress = lambda done: bar.advance(0, done)
        for name, paths in submissions:
            try:
                job = table_scores.Job(known, tables.Predictions.of(paths, known, extra, ahead), settings.losses, settings.kaggle)
                scores, kept = table_scores.score_table(job, name, settings, first)
            except BadFile as error:
                run.bad(error)
                if settings.paired and first is None:
                    run.bad(BadFile(f"{name}: nothing can be compared with it"))
                    settings.paired = False
                continue
            first = kept if first is None else first
            settings_losses, classes = job.losses, job.classes
            run.scores += scores
    if run.scores and not settings.losses:
        settings.losses = settings_losses
    return classes


def _score_labelled_tables(run: _Run, pattern: str, files: list[str], settings: Any, options: dict[str, Any]) -> int | None:
    from polyloss._command.labelled_tables import LabelledTables

    if options["target"] is None:
        raise usage(f"--target is missing: it names the labels in {pattern}")
    for option, wrong in (("--paired", settings.paired), ("--extra-ids", options["extra_ids"] == "ignore")):
        if wrong:
            raise usage(f"{option} goes with a truth and other files")
    classes = None
    columns = {key: options[key] for key in ("id_column", "target", "weight", "group")}
    submissions = [(pattern, files)] if options["parts"] else [(file, [file]) for file in files]
    with _cluster(options["address"], settings.warn) as client, run.progress(len(files), "files") as bar:
        for name, paths in submissions:
            try:
                job = LabelledTables(paths, settings.losses, **columns, kaggle=settings.kaggle)
                advance = (lambda done: None) if bar is None else partial(bar.advance, 0)
                scores, parts = job.score(name, client, advance)
            except BadFile as error:
                run.bad(error)
                continue
            for message in scores[0].warnings:
                settings.warn(f"{name}: {message}")
            settings.losses, classes = settings.losses or parts[0].sums.losses, parts[0].classes
            settings.clips.update(clip for part in parts for clip in part.clips)
            run.scores += scores
    return classes


def _score_arrays(run: _Run, truth: str, files: list[str], settings: Any, options: dict[str, Any]) -> int | None:
    from polyloss._command import array_scores, arrays

    if not settings.losses:
        raise usage("--loss is missing: arrays have no names that would tell it")
    for option in ("id_column", "target", "weight", "group", "kaggle", "parts", "extra_ids"):
        if options[option] and options[option] != "error":
            raise usage(f"--{option.replace('_column', '').replace('_', '-')} goes with tables")
    for file in files:
        if not arrays.is_array(file):
            raise usage(f"{truth} holds arrays, but {file} does not look like it: known endings are {', '.join(arrays.ENDINGS)}")
    settings.losses = array_scores.array_losses(settings.losses, options["ignore_label"], options["axis"])
    for loss in settings.losses:
        loss.check()
    classes = None
    with _cluster(options["address"], settings.warn) as client:

        def scored(group: list[str]) -> list[Any]:
            nonlocal classes
            job = array_scores.ArrayJob(truth, group, settings.losses, paired=settings.paired)
            classes = job.classes
            with run.progress(len(job.ranges()), "parts") as bar:
                return array_scores.score_arrays(job, client, (lambda done: None) if bar is None else partial(bar.advance, 0))

        for scores in _of_groups(run, files, settings.paired, scored):
            for score in scores[:: len(settings.losses)]:
                for message in score.warnings:
                    settings.warn(f"{score.predictions}: {message}")
            run.scores += scores
    dtypes = {arrays.opened(score.predictions).dtype for score in run.scores}
    settings.clips = {clip for dtype in dtypes for loss in settings.losses if (clip := loss.clip(dtype)) is not None}
    return classes


def _of_groups(run: _Run, files: list[str], paired: bool, scored: Callable[[list[str]], list[Any]]) -> Iterator[list[Any]]:
    """The scores of arrays: of each file, or of all together if they are compared.

    If one is bad, the others are compared without it; if it is the first, they are scored alone.
    """
    good = []
    for group in [files] if paired else [[file] for file in files]:
        try:
            yield scored(group)
        except BadFile as error:
            if not paired:
                run.bad(error)
                continue
            for file in files:
                try:
                    scored([file])
                    good.append(file)
                except BadFile as of_file:
                    run.bad(of_file)
            if files[0] in good:
                yield scored(good)
            else:
                run.bad(BadFile(f"{files[0]}: nothing can be compared with it"))
                yield from (scored([file]) for file in good)


@contextlib.contextmanager
def _cluster(address: str | None, warn: Callable[[str], None]) -> Iterator[Any]:
    """A client of the cluster at this address; None if none is given."""
    if address is None:
        yield None
        return
    import logging

    try:
        from distributed import CancelledError
        from distributed.comm import CommClosedError
    except ModuleNotFoundError as error:
        raise usage(f"--dask needs {error.name}: pip install distributed") from None
    from polyloss._adapters import dask_cluster

    for name in [name for name in logging.root.manager.loggerDict if name.partition(".")[0] == "distributed"]:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # some of them have levels of their own
    try:
        client = dask_cluster.client_of(address)
    except ConnectionError as error:
        raise BadFile(f"--dask {address}: cannot be reached: {error}") from None
    with client:
        if not client.nthreads():
            warn(f"--dask {address}: the cluster has no workers, and is waited for until it has")
        try:
            yield client
        except (CancelledError, CommClosedError) as error:
            raise BadFile(f"--dask {address}: the connection is lost: {type(error).__name__}") from None


@app.command()
@click.argument("names", nargs=-1, shell_complete=_complete)
def losses(names: tuple[str, ...]) -> None:
    """List the losses: name, other names, formula."""
    try:
        chosen = [registry.get(name).__name__ for name in names] or registry.names()
    except ValueError as error:
        raise usage(str(error)) from None
    rows = []
    for name in chosen:
        block = LOSSES.get(name)
        formula = "scikit-learn's log loss, Kaggle's score" if block is None else " ".join((block.__doc__ or "").split())
        rows.append((name, ", ".join(() if block is None else block.aliases), formula))
    if not sys.stdout.isatty():
        put("\n".join("\t".join(row) for row in rows))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("loss", "also called", "formula"):
        table.add_column(column)
    for row in rows:
        table.add_row(*row)
    with writing():
        Console().print(table, markup=False)


@app.command(short_help="Say which route a call takes, and why.")
@click.argument("loss", shell_complete=_complete)
@click.argument("shape", nargs=-1, type=int)
@click.option("--dtype", default="float32", show_default=True, type=click.Choice(["float16", "float32", "float64"]))
@click.option("--gradient", is_flag=True, help="Of value and gradient, not of the value alone.")
def explain(loss: str, shape: tuple[int, ...], dtype: str, gradient: bool) -> None:
    """Say which route a call takes for predictions of SHAPE (32 10 if none is given), and why not a faster one."""
    import numpy as np

    try:
        function = registry.get(loss)
        block = LOSSES.get(function.__name__)
        if block is None:
            raise ValueError(f"{function.__name__} is a metric, with one route")
        p = np.zeros(shape or (32, 10), dtype)
        axis = 1 if function.__name__ == "softmax_loss" else -1
        if axis >= p.ndim:
            raise ValueError(f"SHAPE has one axis, but {function.__name__} takes logits with classes on axis {axis}")
        dense = block.targets == "dense"
        y = np.zeros_like(p, np.float32) if dense else np.zeros(np.delete(p.shape, axis), np.int64)
        said = polyloss.explain(polyloss.value_and_grad(function) if gradient else function, y, p)
    except (ValueError, TypeError) as error:
        raise usage(str(error)) from None
    put(str(said))


@app.command(short_help="Compute every loss on real predictions.")
@click.argument("names", nargs=-1, metavar="[LOSS]...", shell_complete=_complete)
@click.pass_context
def demo(context: click.Context, names: tuple[str, ...]) -> None:
    """Every loss on real predictions, on every array library at hand, in one table."""
    from polyloss import _demo

    try:
        chosen = [registry.get(name).__name__ for name in names]
    except ValueError as error:
        raise usage(str(error)) from None
    context.exit(_demo.main(chosen, say=put))
