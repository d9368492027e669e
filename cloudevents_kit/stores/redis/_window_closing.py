"""How windows are closed, and handed out: each key by one caller at a time, until that once went well."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

from cloudevents_kit._errors import StoreError
from cloudevents_kit._tally import HandOut, Tally
from cloudevents_kit.stores.redis._group import Lanes
from cloudevents_kit.stores.redis._server import Server
from cloudevents_kit.stores.redis._window_scripts import CLOSE, DONE, TAG, TAKE

_LEASE = 60.0
_AT_ONCE = 50
#: Keys that are closed in one step, in which the server does nothing else; a window is closed as a whole.
_CLOSED_AT_ONCE = 5000


class Scope:
    """Where the windows of a scope are, and what was last seen of them."""

    def __init__(self, server: Server, prefix: str) -> None:
        """Have the keys that begin with ``prefix``."""
        self.server, self.prefix = server, prefix
        self.mark = f"{prefix}mark"
        self.status = dict.fromkeys(("open", "waiting", "closed", "keys", "remembered"), 0)

    def note(self, found: Sequence[int]) -> None:
        """Take what a script has told."""
        self.status.update(zip(self.status, found, strict=True))


class _Done(NamedTuple):
    start: str
    key: bytes
    token: str


class Closing:
    """Closes the windows of a scope."""

    def __init__(self, lanes: Lanes, scope: Scope, *, keep: int) -> None:
        """Keep so many for reading."""
        self._server, self._scope, self._keep = lanes.server, scope, keep
        self._done = lanes.lane(self._done_all)

    async def close(self, before: int, hand_out: HandOut | None) -> list[Exception]:
        """See `stages.WindowStore.close`."""
        more = 1
        while more:
            more, status = await self._server.run(
                CLOSE, [self._scope.mark], str(before), int(hand_out is None), self._keep, _CLOSED_AT_ONCE
            )
            self._scope.note(status)
        return [] if hand_out is None else await self._hand_out_all(hand_out)

    async def _hand_out_all(self, hand_out: HandOut) -> list[Exception]:
        errors: list[Exception] = []
        written: list[asyncio.Future[None]] = []
        async with self._holding(written) as token:
            rows = await self._take(token, b"-inf", b"")
            while rows:
                for start, key, text, unremembered in rows:
                    tally = Tally(int(start), from_bytes(key), json.loads(text[TAG:]), True, not int(unremembered))  # noqa: FBT003
                    try:
                        await hand_out(tally)
                    except Exception as error:  # noqa: BLE001 - the caller reports it, the rest is handed out
                        errors.append(error)
                    else:
                        written.append(self._done.post(_Done(start.decode(), key, token)))
                rows = await self._take(token, *rows[-1][:2])
            done = await asyncio.gather(*written, return_exceptions=True)
        return errors + [error for error in done if isinstance(error, Exception)]

    async def _take(self, token: str, after: bytes, behind: bytes) -> list[Sequence[Any]]:
        arguments = (token, round(1000 * _LEASE), after, behind, _AT_ONCE)
        flat = await self._server.run(TAKE, [self._scope.mark], *arguments)
        return [flat[place : place + 4] for place in range(0, len(flat), 4)]

    @asynccontextmanager
    async def _holding(self, written: list[asyncio.Future[None]]) -> AsyncIterator[str]:
        """Hold what is taken under a token, however long handing out takes; let go of what is left in the end.

        That is when what was handed out is ``written`` as such.
        """
        token = os.urandom(12).hex()
        holds = f"{self._scope.prefix}x:{token}"

        async def renew() -> None:
            while True:
                await asyncio.sleep(_LEASE / 3)
                with suppress(StoreError):  # it may last until the next time
                    await self._server.command("SET", holds, "", "PX", round(1000 * _LEASE))

        async def let_go() -> None:
            await asyncio.gather(*written, return_exceptions=True)
            with suppress(StoreError):  # else it ends by itself
                await self._server.command("DEL", holds)

        renewing = asyncio.create_task(renew())
        try:
            yield token
        finally:
            renewing.cancel()
            await asyncio.wait((renewing,))
            await asyncio.shield(asyncio.create_task(let_go()))

    async def _done_all(self, items: list[_Done]) -> list[None]:
        arguments: list[str | bytes] = [part for item in items for part in item]
        mark, keep = [self._scope.mark], self._keep
        status = await self._server.patiently(lambda _: self._server.attempt(DONE, mark, keep, *arguments))
        self._scope.note(status)
        return [None] * len(items)


def to_bytes(key: str) -> bytes:
    """Return ``key``, whatever it is, as the server takes it."""
    return key.encode(errors="surrogatepass")


def from_bytes(key: bytes) -> str:
    """Return what `to_bytes` was given."""
    return key.decode(errors="surrogatepass")
