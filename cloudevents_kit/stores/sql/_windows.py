"""Windows of `aggregate`: what many events add is read, folded and written in one transaction.

All writers of a scope wait for each other at the row of its mark, so that the limits hold and no fold is lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from cloudevents_kit._arguments import check_count
from cloudevents_kit._tally import Added, Fold, HandOut, Tally, WindowInfo
from cloudevents_kit.stages._memo import safe_key
from cloudevents_kit.stores.sql._group import Lane
from cloudevents_kit.stores.sql._schema import Row, creation
from cloudevents_kit.stores.sql._window_adding import Add, Adding
from cloudevents_kit.stores.sql._window_closing import Closing, tally_of
from cloudevents_kit.stores.sql._window_rows import EVENTS, MARKS, SAME_WINDOW, STATES, WINDOWS, Rows, name_of

STEP = creation(MARKS, WINDOWS, STATES, EVENTS)


class SqlWindowStore:
    """Windows in a database, which several processes may share."""

    def __init__(
        self,
        lane: Lane,
        scope: str,
        *,
        max_windows: int = 1000,
        max_keys: int = 10_000,
        max_events: int = 1_000_000,
        keep: int = 60,
    ) -> None:
        """Use `open_store`. The limits are those of `stores.memory.MemoryWindowStore`."""
        self._rows = Rows(lane, scope)
        self._adding = Adding(
            self._rows,
            max_windows=check_count("max_windows", max_windows),
            max_keys=check_count("max_keys", max_keys),
            max_events=check_count("max_events", max_events, least=0),
        )
        self._closing = Closing(self._rows, keep=check_count("keep", keep, least=0))

    async def add(
        self, start: int, key: str, event: tuple[str, str], values: list[Any], fold: Fold, *, anywhere: bool
    ) -> Added:
        """See `stages.WindowStore.add`."""
        source, number = event
        name = safe_key(f"{len(source)}:{source}{number}")
        return await self._adding.add(Add(start, key, name_of(key), name, values, fold, anywhere))

    async def close(self, before: int, hand_out: HandOut | None) -> list[Exception]:
        """See `stages.WindowStore.close`. Who dies while handing out is waited for a minute."""
        return await self._closing.close(before, hand_out)

    async def read(self, key: str, start: int | None) -> Tally | None:
        """See `stages.WindowStore.read`."""
        columns = (STATES.c.start, STATES.c.key, STATES.c.states, WINDOWS.c.closed, WINDOWS.c.unremembered)
        wanted = (
            sa.select(*columns).join(WINDOWS, SAME_WINDOW).where(self._rows.own(STATES), STATES.c.name == name_of(key))
        )
        if start is not None:
            wanted = wanted.where(STATES.c.start == start)
        newest = wanted.order_by(STATES.c.start.desc()).limit(1)

        async def work(connection: AsyncConnection) -> Row | None:
            return (await connection.execute(newest)).one_or_none()

        row = await self._rows.lane.database.read(work)
        return None if row is None else tally_of(row, closed=row.closed)

    async def windows(self) -> list[WindowInfo]:
        """See `stages.WindowStore.windows`."""
        columns = (WINDOWS.c.start, WINDOWS.c.closed, WINDOWS.c["keys"], WINDOWS.c.events, WINDOWS.c.overflow)
        wanted = sa.select(*columns).where(self._rows.own(WINDOWS)).order_by(WINDOWS.c.start)

        async def work(connection: AsyncConnection) -> Sequence[Row]:
            return (await connection.execute(wanted)).all()

        return [WindowInfo(*row) for row in await self._rows.lane.database.read(work)]

    @property
    def status(self) -> Mapping[str, int]:
        """See `stages.WindowStore.status`: what this process saw when it last added or closed."""
        return dict(self._rows.status)
