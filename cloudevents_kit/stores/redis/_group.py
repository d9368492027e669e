"""What many callers ask for at about the same time goes to the server in one trip, and is answered each to his own.

One trip at a time, in the order in which they came: what comes meanwhile makes up the next one. Knows no key.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from typing import Any, Generic, TypeVar

from cloudevents_kit._errors import StoreError
from cloudevents_kit.stores.redis._server import Server, Unusable

I = TypeVar("I")  # noqa: E741 - an item
R = TypeVar("R")

#: Items of one trip, and their bytes if they tell; items that may wait for one.
MOST = 500
MOST_BYTES = 4 * 1024 * 1024
WAITING = 20_000

#: Does what each item asks for and returns what to answer each, in their order; an Exception among these is raised to
#: whoever asked.
Apply = Callable[[list[I]], Awaitable[Sequence[R | Exception]]]


class Lane(Generic[I, R]):
    """One way to the server."""

    def __init__(self, lanes: Lanes, apply: Apply[I, R]) -> None:
        """Use `Lanes.lane`."""
        self._lanes = lanes
        self._apply = apply
        self._waiting: deque[tuple[I, int, asyncio.Future[R]]] = deque()
        self.driver: asyncio.Task[None] | None = None

    def post(self, item: I, size: int = 0) -> asyncio.Future[R]:
        """Do soon what ``item`` asks for, whether or not anybody waits for what became of it. Raises StoreError.

        The future may, too; cancelling it may come too late. ``size`` is its bytes, if they are many.
        """
        server = self._lanes.server
        server.check_open()
        if len(self._waiting) >= WAITING:
            raise StoreError(f"{server.name} is overloaded: {WAITING} calls wait for it")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        self._waiting.append((item, size, future))
        if self.driver is None:
            self.driver = loop.create_task(self._drive(), context=Context())
        return future

    async def _drive(self) -> None:
        try:
            await asyncio.sleep(0)  # what comes in the same turn of the loop goes along
            while self._waiting:
                items, futures = self._next()
                if items:
                    await self._go(items, futures)
        finally:
            self.driver = None
            left, self._waiting = self._waiting, deque()
            for _, _, waiting in left:
                _answer(waiting, StoreError(f"{self._lanes.server.name} was closed before this was done"))

    def _next(self) -> tuple[list[I], list[asyncio.Future[R]]]:
        items: list[I] = []
        futures = []
        size = 0
        while self._waiting and len(items) < MOST and size < MOST_BYTES:
            item, its_size, future = self._waiting.popleft()
            if not future.done():  # as it is when it was cancelled
                items.append(item)
                futures.append(future)
                size += its_size
        return items, futures

    async def _go(self, items: list[I], futures: list[asyncio.Future[R]]) -> None:
        answers: Sequence[Any]
        try:
            answers = await self._apply(items)
        except Unusable as error:  # for those who wait, too: they have waited as long
            left, self._waiting = self._waiting, deque()
            futures += [future for _, _, future in left]
            answers = [_copy(error) for _ in futures]
        except Exception as error:  # noqa: BLE001 - raised to those who asked
            answers = [error for _ in futures]
        except BaseException:
            for future in futures:
                _answer(future, StoreError(f"{self._lanes.server.name} was closed while this was done"))
            raise
        for future, answer in zip(futures, answers, strict=True):
            _answer(future, answer)


class Lanes:
    """The ways to a server."""

    def __init__(self, server: Server) -> None:
        """Begin closed."""
        self.server = server
        self._lanes: list[Lane[Any, Any]] = []

    def lane(self, apply: Apply[I, R]) -> Lane[I, R]:
        """Return what does items by ``apply``."""
        made = Lane(self, apply)
        self._lanes.append(made)
        return made

    async def close(self) -> None:
        """Let them do what waits. Nothing more comes: the server is shut."""
        drivers = [lane.driver for lane in self._lanes if lane.driver is not None]
        if not drivers:
            return
        try:
            await asyncio.wait(drivers)
        except asyncio.CancelledError:
            for driver in drivers:
                driver.cancel()
            await asyncio.wait(drivers)
            raise


def _copy(error: StoreError) -> StoreError:
    """Return an error of its own for one of several who are told the same."""
    copy = StoreError(str(error))
    copy.__cause__ = error.__cause__
    return copy


def _answer(future: asyncio.Future[Any], answer: object) -> None:
    if future.done():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
