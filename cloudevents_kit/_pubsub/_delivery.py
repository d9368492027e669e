"""How an event gets to one subscriber, or to its dead letters.

A `Line` is a subscription at work, a `Delivery` one event on its way there. Whatever happens to it becomes a result
for that subscriber alone. Knows nothing of other subscribers.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Hashable
from dataclasses import replace
from typing import Any

from cloudevents_kit._clock import Clock
from cloudevents_kit._contract import hand_off, log, name_of
from cloudevents_kit._deadline import Deadlines, Expired
from cloudevents_kit._event import Event
from cloudevents_kit._hand_over import hand_over
from cloudevents_kit._pubsub._subscription import Subscription, as_sink
from cloudevents_kit._result import Ack, Attempt, Nack, Result, Undelivered
from cloudevents_kit._retry import RetryPolicy, run
from cloudevents_kit._tasks import is_cancelled
from cloudevents_kit.stages._policy import Failure, error_of
from cloudevents_kit.stages._turns import Turn, Turns

#: Seconds for a dead letter to be taken.
DEAD_LETTER_LIMIT = 5.0
_NO_LIMIT = 1e9
#: Added to every limit, as in the stage `retry`: what comes exactly at its end comes in time.
_HAIR = 1e-6
_RESULTS = (Ack, Nack, Undelivered)
_FAILED = Nack(status=500, reason="the subscriber failed", retryable=True)
NO_FILTER = Nack(status=500, reason="the filter of the subscription failed", retryable=True)
NO_KEY = Nack(status=500, reason="the key of the subscription failed", retryable=True)
_NOT_IN_TIME = Undelivered(reason="timeout", error="the time was up before it was sent")
_CANCELLED = Undelivered(reason="closed", error="the subscription was cancelled")
_WITHDRAWN = Undelivered(reason="closed", error="the publisher was cancelled")
_CLOSED = Undelivered(reason="closed", error="the fan-out was closed")


class Line:
    """A subscription at work."""

    def __init__(self, subscription: Subscription, clock: Clock, counts: Counter[str]) -> None:
        """Begin with no event; ``counts`` are those of all subscriptions."""
        self.subscription = subscription
        self.name = subscription.name
        self.sink = as_sink(subscription.sink, subscription.concurrency)
        self.turns = Turns(subscription.concurrency)
        self.policy = subscription.retry or RetryPolicy.none()
        limit = self.policy.deadline
        self.deadlines = Deadlines(_NO_LIMIT if limit is None else limit + _HAIR)
        self.cancelled = False
        self.blocked: deque[asyncio.Future[bool]] = deque()
        """Publishers that wait for room; False tells them that there will be none."""
        self._clock = clock
        self._counts = counts

    def is_full(self, key: Hashable) -> bool:
        """Tell whether there is no room for one more."""
        return self.turns.waiting >= self.subscription.capacity and not self.turns.is_free(key)

    async def room(self) -> bool:
        """Wait until no more than may wait do so; return False if the line was closed before."""
        if self.turns.waiting <= self.subscription.capacity:
            return True
        room: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.blocked.append(room)
        try:
            return await room
        except asyncio.CancelledError:
            if room in self.blocked:
                self.blocked.remove(room)
            raise

    def make_room(self) -> None:
        """Let those go on whose events have got room."""
        while self.blocked and self.turns.waiting - len(self.blocked) < self.subscription.capacity:
            room = self.blocked.popleft()
            if not room.done():
                room.set_result(True)

    def refuse_waiting(self) -> None:
        """Let nothing begin that has not begun."""
        self.turns.refuse_all()
        for room in self.blocked:
            if not room.done():
                room.set_result(False)
        self.blocked.clear()

    def cancel(self) -> None:
        """Let no more event through; what is at work ends as it would have."""
        self.cancelled = True
        self.refuse_waiting()

    async def send(self, event: Event, tried: list[Attempt]) -> Result:
        """Send ``event`` as often as the policy says, and note each attempt in ``tried`` if there may be several."""
        policy, now = self.policy, self._clock.monotonic
        if policy.attempts == 1:
            return await self.once(event)

        async def attempt(number: int, wait: float) -> Result:
            began = now()
            result = await self.once(event)
            status = None if isinstance(result, Undelivered) else result.status
            error = result.reason if isinstance(result, Undelivered) else None
            tried.extend(result.attempts or [Attempt(number, status, error, wait, now() - began)])
            if isinstance(result, Nack) and not policy.retryable(result.status):
                return replace(result, retryable=False)
            return result

        began = now()
        result = await run(policy, attempt, self._clock, began)
        return replace(result, attempts=tuple(tried), elapsed=now() - began)

    async def once(self, event: Event) -> Result:
        """Send ``event``, whatever the subscriber does."""
        try:
            result: Any = await self.sink.send(event)
        except Exception as error:  # noqa: BLE001 - one subscriber must not harm another
            log.exception("subscriber %s failed: %s", self.name, name_of(event))
            return replace(_FAILED, cause=error)
        if not isinstance(result, _RESULTS):
            log.error("subscriber %s returned %s, which is no result", self.name, type(result).__name__)
            return _FAILED
        return result

    async def bury(self, event: Event, failure: Failure) -> Failure:
        """Hand what failed in the end to the dead letters, if there are any, and tell whether they took it."""
        self._counts[f"failed.{self.name}"] += 1
        taker = self.subscription.dead_letter
        if taker is None or failure.dead_lettered or failure is _CANCELLED:
            return failure
        try:
            await hand_over(taker, event, error_of(self.name, failure), DEAD_LETTER_LIMIT)
        except Exception:  # noqa: BLE001 - told, and in the result
            log.exception("subscriber %s: its dead letter was not taken: %s", self.name, name_of(event))
            self._counts[f"dead_letter_failed.{self.name}"] += 1
            status = failure.status if isinstance(failure, Nack) else 502
            reason = f"{failure.reason}; its dead letter was not taken"  # so it is to come again, whatever it was
            return Nack(status, reason, retryable=True, attempts=failure.attempts, elapsed=failure.elapsed)
        hand_off(event)
        self._counts[f"dead_lettered.{self.name}"] += 1
        return replace(failure, dead_lettered=True)


class Delivery:
    """One event on its way to one subscriber. Whoever makes one runs it, or lets it `leave`."""

    __slots__ = (
        "_cut",
        "_ended",
        "_holds",
        "_key",
        "_refused",
        "_tried",
        "_turn",
        "_withdrawn",
        "begun",
        "closed",
        "event",
        "line",
    )

    def __init__(self, line: Line, event: Event, *, wanted: bool = True) -> None:
        """Take a turn in ``line``; not ``wanted`` means that its filter could not tell."""
        self.line, self.event = line, event
        self.begun = False
        """Whether the subscriber has got the event."""
        self.closed = False
        """Whether the fan-out was closed before this was done."""
        self._tried: list[Attempt] = []
        self._cut = self._ended = self._holds = self._withdrawn = False
        self._key: Hashable = None
        self._turn: Turn = None
        self._refused: Failure | None = None if wanted else NO_FILTER
        find = line.subscription.key
        if find is not None and wanted:
            try:
                self._key = find(event)
                hash(self._key)
            except Exception:  # noqa: BLE001 - one subscriber must not harm another
                log.exception("subscriber %s: its key failed: %s", line.name, name_of(event))
                self._refused = NO_KEY
        if line.cancelled:
            self._refused = _CANCELLED
        elif self._refused is None and line.subscription.on_full == "refuse" and line.is_full(self._key):
            error = f"{line.subscription.capacity} events wait for the subscriber already"
            self._refused = Undelivered(reason="overload", error=error)
        if self._refused is None:
            self._turn = line.turns.ask(self._key)
            self._holds = True

    @property
    def refused(self) -> bool:
        """Whether it will not be sent."""
        return self._refused is not None

    async def run(self, due: float | None = None, *, patient: bool = False) -> Result:
        """Send the event, and return what became of it.

        It is over at ``due``, by the loop's time, or when the deadline of the subscription's policy has passed; if
        ``patient``, that begins to run when the event's turn has come.
        """
        try:
            result = await self._send(due, patient=patient) if self._refused is None else self._refused
        except asyncio.CancelledError:
            task: Any = asyncio.current_task()
            if self._cut:
                task.uncancel()
                self.closed = True
                result = replace(_CLOSED, possibly_delivered=self.begun, attempts=tuple(self._tried))
            elif is_cancelled():
                self.leave()
                raise
            else:
                result = replace(_FAILED, reason="the subscriber was cancelled")  # though not from here
        self._ended = True
        try:
            if isinstance(result, Ack) or self._withdrawn:
                return result
            return await self.line.bury(self.event, result)
        finally:
            self.leave()

    async def _send(self, due: float | None, *, patient: bool) -> Result:
        line = self.line
        if patient and self._turn is not None and not await self._turn_comes():
            return self._not_begun()
        try:
            if due is None and self._turn is None:
                return await line.deadlines.limit(self._work())  # cheaper, if it ends without ever waiting
            with line.deadlines:
                if due is not None:
                    left = due - asyncio.get_running_loop().time()
                    if left <= 0:
                        return _NOT_IN_TIME
                    line.deadlines.shorten(left)
                return await self._work()
        except Expired as error:
            text = f"no result within {error.elapsed:.1f} s"
            return Undelivered("timeout", text, self.begun, tuple(self._tried), error.elapsed)

    async def _work(self) -> Result:
        if self._turn is not None and not await self._turn_comes():
            return self._not_begun()
        if self.line.cancelled or self._cut:
            return self._not_begun()
        self.begun = True
        return await self.line.send(self.event, self._tried)

    async def _turn_comes(self) -> bool:
        turn: Any = self._turn
        self._holds = False  # a waiter that is cancelled has given its turn up
        if not await self.line.turns.wait(turn, self._key):
            return False
        self._holds, self._turn = True, None
        self.line.make_room()
        return True

    def _not_begun(self) -> Undelivered:
        if self._withdrawn:
            return _WITHDRAWN
        self.closed = not self.line.cancelled
        return _CLOSED if self.closed else _CANCELLED

    def withdraw(self) -> None:
        """Do not send it, and tell nobody, if it still waits for its turn."""
        if self._turn is not None and not self._turn.done():
            self._withdrawn = True
            self.line.turns.give_up(self._turn, self._key)
            self._turn.set_result(False)

    def cut_off(self, task: asyncio.Task[None]) -> None:
        """End what the subscriber does with the event, which ``task`` has, but not what becomes of it then."""
        if not self._ended:
            self._cut = True
            if self.begun:
                task.cancel()

    def leave(self) -> None:
        """Give the turn back, if there is one."""
        if self._holds:
            self._holds = False
            self.line.turns.give_up(self._turn, self._key)
        self.line.make_room()
