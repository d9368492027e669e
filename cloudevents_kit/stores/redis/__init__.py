"""The stores of a Redis or Valkey server: deduplication, windows and the second tier of lookups.

One file per kind of store; `_server` knows connections and what can go wrong, `_group` how many calls share a trip.
Everything is under keys that begin with ``cek:``. What the server loses, in a crash without an append-only file synced
at every write, is gone: an event that was done may be handled again, and what windows counted may be missing.
"""

from __future__ import annotations

from functools import cached_property
from typing import Self

from cloudevents_kit.stages._memo import safe_key
from cloudevents_kit.stores._store import Scope, Store, check_scope
from cloudevents_kit.stores.redis._cache import RedisCache
from cloudevents_kit.stores.redis._deduplicate import RedisDedupeStore
from cloudevents_kit.stores.redis._group import Lanes
from cloudevents_kit.stores.redis._server import Server
from cloudevents_kit.stores.redis._windows import RedisWindowStore

__all__ = ["RedisStore"]


class _RedisScope(Scope):
    kind = "Redis"

    def __init__(self, lanes: Lanes, scope: str) -> None:
        self._lanes = lanes
        self._scope = scope

    @cached_property
    def deduplication(self) -> RedisDedupeStore:
        return RedisDedupeStore(self._lanes, self._scope)

    @cached_property
    def windows(self) -> RedisWindowStore:
        return RedisWindowStore(self._lanes, self._scope)

    @cached_property
    def cache(self) -> RedisCache:
        return RedisCache(self._lanes, self._scope)


class RedisStore(_RedisScope, Store):
    """Keeps what it can in a Redis or Valkey server. Use `open_store`."""

    def __init__(self, server: Server) -> None:
        """Begin closed."""
        super().__init__(Lanes(server), "")
        self._server = server
        self._scopes: dict[str, Scope] = {}

    def scoped(self, name: str) -> Scope:
        """See `Store.scoped`."""
        check_scope(name)
        if name not in self._scopes:
            self._scopes[name] = _RedisScope(self._lanes, safe_key(name))
        return self._scopes[name]

    async def __aenter__(self) -> Self:
        """Connect, and see whether the server can be written and keeps what it is given. Raises StoreError."""
        await self._server.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Do what waits to be done, and close the connections."""
        self._server.shut()
        try:
            await self._lanes.close()
        finally:
            await self._server.close()


def make(url: str, *, patience: float) -> RedisStore:
    """Return the store for ``url``."""
    return RedisStore(Server(url, patience=patience))
