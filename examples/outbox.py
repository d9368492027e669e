"""An order is saved together with its event; the event is sent for sure, also by another process after a crash.

uv run python examples/outbox.py
"""

import asyncio
import logging
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from cloudevents_kit import DeliveryError, Event, Receiver, Reject, RetryPolicy, Sender
from cloudevents_kit.outbox import Outbox
from cloudevents_kit.stores import Store, open_store

ORDERS = sa.Table("orders", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True), sa.Column("total", sa.Float))
RETRY = RetryPolicy(attempts=3, initial=0.01)


async def place(engine: AsyncEngine, outbox: Outbox, number: int, total: float) -> None:
    """Save an order: it and its event are in the database both, or neither of them is."""
    async with engine.begin() as connection:
        await connection.execute(sa.insert(ORDERS).values(id=number, total=total))
        await outbox.add(
            Event(type="com.example.order.created", source="/shop", id=f"order-{number}", data={"total": total}),
            connection,
        )
        if total > 1000:
            raise ValueError("too expensive")


async def shop(engine: AsyncEngine, store: Store) -> None:
    print("1. The shop saves orders; nobody needs to listen yet")
    outbox = Outbox(store.outbox)
    for number, total in ((1, 9.5), (2, 5000.0), (3, -1.0), (4, 12.0)):
        try:
            await place(engine, outbox, number, total)
        except ValueError as error:
            print(f"     order {number} is rolled back, and so is its event: {error}")
    print(f"     waiting: {(await outbox.lag()).waiting}")


async def relay(store: Store, url: str) -> None:
    print("2. The relay sends what is there, and keeps what is refused for good apart")

    def lost(event: Event, error: Exception) -> None:
        if isinstance(error, DeliveryError):
            print(f"     not delivered: {event.id}: {error.result.reason}")

    async with Sender(url, retry=RetryPolicy.none()) as sender:
        outbox = Outbox(store.outbox, sender, retry=RETRY, dead_letter=lost, concurrency=1)
        async with outbox:
            while (await outbox.lag()).waiting:  # noqa: ASYNC110 - other processes may empty it, too
                await asyncio.sleep(0.01)
        print(f"     sent: {outbox.counts['sent']}, dead letters: {outbox.counts['dead_lettered']}")


async def main() -> None:
    logging.basicConfig(level=logging.CRITICAL)
    billed: list[str] = []

    async def bill(event: Event) -> None:
        if event.data["total"] < 0:
            raise Reject("an order costs something")
        billed.append(event.id)

    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        store = await stack.enter_async_context(open_store(f"sqlite:///{folder / 'shop.db'}"))
        engine = create_async_engine(f"sqlite+aiosqlite:///{folder / 'shop.db'}")
        stack.push_async_callback(engine.dispose)
        async with engine.begin() as connection:
            await connection.run_sync(ORDERS.metadata.create_all)

        await shop(engine, store)
        async with Receiver(bill, port=0) as receiver:
            await relay(store, f"http://127.0.0.1:{receiver.port}/")
        print(f"     billed: {', '.join(sorted(billed))}")


if __name__ == "__main__":
    asyncio.run(main())
