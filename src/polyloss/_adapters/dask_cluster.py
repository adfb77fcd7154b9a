"""Tasks on a cluster of dask.distributed. Each opens its data itself or carries them, and returns some hundred bytes."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

PATIENCE = 3  # seconds for a scheduler to answer


def client_of(address: str) -> Any:
    """A client of the scheduler at this address; ConnectionError with the reason within seconds if none answers.

    `Client` waits without end for the first answer of a server that accepts connections, and whatever else is served there may answer
    anything, so the greeting is tried alone before, with a limit of time.
    """
    import asyncio  # which brings sockets and ssl: 20 ms of the start of every program

    from distributed import Client
    from distributed.comm import connect
    from distributed.security import Security

    async def greeting() -> None:
        secured = Security().get_connection_args("client")
        comm = await asyncio.wait_for(connect(address, timeout=PATIENCE, **secured), PATIENCE + 1)
        comm.abort()

    try:
        asyncio.run(greeting())
        return Client(address, timeout=f"{PATIENCE}s")
    except Exception as error:
        told = isinstance(error, (OSError, ValueError)) and str(error).strip()
        raise ConnectionError(told.splitlines()[0] if told else "no Dask scheduler answers there") from error


class Noted:
    """Errors in this block get a note."""

    def __init__(self, note: str) -> None:
        self.note = note

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, where: Any) -> None:
        if error is not None:
            error.add_note(self.note)


def each(function: Callable[[Any], Any], items: Iterable[Any], client: Any, ahead: Callable[[Any], int], word: str) -> Iterator[Any]:
    """The place of each item and what a function gives for it on the cluster, in any order.

    Workers have tasks to go on with: `ahead` says how many for each thread, if they are like this item. Results are fetched together as
    far as they are there; one by one they would take a message to each side. A worker that dies costs time alone. Errors say in a note
    which item it was.
    """
    from dask import config
    from distributed import as_completed

    threads = max(1, sum(client.nthreads().values()))
    waiting, remaining, enough = as_completed(raise_errors=False), enumerate(items), 0
    places: dict[Any, int] = {}  # of the tasks on their way
    try:
        while True:
            if len(places) <= enough // 2:
                new, ready = [], []
                for k, item in remaining:
                    new.append(k)
                    ready.append(item)
                    enough = threads * ahead(item)
                    if len(places) + len(ready) >= enough:
                        break
                if ready:  # else a message to the scheduler goes out for nothing
                    # An item is part of its task, so that it can run again elsewhere; Dask would warn of 10 MB.
                    with config.set({"distributed.admin.large-graph-warning-threshold": "1 TB"}):
                        futures = client.map(function, ready, pure=False, retries=3)
                    places.update(zip(futures, new, strict=True))
                    waiting.update(futures)
            if not places:
                return
            done = waiting.next_batch()
            for future in done:
                if future.status != "finished":
                    with Noted(f"in {word} {places[future]}"):
                        future.result()
            yield from [(places.pop(future), found) for future, found in zip(done, client.gather(done), strict=True)]
    finally:
        client.cancel(list(places))
