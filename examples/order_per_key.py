"""What happens to one parcel is told in its order, across failures and a restart; parcels do not wait for each other.

    uv run python examples/order_per_key.py

The shop's outbox sends the events of a parcel one after the other, the inbox of tracking works on them likewise. Both
are in SQLite files; the second part opens them anew, as another process would.
"""

import asyncio
import logging
import tempfile
from collections import defaultdict
from contextlib import AsyncExitStack
from pathlib import Path

from cloudevents_kit import Event, Receiver, Retry, RetryPolicy, Sender, stages
from cloudevents_kit.outbox import Outbox
from cloudevents_kit.stores import open_store

SOON = RetryPolicy(attempts=1000, initial=0.05, factor=1)
STEPS = ("created", "packed", "shipped")
PARCELS = ("parcel 7", "parcel 8", "parcel 9")


def parcel(event: Event) -> str | None:
    return event.subject


async def shop(folder: Path) -> None:
    """Tell each step of all parcels. Nobody needs to listen yet."""
    async with open_store(f"sqlite:///{folder / 'shop.db'}") as store:
        outbox = Outbox(store.outbox, key=parcel)
        for step in STEPS:
            for name in PARCELS:
                await outbox.add(Event(type=f"com.example.parcel.{step}", source="/shop", subject=name))


async def run(folder: Path, *, scanner_works: bool, until: int) -> dict[str, list[str]]:
    """Relay and track until ``until`` events are done, then stop; return what was done with each parcel."""
    done: defaultdict[str, list[str]] = defaultdict(list)
    enough = asyncio.Event()

    async def track(event: Event) -> None:
        step = event.type.rpartition(".")[2]
        if (event.subject, step) == ("parcel 7", "packed") and not scanner_works:
            raise Retry(reason="the scanner is broken")
        done[str(event.subject)].append(step)
        if sum(map(len, done.values())) == until:
            enough.set()

    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(open_store(f"sqlite:///{folder / 'shop.db'}"))
        theirs = await stack.enter_async_context(open_store(f"sqlite:///{folder / 'tracking.db'}"))
        inbox = stages.queue(store=theirs.queue, key=parcel, workers=4, retry=SOON, poll=0.05)
        receiver = await stack.enter_async_context(Receiver(track, inbox, port=0))
        sender = await stack.enter_async_context(Sender(receiver.url, retry=RetryPolicy.none()))
        await stack.enter_async_context(Outbox(ours.outbox, sender, key=parcel, retry=SOON, poll=0.05))
        await enough.wait()
    return done


def show(done: dict[str, list[str]]) -> None:
    for name in sorted(done):
        print(f"     {name}: {', '.join(done[name])}")


async def main() -> None:
    logging.basicConfig(level=logging.CRITICAL)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        await shop(folder)
        print("1. The scanner fails for parcel 7: what follows waits for it, the other parcels do not")
        show(await run(folder, scanner_works=False, until=7))
        print("2. After a restart, parcel 7 goes on where it was")
        show(await run(folder, scanner_works=True, until=2))


if __name__ == "__main__":
    asyncio.run(main())
