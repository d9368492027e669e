"""A store of dead letters and a sink in a process that dies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from cloudevents_kit import Ack, Event, Result
from cloudevents_kit.stores.memory_dead_letters import MemoryDeadLetterStore


class Crash(BaseException):
    """The process is gone."""


class Dying:
    """A store, or a sink, of a process that dies at its ``last``-th step: before or after a call took effect.

    Each call is two steps. Once it is dead, it does nothing any more.
    """

    def __init__(self, last: int, store: MemoryDeadLetterStore, sink: Callable[[Event], None]) -> None:
        self.left = last
        self._store = store
        self._sink = sink

    def _step(self) -> None:
        self.left -= 1
        if self.left <= 0:
            raise Crash

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        async def call(*given: Any) -> Any:
            await asyncio.sleep(0)
            self._step()
            found = await method(*given)
            self._step()
            return found

        return call

    async def send(self, event: Event) -> Result:
        self._step()
        self._sink(event)
        self._step()
        return Ack()
