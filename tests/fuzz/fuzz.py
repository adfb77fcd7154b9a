"""Random calls of all that is public, against what the contract says: `make fuzz SECONDS=600 SEED=1`.

A worker process makes the calls, this one watches: a call that takes longer than five minutes, or that ends the worker, is a finding like a
wrong number. Each kind of finding is shrunk and printed once, as lines that can be pasted into Python; in the end there is a count of the
calls and of the kinds. Exit status: 1 if something was found.

    python tests/fuzz/fuzz.py --seconds 600 --seed 1          # until the time is up
    python tests/fuzz/fuzz.py --seed 1 --only 1234            # the call of a seed and a number, once more
    python tests/fuzz/fuzz.py --small --loss huber --library jax    # with --only, these three again
"""

import argparse
import collections
import multiprocessing
import os
import sys
import time
from typing import NamedTuple

PATIENCE = 300.0  # seconds for one call; the first of a library compiles and imports, and the machine may be busy


def rng_of(seed, number):
    import numpy as np

    return np.random.default_rng((seed, number))


class Wanted(NamedTuple):
    """What is drawn; by default everything."""

    library: str | None = None  # of one array library only
    edges: bool = True  # numbers beyond those of daily use, too
    loss: str | None = None  # of one loss only
    small: bool = False  # losses alone, on arrays of 200 numbers at most: many more calls

    def words(self):
        """The same on the command line."""
        named = [f" --{name} {x}" for name, x in (("library", self.library), ("loss", self.loss)) if x is not None]
        return "".join([*named, " --small" * self.small, " --no-edges" * (not self.edges)])


EVERYTHING = Wanted()


def drawn(seed, number, wanted):
    """The trial of a number: its module, and the case."""
    import trials

    rng = rng_of(seed, number)
    if wanted.loss is not None or wanted.small:
        return trials.Losses, trials.Losses.draw(rng, wanted.library, wanted.edges, wanted.loss, wanted.small)
    shares = [trial.SHARE for trial in trials.TRIALS]
    trial = trials.TRIALS[rng.choice(len(shares), p=[share / sum(shares) for share in shares])]
    return trial, trial.draw(rng, wanted.library, wanted.edges)


def work(connection, seed, first, known, wanted):
    """Make trials from a number on, and say what came of each."""
    import warnings

    import trials

    warnings.simplefilter("ignore")  # those of a call are findings, but torch's modules have words of their own
    trials.prepare()
    known, number = set(known), first
    while True:
        connection.send(("begun", number))
        trial, case = drawn(seed, number, wanted)
        found = []
        for fault in trial.faults(case):
            if fault.kind not in known:
                known.add(fault.kind)
                small, same = trial.shrink(case, fault)
                found.append((fault.kind, same.words, small.code()))
            else:
                found.append((fault.kind, fault.words, ""))
        connection.send(("done", number, case.label, found))
        number += 1


class Watch:
    """A worker, and how long one call may take it."""

    def __init__(self, seed, wanted):
        self.seed, self.wanted = seed, wanted
        self.context = multiprocessing.get_context("spawn")
        self.process = None
        self.number = 0
        self.known = set()

    def start(self):
        self.connection, theirs = self.context.Pipe()
        arguments = (theirs, self.seed, self.number, self.known, self.wanted)
        self.process = self.context.Process(target=work, args=arguments, daemon=True)
        self.process.start()
        theirs.close()
        self.begun = False

    def stop(self):
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None

    def next(self):
        """What came of the next call: its label, and findings (kind, words, code)."""
        if self.process is None:
            self.start()
        try:
            while True:
                if not self.connection.poll(PATIENCE):
                    return self.lost("hang", f"took more than {PATIENCE:.0f} s")
                kind, number, *rest = self.connection.recv()
                self.begun = True
                if kind == "done":
                    self.number = number + 1
                    label, found = rest
                    self.known.update(kind for kind, _, _ in found)
                    return label, found
        except EOFError:
            self.process.join()
            if not self.begun:
                raise RuntimeError("the worker ended before its first call; its error stands above") from None
            return self.lost("crash", f"ended the process (exit status {self.process.exitcode})")

    def lost(self, symptom, words):
        """A finding about the worker itself; it is started anew behind the call."""
        self.stop()
        import trials

        trials.prepare()
        _, case = drawn(self.seed, self.number, self.wanted)
        self.number += 1
        return case.label, [((*case.label, symptom), words, case.code())]


def fuzz(seconds=None, count=None, seed=0, wanted=EVERYTHING, out=sys.stdout):
    """Run until the time is up, or so many calls; the calls by label, and the findings by kind."""
    calls, findings = collections.Counter(), collections.Counter()
    watch, until = Watch(seed, wanted), time.monotonic() + (seconds or 1e9)
    try:
        while time.monotonic() < until and (count is None or watch.number < count):
            number = watch.number
            label, found = watch.next()
            calls[label] += 1
            for kind, words, code in found:
                findings[kind] += 1
                if findings[kind] == 1:
                    again = f"(--seed {seed} --only {number}{wanted.words()})"
                    print(f"\n# {len(findings)}. {' '.join(map(str, kind))}  {again}\n{code}\n# {words}", file=out)
                    out.flush()
    finally:
        watch.stop()
    return calls, findings


def summary(calls, findings, seconds):
    """A table: calls by what was called, by library and by route; and the kinds of findings."""
    lines = [f"{sum(calls.values())} calls in {seconds:.0f} s"]
    for place, title in ((0, "called"), (1, "library"), (2, "mode"), (3, "route")):
        by = collections.Counter()
        for label, n in calls.items():
            by[label[place]] += n
        lines.append(f"  by {title}: " + ", ".join(f"{name} {n}" for name, n in sorted(by.items(), key=lambda item: -item[1])))
    lines.append(f"{len(findings)} kinds of findings")
    lines += [f"  {n} × {' '.join(map(str, kind))}" for kind, n in findings.most_common()]
    return "\n".join(lines)


def once(seed, number, wanted=EVERYTHING):
    """One call again: its code, and what is wrong."""
    import trials

    trials.prepare()
    trial, case = drawn(seed, number, wanted)
    found = trial.faults(case)
    small = trial.shrink(case, found[0])[0] if found else case
    return "\n".join([small.code(), *(f"# {fault.words}" for fault in found)])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--only", type=int)
    parser.add_argument("--library", help="of one array library only")
    parser.add_argument("--no-edges", dest="edges", action="store_false", help="numbers as they are in daily use")
    parser.add_argument("--loss", help="one loss only, and nothing but losses")
    parser.add_argument("--small", action="store_true", help="losses alone, on small arrays: many more calls")
    arguments = parser.parse_args()
    wanted = Wanted(arguments.library, arguments.edges, arguments.loss, arguments.small)
    if arguments.only is not None:
        print(once(arguments.seed, arguments.only, wanted))
        return 0
    began = time.monotonic()
    print(f"seed {arguments.seed}", flush=True)
    calls, findings = fuzz(arguments.seconds, seed=arguments.seed, wanted=wanted)
    print("\n" + summary(calls, findings, time.monotonic() - began))
    return 1 if findings else 0


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("JAX_ENABLE_X64", "1")
    os.environ.setdefault("KERAS_BACKEND", "numpy")
    sys.exit(main())
