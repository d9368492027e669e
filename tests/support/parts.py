"""Parts of a receiver that keep a diary: when they were opened and closed, and when a handler ran."""

import asyncio
from typing import Any

from cloudevents_kit import Event, Handler


class Part:
    """An async context manager that notes what happens to it, and fails when told to."""

    def __init__(
        self, name: str, diary: list[str], *, opening: BaseException | None = None, closing: BaseException | None = None
    ) -> None:
        self.name = name
        self.diary = diary
        self.opening = opening
        self.closing = closing

    async def __aenter__(self) -> None:
        if self.opening is not None:
            raise self.opening
        self.diary.append(f"open {self.name}")

    async def __aexit__(self, *_: object) -> None:
        self.diary.append(f"close {self.name}")
        if self.closing is not None:
            raise self.closing


class StagePart(Part):
    """A stage that is a part."""

    async def __call__(self, event: Event, call_next: Handler) -> Any:
        self.diary.append(f"{self.name} in")
        end = await call_next(event)
        self.diary.append(f"{self.name} out")
        return end


class HandlerPart(Part):
    """A handler that is a part."""

    async def __call__(self, event: Event) -> None:
        self.diary.append(f"{self.name} runs")


class Gate:
    """A handler that lets a test wait until it is entered, and then waits until the test opens it."""

    def __init__(self) -> None:
        self.entered = asyncio.Semaphore(0)
        self.leave = asyncio.Event()
        self.ended: list[str] = []

    async def __call__(self, event: Event) -> None:
        self.entered.release()
        try:
            await self.leave.wait()
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise
        self.ended.append("done")

    async def wait(self, count: int = 1) -> None:
        """Wait until ``count`` more events have come in."""
        async with asyncio.timeout(5):
            for _ in range(count):
                await self.entered.acquire()
