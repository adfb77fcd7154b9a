"""What is printed: lines for a pipe, a table for a terminal, JSON."""

import json
import math
import os
from typing import Any

import click

from polyloss._command.problems import quoted, writing
from polyloss._command.scoring import Basis, Score, Settings

ENDS = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})  # of fields and lines, which names of files and groups may hold
NONE = "\\N"  # the group of rows whose cell is empty, as PostgreSQL's COPY writes it


def number(x: float) -> float | str | None:
    """A number in JSON, which has no infinity and no NaN: "Infinity" as protobuf writes it, which Python's `float` and JavaScript's
    `Number` read, and null.
    """
    if math.isinf(x):
        return "Infinity" if x > 0 else "-Infinity"
    return None if math.isnan(x) else x


def as_json(scores: list[Score], errors: list[dict[str, str | None]], truth: str, seconds: float, settings: Settings, version: str) -> str:
    """One JSON object. `errors` stand in it if there are any; a score has a signature of its own if those of the files differ."""
    rows = []
    common, own = signatures(settings, [s.predictions for s in scores], version)
    for s in scores:
        row: dict[str, Any] = {"predictions": s.predictions, "loss": s.loss, "group": s.group, "score": number(s.score)}
        row |= {"stderr": number(s.stderr), "weight": number(s.weight), "count": s.count, "warnings": s.warnings}
        row |= {key: number(value) for key, value in (s.paired or {}).items()}
        row |= {"signature": own[s.predictions]} if own else {}
        rows.append(row)
    head = {"polyloss": version, "truth": truth, "seconds": round(seconds, 3), "signature": common}
    body = {**head, "scores": rows, **({"errors": errors} if errors else {})}
    return json.dumps(body, ensure_ascii=False, allow_nan=False, indent=1)


def nothing_counts(score: Score) -> str:
    """The warning for a score that is 0 because nothing counted, not because the file is perfect."""
    group = "" if score.group is None else f" of group {quoted(score.group)}"
    return f"the {score.loss}{group} is {score.score}, since nothing counts: every weight is 0, or every label ignored"


def as_lines(scores: list[Score], by_group: bool) -> str:
    """A line for each score, its fields parted by tabs: file, loss, the group if there are groups (empty: all), the score."""
    rows = [[_file(s.predictions), _field(s.loss), *([_group(s, "")] if by_group else []), repr(s.score)] for s in scores]
    return "\n".join(map("\t".join, rows))


def _field(text: str) -> str:
    """A name on one line, of which each stands for one alone."""
    return text.translate(ENDS)


def _file(name: str) -> str:
    """A file, and the array in it. On Windows a file's name holds no such ends, and no "::", but backslashes between folders."""
    file, colons, array = name.partition("::") if os.sep == "\\" else ("", "", name)
    return f"{file}{colons}{_field(array)}"


def _group(score: Score, every: str) -> str:
    """The name of a score's group; `every` if it is that of all groups."""
    return every if score.group is None else _field(score.group) or NONE


def as_table(scores: list[Score], settings: Settings, version: str) -> None:
    """A table for the terminal, and below it the signature."""
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table

    paired, by_group = any(s.paired for s in scores), settings.by_group
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("predictions", "loss", *(["group"] if by_group else [])):
        table.add_column(name)
    for name in ("score", "± stderr", "weight", "count", *(["difference", "± stderr", "z", "p"] if paired else [])):
        table.add_column(name, justify="right")
    for s in scores:
        row = [_file(s.predictions), _field(s.loss), *([_group(s, "(all)")] if by_group else [])]
        row += [f"{s.score:.6g}", f"{s.stderr:.2g}", f"{s.weight:.10g}", str(s.count)]
        if paired:
            found = s.paired or {}
            row += [f"{found[key]:.3g}" if found else "" for key in ("difference", "difference_stderr", "z", "p")]
        table.add_row(*row)
    console = Console()
    # As wide as it must be, since rich cuts digits off where the terminal is narrower.
    needed = Measurement.get(console, console.options.update(max_width=10_000), table).maximum
    with writing():
        wide = Console(width=max(needed, console.width))
        wide.print(table, markup=False)
        common, own = signatures(settings, [s.predictions for s in scores], version)
        for line in [f"{name}: {signature}" for name, signature in own.items()] or [str(common)]:
            wide.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)


def signatures(settings: Settings, names: list[str], version: str) -> tuple[str | None, dict[str, str]]:
    """What decides the numbers beside the data, as sacrebleu's signatures do: of all scores, and of each file if they differ.

    Where files differ that of all says so. It is None if there are no scores.
    """
    each = {name: _decided(settings, settings.bases[name]) for name in names}
    if not each:
        return None, {}
    first, *others = each.values()
    common = {key: value if all(value == other[key] for other in others) else "differs" for key, value in first.items()}
    return _written(common, version), {} if common == first else {name: _written(own, version) for name, own in each.items()}


def _decided(settings: Settings, basis: Basis) -> dict[str, str]:
    """The parts of a signature by name; a part that says nothing is empty."""
    return {
        "": "+".join(loss.shown for loss in settings.losses),
        "kaggle": "yes" if settings.kaggle else "no",
        "clip": "+".join(f"{clip:.2g}" for clip in sorted(basis.clips)),
        "classes": str(basis.classes or ""),
        "positive": "+".join(sorted(basis.positive)),
        "weight": settings.weight or "",
        "ignored": "+".join(map(str, settings.ignored)),
        "axis": "" if settings.axis is None else str(settings.axis),
    }


def _written(parts: dict[str, str], version: str) -> str:
    return "|".join(f"{name}:{value}".lstrip(":") for name, value in {**parts, "polyloss": version}.items() if value)


def progress_bar(total: int, unit: str) -> Any:
    """A bar on stderr that goes away when it is done."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn(f"{{task.completed:.0f}} of {total} {unit}"),
        BarColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    bar.add_task("", total=total)
    return bar


def warn(message: str) -> None:
    """A warning on stderr."""
    click.echo(f"polyloss score: warning: {message}", err=True)
