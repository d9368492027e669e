"""The queue with a store: an event is acknowledged when it is stored, and worked on later, until it is done."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from contextvars import copy_context
from dataclasses import replace
from time import perf_counter
from typing import Any, NamedTuple

from cloudevents_kit._arguments import check_kind, check_methods, check_positive
from cloudevents_kit._clock import SystemClock
from cloudevents_kit._contract import ACCEPTED, Handler, Outcome, log, name_of, settle, verdict
from cloudevents_kit._deadline import Deadlines
from cloudevents_kit._errors import StageError, cause_of
from cloudevents_kit._event import Event
from cloudevents_kit._hand_over import Taker, check_taker, hand_over
from cloudevents_kit._result import Ack
from cloudevents_kit._retry import RetryPolicy, next_delay
from cloudevents_kit._sharing import begin_use, end_use
from cloudevents_kit._tasks import Tasks
from cloudevents_kit.stages._calls import ends_task
from cloudevents_kit.stages._keys import key_of, written
from cloudevents_kit.stages._queue_base import Queue, Settings
from cloudevents_kit.stages._queue_store import QueueStore
from cloudevents_kit.stages._seldom import Seldom

_POLICY = RetryPolicy(attempts=5, initial=1.0, max_delay=60.0, deadline=None)
_LAST_WORDS = 5.0


class _Leased(NamedTuple):
    token: str
    event: Event
    attempts: int


class StoredQueue(Queue):
    """Use `queue` with a store."""

    takes_over = True
    """Whoever is further out learns that an event is stored, and not what becomes of it."""

    def __init__(
        self,
        store: QueueStore,
        settings: Settings,
        *,
        retry: RetryPolicy | None,
        dead_letter: Taker | None,
        lease: float,
        poll: float,
        name: str | None,
    ) -> None:
        super().__init__(settings, name)
        check_methods("store", store, "a QueueStore", "put", "lease", "ack", "nack", "extend")
        if retry is not None:
            check_kind("retry", retry, RetryPolicy, "a RetryPolicy")
        check_taker("dead_letter", dead_letter)
        check_positive("lease", lease)
        check_positive("poll", poll)
        self._store, self._dead_letter, self._lease, self._poll = store, dead_letter, lease, poll
        self._policy = replace(retry or _POLICY, deadline=None)
        self._handler: Handler | None = None
        self._limit = Deadlines(lease * 0.9)
        self._trouble = Seldom(SystemClock())
        self._running = 0
        self._full: deque[asyncio.Future[None]] = deque()
        self._resting: deque[asyncio.Future[None]] = deque()
        self._at_work: dict[int, asyncio.Task[None]] = {}

    @property
    def running(self) -> int:
        return self._running

    @property
    def waiting(self) -> int:
        return len(self._full)

    def bind(self, call_next: Handler) -> Handler:
        """Raise ValueError in a second chain: what is stored does not tell where it came from."""
        if self._handler is not None and self._handler is not call_next:
            raise ValueError(f"{self.name}: a queue with a store can be in one chain only")
        self._handler = call_next
        return super().bind(call_next)

    async def run(self, event: Event, call_next: Handler) -> Outcome:  # noqa: ARG002 - that is for the workers
        self.check_open()
        find = self._settings.key
        began = perf_counter()
        try:
            key = None if find is None else written(key_of(self, find, event))
        except TypeError as error:
            raise self.failure(error, event, began) from error
        while not await self._put(event, key, began):
            if self._settings.on_full == "refuse":
                raise self.refusal("the queue is full", self._settings.retry_after)
            await self._rest(self._full)
            self.check_open()
        self.counts["stored"] += 1
        _wake(self._resting)
        return ACCEPTED

    async def _put(self, event: Event, key: str | None, began: float) -> bool:
        try:
            return await self._store.put(event, key=key, capacity=self._settings.capacity)
        except Exception as error:  # noqa: BLE001 - the sender sends again
            raise self.failure(error, event, began) from cause_of(error)

    async def _rest(self, line: deque[asyncio.Future[None]]) -> None:
        """Wait in ``line`` to be woken, but not longer than to the next look into the store."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line.append(future)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._poll):
                    await future
        finally:
            with suppress(ValueError):
                line.remove(future)

    def start(self) -> None:
        if self._handler is None:
            raise RuntimeError(f"{self.name}: a queue with a store must be part of a chain before it is opened")
        begin_use(self._store, self, f"stage {self.name}", self._handler)
        self._tasks = Tasks(lambda error: log.error("stage %s: a worker failed", self.name, exc_info=error))
        self._closing = False
        self._context = copy_context()
        self._hire()

    def resized(self) -> None:
        if self._users and not self._closing:
            self._hire()

    def _hire(self) -> None:
        for number in range(self._workers):
            if number not in self._at_work:
                self._at_work[number] = self._tasks.start(self._serve(number), self._context.copy())

    async def finish(self) -> None:
        """Let the workers end what they have; what is cut off stays in the store."""
        self._closing = True
        end_use(self._store, self)
        for line in (self._resting, self._full):
            while line:
                _wake(line)
        try:
            await self._tasks.close(self._settings.grace)
        finally:
            self._limit.close()
            self._at_work.clear()

    async def _serve(self, number: int) -> None:
        """Work until there are to be fewer workers, or none, whatever goes wrong."""
        try:
            while number < self._workers and not self._closing:
                found = False
                try:
                    found = await self._go_on()
                except BaseException as error:
                    if ends_task(error):
                        raise
                    self._blame("nothing can be leased", error)  # the next look may succeed
                if not found and not self._closing:
                    await self._rest(self._resting)
        finally:
            self._at_work.pop(number, None)

    async def _go_on(self) -> bool:
        """Work on the next event; return False if there is none."""
        found = await self._store.lease(self._lease)
        if found is None:
            return False
        try:
            await self._work_on(_Leased(*found))
        finally:
            _wake(self._full)
        return True

    async def _work_on(self, leased: _Leased) -> None:
        self._running += 1
        attempted = False
        began = perf_counter()
        try:
            error = await self._attempt(leased)
            attempted = True
            await self._conclude(leased, error, began)
        except BaseException as error:
            if not ends_task(error):  # the lease expires, and the event is leased again
                self._blame(f"the store was not told of the end of {name_of(leased.event)}", error)
                return
            if isinstance(error, asyncio.CancelledError):
                with suppress(Exception):  # else the lease expires
                    async with asyncio.timeout(_LAST_WORDS):
                        await self._store.nack(leased.token, delay=0.0, attempted=attempted)
            raise
        finally:
            self._running -= 1

    async def _attempt(self, leased: _Leased) -> Exception | None:
        """Run the chain with the event; return what went wrong."""
        if not self._is_left(leased):  # it was leased so often, and nobody lived to tell
            return RuntimeError("every attempt ended with its worker")
        handler: Any = self._handler
        failed: list[Exception] = []

        async def attempt(event: Event) -> Outcome:
            try:
                return await handler(event)  # type: ignore[no-any-return]
            except StageError as error:
                failed.append(error.within(self.name))
                failed[0].__cause__ = error.__cause__
                raise
            except Exception as error:
                failed.append(error)
                raise

        try:
            with self._limit:
                result = await settle(attempt, leased.event)
        except TimeoutError as error:
            log.warning("stage %s: out of time: %s", self.name, name_of(leased.event))
            return error
        except BaseException as error:
            if ends_task(error):
                raise
            return _odd(error)
        if isinstance(result, Ack):
            self.counts["unanswered"] += result.reply is not None
            return None
        return failed[0] if failed else RuntimeError("the handler returned what is no outcome")

    def _is_left(self, leased: _Leased) -> bool:
        """Tell whether there is an attempt left."""
        return leased.attempts <= self._policy.attempts

    async def _conclude(self, leased: _Leased, error: Exception | None, began: float) -> None:
        """Tell the store how an attempt ended."""
        if error is None:
            self._count("done", await self._store.ack(leased.token))
            return
        nack = verdict(error, leased.event)
        delay = next_delay(self._policy, leased.attempts, nack, chance=self._policy.chance())
        if delay is not None:
            self._count("retried", await self._store.nack(leased.token, delay=delay))
        elif self._dead_letter is not None and not await self._store.extend(leased.token, self._lease):
            self.counts["late"] += 1  # somebody else has the event
        elif await self._hand_over(leased, error, began):
            self._count("dead_lettered", await self._store.ack(leased.token))
        else:
            log.error("stage %s: parked: %s", self.name, name_of(leased.event), exc_info=error)
            self._count("parked", await self._store.nack(leased.token, delay=None))

    async def _hand_over(self, leased: _Leased, error: Exception, began: float) -> bool:
        if self._dead_letter is None:
            return False
        try:
            await hand_over(self._dead_letter, leased.event, self._counted(leased, error, began), self._lease / 2)
        except BaseException as second:
            if ends_task(second):
                raise
            self.counts["dead_letter_failed"] += 1
            log.error("stage %s: could not be handed over: %s", self.name, name_of(leased.event), exc_info=second)
            return False  # it is parked instead
        return True

    def _counted(self, leased: _Leased, error: Exception, began: float) -> Exception:
        """Return ``error``, with the attempts before it if there were any."""
        if leased.attempts == 1:
            return error
        path, attempts = (error.path, error.attempts) if isinstance(error, StageError) else ((self.name,), 1)
        attempts = attempts + leased.attempts - 1 if self._is_left(leased) else self._policy.attempts
        elapsed = perf_counter() - began
        failed = StageError(path, leased.event.key, elapsed=elapsed, kind="exhausted", attempts=attempts)
        failed.__cause__ = cause_of(error)
        return failed

    def _count(self, what: str, valid: bool) -> None:  # noqa: FBT001
        """Count an end; that of a void lease is not the event's, which somebody else has."""
        self.counts[what if valid else "late"] += 1

    def _blame(self, what: str, error: BaseException) -> None:
        self.counts["store_failed"] += 1
        self._trouble.warn(f"stage {self.name}: {what}", error)


def _odd(error: BaseException) -> Exception:
    """Return the error of a handler that ended as none should: as if cancelled, though nobody did that."""
    failed = RuntimeError(f"the handler ended with {type(error).__name__}, which nobody has asked for")
    failed.__cause__ = error
    return failed


def _wake(line: deque[asyncio.Future[None]]) -> None:
    """Wake the one that has waited longest."""
    while line:
        future = line.popleft()
        if not future.done():
            future.set_result(None)
            return
