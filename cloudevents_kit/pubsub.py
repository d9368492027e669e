"""Publish and subscribe: one event to everybody who wants it, and the truth about each.

    events = FanOut([Subscription("search", sender, filters.prefix(type="com.example.order."), retry=RetryPolicy())])

    @events.on("com.example.order.created")
    async def mail(event: Event, order: Order) -> None: ...

    published = await events.publish(event)        # a result per subscriber, and one for all by the policy

Subscribers are sinks, or handlers of this process. Each one has its own filter, queue, retries and dead letters: one
that is slow or dead holds up no other. What is queued is in memory; a `DurableFanOut` stores it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal, Self

from cloudevents_kit._arguments import (
    check_callable,
    check_count,
    check_flag,
    check_methods,
    check_not_negative,
    check_positive,
)
from cloudevents_kit._clock import Clock, SystemClock
from cloudevents_kit._contract import detach, log, name_of
from cloudevents_kit._correlation import inherit as inherit_from_current
from cloudevents_kit._errors import EventError
from cloudevents_kit._event import Event
from cloudevents_kit._outbox_store import Lag
from cloudevents_kit._pubsub._delivery import Delivery, Line
from cloudevents_kit._pubsub._durable import DurableFanOut
from cloudevents_kit._pubsub._published import (
    GIVEN_UP,
    PartialAck,
    Publication,
    Published,
    Queued,
    Unsent,
    is_safe,
    judge,
)
from cloudevents_kit._pubsub._subscribers import Subscribers
from cloudevents_kit._pubsub._subscription import Subscription
from cloudevents_kit._result import Ack, Nack, Result, Undelivered
from cloudevents_kit._tasks import Tasks
from cloudevents_kit.stages._policy import Policy, Quorum, names, needed, quorum
from cloudevents_kit.stages._report import tell
from cloudevents_kit.stages._stage import fate

if TYPE_CHECKING:
    from cloudevents.core.base import BaseCloudEvent

__all__ = [
    "DurableFanOut",
    "FanOut",
    "Lag",
    "PartialAck",
    "Published",
    "Queued",
    "Quorum",
    "Subscription",
    "Unsent",
    "quorum",
]

Report = Callable[[Event, Published], object]

_CLOSED = Undelivered(reason="closed", error="the fan-out was closed")
#: Seconds for dead letters and reports of what was cut off.
_LAST_WORDS = 10.0


class FanOut(Subscribers):
    """A sink that hands each event to every subscriber that wants it.

    Args:
        subscriptions: who is there from the beginning; see `subscribe`.
        policy: whether an event is acknowledged: if ``"all"`` subscribers that want it have handled it, `quorum` (n)
            of them, or, with ``"best_effort"``, in any case. One whose dead letter was taken counts as if it had.
        limit: subscribers that have one event at once; None for all. With 1 they have it one after the other.
        timeout: seconds that `publish` and `send` wait; who is not done then has failed. None: as long as the
            deadlines of the subscribers' policies say, which are 60 s unless told otherwise.
        unhandled: what becomes of an event that nobody wants: ``"reject"``, not to be sent again, or ``"ack"``.
        grace: seconds for what was published without waiting when the fan-out is closed.
        inherit: whether events get correlationid, causationid and trace of the event that is being handled.
        report: called, and awaited, with every event and what became of it, before `publish` returns. What it raises
            is logged.
        clock: for the waits between retries.
        name: for logs.
    """

    def __init__(
        self,
        subscriptions: Iterable[Subscription] = (),
        *,
        policy: Policy = "all",
        limit: int | None = None,
        timeout: float | None = None,
        unhandled: Literal["reject", "ack"] = "reject",
        grace: float = 10.0,
        inherit: bool = True,
        report: Report | None = None,
        clock: Clock | None = None,
        name: str = "fan_out",
    ) -> None:
        """Take events at once; `close` it, or use it in ``async with``, if anything is published without waiting."""
        needed(policy, 0)
        if limit is not None:
            check_count("limit", limit)
        if timeout is not None:
            check_positive("timeout", timeout)
        check_not_negative("grace", grace)
        check_flag("inherit", inherit)
        if report is not None:
            check_callable("report", report)
        if clock is not None:
            check_methods("clock", clock, "a Clock", "monotonic", "now", "sleep")
        super().__init__(name, unhandled, clock or SystemClock())
        self._policy, self._limit, self._timeout = policy, limit, timeout
        self._grace, self._inherit, self._report = grace, inherit, report
        self._closed = False
        self._tasks = Tasks(lambda error: log.error("%s: %r", name, error, exc_info=error))
        self._soon: dict[Delivery, asyncio.Task[None]] = {}
        self._unsent: list[Unsent] = []
        self.unsent: tuple[Unsent, ...] = ()
        """What the last `close` has returned."""
        for subscription in subscriptions:
            self.subscribe(subscription)

    # Sending.

    async def send(self, event: Event, /) -> Result:
        """Publish ``event``, and return what the policy makes of it; see `Published.result`."""
        try:
            return (await self.publish(event)).result
        except EventError as error:
            return Undelivered(reason="invalid-event", error=str(error))

    async def publish(
        self,
        event: Event | BaseCloudEvent,
        /,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - what a caller asks for gives results, not an error
    ) -> Published:
        """Hand ``event`` to everybody who wants it, wait for them, and return the result of each.

        ``timeout`` stands for that of the fan-out. Dead letters may take 5 s more. A caller that is cancelled ends
        what is at work. Raises EventError for what is no event.
        """
        if timeout is not None:
            check_positive("timeout", timeout)
        event = Event.of(event)
        wanted = self._wanted_by(event)
        if (refused := self._refusal(event, len(wanted))) is not None:
            return Published({}, refused)
        seconds = self._timeout if timeout is None else timeout
        due = None if seconds is None else asyncio.get_running_loop().time() + seconds
        outer = fate.get()
        if outer is not None:  # what becomes of the event there is not what becomes of the one that is handled here
            fate.set(None)
        try:
            results = await self._run(self._inherited(event), wanted, due)
            return await self._conclude(event, results)
        finally:
            if outer is not None:
                fate.set(outer)

    async def publish_soon(self, event: Event | BaseCloudEvent, /) -> Queued:
        """Hand ``event`` to the queues of everybody who wants it, and do not wait for what becomes of it.

        The end of the caller does not cancel it; its context is kept. Where the queue is full, the subscription's
        ``on_full`` says what happens; a caller that is cancelled while it waits for room takes back what still
        waits. Raises EventError for what is no event.
        """
        event = Event.of(event)
        wanted = self._wanted_by(event)
        if self._closed:
            return Queued(refused={line.name: _CLOSED for line, _ in wanted}, unhandled=not wanted)
        if not wanted:
            return Queued(unhandled=not self._note_unwanted(event))
        event = self._inherited(event)
        publication = Publication(event, (line.name for line, _ in wanted))
        deliveries = [Delivery(line, event, wanted=sure) for line, sure in wanted]
        tasks = {delivery: self._start(publication, delivery) for delivery in deliveries}
        refused: dict[str, Result] = {}
        try:
            for delivery, task in tasks.items():
                if delivery.refused or not await delivery.line.room():
                    await asyncio.wait([task])
                    refused[delivery.line.name] = publication.results[delivery.line.name]
        except asyncio.CancelledError:
            for delivery in deliveries:
                delivery.withdraw()
            raise
        return Queued(tuple(name for name in publication.results if name not in refused), refused)

    def _start(self, publication: Publication, delivery: Delivery) -> asyncio.Task[None]:
        """Send in a task of its own, which keeps the context of the caller."""

        def ended(_: object) -> None:
            del self._soon[delivery]
            delivery.leave()  # if the task was cancelled before its first step
            result, name = publication.results[delivery.line.name], delivery.line.name
            if (delivery.closed and not is_safe(result)) or result is GIVEN_UP:
                self._unsent.append(Unsent(delivery.event, name, delivery.begun))
                log.error("%s: given up before %s has handled it: %s", self.name, name, name_of(delivery.event))

        task = self._soon[delivery] = self._tasks.start(self._finish(publication, delivery))
        task.add_done_callback(ended)
        return task

    async def _finish(self, publication: Publication, delivery: Delivery) -> None:
        fate.set(None)
        detach()
        try:
            publication.results[delivery.line.name] = await delivery.run(patient=True)
        finally:
            publication.left -= 1
        if not publication.left:
            await self._conclude(publication.event, publication.results, waited=False)

    def _refusal(self, event: Event, count: int) -> Result | None:
        """Return the result of an event that is sent to nobody, though ``count`` want it."""
        if self._closed:
            return _CLOSED
        if not count:
            return self._note_unwanted(event)
        if needed(self._policy, count) > count:
            self.counts["refused"] += 1
            return Nack(503, f"{self._policy} cannot be reached: subscribers that want this: {count}", retryable=True)
        return None

    def _inherited(self, event: Event) -> Event:
        return inherit_from_current(event) if self._inherit else event

    async def _run(self, event: Event, wanted: list[tuple[Line, bool]], due: float | None) -> dict[str, Result]:
        """Send ``event``, to no more at once than may have it, and return the results in order."""
        results: dict[str, Result] = dict.fromkeys((line.name for line, _ in wanted), _CLOSED)
        waiting = (Delivery(line, event, wanted=sure) for line, sure in wanted)
        taken: list[Delivery] = []
        if self._limit is None:  # all take their turns at once, in the order of the calls
            taken = [*waiting]
            waiting = (delivery for delivery in taken)

        async def work() -> None:
            for delivery in waiting:
                results[delivery.line.name] = await delivery.run(due)

        try:
            others = min(self._limit or len(wanted), len(wanted)) - 1
            if not others:
                await work()
                return results
            async with asyncio.TaskGroup() as group:
                for _ in range(others):
                    group.create_task(work())
                await work()
            return results
        finally:
            for delivery in taken:
                delivery.leave()

    async def _conclude(self, event: Event, results: dict[str, Result], *, waited: bool = True) -> Published:
        published = Published(results, judge(results, self._policy))
        if published.result.__class__ is not Ack and (published.result or not waited):
            log.warning("%s: went on without %s: %s", self.name, names(published.failed), name_of(event))
        if self._report is not None and not await tell(self.name, self._report, event, published):
            self.counts["report_failed"] += 1
        return published

    # Closing.

    async def __aenter__(self) -> Self:
        """Take events, also after a `close`."""
        self._closed = False
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close; see `unsent`."""
        await self.close()

    async def close(self, grace: float | None = None) -> tuple[Unsent, ...]:
        """Send what was published without waiting, and what that leads to; return, and log, what was not sent in time.

        After ``grace``, by default that of the fan-out, what waits is not sent, what is at work is cancelled, dead
        letters are handed over, and every event is refused.
        """
        if grace is not None:
            check_not_negative("grace", grace)
        await asyncio.sleep(0)  # every task has begun
        try:
            async with asyncio.timeout(self._grace if grace is None else grace):
                while self._soon:
                    await asyncio.wait([*self._soon.values()])
        except TimeoutError:
            pass  # what is left is told of
        finally:
            self._closed = True
            for line in self._lines.values():
                line.refuse_waiting()
            for delivery, task in self._soon.items():
                delivery.cut_off(task)
            await self._tasks.close(_LAST_WORDS)
            self.unsent, self._unsent = tuple(self._unsent), []
        return self.unsent
