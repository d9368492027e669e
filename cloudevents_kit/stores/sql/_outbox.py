"""Events that are to be sent, a row each, written in the transaction of whoever adds them, and gone once delivered."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from cloudevents_kit import _json
from cloudevents_kit._contract import log
from cloudevents_kit._event import Event
from cloudevents_kit.stages._memo import identity, safe_key
from cloudevents_kit.stores.sql._group import Lane
from cloudevents_kit.stores.sql._schema import METADATA, MICROS, NUMBER, Row, creation, insert, micros, now

OUTBOX = sa.Table(
    "cek_outbox",
    METADATA,
    sa.Column("id", NUMBER, primary_key=True),
    sa.Column("scope", sa.Text, nullable=False),
    sa.Column("identity", sa.Text, nullable=False),
    sa.Column("key", sa.Text),
    sa.Column("event", sa.LargeBinary, nullable=False),
    sa.Column("added", MICROS, nullable=False),
    sa.Column("due", MICROS, nullable=False),  # or when its lease ends
    sa.Column("attempts", sa.Integer, nullable=False),  # that have failed
    sa.Column("token", sa.Text, nullable=False),  # of its lease
    sa.Index("cek_outbox_identity", "scope", "identity", unique=True),
    sa.Index("cek_outbox_due", "scope", "due"),
    sqlite_autoincrement=True,  # an order that holds for good: no number is given twice
)
_KEYED = OUTBOX.c.key.is_not(None)
sa.Index("cek_outbox_key", OUTBOX.c.scope, OUTBOX.c.key, OUTBOX.c.id, sqlite_where=_KEYED, postgresql_where=_KEYED)
STEP = creation(OUTBOX)

#: Rows that one statement names: drivers take no more than 32,766 values.
_AT_ONCE = 5000
#: Locks that stand for all keys, and the number that tells them from other advisory locks.
_BUCKETS = 64
_LOCKS = 0x63656B

Leased = tuple[str, Event, int]


@dataclass(slots=True)
class _Lease:
    most: int
    seconds: float
    token: str = field(default_factory=lambda: os.urandom(9).hex())
    tried: bool = False
    """True if it may have been made by an earlier attempt."""


class SqlOutboxStore:
    """Events that are to be sent. Leases run by the clock of the database."""

    def __init__(self, lane: Lane, scope: str) -> None:
        """Use `open_store`."""
        self._scope = scope
        self._database = lane.database
        self._add = lane.operation(self._add_all)
        self._lease = lane.operation(self._lease_all)
        self._settle = lane.operation(self._settle_all)
        self._was_empty = False
        self._mine = OUTBOX.c.scope == scope
        values: dict[str, Any] = {name: sa.bindparam(name) for name in ("identity", "key", "event")}
        new = insert(OUTBOX, lane.database).values(scope=scope, added=now(), due=now(), attempts=0, token="", **values)
        self._insert = new.on_conflict_do_nothing(index_elements=[OUTBOX.c.scope, OUTBOX.c.identity])
        earlier = OUTBOX.alias("earlier")
        first = ~sa.exists().where(earlier.c.scope == scope, earlier.c.key == OUTBOX.c.key, earlier.c.id < OUTBOX.c.id)
        due = sa.select(OUTBOX.c.id).where(self._mine, OUTBOX.c.due <= now(), sa.or_(OUTBOX.c.key.is_(None), first))
        self._any = due.limit(1)
        most: Any = sa.bindparam("most", type_=sa.Integer)
        picked = due.order_by(OUTBOX.c.due, OUTBOX.c.id).limit(most)
        chosen = picked.with_for_update(skip_locked=True, of=OUTBOX).cte("picked")
        columns = (OUTBOX.c.id, OUTBOX.c.event, OUTBOX.c.attempts)
        self._pick = (
            sa.update(OUTBOX)
            .where(OUTBOX.c.id.in_(sa.select(chosen.c.id)))
            .values(token=sa.bindparam("lease"), due=now() + sa.bindparam("lasts", type_=MICROS))
            .returning(*columns)
        )
        taken = OUTBOX.c.token == sa.bindparam("lease")
        self._picked = sa.select(*columns).where(self._mine, taken, OUTBOX.c.due > now())
        self._later = (
            sa.update(OUTBOX)
            .where(self._mine, OUTBOX.c.id == sa.bindparam("number"), taken)
            .values(token="", attempts=sa.bindparam("failed"), due=now() + sa.bindparam("pause", type_=MICROS))
        )

    async def add(self, event: Event, /, *, key: str | None) -> None:
        """See `outbox.OutboxStore`."""
        await self._add(self._row(event, key))

    def insert(self, connection: Any, event: Event, /, *, key: str | None) -> None:
        """See `outbox.OutboxStore`: ``connection`` is a Connection or a Session of SQLAlchemy, not an async one."""
        if hasattr(connection, "run_sync"):
            raise TypeError("connection: must not be an async one here (use `await outbox.add(event, connection)`)")
        found = connection if isinstance(connection, sa.Connection) else getattr(connection, "connection", object)()
        if not isinstance(found, sa.Connection):
            raise TypeError(f"connection: must be SQLAlchemy's, or a session, not {type(connection).__name__}")
        self._check(found)
        row = self._row(event, key)
        self._lock(found, [row])
        found.execute(self._insert, row)

    def _check(self, connection: sa.Connection) -> None:
        """Raise ValueError for a connection with which events would be lost, or be sent without what they tell of."""
        if not self._database.is_at(connection.engine.url):
            raise ValueError(f"connection: is to another database than the outbox, which is in {self._database.name}")
        if connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT":
            raise ValueError("connection: must be in a transaction, not in AUTOCOMMIT")

    def _row(self, event: Event, key: str | None) -> dict[str, Any]:
        name = None if key is None else safe_key(key)
        return {"identity": identity(event), "key": name, "event": _json.encode(event)}

    def _lock(self, connection: sa.Connection, rows: Iterable[Mapping[str, Any]]) -> None:
        """Let transactions that add events of one key follow each other, so that numbers have the order of commits."""
        if self._database.is_sqlite:  # where all transactions do
            return
        buckets = {crc32(f"{self._scope}:{row['key']}".encode()) % _BUCKETS for row in rows if row["key"] is not None}
        if buckets:
            locks = [sa.func.pg_advisory_xact_lock(_LOCKS, bucket) for bucket in sorted(buckets)]
            connection.execute(sa.select(*locks))

    async def lease(self, most: int, seconds: float, /) -> Sequence[Leased]:
        """See `outbox.OutboxStore`. While there is nothing, looks without the lock that writers need."""
        if self._was_empty and not await self._database.read(self._is_any_due):
            return ()
        rows, token = await self._lease(_Lease(most, seconds))
        self._was_empty = not rows
        return [*_read(rows, token)]

    async def settle(self, ends: Mapping[str, tuple[int, float] | None], /) -> None:
        """See `outbox.OutboxStore`."""
        await self._settle(ends)

    async def lag(self) -> tuple[int, float]:
        """See `outbox.OutboxStore`."""
        return await self._database.read(self._find_lag)

    async def _is_any_due(self, connection: AsyncConnection) -> bool:
        return (await connection.execute(self._any)).first() is not None

    async def _find_lag(self, connection: AsyncConnection) -> tuple[int, float]:
        count = await connection.scalar(sa.select(sa.func.count()).select_from(OUTBOX).where(self._mine))
        age = sa.select(now() - OUTBOX.c.added).where(self._mine).order_by(OUTBOX.c.id).limit(1)
        return count or 0, max(0.0, (await connection.scalar(age) or 0) / 1e6)

    async def _add_all(self, connection: AsyncConnection, rows: list[dict[str, Any]]) -> list[None]:
        await connection.run_sync(self._lock, rows)
        await connection.execute(self._insert, rows)
        return [None] * len(rows)

    async def _lease_all(self, connection: AsyncConnection, items: list[_Lease]) -> list[tuple[list[Row], str]]:
        answers = []
        for item in items:
            rows: list[Row] = []
            if item.tried:
                rows += await connection.execute(self._picked, {"lease": item.token})
            item.tried = True
            if not rows:
                given = {"most": item.most, "lease": item.token, "lasts": micros(item.seconds)}
                rows += await connection.execute(self._pick, given)
            answers.append((sorted(rows), item.token))
        return answers

    async def _settle_all(
        self, connection: AsyncConnection, items: list[Mapping[str, tuple[int, float] | None]]
    ) -> list[None]:
        """Delete what was delivered, whoever has it now; let the rest wait if its lease is still the one named."""
        gone: set[int] = set()
        later: list[dict[str, Any]] = []
        for ends in items:
            for name, end in ends.items():
                number, _, token = name.partition(".")
                if end is None:
                    gone.add(int(number))
                else:
                    given = {"number": int(number), "lease": token, "failed": end[0], "pause": micros(end[1])}
                    later.append(given)
        numbers = sorted(gone)
        for at in range(0, len(numbers), _AT_ONCE):
            these = OUTBOX.c.id.in_(numbers[at : at + _AT_ONCE])
            await connection.execute(sa.delete(OUTBOX).where(self._mine, these))
        if later:
            later.sort(key=lambda given: given["number"])
            await connection.execute(self._later, later)
        return [None] * len(items)


def _read(rows: Iterable[Row], token: str) -> Iterable[Leased]:
    for row in rows:
        try:
            yield f"{row.id}.{token}", _json.decode(row.event), row.attempts
        except Exception as error:  # noqa: BLE001 - the others are to be sent all the same
            log.error("outbox: the event in row %d of cek_outbox cannot be read", row.id, exc_info=error)
