"""Time everything the project promises beside its rivals, and keep the figures as JSON.

One process times the contenders of a line in alternation and keeps the best of many: figures of one line belong together, those of
different lines may not. The goals stand beside the lines, as ratios. `render.py` makes the page of the documentation from the JSON.
"""

import argparse
import datetime
import gc
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import numpy as np
import render
import torch
from benchmarks import cases, dask_cluster, evaluation, files, head, limits, mesh, peers, small, timing

import polyloss as pl
from polyloss._core.block import Elementwise

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "benchmarks.json"
LIBRARIES = ("numpy", "torch", "jax", "optax", "scipy", "scikit-learn")
# Contenders that compute no loss: the memory's limits, torch's copy_, reading files, matrix products.
MEMORY = ("read", "copy", "copy_", "parser", "np.load", "matmuls")


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    group: str
    name: str
    why: str
    contenders: callable  # () -> {contender: function without arguments}; arrays live as long as these functions
    goals: tuple  # (ours, rival, how many times as fast)
    route: callable = lambda: None  # () -> how the library takes the call
    seconds: float | None = None  # to time it, where it needs less than the others
    alike: bool = True  # whether the contenders compute the same number
    unit: str = "ms"  # "MB": contenders say themselves how much memory they had
    told: bool = False  # whether they say themselves how many seconds they took, in a process of their own


# Goals by shape: out of the cache the memory decides, in it arithmetic, and below a hundred microseconds checks and dispatch.
FAR = (("torch", 13), ("SciPy", 13), ("NumPy", 13), ("optax", 2), ("read", 0.85))
SOFTMAX_VALUE = {
    (65536, 10): (("torch", 25), ("optax", 2)),
    (4096, 1000): (("torch", 3), ("SciPy", 13), ("NumPy", 13), ("optax", 2)),
    (1024, 32000): FAR,
    (256, 128256): FAR,
    (8, 21, 512, 512): (("torch", 14), ("optax", 2), ("read", 0.65)),
    (32, 10): (("torch", 1 / 0.4), ("3 µs", 1)),
}
NEAR_GRADIENT = (*((ours, "torch", 4) for ours in ("out=", "fresh, NumPy", "fresh, torch", "autograd")),)
FAR_GRADIENT = (
    *(("out=", rival, ratio) for rival, ratio in (("torch", 18), ("copy", 0.65), ("copy_", 1))),
    *((ours, "torch", 10) for ours in ("fresh, NumPy", "fresh, torch", "autograd")),
)
SOFTMAX_GRADIENT = {
    (65536, 10): NEAR_GRADIENT,
    (4096, 1000): NEAR_GRADIENT,
    (1024, 32000): FAR_GRADIENT,
    (256, 128256): FAR_GRADIENT,
    (8, 21, 512, 512): (),
    (32, 10): (("fresh, torch", "torch", 1 / 0.15), ("autograd", "torch", 1)),
}


def softmax_lines():
    """The fused softmax loss: value; value and gradient."""
    for case in cases.SOFTMAX:
        goals = tuple(("polyloss", *goal) for goal in SOFTMAX_VALUE[case.shape])
        yield Line("softmax: value", case.name, case.why, partial(softmax_value, case), goals, partial(softmax_route, case))
        goals = SOFTMAX_GRADIENT[case.shape]
        yield Line("softmax: value and gradient", case.name, case.why, partial(softmax_gradient, case), goals)


def softmax_route(case):
    """How the library takes a batch of NumPy arrays."""
    return pl.explain("softmax_loss", *case.arrays(), ignore_label=case.ignore).route


def softmax_value(case):
    """Contenders for the value alone."""
    labels, logits = case.arrays()
    return {
        "polyloss": lambda: pl.softmax_loss(labels, logits, ignore_label=case.ignore),
        **peers.softmax_values(case, labels, logits),
        **(wait(3) if case is cases.SMALL else {"read": lambda: limits.read(logits)}),
    }


def wait(microseconds):
    """A contender that takes a given time."""

    def call():
        end = time.perf_counter() + 1e-6 * microseconds
        while time.perf_counter() < end:
            pass

    return {f"{microseconds} µs": call}


def softmax_gradient(case):
    """Contenders for value and gradient: into a buffer in hand, fresh, fresh from tensors, and by torch's autograd."""
    labels, logits = case.arrays()
    out, value_and_grad, option = np.zeros_like(logits), pl.value_and_grad(pl.softmax_loss), {"ignore_label": case.ignore}
    x, y, to = torch.from_numpy(logits), torch.from_numpy(labels), torch.zeros(logits.shape)
    leaf = x.detach().requires_grad_()
    return {
        "out=": lambda: value_and_grad(labels, logits, out=out, **option),
        "fresh, NumPy": lambda: value_and_grad(labels, logits, **option),
        "fresh, torch": lambda: value_and_grad(y, x, **option),
        "autograd": lambda: peers.torch_step(pl.softmax_loss(y, leaf, **option), leaf),
        **peers.softmax_gradients(case, labels, logits),
        **({} if case is cases.SMALL else {"copy": lambda: limits.copy(logits, out), "copy_": lambda: to.copy_(x)}),
    }


def other_softmax_lines():
    """The softmax loss in float64, and of soft targets, beside torch."""
    for case in cases.OTHERS:
        goal = 3 if case.shape == (4096, 1000) else 4
        for gradient in (False, True):
            group = "softmax, float64 and soft targets: " + ("value and gradient" if gradient else "value")
            ours = "out=" if gradient else "polyloss"
            why = "as named, classes on axis 1"
            yield Line(group, case.name, why, partial(other_softmax, case, gradient), ((ours, "torch", goal),))


def other_softmax(case, gradient):
    """Ours and torch's."""
    targets, logits = case.arrays()
    out, value_and_grad = np.zeros_like(logits), pl.value_and_grad(pl.softmax_loss)
    value, step = peers.softmax_by_torch(targets, logits)
    if gradient:
        return {"out=": lambda: value_and_grad(targets, logits, out=out), "torch": step}
    return {"polyloss": lambda: pl.softmax_loss(targets, logits), "torch": value}


def elementwise_lines():
    """Every elementwise loss of the registry."""
    size = "×".join(map(str, cases.PAIRS))
    for call in cases.calls(Elementwise):
        numpy_goal = 4 if call.loss == "mean_squared_error" else 5  # NumPy's own is a subtraction and a product
        goals = (("polyloss", "torch", 5), ("polyloss", "NumPy", numpy_goal), ("polyloss", "read", 0.85))
        yield Line("elementwise: value", call.name, size, partial(elementwise_value, call), goals, partial(elementwise_route, call))
        goals = (("out=", "torch", 5), ("out=", "copy", 0.85))
        yield Line("elementwise: value and gradient", call.name, size, partial(elementwise_gradient, call), goals)


def elementwise_route(call):
    """How the library takes NumPy arrays."""
    return pl.explain(call.loss, *call.arrays((2, 8), "float32"), **call.options).route


def elementwise_value(call):
    """Contenders for the mean of all pairs."""
    t, p = call.arrays(cases.PAIRS, "float32")
    function = pl.get(call.loss)
    return {
        "polyloss": lambda: function(t, p, **call.options),
        **peers.elementwise_values(call, t, p),
        "read": lambda: limits.read(t, p),
    }


def elementwise_gradient(call):
    """Contenders for the mean and its gradient; the memory's limit reads both arrays and writes one."""
    t, p = call.arrays(cases.PAIRS, "float32")
    value_and_grad, out = pl.value_and_grad(call.loss), np.zeros_like(p)

    def limit():
        limits.read(t)
        limits.copy(p, out)

    return {
        "out=": lambda: value_and_grad(t, p, out=out, **call.options),
        "fresh, NumPy": lambda: value_and_grad(t, p, **call.options),
        **peers.elementwise_gradients(call, t, p),
        "copy": limit,
    }


def set_lines():
    """The dice loss, whose kernel is that of all losses of sets."""
    for case in cases.SETS:
        goals = (("fresh, NumPy", "torch", 1 if len(case.shape) == 2 or case.axis[:2] == (0, 2) else 2), ("autograd", "torch", 1))
        yield Line("sets: value and gradient", case.name, case.why, partial(set_gradient, case), goals)


def set_gradient(case):
    """Contenders for the mean and its gradient; the memory's limit reads both arrays and writes one."""
    t, p = case.arrays()
    value_and_grad, out, options = pl.value_and_grad(pl.dice), np.zeros_like(p), {"axis": case.axis, "reduction": "mean"}
    leaf, y = torch.from_numpy(p).requires_grad_(), torch.from_numpy(t)

    def limit():
        limits.read(t)
        limits.copy(p, out)

    return {
        "out=": lambda: value_and_grad(t, p, out=out, **options),
        "fresh, NumPy": lambda: value_and_grad(t, p, **options),
        "autograd": lambda: peers.torch_step(pl.dice(y, leaf, **options), leaf),
        **peers.dice_steps(case, t, p),
        "copy": limit,
    }


JITTED = ("mean_squared_error", "binary_crossentropy from logits", "kl_divergence")


def jax_lines():
    """Traced programs: the softmax loss beside optax, losses of elements beside what XLA makes of their formula."""
    for gradient in (False, True):
        group = "JAX under jit: value and gradient" if gradient else "JAX under jit: value"
        for case in cases.SOFTMAX:
            if len(case.shape) == 2 and case is not cases.SMALL:
                yield Line(group, case.name, case.why, partial(jax_softmax, case, gradient), (("polyloss", "optax", 1),))
        for call in cases.calls(Elementwise):
            if call.name in JITTED:
                why = f"pairs of numbers, {'×'.join(map(str, cases.PAIRS))}"
                yield Line(group, call.name, why, partial(jax_elementwise, call, gradient), (("polyloss", "formula", 1),))
        for shape in ((4096, 100), (4096, 1000)):
            name, why = f"{'×'.join(map(str, shape))}, {mesh.DEVICES} devices", "positions spread over devices of one CPU"
            yield Line(group, name, why, partial(mesh.contenders, *shape, gradient), (("polyloss", "optax", 1),), told=True)


def jax_softmax(case, gradient):
    """Contenders for the softmax loss."""
    return jitted(case.arrays(), gradient, polyloss=pl.softmax_loss, optax=lambda y, z: peers.optax_mean(case)(z, y))


def jax_elementwise(call, gradient):
    """Contenders for a loss of elements: its kernel, and its formula."""
    function = partial(pl.get(call.loss), **call.options)
    return jitted(call.arrays(cases.PAIRS, "float32"), gradient, polyloss=function, formula=by_formula(function))


def by_formula(function):
    """A loss that is traced as its formula."""

    def traced(t, p):
        os.environ["POLYLOSS_ROUTE"] = "formula"
        try:
            return function(t, p)
        finally:
            del os.environ["POLYLOSS_ROUTE"]

    return traced


def jitted(arrays, gradient, **losses):
    """Each loss compiled by XLA, or its value and gradient with respect to the predictions."""
    import jax

    arrays = [jax.numpy.asarray(x) for x in arrays]
    programs = {name: jax.jit(jax.value_and_grad(loss, argnums=1) if gradient else loss) for name, loss in losses.items()}
    return {name: partial(lambda program: jax.block_until_ready(program(*arrays)), program) for name, program in programs.items()}


def log_loss_lines():
    """scikit-learn's metric."""
    for case, goal in zip(cases.METRIC, (("scikit-learn", 100), ("read", 0.85)), strict=True):
        yield Line("log_loss", case.name, case.why, lambda case=case: log_loss_contenders(*case.arrays()), (("polyloss", *goal),))


def log_loss_contenders(labels, proba):
    """Ours, scikit-learn's, and reading both arrays."""
    return {
        "polyloss": lambda: pl.log_loss(labels, proba),
        **peers.log_losses(labels, proba),
        "read": lambda: limits.read(labels, proba),
    }


STEP = (("torch, autograd", 1 / 1.05), ("60 µs", 1))


def small_lines():
    """What a call on small arrays costs, on NumPy, torch and JAX, and under each option of the softmax loss."""
    shape = "×".join(map(str, small.CALL))
    for call in cases.calls():
        goals = tuple((name, "5 µs", 1) for name in ("value", "value and gradient"))
        yield Line(f"NumPy arrays of {shape}", call.name, shape, lambda call=call: small.numpy_calls(call) | wait(5), goals, seconds=0.4)
        goals = (("value", "torch", 1), ("value and gradient", "9 µs", 1), *(("autograd", rival, r) for rival, r in STEP))
        yield Line(f"tensors of {shape}", call.name, shape, partial(small_tensors, call), goals, seconds=0.4)
    goals = tuple((name, "defaults and 1.5 µs", 1) for name in small.OPTIONS if name != "defaults")
    yield Line("other small calls", "options of the softmax loss", f"NumPy arrays of {shape}", small_options, goals, alike=False)
    goals = (("eager", "optax, eager", 3), ("jitted", "optax, jitted", 1))
    yield Line("other small calls", "softmax loss on JAX", f"arrays of {shape}", small_jax, goals)
    yield Line("other small calls", "log_loss", "32 rows of two classes", small_log_loss, (("polyloss", "15 µs", 1),))


def small_tensors(call):
    """Ours and, where torch has the loss, its own function and step; else the time that a step of autograd may take."""
    t, p = call.arrays(small.CALL, "float32")
    ours = small.torch_calls(call)
    theirs = {key: f for key, f in peers.elementwise_values(call, t, p).items() if key == "torch"}
    steps = peers.elementwise_gradients(call, t, p)
    return ours | theirs | ({"torch, autograd": steps["torch"]} if steps else wait(60)) | wait(9)


def small_options():
    """The softmax loss by its defaults and under each option."""
    calls, (waiting,) = small.softmax_options(), wait(1.5).values()
    return calls | {"defaults and 1.5 µs": lambda: (calls["defaults"](), waiting())}


def small_jax():
    """The softmax loss beside optax, jitted and not."""
    arrays = cases.SMALL.arrays()
    made = jitted(arrays, False, jitted=pl.softmax_loss, **{"optax, jitted": lambda y, z: peers.optax_mean(cases.SMALL)(z, y)})
    import jax

    y, z = (jax.numpy.asarray(x) for x in arrays)
    eager = lambda: jax.block_until_ready(pl.softmax_loss(y, z))  # noqa: E731
    return made | {"eager": eager, "optax, eager": lambda: jax.block_until_ready(peers.optax_mean(cases.SMALL)(z, y))}


def small_log_loss():
    """The metric of 32 rows."""
    rng = np.random.default_rng(0)
    labels, proba = rng.integers(0, 2, 32), rng.uniform(0.01, 0.99, 32)
    return {"polyloss": lambda: pl.log_loss(labels, proba), **peers.log_losses(labels, proba), **wait(15)}


def module_lines():
    """A forward and backward pass by each module of torch and by ours, from tiny batches to large ones."""
    for shape in small.STEPS:
        size = shape[0] * shape[1]
        for module in small.MODULES:
            goal = 1 / 1.1 if size < 1000 else 1 / 0.6 if size >= 50_000 and module.name != "NLLLoss" else 1
            name = "×".join(map(str, shape))
            why = f"a step, float32 of {name}"
            yield Line(f"modules, {name}", module.title, why, partial(module.steps, shape), (("polyloss", "torch", goal),), seconds=0.4)


COMPETITION = tuple((job, "350 MB", 1) for job in ("a competition", "groups", "paired"))


def megabytes(limit):
    """A contender that has a given memory."""
    return {f"{limit} MB": lambda: limit}


def file_lines():
    """The command, on a competition's files and a dump of arrays; and a Dask array's blocks."""
    goals = (("polyloss", "parser", 1 / 1.5), ("polyloss", "pandas and scikit-learn", 6), ("whole process", "pandas and scikit-learn", 2.3))
    yield Line("files", "a submission", f"{files.ROWS} rows of 10 classes, CSV", files.competition, goals, seconds=1)
    shape = "×".join(map(str, files.LOGITS))
    yield Line("files", f"logits, {shape}", "NPY, float32", files.dump, (("polyloss", "np.load", 1 / 1.3),))
    goals = (("polyloss", "300000 µs", 1),)
    many = f"{files.LARGE} rows of 10 classes, CSV, each in a process of its own"
    yield Line("files", "a large submission", many, files.large, (("whole process", "parser", 1 / 1.5),), seconds=0, alike=False)
    yield Line("files", "the command's help", "its start", lambda: files.start() | wait(300_000), goals, alike=False)
    for partitions in evaluation.PARTITIONS:
        limit = 6000 * partitions
        goals = tuple((name, f"{limit} µs", 1) for name in ("softmax_loss", "Accumulator", "evaluate"))
        why = f"{partitions} of 2000×10, float64, on two processes"
        made = partial(dask_cluster.contenders, partitions)
        yield Line("Dask", f"{partitions} partitions", why, lambda made=made, limit=limit: made() | wait(limit), goals, alike=False)
    memory = partial(Line, "files: memory of the process", unit="MB")
    yield memory("a competition's jobs", f"{files.ROWS} rows of 10 classes", lambda: files.jobs() | megabytes(350), COMPETITION)
    yield memory("addresses, a large submission", f"{many}; ulimit -v allows no more", files.bounded, (("polyloss", "parser and 1 GB", 1),))


def head_lines():
    """A language model's head: value and both gradients, beside its matrix products alone."""
    name, why = "×".join(map(str, head.SHAPE)), "positions, features, words; float32"
    rivals = {"torch": head.torch_steps, "NumPy": head.numpy_calls, "JAX under jit": head.jax_calls}
    goals = tuple(("polyloss", *goal) for goal in (("matmuls", 1 / 1.1), ("torch", 1), ("torch, chunks", 1 / 0.6), ("optax", 1)))
    for library, contenders in rivals.items():
        yield Line("a language model's head", f"{name}, {library}", why, contenders, goals, seconds=30)
    goals = tuple((f"polyloss, {library}", "64 MB", 1) for library in ("NumPy", "torch", "JAX"))
    group, why = "a language model's head: memory beside inputs and gradients", "64 features, 32000 words; float32, two gradients"
    for positions in head.Memory.params:
        yield Line(group, f"{positions} positions", why, partial(head.memory, positions), goals, unit="MB")


def lines():
    """The whole table."""
    parts = (
        softmax_lines,
        other_softmax_lines,
        elementwise_lines,
        set_lines,
        small_lines,
        module_lines,
        jax_lines,
        log_loss_lines,
        file_lines,
    )
    for part in (*parts, head_lines):
        yield from sorted(part(), key=lambda line: line.group)


def measure(line, seconds):
    """The line as it is kept: milliseconds or megabytes of every contender, and the goals that its contenders allow."""
    peers.same_threads()
    contenders = line.contenders()
    if line.unit == "MB" or line.told:
        best = {name: call() for name, call in contenders.items()}
    else:
        if line.alike:
            check_agreement(line, contenders)
        best = timing.alternate(contenders, seconds if line.seconds is None else line.seconds)
    return {
        "group": line.group,
        "name": line.name,
        "why": line.why,
        "route": line.route(),
        line.unit: {name: float(f"{x if line.unit == 'MB' else 1e3 * x:.4g}") for name, x in best.items()},
        "goals": [list(goal) for goal in line.goals if goal[1] in best],
    }


def check_agreement(line, contenders):
    """Contenders of a line must compute the same number, or their times mean nothing."""
    results = {name: call() for name, call in contenders.items() if name not in MEMORY and not name.endswith(" µs")}
    values = {name: float(r[0] if isinstance(r, tuple) else r) for name, r in results.items()}
    first = next(iter(values.values()))
    if not all(math.isclose(v, first, rel_tol=1e-3) for v in values.values()):  # float32 sums of 16.8 M terms differ by 1e-4 and more
        raise AssertionError(f"{line.group}, {line.name}: the contenders disagree: {values}")


def interplay(rounds=20):
    """Median milliseconds of our 4096×1000 value by what ran before it: two OpenMP runtimes share the cores of this process."""
    case = next(case for case in cases.SOFTMAX if case.shape == (4096, 1000))
    calls = softmax_value(case)
    ours, theirs = calls["polyloss"], calls["torch"]
    times = {"alone": [], "right after torch": [], f"{1e3 * timing.PAUSE:.0f} ms after torch": [], "torch, right after ours": []}
    for _ in range(rounds):
        for name, samples in times.items():
            before, timed = (theirs, ours) if "after torch" in name else (ours, theirs) if name.startswith("torch") else (ours, ours)
            time.sleep(timing.PAUSE)
            before()
            time.sleep(timing.PAUSE if "ms after" in name else 0)
            samples.append(timing.once(timed))
    return {name: float(f"{1e3 * statistics.median(samples):.4g}") for name, samples in times.items()}


def interplays():
    """The same under both waiting policies, each in a process of its own, since libgomp reads the policy when it is loaded."""
    unset = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    policies = {"unset": unset, "passive": unset | {"OMP_WAIT_POLICY": "passive"}}
    command = [sys.executable, __file__, "--interplay"]
    return {
        name: json.loads(subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout)
        for name, env in policies.items()
    }


def environment():
    """Where and with what it was measured."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()) if Path("/proc/cpuinfo").exists() else None
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "processor": cpu[1] if cpu else platform.processor(),
        "instruction set": import_module("polyloss._kernels.cpu.softmax_xent").isa(),
        "threads": pl.get_num_threads(),
        "load of the machine, its other work included": round(os.getloadavg()[0], 1),
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "unset"),
        "Python": platform.python_version(),
        "polyloss": pl.__version__,
        **{name: version(name) for name in LIBRARIES},
    }


def main():
    """Measure, show, and keep."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", metavar="REGEX", help="lines whose group and name match; the others keep their figures")
    parser.add_argument("--seconds", type=float, default=3, help="per line (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the JSON to write (default: docs/benchmarks.json)")
    parser.add_argument("--interplay", action="store_true", help="print only how two OpenMP runtimes disturb each other")
    options = parser.parse_args()
    if options.interplay:
        print(json.dumps(interplay()))
        return
    old = json.loads(options.results.read_text("utf-8")) if options.results.exists() else {"lines": []}
    every = list(lines())
    known = {(line["group"], line["name"]): line for line in old["lines"]}
    result = {"environment": environment(), "pause": round(1e3 * timing.PAUSE), "interplay": old.get("interplay")}

    def keep():
        result["lines"] = [known[key] for line in every if (key := (line.group, line.name)) in known]
        options.results.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", "utf-8")

    for line in every:
        if re.search(options.only, f"{line.group} {line.name}"):
            measured = known[line.group, line.name] = measure(line, options.seconds)
            print(*show(measured), sep="\n", flush=True)
            keep()
            gc.collect()  # the arrays of one line go before those of the next come
    if re.search(options.only, "interplay"):
        result["interplay"] = interplays()
        keep()


def show(line):
    """A measured line as text."""
    unit = render.unit(line)
    yield f"{line['group']}, {line['name']}: " + "  ".join(f"{name} {x:.4g} {unit}" for name, x in line[unit].items())
    for ours, rival, goal, ratio, verdict in render.verdicts(line):
        yield f"    {ours} against {rival}: {ratio}, goal {goal}, {verdict}"


if __name__ == "__main__":
    main()
