"""Values that several processes look up, each kept for a while."""

from __future__ import annotations

from typing import Any

from cloudevents_kit.stages._digest import short
from cloudevents_kit.stores.redis._deduplicate import milliseconds
from cloudevents_kit.stores.redis._group import Lanes


class RedisCache:
    """The second tier of `stages.Cached`. It waits for no server that is away: values can be loaded without it."""

    def __init__(self, lanes: Lanes, scope: str) -> None:
        """Use `open_store`."""
        self._server = lanes.server
        self._prefix = f"cek:c:{len(scope)}:{scope}:"
        self._do = lanes.lane(self._do_all)

    async def get(self, key: str, /) -> bytes | None:
        """See `stages.SharedCache`."""
        found: bytes | None = await self._do.post(("GET", self._place(key)))
        return found

    async def set(self, key: str, value: bytes, ttl: float, /) -> None:
        """See `stages.SharedCache`."""
        await self._do.post(("SET", self._place(key), value, "PX", milliseconds(ttl)), len(value))

    def _place(self, key: str) -> bytes:
        return (self._prefix + short(key)).encode(errors="surrogatepass")

    async def _do_all(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        return await self._server.commands(commands)
