"""Reads a log, page by page: events as newer code wants them, and what they come to."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from cloudevents_kit._arguments import check_callable, check_kind, check_name
from cloudevents_kit._contract import Handler, Middleware, Outcome, is_async, log, name_of, wrap
from cloudevents_kit._event import Event
from cloudevents_kit._event_log._fold import Folded, S, Snapshot, Step
from cloudevents_kit._recorded import Appended, EventLogStore, Recorded

_LONGEST_STREAM = 256
_PAGE = 200


class Reader:
    """Reads ``store`` through a stage that brings events up to date."""

    def __init__(self, store: EventLogStore, upcast: Middleware | None) -> None:
        """Put ``upcast`` in between."""
        self._store = store
        self._upcast = None if upcast is None else wrap(_itself, upcast)

    async def read(self, stream: str | None, after: int, until: int | None = None) -> AsyncGenerator[Recorded]:
        """Go through ``stream``, or the log, after a version or position, to the end or ``until`` another one."""
        while until is None or after < until:
            most = _PAGE if until is None else min(_PAGE, until - after)
            page = await self._store.read(stream, after, most)
            for record in page:
                yield record if self._upcast is None else replace(record, event=await self._newest(record.event))
            if len(page) < most:
                return
            after += most

    async def find(self, name: str, before: datetime | None) -> int:
        """Return the position of the last event before a time, the argument ``name``; of the last one for None."""
        if before is not None:
            check_kind(name, before, datetime, "a datetime")
            if before.utcoffset() is None:
                raise ValueError(f"{name}: must have a time zone, such as datetime.now(UTC)")
        return await self._store.find(before)

    def before(self, handler: Handler) -> Handler:
        """Return what hands to ``handler`` each event as newer code wants it."""
        if self._upcast is None:
            return handler

        async def newest(event: Event) -> Outcome:
            return await handler(await self._newest(event))

        return newest

    async def _newest(self, event: Event) -> Event:
        newest = event if self._upcast is None else await self._upcast(event)
        if not isinstance(newest, Event):
            raise TypeError("upcast: must pass on every event")
        return newest

    async def compare(self, stream: str, events: Sequence[Event], appended: Appended) -> None:
        """Log which of ``events``, which are in ``stream`` already, are others there."""
        there = await self._store.read(stream, appended.version - len(events), len(events))
        for event, record in zip(events, there, strict=True):
            if (event.type, event.raw) != (record.event.type, record.event.raw):
                told = "stream %s: %s was appended before with another type or other data, and stays as it was"
                log.warning(told, stream, name_of(event))

    async def fold(self, stream: str, step: Step[S], start: Callable[[], S], snapshot: Snapshot[S] | None) -> Folded[S]:
        """Return what the events of ``stream`` come to."""
        check_callable("step", step)
        if not callable(start):
            raise TypeError(f"start: must be a class or a function that makes the state, not {type(start).__name__}")
        for name, function in (("step", step), ("start", start)):
            if is_async(function):
                raise TypeError(f"{name}: must be a plain function, not an async one")
        kept = None if snapshot is None else await snapshot.load(self._store.snapshots, stream)
        if kept is not None and not await self._store.read(stream, kept[0] - 1, 1):
            kept = None  # of another log, or of a later time of this one
        version, state = kept or (0, start())
        begin = version
        async for record in self.read(stream, begin):
            state, version = step(state, record.event), record.version
        if inspect.isawaitable(state):
            raise TypeError("step: must return a state, not something to be awaited")
        if snapshot is not None and version - begin >= snapshot.every:
            await snapshot.save(self._store.snapshots, stream, version, state)
        return Folded(state, version)


async def _itself(event: Event) -> Outcome:
    return event


def check_events(events: Event | Iterable[Event]) -> list[Event]:
    """Take one event or several."""
    given: Any = events
    if isinstance(given, Mapping | str | bytes) or not isinstance(given, Event | Iterable):
        raise TypeError(f"events: must be an Event, or several, not {type(given).__name__}")
    these = [given] if isinstance(given, Event) else [*given]
    for event in these:
        check_kind("events", event, Event, "an Event, or several")
    if not these or len({event.key for event in these}) < len(these):
        raise ValueError("events: must be one or more, no two of the same source and id")
    return these


def check_stream(stream: object) -> str:
    """Take the name of a stream."""
    return check_name("stream", stream, longest=_LONGEST_STREAM)
