"""The outbox in the memory of this process: for tests only, since a restart loses what is not sent yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from typing import Any, NoReturn

from cloudevents_kit._clock import Clock, SystemClock
from cloudevents_kit._event import Event
from cloudevents_kit._outbox_store import Lag


@dataclass(slots=True)
class _Kept:
    event: Event
    key: str | None
    since: float
    """When it was, or will be, due for the first time."""
    due: float
    attempts: int = 0
    token: str = ""


class MemoryOutboxStore:
    """Events that are to be sent, for tests only: a restart forgets them. See `outbox.OutboxStore`."""

    def __init__(self, *, clock: Clock | None = None) -> None:
        """Start empty; ``clock`` is for leases and delays."""
        self._clock = clock or SystemClock()
        self._now = self._clock.monotonic
        self._kept: dict[tuple[str, str], _Kept] = {}
        self._leases = count(1)

    def __len__(self) -> int:
        """Return the number of events that are not delivered."""
        return len(self._kept)

    async def add(self, event: Event, /, *, key: str | None, due: datetime | float = 0.0) -> None:
        """See `outbox.OutboxStore`."""
        seconds = (due - self._clock.now()).total_seconds() if isinstance(due, datetime) else due
        since = self._now() + max(0.0, seconds)
        self._kept.setdefault(event.key, _Kept(event, key, since, since))

    def insert(self, connection: Any, event: Event, /, *, key: str | None, due: datetime | float = 0.0) -> NoReturn:  # noqa: ARG002 - there are none
        """Raise TypeError."""
        raise TypeError("connection: the memory has no transactions (use a store on SQLite or PostgreSQL)")

    async def cancel(self, source: str, id: str, /) -> bool:
        """See `outbox.OutboxStore`."""
        found = self._kept.get((source, id))
        if found is None or found.token:
            return False
        del self._kept[source, id]
        return True

    async def lease(self, most: int, seconds: float, /) -> Sequence[tuple[str, Event, int, str | None]]:
        """See `outbox.OutboxStore`."""
        now = self._now()
        held_up: set[str] = set()
        found: list[tuple[str, Event, int, str | None]] = []
        for one in self._kept.values():
            if len(found) >= most:
                break
            if one.due <= now and one.key not in held_up:
                one.due, one.token = now + seconds, str(next(self._leases))
                found.append((one.token, one.event, one.attempts, one.key))
            elif one.key is not None:
                held_up.add(one.key)
        return found

    async def settle(self, ends: Mapping[str, tuple[int, float] | None], /) -> None:
        """See `outbox.OutboxStore`."""
        now = self._now()
        for key, one in [*self._kept.items()]:
            end = ends.get(one.token, ())
            if end is None:
                del self._kept[key]
            elif end:
                if end[0] > one.attempts and one.key is None:
                    self._kept[key] = self._kept.pop(key)  # behind those that have not failed
                one.token, one.attempts, one.due = "", end[0], now + end[1]

    async def lag(self) -> Lag:
        """See `outbox.OutboxStore`."""
        now = self._now()
        late = [one.since for one in self._kept.values() if one.since <= now]
        return Lag(len(late), now - min(late, default=now), len(self._kept) - len(late))

    async def clear(self) -> int:
        """See `outbox.OutboxStore`."""
        count = len(self._kept)
        self._kept.clear()
        return count
