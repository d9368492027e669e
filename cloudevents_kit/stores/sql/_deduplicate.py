"""Keys of events that are being handled, or are done: a row each, deleted some time after it has run out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from cloudevents_kit.stores.sql._group import Lane
from cloudevents_kit.stores.sql._schema import MICROS, Row, creation, insert, micros, now, table

KEYS = table(
    "cek_keys",
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("token", sa.Text, nullable=False),
    sa.Column("outcome", sa.LargeBinary),  # null while it is being handled
    sa.Column("expires", MICROS, nullable=False),
    sa.Index("cek_keys_expires", "expires"),
)
STEP = creation(KEYS)

#: Rows that are written before those that have run out are looked for, and how many of these go for each.
_SWEEP_AFTER = 100
_SWEEP_FOR_EACH = 4


@dataclass(slots=True)
class _Wanted:
    """A key that somebody claims, or commits if there is an outcome."""

    key: str
    token: str
    outcome: bytes | None
    seconds: float
    tried: bool = False
    """True if it may have been written by an earlier attempt."""


class SqlDedupeStore:
    """Which events are being handled, and which are done. Leases run by the clock of the database."""

    def __init__(self, lane: Lane, scope: str) -> None:
        """Use `open_store`."""
        self._scope = scope
        self._take = lane.operation(self._take_all)
        self._drop = lane.operation(self._drop_all)
        self._mine = KEYS.c.scope == scope
        self._written = 0
        upsert = insert(KEYS, lane.database).values(
            scope=scope,
            key=sa.bindparam("key"),
            token=sa.bindparam("token"),
            outcome=sa.bindparam("outcome"),
            expires=now() + sa.bindparam("lasts", type_=MICROS),
        )
        free = sa.or_(KEYS.c.expires <= now(), sa.and_(KEYS.c.outcome.is_(None), KEYS.c.token == upsert.excluded.token))
        self._upsert = upsert.on_conflict_do_update(
            index_elements=[KEYS.c.scope, KEYS.c.key],
            set_={name: upsert.excluded[name] for name in ("token", "outcome", "expires")},
            where=free,
        ).returning(KEYS.c.key)

    async def claim(self, key: str, token: str, lease: float, /) -> bytes | float | None:
        """See `stages.DedupeStore`."""
        return await self._take(_Wanted(key, token, None, lease))

    async def commit(self, key: str, token: str, outcome: bytes, ttl: float, /) -> bool:
        """See `stages.DedupeStore`."""
        return await self._take(_Wanted(key, token, outcome, ttl)) is None

    async def release(self, key: str, token: str, /) -> None:
        """See `stages.DedupeStore`."""
        await self._drop((key, token))

    async def _take_all(self, connection: AsyncConnection, wanted: list[_Wanted]) -> list[bytes | float | None]:
        """Take each key if it is free; answer with what else was found, as `claim` does."""
        found: dict[int, bytes | float | None] = {}
        left = wanted
        while left:
            first: dict[str, _Wanted] = {}
            for one in left:
                first.setdefault(one.key, one)
            taken = await self._upsert_all(connection, [first[key] for key in sorted(first)])
            found.update({id(first[key]): None for key in taken})
            left = [one for one in left if id(one) not in found]
            states = await self._states(connection, {one.key for one in left}) if left else {}
            told = {id(one): _told(one, states[one.key]) for one in left if one.key in states}
            found.update({number: answer for number, answer in told.items() if answer is not _AGAIN})
            left = [one for one in left if id(one) not in found]
        for one in wanted:
            one.tried = True
        await self._sweep(connection, len(wanted))
        return [found[id(one)] for one in wanted]

    async def _upsert_all(self, connection: AsyncConnection, wanted: list[_Wanted]) -> Sequence[str]:
        """Return the keys that were free. Rows are locked in order, so that no two writers wait for each other."""
        rows = [
            {"key": one.key, "token": one.token, "outcome": one.outcome, "lasts": micros(one.seconds)} for one in wanted
        ]
        return (await connection.scalars(self._upsert, rows)).all()

    async def _states(self, connection: AsyncConnection, keys: Iterable[str]) -> dict[str, Row]:
        columns = (KEYS.c.key, KEYS.c.token, KEYS.c.outcome, (KEYS.c.expires - now()).label("left"))
        found = await connection.execute(sa.select(*columns).where(self._mine, KEYS.c.key.in_(keys)))
        return {row.key: row for row in found}

    async def _sweep(self, connection: AsyncConnection, written: int) -> None:
        """Delete some rows that have run out; in the long run more than are written."""
        self._written += written
        if self._written < _SWEEP_AFTER:
            return
        some, self._written = self._written * _SWEEP_FOR_EACH, 0
        over = sa.select(KEYS.c.scope, KEYS.c.key).where(KEYS.c.expires <= now()).order_by(KEYS.c.expires).limit(some)
        chosen = sa.tuple_(KEYS.c.scope, KEYS.c.key).in_(over.with_for_update(skip_locked=True))
        await connection.execute(sa.delete(KEYS).where(chosen))

    async def _drop_all(self, connection: AsyncConnection, held: list[tuple[str, str]]) -> list[None]:
        mine = sa.delete(KEYS).where(
            self._mine,
            KEYS.c.key == sa.bindparam("held_key"),
            KEYS.c.token == sa.bindparam("held_token"),
            KEYS.c.outcome.is_(None),
        )
        await connection.execute(mine, [{"held_key": key, "held_token": token} for key, token in sorted(held)])
        return [None] * len(held)


_AGAIN: Any = object()


def _told(wanted: _Wanted, row: Row) -> bytes | float | None:
    """Return what a key that was not free is found to be; `_AGAIN` if it has become free."""
    mine = row.token == wanted.token
    if row.left <= 0 or (mine and row.outcome is None):
        return _AGAIN  # type: ignore[no-any-return]
    if row.outcome is None:
        return float(row.left / 1e6)
    done = wanted.tried and mine and row.outcome == wanted.outcome  # by the earlier attempt
    return None if done else bytes(row.outcome)
