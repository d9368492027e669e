"""Events on their way through a chain, several at once, and what became of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from cloudevents_kit import Result, Undelivered, settle
from tests.support.events import new


def start(handler: Any, *ids: object, **given: Any) -> list[asyncio.Task[Result]]:
    """Send small events with these ids."""
    return [asyncio.ensure_future(settle(handler, new(id=str(id), **given))) for id in ids]


def statuses(results: Sequence[Result]) -> list[int | None]:
    return [None if isinstance(one, Undelivered) else one.status for one in results]


def acked(task: asyncio.Task[Result]) -> bool:
    """Whether a send has come to an end, and to a good one."""
    return task.done() and not task.cancelled() and bool(task.result())


async def turns(count: int = 10) -> None:
    """Let everything go as far as it can without time passing."""
    for _ in range(count):
        await asyncio.sleep(0)
