"""Sends what is in an outbox: leases events, hands them to a sink, and tells the store how that ended; see `outbox`.

One task leases, many send, one settles: each talks to the store about many events at once.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import Context
from time import monotonic
from typing import Any, NamedTuple, Protocol

from cloudevents_kit._contract import log, name_of
from cloudevents_kit._errors import DeliveryError
from cloudevents_kit._event import Event
from cloudevents_kit._result import Ack, Result, Undelivered
from cloudevents_kit._retry import RetryPolicy, next_delay
from cloudevents_kit._tasks import Tasks

DeadLetter = Callable[[Event, Exception], Awaitable[object] | object]
_HURRY = 1.0  # seconds after an event was added for which the relay looks more often, until that is committed
_SOON = 0.02
_LAST_WORDS = 5.0
#: Parts of a lease: an event that has waited here for so long is not sent any more, and a delivery is cut off.
_TOO_OLD = 0.4
_CUT_OFF = 0.9


class OutboxStore(Protocol):
    """Keeps events until they are delivered. Each method is atomic, among all processes that use the store."""

    async def add(self, event: Event, /, *, key: str | None) -> None:
        """Store ``event`` where a crash cannot lose it; one with the same (source, id) counts as this one."""
        ...

    def insert(self, connection: Any, event: Event, /, *, key: str | None) -> None:
        """Do what `add` does within the transaction of ``connection``, a synchronous one, or its session."""
        ...

    async def lease(self, most: int, seconds: float, /) -> Sequence[tuple[str, Event, int]]:
        """Return events that are due, the first ``most`` of them, for ``seconds``; after that they are due again.

        Before each comes a token of this lease; after it, how many attempts have failed. Not due are events that are
        leased or wait for their next attempt, and those with a key of which an earlier event is still there.
        """
        ...

    async def settle(self, ends: Mapping[str, tuple[int, float] | None], /) -> None:
        """Say, by token, how attempts ended: None removes the event, whoever has it now.

        Otherwise it has so many failed attempts and is due in so many seconds, if the lease is not void.
        """
        ...

    async def lag(self) -> tuple[int, float]:
        """Return how many events there are, and the age of the oldest in seconds."""
        ...


class _Leased(NamedTuple):
    token: str
    event: Event
    attempts: int
    since: float


class Settings(NamedTuple):
    """How a relay works; see `outbox.Outbox`."""

    batched: bool
    concurrency: int
    batch: int
    policy: RetryPolicy
    dead_letter: DeadLetter | None
    lease: float
    poll: float
    grace: float


class Relay:
    """Sends what is in ``store`` to ``sink``, from `open` to `close`, once."""

    def __init__(self, store: OutboxStore, sink: Any, settings: Settings, counts: dict[str, int]) -> None:
        """Begin closed."""
        self._store, self._sink, self._counts = store, sink, counts
        self._batched, self._concurrency, self._batch, self._policy = settings[:4]
        self._dead_letter, self._lease, self._poll, self._grace = settings[4:]
        self._closing = self._over = False
        self._hurry_until = 0.0
        self._news, self._room, self._ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._ready: deque[_Leased] = deque()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._ends: dict[str, tuple[int, float] | None] = {}
        self._workers, self._keepers = (
            Tasks(lambda error: log.error("outbox: a task of the relay failed", exc_info=error)) for _ in range(2)
        )

    def open(self) -> None:
        """Begin."""
        self._loop = asyncio.get_running_loop()
        self._leasing = self._keepers.start(self._lease_all(), Context())
        self._settling = self._keepers.start(self._settle_all(), Context())
        self._at_work = [self._workers.start(self._work(), Context()) for _ in range(self._concurrency)]

    def wake(self) -> None:
        """Look into the store now."""
        self._news.set()

    def hurry(self) -> None:
        """Look more often for a while: nobody tells when a transaction is committed. Can be called in any thread."""
        self._hurry_until = monotonic() + _HURRY
        with suppress(RuntimeError):  # the loop was closed meanwhile
            self._loop.call_soon_threadsafe(self.wake)

    async def close(self) -> None:
        """End what is being sent; what is not sent by then stays in the store, and is due at once."""
        self._closing = True
        self._news.set()
        self._room.set()
        try:
            await asyncio.wait({self._leasing}, timeout=_LAST_WORDS)
            for leased in self._ready:
                self._ends[leased.token] = leased.attempts, 0.0
            self._ready.clear()
            while self._idle:
                self._call_worker()
            await self._workers.close(self._grace)
        finally:
            self._over = True
            self._ended.set()
            await self._keepers.close(_LAST_WORDS)

    async def _lease_all(self) -> None:
        """Keep events ready for the workers."""
        while not self._closing:
            self._news.clear()
            self._room.clear()
            room = self._batch - len(self._ready)
            if room * 2 < self._batch:
                await self._room.wait()
                continue
            since = monotonic()
            try:
                found = await self._store.lease(room, self._lease)
            except Exception as error:  # noqa: BLE001 - the next look may succeed
                self._report("nothing can be leased", error)
                found = ()
            for token, event, attempts in found:
                if self._closing:
                    self._ends[token] = attempts, 0.0
                else:
                    self._ready.append(_Leased(token, event, attempts, since))
                    self._call_worker()
            if not found and not self._closing:
                await self._rest()

    async def _rest(self) -> None:
        seconds = min(self._poll, _SOON) if monotonic() < self._hurry_until else self._poll
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()

    def _call_worker(self) -> None:
        if self._idle:
            with suppress(asyncio.InvalidStateError):  # of one that was cancelled
                self._idle.popleft().set_result(None)

    async def _work(self) -> None:
        while not self._closing:
            if self._ready:
                these = self._take()
                if these:
                    await self._send(these)
            else:
                future = asyncio.get_running_loop().create_future()
                self._idle.append(future)
                await future

    def _take(self) -> list[_Leased]:
        """Return what one worker sends at once, without what has waited here for too long of its lease."""
        until = monotonic() - self._lease * _TOO_OLD
        these: list[_Leased] = []
        while self._ready and len(these) < (self._batch if self._batched else 1):
            leased = self._ready.popleft()
            if leased.since > until:
                these.append(leased)
        if len(self._ready) * 2 <= self._batch:
            self._room.set()
        return these

    async def _send(self, these: list[_Leased]) -> None:
        """Send, and note how it ended; what is cut off by the end of the relay is due again at once."""
        try:
            results = await self._results(these)
            for leased, result in zip(these, results, strict=True):
                self._ends[leased.token] = await self._end(leased, result)
        except asyncio.CancelledError:
            for leased in these:
                self._ends.setdefault(leased.token, (leased.attempts, 0.0))
            raise
        finally:
            self._ended.set()

    async def _results(self, these: list[_Leased]) -> Sequence[Result]:
        sink: Any = self._sink
        left = self._lease * _CUT_OFF - (monotonic() - these[0].since)
        limit = asyncio.timeout(left)
        try:
            async with limit:
                if self._batched:
                    results = await sink.send_batch([leased.event for leased in these])
                else:
                    results = [await sink.send(these[0].event)]
                if len(results) != len(these) or not all(isinstance(one, Result) for one in results):
                    raise TypeError("a sink returns a result for each event")
                return results  # type: ignore[no-any-return]
        except asyncio.CancelledError as error:
            task: Any = asyncio.current_task()
            if task.cancelling():
                raise
            result = Undelivered(error=f"ended as if it had been cancelled ({error})", possibly_delivered=True)
        except Exception as error:  # noqa: BLE001 - a sink should not raise; these failed, the others may not
            if limit.expired():
                told = f"not done within {left:.0f} s: the lease must be longer than a delivery takes"
                result = Undelivered(reason="timeout", error=told, possibly_delivered=True)
            else:
                log.error("outbox: the sink raised: %s", name_of(these[0].event), exc_info=error)
                result = Undelivered(error=f"{type(error).__name__}: {error}", possibly_delivered=True)
        return [result] * len(these)

    async def _end(self, leased: _Leased, result: Result) -> tuple[int, float] | None:
        """Return what the store is to be told."""
        if isinstance(result, Ack):
            self._counts["sent"] += 1
            return None
        self._counts["failed"] += 1
        attempts = leased.attempts + 1
        delay = next_delay(self._policy, attempts, result, chance=self._policy.chance())
        if delay is None and await self._hand_over(leased.event, result):
            self._counts["dead_lettered"] += 1
            return None
        return attempts, self._policy.max_delay if delay is None else delay

    async def _hand_over(self, event: Event, result: Result) -> bool:
        try:
            result.raise_for_outcome()
        except DeliveryError as error:
            if self._dead_letter is None:
                log.error("outbox: still not delivered, tried again later: %s: %s", name_of(event), error)
                return False
            try:
                taken = self._dead_letter(event, error)
                if inspect.isawaitable(taken):
                    await taken
            except Exception as second:  # noqa: BLE001 - the event stays
                log.error("outbox: could not be handed over: %s", name_of(event), exc_info=second)
                return False
        return True

    async def _settle_all(self) -> None:
        """Tell the store how attempts ended, many at once; what it is not told is sent again."""
        while True:
            await self._ended.wait()
            self._ended.clear()
            while self._ends:
                ends, self._ends = self._ends, {}
                try:
                    await self._store.settle(ends)
                except Exception as error:  # noqa: BLE001 - their leases run out
                    self._report(f"{len(ends)} ends were not stored", error)
                self._news.set()  # what is behind them may be due
            if self._over:
                return

    def _report(self, what: str, error: Exception) -> None:
        self._counts["store_failed"] += 1
        log.error("outbox: %s", what, exc_info=error)
