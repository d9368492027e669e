"""What durable stores cost, beside what the databases cost alone: the same rows, by the raw drivers, in the same run.

SQLite syncs every commit (synchronous=FULL) and PostgreSQL runs as it is delivered (fsync on).
"""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import count, islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import asyncpg
import sqlalchemy as sa

from cloudevents_kit import Event, Sender, _json
from cloudevents_kit._letters import DeadLetter
from cloudevents_kit.event_log import EventLog, Projection
from cloudevents_kit.outbox import Outbox
from cloudevents_kit.stages._memo import identity
from cloudevents_kit.stores import Store, open_store
from cloudevents_kit.stores.sql._outbox import OUTBOX
from cloudevents_kit.testing._dead_letters import letter
from tests.support.real_servers import Postgres

from . import samples, sink
from .clients import kit_event
from .process import OTHER_CORE, Child, SubjectError, answer
from .rounds import Case, Goal, Sample, alternate, rows
from .table import Row

_IN_FLIGHT: Final = 256
#: Events that are made before the clock runs, for each second of a slice: more than can be written.
_MADE: Final = 60_000
_RELAYED: Final = 2_000
_READ_AGAIN: Final = 20_000
_SENDING: Final = 64
_TOKEN: Final = "0" * 24

_SQLITE: Final = "raw sqlite3, groups of 256"
_POSTGRES: Final = "raw asyncpg, groups of 256"
_ALONE: Final = "raw sqlite3, a commit each"
_SENT: Final = "sender alone"
_BATCHES: Final = "sender alone, batches of 100"
_OUTBOX: Final = "outbox.add"
_LETTER: Final = "dead_letters.add"
_MEMORY: Final = "claim and commit, memory"
_KEYS: Final = "claim and commit, SQLite"

_APPEND: Final = "append, 256 in flight"
_APPEND_VIEW: Final = "append with an inline view"
_READ: Final = "read_all"
_VIEWS: Final = (_APPEND_VIEW, "background view", "background view in transactions")

_CASES: Final = (
    Case("stores", "inserts, 256 in flight, SQLite", "events/s", (_SQLITE, _OUTBOX), (Goal(_OUTBOX, _SQLITE),)),
    Case("stores", "inserts, 256 in flight, PostgreSQL", "events/s", (_POSTGRES, _OUTBOX), (Goal(_OUTBOX, _POSTGRES),)),
    Case(
        "stores",
        "writes one by one, SQLite",
        "writes/s",
        (_ALONE, _OUTBOX, _LETTER),
        (Goal(_OUTBOX, _ALONE), Goal(_LETTER, _ALONE)),
    ),
    Case("stores", "relay to a local sink", "events/s", (_SENT, "relay"), (Goal("relay", _SENT, least=0.8),)),
    Case(
        "stores",
        "relay of batches to a local sink",
        "events/s",
        (_BATCHES, "relay"),
        (Goal("relay", _BATCHES, least=0.8),),
    ),
    Case("stores", "deduplication", "keys/s", (_MEMORY, _KEYS), (Goal(_MEMORY, "", most=3.0),)),
    Case(
        "stores",
        "event log, SQLite",
        "events/s",
        (_SQLITE, _APPEND, _READ, *_VIEWS),
        (Goal(_APPEND, _SQLITE), Goal(_APPEND_VIEW, _SQLITE)),
    ),
)
#: What is wanted of some, however fast the database is.
_LEAST: Final = {(_CASES[0].name, _OUTBOX): 20_000, (_CASES[2].name, _LETTER): 1_000}

_Write = Callable[[Event], Awaitable[object]]


def _events(most: int) -> Iterator[Event]:
    """Make ``most`` events now."""
    return iter([kit_event(samples.small(number)) for number in range(most)])


class _Clock:
    def __init__(self) -> None:
        self._cpu, self._began = time.process_time(), time.perf_counter()

    def sample(self, done: int) -> Sample:
        return Sample(done, time.perf_counter() - self._began, time.process_time() - self._cpu)


async def _tasks(write: _Write, events: Iterator[Event], seconds: float, tasks: int) -> Sample:
    """Let so many tasks write one event after the other."""
    done, clock, until = 0, _Clock(), time.perf_counter() + seconds

    async def one_after_the_other() -> None:
        nonlocal done
        for event in events:
            await write(event)
            done += 1
            if time.perf_counter() >= until:
                return

    await asyncio.gather(*(one_after_the_other() for _ in range(tasks)))
    return clock.sample(done)


#: Of the table of the outbox, with what the raw drivers write into each.
_COLUMNS: Final = {
    column.name: "" if isinstance(column.type, sa.Text) else 1
    for column in OUTBOX.columns
    if column.name != "id" and not column.nullable
}


def _rows(events: Iterator[Event], size: int) -> Iterator[list[tuple[Any, ...]]]:
    """Yield groups of rows."""
    while True:
        made = [{**_COLUMNS, "identity": identity(one), "event": _json.encode(one)} for one in islice(events, size)]
        if not made:
            return
        yield [tuple(row.values()) for row in made]


def _insert(mark: Callable[[int], str]) -> str:
    marks = ", ".join(mark(number) for number in range(1, len(_COLUMNS) + 1))
    return f"INSERT INTO cek_outbox ({', '.join(_COLUMNS)}) VALUES ({marks})"


def _raw_sqlite(folder: str, size: int, seconds: float) -> Sample:
    groups = [*_rows(_events(int(_MADE * min(1.0, size / 50) * seconds) + 1), size)]
    insert = _insert(lambda _: "?")
    with closing(sqlite3.connect(Path(folder, "events.db"), isolation_level=None)) as file:
        file.execute("PRAGMA synchronous=FULL")
        done, clock, until = 0, _Clock(), time.perf_counter() + seconds
        for group in groups:
            file.execute("BEGIN IMMEDIATE")
            file.executemany(insert, group)
            file.execute("COMMIT")
            done += len(group)
            if time.perf_counter() >= until:
                break
        return clock.sample(done)


async def _raw_postgres(url: str, seconds: float) -> Sample:
    groups = [*_rows(_events(int(_MADE * seconds) + 1), _IN_FLIGHT)]
    insert = _insert(lambda number: f"${number}")
    connection = await asyncpg.connect(user="postgres", database="postgres", host=url.partition("?host=")[2])
    try:
        done, clock, until = 0, _Clock(), time.perf_counter() + seconds
        for group in groups:
            async with connection.transaction():
                await connection.executemany(insert, group)
            done += len(group)
            if time.perf_counter() >= until:
                break
        return clock.sample(done)
    finally:
        await connection.close()


async def _relayed(store: Store, url: str, *, batched: bool) -> Sample:
    async with Sender(url, concurrency=_SENDING, max_batch=samples.BATCH_SIZE) as sender:
        outbox = Outbox(store.outbox, sender, batched=batched)
        await asyncio.gather(*map(outbox.add, _events(_RELAYED)))
        clock = _Clock()
        async with outbox:
            while outbox.counts["sent"] < _RELAYED:  # noqa: ASYNC110 - it has no event for that
                await asyncio.sleep(0.002)
            return clock.sample(_RELAYED)


async def _sent(url: str, *, batched: bool) -> Sample:
    events = [*_events(_RELAYED)]
    async with Sender(url, concurrency=_SENDING, max_batch=samples.BATCH_SIZE) as sender:
        clock = _Clock()
        if batched:
            results = await sender.send_batch(events)
        else:
            results = await asyncio.gather(*map(sender.send, events))
        if not all(results):
            raise SubjectError(f"not all were acknowledged: {results[:1]!r}")
        return clock.sample(_RELAYED)


async def _keyed(store: Store, seconds: float, tasks: int) -> Sample:
    keys, number = store.deduplication, count()

    async def turn(_: Event) -> None:
        key = f"https://shop.example.com/orders{next(number):032x}"
        await keys.claim(key, _TOKEN, 30.0)
        await keys.commit(key, _TOKEN, b"", 60.0)

    return await _tasks(turn, _events(int(_MADE * seconds) * (1 if tasks > 1 else 3)), seconds, tasks)


async def _logged(store: Store, subject: str, seconds: float) -> Sample:
    async def view(event: Event) -> None:
        pass

    inline, transaction = subject == _APPEND_VIEW, subject == _VIEWS[2]
    projection = Projection("view", view, delivery="inline" if inline else "background", transaction=transaction)
    log = EventLog(store.event_log, *[projection] * (subject in _VIEWS))
    if subject in {_APPEND, _APPEND_VIEW}:
        return await _tasks(
            lambda event: log.append(event.id, event), _events(int(_MADE * seconds)), seconds, _IN_FLIGHT
        )
    await log.append("orders", _events(_READ_AGAIN))
    clock = _Clock()
    if subject == _READ:
        return clock.sample(len([1 async for _ in log.read_all()]))
    async with log:
        await log.reached("view")
        return clock.sample(_READ_AGAIN)


async def _slice(command: tuple[str, str, float, str, str]) -> Sample:
    case, subject, seconds, server, target = command
    with tempfile.TemporaryDirectory(prefix="stores-") as folder:
        on_server = case == _CASES[1].name
        url = server if on_server else f"sqlite:///{folder}/events.db"
        async with open_store("memory:" if subject == _MEMORY else url) as store:
            if on_server:
                await _emptied(server)
            if subject == _SQLITE:
                return _raw_sqlite(folder, _IN_FLIGHT, seconds)
            if subject == _ALONE:
                return _raw_sqlite(folder, 1, seconds)
            if subject == _POSTGRES:
                return await _raw_postgres(server, seconds)
            if subject in {_SENT, _BATCHES}:
                return await _sent(target, batched=subject == _BATCHES)
            if subject == "relay":
                return await _relayed(store, target, batched=case == _CASES[4].name)
            if subject in {_MEMORY, _KEYS}:
                return await _keyed(store, seconds, 1 if subject == _MEMORY else _IN_FLIGHT)
            if case == _CASES[6].name:
                return await _logged(store, subject, seconds)
            tasks = 1 if case == _CASES[2].name else _IN_FLIGHT
            events = _events(int(_MADE * seconds / (1 if tasks > 1 else 10)) + 1)
            if subject == _LETTER:
                letters = {event.id: letter(event) for event in events}
                return await _tasks(_adding(store, letters), _events(len(letters)), seconds, tasks)
            return await _tasks(lambda event: store.outbox.add(event, key=None), events, seconds, tasks)


def _adding(store: Store, letters: dict[str, DeadLetter]) -> _Write:
    return lambda event: store.dead_letters.add(letters[event.id])


async def _emptied(url: str) -> None:
    connection = await asyncpg.connect(user="postgres", database="postgres", host=url.partition("?host=")[2])
    try:
        await connection.execute("TRUNCATE cek_outbox")
    finally:
        await connection.close()


def work(pipe: Connection) -> None:
    """The subjects' process."""
    with asyncio.Runner() as runner:
        answer(pipe, lambda command: runner.run(_slice(command)))


def _judged(row: Row) -> Row:
    least = _LEAST.get((row.case, row.subject))
    return row if least is None else replace(row, target=f">= {least:,}/s", met=row.value >= least)


def run(rounds: int, seconds: float, failures: list[str]) -> list[Row]:
    """Measure every case; the server and the sink are on the other core."""
    found: list[Row] = []
    server = Postgres().start()
    try:
        with Child(sink.serve, core=OTHER_CORE) as receiving, Child(work, core=None) as child:
            target = f"http://127.0.0.1:{receiving.receive()}/"
            for case in _CASES:

                def measure(subject: str, case: str = case.name) -> Sample:
                    sample: Sample = child.ask((case, subject, seconds, server.url(), target))
                    return sample

                found += map(_judged, rows(case, alternate(case, measure, rounds, failures)))
    finally:
        server.close()
    return found
