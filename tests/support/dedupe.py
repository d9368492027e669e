"""A handler that ends as told, and a dedupe store behind a network: calls take time, fail, hang and get lost."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from cloudevents_kit import Clock, Event, Outcome
from cloudevents_kit.stores.memory import MemoryDedupeStore

T = TypeVar("T")


class Handler:
    """Counts its calls and those that run at once; each waits for ``gate`` and ends with the next of ``ends``."""

    def __init__(self, *ends: Outcome | BaseException) -> None:
        self.ends = [*ends]
        self.calls = 0
        self.running = 0
        self.most = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def handle(self, event: Event) -> Outcome:
        self.calls += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.gate.wait()
            end = self.ends.pop(0) if self.ends else None
            if isinstance(end, BaseException):
                raise end
            return end
        finally:
            self.running -= 1


class OverNetwork:
    """What it keeps stays in ``kept``; calls are broken ("raises", "cancelled", "hangs") or slow by their method."""

    def __init__(self, kept: MemoryDedupeStore | None = None, *, clock: Clock | None = None) -> None:
        self.kept = MemoryDedupeStore(clock=clock) if kept is None else kept
        self.broken: dict[str, str] = {}
        self.slow: dict[str, str] = {}
        """Makes the next call take a second: "before" or "after" it takes effect."""

    async def claim(self, key: str, token: str, lease: float) -> bytes | float | None:
        return await self._call("claim", self.kept.claim(key, token, lease))

    async def commit(self, key: str, token: str, outcome: bytes, ttl: float) -> bool:
        return await self._call("commit", self.kept.commit(key, token, outcome, ttl))

    async def release(self, key: str, token: str) -> None:
        return await self._call("release", self.kept.release(key, token))

    async def _call(self, method: str, call: Awaitable[T]) -> T:
        task = asyncio.ensure_future(call) if method not in self.broken and method not in self.slow else None
        if task is not None:
            await asyncio.sleep(0)
            return await task
        return await self._call_badly(method, call)

    async def _call_badly(self, method: str, call: Awaitable[T]) -> T:
        slow = self.slow.pop(method, None)
        try:
            if slow == "before":
                await asyncio.sleep(1)
            if method in self.broken:
                await asyncio.sleep(1e6 if self.broken[method] == "hangs" else 0)
                raise asyncio.CancelledError if self.broken[method] == "cancelled" else OSError("the store is away")
        except BaseException:
            call.close()  # type: ignore[attr-defined]  # it is a coroutine
            raise
        found = await call
        if slow == "after":
            await asyncio.sleep(1)
        return found
