"""A shop with an outbox that is killed at any moment: ``python -m tests.support.outbox_crash URL FILE WHAT NUMBER``.

WHAT is ``shop``: adds orders, each with its event in one transaction, some of which it rolls back, and events without a
transaction, some of them for later, of which it cancels some; and relays at the same time. It is killed NUMBER times,
and comes back once more to relay what is left. Or ``relay``: NUMBER processes only relay, until nothing is left.

FILE gets a line for whatever is sent, before it is acknowledged, and for whatever is stored, after it was.
"""

import asyncio
import os
import random
import sys
import time
from collections.abc import Callable
from functools import partial

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from cloudevents_kit import Ack, Event, Result
from cloudevents_kit.outbox import Outbox
from cloudevents_kit.stores import open_store
from tests.support.lives import begin, end, kill_at

ORDERS = sa.Table("orders", sa.MetaData(), sa.Column("id", sa.Text, primary_key=True))


def order(id: str) -> Event:
    return Event(type="com.example.order.created", source="/shop", id=id, data={"order": id}, partitionkey=id[-1])


class File:
    """A sink that writes a line for each event, whole, whoever else does."""

    concurrency = 20

    def __init__(self, path: str, tell: Callable[[], None], seconds: float) -> None:
        self.tell, self.seconds = tell, seconds
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def line(self, *words: object) -> None:
        os.write(self._file, (" ".join(map(str, (*words, os.getpid(), time.time()))) + "\n").encode())
        self.tell()

    async def send(self, event: Event) -> Result:
        self.line("sent", event.id)
        await asyncio.sleep(self.seconds)
        return Ack()


async def shop(url: str, outbox: Outbox, file: File, first: int) -> None:
    """Add orders, five at a time, until somebody ends it. Of one key, one follows the other."""
    engine = create_async_engine(
        url.replace("sqlite:", "sqlite+aiosqlite:").replace("postgresql:", "postgresql+asyncpg:"),
        **({"connect_args": {"timeout": 30}} if url.startswith("sqlite") else {}),
    )
    chance = random.Random(first)

    async def stored(number: int) -> None:
        await outbox.add(order(f"e{number}"))
        file.line("stored", f"e{number}")

    async def later(number: int) -> None:
        name, delay = f"l{number}", chance.random() * 0.2
        file.line("wanted", name, time.time() + delay)
        await outbox.add(order(name), delay=delay)
        file.line("stored", name)
        if number % 4 == 0:
            file.line("cancelling", name)
            if await outbox.cancel("/shop", name):
                file.line("cancelled", name)

    async def ordered(number: int) -> None:
        name = f"o{number}"
        async with engine.connect() as connection:
            await connection.execute(sa.insert(ORDERS).values(id=name))
            await asyncio.sleep(chance.random() * 0.002)
            await outbox.add(order(name), connection)
            await asyncio.sleep(chance.random() * 0.002)
            if number % 5 == 0:
                await connection.rollback()
            else:
                await connection.commit()
                file.line("committed", name)

    for number in range(first, first + 100_000, 5):
        await asyncio.gather(*((stored, later, ordered)[one % 3](one) for one in range(number, number + 5)))


async def live(url: str, path: str, what: str, first: int, tell: Callable[[], None]) -> None:
    file = File(path, tell, 0.002 if what == "shop" else 0.0)
    lease, batch = (0.5, 50) if what == "shop" else (60.0, 1000)
    async with open_store(url, patience=30) as store:
        outbox = Outbox(
            store.outbox, file, key=lambda event: event.get("partitionkey"), lease=lease, poll=0.02, batch=batch
        )
        async with outbox:
            if what == "shop":
                await shop(url, outbox, file, first)
            while any(await outbox.lag()):  # noqa: ASYNC110 - others empty it, too
                await asyncio.sleep(0.02)


def main(url: str, path: str, what: str, number: str) -> int:
    if what == "shop":
        for life in range(int(number)):
            kill_at(life, partial(live, url, path, what, life * 100_000))
        return end(*begin(partial(live, url, path, "relay", 0)))
    made = [begin(partial(live, url, path, what, 0)) for _ in range(int(number))]
    return max([end(*one) for one in made])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
