"""How many threads the CPU kernels may use, and whether this process may have several at all.

Imported with polyloss, before any kernel: so whichever of them is loaded when, a fork is known of in one place.
"""

import os
import sys
from collections.abc import Callable

MOST_THREADS = 1024
PF_FORKNOEXEC = 0x40  # Linux: forked, and no other program executed since

_threads = None
_told: list[Callable[[int], object]] = []


def _openmp_is_loaded():
    """Whether a library of OpenMP is in this process, whoever brought it; in doubt, yes."""
    try:
        with open("/proc/self/maps") as f:
            return any(name in line for line in f for name in ("libgomp", "libomp", "libiomp"))
    except OSError:
        return True


def _is_fork():
    """Whether this process is a fork of another one that executed no program since."""
    try:
        with open("/proc/self/stat") as f:
            if int(f.read().rpartition(")")[2].split()[6]) & PF_FORKNOEXEC:
                return True
    except (OSError, ValueError, IndexError):
        pass
    started_by = sys.modules.get("multiprocessing")  # a child that it forked has inherited it
    return started_by is not None and started_by.parent_process() is not None and started_by.get_start_method(True) == "fork"


def _after_fork_in_child():
    global _alone  # noqa: PLW0603
    _alone = _openmp_is_loaded()


# The threads of OpenMP's library do not survive a fork, and its next parallel region would wait for them for ever. They may be torch's,
# whose library is ours as well; so a process that was forked, and had one loaded by then, computes on one thread.
_alone = _is_fork() and _openmp_is_loaded()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def alone():
    """Whether this process must compute on one thread, whatever it is told, since it is a fork of one that may have used OpenMP."""
    return _alone


def _default():
    given = os.environ.get("POLYLOSS_NUM_THREADS", "").strip()
    if given:
        try:
            n = int(given)
        except ValueError:
            n = 0
        if not 1 <= n <= MOST_THREADS:
            raise ValueError(f"POLYLOSS_NUM_THREADS is {given!r}, but must be a whole number from 1 to {MOST_THREADS}")
        return n
    return min(_affinity(), _quota(), MOST_THREADS)


def _affinity():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quota():
    """CPUs that the control group grants (version 2, then 1), rounded up; as many as there are if it grants all."""
    try:
        with open("/sys/fs/cgroup/cpu.max") as f:
            quota, period = f.read().split()
    except (OSError, ValueError):
        try:
            with open("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") as f, open("/sys/fs/cgroup/cpu/cpu.cfs_period_us") as g:
                quota, period = f.read().strip(), g.read().strip()
        except OSError:
            return os.cpu_count() or 1
    if quota in ("max", "-1"):
        return os.cpu_count() or 1
    return max(1, -(-int(quota) // int(period)))


def get_num_threads() -> int:
    """Number of threads that the CPU kernels may use.

    Returns
    -------
    int
        What `set_num_threads` set; else the environment's ``POLYLOSS_NUM_THREADS``; else the CPUs this process may use, by its affinity
        and its control group's quota. A process forked from one that had OpenMP loaded, as importing polyloss or PyTorch does, computes on
        one thread all the same, since OpenMP's threads do not survive a fork.

    See Also
    --------
    set_num_threads : Set it.
    """
    global _threads  # noqa: PLW0603
    if _threads is None:
        _threads = _default()
    return _threads


def set_num_threads(n: int) -> None:
    """Set the number of threads that the CPU kernels may use; the results do not depend on it, bit for bit.

    Parameters
    ----------
    n : int
        From 1 to 1024.

    Raises
    ------
    TypeError
        If `n` is not an integer.
    ValueError
        If `n` is below 1 or above 1024.

    See Also
    --------
    get_num_threads : Read it.
    """
    global _threads  # noqa: PLW0603
    if isinstance(n, bool) or not hasattr(n, "__index__"):
        raise TypeError(f"n is {n!r}, but must be an integer")
    if not 1 <= n.__index__() <= MOST_THREADS:
        raise ValueError(f"n is {n!r}, but must be from 1 to {MOST_THREADS}")
    _threads = n.__index__()
    for tell in _told:
        tell(_threads)


def follow(tell: Callable[[int], object]) -> None:
    """Tell a function the number of threads, now and whenever it is set: for code that cannot ask, since it must not enter Python."""
    _told.append(tell)
    tell(get_num_threads())
