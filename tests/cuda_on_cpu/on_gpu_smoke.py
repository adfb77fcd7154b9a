"""The first steps of on_gpu.py, each for a process of its own: python tests/cuda_on_cpu/on_gpu_smoke.py STEP.

Each of `warp` to `rowwise` holds value and gradient of one kind of launch against float64, for float32 and bfloat16; the steps behind them
ask what only a device can answer. A step prints what it found as lines of JSON; it fails by an exception.
"""

import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context

import torch

import polyloss as pl

DEVICE = "cuda"
DTYPES = (torch.float32, torch.bfloat16)
BOUNDS = {torch.float32: (3e-6, 1e-5), torch.bfloat16: (3e-5, 1e-2)}  # relative errors of value and gradient
# Shapes of logits, and the kernel that takes them on a device of 132 multiprocessors with 227 KB of shared memory each.
SOFTMAX = {
    "warp": [(4099, 10), (513, 1000)],
    "block": [(257, 5003)],
    "cluster": [(200, 32000), (140, 60000), (133, 128256)],
    "parts": [(8, 128256), (1, 262144)],
    "spatial": [(2, 21, 128, 128), (3, 150, 33, 31), (2, 5, 7, 3)],
}
LIBRARIES = ("torch", "cupy-cuda13x", "cupy-cuda12x", "numpy", "array-api-compat", "jax", "liger-kernel", "quack-kernels", "triton")


def say(**words):
    """A line of JSON."""
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


def versions():
    import cupy

    if not (cupy.cuda.is_available() and torch.cuda.is_available()):
        raise RuntimeError("CuPy or torch finds no CUDA device: there is nothing to test here")
    from polyloss._kernels.gpu import cuda

    found = cupy.cuda.runtime.getDeviceProperties(0)
    say(device=found["name"].decode(), capability=f"{found['major']}.{found['minor']}", driver=cupy.cuda.runtime.driverGetVersion(),
        runtime=cupy.cuda.runtime.runtimeGetVersion(), torch_cuda=torch.version.cuda, **_versions())  # fmt: skip
    say(**{name: x for name, x in cuda.gpu(0)._asdict().items() if isinstance(x, (int, bool))}, why_not=cuda.why_not(0, True))


def _versions():
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def kernels():
    """Every kernel of float32 and bfloat16 that a smoke step or one of the eight lines of the benchmark launches, into CuPy's cache."""
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        for found in pool.map(compiled, named()):
            say(**found)


def named():
    """File, dtype and name of each."""
    from polyloss._kernels.gpu import cuda

    found = []
    for dtype in ("float32", "bfloat16"):
        real, pack = cuda.C_NAMES[dtype], 16 // cuda.SIZES[dtype]
        for weighted in ("true", "false"):
            ways = [f"rows_{way}<{real},{weighted}>" for way in ("warp", "block", "part", "rest")]
            ways += [f"rows_cluster<{real},{weighted},{size}>" for size in (2, 4, 8)]
            found += [("softmax_xent.cu", dtype, way) for way in (*ways, *(f"spatial<{real},{weighted},{n}>" for n in (1, min(pack, 4))))]
        found += [("launch.cuh", dtype, f"shift<{real}>")]
        found += [("elementwise.cu", dtype, f"flat<{real},{loss}>") for loss in ("mean_squared_error", "huber")]
        found += [("rowwise.cu", dtype, f"{way}<{real},cosine_similarity>") for way in ("rows_lanes", "rows_block", "columns")]
    return [*found, ("launch.cuh", "float32", "finish<float>"), ("launch.cuh", "float32", "position_sums<float>")]


def compiled(what):
    """One kernel, with what it takes."""
    from polyloss._kernels.gpu import cuda

    began = time.monotonic()
    try:
        kernel = cuda.kernel(0, *what)
        return {"kernel": what[2], "seconds": round(time.monotonic() - began, 2), "registers": kernel.num_regs,
                "spilled": kernel.local_size_bytes}  # fmt: skip
    except Exception as error:  # the rest is worth knowing, too; what calls this kernel fails by itself
        return {"kernel": what[2], "error": f"{type(error).__name__}: {error}"[:500]}


def held(loss, peer, y, z, route, **options):
    """Value and gradient against those of `peer` in float64."""
    value, gradient = pl.value_and_grad(loss)(y, z, **options)
    assert pl.explain(loss, y, z, **options).route == route
    exact = z.double().requires_grad_()
    right = peer(exact, y if y.dtype == torch.int64 else y.double())
    right.backward()
    errors = abs(value.double() / right - 1).item(), ((gradient.double() - exact.grad).norm() / exact.grad.norm()).item()
    say(loss=loss, shape=list(z.shape), dtype=str(z.dtype), errors=errors)
    bounds = BOUNDS[z.dtype]
    if not (errors[0] <= bounds[0] and errors[1] <= bounds[1]):
        raise AssertionError(f"{loss} {tuple(z.shape)} {z.dtype}: value off by {errors[0]:.1e}, gradient by {errors[1]:.1e}")


def logits(shape, dtype=torch.float32):
    torch.manual_seed(0)
    z = (torch.randn(shape, device=DEVICE) * 3).to(dtype)
    return torch.randint(0, shape[1], (shape[0], *shape[2:]), device=DEVICE), z


def softmax(step):
    for shape in SOFTMAX[step]:
        for dtype in DTYPES:
            held("softmax_loss", torch.nn.functional.cross_entropy, *logits(shape, dtype), "softmax_xent kernel for CUDA")


def elements():
    for shape in ((1000, 1000), (77, 13), (64, 5, 40)):
        for dtype in DTYPES:
            _, z = logits(shape, dtype)
            t = (z * 0.5 + 1).float()
            held("mean_squared_error", torch.nn.functional.mse_loss, t, z, "elementwise kernel for CUDA", reduction="mean")


def rowwise():
    peer = torch.nn.functional.cosine_similarity
    for shape in ((1000, 100), (33, 5000)):
        for dtype in DTYPES:
            _, z = logits(shape, dtype)
            t = (z + 1).float()
            held("cosine_similarity", lambda p, t: -peer(p, t, dim=-1).mean(), t, z, "rowwise kernel for CUDA", reduction="mean")


def streams():
    """A call on another stream is in order with what the stream does before and after it, and waits for no other."""
    y, z = logits((512, 32000))
    right = pl.value_and_grad(pl.softmax_loss)(y, z)
    other = torch.cuda.Stream()
    other.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(other):
        torch.cuda._sleep(50_000_000)
        doubled = z * 2
        value, gradient = pl.value_and_grad(pl.softmax_loss)(y, doubled / 2, validate=False)
        gradient += 1
    assert not other.query(), "the call waited for the device"
    torch.cuda.current_stream().wait_stream(other)
    torch.testing.assert_close(value, right[0], rtol=0, atol=0)
    torch.testing.assert_close(gradient - 1, right[1], rtol=0, atol=1e-6)


def graph():
    """A graph that is replayed on other logits, with `validate=True`: labels are not looked at while it is recorded."""
    (y, z), step = logits((512, 32000)), pl.value_and_grad(pl.softmax_loss)
    out = torch.empty_like(z)
    step(y, z, out=out)
    recorded = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recorded):
        value, _ = step(y, z, out=out)
    z.mul_(0.5)
    recorded.replay()
    right = step(y, z)
    torch.testing.assert_close(value, right[0], rtol=0, atol=0)
    torch.testing.assert_close(out, right[1], rtol=0, atol=0)


def compiles(mode=None):
    y, z = logits((512, 1000))
    peer, found = z.detach().clone().requires_grad_(), z.detach().clone().requires_grad_()
    function = torch.compile(lambda z: pl.softmax_loss(y, z * 2), fullgraph=True, mode=mode)
    for _ in range(4):  # reduce-overhead warms up, records, replays
        found.grad = None
        value = function(found)
        value.backward()
    right = torch.nn.functional.cross_entropy(peer * 2, y)
    right.backward()
    torch.testing.assert_close(value, right)
    torch.testing.assert_close(found.grad, peer.grad)


def overlap():
    """An output over an input is refused, and the input stays as it is."""
    y, z = logits((64, 1000))
    before = z.clone()
    for out in (z, torch.as_strided(z, z.shape, (1000, 1))):
        try:
            pl.grad(pl.softmax_loss)(y, z, out=out)
        except ValueError as error:
            say(refused=str(error))
        else:
            raise AssertionError("an output over its input was taken")
    torch.testing.assert_close(z, before, rtol=0, atol=0)


STEPS = {
    "versions": versions, "kernels": kernels, **{name: lambda name=name: softmax(name) for name in SOFTMAX}, "elements": elements,
    "rowwise": rowwise, "streams": streams, "graph": graph, "compile": compiles,
    "reduce_overhead": lambda: compiles("reduce-overhead"), "overlap": overlap,
}  # fmt: skip

if __name__ == "__main__":
    STEPS[sys.argv[1]]()
