"""Stages that guard a handler, or what it calls: repeat it, limit its time, limit how much of it goes on at once.

Each one is transparent as long as all goes well. Knows nothing of rates and circuits, which keep accounts by key.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Coroutine, Mapping
from dataclasses import replace
from time import perf_counter
from types import CoroutineType
from typing import Any, NoReturn

from cloudevents_kit._arguments import check_count, check_kind, check_methods, check_positive
from cloudevents_kit._clock import Clock, SystemClock
from cloudevents_kit._contract import DONE, Handler, Outcome, verdict
from cloudevents_kit._deadline import Deadlines, Expired
from cloudevents_kit._errors import cause_of
from cloudevents_kit._event import Event
from cloudevents_kit._result import Nack, Result
from cloudevents_kit._retry import RetryPolicy, next_delay, run
from cloudevents_kit.stages._stage import Stage, Withheld

_SYSTEM = SystemClock()
_DEFAULT = RetryPolicy()
#: Added to every limit: what comes exactly at its end comes in time.
_HAIR = 1e-6


async def _awaited(work: Awaitable[Outcome]) -> Outcome:
    return await work


def _as_coroutine(work: Awaitable[Outcome]) -> Coroutine[Any, Any, Outcome]:
    return work if type(work) is CoroutineType else _awaited(work)


class _Tries:
    """What `retry` knows of one event."""

    __slots__ = ("began", "last", "number")

    def __init__(self, began: float) -> None:
        self.began = began
        self.number = 1
        self.last: Any = None  # the error of the last one


class _Retry(Stage):
    kind = "retry"

    def __init__(self, policy: RetryPolicy, clock: Clock, name: str | None) -> None:
        check_kind("policy", policy, RetryPolicy, "a RetryPolicy")
        check_methods("clock", clock, "a Clock", "monotonic", "now", "sleep")
        super().__init__(name)
        self._policy = policy
        self._clock = clock
        self._deadlines = Deadlines(policy.deadline + _HAIR) if policy.deadline is not None else None

    @property
    def parameters(self) -> Mapping[str, object]:
        policy = self._policy
        return {
            "attempts": policy.attempts,
            "initial": policy.initial,
            "factor": policy.factor,
            "max_delay": policy.max_delay,
            "deadline": policy.deadline,
        }

    def bind(self, call_next: Handler) -> Handler:
        deadlines, now = self._deadlines, self._clock.monotonic

        async def tried(event: Event, tries: _Tries) -> Outcome:
            try:
                return await call_next(event)
            except Exception as error:
                if self._delay(error, event, tries) is None:
                    raise
                tries.last = error
            return await self._again(event, call_next, tries)

        async def limited(event: Event) -> Outcome:
            tries = _Tries(now())
            if deadlines is None:
                return await tried(event, tries)
            try:
                return await deadlines.limit(tried(event, tries))
            except Expired as error:
                if error.deadlines is not deadlines:
                    raise
                self.counts["timed_out"] += 1
                began = perf_counter() - error.elapsed
                raise self.failure(error, event, began, kind="timeout", attempts=tries.number) from error

        return limited

    def _judged(self, error: Exception, event: Event) -> Nack:
        nack = verdict(error, event)
        return nack if self._policy.retryable(nack.status) else replace(nack, retryable=False)

    def _delay(self, error: Exception, event: Event, tries: _Tries) -> float | None:
        """Return None if the first attempt is the only one."""
        elapsed = self._clock.monotonic() - tries.began
        return next_delay(self._policy, 1, self._judged(error, event), elapsed=elapsed, chance=0.0)

    async def _again(self, event: Event, call_next: Handler, tries: _Tries) -> Outcome:
        outcome: Outcome = None

        async def attempt(number: int, _wait: float) -> Result:
            nonlocal outcome
            if number > 1:
                self.counts["retried"] += 1
                tries.number = number
                try:
                    outcome = await call_next(event)
                except Exception as error:  # noqa: BLE001 - what it means is asked below
                    tries.last = error
                else:
                    return DONE
            return self._judged(tries.last, event)

        try:
            result = await run(self._policy, attempt, self._clock, tries.began)
            if result is DONE:
                return outcome
            self._give_up(tries.last, result, event, tries)
        finally:
            tries.last = None  # else the error and the frames it went through would keep each other

    def _give_up(self, error: Exception, result: Result, event: Event, tries: _Tries) -> NoReturn:
        try:
            if tries.number == 1 or not (isinstance(result, Nack) and result.retryable):
                raise error
            self.counts["exhausted"] += 1
            began = perf_counter() - (self._clock.monotonic() - tries.began)
            raise self.failure(error, event, began, kind="exhausted", attempts=tries.number) from cause_of(error)
        finally:
            del error  # as above


def retry(policy: RetryPolicy = _DEFAULT, *, clock: Clock = _SYSTEM, name: str | None = None) -> Stage:
    """Hand on the event again, as ``policy`` says, when what lies further in fails in a way that may pass.

    What is final, such as a `Reject`, passes at once. After several attempts the stage gives up with a `StageError` of
    kind ``exhausted``, which means what the last error means. The deadline of the policy holds over everything; when it
    cuts an attempt short the kind is ``timeout``.

    An attempt begins when the one before has ended. Only a thread cannot be ended: a plain handler, or one that uses
    threads, may run on after a time limit, beside the next attempt.
    """
    return _Retry(policy, clock, name)


class _Timeout(Stage):
    kind = "timeout"

    def __init__(self, seconds: float, name: str | None) -> None:
        check_positive("seconds", seconds)
        super().__init__(name)
        self._seconds = seconds
        self._deadlines = Deadlines(seconds + _HAIR)

    @property
    def parameters(self) -> Mapping[str, object]:
        return {"seconds": self._seconds}

    def bind(self, call_next: Handler) -> Handler:
        deadlines = self._deadlines

        async def limited(event: Event) -> Outcome:
            try:
                return await deadlines.limit(_as_coroutine(call_next(event)))
            except Expired as error:
                if error.deadlines is not deadlines:
                    raise
                self.counts["timed_out"] += 1
                raise self.failure(error, event, perf_counter() - error.elapsed, kind="timeout") from error

        return limited


def timeout(seconds: float, *, name: str | None = None) -> Stage:
    """Cancel what lies further in when it takes more than ``seconds``, and stop with a `StageError`.

    Its kind is ``timeout``; it is raised once what was cancelled has ended. Only a thread cannot be ended: a plain
    handler runs on, and nobody learns what becomes of it. A `TimeoutError` that comes from further in passes unchanged.
    """
    return _Timeout(seconds, name)


class Bulkhead(Stage):
    """Lets a limited number of events in at once; made by `bulkhead`."""

    kind = "bulkhead"

    def __init__(self, limit: int, *, max_waiting: int, retry_after: float, name: str | None) -> None:
        """Let ``limit`` events in at once."""
        check_count("limit", limit)
        check_count("max_waiting", max_waiting, least=0)
        check_positive("retry_after", retry_after)
        super().__init__(name)
        self._limit = limit
        self._max_waiting = max_waiting
        self._retry_after = retry_after
        self._inside = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def parameters(self) -> Mapping[str, object]:
        """The settings."""
        return {"limit": self._limit, "max_waiting": self._max_waiting, "retry_after": self._retry_after}

    @property
    def status(self) -> Mapping[str, object]:
        """The counts, and how many events are inside and waiting now."""
        return {**self.counts, "inside": self._inside, "waiting": len(self._waiting)}

    def resize(self, limit: int) -> None:
        """Let ``limit`` events in at once from now on. With a lower one, those inside are left to finish."""
        self._limit = check_count("limit", limit)
        self._admit()

    async def run(self, event: Event, call_next: Handler) -> Outcome:
        """Hand on ``event`` when there is room for it."""
        if self._inside < self._limit:  # then nobody waits
            self._inside += 1
        else:
            await self._wait()
        try:
            return await call_next(event)
        finally:
            self._inside -= 1
            if self._waiting:
                self._admit()

    def _admit(self) -> None:
        """Give the places that are free to those who wait, in the order of their coming."""
        while self._waiting and self._inside < self._limit:
            waiter = self._waiting.popleft()
            if not waiter.done():  # else it was cancelled, and has not run since
                self._inside += 1
                waiter.set_result(None)

    async def _wait(self) -> None:
        if len(self._waiting) >= self._max_waiting:
            self.note("refused")
            raise Withheld(self._retry_after, f"too many events at once ({self.name})")
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled():  # it was given a place, which it cannot use
                self._inside -= 1
                self._admit()
            elif waiter in self._waiting:
                self._waiting.remove(waiter)
            raise


def bulkhead(limit: int, *, max_waiting: int = 0, retry_after: float = 1.0, name: str | None = None) -> Bulkhead:
    """Let at most ``limit`` events be further in at once.

    Up to ``max_waiting`` more wait for their turn, first come, first served. The others are answered 503, to be sent
    again after ``retry_after`` seconds, and counted as ``refused``.
    """
    return Bulkhead(limit, max_waiting=max_waiting, retry_after=retry_after, name=name)
