"""A receiver stores what comes before it answers 202, and works on it later, also after a crash in the middle of it.

uv run python examples/inbox.py
"""

import asyncio
import logging
import tempfile
from pathlib import Path

from cloudevents_kit import Event, Receiver, Reject, RetryPolicy, Sender, stages
from cloudevents_kit.stores import open_store

RETRY = RetryPolicy(attempts=3, initial=0.01)


async def crash(url: str) -> None:
    """Take events, and end before any of them is handled."""
    begun = asyncio.Event()

    async def hang(event: Event) -> None:
        begun.set()
        await asyncio.Event().wait()

    async with open_store(url) as store:
        inbox = stages.queue(store=store.queue, workers=1, grace=0)
        async with Receiver(hang, inbox, port=0) as receiver, Sender(receiver.url) as sender:
            for number in range(1, 4):
                result = await sender.send(
                    Event(type="com.example.order.created", source="/shop", id=f"order-{number}", data={"n": number})
                )
                print(f"     order-{number}: {result.status}")
            await begun.wait()


async def restart(url: str) -> None:
    """Work on what is there."""
    over: asyncio.Queue[str] = asyncio.Queue()

    async def bill(event: Event) -> None:
        if event.data["n"] == 2:
            raise Reject("nobody can pay that")
        over.put_nowait(f"billed: {event.id}")

    def lost(event: Event, error: Exception) -> None:
        over.put_nowait(f"not billed: {event.id}: {error}")

    async with open_store(url) as store:
        inbox = stages.queue(store=store.queue, workers=1, poll=0.05, retry=RETRY, dead_letter=lost)
        async with Receiver(bill, inbox, port=0):
            for _ in range(3):
                print(f"     {await over.get()}")


async def main() -> None:
    logging.basicConfig(level=logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'inbox.db'}"
        print("1. Billing stores orders, answers, and ends in the middle of the first")
        await crash(url)
        print("2. The next start works on all of them")
        await restart(url)


if __name__ == "__main__":
    asyncio.run(main())
