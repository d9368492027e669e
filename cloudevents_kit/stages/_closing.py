"""The tasks that close what is over, also when no event comes. Knows nothing of windows."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable

from cloudevents_kit._clock import Clock
from cloudevents_kit._tasks import Tasks

_TICK = 1.0
_LONGEST_PAUSE = 60.0


class Closer:
    """Calls ``close`` soon after `wake`, after each tick of the clock, and once more in the end; never twice at once.

    ``close`` returns whether all went well. If not, the next call comes after a pause, which grows.
    """

    def __init__(
        self,
        close: Callable[[], Awaitable[bool]],
        clock: Clock,
        *,
        on_tick: Callable[[], None],
        report: Callable[[Exception], None],
    ) -> None:
        """Do nothing until `start`."""
        self._close, self._clock, self._on_tick = close, clock, on_tick
        self._tasks = Tasks(report)
        self._woken = asyncio.Event()
        self._stopping = False
        self._pause = _TICK
        self._not_before = float("-inf")

    def start(self) -> None:
        """Begin."""
        context = contextvars.copy_context()
        self._woken = asyncio.Event()
        self._stopping = False
        self._ticking = self._tasks.start(self._tick(), context)
        self._working = self._tasks.start(self._work(), context.copy())

    def wake(self) -> None:
        """Say that there is something to close."""
        self._woken.set()

    async def stop(self, grace: float) -> None:
        """Close once more, within ``grace`` seconds, and end."""
        self._stopping = True
        self._ticking.cancel()
        self._woken.set()
        await self._tasks.close(grace)

    async def _tick(self) -> None:
        while True:
            await self._clock.sleep(_TICK)
            self._on_tick()
            self._woken.set()

    async def _work(self) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
            if self._stopping:
                break
            if self._clock.monotonic() >= self._not_before:
                await self._once()
        await self._once()

    async def _once(self) -> None:
        if await self._close():
            self._pause = _TICK
            return
        self._not_before = self._clock.monotonic() + self._pause
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)
