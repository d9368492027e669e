"""The time of a suite: short enough to wait for, or moved by whoever runs it."""

import asyncio


class Timed:
    """What suites of stores that tell the time have in common. Times are in ticks."""

    tick: float = 1.0
    """Seconds of a tick: as short as the store can tell for sure."""

    async def passes(self, ticks: float) -> None:
        """Let time pass. A store whose clock can be moved moves that instead of waiting."""
        await asyncio.sleep(ticks * self.tick)
