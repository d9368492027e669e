"""Many awaits at once, bounded and owned."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def run_bounded(
    items: AsyncIterable[T] | Iterable[T], work: Callable[[T], Awaitable[R]], limit: int
) -> AsyncGenerator[R]:
    """Apply ``work`` to ``items``, at most ``limit`` at once, and yield each outcome as it comes.

    An item is taken only when there is room for it. What is still running when the consumer leaves, or when the
    source fails, is cancelled and awaited.
    """
    made = None if isinstance(items, AsyncIterable) else _as_async(items)
    source = made or aiter(items)  # type: ignore[arg-type]
    running: set[asyncio.Future[Any]] = set()
    coming: asyncio.Future[Any] | None = None
    exhausted = False
    try:
        while True:
            if coming is None and not exhausted and len(running) < limit:
                coming = asyncio.ensure_future(anext(source, _END))
            if coming is None and not running:
                return
            done, _ = await asyncio.wait({*running, coming} if coming else running, return_when=asyncio.FIRST_COMPLETED)
            for ended in done & running:
                running.discard(ended)
                yield ended.result()
            if coming in done:
                item = coming.result()
                coming, exhausted = None, item is _END
                if not exhausted:
                    running.add(asyncio.ensure_future(work(item)))
    finally:
        left = {*running, coming} if coming else running
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        if made is not None:
            await made.aclose()


_END: Any = object()


async def _as_async(items: Iterable[T]) -> AsyncGenerator[T]:
    for item in items:
        yield item
