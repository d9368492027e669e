"""An event log: events are appended to streams, kept for good, and read again; views are made of them.

    log = EventLog(store.event_log, orders_view)
    async with store, log:                                          # the projections run until the block is left
        order = await log.fold("order-1", apply, Order)             # the state of a stream, and its version
        await log.append("order-1", shipped, expected=order.version)    # all or nothing, or Conflict

Every reader sees the events of all streams in one order without gaps. Knows no database: see `EventLogStore`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from contextvars import Context
from datetime import datetime
from typing import Literal, Self

from cloudevents_kit._arguments import (
    check_callable,
    check_choice,
    check_count,
    check_flag,
    check_kind,
    check_methods,
    check_not_negative,
)
from cloudevents_kit._contract import Handler, Middleware, Sink, SyncHandler, log
from cloudevents_kit._correlation import inherit
from cloudevents_kit._event import Event
from cloudevents_kit._event_log._delivery import check_unlocked, current_connection, current_record
from cloudevents_kit._event_log._fold import Folded, S, Snapshot, Step
from cloudevents_kit._event_log._lag import Condition, Lag, age, all_of, any_of, count
from cloudevents_kit._event_log._projection import Projection
from cloudevents_kit._event_log._reading import Reader, check_events, check_stream
from cloudevents_kit._event_log._replay import Replayed, Unhandled, handler_of, replay
from cloudevents_kit._event_log._status import Status
from cloudevents_kit._event_log._worker import Worker, catch_up, inline
from cloudevents_kit._recorded import (
    Appended,
    Checkpoint,
    CheckpointStore,
    Conflict,
    EventLogStore,
    Inline,
    Recorded,
    SnapshotStore,
    Work,
)
from cloudevents_kit._tasks import Tasks

__all__ = [
    "Appended",
    "Checkpoint",
    "CheckpointStore",
    "Condition",
    "Conflict",
    "EventLog",
    "EventLogStore",
    "Folded",
    "Inline",
    "Lag",
    "Projection",
    "Recorded",
    "Replayed",
    "Snapshot",
    "SnapshotStore",
    "Status",
    "Unhandled",
    "Work",
    "age",
    "all_of",
    "any_of",
    "count",
    "current_connection",
    "current_record",
]

_LOOK = 0.02


class EventLog:
    """Appends to ``store`` and reads it; as an async context manager, keeps ``projections`` up to date.

    Whoever makes the store opens and closes it, around this. Without projections, it need not be opened.

    Args:
        store: ``open_store(...).event_log``.
        projections: what is made of the events, each with a name of its own.
        upcast: a stage that every event read goes through, such as ``stages.upcast(...)``: old types become new ones.
        grace: seconds for what is being handled when the log is closed.
    """

    def __init__(
        self, store: EventLogStore, *projections: Projection, upcast: Middleware | None = None, grace: float = 10.0
    ) -> None:
        """Check the settings. Raises TypeError or ValueError naming one."""
        check_methods("store", store, "an EventLogStore", "append", "read", "find")
        for projection in projections:
            check_kind("projections", projection, Projection, "a Projection")
        check_not_negative("grace", grace)
        if len({projection.name for projection in projections}) < len(projections):
            raise ValueError("projections: two have the same name")
        self._store, self._grace = store, grace
        self._reader = Reader(store, upcast)
        self._projections = {projection.name: projection for projection in projections}
        self._inline = {
            one.name: inline(one, self._reader.before(one.handler), store) for one in projections if one.inline
        }
        self._workers: dict[str, Worker] = {}
        self._tasks = Tasks(lambda error: log.error("a task of the event log failed", exc_info=error))
        self._is_open = False

    # Writing.

    async def append(self, stream: str, events: Event | Iterable[Event], *, expected: int | None = None) -> Appended:
        """Append ``events`` to ``stream``: all of them, or none.

        Repeat a call whose answer was lost, with the same events: those that are in the stream already, in a row and
        where they are expected, are not appended again; one with the same source and id but another type or other data
        is neither, and logged. Appended while another event is handled, they inherit
        correlationid, causationid and trace.

        Args:
            stream: the name of what the events are about; 1 to 256 printable characters.
            events: one or several.
            expected: the version that the stream must have, 0 if there must be none; None: whatever it has.

        Raises:
            Conflict: the stream has another version, or some of the events and not the others; nothing was appended.
            StoreError: the events may have been appended or not; repeat the call.
            Exception: what an inline projection raises; nothing was appended.
        """
        check_stream(stream)
        these = check_events(events)
        if expected is not None:
            check_count("expected", expected, least=0)
        check_unlocked(self._store)
        appended = await self._store.append(stream, [inherit(event) for event in these], expected, self._inline)
        for worker in self._workers.values():
            worker.wake()
        if appended.repeated:
            await self._reader.compare(stream, these, appended)
        return appended

    # Reading.

    def read(self, stream: str, *, after: int = 0) -> AsyncGenerator[Recorded]:
        """Go through the events of ``stream`` after version ``after``, to its end."""
        return self._reader.read(check_stream(stream), check_count("after", after, least=0))

    def read_all(self, *, after: int = 0, until: int | None = None) -> AsyncGenerator[Recorded]:
        """Go through the events of all streams after position ``after``, to the end, or to position ``until``."""
        if until is not None:
            check_count("until", until, least=0)
        return self._reader.read(None, check_count("after", after, least=0), until)

    async def find(self, before: datetime | None = None) -> int:
        """Return the position of the last event, or of the last one appended ``before`` a time; 0 if there is none."""
        return await self._reader.find("before", before)

    async def fold(
        self, stream: str, step: Step[S], start: Callable[[], S], *, snapshot: Snapshot[S] | None = None
    ) -> Folded[S]:
        """Return what the events of ``stream`` come to, and its version.

        Args:
            stream: which one.
            step: a function of the state and the next event that returns the state after it, be it the same object.
            start: makes the state before the first event, for example a class or ``dict``.
            snapshot: begin at the latest state that was kept, and keep one from time to time.
        """
        if snapshot is not None:
            check_kind("snapshot", snapshot, Snapshot, "a Snapshot")
        return await self._reader.fold(check_stream(stream), step, start, snapshot)

    async def forget_snapshots(self, name: str | None = None) -> int:
        """Remove the snapshots of one name, or all, and return how many; what they save is computed again."""
        return await self._store.snapshots.forget(name)

    async def replay(
        self,
        to: Handler | SyncHandler | Sink,
        *,
        after: int = 0,
        since: datetime | None = None,
        until: int | datetime | None = None,
        filter: Callable[[Event], bool] | None = None,  # noqa: A002 - the word of the Subscriptions API
        limit: int | None = None,
        on_error: Literal["stop", "collect"] = "stop",
        dry_run: bool = False,
    ) -> Replayed:
        """Hand a part of the log to a handler or a sink, in order, and report. No checkpoint is moved.

        Args:
            to: a handler (a function, a `Router`, whatever `wrap` has made), or a sink.
            after: the position to begin behind.
            since: begin with what was appended then, or later.
            until: the last position, or what was appended before that time; by default what is there now.
            filter: which events; for example one of `cloudevents_kit.filters`.
            limit: hand over no more than this.
            on_error: ``"stop"`` at an event that fails, or ``"collect"`` what fails and go on.
            dry_run: only count.
        """
        handler, begin = handler_of(to), check_count("after", after, least=0)
        if filter is not None:
            check_callable("filter", filter)
        if limit is not None:
            check_count("limit", limit)
        check_choice("on_error", on_error, ("stop", "collect"))
        check_flag("dry_run", dry_run)
        if since is not None:
            begin = max(begin, await self._reader.find("since", since))
        end = (
            check_count("until", until, least=0) if isinstance(until, int) else await self._reader.find("until", until)
        )
        return await replay(
            self.read_all(after=begin, until=end),
            handler,
            filter,
            after=begin,
            collect=on_error == "collect",
            limit=limit,
            dry_run=dry_run,
        )

    # Projections.

    async def __aenter__(self) -> Self:
        """Bring inline projections to the end of the log, and begin with the others."""
        if self._is_open:
            raise RuntimeError("this event log is open already")
        for name, work in self._inline.items():
            await catch_up(self._projections[name], work, self._store)
        self._is_open = True
        for one in self._projections.values():
            if not one.inline:
                self._workers[one.name] = Worker(one, self._reader.before(one.handler), self._store)
                _ = self._tasks.start(self._workers[one.name].run(), Context())
        return self

    async def __aexit__(self, *_: object) -> None:
        """End what is being handled; another process can go on at once."""
        self._is_open = False
        workers, self._workers = [*self._workers.values()], {}
        for worker in workers:
            worker.stop()
        try:
            await self._tasks.close(self._grace)
        finally:
            await asyncio.gather(*(worker.give_back() for worker in workers))

    async def status(self) -> list[Status]:
        """Return where each projection is, in all processes."""
        found = []
        for mark in await self._store.checkpoints.read([*self._projections]):
            worker = self._workers.get(mark.name)
            if worker is None:
                found.append(Status(**mark._asdict(), here=self._projections[mark.name].inline))
            else:
                found.append(Status(**mark._asdict(), here=worker.is_mine, **worker.stands_before(mark.position + 1)))
        return found

    async def reached(self, name: str, position: int | None = None) -> None:
        """Wait until the projection has got the event at ``position``, or all there is now; for ever, if need be."""
        self._check_name(name)
        wanted = await self._store.find(None) if position is None else check_count("position", position, least=0)
        while True:
            [mark] = await self._store.checkpoints.read([name])
            if mark.position >= wanted:
                return
            await asyncio.sleep(_LOOK)

    def retry(self, name: str) -> bool:
        """Try at once the event that the projection stands before, and tell whether it waits for that here.

        Only the process that works on it can tell, and do so: the others return False.
        """
        self._check_name(name)
        return name in self._workers and self._workers[name].retry()

    async def rebuild(self, name: str) -> None:
        """Begin with the projection anew: its view is emptied by its ``reset``, and it gets all events once more.

        Waits for the event, or the transaction, that this process is handling for it. Returns when an inline one has
        got them; a background one begins with that: see `reached`.

        Raises:
            RuntimeError: the projection has no ``reset``; where there is nothing to empty, it is one that does nothing.
            TypeError: ``reset`` is a plain function, and the store has a connection for it.
        """
        self._check_name(name)
        self._projections[name].check_reset()
        if name in self._workers:
            await self._workers[name].reset()
            return
        projection = self._projections[name]
        await self._store.checkpoints.reset(name, projection.reset)
        if projection.inline:
            await catch_up(projection, self._inline[name], self._store)

    def _check_name(self, name: str) -> None:
        if name not in self._projections:
            raise ValueError(f"name: no projection of this log is called {name!r}")
