"""Dead letters, a row each. A letter is leased by an update that names the lease, and gone once it was delivered."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import reduce
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from cloudevents_kit._contract import log
from cloudevents_kit._letters import DeadLetter, pack, unpack
from cloudevents_kit.stores.sql._group import Lane
from cloudevents_kit.stores.sql._schema import METADATA, MICROS, NUMBER, Row, creation, insert, micros, now

LETTERS = sa.Table(
    "cek_dead_letters",
    METADATA,
    sa.Column("position", NUMBER, primary_key=True),
    sa.Column("scope", sa.Text, nullable=False),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("letter", sa.LargeBinary, nullable=False),
    sa.Column("last_at", MICROS, nullable=False),
    sa.Column("redrives", sa.Integer, nullable=False),
    sa.Column("token", sa.Text, nullable=False),  # of the last lease; of the call that wrote it if there is none
    sa.Column("until", MICROS, nullable=False),  # when the lease ends; 0 without one
    sa.Index("cek_dead_letters_id", "scope", "id", unique=True),
    sa.Index("cek_dead_letters_order", "scope", "position"),
    sqlite_autoincrement=True,  # no position is given twice
)
STEP = creation(LETTERS)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def _nonce() -> str:
    return os.urandom(12).hex()


@dataclass(slots=True)
class _Add:
    letter: DeadLetter
    id: str
    nonce: str = field(default_factory=_nonce)


@dataclass(slots=True)
class _Lease:
    id: str
    seconds: float
    token: str = field(default_factory=_nonce)


@dataclass(slots=True)
class _Settle:
    id: str
    token: str
    letter: DeadLetter | None
    nonce: str = field(default_factory=_nonce)
    tried: bool = False
    """True if it may have been done by an earlier attempt."""


class SqlDeadLetterStore:
    """Events that could not be handled or delivered. Leases run by the clock of the database."""

    def __init__(self, lane: Lane, scope: str) -> None:
        """Use `open_store`."""
        self._scope = scope
        self._lane = lane
        self._mine = LETTERS.c.scope == scope
        self._free = LETTERS.c.until <= now()
        self._add = lane.operation(self._add_all)
        self._lease = lane.operation(self._lease_all)
        self._settle = lane.operation(self._settle_all)
        names = ("id", "letter", "last_at", "redrives", "token")
        new = insert(LETTERS, lane.database).values(
            scope=scope, until=0, **{name: sa.bindparam(name) for name in names}
        )
        self._insert = new.on_conflict_do_nothing(index_elements=[LETTERS.c.scope, LETTERS.c.id]).returning(
            LETTERS.c.id
        )
        self._replace = (
            sa.update(LETTERS)
            .where(self._mine, LETTERS.c.id == sa.bindparam("which"))
            .values(until=0, **{name: sa.bindparam(name) for name in names[1:]})
        )

    async def add(self, letter: DeadLetter, /) -> bool:
        """See `dead_letter.DeadLetterStore`; it is full only when the disk is, which raises StoreError."""
        return await self._add(_Add(letter, letter.id))

    async def read(self, after: int, limit: int, /) -> Sequence[DeadLetter]:
        """See `dead_letter.DeadLetterStore`."""
        columns = (LETTERS.c.letter, LETTERS.c.position, LETTERS.c.redrives)
        wanted = sa.select(*columns).where(self._mine).order_by(LETTERS.c.position).limit(limit)

        async def work(connection: AsyncConnection) -> Sequence[Row]:
            return (await connection.execute(wanted.where(LETTERS.c.position > after))).all()

        while rows := await self._lane.database.read(work):
            if found := [letter for row in rows if (letter := _readable(row)) is not None]:
                return found
            after = rows[-1].position
        return []

    async def lease(self, id: str, seconds: float, /) -> tuple[str, DeadLetter] | None:
        """See `dead_letter.DeadLetterStore`."""
        return await self._lease(_Lease(id, seconds))

    async def settle(self, id: str, token: str, letter: DeadLetter | None, /) -> bool:
        """See `dead_letter.DeadLetterStore`."""
        return await self._settle(_Settle(id, token, letter))

    async def purge(self, before: datetime | None, keep: int | None, /) -> int:
        """See `dead_letter.DeadLetterStore`."""
        rules = []
        if before is not None:
            rules.append(LETTERS.c.last_at < _stamp(before))
        if keep is not None:
            newest = sa.select(LETTERS.c.position).where(self._mine).order_by(LETTERS.c.position.desc())
            rules.append(LETTERS.c.position <= newest.offset(keep).limit(1).scalar_subquery())

        async def work(connection: AsyncConnection) -> int:
            found = await connection.execute(sa.delete(LETTERS).where(self._mine, self._free, sa.or_(*rules)))
            return found.rowcount

        return await self._lane.run(work) if rules else 0

    async def _add_all(self, connection: AsyncConnection, items: list[_Add]) -> list[bool | Exception]:
        by_id: dict[str, list[_Add]] = defaultdict(list)
        for item in sorted(items, key=lambda item: item.id):  # all lock the rows in this order
            by_id[item.id].append(item)
        left = [*by_id]
        while left:
            made = await connection.scalars(self._insert, [_written(by_id[id], None) for id in left])
            inserted = set(made.all())
            left = [id for id in left if id not in inserted]
            if left:
                rows = await self._rows(connection, left, LETTERS)
                known = {id: row for id, row in rows.items() if row.token not in {item.nonce for item in by_id[id]}}
                if known:
                    await self._put(connection, [_written(by_id[id], _letter(row)) for id, row in known.items()])
                left = [id for id in left if id not in rows]  # another process has removed it
        return [True] * len(items)

    async def _rows(self, connection: AsyncConnection, ids: Sequence[str], *columns: Any) -> dict[str, Row]:
        """Return the rows that are there, locked."""
        wanted = sa.select(*columns).where(self._mine, LETTERS.c.id.in_(ids)).order_by(LETTERS.c.id).with_for_update()
        return {row.id: row for row in await connection.execute(wanted)}

    async def _put(self, connection: AsyncConnection, values: list[dict[str, Any]]) -> None:
        await connection.execute(self._replace, [{"which": one.pop("id"), **one} for one in values])

    async def _lease_all(
        self, connection: AsyncConnection, items: list[_Lease]
    ) -> list[tuple[str, DeadLetter] | Exception | None]:
        rows = await self._rows(connection, [item.id for item in items], LETTERS, now().label("moment"))
        answers: list[tuple[str, DeadLetter] | Exception | None] = []
        changes: dict[str, dict[str, Any]] = {}
        for item in items:
            row = rows.get(item.id)
            if row is None or item.id in changes or (row.until > row.moment and row.token != item.token):
                answers.append(None)
                continue
            redrives = row.redrives + (row.token != item.token)  # else an earlier attempt has leased it
            answer = _leased(row, item.token, redrives)
            if not isinstance(answer, Exception):
                until = row.moment + micros(item.seconds)
                changes[item.id] = {"which": item.id, "lease": item.token, "ends": until, "times": redrives}
            answers.append(answer)
        if changes:
            change = sa.update(LETTERS).where(self._mine, LETTERS.c.id == sa.bindparam("which"))
            values: dict[str, Any] = {
                "token": sa.bindparam("lease"),
                "until": sa.bindparam("ends"),
                "redrives": sa.bindparam("times"),
            }
            await connection.execute(change.values(**values), [changes[id] for id in sorted(changes)])
        return answers

    async def _settle_all(self, connection: AsyncConnection, items: list[_Settle]) -> list[bool | Exception]:
        rows = await self._rows(connection, [item.id for item in items], LETTERS.c.id, LETTERS.c.token)
        gone: list[str] = []
        changed: list[dict[str, Any]] = []
        answers: list[bool | Exception] = []
        for item in items:
            row = rows.get(item.id)
            if row is None or row.token != item.token:
                # Of two that settle one lease the second comes too late; by an earlier attempt it may be this one.
                answers.append(item.tried and (item.letter is None if row is None else row.token == item.nonce))
                continue
            del rows[item.id]
            answers.append(True)
            if item.letter is None:
                gone.append(item.id)
            else:
                changed.append(_values(item.id, item.letter, item.nonce))
        for item in items:
            item.tried = True
        if gone:
            await connection.execute(sa.delete(LETTERS).where(self._mine, LETTERS.c.id.in_(gone)))
        if changed:
            await self._put(connection, changed)
        return answers


def _written(items: list[_Add], known: DeadLetter | None) -> dict[str, Any]:
    """Return the row for letters with the same id, on top of one that is there."""
    given = [item.letter for item in items]
    letter = reduce(DeadLetter.again, given if known is None else [known, *given])
    return _values(items[0].id, letter, items[-1].nonce)


def _values(id: str, letter: DeadLetter, token: str) -> dict[str, Any]:
    stamp, redrives = _stamp(letter.last_at), letter.redrives
    return {"id": id, "letter": pack(letter), "last_at": stamp, "redrives": redrives, "token": token}


def _stamp(at: datetime) -> int:
    return (at - _EPOCH) // _MICROSECOND


def _letter(row: Row) -> DeadLetter:
    return unpack(bytes(row.letter), position=row.position, redrives=row.redrives)


def _readable(row: Row) -> DeadLetter | None:
    try:
        return _letter(row)
    except ValueError as error:
        log.error("passed over, and still in the store: %s", error)
        return None


def _leased(row: Row, token: str, redrives: int) -> tuple[str, DeadLetter] | Exception:
    try:
        return token, unpack(bytes(row.letter), position=row.position, redrives=redrives)
    except ValueError as error:
        return error
