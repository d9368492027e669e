"""Orders that fail are kept as dead letters, looked at, and sent again once the cause is mended.

    uv run python examples/dead_letters.py

The letters are in a SQLite file: they would be there after a crash, too, and another program could redrive them.
"""

import asyncio
import logging
import tempfile
from pathlib import Path

from cloudevents_kit import Event, HandlerSink, Nack, Reject, Result, RetryPolicy, Sender, Undelivered, filters, stages
from cloudevents_kit.dead_letter import (
    DeadLetter,
    DeadLetterSink,
    DeadLetterStore,
    Redriven,
    dead_letters,
    forwarded,
    letters,
    purge,
    redrive,
)
from cloudevents_kit.stores import open_store

RETRY = RetryPolicy(attempts=3, initial=0.01)


class Orders:
    """Saves orders, as long as there is a database."""

    is_async_handler = True

    def __init__(self) -> None:
        """Begin without one."""
        self.database = False

    async def __call__(self, event: Event) -> None:
        """Save an order."""
        if event.data["total"] < 0:
            raise Reject("an order costs something")
        if not self.database:
            raise ConnectionError("the database does not answer")
        print(f"     saved {event.id}")


def order(number: int, total: float) -> Event:
    return Event(type="com.example.order.created", source="/shop", id=f"order-{number}", data={"total": total})


def tell(report: Redriven, letter: DeadLetter, result: Result | None) -> None:
    print(f"     {letter.event.id}: {'would be sent' if result is None else result.outcome}")


async def inbound(orders: Orders, store: DeadLetterStore) -> None:
    print("1. Orders fail: each is acknowledged, because it is stored")
    shop = HandlerSink(orders, dead_letters(store, destination="orders"), stages.retry(RETRY))
    for event in (order(1, 9.5), order(2, 12), order(3, -1)):
        print(f"     {event.id}: {(await shop.send(event)).outcome}")


async def outbound(store: DeadLetterStore) -> None:
    print("2. Nobody listens: the sender's caller is told that, and that the event is kept")
    async with Sender("http://127.0.0.1:9/invoices?token=secret", retry=RETRY) as sender:
        result = await DeadLetterSink(sender, store).send(
            Event(type="com.example.invoice.issued", source="/billing", id="invoice-1")
        )
    if isinstance(result, Nack | Undelivered):
        print(f"     invoice-1: {result.outcome}, dead-lettered: {result.dead_lettered}")


async def inspect(store: DeadLetterStore) -> None:
    print("3. What there is, and why")
    async for letter in letters(store):
        why = letter.status or letter.error
        print(f"     {letter.event.id} for {letter.destination}: {why}, {letter.attempts} attempts")
    async for letter in letters(store, filters.exact(id="order-3")):
        extensions = forwarded(letter).extensions
        print(f"     forwarded, {letter.event.id} would say {dict(extensions)}")


async def send_again(orders: Orders, store: DeadLetterStore) -> None:
    only_orders = filters.prefix(type="com.example.order.")
    print("4. A dry run changes nothing")
    print(f"     {await redrive(store, only_orders, to=orders, progress=tell)}")
    orders.database = True
    print("5. The database is back: what is acknowledged is removed, what fails is quarantined in the end")
    for _ in range(2):
        report = await redrive(store, only_orders, to=orders, dry_run=False, attempts=2, rate=100, progress=tell)
        print(f"     {report.delivered} delivered, {report.failed} failed, {report.quarantined} quarantined")


async def main() -> None:
    logging.basicConfig(level=logging.CRITICAL)  # the log has a line for each dead letter, and for what is purged
    orders = Orders()
    with tempfile.TemporaryDirectory() as folder:
        async with open_store(f"sqlite:///{Path(folder) / 'letters.db'}") as opened:
            store = opened.dead_letters
            await inbound(orders, store)
            await outbound(store)
            await inspect(store)
            await send_again(orders, store)
            print("6. The rest is thrown away")
            print(f"     {await purge(store, keep=0)} letters")


if __name__ == "__main__":
    asyncio.run(main())
