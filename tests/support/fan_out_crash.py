"""A shop with a durable fan-out that is killed at any moment: ``python -m tests.support.fan_out_crash URL FILE KILLS``.

This process makes one after the other, and kills it with SIGKILL some time later; the last one only sends what is
left. Whatever happens is a line in FILE, written before it is acknowledged: ``sent ID`` before an event is handed
over, ``acked ID`` when it was taken, ``rolled ID`` when its transaction was rolled back, ``got NAME ID`` when a
subscriber has it. ``plain`` takes all, ``keyed`` all in the order of each partitionkey, ``flaky`` the odd ones, and, in
the first half of the lives, fails with each.
"""

import asyncio
import os
import random
import signal
import sys
import time

import sqlalchemy as sa
import sqlalchemy.dialects.postgresql.asyncpg  # loaded once, for all lives
import sqlalchemy.dialects.sqlite.aiosqlite
from sqlalchemy.ext.asyncio import create_async_engine

from cloudevents_kit import Ack, Event, Nack, Result, RetryPolicy
from cloudevents_kit.pubsub import DurableFanOut, Subscription
from cloudevents_kit.stores import open_store
from cloudevents_kit.stores.sql import SqlStore  # noqa: F401 - as above

KEYS = 5
RETRY = RetryPolicy(attempts=10_000, initial=0.005, max_delay=0.05)


class File:
    """Takes lines, and says by a byte through ``progress`` when something was acknowledged."""

    def __init__(self, path: str, progress: int) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._progress = progress

    def line(self, *words: object) -> None:
        os.write(self._file, (" ".join(map(str, words)) + "\n").encode())

    def acked(self, number: int) -> None:
        self.line("acked", number)
        os.write(self._progress, b".")


class Subscriber:
    def __init__(self, name: str, file: File, chance: random.Random, failing: float = 0.0) -> None:
        self.name, self.file, self.chance, self.failing = name, file, chance, failing

    async def send(self, event: Event, /) -> Result:
        await asyncio.sleep(self.chance.random() * 0.002)
        if self.chance.random() < self.failing:
            return Nack(503, "not now", retryable=True)
        self.file.line("got", self.name, event.id)
        await asyncio.sleep(self.chance.random() * 0.002)
        return Ack()


def new(number: int) -> Event:
    return Event(type="com.example.order.created", source="/shop", id=str(number), partitionkey=str(number % KEYS))


def is_odd(event: Event) -> bool:
    return int(event.id) % 2 == 1


async def publish(fan_out: DurableFanOut, file: File, first: int) -> None:
    """Hand over the events of one key, one after the other."""
    for number in range(first, first + 100_000, KEYS):
        file.line("sent", number)
        if await fan_out.send(new(number)) == Ack(status=202):
            file.acked(number)


async def transact(fan_out: DurableFanOut, file: File, first: int, url: str) -> None:
    """Do the same in transactions, some of which are rolled back."""
    engine = create_async_engine(
        url.replace("sqlite:", "sqlite+aiosqlite:").replace("postgresql:", "postgresql+asyncpg:"),
        **({"connect_args": {"timeout": 30}} if url.startswith("sqlite") else {}),
    )
    orders = sa.table("orders", sa.column("id"))
    for number in range(first, first + 100_000, KEYS):
        file.line("sent", number)
        async with engine.connect() as connection:
            await connection.execute(orders.insert().values(id=number))
            await fan_out.add(new(number), connection)
            if number % 3 == 0:
                await connection.rollback()
                file.line("rolled", number)
            else:
                await connection.commit()
                file.acked(number)


async def live(url: str, path: str, life: int, kills: int, progress: int) -> None:
    file, chance = File(path, progress), random.Random(life)
    failing = 1.0 if life < kills // 2 else 0.2 if life < kills else 0.0
    async with open_store(url, patience=30) as store:
        fan_out = DurableFanOut(
            store,
            [
                Subscription("plain", Subscriber("plain", file, chance), retry=RETRY),
                Subscription(
                    "keyed", Subscriber("keyed", file, chance), retry=RETRY, key=lambda event: event.get("partitionkey")
                ),
                Subscription(
                    "flaky",
                    Subscriber("flaky", file, chance, failing),
                    lambda event: int(event.id) % 2 == 1,
                    retry=RETRY,
                ),
            ],
            lease=1.0,
            batch=50,
            poll=0.02,
        )
        async with fan_out:
            if life < kills:
                first = life * 100_000
                await asyncio.gather(
                    transact(fan_out, file, first, url),
                    *(publish(fan_out, file, first + key) for key in range(1, KEYS)),
                )
            while any(lag.waiting for lag in (await fan_out.lag()).values()):  # noqa: ASYNC110 - as others see it
                await asyncio.sleep(0.02)


def main(url: str, path: str, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    for life in range(kills + 1):
        progress, tell = os.pipe()
        child = os.fork()
        if not child:
            os.close(progress)
            code = 1
            try:
                asyncio.run(live(url, path, life, kills, tell))
                code = 0
            finally:
                os._exit(code)
        os.close(tell)
        if life < kills:
            if life % 5:  # the others are killed while they open the store, as a rule
                for _ in range(chance.randrange(40)):
                    os.read(progress, 1)
            time.sleep(chance.uniform(0.0, 0.02))
            os.kill(child, signal.SIGKILL)
        os.close(progress)
        _, status = os.waitpid(child, 0)
        wanted = -signal.SIGKILL if life < kills else 0
        if os.waitstatus_to_exitcode(status) != wanted:
            raise SystemExit(f"life {life} of seed {seed} ended with {status}, not by its kill")
    print("done", flush=True)  # noqa: T201 - to whoever started this


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
