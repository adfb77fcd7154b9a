"""Which kernel takes a call: a table, read from the top.

`ROUTES` lists what can evaluate a plan, fastest first: the kernels, and the formula, which takes every plan. A route that cannot take a
plan says why; that depends on dtype, layout and device, never on data.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

from polyloss._call import cpu as _cpu, formula as _formula, gpu as _gpu


@dataclass(frozen=True)
class Route:
    """One way to evaluate a loss."""

    name: str
    holds: Callable  # plan -> whether it is meant for such a loss
    obstacle: Callable  # plan -> why this route cannot take it, or None
    run: Callable  # (plan, arrays) -> Outcome
    note: Callable = lambda: ""  # what explain adds of the machine: instruction set, threads


ROUTES = (
    Route("softmax_xent kernel", _cpu.is_softmax_xent, _cpu.softmax_xent_obstacle, _cpu.run, lambda: _cpu.note("softmax_xent")),
    Route("elementwise kernel", _cpu.is_elementwise, _cpu.elementwise_obstacle, _cpu.run, lambda: _cpu.note("elementwise")),
    Route("rowwise kernel", _cpu.is_rowwise, _cpu.rowwise_obstacle, _cpu.run, lambda: _cpu.note("rowwise")),
    Route("values kernel", _cpu.is_values, _cpu.values_obstacle, _cpu.run, lambda: _cpu.note("values")),
    Route("sets kernel", _cpu.is_sets, _cpu.sets_obstacle, _cpu.run, lambda: _cpu.note("sets")),
    Route("softmax_xent kernel for CUDA", _cpu.is_softmax_xent, _gpu.softmax_xent_obstacle, _gpu.run_softmax_xent, _gpu.note),
    Route("elementwise kernel for CUDA", _cpu.is_elementwise, _gpu.elementwise_obstacle, _gpu.run_elementwise, _gpu.note),
    Route("rowwise kernel for CUDA", _cpu.is_rowwise, _gpu.rowwise_obstacle, _gpu.run_rowwise, _gpu.note),
    Route("formula", lambda plan: True, lambda plan: None, _formula.run),
)


def choose(plan):
    """The first route that can take the plan, and the obstacles of those before it that are meant for its loss."""
    forced = os.environ.get("POLYLOSS_ROUTE")
    if forced not in (None, "", "formula"):
        raise ValueError(f"POLYLOSS_ROUTE is {forced!r}, but must be 'formula' or unset")
    obstacles: list[tuple[str, str]] = []
    for route in ROUTES:
        if not route.holds(plan):
            continue
        why = route.obstacle(plan)
        if why is None and forced and route.name != "formula":
            why = "POLYLOSS_ROUTE=formula forces the formula"
        if why is None:
            return route, obstacles
        obstacles.append((route.name, why))
    raise AssertionError("the formula takes every plan")


def chosen(plan):
    """The route and the obstacles by the rules of the plan's library, if it has some, else by `choose`."""
    return (plan.backend.route or choose)(plan)


def routed(plan):
    """A new plan with its route."""
    object.__setattr__(plan, "route", chosen(plan)[0].name)
    return plan


def changed(plan, **changes):
    """A plan with other fields, and the route for them; kept, since who asks once asks again."""
    kept, key = plan.__dict__.setdefault("_changed", {}), tuple(changes.items())
    if key not in kept:
        kept[key] = routed(replace(plan, **changes))
    return kept[key]


def run(plan, arrays):
    """The outcome of a plan's route."""
    return next(route for route in ROUTES if route.name == plan.route).run(plan, arrays)
