"""Many awaits at once, bounded and owned."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Coroutine, Iterable
from contextvars import Context
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


def is_cancelled() -> bool:
    """Tell whether somebody has cancelled the current task; if not, a CancelledError is that of something it awaits."""
    task: Any = asyncio.current_task()
    return bool(task.cancelling())


class Tasks:
    """Background tasks with an owner: held, their errors reported, ended with `close`."""

    def __init__(self, report: Callable[[Exception], None]) -> None:
        """Call ``report`` with what a task raises."""
        self._report = report
        self._running: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """Return the number of tasks that run."""
        return len(self._running)

    def start(self, work: Coroutine[Any, Any, object], context: Context | None = None) -> asyncio.Task[None]:
        """Run ``work`` in a task of its own."""
        task = asyncio.get_running_loop().create_task(self._guarded(work), context=context)
        self._running.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._running.discard(task)
            work.close()  # if the task was cancelled before its first step, nobody has awaited it

        task.add_done_callback(ended)
        return task

    async def _guarded(self, work: Coroutine[Any, Any, object]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001 - reported
            self._report(error)

    async def close(self, grace: float = 0.0) -> int:
        """Wait up to ``grace`` seconds for what runs, cancel the rest, await it; return how many were cancelled."""
        if self._running and grace:
            await asyncio.wait(self._running, timeout=grace)
        left = [*self._running]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        return len(left)


async def see_through(work: Coroutine[Any, Any, T], seconds: float, report: Callable[[Exception], None]) -> T:
    """Return what ``work`` returns; it has ``seconds``, and goes on to its end if this task is cancelled meanwhile.

    A second cancellation is for the work, too. ``report`` is called with what it raises after a cancellation.
    """

    async def limited() -> T:
        async with asyncio.timeout(seconds):
            return await work

    def ended(task: asyncio.Task[T]) -> None:
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            report(error)

    task = asyncio.get_running_loop().create_task(limited())
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        try:
            await asyncio.wait({task})
        finally:
            task.cancel()
            task.add_done_callback(ended)
        raise
    return task.result()


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
