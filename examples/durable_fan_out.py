"""One event to everybody who wants it, and none is lost: not by a crash, and not because one of them is down.

    uv run python examples/durable_fan_out.py

The shop stores each order together with its event, and stops. Another process sends what is stored to each subscriber:
search gets the events of one order in their order, the warehouse is down at first, and nobody waits for it.
"""

import asyncio
import logging
import tempfile
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from cloudevents_kit import Event, RetryPolicy, filters
from cloudevents_kit.pubsub import DurableFanOut, Subscription
from cloudevents_kit.stores import open_store

ORDERS = sa.Table("orders", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True))
indexed: list[str] = []
shipped: list[str] = []
warehouse_is_up = asyncio.Event()


async def search(event: Event) -> None:
    indexed.append(f"{event.subject} {event.type.rpartition('.')[2]}")


async def warehouse(event: Event) -> None:
    if not warehouse_is_up.is_set():
        raise ConnectionError("the warehouse does not answer")
    shipped.append(event.subject or "")


def subscriptions() -> list[Subscription]:
    """Who wants what: the same in every process."""
    return [
        Subscription("search", search, key=lambda event: event.subject),
        Subscription(
            "warehouse",
            warehouse,
            filters.suffix(type=".paid"),
            retry=RetryPolicy(attempts=100, initial=0.01, max_delay=0.05),
        ),
    ]


async def shop(database: Path) -> None:
    """Save orders and tell of them. Nothing is sent by this process."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{database}")
    async with open_store(f"sqlite:///{database}") as store:
        async with engine.begin() as connection:
            await connection.run_sync(ORDERS.metadata.create_all)
        fan_out = DurableFanOut(store, subscriptions())
        for number in (1, 2):
            async with engine.begin() as connection:
                await connection.execute(sa.insert(ORDERS).values(id=number))
                for what in ("created", "paid"):
                    event = Event(type=f"com.example.order.{what}", source="/shop", subject=f"order {number}")
                    names = await fan_out.add(event, connection)
                    print(f"  {event.subject} {what}: stored for {', '.join(names)}")
    await engine.dispose()


async def handled(fan_out: DurableFanOut, name: str) -> None:
    while (await fan_out.lag())[name].waiting:  # noqa: ASYNC110 - other processes may do it, too
        await asyncio.sleep(0.01)


async def worker(database: Path) -> None:
    async with (
        open_store(f"sqlite:///{database}") as store,
        DurableFanOut(store, subscriptions(), poll=0.05) as fan_out,
    ):
        await handled(fan_out, "search")
        for order in ("order 1", "order 2"):
            print(f"  search: {', '.join(what for what in indexed if what.startswith(order))}")
        print(f"  the warehouse is behind by {(await fan_out.lag())['warehouse'].waiting}")

        print("The warehouse is back, and catches up:")
        warehouse_is_up.set()
        await handled(fan_out, "warehouse")
        print(f"  shipped: {', '.join(sorted(shipped))}")

        print("A subscriber that goes for good:")
        warehouse_is_up.clear()
        result = await fan_out.send(Event(type="com.example.order.paid", source="/shop", subject="order 3"))
        fan_out.cancel("warehouse")
        print(f"  {result.outcome}, stored for each; deleted: {await fan_out.drop('warehouse')}")


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        print("The shop stores orders and events, and stops:")
        await shop(Path(folder) / "shop.db")
        print("Another process sends what is stored, to each on its own:")
        await worker(Path(folder) / "shop.db")


if __name__ == "__main__":
    logging.basicConfig(level=logging.CRITICAL)  # the log has a traceback for each attempt
    asyncio.run(main())
