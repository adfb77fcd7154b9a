"""What is tried: each trial is a module or class with SHARE, draw(rng, library), faults(case) and shrink(case, fault)."""

import calls
import check
import draw
import shrink


class Losses:
    """A loss, its derivatives and its gradients by autograd, beside the truth."""

    SHARE = 100

    @staticmethod
    def draw(rng, library=None, edges=True):
        return draw.draw(rng, library=library, heavy=draw.chance(rng, 0.05), edges=edges)

    faults = staticmethod(check.faults)

    @staticmethod
    def shrink(case, fault):
        return shrink.shrink(case, fault, check.faults)


TRIALS = [Losses]


def prepare():
    """What every trial needs before the first."""
    calls.prepare()
