"""What numbers a loss takes. Others make a file bad, and of those that look like something else a warning is given; alike for all files."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from polyloss._command.scoring import Loss

CLASSES = ("shares", "probabilities")
PIECE = 1 << 18  # bytes that are looked at together, several times, while they are in the cache
LONG = 64  # entries of a row that may be added in float32
VERY_LONG = 1 << 15  # entries of a row that is added pairwise: one by one in 16 lanes, 2048 roundings of 6e-8 stay below sqrt(eps), 3.5e-4
BITS: dict[Any, type[np.unsignedinteger[Any]]] = {np.dtype(np.float32): np.uint32, np.dtype(np.float64): np.uint64}
FEW = 8  # rows that mostly tell whether numbers are logits
SIGNS = {  # that targets of a hinge may be, by its parameter `labels`, and in words
    "auto": ((-1.0, 0.0, 1.0), "0 and 1 or -1 and 1"),
    "01": ((0.0, 1.0), "0 and 1"),
    "pm1": ((-1.0, 1.0), "-1 and 1"),
}


@dataclass(frozen=True)
class Fault:
    """A number that a loss doesn't take."""

    at: tuple[int, ...]  # its place
    value: float
    rule: str
    of_row: bool = False  # whether the value is the sum of a row


@dataclass
class Watch:
    """What was seen of predictions that must be of one kind, or look like another."""

    kind: str  # of the predictions, as a loss takes them
    axis: int = -1  # of the classes
    losses: list[str] = field(default_factory=list)
    whole: list[str] = field(default_factory=list)  # those of the losses that divide no row by its sum
    rescaled: bool = True  # whether all of them are log_loss that divides rows
    named: bool = False  # whether rules name the losses, since there are others
    off: float = 0.0  # by how much a row's sum differs from 1, at most
    place: Any = None  # where
    alike: bool = True  # whether every row so far lies in [0, 1] and adds up to 1

    def see(self, p: np.ndarray, place: Callable[[tuple[int, ...]], Any]) -> Fault | None:
        """Look at some predictions; `place` says what is kept of the place of a row."""
        if not p.size:
            return None
        if self.kind == "logits":
            self.alike = self.alike and all(_like_probabilities(piece, self.axis) for piece in _growing(p))
            return None
        high = math.inf if self.rescaled else 1.0
        for start, piece in _pieces(p):
            if not _within(piece, high):
                outside = np.argwhere((piece < 0) | (piece > high))
                if len(outside):
                    at, value = tuple(map(int, outside[0])), float(piece[tuple(outside[0])])
                    rule = "probabilities are not negative" if self.rescaled else "probabilities lie in [0, 1]"
                    rule += f", and {' and '.join(self.losses)} takes nothing else" if self.named else ""
                    return Fault((at[0] + start, *at[1:]), value, rule)
            if self.kind in CLASSES:
                fault = self._see_sums(_sums(piece, self.axis), start, place)
                if fault:
                    return fault
        return None

    def _see_sums(self, sums: np.ndarray, start: int, place: Callable[[tuple[int, ...]], Any]) -> Fault | None:
        if self.rescaled and not (sums.min() > 0 and sums.max() < math.inf):
            bad = np.argwhere((sums <= 0) | np.isinf(sums))
            if len(bad):
                at = tuple(map(int, bad[0]))
                return Fault((at[0] + start, *at[1:]), float(sums[at]), "cannot be divided by it", of_row=True)
        far = np.abs(sums - 1)
        if not far.max() <= self.off:
            far = np.nan_to_num(far, nan=0.0)
            if far.max() > self.off:
                at = tuple(map(int, np.unravel_index(far.argmax(), far.shape)))
                self.off, self.place = float(far[at]), place((at[0] + start, *at[1:]))
        return None

    def add(self, other: "Watch") -> None:
        """What was seen elsewhere of the same file."""
        if other.off > self.off:
            self.off, self.place = other.off, other.place
        self.alike = self.alike and other.alike

    def warning(self, tolerance: float, shown: Callable[[Any], str], advice: str) -> str | None:
        """What is said of the predictions, if they look odd. `advice`: how rows are divided by their sums."""
        if self.kind == "logits":
            return f"every row adds up to 1: {self.losses[0]} takes logits, and these look like probabilities" if self.alike else None
        if self.off <= tolerance:
            return None
        if not self.whole:
            done = "each row is divided by its sum"
        else:
            names = " and ".join(self.whole)
            done = f"{names} {'takes' if len(self.whole) == 1 else 'take'} them as they are"
            done += f"; {advice}" if "log_loss" in self.whole else ""
        return f"probabilities {shown(self.place)} add up to 1 within {self.off:.2g} only: {done}"


def watches(losses: Iterable[Loss], shape: tuple[int, ...]) -> list[Watch]:
    """What must be watched in predictions of this shape, whose first axis may be of any length."""
    made: dict[tuple[str, int], Watch] = {}
    losses = list(losses)
    for loss in losses:
        kind, axis = loss.takes, loss.axis
        if kind == "numbers":
            continue
        classes = isinstance(axis, int) and -len(shape) <= axis < len(shape) and axis % len(shape) > 0 and shape[axis] > 1
        if kind == "probability" or not classes:
            if kind == "logits":
                continue
            kind, axis = "probability", -1
        key = ("classes" if kind in CLASSES else kind, axis % len(shape))
        watch = made.setdefault(key, Watch(kind, axis % len(shape), named=len(losses) > 1))
        watch.losses.append(loss.name)
        if loss.takes == "probabilities":
            watch.whole.append(loss.name)
        watch.rescaled = watch.rescaled and kind in CLASSES and loss.name == "log_loss" and loss.takes == "shares"
    return list(made.values())


def tolerance(dtype: Any) -> float:
    """By how much the sum of a row may differ from 1, in a file of numbers of this dtype."""
    eps = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23}.get(np.dtype(dtype).name, 2.0**-52)
    return math.sqrt(eps)


def bad_target(loss: Loss, y: np.ndarray, labelled: bool = False) -> Fault | None:
    """The first target that a loss doesn't take: of the hinges other than 0 and 1 or -1 and 1, of probabilities outside [0, 1]."""
    if loss.signs is not None:
        allowed, words = SIGNS[loss.signs]
        bad = ~np.isin(y, allowed)
        rule = f"targets of {loss.name} are {words}"
    elif not labelled and loss.takes in (*CLASSES, "probability"):
        bad = ~((y >= 0) & (y <= 1))
        rule = f"targets of {loss.name} lie in [0, 1]"
    else:
        return None
    if bad.any():
        bad &= ~np.isnan(y) if y.dtype.kind == "f" else True
        if bad.any():
            at = tuple(map(int, np.argwhere(bad)[0]))
            return Fault(at, y[at].item(), rule)
    return None


def said(fault: Fault, place: str) -> str:
    """A fault in words."""
    if fault.of_row:
        return f"the row {place} adds up to {fault.value}, and {fault.rule}"
    return f"{place} is {fault.value}, but {fault.rule}"


def _pieces(p: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    rows = max(1, PIECE * len(p) // max(p.nbytes, 1))
    return ((start, p[start : start + rows]) for start in range(0, len(p), rows))


def _growing(p: np.ndarray) -> Iterator[np.ndarray]:
    """A few rows, then all."""
    yield p[:FEW]
    yield from (piece for _, piece in _pieces(p[FEW:]))


def _within(p: np.ndarray, high: float) -> bool:
    """Whether all numbers lie in [0, high]; NaN does not."""
    if p.dtype in BITS and p.flags.c_contiguous:
        # One pass for two: as bits, numbers without a sign are ordered as they are, and NaN is above infinity.
        bits = BITS[p.dtype]
        if p.view(bits).max() <= np.array(high, p.dtype).view(bits):
            return True  # else -0.0 may be among them
    return bool(p.min() >= 0 and p.max() <= high)


def _sums(p: np.ndarray, axis: int) -> np.ndarray:
    if p.ndim == 2 and axis == 1 and p.shape[1] < LONG:
        return np.einsum("ij->i", p, dtype=np.float64)  # a fifth of the time of np.sum along rows of ten
    if p.ndim == 2 and axis == 1 and p.dtype == np.float32 and p.shape[1] <= VERY_LONG:
        return np.einsum("ij->i", p)  # a quarter less time than np.sum along rows of a thousand
    # In float32 a third of the time that float64 takes, and pairs are added, so that no digit is lost that a tolerance asks for.
    return np.asarray(np.sum(p, axis=axis, dtype=np.float32 if p.dtype in (np.float16, np.float32) else np.float64))


def _like_probabilities(p: np.ndarray, axis: int) -> bool:
    """Whether every row lies in [0, 1] and adds up to 1, as far as digits of a text tell; NaN does not."""
    return bool(_within(p, 1.0) and np.abs(_sums(p, axis) - 1).max() <= 1e-3)
