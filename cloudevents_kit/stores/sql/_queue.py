"""Events of a queue, a row each. An event is leased by an update that names the lease, and gone when it is done."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from cloudevents_kit import _frozen
from cloudevents_kit._errors import StoreError
from cloudevents_kit._event import Event
from cloudevents_kit.stages._memo import identity, safe_key
from cloudevents_kit.stores.sql._group import Lane
from cloudevents_kit.stores.sql._schema import METADATA, MICROS, NUMBER, Row, creation, micros, now

QUEUE = sa.Table(
    "cek_queue",
    METADATA,
    sa.Column("id", NUMBER, primary_key=True),
    sa.Column("scope", sa.Text, nullable=False),
    sa.Column("identity", sa.Text, nullable=False),
    sa.Column("key", sa.Text),
    sa.Column("event", sa.LargeBinary, nullable=False),
    sa.Column("due", MICROS, nullable=False),  # or when its lease ends
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("token", sa.Text, nullable=False, default=""),  # of its lease
    sa.Column("parked", sa.Boolean, nullable=False, default=False),
    sa.Index("cek_queue_identity", "scope", "identity", unique=True),
    sqlite_autoincrement=True,  # an order that holds for good: no number is given twice
)
_TO_DO = ~QUEUE.c.parked
sa.Index("cek_queue_order", QUEUE.c.scope, QUEUE.c.id, sqlite_where=_TO_DO, postgresql_where=_TO_DO)
sa.Index("cek_queue_key", QUEUE.c.scope, QUEUE.c.key, QUEUE.c.id, sqlite_where=_TO_DO, postgresql_where=_TO_DO)
STEP = creation(QUEUE)

#: So many of the events that are due are looked at in their order, before the first of each key is looked for.
_FRONT = 100
_MOST: Any = sa.bindparam("most", type_=sa.Integer)

Leased = tuple[str, Event, int]
_Token = tuple[int, str]


@dataclass(slots=True)
class _Put:
    event: Event
    key: str | None
    capacity: int
    identity: str


@dataclass(slots=True)
class _Lease:
    seconds: float
    token: str = field(default_factory=lambda: os.urandom(12).hex())
    tried: bool = False
    """True if it may have been made by an earlier attempt."""


@dataclass(slots=True)
class _Change:
    """What becomes of an event, if its ``lease`` still holds."""

    lease: _Token
    values: dict[str, Any]


class SqlQueueStore:
    """Events that are to be done. Leases run by the clock of the database."""

    def __init__(self, lane: Lane, scope: str) -> None:
        """Use `open_store`."""
        self._scope = scope
        self._mine = QUEUE.c.scope == scope
        self._locks = not lane.database.is_sqlite
        self._put = lane.operation(self._put_all)
        self._lease = lane.operation(self._lease_all)
        self._ack = lane.operation(self._ack_all)
        self._change = lane.operation(self._change_all)
        due = sa.select(QUEUE.c.id, QUEUE.c.key).where(self._mine, _TO_DO, QUEUE.c.due <= now()).order_by(QUEUE.c.id)
        self._pick = self._picking(self._front(due))
        free = due.with_only_columns(QUEUE.c.id).where(QUEUE.c.key.is_(None)).limit(_MOST).subquery()
        self._pick_any = self._picking(sa.union_all(self._heads(), sa.select(free)))
        self._beyond = due.offset(_FRONT).limit(1)

    def _front(self, due: sa.Select[Any]) -> sa.Select[Any]:
        """Select what may be leased of the first that are due."""
        front, earlier = due.limit(_FRONT).subquery(), QUEUE.alias()
        of_its_key = sa.and_(earlier.c.scope == self._scope, earlier.c.key == front.c.key, earlier.c.key.is_not(None))
        is_first = ~sa.exists().where(of_its_key, ~earlier.c.parked, earlier.c.id < front.c.id)
        return sa.select(front.c.id).where(sa.or_(front.c.key.is_(None), is_first))

    def _heads(self) -> sa.Select[Any]:
        """Select the first of each key, by steps from key to key in the index: however many of one key wait."""
        keyed = (self._mine, QUEUE.c.key.is_not(None), _TO_DO)
        keys = sa.select(sa.select(sa.func.min(QUEUE.c.key)).where(*keyed).scalar_subquery().label("key")).cte(
            "keys", recursive=True
        )
        following = sa.select(sa.func.min(QUEUE.c.key)).where(*keyed, QUEUE.c.key > keys.c.key).scalar_subquery()
        keys = keys.union_all(sa.select(following).where(keys.c.key.is_not(None)))
        first = sa.select(sa.func.min(QUEUE.c.id)).where(*keyed, QUEUE.c.key == keys.c.key).scalar_subquery()
        return sa.select(first).where(keys.c.key.is_not(None))

    def _picking(self, wanted: sa.SelectBase) -> sa.sql.dml.ReturningUpdate[Any]:
        """Lease the first of those ``wanted`` that are due."""
        due = sa.select(QUEUE.c.id).where(_TO_DO, QUEUE.c.due <= now(), QUEUE.c.id.in_(wanted))
        picked = due.order_by(QUEUE.c.id).limit(_MOST).with_for_update(skip_locked=True, of=QUEUE).cte("picked")
        return (
            sa.update(QUEUE)
            .where(QUEUE.c.id.in_(sa.select(picked.c.id)))
            .values(
                token=sa.bindparam("lease"),
                due=now() + sa.bindparam("lasts", type_=MICROS),
                attempts=QUEUE.c.attempts + 1,
            )
            .returning(QUEUE.c.id, QUEUE.c.event, QUEUE.c.attempts)
        )

    async def put(self, event: Event, /, *, key: str | None, capacity: int) -> bool:
        """See `stages.QueueStore`."""
        return await self._put(_Put(event, key and safe_key(key), capacity, identity(event)))

    async def lease(self, seconds: float, /) -> Leased | None:
        """See `stages.QueueStore`."""
        return await self._lease(_Lease(seconds))

    async def ack(self, token: str, /) -> bool:
        """See `stages.QueueStore`."""
        parsed = _parse(token)
        return parsed is not None and await self._ack(parsed)

    async def nack(self, token: str, /, *, delay: float | None, attempted: bool = True) -> bool:
        """See `stages.QueueStore`."""
        values = {"token": "", "parked": delay is None, "due": now() + micros(delay or 0.0)}
        if not attempted:
            values["attempts"] = QUEUE.c.attempts - 1
        return await self._change_one(token, values)

    async def extend(self, token: str, seconds: float, /) -> bool:
        """See `stages.QueueStore`."""
        return await self._change_one(token, {"due": now() + micros(seconds)})

    async def _change_one(self, token: str, values: dict[str, Any]) -> bool:
        parsed = _parse(token)
        return parsed is not None and await self._change(_Change(parsed, values))

    async def _put_all(self, connection: AsyncConnection, items: list[_Put]) -> list[bool]:
        if self._locks:  # what is counted must not change, and the order must be that of the commits
            await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtext(f"cek:{self._scope}"))))
        names = sa.select(QUEUE.c.identity, QUEUE.c.parked).where(
            self._mine, QUEUE.c.identity.in_({item.identity for item in items})
        )
        known = {row.identity: row.parked for row in await connection.execute(names)}
        parked = {identity for identity, is_parked in known.items() if is_parked}
        stored = await self._count(connection, [item.capacity for item in items])
        rows: dict[str, dict[str, object]] = {}
        answers = []
        for item in items:
            new = known.get(item.identity, True)
            if new and stored < item.capacity:
                rows[item.identity] = {
                    "identity": item.identity,
                    "key": item.key,
                    "event": _frozen.pack(item.event),
                }
                known[item.identity] = new = False
                stored += 1
            answers.append(not new)
        if rows:
            await self._insert(connection, rows, [identity for identity in rows if identity in parked])
        return answers

    async def _count(self, connection: AsyncConnection, capacities: list[int]) -> int:
        """Return how many are to be done, or more if that leaves room for everything all the same."""
        ends = [
            sa.select(end(QUEUE.c.id)).where(self._mine, _TO_DO).scalar_subquery() for end in (sa.func.min, sa.func.max)
        ]
        first, last = (await connection.execute(sa.select(*ends))).one()
        at_most = 0 if first is None else last - first + 1
        if at_most + len(capacities) <= min(capacities):
            return at_most
        some = sa.select(QUEUE.c.id).where(self._mine, _TO_DO).limit(max(capacities)).subquery()
        return await connection.scalar(sa.select(sa.func.count()).select_from(some)) or 0

    async def _insert(
        self, connection: AsyncConnection, rows: dict[str, dict[str, object]], parked: Sequence[str]
    ) -> None:
        """Put ``rows`` at the end, those that were ``parked``, too."""
        if parked:
            await connection.execute(sa.delete(QUEUE).where(self._mine, QUEUE.c.parked, QUEUE.c.identity.in_(parked)))
        values: dict[str, Any] = {name: sa.bindparam(name) for name in ("identity", "key", "event")}
        await connection.execute(sa.insert(QUEUE).values(scope=self._scope, due=now(), **values), [*rows.values()])

    async def _lease_all(self, connection: AsyncConnection, items: list[_Lease]) -> list[Leased | Exception | None]:
        by_seconds: dict[float, list[_Lease]] = defaultdict(list)
        for item in items:
            by_seconds[item.seconds].append(item)
        answers: dict[int, Leased | Exception | None] = {}
        for seconds, leases in by_seconds.items():
            found = await self._lease_some(connection, seconds, leases)
            answers.update({id(lease): None for lease in leases})
            answers.update({id(lease): event for lease, event in zip(leases, found, strict=False)})
        return [answers[id(item)] for item in items]

    async def _lease_some(
        self, connection: AsyncConnection, seconds: float, leases: list[_Lease]
    ) -> list[Leased | Exception]:
        """Return the first events that are due, at most one for each of ``leases``, in their order."""
        token = leases[0].token
        rows: list[Row] = []
        if leases[0].tried:
            made = sa.select(QUEUE.c.id, QUEUE.c.event, QUEUE.c.attempts)
            rows += await connection.execute(made.where(self._mine, QUEUE.c.token == token, QUEUE.c.due > now()))
        leases[0].tried = True
        given = {"lease": token, "lasts": micros(seconds)}
        if len(rows) < len(leases):
            rows += await connection.execute(self._pick, {**given, "most": len(leases) - len(rows)})
        if len(rows) < len(leases) and (await connection.execute(self._beyond)).first() is not None:
            rows += await connection.execute(self._pick_any, {**given, "most": len(leases) - len(rows)})
        return [_leased(row, token) for row in sorted(rows)]

    async def _ack_all(self, connection: AsyncConnection, leases: list[_Token]) -> list[bool]:
        done = sa.delete(QUEUE).where(self._mine, QUEUE.c.due > now(), sa.tuple_(QUEUE.c.id, QUEUE.c.token).in_(leases))
        gone = set(await connection.scalars(done.returning(QUEUE.c.id)))
        answers = []
        for number, _ in leases:
            answers.append(number in gone)
            gone.discard(number)
        return answers

    async def _change_all(self, connection: AsyncConnection, items: list[_Change]) -> list[bool]:
        answers = []
        for item in items:
            number, token = item.lease
            held = (self._mine, QUEUE.c.id == number, QUEUE.c.token == token, QUEUE.c.due > now())
            answers.append((await connection.execute(sa.update(QUEUE).where(*held).values(item.values))).rowcount == 1)
        return answers


def _leased(row: Row, token: str) -> Leased | Exception:
    try:
        return f"{row.id}.{token}", _frozen.unpack(row.event), row.attempts
    except Exception as error:  # noqa: BLE001 - raised to whoever would have got it
        told = StoreError(f"the event in row {row.id} of cek_queue cannot be read: {error}")
        told.__cause__ = error
        return told


def _parse(token: str) -> _Token | None:
    """Return number and token of what `_leased` told; None for anything else."""
    number, _, name = token.partition(".")
    return (int(number), name) if number.isascii() and number.isdecimal() and len(number) <= 18 and name else None
