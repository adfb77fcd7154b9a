"""Memory for large results, used again.

A training step returns a gradient of the same size each time, and the one before is gone by then. New memory costs more than what is
written there: the system maps and clears pages, 131 MB of them in 8 ms where writing takes 4 (and 40 ms in pages of 4 KB). So the memory of
the last large result that nobody holds any more is kept, one at most. Until then its pages are the system's to take (MADV_FREE).
"""

import math
import mmap
import weakref

import numpy as np

FROM = 1 << 25  # bytes; below, malloc keeps what is freed, and more than one: two gradients of 16 MB in turns would take twice as long

_kept: list[mmap.mmap] = []


def empty(shape, dtype):
    """A new array, from the beginning of a page on where it is large; its contents are arbitrary."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size < FROM or not hasattr(mmap, "MADV_FREE") or not hasattr(mmap, "MADV_HUGEPAGE"):
        return np.empty(shape, dtype)
    room = _room(size)
    owner = np.frombuffer(room, np.uint8)  # every view of it keeps it alive
    weakref.finalize(owner, _keep, room).atexit = False
    return owner[:size].view(dtype).reshape(shape)


def _room(size):
    """The memory that is kept, if it is large enough but not twice that; it is given back to the system if not."""
    try:
        room = _kept.pop()
    except IndexError:
        room = None
    if room is None or not size <= len(room) < 2 * size:
        del room
        room = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        room.madvise(mmap.MADV_HUGEPAGE)
    return room


def _keep(room):
    room.madvise(mmap.MADV_FREE)  # first: in the list it may be taken by another thread at once
    _kept[:] = [room]
