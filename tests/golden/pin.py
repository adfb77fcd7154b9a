"""Writes pinned.json: `python tests/golden/pin.py`, in some seconds.

A number that changes by it is a change for users: a line in CHANGELOG.md.
"""

import json
import sys
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
from pinned_calls import EDGES, METRICS, pinned_cases, right_of  # noqa: E402

FILE = Path(__file__).with_name("pinned.json")


def plain(x):
    """Numbers as JSON has them: nearest doubles, NaN and infinities by name."""
    if isinstance(x, (list, tuple, np.ndarray)):
        return [plain(y) for y in x]
    x = float(x)
    return x if np.isfinite(x) else repr(x)


def results():
    """Name -> why, value and slope."""
    for name, (case, dtype) in pinned_cases().items():
        value, slope = right_of(case, dtype)
        yield name, ["the definition", plain(value), plain(slope)]
    for name, edge in EDGES.items():
        yield name, [edge.why, plain(edge.value()), plain(edge.slope()) if edge.slope else None]
    for name, (why, _, _, right) in METRICS.items():
        yield f"log_loss: {name}", [why, plain(right()), None]


def main():
    lines = (f"{json.dumps(name)}: {json.dumps(entry, separators=(',', ':'))}" for name, entry in results())
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
