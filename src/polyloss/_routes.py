"""Which kernel takes a call: a table, read from the top.

`ROUTES` lists the ways to evaluate a loss, fastest first. A route says of a job why it cannot take it, from dtype, layout and device and
never from data; the formula takes everything.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

from polyloss import _cpu, _formula, _gpu


@dataclass(frozen=True)
class Route:
    """One way to evaluate a loss."""

    name: str
    obstacle: Callable  # job -> why this route cannot take it, or None
    run: Callable  # job -> Outcome
    note: Callable = lambda: ""  # what explain adds of the machine: instruction set, threads


ROUTES = (
    Route("softmax_xent kernel", _cpu.softmax_xent_obstacle, _cpu.run_softmax_xent, lambda: _cpu.note("softmax_xent")),
    Route("elementwise kernel", _cpu.elementwise_obstacle, _cpu.run_elementwise, lambda: _cpu.note("elementwise")),
    Route("rowwise kernel", _cpu.rowwise_obstacle, _cpu.run_rowwise, lambda: _cpu.note("rowwise")),
    Route("softmax_xent kernel for CUDA", _gpu.softmax_xent_obstacle, _gpu.run_softmax_xent, _gpu.note),
    Route("elementwise kernel for CUDA", _gpu.elementwise_obstacle, _gpu.run_elementwise, _gpu.note),
    Route("rowwise kernel for CUDA", _gpu.rowwise_obstacle, _gpu.run_rowwise, _gpu.note),
    Route("formula", lambda job: None, _formula.run),
)


def choose(job):
    """The first route that can take the job, and the obstacles of those before it."""
    forced = os.environ.get("POLYLOSS_ROUTE")
    if forced not in (None, "", "formula"):
        raise ValueError(f"POLYLOSS_ROUTE is {forced!r}, but must be 'formula' or unset")
    obstacles = []
    for route in ROUTES:
        why = route.obstacle(job)
        if why is None and forced and route.name != "formula":
            why = "POLYLOSS_ROUTE=formula forces the formula"
        if why is None:
            return route, obstacles
        obstacles.append((route.name, why))
    raise AssertionError("the formula takes every job")
