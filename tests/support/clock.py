"""A clock that tests move by hand, or that moves itself, without any real waiting."""

import asyncio
import heapq
import itertools
from datetime import UTC, datetime, timedelta

START = datetime(2026, 1, 1, tzinfo=UTC)
"""The virtual time at which every `ManualClock` starts, unless told otherwise."""


class ManualClock:
    """Virtual time: nothing passes unless somebody sleeps (`auto=True`) or calls `advance` (`auto=False`)."""

    def __init__(self, *, auto: bool = True, start: datetime = START) -> None:
        self.auto = auto
        self.waits: list[float] = []
        """Every wait that was asked for, in seconds, in order."""
        self._start = start
        self._elapsed = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def monotonic(self) -> float:
        """Return the virtual seconds since the clock was made."""
        return self._elapsed

    def now(self) -> datetime:
        """Return the virtual wall time, in UTC."""
        return self._start + timedelta(seconds=self._elapsed)

    @property
    def sleeping(self) -> int:
        """The number of sleepers that wait for `advance`."""
        return len(self._sleepers)

    async def sleep(self, seconds: float) -> None:
        """Record the wait; then pass the time at once (`auto`), or wait until `advance` has passed it."""
        self.waits.append(seconds)
        if self.auto or seconds <= 0:
            self._elapsed += max(0.0, seconds)
            await asyncio.sleep(0)
            return
        sleeper = (self._elapsed + seconds, next(self._order), asyncio.get_running_loop().create_future())
        heapq.heappush(self._sleepers, sleeper)
        try:
            await sleeper[2]
        finally:
            if sleeper in self._sleepers:
                self._sleepers.remove(sleeper)
                heapq.heapify(self._sleepers)

    async def advance(self, seconds: float) -> None:
        """Pass `seconds`, waking each sleeper at its due time, in order, and letting it run before the next."""
        end = self._elapsed + seconds
        await self._settle()
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, wake = heapq.heappop(self._sleepers)
            self._elapsed = max(self._elapsed, due)
            if not wake.done():
                wake.set_result(None)
            await self._settle()
        self._elapsed = end

    async def _settle(self) -> None:
        """Give what is ready to run a few turns of the loop, so that it can fall asleep again."""
        for _ in range(10):
            await asyncio.sleep(0)
