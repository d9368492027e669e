"""The event log in the memory of this process: for tests only, since a restart forgets all events."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from cloudevents_kit._clock import Clock, SystemClock
from cloudevents_kit._event import Event
from cloudevents_kit._recorded import Appended, Checkpoint, Conflict, Inline, Recorded, Work, decide


@dataclass(slots=True)
class _Mark:
    position: int = 0
    token: str = ""
    until: float = 0.0


class MemoryEventLogStore:
    """An event log, for tests only: a restart forgets it. See `event_log.EventLogStore`.

    It has no transactions: what a handler does before it fails is not undone, but the events are not appended.
    """

    def __init__(self, *, clock: Clock | None = None) -> None:
        """Start empty; ``clock`` is for leases and for when events were appended."""
        self._clock = clock or SystemClock()
        self._events: list[Recorded] = []
        self._streams: defaultdict[str, list[Recorded]] = defaultdict(list)
        self._found: dict[tuple[str, str, str], tuple[int, int]] = {}
        self._lock = asyncio.Lock()
        self.checkpoints = _MemoryCheckpoints(self._events, self._clock, self._lock)
        self.snapshots = _MemorySnapshots()

    async def append(
        self, stream: str, events: Sequence[Event], expected: int | None, inline: Mapping[str, Inline], /
    ) -> Appended:
        """See `event_log.EventLogStore`."""
        async with self._lock:
            version, position = len(self._streams.get(stream, ())), len(self._events)
            answer = decide(stream, version, expected, [self._found.get((stream, *event.key)) for event in events])
            if isinstance(answer, Conflict):
                raise answer
            new: list[Recorded] = []
            if answer is None:
                at = max(self._clock.now(), self._events[-1].at) if self._events else self._clock.now()
                for number, event in enumerate(events, 1):
                    place = {"version": version + number, "position": position + number}
                    new.append(Recorded(event=event, stream=stream, at=at, **place))
                answer = Appended(new[-1].version, new[-1].position)
            for name, work in inline.items():
                records = self._events[self.checkpoints[name].position :] + new
                if records:
                    await work(records, None)
            for name in inline:
                self.checkpoints[name].position = position + len(new)
            if new:
                self._events += new
                self._streams[stream] += new
                self._found.update(((stream, *one.event.key), (one.version, one.position)) for one in new)
            return answer

    async def read(self, stream: str | None, after: int, most: int, /) -> Sequence[Recorded]:
        """See `event_log.EventLogStore`."""
        events = self._events if stream is None else self._streams.get(stream, [])
        return events[after : after + most]

    async def find(self, before: datetime | None, /) -> int:
        """See `event_log.EventLogStore`."""
        return sum(1 for one in self._events if before is None or one.at < before)


class _MemoryCheckpoints:
    def __init__(self, events: Sequence[Recorded], clock: Clock, lock: asyncio.Lock) -> None:
        self._events = events
        self._clock = clock
        self._lock = lock
        self._marks: defaultdict[str, _Mark] = defaultdict(_Mark)

    def __getitem__(self, name: str) -> _Mark:
        return self._marks[name]

    async def lease(self, name: str, token: str, seconds: float, /) -> int | None:
        mark, now = self._marks[name], self._clock.monotonic()
        if mark.token != token and mark.until > now:
            return None
        mark.token, mark.until = (token, now + seconds) if seconds else ("", 0.0)
        return mark.position

    async def advance(self, name: str, token: str | None, before: int, after: int, work: Work | None, /) -> bool:
        async with self._lock:
            mark = self._marks[name]
            if mark.position != before or token not in {None, mark.token}:
                return False
            if work is not None:
                await work(None)
            mark.position = after
            return True

    async def reset(self, name: str, work: Work | None, /) -> None:
        async with self._lock:
            if work is not None:
                await work(None)
            self._marks[name] = _Mark()

    async def read(self, names: Sequence[str], /) -> Sequence[Checkpoint]:
        found = []
        for name in names:
            position = self._marks[name].position
            waiting = max(0, len(self._events) - position)
            oldest = (self._clock.now() - self._events[position].at).total_seconds() if waiting else 0.0
            found.append(Checkpoint(name, position, waiting, max(0.0, oldest)))
        return found


class _MemorySnapshots:
    def __init__(self) -> None:
        self._kept: dict[tuple[str, str, int], tuple[int, bytes]] = {}

    async def load(self, stream: str, name: str, schema: int, /) -> tuple[int, bytes] | None:
        return self._kept.get((stream, name, schema))

    async def save(self, stream: str, name: str, schema: int, version: int, state: bytes, /) -> None:
        key = (stream, name, schema)
        self._kept[key] = max((version, state), self._kept.get(key, (0, b"")))

    async def forget(self, name: str | None, /) -> int:
        gone = [key for key in self._kept if name in {None, key[1]}]
        for key in gone:
            del self._kept[key]
        return len(gone)
