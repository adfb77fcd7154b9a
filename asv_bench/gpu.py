"""Time the kernels on a GPU beside the device's own copy and beside torch, Liger-Kernel and quack where they are installed.

    python asv_bench/gpu.py [results.json]

One process, all contenders of a line in turn. Before each sample a buffer larger than the second-level cache is overwritten: that empties
the cache, and keeps the device busy while the host prepares the launches, so that the events around them measure the device alone. A
line's time is the median of many. Its share is of the bandwidth of a device-to-device copy of the same size, each logit counted once read
and each gradient once written. Results are held against float64 before the clock starts; a line that is wrong, or a contender that fails,
is written down as such. The file is written after each line: a run that is cut short leaves what it has.
"""

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
ROWS = (1000, 4096, 32000, 50257, 128256, 262144)  # classes; as many rows as make ELEMENTS
SHAPES = ((65536, 10), (8, 128256), (8, 21, 512, 512), (32, 150, 256, 256))
DTYPES = (torch.float32, torch.bfloat16)
ELEMENTWISE = ("mean_squared_error", "huber", "kl_divergence", "binary_crossentropy")
ROWWISE = ("categorical_crossentropy", "categorical_focal_crossentropy", "cosine_similarity")
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
    y, z = (x[:64] for x in sets[0])
    truth = by_autograd(torch.nn.functional.cross_entropy, [(y, z.double())])
    checked(line, pl.softmax_loss, y, z, truth(0), {})
    return finished(line, 2 * sets[0][1].nbytes, 2, timed(softmax_contenders(sets), line["errors"]))


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
    t, p = (x[:64] for x in sets[0])
    os.environ["POLYLOSS_ROUTE"] = "formula"
    truth = pl.value_and_grad(name)(t.double(), p.double(), reduction="mean")
    del os.environ["POLYLOSS_ROUTE"]
    checked(line, pl.get(name), t, p, truth, {"reduction": "mean"})
    step, out = pl.value_and_grad(name), torch.empty_like(sets[0][1])
    contenders = {
        "copy": lambda k: out.copy_(sets[k][1]),
        "polyloss": lambda k: step(*sets[k], reduction="mean", out=out, validate=False),
    }
    if peer is not None:
        contenders["torch"] = by_autograd(peer, sets)
    return finished(line, 3 * out.nbytes, 3, timed(contenders, line["errors"]))


def checked(line, loss, y, z, truth, options):
    """Hold value and gradient of the first images against float64; `Wrong` if they are off, or come from the formula."""
    value, gradient = pl.value_and_grad(loss)(y, z, **options)
    line["route"] = pl.explain(loss, y, z, **options).route
    if "CUDA" not in line["route"]:
        raise Wrong(f"{line['name']} takes the {line['route']}: the kernels are not what is timed")
    line["error of the value"] = abs(value.double() / truth[0] - 1).item()
    line["error of the gradient"] = ((gradient.double() - truth[1]).norm() / truth[1].norm()).item()
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


def lines(elements):
    """What is timed: functions that give a line, and their arguments."""
    for shape in (*((max(elements // c, 1), c) for c in ROWS), *SHAPES):
        for dtype in DTYPES:
            yield softmax_line, shape, dtype
    for name in (*ELEMENTWISE, *ROWWISE):
        yield loss_line, name, elements


def main(results="gpu-benchmarks.json"):
    """Time everything and write it down; 0 if every line is right."""
    if not torch.cuda.is_available():
        print("torch finds no CUDA device: there is nothing to time here", file=sys.stderr)
        return 2
    said, elements = machine(), ELEMENTS
    while said["memory"] < elements * 64:  # two sets and a rival's copies, its logarithms and gradients, of 4 bytes each
        elements //= 2
    outcome = {**said, "lines": [], "wrong": []}
    for function, *arguments in lines(elements):
        try:
            outcome["lines"].append(function(*arguments))
        except Wrong as error:
            outcome["wrong"].append(str(error))
            print(error, file=sys.stderr, flush=True)
        torch.cuda.empty_cache()
        Path(results).write_text(json.dumps(outcome, indent=2) + "\n")
    return 1 if outcome["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
