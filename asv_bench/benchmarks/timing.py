"""Rivals timed in alternation in one process, so that whatever slows the machine slows them all."""

import gc
import math
import time

# A thread of an OpenMP runtime spins for work after its region: libgomp's for 300 000 pauses, 15 ms where a pause takes 140 cycles. Whoever
# runs next on another runtime (torch brings its own) would share the cores with it, so the clock starts only when that is over.
PAUSE = 0.02
VISIT = 0.03  # seconds of samples, and one at least: on a busy machine few samples find both cores free


def once(call, number=1):
    """Seconds per call, of `number` calls in a row."""
    start = time.perf_counter()
    for _ in range(number):
        call()
    return (time.perf_counter() - start) / number


def visit(call, number):
    """Best seconds per call of one visit: a pause, a call that wakes the threads, samples."""
    time.sleep(PAUSE)
    call()
    samples, end = [], time.perf_counter() + VISIT
    while not samples or time.perf_counter() < end:
        samples.append(once(call, number))
    return min(samples)


def batch(call):
    """How many calls make a sample that the clock resolves: 0.2 ms, and one call at least."""
    call()
    return max(1, math.ceil(2e-4 / once(call)))


def alternate(calls, seconds):
    """Best time of each call: visited in turn, again and again.

    Parameters
    ----------
    calls : dict of str to callable
        The rivals.
    seconds : float
        How long to go on; each is visited three times at least.

    Returns
    -------
    dict of str to float
        Seconds per call.
    """
    end = time.perf_counter() + seconds
    numbers = {name: batch(call) for name, call in calls.items()}
    best, rounds = dict.fromkeys(calls, math.inf), 0
    enabled = gc.isenabled()
    gc.disable()
    try:
        while rounds < 3 or time.perf_counter() < end:
            for name, call in calls.items():
                best[name] = min(best[name], visit(call, numbers[name]))
            rounds += 1
    finally:
        if enabled:
            gc.enable()
    return best
