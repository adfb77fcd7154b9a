"""Random calls of all that is public, against what the contract says: `make fuzz SECONDS=600 SEED=1`.

A worker process makes the calls, this one watches: a call that takes longer than five minutes, or that ends the worker, is a finding like a
wrong number. Each kind of finding is shrunk and printed once, as lines that can be pasted into Python; in the end there is a count of the
calls and of the kinds. Exit status: 1 if something was found.

    python tests/fuzz/fuzz.py --seconds 600 --seed 1          # until the time is up
    python tests/fuzz/fuzz.py --seed 1 --only 1234            # the call of a seed and a number, once more
"""

import argparse
import collections
import multiprocessing
import os
import sys
import time

PATIENCE = 300.0  # seconds for one call; the first of a library compiles and imports, and the machine may be busy


def rng_of(seed, number):
    import numpy as np

    return np.random.default_rng((seed, number))


def drawn(seed, number, library=None, edges=True):
    """The trial of a number: its module, and the case."""
    from trials import TRIALS

    rng = rng_of(seed, number)
    shares = [trial.SHARE for trial in TRIALS]
    trial = TRIALS[rng.choice(len(TRIALS), p=[share / sum(shares) for share in shares])]
    return trial, trial.draw(rng, library, edges)


def work(connection, seed, first, known, library, edges):
    """Make trials from a number on, and say what came of each."""
    import warnings

    import trials

    warnings.simplefilter("ignore")  # those of a call are findings, but torch's modules have words of their own
    trials.prepare()
    known, number = set(known), first
    while True:
        connection.send(("begun", number))
        trial, case = drawn(seed, number, library, edges)
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

    def __init__(self, seed, library=None, edges=True):
        self.seed, self.library, self.edges = seed, library, edges
        self.context = multiprocessing.get_context("spawn")
        self.process = None
        self.number = 0
        self.known = set()

    def start(self):
        self.connection, theirs = self.context.Pipe()
        arguments = (theirs, self.seed, self.number, self.known, self.library, self.edges)
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
        _, case = drawn(self.seed, self.number, self.library, self.edges)
        self.number += 1
        return case.label, [((*case.label, symptom), words, case.code())]


def fuzz(seconds=None, count=None, seed=0, library=None, edges=True, out=sys.stdout):
    """Run until the time is up, or so many calls; the calls by label, and the findings by kind."""
    calls, findings = collections.Counter(), collections.Counter()
    watch, until = Watch(seed, library, edges), time.monotonic() + (seconds or 1e9)
    try:
        while time.monotonic() < until and (count is None or watch.number < count):
            number = watch.number
            label, found = watch.next()
            calls[label] += 1
            for kind, words, code in found:
                findings[kind] += 1
                if findings[kind] == 1:
                    print(f"\n# {len(findings)}. {' '.join(map(str, kind))}  (--seed {seed} --only {number})\n{code}\n# {words}", file=out)
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


def once(seed, number, library=None, edges=True):
    """One call again: its code, and what is wrong."""
    import trials

    trials.prepare()
    trial, case = drawn(seed, number, library, edges)
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
    arguments = parser.parse_args()
    if arguments.only is not None:
        print(once(arguments.seed, arguments.only, arguments.library, arguments.edges))
        return 0
    began = time.monotonic()
    print(f"seed {arguments.seed}", flush=True)
    calls, findings = fuzz(arguments.seconds, seed=arguments.seed, library=arguments.library, edges=arguments.edges)
    print("\n" + summary(calls, findings, time.monotonic() - began))
    return 1 if findings else 0


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("JAX_ENABLE_X64", "1")
    os.environ.setdefault("KERAS_BACKEND", "numpy")
    sys.exit(main())
