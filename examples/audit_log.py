"""Every event is on the disk before it is handled, whatever becomes of it, and nobody can change that afterwards.

    uv run python examples/audit_log.py

The log is in a SQLite file, which each part opens anew.
"""

import asyncio
import logging
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import aiosqlite

from cloudevents_kit import Event, Receiver, Reject, RetryPolicy, Sender, stages
from cloudevents_kit.event_log import EventLog
from cloudevents_kit.stores import Store, open_store

FOR_GOOD = """
CREATE TRIGGER IF NOT EXISTS cek_log_no_update BEFORE UPDATE ON cek_log BEGIN SELECT RAISE(ABORT, 'append only'); END;
CREATE TRIGGER IF NOT EXISTS cek_log_no_delete BEFORE DELETE ON cek_log BEGIN SELECT RAISE(ABORT, 'append only'); END;
"""
PAYMENTS = [
    Event(type="com.example.payment", source="/shop", id=f"payment-{number}", data={"total": total})
    for number, total in enumerate((12.5, -1.0, 99.0), 1)
]


async def receive(store: Store, *events: Event) -> None:
    """Get ``events`` over HTTP, and say how each was answered, and whether it got as far as the handler."""
    log = EventLog(store.event_log)
    handled: list[str] = []

    async def keep(event: Event) -> None:
        await log.append("received", event)

    async def pay(event: Event) -> None:
        handled.append(event.id)
        if event.data["total"] < 0:
            raise Reject("a payment takes nothing away")
        if event.data["total"] > 50:
            raise ConnectionError("the bank does not answer")

    async with AsyncExitStack() as stack:
        receiver = await stack.enter_async_context(Receiver(pay, stages.tap(keep, name="audit"), port=0))
        sender = await stack.enter_async_context(Sender(receiver.url, retry=RetryPolicy.none()))
        for event in events:
            result = await sender.send(event)
            print(f"     {event.id}: {result.status}, handled: {handled.count(event.id)}")


async def main() -> None:
    logging.basicConfig(level=logging.CRITICAL)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "audit.db"

        print("1. Payments come; one of them twice")
        async with open_store(f"sqlite:///{path}") as store:
            async with aiosqlite.connect(path) as file:
                await file.executescript(FOR_GOOD)
            await receive(store, *PAYMENTS, PAYMENTS[0])

        print("2. After a restart, the log has all of them, in their order, each once")
        async with open_store(f"sqlite:///{path}") as store:
            async for record in EventLog(store.event_log).read_all():
                print(f"     {record.position}: {record.event.id} {record.event.data} at {record.at:%Z} time")

        print("3. It takes no changes")
        async with aiosqlite.connect(path) as file:
            for change in ("UPDATE cek_log SET event = x'7b7d'", "DELETE FROM cek_log"):
                try:
                    await file.execute(change)
                except aiosqlite.Error as error:
                    print(f"     {change.split()[0]}: {error}")

        print("4. Without the log nothing is handled: the sender is to come again")
        await receive(open_store(f"sqlite:///{path}"), PAYMENTS[0])  # nobody has opened the store

        print("5. What a stricter rule would have said to them")

        async def stricter(event: Event) -> None:
            if event.data["total"] < 20:
                raise Reject("too little")

        async with open_store(f"sqlite:///{path}") as store:
            report = await EventLog(store.event_log).replay(stricter, on_error="collect")
            for failure in report.failures:
                print(f"     {failure.record.event.id}: {failure.result.status}")


if __name__ == "__main__":
    asyncio.run(main())
