"""A stage that lets an event go on at once, while a branch works on it in a task of its own."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from contextvars import Context, copy_context
from functools import partial
from typing import Literal

from cloudevents_kit._arguments import check_callable, check_choice, check_count, check_not_negative
from cloudevents_kit._contract import Handler, Outcome, detach, log, name_of, settle
from cloudevents_kit._event import Event
from cloudevents_kit._result import Nack, Result
from cloudevents_kit._tasks import Tasks, is_cancelled
from cloudevents_kit.stages._adapt import Branch, as_branch
from cloudevents_kit.stages._holding import Holding
from cloudevents_kit.stages._report import tell
from cloudevents_kit.stages._stage import Stage, fate

Report = Callable[[Event, Result], object]

_CUT_OFF = Nack(status=503, reason="cut off when the stage was closed", retryable=True)
_STRAY = Nack(status=500, reason="the branch was cancelled", retryable=True)
#: Seconds for the report function to take note of events that were cut off.
_LAST_REPORTS = 5.0


class _Background(Holding):
    kind = "background"

    def __init__(
        self,
        branch: Branch,
        *,
        limit: int,
        max_waiting: int,
        on_full: Literal["wait", "refuse"],
        grace: float,
        report: Report | None,
        name: str | None,
    ) -> None:
        super().__init__(name)
        self._branch = branch
        self._handler = as_branch(branch)
        self._limit, self._max_waiting = limit, max_waiting
        self._on_full = on_full
        self._grace = grace
        self._report = report
        self._tasks = Tasks(partial(log.error, "stage %s: %r", self.name))
        self._running: set[asyncio.Task[None]] = set()
        self._waiting: deque[tuple[Event, Context]] = deque()
        # Those that found no room: each goes on when its future says whether it has got some.
        self._blocked: dict[asyncio.Future[bool], tuple[Event, Context]] = {}

    @property
    def parameters(self) -> Mapping[str, object]:
        return {"limit": self._limit, "max_waiting": self._max_waiting, "on_full": self._on_full, "grace": self._grace}

    @property
    def branches(self) -> Mapping[str, object]:
        return {"branch": self._branch}

    @property
    def status(self) -> Mapping[str, object]:
        return {**self.counts, "running": len(self._running), "waiting": len(self._waiting)}

    async def run(self, event: Event, call_next: Handler) -> Outcome:
        """Hand the event over and go on."""
        self.check_open()
        item = event, copy_context()
        if self._blocked or not self._place(*item):
            if self._on_full == "refuse":
                raise self.refusal("too many events are waiting")
            await self._wait_for_room(item)
        return await call_next(event)

    async def _wait_for_room(self, item: tuple[Event, Context]) -> None:
        room: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._blocked[room] = item
        try:
            got_room = await room
        finally:
            self._blocked.pop(room, None)
        if not got_room:
            raise self.refusal("closed")

    def _place(self, event: Event, context: Context) -> bool:
        """Start work on ``event``, or let it wait for that; return False if there is no room."""
        if len(self._running) < self._limit:
            task = self._tasks.start(self._work(event), context)
            self._running.add(task)
            task.add_done_callback(self._ended)
            return True
        if len(self._waiting) < self._max_waiting:
            self._waiting.append((event, context))
            return True
        return False

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Give the room that has become free to those who have waited longest."""
        self._running.discard(task)
        if self._waiting:
            self._place(*self._waiting.popleft())
        for room, item in [*self._blocked.items()]:
            if not room.done():  # else its request was cancelled just now
                if not self._place(*item):
                    return
                room.set_result(True)
            del self._blocked[room]

    async def _work(self, event: Event) -> None:
        fate.set(None)  # what becomes of the event here is not what becomes of it
        detach()
        try:
            result = await settle(self._handler, event)
        except asyncio.CancelledError:
            if is_cancelled():
                self._note_cut_off(event)
                await self._tell_last(event)
                raise
            result = _STRAY
            log.error("stage %s: the branch was cancelled: %s", self.name, name_of(event))
        self.counts["done" if result else "failed"] += 1
        await self._tell(event, result)

    async def _tell(self, event: Event, result: Result) -> None:
        if self._report is not None and not await tell(self.name, self._report, event, result):
            self.counts["report_failed"] += 1

    async def _tell_last(self, *events: Event) -> None:
        try:
            async with asyncio.timeout(_LAST_REPORTS):
                for event in events:
                    await self._tell(event, _CUT_OFF)
        except TimeoutError:
            self.counts["report_failed"] += 1
            log.exception("stage %s: its report function took too long", self.name)

    def _note_cut_off(self, event: Event) -> None:
        self.counts["cut_off"] += 1
        log.error("stage %s: cut off: %s", self.name, name_of(event))

    def start(self) -> None:
        """There is nothing to begin."""

    async def finish(self) -> None:
        """Wait for the events that are here, at most for the grace period, and cut off the rest."""
        for room in self._blocked:
            if not room.done():
                room.set_result(False)
        self._blocked.clear()
        try:
            async with asyncio.timeout(self._grace):
                while self._running:
                    await asyncio.wait([*self._running])
        except TimeoutError:
            pass  # those that are left are told of one by one
        finally:
            left = [event for event, _ in self._waiting]
            self._waiting.clear()
            for event in left:
                self._note_cut_off(event)
            await self._tasks.close()
            await self._tell_last(*left)


def background(
    branch: Branch,
    *,
    limit: int = 100,
    max_waiting: int = 1000,
    on_full: Literal["wait", "refuse"] = "wait",
    grace: float = 10.0,
    report: Report | None = None,
    name: str | None = None,
) -> Stage:
    """Hand each event to ``branch`` in a task of its own, and let it go on at once.

    What the branch does is not part of the answer: use it for work that may be lost when the process dies. The end of
    the request does not cancel it. What it raises is logged, and counted as ``failed``. When the chain is closed, what
    is running or waiting has ``grace`` to end; then it is cancelled, logged and counted as ``cut_off``.

    Args:
        branch: a handler or a sink, or a stage, here followed by nothing.
        limit: events in work at once.
        max_waiting: events that wait for that at most.
        on_full: what becomes of one more: ``"wait"`` until there is room, or ``"refuse"``, which answers 503.
        grace: seconds.
        report: called, and awaited, with each event and its result, once the branch has ended or was cut off. What it
            raises is logged.
        name: of this stage.
    """
    check_count("limit", limit)
    check_count("max_waiting", max_waiting, least=0)
    check_choice("on_full", on_full, ("wait", "refuse"))
    check_not_negative("grace", grace)
    if report is not None:
        check_callable("report", report)
    return _Background(
        branch, limit=limit, max_waiting=max_waiting, on_full=on_full, grace=grace, report=report, name=name
    )
