"""A shop with an outbox that is killed at any moment: ``python -m tests.support.outbox_crash URL FILE WHAT FIRST``.

WHAT is ``shop``: adds orders, each with its event in one transaction, some of which it rolls back, and some events
without a transaction, whose ids it writes to FILE once they are stored; and relays at the same time. Or ``relay``: only
relays, until nothing is left, and if FIRST is ``wait`` not before a line has come on its input. Whatever is sent is a
line in FILE, written before it is acknowledged.
"""

import asyncio
import os
import random
import sys

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from cloudevents_kit import Ack, Event, Result
from cloudevents_kit.outbox import Outbox
from cloudevents_kit.stores import open_store

ORDERS = sa.Table("orders", sa.MetaData(), sa.Column("id", sa.Text, primary_key=True))


def order(id: str) -> Event:
    return Event(type="com.example.order.created", source="/shop", id=id, data={"order": id}, partitionkey=id[-1])


class File:
    """A sink that writes a line for each event, whole, whoever else does."""

    concurrency = 20

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def line(self, *words: object) -> None:
        os.write(self._file, (" ".join(map(str, words)) + "\n").encode())

    async def send(self, event: Event) -> Result:
        self.line("sent", event.id, os.getpid())
        await asyncio.sleep(0.002)
        return Ack()


async def shop(url: str, outbox: Outbox, file: File, first: int) -> None:
    """Add orders, five at a time, until somebody ends it."""
    engine = create_async_engine(
        url.replace("sqlite:", "sqlite+aiosqlite:").replace("postgresql:", "postgresql+asyncpg:"),
        **({"connect_args": {"timeout": 30}} if url.startswith("sqlite") else {}),
    )
    chance = random.Random(first)

    async def one(number: int) -> None:
        name = f"o{number}"
        if number % 3 == 0:
            await outbox.add(order(f"e{number}"))
            file.line("stored", f"e{number}")
            return
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
        await asyncio.gather(*(one(number + part) for part in range(5)))


async def main(url: str, path: str, what: str, first: str) -> None:
    file, lease = File(path), float(os.environ.get("LEASE", "0.5"))
    async with open_store(url, patience=30) as store:
        print("begun", flush=True)  # noqa: T201 - to whoever started this
        if first == "wait":
            await asyncio.to_thread(sys.stdin.readline)
        key = (lambda event: event.get("partitionkey")) if what == "shop" else None
        async with Outbox(store.outbox, file, key=key, lease=lease, poll=0.02, batch=50) as outbox:
            if what == "shop":
                await shop(url, outbox, file, int(first))
            while (await outbox.lag()).waiting:  # noqa: ASYNC110 - others empty it, too
                await asyncio.sleep(0.02)
    print("done", flush=True)  # noqa: T201 - as above


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
