"""How events are added to windows: those of one transaction at once, each as `MemoryWindowStore` adds one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from cloudevents_kit._tally import Added, Fold
from cloudevents_kit.stores.sql._group import Operation
from cloudevents_kit.stores.sql._schema import Row, to_text
from cloudevents_kit.stores.sql._window_rows import EVENTS, MARKS, STATES, WINDOWS, Rows

_COUNTS = ("closed", "waiting", "keys", "events", "unremembered", "overflow")


@dataclass(slots=True)
class Add:
    """An event that is to be added; ``name`` stands for its key, ``event`` for source and id."""

    start: int
    key: str
    name: str
    event: str
    values: list[Any]
    fold: Fold
    anywhere: bool


class _View:
    """What the events of one transaction need to know of the windows, and what they change."""

    def __init__(self, mark: Row, unfinished: int, keys: int) -> None:
        self.before: int = mark.before
        self.remembered: int = mark.remembered
        self.unfinished = unfinished
        """Windows that are open, or wait to be handed out."""
        self.keys = keys
        """Of all windows."""
        self.windows: dict[int, dict[str, Any]] = {}
        self.states: dict[tuple[int, str], list[Any]] = {}
        self.seen: dict[str, set[int]] = {}
        """The open windows that have counted an event."""
        self.changed: dict[tuple[int, str], str] = {}
        """Keys that have new states."""
        self.counted: list[tuple[str, int]] = []


class Adding:
    """Adds events to the windows of a scope."""

    def __init__(self, rows: Rows, *, max_windows: int, max_keys: int, max_events: int) -> None:
        """Take the limits."""
        self._rows = rows
        self._max_windows, self._max_keys, self._max_events = max_windows, max_keys, max_events
        self.add: Operation[Add, Added] = rows.lane.operation(self._add_all)

    async def _add_all(self, connection: AsyncConnection, items: list[Add]) -> list[Added | Exception]:
        view = await self._view(connection, items)
        answers: list[Added | Exception] = []
        for item in items:
            try:
                answers.append(self._fold(view, item))
            except Exception as error:  # noqa: BLE001 - raised to whoever gave the fold
                answers.append(error)
        await self._keep_view(connection, view)
        return answers

    async def _view(self, connection: AsyncConnection, items: list[Add]) -> _View:
        view = _View(await self._rows.lock(connection), *await self._sums(connection))
        starts = {item.start for item in items}
        found = await connection.execute(sa.select(WINDOWS).where(self._rows.own(WINDOWS), WINDOWS.c.start.in_(starts)))
        view.windows = {row["start"]: dict(row) for row in found.mappings()}
        events = sa.select(EVENTS.c.event, EVENTS.c.start).where(
            self._rows.own(EVENTS), EVENTS.c.event.in_({item.event for item in items})
        )
        for event, start in await connection.execute(events):
            view.seen.setdefault(event, set()).add(start)
        if view.windows:
            names = {(item.start, item.name) for item in items}
            states = sa.select(STATES.c.start, STATES.c.name, STATES.c.states).where(
                self._rows.own(STATES), sa.tuple_(STATES.c.start, STATES.c.name).in_(names)
            )
            view.states = {(row[0], row[1]): json.loads(row[2]) for row in await connection.execute(states)}
        return view

    def _fold(self, view: _View, item: Add) -> Added:
        """Do for one event what `MemoryWindowStore` does."""
        window = view.windows.get(item.start)
        if item.start < view.before:
            return "late"
        if window is None:
            if view.unfinished >= self._max_windows:
                return "overflow"
            window = {**dict.fromkeys(_COUNTS, 0), "start": item.start, "closed": False, "waiting": False}
        seen = view.seen.get(item.event, ())
        if item.start in seen or (item.anywhere and seen):
            return "repeated"
        place = (item.start, item.name)
        states = view.states.get(place)
        if states is None and window["keys"] >= self._max_keys:
            window["overflow"] += 1
            return "overflow"
        view.states[place] = item.fold(item.values, states)
        view.changed[place] = item.key
        window["keys"] += states is None
        view.keys += states is None
        window["events"] += 1
        if item.start not in view.windows:
            view.windows[item.start] = window
            view.unfinished += 1
        if view.remembered >= self._max_events:
            window["unremembered"] += 1
            return "unremembered"
        view.remembered += 1
        view.seen.setdefault(item.event, set()).add(item.start)
        view.counted.append((item.event, item.start))
        return "counted"

    async def _keep_view(self, connection: AsyncConnection, view: _View) -> None:
        if view.windows:
            await self._rows.upsert(connection, WINDOWS, ("start",), _COUNTS, view.windows.values())
        rows: list[dict[str, Any]] = [
            {"start": start, "name": name, "key": to_text(key), "states": json.dumps(view.states[start, name])}
            for (start, name), key in view.changed.items()
        ]
        if rows:
            await self._rows.upsert(connection, STATES, ("start", "name"), ("states",), rows)
        if view.counted:
            events = [{"scope": self._rows.scope, "event": event, "start": start} for event, start in view.counted]
            await connection.execute(sa.insert(EVENTS), events)
            await connection.execute(sa.update(MARKS).where(self._rows.own(MARKS)).values(remembered=view.remembered))
        status = self._rows.status
        status["remembered"], status["open"] = view.remembered, view.unfinished - status["waiting"]
        status["keys"] = view.keys

    async def _sums(self, connection: AsyncConnection) -> tuple[int, int]:
        """Return how many windows are open or wait to be handed out, and how many keys all have."""
        unfinished = sa.case((sa.or_(~WINDOWS.c.closed, WINDOWS.c.waiting), 1), else_=0)
        sums = sa.select(sa.func.sum(unfinished), sa.func.sum(WINDOWS.c["keys"])).where(self._rows.own(WINDOWS))
        found, keys = (await connection.execute(sums)).one()
        return int(found or 0), int(keys or 0)
