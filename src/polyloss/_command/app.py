"""The commands: score, losses, explain, demo. Only here are options known."""

import contextlib
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

NAME = "\0"  # what no word of a command line holds, before one that is a name
CHUNK = 1 << 21  # bytes of a text that polars parses at once

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
the id. Arrays (.npy, A.npz::name, A.zarr::name, A.h5::name) are aligned by row. The name - is standard input, -::name an array in it.
Several PREDICTIONS are several submissions, unless --parts makes them one. Class columns are scored by log_loss; otherwise name the loss. A
table that carries its labels is TRUTH and PREDICTIONS: name it twice, and the labels with --target.

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


class _OfFiles(click.Command):
    """A command that takes ``-::NAME``, an array in standard input, for a name, where click would look for options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse with such words marked."""
        rest = super().parse_args(ctx, [f"{NAME}{word}" if word.startswith("-::") else word for word in args])
        for key, value in ctx.params.items():
            if isinstance(value, tuple):
                ctx.params[key] = tuple(word.removeprefix(NAME) if isinstance(word, str) else word for word in value)
            elif isinstance(value, str):
                ctx.params[key] = value.removeprefix(NAME)
        return rest


@app.command(
    cls=_OfFiles,
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
@click.option(
    "--prediction",
    multiple=True,
    metavar="COLUMN",
    help="Column of the predictions; repeat it for several. [default: all but the id and what the truth's options name]",
)
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
    from polyloss._command import arrays, names, report, scoring, streams

    context.with_resource(streams.keeping())
    files = [file for name in predictions for file in names.files_of(name)]
    for path in [truth, *files] if options["address"] else ():
        if streams.is_stream(names.split(path)[0]):
            raise usage(f"--dask: workers cannot read {path}, which is no file")
    losses = [scoring.Loss.of(text) for text in options["losses"]]
    limit = options["fail_above"]
    if limit is not None and math.isnan(limit):
        raise usage("--fail-above is NaN, but must be a number")
    if len({loss.shown for loss in losses}) != len(losses):
        raise usage("--loss names the same loss twice")
    if len(set(options["prediction"])) != len(options["prediction"]):
        raise usage("--prediction names the same column twice")
    if options["paired"] and (options["parts"] or len(files) < 2):
        raise usage("--paired compares two submissions or more")
    warn = (lambda message: None) if options["quiet"] else report.warn
    settings = scoring.Settings(
        losses, options["kaggle"], options["paired"], options["group"] is not None, options["weight"],
        options["ignore_label"], options["axis"], warn,
    )  # fmt: skip
    started = time.perf_counter()
    run = _Run(options["quiet"])
    try:
        if arrays.is_array(truth):
            _score_arrays(run, truth, files, settings, options)
        else:
            _import_polars()
            _score_tables(run, truth, files, predictions, settings, options)
    except BadFile as error:
        run.bad(error)
    seconds = time.perf_counter() - started

    for loss in losses if run.scores else ():
        if loss.asked.lower() == "logloss":
            warn(f"-l {loss.asked} is {loss.name}, clipped at its epsilon of 1e-7; scikit-learn's and Kaggle's is log_loss")
    for found in run.scores:
        if not found.count and not math.isnan(found.score):
            found.warnings = [*found.warnings, report.nothing_counts(found)]
            said = f"{found.predictions}: {found.warnings[-1]}"
            if limit is not None and found.group is None:
                run.bad(BadFile(f"{said}; --fail-above has nothing to go by"), found.predictions)
            else:
                warn(said)
        if math.isnan(found.score):
            why = found.reason if found.count else "nothing counts"
            run.bad(BadFile(f"{found.predictions}: the {found.loss} is NaN{why and f': {why}'}"), found.predictions)
    if options["in_json"]:
        put(report.as_json(run.scores, run.errors, truth, seconds, settings, polyloss.__version__))
    elif run.scores and sys.stdout.isatty():
        report.as_table(run.scores, settings, polyloss.__version__)
    elif run.scores:
        put(report.as_lines(run.scores, settings.by_group))
    above = limit is not None and any(found.score > limit for found in run.scores)
    context.exit(BAD_FILE if run.errors else ABOVE if above else SCORED)


class _Run:
    """The scores of a run, and what is wrong with files that have none."""

    def __init__(self, quiet: bool) -> None:
        self.scores: list[Any] = []
        self.errors: list[dict[str, str | None]] = []  # as --json has them
        self.shows = sys.stderr.isatty() and not quiet

    def bad(self, error: BadFile, predictions: str | None = None) -> None:
        """Say what is wrong with a submission, or with the truth, and go on."""
        if all(known["error"] != error.message for known in self.errors):  # every submission may meet the same fault of the truth
            error.show()
        self.errors.append({"predictions": predictions, "error": error.message})

    def progress(self, total: int, unit: str) -> Any:
        """A progress bar, or nothing that looks like one."""
        from polyloss._command import report

        return report.progress_bar(total, unit) if self.shows else contextlib.nullcontext()


def _import_polars() -> None:
    # By default polars' allocator keeps freed memory for half a second and its addresses for ever, and polars reads several chunks of tens
    # of MB ahead. So set, a submission of a million rows of ten long numbers (200 MB) takes 230 MB instead of 380, in the same time.
    os.environ.setdefault("_RJEM_MALLOC_CONF", "dirty_decay_ms:50,muzzy_decay_ms:0,retain:false")
    os.environ.setdefault("POLARS_CSV_CHUNK_SIZE", str(CHUNK))
    try:
        import polars  # noqa: F401
    except ModuleNotFoundError as error:
        raise usage(f"reading tables needs {error.name}: pip install 'polyloss[cli]'") from None


def _score_tables(run: _Run, truth: str, files: list[str], patterns: tuple[str, ...], settings: Any, options: dict[str, Any]) -> None:
    from polyloss._command.arrays import is_array
    from polyloss._command.prediction_files import check_named
    from polyloss._command.table_formats import is_table

    for option in ("ignore_label", "axis"):
        if options[option] not in (None, ()):
            raise usage(f"--{option.replace('_', '-')} goes with arrays")
    for loss in settings.losses:
        loss.check()
        if loss.axis not in (1, -1, (1,), (-1,)):
            raise usage(f"--loss {loss.shown}: axis is {loss.axis}, but that of a table's columns is 1")
    for file in files:
        with contextlib.suppress(BadFile):  # of a stream, which is said where it is read
            if is_table(truth) and is_array(file):
                raise usage(f"{truth} is a table, but {file} holds arrays")
    check_named(files, options["prediction"])
    if options["address"] and patterns != (truth,):
        raise usage("--dask goes with arrays, and with tables that carry labels, named twice: ids are joined on this machine")
    threads = polyloss.get_num_threads()
    polyloss.set_num_threads(1)  # parsing takes longest and has all cores; threads of OpenMP would spin on them between batches
    try:
        if patterns == (truth,):
            _score_self_labelled_tables(run, truth, files, settings, options)
        else:
            _score_joined_tables(run, truth, files, patterns, settings, options)
    finally:
        polyloss.set_num_threads(threads)


def _score_joined_tables(
    run: _Run, truth: str, files: list[str], patterns: tuple[str, ...], settings: Any, options: dict[str, Any]
) -> None:
    from polyloss._command import table_scores
    from polyloss._command.join_by_id import Predictions
    from polyloss._command.prediction_files import Ahead
    from polyloss._command.truth import Header, read_truth

    header = Header.of(truth, _asked(options))
    ahead = Ahead(files[0], header)
    known = read_truth(header)
    submissions = [(patterns[0], files)] if options["parts"] else [(file, [file]) for file in files]
    extra = options["extra_ids"] == "ignore"
    first = None
    with run.progress(int(known.kept.sum()) * len(submissions), "rows") as bar:
        if bar is not None:
            settings.progress = lambda done: bar.advance(0, done)
        for name, paths in submissions:
            try:
                job = table_scores.Job(known, Predictions.of(paths, known, extra, ahead), settings.losses, settings.kaggle)
                scores, kept = table_scores.score_table(job, name, settings, first)
            except BadFile as error:
                run.bad(error, name)
                if settings.paired and first is None:
                    run.bad(BadFile(f"{name}: nothing can be compared with it"), name)
                    settings.paired = False
                continue
            first = kept if first is None else first
            settings_losses = job.losses
            run.scores += scores
    if run.scores and not settings.losses:
        settings.losses = settings_losses


def _asked(options: dict[str, Any]) -> Any:
    """The columns that the options name."""
    from polyloss._command.truth import Asked

    return Asked(**{key: options[key] for key in ("id_column", "target", "prediction", "weight", "group", "kaggle")})


def _score_self_labelled_tables(run: _Run, pattern: str, files: list[str], settings: Any, options: dict[str, Any]) -> None:
    from polyloss._command.scoring import Basis
    from polyloss._command.self_labelled_tables import SelfLabelledTables

    if options["target"] is None:
        raise usage(f"--target is missing: it names the labels in {pattern}")
    if options["target"] in options["prediction"]:
        raise usage(f"--prediction is {options['target']!r}, which is the target")
    for option, wrong in (("--paired", settings.paired), ("--extra-ids", options["extra_ids"] == "ignore")):
        if wrong:
            raise usage(f"{option} goes with a truth and other files")
    submissions = [(pattern, files)] if options["parts"] else [(file, [file]) for file in files]
    with _cluster(options["address"], settings.warn) as client, run.progress(len(files), "files") as bar:
        for name, paths in submissions:
            try:
                job = SelfLabelledTables(paths, settings.losses, _asked(options))
                advance = (lambda done: None) if bar is None else partial(bar.advance, 0)
                scores, parts = job.score(name, client, advance)
                settings.bases[name] = Basis()
                for part in parts:
                    settings.bases[name].add(part.basis)
            except BadFile as error:
                run.bad(error, name)
                continue
            for message in scores[0].warnings:
                settings.warn(f"{name}: {message}")
            settings.losses = settings.losses or parts[0].sums.losses
            run.scores += scores


def _score_arrays(run: _Run, truth: str, files: list[str], settings: Any, options: dict[str, Any]) -> None:
    from polyloss._command import array_scores, arrays

    if not settings.losses:
        raise usage("--loss is missing: arrays have no names that would tell it")
    for key in ("id_column", "target", "prediction", "weight", "group", "kaggle", "parts", "extra_ids"):
        if options[key] and options[key] != "error":
            option = {"id_column": "id", "group": "group-by"}.get(key, key.replace("_", "-"))
            raise usage(f"--{option} goes with tables, whose columns have names")
    for file in files:
        with contextlib.suppress(BadFile):  # of a stream, which is said where it is read
            if not arrays.is_array(file):
                raise usage(f"{truth} holds arrays, but {file} does not look like it: known endings are {', '.join(arrays.ENDINGS)}")
    settings.losses = array_scores.array_losses(settings.losses, options["ignore_label"], options["axis"])
    for loss in settings.losses:
        loss.check()
    with _cluster(options["address"], settings.warn) as client:
        for group in [files] if settings.paired else [[file] for file in files]:
            faults: dict[str, BadFile] = {}
            for file in group:
                try:
                    array_scores.check(truth, file, settings.losses)
                except BadFile as error:
                    faults[file] = error
            good = [file for file in group if file not in faults]
            if good:
                job = array_scores.ArrayJob(truth, good, settings.losses, paired=settings.paired and good[0] == files[0])
                ranges = job.ranges()
                with run.progress(len(ranges), "parts") as bar:
                    seen = job.together(client, (lambda done: None) if bar is None else partial(bar.advance, 0))
                scores, more = job.results(seen)
                faults |= more
                for score in scores[:: len(settings.losses)]:
                    for message in score.warnings:
                        settings.warn(f"{score.predictions}: {message}")
                run.scores += scores
                for file in good:
                    settings.bases[file] = job.basis(file)
            for file, fault in faults.items():
                run.bad(fault, file)
            if settings.paired and files[0] in faults:
                run.bad(BadFile(f"{files[0]}: nothing can be compared with it"), files[0])


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
