"""Where a queue keeps its events. An event is leased to one worker at a time.

A worker that dies lets its lease expire, and the event is leased again.
"""

from __future__ import annotations

from typing import Protocol

from cloudevents_kit._event import Event


class QueueStore(Protocol):
    """Keeps events until they are done. Every method is atomic, among all processes that use the store."""

    async def put(self, event: Event, /, *, key: str | None, capacity: int) -> bool:
        """Store ``event`` where a crash cannot lose it; return False if ``capacity`` events are stored already.

        An event with the same (source, id) that is still to be done counts as this one; one that is parked is to be
        done again, with no attempts.
        """
        ...

    async def lease(self, seconds: float, /) -> tuple[str, Event, int] | None:
        """Return the first event that is due, for ``seconds``; None if there is none.

        Before it comes a token that names this lease, which a later one makes void; after it, how often the event has
        been leased, this time included.

        Not due are events that are leased, wait for their next attempt or are parked, and those with a key of which
        an earlier event is still to be done.
        """
        ...

    async def ack(self, token: str, /) -> bool:
        """Remove an event that was done; return False if the lease was void."""
        ...

    async def nack(self, token: str, /, *, delay: float | None, attempted: bool = True) -> bool:
        """Let an event be due again in ``delay`` seconds, or park it if that is None; return False if it was void.

        If it was not ``attempted``, this time does not count.
        """
        ...

    async def extend(self, token: str, seconds: float, /) -> bool:
        """Let a lease end in ``seconds`` from now; return False if it was void."""
        ...
