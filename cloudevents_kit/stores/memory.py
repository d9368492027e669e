"""Stores in the memory of this process: they forget everything at a restart, and no other process sees them.

Right for tests, and where the senders' own repetitions (seconds to minutes) are all there is to catch. Use each from
one event loop only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count, islice
from math import inf
from typing import Any

from cloudevents_kit._arguments import check_count
from cloudevents_kit._clock import Clock, SystemClock
from cloudevents_kit._event import Event
from cloudevents_kit._tally import Added, Fold, HandOut, Tally, WindowInfo


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
        running, finished = self._running, self._finished
        held = running.get(key)
        if held is not None:  # then it is not finished
            if held[0] is not token and held[0] != token and held[1] > now:
                return False
            del running[key]
        elif key in finished:
            if finished[key] > now:
                return False
            self._forget(key)
        if outcome:
            if len(outcome) > self.max_bytes:
                self.evicted += 1
                return True
            self._outcomes[key] = outcome
            self._bytes += len(outcome)
        finished[key] = now + ttl
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
        self._to_do = 0  # those that are not parked

    def __len__(self) -> int:
        """Return the number of events that are to be done."""
        return self._to_do

    @property
    def parked(self) -> list[Event]:
        """The events that nobody tries any more."""
        return [one.event for one in self._queued.values() if one.parked]

    async def put(self, event: Event, /, *, key: str | None, capacity: int) -> bool:
        """See `stages.QueueStore`."""
        found = self._queued.get(event.key)
        if found is not None and not found.parked:
            return True
        if self._to_do >= capacity:
            return False
        self._queued.pop(event.key, None)
        self._queued[event.key] = _Queued(event, key, self._now())
        self._to_do += 1
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
        self._to_do -= 1
        return True

    async def nack(self, token: str, /, *, delay: float | None, attempted: bool = True) -> bool:
        """See `stages.QueueStore`."""
        found = self._leased(token)
        if found is None:
            return False
        found.token, found.parked = "", delay is None
        self._to_do -= found.parked
        found.due = self._now() + (delay or 0.0)
        found.attempts -= not attempted
        return True

    async def extend(self, token: str, seconds: float, /) -> bool:
        """See `stages.QueueStore`."""
        found = self._leased(token)
        if found is None:
            return False
        found.due = self._now() + seconds
        return True

    def _leased(self, token: str) -> _Queued | None:
        now = self._now()
        for one in self._queued.values():
            if one.token == token and one.due > now:
                return one
        return None


@dataclass(slots=True)
class _Window:
    start: int
    states: dict[str, list[Any]] = field(default_factory=dict)
    seen: dict[str, set[str]] = field(default_factory=dict)
    """Ids of the events that were counted, by source."""
    waiting: dict[str, bool] = field(default_factory=dict)
    """The keys that are to be handed out; True while that goes on."""
    closed: bool = False
    events: int = 0
    unremembered: int = 0
    overflow: int = 0

    def tally(self, key: str) -> Tally | None:
        states = self.states.get(key)
        if states is None:
            return None
        return Tally(self.start, key, states, self.closed, complete=not self.unremembered)


class MemoryWindowStore:
    """Keeps windows in the memory of this process: they end with it."""

    def __init__(
        self, *, max_windows: int = 1000, max_keys: int = 10_000, max_events: int = 1_000_000, keep: int = 60
    ) -> None:
        """Set the limits.

        Args:
            max_windows: windows that are open or wait to be handed out; events for further ones overflow.
            max_keys: keys of one window; events of further ones overflow.
            max_events: events of all open windows that are remembered, so that they count once; see `Added`.
            keep: closed windows that are kept for reading.
        """
        self._max_windows = check_count("max_windows", max_windows)
        self._max_keys = check_count("max_keys", max_keys)
        self._max_events = check_count("max_events", max_events, least=0)
        self._keep = check_count("keep", keep, least=0)
        self._open: dict[int, _Window] = {}
        self._waiting: dict[int, _Window] = {}
        self._closed: dict[int, _Window] = {}
        self._before = -inf
        self._remembered = 0

    async def add(
        self, start: int, key: str, event: tuple[str, str], values: list[Any], fold: Fold, *, anywhere: bool
    ) -> Added:
        """See `stages.WindowStore.add`."""
        return self.put(start, key, event, values, fold, anywhere=anywhere)

    def put(
        self, start: int, key: str, event: tuple[str, str], values: list[Any], fold: Fold, *, anywhere: bool
    ) -> Added:
        """Do what `add` does, at once."""
        source, name = event
        window = self._open.get(start)
        if window is None:
            if start < self._before:
                return "late"
            if len(self._open) + len(self._waiting) >= self._max_windows:
                return "overflow"
            window = _Window(start)
        ids = window.seen.get(source)
        if ids is not None and name in ids:
            return "repeated"
        if anywhere and any(name in other.seen.get(source, ()) for other in self._open.values()):
            return "repeated"
        states = window.states.get(key)
        if states is None and len(window.states) >= self._max_keys:
            window.overflow += 1
            return "overflow"
        window.states[key] = fold(values, states)  # if this raises, nothing has changed
        if not window.events:
            self._open[start] = window
        window.events += 1
        if self._remembered >= self._max_events:
            window.unremembered += 1
            return "unremembered"
        self._remembered += 1
        if ids is None:
            window.seen[source] = {name}
        else:
            ids.add(name)
        return "counted"

    async def close(self, before: int, hand_out: HandOut | None) -> list[Exception]:
        """See `stages.WindowStore.close`."""
        self._before = max(self._before, before)
        for start in sorted(start for start in self._open if start < before):
            window = self._open.pop(start)
            self._remembered -= window.events - window.unremembered
            window.closed, window.seen = True, {}
            window.waiting = dict.fromkeys(window.states, False)
            self._waiting[start] = window
        errors = []
        for window in [*self._waiting.values()]:
            if hand_out is None:
                window.waiting.clear()
            else:
                errors += await _handed_out(window, hand_out)
            if not window.waiting and self._waiting.pop(window.start, None) is not None:
                self._closed[window.start] = window
        self._forget()
        return errors

    def _forget(self) -> None:
        for start in sorted(self._closed)[: max(0, len(self._closed) - self._keep)]:
            del self._closed[start]

    async def read(self, key: str, start: int | None) -> Tally | None:
        """See `stages.WindowStore.read`."""
        if start is not None:
            found = (part.get(start) for part in (self._open, self._waiting, self._closed))
            return next((window.tally(key) for window in found if window is not None), None)
        newest = max((window for window in self._all() if key in window.states), key=_start, default=None)
        return None if newest is None else newest.tally(key)

    async def windows(self) -> list[WindowInfo]:
        """See `stages.WindowStore.windows`."""
        return [
            WindowInfo(one.start, one.closed, len(one.states), one.events, one.overflow)
            for one in sorted(self._all(), key=_start)
        ]

    @property
    def status(self) -> Mapping[str, int]:
        """See `stages.WindowStore.status`."""
        return {
            "open": len(self._open),
            "waiting": len(self._waiting),
            "closed": len(self._closed),
            "keys": sum(len(window.states) for window in self._all()),
            "remembered": self._remembered,
        }

    def _all(self) -> Iterable[_Window]:
        return (window for part in (self._open, self._waiting, self._closed) for window in part.values())


def _start(window: _Window) -> int:
    return window.start


async def _handed_out(window: _Window, hand_out: HandOut) -> list[Exception]:
    errors = []
    for key in [key for key, taken in window.waiting.items() if not taken]:
        if window.waiting.get(key, True):  # by another call, meanwhile
            continue
        window.waiting[key] = True
        done = False
        try:
            await hand_out(window.tally(key))  # type: ignore[arg-type]  # it has states
            done = True
        except Exception as error:  # noqa: BLE001 - the caller reports it, and the rest is handed out all the same
            errors.append(error)
        finally:  # a cancellation, too, leaves it for the next time
            if done:
                window.waiting.pop(key, None)
            elif key in window.waiting:
                window.waiting[key] = False
    return errors
