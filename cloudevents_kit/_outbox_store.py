"""Where an outbox keeps its events; see `outbox`. An event is leased to one relay at a time.

A relay that dies lets its leases expire, and the events are leased again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol, TypeVar

from cloudevents_kit._event import Event

T = TypeVar("T")


class Lag(NamedTuple):
    """How far sending is behind."""

    waiting: int
    """Events that are stored and not delivered, without those for later."""
    oldest: float
    """Seconds since the first of them was added, or was to be sent; 0.0 if there is none."""
    scheduled: int = 0
    """Events that are for later."""


class OutboxStore(Protocol):
    """Keeps events until they are delivered. Each method is atomic, among all processes that use the store."""

    async def add(self, event: Event, /, *, key: str | None, due: datetime | float = 0.0) -> None:
        """Store ``event`` where a crash cannot lose it; one with the same (source, id) counts as this one.

        It is not due before ``due``, by the clock of the store: a moment, or in so many seconds.
        """
        ...

    def insert(self, connection: Any, event: Event, /, *, key: str | None, due: datetime | float = 0.0) -> None:
        """Do what `add` does within the transaction of ``connection``, a synchronous one, or its session."""
        ...

    async def cancel(self, source: str, id: str, /) -> bool:
        """Remove an event; return False if there is none, or if it was leased and nobody has told how that ended."""
        ...

    async def lease(self, most: int, seconds: float, /) -> Sequence[tuple[str, Event, int, str | None]]:
        """Return events that are due, the first ``most`` of them, for ``seconds``; after that they are due again.

        Before each comes a token of this lease; after it, how many attempts have failed, and its key. Not due are
        events that are leased or wait for their time or next attempt, and those with a key of which an earlier event
        is there and not returned along with them, before them.
        """
        ...

    async def settle(self, ends: Mapping[str, tuple[int, float] | None], /) -> None:
        """Say, by token, how attempts ended: None removes the event, whoever has it now.

        Otherwise it has so many failed attempts and is due in so many seconds, if the lease is not void.
        """
        ...

    async def lag(self) -> Lag:
        """Return how many events there are, and for how long."""
        ...

    async def clear(self) -> int:
        """Remove every event that is there now, whoever has leased it and whether or not it can be read.

        Return how many.
        """
        ...


async def within(connection: Any, work: Callable[[Any], T]) -> T:
    """Do ``work``, which inserts, with the synchronous side of ``connection``. Raises TypeError for one without."""
    run = getattr(connection, "run_sync", None)
    if run is None:
        raise TypeError(
            f"connection: must be an AsyncConnection or AsyncSession, not {type(connection).__name__} "
            "(use add_sync for one that is not async)"
        )
    return await run(work)  # type: ignore[no-any-return]
