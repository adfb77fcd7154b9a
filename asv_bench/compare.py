"""Build two states of the project and fail if the later one is slower.

Both are installed into prefixes of their own and timed in turns, visit by visit, by workers that hold the same inputs: two workers of the
base and one of the head. What the two equal ones differ by is the noise, and only a head slower than LIMIT times that counts. A suspect is
measured again, with fresh workers (memory lies elsewhere then), and its samples are added: chance goes away, a slower kernel does not.
"""

import argparse
import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIMIT = 1.15
PAIRS = (512, 1024)  # 2 MB of float32: milliseconds at most, and large enough for threads
LAUNCHES = 2  # fresh trios of workers
VISITS = 4  # of each worker to each case
AGAIN = 3  # further launches for suspects, at most


# ---------------------------------------------------------------------------------------------------------------- the worker


def cases():
    """Name -> function that makes the inputs and returns the call to time."""
    import numpy as np
    from benchmarks import small
    from benchmarks.cases import SOFTMAX, calls

    import polyloss as pl

    def softmax(case, gradient):
        labels, logits = case.arrays()
        options = {"ignore_label": case.ignore}
        if not gradient:
            return lambda: pl.softmax_loss(labels, logits, **options)
        function, out = pl.value_and_grad(pl.softmax_loss), np.zeros_like(logits)
        return lambda: function(labels, logits, out=out, **options)

    def loss(call, gradient):
        t, p = call.arrays(PAIRS, "float32")
        if not gradient:
            return lambda: pl.get(call.loss)(t, p, **call.options)
        function, out = pl.value_and_grad(call.loss), np.zeros_like(p)
        return lambda: function(t, p, out=out, **call.options)

    def log_loss():
        rng = np.random.default_rng(0)
        labels, proba = rng.integers(0, 2, 100_000), rng.uniform(0.01, 0.99, 100_000)
        return lambda: pl.log_loss(labels, proba)

    found = {"log_loss, 100000 binary rows": log_loss}
    for gradient in (False, True):
        suffix = ", value and gradient" * gradient
        found |= {f"softmax_loss {case.name}{suffix}": lambda case=case, g=gradient: softmax(case, g) for case in SOFTMAX}
        found |= {f"{call.name}{suffix}": lambda call=call, g=gradient: loss(call, g) for call in calls()}
    for what in ("value", "value and gradient"):
        found |= {f"{call.name}, 32×10, {what}": lambda call=call, what=what: small.numpy_calls(call)[what] for call in calls()}
    found |= {f"softmax_loss, 32×10, {name}": lambda name=name: small.softmax_options()[name] for name in small.OPTIONS}
    found |= {f"step of {x.title}, 512×100": lambda x=x: x.steps((512, 100))["polyloss"] for x in small.MODULES}
    return found


def work():
    """Serve: a line with a case's name asks for its inputs, an empty line for one visit; answers are JSON, an error as its text."""
    from benchmarks import timing

    import polyloss as pl

    if not Path(pl.__file__).is_relative_to(os.environ["PYTHONPATH"]):
        raise RuntimeError(f"the worker of {os.environ['PYTHONPATH']} imported {pl.__file__}")
    timing.PAUSE = 0  # waiting threads sleep
    known = cases()
    print(json.dumps(sorted(known)), flush=True)
    call = None
    for line in map(str.strip, sys.stdin):
        try:
            if line:
                call = None  # the old inputs go before the new ones come
                call = known[line]()
                answer = number = timing.batch(call)
            else:
                answer = timing.visit(call, number)
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        print(json.dumps(answer), flush=True)


class Worker:
    """A process that times what is installed in a prefix."""

    def __init__(self, prefix, threads):
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--worker"],
            # Threads that spin for work would take the cores from the next worker, and, on a busy machine, from their own.
            env=os.environ | {"PYTHONPATH": str(prefix), "OMP_WAIT_POLICY": "passive", "POLYLOSS_NUM_THREADS": str(threads)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.cases = self.answer()

    def answer(self):
        """The next answer."""
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker ended with status {self.process.wait()}")
        return json.loads(line)

    def ask(self, line=""):
        """Send a line."""
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()


# ---------------------------------------------------------------------------------------------------------------- the driver


def build(commit, folder):
    """Install a commit into a prefix of its own."""
    source, prefix = folder / "source", folder / "prefix"
    source.mkdir(parents=True)
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", source], input=archive, check=True)
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", prefix, source],
        env=os.environ | {"POLYLOSS_REQUIRE_KERNELS": "1"},
        check=True,
    )
    return prefix


def working_tree():
    """A commit of what git tracks, as it stands now; the branch and the index stay as they are."""
    stash = subprocess.run(["git", "stash", "create"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    return stash or "HEAD"


def measure(base, head, wanted, samples, threads):
    """One launch: append each worker's visits to `samples`, {case: (of base, of base again, of head)}; errors of the head are returned."""
    failed = {}
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(Worker(prefix, threads)) for prefix in (base, base, head)]
        shared = set(workers[0].cases)
        names = [name for name in workers[2].cases if name in shared and wanted(name)]
        for name in names:
            for worker in workers:
                worker.ask(name)
            answers = [worker.answer() for worker in workers]
            if isinstance(answers[0], str):  # the base could not do it yet
                continue
            if isinstance(answers[2], str):
                failed[name] = answers[2]
                continue
            sides = samples.setdefault(name, ([], [], []))
            for turn in range(VISITS):
                for k in range(3):
                    side = (turn + k) % 3  # nobody always comes first
                    workers[side].ask()
                    sides[side].append(workers[side].answer())
    return failed


def judge(samples):
    """{case: (ratio, noise, whether the head is slower)} from the seconds of every visit.

    A side is as fast as its best visit. The noise of a case is what the two workers of the base differ by, and at least what nine of ten
    cases differ by: a machine that is noisy in one place may be so in another.
    """
    noise, ratio = {}, {}
    for name, sides in samples.items():
        base, again, head = map(min, sides)
        noise[name] = max(base / again, again / base)
        ratio[name] = head / math.sqrt(base * again)
    usual = sorted(noise.values())[int(0.9 * (len(noise) - 1))] if noise else 1.0
    return {name: (ratio[name], (n := max(noise[name], usual)), ratio[name] > LIMIT * n) for name in samples}


def compare(base, head, pattern="", threads=1):
    """Measure until nothing is suspect or suspects are confirmed; verdicts, samples and errors."""
    samples, failed = {}, {}
    for _ in range(LAUNCHES):
        failed |= measure(base, head, lambda name: pattern in name, samples, threads)
    for _ in range(AGAIN):
        suspects = {name for name, (_, _, slower) in judge(samples).items() if slower}
        if not suspects:
            break
        failed |= measure(base, head, suspects.__contains__, samples, threads)
    return judge(samples), samples, failed


def main():
    """Build both, compare, and fail if anything is slower."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("base", nargs="?", help="commit to compare with")
    parser.add_argument("--head", help="commit to judge (default: the working tree, as far as git tracks it)")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name holds this")
    # One: on two busy cores two workers of the same build differ by 36 % with two threads, by 1 % with one.
    parser.add_argument("--threads", type=int, default=1, help="of the kernels (default: %(default)s)")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work()
    if options.base is None:
        parser.error("BASE is missing: the commit to compare with")
    with tempfile.TemporaryDirectory() as folder:
        base = build(options.base, Path(folder, "base"))
        head = build(options.head or working_tree(), Path(folder, "head"))
        verdicts, samples, failed = compare(base, head, options.only, options.threads)
    print(f"{'case':62}{'base ms':>10}{'head ms':>10}{'ratio':>7}{'noise':>7}")
    for name, (ratio, noise, slower) in sorted(verdicts.items(), key=lambda item: -item[1][0]):
        before, after = 1e3 * min(map(min, samples[name][:2])), 1e3 * min(samples[name][2])
        print(f"{name:62}{before:10.4g}{after:10.4g}{ratio:7.2f}{noise:7.2f}" + "  slower" * slower)
    for name, error in failed.items():
        print(f"{name}: fails on the head: {error}")
    slower = [name for name, verdict in verdicts.items() if verdict[2]]
    if not verdicts:
        return "nothing was compared"
    return f"{len(slower)} slower, {len(failed)} failing of {len(verdicts)} cases" if slower or failed else 0


if __name__ == "__main__":
    sys.exit(main())
