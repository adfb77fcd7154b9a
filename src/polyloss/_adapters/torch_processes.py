"""Sums over the processes of torch.distributed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import distributed

LIMBS = 68  # of 32 bits each: more than the sum of 2**70 doubles in units of 2**-1075
MASK = (1 << 32) - 1


def summed(integers: Sequence[int], group: Any) -> list[int]:
    """The sum over all processes of each of some integers of any size, by one SUM of int64."""
    limbs = np.array([[n >> 32 * k & MASK for k in range(LIMBS - 1)] + [n >> 32 * (LIMBS - 1)] for n in integers], np.int64)
    totals = _all_reduced(limbs, group)
    return [sum(int(limb) << 32 * k for k, limb in enumerate(row)) for row in totals]


def alike(fingerprint: int, group: Any) -> bool:
    """Whether an integer below 2**24 is the same in all processes: n Σh² = (Σh)² holds of equal numbers alone."""
    n, h, squares = _all_reduced(np.array([1, fingerprint, fingerprint**2]), group).tolist()
    return bool(n * squares == h * h)


def gathered(numbers: Sequence[float], group: Any) -> list[list[float]]:
    """The numbers of all processes, as many from each, by rank."""
    mine = _tensor(np.array(numbers, np.float64), group)
    theirs = mine.new_empty(distributed.get_world_size(group) * len(mine))
    gather = getattr(distributed, "all_gather_single", None) or distributed.all_gather_into_tensor  # its name before torch 2.13
    gather(theirs, mine, group=group)
    return theirs.reshape(-1, len(mine)).tolist()


def _all_reduced(numbers: np.ndarray, group: Any) -> np.ndarray:
    tensor = _tensor(numbers, group)
    distributed.all_reduce(tensor, group=group)
    return tensor.cpu().numpy()


def _tensor(numbers: np.ndarray, group: Any) -> torch.Tensor:
    """Numbers where the group's collectives take them."""
    if not distributed.is_initialized():
        raise RuntimeError("torch.distributed has no process group: call torch.distributed.init_process_group first")
    return torch.from_numpy(numbers).to("cuda" if distributed.get_backend(group) == "nccl" else "cpu")
