"""The journal of sagas, a row each. A save names the version it has read; a lease makes the next version.

Leases and pauses run by the clock of the database.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from cloudevents_kit.stores.sql._group import Lane
from cloudevents_kit.stores.sql._schema import MICROS, creation, insert, micros, now, table

SAGAS = table(
    "cek_sagas",
    sa.Column("saga", sa.Text, primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("due", MICROS),
    sa.Column("lease", sa.Text, nullable=False),
    sa.Column("state", sa.LargeBinary, nullable=False),
    sa.Column("expires", MICROS),
    sa.Column("stamp", sa.Text, nullable=False),  # of the last save
    sa.Index("cek_sagas_due", "scope", "saga", "due"),
    sa.Index("cek_sagas_expires", "scope", "saga", "expires"),
)
STEP = creation(SAGAS)

_Entry = tuple[str, int, float | None, str, bytes]
_ENTRY = (SAGAS.c.id, SAGAS.c.version, SAGAS.c.due - now(), SAGAS.c.lease, SAGAS.c.state)


@dataclass(slots=True)
class _Save:
    key: tuple[str, str]
    version: int
    values: dict[str, Any]
    stamp: str = field(default_factory=lambda: os.urandom(12).hex())
    tried: bool = False
    """True if it may have been made by an earlier attempt."""


@dataclass(slots=True)
class _Lease:
    saga: str
    seconds: float
    token: str
    tried: bool = False


class SqlJournal:
    """What is known of sagas. See `saga.Journal`."""

    def __init__(self, lane: Lane, scope: str) -> None:
        """Use `open_store`."""
        self._lane = lane
        self._scope = scope
        self._save = lane.operation(self._save_all)
        self._lease = lane.operation(self._lease_all)
        self._forget = lane.operation(self._forget_all)

    async def load(self, saga: str, id: str, /) -> _Entry | None:
        """See `saga.Journal`."""
        wanted = sa.select(*_ENTRY).where(*self._is((saga, id)))
        row = await self._lane.database.read(lambda connection: _first(connection, wanted))
        return None if row is None else _entry(row)

    async def save(
        self, saga: str, id: str, state: bytes, /, *, version: int, due: float | None, lease: str, expires: float | None
    ) -> bool:
        """See `saga.Journal`."""
        values = {"state": state, "due": _at(due), "lease": lease, "expires": _at(expires)}
        return await self._save(_Save((saga, id), version, values))

    async def lease(self, saga: str, seconds: float, token: str, /) -> _Entry | None:
        """See `saga.Journal`."""
        return await self._lease(_Lease(saga, seconds, token))

    async def read(self, saga: str, after: str, limit: int, /, *, expiring: bool) -> Sequence[_Entry]:
        """See `saga.Journal`."""
        wanted = sa.select(*_ENTRY).where(SAGAS.c.scope == self._scope, SAGAS.c.saga == saga, SAGAS.c.id > after)
        if not expiring:
            wanted = wanted.where(SAGAS.c.expires.is_(None))
        page = wanted.order_by(SAGAS.c.id).limit(limit)
        return [_entry(row) for row in await self._lane.database.read(lambda connection: _all(connection, page))]

    async def forget(self, saga: str, /) -> int:
        """See `saga.Journal`."""
        return await self._forget(saga)

    def _is(self, key: tuple[str, str]) -> Sequence[sa.ColumnElement[bool]]:
        return SAGAS.c.scope == self._scope, SAGAS.c.saga == key[0], SAGAS.c.id == key[1]

    async def _save_all(self, connection: AsyncConnection, items: list[_Save]) -> list[bool]:
        answers: dict[int, bool] = {}
        for item in sorted(items, key=lambda item: item.key):  # who locks rows in one order never waits in a circle
            answers[id(item)] = await self._save_one(connection, item)
        return [answers[id(item)] for item in items]

    async def _save_one(self, connection: AsyncConnection, item: _Save) -> bool:
        values = {**item.values, "version": item.version + 1, "stamp": item.stamp}
        statement: Any
        if item.version:
            statement = sa.update(SAGAS).where(*self._is(item.key), SAGAS.c.version == item.version).values(values)
        else:
            saga, name = item.key
            new = insert(SAGAS, self._lane.database).values(scope=self._scope, saga=saga, id=name, **values)
            statement = new.on_conflict_do_nothing()
        saved = await _first(connection, statement.returning(SAGAS.c.version)) is not None
        if not saved and item.tried:
            made = sa.select(SAGAS.c.version).where(*self._is(item.key), SAGAS.c.stamp == item.stamp)
            saved = await _first(connection, made) is not None
        item.tried = True
        return saved

    async def _lease_all(self, connection: AsyncConnection, items: list[_Lease]) -> list[_Entry | None]:
        return [await self._lease_one(connection, item) for item in items]

    async def _lease_one(self, connection: AsyncConnection, item: _Lease) -> _Entry | None:
        mine = (SAGAS.c.scope == self._scope, SAGAS.c.saga == item.saga)
        row = None
        if item.tried:
            row = await _first(connection, sa.select(*_ENTRY).where(*mine, SAGAS.c.lease == item.token))
        item.tried = True
        if row is None:
            due = sa.select(SAGAS.c.id).where(*mine, SAGAS.c.due <= now()).order_by(SAGAS.c.due).limit(1)
            picked = due.with_for_update(skip_locked=True).cte("picked")
            lease = (
                sa.update(SAGAS)
                .where(*mine, SAGAS.c.id.in_(sa.select(picked.c.id)))
                .values(version=SAGAS.c.version + 1, due=_at(item.seconds), lease=item.token)
            )
            row = await _first(connection, lease.returning(*_ENTRY))
        return None if row is None else _entry(row)

    async def _forget_all(self, connection: AsyncConnection, items: list[str]) -> list[int]:
        answers = []
        for saga in items:
            over = sa.delete(SAGAS).where(SAGAS.c.scope == self._scope, SAGAS.c.saga == saga, SAGAS.c.expires <= now())
            answers.append((await connection.execute(over)).rowcount)
        return answers


async def _first(connection: AsyncConnection, statement: Any) -> Any:
    return (await connection.execute(statement)).first()


async def _all(connection: AsyncConnection, statement: Any) -> Any:
    return (await connection.execute(statement)).all()


def _at(seconds: float | None) -> Any:
    return None if seconds is None else now() + micros(seconds)


def _entry(row: Any) -> _Entry:
    id, version, due, lease, state = row
    return id, version, None if due is None else due / 1e6, lease, bytes(state)
