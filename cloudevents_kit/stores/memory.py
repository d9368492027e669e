"""Stores in the memory of this process: they forget everything at a restart, and no other process sees them.

Right for tests, and where the senders' own repetitions (seconds to minutes) are all there is to catch. Use each from
one event loop only.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count, islice

from cloudevents_kit._arguments import check_count
from cloudevents_kit._clock import Clock, SystemClock
from cloudevents_kit._event import Event


class MemoryDedupeStore:
    """Which events are being handled, and which are done; forgotten at a restart.

    Holds at most ``max_entries`` finished keys, with stored outcomes of at most ``max_bytes`` in all: beyond that the
    oldest are forgotten, some at once, which `evicted` counts. Running claims are never evicted; there are as many
    as events being handled.
    """

    def __init__(
        self, *, max_entries: int = 100_000, max_bytes: int = 64 * 1024 * 1024, clock: Clock | None = None
    ) -> None:
        """Start empty; ``clock`` tells when leases and finished keys expire."""
        self.max_entries = check_count("max_entries", max_entries)
        self.max_bytes = check_count("max_bytes", max_bytes, least=0)
        self.evicted = 0
        """Finished keys that were forgotten for want of room, before their time was over."""
        self._now = (clock or SystemClock()).monotonic
        self._running: dict[str, tuple[object, float]] = {}  # token, and when its lease ends
        # When a finished key expires, the oldest first. A plain dict takes 50 bytes a key less than an OrderedDict, and
        # 180 less than cachetools.TLRUCache; few events have an outcome to store, so those are kept apart.
        self._finished: dict[str, float] = {}
        self._outcomes: dict[str, bytes] = {}
        self._bytes = 0

    @property
    def size(self) -> int:
        """The number of finished keys held, expired ones included."""
        return len(self._finished)

    async def claim(self, key: str, token: str, lease: float) -> bytes | float | None:
        """See `stages.DedupeStore`."""
        return self.take(key, token, lease)

    async def commit(self, key: str, token: str, outcome: bytes, ttl: float) -> bool:
        """See `stages.DedupeStore`."""
        return self.keep(key, token, outcome, ttl)

    async def release(self, key: str, token: str) -> None:
        """See `stages.DedupeStore`."""
        self.drop(key, token)

    # The same, without a coroutine. A token may be anything here.

    def take(self, key: str, token: object, lease: float) -> bytes | float | None:
        """Do what `claim` does."""
        now = self._now()
        expiry = self._finished.get(key)
        if expiry is not None:
            if expiry > now:
                return self._outcomes.get(key, b"")
            self._forget(key)
        held = self._running.get(key)
        if held is not None and held[1] > now and held[0] != token:
            return held[1] - now
        self._running[key] = (token, now + lease)
        return None

    def keep(self, key: str, token: object, outcome: bytes, ttl: float) -> bool:
        """Do what `commit` does."""
        now = self._now()
        held = self._running.get(key)
        if held is not None and held[0] != token and held[1] > now:
            return False
        finished = self._finished
        if key in finished:
            if finished[key] > now:
                return False
            self._forget(key)
        self._running.pop(key, None)
        if len(outcome) > self.max_bytes:
            self.evicted += 1
            return True
        finished[key] = now + ttl
        if outcome:
            self._outcomes[key] = outcome
            self._bytes += len(outcome)
        if len(finished) > self.max_entries or self._bytes > self.max_bytes:
            self._make_room(now)
        return True

    def drop(self, key: str, token: object) -> None:
        """Do what `release` does."""
        held = self._running.get(key)
        if held is not None and held[0] == token:
            del self._running[key]

    def _forget(self, key: str) -> None:
        del self._finished[key]
        if self._outcomes:
            self._bytes -= len(self._outcomes.pop(key, b""))

    def _make_room(self, now: float) -> None:
        # A dict finds its first key past all those deleted before it: many at once, or each takes longer.
        while len(self._finished) > self.max_entries or self._bytes > self.max_bytes:
            for key in list(islice(self._finished, 1 + len(self._finished) // 64)):
                self.evicted += self._finished[key] > now
                self._forget(key)


@dataclass(slots=True)
class _Queued:
    event: Event
    key: str | None
    due: float
    attempts: int = 0
    token: str = ""
    parked: bool = False


class MemoryQueueStore:
    """Events of a queue, for tests only: a restart loses them although they were answered 202."""

    def __init__(self, *, clock: Clock | None = None) -> None:
        """Start empty; ``clock`` is for leases and delays."""
        self._now = (clock or SystemClock()).monotonic
        self._queued: dict[tuple[str, str], _Queued] = {}
        self._leases = count(1)

    def __len__(self) -> int:
        """Return the number of events that are to be done."""
        return sum(not one.parked for one in self._queued.values())

    @property
    def parked(self) -> list[Event]:
        """The events that nobody tries any more."""
        return [one.event for one in self._queued.values() if one.parked]

    async def put(self, event: Event, /, *, key: str | None, capacity: int) -> bool:
        """See `stages.QueueStore`."""
        found = self._queued.get(event.key)
        if found is not None and not found.parked:
            return True
        if len(self) >= capacity:
            return False
        self._queued.pop(event.key, None)
        self._queued[event.key] = _Queued(event, key, self._now())
        return True

    async def lease(self, seconds: float, /) -> tuple[str, Event, int] | None:
        """See `stages.QueueStore`."""
        now = self._now()
        earlier: set[str] = set()
        for one in self._queued.values():
            if one.parked or one.key in earlier:
                continue
            if one.due <= now:
                one.due, one.token, one.attempts = now + seconds, str(next(self._leases)), one.attempts + 1
                return one.token, one.event, one.attempts
            if one.key is not None:
                earlier.add(one.key)
        return None

    async def ack(self, token: str, /) -> bool:
        """See `stages.QueueStore`."""
        found = self._leased(token)
        if found is None:
            return False
        del self._queued[found.event.key]
        return True

    async def nack(self, token: str, /, *, delay: float | None) -> bool:
        """See `stages.QueueStore`."""
        found = self._leased(token)
        if found is None:
            return False
        found.token, found.parked = "", delay is None
        found.due = self._now() + (delay or 0.0)
        return True

    def _leased(self, token: str) -> _Queued | None:
        now = self._now()
        for one in self._queued.values():
            if one.token == token and one.due > now:
                return one
        return None
