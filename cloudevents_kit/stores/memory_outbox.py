"""The outbox in the memory of this process: for tests only, since a restart loses what is not sent yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, NoReturn

from cloudevents_kit._clock import Clock, SystemClock
from cloudevents_kit._event import Event


@dataclass(slots=True)
class _Kept:
    event: Event
    key: str | None
    added: float
    due: float
    attempts: int = 0
    token: str = ""


class MemoryOutboxStore:
    """Events that are to be sent, for tests only: a restart forgets them. See `outbox.OutboxStore`."""

    def __init__(self, *, clock: Clock | None = None) -> None:
        """Start empty; ``clock`` is for leases and delays."""
        self._now = (clock or SystemClock()).monotonic
        self._kept: dict[tuple[str, str], _Kept] = {}
        self._leases = count(1)

    def __len__(self) -> int:
        """Return the number of events that are not delivered."""
        return len(self._kept)

    async def add(self, event: Event, /, *, key: str | None) -> None:
        """See `outbox.OutboxStore`."""
        now = self._now()
        self._kept.setdefault(event.key, _Kept(event, key, now, now))

    def insert(self, connection: Any, event: Event, /, *, key: str | None) -> NoReturn:  # noqa: ARG002 - there are none
        """Raise TypeError."""
        raise TypeError("connection: the memory has no transactions (use a store on SQLite or PostgreSQL)")

    async def lease(self, most: int, seconds: float, /) -> Sequence[tuple[str, Event, int]]:
        """See `outbox.OutboxStore`."""
        now = self._now()
        earlier: set[str] = set()
        found: list[tuple[str, Event, int]] = []
        for one in self._kept.values():
            if len(found) >= most:
                break
            if one.key in earlier:
                continue
            if one.due <= now:
                one.due, one.token = now + seconds, str(next(self._leases))
                found.append((one.token, one.event, one.attempts))
            if one.key is not None:
                earlier.add(one.key)
        return found

    async def settle(self, ends: Mapping[str, tuple[int, float] | None], /) -> None:
        """See `outbox.OutboxStore`."""
        now = self._now()
        for key, one in [*self._kept.items()]:
            end = ends.get(one.token, ())
            if end is None:
                del self._kept[key]
            elif end:
                one.token, one.attempts, one.due = "", end[0], now + end[1]

    async def lag(self) -> tuple[int, float]:
        """See `outbox.OutboxStore`."""
        now = self._now()
        return len(self._kept), now - min((one.added for one in self._kept.values()), default=now)
