"""Drives what is due in a journal, while it is open: some sagas at once, each until it is over or has to wait."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
        self.users, self._forget_at = 0, 0.0
        self._changing = asyncio.Lock()  # whoever opens it again waits until it is closed
        self._tasks = Tasks(self._failed)
        self._woken = asyncio.Event()  # of the loop in which it is open
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
        held = await self._lease()
        if held is not None:
            await self.driver.drive(held)
        return held is not None

    async def _lease(self) -> Held | None:
        token = os.urandom(12).hex()
        found = await self.driver.journal.lease(self.name, self.driver.lease, token)
        if found is None:
            return None
        entry = Entry(*found)
        state = decode(entry.state)
        return Held(entry.id, entry.version, token, state, len(state.events))

    async def __aenter__(self) -> Self:
        """Begin to drive what is due."""
        async with self._changing:
            if not self.users:
                self.driver.draining, self._woken = False, asyncio.Event()
                if self._concurrency:
                    _ = self._tasks.start(self._serve())
            self.users += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let the steps that run end, up to ``grace`` seconds; what is left stays in the journal."""
        async with self._changing:
            self.users -= 1
            if not self.users:
                self.driver.draining = True
                self.wake()
                await self._tasks.close(self._grace)
                self.driver.draining = False  # for `work`
                for timer in self._timers:
                    timer.cancel()
                self._timers.clear()

    async def _serve(self) -> None:
        """Take what is due, and have it driven, as long as there is room."""
        while not self.driver.draining:
            self._woken.clear()
            if len(self._tasks) > self._concurrency or not await self._look():
                with suppress(TimeoutError):
                    async with asyncio.timeout(self.poll):
                        await self._woken.wait()

    async def _look(self) -> bool:
        try:
            held = await self._lease()
            if held is not None:
                await self._drive(held)
                return True
            if self._forget_at <= self.driver.clock.monotonic():
                self._forget_at = self.driver.clock.monotonic() + _FORGET_EVERY
                forgotten = await self.driver.journal.forget(self.name)
                self.counts.update({"forgotten": forgotten} if forgotten else {})
        except Exception as error:  # noqa: BLE001 - the next look may succeed
            self._failed(error)
        return False

    async def _drive(self, held: Held) -> None:
        if self.driver.draining:  # it has come too late for a task of its own, and is given back
            await self.driver.drive(held)
        else:
            self._tasks.start(self._go_on(held)).add_done_callback(lambda _: self.wake())

    async def _go_on(self, held: Held) -> None:
        await self.driver.drive(held)
        while not self.driver.draining and await self.work():  # many leases at once share a transaction
            pass

    def _failed(self, error: Exception) -> None:
        self.counts["store_failed"] += 1  # leases end by themselves
        log.error("saga %s: the journal failed", self.name, exc_info=error)

    def wake(self) -> None:
        """Look what is due."""
        self._woken.set()

    def _rested(self, id: str, due: float | None) -> None:
        """Tell those who wait for the end of a saga, or look again when it is due, if that is soon."""
        if due is None:
            for future in self._watching.pop(id, ()):
                future.set_result(None)
        elif self.users and due < self.poll:
            timer: asyncio.TimerHandle = asyncio.get_running_loop().call_later(due, lambda: self._ring(timer))
            self._timers.add(timer)

    def _ring(self, timer: asyncio.TimerHandle) -> None:
        self._timers.discard(timer)
        self.wake()
