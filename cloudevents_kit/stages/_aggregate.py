"""Counts events, and adds up what they carry, per key and window of their own time.

An event counts once what follows has taken it, and only once: not if it fails, not twice if it comes again. Nothing is
held back: every event goes on as it is, counted or not. What the numbers leave out is counted by its reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from time import perf_counter
from typing import Any, Literal

from cloudevents_kit._arguments import (
    check_callable,
    check_choice,
    check_kind,
    check_methods,
    check_not_negative,
    check_positive,
)
from cloudevents_kit._clock import Clock, SystemClock
from cloudevents_kit._contract import Handler, Outcome, log, name_of
from cloudevents_kit._errors import Refusal, cause_of
from cloudevents_kit._event import Event
from cloudevents_kit._sharing import begin_use, end_use
from cloudevents_kit._tally import Added, Tally
from cloudevents_kit.stages._calls import called, ends_task
from cloudevents_kit.stages._closing import Closer
from cloudevents_kit.stages._digest import LONGEST, short
from cloudevents_kit.stages._holding import Holding
from cloudevents_kit.stages._reducers import Reducer, Selector, reader_of, text_of
from cloudevents_kit.stages._seldom import Seldom
from cloudevents_kit.stages._stage import name_of_function
from cloudevents_kit.stages._totals import Overview, Reducers, Totals, overview, totals
from cloudevents_kit.stages._window_store import WindowStore
from cloudevents_kit.stages._windows import NEVER, Watermark, moment_of, moment_of_event
from cloudevents_kit.stores.memory import MemoryWindowStore

_CLOCK = SystemClock()


OnClose = Callable[[Totals], Awaitable[object] | object]


class Aggregate(Holding):
    """The stage that `aggregate` makes."""

    kind = "aggregate"

    def __init__(
        self,
        reducers: Reducers,
        watermark: Watermark,
        store: WindowStore,
        clock: Clock,
        *,
        name: str | None,
        by: Selector | None,
        without_time: str,
        on_error: str,
        on_close: OnClose | None,
        close_timeout: float,
        at_stop: str,
        grace: float,
    ) -> None:
        """Take what `aggregate` has checked."""
        super().__init__(name)
        self._reducers, self._watermark, self._store, self._clock = reducers, watermark, store, clock
        self._by = by
        self._key = None if by is None else reader_of("by", by)
        self._arrival = without_time == "arrival"
        self._without_time = without_time
        self._on_error, self._on_close, self._at_stop, self._grace = on_error, on_close, at_stop, grace
        self._close_timeout = close_timeout
        #: The memory answers at once: a coroutine less.
        self._add: Any = store.put if isinstance(store, MemoryWindowStore) else store.add
        self._closed_to = watermark.over
        self._closer = Closer(self._close, clock, on_tick=watermark.look_at_clock, report=self._report)
        self._limited, self._unclosed = Seldom(clock), Seldom(clock)

    @property
    def parameters(self) -> Mapping[str, object]:
        """The settings."""
        mark = self._watermark
        return {
            "of": {name: repr(reducer) for name, reducer in self._reducers.by_name.items()},
            "by": self._by if isinstance(self._by, str | None) else name_of_function(self._by, "..."),
            "size": mark.size / 1e6,
            "lateness": mark.lateness / 1e6,
            "without_time": self._without_time,
            "on_error": self._on_error,
            "at_stop": self._at_stop,
        }

    @property
    def status(self) -> Mapping[str, object]:
        """What was not counted, by reason, and what the store holds."""
        return {**super().status, "in_work": sum(self._watermark.held.values()), **self._store.status}

    def bind(self, call_next: Handler) -> Handler:
        """Return what hands an event on, then counts it."""
        mark, add, fold, arrival = self._watermark, self._add, self._reducers.fold, self._arrival
        place_of, hold, let_go = self._place, mark.hold, mark.let_go
        check_open = None if self._on_close is None else self.check_open

        async def counted(event: Event) -> Outcome:
            if check_open is not None:
                check_open()
            began = perf_counter()
            try:
                place = place_of(event)
            except Refusal:
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, it becomes a StageError, or a line in the log
                self._excuse(error, event, began)
                place = None
            if place is None:
                return await call_next(event)
            start, key, values = place
            hold(start)
            try:
                outcome = await call_next(event)
                try:
                    untimed = arrival and event.time_text is None  # and may have come before, in another window
                    name = event.key
                    if len(name[0]) + len(name[1]) > LONGEST:
                        name = short(name[0]), short(name[1])
                    added = add(start, key, name, values, fold, anywhere=untimed)
                    if type(added) is not str:
                        added = await added
                    if added != "counted":
                        self._note_added(added)
                except Exception as error:  # noqa: BLE001 - as above
                    self._excuse(error, event, began)
            finally:
                let_go(start)
            if self._closed_to != mark.over and self._closed_to != mark.free():
                await self._close_soon()
            return outcome

        return counted

    def _place(self, event: Event) -> tuple[int, str, list[Any]] | None:
        """Return window, key and values of ``event``, or None, counted, for one that has no place."""
        text = event._attributes.get("time")  # noqa: SLF001 - a property takes longer than all the rest here
        if text is not None:
            moment = moment_of_event(event, text)  # type: ignore[arg-type]  # it is text
        else:
            self.counts["untimed"] += 1
            if not self._arrival:
                return None
            moment = self._watermark.now()
        start = self._watermark.take(moment)
        if type(start) is str:
            self.counts[start] += 1
            return None
        key = "" if self._key is None else self._key(event)
        if type(key) is not str:
            key = text_of(key)
        return start, short(key), self._reducers.take(event)  # type: ignore[return-value]  # mypy reads no `type(...) is`

    def _note_added(self, added: Added) -> None:
        self.counts[added] += 1
        if added in {"overflow", "unremembered"}:
            self._limited.warn(f"stage {self.name}: a limit is reached: {added}", None)

    def _excuse(self, error: Exception, event: Event, began: float) -> None:
        self.counts["failed"] += 1
        if self._on_error == "fail":
            raise self.failure(error, event, began) from cause_of(error)
        log.warning("stage %s: not counted: %s", self.name, name_of(event), exc_info=error)

    # Closing.

    async def _close_soon(self) -> None:
        if self._on_close is None:
            await self._close()
        else:
            self._closer.wake()

    async def _close(self) -> bool:
        """Close what is over and hand it out; report what fails, and return whether nothing did."""
        over = self._watermark.free()
        try:
            errors = await self._store.close(over, self._hand_out if self._on_close else None)
            self._closed_to = over
        except BaseException as error:  # noqa: BLE001 - raised again if it is meant for this task
            self._raise_or_report(error)
            return False
        for failed in errors:
            self._report(failed)
        return not errors

    def _raise_or_report(self, error: BaseException) -> None:
        if ends_task(error):
            raise error
        self._report(error)

    def _report(self, error: BaseException) -> None:
        self.counts["unclosed"] += 1
        self._unclosed.warn(f"stage {self.name}: a window could not be closed, or handed out", error)

    async def _hand_out(self, tally: Tally) -> None:
        found = totals(self.name, self._reducers, tally, self._watermark.size)
        async with asyncio.timeout(self._close_timeout):
            try:
                await called(self._on_close, found)  # type: ignore[arg-type]  # there is one
            except BaseException as error:
                if isinstance(error, Exception) or ends_task(error):
                    raise
                raise RuntimeError(f"on_close ended with {type(error).__name__}") from error  # the rest goes on
        await asyncio.sleep(0)  # there may be thousands of keys

    def start(self) -> None:
        """Let windows close also when no event comes, if somebody is to learn of it."""
        begin_use(self._store, self, f"stage {self.name}", repr(self.parameters))
        if self._on_close is not None:
            self._closer.start()

    async def finish(self) -> None:
        """Hand out what is over, and with ``at_stop="flush"`` what is open; say what is left."""
        end_use(self._store, self)
        if self._at_stop == "flush":
            await self._end_all()
        if self._on_close is None:
            await self._close()
            return
        await self._closer.stop(self._grace)
        left = {name: count for name, count in self._store.status.items() if name in {"open", "waiting"} and count}
        if left:
            log.warning("stage %s: stopped with windows in memory, not handed out: %s", self.name, left)

    async def _end_all(self) -> None:
        try:
            still = [window.start for window in await self._store.windows() if not window.closed]
        except BaseException as error:  # noqa: BLE001 - raised again if it is meant for this task
            self._raise_or_report(error)
        else:
            self._watermark.end(max(still, default=NEVER))

    # Asking.

    async def query(self, key: object = "", at: datetime | str | None = None) -> Totals | None:
        """Return what is known of ``key`` in the window that ``at`` falls into, by default in the newest that has it.

        ``key`` may be what ``by`` selects or its text: text is itself, 7 is ``7``, True is ``true``, nothing is the
        empty text, a list is its JSON. ``at`` is an aware datetime or RFC 3339 text. Raises ValueError for another.
        """
        await self._look()
        start = None if at is None else self._watermark.start_of(_moment(at))
        tally = await self._store.read(short(text_of(key)), start)
        return None if tally is None else totals(self.name, self._reducers, tally, self._watermark.size)

    async def windows(self) -> list[Overview]:
        """Return the windows that are open or kept, the oldest first."""
        await self._look()
        return [overview(window, self._watermark.size) for window in await self._store.windows()]

    async def _look(self) -> None:
        self._watermark.look_at_clock()
        await self._close_soon()


def _moment(at: datetime | str) -> int:
    check_kind("at", at, (datetime, str), "a datetime or RFC 3339 text")
    when = datetime.fromisoformat(at) if isinstance(at, str) else at
    if when.tzinfo is None:
        raise ValueError(f"at: must have an offset, not {at} (a naive time names no moment: use tzinfo=UTC)")
    return moment_of(when)


def aggregate(
    of: Mapping[str, Reducer] | None = None,
    *,
    by: Selector | None = None,
    size: float = 60.0,
    lateness: float = 10.0,
    idle: float | None = 60.0,
    ahead: float = 3600.0,
    without_time: Literal["skip", "arrival"] = "skip",
    on_error: Literal["skip", "fail"] = "skip",
    on_close: OnClose | None = None,
    close_timeout: float = 30.0,
    at_stop: Literal["keep", "flush"] = "keep",
    grace: float = 10.0,
    store: WindowStore | None = None,
    clock: Clock = _CLOCK,
    name: str | None = None,
) -> Aggregate:
    """Count the events, and whatever else ``of`` names, per key and tumbling window of their own time.

    An event counts when what follows has taken it, once per source and id in its window. A window is over when an
    event comes whose time (never taken to be later than the clock) is ``lateness`` after its end, or when none came
    for ``idle`` seconds and the clock says so; it closes as soon as no event that came in time for it is in work.
    Every event goes on as it is; those that no window takes are counted as ``late``, ``untimed``, ``ahead``,
    ``repeated``, ``overflow`` or ``failed``.

    Args:
        of: reducers by the name of their value, such as ``{"revenue": sum_of("data.total")}``.
        by: the key: a path, the name of an attribute, or a function; events without it share the key "". Of one with
            more than 256 characters a digest is kept.
        size: length of a window in seconds; they begin at whole multiples of it since 1970, in UTC.
        lateness: seconds that a window waits for late events.
        idle: seconds without an event after which the clock closes what is over; None: never.
        ahead: seconds that an event may be ahead of the clock; what is more is not counted.
        without_time: ``arrival`` counts events without a time in the window they come in.
        on_error: what to do when an event's key, values or reducers fail, or the store: ``skip`` logs that the event
            is not counted, ``fail`` raises a `StageError`, so that it is sent again.
        on_close: called with the `Totals` of each key when its window closes, one at a time, until it once returns
            without an error. The stage then takes events only while it is open.
        close_timeout: seconds for one call of ``on_close``; then it has failed, and is made again later.
        at_stop: ``flush`` closes all windows when the stage is closed, for good: if it is opened again, what comes for
            them is late. ``keep`` leaves them open in the store.
        grace: seconds that ``on_close`` has to finish when the stage is closed.
        store: where windows are kept; by default a `stores.memory.MemoryWindowStore`, which ends with
            the process.
        clock: tells the time.
        name: name of the stage.
    """
    check_positive("size", size)
    check_not_negative("lateness", lateness)
    check_not_negative("ahead", ahead)
    check_not_negative("grace", grace)
    check_positive("close_timeout", close_timeout)
    if idle is not None:
        check_positive("idle", idle)
    check_choice("without_time", without_time, ("skip", "arrival"))
    check_choice("on_error", on_error, ("skip", "fail"))
    check_choice("at_stop", at_stop, ("keep", "flush"))
    if on_close is not None:
        check_callable("on_close", on_close)
    if store is not None:
        check_methods("store", store, "a WindowStore", "add", "close", "read", "windows")
    watermark = Watermark(clock, size=size, lateness=lateness, idle=idle, ahead=ahead)
    return Aggregate(
        Reducers({} if of is None else of),
        watermark,
        MemoryWindowStore() if store is None else store,
        clock,
        name=name,
        by=by,
        without_time=without_time,
        on_error=on_error,
        on_close=on_close,
        close_timeout=close_timeout,
        at_stop=at_stop,
        grace=grace,
    )
