"""A shop whose log is made views of, and that is killed: ``python -m tests.support.event_log_crash URL FILE KILLS``.

Each life first appends again whatever the one before was not told the end of. A line in FILE says what is tried, what
was acknowledged, and what a projection without a transaction has got. The last life ends when all are up to date.
"""

import asyncio
import os
import random
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import sqlalchemy as sa

from cloudevents_kit import Event
from cloudevents_kit.event_log import EventLog, Projection, current_connection, current_record
from cloudevents_kit.stores import open_store
from tests.support.lives import begin, end, kill_at
from tests.support.sql import execute

STREAMS, BATCH = 4, 10
VIEWS = [
    sa.Table(name, sa.MetaData(), *(sa.Column(column, sa.Text) for column in ("stream", "id", "version")))
    for name in ("inline_view", "background_view")
]


def event(id: str) -> Event:
    return Event(type="com.example.order.created", source="/shop", id=id, data={"order": id})


def unanswered(path: str) -> list[tuple[str, list[str]]]:
    """Return what was tried and not acknowledged, in its order."""
    words = [line.split() for line in Path(path).read_text().splitlines()] if Path(path).exists() else []
    acknowledged = {tuple(rest[:-1]) for word, *rest in words if word == "acknowledged"}
    return [(rest[0], rest[1:]) for word, *rest in words if word == "tried" and tuple(rest) not in acknowledged]


class Shop:
    """Appends to its streams until it is killed."""

    def __init__(self, path: str, number: int, tell: Callable[[], None]) -> None:
        self.number, self.tell = number, tell
        self.file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.left = unanswered(path)

    def line(self, *words: object) -> None:
        os.write(self.file, (" ".join(map(str, words)) + "\n").encode())

    def projections(self) -> list[Projection]:
        async def write(view: sa.Table, event: Event) -> None:
            record = current_record()
            values = {"stream": record.stream, "id": event.id, "version": f"{record.version}"}
            await current_connection().execute(sa.insert(view).values(values))
            self.tell()

        async def got(event: Event) -> None:
            self.line("got", current_record().position, event.id)
            self.tell()

        given = {"lease": 30.0, "poll": 0.02, "batch": BATCH}
        return [
            Projection("inline", partial(write, VIEWS[0]), delivery="inline"),
            Projection("background", partial(write, VIEWS[1]), transaction=True, **given),  # type: ignore[arg-type]
            Projection("loose", got, **given),  # type: ignore[arg-type]
        ]

    async def append(self, log: EventLog, stream: str, ids: list[str], expected: int | None) -> int:
        done = await log.append(stream, [event(id) for id in ids], expected=expected)
        self.line("acknowledged", stream, *ids, done.position)
        self.tell()
        return done.version

    async def run(self, log: EventLog, stream: str) -> None:
        chance, version = random.Random(f"{self.number} {stream}"), 0
        async for record in log.read(stream):
            version = record.version
        for number in range(100_000):
            ids = [f"{self.number}.{stream}.{number}.{part}" for part in range(chance.randint(1, 3))]
            self.line("tried", stream, *ids)
            version = await self.append(log, stream, ids, version if number % 2 else None)


async def live(url: str, path: str, number: int, tell: Callable[[], None]) -> None:
    shop = Shop(path, number, tell)
    async with (
        open_store(url, patience=30) as store,
        EventLog(store.event_log, *shop.projections()) as log,
    ):
        await execute(url, "UPDATE cek_log_checkpoints SET until = 0")  # as if the lease of the dead had run out
        for stream, ids in shop.left:
            await shop.append(log, stream, ids, None)
        if number >= 0:
            await asyncio.gather(*(shop.run(log, f"s{stream}") for stream in range(STREAMS)))
        for name in ("background", "loose"):
            await log.reached(name)


def main(url: str, path: str, kills: str) -> None:
    for number in range(int(kills)):
        kill_at(number, partial(live, url, path, number))
    assert end(*begin(partial(live, url, path, -1))) == 0


if __name__ == "__main__":
    main(*sys.argv[1:])
