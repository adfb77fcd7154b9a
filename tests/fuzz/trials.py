"""What is tried: each trial has a SHARE of the calls, draw(rng, library, edges), faults(case) and shrink(case, fault)."""

import calls
import check
import draw
import head
import laws
import metric
import modules
import refusals
import second
import shrink


class Losses:
    """A loss, its derivatives and its gradients by autograd, beside the truth."""

    SHARE = 100

    @staticmethod
    def draw(rng, library=None, edges=True, loss=None, small=False):
        while True:
            call = draw.draw(rng, loss=loss, library=library, heavy=not small and draw.chance(rng, 0.05), edges=edges)
            if not small or call.prediction.values.size <= 200:
                return call

    faults = staticmethod(check.faults)

    @staticmethod
    def shrink(case, fault):
        return shrink.shrink(case, fault, check.faults)


class Refusals:
    """Bad input."""

    SHARE = 12
    draw = staticmethod(refusals.draw_refusal)
    faults = staticmethod(refusals.faults)
    shrink = staticmethod(lambda case, fault: (case, fault))


class Metric:
    """log_loss."""

    SHARE = 8
    draw = staticmethod(metric.draw_scored)
    faults = staticmethod(metric.faults)
    shrink = staticmethod(lambda case, fault: (case, fault))


class Modules:
    """polyloss.torch."""

    SHARE = 8
    draw = staticmethod(modules.draw_module)
    faults = staticmethod(modules.faults)
    shrink = staticmethod(lambda case, fault: (case, fault))


class Laws:
    """What holds bit for bit."""

    SHARE = 8
    draw = staticmethod(laws.draw_law)
    faults = staticmethod(laws.faults)
    shrink = staticmethod(lambda case, fault: (case, fault))


class Heads:
    """linear_softmax_loss."""

    SHARE = 6
    draw = staticmethod(head.draw_head)
    faults = staticmethod(head.faults)
    shrink = staticmethod(lambda case, fault: (case, fault))


class Seconds:
    """Second derivatives."""

    SHARE = 8
    draw = staticmethod(second.draw_second)
    faults = staticmethod(second.faults)
    shrink = staticmethod(lambda case, fault: (case, fault))


TRIALS = [Losses, Refusals, Metric, Modules, Laws, Heads, Seconds]


def prepare():
    """What every trial needs before the first."""
    calls.prepare()
