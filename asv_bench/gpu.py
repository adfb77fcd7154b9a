"""Time the kernels on a GPU beside the device's own copy and beside torch, Liger-Kernel and quack where they are installed.

    python asv_bench/gpu.py [results.json]

One process, all contenders of a line in turn, times by events of the device, the median of many; several sets of inputs, so that no cache
helps. A line's share is of the bandwidth of a device-to-device copy of the same size, each logit counted once read and each gradient once
written. Results are checked against float64 before they are timed.
"""

import datetime
import json
import statistics
import sys
from pathlib import Path

import torch

import polyloss as pl

ELEMENTS = 1 << 28  # logits of a line: 1 GB of float32, many times the caches
SETS = 3  # of inputs, visited in turn
ROUNDS = 30
ROWS = (1000, 4096, 32000, 50257, 128256, 262144)  # classes; as many rows as make ELEMENTS
SHAPES = (*((ELEMENTS // c, c) for c in ROWS), (65536, 10), (8, 21, 512, 512), (32, 150, 256, 256))
DTYPES = (torch.float32, torch.bfloat16)
LOSSES = ("mean_squared_error", "huber", "kl_divergence", "binary_crossentropy")
GOALS = {"copy": 0.9, "torch": 2.0, "Liger-Kernel": 1.0, "quack": 1.0}  # our speed over theirs


def timed(contenders, rounds=ROUNDS):
    """Median milliseconds of each contender: callables that take the number of an input set."""
    samples = {name: [] for name in contenders}
    for call in contenders.values():
        for k in range(SETS):
            call(k)
    for k in range(rounds):
        for name, call in contenders.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            call(k % SETS)
            end.record()
            samples[name].append((begin, end))
    torch.cuda.synchronize()
    return {name: statistics.median(begin.elapsed_time(end) for begin, end in pairs) for name, pairs in samples.items()}


def softmax_contenders(sets):
    """Loss and gradient by each library: name -> function of the number of an input set."""
    step = pl.value_and_grad(pl.softmax_loss)
    out = torch.empty_like(sets[0][1])

    def by_autograd(loss, sets=sets):
        def run(k):
            y, z = sets[k]
            z = z.detach().requires_grad_()
            value = loss(z, y)
            (gradient,) = torch.autograd.grad(value, z)
            return value, gradient

        return run

    def copy(k):
        out.copy_(sets[k][1])

    contenders = {
        "copy": copy,
        "polyloss": lambda k: step(*sets[k], out=out, validate=False),
        "polyloss by autograd": by_autograd(lambda z, y: pl.softmax_loss(y, z, validate=False)),
        "torch": by_autograd(torch.nn.functional.cross_entropy),
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

            contenders["quack"] = by_autograd(lambda z, y: cross_entropy(z, y, reduction="mean"))
        except ImportError:
            pass
    return contenders


def softmax_line(shape, dtype):
    """Times of one shape and dtype."""
    sets = []
    for seed in range(SETS):
        torch.manual_seed(seed)
        z = (torch.randn(shape, device="cuda") * 3).to(dtype)
        sets.append((torch.randint(0, shape[1], (shape[0], *shape[2:]), device="cuda"), z))
    checked(*sets[0])
    times = timed(softmax_contenders(sets))
    return line(f"softmax_loss {'×'.join(map(str, shape))} {str(dtype).removeprefix('torch.')}", 2, z.nbytes, times)


def checked(y, z):
    """Value and gradient of the first images against torch in float64."""
    y, z = y[:64], z[:64]
    value, gradient = pl.value_and_grad(pl.softmax_loss)(y, z)
    route = pl.explain(pl.softmax_loss, y, z).route
    if "CUDA" not in route:
        raise SystemExit(f"the call takes the {route}: the kernels are not what is timed")
    truth = z.double().requires_grad_()
    expected = torch.nn.functional.cross_entropy(truth, y)
    (slope,) = torch.autograd.grad(expected, truth)
    torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=0)
    error = ((gradient.double() - slope).norm() / slope.norm()).item()
    if not error < (1e-5 if z.dtype is torch.float32 else 1e-2):
        raise SystemExit(f"the gradient of {tuple(z.shape)} is off by {error}")


def elementwise_line(name):
    """Times of one elementwise loss, value and gradient, float32."""
    peers = torch.nn.functional
    peer = {"mean_squared_error": peers.mse_loss, "huber": peers.huber_loss, "binary_crossentropy": peers.binary_cross_entropy}.get(name)
    sets = [tuple(torch.rand(ELEMENTS // 4096, 4096, device="cuda") * 0.9 + 0.05 for _ in range(2)) for _ in range(SETS)]
    step, out = pl.value_and_grad(name), torch.empty_like(sets[0][1])

    def by_torch(k):
        t, p = sets[k]
        p = p.detach().requires_grad_()
        return torch.autograd.grad(peer(p, t), p)

    contenders = {"copy": lambda k: out.copy_(sets[k][1]), "polyloss": lambda k: step(*sets[k], reduction="mean", out=out)}
    if peer is not None:
        contenders["torch"] = by_torch
    return line(f"{name} float32", 3, out.nbytes, timed(contenders))


def line(name, arrays, nbytes, times):
    """One line of the results. A loss moves `arrays` of `nbytes` each; the copy, which moves two, is scaled to as many."""
    ours = times["polyloss"]
    ratios = {rival: t / ours for rival, t in times.items() if rival != "polyloss"}
    ratios["copy"] *= arrays / 2
    met = {rival: ratios[rival] >= goal for rival, goal in GOALS.items() if rival in ratios}
    shown = "  ".join(f"{rival} {ratio:.2f}x" for rival, ratio in ratios.items())
    print(f"{name:44s} {ours:8.3f} ms {arrays * nbytes / ours / 1e9:6.2f} TB/s  {shown}", flush=True)
    return {"name": name, "bytes": arrays * nbytes, "ms": times, "times as fast as": ratios, "goals met": met}


def main(results="gpu-benchmarks.json"):
    """Time everything and write it down."""
    if not torch.cuda.is_available():
        print("torch finds no CUDA device: there is nothing to time here", file=sys.stderr)
        return 2
    lines = [softmax_line(shape, dtype) for shape in SHAPES for dtype in DTYPES]
    lines += [elementwise_line(name) for name in LOSSES]
    machine = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "date": datetime.date.today().isoformat()}
    Path(results).write_text(json.dumps({**machine, "lines": lines}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
