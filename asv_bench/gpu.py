"""Time the kernels on a GPU beside the device's own copy and beside torch, Liger-Kernel and quack where they are installed.

    python asv_bench/gpu.py [results.json] [--few] [--rounds 30] [--alone]

One process, all contenders of a line in turn. Before each sample a buffer larger than the second-level cache is overwritten: that empties
the cache, and keeps the device busy while the host prepares the launches, so that the events around them measure the device alone. A
line's time is the median of many. Its share is of the bandwidth of a device-to-device copy of the same size, each logit counted once read
and each gradient once written. What the timed call gives is held against float64 before the clock starts, all of it, in pieces; a line that
is wrong, or a contender that fails, is written down as such. The file is written after each line: a run that is cut short leaves what it
has.

--few: eight lines, for a machine that is lent for minutes. --rounds: samples of each contender. --alone: ours without the others, for ncu.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import statistics
import sys
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parent.parent / "src"))  # where the package is not installed

import polyloss as pl

DEVICE = "cuda"
ELEMENTS = 1 << 28  # logits of a line: 1 GB of float32, many times the caches; less where memory is short
FLUSHED = 1 << 31  # bytes overwritten before a sample: many times the largest second-level cache, 0.3 ms or more to prepare launches in
SETS = 2  # of inputs, visited in turn
ROUNDS = 30
CHECKED = 1 << 24  # elements held against float64 at once: 1 GB with its copies
ROWS = (1000, 4096, 32000, 50257, 128256, 262144)  # classes; as many rows as make ELEMENTS
IMAGES = (8, 21, 512, 512)
SHAPES = ((65536, 10), (8, 128256), IMAGES, (32, 150, 256, 256))
ALONE = False  # ours without the others
DTYPES = (torch.float32, torch.bfloat16)
ELEMENTWISE = ("mean_squared_error", "huber", "kl_divergence", "binary_crossentropy")
ROWWISE = ("categorical_crossentropy", "categorical_focal_crossentropy", "cosine_similarity")
FEW_SOFTMAX = ((65536, 10), (4096, 1000), (8192, 32000), (8, 262144))  # and images in both dtypes, and two losses more
GOALS = {"copy": 0.9, "torch": 2.0, "Liger-Kernel": 1.0, "quack": 1.0}  # our speed over theirs
BOUNDS = {torch.float32: (3e-6, 1e-5), torch.bfloat16: (3e-5, 1e-2)}  # relative errors of value and gradient
RIVALS = ("cupy-cuda13x", "cupy-cuda12x", "liger-kernel", "quack-kernels", "triton")


class Wrong(AssertionError):
    """A result that is not worth timing."""


def timed(contenders, errors):
    """Median milliseconds of each contender, a callable that takes the number of an input set; one that fails goes to `errors`."""
    flushed = torch.empty(FLUSHED, dtype=torch.int8, device=DEVICE)
    alive, samples = {}, {}
    for name, call in contenders.items():
        try:
            for k in range(SETS):
                call(k)
            torch.cuda.synchronize()
        except Exception as error:  # a rival that does not run here takes nothing from the others
            errors[name] = f"{type(error).__name__}: {error}"[:300]
        else:
            alive[name], samples[name] = call, []
    for k in range(ROUNDS):
        for name, call in alive.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            flushed.zero_()
            begin.record()
            call(k % SETS)
            end.record()
            samples[name].append((begin, end))
        torch.cuda.synchronize()
    return {name: statistics.median(begin.elapsed_time(end) for begin, end in pairs) for name, pairs in samples.items()}


def by_autograd(loss, sets):
    """Loss and gradient of a function of (predictions, targets) by torch's autograd."""

    def run(k):
        y, z = sets[k]
        z = z.detach().requires_grad_()
        value = loss(z, y)
        return value, torch.autograd.grad(value, z)[0]

    return run


def softmax_contenders(sets):
    """Loss and gradient by each library: name -> function of the number of an input set."""
    step, out = pl.value_and_grad(pl.softmax_loss), torch.empty_like(sets[0][1])
    contenders = {
        "copy": lambda k: out.copy_(sets[k][1]),
        "polyloss": lambda k: step(*sets[k], out=out, validate=False),
    }
    if ALONE:
        return contenders
    contenders |= {
        "polyloss by autograd": by_autograd(lambda z, y: pl.softmax_loss(y, z, validate=False), sets),
        "torch": by_autograd(torch.nn.functional.cross_entropy, sets),
    }
    if sets[0][1].ndim == 2:
        try:
            from liger_kernel.transformers import LigerCrossEntropyLoss

            own = [(y, z.clone()) for y, z in sets]  # it overwrites its input
            contenders["Liger-Kernel"] = by_autograd(LigerCrossEntropyLoss(), own)
        except ImportError:
            pass
        try:
            from quack.cross_entropy import cross_entropy

            contenders["quack"] = by_autograd(lambda z, y: cross_entropy(z, y, reduction="mean"), sets)
        except ImportError:
            pass
    return contenders


def softmax_line(shape, dtype):
    """One shape and dtype of the softmax loss."""
    sets = []
    for seed in range(SETS):
        torch.manual_seed(seed)
        z = (torch.randn(shape, device=DEVICE) * 3).to(dtype)
        sets.append((torch.randint(0, shape[1], (shape[0], *shape[2:]), device=DEVICE), z))
    line = {"name": f"softmax_loss {'×'.join(map(str, shape))} {str(dtype).removeprefix('torch.')}", "errors": {}}
    contenders = softmax_contenders(sets)
    truth = by_autograd_of_one(lambda z, y: torch.nn.functional.cross_entropy(z, y, reduction="sum"))
    checked(line, pl.softmax_loss, *sets[0], contenders["polyloss"](0), truth, sets[0][0].numel(), {})
    return finished(line, 2 * sets[0][1].nbytes, 2, timed(contenders, line["errors"]))


def by_autograd_of_one(loss):
    """The same for targets and predictions that are given."""
    return lambda y, z: by_autograd(loss, [(y, z)])(0)


def loss_line(name, elements):
    """Another loss, value and gradient, in float32: rows of 4096 elements, or of 1000 classes where a loss consumes them."""
    peers = torch.nn.functional
    peer = {"mean_squared_error": peers.mse_loss, "huber": peers.huber_loss, "binary_crossentropy": peers.binary_cross_entropy}.get(name)
    c = 1000 if name in ROWWISE else 4096
    sets = []
    for seed in range(SETS):
        torch.manual_seed(seed)
        t, p = (torch.rand(max(elements // c, 1), c, device=DEVICE) * 0.9 + 0.05 for _ in range(2))
        sets.append((t / t.sum(1, keepdim=True) if name in ROWWISE else t, p))
    line = {"name": f"{name} {sets[0][1].shape[0]}×{c} float32", "errors": {}}
    step, out = pl.value_and_grad(name), torch.empty_like(sets[0][1])
    contenders = {
        "copy": lambda k: out.copy_(sets[k][1]),
        "polyloss": lambda k: step(*sets[k], reduction="mean", out=out, validate=False),
    }
    checked(line, pl.get(name), *sets[0], contenders["polyloss"](0), formula_of(name), sets[0][1].shape[0], {"reduction": "mean"})
    if peer is not None and not ALONE:
        contenders["torch"] = by_autograd(peer, sets)
    return finished(line, 3 * out.nbytes, 3, timed(contenders, line["errors"]))


def formula_of(name):
    """Sum and gradient of a loss by its formula in float64."""

    def run(t, p):
        os.environ["POLYLOSS_ROUTE"] = "formula"
        try:
            return pl.value_and_grad(name)(t.double(), p, reduction="sum")
        finally:
            del os.environ["POLYLOSS_ROUTE"]

    return run


def checked(line, loss, y, z, found, truth, count, options):
    """Hold what the timed call gave, a mean over `count` positions and its gradient, against `truth`: targets and float64 predictions ->
    sum and its gradient. `Wrong` if it is off, or comes from the formula."""
    line["route"] = pl.explain(loss, y, z, **options).route
    if "CUDA" not in line["route"]:
        raise Wrong(f"{line['name']} takes the {line['route']}: the kernels are not what is timed")
    (value, gradient), rows = found, max(1, CHECKED * len(z) // z.numel())
    total = off = size = 0
    for some_y, some_z, some in zip(y.split(rows), z.split(rows), gradient.split(rows), strict=True):
        summed, slope = truth(some_y, some_z.double())
        total = total + summed
        off, size = off + (some.double() * count - slope).square().sum(), size + slope.square().sum()
    line["error of the value"] = abs(value.double() * count / total - 1).item()
    line["error of the gradient"] = (off / size).sqrt().item()
    bounds = BOUNDS[z.dtype]
    if not (line["error of the value"] <= bounds[0] and line["error of the gradient"] <= bounds[1]):
        raise Wrong(f"{line['name']}: value off by {line['error of the value']:.1e}, gradient by {line['error of the gradient']:.1e}")


def finished(line, nbytes, arrays, times):
    """A line with its times and ratios. A loss moves `arrays` arrays, `nbytes` in all; the copy, which moves two, is scaled to as many."""
    line |= {"bytes": nbytes, "ms": times}
    if "polyloss" not in times:
        raise Wrong(f"{line['name']}: {line['errors']['polyloss']}")
    ours = times["polyloss"]
    ratios = {rival: t / ours for rival, t in times.items() if rival != "polyloss"}
    ratios["copy"] *= arrays / 2
    line["times as fast as"] = ratios
    line["TB/s"] = {"polyloss": nbytes / ours / 1e9, "copy": nbytes * 2 / arrays / times["copy"] / 1e9}
    line["goals met"] = {rival: ratios[rival] >= goal for rival, goal in GOALS.items() if rival in ratios}
    shown = "  ".join(f"{rival} {ratio:.2f}x" for rival, ratio in ratios.items())
    print(f"{line['name']:44s} {ours:8.3f} ms {line['TB/s']['polyloss']:6.2f} TB/s  {shown}", flush=True)
    return line


def machine():
    """What the times were taken on."""
    properties = torch.cuda.get_device_properties(0)
    versions = {name: importlib.metadata.version(name) for name in RIVALS if _installed(name)}
    return {
        "date": datetime.date.today().isoformat(),
        "device": properties.name,
        "compute capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory": properties.total_memory,
        "torch": torch.__version__,
        "CUDA": torch.version.cuda,
        **versions,
    }


def _installed(name):
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def few_lines(elements):
    """Eight lines that tell most: a kind of launch each, of both dtypes where they are bound by different things."""
    for shape, dtype in zip(FEW_SOFTMAX, (torch.float32, torch.float32, torch.bfloat16, torch.float32), strict=True):
        yield softmax_line, shape, dtype
    for dtype in DTYPES:
        yield softmax_line, IMAGES, dtype
    yield loss_line, ELEMENTWISE[0], elements
    yield loss_line, ROWWISE[0], elements


def lines(elements):
    """What is timed: functions that give a line, and their arguments."""
    for shape in (*((max(elements // c, 1), c) for c in ROWS), *SHAPES):
        for dtype in DTYPES:
            yield softmax_line, shape, dtype
    for name in (*ELEMENTWISE, *ROWWISE):
        yield loss_line, name, elements


def main(words=()):
    """Time everything and write it down; 0 if every line is right."""
    global ALONE, ROUNDS
    parser = argparse.ArgumentParser(description="Times of the kernels on a GPU.")
    parser.add_argument("results", nargs="?", type=Path, default="gpu-benchmarks.json")
    parser.add_argument("--few", action="store_true")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--alone", action="store_true")
    asked = parser.parse_args(words)
    ALONE, ROUNDS = asked.alone, asked.rounds
    if not torch.cuda.is_available():
        print("torch finds no CUDA device: there is nothing to time here", file=sys.stderr)
        return 2
    said, elements = machine(), ELEMENTS
    while said["memory"] < elements * 64:  # two sets and a rival's copies, its logarithms and gradients, of 4 bytes each
        elements //= 2
    outcome = {**said, "lines": [], "wrong": []}
    for function, *arguments in (few_lines if asked.few else lines)(elements):
        try:
            outcome["lines"].append(function(*arguments))
        except Wrong as error:
            outcome["wrong"].append(str(error))
            print(error, file=sys.stderr, flush=True)
        torch.cuda.empty_cache()
        asked.results.write_text(json.dumps(outcome, indent=2) + "\n")
    return 1 if outcome["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
