"""Events that are to be sent, a row each, written in the transaction of whoever adds them, and gone once delivered."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from time import monotonic
from typing import Any
from zlib import crc32

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from cloudevents_kit import _frozen
from cloudevents_kit._contract import log
from cloudevents_kit._event import Event
from cloudevents_kit._outbox_store import Lag
from cloudevents_kit.stages._memo import identity, identity_of, safe_key
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
    sa.Column("since", MICROS, nullable=False),  # when it was, or will be, due for the first time
    sa.Column("due", MICROS, nullable=False),  # or when its lease ends
    sa.Column("attempts", sa.Integer, nullable=False),  # that have failed
    sa.Column("token", sa.Text, nullable=False),  # of its lease
    sa.Index("cek_outbox_identity", "scope", "identity", unique=True),
    sqlite_autoincrement=True,  # an order that holds for good: no number is given twice
)
_KEYED = OUTBOX.c.key.is_not(None)
_WITHOUT = OUTBOX.c.key.is_(None)
sa.Index("cek_outbox_key", OUTBOX.c.scope, OUTBOX.c.key, OUTBOX.c.id, sqlite_where=_KEYED, postgresql_where=_KEYED)
sa.Index(
    "cek_outbox_due", OUTBOX.c.scope, OUTBOX.c.due, OUTBOX.c.since, sqlite_where=_WITHOUT, postgresql_where=_WITHOUT
)
STEP = creation(OUTBOX)

#: Rows that one statement names: drivers take no more than 32,766 values.
_AT_ONCE = 5000
#: Locks that stand for all keys, and the number that tells them from other advisory locks.
_BUCKETS = 64
_LOCKS = 0x63656B

#: Seconds that the second half of a cancellation may take.
_CANCELLING = 5.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

Leased = tuple[str, Event, int, str | None]


def _nonce() -> str:
    return os.urandom(9).hex()


@dataclass(slots=True)
class _Lease:
    most: int
    seconds: float
    token: str = field(default_factory=_nonce)
    tried: bool = False
    """True if it may have been made by an earlier attempt."""


class SqlOutboxStore:
    """Events that are to be sent. Leases run by the clock of the database."""

    def __init__(self, lane: Lane, scope: str) -> None:
        """Use `open_store`."""
        self._scope = scope
        self._odd = False
        self._lane = lane
        self._database = lane.database
        self._add = lane.operation(self._add_all)
        self._lease = lane.operation(self._lease_all)
        self._settle = lane.operation(self._settle_all)
        self._was_empty = False
        self._mine = OUTBOX.c.scope == scope
        values: dict[str, Any] = {name: sa.bindparam(name) for name in ("identity", "key", "event")}
        at, pause = (sa.bindparam(name, type_=MICROS) for name in ("at", "pause"))
        due_at = sa.case((at > now(), at), else_=now() + pause)
        new = insert(OUTBOX, lane.database).values(
            scope=scope, since=due_at, due=due_at, attempts=0, token="", **values
        )
        self._insert = new.on_conflict_do_nothing(index_elements=[OUTBOX.c.scope, OUTBOX.c.identity])
        columns = (OUTBOX.c.id, OUTBOX.c.event, OUTBOX.c.attempts, OUTBOX.c.key)
        leased = {"token": sa.bindparam("lease"), "due": now() + sa.bindparam("lasts", type_=MICROS)}
        lease = sa.update(OUTBOX).values(leased).returning(*columns)
        most: Any = sa.bindparam("most", type_=sa.Integer)
        due = sa.select(OUTBOX.c.id).where(self._mine, OUTBOX.c.due <= now())
        first = sa.select(sa.func.min(OUTBOX.c.id)).where(self._mine, _KEYED).group_by(OUTBOX.c.key)
        without, heads = due.where(_WITHOUT), due.where(OUTBOX.c.id.in_(first))
        self._any = sa.union_all(sa.select(without.limit(1).subquery()), sa.select(heads.limit(1).subquery()))

        def picking(wanted: sa.Select[Any]) -> sa.sql.dml.ReturningUpdate[Any]:
            ordered = wanted.order_by(OUTBOX.c.due, OUTBOX.c.since, OUTBOX.c.id).limit(most)
            picked = ordered.with_for_update(skip_locked=True, of=OUTBOX).cte("picked")
            return lease.where(OUTBOX.c.id.in_(sa.select(picked.c.id)))

        self._pick_heads, self._pick_others = picking(heads), picking(without)
        self._pick_these = lease.where(OUTBOX.c.id.in_(sa.bindparam("numbers", expanding=True)))
        taken = OUTBOX.c.token == sa.bindparam("lease")
        self._picked = sa.select(*columns).where(self._mine, taken, OUTBOX.c.due > now())
        keys: Any = sa.bindparam("keys", expanding=True)
        behind = sa.select(OUTBOX.c.id, OUTBOX.c.key, (OUTBOX.c.due <= now()).label("is_due"))
        self._behind = (
            behind.where(self._mine, OUTBOX.c.key.in_(keys), OUTBOX.c.token != sa.bindparam("lease"))
            .order_by(OUTBOX.c.id)
            .limit(most)
            .with_for_update()
        )
        self._later = (
            sa.update(OUTBOX)
            .where(self._mine, OUTBOX.c.id == sa.bindparam("number"), taken)
            .values(token="", attempts=sa.bindparam("failed"), due=now() + pause)
        )

    async def add(self, event: Event, /, *, key: str | None, due: datetime | float = 0.0) -> None:
        """See `outbox.OutboxStore`."""
        await self._add(self._row(event, key, due))

    def insert(self, connection: Any, event: Event, /, *, key: str | None, due: datetime | float = 0.0) -> None:
        """See `outbox.OutboxStore`: ``connection`` is a Connection or a Session of SQLAlchemy, not an async one."""
        if hasattr(connection, "run_sync"):
            raise TypeError("connection: must not be an async one here (use `await outbox.add(event, connection)`)")
        found = connection if isinstance(connection, sa.Connection) else getattr(connection, "connection", object)()
        if not isinstance(found, sa.Connection):
            raise TypeError(f"connection: must be SQLAlchemy's, or a session, not {type(connection).__name__}")
        self._check(found)
        row = self._row(event, key, due)
        self._lock(found, [row])
        found.execute(self._insert, row)

    def _check(self, connection: sa.Connection) -> None:
        """Raise ValueError for a connection with which events would be lost, or be sent without what they tell of."""
        url = connection.engine.url
        if connection.dialect.name == "sqlite" and not url.database:  # in memory, or made by a function of the program
            main = connection.exec_driver_sql("PRAGMA database_list").first()
            url = url.set(database=(main and main[2]) or ":memory:")
        if not self._database.is_at(url):
            raise ValueError(f"connection: is to another database than the outbox, which is in {self._database.name}")
        of_engine = getattr(connection.dialect, "_on_connect_isolation_level", None)
        if connection.get_execution_options().get("isolation_level", of_engine) == "AUTOCOMMIT":
            raise ValueError("connection: must be in a transaction, not in AUTOCOMMIT")

    def _row(self, event: Event, key: str | None, due: datetime | float) -> dict[str, Any]:
        return {
            "identity": identity(event),
            "key": None if key is None else safe_key(key),
            "event": _frozen.pack(event),
            "at": (due - _EPOCH) // _MICROSECOND if isinstance(due, datetime) else 0,
            "pause": 0 if isinstance(due, datetime) else micros(due),
        }

    def _lock(self, connection: sa.Connection, rows: Iterable[Mapping[str, Any]]) -> None:
        """Let transactions that add events of one key follow each other, so that numbers have the order of commits.

        By the key alone: one that adds an event for several subscribers, which have the same key as a rule, takes one
        lock, and none in another order than others do.
        """
        if self._database.is_sqlite:  # where all transactions do
            return
        buckets = {crc32(row["key"].encode()) % _BUCKETS for row in rows if row["key"] is not None}
        if buckets:
            locks = [sa.func.pg_advisory_xact_lock(_LOCKS, bucket) for bucket in sorted(buckets)]
            connection.execute(sa.select(*locks))

    async def cancel(self, source: str, id: str, /) -> bool:
        """See `outbox.OutboxStore`. Leases the event first: of a removal alone nobody could tell whose it was."""
        wanted = (self._mine, OUTBOX.c.identity == identity_of(source, id))
        token = _nonce()
        mine = OUTBOX.c.token == token
        lease = sa.update(OUTBOX).values(token=token, due=now() + micros(_CANCELLING))
        began = monotonic()
        tried = False

        async def take(connection: AsyncConnection) -> bool:
            found = await connection.execute(lease.where(*wanted, sa.or_(OUTBOX.c.token == "", mine)))
            return found.rowcount == 1

        async def remove(connection: AsyncConnection) -> bool:
            nonlocal tried
            found = await connection.execute(sa.delete(OUTBOX).where(*wanted, mine))
            # If it is gone, it was an earlier attempt, unless somebody else can have leased it since.
            gone = found.rowcount == 1 or (tried and monotonic() - began < _CANCELLING)
            tried = True
            return gone

        return await self._lane.run(take) and await self._lane.run(remove)

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

    async def lag(self) -> Lag:
        """See `outbox.OutboxStore`."""
        return await self._database.read(self._find_lag)

    async def clear(self) -> int:
        """See `outbox.OutboxStore`. Some at a time: others want to write, too."""

        async def last(connection: AsyncConnection) -> int:
            return await connection.scalar(sa.select(sa.func.max(OUTBOX.c.id)).where(self._mine)) or 0

        found = sa.select(OUTBOX.c.id).where(self._mine, OUTBOX.c.id <= await self._database.read(last))
        some = sa.delete(OUTBOX).where(OUTBOX.c.id.in_(found.limit(_AT_ONCE).scalar_subquery()))

        async def remove(connection: AsyncConnection) -> int:
            return (await connection.execute(some)).rowcount

        count = 0
        while removed := await self._lane.run(remove):
            count += removed
        return count

    async def _is_any_due(self, connection: AsyncConnection) -> bool:
        return (await connection.execute(self._any)).first() is not None

    async def _find_lag(self, connection: AsyncConnection) -> Lag:
        late = OUTBOX.c.since <= now()
        counted = sa.func.count().filter(late).label("late"), sa.func.count().label("all")
        found = await connection.execute(
            sa.select(*counted, (now() - sa.func.min(OUTBOX.c.since)).label("age")).where(self._mine)
        )
        row: Row = found.one()
        return Lag(row.late, max(0.0, (row.age or 0) / 1e6), row.all - row.late)

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
                rows = await self._pick(connection, item)
            answers.append((sorted(rows, key=itemgetter(0)), item.token))
        return answers

    async def _pick(self, connection: AsyncConnection, item: _Lease) -> list[Row]:
        """Lease events without a key, up to one half; the first of each key, and those behind them, and more."""
        given = {"lease": item.token, "lasts": micros(item.seconds)}
        self._odd = not self._odd  # of one event, either kind is every other time the one that gets nothing
        half = (item.most + self._odd) // 2
        rows: list[Row] = [*await connection.execute(self._pick_others, {**given, "most": half})]
        are_more = len(rows) == half
        keys: list[str] = []
        if len(rows) < item.most:
            heads = [*await connection.execute(self._pick_heads, {**given, "most": item.most - len(rows)})]
            keys = [row.key for row in heads][:_AT_ONCE]
            rows += heads
        if keys and len(rows) < item.most:
            rows += await self._follow(connection, keys, {**given, "most": min(item.most - len(rows), _AT_ONCE)})
        if are_more and len(rows) < item.most:
            rows += await connection.execute(self._pick_others, {**given, "most": item.most - len(rows)})
        return rows

    async def _follow(self, connection: AsyncConnection, keys: list[str], given: dict[str, Any]) -> list[Row]:
        """Lease what comes right behind the first of ``keys``: nobody else can, who has not leased those."""
        wanted = {"most": given.pop("most"), "keys": keys, "lease": given["lease"]}
        behind: list[Row] = [*await connection.execute(self._behind, wanted)]
        held_up: set[str] = set()
        numbers: list[int] = []
        for row in behind:
            if not row.is_due:
                held_up.add(row.key)
            elif row.key not in held_up:
                numbers.append(row.id)
        if not numbers:
            return []
        return [*await connection.execute(self._pick_these, {**given, "numbers": numbers})]

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
    held_up: set[str | None] = set()
    for row in rows:
        if row.key in held_up:
            continue
        try:
            event = _frozen.unpack(row.event)
        except Exception as error:  # noqa: BLE001 - the others are to be sent all the same
            log.error("outbox: the event in row %d of cek_outbox cannot be read", row.id, exc_info=error)
            if row.key is not None:
                held_up.add(row.key)
        else:
            yield f"{row.id}.{token}", event, row.attempts, row.key
