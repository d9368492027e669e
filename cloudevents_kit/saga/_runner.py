"""Drives what is due in a journal, while it is open: some sagas at once, each until it is over or has to wait."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from typing import Self

from cloudevents_kit._contract import log
from cloudevents_kit._tasks import Tasks
from cloudevents_kit.saga._drive import Driver, Held
from cloudevents_kit.saga._journal import Entry, decode

_FORGET_EVERY = 60.0


class Runner:
    """Opened and closed by any number of users; it runs from the first to the last."""

    def __init__(self, driver: Driver, *, concurrency: int, poll: float, grace: float) -> None:
        """Run nothing yet."""
        self.name = driver.name
        self.counts = driver.counts
        """What happened here: started, repeated, completed, compensated, stuck, retried, conflicts and more."""
        self.driver, self.poll = driver, poll
        driver.rested = self._rested
        self._concurrency, self._grace = concurrency, grace
        self._owner, self._leases = os.urandom(8).hex(), count()
        self.users, self._wakes, self._forget_at = 0, 0, 0.0
        self._changing = asyncio.Lock()  # whoever opens it again waits until it is closed
        self._tasks = Tasks(lambda error: log.error("saga %s: a worker failed", self.name, exc_info=error))
        self._resting: deque[asyncio.Future[None]] = deque()
        self._watching: dict[str, set[asyncio.Future[None]]] = {}
        self._timers: set[asyncio.TimerHandle] = set()

    @contextmanager
    def watching(self, id: str) -> Iterator[asyncio.Future[None]]:
        """Give a future that is done when the saga ``id`` has ended here."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        watching = self._watching.setdefault(id, set())
        watching.add(future)
        try:
            yield future
        finally:
            watching.discard(future)
            if not watching and self._watching.get(id) is watching:
                del self._watching[id]

    async def work(self) -> bool:
        """Drive one saga that is due, until it is over or has to wait; return False if none is due."""
        now, token = self.driver.now(), f"{self._owner}-{next(self._leases)}"
        found = await self.driver.journal.lease(self.name, now=now, until=now + self.driver.lease, token=token)
        if found is None:
            return False
        entry = Entry(*found)
        state = decode(entry.state)
        await self.driver.drive(Held(entry.id, entry.version, token, state))
        return True

    async def __aenter__(self) -> Self:
        """Begin to drive what is due."""
        async with self._changing:
            if not self.users:
                self.driver.draining = False
                for _ in range(self._concurrency):
                    _ = self._tasks.start(self._serve())
            self.users += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let the steps that run end, up to ``grace`` seconds; what is left stays in the journal."""
        async with self._changing:
            self.users -= 1
            if not self.users:
                self.driver.draining = True
                self.wake(everybody=True)
                await self._tasks.close(self._grace)
                for timer in self._timers:
                    timer.cancel()
                self._timers.clear()

    async def _serve(self) -> None:
        while not self.driver.draining:
            wakes = self._wakes
            if not await self._look() and wakes == self._wakes:
                await self._sleep()

    async def _look(self) -> bool:
        """Do what is due; return whether there was anything."""
        try:
            if await self.work():
                return True
            if self._forget_at <= self.driver.now():
                self._forget_at = self.driver.now() + _FORGET_EVERY
                forgotten = await self.driver.journal.forget(self.name, now=self.driver.now())
                self.counts.update({"forgotten": forgotten} if forgotten else {})
        except Exception as error:  # noqa: BLE001 - the next look may succeed; leases end by themselves
            self.counts["journal_failed"] += 1
            log.error("saga %s: the journal failed", self.name, exc_info=error)
        return False

    async def _sleep(self) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._resting.append(future)
        try:
            await asyncio.wait((future,), timeout=self.poll)
        finally:
            with suppress(ValueError):
                self._resting.remove(future)

    def wake(self, *, everybody: bool = False) -> None:
        """Let a worker that rests look what is due."""
        self._wakes += 1  # for those that look at this very moment, and find nothing
        while self._resting:
            self._resting.popleft().set_result(None)
            if not everybody:
                return

    def _rested(self, id: str, due: float | None) -> None:
        """Tell those who wait for the end of a saga, or look again when it is due, if that is soon."""
        if due is None:
            for future in self._watching.pop(id, ()):
                future.set_result(None)
        elif self.users and (delay := due - self.driver.now()) < self.poll:
            timer: asyncio.TimerHandle = asyncio.get_running_loop().call_later(
                max(0.0, delay), lambda: self._ring(timer)
            )
            self._timers.add(timer)

    def _ring(self, timer: asyncio.TimerHandle) -> None:
        self._timers.discard(timer)
        self.wake()
