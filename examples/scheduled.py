"""Reminders are stored when an order comes, sent days later, and cancelled when it is paid before.

    uv run python examples/scheduled.py

Days are half seconds here. What waits is in the database: the process may end meanwhile, and another one send it.
"""

import asyncio
import logging
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cloudevents_kit import Event, HandlerSink
from cloudevents_kit.outbox import Outbox
from cloudevents_kit.stores import open_store

DAY = 0.5


def reminder(order: int) -> Event:
    return Event(type="com.example.payment.due", source="/shop", id=f"order-{order}")


async def take_orders(url: str) -> None:
    async with open_store(url) as store:
        outbox = Outbox(store.outbox)  # this process only adds
        await outbox.add(reminder(1), delay=2 * DAY)
        await outbox.add(reminder(2), delay=2 * DAY)
        await outbox.add(reminder(3), at=datetime.now(UTC) + timedelta(seconds=3 * DAY))
        lag = await outbox.lag()
        print(f"1. Stored: {lag.scheduled} reminders for later, {lag.waiting} to be sent now")


async def take_payments(url: str) -> None:
    async with open_store(url) as store:
        outbox = Outbox(store.outbox)
        print("2. After a restart, order 2 is paid")
        print(f"     its reminder is cancelled: {await outbox.cancel('/shop', 'order-2')}")
        print(f"     and a second time: {await outbox.cancel('/shop', 'order-2')}")


async def remind(url: str) -> None:
    print("3. After another restart, the others are sent when they are due")

    async def send(event: Event) -> None:
        print(f"     reminded: {event.id}")

    async with open_store(url) as store:
        outbox = Outbox(store.outbox, HandlerSink(send), poll=DAY / 10)
        async with outbox:
            while any(await outbox.lag()):  # noqa: ASYNC110 - other processes may empty it, too
                await asyncio.sleep(DAY / 10)


async def main() -> None:
    logging.basicConfig(level=logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'shop.db'}"
        await take_orders(url)
        await take_payments(url)
        await remind(url)


if __name__ == "__main__":
    asyncio.run(main())
