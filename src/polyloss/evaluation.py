"""Losses over many batches: `Accumulator`, whose sums are exact, and `evaluate`."""

import json
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, Self, TypeAlias, overload

from polyloss import registry
from polyloss._adapters.dask_cluster import Noted, each
from polyloss._core.types import Array, LossAndParameters
from polyloss._evaluation.exact_sums import Tally
from polyloss._evaluation.measure import Measure

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # Python's own has no defaults before 3.13

    F = TypeVar("F", default=Any)
    N = TypeVar("N", default=Any)
else:
    from typing import TypeVar

    F, N = TypeVar("F"), TypeVar("N")

Divisor: TypeAlias = Literal["mean", "sum", "sum_over_batch_size"]
Losses: TypeAlias = LossAndParameters | tuple[LossAndParameters, ...] | Mapping[str, LossAndParameters]
MAGIC = b"polyloss accumulator 1\n"


class Accumulator(Generic[F, N]):
    """Mean of a loss over batches, exact: no split into batches, order or number of processes changes a bit of it.

    The sums behind the mean are integers, to which every position's loss is added without rounding; the mean divides two of them and is
    rounded once, to the nearest float. So it is also the same however batches are merged, on one machine or many.

    Parameters
    ----------
    loss : callable, str, tuple or dict
        A loss of this library, its name, or ``(loss, {parameters})``. Or a dict of name to any of these: all are computed of each batch,
        and results are dicts.
    labels : array, list or column of shape (C,), optional
        All classes, which `log_loss` must know before the first batch. With a dict of losses they go to each `log_loss` in it. The hinges
        have a parameter of this name, too.
    reduction : {"mean", "sum", "sum_over_batch_size"}, default "mean"
        What `result` gives: the sum of w * loss over the sum of w, that sum itself, or it divided by the number of positions, those that do
        not count included. The "mean" of `softmax_loss` is divided as its `normalization` says.
    **parameters
        Of the loss, as for the loss itself; for `softmax_loss` all but `denominator`. Not with a dict of losses, where each has its own.

    Raises
    ------
    ValueError
        If there is no such loss, a parameter is out of range, or `log_loss` comes without `labels`.
    TypeError
        If `loss` is of another type, or has no such parameter.

    See Also
    --------
    evaluate : Losses over an iterable of batches.

    Notes
    -----
    Weight times loss is formed in float64 for each position. A position of weight 0, or whose label is ignored, does not count, NaN
    included; any other NaN makes the result NaN. The state is a few hundred bytes for each loss, whatever has been added.

    Targets of the hinges are 0 and 1, or -1 and 1. With ``labels="auto"`` all targets together decide which, and batches that disagree are
    an error.

    References
    ----------
    .. [Neal2015] Radford M. Neal, "Fast exact summation using small and large superaccumulators", arXiv:1505.05571, 2015.

    Examples
    --------
    >>> import polyloss as pl
    >>> mean = pl.Accumulator("mse")
    >>> mean.update([[0.0], [1.0]], [[1.0], [1.5]]).update([[2.0]], [[2.0]]).result()
    0.4166666666666667
    """

    __slots__ = ("_measures", "_single", "_tallies")

    _measures: dict[str, Measure]
    _tallies: dict[str, Tally]
    _single: bool

    @overload
    def __init__(
        self: "Accumulator[dict[str, float], dict[str, int]]",
        loss: Mapping[str, LossAndParameters],
        *,
        labels: Array | None = None,
        reduction: Divisor = "mean",
    ) -> None: ...
    @overload
    def __init__(
        self: "Accumulator[float, int]",
        loss: LossAndParameters,
        *,
        labels: Array | None = None,
        reduction: Divisor = "mean",
        **parameters: Any,
    ) -> None: ...
    def __init__(self, loss: Any, *, labels: Array | None = None, reduction: Divisor = "mean", **parameters: Any) -> None:
        self._single = not isinstance(loss, Mapping)
        if not isinstance(loss, Mapping):
            own = parameters if labels is None else {**parameters, "labels": labels}
            self._measures = {"": Measure.of(loss, own, reduction)}
        else:
            if parameters:
                raise TypeError(f"{min(parameters)} is given beside a dict of losses: write (loss, {{{min(parameters)!r}: …}}) in it")
            self._measures = _several(loss, labels, reduction)
        self._tallies = dict.fromkeys(self._measures, Tally())

    # ------------------------------------------------------------------------------------------------------------ adding

    def update(self, y_true: Array, y_pred: Array, sample_weight: Array | None = None) -> Self:
        """Add a batch.

        Parameters
        ----------
        y_true, y_pred : array
            As for the loss, of any array library. No graph of derivatives is kept.
        sample_weight : array, optional
            Weights, shaped as for the loss, of any array library: finite and not negative, though a loss by itself takes any number.

        Returns
        -------
        Accumulator
            This one.

        Raises
        ------
        ValueError, TypeError
            As the loss does, or if a weight is negative, NaN or infinite. Then nothing has been added.
        """
        tallies = {}
        for key, measure in self._measures.items():
            tallies[key] = measure.check(self._tallies[key] + measure.tally(y_true, y_pred, sample_weight))
        self._tallies = tallies
        return self

    def merge(self, other: "Accumulator[F, N]") -> Self:
        """Add what another accumulator of the same losses has.

        Parameters
        ----------
        other : Accumulator
            It stays as it is.

        Returns
        -------
        Accumulator
            This one.

        Raises
        ------
        ValueError
            If the other has other losses, or other parameters.
        TypeError
            If it is no accumulator.
        """
        if not isinstance(other, Accumulator):
            raise TypeError(f"other is {other!r}, but must be an Accumulator")
        if self._single != other._single or self._measures != other._measures:
            raise ValueError(f"other is of {other._losses()}, but this accumulator is of {self._losses()}")
        self._tallies = {key: m.check(self._tallies[key] + other._tallies[key]) for key, m in self._measures.items()}
        return self

    def all_reduce(self, group: Any = None) -> Self:
        """Add what the accumulators of all processes have, in every one of them, by torch.distributed.

        Parameters
        ----------
        group : torch.distributed.ProcessGroup, optional
            The processes, each of which calls this once; all of them by default.

        Returns
        -------
        Accumulator
            This one, which now has the sums of all.

        Raises
        ------
        ValueError
            If the processes have other losses or parameters, in each of them.
        RuntimeError
            If there is no process group.
        """
        from polyloss._adapters import torch_processes as _processes

        losses = json.dumps([[key, m.name, m.parameters, m.divisor] for key, m in self._measures.items()])
        if not _processes.alike(zlib.crc32(losses.encode()) >> 8, group):
            raise ValueError(f"the processes have accumulators of different losses; this one is of {self._losses()}")
        counts = [tally.numbers() for tally in self._tallies.values()]
        totals = iter(_processes.summed([n for numbers in counts for n in numbers], group))
        tallies = [Tally() + Tally.of(next(totals) for _ in numbers) for numbers in counts]
        self._tallies = {key: m.check(tally) for (key, m), tally in zip(self._measures.items(), tallies, strict=True)}
        return self

    # ----------------------------------------------------------------------------------------------------------- results

    def result(self) -> F:
        """The mean so far, or what `reduction` says.

        Returns
        -------
        float or dict of str to float
            A Python float; NaN before any data, 0 if no position counted.
        """
        return self._each(lambda measure, tally: measure.result(tally))

    def standard_error(self) -> F:
        """Standard error of the result, with positions as independent draws.

        Returns
        -------
        float or dict of str to float
            ``sqrt(n / (n - 1) * sum(w**2 * (loss - m)**2)) / sum(w)``, m the mean and n the number of positions that count; NaN if these
            are fewer than two. Where the reduction divides by something else than the sum of weights, so does this. The bootstrap gives
            the same. Squares are rounded to float64 before they are summed, an error of about 1e-16 times (mean / deviation) squared.
        """
        return self._each(lambda measure, tally: measure.standard_error(tally))

    @property
    def count(self) -> N:
        """Number of positions that count: neither ignored nor of weight 0."""
        return self._each(lambda _, tally: tally.count)

    @property
    def weight(self) -> F:
        """Sum of their weights; class weights and soft targets have a share where the mean divides by it."""
        return self._each(lambda _, tally: float(tally.v))

    @property
    def total(self) -> F:
        """Sum of weight times loss."""
        return self._each(lambda _, tally: float(tally.x))

    def _each(self, of: Any) -> Any:
        found = {key: of(measure, self._tallies[key]) for key, measure in self._measures.items()}
        return found[""] if self._single else found

    # ------------------------------------------------------------------------------------------------------------- state

    def to_bytes(self) -> bytes:
        """The accumulator as bytes, without pickle.

        Returns
        -------
        bytes
            Losses, parameters and sums; the same for equal accumulators, however their data were split.
        """
        losses = [
            [key, measure.name, measure.parameters, measure.divisor, [_written(n) for n in self._tallies[key].numbers()]]
            for key, measure in self._measures.items()
        ]
        text = json.dumps([self._single, losses], separators=(",", ":")).encode()
        return MAGIC + zlib.crc32(text).to_bytes(4, "big") + text

    @classmethod
    def from_bytes(cls, data: bytes) -> "Accumulator":
        """The accumulator that `to_bytes` made bytes of.

        Parameters
        ----------
        data : bytes
            All of them, and no more.

        Returns
        -------
        Accumulator
            A new one.

        Raises
        ------
        ValueError
            If the bytes are another thing's, cut, appended to or changed.
        TypeError
            If they are no bytes.
        """
        data = bytes(memoryview(data))
        head, text = len(MAGIC) + 4, data[len(MAGIC) + 4 :]
        if data[: len(MAGIC)] != MAGIC:
            raise ValueError(f"data begins with {data[:24]!r}, but an accumulator's bytes with {MAGIC!r}")
        if data[len(MAGIC) : head] != zlib.crc32(text).to_bytes(4, "big"):
            raise ValueError(f"data has {len(data)} bytes that do not fit their checksum: it is cut, appended to or changed")
        made = cls.__new__(cls)
        made._single, losses = json.loads(text)
        made._measures = {key: Measure(*measure) for key, *measure, _ in losses}
        made._tallies = {key: Tally.of(map(_read, numbers)) for key, *_, numbers in losses}
        return made

    def __reduce__(self) -> tuple[Callable[[bytes], "Accumulator"], tuple[bytes]]:
        return type(self).from_bytes, (self.to_bytes(),)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Accumulator):
            return NotImplemented
        return (self._single, self._measures, self._tallies) == (other._single, other._measures, other._tallies)

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return f"<Accumulator of {self._losses()}: {self.result()} of {self.count}>"

    def _losses(self) -> str:
        words = {key: repr(measure) for key, measure in self._measures.items()}
        return words[""] if self._single else ", ".join(f"{key}={word}" for key, word in words.items())


def _written(n: int) -> str:
    """An integer in hexadecimal digits; zeros at its end, of which sums have hundreds, are counted: "1e4 246"."""
    digits = format(n, "x")
    short = digits.rstrip("0")
    return f"{short} {len(digits) - len(short)}" if short not in ("", digits) else digits


def _read(text: str) -> int:
    digits, _, zeros = text.partition(" ")
    return int(digits, 16) << 4 * int(zeros or "0")


def _several(losses: Mapping[str, Any], labels: Any, reduction: str) -> dict[str, Measure]:
    """The measures of a dict of losses."""
    if not losses:
        raise ValueError("loss is an empty dict, but must hold losses")
    measures, used = {}, labels is None
    for key, loss in losses.items():
        if not isinstance(key, str):
            raise TypeError(f"loss has the key {key!r}, but its keys must be strings")
        takes = labels is not None and _is_log_loss(loss[0] if isinstance(loss, (tuple, list)) and loss else loss)
        used = used or takes
        measures[key] = Measure.of(loss, {"labels": labels} if takes else {}, reduction)
    if not used:
        raise TypeError("labels is given, but none of the losses is log_loss")
    return measures


def _is_log_loss(loss: Any) -> bool:
    function = registry.get(loss) if isinstance(loss, str) or callable(loss) else None
    return getattr(function, "function", function) is registry.get("log_loss")


# ------------------------------------------------------------------------------------------------------------------ evaluate


class Indexed(Protocol):
    """A dataset that is asked by index, as Keras' PyDataset."""

    def __getitem__(self, index: int, /) -> Any: ...


def evaluate(losses: Losses, batches: Iterable[Any] | Indexed, *, progress: bool = False, client: Any = None) -> dict[str, float]:
    """Mean of each loss over all batches, exact, in one visit to each.

    Parameters
    ----------
    losses : callable, str, tuple, list or dict
        A loss of this library, its name, or ``(loss, {parameters})``; a list of these, or a dict of name to one of them. `log_loss` needs
        its ``labels`` among the parameters.
    batches : iterable
        Of ``(y_true, y_pred)`` or ``(y_true, y_pred, sample_weight)``, or of functions without arguments that return such a batch: a
        list, a generator, a DataLoader; or a dataset that is asked by index, as Keras' PyDataset, which is never asked beyond its length.
    progress : bool, default False
        Whether to count the batches on stderr.
    client : distributed.Client, optional
        Each batch then is one task of this cluster, which returns some hundred bytes; a function that opens the batch is called there. It
        must be picklable. Batches go out as workers become free, and a worker that dies costs time alone.

    Returns
    -------
    dict of str to float
        For each loss, under its canonical name or its key in the dict, what `Accumulator.result` gives: the same whatever the batches and
        wherever they are evaluated.

    Raises
    ------
    ValueError, TypeError
        As `Accumulator` and its ``update`` do; a note of the error says which batch it was.

    See Also
    --------
    Accumulator : Standard errors, merging, and batches that come one at a time.

    Examples
    --------
    >>> import polyloss as pl
    >>> batches = [([[0.0], [1.0]], [[1.0], [1.5]]), ([[2.0]], [[2.0]])]
    >>> pl.evaluate(["mse", "huber"], batches)
    {'mean_squared_error': 0.4166666666666667, 'huber': 0.20833333333333334}
    """
    if client is not None and not (hasattr(client, "map") and hasattr(client, "gather")):
        raise TypeError(f"client is {client!r}, but must be a distributed.Client")
    mean = Accumulator(_named(losses))
    turns, total = _in_turn(batches)
    done = _here(mean, turns) if client is None else _on_cluster(mean, turns, client)
    for k in done if not progress else _counted(done, total):
        del k
    return mean.result()


def _named(losses: Any) -> dict[str, Any]:
    """A dict of losses."""
    if isinstance(losses, Mapping):
        return dict(losses)
    several = losses if isinstance(losses, list) or (isinstance(losses, tuple) and not _is_spec(losses)) else [losses]
    if not several:
        raise ValueError(f"losses is {losses!r}, but must hold a loss or several")
    named: dict[str, Any] = {}
    for loss in several:
        name = registry.get(loss[0] if isinstance(loss, (tuple, list)) and loss else loss).__name__
        if name in named:
            raise ValueError(f"losses has {name} twice: a dict gives them names")
        named[name] = loss
    return named


def _is_spec(losses: tuple[Any, ...]) -> bool:
    return len(losses) == 2 and isinstance(losses[1], Mapping)


def _in_turn(batches: Any) -> tuple[Iterable[Any], int | None]:
    """The batches as an iterable that ends, and how many there are, if that is known."""
    if hasattr(batches, "__getitem__") and (hasattr(batches, "num_batches") or not hasattr(batches, "__iter__")):
        total = batches.num_batches if hasattr(batches, "num_batches") else len(batches)
        if total is None:
            raise ValueError("batches has no end: its num_batches is None")
        return map(batches.__getitem__, range(total)), total
    if not isinstance(batches, Iterable):
        raise TypeError(f"batches is {batches!r}, but must be an iterable of (y_true, y_pred) or (y_true, y_pred, sample_weight)")
    try:
        return batches, len(batches)  # type: ignore[arg-type]
    except TypeError:
        return batches, None


def _opened(batch: Any) -> tuple[Any, ...]:
    """A batch's two or three arrays."""
    if callable(batch):
        batch = batch()
    if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
        many = f" of {len(batch)}" if isinstance(batch, (tuple, list)) else ""
        raise TypeError(f"a batch is a {type(batch).__name__}{many}, but must be (y_true, y_pred) or (y_true, y_pred, sample_weight)")
    return tuple(batch)


def _here(mean: Accumulator, batches: Iterable[Any]) -> Iterator[int]:
    for k, batch in enumerate(batches):
        with Noted(f"in batch {k}"):
            mean.update(*_opened(batch))
        yield k


def _on_cluster(mean: Accumulator, batches: Iterable[Any], client: Any) -> Iterator[int]:
    """Each batch as a task. Workers have many ahead if batches are opened there, else few, since all lie in memory here."""
    score = partial(_score, Accumulator.from_bytes(mean.to_bytes()).to_bytes())
    for k, found in each(score, batches, client, lambda batch: 64 if callable(batch) else 2, "batch"):
        with Noted(f"in batch {k}"):
            mean.merge(Accumulator.from_bytes(found))
        yield k


def _score(empty: bytes, batch: Any) -> bytes:
    """A task: the sums of one batch."""
    return Accumulator.from_bytes(empty).update(*_opened(batch)).to_bytes()


def _counted(done: Iterator[int], total: int | None) -> Iterator[int]:
    """The batches as they are done, with a line on stderr that is written over at most ten times a second."""
    start = last = time.monotonic()
    count = 0
    for count, k in enumerate(done, 1):
        if time.monotonic() - last > 0.1 or count == total:
            last = time.monotonic()
            sys.stderr.write(f"\r{count}{'' if total is None else f' of {total}'} batches, {last - start:.1f} s")
            sys.stderr.flush()
        yield k
    if count:
        sys.stderr.write(f"\r{count} batches, {time.monotonic() - start:.1f} s{' ' * 12}\n")
