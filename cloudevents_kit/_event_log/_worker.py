"""Brings a projection up to the end of the log, and keeps it there."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from cloudevents_kit._contract import Handler, log, name_of
from cloudevents_kit._errors import StoreError
from cloudevents_kit._event_log._delivery import Failure, hand
from cloudevents_kit._event_log._lag import Lag
from cloudevents_kit._event_log._projection import Projection
from cloudevents_kit._hand_over import hand_over
from cloudevents_kit._recorded import EventLogStore, Inline, Recorded
from cloudevents_kit._retry import next_delay

#: Parts of a lease: handlers are cut off after the one, and it is renewed before that, beginning with the other.
_CUT_OFF = 0.5
_RENEW = 0.3
_LAST_WORDS = 5.0
_INLINE = 5.0


class Worker:
    """Hands the events of ``store`` to a projection, in one process at a time."""

    def __init__(self, projection: Projection, handler: Handler, store: EventLogStore) -> None:
        """Begin idle; ``handler`` is that of the projection, with all around it."""
        self.projection = projection
        self.failure: Failure | None = None
        """What was in the way at last."""
        self.attempts = 0
        """How often that was tried."""
        self._handler, self._store, self._marks = handler, store, store.checkpoints
        self._name, self._token = projection.name, os.urandom(9).hex()
        self._limit = projection.lease * _CUT_OFF
        self._position: int | None = None  # while this process has the lease
        self._done = 0  # what was handed over without a transaction, and may not be in the store yet
        self._goal = 0
        self._leased = 0.0
        self._due = 0.0  # when what has failed is tried again
        self._news = asyncio.Event()
        self._closing = self._pausing = False
        self._turning = asyncio.Lock()

    @property
    def is_mine(self) -> bool:
        """Tell whether this process has the projection."""
        return self._position is not None

    def stands_before(self, position: int) -> dict[str, Any]:
        """Return what `Status` has of an event that has failed here; another process may have passed it since."""
        if self.failure is None or self.failure.record.position != position:
            return {}
        retry_in = max(0.0, self._due - _now()) if self.is_mine else 0.0
        return {"error": self.failure.error, "attempts": self.attempts, "retry_in": retry_in}

    def retry(self) -> bool:
        """Wait no longer with what has failed, and tell whether that was so."""
        waits = self.is_mine and self._due > _now()
        self._due = 0.0
        self._news.set()
        return waits

    def wake(self) -> None:
        """Look into the log now."""
        self._news.set()

    async def reset(self) -> None:
        """End what is being handled, and begin anew."""
        self._pausing = True
        self._news.set()
        async with self._turning:
            self._pausing = False
            await self._marks.reset(self._name, self.projection.reset)
            self._position, self._goal = None, 0
            self._news.set()

    def stop(self) -> None:
        """Begin nothing more."""
        self._closing = True
        self._news.set()

    async def run(self) -> None:
        """Work until `stop` is called, or this is cancelled."""
        while not self._closing:
            self._news.clear()
            try:
                async with self._turning:
                    more = await self._turn()
            except Exception as error:  # noqa: BLE001 - the next look may succeed
                self.projection.counts["store_failed"] += 1
                log.error("projection %s: the event log failed", self._name, exc_info=error)
                more = False
            if not more and not self._closing:
                await self._wait(self.projection.poll)

    async def give_back(self) -> None:
        """Tell the store what is done, so that another process can go on at once."""
        with suppress(StoreError, TimeoutError):
            async with asyncio.timeout(_LAST_WORDS):
                if self._position is not None and self._done > self._position:
                    await self._marks.advance(self._name, self._token, self._position, self._done, None)
                if self._position is not None:
                    await self._marks.lease(self._name, self._token, 0.0)

    async def _wait(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()

    async def _turn(self) -> bool:
        """Hand over what is due, and tell whether there may be more."""
        if self._position is not None and self._done > self._position:  # the store did not answer
            await self._move(self._position, self._done)
        position = await self._hold()
        if position is None or not await self._is_due(position):
            return False
        records = await self._store.read(None, position, self.projection.batch)
        if not records:
            return False
        if self.projection.transaction:
            failure = await self._together(position, records)
        else:
            failure = await self._one_by_one(position, records)
        if failure is None:
            self.failure, self.attempts = None, 0
        else:
            await self._failed(failure)
        return True

    async def _hold(self) -> int | None:
        """Return the position of the projection if this process has it, or can have it."""
        if self._position is None or self._is_old():
            since = _now()
            self._position = await self._marks.lease(self._name, self._token, self.projection.lease)
            self._leased, self._done = since, self._position or 0
        return self._position

    def _is_old(self) -> bool:
        """Tell whether the lease is to be renewed."""
        return _now() - self._leased > self.projection.lease * _RENEW

    async def _is_due(self, position: int) -> bool:
        """Tell whether the events after ``position`` are to be handed over: all that were waiting when it was so."""
        if self.projection.when is None or position < self._goal:
            return True
        [(_, found, waiting, oldest)] = await self._marks.read([self._name])
        if found != position or not waiting or not self.projection.when(Lag(waiting, oldest)):
            return False
        self._goal = position + waiting
        return True

    async def _move(self, before: int, after: int, work: Any = None) -> bool:
        """Move the checkpoint, and tell whether that was possible: not if another process has it, or it was reset."""
        moved = await self._marks.advance(self._name, self._token, before, after, work)
        self._position = self._done = after
        if not moved:
            self._position, self._goal = None, 0
        return moved

    async def _one_by_one(self, position: int, records: Sequence[Recorded]) -> Failure | None:
        failure = None
        for record in records:
            if self._closing or self._pausing or self._is_old():
                break
            failure = await hand(self._handler, record, self._limit)
            if failure is not None:
                break
            self._done = record.position
            self.projection.counts["handled"] += 1
        if self._done > position and not await self._move(position, self._done):
            return None
        return failure

    async def _together(self, position: int, records: Sequence[Recorded]) -> Failure | None:
        """Hand over all or none; without the one that fails if there is one, and then say so."""
        failure: Failure | None = None

        async def work(connection: Any) -> None:
            nonlocal failure
            failure = await hand_all(self._handler, records, connection, self._store, self._limit)
            if failure is not None:
                raise failure.error

        try:
            if await self._move(position, records[-1].position, work):
                self.projection.counts["handled"] += len(records)
            return None
        except Exception as error:
            if failure is None or failure.error is not error:
                raise
        good = records[: failure.record.position - position - 1]
        if good and failure.cut_off:  # all of them were too many for the time that they have together
            return await self._together(position, good[: (len(good) + 1) // 2])
        return (await self._together(position, good) if good else None) or failure

    async def _failed(self, failure: Failure) -> None:
        """Wait before the next attempt, or pass over what has failed for good."""
        same = self.failure is not None and self.failure.record.position == failure.record.position
        self.attempts = self.attempts + 1 if same else 1
        self.failure = failure
        self.projection.counts["failed"] += 1
        policy, position = self.projection.policy, failure.record.position
        delay = next_delay(policy, self.attempts, failure.result, chance=policy.chance())
        if delay is None:
            if await self._hold() != position - 1:
                return  # it is another process's
            if await self._hand_over(failure):
                self.projection.counts["dead_lettered"] += 1
                await self._move(position - 1, position)
                self.failure, self.attempts = None, 0
                return
            delay = policy.max_delay
            told = "projection %s: stands before %s at position %d, tried again in %.3g s, and so on"
            log.error(told, self._name, name_of(failure.record.event), position, delay)
        self._due = _now() + delay
        self._news.clear()
        while not (self._closing or self._pausing) and await self._hold() == position - 1:
            if (left := self._due - _now()) <= 0:
                break
            await self._wait(min(left, self.projection.lease * _RENEW))
            self._news.clear()
        self._due = 0.0

    async def _hand_over(self, failure: Failure) -> bool:
        event = failure.record.event
        if self.projection.dead_letter is None:
            return False
        try:
            await hand_over(self.projection.dead_letter, event, failure.error, self._limit)
        except Exception as error:  # noqa: BLE001 - it is tried again
            self.projection.counts["dead_letter_failed"] += 1
            log.error("projection %s: could not be handed over: %s", self._name, name_of(event), exc_info=error)
            return False
        return True


def _now() -> float:
    return asyncio.get_running_loop().time()


async def hand_all(
    handler: Handler, records: Sequence[Recorded], connection: Any, locks: object, seconds: float
) -> Failure | None:
    """Run ``handler`` for each of ``records`` in a transaction, until one fails; all of it has so many ``seconds``."""
    until = _now() + seconds
    for record in records:
        failure = await hand(handler, record, until - _now(), connection=connection, locks=locks)
        if failure is not None:
            return failure
    return None


def inline(projection: Projection, handler: Handler, store: EventLogStore) -> Inline:
    """Return what a store calls within an append."""

    async def work(records: Sequence[Recorded], connection: Any) -> None:
        failure = await hand_all(handler, records, connection, store, min(_INLINE, projection.lease * _CUT_OFF))
        if failure is not None:
            raise _placed(projection, failure)

    return work


def _placed(projection: Projection, failure: Failure) -> Exception:
    """Say where an inline projection has failed: it may be at an event that came before what is appended."""
    record, error = failure.record, failure.error
    where = f"stream {record.stream}, version {record.version}, position {record.position}"
    log.warning("inline projection %s failed at %s: %s", projection.name, where, name_of(record.event))
    note = f"(in the inline projection {projection.name}, at {where})"
    if note not in getattr(error, "__notes__", ()):  # the same error may come again
        error.add_note(note)
    return error


async def catch_up(projection: Projection, work: Inline, store: EventLogStore) -> None:
    """Bring an inline projection to the end of the log, a batch at a time. Raises what its handler does."""
    while True:
        [(_, position, waiting, _)] = await store.checkpoints.read([projection.name])
        records = await store.read(None, position, projection.batch) if waiting else ()
        if not records:
            return

        async def one(connection: Any, records: Sequence[Recorded] = records) -> None:
            await work(records, connection)

        await store.checkpoints.advance(projection.name, None, position, records[-1].position, one)
