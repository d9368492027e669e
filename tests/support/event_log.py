"""For tests of projections: a view that notes what comes, and fails when it is told to."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from cloudevents_kit import Event, RetryPolicy
from cloudevents_kit.event_log import EventLog
from tests.support.events import new

SOON = RetryPolicy(attempts=3, initial=1.0, factor=2.0, jitter=False)


@dataclass
class Order:
    total: float


class View:
    """Notes what comes, and when."""

    def __init__(self, **fails: int) -> None:
        self.got: list[str] = []
        self.times: list[float] = []
        self.fails = {id.removeprefix("_"): times for id, times in fails.items()}
        self.error: Exception = OSError("not now")

    async def __call__(self, event: Event) -> None:
        self.times.append(asyncio.get_running_loop().time())
        if self.fails.get(event.id, 0):
            self.fails[event.id] -= 1
            raise self.error
        self.got.append(event.id)


async def nothing(connection: object) -> None:
    """Empty a view that has nothing to empty."""


async def append(log: EventLog, *ids: str, stream: str = "s", **given: Any) -> None:
    await log.append(stream, [new(id=id, **given) for id in ids])
