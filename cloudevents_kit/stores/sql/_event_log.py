"""The event log, a row for each event, numbered without gaps.

Transactions that append follow each other: SQLite has one writer anyway, and in PostgreSQL they hold an advisory lock
until they are committed. So whoever reads the log up to a position has seen all there will ever be before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zlib import crc32

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from cloudevents_kit import _frozen
from cloudevents_kit._errors import StoreError
from cloudevents_kit._event import Event
from cloudevents_kit._recorded import Appended, Conflict, Inline, Recorded, decide
from cloudevents_kit.stages._memo import identity
from cloudevents_kit.stores.sql._event_log_marks import SqlCheckpoints, SqlSnapshots
from cloudevents_kit.stores.sql._event_log_tables import CHECKPOINTS, LOG, STEP, Shielded, limited, shielded
from cloudevents_kit.stores.sql._group import Lane
from cloudevents_kit.stores.sql._schema import Row, insert, now

__all__ = ["STEP", "SqlEventLogStore"]

_LOCK = 0x63656C  # any number, as long as all releases have the same
#: Seconds after which one who has the lock and says nothing is gone; handlers, and what they execute, have fewer.
_DEAD = 8.0
_LARGEST = (1 << 63) - 1
#: Values that one statement names: drivers take no more than 32,766.
_AT_ONCE = 5000
#: Streams that one statement asks for; columns of a row are limited.
_STREAMS = 128
#: Events that are handed to an inline projection at once.
_PAGE = 500
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(slots=True)
class _Append:
    stream: str
    identities: list[str]
    events: list[bytes]
    expected: int | None
    inline: Mapping[str, Inline]


class SqlEventLogStore:
    """Events for good. See `event_log.EventLogStore`."""

    def __init__(self, lane: Lane, scope: str) -> None:
        """Use `open_store`."""
        self._database = lane.database
        self._scope = scope
        self._append = lane.operation(self._append_all)
        self.checkpoints = SqlCheckpoints(lane.database, scope)
        self.snapshots = SqlSnapshots(lane.database, scope)
        self._mine = LOG.c.scope == scope
        end = sa.select(sa.func.max(LOG.c.position)).where(self._mine)
        latest = sa.select(sa.func.max(LOG.c.at)).where(self._mine, LOG.c.position == end.scalar_subquery())
        self._end = sa.select(end.scalar_subquery(), latest.scalar_subquery(), now())
        lock = sa.func.pg_advisory_xact_lock(_LOCK, _signed(crc32(scope.encode())))
        limits = [limited(name, _DEAD) for name in ("idle_in_transaction_session_timeout", "statement_timeout")]
        self._lock = sa.select(*limits, lock)
        self._versions: dict[int, Any] = {}
        mark = insert(CHECKPOINTS, lane.database).values(
            scope=scope, name=sa.bindparam("name"), position=0, token="", until=0
        )
        self._create_mark = mark.on_conflict_do_nothing()
        of_mark = (CHECKPOINTS.c.scope == scope, CHECKPOINTS.c.name == sa.bindparam("of"))
        self._read_mark = sa.select(CHECKPOINTS.c.position).where(*of_mark).with_for_update()
        self._move_mark = sa.update(CHECKPOINTS).where(*of_mark).values(position=sa.bindparam("to"))

    async def append(
        self, stream: str, events: Sequence[Event], expected: int | None, inline: Mapping[str, Inline], /
    ) -> Appended:
        """See `event_log.EventLogStore`."""
        packed = [_frozen.pack(event) for event in events]
        try:
            return await self._append(_Append(stream, [identity(event) for event in events], packed, expected, inline))
        except Shielded as shield:
            raise shield.error from shield.error.__cause__

    async def read(self, stream: str | None, after: int, most: int, /) -> Sequence[Recorded]:
        """See `event_log.EventLogStore`. Raises StoreError for an event that is damaged."""

        async def work(connection: AsyncConnection) -> Sequence[Row]:
            return await self._page(connection, stream, after, most)

        return [_recorded(row) for row in await self._database.read(work)]

    async def find(self, before: datetime | None, /) -> int:
        """See `event_log.EventLogStore`. Halves what is left: times never go back from one position to the next."""

        async def work(connection: AsyncConnection) -> int:
            first, last = 0, (await connection.execute(self._end)).one()[0] or 0
            if before is None:
                return int(last)
            limit = (before - _EPOCH) // _MICROSECOND
            while first < last:
                middle = (first + last + 1) // 2
                at = await connection.scalar(sa.select(LOG.c.at).where(self._mine, LOG.c.position == middle))
                first, last = (middle, last) if (at or 0) < limit else (first, middle - 1)
            return first

        return await self._database.read(work)

    async def _page(self, connection: AsyncConnection, stream: str | None, after: int, most: int) -> Sequence[Row]:
        number = LOG.c.position if stream is None else LOG.c.version
        of_stream = () if stream is None else (LOG.c.stream == stream,)
        columns = (LOG.c.event, LOG.c.stream, LOG.c.version, LOG.c.position, LOG.c.at)
        behind = (self._mine, *of_stream, number > min(after, _LARGEST))
        return (await connection.execute(sa.select(*columns).where(*behind).order_by(number).limit(most))).all()

    async def _append_all(self, connection: AsyncConnection, items: list[_Append]) -> list[Appended | Exception]:
        """Append what each of ``items`` wants, one after the other, with few statements for all of them."""
        if not self._database.is_sqlite:
            await connection.execute(self._lock)
        found_end, latest, here = (await connection.execute(self._end)).one()
        end, at = found_end or 0, max(here, latest or 0)
        versions = await self._versions_of(connection, sorted({item.stream for item in items}))
        found = await self._found(connection, {identity for item in items for identity in item.identities})
        answers: list[Appended | Exception] = []
        rows: list[dict[str, Any]] = []
        for item in items:
            keys = [(identity, item.stream) for identity in item.identities]
            answer = decide(item.stream, versions[item.stream], item.expected, [found.get(key) for key in keys])
            if answer is None:
                for key, event in zip(keys, item.events, strict=True):
                    end += 1
                    versions[item.stream] += 1
                    found[key] = versions[item.stream], end
                    row = {"scope": self._scope, "position": end, "stream": item.stream, "version": found[key][0]}
                    rows.append({**row, "identity": key[0], "at": at, "event": event})
                answer = Appended(versions[item.stream], end)
            answers.append(answer)
        if rows:
            await connection.execute(sa.insert(LOG), rows)
        inline = {name: work for item in items for name, work in item.inline.items()}
        if any(not isinstance(answer, Conflict) for answer in answers):
            for name in sorted(inline):  # who locks rows in one order never waits in a circle
                await self._hand_over(connection, name, inline[name], end)
        return answers

    async def _versions_of(self, connection: AsyncConnection, streams: list[str]) -> dict[str, int]:
        """Return where each of ``streams`` is; each is one look into an index, whatever its length."""
        found: dict[str, int] = {}
        for first in range(0, len(streams), _STREAMS):
            these = streams[first : first + _STREAMS]
            size = 1 << (len(these) - 1).bit_length()
            if size not in self._versions:
                version = sa.func.coalesce(sa.func.max(LOG.c.version), 0)
                ask = [
                    sa.select(version).where(self._mine, LOG.c.stream == sa.bindparam(f"s{number}")).scalar_subquery()
                    for number in range(size)
                ]
                self._versions[size] = sa.select(*ask)
            asked = {f"s{number}": these[min(number, len(these) - 1)] for number in range(size)}
            row = (await connection.execute(self._versions[size], asked)).one()
            found.update(zip(these, row, strict=False))
        return found

    async def _found(self, connection: AsyncConnection, identities: Iterable[str]) -> dict[tuple[str, str], Any]:
        """Return the version and position of events that are in the log, by identity and stream."""
        found: dict[tuple[str, str], Any] = {}
        ordered = sorted(identities)
        columns = (LOG.c.identity, LOG.c.stream, LOG.c.version, LOG.c.position)
        for first in range(0, len(ordered), _AT_ONCE):
            these = LOG.c.identity.in_(ordered[first : first + _AT_ONCE])
            for row in await connection.execute(sa.select(*columns).where(self._mine, these)):
                found[row.identity, row.stream] = row.version, row.position
        return found

    async def _hand_over(self, connection: AsyncConnection, name: str, work: Inline, end: int) -> None:
        await connection.execute(self._create_mark, {"name": name})
        found = (await connection.execute(self._read_mark, {"of": name})).scalar_one()
        position = found
        while position < end:
            records = [_recorded(row) for row in await self._page(connection, None, position, _PAGE)]
            async with shielded(self._database):
                await work(records, connection)
            position = records[-1].position
        if position != found:
            await connection.execute(self._move_mark, {"of": name, "to": position})


def _recorded(row: Row) -> Recorded:
    try:
        event = _frozen.unpack(row.event)
    except ValueError as error:
        msg = f"the event at position {row.position} of the log cannot be read: restore the database from a backup"
        raise StoreError(msg) from error
    at = _EPOCH + row.at * _MICROSECOND
    return Recorded(event=event, stream=row.stream, version=row.version, position=row.position, at=at)


def _signed(number: int) -> int:
    """Return 32 bits as PostgreSQL has them."""
    return number - (1 << 32) if number >= 1 << 31 else number
