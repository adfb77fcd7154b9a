"""What is printed: lines for a pipe, a table for a terminal, JSON."""

import json
import math
from typing import Any

import click

from polyloss._command.problems import writing
from polyloss._command.scoring import Score, Settings


def number(x: float) -> float | None:
    """A number as JSON has it: no NaN, no infinity."""
    return x if math.isfinite(x) else None


def as_json(
    scores: list[Score], errors: list[dict[str, str | None]], truth: str, seconds: float, signature: str | None, version: str
) -> str:
    """One JSON object. `errors` stand in it if there are any."""
    rows = []
    for s in scores:
        row: dict[str, Any] = {"predictions": s.predictions, "loss": s.loss, "group": s.group, "score": number(s.score)}
        row |= {"stderr": number(s.stderr), "weight": s.weight, "count": s.count, "warnings": s.warnings}
        row |= {key: number(value) for key, value in (s.paired or {}).items()}
        rows.append(row)
    head = {"polyloss": version, "truth": truth, "seconds": round(seconds, 3), "signature": signature}
    return json.dumps({**head, "scores": rows, **({"errors": errors} if errors else {})}, ensure_ascii=False, indent=1)


def as_lines(scores: list[Score], by_group: bool) -> str:
    """A line for each score, its fields parted by tabs: file, loss, the group if there are groups (empty: all), the score."""
    return "\n".join("\t".join([s.predictions, s.loss, *([s.group or ""] if by_group else []), repr(s.score)]) for s in scores)


def as_table(scores: list[Score], by_group: bool, signature: str) -> None:
    """A table on the terminal, above what decides its numbers."""
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table

    paired = any(s.paired for s in scores)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("predictions", "loss", *(["group"] if by_group else [])):
        table.add_column(name)
    for name in ("score", "± stderr", "weight", "count", *(["difference", "± stderr", "z", "p"] if paired else [])):
        table.add_column(name, justify="right")
    for s in scores:
        row = [s.predictions, s.loss, *(["(all)" if s.group is None else s.group] if by_group else [])]
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
        wide.print(signature, style="dim", markup=False, highlight=False, soft_wrap=True)


def signature(settings: Settings, classes: int | None, version: str) -> str:
    """What decides the numbers beside the data, as sacrebleu's signatures do."""
    parts = ["+".join(loss.shown for loss in settings.losses), f"kaggle:{'yes' if settings.kaggle else 'no'}"]
    for name, values in (
        ("clip", [f"{clip:.2g}" for clip in sorted(settings.clips)]),
        ("classes", [str(classes)] if classes else []),
        ("positive", sorted(settings.positive)),
        ("weight", [settings.weight] if settings.weight else []),
        ("ignored", [str(label) for label in settings.ignored]),
        ("axis", [] if settings.axis is None else [str(settings.axis)]),
    ):
        parts += [f"{name}:{'+'.join(values)}"] if values else []
    return "|".join([*parts, f"polyloss:{version}"])


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
