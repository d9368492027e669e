"""How windows are closed, and handed out: each key by one caller at a time, until that once went well."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from cloudevents_kit._errors import StoreError
from cloudevents_kit._tally import HandOut, Tally
from cloudevents_kit.stores.sql._schema import Row, from_text, micros, now
from cloudevents_kit.stores.sql._window_rows import EVENTS, MARKS, NEVER, SAME_WINDOW, STATES, WINDOWS, Rows

_LEASE = 60.0
_AT_ONCE = 50


class _Close(NamedTuple):
    before: int
    silently: bool


class _Take(NamedTuple):
    token: str
    after: tuple[int, str]


class _Done(NamedTuple):
    start: int
    name: str
    token: str


class Closing:
    """Closes the windows of a scope."""

    def __init__(self, rows: Rows, *, keep: int) -> None:
        """Keep so many for reading."""
        self._rows, self._keep = rows, keep
        self._close = rows.lane.operation(self._close_all)
        self._take = rows.lane.operation(self._take_all)
        self._done = rows.lane.operation(self._done_all)
        self._hold = rows.lane.operation(self._hold_all)

    async def close(self, before: int, hand_out: HandOut | None) -> list[Exception]:
        """See `stages.WindowStore.close`."""
        await self._close(_Close(before, hand_out is None))
        return [] if hand_out is None else await self._hand_out_all(hand_out)

    async def _close_all(self, connection: AsyncConnection, items: list[_Close]) -> list[None]:
        mark = await self._rows.lock(connection)
        before = max(mark.before, *(item.before for item in items))
        over = sa.select(WINDOWS).where(self._rows.own(WINDOWS), ~WINDOWS.c.closed, WINDOWS.c.start < before)
        windows = (await connection.execute(over)).all()
        if before > mark.before:
            forgotten = sum(row.events - row.unremembered for row in windows)
            changed = {"before": before, "remembered": mark.remembered - forgotten}
            self._rows.status["remembered"] = changed["remembered"]
            await connection.execute(sa.update(MARKS).where(self._rows.own(MARKS)).values(changed))
        if windows:
            starts = [row.start for row in windows]
            await connection.execute(sa.delete(EVENTS).where(self._rows.own(EVENTS), EVENTS.c.start.in_(starts)))
            chosen = (self._rows.own(WINDOWS), WINDOWS.c.start.in_(starts))
            await connection.execute(sa.update(WINDOWS).where(*chosen).values(closed=True, waiting=True))
        if any(item.silently for item in items):
            await self._finish(connection, sa.true())
        await self._count(connection)
        return [None] * len(items)

    async def _finish(self, connection: AsyncConnection, which: sa.ColumnElement[bool]) -> None:
        """Take the windows that wait, those of ``which``, as handed out, and forget the oldest."""
        waiting = sa.select(WINDOWS.c.start).where(self._rows.own(WINDOWS), WINDOWS.c.waiting, which)
        starts = (await connection.scalars(waiting)).all()
        if starts:
            chosen = (self._rows.own(STATES), STATES.c.start.in_(starts), STATES.c.waiting)
            await connection.execute(sa.update(STATES).where(*chosen).values(waiting=False, token=""))
            chosen = (self._rows.own(WINDOWS), WINDOWS.c.start.in_(starts), WINDOWS.c.waiting)
            await connection.execute(sa.update(WINDOWS).where(*chosen).values(waiting=False))
        old = sa.select(WINDOWS.c.start).where(self._rows.own(WINDOWS), WINDOWS.c.closed, ~WINDOWS.c.waiting)
        oldest = (await connection.scalars(old.order_by(WINDOWS.c.start.desc()).offset(self._keep).limit(100))).all()
        for part in (STATES, WINDOWS) if oldest else ():
            await connection.execute(sa.delete(part).where(self._rows.own(part), part.c.start.in_(oldest)))

    async def _hand_out_all(self, hand_out: HandOut) -> list[Exception]:
        errors: list[Exception] = []
        written: list[asyncio.Future[None]] = []
        async with self._holding() as token:
            rows: Sequence[Row] = await self._take(_Take(token, (NEVER, "")))
            while rows:
                for row in rows:
                    try:
                        await hand_out(tally_of(row, closed=True))
                    except Exception as error:  # noqa: BLE001 - the caller reports it, the rest is handed out
                        errors.append(error)
                    else:
                        written.append(self._done.post(_Done(row.start, row.name, token)))
                rows = await self._take(_Take(token, (rows[-1].start, rows[-1].name)))
            done = await asyncio.gather(*written, return_exceptions=True)
        return errors + [error for error in done if isinstance(error, Exception)]

    @asynccontextmanager
    async def _holding(self) -> AsyncIterator[str]:
        """Hold what is taken under a token, however long handing out takes; let go of what is left in the end."""
        token = os.urandom(12).hex()

        async def renew() -> None:
            while True:
                await asyncio.sleep(_LEASE / 3)
                with suppress(StoreError):  # it may last until the next time
                    await self._hold((token, _LEASE))

        renewing = asyncio.create_task(renew())
        try:
            yield token
        finally:
            renewing.cancel()
            with suppress(StoreError):  # else it ends by itself
                await asyncio.shield(self._hold.post((token, 0.0)))
            await asyncio.wait((renewing,))

    async def _take_all(self, connection: AsyncConnection, items: list[_Take]) -> list[Sequence[Row]]:
        """Take some states that are to be handed out, for each of ``items`` others, in their order."""
        await self._rows.lock(connection)
        place = sa.tuple_(STATES.c.start, STATES.c.name)
        columns = (STATES.c.start, STATES.c.name, STATES.c.key, STATES.c.states, WINDOWS.c.unremembered)
        answers = []
        for token, after in items:
            free = sa.or_(STATES.c.held <= now(), STATES.c.token == token)  # as it is if this was tried before
            wanted = (
                sa.select(*columns)
                .join(WINDOWS, SAME_WINDOW)
                .where(
                    self._rows.own(STATES),
                    WINDOWS.c.waiting,
                    STATES.c.waiting,
                    free,
                    place > sa.tuple_(*map(sa.literal, after)),
                )
            )
            rows = (await connection.execute(wanted.order_by(place.clauses[0], place.clauses[1]).limit(_AT_ONCE))).all()
            if rows:
                chosen = (self._rows.own(STATES), place.in_([(row.start, row.name) for row in rows]))
                held = {"token": token, "held": now() + micros(_LEASE)}
                await connection.execute(sa.update(STATES).where(*chosen).values(held))
            answers.append(rows)
        return answers

    async def _done_all(self, connection: AsyncConnection, items: list[_Done]) -> list[None]:
        await self._rows.lock(connection)
        update = sa.update(STATES).where(
            self._rows.own(STATES),
            STATES.c.start == sa.bindparam("of_start"),
            STATES.c.name == sa.bindparam("of_name"),
            STATES.c.token == sa.bindparam("of_token"),
        )
        rows = [{"of_start": item.start, "of_name": item.name, "of_token": item.token} for item in items]
        await connection.execute(update.values(waiting=False, token=""), rows)
        left = sa.exists().where(SAME_WINDOW, STATES.c.waiting)
        await self._finish(connection, ~left)
        await self._count(connection)
        return [None] * len(items)

    async def _hold_all(self, connection: AsyncConnection, items: list[tuple[str, float]]) -> list[None]:
        await self._rows.lock(connection)
        for token, seconds in items:
            held = {"held": now() + micros(seconds)} if seconds else {"held": 0, "token": ""}
            mine = (self._rows.own(STATES), STATES.c.waiting, STATES.c.token == token)
            await connection.execute(sa.update(STATES).where(*mine).values(held))
        return [None] * len(items)

    async def _count(self, connection: AsyncConnection) -> None:
        """Note what `status` tells."""
        parts = sa.select(WINDOWS.c.closed, WINDOWS.c.waiting, sa.func.count(), sa.func.sum(WINDOWS.c["keys"]))
        rows = await connection.execute(
            parts.where(self._rows.own(WINDOWS)).group_by(WINDOWS.c.closed, WINDOWS.c.waiting)
        )
        found = {"open": 0, "waiting": 0, "closed": 0, "keys": 0}
        for closed, waiting, windows, keys in rows:
            found["waiting" if waiting else "closed" if closed else "open"] += windows
            found["keys"] += int(keys)
        self._rows.status.update(found)


def tally_of(row: Row, *, closed: bool) -> Tally:
    """Return the states of a row."""
    return Tally(row.start, from_text(row.key), json.loads(row.states), closed, complete=not row.unremembered)
