"""How far the projections of an event log are, and states of its streams, a row each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from cloudevents_kit._recorded import Checkpoint, Work
from cloudevents_kit.stores.sql._engine import Database
from cloudevents_kit.stores.sql._event_log_tables import CHECKPOINTS, LOG, SNAPSHOTS, Shielded, limited, shielded
from cloudevents_kit.stores.sql._schema import insert, micros, now

T = TypeVar("T")

#: Seconds after which a server is gone that says nothing, or for it this process, while handlers are at work, who have
#: limits of their own.
_LONGEST = 300.0


class SqlCheckpoints:
    """How far projections are. Leases run by the clock of the database. See `event_log.CheckpointStore`.

    A transaction of its own each, not one shared with other writers: a handler may take its time.
    """

    def __init__(self, database: Database, scope: str) -> None:
        """Use `open_store`."""
        self._database = database
        self._scope = scope
        self._mine = CHECKPOINTS.c.scope == scope
        new = insert(CHECKPOINTS, database).values(
            scope=scope, name=sa.bindparam("name"), position=0, token="", until=0
        )
        self._create = new.on_conflict_do_nothing()

    def _is(self, name: str) -> sa.ColumnElement[bool]:
        return sa.and_(self._mine, CHECKPOINTS.c.name == name)

    async def lease(self, name: str, token: str, seconds: float, /) -> int | None:
        """See `event_log.CheckpointStore`. While another one has it, this writes nothing."""
        free = sa.or_(CHECKPOINTS.c.token == token, CHECKPOINTS.c.until <= now())
        looked = sa.select(free).where(self._is(name))
        if await self._database.read(lambda connection: connection.scalar(looked)) is False:
            return None
        taken = {"token": token, "until": now() + micros(seconds)} if seconds else {"token": "", "until": 0}
        take = sa.update(CHECKPOINTS).where(self._is(name), free).values(taken).returning(CHECKPOINTS.c.position)

        async def work(connection: AsyncConnection) -> int | None:
            await connection.execute(self._create, {"name": name})
            found: int | None = await connection.scalar(take)
            return found

        return await self._database.transaction(work)

    async def advance(self, name: str, token: str | None, before: int, after: int, work: Work | None, /) -> bool:
        """See `event_log.CheckpointStore`."""
        ours = [self._is(name)] if token is None else [self._is(name), CHECKPOINTS.c.token == token]
        move = sa.update(CHECKPOINTS).where(*ours, CHECKPOINTS.c.position == before).values(position=after)
        tried = False

        async def attempt(connection: AsyncConnection) -> bool:
            nonlocal tried
            again, tried = tried, True
            if token is None:
                await connection.execute(self._create, {"name": name})
            if not (await connection.execute(move)).rowcount:
                # By an earlier attempt, whose commit was not answered? Nobody else moves it while we have the lease.
                position = await connection.scalar(sa.select(CHECKPOINTS.c.position).where(*ours))
                return again and token is not None and position == after
            await self._do(work, connection)
            return True

        return await self._transaction(attempt)

    async def reset(self, name: str, work: Work | None, /) -> None:
        """See `event_log.CheckpointStore`."""

        async def attempt(connection: AsyncConnection) -> None:
            await connection.execute(self._create, {"name": name})
            await connection.execute(sa.update(CHECKPOINTS).where(self._is(name)).values(position=0, token="", until=0))
            await self._do(work, connection)

        await self._transaction(attempt)

    async def _do(self, work: Work | None, connection: AsyncConnection) -> None:
        if work is not None:
            if not self._database.is_sqlite:
                await connection.execute(sa.select(limited("idle_in_transaction_session_timeout", _LONGEST)))
            async with shielded(self._database):
                await work(connection)

    async def _transaction(self, attempt: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        try:
            return await self._database.transaction(attempt, seconds=_LONGEST)
        except Shielded as shield:
            raise shield.error from shield.error.__cause__

    async def read(self, names: Sequence[str], /) -> Sequence[Checkpoint]:
        """See `event_log.CheckpointStore`."""
        kept = sa.select(CHECKPOINTS.c.name, CHECKPOINTS.c.position).where(self._mine, CHECKPOINTS.c.name.in_(names))
        in_log = LOG.c.scope == self._scope

        async def work(connection: AsyncConnection) -> list[Checkpoint]:
            positions: dict[str, int] = {row.name: row.position for row in await connection.execute(kept)}
            end = await connection.scalar(sa.select(sa.func.max(LOG.c.position)).where(in_log)) or 0
            nexts = {positions.get(name, 0) + 1 for name in names}
            ages = sa.select(LOG.c.position, now() - LOG.c.at).where(in_log, LOG.c.position.in_(nexts))
            waits: dict[int, Any] = {row[0]: row[1] for row in await connection.execute(ages)}
            found = []
            for name in names:
                position = positions.get(name, 0)
                oldest = max(0.0, waits.get(position + 1, 0) / 1e6)
                found.append(Checkpoint(name, position, max(0, end - position), oldest))
            return found

        return await self._database.read(work)


class SqlSnapshots:
    """States of streams. See `event_log.SnapshotStore`."""

    def __init__(self, database: Database, scope: str) -> None:
        """Use `open_store`."""
        self._database = database
        self._scope = scope
        self._mine = SNAPSHOTS.c.scope == scope

    async def load(self, stream: str, name: str, schema: int, /) -> tuple[int, bytes] | None:
        """See `event_log.SnapshotStore`."""
        wanted = sa.select(SNAPSHOTS.c.version, SNAPSHOTS.c.state).where(
            self._mine, SNAPSHOTS.c.stream == stream, SNAPSHOTS.c.name == name, SNAPSHOTS.c.schema == schema
        )

        async def work(connection: AsyncConnection) -> tuple[int, bytes] | None:
            row = (await connection.execute(wanted)).first()
            return None if row is None else (row.version, bytes(row.state))

        return await self._database.read(work)

    async def save(self, stream: str, name: str, schema: int, version: int, state: bytes, /) -> None:
        """See `event_log.SnapshotStore`."""
        key = {"scope": self._scope, "stream": stream, "name": name, "schema": schema}
        new = insert(SNAPSHOTS, self._database).values(**key, version=version, state=state)
        written = new.on_conflict_do_update(
            index_elements=[SNAPSHOTS.c[column] for column in key],
            set_={"version": version, "state": state},
            where=SNAPSHOTS.c.version < version,
        )

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(written)

        await self._database.transaction(work)

    async def forget(self, name: str | None, /) -> int:
        """See `event_log.SnapshotStore`."""
        named = () if name is None else (SNAPSHOTS.c.name == name,)

        async def work(connection: AsyncConnection) -> int:
            return (await connection.execute(sa.delete(SNAPSHOTS).where(self._mine, *named))).rowcount

        return await self._database.transaction(work)
