"""A handler whose chain can be exchanged while it runs.

Events that are under way end on the chain on which they began; its parts are closed after the last of them, but for
those that the new chain has as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Self

from cloudevents_kit._contract import Handler, Middleware, Outcome, SyncHandler, as_handler, log, wrap
from cloudevents_kit._event import Event
from cloudevents_kit._lifecycle import Lifecycle, drain, parts_of
from cloudevents_kit._tasks import Tasks

#: Seconds for the chains that were replaced to close, when all is closed. Parts have limits of their own.
_CLOSING = 60.0


class _Shared:
    """A part that several chains may have: opened for the first of them, closed after the last."""

    def __init__(self, part: AbstractAsyncContextManager[Any]) -> None:
        self.part = part
        self._users = 0
        self._is_open = False
        self._changing = asyncio.Lock()  # who wants it back while it is being closed waits for that

    async def __aenter__(self) -> None:
        self._users += 1
        try:
            await self._follow()
        except BaseException:
            self._users -= 1
            raise

    async def __aexit__(self, *_: object) -> None:
        self._users -= 1
        await self._follow()

    async def _follow(self) -> None:
        """Open or close the part if its users ask for that."""
        async with self._changing:
            if self._users and not self._is_open:
                await self.part.__aenter__()
                self._is_open = True
            elif self._is_open and not self._users:
                self._is_open = False
                await self.part.__aexit__(None, None, None)

    def drain(self) -> None:
        drain(self.part)


class _Generation:
    """One chain, the parts of it, and how many events are on it."""

    def __init__(self, handler: Handler, others: list[_Generation]) -> None:
        known = {id(shared.part): shared for other in others for shared in other.parts}
        self.handler = handler
        self.parts: list[_Shared] = [known.get(id(part)) or _Shared(part) for part in parts_of(handler)]
        self.lifecycle = Lifecycle(reversed(self.parts))
        self.events = 0
        self.replaced = False


class Replaceable:
    """A handler, and an async context manager, that hands events to a chain which `replace` exchanges.

    It opens and closes the parts of its chains itself, and is opened with whatever it is part of.
    """

    opens_branches = True

    def __init__(self, handler: Handler | SyncHandler, *stages: Middleware) -> None:
        """Begin with ``handler`` behind ``stages``."""
        self._current = _Generation(_compose(handler, stages), [])
        self._living = [self._current]
        self._opened = 0  # times: it may be part of several chains
        self._changing = asyncio.Lock()
        self._closing = Tasks(_report)

    @property
    def branches(self) -> Mapping[str, object]:
        """The chain that new events get."""
        return {"handler": self._current.handler}

    async def __call__(self, event: Event) -> Outcome:
        """Hand ``event`` to the chain of this moment."""
        chain = self._current
        chain.events += 1
        try:
            return await chain.handler(event)
        finally:
            chain.events -= 1
            if chain.replaced and not chain.events:
                self._retire(chain)

    async def replace(self, handler: Handler | SyncHandler, *stages: Middleware) -> None:
        """Let new events go to ``handler`` behind ``stages``; those under way end where they are.

        The parts of the new chain are open before it gets its first event; if one does not open, ExceptionGroup is
        raised, and the old chain stays. The parts of the old one are closed after its last event, which is not waited
        for; a part that both have stays open.
        """
        handler = _compose(handler, stages)
        async with self._changing:
            chain = _Generation(handler, self._living)
            if self._opened:
                await chain.lifecycle.open()
            self._living.append(chain)
            old, self._current = self._current, chain
            old.replaced = True
            if not old.events:
                self._retire(old)

    def _retire(self, chain: _Generation) -> None:
        """Close ``chain``, on which there is nothing any more."""
        chain.replaced = False  # once is enough
        if chain.parts:
            self._closing.start(self._close(chain))  # type: ignore[unused-awaitable]  # `_closing` awaits it
        else:
            self._living.remove(chain)

    async def _close(self, chain: _Generation) -> None:
        try:
            await chain.lifecycle.close()
        finally:
            self._living.remove(chain)

    def drain(self) -> None:
        """Tell the parts that nothing more will come."""
        for chain in self._living:
            chain.lifecycle.drain()

    async def __aenter__(self) -> Self:
        """Open the parts of the chain. Raises ExceptionGroup."""
        async with self._changing:
            if not self._opened:
                await self._current.lifecycle.open()
            self._opened += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the parts of the chain, and of those that were replaced. Raises ExceptionGroup."""
        async with self._changing:
            self._opened -= 1
            if self._opened:
                return
            for chain in [*self._living]:
                if chain.replaced:  # some event has not ended, although there was time for that
                    self._retire(chain)
            try:
                await self._current.lifecycle.close()
            finally:
                await self._closing.close(_CLOSING)


def _compose(handler: Handler | SyncHandler, stages: tuple[Middleware, ...]) -> Handler:
    return wrap(as_handler(handler), *stages)


def _report(error: Exception) -> None:
    log.error("a chain that was replaced did not close cleanly", exc_info=error)
