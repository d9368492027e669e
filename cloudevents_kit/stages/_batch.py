"""Handles events in batches, while each of their senders waits for the outcome of its own event.

A batch is worked on in a task of this stage. An event is acknowledged only after its batch was done.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import copy_context
from copy import copy
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any, Literal

from cloudevents_kit._arguments import check_callable, check_choice, check_count, check_not_negative, check_positive
from cloudevents_kit._contract import ACCEPTED, Handler, Outcome, log, outcome_of
from cloudevents_kit._errors import Refusal, cause_of
from cloudevents_kit._event import Event
from cloudevents_kit._result import Ack, Nack, Result, Undelivered
from cloudevents_kit._tasks import Tasks, is_cancelled
from cloudevents_kit.stages._calls import called
from cloudevents_kit.stages._holding import Holding
from cloudevents_kit.stages._stage import name_of_function

#: What became of one event of a batch: an exception stands for what raising it would.
End = Outcome | Result | BaseException
BatchHandler = Callable[[Sequence[Event]], Awaitable[Sequence[End] | None] | Sequence[End] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    max_events: int
    max_bytes: int | None
    max_delay: float
    max_pending: int
    on_full: str
    concurrency: int
    timeout: float | None
    grace: float

    def __post_init__(self) -> None:
        check_count("max_events", self.max_events)
        if self.max_bytes is not None:
            check_count("max_bytes", self.max_bytes)
        check_not_negative("max_delay", self.max_delay)
        check_count("max_pending", self.max_pending, least=self.max_events)
        check_choice("on_full", self.on_full, ("wait", "refuse"))
        check_count("concurrency", self.concurrency)
        if self.timeout is not None:
            check_positive("timeout", self.timeout)
        check_not_negative("grace", self.grace)


class _Gathering:
    """Events that will be worked on together."""

    __slots__ = ("begun", "due", "events", "size", "timer")
    timer: asyncio.TimerHandle

    def __init__(self) -> None:
        self.events: dict[asyncio.Future[Any], Event] = {}
        self.size = 0
        self.due = False  # it waits for nothing but a free task
        self.begun = False


class Batch(Holding):
    """Use `batch`."""

    kind = "batch"

    def __init__(self, work: BatchHandler, settings: _Settings, name: str | None) -> None:
        check_callable("work", work)
        super().__init__(name or name_of_function(work, self.kind))
        self._function = work
        self._settings = settings
        self._held = 0

    @property
    def parameters(self) -> Mapping[str, object]:
        return asdict(self._settings)

    @property
    def pending(self) -> int:
        """The number of events that are held, those being worked on included."""
        return self._held

    @property
    def status(self) -> Mapping[str, object]:
        return {**super().status, "pending": self.pending}

    def start(self) -> None:
        self._context = copy_context()
        self._tasks = Tasks(lambda error: log.error("stage %s failed", self.name, exc_info=error))
        self._room = asyncio.Semaphore(self._settings.max_pending)
        self._open: _Gathering | None = None
        self._ready: deque[_Gathering] = deque()
        self._going: dict[_Gathering, asyncio.Task[None]] = {}

    async def run(self, event: Event, call_next: Handler) -> Outcome:
        began = perf_counter()
        room = await self._enter()
        self._held += 1
        try:
            end = await self._settled(event)
        finally:
            self._held -= 1
            room.release()
        if end is not None and not isinstance(end, Event) and end is not ACCEPTED:
            end = self._read(end, event, began)
        return await call_next(event) if end is None else end

    async def _enter(self) -> asyncio.Semaphore:
        self.check_open()
        room = self._room
        if self._settings.on_full == "refuse" and room.locked():
            raise self.refusal("too many events are waiting")
        await room.acquire()
        try:
            self.check_open()  # it may have been closed meanwhile
        except Refusal:
            room.release()
            raise
        return room

    async def _settled(self, event: Event) -> End:
        """Put ``event`` into a batch, and wait for what becomes of it."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        gathering = self._add(event, future)
        try:
            return await future  # type: ignore[no-any-return]
        except asyncio.CancelledError:
            self._remove(gathering, future)
            raise

    def _add(self, event: Event, future: asyncio.Future[Any]) -> _Gathering:
        most, limit = self._settings.max_events, self._settings.max_bytes
        size = 0 if limit is None else len(event.raw or b"")
        gathering = self._open
        if gathering is not None and limit is not None and gathering.size + size > limit:
            self._close_up(gathering)
            gathering = None
        if gathering is None:
            gathering = self._open = _Gathering()
            delay = 0.0 if self._draining else self._settings.max_delay
            gathering.timer = future.get_loop().call_later(delay, self._time_is_up, gathering)
        gathering.events[future] = event
        gathering.size += size
        if len(gathering.events) >= most or (limit is not None and gathering.size >= limit):
            self._close_up(gathering)
        return gathering

    def _remove(self, gathering: _Gathering, future: asyncio.Future[Any]) -> None:
        """Take an event out whose sender has gone, unless the work on it has begun."""
        if gathering.begun:
            return
        event = gathering.events.pop(future)
        gathering.size -= 0 if self._settings.max_bytes is None else len(event.raw or b"")
        if gathering.events:
            return
        if gathering is self._open:
            self._let_go(gathering)
        else:
            with suppress(ValueError):  # a close has taken it out
                self._ready.remove(gathering)

    def _let_go(self, gathering: _Gathering) -> None:
        """Take no more events into ``gathering``."""
        self._open = None
        gathering.timer.cancel()

    def _close_up(self, gathering: _Gathering) -> None:
        self._let_go(gathering)
        if len(self._going) < self._settings.concurrency:
            self._begin(gathering)
        else:
            self._ready.append(gathering)

    def _time_is_up(self, gathering: _Gathering) -> None:
        """Begin; if that cannot be now, events are taken until it can."""
        if len(self._going) < self._settings.concurrency:
            self._close_up(gathering)
        else:
            gathering.due = True

    def drain(self) -> None:
        """Do not wait for more events: what is gathered goes at once, and so does what comes."""
        super().drain()
        if self._users and self._open is not None:
            self._time_is_up(self._open)

    def _begin(self, gathering: _Gathering) -> None:
        self._going[gathering] = self._tasks.start(self._work(gathering), self._context.copy())

    def _go_on(self) -> None:
        """Begin the batch that has waited longest."""
        if self._ready:
            self._begin(self._ready.popleft())
        elif self._open is not None and self._open.due:
            self._close_up(self._open)

    async def _work(self, gathering: _Gathering) -> None:
        gathering.begun = True
        for future in [future for future in gathering.events if future.done()]:  # left a moment ago
            del gathering.events[future]
        ends: Sequence[End] = ()
        try:
            ends = await self._call(tuple(gathering.events.values())) if gathering.events else ()
        except Exception as error:  # noqa: BLE001 - it is for those who wait
            self.counts["failed"] += 1
            ends = [error] * len(gathering.events)
        except BaseException as error:
            ends = [self._cut_off() if is_cancelled() else error for _ in gathering.events]
            raise
        finally:
            del self._going[gathering]
            for future, end in zip(gathering.events, ends, strict=True):
                if not future.done():
                    future.set_result(end)
            self._go_on()

    async def _call(self, events: tuple[Event, ...]) -> Sequence[End]:
        self.counts["batches"] += 1
        self.counts["events"] += len(events)
        async with asyncio.timeout(self._settings.timeout):
            returned = await called(self._function, events)
        if returned is None:
            return [None] * len(events)
        if not isinstance(returned, Sequence) or isinstance(returned, str | bytes):
            kind = type(returned).__name__
            raise TypeError(f"{self.name}: must return a sequence with an outcome for each event, or None, not {kind}")
        ends = [*returned]
        if len(ends) != len(events):
            raise ValueError(f"{self.name}: returned {len(ends)} outcomes for {len(events)} events")
        return ends

    def _read(self, end: object, event: Event, began: float) -> Outcome:
        """Return or raise what the work said of ``event``."""
        if isinstance(end, Refusal):
            raise copy(end) from end.__cause__  # the same one goes to many
        if isinstance(end, Ack | Nack | Undelivered):
            return outcome_of(end)
        if not isinstance(end, BaseException):
            kind = type(end).__name__
            end = TypeError(f"{self.name}: the outcome of an event is a Result, an Event, ACCEPTED or None, not {kind}")
        late = isinstance(end, TimeoutError)
        raise self.failure(end, event, began, kind="timeout" if late else "failed") from cause_of(end)

    def _cut_off(self) -> Refusal:
        return self.refusal("the work was cut off")

    async def finish(self) -> None:
        self.drain()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.grace):
                    while self._going:  # each one begins the next before it ends
                        await asyncio.wait(self._going.values())
        finally:
            left = [*self._going, *self._ready, *([] if self._open is None else [self._open])]
            self._ready.clear()
            if self._open is not None:
                self._let_go(self._open)
            try:
                await self._tasks.close()
            finally:
                self._going.clear()
                for future in [future for gathering in left for future in gathering.events if not future.done()]:
                    future.set_result(self._cut_off())


def batch(
    work: BatchHandler,
    *,
    max_events: int = 100,
    max_bytes: int | None = None,
    max_delay: float = 1.0,
    max_pending: int = 10_000,
    on_full: Literal["wait", "refuse"] = "wait",
    concurrency: int = 1,
    timeout: float | None = 30.0,
    grace: float = 10.0,
    name: str | None = None,
) -> Batch:
    """Gather events, call ``work`` with many at once, and go on with each of them when its batch was done.

    ``work`` returns None if it handled all of them, or one outcome for each, in order: None or an Ack, after which the
    event goes on; an Event as the reply, ACCEPTED, a Nack or an exception, with which it ends here. If it raises, all
    of them end with that. It runs in a task of its own, in which there is no current event; a function that is not
    async runs in the loop. An event whose sender leaves before the work begins is taken out.

    Args:
        work: gets the events in the order in which they came.
        max_events: as many make a batch at once.
        max_bytes: and so does this much data; a larger event is a batch of its own.
        max_delay: seconds after which a batch goes with what it has, counted from its first event.
        max_pending: events held at once, at least ``max_events``.
        on_full: what happens to more of them: they wait, or are answered 503.
        concurrency: batches worked on at once.
        timeout: seconds for ``work``; then it is cancelled, and its events are answered 503.
        grace: seconds for what is held when the stage is closed; the rest is cancelled and answered 503.
        name: for people and metrics, by default that of ``work``.
    """
    settings = _Settings(
        max_events=max_events,
        max_bytes=max_bytes,
        max_delay=max_delay,
        max_pending=max_pending,
        on_full=on_full,
        concurrency=concurrency,
        timeout=timeout,
        grace=grace,
    )
    return Batch(work, settings, name)
