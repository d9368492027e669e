"""The tables of windows, and what is done to their rows both when events are added and when windows are closed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from cloudevents_kit.stages._memo import safe_key
from cloudevents_kit.stores.sql._group import Lane
from cloudevents_kit.stores.sql._schema import MICROS, Row, insert, table

START = sa.BigInteger()
MARKS = table(
    "cek_window_marks",
    sa.Column("before", START, nullable=False),  # what starts before is closed
    sa.Column("remembered", sa.BigInteger, nullable=False),
)
WINDOWS = table(
    "cek_windows",
    sa.Column("start", START, primary_key=True, autoincrement=False),
    sa.Column("closed", sa.Boolean, nullable=False),
    sa.Column("waiting", sa.Boolean, nullable=False),  # closed, and not all handed out
    sa.Column("keys", sa.BigInteger, nullable=False),
    sa.Column("events", sa.BigInteger, nullable=False),
    sa.Column("unremembered", sa.BigInteger, nullable=False),
    sa.Column("overflow", sa.BigInteger, nullable=False),
)
STATES = table(
    "cek_window_states",
    sa.Column("start", START, primary_key=True, autoincrement=False),
    sa.Column("name", sa.Text, primary_key=True),  # the key, or what stands for a long one
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("states", sa.Text, nullable=False),
    sa.Column("waiting", sa.Boolean, nullable=False, default=True),  # to be handed out, once the window is closed
    sa.Column("token", sa.Text, nullable=False, default=""),  # of who hands it out
    sa.Column("held", MICROS, nullable=False, default=0),  # until then
)
EVENTS = table(
    "cek_window_events",
    sa.Column("event", sa.Text, primary_key=True),
    sa.Column("start", START, primary_key=True, autoincrement=False),
    sa.Index("cek_window_events_start", "scope", "start"),
)
NEVER = -(2**63)
SAME_WINDOW = sa.and_(WINDOWS.c.scope == STATES.c.scope, WINDOWS.c.start == STATES.c.start)


def name_of(key: str) -> str:
    """Return ``key`` as it can be part of an index."""
    return safe_key(key) if key else ""


class Rows:
    """The rows of a scope."""

    def __init__(self, lane: Lane, scope: str) -> None:
        """Have those of ``scope``."""
        self.lane, self.scope = lane, scope
        self.status = dict.fromkeys(("open", "waiting", "closed", "keys", "remembered"), 0)
        """What was last seen."""

    def own(self, part: sa.Table) -> sa.ColumnElement[bool]:
        """Choose the rows of the scope."""
        return part.c.scope == self.scope

    async def lock(self, connection: AsyncConnection) -> Row:
        """Return the mark of the scope; nobody else changes anything of it until the end of the transaction."""
        wanted = sa.select(MARKS).where(self.own(MARKS)).with_for_update()
        row = (await connection.execute(wanted)).one_or_none()
        if row is None:
            new = insert(MARKS, self.lane.database).values(scope=self.scope, before=NEVER, remembered=0)
            await connection.execute(new.on_conflict_do_nothing())
            row = (await connection.execute(wanted)).one()
        return row

    async def upsert(
        self,
        connection: AsyncConnection,
        into: sa.Table,
        key: tuple[str, ...],
        changes: tuple[str, ...],
        rows: Iterable[Mapping[str, Any]],
    ) -> None:
        """Write ``rows``: new ones, or ``changes`` of those that have the ``key``."""
        new = insert(into, self.lane.database)
        upsert = new.on_conflict_do_update(
            index_elements=["scope", *key], set_={name: new.excluded[name] for name in changes}
        )
        await connection.execute(upsert, [{**row, "scope": self.scope} for row in rows])
