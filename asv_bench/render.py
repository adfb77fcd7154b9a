"""Make docs/benchmarks.md, and the table of README's section "Speed", from docs/benchmarks.json, which `table.py` writes."""

import argparse
import json
import re
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGE = """\
# Benchmarks

`make bench` measures this page and README's table anew, in about ten minutes. The first cell of a table names its unit. Times, in ms, are
the best of many runs; memory, in MB, is the most that the process had. All columns of one row are timed in one process, in turns, and
compute the same number, which is checked first. On a shared machine compare figures within a row only. A ratio is a rival's time over ours,
or the time that the memory needs at least over ours.

{environment}

The columns:

- *read*, *copy*: what the memory allows. All threads read the arrays of the row once; or read them and write as much, past the caches. The
  loop does nothing else, and is measured in the same turns. *copy_* is torch's own copy.
- *out=*: the gradient is written to an array of the caller's. *fresh*: it is returned in a new array. A large one takes the memory of the
  gradient before it if nobody holds that any more; otherwise the system has to map its pages first.
- *autograd*: a forward and a backward pass of torch's autograd. *torch* with a gradient is `torch.autograd.grad` of torch's own loss.
- *optax* is jitted by XLA, which takes a thread for every CPU.

{goals}
In the charts, the bars on the left are times, on a logarithmic scale, ours in red. The bars on the right are the memory's limit over the
time of our first column; a black line marks the goal, where there is one.

{groups}
## Two OpenMP runtimes in one process

torch brings an OpenMP runtime of its own. After a call, the threads of a runtime keep spinning for a while, waiting for work. A kernel of
the other runtime that starts meanwhile shares the cores with them. With `OMP_WAIT_POLICY=passive`, set before Python starts, idle threads
sleep instead, and waking them takes time. The first table says under which policy this page was measured. Before a column is timed, {pause}
ms pass, and one call goes untimed. How much the policy matters: median milliseconds of the 4096×1000 value, by what ran just before it:

{interplay}

## Against an earlier commit

`make bench-compare BASE=main` installs `main` and the working tree side by side and times them in turns, on one thread: the softmax loss at
the shapes above, every loss of the registry at 512×1024. Two processes run `main`: the difference between them is the noise of the machine.
The comparison fails where the working tree is slower than `main` by more than that noise and 15 %. `make bench-publish
COMMITS=main~10..main` measures a history with [asv](https://asv.readthedocs.io) and draws it in `asv_bench/html`.
"""
CHART = """\
```{{eval-rst}}
.. plot::
   :alt: the times of the table below as bars, and their shares of the memory's speed

   import charts

   charts.draw("{group}")
```
"""


def table(header, rows):
    """A table in Markdown: the first column is text, the others are figures."""
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (header, rule, *rows))


def figure(x):
    """Three digits, and no exponent."""
    return f"{x:.0f}" if x >= 100 else f"{x:#.3g}".rstrip(".")


def unit(line):
    """What a line's figures are: milliseconds, or megabytes."""
    return "MB" if "MB" in line else "ms"


def verdicts(line):
    """Of every goal of a line: ours, rival, goal, ratio, and whether it is met."""
    for ours, rival, goal in line["goals"]:
        ratio = line[unit(line)][rival] / line[unit(line)][ours]
        yield ours, rival, figure(goal), figure(ratio), "met" if ratio >= goal else f"missed by {100 * (1 - ratio / goal):.2g}%"


def groups(lines):
    """A section per group: times, then ratios against the goals."""
    for group, grouped in groupby(lines, key=lambda line: line["group"]):
        members = list(grouped)
        of = unit(members[0])
        contenders = list(dict.fromkeys(name for line in members for name in line[of]))
        figures = [[line["name"], *(figure(line[of][c]) if c in line[of] else "" for c in contenders)] for line in members]
        ratios = [[line["name"], *verdict] for line in members for verdict in verdicts(line)]
        yield f"## {group[0].upper()}{group[1:]}\n"
        if of == "ms":
            yield CHART.format(group=group)
        yield table([of, *contenders], figures) + "\n"
        whys = {line["name"]: line["why"] for line in members}
        if len(set(whys.values())) > 1:
            yield "".join(f"- {name}: {why}\n" for name, why in whys.items())
        else:
            yield f"Shape: {members[0]['why']}.\n"
        slow = [line["name"] for line in members if line["route"] == "formula"]
        if slow:
            yield f"Without a kernel, on NumPy by the formula: {', '.join(slow)}.\n"
        if ratios:
            yield table(["", "ours", "rival", "goal", "ratio", ""], ratios) + "\n"


def page(result):
    """The page of a result."""
    interplay = result["interplay"]
    all_verdicts = [v for line in result["lines"] for v in verdicts(line)]
    met = sum(v[-1] == "met" for v in all_verdicts)
    policies = [[name, *(figure(ms) for ms in times.values())] for name, times in interplay.items()]
    return PAGE.format(
        environment=table(["", "measured with"], result["environment"].items()),
        goals=f"{met} of {len(all_verdicts)} goals are met.\n",
        groups="\n".join(groups(result["lines"])),
        pause=result["pause"],
        interplay=table(["OMP_WAIT_POLICY", *next(iter(interplay.values()))], policies),
    )


# README's lines: words, group, line, which of ours.
SPEED = (
    ("softmax loss, 1024 × 32000", "softmax: value", "1024×32000", "polyloss"),
    ("the same with its gradient, `out=`", "softmax: value and gradient", "1024×32000", "out="),
    ("`log_loss`, 1e6 binary rows, float64", "log_loss", "1000000 binary rows", "polyloss"),
)
RIVALS = ("torch", "optax", "scikit-learn")


def readme(text, result):
    """README with its table of speed made of this result."""
    times = {(line["group"], line["name"]): line["ms"] for line in result["lines"] if unit(line) == "ms"}
    known = result["environment"]
    versions = ", ".join(f"{name} {known[name].partition('+')[0]}" for name in RIVALS)
    rows = []
    for words, group, name, ours in SPEED:
        ms = times[group, name]
        limit = ms.get("read", ms.get("copy"))
        rows.append([words, figure(ms[ours]), *(figure(ms[rival]) if rival in ms else "" for rival in RIVALS), figure(limit)])
    header = ["work", "polyloss", *RIVALS, "reading (and writing) the data"]
    speed = (
        f"Milliseconds, float32 where no other dtype is named, {known['threads']} threads, {known['instruction set']}, {known['date']};"
        f" {versions}:\n\n{table(header, rows)}\n"
    )
    return re.sub(r"(?<=^## Speed\n\n).*?(?=\n\[Benchmarks\])", lambda _: speed, text, count=1, flags=re.MULTILINE | re.DOTALL)


def main():
    """Write the page, and README's table with it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=DOCS / "benchmarks.json", help="what table.py wrote (default: %(default)s)")
    parser.add_argument("--page", type=Path, default=DOCS / "benchmarks.md", help="the page to write (default: %(default)s)")
    options = parser.parse_args()
    result = json.loads(options.results.read_text("utf-8"))
    options.page.write_text(page(result), "utf-8")
    if options.page == DOCS / "benchmarks.md":
        front = ROOT / "README.md"
        front.write_text(readme(front.read_text("utf-8"), result), "utf-8")


if __name__ == "__main__":
    main()
