"""Bar charts of docs/benchmarks.json: times on a logarithmic scale, and how much of the memory's speed ours reach."""

import json
import math
from pathlib import Path

import matplotlib.pyplot as plt

FIGURES = Path(__file__).with_name("benchmarks.json")
OURS = ("polyloss", "out=", "fresh, NumPy", "fresh, torch", "autograd")
COLOURS = {
    "polyloss": "#c1272d", "out=": "#c1272d", "fresh, NumPy": "#d9643a", "fresh, torch": "#eb9a5b", "autograd": "#f7cf9a",
    "torch": "#3b4a6b", "optax": "#6d83ad", "SciPy": "#a3b3cf", "NumPy": "#cfd8e6", "scikit-learn": "#3b4a6b",
    "formula": "#a3b3cf",
}  # fmt: skip


def draw(group):
    """One group of the page of benchmarks: left the contenders' times, right the limit's time over that of our fastest row."""
    lines = [line for line in json.loads(FIGURES.read_text("utf-8"))["lines"] if line["group"] == group]
    contenders = [name for name in dict.fromkeys(name for line in lines for name in line["ms"]) if name in COLOURS]
    rows = sum(sum(name in line["ms"] for name in contenders) + 1 for line in lines)
    size = (9, 1.1 + 0.16 * rows)
    figure, (left, right) = plt.subplots(1, 2, figsize=size, width_ratios=(3, 1), sharey=True, layout="constrained")
    height, ticks = 0, []
    for line in lines:
        present = [name for name in contenders if name in line["ms"]]
        for k, name in enumerate(present):
            left.barh(height + k, line["ms"][name], height=0.9, color=COLOURS[name], label=name)
        centre = height + (len(present) - 1) / 2
        ticks.append((centre, line["name"].replace(", ", ",\n")))
        share(right, line, centre, len(present))
        height += len(present) + 1
    least = min(ms for line in lines for name, ms in line["ms"].items() if name in COLOURS)
    left.set(xscale="log", xlabel="milliseconds", xlim=(10 ** math.floor(math.log10(least)), None), ylim=(height - 1, -1))
    left.set(yticks=[y for y, _ in ticks], yticklabels=[name for _, name in ticks])
    left.xaxis.set_major_formatter("{x:g}")
    right.axvline(1, color="#999999", linewidth=0.8)
    right.set(xlim=(0, None), xlabel="of the memory's speed")
    named = {name: handle for axes in (left, right) for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(named.values(), named.keys(), loc="outside upper center", ncols=8, frameon=False)
    for axes in (left, right):
        axes.tick_params(axis="y", length=0)


def share(axes, line, centre, rows):
    """The limit's time over ours as a bar, and the goal as a line across it."""
    ours = next(name for name in OURS if name in line["ms"])
    limit = next((name for name in ("read", "copy") if name in line["ms"]), None)
    if limit is None:
        return
    axes.barh(centre, line["ms"][limit] / line["ms"][ours], height=min(rows, 2) * 0.9, color=COLOURS[ours])
    for goal in (ratio for ours_, rival, ratio in line["goals"] if (ours_, rival) == (ours, limit)):
        axes.vlines(goal, centre - rows / 2, centre + rows / 2, color="black", label="goal")
