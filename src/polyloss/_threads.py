"""How many threads the CPU kernels may use."""

import os

_threads = None


def _default():
    given = os.environ.get("POLYLOSS_NUM_THREADS", "").strip()
    if given:
        try:
            n = int(given)
        except ValueError:
            n = 0
        if n < 1:
            raise ValueError(f"POLYLOSS_NUM_THREADS is {given!r}, but must be a whole number of at least 1")
        return n
    return min(_affinity(), _quota())


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


def get_num_threads():
    """Number of threads that the CPU kernels may use.

    Returns
    -------
    int
        What `set_num_threads` set; else the environment's ``POLYLOSS_NUM_THREADS``; else the CPUs this process may use, by its affinity
        and its control group's quota.

    See Also
    --------
    set_num_threads : Set it.
    """
    global _threads  # noqa: PLW0603
    if _threads is None:
        _threads = _default()
    return _threads


def set_num_threads(n):
    """Set the number of threads that the CPU kernels may use; the results do not depend on it, bit for bit.

    Parameters
    ----------
    n : int
        At least 1.

    Raises
    ------
    TypeError
        If `n` is not an integer.
    ValueError
        If `n` is below 1.

    See Also
    --------
    get_num_threads : Read it.
    """
    global _threads  # noqa: PLW0603
    if isinstance(n, bool) or not hasattr(n, "__index__"):
        raise TypeError(f"n is {n!r}, but must be an integer")
    if n.__index__() < 1:
        raise ValueError(f"n is {n!r}, but must be at least 1")
    _threads = n.__index__()
