"""The stores of an SQL database, SQLite or PostgreSQL: one code for both, written with SQLAlchemy Core.

One file per kind of store; `_engine` knows connections and what can go wrong, `_group` how many writes share a
transaction, `_schema` how tables come into being. A kill at any moment loses nothing that a call has returned.
"""

from __future__ import annotations

from functools import cached_property
from typing import Self

from cloudevents_kit.stages._memo import safe_key
from cloudevents_kit.stores._store import Scope, Store, check_scope
from cloudevents_kit.stores.sql import _dead_letters, _deduplicate, _event_log, _journal, _outbox, _queue, _windows
from cloudevents_kit.stores.sql._dead_letters import SqlDeadLetterStore
from cloudevents_kit.stores.sql._deduplicate import SqlDedupeStore
from cloudevents_kit.stores.sql._engine import Database
from cloudevents_kit.stores.sql._event_log import SqlEventLogStore
from cloudevents_kit.stores.sql._group import Lanes
from cloudevents_kit.stores.sql._journal import SqlJournal
from cloudevents_kit.stores.sql._outbox import SqlOutboxStore
from cloudevents_kit.stores.sql._queue import SqlQueueStore
from cloudevents_kit.stores.sql._schema import migrate
from cloudevents_kit.stores.sql._windows import SqlWindowStore

__all__ = ["SqlStore"]

#: What makes the tables, in the order of releases: only ever add to its end.
STEPS = (
    _deduplicate.STEP,
    _windows.STEP,
    _queue.STEP,
    _dead_letters.STEP,
    _journal.STEP,
    _outbox.STEP,
    _event_log.STEP,
)


class _SqlScope(Scope):
    kind = "an SQL database"

    def __init__(self, lanes: Lanes, scope: str) -> None:
        self._lanes = lanes
        self._scope = scope

    @cached_property
    def deduplication(self) -> SqlDedupeStore:
        return SqlDedupeStore(self._lanes["deduplication"], self._scope)

    @cached_property
    def windows(self) -> SqlWindowStore:
        return SqlWindowStore(self._lanes["windows"], self._scope)

    @cached_property
    def queue(self) -> SqlQueueStore:
        return SqlQueueStore(self._lanes["queue"], self._scope)

    @cached_property
    def dead_letters(self) -> SqlDeadLetterStore:
        return SqlDeadLetterStore(self._lanes["dead_letters"], self._scope)

    @cached_property
    def sagas(self) -> SqlJournal:
        return SqlJournal(self._lanes["sagas"], self._scope)

    @cached_property
    def outbox(self) -> SqlOutboxStore:
        return SqlOutboxStore(self._lanes["outbox"], self._scope)

    @cached_property
    def event_log(self) -> SqlEventLogStore:
        return SqlEventLogStore(self._lanes["event_log"], self._scope)


class SqlStore(_SqlScope, Store):
    """Keeps everything in a database. Use `open_store`."""

    def __init__(self, database: Database) -> None:
        """Begin closed."""
        super().__init__(Lanes(database), "")
        self._database = database
        self._scopes: dict[str, Scope] = {}

    def scoped(self, name: str) -> Scope:
        """See `Store.scoped`."""
        check_scope(name)
        if name not in self._scopes:
            self._scopes[name] = _SqlScope(self._lanes, safe_key(name))
        return self._scopes[name]

    async def __aenter__(self) -> Self:
        """Open it, and make the tables that are missing. Raises StoreError."""
        name = self._database.name
        await self._database.open(lambda connection: connection.run_sync(migrate, STEPS, name))
        return self

    async def __aexit__(self, *_: object) -> None:
        """Write what waits to be written, and close the connections."""
        self._database.shut()
        try:
            await self._lanes.close()
        finally:
            await self._database.close()


def make(url: str, *, patience: float) -> SqlStore:
    """Return the store for ``url``."""
    return SqlStore(Database(url, patience=patience))
